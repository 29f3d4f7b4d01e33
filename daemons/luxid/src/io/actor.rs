//! The task that owns the queue. It takes events in lots, appends one batch for each lot, shows what is committed,
//! and hands out what is to be done. It never waits for anything but its inbox and the store; batches that the store does not
//! take now are parked, so that who asks is answered meanwhile.

use super::desk::{Desk, Leavings, Office, Start};
use super::kill;
use super::leases::{Leases, Wanted};
use super::metrics::Numbers;
use super::view::View;
use super::wconfd::Gone;
use crate::core::queue::{Action, Answer, Ask, Change, Effects, Event, Queue, Request, Shown, Ticket};
use crate::error::LuxidError;
use gantry_copies::advice::advice;
use gantry_model::error::{Ecode, GanetiError};
use gantry_model::ids::{Fence, JobOwner, NodeUuid};
use gantry_model::job::{Class, Status};
use gantry_model::time::Ts;
use gantry_proto::codec::Json;
use gantry_proto::job::{ConfirmRequest, GoRequest};
use gantry_proto::wconfd::Command;
use gantry_rt::{Tasks, clock};
use gantry_store::{Batch, Digest, Index, Progress, StoreError, Writer};
use std::collections::{BTreeSet, HashMap, VecDeque};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::Instant;

/// Events that may wait for the queue. Senders wait for a place: reports and clients are slowed down, none is lost.
const INBOX_MAX: usize = 4096;
/// Most events taken in one step, so that one batch stays small enough for one row of the log.
const LOT_MAX: usize = 128;
/// A batch is cut before it gets larger than this, in bytes of bodies; one body alone is within
/// `gantry_store::BATCH_BYTES_MAX`.
const BATCH_BYTES: usize = 1 << 20;
/// Batches the store does not take now that are kept for it; with as many no more events are taken, and senders wait. Far
/// beyond what running jobs report until a majority that was lost is back or an operator acts.
const PARKED_MAX: usize = 256;
/// Askers for the owners that may wait: wconfd's keeper asks twice a connection.
const OWNERS_MAX: usize = 16;
/// How long who asks for a change waits for it after the majority of the copies is lost (P1.6). Its outcome is unknown then.
const UNKNOWN_AFTER: Duration = Duration::from_secs(10);
/// Longest wait for a time of the wall clock before it is looked at again.
const CLOCK_LOOK_MS: u64 = 5_000;
/// How long what nobody waits for waits for a batch of something else, before it has one of its own. Much longer than a process
/// takes to start, and short for who looks on.
const ALONE_AFTER: Duration = Duration::from_millis(50);
/// What is counted for a change beside its body.
const CHANGE_BYTES: usize = 128;

/// What the queue's task is told.
#[derive(Debug)]
enum Message {
    Event(Event),
    Ask(Ask, Request, oneshot::Sender<Reply>),
    Left(JobOwner),
}

type Owners = oneshot::Sender<Vec<JobOwner>>;
type Reply = Result<Answer, GanetiError>;

/// The way to the queue. Clones share it.
#[derive(Debug, Clone)]
pub struct Inbox {
    to: mpsc::Sender<Message>,
    /// Beside the rest: it is answered also while no events are taken.
    owners: mpsc::Sender<Owners>,
    asks: Arc<AtomicU64>,
    quorum: watch::Receiver<Option<String>>,
    writer: Writer,
}

impl Inbox {
    /// Reports an event; waits for a place. When the queue is gone luxid ends, and nothing matters any more.
    pub async fn event(&self, event: Event) {
        let _ = self.to.send(Message::Event(event)).await;
    }

    /// Asks and waits for the answer, which is committed. Dropping the future withdraws the question; what it
    /// changed stays.
    ///
    /// # Errors
    /// What the queue answers, that luxid is stopping, or that no majority of the copies could store it.
    pub async fn ask(&self, request: Request) -> Reply {
        let changes = request.changes();
        if let Some(silent) = self.quorum.borrow().as_deref().filter(|_| changes) {
            return Err(no_majority(silent, &self.advice(silent)));
        }
        let lost = lost(self.quorum.clone());
        tokio::select! {
            reply = self.ask_however_long(request) => reply,
            silent = lost, if changes => Err(unknown(&silent, &self.advice(&silent))),
        }
    }

    /// What helps.
    fn advice(&self, silent: &str) -> String {
        advice(self.writer.list().1.members.len(), silent)
    }

