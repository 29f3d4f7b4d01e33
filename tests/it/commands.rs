//! The commands as people type them: what they print, what they change, what they refuse and how.

use crate::{cluster, step};
use anyhow::{Result, ensure};
use gantry_tests::{VirtualCluster, bounded, process, rest, wait};
use serde_json::Value;
use std::process::Stdio;
use std::time::Duration;

const PATIENCE: Duration = Duration::from_secs(30);

#[test]
fn a_day_of_an_operator() {
    let cluster = cluster(3);
    step("the cluster shows itself", || shows_itself(&cluster));
    step("nodes", || nodes(&cluster));
    step("groups", || groups(&cluster));
    step("instances", || instances(&cluster));
    step("jobs", || jobs(&cluster));
    step("tags", || tags(&cluster));
    step("locks", || locks(&cluster));
    step("wrong input", || wrong_input(&cluster));
    step("other nodes", || other_nodes(&cluster));
    step("a node leaves and comes back", || leaves_and_comes_back(&cluster));
    step("nothing is left of jobs", || rest::reached(&cluster, PATIENCE));
    step("the cluster is sound", || rest::verified(&cluster));
    step("the end of the cluster", || destroyed(&cluster));
}

/// The output must contain each of the words.
fn says(cluster: &VirtualCluster, line: &str, wanted: &[&str]) -> Result<String> {
    let args: Vec<&str> = line.split(' ').collect();
    let text = cluster.run(&args)?;
    for word in wanted {
        ensure!(text.contains(word), "`{line}` does not say {word:?}:\n{text}");
    }
    Ok(text)
}

/// The command must fail with this exit code and say each of the words.
fn refuses(cluster: &VirtualCluster, line: &str, code: i32, wanted: &[&str]) -> Result<()> {
    let args: Vec<&str> = line.split(' ').collect();
    let (got, text) = cluster.refused(&args)?;
    ensure!(got == code, "`{line}` exits with {got}, not {code}:\n{text}");
    for word in wanted {
        ensure!(text.contains(word), "`{line}` does not say {word:?}:\n{text}");
    }
    Ok(())
}

/// The lines of a list without titles, of these fields, separated by `|`.
fn list(cluster: &VirtualCluster, what: &str, fields: &str) -> Result<Vec<String>> {
    let args = [what, "list", "--no-headers", "--separator", "|", "-o", fields];
    Ok(cluster.run(&args)?.lines().map(str::to_owned).collect())
}

fn listed(cluster: &VirtualCluster, what: &str, fields: &str, wanted: &[&str]) -> Result<()> {
    let lines = list(cluster, what, fields)?;
    ensure!(lines == wanted, "{what} list -o {fields}: {lines:?}, wanted {wanted:?}");
    Ok(())
}

fn shows_itself(cluster: &VirtualCluster) -> Result<()> {
    says(cluster, "cluster info", &["Cluster name: cluster.gantry.test", "Master node: node1.gantry.test"])?;
    says(cluster, "cluster version", &["Software version"])?;
    rest::verified(cluster)?;
    let json: Value = serde_json::from_str(&cluster.run(&["node", "list", "--json"])?)?;
    ensure!(json["data"].as_array().map(Vec::len) == Some(3), "{json}");
    Ok(())
}

fn nodes(cluster: &VirtualCluster) -> Result<()> {
    says(cluster, "node list", &["Node", "node1.gantry.test", "node3.gantry.test"])?;
    listed(
        cluster,
        "node",
        "name,role,pip",
        &[
            &format!("node1.gantry.test|M|{}", cluster.nodes[0].address),
            &format!("node2.gantry.test|C|{}", cluster.nodes[1].address),
            &format!("node3.gantry.test|C|{}", cluster.nodes[2].address),
        ],
    )?;
    says(cluster, "node info node2", &["Node name: node2.gantry.test", "drained: False"])?;
    refuses(cluster, "node info node9", 1, &["node9"])?;
    says(cluster, "node modify -D yes node2", &["drained", "True"])?;
    says(cluster, "node list --no-headers -o role node2", &["D"])?;
    refuses(
        cluster,
        "instance add -t diskless -o noop --no-nics -n node2 drained.gantry.test",
        1,
        &["drained"],
    )?;
    says(cluster, "node modify -D no node2", &[])?;
    says(cluster, "node modify -O yes node3", &["offline"])?;
    says(cluster, "node list --no-headers -o role node3", &["O"])?;
    refuses(cluster, "debug delay --no-master -n node3 0", 1, &["offline"])?;
    says(cluster, "node modify -O no node3", &[])?;
    refuses(cluster, "node modify -O yes node1", 1, &["wrong_input", "master"])?;
    refuses(cluster, "node modify node2", 2, &["at least one"])?;
    refuses(cluster, "node remove node1", 1, &["master"])?;
    listed(cluster, "node", "role,offline,drained", &["M|N|N", "C|N|N", "C|N|N"])
}

