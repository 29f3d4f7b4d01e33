//! Starting a job's process, with one end of a socketpair as its stdin (P4.1): in a nursery, a process of the job program
//! that forks for each start ([`Nursery`]), or, where that can't be had, as a fresh executable.

use super::life::Life;
use gantry_model::ids::{ClusterUuid, JobOwner};
use gantry_model::root::Root;
use gantry_proto::job::{Born, Ready};
use gantry_rpc::parcel;
use gantry_rt::clock;
use rustix::net::{AddressFamily, SocketFlags, SocketType, socketpair};
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::PathBuf;
use std::process::Stdio;
use std::sync::{Mutex, PoisonError};
use tokio::io::{AsyncWriteExt, Interest};
use tokio::net::UnixStream;
use tokio::process::{Child, Command};

/// Longest line of a newborn, in bytes.
const LINE_BYTES_MAX: usize = 4096;
/// How long no nursery is tried after one that ended without a birth.
const BARREN_MS: u64 = 10_000;

/// What every start needs to know.
#[derive(Debug)]
pub struct Program {
    /// The executable.
    pub path: PathBuf,
    /// Where files lie.
    pub root: Root,
    /// The cluster.
    pub cluster: ClusterUuid,
    /// Where the job's stderr goes.
    pub log: File,
    /// Where jobs are born.
    pub nursery: Mutex<Nursery>,
}

/// The process that forks for each start. It ends when luxid does.
#[derive(Debug, Default)]
pub struct Nursery {
    /// Counts the processes there were.
    number: u64,
    serving: Option<Serving>,
    /// None is tried before.
    not_before: u64,
}

#[derive(Debug)]
struct Serving {
    socket: OwnedFd,
    /// Killed when dropped.
    _child: Child,
    /// A job that was born in it has said so.
    proved: bool,
}

/// A process that was started, or asked for, and has not said ready.
#[derive(Debug)]
pub struct Started {
    /// luxid's end of the socketpair. Dropped before go, it makes the job leave.
    pub pair: UnixStream,
    /// The nursery that was asked.
    pub nursery: Option<u64>,
}

impl Nursery {
    /// Without it. One in which no job was born is no use.
    fn end(&mut self) {
        if self.serving.take().is_some_and(|serving| !serving.proved) {
            tracing::warn!(
                "jobs are started one by one for a while: no job was born in the process for that"
            );
            self.not_before = clock::millis() + BARREN_MS;
        }
    }
}

impl Program {
    /// Starts the process for one start of a job. It makes itself a session of its own: signals to luxid's group do not
    /// reach it, and the kernel sends no SIGHUP to a stopped one when luxid dies.
    ///
    /// # Errors
    /// What the system says; `WouldBlock` when more starts than the nursery has room for wait there already.
    pub fn start(&self, owner: JobOwner) -> io::Result<Started> {
        let (ours, theirs) = std::os::unix::net::UnixStream::pair()?;
        ours.set_nonblocking(true)?;
        let pair = UnixStream::from_std(ours)?;
        let nursery = match self.bear(owner, theirs.as_fd()) {
            Ok(number) => Some(number),
            Err(why) if is_full(&why) => return Err(io::ErrorKind::WouldBlock.into()),
            Err(why) => {
                tracing::debug!(%owner, %why, "no nursery for it");
                self.start_alone(owner, theirs.into()).map_err(unfull)?;
                None
            }
        };
        Ok(Started { pair, nursery })
    }

    /// What was asked of this nursery is not born in time: it is ended, and whoever needs the next makes it.
    pub fn give_up(&self, nursery: u64) {
        let mut place = self.place();
        if place.number == nursery && place.serving.is_some() {
            tracing::warn!("the process in which jobs are born does not answer, and is killed");
            place.end();
        }
    }

    /// A job that was born in this nursery said so.
    pub fn proved(&self, nursery: u64) {
        let mut place = self.place();
        if place.number == nursery
            && let Some(serving) = &mut place.serving
        {
            serving.proved = true;
        }
    }

