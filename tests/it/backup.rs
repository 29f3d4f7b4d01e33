//! A backup is taken while the cluster works, and all copies but that are lost or left behind: what comes back, and what may
//! not. And backups that are killed.

use crate::failover::{copies, load::Load};
use crate::{cluster, step};
use anyhow::{Context, Result, ensure};
use gantry_tests::{VirtualCluster, bounded, pool, task, wait};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::net::TcpListener;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

const PATIENCE: Duration = Duration::from_secs(90);
/// Where noded listens, on each node's own address.
const NODED_PORT: u16 = 1811;
/// Slots of the pool: two a node, so that each node has its floors.
const SLOTS: usize = 6;
/// What is acknowledged while backups are made.
const JOBS: usize = 60;
/// Backups that are killed.
const KILLS: usize = 14;
/// What each of them has when it is killed.
const STAGES: [&str; 7] =
    ["", "wconf.snapshot.new", "wconf.snapshot", "queue.snapshot", "secrets", "secrets/ca.key", "node.toml"];

/// The pool's slots, all clean.
fn clean(cluster: &VirtualCluster) -> Result<BTreeMap<String, u64>> {
    let mut last = Vec::new();
    wait::until("all slots are clean", PATIENCE, || {
        last = pool::slots(&mut cluster.luxi().ok()?).ok()?;
        last.retain(|slot| slot.name.starts_with(pool::NAME));
        (last.len() == SLOTS && last.iter().all(|slot| slot.state == "CLEAN")).then_some(())
    })
    .with_context(|| format!("{last:?}"))?;
    Ok(last.into_iter().map(|slot| (slot.uuid, slot.generation)).collect())
}

/// Has every VM of the pool used and made anew.
fn used_up(cluster: &VirtualCluster) -> Result<()> {
    let before = clean(cluster)?;
    let said = cluster.run(&[
        "lease",
        "acquire",
        "--json",
        "--for",
        "1h",
        "--count",
        &SLOTS.to_string(),
        pool::NAME,
    ])?;
    let lease: Value = serde_json::from_str(&said)?;
    let uuid = lease["uuid"].as_str().with_context(|| said.clone())?;
    for vm in 0..SLOTS {
        cluster.run(&["lease", "exec", "-n", &vm.to_string(), uuid, "--", "true"])?;
    }
    cluster.run(&["lease", "release", uuid])?;
    wait::until("every slot has another generation", PATIENCE, || {
        let now = pool::slots(&mut cluster.luxi().ok()?).ok()?;
        now.iter().all(|slot| before.get(&slot.uuid).is_none_or(|old| slot.generation > *old)).then_some(())
    })?;
    clean(cluster).map(drop)
}

