//! What hostile code gets (`spec/drivers.md` §6).

use super::bed::*;
use crate::driver::{Class, Driver, Ended, ExecSpec, Output};
use std::os::unix::ffi::OsStrExt;

#[tokio::test]
async fn no_rights_no_network_nothing_writable() {
    let bed = Bed::new().await;
    let oci = bed.start(1).await;
    let ran = sh(&oci, 1, "who", "id -u; grep -E '^(Cap|NoNewPrivs|Seccomp:)' /proc/self/status; cat /proc/net/dev | wc -l; ls /sys /proc/acpi | wc -l").await;
    for line in [
        "1000",
        "CapPrm:\t0000000000000000",
        "CapEff:\t0000000000000000",
        "CapBnd:\t0000000000000000",
        "NoNewPrivs:\t1",
        "Seccomp:\t2",
        "3",
    ] {
        assert!(ran.out.lines().any(|one| one == line), "{line}: {}", ran.out);
    }
    for (id, script) in [
        ("usr", "touch /usr/x"),
        ("root", "touch /x"),
        ("etc", "echo x >> /etc/passwd"),
        ("init", "echo x > /.gantry/init"),
        ("mount", "mount -t tmpfs x /tmp"),
        ("unshare", "unshare -U true"),
        ("userns", "unshare -n true"),
        ("name", "hostname x"),
        ("node", "mknod x c 1 3"),
        ("nice", "nice -n -5 true 2>&1 | grep -q denied && exit 9; exit 0"),
        ("sys", "echo x > /proc/sys/kernel/core_pattern"),
        ("dmesg", "dmesg"),
        ("oom", "echo -1000 > /proc/self/oom_score_adj"),
        ("kill", "kill -9 1"),
        ("limit", "ulimit -n 100000"),
        ("net", "/usr/bin/python3 -c 'import socket; socket.create_connection((\"1.1.1.1\", 53), 2)'"),
        ("vsock", "/usr/bin/python3 -c 'import socket; socket.socket(40, 1)'"),
        ("raw", "/usr/bin/python3 -c 'import socket; socket.socket(2, 3, 1)'"),
        ("packet", "/usr/bin/python3 -c 'import socket; socket.socket(17, 3)'"),
        (
            "keyctl",
            "/usr/bin/python3 -c 'import ctypes; exit(ctypes.CDLL(None).syscall(250, 0, -3, 0) == -1)'",
        ),
        (
            "clone",
            "/usr/bin/python3 -c 'import ctypes; exit(ctypes.CDLL(None).syscall(56, 0x10000011, 0, 0, 0, 0) == -1)'",
        ),
        ("init-root", "ls -L /proc/1/root"),
        ("init-mem", "cat /proc/1/environ"),
    ] {
        let ran = sh(&oci, 1, id, script).await;
        assert_ne!(ran.ended, Ended::Exit(0), "{id}: {ran:?}");
        assert!(matches!(ran.ended, Ended::Exit(_)), "{id}: {ran:?}");
    }
    assert_eq!(sh(&oci, 1, "alive", "true").await.ended, Ended::Exit(0));
}

#[tokio::test]
async fn memory_ends_the_command_not_the_vm() {
    let bed = Bed::new().await;
    let oci = bed.start(1).await;
    let ran = sh(&oci, 1, "bomb", "/usr/bin/python3 -c 'x = bytearray(300 << 20)'").await;
    assert_eq!(ran.ended, Ended::Memory, "{ran:?}");
    let usage = oci.usage(&vm(1)).await.expect("usage");
    assert!(usage.oom_kills > 0 && usage.memory_peak_bytes > 100 << 20, "{usage:?}");
    // Killed by itself with the same code is no memory failure.
    assert_eq!(sh(&oci, 1, "137", "exit 137").await.ended, Ended::Exit(137));
    assert_eq!(sh(&oci, 1, "9", "kill -9 $$").await.ended, Ended::Signal(9));
    assert_eq!(sh(&oci, 1, "alive", "true").await.ended, Ended::Exit(0));
}

#[tokio::test]
async fn forks_are_bounded() {
    let bed = Bed::new().await;
    let oci = bed.start(1).await;
    let bomb = ExecSpec { wall_ms: 5_000, ..command("bomb", "f() { f | f & }; f; sleep 0.3; exit 1") };
    let ran = run(&oci, 1, &bomb).await;
    assert!(matches!(ran.ended, Ended::Pids), "{:?}", ran.ended);
    let usage = oci.usage(&vm(1)).await.expect("usage");
    assert!(usage.pids <= spec().pids && usage.forks_refused > 0, "{usage:?}");
    oci.destroy(&vm(1)).await.expect("destroyed");
    assert_eq!(bed.leftovers(), Vec::<String>::new());
}

