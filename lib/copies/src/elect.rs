//! Winning an epoch for this node (P1.8, P1.12): the engine of `gantry-wconfd elect`. It asks; `core::elect` decides.
//!
//! ```text
//!  look at all ─▶ decide ─▶ StepDown: ask that master, look again
//!                       └─▶ ballot: promises from all ─▶ won ─▶ Elected at the own noded ─▶ role.json ─▶ boot
//! ```
//!
//! Nothing is kept between two commands: one that failed half-way leaves promises and no master, and is repeated.

use crate::heard;
use crate::link::{Link, LinkError};
use crate::wire;
use gantry_model::ids::{ClusterUuid, Fence, NodeUuid};
use gantry_proto::copies::{self, Facts, Log, LookReply, PromiseReply, PromiseRequest};
use gantry_proto::noded;
use gantry_store::core::Rules;
use gantry_store::core::copy::Refusal;
use gantry_store::core::elect::{self, AtRisk, Decision, Heard, LogName, Part, Refused};
use gantry_store::core::list::Member;
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;
use uuid::Uuid;

/// How long a candidate may take to say what it has: it reads a few rows.
const LOOK_MS: u64 = 5_000;
/// How long a promise may take: two flushes, and 2 s for a writer's transaction on each file.
const PROMISE_MS: u64 = 10_000;
/// How long a master may take to stop its daemons; boot gives them less.
const STEP_DOWN_MS: u64 = 45_000;
/// How long the own noded may take to check both votes and write the role.
const ELECTED_MS: u64 = 15_000;
/// Masters asked to step down in one command. Each is another node, and there are ten candidates at most.
const STEPS_MAX: usize = 10;

/// What to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// Look and say what would be done.
    Look,
    /// Win an epoch.
    Vote,
    /// Say what going on alone may lose (P1.12).
    AloneLook,
    /// Go on alone, in a new history.
    Alone,
}

/// What a node said to a look.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Looked {
    /// The node.
    pub node: NodeUuid,
    /// Its name.
    pub name: String,
    /// What it said, or why it said nothing.
    pub answer: Result<LookReply, String>,
}

/// What happens, for people.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// All that any answer names were looked at.
    Looked(Vec<Looked>),
    /// What a look leads to; with [`Mode::Look`] the end.
    Decided(Decision),
    /// A master is asked to stop its writers.
    StepDown {
        /// Which.
        name: String,
        /// Its epoch.
        epoch: u64,
    },
    /// It has, or why not; the election goes on without it.
    SteppedDown {
        /// Which.
        name: String,
        /// How it went.
        outcome: Result<(), String>,
    },
    /// Promises are asked for.
    Ballot {
        /// Of this epoch.
        epoch: u64,
        /// How many candidates.
        asked: usize,
    },
    /// A candidate answered, or not.
    Promise {
        /// Which.
        name: String,
        /// Whether it promised.
        outcome: Result<(), String>,
    },
    /// Rows that others may hold and that going on alone leaves behind; none: nothing acknowledged is lost.
    AtRisk(Vec<AtRisk>),
    /// This node is the master of this epoch; its role file says so.
    Won {
        /// The epoch.
        epoch: u64,
    },
}

/// How it ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// This node is the master of a new epoch.
    Won(Fence),
    /// It was already, and a majority stands by it.
    AlreadyMaster(u64),
    /// Only looked.
    Looked,
}

/// Why this node is not the master.
#[derive(Debug, thiserror::Error)]
pub enum ElectError {
    /// The own noded does not answer.
    #[error("this node's gantry-noded does not answer: {0}")]
    Own(LinkError),
    /// This node has no copies.
    #[error("this node holds no copies of the cluster's logs: run the command on a master candidate")]
    NoCopies,
    /// By the rules.
    #[error("{}", tell(.0))]
    Refused(Refused),
    /// The own copies do not promise.
    #[error("this node's own copies do not promise epoch {epoch}: {why}")]
    OwnPromise {
        /// The epoch asked for.
        epoch: u64,
        /// Why not.
        why: String,
    },
    /// Masters keep appearing.
    #[error("more than {STEPS_MAX} masters were asked to step down: look at the candidates' role.json")]
    Masters,
    /// The own noded did not take the victory.
    #[error(
        "epoch {epoch} was won, but this node's gantry-noded does not take it: {why}; repeat the command"
    )]
    NotTaken {
        /// The epoch.
        epoch: u64,
        /// Why.
        why: LinkError,
    },
    /// No randomness.
    #[error("can't draw a ballot: {0}")]
    Random(String),
}

