//! What nobody needs on the disk of a node that is not the master (there luxid decides): bodies of rows that were cut off,
//! temporary files of a master that died here, damaged bodies that were mended. And the reading of all bodies now and
//! then, since a damaged one that nobody reads would be found when it is wanted.
//!
//! | what | when it goes |
//! |---|---|
//! | a temporary file, a partial upload | at the start, then every hour: at once when its writer is dead (it holds the file's lock) |
//! | a body that no object and no row of this node's logs names | once it had no name for an hour of this noded's time, by looks an hour apart |
//! | a damaged body | every hour: when a whole one is here, or nothing names it |
//!
//! No wall clock is asked. Who is told that a body is here ("have it") has it for another hour. Everything here blocks,
//! but for the loop.

use super::Copies;
use super::bodies::Bodies;
use super::role::Roles;
use gantry_body::unnamed::Mark;
use gantry_body::{BodyError, Reading, temporary};
use gantry_model::config::kind;
use gantry_model::pool::Image;
use gantry_model::root::Root;
use gantry_model::task::{Task, is_digest};
use gantry_proto::copies::{DAMAGED_MAX, DamagedReply};
use gantry_proto::envelope::{Code, Fail};
use gantry_proto::noded::PIECE_BYTES_MAX;
use gantry_rt::clock;
use gantry_store::{LogKind, Object, StoreError, digest, named_bodies};
use std::collections::HashSet;
use std::fs;
use std::io::{self, ErrorKind};
use std::path::PathBuf;
use std::time::Duration;
use tokio_util::sync::CancellationToken;

/// The kind of luxid's objects that name bodies.
const TASK: &str = "task";
/// Between two looks. Also what a body must have been without a name: [`gantry_body::unnamed::UNNAMED_MS_MIN`].
const PERIOD: Duration = Duration::from_millis(gantry_body::unnamed::UNNAMED_MS_MIN);
/// All bodies are read once in so many looks: once a day.
const READ_ALL_LOOKS: u64 = 24;
/// Pause after each MiB that is read: at most 16 MiB/s, so that nobody notices.
const READ_PAUSE: Duration = Duration::from_millis(62);

/// What one look removed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Swept {
    /// Bodies that nothing named.
    pub bodies: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Temporary files of dead writers.
    pub leftovers: u64,
    /// Damaged bodies.
    pub damaged: u64,
}

/// Looks at the start and every hour, until `stop`.
pub async fn run(copies: Copies, stop: CancellationToken) {
    for look in 0_u64.. {
        let (bodies, roles) = (copies.bodies.clone(), copies.roles.clone());
        let swept = tokio::task::spawn_blocking(move || sweep(&bodies, &roles, clock::millis())).await;
        match swept.map_err(|why| why.to_string()).and_then(|swept| swept) {
            Ok(swept) if swept == Swept::default() => {}
            Ok(swept) => tracing::info!(?swept, "removed what nobody needs"),
            Err(why) => tracing::warn!(why, "can't look for bodies that nobody needs"),
        }
        let next = async {
            tokio::time::sleep(PERIOD).await;
            if look % READ_ALL_LOOKS == 0 {
                read_all(copies.bodies.root(), READ_PAUSE).await;
            }
        };
        tokio::select! {
            () = next => {}
            () = stop.cancelled() => return,
        }
    }
}

/// One look at time `now` of a clock that does not step, in milliseconds.
///
/// # Errors
/// Something can't be read: nothing more is removed.
pub fn sweep(bodies: &Bodies, roles: &Roles, now: u64) -> Result<Swept, String> {
    let root = bodies.root();
    let mut swept = Swept { leftovers: leftovers(root).map_err(|why| why.to_string())?, ..Swept::default() };
    bodies.forget_idle();
    let named = named(root).map_err(|why| why.chain())?;
    swept.damaged = mended(root, &named).map_err(|why| why.to_string())?;
    if roles.master().is_some() {
        // Watched anew by whoever follows: what was seen before does not count.
        bodies.unnamed(now, Vec::new());
        return Ok(swept);
    }
    let found = all(root).map_err(|why| why.to_string())?;
    let found = found.into_iter().filter(|(name, _)| !named.contains(name)).collect();
    for digest in bodies.unnamed(now, found) {
        // A node that is elected just now has another who decides.
        let removed = roles.unless_master(|| bodies.remove_unnamed(&digest, now));
        if let Some(bytes) = removed.transpose().map_err(|why| why.to_string())?.flatten() {
            (swept.bodies, swept.bytes) = (swept.bodies + 1, swept.bytes + bytes);
        }
    }
    Ok(swept)
}

