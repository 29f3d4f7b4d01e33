//! Hooks around an opcode's effect: the master has itself confirmed (P1.10), then the nodes' nodeds run them. A failure before
//! the effect prevents it; one after it is told. Nodes that do not answer are told, and prevent nothing.
//!
//! An opcode calls [`Cx::pre_hooks`] when all is checked and nothing done, and [`Cx::post_hooks`] when all is done. A job that
//! dies in between runs no hooks after it: who must know what became of it looks at the job.

use crate::core::hooks::{Failed, Hooks, abort, failed};
use crate::core::together::together;
use crate::error::OpFail;
use crate::io::nodes::NodeFail;
use crate::ops::Cx;
use gantry_model::config::Node;
use gantry_proto::effects::{HookEnd, HookPhase, HooksRunRequest};
use gantry_proto::envelope::Code;
use gantry_proto::noded::HooksRun;
use gantry_proto::wconfd::Command;
use std::time::{Duration, Instant};

/// How long a node may take for all hooks of a phase: what its noded allows them, and a little.
const HOOKS_CALL: Duration = Duration::from_secs(150);
/// How long a node that is not reached, or says that it can't now, is asked again before the effect: its noded is being
/// started anew, or this master has not claimed it yet. After that it is taken for dead.
const PATIENCE: Duration = Duration::from_secs(5);
/// Pause between two questions.
const AGAIN: Duration = Duration::from_millis(200);
/// Nodes asked at once.
const NODES_AT_ONCE: usize = 32;

/// How a node answered.
enum Answer {
    Ran(Vec<HookEnd>),
    /// Whether its hooks said something is not known.
    Away(String),
    /// It has none to run.
    Unable(String),
    /// It can't run them.
    Bad(String),
}

impl Cx<'_> {
    /// Runs the hooks that may prevent the effect.
    ///
    /// # Errors
    /// `HooksAbort` when one fails; the master's, when nobody confirms it.
    pub async fn pre_hooks(&mut self, hooks: &Hooks) -> Result<(), OpFail> {
        let bad = self.run_hooks(hooks, HookPhase::Pre).await?;
        if bad.is_empty() { Ok(()) } else { Err(OpFail::Error(abort(&bad))) }
    }

    /// As [`Self::pre_hooks`], when wconfd would not refuse the commands anyway.
    ///
    /// # Errors
    /// As there; what wconfd has against the commands.
    pub async fn check_and_pre_hooks(&mut self, hooks: &Hooks, change: &Vec<Command>) -> Result<(), OpFail> {
        self.master.check(change).await?;
        self.pre_hooks(hooks).await
    }

    /// Carries out commands that are all of an opcode's effect, with its hooks around them.
    ///
    /// # Errors
    /// As [`Self::check_and_pre_hooks`].
    pub async fn apply_between(&mut self, hooks: &Hooks, change: Vec<Command>) -> Result<(), OpFail> {
        self.check_and_pre_hooks(hooks, &change).await?;
        self.apply(change).await?;
        self.post_hooks(hooks).await
    }

    /// Runs the hooks after the effect.
    ///
    /// # Errors
    /// Only when there is another master.
    pub async fn post_hooks(&mut self, hooks: &Hooks) -> Result<(), OpFail> {
        for one in self.hooks_after(hooks).await? {
            let said = if one.output.is_empty() { "(no output)" } else { &one.output };
            self.warn(format!("On {} script {} failed, output: {said}", one.node, one.script));
        }
        Ok(())
    }

    /// Runs the hooks after the effect; those that failed.
    ///
    /// # Errors
    /// Only when there is another master.
    pub async fn hooks_after(&mut self, hooks: &Hooks) -> Result<Vec<Failed>, OpFail> {
        match self.run_hooks(hooks, HookPhase::Post).await {
            Err(OpFail::Error(why)) => {
                self.warn(format!("the hooks {}-post.d were not run: {why}", hooks.path));
                Ok(Vec::new())
            }
            other => other,
        }
    }

    async fn run_hooks(&mut self, hooks: &Hooks, phase: HookPhase) -> Result<Vec<Failed>, OpFail> {
        if !hooks.run_in(phase) {
            return Ok(Vec::new());
        }
        let (cluster, all) = (self.master.cluster().await?, self.master.nodes().await?);
        let master = all.iter().find(|node| node.uuid == self.go().master);
        let nodes = hooks.nodes(phase, master);
        let master = master.map(|node| node.name.clone()).unwrap_or_default();
        self.master.confirm().await?;
        let request = HooksRunRequest {
            fence: self.nodes.fence(),
            path: hooks.path.to_owned(),
            phase,
            env: hooks.variables(phase, &cluster.cluster_name, &master),
        };
        let mut bad = Vec::new();
        for some in nodes.chunks(NODES_AT_ONCE) {
            let answers = together(some.iter().map(|node| self.hooks_there(node, &request))).await;
            for (node, answer) in some.iter().zip(answers) {
                match answer? {
                    Answer::Ran(ends) => bad.extend(failed(node, ends)),
                    Answer::Away(why) | Answer::Unable(why) => {
                        self.warn(format!("Communication failure to node {}: {why}", node.name));
                    }
                    Answer::Bad(output) => {
                        let script = format!("{}-{}.d", hooks.path, phase.as_str());
                        bad.push(Failed { node: node.name.clone(), script, output });
                    }
                }
            }
        }
        Ok(bad)
    }

    /// Asks until the node answers, or [`PATIENCE`] is over; on the master it always answers, or the effect does not come.
    async fn hooks_there(&self, node: &Node, request: &HooksRunRequest) -> Result<Answer, OpFail> {
        if request.phase == HookPhase::Post {
            return self.ask_hooks(node, request).await;
        }
        let mut since = None;
        loop {
            let asked = Instant::now();
            let why = match self.ask_hooks(node, request).await? {
                Answer::Away(why) => why,
                answer => return Ok(answer),
            };
            // From the first answer that failed: a hook may have run for long before its noded died.
            let since = *since.get_or_insert_with(Instant::now);
            if since.elapsed() < PATIENCE && asked.elapsed() < HOOKS_CALL {
                tokio::time::sleep(AGAIN).await;
            } else if node.uuid == self.go().master {
                return Ok(Answer::Bad(format!("(not run: {why})")));
            } else {
                return Ok(Answer::Away(why));
            }
        }
    }

    async fn ask_hooks(&self, node: &Node, request: &HooksRunRequest) -> Result<Answer, OpFail> {
        match self.nodes.ask::<HooksRun>(node, request, HOOKS_CALL).await {
            Ok(ends) => Ok(Answer::Ran(ends)),
            Err(NodeFail::Away(why)) => Ok(Answer::Away(why)),
            Err(NodeFail::Refused(fail)) => match fail.code {
                Code::Fenced => Err(OpFail::Fenced(fail.text)),
                // A node of an older release.
                Code::UnknownVerb => Ok(Answer::Unable("its noded knows no hooks".to_owned())),
                Code::NotReady | Code::Busy | Code::Unknown | Code::Deadline => Ok(Answer::Away(fail.text)),
                Code::BadRequest
                | Code::Denied
                | Code::Ganeti
                | Code::Stale
                | Code::NotFound
                | Code::Internal => Ok(Answer::Bad(fail.text)),
            },
            Err(NodeFail::Broken(why)) => Err(why),
        }
    }
}
