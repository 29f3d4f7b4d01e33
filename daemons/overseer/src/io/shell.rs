//! The one task that owns the agenda: takes news, looks, plans, submits. What it keeps in memory only saves work: killed
//! at any moment it loses nothing, since the next one looks at everything.

use crate::config::Periods;
use crate::core::agenda::{AGAIN_MS, Agenda, Change, Work};
use crate::core::job::KeyedJob;
use crate::core::pass::Pass;
use crate::core::plan::{has_outdated, next_turn, plan};
use crate::core::restraint::Restraint;
use crate::core::seen::{Node, Seen};
use crate::error::LuxiError;
use crate::io::luxi::Luxi;
use crate::io::metrics::Numbers;
use crate::io::submit::{self, Outcome};
use gantry_model::config::SlotState;
use gantry_model::ids::{InstanceUuid, NodeUuid};
use gantry_proto::stream::StreamEvent;
use gantry_rt::{Daemon, clock};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{Notify, mpsc};

/// News that may wait for the shell; beyond them luxid keeps them, and says so if it cannot.
pub const NEWS_MAX: usize = 1_024;
/// First and longest pause after luxid could not be asked, ms.
const FAILED_MS: (u64, u64) = (100, 2_000);
/// Pause before a pass of which luxid refused a job runs again, ms: a full or drained queue.
const REFUSED_MS: u64 = 5_000;
/// Pause before a pass that needs the nodes looks whether they are known now, ms.
const NODES_MS: u64 = 1_000;
/// Longest sleep of the loop, ms: only so that no sum overflows.
const IDLE_MS: u64 = 60_000;

/// What the shell is told.
#[derive(Debug)]
pub enum News {
    /// From luxid.
    Event(StreamEvent),
    /// The stream of events ended, or never stood: why.
    Unwatched(String),
    /// A look at the nodes.
    Nodes {
        /// All of them.
        nodes: Vec<Node>,
        /// Those that were away at the look before.
        back: Vec<NodeUuid>,
    },
}

/// See the module.
pub struct Shell {
    daemon: Daemon,
    luxi: Luxi,
    agenda: Agenda,
    restraint: Restraint,
    nodes: Vec<Node>,
    /// Came back, and not looked at since.
    back: BTreeSet<NodeUuid>,
    lost_s: u64,
    look_at_nodes: Arc<Notify>,
    numbers: Numbers,
    /// Pause after the next failure.
    pause_ms: u64,
    /// Why there are no events, if there are none.
    unwatched: Option<String>,
    /// Why luxid cannot be asked, if it cannot.
    unasked: Option<String>,
}

impl Shell {
    /// Nothing known yet.
    #[must_use]
    pub fn new(daemon: Daemon, periods: Periods, look_at_nodes: Arc<Notify>, numbers: Numbers) -> Self {
        Self {
            luxi: Luxi::new(&daemon.root),
            agenda: Agenda::new(clock::millis(), |pass| periods.period_ms(pass)),
            restraint: Restraint::default(),
            nodes: Vec::new(),
            back: BTreeSet::new(),
            lost_s: periods.lost_s(),
            look_at_nodes,
            numbers,
            pause_ms: FAILED_MS.0,
            unwatched: Some("no event yet".to_owned()),
            unasked: None,
            daemon,
        }
    }

    /// Runs until the daemon stops.
    pub async fn run(mut self, mut news: mpsc::Receiver<News>) {
        let stop = self.daemon.stop.clone();
        loop {
            self.say_health();
            let wait = self.agenda.next_due().saturating_sub(clock::millis()).min(IDLE_MS);
            tokio::select! {
                () = stop.cancelled() => return,
                Some(one) = news.recv() => self.heard(one),
                () = tokio::time::sleep(Duration::from_millis(wait)) => {
                    // What is half done when the daemon stops is looked at anew by the next one.
                    tokio::select! {
                        () = stop.cancelled() => return,
                        () = self.work() => {}
                    }
                }
            }
        }
    }

