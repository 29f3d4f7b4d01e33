//! The one task that owns the table: takes what happens, asks the core, does what it says.

use crate::api::{Answer, Api, COMMANDS_MAX, Command, MODE};
use crate::config::{Args, DAEMONS, Runs};
use crate::core::supervise::{Action, Event, Index, State, Table};
use crate::failover::Failovers;
use crate::held::Held;
use crate::io::health::{self, Probe};
use crate::io::process::{self, Identity};
use crate::io::role::{LOOK, RoleWatch};
use anyhow::Context;
use gantry_model::root::Root;
use gantry_proto::boot::{DaemonState, DaemonStatus};
use gantry_rpc::{Code, Fail, Limits, serve_unix, unix};
use gantry_rt::{Daemon, clock};
use nix::sys::signal::Signal;
use std::collections::{BTreeSet, HashMap};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

/// News of processes that may wait for the shell: one question under way per daemon, and its end.
const NEWS_MAX: usize = 4 * DAEMONS.len();
/// Longest sleep when nothing is due.
const IDLE: Duration = Duration::from_secs(3600);

/// What tasks tell the shell about a process.
enum News {
    Health { daemon: Index, pid: u32, said: health::Said },
    Gone { daemon: Index, pid: u32 },
}

/// A command whose answer waits for a state.
struct Waiter {
    until: Until,
    answer: Answer,
}

enum Until {
    Ready(Vec<Index>),
    Gone(Vec<Index>),
    /// Those of the master, whether or not the role file was seen yet.
    Master,
    Exit,
}

struct Shell {
    daemon: Daemon,
    root: Root,
    libexec: PathBuf,
    table: Table,
    /// Ends the tasks that watch a daemon's process.
    watched: HashMap<Index, CancellationToken>,
    waiters: Vec<Waiter>,
    /// Told to be spawned, and not looked for yet.
    due: Vec<Index>,
    news: mpsc::Sender<News>,
    exited: bool,
}

/// Runs until everything is stopped: by a signal or by command.
///
/// # Errors
/// A socket cannot be made.
pub async fn run(daemon: Daemon, args: Args, _held: Held) -> anyhow::Result<()> {
    let root = args.root();
    nix::sys::prctl::set_child_subreaper(true).context("cannot become the reaper of orphans")?;
    let (command_tx, commands) = mpsc::channel(COMMANDS_MAX);
    let listener = unix::bind(&root.socket("boot.sock"), MODE).context("cannot listen on boot.sock")?;
    let closed = CancellationToken::new();
    let failovers = Failovers::new(daemon.clone(), root.clone(), args.libexec(), command_tx.clone());
    let api = Arc::new(Api::new(command_tx, failovers));
    let serve = serve_unix(listener, api, Limits::default(), closed.clone());
    daemon.tasks.spawn("boot.sock", serve);
    let names: Vec<&'static str> = DAEMONS.iter().map(|(name, _)| *name).collect();
    let spared = DAEMONS.iter().enumerate().filter(|(_, (_, runs))| runs.is_spared());
    let table = spared.fold(Table::new(&names), |table, (index, _)| table.spare(index));
    let (news_tx, news) = mpsc::channel(NEWS_MAX);
    let shell = Shell {
        root: root.clone(),
        libexec: args.libexec(),
        table,
        watched: HashMap::new(),
        waiters: Vec::new(),
        due: Vec::new(),
        news: news_tx,
        exited: false,
        daemon: daemon.clone(),
    };
    daemon.ready.set(true, "");
    let ended = shell.live(commands, news).await;
    let _ = std::fs::remove_file(root.socket("boot.sock"));
    closed.cancel();
    ended
}

impl Shell {
    async fn live(
        mut self,
        mut commands: mpsc::Receiver<Command>,
        mut news: mpsc::Receiver<News>,
    ) -> anyhow::Result<()> {
        let mut children = signal(SignalKind::child()).context("cannot watch SIGCHLD")?;
        let mut role = RoleWatch::new(self.root.clone());
        let found = self.find_running().await;
        // A role that cannot be read leaves things as they are.
        let wanted = role.look().unwrap_or_else(|| found.iter().map(|(index, _)| *index).collect());
        self.adopt(found, wanted);
        let mut look = tokio::time::interval(LOOK);
        let stop = self.daemon.stop.clone();
        while !self.exited {
            if !self.due.is_empty() {
                let index = self.due.remove(0);
                self.spawn(index).await;
                continue;
            }
            let due = self
                .table
                .next_due()
                .map_or(IDLE, |at| Duration::from_millis(at.saturating_sub(clock::millis())));
            tokio::select! {
                _ = children.recv() => self.reap(),
                Some(news) = news.recv() => self.heard(news),
                Some(command) = commands.recv() => self.obey(command),
                _ = look.tick() => {
                    if let Some(wanted) = role.look() {
                        self.happened(Event::Wanted(wanted));
                    }
                }
                () = stop.cancelled(), if !self.table.is_shutting_down() => self.happened(Event::Shutdown),
                () = tokio::time::sleep(due) => self.happened(Event::Tick),
            }
        }
        Ok(())
    }