fn log_name(log: LogName) -> &'static str {
    match log {
        LogName::W => "configuration",
        LogName::Q => "queue",
    }
}

/// A refusal in words.
#[must_use]
pub fn tell(why: &Refused) -> String {
    match why {
        Refused::NotMember(log) => format!(
            "the newest list of the {} log does not name this node: run the command on one that it names",
            log_name(*log)
        ),
        Refused::Suspect(log) => format!(
            "this node's copy of the {} log is an old image or damaged: run the command on another candidate",
            log_name(*log)
        ),
        Refused::TooFew { log, have, need, silent } => {
            let silent: Vec<String> = silent.iter().map(|m| m.node.to_string()).collect();
            format!(
                "{have} of the {need} copies needed of the {} log answered; silent or not to be believed: {}",
                log_name(*log),
                silent.join(", ")
            )
        }
    }
}

/// The engine for one command.
struct Engine<'a, L, F> {
    link: &'a L,
    me: NodeUuid,
    say: F,
}

/// Runs one election command on node `me`, telling what happens.
///
/// # Errors
/// Why this node is not the master; nothing is left behind but promises.
pub async fn elect<L: Link>(
    link: &L,
    me: NodeUuid,
    mode: Mode,
    say: impl FnMut(Event) + Send,
) -> Result<Outcome, ElectError> {
    let mut engine = Engine { link, me, say };
    match mode {
        Mode::Look => engine.only_look().await,
        Mode::Vote => engine.vote().await,
        Mode::AloneLook => engine.alone(false).await,
        Mode::Alone => engine.alone(true).await,
    }
}

/// What one round of looking brought.
struct Round {
    replies: BTreeMap<NodeUuid, LookReply>,
    heard: Vec<Heard>,
    me: Member,
}

impl Round {
    fn own(&self) -> &Heard {
        let own = self.heard.iter().find(|h| h.w.answer.member == self.me);
        own.expect("a round without the own answer is an error before")
    }

    fn facts(&self, node: NodeUuid, log: Log) -> Option<&Facts> {
        facts(self.replies.get(&node)?, log)
    }
}

fn facts(reply: &LookReply, log: Log) -> Option<&Facts> {
    reply.copies.iter().find(|(of, _)| *of == log).map(|(_, facts)| facts)
}

fn history(reply: &LookReply, log: Log) -> Option<(ClusterUuid, Uuid)> {
    facts(reply, log).map(|facts| (facts.cluster, facts.history))
}

