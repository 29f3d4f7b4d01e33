//! What this master does that nobody can refuse afterwards: it keeps the cluster's address on its node and has the hooks of
//! a failover run there. Before each, a majority of the copies confirms the master (P1.10); it has read only what is
//! committed, its own first batch included. Nothing here holds a failover up: what fails is told, and tried again.
//!
//! ```text
//! the address, as committed ─► confirm ─► own noded: MasterIp(Keep) ─► [failover: HooksRun]
//!        ▲                                                                      │
//!        └── a change, a noded that restarted, 10 s later ◄─────────────────────┘
//! ```

use super::mailbox::{Handle, Reply};
use super::members::Members;
use super::owner::Owner;
use gantry_model::ids::{ClusterUuid, Fence, NodeUuid};
use gantry_model::master_ip::MasterAddress;
use gantry_model::root::Root;
use gantry_proto::effects::{HookPhase, HookStatus, HooksRunRequest, MasterIpOrder, MasterIpRequest};
use gantry_proto::noded::{self as wire, HooksRun, MasterIp};
use gantry_rpc::{CallError, Client, Code, Hello};
use std::time::Duration;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

/// How often the address is looked at while nothing happens: somebody may have taken it from its device.
const LOOK: Duration = Duration::from_secs(10);
/// Pause after a failure that passes: the own noded may be starting, or not be claimed yet. Where it refuses, the pause is
/// [`LOOK`]: each attempt runs hooks.
const AGAIN: Duration = Duration::from_secs(1);
/// How long noded may take to put the address up or take it down, with the hooks around that.
const ADDRESS_CALL: Duration = Duration::from_secs(60);
/// The same for the hooks of a failover: what noded allows them, and a little.
const HOOKS_CALL: Duration = Duration::from_secs(150);
/// Name of a failover's hooks, which are ours: Ganeti has none.
const FAILOVER_HOOKS: &str = "master-failover";
/// Lines of a failed hook in the log.
const LINES_MAX: usize = 20;

/// Who keeps them.
pub struct Keeper {
    /// The owner of the state.
    pub handle: Handle,
    /// Who confirms.
    pub members: Members,
    /// Where noded's socket is.
    pub root: Root,
    /// This cluster.
    pub cluster: ClusterUuid,
    /// This node.
    pub node: NodeUuid,
    /// This master's claim.
    pub fence: Fence,
    /// The name of this node.
    pub name: String,
    /// The name of the master before, if this start took over from it.
    pub before: Option<String>,
}

/// What is committed of the cluster.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Wanted {
    address: Result<Option<MasterAddress>, String>,
    cluster: String,
}

impl Owner {
    /// The cluster's name and address, once all before is committed.
    pub fn wanted_effects(&mut self, reply: Reply<Wanted>) {
        let cluster = self.config.cluster();
        let wanted = Wanted { address: MasterAddress::of(cluster), cluster: cluster.cluster_name.clone() };
        self.answer(reply, Ok(wanted));
    }
}

/// Where the keeper stands.
#[derive(Default)]
struct Standing {
    client: Option<Client>,
    /// What noded was last told, on this connection.
    told: Option<Option<MasterAddress>>,
    /// The last thing that failed was noded's refusal of the address.
    refused: bool,
    /// The hooks of the failover are over.
    hooks_done: bool,
    /// The last failure that was logged.
    failure: String,
}

impl Keeper {
    /// Keeps them until `stop`.
    ///
    /// # Errors
    /// Never.
    pub async fn keep(self, mut news: watch::Receiver<u64>, stop: CancellationToken) -> anyhow::Result<()> {
        let mut standing = Standing { hooks_done: self.before.is_none(), ..Standing::default() };
        loop {
            news.borrow_and_update();
            let done = tokio::select! {
                () = stop.cancelled() => return Ok(()),
                done = self.once(&mut standing) => done,
            };
            let pause = if done.is_ok() || standing.refused { LOOK } else { AGAIN };
            let failure = done.err().unwrap_or_default();
            if failure != standing.failure && !failure.is_empty() {
                tracing::warn!(why = failure, "the cluster's address or the hooks of the failover");
            }
            standing.failure = failure;
            tokio::select! {
                () = stop.cancelled() => return Ok(()),
                changed = news.changed() => if changed.is_err() { return Ok(()) },
                () = closed(standing.client.as_ref()) => {}
                () = tokio::time::sleep(pause) => {}
            }
        }
    }

