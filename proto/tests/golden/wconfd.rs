//! WConfD's verbs.

use crate::sheet::{Sheet, ids};
use gantry_model::config::{AdminState, Group, Instance, Node, Params};
use gantry_model::ids::{BlueprintUuid, Generation, PoolUuid, TaskId};
use gantry_model::lease::LeaseOwner;
use gantry_proto::codec::Json;
use gantry_proto::wconfd::{
    Apply, ApplyReply, ApplyRequest, CaNext, CaNextReply, CaNextRequest, CertSign, CertSignReply,
    CertSignRequest, Check, CheckRequest, Command, ConfirmMaster, CopyStatus, FreeScope, LearnerInQ, ListInQ,
    ListInQRequest, LockBlocked, LockFree, LockFreeRequest, LockPriority, LockPriorityRequest, LockRequest,
    LockRow, LockRows, LockUpdate, MemberChange, MemberChangeReply, MemberChangeRequest, MemberDrop,
    MemberDropRequest, MemberProgress, Members, MembersReply, NodeState, NodeStates, Object, OwnerGone,
    Owners, Read, ReadKey, ReadReply, SsconfValues, SsconfValuesReply, Status, StatusReply, TagTarget, VERBS,
    Want, Watch, WatchChange, WatchItem, WatchRequest,
};
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use std::collections::BTreeSet;

fn text(text: &str) -> String {
    text.to_owned()
}

fn of<T: DeserializeOwned>(value: Value) -> T {
    serde_json::from_value(value).expect("a sample of that type")
}

fn node() -> Node {
    of(json!({
        "uuid": ids::NODE, "name": "n1.example", "primary_ip": "127.0.0.1", "secondary_ip": "127.0.0.1",
        "master_candidate": true, "offline": false, "drained": false, "group": ids::GROUP, "master_capable": true,
        "vm_capable": true, "powered": true, "noded_port": 1811, "serial_no": 1, "ctime": 1.5, "mtime": 2.5,
    }))
}

fn group() -> Group {
    of(json!({
        "uuid": ids::GROUP, "name": "default", "alloc_policy": "preferred", "serial_no": 1, "ctime": 1.5, "mtime": 2.5,
    }))
}

fn instance() -> Instance {
    of(json!({
        "uuid": ids::SLOT, "name": "i1.example", "primary_node": ids::NODE, "os": "noop", "hypervisor": "fake",
        "admin_state": "up", "admin_state_source": "admin", "disk_template": "diskless",
        "serial_no": 1, "ctime": 1.5, "mtime": 2.5,
    }))
}

fn set() -> Params {
    let mut set = Params::new();
    set.insert(text("name"), json!("new"));
    set
}

fn config_commands() -> Vec<Command> {
    let (rev, node, group, instance) = (Some(3), Box::new(node()), Box::new(group()), Box::new(instance()));
    vec![
        Command::ClusterSet { rev, set: set() },
        Command::NodeAdd { node },
        Command::NodeRemove { node: ids::NODE },
        Command::NodeSet { node: ids::NODE, rev: None, set: set() },
        Command::GroupAdd { group },
        Command::GroupRemove { group: ids::GROUP },
        Command::GroupSet { group: ids::GROUP, rev, set: set() },
        Command::GroupAssign { group: ids::GROUP, nodes: vec![ids::NODE] },
        Command::InstanceAdd { instance },
        Command::InstanceRemove { instance: ids::SLOT },
        Command::InstanceSetState { instance: ids::SLOT, state: AdminState::Down, source: text("user") },
        Command::InstanceSet { instance: ids::SLOT, rev, set: set() },
    ]
}

fn tag_commands() -> Vec<Command> {
    let tags: BTreeSet<String> = ["a", "b"].map(text).into();
    let targets = [
        TagTarget::Cluster,
        TagTarget::Node(ids::NODE),
        TagTarget::Group(ids::GROUP),
        TagTarget::Instance(ids::SLOT),
    ];
    targets
        .into_iter()
        .flat_map(|target| {
            let add = Command::TagsAdd { target: target.clone(), tags: tags.clone() };
            [add, Command::TagsDel { target, tags: tags.clone() }]
        })
        .collect()
}

