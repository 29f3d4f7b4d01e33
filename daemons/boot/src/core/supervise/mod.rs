//! The table of daemons and its one transition: (now, event) to actions. Owns the order of starting and
//! stopping and the restart rule; knows neither processes nor sockets, `shell` does what it says.
//!
//! ```text
//!            Spawn            health             death
//!   Down ───────────▶ Starting ─────▶ Ready ───────────────▶ Waiting ──due──▶ (Spawn)
//!    ▲                    │             │      wanted, free     │
//!    └──────── gone ── Stopping ◀───────┴──── stop, not wanted ─┘ (straight to Down)
//! ```
//!
//! Order: a daemon starts for the first time when all wanted ones before it are ready, or, if others can do without
//! one of these, when that has failed; once it has begun, it is restarted whatever the others do. Stopping goes backwards: each waits until those after it are gone.

#[cfg(test)]
mod tests;

use std::collections::BTreeSet;

/// Milliseconds of the shell's monotonic clock.
pub type Millis = u64;

/// How long a daemon may take to end after SIGTERM before SIGKILL follows.
pub const STOP_MS: Millis = 10_000;
/// First pause between a restart and the next (the first restart has none).
pub const PAUSE_MS_MIN: Millis = 100;
/// Longest pause: a broken daemon costs one start in this time.
pub const PAUSE_MS_MAX: Millis = 5_000;
/// A daemon ready for so long starts again without a pause when it dies.
pub const HEALTHY_MS: Millis = 10_000;

/// A place in the table.
pub type Index = usize;

/// What happened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// The role wants exactly these.
    Wanted(BTreeSet<Index>),
    /// [`Action::Spawn`] was done.
    Spawned(Index, u32),
    /// [`Action::Spawn`] was not needed: this process, which an earlier boot did not live to note, serves already.
    Found(Index, u32),
    /// [`Action::Spawn`] failed: why.
    SpawnFailed(Index, String),
    /// The process says whether it serves, and what it waits for.
    Health {
        /// Which.
        daemon: Index,
        /// The process that said it.
        pid: u32,
        /// Whether it serves.
        ready: bool,
        /// What it waits for, or why it was not heard.
        why: String,
    },
    /// The process is gone: how it ended.
    Died(Index, u32, String),
    /// Command: run these (again).
    Start(Vec<Index>),
    /// Command: stop these and keep them so.
    Stop(Vec<Index>),
    /// Command: leave these as they are, restart nothing.
    Hold(Vec<Index>),
    /// Command or signal: stop all, for good.
    Shutdown,
    /// Time went on.
    Tick,
}

/// What the shell must do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Action {
    /// Start a process; answer with `Spawned`, `Found` or `SpawnFailed`.
    Spawn(Index),
    /// SIGTERM to this process.
    Terminate(Index, u32),
    /// SIGKILL to this process.
    Kill(Index, u32),
    /// Everything is stopped: boot may end. Said once.
    Exit,
}

/// Where a daemon's process stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum State {
    /// No process, none planned.
    Down,
    /// The shell was told to spawn it.
    Spawning,
    /// No process; the next start is due then.
    Waiting {
        /// When.
        until: Millis,
    },
    /// A process that has not said it is ready.
    Starting {
        /// The process.
        pid: u32,
    },
    /// A process that serves.
    Ready {
        /// The process.
        pid: u32,
        /// Since when without a break.
        since: Millis,
    },
    /// A process that was told to end.
    Stopping {
        /// The process.
        pid: u32,
        /// When SIGKILL follows; none once it was sent.
        kill_at: Option<Millis>,
    },
}

impl State {
    /// The process, if there is one.
    #[must_use]
    pub fn pid(self) -> Option<u32> {
        match self {
            Self::Starting { pid } | Self::Ready { pid, .. } | Self::Stopping { pid, .. } => Some(pid),
            Self::Down | Self::Spawning | Self::Waiting { .. } => None,
        }
    }

    /// Whether a process exists or is being made.
    fn is_up(self) -> bool {
        self.pid().is_some() || self == Self::Spawning
    }
}

/// One daemon of the table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Daemon {
    /// Its name, such as `luxid`.
    pub name: &'static str,
    /// Where it stands.
    pub state: State,
    /// Whether the role wants it.
    pub wanted: bool,
    /// Whether it was stopped by command.
    pub stopped: bool,
    /// Whether restarts are suspended by command.
    pub held: bool,
    /// Starts by this boot; adopting counts none.
    pub starts: u64,
    /// Why it is not ready, for people.
    pub why: String,
    /// Whether those after it can do without it: they wait for its first try only.
    spared: bool,
    /// Begun since it was last wanted: restarts no longer wait for those before it.
    begun: bool,
    /// Deaths in a row without [`HEALTHY_MS`] of health between.
    deaths: u32,
}

