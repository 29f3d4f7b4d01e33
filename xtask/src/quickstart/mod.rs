//! The first run: a cluster of three nodes on this machine, a pool of real VMs, every example of `examples/` run on a VM of
//! its own, one table, and nothing left. Uses the command line as a person would; only what the table shows is read from
//! the records themselves.

mod screen;
mod table;

use crate::{build, foreign};
use anyhow::{Context, Result, bail, ensure};
use gantry_tests::examples::{self, Expected};
use gantry_tests::leak::Site;
use gantry_tests::pool;
use gantry_tests::task::{self, Record};
use gantry_tests::{Luxi, Options, VirtualCluster};
use screen::{Screen, Stop};
use std::collections::BTreeMap;
use std::net::{IpAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// Nodes of the cluster.
const NODES: u8 = 3;
/// VMs of the pool.
const SIZE: usize = 4;
/// Port of noded.
const NODED_PORT: u16 = 1811;
/// Loopback networks looked at.
const NETWORKS_MAX: u8 = 10;
/// Longest of the waits; the whole takes some 15 s.
const PATIENCE: Duration = Duration::from_secs(120);

/// The first loopback network whose node addresses nobody uses: a dev cluster may be up.
fn free_network() -> Result<[u8; 3]> {
    let free = |network: &[u8; 3]| {
        let [a, b, c] = *network;
        (1..=NODES).all(|node| TcpListener::bind((IpAddr::from([a, b, c, 10 + node]), NODED_PORT)).is_ok())
    };
    let all = (0..NETWORKS_MAX).map(|third| [127, 0, third]);
    all.into_iter().find(free).with_context(|| {
        format!("port {NODED_PORT} of all of 127.0.0.11 to 127.0.{NETWORKS_MAX}.11 is in use")
    })
}

/// Where its cluster lies.
fn place() -> PathBuf {
    build::target_dir().join("quickstart")
}

/// Tells a cluster that was kept from one whose run was killed.
fn kept() -> PathBuf {
    place().join("kept")
}

/// Runs it. With `keep` the cluster stays up.
///
/// # Errors
/// When something fails, was interrupted, or an outcome is not the expected one. Nothing is left then either.
pub fn run(keep: bool) -> Result<()> {
    foreign::for_vms()?;
    let programs = build::all(false)?;
    let begun = Instant::now();
    let stop = Stop::on_signals()?;
    let screen = Screen::new(stop);
    end_earlier(&screen, &programs)?;
    let work = Work::start(&screen, programs);
    let done = match work {
        Ok(work) => work.carry_through(keep),
        Err(why) => Err(why),
    };
    screen.clear();
    match done {
        Err(_) if screen.stop.asked_soon() => bail!("interrupted; nothing is left"),
        Err(why) => Err(why),
        Ok(()) => {
            println!("\nAll as expected, in {:.1} s.", begun.elapsed().as_secs_f64());
            Ok(())
        }
    }
}

/// Stops what an earlier run kept.
///
/// # Errors
/// When it does not end.
pub fn stop() -> Result<()> {
    let programs = build::target_dir().join("gantry/bin");
    let Some(mut cluster) = VirtualCluster::found(&place(), &programs)? else {
        println!("no quickstart cluster is there");
        return Ok(());
    };
    let site = Site::of(&cluster).ok();
    cluster.stop()?;
    if let Some(site) = site {
        site.gone(PATIENCE)?;
    }
    drop(cluster);
    println!("stopped; nothing is left");
    Ok(())
}

fn end_earlier(screen: &Screen, programs: &Path) -> Result<()> {
    if let Some(mut earlier) = VirtualCluster::found(&place(), programs)? {
        if kept().exists() {
            // Dropped, it would end.
            earlier.keep();
            bail!(
                "the cluster that an earlier run kept is up, with its tasks and results.\n\
                 \"cargo xtask quickstart --stop\" ends it and removes them; then run this again"
            );
        }
        screen.say("stopping the cluster of an earlier run");
        earlier.stop()?;
    }
    match std::fs::remove_dir_all(place()) {
        Err(why) if why.kind() != std::io::ErrorKind::NotFound => Err(why).context("target/quickstart"),
        _ => Ok(()),
    }
}

/// A cluster at work.
struct Work<'a> {
    screen: &'a Screen,
    cluster: VirtualCluster,
    site: Site,
    programs: PathBuf,
}

impl<'a> Work<'a> {
    fn start(screen: &'a Screen, programs: PathBuf) -> Result<Self> {
        screen.say(&format!("starting a cluster of {NODES} nodes on this machine"));
        let options = Options {
            network: free_network()?,
            programs: programs.clone(),
            dir: Some(place()),
            ..Options::oci(NODES)
        };
        let cluster = VirtualCluster::start(&options)?;
        screen.stop.check()?;
        let site = Site::of(&cluster)?;
        Ok(Self { screen, cluster, site, programs })
    }

    /// All that follows; stops the cluster unless it is to be kept and all went well.
    fn carry_through(self, keep: bool) -> Result<()> {
        let judged = self.examples();
        if keep && (judged.is_ok() || !self.screen.stop.asked_soon()) {
            println!("{}", next_steps(&self.cluster, &self.programs));
            std::fs::write(kept(), "").context("target/quickstart")?;
            self.cluster.keep();
            return judged;
        }
        self.screen.say("stopping everything");
        // After a failure or an interruption it just ends, VMs included.
        let emptied = if judged.is_ok() { self.empty() } else { Ok(()) };
        let (mut cluster, site) = (self.cluster, self.site);
        cluster.stop()?;
        site.gone(PATIENCE)?;
        drop(cluster);
        judged.and(emptied)
    }

