//! Scenes of leases.

use crate::stage::{Ended, Luxid, Stage, Turn, signal, table};
use crate::streamd::{Acts, Streamd};
use gantry_model::role::Role;
use gantry_proto::noded::Why;
use nix::sys::signal::Signal;
use serde_json::{Value, json};
use std::io::Read;
use std::process::Stdio;

const LEASE: &str = "3f0c9a52-0000-4000-8000-000000000001";

fn request(state: &str, why: Option<&str>) -> Turn {
    let (names, nodes) =
        if state == "granted" { (json!(["py-1"]), json!(["node1.x"])) } else { (json!([]), json!([])) };
    Turn::Ok(json!({"state": state, "why": why, "names": names, "nodes": nodes}))
}

/// The methods and arguments that came.
fn methods(luxid: Luxid) -> Vec<(String, Value)> {
    luxid.heard()
}

#[test]
fn a_granted_lease_is_printed() {
    let stage = Stage::new(Role::Master);
    let why = "no clean slot in pool py, 3 creating; 2nd in line";
    let luxid = stage.luxid(vec![
        Turn::Ok(json!("x")),
        request("waiting", Some(why)),
        request("waiting", Some(why)),
        request("granted", None),
    ]);
    let ended = stage.run("gnt-lease acquire py -n 1 --for 90m --user ann --priority high");
    assert_eq!(ended.code, Some(0), "{ended:?}");
    assert_eq!(ended.err, format!("Waiting: {why}\n"), "said once");
    let heard = methods(luxid);
    let asked = &heard[0].1[0];
    assert_eq!(ended.out, format!("{}\npy-1 node1.x\n", asked["uuid"].as_str().unwrap()));
    let uuid = asked["uuid"].clone();
    let want = json!({
        "uuid": uuid, "pool": "py", "count": 1, "for_s": 5400, "ttl_s": null, "user": "ann", "priority": -10
    });
    assert_eq!((heard[0].0.as_str(), asked), ("LeaseRequest", &want));
    assert_eq!(heard[1], ("WaitForLease".to_owned(), json!([uuid, null, 2])));
    assert_eq!(heard[2].1, json!([uuid, "waiting", 2]));
}

#[test]
fn a_signal_before_the_grant_withdraws_the_request() {
    for number in [Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP] {
        let stage = Stage::new(Role::Master);
        let luxid =
            stage.luxid(vec![Turn::Ok(json!("x")), Turn::Silent, Turn::Ok(json!([true, "withdrawn"]))]);
        let child = stage.command("gnt-lease acquire py -- true").spawn().unwrap();
        let asked = luxid.requests.recv().unwrap()["args"][0]["uuid"].clone();
        luxid.requests.recv().unwrap();
        signal(&child, number);
        let ended = Ended::from(child.wait_with_output().unwrap());
        assert_eq!(ended.code, Some(1), "{ended:?}");
        assert!(ended.err.contains(&format!("{number}: the request is withdrawn")), "{ended:?}");
        assert_eq!(methods(luxid), [("LeaseRelease".to_owned(), json!([asked]))]);
    }
}

#[test]
fn a_request_without_an_answer_is_withdrawn() {
    let stage = Stage::new(Role::Master);
    let luxid = stage.luxid(vec![Turn::Silent, Turn::Ok(json!([true, "withdrawn"]))]);
    let child = stage.command("gnt-lease acquire py").spawn().unwrap();
    let asked = luxid.requests.recv().unwrap()["args"][0]["uuid"].clone();
    signal(&child, Signal::SIGINT);
    let ended = Ended::from(child.wait_with_output().unwrap());
    assert!(ended.code == Some(1) && ended.err.contains("the request is withdrawn"), "{ended:?}");
    assert_eq!(methods(luxid), [("LeaseRelease".to_owned(), json!([asked]))]);

    let stage = Stage::new(Role::Master);
    let mut script: Vec<Turn> = (0..15).map(|_| Turn::Drop).collect();
    script.push(Turn::Ok(json!([true, "withdrawn"])));
    let luxid = stage.luxid(script);
    let ended = stage.run("gnt-lease acquire py");
    assert!(ended.code == Some(1) && ended.err.contains("connection to luxid broke"), "{ended:?}");
    let heard = methods(luxid);
    assert_eq!(heard.last().unwrap(), &("LeaseRelease".to_owned(), json!([heard[0].1[0]["uuid"]])));
}

