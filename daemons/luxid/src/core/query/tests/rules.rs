//! Classic queries, jobs, locks, tags, configuration values.

use super::*;
use crate::core::query::{JobFields, JobsNeed, QueueFlags, TagKind, config_values, query_fields, tags};
use gantry_model::ids::{JobId, JobOwner, StartNo};
use gantry_model::job::{Job, OpState, Phase, Status};
use gantry_model::time::Ts;
use gantry_proto::wconfd::{LockRow, Want};

fn classic(kind: Kind, names: &[&str], fields: &[&str]) -> Result<Value, GanetiError> {
    let query = Query::named(kind, &strings(names), &strings(fields), false)?;
    Ok(plain(&query.plan(&with(&[], &[]))?.finish(Inputs::default())?))
}

#[test]
fn classic_queries_match_names_and_uuids() {
    let by_uuid = uuid(2).to_string();
    let seen =
        classic(Kind::Node, &["node10", "x", "node1.test", &by_uuid, "node2"], &["name", "mfree"]).unwrap();
    assert_eq!(seen, json!([["node1.test", null], ["node2.test", null], ["node10.test", null]]));
    let group = uuid(100).to_string();
    assert_eq!(classic(Kind::Group, &[&group, "default"], &["name"]).unwrap(), json!([["default"]]));
    assert_eq!(classic(Kind::Group, &["def"], &["name"]).unwrap(), json!([]));
    let error = classic(Kind::Node, &[], &["name", "nix"]).unwrap_err();
    assert_eq!(
        error.to_value(),
        json!(["OpPrereqError", ["Unknown output fields selected: nix", "wrong_input"]])
    );
    let error = Query::named(Kind::Node, &[], &strings(&["name"]), true).unwrap_err();
    assert_eq!(error.to_value(), json!(["OpPrereqError", ["Sync queries are not allowed", "wrong_input"]]));
    assert_eq!(
        classic(Kind::Export, &[], &["node", "export"]).unwrap(),
        json!([["node4.test", null]]),
        "offline"
    );
}

#[test]
fn unsupported_kinds_say_so() {
    for kind in [Kind::Cluster, Kind::Os] {
        assert_eq!(query(kind, &["name"], &json!(null)).unwrap_err().class, "GenericError");
        assert_eq!(query_fields(kind, &[]).unwrap_err().class, "GenericError");
        assert_eq!(Kind::parse(kind.as_str()), Some(kind));
    }
    let named = query_fields(Kind::Job, &strings(&["id", "nix"])).unwrap();
    let seen = serde_json::to_value(named).unwrap();
    assert_eq!(
        (&seen["fields"][0]["kind"], &seen["fields"][1]["kind"]),
        (&json!("number"), &json!("unknown"))
    );
    assert_eq!(seen["fields"][1]["title"], "nix");
}

fn job(number: u64, status: Status) -> Arc<Job> {
    let input = serde_json::from_value(json!({ "OP_ID": "OP_TEST_DELAY", "duration": 1.0 })).unwrap();
    let op = OpState { status, priority: -10, ..OpState::new(input) };
    Arc::new(Job {
        id: JobId(number),
        ops: vec![op],
        received_timestamp: Ts(100 + number, 5),
        start_timestamp: None,
        end_timestamp: None,
        phase: Phase::Queued,
        archived: false,
        had_secrets: false,
        process_id: None,
        seen_w: 0,
        class: gantry_model::job::Class::default(),
        key: None,
        attempt: None,
    })
}

fn jobs(filter: Value, fields: &[&str]) -> (JobsNeed, Value) {
    let config = Arc::new(Snapshot::default());
    let plan = query(Kind::Job, fields, &filter).unwrap().plan(&config).unwrap();
    let need = plan.needs().jobs.clone();
    let inputs = Inputs { jobs: vec![job(4, Status::Queued), job(2, Status::Running)], ..Inputs::default() };
    (need, data(&plan.finish(inputs).unwrap()))
}

