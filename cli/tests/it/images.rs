//! Scenes of images.

use crate::stage::{Stage, Turn, job};
use crate::streamd::{Acts, Streamd};
use gantry_model::role::Role;
use serde_json::json;

#[test]
fn a_directory_is_imported() {
    let stage = Stage::new(Role::Master);
    let tree = stage.root.path().join("tree");
    std::fs::create_dir_all(tree.join("bin")).unwrap();
    std::fs::write(tree.join("bin/sh"), "#!").unwrap();
    nix::unistd::mkfifo(&tree.join("pipe"), nix::sys::stat::Mode::S_IRWXU).unwrap();
    let streamd = Streamd::new(&stage, Acts::default());
    let luxid = stage.luxid(job(1, json!(["success", ["success"], [null]])));
    let ended = stage.run(&format!("gnt-os import deb {}", tree.display()));
    assert_eq!(ended.code, Some(0), "{ended:?}");
    assert!(
        ended.err.contains("1 device(s), pipe(s) or socket(s) are left out, such as pipe\n"),
        "{ended:?}"
    );
    let op = &luxid.heard()[0].1[0][0];
    let digest = op["digest"].as_str().unwrap();
    assert_eq!((&op["OP_ID"], &op["image_name"]), (&json!("OP_OS_IMPORT"), &json!("deb")));
    assert!(ended.out.ends_with(&format!("Imported deb: 2 entries, 3K, sha256 {digest}\n")), "{ended:?}");
    streamd.acts(|acts| assert_eq!(json!(acts.blobs[digest].len()), op["bytes"], "the body is there"));
}

#[test]
fn what_is_no_image_says_how_to_make_one() {
    let stage = Stage::new(Role::Master);
    let file = stage.root.path().join("x");
    std::fs::write(&file, b"\xfd7zXZ\0....").unwrap();
    let ended = stage.run(&format!("gnt-os import deb {}", file.display()));
    assert_eq!(ended.code, Some(1));
    assert!(ended.err.contains("xz -dc") && ended.err.contains("cannot import"), "{ended:?}");
    for name in ["host", "No", "-x"] {
        assert_eq!(stage.run(&format!("gnt-os import {name} {}", file.display())).code, Some(2), "{name}");
    }
}

#[test]
fn images_are_listed_and_removed() {
    let stage = Stage::new(Role::Master);
    let field = |name: &str, kind: &str| json!({"name": name, "title": name, "kind": kind, "doc": ""});
    let fields = json!([field("name", "text"), field("size", "unit"), field("digest", "text")]);
    let answer = json!({"fields": fields, "data": [[[0, "deb"], [0, 3], [0, "ab"]]]});
    let mut script = vec![Turn::Ok(answer)];
    script.extend(job(1, json!(["success", ["success"], [null]])));
    let luxid = stage.luxid(script);
    assert_eq!(stage.run("gnt-os list").out, "name size digest\ndeb    3M ab\n");
    luxid.requests.recv().unwrap();
    assert_eq!(stage.run("gnt-os remove deb").code, Some(0));
    assert_eq!(luxid.heard()[0].1[0][0]["OP_ID"], "OP_OS_REMOVE");
}
