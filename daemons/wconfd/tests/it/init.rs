//! A new cluster on the disk.

use crate::world::{World, program};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Output;

fn init(root: &Path, more: &[&str]) -> Output {
    let mut init = program();
    init.arg("init").arg("--root").arg(root).args(["--cluster-name", "cluster.example.test"]);
    init.args(more).output().unwrap()
}

fn error(output: &Output) -> String {
    assert!(!output.status.success());
    String::from_utf8_lossy(&output.stderr).into_owned()
}

const NODE: &[&str] = &["--node-name", "node1.example.test", "--address", "127.0.0.1"];

#[test]
fn a_second_cluster_is_refused_and_the_first_unharmed() {
    let world = World::init(1);
    let role = std::fs::read(world.root.role_file()).unwrap();
    let text = error(&init(world.root.path(), &[]));
    assert!(text.contains("already belongs to a cluster"), "{text}");
    assert_eq!(std::fs::read(world.root.role_file()).unwrap(), role);
}

#[test]
fn wrong_options_leave_nothing() {
    let dir = tempfile::tempdir().unwrap();
    for (more, word) in [
        (&["--node-name", "node1.example.test"][..], "--address is needed"),
        (&["--node-name", "-", "--address", "127.0.0.1"], "not a node name"),
        (&["--node-name", "cluster.example.test", "--address", "127.0.0.1"], "another name"),
        (&[NODE, &["--hypervisors", "vmware"]].concat(), "none of"),
        (&[NODE, &["--mac-prefix", "01:00:00"]].concat(), "even first byte"),
        (&[NODE, &["--noded-port", "0"]].concat(), "can't be 0"),
        (&[NODE, &["--group-name", "a b"]].concat(), "node group"),
    ] {
        let text = error(&init(dir.path(), more));
        assert!(text.contains(word), "{text}");
        assert!(!dir.path().join("var/lib/gantry").exists());
        assert!(!dir.path().join("etc/gantry/node.toml").exists());
    }
    assert!(init(dir.path(), NODE).status.success());
}

#[test]
fn leftovers_of_a_crash_and_empty_directories_are_no_obstacle() {
    let dir = tempfile::tempdir().unwrap();
    let lib = dir.path().join("var/lib/gantry");
    std::fs::create_dir_all(lib.join("secrets")).unwrap();
    std::fs::create_dir_all(lib.join("spool")).unwrap();
    let torn = dir.path().join("var/lib/.gantry.init/secrets");
    std::fs::create_dir_all(&torn).unwrap();
    std::fs::write(torn.join("ca.key"), "half").unwrap();
    assert!(init(dir.path(), NODE).status.success());
    assert!(!dir.path().join("var/lib/.gantry.init").exists());
    let mode = |name: &str| std::fs::metadata(lib.join(name)).unwrap().permissions().mode() & 0o777;
    assert_eq!((mode("secrets"), mode("secrets/ca.key"), mode("secrets/node.key")), (0o700, 0o600, 0o600));
    assert_eq!(mode("ssconf_master_node"), 0o444);
    let text = std::fs::read_to_string(lib.join("ssconf_node_primary_ips")).unwrap();
    assert_eq!(text, "node1.example.test 127.0.0.1\n");
}

#[test]
fn what_is_not_ours_is_not_removed() {
    let dir = tempfile::tempdir().unwrap();
    let lib = dir.path().join("var/lib/gantry");
    std::fs::create_dir_all(&lib).unwrap();
    std::fs::write(lib.join("join-secret"), "x").unwrap();
    std::fs::write(lib.join("noded.data"), "x").unwrap();
    let text = error(&init(dir.path(), NODE));
    assert!(text.contains("noded.data is in it"), "{text}");
    assert_eq!(std::fs::read_to_string(lib.join("join-secret")).unwrap(), "x");
    assert_eq!(std::fs::read_to_string(lib.join("noded.data")).unwrap(), "x");
}

#[test]
fn a_noded_that_waits_to_join_does_not_stand_in_the_way() {
    let dir = tempfile::tempdir().unwrap();
    let lib = dir.path().join("var/lib/gantry");
    std::fs::create_dir_all(lib.join("spool")).unwrap();
    std::fs::write(lib.join("join-secret"), "x").unwrap();
    assert!(init(dir.path(), NODE).status.success());
    assert!(!lib.join("join-secret").exists(), "nobody can take the master into another cluster with it");
}

#[test]
fn node_toml_gives_name_and_address() {
    let dir = tempfile::tempdir().unwrap();
    let etc = dir.path().join("etc/gantry");
    std::fs::create_dir_all(&etc).unwrap();
    let text = "name = \"node7.example.test\"\naddress = \"127.0.0.7\"\nnoded_port = 2811\n";
    std::fs::write(etc.join("node.toml"), text).unwrap();
    let differs = error(&init(dir.path(), &["--address", "127.0.0.8"]));
    assert!(differs.contains("node.toml"), "{differs}");
    assert!(init(dir.path(), &[]).status.success());
    let lib = dir.path().join("var/lib/gantry");
    assert_eq!(std::fs::read_to_string(lib.join("ssconf_master_node")).unwrap(), "node7.example.test\n");
    assert_eq!(std::fs::read_to_string(etc.join("node.toml")).unwrap(), text);
}
