//! Hooks run around opcodes, on the nodes that Ganeti runs them on; those before an effect may forbid it.

use super::{notes, noting, put_hook, runs};
use crate::failover::{copies, returns, silent};
use crate::{cluster, step};
use anyhow::{Context, Result, ensure};
use gantry_tests::{Options, VirtualCluster, process, wait};
use nix::sys::signal::Signal;
use serde_json::{Value, json};
use std::time::Duration;

const PATIENCE: Duration = Duration::from_secs(60);

/// A number of the cluster's settings.
fn setting(cluster: &VirtualCluster, name: &str) -> Result<u64> {
    let info: Value = cluster.luxi()?.call("QueryClusterInfo", json!([]))?;
    info[name].as_u64().with_context(|| info.to_string())
}

#[test]
fn hooks_run_around_opcodes_and_may_forbid_them() {
    let cluster = cluster(3);
    let [one, two, three] = [0, 1, 2].map(|number| cluster.nodes[number].clone());
    let modify =
        |number: &str| ["cluster", "modify", "--max-running-jobs", number].map(str::to_owned).to_vec();
    let run = |args: &[String]| cluster.run(&args.iter().map(String::as_str).collect::<Vec<_>>());
    let refused = |args: &[String]| cluster.refused(&args.iter().map(String::as_str).collect::<Vec<_>>());
    step("all nodes have copies that count", || copies(&cluster, 3));
    step("a hook before the effect forbids it, and is named", || {
        let forbids = put_hook(&one, "cluster-modify-pre.d", "10-no", "echo because; exit 3")?;
        put_hook(&one, "cluster-modify-pre.d", "20-note", &noting("modify"))?;
        put_hook(&one, "cluster-modify-pre.d", "30.no-hook", &noting("modify"))?;
        put_hook(&one, "cluster-modify-post.d", "note", &noting("modified"))?;
        let before = setting(&cluster, "max_running_jobs")?;
        let (code, said) = refused(&modify("7"))?;
        ensure!(code == 1 && said.contains("hooks execution failed"), "{said}");
        let line = format!("node: {}, script: cluster-modify-pre.d/10-no, output: because", one.name);
        ensure!(said.contains(&line), "{said}");
        ensure!(setting(&cluster, "max_running_jobs")? == before, "it was done all the same");
        // The others run too, but none after the effect that was not.
        ensure!((runs(&one, "modify"), runs(&one, "modified")) == (1, 0), "{}", notes(&one, "modify"));
        std::fs::remove_file(forbids)?;
        Ok(())
    });
    step("one after the effect that fails is a warning", || {
        put_hook(&one, "cluster-modify-post.d", "bad", "echo too late; exit 1")?;
        let said = run(&modify("7"))?;
        ensure!(said.contains("WARNING") && said.contains("too late"), "{said}");
        ensure!(setting(&cluster, "max_running_jobs")? == 7, "it was not done");
        ensure!((runs(&one, "modify"), runs(&one, "modified")) == (2, 1), "{}", notes(&one, "modified"));
        let noted = notes(&one, "modified");
        for line in [
            "GANETI_CLUSTER=cluster.gantry.test",
            &format!("GANETI_MASTER={}", one.name),
            "GANETI_HOOKS_PATH=cluster-modify",
            "GANETI_HOOKS_PHASE=post",
            "GANETI_HOOKS_VERSION=2",
            "GANETI_OBJECT_TYPE=CLUSTER",
            "GANETI_OP_CODE=OP_CLUSTER_SET_PARAMS",
            "GANETI_OP_TARGET=cluster.gantry.test",
            "GANETI_POST_OP_TARGET=cluster.gantry.test",
            "PATH=/sbin:/bin:/usr/sbin:/usr/bin",
        ] {
            ensure!(noted.lines().any(|noted| noted == line), "no {line} in {noted}");
        }
        ensure!(!noted.contains("GANTRY_ROOT"), "the environment was not cleared: {noted}");
        Ok(())
    });
    step("those of a node run on the master and there, and either forbids", || {
        put_hook(&one, "node-modify-pre.d", "note", &noting("node"))?;
        let forbids = put_hook(&two, "node-modify-pre.d", "no", "exit 1")?;
        put_hook(&three, "node-modify-pre.d", "no", "exit 1")?;
        let drain = ["node", "modify", "--drained", "yes", &two.name];
        let (_, said) = cluster.refused(&drain)?;
        ensure!(said.contains(&format!("node: {}, script: node-modify-pre.d/no", two.name)), "{said}");
        ensure!(!said.contains(&three.name), "{said}");
        std::fs::remove_file(forbids)?;
        let vm_capable = ["node", "modify", "--vm-capable", "no", &two.name];
        cluster.run(&vm_capable)?;
        let noted = notes(&one, "node");
        let told = noted.contains("GANETI_VM_CAPABLE=False") && noted.contains("GANETI_OFFLINE=None");
        ensure!(told && noted.contains(&format!("GANETI_NODE_NAME={}", two.name)), "{noted}");
        Ok(())
    });
    step("what would be refused anyway runs none", || {
        put_hook(&one, "group-add-pre.d", "early", &noting("early"))?;
        let (_, said) = cluster.refused(&["group", "add", "default"])?;
        ensure!(said.contains("default") && runs(&one, "early") == 0, "{said}");
        Ok(())
    });
    step("the death of a noded loses no veto", || {
        let begun = one.root.join("var/lib/gantry/veto-begun");
        let text = "touch \"$GANETI_DATA_DIR/veto-begun\"; sleep 3; echo vetoed; exit 1";
        let forbids = put_hook(&one, "group-add-pre.d", "slow", text)?;
        let (_, said) = std::thread::scope(|scope| {
            let refused = scope.spawn(|| cluster.refused(&["group", "add", "vetoed"]));
            wait::until("the hook to begin", PATIENCE, || begun.exists().then_some(()))?;
            cluster.kill(0, "noded")?;
            refused.join().map_err(|_| anyhow::anyhow!("the command panicked"))?
        })?;
        ensure!(said.contains("group-add-pre.d/slow") && said.contains("vetoed"), "{said}");
        std::fs::remove_file(forbids)?;
        Ok(())
    });
    step("those of groups and instances run too", || {
        put_hook(&one, "group-add-pre.d", "note", &noting("group"))?;
        put_hook(&one, "instance-add-pre.d", "note", &noting("instance"))?;
        put_hook(&three, "instance-stop-pre.d", "no", "exit 1")?;
        cluster.run(&["group", "add", "second"])?;
        cluster.add_instance("i1.gantry.test", &three.name)?;
        ensure!(notes(&one, "group").contains("GANETI_GROUP_NAME=second"), "{}", notes(&one, "group"));
        let noted = notes(&one, "instance");
        ensure!(noted.contains(&format!("GANETI_INSTANCE_PRIMARY={}", three.name)), "{noted}");
        let (_, said) = cluster.refused(&["instance", "shutdown", "i1.gantry.test"])?;
        ensure!(said.contains("instance-stop-pre.d/no"), "{said}");
        cluster.run(&["instance", "remove", "--force", "i1.gantry.test"]).map(drop)
    });
    step("those of verify are findings", || {
        let bad = put_hook(&two, "cluster-verify-post.d", "bad", "echo no disk; exit 1")?;
        let (_, said) = cluster.refused(&["cluster", "verify"])?;
        ensure!(said.contains("no disk") && said.contains(&two.name), "{said}");
        std::fs::remove_file(bad)?;
        cluster.run(&["cluster", "verify"]).map(drop)
    });
    step("a node that does not answer forbids nothing", || {
        cluster.kill_node(2)?;
        silent(&cluster, 2)?;
        let said = cluster.run(&["node", "modify", "-C", "no", &three.name])?;
        ensure!(said.contains(&format!("Communication failure to node {}", three.name)), "{said}");
        copies(&cluster, 2)
    });
}

