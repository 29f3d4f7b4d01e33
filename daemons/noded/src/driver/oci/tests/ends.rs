//! How hostile commands end, and that the node and other VMs do not notice (`spec/drivers.md` §6): memory that no
//! process seems to have, daemons that outlive their command, floods of files, of processes and of words.

use super::bed::*;
use crate::driver::{Class, Driver, Ended, ExecSpec};
use gantry_proto::noded::VmSpec;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

fn python(script: &str) -> String {
    format!("/usr/bin/python3 -c '{script}'")
}

/// Takes most of the VM's memory as shared memory, which stays when its maker has ended.
const HOLD: &str = "import ctypes\n\
    libc = ctypes.CDLL(None)\n\
    libc.shmat.restype = ctypes.c_void_p\n\
    for i in range(26):\n  \
      at = libc.shmat(libc.shmget(0, 4 << 20, 0o1600), None, 0)\n  \
      ctypes.memset(ctypes.c_void_p(at), 1, 4 << 20)\n";

/// A shell that takes the rest for a file, itself smaller than PID 1, and no more to be killed than that.
const REST: &str = "echo 0 > /proc/self/oom_score_adj || exit 7\n\
    while :; do echo xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx; done > /dev/shm/x";

#[tokio::test]
async fn memory_is_the_reason_also_when_the_kernel_takes_pid_1() {
    let bed = Bed::new().await;
    let oci = bed.start(1).await;
    bed.start(2).await;
    let ran = sh(&oci, 1, "hold", &python(HOLD)).await;
    assert_eq!(ran.ended, Ended::Exit(0), "{ran:?}");
    let ran = sh(&oci, 1, "rest", REST).await;
    assert_eq!(ran.ended, Ended::Memory, "{ran:?}");
    let next = class(oci.exec(&vm(1), &command("next", "true")).await.map(drop));
    assert!(matches!(next, Some(Class::NotRunning | Class::Lost)), "PID 1 was the victim: {next:?}");
    assert!(oci.usage(&vm(1)).await.expect("usage").oom_kills > 0);
    assert_eq!(sh(&oci, 2, "neighbour", "exit 3").await.ended, Ended::Exit(3));
    for slot in [1, 2] {
        oci.destroy(&vm(slot)).await.expect("destroyed");
    }
    assert_eq!(bed.leftovers(), Vec::<String>::new());
}

#[tokio::test]
async fn memory_is_the_reason_for_many_small_victims_and_hidden_memory() {
    let bed = Bed::new().await;
    let oci = bed.start(1).await;
    bed.start(2).await;
    let small = "import os\n\
        open(\"/proc/self/oom_score_adj\", \"w\").write(\"0\")\n\
        for i in range(50):\n  \
          if os.fork() == 0:\n    \
            x = bytearray(8 << 20)\n    \
            while True: x[os.getpid() % 4096] = 1\n\
        while True:\n  \
          if os.wait()[1]: os._exit(1)\n";
    // Files in memory without a name: no process has them mapped.
    let hidden = "import os\n\
        for i in range(20):\n  \
          f = os.memfd_create(\"x\")\n  \
          for j in range(30): os.write(f, b\"x\" * (1 << 20))\n";
    for (id, script) in [("small", small), ("hidden", hidden)] {
        let spec = ExecSpec { wall_ms: 20_000, ..command(id, &python(script)) };
        let ran = run(&oci, 1, &spec).await;
        assert_eq!(ran.ended, Ended::Memory, "{id}: {ran:?}");
        assert_eq!(sh(&oci, 2, id, "exit 3").await.ended, Ended::Exit(3), "the neighbour");
    }
    for slot in [1, 2] {
        oci.destroy(&vm(slot)).await.expect("destroyed");
    }
    assert_eq!(bed.leftovers(), Vec::<String>::new());
}

