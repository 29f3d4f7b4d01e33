//! Crashes at each step of a failover and of a change of the candidates, in both logs, with whole nodes: `gantry_rt::crash`
//! ends the daemon that comes by an armed point. Whatever was acknowledged is there afterwards, and the command, repeated,
//! is carried out.

use super::damage::Told;
use super::{PATIENCE, copies};
use crate::{cluster, step};
use anyhow::{Context, Result, ensure};
use gantry_tests::{VirtualCluster, bounded, process, wait};
use nix::sys::signal::Signal;
use serde_json::json;
use std::fs;
use std::path::PathBuf;

/// Steps of a take-over by a node whose own copies lack rows: the elector's, then those of the start of both logs.
const TAKE_OVER: [&str; 13] = [
    "elect-own-promise",
    "elect-won",
    "elect-taken",
    "recover-W-promised",
    "recover-W-gathered",
    "recover-W-adopted",
    "recover-W-led",
    "recover-W-committed",
    "recover-Q-promised",
    "recover-Q-gathered",
    "recover-Q-adopted",
    "recover-Q-led",
    "recover-Q-committed",
];
/// Steps of a candidate that goes or comes.
const GOES: [&str; 7] = [
    "members-listed-in-W",
    "members-list-committed",
    "members-published",
    "members-listed-in-Q",
    "members-Q-to-be-told",
    "members-to-settle",
    "members-settled",
];
/// Steps of giving a copy its token: at the writer, and at the node that stores it.
const TOKEN_GIVEN: [&str; 2] = ["token-W-to-give", "token-Q-to-give"];
const TOKEN_STORED: [&str; 2] = ["token-W-stored", "token-Q-stored"];
/// Steps of a hand-over at the old master, and at the new one.
const STEPS_DOWN: [&str; 1] = ["office-stepped-down"];
const IS_MASTER: [&str; 2] = ["office-to-be-master", "office-master"];
/// Steps of going on alone in a new history. Few at a time: boot pauses longer after each death.
const ALONE: [&[&str]; 2] = [
    &["alone-W-begun", "alone-config.data", "alone-locks.data", "office-alone-W"],
    &["alone-Q-begun", "office-alone-Q", "office-to-be-master", "office-master"],
];
/// Steps of a candidate that takes snapshots of both logs over.
const SNAPSHOT: [&[&str]; 3] = [
    &["install-W-renamed", "install-W-to-take", "install-Q-renamed", "install-Q-to-take"],
    &["install-W-taken", "install-W-config.data", "install-Q-taken", "install-Q-queue.data"],
    &["install-W-locks.data", "install-W-to-sweep", "install-Q-to-sweep"],
];
/// Further steps of one that comes.
const COMES: [&str; 3] = ["members-copies-made", "members-learner-named", "members-learner-fed"];

pub(super) fn armed(cluster: &VirtualCluster, node: usize, point: &str) -> PathBuf {
    cluster.nodes[node].root.join("crash").join(point)
}

/// Starts a node such that its points can be armed.
pub(super) fn boot(cluster: &VirtualCluster, node: usize) -> Result<()> {
    let dir = cluster.nodes[node].root.join("crash");
    fs::create_dir_all(&dir)?;
    cluster.boot_with(node, &[("GANTRY_CRASH_DIR", &dir.to_string_lossy())])
}

pub(super) fn start() -> VirtualCluster {
    start_of(3)
}

fn start_of(count: u8) -> VirtualCluster {
    let (cluster, count) = (cluster(count), usize::from(count));
    step("nodes whose points can be armed", || {
        for node in 0..count {
            copies(&cluster, count)?;
            cluster.kill_node(node)?;
            boot(&cluster, node)?;
        }
        copies(&cluster, count)
    });
    cluster
}

/// Arms points of a node. What is returned says whether all were come by.
fn arm(cluster: &VirtualCluster, node: usize, points: &[&str]) -> Result<impl Fn() -> Result<()> + use<>> {
    let all: Vec<PathBuf> = points.iter().map(|point| armed(cluster, node, point)).collect();
    all.iter().try_for_each(|path| fs::write(path, ""))?;
    Ok(move || {
        let left: Vec<&PathBuf> = all.iter().filter(|path| path.exists()).collect();
        ensure!(left.is_empty(), "nothing came by {left:?}");
        Ok(())
    })
}

/// Repeats a command until it succeeds, as its user would.
pub(super) fn until_done(cluster: &VirtualCluster, node: usize, args: &[&str]) -> Result<String> {
    every_try(cluster, node, args).map(|mut tries| tries.pop().unwrap_or_default())
}

