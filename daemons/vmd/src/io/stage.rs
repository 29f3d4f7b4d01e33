//! vmd's own mount namespace. In it the cgroup2 mount is gone where v1 controllers are used (crun refuses hybrid hosts
//! otherwise, `spec/drivers.md` §1), and a file system in memory stands at [`STAGE`]: with every VM's bundle, root,
//! scratch room and the runtime's state. The host sees none of it, and all of it vanishes with the last process in it.

use super::cgroup::{Layout, cgroup2_mounts};
use gantry_model::pool::DISK_BYTES_PER_ENTRY;
use gantry_proto::vmd::{CreateRequest, SCRATCH_DIRS, STAGE, UID_USER, place};
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sched::{CloneFlags, unshare};
use nix::unistd::{Gid, Uid, chown};
use std::fs::{self, Permissions};
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

/// Room for bundles and the runtime's state; scratch rooms are file systems of their own. A VM takes some 50 KiB.
const STAGE_OPTIONS: &str = "mode=755,size=256m";
/// Where the runtime keeps its state.
pub const STATE: &str = "/mnt/state";

/// Why the namespace can't be had.
#[derive(Debug, thiserror::Error)]
pub enum StageError {
    /// A file of ours would be hidden.
    #[error("{} is below {STAGE}, which vmd covers: keep Gantry's root and programs elsewhere", path.display())]
    Hidden {
        /// Which.
        path: PathBuf,
    },
    /// No usable control groups.
    #[error("no control groups with memory, pids and cpu, neither version 1 nor 2")]
    NoCgroups,
    /// A step failed.
    #[error("can't {step}")]
    Step {
        /// Which.
        step: &'static str,
        /// Why.
        #[source]
        source: io::Error,
    },
}

fn step<E: Into<io::Error>>(step: &'static str) -> impl Fn(E) -> StageError {
    move |error| StageError::Step { step, source: error.into() }
}

/// Moves this process, which must have one thread yet, into a namespace of its own and sets the stage. `keep` are
/// paths that must stay visible.
///
/// # Errors
/// Without root, and see [`StageError`].
pub fn enter(init: &Path, keep: &[PathBuf]) -> Result<Layout, StageError> {
    if let Some(path) = keep.iter().chain([&init.to_owned()]).find(|path| path.starts_with(STAGE)) {
        return Err(StageError::Hidden { path: path.clone() });
    }
    let init = fs::read(init).map_err(step("read gantry-init, which lies beside gantry-vmd"))?;
    let table = fs::read_to_string("/proc/self/mountinfo").map_err(step("read the mounts"))?;
    let controllers = |at: &Path| fs::read_to_string(at.join("cgroup.controllers")).unwrap_or_default();
    let layout = Layout::find(&table, controllers).ok_or(StageError::NoCgroups)?;
    unshare(CloneFlags::CLONE_NEWNS).map_err(step("leave the host's mount namespace (vmd needs root)"))?;
    let none = None::<&str>;
    mount(none, "/", none, MsFlags::MS_REC | MsFlags::MS_PRIVATE, none)
        .map_err(step("make mounts private"))?;
    if matches!(layout, Layout::V1(_)) {
        for at in cgroup2_mounts(&table) {
            umount2(&at, MntFlags::MNT_DETACH).map_err(step("hide the cgroup2 mount"))?;
        }
    }
    let flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV;
    mount(Some("gantry-vmd"), STAGE, Some("tmpfs"), flags, Some(STAGE_OPTIONS))
        .map_err(step("set the stage"))?;
    fs::create_dir_all(STATE).map_err(step("make the runtime's directory"))?;
    fs::write(place::init(), init).map_err(step("copy gantry-init"))?;
    fs::set_permissions(place::init(), Permissions::from_mode(0o755)).map_err(step("copy gantry-init"))?;
    Ok(layout)
}

/// Where the runtime of that name is run from.
#[must_use]
pub fn runtime(name: &str) -> PathBuf {
    Path::new(STAGE).join(name)
}

/// Where a VM's bundle is.
#[must_use]
pub fn bundle(vm: &str) -> PathBuf {
    Path::new(&place::vm(vm)).join("bundle")
}

/// What the runtime and init said on their standard error.
#[must_use]
pub fn log(vm: &str) -> PathBuf {
    Path::new(&place::vm(vm)).join("log")
}

