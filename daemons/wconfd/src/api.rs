//! The verbs of `wconfd.sock`: one function each. Who may call what is decided here.

use crate::core::locks::Want;
use crate::core::ssconf;
use crate::io::authority;
use crate::io::mailbox::Handle;
use crate::io::members::{Members, Wish};
use crate::io::owner::Owner;
use crate::io::owner_locks::Request;
use crate::io::owner_watch::{Watching, shown};
use gantry_model::ids::{ClusterUuid, Fence, JobOwner, NodeUuid};
use gantry_proto::codec::{FRAME_BYTES_MAX, Json};
use gantry_proto::wconfd::{self as wire, WatchItem};
use gantry_rpc::{Call, Code, Fail, Handled, Hello, ItemSender, Peer, Service, route};
use gantry_store::{Index, LogKind, read_batches};
use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use tokio::sync::watch;
use uuid::Uuid;

/// The component that may say which jobs live.
const LUXID: &str = "gantry-luxid";
/// Bytes of JSON in one chunk of the whole state: well within a frame, however long one object is.
const CHUNK_BYTES: usize = 512 * 1024;
/// A watcher further behind than this gets the whole state, which is then the shorter way.
const CATCH_UP_MAX: u64 = 10_000;
/// Batches read from the log at once for a watcher that catches up.
const CATCH_UP_STEP: usize = 512;
/// Bytes of JSON one read may answer, so that the frame has room for the rest.
const READ_BYTES_MAX: usize = FRAME_BYTES_MAX - 64 * 1024;
/// Nodes' certificate requests are some hundred bytes; this is beyond any honest one.
const CSR_BYTES_MAX: usize = 16 * 1024;

/// What this master is.
#[derive(Debug, Clone, Copy)]
pub struct Identity {
    /// The cluster.
    pub cluster: ClusterUuid,
    /// The master node.
    pub node: NodeUuid,
    /// Epoch and ballot.
    pub fence: Fence,
    /// This writer's run.
    pub run: u64,
    /// History of the log.
    pub history: Uuid,
}

/// Answers calls.
pub struct Api {
    handle: Handle,
    members: Members,
    identity: Identity,
    /// Where the log lies, for watchers that catch up.
    store: PathBuf,
    secrets: PathBuf,
    /// Our own uid: nobody else may call.
    uid: u32,
    /// (epoch, run) of the newest luxid (P4.7).
    luxid: Mutex<Option<(u64, u64)>>,
}

/// Does what blocks; a failure says what could not be done.
async fn apart<T: Send + 'static>(
    what: &str,
    work: impl FnOnce() -> anyhow::Result<T> + Send + 'static,
) -> Result<T, Fail> {
    let done = tokio::task::spawn_blocking(work).await;
    let done = done.map_err(|error| Fail::new(Code::Internal, error.to_string()))?;
    done.map_err(|error| Fail::new(Code::Internal, format!("can't {what}: {error:#}")))
}

impl Api {
    /// An API for callers of our own uid.
    #[must_use]
    pub fn new(
        handle: Handle,
        members: Members,
        identity: Identity,
        store: PathBuf,
        secrets: PathBuf,
    ) -> Self {
        let uid = nix::unistd::geteuid().as_raw();
        Self { handle, members, identity, store, secrets, uid, luxid: Mutex::new(None) }
    }

    async fn status(&self) -> Result<wire::StatusReply, Fail> {
        let (index, _) = self.handle.ask(|owner: &mut Owner, reply| owner.read(&[], reply)).await?;
        let Identity { cluster, node, fence, run, .. } = self.identity;
        Ok(wire::StatusReply { cluster, node, fence, run, index: index.0 })
    }