/// The same; what each try said, the last one is that which succeeded.
fn every_try(cluster: &VirtualCluster, node: usize, args: &[&str]) -> Result<Vec<String>> {
    let mut tries = Vec::new();
    let done = wait::until("the command, repeated, is carried out", PATIENCE, || {
        let done = cluster.run_on(node, args);
        tries.push(done.as_ref().map_or_else(|why| format!("{why:#}"), Clone::clone));
        done.is_ok().then_some(())
    });
    done.with_context(|| tries.last().cloned().unwrap_or_default()).map(|()| tries)
}

/// Makes a node master though a daemon may die on the way. One that is master already says so.
pub(super) fn take_over(cluster: &VirtualCluster, node: usize) -> Result<()> {
    let name = &cluster.nodes[node].name;
    wait::until("the node is master", PATIENCE, || {
        let _ = cluster.run_on(node, &["cluster", "master-failover"]);
        let said = cluster.run_on(node, &["cluster", "getmaster"]).ok()?;
        (said.trim() == name).then_some(())
    })?;
    cluster.led_by(node);
    Ok(())
}

#[test]
fn a_take_over_that_crashes_at_any_step_loses_nothing() {
    let cluster = start();
    let mut told = Told::default();
    let mut master = 0;
    for point in TAKE_OVER {
        let next = (master + 1) % 3;
        step(&format!("{point}: a node that lacks rows takes over"), || {
            cluster.kill_node(next)?;
            told.tag(&cluster, &format!("before-{point}"))?;
            cluster.kill_node(master)?;
            boot(&cluster, next)?;
            let armed = armed(&cluster, next, point);
            fs::write(&armed, "")?;
            take_over(&cluster, next)?;
            ensure!(!armed.exists(), "nothing came by {point}");
            told.tag(&cluster, &format!("after-{point}"))?;
            told.is_there(&cluster)?;
            boot(&cluster, master)?;
            copies(&cluster, 3)
        });
        master = next;
    }
    step("the cluster is sound", || cluster.run(&["cluster", "verify"]).map(drop));
}

/// The daemon that keeps a node's role and copies dies at each step of a hand-over, and of going on alone in a new history;
/// the command, repeated, is carried out, and both logs are whole.
#[test]
fn a_role_and_a_new_history_that_their_daemon_dies_in_are_carried_out() {
    let cluster = start_of(2);
    let (mut told, mut jobs) = (Told::default(), Vec::new());
    let mut all_is_there = |name: &str| {
        told.tag(&cluster, name)?;
        let mut luxi = cluster.luxi()?;
        let op = json!({"OP_ID": "OP_TEST_DELAY", "duration": 0.0, "reason": []});
        let job = luxi.submit(&[op])?;
        ensure!(luxi.wait(job, PATIENCE)? == "success", "job {job}");
        jobs.push(job);
        for job in &jobs {
            ensure!(luxi.status(*job)? == "success", "job {job}");
        }
        told.is_there(&cluster)
    };
    step("copies are given their tokens; who gives dies, and who stores", || {
        all_is_there("before")?;
        cluster.kill_node(1)?;
        let here = arm(&cluster, 0, &[TOKEN_GIVEN, TOKEN_STORED].concat())?;
        let there = arm(&cluster, 1, &TOKEN_STORED)?;
        boot(&cluster, 1)?;
        wait::until("all points are come by", PATIENCE, || here().and_then(|()| there()).ok())?;
        // Neither counts as an old image.
        copies(&cluster, 2)?;
        all_is_there("tokens")
    });
    step("the master hands over; its noded dies, and then the other's", || {
        let (old, new) = (arm(&cluster, 0, &STEPS_DOWN)?, arm(&cluster, 1, &IS_MASTER)?);
        take_over(&cluster, 1)?;
        old()?;
        new()?;
        all_is_there("handed-over")?;
        copies(&cluster, 2)
    });
    step("the other is lost", || cluster.kill_node(0));
    for points in ALONE {
        step(&format!("it goes on alone, and its noded dies: {points:?}"), || {
            cluster.kill_node(1)?;
            boot(&cluster, 1)?;
            let done = arm(&cluster, 1, points)?;
            let tries =
                every_try(&cluster, 1, &["cluster", "master-failover", "--no-voting", "--yes-do-it"])?;
            done()?;
            // Those that follow one that died half-way say what it said: by then it was the master, of a list of two at most. Once
            // its writers have begun, none is half-way any more: the last try may come after that.
            ensure!(tries.iter().any(|said| said.contains("an earlier --no-voting")), "{tries:?}");
            ensure!(tries.iter().any(|said| said.contains("nothing that was")), "{tries:?}");
            ensure!(!tries.iter().any(|said| said.contains("may be lost:")), "{tries:?}");
            all_is_there(points[0])?;
            copies(&cluster, 1)
        });
    }
    step("the lost one comes back, and is fed anew", || {
        boot(&cluster, 0)?;
        let name = cluster.nodes[0].name.clone();
        until_done(&cluster, 1, &["node", "modify", "-C", "yes", &name])?;
        copies(&cluster, 2)?;
        take_over(&cluster, 0)?;
        all_is_there("after")?;
        cluster.run(&["cluster", "verify"]).map(drop)
    });
}

