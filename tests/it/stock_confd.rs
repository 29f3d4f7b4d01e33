//! A stock `ganeti-confd` beside ours: it reads the cluster's configuration in Ganeti's form, as our own ConfD gives it out
//! piece by piece, and is asked the same questions by Ganeti's client. What it answers is what ours must. Gantry's client then
//! asks the stock server.

use anyhow::{Context, Result, bail, ensure};
use gantry_model::root::Root;
use gantry_tests::foreign::python;
use gantry_tests::{VirtualCluster, bounded, wait};
use serde::Deserialize;
use serde_json::{Map, Number, Value, json};
use std::fs;
use std::net::{Ipv4Addr, UdpSocket};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

const PATIENCE: Duration = Duration::from_secs(30);
/// Debian's, of package `ganeti-haskell-3.0`.
const PROGRAM: &str = "/usr/lib/ganeti/3.0/usr/sbin/ganeti-confd";
/// What Ganeti's configuration is made of.
const PARTS: [&str; 11] = [
    "version",
    "cluster",
    "nodes",
    "nodegroups",
    "instances",
    "networks",
    "disks",
    "filters",
    "serial_no",
    "ctime",
    "mtime",
];
/// Where Ganeti's daemons want to write, below their root.
const DIRS: [&str; 6] =
    ["var/lib/ganeti", "var/log/ganeti", "var/run/ganeti", "run/ganeti", "var/lock", "etc/ganeti"];
/// Those of Ganeti.
const HYPERVISORS: [&str; 6] = ["chroot", "fake", "kvm", "lxc", "xen-hvm", "xen-pvm"];
/// Errors without a number: their texts are each server's own.
const ERROR: u64 = 1;
/// Types whose answers are in no order.
const UNORDERED: [u64; 3] = [4, 5, 6];
/// The type whose answer has collectors that only Gantry has.
const COLLECTORS: u64 = 11;

/// A stock server on a root of its own.
struct Stock {
    daemon: Child,
    key: PathBuf,
    ip: Ipv4Addr,
    port: u16,
}

impl Drop for Stock {
    fn drop(&mut self) {
        let _ = self.daemon.kill();
        let _ = self.daemon.wait();
    }
}

impl Stock {
    fn start(dir: &Path, config: &Value, key: &[u8]) -> Result<Self> {
        for name in DIRS {
            fs::create_dir_all(dir.join(name))?;
        }
        let lib = dir.join("var/lib/ganeti");
        fs::write(lib.join("config.data"), config.to_string())?;
        fs::write(lib.join("hmac.key"), key)?;
        let ip = Ipv4Addr::LOCALHOST;
        let port = UdpSocket::bind((ip, 0))?.local_addr()?.port();
        let log = fs::File::create(dir.join("log"))?;
        let mut program = Command::new(PROGRAM);
        program.args([
            "-f",
            "--no-user-checks",
            "--syslog=no",
            "-b",
            &ip.to_string(),
            "-p",
            &port.to_string(),
        ]);
        program.env("GANETI_ROOTDIR", dir).env("GANETI_HOSTNAME", "stock.gantry.test");
        program.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
        let daemon =
            program.spawn().with_context(|| format!("{PROGRAM}: is ganeti-haskell-3.0 installed?"))?;
        let mut stock = Self { daemon, key: lib.join("hmac.key"), ip, port };
        let ping = [json!([0, null])];
        let answers = wait::until("the stock server has read the configuration", PATIENCE, || {
            if stock.daemon.try_wait().ok()?.is_some() {
                return Some(false);
            }
            let said = stock.answers(&ping).ok()?;
            (said[0][0] == 0).then_some(true)
        });
        match answers {
            Ok(true) => Ok(stock),
            _ => bail!("it does not serve:\n{}", fs::read_to_string(dir.join("log"))?),
        }
    }

    fn answers(&self, questions: &[Value]) -> Result<Vec<Value>> {
        answers(&self.key, self.port, &self.ip.to_string(), questions)
    }
}

fn answers(key: &Path, port: u16, peer: &str, questions: &[Value]) -> Result<Vec<Value>> {
    let questions = Value::from(questions.to_vec()).to_string();
    let said =
        python("confd_answers.py", &[&key.display().to_string(), &port.to_string(), peer, &questions])?;
    serde_json::from_str(&said).with_context(|| said.clone())
}