    /// Daemons that an earlier boot left running.
    async fn find_running(&self) -> Vec<(Index, Identity)> {
        let mut found = Vec::new();
        for (index, (name, _)) in DAEMONS.iter().enumerate() {
            let identity = match process::from_pid_file(&self.root, name) {
                Some(identity) => Some(identity),
                None => {
                    let identity = health::find(&self.root, name).await.and_then(Identity::of);
                    identity.inspect(|identity| process::note(&self.root, name, identity))
                }
            };
            found.extend(identity.map(|identity| (index, identity)));
        }
        found
    }

    /// Takes them over before the first start, so that nothing runs twice.
    fn adopt(&mut self, found: Vec<(Index, Identity)>, wanted: BTreeSet<Index>) {
        for (index, identity) in found {
            let pid = identity.pid;
            tracing::info!(daemon = DAEMONS[index].0, pid, "adopted");
            self.table.adopt(index, pid);
            self.watch(index, pid, true);
        }
        self.happened(Event::Wanted(wanted));
    }

    /// Takes one event through the core and does all that follows from it.
    fn happened(&mut self, event: Event) {
        let actions = self.table.step(clock::millis(), event);
        self.act(actions);
        self.answer_waiters();
    }

    fn act(&mut self, actions: Vec<Action>) {
        for action in actions {
            match action {
                Action::Spawn(index) => self.due.push(index),
                Action::Terminate(index, pid) => {
                    tracing::info!(daemon = DAEMONS[index].0, pid, "stops");
                    process::send(pid, Signal::SIGTERM);
                }
                Action::Kill(index, pid) => {
                    tracing::warn!(daemon = DAEMONS[index].0, pid, "did not stop in time; killed");
                    process::send(pid, Signal::SIGKILL);
                }
                Action::Exit => self.exited = true,
            }
        }
    }

    /// Starts a daemon, unless one serves: an earlier boot that was killed between starting it and noting its pid left
    /// no other trace than its socket, and two would fight for ever.
    async fn spawn(&mut self, index: Index) {
        let name = DAEMONS[index].0;
        if let Some(found) = health::find(&self.root, name).await.and_then(Identity::of) {
            let pid = found.pid;
            tracing::warn!(daemon = name, pid, "runs already; adopted");
            process::note(&self.root, name, &found);
            self.watch(index, pid, true);
            return self.happened(Event::Found(index, pid));
        }
        let event = match process::start(&self.root, &self.libexec, name) {
            Ok(identity) => {
                tracing::info!(daemon = name, pid = identity.pid, "started");
                self.watch(index, identity.pid, false);
                Event::Spawned(index, identity.pid)
            }
            Err(error) => {
                tracing::error!(daemon = name, %error, "cannot be started");
                Event::SpawnFailed(index, error.to_string())
            }
        };
        self.happened(event);
    }

    /// Asks for its health; an adopted one is no child, so its end is told by a pidfd.
    fn watch(&mut self, index: Index, pid: u32, adopted: bool) {
        let over = CancellationToken::new();
        let mut probe = Probe::new(self.root.clone(), DAEMONS[index].0, pid);
        let (news, ended) = (self.news.clone(), over.clone());
        self.daemon.tasks.spawn("health", async move {
            let ask = async {
                loop {
                    let said = probe.ask().await;
                    let pause = health::pause(said.0);
                    if news.send(News::Health { daemon: index, pid, said }).await.is_err() {
                        return;
                    }
                    tokio::time::sleep(pause).await;
                }
            };
            tokio::select! { () = ask => {}, () = ended.cancelled() => {} }
        });
        if adopted {
            let news = self.news.clone();
            self.daemon.tasks.spawn("adopted", async move {
                if let Ok(fd) = process::watch(pid) {
                    let _ = fd.readable().await;
                }
                let _ = news.send(News::Gone { daemon: index, pid }).await;
            });
        }
        if let Some(before) = self.watched.insert(index, over) {
            before.cancel();
        }
    }

    fn heard(&mut self, news: News) {
        match news {
            News::Health { daemon, pid, said: (ready, why) } => {
                let was = self.table.daemons()[daemon].is_ready();
                self.happened(Event::Health { daemon, pid, ready, why });
                let is = self.table.daemons()[daemon].is_ready();
                if was != is {
                    let why = &self.table.daemons()[daemon].why;
                    tracing::info!(daemon = DAEMONS[daemon].0, pid, ready = is, why, "health");
                }
            }
            News::Gone { daemon, pid } => self.died(daemon, pid, "ended".to_owned()),
        }
    }