fn slot_commands() -> Vec<Command> {
    let (slot, generation, holder) = (ids::SLOT, Generation(3), ids::OWNER);
    vec![
        Command::SlotBegin { slot, expected: Generation(2), holder },
        Command::SlotReady { slot, generation },
        Command::SlotDirty { slot, generation, why: text("test") },
        Command::SlotBeginDestroy { slot, generation, holder },
        Command::SlotAbsent { slot, generation, floor: Generation(4) },
        Command::SlotAdd { instance: Box::new(instance()) },
        Command::SlotRemove { slot },
        Command::SlotDrain { slot, drained: true },
        Command::SlotUnstick { slot },
    ]
}

fn pool_commands() -> Vec<Command> {
    let (blueprint, pool) = (BlueprintUuid(ids::HISTORY), PoolUuid(ids::HISTORY));
    let stamp = json!({"serial_no": 1, "ctime": 1.5, "mtime": 2.5});
    let with = |own: Value| {
        let mut all = stamp.as_object().expect("an object").clone();
        all.extend(own.as_object().expect("an object").clone());
        Value::Object(all)
    };
    let made = with(json!({
        "uuid": blueprint, "name": "b", "driver": "oci", "image": "host", "memory_mib": 256, "vcpus": 1, "disk_mib": 64,
        "pids": 64, "wall_s_max": 60, "lease_s_max": 3600, "enabled": true,
    }));
    let kept = with(json!({
        "uuid": pool, "name": "p", "blueprint": blueprint, "min": 0, "max": 4, "amount": 4, "connect_timeout_s": 60,
    }));
    let image = with(json!({"name": "i", "digest": "ab".repeat(32), "bytes": 300}));
    vec![
        Command::BlueprintAdd { blueprint: of(made) },
        Command::BlueprintSet { blueprint, rev: Some(3), set: set() },
        Command::BlueprintRemove { blueprint },
        Command::PoolAdd { pool: of(kept) },
        Command::PoolSet { pool, rev: None, set: set() },
        Command::PoolRemove { pool },
        Command::ImageAdd { image: of(image) },
        Command::ImageRemove { name: text("i") },
    ]
}

fn lease_commands() -> Vec<Command> {
    let (lease, slot, generation) = (ids::LEASE, ids::SLOT, Generation(3));
    let grab = |owner, ttl_ms| Command::LeaseGrab {
        lease,
        owner,
        pool: text("p"),
        count: 2,
        for_ms: 60_000,
        ttl_ms,
    };
    vec![
        grab(LeaseOwner::Task { task: TaskId(7), attempt: 1 }, None),
        grab(LeaseOwner::User { name: text("u") }, Some(5_000)),
        Command::LeaseRenew { lease },
        Command::LeaseOpen { lease, slot, generation },
        Command::LeaseEnd { lease, why: text("released") },
        Command::LeaseDestroy { lease, slot, generation, holder: ids::OWNER },
        Command::LeaseForget { leases: vec![lease] },
        Command::LeaseReturn { lease, lost: vec![(slot, Generation(3))] },
    ]
}

fn all_commands() -> Vec<Command> {
    [config_commands(), tag_commands(), slot_commands(), pool_commands(), lease_commands()].concat()
}

/// One request for each command, so that a change shows which one it is.
fn applies() -> Vec<ApplyRequest> {
    let commands = all_commands();
    let request = |owner, seq, commands: Vec<Command>| ApplyRequest {
        owner,
        seq,
        commands: Json::of(&commands).expect("JSON"),
    };
    let each = commands.into_iter().map(|command| request(Some(ids::OWNER), 300, vec![command]));
    each.chain([request(None, 0, vec![])]).collect()
}

