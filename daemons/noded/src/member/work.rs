//! What a lease does in its VM: commands, files out, usage. What changes something has the slot's turn, so that it
//! comes wholly before a close or a destroy or not at all; what only looks has no turn, and ends when another master
//! claims the node.

use super::verbs::accept;
use super::{Member, Place, Slot, lock, shut};
use crate::core::slot::{self, Need, Record};
use crate::driver::{CallKind, Class, Driver, DriverError, ExecSpec, VmId, archive, bounded};
use crate::error;
use gantry_model::ids::InstanceUuid;
use gantry_proto::envelope::{Code, Fail};
use gantry_proto::noded::{
    Bytes, CommandEnd, PIECE_BYTES_MAX, STDIN_BYTES_MAX, VmCommandRef, VmExecReply, VmExecRequest, VmGet,
    VmGetReply, VmGetRequest, VmLeaseRef, VmRef, VmSignalRequest, VmWait, VmWaitRequest, Why,
};
use gantry_proto::vmd::{VmUsage, is_name};
use gantry_rpc::ItemSender;
use std::io::{self, BufWriter, Write};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{OwnedMutexGuard, OwnedSemaphorePermit, mpsc};

/// Pieces under way between a driver and a follower.
const PIECES: usize = 2;
/// The end of a command that nobody saw end.
const LOST: CommandEnd =
    CommandEnd { why: Why::Lost, wall_ms: 0, cpu_us: 0, memory_peak_bytes: 0, truncated: false };

/// A VM and what has it.
type Found = (Arc<dyn Driver>, VmId);

/// A VM whose turn is had by a verb of its lease.
pub(super) struct Inside {
    pub driver: Arc<dyn Driver>,
    pub vm: VmId,
    slot: Arc<Slot>,
    _held: (Place, OwnedSemaphorePermit, OwnedMutexGuard<()>, super::gate::Pass),
}

fn bad(text: &str) -> Fail {
    Fail::new(Code::BadRequest, text)
}

fn check(request: &VmExecRequest) -> Result<(), Fail> {
    if !is_name(&request.of.exec) || request.argv.is_empty() {
        return Err(bad("a command needs a plain name and at least one word"));
    }
    if request.stdin.len() > STDIN_BYTES_MAX {
        return Err(bad("standard input of more than 1 MiB: put it into a file"));
    }
    let env = request.env.iter();
    let odd_name = |(name, _): &(String, String)| name.is_empty() || name.contains('=');
    let texts =
        request.argv.iter().chain(&request.cwd).chain(env.clone().flat_map(|(name, value)| [name, value]));
    if env.clone().any(odd_name) || texts.clone().any(|text| text.contains('\0')) {
        return Err(bad("a word with a zero byte, or a name in the environment that is empty or has a '='"));
    }
    Ok(())
}

impl Member {
    pub(super) fn cell(&self, id: InstanceUuid) -> Result<Arc<Slot>, Fail> {
        let none = || Fail::new(Code::NotFound, format!("this node has never seen slot {id}"));
        self.slot(id, false)?.ok_or_else(none)
    }

    fn admitted(&self, at: &VmLeaseRef, record: &Record, need: Need) -> Result<(), Fail> {
        slot::admit(record, at.vm.generation, at.lease, need)
            .map_err(|refusal| self.refusal(at.vm.slot, record, &refusal))
    }

    /// Waits for the slot's turn and checks that the lease works there.
    pub(super) async fn inside(&self, at: VmLeaseRef, need: Need) -> Result<Inside, Fail> {
        self.gate.check(at.vm.fence).map_err(shut)?;
        let slot = self.cell(at.vm.slot)?;
        let place = Place::take(&slot)?;
        let permit = Arc::clone(&self.verbs).try_acquire_owned().map_err(|_| {
            Fail::new(Code::Busy, format!("{} verbs are in work on this node", super::VERBS_MAX))
        })?;
        let turn = Arc::clone(&slot.turn).lock_owned().await;
        let pass = self.gate.enter(at.vm.fence).map_err(shut)?;
        let record = slot.record();
        self.admitted(&at, &record, need)?;
        let driver = Arc::clone(self.driver(&record.driver)?);
        let vm = self.vm(at.vm.slot, at.vm.generation);
        Ok(Inside { driver, vm, slot, _held: (place, permit, turn, pass) })
    }

    /// The VM of `at` for one who looks; None = it is gone, and its commands are lost.
    fn looked_at(&self, at: &VmLeaseRef) -> Result<Option<Found>, Fail> {
        self.gate.check(at.vm.fence).map_err(shut)?;
        let record = self.cell(at.vm.slot)?.record();
        if slot::is_gone(&record, at.vm.generation) {
            return Ok(None);
        }
        self.admitted(at, &record, Need::Look)?;
        let driver = Arc::clone(self.driver(&record.driver)?);
        Ok(Some((driver, self.vm(at.vm.slot, at.vm.generation))))
    }