#[test]
fn who_does_not_answer_the_withdrawal_is_not_waited_for_after_a_second_signal() {
    let stage = Stage::new(Role::Master);
    let luxid = stage.luxid(vec![Turn::Silent, Turn::Silent]);
    let child = stage.command("gnt-lease acquire py").spawn().unwrap();
    for _ in 0..2 {
        luxid.requests.recv().unwrap();
        signal(&child, Signal::SIGINT);
    }
    let ended = Ended::from(child.wait_with_output().unwrap());
    assert!(ended.code == Some(1) && ended.err.contains("could not be withdrawn: SIGINT"), "{ended:?}");
}

#[test]
fn a_refused_request_is_not_withdrawn() {
    let stage = Stage::new(Role::Master);
    let luxid = stage.luxid(vec![Turn::Fail(json!(["OpPrereqError", ["no such pool", "unknown_entity"]]))]);
    let ended = stage.run("gnt-lease acquire py");
    assert!(ended.code == Some(1) && ended.err.ends_with("no such pool\n"), "{ended:?}");
    assert_eq!(methods(luxid).len(), 1);
}

#[test]
fn a_signal_ends_who_is_asked_for_input() {
    use std::io::Write;
    use std::os::unix::process::ExitStatusExt;
    let stage = Stage::new(Role::Master);
    let mut command = stage.command(&format!("gnt-lease exec {LEASE} --stdin - -- cat"));
    let mut child = command.stdin(Stdio::piped()).spawn().unwrap();
    // More than a pipe takes: once it is written the program reads.
    child.stdin.as_mut().unwrap().write_all(&[b'x'; 200_000]).unwrap();
    signal(&child, Signal::SIGINT);
    assert_eq!(child.wait().unwrap().signal(), Some(2));
}

#[test]
fn a_lease_that_nobody_learns_of_is_released() {
    let stage = Stage::new(Role::Master);
    let script = vec![Turn::Ok(json!("x")), request("granted", None), Turn::Ok(json!([true, "released"]))];
    let luxid = stage.luxid(script);
    let mut child = stage.command("gnt-lease acquire py").spawn().unwrap();
    drop(child.stdout.take());
    assert_eq!(child.wait().unwrap().code(), Some(1));
    assert_eq!(methods(luxid)[2].0, "LeaseRelease");
}

#[test]
fn who_reads_only_the_first_line_keeps_the_lease() {
    let stage = Stage::new(Role::Master);
    let luxid = stage.luxid(vec![Turn::Ok(json!("x")), request("granted", None)]);
    // One write of a short text to a pipe arrives whole.
    let mut child = stage.command("gnt-lease acquire py").spawn().unwrap();
    let mut bytes = [0; 4096];
    let n = child.stdout.as_mut().unwrap().read(&mut bytes).unwrap();
    drop(child.stdout.take());
    assert_eq!(child.wait().unwrap().code(), Some(0));
    assert!(bytes[..n].ends_with(b"\npy-1 node1.x\n"), "all in one piece");
    assert!(methods(luxid).iter().all(|(method, _)| method != "LeaseRelease"));
}

