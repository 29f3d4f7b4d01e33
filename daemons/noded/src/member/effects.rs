//! What nobody can refuse afterwards (P1.10): the cluster's address on this machine, and hooks. The master has itself
//! confirmed before it asks; here its fence is checked, and that a deposed master's address goes without anybody's asking.

use super::{Member, shut};
use crate::core::master_ip::{self, Record, Step};
use crate::core::{hooks as rules, ssconf};
use crate::error;
use crate::io::address::{self, AddressError};
use crate::io::{facts, files, hooks};
use gantry_model::ids::Fence;
use gantry_model::master_ip::MasterAddress;
use gantry_model::role::Role;
use gantry_model::root::Root;
use gantry_proto::effects::{
    AddressLookReply, HookEnd, HookPhase, HookStatus, HooksRunRequest, MasterIpOrder, MasterIpReply,
    MasterIpRequest,
};
use gantry_proto::envelope::{Code, Fail};
use std::net::Ipv4Addr;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{Mutex, Semaphore};
use tokio_util::sync::CancellationToken;

/// Directories of hooks at work on one node: what jobs of a busy master ask for at once, and each may be a shell.
const HOOKS_AT_ONCE_MAX: usize = 32;
/// How long hooks of the address itself may take: others wait for the address to come and go.
const TURN_HOOKS: Duration = Duration::from_secs(10);
/// Pause before an address that could not be taken away is tried again.
const AGAIN: Duration = Duration::from_secs(2);
/// How often neighbours are told of a new address, and the pause between: a single frame may be lost.
const ANNOUNCEMENTS: (u32, Duration) = (3, Duration::from_millis(500));

/// Names of the address's hooks, and the opcodes that Ganeti has them believe in.
const UP: (&str, &str) = ("master-ip-turnup", "OP_CLUSTER_IP_TURNUP");
const DOWN: (&str, &str) = ("master-ip-turndown", "OP_CLUSTER_IP_TURNDOWN");

/// What a member keeps for this.
pub struct Effects {
    /// What of the cluster's address is here, as on the disk. Held while it changes.
    address: Mutex<Held>,
    /// Places of directories of hooks.
    hooks: Semaphore,
}

struct Held {
    record: Record,
    /// This daemon ends: nothing is put up any more.
    closed: bool,
}

impl Effects {
    /// With what the file says.
    pub(super) fn new(root: &Root) -> Self {
        let record = files::read_master_ip(root).unwrap_or_else(|why| {
            tracing::error!(
                why = %error::file(&why).text,
                "what was put up of the cluster's address is not known: if another node has it too, take it away by hand"
            );
            Record::default()
        });
        let address = Mutex::new(Held { record, closed: false });
        Self { address, hooks: Semaphore::new(HOOKS_AT_ONCE_MAX) }
    }
}

fn failed(why: &AddressError) -> Fail {
    let cause = std::error::Error::source(why).map(|cause| format!(": {cause}")).unwrap_or_default();
    Fail::new(Code::Internal, format!("{why}{cause}"))
}

/// Whether no device of this machine has the address.
fn vacant(address: &MasterAddress) -> Result<(), Fail> {
    let Some(device) = address::device_of(address.ip).map_err(|why| failed(&why))? else { return Ok(()) };
    let text = format!(
        "{} is on {device} of this machine already, and not by Gantry: it is left as it is; remove it there, or give the \
         cluster another address",
        address.ip
    );
    Err(Fail::new(Code::Busy, text))
}

/// Tells the neighbours once. That they are not told is no reason to do without the address.
fn announce(address: &MasterAddress) {
    if let Err(why) = address::announce(address) {
        tracing::warn!(why = failed(&why).text, "neighbours are not told of the cluster's address");
    }
}

impl Member {
    /// Puts the cluster's address up here, or takes it down; durable when it returns.
    ///
    /// # Errors
    /// `Fenced`; `Denied` when this node is not the master of that epoch; `BadRequest` for an address that no device can
    /// have; `Busy` for one that this machine has by somebody else's doing; `Internal` when a hook or `ip` refuses.
    pub async fn master_ip(self: &Arc<Self>, request: MasterIpRequest) -> Result<MasterIpReply, Fail> {
        if let MasterIpOrder::Keep(Some(address)) | MasterIpOrder::Up(address) = &request.order {
            address.check().map_err(|why| Fail::new(Code::BadRequest, why))?;
        }
        let member = Arc::clone(self);
        self.detached("master_ip", async move { member.master_ip_now(request).await }).await
    }

