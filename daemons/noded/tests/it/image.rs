//! Imported images over the wire: a small root made of the host's own files.

use crate::bed::*;
use crate::oci::{self, member};
use crate::work::{opened, run};
use gantry_proto::envelope::Code;
use gantry_proto::noded::{self as wire, Why};
use gantry_rpc::{CallError, Client};
use sha2::{Digest, Sha256};
use std::path::Path;

/// An archive with a shell and what it is linked with.
fn archive() -> Vec<u8> {
    let mut builder = tar::Builder::new(Vec::new());
    let listed = std::process::Command::new("ldd").arg("/bin/sh").output().expect("ldd runs");
    let text = String::from_utf8(listed.stdout).expect("text");
    let libraries = text.split_whitespace().filter(|word| word.starts_with('/')).map(str::to_owned);
    let init = std::process::Command::new("ldd")
        .arg(Path::new(env!("CARGO_BIN_EXE_gantry-noded")).with_file_name("gantry-init"))
        .output()
        .expect("ldd runs");
    let more = String::from_utf8(init.stdout).expect("text");
    let more = more.split_whitespace().filter(|word| word.starts_with('/')).map(str::to_owned);
    let mut all: Vec<String> =
        libraries.chain(more).chain(["/bin/sh".to_owned(), "/bin/cat".to_owned()]).collect();
    all.sort();
    all.dedup();
    for path in all {
        builder
            .append_path_with_name(Path::new(&path).canonicalize().expect("there"), &path[1..])
            .expect("added");
    }
    let mut header = tar::Header::new_gnu();
    header.set_size(7);
    header.set_mode(0o644);
    builder.append_data(&mut header, "etc/motd", "ours: 1".as_bytes()).expect("added");
    builder.into_inner().expect("whole")
}

fn digest(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect()
}

async fn send(client: &Client, digest: &str, archive: &[u8]) -> Result<wire::PieceReply, CallError> {
    let mut reply = wire::PieceReply { next: 0, done: false };
    for (index, bytes) in archive.chunks(wire::PIECE_BYTES_MAX).enumerate() {
        let offset = (index * wire::PIECE_BYTES_MAX) as u64;
        let request = wire::ImagePutRequest {
            fence: fence(1),
            digest: digest.to_owned(),
            offset,
            bytes: bytes.to_vec(),
            last: offset + bytes.len() as u64 == archive.len() as u64,
        };
        reply = client.call::<wire::ImagePut>(&request, PATIENCE).await?;
    }
    Ok(reply)
}

#[tokio::test]
async fn vms_have_imported_images_read_only() {
    let cluster = Cluster::new();
    let (node, client, mut vmd) = member(&cluster).await;
    let archive = archive();
    let digest = digest(&archive);
    let request = |slot| {
        let mut request = oci::request(slot, 1);
        request.spec.image = "small".to_owned();
        request.spec.image_digest = Some(digest.clone());
        request
    };
    let missing = client.call::<wire::VmCreate>(&request(slot(1)), PATIENCE).await;
    assert_eq!(code(missing), Code::NotFound);
    let wrong = "0".repeat(64);
    assert_eq!(code(send(&client, &wrong, &archive).await), Code::BadRequest, "another digest");
    assert_eq!(code(send(&client, "../x", &archive).await), Code::BadRequest);
    let cut = &archive[..archive.len() / 2];
    let cut_digest = self::digest(cut);
    assert_eq!(code(send(&client, &cut_digest, cut).await), Code::BadRequest, "half an archive");
    assert!(send(&client, &digest, &archive).await.expect("sent").done);
    assert!(send(&client, &digest, &archive).await.expect("known").done);
    client.call::<wire::VmCreate>(&request(slot(1)), PATIENCE).await.expect("created");
    let at = crate::work::at(slot(1), 1);
    client.call::<wire::VmOpen>(&wire::VmOpenRequest { at, limits: None }, PATIENCE).await.expect("opened");
    let script = "cat /etc/motd; echo x > /etc/motd || echo no; echo x > out/x && cat out/x; echo t > /tmp/t; [ -e /usr/bin/python3 ] || echo bare";
    let (out, err, why) = run(&client, slot(1), "a", script).await;
    assert_eq!((out.as_str(), why), ("ours: 1no\nx\nbare\n", Why::Exit(0)), "{err}");
    // Beside one of the host's image.
    opened(&client, 2).await;
    assert_eq!(run(&client, slot(2), "a", "[ -e /usr/bin/python3 ]").await.2, Why::Exit(0));
    // One in use stays, whatever the master keeps.
    let keep = wire::ImageKeepRequest { fence: fence(1), digests: vec![] };
    client.call::<wire::ImageKeep>(&keep, PATIENCE).await.expect("kept");
    let there = || node.root.lib().join("image").join(&digest).exists();
    assert!(there());
    assert_eq!(run(&client, slot(1), "b", "cat /etc/motd").await.0, "ours: 1");
    destroy(&client, slot(1), 1).await.expect("destroyed");
    let named = wire::ImageKeepRequest { fence: fence(1), digests: vec![digest.clone()] };
    client.call::<wire::ImageKeep>(&named, PATIENCE).await.expect("kept");
    assert!(there());
    client.call::<wire::ImageKeep>(&keep, PATIENCE).await.expect("kept");
    assert!(!there());
    let names: Vec<_> = std::fs::read_dir(node.root.lib().join("image")).expect("there").flatten().collect();
    assert_eq!(names.len(), 1, "{names:?}");
    destroy(&client, slot(2), 1).await.expect("destroyed");
    vmd.stop();
}