fn groups(cluster: &VirtualCluster) -> Result<()> {
    says(cluster, "group add --alloc-policy last_resort lab", &[])?;
    refuses(cluster, "group add lab", 1, &["already_exists"])?;
    says(cluster, "group assign-nodes lab node3", &[])?;
    listed(cluster, "group", "name,node_cnt,alloc_policy", &["default|2|preferred", "lab|1|last_resort"])?;
    refuses(cluster, "group remove lab", 1, &["lab"])?;
    says(cluster, "group rename lab attic", &[])?;
    refuses(cluster, "group rename nosuch x", 1, &["unknown_entity"])?;
    says(cluster, "group info attic", &["attic"])?;
    says(cluster, "group assign-nodes default node3", &[])?;
    says(cluster, "group remove attic", &[])?;
    refuses(cluster, "group remove default", 1, &["default"])?;
    listed(cluster, "group", "name,node_cnt", &["default|3"])
}

fn instances(cluster: &VirtualCluster) -> Result<()> {
    let add = "instance add -t diskless -o noop --no-nics -B memory=64";
    says(cluster, &format!("{add} -n node2 web1.gantry.test"), &["starting instance"])?;
    says(cluster, &format!("{add} --no-start web2.gantry.test"), &[])?;
    refuses(cluster, &format!("{add} web1.gantry.test"), 1, &["already_exists"])?;
    refuses(cluster, &format!("{add} -n nosuch web3.gantry.test"), 1, &["unknown_entity"])?;
    refuses(cluster, "instance add -t diskless -o noop --no-nics -B memory=9T big.gantry.test", 1, &["big"])?;
    listed(
        cluster,
        "instance",
        "name,status,os",
        &["web1.gantry.test|running|noop", "web2.gantry.test|ADMIN_down|noop"],
    )?;
    says(
        cluster,
        "instance info web1",
        &["Instance name: web1.gantry.test", "configured to be up, actual state is up"],
    )?;
    says(cluster, "node list --no-headers -o pinst_list node2", &["web1.gantry.test"])?;
    refuses(cluster, "node remove node2", 1, &["web1.gantry.test"])?;
    says(cluster, "instance shutdown web1", &[])?;
    says(cluster, "instance startup web2", &[])?;
    listed(cluster, "instance", "name,status", &["web1.gantry.test|ADMIN_down", "web2.gantry.test|running"])?;
    says(cluster, "instance startup web2", &[])?;
    refuses(cluster, "instance startup nosuch", 1, &["nosuch"])?;
    refuses(cluster, "instance remove web1", 1, &["--force"])?;
    says(cluster, "instance startup --all --force-multiple", &["web1", "web2"])?;
    rest::verified(cluster)?;
    says(cluster, "instance remove --force web1", &[])?;
    says(cluster, "instance remove --force web2", &[])?;
    listed(cluster, "instance", "name", &[])
}