/// A candidate whose copies begin with a snapshot; its noded dies at each step of taking them over.
#[test]
fn a_candidate_that_dies_at_any_step_of_a_snapshot_is_fed() {
    let cluster = start_of(2);
    let mut told = Told::default();
    let name = cluster.nodes[1].name.clone();
    step("a master whose logs begin with what was restored", || {
        let at = cluster.dir().join("backup").to_string_lossy().into_owned();
        told.tag(&cluster, "before")?;
        cluster.run(&["cluster", "backup", &at])?;
        cluster.kill_node(0)?;
        cluster.run(&["cluster", "restore", "--yes-do-it", &at])?;
        copies(&cluster, 1)
    });
    for points in SNAPSHOT {
        step(&format!("fed with snapshots, it dies: {points:?}"), || {
            until_done(&cluster, 0, &["node", "modify", "-C", "no", &name])?;
            cluster.kill_node(1)?;
            boot(&cluster, 1)?;
            let done = arm(&cluster, 1, points)?;
            until_done(&cluster, 0, &["node", "modify", "-C", "yes", &name])?;
            done()?;
            told.tag(&cluster, points[0])?;
            copies(&cluster, 2)
        });
    }
    step("all is there, and whole, where it was fed", || {
        take_over(&cluster, 1)?;
        told.is_there(&cluster)?;
        copies(&cluster, 2)?;
        let lib = cluster.nodes[1].root.join("var/lib/gantry");
        let left: Vec<_> =
            fs::read_dir(lib)?.filter_map(|entry| entry.ok()?.file_name().into_string().ok()).collect();
        ensure!(!left.iter().any(|name| name.contains(".side-")), "{left:?}");
        cluster.run(&["cluster", "verify"]).map(drop)
    });
}

/// Candidates come and go; at each step the daemon dies, and goes on.
#[test]
fn a_change_of_candidates_that_crashes_at_any_step_is_carried_out() {
    let cluster = start();
    let mut told = Told::default();
    let name = cluster.nodes[2].name.clone();
    for (word, points) in [("no", &GOES[..]), ("yes", &[&GOES[..], &COMES[..]].concat())] {
        let other = if word == "no" { "yes" } else { "no" };
        for point in points {
            step(&format!("-C {word}, {point}"), || {
                until_done(&cluster, 0, &["node", "modify", "-C", other, &name])?;
                let armed = armed(&cluster, 0, point);
                fs::write(&armed, "")?;
                until_done(&cluster, 0, &["node", "modify", "-C", word, &name])?;
                ensure!(!armed.exists(), "nothing came by {point}");
                told.tag(&cluster, &format!("{word}-{point}"))?;
                copies(&cluster, if word == "yes" { 3 } else { 2 })
            });
        }
    }
    step("all is there", || {
        told.is_there(&cluster)?;
        cluster.run(&["cluster", "verify"]).map(drop)
    });
}