/// Locked as far as the kernel lets it: that can't be swapped out, and the kernel must kill.
#[tokio::test]
async fn locked_memory_is_bounded_as_any_other() {
    let bed = Bed::new().await;
    let oci = bed.start(1).await;
    bed.start(2).await;
    let lock = "import ctypes, mmap\n\
        libc = ctypes.CDLL(None)\n\
        held = []\n\
        for i in range(300):\n  \
          m = mmap.mmap(-1, 1 << 20)\n  \
          at = ctypes.c_void_p(ctypes.addressof(ctypes.c_char.from_buffer(m)))\n  \
          if libc.mlock(at, ctypes.c_size_t(1 << 20)) == 0: print(\"locked\", flush=True)\n  \
          m.write(b\"x\" * (1 << 20))\n  \
          held.append(m)\n";
    let ran = sh(&oci, 1, "mlock", &python(lock)).await;
    assert_eq!(ran.ended, Ended::Memory, "{ran:?}");
    assert!(ran.out.starts_with("locked\n"), "nothing was locked: {ran:?}");
    assert_eq!(sh(&oci, 1, "alive", "exit 3").await.ended, Ended::Exit(3));
    assert_eq!(sh(&oci, 2, "neighbour", "exit 3").await.ended, Ended::Exit(3));
    for slot in [1, 2] {
        oci.destroy(&vm(slot)).await.expect("destroyed");
    }
    assert_eq!(bed.leftovers(), Vec::<String>::new());
}

#[tokio::test]
async fn a_daemon_changes_no_result_after_the_stop() {
    let bed = Bed::new().await;
    let oci = bed.start(1).await;
    // Twice forked, in a session of its own: the end of its command does not end it.
    let daemon = "(setsid sh -c \"i=0; while :; do i=\\$((i+1)); echo \\$i >> out/late; [ \\$((i % 100)) = 0 ] && : > out/f\\$i; done\" \
        > /dev/null 2>&1 < /dev/null &) & wait; while ! [ -s out/late ]; do :; done";
    let ran = sh(&oci, 1, "daemon", daemon).await;
    assert_eq!(ran.ended, Ended::Exit(0), "{ran:?}");
    let home = oci.home(&vm(1)).await.expect("a home");
    let size = || home.open_file("out/late").map_or(0, |(_, bytes)| bytes);
    let before = size();
    until("the daemon writes on", async || size() > before).await;
    oci.stop(&vm(1), Duration::ZERO).await.expect("stopped");
    let (listing, text) = (home.list_out().expect("listed"), home.read("out/late", 32 << 20).expect("read"));
    assert!(!text.is_empty() && bed.procs(1).is_empty());
    // What would still write had time enough while another VM was made and removed.
    bed.start(2).await;
    oci.destroy(&vm(2)).await.expect("destroyed");
    assert_eq!(home.list_out().expect("listed"), listing);
    assert_eq!(home.read("out/late", 32 << 20).expect("read"), text);
    drop(home);
    oci.destroy(&vm(1)).await.expect("destroyed");
    assert_eq!(bed.leftovers(), Vec::<String>::new());
}

/// A frozen process: no signal ends it. Thawed when dropped.
struct Ice(PathBuf);

impl Ice {
    fn around(pid: i32, dir: PathBuf) -> Self {
        std::fs::create_dir(&dir).expect("made");
        let ice = Self(dir);
        std::fs::write(ice.0.join("cgroup.procs"), pid.to_string()).expect("moved");
        std::fs::write(ice.0.join("freezer.state"), "FROZEN").expect("frozen");
        ice
    }
}

impl Drop for Ice {
    fn drop(&mut self) {
        let _ = std::fs::write(self.0.join("freezer.state"), "THAWED");
        // Empty as soon as the process has done what it was told meanwhile.
        let begun = Instant::now();
        while std::fs::remove_dir(&self.0).is_err() && begun.elapsed() < Duration::from_secs(20) {
            std::thread::yield_now();
        }
    }
}

