//! Verbs of NodeD (DESIGN §7, P5). Callers: the master's daemons and job processes, by mutual TLS.
//! What changes a node carries the master's [`Fence`]; what concerns a VM also slot and generation.

use crate::copies;
use crate::effects;
use crate::verbs;
pub use crate::vmd::{CommandEnd, Stream, Why};
use gantry_model::ids::{ClusterUuid, Fence, Generation, InstanceUuid, LeaseUuid, NodeUuid};
use gantry_model::role::Role;
use serde::{Deserialize, Serialize};
use std::net::{IpAddr, Ipv4Addr};

/// Protocol name in the hello.
pub const PROTOCOL: &str = "noded";

verbs! {
    /// Live facts; changes nothing, needs no fence.
    1 NodeInfo(()) as NodeInfoReply;
    /// Makes the caller's master this node's master (P5.2): stores a higher fence, ends running verbs of lower
    /// ones, answers the inventory.
    2 Claim(ClaimRequest) as Vec<SlotFacts>;
    /// What this node knows of slots; needs the current fence.
    3 Inventory(Fence) as Vec<SlotFacts>;
    /// Creates and starts the VM of (slot, generation). Repeated: attaches, same answer.
    4 VmCreate(VmCreateRequest) as VmCreateReply;
    /// Destroys what lives at or below the generation and raises the floor to it. Absent is success.
    5 VmDestroy(VmRef) as VmDestroyReply;
    /// First touch by a lease (P5.4).
    6 VmOpen(VmOpenRequest) as ();
    /// Ends the lease's work in the VM (P5.6).
    7 VmClose(VmLeaseRef) as ();
    /// Sleeps; the standard test (`OP_TEST_DELAY` on nodes).
    8 TestDelay(TestDelayRequest) as ();
    /// Writes ssconf files (`spec/config.md` §6) unless the node has newer ones.
    9 Ssconf(SsconfRequest) as ();
    /// Sets this node's role.
    10 SetRole(SetRoleRequest) as ();
    /// Leave the cluster: secrets, role and ssconf go; refused while VMs live here.
    11 Leave(Fence) as ();
    /// Unjoined nodes only: proves the join secret both ways and asks for the certificate request.
    12 JoinProve(JoinProveRequest) as JoinProveReply;
    /// Unjoined nodes only: the certificate; the node restarts as a member.
    13 JoinFinish(JoinFinishRequest) as ();
    /// Starts a command in an opened VM, or finds the one with this name; it never runs twice (P5.5).
    14 VmExec(VmExecRequest) as VmExecReply;
    /// Output of a command from these offsets on, and its end. Any number of followers, each from anywhere; closing the
    /// stream ends nothing. A command without a recorded end answers [`Why::Lost`].
    15 VmWait(VmWaitRequest) => OutputPiece as CommandEnd;
    /// Sends a signal to a command's process group.
    16 VmSignal(VmSignalRequest) as ();
    /// Ends a command; it counts as cancelled unless it ended well before.
    17 VmCancel(VmCommandRef) as ();
    /// A piece of a tar archive that is unpacked in the VM's home once its last piece is here. Repeated pieces are known by
    /// their offset. Links, devices, `..` and absolute paths are refused before anything is unpacked.
    18 VmPut(VmPutRequest) as PieceReply;
    /// Regular files below a directory of the VM's home, or one file, as a tar archive.
    19 VmGet(VmGetRequest) => Bytes as VmGetReply;
    /// What a VM uses and has used.
    20 VmUsage(VmRef) as crate::vmd::VmUsage;
    /// A piece of an image's archive; with the last one the digest is checked and the image unpacked, once.
    21 ImagePut(ImagePutRequest) as PieceReply;
    /// Images kept; unpacked ones that are not named and not in use go.
    22 ImageKeep(ImageKeepRequest) as ();
    /// Compares what the drivers have with the records: what carries this cluster's label and is no current VM is killed;
    /// what has no label is never touched.
    23 Audit(Fence) as AuditReply;
    /// What this node's copies say of themselves. Promises nothing.
    24 CopyLook(()) as copies::LookReply;
    /// Promises terms, durably; answered when all files asked for have promised.
    25 CopyPromise(copies::PromiseRequest) as copies::PromiseReply;
    /// Rows for a copy; answered after the flush.
    26 CopyAppend(copies::AppendRequest) as copies::AppendReply;
    /// Rows of a copy, for a writer that recovers.
    27 CopyFetch(copies::FetchRequest) as copies::FetchReply;
    /// Makes empty copies of both logs with a new id; older ones go aside. Repeated: the same answer.
    28 CopyMake(copies::MakeRequest) as copies::MakeReply;
    /// A piece of a snapshot; with the last one it is checked and taken over.
    29 CopySnapshotPut(copies::SnapshotPutRequest) as copies::SnapshotPutReply;
    /// A piece of a snapshot of this node's copy.
    30 CopySnapshotGet(copies::SnapshotGetRequest) as copies::SnapshotGetReply;
    /// Gives a copy its next token.
    31 CopyToken(copies::TokenRequest) as Option<copies::Refusal>;
    /// Which of these bodies are not on this node's disk.
    32 BodyHave(Vec<copies::Digest>) as Vec<copies::Digest>;
    /// A piece of a body; done when it is whole, checked and flushed.
    33 BodyPut(copies::BodyPutRequest) as PieceReply;
    /// From this node only: it has won this epoch. Believed when both its copies promise just that; role.json then
    /// says master.
    34 Elected(Fence) as ();
    /// Asks the master of this epoch to stop its writers; answered when they have ended.
    35 StepDown(u64) as copies::StepDownReply;
    /// From this node only: its master has heard of this epoch and is deposed.
    36 Deposed(u64) as ();
    /// From this node only: both its copies go on alone in a new history (`--no-voting`).
    37 CopyAlone(copies::AloneRequest) as ();
    /// Stores what a candidate must have before it may become master: files of `secrets/`. Repeated: the same.
    38 Secrets(SecretsRequest) as ();
    /// The ssconf files as they lie on this node's disk.
    39 SsconfHave(()) as SsconfHaveReply;
    /// A piece of a body of this node, for a master that lacks it.
    40 BodyGet(copies::BodyGetRequest) as copies::BodyGetReply;
    /// Whom this node trusts, what its certificate is, and whose key it has. Changes nothing.
    41 Crypto(()) as CryptoReply;
    /// Makes a new key and asks for its certificate (PEM). The key is kept in memory until the next one is made, or its
    /// certificate is stored.
    42 CryptoAsk(Fence) as String;
    /// Changes one of these, if they are still as the caller has seen them: one rename, durable when it returns, and in use
    /// for new connections. Repeated: the same.
    43 CryptoStore(CryptoStoreRequest) as ();
    /// Puts the cluster's address on this node, or takes it away. Only for the node that is the master of that epoch; it
    /// takes it away by itself when it is no longer.
    45 MasterIp(effects::MasterIpRequest) as effects::MasterIpReply;
    /// Runs this node's hooks of one path and phase, one after the other; files that are none are told too. Ends with its
    /// caller, and when another master claims the node.
    46 HooksRun(effects::HooksRunRequest) as Vec<effects::HookEnd>;
    /// Whether this machine has an address. Changes nothing.
    47 AddressLook(Ipv4Addr) as effects::AddressLookReply;
    /// Who asked this node's ConfD in the legacy form; nobody, if it has none. Changes nothing.
    48 ConfdLegacy(()) as Vec<LegacySource>;
    /// Rows of this node's copies that a change of masters cut off (P1.9): the files they were put into. A noded of before
    /// does not know it.
    49 CopyAside(()) as copies::AsideReply;
    /// Whether the VM of a generation lives: its PID 1 is asked. Touches nothing, so that the VM stays as clean as it was. One that
    /// gives no sign is stored as lost and refused as stale. A noded of before does not know it.
    50 VmCheck(VmRef) as ();
    /// VMs that are found dead before any lease has opened them, as that is seen; at first those that are so already. A hint: what is
    /// missed stands in the next inventory. A noded of before does not know it.
    51 Losses(Fence) => SlotFacts as ();
    /// Bodies on this node's disk that are not what their digests say, and of which it has found no whole one since. A noded
    /// of before does not know it.
    52 BodyDamaged(()) as copies::DamagedReply;
}

