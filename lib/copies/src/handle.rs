//! What a leading writer knows of its copies, and who looks after them: senders are started and ended as the list and the
//! learners say, a majority that does not answer is told to the writer (docs/adr/0008, 5), and old rows are compacted.

use crate::bodies::{Carrier, Named};
use crate::error::CopiesError;
use crate::link::Link;
use crate::roll::Roll;
use crate::{own, sender};
use gantry_model::ids::NodeUuid;
use gantry_model::root::Root;
use gantry_proto::{noded, wconfd};
use gantry_rt::clock;
use gantry_store::core::copy::{Claim, Refusal};
use gantry_store::core::list::Member;
use gantry_store::core::row::{Index, Term};
use gantry_store::core::token::TokenRecord;
use gantry_store::{LogKind, StoreError, Writer};
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

/// A copy that gave no answer for this long counts as silent (P1.6).
pub const SILENT_MS: u64 = 5_000;
/// How often the list, the learners and the silent are looked at.
const LOOK: Duration = Duration::from_millis(100);
/// Twenty looks: a majority that is not known by then is lost.
const KNOWN_MAX: Duration = Duration::from_secs(2);
/// How often old rows are offered for compaction, in looks: every 10 s.
const COMPACT_LOOKS: u64 = 100;
/// How long a confirmation may take: two answers of a copy that is just not silent.
const CONFIRM_MS: u64 = 5_000;
/// How long the own noded may take to hear that its master is deposed.
const TELL_MS: u64 = 2_000;

/// What a handle is made of.
pub(crate) struct Parts<L> {
    pub link: Arc<L>,
    pub root: Root,
    pub log: LogKind,
    pub me: Member,
    pub claim: Claim,
    pub stop: CancellationToken,
}

/// What is known of one copy.
#[derive(Debug, Clone)]
pub struct Entry {
    /// Which.
    pub member: Member,
    /// It does not count yet.
    pub learner: bool,
    /// What it has confirmed under the own term.
    pub matched: Index,
    /// Why it counts no more.
    pub suspect: Option<String>,
    /// When it last answered; the start of its sender before it first did. [`clock::millis`].
    pub answered_at: u64,
    /// Whether it ever answered.
    pub answered: bool,
    /// The last round of confirmation it answered.
    pub round: u64,
    /// Why it does not answer; empty when it does.
    pub why: String,
    /// A snapshot on its way to it: what it holds, and until when that is kept without another piece taken
    /// ([`clock::millis`]).
    pub snapshot: Option<(Index, u64)>,
}

/// A copy as it is shown.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CopyStatus {
    /// The node.
    pub node: NodeUuid,
    /// Its name.
    pub name: String,
    /// The copy.
    pub copy_id: Uuid,
    /// It does not count yet.
    pub learner: bool,
    /// What it has confirmed.
    pub matched: Index,
    /// Rows it lacks.
    pub lag: u64,
    /// Why it counts no more.
    pub suspect: Option<String>,
    /// How long ago it answered, ms; None: not yet.
    pub answered_ms_ago: Option<u64>,
    /// Why it does not answer.
    pub why: String,
}

impl From<CopyStatus> for wconfd::CopyStatus {
    fn from(copy: CopyStatus) -> Self {
        let CopyStatus { node, name, copy_id, learner, matched, lag, suspect, answered_ms_ago, why } = copy;
        Self { node, name, copy_id, learner, matched: matched.0, lag, suspect, answered_ms_ago, why }
    }
}

struct Sender {
    entry: Entry,
    stop: CancellationToken,
}

/// Shared by the handle, the look-out and the senders.
pub(crate) struct Shared<L> {
    pub link: Arc<L>,
    pub root: Root,
    pub log: LogKind,
    pub me: Member,
    pub claim: Claim,
    pub writer: Writer,
    /// Held while a snapshot is written and sent: one at a time, there is one file.
    pub snapshots: tokio::sync::Mutex<()>,
    /// What the objects name, once they are known.
    named: OnceLock<Named>,
    /// Rises when a body came from a copy: others may lack it too.
    bodies: AtomicU64,
    senders: Mutex<BTreeMap<Uuid, Sender>>,
    learners: Mutex<BTreeMap<Uuid, Member>>,
    rounds: watch::Sender<u64>,
    /// Some entry has changed.
    moved: watch::Sender<u64>,
    deposed: watch::Sender<Option<(Uuid, Refusal)>>,
    pub stop: CancellationToken,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // Maps of independent entries: none is half changed when a holder dies.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Runs what blocks on a thread that may.
pub(crate) async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    match tokio::task::spawn_blocking(work).await {
        Ok(done) => done,
        Err(why) => match why.try_into_panic() {
            Ok(panic) => std::panic::resume_unwind(panic),
            // The runtime ends, and this task with it.
            Err(_) => std::future::pending().await,
        },
    }
}

