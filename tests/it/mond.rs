//! MonD on every node: Ganeti's htools and Prometheus' own checker read it unmodified, and it needs no master.

use crate::step;
use anyhow::{Context, Result, ensure};
use gantry_tests::foreign::{self, said};
use gantry_tests::leak::Site;
use gantry_tests::{Node, Options, VirtualCluster, mond, pool, rest, wait};
use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::Duration;

const PATIENCE: Duration = Duration::from_secs(60);
/// Debian's allocator of the htools.
const HAIL: &str = "/usr/lib/ganeti/iallocators/hail";
/// On the second node.
const INSTANCE: &str = "inst1.gantry.test";
/// Of VMs in a pool, on both nodes together.
const SIZE: usize = 2;

#[test]
fn every_node_tells_how_it_is() {
    let drivers = ["fake", "oci"].map(str::to_owned).to_vec();
    let cluster = VirtualCluster::start(&Options { drivers, ..Options::new(2) }).expect("the cluster starts");
    step("every node answers as Ganeti's does", || cluster.nodes.iter().try_for_each(answers));
    step("its settings are the cluster's", || settings(&cluster));
    step("an instance is told by its name", || {
        let node = &cluster.nodes[1];
        cluster.add_instance(INSTANCE, &node.name)?;
        report(node, "default/xen-cpu-avg-load", |data| data.get(INSTANCE).is_some())?;
        report(node, "instance/inst-status", |data| data["instances"][0]["actualState"] == "running")
            .map(drop)
    });
    step("hbal reads the load of every node", || hbal(&cluster));
    step("hbal reads reports from a file", || hbal_from_file(&cluster));
    step("hail reads it too", || hail(&cluster));
    step("VMs to look at", || {
        pool::add(&cluster, "oci", SIZE)?;
        Site::of(&cluster)?.rests(&cluster, SIZE, PATIENCE)
    });
    step("VMs and slots are told", || cluster.nodes.iter().try_for_each(vms));
    step("who has a VM is told, and until when", || leased(&cluster));
    step("hbal reads the load of every VM", || hbal(&cluster));
    step("promtool finds no fault with the metrics", || cluster.nodes.iter().try_for_each(promtool));
    step("the board and the alert rules name metrics that there are", || contrib(&cluster));
    step("without the master it goes on", || {
        cluster.kill_node(0)?;
        answers(&cluster.nodes[1])?;
        // Also one that begins now: the candidate beside it tells settings and names.
        cluster.restart(1, "mond")?;
        wait::until("it answers", PATIENCE, || mond::json(&cluster.nodes[1], "/").ok())?;
        answers(&cluster.nodes[1])?;
        vms(&cluster.nodes[1])?;
        let lv = mond::get(&cluster.nodes[1], "/1/report/storage/lv", "")?;
        ensure!(lv.0 == 404, "it does not know the settings: {lv:?}");
        let (code, text) = failing_hbal(&cluster)?;
        ensure!(code != Some(0), "hbal does not miss the dead node: {text}");
        cluster.boot(0)?;
        wait::until("the master answers again", PATIENCE, || answers(&cluster.nodes[0]).ok())
    });
    step("the instance and the pool go", || {
        cluster.luxi()?;
        cluster.run(&["instance", "remove", "--force", INSTANCE])?;
        pool::remove(&cluster)?;
        Site::of(&cluster)?.rests(&cluster, 0, PATIENCE)
    });
    step("nothing is left", || rest::reached(&cluster, PATIENCE));
}

/// Waits for a report that is more than a beginning.
fn report(node: &Node, path: &str, ready: impl Fn(&Value) -> bool) -> Result<Value> {
    let target = format!("/1/report/{path}");
    let what = format!("{target} on {}", node.name);
    wait::until(&what, PATIENCE, || mond::json(node, &target).ok().filter(|report| ready(&report["data"])))
}

fn answers(node: &Node) -> Result<()> {
    ensure!(mond::json(node, "/")? == json!([1]), "versions");
    report(node, "default/cpu-avg-load", |data| data["cpu_total"].is_f64())?;
    let all = mond::json(node, "/1/report/all")?;
    let keys = ["category", "data", "format_version", "kind", "name", "timestamp", "version"];
    for report in all.as_array().context("a list")? {
        let found: Vec<&str> = report.as_object().context("an object")?.keys().map(String::as_str).collect();
        ensure!(found == keys, "{report}");
    }
    let daemons = report(node, "daemon/daemon-status", |data| data["status"]["code"] == 0)?;
    ensure!(daemons["data"]["daemons"].as_array().is_some_and(|all| all.len() >= 3), "{daemons}");
    Ok(())
}

