//! The body store of this node (P4.4): a job writes what it names in its report, and sends what nodes need. Owns the
//! temporary files it makes; deletes no body, which is luxid's to do.

use crate::error::OpFail;
use gantry_body::{BodyError, Reading, hex, room, temporary};
use gantry_model::ids::JobOwner;
use gantry_model::root::Root;
use gantry_model::task::BodyRef;
use gantry_proto::noded::PieceReply;
use sha2::{Digest, Sha256};
use std::fs::{self, DirBuilder, File};
use std::io::{self, BufWriter, Write};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// Bytes of one piece to a node: a piece under way must not make a job process large.
const PIECE_BYTES: usize = 256 << 10;
/// Directory of bodies that are being written, in the store, so that a rename puts them in place.
const UNFINISHED: &str = "tmp";
/// Bytes kept in memory before a file is made for them: most archives of artifacts are empty, and are thrown away.
const SMALL_BYTES: usize = 32 << 10;
/// Answers to pieces that bring an upload no further, after which it is given up.
const IDLE_ANSWERS_MAX: u32 = 8;
/// How long a whole body is waited for in the place of a damaged one. Copies look for what is lacked every second.
const CURE: Duration = Duration::from_secs(20);
/// And how often it is looked for.
const CURE_LOOK: Duration = Duration::from_millis(100);

/// Writes one body. Dropped before [`Writer::finish`] it leaves nothing.
pub struct Writer {
    root: Root,
    temporary: PathBuf,
    /// What came so far, while it is small.
    small: Vec<u8>,
    file: Option<Temporary>,
    hash: Sha256,
    bytes: u64,
}

impl Writer {
    /// Begins a body. `number` tells apart those of one job.
    pub fn new(root: &Root, owner: JobOwner, number: u64) -> Self {
        // What a killed job leaves is swept by this name.
        let temporary = root.blob_dir().join(UNFINISHED).join(format!(".{owner}-{number}.tmp"));
        let (small, hash) = (Vec::new(), Sha256::new());
        Self { root: root.clone(), temporary, small, file: None, hash, bytes: 0 }
    }

    /// Adds bytes at the end.
    pub fn add(&mut self, bytes: &[u8]) -> io::Result<()> {
        if self.file.is_none() && self.small.len() + bytes.len() <= SMALL_BYTES {
            self.small.extend_from_slice(bytes);
        } else {
            let file = self.file()?;
            let dir = file.path.parent().unwrap_or(&file.path);
            // Results come from work that is done: they may take of what uploads have to leave.
            room::look(dir, bytes.len() as u64, room::reserve(dir)? / 2)?;
            file.file.write_all(bytes)?;
        }
        self.hash.update(bytes);
        self.bytes += u64::try_from(bytes.len()).unwrap_or(u64::MAX);
        Ok(())
    }

    /// The file, with all that came before.
    fn file(&mut self) -> io::Result<&mut Temporary> {
        if self.file.is_none() {
            let mut made = Temporary::make(&self.temporary)?;
            made.file.write_all(&std::mem::take(&mut self.small))?;
            self.file = Some(made);
        }
        self.file.as_mut().ok_or_else(|| io::Error::other("no file was made"))
    }

    /// How many bytes there are.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// The body is durable under its digest when this returns. One that was there before is replaced by its equal, so
    /// that it counts as new.
    pub fn finish(mut self) -> io::Result<BodyRef> {
        let file = self.file()?;
        file.file.flush()?;
        file.file.get_ref().sync_all()?;
        let digest = hex(&std::mem::take(&mut self.hash).finalize());
        let path = self.root.blob(&digest);
        let dir = path.parent().unwrap_or(&path);
        make_dir(dir)?;
        self.file()?.rename(&path)?;
        File::open(dir)?.sync_all()?;
        Ok(BodyRef { digest, bytes: self.bytes })
    }
}

/// A file that goes when it is dropped, unless it got its name.
struct Temporary {
    file: BufWriter<File>,
    path: PathBuf,
    renamed: bool,
}

impl Temporary {
    fn make(path: &Path) -> io::Result<Self> {
        make_dir(path.parent().unwrap_or(path))?;
        // Locked while it is written: what a killed job leaves is told by that.
        let file = temporary::create(path)?;
        Ok(Self { file: BufWriter::new(file), path: path.to_owned(), renamed: false })
    }

    fn rename(&mut self, to: &Path) -> io::Result<()> {
        fs::rename(&self.path, to)?;
        self.renamed = true;
        Ok(())
    }
}

impl Drop for Temporary {
    fn drop(&mut self) {
        if !self.renamed {
            let _ = fs::remove_file(&self.path);
        }
    }
}

