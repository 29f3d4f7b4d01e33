//! Verbs on the node itself: facts, test delay, ssconf, role, leaving.

use super::{DELAYS_MAX, Member, lock, shut};
use crate::core::{slot, ssconf};
use crate::driver::{CallKind, Class, bounded};
use crate::error;
use crate::io::data::{Change, SsconfMark};
use crate::io::{facts, files};
use gantry_model::ids::Fence;
use gantry_model::role::Role;
use gantry_proto::envelope::{Code, Fail};
use gantry_proto::noded::{NodeInfoReply, SetRoleRequest, SsconfRequest, TestDelayRequest, VmFacts};
use gantry_rt::{clock, crash};
use std::sync::Arc;
use std::time::Duration;

/// Longest test delay, in milliseconds: an hour.
pub const DELAY_MS_MAX: u64 = 60 * 60 * 1000;

/// How long the answer of a driver's probe is good for.
const PROBED_MS_MAX: u64 = 60 * 1000;
/// The same when one did not work: its helper may just be starting.
const FAILED_MS_MAX: u64 = 2 * 1000;

/// Runs blocking file work beside the async threads.
pub(super) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, Fail> + Send + 'static,
) -> Result<T, Fail> {
    tokio::task::spawn_blocking(work).await.map_err(|_| error::stopping())?
}

impl Member {
    /// Live facts.
    ///
    /// # Errors
    /// When the machine can't be read or a driver can't list its VMs.
    pub async fn info(&self) -> Result<NodeInfoReply, Fail> {
        let offer = facts::offer(&self.settings.root, self.settings.capacity)
            .map_err(|why| Fail::new(Code::Internal, format!("can't look at this machine: {why}")))?;
        let drivers = self.working_drivers().await;
        let seen = self.seen().await?;
        let sum = |size: fn(&crate::driver::Seen) -> u64| seen.iter().map(size).fold(0, u64::saturating_add);
        let (memory, disk) = (sum(|vm| vm.memory_mib), sum(|vm| vm.disk_mib));
        let vms = seen.iter().map(|vm| VmFacts {
            slot: vm.vm.slot,
            generation: vm.vm.generation,
            running: vm.running,
            memory_mib: vm.memory_mib,
            vcpus: vm.vcpus,
        });
        Ok(NodeInfoReply {
            node: self.node,
            release: env!("CARGO_PKG_VERSION").to_owned(),
            boot_id: self.boot_id.clone(),
            memory_total_mib: offer.memory_total_mib,
            memory_host_mib: offer.memory_host_mib,
            memory_free_mib: offer.memory_mib().saturating_sub(memory),
            cpus: offer.cpus,
            cpus_host: offer.cpus_host,
            numa_nodes: offer.numa_nodes,
            sockets: offer.sockets,
            disk_total_mib: offer.disk_total_mib,
            disk_free_mib: offer.disk_total_mib.saturating_sub(disk).min(offer.disk_room_mib),
            drivers,
            vms: vms.collect(),
        })
    }

    /// The drivers that work, probed anew once a minute at most: a probe may make a whole VM.
    async fn working_drivers(&self) -> Vec<String> {
        let mut probed = self.probed.lock().await;
        let now = clock::millis();
        if let Some((at, names)) = &*probed
            && now.saturating_sub(*at)
                < if names.len() < self.drivers.len() { FAILED_MS_MAX } else { PROBED_MS_MAX }
        {
            return names.clone();
        }
        let (mut names, mut settled) = (Vec::new(), true);
        for (name, driver) in &self.drivers {
            match bounded(&**driver, CallKind::Probe, driver.probe()).await {
                Ok(_) => names.push((*name).to_owned()),
                // On its way, as when vmd is just being started: whoever asks next may find it there.
                Err(why) if why.class == Class::Locked => settled = false,
                Err(why) => tracing::warn!(driver = name, %why, "driver does not work"),
            }
        }
        *probed = settled.then(|| (now, names.clone()));
        names
    }

    /// Sleeps; ends early, refused, when another master claims the node. Ends with its caller.
    ///
    /// # Errors
    /// `Fenced`, `BadRequest` over [`DELAY_MS_MAX`], `Busy` over [`DELAYS_MAX`].
    pub async fn test_delay(&self, request: TestDelayRequest) -> Result<(), Fail> {
        if request.millis > DELAY_MS_MAX {
            let text = format!("a test delay takes at most {DELAY_MS_MAX} ms, not {}", request.millis);
            return Err(Fail::new(Code::BadRequest, text));
        }
        let Ok(_permit) = self.delays.try_acquire() else {
            return Err(Fail::new(Code::Busy, format!("{DELAYS_MAX} test delays are under way")));
        };
        let pass = self.gate.enter(request.fence).map_err(shut)?;
        tokio::select! {
            () = tokio::time::sleep(Duration::from_millis(request.millis)) => Ok(()),
            _ = pass.overruled() => {
                self.gate.check(request.fence).map_err(shut)?;
                Err(error::stopping())
            }
        }
    }