impl<L: Link> Shared<L> {
    pub fn name(&self, node: Uuid) -> String {
        self.link.name(NodeUuid(node))
    }

    /// Carries bodies to and from a copy's node.
    pub fn carrier(&self, member: Member) -> Carrier<'_, L> {
        Carrier { link: &self.link, root: &self.root, log: self.log, node: NodeUuid(member.node) }
    }

    /// What the objects name, if they are known.
    pub fn named(&self) -> Option<Named> {
        self.named.get().cloned()
    }

    /// Rises when a body came from a copy.
    pub fn bodies_round(&self) -> u64 {
        self.bodies.load(Ordering::Relaxed)
    }

    /// A body came from a copy: what the others have is looked at again.
    pub fn next_bodies_round(&self) {
        self.bodies.fetch_add(1, Ordering::Relaxed);
    }

    /// The last index given out.
    pub fn last(&self) -> Index {
        *self.writer.appended().borrow()
    }

    /// Changes what is known of a copy.
    pub fn note(&self, member: Member, change: impl FnOnce(&mut Entry)) {
        if let Some(sender) = lock(&self.senders).get_mut(&member.copy_id) {
            change(&mut sender.entry);
        }
        self.moved.send_modify(|moved| *moved += 1);
    }

    /// Something known of a copy.
    pub fn entry<T: Default>(&self, member: Member, of: impl FnOnce(&Entry) -> T) -> T {
        lock(&self.senders).get(&member.copy_id).map(|sender| of(&sender.entry)).unwrap_or_default()
    }

    /// The round of confirmation under way.
    pub fn round(&self) -> u64 {
        *self.rounds.borrow()
    }

    /// Told when another begins.
    pub fn rounds(&self) -> watch::Receiver<u64> {
        self.rounds.subscribe()
    }

    /// A copy took an append that was sent in `round`: it stands by the term, and rows can be committed by it. No other
    /// answer says so: one that can't take rows counts as silent however lively it is.
    pub fn answered(&self, member: Member, round: u64) {
        self.note(member, |entry| {
            entry.answered_at = clock::millis();
            entry.answered = true;
            entry.why.clear();
            entry.round = round;
            entry.snapshot = None;
        });
    }

    /// A copy is alive and takes a snapshot that ends at `at`: the rows after it are kept for it so many ms more.
    pub fn takes_snapshot(&self, member: Member, at: Index, ms: u64) {
        self.note(member, |entry| entry.snapshot = Some((at, clock::millis() + ms)));
    }

    /// A copy has flushed all rows up to `idx`.
    pub fn matched(&self, member: Member, idx: Index) {
        self.note(member, |entry| entry.matched = entry.matched.max(idx));
        self.writer.confirm(member.copy_id, self.claim.term, idx);
    }

    /// The newest record of a copy's tokens in the own log, as far as it is flushed. A row that is not has not been
    /// given to anybody, so what it says may be drawn again.
    pub async fn record_of(&self, copy_id: Uuid) -> Result<Option<TokenRecord>, StoreError> {
        let writer = self.writer.clone();
        Ok(blocking(move || writer.tokens()).await?.of(&copy_id).copied())
    }

    /// A copy refuses this writer for ever.
    pub fn depose(&self, node: Uuid, why: Refusal) {
        tracing::error!(log = ?self.log, node = self.name(node), %why, "deposed");
        self.deposed.send_if_modified(|deposed| {
            let first = deposed.is_none();
            deposed.get_or_insert((node, why));
            first
        });
    }

    fn error(&self, (node, why): (Uuid, Refusal)) -> CopiesError {
        CopiesError::Deposed { who: self.name(node), term: self.claim.term, why }
    }
}

/// The way to a leading writer's copies. Clones share them; they end with [`CopiesHandle::end`] or the daemon's stop.
pub struct CopiesHandle<L>(Arc<Shared<L>>);

