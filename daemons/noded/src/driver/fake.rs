//! The `fake` driver: VMs that are files. Deterministic, and it fails exactly as `etc/gantry/fake.json` says
//! ([`faults`]). VMs are in `run/gantry/fake/`: they outlive noded and die with the machine's boot id, as real ones
//! do. Knows the image `noop` only, and counts memory and disk against what the node offers.
//!
//! Commands are a few words it plays itself: `true`, `false`, `echo WORDS…`, `exit N`; any other ends with 127.

pub mod faults;

use super::{
    Answer, CallKind, Chunk, Class, Driver, DriverError, Ended, ExecSpec, Execution, Output, Probe, Seen,
    Stats, VmId,
};
use faults::{Faults, Played, When};
use gantry_model::ids::ClusterUuid;
use gantry_model::root::Root;
use gantry_proto::noded::VmSpec;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// The one image.
pub const IMAGE: &str = "noop";
/// Exit code of a command it does not know, as a shell's.
const EXIT_UNKNOWN: i32 = 127;

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
        if spec.image != IMAGE {
            let text = format!("the fake driver knows the image '{IMAGE}', not '{}'", spec.image);
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

    fn exec(&self, vm: &VmId, command: &ExecSpec) -> Result<CommandFile, DriverError> {
        let mut found = self.load(vm)?;
        if let Some(known) = found.commands.get(&command.id) {
            return Ok(known.clone());
        }
        if !found.running {
            return Err(DriverError::new(Class::NotRunning, format!("{vm} does not run")));
        }
        let ended = run(&command.argv);
        found.commands.insert(command.id.clone(), ended.clone());
        self.save(&found)?;
        Ok(ended)
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
        _ => {
            let name = words.first().copied().unwrap_or_default();
            (String::new(), format!("{name}: not found\n"), EXIT_UNKNOWN)
        }
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
            let command = inner.exec(vm, command)?;
            Ok(Box::new(Over { command }) as Box<dyn Execution>)
        }))
    }

    fn stop<'a>(&'a self, vm: &'a VmId, _grace: Duration) -> Answer<'a, ()> {
        Box::pin(self.play(CallKind::Stop, |inner, _| inner.set_running(vm, false)))
    }

    fn destroy<'a>(&'a self, vm: &'a VmId) -> Answer<'a, ()> {
        Box::pin(self.play(CallKind::Destroy, |inner, _| {
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