    fn reap(&mut self) {
        for (pid, how) in process::reap() {
            let index = self.table.daemons().iter().position(|d| d.state.pid() == Some(pid));
            if let Some(index) = index {
                self.died(index, pid, how);
            }
        }
    }

    fn died(&mut self, index: Index, pid: u32, how: String) {
        let name = DAEMONS[index].0;
        if self.table.daemons()[index].state.pid() != Some(pid) {
            return;
        }
        match self.table.daemons()[index].state {
            State::Stopping { .. } => tracing::info!(daemon = name, pid, how, "stopped"),
            State::Down
            | State::Spawning
            | State::Waiting { .. }
            | State::Starting { .. }
            | State::Ready { .. } => {
                tracing::warn!(daemon = name, pid, how, "died");
            }
        }
        if let Some(over) = self.watched.remove(&index) {
            over.cancel();
        }
        process::forget(&self.root, name);
        self.happened(Event::Died(index, pid, how));
    }

    fn obey(&mut self, command: Command) {
        match command {
            Command::Status(answer) => {
                let _ = answer.send(self.status());
            }
            Command::Start(list, answer) => {
                let wanted: Vec<Index> =
                    list.into_iter().filter(|i| self.table.daemons()[*i].wanted).collect();
                if wanted.is_empty() {
                    let text = "this node's role wants none of these daemons; see role.json";
                    let _ = answer.send(Err(Fail::new(Code::NotFound, text)));
                    return;
                }
                self.waiters.push(Waiter { until: Until::Ready(wanted.clone()), answer });
                self.happened(Event::Start(wanted));
            }
            Command::Stop(list, answer) => {
                self.waiters.push(Waiter { until: Until::Gone(list.clone()), answer });
                self.happened(Event::Stop(list));
            }
            Command::Hold(list, answer) => {
                self.happened(Event::Hold(list));
                let _ = answer.send(Ok(()));
            }
            Command::Master(answer) => {
                self.waiters.push(Waiter { until: Until::Master, answer });
                self.happened(Event::Start(masters().collect()));
            }
            Command::Shutdown(answer) => {
                self.waiters.push(Waiter { until: Until::Exit, answer });
                self.happened(Event::Shutdown);
            }
        }
    }

    /// Answers commands whose state is reached, or can no longer be.
    fn answer_waiters(&mut self) {
        let waiters = std::mem::take(&mut self.waiters);
        for waiter in waiters.into_iter().filter(|w| !w.answer.is_closed()) {
            match self.reached(&waiter.until) {
                Some(answer) => {
                    let _ = waiter.answer.send(answer);
                }
                None => self.waiters.push(waiter),
            }
        }
    }

    fn reached(&self, until: &Until) -> Option<Result<(), Fail>> {
        let daemons = self.table.daemons();
        match until {
            Until::Ready(list) if list.iter().any(|i| !self.table.should_run(*i)) => {
                Some(Err(Fail::new(Code::Stale, "stopped again meanwhile, or no longer wanted by the role")))
            }
            Until::Ready(list) => list.iter().all(|i| daemons[*i].is_ready()).then_some(Ok(())),
            Until::Gone(list) => list.iter().all(|i| daemons[*i].state == State::Down).then_some(Ok(())),
            Until::Master => masters().all(|i| daemons[i].is_ready()).then_some(Ok(())),
            Until::Exit => self.exited.then_some(Ok(())),
        }
    }

    fn status(&self) -> Vec<DaemonStatus> {
        let one = |(index, daemon): (Index, &crate::core::supervise::Daemon)| DaemonStatus {
            name: daemon.name.to_owned(),
            state: match daemon.state {
                State::Ready { .. } => DaemonState::Ready,
                State::Starting { .. } | State::Spawning | State::Stopping { .. } => DaemonState::Starting,
                State::Waiting { .. } => DaemonState::Waiting,
                State::Down if self.table.should_run(index) => DaemonState::Waiting,
                State::Down if daemon.wanted => DaemonState::Stopped,
                State::Down => DaemonState::Off,
            },
            held: daemon.held,
            pid: daemon.state.pid(),
            starts: daemon.starts,
            why: daemon.why.clone(),
        };
        self.table.daemons().iter().enumerate().map(one).collect()
    }
}

/// The daemons of a master.
fn masters() -> impl Iterator<Item = Index> {
    DAEMONS.iter().enumerate().filter(|(_, (_, runs))| *runs == Runs::Master).map(|(index, _)| index)
}
