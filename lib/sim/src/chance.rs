//! Chance: which event happens next. A seed gives the same history again.

use crate::watch::Broken;
use crate::world::{Body, Config, Proc, Q, W, World};
use gantry_store::core::row::Index;
use gantry_store::core::rules::Rules;

/// Messages on their way at most; older ones are lost.
const NET_MAX: usize = 40;

/// What chance chooses among, in the order of its weights.
const EVENTS: [&str; 18] = [
    "deliver", "work", "send", "write", "begin", "restart", "crash", "power", "change", "compact", "part",
    "lose", "alone", "settle", "decide", "stop", "flush", "make",
];

/// How likely what is, as weights against 100 for the arrival of a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Profile {
    /// What kind of world.
    pub config: Config,
    /// Events in a history.
    pub steps: usize,
    /// It begins with a master whom all have heard.
    pub settled: bool,
    /// A writer sends.
    pub send: u64,
    /// A client writes.
    pub write: u64,
    /// The failover command begins, or a writer draws an epoch.
    pub failover: u64,
    /// A writer starts again.
    pub restart: u64,
    /// A node's daemons are killed.
    pub crash: u64,
    /// A machine loses its power.
    pub power: u64,
    /// The list is to change.
    pub change: u64,
    /// Of ten changes so many try two members at once.
    pub two: u64,
    /// Rows are forgotten.
    pub compact: u64,
    /// The network falls apart, or heals.
    pub part: u64,
    /// An image of a disk is put back, or (without tokens) a disk is emptied.
    pub lose: u64,
    /// A node goes on alone.
    pub alone: u64,
    /// Values written at most.
    pub writes_max: u64,
    /// Disks lost at most.
    pub losses_max: u64,
}

impl Profile {
    /// Both logs, all faults, `nodes` nodes of which `members` count at first.
    pub const fn whole(nodes: usize, members: usize) -> Profile {
        let config =
            Config { nodes, members, logs: 2, coarse: false, elect: true, tokens: true, stale: false };
        Profile {
            config,
            steps: 3_500,
            settled: true,
            send: 90,
            write: 16,
            failover: 1,
            restart: 12,
            crash: 1,
            power: 1,
            change: 4,
            two: 0,
            compact: 6,
            part: 1,
            lose: 8,
            alone: 0,
            writes_max: 60,
            losses_max: 1,
        }
    }

    /// One log, and writers that draw their epochs themselves.
    pub const fn single(nodes: usize, members: usize, steps: usize) -> Profile {
        let config =
            Config { nodes, members, logs: 1, coarse: false, elect: false, tokens: false, stale: false };
        Profile {
            config,
            steps,
            settled: true,
            send: 60,
            write: 12,
            failover: 5,
            restart: 3,
            crash: 3,
            power: 0,
            change: 0,
            two: 0,
            compact: 0,
            part: 0,
            lose: 0,
            alone: 0,
            writes_max: 12,
            losses_max: 1,
        }
    }
}

/// What came of a history.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Outcome {
    /// Rows committed in both logs.
    pub committed: u64,
    /// Writers that came to serve.
    pub served: u64,
    /// Changes of the list begun.
    pub changes: u64,
    /// Snapshots sent.
    pub snapshots: u64,
    /// Disks lost.
    pub losses: u64,
    /// Nodes that went on alone.
    pub alone: u64,
    /// Events.
    pub steps: u64,
}

/// A history that happens.
pub struct History {
    /// Its world.
    pub world: World,
    profile: Profile,
    chance: u64,
    steps: u64,
    /// Prints each event, for whoever looks at one seed.
    pub trace: bool,
}

