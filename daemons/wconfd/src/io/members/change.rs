//! One change of the members: the part that belongs to its caller.

use super::{Members, Shared, State, object};
use gantry_copies::link::{Link, LinkError};
use gantry_model::config::{MemberCopy, Members as Record};
use gantry_model::error::GanetiError;
use gantry_model::ids::NodeUuid;
use gantry_proto::copies::{Claim, Log, MakeReply, MakeRequest, Term};
use gantry_proto::envelope::{Code, Fail};
use gantry_proto::noded;
use gantry_proto::verb::Verb;
use gantry_proto::wconfd::Command;
use gantry_rt::crash;
use gantry_store::core::Rules;
use gantry_store::core::settle::{NextW, SeenW, change, fed};
use gantry_store::{Index, Member, StoreError};
use std::sync::Arc;
use std::time::Duration;
use tokio::time::Instant;
use uuid::Uuid;

/// How long a noded may take to say where its copies stand, or to make empty ones.
const CALL: Duration = Duration::from_secs(10);
/// How often a caller hears how far it is, and what is waited for is looked at.
const TELL: Duration = Duration::from_millis(200);

/// How long a learner may be out of reach, or the lists of both logs stand still, before its caller is told that it leads to
/// nothing: a node that restarts is back within this.
const DEAD: Duration = Duration::from_secs(60);
/// How long a learner that is reached may confirm nothing more: far more than a snapshot or a large body takes.
const STALLED: Duration = Duration::from_secs(600);

/// Whether a learner still gets anywhere.
struct Progress {
    /// What it had confirmed of both logs.
    has: (u64, u64),
    grew: Instant,
    reached: Instant,
}

impl Progress {
    fn new(now: Instant) -> Self {
        Self { has: (0, 0), grew: now, reached: now }
    }

    /// Takes what it has confirmed of both logs, and why it is not reached (empty: it is). Why its feeding is to end, if so.
    fn look(&mut self, now: Instant, has: (u64, u64), why: &str) -> Option<String> {
        if has != self.has {
            (self.has, self.grew) = (has, now);
        }
        if why.is_empty() {
            self.reached = now;
        }
        if now.duration_since(self.reached) >= DEAD {
            return Some(format!("it was not reached for {} s ({why})", DEAD.as_secs()));
        }
        let stalled = now.duration_since(self.grew) >= STALLED;
        stalled.then(|| format!("it has confirmed nothing more for {} s", STALLED.as_secs()))
    }
}

/// What a caller asks for.
pub struct Wish {
    /// Whose copies.
    pub node: NodeUuid,
    /// Its name, for the texts.
    pub name: String,
    /// In, or out.
    pub join: bool,
    /// What changes in the same batch.
    pub commands: Vec<Command>,
}

/// Ends the feeding when the caller goes away.
struct Feeding {
    shared: Arc<Shared>,
    copy_id: Uuid,
}

impl Drop for Feeding {
    fn drop(&mut self) {
        self.shared.copies.forget_learner(self.copy_id);
        self.shared.begun().learner = None;
        self.shared.kick.notify_one();
    }
}

fn state_error(text: impl Into<String>) -> Fail {
    GanetiError::prereq(text, gantry_model::error::Ecode::WrongState).into()
}

impl Members {
    /// Makes one change, or finds it made. Returns the index of the batch that settled it. Dropping the future abandons a
    /// learner, never a list that was appended.
    ///
    /// # Errors
    /// Why it can't be made. What was appended goes on.
    pub async fn change(&self, wish: Wish, tell: impl Fn(String) + Send + Sync) -> Result<u64, Fail> {
        let shared = &self.0;
        let _turn = match shared.turn.try_lock() {
            Ok(turn) => turn,
            Err(_) => {
                tell("another change of the master candidates is under way".to_owned());
                shared.turn.lock().await
            }
        };
        let state = shared.settled(&tell).await?;
        let there = state.newest.1.members.iter().find(|member| member.node == wish.node.0).copied();
        let Some(record) = state.object.clone() else {
            return Err(Fail::new(Code::Internal, "the configuration has no members"));
        };
        if there.is_some() == wish.join {
            return shared.write(Record { learner: None, ..record }, wish.commands).await;
        }
        match there {
            Some(member) => {
                let rest = state.newest.1.members.iter().filter(|m| **m != member).copied().collect();
                shared.append(&wish, rest).await?;
            }
            None => shared.join(&wish, record, &tell).await?,
        }
        shared.kick.notify_one();
        let settled = shared.settled(&tell).await;
        let mut begun = shared.begun();
        begun.list = None;
        let refused = begun.refused.take();
        drop(begun);
        settled?;
        refused.map_or_else(|| Ok(shared.writer.progress().borrow().committed.0), Err)
    }
}

