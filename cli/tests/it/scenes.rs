//! What the commands ask for and print, one scene each.

use crate::stage::{Ended, Stage, Turn, job};
use gantry_model::role::Role;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::{Value, json};
use std::io::Write;
use std::process::Stdio;

fn nodes(fields: Value, data: Value) -> Turn {
    Turn::Ok(json!({"fields": fields, "data": data}))
}

#[test]
fn a_list_is_a_query_and_a_table() {
    let stage = Stage::new(Role::Master);
    let fields = json!([
        {"name": "name", "title": "Node", "kind": "text", "doc": "x"},
        {"name": "role", "title": "Role", "kind": "text", "doc": "x"}
    ]);
    let data = json!([[[0, "node1.x"], [0, "M"]]]);
    let luxid = stage.luxid(vec![nodes(fields, data)]);
    let ended = stage.run("gantry node list -o name,role -F role=='M'");
    assert_eq!((ended.code, ended.out.as_str()), (Some(0), "Node    Role\nnode1.x M\n"), "{ended:?}");
    assert_eq!(luxid.heard(), [("Query".to_owned(), json!(["node", ["name", "role"], ["==", "role", "M"]]))]);
}

#[test]
fn settings_are_checked_before_a_cluster_is_made() {
    let stage = Stage::new(Role::Master);
    let ended = stage.run("gnt-cluster init --candidate-pool-size 0 lab.example.test");
    assert_eq!(ended.code, Some(2), "{ended:?}");
    assert!(ended.err.contains("candidate_pool_size"), "{ended:?}");
}

#[test]
fn help_says_what_a_family_is_for() {
    let stage = Stage::new(Role::Master);
    let ended = stage.run("gnt-node --help");
    assert!(ended.out.starts_with("The cluster's hosts\n"), "{ended:?}");
}

#[test]
fn an_unknown_field_is_warned_of_and_ends_with_14() {
    let stage = Stage::new(Role::Master);
    let fields = json!([{"name": "nosuch", "title": "nosuch", "kind": "unknown", "doc": ""}]);
    let luxid = stage.luxid(vec![nodes(fields, json!([[[1, null]]]))]);
    let ended = stage.run("gnt-node list -o nosuch");
    assert_eq!((ended.code, ended.out.as_str()), (Some(14), "nosuch\n??\n"));
    assert!(ended.err.contains("unknown fields nosuch"), "{ended:?}");
    luxid.heard();
}

#[test]
fn a_job_is_submitted_followed_and_told() {
    let stage = Stage::new(Role::Master);
    let luxid = stage.luxid(job(7, json!(["success", ["success"], [null]])));
    let ended = stage.run("gnt-debug delay --print-jobid --reason why --priority low 1.5");
    let want = "JobID: 7\nFri Nov 20 11:34:39 2026 * at work\n";
    assert_eq!((ended.code, ended.out.as_str()), (Some(0), want), "{ended:?}");
    let heard = luxid.heard();
    let methods: Vec<&str> = heard.iter().map(|(method, _)| method.as_str()).collect();
    assert_eq!(
        methods,
        ["SubmitJob", "WaitForJobChange", "WaitForJobChange", "WaitForJobChange", "QueryJobs"]
    );
    let op = &heard[0].1[0][0];
    assert_eq!(
        (&op["OP_ID"], &op["duration"], &op["priority"]),
        (&json!("OP_TEST_DELAY"), &json!(1.5), &json!(10))
    );
    assert_eq!((&op["reason"][0][1], &op["reason"][1][0]), (&json!("why"), &json!("gnt:client:gnt-debug")));
    assert!(op.as_object().unwrap().contains_key("depends"), "all parameters are sent");
    assert_eq!(heard[1].1[2], json!(null));
    assert_eq!(
        (&heard[3].1[2], &heard[3].1[3]),
        (&json!(["success"]), &json!(1)),
        "it tells what it has seen"
    );
    assert_eq!(heard[4].1, json!([[7], ["status", "opstatus", "opresult"]]));
}

#[test]
fn a_jobs_error_is_raised_in_ganetis_words() {
    let stage = Stage::new(Role::Master);
    let result = json!(["OpPrereqError", ["Node name x not found", "unknown_entity"]]);
    let luxid = stage.luxid(job(8, json!(["error", ["error"], [result]])));
    let ended = stage.run("gnt-node remove x");
    assert_eq!(ended.code, Some(1));
    let want = "Failure: prerequisites not met for this operation:\nerror type: unknown_entity, error details:\nNode name x not found\n";
    assert_eq!(ended.err, want);
    luxid.heard();
}

