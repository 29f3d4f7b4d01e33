//! What the kernel refuses, by its own word: each call of the list in `spec/drivers.md` §6 with the error it must give.

use super::bed::*;
use crate::driver::{Driver, Ended};
use std::net::TcpListener;

const EPERM: i32 = 1;
const ENOSYS: i32 = 38;
const EAFNOSUPPORT: i32 = 97;
const ENETUNREACH: i32 = 101;
const ECONNREFUSED: i32 = 111;

/// A command that ends with the error of a system call, or with 0 when that is let through.
fn errno(call: &str) -> String {
    format!(
        "/usr/bin/python3 -c 'import ctypes; libc = ctypes.CDLL(None, use_errno=True)\n\
         exit(ctypes.get_errno() if libc.syscall({call}) == -1 else 0)'"
    )
}

fn connect(address: &str, port: u16) -> String {
    format!(
        "/usr/bin/python3 -c 'import socket\n\
         try: socket.create_connection((\"{address}\", {port}), 5)\n\
         except OSError as error: exit(error.errno or 255)'"
    )
}

fn socket(family: i32, kind: i32, protocol: i32) -> String {
    format!(
        "/usr/bin/python3 -c 'import socket\n\
         try: socket.socket({family}, {kind}, {protocol})\n\
         except OSError as error: exit(error.errno)'"
    )
}

#[cfg(target_arch = "x86_64")]
#[tokio::test]
async fn calls_are_refused_as_they_must_be() {
    let bed = Bed::new().await;
    let oci = bed.start(1).await;
    for (id, call, wanted) in [
        ("ptrace-1", "101, 16, 1, 0, 0", EPERM),
        ("bpf", "321, 0, 0, 0", EPERM),
        ("perf", "298, 0, 0, -1, -1, 0", EPERM),
        ("kexec", "246, 0, 0, 0, 0", EPERM),
        ("userfaultfd", "323, 1", EPERM),
        ("settimeofday", "164, 0, 0", EPERM),
        ("sethostname", "170, b\"x\", 1", EPERM),
        ("unshare-user", "272, 0x10000000", EPERM),
        ("clone-user", "56, 0x10000011, 0, 0, 0, 0", EPERM),
        ("clone-net", "56, 0x40000011, 0, 0, 0, 0", EPERM),
        ("keyctl", "250, 0, -3, 0", EPERM),
        ("add_key", "248, b\"user\", b\"x\", b\"x\", 1, -3", EPERM),
        ("setns", "308, 0, 0", EPERM),
        ("mount", "165, b\"x\", b\"/tmp\", b\"tmpfs\", 0, 0", EPERM),
        ("chroot", "161, b\"/\"", EPERM),
        ("mknod", "133, b\"/tmp/node\", 0o20600, 0x103", EPERM),
        ("module", "313, 0, b\"\", 0", EPERM),
        ("open_by_handle", "304, 0, 0, 0", EPERM),
        ("io_uring", "425, 1, 0", ENOSYS),
        // The kernel looks at 32 bits of a family.
        ("vsock-high", "41, ctypes.c_uint64(0x100000028), 1, 0", EAFNOSUPPORT),
        ("alg-high", "41, ctypes.c_uint64(0x8000000000000026), 5, 0", EAFNOSUPPORT),
        ("unix-high", "41, ctypes.c_uint64(0x100000001), 1, 0", 0),
        ("clone3", "435, 0, 0", ENOSYS),
    ] {
        let ran = sh(&oci, 1, id, &errno(call)).await;
        assert_eq!(ran.ended, Ended::Exit(wanted), "{id}: {ran:?}");
    }
    for (id, script, wanted) in [
        ("vsock", socket(40, 1, 0), EAFNOSUPPORT),
        ("alg", socket(38, 5, 0), EAFNOSUPPORT),
        ("raw", socket(2, 3, 1), EPERM),
        ("packet", socket(17, 3, 3), EAFNOSUPPORT),
        ("key", socket(15, 3, 2), EAFNOSUPPORT),
        ("can", socket(29, 3, 1), EAFNOSUPPORT),
        ("xdp", socket(44, 3, 0), EAFNOSUPPORT),
        ("unix", socket(1, 1, 0), 0),
        ("netlink", socket(16, 3, 0), 0),
        ("inet6", socket(10, 1, 0), 0),
        ("outside", connect("192.0.2.1", 53), ENETUNREACH),
    ] {
        let ran = sh(&oci, 1, id, &script).await;
        assert_eq!(ran.ended, Ended::Exit(wanted), "{id}: {ran:?}");
    }
    oci.destroy(&vm(1)).await.expect("destroyed");
    assert_eq!(bed.leftovers(), Vec::<String>::new());
}

