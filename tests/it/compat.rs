//! Ganeti's own clients, unmodified, against a cluster of three nodes: its Python LUXI client (`python/*.py` say what is
//! asked and what must come back), its gnt-* commands and the htools (`spec/luxi.md` §10).

use crate::{cluster, step};
use anyhow::{Context, Result, ensure};
use gantry_tests::foreign::{output, python, run, said};
use gantry_tests::{VirtualCluster, rest};
use std::time::Duration;

const INSTANCES: [&str; 3] = ["inst1.gantry.test", "inst2.gantry.test", "inst3.gantry.test"];
const REST: Duration = Duration::from_secs(20);

#[test]
fn ganetis_clients_work_unmodified() {
    let cluster = cluster(3);
    let socket = cluster.master().socket("luxi.sock").display().to_string();
    step("instances to look at", || {
        let nodes = cluster.nodes.iter().map(|node| node.name.as_str());
        INSTANCES.iter().zip(nodes).try_for_each(|(name, node)| cluster.add_instance(name, node))
    });
    step("htools read the cluster", || htools(&cluster, &socket));
    step("queries of the Python client", || {
        let master = &cluster.master().name;
        python("queries.py", &[&socket, "cluster.gantry.test", master, INSTANCES[0], "3"]).map(drop)
    });
    step("Ganeti's gnt-* commands", || gnt_commands(&cluster, &socket));
    step("jobs of the Python client", || python("jobs.py", &[&socket, &cluster.nodes[1].name]).map(drop));
    step("nothing is left", || rest::reached(&cluster, REST));
    step("and the cluster is sound", || rest::verified(&cluster));
}

/// Each tool loads the cluster and names what is in it (they shorten names to what tells them apart).
fn htools(cluster: &VirtualCluster, socket: &str) -> Result<()> {
    let luxi = format!("-L{socket}");
    let text = run("hinfo", &[&luxi, "-p", "--print-instances"])?;
    for name in ["node1", "node2", "node3", "inst1", "inst2", "inst3", "1 node group"] {
        ensure!(text.contains(name), "hinfo does not name {name}:\n{text}");
    }
    let text = run("hbal", &[&luxi, "-p", "--print-instances"])?;
    for name in ["node3", "inst3"] {
        ensure!(text.contains(name), "hbal does not name {name}:\n{text}");
    }
    ensure!(text.contains("3 nodes, 3 instances"), "hbal counts otherwise:\n{text}");
    run("hbal", &[&format!("--luxi={socket}")])?;
    let text = run("hspace", &[&luxi, "-p", "--machine-readable"])?;
    ensure!(text.contains("HTS_INI_INST_CNT=3"), "hspace counts otherwise:\n{text}");
    run("hcheck", &[&luxi])?;
    run("hsqueeze", &[&luxi])?;
    run("harep", &[&luxi])?;
    let dir = cluster.dir().join("hscan");
    std::fs::create_dir(&dir)?;
    run("hscan", &[&luxi, "-d", &dir.display().to_string()])?;
    let text = std::fs::read_to_string(dir.join("LOCAL.data"))?;
    ensure!(text.contains("node3.gantry.test") && text.contains("inst3.gantry.test"), "hscan saved:\n{text}");
    let text = run("hroller", &[&luxi, "--no-headers", "--force"])?;
    ensure!(text.contains("node1"), "hroller:\n{text}");
    ensure!(cluster.luxi()?.status(1)? == "success", "job 1 is of the cluster's making");
    Ok(())
}

/// What each command must print.
const COMMANDS: [(&str, &[&str]); 30] = [
    ("gnt_cluster version", &["Software version: "]),
    ("gnt_cluster info", &["Cluster name: cluster.gantry.test", "Master node: node1.gantry.test"]),
    ("gnt_cluster list-tags", &[]),
    ("gnt_cluster queue info", &["The drain flag is unset"]),
    ("gnt_cluster watcher info", &["The watcher is not paused"]),
    ("gnt_cluster add-tags quick brown", &[]),
    ("gnt_cluster list-tags", &["brown", "quick"]),
    ("gnt_cluster remove-tags quick brown", &[]),
    ("gnt_cluster verify", &["Verifying"]),
    ("gnt_node list", &["node1.gantry.test", "node2.gantry.test", "node3.gantry.test"]),
    ("gnt_node list node2", &["node2.gantry.test"]),
    ("gnt_node list-fields", &["mfree"]),
    ("gnt_node info node2", &["Node name: node2.gantry.test", "inst2.gantry.test"]),
    ("gnt_group list", &["default"]),
    ("gnt_group list-fields", &["alloc_policy"]),
    ("gnt_group info", &["default"]),
    ("gnt_instance list", &["inst1.gantry.test", "running", "fake"]),
    ("gnt_instance list-fields", &["oper_ram"]),
    ("gnt_instance info inst1", &["Instance name: inst1.gantry.test", "node1.gantry.test"]),
    ("gnt_instance shutdown inst2", &[]),
    ("gnt_instance list inst2", &["ADMIN_down"]),
    ("gnt_instance startup inst2", &[]),
    ("gnt_job list", &["success", "CLUSTER_POST_INIT"]),
    ("gnt_job list-fields", &["opresult"]),
    ("gnt_job info 1", &["Job ID: 1", "OP_CLUSTER_POST_INIT"]),
    ("gnt_job watch 1", &["Output from job 1 follows"]),
    ("gnt_debug delay 0.1", &[]),
    ("gnt_debug locks", &["Name"]),
    ("gnt_network list", &["Network"]),
    ("gnt_filter list", &["UUID"]),
];

fn gnt_commands(cluster: &VirtualCluster, socket: &str) -> Result<()> {
    for (command, wanted) in COMMANDS {
        let args: Vec<&str> = [socket].into_iter().chain(command.split(' ')).collect();
        let text = python("gnt.py", &args).context(command)?;
        ensure!(!text.contains("Traceback"), "{command}:\n{text}");
        for word in wanted {
            ensure!(text.contains(word), "{command} does not say {word:?}:\n{text}");
        }
    }
    let add = "gnt_instance add -t diskless -o noop --no-nics --no-name-check --no-ip-check -n node3 inst4.gantry.test";
    let words = |line: &'static str| [socket].into_iter().chain(line.split(' ')).collect::<Vec<_>>();
    python("gnt.py", &words(add))?;
    ensure!(cluster.run(&["instance", "list"])?.contains("inst4.gantry.test"), "Ganeti's command made inst4");
    python("gnt.py", &words("gnt_instance remove --force inst4"))?;
    // An error is Ganeti's own, with its own exit code, and no traceback.
    let script = gantry_tests::foreign::script("gnt.py").display().to_string();
    for (line, code, wanted) in [
        ("gnt_node list nosuch", 1, "unknown_entity"),
        ("gnt_node list -o nosuch", 14, "unknown"),
        ("gnt_instance startup nosuch", 1, "does not match any instances"),
    ] {
        let args = [vec!["-B", script.as_str()], words(line)].concat();
        let output = output(gantry_tests::foreign::PYTHON, &args)?;
        let text = said(&output);
        ensure!(output.status.code() == Some(code), "{line}: {}\n{text}", output.status);
        ensure!(text.contains(wanted), "{line} does not say {wanted:?}:\n{text}");
    }
    Ok(())
}
