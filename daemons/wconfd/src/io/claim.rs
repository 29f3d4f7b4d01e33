//! Claims each node, compares its inventory, keeps the connection and gives it ssconf values (P5.2).
//!
//! ```text
//! supervisor ─► one task a node: connect ─► Claim ─► compare ─► [every PING: Inventory ─► compare]
//!                    ▲                                           ├ new ssconf values: Ssconf
//!                    │                                           └ Losses: a clean VM died ─► compare its slot
//!                    └────────── back-off ◄── connection lost, no answer for 40 s
//! ```

use super::mailbox::Handle;
use super::nodes::{Target, Targets};
use super::owner::Owner;
use super::ssconf::Values;
use anyhow::bail;
use gantry_model::ids::{ClusterUuid, Fence, NodeUuid};
use gantry_proto::noded::{self as wire, ClaimRequest, SlotFacts, SsconfRequest};
use gantry_rpc::tls::Identity;
use gantry_rpc::{CallError, Client, Code, ConnectError, Event, Hello, Stream};
use gantry_rt::Tasks;
use gantry_store::Index;
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{Semaphore, watch};
use tokio_util::sync::CancellationToken;

/// No answer for so long: the node is lost (P5.2).
const LOST: Duration = Duration::from_secs(40);
/// How often a claimed node is asked for its inventory again.
const PING: Duration = Duration::from_secs(10);
/// First pause after a failed contact.
const PAUSE_MIN: Duration = Duration::from_millis(200);
/// Longest pause: a node that came back is found within this.
const PAUSE_MAX: Duration = Duration::from_secs(2);
/// Nodes connected to and asked at once: a whole cluster that restarts must not stampede the master.
const CALLS_MAX: usize = 32;

/// What all node tasks share.
#[derive(Clone)]
pub struct Caller {
    /// The owner of the state.
    pub handle: Handle,
    /// This cluster.
    pub cluster: ClusterUuid,
    /// This master's claim.
    pub fence: Fence,
    /// Where our certificate lies: read for each new connection, so that a renewed one is taken.
    pub secrets: PathBuf,
    /// The newest ssconf values.
    pub values: watch::Receiver<Arc<Values>>,
    /// Where tasks run.
    pub tasks: Tasks,
}

/// Why a node's task goes back to connecting, or gives up the daemon.
enum Broken {
    /// Try again.
    Lost(String),
    /// Somebody has a higher claim: this is no master any more (P1.9).
    Deposed(String),
}

impl From<ConnectError> for Broken {
    fn from(error: ConnectError) -> Self {
        match &error {
            ConnectError::Io(source) => Self::Lost(format!("can't connect: {source}")),
            ConnectError::Hello(_)
            | ConnectError::Refused(_)
            | ConnectError::Version { .. }
            | ConnectError::WrongPeer { .. }
            | ConnectError::Distrust(_)
            | ConnectError::TimedOut => Self::Lost(error.to_string()),
        }
    }
}

impl From<CallError> for Broken {
    fn from(error: CallError) -> Self {
        if error.code() == Some(Code::Fenced) {
            Self::Deposed(error.to_string())
        } else {
            Self::Lost(error.to_string())
        }
    }
}

/// Keeps one task for each node that is to be called.
///
/// # Errors
/// Never; it ends with `stop`.
pub async fn supervise(
    caller: Caller,
    mut targets: watch::Receiver<Targets>,
    stop: CancellationToken,
) -> anyhow::Result<()> {
    let calls = Arc::new(Semaphore::new(CALLS_MAX));
    let mut running: BTreeMap<NodeUuid, (Target, CancellationToken)> = BTreeMap::new();
    loop {
        let wanted = Targets::clone(&targets.borrow_and_update());
        running.retain(|node, (target, task)| {
            let same = wanted.get(node) == Some(target);
            if !same {
                task.cancel();
            }
            same
        });
        for (node, target) in
            wanted.iter().filter(|(node, _)| !running.contains_key(*node)).collect::<Vec<_>>()
        {
            let task = stop.child_token();
            running.insert(*node, (target.clone(), task.clone()));
            let work = keep(caller.clone(), target.clone(), Arc::clone(&calls), task);
            caller.tasks.spawn("node", work);
        }
        tokio::select! {
            () = stop.cancelled() => return Ok(()),
            changed = targets.changed() => if changed.is_err() { return Ok(()) },
        }
    }
}

