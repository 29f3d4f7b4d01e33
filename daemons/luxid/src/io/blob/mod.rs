//! The body store: inputs, outputs and image archives under their SHA-256 (`Root::blob`). It owns the partial files of
//! uploads and decides when a body is whole; job processes put bodies of their own there by rename. Bodies are
//! immutable, so that readers need no lock.
//!
//! A body is durable before anybody is told so: flushed, renamed, its directory flushed. A crash leaves a partial file,
//! which the next start removes, or a whole body that nothing names, which the sweep removes ([`sweep`]).

mod inspect;
mod partial;
pub mod sweep;

#[cfg(test)]
mod tests;

pub use inspect::Held;

use gantry_body::unnamed::Unnamed;
use gantry_body::{BodyError, Reading, room};
use gantry_model::error::{Ecode, GanetiError};
use gantry_model::root::Root;
use gantry_model::task::{IMAGE_BYTES_MAX, is_digest};
use gantry_proto::envelope::{Code, Fail};
use gantry_proto::noded::{PIECE_BYTES_MAX, PieceReply};
use gantry_proto::stream::BlobPutRequest;
use partial::{Partial, Step};
use std::collections::HashMap;
use std::fs::DirBuilder;
use std::io::{self, ErrorKind};
use std::os::unix::fs::DirBuilderExt;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// Uploads under way at once, of all connections: each may take [`IMAGE_BYTES_MAX`] of the disk.
pub const PARTIAL_MAX: usize = 32;

/// After so long without a piece an upload may lose its place to another: its sender stands still.
const IDLE: Duration = Duration::from_secs(60);

type Shared = Arc<tokio::sync::Mutex<Option<Partial>>>;

/// The store. Clones share it.
#[derive(Clone)]
pub struct Store(Arc<Inner>);

struct Inner {
    root: Root,
    /// By connection and digest.
    partial: Mutex<HashMap<(u64, String), Shared>>,
    /// Held while a body is found, and while the sweep looks at one and removes it: who was told that a body is there has
    /// it for [`gantry_body::unnamed::UNNAMED_MS_MIN`]. In it, what has no name, and since when.
    gate: Mutex<Unnamed>,
    /// Held while an archive is looked at.
    verdicts: tokio::sync::Mutex<inspect::Verdicts>,
}

impl Store {
    /// Opens the store and removes what uploads of an earlier run left.
    ///
    /// # Errors
    /// What the system says.
    pub fn open(root: &Root) -> io::Result<Self> {
        let store = Self(Arc::new(Inner {
            root: root.clone(),
            partial: Mutex::default(),
            gate: Mutex::default(),
            verdicts: tokio::sync::Mutex::default(),
        }));
        for dir in [root.blob_dir(), store.partial_dir()] {
            DirBuilder::new().recursive(true).mode(0o700).create(dir)?;
        }
        for left in std::fs::read_dir(store.partial_dir())? {
            std::fs::remove_file(left?.path())?;
        }
        Ok(store)
    }

    /// Where partial files lie: beside the bodies, so that a rename moves them.
    fn partial_dir(&self) -> PathBuf {
        self.0.root.partial_dir()
    }

    /// The size of a body, if it is there; it then stays for [`gantry_body::unnamed::UNNAMED_MS_MIN`] at least, so that there is time to name it.
    ///
    /// # Errors
    /// What the system says.
    pub async fn keep(&self, digest: &str) -> io::Result<Option<u64>> {
        let (own, digest) = (self.clone(), digest.to_owned());
        blocking(move || own.find(&digest)).await
    }

