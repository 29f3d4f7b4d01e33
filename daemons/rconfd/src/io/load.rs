//! From the files of the copy to snapshots: all of them once, then only what changed.

use crate::core::snapshot::Snapshot;
use crate::error::LoadError;
use gantry_store::{Mark, News, Reader};
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// How a look ended.
#[derive(Debug)]
pub enum Look {
    /// As before.
    Same,
    /// All was read.
    Whole(Arc<Snapshot>),
    /// So many changes were.
    Changes(Arc<Snapshot>, usize),
}

/// Follows one copy.
#[derive(Debug)]
pub struct Loader {
    dir: PathBuf,
    open: Option<(Reader, Mark, Arc<Snapshot>)>,
}

impl Loader {
    /// Follows the copy in `dir`, which need not be there yet.
    #[must_use]
    pub fn new(dir: &Path) -> Self {
        Self { dir: dir.to_owned(), open: None }
    }

    /// Looks whether anything is new. After an error the next look reads all.
    ///
    /// # Errors
    /// There is no configuration that can be served.
    pub fn look(&mut self) -> Result<Look, LoadError> {
        match self.open.take() {
            Some((reader, mark, snapshot)) if reader.is_current() => self.follow(reader, mark, snapshot),
            Some(_) | None => {
                let mut reader = Reader::open(&self.dir)?;
                reader.changed()?;
                self.whole(reader)
            }
        }
    }

    fn whole(&mut self, reader: Reader) -> Result<Look, LoadError> {
        let mut snapshot = Snapshot::default();
        let mut wrong = None;
        let mark = reader.load(|object| {
            let body = String::from_utf8_lossy(&object.body);
            if let Err(why) = snapshot.change(&object.kind, &object.key, Some(&body)) {
                wrong.get_or_insert(why);
            }
        })?;
        if let Some(why) = wrong {
            return Err(why.into());
        }
        let snapshot = self.keep(reader, mark, snapshot)?;
        Ok(Look::Whole(snapshot))
    }

    fn follow(&mut self, mut reader: Reader, mark: Mark, old: Arc<Snapshot>) -> Result<Look, LoadError> {
        if !reader.changed()? {
            self.open = Some((reader, mark, old));
            return Ok(Look::Same);
        }
        let (mark, changes) = match reader.since(&mark)? {
            News::Anew => return self.whole(reader),
            News::Changes(mark, changes) => (mark, changes),
        };
        if changes.is_empty() {
            self.open = Some((reader, mark, old));
            return Ok(Look::Same);
        }
        let mut snapshot = Snapshot::clone(&old);
        for change in &changes {
            let body = change.body.as_deref().map(String::from_utf8_lossy);
            snapshot.change(&change.kind, &change.key, body.as_deref())?;
        }
        let snapshot = self.keep(reader, mark, snapshot)?;
        Ok(Look::Changes(snapshot, changes.len()))
    }

    fn keep(
        &mut self,
        reader: Reader,
        mark: Mark,
        mut snapshot: Snapshot,
    ) -> Result<Arc<Snapshot>, LoadError> {
        snapshot.index = mark.config.max(mark.locks).0;
        snapshot.check()?;
        let snapshot = Arc::new(snapshot);
        self.open = Some((reader, mark, Arc::clone(&snapshot)));
        Ok(snapshot)
    }
}