/// A stop is answered when nothing can change a file any more, not before.
#[tokio::test]
async fn a_stop_waits_for_whoever_does_not_die() {
    let freezer = Path::new("/sys/fs/cgroup/freezer");
    if !freezer.is_dir() {
        // Version 2 lets frozen processes die.
        eprintln!("not tested: no freezer of control groups version 1");
        return;
    }
    let bed = Bed::new().await;
    let oci = bed.start(1).await;
    let first = bed.procs(1);
    let daemon = "(setsid sh -c 'echo 1 > out/up; exec sleep 1000' > /dev/null 2>&1 < /dev/null &) & \
        wait; while ! [ -s out/up ]; do :; done";
    let ran = sh(&oci, 1, "daemon", daemon).await;
    assert_eq!(ran.ended, Ended::Exit(0), "{ran:?}");
    let daemon = bed.procs(1).into_iter().find(|pid| !first.contains(pid)).expect("it outlives its command");
    let ice = Ice::around(daemon, freezer.join(format!("gantry-test-{}", bed.vmd.id())));
    let stopping = tokio::spawn({
        let oci = bed.oci();
        async move { oci.stop(&vm(1), Duration::ZERO).await }
    });
    until("all others are dead", async || bed.procs(1) == [daemon]).await;
    assert!(!stopping.is_finished(), "one of its processes lives");
    drop(ice);
    stopping.await.expect("joined").expect("stopped");
    assert_eq!(bed.procs(1), Vec::<i32>::new());
    oci.destroy(&vm(1)).await.expect("destroyed");
    assert_eq!(bed.leftovers(), Vec::<String>::new());
}

/// The kernel counts a dead PID 1 until its runtime has taken its end.
#[tokio::test]
async fn a_stopped_vm_has_no_process_whatever_its_runtime_does() {
    let bed = Bed::with(Some("crun")).await;
    let oci = bed.start(1).await;
    let tasks = std::fs::read_dir(format!("/proc/{}/task", bed.vmd.id())).expect("vmd lives");
    let children = tasks
        .map(|task| std::fs::read_to_string(task.expect("a task").path().join("children")).expect("read"));
    let all = children.collect::<String>();
    let crun = Pid::from_raw(all.trim().parse().expect("one child: the runtime of the one VM"));
    kill(crun, Signal::SIGSTOP).expect("stopped");
    oci.stop(&vm(1), Duration::ZERO).await.expect("stopped");
    until("PID 1 is dead", async || bed.procs(1).is_empty()).await;
    assert_eq!(oci.usage(&vm(1)).await.expect("usage").pids, 0);
    kill(crun, Signal::SIGCONT).expect("there still: else this proves nothing");
    oci.destroy(&vm(1)).await.expect("destroyed");
    assert_eq!(bed.leftovers(), Vec::<String>::new());
}

#[tokio::test]
async fn a_million_files_are_the_disk_s_limit_and_hold_up_nobody() {
    let bed = Bed::new().await;
    let oci = bed.oci();
    let large = VmSpec { memory_mib: 1024, disk_mib: 900, ..spec() };
    oci.create(&vm(1), &large).await.expect("created");
    oci.start(&vm(1)).await.expect("started");
    bed.start(2).await;
    let script =
        "import os\nos.chdir(\"out\")\nfor i in range(1000000): os.close(os.open(str(i), os.O_CREAT))";
    let ran = sh(&oci, 1, "files", &python(script)).await;
    assert!(matches!(ran.ended, Ended::Disk | Ended::Memory), "{:?}", ran.ended);
    let home = oci.home(&vm(1)).await.expect("a home");
    let begun = Instant::now();
    let listing = home.list_out().expect("listed");
    assert!(listing.truncated && listing.files.len() == 10_000, "{}", listing.files.len());
    assert!(begun.elapsed() < Duration::from_secs(10), "{:?}", begun.elapsed());
    drop(home);
    let removal = Instant::now();
    let destroying = tokio::spawn({
        let oci = bed.oci();
        async move { oci.destroy(&vm(1)).await }
    });
    let mut longest = Duration::ZERO;
    let mut looks = 0;
    while !destroying.is_finished() {
        let begun = Instant::now();
        oci.alive(&vm(2)).await.expect("the neighbour answers");
        longest = longest.max(begun.elapsed());
        looks += 1;
    }
    destroying.await.expect("joined").expect("destroyed");
    // Not the whole of the removal; on a busy machine all takes longer.
    let bound = Duration::from_millis(500).max(removal.elapsed() / 2);
    assert!(looks > 0 && longest < bound, "{looks} looks, one took {longest:?} of {:?}", removal.elapsed());
    oci.destroy(&vm(2)).await.expect("destroyed");
    assert_eq!(bed.leftovers(), Vec::<String>::new());
}

