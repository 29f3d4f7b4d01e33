//! The life of one start (P4.2 to P4.4): bind, say ready, wait for go, execute, deliver the outcome or spool it.

use crate::error::RunError;
use crate::io::{server, spool};
use crate::ops;
use gantry_model::ids::{ClusterUuid, JobOwner};
use gantry_model::root::Root;
use gantry_proto::job::{Born, GoRequest, Ready};
use gantry_rpc::Limits;
use rustix::process::PidfdFlags;
use serde::Serialize;
use std::io;
use std::os::fd::AsFd;
use std::sync::Arc;
use tokio::net::UnixStream;
use tokio::sync::oneshot;
use tokio_util::sync::CancellationToken;

/// Runs one start of a job from first to last.
///
/// # Errors
/// When it left without its outcome in luxid's hands or in the spool.
pub async fn job(root: Root, owner: JobOwner, cluster: ClusterUuid) -> Result<(), RunError> {
    let line = stdin_socket().map_err(RunError::Stdin)?;
    // A luxid that does not hear it hears no more of this start.
    let born = say_born(&line);
    let (desk, go) = server::Desk::new(owner);
    let path = root.job_socket(owner);
    let listener = match gantry_rpc::unix::bind(&path, 0o600) {
        Ok(listener) => listener,
        Err(source) => {
            spool::write(&root, &spool::never_began(owner)).map_err(RunError::Spool)?;
            return Err(RunError::Bind { path: path.display().to_string(), source });
        }
    };
    let hello = server::hello(owner, cluster);
    let service = Arc::new(server::JobService { desk: Arc::clone(&desk), hello });
    let stop = CancellationToken::new();
    tokio::spawn(gantry_rpc::serve_unix(listener, service, Limits::default(), stop.clone()));
    let begun = match born.and_then(|()| say_ready(&line)) {
        Ok(()) => wait_for_go(&line, go).await,
        Err(_) => None,
    };
    let result = match begun {
        Some(request) => {
            drop(line);
            work(&root, &desk, request).await
        }
        None => {
            spool::write(&root, &spool::never_began(owner)).map_err(RunError::Spool)?;
            Err(RunError::NeverBegan)
        }
    };
    // Its own path: no other start binds it.
    let _ = std::fs::remove_file(&path);
    stop.cancel();
    result
}

/// Takes over fd 0, which luxid made one end of a socketpair.
fn stdin_socket() -> io::Result<UnixStream> {
    let copy = io::stdin().as_fd().try_clone_to_owned()?;
    let stream = std::os::unix::net::UnixStream::from(copy);
    stream.peer_addr()?;
    stream.set_nonblocking(true)?;
    UnixStream::from_std(stream)
}

/// Says that this process is there, with a descriptor of it by which luxid hears of its end, and ends it: it is not luxid's child.
fn say_born(line: &UnixStream) -> io::Result<()> {
    let own = rustix::process::pidfd_open(rustix::process::getpid(), PidfdFlags::empty())?;
    // The first bytes on an empty socketpair always fit.
    gantry_rpc::parcel::send(line, &text(&Born { born: std::process::id() })?, own.as_fd())
}

/// Through the one descriptor that there is: who looks at this process when it is ready finds nothing that goes away.
fn say_ready(line: &UnixStream) -> io::Result<()> {
    let text = text(&Ready { pid: std::process::id() })?;
    match rustix::io::write(line, &text)? {
        whole if whole == text.len() => Ok(()),
        _ => Err(io::ErrorKind::WriteZero.into()),
    }
}

fn text(line: &impl Serialize) -> io::Result<Vec<u8>> {
    let mut text = serde_json::to_vec(line)?;
    text.push(b'\n');
    Ok(text)
}

/// Go, or None when luxid's end of the socketpair closed first. A go that came with the closing counts.
async fn wait_for_go(line: &UnixStream, mut go: oneshot::Receiver<GoRequest>) -> Option<GoRequest> {
    tokio::select! {
        biased;
        request = &mut go => return request.ok(),
        () = closed(line) => {}
    }
    go.try_recv().ok()
}

async fn closed(line: &UnixStream) {
    let mut byte = [0u8; 16];
    loop {
        if line.readable().await.is_err() {
            return;
        }
        match line.try_read(&mut byte) {
            Ok(0) => return,
            Ok(_) => {}
            Err(why) if why.kind() == io::ErrorKind::WouldBlock => {}
            Err(_) => return,
        }
    }
}

/// Executes, then stays until luxid has the outcome, or spools it when no luxid is there.
async fn work(root: &Root, desk: &Arc<server::Desk>, request: GoRequest) -> Result<(), RunError> {
    ops::execute(root, desk, request).await?;
    let mut changes = desk.changes();
    loop {
        changes.borrow_and_update();
        if desk.read(|board| board.is_over_and_known()) == Some(true) {
            // Let the stream's reply out; luxid closes when it has it.
            let _ = tokio::time::timeout(LEAVE, async {
                while desk.is_attached() && changes.changed().await.is_ok() {}
            })
            .await;
            return Ok(());
        }
        if !desk.is_attached() {
            let report = desk.read(|board| board.report().clone()).expect("the job was told to go");
            match spool::write(root, &report) {
                Ok(()) => return Ok(()),
                // The whole root is gone, and with it whoever would read it.
                Err(why) if why.kind() == io::ErrorKind::NotFound => return Err(RunError::Spool(why)),
                Err(why) => {
                    eprintln!("gantry-job {}: keeps its outcome: {}", report.owner, RunError::Spool(why))
                }
            }
            // A full disk: the outcome stays here until there is room, or a luxid.
            let _ = tokio::time::timeout(SPOOL_AGAIN, changes.changed()).await;
            continue;
        }
        // Attached but not answered: wait; luxid sees this process alive (P4.4).
        if changes.changed().await.is_err() {
            return Ok(());
        }
    }
}

/// Pause before an outcome that could not be written is written again.
const SPOOL_AGAIN: std::time::Duration = std::time::Duration::from_secs(5);
/// How long a finished and confirmed job waits for its last reply to leave.
const LEAVE: std::time::Duration = std::time::Duration::from_secs(2);