    /// Looks once, and does what there is to do.
    async fn once(&self, standing: &mut Standing) -> Result<(), String> {
        if standing.client.as_ref().is_some_and(Client::is_closed) {
            (standing.client, standing.told) = (None, None);
        }
        standing.refused = false;
        let wanted = self.handle.ask(Owner::wanted_effects).await.map_err(|fail| fail.text)?;
        let address = wanted.address.clone()?;
        // Nothing to have, and noded knows: no need to trouble anybody.
        if standing.hooks_done && address.is_none() && standing.told == Some(None) {
            return Ok(());
        }
        self.members.confirm().await.map_err(|fail| fail.text)?;
        let order = MasterIpOrder::Keep(address.clone());
        let request = MasterIpRequest { fence: self.fence, order };
        let client = self.client(standing).await?;
        let done = client.call::<MasterIp>(&request, ADDRESS_CALL).await;
        standing.told = done.is_ok().then_some(address);
        standing.refused = matches!(&done, Err(CallError::Fail(fail)) if fail.code != Code::NotReady);
        let done = done.map(|_| ()).map_err(|why| why.to_string());
        if !standing.hooks_done {
            // An address that can't be had keeps no hook from running.
            standing.hooks_done = self.failover_hooks(&client, &wanted).await?;
        }
        done
    }

    async fn client(&self, standing: &mut Standing) -> Result<Client, String> {
        if let Some(client) = &standing.client {
            return Ok(client.clone());
        }
        let mut hello = Hello::new(wire::PROTOCOL, "gantry-wconfd");
        (hello.node, hello.cluster, hello.epoch) =
            (Some(self.node), Some(self.cluster), Some(self.fence.epoch));
        let connected = Client::unix(&self.root.socket("noded.sock"), &hello).await;
        let client = connected.map_err(|why| format!("this node's noded is not reached: {why}"))?;
        standing.client = Some(client.clone());
        Ok(client)
    }

    /// Runs them here, once; whether they are over. They can't fail a failover that has happened.
    async fn failover_hooks(&self, client: &Client, wanted: &Wanted) -> Result<bool, String> {
        let before = self.before.as_deref().unwrap_or_default();
        let env = [
            ("OP_CODE", "OP_CLUSTER_FAILOVER"),
            ("OBJECT_TYPE", "CLUSTER"),
            ("CLUSTER", &wanted.cluster),
            ("MASTER", &self.name),
            ("OP_TARGET", &wanted.cluster),
            ("OLD_MASTER", before),
            ("NEW_MASTER", &self.name),
        ];
        let env = env.map(|(name, value)| (format!("GANETI_{name}"), value.to_owned())).to_vec();
        let request = HooksRunRequest {
            fence: self.fence,
            path: FAILOVER_HOOKS.to_owned(),
            phase: HookPhase::Post,
            env,
        };
        match client.call::<HooksRun>(&request, HOOKS_CALL).await {
            Ok(ends) => {
                for end in ends.iter().filter(|end| end.status == HookStatus::Failed) {
                    let said: Vec<&str> = end.output.lines().take(LINES_MAX).collect();
                    tracing::warn!(hook = end.script, said = said.join(" | "), "hook of the failover failed");
                }
                Ok(true)
            }
            // Not claimed yet, or gone before it began: asked again.
            Err(CallError::Fail(fail)) if matches!(fail.code, Code::NotReady | Code::Busy) => Err(fail.text),
            Err(why) => {
                tracing::warn!(%why, "hooks of the failover");
                Ok(true)
            }
        }
    }
}

async fn closed(client: Option<&Client>) {
    match client {
        Some(client) => client.closed().await,
        None => std::future::pending().await,
    }
}
