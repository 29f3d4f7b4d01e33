//! `gantry-wconfd elect`: makes this node the master, or says what would be done. Started by boot for one failover.
//!
//! Lines for people go to stdout; a line that is a JSON object is for boot: `{"ballot": …}` from where promises may have
//! been given, and last of all `{"won": …}`, `{"looked": …}` or `{"refused": …}`. The engine is in `gantry_copies::elect`;
//! here are its texts.

mod told;

use crate::args::ElectOptions;
use anyhow::{Context as _, bail};
use gantry_copies::advice::helps_to_drop;
use gantry_copies::elect::{ElectError, Event, Looked, Mode, Outcome, PATIENCE, elect, tell};
use gantry_copies::link::{Link, TlsLink};
use gantry_copies::peers::Peers;
use gantry_model::ids::NodeUuid;
use gantry_model::role::{Role, RoleFile};
use gantry_model::root::Root;
use gantry_proto::copies::LookReply;
use gantry_rpc::tls::Identity;
use gantry_rt::files;
use gantry_store::core::elect::{AtRisk, Decision, LogName};
use serde_json::{Value, json};
use std::io::Write as _;
use std::time::Duration;
use told::Told;

impl ElectOptions {
    fn mode(&self) -> Result<Mode, &'static str> {
        match (self.no_voting, self.look) {
            (false, true) => Ok(Mode::Look),
            (false, false) if self.yes_do_it => Err("--yes-do-it answers what --no-voting asks; give both"),
            (false, false) => Ok(Mode::Vote),
            (true, true) => Ok(Mode::AloneLook),
            (true, false) if self.yes_do_it => Ok(Mode::Alone),
            (true, false) => Err("--no-voting may lose what was acknowledged: give --yes-do-it too"),
        }
    }

    fn patience(&self) -> Duration {
        self.patience_ms.map_or(PATIENCE, |ms| Duration::from_millis(ms.into()))
    }
}

/// Runs one election. What it says is printed; the last line tells how it ended.
///
/// # Errors
/// What keeps it from beginning at all; to be told by [`broken`].
pub fn run(root: &Root, options: &ElectOptions) -> anyhow::Result<bool> {
    let mode = match options.mode() {
        Ok(mode) => mode,
        Err(why) => return Ok(end(&refused("wrong_input", why))),
    };
    let role = files::read_role(root).context("reading role.json")?;
    let Some(role) = role else { bail!("this node belongs to no cluster: there is no role.json") };
    if role.role == Role::Regular {
        let text = "this node is no master candidate: it holds no copies of the cluster's logs";
        return Ok(end(&refused("wrong_state", text)));
    }
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let outcome = runtime.block_on(run_on(root, &role, mode, options.patience()))?;
    Ok(end(&outcome))
}

/// Tells of an election that could not begin.
pub fn broken(error: &anyhow::Error) {
    end(&refused("wrong_state", &format!("{error:#}")));
}

/// Prints the line for boot. Whether it was a success.
fn end(line: &Value) -> bool {
    say(&line.to_string());
    line.get("refused").is_none()
}

async fn run_on(root: &Root, role: &RoleFile, mode: Mode, patience: Duration) -> anyhow::Result<Value> {
    let identity = Identity::load(&root.secrets()).context("loading the certificate")?;
    let link = TlsLink::new(identity, role.cluster, "gantry-elect", Peers::of_dir(&root.lib()));
    let names = |node: NodeUuid| link.name(node);
    let (mut begun, mut told) = (false, Told::new(root));
    let outcome = elect(&link, role.node, mode, patience, |event| {
        // Before the first call that may leave a promise, or no master.
        let promises = matches!(event, Event::StepDown { .. } | Event::Ballot { .. })
            || (mode == Mode::Alone && matches!(event, Event::AtRisk(_)));
        if promises && !begun {
            begun = true;
            say(&json!({ "ballot": {} }).to_string());
        }
        let mut all = lines(&event, names, mode);
        match &event {
            Event::Looked(looked) => {
                let own = looked.iter().find(|one| one.node == role.node);
                own.and_then(|one| one.answer.as_ref().ok()).into_iter().for_each(|reply| told.own(reply));
            }
            Event::AtRisk(_) => {
                let kept = if mode == Mode::Alone { told.keep(&all) } else { None };
                all = told.say(all);
                all.extend(kept);
            }
            _ => {}
        }
        all.iter().for_each(|line| say(line));
    })
    .await;
    Ok(match outcome {
        Ok(Outcome::Won(fence)) => json!({ "won": { "epoch": fence.epoch } }),
        Ok(Outcome::Looked) => json!({ "looked": {} }),
        Ok(Outcome::AlreadyMaster(epoch)) => refused(
            "wrong_input",
            &format!(
                "This command must be run on the node where you want the new master to be, but this node is the master \
                 already (epoch {epoch})"
            ),
        ),
        Err(why) => refused(code(&why), &why_not(&why, names)),
    })
}