/// Somebody who asked ConfD in the legacy form.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LegacySource {
    /// From where.
    pub ip: IpAddr,
    /// How long ago last, seconds.
    pub ago_s: u64,
}

/// SHA-256 of a certificate's DER: what people and jobs call a CA by.
pub type Print = [u8; 32];

/// A CA that a node trusts.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TrustedCa {
    /// Which.
    pub print: Print,
    /// Its last second, since 1970.
    pub ends: i64,
    /// Its certificate, PEM.
    pub pem: String,
}

/// See [`Crypto`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CryptoReply {
    /// Digest of all this, for [`CryptoStoreRequest`].
    pub state: [u8; 32],
    /// Whom it trusts.
    pub trust: Vec<TrustedCa>,
    /// Which of them signed this node's certificate; None: none, or it is over.
    pub issuer: Option<Print>,
    /// Last second of this node's certificate, since 1970.
    pub ends: i64,
    /// Of which CA this node has the key; None = of none.
    pub key: Option<Print>,
    /// SHA-256 of its `hmac.key`; None = it has none.
    pub hmac: Option<[u8; 32]>,
    /// What it takes itself for.
    pub role: Role,
}

/// See [`CryptoStore`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CryptoStoreRequest {
    /// The master.
    pub fence: Fence,
    /// [`CryptoReply::state`] that this rests on: else refused as stale. A late message of a job that is dead finds another.
    pub seen: [u8; 32],
    /// What changes.
    pub change: CryptoChange,
}