impl<L> Clone for CopiesHandle<L> {
    fn clone(&self) -> Self {
        Self(Arc::clone(&self.0))
    }
}

impl<L: Link> CopiesHandle<L> {
    /// Starts what looks after the copies of a writer that leads.
    pub(crate) fn spawn(parts: Parts<L>, writer: Writer) -> Self {
        let Parts { link, root, log, me, claim, stop } = parts;
        let shared = Arc::new(Shared {
            link,
            root,
            log,
            me,
            claim,
            writer,
            snapshots: tokio::sync::Mutex::default(),
            named: OnceLock::new(),
            bodies: AtomicU64::new(0),
            senders: Mutex::default(),
            learners: Mutex::default(),
            rounds: watch::Sender::new(0),
            moved: watch::Sender::new(0),
            deposed: watch::Sender::new(None),
            stop: stop.child_token(),
        });
        tokio::spawn(look_out(Arc::clone(&shared)));
        tokio::spawn(own::token(Arc::clone(&shared)));
        Self(shared)
    }

    /// Each copy that is fed, the own one left out.
    #[must_use]
    pub fn status(&self) -> Vec<CopyStatus> {
        let (now, last) = (clock::millis(), self.0.last());
        let status = |sender: &Sender| {
            let Entry { member, learner, matched, suspect, answered, why, .. } = sender.entry.clone();
            CopyStatus {
                node: NodeUuid(member.node),
                name: self.0.name(member.node),
                copy_id: member.copy_id,
                learner,
                matched,
                lag: last.0.saturating_sub(matched.0),
                suspect,
                answered_ms_ago: answered.then(|| sender.entry.silent_ms(now)),
                why,
            }
        };
        lock(&self.0.senders).values().map(status).collect()
    }

    /// All copies as they travel, the own one, whose node is so called, first.
    #[must_use]
    pub fn shown(&self, own_name: String) -> Vec<wconfd::CopyStatus> {
        let me = self.0.me;
        let own = wconfd::CopyStatus {
            node: NodeUuid(me.node),
            name: own_name,
            copy_id: me.copy_id,
            learner: false,
            matched: self.0.last().0,
            lag: 0,
            suspect: None,
            answered_ms_ago: Some(0),
            why: String::new(),
        };
        std::iter::once(own).chain(self.status().into_iter().map(Into::into)).collect()
    }

    /// The rows after this one are kept for a copy that answers (P3.1).
    #[must_use]
    pub fn slowest(&self) -> Index {
        slowest(&self.0)
    }

    /// Told whenever something in [`CopiesHandle::status`] changed.
    #[must_use]
    pub fn moved(&self) -> watch::Receiver<u64> {
        self.0.moved.subscribe()
    }

    /// Feeds an empty copy that does not count (P2.2). Kept in memory only.
    pub fn add_learner(&self, member: Member) {
        lock(&self.0.learners).insert(member.copy_id, member);
    }

    /// Feeds it no more, unless it has become a member.
    pub fn forget_learner(&self, copy_id: Uuid) {
        lock(&self.0.learners).remove(&copy_id);
    }

    /// From now on every session first brings both sides to the bodies that the objects name. Only the first call counts.
    pub fn set_named(&self, named: Named) {
        let _ = self.0.named.set(named);
    }

    /// All copies are asked anew which bodies they have.
    pub fn take_bodies_anew(&self) {
        self.0.next_bodies_round();
    }

    /// Who leads: the claim that each append carries.
    #[must_use]
    pub fn claim(&self) -> Claim {
        self.0.claim
    }

    /// Asks all members whether they still stand by this writer (P1.10); good when a majority did after this was called.
    ///
    /// # Errors
    /// [`CopiesError::Unconfirmed`] after 5 s; [`CopiesError::Deposed`] as soon as one knows better.
    pub async fn confirm(&self) -> Result<(), CopiesError> {
        let shared = &self.0;
        let mut moved = shared.moved.subscribe();
        let mut round = 0;
        shared.rounds.send_modify(|rounds| {
            *rounds += 1;
            round = *rounds;
        });
        let stands = AtomicBool::new(false);
        let confirmed = async {
            let own = self.own_stands().await?;
            stands.store(own, Ordering::Relaxed);
            loop {
                moved.mark_unchanged();
                let list = shared.writer.list().1;
                let answered = |m: &&Member| m.copy_id == shared.me.copy_id && own || self.answered(m, round);
                if list.members.iter().filter(answered).count() >= list.majority() {
                    return Ok(());
                }
                if moved.changed().await.is_err() {
                    return Err(CopiesError::Stopped);
                }
            }
        };
        tokio::select! {
            done = confirmed => done,
            why = self.deposed() => Err(why),
            () = tokio::time::sleep(Duration::from_millis(CONFIRM_MS)) => Err(self.unconfirmed(round, stands.load(Ordering::Relaxed))),
            () = shared.stop.cancelled() => Err(CopiesError::Stopped),
        }
    }

