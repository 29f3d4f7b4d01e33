//! Verbs of WConfD (DESIGN §5): locks, configuration commands, reads, the watch stream.
//! Callers: luxid and job processes, over `wconfd.sock`.

use crate::codec::Json;
use crate::verbs;
use gantry_model::config::{AdminState, Group, Instance, Node, Params};
use gantry_model::ids::{
    BlueprintUuid, ClusterUuid, Fence, Generation, GroupUuid, InstanceUuid, JobOwner, LeaseUuid, NodeUuid,
    PoolUuid,
};
use gantry_model::lease::LeaseOwner;
use gantry_model::pool::{Blueprint, Image, Pool};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::collections::BTreeSet;
use uuid::Uuid;

/// Protocol name in the hello.
pub const PROTOCOL: &str = "wconfd";

verbs! {
    /// What the writer is and how far it got.
    1 Status(()) as StatusReply;
    /// Takes, changes or gives back locks in one atomic request. Items tell whom it waits for, first at once
    /// and again whenever that changes; the reply means granted and written. Closing the connection withdraws
    /// a waiting request; what is held stays held.
    2 LockUpdate(LockRequest) => LockBlocked as ();
    /// Gives locks back; never fails for locks not held.
    3 LockFree(LockFreeRequest) as ();
    /// Changes the priority of the owner's waiting request, if it has one.
    4 LockPriority(LockPriorityRequest) as ();
    /// All locks owned or waited for.
    5 LockRows(()) as Vec<LockRow>;
    /// luxid only: this owner is dead: free its locks, end its waits.
    6 OwnerGone(JobOwner) as ();
    /// luxid only, first on each connection (P4.7): all owners that run. Frees of those not named the owners
    /// read from the files at start, and those whom an older luxid started.
    7 Owners(Vec<JobOwner>) as ();
    /// Objects by kind and key or name, from committed state.
    8 Read(Vec<ReadKey>) as ReadReply;
    /// Applies commands in one batch, all or none; answered when durable.
    9 Apply(ApplyRequest) as ApplyReply;
    /// Committed changes after an index, for ever. A stream that asks for changes no longer kept begins with
    /// the whole state.
    10 Watch(WatchRequest) => WatchItem as ();
    /// Signs a joining node's certificate request and registers nothing; needs the owner to hold the BGL.
    11 CertSign(CertSignRequest) as CertSignReply;
    /// How the last contact with each node ended.
    12 NodeStates(()) as Vec<NodeState>;
    /// Takes a node's copies into the lists of both logs, or out of them (P2). Items tell the progress. Answered when the
    /// list is settled and `set` and `also` are written in the same batch. Repeated for a node that is in, or out,
    /// already: only those are written. Closing the connection abandons a learner, never a list that was appended.
    13 MemberChange(MemberChangeRequest) => MemberProgress as MemberChangeReply;
    /// The copies of W as its writer sees them.
    14 Members(()) as MembersReply;
    /// luxid only: list n is committed in Q, and how the learner stands there.
    15 ListInQ(ListInQRequest) as ();
    /// Whether this is the master still: a majority of W's copies has just said so (P1.10).
    16 ConfirmMaster(()) as ();
    /// The ssconf values of the committed state, for who distributes or compares them.
    17 SsconfValues(()) as SsconfValuesReply;
    /// luxid only: takes a node's copies out of the lists of both logs, without a job, since jobs can't be submitted while
    /// no majority answers (P2.6). Answered when the list is settled.
    18 MemberDrop(MemberDropRequest) as MemberChangeReply;
    /// The CA of this fingerprint, when this master has its key; else a new one, whose key lies on this master's disk when
    /// it is answered. Registers nothing; needs the owner to hold the BGL.
    19 CaNext(CaNextRequest) as CaNextReply;
    /// Refuses what [`Apply`] of the same commands would refuse now, and changes nothing: asked before something that can't be
    /// undone, as hooks are.
    20 Check(CheckRequest) as ();
}

/// See [`Check`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CheckRequest {
    /// The job; commands that need a lock check that it holds it.
    pub owner: JobOwner,
    /// What it means to do.
    pub commands: Json<Vec<Command>>,
}

/// See [`CaNext`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct CaNextRequest {
    /// The job of OP_CLUSTER_RENEW_CRYPTO.
    pub owner: JobOwner,
    /// The CA that was being changed to.
    pub wanted: Option<crate::noded::Print>,
}

