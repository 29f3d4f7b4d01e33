//! One command: its outputs into the spool up to their caps, its clocks, its end.

use crate::core::budget::Budget;
use crate::core::why::{Asked, Seen, why};
use crate::error::{Class, fail, io as io_fail};
use crate::io::cgroup::Spent;
use crate::io::spool::Place;
use crate::vm::Vm;
use gantry_init::wire::How;
use gantry_proto::envelope::{Code, Fail};
use gantry_proto::noded::OutputPiece;
use gantry_proto::vmd::{self, CommandEnd, ReadReply, Stream, Why};
use gantry_rpc::ItemSender;
use std::fs::File;
use std::io::Write;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::io::AsyncReadExt;
use tokio::net::unix::pipe;
use tokio::sync::watch;
use tokio::time::{Instant, timeout};

/// How often CPU time is looked at: a command may pass its limit by so much times the VM's CPUs.
const LOOK: Duration = Duration::from_millis(50);
/// How long outputs are read after the main process's end, should a daemon of the command hold them.
const DRAIN: Duration = Duration::from_millis(250);
/// How long a write to the spool that has begun may take then; what takes longer is a disk that fails.
const WRITE_TIME: Duration = Duration::from_secs(20);
/// How long a killed command's end may be away before the whole VM is ended: init is not well then.
const KILL_TIME: Duration = Duration::from_secs(2);
/// Read from a pipe at once, bytes: a pipe's size.
const PIECE_BYTES: usize = 64 * 1024;
/// An output as small as this is kept whatever the disk has; the rest stops where [`RESERVE_BYTES`] begin.
const SMALL_BYTES: u64 = 1 << 20;
/// Free bytes of the spool's disk that large outputs leave alone: noded's records are there, too, and noded ends without room.
const RESERVE_BYTES: u64 = 64 << 20;
/// Most bytes of one answer: well below a frame.
const READ_BYTES_MAX: u64 = 1 << 20;

/// See the module.
#[derive(Debug)]
pub struct Command {
    /// Its name.
    pub name: String,
    /// Its number with init.
    pub number: u32,
    place: Place,
    caps: Caps,
    budget: Arc<Budget>,
    state: Mutex<State>,
    /// Changes whenever the state does.
    tick: watch::Sender<u64>,
}

/// What it may use.
#[derive(Debug, Clone, Copy, Default)]
pub struct Caps {
    /// Bytes kept of each output.
    pub output_bytes: u64,
    /// Wall clock.
    pub wall: Duration,
    /// CPU time, µs.
    pub cpu_us: u64,
}

#[derive(Debug, Default)]
struct State {
    kept: [u64; 2],
    truncated: bool,
    closed: [bool; 2],
    /// A piece is on its way to the disk.
    writing: [bool; 2],
    asked: Asked,
    how: Option<How>,
    gone: bool,
    /// The spool can't be written: our failure, not the command's.
    broken: bool,
    end: Option<CommandEnd>,
}

fn index(stream: Stream) -> usize {
    match stream {
        Stream::Out => 0,
        Stream::Err => 1,
    }
}

impl Command {
    /// One about to begin, with its place in the spool.
    #[must_use]
    pub fn new(name: &str, number: u32, place: Place, caps: Caps, budget: Arc<Budget>) -> Self {
        let (tick, _) = watch::channel(0);
        Self { name: name.to_owned(), number, place, caps, budget, state: Mutex::default(), tick }
    }

    /// One of a vmd that is gone: ended as recorded, or lost.
    #[must_use]
    pub fn found(name: &str, number: u32, place: Place, end: Option<CommandEnd>) -> Self {
        let length = |stream| std::fs::metadata(place.output(stream)).map_or(0, |found| found.len());
        let kept = [length(Stream::Out), length(Stream::Err)];
        let lost =
            CommandEnd { why: Why::Lost, wall_ms: 0, cpu_us: 0, memory_peak_bytes: 0, truncated: false };
        let end = end.unwrap_or(lost);
        let command = Self::new(name, number, place, Caps::default(), Arc::default());
        *command.state() =
            State { kept, closed: [true; 2], truncated: end.truncated, end: Some(end), ..State::default() };
        command
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // Changes are single assignments: whole whoever panicked.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn change<T>(&self, change: impl FnOnce(&mut State) -> T) -> T {
        let value = change(&mut self.state());
        self.tick.send_modify(|tick| *tick += 1);
        value
    }

