//! Deaths: of noded's side, of vmd, of PID 1, of the runtime.

use super::bed::*;
use crate::driver::{Class, Driver, Ended, Output};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use std::time::Duration;

/// Whether the process descends from `ancestor`: tests run side by side, with VMs of the same names.
fn descends(pid: i32, ancestor: u32) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    let parent = stat.rsplit_once(") ").and_then(|(_, rest)| rest.split(' ').nth(1)?.parse::<i32>().ok());
    match parent {
        Some(parent) if i64::from(parent) == i64::from(ancestor) => true,
        Some(parent) if parent > 1 => descends(parent, ancestor),
        _ => false,
    }
}

/// Host pids of a VM's PID 1 and of its runtime's process, both below this bed's vmd. runc has none: it detaches.
fn processes(bed: &Bed, vm: &str) -> (i32, Option<i32>) {
    let vmd = bed.vmd.id();
    let mut found = (0, None);
    for entry in std::fs::read_dir("/proc").expect("proc").flatten() {
        let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse::<i32>().ok()) else {
            continue;
        };
        if !descends(pid, vmd) {
            continue;
        }
        let line = std::fs::read_to_string(entry.path().join("cmdline")).unwrap_or_default();
        let group = std::fs::read_to_string(entry.path().join("cgroup")).unwrap_or_default();
        if line == "/.gantry/init\0" && group.contains(vm) {
            found.0 = pid;
        } else if line.contains("run\0--bundle") && line.contains(vm) {
            found.1 = Some(pid);
        }
    }
    assert!(found.0 > 0 && found.1.is_some() == (bed.runtime() == "crun"), "{found:?}");
    found
}

#[tokio::test]
async fn noded_s_death_costs_nothing() {
    let bed = Bed::new().await;
    let oci = bed.start(1).await;
    let mut execution = oci
        .exec(
            &vm(1),
            &command("long", "echo begun; while [ ! -e go ]; do sleep 0.01; done; echo done; exit 5"),
        )
        .await
        .expect("runs");
    let chunk = execution.read(Output::Out, 0, 100).await.expect("read");
    assert_eq!(chunk.bytes, b"begun\n");
    // All of this noded's side is gone, its connection with it.
    drop((execution, oci));
    let again = bed.oci();
    assert!(again.info(&vm(1)).await.expect("there").running);
    again.home(&vm(1)).await.expect("a home").put("go", b"", false).expect("put");
    let ran = sh(&again, 1, "long", "echo not run").await;
    assert_eq!((ran.out.as_str(), ran.ended), ("begun\ndone\n", Ended::Exit(5)));
}

#[tokio::test]
async fn vmd_s_death_ends_vms_and_is_told() {
    let mut bed = Bed::new().await;
    let oci = bed.start(1).await;
    oci.create(&vm(2), &spec()).await.expect("created");
    let done = sh(&oci, 1, "done", "echo kept; exit 3").await;
    assert_eq!(done.ended, Ended::Exit(3));
    let mut long = oci.exec(&vm(1), &command("long", "echo begun; sleep 1000")).await.expect("runs");
    assert_eq!(long.read(Output::Out, 0, 100).await.expect("read").bytes, b"begun\n");
    let (init, runtime) = processes(&bed, &vm(1).to_string());
    bed.kill_vmd().await;
    until("PID 1 and the runtime end with vmd", async || {
        runtime.iter().chain([&init]).all(|pid| kill(Pid::from_raw(*pid), None).is_err())
    })
    .await;
    bed.restart_vmd().await;
    assert!(!oci.info(&vm(1)).await.expect("still noted").running);
    assert_eq!(class(oci.exec(&vm(1), &command("more", "true")).await.map(drop)), Some(Class::Lost));
    assert_eq!(class(oci.start(&vm(1)).await), Some(Class::Lost));
    assert_eq!(long.ended().await, Ok(Ended::Lost), "the one that waited is told");
    assert_eq!(sh(&oci, 1, "long", "x").await.ended, Ended::Lost, "and it is not run again");
    let done = sh(&oci, 1, "done", "x").await;
    assert_eq!((done.out.as_str(), done.ended), ("kept\n", Ended::Exit(3)), "what had ended is kept");
    oci.start(&vm(2)).await.expect("one that had not started is not lost");
    for slot in [1, 2] {
        oci.destroy(&vm(slot)).await.expect("destroyed");
    }
    assert_eq!(bed.leftovers(), Vec::<String>::new());
}

