//! The `oci` driver: VMs are containers of crun or runc, one foreground `run` each, with gantry-init as PID 1. This
//! side knows images, bundles and ids; gantry-vmd, a process of its own, has the containers, so that noded's death
//! costs none. All state is vmd's: the driver has none of its own.

pub mod bundle;
mod deaths;
pub mod helper;
pub mod image;
pub mod seccomp;

use super::Swept;
use super::fake::Room;
use super::home::Home;
use super::{
    Answer, Chunk, Class, Driver, DriverError, Ended, ExecSpec, Execution, Output, Probe, Seen, Stats, VmId,
};
use crate::io::images;
use gantry_model::ids::{ClusterUuid, NodeUuid};
use gantry_model::root::Root;
use gantry_proto::noded::{OpenLimits, OutputPiece, VmSpec};
use gantry_proto::vmd::{
    self, CommandEnd, CommandName, CreateRequest, ExecRequest, Stream, UID_RANGE, VmFacts, VmLimits, VmName,
    VmState, VmUsage, Why,
};
use helper::Helper;
use serde::{Deserialize, Serialize};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{Mutex, mpsc};

/// Least processes of a VM: PID 1, a shell and its child.
pub const PIDS_MIN: u64 = 3;
/// Most: a command can't number more on common kernels.
pub const PIDS_MAX: u64 = 32_768;
/// Least memory of a VM: PID 1 and a small program.
pub const MEMORY_MIB_MIN: u64 = 16;
/// From start to PID 1's first word; in practice 10 to 50 ms.
const READY_MS: u64 = 20_000;
/// What a command finds in its environment before its own.
const ENV: [(&str, &str); 4] = [
    ("PATH", "/usr/local/bin:/usr/bin:/bin"),
    ("HOME", bundle::HOME),
    ("LANG", "C.UTF-8"),
    ("USER", "tester"),
];
/// How long the probe's command may take.
const PROBE_MS: u64 = 5_000;

/// What the driver must know of its node.
#[derive(Debug, Clone)]
pub struct Node {
    /// Where its files are.
    pub root: Root,
    /// Its cluster: the label of its VMs.
    pub cluster: ClusterUuid,
    /// Itself: names the control groups.
    pub node: NodeUuid,
    /// First uid of its VMs.
    pub uid_base: u32,
    /// What it offers.
    pub room: Room,
    /// The host's /etc: the image `host` has what the dynamic linker needs of it.
    pub etc: PathBuf,
}

/// What vmd keeps of a VM for the driver.
#[derive(Debug, Clone, Serialize, Deserialize)]
struct Label {
    vm: VmId,
    spec: VmSpec,
}

/// See the module.
#[derive(Debug)]
pub struct Oci {
    node: Node,
    helper: Arc<Helper>,
    images: PathBuf,
    /// Held while ids and room are chosen and taken.
    making: Mutex<()>,
}

fn name(vm: &VmId) -> VmName {
    VmName { vm: vm.to_string() }
}

fn is_running(facts: &VmFacts) -> bool {
    match facts.state {
        VmState::Running => true,
        VmState::Created | VmState::Starting | VmState::Stopped | VmState::Lost => false,
    }
}

fn ended(end: &CommandEnd) -> Ended {
    match end.why {
        Why::Exit(code) => Ended::Exit(code),
        Why::Signal(signal) => Ended::Signal(signal),
        Why::Cancelled => Ended::Cancelled,
        Why::Output => Ended::Output,
        Why::Wall => Ended::Wall,
        Why::Cpu => Ended::Cpu,
        Why::Memory => Ended::Memory,
        Why::Disk => Ended::Disk,
        Why::Pids => Ended::Pids,
        Why::Lost => Ended::Lost,
    }
}

impl Oci {
    /// The driver of this node; vmd need not run yet.
    #[must_use]
    pub fn new(node: Node) -> Self {
        let helper = Arc::new(Helper::new(node.root.socket("vmd.sock")));
        let images = node.root.run().join("oci");
        Self { node, helper, images, making: Mutex::new(()) }
    }

    /// The files of a VM's home, also after it was stopped, until it is destroyed.
    ///
    /// # Errors
    /// [`Class::NotFound`] when there is none.
    pub async fn home(&self, vm: &VmId) -> Result<Home, DriverError> {
        let facts = self.facts(vm).await?;
        Home::open(self.helper.pid().await?, &facts.vm, facts.uid_base)
    }