    fn answered(&self, member: &Member, round: u64) -> bool {
        self.0.entry(*member, |entry| entry.suspect.is_none() && entry.round >= round)
    }

    /// The own copy counts while its file still promises just this start. A list of one asks nobody: nobody else can be
    /// promised anything without this copy.
    async fn own_stands(&self) -> Result<bool, CopiesError> {
        let shared = &self.0;
        if shared.writer.list().1.members.len() == 1 {
            return Ok(true);
        }
        let node = NodeUuid(shared.me.node);
        let deadline = Duration::from_millis(CONFIRM_MS);
        let Ok(look) = shared.link.call::<noded::CopyLook>(node, (), deadline).await else {
            return Ok(false);
        };
        let own = look.copies.iter().find(|(log, _)| *log == crate::wire::log(shared.log));
        let Some((_, own)) = own else { return Ok(false) };
        let promised = crate::wire::to_term(own.promised);
        if promised > shared.claim.term {
            return Err(shared.error((shared.me.node, Refusal::Promised(promised))));
        }
        Ok(promised == shared.claim.term && own.nonce == shared.claim.nonce)
    }

    fn unconfirmed(&self, round: u64, own: bool) -> CopiesError {
        let list = self.0.writer.list().1;
        let has = |m: &&Member| if m.copy_id == self.0.me.copy_id { own } else { self.answered(m, round) };
        let silent: Vec<_> = list.members.iter().filter(|m| !has(m)).map(|m| self.0.name(m.node)).collect();
        CopiesError::Unconfirmed {
            have: list.members.len() - silent.len(),
            need: list.majority(),
            silent: silent.join(", "),
            ms: CONFIRM_MS,
        }
    }

    /// Returns when a copy has refused this writer for ever: the daemon must exit. The own noded was told of a higher
    /// epoch then.
    pub async fn deposed(&self) -> CopiesError {
        let mut deposed = self.0.deposed.subscribe();
        // The sender lives as long as self.
        let known = deposed.wait_for(Option::is_some).await.ok().and_then(|known| *known);
        match known {
            Some(known) => self.0.error(known),
            None => std::future::pending().await,
        }
    }

    /// Returns once it is known that a majority answers, or after [`KNOWN_MAX`]. A change of the list shows at the next
    /// look only; until then writes are refused as before it.
    pub async fn majority_is_known(&self) {
        let mut quorum = self.0.writer.quorum();
        let _ = tokio::time::timeout(KNOWN_MAX, quorum.wait_for(Option::is_none)).await;
    }

    /// Ends the senders. The writer then commits no more, unless it is alone.
    pub fn end(&self) {
        self.0.stop.cancel();
    }
}

/// Looks after the senders until the end.
async fn look_out<L: Link>(shared: Arc<Shared<L>>) {
    let mut looks = 0_u64;
    let mut told: Option<String> = None;
    let mut roll = Roll::default();
    let mut deposed = shared.deposed.subscribe();
    loop {
        let members: BTreeMap<Uuid, Member> =
            shared.writer.list().1.members.iter().map(|m| (m.copy_id, *m)).collect();
        fit_senders(&shared, &members);
        call_roll(&shared, &mut roll);
        let silent = silent(&shared, &members);
        let lacking = (!silent.1).then(|| silent.0.join(", "));
        if lacking != told {
            if let Some(names) = &lacking {
                tracing::error!(log = ?shared.log, silent = names, "no majority of copies answers: writes are refused");
            }
            shared.writer.set_quorum(lacking.clone().map_or(Ok(()), Err));
            told = lacking;
        }
        looks += 1;
        if looks.is_multiple_of(COMPACT_LOOKS) {
            shared.writer.compact(slowest(&shared));
        }
        tokio::select! {
            () = tokio::time::sleep(LOOK) => {}
            changed = deposed.changed() => {
                let known = *deposed.borrow_and_update();
                if let (Ok(()), Some((_, why))) = (changed, known) {
                    tell_own(&shared, why).await;
                }
                break;
            }
            () = shared.stop.cancelled() => break,
        }
    }
    lock(&shared.senders).values().for_each(|sender| sender.stop.cancel());
}

