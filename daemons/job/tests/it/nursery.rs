//! The process in which jobs are born, with these tests in luxid's place.

use super::luxid::{CLUSTER, Luxid};
use gantry_model::ids::JobOwner;
use gantry_proto::job::{Born, Ready};
use gantry_rpc::parcel;
use rustix::net::{AddressFamily, SocketFlags, SocketType, socketpair};
use std::io::{BufRead, BufReader, Read};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::process::Stdio;
use std::time::Duration;
use tokio::process::{Child, Command};

const LONG: Duration = Duration::from_secs(20);

fn open(luxid: &Luxid) -> (Child, OwnedFd) {
    let (ours, theirs) =
        socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None).unwrap();
    let child = Command::new(env!("CARGO_BIN_EXE_gantry-job"))
        .arg("--root")
        .arg(luxid.root.path())
        .args(["--nursery", &CLUSTER.to_string()])
        .stdin(Stdio::from(theirs))
        .kill_on_drop(true)
        .spawn()
        .unwrap();
    (child, ours)
}

/// A job that is ready, its end of the socketpair, and its pidfd.
fn bear(nursery: &OwnedFd, owner: &str) -> (Ready, UnixStream, OwnedFd) {
    let (ours, theirs) = UnixStream::pair().unwrap();
    parcel::send(nursery, owner.as_bytes(), theirs.as_fd()).unwrap();
    drop(theirs);
    ours.set_read_timeout(Some(LONG)).unwrap();
    let mut room = [0; 4096];
    let (bytes, process) = parcel::receive(&ours, &mut room).unwrap();
    let born: Born = serde_json::from_slice(&room[..bytes]).unwrap();
    let mut line = String::new();
    BufReader::new(&ours).read_line(&mut line).unwrap();
    let ready: Ready = serde_json::from_str(&line).unwrap();
    assert_eq!(born.born, ready.pid);
    (ready, ours, process.expect("a pidfd"))
}

/// What kinds of files a process has open, as often as it has them.
fn files(pid: u32) -> Vec<String> {
    let all = std::fs::read_dir(format!("/proc/{pid}/fd")).unwrap().flatten();
    let names = all.filter_map(|fd| Some(std::fs::read_link(fd.path()).ok()?.display().to_string()));
    let mut kinds: Vec<String> = names
        .map(|name| {
            name.split_once(":[").map_or(name.clone(), |(kind, number)| {
                if kind == "anon_inode" { number.to_owned() } else { kind.to_owned() }
            })
        })
        .collect();
    kinds.sort();
    kinds
}

#[tokio::test]
async fn jobs_are_born_alone_and_outlive_their_nursery() {
    let mut luxid = Luxid::new();
    let (mut nursery, socket) = open(&luxid);
    let (one, line, life) = bear(&socket, "5 1-1-1");
    let (two, other, _) = bear(&socket, "6 1-1-2");
    assert!(one.pid != two.pid && Some(one.pid) != nursery.id());
    for (ready, name) in [(&one, "job 5\n"), (&two, "job 6\n")] {
        assert_eq!(std::fs::read_to_string(format!("/proc/{}/comm", ready.pid)).unwrap(), name);
        let mask = std::fs::read_to_string(format!("/proc/{}/status", ready.pid)).unwrap();
        assert!(mask.contains("SigBlk:\t0000000000000000"), "{mask}");
    }
    // As one that was started by itself has it: nothing of the nursery's, or of the other's.
    let alone = luxid.spawn("7.1-1-3".parse().unwrap()).await;
    let wanted = files(alone.child.id().unwrap()).len();
    assert_eq!(
        files(two.pid).len(),
        wanted,
        "{:?} and {:?}",
        files(two.pid),
        files(alone.child.id().unwrap())
    );

    drop(socket);
    let ended = tokio::time::timeout(LONG, nursery.wait()).await.expect("it leaves").unwrap();
    assert!(ended.success(), "{ended}");
    // A job lives on, and leaves as ever when its luxid closes before go.
    drop(line);
    let mut fds = [rustix::event::PollFd::new(&life, rustix::event::PollFlags::IN)];
    rustix::event::poll(&mut fds, None).unwrap();
    let owner: JobOwner = "5.1-1-1".parse().unwrap();
    assert!(luxid.root.spool_file(owner).exists(), "it never began, and says so");
    assert!(std::path::Path::new(&format!("/proc/{}", two.pid)).exists());
    drop(other);
}

#[tokio::test]
async fn what_is_no_start_is_refused_and_the_next_is_born() {
    let luxid = Luxid::new();
    let (_nursery, socket) = open(&luxid);
    for bad in ["5", "5 1-1", "0 1-1-1", "five 1-1-1"] {
        let (mut ours, theirs) = UnixStream::pair().unwrap();
        parcel::send(&socket, bad.as_bytes(), theirs.as_fd()).unwrap();
        drop(theirs);
        ours.set_read_timeout(Some(LONG)).unwrap();
        assert_eq!(ours.read(&mut [0; 8]).unwrap(), 0, "{bad:?} gave birth");
    }
    bear(&socket, "5 1-1-1");
}