/// Makes what is missing of a VM's bundle, root and scratch room. After a stop the scratch room is as it was.
///
/// # Errors
/// The kernel's; what was made stays for [`clear`].
pub fn prepare(vm: &CreateRequest) -> io::Result<()> {
    let bundle = bundle(&vm.vm);
    fs::create_dir_all(&bundle)?;
    fs::write(bundle.join("config.json"), &vm.config)?;
    let root = place::root(&vm.vm);
    mounted(&root, || bind_read_only(&vm.root, &root))?;
    let scratch = place::scratch(&vm.vm);
    mounted(&scratch, || mount_scratch(vm, Path::new(&scratch)))
}

/// Makes a mount point and what is on it, once. A directory that is there has its mount: one whose mount failed is taken
/// away, or the next try would take an empty directory for a root.
fn mounted(at: &str, mount: impl FnOnce() -> io::Result<()>) -> io::Result<()> {
    if Path::new(at).exists() {
        return Ok(());
    }
    fs::create_dir(at)?;
    mount().inspect_err(|_| {
        let _ = umount2(at, MntFlags::MNT_DETACH);
        let _ = fs::remove_dir(at);
    })
}

fn bind_read_only(from: &str, to: &str) -> io::Result<()> {
    let none = None::<&str>;
    mount(Some(from), to, none, MsFlags::MS_BIND, none)
        .map_err(|error| io::Error::new(io::Error::from(error).kind(), format!("image {from}: {error}")))?;
    let flags =
        MsFlags::MS_REMOUNT | MsFlags::MS_BIND | MsFlags::MS_RDONLY | MsFlags::MS_NOSUID | MsFlags::MS_NODEV;
    Ok(mount(none, to, none, flags, none)?)
}

fn sizes(mib: u64) -> String {
    let bytes = mib << 20;
    format!("size={bytes},nr_inodes={}", bytes / DISK_BYTES_PER_ENTRY)
}

/// Gives a scratch room another size.
///
/// # Errors
/// `InvalidInput` when more is in use.
pub fn resize(vm: &str, mib: u64) -> io::Result<()> {
    let (none, at) = (None::<&str>, place::scratch(vm));
    let flags = MsFlags::MS_REMOUNT | MsFlags::MS_NOSUID | MsFlags::MS_NODEV;
    Ok(mount(none, at.as_str(), none, flags, Some(sizes(mib).as_str()))?)
}

/// VMs that have something on the stage, by name.
#[must_use]
pub fn names() -> Vec<String> {
    let dirs = [place::vm(""), format!("{STATE}/")];
    let entries = dirs.iter().filter_map(|dir| fs::read_dir(dir).ok()).flatten().flatten();
    entries.filter_map(|entry| entry.file_name().into_string().ok()).collect()
}

fn mount_scratch(vm: &CreateRequest, at: &Path) -> io::Result<()> {
    let options = format!("mode=755,{}", sizes(vm.scratch_mib));
    let flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV;
    mount(Some("gantry-scratch"), at, Some("tmpfs"), flags, Some(options.as_str()))?;
    let user = vm.uid_base + UID_USER;
    for (name, mode) in SCRATCH_DIRS {
        own_dir(&at.join(name), mode, user)?;
    }
    own_dir(&at.join("home/out"), 0o755, user)
}

fn own_dir(path: &Path, mode: u32, user: u32) -> io::Result<()> {
    fs::create_dir(path)?;
    fs::set_permissions(path, Permissions::from_mode(mode))?;
    Ok(chown(path, Some(Uid::from_raw(user)), Some(Gid::from_raw(user)))?)
}

/// Removes all of a VM from the stage, beside vmd's own thread: the kernel needs a second for a scratch room with some
/// 100,000 files, and no other VM shall wait for that.
///
/// # Errors
/// The kernel's.
pub async fn clear(vm: &str) -> io::Result<()> {
    let vm = vm.to_owned();
    tokio::task::spawn_blocking(move || remove(&vm)).await.map_err(io::Error::other)?
}

/// Nothing there is fine. What a VM wrote is never walked: it goes with its mount.
fn remove(vm: &str) -> io::Result<()> {
    let dir = place::vm(vm);
    if !Path::new(&dir).exists() {
        return Ok(());
    }
    for at in [place::scratch(vm), place::root(vm)] {
        match umount2(at.as_str(), MntFlags::MNT_DETACH) {
            Ok(()) | Err(nix::errno::Errno::EINVAL | nix::errno::Errno::ENOENT) => {}
            Err(error) => return Err(error.into()),
        }
        match fs::remove_dir(&at) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
    }
    fs::remove_dir_all(dir)
}
