//! Full disks: of the master, where every acknowledged change is kept; of a node, where the outputs of its VMs are. What
//! can't be done says so; once there is room everything goes on by itself, and nothing acknowledged is lost.
//!
//! The small disks are in a mount namespace of the test's own thread, which its children share.

use super::failover::copies;
use super::step;
use anyhow::{Context, Result, ensure};
use gantry_tests::leak::Site;
use gantry_tests::luxi::delay;
use gantry_tests::{Luxi, Options, VirtualCluster, pool, rest, wait};
use gantry_tests::{bounded, task};
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sched::{CloneFlags, unshare};
use serde_json::{Value, json};
use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// More than any step here takes, on a busy machine too.
const PATIENCE: Duration = Duration::from_secs(90);
/// Files and directories of the smallest backup.
const FILES_MIN: u32 = 9;
/// Bytes of one write to a disk that gets full; what is left is less.
const GRAIN: usize = 512;

/// A file system of its own size, seen by this thread and the processes it starts.
struct Disk(PathBuf);

impl Disk {
    fn mount(dir: &Path, mib: u32) -> Result<Self> {
        // Else the host would see the mount, and keep it.
        unshare(CloneFlags::CLONE_NEWNS).context("a mount namespace: run these tests as root")?;
        let private = MsFlags::MS_REC | MsFlags::MS_PRIVATE;
        mount(None::<&str>, "/", None::<&str>, private, None::<&str>)?;
        fs::create_dir_all(dir)?;
        let size = format!("size={mib}m");
        mount(Some("gantry-small"), dir, Some("tmpfs"), MsFlags::empty(), Some(size.as_str()))?;
        Ok(Self(dir.to_owned()))
    }

    /// Takes all room there is; less than [`GRAIN`] is left.
    fn fill(&self) -> Result<()> {
        let mut file = File::create(self.0.join("filler"))?;
        for grain in [1 << 20, GRAIN] {
            while file.write_all(&vec![0; grain]).is_ok() {}
        }
        Ok(())
    }

    /// How many files and directories it may have, its root among them.
    fn set_inodes(&self, most: u32) -> Result<()> {
        let option = format!("nr_inodes={most}");
        Ok(mount(None::<&str>, &self.0, None::<&str>, MsFlags::MS_REMOUNT, Some(option.as_str()))?)
    }

    /// Busy while somebody has a file open for writing.
    fn set_read_only(&self, yes: bool) -> Result<()> {
        let only = if yes { MsFlags::MS_RDONLY } else { MsFlags::empty() };
        Ok(mount(None::<&str>, &self.0, None::<&str>, MsFlags::MS_REMOUNT | only, None::<&str>)?)
    }

    fn make_room(&self) -> Result<()> {
        Ok(fs::remove_file(self.0.join("filler"))?)
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        // The namespace ends with the thread; this frees the memory before.
        let _ = umount2(&self.0, MntFlags::MNT_DETACH);
    }
}

/// A name for a cluster's directory, short because of its sockets.
fn directory() -> Result<tempfile::TempDir> {
    Ok(tempfile::Builder::new().prefix("gd").rand_bytes(5).tempdir_in("/tmp")?)
}

