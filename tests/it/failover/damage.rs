//! Copies that are not what they were, on whole clusters: damaged files, old images, clones, copies of another cluster,
//! disks that can't be written, clocks years off. The others go on, `info` and `verify` say what is wrong, and the cure is
//! the two commands of docs/FAILOVER.md. Never is anything acknowledged lost, or another history believed.

use super::{PATIENCE, copies};
use crate::{cluster, step};
use anyhow::{Context, Result, ensure};
use gantry_tests::{Options, VirtualCluster, wait};
use serde_json::{Value, json};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// The files of a candidate's copies.
const FILES: [&str; 4] = ["wconf.log", "config.data", "locks.data", "queue.data"];
/// What SQLite and the store put beside each.
const BESIDE: [&str; 4] = ["", "-wal", "-shm", ".flushed"];
/// The node that is hurt: never the master.
pub(super) const HURT: usize = 2;
/// Ten years in days.
const DECADE: u32 = 3650;

/// What a cluster was told is done: a tag each.
#[derive(Default)]
pub struct Told(Vec<String>);

impl Told {
    pub fn tag(&mut self, cluster: &VirtualCluster, name: &str) -> Result<()> {
        cluster.run(&["cluster", "add-tags", name])?;
        self.0.push(name.to_owned());
        Ok(())
    }

    pub fn is_there(&self, cluster: &VirtualCluster) -> Result<()> {
        let known = cluster.run(&["cluster", "list-tags"])?;
        let lost: Vec<&String> = self.0.iter().filter(|tag| !known.lines().any(|k| k == **tag)).collect();
        ensure!(lost.is_empty(), "acknowledged and lost: {lost:?}");
        Ok(())
    }
}

pub(super) fn lib(cluster: &VirtualCluster, node: usize) -> PathBuf {
    cluster.nodes[node].root.join("var/lib/gantry")
}

/// Copies the files of copies from one directory to another, and removes what the other had more.
fn put(from: &Path, to: &Path) -> Result<()> {
    for file in FILES {
        for end in BESIDE {
            let name = format!("{file}{end}");
            let _ = fs::remove_file(to.join(&name));
            if from.join(&name).exists() {
                fs::copy(from.join(&name), to.join(&name)).with_context(|| name.clone())?;
            }
        }
    }
    Ok(())
}

/// Changes one byte wherever a file holds `text`; old pages that are used no more may hold it as well. What a stopped node has
/// in the -wal must be in the file already.
pub(super) fn flip(path: &Path, text: &[u8]) -> Result<()> {
    let mut bytes = fs::read(path)?;
    let found: Vec<usize> =
        (0..bytes.len().saturating_sub(text.len())).filter(|at| bytes[*at..].starts_with(text)).collect();
    ensure!(!found.is_empty(), "{} does not hold {:?}", path.display(), String::from_utf8_lossy(text));
    for at in found {
        bytes[at] ^= 0x15;
    }
    Ok(fs::write(path, bytes)?)
}

/// Moves what lies in the -wal files of a stopped node into the files themselves.
pub(super) fn checkpoint(cluster: &VirtualCluster, node: usize) -> Result<()> {
    const CODE: &str = "import sqlite3, sys\nfor path in sys.argv[1:]:\n    c = sqlite3.connect(path)\n    \
                        assert c.execute('pragma wal_checkpoint(truncate)').fetchone()[0] == 0\n    c.close()\n";
    let paths = FILES.map(|file| lib(cluster, node).join(file));
    let status = Command::new(gantry_tests::foreign::PYTHON).args(["-c", CODE]).args(paths).status()?;
    ensure!(status.success(), "checkpoint: {status}");
    Ok(())
}

/// How a copy of [`HURT`] stands in a log, as soon as `is` finds what it looks for.
fn stands(cluster: &VirtualCluster, log: &str, is: impl Fn(&Value) -> bool) -> Result<Value> {
    let mut last = Value::Null;
    let name = &cluster.nodes[HURT].name;
    wait::until("the copy is seen as what it is", PATIENCE, || {
        last = cluster.luxi().ok()?.call("QueryMembers", json!([])).ok()?;
        let copy = last[log].as_array()?.iter().find(|copy| copy["name"] == **name)?.clone();
        is(&copy).then_some(copy)
    })
    .with_context(|| last.to_string())
}