#[test]
fn a_cluster_comes_back_from_its_backup() {
    let cluster = cluster(3);
    let dir = cluster.dir().join("backup");
    let at = dir.to_string_lossy().into_owned();
    let load = Load::default();
    step("all nodes have copies that count", || copies(&cluster, 3));
    step("a pool, an instance, jobs and tags", || {
        pool::add(&cluster, "fake", SLOTS)?;
        cluster.add_instance("early.gantry.test", &cluster.nodes[1].name)?;
        clean(&cluster)?;
        load.blow(&cluster, 1, || enough(&load))
    });
    let mut told = 0;
    step("a task whose output is a body", || {
        told = say(&cluster, &"word".repeat(2_000))?;
        Ok(())
    });
    step("a backup under load", || {
        let more = Load::default();
        more.blow(&cluster, 2, || {
            enough(&more)?;
            let said = cluster.run(&["cluster", "backup", &at])?;
            ensure!(said.contains("job queue to row"), "{said}");
            let before = more.count().0;
            wait::until("load went on beside it", PATIENCE, || (more.count().0 > before).then_some(()))
        })
    });
    let mut floors = BTreeMap::new();
    step("the cluster goes on: VMs are used, another instance", || {
        used_up(&cluster)?;
        used_up(&cluster)?;
        floors = clean(&cluster)?;
        cluster.add_instance("late.gantry.test", &cluster.nodes[1].name)?;
        let (_, said) = cluster.refused(&["cluster", "restore", "--yes-do-it", &at])?;
        ensure!(said.contains("a master at work"), "{said}");
        Ok(())
    });
    step("the master's disk is lost", || {
        cluster.kill_node(0)?;
        std::fs::remove_dir_all(cluster.nodes[0].root.join("var/lib/gantry"))?;
        Ok(())
    });
    step("it may still live in another directory", || {
        let taken = TcpListener::bind((cluster.nodes[0].address.as_str(), NODED_PORT))?;
        let (_, said) = cluster.refused(&["cluster", "restore", "--yes-do-it", &at])?;
        ensure!(said.contains("is served already") && said.contains("may still live"), "{said}");
        let look = cluster.run(&["cluster", "restore", "--look", &at])?;
        ensure!(look.contains("NOT to be restored here") && look.contains("is served already"), "{look}");
        drop(taken);
        Ok(())
    });
    step("the candidates that are left have more, and that is said", || {
        let (_, said) = cluster.refused(&["cluster", "restore", &at])?;
        ensure!(said.contains("LOST by a restore") && said.contains("master-failover"), "{said}");
        ensure!(said.contains("--yes-do-it") && said.contains(&cluster.nodes[1].name), "{said}");
        ensure!(!cluster.nodes[0].root.join("var/lib/gantry/role.json").exists(), "a look changed something");
        Ok(())
    });
    step("it is restored all the same", || {
        let said = cluster.run(&["cluster", "restore", "--yes-do-it", &at])?;
        ensure!(said.contains("This node is the master now"), "{said}");
        ensure!(said.contains("own record of its VMs is lost"), "{said}");
        Ok(())
    });
    step("everything acknowledged before the backup is there", || load.is_there(&cluster));
    step("a task's long output is there", || {
        let log = cluster.run(&["task", "log", &told.to_string()])?;
        ensure!(log.contains(&"word".repeat(2_000)), "{log}");
        Ok(())
    });
    step("instances of the backup are there, later ones are not", || {
        let list = cluster.run(&["instance", "list", "-o", "name"])?;
        ensure!(list.contains("early.gantry.test") && !list.contains("late.gantry.test"), "{list}");
        Ok(())
    });
    step("generations go on above every node's floor", || {
        let now = clean(&cluster)?;
        for (slot, floor) in &floors {
            ensure!(now.get(slot).is_some_and(|now| now > floor), "{slot}: floor {floor}, now {now:?}");
        }
        Ok(())
    });
    step("VMs that the backup does not know are killed", || strays_are_gone(&cluster));
    step("the other candidates are fed anew", || {
        for node in &cluster.nodes[1..] {
            wait::until("it can be made a candidate", PATIENCE, || {
                cluster.run(&["node", "modify", "-C", "yes", &node.name]).ok()
            })?;
        }
        copies(&cluster, 3)
    });
    step("VMs are used again, jobs run, the cluster is sound", || {
        used_up(&cluster)?;
        ensure!(say(&cluster, "again")? > told, "a number is used again");
        load.blow(&cluster, 3, || {
            let before = load.count();
            wait::until("more is acknowledged", PATIENCE, || (load.count().0 > before.0 + JOBS).then_some(()))
        })?;
        cluster.run(&["cluster", "verify"]).map(drop)
    });
    step("another node takes over what was restored", || {
        cluster.kill_node(0)?;
        cluster.run_on(1, &["cluster", "master-failover"])?;
        cluster.led_by(1);
        load.is_there(&cluster)
    });
}