    /// Pool, examples, table, verdict.
    fn examples(&self) -> Result<()> {
        let mut luxi = self.cluster.luxi()?;
        self.pool(&mut luxi)?;
        let tasks = self.submit()?;
        let records = self.wait(&mut luxi, &tasks)?;
        self.replaced(&mut luxi, &records)?;
        let expected = examples::all()?;
        self.screen.clear();
        println!("{}", table::of(&records));
        judge(&records, &expected)
    }

    fn pool(&self, luxi: &mut Luxi) -> Result<()> {
        self.screen.say(&format!("making a pool of {SIZE} VMs of this machine's own /usr"));
        pool::add(&self.cluster, "oci", SIZE)?;
        self.screen.until("VMs are clean", PATIENCE, || {
            let slots = pool::slots(luxi)?;
            let clean = slots.iter().filter(|slot| slot.state == "CLEAN").count();
            Ok((format!("{clean} of {SIZE} VMs are clean"), (clean == SIZE).then_some(())))
        })
    }

    fn submit(&self) -> Result<Vec<u64>> {
        let expected = examples::all()?;
        let mut tasks = Vec::new();
        for name in expected.keys() {
            self.screen.stop.check()?;
            let dir = examples::dir().join(name).display().to_string();
            let said = self.cluster.run(&["task", "submit", &dir, "--json"])?;
            tasks.push(task_id(&said).with_context(|| format!("gantry task submit said {said:?}"))?);
        }
        self.screen.say(&format!("submitted {} tasks from examples/", tasks.len()));
        Ok(tasks)
    }

    fn wait(&self, luxi: &mut Luxi, tasks: &[u64]) -> Result<Vec<Record>> {
        self.screen.until("tasks have ended", PATIENCE, || {
            let records: Vec<Record> = tasks.iter().map(|id| Record::of(luxi, *id)).collect::<Result<_>>()?;
            let open: Vec<&Record> = records.iter().filter(|record| !record.is_final()).collect();
            let now: Vec<String> =
                open.iter().filter(|one| one.state() != "pending").map(|one| one.name().to_owned()).collect();
            let mut said = format!("{} of {} tasks have ended", tasks.len() - open.len(), tasks.len());
            if !now.is_empty() {
                said.push_str(&format!("; now: {}", now.join(", ")));
            }
            let done = open.is_empty();
            Ok((said, done.then_some(records)))
        })
    }

    /// Every VM was used once, is gone, and its slot has a newer, clean one.
    fn replaced(&self, luxi: &mut Luxi, records: &[Record]) -> Result<()> {
        let used = task::no_vm_twice(records)?;
        self.screen.until("used VMs are replaced", PATIENCE, || {
            let slots = pool::slots(luxi)?;
            let newest: BTreeMap<&str, u64> = slots
                .iter()
                .filter(|slot| slot.state == "CLEAN")
                .map(|slot| (slot.uuid.as_str(), slot.generation))
                .collect();
            let vms: Vec<(String, u64)> = records.iter().flat_map(Record::vms).collect();
            let fresh = vms
                .iter()
                .filter(|(slot, used)| newest.get(slot.as_str()).is_some_and(|now| now > used))
                .count();
            Ok((format!("{fresh} of {used} used VMs are replaced"), (fresh == used).then_some(())))
        })?;
        self.site.rests(&self.cluster, SIZE, PATIENCE)
    }

    /// Takes the pool away, in order, and looks for what its VMs left.
    fn empty(&self) -> Result<()> {
        pool::remove(&self.cluster)?;
        self.site.rests(&self.cluster, 0, PATIENCE)
    }
}

/// The id in what `gantry task submit --json` printed.
fn task_id(said: &str) -> Option<u64> {
    let value: serde_json::Value = serde_json::from_str(said.trim()).ok()?;
    let one = value.get("id").or_else(|| value.get(0)).unwrap_or(&value);
    one.as_u64().or_else(|| one.get("id")?.as_u64())
}

fn judge(records: &[Record], expected: &BTreeMap<String, Expected>) -> Result<()> {
    let mut wrong = Vec::new();
    for record in records {
        let shall =
            expected.get(record.name()).with_context(|| format!("'{}' is no example", record.name()))?;
        wrong.extend(shall.differs(record).into_iter().map(|what| format!("{}: {what}", record.name())));
    }
    ensure!(records.len() == expected.len(), "{} of {} examples ran", records.len(), expected.len());
    ensure!(wrong.is_empty(), "not as expected:\n  {}", wrong.join("\n  "));
    Ok(())
}

fn next_steps(cluster: &VirtualCluster, programs: &Path) -> String {
    let root = cluster.master().root.display();
    let (programs, examples) = (programs.display(), examples::dir());
    let examples = examples.canonicalize().unwrap_or(examples);
    let (examples, pool) = (examples.display(), pool::NAME);
    format!(
        "\nThe cluster stays up. Try:\n\n  \
         export GANTRY_ROOT={root} PATH={programs}:$PATH\n  \
         gnt-task list\n  \
         gnt-task info 1\n  \
         gnt-task log 1\n  \
         gnt-pool list\n  \
         gnt-slot list\n  \
         gnt-task submit {examples}/hello-python\n  \
         gnt-lease acquire {pool} -- sh -c 'gnt-lease list'\n\n\
         Stop it with `cargo xtask quickstart --stop`."
    )
}
