//! A wconfd that has a configuration, no locks, and a memory of what it was told.

use gantry_model::config::kind;
use gantry_model::defaults::{ClusterSeed, cluster};
use gantry_model::ids::{ClusterUuid, JobOwner, NodeUuid};
use gantry_model::root::Root;
use gantry_proto::hello::Hello;
use gantry_proto::wconfd::{
    Apply, LockRow, LockRows, Members, MembersReply, OwnerGone, Owners, PROTOCOL, Want, Watch, WatchChange,
    WatchItem,
};
use gantry_rpc::{Call, Code, Fail, Limits, Service, reply};
use serde::de::DeserializeOwned;
use serde_json::Value;
use std::collections::BTreeMap;
use std::future::Future;
use std::pin::Pin;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

/// What it heard and what it does.
pub struct FakeWconfd {
    cluster: ClusterUuid,
    pub(crate) node: NodeUuid,
    objects: Mutex<Objects>,
    /// So many lease commands whose answers get lost.
    pub lost_answers: AtomicU32,
    /// The lists of owners it was told, newest last.
    pub owners: Mutex<Vec<Vec<JobOwner>>>,
    /// The dead it was told.
    pub gone: Mutex<Vec<JobOwner>>,
    /// So many words of a death it does not take yet.
    pub refusals: AtomicU32,
    /// Who holds a lock, as it tells.
    pub holders: Mutex<Vec<JobOwner>>,
    /// Committed index of W.
    pub index: watch::Sender<u64>,
    stop: Mutex<CancellationToken>,
}

/// What is committed beside the cluster.
#[derive(Default)]
struct Objects {
    rows: BTreeMap<(String, String), (u64, Value)>,
    batches: BTreeMap<u64, Vec<WatchChange>>,
}

impl FakeWconfd {
    /// Commits a batch.
    pub fn commit(&self, sets: Vec<(&'static str, String, Option<Value>)>) {
        let mut objects = self.objects.lock().unwrap();
        let index = *self.index.borrow() + 1;
        let mut changes = Vec::new();
        for (kind, key, body) in sets {
            let text = body.as_ref().map(Value::to_string);
            match body {
                Some(body) => drop(objects.rows.insert((kind.to_owned(), key.clone()), (index, body))),
                None => drop(objects.rows.remove(&(kind.to_owned(), key.clone()))),
            }
            changes.push(WatchChange { kind: kind.to_owned(), key, rev: index, body: text });
        }
        objects.batches.insert(index, changes);
        self.index.send_replace(index);
    }

    /// All objects of a kind.
    pub fn all<T: DeserializeOwned>(&self, kind: &str) -> Vec<T> {
        let objects = self.objects.lock().unwrap();
        let rows = objects.rows.iter().filter(|((k, _), _)| k == kind);
        rows.map(|(_, (_, body))| serde_json::from_value(body.clone()).unwrap()).collect()
    }

    /// The whole state and its index.
    fn whole(&self) -> (u64, Vec<WatchChange>) {
        let objects = self.objects.lock().unwrap();
        let change = |((kind, key), (rev, body)): (&(String, String), &(u64, Value))| WatchChange {
            kind: kind.clone(),
            key: key.clone(),
            rev: *rev,
            body: Some(body.to_string()),
        };
        (*self.index.borrow(), objects.rows.iter().map(change).collect())
    }

    pub fn new(cluster: ClusterUuid, node: NodeUuid) -> Arc<Self> {
        Arc::new(Self {
            cluster,
            node,
            objects: Mutex::default(),
            lost_answers: AtomicU32::new(0),
            owners: Mutex::default(),
            gone: Mutex::default(),
            refusals: AtomicU32::new(0),
            holders: Mutex::default(),
            index: watch::Sender::new(10),
            stop: Mutex::default(),
        })
    }

    /// Serves, in the current runtime, until [`FakeWconfd::stop`].
    pub fn serve(self: &Arc<Self>, root: &Root) {
        let listener = gantry_rpc::unix::bind(&root.socket("wconfd.sock"), 0o600).unwrap();
        let stop = CancellationToken::new();
        *self.stop.lock().unwrap() = stop.clone();
        tokio::spawn(gantry_rpc::serve_unix(listener, Arc::clone(self), Limits::default(), stop));
    }

    pub fn stop(&self) {
        self.stop.lock().unwrap().cancel();
    }

    async fn watch(&self, call: Call) -> Result<Vec<u8>, Fail> {
        let items = call.items::<Watch>();
        let mut index = self.index.subscribe();
        index.mark_unchanged();
        let (now, rows) = self.whole();
        let seed = ClusterSeed {
            uuid: self.cluster,
            name: "cluster1.example.test".to_owned(),
            master_node: self.node,
            master_ip: String::new(),
            enabled_hypervisors: vec!["fake".to_owned()],
            now: 1.0,
        };
        let change = WatchChange {
            kind: kind::CLUSTER.to_owned(),
            key: kind::CLUSTER_KEY.to_owned(),
            rev: 1,
            body: Some(serde_json::to_string(&cluster(seed)).unwrap()),
        };
        items.send(&WatchItem::Reset { index: now, history: self.cluster.0 }).await?;
        items.send(&WatchItem::Chunk(vec![change])).await?;
        items.send(&WatchItem::Chunk(rows)).await?;
        items.send(&WatchItem::Loaded).await?;
        let mut sent = now;
        loop {
            let newest = *index.borrow_and_update();
            for index in sent + 1..=newest {
                let changes = self.objects.lock().unwrap().batches.get(&index).cloned().unwrap_or_default();
                items.send(&WatchItem::Batch { index, changes }).await?;
            }
            sent = newest.max(sent);
            index.changed().await.unwrap();
        }
    }
}

impl Service for FakeWconfd {
    fn hello(&self) -> Hello {
        Hello { cluster: Some(self.cluster), ..Hello::new(PROTOCOL, "fake-wconfd") }
    }

    fn handle(self: Arc<Self>, call: Call) -> Pin<Box<dyn Future<Output = Result<Vec<u8>, Fail>> + Send>> {
        Box::pin(async move {
            if call.is::<Owners>() {
                self.owners.lock().unwrap().push(call.request::<Owners>()?);
                return reply::<Owners>(&());
            }
            if call.is::<OwnerGone>() {
                let refuse = |left: u32| left.checked_sub(1);
                if self.refusals.fetch_update(Ordering::SeqCst, Ordering::SeqCst, refuse).is_ok() {
                    return Err(Fail::new(Code::Busy, "later"));
                }
                self.gone.lock().unwrap().push(call.request::<OwnerGone>()?);
                return reply::<OwnerGone>(&());
            }
            if call.is::<LockRows>() {
                let row = |owner: &JobOwner| LockRow {
                    name: "cluster/BGL".to_owned(),
                    mode: Some(Want::Shared),
                    owners: vec![*owner],
                    pending: Vec::new(),
                };
                return reply::<LockRows>(&self.holders.lock().unwrap().iter().map(row).collect());
            }
            if call.is::<Members>() {
                return reply::<Members>(&MembersReply { n: 1, settled: true, copies: Vec::new() });
            }
            if call.is::<Apply>() {
                return self.apply(&call);
            }
            if call.is::<Watch>() {
                return self.watch(call).await;
            }
            Err(gantry_rpc::unknown_verb(&call))
        })
    }
}
