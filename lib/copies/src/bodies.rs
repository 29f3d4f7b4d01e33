//! Bodies that objects name, beside the logs: a copy is sent those that it lacks, and gives those that this node lacks.
//!
//! ```text
//!  a session begins ─▶ named ─▶ BodyHave ─┬─ it lacks some ─▶ BodyPut
//!                                         └─ this node does ─▶ BodyGet ─▶ checked, flushed, renamed
//! ```
//!
//! A row that names a body is confirmed only when the body is there (P1.4). That leaves two gaps, which are closed here: a
//! copy that was fed a snapshot has seen no such row, and a master that took rows over may have been in the minority that
//! lacked the body.

use crate::handle::Shared;
use crate::link::Link;
use crate::sender::{End, Session};
use gantry_body::{BodyError, Reading, temporary};
use gantry_model::ids::NodeUuid;
use gantry_model::root::Root;
use gantry_proto::copies::{BodyGetRequest, BodyPutRequest, DIGESTS_MAX, Digest};
use gantry_proto::noded::{self, PIECE_BYTES_MAX};
use gantry_store::{LogKind, Member};
use sha2::{Digest as _, Sha256};
use std::collections::BTreeSet;
use std::fs::File;
use std::io::{self, ErrorKind, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::sync::Arc;
use std::time::{Duration, SystemTime};
use tokio::time::Instant;

/// How long a piece of a body or of a snapshot may take; taking over a snapshot writes all objects.
pub const PIECE_MS: u64 = 60_000;

/// The digests that the objects of a log name, as they stand when it is called. A sender waits for it, so it must not wait
/// for a commit.
pub type Named = Arc<dyn Fn() -> Pin<Box<dyn Future<Output = Vec<Digest>> + Send>> + Send + Sync>;

/// Twice as many turns as there are pieces: more means that it begins anew again and again.
pub fn turns_max(total: u64) -> u64 {
    2 * total.div_ceil(PIECE_BYTES_MAX as u64) + 2
}

/// Between two looks whether there are bodies to bring.
const LOOK: Duration = Duration::from_millis(1_000);

/// How long what both sides have is taken for granted. A copy drops a body by the rows of one log; should the other log name
/// it, or name it again just then, the copy gets it back within this.
const AGAIN: Duration = Duration::from_secs(600);

/// The same while a side lacks one: somebody may send it again.
const AGAIN_LACKING: Duration = Duration::from_secs(15);

/// What changes when somebody may lack a body that it had: the round, and when a damaged one was last put aside here, by
/// whomever. Only whether it is another than before counts, not how the clock stands.
type Cause = (u64, Option<SystemTime>);

/// The last time that each side had got what the other has of it: for what cause, when, and for how long that is enough.
type Settled = Option<(Cause, Instant, Duration)>;

/// Whether it is to be looked at again.
fn due(settled: Settled, cause: Cause, now: Instant) -> bool {
    settled.is_none_or(|(of, at, again)| of != cause || now.duration_since(at) >= again)
}

/// When the directory of damaged bodies last changed.
fn put_aside_at(root: &Root) -> Option<SystemTime> {
    std::fs::metadata(root.damaged_dir()).and_then(|facts| facts.modified()).ok()
}

/// Brings both sides to the bodies that the objects name: when a session begins, whenever another one has brought one, and
/// now and then. Beside the rows: a large body must not keep a copy that returns from counting. What fails is tried again.
pub(crate) async fn settle<L: Link>(shared: &Shared<L>, member: Member) -> End {
    let carrier = shared.carrier(member);
    let mut settled = None;
    loop {
        let (cause, now) = ((shared.bodies_round(), put_aside_at(&shared.root)), Instant::now());
        if due(settled, cause, now)
            && let Some(named) = shared.named()
        {
            match carrier.settle(shared, named().await).await {
                Ok(all) => settled = Some((cause, now, if all { AGAIN } else { AGAIN_LACKING })),
                Err(why) => {
                    tracing::debug!(log = ?shared.log, node = shared.name(member.node), why, "bodies are not all there");
                }
            }
        }
        tokio::time::sleep(LOOK).await;
    }
}

/// Carries bodies between this node and another.
pub(crate) struct Carrier<'a, L> {
    pub link: &'a L,
    pub root: &'a Root,
    pub log: LogKind,
    pub node: NodeUuid,
}

