//! The world as a state machine to be searched: every event that can happen is tried in every state, and every
//! message ever sent can come again for ever.

use gantry_sim::watch::Broken;
use gantry_sim::world::{Config, Op, Proc, W, World};
use gantry_store::core::row::Index;
use gantry_store::core::rules::Rules;
use stateright::{Checker, Model, Property};
use std::time::{Duration, Instant};

/// How much of each may happen.
#[derive(Debug, Clone, Copy)]
pub struct Bounds {
    pub nodes: usize,
    pub members: usize,
    pub writes: u64,
    pub failovers: u64,
    pub restarts: u64,
    pub changes: u64,
    /// Members that one change moves.
    pub moved: usize,
    pub losses: u64,
    pub compactions: u64,
    /// A failover may have heard nobody else's promise.
    pub blind: bool,
    /// A writer may send a part of what a copy lacks.
    pub partial: bool,
    /// It begins with node 0 leading, its first row everywhere and committed; else with nothing.
    pub settled: bool,
}

impl Bounds {
    /// Three copies, nothing happens.
    pub const NONE: Bounds = Bounds {
        nodes: 3,
        members: 3,
        writes: 0,
        failovers: 0,
        restarts: 0,
        changes: 0,
        moved: 1,
        losses: 0,
        compactions: 0,
        blind: false,
        partial: false,
        settled: true,
    };
}

/// An event.
#[derive(Debug, Clone, PartialEq)]
pub enum Event {
    /// The message at this place arrives.
    Arrive(usize),
    /// One step of what is under way on a disk.
    Work(usize),
    /// The node's daemons die in the middle of it.
    Crash(usize),
    /// A writer draws an epoch after a look at all, or at nobody else.
    Failover(usize, bool),
    /// A writer starts again under its epoch.
    Restart(usize),
    /// A writer sends a copy all that it lacks, or one row.
    Send(usize, usize, bool),
    /// A client writes.
    Write(usize),
    /// The list changes by one or two.
    Change(usize, usize, Option<usize>),
    /// A copy is emptied.
    Wipe(usize),
    /// A copy forgets all it may.
    Compact(usize),
}

/// The world, until a promise is broken.
#[derive(Debug, Clone, Hash, PartialEq)]
pub struct State {
    pub world: World,
    pub broken: Option<Broken>,
}

/// What is searched.
pub struct Search {
    pub bounds: Bounds,
    pub rules: Rules,
}

/// What a search found.
#[derive(Debug)]
pub struct Found {
    /// Different states seen.
    pub states: usize,
    /// All of them were seen within the time.
    pub done: bool,
    /// The events that break a promise, and what they break.
    pub broken: Option<(Vec<String>, Broken)>,
}

impl Search {
    /// Searches, breadth first, for at most `seconds`.
    pub fn run(bounds: Bounds, rules: Rules, seconds: u64) -> Found {
        let begun = Instant::now();
        let checker = Search { bounds, rules }
            .checker()
            .threads(2)
            .timeout(Duration::from_secs(seconds))
            .spawn_bfs()
            .join();
        let path = checker.discovery("every promise is kept");
        let broken = path.map(|path| {
            let mut what = String::new();
            let mut events = Vec::new();
            for (state, event) in path.into_vec() {
                if let Some(event) = event {
                    events.push(match event {
                        Event::Arrive(k) => state.world.net[k].to_string(),
                        other => format!("{other:?}"),
                    });
                }
                what = state.broken.unwrap_or_default();
            }
            (events, what)
        });
        let done = begun.elapsed() < Duration::from_secs(seconds);
        Found { states: checker.unique_state_count(), done, broken }
    }

    fn first(&self) -> State {
        let Bounds { nodes, members, .. } = self.bounds;
        let config =
            Config { nodes, members, logs: 1, coarse: true, elect: false, tokens: false, stale: true };
        let mut world = World::new(config, self.rules);
        if self.bounds.settled {
            settle(&mut world).expect("nothing has gone wrong yet");
        }
        State { world, broken: None }
    }
}