/// The digests that this node's copies name, in hex.
fn named(root: &Root) -> Result<HashSet<String>, StoreError> {
    let (dir, mut named) = (root.lib(), HashSet::new());
    for (log, kind) in [(LogKind::W, kind::IMAGE), (LogKind::Q, TASK)] {
        named.extend(named_bodies(&dir, log, kind, of)?.iter().map(super::bodies::hex));
    }
    Ok(named)
}

/// The bodies that an object names.
fn of(object: &Object) -> Result<Vec<gantry_proto::copies::Digest>, StoreError> {
    let unread = |why: serde_json::Error| StoreError::Damaged {
        file: "an object",
        what: format!("{}/{}: {why}", object.kind, object.key),
    };
    Ok(match object.kind.as_str() {
        kind::IMAGE => {
            let image: Image = serde_json::from_slice(&object.body).map_err(unread)?;
            digest(&image.digest).into_iter().collect()
        }
        TASK => {
            let task: Task = serde_json::from_slice(&object.body).map_err(unread)?;
            task.bodies().filter_map(digest).collect()
        }
        _ => Vec::new(),
    })
}

/// Entries of a directory that may not be there.
fn entries(dir: PathBuf) -> io::Result<Vec<fs::DirEntry>> {
    match fs::read_dir(dir) {
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(Vec::new()),
        other => other?.collect(),
    }
}

/// What lies in the directories of the bodies.
fn files(root: &Root) -> io::Result<Vec<(String, PathBuf)>> {
    let mut found = Vec::new();
    for dir in entries(root.blob_dir())? {
        if dir.file_type()?.is_dir() {
            let named =
                |entry: fs::DirEntry| (entry.file_name().to_string_lossy().into_owned(), entry.path());
            found.extend(entries(dir.path())?.into_iter().map(named));
        }
    }
    Ok(found)
}

/// All bodies.
fn all(root: &Root) -> io::Result<Vec<(String, Mark)>> {
    let mut found = Vec::new();
    for (name, path) in files(root)?.into_iter().filter(|(name, _)| is_digest(name)) {
        match fs::metadata(path) {
            Ok(facts) => found.push((name, Mark::of(&facts))),
            Err(error) if error.kind() == ErrorKind::NotFound => {}
            Err(error) => return Err(error),
        }
    }
    Ok(found)
}

/// Removes temporary files whose writers are dead: those of bodies, and luxid's uploads.
fn leftovers(root: &Root) -> io::Result<u64> {
    let unfinished = |name: &str| name.starts_with('.') && name.ends_with(".tmp");
    let mut found: Vec<PathBuf> =
        files(root)?.into_iter().filter(|(name, _)| unfinished(name)).map(|(_, path)| path).collect();
    found.extend(entries(root.partial_dir())?.into_iter().map(|entry| entry.path()));
    let mut removed = 0;
    for path in found {
        removed += u64::from(temporary::remove_dead(&path)?);
    }
    Ok(removed)
}

/// Removes damaged bodies that are of no use to anybody.
fn mended(root: &Root, named: &HashSet<String>) -> io::Result<u64> {
    let mut removed = 0;
    for entry in entries(root.damaged_dir())? {
        let name = entry.file_name().to_string_lossy().into_owned();
        if !named.contains(&name) || root.blob(&name).exists() {
            fs::remove_file(entry.path())?;
            removed += 1;
        }
    }
    Ok(removed)
}

/// Reads all bodies, with a pause after each piece; those that are damaged are put aside.
async fn read_all(root: &Root, pause: Duration) {
    let begun = root.clone();
    let found = tokio::task::spawn_blocking(move || all(&begun)).await;
    let Ok(Ok(found)) = found else { return };
    for (digest, _) in found {
        let read = read(root, &digest, pause).await;
        if let Err(why) = read {
            tracing::error!(%why, digest, "a body can't be read");
        }
    }
}

