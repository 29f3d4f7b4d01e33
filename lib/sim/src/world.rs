//! The world: nodes, what runs on them, and the network between them. Every event that can happen is a method;
//! who calls them, chance or a search, is another matter.

use crate::disk::{Content, Copy, Side};
use crate::leader::Leader;
use crate::watch::{Broken, Line, Watch};
use gantry_store::core::copy::{Append, Ballot, Claim, Plan, Vote};
use gantry_store::core::elect::Heard;
use gantry_store::core::list::{List, Member};
use gantry_store::core::recover::Answer;
use gantry_store::core::row::{Index, Row, Term};
use gantry_store::core::rules::Rules;
use gantry_store::core::token::{Records, Shown, Token};
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::Arc;
use uuid::Uuid;

/// The log of wconfd.
pub const W: usize = 0;
/// The log of luxid.
pub const Q: usize = 1;
/// Requests that wait for one log file at most; more are lost, as a full backlog refuses them.
const PENDING_MAX: usize = 8;

/// What kind of world it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Config {
    /// Nodes that can hold copies.
    pub nodes: usize,
    /// Nodes in the first list.
    pub members: usize,
    /// 1: only W, for searches. 2: both logs.
    pub logs: usize,
    /// A disk operation is one step, and no power is cut. For searches.
    pub coarse: bool,
    /// Masters are elected by look and ballot, for both logs at once. Else a writer draws an epoch itself.
    pub elect: bool,
    /// Lost copies are known by their tokens. Else, for searches, they are known at once.
    pub tokens: bool,
    /// Messages stay in the network for ever and can come again.
    pub stale: bool,
}

/// A copy's word, with a promise.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Told {
    /// What it says of itself.
    pub answer: Answer,
    /// What it shows.
    pub shown: Shown,
    /// The records of tokens it knows.
    pub records: Records,
    /// Its log.
    pub content: Content,
    /// It is lost, and known to be so where no tokens are used.
    pub lost: bool,
}

/// What a node says to a look: positions, and what its copies show.
pub type Looked = (Heard, [(Shown, Records); 2]);

/// Who promised an epoch in both logs.
pub type Promises = BTreeMap<usize, Box<[Told; 2]>>;

/// A message.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Body {
    /// Elector: what do you have?
    Look(u64),
    /// The answer: positions, and what its copies show.
    Looked(u64, Box<Looked>),
    /// Elector: stop your writers, if you are master under this epoch.
    StepDown(u64),
    /// Elector: promise the epoch in both logs.
    Epoch(Claim),
    /// Both have promised.
    EpochPromised(Claim, Box<[Told; 2]>),
    /// Writer: promise the term in this log.
    Ask(usize, Claim),
    /// It has.
    Promised(usize, Claim, Box<Told>),
    /// It has promised this meanwhile.
    Refused(usize, Claim, Term),
    /// Writer: who are you?
    Connect(usize, Claim),
    /// This one, in this start of its process.
    Connected(usize, Claim, u64, Shown),
    /// Writer: take these rows, within that session.
    Append(usize, u64, Append),
    /// They are flushed this far.
    Confirmed(usize, Claim, u64, Index, bool),
    /// The row before is missing: where the log ends, and what was tried.
    Gap(usize, Claim, u64, Index, Index),
    /// Writer: take this snapshot.
    Snapshot(usize, u64, Box<Side>),
    /// Writer: store this token in place of that.
    Give(usize, Claim, Uuid, Option<Token>, Token),
    /// Writer of W: be an empty copy of both logs, instead of that one.
    Make(Claim, Option<Uuid>, Uuid),
}

/// A message on its way.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Msg {
    /// The node it comes from.
    pub from: usize,
    /// The node it goes to.
    pub to: usize,
    /// What it says.
    pub body: Body,
}

/// A message in the network, with its hash: searches clone and compare worlds all the time.
#[derive(Debug, Clone)]
pub struct Sent {
    msg: Arc<Msg>,
    hash: u64,
}