impl<L: Link> Carrier<'_, L> {
    async fn call<V>(&self, request: V::Request) -> Result<V::Reply, String>
    where
        V: gantry_proto::verb::Verb<Request: Sync>,
    {
        let deadline = Duration::from_millis(PIECE_MS);
        self.link.call::<V>(self.node, request, deadline).await.map_err(|why| why.to_string())
    }

    fn path(&self, digest: &Digest) -> PathBuf {
        self.root.blob(&hex(digest))
    }

    async fn here(&self, digest: &Digest) -> Result<bool, String> {
        let path = self.path(digest);
        on_disk(&path).await.map_err(|why| format!("{}: {why}", path.display()))
    }

    async fn theirs(&self, some: &[Digest]) -> Result<BTreeSet<Digest>, String> {
        Ok(self.call::<noded::BodyHave>(some.to_vec()).await?.into_iter().collect())
    }

    /// Whether both sides have all then.
    async fn settle(&self, shared: &Shared<L>, named: Vec<Digest>) -> Result<bool, String> {
        let mut all = true;
        let named: BTreeSet<Digest> = named.into_iter().collect();
        let named: Vec<Digest> = named.into_iter().collect();
        for some in named.chunks(DIGESTS_MAX) {
            // `BodyHave` names those that it lacks.
            let lacks = self.theirs(some).await?;
            for digest in some {
                match (self.here(digest).await?, lacks.contains(digest)) {
                    (true, true) => self.put(digest).await?,
                    (false, false) => {
                        if self.get(digest).await? {
                            shared.next_bodies_round();
                        } else {
                            all = false;
                        }
                    }
                    (true, false) => {}
                    (false, true) => all = false,
                }
            }
        }
        Ok(all)
    }

    /// Takes from the node those of `digests` that are not here and that it has.
    pub async fn fetch(&self, digests: &[Digest]) -> Result<(), String> {
        for some in digests.chunks(DIGESTS_MAX) {
            let mut wanted = Vec::new();
            for digest in some {
                if !self.here(digest).await? {
                    wanted.push(*digest);
                }
            }
            if wanted.is_empty() {
                continue;
            }
            let lacks = self.theirs(&wanted).await?;
            for digest in wanted.iter().filter(|digest| !lacks.contains(*digest)) {
                self.get(digest).await?;
            }
            for digest in &lacks {
                tracing::warn!(log = ?self.log, body = hex(digest), "a row taken over names a body that its copy lacks too");
            }
        }
        Ok(())
    }

    /// Sends a body. One that is damaged here is put aside instead, and is then lacked here too.
    async fn put(&self, digest: &Digest) -> Result<(), String> {
        let path = self.path(digest);
        let told = |why: BodyError| {
            let text = format!("it wants a body that can't be read here: {}: {why}", path.display());
            tracing::error!(log = ?self.log, text, "can't feed a copy");
            text
        };
        let (root, name) = (self.root.clone(), hex(digest));
        let mut body = beside(move || Ok(Reading::open(&root, &name)?)).await.map_err(told)?;
        let total = body.total();
        let (mut offset, mut turns) = (0, 0_u64);
        loop {
            let read = move || body.piece(offset, PIECE_BYTES_MAX).map(|bytes| (body, bytes));
            let bytes;
            (body, bytes) = beside(read).await.map_err(told)?;
            let request = BodyPutRequest { digest: *digest, total, offset, bytes };
            let reply = self.call::<noded::BodyPut>(request).await?;
            turns += 1;
            if reply.done {
                return Ok(());
            }
            if turns > turns_max(total) {
                return Err("it does not take a body whole".to_owned());
            }
            offset = reply.next;
        }
    }

    /// Takes a body from the node. False: it gave it damaged, and that is left to another copy.
    async fn get(&self, digest: &Digest) -> Result<bool, String> {
        let path = self.path(digest);
        let told = |why: io::Error| format!("can't keep a body in {}: {why}", path.display());
        let mut pull = Pull::create(&path, self.log).map_err(told)?;
        loop {
            let request = BodyGetRequest { digest: *digest, offset: pull.bytes };
            let reply = self.call::<noded::BodyGet>(request).await?;
            // What it told as its length rules how long this goes on: it gives at least a byte each time.
            let last = reply.bytes.is_empty() || pull.bytes + reply.bytes.len() as u64 >= reply.total;
            let step = tokio::task::spawn_blocking(move || pull.add(&reply.bytes).map(|()| pull));
            pull = step.await.map_err(io::Error::other).and_then(|done| done).map_err(told)?;
            if last {
                break;
            }
        }
        let (want, to) = (*digest, path.clone());
        let kept = tokio::task::spawn_blocking(move || pull.keep(&want, &to)).await;
        let kept = kept.map_err(io::Error::other).and_then(|kept| kept).map_err(told)?;
        let node = self.link.name(self.node);
        if kept {
            tracing::info!(log = ?self.log, body = hex(digest), node, "took a body over from a copy");
        } else {
            tracing::error!(log = ?self.log, body = hex(digest), node, "a copy gave a body that is damaged");
        }
        Ok(kept)
    }
}

