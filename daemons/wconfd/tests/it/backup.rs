//! Backups on real files: what is refused, and what comes back.

use crate::world::{World, program};
use gantry_model::role::{Role, RoleFile};
use gantry_model::root::Root;
use gantry_wconfd::backup::manifest::Manifest;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Output;

fn run(root: &Root, args: &[&str], dir: &Path) -> Output {
    program().arg("--root").arg(root.path()).args(args).arg(dir).output().unwrap()
}

fn ok(output: &Output) -> String {
    let out = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success(), "{out}{}", String::from_utf8_lossy(&output.stderr));
    out
}

/// One clear line.
fn error(output: &Output) -> String {
    assert!(!output.status.success(), "{}", String::from_utf8_lossy(&output.stdout));
    let text = String::from_utf8_lossy(&output.stderr).trim_end().to_owned();
    assert!(!text.contains('\n') && !text.contains("panicked"), "{text}");
    text
}

/// A cluster with nothing running, and its backup.
struct Made {
    world: World,
    dir: tempfile::TempDir,
}

impl Made {
    fn new() -> Self {
        let made = Self { world: World::init(1), dir: tempfile::tempdir().unwrap() };
        let said = ok(&run(&made.world.root, &["backup"], &made.at()));
        assert!(said.contains("configuration to row 2 of epoch 1"), "{said}");
        made
    }

    fn at(&self) -> PathBuf {
        self.dir.path().join("b")
    }

    fn copy(&self) -> (tempfile::TempDir, PathBuf) {
        let dir = tempfile::tempdir().unwrap();
        let to = dir.path().join("b");
        let done = std::process::Command::new("cp").arg("-a").arg(self.at()).arg(&to).status().unwrap();
        assert!(done.success());
        (dir, to)
    }
}

fn role(root: &Root) -> RoleFile {
    serde_json::from_slice(&std::fs::read(root.role_file()).unwrap()).unwrap()
}

/// All files of a directory and their content.
fn all(dir: &Path) -> Vec<(PathBuf, Vec<u8>)> {
    let mut found = Vec::new();
    let mut dirs = vec![dir.to_owned()];
    while let Some(dir) = dirs.pop() {
        for entry in std::fs::read_dir(dir).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                dirs.push(path);
            } else {
                found.push((path.clone(), std::fs::read(&path).unwrap()));
            }
        }
    }
    found.sort();
    found
}

#[test]
fn a_backup_is_for_its_owner_and_overwrites_nothing() {
    let made = Made::new();
    let mode = |path: &Path| std::fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode(&made.at()), 0o700);
    for (path, _) in all(&made.at()) {
        assert_eq!(mode(&path) & 0o077, 0, "{}", path.display());
    }
    let before = all(&made.at());
    let text = error(&run(&made.world.root, &["backup"], &made.at()));
    assert!(text.contains("not empty"), "{text}");
    assert_eq!(all(&made.at()), before);
    let text = error(&run(&made.world.root, &["backup"], Path::new("/")));
    assert!(text.contains("can't name a directory"), "{text}");
    let text = error(&run(&made.world.root, &["backup"], &made.dir.path().join("typo/monday")));
    assert!(text.contains("typo is no directory: mount"), "{text}");
    assert!(!made.dir.path().join("typo").exists(), "nothing is filled that nobody made");
    let empty = made.dir.path().join("empty");
    std::fs::create_dir(&empty).unwrap();
    ok(&run(&made.world.root, &["backup"], &empty));
    // What a killed one left is no obstacle, and not taken for a backup.
    let partial = made.dir.path().join(".late.partial/blob");
    std::fs::create_dir_all(&partial).unwrap();
    std::fs::write(partial.join("half"), "half").unwrap();
    let text = error(&run(&made.world.root, &["restore", "--look"], &made.dir.path().join(".late.partial")));
    assert!(text.contains("holds no backup"), "{text}");
    ok(&run(&made.world.root, &["backup"], &made.dir.path().join("late")));
    assert!(!made.dir.path().join(".late.partial").exists());
    assert!(!made.dir.path().join("late/blob/half").exists());
}

#[test]
fn only_a_master_is_backed_up() {
    let made = Made::new();
    let mut other = role(&made.world.root);
    other.role = Role::Candidate;
    gantry_rt::files::write_role(&made.world.root, &other).unwrap();
    let to = made.dir.path().join("no");
    let text = error(&run(&made.world.root, &["backup"], &to));
    assert!(text.contains("not the master"), "{text}");
    let empty = tempfile::tempdir().unwrap();
    let text = error(&run(&Root::new(empty.path()), &["backup"], &to));
    assert!(text.contains("no cluster"), "{text}");
    assert!(!to.exists());
}