    async fn master_ip_now(self: &Arc<Self>, request: MasterIpRequest) -> Result<MasterIpReply, Fail> {
        let mut held = self.effects.address.lock().await;
        let fence = request.fence;
        {
            let _pass = self.gate.enter(fence).map_err(shut)?;
        }
        if held.closed {
            return Err(error::stopping());
        }
        let role = self.copies.roles().current();
        if (role.role, role.epoch) != (Role::Master, fence.epoch) {
            let text = format!("this node is not the master of epoch {}", fence.epoch);
            return Err(Fail::new(Code::Denied, text));
        }
        let steps = master_ip::obey(&held.record, fence.epoch, &request.order);
        self.take(steps, &mut held.record, Some(fence)).await?;
        Ok(MasterIpReply { up: held.record.address.is_some() })
    }

    /// Whether this machine has an address, whoever put it there.
    ///
    /// # Errors
    /// `Internal` when the kernel can't be asked.
    pub async fn address_look(&self, ip: Ipv4Addr) -> Result<AddressLookReply, Fail> {
        let device = address::device_of(ip).map_err(|why| failed(&why))?;
        let stack = facts::network_stack().map_err(|why| Fail::new(Code::Internal, why.to_string()))?;
        let (role, record) =
            (self.copies.roles().current(), self.effects.address.lock().await.record.clone());
        let down = record.down && role.role == Role::Master && role.epoch == record.epoch;
        Ok(AddressLookReply { device, down, stack })
    }

    /// Takes the address away unless this node is the master by whose word it is here. What fails is told.
    pub(super) async fn follow_role(self: &Arc<Self>) -> bool {
        let mut held = self.effects.address.lock().await;
        let steps = master_ip::follow(&held.record, self.copies.roles().current());
        let done = self.take(steps, &mut held.record, None).await;
        if let Err(why) = &done {
            tracing::error!(%why, "this node is not the master, and the cluster's address is still here");
        }
        done.is_ok()
    }

    /// Follows the role for as long as the member is served, and takes the address away at the end.
    ///
    /// # Errors
    /// Never.
    pub async fn keep_master_ip(self: Arc<Self>, stop: CancellationToken) -> anyhow::Result<()> {
        let mut news = self.copies.roles().news();
        while !stop.is_cancelled() {
            news.borrow_and_update();
            let again = if self.follow_role().await { Duration::MAX } else { AGAIN };
            tokio::select! {
                () = stop.cancelled() => {}
                _ = news.changed() => {}
                () = tokio::time::sleep(again) => {}
            }
        }
        let mut held = self.effects.address.lock().await;
        held.closed = true;
        let steps = master_ip::release(&held.record);
        if let Err(why) = self.take(steps, &mut held.record, None).await {
            tracing::error!(%why, "the cluster's address stays on this machine while its noded is away");
        }
        Ok(())
    }

    async fn take(
        self: &Arc<Self>,
        steps: Vec<Step>,
        record: &mut Record,
        fence: Option<Fence>,
    ) -> Result<(), Fail> {
        for step in steps {
            match step {
                Step::Store(next) => {
                    let (root, stored) = (self.settings.root.clone(), next.clone());
                    let write =
                        move || files::write_master_ip(&root, &stored).map_err(|why| error::file(&why));
                    super::node::blocking(write).await?;
                    *record = next;
                }
                Step::Remove(address) => self.turn_down(&address).await?,
                Step::Vacant(address) => vacant(&address)?,
                Step::Add(address) => self.turn_up(&address, fence).await?,
            }
        }
        Ok(())
    }

    async fn turn_up(self: &Arc<Self>, address: &MasterAddress, fence: Option<Fence>) -> Result<(), Fail> {
        if address::is_up(address).map_err(|why| failed(&why))? {
            return Ok(());
        }
        if let Some(bad) = self.turn_hooks(UP, HookPhase::Pre, address).await {
            return Err(Fail::new(Code::Internal, bad));
        }
        // Hooks take their time: the last look before the effect.
        if let Some(fence) = fence {
            self.gate.check(fence).map_err(shut)?;
        }
        address::add(address).await.map_err(|why| failed(&why))?;
        tracing::info!(%address, "the cluster's address is up");
        announce(address);
        self.announce_again(address.clone());
        self.turn_hooks(UP, HookPhase::Post, address).await;
        Ok(())
    }

