//! The system calls VMs may not make: one short list for one architecture, since compiling a profile is the dearest
//! avoidable part of a start (`spec/drivers.md` §1). Calls of other architectures are killed by libseccomp's default.
//! Most of these need capabilities no VM has; the list is the second lock.

use serde_json::{Value, json};

const EPERM: u32 = 1;
const ENOSYS: u32 = 38;
const EAFNOSUPPORT: u32 = 97;

/// Refused as not permitted.
const DENIED: [&str; 59] = [
    // mounts and namespaces
    "mount",
    "umount",
    "umount2",
    "pivot_root",
    "chroot",
    "unshare",
    "setns",
    "mount_setattr",
    "move_mount",
    "open_tree",
    "fsopen",
    "fsmount",
    "fsconfig",
    "fspick",
    "name_to_handle_at",
    "open_by_handle_at",
    // kernel, modules, tracing, devices
    "bpf",
    "perf_event_open",
    "userfaultfd",
    "kexec_load",
    "kexec_file_load",
    "init_module",
    "finit_module",
    "delete_module",
    "create_module",
    "query_module",
    "get_kernel_syms",
    "reboot",
    "syslog",
    "acct",
    "swapon",
    "swapoff",
    "quotactl",
    "quotactl_fd",
    "fanotify_init",
    "lookup_dcookie",
    "nfsservctl",
    "iopl",
    "ioperm",
    "vm86",
    "vm86old",
    "modify_ldt",
    "uselib",
    "ustat",
    "sysfs",
    "_sysctl",
    "process_madvise",
    // names and clocks
    "sethostname",
    "setdomainname",
    "settimeofday",
    "clock_settime",
    "clock_adjtime",
    "stime",
    // keys, whose rings are not bounded by any namespace
    "add_key",
    "request_key",
    "keyctl",
    // memory of other nodes' choosing
    "migrate_pages",
    "move_pages",
    "mbind",
];
/// Refused as unknown, so that programs use what they had before these came.
const UNKNOWN: [&str; 4] = ["clone3", "io_uring_setup", "io_uring_enter", "io_uring_register"];
/// Flags of `clone` that make a namespace: cgroup, uts, ipc, user, pid, net, mount.
const CLONE_FLAGS: [u64; 7] =
    [0x0200_0000, 0x0400_0000, 0x0800_0000, 0x1000_0000, 0x2000_0000, 0x4000_0000, 0x0002_0000];
/// Address families beyond any network namespace: vsock reaches the hypervisor's side, ALG the kernel's ciphers.
const FAMILIES: [u64; 2] = [40, 38];

fn rule(names: &[&str], errno: u32) -> Value {
    json!({"names": names, "action": "SCMP_ACT_ERRNO", "errnoRet": errno})
}

fn rule_if(name: &str, errno: u32, arg: Value) -> Value {
    json!({"names": [name], "action": "SCMP_ACT_ERRNO", "errnoRet": errno, "args": [arg]})
}

/// The `seccomp` part of a bundle.
#[must_use]
pub fn profile() -> Value {
    let architecture = if cfg!(target_arch = "aarch64") { "SCMP_ARCH_AARCH64" } else { "SCMP_ARCH_X86_64" };
    let mut rules = vec![rule(&DENIED, EPERM), rule(&UNKNOWN, ENOSYS)];
    rules.extend(CLONE_FLAGS.map(|flag| {
        rule_if(
            "clone",
            EPERM,
            json!({"index": 0, "value": flag, "valueTwo": flag, "op": "SCMP_CMP_MASKED_EQ"}),
        )
    }));
    rules.extend(FAMILIES.map(|family| {
        rule_if("socket", EAFNOSUPPORT, json!({"index": 0, "value": family, "op": "SCMP_CMP_EQ"}))
    }));
    json!({"defaultAction": "SCMP_ACT_ALLOW", "architectures": [architecture], "syscalls": rules})
}