#[test]
fn no_lease_in_time_or_never_is_told_and_withdrawn() {
    let stage = Stage::new(Role::Master);
    let luxid = stage.luxid(vec![
        Turn::Ok(json!("x")),
        request("over", Some("pool py is draining")),
        Turn::Ok(json!([false, "it is over"])),
        Turn::Fail(json!(["OpPrereqError", ["Pool nosuch not known", "unknown_entity"]])),
    ]);
    let ended = stage.run("gnt-lease acquire py");
    assert_eq!((ended.code, ended.err.as_str()), (Some(1), "No lease in pool py: pool py is draining\n"));
    let ended = stage.run("gnt-lease acquire nosuch");
    assert!(ended.code == Some(1) && ended.err.contains("Pool nosuch not known"), "{ended:?}");
    methods(luxid);
    let stage = Stage::new(Role::Master);
    let luxid = stage.luxid(vec![Turn::Ok(json!("x")), Turn::Ok(json!([true, "withdrawn"]))]);
    let ended = stage.run("gnt-lease acquire py --timeout 0");
    assert_eq!(ended.code, Some(1));
    assert!(ended.err.contains("No lease in pool py in time\nThe request is withdrawn."), "{ended:?}");
    assert_eq!(methods(luxid)[1].0, "LeaseRelease");
    for line in
        ["gnt-lease acquire py --for 25h", "gnt-lease acquire py --ttl 1s", "gnt-lease acquire py -n 65"]
    {
        assert_eq!(stage.run(line).code, Some(2), "{line}");
    }
}

#[test]
fn a_lease_is_held_while_a_command_runs() {
    let stage = Stage::new(Role::Master);
    let luxid = stage.luxid(vec![
        Turn::Ok(json!("x")),
        request("granted", None),
        Turn::Ok(json!([true, "released"])),
    ]);
    let mut command = stage.command("gnt-lease acquire py --");
    let ended = Ended::from(command.args(["sh", "-c", "echo $GANTRY_LEASE; exit 7"]).output().unwrap());
    assert_eq!(ended.code, Some(7), "{ended:?}");
    let heard = methods(luxid);
    let uuid = &heard[0].1[0]["uuid"];
    assert_eq!((&heard[0].1[0]["ttl_s"], ended.out.trim()), (&json!(60), uuid.as_str().unwrap()));
    assert_eq!(heard[2], ("LeaseRelease".to_owned(), json!([uuid])));
    let luxid = Stage::new(Role::Master);
    let script = vec![Turn::Ok(json!("x")), request("granted", None), Turn::Ok(json!([true, "released"]))];
    let (stage, luxid) = {
        let script = luxid.luxid(script);
        (luxid, script)
    };
    let ended = stage.run("gnt-lease acquire py -- /nosuch/program");
    assert!(ended.code == Some(1) && ended.err.contains("cannot run /nosuch/program"), "{ended:?}");
    assert_eq!(methods(luxid)[2].0, "LeaseRelease", "also when it cannot be started");
}

#[test]
fn a_held_lease_is_renewed_and_signals_are_passed_on() {
    let stage = Stage::new(Role::Master);
    let luxid = stage.luxid(vec![
        Turn::Ok(json!("x")),
        request("granted", None),
        Turn::Fail(json!(["OpExecError", ["can't renew the lease now, try again"]])),
        Turn::Ok(json!(true)),
        Turn::Ok(json!([true, "released"])),
    ]);
    let mut command = stage.command("gnt-lease acquire py --ttl 5s -- cat");
    let mut child = command.stdin(Stdio::piped()).spawn().unwrap();
    let _open = child.stdin.take();
    let words: Vec<String> =
        (0..4).map(|_| luxid.requests.recv().unwrap()["method"].as_str().unwrap().to_owned()).collect();
    assert_eq!(words, ["LeaseRequest", "WaitForLease", "LeaseRenew", "LeaseRenew"]);
    signal(&child, Signal::SIGTERM);
    let ended = Ended::from(child.wait_with_output().unwrap());
    assert_eq!(ended.code, Some(128 + 15), "the command got it: {ended:?}");
    assert_eq!(methods(luxid)[0].0, "LeaseRelease");
}

#[test]
fn a_lease_that_ends_ends_the_command() {
    let stage = Stage::new(Role::Master);
    let luxid = stage.luxid(vec![
        Turn::Ok(json!("x")),
        request("granted", None),
        Turn::Fail(json!(["OpPrereqError", ["the lease is broken: node1.x is lost", "wrong_state"]])),
        Turn::Ok(json!([true, "released"])),
    ]);
    let mut command = stage.command("gnt-lease acquire py --ttl 5s -- cat");
    let mut child = command.stdin(Stdio::piped()).spawn().unwrap();
    let _open = child.stdin.take();
    let ended = Ended::from(child.wait_with_output().unwrap());
    assert_eq!(ended.code, Some(1), "{ended:?}");
    assert!(
        ended.err.contains("is over, the command is ended") && ended.err.contains("node1.x is lost"),
        "{ended:?}"
    );
    methods(luxid);
}

