//! Bodies that rows name: `blob/sha256/ab/HEX`, the layout that luxid and jobs use on the master. They come in pieces into
//! `blob/incoming/`, and are confirmed when whole, checked, flushed, renamed, and the directory flushed (P3.4). A crash
//! leaves a file in `incoming/`, which goes at the next start. Everything here blocks.

use gantry_model::root::Root;
use gantry_model::task::IMAGE_BYTES_MAX;
use gantry_proto::copies::{BodyGetReply, BodyGetRequest, BodyPutRequest, DIGESTS_MAX, Digest};
use gantry_proto::envelope::{Code, Fail};
use gantry_proto::noded::{PIECE_BYTES_MAX, PieceReply};
use gantry_rt::files::sync_dir;
use sha2::{Digest as _, Sha256};
use std::collections::HashMap;
use std::fmt::Write as _;
use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, ErrorKind, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Bodies on their way at once: two writers send one each; a few more were left by writers that died. The oldest goes.
pub const INCOMING_MAX: usize = 8;

struct Incoming {
    file: File,
    hash: Sha256,
    next: u64,
    total: u64,
    /// Rises with each piece, to find the one that nobody sends any more.
    touched: u64,
}

struct Inner {
    root: Root,
    /// Held by whatever finds, adds or removes a body: "have it" and "remove it" do not cross.
    incoming: Mutex<HashMap<Digest, Incoming>>,
}

/// The bodies of one node. Clones share them.
#[derive(Clone)]
pub struct Bodies(Arc<Inner>);