fn settings(cluster: &VirtualCluster) -> Result<()> {
    let set = [
        "--enabled-data-collectors",
        "lv=false",
        "--data-collector-interval",
        "diskstats=2.5,node-resources=60",
    ];
    cluster.run(&[&["cluster", "modify"][..], &set].concat())?;
    let text = cluster.run(&["cluster", "info"])?;
    let shown = text.split("Data collectors:").nth(1).with_context(|| text.clone())?;
    let of = |name: &str| {
        shown.split(&format!("{name}:")).nth(1).map(|rest| rest.lines().skip(1).take(2).collect::<String>())
    };
    for (name, wanted) in
        [("lv", "False"), ("diskstats", "2.500s"), ("node-resources", "60.000s"), ("cpu-avg-load", "5.000s")]
    {
        let said = of(name).with_context(|| format!("no {name}: {text}"))?;
        ensure!(said.contains(wanted), "{name}: {said}");
    }
    // Every node hears of it by ConfD.
    for node in &cluster.nodes {
        wait::until("lv is off", PATIENCE, || {
            let listed = mond::json(node, "/1/list/collectors").ok()?;
            (!listed.to_string().contains("\"lv\"")).then_some(())
        })?;
        ensure!(mond::get(node, "/1/report/storage/lv", "")?.0 == 404, "it is off and reported");
    }
    for (wrong, why) in
        [("nonsense=5", "there is no data collector 'nonsense'"), ("lv=0", "must be 0.1 to 86400 seconds")]
    {
        let (_, said) = cluster.refused(&["cluster", "modify", "--data-collector-interval", wrong])?;
        ensure!(said.contains(why), "{said}");
    }
    Ok(())
}

/// Runs a program with names for the nodes that it alone sees.
fn with_hosts(cluster: &VirtualCluster, program: &str, args: &[&str]) -> Result<Output> {
    let hosts: String =
        cluster.nodes.iter().map(|node| format!("{} {}\n", node.address, node.name)).collect();
    let file = cluster.dir().join("hosts");
    std::fs::write(&file, format!("127.0.0.1 localhost\n{hosts}"))?;
    let script = "mount --make-rprivate / && mount --bind \"$1\" /etc/hosts && shift && exec \"$@\"";
    let file = file.display().to_string();
    let args = [&["--mount", "sh", "-c", script, "sh", &file, program], args].concat();
    foreign::output("unshare", &args)
}

fn hbal_args(luxi: &str) -> [&str; 4] {
    [luxi, "--mond=yes", "--exit-on-missing-mond-data", "-p"]
}

fn luxi(cluster: &VirtualCluster) -> String {
    format!("-L{}", cluster.master().socket("luxi.sock").display())
}

fn hbal(cluster: &VirtualCluster) -> Result<()> {
    let luxi = luxi(cluster);
    for more in [&[][..], &["--mond-xen"]] {
        let output = with_hosts(cluster, "hbal", &[&hbal_args(&luxi)[..], more].concat())?;
        let text = said(&output);
        ensure!(output.status.success() && text.contains("2 nodes"), "{more:?}: {}\n{text}", output.status);
        ensure!(!text.to_lowercase().contains("mond"), "it complains: {text}");
    }
    Ok(())
}

/// With one node's MonD away.
fn failing_hbal(cluster: &VirtualCluster) -> Result<(Option<i32>, String)> {
    let data = cluster.dir().join("cluster.data");
    let [one, two] = [0, 1].map(|at| cluster.nodes[at].name.clone());
    let node = |name: &str| format!("{name}|4096|512|3584|10240|10240|2|N|g1|1||N|1|0|1.0\n");
    std::fs::write(&data, format!("g1|g1|preferred||\n\n{}{}\n\n\n", node(&one), node(&two)))?;
    let data = format!("-t{}", data.display());
    let output = with_hosts(cluster, "hbal", &[&data, "--mond=yes", "--exit-on-missing-mond-data"])?;
    Ok((output.status.code(), said(&output)))
}

fn reports(cluster: &VirtualCluster) -> Result<PathBuf> {
    let one = |node: &Node| Ok(json!({"node": node.name, "reports": mond::json(node, "/1/report/all")?}));
    let all = cluster.nodes.iter().map(one).collect::<Result<Vec<_>>>()?;
    let file = cluster.dir().join("reports.json");
    std::fs::write(&file, serde_json::to_vec(&all)?)?;
    Ok(file)
}

fn hbal_from_file(cluster: &VirtualCluster) -> Result<()> {
    let (luxi, file) = (luxi(cluster), format!("--mond-data={}", reports(cluster)?.display()));
    let text = foreign::run("hbal", &[&luxi, "--mond=yes", "--exit-on-missing-mond-data", &file])?;
    ensure!(text.contains("2 nodes"), "{text}");
    Ok(())
}

