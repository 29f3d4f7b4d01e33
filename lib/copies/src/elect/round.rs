//! What one round of looking at the candidates brought.

use crate::heard;
use crate::link::LinkError;
use crate::wire;
use gantry_model::ids::{ClusterUuid, NodeUuid};
use gantry_proto::copies::{Facts, Log, LookReply};
use gantry_store::core::Rules;
use gantry_store::core::elect::{self, Heard, Part};
use gantry_store::core::list::Member;
use std::collections::BTreeMap;
use uuid::Uuid;

/// What one round of looking brought.
pub(super) struct Round {
    pub(super) replies: BTreeMap<NodeUuid, LookReply>,
    pub(super) heard: Vec<Heard>,
    pub(super) me: Member,
}

impl Round {
    pub(super) fn own(&self) -> &Heard {
        let own = self.heard.iter().find(|h| h.w.answer.member == self.me);
        own.expect("a round without the own answer is an error before")
    }

    pub(super) fn facts(&self, node: NodeUuid, log: Log) -> Option<&Facts> {
        facts(self.replies.get(&node)?, log)
    }

    /// What these answers say; none when the own node has no copies.
    pub(super) fn of(me: NodeUuid, replies: BTreeMap<NodeUuid, LookReply>) -> Option<Self> {
        let own = replies.get(&me)?;
        let me = heard::member(me, facts(own, Log::W)?);
        // Copies of another history are strangers: neither their votes nor their lists say anything about ours.
        // One of which nothing can be read is none: it is suspect.
        let unread = Some((ClusterUuid(Uuid::nil()), Uuid::nil()));
        let same = |reply: &LookReply, log| {
            let (theirs, ours) = (history(reply, log), history(own, log));
            theirs == ours || theirs == unread || ours == unread
        };
        let ours = |reply: &LookReply| same(reply, Log::W) && same(reply, Log::Q);
        let heard = heard(replies.iter().filter(|(_, reply)| ours(reply)));
        let there = heard.iter().any(|h| h.w.answer.member == me);
        there.then_some(Self { replies, heard, me })
    }

    /// Whether those who answered could elect this node, if all of them promised.
    fn could_win(&self) -> bool {
        let (w, q): (Vec<_>, Vec<_>) =
            self.heard.iter().map(|h| (h.w.answer.clone(), h.q.answer.clone())).unzip();
        elect::won(&self.me, &w, &q, Rules::ALL).is_ok()
    }
}

/// Whether these answers are enough to decide by.
pub(super) fn majority(me: NodeUuid, looked: &BTreeMap<NodeUuid, Result<LookReply, LinkError>>) -> bool {
    let replies = looked.iter().filter_map(|(node, answer)| Some((*node, answer.clone().ok()?)));
    Round::of(me, replies.collect()).is_some_and(|round| round.could_win())
}

fn facts(reply: &LookReply, log: Log) -> Option<&Facts> {
    reply.copies.iter().find(|(of, _)| *of == log).map(|(_, facts)| facts)
}

fn history(reply: &LookReply, log: Log) -> Option<(ClusterUuid, Uuid)> {
    facts(reply, log).map(|facts| (facts.cluster, facts.history))
}

/// What those who have both copies said.
fn heard<'a>(replies: impl Iterator<Item = (&'a NodeUuid, &'a LookReply)>) -> Vec<Heard> {
    let both: Vec<_> = replies
        .filter_map(|(node, reply)| Some((*node, reply, facts(reply, Log::W)?, facts(reply, Log::Q)?)))
        .collect();
    let w = heard::answers(both.iter().map(|(node, _, w, _)| (*node, *w)));
    let q = heard::answers(both.iter().map(|(node, _, _, q)| (*node, *q)));
    let part = |facts: &Facts, answer| Part {
        promised: wire::to_term(facts.promised),
        ballot: facts.ballot,
        answer,
    };
    let one = |((w, q), (_, reply, fw, fq)): ((_, _), &(NodeUuid, &LookReply, &Facts, &Facts))| Heard {
        // A role of an epoch that its own copies have left is no master's any more.
        master: reply.master.filter(|epoch| *epoch == fw.promised.epoch).map(|epoch| (epoch, fw.ballot)),
        w: part(fw, w),
        q: part(fq, q),
    };
    w.into_iter().zip(q).zip(&both).map(one).collect()
}
