//! The connection to wconfd: kept up for ever. On each new one: the owners first (P4.7), then the watch stream that
//! feeds the copy of the configuration, then the dead, each until wconfd answered (P4.6).

use super::actor::Inbox;
use super::feed::Feed;
use crate::core::mirror::{Mirror, Snapshot, Touched};
use crate::core::queue::{Event, LeaseSeen, News, Stock};
use futures_util::future::join_all;
use gantry_model::config::kind;
use gantry_model::ids::JobOwner;
use gantry_model::lease::{Lease, LeaseState};
use gantry_model::pool::{Pool, PoolState};
use gantry_model::root::Root;
use gantry_proto::codec::Json;
use gantry_proto::hello::Hello;
use gantry_proto::wconfd::{
    Apply, ApplyRequest, Command, ConfirmMaster, ListInQ, ListInQRequest, LockRow, LockRows, MemberDrop,
    MemberDropRequest, Members, MembersReply, OwnerGone, Owners, Watch,
};
use gantry_rpc::{CallError, Client, Code, Event as Piece, Stream};
use serde_json::Value;
use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::sync::{Notify, watch};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

/// How long wconfd may take for one call.
const CALL_MS: u64 = 30_000;
/// First and longest wait before connecting again.
const RECONNECT_MS: (u64, u64) = (20, 2_000);

/// How long the end of a job that said its last word itself waits for others to be told with it: that is a commit, and such a job
/// has given back what it had, unless giving back was what failed.
const LEFT_GATHER: Duration = Duration::from_millis(200);
/// Ends told at once.
const TOLD_AT_ONCE_MAX: usize = 64;

/// Owners that are dead and of which wconfd has not heard. At most one entry per start that ever ran and was not yet
/// confirmed: bounded by the jobs that ran while wconfd was away.
#[derive(Debug, Clone, Default)]
pub struct Gone(Arc<(Mutex<Ends>, Notify)>);

#[derive(Debug, Default)]
struct Ends {
    /// They may hold locks: told at once.
    dead: BTreeSet<JobOwner>,
    /// They said their last word, and are told with the next dead one, or when it is time.
    left: BTreeSet<JobOwner>,
    due: Option<Instant>,
}

impl Gone {
    fn lock(&self) -> MutexGuard<'_, Ends> {
        self.0.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Adds one that died.
    pub fn add(&self, owner: JobOwner) {
        self.lock().dead.insert(owner);
        self.0.1.notify_one();
    }

    /// Adds one whose last word is stored.
    pub fn add_left(&self, owner: JobOwner) {
        {
            let mut ends = self.lock();
            ends.left.insert(owner);
            if ends.due.is_some() {
                return;
            }
            ends.due = Some(Instant::now() + LEFT_GATHER);
        }
        self.0.1.notify_one();
    }

    fn remove(&self, owner: JobOwner) {
        let mut ends = self.lock();
        ends.dead.remove(&owner);
        ends.left.remove(&owner);
        if ends.left.is_empty() {
            ends.due = None;
        }
    }

    /// The next to be told, as soon as there are any.
    async fn next(&self) -> Vec<JobOwner> {
        loop {
            let due = {
                let ends = self.lock();
                if !ends.dead.is_empty() || ends.due.is_some_and(|due| due <= Instant::now()) {
                    return ends.dead.iter().chain(&ends.left).copied().take(TOLD_AT_ONCE_MAX).collect();
                }
                ends.due
            };
            let told = self.0.1.notified();
            match due {
                Some(due) => _ = tokio::time::timeout_at(due, told).await,
                None => told.await,
            }
        }
    }
}

#[cfg(test)]
mod gone_tests {
    use super::*;

    #[tokio::test]
    async fn who_left_is_told_with_the_next_dead_one_or_in_time() {
        let owner = |text: &str| text.parse::<JobOwner>().expect("an owner");
        let (gone, one, two, three) = (Gone::default(), owner("1.1-1-1"), owner("2.1-1-2"), owner("3.1-1-3"));
        gone.add_left(two);
        assert!(tokio::time::timeout(LEFT_GATHER / 4, gone.next()).await.is_err(), "told at once");
        gone.add_left(three);
        gone.add(one);
        assert_eq!(gone.next().await, [one, two, three]);
        [one, two].into_iter().for_each(|told| gone.remove(told));
        assert_eq!(gone.next().await, [three]);
        gone.remove(three);
        assert!(tokio::time::timeout(LEFT_GATHER * 2, gone.next()).await.is_err(), "nobody is left");
    }
}

