//! `config.json` of a VM (OCI runtime specification 1.0), hardened (`spec/drivers.md` §6): own ids, no capabilities
//! beyond what PID 1 needs to become the user, no new privileges, own seccomp list, empty network, everything
//! read-only but the bounded scratch room. Limits are not in it: vmd's control groups hold them.

use super::seccomp;
use gantry_proto::vmd::{UID_RANGE, place};
use serde_json::{Value, json};

/// Where gantry-init is in a VM.
pub const INIT: &str = "/.gantry/init";
/// Home of the user.
pub const HOME: &str = "/home/tester";
/// What PID 1 needs to start commands as the user, to signal them, and to take all capabilities from them.
const CAPABILITIES: [&str; 4] = ["CAP_SETUID", "CAP_SETGID", "CAP_KILL", "CAP_SETPCAP"];
/// Not to be seen.
const MASKED: [&str; 10] = [
    "/proc/acpi",
    "/proc/asound",
    "/proc/kcore",
    "/proc/keys",
    "/proc/latency_stats",
    "/proc/timer_list",
    "/proc/timer_stats",
    "/proc/sched_debug",
    "/proc/scsi",
    "/proc/sysrq-trigger",
];
/// Not to be written.
const READ_ONLY: [&str; 5] = ["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/cgroups"];

fn mount(at: &str, kind: &str, from: &str, options: &[&str]) -> Value {
    json!({"destination": at, "type": kind, "source": from, "options": options})
}

fn bind(at: &str, from: &str, options: &[&str]) -> Value {
    mount(at, "bind", from, &[&["bind", "nosuid", "nodev"], options].concat())
}

/// Directories of the host that a VM sees, read-only, beyond its image.
fn mounts(name: &str, host_dirs: &[&str]) -> Vec<Value> {
    let scratch = place::scratch(name);
    let mut all = vec![
        mount("/proc", "proc", "proc", &["nosuid", "noexec", "nodev"]),
        mount("/dev", "tmpfs", "tmpfs", &["nosuid", "noexec", "mode=755", "size=64k"]),
        mount(
            "/dev/pts",
            "devpts",
            "devpts",
            &["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620"],
        ),
        bind("/dev/shm", &format!("{scratch}/shm"), &["rw"]),
        bind("/tmp", &format!("{scratch}/tmp"), &["rw"]),
        bind(HOME, &format!("{scratch}/home"), &["rw"]),
        bind(INIT, &place::init(), &["ro"]),
    ];
    all.extend(host_dirs.iter().map(|dir| bind(dir, dir, &["ro"])));
    all
}

/// The text of `config.json`.
#[must_use]
pub fn config(name: &str, uid_base: u32, host_dirs: &[&str]) -> String {
    let ids = json!([{"containerID": 0, "hostID": uid_base, "size": UID_RANGE}]);
    let namespaces: Vec<Value> =
        ["pid", "network", "ipc", "uts", "mount", "user"].iter().map(|kind| json!({"type": kind})).collect();
    let capabilities =
        json!({"bounding": CAPABILITIES, "effective": CAPABILITIES, "permitted": CAPABILITIES});
    json!({
        "ociVersion": "1.0.0",
        "process": {
            "terminal": false,
            "user": {"uid": 0, "gid": 0},
            "args": [INIT],
            "env": ["PATH=/usr/local/bin:/usr/bin:/bin"],
            "cwd": "/",
            "capabilities": capabilities,
            "noNewPrivileges": true,
        },
        "root": {"path": place::root(name), "readonly": true},
        "hostname": "vm",
        "mounts": mounts(name, host_dirs),
        "linux": {
            "uidMappings": ids,
            "gidMappings": ids,
            "namespaces": namespaces,
            "maskedPaths": MASKED,
            "readonlyPaths": READ_ONLY,
            "seccomp": seccomp::profile(),
        },
    })
    .to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn everything_is_read_only_but_the_scratch_room() {
        let config: Value = serde_json::from_str(&config("vm1", 1_000_000, &["/usr"])).expect("JSON");
        assert_eq!(config["root"]["readonly"], true);
        assert_eq!(config["process"]["noNewPrivileges"], true);
        for mount in config["mounts"].as_array().expect("a list") {
            let options = mount["options"].as_array().expect("a list");
            let has = |word: &str| options.iter().any(|option| option == word);
            assert!(has("nosuid"), "{mount}");
            let from = mount["source"].as_str().expect("text");
            let scratch = from.starts_with(&place::scratch("vm1"));
            assert!(mount["type"] != "bind" || has("ro") != scratch, "{mount}");
            assert!(mount["type"] != "bind" || has("nodev"), "{mount}");
        }
        assert_eq!(config["linux"]["namespaces"].as_array().map(Vec::len), Some(6));
        assert_eq!(config["linux"]["seccomp"]["architectures"].as_array().map(Vec::len), Some(1));
    }
}
