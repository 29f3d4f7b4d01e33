//! Connections of the inside protocols for the benches, for callers without a runtime of their own.

use anyhow::{Context, Result, bail};
use gantry_proto::stream::{self, LeaseExec, LeaseExecRequest, StreamEvent, Watch, WatchRequest};
use gantry_rpc::{Client, Event, Hello};
use gantry_tests::VirtualCluster;
use std::path::PathBuf;
use std::sync::mpsc;
use std::time::Instant;

/// Changes that may wait to be looked at: a VM's turn makes six.
const TOLD_MAX: usize = 1024;

/// A slot's new state.
pub struct Told {
    /// Its uuid.
    pub slot: String,
    /// The word.
    pub state: String,
    /// When it was heard.
    pub at: Instant,
}

/// A runtime and a connection to luxid's `stream.sock`.
pub struct Link {
    runtime: tokio::runtime::Runtime,
    client: Client,
    socket: PathBuf,
}

fn hello() -> Hello {
    Hello::new(stream::PROTOCOL, "gantry")
}

impl Link {
    /// Connects.
    pub fn new(cluster: &VirtualCluster) -> Result<Self> {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
        let socket = cluster.master().socket("stream.sock");
        let client = runtime.block_on(Client::unix(&socket, &hello()))?;
        Ok(Self { runtime, client, socket })
    }

    /// Runs `echo` in the first VM of a lease, until its first output is here.
    pub fn first_byte(&self, lease: &str) -> Result<()> {
        let request = LeaseExecRequest {
            lease: lease.parse()?,
            vm: 0,
            exec: "first".to_owned(),
            argv: ["echo", "x"].map(str::to_owned).to_vec(),
            env: Vec::new(),
            cwd: None,
            stdin: Vec::new(),
            output_bytes_max: 1 << 10,
            wall_ms: 10_000,
            cpu_ms: 10_000,
            out: 0,
            err: 0,
        };
        self.runtime.block_on(async {
            match self.client.open::<LeaseExec>(&request).await?.next().await? {
                Event::Item(_) => Ok(()),
                Event::End(end) => bail!("no output: {end:?}"),
            }
        })
    }

    /// Changes of slots from now on.
    pub fn watch_slots(&self) -> Result<mpsc::Receiver<Told>> {
        let (send, receive) = mpsc::sync_channel(TOLD_MAX);
        let (ready, begun) = mpsc::sync_channel(1);
        let socket = self.socket.clone();
        self.runtime.spawn(async move {
            let client = Client::unix(&socket, &hello()).await?;
            let request = WatchRequest { kinds: vec!["slot".to_owned()] };
            let mut events = client.open::<Watch>(&request).await?;
            loop {
                match events.next().await? {
                    Event::Item(StreamEvent::Begun) => ready.send(())?,
                    Event::Item(StreamEvent::Changed { key, state, .. }) => {
                        send.send(Told { slot: key, state, at: Instant::now() })?;
                    }
                    Event::Item(StreamEvent::Lost) | Event::End(()) => return anyhow::Ok(()),
                }
            }
        });
        begun.recv().context("the watch does not begin")?;
        Ok(receive)
    }
}
