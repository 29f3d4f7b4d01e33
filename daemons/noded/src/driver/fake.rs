//! The `fake` driver: VMs that are files. Deterministic, and it fails exactly as `etc/gantry/fake.json` says
//! ([`faults`]). VMs are in `run/gantry/fake/`: they outlive noded and die with the machine's boot id, as real ones
//! do. Knows the images `noop` and `host` only, and counts memory and disk against what the node offers.
//!
//! Commands end at once. A few words it plays itself: `true`, `false`, `echo WORDS…`, `exit N`; any other says `ran:` with
//! its words, and ends well.

pub mod faults;

use super::home::Home;
use super::{
    Answer, CallKind, Chunk, Class, Driver, DriverError, Ended, ExecSpec, Execution, Output, Probe, Seen,
    Stats, Swept, VmId,
};
use faults::{Faults, Played, When};
use gantry_model::ids::ClusterUuid;
use gantry_model::root::Root;
use gantry_proto::noded::{CommandEnd, OpenLimits, OutputPiece, PIECE_BYTES_MAX, Stream, VmSpec, Why};
use gantry_proto::vmd::VmUsage;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::sync::mpsc;

/// Its own image.
pub const IMAGE: &str = "noop";
/// The built-in image, which every driver of pools has: a blueprint names it or an imported one.
const HOST: &str = gantry_model::pool::IMAGE_HOST;

/// What the node offers to VMs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Room {
    /// MiB.
    pub memory_mib: u64,
    /// MiB.
    pub disk_mib: u64,
}

/// A VM on disk.
#[derive(Debug, Clone, Serialize, Deserialize)]
struct VmFile {
    vm: VmId,
    spec: VmSpec,
    running: bool,
    boot_id: String,
    #[serde(default)]
    commands: BTreeMap<String, CommandFile>,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
struct CommandFile {
    out: Vec<u8>,
    err: Vec<u8>,
    ended: Ended,
}

/// See the module.
#[derive(Debug, Clone)]
pub struct Fake {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    cluster: ClusterUuid,
    dir: PathBuf,
    faults: PathBuf,
    boot_id: String,
    room: Room,
    /// Held while files are read and written; never over a wait.
    turn: Mutex<()>,
}

impl Fake {
    /// The fake VMs of `cluster` on the node at `root`. `boot_id` is the machine's.
    #[must_use]
    pub fn new(root: &Root, cluster: ClusterUuid, boot_id: String, room: Room) -> Self {
        let dir = root.run().join("fake");
        let faults = root.etc().join("fake.json");
        Self { inner: Arc::new(Inner { cluster, dir, faults, boot_id, room, turn: Mutex::new(()) }) }
    }

    /// Plays the faults of `call` around `effect`.
    async fn play<T>(
        &self,
        call: CallKind,
        effect: impl FnOnce(&Inner, &Faults) -> Result<T, DriverError>,
    ) -> Result<T, DriverError> {
        let inner = &self.inner;
        let faults = Faults::read(&inner.faults)?;
        if faults.hang.contains(&call) {
            std::future::pending::<()>().await;
        }
        sleep(faults.delay_ms.get(&call)).await;
        inner.strike(&faults, call, When::Before)?;
        let done = {
            let _turn = inner.turn();
            inner.age(&faults)?;
            effect(inner, &faults)
        };
        sleep(faults.linger_ms.get(&call)).await;
        inner.strike(&faults, call, When::After)?;
        done
    }
}

async fn sleep(millis: Option<&u64>) {
    if let Some(millis) = millis.filter(|millis| **millis > 0) {
        tokio::time::sleep(Duration::from_millis(*millis)).await;
    }
}

fn io_error(path: &Path) -> impl Fn(std::io::Error) -> DriverError {
    move |error| {
        let class = match error.kind() {
            std::io::ErrorKind::NotFound => Class::NotFound,
            std::io::ErrorKind::StorageFull | std::io::ErrorKind::QuotaExceeded => Class::NoSpace,
            _ => Class::Locked,
        };
        DriverError::new(class, format!("{}: {error}", path.display()))
    }
}

impl Inner {
    fn turn(&self) -> MutexGuard<'_, ()> {
        // The files are whole after each rename, whoever panicked.
        self.turn.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn file(&self, vm: &VmId) -> PathBuf {
        self.dir.join(format!("{vm}.json"))
    }

