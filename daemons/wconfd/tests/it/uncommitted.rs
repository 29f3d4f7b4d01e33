//! An owner whose log has a second member that never answers: nothing it appends is committed.

use crate::world::{World, owner, tag};
use gantry_proto::envelope::{Code, Fail};
use gantry_proto::wconfd::{FreeScope, ReadKey};
use gantry_store::{List, LogKind, Member, StartOptions, Writer, start};
use gantry_wconfd::core::config::{Config, Object};
use gantry_wconfd::core::locks::Want;
use gantry_wconfd::io::mailbox::{Handle, Reply, pair};
use gantry_wconfd::io::owner::{LOCALS_MAX, Owner, Start, UNKNOWN_AFTER};
use gantry_wconfd::io::owner_locks::{Request, restore};
use std::time::Duration;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

/// Far more than an answer takes that waits for nothing.
const AT_ONCE: Duration = Duration::from_secs(10);

/// A second node, which the configuration names as the master.
fn name_another(objects: &mut Vec<Object>, me: uuid::Uuid) {
    let (me, other) = (me.to_string(), uuid::Uuid::from_u128(9).to_string());
    let node = objects.iter().find(|o| o.kind == "node").expect("a node");
    let mut body: serde_json::Value = serde_json::from_slice(&node.body).unwrap();
    (body["uuid"], body["name"]) = (other.as_str().into(), "node9.example.test".into());
    (body["primary_ip"], body["secondary_ip"]) = ("127.0.0.9".into(), "127.0.0.9".into());
    let node =
        Object { key: node.key.replace(&me, &other), body: body.to_string().into_bytes(), ..node.clone() };
    objects.push(node);
    let cluster = objects.iter_mut().find(|o| o.kind == "cluster").expect("a cluster");
    let mut body: serde_json::Value = serde_json::from_slice(&cluster.body).unwrap();
    body["master_node"] = other.into();
    cluster.body = body.to_string().into_bytes();
}

struct Stuck {
    _world: World,
    me: Member,
    writer: Writer,
    handle: Handle,
    stop: CancellationToken,
    run: JoinHandle<anyhow::Result<()>>,
}

impl Stuck {
    fn start() -> Self {
        Self::start_as(false)
    }

    /// As a new master, which names itself in its first batch, or as the one before.
    fn start_as(new_master: bool) -> Self {
        let world = World::init(1);
        let mut started = start(&world.root.lib(), StartOptions::new(LogKind::W)).unwrap();
        let objects = std::mem::take(&mut started.objects).into_iter();
        let me = started.members[0];
        let mut objects: Vec<Object> =
            objects.map(|o| Object { kind: o.kind, key: o.key, rev: o.rev, body: o.body }).collect();
        if new_master {
            name_another(&mut objects, me.node);
        }
        let config = Config::load(objects).unwrap();
        let locks = restore(&started.local).unwrap();
        let writer = started.writer.clone();
        let committed = started.committed;
        let begin = Start { config, locks, writer: started.writer, committed };
        let (mut owner, _) = Owner::new(begin);
        owner.take_over(gantry_model::ids::NodeUuid(me.node)).unwrap();
        let (handle, inbox) = pair();
        let stop = CancellationToken::new();
        while new_master && writer.progress().borrow().committed <= committed {
            std::thread::yield_now();
        }
        let run = tokio::spawn(owner.run(inbox, stop.clone()));
        Self { _world: world, me, writer, handle, stop, run }
    }

    /// A second member, which nobody reaches, counts from now on.
    fn lose_majority(&self) {
        let silent = Member { node: uuid::Uuid::from_u128(7), copy_id: uuid::Uuid::from_u128(8) };
        let n = self.writer.list().1.n;
        let list = List { n: n + 1, prev: n, members: vec![self.me, silent] };
        self.writer.append_list(list).unwrap();
    }

    /// It counts no more.
    fn regain(&self) {
        let n = self.writer.list().1.n;
        self.writer.append_list(List { n: n + 1, prev: n, members: vec![self.me] }).unwrap();
    }

    /// A change that is appended and can't be committed.
    fn change(&self) -> JoinHandle<Result<u64, Fail>> {
        let handle = self.handle.clone();
        tokio::spawn(async move {
            let ask = |o: &mut Owner, reply: Reply<_>| o.apply(None, &[tag("waits")], reply);
            handle.ask(ask).await.map(|(index, _)| index)
        })
    }

    async fn appended(&self, beyond: u64) {
        self.writer.appended().wait_for(|index| index.0 > beyond).await.unwrap();
    }

    async fn end(self) {
        self.stop.cancel();
        self.run.await.unwrap().unwrap();
    }
}

#[tokio::test]
async fn who_changes_the_members_does_not_wait_for_what_needs_that_change() {
    let stuck = Stuck::start();
    stuck.lose_majority();
    let before = stuck.writer.appended().borrow().0;
    let change = stuck.change();
    stuck.appended(before).await;
    let members = tokio::time::timeout(AT_ONCE, stuck.handle.ask(Owner::members)).await;
    let members = members.expect("answered at once").unwrap().expect("there are members");
    assert_eq!(members.members.len(), 1, "as committed");
    let node = members.members[0].node;
    let name = stuck.handle.ask(move |o: &mut Owner, reply| o.node_name(node, reply));
    let name = tokio::time::timeout(AT_ONCE, name).await.expect("answered at once").unwrap();
    assert_eq!(name.as_deref(), Some("node1.example.test"));
    assert!(!change.is_finished(), "what it stands before is not committed");
    // Taking the silent one out is what commits it.
    stuck.regain();
    tokio::time::timeout(AT_ONCE, change).await.expect("it is committed").unwrap().unwrap();
    stuck.end().await;
}