#[test]
fn a_refused_submission_is_told() {
    let stage = Stage::new(Role::Master);
    let luxid = stage.luxid(vec![Turn::Fail(json!(["JobQueueDrainError", ["x"]]))]);
    let ended = stage.run("gnt-debug delay 1");
    assert_eq!(ended.code, Some(1));
    assert!(ended.err.starts_with("Failure: the job queue is marked for drain"), "{ended:?}");
    luxid.heard();
}

#[test]
fn only_submitting_prints_the_number() {
    let stage = Stage::new(Role::Master);
    let luxid = stage.luxid(vec![Turn::Ok(json!(9))]);
    let ended = stage.run("gnt-debug delay --submit 1");
    assert_eq!((ended.code, ended.out.as_str()), (Some(0), "JobID: 9\n"));
    luxid.heard();
}

#[test]
fn a_luxid_that_restarts_is_asked_again_but_a_job_is_not_submitted_twice() {
    let stage = Stage::new(Role::Master);
    let mut script = job(7, json!(["success", ["success"], [null]]));
    script.insert(2, Turn::Drop);
    let luxid = stage.luxid(script);
    let ended = stage.run("gnt-debug delay 1");
    assert_eq!(ended.code, Some(0), "{ended:?}");
    let heard = luxid.heard();
    assert_eq!(heard[2], heard[3], "the same question again");

    let stage = Stage::new(Role::Master);
    let luxid = stage.luxid(vec![Turn::Drop]);
    let ended = stage.run("gnt-debug delay 1");
    assert_eq!(ended.code, Some(1));
    assert!(ended.err.contains("may have been submitted") && ended.err.contains("gnt-job list"), "{ended:?}");
    assert_eq!(luxid.heard().len(), 1);
}

#[test]
fn ctrl_c_leaves_the_job_and_says_how_to_follow_it() {
    let stage = Stage::new(Role::Master);
    let luxid = stage.luxid(vec![Turn::Ok(json!(12)), Turn::Ok(json!([["running"], []])), Turn::Silent]);
    let child = stage.command("gantry debug delay 60").spawn().unwrap();
    for _ in 0..3 {
        luxid.requests.recv().unwrap();
    }
    kill(Pid::from_raw(i32::try_from(child.id()).unwrap()), Signal::SIGINT).unwrap();
    let ended = Ended::from(child.wait_with_output().unwrap());
    assert_eq!(ended.code, Some(1));
    assert!(ended.err.contains("Job 12 goes on") && ended.err.contains("gantry job watch 12"), "{ended:?}");
}

#[test]
fn another_node_than_the_master_says_which_one_it_is() {
    let stage = Stage::new(Role::Regular);
    let ended = stage.run("gnt-job list");
    assert_eq!(ended.code, Some(1));
    assert!(ended.err.contains("not the master node"), "{ended:?}");
    std::fs::write(stage.root.ssconf("master_node"), "node1.x\n").unwrap();
    let ended = stage.run("gnt-job list");
    assert!(ended.err.contains("please connect to node 'node1.x'"), "{ended:?}");
    assert_eq!(stage.run("gnt-cluster getmaster").out, "node1.x\n");
}

/// One that has given way, and has not heard for whom, sends nobody to itself.
#[test]
fn a_node_that_was_the_master_and_knows_no_other_says_so() {
    let stage = Stage::new(Role::Candidate);
    std::fs::write(stage.root.node_toml(), "name = \"node1.x\"\naddress = \"127.0.0.1\"\n").unwrap();
    std::fs::write(stage.root.ssconf("master_node"), "node1.x\n").unwrap();
    for command in ["gnt-job list", "gnt-cluster getmaster"] {
        let ended = stage.run(command);
        assert_eq!((ended.code, ended.out.as_str()), (Some(1), ""), "{ended:?}");
        assert!(ended.err.contains("master no longer") && ended.err.contains("master-failover"), "{ended:?}");
    }
}

#[test]
fn without_a_cluster_or_without_luxid_it_says_what_to_do() {
    let stage = Stage::new(Role::Master);
    let ended = stage.run("gnt-cluster info");
    assert_eq!(ended.code, Some(1));
    assert!(
        ended.err.contains("Cannot communicate") && ended.err.contains("gantry-boot --root"),
        "{ended:?}"
    );
    std::fs::remove_file(stage.root.role_file()).unwrap();
    let ended = stage.run("gnt-cluster info");
    assert!(ended.err.contains("No cluster here") && ended.err.contains("gnt-cluster init"), "{ended:?}");
}

