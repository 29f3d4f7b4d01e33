//! The access log and the error log, `monitoring-daemon-access.log` and `monitoring-daemon-error.log`: a line a request, written
//! by a thread of their own, so that a full or slow disk delays no answer. What does not fit is left out.

use gantry_model::root::Root;
use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::PathBuf;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};

/// Lines that may wait for the disk.
const LINES_MAX: usize = 1024;
/// A log that has so many bytes is put aside as `.1`; the one before goes.
const LOG_BYTES_MAX: u64 = 16 << 20;
/// Most characters of a request's target in a line.
const TARGET_CHARS_MAX: usize = 200;

/// Where lines go; None: nowhere. Clones share it.
#[derive(Debug, Clone)]
pub struct Access(Option<SyncSender<Line>>);

#[derive(Debug)]
struct Line {
    text: String,
    is_error: bool,
}

#[derive(Debug)]
struct Log {
    path: PathBuf,
    file: File,
    bytes: u64,
}

/// A request that was answered.
#[derive(Debug, Clone, Copy)]
pub struct Request<'a> {
    /// Whose.
    pub from: std::net::IpAddr,
    /// When, seconds since the epoch.
    pub epoch: f64,
    /// Its method.
    pub method: &'a str,
    /// What it asked for.
    pub target: &'a str,
    /// What it got.
    pub status: u16,
    /// Bytes of that.
    pub bytes: usize,
}

impl Access {
    /// Opens both logs and starts their thread, which ends with the last clone. Where that fails nothing is noted: a full disk
    /// must not keep a node from telling that it is full.
    #[must_use]
    pub fn open(root: &Root) -> Self {
        match Self::start(root) {
            Ok(lines) => Self(Some(lines)),
            Err(error) => {
                tracing::warn!(%error, "cannot open the access log; requests are not noted");
                Self(None)
            }
        }
    }

    fn start(root: &Root) -> io::Result<SyncSender<Line>> {
        let log = |name: &str| Log::open(root.log().join(format!("monitoring-daemon-{name}.log")));
        let (access, error) = (log("access")?, log("error")?);
        let (lines, inbox) = sync_channel(LINES_MAX);
        std::thread::Builder::new()
            .name("access-log".to_owned())
            .spawn(move || write_all(&inbox, access, error))?;
        Ok(lines)
    }

    /// Notes a request.
    pub fn note(&self, request: &Request<'_>) {
        let Some(lines) = &self.0 else { return };
        let target: String =
            request.target.chars().take(TARGET_CHARS_MAX).flat_map(char::escape_default).collect();
        let Request { from, epoch, method, status, bytes, .. } = request;
        let text = format!("{from} {epoch:.3} \"{method} {target}\" {status} {bytes}\n");
        // Full: the disk is slow, and answers are not to wait for it.
        let _ = lines.try_send(Line { text, is_error: *status >= 500 });
    }
}

fn write_all(inbox: &Receiver<Line>, mut access: Log, mut error: Log) {
    while let Ok(line) = inbox.recv() {
        let written = access
            .write(&line.text)
            .and_then(|()| if line.is_error { error.write(&line.text) } else { Ok(()) });
        if let Err(error) = written {
            tracing::warn!(%error, "cannot write the access log");
        }
    }
}

impl Log {
    fn open(path: PathBuf) -> io::Result<Self> {
        let file = OpenOptions::new().append(true).create(true).mode(0o640).open(&path)?;
        let bytes = file.metadata()?.len();
        Ok(Self { path, file, bytes })
    }

    fn write(&mut self, text: &str) -> io::Result<()> {
        if self.bytes >= LOG_BYTES_MAX {
            std::fs::rename(&self.path, self.path.with_extension("log.1"))?;
            *self = Self::open(self.path.clone())?;
        }
        self.file.write_all(text.as_bytes())?;
        self.bytes += text.len() as u64;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_full_log_is_put_aside() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("x.log");
        std::fs::write(&path, "old\n").unwrap();
        let mut log = Log::open(path.clone()).unwrap();
        log.bytes = LOG_BYTES_MAX;
        log.write("new\n").unwrap();
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "new\n");
        assert_eq!(std::fs::read_to_string(dir.path().join("x.log.1")).unwrap(), "old\n");
    }
}