/// Calls by the door for 32-bit programs (`int $0x80`) have other numbers, which no list here names: whoever knocks is killed. A
/// kernel without that door says so by another signal.
#[cfg(target_arch = "x86_64")]
#[tokio::test]
async fn the_door_for_other_architectures_is_shut() {
    const SIGSEGV: i32 = 11;
    const SIGSYS: i32 = 31;
    let bed = Bed::new().await;
    let oci = bed.start(1).await;
    // getpid is 20 there; `mov eax, 20; int 0x80; ret`.
    let knock = "/usr/bin/python3 -c 'import ctypes, mmap\n\
        page = mmap.mmap(-1, 4096, prot=7)\n\
        page.write(bytes.fromhex(\"b814000000cd80c3\"))\n\
        at = ctypes.addressof(ctypes.c_char.from_buffer(page))\n\
        ctypes.CFUNCTYPE(ctypes.c_int)(at)()'";
    let ran = sh(&oci, 1, "knock", &format!("exec {knock}")).await;
    assert!(matches!(ran.ended, Ended::Signal(SIGSYS | SIGSEGV)), "{ran:?}");
    // The same page with `mov eax, 39; syscall; ret`, which is getpid here, runs: it was the door.
    let own = knock.replace("b814000000cd80c3", "b8270000000f05c3");
    assert_eq!(sh(&oci, 1, "own", &format!("exec {own}")).await.ended, Ended::Exit(0));
    oci.destroy(&vm(1)).await.expect("destroyed");
    assert_eq!(bed.leftovers(), Vec::<String>::new());
}

#[tokio::test]
async fn the_host_is_not_to_be_seen() {
    let bed = Bed::new().await;
    let oci = bed.start(1).await;
    bed.start(2).await;
    let listener = TcpListener::bind("127.0.0.1:0").expect("bound");
    let port = listener.local_addr().expect("an address").port();
    let ran = sh(&oci, 1, "lo", &connect("127.0.0.1", port)).await;
    assert_eq!(ran.ended, Ended::Exit(ECONNREFUSED), "the VM has a loopback of its own: {ran:?}");
    // PID 1, the shell and what it starts: nothing of the host or of another VM.
    let ran = sh(&oci, 1, "pids", "for p in /proc/[0-9]*; do cat $p/comm; done | sort -u").await;
    let known = ["cat", "init", "sh", "sort", "gantry-init", "3"];
    assert!(!ran.out.is_empty() && ran.out.lines().all(|name| known.contains(&name)), "{ran:?}");
    for (id, script) in [
        ("sysrq", "echo b > /proc/sysrq-trigger"),
        ("kcore", "[ -s /proc/kcore ] && head -c 1 /proc/kcore | grep -q ."),
        ("keys", "[ -s /proc/keys ]"),
        ("score", "echo -1 > /proc/1/oom_score_adj"),
        ("rlimit", "ulimit -Hn 1000000"),
        (
            "fifo",
            "/usr/bin/python3 -c 'import os; os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(1))'",
        ),
        ("cgroup", "ls /sys/fs/cgroup/memory"),
        ("devices", "ls /dev | grep -E \"^(vda|mem|kmsg|fuse|kvm|loop-control)$\""),
        ("vmd", "ls /mnt/vm"),
    ] {
        let ran = sh(&oci, 1, id, script).await;
        assert!(matches!(ran.ended, Ended::Exit(code) if code != 0), "{id}: {ran:?}");
    }
    for slot in [1, 2] {
        oci.destroy(&vm(slot)).await.expect("destroyed");
    }
    assert_eq!(bed.leftovers(), Vec::<String>::new());
}
