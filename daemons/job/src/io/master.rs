//! The job's connection to wconfd, and its one-shot LUXI calls to luxid. Reconnects: a restart of wconfd does not
//! end a job (P4.8). What a lost connection leaves open is asked again; wconfd answers repeats alike.

use crate::error::{OpFail, failed};
use crate::io::server::Desk;
use gantry_model::config::{Cluster, Group, Instance, Node, Slot, kind};
use gantry_model::error::{Ecode, GanetiError};
use gantry_model::ids::{ClusterUuid, InstanceUuid, JobOwner, NodeUuid};
use gantry_model::pool::{Blueprint, Pool};
use gantry_model::root::Root;
use gantry_model::time;
use gantry_proto::codec::Json;
use gantry_proto::envelope::Code;
use gantry_proto::hello::Hello;
use gantry_proto::noded::Print;
use gantry_proto::verb::Verb;
use gantry_proto::wconfd::{
    Apply, ApplyRequest, CaNext, CaNextReply, CaNextRequest, Check, CheckRequest, Command, ConfirmMaster,
    FreeScope, LockBlocked, LockFree, LockFreeRequest, LockRequest, LockUpdate, NodeStates, Object, PROTOCOL,
    Read, ReadKey, Want,
};
use gantry_rpc::{CallError, Client, Event};
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use std::collections::{HashMap, HashSet};
use std::fmt::Display;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::Instant;

/// How long one call to wconfd may take (lock waits excepted).
const CALL: Duration = Duration::from_secs(60);
/// How long a job looks for a wconfd that is away before it gives up.
const AWAY: Duration = Duration::from_secs(120);
/// A wconfd that is away for longer than a restart takes is told in the job's log.
const TELL_AWAY: Duration = Duration::from_secs(2);
/// First and longest pause between two attempts to connect.
const PAUSE: (Duration, Duration) = (Duration::from_millis(20), Duration::from_secs(1));
/// How long a job waits for a node to be claimed: a little over the time after which wconfd calls it lost.
const CLAIM: Duration = Duration::from_secs(45);
/// A claim that takes longer than a few looks is told in the job's log.
const TELL_CLAIM: Duration = Duration::from_millis(500);
/// Longest answer luxid may give to a job (a list of job ids).
const LUXI_ANSWER_BYTES_MAX: u64 = 1 << 20;
/// How long luxid may take for it.
const LUXI_CALL: Duration = Duration::from_secs(60);

/// The connection, made when first needed.
pub struct Master {
    root: Root,
    pub(super) owner: JobOwner,
    cluster: ClusterUuid,
    client: Option<Client>,
    /// Numbers this owner's batches, so that one asked for twice is applied once.
    seq: u64,
    /// It was looked for in vain.
    away: bool,
    /// Locks were asked for, and may be held.
    locks: bool,
    /// Whose log hears why it waits: the opcode at work.
    log: Option<(Arc<Desk>, usize)>,
}

/// One wait for wconfd, over all the attempts it takes. It begins with the first failure.
#[derive(Default)]
pub(super) struct Patience {
    since: Option<Instant>,
    pause: Duration,
    told: bool,
}

impl Master {
    /// Nothing is connected yet.
    pub fn new(root: Root, owner: JobOwner, cluster: ClusterUuid) -> Self {
        Self { root, owner, cluster, client: None, seq: 0, away: false, locks: false, log: None }
    }

    /// From now on it works for the opcode at `index`.
    pub fn work_for(&mut self, desk: &Arc<Desk>, index: usize) {
        self.log = Some((Arc::clone(desk), index));
    }

