//! Bodies that rows name: `blob/sha256/ab/HEX`, the layout that luxid and jobs use on the master. They come in pieces into
//! `blob/incoming/`, and are confirmed when whole, checked, flushed, renamed, and the directory flushed (P3.4). A crash
//! leaves a file in `incoming/`, which goes at the next start. A body that turns out to be damaged when it is read is put
//! aside, and is lacked from then on. What nobody names goes by [`super::sweep`]. Everything here blocks.

use gantry_body::unnamed::{Mark, Unnamed, Work};
use gantry_body::{BodyError, Reading};
use gantry_model::root::Root;
use gantry_model::task::IMAGE_BYTES_MAX;
use gantry_proto::copies::{BodyGetReply, BodyGetRequest, BodyPutRequest, DIGESTS_MAX, Digest};
use gantry_proto::envelope::{Code, Fail};
use gantry_proto::noded::{PIECE_BYTES_MAX, PieceReply};
use gantry_rt::files::sync_dir;
use sha2::{Digest as _, Sha256};
use std::collections::HashMap;
use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, ErrorKind, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Bodies on their way at once: two writers send one each; a few more were left by writers that died. The oldest goes.
pub const INCOMING_MAX: usize = 8;
/// Bodies that are read at once by others: two writers take one each. The oldest is forgotten; its reader goes on, from a new
/// look at it.
const OUTGOING_MAX: usize = 4;

/// A body that somebody takes.
type Outgoing = Arc<Mutex<Reading>>;

struct Incoming {
    file: File,
    hash: Sha256,
    next: u64,
    total: u64,
    /// Rises with each piece, to find the one that nobody sends any more.
    touched: u64,
    /// No piece has come since the last look.
    idle: bool,
}

/// What may come and go.
#[derive(Default)]
struct Gate {
    incoming: HashMap<Digest, Incoming>,
    /// Bodies that nothing names. Whoever is told "have it" has it for a while.
    unnamed: Unnamed,
}

struct Inner {
    root: Root,
    /// Held by whatever finds, adds or removes a body: "have it" and "remove it" do not cross.
    gate: Mutex<Gate>,
    /// The last one begun is the last.
    outgoing: Mutex<Vec<(Digest, Outgoing)>>,
}

/// The bodies of one node. Clones share them.
#[derive(Clone)]
pub struct Bodies(Arc<Inner>);