    fn load(&self, vm: &VmId) -> Result<VmFile, DriverError> {
        read_vm(&self.file(vm))
    }

    fn save(&self, vm: &VmFile) -> Result<(), DriverError> {
        let bytes = serde_json::to_vec(vm).expect("plain structs have a JSON form");
        self.write(&self.file(&vm.vm), &bytes)
    }

    /// Temp and rename; no flush, since a reboot kills the VMs anyway.
    fn write(&self, path: &Path, bytes: &[u8]) -> Result<(), DriverError> {
        let temp = path.with_extension("new");
        std::fs::create_dir_all(&self.dir).map_err(io_error(&self.dir))?;
        std::fs::write(&temp, bytes).map_err(io_error(&temp))?;
        std::fs::rename(&temp, path).map_err(io_error(path))
    }

    fn all(&self) -> Result<Vec<VmFile>, DriverError> {
        let entries = match std::fs::read_dir(&self.dir) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
            other => other.map_err(io_error(&self.dir))?,
        };
        let label = format!("gantry-{}-", self.cluster.short());
        let mut all = Vec::new();
        for entry in entries {
            let path = entry.map_err(io_error(&self.dir))?.path();
            let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
            if name.starts_with(&label) && path.extension().is_some_and(|extension| extension == "json") {
                all.push(read_vm(&path)?);
            }
        }
        all.sort_by_key(|vm| (vm.vm.slot, vm.vm.generation));
        Ok(all)
    }

    /// Removes what a reboot or a fault has killed, stops what a fault has stopped.
    fn age(&self, faults: &Faults) -> Result<(), DriverError> {
        let boot_id = faults.boot_id.as_ref().unwrap_or(&self.boot_id);
        for mut vm in self.all()? {
            if vm.boot_id != *boot_id || faults.lose.iter().any(|which| which.is(&vm.vm)) {
                let path = self.file(&vm.vm);
                std::fs::remove_file(&path).map_err(io_error(&path))?;
            } else if vm.running && faults.stop.iter().any(|which| which.is(&vm.vm)) {
                vm.running = false;
                self.save(&vm)?;
            }
        }
        Ok(())
    }

    fn strike(&self, faults: &Faults, call: CallKind, when: When) -> Result<(), DriverError> {
        if !faults.fail.contains_key(&call) {
            return Ok(());
        }
        let _turn = self.turn();
        let path = self.dir.join("played.faults");
        let mut played: Played = std::fs::read(&path)
            .ok()
            .and_then(|bytes| serde_json::from_slice(&bytes).ok())
            .unwrap_or_default();
        let struck = faults.strike(call, when, &mut played);
        let bytes = serde_json::to_vec(&played).expect("plain structs have a JSON form");
        self.write(&path, &bytes)?;
        struck.map_or(Ok(()), Err)
    }

    fn create(&self, vm: &VmId, spec: &VmSpec, faults: &Faults) -> Result<(), DriverError> {
        if ![IMAGE, HOST].contains(&spec.image.as_str()) {
            let text =
                format!("the fake driver knows the images '{IMAGE}' and '{HOST}', not '{}'", spec.image);
            return Err(DriverError::new(Class::BadImage, text));
        }
        let all = self.all()?;
        if all.iter().any(|other| other.vm == *vm) {
            return Err(DriverError::new(Class::Exists, format!("{vm} is there already")));
        }
        let used =
            |size: fn(&VmSpec) -> u64| all.iter().map(|other| size(&other.spec)).fold(0, u64::saturating_add);
        let fits = |what: &str, used: u64, wanted: u64, room: u64| {
            if used.saturating_add(wanted) <= room {
                return Ok(());
            }
            let text = format!("{wanted} MiB of {what} wanted, {used} of {room} MiB are in use");
            Err(DriverError::new(Class::NoSpace, text))
        };
        fits("memory", used(|spec| spec.memory_mib), spec.memory_mib, self.room.memory_mib)?;
        fits("disk", used(|spec| spec.disk_mib), spec.disk_mib, self.room.disk_mib)?;
        let boot_id = faults.boot_id.as_ref().unwrap_or(&self.boot_id).clone();
        let commands = BTreeMap::new();
        self.save(&VmFile { vm: *vm, spec: spec.clone(), running: false, boot_id, commands })
    }

