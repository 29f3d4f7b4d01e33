//! The engine for one command: it asks the nodes, and does what the rules decide.

use super::round::{Round, majority};
use super::{ElectError, Event, Looked, Outcome, STEPS_MAX};
use crate::heard;
use crate::link::{Link, LinkError};
use crate::wire;
use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use gantry_model::ids::{Fence, NodeUuid};
use gantry_proto::copies::{self, Facts, Log, LookReply, PromiseReply, PromiseRequest};
use gantry_proto::noded;
use gantry_store::core::Rules;
use gantry_store::core::copy::Refusal;
use gantry_store::core::elect::{self, Decision, Refused};
use gantry_store::core::list::Member;
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;
use tokio::time::{Instant, sleep_until};
use uuid::Uuid;

/// How long a candidate may take to say what it has while there is no majority without it.
const LOOK_MS: u64 = 5_000;
/// How long a promise may take while there is no majority without it: two flushes, and 2 s for a writer's transaction on
/// each file.
const PROMISE_MS: u64 = 10_000;
/// How long promises of those that answered the look are waited for once a majority has promised: only so that people see
/// who promised.
const GRACE: Duration = Duration::from_millis(250);
/// After so long people are told for whom the command waits.
const TELL: Duration = Duration::from_millis(300);
/// How long a master that answers is waited for to stop its daemons: healthy ones end within a second. Those that hang are killed
/// by its boot, one after the other; the ballot fences them meanwhile, and nothing acknowledged hangs on their end.
const STEP_DOWN_MS: u64 = 5_000;
/// How long the own noded may take to check both votes and write the role.
const ELECTED_MS: u64 = 15_000;

/// The engine for one command.
pub(super) struct Engine<'a, L, F> {
    link: &'a L,
    me: NodeUuid,
    patience: Duration,
    /// Those that did not answer an earlier look of this command: they are asked again, but not waited for again.
    silent: BTreeSet<NodeUuid>,
    say: F,
}

impl<'a, L: Link, F: FnMut(Event) + Send> Engine<'a, L, F> {
    pub(super) fn new(link: &'a L, me: NodeUuid, patience: Duration, say: F) -> Self {
        Self { link, me, patience, silent: BTreeSet::new(), say }
    }

    pub(super) async fn only_look(&mut self) -> Result<Outcome, ElectError> {
        let round = self.look().await?;
        let decision = elect::decide(&round.me, &round.heard, &[], Rules::ALL);
        (self.say)(Event::Decided(decision));
        Ok(Outcome::Looked)
    }

    pub(super) async fn vote(&mut self) -> Result<Outcome, ElectError> {
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
        let looked = self.ask_all().await;
        let told = looked.iter().map(|(node, answer)| Looked {
            node: *node,
            name: self.link.name(*node),
            answer: answer.clone().map_err(|why| why.to_string()),
        });
        let told = told.collect();
        (self.say)(Event::Looked(told));
        self.silent.extend(looked.iter().filter(|(_, answer)| answer.is_err()).map(|(node, _)| *node));
        if let Some(Err(why)) = looked.get(&self.me) {
            return Err(ElectError::Own(why.clone()));
        }
        let replies = looked.into_iter().filter_map(|(node, answer)| Some((node, answer.ok()?))).collect();
        Round::of(self.me, replies).ok_or(ElectError::NoCopies)
    }