impl<L: Link> Session<'_, L> {
    /// Sends bodies that the copy must have before it can confirm the rows naming them. One that is not here any more, and
    /// that no object names, was dropped by a later row: the copy is told not to wait for it. One that an object names is
    /// lacked here too, and comes from another copy first.
    pub(crate) async fn bodies(&mut self, missing: Vec<Digest>) -> Result<(), End> {
        let carrier = self.shared.carrier(self.member);
        let mut named: Option<BTreeSet<Digest>> = None;
        for digest in missing {
            if carrier.here(&digest).await.map_err(End::Lost)? {
                carrier.put(&digest).await.map_err(End::Lost)?;
                continue;
            }
            if named.is_none()
                && let Some(all) = self.shared.named()
            {
                named = Some(all().await.into_iter().collect());
            }
            if named.as_ref().is_some_and(|named| named.contains(&digest)) {
                // All copies are asked again who has it.
                self.shared.next_bodies_round();
                let text = format!(
                    "it wants body {}, which this node lacks and takes from another copy",
                    hex(&digest)
                );
                return Err(End::Lost(text));
            }
            tracing::warn!(log = ?self.shared.log, body = hex(&digest), "a row names a body that is no longer here");
            self.absent.push(digest);
            // Bounded by what one append may name; an old one is told again when it is asked for again.
            if self.absent.len() > DIGESTS_MAX {
                self.absent.remove(0);
            }
        }
        Ok(())
    }
}

/// Files of one body under way: one for each copy.
const PULLS_MAX: u32 = 100;

/// A body on its way here. The file goes when it is dropped, unless it was kept.
struct Pull {
    file: File,
    path: PathBuf,
    hash: Sha256,
    bytes: u64,
}

impl Pull {
    fn create(path: &Path, log: LogKind) -> io::Result<Self> {
        let dir = path.parent().unwrap_or(path);
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        // Never one that another session writes: each takes bodies from a copy of its own. What a dead one left is replaced,
        // or swept by this name.
        for number in 0..PULLS_MAX {
            let path = dir.join(format!(".{name}.{log:?}{number}.tmp"));
            match temporary::create(&path) {
                Ok(file) => return Ok(Self { file, path, hash: Sha256::new(), bytes: 0 }),
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
                Err(error) => return Err(error),
            }
        }
        let text = format!("it is being taken over {PULLS_MAX} times already");
        Err(io::Error::new(io::ErrorKind::AlreadyExists, text))
    }

    fn add(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.file.write_all(bytes)?;
        self.hash.update(bytes);
        self.bytes += bytes.len() as u64;
        Ok(())
    }