/// Lower-case hex.
#[must_use]
pub fn hex(digest: &Digest) -> String {
    digest.iter().fold(String::with_capacity(64), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}

fn failed(path: &Path, error: &io::Error) -> Fail {
    let code = match error.kind() {
        ErrorKind::StorageFull | ErrorKind::QuotaExceeded => Code::Busy,
        _ => Code::Internal,
    };
    Fail::new(code, format!("{}: {error}", path.display()))
}

fn bad(text: impl Into<String>) -> Fail {
    Fail::new(Code::BadRequest, text)
}

impl Bodies {
    /// Those below `root`; what a crash left half is removed.
    ///
    /// # Errors
    /// The disk's.
    pub fn open(root: &Root) -> io::Result<Self> {
        let bodies = Self(Arc::new(Inner { root: root.clone(), incoming: Mutex::default() }));
        match fs::remove_dir_all(bodies.incoming_dir()) {
            Err(error) if error.kind() != ErrorKind::NotFound => return Err(error),
            Ok(()) | Err(_) => {}
        }
        Ok(bodies)
    }

    fn incoming_dir(&self) -> PathBuf {
        self.0.root.lib().join("blob/incoming")
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<Digest, Incoming>> {
        self.0.incoming.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn path(&self, digest: &Digest) -> PathBuf {
        self.0.root.blob(&hex(digest))
    }

    /// Which of these are not here.
    ///
    /// # Errors
    /// `BadRequest` for too many; the disk's.
    pub fn have(&self, wanted: &[Digest]) -> Result<Vec<Digest>, Fail> {
        if wanted.len() > DIGESTS_MAX {
            return Err(bad(format!("{DIGESTS_MAX} digests at most")));
        }
        let dir = self.0.root.blob_dir();
        gantry_store::Bodies::missing(self, wanted).map_err(|error| failed(&dir, &error))
    }

    /// A piece of a body.
    ///
    /// # Errors
    /// `NotFound` when it is not here; the disk's.
    pub fn get(&self, request: &BodyGetRequest) -> Result<BodyGetReply, Fail> {
        let path = self.path(&request.digest);
        let read = || {
            let mut file = File::open(&path)?;
            let total = file.metadata()?.len();
            file.seek(SeekFrom::Start(request.offset))?;
            let mut bytes = Vec::new();
            file.take(PIECE_BYTES_MAX as u64).read_to_end(&mut bytes)?;
            Ok(BodyGetReply { total, bytes })
        };
        read().map_err(|error: io::Error| match error.kind() {
            ErrorKind::NotFound => Fail::new(Code::NotFound, format!("{} is not here", path.display())),
            _ => failed(&path, &error),
        })
    }

    /// Takes a piece; done when the body is here, durably. Pieces of another offset than the wanted one change nothing.
    ///
    /// # Errors
    /// `BadRequest` for a wrong request or a body that is not what its digest says; `Busy` for lack of room.
    pub fn put(&self, request: &BodyPutRequest) -> Result<PieceReply, Fail> {
        let end = request.offset.saturating_add(request.bytes.len() as u64);
        if request.bytes.len() > PIECE_BYTES_MAX || request.total > IMAGE_BYTES_MAX || end > request.total {
            return Err(bad(
                "a piece has 1 MiB at most and lies within its body, which is no larger than an image",
            ));
        }
        let path = self.path(&request.digest);
        let mut incoming = self.lock();
        if path.try_exists().map_err(|error| failed(&path, &error))? {
            incoming.remove(&request.digest);
            return Ok(PieceReply { next: request.total, done: true });
        }
        let staged = self.incoming_dir().join(hex(&request.digest));
        let told = |error: io::Error| failed(&staged, &error);
        if !incoming.contains_key(&request.digest) {
            if request.offset > 0 {
                return Ok(PieceReply { next: 0, done: false });
            }
            self.make_room(&mut incoming);
            incoming.insert(request.digest, Incoming::create(&staged, request.total).map_err(told)?);
        }
        let touched = incoming.values().map(|one| one.touched).max().unwrap_or_default() + 1;
        let one = incoming.get_mut(&request.digest).ok_or_else(|| bad("it is not under way"))?;
        one.touched = touched;
        let whole = match one.take(request) {
            Ok(whole) => whole,
            Err(why) => {
                incoming.remove(&request.digest);
                let _ = fs::remove_file(&staged);
                return Err(why.map_or_else(|| bad("the body's length changed"), told));
            }
        };
        if !whole {
            return Ok(PieceReply { next: one.next, done: false });
        }
        let Some(one) = incoming.remove(&request.digest) else { return Err(bad("it is not under way")) };
        one.publish(&staged, &path, &request.digest)?;
        Ok(PieceReply { next: request.total, done: true })
    }

    /// Forgets the upload that has been still for longest.
    fn make_room(&self, incoming: &mut HashMap<Digest, Incoming>) {
        while incoming.len() >= INCOMING_MAX {
            let Some(oldest) = incoming.iter().min_by_key(|(_, one)| one.touched).map(|(digest, _)| *digest)
            else {
                return;
            };
            incoming.remove(&oldest);
            // One that stays is replaced when the same body comes again, and goes at the next start.
            let _ = fs::remove_file(self.incoming_dir().join(hex(&oldest)));
        }
    }
}

impl Incoming {
    fn create(path: &Path, total: u64) -> io::Result<Self> {
        if let Some(dir) = path.parent() {
            DirBuilder::new().recursive(true).mode(0o700).create(dir)?;
        }
        let file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(path)?;
        Ok(Self { file, hash: Sha256::new(), next: 0, total, touched: 0 })
    }

    /// Whether it is whole now. `Err(None)`: the sender says another length than before.
    fn take(&mut self, request: &BodyPutRequest) -> Result<bool, Option<io::Error>> {
        if self.total != request.total {
            return Err(None);
        }
        if request.offset == self.next {
            self.file.write_all(&request.bytes).map_err(Some)?;
            self.hash.update(&request.bytes);
            self.next += request.bytes.len() as u64;
        }
        Ok(self.next == self.total)
    }

    /// Makes it a body, durably.
    fn publish(self, staged: &Path, path: &Path, digest: &Digest) -> Result<(), Fail> {
        let told = |error: io::Error| failed(path, &error);
        if self.hash.finalize()[..] != digest[..] {
            fs::remove_file(staged).map_err(told)?;
            return Err(bad(format!("the bytes sent do not have SHA-256 {}", hex(digest))));
        }
        self.file.sync_all().map_err(told)?;
        let dir = path.parent().ok_or_else(|| bad("a body lies in a directory"))?;
        if !dir.is_dir() {
            DirBuilder::new().recursive(true).mode(0o700).create(dir).map_err(told)?;
            // A new directory is durable when its parents are: `sha256` and `blob` may be new, too.
            dir.ancestors().skip(1).take(3).try_for_each(sync_dir).map_err(told)?;
        }
        fs::rename(staged, path).map_err(told)?;
        sync_dir(dir).map_err(told)
    }
}

impl gantry_store::Bodies for Bodies {
    fn missing(&self, wanted: &[Digest]) -> io::Result<Vec<Digest>> {
        let _gate = self.lock();
        let mut missing = Vec::new();
        for digest in wanted {
            if !self.path(digest).try_exists()? {
                missing.push(*digest);
            }
        }
        Ok(missing)
    }

    fn remove(&self, dropped: &[Digest]) -> io::Result<()> {
        let _gate = self.lock();
        for digest in dropped {
            match fs::remove_file(self.path(digest)) {
                Err(error) if error.kind() != ErrorKind::NotFound => return Err(error),
                Ok(()) | Err(_) => {}
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use gantry_store::Bodies as _;

    fn digest(bytes: &[u8]) -> Digest {
        Sha256::digest(bytes).into()
    }

    fn piece(of: &[u8], from: usize, to: usize) -> BodyPutRequest {
        let total = of.len() as u64;
        BodyPutRequest { digest: digest(of), total, offset: from as u64, bytes: of[from..to].to_vec() }
    }

    #[test]
    fn a_body_comes_in_pieces_and_is_there_when_whole() {
        let dir = tempfile::tempdir().expect("dir");
        let bodies = Bodies::open(&Root::new(dir.path())).expect("opened");
        let body = b"hello world";
        assert_eq!(bodies.put(&piece(body, 3, 5)).expect("asked"), PieceReply { next: 0, done: false });
        assert_eq!(bodies.put(&piece(body, 0, 5)).expect("taken"), PieceReply { next: 5, done: false });
        assert_eq!(bodies.put(&piece(body, 0, 5)).expect("again"), PieceReply { next: 5, done: false });
        assert_eq!(bodies.have(&[digest(body)]).expect("looked"), [digest(body)]);
        let done = PieceReply { next: 11, done: true };
        assert_eq!(bodies.put(&piece(body, 5, 11)).expect("whole"), done);
        assert_eq!(bodies.put(&piece(body, 0, 5)).expect("known"), done);
        assert!(bodies.have(&[digest(body)]).expect("looked").is_empty());
        let path = Root::new(dir.path()).blob(&hex(&digest(body)));
        assert_eq!(fs::read(path).expect("there"), body);
        bodies.remove(&[digest(body)]).expect("removed");
        bodies.remove(&[digest(body)]).expect("twice is no error");
        assert_eq!(bodies.missing(&[digest(body)]).expect("looked").len(), 1);
    }

    #[test]
    fn wrong_bytes_are_no_body_and_the_next_try_begins_anew() {
        let dir = tempfile::tempdir().expect("dir");
        let bodies = Bodies::open(&Root::new(dir.path())).expect("opened");
        let mut wrong = piece(b"right", 0, 5);
        wrong.bytes = b"wrong".to_vec();
        assert_eq!(bodies.put(&wrong).expect_err("refused").code, Code::BadRequest);
        assert_eq!(bodies.have(&[wrong.digest]).expect("looked").len(), 1);
        assert!(bodies.put(&piece(b"right", 0, 5)).expect("taken").done);
    }

    #[test]
    fn uploads_are_bounded_and_leftovers_go_at_start() {
        let dir = tempfile::tempdir().expect("dir");
        let root = Root::new(dir.path());
        let bodies = Bodies::open(&root).expect("opened");
        for n in 0..=INCOMING_MAX {
            bodies.put(&piece(format!("body {n}").as_bytes(), 0, 2)).expect("begun");
        }
        let first = bodies.put(&piece(b"body 0", 2, 6)).expect("asked");
        assert_eq!(first, PieceReply { next: 0, done: false }, "the oldest was forgotten");
        let last = format!("body {INCOMING_MAX}");
        assert!(bodies.put(&piece(last.as_bytes(), 2, last.len())).expect("whole").done);
        Bodies::open(&root).expect("opened");
        assert!(!root.lib().join("blob/incoming").exists());
    }
}