#[tokio::test]
async fn the_disk_is_bounded() {
    let bed = Bed::new().await;
    let oci = bed.start(1).await;
    for (id, script) in [
        ("fill", "dd if=/dev/zero of=big bs=1M count=100"),
        ("tmp", "rm -f big; cat /dev/zero > /tmp/big"),
        (
            "shm",
            "rm -f /tmp/big; i=0; while head -c 1000000 /dev/zero > /dev/shm/$i; do i=$((i+1)); done; exit 1",
        ),
    ] {
        let ran = sh(&oci, 1, id, script).await;
        assert_eq!(ran.ended, Ended::Disk, "{id}: {ran:?}");
    }
    let files =
        "rm -rf /dev/shm/*; /usr/bin/python3 -c 'for i in range(1000000): open(\"f%d\" % i, \"w\").close()'";
    assert_eq!(sh(&oci, 1, "inodes", files).await.ended, Ended::Disk);
    let usage = oci.usage(&vm(1)).await.expect("usage");
    assert!(usage.scratch_bytes <= 32 << 20 && usage.scratch_free_inodes == 0, "{usage:?}");
    let begun = std::time::Instant::now();
    oci.destroy(&vm(1)).await.expect("destroyed");
    assert!(begun.elapsed().as_secs() < 10, "{:?}", begun.elapsed());
    assert_eq!(bed.leftovers(), Vec::<String>::new());
}

#[tokio::test]
async fn output_is_capped_and_clocks_run() {
    let bed = Bed::new().await;
    let oci = bed.start(1).await;
    let flood = ExecSpec { output_bytes_max: 100_000, ..command("flood", "yes") };
    let ran = run(&oci, 1, &flood).await;
    assert_eq!((ran.out.len(), ran.ended), (100_000, Ended::Output));
    let line = ExecSpec { output_bytes_max: 1000, ..command("line", "head -c 100000000 /dev/zero >&2") };
    let ran = run(&oci, 1, &line).await;
    assert_eq!((ran.err.len(), ran.ended), (1000, Ended::Output));
    assert!(oci.wait(&vm(1), "line").await.expect("ended").truncated);
    let wall = ExecSpec { wall_ms: 200, ..command("wall", "trap '' TERM; exec sleep 1000 > /dev/null 2>&1") };
    assert_eq!(run(&oci, 1, &wall).await.ended, Ended::Wall);
    let stopped = ExecSpec { wall_ms: 200, ..command("stopped", "kill -STOP $$") };
    assert_eq!(run(&oci, 1, &stopped).await.ended, Ended::Wall);
    let cpu = ExecSpec { cpu_ms: 300, ..command("cpu", "while :; do :; done") };
    assert_eq!(run(&oci, 1, &cpu).await.ended, Ended::Cpu);
    // A daemon that keeps the output does not hold up the end; it dies with the VM.
    let daemon = sh(&oci, 1, "daemon", "setsid sleep 1000 & echo left").await;
    assert_eq!((daemon.out.as_str(), daemon.ended), ("left\n", Ended::Exit(0)));
    let waits = sh(&oci, 1, "stdin", "cat").await;
    assert_eq!(waits.ended, Ended::Exit(0));
    oci.destroy(&vm(1)).await.expect("destroyed");
    assert_eq!(bed.leftovers(), Vec::<String>::new());
}

#[tokio::test]
async fn words_are_bounded_and_names_plain() {
    let bed = Bed::new().await;
    let oci = bed.start(1).await;
    let huge = ExecSpec { argv: vec!["true".into(), "x".repeat(1 << 20)], ..command("huge", "") };
    assert_eq!(class(oci.exec(&vm(1), &huge).await.map(drop)), Some(Class::BadImage));
    for id in ["", "..", "a/b", "a\nb"] {
        assert_eq!(
            class(oci.exec(&vm(1), &command(id, "true")).await.map(drop)),
            Some(Class::BadImage),
            "{id}"
        );
    }
    assert_eq!(sh(&oci, 1, "alive", "true").await.ended, Ended::Exit(0));
}