/// One change of a node's secrets.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum CryptoChange {
    /// Whom it trusts from now on, PEM. Refused when its own certificate would be worth nothing.
    Trust(String),
    /// A CA's key with its certificate, PEM; the CA must be trusted.
    Key(String),
    /// Its certificate for the last request, PEM; the CA must be trusted.
    Certificate(String),
    /// `hmac.key`, a line of hex.
    Hmac(String),
}

// By hand: keys must not reach a log.
impl std::fmt::Debug for CryptoChange {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Trust(_) => "Trust",
            Self::Key(_) => "Key",
            Self::Certificate(_) => "Certificate",
            Self::Hmac(_) => "Hmac",
        })
    }
}

/// Files in one [`Secrets`].
pub const SECRETS_MAX: usize = 16;

/// See [`Secrets`].
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SecretsRequest {
    /// The master.
    pub fence: Fence,
    /// (file name, content), at most [`SECRETS_MAX`]; names that the receiver does not know are refused.
    pub files: Vec<(String, String)>,
}

// By hand: contents must not reach a log.
impl std::fmt::Debug for SecretsRequest {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let names: Vec<&str> = self.files.iter().map(|(name, _)| name.as_str()).collect();
        f.debug_struct("SecretsRequest").field("fence", &self.fence).field("files", &names).finish()
    }
}

/// See [`SsconfHave`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SsconfHaveReply {
    /// Index of W they were computed from; 0 = none were written yet.
    pub index: u64,
    /// (key, SHA-256 of the whole file), sorted by key.
    pub digests: Vec<(String, [u8; 32])>,
}

/// Bytes of a stream.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Bytes {
    /// At most [`PIECE_BYTES_MAX`].
    #[serde(with = "crate::codec::raw")]
    pub bytes: Vec<u8>,
}

/// Most bytes of one piece: a frame holds it with room to spare.
pub const PIECE_BYTES_MAX: usize = 1 << 20;
/// Most bytes of standard input of a command.
pub const STDIN_BYTES_MAX: usize = 1 << 20;

/// Limits of a lease's work, at most the VM's own.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct OpenLimits {
    /// Memory, MiB.
    pub memory_mib: u64,
    /// Processes and threads, PID 1 included.
    pub pids: u64,
    /// Room for files, MiB.
    pub disk_mib: u64,
}

/// See [`VmOpen`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct VmOpenRequest {
    /// Which VM, for which lease.
    pub at: VmLeaseRef,
    /// Lower limits; None = the VM's own.
    pub limits: Option<OpenLimits>,
}

/// A command of a lease in a VM.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct VmCommandRef {
    /// Where; the lease must be the one that opened it.
    pub at: VmLeaseRef,
    /// Its name ([`crate::vmd::is_name`]), unique for ever in this VM.
    pub exec: String,
}

/// See [`VmExec`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct VmExecRequest {
    /// Which.
    pub of: VmCommandRef,
    /// Program and arguments.
    pub argv: Vec<String>,
    /// Added to PATH, HOME and LANG.
    pub env: Vec<(String, String)>,
    /// Working directory; None = the home.
    pub cwd: Option<String>,
    /// Standard input; empty = /dev/null.
    #[serde(with = "crate::codec::raw")]
    pub stdin: Vec<u8>,
    /// Most bytes kept of each stream; more ends the command.
    pub output_bytes_max: u64,
    /// Wall clock, ms.
    pub wall_ms: u64,
    /// CPU time of the whole VM while it runs, ms.
    pub cpu_ms: u64,
}