    fn find(&self, digest: &str) -> io::Result<Option<u64>> {
        let mut gate = self.0.gate.lock().unwrap_or_else(PoisonError::into_inner);
        gate.forget(digest);
        match std::fs::metadata(self.0.root.blob(digest)) {
            Ok(body) => Ok(Some(body.len())),
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Takes a piece of a body from a connection. Pieces of other offsets than the wanted one change nothing.
    ///
    /// # Errors
    /// A wrong request, a whole body that is not what its digest says, no place, a disk that fails.
    pub async fn put(&self, connection: u64, request: BlobPutRequest) -> Result<PieceReply, Fail> {
        check(&request)?;
        // The place is queued for before anything is waited for: pieces sent in a row are taken in their order.
        let shared = self.partial(connection, &request);
        let place = match &shared {
            Ok(Some(shared)) => Some(Arc::clone(shared).lock_owned().await),
            _ => None,
        };
        if let Some(bytes) = self.keep(&request.digest).await.map_err(|why| broken(&why))? {
            self.lock().remove(&(connection, request.digest));
            if bytes != request.total {
                let text = format!("that body has {bytes} bytes, not {}", request.total);
                return Err(GanetiError::prereq(text, Ecode::WrongInput).into());
            }
            return Ok(PieceReply { next: request.total, done: true });
        }
        let (Some(shared), Some(mut place)) = (shared?, place) else {
            return Ok(PieceReply { next: 0, done: false });
        };
        let (own, key) = (self.clone(), (connection, request.digest.clone()));
        if !self.lock().get(&key).is_some_and(|current| Arc::ptr_eq(current, &shared)) {
            // While this piece waited for the one before it, the upload ended.
            return Ok(PieceReply { next: 0, done: false });
        }
        let done = blocking(move || {
            let step = own.piece(&mut place, connection, &request);
            if !matches!(step, Ok(Step::More(_))) {
                // Whole, or of no use: whoever sends more of it begins anew.
                *place = None;
                own.lock().remove(&key);
            }
            step
        });
        match done.await.map_err(|why| broken(&why))? {
            Step::More(next) => Ok(PieceReply { next, done: false }),
            Step::Done(total) => Ok(PieceReply { next: total, done: true }),
            Step::Wrong(why) => Err(GanetiError::prereq(why, Ecode::WrongInput).into()),
        }
    }

    /// The place of a partial body. None: there is none, and this is not the first piece of one.
    fn partial(&self, connection: u64, request: &BlobPutRequest) -> Result<Option<Shared>, Fail> {
        let mut all = self.lock();
        let key = (connection, request.digest.clone());
        if let Some(known) = all.get(&key) {
            return Ok(Some(Arc::clone(known)));
        }
        if request.offset > 0 || request.bytes.is_empty() {
            return Ok(None);
        }
        if all.len() >= PARTIAL_MAX {
            give_up_idle(&mut all, Instant::now());
        }
        if all.len() >= PARTIAL_MAX {
            let text = format!("{PARTIAL_MAX} uploads are under way already: try again when one has ended");
            return Err(Fail::new(Code::Busy, text));
        }
        Ok(Some(Arc::clone(all.entry(key).or_default())))
    }

    fn piece(
        &self,
        place: &mut Option<Partial>,
        connection: u64,
        request: &BlobPutRequest,
    ) -> io::Result<Step> {
        let dir = self.partial_dir();
        // All that is to come, at the first piece; others may have taken the room at a later one.
        let wanted = if place.is_none() { request.total } else { request.bytes.len() as u64 };
        room::look(&dir, wanted, room::reserve(&dir)?)?;
        let partial = match place {
            Some(partial) => partial,
            None if request.offset > 0 => return Ok(Step::More(0)),
            None => {
                let path = dir.join(format!("{}.{connection}", request.digest));
                place.insert(Partial::create(path, request.total)?)
            }
        };
        if partial.total() != request.total {
            let (first, now) = (partial.total(), request.total);
            return Ok(Step::Wrong(format!("the upload began with {first} bytes in all, now it says {now}")));
        }
        if partial.append(request.offset, &request.bytes)? < request.total {
            return Ok(Step::More(partial.next()));
        }
        let digest = partial.digest();
        if digest != request.digest {
            let want = &request.digest;
            return Ok(Step::Wrong(format!(
                "the {} bytes sent have SHA-256 {digest}, not {want}: the file changed or was damaged on its way, send it again",
                request.total
            )));
        }
        partial.publish(&self.0.root.blob(&digest))?;
        Ok(Step::Done(request.total))
    }

    /// Forgets the uploads of a connection that ended. Unlinks a few files at most.
    pub fn connection_ended(&self, connection: u64) {
        // Dropping a partial removes its file; a piece being written now drops it when it is done.
        self.lock().retain(|(of, _), _| *of != connection);
    }

    /// Begins to read a body.
    ///
    /// # Errors
    /// No such body, a disk that fails.
    pub async fn body(&self, digest: &str) -> Result<Body, Fail> {
        if !is_digest(digest) {
            return Err(no_digest());
        }
        let (root, name) = (self.0.root.clone(), digest.to_owned());
        let opened = blocking(move || Reading::open(&root, &name)).await;
        opened.map(|reading| Body(Some(reading))).map_err(|why| match why.kind() {
            ErrorKind::NotFound if gantry_body::is_damaged(&self.0.root, digest) => damaged(digest),
            ErrorKind::NotFound => {
                let text =
                    format!("no body {digest} is stored: it was never sent, or nothing names it any more");
                GanetiError::prereq(text, Ecode::UnknownEntity).into()
            }
            _ => broken(&why),
        })
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<(u64, String), Shared>> {
        self.0.partial.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A body that is read. Its last byte is given only when all of it is what its digest says; one that is damaged is put aside,
/// and then taken from another candidate's copy.
pub struct Body(Option<Reading>);

impl Body {
    /// A piece; empty at its end.
    ///
    /// # Errors
    /// It is damaged; a disk that fails.
    pub async fn piece(&mut self, offset: u64, most: usize) -> Result<Vec<u8>, Fail> {
        let mut reading =
            self.0.take().ok_or_else(|| Fail::new(Code::Internal, "a piece was left half read"))?;
        let read = move || {
            let piece = reading.piece(offset, most);
            Ok((reading, piece))
        };
        let (reading, piece) = blocking(read).await.map_err(|why| broken(&why))?;
        self.0 = Some(reading);
        piece.map_err(|why| match why {
            BodyError::Io(why) => broken(&why),
            BodyError::Damaged { digest } => {
                tracing::error!(digest, "a body is damaged: it was put aside");
                damaged(&digest)
            }
        })
    }
}

/// Nobody's fault but the disk's.
fn damaged(digest: &str) -> Fail {
    let text = format!(
        "the body {digest} is damaged on the master; a whole one is taken from another candidate if one has it: try again in a \
         minute, or see \"gnt-cluster verify\""
    );
    GanetiError::exec(text).into()
}

fn no_digest() -> Fail {
    GanetiError::prereq("a digest is 64 lower-case hexadecimal digits (SHA-256)", Ecode::WrongInput).into()
}

fn check(request: &BlobPutRequest) -> Result<(), Fail> {
    let wrong = |text: String| Err(GanetiError::prereq(text, Ecode::WrongInput).into());
    if !is_digest(&request.digest) {
        return Err(no_digest());
    }
    if !(1..=IMAGE_BYTES_MAX).contains(&request.total) {
        return wrong(format!("a body has 1 to {IMAGE_BYTES_MAX} bytes, not {}", request.total));
    }
    if request.bytes.len() > PIECE_BYTES_MAX {
        return wrong(format!("a piece has at most {PIECE_BYTES_MAX} bytes, not {}", request.bytes.len()));
    }
    let end = request.offset.saturating_add(request.bytes.len() as u64);
    if end > request.total {
        return wrong(format!("a piece ends at {end}, beyond the {} bytes announced", request.total));
    }
    Ok(())
}

/// Makes a place by giving up the upload of which nothing came for the longest time, if that is [`IDLE`] at least. Whoever
/// sends more of it is told to begin anew.
fn give_up_idle(all: &mut HashMap<(u64, String), Shared>, now: Instant) {
    let heard = |shared: &Shared| Some(shared.try_lock().ok()?.as_ref()?.heard());
    let idle = all.iter().filter_map(|(key, shared)| Some((heard(shared)?, key))).min();
    let Some(key) =
        idle.filter(|(heard, _)| now.saturating_duration_since(*heard) >= IDLE).map(|(_, key)| key.clone())
    else {
        return;
    };
    all.remove(&key);
}

fn broken(why: &io::Error) -> Fail {
    if why.kind() == ErrorKind::StorageFull {
        return Fail::new(Code::Busy, format!("the master takes no bodies now: {why}"));
    }
    GanetiError::exec(format!("the body store failed: {why}; look at the disk of the master")).into()
}

/// Runs file work on a thread that may block. It goes on when its caller is gone.
async fn blocking<T: Send + 'static>(work: impl FnOnce() -> io::Result<T> + Send + 'static) -> io::Result<T> {
    tokio::task::spawn_blocking(work).await.map_err(io::Error::other)?
}
