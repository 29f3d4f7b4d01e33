//! What a run costs: processor time by program, from the kernel's own counters. Unlike a rate it hardly moves with what
//! others do on the machine meanwhile. Programs that end are counted once their parent has taken their end: jobs with
//! the nursery in which they are born, the runtime with PID 1 and the commands of its VM with vmd.

use anyhow::{Context, Result};
use gantry_tests::{Node, process};
use std::fs;
use std::time::Duration;

/// The daemons of a master that runs VMs.
const DAEMONS: [&str; 5] = ["luxid", "wconfd", "noded", "vmd", "overseer"];
/// Ends a name's process time and its children's.
type Spent = (Duration, Duration);

/// Counters at one moment.
#[derive(Debug)]
pub struct Meter {
    /// By [`DAEMONS`].
    daemons: Vec<Spent>,
    /// Of the process in which jobs are born, and of those that ended.
    jobs: Duration,
    client: Duration,
    machine: Duration,
}

impl Meter {
    /// Reads the counters of a node, of this process, and of the whole machine.
    pub fn read(node: &Node) -> Result<Self> {
        let spent = |name: &&str| spent(node.pid(name).with_context(|| format!("{name} does not run"))?);
        Ok(Self {
            daemons: DAEMONS.iter().map(spent).collect::<Result<_>>()?,
            jobs: jobs(node)?,
            client: spent_here()?,
            machine: machine()?,
        })
    }

    /// What was spent since, per run, as one text; and the sum of what is ours.
    pub fn since(&self, before: &Self, runs: u32) -> (String, f64) {
        let ms =
            |now: Duration, then: Duration| now.saturating_sub(then).as_secs_f64() * 1000.0 / f64::from(runs);
        let mut parts = Vec::new();
        for (name, (now, then)) in DAEMONS.iter().zip(self.daemons.iter().zip(&before.daemons)) {
            parts.push((*name, ms(now.0, then.0)));
            match *name {
                "luxid" => parts.push(("jobs", ms(self.jobs, before.jobs))),
                "vmd" => parts.push(("runtime and VM", ms(now.1, then.1))),
                _ => {}
            }
        }
        parts.push(("client", ms(self.client, before.client)));
        let sum = parts.iter().map(|(_, ms)| ms).sum();
        parts.push(("all", sum));
        parts.push(("machine", ms(self.machine, before.machine)));
        let words: Vec<String> = parts.iter().map(|(name, ms)| format!("{name} {ms:.1}")).collect();
        (words.join(", "), sum)
    }
}

/// What jobs cost so far: nothing while none was born.
fn jobs(node: &Node) -> Result<Duration> {
    let Some(pid) = process::nursery(&node.root) else { return Ok(Duration::ZERO) };
    let (own, children) = spent(pid)?;
    Ok(own + children)
}

/// Processor time of a process, and of its children that have ended.
fn spent(pid: u32) -> Result<Spent> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat"))?;
    let (_, after) = stat.rsplit_once(") ").context("a stat line")?;
    // The state, which is the first here, is field 3 of proc(5); utime is 14.
    let ticks: Vec<u64> = after.split(' ').skip(11).take(4).filter_map(|field| field.parse().ok()).collect();
    let [user, system, child_user, child_system] = ticks[..] else { anyhow::bail!("a short stat line") };
    Ok((time(user + system)?, time(child_user + child_system)?))
}

fn spent_here() -> Result<Duration> {
    Ok(spent(std::process::id())?.0)
}

/// All time in which some processor of the machine was not idle.
fn machine() -> Result<Duration> {
    let stat = fs::read_to_string("/proc/stat")?;
    let line = stat.lines().next().context("a line")?;
    let ticks: Vec<u64> = line.split_whitespace().skip(1).filter_map(|field| field.parse().ok()).collect();
    // user nice system idle iowait irq softirq steal
    let busy = ticks.iter().take(8).enumerate().filter(|(at, _)| !matches!(at, 3 | 4 | 7));
    time(busy.map(|(_, ticks)| ticks).sum())
}

fn time(ticks: u64) -> Result<Duration> {
    let per_second = nix::unistd::sysconf(nix::unistd::SysconfVar::CLK_TCK)?.context("clock ticks")?;
    Ok(Duration::from_millis(ticks * 1000 / u64::try_from(per_second)?))
}