#[test]
fn jobs_are_found_by_id_or_filter() {
    let ids = |ids: &[u64]| JobsNeed::Ids(ids.iter().copied().map(JobId).collect());
    let filter = json!(["|", ["==", "id", 4], ["==", "id", "9"], ["==", "id", 4]]);
    assert_eq!(
        jobs(filter, &["id", "status"]),
        (ids(&[4, 9]), json!([[[0, 4], [0, "queued"]], [[0, 9], [3, null]]]))
    );
    assert_eq!(jobs(json!(["==", "status", "running"]), &["id"]), (JobsNeed::Live, json!([[[0, 2]]])));
    assert_eq!(jobs(json!([">=", "received_ts", 104]), &["id"]).1, json!([[[0, 4]]]));
    assert_eq!(jobs(json!(["=[]", "opstatus", "running"]), &["id"]).1, json!([[[0, 2]]]));
    assert_eq!(jobs(json!(null), &["id", "archived"]).0, JobsNeed::All);
    assert_eq!(jobs(json!(["!", ["?", "archived"]]), &["id"]).0, JobsNeed::All);
    let (_, all) = jobs(json!(null), &["id", "summary", "priority", "start_ts", "opstart"]);
    assert_eq!(all[0], json!([[0, 2], [0, ["TEST_DELAY(1.0)"]], [0, -10], [0, null], [0, [null]]]));
    let nothing = Arc::new(Snapshot::default());
    let error = rows(&nothing, Kind::Job, &["id"], json!(["&", ["==", "id", "4"]]));
    assert_eq!(error.unwrap(), json!([]), "no job to compare with");
    let plan = query(Kind::Job, &["id"], &json!(["&", ["==", "id", "4"]])).unwrap().plan(&nothing).unwrap();
    let error = plan.finish(Inputs { jobs: vec![job(4, Status::Queued)], ..Inputs::default() }).unwrap_err();
    assert_eq!(error.class, "ParameterError");
}

#[test]
fn classic_job_queries_find_ids() {
    let nothing = Arc::new(Snapshot::default());
    let run = |ids: &[u64]| {
        let ids: Vec<JobId> = ids.iter().copied().map(JobId).collect();
        let plan = Query::jobs(&ids, &strings(&["id", "status"])).unwrap().plan(&nothing).unwrap();
        let need = plan.needs().jobs.clone();
        let jobs = vec![job(4, Status::Success)];
        (need, plain(&plan.finish(Inputs { jobs, ..Inputs::default() }).unwrap()))
    };
    assert_eq!(
        run(&[9, 4, 9]),
        (JobsNeed::Ids(vec![JobId(9), JobId(4)]), json!([[9, null], [4, "success"]]))
    );
    assert_eq!(run(&[]), (JobsNeed::Live, json!([[4, "success"]])));
    assert_eq!(Query::jobs(&[], &strings(&["nix"])).unwrap_err().class, "OpPrereqError");
    let fields = JobFields::new(&strings(&["status", "opstatus", "id"])).unwrap();
    assert_eq!(json!(fields.values(&job(4, Status::Error))), json!(["error", ["error"], 4]));
    assert_eq!(
        class_and_code(&JobFields::new(&strings(&["nix"])).unwrap_err()),
        ("OpPrereqError", Some("wrong_input"))
    );
}

#[test]
fn locks_are_shown_as_ganeti_shows_them() {
    let owner = |job| JobOwner { job: JobId(job), start: StartNo { epoch: 1, run: 1, counter: job } };
    let row = |name: &str, mode, owners: &[u64], pending| LockRow {
        name: name.to_owned(),
        mode,
        owners: owners.iter().map(|job| owner(*job)).collect(),
        pending,
    };
    let locks = vec![
        row("node/x", Some(Want::Exclusive), &[82], vec![(Want::Exclusive, owner(83))]),
        row("node/[lockset]", None, &[], vec![]),
        row("cluster/BGL", Some(Want::Shared), &[82, 83], vec![]),
    ];
    let fields = ["name", "mode", "owner", "pending"];
    let ask = |filter: Value| {
        let plan = query(Kind::Lock, &fields, &filter).unwrap().plan(&Arc::new(Snapshot::default())).unwrap();
        assert!(plan.needs().locks);
        data(&plan.finish(Inputs { locks: locks.clone(), ..Inputs::default() }).unwrap())
    };
    assert_eq!(
        ask(json!(null)),
        json!([
            [[0, "cluster/BGL"], [0, "shared"], [0, ["82", "83"]], [0, []]],
            [[0, "node/[lockset]"], [0, null], [0, []], [0, []]],
            [[0, "node/x"], [0, "exclusive"], [0, ["82"]], [0, [["exclusive", ["83"]]]]],
        ])
    );
    assert_eq!(ask(json!(["==", "mode", "shared"])).as_array().unwrap().len(), 1);
    assert_eq!(ask(json!(["==", "name", "nix"])), json!([]));
}