    /// Waits a little after a failed attempt; says once in the log that it waits, and why.
    pub(super) async fn wait(&mut self, patience: &mut Patience, why: &dyn Display) -> Result<(), OpFail> {
        let away = patience.since.get_or_insert_with(Instant::now).elapsed();
        if away >= AWAY {
            self.away = true;
            let path = self.root.socket("wconfd.sock");
            let text = format!("wconfd does not answer on {} since {AWAY:?}: {why}", path.display());
            return Err(OpFail::Error(GanetiError::exec(text)));
        }
        if away >= TELL_AWAY
            && !std::mem::replace(&mut patience.told, true)
            && let Some((desk, index)) = &self.log
        {
            let text = format!("waiting for wconfd: {why}");
            desk.update(|board| board.log(*index, "message", json!(text), time::now()));
        }
        patience.pause = (patience.pause * 2).clamp(PAUSE.0, PAUSE.1);
        tokio::time::sleep(patience.pause).await;
        Ok(())
    }

    pub(super) async fn client(&mut self, patience: &mut Patience) -> Result<Client, OpFail> {
        if let Some(client) = self.client.as_ref().filter(|client| !client.is_closed()) {
            return Ok(client.clone());
        }
        let mut hello = Hello::new(PROTOCOL, "gantry-job");
        hello.cluster = Some(self.cluster);
        hello.epoch = Some(self.owner.start.epoch);
        let path = self.root.socket("wconfd.sock");
        loop {
            match Client::unix(&path, &hello).await {
                Ok(client) => {
                    self.client = Some(client.clone());
                    return Ok(client);
                }
                Err(why) => self.wait(patience, &why).await?,
            }
        }
    }

    /// Connects, unless it is.
    pub async fn connect(&mut self) -> Result<(), OpFail> {
        self.client(&mut Patience::default()).await.map(|_| ())
    }

    /// Whether the same request may be sent again after this: wconfd did not take it, or answers a repeat alike.
    /// Forgets a connection that ended or is about to.
    pub(super) fn again(&mut self, why: &CallError) -> bool {
        let code = match why {
            CallError::Closed(_) => {
                self.client = None;
                return true;
            }
            CallError::Deadline { .. } => return true,
            CallError::Fail(fail) => fail.code,
            CallError::Protocol(_) => return false,
        };
        match code {
            Code::NotReady | Code::Unknown => {
                self.client = None;
                true
            }
            Code::Busy | Code::Deadline => true,
            Code::UnknownVerb
            | Code::BadRequest
            | Code::Denied
            | Code::Ganeti
            | Code::Fenced
            | Code::Stale
            | Code::NotFound
            | Code::Internal => false,
        }
    }

    /// One call, asked again while wconfd is away, stopping or overloaded.
    pub(super) async fn call<V: Verb>(&mut self, request: &V::Request) -> Result<V::Reply, OpFail> {
        let mut patience = Patience::default();
        loop {
            match self.client(&mut patience).await?.call::<V>(request, CALL).await {
                Ok(reply) => return Ok(reply),
                Err(why) if self.again(&why) => self.wait(&mut patience, &why).await?,
                Err(why) => return Err(failed(why)),
            }
        }
    }

    /// Waits until all `wants` are granted; `blocked` hears whom it waits for. Dropping the future withdraws
    /// the request.
    pub async fn lock(
        &mut self,
        priority: i32,
        wants: Vec<(String, Want)>,
        mut blocked: impl FnMut(LockBlocked),
    ) -> Result<(), OpFail> {
        let request = LockRequest { owner: self.owner, priority, wants };
        self.locks = true;
        let mut patience = Patience::default();
        loop {
            let why = match self.client(&mut patience).await?.open::<LockUpdate>(&request).await {
                Ok(mut stream) => loop {
                    match stream.next().await {
                        Ok(Event::Item(item)) => {
                            patience = Patience::default();
                            blocked(item);
                        }
                        Ok(Event::End(())) => return Ok(()),
                        Err(why) => break why,
                    }
                },
                Err(why) => why,
            };
            if !self.again(&why) {
                return Err(failed(why));
            }
            self.wait(&mut patience, &why).await?;
        }
    }

