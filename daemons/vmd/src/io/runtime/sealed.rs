//! The runtime's program as a sealed file in memory: nothing can write to it, not even through `/proc/PID/exe` of a
//! process that runs it. A link on the stage names it, so that its processes have its name.

use nix::fcntl::{FcntlArg, SealFlag, fcntl};
use nix::sys::memfd::{MFdFlags, memfd_create};
use std::fs::{self, File, Metadata, Permissions};
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

/// What tells a program from the one that replaced it: device, inode, size, and time of change in ns.
type Mark = (u64, u64, u64, i128);

/// See the module.
#[derive(Debug)]
pub struct Sealed {
    program: PathBuf,
    link: PathBuf,
    copy: Mutex<Option<(Mark, File)>>,
}

fn mark(found: &Metadata) -> Mark {
    let changed = i128::from(found.ctime()) * 1_000_000_000 + i128::from(found.ctime_nsec());
    (found.dev(), found.ino(), found.size(), changed)
}

impl Sealed {
    /// Of this program, with a link to its copy at `link`. Makes nothing yet.
    pub fn new(program: PathBuf, link: PathBuf) -> Self {
        Self { program, link, copy: Mutex::default() }
    }

    /// What to run: the link to the copy, made anew when the program was replaced; the program itself should the
    /// kernel refuse a copy, since runtimes then make their own.
    pub fn path(&self) -> &Path {
        match self.renew() {
            Ok(()) => &self.link,
            Err(error) => {
                tracing::warn!(program = %self.program.display(), %error, "can't seal a copy of the runtime");
                &self.program
            }
        }
    }

    fn renew(&self) -> io::Result<()> {
        let now = mark(&fs::metadata(&self.program)?);
        let mut copy = self.copy.lock().unwrap_or_else(PoisonError::into_inner);
        if copy.as_ref().is_some_and(|(of, _)| *of == now) {
            return Ok(());
        }
        // Made whole before it replaces another: replaced meanwhile, it is made once more at the next run.
        let file = seal(&self.program)?;
        let _ = fs::remove_file(&self.link);
        // In the process that becomes the runtime, `self` is that process, with vmd's descriptors until then.
        symlink(format!("/proc/self/fd/{}", file.as_raw_fd()), &self.link)?;
        *copy = Some((now, file));
        Ok(())
    }
}

fn seal(program: &Path) -> io::Result<File> {
    let name = program.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let flags = MFdFlags::MFD_CLOEXEC | MFdFlags::MFD_ALLOW_SEALING;
    let mut file = File::from(memfd_create(name.as_str(), flags)?);
    io::copy(&mut File::open(program)?, &mut file)?;
    file.set_permissions(Permissions::from_mode(0o500))?;
    // All of them: runtimes take a copy for guarded only then.
    let seals =
        SealFlag::F_SEAL_SEAL | SealFlag::F_SEAL_SHRINK | SealFlag::F_SEAL_GROW | SealFlag::F_SEAL_WRITE;
    fcntl(&file, FcntlArg::F_ADD_SEALS(seals))?;
    Ok(file)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::OpenOptions;
    use std::io::Write;
    use std::process::Command;

    fn script_of(dir: &Path, name: &str, from: &str) -> PathBuf {
        let program = dir.join(name);
        fs::copy(from, &program).expect("copied");
        program
    }

    #[test]
    fn nobody_writes_to_a_copy_and_a_new_program_gets_a_new_one() {
        let dir = tempfile::tempdir().expect("dir");
        let program = script_of(dir.path(), "tool", "/bin/true");
        let sealed = Sealed::new(program.clone(), dir.path().join("link"));
        assert!(Command::new(sealed.path()).status().expect("runs").success());
        assert_eq!(sealed.path(), dir.path().join("link"), "the copy is run, not the program");
        let written =
            OpenOptions::new().write(true).open(sealed.path()).and_then(|mut copy| copy.write_all(b"x"));
        assert!(written.is_err(), "sealed");
        let before = fs::read_link(sealed.path()).expect("a link");
        assert_eq!(fs::read_link(sealed.path()).expect("a link"), before, "made once");
        fs::remove_file(&program).expect("removed");
        script_of(dir.path(), "tool", "/bin/false");
        assert_eq!(Command::new(sealed.path()).status().expect("runs").code(), Some(1), "the new one");
    }

    #[test]
    fn a_place_that_takes_no_link_has_the_program_itself_run() {
        let program = PathBuf::from("/bin/true");
        let sealed = Sealed::new(program.clone(), PathBuf::from("/nowhere/link"));
        assert_eq!(sealed.path(), program);
    }
}