#[test]
fn leases_are_found_by_their_beginning() {
    let stage = Stage::new(Role::Master);
    let other = "3f0d0000-0000-4000-8000-000000000002";
    let rows = || table(&["uuid", "owner", "pool"], json!([[LEASE, "ann", "py"], [other, "bob", "py"]]));
    let luxid = stage.luxid(vec![
        rows(),
        Turn::Ok(json!([true, "Lease is released"])),
        rows(),
        rows(),
        rows(),
        Turn::Ok(json!(true)),
        Turn::Ok(json!(true)),
    ]);
    let ended = stage.run("gnt-lease release 3F0C");
    assert_eq!((ended.code, ended.out.as_str()), (Some(0), "Lease is released\n"), "{ended:?}");
    let ended = stage.run("gnt-lease release 3f0");
    assert!(ended.code == Some(1) && ended.err.contains(&format!("  {other} of bob")), "{ended:?}");
    let ended = stage.run("gnt-lease release ff");
    assert!(ended.code == Some(1) && ended.err.contains("No lease begins with 'ff'"), "{ended:?}");
    assert_eq!(stage.run("gnt-lease renew 3f0c").code, Some(0));
    assert_eq!(stage.run(&format!("gnt-lease renew {LEASE}")).code, Some(0));
    assert_eq!(stage.run("gnt-lease renew xyz").code, Some(2));
    let heard = methods(luxid);
    assert_eq!(heard[1], ("LeaseRelease".to_owned(), json!([LEASE])));
    assert_eq!(heard[5], ("LeaseRenew".to_owned(), json!([LEASE])));
    assert_eq!(heard[6], ("LeaseRenew".to_owned(), json!([LEASE])), "a whole uuid needs no search");
}

#[test]
fn leases_are_listed_and_shown() {
    let stage = Stage::new(Role::Master);
    let fields = ["uuid", "owner", "pool", "state", "vms", "ends_in", "why"];
    let list = table(&fields, json!([[LEASE, "ann", "py", "active", ["py-1", "py-2"], 3599.5, null]]));
    let fields = ["uuid", "owner", "pool", "state", "why", "vms", "nodes", "since", "ends_in", "ttl"];
    let info = table(&fields, json!([[LEASE, "ann", "py", "active", null, ["py-1"], ["n1"], 10, 60, null]]));
    let luxid = stage.luxid(vec![list, info]);
    let ended = stage.run("gnt-lease list");
    let want = format!(
        "uuid{:32} owner pool state  vms       ends_in why\n{LEASE} ann   py   active py-1,py-2 3600s   -\n",
        ""
    );
    assert_eq!(ended.out, want);
    let ended = stage.run(&format!("gnt-lease info {LEASE}"));
    assert!(
        ended.out.contains("  Machines: py-1\n  Nodes: n1\n  Since: 1970-01-01 00:00:10\n  Ends in: 60s\n"),
        "{ended:?}"
    );
    methods(luxid);
}