    /// Waits until `look` sees what it wants.
    async fn until<T>(&self, mut look: impl FnMut(&State) -> Option<T>) -> T {
        let mut tick = self.tick.subscribe();
        loop {
            if let Some(value) = look(&self.state()) {
                return value;
            }
            // The sender lives as long as self.
            let _ = tick.changed().await;
        }
    }

    /// Whether it has not ended.
    #[must_use]
    pub fn runs(&self) -> bool {
        self.state().end.is_none()
    }

    /// init told its end.
    pub fn ended(&self, how: How) {
        self.change(|state| state.how = Some(how));
    }

    /// Its VM is gone.
    pub fn gone(&self) {
        self.change(|state| state.gone = true);
    }

    /// Its owner cancels. False = it has ended.
    #[must_use]
    pub fn cancel(&self) -> bool {
        self.change(|state| {
            state.asked.cancelled = true;
            state.end.is_none()
        })
    }

    /// Waits for its end.
    pub async fn wait(&self) -> CommandEnd {
        self.until(|state| state.end).await
    }

    /// Reads an output; waits for a byte or the end.
    ///
    /// # Errors
    /// The disk's.
    pub async fn read(&self, stream: Stream, offset: u64, max: u64) -> Result<ReadReply, Fail> {
        let at = index(stream);
        let ready = |state: &State| state.kept[at] > offset || state.closed[at];
        let (kept, truncated) = self
            .until(|state| {
                let closed = state.closed[at];
                ready(state).then_some((state.kept[at], state.truncated && closed))
            })
            .await;
        let wanted = kept.saturating_sub(offset).min(max).min(READ_BYTES_MAX);
        let bytes = self
            .place
            .read(stream, offset, wanted)
            .map_err(|error| io_fail("read the spooled output", &error))?;
        if bytes.is_empty() && wanted > 0 {
            // Its file went with its VM: nothing will ever come.
            return Err(fail(Class::Lost, "the output is not in the spool any more"));
        }
        let state = self.state();
        let last = state.closed[at] && offset.saturating_add(bytes.len() as u64) >= state.kept[at];
        Ok(ReadReply { bytes, last, truncated })
    }

    /// Sends what both outputs have from these offsets on, as they grow, then answers the end.
    ///
    /// # Errors
    /// The disk's, or the follower is gone.
    pub async fn follow(
        &self,
        (out, err): (Option<u64>, Option<u64>),
        items: &ItemSender<vmd::Follow>,
    ) -> Result<CommandEnd, Fail> {
        tokio::try_join!(self.relay(Stream::Out, out, items), self.relay(Stream::Err, err, items))?;
        Ok(self.wait().await)
    }

    async fn relay(
        &self,
        stream: Stream,
        from: Option<u64>,
        items: &ItemSender<vmd::Follow>,
    ) -> Result<(), Fail> {
        let Some(mut offset) = from else { return Ok(()) };
        loop {
            let ReadReply { bytes, last, truncated: _ } = self.read(stream, offset, READ_BYTES_MAX).await?;
            let next = offset + bytes.len() as u64;
            if !bytes.is_empty() {
                let piece = OutputPiece { stream, offset, bytes };
                items.send(&piece).await.map_err(|error| Fail::new(Code::Internal, error.to_string()))?;
            }
            if last {
                return Ok(());
            }
            offset = next;
        }
    }

    /// Takes one output to its end. What passes the cap is read and thrown away, so that the command does not hang.
    pub async fn drain(self: Arc<Self>, stream: Stream, mut pipe: pipe::Receiver) {
        let at = index(stream);
        let mut file = None;
        // Not filled with zeros: most outputs are empty, and never touch it.
        let mut piece = Vec::with_capacity(PIECE_BYTES);
        let over = self.until(|state| state.closed[at].then_some(()));
        tokio::pin!(over);
        loop {
            piece.clear();
            let count = tokio::select! {
                read = pipe.read_buf(&mut piece) => read.unwrap_or(0),
                () = &mut over => break,
            };
            if count == 0 {
                break;
            }
            let kept = self.state().kept[at];
            let room = self.caps.output_bytes.saturating_sub(kept).min(count as u64);
            let keep = usize::try_from(self.budget.take(room)).unwrap_or(count);
            if file.is_none() {
                file = File::create(self.place.output(stream)).ok();
            }
            let written = if kept < SMALL_BYTES {
                file.as_mut().is_some_and(|file| file.write_all(&piece[..keep]).is_ok())
            } else {
                let written;
                self.state().writing[at] = true;
                (file, piece, written) = Arc::clone(&self).write_beside(file, piece, keep).await;
                written
            };
            self.change(|state| {
                state.writing[at] = false;
                // The disk took too long.
                if state.closed[at] {
                    return;
                }
                if written {
                    state.kept[at] += keep as u64;
                }
                state.truncated |= keep < count || !written;
                state.asked.output |= keep < count;
                state.broken |= !written;
            });
        }
        self.change(|state| state.closed[at] = true);
    }

