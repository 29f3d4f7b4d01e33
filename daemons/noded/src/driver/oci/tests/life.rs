//! The contract of drivers, and ordinary work.

use super::bed::*;
use crate::driver::{Class, Driver, Ended, ExecSpec, Output};
use gantry_proto::noded::{OpenLimits, VmSpec};
use gantry_proto::vmd::VmLimits;
use std::time::Duration;

#[tokio::test]
async fn a_life() {
    let bed = Bed::new().await;
    let oci = bed.oci();
    assert_eq!(class(oci.info(&vm(1)).await), Some(Class::NotFound));
    oci.create(&vm(1), &spec()).await.expect("created");
    assert_eq!(class(oci.create(&vm(1), &spec()).await), Some(Class::Exists));
    assert!(!oci.info(&vm(1)).await.expect("there").running);
    assert_eq!(class(oci.exec(&vm(1), &command("a", "true")).await.map(drop)), Some(Class::NotRunning));
    oci.start(&vm(1)).await.expect("started");
    assert_eq!(class(oci.start(&vm(1)).await), Some(Class::Running));
    // Another noded finds it.
    let again = bed.oci();
    let all = again.list().await.expect("listed");
    assert!(all.len() == 1 && all[0].running && all[0].memory_mib == 128 && all[0].vm == vm(1));
    assert!(again.stats(&vm(1)).await.expect("stats").memory_mib < 128);
    again.stop(&vm(1), Duration::ZERO).await.expect("stopped");
    assert_eq!(class(again.stop(&vm(1), Duration::ZERO).await), Some(Class::NotRunning));
    assert!(!again.info(&vm(1)).await.expect("there").running);
    // What it wrote is still there when it runs again.
    again.start(&vm(1)).await.expect("started");
    again.destroy(&vm(1)).await.expect("destroyed");
    assert_eq!(class(again.destroy(&vm(1)).await), Some(Class::NotFound));
    assert_eq!(class(again.stats(&vm(1)).await), Some(Class::NotFound));
    assert_eq!(bed.leftovers(), Vec::<String>::new());
}

#[tokio::test]
async fn a_command_begins_at_home_or_below_it_or_where_it_is_told() {
    let bed = Bed::new().await;
    let oci = bed.start(1).await;
    run(&oci, 1, &command("made", "mkdir work")).await;
    for (number, cwd, says) in
        [(1, None, "/home/tester"), (2, Some("work"), "/home/tester/work"), (3, Some("/"), "/")]
    {
        let told = ExecSpec { cwd: cwd.map(str::to_owned), ..command(&format!("c{number}"), "pwd") };
        assert_eq!(run(&oci, 1, &told).await.out.trim(), says);
    }
    oci.destroy(&vm(1)).await.expect("destroyed");
}

#[tokio::test]
async fn it_is_probed_by_doing() {
    let bed = Bed::new().await;
    let about = bed.oci().probe().await.expect("works").about;
    assert!(about.contains("version") && about.contains("cgroups v"), "{about}");
    assert_eq!(bed.leftovers(), Vec::<String>::new());
}

#[tokio::test]
async fn every_runtime_that_is_there_works() {
    for runtime in runtimes() {
        let bed = Bed::with(Some(runtime)).await;
        let about = bed.oci().probe().await.expect("works").about;
        assert!(about.contains(runtime), "{about}");
        let oci = bed.start(1).await;
        assert_eq!(sh(&oci, 1, "a", "id -u; exit 4").await.ended, Ended::Exit(4));
        let bomb = sh(&oci, 1, "bomb", "/usr/bin/python3 -c 'x = bytearray(300 << 20)'").await;
        assert_eq!(bomb.ended, Ended::Memory, "{runtime}");
        let rights = sh(&oci, 1, "rights", "grep -E '^(CapBnd|Seccomp:)' /proc/self/status").await;
        assert_eq!(rights.out, "CapBnd:\t0000000000000000\nSeccomp:\t2\n", "{runtime}");
        oci.destroy(&vm(1)).await.expect("destroyed");
        assert_eq!(bed.leftovers(), Vec::<String>::new(), "{runtime}");
    }
}