impl History {
    /// The history of a seed.
    pub fn new(seed: u64, rules: Rules, profile: Profile) -> History {
        let chance = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) ^ 0x5851_F42D_4C95_7F2D;
        History { world: World::new(profile.config, rules), profile, chance, steps: 0, trace: false }
    }

    /// Lets it happen.
    ///
    /// # Errors
    /// Which promise was broken, and after how many events.
    pub fn run(&mut self) -> Result<Outcome, Broken> {
        let done = self.all();
        done.map_err(|what| format!("after {} events: {what}", self.steps))?;
        let done = self.world.done;
        let lines = self.world.watch.lines();
        Ok(Outcome {
            committed: lines.map(|(_, count)| count).sum(),
            served: self.world.watch.writers(),
            changes: done.changes,
            snapshots: done.snapshots,
            losses: done.losses,
            alone: done.alone,
            steps: self.steps,
        })
    }

    fn all(&mut self) -> Result<(), Broken> {
        self.begin(0)?;
        if self.profile.settled {
            self.settle()?;
        }
        for _ in 0..self.profile.steps {
            self.steps += 1;
            self.step()?;
        }
        Ok(())
    }

    fn begin(&mut self, n: usize) -> Result<(), Broken> {
        if self.profile.config.elect {
            self.world.command(n);
            return Ok(());
        }
        let heard: Vec<usize> =
            (0..self.world.nodes.len()).filter(|&o| o == n || self.draw(2) == 0).collect();
        self.world.campaign(n, &heard)
    }

    /// Node 0 leads, and all have its first rows, before chance begins.
    fn settle(&mut self) -> Result<(), Broken> {
        for _ in 0..8 {
            while !self.world.net.is_empty() {
                let msg = self.world.net.remove(0).msg();
                self.world.handle(msg)?;
                self.work_all()?;
            }
            if self.profile.config.elect {
                self.world.decide(0);
            }
            for log in 0..self.profile.config.logs {
                (0..self.world.nodes.len()).for_each(|to| self.world.send(0, log, to, usize::MAX));
            }
        }
        Ok(())
    }

    fn work_all(&mut self) -> Result<(), Broken> {
        for n in 0..self.world.nodes.len() {
            for log in 0..self.profile.config.logs {
                while !self.world.nodes[n].pending[log].is_empty() {
                    self.world.work(n, log)?;
                }
            }
        }
        Ok(())
    }

    /// splitmix64.
    fn draw(&mut self, n: u64) -> u64 {
        self.chance = self.chance.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.chance;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        (z ^ (z >> 31)) % n
    }

    fn pick(&mut self, n: usize) -> usize {
        usize::try_from(self.draw(n as u64)).expect("below n")
    }

    fn step(&mut self) -> Result<(), Broken> {
        let p = self.profile;
        let two = p.config.logs == 2;
        let log = self.pick(p.config.logs);
        let n = self.pick(p.config.nodes);
        let busy = self.world.nodes.iter().any(|n| n.pending.iter().any(|q| !q.is_empty()));
        let master = self.world.nodes.iter().any(|n| n.role.is_some());
        let on = |yes: bool, weight: u64| if yes { weight } else { 0 };
        let weights = [
            200,
            on(busy, 250),
            p.send,
            p.write,
            // A cluster without a master is not left so for long.
            if two && !master { p.failover * 3 } else { p.failover },
            p.restart,
            p.crash,
            p.power,
            p.change,
            p.compact,
            p.part,
            on(p.losses_max > self.world.done.losses, p.lose),
            on(self.world.done.alone == 0, p.alone),
            on(two, 30),
            on(two, 20),
            on(two, 4),
            on(p.compact > 0, 4),
            on(p.config.elect, p.change),
        ];
        let mut at = self.draw(weights.iter().sum());
        let which = weights.iter().position(|w| {
            let hit = at < *w;
            at = at.saturating_sub(*w);
            hit
        });
        let which = which.expect("the weights add up");
        if self.trace && which > 2 {
            println!("{:5} {} {n} log {log}", self.steps, EVENTS[which]);
        }
        match which {
            0 => return self.deliver(),
            1 => return self.work(),
            2 => self.send(log),
            3 => {
                if self.world.done.writes < p.writes_max {
                    let (n, rests) = (self.leader(log, n), self.draw(2) == 0);
                    self.world.write(n, log, rests);
                }
            }
            4 => return self.begin(n),
            5 => return self.restart(n, log),
            6 => return self.world.crash(n, false, |_| true),
            7 => {
                let luck = self.draw(1 << 16);
                return self.world.crash(n, true, |k| (luck >> k) & 1 == 1);
            }
            8 => self.change(n),
            9 => return self.compact(n, log),
            10 => {
                let side = self.draw(1 << p.config.nodes);
                self.world.apart =
                    if self.draw(2) == 0 { 0 } else { u32::try_from(side).expect("few nodes") };
            }
            11 => return self.lose(n),
            12 => return self.world.go_alone(n),
            13 => {
                let n = self.leader(log, n);
                self.world.mirror(n);
                return self.world.settle(n, log);
            }
            14 => {
                if let Some(n) = (0..p.config.nodes).find(|o| self.world.nodes[*o].elect.is_some()) {
                    self.world.decide(n);
                }
            }
            15 => self.world.stop_daemons(n),
            16 => {
                self.world.nodes[n].copies[log].objects.iter_mut().for_each(|f| f.flush());
            }
            _ => {
                let master = self.leader(W, n);
                self.world.ask_make(master, n);
            }
        }
        Ok(())
    }

    /// Some node that leads the log, or `n`.
    fn leader(&mut self, log: usize, n: usize) -> usize {
        let leads = |o: &usize| matches!(self.world.nodes[*o].procs[log], Proc::Leading(_));
        let all: Vec<usize> = (0..self.world.nodes.len()).filter(leads).collect();
        if all.is_empty() { n } else { all[self.pick(all.len())] }
    }

    fn deliver(&mut self) -> Result<(), Broken> {
        while self.world.net.len() > NET_MAX {
            let lost = self.pick(NET_MAX);
            self.world.net.swap_remove(lost);
        }
        if self.world.net.is_empty() {
            return Ok(());
        }
        // Half of the time a recent one: a network mostly keeps the order.
        let recent = if self.draw(2) == 0 { self.world.net.len().min(6) } else { self.world.net.len() };
        let k = self.world.net.len() - 1 - self.pick(recent);
        let (fate, msg) = (self.draw(8), self.world.net[k].msg());
        let within = msg.from == msg.to;
        if fate < 6 || within {
            // Not kept: it arrives once, or (1 in 8) never. Within a node nothing is lost or doubled.
            self.world.net.remove(k);
        }
        let lost = (fate == 0 && !within) || !self.world.connected(msg.from, msg.to);
        // That a writer is refused it may hear late, or never.
        let deaf = matches!(msg.body, Body::Refused(..)) && self.draw(4) != 0;
        if self.trace {
            println!("{:5} {} {msg}", self.steps, if lost || deaf { "lost" } else { "arrives" });
        }
        if lost || deaf { Ok(()) } else { self.world.handle(msg) }
    }

    fn work(&mut self) -> Result<(), Broken> {
        let logs = self.profile.config.logs;
        let mut all = Vec::new();
        for n in 0..self.world.nodes.len() {
            all.extend(
                (0..logs).filter(|log| !self.world.nodes[n].pending[*log].is_empty()).map(|log| (n, log)),
            );
        }
        let (n, log) = all[self.pick(all.len())];
        self.world.work(n, log)
    }

    fn send(&mut self, log: usize) {
        let any = self.pick(self.world.nodes.len());
        let n = self.leader(log, any);
        let (to, most) = (self.pick(self.world.nodes.len()), 1 + self.pick(6));
        // Mostly one call under way for each copy.
        let under_way = |m: &crate::world::Sent| {
            let about = matches!(&m.body, Body::Append(at, ..) | Body::Snapshot(at, ..) | Body::Connect(at, ..) if *at == log);
            about && (m.from, m.to) == (n, to)
        };
        if !self.world.net.iter().any(under_way) || self.draw(8) == 0 {
            self.world.send(n, log, to, most);
        }
    }

    fn restart(&mut self, n: usize, log: usize) -> Result<(), Broken> {
        // Mostly one that is down: a writer that runs is killed now and then.
        let down = matches!(self.world.nodes[n].procs[log], Proc::None);
        if down || self.draw(20) == 0 { self.world.start(n, log) } else { Ok(()) }
    }

    fn change(&mut self, n: usize) {
        let (a, b) = (self.pick(self.world.nodes.len()), self.pick(self.world.nodes.len()));
        let two = self.draw(10) < self.profile.two;
        let n = self.leader(W, n);
        self.world.change(n, a, two.then_some(b));
    }

    fn compact(&mut self, n: usize, log: usize) -> Result<(), Broken> {
        let copy = &self.world.nodes[n].copies[log];
        let (base, most) = (copy.log.get().base.at.idx, copy.objects_flushed());
        if most > base && self.world.nodes[n].pending[log].is_empty() {
            let to = Index(base.0 + 1 + self.draw(most.0 - base.0));
            self.world.done.compactions += 1;
            return self.world.submit(n, log, crate::world::Op::Compact(to));
        }
        Ok(())
    }

    fn lose(&mut self, n: usize) -> Result<(), Broken> {
        if !self.profile.config.tokens {
            return self.world.wipe(n);
        }
        if self.world.nodes[n].image.is_none() || self.draw(8) == 0 {
            self.world.take_image(n);
            return Ok(());
        }
        self.world.restore(n)
    }
}

/// The logs there are, for those who only have a profile.
pub const LOGS: [usize; 2] = [W, Q];