#[tokio::test]
async fn the_death_of_pid_1_or_of_the_runtime_ends_the_vm() {
    let bed = Bed::new().await;
    for slot in [1, 2] {
        let oci = bed.start(slot).await;
        let mut long = oci
            .exec(&vm(slot), &command("long", "setsid sleep 1000 & echo begun; sleep 1000"))
            .await
            .expect("runs");
        assert!(!long.read(Output::Out, 0, 100).await.expect("read").bytes.is_empty());
        let (init, runtime) = processes(&bed, &vm(slot).to_string());
        let victim = runtime.filter(|_| slot == 2).unwrap_or(init);
        kill(Pid::from_raw(victim), Signal::SIGKILL).expect("killed");
        assert_eq!(long.ended().await, Ok(Ended::Lost));
        until("it is seen as stopped", async || !oci.info(&vm(slot)).await.expect("there").running).await;
        assert_eq!(
            class(oci.exec(&vm(slot), &command("more", "true")).await.map(drop)),
            Some(Class::NotRunning)
        );
        oci.destroy(&vm(slot)).await.expect("destroyed");
    }
    assert_eq!(bed.leftovers(), Vec::<String>::new());
}

#[tokio::test]
async fn a_death_nobody_asked_for_is_told_at_once() {
    let mut bed = Bed::new().await;
    let oci = bed.start(1).await;
    bed.start(2).await;
    let (send, mut told) = tokio::sync::mpsc::channel(4);
    let listener = bed.oci();
    let listening = tokio::spawn(async move { listener.deaths(send).await });
    let mut next =
        async || tokio::time::timeout(Duration::from_secs(20), told.recv()).await.expect("in time");
    assert_eq!(next().await, Some(None), "from here on");
    for slot in [1, 2] {
        // Asked for: no news.
        oci.stop(&vm(slot), Duration::ZERO).await.expect("stopped");
        oci.start(&vm(slot)).await.expect("started");
    }
    let (init, _) = processes(&bed, &vm(1).to_string());
    kill(Pid::from_raw(init), Signal::SIGKILL).expect("killed");
    assert_eq!(next().await, Some(Some(vm(1))));
    assert_eq!(class(oci.alive(&vm(1)).await), Some(Class::NotRunning), "whoever is told finds it so");
    oci.alive(&vm(2)).await.expect("the neighbour lives");
    bed.kill_vmd().await;
    assert_eq!(next().await, None, "vmd's own death ends the news");
    assert!(listening.await.expect("joined").is_err());
    assert_eq!(class(oci.deaths(tokio::sync::mpsc::channel(1).0).await), Some(Class::Locked), "no vmd");
    bed.restart_vmd().await;
    for slot in [1, 2] {
        oci.destroy(&vm(slot)).await.expect("destroyed");
    }
    assert_eq!(bed.leftovers(), Vec::<String>::new());
}

#[tokio::test]
async fn the_runtime_runs_from_a_copy_that_nobody_can_write() {
    let bed = Bed::new().await;
    let oci = bed.start(1).await;
    let (_, runtime) = processes(&bed, &vm(1).to_string());
    // runc is gone by now.
    if let Some(pid) = runtime {
        let exe = format!("/proc/{pid}/exe");
        let target = std::fs::read_link(&exe).expect("a program");
        // A runtime that had copied itself once more would have named the copy.
        assert_eq!(target.to_string_lossy(), "/memfd:crun (deleted)");
        assert!(std::fs::OpenOptions::new().write(true).open(&exe).is_err());
    }
    oci.destroy(&vm(1)).await.expect("destroyed");
    assert_eq!(bed.leftovers(), Vec::<String>::new());
}

#[tokio::test]
async fn an_ordered_stop_of_vmd_leaves_no_groups() {
    let mut bed = Bed::new().await;
    let _oci = bed.start(1).await;
    let pid = i32::try_from(bed.vmd.id()).expect("a pid");
    kill(Pid::from_raw(pid), Signal::SIGTERM).expect("sent");
    assert!(bed.vmd.wait().expect("waited").success());
    // Its journal stays, for who asks how a command of it ended.
    let own = bed.path().display().to_string();
    let left: Vec<_> = bed.leftovers().into_iter().filter(|path| !path.starts_with(&own)).collect();
    assert_eq!(left, Vec::<String>::new());
}
