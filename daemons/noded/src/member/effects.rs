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
/// The same while this daemon ends: all of it must fit into what a daemon is given for its end
/// ([`gantry_rt::JOIN_MS`]), or the address would stay.
const END_HOOKS: Duration = Duration::from_millis(1_500);
/// Pause before an address that could not be taken away is tried again.
const AGAIN: Duration = Duration::from_secs(2);
/// How often neighbours are told of a new address, and the pause between: a single frame may be lost.
const ANNOUNCEMENTS: (u32, Duration) = (3, Duration::from_millis(500));

/// Names of the address's hooks, and the opcodes that Ganeti has them believe in.
const UP: (&str, &str) = ("master-ip-turnup", "OP_CLUSTER_IP_TURNUP");
const DOWN: (&str, &str) = ("master-ip-turndown", "OP_CLUSTER_IP_TURNDOWN");

/// By what the address comes or goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Cause {
    /// The master's order.
    Order(Fence),
    /// This node is not the master any more.
    Role,
    /// This daemon ends.
    End,
}

/// What a member keeps for this.
pub struct Effects {
    /// This daemon ends: hooks that would hold that up end too.
    ending: CancellationToken,
    /// What the last failed hook of the address said, which is not told again.
    said: std::sync::Mutex<String>,
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

/// What hooks are told of where this node's state lies.
fn data_dir(root: &Root) -> String {
    root.lib().display().to_string()
}

impl Effects {
    /// With what the file says. Hooks of a noded before this one are ended: nobody waits for them.
    pub(super) fn new(root: &Root) -> Self {
        match hooks::end_left_behind(&data_dir(root)) {
            Ok(0) => {}
            Ok(count) => tracing::warn!(count, "hooks of the noded before this one are killed"),
            Err(why) => tracing::warn!(%why, "can't look for hooks that were left behind"),
        }
        let record = files::read_master_ip(root).unwrap_or_else(|why| {
            tracing::error!(
                why = %error::file(&why).text,
                "what was put up of the cluster's address is not known: if another node has it too, take it away by hand"
            );
            Record::default()
        });
        let address = Mutex::new(Held { record, closed: false });
        let (ending, said) = (CancellationToken::new(), std::sync::Mutex::default());
        Self { ending, said, address, hooks: Semaphore::new(HOOKS_AT_ONCE_MAX) }
    }
}

impl Effects {
    /// Logs what a hook of the address said, unless it has just said the same: a refused address is tried again and again.
    fn tell(&self, bad: Option<&str>) {
        let Some(bad) = bad else { return };
        let mut said = self.said.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        if *said != bad {
            tracing::warn!(why = bad, "hooks of the cluster's address");
            bad.clone_into(&mut said);
        }
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
        if let Err(why) = self.take(steps, &mut held.record, Cause::Order(fence)).await {
            self.forget_absent(&mut held.record).await;
            return Err(why);
        }
        Ok(MasterIpReply { up: held.record.address.is_some() })
    }

    /// An address that could not be put up is not on record, so that nobody else's passes for it.
    async fn forget_absent(self: &Arc<Self>, record: &mut Record) {
        let Some(address) = &record.address else { return };
        if matches!(address::device_of(address.ip), Ok(None))
            && let Err(why) = self.take(master_ip::failed(record), record, Cause::Role).await
        {
            tracing::warn!(%why, "an address that is not here stays on record");
        }
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
        let done = self.take(steps, &mut held.record, Cause::Role).await;
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
        self.effects.ending.cancel();
        let mut held = self.effects.address.lock().await;
        held.closed = true;
        let steps = master_ip::release(&held.record);
        if let Err(why) = self.take(steps, &mut held.record, Cause::End).await {
            tracing::error!(%why, "the cluster's address stays on this machine while its noded is away");
        }
        Ok(())
    }