/// Makes a directory durable with its own name; one that is there is fine.
fn make_dir(dir: &Path) -> io::Result<()> {
    if dir.is_dir() {
        return Ok(());
    }
    DirBuilder::new().recursive(true).mode(0o700).create(dir)?;
    dir.parent().map_or(Ok(()), |parent| File::open(parent)?.sync_all())
}

/// A piece of a body on its way to a node.
pub struct Piece {
    /// Where it begins.
    pub offset: u64,
    /// What it is.
    pub bytes: Vec<u8>,
    /// Nothing follows.
    pub last: bool,
}

/// Why a body was not sent whole.
enum Unsent {
    /// The receiver's reason, or the disk's.
    Failed(OpFail),
    /// It is not in the store, or was put aside just now. Whether the receiver has pieces of it, which may be wrong ones.
    Lacked(bool),
}

/// Sends a stored body piece by piece from where the receiver wants it, until that says it is done. It never has a body
/// whole that is damaged here: such a one is put aside, and a whole one is waited for a moment, which luxid takes from
/// another candidate's copy.
///
/// # Errors
/// The receiver's; `OpExecError`, which is never the user's fault, when it can't be read, is not here, or is damaged.
pub async fn send(
    root: &Root,
    digest: &str,
    put: impl AsyncFnMut(Piece) -> Result<PieceReply, OpFail>,
) -> Result<(), OpFail> {
    send_patiently(root, digest, CURE, put).await
}

async fn send_patiently(
    root: &Root,
    digest: &str,
    cure: Duration,
    mut put: impl AsyncFnMut(Piece) -> Result<PieceReply, OpFail>,
) -> Result<(), OpFail> {
    let begun = Instant::now();
    loop {
        let sent = match send_once(root, digest, &mut put).await {
            Ok(()) => return Ok(()),
            Err(Unsent::Failed(why)) => return Err(why),
            Err(Unsent::Lacked(sent)) => sent,
        };
        if !gantry_body::is_damaged(root, digest) && !root.blob(digest).exists() {
            return Err(OpFail::exec(format!("the body {digest} is not in the body store of the master")));
        }
        await_whole(root, digest, begun, cure).await?;
        if sent {
            let text = "was damaged on the master; a whole one has come from another candidate: try again";
            return Err(OpFail::exec(format!("the body {digest} {text}")));
        }
    }
}

/// Waits for a whole body in the place of a damaged one.
async fn await_whole(root: &Root, digest: &str, begun: Instant, cure: Duration) -> Result<(), OpFail> {
    while gantry_body::is_damaged(root, digest) {
        if begun.elapsed() >= cure {
            return Err(OpFail::exec(format!(
                "the body {digest} is damaged on the master, and no other candidate gave a whole one within {} s: \
                 see \"gnt-cluster verify\"; sending it again mends it",
                cure.as_secs()
            )));
        }
        tokio::time::sleep(CURE_LOOK).await;
    }
    Ok(())
}

