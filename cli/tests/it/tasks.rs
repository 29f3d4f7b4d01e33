//! Scenes of tasks.

use crate::stage::{Ended, Stage, Turn, signal, table};
use crate::streamd::{Acts, Streamd};
use gantry_model::role::Role;
use gantry_proto::noded::Stream;
use gantry_proto::stream::{LogPlace, TaskLogPiece};
use nix::sys::signal::Signal;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::io::Read;
use std::path::Path;

/// A task as luxid answers it.
fn task(id: u64, state: u8, why: Option<&str>) -> Value {
    json!({
        "id": id, "rev": 5, "state": state, "why": why, "received": [10, 0],
        "spec": {"name": "hello", "pool": "py", "execute": [{"command": "true"}]},
    })
}

fn write(dir: &Path, name: &str, text: &str) {
    let path = dir.join(name);
    std::fs::create_dir_all(path.parent().unwrap()).unwrap();
    std::fs::write(path, text).unwrap();
}

/// Names and contents of an archive.
fn unpacked(bytes: &[u8]) -> BTreeMap<String, String> {
    let mut archive = tar::Archive::new(bytes);
    let one = |entry: std::io::Result<tar::Entry<'_, &[u8]>>| {
        let mut entry = entry.unwrap();
        let mut text = String::new();
        entry.read_to_string(&mut text).unwrap();
        (entry.path().unwrap().display().to_string(), text)
    };
    archive.entries().unwrap().map(one).collect()
}

/// Limits that leave nothing to ask the server for.
const LIMITS: &str = "limits = {wall_s = 5, memory_mib = 64, pids = 9, disk_mib = 9}\n";

#[test]
fn limits_not_given_are_those_of_the_pools_machines() {
    let stage = Stage::new(Role::Master);
    let dir = stage.root.path().join("t");
    write(&dir, "task.toml", "pool = 'py'\nexecute = 'true'\ninput = []\n");
    let _streamd = Streamd::new(&stage, Acts::default());
    let fields = ["wall_max", "memory", "pids", "disk"];
    let luxid = stage.luxid(vec![
        table(&["blueprint"], json!([["small"]])),
        table(&fields, json!([[3600, 128, 64, 32]])),
        Turn::Ok(json!(7)),
    ]);
    let ended = stage.run(&format!("gnt-task submit {}", dir.display()));
    assert_eq!((ended.code, ended.out.as_str()), (Some(0), "TaskID: 7\n"), "{ended:?}");
    let heard = luxid.heard();
    assert_eq!(heard[1].1, json!(["blueprint", fields, ["&", ["==", "name", "small"], [">=", "pids", 0]]]));
    let limits = &heard[2].1[0]["limits"];
    assert_eq!((&limits["memory_mib"], &limits["disk_mib"]), (&json!(128), &json!(32)), "{limits}");
}

#[test]
fn a_directory_is_packed_uploaded_and_submitted() {
    let stage = Stage::new(Role::Master);
    let dir = stage.root.path().join("t");
    let text = "pool = 'py'\nname = 'hello'\nexecute = 'python3 a.py'\nlabels = ['x']\n";
    write(&dir, "task.toml", &format!("{text}{LIMITS}"));
    write(&dir, "a.py", "print(1)");
    write(&dir, "sub/task.toml", "kept");
    let streamd = Streamd::new(&stage, Acts::default());
    let luxid = stage.luxid(vec![Turn::Ok(json!(7)), Turn::Ok(json!(8)), Turn::Ok(json!(9))]);
    let ended = stage.run(&format!("gnt-task submit {}", dir.display()));
    assert_eq!((ended.code, ended.out.as_str()), (Some(0), "TaskID: 7\n"), "{ended:?}");
    let ended = stage.run(&format!("gnt-task submit --json --key k --pool other {}", dir.display()));
    assert_eq!((ended.code, ended.out.as_str()), (Some(0), "{\"id\":8}\n"), "{ended:?}");
    let text = "pool = 'py'\nexecute = ['true', {command = 'false'}]\ninput = ['sub']\n";
    write(&dir, "b.toml", &format!("{text}{LIMITS}"));
    assert_eq!(stage.run(&format!("gnt-task submit {}/b.toml", dir.display())).out, "TaskID: 9\n");
    let heard = luxid.heard();
    assert!(heard.iter().all(|(method, _)| method == "SubmitTask"));
    let (first, second, third) = (&heard[0].1[0], &heard[1].1[0], &heard[2].1[0]);
    assert_eq!((&first["pool"], &first["execute"][0]["command"]), (&json!("py"), &json!("python3 a.py")));
    assert!(first["key"].as_str().unwrap().starts_with("gnt-task-"), "drawn");
    assert_eq!((&second["pool"], &second["key"]), (&json!("other"), &json!("k")));
    assert_eq!(first["input"], second["input"], "the same files are the same body");
    streamd.acts(|acts| {
        let body = &acts.blobs[first["input"]["digest"].as_str().unwrap()];
        assert_eq!(first["input"]["bytes"], json!(body.len()));
        let names: Vec<String> = unpacked(body).into_keys().collect();
        assert_eq!(names, ["a.py", "sub/", "sub/task.toml"], "without the task file itself");
        assert_eq!(
            acts.puts.iter().filter(|(_, bytes)| *bytes > 0).count(),
            2,
            "what is there is not sent again"
        );
        let body = &acts.blobs[third["input"]["digest"].as_str().unwrap()];
        assert_eq!(unpacked(body).into_keys().collect::<Vec<_>>(), ["sub/", "sub/task.toml"]);
    });
}

