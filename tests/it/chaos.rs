//! Many deaths at once, and many changes at once. The storm kills daemons and job processes at random moments of 200 jobs
//! and asks of each acknowledged job that it ends, once, and as it should.

use crate::{cluster, step};
use anyhow::{Context, Result, bail, ensure};
use gantry_tests::luxi::delay;
use gantry_tests::{Luxi, Random, VirtualCluster, process, rest, wait};
use nix::sys::signal::Signal;
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

const JOBS: usize = 200;
const SUBMITTERS: usize = 4;
const KILLS: usize = 30;
const PATIENCE: Duration = Duration::from_secs(60);
/// The whole storm; a job that takes longer is lost.
const STORM: Duration = Duration::from_secs(180);

#[test]
fn the_storm() {
    let cluster = cluster(3);
    let random = Random::from_env("the storm");
    step("as many jobs at once as there are", || set_running(&cluster, 30));
    let weather = Weather::new(&cluster);
    step("200 jobs and 30 deaths", || storm(&cluster, &weather, random));
    step("every job ended, once", || ended_once(&cluster, &weather));
    step("as it should", || ended_well(&cluster, &weather));
    step("nothing is left", || rest::reached(&cluster, PATIENCE));
    step("what was moved aside is no news", || aside_is_no_news(&cluster));
    step("what was acknowledged is there", || tags_are_there(&cluster, &weather));
    step("and stays so", || {
        cluster.restart(0, "luxid")?;
        ended_once(&cluster, &weather)
    });
    step("the cluster is sound", || rest::verified(&cluster));
}

/// What a job of the storm does; what it needs decides which deaths may hurt it.
#[derive(Debug, Clone)]
enum Kind {
    /// Nothing but luxid.
    Plain,
    /// Locks and wconfd.
    Locked,
    /// Locks, wconfd and the configuration.
    Tag(String),
    /// Locks, wconfd and nodes.
    Node,
}

/// What the storm's threads share.
struct Weather {
    socket: PathBuf,
    nodes: Vec<String>,
    /// Acknowledged jobs.
    jobs: Mutex<BTreeMap<u64, Kind>>,
    /// Final states as first seen.
    ends: Mutex<BTreeMap<u64, Value>>,
    /// Jobs whose process was killed.
    killed: Mutex<BTreeSet<u64>>,
    /// Changes of a final state: there must be none.
    changes: Mutex<Vec<String>>,
    over: AtomicBool,
}

impl Weather {
    fn new(cluster: &VirtualCluster) -> Self {
        Self {
            socket: cluster.master().socket("luxi.sock"),
            nodes: cluster.nodes.iter().map(|node| node.name.clone()).collect(),
            jobs: Mutex::default(),
            ends: Mutex::default(),
            killed: Mutex::default(),
            changes: Mutex::default(),
            over: AtomicBool::new(false),
        }
    }

    /// Jobs acknowledged plus jobs ended: the storm's clock.
    fn progress(&self) -> usize {
        self.jobs.lock().expect("no panic").len() + self.ends.lock().expect("no panic").len()
    }

    fn all_ended(&self) -> bool {
        let jobs = self.jobs.lock().expect("no panic").len();
        jobs == JOBS && self.ends.lock().expect("no panic").len() == jobs
    }
}

/// Calls until an answer comes; only for what may be asked twice, or whose loss does not count.
fn ask(socket: &Path, method: &str, args: &Value) -> Result<Value> {
    wait::until(&format!("an answer to {method}"), PATIENCE, || {
        Luxi::connect(socket).ok()?.call(method, args.clone()).ok()
    })
}

fn set_running(cluster: &VirtualCluster, count: u32) -> Result<()> {
    let mut luxi = cluster.luxi()?;
    let job =
        luxi.submit(&[json!({"OP_ID": "OP_CLUSTER_SET_PARAMS", "max_running_jobs": count, "reason": []})])?;
    ensure!(luxi.wait(job, PATIENCE)? == "success", "max_running_jobs={count}");
    Ok(())
}

fn storm(cluster: &VirtualCluster, weather: &Weather, mut random: Random) -> Result<()> {
    let seeds: Vec<u64> = (0..SUBMITTERS).map(|_| random.number()).collect();
    thread::scope(|scope| {
        let submitters: Vec<_> =
            seeds.iter().map(|seed| scope.spawn(|| submit(weather, Random::new(*seed)))).collect();
        let watcher = scope.spawn(|| watch(weather));
        let killed = kill(cluster, weather, &mut random);
        if killed.is_err() {
            weather.over.store(true, Ordering::Relaxed);
        }
        for submitter in submitters {
            submitter.join().expect("no panic")?;
        }
        killed?;
        watcher.join().expect("no panic")
    })
}