/// Hail is given a request as the allocator of Ganeti's master is.
fn hail(cluster: &VirtualCluster) -> Result<()> {
    let mut nodes = serde_json::Map::new();
    for node in &cluster.nodes {
        let facts = json!({
            "total_disk": 10240, "total_memory": 4096, "group": "g1", "secondary_ip": node.address, "drained": false,
            "reserved_cpus": 1, "ndparams": {"spindle_count": 1, "exclusive_storage": false, "oob_program": null, "cpu_speed": 1.0,
            "ssh_port": 22, "ovs": false, "ovs_name": "x", "ovs_link": ""}, "reserved_memory": 512, "free_memory": 3584,
            "free_disk": 10240, "total_cpus": 2, "total_spindles": 1, "free_spindles": 1, "i_pri_memory": 0, "i_pri_up_memory": 0,
            "master_candidate": true, "offline": false, "tags": [], "primary_ip": node.address, "vm_capable": true,
        });
        nodes.insert(node.name.clone(), facts);
    }
    let policy = policy();
    let request = json!({
        "version": 2, "cluster_name": "cluster.gantry.test", "cluster_tags": [], "enabled_hypervisors": ["fake"], "ipolicy": policy,
        "nodegroups": {"g1": {"name": "default", "alloc_policy": "preferred", "ipolicy": policy, "tags": [], "networks": []}},
        "nodes": nodes, "instances": {},
        "request": {
            "type": "allocate", "name": "inst1.gantry.test", "required_nodes": 1, "memory": 128, "vcpus": 1, "disk_space_total": 0,
            "disks": [], "nics": [], "os": "noop", "tags": [], "hypervisor": "fake", "disk_template": "diskless", "spindle_use": 1,
        },
    });
    let file = cluster.dir().join("request.json");
    std::fs::write(&file, serde_json::to_vec(&request)?)?;
    let output = with_hosts(cluster, HAIL, &["--mond=yes", &file.display().to_string()])?;
    let text = said(&output);
    ensure!(!text.contains("Failed to contact") && !text.contains("ignored"), "it read no MonD: {text}");
    let answer: Value =
        serde_json::from_str(text.lines().find(|line| line.starts_with('{')).with_context(|| text.clone())?)?;
    ensure!(answer["success"] == true, "{text}");
    ensure!(answer["result"][0].as_str().is_some_and(|name| name.starts_with("node")), "{text}");
    Ok(())
}

fn policy() -> Value {
    let spec = |memory: u32, disks: u32| json!({"memory-size": memory, "cpu-count": 1, "disk-count": disks, "disk-size": 0, "nic-count": 0, "spindle-use": 1});
    let mut most = spec(32768, 16);
    for (key, value) in [("cpu-count", 8), ("disk-size", 1_048_576), ("nic-count", 8), ("spindle-use", 12)] {
        most[key] = value.into();
    }
    json!({
        "minmax": [{"min": spec(1, 0), "max": most}], "std": spec(128, 0), "disk-templates": ["diskless", "plain"],
        "vcpu-ratio": 4.0, "spindle-ratio": 32.0,
    })
}

fn vms(node: &Node) -> Result<()> {
    let slots =
        report(node, "instance/slot-status", |data| !data["slots"].as_array().is_none_or(Vec::is_empty))?;
    let live = slots["data"]["slots"]
        .as_array()
        .into_iter()
        .flatten()
        .filter(|slot| slot["state"] == "live")
        .count();
    ensure!(live >= 1, "{slots}");
    // Names are ConfD's.
    let of_pool = |data: &Value| {
        let mut slots = data["slots"].as_array()?.iter();
        slots.find(|slot| slot["pool"] == pool::NAME)?["name"].as_str().map(str::to_owned)
    };
    let slots = report(node, "instance/slot-status", |data| of_pool(data).is_some())?;
    let name = of_pool(&slots["data"]).context("a name")?;
    ensure!(name.starts_with(&format!("{}-", pool::NAME)), "{slots}");
    // Not its memory: PID 1 took all of its own before it was in the VM's group, and a clean VM has nothing else.
    let usage = report(node, "instance/container-usage", |data| {
        data["containers"][0]["processes"]["held"].as_u64() > Some(0)
    })?;
    let one = &usage["data"]["containers"][0];
    ensure!(one["memory"]["held"].is_u64() && one["disk"]["limit"].as_u64() > Some(0), "{usage}");
    let status =
        report(node, "instance/inst-status-oci", |data| data["instances"][0]["actualState"] == "running")?;
    ensure!(
        status["data"]["status"]["code"] == 0 && status["data"]["instances"][0]["uptime"].is_string(),
        "{status}"
    );
    report(node, "default/xen-cpu-avg-load", |data| data.get(&name).is_some_and(Value::is_f64))?;
    report(node, "instance/pool-status", |data| {
        data["pools"].as_array().is_some_and(|pools| pools.iter().any(|one| one["name"] == pool::NAME))
    })?;
    let leases = report(node, "instance/lease-status", |_| true)?;
    ensure!(leases["data"]["orphans"] == json!([]), "{leases}");
    Ok(())
}