    async fn lock(
        &self,
        request: wire::LockRequest,
        items: ItemSender<wire::LockUpdate>,
    ) -> Result<(), Fail> {
        let wire::LockRequest { owner, priority, wants } = request;
        let wants = wants.into_iter().map(|(name, want)| {
            let name = name.parse().map_err(|error| bad(&error))?;
            let want = match want {
                wire::Want::Shared => Want::Shared,
                wire::Want::Exclusive => Want::Exclusive,
                wire::Want::Release => Want::Release,
            };
            Ok((name, want))
        });
        let request = Request { owner, priority, wants: wants.collect::<Result<_, Fail>>()? };
        let (show, mut blocked) = watch::channel(None);
        let ask = move |o: &mut Owner, ticket, reply| o.lock(request, ticket, show, reply);
        let mut wait = self.handle.ask_waiting(owner, ask).await?;
        loop {
            let news = async {
                match blocked.changed().await {
                    Ok(()) => {
                        let item: Option<wire::LockBlocked> = blocked.borrow_and_update().clone();
                        if let Some(item) = item {
                            items.send(&item).await.map_err(Fail::from)
                        } else {
                            Ok(())
                        }
                    }
                    // No more news: the answer is on its way.
                    Err(_) => std::future::pending().await,
                }
            };
            tokio::select! {
                biased;
                answer = wait.answer() => return answer,
                sent = news => sent?,
            }
        }
    }

    async fn read(&self, keys: Vec<wire::ReadKey>) -> Result<wire::ReadReply, Fail> {
        let (index, found) =
            self.handle.ask(move |owner: &mut Owner, reply| owner.read(&keys, reply)).await?;
        let mut bytes = 0;
        let mut objects = Vec::with_capacity(found.len());
        for object in found.objects() {
            bytes += object.body.len() + object.key.len() + object.kind.len() + 16;
            if bytes > READ_BYTES_MAX {
                let text =
                    format!("{} objects are too much for one answer: read fewer, or watch", found.len());
                return Err(Fail::new(Code::BadRequest, text));
            }
            let body = String::from_utf8_lossy(&object.body).into_owned();
            objects.push(wire::Object { kind: object.kind, key: object.key, rev: object.rev, body });
        }
        Ok(wire::ReadReply { index: index.0, objects })
    }

    async fn apply(&self, peer: &Peer, request: wire::ApplyRequest) -> Result<wire::ApplyReply, Fail> {
        if luxid_term(peer).is_some() {
            // One that was followed by a newer one knows nothing of the leases that this one has.
            self.only_luxid(peer)?;
        }
        let wire::ApplyRequest { owner, seq, commands } = request;
        let commands = commands.read().map_err(|error| bad(&error))?;
        let owner = match (owner, seq) {
            (Some(owner), 1..) => Some((owner, seq)),
            (None, 0) => None,
            (Some(_), 0) => return Err(Fail::new(Code::BadRequest, "batches of a job are numbered from 1")),
            (None, 1..) => return Err(Fail::new(Code::BadRequest, "only batches of a job are numbered")),
        };
        let ask = move |o: &mut Owner, reply| o.apply(owner, &commands, reply);
        let (index, results) = self.handle.ask(ask).await?;
        let results = Json::of(&results).map_err(|error| Fail::new(Code::Internal, error.to_string()))?;
        Ok(wire::ApplyReply { index, results })
    }

    async fn check(&self, request: wire::CheckRequest) -> Result<(), Fail> {
        let commands = request.commands.read().map_err(|error| bad(&error))?;
        self.handle.ask(move |o: &mut Owner, reply| o.check(request.owner, &commands, reply)).await
    }