#[test]
fn a_broken_upload_goes_on_where_it_was() {
    let stage = Stage::new(Role::Master);
    let dir = stage.root.path().join("t");
    write(&dir, "task.toml", &format!("pool = 'py'\nexecute = 'true'\n{LIMITS}"));
    write(&dir, "big", &"x".repeat(5 << 19));
    let streamd = Streamd::new(&stage, Acts { break_at: Some(3), ..Acts::default() });
    let luxid = stage.luxid(vec![Turn::Ok(json!(7))]);
    let ended = stage.run(&format!("gnt-task submit {}", dir.display()));
    assert_eq!((ended.code, ended.out.as_str()), (Some(0), "TaskID: 7\n"), "{ended:?}");
    let input = luxid.heard()[0].1[0]["input"].clone();
    streamd.acts(|acts| {
        let offsets: Vec<u64> = acts.puts.iter().map(|(offset, _)| *offset).collect();
        assert_eq!(offsets, [0, 0, 1 << 20, 1 << 20, 2 << 20], "the piece that broke comes again, no other");
        assert_eq!(json!(acts.blobs[input["digest"].as_str().unwrap()].len()), input["bytes"]);
    });
}

#[test]
fn bad_task_files_and_inputs_are_refused_by_name() {
    let stage = Stage::new(Role::Master);
    let dir = stage.root.path().join("t");
    write(&dir, "a.py", "x");
    for (text, says) in [
        ("pool = 'py'\nexecut = 'x'\n", "line 2"),
        ("pool = 'py'\nexecut = 'x'\n", "unknown field `execut`"),
        ("execute = 'x'\n", "names no pool; add a line pool"),
        ("pool = 'p'\nexecute = 'x'\ninput = '../t'\n", "'../t' is not a plain path"),
        ("pool = 'p'\nexecute = 'x'\ninput = ['/etc/passwd']\n", "'/etc/passwd' is not a plain path"),
        ("pool = 'p'\nexecute = 'x'\ninput = '/'\n", "'/' is not a plain path"),
        ("pool = 'p'\nexecute = 'x'\ninput = ['b/./a.py']\n", "'b/./a.py' is not a plain path"),
        ("pool = 'p'\nexecute = 'x'\ninput = ['none']\n", "none: No such file"),
        ("pool = 'p'\nexecute = []\n", "1 to 256 execute steps"),
        ("pool = 'p'\nexecute = 'x'\nmax_attempts = 99\n", "max_attempts must be 1 to 10"),
    ] {
        write(&dir, "task.toml", text);
        let ended = stage.run(&format!("gnt-task submit {}", dir.display()));
        assert_eq!(ended.code, Some(1), "{text}: {ended:?}");
        assert!(ended.err.contains(says), "{text}: {ended:?}");
    }
    write(&dir, "task.toml", "pool = 'py'\nexecute = 'true'\n");
    let link = dir.join("link");
    std::os::unix::fs::symlink("a.py", &link).unwrap();
    let ended = stage.run(&format!("gnt-task submit {}", dir.display()));
    assert!(ended.err.contains(&format!("{} is a symbolic link", link.display())), "{ended:?}");
    std::fs::remove_file(&link).unwrap();
    std::fs::File::create(&link).unwrap().set_len((256 << 20) + 1).unwrap();
    let ended = stage.run(&format!("gnt-task submit {}", dir.display()));
    assert!(ended.err.contains("over 256 MiB"), "{ended:?}");
    let ended = stage.run("gnt-task submit .");
    assert!(ended.err.contains("task.toml") && ended.err.contains("gnt-task submit --help"), "{ended:?}");
}