/// The cure of docs/FAILOVER.md, and that all is well after it.
pub(super) fn cure(cluster: &VirtualCluster, told: &Told) -> Result<()> {
    let name = &cluster.nodes[HURT].name;
    cluster.run(&["node", "modify", "-C", "no", name])?;
    cluster.run(&["node", "modify", "-C", "yes", name])?;
    copies(cluster, 3)?;
    cluster.run(&["cluster", "verify"])?;
    told.is_there(cluster)
}

/// Stops a node as a loss of power does, changes its files, starts it: the others go on meanwhile and after, and the copy
/// of `log` counts no more, with `why` in what is said of it.
pub(super) fn hurt(
    cluster: &VirtualCluster,
    told: &mut Told,
    (name, log, why): (&str, &str, &str),
    change: impl FnOnce(&VirtualCluster) -> Result<()>,
) {
    step(&format!("{name}: the others go on"), || {
        cluster.kill_node(HURT)?;
        change(cluster)?;
        cluster.boot(HURT)?;
        told.tag(cluster, &name.replace(' ', "-"))
    });
    step(&format!("{name}: it is told, by info and verify"), || {
        let text = |copy: &Value| format!("{} {}", copy["suspect"], copy["why"]);
        let copy = stands(cluster, log, |copy| text(copy).contains(why))?;
        ensure!(copy["lag"] != 0, "a copy that lacks nothing: {copy}");
        let info = cluster.run(&["cluster", "info"])?;
        ensure!(info.contains(why), "{info}");
        // One that answered a moment ago may be connecting.
        wait::until("verify tells it, and the cure", PATIENCE, || {
            let (_, said) = cluster.refused(&["cluster", "verify"]).ok()?;
            (said.contains(why) && said.contains("gnt-node modify -C no")).then_some(())
        })
    });
    step(&format!("{name}: the cure"), || cure(cluster, told));
}

#[test]
fn a_copy_that_is_not_what_it_was_counts_no_more_until_it_is_fed_anew() {
    let cluster = cluster(3);
    let mut told = Told::default();
    let image = tempfile::tempdir().expect("a directory");
    step("three copies", || {
        copies(&cluster, 3)?;
        told.tag(&cluster, "first")
    });
    let damaged = "its files are damaged";
    let flipped = |file: &'static str, text: &'static [u8]| {
        move |cluster: &VirtualCluster| {
            checkpoint(cluster, HURT)?;
            flip(&lib(cluster, HURT).join(file), text)
        }
    };
    hurt(&cluster, &mut told, ("flipped log", "config", damaged), flipped("wconf.log", b"first"));
    hurt(&cluster, &mut told, ("flipped objects", "config", damaged), flipped("config.data", b"first"));
    hurt(
        &cluster,
        &mut told,
        ("flipped header", "config", damaged),
        flipped("wconf.log", b"SQLite format 3"),
    );
    hurt(&cluster, &mut told, ("flipped format", "queue", damaged), flipped("queue.data", b"queue.data"));
    hurt(&cluster, &mut told, ("flipped queue", "queue", damaged), flipped("queue.data", b"OP_TAGS_SET"));
    step("an image is made", || {
        cluster.kill_node(HURT)?;
        put(&lib(&cluster, HURT), image.path())?;
        cluster.boot(HURT)?;
        told.tag(&cluster, "after-the-image")?;
        copies(&cluster, 3)
    });
    hurt(&cluster, &mut told, ("old image", "queue", "has confirmed row"), |cluster| {
        put(image.path(), &lib(cluster, HURT))
    });
    hurt(&cluster, &mut told, ("clone", "config", "the node holds another copy"), |cluster| {
        put(&lib(cluster, 1), &lib(cluster, HURT))
    });
    step("another cluster", || {
        let other = VirtualCluster::start(&Options::new(1))?;
        other.run(&["cluster", "add-tags", "foreign"])?;
        other.halt()?;
        put(&lib(&other, 0), image.path())
    });
    hurt(&cluster, &mut told, ("foreign copy", "config", "another cluster"), |cluster| {
        put(image.path(), &lib(cluster, HURT))
    });
    step("nothing of the other cluster is here", || {
        let tags = cluster.run(&["cluster", "list-tags"])?;
        ensure!(!tags.contains("foreign\n"), "{tags}");
        Ok(())
    });
}