#[test]
fn a_master_with_a_full_disk_goes_on_once_there_is_room() {
    let dir = directory().expect("a directory");
    let disk = Disk::mount(&dir.path().join("n1/var/lib"), 96).expect("a small disk");
    let options = Options { dir: Some(dir.path().to_owned()), ..Options::new(1) };
    let cluster = VirtualCluster::start(&options).expect("the cluster starts");
    let mut acknowledged = Vec::new();
    step("jobs run", || {
        let mut luxi = cluster.luxi()?;
        for _ in 0..5 {
            let job = luxi.submit(&[delay(0.0)])?;
            ensure!(luxi.wait(job, PATIENCE)? == "success");
            acknowledged.push(job);
        }
        Ok(())
    });
    step("with a full disk a change is refused in words", || {
        disk.fill()?;
        acknowledged.extend(until_refused(&cluster)?);
        Ok(())
    });
    step("the other daemons live", || others_live(&cluster));
    step("with room it goes on by itself", || {
        disk.make_room()?;
        let mut luxi = cluster.luxi()?;
        let job = luxi.submit(&[delay(0.0)])?;
        ensure!(luxi.wait(job, PATIENCE)? == "success");
        cluster.run(&["cluster", "add-tags", "room"]).map(drop)
    });
    step("nothing acknowledged is lost", || {
        let mut luxi = cluster.luxi()?;
        for job in &acknowledged {
            let status = luxi.wait(*job, PATIENCE)?;
            ensure!(status == "success", "job {job} is {status}");
        }
        ensure!(cluster.run(&["cluster", "list-tags"])?.contains("room"));
        rest::reached(&cluster, PATIENCE)?;
        rest::verified(&cluster)
    });
}

/// A tag that is acknowledged; and what `info` says of the copies of the last node then.
fn goes_on(cluster: &VirtualCluster, tag: &str) -> Result<String> {
    cluster.run(&["cluster", "add-tags", tag])?;
    let info = cluster.run(&["cluster", "info"])?;
    let name = format!("{}: has row", cluster.nodes[2].name);
    Ok(info.lines().filter(|line| line.contains(&name)).collect::<Vec<_>>().join("\n"))
}

#[test]
fn a_candidate_whose_disk_takes_nothing_is_told_and_catches_up() {
    let dir = directory().expect("a directory");
    let disk = Disk::mount(&dir.path().join("n3/var/lib"), 32).expect("a small disk");
    let options = Options { dir: Some(dir.path().to_owned()), ..Options::new(3) };
    let cluster = VirtualCluster::start(&options).expect("the cluster starts");
    let mut tags = 0;
    let mut next = || {
        tags += 1;
        format!("tag{tags}")
    };
    step("three copies", || copies(&cluster, 3));
    let mut hurt = |name: &str, word: &str, hurt: &dyn Fn() -> Result<()>, heal: &dyn Fn() -> Result<()>| {
        step(&format!("{name}: the others go on, and what is wrong is said"), || {
            hurt()?;
            let mut said = String::new();
            wait::until("the copy lacks rows and says why", PATIENCE, || {
                said = goes_on(&cluster, &next()).ok()?;
                said.lines().all(|line| !line.contains("lacks none") && line.contains(word)).then_some(())
            })
            .with_context(|| said.clone())?;
            wait::until("verify tells it", PATIENCE, || {
                let (_, said) = cluster.refused(&["cluster", "verify"]).ok()?;
                said.contains(&cluster.nodes[2].name).then_some(())
            })
        });
        step(&format!("{name}: writable again it catches up by itself"), || {
            heal()?;
            copies(&cluster, 3)?;
            // What else it could not write, such as its ssconf files, is given to it again soon after.
            let mut said = String::new();
            wait::until("verify finds nothing", PATIENCE, || {
                cluster.run(&["cluster", "verify"]).map_err(|why| said = format!("{why:#}")).ok().map(drop)
            })
            .with_context(|| said.clone())
        });
    };
    let frozen = || {
        cluster.kill_node(2)?;
        // The kernel may still be closing files of the dead.
        wait::until("no file of it is open", PATIENCE, || disk.set_read_only(true).ok())?;
        cluster.boot(2)?;
        let log = cluster.nodes[2].root.join("var/log/gantry/noded.log");
        wait::until("its noded says what is wrong", PATIENCE, || {
            let log = fs::read_to_string(&log).ok()?.to_lowercase();
            (log.contains("read-only") || log.contains("readonly")).then_some(())
        })
    };
    hurt("read-only", "can't connect", &frozen, &|| disk.set_read_only(false));
    hurt("full", "full", &|| disk.fill(), &|| disk.make_room());
    step("nothing acknowledged is lost", || {
        let known = cluster.run(&["cluster", "list-tags"])?;
        ensure!((1..=tags).all(|n| known.lines().any(|tag| tag == format!("tag{n}"))), "{known}");
        Ok(())
    });
}

