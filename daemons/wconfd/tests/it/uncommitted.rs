//! An owner whose log has a second member that never answers: nothing it appends is committed.

use crate::world::{World, tag};
use gantry_proto::envelope::Fail;
use gantry_store::{List, LogKind, Member, StartOptions, Writer, start};
use gantry_wconfd::core::config::{Config, Object};
use gantry_wconfd::io::mailbox::{Handle, Reply, pair};
use gantry_wconfd::io::owner::{Owner, Start};
use gantry_wconfd::io::owner_locks::restore;
use std::time::Duration;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

/// Far more than an answer takes that waits for nothing.
const AT_ONCE: Duration = Duration::from_secs(10);

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
        let world = World::init(1);
        let mut started = start(&world.root.lib(), StartOptions::new(LogKind::W)).unwrap();
        let objects = std::mem::take(&mut started.objects).into_iter();
        let objects = objects.map(|o| Object { kind: o.kind, key: o.key, rev: o.rev, body: o.body });
        let config = Config::load(objects).unwrap();
        let locks = restore(&started.local).unwrap();
        let (writer, me) = (started.writer.clone(), started.members[0]);
        let begin = Start { config, locks, writer: started.writer, committed: started.committed };
        let (owner, _) = Owner::new(begin);
        let (handle, inbox) = pair();
        let stop = CancellationToken::new();
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