/// What others see of wconfd. Clones share it.
#[derive(Clone)]
pub struct Config {
    state: watch::Receiver<Arc<Snapshot>>,
    client: watch::Receiver<Option<Client>>,
    count: watch::Receiver<u64>,
    feed: Feed,
}

impl Config {
    /// What a keeper publishes.
    #[must_use]
    pub fn new(
        state: watch::Receiver<Arc<Snapshot>>,
        client: watch::Receiver<Option<Client>>,
        feed: Feed,
    ) -> Self {
        Self::counted(state, client, watch::Sender::new(0).subscribe(), feed)
    }

    fn counted(
        state: watch::Receiver<Arc<Snapshot>>,
        client: watch::Receiver<Option<Client>>,
        count: watch::Receiver<u64>,
        feed: Feed,
    ) -> Self {
        Self { state, client, count, feed }
    }

    /// What changes in the configuration; told after it can be seen.
    #[must_use]
    pub fn feed(&self) -> &Feed {
        &self.feed
    }

    /// The newest whole state.
    #[must_use]
    pub fn snapshot(&self) -> Arc<Snapshot> {
        Arc::clone(&self.state.borrow())
    }

    /// Whole states, as they come.
    #[must_use]
    pub fn states(&self) -> watch::Receiver<Arc<Snapshot>> {
        self.state.clone()
    }

    /// Connections, as they come and go.
    #[must_use]
    pub fn connections(&self) -> watch::Receiver<Option<Client>> {
        self.client.clone()
    }

    /// The number of the connection that stands, or stood last.
    #[must_use]
    pub fn connection(&self) -> u64 {
        *self.count.borrow()
    }

    fn client(&self) -> Result<Client, CallError> {
        self.client.borrow().clone().ok_or_else(|| CallError::Closed("wconfd is away".to_owned()))
    }

    /// Tells wconfd which list is committed in Q.
    ///
    /// # Errors
    /// When wconfd is away.
    pub async fn list_in_q(&self, request: &ListInQRequest) -> Result<(), CallError> {
        self.client()?.call::<ListInQ>(request, Duration::from_millis(CALL_MS)).await
    }

    /// W's members and copies.
    ///
    /// # Errors
    /// When wconfd is away.
    pub async fn members(&self) -> Result<MembersReply, CallError> {
        self.client()?.call::<Members>(&(), Duration::from_millis(CALL_MS)).await
    }

    /// Has a node's copies taken out of both logs' lists.
    ///
    /// # Errors
    /// When wconfd is away, or what it says. With any but a [`CallError::Fail`] it goes on if it has begun.
    pub async fn member_drop(&self, node: gantry_model::ids::NodeUuid) -> Result<(), CallError> {
        let request = MemberDropRequest { node };
        self.client()?.call::<MemberDrop>(&request, Duration::from_millis(CALL_MS)).await.map(drop)
    }

    /// Whether a majority of W's copies stands by this master.
    ///
    /// # Errors
    /// When it does not, or wconfd is away.
    pub async fn confirm_master(&self) -> Result<(), CallError> {
        self.client()?.call::<ConfirmMaster>(&(), Duration::from_millis(CALL_MS)).await
    }

    /// Waits for the first whole state: then wconfd knows the owners too.
    pub async fn first_state(&mut self) {
        let _ = self.state.wait_for(|state| state.cluster().is_ok()).await;
    }

    /// Waits until there is a connection.
    pub async fn connected(&self) {
        let _ = self.client.clone().wait_for(Option::is_some).await;
    }