/// Lower-case hex.
#[must_use]
pub fn hex(digest: &Digest) -> String {
    gantry_body::hex(digest)
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
        let bodies =
            Self(Arc::new(Inner { root: root.clone(), gate: Mutex::default(), outgoing: Mutex::default() }));
        match fs::remove_dir_all(bodies.incoming_dir()) {
            Err(error) if error.kind() != ErrorKind::NotFound => return Err(error),
            Ok(()) | Err(_) => {}
        }
        Ok(bodies)
    }

    fn incoming_dir(&self) -> PathBuf {
        self.0.root.lib().join("blob/incoming")
    }

    fn lock(&self) -> MutexGuard<'_, Gate> {
        self.0.gate.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn outgoing(&self) -> MutexGuard<'_, Vec<(Digest, Outgoing)>> {
        self.0.outgoing.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Where they are.
    #[must_use]
    pub fn root(&self) -> &Root {
        &self.0.root
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

    /// A piece of a body. The last one is given only when the whole is what the digest says.
    ///
    /// # Errors
    /// `NotFound` when it is not here, or is damaged, which puts it aside; the disk's.
    pub fn get(&self, request: &BodyGetRequest) -> Result<BodyGetReply, Fail> {
        let path = self.path(&request.digest);
        let told = |error: io::Error| match error.kind() {
            ErrorKind::NotFound => Fail::new(Code::NotFound, format!("{} is not here", path.display())),
            _ => failed(&path, &error),
        };
        let reading = self.reading(request).map_err(told)?;
        let mut body = reading.lock().unwrap_or_else(PoisonError::into_inner);
        let (total, piece) = (body.total(), body.piece(request.offset, PIECE_BYTES_MAX));
        drop(body);
        let last = |bytes: &Vec<u8>| request.offset.saturating_add(bytes.len() as u64) >= total;
        if piece.as_ref().map_or(true, last) {
            self.outgoing().retain(|(digest, _)| *digest != request.digest);
        }
        match piece {
            Ok(bytes) => Ok(BodyGetReply { total, bytes }),
            Err(BodyError::Io(error)) => Err(told(error)),
            Err(why @ BodyError::Damaged { .. }) => {
                tracing::error!(%why, "a body is lacked here from now on");
                Err(Fail::new(Code::NotFound, why.to_string()))
            }
        }
    }

    /// The body as its reader left it. Who begins, begins anew.
    fn reading(&self, request: &BodyGetRequest) -> io::Result<Outgoing> {
        let mut outgoing = self.outgoing();
        let known = outgoing.iter().find(|(digest, _)| *digest == request.digest && request.offset > 0);
        if let Some((_, reading)) = known {
            return Ok(Arc::clone(reading));
        }
        let reading = Arc::new(Mutex::new(Reading::open(&self.0.root, &hex(&request.digest))?));
        outgoing.retain(|(digest, _)| *digest != request.digest);
        if outgoing.len() >= OUTGOING_MAX {
            outgoing.remove(0);
        }
        outgoing.push((request.digest, Arc::clone(&reading)));
        Ok(reading)
    }

    /// Removes uploads of which no piece came since this was last called, and forgets who reads.
    pub fn forget_idle(&self) {
        let mut gate = self.lock();
        let idle: Vec<Digest> =
            gate.incoming.iter().filter(|(_, one)| one.idle).map(|(digest, _)| *digest).collect();
        for digest in idle {
            gate.incoming.remove(&digest);
            let _ = fs::remove_file(self.incoming_dir().join(hex(&digest)));
        }
        gate.incoming.values_mut().for_each(|one| one.idle = true);
        self.outgoing().clear();
    }

    /// Notes the bodies that nothing names, of which `found` are all.
    pub fn unnamed(&self, now: u64, found: Vec<(String, Mark)>) -> Vec<String> {
        let mut gate = self.lock();
        gate.unnamed.look(now, found, Work::default());
        gate.unnamed.due(now, Work::default())
    }

    /// Removes a body that had no name for long enough, unless somebody was told meanwhile that it is here. Its bytes.
    ///
    /// # Errors
    /// The disk's.
    pub fn remove_unnamed(&self, digest: &str, now: u64) -> io::Result<Option<u64>> {
        let mut gate = self.lock();
        let path = self.0.root.blob(digest);
        let facts = match fs::metadata(&path) {
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
            other => other?,
        };
        if !gate.unnamed.is_due(digest, Mark::of(&facts), now, Work::default()) {
            return Ok(None);
        }
        fs::remove_file(&path)?;
        gate.unnamed.forget(digest);
        Ok(Some(facts.len()))
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
        let mut gate = self.lock();
        // Whoever puts it, or is told that it is here, is about to name it.
        gate.unnamed.forget(&hex(&request.digest));
        let incoming = &mut gate.incoming;
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
            self.make_room(incoming);
            incoming.insert(request.digest, Incoming::create(&staged, request.total).map_err(told)?);
        }
        let touched = incoming.values().map(|one| one.touched).max().unwrap_or_default() + 1;
        let one = incoming.get_mut(&request.digest).ok_or_else(|| bad("it is not under way"))?;
        (one.touched, one.idle) = (touched, false);
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
        Ok(Self { file, hash: Sha256::new(), next: 0, total, touched: 0, idle: false })
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
        let mut gate = self.lock();
        let mut missing = Vec::new();
        for digest in wanted {
            gate.unnamed.forget(&hex(digest));
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
    fn a_damaged_body_is_not_given_whole_and_is_lacked_then() {
        let dir = tempfile::tempdir().expect("dir");
        let root = Root::new(dir.path());
        let bodies = Bodies::open(&root).expect("opened");
        let mut body = vec![7; PIECE_BYTES_MAX + 9];
        let whole = body.clone();
        let get = |body: &[u8], offset| bodies.get(&BodyGetRequest { digest: digest(body), offset });
        for (from, to) in [(0, PIECE_BYTES_MAX), (PIECE_BYTES_MAX, whole.len())] {
            bodies.put(&piece(&whole, from, to)).expect("taken");
        }
        let reply = get(&whole, 0).expect("given");
        assert_eq!((reply.total, reply.bytes.len()), (whole.len() as u64, PIECE_BYTES_MAX));
        assert_eq!(get(&whole, PIECE_BYTES_MAX as u64).expect("given").bytes, [7; 9]);
        assert!(get(&whole, whole.len() as u64).expect("given").bytes.is_empty());
        body[3] ^= 1;
        fs::write(root.blob(&hex(&digest(&whole))), &body).expect("written");
        get(&whole, 0).expect("the first piece is only one");
        let refused = get(&whole, PIECE_BYTES_MAX as u64).expect_err("refused");
        assert!(refused.code == Code::NotFound && refused.text.contains("damaged"), "{refused}");
        assert_eq!(bodies.have(&[digest(&whole)]).expect("looked"), [digest(&whole)]);
        assert!(bodies.outgoing().is_empty());
    }

    #[test]
    fn an_upload_that_nobody_goes_on_with_goes() {
        let dir = tempfile::tempdir().expect("dir");
        let bodies = Bodies::open(&Root::new(dir.path())).expect("opened");
        let body = b"hello";
        bodies.put(&piece(body, 0, 2)).expect("taken");
        bodies.forget_idle();
        bodies.put(&piece(body, 2, 3)).expect("taken");
        bodies.forget_idle();
        assert_eq!(bodies.put(&piece(body, 3, 4)).expect("taken").next, 4, "a piece had come");
        bodies.forget_idle();
        bodies.forget_idle();
        assert_eq!(bodies.put(&piece(body, 4, 5)).expect("asked").next, 0);
        assert_eq!(fs::read_dir(bodies.incoming_dir()).expect("there").count(), 0);
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