impl Daemon {
    fn new(name: &'static str) -> Self {
        Self {
            name,
            state: State::Down,
            wanted: false,
            stopped: false,
            held: false,
            starts: 0,
            why: String::new(),
            spared: false,
            begun: false,
            deaths: 0,
        }
    }

    /// Whether those after it must wait.
    fn holds_up(&self) -> bool {
        !self.is_ready() && !(self.spared && (self.deaths > 0 || self.held))
    }

    /// Whether it is ready.
    #[must_use]
    pub fn is_ready(&self) -> bool {
        matches!(self.state, State::Ready { .. })
    }
}

/// All daemons of a node, in the order in which they start.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Table {
    daemons: Vec<Daemon>,
    shutdown: bool,
    exited: bool,
}

impl Table {
    /// Nothing runs, nothing is wanted.
    #[must_use]
    pub fn new(names: &[&'static str]) -> Self {
        Self { daemons: names.iter().map(|n| Daemon::new(n)).collect(), shutdown: false, exited: false }
    }

    /// The same, but those after `daemon` can do without it.
    #[must_use]
    pub fn spare(mut self, daemon: Index) -> Self {
        self.with(daemon, |d| d.spared = true);
        self
    }

    /// The daemons, in order of starting.
    #[must_use]
    pub fn daemons(&self) -> &[Daemon] {
        &self.daemons
    }

    /// Whether everything is being stopped for good.
    #[must_use]
    pub fn is_shutting_down(&self) -> bool {
        self.shutdown
    }

    /// Whether a daemon should have a process.
    #[must_use]
    pub fn should_run(&self, daemon: Index) -> bool {
        self.daemons.get(daemon).is_some_and(|d| d.wanted && !d.stopped && !self.shutdown)
    }

    /// When [`Event::Tick`] is needed next, if nothing happens before.
    #[must_use]
    pub fn next_due(&self) -> Option<Millis> {
        let due = |d: &Daemon| match d.state {
            State::Waiting { until } => Some(until),
            State::Stopping { kill_at, .. } => kill_at,
            State::Down | State::Spawning | State::Starting { .. } | State::Ready { .. } => None,
        };
        self.daemons.iter().filter_map(due).min()
    }

    /// Takes one event; says what to do. Events about processes that are no longer the daemon's are ignored.
    pub fn step(&mut self, now: Millis, event: Event) -> Vec<Action> {
        match event {
            Event::Wanted(set) => self.each(|i, d| d.wanted = set.contains(&i)),
            Event::Spawned(i, pid) => self.with(i, |d| d.spawned(pid)),
            Event::Found(i, pid) => self.with(i, |d| d.found(pid)),
            Event::SpawnFailed(i, why) => self.with(i, |d| d.spawn_failed(now, why)),
            Event::Health { daemon, pid, ready, why } => {
                self.with(daemon, |d| d.health(now, pid, ready, why))
            }
            Event::Died(i, pid, how) => self.with(i, |d| d.died(now, pid, how)),
            Event::Start(list) => list.into_iter().for_each(|i| self.with(i, |d| d.start(now))),
            Event::Stop(list) => list.into_iter().for_each(|i| self.with(i, |d| d.stopped = true)),
            Event::Hold(list) => list.into_iter().for_each(|i| self.with(i, |d| d.held = true)),
            Event::Shutdown => self.shutdown = true,
            Event::Tick => {}
        }
        self.settle(now)
    }

    /// A process of an earlier boot runs; nothing follows from it before the next [`Table::step`].
    pub fn adopt(&mut self, daemon: Index, pid: u32) {
        self.with(daemon, |d| d.adopted(pid));
    }

    fn each(&mut self, change: impl Fn(Index, &mut Daemon)) {
        self.daemons.iter_mut().enumerate().for_each(|(i, d)| change(i, d));
    }

    fn with(&mut self, daemon: Index, change: impl FnOnce(&mut Daemon)) {
        if let Some(found) = self.daemons.get_mut(daemon) {
            change(found);
        }
    }

    /// Brings every daemon a step towards what it should be.
    fn settle(&mut self, now: Millis) -> Vec<Action> {
        let mut actions = Vec::new();
        for i in (0..self.daemons.len()).rev() {
            if !self.should_run(i) {
                self.take_down(now, i, &mut actions);
            }
            self.kill_if_due(now, i, &mut actions);
        }
        for i in 0..self.daemons.len() {
            if self.should_run(i) {
                self.bring_up(now, i, &mut actions);
            }
        }
        if self.shutdown && !self.exited && self.daemons.iter().all(|d| d.state == State::Down) {
            self.exited = true;
            actions.push(Action::Exit);
        }
        actions
    }

    /// Towards no process; later ones that must go too, go first.
    fn take_down(&mut self, now: Millis, i: Index, actions: &mut Vec<Action>) {
        let later_up =
            (i + 1..self.daemons.len()).any(|j| !self.should_run(j) && self.daemons[j].state.is_up());
        let daemon = &mut self.daemons[i];
        match daemon.state {
            State::Starting { pid } | State::Ready { pid, .. } if !later_up => {
                daemon.state = State::Stopping { pid, kill_at: Some(now + STOP_MS) };
                actions.push(Action::Terminate(i, pid));
            }
            State::Down | State::Waiting { .. } => daemon.rest(),
            State::Starting { .. } | State::Ready { .. } | State::Stopping { .. } | State::Spawning => {}
        }
    }

    fn kill_if_due(&mut self, now: Millis, i: Index, actions: &mut Vec<Action>) {
        if let State::Stopping { pid, kill_at: Some(at) } = self.daemons[i].state
            && at <= now
        {
            self.daemons[i].state = State::Stopping { pid, kill_at: None };
            actions.push(Action::Kill(i, pid));
        }
    }

    /// Towards a process, if nothing holds it back.
    fn bring_up(&mut self, now: Millis, i: Index, actions: &mut Vec<Action>) {
        let before = (0..i).find(|j| self.should_run(*j) && self.daemons[*j].holds_up());
        let waits_for = before.map(|j| self.daemons[j].name);
        let daemon = &mut self.daemons[i];
        let due = match daemon.state {
            State::Down => true,
            State::Waiting { until } => until <= now,
            State::Spawning | State::Starting { .. } | State::Ready { .. } | State::Stopping { .. } => false,
        };
        if !due || daemon.held {
            return;
        }
        match waits_for {
            Some(name) if !daemon.begun => daemon.why = format!("waits until {name} is ready"),
            Some(_) | None => {
                daemon.begun = true;
                daemon.state = State::Spawning;
                actions.push(Action::Spawn(i));
            }
        }
    }
}

impl Daemon {
    fn adopted(&mut self, pid: u32) {
        if self.state == State::Down {
            self.begun = true;
            self.state = State::Starting { pid };
            self.why = "adopted; its health is not known yet".to_owned();
        }
    }

