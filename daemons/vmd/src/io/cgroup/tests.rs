//! Paths and values on a fake tree: what a machine of the other version would be told. Both versions run the same.

use super::*;

const HYBRID: &str = "\
30 29 0:26 / /sys/fs/cgroup rw - tmpfs tmpfs rw,mode=755
31 30 0:27 / /sys/fs/cgroup/cpu,cpuacct rw,relatime shared:1 - cgroup cgroup rw,cpu,cpuacct
33 30 0:29 / /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory
34 30 0:30 / /sys/fs/cgroup/pids rw - cgroup cgroup rw,pids
35 30 0:31 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw
";
const PURE: &str = "30 29 0:26 / /sys/fs/cgroup rw - cgroup2 cgroup2 rw,nsdelegate\n";
const LIMITS: VmLimits = VmLimits { memory_mib: 256, cpu_percent: 150, pids: 64 };

#[test]
fn layouts_are_told_apart() {
    let layout = Layout::find(HYBRID, |_| "hugetlb".to_owned()).expect("found");
    let Layout::V1(mounts) = &layout else { panic!("{layout:?}") };
    assert_eq!(mounts["cpuacct"], Path::new("/sys/fs/cgroup/cpu,cpuacct"));
    assert_eq!(layout.roots().len(), 3);
    assert_eq!(cgroup2_mounts(HYBRID), [Path::new("/sys/fs/cgroup/unified")]);
    let pure = Layout::find(PURE, |_| "cpuset cpu io memory pids".to_owned());
    assert_eq!(pure, Some(Layout::V2("/sys/fs/cgroup".into())));
    assert_eq!(Layout::find(PURE, |_| "cpu io".to_owned()), None);
    assert_eq!(Layout::find("", |_| String::new()), None);
}

/// A tree with the files a kernel would make.
fn tree(files: &[(&str, &str)]) -> tempfile::TempDir {
    let dir = tempfile::tempdir().expect("dir");
    for (name, text) in files {
        let path = dir.path().join(name);
        std::fs::create_dir_all(path.parent().expect("below")).expect("made");
        std::fs::write(path, text).expect("written");
    }
    dir
}

fn read(dir: &tempfile::TempDir, name: &str) -> String {
    std::fs::read_to_string(dir.path().join(name)).expect("read")
}

#[test]
fn version_2_is_told_its_values() {
    let dir = tree(&[
        ("cgroup.subtree_control", ""),
        ("gantry/cgroup.subtree_control", ""),
        ("gantry/n/cgroup.subtree_control", ""),
        ("gantry/n/vm/memory.max", "max"),
        ("gantry/n/vm/memory.swap.max", "max"),
        ("gantry/n/vm/cpu.max", "max 100000"),
        ("gantry/n/vm/pids.max", "max"),
        ("gantry/n/vm/cgroup.procs", ""),
        ("gantry/n/vm/memory.current", "4096\n"),
        ("gantry/n/vm/memory.peak", "8192\n"),
        ("gantry/n/vm/memory.events", "low 0\noom 3\noom_kill 2\noom_group_kill 9\n"),
        ("gantry/n/vm/cpu.stat", "usage_usec 77\nuser_usec 1\n"),
        ("gantry/n/vm/pids.current", "5\n"),
        ("gantry/n/vm/pids.events", "max 6\n"),
        (
            "gantry/n/vm/io.stat",
            "8:0 rbytes=1000 wbytes=200 rios=7 wios=7 dbytes=5\n253:1 rbytes=30 wbytes=4\n",
        ),
    ]);
    let group = Cgroup::new(&Layout::V2(dir.path().to_owned()), "gantry/n/vm");
    group.create(&LIMITS).expect("created");
    for name in ["cgroup.subtree_control", "gantry/cgroup.subtree_control", "gantry/n/cgroup.subtree_control"]
    {
        assert_eq!(read(&dir, name), "+memory +pids +cpu");
    }
    assert!(read(&dir, "gantry/n/vm/memory.max").starts_with("268435456"));
    assert!(read(&dir, "gantry/n/vm/memory.swap.max").starts_with('0'));
    assert!(read(&dir, "gantry/n/vm/cpu.max").starts_with("150000 100000"));
    assert!(read(&dir, "gantry/n/vm/pids.max").starts_with("64"));
    assert!(group.doors().expect("looked").is_none());
    group.enter(123).expect("entered");
    assert_eq!(read(&dir, "gantry/n/vm/cgroup.procs"), "123");
    let counts = Counts {
        cpu_us: 77,
        memory: 4096,
        memory_peak: 8192,
        oom_kills: 2,
        pids: 5,
        forks_refused: 6,
        io_bytes: 1234,
    };
    assert_eq!((group.counts(), group.cpu_us()), (counts, 77));
}