    /// Everything vmd counted of a VM.
    ///
    /// # Errors
    /// [`Class::NotFound`].
    pub async fn usage(&self, vm: &VmId) -> Result<VmUsage, DriverError> {
        self.helper.call::<vmd::Usage>(&name(vm)).await
    }

    /// Lowers a running VM's limits, or restores them; never above its own.
    ///
    /// # Errors
    /// [`Class::NotRunning`]; [`Class::Refused`] above its own.
    pub async fn limit(&self, vm: &VmId, limits: VmLimits) -> Result<(), DriverError> {
        self.helper.call::<vmd::Limit>(&vmd::LimitRequest { vm: vm.to_string(), limits }).await
    }

    /// Waits for a command's end with all that was counted.
    ///
    /// # Errors
    /// [`Class::NotFound`]; [`Class::Lost`] when vmd stays away.
    pub async fn wait(&self, vm: &VmId, command: &str) -> Result<CommandEnd, DriverError> {
        self.helper.follow::<vmd::Wait>(&Self::command(vm, command)).await
    }

    async fn facts(&self, vm: &VmId) -> Result<VmFacts, DriverError> {
        self.helper.call::<vmd::Show>(&name(vm)).await
    }

    async fn limit_all(&self, vm: &VmId, limits: Option<OpenLimits>) -> Result<(), DriverError> {
        let request = vmd::ConfineRequest { vm: vm.to_string(), limits };
        if self.helper.call_known::<vmd::Confine>(&request).await?.is_some() {
            return Ok(());
        }
        // A vmd of before that verb, which lives on when noded is replaced.
        let VmFacts { limits: own, scratch_mib, .. } = self.facts(vm).await?;
        let whole = OpenLimits { memory_mib: own.memory_mib, pids: own.pids, disk_mib: scratch_mib };
        let OpenLimits { memory_mib, pids, disk_mib } = limits.unwrap_or(whole);
        self.limit(vm, VmLimits { memory_mib, pids, cpu_percent: own.cpu_percent }).await?;
        let request = vmd::RoomRequest { vm: vm.to_string(), scratch_mib: disk_mib };
        self.helper.call::<vmd::Room>(&request).await
    }

    fn command(vm: &VmId, command: &str) -> CommandName {
        CommandName { vm: vm.to_string(), command: command.to_owned() }
    }

    /// This cluster's VMs with what vmd says of them.
    async fn labelled(&self) -> Result<Vec<(Label, VmFacts)>, DriverError> {
        let all = self.helper.call::<vmd::List>(&()).await?;
        Ok(all.into_iter().filter_map(|facts| Some((self.label(&facts)?, facts))).collect())
    }

    /// Of one of this cluster's VMs.
    fn label(&self, facts: &VmFacts) -> Option<Label> {
        let label: Label = serde_json::from_str(&facts.label).ok()?;
        (label.vm.cluster == self.node.cluster).then_some(label)
    }

    /// Notes a VM with vmd, under ids that none of `all` has, which are all of vmd's.
    async fn note(
        &self,
        vm: String,
        label: String,
        spec: &VmSpec,
        all: &[VmFacts],
    ) -> Result<(), DriverError> {
        let (images, etc, image) = (self.images.clone(), self.node.etc.clone(), spec.image.clone());
        let imported = spec.image_digest.as_ref().map(|digest| images::dir(&self.node.root).join(digest));
        let image = tokio::task::spawn_blocking(move || image::open(&images, &etc, &image, imported))
            .await
            .map_err(|error| DriverError::new(Class::Locked, error.to_string()))??;
        if image.made {
            self.prune(all, &image).await?;
        }
        let uid_base = free_base(self.node.uid_base, all)
            .ok_or_else(|| DriverError::new(Class::NoSpace, "all ids for VMs are taken"))?;
        let config = bundle::config(&vm, uid_base, image.host_dirs);
        let request = CreateRequest {
            cgroup: format!("gantry/{}/{vm}", self.node.node),
            vm,
            label,
            config,
            root: image.root.display().to_string(),
            uid_base,
            scratch_mib: spec.disk_mib,
            limits: VmLimits {
                memory_mib: spec.memory_mib,
                cpu_percent: spec.vcpus.saturating_mul(100),
                pids: spec.pids,
            },
            ready_ms: READY_MS,
        };
        self.helper.call::<vmd::Create>(&request).await
    }