#[tokio::test]
async fn without_a_majority_an_answer_is_unknown_after_a_while_and_the_change_stays() {
    let stuck = Stuck::start();
    stuck.lose_majority();
    let before = stuck.writer.appended().borrow().0;
    let change = stuck.change();
    stuck.appended(before).await;
    stuck.writer.set_quorum(Err("node2".to_owned()));
    let waits = UNKNOWN_AFTER + AT_ONCE;
    let told = tokio::time::timeout(waits, change).await.expect("it is told that it is unknown").unwrap();
    let why = told.unwrap_err();
    assert_eq!(why.code, Code::Unknown);
    assert!(why.text.contains("outcome unknown") && why.text.contains("node2"), "{}", why.text);
    stuck.regain();
    stuck.writer.set_quorum(Ok(()));
    let key = || ReadKey::Key("cluster".to_owned(), "cluster".to_owned());
    let read = stuck.handle.ask(move |o: &mut Owner, reply| o.read(&[key()], reply)).await.unwrap();
    let cluster = read.1.objects().next().unwrap();
    assert!(String::from_utf8_lossy(&cluster.body).contains("waits"), "the change is committed all the same");
    stuck.end().await;
}

#[tokio::test]
async fn a_death_is_taken_down_while_nothing_can_be_committed() {
    let stuck = Stuck::start();
    stuck.lose_majority();
    let before = stuck.writer.appended().borrow().0;
    let change = stuck.change();
    stuck.appended(before).await;
    let gone = stuck.handle.ask(|o: &mut Owner, reply| o.owner_gone(owner(3), reply));
    tokio::time::timeout(AT_ONCE, gone).await.expect("answered at once").unwrap();
    let none = std::collections::BTreeSet::new();
    let owners = stuck.handle.ask(move |o: &mut Owner, reply| o.owners((1, 2), &none, reply));
    tokio::time::timeout(AT_ONCE, owners).await.expect("answered at once").unwrap();
    assert!(!change.is_finished());
    stuck.end().await;
}

/// A new master names itself before it answers anybody; its copies may be quicker than its first question.
#[tokio::test]
async fn what_was_committed_before_the_owner_begins_is_no_wait_for_the_first_who_ask() {
    let began = Stuck::start_as(true);
    let rows = tokio::time::timeout(AT_ONCE, began.handle.ask(Owner::rows)).await;
    rows.expect("answered at once").unwrap();
    began.end().await;
}

/// Locks are taken and given back by jobs whose answers are told to be unknown, for as long as the copies are away.
#[tokio::test]
async fn changes_of_locks_that_wait_for_a_majority_are_bounded_and_the_owner_lives() {
    let stuck = Stuck::start();
    stuck.lose_majority();
    let before = stuck.writer.appended().borrow().0;
    let change = stuck.change();
    stuck.appended(before).await;
    let (mut job, mut waits) = (0, Vec::new());
    while !full(&stuck.handle).await {
        job += 1;
        assert!(job <= LOCALS_MAX, "more are given than shall wait");
        waits.push(take(&stuck.handle, job).await);
    }
    assert_eq!(job, LOCALS_MAX);
    let refused = take(&stuck.handle, job + 1).await;
    // All of them give back what they have: never refused, and nothing dies of it.
    for job in 1..=job {
        let free = move |o: &mut Owner, reply| o.free(owner(job), FreeScope::All, reply);
        let handle = stuck.handle.clone();
        waits.push(tokio::spawn(async move { handle.ask(free).await }));
    }
    stuck.regain();
    tokio::time::timeout(AT_ONCE, change).await.expect("it is committed").unwrap().unwrap();
    for wait in waits {
        tokio::time::timeout(AT_ONCE, wait).await.expect("it is answered").unwrap().unwrap();
    }
    let why = refused.await.unwrap().unwrap_err();
    assert!(why.code == Code::Busy && why.text.contains("majority"), "{why}");
    assert!(!full(&stuck.handle).await);
    take(&stuck.handle, job + 1).await.await.unwrap().unwrap();
    stuck.end().await;
}

async fn full(handle: &Handle) -> bool {
    handle.ask(|o: &mut Owner, reply: Reply<bool>| reply.send(Ok(o.locks_are_full()))).await.unwrap()
}

/// A job's request for a lock of its own, in the owner's queue when this returns.
async fn take(handle: &Handle, job: u64) -> JoinHandle<Result<(), Fail>> {
    let lock = format!("node/{}", uuid::Uuid::from_u128(job.into())).parse().unwrap();
    let request = Request { owner: owner(job), priority: 0, wants: vec![(lock, Want::Exclusive)] };
    let (show, _) = tokio::sync::watch::channel(None);
    let ask = move |o: &mut Owner, ticket, reply| o.lock(request, ticket, show, reply);
    let mut wait = handle.ask_waiting(owner(job), ask).await.unwrap();
    tokio::spawn(async move { wait.answer().await })
}