/// See [`CaNext`].
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CaNextReply {
    /// Which CA it is.
    pub print: crate::noded::Print,
    /// PEM of its certificate.
    pub certificate: String,
    /// PEM of its key and certificate, for those who may become master.
    pub key: String,
}

// By hand: the key must not reach a log.
impl std::fmt::Debug for CaNextReply {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("CaNextReply").field("print", &self.print).finish_non_exhaustive()
    }
}

/// See [`Status`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct StatusReply {
    /// The cluster.
    pub cluster: ClusterUuid,
    /// The node this master runs on.
    pub node: NodeUuid,
    /// Epoch and ballot of this master.
    pub fence: Fence,
    /// This writer's run.
    pub run: u64,
    /// Committed index of W.
    pub index: u64,
}

/// How a lock is wanted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Want {
    /// Beside other sharers.
    Shared,
    /// Alone.
    Exclusive,
    /// Give it back.
    Release,
}

/// See [`LockUpdate`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LockRequest {
    /// Who.
    pub owner: JobOwner,
    /// Lower is more urgent.
    pub priority: i32,
    /// Lock names as in `spec/locks.md` §1, each at most once.
    pub wants: Vec<(String, Want)>,
}

/// Who stands in the way.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LockBlocked {
    /// Owners that must give way first.
    pub by: Vec<JobOwner>,
    /// The same for people: "instance/x held by job 12".
    pub text: String,
}

/// What to give back.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum FreeScope {
    /// Everything, and the waiting request.
    All,
    /// One level, such as `node`.
    Level(String),
    /// Everything but these.
    Keep(Vec<String>),
}

/// See [`LockFree`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LockFreeRequest {
    /// Who.
    pub owner: JobOwner,
    /// What.
    pub scope: FreeScope,
}

/// See [`LockPriority`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LockPriorityRequest {
    /// Who.
    pub owner: JobOwner,
    /// Lower is more urgent.
    pub priority: i32,
}

/// One lock in a query (`spec/query.md` §5).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LockRow {
    /// Lock name.
    pub name: String,
    /// Exclusive, shared, or owned by nobody directly. Never `Release`.
    pub mode: Option<Want>,
    /// Who has it.
    pub owners: Vec<JobOwner>,
    /// Who waits, one entry per request.
    pub pending: Vec<(Want, JobOwner)>,
}

/// What to read.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum ReadKey {
    /// One object by kind and key (uuid, or the key of a singleton).
    Key(String, String),
    /// One object by kind and full or short name, or uuid text. Kinds with names: node, group, instance, blueprint, pool, image.
    Name(String, String),
    /// All of a kind.
    Kind(String),
    /// Instances whose primary node this is, with their slots.
    InstancesOf(NodeUuid),
    /// A slot with its instance, its node, and what its pool makes VMs from: pool, blueprint, imported image. What is not
    /// there is left out.
    SlotWhole(InstanceUuid),
}

/// A stored object.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Object {
    /// Kind, as in `gantry_model::config::kind`.
    pub kind: String,
    /// Key within the kind.
    pub key: String,
    /// Revision, for compare-and-set.
    pub rev: u64,
    /// JSON of the type of that kind.
    pub body: String,
}

/// See [`Read`]. Keys that do not exist yield nothing; an ambiguous short name fails.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReadReply {
    /// Committed index the objects stand at.
    pub index: u64,
    /// In the order asked for.
    pub objects: Vec<Object>,
}

/// See [`Apply`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ApplyRequest {
    /// The job, for the log; commands that need a lock check that this owner holds it.
    pub owner: Option<JobOwner>,
    /// Numbers the owner's batches from 1, so that each is applied once: one asked for again under the number of
    /// the owner's last batch (its connection broke) is answered from the stored index and results. They lie in W
    /// (kind `applied`, key = owner) in the same batch as the change and go with the owner. 0 without an owner.
    pub seq: u64,
    /// What to do.
    pub commands: Json<Vec<Command>>,
}

/// See [`Apply`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ApplyReply {
    /// Index of the batch, or the committed index when nothing changed.
    pub index: u64,
    /// A result per command.
    pub results: Json<Vec<Value>>,
}

/// What carries tags.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum TagTarget {
    /// The cluster.
    Cluster,
    /// A node.
    Node(NodeUuid),
    /// A group.
    Group(GroupUuid),
    /// An instance.
    Instance(InstanceUuid),
}

