//! The one owner of configuration, locks and the log's writer. All questions pass here one by one.
//!
//! ```text
//! questions ─► Owner { config, locks } ─► Writer (append, local) ─► progress ─► replies, watchers
//! ```
//!
//! **Nobody sees what is not committed** (P1.5). A question is answered from the newest state, but the
//! answer, refusals included, is held until everything appended before it is committed. If the store
//! fails the daemon stops, and held answers are never given.

use super::lease_time::LeaseTime;
use super::mailbox::{Inbox, Reply, Ticket};
use super::nodes::Nodes;
use super::owner_locks::Waiter;
use super::owner_members::Settled;
use super::owner_watch::Watchers;
use crate::core::claim::{self, Asked, Spared};
use crate::core::config::{Change, Config, Context, Effect, Fix, Ids, Snapshot};
use crate::core::guard;
use crate::core::locks::LockTable;
use anyhow::{Context as _, bail};
use gantry_copies::advice::advice;
use gantry_model::config::kind;
use gantry_model::error::GanetiError;
use gantry_model::ids::{JobOwner, NodeUuid};
use gantry_model::pool::Image;
use gantry_proto::envelope::{Code, Fail};
use gantry_proto::noded::SlotFacts;
use gantry_proto::wconfd::{Command, LockBlocked, ReadKey};
use gantry_rt::clock;
use gantry_store::{Batch, Index, LocalChange, LocalSeq, Progress, StoreError, Writer};
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Duration;
use tokio::sync::watch;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

/// Answers that may wait for the store at once. The store's own queue takes more, so that locks, which
/// can't be taken back, always find room there.
const HELD_MAX: usize = 10_000;
/// Changes of job locks that may wait for a majority: one for each live job there may be. Then no more locks are given. What
/// gives locks back is never refused, but gives back no more than was taken; so with [`HELD_MAX`] batches before them all fit
/// into the writer's queue, however long the copies are away.
pub const LOCALS_MAX: u64 = 5_000;
/// Questions answered before the owner looks at progress again.
const QUESTIONS_PER_TURN: usize = 256;
/// Dead jobs remembered, so that a request of one that was still under way is refused. It arrives
/// within seconds; this many deaths take minutes at the highest rate of jobs.
const GONE_MAX: usize = 65_536;
/// Corrections put into one batch, so that it fits a frame of the watch stream: each may break a lease of many VMs.
const FIXES_PER_BATCH: usize = 50;

/// How long an answer waits for a commit while no majority of the copies answers (P1.6). It is unknown then. Well under the
/// deadlines of callers, who are to hear more than that there was no answer.
pub const UNKNOWN_AFTER: Duration = Duration::from_secs(10);

/// An answer that waits for the store.
struct Held {
    index: Index,
    local: LocalSeq,
    since: Instant,
    /// Sends it, or what is said in its place.
    send: Box<dyn FnOnce(Option<Fail>) + Send>,
}

/// Random ids.
pub(super) struct Random;

impl Ids for Random {
    fn fresh(&mut self) -> [u8; 16] {
        let mut bytes = [0; 16];
        getrandom::fill(&mut bytes).expect("the kernel has random bytes once booted");
        bytes
    }
}

/// All state of this daemon.
pub struct Owner {
    pub(super) config: Config,
    pub(super) locks: LockTable<JobOwner>,
    pub(super) waiters: BTreeMap<JobOwner, Waiter>,
    /// Whether someone who waits may be blocked by others than he was told.
    pub(super) blockers_moved: bool,
    pub(super) watchers: Watchers,
    pub(super) nodes: Nodes,
    pub(super) lease_time: LeaseTime,
    /// Lost VMs that are left to their attempts for a while.
    spared: Spared,
    writer: Writer,
    /// The newest index: of the last batch appended, or committed at start.
    pub(super) last: Index,
    last_local: LocalSeq,
    pub(super) progress: Progress,
    held: VecDeque<Held>,
    /// Owners read from the files, until luxid's first word on who lives (P4.8).
    unproved: Option<BTreeSet<JobOwner>>,
    gone: BTreeSet<JobOwner>,
    gone_order: VecDeque<JobOwner>,
    /// Counts changes after which ssconf values may differ.
    ssconf: watch::Sender<u64>,
    /// Whose copies count, as committed.
    pub(super) members: Settled,
    /// A local change that the store refused: the daemon must stop.
    failed: Option<StoreError>,
}

/// What the owner starts with.
pub struct Start {
    /// As loaded.
    pub config: Config,
    /// As restored.
    pub locks: LockTable<JobOwner>,
    /// The store.
    pub writer: Writer,
    /// Committed at start.
    pub committed: Index,
}