    /// Removes images `host` that none of `all` has as its root. One that is noted and has not started yet has none so far;
    /// then all stay until the next image is made.
    async fn prune(&self, all: &[VmFacts], current: &image::Image) -> Result<(), DriverError> {
        if all.iter().any(|facts| matches!(facts.state, VmState::Created | VmState::Starting)) {
            return Ok(());
        }
        let vmd = PathBuf::from(format!("/proc/{}/root", self.helper.pid().await?));
        let root = |facts: &VmFacts| vmd.join(vmd::place::root(&facts.vm).trim_start_matches('/'));
        let roots: Vec<PathBuf> = all.iter().map(root).collect();
        let (dir, current) = (self.images.clone(), current.root.clone());
        let pruned = tokio::task::spawn_blocking(move || {
            let used = roots.iter().filter_map(|root| image::identity(root)).collect();
            image::prune(&dir, &current, &used)
        });
        if let Ok(Err(error)) = pruned.await {
            tracing::warn!(%error, "can't remove an image of earlier times");
        }
        Ok(())
    }

    async fn make(&self, vm: &VmId, spec: &VmSpec) -> Result<(), DriverError> {
        check(spec)?;
        let _turn = self.making.lock().await;
        let all = self.helper.call::<vmd::List>(&()).await?;
        let labels: Vec<_> = all.iter().filter_map(|facts| self.label(facts)).collect();
        if labels.iter().any(|label| label.vm == *vm) {
            return Err(DriverError::new(Class::Exists, format!("{vm} is there already")));
        }
        let used = labels.iter().map(|label| label.spec.memory_mib).fold(0, u64::saturating_add);
        let room = self.node.room.memory_mib;
        if used.saturating_add(spec.memory_mib) > room {
            let text = format!("{} MiB of memory wanted, {used} of {room} MiB are in use", spec.memory_mib);
            return Err(DriverError::new(Class::NoSpace, text));
        }
        let label = Label { vm: *vm, spec: spec.clone() };
        let label = serde_json::to_string(&label).expect("plain structs have a JSON form");
        self.note(vm.to_string(), label, spec, &all).await
    }

    /// Makes a VM, runs a command in it, removes it.
    async fn try_out(&self) -> Result<Probe, DriverError> {
        let info = self.helper.call::<vmd::Info>(&()).await?;
        let spec = VmSpec {
            name: "probe".to_owned(),
            driver: "oci".to_owned(),
            image: image::HOST.to_owned(),
            memory_mib: 64,
            vcpus: 1,
            disk_mib: 1,
            image_digest: None,
            pids: 16,
        };
        let turn = self.making.lock().await;
        let vm = VmName { vm: "gantry-probe".to_owned() };
        // One that an earlier probe left when it was given up.
        let _ = self.helper.call::<vmd::Remove>(&vm).await;
        let all = self.helper.call::<vmd::List>(&()).await?;
        self.note(vm.vm.clone(), String::new(), &spec, &all).await?;
        let ran = self.run_true(&vm.vm).await;
        self.helper.call::<vmd::Remove>(&vm).await?;
        drop(turn);
        ran?;
        let about = format!("{}, cgroups {}, an id range per VM", info.version, info.cgroups);
        Ok(Probe { about })
    }

    async fn run_true(&self, vm: &str) -> Result<(), DriverError> {
        self.helper.call::<vmd::Start>(&VmName { vm: vm.to_owned() }).await?;
        let request = ExecRequest {
            vm: vm.to_owned(),
            command: "true".to_owned(),
            argv: vec!["true".to_owned()],
            env: env(&[]),
            cwd: bundle::HOME.to_owned(),
            stdin: Vec::new(),
            output_bytes_max: 1,
            wall_ms: PROBE_MS,
            cpu_ms: PROBE_MS,
        };
        self.helper.call::<vmd::Exec>(&request).await?;
        let of = CommandName { vm: vm.to_owned(), command: request.command };
        match self.helper.call::<vmd::Wait>(&of).await?.why {
            Why::Exit(0) => Ok(()),
            why => Err(DriverError::new(Class::Lost, format!("`true` in a VM ended so: {why:?}"))),
        }
    }

    async fn begin_one(&self, vm: &VmId, command: &ExecSpec) -> Result<bool, DriverError> {
        let request = ExecRequest {
            vm: vm.to_string(),
            command: command.id.clone(),
            argv: command.argv.clone(),
            env: env(&command.env),
            cwd: working_dir(command.cwd.as_deref()),
            stdin: command.stdin.clone(),
            output_bytes_max: command.output_bytes_max,
            wall_ms: command.wall_ms,
            cpu_ms: command.cpu_ms,
        };
        Ok(self.helper.follow::<vmd::Exec>(&request).await?.known)
    }
}

