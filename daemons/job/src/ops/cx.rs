//! What an opcode works with: its locks, its log, wconfd and the nodes.

use crate::error::OpFail;
use crate::io::master::Master;
use crate::io::nodes::Nodes;
use crate::io::server::Desk;
use crate::ops::Args;
use gantry_model::config::{Instance, Node};
use gantry_model::ids::{GroupUuid, JobOwner, LeaseUuid, NodeUuid};
use gantry_model::opcode;
use gantry_model::root::Root;
use gantry_model::task::TaskState;
use gantry_model::time;
use gantry_proto::job::GoRequest;
use gantry_proto::wconfd::{Command, LockBlocked, Want};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

/// A lock wait longer than this is told in the job's log, with its reason.
const TELL_WAIT_AFTER: Duration = Duration::from_secs(1);

/// The locks of one opcode: one atomic request (`spec/locks.md` §3).
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct Locks(BTreeMap<String, Want>);

impl Locks {
    /// No lock at all, not even the BGL.
    pub fn none() -> Self {
        Self::default()
    }

    /// The BGL beside others: what nearly every opcode begins with.
    pub fn shared() -> Self {
        Self::none().with("cluster/BGL", Want::Shared)
    }

    /// The BGL alone.
    pub fn exclusive() -> Self {
        Self::none().with("cluster/BGL", Want::Exclusive)
    }

    /// A lock by its full name.
    pub fn with(mut self, name: &str, want: Want) -> Self {
        self.0.insert(name.to_owned(), want);
        self
    }

    /// An instance by its name.
    pub fn instance(self, name: &str, want: Want) -> Self {
        self.with(&format!("instance/{name}"), want)
    }

    /// A node.
    pub fn node(self, node: NodeUuid, want: Want) -> Self {
        self.with(&format!("node/{node}"), want)
    }

    /// A node's resources.
    pub fn node_res(self, node: NodeUuid, want: Want) -> Self {
        self.with(&format!("node-res/{node}"), want)
    }

    /// A group.
    pub fn group(self, group: GroupUuid, want: Want) -> Self {
        self.with(&format!("nodegroup/{group}"), want)
    }

    /// A whole level.
    pub fn all_of(self, level: &str, want: Want) -> Self {
        self.with(&format!("{level}/[lockset]"), want)
    }

    /// An instance with all that creating, starting or removing it touches.
    pub fn instance_and_node(instance: &Instance) -> Self {
        Self::shared()
            .instance(&instance.name, Want::Exclusive)
            .node(instance.primary_node, Want::Shared)
            .node_res(instance.primary_node, Want::Exclusive)
    }
}

/// See the module.
pub struct Cx<'a> {
    root: &'a Root,
    desk: &'a Arc<Desk>,
    request: &'a GoRequest,
    index: usize,
    /// The lease of the task that ran in this job before: it ends with the destroying of its VM.
    pub ends: Option<LeaseUuid>,
    /// wconfd.
    pub master: &'a mut Master,
    /// The nodes.
    pub nodes: &'a Nodes,
}

impl<'a> Cx<'a> {
    /// For the opcode at `index`.
    pub fn new(
        root: &'a Root,
        desk: &'a Arc<Desk>,
        request: &'a GoRequest,
        index: usize,
        master: &'a mut Master,
        nodes: &'a Nodes,
    ) -> Self {
        master.work_for(desk, index);
        Self { root, desk, request, index, ends: None, master, nodes }
    }

    /// This node's root.
    pub fn root(&self) -> &Root {
        self.root
    }

    /// The job and its start.
    pub fn owner(&self) -> JobOwner {
        self.request.owner
    }

    /// The cluster, the master and its claim.
    pub fn go(&self) -> &GoRequest {
        self.request
    }

    /// The opcode leaves the queue.
    pub fn picked_up(&self) {
        self.desk.update(|board| board.waiting(self.index, time::now()));
    }

    /// Waits for the locks, then shows the opcode as running. A cancel request ends the wait.
    pub async fn begin(&mut self, locks: Locks) -> Result<(), OpFail> {
        let mut cancelled = self.desk.cancelled();
        if !locks.0.is_empty() {
            self.wait_for(locks, &mut cancelled).await?;
        }
        if *cancelled.borrow() {
            return Err(OpFail::Canceled);
        }
        self.desk.update(|board| board.running(self.index, time::now()));
        Ok(())
    }

