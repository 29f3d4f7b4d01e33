//! Floors of the runs: what the container runtime alone, and podman, make of the same root on this machine. A process of
//! their own does it (this program, called again), since it leaves the host's mount namespace: on hybrid hosts crun and
//! podman work only where no cgroup2 mount is seen.

use anyhow::{Context, Result, bail, ensure};
use gantry_noded::driver::oci::{bundle, image};
use gantry_proto::vmd::{CreateRequest, VmLimits, place};
use gantry_vmd::io::runtime::Runtime;
use gantry_vmd::io::stage;
use nix::mount::{MsFlags, mount};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

/// First argument of the process that measures.
pub const ARGUMENT: &str = "--bare";
/// How long each is measured.
const WINDOW: Duration = Duration::from_secs(5);
/// At once: as many as the reference machine has cores.
const AT_ONCE: u32 = 2;
/// First uid of the bare containers.
const UIDS: u32 = 900 << 20;
/// Where podman keeps its state, on the stage, gone with it.
const PODMAN_STATE: &str = "/mnt/podman";
/// Control group of podman's containers.
const PODMAN_GROUP: &str = "libpod_parent";

/// What is measured.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Bare {
    /// The OCI runtime.
    Runtime,
    /// podman.
    Podman,
}

impl Bare {
    fn word(self) -> &'static str {
        match self {
            Self::Runtime => "runtime",
            Self::Podman => "podman",
        }
    }
}

/// Containers that run `true`, per second.
pub fn rate(what: Bare) -> Result<f64> {
    let dir = tempfile::tempdir()?;
    let output = Command::new(std::env::current_exe()?)
        .args([ARGUMENT, what.word()])
        .arg(dir.path())
        .stderr(Stdio::inherit())
        .output()?;
    ensure!(output.status.success(), "measuring {what:?} failed: {}", output.status);
    String::from_utf8(output.stdout)?.trim().parse().context("a rate")
}

/// The process that measures. Prints the rate.
pub fn process(args: &[String]) -> Result<()> {
    let [what, dir] = args else { bail!("{ARGUMENT} WHAT DIR") };
    let programs = gantry_tests::cluster::programs();
    stage::enter(&programs.join("gantry-init"), &[])?;
    let image = image::open(Path::new(dir), Path::new("/etc"), image::HOST, None)
        .map_err(|error| anyhow::anyhow!("{error:?}"))?;
    let commands: Vec<Vec<String>> = (0..AT_ONCE)
        .map(|worker| if what == "podman" { podman(worker, &image) } else { runtime(worker, &image) })
        .collect::<Result<_>>()?;
    let begin = Instant::now();
    let count = std::thread::scope(|scope| {
        let workers: Vec<_> = commands.iter().map(|words| scope.spawn(|| run_for(words))).collect();
        let counts = workers.into_iter().map(|worker| worker.join().ok().context("a worker panicked")?);
        counts.sum::<Result<u32>>()
    })?;
    println!("{}", f64::from(count) / begin.elapsed().as_secs_f64());
    sweep();
    Ok(())
}

/// podman leaves its parent control group behind, with one of its monitors; all else goes with the mount namespace.
fn sweep() {
    for hierarchy in std::fs::read_dir("/sys/fs/cgroup").into_iter().flatten().flatten() {
        let parent = hierarchy.path().join(PODMAN_GROUP);
        let _ = std::fs::remove_dir(parent.join("conmon"));
        let _ = std::fs::remove_dir(parent);
    }
}

fn run_for(words: &[String]) -> Result<u32> {
    let (end, mut count) = (Instant::now() + WINDOW, 0);
    while Instant::now() < end {
        let output = Command::new(&words[0])
            .args(&words[1..])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .output()?;
        let said = String::from_utf8_lossy(&output.stderr);
        ensure!(output.status.success(), "{words:?}: {}: {said}", output.status);
        count += 1;
    }
    Ok(count)
}

/// The bundle of a VM as the driver makes it, with `true` instead of gantry-init; the runtime's command as vmd's.
fn runtime(worker: u32, image: &image::Image) -> Result<Vec<String>> {
    let vm = format!("bare{worker}");
    let uid_base = UIDS + worker * gantry_proto::vmd::UID_RANGE;
    let mut config: serde_json::Value =
        serde_json::from_str(&bundle::config(&vm, uid_base, image.host_dirs))?;
    config["process"]["args"] = serde_json::json!(["/bin/true"]);
    let config = config.to_string();
    stage::prepare(&CreateRequest {
        vm: vm.clone(),
        label: String::new(),
        cgroup: format!("gantry/{vm}"),
        config,
        root: image.root.display().to_string(),
        uid_base,
        scratch_mib: 32,
        limits: VmLimits { memory_mib: 128, cpu_percent: 100, pids: 64 },
        ready_ms: 1,
    })?;
    let program = Runtime::find(None).context("no OCI runtime")?.program.display().to_string();
    let bundle = stage::bundle(&vm).display().to_string();
    let words = [
        program.as_str(),
        "--root",
        stage::STATE,
        "--cgroup-manager=disabled",
        "run",
        "--bundle",
        &bundle,
        &vm,
    ];
    Ok(words.map(str::to_owned).to_vec())
}

/// podman on a root of the same content.
fn podman(worker: u32, image: &image::Image) -> Result<Vec<String>> {
    let root = PathBuf::from(place::vm(&format!("podman{worker}")));
    std::fs::create_dir_all(&root)?;
    let none = None::<&str>;
    mount(Some(&image.root), &root, none, MsFlags::MS_BIND, none)?;
    mount(Some("/usr"), &root.join("usr"), none, MsFlags::MS_BIND, none)?;
    let state = format!("{PODMAN_STATE}{worker}");
    let words = [
        "podman",
        "--root",
        &format!("{state}/root"),
        "--runroot",
        &format!("{state}/run"),
        "--tmpdir",
        &format!("{state}/tmp"),
        "--cgroup-manager",
        "cgroupfs",
        "run",
        "--ulimit",
        "nofile=20000:20000",
        "--ulimit",
        "nproc=1000:1000",
        "--rm",
        "--network",
        "none",
        "--rootfs",
        &root.display().to_string(),
        "true",
    ];
    Ok(words.map(str::to_owned).to_vec())
}
