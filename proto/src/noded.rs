//! Verbs of NodeD (DESIGN §7, P5). Callers: the master's daemons and job processes, by mutual TLS.
//! What changes a node carries the master's [`Fence`]; what concerns a VM also slot and generation.

use crate::verbs;
use gantry_model::ids::{ClusterUuid, Fence, Generation, InstanceUuid, LeaseUuid, NodeUuid};
use gantry_model::role::Role;
use serde::{Deserialize, Serialize};

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
    6 VmOpen(VmLeaseRef) as ();
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
    /// MiB.
    pub memory_mib: u64,
    /// CPUs.
    pub vcpus: u64,
    /// MiB.
    pub disk_mib: u64,
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
