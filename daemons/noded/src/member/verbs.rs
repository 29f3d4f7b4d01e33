//! Verbs on a slot's VM: waiting for the turn, deciding, and doing the decided steps.

use super::{Member, Place, Slot, lock, shut};
use crate::core::Rules;
use crate::core::slot::{self, Action, Answer, Record, State, Step, Verb};
use crate::driver::{CallKind, Class, Driver, DriverError, Seen, bounded};
use crate::error;
use crate::io::data::Change;
use gantry_model::ids::{Fence, InstanceUuid};
use gantry_proto::envelope::{Code, Fail};
use gantry_proto::noded::{
    OpenLimits, VmCreateReply, VmCreateRequest, VmDestroyReply, VmLeaseRef, VmOpenRequest, VmRef, VmSpec,
};
use std::sync::Arc;
use std::time::Duration;

/// Tries of a call whose VM is locked by someone else, with [`LOCKED_MS`] doubling between them: 3 s in all.
const LOCKED_TRIES: u32 = 5;
/// First pause after a locked VM.
const LOCKED_MS: u64 = 100;

/// What a task takes with it.
struct Work {
    fence: Fence,
    slot: InstanceUuid,
    verb: Verb,
    /// For creates.
    spec: Option<VmSpec>,
    /// For opens; None = the VM's own.
    limits: Option<OpenLimits>,
}

impl Member {
    /// `vm_create`: see P5.3.
    ///
    /// # Errors
    /// `Fenced`, `Stale`, or the driver's; a create that failed goes on when it is asked for again.
    pub async fn create(self: &Arc<Self>, request: VmCreateRequest) -> Result<VmCreateReply, Fail> {
        let VmCreateRequest { fence, slot, generation, spec } = request;
        self.driver(&spec.driver)?;
        // Until this create has ended, so that the image does not go meanwhile.
        let _image = match &spec.image_digest {
            Some(digest) => Some(self.images.hold(digest).await?),
            None => None,
        };
        let runtime_id = self.vm(slot, generation).to_string();
        let verb = Verb::Create { generation, driver: spec.driver.clone() };
        match self.submit("vm_create", Work { fence, slot, verb, spec: Some(spec), limits: None }).await? {
            Answer::Created { attached } => Ok(VmCreateReply { attached, runtime_id }),
            Answer::Destroyed { .. } | Answer::Done => unreachable!("a create is answered as one"),
        }
    }

    /// `vm_destroy`: see P5.3, P5.7.
    ///
    /// # Errors
    /// `Fenced`, `Stale` when a later generation lives, or the driver's; then it may be asked for again.
    pub async fn destroy(self: &Arc<Self>, request: VmRef) -> Result<VmDestroyReply, Fail> {
        let VmRef { fence, slot, generation } = request;
        let verb = Verb::Destroy { generation };
        match self.submit("vm_destroy", Work { fence, slot, verb, spec: None, limits: None }).await? {
            Answer::Destroyed { floor } => Ok(VmDestroyReply { floor }),
            Answer::Created { .. } | Answer::Done => unreachable!("a destroy is answered as one"),
        }
    }

    /// `vm_open`: see P5.4.
    ///
    /// # Errors
    /// `Fenced`, `Stale`; `BadRequest` for limits above the VM's.
    pub async fn open(self: &Arc<Self>, request: VmOpenRequest) -> Result<(), Fail> {
        let VmOpenRequest { at, limits } = request;
        let VmRef { fence, slot, generation } = at.vm;
        let verb = Verb::Open { generation, lease: at.lease };
        self.submit("vm_open", Work { fence, slot, verb, spec: None, limits }).await.map(|_| ())
    }

    /// `vm_close`: see P5.6.
    ///
    /// # Errors
    /// `Fenced`, `Stale`.
    pub async fn close(self: &Arc<Self>, request: VmLeaseRef) -> Result<(), Fail> {
        let VmRef { fence, slot, generation } = request.vm;
        let verb = Verb::Close { generation, lease: request.lease };
        self.submit("vm_close", Work { fence, slot, verb, spec: None, limits: None }).await.map(|_| ())
    }