fn opcodes(weather: &Weather, random: &mut Random) -> (Kind, Vec<Value>) {
    let node = random.of(&weather.nodes).clone();
    let seconds = f64::from(u8::try_from(random.below(30)).unwrap_or(0)) / 100.0;
    let locked = |on_master: bool| {
        json!({"OP_ID": "OP_TEST_DELAY", "duration": seconds, "on_master": on_master,
               "on_nodes": if on_master { json!([]) } else { json!([node]) }, "no_locks": false, "reason": []})
    };
    let tag = format!("storm:{:x}", random.number());
    let set = |kind: &str, name: Value| json!({"OP_ID": "OP_TAGS_SET", "kind": kind, "name": name, "tags": [tag], "reason": []});
    match random.below(8) {
        0 | 1 => (Kind::Plain, vec![delay(seconds), delay(0.0)]),
        2 => (Kind::Locked, vec![locked(true), locked(true)]),
        3 => (Kind::Tag(tag.clone()), vec![set("cluster", Value::Null)]),
        4 => (Kind::Tag(tag.clone()), vec![delay(0.1), set("node", json!(node)), locked(true)]),
        5 => (Kind::Tag(tag.clone()), vec![set("nodegroup", json!("default"))]),
        _ => (Kind::Node, vec![locked(false), locked(true)]),
    }
}

/// Submits its share; a job whose answer was lost does not count, though it may run.
fn submit(weather: &Weather, mut random: Random) -> Result<()> {
    for _ in 0..JOBS / SUBMITTERS {
        let (kind, ops) = opcodes(weather, &mut random);
        let job = ask(&weather.socket, "SubmitJob", &json!([ops]))?.as_u64().context("no job id")?;
        let before = weather.jobs.lock().expect("no panic").insert(job, kind);
        ensure!(before.is_none(), "id {job} was given twice");
        // A few at a time, so that the storm finds jobs in every state.
        wait::until("room for another job", STORM, || {
            let ended = weather.ends.lock().expect("no panic").len();
            let open = weather.jobs.lock().expect("no panic").len().saturating_sub(ended);
            (open < 60 || weather.over.load(Ordering::Relaxed)).then_some(())
        })?;
    }
    Ok(())
}

const FINAL_FIELDS: [&str; 7] = ["id", "status", "opstatus", "opresult", "start_ts", "end_ts", "ops"];

fn is_final(row: &Value) -> bool {
    matches!(row[1].as_str(), Some("success" | "error" | "canceled"))
}

/// Looks at all acknowledged jobs until all have ended, and remembers the first end of each.
fn watch(weather: &Weather) -> Result<()> {
    let end = Instant::now() + STORM;
    while !weather.all_ended() && !weather.over.load(Ordering::Relaxed) {
        ensure!(Instant::now() < end, "not all jobs end: {:?}", unfinished(weather)?);
        look(weather)?;
    }
    Ok(())
}

fn look(weather: &Weather) -> Result<()> {
    let ids: Vec<u64> = weather.jobs.lock().expect("no panic").keys().copied().collect();
    if ids.is_empty() {
        return Ok(());
    }
    let rows = ask(&weather.socket, "QueryJobs", &json!([ids, FINAL_FIELDS]))?;
    let rows = rows.as_array().context("no rows")?;
    ensure!(rows.len() == ids.len(), "{} rows of {} jobs", rows.len(), ids.len());
    let mut ends = weather.ends.lock().expect("no panic");
    for (id, row) in ids.iter().zip(rows) {
        ensure!(
            row[0] == json!(id) && row[1].is_string(),
            "job {id} was acknowledged and is not known: {row}"
        );
        match ends.get(id) {
            Some(first) if first != row => {
                weather.changes.lock().expect("no panic").push(format!("{first} became {row}"));
            }
            Some(_) => {}
            None if is_final(row) => drop(ends.insert(*id, row.clone())),
            None => {}
        }
    }
    Ok(())
}

fn unfinished(weather: &Weather) -> Result<Vec<Value>> {
    let ends = weather.ends.lock().expect("no panic");
    let jobs = weather.jobs.lock().expect("no panic");
    let ids: Vec<u64> = jobs.keys().filter(|id| !ends.contains_key(id)).copied().collect();
    let rows = ask(&weather.socket, "QueryJobs", &json!([ids, ["id", "status", "opstatus"]]))?;
    Ok(rows.as_array().cloned().unwrap_or_default())
}