    /// Writes the first `keep` bytes of what is much, where there is room: beside vmd's own thread, since the kernel makes whoever
    /// writes much wait for the disk, and limits and signs of life of all VMs would wait with it.
    async fn write_beside(
        self: Arc<Self>,
        file: Option<File>,
        piece: Vec<u8>,
        keep: usize,
    ) -> (Option<File>, Vec<u8>, bool) {
        let write = move || {
            let mut file = file;
            let fits = self.place.free_bytes().is_ok_and(|free| free > RESERVE_BYTES);
            let written = fits && file.as_mut().is_some_and(|file| file.write_all(&piece[..keep]).is_ok());
            (file, piece, written)
        };
        tokio::task::spawn_blocking(write).await.unwrap_or_default()
    }

    /// Watches it to its end and notes that. `before`: what its VM had counted before it was told to start it.
    pub async fn mind(self: Arc<Self>, vm: Arc<Vm>, before: Spent) {
        let begun = Instant::now();
        self.watch(&vm, begun, before.cpu_us).await;
        let drained = self.until(|state| (state.closed == [true; 2]).then_some(()));
        if timeout(DRAIN, drained).await.is_err() {
            let written = self.until(|state| (state.writing == [false; 2]).then_some(()));
            let late = timeout(WRITE_TIME, written).await.is_err();
            self.change(|state| state.broken |= late);
        }
        self.change(|state| state.closed = [true; 2]);
        let (now, memory_peak_bytes) = vm.spent();
        let room = vm.scratch_room();
        let cpu_us = now.cpu_us.saturating_sub(before.cpu_us);
        let removed = vm.is_removed();
        let end = {
            let mut state = self.state();
            state.asked.cpu |= cpu_us > self.caps.cpu_us;
            let seen = Seen {
                how: state.how,
                asked: state.asked,
                oom_kills: now.oom_kills.saturating_sub(before.oom_kills),
                forks_refused: now.forks_refused.saturating_sub(before.forks_refused),
                free_bytes: room.map(|room| room.free_bytes),
                free_inodes: room.map(|room| room.free_inodes),
                removed: state.broken || removed,
            };
            CommandEnd {
                why: why(&seen),
                wall_ms: u64::try_from(begun.elapsed().as_millis()).unwrap_or(u64::MAX),
                cpu_us,
                memory_peak_bytes,
                truncated: state.truncated,
            }
        };
        if let Err(error) = self.place.end(&end) {
            tracing::error!(command = self.name, %error, "can't note a command's end");
        }
        tracing::debug!(command = self.name, ?end, "command ended");
        self.change(|state| state.end = Some(end));
    }

    /// Until its main process or its VM is gone. Kills it when a limit is passed; ends the VM when that has no effect.
    async fn watch(&self, vm: &Vm, begun: Instant, cpu_before: u64) {
        let (mut killed, mut told, mut looked) = (None::<Instant>, false, begun);
        let mut tick = self.tick.subscribe();
        loop {
            {
                let mut state = self.state();
                if state.how.is_some() || state.gone {
                    return;
                }
                // What passes while it is dying is not what it is killed for.
                if killed.is_none() {
                    state.asked.wall = begun.elapsed() >= self.caps.wall;
                    // Not with every change of the state: most commands end before it is time to look.
                    if looked.elapsed() >= LOOK {
                        looked = Instant::now();
                        state.asked.cpu |= vm.cgroup().cpu_us().saturating_sub(cpu_before) > self.caps.cpu_us;
                    }
                }
                let asked = state.broken || state.asked != Asked::default();
                drop(state);
                if asked && killed.is_none() {
                    killed = Some(Instant::now());
                    vm.signal(self.number, nix::libc::SIGKILL);
                }
            }
            if killed.is_some_and(|since| since.elapsed() > KILL_TIME) && !told {
                tracing::warn!(command = self.name, "does not die: its VM is ended");
                vm.end();
                told = true;
            }
            let left = self.caps.wall.saturating_sub(begun.elapsed()).max(Duration::from_millis(1));
            tokio::select! {
                _ = tick.changed() => {}
                () = tokio::time::sleep(left.min(LOOK)) => {}
            }
        }
    }
}

/// A command that is not known.
pub fn unknown(name: &str) -> Fail {
    fail(Class::NotFound, format!("no command {name} in this VM"))
}
