//! P4 with real processes: each step of the handshake, deaths, restarts.

use crate::world::{World, op, until};
use gantry_model::ids::{JobId, JobOwner, StartNo};
use gantry_model::job::{Outcome, Report};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::json;
use std::os::unix::net::{UnixListener, UnixStream};
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

fn signal(pid: i32, signal: Signal) {
    kill(Pid::from_raw(pid), signal).unwrap();
}

#[test]
fn a_job_runs_and_leaves_nothing_behind() {
    let world = World::new();
    let id = world.submit("quick");
    world.wait_for(id, "success");
    assert_eq!(world.job(id, "opresult"), json!([world.went()[0].to_string()]));
    until("files to be gone", || world.leftovers().is_empty());
    until("the process to be reaped", || world.processes().is_empty());
}

#[test]
fn a_process_lost_at_any_step_before_go_is_replaced() {
    let world = World::new();
    for mode in ["die-first", "die-bound", "die-ready", "wrong-pid"] {
        world.mode(mode);
        let id = world.submit("quick");
        world.wait_for(id, "success");
        let starts = world.went().into_iter().filter(|owner| owner.job == JobId(id)).count();
        assert_eq!(starts, 1, "told to go more than once after {mode}");
    }
    until("files to be gone", || world.leftovers().is_empty());
}

#[test]
fn death_after_go_is_an_error_and_wconfd_hears_of_it() {
    let world = World::new();
    let id = world.submit("die");
    world.wait_for(id, "error");
    assert_eq!(world.job(id, "opresult"), json!([format!("detected death of job {id}")]));
    let owner = world.went()[0];
    until("wconfd to hear of it", || world.wconfd.gone.lock().unwrap().contains(&owner));
    until("files to be gone", || world.leftovers().is_empty());
}

#[test]
fn wconfd_is_told_of_a_death_until_it_takes_it() {
    let world = World::new();
    world.wconfd.refusals.store(3, Ordering::SeqCst);
    let id = world.submit("die");
    world.wait_for(id, "error");
    let owner = world.went()[0];
    until("wconfd to take it", || world.wconfd.gone.lock().unwrap().contains(&owner));
    assert_eq!(world.wconfd.refusals.load(Ordering::SeqCst), 0);
}

#[test]
fn a_job_lives_through_a_restart_of_luxid() {
    let mut world = World::new();
    let id = world.submit("hold");
    world.wait_for(id, "running");
    world.kill_luxid();
    world.start();
    let owner = world.went()[0];
    assert_eq!(world.wconfd.owners.lock().unwrap().last().unwrap(), &[owner], "owners come first");
    assert_eq!(world.job(id, "status"), "running");
    std::fs::write(world.file("finish"), "").unwrap();
    world.wait_for(id, "success");
    assert_eq!(world.went().len(), 1);
}

#[test]
fn a_job_that_ends_while_luxid_is_down_is_found_finished() {
    let mut world = World::new();
    let id = world.submit("hold");
    world.wait_for(id, "running");
    world.kill_luxid();
    std::fs::write(world.file("finish"), "").unwrap();
    let owner = world.went()[0];
    until("the spool file", || world.root.spool_file(owner).exists());
    world.start();
    world.wait_for(id, "success");
    until("the spool file to be gone", || !world.root.spool_file(owner).exists());
    assert_eq!(world.went().len(), 1, "it is not run again");
}

#[test]
fn a_job_that_dies_while_luxid_is_down_is_found_dead() {
    let mut world = World::new();
    let id = world.submit("hold");
    world.wait_for(id, "running");
    let pid = world.pid(id);
    let owner = world.went()[0];
    world.kill_luxid();
    signal(pid, Signal::SIGKILL);
    // Neither another start's socket nor its spool file says anything about this one.
    let other = JobOwner { start: StartNo { counter: 99, ..owner.start }, ..owner };
    let _listener = UnixListener::bind(world.root.job_socket(other)).unwrap();
    let report = Report {
        owner: other,
        number: 1,
        outcome: Outcome::NeverBegan,
        ops: Vec::new(),
        seen_w: 0,
        stage: None,
    };
    std::fs::write(world.root.spool_file(other), serde_json::to_vec(&report).unwrap()).unwrap();
    world.start();
    world.wait_for(id, "error");
    until("wconfd to hear of it", || world.wconfd.gone.lock().unwrap().contains(&owner));
    let named = world.wconfd.owners.lock().unwrap().iter().flatten().filter(|named| **named == owner).count();
    assert_eq!(named, 0, "wconfd is spoken to when it is known who lives");
    assert!(!world.root.spool_file(other).exists(), "a start that never began leaves nothing");
    assert_eq!(world.went().len(), 1);
}

#[test]
fn a_start_cut_off_by_a_restart_is_made_again() {
    let mut world = World::new();
    world.mode("slow");
    let id = world.submit("quick");
    until("the process", || world.file("slow").exists());
    world.kill_luxid();
    std::fs::write(world.file("proceed"), "").unwrap();
    world.start();
    world.wait_for(id, "success");
    assert_eq!(world.went().len(), 1);
}

#[test]
fn a_stopped_job_is_alive() {
    let mut world = World::new();
    let id = world.submit("hold");
    world.wait_for(id, "running");
    let pid = world.pid(id);
    signal(pid, Signal::SIGSTOP);
    world.kill_luxid();
    world.start();
    // Longer than any connect that the new luxid makes may take.
    let answer = world.ask("WaitForJobChange", json!([id, ["status"], ["running"], null, 7]));
    assert_eq!(answer[0], json!(["running"]));
    signal(pid, Signal::SIGCONT);
    std::fs::write(world.file("finish"), "").unwrap();
    world.wait_for(id, "success");
    assert_eq!(world.went().len(), 1);
}