#[tokio::test]
async fn limits_are_lowered_and_never_raised() {
    let bed = Bed::new().await;
    let oci = bed.start(1).await;
    let limits = VmLimits { memory_mib: 64, cpu_percent: 50, pids: 32 };
    oci.limit(&vm(1), limits).await.expect("lowered");
    let hungry = "/usr/bin/python3 -c 'x = bytearray(90 << 20)'";
    assert_eq!(sh(&oci, 1, "low", hungry).await.ended, Ended::Memory);
    oci.limit(&vm(1), VmLimits { memory_mib: 128, ..limits }).await.expect("restored");
    assert_eq!(sh(&oci, 1, "high", hungry).await.ended, Ended::Exit(0));
    let above = oci.limit(&vm(1), VmLimits { memory_mib: 129, ..limits }).await;
    assert_eq!(class(above), Some(Class::Refused));
    let half = sh(&oci, 1, "half", "i=0; while [ $i -lt 300000 ]; do i=$((i+1)); done").await;
    let end = oci.wait(&vm(1), "half").await.expect("ended");
    assert_eq!(half.ended, Ended::Exit(0));
    assert!(end.cpu_us / 1000 < end.wall_ms * 9 / 10, "at half a CPU: {end:?}");
}

#[tokio::test]
async fn the_work_s_limits_hold_until_others_are_set_also_after_its_end() {
    let bed = Bed::new().await;
    let oci = bed.start(1).await;
    let few = OpenLimits { memory_mib: 64, pids: 8, disk_mib: 4 };
    oci.limit_work(&vm(1), Some(few)).await.expect("lowered");
    let hungry = "/usr/bin/python3 -c 'x = bytearray(90 << 20)'";
    assert_eq!(sh(&oci, 1, "low", hungry).await.ended, Ended::Memory);
    let fill = "head -c 8M /dev/zero >/tmp/x; code=$?; rm /tmp/x; exit $code";
    assert_eq!(sh(&oci, 1, "full", fill).await.ended, Ended::Exit(1));
    for above in [
        OpenLimits { memory_mib: 129, ..few },
        OpenLimits { pids: 65, ..few },
        OpenLimits { disk_mib: 33, ..few },
        OpenLimits { pids: 0, ..few },
    ] {
        assert_eq!(class(oci.limit_work(&vm(1), Some(above)).await), Some(Class::Refused), "{above:?}");
    }
    // The same once more: nothing is written, and it still holds.
    oci.limit_work(&vm(1), Some(few)).await.expect("set");
    assert_eq!(sh(&oci, 1, "low2", hungry).await.ended, Ended::Memory);
    // Its end leaves no room for processes and restores the VM's own limits.
    oci.end_work(&vm(1)).await.expect("ended");
    assert_eq!(sh(&oci, 1, "high", hungry).await.ended, Ended::Exit(0));
    oci.limit_work(&vm(1), Some(few)).await.expect("lowered");
    assert_eq!(sh(&oci, 1, "low3", hungry).await.ended, Ended::Memory);
    oci.limit_work(&vm(1), None).await.expect("its own");
    assert_eq!(sh(&oci, 1, "high2", hungry).await.ended, Ended::Exit(0));
    assert_eq!(sh(&oci, 1, "room", fill).await.ended, Ended::Exit(0));
}

#[tokio::test]
async fn room_is_counted_and_images_are_checked() {
    let bed = Bed::new().await;
    let oci = bed.oci();
    let with = |change: fn(&mut VmSpec)| {
        let mut spec = spec();
        change(&mut spec);
        spec
    };
    let wrong = with(|spec| spec.image = "debian".into());
    assert_eq!(class(oci.create(&vm(1), &wrong).await), Some(Class::BadImage));
    let large = with(|spec| spec.memory_mib = 4000);
    oci.create(&vm(1), &large).await.expect("fits");
    assert_eq!(class(oci.create(&vm(2), &spec()).await), Some(Class::NoSpace));
    oci.destroy(&vm(1)).await.expect("destroyed");
    oci.create(&vm(2), &spec()).await.expect("fits again");
    // The disk is in memory here.
    let disk = with(|spec| spec.disk_mib = 128);
    assert_eq!(class(oci.create(&vm(3), &disk).await), Some(Class::Refused));
    for pids in [2, 40_000] {
        let crowd = VmSpec { pids, ..spec() };
        assert_eq!(class(oci.create(&vm(3), &crowd).await), Some(Class::Refused));
    }
}