    fn place(&self) -> std::sync::MutexGuard<'_, Nursery> {
        self.nursery.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Has the nursery fork, which is made if there is none. Its number.
    fn bear(&self, owner: JobOwner, line: BorrowedFd<'_>) -> io::Result<u64> {
        let text = format!("{} {}", owner.job, owner.start);
        let mut place = self.place();
        loop {
            let fresh = place.serving.is_none();
            if fresh {
                if clock::millis() < place.not_before {
                    return Err(io::Error::other("the last one ended before any birth"));
                }
                place.serving = Some(self.open().map_err(unfull)?);
                place.number += 1;
            }
            let number = place.number;
            let Some(serving) = &mut place.serving else { continue };
            match parcel::send(&serving.socket, text.as_bytes(), line) {
                Ok(()) => return Ok(number),
                Err(why) if is_full(&why) || why.kind() == io::ErrorKind::Interrupted => return Err(why),
                Err(why) => {
                    place.end();
                    if fresh {
                        return Err(why);
                    }
                }
            }
        }
    }

    fn open(&self) -> io::Result<Serving> {
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let (ours, theirs) = socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, flags, None)?;
        // Its end waits.
        rustix::io::ioctl_fionbio(&theirs, false)?;
        let child = self
            .command()?
            .arg("--nursery")
            .arg(self.cluster.to_string())
            .stdin(Stdio::from(theirs))
            .kill_on_drop(true)
            .spawn()?;
        Ok(Serving { socket: ours, _child: child, proved: false })
    }

    fn start_alone(&self, owner: JobOwner, line: OwnedFd) -> io::Result<()> {
        // No pre_exec: it would force a real fork of this threaded process. Its end is heard of by the descriptor it sends.
        self.command()?
            .args([owner.job.to_string(), owner.start.to_string(), self.cluster.to_string()])
            .stdin(Stdio::from(line))
            .spawn()
            .map(drop)
    }

    fn command(&self) -> io::Result<Command> {
        let mut command = Command::new(&self.path);
        command.arg("--root").arg(self.root.path()).stdout(Stdio::null()).stderr(self.log.try_clone()?);
        Ok(command)
    }
}

/// What is no matter of the nursery's room, though it has the same name: no process can be made.
fn unfull(why: io::Error) -> io::Error {
    if is_full(&why) { io::Error::other(why.to_string()) } else { why }
}

/// Whether it is worth asking again in a moment: there is no room for the packet, or for one more file under way.
fn is_full(why: &io::Error) -> bool {
    why.kind() == io::ErrorKind::WouldBlock || why.raw_os_error() == Some(nix::libc::ETOOMANYREFS)
}

/// luxid's end of a start's socketpair, and what came through it.
#[derive(Debug)]
pub struct Newborn {
    pair: UnixStream,
    heard: Vec<u8>,
}

impl Newborn {
    /// Nothing is heard yet.
    #[must_use]
    pub fn new(pair: UnixStream) -> Self {
        Self { pair, heard: Vec::new() }
    }

    /// Waits for its first word: by what its end is heard of.
    ///
    /// # Errors
    /// When the process closed its end first, or wrote something else.
    pub async fn born(&mut self) -> io::Result<Life> {
        let (line, process) = self.line().await?;
        let born: Born = serde_json::from_slice(&line)?;
        let process = process.ok_or_else(|| io::Error::other("its descriptor could not be taken"))?;
        let life = Life::of(process)?;
        match life.pid()? {
            pid if pid == born.born => Ok(life),
            pid => Err(io::Error::other(format!(
                "pid {} says it is born; its descriptor is of {pid}",
                born.born
            ))),
        }
    }

    /// Waits until it says ready.
    ///
    /// # Errors
    /// When the process closed its end first, or wrote something else.
    pub async fn ready(&mut self) -> io::Result<Ready> {
        let (line, _) = self.line().await?;
        Ok(serde_json::from_slice(&line)?)
    }

    /// Tells a process that has not even said that it is there to leave, and waits until it has.
    pub async fn send_away(&mut self) {
        let _ = self.pair.shutdown().await;
        // Its end stays open until its own.
        while self.line().await.is_ok() {}
    }

