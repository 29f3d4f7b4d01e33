//! Examples of each rule, then random events against the rules themselves.

use super::*;
use proptest::prelude::*;

const NAMES: &[&str] = &["noded", "wconfd", "luxid"];
const ALL: [Index; 3] = [0, 1, 2];

/// The table with a shell that spawns at once under rising pids and obeys signals only when told to.
struct World {
    table: Table,
    now: Millis,
    pid: u32,
    exited: bool,
    log: Vec<Action>,
}

impl World {
    fn new() -> Self {
        Self { table: Table::new(NAMES), now: 0, pid: 100, exited: false, log: Vec::new() }
    }

    fn master() -> Self {
        let mut world = Self::new();
        world.send(Event::Wanted(ALL.into()));
        for i in ALL {
            world.ready(i);
        }
        world
    }

    fn send(&mut self, event: Event) {
        let mut due = vec![event];
        while let Some(event) = due.pop() {
            for action in self.table.step(self.now, event) {
                self.log.push(action);
                match action {
                    Action::Spawn(i) => {
                        self.pid += 1;
                        due.push(Event::Spawned(i, self.pid));
                    }
                    Action::Exit => self.exited = true,
                    Action::Terminate(..) | Action::Kill(..) => {}
                }
            }
        }
    }

    fn state(&self, i: Index) -> State {
        self.table.daemons()[i].state
    }

    fn pid_of(&self, i: Index) -> u32 {
        self.state(i).pid().expect("has a process")
    }

    fn ready(&mut self, i: Index) {
        let pid = self.pid_of(i);
        self.send(Event::Health { daemon: i, pid, ready: true, why: String::new() });
    }

    fn die(&mut self, i: Index) {
        let pid = self.pid_of(i);
        self.send(Event::Died(i, pid, "exit status 1".to_owned()));
    }

    /// Goes to when the table next wants a tick; returns how long that took.
    fn wait(&mut self) -> Millis {
        let due = self.table.next_due().expect("something is due");
        let waited = due.saturating_sub(self.now);
        self.now = self.now.max(due);
        self.send(Event::Tick);
        waited
    }
}

#[test]
fn each_starts_when_the_one_before_is_ready() {
    let mut world = World::new();
    world.send(Event::Wanted(ALL.into()));
    assert!(world.state(0).pid().is_some());
    assert_eq!(world.state(1), State::Down);
    assert_eq!(world.table.daemons()[1].why, "waits until noded is ready");
    world.ready(0);
    assert!(world.state(1).pid().is_some());
    assert_eq!(world.state(2), State::Down);
    world.ready(1);
    assert!(world.state(2).pid().is_some());
}

#[test]
fn one_that_is_spared_is_waited_for_until_it_has_failed() {
    let mut world = World::new();
    world.table = world.table.spare(0);
    world.send(Event::Wanted(ALL.into()));
    assert_eq!(world.state(1), State::Down, "it may be ready in a moment");
    world.die(0);
    assert!(world.state(1).pid().is_some());
    world.die(1);
    assert_eq!(world.state(2), State::Down, "the others are needed");
    world.ready(1);
    assert!(world.state(2).pid().is_some());
}

#[test]
fn a_death_is_followed_by_a_start_at_once_then_by_growing_pauses() {
    let mut world = World::master();
    let mut pauses = Vec::new();
    for _ in 0..9 {
        world.die(2);
        if world.state(2).pid().is_none() {
            pauses.push(world.wait());
        } else {
            pauses.push(0);
        }
    }
    assert_eq!(pauses, [0, 100, 200, 400, 800, 1600, 3200, 5000, 5000]);
    world.ready(2);
    world.now += HEALTHY_MS;
    world.die(2);
    assert!(world.state(2).pid().is_some(), "ten seconds of health: no pause");
}

#[test]
fn a_restart_does_not_wait_for_those_before() {
    let mut world = World::master();
    world.die(0);
    world.die(0);
    assert!(matches!(world.state(0), State::Waiting { .. }));
    world.die(2);
    assert!(world.state(2).pid().is_some());
}

#[test]
fn shutdown_goes_backwards_and_kills_what_does_not_end() {
    let mut world = World::master();
    world.log.clear();
    let pids = ALL.map(|i| world.pid_of(i));
    world.send(Event::Shutdown);
    assert_eq!(world.log, [Action::Terminate(2, pids[2])]);
    assert_eq!(world.wait(), STOP_MS);
    assert_eq!(world.log.last(), Some(&Action::Kill(2, pids[2])));
    world.die(2);
    assert_eq!(world.log.last(), Some(&Action::Terminate(1, pids[1])));
    world.die(1);
    world.die(0);
    assert!(world.exited);
}

#[test]
fn losing_the_masters_role_stops_only_its_daemons() {
    let mut world = World::master();
    world.send(Event::Wanted([0].into()));
    world.die(2);
    world.die(1);
    assert_eq!([world.state(1), world.state(2)], [State::Down, State::Down]);
    assert!(world.table.daemons()[0].is_ready());
    world.send(Event::Wanted(ALL.into()));
    assert!(world.state(1).pid().is_some());
    assert_eq!(world.state(2), State::Down, "in order again");
}

#[test]
fn a_held_daemon_is_not_restarted_and_a_stopped_one_stays_down() {
    let mut world = World::master();
    world.send(Event::Hold(vec![2]));
    assert!(world.table.daemons()[2].is_ready(), "hold stops nothing");
    world.die(2);
    world.now += 60_000;
    world.send(Event::Tick);
    assert_eq!(world.state(2).pid(), None);
    world.send(Event::Start(vec![2]));
    assert!(world.state(2).pid().is_some());
    world.send(Event::Stop(vec![2]));
    world.die(2);
    world.now += 60_000;
    world.send(Event::Tick);
    assert_eq!(world.state(2), State::Down);
}