/// Submits jobs until the disk shows: those acknowledged before. Then a command says whose log to read.
fn until_refused(cluster: &VirtualCluster) -> Result<Vec<u64>> {
    let mut acknowledged = Vec::new();
    let refused = wait::until("a submission is refused", PATIENCE, || {
        // Reused pages of the files take some more changes.
        let mut luxi = Luxi::connect(&cluster.master().socket("luxi.sock")).ok()?;
        match luxi.submit(&[delay(0.0)]) {
            Ok(job) => acknowledged.push(job),
            Err(why) => return Some(format!("{why:#}")),
        }
        None
    })?;
    // Or the connection was closed.
    ensure!(!refused.starts_with("SubmitJob") || refused.contains("luxid"), "no clear sentence: {refused}");
    let (_, said) = cluster.refused(&["cluster", "add-tags", "none"])?;
    ensure!(
        said.contains("does not stay up") && said.contains("disk is full"),
        "who is to be looked at: {said}"
    );
    let log = fs::read_to_string(cluster.master().root.join("var/log/gantry/luxid.log"))?;
    ensure!(log.contains("disk is full"), "what is wrong: {log}");
    Ok(acknowledged)
}

/// Luxid can't live without room; who needs none does.
fn others_live(cluster: &VirtualCluster) -> Result<()> {
    for daemon in ["boot", "wconfd", "noded", "overseer"] {
        ensure!(cluster.master().pid(daemon).is_some(), "{daemon} is gone");
    }
    Ok(())
}

/// VMs of the pool.
const SIZE: usize = 6;
/// Tasks that come when the disk is full.
const TASKS: usize = 8;
/// The least that each says: more than logs and records may give back while the disk is full.
const OUTPUT_BYTES: u64 = 1_288_000;

#[test]
fn a_node_with_a_full_disk_costs_its_users_nothing() {
    let dir = directory().expect("a directory");
    // noded keeps half a GiB for itself, and takes no uploads below that.
    let disk = Disk::mount(&dir.path().join("n2"), 640).expect("a small disk");
    let options = Options { dir: Some(dir.path().to_owned()), ..Options::oci(3) };
    let cluster = VirtualCluster::start(&options).expect("the cluster starts");
    let site = Site::of(&cluster).expect("all nodes have joined");
    step("a pool on all nodes", || {
        pool::add(&cluster, "oci", SIZE)?;
        site.rests(&cluster, SIZE, PATIENCE)
    });
    step("tasks are done though the disk of a node fills", || done_meanwhile(&cluster, &disk));
    step("a slot says what failed", || says_why(&cluster));
    step("with room the node has clean VMs again", || {
        disk.make_room()?;
        // What failed several times is put off for up to a minute.
        site.rests(&cluster, SIZE, PATIENCE * 2)?;
        rest::reached(&cluster, PATIENCE)
    });
    step("a removed pool leaves nothing", || {
        pool::remove(&cluster)?;
        site.rests(&cluster, 0, PATIENCE)
    });
}

/// Ends well only where its output can be kept.
fn spec(number: usize, before: &str) -> Value {
    json!({
        "name": "wordy", "pool": pool::NAME,
        "execute": [{"command": format!("echo begun; {before} seq 200000; echo word{number}")}],
        "limits": {"wall_s": 60, "cpu_s": 10, "memory_mib": 64, "pids": 16, "disk_mib": 8, "output_kib": 4096},
    })
}

