//! What stands in files and is read anew when they change, by whoever asks next.

use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

/// A file as it was seen; another one, or the same with other contents, looks different. None: it is not there.
type Stamp = Option<[i128; 5]>;

/// What counts when the files can't be used any more.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Broken {
    /// What stood in them last.
    Last,
    /// Nothing.
    Nothing,
}

/// See the module.
pub struct Watched<T> {
    /// For people.
    what: &'static str,
    files: Vec<PathBuf>,
    read: Box<dyn Fn() -> Result<T, String> + Send + Sync>,
    broken: Broken,
    kept: Mutex<Kept<T>>,
}

struct Kept<T> {
    /// None: the last read failed, and the next one tries again.
    seen: Option<Vec<Stamp>>,
    value: Option<T>,
    /// Why the last read failed, so that it is said once.
    said: Option<String>,
}

impl<T: Clone> Watched<T> {
    /// Nothing read yet. `read` reads `files`.
    pub fn new(
        what: &'static str,
        files: Vec<PathBuf>,
        broken: Broken,
        read: impl Fn() -> Result<T, String> + Send + Sync + 'static,
    ) -> Self {
        let kept = Mutex::new(Kept { seen: None, value: None, said: None });
        Self { what, files, read: Box::new(read), broken, kept }
    }

    /// What stands there now. Blocks for some small looks, and reads if something changed. Why it can't be read is logged when
    /// it is new.
    #[must_use]
    pub fn current(&self) -> Option<T> {
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        // Before the read: a change in between is seen the next time.
        let now: Vec<Stamp> = self.files.iter().map(|file| stamp(file)).collect();
        if kept.seen.as_ref() == Some(&now) {
            return kept.value.clone();
        }
        match (self.read)() {
            Ok(value) => {
                tracing::info!(what = self.what, "read");
                *kept = Kept { seen: Some(now), value: Some(value), said: None };
            }
            Err(why) => {
                if kept.said.as_ref() != Some(&why) {
                    tracing::error!(what = self.what, why, "can't be used");
                }
                let value = kept.value.take().filter(|_| self.broken == Broken::Last);
                *kept = Kept { seen: None, value, said: Some(why) };
            }
        }
        kept.value.clone()
    }
}

fn stamp(file: &Path) -> Stamp {
    let meta = std::fs::metadata(file).ok()?;
    let changed = i128::from(meta.ctime()) * 1_000_000_000 + i128::from(meta.ctime_nsec());
    let written = i128::from(meta.mtime()) * 1_000_000_000 + i128::from(meta.mtime_nsec());
    Some([meta.dev().into(), meta.ino().into(), meta.size().into(), written, changed])
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};

    #[test]
    fn files_are_read_when_they_change() {
        for (broken, after) in [(Broken::Last, Some("two".to_owned())), (Broken::Nothing, None)] {
            let dir = tempfile::tempdir().unwrap();
            let file = dir.path().join("x");
            let reads = Arc::new(AtomicUsize::new(0));
            let (path, counted) = (file.clone(), Arc::clone(&reads));
            let watched = Watched::new("x", vec![file.clone()], broken, move || {
                counted.fetch_add(1, Ordering::SeqCst);
                std::fs::read_to_string(&path).map_err(|error| error.to_string())
            });
            assert_eq!(watched.current(), None);
            std::fs::write(&file, "one").unwrap();
            assert_eq!((watched.current(), watched.current()), (Some("one".into()), Some("one".into())));
            assert_eq!(reads.load(Ordering::SeqCst), 2);
            // As a renewal does: another file takes its place.
            std::fs::write(dir.path().join("y"), "two").unwrap();
            std::fs::rename(dir.path().join("y"), &file).unwrap();
            assert_eq!(watched.current().as_deref(), Some("two"));
            std::fs::remove_file(&file).unwrap();
            assert_eq!(watched.current(), after);
            std::fs::write(&file, "three").unwrap();
            assert_eq!(watched.current().as_deref(), Some("three"));
        }
    }
}