#[tokio::test]
async fn a_command_runs_once() {
    let bed = Bed::new().await;
    let oci = bed.start(1).await;
    let first = sh(&oci, 1, "a", "echo x >> count; cat count; echo e >&2; exit 7").await;
    assert_eq!((first.out.as_str(), first.err.as_str(), first.ended), ("x\n", "e\n", Ended::Exit(7)));
    // The same id attaches, whatever the words, also for another noded.
    let again = sh(&bed.oci(), 1, "a", "echo other").await;
    assert_eq!((again.out.as_str(), again.ended), ("x\n", Ended::Exit(7)));
    let mut execution = oci.exec(&vm(1), &command("b", "printf 0123456789")).await.expect("runs");
    let chunk = execution.read(Output::Out, 3, 4).await.expect("read");
    assert_eq!((chunk.bytes.as_slice(), chunk.last), (&b"3456"[..], false));
    let chunk = execution.read(Output::Out, 7, 100).await.expect("read");
    assert_eq!(chunk.bytes, b"789");
    assert_eq!(execution.ended().await, Ok(Ended::Exit(0)));
    assert_eq!(class(execution.signal(15).await), Some(Class::NotRunning));
    let unknown = crate::driver::ExecSpec { argv: vec!["no-such-program".into()], ..command("c", "") };
    let unknown = run(&oci, 1, &unknown).await;
    assert_eq!(unknown.ended, Ended::Exit(127), "{}", unknown.err);
}

#[tokio::test]
async fn commands_have_input_environment_signals_and_cancellation() {
    let bed = Bed::new().await;
    let oci = bed.start(1).await;
    let mut asked = command(
        "in",
        "cat; echo $WORD $HOME; pwd; cat /dev/stdin < /proc/self/fd/0 | wc -c; echo x > /dev/stderr",
    );
    asked.stdin = b"some input\n".to_vec();
    asked.env = vec![("WORD".into(), "w".into())];
    let ran = run(&oci, 1, &asked).await;
    assert_eq!(ran.out, "some input\nw /home/tester\n/home/tester\n11\n", "{ran:?}");
    assert_eq!(ran.err, "x\n");
    let mut execution = oci.exec(&vm(1), &command("sig", "echo begun; exec sleep 1000")).await.expect("runs");
    assert!(!execution.read(Output::Out, 0, 100).await.expect("read").bytes.is_empty());
    execution.signal(10).await.expect("sent");
    assert_eq!(execution.ended().await, Ok(Ended::Signal(10)));
    let mut execution =
        oci.exec(&vm(1), &command("cancel", "trap '' TERM; echo begun; sleep 1000")).await.expect("runs");
    oci.cancel(&vm(1), "cancel").await.expect("cancelled");
    assert_eq!(execution.ended().await, Ok(Ended::Cancelled));
    // Polite first: what handles SIGTERM has its time.
    let mut execution = oci
        .exec(&vm(1), &command("polite", "trap 'exit 3' TERM; echo begun; while :; do sleep 0.01; done"))
        .await
        .expect("runs");
    assert!(!execution.read(Output::Out, 0, 100).await.expect("read").bytes.is_empty());
    oci.stop(&vm(1), Duration::from_secs(10)).await.expect("stopped");
    assert_eq!(execution.ended().await, Ok(Ended::Exit(3)));
}

#[tokio::test]
async fn python_and_gcc_work_in_the_host_image() {
    let bed = Bed::new().await;
    let oci = bed.start(1).await;
    let python = sh(
        &oci,
        1,
        "py",
        "/usr/bin/python3 -c 'import json, getpass; print(json.dumps(sum(range(10))), getpass.getuser())'",
    )
    .await;
    assert_eq!((python.out.as_str(), python.ended), ("45 tester\n", Ended::Exit(0)), "{}", python.err);
    let home = oci.home(&vm(1)).await.expect("a home");
    home.put("src/a.c", b"#include <stdio.h>\nint main(void) { puts(\"compiled\"); return 4; }\n", false)
        .expect("put");
    let compiled =
        sh(&oci, 1, "cc", "gcc -O1 -o a src/a.c && ./a > out/result; code=$?; ls -ln src/a.c; exit $code")
            .await;
    assert_eq!(compiled.ended, Ended::Exit(4), "{compiled:?}");
    assert!(compiled.out.contains(" 1000 1000 "), "{}", compiled.out);
    assert_eq!(home.read("out/result", 100).expect("read"), b"compiled\n");
    let end = oci.wait(&vm(1), "cc").await.expect("ended");
    assert!(end.cpu_us > 1000 && end.memory_peak_bytes > 1 << 20 && end.wall_ms > 0, "{end:?}");
    // Results are read after the VM has stopped as well.
    oci.stop(&vm(1), Duration::ZERO).await.expect("stopped");
    assert_eq!(home.list_out().expect("listed").files.len(), 1);
}