    async fn submit(self: &Arc<Self>, name: &'static str, work: Work) -> Result<Answer, Fail> {
        self.gate.check(work.fence).map_err(shut)?;
        let makes = match work.verb {
            Verb::Create { .. } | Verb::Destroy { .. } => true,
            Verb::Open { .. } | Verb::Close { .. } => false,
        };
        let Some(slot) = self.slot(work.slot, makes)? else {
            let unseen = Record::default();
            return Err(match slot::decide(Rules::ALL, &unseen, &work.verb) {
                Err(refusal) => self.refusal(work.slot, &unseen, &refusal),
                Ok(_) => Fail::new(Code::Internal, "an unknown slot can't be worked in"),
            });
        };
        let place = Place::take(&slot)?;
        let Ok(permit) = Arc::clone(&self.verbs).try_acquire_owned() else {
            let text = format!("{} verbs are in work on this node", super::VERBS_MAX);
            return Err(Fail::new(Code::Busy, text));
        };
        let member = Arc::clone(self);
        self.detached(name, async move {
            let _held = (place, permit);
            let span = tracing::info_span!("verb", name, slot = %work.slot);
            tracing::Instrument::instrument(member.carry_out(&slot, work), span).await
        })
        .await
    }

    async fn carry_out(&self, slot: &Slot, work: Work) -> Result<Answer, Fail> {
        let _turn = slot.turn.lock().await;
        let _pass = self.gate.enter(work.fence).map_err(shut)?;
        let seen = match work.verb {
            // What these do rests on a living VM.
            Verb::Create { .. } | Verb::Open { .. } => self.look(work.slot, slot).await?,
            Verb::Destroy { .. } | Verb::Close { .. } => None,
        };
        let record = slot.record();
        let plan = slot::decide(Rules::ALL, &record, &work.verb)
            .map_err(|refusal| self.refusal(work.slot, &record, &refusal))?;
        // Before anything is stored: a VM that was never touched must not count as opened.
        if let (Some(seen), Some(limits)) = (seen, work.limits) {
            seen.fits(limits).map_err(|why| error::driver(&why))?;
        }
        for step in plan.steps {
            match step {
                Step::Store(next) => self.store(work.slot, slot, next).await?,
                Step::Drive(action) => self.drive(&work, slot, action).await?,
            }
        }
        let now = slot.record();
        tracing::debug!(verb = ?work.verb, state = now.state.word(), floor = now.floor.0, "done");
        Ok(plan.answer)
    }

    pub(super) fn refusal(&self, slot: InstanceUuid, record: &Record, refusal: &slot::Refusal) -> Fail {
        let facts = slot::facts(Rules::ALL, slot, record).expect("with all rules each slot has its line");
        error::refused(refusal, &facts)
    }

    /// It outlives what it must when this returns.
    pub(super) async fn store(&self, id: InstanceUuid, slot: &Slot, mut next: Record) -> Result<(), Fail> {
        next.boot.clone_from(&self.boot_id);
        let outlive =
            slot::outlive(Rules::ALL, &slot.record(), &next, super::dies_with_machine(&self.drivers, &next));
        let change = Change::Slot(id, Box::new(next.clone()), outlive);
        self.data.put(change).await.map_err(|why| error::data(&why))?;
        *lock(&slot.record) = next;
        Ok(())
    }

    /// Looks whether a live VM still runs, and stores that it is lost if not. The caller has the slot's turn.
    pub(super) async fn observe(&self, id: InstanceUuid, slot: &Slot) -> Result<(), Fail> {
        self.look(id, slot).await.map(drop)
    }

    /// As [`Member::observe`]; what the driver says of a live one.
    async fn look(&self, id: InstanceUuid, slot: &Slot) -> Result<Option<Seen>, Fail> {
        let record = slot.record();
        if record.state != State::Live {
            return Ok(None);
        }
        let driver = self.driver(&record.driver)?;
        let vm = self.vm(id, record.generation);
        let seen = match bounded(&**driver, CallKind::Info, driver.info(&vm)).await {
            Ok(seen) => Some(seen),
            Err(DriverError { class: Class::NotFound | Class::Lost, .. }) => None,
            Err(why) => return Err(error::driver(&why)),
        };
        let runs = match &seen {
            Some(seen) => seen.running && is_alive(&**driver, &vm).await?,
            None => false,
        };
        if let Some(lost) = slot::observe(&record, runs) {
            tracing::warn!(%vm, "a VM is lost");
            self.metrics.lost();
            self.store(id, slot, lost).await?;
            self.tell_loss(id, &slot.record());
        }
        Ok(seen)
    }