    async fn ask_however_long(&self, request: Request) -> Reply {
        let ask = Ask(self.asks.fetch_add(1, Ordering::Relaxed));
        let (answer, answered) = oneshot::channel();
        let stopping = || GanetiError::generic("luxid is stopping: the outcome of this request is not known");
        self.to.send(Message::Ask(ask, request, answer)).await.map_err(|_| stopping())?;
        let mut withdrawal = Withdrawal { ask: Some(ask), to: &self.to };
        let reply = answered.await.map_err(|_| stopping())?;
        withdrawal.ask = None;
        reply
    }

    /// The running (job, start)s.
    pub async fn owners(&self) -> Vec<JobOwner> {
        let (answer, answered) = oneshot::channel();
        let _ = self.owners.send(answer).await;
        answered.await.unwrap_or_default()
    }

    async fn left(&self, owner: JobOwner) {
        let _ = self.to.send(Message::Left(owner)).await;
    }
}

/// Tells the queue when nobody waits for an answer any more.
struct Withdrawal<'a> {
    ask: Option<Ask>,
    to: &'a mpsc::Sender<Message>,
}

impl Drop for Withdrawal<'_> {
    fn drop(&mut self) {
        if let Some(ask) = self.ask {
            // Should the inbox be full, the question stays until its job changes: it costs a few bytes.
            let _ = self.to.try_send(Message::Event(Event::Forget(ask)));
        }
    }
}

fn no_majority(silent: &str, advice: &str) -> GanetiError {
    GanetiError::prereq(
        format!(
            "nothing can be stored: no majority of the master candidates' copies of the job queue answers (silent: {silent}); \
             nothing was done, try again when they answer; {advice}"
        ),
        Ecode::TempInsufficientResources,
    )
}

/// Returns who is silent once no majority has answered for [`UNKNOWN_AFTER`].
async fn lost(mut quorum: watch::Receiver<Option<String>>) -> String {
    loop {
        let silent = quorum.wait_for(Option::is_some).await.ok().and_then(|silent| silent.clone());
        // Without a sender luxid ends, and says so itself.
        let Some(silent) = silent else { return std::future::pending().await };
        tokio::select! {
            () = tokio::time::sleep(UNKNOWN_AFTER) => return silent,
            () = async { drop(quorum.wait_for(Option::is_none).await) } => {}
        }
    }
}

fn unknown(silent: &str, advice: &str) -> GanetiError {
    let seconds = UNKNOWN_AFTER.as_secs();
    GanetiError::exec(format!(
        "outcome unknown: this was taken, but no majority of the master candidates' copies of the job queue has confirmed \
         it for {seconds} s (silent: {silent}). It may be done when they answer again. Look before you send it again \
         (gnt-job list, gnt-task list); what has a key of its own may be sent again with the same key. To go on, {advice}"
    ))
}

/// An inbox for the queue of this writer, and its other end, which [`Actor`] takes.
#[must_use]
pub fn inbox(writer: &Writer) -> (Inbox, Mailbox) {
    let (to, messages) = mpsc::channel(INBOX_MAX);
    let (owners, asked) = mpsc::channel(OWNERS_MAX);
    let inbox = Inbox {
        to,
        owners,
        asks: Arc::new(AtomicU64::new(1)),
        quorum: writer.quorum(),
        writer: writer.clone(),
    };
    (inbox, Mailbox { messages, owners: asked })
}

/// Where the queue's task reads.
#[derive(Debug)]
pub struct Mailbox {
    messages: mpsc::Receiver<Message>,
    owners: mpsc::Receiver<Owners>,
}

/// What the actor works with.
pub struct Setting {
    /// Changes go there.
    pub writer: Writer,
    /// What clients see.
    pub view: View,
    /// What starts share.
    pub office: Arc<Office>,
    /// The dead that wconfd must hear of.
    pub gone: Gone,
    /// Lease commands to wconfd.
    pub leases: Leases,
    /// Tasks.
    pub tasks: Tasks,
    /// For the metrics.
    pub numbers: Numbers,
    /// This node.
    pub master: NodeUuid,
    /// This master's claim.
    pub fence: Fence,
}