/// A typed configuration command. JSON, since parameters are JSON. `rev` is the serial number that the
/// caller read; None = whatever it is now (the change does not rest on what was read).
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Command {
    /// Sets fields of the cluster by their names in `spec/config.md` §2; values replace, null removes optional
    /// ones. Result: null.
    ClusterSet {
        /// Serial read.
        rev: Option<u64>,
        /// Field name → value.
        set: Params,
    },
    /// Adds a node. Result: its uuid.
    NodeAdd {
        /// The whole node; serial and times are set here.
        node: Box<Node>,
    },
    /// Removes a node without instances that is not the master. Result: null.
    NodeRemove {
        /// Which.
        node: NodeUuid,
    },
    /// Changes a node's flags and parameters by their names in `spec/config.md` §3. Result: null.
    NodeSet {
        /// Which.
        node: NodeUuid,
        /// Serial read.
        rev: Option<u64>,
        /// Field name → value.
        set: Params,
    },
    /// Adds a group. Result: its uuid.
    GroupAdd {
        /// The whole group; serial and times are set here.
        group: Box<Group>,
    },
    /// Removes an empty group that is not the last. Result: null.
    GroupRemove {
        /// Which.
        group: GroupUuid,
    },
    /// Changes a group by its field names in `spec/config.md` §4, `name` included. Result: null.
    GroupSet {
        /// Which.
        group: GroupUuid,
        /// Serial read.
        rev: Option<u64>,
        /// Field name → value.
        set: Params,
    },
    /// Moves nodes to a group. Result: null.
    GroupAssign {
        /// Where to.
        group: GroupUuid,
        /// Who.
        nodes: Vec<NodeUuid>,
    },
    /// Adds an instance and its slot. Result: its uuid.
    InstanceAdd {
        /// The whole instance; serial and times are set here.
        instance: Box<Instance>,
    },
    /// Removes an instance whose slot is ABSENT. Result: null.
    InstanceRemove {
        /// Which.
        instance: InstanceUuid,
    },
    /// Sets the wanted state. Result: null.
    InstanceSetState {
        /// Which.
        instance: InstanceUuid,
        /// Wanted.
        state: AdminState,
        /// `admin` or `user`.
        source: String,
    },
    /// Changes an instance by its field names in `spec/config.md` §5. Result: null.
    InstanceSet {
        /// Which.
        instance: InstanceUuid,
        /// Serial read.
        rev: Option<u64>,
        /// Field name → value.
        set: Params,
    },
    /// Adds tags. Result: null.
    TagsAdd {
        /// To what.
        target: TagTarget,
        /// Which; those already there are no error.
        tags: BTreeSet<String>,
    },
    /// Removes tags. Result: null.
    TagsDel {
        /// From what.
        target: TagTarget,
        /// Which; one not there refuses all.
        tags: BTreeSet<String>,
    },
    /// ABSENT → CREATING with the next generation (P5.3). Result: the new generation.
    SlotBegin {
        /// Which.
        slot: InstanceUuid,
        /// The generation read.
        expected: Generation,
        /// The creating job.
        holder: JobOwner,
    },
    /// CREATING → BOOTING → CLEAN, by the creating job. Result: null.
    SlotReady {
        /// Which.
        slot: InstanceUuid,
        /// Its generation.
        generation: Generation,
    },
    /// Any live state → DIRTY; a lease that has it is broken. Result: null.
    SlotDirty {
        /// Which.
        slot: InstanceUuid,
        /// Its generation.
        generation: Generation,
        /// Why.
        why: String,
    },
    /// DIRTY → DESTROYING. Result: null.
    SlotBeginDestroy {
        /// Which.
        slot: InstanceUuid,
        /// Its generation.
        generation: Generation,
        /// The destroying job.
        holder: JobOwner,
    },
    /// DESTROYING → ABSENT, on the node's word: absent and floor ≥ generation (P5.7). Result: null.
    SlotAbsent {
        /// Which.
        slot: InstanceUuid,
        /// Its generation.
        generation: Generation,
        /// The floor the node named.
        floor: Generation,
    },
    /// Adds a blueprint. Result: its uuid.
    BlueprintAdd {
        /// The whole blueprint; serial and times are set here.
        blueprint: Box<Blueprint>,
    },
    /// Changes a blueprint by its field names. VMs made before are replaced as they become free. Result: null.
    BlueprintSet {
        /// Which.
        blueprint: BlueprintUuid,
        /// Serial read.
        rev: Option<u64>,
        /// Field name → value.
        set: Params,
    },
    /// Removes a blueprint that no pool uses. Result: null.
    BlueprintRemove {
        /// Which.
        blueprint: BlueprintUuid,
    },
    /// Adds a pool, without slots. Result: its uuid.
    PoolAdd {
        /// The whole pool; serial and times are set here.
        pool: Box<Pool>,
    },
    /// Changes a pool by its field names (`state`, `amount`, … ; never `name`). Result: null.
    PoolSet {
        /// Which.
        pool: PoolUuid,
        /// Serial read.
        rev: Option<u64>,
        /// Field name → value.
        set: Params,
    },
    /// Removes a pool without slots. Result: null.
    PoolRemove {
        /// Which.
        pool: PoolUuid,
    },
    /// Adds an image. The same name with the same digest changes nothing. Result: null.
    ImageAdd {
        /// The whole image; serial and times are set here.
        image: Box<Image>,
    },
    /// Removes an image that no blueprint names. Result: null.
    ImageRemove {
        /// Which.
        name: String,
    },
    /// Adds a slot to an active pool (`instance.pool`), ABSENT, while it has fewer than its `max` besides slots on nodes
    /// that are drained, offline or lost. Its name must be of the pool and new; there already with the same node: nothing
    /// changes. Result: its uuid.
    SlotAdd {
        /// The whole instance; serial and times are set here.
        instance: Box<Instance>,
    },
    /// Removes a drained ABSENT slot of a pool, or one that is homed on a node which takes no work. Result: null.
    SlotRemove {
        /// Which.
        slot: InstanceUuid,
    },
    /// Sets or clears a slot's drained flag; a CLEAN slot that becomes drained becomes DIRTY. Result: null.
    SlotDrain {
        /// Which.
        slot: InstanceUuid,
        /// Drained or not.
        drained: bool,
    },
    /// Lets an operator's recycle try a stuck slot again at once. Result: null.
    SlotUnstick {
        /// Which.
        slot: InstanceUuid,
    },
    /// luxid only. Takes `count` CLEAN slots of the pool with all that is needed, or nothing. Asked again with the same
    /// uuid: the same VMs. An uuid that is over: `Stale`. Result: [`gantry_model::lease::Grab`].
    LeaseGrab {
        /// Made by who asks.
        lease: LeaseUuid,
        /// For whom.
        owner: LeaseOwner,
        /// The pool's name.
        pool: String,
        /// How many VMs.
        count: u32,
        /// How long from now, ms; at most the blueprint's and 24 h.
        for_ms: u64,
        /// Ends when not renewed for so long.
        ttl_ms: Option<u64>,
    },
    /// luxid only. Counts from now again. Over or unknown: `Stale`. Result: null.
    LeaseRenew {
        /// Which.
        lease: LeaseUuid,
    },
    /// A user's VM is about to be touched for the first time (P5.4): `opened` is durable before the node is told. That of a
    /// task is opened with its grant. Over, or not this lease's VM: `Stale`. Result: null.
    LeaseOpen {
        /// Which.
        lease: LeaseUuid,
        /// Its slot.
        slot: InstanceUuid,
        /// Its generation.
        generation: Generation,
    },
    /// luxid only. Ends a lease: VMs never opened are CLEAN again, others DIRTY. Over already: nothing changes. Never
    /// granted: it never will be. Result: null.
    LeaseEnd {
        /// Which.
        lease: LeaseUuid,
        /// Why.
        why: String,
    },
    /// Ends the lease of a task and begins to destroy its VM, in one: LEASED by it, or DIRTY since it ended, →
    /// DESTROYING. The attempt's job sends it once its result is stored. Of a user's lease: refused. Result: null.
    LeaseDestroy {
        /// The lease.
        lease: LeaseUuid,
        /// Its slot.
        slot: InstanceUuid,
        /// Its generation.
        generation: Generation,
        /// The job that does it.
        holder: JobOwner,
    },
    /// luxid only. Nobody will ask about these ended leases again. Those that live are left. Result: null.
    LeaseForget {
        /// Which.
        leases: Vec<LeaseUuid>,
    },
    /// luxid only. Takes back a grant of a user's lease that nobody has been told of, since these of its VMs, by slot and generation,
    /// do not live, or since a VM of it was lost meanwhile: they are DIRTY, the others CLEAN again, and the lease is as never granted, so
    /// that it may be grabbed anew. With no VM named nothing is taken from a lease that lives. Opened, or over for another
    /// reason: `Stale`. Result: null.
    LeaseReturn {
        /// Which.
        lease: LeaseUuid,
        /// Its VMs that do not live.
        lost: Vec<(InstanceUuid, Generation)>,
    },
}

