//! Everything dies, again and again, while tasks come in and people hold VMs: daemons, jobs, and the VMs themselves. Each
//! acknowledged task still has one result, of one attempt that had a VM to itself.

mod holder;
mod load;

use super::*;
use gantry_tests::{Random, process};
use load::Load;
use nix::sys::signal::Signal;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Instant;

/// How long it blows, seconds; a soak sets more.
const STORM_ENV: &str = "GANTRY_STORM_S";
const STORM_S: u64 = 25;
/// Between two deaths.
const PAUSE: Duration = Duration::from_secs(2);
/// Tasks under way at once.
const OPEN: usize = 12;
/// How often a task may be tried: a storm must not use them up.
const ATTEMPTS: u32 = 10;
/// After the storm.
const CALM: Duration = Duration::from_secs(180);

#[test]
fn the_storm_over_the_pool() {
    let bed = Bed::new();
    let records = storm(&bed, "the storm over the pool", &EVERYBODY);
    step("what ended stays as it was", || {
        bed.cluster.restart(0, "luxid")?;
        let ids: Vec<u64> = records.iter().map(Record::id).collect();
        ensure!(task::wait_all(&mut bed.luxi()?, &ids, CALM)? == records, "records changed after their end");
        Ok(())
    });
    bed.ends();
}

/// Daemons that run no VM may die as they like: no attempt fails for it, no lease breaks.
#[test]
fn a_storm_of_daemons_costs_no_attempt() {
    let bed = Bed::new();
    let records = storm(&bed, "the storm of daemons", &DAEMONS);
    step("in one attempt each", || {
        let again: Vec<String> = records
            .iter()
            .filter(|record| record.attempts().len() != 1)
            .map(|record| record.json()["attempts"].to_string())
            .collect();
        ensure!(again.is_empty(), "{} tasks were tried again:\n{}", again.len(), again.join("\n"));
        Ok(())
    });
    bed.ends();
}

/// Blows for its time; the tasks' records.
fn storm(bed: &Bed, name: &str, victims: &[Victim]) -> Vec<Record> {
    let random = Random::from_env(name);
    let seconds = std::env::var(STORM_ENV).ok().and_then(|text| text.parse().ok()).unwrap_or(STORM_S);
    let weather = Weather::default();
    step("tasks come in while everything dies", || {
        blow(bed, &weather, victims, random, Duration::from_secs(seconds))
    });
    let mut records = Vec::new();
    step("every task ended", || {
        records = ended(bed, &weather)?;
        Ok(())
    });
    step("once, and with its own result", || with_its_own_result(bed, &records, &weather));
    step("nobody had a VM that was used", || {
        let used: Vec<_> = records.iter().filter_map(|record| record.vms().pop()).collect();
        ensure!(used.iter().collect::<BTreeSet<_>>().len() == used.len(), "a VM was used twice: {used:?}");
        Ok(())
    });
    records
}