    fn found(&mut self, pid: u32) {
        if self.state == State::Spawning {
            self.state = State::Starting { pid };
            self.why = "adopted; its health is not known yet".to_owned();
        }
    }

    fn spawned(&mut self, pid: u32) {
        if self.state == State::Spawning {
            self.starts += 1;
            self.state = State::Starting { pid };
            self.why = "starting".to_owned();
        }
    }

    fn spawn_failed(&mut self, now: Millis, why: String) {
        if self.state == State::Spawning {
            self.fall(now, format!("cannot start: {why}"));
        }
    }

    fn health(&mut self, now: Millis, pid: u32, ready: bool, why: String) {
        self.state = match self.state {
            State::Starting { pid: own } if own == pid && ready => State::Ready { pid, since: now },
            State::Ready { pid: own, .. } if own == pid && !ready => State::Starting { pid },
            State::Ready { pid: own, .. } | State::Starting { pid: own } if own == pid => self.state,
            State::Down
            | State::Spawning
            | State::Waiting { .. }
            | State::Starting { .. }
            | State::Ready { .. }
            | State::Stopping { .. } => return,
        };
        self.why = why;
    }

    fn died(&mut self, now: Millis, pid: u32, how: String) {
        if self.state.pid() != Some(pid) {
            return;
        }
        match self.state {
            State::Stopping { .. } => self.state = State::Down,
            State::Ready { since, .. } if now.saturating_sub(since) >= HEALTHY_MS => {
                self.deaths = 0;
                self.fall(now, how);
            }
            State::Ready { .. } | State::Starting { .. } => self.fall(now, how),
            State::Down | State::Spawning | State::Waiting { .. } => {}
        }
    }

    /// After a death: the next start is due at once, then later and later.
    fn fall(&mut self, now: Millis, why: String) {
        self.state = State::Waiting { until: now + pause_ms(self.deaths) };
        self.deaths = self.deaths.saturating_add(1);
        self.why = why;
    }

    fn start(&mut self, now: Millis) {
        self.stopped = false;
        self.held = false;
        self.deaths = 0;
        if let State::Waiting { .. } = self.state {
            self.state = State::Waiting { until: now };
        }
    }

    /// No process and none wanted: as before its first start.
    fn rest(&mut self) {
        self.state = State::Down;
        self.begun = false;
        self.deaths = 0;
        self.why.clear();
    }
}

/// The pause before the start that follows the nth death in a row (n from 0).
fn pause_ms(deaths: u32) -> Millis {
    match deaths.checked_sub(1) {
        None => 0,
        Some(doublings) => PAUSE_MS_MIN.saturating_mul(1 << doublings.min(32)).min(PAUSE_MS_MAX),
    }
}
