//! NodeD's verbs.

use crate::sheet::{Sheet, ids};
use gantry_model::ids::Generation;
use gantry_model::role::Role;
use gantry_proto::noded::{
    Claim, ClaimRequest, Inventory, JoinFinish, JoinFinishRequest, JoinProve, JoinProveReply,
    JoinProveRequest, Leave, NodeInfo, NodeInfoReply, SetRole, SetRoleRequest, SlotFacts, Ssconf,
    SsconfRequest, TestDelay, TestDelayRequest, VERBS, VmClose, VmCreate, VmCreateReply, VmCreateRequest,
    VmDestroy, VmDestroyReply, VmFacts, VmLeaseRef, VmOpen, VmRef, VmSpec, VmState,
};

fn node_info() -> NodeInfoReply {
    let vm =
        VmFacts { slot: ids::SLOT, generation: Generation(3), running: true, memory_mib: 1_024, vcpus: 2 };
    NodeInfoReply {
        node: ids::NODE,
        release: "0.1.0".to_owned(),
        boot_id: "b".to_owned(),
        memory_total_mib: 65_536,
        memory_host_mib: 1,
        memory_free_mib: 2,
        cpus: 3,
        cpus_host: 4,
        numa_nodes: 5,
        sockets: 6,
        disk_total_mib: 7,
        disk_free_mib: 8,
        drivers: vec!["fake".to_owned()],
        vms: vec![vm],
    }
}

fn slots() -> Vec<SlotFacts> {
    let states = [VmState::Absent, VmState::Creating, VmState::Live, VmState::Destroying, VmState::Lost];
    let facts = states.map(|state| SlotFacts {
        slot: ids::SLOT,
        floor: Generation(4),
        generation: Generation(3),
        state,
        holder: (state == VmState::Live).then_some(ids::LEASE),
        opened: state == VmState::Live,
    });
    facts.to_vec()
}

const VM: VmRef = VmRef { fence: ids::FENCE, slot: ids::SLOT, generation: Generation(3) };

fn create() -> VmCreateRequest {
    let spec = VmSpec {
        name: "i1.example".to_owned(),
        driver: "fake".to_owned(),
        image: "noop".to_owned(),
        memory_mib: 1_024,
        vcpus: 2,
        disk_mib: 10_240,
    };
    VmCreateRequest { fence: ids::FENCE, slot: ids::SLOT, generation: Generation(3), spec }
}

#[test]
fn noded_keeps_its_bytes() {
    let lease = VmLeaseRef { vm: VM, lease: ids::LEASE };
    let claim = ClaimRequest { cluster: ids::CLUSTER, node: ids::NODE, fence: ids::FENCE };
    let created = VmCreateReply { attached: true, runtime_id: "gantry-1-2-3".to_owned() };
    let ssconf = SsconfRequest {
        fence: ids::FENCE,
        index: 300,
        values: vec![("cluster_name".to_owned(), "c.example\n".to_owned())],
    };
    let roles = [Role::Master, Role::Candidate, Role::Regular];
    let set_role = |role| SetRoleRequest { fence: ids::FENCE, role };
    let mut sheet = Sheet::new("noded");
    sheet.verb::<NodeInfo>(&[()], &[], &[node_info()]);
    sheet.verb::<Claim>(&[claim], &[], &[slots()]);
    sheet.verb::<Inventory>(&[ids::FENCE], &[], &[slots()]);
    sheet.verb::<VmCreate>(&[create()], &[], &[created]);
    sheet.verb::<VmDestroy>(&[VM], &[], &[VmDestroyReply { floor: Generation(4) }]);
    sheet.verb::<VmOpen>(&[lease], &[], &[()]);
    sheet.verb::<VmClose>(&[lease], &[], &[()]);
    sheet.verb::<TestDelay>(&[TestDelayRequest { fence: ids::FENCE, millis: 1_500 }], &[], &[()]);
    sheet.verb::<Ssconf>(&[ssconf], &[], &[()]);
    sheet.verb::<SetRole>(&roles.map(set_role), &[], &[()]);
    sheet.verb::<Leave>(&[ids::FENCE], &[], &[()]);
    join(&mut sheet);
    sheet.covers(VERBS);
    sheet.check();
}

fn join(sheet: &mut Sheet) {
    let proof = std::array::from_fn(|at| u8::try_from(at * 8).expect("below 256"));
    let prove =
        JoinProveRequest { cluster: ids::CLUSTER, node: ids::NODE, name: "n2.example".to_owned(), proof };
    let finish = JoinFinishRequest {
        certificate: "PEM 1".to_owned(),
        ca: "PEM 2".to_owned(),
        fence: ids::FENCE,
        role: Role::Candidate,
    };
    sheet.verb::<JoinProve>(&[prove], &[], &[JoinProveReply { proof, csr: "PEM 3".to_owned() }]);
    sheet.verb::<JoinFinish>(&[finish], &[], &[()]);
}