    /// `vm_exec`: see P5.5. The driver's record of the name is durable before the command starts.
    ///
    /// # Errors
    /// `Fenced`, `Stale`, `BadRequest`, or the driver's.
    pub async fn exec(self: &Arc<Self>, request: VmExecRequest) -> Result<VmExecReply, Fail> {
        check(&request)?;
        let member = Arc::clone(self);
        self.detached("vm_exec", async move {
            let inside = member.inside(request.of.at, Need::Work).await?;
            let command = ExecSpec {
                id: request.of.exec,
                argv: request.argv,
                env: request.env,
                cwd: request.cwd,
                stdin: request.stdin,
                output_bytes_max: request.output_bytes_max,
                wall_ms: request.wall_ms,
                cpu_ms: request.cpu_ms,
            };
            let driver = &*inside.driver;
            let begun = bounded(driver, CallKind::Exec, driver.begin(&inside.vm, &command)).await;
            begun.map(|known| VmExecReply { known }).map_err(|why| error::driver(&why))
        })
        .await
    }

    /// `vm_wait`: pieces as they come, then the end.
    ///
    /// # Errors
    /// `Fenced`, also when another master claims the node meanwhile; `Stale`; `NotFound` for a command this VM never
    /// had.
    pub async fn wait(
        self: &Arc<Self>,
        request: VmWaitRequest,
        items: ItemSender<VmWait>,
    ) -> Result<CommandEnd, Fail> {
        let Ok(_place) = self.followers.try_acquire() else {
            let text = format!("{} commands are followed on this node", super::FOLLOWERS_MAX);
            return Err(Fail::new(Code::Busy, text));
        };
        let VmWaitRequest { of: VmCommandRef { at, exec }, out, err } = request;
        let Some((driver, vm)) = self.looked_at(&at)? else { return Ok(LOST) };
        let (send, mut pieces) = mpsc::channel(PIECES);
        let follow = driver.follow(&vm, &exec, (out, err), send);
        let relay = async {
            while let Some(piece) = pieces.recv().await {
                items.send(&piece).await.map_err(|why| Fail::new(Code::Internal, why.to_string()))?;
            }
            Ok::<(), Fail>(())
        };
        let both = async {
            let (end, relayed) = tokio::join!(follow, relay);
            relayed.and(Ok(end))
        };
        let end = tokio::select! {
            end = both => end?,
            () = self.gate.overruled(at.vm.fence) => {
                self.gate.check(at.vm.fence).map_err(shut)?;
                return Err(error::stopping());
            }
        };
        match end {
            Ok(end) => Ok(end),
            Err(why) if why.class == Class::NotFound => self.lost_or_unknown(&at, &*driver, &vm, &why).await,
            Err(DriverError { class: Class::Lost, .. }) => Ok(LOST),
            Err(why) => Err(error::driver(&why)),
        }
    }

    /// The driver does not know the command: with its VM it is lost, without it never began.
    async fn lost_or_unknown(
        &self,
        at: &VmLeaseRef,
        driver: &dyn Driver,
        vm: &VmId,
        why: &DriverError,
    ) -> Result<CommandEnd, Fail> {
        if self.looked_at(at)?.is_none() {
            return Ok(LOST);
        }
        match bounded(driver, CallKind::Info, driver.info(vm)).await {
            Err(DriverError { class: Class::NotFound, .. }) => Ok(LOST),
            _ => Err(error::driver(why)),
        }
    }

    /// `vm_signal`.
    ///
    /// # Errors
    /// `Fenced`, `Stale`, `BadRequest`; `NotFound` when the command is not known or has ended.
    pub async fn signal(self: &Arc<Self>, request: VmSignalRequest) -> Result<(), Fail> {
        if !(1..=64).contains(&request.signal) {
            return Err(bad("signals are numbers from 1 to 64"));
        }
        self.tell(request.to, Some(request.signal)).await
    }

    /// `vm_cancel`: fine when it has ended.
    ///
    /// # Errors
    /// `Fenced`, `Stale`; `NotFound` when the command is not known.
    pub async fn cancel(self: &Arc<Self>, request: VmCommandRef) -> Result<(), Fail> {
        self.tell(request, None).await
    }

    async fn tell(self: &Arc<Self>, to: VmCommandRef, signal: Option<i32>) -> Result<(), Fail> {
        let member = Arc::clone(self);
        self.detached("vm_signal", async move {
            let inside = member.inside(to.at, Need::Work).await?;
            let (driver, vm) = (&*inside.driver, &inside.vm);
            let call = match signal {
                Some(signal) => driver.signal(vm, &to.exec, signal),
                None => driver.cancel(vm, &to.exec),
            };
            match (bounded(driver, CallKind::Signal, call).await, signal) {
                (Err(why), None) if why.class == Class::NotRunning => Ok(()),
                (Err(why), Some(_)) if why.class == Class::NotRunning => {
                    Err(Fail { code: Code::NotFound, ..error::driver(&why) })
                }
                (done, _) => done.map_err(|why| error::driver(&why)),
            }
        })
        .await
    }