/// See [`VmExec`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct VmExecReply {
    /// It was known; nothing was started.
    pub known: bool,
}

/// See [`VmWait`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct VmWaitRequest {
    /// Whose.
    pub of: VmCommandRef,
    /// First byte of standard output wanted; None = none of it.
    pub out: Option<u64>,
    /// The same of standard error.
    pub err: Option<u64>,
}

/// A piece of output.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct OutputPiece {
    /// Of which stream.
    pub stream: Stream,
    /// Where it begins.
    pub offset: u64,
    /// At most [`PIECE_BYTES_MAX`].
    #[serde(with = "crate::codec::raw")]
    pub bytes: Vec<u8>,
}

/// See [`VmSignal`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct VmSignalRequest {
    /// To which.
    pub to: VmCommandRef,
    /// The signal's number.
    pub signal: i32,
}

/// See [`VmPut`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct VmPutRequest {
    /// Where.
    pub at: VmLeaseRef,
    /// Names this upload ([`crate::vmd::is_name`]): done once, whatever is repeated.
    pub upload: String,
    /// Directory below the home, made if need be; empty = the home.
    pub path: String,
    /// Where in the archive the piece begins.
    pub offset: u64,
    /// At most [`PIECE_BYTES_MAX`].
    #[serde(with = "crate::codec::raw")]
    pub bytes: Vec<u8>,
    /// Nothing follows: unpack.
    pub last: bool,
}

/// How far an upload got.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct PieceReply {
    /// The offset wanted next; pieces of another one are ignored.
    pub next: u64,
    /// It is here whole, and was put to use.
    pub done: bool,
}

/// See [`VmGet`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct VmGetRequest {
    /// Where.
    pub at: VmLeaseRef,
    /// A directory or a file below the home.
    pub path: String,
    /// First end every process of the VM, so that nothing changes any more; no command can run afterwards.
    pub settle: bool,
    /// Most bytes of files; those that do not fit are left out and counted.
    pub bytes_max: u64,
}

/// See [`VmGet`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct VmGetReply {
    /// What the archive has: path below the directory asked for, bytes.
    pub files: Vec<(String, u64)>,
    /// Entries left out: no regular files with one name, unusable names, over the limit.
    pub refused: u64,
}

/// See [`ImagePut`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ImagePutRequest {
    /// The master.
    pub fence: Fence,
    /// SHA-256 of the whole archive, lower-case hex.
    pub digest: String,
    /// Where the piece begins.
    pub offset: u64,
    /// At most [`PIECE_BYTES_MAX`].
    #[serde(with = "crate::codec::raw")]
    pub bytes: Vec<u8>,
    /// Nothing follows: check and unpack.
    pub last: bool,
}

/// See [`ImageKeep`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ImageKeepRequest {
    /// The master.
    pub fence: Fence,
    /// Digests of the images that exist.
    pub digests: Vec<String>,
}

/// See [`Audit`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AuditReply {
    /// Runtime ids of the strangers that were killed.
    pub killed: Vec<String>,
    /// Strangers that could not be killed, and why.
    pub failed: Vec<(String, String)>,
    /// VMs looked at.
    pub seen: u64,
}

/// A VM on this node, live.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct VmFacts {
    /// Its slot.
    pub slot: InstanceUuid,
    /// Its generation.
    pub generation: Generation,
    /// Whether it runs now.
    pub running: bool,
    /// Memory it uses, MiB.
    pub memory_mib: u64,
    /// CPUs it has.
    pub vcpus: u64,
}

/// See [`NodeInfo`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodeInfoReply {
    /// Which node answers.
    pub node: NodeUuid,
    /// Its release.
    pub release: String,
    /// Changes at each boot of the machine.
    pub boot_id: String,
    /// What it offers to VMs and itself, MiB.
    pub memory_total_mib: u64,
    /// What the host takes, MiB.
    pub memory_host_mib: u64,
    /// Free for VMs, MiB.
    pub memory_free_mib: u64,
    /// Logical CPUs it offers.
    pub cpus: u64,
    /// Taken by the host.
    pub cpus_host: u64,
    /// NUMA nodes.
    pub numa_nodes: u64,
    /// Sockets.
    pub sockets: u64,
    /// Room for VMs, MiB.
    pub disk_total_mib: u64,
    /// Free of it, MiB.
    pub disk_free_mib: u64,
    /// Names of the drivers that work here.
    pub drivers: Vec<String>,
    /// Live VMs.
    pub vms: Vec<VmFacts>,
}

