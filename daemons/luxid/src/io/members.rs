//! Whose copies of the queue count: follows what wconfd has decided (P2.3; docs/adr/0008, 7).
//!
//! ```text
//!  mirror: members {n+1, unsettled} ─▶ list n+1 appended to Q ─ committed ─▶ wconfd: ListInQ(n+1)
//! ```
//! Level-triggered: `core::settle` says the step from what is there. It changes no list by itself.

use super::view::View;
use super::wconfd::Config;
use crate::core::queue::bodies_of;
use crate::core::single;
use crate::error::LuxidError;
use gantry_copies::link::TlsLink;
use gantry_copies::{CopiesHandle, SILENT_MS, aside};
use gantry_model::config as model;
use gantry_model::error::{Ecode, GanetiError};
use gantry_model::ids::NodeUuid;
use gantry_proto::wconfd::{CopyStatus, LearnerInQ, ListInQRequest, MembersReply};
use gantry_rpc::CallError;
use gantry_rt::crash;
use gantry_store::core::settle::{Members as Object, NextQ, SeenQ, next_q};
use gantry_store::{Member, Writer};
use prometheus_client::registry::Registry;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

/// Between two words on how a learner stands, and before a word that failed is said again.
const PAUSE: Duration = Duration::from_millis(200);

/// Q's copies, as the rest of luxid reaches them. Clones share them.
#[derive(Clone)]
pub struct Copies {
    writer: Writer,
    handle: CopiesHandle<TlsLink>,
    me: Member,
    /// Not the senders': see [`gantry_copies::aside`].
    link: Arc<TlsLink>,
}

/// What was said to wconfd, and by which connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Said {
    connection: u64,
    request: ListInQRequest,
}

impl Copies {
    /// Those of a log that is led.
    #[must_use]
    pub fn new(writer: Writer, handle: CopiesHandle<TlsLink>, me: Member, link: TlsLink) -> Self {
        Self { writer, handle, me, link: Arc::new(link) }
    }

    /// Adds their numbers to the daemon's.
    pub fn register(&self, registry: &mut Registry) {
        gantry_copies::metrics::register(registry, "luxid", self.handle.clone());
    }

    /// Tells the senders which bodies the tasks shown by `view` name.
    pub fn name_bodies(&self, view: View) {
        self.handle.set_named(Arc::new(move || {
            let view = view.clone();
            Box::pin(async move {
                let tasks = view.tasks();
                let named = tasks.iter().flat_map(|(_, task)| bodies_of(task));
                named.filter_map(gantry_store::digest).collect()
            })
        }));
    }

    /// Ends luxid when a copy knows a newer master (P1.9).
    ///
    /// # Errors
    /// That one does.
    pub async fn deposed(self, stop: CancellationToken) -> Result<(), LuxidError> {
        tokio::select! {
            why = self.handle.deposed() => Err(LuxidError::Copies(why)),
            () = stop.cancelled() => Ok(()),
        }
    }

    /// Follows wconfd's members until `stop`.
    ///
    /// # Errors
    /// The two logs contradict each other, or the store fails.
    pub async fn follow(self, config: Config, stop: CancellationToken) -> Result<(), LuxidError> {
        let mut state = config.states();
        let mut progress = self.writer.progress();
        let mut connections = config.connections();
        let mut fed: Option<Uuid> = None;
        let mut said: Option<Said> = None;
        loop {
            state.mark_unchanged();
            progress.mark_unchanged();
            connections.mark_unchanged();
            let members = config.snapshot().members().cloned();
            fed = self.feed(members.as_ref().and_then(|members| members.learner), fed);
            let step = match &members {
                Some(members) => self.step(members, &config, &mut said).await?,
                None => None,
            };
            tokio::select! {
                () = tokio::time::sleep(step.unwrap_or_default()), if step.is_some() => {}
                changed = state.changed() => if changed.is_err() { return Ok(()) },
                changed = connections.changed() => if changed.is_err() { return Ok(()) },
                changed = progress.changed() => if changed.is_err() { return Err(LuxidError::StoreEnded) },
                () = stop.cancelled() => return Ok(()),
            }
        }
    }

    /// Feeds the learner that the object names, and no other.
    fn feed(&self, learner: Option<model::MemberCopy>, fed: Option<Uuid>) -> Option<Uuid> {
        let wanted = learner.map(|copy| copy.copy_id);
        if let Some(old) = fed.filter(|old| wanted != Some(*old)) {
            self.handle.forget_learner(old);
        }
        if let Some(copy) = learner.filter(|copy| fed != Some(copy.copy_id)) {
            self.handle.add_learner(Member { node: copy.node.0, copy_id: copy.copy_id });
        }
        wanted
    }

    /// One step. How long until the next look, if news may not bring it.
    async fn step(
        &self,
        members: &model::Members,
        config: &Config,
        said: &mut Option<Said>,
    ) -> Result<Option<Duration>, LuxidError> {
        let newest = self.writer.list();
        let committed = self.writer.progress().borrow().committed;
        let object = object(members);
        // luxid learns of members only after its first row is committed.
        let seen = SeenQ {
            newest: &newest.1,
            list_committed: newest.0 <= committed,
            serving: true,
            object: &object,
        };
        match next_q(&seen) {
            NextQ::AwaitCommit => Ok(None),
            // An older object than Q's list: the mirror has not caught up.
            NextQ::AwaitW => Ok(None),
            NextQ::Append(list) => {
                tracing::info!(n = list.n, copies = list.members.len(), "the queue's copies change");
                self.writer.append_list(list).map_err(LuxidError::Append)?;
                crash::point("members-listed-in-Q");
                Ok(None)
            }
            NextQ::Tell(n) => {
                let learner = members.learner.map(|copy| self.learner(copy.copy_id));
                let request = ListInQRequest { n, learner };
                self.tell(config, request, said).await;
                let done = said.is_some_and(|said| said.request == request);
                Ok((learner.is_some() || !done).then_some(PAUSE))
            }
            NextQ::Apart { q, w } => Err(LuxidError::Apart { q, w }),
        }
    }