    async fn watch(&self, request: wire::WatchRequest, items: ItemSender<wire::Watch>) -> Result<(), Fail> {
        let known = request.history == Some(self.identity.history) && request.from > 0;
        let mut at = known.then_some(Index(request.from));
        loop {
            let whole = at.is_none();
            let watching = self.handle.ask(move |o: &mut Owner, reply| o.watch(whole, reply)).await?;
            let Watching { start, state, mut feed } = watching;
            match (at, state) {
                (_, Some(state)) => self.reset(start, state, &items).await?,
                (Some(from), None) if !self.catch_up(from, start, &items).await? => {
                    at = None;
                    continue;
                }
                (Some(_) | None, None) => {}
            }
            let mut have = at.map_or(start, |at| at.max(start));
            while let Some((index, changes)) = feed.recv().await {
                items.send(&WatchItem::Batch { index: index.0, changes: changes.to_vec() }).await?;
                have = index;
            }
            // Cut off for being slow, or the daemon is stopping (the next question will say so).
            at = Some(have);
        }
    }

    async fn reset(
        &self,
        index: Index,
        state: crate::core::config::Snapshot,
        items: &ItemSender<wire::Watch>,
    ) -> Result<(), Fail> {
        items.send(&WatchItem::Reset { index: index.0, history: self.identity.history }).await?;
        let (mut chunk, mut bytes) = (Vec::new(), 0);
        for object in state.objects() {
            bytes += object.body.len();
            chunk.extend(shown(&object.kind, &object.key, object.rev, Some(&object.body)));
            if bytes > CHUNK_BYTES {
                items.send(&WatchItem::Chunk(std::mem::take(&mut chunk))).await?;
                bytes = 0;
            }
        }
        if !chunk.is_empty() {
            items.send(&WatchItem::Chunk(chunk)).await?;
        }
        Ok(items.send(&WatchItem::Loaded).await?)
    }

    /// Sends the batches after `from` up to `to` from the log. False when that can't be done.
    async fn catch_up(&self, from: Index, to: Index, items: &ItemSender<wire::Watch>) -> Result<bool, Fail> {
        if from > to || to.0 - from.0 > CATCH_UP_MAX {
            return Ok(false);
        }
        let mut at = from;
        while at < to {
            let dir = self.store.clone();
            let read = move || read_batches(&dir, LogKind::W, at, CATCH_UP_STEP);
            let read = tokio::task::spawn_blocking(read).await;
            let batches = match read.map_err(|error| error.to_string()).and_then(|r| r.map_err(|e| e.chain()))
            {
                Ok(Some(batches)) if !batches.is_empty() => batches,
                Ok(Some(_) | None) => return Ok(false),
                Err(why) => return Err(Fail::new(Code::Internal, format!("can't read the log: {why}"))),
            };
            for (index, batch) in batches.into_iter().take_while(|(index, _)| *index <= to) {
                let changes = batch.changes.iter();
                let changes =
                    changes.filter_map(|c| shown(&c.kind, &c.key, c.rev, c.body.as_deref())).collect();
                items.send(&WatchItem::Batch { index: index.0, changes }).await?;
                at = index;
            }
        }
        Ok(true)
    }

    async fn sign(&self, request: wire::CertSignRequest) -> Result<wire::CertSignReply, Fail> {
        let wire::CertSignRequest { owner, node, csr } = request;
        if csr.len() > CSR_BYTES_MAX {
            return Err(Fail::new(Code::BadRequest, "the certificate request is too long"));
        }
        self.handle.ask(move |o: &mut Owner, reply| o.holds_bgl(owner, reply)).await?;
        let (secrets, cluster) = (self.secrets.clone(), self.identity.cluster);
        apart("sign the certificate", move || authority::sign(&secrets, cluster, node, &csr)).await
    }

    async fn ca_next(&self, request: wire::CaNextRequest) -> Result<wire::CaNextReply, Fail> {
        let wire::CaNextRequest { owner, wanted } = request;
        self.handle.ask(move |o: &mut Owner, reply| o.holds_bgl(owner, reply)).await?;
        let (secrets, cluster) = (self.secrets.clone(), self.identity.cluster);
        apart("make a CA", move || authority::next(&secrets, cluster, wanted)).await
    }