impl Shared {
    /// Waits until the newest list is settled and luxid has said so on its newest connection.
    async fn settled(&self, tell: &(impl Fn(String) + Send + Sync)) -> Result<State, Fail> {
        let mut told = String::new();
        let mut steps = self.steps.subscribe();
        let mut still = (NextW::Settled, Instant::now());
        loop {
            steps.mark_unchanged();
            let state = self.state().await?;
            if state.next() != still.0 {
                still = (state.next(), Instant::now());
            }
            let why = match state.next() {
                NextW::Settled if state.said.in_q.is_some() => return Ok(state),
                NextW::AwaitCommit | NextW::Publish(_) => {
                    "waiting for a majority of the configuration's copies"
                }
                NextW::Settled | NextW::AwaitQ(_) | NextW::Settle(_) => "waiting for the job queue's copies",
            };
            // A caller that waits for ever keeps others from the change that may help (P2.6).
            if still.1.elapsed() >= DEAD {
                return Err(state_error(format!(
                    "{why} for {} s; what has begun of the change goes on by itself when they answer (gnt-cluster info)",
                    DEAD.as_secs()
                )));
            }
            if told != why {
                why.clone_into(&mut told);
                tell(told.clone());
            }
            tokio::select! {
                changed = steps.changed() => {
                    changed.map_err(|_| Fail::new(Code::NotReady, "wconfd is stopping"))?;
                }
                () = tokio::time::sleep(TELL) => {}
            }
        }
    }

    /// Appends the list with exactly these members.
    async fn append(&self, wish: &Wish, members: Vec<Member>) -> Result<(), Fail> {
        let state = self.state().await?;
        let seen_object = state.object.as_ref().map(object);
        let seen = SeenW { object: seen_object.as_ref(), ..state.seen() };
        let list = change(&seen, members, self.me, Rules::ALL).map_err(|why| state_error(why.to_string()))?;
        let n = list.n;
        {
            let mut begun = self.begun();
            (begun.list, begun.refused) = (Some((n, wish.commands.clone())), None);
        }
        let appended = self.writer.append_list(list);
        crash::point("members-listed-in-W");
        appended.map(|_| ()).map_err(|why| {
            self.begun().list = None;
            match why {
                StoreError::NoMajority { .. } => state_error(why.to_string()),
                other => Fail::new(Code::Internal, other.chain()),
            }
        })
    }

    /// Has an empty copy made and fed in both logs, then counts it.
    async fn join(
        self: &Arc<Self>,
        wish: &Wish,
        record: Record,
        tell: &(impl Fn(String) + Send + Sync),
    ) -> Result<(), Fail> {
        let learner = Member { node: wish.node.0, copy_id: Uuid::new_v4() };
        tell(format!("making empty copies on {}", wish.name));
        self.make(wish, learner.copy_id).await?;
        crash::point("members-copies-made");
        let feeding = Feeding { shared: Arc::clone(self), copy_id: learner.copy_id };
        self.begun().learner = Some(learner.copy_id);
        self.copies.add_learner(learner);
        let copy = MemberCopy { node: wish.node, copy_id: learner.copy_id };
        self.write(Record { learner: Some(copy), ..record }, Vec::new()).await?;
        crash::point("members-learner-named");
        self.feed(wish, learner, tell).await?;
        crash::point("members-learner-fed");
        let mut members = self.writer.list().1.members;
        members.push(learner);
        self.append(wish, members).await?;
        // In the list now: its sender stays.
        drop(feeding);
        Ok(())
    }

    /// Waits until the learner lacks little of both logs.
    async fn feed(
        &self,
        wish: &Wish,
        learner: Member,
        tell: &(impl Fn(String) + Send + Sync),
    ) -> Result<(), Fail> {
        let mut told = String::new();
        let mut progress = Progress::new(Instant::now());
        loop {
            let copy = self.copies.status().into_iter().find(|copy| copy.copy_id == learner.copy_id);
            if let Some(why) = copy.as_ref().and_then(|copy| copy.suspect.clone()) {
                return Err(state_error(format!(
                    "the new copy on {} is not to be believed: {why}",
                    wish.name
                )));
            }
            let last = *self.writer.appended().borrow();
            let matched = copy.as_ref().map_or(Index(0), |copy| copy.matched);
            let said = self.said.borrow().learner.filter(|said| said.copy_id == learner.copy_id);
            let w = matched > Index(0) && fed(matched, last);
            let q = said.is_some_and(|said| said.matched > 0 && fed(Index(said.matched), Index(said.last)));
            if w && q {
                return Ok(());
            }
            let lacks =
                said.map_or("all".to_owned(), |said| said.last.saturating_sub(said.matched).to_string());
            let why = copy.map(|copy| copy.why).unwrap_or_default();
            let has = (matched.0, said.map_or(0, |said| said.matched));
            if let Some(end) = progress.look(Instant::now(), has, &why) {
                return Err(state_error(format!(
                    "{} can't be made a master candidate: {end}. Look at its gantry-noded, then repeat the command",
                    wish.name
                )));
            }
            let why = Some(why).filter(|why| !why.is_empty());
            let why = why.map(|why| format!(" ({why})")).unwrap_or_default();
            let text = format!(
                "{} lacks {} rows of the configuration and {lacks} of the job queue{why}",
                wish.name,
                last.0.saturating_sub(matched.0)
            );
            if text != told {
                told = text;
                tell(told.clone());
            }
            tokio::time::sleep(TELL).await;
        }
    }