    /// `vm_usage`.
    ///
    /// # Errors
    /// `Fenced`, `Stale`, or the driver's.
    pub async fn usage(&self, request: VmRef) -> Result<VmUsage, Fail> {
        self.gate.check(request.fence).map_err(shut)?;
        let record = self.cell(request.slot)?.record();
        if record.generation != request.generation {
            let refusal = slot::Refusal::NotCurrent {
                asked: request.generation,
                current: record.generation,
                floor: record.floor,
            };
            return Err(self.refusal(request.slot, &record, &refusal));
        }
        let driver = &**self.driver(&record.driver)?;
        let vm = self.vm(request.slot, request.generation);
        bounded(driver, CallKind::Usage, driver.usage(&vm)).await.map_err(|why| error::driver(&why))
    }

    /// `vm_get`: an archive of what is there, and its list. With `settle` the VM is stopped for good before.
    ///
    /// # Errors
    /// `Fenced`, `Stale`, or the driver's.
    pub async fn get(
        self: &Arc<Self>,
        request: VmGetRequest,
        items: ItemSender<VmGet>,
    ) -> Result<VmGetReply, Fail> {
        let Ok(_place) = self.getters.try_acquire() else {
            let text = format!("files of {} VMs are being fetched", super::GETTERS_MAX);
            return Err(Fail::new(Code::Busy, text));
        };
        let at = request.at;
        if request.settle {
            let member = Arc::clone(self);
            self.detached("vm_get", async move { member.settle(at).await }).await?;
        }
        let gone = || Fail::new(Code::NotFound, format!("generation {} is gone", at.vm.generation));
        let (driver, vm) = self.looked_at(&at)?.ok_or_else(gone)?;
        let home = bounded(&*driver, CallKind::Home, driver.home(&vm)).await;
        let home = home.map_err(|why| error::driver(&why))?;
        let (send, mut pieces) = mpsc::channel(PIECES);
        let packing = tokio::task::spawn_blocking(move || {
            let mut out = BufWriter::with_capacity(PIECE_BYTES_MAX, Pipe(send));
            let reply = archive::pack(&home, &request.path, request.bytes_max, &mut out)?;
            let lost = |error: io::Error| DriverError::new(Class::Lost, error.to_string());
            out.flush().map_err(lost)?;
            Ok(reply)
        });
        let relay = async {
            while let Some(bytes) = pieces.recv().await {
                let piece = Bytes { bytes };
                items.send(&piece).await.map_err(|why| Fail::new(Code::Internal, why.to_string()))?;
            }
            packing.await.map_err(|_| error::stopping())?.map_err(|why| error::driver(&why))
        };
        tokio::select! {
            reply = relay => reply,
            () = self.gate.overruled(at.vm.fence) => {
                self.gate.check(at.vm.fence).map_err(shut)?;
                Err(error::stopping())
            }
        }
    }

    /// Stops the VM for good; noted before, so that nobody takes it for lost.
    async fn settle(&self, at: VmLeaseRef) -> Result<(), Fail> {
        let inside = self.inside(at, Need::Look).await?;
        let record = inside.slot.record();
        let news = slot::settle(&record, at.vm.generation, at.lease)
            .map_err(|refusal| self.refusal(at.vm.slot, &record, &refusal))?;
        if let Some(settled) = news {
            self.store(at.vm.slot, &inside.slot, settled).await?;
        }
        let driver = &*inside.driver;
        let stopped = bounded(driver, CallKind::Stop, driver.stop(&inside.vm, Duration::ZERO)).await;
        // What is lost has stopped as well.
        let stopped = accept(accept(stopped, Class::NotRunning), Class::Lost);
        stopped.map_err(|why| error::driver(&why))
    }

    /// Room for files in a VM now, bytes.
    pub(super) async fn free_bytes(&self, inside: &Inside) -> Result<u64, Fail> {
        let driver = &*inside.driver;
        let usage = bounded(driver, CallKind::Usage, driver.usage(&inside.vm)).await;
        usage.map(|usage| usage.scratch_free_bytes).map_err(|why| error::driver(&why))
    }

    /// Slots whose record is live, with what they are.
    pub(super) fn live(&self) -> Vec<(InstanceUuid, Arc<Slot>)> {
        let is_live = |of: &Arc<Slot>| lock(&of.record).state == slot::State::Live;
        let slots = lock(&self.slots);
        slots.iter().filter(|(_, of)| is_live(of)).map(|(slot, of)| (*slot, Arc::clone(of))).collect()
    }
}

/// Takes an archive's bytes to those who wait for them; fails when nobody does.
struct Pipe(mpsc::Sender<Vec<u8>>);

impl Write for Pipe {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let piece = &bytes[..bytes.len().min(PIECE_BYTES_MAX)];
        self.0.blocking_send(piece.to_vec()).map_err(|_| io::ErrorKind::BrokenPipe)?;
        Ok(piece.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