    fn learner(&self, copy_id: Uuid) -> LearnerInQ {
        let copy = self.handle.status().into_iter().find(|copy| copy.copy_id == copy_id);
        let last = *self.writer.appended().borrow();
        LearnerInQ { copy_id, matched: copy.map_or(0, |copy| copy.matched.0), last: last.0 }
    }

    /// Says it once on each connection, and when it changes.
    async fn tell(&self, config: &Config, request: ListInQRequest, said: &mut Option<Said>) {
        let connection = config.connection();
        if *said == Some(Said { connection, request }) {
            return;
        }
        crash::point("members-Q-to-be-told");
        match config.list_in_q(&request).await {
            Ok(()) => *said = Some(Said { connection, request }),
            Err(why) => tracing::debug!(%why, "wconfd does not hear of the queue's members"),
        }
    }

    /// Whether a majority of the copies of both logs stands by this master (P1.10).
    ///
    /// # Errors
    /// That it does not, or not in time.
    pub async fn confirm(&self, config: &Config) -> Result<(), GanetiError> {
        let own = async { self.handle.confirm().await.map_err(|why| why.to_string()) };
        let theirs = async { config.confirm_master().await.map_err(|why| why.to_string()) };
        let (own, theirs) = tokio::join!(own, theirs);
        own.and(theirs).map_err(|why| GanetiError::generic(format!("this master is not confirmed: {why}")))
    }

    /// Takes a silent or suspect candidate out while no majority answers (P2.6).
    ///
    /// # Errors
    /// Why that is not the way, and which is; or what wconfd says.
    pub async fn drop_candidate(&self, config: &Config, name: &str) -> Result<bool, GanetiError> {
        let snapshot = config.snapshot();
        let known = snapshot.nodes().iter().find(|(_, node)| node.name == name).map(|(_, node)| node.uuid);
        let node = known.ok_or_else(|| {
            GanetiError::prereq(format!("Node '{}' not known", name.escape_debug()), Ecode::UnknownEntity)
        })?;
        let away = |why| GanetiError::generic(format!("can't ask wconfd for its copies: {why}"));
        let copies = config.members().await.map_err(away)?.copies;
        single::may_drop(name, node, &copies, &self.status(&snapshot))?;
        let dropped = config.member_drop(node).await.map(|()| true).map_err(|why| match why {
            CallError::Fail(fail) => fail.as_ganeti().unwrap_or_else(|| GanetiError::generic(fail.text)),
            CallError::Closed(_) | CallError::Deadline { .. } | CallError::Protocol(_) => GanetiError::generic(
                format!("{name} is being taken out, but that it is done is not known: {why}; look at 'gnt-cluster info'"),
            ),
        })?;
        // Who is told that it is done may submit at once.
        self.handle.majority_is_known().await;
        Ok(dropped)
    }

    /// The answer of `QueryMembers`.
    ///
    /// # Errors
    /// wconfd is away.
    pub async fn query(&self, config: &Config) -> Result<Value, GanetiError> {
        let away = |why| GanetiError::generic(format!("can't ask wconfd for its copies: {why}"));
        let MembersReply { n, settled, copies } = config.members().await.map_err(away)?;
        let queue = self.status(&config.snapshot());
        let aside = self.aside(&queue).await;
        Ok(json!({ "n": n, "settled": settled, "config": copies, "queue": queue, "aside": aside }))
    }

    /// Q's copies, the own one first.
    fn status(&self, config: &crate::core::mirror::Snapshot) -> Vec<CopyStatus> {
        let node = NodeUuid(self.me.node);
        let name = config.nodes().get(&node).map(|node| node.name.clone()).unwrap_or_default();
        self.handle.shown(name)
    }

    /// Files with rows that a change of masters cut off, on whichever node they lie; kept for people. Who is known to be
    /// silent is not asked: that would hold everybody up.
    async fn aside(&self, queue: &[CopyStatus]) -> Vec<String> {
        let silent = |copy: &CopyStatus| copy.answered_ms_ago.is_none_or(|ms| ms > SILENT_MS);
        let asked = queue.iter().filter(|copy| copy.suspect.is_some() || !silent(copy));
        let names: BTreeMap<NodeUuid, &str> = asked.map(|copy| (copy.node, &*copy.name)).collect();
        let told = aside::aside(&*self.link, names.keys().copied().collect()).await;
        told.iter().flat_map(|(node, reply)| aside::lines(names[node], reply)).collect()
    }
}

/// The members as the rules read them.
fn object(members: &model::Members) -> Object {
    let member = |m: &model::MemberCopy| Member { node: m.node.0, copy_id: m.copy_id };
    Object { n: members.n, members: members.members.iter().map(member).collect(), settled: members.settled }
}