fn jobs(cluster: &VirtualCluster) -> Result<()> {
    says(cluster, "job list", &["ID", "Status", "Summary", "CLUSTER_POST_INIT"])?;
    let text = says(cluster, "debug delay --submit 60", &["JobID: "])?;
    let job: u64 = text.trim().trim_start_matches("JobID: ").parse()?;
    let mut luxi = cluster.luxi()?;
    wait::until("the job runs", PATIENCE, || (luxi.status(job).ok()? == "running").then_some(()))?;
    says(cluster, &format!("job list {job}"), &["running", "TEST_DELAY(60"])?;
    says(cluster, "job list --running --no-headers", &[&job.to_string()])?;
    says(
        cluster,
        &format!("job info {job}"),
        &[&format!("Job ID: {job}"), "Status: running", "OP_TEST_DELAY"],
    )?;
    refuses(cluster, &format!("job cancel {job}"), 1, &["can't cancel"])?;
    refuses(cluster, &format!("job cancel --kill {job}"), 2, &["--yes-do-it"])?;
    says(cluster, &format!("job cancel --kill --yes-do-it {job}"), &["SIGKILL"])?;
    refuses(cluster, &format!("job wait {job}"), 1, &["failed"])?;
    refuses(cluster, &format!("job watch {job}"), 1, &[&format!("Output from job {job} follows"), "failed"])?;
    refuses(cluster, &format!("job cancel {job}"), 1, &["not found in queue"])?;
    let done = says(cluster, "debug delay --print-jobid 0.1", &["JobID: "])?;
    let done = done.trim().trim_start_matches("JobID: ").to_owned();
    says(cluster, &format!("job watch {done}"), &["Output from job"])?;
    says(cluster, &format!("job wait {done}"), &[])?;
    refuses(cluster, &format!("job change-priority --priority high {done}"), 1, &["not found in queue"])?;
    says(cluster, &format!("job archive {done}"), &[])?;
    refuses(cluster, &format!("job archive {done}"), 1, &[&done])?;
    ensure!(!list(cluster, "job", "id")?.contains(&done), "an archived job is not listed");
    says(cluster, "job list --archived --no-headers", &[&done])?;
    says(cluster, "job autoarchive all", &["Archived"])?;
    listed(cluster, "job", "id", &[])?;
    refuses(cluster, "job info 999999", 1, &["999999"])?;
    refuses(cluster, "job watch 999999", 1, &["999999"])?;
    refuses(cluster, "job wait nine", 2, &["nine"])
}

fn tags(cluster: &VirtualCluster) -> Result<()> {
    says(cluster, "cluster add-tags b a", &[])?;
    says(cluster, "node add-tags node2 rack:7", &[])?;
    says(cluster, "group add-tags default fast", &[])?;
    ensure!(cluster.run(&["cluster", "list-tags"])? == "a\nb\n", "sorted, one a line");
    ensure!(cluster.run(&["node", "list-tags", "node2"])? == "rack:7\n");
    ensure!(cluster.run(&["group", "list-tags", "default"])? == "fast\n");
    refuses(cluster, "cluster remove-tags c", 1, &["c"])?;
    refuses(cluster, "cluster add-tags not/a|tag", 1, &["not/a|tag"])?;
    refuses(cluster, "node list-tags nosuch", 1, &["unknown_entity"])?;
    says(cluster, "cluster remove-tags a b", &[])?;
    says(cluster, "node remove-tags node2 rack:7", &[])?;
    says(cluster, "group remove-tags default fast", &[])?;
    ensure!(cluster.run(&["cluster", "list-tags"])?.is_empty(), "no tag is left");
    Ok(())
}

fn locks(cluster: &VirtualCluster) -> Result<()> {
    let held = says(cluster, "debug delay --submit --locks -n node2 60", &["JobID: "])?;
    let held: u64 = held.trim().trim_start_matches("JobID: ").parse()?;
    let mut luxi = cluster.luxi()?;
    wait::until("the first job runs", PATIENCE, || (luxi.status(held).ok()? == "running").then_some(()))?;
    let waits = says(cluster, "debug delay --submit --locks -n node2 0", &["JobID: "])?;
    let waits: u64 = waits.trim().trim_start_matches("JobID: ").parse()?;
    wait::until("the second job waits", PATIENCE, || (luxi.status(waits).ok()? == "waiting").then_some(()))?;
    says(cluster, "debug locks", &["Name", "cluster/BGL", "shared", "node/", &format!("exclusive:{waits}")])?;
    let mut watch = cluster.command(&["job", "watch", &waits.to_string()]);
    let watch = watch.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn()?;
    says(cluster, &format!("job cancel --kill --yes-do-it {held}"), &["SIGKILL"])?;
    let output = bounded::output_of(watch)?;
    ensure!(
        output.status.success(),
        "the watched job got its lock: {}",
        gantry_tests::foreign::said(&output)
    );
    rest::reached(cluster, PATIENCE)
}

