//! What boot promises, one scene each.

use crate::play::{LIMIT, Stage, eventually, lives, one, pid, signal, starts};
use gantry_model::role::Role;
use gantry_proto::boot::{self as wire, DaemonState};
use nix::sys::signal::Signal;

const ALL: &[&str] = &["noded", "rconfd", "mond", "wconfd", "luxid", "overseer"];

#[tokio::test]
async fn an_unjoined_node_runs_noded_and_a_master_all_stopped_in_reverse() {
    let stage = Stage::new();
    let boot = stage.boot();
    stage.ready(&["noded"]).await;
    stage.role(Role::Master);
    stage.ready(ALL).await;
    boot.signal(Signal::SIGTERM);
    assert!(boot.wait().success());
    assert_eq!(stage.order(), "overseer luxid wconfd mond rconfd noded ");
    assert!(!stage.root.socket("boot.sock").exists() && !stage.root.pid_file("noded").exists());
}

#[tokio::test]
async fn losing_the_role_stops_the_masters_daemons_only() {
    let stage = Stage::new();
    stage.role(Role::Master);
    let boot = stage.boot();
    let before = stage.ready(ALL).await;
    stage.role(Role::Regular);
    let after = stage.ready(&["noded", "mond"]).await;
    assert_eq!(pid(&before, "noded"), pid(&after, "noded"));
    assert_eq!(stage.order(), "overseer luxid wconfd rconfd ");
    boot.signal(Signal::SIGINT);
    assert!(boot.wait().success());
}

#[tokio::test]
async fn a_killed_daemon_is_back_at_once_and_one_that_keeps_failing_says_why() {
    let stage = Stage::new();
    let boot = stage.boot();
    let before = stage.ready(&["noded"]).await;
    signal(pid(&before, "noded"), Signal::SIGKILL);
    let after = eventually("a new noded is ready", async || {
        let all = stage.status().await;
        (one(&all, "noded").state == DaemonState::Ready
            && one(&all, "noded").pid != Some(pid(&before, "noded")))
        .then_some(all)
    })
    .await;
    assert_eq!(starts(&after, "noded"), 2);
    stage.fails("noded", true);
    signal(pid(&after, "noded"), Signal::SIGKILL);
    eventually("it waits and says why", async || {
        let all = stage.status().await;
        let noded = one(&all, "noded");
        (noded.state == DaemonState::Waiting && noded.why == "ended with exit status 3").then_some(())
    })
    .await;
    stage.fails("noded", false);
    let client = stage.client().await;
    client.call::<wire::Start>(&vec!["noded".to_owned()], LIMIT).await.unwrap();
    assert_eq!(one(&stage.status().await, "noded").state, DaemonState::Ready, "answered when ready");
    boot.signal(Signal::SIGTERM);
    boot.wait();
}

#[tokio::test]
async fn a_killed_boot_leaves_its_daemons_to_the_next_one() {
    let stage = Stage::new();
    stage.role(Role::Master);
    let boot = stage.boot();
    let before = stage.ready(ALL).await;
    boot.signal(Signal::SIGKILL);
    boot.wait();
    let pids: Vec<u32> = ALL.iter().map(|name| pid(&before, name)).collect();
    assert!(pids.iter().all(|pid| lives(*pid)));
    // One without its pid file is found by its socket.
    std::fs::remove_file(stage.root.pid_file("wconfd")).unwrap();
    let boot = stage.boot();
    let after = stage.ready(ALL).await;
    assert_eq!(ALL.iter().map(|name| pid(&after, name)).collect::<Vec<_>>(), pids);
    assert!(ALL.iter().all(|name| starts(&after, name) == 0));
    // An adopted one is restarted too.
    let luxid = pid(&before, "luxid");
    signal(luxid, Signal::SIGKILL);
    eventually("luxid is new", async || {
        let all = stage.status().await;
        let new = one(&all, "luxid");
        (new.state == DaemonState::Ready && new.pid != Some(luxid)).then_some(())
    })
    .await;
    boot.signal(Signal::SIGTERM);
    assert!(boot.wait().success());
    assert!(pids.iter().all(|pid| !lives(*pid)));
    assert_eq!(stage.order(), "overseer luxid wconfd mond rconfd noded ");
}

#[tokio::test]
async fn a_daemon_that_serves_is_not_started_again_beside() {
    let stage = Stage::new();
    let boot = stage.boot();
    let client = stage.client().await;
    let before = stage.ready(&["noded"]).await;
    let noded = vec!["noded".to_owned()];
    client.call::<wire::Stop>(&noded, LIMIT).await.unwrap();
    let mut stray = stage.stray("noded").await;
    client.call::<wire::Start>(&noded, LIMIT).await.unwrap();
    let all = stage.status().await;
    assert_eq!((pid(&all, "noded"), starts(&all, "noded")), (stray.id(), starts(&before, "noded")));
    client.call::<wire::Stop>(&noded, LIMIT).await.unwrap();
    assert!(stray.wait().unwrap().success(), "it is stopped as if it had been started here");
    client.call::<wire::Start>(&noded, LIMIT).await.unwrap();
    boot.signal(Signal::SIGTERM);
    assert!(boot.wait().success());
}