    /// Asks, and waits for the answers: for all as long as patience lasts, for those without which there is no majority
    /// longer.
    async fn ask_all(&mut self) -> BTreeMap<NodeUuid, Result<LookReply, LinkError>> {
        let (link, me, began) = (self.link, self.me, Instant::now());
        let deadline = Duration::from_millis(LOOK_MS);
        let ask = |node| async move { (node, link.call::<noded::CopyLook>(node, (), deadline).await) };
        let mut waits = BTreeSet::from([me]);
        let mut calls = FuturesUnordered::from_iter([ask(me)]);
        let mut looked = BTreeMap::new();
        let (mut enough, mut told) = (false, false);
        loop {
            // Once there is a majority, who was silent before holds nothing up.
            if waits.is_empty() || (enough && waits.is_subset(&self.silent)) {
                break;
            }
            tokio::select! {
                Some((node, answer)) = calls.next() => {
                    waits.remove(&node);
                    if let Ok(reply) = &answer {
                        let named = reply.copies.iter().flat_map(|(_, facts)| &facts.list.members);
                        for member in named.map(|member| member.node) {
                            if !looked.contains_key(&member) && member != node && waits.insert(member) {
                                calls.push(ask(member));
                            }
                        }
                    }
                    looked.insert(node, answer);
                    enough = majority(me, &looked);
                }
                () = sleep_until(began + self.patience), if enough => break,
                () = sleep_until(began + TELL), if !told => {
                    told = true;
                    let names = waits.iter().map(|node| link.name(*node)).collect();
                    let at_most = if enough { self.patience } else { deadline };
                    (self.say)(Event::Waiting { names, at_most });
                }
            }
        }
        let late = |node| match self.silent.contains(&node) {
            true => (node, Err(LinkError::Call("silent as before".to_owned()))),
            false => {
                let why = format!("no answer within {} ms", began.elapsed().as_millis());
                (node, Err(LinkError::Call(why)))
            }
        };
        looked.extend(waits.into_iter().map(late));
        looked
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
        let others = ask.iter().map(|member| NodeUuid(member.node)).filter(|node| *node != self.me);
        let promises = self.promises(round, &others.collect(), mine, request).await;
        wins(&round.me, &promises).map_err(ElectError::Refused)?;
        self.take(Fence { epoch, ballot }).await
    }

    /// Asks all others at once. Who was silent is asked too, but waited for only while it takes its promise.
    async fn promises(
        &mut self,
        round: &Round,
        others: &BTreeSet<NodeUuid>,
        mine: (Facts, Facts),
        request: impl Fn() -> PromiseRequest,
    ) -> Vec<Promised> {
        let (link, deadline) = (self.link, Duration::from_millis(PROMISE_MS));
        let mut owed: BTreeSet<NodeUuid> = others - &self.silent;
        let mut calls: FuturesUnordered<_> = others
            .iter()
            .map(|node| {
                let (node, request) = (*node, request());
                async move { (node, link.call::<noded::CopyPromise>(node, request, deadline).await) }
            })
            .collect();
        let mut promises = vec![(self.me, mine)];
        let mut grace = None;
        loop {
            let won = wins(&round.me, &promises).is_ok();
            if won && owed.is_empty() {
                return promises;
            }
            let until = won.then(|| *grace.get_or_insert_with(|| Instant::now() + GRACE));
            tokio::select! {
                next = calls.next() => {
                    let Some((node, answer)) = next else { return promises };
                    owed.remove(&node);
                    let answer = answer.map_err(|why| why.to_string());
                    let answer = answer.and_then(|reply| promised(&reply).map_err(|why| why.to_string()));
                    let outcome = answer.as_ref().map(|_| ()).map_err(Clone::clone);
                    (self.say)(Event::Promise { name: link.name(node), outcome });
                    promises.extend(answer.ok().map(|both| (node, both)));
                }
                () = sleep_until(until.unwrap_or_else(Instant::now)), if until.is_some() => return promises,
            }
        }
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
    pub(super) async fn alone(&mut self, really: bool) -> Result<Outcome, ElectError> {
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
            list_n: plan.list_n,
        };
        let deadline = Duration::from_millis(ELECTED_MS);
        let begun = self.link.call::<noded::CopyAlone>(self.me, request, deadline).await;
        begun.map_err(|why| ElectError::OwnPromise { epoch: won.epoch, why: why.to_string() })?;
        self.take(won).await
    }
}

/// Who promised, with the facts of both its copies.
type Promised = (NodeUuid, (Facts, Facts));

/// Whether these promises win.
fn wins(me: &Member, promises: &[Promised]) -> Result<(), Refused> {
    let w = heard::answers(promises.iter().map(|(node, both)| (*node, &both.0)));
    let q = heard::answers(promises.iter().map(|(node, both)| (*node, &both.1)));
    elect::won(me, &w, &q, Rules::ALL)
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

fn draw() -> Result<copies::Bits, ElectError> {
    let mut bits = [0; 16];
    getrandom::fill(&mut bits).map_err(|why| ElectError::Random(why.to_string()))?;
    Ok(bits)
}