    fn set_running(&self, vm: &VmId, running: bool) -> Result<(), DriverError> {
        let mut found = self.load(vm)?;
        if found.running == running {
            let class = if running { Class::Running } else { Class::NotRunning };
            return Err(DriverError::new(class, format!("{vm} is so already")));
        }
        found.running = running;
        self.save(&found)
    }

    fn home(&self, vm: &VmId) -> PathBuf {
        self.dir.join(format!("{vm}.home"))
    }

    fn remove_home(&self, vm: &VmId) -> Result<(), DriverError> {
        remove_dir(&self.home(vm))
    }

    /// Homes of VMs that are gone: a fault or a reboot took the VMs' own files only.
    fn sweep(&self) -> Result<Swept, DriverError> {
        let known: Vec<String> = self.all()?.iter().map(|vm| vm.vm.to_string()).collect();
        let entries = std::fs::read_dir(&self.dir).into_iter().flatten().flatten();
        let names = entries.filter_map(|entry| entry.file_name().into_string().ok());
        let mut swept = Swept::default();
        for name in names.filter_map(|name| name.strip_suffix(".home").map(str::to_owned)) {
            if !known.contains(&name) {
                remove_dir(&self.dir.join(format!("{name}.home")))?;
                swept.removed.push(name);
            }
        }
        Ok(swept)
    }

    fn running(&self, vm: &VmId) -> Result<VmFile, DriverError> {
        let found = self.load(vm)?;
        let text = || format!("{vm} does not run");
        if found.running { Ok(found) } else { Err(DriverError::new(Class::NotRunning, text())) }
    }

    fn command(&self, vm: &VmId, command: &str) -> Result<CommandFile, DriverError> {
        let none = || DriverError::new(Class::NotFound, format!("no command {command} in {vm}"));
        self.load(vm)?.commands.remove(command).ok_or_else(none)
    }

    /// The command, and whether it was known.
    fn exec(&self, vm: &VmId, command: &ExecSpec) -> Result<(CommandFile, bool), DriverError> {
        let mut found = self.load(vm)?;
        if let Some(known) = found.commands.get(&command.id) {
            return Ok((known.clone(), true));
        }
        if !found.running {
            return Err(DriverError::new(Class::NotRunning, format!("{vm} does not run")));
        }
        let ended = run(&command.argv);
        found.commands.insert(command.id.clone(), ended.clone());
        self.save(&found)?;
        Ok((ended, false))
    }
}

fn remove_dir(path: &Path) -> Result<(), DriverError> {
    match std::fs::remove_dir_all(path) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(()),
        other => other.map_err(io_error(path)),
    }
}

fn read_vm(path: &Path) -> Result<VmFile, DriverError> {
    let bytes = std::fs::read(path).map_err(io_error(path))?;
    serde_json::from_slice(&bytes)
        .map_err(|error| DriverError::new(Class::Lost, format!("{}: {error}", path.display())))
}

fn run(argv: &[String]) -> CommandFile {
    let words: Vec<&str> = argv.iter().map(String::as_str).collect();
    let (out, err, code) = match words.as_slice() {
        ["true"] => (String::new(), String::new(), 0),
        ["false"] => (String::new(), String::new(), 1),
        ["echo", words @ ..] => (format!("{}\n", words.join(" ")), String::new(), 0),
        ["exit", code] => (String::new(), String::new(), code.parse().unwrap_or(2)),
        words => (format!("ran: {}\n", words.join(" ")), String::new(), 0),
    };
    CommandFile { out: out.into_bytes(), err: err.into_bytes(), ended: Ended::Exit(code) }
}