/// The task's state.
pub struct Actor {
    queue: Queue,
    set: Setting,
    mailbox: Mailbox,
    progress: watch::Receiver<Progress>,
    quorum: watch::Receiver<Option<String>>,
    /// Batches that the store does not take now, in order. Their steps are taken, so they may not be dropped.
    parked: VecDeque<(Ticket, Batch)>,
    /// Batches under way: their last index, and the ticket it stands for.
    flights: VecDeque<(Index, Ticket)>,
    answers: HashMap<Ask, oneshot::Sender<Reply>>,
    desks: HashMap<JobOwner, Arc<Desk>>,
    /// Who asked for the owners, and how many messages came before and are not taken yet.
    asked_for_owners: Vec<(usize, Owners)>,
    /// When what waits for a batch has one of its own; by the clock that nobody sets.
    alone_at: Option<Instant>,
}

impl Actor {
    /// An actor for a loaded queue.
    #[must_use]
    pub fn new(queue: Queue, set: Setting, mailbox: Mailbox) -> Self {
        let (progress, quorum) = (set.writer.progress(), set.writer.quorum());
        Self {
            queue,
            set,
            mailbox,
            progress,
            quorum,
            parked: VecDeque::new(),
            flights: VecDeque::new(),
            answers: HashMap::new(),
            desks: HashMap::new(),
            asked_for_owners: Vec::new(),
            alone_at: None,
        }
    }

    /// Does what loading the queue led to. Each start to be adopted drops a clone of `settled` once it is known
    /// whether its process lives.
    ///
    /// # Errors
    /// When the store fails.
    pub fn begin(&mut self, loaded: Effects, settled: mpsc::Sender<()>) -> Result<(), LuxidError> {
        self.perform(loaded, Some(&settled))
    }

    /// Works until the daemon stops.
    ///
    /// # Errors
    /// When the store fails: the daemon must end (crash-only).
    pub async fn run(mut self) -> Result<(), LuxidError> {
        let stop = self.set.office.stop.clone();
        let mut lot = Vec::with_capacity(LOT_MAX);
        loop {
            let due = self.queue.due();
            let waits = self.queue.waits_for_batch();
            self.alone_at = waits.then(|| self.alone_at.unwrap_or_else(|| Instant::now() + ALONE_AFTER));
            let takes = self.parked.len() < PARKED_MAX;
            tokio::select! {
                () = until(due), if takes => lot.push(Message::Event(Event::Tick)),
                () = alone(self.alone_at), if takes => lot.push(Message::Event(Event::NoBatch)),
                got = self.mailbox.messages.recv_many(&mut lot, LOT_MAX), if takes => {
                    if got == 0 { return Ok(()) }
                    self.asked_for_owners.iter_mut().for_each(|(before, _)| *before = before.saturating_sub(got));
                }
                Some(answer) = self.mailbox.owners.recv() => {
                    self.asked_for_owners.push((self.mailbox.messages.len(), answer));
                }
                changed = self.quorum.changed(), if !self.parked.is_empty() => {
                    if changed.is_err() { return Err(LuxidError::StoreEnded) }
                }
                moved = self.progress.changed() => {
                    if moved.is_err() { return Err(LuxidError::StoreEnded) }
                }
                () = stop.cancelled() => return Ok(()),
            }
            let mut events = Vec::with_capacity(lot.len() + 1);
            events.extend(self.committed()?);
            for message in lot.drain(..) {
                events.extend(self.open(message));
            }
            let effects = self.queue.step(clock::now(), events);
            self.perform(effects, None)?;
            self.unpark()?;
            self.tell_owners();
            self.set.numbers.counts(self.queue.counts());
        }
    }

    /// What the store has committed since the last look.
    fn committed(&mut self) -> Result<Option<Event>, LuxidError> {
        let progress = self.progress.borrow_and_update();
        if let Some(reason) = &progress.failed {
            return Err(LuxidError::StoreFailed(reason.clone()));
        }
        let committed = progress.committed;
        drop(progress);
        let mut newest = None;
        while self.flights.front().is_some_and(|(index, _)| *index <= committed) {
            newest = self.flights.pop_front().map(|(_, ticket)| Event::Committed(ticket));
        }
        Ok(newest)
    }

    fn open(&mut self, message: Message) -> Option<Event> {
        match message {
            Message::Event(event) => {
                if let Event::Forget(ask) = &event {
                    self.answers.remove(ask);
                }
                Some(event)
            }
            Message::Ask(ask, request, answer) => {
                self.answers.insert(ask, answer);
                Some(Event::Asked(ask, request))
            }
            Message::Left(owner) => {
                self.desks.remove(&owner);
                None
            }
        }
    }