#[test]
fn tags_and_values_are_read_from_the_configuration() {
    let mut one = instance(200, "i.test", 1);
    one.stamp.tags.extend(strings(&["b", "a"]));
    let config = with(&[one], &[]);
    assert_eq!(tags(&config, TagKind::Instance, "i").unwrap(), ["a", "b"]);
    assert!(tags(&config, TagKind::Cluster, "").unwrap().is_empty());
    for kind in [TagKind::Instance, TagKind::Node, TagKind::Group, TagKind::Network] {
        let error = tags(&config, kind, "nix").unwrap_err();
        assert_eq!(class_and_code(&error), ("OpPrereqError", Some("unknown_entity")));
    }
    let names =
        strings(&["cluster_name", "master_node", "drain_flag", "watcher_pause", "ssh_key_bits", "nix"]);
    let flags = QueueFlags { drained: true, watcher_pause: Some(9.5), now: 9.0 };
    let seen = config_values(&config, flags, &names).unwrap();
    assert_eq!(json!(seen), json!(["c.test", "node1.test", true, 9, 2048, null]));
    let over = QueueFlags { now: 9.5, ..flags };
    assert_eq!(config_values(&config, over, &names).unwrap()[3], Value::Null);
}

#[test]
fn networks_and_rules_are_read_from_json() {
    let mut all = base();
    let network = json!({
        "uuid": uuid(150), "name": "lan", "network": "192.0.2.0/29", "gateway": "192.0.2.1",
        "reservations": "11000000", "ext_reservations": "10000001", "tags": [], "serial_no": 3,
    });
    all.push(put(kind::NETWORK, &uuid(150).to_string(), &network));
    let rule = json!({ "uuid": "r", "priority": 2, "watermark": 7, "predicates": [], "action": "PAUSE", "reason_trail": [] });
    all.push(put(kind::FILTER, "r", &rule));
    let config = snapshot(all);
    let fields =
        ["name", "map", "free_count", "reserved_count", "external_reservations", "gateway6", "group_cnt"];
    let plan = query(Kind::Network, &fields, &json!(["==", "name", "lan"])).unwrap().plan(&config).unwrap();
    assert_eq!(
        data(&plan.finish(Inputs::default()).unwrap()),
        json!([[
            [0, "lan"],
            [0, "XX.....X"],
            [0, 5],
            [0, 3],
            [0, "192.0.2.0, 192.0.2.7"],
            [3, null],
            [0, 0]
        ]])
    );
    assert_eq!(
        rows(&config, Kind::Filter, &["uuid", "action"], json!(null)).unwrap(),
        json!([["r", "PAUSE"]])
    );
}

#[test]
fn groups_merge_their_parameters() {
    let mut all = base();
    let mut group = defaults::group(GroupUuid(uuid(100)), "default", 1.0);
    group.ipolicy = serde_json::from_value(json!({ "std": { "cpu-count": 3 }, "vcpu-ratio": 2.0 })).unwrap();
    group.ndparams.insert("ssh_port".to_owned(), json!(2222));
    all.push(put(kind::GROUP, &uuid(100).to_string(), &group));
    all.push(put(kind::INSTANCE, &uuid(200).to_string(), &instance(200, "i10", 2)));
    all.push(put(kind::INSTANCE, &uuid(201).to_string(), &instance(201, "i9", 1)));
    let config = snapshot(all);
    let fields = ["ipolicy", "node_cnt", "pinst_cnt", "pinst_list", "ndp/ssh_port", "custom_ndparams"];
    let seen = rows(&config, Kind::Group, &fields, json!(null)).unwrap();
    let row = &seen[0];
    assert_eq!((&row[0]["std"]["cpu-count"], &row[0]["std"]["memory-size"]), (&json!(3), &json!(128)));
    assert_eq!((&row[0]["vcpu-ratio"], &row[0]["minmax"][0]["max"]["cpu-count"]), (&json!(2.0), &json!(64)));
    assert_eq!((&row[1], &row[2], &row[3]), (&json!(5), &json!(2), &json!(["i9", "i10"])));
    assert_eq!((&row[4], &row[5]), (&json!(2222), &json!({ "ssh_port": 2222 })));
    let seen = rows(&config, Kind::Node, &["ndp/ssh_port", "powered", "role"], json!(null)).unwrap();
    assert_eq!(seen[0], json!([2222, null, "M"]));
}