#[test]
fn hooks_of_init_and_destroy_run() {
    let cluster = VirtualCluster::prepare(&Options::new(1)).expect("prepared");
    let node = cluster.nodes[0].clone();
    let out = cluster.dir().join("ran");
    step("a cluster is made", || {
        for name in ["cluster-init", "cluster-destroy"] {
            let text = format!("echo $GANETI_HOOKS_PATH $GANETI_OP_CODE >> {}", out.display());
            put_hook(&node, &format!("{name}-post.d"), "note", &text)?;
        }
        cluster.run(&["cluster", "init", "cluster.gantry.test"]).map(drop)
    });
    step("and ended", || cluster.run(&["cluster", "destroy", "--yes-do-it"]).map(drop));
    step("both had their hooks", || {
        let ran = std::fs::read_to_string(&out)?;
        ensure!(ran == "cluster-init OP_CLUSTER_POST_INIT\ncluster-destroy OP_CLUSTER_DESTROY\n", "{ran}");
        Ok(())
    });
}

/// A job of the old master is in the midst of its hooks when another master takes over.
#[test]
fn a_master_that_was_replaced_runs_no_hooks() {
    let cluster = cluster(3);
    let [one, two] = [0, 1].map(|number| cluster.nodes[number].clone());
    let go = cluster.dir().join("go");
    let mut old = Vec::new();
    step("all nodes have copies that count", || copies(&cluster, 3));
    step("a job stands in a hook before its effect, another waits for its locks", || {
        let wait = format!("{}; while [ ! -e {} ]; do sleep 0.05; done", noting("pre"), go.display());
        put_hook(&one, "cluster-modify-pre.d", "wait", &wait)?;
        put_hook(&one, "cluster-modify-post.d", "note", &noting("post"))?;
        put_hook(&two, "master-failover-post.d", "note", &noting("failover"))?;
        let mut luxi = cluster.luxi()?;
        for number in [5, 6] {
            let op = json!({"OP_ID": "OP_CLUSTER_SET_PARAMS", "candidate_pool_size": number, "reason": []});
            luxi.submit(&[op])?;
        }
        wait::until("the hook to run", PATIENCE, || (runs(&one, "pre") == 1).then_some(()))
    });
    step("the master stands still, another takes over", || {
        old = process::with_root(&one.root);
        for (pid, _) in &old {
            process::signal(*pid, Signal::SIGSTOP).ok();
        }
        cluster.run_on(1, &["cluster", "master-failover"])?;
        cluster.led_by(1);
        Ok(())
    });
    step("the hook ends, the old master wakes up and steps down", || {
        std::fs::write(&go, "")?;
        for (pid, _) in &old {
            process::signal(*pid, Signal::SIGCONT).ok();
        }
        wait::until("its daemons and jobs end", PATIENCE, || {
            let gone = |daemon: &&str| one.pid(daemon).is_none();
            let all = ["luxid", "wconfd", "overseer"].iter().all(gone);
            (all && process::jobs(&one.root).is_empty()).then_some(())
        })?;
        returns(&cluster, 0, PATIENCE)
    });
    step("no hook ran on it any more, and nothing was done", || {
        ensure!((runs(&one, "pre"), runs(&one, "post")) == (1, 0), "{}", notes(&one, "pre"));
        let number = setting(&cluster, "candidate_pool_size")?;
        ensure!(number != 5, "the job of the old master has set it");
        Ok(())
    });
    step("the hooks of the failover ran once, on the new master", || {
        wait::until("they ran", PATIENCE, || (runs(&two, "failover") == 1).then_some(()))?;
        let noted = notes(&two, "failover");
        for line in [("OLD_MASTER", &one.name), ("NEW_MASTER", &two.name), ("MASTER", &two.name)] {
            let line = format!("GANETI_{}={}", line.0, line.1);
            ensure!(noted.lines().any(|noted| noted == line), "no {line} in {noted}");
        }
        cluster.restart(1, "wconfd")?;
        copies(&cluster, 3)?;
        cluster.run(&["cluster", "verify"])?;
        ensure!(runs(&two, "failover") == 1, "{}", notes(&two, "failover"));
        Ok(())
    });
}