#[test]
fn version_1_is_told_its_values() {
    let dir = tree(&[
        ("memory/g/memory.limit_in_bytes", ""),
        ("memory/g/memory.memsw.limit_in_bytes", ""),
        ("memory/g/memory.usage_in_bytes", "4096\n"),
        ("memory/g/memory.max_usage_in_bytes", "8192\n"),
        ("memory/g/memory.oom_control", "oom_kill_disable 0\nunder_oom 0\noom_kill 2\n"),
        ("cpu/g/cpu.cfs_period_us", ""),
        ("cpu/g/cpu.cfs_quota_us", ""),
        ("cpuacct/g/cpuacct.usage", "77999\n"),
        ("pids/g/pids.max", ""),
        ("pids/g/pids.current", "5\n"),
        ("pids/g/pids.events", "max 6\n"),
        (
            "blkio/g/blkio.throttle.io_service_bytes",
            "254:0 Read 1000\n254:0 Write 200\n254:0 Sync 1200\n7:1 Read 34\n7:1 Total 34\nTotal 1234\n",
        ),
    ]);
    let mounts: BTreeMap<_, _> =
        CONTROLLERS.into_iter().chain([IO]).map(|name| (name, dir.path().join(name))).collect();
    let group = Cgroup::new(&Layout::V1(mounts.clone()), "g");
    group.create(&VmLimits { cpu_percent: 0, ..LIMITS }).expect("created");
    assert_eq!(read(&dir, "memory/g/memory.limit_in_bytes"), "268435456");
    assert_eq!(read(&dir, "memory/g/memory.memsw.limit_in_bytes"), "268435456");
    assert_eq!(read(&dir, "cpu/g/cpu.cfs_quota_us"), "1000");
    assert_eq!(read(&dir, "pids/g/pids.max"), "64");
    let counts = Counts {
        cpu_us: 77,
        memory: 4096,
        memory_peak: 8192,
        oom_kills: 2,
        pids: 5,
        forks_refused: 6,
        io_bytes: 1234,
    };
    assert_eq!(group.counts(), counts);
    assert!(group.doors().is_err_and(|why| why.to_string().contains("g/tasks")), "a group without its file");
    for name in mounts.keys() {
        std::fs::write(dir.path().join(name).join("g/tasks"), "").expect("written");
    }
    assert_eq!(group.doors().expect("opened").map(|doors| doors.len()), Some(5));
    let mut without = mounts;
    without.remove(IO);
    assert_eq!(Cgroup::new(&Layout::V1(without), "g").counts(), Counts { io_bytes: 0, ..counts });
    assert!(
        group.remove().is_err(),
        "it is not empty of files here, and nothing but empty groups is removed"
    );
}

#[test]
fn only_one_process_of_one_thread_is_alone() {
    let tree = tree(&[("pids/g/pids.max", "")]);
    let mounts = BTreeMap::from([("pids", tree.path().join("pids"))]);
    let (group, dir) = (Cgroup::new(&Layout::V1(mounts), "g"), tree.path().join("pids/g"));
    assert!(!group.has_only(7), "no list");
    for (procs, current, alone) in [
        ("7\n", "1\n", true),
        ("7\n", "2\n", false),
        ("7\n0\n", "1\n", false),
        ("7\n8\n", "2\n", false),
        ("8\n", "1\n", false),
        ("", "0\n", false),
        ("", "1\n", false),
    ] {
        std::fs::write(dir.join("cgroup.procs"), procs).expect("written");
        std::fs::write(dir.join("pids.current"), current).expect("written");
        assert_eq!(group.has_only(7), alone, "{procs:?} {current:?}");
    }
    std::fs::remove_file(dir.join("pids.current")).expect("removed");
    std::fs::write(dir.join("cgroup.procs"), "7\n").expect("written");
    assert!(!group.has_only(7), "no count");
}