    /// The next line, and the descriptor that came with it. A read ends with the message that had one, whatever waits behind it, so
    /// a short one is no sign that all is read: `try_io` takes only the kernel's word for that.
    async fn line(&mut self) -> io::Result<(Vec<u8>, Option<OwnedFd>)> {
        let mut process = None;
        loop {
            if let Some(end) = self.heard.iter().position(|byte| *byte == b'\n') {
                let rest = self.heard.split_off(end + 1);
                return Ok((std::mem::replace(&mut self.heard, rest), process));
            }
            if self.heard.len() >= LINE_BYTES_MAX {
                return Err(io::Error::new(io::ErrorKind::InvalidData, "too long a line"));
            }
            self.pair.readable().await?;
            let mut room = [0; LINE_BYTES_MAX];
            let got = self.pair.try_io(Interest::READABLE, || parcel::receive(&self.pair, &mut room));
            let (bytes, file) = match got {
                Err(why) if why.kind() == io::ErrorKind::WouldBlock => continue,
                other => other?,
            };
            if bytes == 0 {
                return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "it left before it said so"));
            }
            self.heard.extend_from_slice(&room[..bytes]);
            process = file.or(process);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;
    use std::path::Path;
    use std::time::Duration;
    use tempfile::TempDir;
    use tokio::time::timeout;

    const LONG: Duration = Duration::from_secs(60);

    /// A job program of a few lines, which get what it is called with.
    fn program(script: &str) -> (Program, TempDir) {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("gantry-job");
        std::fs::write(&path, format!("#!/bin/sh\ncd {}\n{script}\n", dir.path().display())).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).unwrap();
        let program = Program {
            path,
            root: Root::new(dir.path()),
            cluster: ClusterUuid(uuid::Uuid::from_u128(7)),
            log: File::create(dir.path().join("log")).unwrap(),
            nursery: Mutex::default(),
        };
        (program, dir)
    }

    fn owner() -> JobOwner {
        "12.1-2-3".parse().unwrap()
    }

    async fn appears(path: &Path) {
        let looks = async {
            while !path.exists() {
                tokio::time::sleep(Duration::from_millis(2)).await;
            }
        };
        timeout(LONG, looks).await.unwrap_or_else(|_| panic!("no {}", path.display()));
    }

    #[tokio::test]
    async fn a_nursery_that_does_not_answer_is_given_up_and_another_made() {
        let (program, _dir) = program("exec sleep 600");
        let asked =
            || program.start(owner()).map(|started| (Newborn::new(started.pair), started.nursery)).unwrap();
        let ((mut one, first), (mut same, second)) = (asked(), asked());
        assert!(first.is_some() && first == second);
        assert!(timeout(Duration::from_millis(50), one.born()).await.is_err(), "born of nothing");
        program.proved(first.unwrap());
        program.give_up(first.unwrap());
        for newborn in [&mut one, &mut same] {
            let why = timeout(LONG, newborn.born()).await.expect("heard").expect_err("not born");
            assert_eq!(why.kind(), io::ErrorKind::UnexpectedEof);
        }
        let (mut other, third) = asked();
        assert!(third > first);
        program.give_up(first.unwrap());
        let kept = timeout(Duration::from_millis(50), other.born()).await;
        assert!(kept.is_err(), "the wrong one was given up");
        // In which nothing was ever born.
        program.give_up(third.unwrap());
        assert_eq!(asked().1, None, "another is tried at once");
    }

    #[tokio::test]
    async fn where_no_nursery_can_be_had_a_job_is_started_by_itself() {
        let (program, dir) = program(
            "[ \"$3\" = --nursery ] && { echo >> nurseries; exit 1; }; echo \"$@\" > told; mv told alone",
        );
        let alone = dir.path().join("alone");
        // What is asked of one that is about to end is lost, and asked again by whoever wants it.
        let looks = async {
            while program.start(owner()).unwrap().nursery.is_some() {
                tokio::time::sleep(Duration::from_millis(2)).await;
            }
        };
        timeout(LONG, looks).await.expect("it is seen that none can be had");
        appears(&alone).await;
        let told = std::fs::read_to_string(&alone).unwrap();
        assert!(told.contains(" 12 1-2-3 00000000-"), "{told}");
        let nurseries = || std::fs::read_to_string(dir.path().join("nurseries")).unwrap().lines().count();
        let before = nurseries();
        assert!(program.start(owner()).unwrap().nursery.is_none());
        assert_eq!(nurseries(), before, "none is tried for a while");
    }

    #[tokio::test]
    async fn more_starts_than_there_is_room_for_wait() {
        let (program, _dir) = program("exec sleep 600");
        let mut all = Vec::new();
        let full = loop {
            match program.start(owner()) {
                Ok(started) => all.push(started),
                Err(why) => break why,
            }
            assert!(all.len() < 100_000, "no bound");
        };
        assert_eq!(full.kind(), io::ErrorKind::WouldBlock);
        assert!(all.len() > 32, "only {} fit", all.len());
    }
}