#[test]
fn verify_follows_its_jobs_and_fails_when_one_found_something() {
    let stage = Stage::new(Role::Master);
    let mut script = job(1, json!(["success", ["success"], [{"jobs": [[true, 2], [true, 3]]}]]));
    for clean in [true, false] {
        script.push(Turn::Ok(json!([["success"], []])));
        script.push(Turn::Ok(json!([["success", ["success"], [clean]]])));
    }
    let luxid = stage.luxid(script);
    let ended = stage.run("gnt-cluster verify");
    assert_eq!(ended.code, Some(1), "{ended:?}");
    assert!(
        ended.out.contains("Submitted jobs 2, 3\nWaiting for job 2 ...\nWaiting for job 3 ...\n"),
        "{ended:?}"
    );
    luxid.heard();
}

#[test]
fn a_node_is_added_with_the_secret_from_the_standard_input() {
    let stage = Stage::new(Role::Master);
    let mut script = vec![Turn::Ok(json!([]))];
    script.extend(job(4, json!(["success", ["success"], [null]])));
    let luxid = stage.luxid(script);
    let mut command =
        stage.command("gnt-node add --join-secret-file - --node-ip 127.0.0.12 --noded-port 1812 node2.x");
    let mut child = command.stdin(Stdio::piped()).spawn().unwrap();
    child.stdin.take().unwrap().write_all(b"abc123\n").unwrap();
    let ended = Ended::from(child.wait_with_output().unwrap());
    assert_eq!(ended.code, Some(0), "{ended:?}");
    let heard = luxid.heard();
    assert_eq!(heard[0], ("QueryNodes".to_owned(), json!([["node2.x"], ["name"], false])));
    let op = &heard[1].1[0][0];
    assert_eq!((&op["join_secret"], &op["primary_ip"]), (&json!("abc123"), &json!("127.0.0.12")));
    assert_eq!(op["noded_port"], 1812);
    let without = stage.run("gnt-node add --node-ip 127.0.0.12");
    assert_eq!(without.code, Some(2));
}

#[test]
fn canceling_prints_the_answer_and_its_exit_code() {
    let stage = Stage::new(Role::Master);
    let luxid = stage.luxid(vec![
        Turn::Ok(json!([true, "Dequeued job 5"])),
        Turn::Ok(json!([false, "Job 6 not found in queue"])),
    ]);
    let ended = stage.run("gnt-job cancel 5 6");
    assert_eq!((ended.code, ended.out.as_str()), (Some(1), "Dequeued job 5\nJob 6 not found in queue\n"));
    assert_eq!(luxid.heard()[0], ("CancelJob".to_owned(), json!([5, false])));
    assert_eq!(stage.run("gnt-job cancel --kill 5").code, Some(2), "--kill needs a word more");
}

#[test]
fn instances_are_started_by_a_job_each() {
    let stage = Stage::new(Role::Master);
    let luxid = stage.luxid(vec![
        Turn::Ok(json!([["a.x"], ["b.x"]])),
        Turn::Ok(json!([[true, 1], [false, "no"]])),
        Turn::Ok(json!([["success"], []])),
        Turn::Ok(json!([["success", ["success"], [null]]])),
    ]);
    let ended = stage.run("gnt-instance startup --force-multiple a b");
    assert_eq!((ended.code, ended.out.as_str()), (Some(1), "Waiting for job 1 for a.x ...\n"), "{ended:?}");
    assert!(ended.err.contains("Failed to submit job for b.x: no"), "{ended:?}");
    let heard = luxid.heard();
    assert_eq!((heard[1].0.as_str(), heard[1].1[0].as_array().map(Vec::len)), ("SubmitManyJobs", Some(2)));
    let refused = Stage::new(Role::Master);
    let luxid = refused.luxid(vec![Turn::Ok(json!([["a.x"], ["b.x"]]))]);
    let ended = refused.run("gnt-instance shutdown --all");
    assert_eq!(ended.code, Some(1));
    assert!(ended.err.contains("--force-multiple"), "{ended:?}");
    luxid.heard();
}

