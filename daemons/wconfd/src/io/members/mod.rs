//! Whose copies count, and how that changes (P2; docs/adr/0008, 7 and 8).
//!
//! ```text
//!  MemberChange ─▶ change: learner fed ─▶ list n+1 in W ─┐
//!                                                         ▼
//!  settle (level-triggered): list committed ─▶ object unsettled ─▶ luxid says ListInQ ─▶ object settled, flags
//! ```
//!
//! `settle` looks at what is there and takes one step; a restarted wconfd, or a new master, goes on from what it finds.
//! `change` is one call's part: it has a learner fed, appends the list, and waits until `settle` has finished it.

mod change;
mod settle;

pub use change::Wish;

use super::mailbox::{Handle, Reply};
use super::owner::Owner;
use gantry_copies::CopiesHandle;
use gantry_copies::link::TlsLink;
use gantry_model::config as model;
use gantry_model::ids::NodeUuid;
use gantry_proto::envelope::{Code, Fail};
use gantry_proto::wconfd::{self as wire, Command, LearnerInQ};
use gantry_store::core::settle::Members as Object;
use gantry_store::{Index, List, Member, Writer};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use tokio::sync::{Notify, watch};
use uuid::Uuid;

/// What luxid has said on its newest connection.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Said {
    /// The newest list that is committed in Q.
    pub in_q: Option<u64>,
    /// How the learner stands there.
    pub learner: Option<LearnerInQ>,
}

/// A change under way that this process began.
#[derive(Debug, Default)]
struct Begun {
    /// The copy being fed.
    learner: Option<Uuid>,
    /// The list appended, and what is written when it is settled.
    list: Option<(u64, Vec<Command>)>,
    /// Why those were refused.
    refused: Option<Fail>,
}

/// What the parts share.
struct Shared {
    handle: Handle,
    writer: Writer,
    copies: CopiesHandle<TlsLink>,
    /// Nobody else's: see [`Parts::link`].
    link: TlsLink,
    me: Member,
    my_name: String,
    said: watch::Sender<Said>,
    /// One change at a time.
    turn: tokio::sync::Mutex<()>,
    begun: Mutex<Begun>,
    /// `settle` has something to look at.
    kick: Notify,
    /// Counts steps of `settle`.
    steps: watch::Sender<u64>,
}

/// The members, as the verbs reach them. Clones share them.
#[derive(Clone)]
pub struct Members(Arc<Shared>);

/// What is there now.
struct State {
    newest: (Index, List),
    committed: Index,
    object: Option<model::Members>,
    said: Said,
}

/// What [`Members`] is made of.
pub struct Parts {
    /// The owner of the state.
    pub handle: Handle,
    /// W's writer.
    pub writer: Writer,
    /// W's copies.
    pub copies: CopiesHandle<TlsLink>,
    /// The way to all nodeds. By value, since no sender may use it: a link tells once that a connection was lost, and a
    /// sender that does not hear it goes on with a copy that may be another one since.
    pub link: TlsLink,
    /// This node's copy.
    pub me: Member,
    /// This node's name.
    pub my_name: String,
}

impl Members {
    /// Members that nobody has changed yet.
    #[must_use]
    pub fn new(parts: Parts) -> Self {
        let Parts { handle, writer, copies, link, me, my_name } = parts;
        Self(Arc::new(Shared {
            handle,
            writer,
            copies,
            link,
            me,
            my_name,
            said: watch::Sender::new(Said::default()),
            turn: tokio::sync::Mutex::default(),
            begun: Mutex::default(),
            kick: Notify::new(),
            steps: watch::Sender::new(0),
        }))
    }

    /// A new connection of luxid: what it said on an older one may be of an older start.
    pub fn luxid_came(&self) {
        self.0.said.send_replace(Said::default());
    }

    /// luxid says what is committed in Q.
    pub fn in_q(&self, request: wire::ListInQRequest) {
        let said = Said { in_q: Some(request.n), learner: request.learner };
        self.0.said.send_if_modified(|known| std::mem::replace(known, said) != said);
    }

    /// Returns once it is known that a majority answers; see [`CopiesHandle::majority_is_known`].
    pub async fn majority_is_known(&self) {
        self.0.copies.majority_is_known().await;
    }

    /// Whether a majority of the copies stands by this writer (P1.10).
    ///
    /// # Errors
    /// That it does not, or not in time.
    pub async fn confirm(&self) -> Result<(), Fail> {
        self.0.copies.confirm().await.map_err(|why| Fail::new(Code::NotReady, why.to_string()))
    }

    /// The copies, the own one first.
    ///
    /// # Errors
    /// That the daemon is stopping.
    pub async fn status(&self) -> Result<wire::MembersReply, Fail> {
        let object = self.0.handle.ask(Owner::members).await?;
        let n = self.0.writer.list().1.n;
        let settled = object.is_some_and(|object| object.n == n && object.settled);
        Ok(wire::MembersReply { n, settled, copies: self.0.copies.shown(self.0.my_name.clone()) })
    }
}

impl Shared {
    fn begun(&self) -> MutexGuard<'_, Begun> {
        // Two independent fields: neither is half changed when a holder dies.
        self.begun.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn state(&self) -> Result<State, Fail> {
        let said = *self.said.borrow();
        let object = self.handle.ask(Owner::members).await?;
        let newest = self.writer.list();
        let committed = self.writer.progress().borrow().committed;
        Ok(State { newest, committed, object, said })
    }

    /// Writes the object with commands in one batch; durable when this returns.
    async fn write(&self, members: model::Members, commands: Vec<Command>) -> Result<u64, Fail> {
        self.handle
            .ask(move |owner: &mut Owner, reply: Reply<u64>| owner.set_members(members, &commands, reply))
            .await
    }
}

/// The object as the rules read it.
fn object(members: &model::Members) -> Object {
    let member = |m: &model::MemberCopy| Member { node: m.node.0, copy_id: m.copy_id };
    Object { n: members.n, members: members.members.iter().map(member).collect(), settled: members.settled }
}

/// And back.
fn record(object: &Object) -> model::Members {
    let copy = |m: &Member| model::MemberCopy { node: NodeUuid(m.node), copy_id: m.copy_id };
    let members = object.members.iter().map(copy).collect();
    model::Members { n: object.n, members, settled: object.settled, learner: None }
}