    /// Refuses all but the newest luxid, whose (epoch, run) is returned.
    fn only_luxid(&self, peer: &Peer) -> Result<(u64, u64), Fail> {
        let newest = *self.luxid.lock().unwrap_or_else(PoisonError::into_inner);
        match luxid_term(peer) {
            Some(term) if Some(term) == newest => Ok(term),
            Some(term) => {
                let text = format!("luxid run {}.{} was followed by a newer one", term.0, term.1);
                Err(Fail::new(Code::Stale, text))
            }
            None => Err(Fail::new(Code::Denied, "only luxid may say which jobs live")),
        }
    }

    async fn owner_gone(&self, peer: &Peer, owner: JobOwner) -> Result<(), Fail> {
        self.only_luxid(peer)?;
        self.handle.ask(move |o: &mut Owner, reply| o.owner_gone(owner, reply)).await
    }

    async fn owners(&self, peer: &Peer, owners: Vec<JobOwner>) -> Result<(), Fail> {
        let term = self.only_luxid(peer)?;
        // The first word on each of its connections.
        self.members.luxid_came();
        let living: BTreeSet<_> = owners.into_iter().collect();
        self.handle.ask(move |o: &mut Owner, reply| o.owners(term, &living, reply)).await
    }
}

impl Api {
    async fn member_change(
        &self,
        request: wire::MemberChangeRequest,
        items: ItemSender<wire::MemberChange>,
    ) -> Result<wire::MemberChangeReply, Fail> {
        let wire::MemberChangeRequest { owner, node, join, set, also } = request;
        let set = set.read().map_err(|error| bad(&error))?;
        let mut commands = also.read().map_err(|error| bad(&error))?;
        if !set.is_empty() {
            commands.insert(0, wire::Command::NodeSet { node, rev: None, set });
        }
        let mut needed = commands.clone();
        // Also without any field the node's lock is wanted.
        needed.push(wire::Command::NodeSet { node, rev: None, set: gantry_model::config::Params::new() });
        self.handle.ask(move |o: &mut Owner, reply| o.allowed(owner, &needed, reply)).await?;
        let Some(name) = self.handle.ask(move |o: &mut Owner, reply| o.node_name(node, reply)).await? else {
            return Err(Fail::new(Code::NotFound, format!("node {node} is not in the configuration")));
        };
        let wish = Wish { node, name, join, commands };
        // Progress is a courtesy: the newest text counts, and nobody waits for it to be heard.
        let (texts, mut news) = watch::channel(String::new());
        let tell = move |text: String| drop(texts.send_replace(text));
        let mut change = std::pin::pin!(self.members.change(wish, tell));
        loop {
            tokio::select! {
                biased;
                index = &mut change => return Ok(wire::MemberChangeReply { index: index? }),
                changed = news.changed() => {
                    if changed.is_ok() {
                        let text = news.borrow_and_update().clone();
                        items.send(&wire::MemberProgress { text }).await?;
                    }
                }
            }
        }
    }

    async fn member_drop(
        &self,
        peer: &Peer,
        request: wire::MemberDropRequest,
    ) -> Result<wire::MemberChangeReply, Fail> {
        self.only_luxid(peer)?;
        let node = request.node;
        let Some(name) = self.handle.ask(move |o: &mut Owner, reply| o.node_name(node, reply)).await? else {
            return Err(Fail::new(Code::NotFound, format!("node {node} is not in the configuration")));
        };
        tracing::warn!(node = name, "a master candidate is taken out while no majority answers");
        let wish = Wish { node, name, join: false, commands: Vec::new() };
        let index = self.members.change(wish, |text| tracing::info!(text, "taking a candidate out")).await?;
        self.members.majority_is_known().await;
        Ok(wire::MemberChangeReply { index })
    }

    fn list_in_q(&self, peer: &Peer, request: wire::ListInQRequest) -> Result<(), Fail> {
        self.only_luxid(peer)?;
        self.members.in_q(request);
        Ok(())
    }