/// Compares both, and asks the stock server by Gantry's client.
pub fn same(cluster: &VirtualCluster, instance: &str) -> Result<()> {
    let mut config = Map::new();
    for part in PARTS {
        let text = cluster.run(&["debug", "confd", "--digest", "sha1", "config", &format!("/{part}")])?;
        config.insert(part.to_owned(), serde_json::from_str(&text).with_context(|| text.clone())?);
    }
    let mut config = Value::Object(config);
    without_ours(&mut config["cluster"]);
    let key = cluster.master().root.join("var/lib/gantry/hmac.key");
    let dir = cluster.dir().join("stock");
    let stock = Stock::start(&dir, &config, &fs::read(&key)?)?;
    let questions = questions(cluster, &config, instance)?;
    let theirs = stock.answers(&questions)?;
    let ours = answers(&key, 1814, &cluster.master().address, &questions)?;
    let asked = questions.iter().zip(theirs.iter().zip(&ours));
    let differ: Vec<String> = asked
        .filter(|(question, (theirs, ours))| !equal(question, theirs, ours))
        .map(|(question, (theirs, ours))| format!("{question}\n  stock {theirs}\n  ours  {ours}"))
        .collect();
    ensure!(differ.is_empty(), "answers differ:\n{}", differ.join("\n"));
    eprintln!("    {} questions, answered alike", questions.len());
    ours_asks(cluster, &stock, instance)
}

/// Leaves out hypervisors that Ganeti has no name for: it reads no configuration that names one.
fn without_ours(cluster: &mut Value) {
    if let Some(params) = cluster["hvparams"].as_object_mut() {
        params.retain(|name, _| HYPERVISORS.contains(&name.as_str()));
    }
    if let Some(enabled) = cluster["enabled_hypervisors"].as_array_mut() {
        enabled.retain(|name| name.as_str().is_some_and(|name| HYPERVISORS.contains(&name)));
    }
}

fn questions(cluster: &VirtualCluster, config: &Value, instance: &str) -> Result<Vec<Value>> {
    let master = &cluster.master().name;
    let of = |part: &str, name: &str| {
        let all = config[part].as_object().into_iter().flatten();
        all.filter(|(_, one)| one["name"] == name).map(|(uuid, _)| uuid.clone()).next()
    };
    let node = of("nodes", master).context("the master")?;
    let vm = of("instances", instance).context("the instance")?;
    let link = &config["cluster"]["nicparams"]["default"]["link"];
    let ip = "198.51.100.7";
    let mut all = vec![json!([0, null]), json!([4, null]), json!([5, null]), json!([COLLECTORS, null])];
    for name in [master.as_str(), "node2.gantry.test", "node3.gantry.test", "nosuch"] {
        all.extend([1, 7, 8].map(|kind| json!([kind, name])));
    }
    // Not its role: a stock server calls the master a candidate when it is asked by UUID. Nor are pointers with indexes like 00
    // asked for, which RFC 6901 forbids and it takes.
    all.extend([7, 8].map(|kind| json!([kind, node])));
    all.extend([1, 7, 8, 9].map(|kind| json!([kind, null])));
    for query in [
        json!({"1": ip}),
        json!({"1": "192.0.2.9"}),
        json!({"0": link, "1": ip}),
        json!({"0": "nosuch", "1": ip}),
        json!({"2": [ip, "192.0.2.9", ip]}),
        json!({"2": []}),
        json!({}),
        json!("x"),
        Value::Null,
    ] {
        all.push(json!([2, query]));
    }
    for query in
        [Value::Null, json!({"3": [0, 1, 2]}), json!({"3": [2]}), json!({"3": []}), json!({}), json!("x")]
    {
        all.push(json!([3, query]));
    }
    all.extend([json!([6, null]), json!([6, link]), json!([6, "nosuch"])]);
    all.extend([instance, &vm, "nosuch"].map(|name| json!([9, name])));
    for pointer in [
        "/version",
        "/cluster/cluster_name",
        "/cluster/enabled_hypervisors/0",
        "/cluster/enabled_hypervisors/9",
        "/cluster/nosuch",
        "/cluster/",
        "/nosuch",
        "nosuch",
        "/",
        "",
    ] {
        all.push(json!([10, pointer]));
    }
    all.extend(
        [format!("/nodes/{node}"), format!("/instances/{vm}"), format!("/instances/{vm}/nics/0/ip")]
            .map(|pointer| json!([10, pointer])),
    );
    Ok(all)
}