/// Calls one node until told to stop.
async fn keep(
    caller: Caller,
    target: Target,
    calls: Arc<Semaphore>,
    stop: CancellationToken,
) -> anyhow::Result<()> {
    let (mut pause, mut why) = (PAUSE_MIN, String::new());
    while !stop.is_cancelled() {
        let mut claimed = false;
        let broken = tokio::select! {
            () = stop.cancelled() => break,
            broken = contact(&caller, &target, &calls, &mut claimed) => broken,
        };
        match broken {
            Broken::Deposed(text) => bail!("node {} knows another master: {text}", target.name),
            Broken::Lost(text) => why = text,
        }
        if claimed {
            pause = PAUSE_MIN;
        }
        let (node, text) = (target.node, why.clone());
        if caller
            .handle
            .ask(move |owner: &mut Owner, reply| owner.node_lost(node, text, reply))
            .await
            .is_err()
        {
            return Ok(());
        }
        tokio::select! {
            () = stop.cancelled() => break,
            () = tokio::time::sleep(pause) => pause = (pause * 2).min(PAUSE_MAX),
        }
    }
    let (node, text) = (target.node, if why.is_empty() { "no longer called".to_owned() } else { why });
    // Given up: it left the cluster, went offline or has another address.
    drop(caller.handle.ask(move |owner: &mut Owner, reply| owner.node_lost(node, text, reply)).await);
    Ok(())
}

/// One connection: claim, then inventories and ssconf values until it breaks.
async fn contact(caller: &Caller, target: &Target, calls: &Semaphore, claimed: &mut bool) -> Broken {
    let node = target.node;
    let client = {
        let _place = calls.acquire().await;
        match claim(caller, target).await {
            Ok(client) => client,
            Err(broken) => return broken,
        }
    };
    *claimed = true;
    let mut values = caller.values.clone();
    values.mark_changed();
    let mut ping = tokio::time::interval_at(tokio::time::Instant::now() + PING, PING);
    let mut sent = Index::default();
    let mut losses = client.open::<wire::Losses>(&caller.fence).await.ok();
    loop {
        let done = tokio::select! {
            () = client.closed() => return Broken::Lost("the node closed the connection".to_owned()),
            _ = ping.tick() => again(caller, node, &client).await,
            lost = loss(&mut losses) => match lost {
                Some(facts) => ask(caller, move |owner, reply| owner.vm_lost(node, &facts, reply)).await,
                None => {
                    // It tells no more, as one of before never does: inventories show it.
                    losses = None;
                    Ok(())
                }
            },
            changed = values.changed() => {
                if changed.is_err() {
                    return Broken::Lost("stopping".to_owned());
                }
                Ok(())
            }
        };
        if let Err(broken) = done {
            return broken;
        }
        let now = Arc::clone(&values.borrow_and_update());
        if now.index > sent {
            let _place = calls.acquire().await;
            match give(caller, &client, &now).await {
                Ok(()) => sent = now.index,
                // A refusal is tried again at the next ping.
                Err(CallError::Fail(fail)) if fail.code != Code::Fenced => {
                    tracing::warn!(%node, why = %fail, "ssconf values refused");
                }
                Err(error) => return error.into(),
            }
        }
    }
}

/// The next VM that died; None when no more is told. Without a stream this never ends.
async fn loss(losses: &mut Option<Stream<wire::Losses>>) -> Option<SlotFacts> {
    let Some(stream) = losses else { return std::future::pending().await };
    match stream.next().await {
        Ok(Event::Item(facts)) => Some(facts),
        Ok(Event::End(())) | Err(_) => None,
    }
}

/// Connects, claims, compares.
async fn claim(caller: &Caller, target: &Target) -> Result<Client, Broken> {
    let node = target.node;
    let mut hello = Hello::new(wire::PROTOCOL, "gantry-wconfd");
    (hello.node, hello.cluster, hello.epoch) = (Some(node), Some(caller.cluster), Some(caller.fence.epoch));
    let identity = Identity::load(&caller.secrets)
        .map_err(|why| Broken::Lost(format!("can't read this node's certificate: {why}")))?;
    let client = Client::tls(target.address, &hello, &identity, node).await?;
    let asked = ask(caller, move |owner, reply| owner.asking(node, reply)).await?;
    let request = ClaimRequest { cluster: caller.cluster, node, fence: caller.fence };
    let facts = client.call::<wire::Claim>(&request, LOST).await?;
    ask(caller, move |owner, reply| owner.inventory(node, &asked, &facts, reply)).await?;
    Ok(client)
}

/// Asks a claimed node for its inventory again.
async fn again(caller: &Caller, node: NodeUuid, client: &Client) -> Result<(), Broken> {
    let asked = ask(caller, move |owner, reply| owner.asking(node, reply)).await?;
    let facts = client.call::<wire::Inventory>(&caller.fence, LOST).await?;
    ask(caller, move |owner, reply| owner.inventory(node, &asked, &facts, reply)).await
}

async fn ask<T: Send + 'static>(
    caller: &Caller,
    question: impl FnOnce(&mut Owner, super::mailbox::Reply<T>) + Send + 'static,
) -> Result<T, Broken> {
    caller.handle.ask(question).await.map_err(|fail| Broken::Lost(fail.text))
}

async fn give(caller: &Caller, client: &Client, values: &Values) -> Result<(), CallError> {
    let request = SsconfRequest { fence: caller.fence, index: values.index.0, values: values.values.clone() };
    client.call::<wire::Ssconf>(&request, LOST).await
}