    /// Changes the priority of a waiting request. Best effort: the wait goes on either way.
    pub async fn priority_of_wait(client: Option<Client>, owner: JobOwner, priority: i32) {
        if let Some(client) = client {
            let request = gantry_proto::wconfd::LockPriorityRequest { owner, priority };
            let _ = client.call::<gantry_proto::wconfd::LockPriority>(&request, CALL).await;
        }
    }

    /// The connection as it is now, for calls beside a waiting one.
    pub fn beside(&self) -> Option<Client> {
        self.client.clone()
    }

    /// Gives all locks back. A job that never asked for any has none.
    pub async fn free_all(&mut self) -> Result<(), OpFail> {
        if !self.locks {
            return Ok(());
        }
        let request = LockFreeRequest { owner: self.owner, scope: FreeScope::All };
        self.call::<LockFree>(&request).await?;
        self.locks = false;
        Ok(())
    }

    /// Reads objects and the index they stand at.
    pub async fn read(&mut self, keys: Vec<ReadKey>) -> Result<(u64, Vec<Object>), OpFail> {
        let reply = self.call::<Read>(&keys).await?;
        Ok((reply.index, reply.objects))
    }

    /// Applies commands in one batch; durable when it returns. The index of the batch and a result per command.
    pub async fn apply(&mut self, commands: &Vec<Command>) -> Result<(u64, Vec<Value>), OpFail> {
        self.seq += 1;
        let commands = Json::of(commands).map_err(|why| OpFail::Error(GanetiError::exec(why.to_string())))?;
        let request = ApplyRequest { owner: Some(self.owner), seq: self.seq, commands };
        let reply = self.call::<Apply>(&request).await?;
        let results =
            reply.results.read().map_err(|why| OpFail::Error(GanetiError::exec(why.to_string())))?;
        Ok((reply.index, results))
    }

    /// Refuses what [`Self::apply`] of the same commands would refuse now; changes nothing.
    pub async fn check(&mut self, commands: &Vec<Command>) -> Result<(), OpFail> {
        let commands = Json::of(commands).map_err(|why| OpFail::exec(why.to_string()))?;
        self.call::<Check>(&CheckRequest { owner: self.owner, commands }).await
    }

    /// Whether the last error means that wconfd was looked for in vain, not that it refused.
    pub fn is_away(&self) -> bool {
        self.away
    }

    /// Has a majority of the copies say that this is the master still: before what nobody can refuse afterwards (P1.10).
    pub async fn confirm(&mut self) -> Result<(), OpFail> {
        self.call::<ConfirmMaster>(&()).await
    }

    /// Nodes that the master has claimed and that answer it.
    pub async fn claimed_nodes(&mut self) -> Result<HashSet<NodeUuid>, OpFail> {
        let states = self.call::<NodeStates>(&()).await?;
        Ok(states.into_iter().filter(|state| state.claimed).map(|state| state.node).collect())
    }

    /// Waits until wconfd has claimed a node (P5.2), without which nothing may be made there. `told` hears once why it
    /// waits.
    pub async fn claimed(&mut self, node: &Node, told: impl FnOnce(&str)) -> Result<(), OpFail> {
        let until = Instant::now() + CLAIM;
        let (mut pause, mut told) = (PAUSE.0, Some(told));
        loop {
            let states = self.call::<NodeStates>(&()).await?;
            let why = match states.into_iter().find(|state| state.node == node.uuid) {
                Some(state) if state.claimed => return Ok(()),
                Some(state) => state.why,
                None => "the master has not looked at it yet".to_owned(),
            };
            if Instant::now() >= until {
                let text = format!("Node {} does not answer the master: {why}", node.name);
                return Err(OpFail::prereq(text, Ecode::EnvironmentError));
            }
            if pause > TELL_CLAIM
                && let Some(told) = told.take()
            {
                told(&why);
            }
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(PAUSE.1);
        }
    }