#[test]
fn a_commands_output_and_exit_code_come_through() {
    let stage = Stage::new(Role::Master);
    let output = (b"hello\n".to_vec(), b"oops\n".to_vec());
    let streamd = Streamd::new(&stage, Acts { output, end: Some(Why::Exit(3)), ..Acts::default() });
    let file = stage.root.path().join("in");
    std::fs::write(&file, "input").unwrap();
    let line = format!(
        "gnt-lease exec {LEASE} --cwd work --env A=b=c --wall 2m --stdin {} -- python3 -c x",
        file.display()
    );
    let ended = stage.run(&line);
    assert_eq!((ended.code, ended.out.as_str(), ended.err.as_str()), (Some(3), "hello\n", "oops\n"));
    streamd.acts(|acts| {
        let exec = &acts.execs[0];
        assert_eq!((exec.lease.to_string().as_str(), exec.vm, exec.wall_ms), (LEASE, 0, 120_000));
        assert_eq!((exec.argv.join(" ").as_str(), exec.cwd.as_deref()), ("python3 -c x", Some("work")));
        assert_eq!(
            (exec.env.as_slice(), exec.stdin.as_slice()),
            (&[("A".to_owned(), "b=c".to_owned())][..], &b"input"[..])
        );
        assert!(gantry_proto::vmd::is_name(&exec.exec), "{}", exec.exec);
    });
    for (end, code, says) in [
        (Why::Exit(0), 0, ""),
        (Why::Signal(9), 137, ""),
        (Why::Wall, 124, "its time was over (--wall)"),
        (Why::Memory, 124, "memory was full"),
        (Why::Lost, 125, "lost with its machine"),
    ] {
        streamd.acts(|acts| acts.end = Some(end));
        let ended = stage.run(&format!("gnt-lease exec {LEASE} -- x"));
        assert_eq!(ended.code, Some(code), "{end:?}: {ended:?}");
        assert!(ended.err.contains(says), "{end:?}: {ended:?}");
    }
    let ended = stage.run(&format!("gnt-lease exec {LEASE} -n 1 -- x"));
    assert!(ended.code == Some(1) && ended.err.contains("there is no 1"), "{ended:?}");
    std::fs::File::create(&file).unwrap().set_len((1 << 20) + 1).unwrap();
    let ended = stage.run(&line);
    assert!(ended.code == Some(1) && ended.err.contains("gnt-lease put"), "{ended:?}");
    assert_eq!(stage.run(&format!("gnt-lease exec {LEASE}")).code, Some(2), "a command is wanted");
}

#[test]
fn ctrl_c_interrupts_the_remote_command_and_a_second_one_cancels_it() {
    let stage = Stage::new(Role::Master);
    let streamd = Streamd::new(&stage, Acts::default());
    let child = stage.command(&format!("gnt-lease exec {LEASE} -- sleep 60")).spawn().unwrap();
    streamd.until(|acts| acts.execs.len() == 1);
    signal(&child, Signal::SIGINT);
    streamd.until(|acts| acts.signals == [2]);
    signal(&child, Signal::SIGINT);
    let ended = Ended::from(child.wait_with_output().unwrap());
    assert_eq!((ended.code, ended.err.as_str()), (Some(130), "The command was cancelled\n"), "{ended:?}");
    streamd.acts(|acts| assert_eq!(acts.signals, [2, 0]));
}

#[test]
fn a_closed_terminal_cancels_the_remote_command() {
    for number in [Signal::SIGTERM, Signal::SIGHUP] {
        let stage = Stage::new(Role::Master);
        let streamd = Streamd::new(&stage, Acts::default());
        let child = stage.command(&format!("gnt-lease exec {LEASE} -- sleep 60")).spawn().unwrap();
        streamd.until(|acts| acts.execs.len() == 1);
        signal(&child, number);
        assert_eq!(Ended::from(child.wait_with_output().unwrap()).code, Some(130));
        streamd.acts(|acts| assert_eq!(acts.signals, [0]));
    }
}