/// See [`Watch`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct WatchRequest {
    /// Last index the caller has; 0 = nothing.
    pub from: u64,
    /// The history the caller's index belongs to; None with `from` 0.
    pub history: Option<Uuid>,
}

/// One change of the watch stream.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct WatchChange {
    /// Kind.
    pub kind: String,
    /// Key.
    pub key: String,
    /// Revision.
    pub rev: u64,
    /// JSON; None = removed.
    pub body: Option<String>,
}

/// See [`Watch`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum WatchItem {
    /// Forget everything: the whole state as of `index` follows in chunks.
    Reset {
        /// Index of the state that follows.
        index: u64,
        /// History of the log.
        history: Uuid,
    },
    /// A part of the whole state.
    Chunk(Vec<WatchChange>),
    /// The whole state has been sent; from here on batches follow.
    Loaded,
    /// One committed batch.
    Batch {
        /// Its index.
        index: u64,
        /// What it changed.
        changes: Vec<WatchChange>,
    },
}

/// See [`CertSign`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CertSignRequest {
    /// The job of OP_NODE_ADD.
    pub owner: JobOwner,
    /// The node's uuid, which goes into the certificate.
    pub node: NodeUuid,
    /// PEM.
    pub csr: String,
}

/// See [`CertSign`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CertSignReply {
    /// PEM of the node's certificate.
    pub certificate: String,
    /// PEM of the cluster's CA.
    pub ca: String,
}