impl<L: Link, F: FnMut(Event) + Send> Engine<'_, L, F> {
    async fn only_look(&mut self) -> Result<Outcome, ElectError> {
        let round = self.look().await?;
        let decision = elect::decide(&round.me, &round.heard, &[], Rules::ALL);
        (self.say)(Event::Decided(decision));
        Ok(Outcome::Looked)
    }

    async fn vote(&mut self) -> Result<Outcome, ElectError> {
        let mut stepped = Vec::new();
        loop {
            let round = self.look().await?;
            let decision = elect::decide(&round.me, &round.heard, &stepped, Rules::ALL);
            (self.say)(Event::Decided(decision.clone()));
            match decision {
                Decision::Refused(why) => return Err(ElectError::Refused(why)),
                Decision::AlreadyMaster { epoch } => return Ok(Outcome::AlreadyMaster(epoch)),
                Decision::StepDown { member, epoch } => {
                    if stepped.len() >= STEPS_MAX {
                        return Err(ElectError::Masters);
                    }
                    stepped.push(member);
                    self.step_down(NodeUuid(member.node), epoch).await;
                }
                Decision::Ballot { epoch, ask } => return self.ballot(&round, epoch, &ask).await,
            }
        }
    }

    /// Looks at the own node, and at all that any answer names.
    async fn look(&mut self) -> Result<Round, ElectError> {
        let mut asked = BTreeSet::from([self.me]);
        let mut looked: BTreeMap<NodeUuid, Result<LookReply, LinkError>> = BTreeMap::new();
        let mut fresh = vec![self.me];
        while !fresh.is_empty() {
            let deadline = Duration::from_millis(LOOK_MS);
            let link = self.link;
            let calls = fresh
                .into_iter()
                .map(|node| async move { (node, link.call::<noded::CopyLook>(node, (), deadline).await) });
            looked.extend(all(calls).await);
            let lists = looked.values().flatten().flat_map(|reply| &reply.copies);
            let named = lists.flat_map(|(_, facts)| &facts.list.members).map(|member| member.node);
            fresh = named.filter(|node| asked.insert(*node)).collect();
        }
        let told = looked.iter().map(|(node, answer)| Looked {
            node: *node,
            name: self.link.name(*node),
            answer: answer.clone().map_err(|why| why.to_string()),
        });
        let told = told.collect();
        (self.say)(Event::Looked(told));
        if let Some(Err(why)) = looked.get(&self.me) {
            return Err(ElectError::Own(why.clone()));
        }
        let replies: BTreeMap<_, _> =
            looked.into_iter().filter_map(|(node, answer)| Some((node, answer.ok()?))).collect();
        let own = replies.get(&self.me).ok_or(ElectError::NoCopies)?;
        let me = heard::member(self.me, facts(own, Log::W).ok_or(ElectError::NoCopies)?);
        // Copies of another history are strangers: neither their votes nor their lists say anything about ours.
        let ours =
            |reply: &LookReply| [Log::W, Log::Q].iter().all(|log| history(reply, *log) == history(own, *log));
        let heard = heard(replies.iter().filter(|(_, reply)| ours(reply)));
        if !heard.iter().any(|h| h.w.answer.member == me) {
            return Err(ElectError::NoCopies);
        }
        Ok(Round { replies, heard, me })
    }

    async fn step_down(&mut self, node: NodeUuid, epoch: u64) {
        let name = self.link.name(node);
        (self.say)(Event::StepDown { name: name.clone(), epoch });
        let deadline = Duration::from_millis(STEP_DOWN_MS);
        let outcome = self.link.call::<noded::StepDown>(node, epoch, deadline).await;
        let outcome = outcome.map(|_| ()).map_err(|why| why.to_string());
        (self.say)(Event::SteppedDown { name, outcome });
    }

    async fn ballot(
        &mut self,
        round: &Round,
        epoch: u64,
        ask: &BTreeSet<Member>,
    ) -> Result<Outcome, ElectError> {
        let (ballot, nonce) = (draw()?, draw()?);
        (self.say)(Event::Ballot { epoch, asked: ask.len() });
        let own = self.own_claims(round, epoch, (ballot, nonce));
        let request = || PromiseRequest { claims: own.clone() };
        let deadline = Duration::from_millis(PROMISE_MS);
        let mine = self.link.call::<noded::CopyPromise>(self.me, request(), deadline).await;
        let mine = mine.map_err(ElectError::Own)?;
        let mine = promised(&mine).map_err(|why| ElectError::OwnPromise { epoch, why: why.to_string() })?;
        gantry_rt::crash::point("elect-own-promise");
        let mut promises = vec![(self.me, mine)];
        let others: BTreeSet<NodeUuid> = ask.iter().map(|member| NodeUuid(member.node)).collect();
        let calls = others.into_iter().filter(|node| *node != self.me).map(|node| {
            let (link, request) = (self.link, request());
            async move { (node, link.call::<noded::CopyPromise>(node, request, deadline).await) }
        });
        for (node, answer) in all(calls).await {
            let answer = answer.map_err(|why| why.to_string());
            let answer = answer.and_then(|reply| promised(&reply).map_err(|why| why.to_string()));
            let outcome = answer.as_ref().map(|_| ()).map_err(Clone::clone);
            (self.say)(Event::Promise { name: self.link.name(node), outcome });
            promises.extend(answer.ok().map(|both| (node, both)));
        }
        let w = heard::answers(promises.iter().map(|(node, both)| (*node, &both.0)));
        let q = heard::answers(promises.iter().map(|(node, both)| (*node, &both.1)));
        elect::won(&round.me, &w, &q, Rules::ALL).map_err(ElectError::Refused)?;
        self.take(Fence { epoch, ballot }).await
    }

    fn own_claims(
        &self,
        round: &Round,
        epoch: u64,
        (ballot, nonce): (copies::Bits, copies::Bits),
    ) -> Vec<(Log, copies::Claim)> {
        let claim = |log| {
            let facts = round.facts(self.me, log)?;
            let term = copies::Term { epoch, run: 0 };
            Some((log, copies::Claim { cluster: facts.cluster, history: facts.history, term, ballot, nonce }))
        };
        [Log::W, Log::Q].into_iter().filter_map(claim).collect()
    }

    /// Tells the own noded, which writes role.json.
    async fn take(&mut self, won: Fence) -> Result<Outcome, ElectError> {
        let deadline = Duration::from_millis(ELECTED_MS);
        gantry_rt::crash::point("elect-won");
        let taken = self.link.call::<noded::Elected>(self.me, won, deadline).await;
        gantry_rt::crash::point("elect-taken");
        taken.map_err(|why| ElectError::NotTaken { epoch: won.epoch, why })?;
        (self.say)(Event::Won { epoch: won.epoch });
        Ok(Outcome::Won(won))
    }

    /// `--no-voting`: what may be lost is said before anything is done.
    async fn alone(&mut self, really: bool) -> Result<Outcome, ElectError> {
        let round = self.look().await?;
        let plan = elect::alone(&round.me, round.own(), &round.heard);
        (self.say)(Event::AtRisk(plan.at_risk.clone()));
        if !really {
            return Ok(Outcome::Looked);
        }
        for log in [Log::W, Log::Q] {
            if let Some(why) = round.facts(self.me, log).and_then(|facts| facts.damaged.clone()) {
                return Err(ElectError::OwnPromise { epoch: plan.epoch, why });
            }
        }
        // A master that still answers stops first, also on this node: its writers lead the old history. One that does not
        // answer is what this mode is for.
        let masters: Vec<_> = round.replies.iter().filter_map(|(node, r)| Some((*node, r.master?))).collect();
        for (node, epoch) in masters {
            self.step_down(node, epoch).await;
        }
        let won = Fence { epoch: plan.epoch, ballot: draw()? };
        let place = |log| round.facts(self.me, log).map(|facts| facts.last).unwrap_or_default();
        let request = copies::AloneRequest {
            history: Uuid::new_v4(),
            epoch: won.epoch,
            ballot: won.ballot,
            w: place(Log::W),
            q: place(Log::Q),
        };
        let deadline = Duration::from_millis(ELECTED_MS);
        let begun = self.link.call::<noded::CopyAlone>(self.me, request, deadline).await;
        begun.map_err(|why| ElectError::OwnPromise { epoch: won.epoch, why: why.to_string() })?;
        self.take(won).await
    }
}

/// Both copies' facts, when both promised.
fn promised(reply: &PromiseReply) -> Result<(Facts, Facts), Refusal> {
    let of = |log| {
        let answer = reply.answers.iter().find(|(of, _)| *of == log);
        answer.map(|(_, answer)| answer.clone().map_err(wire::to_refusal))
    };
    match (of(Log::W), of(Log::Q)) {
        (Some(w), Some(q)) => Ok((w?, q?)),
        // The first refusal ends a reply, so the other is the one to tell.
        (Some(one), None) | (None, Some(one)) => one.and(Err(Refusal::Malformed)),
        (None, None) => Err(Refusal::Malformed),
    }
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

fn draw() -> Result<copies::Bits, ElectError> {
    let mut bits = [0; 16];
    getrandom::fill(&mut bits).map_err(|why| ElectError::Random(why.to_string()))?;
    Ok(bits)
}

/// Runs all and waits for all; there are at most ten candidates or so.
async fn all<T, C: Future<Output = T>>(calls: impl IntoIterator<Item = C>) -> Vec<T> {
    futures_util::future::join_all(calls).await
}
