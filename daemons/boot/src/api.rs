//! The verbs of `boot.sock`, one function each: they hand a command to the shell and wait for its answer.

use crate::config::DAEMONS;
use crate::core::supervise::Index;
use crate::failover::Failovers;
use gantry_proto::boot::{
    DaemonStatus, Failover, FailoverReply, FailoverRequest, Hold, PROTOCOL, Shutdown, Start, Status, Stop,
};
use gantry_rpc::{Call, Code, Fail, Handled, Hello, ItemSender, Peer, Service, route};
use std::sync::Arc;
use tokio::sync::{mpsc, oneshot};

/// Mode of the socket: only the user that boot runs as.
pub const MODE: u32 = 0o600;
/// Commands that may wait for the shell.
pub const COMMANDS_MAX: usize = 64;

/// A command to the shell and where its answer goes.
#[derive(Debug)]
pub enum Command {
    /// How all stand.
    Status(oneshot::Sender<Vec<DaemonStatus>>),
    /// Start these; answered when they are ready.
    Start(Vec<Index>, Answer),
    /// Stop these; answered when they are gone.
    Stop(Vec<Index>, Answer),
    /// Restart these no more.
    Hold(Vec<Index>, Answer),
    /// This node has become the master: run the master's daemons, also those that were stopped; answered when they are ready.
    Master(Answer),
    /// Stop all, then end.
    Shutdown(Answer),
}

/// Where the answer to a command goes.
pub type Answer = oneshot::Sender<Result<(), Fail>>;

/// The server of `boot.sock`.
pub struct Api {
    commands: mpsc::Sender<Command>,
    failovers: Failovers,
}

impl Api {
    /// Hands commands to this queue.
    #[must_use]
    pub fn new(commands: mpsc::Sender<Command>, failovers: Failovers) -> Self {
        Self { commands, failovers }
    }

    async fn status(&self) -> Result<Vec<DaemonStatus>, Fail> {
        let (answer, answered) = oneshot::channel();
        self.commands.send(Command::Status(answer)).await.map_err(|_| ending())?;
        answered.await.map_err(|_| ending())
    }

    async fn start(&self, names: &[String]) -> Result<(), Fail> {
        let list = places(names)?;
        self.ask(|answer| Command::Start(list, answer)).await
    }

    async fn stop(&self, names: &[String]) -> Result<(), Fail> {
        let list = places(names)?;
        self.ask(|answer| Command::Stop(list, answer)).await
    }

    async fn hold(&self, names: &[String]) -> Result<(), Fail> {
        let list = places(names)?;
        self.ask(|answer| Command::Hold(list, answer)).await
    }

    /// Relays a failover's lines until it ends. Dropped when the caller goes; the run decides what that means.
    async fn failover(
        &self,
        request: FailoverRequest,
        items: ItemSender<Failover>,
    ) -> Result<FailoverReply, Fail> {
        let mut run = self.failovers.begin(request)?;
        while let Some(line) = run.lines.recv().await {
            if items.send(&line).await.is_err() {
                break;
            }
        }
        run.end.await.map_err(|_| ending())?
    }

    async fn ask(&self, command: impl FnOnce(Answer) -> Command) -> Result<(), Fail> {
        let (answer, answered) = oneshot::channel();
        self.commands.send(command(answer)).await.map_err(|_| ending())?;
        answered.await.map_err(|_| ending())?
    }
}

fn ending() -> Fail {
    Fail::new(Code::NotReady, "boot is ending")
}

/// The places of named daemons; empty = all.
fn places(names: &[String]) -> Result<Vec<Index>, Fail> {
    if names.is_empty() {
        return Ok((0..DAEMONS.len()).collect());
    }
    let place = |name: &String| {
        DAEMONS.iter().position(|(known, _)| known == name).ok_or_else(|| {
            let known: Vec<&str> = DAEMONS.iter().map(|(known, _)| *known).collect();
            Fail::new(Code::NotFound, format!("there is no daemon '{name}'; there are {}", known.join(", ")))
        })
    };
    names.iter().map(place).collect()
}

impl Service for Api {
    fn hello(&self) -> Hello {
        Hello::new(PROTOCOL, "gantry-boot")
    }

    fn accept(&self, peer: &Peer) -> Result<(), String> {
        let own = nix::unistd::geteuid().as_raw();
        match peer.uid {
            Some(uid) if uid == own || uid == 0 => Ok(()),
            Some(_) | None => Err("only root and the user that boot runs as may command it".to_owned()),
        }
    }

    fn handle(self: Arc<Self>, call: Call) -> Handled {
        Box::pin(async move {
            route!(call, {
                Status => |(), _| self.status().await,
                Start => |names, _| self.start(&names).await,
                Stop => |names, _| self.stop(&names).await,
                Shutdown => |(), _| self.ask(Command::Shutdown).await,
                Hold => |names, _| self.hold(&names).await,
                Failover => |request, call| self.failover(request, call.items()).await,
            })
        })
    }
}