    async fn wait_for(
        &mut self,
        locks: Locks,
        cancelled: &mut tokio::sync::watch::Receiver<bool>,
    ) -> Result<(), OpFail> {
        let (desk, index, owner) = (Arc::clone(self.desk), self.index, self.request.owner);
        let mut priority = desk.read(|board| board.priority(index)).unwrap_or(0);
        let (tell, mut told) = tokio::sync::watch::channel(String::new());
        // So that the priority can be changed beside the wait.
        tokio::select! {
            connected = self.master.connect() => connected?,
            Ok(_) = cancelled.wait_for(|asked| *asked) => return Err(OpFail::Canceled),
        }
        let beside = self.master.beside();
        let wait = self.master.lock(priority, locks.0.into_iter().collect(), |blocked: LockBlocked| {
            tell.send_replace(blocked.text);
        });
        tokio::pin!(wait);
        let (mut changes, mut said) = (desk.changes(), false);
        let patience = tokio::time::sleep(TELL_WAIT_AFTER);
        tokio::pin!(patience);
        loop {
            tokio::select! {
                biased;
                granted = &mut wait => return granted,
                Ok(()) = cancelled.changed() => {
                    if *cancelled.borrow_and_update() {
                        desk.update(|board| board.canceling(index));
                        return Err(OpFail::Canceled);
                    }
                }
                Ok(()) = changes.changed() => {
                    let wanted = desk.read(|board| board.priority(index)).unwrap_or(0);
                    if wanted != priority {
                        priority = wanted;
                        Master::priority_of_wait(beside.clone(), owner, priority).await;
                    }
                }
                () = &mut patience, if !said => {
                    said = true;
                    let why = told.borrow_and_update().clone();
                    let text = if why.is_empty() {
                        "waiting for wconfd to answer a request for locks".to_owned()
                    } else {
                        format!("waiting for lock {why}")
                    };
                    desk.update(|board| board.log(index, "message", json!(text), time::now()));
                }
            }
        }
    }

    /// A plain message in the job's log.
    pub fn say(&self, text: impl Into<String>) {
        let text: String = text.into();
        self.desk.update(|board| board.log(self.index, "message", json!(text), time::now()));
    }

    /// Says messages beside a call that needs all else.
    pub fn sayer(&self) -> impl FnMut(String) + use<> {
        let (desk, index) = (Arc::clone(self.desk), self.index);
        move |text| desk.update(|board| board.log(index, "message", json!(text), time::now()))
    }

    /// A message that clients show as information (`spec/jobs.md` §4).
    pub fn info(&self, text: impl AsRef<str>) {
        self.say(format!(" - INFO: {}", text.as_ref()));
    }

    /// A message that clients show as a warning.
    pub fn warn(&self, text: impl AsRef<str>) {
        self.say(format!(" - WARNING: {}", text.as_ref()));
    }

    /// Waits until the master may use the node; says why it waits.
    pub async fn claimed(&mut self, node: &Node) -> Result<(), OpFail> {
        let (desk, index) = (self.desk, self.index);
        let told = |why: &str| {
            let text = format!("waiting for node {} to answer the master: {why}", node.name);
            desk.update(|board| board.log(index, "message", json!(text), time::now()));
        };
        self.master.claimed(node, told).await
    }

    /// A log entry of another type.
    pub fn log(&self, kind: &str, message: Value) {
        self.desk.update(|board| board.log(self.index, kind, message, time::now()));
    }

    /// Stores the opcode with what the job filled in: full names, uuids. Secrets stay out.
    pub fn expand(&self, args: &Args<'_>, found: [(&str, String); 2]) {
        let mut input = args.map().clone();
        for (name, value) in found {
            input.insert(name.to_owned(), Value::String(value));
        }
        let _ = opcode::redact(&mut input); // luxid keeps the values.
        self.desk.update(|board| board.expanded(self.index, input));
    }

    /// Whether cancelling was asked for; a receiver to wait for it.
    pub fn cancelled(&self) -> tokio::sync::watch::Receiver<bool> {
        self.desk.cancelled()
    }

    /// Ends the opcode when cancelling was asked for.
    pub fn go_on(&self) -> Result<(), OpFail> {
        if *self.desk.cancelled().borrow() { Err(OpFail::Canceled) } else { Ok(()) }
    }

    /// Notes the W index of an effect.
    pub fn saw(&self, index: u64) {
        self.desk.update(|board| board.saw(index));
    }

    /// Shows where the attempt of a task stands.
    pub fn stage(&self, stage: TaskState) {
        self.desk.update(|board| board.stage(stage));
    }

    /// Applies groups of commands in one batch; when that is refused, group by group, so that one that is out of date
    /// does not keep the others. Per group its results, or why it was refused.
    pub async fn apply_each(
        &mut self,
        groups: Vec<Vec<Command>>,
    ) -> Result<Vec<Result<Vec<Value>, String>>, OpFail> {
        if groups.is_empty() {
            return Ok(Vec::new());
        }
        match self.apply(groups.concat()).await {
            Ok(results) => {
                let mut results = results.into_iter();
                return Ok(groups
                    .iter()
                    .map(|group| Ok(results.by_ref().take(group.len()).collect()))
                    .collect());
            }
            Err(OpFail::Error(why)) if !self.master.is_away() && groups.len() == 1 => {
                return Ok(vec![Err(why.to_string())]);
            }
            Err(OpFail::Error(_)) if !self.master.is_away() => {}
            Err(why) => return Err(why),
        }
        let mut done = Vec::new();
        for group in groups {
            match self.apply(group).await {
                Ok(results) => done.push(Ok(results)),
                Err(OpFail::Error(why)) if !self.master.is_away() => done.push(Err(why.to_string())),
                Err(why) => return Err(why),
            }
        }
        Ok(done)
    }

    /// Applies commands in one batch, all or none; durable when it returns. A result per command.
    pub async fn apply(&mut self, commands: Vec<Command>) -> Result<Vec<Value>, OpFail> {
        let (index, results) = self.master.apply(&commands).await?;
        self.desk.update(|board| board.saw(index));
        Ok(results)
    }
}