/// Restored on a candidate, which keeps its record of VMs. The old master has everything and comes back: no node takes a
/// word of it.
#[test]
fn an_old_master_that_comes_back_after_a_restore_is_none() {
    let cluster = cluster(3);
    let at = cluster.dir().join("backup").to_string_lossy().into_owned();
    step("a backup, and what it does not have", || {
        copies(&cluster, 3)?;
        pool::add(&cluster, "fake", SLOTS)?;
        clean(&cluster)?;
        cluster.run(&["cluster", "add-tags", "before"])?;
        cluster.run(&["cluster", "backup", &at])?;
        cluster.run(&["cluster", "add-tags", "after"])?;
        used_up(&cluster)
    });
    let floors = clean(&cluster).expect("a pool");
    step("a living master is not restored beside", || {
        let output =
            bounded::output(&mut cluster.command_on(1, &["cluster", "restore", "--yes-do-it", &at]))?;
        let said = gantry_tests::foreign::said(&output);
        ensure!(!output.status.success() && said.contains("has a master that answers"), "{said}");
        copies(&cluster, 3)
    });
    step("restored on a candidate", || {
        cluster.kill_node(0)?;
        let said = cluster.run_on(1, &["cluster", "restore", "--yes-do-it", &at])?;
        ensure!(said.contains("aside/restore-") && !said.contains("record of its VMs is lost"), "{said}");
        cluster.led_by(1);
        Ok(())
    });
    let name = cluster.nodes[1].name.clone();
    step("the old master comes back and steps down", || {
        cluster.boot(0)?;
        wait::until("it knows the new master", PATIENCE, || {
            let role =
                std::fs::read_to_string(cluster.nodes[0].root.join("var/lib/gantry/role.json")).ok()?;
            let said = cluster.run_on(0, &["cluster", "getmaster"]).ok()?;
            (role.contains("candidate") && said.trim() == name).then_some(())
        })?;
        wait::until("its daemons end", PATIENCE, || {
            ["luxid", "wconfd"].iter().all(|daemon| cluster.nodes[0].pid(daemon).is_none()).then_some(())
        })
    });
    step("the state is that of the backup, above every floor", || {
        let tags = cluster.run(&["cluster", "list-tags"])?;
        ensure!(tags.contains("before") && !tags.contains("after"), "{tags}");
        let now = clean(&cluster)?;
        for (slot, floor) in &floors {
            ensure!(now.get(slot).is_some_and(|now| now >= floor), "{slot}: floor {floor}, now {now:?}");
        }
        used_up(&cluster)?;
        let later = clean(&cluster)?;
        ensure!(
            floors.iter().all(|(slot, floor)| later.get(slot).is_some_and(|now| now > floor)),
            "{later:?}"
        );
        Ok(())
    });
    step("the old ones are fed anew", || {
        for number in [0, 2] {
            let name = &cluster.nodes[number].name;
            wait::until("it can be made a candidate", PATIENCE, || {
                cluster.run(&["node", "modify", "-C", "yes", name]).ok()
            })?;
        }
        copies(&cluster, 3)?;
        cluster.run(&["cluster", "verify"]).map(drop)
    });
}

/// Has a task say something; its number.
fn say(cluster: &VirtualCluster, words: &str) -> Result<u64> {
    let mut luxi = cluster.luxi()?;
    let spec = json!({
        "name": "one", "pool": pool::NAME, "execute": [{"command": format!("echo {words}")}],
        "limits": {"wall_s": 30, "cpu_s": 10, "memory_mib": 64, "pids": 16, "disk_mib": 8, "output_kib": 64},
    });
    let id = task::submit(&mut luxi, &spec)?;
    let ended = task::wait_all(&mut luxi, &[id], PATIENCE)?.pop().context("one task")?;
    ensure!(ended.state() == "success", "{:?}", ended.json());
    Ok(id)
}

fn enough(load: &Load) -> Result<()> {
    wait::until("enough is acknowledged", PATIENCE, || {
        let now = load.count();
        (now.0 >= JOBS && now.1 >= 2).then_some(())
    })
}

/// Audits, which the overseer asks for a minute after its start, kill VMs whose slots or generations the backup does not
/// know: one on the second node, and on the first those of before, of which it has lost its record.
fn strays_are_gone(cluster: &VirtualCluster) -> Result<()> {
    for node in &cluster.nodes[..2] {
        stray_is_gone(cluster, &node.name)?;
    }
    Ok(())
}

/// Some audit of the node says that it has killed something.
fn stray_is_gone(cluster: &VirtualCluster, name: &str) -> Result<()> {
    let mut seen = Value::Null;
    wait::until("an audit kills it", PATIENCE, || {
        let op = json!({"OP_ID": "OP_NODE_AUDIT", "node_name": name, "reason": []});
        let mut luxi = cluster.luxi().ok()?;
        luxi.submit(&[op]).ok()?;
        seen = luxi.call("Query", json!(["job", ["ops", "opresult"], null])).ok()?;
        let jobs = seen["data"].as_array()?;
        let audits = jobs.iter().filter(|job| {
            let op = &job[0][1][0];
            op["OP_ID"] == "OP_NODE_AUDIT" && op["node_name"] == name
        });
        let killed = |job: &&Value| job[1][1][0]["killed"].as_array().is_some_and(|all| !all.is_empty());
        audits.filter(killed).count().gt(&0).then_some(())
    })
    .with_context(|| seen.to_string())
}