#[test]
fn waiting_says_why_and_fails_unless_all_succeeded() {
    let stage = Stage::new(Role::Master);
    let luxid = stage.luxid(vec![
        Turn::Ok(task(7, 0, Some("no clean slot in pool py, 3 creating"))),
        Turn::Ok(task(8, 5, None)),
        Turn::Ok(Value::Null),
        Turn::Ok(task(7, 3, None)),
        Turn::Ok(task(7, 4, Some("step 2: memory limit"))),
    ]);
    let ended = stage.run("gnt-task wait 7 8");
    let want = "Task 7 (hello) run-failed: step 2: memory limit\nTask 8 (hello) success\n";
    assert_eq!((ended.code, ended.out.as_str()), (Some(1), want), "{ended:?}");
    let first =
        "2 tasks: 1 pending, 1 success; Task 7 (hello) pending: no clean slot in pool py, 3 creating\n";
    let second = "2 tasks: 1 running, 1 success; Task 7 (hello) running\n";
    assert_eq!(ended.err, format!("{first}{second}"));
    assert_eq!(luxid.heard()[2], ("WaitForTaskChange".to_owned(), json!([7, 5, 89])));
    let stage = Stage::new(Role::Master);
    let luxid = stage.luxid(vec![Turn::Ok(task(8, 5, None)), Turn::Ok(Value::Null)]);
    assert_eq!(stage.run("gnt-task wait 8").code, Some(0));
    luxid.requests.recv().unwrap();
    let ended = stage.run("gnt-task wait 9");
    assert_eq!(ended.code, Some(1));
    assert!(ended.err.contains("Task 9 does not exist; look with \"gnt-task list\""), "{ended:?}");
    luxid.heard();
}

#[test]
fn ctrl_c_ends_the_waiting_and_leaves_the_task() {
    let stage = Stage::new(Role::Master);
    let luxid = stage.luxid(vec![Turn::Ok(task(7, 0, None)), Turn::Silent]);
    let child = stage.command("gnt-task wait 7").spawn().unwrap();
    for _ in 0..2 {
        luxid.requests.recv().unwrap();
    }
    signal(&child, Signal::SIGINT);
    let ended = Ended::from(child.wait_with_output().unwrap());
    assert_eq!(ended.code, Some(1));
    assert!(ended.err.contains("gnt-task wait 7") && ended.err.contains("gnt-task cancel 7"), "{ended:?}");
    assert!(luxid.heard().is_empty(), "nothing is cancelled");
}

#[test]
fn tasks_are_listed_cancelled_and_run_again() {
    let stage = Stage::new(Role::Master);
    let fields = ["id", "name", "pool", "status", "why", "slot", "attempts", "wall", "cpu", "memory"];
    let row = json!([[7, "hello", "py", "pending", "no clean slot", null, 0, null, null, null]]);
    let luxid = stage.luxid(vec![
        table(&["id", "status"], json!([[7, "pending"], [8, null]])),
        table(&fields, row),
        Turn::Ok(json!([true, "Task 7 is cancelled"])),
        Turn::Ok(json!([false, "Task 8 has ended"])),
        Turn::Ok(json!([[true, 9], [false, "it has not ended"]])),
    ]);
    let ended = stage.run("gnt-task list 7 8");
    let want = "\
id name  pool status  why           slot attempts wall cpu memory
7  hello py   pending no clean slot -    0        -    -   None
";
    assert_eq!(ended.out, want, "{ended:?}");
    assert_eq!((ended.code, ended.err.as_str()), (Some(1), "Task 8 does not exist\n"));
    let ended = stage.run("gnt-task cancel 7 8");
    assert_eq!((ended.code, ended.out.as_str()), (Some(1), "Task 7 is cancelled\nTask 8 has ended\n"));
    let ended = stage.run("gnt-task rerun 7 8");
    assert_eq!((ended.code, ended.out.as_str()), (Some(1), "TaskID: 9 (task 7 again)\n"));
    assert_eq!(ended.err, "Task 8 is not run again: it has not ended\n");
    let heard = luxid.heard();
    assert_eq!(heard[1].1, json!(["task", fields, ["|", ["==", "id", 7]]]));
    assert_eq!(heard[4], ("RerunTasks".to_owned(), json!([[7, 8]])));
    assert_eq!(stage.run("gnt-task cancel x").code, Some(2));
}