impl Owner {
    /// Takes over what was loaded. Returns also what counts changes of ssconf.
    #[must_use]
    pub fn new(start: Start) -> (Self, watch::Receiver<u64>) {
        let Start { config, locks, writer, committed } = start;
        let (ssconf, ssconf_news) = watch::channel(0);
        let unproved: BTreeSet<_> = locks.owners().into_iter().chain(config.owners()).collect();
        let progress = Progress { committed, ..Progress::default() };
        let mut owner = Self {
            nodes: Nodes::new(&config),
            lease_time: LeaseTime::from(config.lease_clock()),
            spared: Spared::default(),
            members: Settled::new(config.members().cloned()),
            config,
            locks,
            waiters: BTreeMap::new(),
            blockers_moved: false,
            watchers: Watchers::default(),
            writer,
            last: committed,
            last_local: LocalSeq(0),
            progress,
            held: VecDeque::new(),
            unproved: Some(unproved),
            gone: BTreeSet::new(),
            gone_order: VecDeque::new(),
            ssconf,
            failed: None,
        };
        owner.config.owners().collect::<Vec<_>>().into_iter().for_each(|job| {
            owner.config.applied_at(job, committed.0);
        });
        (owner, ssconf_news)
    }

    /// Answers questions until `stop`.
    ///
    /// # Errors
    /// When the store fails: nothing more can be promised then.
    pub async fn run(mut self, mut inbox: Inbox, stop: CancellationToken) -> anyhow::Result<()> {
        let (mut progress, mut quorum) = (self.writer.progress(), self.writer.quorum());
        // What was committed since this owner was made is news too: else answers would wait for the commit after it.
        progress.mark_changed();
        self.resume_leases().context("giving leases their time")?;
        loop {
            let pause = self.lease_pause();
            let unknown = self.unknown_at(&quorum.borrow_and_update());
            tokio::select! {
                biased;
                () = stop.cancelled() => break,
                changed = progress.changed() => {
                    changed.context("the store's writer is gone")?;
                    let now = progress.borrow_and_update().clone();
                    self.advance(now)?;
                }
                changed = quorum.changed() => changed.context("the store's writer is gone")?,
                () = at(unknown) => self.tell_unknown(&quorum.borrow()),
                () = wake(pause) => self.lease_timer(),
                () = inbox.dropped.news() => self.withdraw(inbox.dropped.take()),
                question = inbox.questions.recv() => {
                    let Some(question) = question else { break };
                    question(&mut self);
                    for _ in 1..QUESTIONS_PER_TURN {
                        let Ok(question) = inbox.questions.try_recv() else { break };
                        question(&mut self);
                    }
                }
            }
            if let Some(error) = self.failed.take() {
                return Err(error).context("job locks can't be written");
            }
            self.tell_blockers();
        }
        let writer = self.writer.clone();
        tokio::task::spawn_blocking(move || writer.stop()).await.context("stopping the store")?;
        // What was queued is on the disk now: those who wait may hear it while their connections last.
        let last = progress.borrow_and_update().clone();
        self.advance(last)
    }

    /// Gives the answers and batches that are committed now.
    fn advance(&mut self, now: Progress) -> anyhow::Result<()> {
        if let Some(reason) = &now.failed {
            bail!("the store failed: {reason}");
        }
        self.watchers.advance(now.committed);
        self.members.advance(now.committed);
        self.progress = now;
        while let Some(held) = self
            .held
            .pop_front_if(|held| held.index <= self.progress.committed && held.local <= self.progress.local)
        {
            (held.send)(None);
        }
        Ok(())
    }

    /// When the oldest answer is unknown, unless a majority comes back before.
    fn unknown_at(&self, silent: &Option<String>) -> Option<Instant> {
        silent.as_ref().and(self.held.front()).map(|held| held.since + UNKNOWN_AFTER)
    }

    /// Tells those who have waited long enough that nobody knows what becomes of what they asked. It stays where it is:
    /// what was appended is committed with the next majority, and a repeated batch is answered then.
    fn tell_unknown(&mut self, silent: &Option<String>) {
        let Some(silent) = silent else { return };
        let members = self.writer.list().1.members.len();
        while let Some(held) = self.held.pop_front_if(|held| held.since.elapsed() >= UNKNOWN_AFTER) {
            (held.send)(Some(unknown(silent, members)));
        }
    }