/// Prints a line at once. Nobody may be there to read it: an election that began goes on all the same.
fn say(line: &str) {
    let mut out = std::io::stdout().lock();
    let _ = writeln!(out, "{line}").and_then(|()| out.flush());
}

fn refused(code: &str, text: &str) -> Value {
    json!({ "refused": { "code": code, "text": text } })
}

fn code(why: &ElectError) -> &'static str {
    match why {
        ElectError::Refused(_) => "no_majority",
        ElectError::Own(_)
        | ElectError::NoCopies
        | ElectError::OwnPromise { .. }
        | ElectError::Masters
        | ElectError::NotTaken { .. }
        | ElectError::Random(_) => "wrong_state",
    }
}

/// A refusal with the names of the nodes in place of their uuids.
fn why_not(why: &ElectError, names: impl Fn(NodeUuid) -> String) -> String {
    let ElectError::Refused(refusal) = why else { return why.to_string() };
    let mut text = tell(refusal);
    if let gantry_store::core::elect::Refused::TooFew { silent, have, .. } = refusal {
        for member in silent {
            text = text.replace(&member.node.to_string(), &names(NodeUuid(member.node)));
        }
        text.push_str(
            "\nWithout a majority nobody can say what was acknowledged. Start those nodes and run the command again; if \
             they are lost for good, --no-voting goes on with this node's copies alone",
        );
        if helps_to_drop(have + silent.len(), *have) {
            text.push_str(". On a master whose daemons still run, 'gnt-cluster drop-candidate NODE' takes a silent one out");
        }
    }
    text
}

fn lines(event: &Event, names: impl Fn(NodeUuid) -> String, mode: Mode) -> Vec<String> {
    match event {
        Event::Waiting { names, at_most } => {
            vec![format!("waiting up to {} s for an answer of {}", at_most.as_secs_f32(), names.join(", "))]
        }
        Event::Looked(all) => all.iter().map(looked).collect(),
        Event::Decided(decision) => decided(decision, names, mode).into_iter().collect(),
        Event::StepDown { name, epoch } => {
            vec![format!("asking {name} to stop being master (epoch {epoch})")]
        }
        Event::SteppedDown { name, outcome: Ok(()) } => {
            vec![format!("{name} has stopped its master daemons")]
        }
        Event::SteppedDown { name, outcome: Err(why) } => {
            vec![format!("warning: {name} did not stop its master daemons ({why}); the ballot fences it")]
        }
        Event::Ballot { epoch, asked } => vec![format!("asking {} for epoch {epoch}", copies(*asked))],
        Event::Promise { name, outcome: Ok(()) } => vec![format!("{name} promises")],
        Event::Promise { name, outcome: Err(why) } => vec![format!("{name} does not promise: {why}")],
        Event::AtRisk(risks) if risks.is_empty() => {
            vec![
                "no copy heard of has more than this node's: nothing that was acknowledged is lost"
                    .to_owned(),
            ]
        }
        Event::AtRisk(risks) => risks.iter().map(at_risk).collect(),
        Event::Won { .. } => Vec::new(), // boot says it
    }
}

fn copies(count: usize) -> String {
    if count == 1 { "one candidate".to_owned() } else { format!("{count} candidates") }
}