fn seen(vm: &VmFile) -> Seen {
    Seen {
        vm: vm.vm,
        running: vm.running,
        memory_mib: vm.spec.memory_mib,
        vcpus: vm.spec.vcpus,
        disk_mib: vm.spec.disk_mib,
        pids: vm.spec.pids,
        image_digest: vm.spec.image_digest.clone(),
    }
}

/// A command that has ended: the fake plays them at once.
struct Over {
    command: CommandFile,
}

impl Execution for Over {
    fn read(&mut self, output: Output, offset: u64, max: usize) -> Answer<'_, Chunk> {
        Box::pin(async move {
            let all = match output {
                Output::Out => &self.command.out,
                Output::Err => &self.command.err,
            };
            let from = usize::try_from(offset).unwrap_or(usize::MAX).min(all.len());
            let to = from.saturating_add(max).min(all.len());
            Ok(Chunk { bytes: all[from..to].to_vec(), last: to == all.len() })
        })
    }

    fn signal(&mut self, _signal: i32) -> Answer<'_, ()> {
        Box::pin(async { Err(DriverError::new(Class::NotRunning, "the command has ended")) })
    }

    fn ended(&mut self) -> Answer<'_, Ended> {
        Box::pin(async { Ok(self.command.ended) })
    }
}

impl Driver for Fake {
    fn name(&self) -> &'static str {
        "fake"
    }

    fn dies_with_machine(&self) -> bool {
        // Files of another boot are none.
        true
    }

    fn limit(&self, call: CallKind) -> Duration {
        let set =
            Faults::read(&self.inner.faults).ok().and_then(|faults| faults.limit_ms.get(&call).copied());
        set.map_or_else(|| call.limit(), Duration::from_millis)
    }

    fn probe(&self) -> Answer<'_, Probe> {
        Box::pin(self.play(CallKind::Probe, |_, _| Ok(Probe { about: "fake VMs, for tests".to_owned() })))
    }

    fn create<'a>(&'a self, vm: &'a VmId, spec: &'a VmSpec) -> Answer<'a, ()> {
        Box::pin(self.play(CallKind::Create, |inner, faults| inner.create(vm, spec, faults)))
    }

    fn start<'a>(&'a self, vm: &'a VmId) -> Answer<'a, ()> {
        Box::pin(self.play(CallKind::Start, |inner, _| inner.set_running(vm, true)))
    }

    fn exec<'a>(&'a self, vm: &'a VmId, command: &'a ExecSpec) -> Answer<'a, Box<dyn Execution>> {
        Box::pin(self.play(CallKind::Exec, |inner, _| {
            let (command, _) = inner.exec(vm, command)?;
            Ok(Box::new(Over { command }) as Box<dyn Execution>)
        }))
    }

    fn begin<'a>(&'a self, vm: &'a VmId, command: &'a ExecSpec) -> Answer<'a, bool> {
        Box::pin(self.play(CallKind::Exec, |inner, _| Ok(inner.exec(vm, command)?.1)))
    }

    fn stop<'a>(&'a self, vm: &'a VmId, _grace: Duration) -> Answer<'a, ()> {
        Box::pin(self.play(CallKind::Stop, |inner, _| inner.set_running(vm, false)))
    }

    fn destroy<'a>(&'a self, vm: &'a VmId) -> Answer<'a, ()> {
        Box::pin(self.play(CallKind::Destroy, |inner, _| {
            inner.remove_home(vm)?;
            let path = inner.file(vm);
            std::fs::remove_file(&path).map_err(io_error(&path))
        }))
    }

    fn list(&self) -> Answer<'_, Vec<Seen>> {
        Box::pin(self.play(CallKind::List, |inner, _| Ok(inner.all()?.iter().map(seen).collect())))
    }

    fn info<'a>(&'a self, vm: &'a VmId) -> Answer<'a, Seen> {
        Box::pin(self.play(CallKind::Info, |inner, _| Ok(seen(&inner.load(vm)?))))
    }

    fn alive<'a>(&'a self, vm: &'a VmId) -> Answer<'a, ()> {
        Box::pin(self.play(CallKind::Alive, |inner, _| inner.running(vm).map(drop)))
    }

    fn limit_work<'a>(&'a self, vm: &'a VmId, limits: Option<OpenLimits>) -> Answer<'a, ()> {
        Box::pin(self.play(CallKind::Limit, move |inner, _| {
            let found = seen(&inner.running(vm)?);
            limits.map_or(Ok(()), |limits| found.fits(limits))
        }))
    }

    fn end_work<'a>(&'a self, vm: &'a VmId) -> Answer<'a, ()> {
        Box::pin(self.play(CallKind::End, |inner, _| inner.running(vm).map(drop)))
    }

    fn signal<'a>(&'a self, vm: &'a VmId, command: &'a str, _signal: i32) -> Answer<'a, ()> {
        Box::pin(self.play(CallKind::Signal, |inner, _| {
            inner.command(vm, command)?;
            Err(DriverError::new(Class::NotRunning, "the command has ended"))
        }))
    }

    fn cancel<'a>(&'a self, vm: &'a VmId, command: &'a str) -> Answer<'a, ()> {
        self.signal(vm, command, 0)
    }

    fn follow<'a>(
        &'a self,
        vm: &'a VmId,
        command: &'a str,
        from: (Option<u64>, Option<u64>),
        pieces: mpsc::Sender<OutputPiece>,
    ) -> Answer<'a, CommandEnd> {
        Box::pin(async move {
            let CommandFile { out, err, ended } =
                self.play(CallKind::Exec, |inner, _| inner.command(vm, command)).await?;
            for (stream, all, from) in [(Stream::Out, out, from.0), (Stream::Err, err, from.1)] {
                let Some(offset) = from else { continue };
                let at = usize::try_from(offset).unwrap_or(usize::MAX).min(all.len());
                for (index, bytes) in all[at..].chunks(PIECE_BYTES_MAX).enumerate() {
                    let offset = offset + (index * PIECE_BYTES_MAX) as u64;
                    let gone = |_| DriverError::new(Class::Lost, "the follower is gone");
                    pieces.send(OutputPiece { stream, offset, bytes: bytes.to_vec() }).await.map_err(gone)?;
                }
            }
            let why = match ended {
                Ended::Exit(code) => Why::Exit(code),
                _ => Why::Lost,
            };
            Ok(CommandEnd { why, wall_ms: 0, cpu_us: 0, memory_peak_bytes: 0, truncated: false })
        })
    }

    fn home<'a>(&'a self, vm: &'a VmId) -> Answer<'a, Home> {
        Box::pin(self.play(CallKind::Home, |inner, _| {
            inner.load(vm)?;
            let dir = inner.home(vm);
            std::fs::create_dir_all(&dir).map_err(io_error(&dir))?;
            Home::at(&dir, nix::unistd::geteuid().as_raw())
        }))
    }

    fn usage<'a>(&'a self, vm: &'a VmId) -> Answer<'a, VmUsage> {
        Box::pin(self.play(CallKind::Usage, |inner, _| {
            let found = inner.load(vm)?;
            let running = u64::from(found.running);
            Ok(VmUsage {
                memory_bytes: (found.spec.memory_mib << 20) * running,
                memory_peak_bytes: found.spec.memory_mib << 20,
                pids: running,
                scratch_free_bytes: found.spec.disk_mib << 20,
                ..VmUsage::default()
            })
        }))
    }

    fn sweep(&self) -> Answer<'_, Swept> {
        Box::pin(self.play(CallKind::Sweep, |inner, _| inner.sweep()))
    }

    fn stats<'a>(&'a self, vm: &'a VmId) -> Answer<'a, Stats> {
        Box::pin(self.play(CallKind::Stats, |inner, _| {
            let found = inner.load(vm)?;
            let memory_mib = if found.running { found.spec.memory_mib } else { 0 };
            Ok(Stats { cpu_us: 0, memory_mib, disk_mib: found.spec.disk_mib })
        }))
    }
}

#[cfg(test)]
#[path = "fake/tests.rs"]
mod tests;