fn piece(step: u32, stream: Stream, text: &str) -> TaskLogPiece {
    let bytes = text.as_bytes().to_vec();
    TaskLogPiece { attempt: 1, step, name: step.to_string(), stream, offset: 0, bytes }
}

#[test]
fn a_log_goes_to_both_streams() {
    let stage = Stage::new(Role::Master);
    let pieces = vec![
        piece(0, Stream::Err, "cc\n"),
        piece(1, Stream::Out, "hello\n"),
        piece(1, Stream::Err, "oops\n"),
        piece(2, Stream::Out, "bye\n"),
    ];
    let acts =
        Acts { logs: (Vec::new(), pieces), log_end: (4, "step 2: exit 1".to_owned()), ..Acts::default() };
    let streamd = Streamd::new(&stage, acts);
    let ended = stage.run("gnt-task log 7");
    assert_eq!((ended.code, ended.out.as_str(), ended.err.as_str()), (Some(0), "hello\nbye\n", "cc\noops\n"));
    let luxid = stage.luxid(vec![Turn::Ok(task(7, 4, None)), Turn::Ok(task(7, 4, None))]);
    let ended = stage.run("gnt-task log 7 --step 0");
    assert_eq!((ended.code, ended.out.as_str()), (Some(1), ""));
    assert_eq!(ended.err, "Task 7 has no step 0; its steps are 1 to 1\n");
    let ended = stage.run("gnt-task log -f 7 --step 1 --stream out");
    assert_eq!((ended.out.as_str(), ended.err.as_str()), ("hello\n", "Task 7 run-failed: step 2: exit 1\n"));
    let mut reason = piece(1, Stream::Out, "");
    reason.name = "step 1 has not begun yet".to_owned();
    streamd.acts(|acts| acts.logs.1 = vec![reason.clone(), reason, piece(1, Stream::Out, "hi\n")]);
    let ended = stage.run("gnt-task log -f 7");
    assert_eq!(ended.out, "hi\n");
    assert_eq!(ended.err, "Waiting: step 1 has not begun yet\nTask 7 run-failed: step 2: exit 1\n");
    let asked = streamd.acts(|acts| acts.logs.0.clone());
    assert_eq!((asked[0].follow, asked[0].from), (false, LogPlace::default()));
    assert_eq!((asked[1].follow, asked[1].from.step), (true, 1));
    assert_eq!(luxid.heard().len(), 2);
}

fn digest(bytes: &[u8]) -> String {
    use sha2::{Digest, Sha256};
    Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect()
}

/// A final task with a compile step, an execute step and an artifact; and its bodies.
fn ended_task() -> (Value, BTreeMap<String, Vec<u8>>) {
    let mut builder = tar::Builder::new(Vec::new());
    let mut header = tar::Header::new_gnu();
    header.set_size(3);
    header.set_mode(0o644);
    builder.append_data(&mut header, "r/result.txt", &b"ok\n"[..]).unwrap();
    let (archive, out) = (builder.into_inner().unwrap(), vec![0xff; 2000]);
    let (in_store, of_archive) = (digest(&out), digest(&archive));
    let step = |name: &str, compile: bool, out: Value| {
        json!({
            "name": name, "compile": compile, "why": "exit", "exit": 0, "wall_ms": 1500, "cpu_us": 250_000,
            "memory_peak_bytes": 3_145_728, "out": out, "err": {"bytes": 5, "text": "warn\n"},
        })
    };
    let mut task = task(7, 5, None);
    task["spec"]["compile"] = json!({"command": "make"});
    task["attempts"] = json!([{
        "number": 1, "lease": uuid::Uuid::nil(), "slot_name": "py-1", "job": 3, "outcome": "user-ok",
        "start": [11, 0], "end": [12, 0]
    }]);
    task["result"] = json!({
        "steps": [step("make", true, json!({"bytes": 0})), step("run", false, json!({"bytes": 2000, "digest": in_store}))],
        "artifacts": [{"path": "r/result.txt", "bytes": 3}],
        "archive": {"digest": of_archive, "bytes": archive.len()},
        "cpu_us": 500_000, "wall_ms": 3000, "memory_peak_bytes": 3_145_728,
    });
    (task, BTreeMap::from([(in_store, out), (of_archive, archive)]))
}