impl Sent {
    fn new(msg: Msg) -> Sent {
        let mut hasher = DefaultHasher::new();
        msg.hash(&mut hasher);
        Sent { msg: Arc::new(msg), hash: hasher.finish() }
    }

    /// The message.
    pub fn msg(&self) -> Msg {
        Msg::clone(&self.msg)
    }
}

impl std::ops::Deref for Sent {
    type Target = Msg;
    fn deref(&self) -> &Msg {
        &self.msg
    }
}

impl std::fmt::Display for Msg {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let (from, to) = (self.from, self.to);
        let by = |claim: &Claim| format!("{from}->{to} term {}", claim.term);
        match &self.body {
            Body::Look(look) => write!(f, "{from}->{to} look {look:x}"),
            Body::Looked(look, _) => write!(f, "{from}->{to} looked {look:x}"),
            Body::StepDown(epoch) => write!(f, "{from}->{to} step down from {epoch}"),
            Body::Epoch(claim) => write!(f, "{} promise both?", by(claim)),
            Body::EpochPromised(claim, _) => write!(f, "{} promised both", by(claim)),
            Body::Ask(log, claim) => write!(f, "{} log {log} promise?", by(claim)),
            Body::Promised(log, claim, told) => {
                write!(f, "{} log {log} promised, ends at {:?}", by(claim), told.answer.last)
            }
            Body::Refused(log, claim, term) => write!(f, "{} log {log} refused for {term}", by(claim)),
            Body::Connect(log, claim) => write!(f, "{} log {log} connect", by(claim)),
            Body::Connected(log, claim, session, shown) => {
                write!(f, "{} log {log} connected in {session}, {:?}", by(claim), shown.token)
            }
            Body::Append(log, session, a) => {
                let (prev, count, commit) = (a.prev.idx, a.rows.len(), a.commit);
                write!(
                    f,
                    "{} log {log} in {session}: {count} rows after {prev}, commit {commit}",
                    by(&a.claim)
                )
            }
            Body::Confirmed(log, claim, session, idx, _) => {
                write!(f, "{} log {log} in {session}: confirmed {idx}", by(claim))
            }
            Body::Gap(log, claim, _, last, tried) => {
                write!(f, "{} log {log} gap: ends at {last}, not {tried}", by(claim))
            }
            Body::Snapshot(log, _, side) => {
                write!(f, "{} log {log} snapshot at {:?}", by(&side.head.claim), side.head.at)
            }
            Body::Give(log, claim, ..) => write!(f, "{} log {log} token", by(claim)),
            Body::Make(claim, ..) => write!(f, "{} make a copy", by(claim)),
        }
    }
}

/// A request to a log file, or a part of one that is under way.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Op {
    /// Promise a writer's term.
    Promise(usize, Claim),
    /// Promise an elector's epoch; W first, then Q.
    Epoch(usize, Claim, Option<Box<Told>>),
    /// Take rows.
    Append(usize, u64, Append),
    /// Keep a snapshot beside the log.
    Keep(usize, u64, Box<Side>),
    /// Take it over.
    TakeOver(usize, u64, Claim),
    /// Fill one object file from it.
    Fill(usize),
    /// Remove it, once all object files are flushed, and confirm.
    Filled(usize, u64, Claim, Index),
    /// Take over the best log heard, to lead.
    Recover(Claim, Box<Content>),
    /// Store a token.
    Token(Claim, Uuid, Option<Token>, Token),
    /// Forget rows.
    Compact(Index),
    /// The transaction is written; flush, then do the rest.
    Flush(After),
    /// Without its rule: carry out a plan made earlier.
    Late(usize, u64, Plan, Append),
    /// Without its rule: write one row where it belongs.
    Put(Row),
    /// Without its rule: delete all rows from here on.
    Cut(Index),
}