/// The same, and the whole master with it: the next one finds the two logs at different steps and brings them together.
#[test]
fn a_change_of_candidates_that_its_master_does_not_survive_is_settled_by_the_next() {
    let cluster = start();
    let mut told = Told::default();
    let mut master = 0;
    for (number, point) in [&GOES[..], &COMES[..]].concat().into_iter().enumerate() {
        let (next, third) = ((master + 1) % 3, (master + 2) % 3);
        // The third goes and comes, in turn; those points that only a coming one passes are met by a coming one.
        let comes = number % 2 == 1 || COMES.contains(&point);
        let name = cluster.nodes[third].name.clone();
        step(&format!("{point}, {}", if comes { "comes" } else { "goes" }), || {
            if comes {
                until_done(&cluster, master, &["node", "modify", "-C", "no", &name])?;
            }
            let armed = armed(&cluster, master, point);
            fs::write(&armed, "")?;
            let word = if comes { "yes" } else { "no" };
            let mut command = cluster.command_on(master, &["node", "modify", "-C", word, &name]);
            let mut child =
                command.stdout(std::process::Stdio::null()).stderr(std::process::Stdio::null()).spawn()?;
            let fired = wait::until("the point is come by", PATIENCE, || (!armed.exists()).then_some(()));
            let killed = cluster.kill_node(master);
            bounded::end(&mut child)?;
            fired.and(killed)?;
            // Two candidates, or three, whatever the two logs say: with the dead one back there is a majority of each.
            boot(&cluster, master)?;
            take_over(&cluster, next)?;
            told.tag(&cluster, &format!("after-{point}"))?;
            until_done(&cluster, next, &["node", "modify", "-C", "yes", &name])?;
            copies(&cluster, 3)?;
            told.is_there(&cluster)?;
            cluster.run(&["cluster", "verify"]).map(drop)
        });
        master = next;
    }
}

/// What the job of a promotion or demotion leaves that dies in between is told by verify and taken away by the next audit
/// (`role.json` and the CA's key).
#[test]
fn what_a_dead_promotion_or_demotion_leaves_is_taken_away() {
    let cluster = start();
    let name = cluster.nodes[2].name.clone();
    let left = || {
        let lib = cluster.nodes[2].root.join("var/lib/gantry");
        let role = fs::read_to_string(lib.join("role.json")).unwrap_or_default();
        (role.contains("candidate"), lib.join("secrets/ca.key").exists())
    };
    let modify =
        |yes: &str| bounded::output(&mut cluster.command_on(0, &["node", "modify", "-C", yes, &name]));
    for (point, yes, leaves) in [
        ("candidate-secrets", "yes", (false, true)),
        ("role-candidate-set", "yes", (true, true)),
        ("role-regular-asked", "no", (true, true)),
    ] {
        step(&format!("{point}: the job dies with the node's daemon"), || {
            until_done(
                &cluster,
                0,
                &["node", "modify", "-C", if yes == "yes" { "no" } else { "yes" }, &name],
            )?;
            copies(&cluster, if yes == "yes" { 2 } else { 3 })?;
            let armed = armed(&cluster, 2, point);
            fs::write(&armed, "")?;
            std::thread::scope(|scope| {
                let job = scope.spawn(|| modify(yes));
                let fired = wait::until("the point is come by", PATIENCE, || (!armed.exists()).then_some(()));
                for job in process::jobs(&cluster.nodes[0].root) {
                    process::signal(job.pid, Signal::SIGKILL).ok();
                }
                job.join().map_err(|_| anyhow::anyhow!("the command panicked"))??;
                fired
            })?;
            copies(&cluster, 2)?;
            ensure!(left() == leaves, "{point} left {:?}", left());
            Ok(())
        });
        step("verify tells it", || {
            let mut said = String::new();
            wait::until("the node answers, and it is told", PATIENCE, || {
                (_, said) = cluster.refused(&["cluster", "verify"]).ok()?;
                said.contains(&format!("{name}: it has")).then_some(())
            })
            .with_context(|| said)
        });
        step("the node's audit takes it away", || {
            let mut luxi = cluster.luxi()?;
            let job = luxi.submit(&[json!({"OP_ID": "OP_NODE_AUDIT", "node_name": name, "reason": []})])?;
            ensure!(luxi.wait(job, PATIENCE)? == "success");
            ensure!(left() == (false, false), "{:?}", left());
            let (_, said) = cluster.refused(&["cluster", "verify"])?;
            ensure!(!said.contains(&format!("{name}: it has")), "{said}");
            Ok(())
        });
    }
    step("a candidate's audit leaves it what it needs", || {
        until_done(&cluster, 0, &["node", "modify", "-C", "yes", &name])?;
        copies(&cluster, 3)?;
        let mut luxi = cluster.luxi()?;
        let job = luxi.submit(&[json!({"OP_ID": "OP_NODE_AUDIT", "node_name": name, "reason": []})])?;
        ensure!(luxi.wait(job, PATIENCE)? == "success" && left() == (true, true), "{:?}", left());
        take_over(&cluster, 2)?;
        cluster.run(&["cluster", "verify"]).map(drop)
    });
}
