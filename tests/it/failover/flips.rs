//! A byte that changed in any other file of a candidate than those of damage.rs: it is mended by itself, or told with what to
//! do, which helps. Never is anything else believed: no other role, no lost row, no record of VMs with a part of it gone.

use super::damage::{Told, checkpoint, cure, flip, hurt, lib};
use super::{PATIENCE, copies};
use crate::{cluster, step};
use anyhow::{Context, Result, ensure};
use gantry_tests::{VirtualCluster, wait};
use std::fs;
use std::path::Path;

/// The node that is hurt: never the master.
const HURT: usize = super::damage::HURT;
/// SQLite's page.
const PAGE: usize = 4096;
/// Of a page's head, the low byte of how many cells it has: rows that no crc misses.
const CELLS: usize = 4;

/// Changes one byte.
fn flip_at(path: &Path, at: usize) -> Result<()> {
    let mut bytes = fs::read(path)?;
    *bytes.get_mut(at).with_context(|| format!("{} has no byte {at}", path.display()))? ^= 0x02;
    Ok(fs::write(path, bytes)?)
}

/// Hides a row of the last page of a file: its pages are in it, not in a WAL.
fn hide(path: &Path) -> Result<()> {
    let pages = usize::try_from(fs::metadata(path)?.len())? / PAGE;
    flip_at(path, (pages - 1) * PAGE + CELLS)
}

/// Waits until a log of [`HURT`] has all these words in one line.
fn says(cluster: &VirtualCluster, log: &str, words: &[&str]) -> Result<()> {
    let path = cluster.nodes[HURT].root.join("var/log/gantry").join(log);
    let mut text = String::new();
    wait::until(&format!("{log} says {words:?}"), PATIENCE, || {
        text = fs::read_to_string(&path).ok()?;
        text.lines().any(|line| words.iter().all(|word| line.contains(word))).then_some(())
    })
    .with_context(|| text.clone())
}

#[test]
fn a_flipped_byte_anywhere_in_a_candidates_files_is_mended_or_told_and_cured() {
    let cluster = cluster(3);
    let mut told = Told::default();
    let name = cluster.nodes[HURT].name.clone();
    let file = |name: &str| lib(&cluster, HURT).join(name);
    step("three copies", || {
        copies(&cluster, 3)?;
        told.tag(&cluster, "first")
    });
    step("what is kept twice, or known elsewhere, is mended by itself", || {
        let (role, master) = (fs::read(file("role.json"))?, fs::read(file("ssconf_master_node"))?);
        cluster.kill_node(HURT)?;
        let epoch = b"\"epoch\": ";
        let at = role.windows(epoch.len()).position(|words| words == epoch).context("an epoch")?;
        flip_at(&file("role.json"), at + epoch.len())?;
        flip_at(&file("ssconf_master_node"), 0)?;
        for log in ["wconf.log.flushed", "queue.data.flushed"] {
            flip_at(&file(log), 24)?;
        }
        cluster.boot(HURT)?;
        told.tag(&cluster, "mended")?;
        copies(&cluster, 3)?;
        ensure!(fs::read(file("role.json"))? == role, "role.json is not what it was");
        says(&cluster, "noded.log", &["role.json", "written anew"])?;
        wait::until("ssconf_master_node is what it was", PATIENCE, || {
            (fs::read(file("ssconf_master_node")).ok()? == master).then_some(())
        })?;
        cluster.run(&["cluster", "verify"]).map(drop)
    });
    step("what a running node was given: verify tells it, and redist-conf gives it anew", || {
        let before = ["hmac.key", "ssconf_master_candidates"].map(|name| fs::read(file(name)).ok());
        flip_at(&file("hmac.key"), 5)?;
        flip_at(&file("ssconf_master_candidates"), 2)?;
        let (_, said) = cluster.refused(&["cluster", "verify"])?;
        ensure!(said.contains("hmac.key is not the master's") && said.contains("redist-conf"), "{said}");
        ensure!(said.contains("ssconf_master_candidates is not what the configuration says"), "{said}");
        cluster.run(&["cluster", "redist-conf"])?;
        let after = ["hmac.key", "ssconf_master_candidates"].map(|name| fs::read(file(name)).ok());
        ensure!(after == before, "not what they were");
        cluster.run(&["cluster", "verify"]).map(drop)
    });
    let damaged = "its files are damaged";
    for log in ["locks.data", "config.data"] {
        hurt(&cluster, &mut told, (&format!("hidden row of {log}"), "config", damaged), |cluster| {
            checkpoint(cluster, HURT)?;
            hide(&file(log))
        });
    }
    step("its record of VMs: noded does not serve without what is gone", || {
        cluster.kill_node(HURT)?;
        hide(&file("noded.data"))?;
        cluster.boot(HURT)?;
        says(&cluster, "noded.log", &["noded.data is damaged", "--readd"])?;
        told.tag(&cluster, "without-it")
    });
    step("its role, both files: nothing runs there, and each command says why", || {
        cluster.kill_node(HURT)?;
        for role in ["role.json", "role.json.2"] {
            flip(&file(role), b"candidate")?;
        }
        cluster.boot(HURT)?;
        says(&cluster, "boot.log", &["role.json", "damaged", "join"])?;
        let said = cluster.run_on(HURT, &["cluster", "info"]).expect_err("it has no role").to_string();
        ensure!(said.contains("remove role.json"), "{said}");
        told.tag(&cluster, "nor-this")
    });
    step("the cure of either: it is joined again", || {
        fs::remove_file(file("role.json"))?;
        wait::until("it waits to be joined", PATIENCE, || file("join-secret").exists().then_some(()))?;
        let secret = file("join-secret").to_string_lossy().into_owned();
        let address = &cluster.nodes[HURT].address;
        let join = ["node", "add", "--readd", "--join-secret-file", &secret, "--node-ip", address, &name];
        let (_, said) = cluster.refused(&join)?;
        ensure!(said.contains("noded.data is damaged"), "{said}");
        for end in ["", "-wal", "-shm"] {
            let _ = fs::remove_file(file(&format!("noded.data{end}")));
        }
        cluster.run(&join)?;
        copies(&cluster, 3)?;
        told.tag(&cluster, "joined-again")?;
        cure(&cluster, &told)
    });
}

/// Nobody else knows what a lone master's files held: it says which is damaged, and a backup brings it back.
#[test]
fn a_lone_master_with_a_hidden_row_does_not_go_on_without_it() {
    let cluster = cluster(1);
    let mut told = Told::default();
    let backup = cluster.dir().join("backup").to_string_lossy().into_owned();
    step("acknowledged, and kept", || {
        told.tag(&cluster, "first")?;
        cluster.run(&["cluster", "backup", &backup]).map(drop)
    });
    for name in ["config.data", "queue.data"] {
        step(&format!("{name}: it does not go on, and says what to do"), || {
            cluster.kill_node(0)?;
            checkpoint(&cluster, 0)?;
            hide(&lib(&cluster, 0).join(name))?;
            cluster.boot(0)?;
            let said = wait::until("a command says it", PATIENCE, || {
                let (_, said) = cluster.refused(&["cluster", "list-tags"]).ok()?;
                said.contains("damaged").then_some(said)
            })?;
            ensure!(said.contains(name) && said.contains("restore"), "{said}");
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
