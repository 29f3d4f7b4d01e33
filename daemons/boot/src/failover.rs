//! The verb Failover: runs the elector, relays its lines, and when it has won waits for the master's daemons, which
//! follow `role.json` by themselves.
//!
//! The run is a task of its own, so that a caller who goes away ends a look, but never a ballot that was begun.

use crate::api::Command;
use crate::core::elect::Said;
use crate::io::elect::Elector;
use crate::io::role::LOOK;
use gantry_model::role::Role;
use gantry_model::root::Root;
use gantry_proto::boot::{FailoverLine, FailoverReply, FailoverRequest};
use gantry_rpc::{Code, Fail};
use gantry_rt::Daemon;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{Mutex, mpsc, oneshot};
use tokio::time::Instant;

/// Longest run of an elector: it asks at most ten candidates three times, and waits while a living master stops its daemons.
const ELECT_MAX: Duration = Duration::from_secs(180);
/// How long the new master's daemons may take: both logs are recovered, perhaps from a snapshot.
const READY_MAX: Duration = Duration::from_secs(300);
/// Lines kept for a caller who reads slowly.
const LINES_MAX: usize = 256;

/// What a failover needs of boot.
pub struct Failovers {
    daemon: Daemon,
    root: Root,
    libexec: PathBuf,
    commands: mpsc::Sender<Command>,
    /// Held while one runs: two ballots of one node would only get into each other's way.
    one: Arc<Mutex<()>>,
}

/// A failover under way, as its caller sees it.
pub struct Run {
    /// Its lines.
    pub lines: mpsc::Receiver<FailoverLine>,
    /// Its end.
    pub end: oneshot::Receiver<Result<FailoverReply, Fail>>,
}

impl Failovers {
    /// None runs.
    pub fn new(daemon: Daemon, root: Root, libexec: PathBuf, commands: mpsc::Sender<Command>) -> Self {
        Self { daemon, root, libexec, commands, one: Arc::default() }
    }

    /// Begins one.
    ///
    /// # Errors
    /// Another one runs, or the elector cannot be started.
    pub fn begin(&self, request: FailoverRequest) -> Result<Run, Fail> {
        let Ok(alone) = Arc::clone(&self.one).try_lock_owned() else {
            return Err(Fail::new(Code::Busy, "a failover runs on this node already; wait for its end"));
        };
        let elector = Elector::start(&self.root, &self.libexec, request)
            .map_err(|why| Fail::new(Code::Internal, format!("cannot start gantry-wconfd elect: {why}")))?;
        tracing::info!(?request, "failover begins");
        let (lines_tx, lines) = mpsc::channel(LINES_MAX);
        let (end_tx, end) = oneshot::channel();
        let (commands, root) = (self.commands.clone(), self.root.clone());
        self.daemon.tasks.spawn("failover", async move {
            let ended = run(elector, &root, &lines_tx, &commands).await;
            match &ended {
                Ok(reply) => tracing::info!(epoch = reply.epoch, "failover ended"),
                Err(fail) => tracing::warn!(why = fail.text, "failover ended"),
            }
            drop(alone);
            let _ = end_tx.send(ended);
        });
        Ok(Run { lines, end })
    }
}

async fn run(
    mut elector: Elector,
    root: &Root,
    lines: &mpsc::Sender<FailoverLine>,
    commands: &mpsc::Sender<Command>,
) -> Result<FailoverReply, Fail> {
    match elect(&mut elector, lines).await? {
        Some(epoch) => {
            tell(lines, format!("this node has won epoch {epoch}; waiting for the master's daemons"));
            tokio::select! {
                ready = ready(commands, epoch) => ready?,
                () = deposed(root) => return Err(gave_way(epoch)),
            }
            Ok(FailoverReply { epoch: Some(epoch) })
        }
        None => Ok(FailoverReply { epoch: None }),
    }
}

/// Reads the elector to its end: the epoch won, or none after a look.
async fn elect(elector: &mut Elector, lines: &mpsc::Sender<FailoverLine>) -> Result<Option<u64>, Fail> {
    let until = Instant::now() + ELECT_MAX;
    let mut ballot = false;
    loop {
        let said = tokio::select! {
            said = elector.next() => said,
            () = lines.closed(), if !ballot => {
                elector.kill();
                return Err(Fail::new(Code::Unknown, "the caller has gone before the ballot; nothing was changed"));
            }
            () = tokio::time::sleep_until(until) => {
                elector.kill();
                let text = format!(
                    "the ballot did not end within {} s; there may be no master now: run the command again here or on \
                     another candidate",
                    ELECT_MAX.as_secs()
                );
                return Err(Fail::new(Code::Unknown, text));
            }
        };
        match said {
            Some(Said::Text(text)) => tell(lines, text),
            Some(Said::Ballot) => ballot = true,
            Some(Said::Won(epoch)) => return Ok(Some(epoch)),
            Some(Said::Looked) => return Ok(None),
            Some(Said::Refused(error)) => return Err(Fail::ganeti(&error)),
            None => {
                elector.kill();
                let text = "the elector ended without a word; elect.log beside the daemons' logs may say why. Run the \
                            command again";
                return Err(Fail::new(Code::Unknown, text));
            }
        }
    }
}

/// A slow or absent reader loses lines, never the failover.
fn tell(lines: &mpsc::Sender<FailoverLine>, text: String) {
    tracing::info!(text, "elector");
    let _ = lines.try_send(FailoverLine { text });
}

/// Waits until this node is no master any more: it has heard of a later epoch, and its daemons will never be ready.
async fn deposed(root: &Root) {
    loop {
        // A file that can't be read says nothing.
        if let Ok(Some(role)) = gantry_rt::files::read_role(root)
            && role.role != Role::Master
        {
            return;
        }
        tokio::time::sleep(LOOK).await;
    }
}

fn gave_way(epoch: u64) -> Fail {
    let text = format!(
        "this node had won epoch {epoch}, and has given way since to a later one: two failovers ran at once. \"gnt-cluster \
         getmaster\" on another candidate names the master; when there is none, run the command again"
    );
    Fail::new(Code::Stale, text)
}

/// Waits until the master's daemons are ready.
async fn ready(commands: &mpsc::Sender<Command>, epoch: u64) -> Result<(), Fail> {
    let (answer, answered) = oneshot::channel();
    let ending = || Fail::new(Code::NotReady, "boot is ending");
    commands.send(Command::Master(answer)).await.map_err(|_| ending())?;
    match tokio::time::timeout(READY_MAX, answered).await {
        Ok(answer) => answer.map_err(|_| ending())?,
        Err(_) => {
            let text = format!(
                "this node is the master of epoch {epoch}, but its daemons were not ready within {} s; gnt-cluster \
                 info and the daemons' logs say why",
                READY_MAX.as_secs()
            );
            Err(Fail::new(Code::Deadline, text))
        }
    }
}