/// Grows with [`Command`]: a new variant does not compile here, and belongs into the samples above.
fn assert_sampled(command: &Command) {
    match command {
        Command::ClusterSet { .. }
        | Command::NodeAdd { .. }
        | Command::NodeRemove { .. }
        | Command::NodeSet { .. }
        | Command::GroupAdd { .. }
        | Command::GroupRemove { .. }
        | Command::GroupSet { .. }
        | Command::GroupAssign { .. }
        | Command::InstanceAdd { .. }
        | Command::InstanceRemove { .. }
        | Command::InstanceSetState { .. }
        | Command::InstanceSet { .. }
        | Command::TagsAdd { .. }
        | Command::TagsDel { .. }
        | Command::SlotBegin { .. }
        | Command::SlotReady { .. }
        | Command::SlotDirty { .. }
        | Command::SlotBeginDestroy { .. }
        | Command::SlotAbsent { .. }
        | Command::SlotAdd { .. }
        | Command::SlotRemove { .. }
        | Command::SlotDrain { .. }
        | Command::SlotUnstick { .. }
        | Command::BlueprintAdd { .. }
        | Command::BlueprintSet { .. }
        | Command::BlueprintRemove { .. }
        | Command::PoolAdd { .. }
        | Command::PoolSet { .. }
        | Command::PoolRemove { .. }
        | Command::ImageAdd { .. }
        | Command::ImageRemove { .. }
        | Command::LeaseGrab { .. }
        | Command::LeaseRenew { .. }
        | Command::LeaseOpen { .. }
        | Command::LeaseEnd { .. }
        | Command::LeaseDestroy { .. }
        | Command::LeaseReturn { .. }
        | Command::LeaseForget { .. } => {}
    }
}

fn locks(sheet: &mut Sheet) {
    let wants = [Want::Shared, Want::Exclusive, Want::Release].map(|want| (text("node/n1"), want));
    let update = LockRequest { owner: ids::OWNER, priority: -5, wants: wants.to_vec() };
    let blocked = LockBlocked { by: vec![ids::OWNER], text: text("node/n1 held by job 300") };
    let scopes = [FreeScope::All, FreeScope::Level(text("node")), FreeScope::Keep(vec![text("node/n1")])];
    let row = |mode| LockRow {
        name: text("node/n1"),
        mode,
        owners: vec![ids::OWNER],
        pending: vec![(Want::Exclusive, ids::OWNER)],
    };
    sheet.verb::<LockUpdate>(&[update], &[blocked], &[()]);
    sheet.verb::<LockFree>(&scopes.map(|scope| LockFreeRequest { owner: ids::OWNER, scope }), &[], &[()]);
    sheet.verb::<LockPriority>(&[LockPriorityRequest { owner: ids::OWNER, priority: 19 }], &[], &[()]);
    sheet.verb::<LockRows>(&[()], &[], &[vec![row(None), row(Some(Want::Shared))]]);
    sheet.verb::<OwnerGone>(&[ids::OWNER], &[], &[()]);
    sheet.verb::<Owners>(&[vec![], vec![ids::OWNER]], &[], &[()]);
}

fn config(sheet: &mut Sheet) {
    let keys = vec![
        ReadKey::Key(text("node"), text("u")),
        ReadKey::Name(text("node"), text("n1")),
        ReadKey::Kind(text("group")),
        ReadKey::InstancesOf(ids::NODE),
        ReadKey::SlotWhole(ids::SLOT),
    ];
    let object = Object { kind: text("node"), key: text("u"), rev: 3, body: text("{}") };
    let change = |body| WatchChange { kind: text("node"), key: text("u"), rev: 3, body };
    let items = [
        WatchItem::Reset { index: 300, history: ids::HISTORY },
        WatchItem::Chunk(vec![change(Some(text("{}")))]),
        WatchItem::Loaded,
        WatchItem::Batch { index: 301, changes: vec![change(None)] },
    ];
    let watches =
        [WatchRequest { from: 0, history: None }, WatchRequest { from: 300, history: Some(ids::HISTORY) }];
    all_commands().iter().for_each(assert_sampled);
    let applied = ApplyReply { index: 300, results: Json::of(&vec![Value::Null, json!("x")]).expect("JSON") };
    sheet.verb::<Read>(&[keys], &[], &[ReadReply { index: 300, objects: vec![object] }]);
    sheet.verb::<Apply>(&applies(), &[], &[applied]);
    sheet.verb::<Watch>(&watches, &items, &[()]);
}