    /// Writes ssconf files that differ, unless this node has newer ones.
    ///
    /// # Errors
    /// `Fenced`; `BadRequest` for an unknown key, before anything is written.
    pub async fn ssconf(self: &Arc<Self>, request: SsconfRequest) -> Result<(), Fail> {
        ssconf::check(&request.values).map_err(|why| error::ssconf(&why))?;
        let member = Arc::clone(self);
        self.detached("ssconf", async move { member.ssconf_now(request).await }).await
    }

    async fn ssconf_now(&self, request: SsconfRequest) -> Result<(), Fail> {
        let _one = self.filing.lock().await;
        let _pass = self.gate.enter(request.fence).map_err(shut)?;
        let mark = SsconfMark { epoch: request.fence.epoch, index: request.index };
        let known = *lock(&self.ssconf);
        if mark < known {
            return Ok(());
        }
        let (root, ganeti_paths) = (self.settings.root.clone(), self.settings.ganeti_paths);
        blocking(move || {
            files::write_ssconf(&root, ganeti_paths, &request.values).map_err(|why| error::file(&why))
        })
        .await?;
        if mark == known {
            return Ok(()); // The files were looked at and put right all the same.
        }
        // Last: after a crash half-way the same set is written again.
        self.data.put(Change::Ssconf(mark)).await.map_err(|why| error::data(&why))?;
        *lock(&self.ssconf) = mark;
        Ok(())
    }

    /// Sets this node's role; durable when it returns. Boot starts and stops daemons by it.
    ///
    /// # Errors
    /// `Fenced`; `Denied` for the role master, and for the master of this very epoch.
    pub async fn set_role(self: &Arc<Self>, request: SetRoleRequest) -> Result<(), Fail> {
        let member = Arc::clone(self);
        self.detached("set_role", async move { member.set_role_now(request).await }).await
    }

    async fn set_role_now(&self, request: SetRoleRequest) -> Result<(), Fail> {
        let _one = self.filing.lock().await;
        let _pass = self.gate.enter(request.fence).map_err(shut)?;
        let (roles, epoch) = (self.copies.roles().clone(), request.fence.epoch);
        let root = self.settings.root.clone();
        blocking(move || {
            if request.role == Role::Regular {
                crash::point("role-regular-asked");
            }
            roles.set(request.role, epoch)?;
            match request.role {
                Role::Regular => files::remove_ca_key(&root).map_err(|why| error::file(&why)),
                Role::Candidate | Role::Master => {
                    crash::point("role-candidate-set");
                    Ok(())
                }
            }
        })
        .await
    }

    /// Leaves the cluster: secrets, role, ssconf and records go. When this has returned, the process ends (or,
    /// serving several identities, this one becomes unjoined).
    ///
    /// # Errors
    /// `Fenced`; `Denied` for the master; `Busy` while VMs live here. The node is then a member as before.
    pub async fn leave(self: &Arc<Self>, fence: Fence) -> Result<(), Fail> {
        let member = Arc::clone(self);
        self.detached("leave", async move {
            let _one = member.filing.lock().await;
            member.gate.close(fence).map_err(shut)?;
            if let Err(why) = member.mark_leaving(fence).await {
                member.gate.reopen();
                return Err(why);
            }
            // No way back from here; what fails now is carried on at the next start.
            let (root, ganeti_paths) = (member.settings.root.clone(), member.settings.ganeti_paths);
            let done =
                blocking(move || files::finish_leaving(&root, ganeti_paths).map_err(|why| error::file(&why)))
                    .await;
            member.left.cancel();
            tracing::info!("left the cluster");
            done
        })
        .await
    }

    async fn mark_leaving(&self, fence: Fence) -> Result<(), Fail> {
        let roles = self.copies.roles().clone();
        blocking(move || roles.not_the_master(fence.epoch)).await?;
        self.drain(None).await?;
        let absent = |record: &slot::Record| record.state == slot::State::Absent;
        let mut live: Vec<_> = lock(&self.slots)
            .iter()
            .filter(|(_, of)| !absent(&lock(&of.record)))
            .map(|(slot, _)| *slot)
            .collect();
        live.extend(self.seen().await?.into_iter().map(|vm| vm.vm.slot));
        live.sort();
        live.dedup();
        if let Some(first) = live.first() {
            let text = format!("{} VMs are on this node (slot {first}, ...): destroy them first", live.len());
            return Err(Fail::new(Code::Busy, text));
        }
        let root = self.settings.root.clone();
        blocking(move || files::mark_leaving(&root).map_err(|why| error::file(&why))).await
    }
}