#[tokio::test]
async fn nothing_inside_is_followed() {
    let bed = Bed::new().await;
    let secret = bed.path().join("secret");
    std::fs::write(&secret, "secret").expect("written");
    let oci = bed.start(1).await;
    let home = oci.home(&vm(1)).await.expect("a home");
    let script = "cd out; echo good > good; mkdir d; echo deep > d/deep; ln -s /etc/passwd link; ln -s ../.. up; ln -s d dlink; \
        mkfifo fifo; echo a > one; ln one two; ln -s /proc/1/root proc; truncate -s 1T sparse; printf x > \"$(printf 'a\\nb')\"; \
        printf x > \"$(printf '\\377')\"; i=0; while [ $i -lt 100 ]; do mkdir x && cd x; i=$((i+1)); done; echo end > end";
    let ran = sh(&oci, 1, "make", script).await;
    assert!(matches!(ran.ended, Ended::Exit(_)), "{ran:?}");
    let listing = home.list_out().expect("listed");
    let files: Vec<_> = listing.files.iter().map(|file| file.path.as_str()).collect();
    assert_eq!(files, ["d/deep", "good", "sparse"], "{listing:?} {ran:?}");
    assert_eq!(listing.files[2].bytes, 0, "1 TB is over the largest file");
    assert!(listing.refused >= 8, "{listing:?}");
    assert_eq!(home.read("out/good", 10).expect("read"), b"good\n");
    assert_eq!(home.read("out/d/deep", 10).expect("read"), b"deep\n");
    assert_eq!(class(home.read("out/good", 4)), Some(Class::NoSpace));
    for path in [
        "out/link",
        "out/up/secret",
        "out/dlink/deep",
        "out/fifo",
        "out/one",
        "out/two",
        "out/d",
        "out/proc/etc/passwd",
        "../x",
        "/etc/passwd",
        "out/../out/good",
        "out//good",
        "out/none",
        "",
    ] {
        assert!(home.read(path, 1 << 20).is_err(), "{path}");
    }
    // Nor when writing.
    let outside = secret.as_os_str().as_bytes().to_vec();
    assert!(home.put("out/up/x", &outside, false).is_err());
    assert!(home.put("out/dlink/x", &outside, false).is_err());
    home.put("out/link", b"mine", true).expect("the link is replaced, not followed");
    assert_eq!(home.read("out/link", 10).expect("read"), b"mine");
    assert_eq!(std::fs::read_to_string(&secret).expect("read"), "secret");
    oci.destroy(&vm(1)).await.expect("a deep tree is no matter");
    assert_eq!(bed.leftovers(), Vec::<String>::new());
}

/// A neighbour that must not notice anything.
async fn unharmed(bed: &Bed, id: &str) {
    let ran = sh(&bed.oci(), 2, id, "echo still here; /usr/bin/python3 -c 'bytearray(40 << 20)'").await;
    assert_eq!((ran.out.as_str(), ran.ended), ("still here\n", Ended::Exit(0)), "{id}");
}

#[tokio::test]
async fn tricks_end_for_the_right_reason_and_harm_no_neighbour() {
    let bed = Bed::new().await;
    let oci = bed.start(1).await;
    bed.start(2).await;
    let python = |script: &str| format!("/usr/bin/python3 -c '{script}'");
    for (id, script, wanted) in [
        ("closed", "exec >&- 2>&-; exec sleep 1000".to_owned(), Ended::Wall),
        ("stdin", "sleep 1000 | cat".to_owned(), Ended::Wall),
        ("sparse", "truncate -s 1T big; exit 5".to_owned(), Ended::Exit(5)),
        (
            "links",
            "head -c 1000000 /dev/zero > out/big; for i in 1 2 3; do ln out/big out/$i; done; exit 6"
                .to_owned(),
            Ended::Exit(6),
        ),
        ("137", "sh -c 'exit 137'".to_owned(), Ended::Exit(137)),
        (
            "mmap",
            python("import mmap; m = mmap.mmap(-1, 300 << 20); m.write(b\"x\" * (300 << 20))"),
            Ended::Memory,
        ),
        (
            "nice",
            python("import os; os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(1))"),
            Ended::Exit(1),
        ),
        (
            "trace",
            python("import ctypes; exit(7 if ctypes.CDLL(None).ptrace(16, 1, 0, 0) == -1 else 0)"),
            Ended::Exit(7),
        ),
        (
            "zombies",
            python("import os,time\nfor i in range(30):\n  if os.fork() == 0: os._exit(0)\nexit(8)"),
            Ended::Exit(8),
        ),
        ("alg", python("import socket; socket.socket(38, 5)"), Ended::Exit(1)),
        (
            "setuid",
            "cp /usr/bin/id x && chmod 4755 x && [ $(./x -u) = 1000 ] && exit 9".to_owned(),
            Ended::Exit(9),
        ),
    ] {
        let command =
            ExecSpec { wall_ms: if wanted == Ended::Wall { 300 } else { 20_000 }, ..command(id, &script) };
        let ran = run(&oci, 1, &command).await;
        assert_eq!(ran.ended, wanted, "{id}: {ran:?}");
        unharmed(&bed, id).await;
    }
    for slot in [1, 2] {
        oci.destroy(&vm(slot)).await.expect("destroyed");
    }
    assert_eq!(bed.leftovers(), Vec::<String>::new());
}

