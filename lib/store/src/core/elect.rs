//! Winning an epoch for a node: look, decide, ballot (P1.1, P1.2, P1.8), and `--no-voting` (P1.12).
//!
//! ```text
//!  look at all members heard of ─▶ decide ─┬─ Refused: why, and what to do
//!        ▲                                 ├─ AlreadyMaster
//!        └── StepDown: ask, look again ◀───┤
//!                                          └─ Ballot { e', ask } ─▶ promises of (e', run 0, b) ─▶ won
//! ```
//!
//! A look promises nothing. A ballot that fails half-way leaves promises and no master: the command may be
//! repeated on any candidate, with a higher epoch and another ballot. One epoch and one ballot serve both logs;
//! each writer recovers its own log under them afterwards.

use super::copy::Ballot;
use super::list::{List, Member};
use super::recover::{Answer, Choice, choose, to_ask};
use super::row::{Index, Row, RowKind, Term};
use super::rules::Rules;
use std::collections::BTreeSet;

/// How far `--no-voting` jumps: ballots that others won or lost unheard stay below.
pub const NO_VOTING_JUMP: u64 = 1_000;

/// One of the two logs, in what is told to people.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LogName {
    /// Written by wconfd.
    W,
    /// Written by luxid.
    Q,
}

/// What one copy of one log says to a look.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Part {
    /// What its vote promises.
    pub promised: Term,
    /// To which ballot.
    pub ballot: Ballot,
    /// The copy; its state judged with the records of all who answered ([`super::token::state`]).
    pub answer: Answer,
}

/// What one candidate says to a look: both its copies, or nothing.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Heard {
    /// The epoch and ballot its role file names, when that says master.
    pub master: Option<(u64, Ballot)>,
    /// Its copy of W.
    pub w: Part,
    /// Its copy of Q.
    pub q: Part,
}

/// Why there is no ballot, or why it did not win.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Refused {
    /// The newest list of this log does not name the own copy: run the command on one that it names.
    NotMember(LogName),
    /// The own copy is not to be believed.
    Suspect(LogName),
    /// Fewer than a majority of the newest list of this log answered.
    TooFew {
        /// The log.
        log: LogName,
        /// Answers that count.
        have: usize,
        /// Answers needed.
        need: usize,
        /// Members of the newest list that did not answer, or do not count.
        silent: Vec<Member>,
    },
}

/// What to do after a look.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Decision {
    /// Nothing, and why.
    Refused(Refused),
    /// Nothing: this node is the master, and a majority of both lists stands by its epoch.
    AlreadyMaster {
        /// Its epoch.
        epoch: u64,
    },
    /// Another node answers as master: ask it to stop its writers, then look again.
    StepDown {
        /// The master.
        member: Member,
        /// Its epoch.
        epoch: u64,
    },
    /// Draw a ballot and ask these for the promise of (epoch, run 0), the own copies among them.
    Ballot {
        /// One more than the highest heard.
        epoch: u64,
        /// Every member of every list heard.
        ask: BTreeSet<Member>,
    },
}

/// Rows that others may hold and that a start alone leaves behind.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct AtRisk {
    /// The log.
    pub log: LogName,
    /// The first index that may be lost.
    pub from: Index,
    /// The last one heard of. `None`: nobody who answered has more, but a silent member may.
    pub to: Option<Index>,
}

/// What `--no-voting` does, to be shown before it is done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Alone {
    /// The epoch, promised by the own copies under a new history.
    pub epoch: u64,
    /// The number of the list in both logs.
    pub list_n: u64,
    /// The row that makes the own copy the only member of W.
    pub w: Row,
    /// The same for Q.
    pub q: Row,
    /// What may be lost; empty when nothing acknowledged can be.
    pub at_risk: Vec<AtRisk>,
}

/// What a candidate's look at all others leads to. `heard` has one entry for each node that answered, the own
/// one among them; `stepped` are masters that were asked to step down already.
#[must_use]
pub fn decide(me: &Member, heard: &[Heard], stepped: &[Member], rules: Rules) -> Decision {
    let (w, q) = split(heard);
    let won = won(me, &w, &q, rules);
    if let Err(why) = won {
        return Decision::Refused(why);
    }
    if let Some(epoch) = confirmed_master(me, heard, rules) {
        return Decision::AlreadyMaster { epoch };
    }
    let other = |h: &&Heard| h.w.answer.member != *me && !stepped.contains(&h.w.answer.member);
    let masters = heard.iter().filter(other).filter_map(|h| Some((h.master?.0, h.w.answer.member)));
    if let Some((epoch, member)) = masters.max_by_key(|(epoch, _)| *epoch) {
        return Decision::StepDown { member, epoch };
    }
    Decision::Ballot { epoch: highest(heard) + 1, ask: everyone(heard) }
}

/// Every member of every list heard, to be asked too before a decision counts.
#[must_use]
pub fn everyone(heard: &[Heard]) -> BTreeSet<Member> {
    to_ask(heard.iter().flat_map(|h| [&h.w.answer.list, &h.q.answer.list]))
}

/// Whether these promises win: those of a majority of the newest list of W, and of Q. `w` and `q` are the answers
/// of nodes that promised in **both** files.
///
/// # Errors
/// They do not, and why.
pub fn won(me: &Member, w: &[Answer], q: &[Answer], rules: Rules) -> Result<(), Refused> {
    one(LogName::W, me, w, rules)?;
    one(LogName::Q, me, q, rules)
}