/// Whether there is a whole backup in `dir`, by what a restore says.
fn is_whole(program: &Path, dir: &Path) -> Result<bool> {
    let root = tempfile::tempdir()?;
    let look = bounded::output(
        Command::new(program).arg("--root").arg(root.path()).args(["restore", "--look"]).arg(dir),
    )?;
    let said = String::from_utf8_lossy(&look.stderr).into_owned();
    ensure!(
        look.status.success() || said.contains("holds no backup"),
        "half a backup looks like one: {said}"
    );
    Ok(look.status.success())
}

#[test]
fn a_backup_that_is_killed_is_none() {
    let cluster = cluster(1);
    let dir = tempfile::tempdir().expect("a directory");
    let program = cluster.programs().join("gantry-wconfd");
    step("something to back up", || {
        let load = Load::default();
        load.blow(&cluster, 1, || enough(&load))
    });
    let mut halves = 0;
    for (round, stage) in STAGES.iter().cycle().take(KILLS).enumerate() {
        let at = dir.path().join("b");
        step(&format!("round {round}: killed when it has '{stage}'"), || {
            let mut child = Command::new(&program)
                .arg("--root")
                .arg(&cluster.nodes[0].root)
                .arg("backup")
                .arg(&at)
                .stdout(Stdio::null())
                .spawn()?;
            let partial = dir.path().join(".b.partial").join(stage);
            wait::until("it is so far", PATIENCE, || (partial.exists() || at.exists()).then_some(()))?;
            child.kill()?;
            bounded::end(&mut child)?;
            let whole = is_whole(&program, &at)?;
            ensure!(whole == at.exists(), "the name is there before the backup is whole");
            halves += u64::from(!whole);
            if whole {
                std::fs::remove_dir_all(&at)?;
            }
            Ok(())
        });
    }
    assert!(halves > 0, "none was killed in the middle: the test tests nothing");
    step("the next one is whole, and nothing is left beside it", || {
        let at = dir.path().join("b");
        cluster.run(&["cluster", "backup", &at.to_string_lossy()])?;
        ensure!(is_whole(&program, &at)?, "not whole");
        let names: Vec<_> =
            std::fs::read_dir(dir.path())?.filter_map(|entry| Some(entry.ok()?.file_name())).collect();
        ensure!(names == ["b"], "{names:?}");
        Ok(())
    });
}

/// Steps of a restore at which it is killed.
const RESTORE: [&str; 10] = [
    "restore-bodies",
    "restore-staged",
    "restore-role-aside",
    "restore-old-aside",
    "restore-config.data",
    "restore-locks.data",
    "restore-wconf.log",
    "restore-queue.data",
    "restore-all-but-role",
    "restore-role-written",
];

/// Whatever a killed restore leaves: no daemon takes it for a cluster before it is one, and the same command, given again,
/// restores.
#[test]
fn a_restore_that_is_killed_is_given_again() {
    let cluster = cluster(1);
    let at = cluster.dir().join("backup").to_string_lossy().into_owned();
    let points = cluster.dir().join("points");
    let load = Load::default();
    step("a backup", || {
        std::fs::create_dir(&points)?;
        cluster.run(&["cluster", "add-tags", "before"])?;
        load.blow(&cluster, 1, || enough(&load))?;
        cluster.run(&["cluster", "backup", &at])?;
        cluster.run(&["cluster", "add-tags", "after"]).map(drop)
    });
    for point in RESTORE {
        step(point, || {
            cluster.kill_node(0)?;
            std::fs::write(points.join(point), "")?;
            let args = ["cluster", "restore", "--yes-do-it", &at];
            let output = bounded::output(cluster.command(&args).env("GANTRY_CRASH_DIR", &points))?;
            ensure!(!output.status.success() && !points.join(point).exists(), "nothing came by {point}");
            let said = cluster.run(&args)?;
            ensure!(said.contains("This node is the master now"), "{said}");
            load.is_there(&cluster)?;
            let tags = cluster.run(&["cluster", "list-tags"])?;
            ensure!(tags.contains("before") && !tags.contains("after"), "{tags}");
            cluster.run(&["cluster", "add-tags", "after"])?;
            cluster.run(&["cluster", "verify"]).map(drop)
        });
    }
}