async fn read(root: &Root, digest: &str, pause: Duration) -> Result<(), BodyError> {
    let (root, name) = (root.clone(), digest.to_owned());
    let mut body = match tokio::task::spawn_blocking(move || Reading::open(&root, &name)).await {
        Ok(Err(error)) if error.kind() == ErrorKind::NotFound => return Ok(()),
        other => other.map_err(io::Error::other)??,
    };
    let mut offset = 0;
    loop {
        let step = move || body.piece(offset, PIECE_BYTES_MAX).map(|bytes| (body, bytes.len() as u64));
        let read;
        (body, read) = tokio::task::spawn_blocking(step).await.map_err(io::Error::other)??;
        offset += read;
        if offset >= body.total() {
            return Ok(());
        }
        tokio::time::sleep(pause).await;
    }
}

impl Copies {
    /// Which bodies of this node are damaged, and have not been mended.
    ///
    /// # Errors
    /// The disk's.
    pub async fn body_damaged(&self) -> Result<DamagedReply, Fail> {
        let root = self.bodies.root().clone();
        super::blocking(move || {
            let found = gantry_body::damaged(&root);
            let mut first = found.map_err(|why| {
                Fail::new(Code::Internal, format!("{}: {why}", root.damaged_dir().display()))
            })?;
            let count = first.len() as u64;
            first.truncate(DAMAGED_MAX);
            Ok(DamagedReply { count, first })
        })
        .await
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use gantry_body::unnamed::UNNAMED_MS_MIN;
    use gantry_model::ids::{ClusterUuid, NodeUuid};
    use gantry_model::role::{Role, RoleFile};
    use gantry_store::Bodies as _;
    use gantry_store::{Batch, Birth, Change, Member, create};
    use sha2::Digest as _;
    use std::path::Path;
    use uuid::Uuid;

    struct Bed {
        root: Root,
        bodies: Bodies,
        roles: Roles,
        _dir: tempfile::TempDir,
    }

    fn bed(role: Role) -> Bed {
        let dir = tempfile::tempdir().unwrap();
        let root = Root::new(dir.path());
        gantry_rt::files::make_dirs(&root).unwrap();
        let file =
            RoleFile { node: NodeUuid(Uuid::nil()), cluster: ClusterUuid(Uuid::nil()), role, epoch: 1 };
        gantry_rt::files::write_role(&root, &file).unwrap();
        let (bodies, roles) = (Bodies::open(&root).unwrap(), Roles::new(root.clone(), file));
        Bed { root, bodies, roles, _dir: dir }
    }

    fn put(root: &Root, body: &[u8]) -> String {
        let digest = gantry_body::hex(&sha2::Sha256::digest(body));
        let path = root.blob(&digest);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, body).unwrap();
        digest
    }

    /// A log of which the first batch has this object, and names this body.
    fn log(root: &Root, log: LogKind, kind: &str, object: &serde_json::Value, row: &str) {
        let member = Member { node: Uuid::nil(), copy_id: Uuid::from_u128(1) };
        let change = Change {
            kind: kind.to_owned(),
            key: "1".to_owned(),
            rev: 1,
            body: Some(object.to_string().into_bytes()),
        };
        let bodies = digest(row).into_iter().collect();
        let first = Batch { changes: vec![change], bodies, ..Batch::default() };
        let (cluster, history) = (Uuid::nil(), Uuid::from_u128(2));
        let birth = Birth { cluster, history, epoch: 1, ballot: [1; 16], members: vec![member], first };
        create(&root.lib(), log, &birth).unwrap();
    }

    /// A writer starts once: what its log has is in the objects then, too.
    fn apply(root: &Root, log: LogKind) {
        gantry_store::start(&root.lib(), gantry_store::StartOptions::new(log)).unwrap().writer.stop();
    }

    fn sweep_at(bed: &Bed, now: u64) -> Swept {
        sweep(&bed.bodies, &bed.roles, now).unwrap()
    }

