//! What outlives vmd, two files per VM: `run/…/vm/VM`, a journal that is only appended to (the VM's request, its first
//! start, beginnings and ends of commands), and `spool/vm/VM+NUMBERout` or `VM+NUMBERerr` for each output that has a byte.
//! Written before the effect it tells of. Journals need not outlive the machine, since its VMs do not, and lie below `run/`: in
//! memory where that is `/run`, where making and removing a file costs little. Every run makes these files and removes them,
//! so there are few. A journal is bounded by the commands that a VM may have had: some 300 KiB.

use gantry_model::root::Root;
use gantry_proto::codec;
use gantry_proto::vmd::{CommandEnd, CreateRequest, Stream};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

/// Between a VM's name and what an output adds to it; no name has it.
const OUTPUT: char = '+';
/// Bytes before each entry: its length.
const LENGTH_BYTES: usize = 4;

/// The spool of all VMs.
#[derive(Debug, Clone)]
pub struct Spool {
    journals: PathBuf,
    outputs: PathBuf,
}

/// A VM found at start.
#[derive(Debug)]
pub struct Found {
    /// Its request.
    pub request: CreateRequest,
    /// Whether it was ever started.
    pub started: bool,
    /// Its commands by number.
    pub commands: BTreeMap<u32, FoundCommand>,
}

/// A command found at start.
#[derive(Debug)]
pub struct FoundCommand {
    /// Its name.
    pub name: String,
    /// Its end if recorded.
    pub end: Option<CommandEnd>,
}

/// An entry of a journal; the first is `Created`.
#[derive(Debug, Serialize, Deserialize)]
enum Entry {
    Created(CreateRequest),
    Started,
    Begun {
        number: u32,
        command: String,
    },
    /// It never reached PID 1; its name is free.
    Dropped {
        number: u32,
    },
    Ended {
        number: u32,
        end: CommandEnd,
    },
}

/// A command's part of the spool.
#[derive(Debug, Clone)]
pub struct Place {
    journal: PathBuf,
    number: u32,
    /// Of its outputs, but for the last letters.
    output: PathBuf,
}

fn framed(entry: &Entry) -> io::Result<Vec<u8>> {
    let body = codec::encode(entry).map_err(io::Error::other)?;
    let length = u32::try_from(body.len()).map_err(io::Error::other)?;
    Ok([&length.to_le_bytes()[..], &body].concat())
}

/// Adds an entry wholly or not at all.
fn append(journal: &Path, entry: &Entry) -> io::Result<()> {
    write_whole(&mut OpenOptions::new().append(true).open(journal)?, &framed(entry)?)
}

fn write_whole(file: &mut File, bytes: &[u8]) -> io::Result<()> {
    let done = file.write(bytes)?;
    if done == bytes.len() {
        return Ok(());
    }
    // A full disk took a part: what follows must not be read as the rest of it.
    let length = file.metadata()?.len();
    file.set_len(length.saturating_sub(done as u64))?;
    Err(io::ErrorKind::StorageFull.into())
}

impl Spool {
    /// That of a node.
    ///
    /// # Errors
    /// When it can't be made.
    pub fn open(root: &Root) -> io::Result<Self> {
        let spool = Self { journals: root.vm_dir(), outputs: root.spool_dir().join("vm") };
        for dir in [&spool.journals, &spool.outputs] {
            fs::DirBuilder::new().recursive(true).mode(0o700).create(dir)?;
        }
        Ok(spool)
    }

    fn journal(&self, vm: &str) -> PathBuf {
        self.journals.join(vm)
    }

    /// A command's part.
    #[must_use]
    pub fn place(&self, vm: &str, number: u32) -> Place {
        let output = self.outputs.join(format!("{vm}{OUTPUT}{number}"));
        Place { journal: self.journal(vm), number, output }
    }

    /// Notes a VM.
    ///
    /// # Errors
    /// The disk's; then nothing of it is left, or what is left is taken away at the next start.
    pub fn create(&self, request: &CreateRequest) -> io::Result<()> {
        let bytes = framed(&Entry::Created(request.clone()))?;
        let path = self.journal(&request.vm);
        let mut file = OpenOptions::new().append(true).create_new(true).mode(0o600).open(&path)?;
        write_whole(&mut file, &bytes).inspect_err(|_| _ = fs::remove_file(&path))
    }

    /// Notes that a VM is about to start for the first time.
    ///
    /// # Errors
    /// The disk's.
    pub fn start(&self, vm: &str) -> io::Result<()> {
        append(&self.journal(vm), &Entry::Started)
    }

    /// Notes a command that is about to begin.
    ///
    /// # Errors
    /// The disk's.
    pub fn begin(&self, vm: &str, command: &str, number: u32) -> io::Result<Place> {
        let place = self.place(vm, number);
        append(&place.journal, &Entry::Begun { number, command: command.to_owned() })?;
        Ok(place)
    }