#[tokio::test]
async fn monstrous_trees_do_not_hold_up_the_end() {
    let bed = Bed::new().await;
    let oci = bed.oci();
    let large = gantry_proto::noded::VmSpec { memory_mib: 512, disk_mib: 200, ..spec() };
    oci.create(&vm(1), &large).await.expect("created");
    oci.start(&vm(1)).await.expect("started");
    let script = "import os\nos.chdir(\"out\")\nfor i in range(10000): os.mkdir(\"d\"); os.chdir(\"d\")\nos.chdir(os.path.expanduser(\"~/out\"))\nfor i in range(30000): open(\"f%d\" % i, \"w\").close()\n";
    let ran = sh(&oci, 1, "trees", &format!("/usr/bin/python3 -c '{script}'")).await;
    assert_eq!(ran.ended, Ended::Exit(0), "{ran:?}");
    let home = oci.home(&vm(1)).await.expect("a home");
    let listing = home.list_out().expect("listed");
    assert!(listing.truncated && listing.files.len() <= 10_000, "{}", listing.files.len());
    drop(home);
    let begun = std::time::Instant::now();
    oci.destroy(&vm(1)).await.expect("destroyed");
    assert!(begun.elapsed().as_secs() < 10, "{:?}", begun.elapsed());
    assert_eq!(bed.leftovers(), Vec::<String>::new());
}

/// Not afterwards: while each of them goes off the neighbour's commands end as they should.
#[tokio::test]
async fn bombs_harm_no_neighbour_while_they_go_off() {
    let bed = Bed::new().await;
    let oci = bed.start(1).await;
    bed.start(2).await;
    for (id, script, wanted) in [
        (
            "forks",
            "echo begun; exec /usr/bin/python3 -c 'import os, time\nwhile True:\n  try:\n    if os.fork() == 0: time.sleep(60)\n  except OSError: pass'",
            Ended::Wall,
        ),
        ("memory", "echo begun; while :; do /usr/bin/python3 -c 'bytearray(300 << 20)'; done", Ended::Wall),
        ("disk", "echo begun; while :; do cat /dev/zero > big; done 2> /dev/null", Ended::Wall),
        ("noise", "echo begun; while :; do head -c 1M /dev/zero > /dev/shm/x; done", Ended::Wall),
        ("spin", "echo begun; while :; do (while :; do :; done) & sleep 0.1; done 2> /dev/null", Ended::Cpu),
    ] {
        // The limit that is wanted comes first, whatever else the machine does.
        let (wall_ms, cpu_ms) = if wanted == Ended::Cpu { (60_000, 1_000) } else { (3_000, 60_000) };
        let bomb = ExecSpec { wall_ms, cpu_ms, ..command(id, script) };
        let mut execution = oci.exec(&vm(1), &bomb).await.expect("begun");
        let chunk = execution.read(Output::Out, 0, 100).await.expect("read");
        assert!(chunk.bytes.starts_with(b"begun"), "{id}: {chunk:?}");
        for look in 0..3 {
            unharmed(&bed, &format!("{id}-{look}")).await;
        }
        let ended = execution.ended().await.expect("ended");
        assert_eq!(ended, wanted, "{id}");
        oci.end_work(&vm(1)).await.expect("what is left of it ends");
        assert_eq!(
            sh(&oci, 1, &format!("{id}-after"), "rm -f big /dev/shm/x; exit 3").await.ended,
            Ended::Exit(3),
            "{id}"
        );
    }
    for slot in [1, 2] {
        oci.destroy(&vm(slot)).await.expect("destroyed");
    }
    assert_eq!(bed.leftovers(), Vec::<String>::new());
}