#[test]
fn a_job_that_is_gone_is_told_by_watch() {
    let stage = Stage::new(Role::Master);
    let luxid = stage.luxid(vec![Turn::Fail(json!(["JobLost", ["Can't load job file"]]))]);
    let ended = stage.run("gnt-job watch 99");
    assert_eq!(ended.code, Some(1));
    assert_eq!(ended.out, "Output from job 99 follows\n--------------------------\n");
    assert_eq!(ended.err, "Job 99 failed: Error checking job status: Can't load job file\n");
    luxid.heard();
}

#[test]
fn a_cluster_in_use_is_not_destroyed() {
    let stage = Stage::new(Role::Master);
    assert_eq!(stage.run("gnt-cluster destroy").code, Some(2));
    let luxid = stage.luxid(vec![Turn::Ok(json!([])), Turn::Ok(json!([["n1", true], ["n2", false]]))]);
    let ended = stage.run("gnt-cluster destroy --yes-do-it");
    assert_eq!(ended.code, Some(1));
    assert!(ended.err.contains("1 other node(s) in this cluster (n2)"), "{ended:?}");
    luxid.heard();
    let stage = Stage::new(Role::Master);
    let busy = nodes(json!([{"name": "id", "title": "ID", "kind": "number", "doc": ""}]), json!([[[0, 17]]]));
    let luxid = stage.luxid(vec![Turn::Ok(json!([])), Turn::Ok(json!([["n1", true]])), busy]);
    let ended = stage.run("gnt-cluster destroy --yes-do-it");
    assert!(ended.err.contains("1 unfinished job(s) (17)"), "{ended:?}");
    luxid.heard();
}

/// Slots of pools are no instances to their users: the command that is named must work.
#[test]
fn what_keeps_a_cluster_from_being_destroyed_is_named_with_what_removes_it() {
    for (instances, wanted) in [
        (
            json!([["po-1"], ["po-2"]]),
            "1 pool(s) with slots in this cluster (po); remove them first with \"gnt-pool remove NAME\"",
        ),
        (
            json!([["po-1"], ["own"]]),
            "1 instance(s) in this cluster (own); remove them first with \"gnt-instance remove NAME\"",
        ),
    ] {
        let stage = Stage::new(Role::Master);
        let field = |name: &str| json!({"name": name, "title": name, "kind": "text", "doc": ""});
        let rows = json!([[[0, "po-1"], [0, "po"]], [[0, "po-2"], [0, "po"]]]);
        let slots = nodes(json!([field("name"), field("pool")]), rows);
        let luxid = stage.luxid(vec![Turn::Ok(instances), slots]);
        let ended = stage.run("gnt-cluster destroy --yes-do-it");
        assert_eq!(ended.code, Some(1));
        assert!(ended.err.contains(wanted), "{ended:?}");
        luxid.heard();
    }
}

#[test]
fn init_refuses_what_cannot_work_before_it_makes_anything() {
    let stage = Stage::new(Role::Master);
    let ended = stage.run("gnt-cluster init --address 127.0.0.11 c.x");
    assert!(ended.err.contains("already belongs to a cluster"), "{ended:?}");
    std::fs::remove_file(stage.root.role_file()).unwrap();
    assert!(stage.run("gnt-cluster init c.x").err.contains("--address IP"));
    assert!(
        stage.run("gnt-cluster init --address 127.0.0.11 no/name").err.contains("formed like a host name")
    );
}

#[test]
fn a_root_named_by_an_option_stands_in_what_it_tells_to_type() {
    let stage = Stage::new(Role::Master);
    let root = stage.root.path().display();
    let ended = stage.run(&format!("gnt-cluster init --root {root} --address 127.0.0.11 c.x"));
    assert!(ended.err.contains(&format!("\"gnt-cluster destroy --yes-do-it --root {root}\"")), "{ended:?}");
    let ended = stage.run("gantry daemon status");
    assert_eq!(ended.code, Some(1));
    assert!(ended.err.contains(&format!("gantry-boot --root {root} --daemonize")), "{ended:?}");
}

#[test]
fn completion_and_manual_pages_are_made() {
    let stage = Stage::new(Role::Master);
    assert!(stage.run("gantry completion bash").out.contains("complete -F"));
    let dir = stage.root.path().join("man");
    assert_eq!(stage.run(&format!("gantry man {}", dir.display())).code, Some(0));
    assert!(dir.join("gnt-node-list.1").exists() && dir.join("gantry.1").exists());
    assert!(stage.run("gantry").out.contains("gantry cluster"));
}