    /// Has wconfd sign a node's certificate request.
    pub async fn sign(
        &mut self,
        node: NodeUuid,
        csr: String,
    ) -> Result<gantry_proto::wconfd::CertSignReply, OpFail> {
        let request = gantry_proto::wconfd::CertSignRequest { owner: self.owner, node, csr };
        self.call::<gantry_proto::wconfd::CertSign>(&request).await
    }

    /// The CA `wanted`, when this master has its key; else a new one.
    pub async fn ca_next(&mut self, wanted: Option<Print>) -> Result<CaNextReply, OpFail> {
        self.call::<CaNext>(&CaNextRequest { owner: self.owner, wanted }).await
    }

    /// The cluster.
    pub async fn cluster(&mut self) -> Result<Cluster, OpFail> {
        let key = ReadKey::Key(kind::CLUSTER.to_owned(), kind::CLUSTER_KEY.to_owned());
        let (_, objects) = self.read(vec![key]).await?;
        let object = objects.first().ok_or_else(|| OpFail::exec("wconfd has no cluster object"))?;
        parsed(object)
    }

    /// All nodes.
    pub async fn nodes(&mut self) -> Result<Vec<Node>, OpFail> {
        self.all(kind::NODE).await
    }

    /// All groups.
    pub async fn groups(&mut self) -> Result<Vec<Group>, OpFail> {
        self.all(kind::GROUP).await
    }

    /// All objects of a kind.
    pub async fn all<T: DeserializeOwned>(&mut self, kind: &str) -> Result<Vec<T>, OpFail> {
        let (_, objects) = self.read(vec![ReadKey::Kind(kind.to_owned())]).await?;
        objects.iter().map(parsed).collect()
    }

    /// All instances, node by node: all at once may be more than a frame holds.
    pub async fn instances(&mut self) -> Result<Vec<Instance>, OpFail> {
        let mut all = Vec::new();
        for node in self.nodes().await? {
            all.extend(self.instances_of(node.uuid).await?.0);
        }
        Ok(all)
    }

    /// The node of that name or uuid.
    pub async fn node(&mut self, name: &str) -> Result<Node, OpFail> {
        self.named(kind::NODE, "Node", name).await
    }

    /// The group of that name or uuid.
    pub async fn group(&mut self, name: &str) -> Result<Group, OpFail> {
        self.named(kind::GROUP, "Group", name).await
    }

    /// The blueprint of that name or uuid.
    pub async fn blueprint(&mut self, name: &str) -> Result<Blueprint, OpFail> {
        self.named(kind::BLUEPRINT, "Blueprint", name).await
    }

    /// The pool of that name or uuid.
    pub async fn pool(&mut self, name: &str) -> Result<Pool, OpFail> {
        self.named(kind::POOL, "Pool", name).await
    }

    /// The slots of a pool with their records, node by node.
    pub async fn slots_of(&mut self, pool: &str) -> Result<Vec<(Instance, Slot)>, OpFail> {
        let mut all = Vec::new();
        for node in self.nodes().await? {
            let (instances, slots) = self.instances_of(node.uuid).await?;
            let slots: HashMap<_, _> = slots.into_iter().map(|slot| (slot.uuid, slot)).collect();
            let own = instances.into_iter().filter(|instance| instance.pool.as_deref() == Some(pool));
            all.extend(
                own.filter_map(|instance| Some((slots.get(&instance.uuid)?.clone(), instance)))
                    .map(|(slot, instance)| (instance, slot)),
            );
        }
        Ok(all)
    }

    /// The instance of that name or uuid.
    pub async fn instance(&mut self, name: &str) -> Result<Instance, OpFail> {
        self.named(kind::INSTANCE, "Instance", name).await
    }

    async fn named<T: DeserializeOwned>(&mut self, kind: &str, noun: &str, name: &str) -> Result<T, OpFail> {
        match self.find(kind, name).await? {
            Some(found) => Ok(found),
            None => Err(OpFail::prereq(format!("{noun} '{name}' not known"), Ecode::UnknownEntity)),
        }
    }