fn wrong_input(cluster: &VirtualCluster) -> Result<()> {
    refuses(cluster, "node list -o name,nosuch", 14, &["nosuch"])?;
    refuses(cluster, "node list nosuch", 1, &["unknown_entity", "nosuch"])?;
    refuses(cluster, "node", 2, &["Usage"])?;
    refuses(cluster, "node frobnicate", 2, &["frobnicate"])?;
    refuses(cluster, "debug delay soon", 2, &["soon"])?;
    refuses(cluster, "instance add -t diskless -o noop --no-nics bad_name!", 1, &["bad_name!"])?;
    refuses(cluster, "group add bad/name", 1, &["bad/name"])?;
    refuses(cluster, "instance add -t diskless -o noop --no-nics -H nosuch x.gantry.test", 2, &["nosuch"])?;
    refuses(cluster, "cluster init again.gantry.test", 1, &["cluster"])?;
    says(cluster, "--help", &["cluster", "node", "instance", "job"]).map(drop)
}

/// On a node that is not the master the commands say who is.
fn other_nodes(cluster: &VirtualCluster) -> Result<()> {
    let output =
        bounded::output(cluster.command(&["node", "list"]).env("GANTRY_ROOT", &cluster.nodes[1].root))?;
    let text = gantry_tests::foreign::said(&output);
    ensure!(
        output.status.code() == Some(1) && text.contains("node1.gantry.test"),
        "{}: {text}",
        output.status
    );
    let nowhere = cluster.dir().join("nowhere");
    let output = bounded::output(cluster.command(&["node", "list"]).env("GANTRY_ROOT", &nowhere))?;
    let text = gantry_tests::foreign::said(&output);
    ensure!(output.status.code() == Some(1) && text.contains("No cluster here"), "{}: {text}", output.status);
    Ok(())
}

fn leaves_and_comes_back(cluster: &VirtualCluster) -> Result<()> {
    let node = &cluster.nodes[2];
    let secret = node.root.join("var/lib/gantry/join-secret");
    ensure!(!secret.exists(), "a joined node keeps no join secret");
    says(cluster, "node remove node3", &[])?;
    listed(cluster, "node", "name", &["node1.gantry.test", "node2.gantry.test"])?;
    wait::until("the removed node waits to be joined again", PATIENCE, || secret.exists().then_some(()))?;
    let path = secret.display().to_string();
    let add = ["node", "add", "--join-secret-file", &path, "--node-ip", &node.address, &node.name];
    let wrong = cluster.dir().join("wrong-secret");
    std::fs::write(&wrong, "0".repeat(64))?;
    let wrong = wrong.display().to_string();
    let (code, text) = cluster.refused(&[
        "node",
        "add",
        "--join-secret-file",
        &wrong,
        "--node-ip",
        &node.address,
        &node.name,
    ])?;
    ensure!(
        code == 1 && !text.contains(&"0".repeat(64)),
        "a wrong secret is refused and never shown: {code} {text}"
    );
    listed(cluster, "node", "name", &["node1.gantry.test", "node2.gantry.test"])?;
    wait::until("the node joins again", PATIENCE, || cluster.run(&add).ok())?;
    let (code, text) = cluster.refused(&add)?;
    ensure!(code == 1 && text.contains("--readd"), "{text}");
    listed(
        cluster,
        "node",
        "name,role,offline",
        &["node1.gantry.test|M|N", "node2.gantry.test|C|N", "node3.gantry.test|C|N"],
    )?;
    says(cluster, "debug delay --no-master -n node3 0", &[])?;
    cluster.add_instance("back.gantry.test", "node3")?;
    says(cluster, "instance remove --force back", &[]).map(drop)
}

fn destroyed(cluster: &VirtualCluster) -> Result<()> {
    refuses(cluster, "cluster destroy", 2, &["--yes-do-it"])?;
    refuses(cluster, "cluster destroy --yes-do-it", 1, &["2 other node(s)", "node2.gantry.test"])?;
    says(cluster, "node remove node3", &[])?;
    says(cluster, "node remove node2", &[])?;
    says(cluster, "cluster destroy --yes-do-it", &[])?;
    let root = &cluster.master().root;
    wait::until("the master's daemons end", PATIENCE, || process::with_root(root).is_empty().then_some(()))?;
    refuses(cluster, "node list", 1, &["No cluster here"])?;
    for left in ["queue.data", "config.data", "wconf.log", "secrets", "role.json", "role.json.2"] {
        ensure!(!root.join("var/lib/gantry").join(left).exists(), "{left} is still there");
    }
    Ok(())
}