/// See [`NodeStates`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodeState {
    /// Which.
    pub node: NodeUuid,
    /// Claimed by this master and answering.
    pub claimed: bool,
    /// Why not, for people.
    pub why: String,
}

/// See [`MemberChange`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct MemberChangeRequest {
    /// The job; it holds the node's lock exclusively, and what `also` needs.
    pub owner: JobOwner,
    /// Whose copies.
    pub node: NodeUuid,
    /// In, or out.
    pub join: bool,
    /// Fields of the node that change with it, as in [`Command::NodeSet`]; empty: only what `also` says.
    pub set: Json<Params>,
    /// Further commands of that batch.
    pub also: Json<Vec<Command>>,
}

/// See [`MemberChange`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct MemberProgress {
    /// For people: "node2 lacks 1200 rows of the queue".
    pub text: String,
}

/// See [`MemberChange`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct MemberChangeReply {
    /// Index of the batch.
    pub index: u64,
}

/// See [`MemberDrop`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct MemberDropRequest {
    /// Whose copies.
    pub node: NodeUuid,
}

/// How one copy of a log stands.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CopyStatus {
    /// The node that holds it.
    pub node: NodeUuid,
    /// Its name.
    pub name: String,
    /// Which copy.
    pub copy_id: Uuid,
    /// Fed, but not counted yet.
    pub learner: bool,
    /// Up to here it has the writer's rows.
    pub matched: u64,
    /// Rows it lacks.
    pub lag: u64,
    /// Why it does not count (P1.11), if it does not.
    pub suspect: Option<String>,
    /// When it answered last; never since the writer started: None.
    pub answered_ms_ago: Option<u64>,
    /// What is wrong with the connection, for people; empty = nothing.
    pub why: String,
}

/// See [`Members`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct MembersReply {
    /// Number of the newest list of W.
    pub n: u64,
    /// Whether it is settled.
    pub settled: bool,
    /// Members and learners, the writer's own copy included.
    pub copies: Vec<CopyStatus>,
}

/// See [`ListInQ`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct ListInQRequest {
    /// The number of Q's newest list.
    pub n: u64,
    /// How the learner is fed that the members object names.
    pub learner: Option<LearnerInQ>,
}

/// See [`ListInQRequest`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct LearnerInQ {
    /// Which copy.
    pub copy_id: Uuid,
    /// Up to here it has Q's rows.
    pub matched: u64,
    /// The last row of Q.
    pub last: u64,
}

/// See [`SsconfValues`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SsconfValuesReply {
    /// Index of W they were computed from.
    pub index: u64,
    /// (key, whole file content), sorted by key.
    pub values: Vec<(String, String)>,
}