    /// Answers once everything before is committed.
    pub(super) fn answer<T: Send + 'static>(&mut self, reply: Reply<T>, answer: Result<T, Fail>) {
        let (index, local) = (self.last, self.last_local);
        let ready = index <= self.progress.committed && local <= self.progress.local;
        if ready && self.held.is_empty() {
            return reply.send(answer);
        }
        let send = move |instead: Option<Fail>| reply.send(instead.map_or(answer, Err));
        self.held.push_back(Held { index, local, since: Instant::now(), send: Box::new(send) });
    }

    /// Refuses when too many answers wait for the store.
    pub(super) fn has_room(&self) -> Result<(), Fail> {
        if self.held.len() < HELD_MAX {
            return Ok(());
        }
        Err(Fail::new(Code::Busy, format!("{HELD_MAX} answers wait for the disk; try again")))
    }

    /// Whether so many changes of locks wait for a majority that no more are given.
    #[must_use]
    pub fn locks_are_full(&self) -> bool {
        self.last_local.0.saturating_sub(self.progress.local.0) >= LOCALS_MAX
    }

    /// Refuses when too many changes of locks wait for a majority.
    pub(super) fn has_room_for_locks(&self) -> Result<(), Fail> {
        if !self.locks_are_full() {
            return Ok(());
        }
        let text = format!(
            "{LOCALS_MAX} changes of job locks wait until a majority of the copies answers; try again"
        );
        Err(Fail::new(Code::Busy, text))
    }

    /// Refuses what a dead job asked while it lived.
    pub(super) fn lives(&self, owner: JobOwner) -> Result<(), Fail> {
        if !self.gone.contains(&owner) {
            return Ok(());
        }
        Err(Fail::new(Code::Stale, format!("job {owner} was found dead; its locks are gone")))
    }

    /// Appends what a batch did, or takes it back.
    pub(super) fn store(&mut self, effect: Effect) -> Result<Vec<Value>, Fail> {
        let Effect { changes, results, ssconf, undo } = effect;
        if changes.is_empty() {
            return Ok(results);
        }
        let batch = batch(&changes);
        match self.writer.append(batch) {
            Ok(index) => {
                self.last = index;
                self.watchers.appended(index, &changes);
                if changes.iter().any(|change| change.kind == kind::MEMBERS) {
                    self.members.appended(index, self.config.members().cloned());
                }
                if ssconf {
                    self.ssconf.send_modify(|count| *count += 1);
                    self.nodes.follow(&self.config);
                }
                Ok(results)
            }
            Err(error) => {
                self.config.undo(undo);
                Err(store_fail(&error, self.writer.list().1.members.len()))
            }
        }
    }

    /// Queues job locks to be written. They can't be taken back: if the store refuses, the daemon stops.
    pub(super) fn store_local(&mut self, changes: Vec<LocalChange>) {
        if changes.is_empty() {
            return;
        }
        match self.writer.local(changes) {
            Ok(seq) => self.last_local = seq,
            Err(error) => self.failed = Some(error),
        }
    }

    /// Applies a job's commands. The answer is the index the results stand at.
    pub fn apply(
        &mut self,
        owner: Option<(JobOwner, u64)>,
        commands: &[Command],
        reply: Reply<(u64, Vec<Value>)>,
    ) {
        let done = self.try_apply(owner, commands);
        self.answer(reply, done);
    }

    fn try_apply(
        &mut self,
        owner: Option<(JobOwner, u64)>,
        commands: &[Command],
    ) -> Result<(u64, Vec<Value>), Fail> {
        self.has_room()?;
        if let Some((job, seq)) = owner {
            self.lives(job)?;
            if let Some(done) = self.repeated(job, seq)? {
                return Ok(done);
            }
            self.may(job, commands)?;
        }
        let (now, lease_clock) = (clock::now().epoch(), self.lease_time.now());
        let mut context = Context { now, clock: lease_clock, owner, ids: &mut Random };
        let effect = self.config.apply(commands, &mut context)?;
        let changed = !effect.changes.is_empty();
        let results = self.store(effect)?;
        if let (Some((job, _)), true) = (owner, changed) {
            self.config.applied_at(job, self.last.0);
        }
        Ok((self.last.0, results))
    }

    /// Refuses what [`Owner::apply`] would refuse now; nothing has changed afterwards.
    pub fn check(&mut self, owner: JobOwner, commands: &[Command], reply: Reply<()>) {
        let done = self.try_check(owner, commands);
        self.answer(reply, done);
    }

    fn try_check(&mut self, owner: JobOwner, commands: &[Command]) -> Result<(), Fail> {
        self.has_room()?;
        self.lives(owner)?;
        self.may(owner, commands)?;
        let (now, lease_clock) = (clock::now().epoch(), self.lease_time.now());
        let mut context = Context { now, clock: lease_clock, owner: None, ids: &mut Random };
        let effect = self.config.apply(commands, &mut context)?;
        self.config.undo(effect.undo);
        Ok(())
    }

    /// The answer to a batch that was applied before, when it is asked for again.
    fn repeated(&self, owner: JobOwner, seq: u64) -> Result<Option<(u64, Vec<Value>)>, Fail> {
        match self.config.applied(owner) {
            Some(last) if last.seq == seq => Ok(Some((last.index, last.results.clone()))),
            Some(last) if last.seq > seq => {
                let text = format!("batch {seq} of job {owner} comes after its batch {}", last.seq);
                Err(Fail::new(Code::Stale, text))
            }
            Some(_) | None => Ok(None),
        }
    }

    /// Refuses commands for which the job lacks the lock.
    pub(super) fn may(&self, owner: JobOwner, commands: &[Command]) -> Result<(), Fail> {
        if commands.iter().any(guard::luxid_only) {
            return Err(Fail::new(Code::Denied, "only luxid grants and ends leases, not a job"));
        }
        for lock in commands.iter().filter_map(|command| guard::needed(&self.config, command)) {
            if !guard::covers(self.locks.held(&owner), &lock) {
                let text = format!("job {} does not hold lock {lock} exclusively", owner.job);
                return Err(GanetiError::new("LockError", text).into());
            }
        }
        Ok(())
    }

    /// Reads objects; the answer has the index they stand at.
    pub fn read(&mut self, keys: &[ReadKey], reply: Reply<(Index, Snapshot)>) {
        let read = self.config.read(keys).map(|objects| (self.last, objects)).map_err(Fail::from);
        self.answer(reply, read);
    }

    /// Everything, with the index it stands at.
    pub fn snapshot(&mut self, reply: Reply<(Index, Snapshot)>) {
        let all = (self.last, self.config.snapshot());
        self.answer(reply, Ok(all));
    }

    /// A dead job: its locks are free, its wait is over, what it was making is dirty. Safe to repeat.
    pub fn owner_gone(&mut self, owner: JobOwner, reply: Reply<()>) {
        let done = self.bury(owner);
        // Not held until it is committed: luxid says it again on each connection to a wconfd that may have forgotten it,
        // and a change of the members needs this connection while nothing can be committed.
        reply.send(done);
    }

    fn bury(&mut self, owner: JobOwner) -> Result<(), Fail> {
        if self.gone.insert(owner) {
            self.gone_order.push_back(owner);
        }
        if self.gone_order.len() > GONE_MAX
            && let Some(oldest) = self.gone_order.pop_front()
        {
            self.gone.remove(&oldest);
        }
        self.free_all(owner, "the job was found dead");
        let effect = self.config.owner_gone(owner, clock::now().epoch());
        self.store(effect).map(drop)?;
        if let Some(unproved) = &mut self.unproved {
            unproved.remove(&owner);
        }
        Ok(())
    }

    /// luxid's word on which jobs run (P4.7, P4.8), `term` being its (epoch, run). Of the owners found in the files
    /// those not named by the first word are dead. So are, at each word, owners started by older luxids: the one that
    /// speaks knows all of them that run. Its own are never freed by silence: their deaths are told one by one.
    pub fn owners(&mut self, term: (u64, u64), living: &BTreeSet<JobOwner>, reply: Reply<()>) {
        let done = self.prove(term, living);
        // At once, for the reason of `owner_gone`: the first word of each connection names all that live.
        reply.send(done);
    }

    fn prove(&mut self, term: (u64, u64), living: &BTreeSet<JobOwner>) -> Result<(), Fail> {
        let known = self.locks.owners().into_iter().chain(self.config.owners());
        let older = known.filter(|owner| (owner.start.epoch, owner.start.run) < term);
        let dead: BTreeSet<_> =
            self.unproved.iter().flatten().copied().chain(older).filter(|o| !living.contains(o)).collect();
        if !dead.is_empty() {
            tracing::info!(dead = dead.len(), "owners of before are dead");
        }
        dead.into_iter().try_for_each(|owner| self.bury(owner))?;
        self.unproved = None;
        Ok(())
    }

    /// A node is about to be asked for its inventory.
    pub fn asking(&mut self, node: NodeUuid, reply: Reply<Asked>) {
        reply.send(Ok(claim::asked(&self.config, node)));
    }

    /// A claimed node's inventory: puts right what it shows, and lets work go there.
    pub fn inventory(&mut self, node: NodeUuid, asked: &Asked, facts: &[SlotFacts], reply: Reply<()>) {
        let done = self.compare(node, asked, facts);
        if done.is_ok() {
            self.nodes.claimed(&mut self.config, node);
        }
        self.answer(reply, done);
    }

    fn compare(&mut self, node: NodeUuid, asked: &Asked, facts: &[SlotFacts]) -> Result<(), Fail> {
        let mut found = claim::compare(&self.config, node, asked, facts);
        let (config, now) = (&self.config, clock::millis());
        self.spared.keep(|slot, rev| config.slot(slot).is_some_and(|row| row.rev == rev));
        found.fixes.retain(|fix| {
            let attempts = claim::attempts_loss(config, fix.slot, facts);
            !attempts.is_some_and(|rev| self.spared.spares(fix.slot, rev, now))
        });
        for slot in &found.strangers {
            tracing::warn!(%node, %slot, "the node has a VM of a slot that is not homed there");
        }
        for fix in &found.fixes {
            let Fix { slot, generation, dirty } = fix;
            tracing::info!(%node, %slot, %generation, dirty = dirty.as_deref(), "inventory differs");
        }
        for fixes in found.fixes.chunks(FIXES_PER_BATCH) {
            let effect = self.config.fix(fixes, clock::now().epoch(), self.lease_time.now());
            self.store(effect)?;
        }
        Ok(())
    }

    /// A claimed node tells of a VM that died: as an inventory of that slot alone.
    pub fn vm_lost(&mut self, node: NodeUuid, facts: &SlotFacts, reply: Reply<()>) {
        let asked = claim::told_of(&self.config, node, facts);
        let done = self.compare(node, &asked, std::slice::from_ref(facts));
        self.answer(reply, done);
    }

    /// A node can't be reached.
    pub fn node_lost(&mut self, node: NodeUuid, why: String, reply: Reply<()>) {
        self.nodes.lost(&mut self.config, node, why);
        reply.send(Ok(()));
    }

    /// Drops the waits that nobody waits for any more.
    fn withdraw(&mut self, dropped: Vec<(JobOwner, Ticket)>) {
        for (owner, ticket) in dropped {
            if self.waiters.get(&owner).is_some_and(|waiter| waiter.ticket == ticket) {
                self.waiters.remove(&owner);
                self.locks.withdraw(&owner);
                tracing::debug!(%owner, "waiting request withdrawn");
            }
        }
    }
}

