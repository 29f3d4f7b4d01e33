//! Following the objects of W from another process, for a reader that keeps its own picture of them: all objects once,
//! then only what changed. Reads only; takes no lock between calls.

use super::files::{CONFIG_DATA, FileSpec, LOCKS_DATA, LogKind, WCONF_LOG, file_of};
use super::sql::{Db, failed};
use super::{log, objects, whole};
use crate::core::row::{Batch, Change, Index, Object, RowKind};
use crate::error::StoreError;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use uuid::Uuid;

/// Rows read at once.
const ROWS: u64 = 1_000;
/// And their bytes.
const BYTES: usize = 16 * 1024 * 1024;
/// The files whose objects are read, in the order of [`Mark`].
const FILES: [&FileSpec; 2] = [&CONFIG_DATA, &LOCKS_DATA];

/// How far a reader's picture goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Mark {
    /// The history it belongs to.
    pub history: Uuid,
    /// All rows up to here are in the objects of `config.data`.
    pub config: Index,
    /// All rows up to here are in the objects of `locks.data`.
    pub locks: Index,
}

impl Mark {
    fn of(&self, file: &str) -> Index {
        if file == LOCKS_DATA.name { self.locks } else { self.config }
    }
}

/// What has become of the objects since a mark.
#[derive(Debug)]
pub enum News {
    /// These changes, in order; nothing if there are none.
    Changes(Mark, Vec<Change>),
    /// The way from there to here is not known: all objects must be read.
    Anew,
}

/// Which files are open: device and inode.
type Place = (u64, u64);

/// Connections to the files of one copy of W.
#[derive(Debug)]
pub struct Reader {
    dir: PathBuf,
    places: Vec<Place>,
    files: [Db; 2],
    /// None = this process may not read it; then each change costs a whole reading.
    log: Option<Db>,
    versions: Option<[i64; 2]>,
}

impl Reader {
    /// Opens the files of the copy in `dir`, and checks that no object of them is hidden.
    ///
    /// # Errors
    /// One of the object files is not there, can't be read or is damaged.
    pub fn open(dir: &Path) -> Result<Self, StoreError> {
        let open = |spec: &FileSpec| Db::open_read(spec, &spec.path(dir));
        let whole = |spec| open(spec).and_then(|db| whole::objects(&db).map(|()| db));
        let places = places(dir)?;
        let files = [whole(&CONFIG_DATA)?, whole(&LOCKS_DATA)?];
        Ok(Self { dir: dir.to_owned(), places, files, log: open(&WCONF_LOG).ok(), versions: None })
    }

    /// Whether the files in the directory are still those that are open.
    #[must_use]
    pub fn is_current(&self) -> bool {
        places(&self.dir).is_ok_and(|places| places == self.places)
    }

    /// Whether anything was committed since this was asked last. Costs no reading.
    ///
    /// # Errors
    /// A file can't be read.
    pub fn changed(&mut self) -> Result<bool, StoreError> {
        let version = |db: &Db| -> Result<i64, StoreError> {
            let asked = db.conn.query_row("PRAGMA data_version", [], |row| row.get(0));
            asked.map_err(failed(db.spec.name, "ask for its version"))
        };
        let now = [version(&self.files[0])?, version(&self.files[1])?];
        let changed = self.versions != Some(now);
        self.versions = Some(now);
        Ok(changed)
    }

    /// All objects, each file as of one moment.
    ///
    /// # Errors
    /// A file can't be read, or is damaged.
    pub fn load(&self, mut found: impl FnMut(Object)) -> Result<Mark, StoreError> {
        let mut applied = Vec::new();
        for (db, spec) in self.files.iter().zip(FILES) {
            let err = failed(spec.name, "read its objects");
            let tx = db.conn.unchecked_transaction().map_err(&err)?;
            applied.push(objects::applied(&tx, spec)?);
            objects::each(&tx, spec, |object| {
                found(object);
                Ok(())
            })?;
            tx.commit().map_err(err)?;
        }
        Ok(Mark { history: applied[0].history, config: applied[0].idx, locks: applied[1].idx })
    }

    /// What changed since `mark`, from the rows of the log that the files have applied.
    ///
    /// # Errors
    /// A file can't be read, or is damaged.
    pub fn since(&self, mark: &Mark) -> Result<News, StoreError> {
        let [config, locks] = [self.applied(0)?, self.applied(1)?];
        let known = config.history == mark.history && locks.history == mark.history;
        let forward = config.idx >= mark.config && locks.idx >= mark.locks;
        let Some(log) = self.log.as_ref().filter(|_| known && forward) else { return Ok(News::Anew) };
        let to = Mark { history: mark.history, config: config.idx, locks: locks.idx };
        let (from, end) = (mark.config.min(mark.locks), to.config.max(to.locks));
        if log::base(&log.conn, WCONF_LOG.name)?.at.idx > from {
            return Ok(News::Anew); // Compacted away.
        }
        let mut changes = Vec::new();
        let mut at = from;
        while at < end {
            let rows = log::rows(&log.conn, WCONF_LOG.name, at, ROWS.min(end.0 - at.0), BYTES)?;
            // Gone between the look at the base and now.
            let Some(last) = rows.last() else { return Ok(News::Anew) };
            at = last.idx;
            for row in rows.iter().filter(|row| row.kind == RowKind::Batch) {
                let new = |change: &Change| {
                    let file = file_of(&change.kind);
                    mark.of(file) < row.idx && row.idx <= to.of(file)
                };
                changes.extend(Batch::decode(&row.body)?.changes.into_iter().filter(new));
            }
        }
        Ok(News::Changes(to, changes))
    }

    fn applied(&self, file: usize) -> Result<objects::Applied, StoreError> {
        objects::applied(&self.files[file].conn, FILES[file])
    }
}

fn places(dir: &Path) -> Result<Vec<Place>, StoreError> {
    let place = |spec: &FileSpec| {
        let path = spec.path(dir);
        let facts = std::fs::metadata(&path).map_err(|_| StoreError::Missing { path })?;
        Ok((facts.dev(), facts.ino()))
    };
    LogKind::W.projections().iter().chain([&WCONF_LOG]).map(place).collect()
}