    fn say_health(&self) {
        match self.unasked.as_ref().or(self.unwatched.as_ref()) {
            None => self.daemon.ready.set(true, ""),
            Some(why) => self.daemon.ready.set(false, format!("waiting for luxid: {why}")),
        }
    }

    fn heard(&mut self, news: News) {
        let now = clock::millis();
        match news {
            News::Event(StreamEvent::Changed { kind, key, state }) => {
                self.agenda.heard(now, Change { kind: &kind, key: &key, state: &state });
            }
            News::Event(StreamEvent::Begun) => {
                self.unwatched = None;
                self.agenda.lost(now);
            }
            News::Event(StreamEvent::Lost) => {
                tracing::info!("events were left out; looks at everything");
                self.agenda.lost(now);
            }
            News::Unwatched(why) => {
                if self.unwatched.is_none() {
                    tracing::warn!(why, "no events any more; looks by periods until they are back");
                }
                self.unwatched = Some(why);
            }
            News::Nodes { nodes, back } => self.nodes(now, nodes, back),
        }
    }

    fn nodes(&mut self, now: u64, nodes: Vec<Node>, back: Vec<NodeUuid>) {
        let changed = nodes
            .iter()
            .map(|n| (n.uuid, n.is_there()))
            .ne(self.nodes.iter().map(|n| (n.uuid, n.is_there())));
        let emptied =
            nodes.iter().map(|n| (n.uuid, n.drained)).ne(self.nodes.iter().map(|n| (n.uuid, n.drained)));
        let lost = |nodes: &[Node]| Seen::lost_nodes(nodes, self.lost_s);
        let (before, lost) = (lost(&self.nodes), lost(&nodes));
        if before != lost {
            let names: Vec<&str> = nodes
                .iter()
                .filter(|node| lost.contains(&node.uuid))
                .map(|node| node.name.as_str())
                .collect();
            if names.is_empty() {
                tracing::info!("no node is lost any more");
            } else {
                tracing::warn!(?names, "lost nodes: their slots do not count, and are made elsewhere");
            }
            self.agenda.bring_all(&[Pass::ExpandPools, Pass::DrainSlots], now);
        }
        self.nodes = nodes;
        if self.nodes.iter().any(|node| !node.is_there()) {
            self.agenda.bring(Pass::NodeRepair, now);
        }
        if changed {
            self.agenda.bring_all(&[Pass::DestroyDirty, Pass::CreateSlots], now);
        }
        if changed || emptied {
            self.agenda.bring(Pass::DrainSlots, now);
        }
        self.back.extend(back);
    }

    async fn work(&mut self) {
        let now = clock::millis();
        let (work, pauses) = self.agenda.take(now);
        if work.nodes {
            self.look_at_nodes.notify_one();
        }
        let passes = work.passes.clone();
        match self.act(work, &pauses).await {
            Ok(()) => {
                self.unasked = None;
                self.pause_ms = FAILED_MS.0;
            }
            Err(error) => {
                tracing::debug!(%error, "luxid cannot be asked");
                self.unasked = Some(error.to_string());
                self.restraint.clear();
                self.agenda.lost(now + self.pause_ms);
                self.agenda.bring_all(&passes, now + self.pause_ms);
                self.pause_ms = (self.pause_ms * 2).min(FAILED_MS.1);
            }
        }
    }