fn leased(cluster: &VirtualCluster) -> Result<()> {
    let all = SIZE.to_string();
    let said =
        cluster.run(&["lease", "acquire", pool::NAME, "--count", &all, "--for", "60m", "--ttl", "10m"])?;
    let uuid = said.split_whitespace().find(|word| word.len() == 36).context("a uuid")?;
    let begun = gantry_model::time::now().0;
    // A node knows of a lease from the first command on.
    for vm in 0..SIZE {
        cluster.run(&["lease", "exec", uuid, "--vm", &vm.to_string(), "--", "true"])?;
    }
    for node in &cluster.nodes {
        let of = |data: &Value| {
            let all = data["instances"].as_array()?.iter().find(|one| one["lease"]["owner"].is_string())?;
            Some(all["lease"].clone())
        };
        let told = report(node, "instance/inst-status-oci", |data| of(data).is_some())?;
        let lease = of(&told["data"]).context("a lease")?;
        let ends = lease["expires"].as_f64().context("a time")? - begun as f64;
        // Not renewed it ends after ten minutes.
        ensure!(lease["id"] == uuid && (500.0..700.0).contains(&ends), "{uuid}: {lease}");
    }
    cluster.run(&["lease", "release", uuid])?;
    Site::of(cluster)?.rests(cluster, SIZE, PATIENCE)
}

fn promtool(node: &Node) -> Result<()> {
    let (status, text) = mond::get(node, "/metrics", "")?;
    ensure!(status == 200 && text.contains("gantry_container_memory_bytes{"), "{text}");
    let mut child = Command::new("promtool")
        .args(["check", "metrics"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()?;
    child.stdin.take().context("is piped")?.write_all(text.as_bytes())?;
    let output = child.wait_with_output()?;
    ensure!(output.status.success(), "promtool on {}: {}", node.name, said(&output));
    let (_, open) = mond::get(node, "/metrics", "Accept: application/openmetrics-text\r\n")?;
    ensure!(open.ends_with("# EOF\n") && !text.contains("# EOF"), "{open}");
    Ok(())
}

/// Words of an expression that are metrics of Gantry's.
fn metrics(expression: &str) -> BTreeSet<String> {
    let words = expression.split(|char: char| !char.is_ascii_alphanumeric() && char != '_');
    words.filter(|word| word.starts_with("gantry_")).map(str::to_owned).collect()
}

/// Every value of this key in a document.
fn values<'a>(value: &'a Value, key: &str, found: &mut Vec<&'a str>) {
    match value {
        Value::Object(map) => {
            for (name, inner) in map {
                if name == key { found.extend(inner.as_str()) } else { values(inner, key, found) }
            }
        }
        Value::Array(list) => list.iter().for_each(|inner| values(inner, key, found)),
        _ => {}
    }
}

fn contrib(cluster: &VirtualCluster) -> Result<()> {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("../contrib");
    let rules = dir.join("prometheus/gantry.rules.yml");
    foreign::run("promtool", &["check", "rules", &rules.display().to_string()])?;
    let board: Value = serde_json::from_slice(&std::fs::read(dir.join("grafana/gantry.json"))?)?;
    let mut expressions = Vec::new();
    values(&board, "expr", &mut expressions);
    ensure!(expressions.len() > 20, "{expressions:?}");
    let rules = std::fs::read_to_string(rules)?;
    let lines: Vec<&str> = rules.lines().filter_map(|line| line.trim().strip_prefix("expr: ")).collect();
    ensure!(lines.len() > 10, "{lines:?}");
    // What there is none of here, such as DRBD, is described all the same.
    let (_, text) = mond::get(cluster.master(), "/metrics", "")?;
    let known: BTreeSet<&str> =
        text.lines().filter_map(|line| line.strip_prefix("# TYPE ")?.split(' ').next()).collect();
    let named: BTreeSet<String> = expressions.iter().chain(&lines).flat_map(|text| metrics(text)).collect();
    let strangers: Vec<&String> = named.iter().filter(|name| !known.contains(name.as_str())).collect();
    ensure!(strangers.is_empty(), "{strangers:?} are no metrics; there are {known:?}");
    Ok(())
}