/// Removes files of a log from a node at work, with what lies beside them.
fn remove(cluster: &VirtualCluster, node: usize, logs: &[&str]) -> Result<()> {
    for entry in fs::read_dir(lib(cluster, node))? {
        let path = entry?.path();
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        if logs.iter().any(|log| name.starts_with(log)) {
            fs::remove_file(path)?;
        }
    }
    Ok(())
}

/// Its daemons go on with open handles of files that nobody will find again: they notice, and confirm nothing that is in them.
#[test]
fn a_copy_whose_files_are_removed_under_its_daemons_counts_no_more() {
    let cluster = cluster(3);
    let mut told = Told::default();
    step("three copies", || {
        copies(&cluster, 3)?;
        told.tag(&cluster, "first")
    });
    let noded = cluster.nodes[HURT].pid("noded");
    step("a candidate's are removed: it is told under a small load", || {
        remove(&cluster, HURT, &["wconf.log", "queue.data"])?;
        told.tag(&cluster, "second")?;
        for log in ["config", "queue"] {
            stands(&cluster, log, |copy| copy["suspect"] == "its files are damaged")?;
        }
        let (_, said) = cluster.refused(&["cluster", "verify"])?;
        ensure!(said.contains("its files are damaged") && said.contains("gnt-node modify -C no"), "{said}");
        let said = fs::read_to_string(cluster.nodes[HURT].root.join("var/log/gantry/noded.log"))?;
        ensure!(said.contains("was removed under the daemon"), "{said}");
        Ok(())
    });
    step("the cure helps while its noded runs", || {
        cure(&cluster, &told)?;
        ensure!(cluster.nodes[HURT].pid("noded") == noded, "noded was started anew: this test shows nothing");
        Ok(())
    });
    step("an object file of a candidate is removed: it is told, and mended", || {
        remove(&cluster, HURT, &["config.data"])?;
        told.tag(&cluster, "third")?;
        // The log has all rows that it held: it is made again from them.
        wait::until("it is told, and made again", PATIENCE, || {
            let said = fs::read_to_string(cluster.nodes[HURT].root.join("var/log/gantry/noded.log")).ok()?;
            let told = said.contains("config.data was removed under the daemon");
            (told && said.contains("made again from the log")).then_some(())
        })?;
        copies(&cluster, 3)?;
        cure(&cluster, &told)
    });
    step("the master's own are removed: it acknowledges nothing more, and says why", || {
        remove(&cluster, 0, &["wconf.log"])?;
        // Its job waits for a wconfd that comes back. The others may have the row: it is told to nobody.
        let mut add = cluster.command_on(0, &["cluster", "add-tags", "untold"]);
        let mut add = add.stdout(Stdio::null()).stderr(Stdio::null()).spawn()?;
        let told = wait::until("wconfd stops, and says why", PATIENCE, || {
            let said = fs::read_to_string(cluster.nodes[0].root.join("var/log/gantry/wconfd.log")).ok()?;
            let why = said.contains("wconf.log was removed under the daemon");
            (why && said.contains("wconf.log is missing")).then_some(())
        });
        let ended = add.try_wait()?;
        add.kill()?;
        add.wait()?;
        told?;
        ensure!(!ended.is_some_and(|status| status.success()), "acknowledged with no file");
        Ok(())
    });
    step("another takes over, and everything acknowledged is there", || {
        cluster.run_on(1, &["cluster", "master-failover"])?;
        cluster.led_by(1);
        told.is_there(&cluster)?;
        told.tag(&cluster, "after")
    });
}

#[test]
fn a_master_whose_log_is_damaged_leads_no_more() {
    let cluster = cluster(3);
    let mut told = Told::default();
    step("three copies", || {
        copies(&cluster, 3)?;
        told.tag(&cluster, "first")
    });
    step("its log is damaged: it does not start as master, and says what to do", || {
        cluster.kill_node(0)?;
        checkpoint(&cluster, 0)?;
        flip(&lib(&cluster, 0).join("wconf.log"), b"first")?;
        cluster.boot(0)?;
        let said = wait::until("a command says it", PATIENCE, || {
            let (_, said) = cluster.refused(&["cluster", "add-tags", "never"]).ok()?;
            said.contains("damaged").then_some(said)
        })?;
        ensure!(said.contains("gnt-cluster master-failover"), "{said}");
        Ok(())
    });
    step("another takes over, and everything acknowledged is there", || {
        cluster.run_on(1, &["cluster", "master-failover"])?;
        cluster.led_by(1);
        told.is_there(&cluster)?;
        told.tag(&cluster, "after")
    });
    step("the damaged one is fed anew", || {
        let name = &cluster.nodes[0].name;
        cluster.run(&["node", "modify", "-C", "no", name])?;
        cluster.run(&["node", "modify", "-C", "yes", name])?;
        copies(&cluster, 3)?;
        cluster.run(&["cluster", "verify"])?;
        told.is_there(&cluster)
    });
}