/// Who may die.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Victim {
    /// A daemon of the master.
    Master(&'static str),
    /// A daemon of any node.
    Any(&'static str),
    /// A boot, which is started again: nobody else would.
    Boot,
    Job,
    Nursery,
    /// PID 1 of a VM.
    Init,
}

/// Each as often as it is to die.
const EVERYBODY: [Victim; 17] = [
    Victim::Master("luxid"),
    Victim::Master("luxid"),
    Victim::Master("wconfd"),
    Victim::Master("wconfd"),
    Victim::Master("overseer"),
    Victim::Any("noded"),
    Victim::Any("noded"),
    Victim::Any("vmd"),
    Victim::Any("rconfd"),
    Victim::Any("mond"),
    Victim::Boot,
    Victim::Job,
    Victim::Job,
    Victim::Nursery,
    Victim::Init,
    Victim::Init,
    Victim::Init,
];

const DAEMONS: [Victim; 9] = [
    Victim::Master("luxid"),
    Victim::Master("wconfd"),
    Victim::Master("overseer"),
    Victim::Any("noded"),
    Victim::Any("noded"),
    Victim::Any("noded"),
    Victim::Any("rconfd"),
    Victim::Any("mond"),
    Victim::Boot,
];

#[derive(Default)]
struct Weather {
    /// Acknowledged tasks.
    tasks: Mutex<BTreeMap<u64, Load>>,
    over: AtomicBool,
}

fn blow(
    bed: &Bed,
    weather: &Weather,
    victims: &[Victim],
    mut random: Random,
    how_long: Duration,
) -> Result<()> {
    let (tasks, leases) = (Random::new(random.number()), Random::new(random.number()));
    thread::scope(|scope| {
        let submitter = scope.spawn(|| submit(bed, weather, tasks));
        let holder = scope.spawn(|| holder::hold(bed, weather, leases));
        let killed = kill(bed, victims, &mut random, how_long);
        weather.over.store(true, Ordering::Relaxed);
        submitter.join().expect("no panic")?;
        let held = holder.join().expect("no panic")?;
        let killed = killed?;
        eprintln!("    {} deaths: {killed:?}; {held}", killed.values().sum::<u32>());
        Ok(())
    })
}

/// Keeps [`OPEN`] tasks under way. A task whose answer was lost is submitted again under its key: it is the same one.
fn submit(bed: &Bed, weather: &Weather, mut random: Random) -> Result<()> {
    for number in 0.. {
        if weather.over.load(Ordering::Relaxed) {
            return Ok(());
        }
        let load = Load::draw(number, &mut random);
        let spec = load.spec(bed)?;
        let id = wait::until("an answer to SubmitTask", PATIENCE, || {
            task::submit(&mut connect(bed)?, &spec).ok()
        })?;
        let mut tasks = weather.tasks.lock().expect("no panic");
        ensure!(tasks.insert(id, load).is_none(), "id {id} was given twice");
        let newest: Vec<u64> = tasks.keys().rev().take(OPEN).copied().collect();
        drop(tasks);
        wait::until("room for another task", CALM, || {
            let mut luxi = connect(bed)?;
            let open = |id: &&u64| Record::of(&mut luxi, **id).map_or(true, |task| !task.is_final());
            let open = newest.iter().filter(open).count();
            (open < OPEN || weather.over.load(Ordering::Relaxed)).then_some(())
        })?;
    }
    Ok(())
}

fn connect(bed: &Bed) -> Option<Luxi> {
    Luxi::connect(&bed.cluster.master().socket("luxi.sock")).ok()
}

/// Calls until an answer comes; only for what may be asked twice.
fn asked(bed: &Bed, method: &str, args: &Value) -> Result<Value> {
    let mut last = String::new();
    wait::until(&format!("an answer to {method}"), PATIENCE, || {
        let answer = connect(bed)?.call(method, args.clone());
        answer.map_err(|why| last = format!("{why:#}")).ok()
    })
    .context(last)
}

/// Kills somebody every [`PAUSE`]; who it was, and how often.
fn kill(
    bed: &Bed,
    victims: &[Victim],
    random: &mut Random,
    how_long: Duration,
) -> Result<BTreeMap<&'static str, u32>> {
    let end = Instant::now() + how_long;
    let mut killed = BTreeMap::new();
    let mut next = Instant::now();
    while Instant::now() < end {
        next += PAUSE;
        wait::until("the next death", PAUSE * 2, || (Instant::now() >= next).then_some(()))?;
        *killed.entry(kill_one(bed, *random.of(victims), random)?).or_default() += 1;
    }
    Ok(killed)
}

fn kill_one(bed: &Bed, victim: Victim, random: &mut Random) -> Result<&'static str> {
    let node = random.below(bed.cluster.nodes.len());
    match victim {
        Victim::Master(daemon) => bed.cluster.kill(0, daemon).map(|_| daemon),
        Victim::Any(daemon) => bed.cluster.kill(node, daemon).map(|_| daemon),
        Victim::Boot => {
            bed.cluster.kill(node, "boot")?;
            bed.cluster.boot(node)?;
            Ok("boot")
        }
        Victim::Job => {
            let jobs: Vec<u32> =
                process::jobs(&bed.cluster.master().root).iter().map(|job| job.pid).collect();
            Ok(kill_some(&jobs, random, "job"))
        }
        Victim::Nursery => {
            let pids: Vec<u32> = process::nursery(&bed.cluster.master().root).into_iter().collect();
            Ok(kill_some(&pids, random, "the nursery of jobs"))
        }
        Victim::Init => {
            let inits: Vec<u32> = bed.site.inits().into_values().collect();
            Ok(kill_some(&inits, random, "PID 1 of a VM"))
        }
    }
}

fn kill_some(pids: &[u32], random: &mut Random, what: &'static str) -> &'static str {
    if pids.is_empty() {
        return "nobody";
    }
    // It may just have ended by itself.
    process::signal(*random.of(pids), Signal::SIGKILL).ok();
    what
}

fn ended(bed: &Bed, weather: &Weather) -> Result<Vec<Record>> {
    let ids: Vec<u64> = weather.tasks.lock().expect("no panic").keys().copied().collect();
    ensure!(!ids.is_empty(), "no task was acknowledged");
    task::wait_all(&mut bed.luxi()?, &ids, CALM)
}

/// Infrastructure failures were tried again and are not the user's.
fn with_its_own_result(bed: &Bed, records: &[Record], weather: &Weather) -> Result<()> {
    let tasks = weather.tasks.lock().expect("no panic");
    let mut wrong = Vec::new();
    let (mut kinds, mut failed): (BTreeMap<load::Kind, u32>, BTreeMap<&str, u32>) = Default::default();
    for record in records {
        let load = &tasks[&record.id()];
        *kinds.entry(load.kind).or_default() += 1;
        if let Err(why) = load.check(bed, record) {
            wrong.push(format!("{:?}: {why:#}: {}", load.kind, record.json()));
        }
        for attempt in record.attempts().iter().filter(|attempt| attempt["outcome"] == "infra-fail") {
            *failed.entry(attempt["why"].as_str().unwrap_or("no reason")).or_default() += 1;
        }
    }
    eprintln!("    {} tasks: {kinds:?}; attempts failed for the storm: {failed:#?}", records.len());
    ensure!(wrong.is_empty(), "{} tasks are wrong:\n{}", wrong.len(), wrong.join("\n"));
    Ok(())
}
