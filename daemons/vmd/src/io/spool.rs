//! What outlives vmd: `spool/vm/VM/` with the VM's request in the file `created`, named `started` once it was, and for each
//! command a directory with its outputs and its end. Written before the effect it tells of. Not flushed: at a crash of the
//! machine the VMs die too, and a VM nobody knows is lost as one whose commands are not known. Every run makes these
//! files and removes them, so there are few: outputs have one only when they have a byte.

use gantry_proto::codec;
use gantry_proto::vmd::{CommandEnd, CreateRequest, Stream};
use std::fs::{self, File};
use std::io::{self, Read, Seek, SeekFrom};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

/// The spool of all VMs.
#[derive(Debug, Clone)]
pub struct Spool {
    dir: PathBuf,
}

/// A VM found at start.
#[derive(Debug)]
pub struct Found {
    /// Its request.
    pub request: CreateRequest,
    /// Whether it was ever started.
    pub started: bool,
    /// Its commands, and their ends if recorded.
    pub commands: Vec<(String, Option<CommandEnd>)>,
}

fn private_dir(path: &Path) -> io::Result<()> {
    fs::DirBuilder::new().mode(0o700).create(path)
}

/// A VM's request, until it is started.
const CREATED: &str = "created";
/// The same from then on.
const STARTED: &str = "started";
/// Before the names of commands.
const COMMAND: &str = "c-";

impl Spool {
    /// The one below `spool` (the node's spool directory).
    ///
    /// # Errors
    /// When it can't be made.
    pub fn open(spool: &Path) -> io::Result<Self> {
        let dir = spool.join("vm");
        fs::DirBuilder::new().recursive(true).mode(0o700).create(&dir)?;
        Ok(Self { dir })
    }

    fn vm(&self, vm: &str) -> PathBuf {
        self.dir.join(vm)
    }

    /// A command's directory.
    #[must_use]
    pub fn command(&self, vm: &str, command: &str) -> PathBuf {
        self.vm(vm).join(format!("{COMMAND}{command}"))
    }

    /// Notes a VM.
    ///
    /// # Errors
    /// The disk's; then nothing of it is left, or what is left is taken away at the next start.
    pub fn create(&self, request: &CreateRequest) -> io::Result<()> {
        let dir = self.vm(&request.vm);
        let bytes = codec::encode(request).map_err(io::Error::other)?;
        private_dir(&dir)?;
        fs::write(dir.join(CREATED), &bytes)
    }

    /// Notes that a VM is about to start.
    ///
    /// # Errors
    /// The disk's.
    pub fn start(&self, vm: &str) -> io::Result<()> {
        let dir = self.vm(vm);
        match fs::rename(dir.join(CREATED), dir.join(STARTED)) {
            // Not its first start.
            Err(error) if error.kind() == io::ErrorKind::NotFound && dir.join(STARTED).exists() => Ok(()),
            other => other,
        }
    }

    /// Notes a command that is about to begin.
    ///
    /// # Errors
    /// The disk's; `AlreadyExists` when it is known.
    pub fn begin(&self, vm: &str, command: &str) -> io::Result<PathBuf> {
        let dir = self.command(vm, command);
        private_dir(&dir)?;
        Ok(dir)
    }

    /// Notes a command's end. One that is not whole when vmd dies is none.
    ///
    /// # Errors
    /// The disk's.
    pub fn end(dir: &Path, end: &CommandEnd) -> io::Result<()> {
        fs::write(dir.join("end"), codec::encode(end).map_err(io::Error::other)?)
    }

    /// Removes a VM; not there is fine.
    ///
    /// # Errors
    /// The disk's.
    pub fn remove(&self, vm: &str) -> io::Result<()> {
        match fs::remove_dir_all(self.vm(vm)) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            other => other,
        }
    }

    /// All VMs noted. What is not whole was never answered, and is removed.
    ///
    /// # Errors
    /// The disk's.
    pub fn load(&self) -> io::Result<Vec<Found>> {
        let mut all = Vec::new();
        for entry in fs::read_dir(&self.dir)? {
            let dir = entry?.path();
            let read = |name: &str| codec::decode::<CreateRequest>(&fs::read(dir.join(name)).ok()?).ok();
            let found = read(STARTED).map(|request| (request, true));
            match found.or_else(|| Some((read(CREATED)?, false))) {
                Some((request, started)) => all.push(Found { request, started, commands: commands(&dir)? }),
                None => fs::remove_dir_all(&dir)?,
            }
        }
        Ok(all)
    }
}

fn commands(dir: &Path) -> io::Result<Vec<(String, Option<CommandEnd>)>> {
    let mut all = Vec::new();
    for entry in fs::read_dir(dir)? {
        let entry = entry?;
        let name = entry.file_name().to_string_lossy().into_owned();
        let Some(name) = name.strip_prefix(COMMAND) else { continue };
        let end = fs::read(entry.path().join("end")).ok();
        let end = end.and_then(|bytes| codec::decode(&bytes).ok());
        all.push((name.to_owned(), end));
    }
    Ok(all)
}

/// The file of an output.
#[must_use]
pub fn output(dir: &Path, stream: Stream) -> PathBuf {
    dir.join(match stream {
        Stream::Out => "out",
        Stream::Err => "err",
    })
}

/// Up to `max` bytes of an output from `offset` on.
///
/// # Errors
/// The disk's.
pub fn read(dir: &Path, stream: Stream, offset: u64, max: u64) -> io::Result<Vec<u8>> {
    let mut file = match File::open(output(dir, stream)) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        other => other?,
    };
    file.seek(SeekFrom::Start(offset))?;
    let mut bytes = Vec::new();
    file.take(max).read_to_end(&mut bytes)?;
    Ok(bytes)
}