async fn send_once(
    root: &Root,
    digest: &str,
    put: &mut impl AsyncFnMut(Piece) -> Result<PieceReply, OpFail>,
) -> Result<(), Unsent> {
    let unread = |why: io::Error| {
        let path = root.blob(digest);
        Unsent::Failed(OpFail::exec(format!("can't read the body {}: {why}", path.display())))
    };
    let mut body = match Reading::open(root, digest) {
        Err(why) if why.kind() == io::ErrorKind::NotFound => return Err(Unsent::Lacked(false)),
        other => other.map_err(unread)?,
    };
    let total = body.total();
    let (mut offset, mut idle, mut sent) = (0, 0, false);
    loop {
        let bytes = body.piece(offset, PIECE_BYTES).map_err(|why| match why {
            BodyError::Io(why) => unread(why),
            BodyError::Damaged { .. } => Unsent::Lacked(sent),
        })?;
        let last = offset + u64::try_from(bytes.len()).unwrap_or(u64::MAX) == total;
        let reply = put(Piece { offset, bytes, last }).await.map_err(Unsent::Failed)?;
        sent = true;
        if reply.done {
            return Ok(());
        }
        idle = if reply.next > offset { 0 } else { idle + 1 };
        if reply.next > total || idle > IDLE_ANSWERS_MAX {
            let text =
                format!("the receiver wants byte {} of a body of {total} and comes no further", reply.next);
            return Err(Unsent::Failed(OpFail::exec(text)));
        }
        offset = reply.next;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use gantry_model::ids::{JobId, StartNo};

    fn owner() -> JobOwner {
        JobOwner { job: JobId(1), start: StartNo { epoch: 1, run: 1, counter: 1 } }
    }

    fn unfinished(root: &Root) -> usize {
        fs::read_dir(root.blob_dir().join(UNFINISHED)).unwrap().count()
    }

    #[test]
    fn a_body_is_found_under_its_digest_also_when_written_twice() {
        let dir = tempfile::tempdir().unwrap();
        let root = Root::new(dir.path());
        for number in 0..2 {
            let mut writer = Writer::new(&root, owner(), number);
            writer.add(b"ab").unwrap();
            writer.add(b"c").unwrap();
            let body = writer.finish().unwrap();
            assert_eq!(body.digest, "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
            assert_eq!((body.bytes, fs::read(root.blob(&body.digest)).unwrap()), (3, b"abc".to_vec()));
        }
        assert_eq!(unfinished(&root), 0);
    }

    #[test]
    fn a_body_given_up_leaves_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let root = Root::new(dir.path());
        Writer::new(&root, owner(), 0).add(b"x").unwrap();
        assert!(!root.blob_dir().exists(), "a small one makes no file");
        let mut large = Writer::new(&root, owner(), 0);
        large.add(b"x").unwrap();
        large.add(&vec![b'y'; SMALL_BYTES]).unwrap();
        assert_eq!(unfinished(&root), 1);
        drop(large);
        assert_eq!(unfinished(&root), 0);
    }

    fn put(root: &Root, body: &[u8]) -> String {
        let mut writer = Writer::new(root, owner(), 0);
        writer.add(body).unwrap();
        writer.finish().unwrap().digest
    }

    fn text(sent: Result<(), OpFail>) -> String {
        match sent {
            Err(OpFail::Error(why)) => why.to_string(),
            other => panic!("{other:?}"),
        }
    }

    #[tokio::test]
    async fn a_body_is_sent_from_where_it_is_wanted() {
        let dir = tempfile::tempdir().unwrap();
        let root = Root::new(dir.path());
        let body: Vec<u8> = (0..=250).cycle().take(PIECE_BYTES * 2 + 7).collect();
        let digest = put(&root, &body);
        // The receiver has some already, and once loses a piece.
        let (mut got, mut lose) = (body[..1000].to_vec(), true);
        send(&root, &digest, async |piece: Piece| {
            let here = got.len() as u64;
            if piece.offset == here && !std::mem::take(&mut lose) {
                got.extend(piece.bytes);
                return Ok(PieceReply { next: got.len() as u64, done: piece.last });
            }
            Ok(PieceReply { next: here, done: false })
        })
        .await
        .unwrap();
        assert_eq!(got, body);
        let stuck = send(&root, &digest, async |_| Ok(PieceReply { next: 0, done: false })).await;
        assert!(text(stuck).contains("comes no further"));
        let none = send(&root, &"0".repeat(64), async |_| Ok(PieceReply { next: 0, done: true })).await;
        assert!(text(none).contains("is not in the body store"));
    }

    #[tokio::test]
    async fn a_damaged_body_is_never_sent_whole() {
        let dir = tempfile::tempdir().unwrap();
        let root = Root::new(dir.path());
        for (count, sent_before) in [(100, false), (PIECE_BYTES * 2, true)] {
            let mut body = vec![7; count];
            let digest = put(&root, &body);
            body[count - 1] ^= 1;
            fs::write(root.blob(&digest), &body).unwrap();
            // Another candidate's copy mends it while it is waited for.
            let (mended, whole) = (root.clone(), vec![7; count]);
            let mend = async {
                while !gantry_body::is_damaged(&root, &digest) {
                    tokio::time::sleep(CURE_LOOK).await;
                }
                put(&mended, &whole)
            };
            let mut got = Vec::new();
            let sending = send(&root, &digest, async |piece: Piece| {
                got.extend(piece.bytes);
                Ok(PieceReply { next: got.len() as u64, done: piece.last })
            });
            let (sent, _) = tokio::join!(sending, mend);
            if sent_before {
                assert!(text(sent).contains("was damaged on the master"));
                assert!(got.len() < count, "the receiver has it whole");
            } else {
                sent.unwrap();
                assert_eq!(got, vec![7; count]);
            }
        }
    }

    #[tokio::test]
    async fn a_body_that_nobody_has_whole_is_told_as_damaged() {
        let dir = tempfile::tempdir().unwrap();
        let root = Root::new(dir.path());
        let digest = put(&root, b"whole");
        fs::write(root.blob(&digest), "whale").unwrap();
        let again = async || send_patiently(&root, &digest, CURE_LOOK, async |_| panic!("it was sent")).await;
        let why = text(again().await);
        assert!(why.contains("is damaged on the master") && why.contains("sending it again"), "{why}");
        // So is it the next time, although it is not there any more.
        assert!(text(again().await).contains("is damaged"));
    }
}