    async fn take(self: &Arc<Self>, steps: Vec<Step>, record: &mut Record, cause: Cause) -> Result<(), Fail> {
        for step in steps {
            match step {
                Step::Store(next) => {
                    let (root, stored) = (self.settings.root.clone(), next.clone());
                    let write =
                        move || files::write_master_ip(&root, &stored).map_err(|why| error::file(&why));
                    super::node::blocking(write).await?;
                    *record = next;
                }
                Step::Remove(address) => self.turn_down(&address, cause).await?,
                Step::Vacant(address) => vacant(&address)?,
                Step::Add(address) => self.turn_up(&address, cause).await?,
            }
        }
        Ok(())
    }

    async fn turn_up(self: &Arc<Self>, address: &MasterAddress, cause: Cause) -> Result<(), Fail> {
        if address::is_up(address).map_err(|why| failed(&why))? {
            return Ok(());
        }
        if let Some(bad) = self.turn_hooks(UP, HookPhase::Pre, address, cause).await {
            return Err(Fail::new(Code::Internal, bad));
        }
        // Hooks take their time: the last look before the effect.
        if let Cause::Order(fence) = cause {
            self.gate.check(fence).map_err(shut)?;
        }
        address::add(address).await.map_err(|why| failed(&why))?;
        tracing::info!(%address, "the cluster's address is up");
        announce(address);
        self.announce_again(address.clone());
        self.hooks_afterwards(UP, address, cause);
        Ok(())
    }

    /// Takes it away; hooks that fail are told, and keep nothing up.
    async fn turn_down(self: &Arc<Self>, address: &MasterAddress, cause: Cause) -> Result<(), Fail> {
        if !address::is_up(address).map_err(|why| failed(&why))? {
            return Ok(());
        }
        self.turn_hooks(DOWN, HookPhase::Pre, address, cause).await;
        address::remove(address).await.map_err(|why| failed(&why))?;
        tracing::info!(%address, "the cluster's address is down");
        if cause == Cause::End {
            self.turn_hooks(DOWN, HookPhase::Post, address, cause).await;
        } else {
            self.hooks_afterwards(DOWN, address, cause);
        }
        Ok(())
    }

    /// Runs the hooks after the address came or went; nobody waits for them.
    fn hooks_afterwards(
        self: &Arc<Self>,
        names: (&'static str, &'static str),
        address: &MasterAddress,
        cause: Cause,
    ) {
        let (member, address) = (Arc::clone(self), address.clone());
        self.tasks.spawn("hooks of the address", async move {
            member.turn_hooks(names, HookPhase::Post, &address, cause).await;
            anyhow::Ok(())
        });
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
        cause: Cause,
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
        let bad = self.bad_of(&request, cause).await;
        self.effects.tell(bad.as_deref());
        bad
    }

    /// What the first hook that failed said, or why they were not all run.
    async fn bad_of(&self, request: &HooksRunRequest, cause: Cause) -> Option<String> {
        let (limit, cut_short) = match cause {
            Cause::End => (END_HOOKS, None),
            Cause::Order(_) | Cause::Role => (TURN_HOOKS, Some(&self.effects.ending)),
        };
        let ended = async {
            match cut_short {
                Some(ending) => ending.cancelled().await,
                None => std::future::pending().await,
            }
        };
        let ends = tokio::select! {
            ends = tokio::time::timeout(limit, self.hooks_of(request)) => ends,
            () = ended => return Some(format!("hooks of {} are cut short: noded ends", request.path)),
        };
        let ends = match ends {
            Ok(Ok(ends)) => ends,
            Ok(Err(why)) => return Some(why.text),
            Err(_) => {
                return Some(format!(
                    "hooks of {} did not end within {} ms",
                    request.path,
                    limit.as_millis()
                ));
            }
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
            ends = self.hooks_of(&request) => {
                for end in ends.iter().flatten().filter(|end| end.status == HookStatus::Failed) {
                    tracing::warn!(hook = end.script, output = end.output, "hook failed");
                }
                ends
            }
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
        let env = rules::environment(request, &data_dir(root));
        Ok(hooks::run(&all, &env).await)
    }
}