    fn left(path: PathBuf) -> PathBuf {
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, "left").unwrap();
        path
    }

    fn aged(path: &Path) {
        let file = fs::File::options().write(true).open(path).unwrap();
        file.set_modified(std::time::SystemTime::UNIX_EPOCH).unwrap();
    }

    #[test]
    fn what_nobody_names_goes_after_an_hour_whatever_the_clock_says() {
        let bed = bed(Role::Candidate);
        let image = put(&bed.root, b"an image");
        let input = put(&bed.root, b"an input");
        let row = put(&bed.root, b"of a row");
        let cut = put(&bed.root, b"of a row that was cut off");
        [&image, &input, &row, &cut].into_iter().for_each(|digest| aged(&bed.root.blob(digest)));
        let object = serde_json::json!({ "name": "deb", "digest": image, "bytes": 8, "serial_no": 1, "ctime": 1.0, "mtime": 1.0 });
        log(&bed.root, LogKind::W, kind::IMAGE, &object, "");
        let task = serde_json::json!({ "id": 1, "state": 0, "received": [1, 0], "attempts": [],
            "spec": { "pool": "p", "execute": [{ "command": "x" }], "input": { "digest": input, "bytes": 8 } } });
        log(&bed.root, LogKind::Q, TASK, &task, &row);
        assert_eq!(sweep_at(&bed, 0), Swept::default());
        [LogKind::W, LogKind::Q].into_iter().for_each(|log| apply(&bed.root, log));
        assert_eq!(sweep_at(&bed, UNNAMED_MS_MIN - 1), Swept::default());
        let swept = sweep_at(&bed, UNNAMED_MS_MIN);
        assert_eq!((swept.bodies, swept.bytes), (1, 25));
        assert!(!bed.root.blob(&cut).exists());
        assert!([image, input, row].iter().all(|digest| bed.root.blob(digest).exists()));
    }

    #[test]
    fn who_was_told_that_a_body_is_here_has_it_for_another_hour() {
        let bed = bed(Role::Candidate);
        let asked = put(&bed.root, b"asked for");
        sweep_at(&bed, 0);
        assert!(bed.bodies.missing(&[digest(&asked).unwrap()]).unwrap().is_empty());
        assert_eq!(sweep_at(&bed, UNNAMED_MS_MIN).bodies, 0);
        assert_eq!(sweep_at(&bed, 2 * UNNAMED_MS_MIN).bodies, 1);
    }

    #[test]
    fn on_a_master_only_files_of_the_dead_go() {
        let bed = bed(Role::Master);
        let body = put(&bed.root, b"luxid's");
        let upload = left(bed.root.partial_dir().join("x.1"));
        for now in [0, UNNAMED_MS_MIN, 9 * UNNAMED_MS_MIN] {
            assert_eq!(sweep_at(&bed, now).bodies, 0);
        }
        assert!(bed.root.blob(&body).exists() && !upload.exists());
        bed.roles.depose(2).unwrap();
        assert_eq!(sweep_at(&bed, 9 * UNNAMED_MS_MIN).bodies, 0, "watched anew");
        assert_eq!(sweep_at(&bed, 10 * UNNAMED_MS_MIN).bodies, 1);
    }

    #[test]
    fn a_pull_under_way_stays_and_a_dead_ones_goes() {
        let bed = bed(Role::Candidate);
        let digest = put(&bed.root, b"x");
        let beside = |name: &str| bed.root.blob(&digest).with_file_name(name);
        let dead = left(beside(".a.Q0.tmp"));
        let living = beside(".a.Q1.tmp");
        let writer = temporary::create(&living).unwrap();
        aged(&living);
        assert_eq!(sweep_at(&bed, 0).leftovers, 1);
        assert!(living.exists() && !dead.exists());
        drop(writer);
        assert_eq!(sweep_at(&bed, 1).leftovers, 1);
    }

    #[tokio::test]
    async fn all_bodies_are_read_and_the_damaged_ones_are_told_until_they_are_mended() {
        let bed = bed(Role::Candidate);
        let (good, bad) = (put(&bed.root, b"good"), put(&bed.root, b"bad"));
        log(&bed.root, LogKind::Q, "job", &serde_json::json!({}), &bad);
        fs::write(bed.root.blob(&bad), "bed").unwrap();
        read_all(&bed.root, Duration::ZERO).await;
        let copies = Copies::new(bed.root.clone(), bed.roles.clone()).unwrap();
        let told = copies.body_damaged().await.unwrap();
        assert_eq!(told, DamagedReply { count: 1, first: vec![bad.clone()] });
        assert!(bed.root.blob(&good).exists());
        assert_eq!(sweep_at(&bed, 0).damaged, 0, "it is named, and not mended");
        put(&bed.root, b"bad");
        assert_eq!(copies.body_damaged().await.unwrap(), DamagedReply::default());
        assert_eq!(sweep_at(&bed, 0).damaged, 1);
        assert!(!bed.root.damaged_dir().join(&bad).exists());
    }
}