#[test]
fn files_are_sent_into_a_machine() {
    let stage = Stage::new(Role::Master);
    let streamd = Streamd::new(&stage, Acts::default());
    let dir = stage.root.path().join("src");
    std::fs::create_dir(&dir).unwrap();
    std::fs::write(dir.join("a"), "aa").unwrap();
    let ended = stage.run(&format!("gnt-lease put {LEASE} {} work", dir.display()));
    assert_eq!((ended.code, ended.out.as_str()), (Some(0), "Sent 1 file, 2 bytes to work/\n"), "{ended:?}");
    streamd.acts(|acts| {
        let (requests, bytes) = &acts.uploads;
        assert_eq!((requests[0].path.as_str(), requests.last().unwrap().last), ("work", true));
        let mut archive = tar::Archive::new(&bytes[..]);
        let mut entry = archive.entries().unwrap().nth(1).unwrap().unwrap();
        let mut text = String::new();
        entry.read_to_string(&mut text).unwrap();
        assert_eq!((entry.path().unwrap().to_str(), text.as_str()), (Some("src/a"), "aa"));
    });
    let file = dir.join("a").display().to_string();
    let ended = stage.run(&format!("gnt-lease put {LEASE} {file} {file}"));
    assert!(ended.code == Some(2) && ended.err.contains("is a file here"), "{ended:?}");
    let ended = stage.run(&format!("gnt-lease put {LEASE} {file} ./src/"));
    assert_eq!((ended.code, ended.out.as_str()), (Some(0), "Sent 1 file, 2 bytes to src/\n"), "{ended:?}");
    streamd.acts(|acts| assert_eq!(acts.uploads.0.last().unwrap().path, "src"));
    std::os::unix::fs::symlink("a", dir.join("l")).unwrap();
    let ended = stage.run(&format!("gnt-lease put {LEASE} {}", dir.display()));
    assert!(ended.code == Some(1) && ended.err.contains("src/l is a symbolic link"), "{ended:?}");
    assert!(ended.err.contains("--follow"), "{ended:?}");
    streamd.acts(|acts| acts.uploads = Default::default());
    let ended = stage.run(&format!("gnt-lease put {LEASE} {} --follow --to x", dir.display()));
    assert_eq!((ended.code, ended.out.as_str()), (Some(0), "Sent 2 files, 4 bytes to x/\n"), "{ended:?}");
}

/// Each piece is taken, and still nothing comes of it.
#[test]
fn an_upload_that_begins_anew_again_and_again_ends() {
    let stage = Stage::new(Role::Master);
    let streamd = Streamd::new(&stage, Acts { forgets_at: Some(3 << 20), ..Acts::default() });
    let file = stage.root.path().join("large");
    std::fs::write(&file, vec![7; 3 << 20]).unwrap();
    let ended = stage.run(&format!("gnt-lease put {LEASE} {}", file.display()));
    assert_eq!(ended.code, Some(1), "{ended:?}");
    assert!(
        ended.err.contains("put: luxid began anew 6 times, and came to byte 2097152 of 3147264"),
        "{ended:?}"
    );
    streamd.acts(|acts| assert_eq!(acts.uploads.0.len(), 6 * 3));
}

#[test]
fn files_come_out_of_a_machine_but_no_links_and_over_no_file() {
    let stage = Stage::new(Role::Master);
    let file = |name: &str, kind| {
        let mut builder = tar::Builder::new(Vec::new());
        let mut header = tar::Header::new_gnu();
        header.set_entry_type(kind);
        header.set_mode(0o644);
        header.set_size(2);
        header.as_old_mut().name[..name.len()].copy_from_slice(name.as_bytes());
        header.set_cksum();
        builder.append(&header, &b"hi"[..]).unwrap();
        builder.into_inner().unwrap()
    };
    let archive = file("result", tar::EntryType::Regular);
    let streamd = Streamd::new(&stage, Acts { archive, ..Acts::default() });
    let to = stage.root.path().join("to");
    let line = format!("gnt-lease get {LEASE} work/result {}", to.display());
    let ended = stage.run(&line);
    assert_eq!((ended.code, ended.out.as_str()), (Some(0), "Fetched 1 file, 2 bytes\n"), "{ended:?}");
    assert!(ended.err.contains("Left out: 2 things"), "{ended:?}");
    assert_eq!(std::fs::read_to_string(to.join("result")).unwrap(), "hi");
    let ended = stage.run(&line);
    assert!(ended.code == Some(1) && ended.err.contains("is there already"), "{ended:?}");
    assert_eq!(stage.run(&format!("{line} --force")).code, Some(0));
    for (name, kind, says) in [
        ("../evil", tar::EntryType::Regular, "has '..'"),
        ("/evil", tar::EntryType::Regular, "is absolute"),
        ("evil", tar::EntryType::Symlink, "no regular file"),
    ] {
        streamd.acts(|acts| acts.archive = file(name, kind));
        let ended = stage.run(&format!("{line} --force"));
        assert!(ended.code == Some(1) && ended.err.contains(says), "{name}: {ended:?}");
        assert!(!stage.root.path().join("evil").exists());
    }
}