/// Node 0 leads; its first row is everywhere, committed and known to be.
fn settle(world: &mut World) -> Result<(), Broken> {
    let all: Vec<usize> = (0..world.nodes.len()).collect();
    world.campaign(0, &all)?;
    for _ in 0..4 {
        while let Some(msg) = world.net.pop() {
            world.handle(msg.msg())?;
        }
        all.iter().for_each(|to| world.send(0, W, *to, usize::MAX));
    }
    world.net.clear();
    Ok(())
}

/// What a node tells itself arrives at once, and once.
fn within(world: &mut World) -> Result<(), Broken> {
    while let Some(k) = world.net.iter().position(|m| m.from == m.to) {
        let msg = world.net.swap_remove(k);
        world.handle(msg.msg())?;
    }
    Ok(())
}

impl Model for Search {
    type State = State;
    type Action = Event;

    fn init_states(&self) -> Vec<State> {
        vec![self.first()]
    }

    fn actions(&self, state: &State, events: &mut Vec<Event>) {
        let (world, b) = (&state.world, &self.bounds);
        if state.broken.is_some() {
            return;
        }
        let idle = |n: usize| world.nodes[n].pending[W].is_empty();
        events.extend((0..world.net.len()).map(Event::Arrive));
        let nodes = 0..world.nodes.len();
        for n in nodes.clone() {
            if !idle(n) {
                events.extend([Event::Work(n), Event::Crash(n)]);
            }
            if world.done.failovers < b.failovers {
                events.push(Event::Failover(n, true));
                if b.blind {
                    events.push(Event::Failover(n, false));
                }
            }
            if world.done.restarts < b.restarts && world.nodes[n].role.is_some() {
                events.push(Event::Restart(n));
            }
            if world.done.losses < b.losses && !world.nodes[n].copies[W].log.get().rows.is_empty() {
                events.push(Event::Wipe(n));
            }
            let copy = &world.nodes[n].copies[W];
            if world.done.compactions < b.compactions && copy.applied_to() > copy.log.get().base.at.idx {
                events.push(Event::Compact(n));
            }
            let Proc::Leading(leader) = &world.nodes[n].procs[W] else { continue };
            if world.done.writes < b.writes && leader.tally.serving() {
                events.push(Event::Write(n));
            }
            for to in nodes.clone().filter(|to| *to != n) {
                events.push(Event::Send(n, to, true));
                if b.partial {
                    events.push(Event::Send(n, to, false));
                }
                if world.done.changes < b.changes {
                    events.push(Event::Change(n, to, None));
                    let more = nodes.clone().filter(|o| b.moved == 2 && *o > to && *o != n);
                    events.extend(more.map(|o| Event::Change(n, to, Some(o))));
                }
            }
        }
    }

    fn next_state(&self, last: &State, event: Event) -> Option<State> {
        let mut state = last.clone();
        let world = &mut state.world;
        let done = match event {
            Event::Arrive(k) => {
                let msg = world.net[k].msg();
                world.handle(msg)
            }
            Event::Work(n) => world.work(n, W).and_then(|()| world.run_through(n, W)),
            Event::Crash(n) => world.crash(n, false, |_| true),
            Event::Failover(n, look) => {
                world.done.failovers += 1;
                let heard: Vec<usize> = (0..world.nodes.len()).filter(|o| look || *o == n).collect();
                world.campaign(n, &heard)
            }
            Event::Restart(n) => {
                world.done.restarts += 1;
                world.start(n, W)
            }
            Event::Send(n, to, all) => {
                world.send(n, W, to, if all { usize::MAX } else { 1 });
                Ok(())
            }
            Event::Write(n) => {
                world.write(n, W, false);
                Ok(())
            }
            Event::Change(n, a, b) => {
                world.change(n, a, b);
                Ok(())
            }
            Event::Wipe(n) => world.wipe(n),
            Event::Compact(n) => {
                world.done.compactions += 1;
                let to: Index = world.nodes[n].copies[W].applied_to();
                world.submit(n, W, Op::Compact(to))
            }
        };
        state.broken = done.and_then(|()| within(&mut state.world)).err();
        Some(state)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        vec![Property::always("every promise is kept", |_, state: &State| state.broken.is_none())]
    }
}