    pub(super) fn driver(&self, name: &str) -> Result<&Arc<dyn Driver>, Fail> {
        self.drivers.get(name).ok_or_else(|| {
            let known: Vec<_> = self.drivers.keys().copied().collect();
            let text =
                format!("the driver '{name}' is not used on this node (node.toml has: {})", known.join(", "));
            Fail::new(Code::BadRequest, text)
        })
    }

    async fn drive(&self, work: &Work, slot: &Slot, action: Action) -> Result<(), Fail> {
        let record = slot.record();
        let name = match (&work.verb, record.driver.is_empty()) {
            // Only a record that was never stored has no driver, and then only a create drives.
            (Verb::Create { driver, .. }, true) => driver,
            (_, true) => return Ok(()),
            (_, false) => &record.driver,
        };
        let driver = &**self.driver(name)?;
        let done = match action {
            Action::Make(generation) => {
                let spec = work.spec.as_ref().expect("a create brings its specification");
                make(driver, &self.vm(work.slot, generation), spec).await
            }
            Action::Kill(generation) => {
                kill(driver, &self.vm(work.slot, generation)).await.map_err(|why| error::driver(&why))?;
                return self.forget_uploads(work.slot, generation).await;
            }
            Action::Touch(generation) => {
                let vm = self.vm(work.slot, generation);
                bounded(driver, CallKind::Limit, driver.limit_work(&vm, work.limits)).await
            }
            Action::EndWork(generation, _) => {
                let vm = self.vm(work.slot, generation);
                let ended = bounded(driver, CallKind::End, driver.end_work(&vm)).await;
                // Nothing runs in a VM that does not.
                accept(ended, Class::NotRunning)
            }
        };
        done.map_err(|why| error::driver(&why))
    }
}

/// Whether a running VM gives a sign of life in time: one whose PID 1 stands still does not run.
pub(super) async fn is_alive(driver: &dyn Driver, vm: &crate::driver::VmId) -> Result<bool, Fail> {
    match bounded(driver, CallKind::Alive, driver.alive(vm)).await {
        Ok(()) => Ok(true),
        Err(DriverError {
            class: Class::NotFound | Class::Lost | Class::NotRunning | Class::Timeout,
            ..
        }) => Ok(false),
        Err(why) => Err(error::driver(&why)),
    }
}

async fn make(driver: &dyn Driver, vm: &crate::driver::VmId, spec: &VmSpec) -> Result<(), DriverError> {
    accept(again(|| bounded(driver, CallKind::Create, driver.create(vm, spec))).await, Class::Exists)?;
    accept(again(|| bounded(driver, CallKind::Start, driver.start(vm))).await, Class::Running)
}

async fn kill(driver: &dyn Driver, vm: &crate::driver::VmId) -> Result<(), DriverError> {
    let destroyed = again(|| bounded(driver, CallKind::Destroy, driver.destroy(vm))).await;
    let Err(why) = accept(destroyed, Class::NotFound) else {
        return Ok(());
    };
    // The tool may have failed after its work was done.
    match bounded(driver, CallKind::Info, driver.info(vm)).await {
        Err(DriverError { class: Class::NotFound, .. }) => Ok(()),
        _ => Err(why),
    }
}

/// Takes `fine` as success: it is done already.
pub(super) fn accept(done: Result<(), DriverError>, fine: Class) -> Result<(), DriverError> {
    match done {
        Err(why) if why.class == fine => Ok(()),
        other => other,
    }
}

/// Repeats a call whose VM is locked.
async fn again<F, Fut>(call: F) -> Result<(), DriverError>
where
    F: Fn() -> Fut,
    Fut: Future<Output = Result<(), DriverError>>,
{
    let mut pause = Duration::from_millis(LOCKED_MS);
    for _ in 1..LOCKED_TRIES {
        match call().await {
            Err(DriverError { class: Class::Locked, .. }) => tokio::time::sleep(pause).await,
            other => return other,
        }
        pause *= 2;
    }
    call().await
}