    async fn ssconf(&self) -> Result<wire::SsconfValuesReply, Fail> {
        let (index, snapshot) = self.handle.ask(Owner::snapshot).await?;
        let mut values = ssconf::of(&snapshot);
        values.sort();
        Ok(wire::SsconfValuesReply { index: index.0, values })
    }
}

/// (epoch, run) of a luxid; None for everybody else.
fn luxid_term(peer: &Peer) -> Option<(u64, u64)> {
    (peer.hello.component == LUXID).then_some((peer.hello.epoch?, peer.hello.run?))
}

fn bad(error: &dyn std::error::Error) -> Fail {
    Fail::new(Code::BadRequest, error.to_string())
}

impl Service for Api {
    fn hello(&self) -> Hello {
        let mut hello = Hello::new(wire::PROTOCOL, "gantry-wconfd");
        hello.node = Some(self.identity.node);
        hello.cluster = Some(self.identity.cluster);
        hello.epoch = Some(self.identity.fence.epoch);
        hello.run = Some(self.identity.run);
        hello
    }

    fn accept(&self, peer: &Peer) -> Result<(), String> {
        if peer.uid != Some(self.uid) {
            return Err("only this daemon's own user may call wconfd".to_owned());
        }
        if peer.hello.cluster.is_some_and(|cluster| cluster != self.identity.cluster) {
            return Err(format!("this is cluster {}", self.identity.cluster));
        }
        let epoch = self.identity.fence.epoch;
        match peer.hello.epoch {
            Some(theirs) if theirs == epoch => {}
            Some(_) => return Err(format!("this master's epoch is {epoch}")),
            // Whoever does not say under whom it works may be of a master that is gone.
            None => return Err("a caller of wconfd must name its epoch".to_owned()),
        }
        if peer.hello.component == LUXID && peer.hello.run.is_none() {
            return Err("a luxid must name its run".to_owned());
        }
        if let Some(term) = luxid_term(peer) {
            let mut newest = self.luxid.lock().unwrap_or_else(PoisonError::into_inner);
            if newest.is_some_and(|newest| term < newest) {
                return Err("a newer luxid is connected".to_owned());
            }
            *newest = Some(term);
        }
        Ok(())
    }

    fn handle(self: Arc<Self>, call: Call) -> Handled {
        Box::pin(async move {
            let ask = self.handle.clone();
            route!(call, {
                wire::Status => |(), _call| self.status().await,
                wire::LockUpdate => |request, call| self.lock(request, call.items()).await,
                wire::LockFree => |request, _call| {
                    ask.ask(move |o: &mut Owner, reply| o.free(request.owner, request.scope, reply)).await
                },
                wire::LockPriority => |request, _call| {
                    ask.ask(move |o: &mut Owner, reply| o.priority(request.owner, request.priority, reply)).await
                },
                wire::LockRows => |(), _call| ask.ask(Owner::rows).await,
                wire::OwnerGone => |owner, call| self.owner_gone(&call.peer, owner).await,
                wire::Owners => |owners, call| self.owners(&call.peer, owners).await,
                wire::Read => |keys, _call| self.read(keys).await,
                wire::Apply => |request, call| self.apply(&call.peer, request).await,
                wire::Watch => |request, call| self.watch(request, call.items()).await,
                wire::CertSign => |request, _call| self.sign(request).await,
                wire::CaNext => |request, _call| self.ca_next(request).await,
                wire::Check => |request, _call| self.check(request).await,
                wire::NodeStates => |(), _call| ask.ask(Owner::node_states).await,
                wire::MemberChange => |request, call| self.member_change(request, call.items()).await,
                wire::MemberDrop => |request, call| self.member_drop(&call.peer, request).await,
                wire::Members => |(), _call| self.members.status().await,
                wire::ListInQ => |request, call| self.list_in_q(&call.peer, request),
                wire::ConfirmMaster => |(), _call| self.members.confirm().await,
                wire::SsconfValues => |(), _call| self.ssconf().await,
            })
        })
    }
}
