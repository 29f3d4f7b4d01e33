use super::*;
use std::os::unix::fs::PermissionsExt;

#[tokio::test]
async fn long_paths_work() {
    let dir = tempfile::tempdir().expect("a directory");
    let deep = dir.path().join("d".repeat(100)).join("e".repeat(100));
    std::fs::create_dir_all(&deep).expect("made");
    let path = deep.join("x.sock");
    let listener = bind(&path, 0o660).expect("binds");
    assert_eq!(std::fs::metadata(&path).expect("there").permissions().mode() & 0o777, 0o660);
    let (connected, accepted) = tokio::join!(connect(&path), listener.accept());
    connected.expect("connects");
    accepted.expect("accepts");
}

#[tokio::test]
async fn a_stale_file_is_replaced_and_a_living_one_is_not() {
    let dir = tempfile::tempdir().expect("a directory");
    let path = dir.path().join("x.sock");
    drop(bind(&path, 0o600).expect("binds"));
    let refused = connect(&path).await.expect_err("nobody listens");
    assert_eq!(refused.kind(), io::ErrorKind::ConnectionRefused);
    let _listener = bind(&path, 0o600).expect("replaces");
    assert_eq!(bind(&path, 0o600).expect_err("taken").kind(), io::ErrorKind::AddrInUse);
    connect(&path).await.expect("connects");
}

#[tokio::test]
async fn a_file_that_is_no_socket_stays() {
    let dir = tempfile::tempdir().expect("a directory");
    let path = dir.path().join("x.sock");
    std::fs::write(&path, "mine").expect("written");
    assert_eq!(bind(&path, 0o600).expect_err("taken").kind(), io::ErrorKind::AddrInUse);
    assert_eq!(std::fs::read_to_string(&path).expect("there"), "mine");
}
