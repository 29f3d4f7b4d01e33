//! Deaths of clean VMs, told to the master at once: it must not lease what is dead. Of a VM that a lease has opened its
//! holder hears himself, and knows better why: a user's own memory may have been the end of it.

use super::{Member, Place, shut};
use crate::core::Rules;
use crate::core::slot;
use crate::driver::{Driver, DriverError, VmId};
use crate::error;
use gantry_model::ids::Fence;
use gantry_proto::envelope::{Code, Fail};
use gantry_proto::noded::{Losses, SlotFacts, VmRef};
use gantry_rpc::ItemSender;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{broadcast, mpsc};
use tokio_util::sync::CancellationToken;

/// Losses that the master may be behind; what it misses stands in its next inventory.
pub(super) const LOSSES_MAX: usize = 256;
/// Deaths on their way from a driver.
const DEATHS: usize = 16;
/// First and longest pause before a driver that can't tell of deaths is asked again: its helper is being started.
const PAUSE: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(5));

impl Member {
    /// Listens to the drivers until told to stop.
    pub async fn hear_deaths(self: Arc<Self>, over: CancellationToken) {
        let mut listeners = tokio::task::JoinSet::new();
        for driver in self.drivers.values() {
            let (member, driver) = (Arc::clone(&self), Arc::clone(driver));
            listeners.spawn(async move { member.listen(&*driver).await });
        }
        // Dropping the set ends them: what they store is a whole row or nothing.
        over.cancelled().await;
    }

    async fn listen(self: &Arc<Self>, driver: &dyn Driver) {
        let mut pause = PAUSE.0;
        loop {
            let (told, mut deaths) = mpsc::channel(DEATHS);
            let hear = async {
                let mut heard = false;
                while let Some(news) = deaths.recv().await {
                    heard = true;
                    if let Err(why) = self.died(driver, news).await {
                        tracing::warn!(driver = driver.name(), %why, "a death is looked into at the next inventory");
                    }
                }
                heard
            };
            let (ended, heard) = tokio::join!(driver.deaths(told), hear);
            if let Err(DriverError { text, .. }) = ended {
                tracing::debug!(driver = driver.name(), text, "deaths are not told of now");
            }
            if heard {
                pause = PAUSE.0;
            }
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(PAUSE.1);
        }
    }

    /// One VM died; None: any may have.
    async fn died(self: &Arc<Self>, driver: &dyn Driver, which: Option<VmId>) -> Result<(), Fail> {
        let Some(vm) = which else { return self.find_lost(|record| !record.opened).await };
        let Some(slot) = self.slot(vm.slot, false)? else { return Ok(()) };
        let _turn = slot.turn.lock().await;
        let record = slot.record();
        let meant = record.generation == vm.generation && record.driver == driver.name() && !record.opened;
        if meant { self.observe(vm.slot, &slot).await } else { Ok(()) }
    }

    /// Tells who listens. Nobody may.
    pub(super) fn tell_loss(&self, id: gantry_model::ids::InstanceUuid, record: &slot::Record) {
        if let Some(facts) = slot::facts(Rules::ALL, id, record).filter(|_| !record.opened) {
            let _ = self.losses.send(facts);
        }
    }

    /// `losses`: those there are, then each as it is seen, until the caller goes or another master claims the node.
    ///
    /// # Errors
    /// `Fenced`.
    pub async fn watch_losses(&self, fence: Fence, items: ItemSender<Losses>) -> Result<(), Fail> {
        self.gate.check(fence).map_err(shut)?;
        let mut news = self.losses.subscribe();
        let gone = |why: gantry_rpc::ItemError| Fail::new(Code::Internal, why.to_string());
        for facts in self.lost() {
            items.send(&facts).await.map_err(gone)?;
        }
        loop {
            let lost = tokio::select! {
                lost = news.recv() => lost,
                () = self.gate.overruled(fence) => {
                    self.gate.check(fence).map_err(shut)?;
                    return Err(error::stopping());
                }
            };
            match lost {
                Ok(facts) => items.send(&facts).await.map_err(gone)?,
                // They stand in the next inventory.
                Err(broadcast::error::RecvError::Lagged(_)) => {}
                Err(broadcast::error::RecvError::Closed) => return Err(error::stopping()),
            }
        }
    }

    /// VMs that are lost and that no lease has opened.
    fn lost(&self) -> Vec<SlotFacts> {
        let slots = super::lock(&self.slots);
        let records = slots.iter().map(|(id, of)| (*id, of.record()));
        let lost = records.filter(|(_, record)| record.state == slot::State::Lost && !record.opened);
        lost.filter_map(|(id, record)| slot::facts(Rules::ALL, id, &record)).collect()
    }

    /// `vm_check`: asks PID 1, and stores that the VM is lost when it gives no sign.
    ///
    /// # Errors
    /// `Fenced`; `Stale` when this generation does not live; `NotFound` for a slot that was never here; the driver's.
    pub async fn check(self: &Arc<Self>, request: VmRef) -> Result<(), Fail> {
        self.gate.check(request.fence).map_err(shut)?;
        let slot = self.cell(request.slot)?;
        let place = Place::take(&slot)?;
        let member = Arc::clone(self);
        self.detached("vm_check", async move {
            let _place = place;
            let _turn = slot.turn.lock().await;
            let _pass = member.gate.enter(request.fence).map_err(shut)?;
            member.observe(request.slot, &slot).await?;
            let record = slot.record();
            slot::lives(&record, request.generation)
                .map_err(|refusal| member.refusal(request.slot, &record, &refusal))
        })
        .await
    }
}
