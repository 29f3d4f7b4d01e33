//! Comparing what lives here with what is recorded: the records decide (I2).

use super::put::{self, blocking};
use super::{Member, shut};
use crate::core::slot::State;
use crate::driver::{CallKind, Class, Driver, DriverError, Seen, Swept, bounded};
use crate::error;
use crate::io::uploads::failed;
use gantry_model::ids::Fence;
use gantry_proto::envelope::Fail;
use gantry_proto::noded::AuditReply;
use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

/// Pauses between looks for a driver's helper at the start, doubling, and how often: 5 min in all.
const SWEEP_PAUSE: Duration = Duration::from_millis(100);
const SWEEP_PAUSE_MAX: Duration = Duration::from_secs(10);
const SWEEP_TRIES: u32 = 36;

impl Member {
    /// Kills VMs of this cluster and node that are no slot's current generation, and removes leftovers of VMs that are
    /// gone. What has no label, or another cluster's, is not seen at all.
    ///
    /// # Errors
    /// `Fenced`; a driver's that can't list its VMs.
    pub async fn audit(self: &Arc<Self>, fence: Fence) -> Result<AuditReply, Fail> {
        self.gate.check(fence).map_err(shut)?;
        let member = Arc::clone(self);
        self.detached("audit", async move {
            let _pass = member.gate.enter(fence).map_err(shut)?;
            member.audit_now().await
        })
        .await
    }

    /// Removes what an earlier life left of VMs that its drivers do not know. Waits for a driver whose helper is just being
    /// started; what can't be removed stays for the next audit.
    pub async fn sweep_at_start(&self) {
        for driver in self.drivers.values() {
            match sweep_when_ready(&**driver).await {
                Ok(Swept { removed, failed }) if removed.is_empty() && failed.is_empty() => {}
                Ok(Swept { removed, failed }) => tracing::warn!(?removed, ?failed, "leftovers were found"),
                Err(why) => tracing::warn!(driver = driver.name(), %why, "leftovers are not looked for"),
            }
        }
    }

    async fn audit_now(&self) -> Result<AuditReply, Fail> {
        let mut reply = AuditReply { killed: Vec::new(), failed: Vec::new(), seen: 0 };
        for driver in self.drivers.values() {
            let Some(seen) = self.listed(&**driver).await? else { continue };
            reply.seen += seen.len() as u64;
            for vm in seen {
                self.judge(&**driver, &vm, &mut reply).await?;
            }
            match bounded(&**driver, CallKind::Sweep, driver.sweep()).await {
                Ok(swept) => {
                    reply.killed.extend(swept.removed);
                    reply.failed.extend(swept.failed);
                }
                Err(why) => reply.failed.push((format!("leftovers of {}", driver.name()), why.to_string())),
            }
        }
        self.forget_strange_uploads().await?;
        if !reply.killed.is_empty() || !reply.failed.is_empty() {
            tracing::warn!(killed = ?reply.killed, failed = ?reply.failed, "strangers were found");
        }
        Ok(reply)
    }

    /// Kills a VM that is no slot's current one. A slot's own verbs have their turn first.
    async fn judge(&self, driver: &dyn Driver, seen: &Seen, reply: &mut AuditReply) -> Result<(), Fail> {
        let slot = self.slot(seen.vm.slot, false)?;
        let _turn = match &slot {
            Some(slot) => Some(slot.turn.lock().await),
            None => None,
        };
        let current = slot.as_ref().is_some_and(|slot| {
            let record = slot.record();
            record.generation == seen.vm.generation
                && record.state != State::Absent
                && record.driver == driver.name()
        });
        if current {
            return Ok(());
        }
        match bounded(driver, CallKind::Destroy, driver.destroy(&seen.vm)).await {
            Ok(()) => reply.killed.push(seen.vm.to_string()),
            Err(DriverError { class: Class::NotFound, .. }) => {}
            Err(why) => reply.failed.push((seen.vm.to_string(), why.to_string())),
        }
        Ok(())
    }

    async fn forget_strange_uploads(&self) -> Result<(), Fail> {
        let live: HashSet<String> =
            self.live().into_iter().map(|(slot, of)| put::name(slot, of.record().generation)).collect();
        let (uploads, dir) = (self.uploads.clone(), self.settings.root.lib().join("put"));
        blocking(move || uploads.keep_of(&live).map_err(|why| failed(&dir, &why))).await
    }

    /// A driver's VMs; None when it can't tell and no record says that it has any, as where it can't work at all.
    pub(super) async fn listed(&self, driver: &dyn Driver) -> Result<Option<Vec<Seen>>, Fail> {
        match bounded(driver, CallKind::List, driver.list()).await {
            Ok(seen) => Ok(Some(seen)),
            Err(why) if why.class == Class::Locked && !self.has_records_of(driver.name()) => Ok(None),
            Err(why) => Err(error::driver(&why)),
        }
    }
}

async fn sweep_when_ready(driver: &dyn Driver) -> Result<Swept, DriverError> {
    let mut pause = SWEEP_PAUSE;
    for _ in 1..SWEEP_TRIES {
        match bounded(driver, CallKind::Sweep, driver.sweep()).await {
            Err(why) if why.class == Class::Locked => tokio::time::sleep(pause).await,
            swept => return swept,
        }
        pause = (pause * 2).min(SWEEP_PAUSE_MAX);
    }
    bounded(driver, CallKind::Sweep, driver.sweep()).await
}