    fn perform(&mut self, effects: Effects, settled: Option<&mpsc::Sender<()>>) -> Result<(), LuxidError> {
        if let Some((ticket, changes)) = effects.batch {
            self.parked.extend(batches(changes).into_iter().map(|batch| (ticket, batch)));
            self.unpark()?;
        }
        for shown in &effects.shown {
            warn_of_failure(shown);
        }
        self.set.view.apply(effects.shown);
        for (ask, reply) in effects.replies {
            if let Some(answer) = self.answers.remove(&ask) {
                let _ = answer.send(reply);
            }
        }
        for action in effects.actions {
            self.act(action, settled);
        }
        Ok(())
    }

    /// Appends what is parked, as far as the store takes it: not while it is full, and not while no majority of the
    /// copies answers.
    fn unpark(&mut self) -> Result<(), LuxidError> {
        while let Some((ticket, batch)) = self.parked.front() {
            let ticket = *ticket;
            // Looked at before the attempt: a majority that comes back meanwhile is not missed.
            self.quorum.mark_unchanged();
            match self.set.writer.append(batch.clone()) {
                Ok(index) => {
                    self.parked.pop_front();
                    // Committed when its last batch is.
                    if self.parked.front().is_none_or(|(next, _)| *next != ticket) {
                        self.flights.push_back((index, ticket));
                    }
                }
                Err(stuck @ (StoreError::Full | StoreError::NoMajority { .. })) => {
                    tracing::debug!(parked = self.parked.len(), why = %stuck, "waits for the store");
                    return Ok(());
                }
                Err(error) => return Err(LuxidError::Append(error)),
            }
        }
        Ok(())
    }

    /// Names the owners to those for whom all that came before the question is known, or can't be for now.
    fn tell_owners(&mut self) {
        let takes = self.parked.len() < PARKED_MAX;
        let (waits, ready) = std::mem::take(&mut self.asked_for_owners)
            .into_iter()
            .partition(|(before, _)| takes && *before > 0);
        self.asked_for_owners = waits;
        for (_, answer) in ready {
            let _ = answer.send(self.queue.owners());
        }
    }

    fn act(&mut self, action: Action, settled: Option<&mpsc::Sender<()>>) {
        match action {
            Action::Spawn { owner, failed, class } => {
                let start = self.new_start(owner, class);
                let inbox = self.set.office.inbox.clone();
                self.set.tasks.spawn("start", async move {
                    start.run(failed).await;
                    inbox.left(owner).await;
                });
            }
            Action::Adopt { owner, process, class } => {
                let start = self.new_start(owner, class);
                let inbox = self.set.office.inbox.clone();
                let settled = settled.cloned().unwrap_or_else(|| mpsc::channel(1).0);
                self.set.tasks.spawn("adopt", async move {
                    start.adopt(process, settled).await;
                    inbox.left(owner).await;
                });
            }
            Action::Go { owner, ops, next_serial } => match Json::of(&ops) {
                Ok(ops) => {
                    let Setting { master, fence, office, .. } = &self.set;
                    let cluster = office.program.cluster;
                    let request =
                        GoRequest { owner, cluster, master: *master, fence: *fence, ops, next_serial };
                    self.at_desk(owner, |desk| desk.go(request));
                }
                Err(error) => tracing::error!(%owner, %error, "opcodes have no JSON form"),
            },
            Action::Abandon(owner) => self.at_desk(owner, Desk::abandon),
            Action::Confirm { owner, number, log_serial } => {
                self.at_desk(owner, |desk| desk.confirm(ConfirmRequest { number, log_serial }));
            }
            Action::Cancel(owner) => self.at_desk(owner, Desk::cancel),
            Action::SetPriority(owner, priority) => self.at_desk(owner, |desk| desk.set_priority(priority)),
            Action::Kill { owner, process, ask } => {
                let office = Arc::clone(&self.set.office);
                self.set.tasks.spawn("kill", async move {
                    let how = kill::kill(&office.program.root, owner, process.as_ref()).await;
                    if let Some(ask) = ask {
                        office.inbox.event(Event::Killed(ask, owner, how)).await;
                    }
                });
            }
            Action::OwnerGone(owner) => self.set.gone.add(owner),
            Action::OwnerLeft(owner) => self.set.gone.add_left(owner),
            Action::Grab { lease, owner, pool, count, for_ms, ttl_ms } => {
                let command = Command::LeaseGrab { lease, owner, pool, count, for_ms, ttl_ms };
                self.set.leases.grab(Wanted { lease, command });
            }
            Action::ReturnLease(lease) => self.set.leases.take_back(lease),
            Action::EndLease { lease, why } => self.set.leases.end(lease, why),
            Action::ForgetLease(lease) => self.set.leases.forget(lease),
            Action::Clean(owner) => self.leave(owner, Leavings::Clean),
            Action::Discard(owner) => self.leave(owner, Leavings::Discard),
        }
    }