/// Starts and ends senders so that each member and learner has one.
fn fit_senders<L: Link>(shared: &Arc<Shared<L>>, members: &BTreeMap<Uuid, Member>) {
    let mut wanted = lock(&shared.learners).clone();
    wanted.extend(members);
    wanted.remove(&shared.me.copy_id);
    let mut senders = lock(&shared.senders);
    senders.retain(|copy_id, sender| {
        let stays = wanted.contains_key(copy_id);
        if !stays {
            sender.stop.cancel();
        }
        stays
    });
    for (copy_id, member) in wanted {
        let learner = !members.contains_key(&copy_id);
        senders.entry(copy_id).and_modify(|sender| sender.entry.learner = learner).or_insert_with(|| {
            let stop = shared.stop.child_token();
            tokio::spawn(sender::run(Arc::clone(shared), member, stop.clone()));
            let entry = Entry {
                member,
                learner,
                matched: Index(0),
                suspect: None,
                answered_at: clock::millis(),
                answered: false,
                round: 0,
                why: "not reached yet".to_owned(),
                snapshot: None,
            };
            Sender { entry, stop }
        });
    }
}

/// Says which copies fell silent and which answer again.
fn call_roll<L: Link>(shared: &Shared<L>, roll: &mut Roll) {
    let now = clock::millis();
    let entries: Vec<Entry> = lock(&shared.senders).values().map(|sender| sender.entry.clone()).collect();
    let of = |copy: &Uuid| entries.iter().find(|entry| entry.member.copy_id == *copy);
    let silent = |entry: &Entry| entry.suspect.is_none() && entry.silent_ms(now) > SILENT_MS;
    let (fell, back) = roll.call(entries.iter().map(|entry| (entry.member.copy_id, silent(entry))));
    for entry in fell.iter().filter_map(of) {
        let why = if entry.why.is_empty() { "no answer" } else { &entry.why };
        tracing::warn!(log = ?shared.log, node = shared.name(entry.member.node), why, "a copy does not answer");
    }
    for entry in back.iter().filter_map(of) {
        tracing::info!(log = ?shared.log, node = shared.name(entry.member.node), "a copy answers again");
    }
}

/// Names of the members that are silent or do not count, and whether the others are a majority.
fn silent<L: Link>(shared: &Shared<L>, members: &BTreeMap<Uuid, Member>) -> (Vec<String>, bool) {
    let now = clock::millis();
    let counts = |member: &Member| {
        member.copy_id == shared.me.copy_id
            || shared.entry(*member, |e| e.suspect.is_none() && e.silent_ms(now) <= SILENT_MS)
    };
    let silent: Vec<_> = members.values().filter(|m| !counts(m)).map(|m| shared.name(m.node)).collect();
    let majority = members.len() - silent.len() > members.len() / 2;
    (silent, majority)
}

/// The least that a copy which answers has; what it lacks is kept.
fn slowest<L>(shared: &Shared<L>) -> Index {
    let (now, committed) = (clock::millis(), shared.writer.progress().borrow().committed);
    let senders = lock(&shared.senders);
    let places = senders.values().filter_map(|sender| sender.entry.goes_on_after(now));
    places.min().unwrap_or(committed).min(committed)
}

/// Tells the own noded of a higher epoch, and the writer that it may take nothing more.
async fn tell_own<L: Link>(shared: &Shared<L>, why: Refusal) {
    shared.writer.depose(&why.to_string());
    let Refusal::Promised(newer) = why else { return };
    tell_deposed(&*shared.link, NodeUuid(shared.me.node), shared.claim.term, newer).await;
}

/// Tells the own noded of a higher epoch: its role is then a candidate's, and boot stops the master's daemons (P1.9).
pub(crate) async fn tell_deposed<L: Link>(link: &L, own: NodeUuid, term: Term, newer: Term) {
    if newer.epoch <= term.epoch {
        return;
    }
    let told = link.call::<noded::Deposed>(own, newer.epoch, Duration::from_millis(TELL_MS)).await;
    if let Err(why) = told {
        tracing::warn!(%why, "can't tell the own gantry-noded that its master is deposed");
    }
}