#[tokio::test]
async fn twenty_vms_leave_nothing() {
    let bed = Bed::new().await;
    let oci = bed.oci();
    let host_mounts = std::fs::read_to_string("/proc/self/mounts").expect("mounts");
    for round in 0..5 {
        for slot in 1..=4 {
            oci.create(&vm(slot), &spec()).await.expect("created");
        }
        let starts = (1..=4).map(|slot| {
            let oci = bed.oci();
            tokio::spawn(async move { oci.start(&vm(slot)).await })
        });
        for start in starts.collect::<Vec<_>>() {
            start.await.expect("joined").expect("started");
        }
        let uids = sh(&oci, 1, "id", "cat /proc/self/uid_map").await.out;
        assert_ne!(uids, sh(&oci, 2, "id", "cat /proc/self/uid_map").await.out, "each has ids of its own");
        for slot in 1..=4 {
            // With work under way, too.
            if round % 2 == 1 {
                oci.exec(&vm(slot), &command("long", "setsid sleep 1000 & sleep 1000"))
                    .await
                    .map(drop)
                    .expect("runs");
            }
            oci.destroy(&vm(slot)).await.expect("destroyed");
        }
        assert_eq!(bed.leftovers(), Vec::<String>::new());
    }
    assert_eq!(std::fs::read_to_string("/proc/self/mounts").expect("mounts"), host_mounts);
}

#[tokio::test]
async fn a_host_that_changes_takes_nothing_from_vms_that_run() {
    let bed = Bed::new().await;
    let etc = tempfile::tempdir().expect("dir");
    let cache = etc.path().join("ld.so.cache");
    std::fs::copy("/etc/ld.so.cache", &cache).expect("the linker's cache");
    let images = || {
        let names = std::fs::read_dir(bed.path().join("run/gantry/oci")).expect("images");
        names.map(|name| name.expect("entry").path()).collect::<Vec<_>>()
    };
    let oci = bed.oci_of(etc.path());
    oci.create(&vm(1), &spec()).await.expect("created");
    oci.start(&vm(1)).await.expect("started");
    let first = images();
    for slot in 2..5_u8 {
        // As ldconfig does after each apt-get install.
        let time = std::time::SystemTime::UNIX_EPOCH + Duration::from_secs(1_000_000 * u64::from(slot));
        std::fs::File::options()
            .append(true)
            .open(&cache)
            .expect("open")
            .set_modified(time)
            .expect("touched");
        oci.create(&vm(slot.into()), &spec()).await.expect("created");
        oci.start(&vm(slot.into())).await.expect("started");
        for older in 1..=slot {
            let ran = sh(
                &oci,
                older.into(),
                &format!("look{slot}"),
                "cat /etc/passwd > /tmp/x && ls /usr/bin/env ~",
            )
            .await;
            assert_eq!(ran.ended, Ended::Exit(0), "VM {older} after {slot}: {ran:?}");
        }
        if slot == 3 {
            oci.destroy(&vm(2)).await.expect("destroyed");
            oci.create(&vm(2), &spec()).await.expect("created");
            oci.start(&vm(2)).await.expect("started");
        }
    }
    assert_eq!(images().len(), 3, "the image of the first, of the third and of the fourth");
    assert!(first.iter().all(|image| image.exists()));
    for slot in 1..5_u8 {
        oci.destroy(&vm(slot.into())).await.expect("destroyed");
    }
    assert_eq!(bed.leftovers(), Vec::<String>::new());
}