    fn new_start(&mut self, owner: JobOwner, class: Class) -> Start {
        let desk = Arc::new(Desk::default());
        self.desks.insert(owner, Arc::clone(&desk));
        Start::new(Arc::clone(&self.set.office), owner, class, desk)
    }

    fn at_desk(&self, owner: JobOwner, order: impl FnOnce(&Desk)) {
        if let Some(desk) = self.desks.get(&owner) {
            order(desk);
        }
    }

    fn leave(&self, owner: JobOwner, leavings: Leavings) {
        self.at_desk(owner, |desk| desk.leave(leavings));
    }
}

/// Keyed jobs are archived at once; what went wrong with one stands in the log.
fn warn_of_failure(shown: &Shown) {
    let Shown::Archived(job) = shown else { return };
    if job.class == Class::Reconcile && job.status() == Status::Error {
        let why = job.ops.iter().find(|op| op.status == Status::Error).map(|op| &op.result);
        let why = why.map(ToString::to_string).unwrap_or_default();
        tracing::warn!(job = %job.id, key = job.key, why, "a keyed job failed");
    }
}

/// Waits until the wall clock says `due`; for ever when that is None. Looked at anew after every step, and at least
/// every [`CLOCK_LOOK_MS`], since the wall clock may be set.
async fn until(due: Option<Ts>) {
    let Some(due) = due else { return std::future::pending().await };
    let now = clock::now();
    let micros = |at: Ts| u128::from(at.0) * 1_000_000 + u128::from(at.1);
    let left = micros(due).saturating_sub(micros(now));
    let wait = Duration::from_micros(u64::try_from(left).unwrap_or(u64::MAX));
    tokio::time::sleep(wait.min(Duration::from_millis(CLOCK_LOOK_MS))).await;
}

/// Waits until then; for ever when that is None.
async fn alone(at: Option<Instant>) {
    match at {
        Some(at) => tokio::time::sleep_until(at).await,
        None => std::future::pending().await,
    }
}

/// Cuts changes into batches that fit a row of the log each. A removal stays with the change before it.
fn batches(changes: Vec<Change>) -> Vec<Batch> {
    let mut batches = Vec::new();
    let mut bytes = 0;
    let (mut current, mut named) = (Vec::new(), BTreeSet::new());
    for change in changes {
        let size = CHANGE_BYTES + change.body.as_ref().map_or(0, Vec::len);
        if change.body.is_some() && !current.is_empty() && bytes + size > BATCH_BYTES {
            batches.push(batch(std::mem::take(&mut current), std::mem::take(&mut named)));
            bytes = 0;
        }
        bytes += size;
        let Change { kind, key, rev, bodies, body } = change;
        named.extend(bodies.iter().filter_map(|hex| gantry_store::digest(hex)));
        current.push(gantry_store::Change { kind: kind.to_owned(), key, rev, body });
    }
    batches.push(batch(current, named));
    batches
}

fn batch(changes: Vec<gantry_store::Change>, named: BTreeSet<Digest>) -> Batch {
    Batch { bodies: named.into_iter().collect(), ..Batch::of(changes) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn change(bytes: Option<usize>) -> Change {
        Change {
            kind: "job",
            key: "1".to_owned(),
            rev: 1,
            bodies: Vec::new(),
            body: bytes.map(|n| vec![b'x'; n]),
        }
    }

    #[test]
    fn large_steps_are_cut_but_never_before_a_removal() {
        let changes = vec![change(Some(700_000)), change(Some(700_000)), change(None), change(Some(10))];
        let sizes: Vec<usize> = batches(changes).iter().map(|b| b.changes.len()).collect();
        assert_eq!(sizes, [1, 3]);
        assert_eq!(batches(vec![change(Some(2_900_000))]).len(), 1);
    }
}