    /// The object of that name or uuid, if there is one.
    pub async fn find<T: DeserializeOwned>(&mut self, kind: &str, name: &str) -> Result<Option<T>, OpFail> {
        let (_, objects) = self.read(vec![ReadKey::Name(kind.to_owned(), name.to_owned())]).await?;
        objects.first().map(parsed).transpose()
    }

    /// Instances whose home the node is, with their slots.
    pub async fn instances_of(&mut self, node: NodeUuid) -> Result<(Vec<Instance>, Vec<Slot>), OpFail> {
        let (_, objects) = self.read(vec![ReadKey::InstancesOf(node)]).await?;
        let (instances, slots): (Vec<_>, Vec<_>) =
            objects.iter().partition(|object| object.kind != kind::SLOT);
        Ok((
            instances.into_iter().map(parsed).collect::<Result<_, _>>()?,
            slots.into_iter().map(parsed).collect::<Result<_, _>>()?,
        ))
    }

    /// The slot record of an instance.
    pub async fn slot(&mut self, uuid: InstanceUuid) -> Result<Slot, OpFail> {
        let key = ReadKey::Key(kind::SLOT.to_owned(), uuid.to_string());
        let (_, objects) = self.read(vec![key]).await?;
        let object =
            objects.first().ok_or_else(|| OpFail::exec(format!("instance {uuid} has no slot record")))?;
        parsed(object)
    }

    /// Submits jobs through luxid's LUXI socket (`SubmitManyJobs`): opcodes whose result is further jobs.
    pub async fn submit_many(&self, jobs: &Value) -> Result<Value, OpFail> {
        self.luxi("SubmitManyJobs", &json!([jobs])).await
    }

    /// How the copies of both logs stand: `QueryMembers`, whose `config` and `queue` are lists of
    /// [`gantry_proto::wconfd::CopyStatus`].
    pub async fn copies(&self) -> Result<Value, OpFail> {
        self.luxi("QueryMembers", &json!([])).await
    }

    /// Asks luxid as its clients do.
    async fn luxi(&self, method: &str, args: &Value) -> Result<Value, OpFail> {
        let ask = async {
            let mut stream = gantry_rpc::unix::connect(&self.root.socket("luxi.sock")).await?;
            let mut text = json!({"method": method, "args": args}).to_string().into_bytes();
            text.push(ETX);
            stream.write_all(&text).await?;
            let mut answer = Vec::new();
            let mut reader = stream.take(LUXI_ANSWER_BYTES_MAX);
            while answer.last() != Some(&ETX) {
                if reader.read_buf(&mut answer).await? == 0 {
                    return Err(std::io::Error::other("luxid closed before its answer ended"));
                }
            }
            answer.pop();
            Ok::<Value, std::io::Error>(serde_json::from_slice(&answer)?)
        };
        let answer = tokio::time::timeout(LUXI_CALL, ask)
            .await
            .map_err(|_| OpFail::exec(format!("luxid did not answer {method} in time")))?
            .map_err(|why| OpFail::exec(format!("can't ask luxid ({method}): {why}")))?;
        match (answer.get("success"), answer.get("result")) {
            (Some(Value::Bool(true)), Some(result)) => Ok(result.clone()),
            (_, Some(result)) => match GanetiError::from_value(result) {
                Some(error) => Err(OpFail::Error(error)),
                None => Err(OpFail::exec(format!("luxid refused {method}: {result}"))),
            },
            _ => Err(OpFail::exec(format!("luxid's answer to {method} is no LUXI answer"))),
        }
    }
}

/// End of a LUXI message (`spec/luxi.md` §2).
const ETX: u8 = 3;

fn parsed<T: DeserializeOwned>(object: &Object) -> Result<T, OpFail> {
    serde_json::from_str(&object.body).map_err(|why| {
        OpFail::exec(format!("can't read the {} {} of wconfd: {why}", object.kind, object.key))
    })
}