fn check(spec: &VmSpec) -> Result<(), DriverError> {
    let bad = |text: String| Err(DriverError::new(Class::Refused, text));
    if spec.memory_mib < MEMORY_MIB_MIN || spec.vcpus == 0 || spec.disk_mib == 0 {
        return bad(format!("a VM needs {MEMORY_MIB_MIN} MiB of memory, 1 MiB of disk and a CPU at least"));
    }
    if !(PIDS_MIN..=PIDS_MAX).contains(&spec.pids) {
        return bad(format!("a VM can have {PIDS_MIN} to {PIDS_MAX} processes, not {}", spec.pids));
    }
    if spec.disk_mib >= spec.memory_mib {
        let (disk, memory) = (spec.disk_mib, spec.memory_mib);
        return bad(format!("the disk of an oci VM is in its memory: {disk} MiB must be below {memory} MiB"));
    }
    Ok(())
}

/// The lowest range of ids from `first` on that no VM has.
fn free_base(first: u32, all: &[VmFacts]) -> Option<u32> {
    let taken = |base: u32| all.iter().any(|facts| facts.uid_base.abs_diff(base) < UID_RANGE);
    (0..).map_while(|index: u32| first.checked_add(index.checked_mul(UID_RANGE)?)).find(|base| !taken(*base))
}

/// Where a command begins: a relative directory is one of the home, as the paths of files are.
fn working_dir(wanted: Option<&str>) -> String {
    match wanted {
        None => bundle::HOME.to_owned(),
        Some(dir) if dir.starts_with('/') => dir.to_owned(),
        Some(dir) => format!("{}/{dir}", bundle::HOME),
    }
}

/// The environment of a command: ours, and its own over it.
fn env(own: &[(String, String)]) -> Vec<(String, String)> {
    let mut all: Vec<(String, String)> =
        ENV.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
    all.retain(|(name, _)| own.iter().all(|(other, _)| other != name));
    all.extend_from_slice(own);
    all
}

fn seen(label: &Label, facts: &VmFacts) -> Seen {
    Seen {
        vm: label.vm,
        running: is_running(facts),
        memory_mib: label.spec.memory_mib,
        vcpus: label.spec.vcpus,
        disk_mib: label.spec.disk_mib,
        pids: label.spec.pids,
        image_digest: label.spec.image_digest.clone(),
    }
}

/// A command in vmd's hands.
struct Attached {
    helper: Arc<Helper>,
    of: CommandName,
}

impl Execution for Attached {
    fn read(&mut self, output: Output, offset: u64, max: usize) -> Answer<'_, Chunk> {
        Box::pin(async move {
            let stream = match output {
                Output::Out => Stream::Out,
                Output::Err => Stream::Err,
            };
            let request = vmd::ReadRequest { of: self.of.clone(), stream, offset, bytes_max: max as u64 };
            let reply = self.helper.follow::<vmd::Read>(&request).await?;
            Ok(Chunk { bytes: reply.bytes, last: reply.last })
        })
    }

    fn signal(&mut self, signal: i32) -> Answer<'_, ()> {
        Box::pin(async move {
            let request = vmd::SignalRequest { to: self.of.clone(), signal };
            self.helper.call::<vmd::Signal>(&request).await
        })
    }

    fn ended(&mut self) -> Answer<'_, Ended> {
        Box::pin(async move { Ok(ended(&self.helper.follow::<vmd::Wait>(&self.of).await?)) })
    }
}