/// Some run when the disk gets full, some come after. None is charged for it.
fn done_meanwhile(cluster: &VirtualCluster, disk: &Disk) -> Result<()> {
    let mut luxi = cluster.luxi()?;
    let mut ids = Vec::new();
    for number in 0..SIZE {
        ids.push(task::submit(&mut luxi, &spec(number, "sleep 15;"))?);
    }
    for id in &ids {
        let id = id.to_string();
        wait::until(&format!("task {id} has begun"), PATIENCE, || {
            cluster.run(&["task", "log", &id]).ok().filter(|log| log.contains("begun")).map(drop)
        })?;
    }
    disk.fill()?;
    for number in SIZE..SIZE + TASKS {
        ids.push(task::submit(&mut luxi, &spec(number, ""))?);
    }
    let records = task::wait_all(&mut luxi, &ids, PATIENCE)?;
    let mut failed = 0;
    for record in &records {
        ensure!(record.state() == "success", "{}", record.json());
        ensure!(record.deciding()["out"]["bytes"].as_u64() > Some(OUTPUT_BYTES), "{}", record.json());
        let mut outcomes = record.outcomes();
        ensure!(outcomes.pop() == Some("user-ok") && outcomes.iter().all(|one| *one == "infra-fail"));
        failed += outcomes.len();
    }
    ensure!(failed > 0, "the full disk disturbed nobody");
    Ok(())
}

/// That its VMs can't be had is told where people look for VMs.
fn says_why(cluster: &VirtualCluster) -> Result<()> {
    let mut luxi = cluster.luxi()?;
    let mut seen = String::new();
    wait::until("a slot says what failed on its node", PATIENCE * 2, || {
        let slots = pool::slots(&mut luxi).ok()?;
        seen = slots.iter().map(|slot| format!("{slot}; ")).collect();
        let told =
            |slot: &pool::Slot| slot.why.contains("failed: ") && slot.why.contains(&cluster.nodes[1].name);
        slots.iter().find(|slot| told(slot)).map(|slot| eprintln!("    {slot}"))
    })
    .context(seen)
}

/// A backup whose disk gets full at any of its files says so once, and leaves nothing that looks like one.
#[test]
fn a_backup_on_a_full_disk_is_none_and_says_so() {
    let dir = directory().expect("a directory");
    let options = Options { dir: Some(dir.path().join("c")), ..Options::new(1) };
    let cluster = VirtualCluster::start(&options).expect("the cluster starts");
    let disk = Disk::mount(&dir.path().join("small"), 8).expect("a small disk");
    let at = disk.0.join("monday");
    let told = at.to_string_lossy().into_owned();
    let left = || -> Result<usize> { Ok(fs::read_dir(&disk.0)?.count()) };
    step("one that is too small is told before anything is written", || {
        let (_, said) = cluster.refused(&["cluster", "backup", &told])?;
        ensure!(said.contains("MiB are needed in") && said.trim_end().lines().count() == 1, "{said}");
        ensure!(left()? == 0, "something is left");
        Ok(())
    });
    step("one that gets full on the way is told, at whichever file", || {
        mount(None::<&str>, &disk.0, None::<&str>, MsFlags::MS_REMOUNT, Some("size=64m"))?;
        let mut failed = 0;
        for inodes in 1.. {
            disk.set_inodes(inodes)?;
            let output = bounded::output(&mut cluster.command_on(0, &["cluster", "backup", &told]))?;
            if output.status.success() {
                break;
            }
            let said = String::from_utf8_lossy(&output.stderr).into_owned();
            ensure!(said.contains("no room is left in") && said.contains("another disk"), "{inodes}: {said}");
            ensure!(said.trim_end().lines().count() == 1, "one error: {said}");
            ensure!(left()? == 0, "{inodes}: something is left");
            failed += 1;
        }
        ensure!(failed >= FILES_MIN, "it failed {failed} times only");
        Ok(())
    });
    step("with room there is one, and it is whole", || {
        let said = cluster.refused(&["cluster", "restore", "--look", &told])?.1;
        ensure!(said.contains("a master at work"), "{said}");
        Ok(())
    });
}
