//! The body store of this node (P4.4): a job writes what it names in its report, and sends what nodes need. Owns the
//! temporary files it makes; deletes no body, which is luxid's to do.

use crate::error::OpFail;
use gantry_model::ids::JobOwner;
use gantry_model::root::Root;
use gantry_model::task::BodyRef;
use gantry_proto::noded::PieceReply;
use sha2::{Digest, Sha256};
use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, BufWriter, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

/// Bytes of one piece to a node: a piece under way must not make a job process large.
const PIECE_BYTES: usize = 256 << 10;
/// Directory of bodies that are being written, in the store, so that a rename puts them in place.
const UNFINISHED: &str = "tmp";
/// Bytes kept in memory before a file is made for them: most archives of artifacts are empty, and are thrown away.
const SMALL_BYTES: usize = 32 << 10;
/// Answers to pieces that bring an upload no further, after which it is given up.
const IDLE_ANSWERS_MAX: u32 = 8;

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
        // What a killed job leaves is swept by luxid when it is old, by this name.
        let temporary = root.blob_dir().join(UNFINISHED).join(format!(".{owner}-{number}.tmp"));
        let (small, hash) = (Vec::new(), Sha256::new());
        Self { root: root.clone(), temporary, small, file: None, hash, bytes: 0 }
    }

    /// Adds bytes at the end.
    pub fn add(&mut self, bytes: &[u8]) -> io::Result<()> {
        if self.file.is_none() && self.small.len() + bytes.len() <= SMALL_BYTES {
            self.small.extend_from_slice(bytes);
        } else {
            self.file()?.file.write_all(bytes)?;
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
        let file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(path)?;
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

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
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

/// Sends a stored body piece by piece from where the receiver wants it, until that says it is done.
pub async fn send(
    path: &Path,
    mut put: impl AsyncFnMut(Piece) -> Result<PieceReply, OpFail>,
) -> Result<(), OpFail> {
    let broken = |why: io::Error| OpFail::exec(format!("can't read the body {}: {why}", path.display()));
    let mut file = File::open(path).map_err(broken)?;
    let total = file.metadata().map_err(broken)?.len();
    let (mut offset, mut idle) = (0, 0);
    loop {
        let piece = read_piece(&mut file, offset, total).map_err(broken)?;
        let reply = put(piece).await?;
        if reply.done {
            return Ok(());
        }
        idle = if reply.next > offset { 0 } else { idle + 1 };
        if reply.next > total || idle > IDLE_ANSWERS_MAX {
            let text =
                format!("the receiver wants byte {} of a body of {total} and comes no further", reply.next);
            return Err(OpFail::exec(text));
        }
        offset = reply.next;
    }
}

fn read_piece(file: &mut File, offset: u64, total: u64) -> io::Result<Piece> {
    let length = usize::try_from(total - offset).unwrap_or(usize::MAX).min(PIECE_BYTES);
    let mut bytes = vec![0; length];
    file.seek(SeekFrom::Start(offset))?;
    file.read_exact(&mut bytes)?;
    let end = offset + u64::try_from(length).unwrap_or(u64::MAX);
    Ok(Piece { offset, bytes, last: end == total })
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

    #[tokio::test]
    async fn a_body_is_sent_from_where_it_is_wanted() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("body");
        let body: Vec<u8> = (0..=250).cycle().take(PIECE_BYTES * 2 + 7).collect();
        fs::write(&path, &body).unwrap();
        // The receiver has some already, and once loses a piece.
        let (mut got, mut lose) = (body[..1000].to_vec(), true);
        send(&path, async |piece: Piece| {
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
        let stuck = send(&path, async |_| Ok(PieceReply { next: 0, done: false })).await;
        assert!(matches!(stuck, Err(OpFail::Error(why)) if why.to_string().contains("comes no further")));
    }
}