/// See [`Claim`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct ClaimRequest {
    /// The cluster.
    pub cluster: ClusterUuid,
    /// The node meant.
    pub node: NodeUuid,
    /// The claim.
    pub fence: Fence,
}

/// State of a VM as the node has it on disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum VmState {
    /// Nothing lives.
    Absent,
    /// A create is or was under way.
    Creating,
    /// Lives.
    Live,
    /// A destroy is or was under way.
    Destroying,
    /// Was live, and is not there any more.
    Lost,
}

/// What a node has durably on a slot (P5).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SlotFacts {
    /// Which.
    pub slot: InstanceUuid,
    /// Highest generation seen or told to destroy.
    pub floor: Generation,
    /// Current generation; 0 before the first.
    pub generation: Generation,
    /// Its state.
    pub state: VmState,
    /// The lease that opened it.
    pub holder: Option<LeaseUuid>,
    /// Whether it was ever touched in this generation.
    pub opened: bool,
}

/// Sizes and image of a VM.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct VmSpec {
    /// Instance name, for people.
    pub name: String,
    /// `fake`, `oci`, `openvz`.
    pub driver: String,
    /// OS or image name.
    pub image: String,
    /// Digest of an imported image's archive; None for built-in ones. Not here: `NotFound`, and the caller sends it
    /// with [`ImagePut`].
    pub image_digest: Option<String>,
    /// MiB.
    pub memory_mib: u64,
    /// CPUs.
    pub vcpus: u64,
    /// MiB.
    pub disk_mib: u64,
    /// Processes and threads.
    pub pids: u64,
}

/// See [`VmCreate`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct VmCreateRequest {
    /// The master.
    pub fence: Fence,
    /// Which slot.
    pub slot: InstanceUuid,
    /// The new generation.
    pub generation: Generation,
    /// What to make.
    pub spec: VmSpec,
}

/// See [`VmCreate`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct VmCreateReply {
    /// Whether it was there already.
    pub attached: bool,
    /// `gantry-CLUSTER8-SLOT-GEN`.
    pub runtime_id: String,
}

/// A VM meant by slot and generation.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct VmRef {
    /// The master.
    pub fence: Fence,
    /// Which slot.
    pub slot: InstanceUuid,
    /// Which generation.
    pub generation: Generation,
}

/// A VM meant by slot, generation and lease.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct VmLeaseRef {
    /// Slot and generation.
    pub vm: VmRef,
    /// The lease.
    pub lease: LeaseUuid,
}

/// See [`VmDestroy`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct VmDestroyReply {
    /// The floor now, at least the generation asked for; nothing lives.
    pub floor: Generation,
}

/// See [`TestDelay`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct TestDelayRequest {
    /// The master.
    pub fence: Fence,
    /// Milliseconds.
    pub millis: u64,
}

/// See [`Ssconf`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SsconfRequest {
    /// The master.
    pub fence: Fence,
    /// W index the values were computed from; older than the node's is ignored.
    pub index: u64,
    /// (key, whole file content).
    pub values: Vec<(String, String)>,
}

/// See [`SetRole`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct SetRoleRequest {
    /// The master.
    pub fence: Fence,
    /// The role; never `Master`, which only an election gives.
    pub role: Role,
}

/// See [`JoinProve`]. Proofs are HMAC-SHA256 under the join secret over
/// role ‖ TLS exporter ‖ cluster ‖ node (DESIGN §4); role is `master` or `node`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct JoinProveRequest {
    /// The cluster.
    pub cluster: ClusterUuid,
    /// The uuid the node will have.
    pub node: NodeUuid,
    /// Its name.
    pub name: String,
    /// Proof with role `master`.
    pub proof: [u8; 32],
}

/// See [`JoinProve`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct JoinProveReply {
    /// Proof with role `node`.
    pub proof: [u8; 32],
    /// PEM.
    pub csr: String,
}

/// See [`JoinFinish`]. Only on the connection that proved the secret.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct JoinFinishRequest {
    /// PEM.
    pub certificate: String,
    /// PEM.
    pub ca: String,
    /// The master.
    pub fence: Fence,
    /// Candidate or regular.
    pub role: Role,
}