fn members(sheet: &mut Sheet) {
    let change = |join, set: &Params, also: &Vec<Command>| MemberChangeRequest {
        owner: ids::OWNER,
        node: ids::NODE,
        join,
        set: Json::of(set).expect("JSON"),
        also: Json::of(also).expect("JSON"),
    };
    let changes = [
        change(true, &set(), &vec![]),
        change(false, &Params::new(), &vec![Command::NodeRemove { node: ids::NODE }]),
    ];
    let progress = MemberProgress { text: text("node2 lacks 1200 rows of the queue") };
    let copy = |suspect: Option<String>| CopyStatus {
        node: ids::NODE,
        name: text("n1.example"),
        copy_id: ids::HISTORY,
        learner: suspect.is_none(),
        matched: 70_000,
        lag: 300,
        answered_ms_ago: suspect.is_none().then_some(20),
        suspect,
        why: text("refused"),
    };
    let copies = vec![copy(None), copy(Some(text("shows an old token")))];
    let values = SsconfValuesReply { index: 300, values: vec![(text("cluster_name"), text("c\n"))] };
    sheet.verb::<MemberChange>(&changes, &[progress], &[MemberChangeReply { index: 300 }]);
    sheet.verb::<Members>(&[()], &[], &[MembersReply { n: 3, settled: true, copies }]);
    let learner = Some(LearnerInQ { copy_id: uuid::Uuid::from_u128(9), matched: 7, last: 1_007 });
    let told = [ListInQRequest { n: 4, learner: None }, ListInQRequest { n: 5, learner }];
    sheet.verb::<ListInQ>(&told, &[], &[()]);
    sheet.verb::<ConfirmMaster>(&[()], &[], &[()]);
    sheet.verb::<SsconfValues>(&[()], &[], &[values]);
    sheet.verb::<MemberDrop>(
        &[MemberDropRequest { node: ids::NODE }],
        &[],
        &[MemberChangeReply { index: 300 }],
    );
}

#[test]
fn wconfd_keeps_its_bytes() {
    let status =
        StatusReply { cluster: ids::CLUSTER, node: ids::NODE, fence: ids::FENCE, run: 70_000, index: 300 };
    let sign = CertSignRequest { owner: ids::OWNER, node: ids::NODE, csr: text("PEM 1") };
    let signed = CertSignReply { certificate: text("PEM 2"), ca: text("PEM 3") };
    let state = NodeState { node: ids::NODE, claimed: true, why: text("") };
    let mut sheet = Sheet::new("wconfd");
    sheet.verb::<Status>(&[()], &[], &[status]);
    locks(&mut sheet);
    config(&mut sheet);
    sheet.verb::<CertSign>(&[sign], &[], &[signed]);
    sheet.verb::<NodeStates>(&[()], &[], &[vec![state]]);
    members(&mut sheet);
    let next = [None, Some([7; 32])].map(|wanted| CaNextRequest { owner: ids::OWNER, wanted });
    let made = CaNextReply { print: [7; 32], certificate: text("PEM 4"), key: text("PEM 5") };
    sheet.verb::<CaNext>(&next, &[], &[made]);
    let check = CheckRequest { owner: ids::OWNER, commands: Json::of(&vec![]).unwrap() };
    sheet.verb::<Check>(&[check], &[], &[()]);
    sheet.covers(VERBS);
    sheet.check();
}
