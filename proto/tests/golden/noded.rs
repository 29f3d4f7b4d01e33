//! NodeD's verbs.

use crate::sheet::{Sheet, ids};
use gantry_model::ids::Generation;
use gantry_model::role::Role;
use gantry_proto::noded::{
    self, Audit, AuditReply, Bytes, Claim, ClaimRequest, CommandEnd, ImageKeep, ImageKeepRequest, ImagePut,
    ImagePutRequest, Inventory, JoinFinish, JoinFinishRequest, JoinProve, JoinProveReply, JoinProveRequest,
    Leave, NodeInfo, NodeInfoReply, OpenLimits, OutputPiece, PieceReply, SetRole, SetRoleRequest, SlotFacts,
    Ssconf, SsconfRequest, Stream, TestDelay, TestDelayRequest, VERBS, VmCancel, VmClose, VmCommandRef,
    VmCreate, VmCreateReply, VmCreateRequest, VmDestroy, VmDestroyReply, VmExec, VmExecReply, VmExecRequest,
    VmFacts, VmGet, VmGetReply, VmGetRequest, VmLeaseRef, VmOpen, VmOpenRequest, VmPut, VmPutRequest, VmRef,
    VmSignal, VmSignalRequest, VmSpec, VmState, VmUsage, VmWait, VmWaitRequest, Why,
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

fn crypto(sheet: &mut Sheet) {
    let ca = noded::TrustedCa { print: [7; 32], ends: 7_226_582_400, pem: "PEM 1".to_owned() };
    let of = |issuer, key| noded::CryptoReply {
        state: [8; 32],
        trust: vec![ca.clone(), ca.clone()],
        issuer,
        ends: -1,
        key,
        hmac: key,
        role: Role::Candidate,
    };
    sheet.verb::<noded::Crypto>(&[()], &[], &[of(Some([7; 32]), Some([6; 32])), of(None, None)]);
    sheet.verb::<noded::CryptoAsk>(&[ids::FENCE], &[], &["PEM 2".to_owned()]);
    let store = [
        noded::CryptoChange::Trust("PEM 3".to_owned()),
        noded::CryptoChange::Key("PEM 4".to_owned()),
        noded::CryptoChange::Certificate("PEM 5".to_owned()),
        noded::CryptoChange::Hmac("ab".to_owned()),
    ]
    .map(|change| noded::CryptoStoreRequest { fence: ids::FENCE, seen: [8; 32], change });
    sheet.verb::<noded::CryptoStore>(&store, &[], &[()]);
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
        image_digest: Some("ab".repeat(32)),
        pids: 64,
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
    let limits = OpenLimits { memory_mib: 128, pids: 32, disk_mib: 16 };
    let open = [None, Some(limits)].map(|limits| VmOpenRequest { at: lease, limits });
    sheet.verb::<VmOpen>(&open, &[], &[()]);
    sheet.verb::<VmClose>(&[lease], &[], &[()]);
    sheet.verb::<TestDelay>(&[TestDelayRequest { fence: ids::FENCE, millis: 1_500 }], &[], &[()]);
    sheet.verb::<Ssconf>(&[ssconf], &[], &[()]);
    sheet.verb::<SetRole>(&roles.map(set_role), &[], &[()]);
    sheet.verb::<Leave>(&[ids::FENCE], &[], &[()]);
    join(&mut sheet);
    work(&mut sheet, lease);
    images(&mut sheet);
    crate::copies::samples(&mut sheet);
    crate::effects::samples(&mut sheet);
    let files = vec![("ca.pem".to_owned(), "PEM".to_owned())];
    sheet.verb::<noded::Secrets>(&[noded::SecretsRequest { fence: ids::FENCE, files }], &[], &[()]);
    let have = noded::SsconfHaveReply { index: 300, digests: vec![("cluster_name".to_owned(), [9; 32])] };
    sheet.verb::<noded::SsconfHave>(&[()], &[], &[have]);
    crypto(&mut sheet);
    sheet.covers(VERBS);
    sheet.check();
}

/// What a lease does in its VM.
fn work(sheet: &mut Sheet, at: VmLeaseRef) {
    let of = || VmCommandRef { at, exec: "5555.1.0".to_owned() };
    let exec = VmExecRequest {
        of: of(),
        argv: vec!["/bin/true".to_owned()],
        env: vec![("A".to_owned(), "b".to_owned())],
        cwd: Some("/tmp".to_owned()),
        stdin: vec![1, 2],
        output_bytes_max: 1_048_576,
        wall_ms: 60_000,
        cpu_ms: 50_000,
    };
    let end = CommandEnd { why: Why::Exit(3), wall_ms: 1, cpu_us: 2, memory_peak_bytes: 3, truncated: true };
    let piece = |stream| OutputPiece { stream, offset: 300, bytes: vec![9, 8] };
    let put = VmPutRequest {
        at,
        upload: "input".to_owned(),
        path: "a/b".to_owned(),
        offset: 300,
        bytes: vec![7],
        last: true,
    };
    let get = VmGetRequest { at, path: "out".to_owned(), settle: true, bytes_max: 70_000 };
    let got = VmGetReply { files: vec![("a".to_owned(), 300)], refused: 2 };
    let usage = gantry_proto::vmd::VmUsage { cpu_us: 300, ..Default::default() };
    sheet.verb::<VmExec>(&[exec], &[], &[VmExecReply { known: true }]);
    let wait = VmWaitRequest { of: of(), out: Some(300), err: None };
    sheet.verb::<VmWait>(&[wait], &[Stream::Out, Stream::Err].map(piece), &[end]);
    sheet.verb::<VmSignal>(&[VmSignalRequest { to: of(), signal: 15 }], &[], &[()]);
    sheet.verb::<VmCancel>(&[of()], &[], &[()]);
    sheet.verb::<VmPut>(&[put], &[], &[PieceReply { next: 301, done: true }]);
    sheet.verb::<VmGet>(&[get], &[Bytes { bytes: vec![5] }], &[got]);
    sheet.verb::<VmUsage>(&[VM], &[], &[usage]);
}

fn images(sheet: &mut Sheet) {
    let digest = "ab".repeat(32);
    let put =
        ImagePutRequest { fence: ids::FENCE, digest: digest.clone(), offset: 1, bytes: vec![2], last: false };
    let keep = ImageKeepRequest { fence: ids::FENCE, digests: vec![digest] };
    let audit = AuditReply {
        killed: vec!["gantry-1".to_owned()],
        failed: vec![("gantry-2".to_owned(), "why".to_owned())],
        seen: 3,
    };
    sheet.verb::<ImagePut>(&[put], &[], &[PieceReply { next: 2, done: false }]);
    sheet.verb::<ImageKeep>(&[keep], &[], &[()]);
    sheet.verb::<Audit>(&[ids::FENCE], &[], &[audit]);
    sheet.verb::<noded::VmCheck>(&[VM], &[], &[()]);
    sheet.verb::<noded::Losses>(&[ids::FENCE], &slots(), &[()]);
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