    /// Gives it its name, durably, if it is what it should be.
    fn keep(mut self, digest: &Digest, to: &Path) -> io::Result<bool> {
        if std::mem::take(&mut self.hash).finalize()[..] != digest[..] {
            return Ok(false);
        }
        self.file.sync_all()?;
        std::fs::rename(&self.path, to)?;
        // Also the directories above, which may be new.
        to.ancestors().skip(1).take(3).try_for_each(|dir| File::open(dir)?.sync_all())?;
        Ok(true)
    }
}

impl Drop for Pull {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.path);
    }
}

/// Reads a body on a thread that may block.
async fn beside<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, BodyError> + Send + 'static,
) -> Result<T, BodyError> {
    tokio::task::spawn_blocking(work).await.map_err(io::Error::other)?
}

async fn on_disk(path: &Path) -> io::Result<bool> {
    let path = path.to_owned();
    tokio::task::spawn_blocking(move || match std::fs::metadata(path) {
        Ok(file) => Ok(file.is_file()),
        Err(why) if why.kind() == ErrorKind::NotFound => Ok(false),
        Err(why) => Err(why),
    })
    .await
    .map_err(io::Error::other)?
}

pub fn hex(digest: &Digest) -> String {
    gantry_body::hex(digest)
}

/// A piece of a file, read on a thread that may block.
pub async fn piece(path: PathBuf, offset: u64) -> io::Result<Vec<u8>> {
    let read = tokio::task::spawn_blocking(move || {
        let mut file = File::open(path)?;
        file.seek(SeekFrom::Start(offset))?;
        let mut bytes = Vec::new();
        file.take(PIECE_BYTES_MAX as u64).read_to_end(&mut bytes)?;
        Ok(bytes)
    });
    read.await.map_err(io::Error::other)?
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_body_that_two_copies_give_at_once_is_whole() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("blob/body");
        let digest: Digest = Sha256::digest(b"one two three").into();
        let mut first = Pull::create(&path, LogKind::Q).unwrap();
        first.add(b"one two ").unwrap();
        let mut second = Pull::create(&path, LogKind::Q).unwrap();
        second.add(b"one ").unwrap();
        first.add(b"three").unwrap();
        assert!(first.keep(&digest, &path).unwrap());
        second.add(b"tw").unwrap();
        assert_eq!(std::fs::read(&path).unwrap(), b"one two three");
        second.add(b"o threw").unwrap();
        assert!(!second.keep(&digest, &path).unwrap(), "it gave something else");
        assert_eq!(std::fs::read(&path).unwrap(), b"one two three");
        assert_eq!(std::fs::read_dir(dir.path().join("blob")).unwrap().count(), 1);
    }

    #[test]
    fn what_both_sides_have_is_looked_at_again_now_and_then() {
        let begin = Instant::now();
        assert!(due(None, (0, None), begin));
        let once = Some(SystemTime::UNIX_EPOCH + AGAIN);
        let settled = Some(((3, once), begin, AGAIN));
        assert!(!due(settled, (3, once), begin + AGAIN / 2));
        assert!(due(settled, (4, once), begin), "another session has brought one");
        assert!(due(settled, (3, once), begin + AGAIN), "a copy may have dropped one");
        let before = Some(SystemTime::UNIX_EPOCH);
        assert!(due(settled, (3, before), begin), "one was put aside, by whatever clock");
        assert!(due(Some(((3, once), begin, AGAIN_LACKING)), (3, once), begin + AGAIN_LACKING));
    }

    #[test]
    fn what_dead_masters_left_stops_no_pull() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("body");
        for number in 0..PULLS_MAX {
            std::fs::write(dir.path().join(format!(".body.Q{number}.tmp")), "left").unwrap();
        }
        let mut pull = Pull::create(&path, LogKind::Q).unwrap();
        pull.add(b"x").unwrap();
        assert!(pull.keep(&Sha256::digest(b"x").into(), &path).unwrap());
        assert_eq!(std::fs::read(&path).unwrap(), b"x");
    }
}
