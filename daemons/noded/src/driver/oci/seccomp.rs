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
/// Address families that are refused, as (mask, value): all but UNIX (1), INET (2), INET6 (10) and NETLINK (16). Vsock reaches
/// the hypervisor's side, ALG the kernel's ciphers, and neither is bounded by a network namespace; the others are code that
/// hardly anybody reads. The kernel takes the low 32 bits of the argument for an int, so the masks do, too. It has none from
/// 64 on.
const FAMILIES: [(u64, u64); 9] = [
    (0xffff_ffe0, 32),
    // 17 to 31
    (0xffff_fff1, 16 + 1),
    (0xffff_fff2, 16 + 2),
    (0xffff_fff4, 16 + 4),
    (0xffff_fff8, 16 + 8),
    // 4 to 7 and 12 to 15; 8 and 9; 3; 11
    (0xffff_fff4, 4),
    (0xffff_fffe, 8),
    (0xffff_ffff, 3),
    (0xffff_ffff, 11),
];

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
    rules.extend(FAMILIES.map(|(mask, family)| {
        let arg = json!({"index": 0, "value": mask, "valueTwo": family, "op": "SCMP_CMP_MASKED_EQ"});
        rule_if("socket", EAFNOSUPPORT, arg)
    }));
    json!({"defaultAction": "SCMP_ACT_ALLOW", "architectures": [architecture], "syscalls": rules})
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_four_families_are_left() {
        let refused = |family: u64| FAMILIES.iter().any(|(mask, value)| family & mask == *value);
        let left: Vec<u64> = (1..64).filter(|family| !refused(*family)).collect();
        assert_eq!(left, [1, 2, 10, 16]);
        assert!(refused(0x1_0000_0028) && refused(0xffff_ffff_0000_0026));
    }
}