/// What comes after a flush.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum After {
    /// Nothing.
    Nothing,
    /// Answer a promise.
    Promised(usize, Claim),
    /// Answer a promise of an epoch, or go on with Q.
    Epoch(usize, Claim, Option<Box<Told>>),
    /// Apply, and confirm.
    Confirm(usize, u64, Claim, Index, Index),
    /// Fill the object files.
    Fill(usize, u64, Claim, Index),
    /// Lead.
    Lead(Claim),
    /// The writer forgets the rows too.
    Compacted,
}

/// What runs of one log on a node.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Proc {
    /// Nothing.
    None,
    /// A writer that recovers.
    Recovering(Claim, BTreeMap<usize, Box<Told>>),
    /// A writer that leads.
    Leading(Box<Leader>),
}

/// The failover command.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Elect {
    /// The number of the look.
    pub look: u64,
    /// Who answered it.
    pub looked: BTreeMap<usize, Box<Looked>>,
    /// Who was asked to step down.
    pub stepped: Vec<Member>,
    /// The ballot, and its promises.
    pub ballot: Option<(Claim, Promises)>,
}

/// A node.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Node {
    /// Its copies' identity.
    pub me: Member,
    /// Its copies: W, and Q if there is one.
    pub copies: Vec<Copy>,
    /// Its role file: the epoch and ballot it is master under.
    pub role: Option<(u64, Ballot)>,
    /// Its role file says candidate; the daemons are not stopped yet.
    pub stopping: bool,
    /// Its writers.
    pub procs: Vec<Proc>,
    /// The highest term a writer here was refused for.
    pub heard: Vec<Term>,
    /// The command.
    pub elect: Option<Elect>,
    /// What waits for each log file.
    pub pending: Vec<VecDeque<Op>>,
    /// Starts of its node daemon.
    pub boot: u64,
    /// Numbers drawn on this node.
    pub drawn: u32,
    /// An older state of its disk, kept by somebody.
    pub image: Option<(Member, Vec<Copy>)>,
}

/// What was done of what is bounded.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct Done {
    /// Values written.
    pub writes: u64,
    /// Campaigns or ballots.
    pub failovers: u64,
    /// Starts of writers.
    pub restarts: u64,
    /// Changes of the list.
    pub changes: u64,
    /// Copies put back from an image or emptied.
    pub losses: u64,
    /// Snapshots sent.
    pub snapshots: u64,
    /// Compactions.
    pub compactions: u64,
    /// Starts without a vote.
    pub alone: u64,
}

/// All of it.
#[derive(Debug, Clone)]
pub struct World {
    /// The rules in force.
    pub rules: Rules,
    /// What kind of world it is.
    pub config: Config,
    /// The nodes.
    pub nodes: Vec<Node>,
    /// The network.
    pub net: Vec<Sent>,
    /// What was done.
    pub done: Done,
    /// What must hold.
    pub watch: Watch,
    /// Nodes that cannot speak to those not in this set.
    pub apart: u32,
    /// Effects that lost their cause when a node went on alone.
    pub excused: BTreeSet<u64>,
}

/// The network is a set; the order in which messages were sent means nothing.
impl Hash for World {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.nodes.hash(state);
        self.done.hash(state);
        self.watch.hash(state);
        self.net.iter().map(|sent| sent.hash).fold(0_u64, u64::wrapping_add).hash(state);
    }
}

impl PartialEq for World {
    fn eq(&self, other: &World) -> bool {
        let of = |world: &World| {
            let mut hasher = DefaultHasher::new();
            world.hash(&mut hasher);
            hasher.finish()
        };
        of(self) == of(other)
    }
}

/// The node with its first copies.
pub fn member(n: usize) -> Member {
    let id = Uuid::from_u128(n as u128 + 1);
    Member { node: id, copy_id: id }
}