fn equal(question: &Value, theirs: &Value, ours: &Value) -> bool {
    let head = |answer: &Value| (answer[0].clone(), answer[2].clone());
    let texts = theirs[0] == ERROR && theirs[1].is_string() && ours[1].is_string();
    if theirs.is_null() || head(theirs) != head(ours) {
        return false;
    }
    if question[0] == COLLECTORS {
        let mut all = theirs[1].as_object().into_iter().flatten();
        return all.all(|(name, said)| alike(said, &ours[1][name]));
    }
    if UNORDERED.iter().any(|kind| question[0] == *kind) {
        return sorted(&theirs[1]) == sorted(&ours[1]);
    }
    texts || alike(&theirs[1], &ours[1])
}

/// The texts of a list.
fn sorted(list: &Value) -> Option<Vec<String>> {
    let mut all = Vec::<String>::deserialize(list).ok()?;
    all.sort();
    Some(all)
}

/// The same but for how numbers are written.
fn alike(one: &Value, other: &Value) -> bool {
    match (one, other) {
        (Value::Number(one), Value::Number(other)) => nearly(one, other),
        (Value::Array(one), Value::Array(other)) => {
            one.len() == other.len() && one.iter().zip(other).all(|(one, other)| alike(one, other))
        }
        (Value::Object(one), Value::Object(all)) => {
            let there = |(key, one): (&String, &Value)| all.get(key).is_some_and(|other| alike(one, other));
            one.len() == all.len() && one.iter().all(there)
        }
        _ => one == other,
    }
}

/// Equal but for the last bits: the stock server keeps times as seconds and picoseconds, and rounds again when it takes them apart
/// and when it adds them. Seen: two units of the last place, half a microsecond.
fn nearly(one: &Number, other: &Number) -> bool {
    match (one.as_f64(), other.as_f64()) {
        (Some(one), Some(other)) => (one - other).abs() <= 2.0 * f64::EPSILON * one.abs(),
        _ => one == other,
    }
}

/// A node whose only candidate is the stock server.
fn ours_asks(cluster: &VirtualCluster, stock: &Stock, instance: &str) -> Result<()> {
    let dir = cluster.dir().join("asks-stock");
    let root = Root::new(&dir);
    let put = |path: PathBuf, text: &[u8]| -> Result<()> {
        fs::create_dir_all(path.parent().context("a directory")?)?;
        fs::write(&path, text)?;
        Ok(fs::set_permissions(&path, fs::Permissions::from_mode(0o640))?)
    };
    let toml = format!("name = \"asks.gantry.test\"\naddress = \"127.0.0.1\"\nconfd_port = {}\n", stock.port);
    put(root.node_toml(), toml.as_bytes())?;
    put(root.hmac_key(), &fs::read(&stock.key)?)?;
    put(root.ssconf("master_candidates_ips"), stock.ip.to_string().as_bytes())?;
    put(root.ssconf("confd_digest"), b"sha1\n")?;
    let master = cluster.master();
    for (asked, wanted) in [
        (&["ping"][..], "3000000"),
        (&["node-role", master.name.as_str()], "0"),
        (&["node-by-instance-ip", "198.51.100.7"], master.address.as_str()),
        (&["master"], master.name.as_str()),
        (&["node-ips"], master.address.as_str()),
        (&["candidate-ips"], master.address.as_str()),
        (&["instance-ips"], "198.51.100.7"),
        (&["drbd-minors", master.name.as_str()], "[]"),
        (&["instances", master.name.as_str()], instance),
        (&["disks", instance], "[]"),
        (&["config", "/cluster/cluster_name"], "cluster.gantry.test"),
        (&["collectors"], "cpu-avg-load"),
        (&["config", "/cluster/nosuch"], "nothing at that place"),
        (&["node-role", "nosuch"], "nosuch"),
    ] {
        let mut command = Command::new(cluster.programs().join("gantry"));
        command.args(["debug", "confd"]).args(asked).env("GANTRY_ROOT", &dir).stdin(Stdio::null());
        let output = bounded::output(&mut command)?;
        let said = gantry_tests::foreign::said(&output);
        ensure!(said.contains(wanted), "{asked:?} of a stock server does not say {wanted}: {said}");
    }
    Ok(())
}