#[test]
fn a_job_with_a_full_backlog_is_alive() {
    let mut world = World::new();
    let id = world.submit("hold");
    world.wait_for(id, "running");
    let pid = world.pid(id);
    signal(pid, Signal::SIGSTOP);
    let path = world.root.job_socket(world.went()[0]);
    let mut held = Vec::new();
    let _in = world.runtime.enter();
    loop {
        let connect =
            async { tokio::time::timeout(Duration::from_secs(1), gantry_rpc::unix::connect(&path)).await };
        match world.runtime.block_on(connect) {
            Ok(Ok(stream)) => held.push(stream),
            Ok(Err(error)) => {
                assert_eq!(error.kind(), std::io::ErrorKind::WouldBlock);
                break;
            }
            Err(_) => break,
        }
    }
    drop(_in);
    world.kill_luxid();
    world.start();
    assert_eq!(world.job(id, "status"), "running");
    drop(held);
    signal(pid, Signal::SIGCONT);
    std::fs::write(world.file("finish"), "").unwrap();
    world.wait_for(id, "success");
}

#[test]
fn a_socket_file_that_is_gone_does_not_make_a_job_dead() {
    let mut world = World::new();
    let id = world.submit("hold");
    world.wait_for(id, "running");
    let owner = world.went()[0];
    world.kill_luxid();
    let (path, aside) = (world.root.job_socket(owner), world.file("aside.sock"));
    std::fs::rename(&path, &aside).unwrap();
    world.start();
    assert_eq!(world.job(id, "status"), "running");
    std::fs::rename(&aside, &path).unwrap();
    std::fs::write(world.file("finish"), "").unwrap();
    world.wait_for(id, "success");
}

#[test]
fn jobs_are_cancelled_and_killed() {
    let world = World::new();
    let waiting = world.submit("wait");
    world.wait_for(waiting, "waiting");
    assert_eq!(world.ask("CancelJob", json!([waiting, false])), json!([true, "Job successfully cancelled"]));
    let held = world.submit("hold");
    world.wait_for(held, "running");
    let text = "Job no longer waiting, can't cancel (informed it anyway)";
    assert_eq!(world.ask("CancelJob", json!([held])), json!([false, text]));
    let began = Instant::now();
    assert_eq!(world.ask("CancelJob", json!([held, true])), json!([true, "SIGKILL send to the process"]));
    world.wait_for(held, "error");
    assert!(began.elapsed() < Duration::from_secs(1), "took {:?}", began.elapsed());
    assert_eq!(
        world.ask("CancelJob", json!([held, true])),
        json!([false, format!("Job {held} not found in queue")])
    );
    until("files to be gone", || world.leftovers().is_empty());
}

#[test]
fn a_process_that_never_gets_ready_can_be_cancelled() {
    let world = World::new();
    world.mode("slow");
    let id = world.submit("quick");
    until("the process", || world.file("slow").exists());
    assert_eq!(world.ask("CancelJob", json!([id, false])), json!([true, format!("Dequeued job {id}")]));
    until("the process to be ended and reaped", || world.processes().is_empty());
    assert!(world.went().is_empty());
    until("files to be gone", || world.leftovers().is_empty());
}

#[test]
fn a_final_job_is_shown_when_the_configuration_is_that_far() {
    let world = World::new();
    let id = world.submit("seen");
    until("the job's work", || !world.went().is_empty());
    let answer = world.ask("WaitForJobChange", json!([id, ["status"], ["queued"], null, 1]));
    assert_eq!(answer[0], json!(["queued"]));
    world.wconfd.index.send_replace(50);
    world.wait_for(id, "success");
}

#[test]
fn wconfd_hears_the_owners_first_on_each_connection_and_of_forgotten_dead() {
    let world = World::new();
    let id = world.submit("hold");
    world.wait_for(id, "running");
    let owner = world.went()[0];
    let forgotten = JobOwner { job: JobId(77), start: StartNo { epoch: 1, run: 1, counter: 5 } };
    world.wconfd.holders.lock().unwrap().extend([owner, forgotten]);
    world.wconfd.stop();
    let listed = world.wconfd.owners.lock().unwrap().len();
    until("the old wconfd to go", || UnixStream::connect(world.root.socket("wconfd.sock")).is_err());
    let _in = world.runtime.enter();
    world.wconfd.serve(&world.root);
    until("owners", || world.wconfd.owners.lock().unwrap().len() > listed);
    assert_eq!(world.wconfd.owners.lock().unwrap().last().unwrap(), &[owner]);
    until("word of the dead", || world.wconfd.gone.lock().unwrap().contains(&forgotten));
    assert!(!world.wconfd.gone.lock().unwrap().contains(&owner));
}

#[test]
fn every_acknowledged_job_ends_once_though_luxid_is_killed_again_and_again() {
    let mut world = World::new();
    let mut ids = Vec::new();
    for _ in 0..4 {
        let jobs = vec![vec![op("quick")]; 10];
        let answers = world.ask("SubmitManyJobs", json!([jobs]));
        ids.extend(answers.as_array().unwrap().iter().map(|a| a[1].as_u64().unwrap()));
        let reached = world.went().len() + 3;
        until("some work", || world.went().len() >= reached);
        world.kill_luxid();
        world.start();
    }
    for id in &ids {
        let over = || ["success", "error"].contains(&world.job(*id, "status").as_str().unwrap());
        until("every job to end", over);
        let starts = world.went().into_iter().filter(|owner| owner.job.0 == *id).count();
        assert_eq!(starts, 1, "job {id} went {starts} times");
        assert_eq!(world.job(*id, "status"), "success", "{}", world.job(*id, "opresult"));
    }
}
