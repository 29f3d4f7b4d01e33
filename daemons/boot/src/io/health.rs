//! Asks a daemon's admin socket whether it is ready, again and again, as long as its process lives.

use gantry_model::root::Root;
use gantry_proto::admin::{Health, HealthReply, PROTOCOL};
use gantry_rpc::{Client, Hello};
use std::time::Duration;

/// Between questions while a daemon starts: the next one in the order waits for it.
const STARTING: Duration = Duration::from_millis(50);
/// Between questions while it is ready.
const READY: Duration = Duration::from_secs(1);
/// How long one answer may take.
const ANSWER: Duration = Duration::from_secs(1);
/// How long a question may take when boot looks for daemons of an earlier boot.
const FIND: Duration = Duration::from_millis(500);

/// What a daemon said: ready or not, and why not.
pub type Said = (bool, String);

/// The health of one process.
pub struct Probe {
    root: Root,
    name: &'static str,
    pid: u32,
    client: Option<Client>,
}

impl Probe {
    /// Will ask the daemon `name`; only answers of process `pid` count.
    #[must_use]
    pub fn new(root: Root, name: &'static str, pid: u32) -> Self {
        Self { root, name, pid, client: None }
    }

    /// Asks once.
    pub async fn ask(&mut self) -> Said {
        let answer = match tokio::time::timeout(ANSWER, self.answer()).await {
            Ok(answer) => answer,
            Err(_) => Err("its admin socket does not answer".to_owned()),
        };
        match answer {
            Ok(reply) if reply.pid == self.pid => (reply.ready, reply.why),
            Ok(reply) => {
                self.client = None;
                (false, format!("another process (pid {}) has its admin socket", reply.pid))
            }
            Err(why) => {
                self.client = None;
                (false, why)
            }
        }
    }

    async fn answer(&mut self) -> Result<HealthReply, String> {
        if self.client.as_ref().is_none_or(Client::is_closed) {
            self.client = Some(connect(&self.root, self.name).await?);
        }
        let client = self.client.as_ref().expect("was just made");
        client.call::<Health>(&(), ANSWER).await.map_err(|error| error.to_string())
    }
}

/// The pause before the next question.
#[must_use]
pub fn pause(ready: bool) -> Duration {
    if ready { READY } else { STARTING }
}

async fn connect(root: &Root, name: &str) -> Result<Client, String> {
    let hello = Hello::new(PROTOCOL, "gantry-boot");
    Client::unix(&root.admin_socket(name), &hello).await.map_err(|error| error.to_string())
}

/// The pid of a daemon that answers though no pid file names it.
pub async fn find(root: &Root, name: &str) -> Option<u32> {
    let found = async { connect(root, name).await.ok()?.call::<Health>(&(), FIND).await.ok() };
    tokio::time::timeout(FIND, found).await.ok().flatten().map(|reply| reply.pid)
}