/// Who blocks a waiting request, shown as it changes.
pub type Blocked = watch::Sender<Option<LockBlocked>>;

/// The batch of these changes. It names the bodies of images: a copy that counts has them.
fn batch(changes: &[Change]) -> Batch {
    let images = changes.iter().filter(|change| change.kind == kind::IMAGE);
    let digest = |change: &Change| {
        let image: Image = serde_json::from_slice(change.body.as_ref()?).ok()?;
        gantry_store::digest(&image.digest)
    };
    let bodies = images.filter_map(digest).collect();
    Batch { bodies, ..Batch::of(changes.iter().map(stored).collect()) }
}

fn stored(change: &Change) -> gantry_store::Change {
    let Change { kind, key, rev, body } = change;
    gantry_store::Change { kind: kind.clone(), key: key.clone(), rev: *rev, body: body.clone() }
}

/// Ends after a pause; never without one.
async fn wake(pause: Option<Duration>) {
    match pause {
        Some(pause) => tokio::time::sleep(pause).await,
        None => std::future::pending().await,
    }
}

/// The same for a point in time.
async fn at(when: Option<Instant>) {
    match when {
        Some(when) => tokio::time::sleep_until(when).await,
        None => std::future::pending().await,
    }
}

fn unknown(silent: &str, members: usize) -> Fail {
    let seconds = UNKNOWN_AFTER.as_secs();
    let text = format!(
        "outcome unknown: no majority of the master candidates' copies of the configuration has confirmed it within \
         {seconds} s (silent: {silent}); it is done when a majority answers again; ask again then; {}",
        advice(members, silent)
    );
    Fail::new(Code::Unknown, text)
}

pub(super) fn store_fail(error: &StoreError, members: usize) -> Fail {
    match error {
        StoreError::Full => Fail::new(Code::Busy, "the store can't keep up; try again"),
        StoreError::NoMajority { silent } => Fail::new(
            Code::NotReady,
            format!(
                "no majority of the master candidates' copies answers, so nothing can be changed; silent: {silent}; {}",
                advice(members, silent)
            ),
        ),
        other => Fail::new(Code::Internal, format!("the change was not stored: {}", other.chain())),
    }
}