#[test]
fn info_shows_attempts_steps_and_artifacts() {
    let stage = Stage::new(Role::Master);
    let (task, _) = ended_task();
    let luxid = stage.luxid(vec![Turn::Ok(task), Turn::Ok(Value::Null)]);
    let ended = stage.run("gnt-task info 7 8");
    assert_eq!((ended.code, ended.err.as_str()), (Some(1), "Task 8 not found\n"), "{ended:?}");
    for part in [
        "- Task: 7\n  Name: hello\n  Status: success\n",
        "    - Attempt: 1 of 3\n      Outcome: user-ok\n      Why: -\n      Slot: py-1\n",
        "    - Step: 0 make\n      End: exit (0)\n      Use: wall 1.500 s, cpu 0.250 s, memory 3.0 MiB\n",
        "    - Step: 1 run\n",
        "      Output: 2.0 KiB out, 5 bytes err\n",
        "  Artifacts: \n    - r/result.txt (3 bytes)\n",
    ] {
        assert!(ended.out.contains(part), "{part}\n{}", ended.out);
    }
    luxid.heard();
}

#[test]
fn results_are_fetched_into_files_and_overwrite_none() {
    let stage = Stage::new(Role::Master);
    let (ended_task, blobs) = ended_task();
    let luxid = stage.luxid(vec![
        Turn::Ok(ended_task.clone()),
        Turn::Ok(ended_task.clone()),
        Turn::Ok(ended_task),
        Turn::Ok(task(9, 0, Some("waits"))),
    ]);
    let _streamd = Streamd::new(&stage, Acts { blobs, ..Acts::default() });
    let dir = stage.root.path().join("res");
    std::fs::write(stage.root.path().join("file"), "mine").unwrap();
    let ended = stage.run(&format!("gnt-task fetch 7 {}/file", stage.root.path().display()));
    assert!(ended.err.contains("is a file; name the directory that task 7's results come into"), "{ended:?}");
    let line = format!("gnt-task fetch 7 {}", dir.display());
    let ended = stage.run(&line);
    assert_eq!(ended.code, Some(0), "{ended:?}");
    assert!(ended.out.starts_with("Fetched the outputs of 2 steps and 1 artifact into "), "{ended:?}");
    assert_eq!(std::fs::read_to_string(dir.join("out/r/result.txt")).unwrap(), "ok\n");
    assert_eq!(std::fs::read(dir.join("step-1.stdout")).unwrap(), vec![0xff; 2000]);
    assert_eq!(std::fs::read_to_string(dir.join("step-0.stderr")).unwrap(), "warn\n");
    let ended = stage.run(&line);
    assert_eq!(ended.code, Some(1));
    assert!(ended.err.contains("is there already") && ended.err.contains("--force"), "{ended:?}");
    assert_eq!(stage.run(&format!("{line} --force")).code, Some(0));
    let ended = stage.run(&format!("gnt-task fetch 9 {}", dir.display()));
    assert!(ended.err.contains("there is no result to fetch.\nWait for its end first."), "{ended:?}");
    luxid.heard();
}

#[test]
fn a_damaged_body_is_told() {
    let stage = Stage::new(Role::Master);
    let (task, mut blobs) = ended_task();
    blobs.values_mut().for_each(|body| body[0] ^= 1);
    let luxid = stage.luxid(vec![Turn::Ok(task)]);
    let _streamd = Streamd::new(&stage, Acts { blobs, ..Acts::default() });
    let ended = stage.run(&format!("gnt-task fetch 7 {}/res", stage.root.path().display()));
    assert_eq!(ended.code, Some(1));
    assert!(ended.err.contains("arrived damaged"), "{ended:?}");
    luxid.heard();
}
