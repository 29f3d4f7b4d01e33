//! Pieces, whole archives, and who waits for whom.

use super::*;
use std::time::Duration;

fn images(dir: &tempfile::TempDir, reserve: u64) -> Images {
    Images::open(&Root::new(dir.path()), reserve).expect("opened")
}

/// A good archive and its digest.
fn archive() -> (Vec<u8>, String) {
    let mut builder = tar::Builder::new(Vec::new());
    let mut header = tar::Header::new_gnu();
    header.set_size(2);
    header.set_mode(0o644);
    builder.append_data(&mut header, "etc/a", "hi".as_bytes()).expect("added");
    let bytes = builder.into_inner().expect("whole");
    let digest = Sha256::digest(&bytes).iter().map(|byte| format!("{byte:02x}")).collect();
    (bytes, digest)
}

#[tokio::test]
async fn an_archive_being_unpacked_holds_up_nobody_and_takes_no_pieces() {
    let dir = tempfile::tempdir().expect("dir");
    let images = images(&dir, 0);
    let (bytes, digest) = archive();
    let (half, length) = (bytes.len() / 2, bytes.len() as u64);
    assert_eq!(images.take(&digest, 0, &bytes[..half], false), Ok(Taken::Part(half as u64)));
    assert_eq!(images.take(&digest, half as u64, &bytes[half..], true), Ok(Taken::Whole(length)));
    // Another sender is told where it ends, and at its end waits for the same.
    assert_eq!(images.take(&digest, 0, &bytes[..half], false), Ok(Taken::Part(length)));
    assert_eq!(images.take(&digest, length, b"", true), Ok(Taken::Whole(length)));
    let unpacking = images.unpacking().await;
    let quick = Duration::from_secs(5);
    tokio::time::timeout(quick, images.turn()).await.expect("images change meanwhile");
    assert_eq!(images.put_in_place(&digest), Ok(true));
    drop(unpacking);
    assert_eq!(images.put_in_place(&digest), Ok(true), "the one that waited");
    drop(images.hold(&digest).await.expect("it is here"));
    assert_eq!(images.take(&digest, 0, &bytes, true), Ok(Taken::Known(length)));
    let staged = images.dir.join(STAGED);
    assert_eq!(fs::read_dir(staged).expect("there").count(), 0);
}

#[tokio::test]
async fn a_bad_archive_is_gone_for_all_who_wait() {
    let dir = tempfile::tempdir().expect("dir");
    let images = images(&dir, 0);
    let (bytes, _) = archive();
    let wrong = "0".repeat(64);
    assert_eq!(images.take(&wrong, 0, &bytes, true), Ok(Taken::Whole(bytes.len() as u64)));
    assert_eq!(images.put_in_place(&wrong).expect_err("another digest").code, Code::BadRequest);
    assert_eq!(images.put_in_place(&wrong), Ok(false), "the second one begins anew");
    assert_eq!(images.take(&wrong, 0, b"x", false), Ok(Taken::Part(1)));
}

#[test]
fn the_disk_keeps_its_reserve() {
    let dir = tempfile::tempdir().expect("dir");
    let (bytes, digest) = archive();
    let short = images(&dir, u64::MAX);
    assert_eq!(short.take(&digest, 0, &bytes, true).expect_err("no room").code, Code::Busy);
    // Room for the archive, and then none for what is in it.
    let enough = images(&dir, 0);
    assert_eq!(enough.take(&digest, 0, &bytes, true), Ok(Taken::Whole(bytes.len() as u64)));
    let short = Images { reserve: u64::MAX, ..enough };
    let fail = short.put_in_place(&digest).expect_err("no room");
    assert_eq!(fail.code, Code::Busy, "{}", fail.text);
    assert!(fail.text.contains("make room there"), "{}", fail.text);
    let names: Vec<_> = fs::read_dir(&short.dir).expect("there").flatten().collect();
    assert_eq!(names.len(), 1, "nothing is left of it: {names:?}");
    assert_eq!(fs::read_dir(short.dir.join(STAGED)).expect("there").count(), 0);
}