    /// Removes a VM that had these commands; not there is fine.
    ///
    /// # Errors
    /// The disk's; it is still noted then.
    pub fn remove(&self, vm: &str, commands: impl IntoIterator<Item = u32>) -> io::Result<()> {
        for number in commands {
            let place = self.place(vm, number);
            remove_file(&place.output(Stream::Out))?;
            remove_file(&place.output(Stream::Err))?;
        }
        // Last: whatever is left of it is a noted VM's.
        remove_file(&self.journal(vm))
    }

    /// All VMs noted. What is not whole was never answered, and is removed; so are outputs that no noted VM has, as all are
    /// after a start of the machine.
    ///
    /// # Errors
    /// The disk's.
    pub fn load(&self) -> io::Result<Vec<Found>> {
        let mut found = BTreeMap::new();
        for entry in fs::read_dir(&self.journals)? {
            let entry = entry?;
            let path = entry.path();
            if entry.file_type()?.is_dir() {
                // Nobody's; what can't be read must not keep all VMs from being served.
                fs::remove_dir_all(path)?;
                continue;
            }
            match read_journal(&path)? {
                Some(one) => _ = found.insert(one.request.vm.clone(), one),
                None => fs::remove_file(path)?,
            }
        }
        for entry in fs::read_dir(&self.outputs)? {
            let entry = entry?;
            let name = entry.file_name().to_string_lossy().into_owned();
            if entry.file_type()?.is_dir() {
                // As earlier versions had them: their VMs have ended with that vmd. So had they journals here.
                fs::remove_dir_all(entry.path())?;
            } else if !name.split_once(OUTPUT).is_some_and(|(vm, _)| found.contains_key(vm)) {
                fs::remove_file(entry.path())?;
            }
        }
        Ok(found.into_values().collect())
    }
}

fn remove_file(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        other => other,
    }
}

/// What a journal says; None when not even its first entry is whole. An entry that is not whole, left by a vmd that was
/// killed in its midst, is cut off.
fn read_journal(path: &Path) -> io::Result<Option<Found>> {
    let bytes = fs::read(path)?;
    let mut rest = bytes.as_slice();
    let Some(Entry::Created(request)) = next(&mut rest) else { return Ok(None) };
    let mut found = Found { request, started: false, commands: BTreeMap::new() };
    while let Some(entry) = next(&mut rest) {
        match entry {
            Entry::Created(_) => {}
            Entry::Started => found.started = true,
            Entry::Begun { number, command } => {
                found.commands.insert(number, FoundCommand { name: command, end: None });
            }
            Entry::Dropped { number } => _ = found.commands.remove(&number),
            Entry::Ended { number, end } => {
                if let Some(command) = found.commands.get_mut(&number) {
                    command.end = Some(end);
                }
            }
        }
    }
    if !rest.is_empty() {
        let whole = (bytes.len() - rest.len()) as u64;
        OpenOptions::new().write(true).open(path)?.set_len(whole)?;
    }
    Ok(Some(found))
}

/// Takes the next whole entry off `rest`.
fn next(rest: &mut &[u8]) -> Option<Entry> {
    let (length, after) = rest.split_first_chunk::<LENGTH_BYTES>()?;
    let length = usize::try_from(u32::from_le_bytes(*length)).ok()?;
    let (body, after) = after.split_at_checked(length)?;
    let entry = codec::decode(body).ok()?;
    *rest = after;
    Some(entry)
}

impl Place {
    /// Notes its end. One that is not whole when vmd dies is none.
    ///
    /// # Errors
    /// The disk's.
    pub fn end(&self, end: &CommandEnd) -> io::Result<()> {
        append(&self.journal, &Entry::Ended { number: self.number, end: *end })
    }

    /// Notes that it never began.
    ///
    /// # Errors
    /// The disk's; after vmd's death it then counts as lost.
    pub fn drop_it(&self) -> io::Result<()> {
        append(&self.journal, &Entry::Dropped { number: self.number })
    }

    /// What is free on the disk of the outputs.
    ///
    /// # Errors
    /// The disk's.
    pub fn free_bytes(&self) -> io::Result<u64> {
        let dir = self.output.parent().unwrap_or(&self.output);
        let found = nix::sys::statvfs::statvfs(dir)?;
        Ok(found.blocks_available() * found.fragment_size())
    }

    /// The file of an output.
    #[must_use]
    pub fn output(&self, stream: Stream) -> PathBuf {
        let word = match stream {
            Stream::Out => "out",
            Stream::Err => "err",
        };
        let mut path = self.output.clone().into_os_string();
        path.push(word);
        path.into()
    }

    /// Up to `max` bytes of an output from `offset` on.
    ///
    /// # Errors
    /// The disk's.
    pub fn read(&self, stream: Stream, offset: u64, max: u64) -> io::Result<Vec<u8>> {
        let mut file = match File::open(self.output(stream)) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            other => other?,
        };
        file.seek(SeekFrom::Start(offset))?;
        let mut bytes = Vec::new();
        file.take(max).read_to_end(&mut bytes)?;
        Ok(bytes)
    }
}

#[cfg(test)]
#[path = "spool/tests.rs"]
mod tests;