    /// Has wconfd apply one command that no job asks for. Its index of W and the command's result.
    ///
    /// # Errors
    /// When wconfd is away, or what it says. With any but a [`CallError::Fail`] the outcome is not known.
    pub async fn apply(&self, command: Command) -> Result<(u64, Value), CallError> {
        let client = self.client()?;
        let strange = |why: String| CallError::Protocol(why);
        let commands = Json::of(&vec![command]).map_err(|why| strange(why.to_string()))?;
        let request = ApplyRequest { owner: None, seq: 0, commands };
        let reply = client.call::<Apply>(&request, Duration::from_millis(CALL_MS)).await?;
        let results = reply.results.read().map_err(|why| strange(why.to_string()))?;
        Ok((reply.index, results.into_iter().next().unwrap_or_default()))
    }

    /// wconfd's lock rows.
    ///
    /// # Errors
    /// When wconfd is away.
    pub async fn lock_rows(&self) -> Result<Vec<LockRow>, CallError> {
        self.client()?.call::<LockRows>(&(), Duration::from_millis(CALL_MS)).await
    }
}

/// The task that keeps the connection.
pub struct Keeper {
    path: PathBuf,
    hello: Hello,
    inbox: Inbox,
    gone: Gone,
    mirror: Mirror,
    state: watch::Sender<Arc<Snapshot>>,
    client: watch::Sender<Option<Client>>,
    /// Connections so far.
    count: watch::Sender<u64>,
    feed: Feed,
}

impl Keeper {
    /// A keeper, and what others see through it.
    #[must_use]
    pub fn new(root: &Root, hello: Hello, inbox: Inbox, gone: Gone) -> (Self, Config) {
        let mirror = Mirror::new();
        let (state, seen) = watch::channel(mirror.snapshot());
        let (client, calls) = watch::channel(None);
        let path = root.socket("wconfd.sock");
        let feed = Feed::default();
        let (count, counted) = watch::channel(0);
        let config = Config::counted(seen, calls, counted, feed.clone());
        (Self { path, hello, inbox, gone, mirror, state, client, count, feed }, config)
    }

    /// Keeps the connection until luxid stops.
    pub async fn run(mut self, stop: CancellationToken) {
        tokio::select! {
            () = self.keep() => {}
            () = stop.cancelled() => {}
        }
    }

    async fn keep(&mut self) {
        let mut wait = RECONNECT_MS.0;
        loop {
            match Client::unix(&self.path, &self.hello).await {
                Ok(client) => {
                    let index = self.mirror.snapshot().index();
                    let why = self.converse(&client).await;
                    self.client.send_replace(None);
                    self.mirror.disconnected();
                    tracing::warn!(%why, "the connection to wconfd ended");
                    if self.mirror.snapshot().index() > index {
                        wait = RECONNECT_MS.0;
                    }
                }
                Err(error) => tracing::debug!(%error, "wconfd is away"),
            }
            tokio::time::sleep(Duration::from_millis(wait)).await;
            wait = (wait * 2).min(RECONNECT_MS.1);
        }
    }

    /// One connection, from the owners on; returns why it ended.
    async fn converse(&mut self, client: &Client) -> CallError {
        let limit = Duration::from_millis(CALL_MS);
        let owners = self.inbox.owners().await;
        if let Err(why) = client.call::<Owners>(&owners, limit).await {
            return why;
        }
        let stream = match client.open::<Watch>(&self.mirror.request()).await {
            Ok(stream) => stream,
            Err(why) => return why,
        };
        self.count.send_modify(|count| *count += 1);
        self.client.send_replace(Some(client.clone()));
        let (gone, inbox) = (self.gone.clone(), self.inbox.clone());
        tokio::select! {
            why = self.follow(stream) => why,
            why = bury(client, &gone, &inbox) => why,
        }
    }

    /// Follows the stream of changes.
    async fn follow(&mut self, mut stream: Stream<Watch>) -> CallError {
        loop {
            match stream.next().await {
                Ok(Piece::Item(item)) => {
                    let touched = match self.mirror.apply(&item) {
                        Ok(touched) => touched,
                        Err(error) => {
                            tracing::error!(%error, "the configuration can't be followed");
                            return CallError::Protocol(error.to_string());
                        }
                    };
                    self.publish(&touched).await;
                    self.feed.tell(touched);
                }
                Ok(Piece::End(())) => return CallError::Closed("the stream ended".to_owned()),
                Err(why) => return why,
            }
        }
    }