fn looked(looked: &Looked) -> String {
    let name = &looked.name;
    match &looked.answer {
        Err(why) => format!("{name} does not answer: {why}"),
        Ok(reply) => format!("{name} answers: {}", stands(reply)),
    }
}

fn stands(reply: &LookReply) -> String {
    let of = |(log, facts): &(gantry_proto::copies::Log, gantry_proto::copies::Facts)| {
        let log = match log {
            gantry_proto::copies::Log::W => "configuration",
            gantry_proto::copies::Log::Q => "queue",
        };
        let damaged = facts.damaged.as_ref().map(|why| format!(" DAMAGED ({why})")).unwrap_or_default();
        format!("{log} to row {} of epoch {}{damaged}", facts.last.idx, facts.last.term.epoch)
    };
    let copies: Vec<String> = reply.copies.iter().map(of).collect();
    let copies = if copies.is_empty() { "no copies".to_owned() } else { copies.join(", ") };
    match reply.master {
        Some(epoch) => format!("{copies}; it is master of epoch {epoch}"),
        None => copies,
    }
}

fn decided(decision: &Decision, names: impl Fn(NodeUuid) -> String, mode: Mode) -> Option<String> {
    if mode != Mode::Look {
        return None; // what is done is said as it is done
    }
    Some(match decision {
        Decision::Refused(why) => {
            format!("it would not become master: {}", why_not(&ElectError::Refused(why.clone()), names))
        }
        Decision::AlreadyMaster { epoch } => format!("it is the master already (epoch {epoch})"),
        Decision::StepDown { member, epoch } => format!(
            "it would ask {} (master of epoch {epoch}) to stop, then take over",
            names(NodeUuid(member.node))
        ),
        Decision::Ballot { epoch, ask } => format!("it would ask {} for epoch {epoch}", copies(ask.len())),
    })
}

fn at_risk(risk: &AtRisk) -> String {
    let log = match risk.log {
        LogName::W => "configuration",
        LogName::Q => "job queue",
    };
    match risk.to {
        Some(to) => format!("LOST: rows {} to {} of the {log} log, which another copy has", risk.from, to),
        None => {
            format!("may be lost: rows of the {log} log from {} on, if a silent copy has them", risk.from)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use gantry_store::core::elect::Refused;
    use gantry_store::{Index, Member};

    #[test]
    fn what_it_may_lose_is_asked_for_in_full() {
        let options = |look, no_voting, yes_do_it| ElectOptions {
            look,
            no_voting,
            yes_do_it,
            ..ElectOptions::default()
        };
        assert_eq!(options(false, false, false).mode(), Ok(Mode::Vote));
        assert_eq!(options(true, false, false).mode(), Ok(Mode::Look));
        assert_eq!(options(true, true, false).mode(), Ok(Mode::AloneLook));
        assert_eq!(options(false, true, true).mode(), Ok(Mode::Alone));
        assert!(options(false, true, false).mode().is_err());
        assert!(options(false, false, true).mode().is_err());
    }

    #[test]
    fn the_silent_are_named() {
        let node = uuid::Uuid::from_u128(7);
        let silent = vec![Member { node, copy_id: uuid::Uuid::from_u128(8) }];
        let why = ElectError::Refused(Refused::TooFew { log: LogName::W, have: 1, need: 2, silent });
        let text = why_not(&why, |_| "node7".to_owned());
        assert!(text.contains("1 of the 2 copies needed of the configuration log answered"), "{text}");
        assert!(
            text.contains("node7") && text.contains("--no-voting") && !text.contains(&node.to_string()),
            "{text}"
        );
    }

    #[test]
    fn what_may_be_lost_is_said() {
        let names = |_| String::new();
        let none = lines(&Event::AtRisk(Vec::new()), names, Mode::AloneLook);
        assert_eq!(
            none,
            ["no copy heard of has more than this node's: nothing that was acknowledged is lost"]
        );
        let risk = AtRisk { log: LogName::Q, from: Index(5), to: Some(Index(9)) };
        assert_eq!(
            lines(&Event::AtRisk(vec![risk]), names, Mode::AloneLook),
            ["LOST: rows 5 to 9 of the job queue log, which another copy has"]
        );
    }
}