#[test]
fn news_of_another_process_changes_nothing() {
    let mut world = World::master();
    let before = world.table.clone();
    world.send(Event::Died(0, 7, "old".to_owned()));
    world.send(Event::Health { daemon: 0, pid: 7, ready: false, why: "old".to_owned() });
    world.table.adopt(0, 7);
    world.send(Event::Died(9, 7, "no such place".to_owned()));
    assert_eq!(world.table, before);
}

#[test]
fn an_adopted_daemon_runs_on_and_one_no_longer_wanted_is_stopped() {
    let mut world = World::new();
    world.table.adopt(0, 7);
    world.table.adopt(2, 9);
    world.send(Event::Wanted([0, 1].into()));
    assert_eq!(world.log, [Action::Terminate(2, 9)]);
    world.ready(0);
    assert_eq!(world.pid_of(0), 7);
    assert_eq!(world.table.daemons()[0].starts, 0);
    assert!(world.state(1).pid().is_some());
}

/// One random event, by number, so that it can name the process the daemon has.
fn event(world: &World, kind: u8, i: Index, odd: u32) -> Event {
    let pid = world.state(i).pid().filter(|_| !odd.is_multiple_of(8)).unwrap_or(odd);
    match kind {
        0 => Event::Wanted(ALL.into_iter().filter(|j| odd & (1 << j) != 0).collect()),
        1 | 2 => Event::Health { daemon: i, pid, ready: !odd.is_multiple_of(3), why: String::new() },
        3 | 4 => Event::Died(i, pid, "x".to_owned()),
        5 => Event::Start(vec![i]),
        6 => Event::Stop(vec![i]),
        7 => Event::Hold(vec![i]),
        8 if odd.is_multiple_of(16) => Event::Shutdown,
        _ => Event::Tick,
    }
}

proptest! {
    #[test]
    fn the_rules_hold_whatever_happens(
        steps in prop::collection::vec((0u8..10, 0usize..3, any::<u32>(), 0u64..4000), 1..120),
        spared in prop::option::of(0usize..3),
    ) {
        let mut world = World::new();
        if let Some(spared) = spared {
            world.table = world.table.spare(spared);
        }
        for (kind, i, odd, passed) in steps {
            world.now += passed;
            let before = world.table.clone();
            let logged = world.log.len();
            let next = event(&world, kind, i, odd);
            world.send(next);
            check_actions(&world, &before, &world.log[logged..])?;
            for daemon in world.table.daemons() {
                if let State::Waiting { until } = daemon.state {
                    prop_assert!(until <= world.now + PAUSE_MS_MAX);
                }
            }
        }
        settles(&mut world)?;
    }
}

fn check_actions(world: &World, before: &Table, actions: &[Action]) -> Result<(), TestCaseError> {
    for action in actions {
        match *action {
            Action::Spawn(i) => {
                prop_assert!(world.table.should_run(i), "only what is wanted is started");
                let had = before.daemons()[i].state;
                prop_assert!(!matches!(had, State::Spawning), "never two processes");
                let begun = before.daemons()[i].begun;
                let earlier = (0..i).filter(|j| world.table.should_run(*j));
                let lets = |j: Index| {
                    let daemon = &world.table.daemons()[j];
                    daemon.is_ready() || daemon.spared && (daemon.deaths > 0 || daemon.held)
                };
                prop_assert!(begun || earlier.into_iter().all(lets));
            }
            Action::Terminate(i, pid) => {
                prop_assert_eq!(before.daemons()[i].state.pid(), Some(pid));
                prop_assert!(!world.table.should_run(i));
                let later = (i + 1..3).filter(|j| !world.table.should_run(*j));
                prop_assert!(later.into_iter().all(|j| !world.table.daemons()[j].state.is_up()));
            }
            Action::Kill(i, pid) => {
                let due = matches!(before.daemons()[i].state,
                    State::Stopping { pid: own, kill_at: Some(at) } if own == pid && at <= world.now);
                prop_assert!(due, "no kill before its time");
            }
            Action::Exit => {
                prop_assert!(world.table.daemons().iter().all(|d| !d.state.is_up()));
            }
        }
    }
    Ok(())
}

/// Left alone with well-behaved processes, the table reaches what is wanted; then it can be shut down.
fn settles(world: &mut World) -> Result<(), TestCaseError> {
    for _ in 0..64 {
        for i in ALL {
            match world.state(i) {
                State::Starting { .. } => world.ready(i),
                State::Stopping { .. } => world.die(i),
                State::Down | State::Spawning | State::Waiting { .. } | State::Ready { .. } => {}
            }
        }
        world.now += PAUSE_MS_MAX;
        world.send(Event::Tick);
    }
    for i in ALL {
        let daemon = &world.table.daemons()[i];
        let earlier_held = (0..=i).any(|j| world.table.daemons()[j].held);
        if world.table.should_run(i) {
            prop_assert!(daemon.is_ready() || earlier_held, "{daemon:?}");
        } else {
            prop_assert_eq!(daemon.state, State::Down);
        }
    }
    world.send(Event::Shutdown);
    for i in ALL.into_iter().rev() {
        if let State::Stopping { .. } = world.state(i) {
            world.die(i);
        }
    }
    prop_assert!(world.exited);
    Ok(())
}