    async fn publish(&mut self, touched: &Touched) {
        let snapshot = self.mirror.snapshot();
        let Ok(cluster) = snapshot.cluster() else { return };
        let running = usize::try_from(cluster.max_running_jobs).unwrap_or(usize::MAX);
        let index = snapshot.index();
        let seen = self.state.borrow().cluster().is_ok();
        if seen && !touched.all && self.state.borrow().index() == index {
            return;
        }
        let news = news(&snapshot, touched);
        let nodes = touched.all || touched.objects.iter().any(|object| object.kind == kind::NODE);
        let nodes = nodes.then(|| snapshot.nodes().iter().filter(|(_, node)| node.vm_capable).count());
        self.state.send_replace(snapshot);
        self.inbox.event(Event::MaxRunning(running)).await;
        if let Some(nodes) = nodes {
            self.inbox.event(Event::VmNodes(nodes)).await;
        }
        if let Some(news) = news {
            self.inbox.event(Event::News(Box::new(news))).await;
        }
        self.inbox.event(Event::MirrorAt(index)).await;
    }
}

/// What the queue hears of pools and leases; None when nothing of them changed.
fn news(snapshot: &Snapshot, touched: &Touched) -> Option<News> {
    let stock = |pool: &Pool| Stock {
        active: pool.state == PoolState::Active,
        counts: snapshot.pool_counts(&pool.name),
    };
    let lease = |lease: &Lease| LeaseSeen {
        lives: lease.state == LeaseState::Active,
        broken: lease.state == LeaseState::Broken,
        why: lease.why.clone(),
    };
    let index = snapshot.index();
    if touched.all {
        let pools = snapshot.pools().iter().map(|(_, pool)| (pool.name.clone(), Some(stock(pool)))).collect();
        let leases = snapshot.leases().iter().map(|(uuid, row)| (*uuid, Some(lease(row)))).collect();
        return Some(News { index, all: true, pools, leases });
    }
    if touched.pools.is_empty() && touched.leases.is_empty() {
        return None;
    }
    let pools =
        touched.pools.iter().map(|name| (name.clone(), snapshot.pool_named(name).map(|pool| stock(pool))));
    let leases = touched.leases.iter().map(|uuid| (*uuid, snapshot.leases().get(uuid).map(|row| lease(row))));
    Some(News { index, all: false, pools: pools.collect(), leases: leases.collect() })
}

/// Tells wconfd of the dead. First of those whose death an earlier luxid saw and did not live to tell: whoever
/// holds locks and is no current start.
async fn bury(client: &Client, gone: &Gone, inbox: &Inbox) -> CallError {
    let limit = Duration::from_millis(CALL_MS);
    let rows = match client.call::<LockRows>(&(), limit).await {
        Ok(rows) => rows,
        Err(why) => return why,
    };
    // Asked after the rows: who took a lock since then is current, and not in them.
    let current: BTreeSet<JobOwner> = inbox.owners().await.into_iter().collect();
    let waiting = |row: &LockRow| row.pending.iter().map(|(_, owner)| *owner).collect::<Vec<_>>();
    let named = rows.iter().flat_map(|row| row.owners.iter().copied().chain(waiting(row)));
    for owner in named.filter(|owner| !current.contains(owner)) {
        gone.add(owner);
    }
    loop {
        let owners = gone.next().await;
        // Together, so that they are one commit.
        let told =
            owners.iter().map(|owner| async { (*owner, client.call::<OwnerGone>(owner, limit).await) });
        let mut later = false;
        for (owner, told) in join_all(told).await {
            match told {
                Ok(()) => gone.remove(owner),
                // It can't store that now. The connection stays: a change of the members may need it.
                Err(CallError::Fail(fail))
                    if matches!(fail.code, Code::NotReady | Code::Busy | Code::Unknown) =>
                {
                    tracing::debug!(%owner, %fail, "wconfd can't take down the end of a job now");
                    later = true;
                }
                Err(why) => return why,
            }
        }
        if later {
            tokio::time::sleep(Duration::from_millis(RECONNECT_MS.1)).await;
        }
    }
}
