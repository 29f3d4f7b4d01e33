//! Everything dies, again and again, while tasks come in: daemons, jobs, and the VMs themselves. Each acknowledged task
//! still has one result, of one attempt that had a VM to itself.

use super::*;
use gantry_tests::{Random, process};
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
    let random = Random::from_env("the storm over the pool");
    let seconds = std::env::var(STORM_ENV).ok().and_then(|text| text.parse().ok()).unwrap_or(STORM_S);
    let weather = Weather::default();
    step("tasks come in while everything dies", || {
        blow(&bed, &weather, random, Duration::from_secs(seconds))
    });
    let mut records = Vec::new();
    step("every task ended", || {
        records = ended(&bed, &weather)?;
        Ok(())
    });
    step("once, and with its own result", || with_its_own_result(&records, &weather));
    step("nobody had a VM that was used", || {
        let used: Vec<_> = records.iter().filter_map(|record| record.vms().pop()).collect();
        ensure!(used.iter().collect::<BTreeSet<_>>().len() == used.len(), "a VM was used twice: {used:?}");
        Ok(())
    });
    step("what ended stays as it was", || {
        bed.cluster.restart(0, "luxid")?;
        ensure!(ended(&bed, &weather)? == records, "records changed after their end");
        Ok(())
    });
    bed.ends();
}

#[derive(Default)]
struct Weather {
    /// Acknowledged tasks with the word that each says.
    tasks: Mutex<BTreeMap<u64, String>>,
    over: AtomicBool,
}

fn blow(bed: &Bed, weather: &Weather, mut random: Random, how_long: Duration) -> Result<()> {
    let seed = random.number();
    thread::scope(|scope| {
        let submitter = scope.spawn(|| submit(bed, weather, Random::new(seed)));
        let killed = kill(bed, &mut random, how_long);
        weather.over.store(true, Ordering::Relaxed);
        submitter.join().expect("no panic")?;
        let killed = killed?;
        eprintln!("    killed: {killed:?}");
        Ok(())
    })
}

/// Keeps [`OPEN`] tasks under way. A task whose answer was lost is submitted again under its key: it is the same one.
fn submit(bed: &Bed, weather: &Weather, mut random: Random) -> Result<()> {
    for number in 0.. {
        if weather.over.load(Ordering::Relaxed) {
            return Ok(());
        }
        let word = format!("word{number}");
        let command = format!(
            "test ! -e /tmp/used && test ! -e used && touch /tmp/used used && sleep 0.{} && echo {word}",
            random.below(9)
        );
        let mut spec = one(&command);
        spec["key"] = json!(format!("storm-{number}"));
        spec["max_attempts"] = json!(ATTEMPTS);
        let id = wait::until("an answer to SubmitTask", PATIENCE, || {
            task::submit(&mut connect(bed)?, &spec).ok()
        })?;
        let mut tasks = weather.tasks.lock().expect("no panic");
        ensure!(tasks.insert(id, word).is_none(), "id {id} was given twice");
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

/// Kills somebody every [`PAUSE`]; who it was, and how often.
fn kill(bed: &Bed, random: &mut Random, how_long: Duration) -> Result<BTreeMap<&'static str, u32>> {
    let end = Instant::now() + how_long;
    let mut killed = BTreeMap::new();
    let mut next = Instant::now();
    while Instant::now() < end {
        next += PAUSE;
        wait::until("the next death", PAUSE * 2, || (Instant::now() >= next).then_some(()))?;
        *killed.entry(kill_one(bed, random)?).or_default() += 1;
    }
    Ok(killed)
}

fn kill_one(bed: &Bed, random: &mut Random) -> Result<&'static str> {
    let node = random.below(bed.cluster.nodes.len());
    let choice = random.below(14);
    let daemon = match choice {
        0 | 1 => "luxid",
        2 | 3 => "wconfd",
        4 => "overseer",
        5 | 6 => "noded",
        7 => "vmd",
        8 => {
            bed.cluster.kill(node, "boot")?;
            bed.cluster.boot(node)?;
            return Ok("boot");
        }
        9 | 10 => {
            let jobs: Vec<u32> =
                process::jobs(&bed.cluster.master().root).iter().map(|job| job.pid).collect();
            return Ok(kill_some(&jobs, random, "job"));
        }
        _ => {
            let inits: Vec<u32> = bed.site.inits().into_values().collect();
            return Ok(kill_some(&inits, random, "PID 1 of a VM"));
        }
    };
    let node = if matches!(daemon, "noded" | "vmd") { node } else { 0 };
    bed.cluster.kill(node, daemon)?;
    Ok(daemon)
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
fn with_its_own_result(records: &[Record], weather: &Weather) -> Result<()> {
    let tasks = weather.tasks.lock().expect("no panic");
    let mut wrong = Vec::new();
    let mut retried = 0;
    for record in records {
        let outcomes = record.outcomes();
        let (last, before) = outcomes.split_last().context("an attempt")?;
        let word = format!("{}\n", tasks[&record.id()]);
        let good = record.state() == "success" && *last == "user-ok" && record.out(0) == word;
        if !good || before.iter().any(|outcome| *outcome != "infra-fail") {
            wrong.push(record.json().to_string());
        }
        retried += before.len();
    }
    eprintln!("    {} tasks, {retried} attempts failed for the storm", records.len());
    ensure!(wrong.is_empty(), "{} tasks are wrong:\n{}", wrong.len(), wrong.join("\n"));
    Ok(())
}
