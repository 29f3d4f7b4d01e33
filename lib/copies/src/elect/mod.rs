//! Winning an epoch for this node (P1.8, P1.12): the engine of `gantry-wconfd elect`. It asks; `core::elect` decides.
//!
//! ```text
//!  look at all ─▶ decide ─▶ StepDown: ask that master, look again
//!                       └─▶ ballot: promises from all ─▶ won ─▶ Elected at the own noded ─▶ role.json ─▶ boot
//! ```
//!
//! Nothing is kept between two commands: one that failed half-way leaves promises and no master, and is repeated.

mod engine;
mod round;

use crate::link::{Link, LinkError};
use gantry_model::ids::{Fence, NodeUuid};
use gantry_proto::copies::LookReply;
use gantry_store::core::elect::{AtRisk, Decision, LogName, Refused};
use std::time::Duration;

/// How long candidates that do not answer are waited for, unless the command says otherwise: a healthy one answers in
/// milliseconds, and the whole cluster waits for the new master.
pub const PATIENCE: Duration = Duration::from_secs(2);
/// Masters asked to step down in one command. Each is another node, and there are ten candidates at most.
const STEPS_MAX: usize = 10;

/// What to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// Look and say what would be done.
    Look,
    /// Win an epoch.
    Vote,
    /// Say what going on alone may lose (P1.12).
    AloneLook,
    /// Go on alone, in a new history.
    Alone,
}

/// What a node said to a look.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Looked {
    /// The node.
    pub node: NodeUuid,
    /// Its name.
    pub name: String,
    /// What it said, or why it said nothing.
    pub answer: Result<LookReply, String>,
}

/// What happens, for people.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// These have not answered yet and are waited for.
    Waiting {
        /// Their names.
        names: Vec<String>,
        /// How long at most.
        at_most: Duration,
    },
    /// All that any answer names were looked at.
    Looked(Vec<Looked>),
    /// What a look leads to; with [`Mode::Look`] the end.
    Decided(Decision),
    /// A master is asked to stop its writers.
    StepDown {
        /// Which.
        name: String,
        /// Its epoch.
        epoch: u64,
    },
    /// It has, or why not; the election goes on without it.
    SteppedDown {
        /// Which.
        name: String,
        /// How it went.
        outcome: Result<(), String>,
    },
    /// Promises are asked for.
    Ballot {
        /// Of this epoch.
        epoch: u64,
        /// How many candidates.
        asked: usize,
    },
    /// A candidate answered, or not.
    Promise {
        /// Which.
        name: String,
        /// Whether it promised.
        outcome: Result<(), String>,
    },
    /// Rows that others may hold and that going on alone leaves behind; none: nothing acknowledged is lost.
    AtRisk(Vec<AtRisk>),
    /// This node is the master of this epoch; its role file says so.
    Won {
        /// The epoch.
        epoch: u64,
    },
}

/// How it ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// This node is the master of a new epoch.
    Won(Fence),
    /// It was already, and a majority stands by it.
    AlreadyMaster(u64),
    /// Only looked.
    Looked,
}

/// Why this node is not the master.
#[derive(Debug, thiserror::Error)]
pub enum ElectError {
    /// The own noded does not answer.
    #[error("this node's gantry-noded does not answer: {0}")]
    Own(LinkError),
    /// This node has no copies.
    #[error("this node holds no copies of the cluster's logs: run the command on a master candidate")]
    NoCopies,
    /// By the rules.
    #[error("{}", tell(.0))]
    Refused(Refused),
    /// The own copies do not promise.
    #[error("this node's own copies do not promise epoch {epoch}: {why}")]
    OwnPromise {
        /// The epoch asked for.
        epoch: u64,
        /// Why not.
        why: String,
    },
    /// Masters keep appearing.
    #[error("more than {STEPS_MAX} masters were asked to step down: look at the candidates' role.json")]
    Masters,
    /// The own noded did not take the victory.
    #[error(
        "epoch {epoch} was won, but this node's gantry-noded does not take it: {why}; repeat the command"
    )]
    NotTaken {
        /// The epoch.
        epoch: u64,
        /// Why.
        why: LinkError,
    },
    /// No randomness.
    #[error("can't draw a ballot: {0}")]
    Random(String),
}

fn log_name(log: LogName) -> &'static str {
    match log {
        LogName::W => "configuration",
        LogName::Q => "queue",
    }
}

/// A refusal in words.
#[must_use]
pub fn tell(why: &Refused) -> String {
    match why {
        Refused::NotMember(log) => format!(
            "the newest list of the {} log does not name this node: run the command on one that it names",
            log_name(*log)
        ),
        Refused::Suspect(log) => format!(
            "this node's copy of the {} log is an old image or damaged: run the command on another candidate",
            log_name(*log)
        ),
        Refused::TooFew { log, have, need, silent } => {
            let silent: Vec<String> = silent.iter().map(|m| m.node.to_string()).collect();
            format!(
                "{have} of the {need} copies needed of the {} log answered; silent or not to be believed: {}",
                log_name(*log),
                silent.join(", ")
            )
        }
    }
}

/// Runs one election command on node `me`, telling what happens. Candidates that do not answer are waited for once, for
/// `patience`, all at the same time; longer only while there is no majority without them.
///
/// # Errors
/// Why this node is not the master; nothing is left behind but promises.
pub async fn elect<L: Link>(
    link: &L,
    me: NodeUuid,
    mode: Mode,
    patience: Duration,
    say: impl FnMut(Event) + Send,
) -> Result<Outcome, ElectError> {
    let mut engine = engine::Engine::new(link, me, patience, say);
    match mode {
        Mode::Look => engine.only_look().await,
        Mode::Vote => engine.vote().await,
        Mode::AloneLook => engine.alone(false).await,
        Mode::Alone => engine.alone(true).await,
    }
}