    /// Calls a verb that may be repeated: a connection that ended unseen since it was last used is made anew, once.
    async fn ask<V>(&self, node: NodeUuid, request: V::Request) -> Result<V::Reply, LinkError>
    where
        V: Verb<Request: Sync + Clone>,
    {
        match self.link.call::<V>(node, request.clone(), CALL).await {
            Err(LinkError::Lost) => self.link.call::<V>(node, request, CALL).await,
            answer => answer,
        }
    }

    /// Has the node make empty copies of both logs.
    async fn make(&self, wish: &Wish, copy_id: Uuid) -> Result<(), Fail> {
        let failed = |what: &str, why: String| state_error(format!("{what}: {why}"));
        let own = self.link.call::<noded::CopyLook>(NodeUuid(self.me.node), (), CALL).await;
        let own = own.map_err(|why| failed("this node's gantry-noded does not answer", why.to_string()))?;
        let of = |log| own.copies.iter().find(|(of, _)| *of == log).map(|(_, facts)| facts);
        let claim = |log| {
            let facts = of(log).filter(|facts| !facts.copy_id.is_nil())?;
            let term = Term { epoch: facts.promised.epoch, run: facts.promised.run };
            let (cluster, history, ballot, nonce) = (facts.cluster, facts.history, facts.ballot, facts.nonce);
            Some((log, Claim { cluster, history, term, ballot, nonce }))
        };
        let claims: Vec<_> = [Log::W, Log::Q].into_iter().filter_map(claim).collect();
        if claims.len() < 2 {
            return Err(Fail::new(Code::Internal, "this node's gantry-noded does not see both logs"));
        }
        // What is there may be of an earlier change that failed; it goes aside, and nothing that came since does.
        let there = self.ask::<noded::CopyLook>(wish.node, ()).await;
        let there =
            there.map_err(|why| failed(&format!("{} can't make copies", wish.name), why.to_string()))?;
        // One of which nothing can be read has no id, and is in nobody's way.
        let known = there.copies.iter().filter(|(_, facts)| !facts.copy_id.is_nil());
        let instead_of = known.map(|(log, facts)| (*log, facts.copy_id)).collect();
        let request = MakeRequest { claims, copy_id, instead_of };
        let made = self.ask::<noded::CopyMake>(wish.node, request).await;
        match made.map_err(|why| failed(&format!("{} can't make copies", wish.name), why.to_string()))? {
            MakeReply::Made => Ok(()),
            MakeReply::Refused(_, why) => {
                let text = gantry_copies::wire::to_refusal(why).to_string();
                Err(failed(&format!("{} refuses to make copies", wish.name), text))
            }
            MakeReply::OtherCopy(..) => {
                let text = "its copies were made anew meanwhile; repeat the command".to_owned();
                Err(failed(&format!("{} refuses to make copies", wish.name), text))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::Parts;
    use super::*;
    use gantry_copies::link::TlsLink;

    /// Were it shared, a sender would not hear that its connection was lost: [`Shared::ask`] would, in its place.
    #[test]
    fn the_way_to_the_nodes_is_no_senders() {
        let owned: fn(Parts) -> TlsLink = |parts| parts.link;
        let _ = owned;
    }

    #[test]
    fn feeding_a_learner_ends_when_it_is_dead_or_gets_nowhere() {
        let begin = Instant::now();
        let at = |seconds| begin + Duration::from_secs(seconds);
        let mut progress = Progress::new(begin);
        assert_eq!(progress.look(at(59), (0, 0), "connection refused"), None);
        let why = progress.look(at(60), (0, 0), "connection refused").expect("dead");
        assert!(why.contains("60 s") && why.contains("connection refused"), "{why}");

        let mut progress = Progress::new(begin);
        assert_eq!(progress.look(at(59), (0, 0), "connection refused"), None);
        assert_eq!(progress.look(at(61), (0, 0), ""), None, "it came back");
        assert_eq!(progress.look(at(500), (0, 7), ""), None);
        assert_eq!(progress.look(at(1_099), (0, 7), ""), None);
        assert!(progress.look(at(1_100), (0, 7), "").is_some(), "it gets nowhere");
    }
}