impl World {
    /// A world in which nothing has happened.
    pub fn new(config: Config, rules: Rules) -> World {
        let first = List::first((0..config.members).map(member).collect());
        let node = |n: usize| {
            let empty = List { n: 0, prev: 0, members: Vec::new() };
            let list = if n < config.members { first.clone() } else { empty };
            let copy = |log| Copy::empty(blank(member(n).copy_id), list.clone(), files(&config, log));
            Node {
                me: member(n),
                copies: (0..config.logs).map(copy).collect(),
                role: None,
                stopping: false,
                procs: vec![Proc::None; config.logs],
                heard: vec![Term::default(); config.logs],
                elect: None,
                pending: vec![VecDeque::new(); config.logs],
                boot: 0,
                drawn: 0,
                image: None,
            }
        };
        World {
            rules,
            config,
            nodes: (0..config.nodes).map(node).collect(),
            net: Vec::new(),
            done: Done::default(),
            watch: Watch::default(),
            apart: 0,
            excused: BTreeSet::new(),
        }
    }

    /// 128 bits nobody has drawn before.
    pub fn draw(&mut self, n: usize) -> [u8; 16] {
        self.nodes[n].drawn += 1;
        Uuid::from_u128(((n as u128 + 1) << 64) | u128::from(self.nodes[n].drawn)).into_bytes()
    }

    /// The log of a history that a copy continues.
    pub fn line(&self, n: usize, log: usize) -> Line {
        (self.nodes[n].copies[log].log.get().vote.history, log)
    }

    /// Puts a message on its way.
    pub fn post(&mut self, from: usize, to: usize, body: Body) {
        let sent = Sent::new(Msg { from, to, body });
        if !(self.config.stale && self.net.iter().any(|known| known.hash == sent.hash)) {
            self.net.push(sent);
        }
    }

    /// Whether two nodes hear each other.
    pub fn connected(&self, a: usize, b: usize) -> bool {
        (self.apart >> a) & 1 == (self.apart >> b) & 1
    }

    /// A message arrives.
    ///
    /// # Errors
    /// A promise is broken.
    pub fn handle(&mut self, msg: Msg) -> Result<(), Broken> {
        let Msg { from, to, body } = msg;
        match body {
            Body::Look(look) => self.asked_to_look(to, from, look),
            Body::Looked(look, answer) => self.looked(to, from, look, answer),
            Body::StepDown(epoch) => self.step_down(to, epoch),
            Body::Epoch(claim) => return self.submit(to, W, Op::Epoch(from, claim, None)),
            Body::EpochPromised(claim, told) => return self.epoch_promised(to, from, &claim, told),
            Body::Ask(log, claim) => return self.submit(to, log, Op::Promise(from, claim)),
            Body::Promised(log, claim, told) => return self.promised(to, log, from, &claim, told),
            Body::Refused(log, claim, term) => self.refused(to, log, &claim, term),
            Body::Connect(log, claim) => {
                let (shown, boot) = (self.nodes[to].copies[log].shown(), self.nodes[to].boot);
                if self.line(to, log).0 != claim.history {
                    return Ok(());
                }
                self.post(to, from, Body::Connected(log, claim, boot, shown));
            }
            Body::Connected(log, claim, session, shown) => {
                self.welcome(to, log, from, &claim, session, &shown)
            }
            Body::Append(log, session, append) => {
                return self.submit(to, log, Op::Append(from, session, append));
            }
            Body::Confirmed(log, claim, session, idx, lost) => {
                return self.confirmed(to, log, from, &claim, session, idx, lost);
            }
            Body::Gap(log, claim, session, last, tried) => {
                self.gap(to, log, from, &claim, session, (last, tried))
            }
            Body::Snapshot(log, session, side) => return self.submit(to, log, Op::Keep(from, session, side)),
            Body::Give(log, claim, copy, old, new) => {
                return self.submit(to, log, Op::Token(claim, copy, old, new));
            }
            Body::Make(claim, instead_of, id) => self.make(to, &claim, instead_of, id),
        }
        Ok(())
    }