    async fn act(&mut self, work: Work, pauses: &BTreeMap<InstanceUuid, u64>) -> Result<(), LuxiError> {
        if !work.dirty.is_empty() {
            let slots = submit::some(&mut self.luxi, &work.dirty).await?;
            let seen = Seen { slots, ..self.blank() };
            self.pass(Pass::DestroyDirty, &seen, pauses).await?;
        }
        if work.passes.is_empty() {
            return Ok(());
        }
        let seen =
            Seen { nodes: self.nodes.clone(), lost_s: self.lost_s, ..submit::whole(&mut self.luxi).await? };
        self.numbers.saw(&seen);
        self.agenda.spare = seen.has_spare();
        let wall = clock::now().epoch();
        self.agenda.rolling = has_outdated(&seen, wall);
        if let Some(turn) = next_turn(&seen, wall) {
            let pause = Duration::try_from_secs_f64(turn - wall).unwrap_or(Duration::MAX);
            self.agenda.bring(
                Pass::DrainSlots,
                clock::millis().saturating_add(u64::try_from(pause.as_millis()).unwrap_or(u64::MAX)),
            );
        }
        for pass in work.passes {
            if pass == Pass::AuditNodes && self.nodes.is_empty() {
                self.agenda.bring(pass, clock::millis() + NODES_MS);
                continue;
            }
            self.pass(pass, &seen, pauses).await?;
        }
        self.returned(seen, pauses).await
    }

    fn blank(&self) -> Seen {
        Seen { nodes: self.nodes.clone(), lost_s: self.lost_s, ..Seen::default() }
    }

    /// Looks at what lives on nodes that came back.
    async fn returned(
        &mut self,
        mut seen: Seen,
        pauses: &BTreeMap<InstanceUuid, u64>,
    ) -> Result<(), LuxiError> {
        if self.back.is_empty() {
            return Ok(());
        }
        seen.slots.retain(|slot| self.back.contains(&slot.node_uuid));
        seen.nodes.retain(|node| self.back.contains(&node.uuid));
        tracing::info!(nodes = ?seen.nodes.iter().map(|node| &node.name).collect::<Vec<_>>(), "nodes are back");
        self.pass(Pass::AuditNodes, &seen, pauses).await?;
        self.pass(Pass::HealthCheck, &seen, pauses).await?;
        self.back.clear();
        Ok(())
    }

    /// Plans and submits one pass.
    async fn pass(
        &mut self,
        pass: Pass,
        seen: &Seen,
        pauses: &BTreeMap<InstanceUuid, u64>,
    ) -> Result<(), LuxiError> {
        let (now, wall) = (clock::millis(), clock::now().epoch());
        let mut jobs = plan(pass, seen, wall);
        jobs.retain(|job| self.restraint.allows(now, job));
        let outcome = submit::submit(&mut self.luxi, pass, jobs).await;
        self.numbers.ran(pass, outcome.as_ref().ok());
        let outcome = outcome?;
        self.note(now, pass, &outcome, pauses);
        self.later(now, wall, pass, seen);
        Ok(())
    }

    /// What was not taken is tried again.
    fn note(&mut self, now: u64, pass: Pass, outcome: &Outcome, pauses: &BTreeMap<InstanceUuid, u64>) {
        if !outcome.refused.is_empty() {
            self.agenda.bring(pass, now + REFUSED_MS);
        }
        if pass != Pass::DestroyDirty {
            return;
        }
        for (_, job) in &outcome.known {
            if let KeyedJob::Slots { slots, .. } = job {
                for slot in slots {
                    let pause = pauses.get(&slot.uuid).copied().unwrap_or(AGAIN_MS);
                    self.agenda.again(now, slot.uuid, pause);
                }
            }
        }
    }

    /// Slots that may be tried later are looked at then.
    fn later(&mut self, now: u64, wall: f64, pass: Pass, seen: &Seen) {
        for slot in &seen.slots {
            let Some(at) = slot.try_at(wall) else { continue };
            let at = now + millis_until(wall, at);
            match (pass, slot.state) {
                (Pass::DestroyDirty, SlotState::Dirty) => self.agenda.try_at(slot.uuid, at),
                (Pass::CreateSlots, SlotState::Absent) => self.agenda.bring(Pass::CreateSlots, at),
                _ => {}
            }
        }
    }
}

/// Whole milliseconds from now to then, rounded up, and bounded: a clock that jumped is not waited for.
fn millis_until(now: f64, then: f64) -> u64 {
    let wait = Duration::try_from_secs_f64(then - now).unwrap_or_default();
    u64::try_from(wait.as_millis()).unwrap_or(IDLE_MS).saturating_add(1).min(IDLE_MS)
}