/// What the own copies begin with when their node goes on alone. `own` is among `heard`.
#[must_use]
pub fn alone(me: &Member, own: &Heard, heard: &[Heard]) -> Alone {
    let epoch = highest(heard) + NO_VOTING_JUMP;
    // The same number in both logs: where they differed by more, by a change under way or a copy that was never fed, Q's
    // writer could follow W's list never (P2.3).
    let list_n = own.w.answer.list.n.max(own.q.answer.list.n) + 1;
    let row = |part: &Part| {
        let list = List { n: list_n, prev: part.answer.list.n, members: vec![*me] };
        let body = serde_json::to_vec(&list).expect("a list is plain data");
        let term = Term { epoch, run: 0 };
        Row { idx: part.answer.last.idx.next(), term, kind: RowKind::List, body }
    };
    let (w, q) = (row(&own.w), row(&own.q));
    if nothing_lost(own, heard) {
        return Alone { epoch, list_n, w, q, at_risk: Vec::new() };
    }
    let risk = |log, of: fn(&Heard) -> &Part| {
        let last = of(own).answer.last.idx;
        let most = heard.iter().map(|h| of(h).answer.last.idx).max();
        AtRisk { log, from: common(of(own), heard, of).next(), to: most.filter(|most| *most > last) }
    };
    let at_risk = vec![risk(LogName::W, |h| &h.w), risk(LogName::Q, |h| &h.q)];
    Alone { epoch, list_n, w, q, at_risk }
}

/// No one else can have acknowledged anything: there is nobody else in either list, which no later one can follow without this
/// copy, and nobody has heard of a later one (this copy may be an old image); or this node won the epoch that its copies still
/// promise, and without its promise there is no majority (P2.6).
fn nothing_lost(own: &Heard, heard: &[Heard]) -> bool {
    let only = |of: fn(&Heard) -> &Part| {
        let answer = &of(own).answer;
        let newest = heard.iter().all(|other| of(other).answer.list.n <= answer.list.n);
        newest && answer.list.members == [answer.member]
    };
    if only(|h| &h.w) && only(|h| &h.q) {
        return true;
    }
    let Some((epoch, ballot)) = own.master else { return false };
    let mine = |part: &Part| {
        let stands = part.promised.epoch == epoch && part.ballot == ballot;
        stands && part.answer.list.members.len() <= 2 && part.answer.list.has(&part.answer.member)
    };
    mine(&own.w) && mine(&own.q)
}

/// Up to here the own log is known to be everybody's: to its end when all members of all lists answered and
/// nobody is further on, else to what the own copy knows committed. (A silent member may have other rows where
/// the own log has a tail that nobody confirmed.)
fn common(own: &Part, heard: &[Heard], of: fn(&Heard) -> &Part) -> Index {
    let answered = |m: &Member| heard.iter().any(|h| of(h).answer.member == *m && of(h).answer.counts());
    let ahead = heard.iter().any(|h| of(h).answer.last > own.answer.last);
    let all = everyone(heard).iter().all(answered);
    if all && !ahead { own.answer.last.idx } else { own.answer.commit }
}

/// The own epoch, when the own role file says master and majorities of both newest lists promise just it.
fn confirmed_master(me: &Member, heard: &[Heard], rules: Rules) -> Option<u64> {
    let (epoch, ballot) = heard.iter().find(|h| h.w.answer.member == *me)?.master?;
    let stands = |part: &&Part| part.promised.epoch == epoch && part.ballot == ballot;
    let of = |part: fn(&Heard) -> &Part| -> bool {
        let all: Vec<Answer> = heard.iter().map(|h| part(h).answer.clone()).collect();
        let Choice::Ready { best } = choose(me, &all, rules) else { return false };
        let list = &all[best].list;
        let votes = heard.iter().map(part).filter(stands).filter(|p| list.has(&p.answer.member)).count();
        votes >= list.majority()
    };
    (of(|h| &h.w) && of(|h| &h.q)).then_some(epoch)
}

fn one(log: LogName, me: &Member, answers: &[Answer], rules: Rules) -> Result<(), Refused> {
    match choose(me, answers, rules) {
        Choice::Ready { .. } => Ok(()),
        Choice::NotMember => Err(Refused::NotMember(log)),
        Choice::Suspect => Err(Refused::Suspect(log)),
        // Where nobody counts, the own copy is what to tell of.
        Choice::Short { .. } if answers.iter().any(|a| a.member.node == me.node && !a.counts()) => {
            Err(Refused::Suspect(log))
        }
        Choice::Short { have, need } => {
            let best = answers.iter().max_by_key(|a| a.last);
            let members = best.map_or(&[][..], |a| &a.list.members);
            let silent = |m: &&Member| !answers.iter().any(|a| a.member == **m && a.counts());
            let silent = members.iter().filter(silent).copied().collect();
            Err(Refused::TooFew { log, have, need, silent })
        }
    }
}

/// The highest epoch heard of, in promises, rows and role files.
fn highest(heard: &[Heard]) -> u64 {
    let of = |h: &Heard| {
        let parts = [&h.w, &h.q].map(|p| p.promised.epoch.max(p.answer.last.term.epoch));
        parts[0].max(parts[1]).max(h.master.map_or(0, |(epoch, _)| epoch))
    };
    heard.iter().map(of).max().unwrap_or_default()
}

fn split(heard: &[Heard]) -> (Vec<Answer>, Vec<Answer>) {
    heard.iter().map(|h| (h.w.answer.clone(), h.q.answer.clone())).unzip()
}

#[cfg(test)]
mod tests;