/// Kills somebody whenever so many jobs more were acknowledged or ended: moments that come again with the seed.
fn kill(cluster: &VirtualCluster, weather: &Weather, random: &mut Random) -> Result<()> {
    let mut moments: Vec<usize> = (0..KILLS).map(|_| random.below(2 * JOBS - 20)).collect();
    moments.sort_unstable();
    for moment in moments {
        wait::until("the storm goes on", STORM, || (weather.progress() >= moment).then_some(()))?;
        match random.below(13) {
            0..=2 => drop(cluster.kill(0, "luxid")?),
            3..=5 => drop(cluster.kill(0, "wconfd")?),
            6 | 7 => drop(cluster.kill(random.below(cluster.nodes.len()), "noded")?),
            8 => {
                let number = random.below(cluster.nodes.len());
                cluster.kill(number, "boot")?;
                cluster.boot(number)?;
            }
            9 => kill_nursery(cluster),
            _ => kill_job(cluster, weather, random),
        }
    }
    Ok(())
}

/// Kills the process in which jobs are born, if luxid has made one since its own last death.
fn kill_nursery(cluster: &VirtualCluster) {
    if let Some(pid) = process::nursery(&cluster.master().root) {
        process::signal(pid, Signal::SIGKILL).ok();
    }
}

/// Kills the process of some job, if there is one just now.
fn kill_job(cluster: &VirtualCluster, weather: &Weather, random: &mut Random) {
    let processes = process::jobs(&cluster.master().root);
    if processes.is_empty() {
        return;
    }
    let victim = random.of(&processes);
    weather.killed.lock().expect("no panic").insert(victim.id);
    process::signal(victim.pid, Signal::SIGKILL).ok();
}

fn ended_once(cluster: &VirtualCluster, weather: &Weather) -> Result<()> {
    ensure!(weather.all_ended(), "{} of {JOBS} ended", weather.ends.lock().expect("no panic").len());
    cluster.luxi()?;
    look(weather)?;
    let changes = weather.changes.lock().expect("no panic");
    ensure!(changes.is_empty(), "final jobs changed: {changes:?}");
    Ok(())
}

/// Only a job that was killed itself, or that called a node, may have failed.
fn ended_well(cluster: &VirtualCluster, weather: &Weather) -> Result<()> {
    let (jobs, ends) = (weather.jobs.lock().expect("no panic"), weather.ends.lock().expect("no panic"));
    let killed = weather.killed.lock().expect("no panic");
    let mut good = 0;
    let mut wrong = Vec::new();
    for (id, kind) in jobs.iter() {
        let row = &ends[id];
        match row[1].as_str() {
            Some("success") => good += 1,
            Some("error") if killed.contains(id) || matches!(kind, Kind::Node) => {}
            _ => wrong.push(format!("{kind:?}: {row}")),
        }
    }
    eprintln!("    {good} of {} succeeded, {} job processes were killed", jobs.len(), killed.len());
    ensure!(
        wrong.is_empty(),
        "{} jobs failed without a reason of their own: {}",
        wrong.len(),
        wrong.join("\n")
    );
    ensure!(good >= JOBS / 2, "only {good} of {JOBS} succeeded");
    ensure!(cluster.master().pid("luxid").is_some(), "luxid lives");
    Ok(())
}

/// An outcome that luxid moved aside must be one that it had stored before: else it is lost, or its job ran twice.
fn aside_is_no_news(cluster: &VirtualCluster) -> Result<()> {
    let mut luxi = cluster.luxi()?;
    let aside = rest::aside(cluster)?;
    eprintln!("    {} outcomes were moved aside", aside.len());
    for report in aside {
        let job = &report["owner"]["job"];
        let stored = luxi.call("QueryJobs", json!([[job], ["opstatus"]]))?;
        let said: Vec<&Value> =
            report["ops"].as_array().into_iter().flatten().map(|op| &op["status"]).collect();
        ensure!(stored[0][0] == json!(said), "job {job}: {report} but stored is {stored}");
    }
    Ok(())
}

fn tags_are_there(cluster: &VirtualCluster, weather: &Weather) -> Result<()> {
    let mut luxi = cluster.luxi()?;
    let mut there = BTreeSet::new();
    let mut objects = vec![("cluster", ""), ("nodegroup", "default")];
    objects.extend(weather.nodes.iter().map(|node| ("node", node.as_str())));
    for (kind, name) in objects {
        let tags = luxi.call("QueryTags", json!([kind, name]))?;
        there.extend(tags.as_array().into_iter().flatten().filter_map(Value::as_str).map(str::to_owned));
    }
    let (jobs, ends) = (weather.jobs.lock().expect("no panic"), weather.ends.lock().expect("no panic"));
    let mut wanted = 0;
    for (id, kind) in jobs.iter() {
        if let (Kind::Tag(tag), Some("success")) = (kind, ends[id][1].as_str()) {
            ensure!(there.contains(tag), "job {id} succeeded, but its tag {tag} is not there");
            wanted += 1;
        }
    }
    ensure!(wanted > 10, "only {wanted} tags were set");
    Ok(())
}