#[test]
fn what_is_not_whole_is_not_restored() {
    let made = Made::new();
    let here = tempfile::tempdir().unwrap();
    let root = Root::new(here.path());
    let names: Vec<PathBuf> = all(&made.at())
        .into_iter()
        .map(|(path, _)| path.strip_prefix(made.at()).unwrap().to_owned())
        .collect();
    assert!(names.len() >= 6, "{names:?}");
    for name in &names {
        for harm in ["flip", "cut", "gone"] {
            let (_dir, copy) = made.copy();
            let path = copy.join(name);
            let mut bytes = std::fs::read(&path).unwrap();
            match harm {
                "flip" => {
                    // In the manifest a place that says something, whatever its form.
                    let text = String::from_utf8_lossy(&bytes).into_owned();
                    let at = text.find("made_at").map_or(bytes.len() / 2, |at| at + 12);
                    bytes[at] ^= 1;
                    std::fs::write(&path, bytes).unwrap();
                }
                "cut" => std::fs::write(&path, &bytes[..bytes.len() / 2]).unwrap(),
                _ => std::fs::remove_file(&path).unwrap(),
            }
            let text = error(&run(&root, &["restore", "--yes-do-it"], &copy));
            let file = name.to_string_lossy();
            match (file.as_ref(), harm) {
                ("manifest.json", "gone") => assert!(text.contains("holds no backup"), "{text}"),
                (_, "gone") => assert!(text.contains(&format!("{file} is missing")), "{text}"),
                _ => assert!(text.contains(&format!("the backup is damaged: {file}")), "{text}"),
            }
            assert!(!root.lib().exists(), "{file} {harm}: nothing is made");
        }
    }
    let (_dir, copy) = made.copy();
    let path = copy.join("manifest.json");
    let text = std::fs::read_to_string(&path).unwrap().replace("\"format\": 1", "\"format\": 2");
    std::fs::write(&path, text).unwrap();
    let text = error(&run(&root, &["restore", "--yes-do-it"], &copy));
    assert!(text.contains("format 2") && text.contains("the release that made it"), "{text}");
}

#[test]
fn a_node_of_another_cluster_or_of_no_known_name_is_refused() {
    let made = Made::new();
    let other = World::init(1);
    let before = all(&other.root.lib());
    let text = error(&run(&other.root, &["restore", "--yes-do-it"], &made.at()));
    assert!(text.contains("belongs to cluster") && text.contains(&made.world.cluster.to_string()), "{text}");
    let now: Vec<_> = all(&other.root.lib())
        .into_iter()
        .filter(|(path, _)| path.extension().is_none_or(|e| e != "lock"))
        .collect();
    let before: Vec<_> =
        before.into_iter().filter(|(path, _)| path.extension().is_none_or(|e| e != "lock")).collect();
    assert_eq!(now, before);
    let here = tempfile::tempdir().unwrap();
    let root = Root::new(here.path());
    std::fs::create_dir_all(root.etc()).unwrap();
    for (text, word) in [
        ("name = \"node9.example.test\"\naddress = \"127.0.0.1\"\n", "no such node"),
        (
            "name = \"node1.example.test\"\naddress = \"127.0.0.9\"\nnoded_port = 1\n",
            "give the machine that address",
        ),
    ] {
        std::fs::write(root.node_toml(), text).unwrap();
        let text = error(&run(&root, &["restore", "--yes-do-it"], &made.at()));
        assert!(text.contains(word), "{text}");
        assert!(!root.lib().exists());
    }
}

#[tokio::test]
async fn an_empty_machine_becomes_the_master_again() {
    let mut made = Made::new();
    made.world.boot().await;
    made.world.kill();
    let here = tempfile::tempdir().unwrap();
    let root = Root::new(here.path());
    let said = ok(&run(&root, &["restore", "--look"], &made.at()));
    assert!(said.contains("It would be restored as epoch"), "{said}");
    assert!(!root.role_file().exists() && !root.node_toml().exists());
    let said = ok(&run(&root, &["restore"], &made.at()));
    assert!(said.contains("Restored: 1 node, 0 instances"), "{said}");
    let (old, new) = (role(&made.world.root), role(&root));
    assert_eq!((new.cluster, new.node, new.role), (old.cluster, old.node, Role::Master));
    let manifest = Manifest::load(&made.at()).unwrap();
    assert!(new.epoch >= manifest.epoch + 1_000);
    let mode = std::fs::metadata(root.secrets().join("ca.key")).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    let ends = gantry_store::end_of(&root.lib(), gantry_store::LogKind::Q).unwrap().unwrap();
    assert_eq!(ends.promised, new.epoch);
    assert!(!root.lib().join(".restore").exists());
    // It is a cluster like any other: it can be backed up, and another restore is refused as long as its copies have more.
    let second = made.dir.path().join("second");
    ok(&run(&root, &["backup"], &second));
    let text = error(&run(&root, &["restore"], &made.at()));
    assert!(text.contains("--yes-do-it"), "{text}");
    let before = std::fs::read(root.lib().join("wconf.log")).unwrap();
    let said = ok(&run(&root, &["restore", "--yes-do-it"], &made.at()));
    assert!(said.contains("LOST by a restore") && said.contains("aside/restore-"), "{said}");
    assert!(role(&root).epoch > new.epoch);
    let kept = all(&root.lib().join("aside"));
    assert!(kept.iter().any(|(path, bytes)| path.ends_with("wconf.log") && *bytes == before), "put aside");
}

#[tokio::test]
async fn a_master_at_work_is_not_restored_over() {
    let mut made = Made::new();
    made.world.boot().await;
    let text = error(&run(&made.world.root, &["restore", "--yes-do-it"], &made.at()));
    assert!(text.contains("a master at work") && text.contains("stop it first"), "{text}");
    // Backed up at work, it is the same.
    let while_it_works = made.dir.path().join("work");
    ok(&run(&made.world.root, &["backup"], &while_it_works));
    ok(&run(&Root::new(tempfile::tempdir().unwrap().path()), &["restore", "--look"], &while_it_works));
    made.world.stop();
}