#[tokio::test]
async fn a_pid_file_of_another_process_is_not_believed() {
    let stage = Stage::new();
    let own = std::process::id();
    let lie = format!("{{\"pid\":{own},\"start_time\":1,\"boot_id\":\"x\"}}");
    std::fs::write(stage.root.pid_file("noded"), lie).unwrap();
    let boot = stage.boot();
    let all = stage.ready(&["noded"]).await;
    assert_ne!(pid(&all, "noded"), own);
    boot.signal(Signal::SIGTERM);
    boot.wait();
}

#[tokio::test]
async fn commands_stop_start_hold_and_refuse() {
    let stage = Stage::new();
    stage.role(Role::Master);
    let boot = stage.boot();
    stage.ready(ALL).await;
    let client = stage.client().await;
    let luxid = vec!["luxid".to_owned()];
    client.call::<wire::Stop>(&luxid, LIMIT).await.unwrap();
    assert_eq!(one(&stage.status().await, "luxid").state, DaemonState::Stopped);
    client.call::<wire::Start>(&luxid, LIMIT).await.unwrap();
    client.call::<wire::Hold>(&luxid, LIMIT).await.unwrap();
    let all = stage.status().await;
    assert!(one(&all, "luxid").held && one(&all, "luxid").state == DaemonState::Ready);
    signal(pid(&all, "luxid"), Signal::SIGKILL);
    eventually("its end is seen", async || one(&stage.status().await, "luxid").pid.is_none().then_some(()))
        .await;
    assert_eq!(starts(&stage.status().await, "luxid"), 2, "held: no restart");
    let error = client.call::<wire::Start>(&vec!["nosuch".to_owned()], LIMIT).await.unwrap_err();
    assert!(error.to_string().contains("there is no daemon 'nosuch'"), "{error}");
    stage.role(Role::Regular);
    stage.ready(&["noded", "mond"]).await;
    let error = client.call::<wire::Start>(&luxid, LIMIT).await.unwrap_err();
    assert!(error.to_string().contains("role"), "{error}");
    client.call::<wire::Shutdown>(&(), LIMIT).await.unwrap();
    assert!(boot.wait().success());
}

#[tokio::test]
async fn one_boot_a_root_and_one_in_the_background() {
    let stage = Stage::new();
    assert!(stage.command().arg("--daemonize").status().unwrap().success());
    stage.ready(&["noded"]).await;
    let second = stage.command().output().unwrap();
    assert!(!second.status.success());
    let text =
        String::from_utf8_lossy(&second.stdout).into_owned() + &String::from_utf8_lossy(&second.stderr);
    assert!(text.contains("another boot (pid"), "{text}");
    let failed = stage.command().arg("--daemonize").output().unwrap();
    assert!(String::from_utf8_lossy(&failed.stderr).contains("boot.log"));
    let client = stage.client().await;
    client.call::<wire::Shutdown>(&(), LIMIT).await.unwrap();
    eventually("boot is gone", async || (!stage.root.socket("boot.sock").exists()).then_some(())).await;
}

#[tokio::test]
async fn a_member_that_makes_vms_runs_vmd_first_and_stops_it_last() {
    let stage = Stage::new();
    stage.drivers("\"fake\", \"oci\"");
    let boot = stage.boot();
    stage.ready(&["noded"]).await;
    stage.role(Role::Master);
    stage.ready(&["vmd", "noded", "rconfd", "mond", "wconfd", "luxid", "overseer"]).await;
    boot.signal(Signal::SIGTERM);
    assert!(boot.wait().success());
    assert_eq!(stage.order(), "overseer luxid wconfd mond rconfd noded vmd ");
}

#[tokio::test]
async fn a_member_with_the_fake_driver_alone_runs_no_vmd() {
    let stage = Stage::new();
    stage.drivers("\"fake\"");
    stage.role(Role::Regular);
    let boot = stage.boot();
    let all = stage.ready(&["noded", "mond"]).await;
    assert_eq!(one(&all, "vmd").state, DaemonState::Off);
    boot.signal(Signal::SIGTERM);
    boot.wait();
}

#[tokio::test]
async fn a_vmd_that_keeps_failing_holds_nobody_up() {
    let stage = Stage::new();
    stage.drivers("\"oci\"");
    stage.fails("vmd", true);
    stage.role(Role::Regular);
    let boot = stage.boot();
    let all = stage.ready_among(&["noded", "mond"], &["vmd"]).await;
    eventually("vmd says why it waits", async || {
        let all = stage.status().await;
        (one(&all, "vmd").why == "ended with exit status 3").then_some(())
    })
    .await;
    stage.fails("vmd", false);
    let after = stage.ready(&["vmd", "noded", "mond"]).await;
    assert_eq!(pid(&all, "noded"), pid(&after, "noded"));
    boot.signal(Signal::SIGTERM);
    boot.wait();
}