const CHANGERS: usize = 50;
const CHANGES: usize = 20;

/// 50 jobs of 20 changes each: each change raises its object's serial by one, and none is lost.
#[test]
fn a_thousand_parallel_changes() {
    let cluster = cluster(2);
    step("as many jobs at once as there are", || set_running(&cluster, 50));
    step("a thousand changes", || thousand(&cluster));
    step("nothing is left", || rest::reached(&cluster, PATIENCE));
    step("the cluster is sound", || rest::verified(&cluster));
}

/// What changes: kind and name in the tag opcodes.
fn targets(cluster: &VirtualCluster) -> Vec<(&'static str, String)> {
    let nodes = cluster.nodes.iter().map(|node| ("node", node.name.clone()));
    [("cluster", String::new()), ("nodegroup", "default".to_owned())].into_iter().chain(nodes).collect()
}

/// The object's serial number: by LUXI where it has a field for it, else from the file that wconfd keeps.
fn serial(cluster: &VirtualCluster, luxi: &mut Luxi, target: &(&str, String)) -> Result<u64> {
    let kind = match target.0 {
        "node" => "node",
        "nodegroup" => "group",
        _ => return cluster_serials(cluster)?.last().copied().context("the cluster is in the log"),
    };
    let rows = luxi.query(kind, &["serial_no"], json!(["|", ["==", "name", target.1]]))?;
    rows[0][0].as_u64().context("a serial")
}

/// All serials that the cluster object ever had, in the order of wconfd's log.
fn cluster_serials(cluster: &VirtualCluster) -> Result<Vec<u64>> {
    let log = cluster.master().root.join("var/lib/gantry/wconf.log").display().to_string();
    let text = gantry_tests::foreign::python("serials.py", &[&log])?;
    text.split_whitespace().map(|word| Ok(word.parse()?)).collect()
}

fn thousand(cluster: &VirtualCluster) -> Result<()> {
    let targets = targets(cluster);
    let mut luxi = cluster.luxi()?;
    let before: Vec<u64> =
        targets.iter().map(|target| serial(cluster, &mut luxi, target)).collect::<Result<_>>()?;
    let mut changes = vec![0; targets.len()];
    let mut jobs = Vec::new();
    for changer in 0..CHANGERS {
        let ops: Vec<Value> = (0..CHANGES)
            .map(|number| {
                let at = (changer + number) % targets.len();
                changes[at] += 1;
                let (kind, name) = &targets[at];
                let tags = [format!("change:{changer}:{number}")];
                json!({"OP_ID": "OP_TAGS_SET", "kind": kind, "name": name, "tags": tags, "reason": []})
            })
            .collect();
        jobs.push(json!(ops));
    }
    let answer = luxi.call("SubmitManyJobs", json!([jobs]))?;
    for pair in answer.as_array().context("no list")? {
        let job = pair[1].as_u64().with_context(|| format!("{pair}"))?;
        if luxi.wait(job, PATIENCE)? != "success" {
            bail!("job {job}: {}", luxi.call("QueryJobs", json!([[job], ["opresult"]]))?);
        }
    }
    let of_nodes: u64 =
        targets.iter().zip(&changes).filter(|(target, _)| target.0 == "node").map(|(_, n)| n).sum();
    for ((target, before), changes) in targets.iter().zip(before).zip(changes) {
        // A change of a node counts for the cluster too (`spec/config.md` §5).
        let counted = if target.0 == "cluster" { changes + of_nodes } else { changes };
        let after = serial(cluster, &mut luxi, target)?;
        ensure!(after == before + counted, "{target:?}: {before} and {counted} changes are {after}");
        let tags = luxi.call("QueryTags", json!([target.0, target.1]))?;
        let count = tags.as_array().map_or(0, Vec::len);
        ensure!(u64::try_from(count)? == changes, "{target:?}: {count} tags of {changes}");
    }
    let serials = cluster_serials(cluster)?;
    ensure!(serials.windows(2).all(|two| two[1] == two[0] + 1), "serials with gaps: {serials:?}");
    Ok(())
}