/// SQLite takes a changed byte of its WAL for the end of it. Where no other copy knows better, the store does: nothing that was
/// acknowledged is gone without a word, in either log.
#[test]
fn a_lone_master_whose_wal_is_damaged_says_what_is_gone() {
    let cluster = cluster(1);
    let mut told = Told::default();
    let backup = cluster.dir().join("backup").to_string_lossy().into_owned();
    step("acknowledged, and kept", || {
        told.tag(&cluster, "first")?;
        cluster.run(&["cluster", "backup", &backup]).map(drop)
    });
    for log in ["queue.data", "wconf.log"] {
        step(&format!("{log}: it does not go on, and says what to do"), || {
            // Some more, which the damage hits.
            for number in 0..5 {
                cluster.run(&["cluster", "add-tags", &format!("more{number}")])?;
            }
            cluster.kill_node(0)?;
            let path = lib(&cluster, 0).join(format!("{log}-wal"));
            let mut bytes = fs::read(&path)?;
            let middle = bytes.len() / 2;
            bytes[middle] ^= 0x15;
            fs::write(&path, bytes)?;
            cluster.boot(0)?;
            let said = wait::until("a command says it", PATIENCE, || {
                let (_, said) = cluster.refused(&["cluster", "list-tags"]).ok()?;
                said.contains("damaged").then_some(said)
            })?;
            ensure!(said.contains("flushed here and") && said.contains("restore"), "{said}");
            Ok(())
        });
        step("the backup brings it back", || {
            cluster.kill_node(0)?;
            cluster.run(&["cluster", "restore", "--yes-do-it", &backup])?;
            cluster.led_by(0);
            told.is_there(&cluster)
        });
    }
}

/// The library of Debian's package faketime, in the directory of the machine's architecture.
fn faketime() -> Result<String> {
    let dirs = fs::read_dir("/usr/lib")?.flatten().map(|entry| entry.path());
    let found = dirs.map(|dir| dir.join("faketime/libfaketime.so.1")).find(|path| path.exists());
    let path = found.context("package faketime is missing: `cargo xtask test` installs it")?;
    Ok(path.to_string_lossy().into_owned())
}

/// No decision hangs on what a clock on the wall says.
#[test]
fn clocks_ten_years_off_change_nothing() {
    let cluster = cluster(3);
    let mut told = Told::default();
    step("three copies", || copies(&cluster, 3));
    for (sign, round) in [("+", 0), ("-", 1)] {
        step(&format!("a candidate's clock shows {sign}{DECADE} days"), || {
            let library = faketime()?;
            cluster.kill_node(HURT)?;
            cluster.boot_with(
                HURT,
                &[
                    ("LD_PRELOAD", library.as_str()),
                    ("FAKETIME", &format!("{sign}{DECADE}d")),
                    ("DONT_FAKE_MONOTONIC", "1"),
                ],
            )?;
            told.tag(&cluster, &format!("candidate{round}"))?;
            copies(&cluster, 3)
        });
        step("it becomes master, and works", || {
            cluster.run_on(HURT, &["cluster", "master-failover"])?;
            cluster.led_by(HURT);
            told.tag(&cluster, &format!("master{round}"))?;
            told.is_there(&cluster)?;
            let log = fs::read_to_string(cluster.nodes[HURT].root.join("var/log/gantry/wconfd.log"))?;
            let year = if sign == "+" { "203" } else { "201" };
            ensure!(log.lines().any(|line| line.starts_with(year)), "its clock is not off: {log}");
            copies(&cluster, 3)
        });
        step("and gives it back", || {
            cluster.run_on(0, &["cluster", "master-failover"])?;
            cluster.led_by(0);
            told.is_there(&cluster)?;
            copies(&cluster, 3)?;
            cluster.run(&["cluster", "verify"]).map(drop)
        });
    }
}