    /// Takes it away; hooks that fail are told, and keep nothing up.
    async fn turn_down(&self, address: &MasterAddress) -> Result<(), Fail> {
        if !address::is_up(address).map_err(|why| failed(&why))? {
            return Ok(());
        }
        self.turn_hooks(DOWN, HookPhase::Pre, address).await;
        address::remove(address).await.map_err(|why| failed(&why))?;
        tracing::info!(%address, "the cluster's address is down");
        self.turn_hooks(DOWN, HookPhase::Post, address).await;
        Ok(())
    }

    /// Tells the neighbours some more times, as long as it is here.
    fn announce_again(self: &Arc<Self>, address: MasterAddress) {
        let member = Arc::clone(self);
        self.tasks.spawn("announce", async move {
            for _ in 1..ANNOUNCEMENTS.0 {
                tokio::time::sleep(ANNOUNCEMENTS.1).await;
                // A node that has just taken it away must not speak for it.
                let held = member.effects.address.lock().await;
                if held.record.address.as_ref() != Some(&address) {
                    break;
                }
                announce(&address);
            }
            anyhow::Ok(())
        });
    }

    /// Runs the hooks of the address; what the first that failed said.
    async fn turn_hooks(
        &self,
        (path, code): (&str, &str),
        phase: HookPhase,
        address: &MasterAddress,
    ) -> Option<String> {
        let text = |key: &str| -> Option<String> {
            debug_assert!(ssconf::KEYS.contains(&key));
            let bytes = files::read_if_there(&self.settings.root.ssconf(key)).ok()??;
            Some(String::from_utf8_lossy(&bytes).trim().to_owned())
        };
        let env = [
            ("OP_CODE", Some(code.to_owned())),
            ("OBJECT_TYPE", Some("CLUSTER".to_owned())),
            ("CLUSTER", text("cluster_name")),
            ("MASTER", self.settings.name.clone()),
            ("MASTER_NETDEV", Some(address.device.clone())),
            ("MASTER_IP", Some(address.ip.to_string())),
            ("MASTER_NETMASK", Some(address.prefix.to_string())),
            ("CLUSTER_IP_VERSION", Some("4".to_owned())),
        ];
        let env = env.into_iter().filter_map(|(name, value)| Some((format!("GANETI_{name}"), value?)));
        let fence = Fence { epoch: 0, ballot: [0; 16] };
        let request = HooksRunRequest { fence, path: path.to_owned(), phase, env: env.collect() };
        let ends = match tokio::time::timeout(TURN_HOOKS, self.hooks_of(&request)).await {
            Ok(Ok(ends)) => ends,
            Ok(Err(why)) => return Some(why.text),
            Err(_) => return Some(format!("hooks of {path} did not end within {} s", TURN_HOOKS.as_secs())),
        };
        let bad = ends.into_iter().find(|end| end.status == HookStatus::Failed);
        bad.map(|end| format!("hook {}: {}", end.script, end.output))
    }

    /// Runs hooks for a master. Ends early when another one claims the node, and with its caller.
    ///
    /// # Errors
    /// `Fenced`; `BadRequest` for what names no hooks; `Internal` for a directory that can't be read.
    pub async fn hooks_run(&self, request: HooksRunRequest) -> Result<Vec<HookEnd>, Fail> {
        rules::check(&request).map_err(|why| Fail::new(Code::BadRequest, why))?;
        // Waits as long as the caller does, whose jobs are bounded: a hook that is not run prevents nothing.
        let _place = self.effects.hooks.acquire().await.map_err(|_| error::stopping())?;
        let pass = self.gate.enter(request.fence).map_err(shut)?;
        tokio::select! {
            ends = self.hooks_of(&request) => ends,
            _ = pass.overruled() => {
                self.gate.check(request.fence).map_err(shut)?;
                Err(error::stopping())
            }
        }
    }

    /// Ours first, then those that were Ganeti's, if node.toml wants its paths.
    async fn hooks_of(&self, request: &HooksRunRequest) -> Result<Vec<HookEnd>, Fail> {
        let root = &self.settings.root;
        let mut places = vec![root.hooks()];
        if self.settings.ganeti_paths {
            places.push(root.path().join("etc/ganeti/hooks"));
        }
        let name = rules::directory(&request.path, request.phase);
        let mut all = Vec::new();
        for place in places {
            let dir = place.join(&name);
            let found = hooks::list(&dir);
            all.extend(found.map_err(|why| {
                Fail::new(Code::Internal, format!("can't look for hooks in {}: {why}", dir.display()))
            })?);
        }
        let env = rules::environment(request, &root.lib().display().to_string());
        Ok(hooks::run(&all, &env).await)
    }
}