    /// A request to a log file. It waits while another is under way.
    ///
    /// # Errors
    /// A promise is broken.
    pub fn submit(&mut self, n: usize, log: usize, op: Op) -> Result<(), Broken> {
        let early = matches!(self.nodes[n].pending[log].front(), Some(Op::Late(..)));
        if early && matches!(op, Op::Promise(..)) {
            self.nodes[n].pending[log].push_front(op);
            self.work(n, log)?;
            return self.work(n, log);
        }
        if self.nodes[n].pending[log].len() < PENDING_MAX {
            self.nodes[n].pending[log].push_back(op);
        }
        if self.config.coarse { self.run_through(n, log) } else { Ok(()) }
    }

    /// Works until nothing is under way, or what is must be seen from outside.
    pub fn run_through(&mut self, n: usize, log: usize) -> Result<(), Broken> {
        while let Some(op) = self.nodes[n].pending[log].front() {
            if matches!(op, Op::Late(..) | Op::Put(_) | Op::Cut(_)) {
                break;
            }
            self.work(n, log)?;
        }
        Ok(())
    }

    /// The writer of a log on a node stops.
    pub fn stop(&mut self, n: usize, log: usize) {
        self.nodes[n].procs[log] = Proc::None;
        let own = |op: &Op| matches!(op, Op::Recover(..)) || matches!(op, Op::Append(by, ..) if *by == n);
        self.nodes[n].pending[log].retain(|op| !own(op));
        self.net.retain(|m| m.from != n || m.to != n || !about(&m.body, log));
    }

    /// The node's daemons are killed, and the machine loses its power when `power`; then they start again.
    /// `lucky`: what was written and not flushed is there after all.
    ///
    /// # Errors
    /// A start finds what must not be.
    pub fn crash(&mut self, n: usize, power: bool, lucky: impl Fn(usize) -> bool) -> Result<(), Broken> {
        let node = &mut self.nodes[n];
        (node.elect, node.stopping) = (None, false);
        for log in 0..self.config.logs {
            node.procs[log] = Proc::None;
            node.heard[log] = Term::default();
            node.pending[log].clear();
            let copy = &mut node.copies[log];
            if power {
                copy.log.power_cut(lucky(log * 8));
                copy.objects.iter_mut().enumerate().for_each(|(k, f)| f.power_cut(lucky(log * 8 + 1 + k)));
            }
        }
        node.boot += u64::from(self.config.tokens);
        self.net.retain(|m| m.from != n || m.to != n);
        (0..self.config.logs).try_for_each(|log| self.boot(n, log))
    }
}

/// Whether a message is one within the writer of `log`.
fn about(body: &Body, log: usize) -> bool {
    match body {
        Body::Ask(at, ..)
        | Body::Promised(at, ..)
        | Body::Refused(at, ..)
        | Body::Connect(at, ..)
        | Body::Connected(at, ..)
        | Body::Append(at, ..)
        | Body::Confirmed(at, ..)
        | Body::Gap(at, ..)
        | Body::Snapshot(at, ..)
        | Body::Give(at, ..) => *at == log,
        Body::Look(_)
        | Body::Looked(..)
        | Body::StepDown(_)
        | Body::Epoch(_)
        | Body::EpochPromised(..)
        | Body::Make(..) => false,
    }
}

/// The object files of a log. A search has enough with one.
fn files(config: &Config, log: usize) -> usize {
    if log == W && !config.coarse { 2 } else { 1 }
}

/// The vote of a copy that has promised nothing.
pub fn blank(copy_id: Uuid) -> Vote {
    Vote {
        promised: Term::default(),
        ballot: [0; 16],
        nonce: [0; 16],
        cluster: Uuid::nil(),
        history: Uuid::nil(),
        copy_id,
        token: None,
    }
}