impl Driver for Oci {
    fn name(&self) -> &'static str {
        "oci"
    }

    fn dies_with_machine(&self) -> bool {
        // Processes, groups and file systems in memory.
        true
    }

    fn probe(&self) -> Answer<'_, Probe> {
        Box::pin(self.try_out())
    }

    fn create<'a>(&'a self, vm: &'a VmId, spec: &'a VmSpec) -> Answer<'a, ()> {
        Box::pin(self.make(vm, spec))
    }

    fn start<'a>(&'a self, vm: &'a VmId) -> Answer<'a, ()> {
        Box::pin(async move { self.helper.call::<vmd::Start>(&name(vm)).await })
    }

    fn exec<'a>(&'a self, vm: &'a VmId, command: &'a ExecSpec) -> Answer<'a, Box<dyn Execution>> {
        Box::pin(async move {
            self.begin_one(vm, command).await?;
            let of = Self::command(vm, &command.id);
            Ok(Box::new(Attached { helper: Arc::clone(&self.helper), of }) as Box<dyn Execution>)
        })
    }

    fn begin<'a>(&'a self, vm: &'a VmId, command: &'a ExecSpec) -> Answer<'a, bool> {
        Box::pin(self.begin_one(vm, command))
    }

    fn stop<'a>(&'a self, vm: &'a VmId, grace: Duration) -> Answer<'a, ()> {
        Box::pin(async move {
            let grace_ms = u64::try_from(grace.as_millis()).unwrap_or(u64::MAX);
            self.helper.call::<vmd::Stop>(&vmd::StopRequest { vm: vm.to_string(), grace_ms }).await
        })
    }

    fn destroy<'a>(&'a self, vm: &'a VmId) -> Answer<'a, ()> {
        Box::pin(async move { self.helper.call::<vmd::Remove>(&name(vm)).await })
    }

    fn list(&self) -> Answer<'_, Vec<Seen>> {
        Box::pin(async move {
            let mut all: Vec<Seen> =
                self.labelled().await?.iter().map(|(label, facts)| seen(label, facts)).collect();
            all.sort_by_key(|seen| (seen.vm.slot, seen.vm.generation));
            Ok(all)
        })
    }

    fn info<'a>(&'a self, vm: &'a VmId) -> Answer<'a, Seen> {
        Box::pin(async move {
            let facts = self.facts(vm).await?;
            let label: Option<Label> = serde_json::from_str(&facts.label).ok();
            let none = || DriverError::new(Class::NotFound, format!("no VM {vm} with this label"));
            label.filter(|label| label.vm == *vm).map(|label| seen(&label, &facts)).ok_or_else(none)
        })
    }

    fn stats<'a>(&'a self, vm: &'a VmId) -> Answer<'a, Stats> {
        Box::pin(async move {
            let usage = self.usage(vm).await?;
            let mib = |bytes: u64| bytes.div_ceil(1 << 20);
            Ok(Stats {
                cpu_us: usage.cpu_us,
                memory_mib: mib(usage.memory_bytes),
                disk_mib: mib(usage.scratch_bytes),
            })
        })
    }

    fn alive<'a>(&'a self, vm: &'a VmId) -> Answer<'a, ()> {
        Box::pin(async move { self.helper.call::<vmd::Ping>(&name(vm)).await })
    }

    fn limit_work<'a>(&'a self, vm: &'a VmId, limits: Option<OpenLimits>) -> Answer<'a, ()> {
        Box::pin(self.limit_all(vm, limits))
    }

    fn end_work<'a>(&'a self, vm: &'a VmId) -> Answer<'a, ()> {
        Box::pin(async move { self.helper.call::<vmd::EndWork>(&name(vm)).await })
    }

    fn signal<'a>(&'a self, vm: &'a VmId, command: &'a str, signal: i32) -> Answer<'a, ()> {
        Box::pin(async move {
            let request = vmd::SignalRequest { to: Self::command(vm, command), signal };
            self.helper.call::<vmd::Signal>(&request).await
        })
    }

    fn cancel<'a>(&'a self, vm: &'a VmId, command: &'a str) -> Answer<'a, ()> {
        Box::pin(async move { self.helper.call::<vmd::Cancel>(&Self::command(vm, command)).await })
    }

    fn follow<'a>(
        &'a self,
        vm: &'a VmId,
        command: &'a str,
        (out, err): (Option<u64>, Option<u64>),
        pieces: mpsc::Sender<OutputPiece>,
    ) -> Answer<'a, CommandEnd> {
        let request = vmd::FollowRequest { of: Self::command(vm, command), out, err };
        Box::pin(async move { self.helper.relay(request, &pieces).await })
    }

    fn home<'a>(&'a self, vm: &'a VmId) -> Answer<'a, Home> {
        Box::pin(Oci::home(self, vm))
    }

    fn usage<'a>(&'a self, vm: &'a VmId) -> Answer<'a, VmUsage> {
        Box::pin(Oci::usage(self, vm))
    }

    fn deaths(&self, told: mpsc::Sender<Option<VmId>>) -> Answer<'_, ()> {
        Box::pin(self.tell_deaths(told))
    }

    fn sweep(&self) -> Answer<'_, Swept> {
        Box::pin(async move {
            let request = vmd::SweepRequest { cgroup: format!("gantry/{}", self.node.node) };
            let vmd::SweepReply { removed, failed } = self.helper.call::<vmd::Sweep>(&request).await?;
            Ok(Swept { removed, failed })
        })
    }
}

#[cfg(test)]
mod tests;