#[tokio::test]
async fn floods_meet_their_own_limit() {
    let bed = Bed::new().await;
    let oci = bed.start(1).await;
    let zombies = "import os\nfor i in range(200):\n  if os.fork() == 0: os._exit(0)\n";
    let threads = "import threading,time\nfor i in range(200): threading.Thread(target=time.sleep, args=(9,), daemon=True).start()";
    for (id, script, wanted) in [
        ("zombies", python(zombies), Ended::Pids),
        ("threads", python(threads), Ended::Pids),
        // One file: the kernel's own limit for files of a process, which is the size of the disk.
        ("file", "cat /dev/zero > out/x".to_owned(), Ended::Disk),
    ] {
        let ran = run(&oci, 1, &ExecSpec { wall_ms: 20_000, ..command(id, &script) }).await;
        assert_eq!(ran.ended, wanted, "{id}: {ran:?}");
        let after = sh(&oci, 1, &format!("{id}-after"), "rm -f out/x; exit 3").await;
        assert_eq!(after.ended, Ended::Exit(3), "{id}: {after:?}");
    }
    // CPU time is the VM's, not a process's: four that each stay below it pass it together.
    let four = "for i in 1 2 3 4; do (while :; do :; done) & done; wait";
    let cpu = ExecSpec { cpu_ms: 400, wall_ms: 20_000, ..command("cpu", four) };
    assert_eq!(run(&oci, 1, &cpu).await.ended, Ended::Cpu);
    let end = oci.wait(&vm(1), "cpu").await.expect("ended");
    assert!(end.cpu_us < 1_500_000, "{end:?}");
    // Words: what does not fit a packet is refused before it starts.
    let env = (0..10_000).map(|i| (format!("V{i}"), "x".repeat(100))).collect();
    let huge = ExecSpec { env, ..command("env", "true") };
    assert_eq!(class(oci.exec(&vm(1), &huge).await.map(drop)), Some(Class::BadImage));
    assert_eq!(sh(&oci, 1, "alive", "exit 3").await.ended, Ended::Exit(3));
    oci.destroy(&vm(1)).await.expect("destroyed");
    assert_eq!(bed.leftovers(), Vec::<String>::new());
}

#[tokio::test]
async fn the_outputs_of_a_vm_are_bounded_together() {
    let bed = Bed::new().await;
    let oci = bed.start(1).await;
    // Each within its own cap of 64 MiB, four of them the VM's 256 MiB.
    let flood = |id: &str| ExecSpec { output_bytes_max: 64 << 20, ..command(id, "head -c 64M /dev/zero") };
    for id in ["a", "b", "c", "d"] {
        let mut execution = oci.exec(&vm(1), &flood(id)).await.expect("begun");
        assert_eq!(execution.ended().await.expect("ended"), Ended::Exit(0), "{id}");
    }
    let ran = sh(&oci, 1, "e", "echo one byte is too many; sleep 60").await;
    assert_eq!((ran.ended, ran.out.as_str()), (Ended::Output, ""));
    assert_eq!(sh(&oci, 1, "quiet", "exit 3").await.ended, Ended::Exit(3));
    oci.destroy(&vm(1)).await.expect("destroyed");
    assert_eq!(bed.leftovers(), Vec::<String>::new());
}

/// They are not counted as the VM's memory (docs/adr/0006): its disk bounds them, beside its memory.
#[tokio::test]
async fn files_put_in_from_outside_are_bounded_by_the_disk() {
    let bed = Bed::new().await;
    let oci = bed.start(1).await;
    let home = oci.home(&vm(1)).await.expect("a home");
    let large = vec![7_u8; 30 << 20];
    home.put("first", &large, false).expect("the disk has room");
    assert_eq!(class(home.put("second", &large, false)), Some(Class::NoSpace));
    let usage = oci.usage(&vm(1)).await.expect("usage");
    assert!(usage.scratch_bytes <= 32 << 20, "{usage:?}");
    // What the VM's own processes write and use is bounded as ever, and no more than both together is taken from the node.
    let ran = sh(&oci, 1, "hungry", &python("x = bytearray(300 << 20)")).await;
    assert_eq!(ran.ended, Ended::Memory, "{ran:?}");
    let usage = oci.usage(&vm(1)).await.expect("usage");
    assert!(usage.memory_peak_bytes <= 128 << 20, "{usage:?}");
    drop(home);
    oci.destroy(&vm(1)).await.expect("destroyed");
    assert_eq!(bed.leftovers(), Vec::<String>::new());
}
