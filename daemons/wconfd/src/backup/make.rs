//! Making a backup. Everything is made in a directory beside the final one, which takes its name in one rename; the
//! manifest is the last file. A crash before the rename leaves `.NAME.partial`, which the next backup of that name
//! removes.

use super::check::digest;
use super::manifest::{self, Body, Entry, Manifest, Place};
use super::{
    BackupError, HMAC_KEY, NODE_TOML, Progress, body_name, count, failed, others, room, say, size,
    snapshot_name, still, unix_ms,
};
use gantry_copies::peers::Peer;
use gantry_model::config::{Cluster, Node, kind};
use gantry_model::ids::NodeUuid;
use gantry_model::pool::Image;
use gantry_model::role::{Role, RoleFile};
use gantry_model::root::Root;
use gantry_model::task::Task;
use gantry_rpc::tls::{self, CA_KEY, CA_PEM};
use gantry_rt::files;
use gantry_store::{LogKind, SnapshotFile, StoreError};
use nix::fcntl::{Flock, FlockArg};
use std::collections::BTreeSet;
use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::Path;

/// The queue's kind of tasks.
const TASK: &str = "task";
/// Looks at the CA's files until two agree: a renewal changes them some times in all.
const AUTHORITY_TRIES: usize = 20;
/// Room left free beside the bodies.
const SPARE_BYTES: u64 = 16 << 20;

/// Makes one of this master in `dir`. Blocks; durable when it returns.
///
/// # Errors
/// Why there is none; nothing is left behind then.
pub fn backup(root: &Root, dir: &Path) -> Result<Manifest, BackupError> {
    let role = master(root)?;
    let dir = std::path::absolute(dir).map_err(failed("find", dir))?;
    let name = match dir.components().next_back() {
        Some(std::path::Component::Normal(name)) => name.to_string_lossy().into_owned(),
        _ => return Err(BackupError::NoName { dir }),
    };
    let parent = dir.parent().unwrap_or(Path::new("/")).to_owned();
    refuse_used(&dir)?;
    // A word mistyped, or a disk that is not mounted: not to be filled elsewhere.
    if !parent.is_dir() {
        return Err(BackupError::NoParent { parent });
    }
    let partial = parent.join(format!(".{name}.partial"));
    make(root, &role, &partial, &dir, &parent).map_err(|why| match why.is_full() {
        true => BackupError::Full { dir: parent, source: Box::new(why) },
        false => why,
    })
}

fn make(
    root: &Root,
    role: &RoleFile,
    partial: &Path,
    dir: &Path,
    parent: &Path,
) -> Result<Manifest, BackupError> {
    let _lock = begin(partial)?;
    let made = fill(root, role, partial).and_then(|manifest| {
        // Over an empty directory this is one step too; over one that was filled meanwhile it is refused.
        fs::rename(partial, dir).map_err(failed("rename the backup to", dir))?;
        files::sync_dir(parent).map_err(failed("flush", parent))?;
        Ok(manifest)
    });
    if made.is_err() {
        let _ = fs::remove_dir_all(partial);
    }
    made
}

fn master(root: &Root) -> Result<RoleFile, BackupError> {
    let path = root.role_file();
    let role = files::read_role(root).map_err(failed("read", &path))?;
    match role {
        Some(role) if role.role == Role::Master => Ok(role),
        Some(_) => Err(BackupError::NotMaster(
            "this node is not the master: a candidate's copies may lag behind what was acknowledged. Run the command on the \
             master (gnt-cluster getmaster names it)"
                .to_owned(),
        )),
        None => {
            Err(BackupError::NotMaster(format!("this node belongs to no cluster: there is no {}", path.display())))
        }
    }
}

fn refuse_used(dir: &Path) -> Result<(), BackupError> {
    match fs::read_dir(dir) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) if error.kind() == io::ErrorKind::NotADirectory => {
            Err(BackupError::NotEmpty { dir: dir.to_owned() })
        }
        Err(error) => Err(failed("list", dir)(error)),
        Ok(mut entries) => match entries.next() {
            None => Ok(()),
            Some(_) => Err(BackupError::NotEmpty { dir: dir.to_owned() }),
        },
    }
}

/// An empty directory that nobody else writes in as long as the lock is held.
fn begin(partial: &Path) -> Result<Flock<File>, BackupError> {
    let make = || match DirBuilder::new().mode(0o700).create(partial) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => Err(failed("make", partial)(error)),
        Ok(()) | Err(_) => Ok(()),
    };
    make()?;
    let file = File::open(partial).map_err(failed("open", partial))?;
    let lock = Flock::lock(file, FlockArg::LockExclusiveNonblock)
        .map_err(|_| BackupError::Busy { dir: partial.to_owned() })?;
    // What an interrupted one left.
    for entry in fs::read_dir(partial).map_err(failed("list", partial))? {
        let path = entry.map_err(failed("list", partial))?.path();
        let gone = if path.is_dir() { fs::remove_dir_all(&path) } else { fs::remove_file(&path) };
        gone.map_err(failed("remove", &path))?;
    }
    Ok(lock)
}

/// What the snapshots say that the manifest needs.
#[derive(Default)]
struct Named {
    cluster_name: Option<String>,
    node_name: Option<String>,
    bodies: BTreeSet<String>,
    /// The other candidates.
    candidates: Vec<(NodeUuid, Peer)>,
}

fn fill(root: &Root, role: &RoleFile, partial: &Path) -> Result<Manifest, BackupError> {
    let lib = root.lib();
    room(partial, snapshots_at_most(&lib) + SPARE_BYTES)?;
    let [w, q] = gantry_store::backup(&lib, partial).map_err(|why| match why {
        StoreError::Unsteady => BackupError::Refused(
            "the master changes too fast to find a moment at which configuration and queue agree; run the command again"
                .to_owned(),
        ),
        other => other.into(),
    })?;
    let named = named(role, &w, &q)?;
    still::check(root, role, &named.candidates)?;
    let secrets = partial.join("secrets");
    DirBuilder::new().mode(0o700).create(&secrets).map_err(failed("make", &secrets))?;
    let [trust, key] = authority(root)?;
    let mut wanted: Vec<(String, Vec<u8>)> = [CA_PEM, CA_KEY]
        .into_iter()
        .zip([trust, key])
        .map(|(name, text)| (format!("secrets/{name}"), text.into_bytes()))
        .collect();
    match fs::read(root.hmac_key()) {
        Ok(bytes) => wanted.push((HMAC_KEY.to_owned(), bytes)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(failed("read", &root.hmac_key())(error)),
    }
    let path = root.node_toml();
    wanted.push((NODE_TOML.to_owned(), fs::read(&path).map_err(failed("read", &path))?));
    for (name, bytes) in &wanted {
        let to = partial.join(name);
        files::atomic_write(&to, bytes, 0o600).map_err(failed("write", &to))?;
    }
    let snapshots = [LogKind::W, LogKind::Q].map(|log| snapshot_name(log).to_owned());
    let names = snapshots.into_iter().chain(wanted.into_iter().map(|(name, _)| name));
    let files = names.map(|name| entry(partial, name)).collect::<Result<Vec<_>, _>>()?;
    let (bodies, absent) = copy_bodies(root, partial, &named.bodies)?;
    let manifest = Manifest {
        cluster: role.cluster,
        cluster_name: named.cluster_name.unwrap_or_default(),
        made_at: unix_ms() / 1000,
        release: env!("CARGO_PKG_VERSION").to_owned(),
        node: role.node,
        node_name: named.node_name.unwrap_or_default(),
        epoch: role.epoch,
        config: Place::of(w.at),
        queue: Place::of(q.at),
        files,
        bodies,
        absent,
    };
    manifest.store(partial).map_err(failed("write", &partial.join(manifest::NAME)))?;
    Ok(manifest)
}

/// Whom this master trusts, and the CA's key that it signs by: of one moment, also while a renewal changes one after the other.
fn authority(root: &Root) -> Result<[String; 2], BackupError> {
    let read = |name: &str| {
        let path = root.secrets().join(name);
        fs::read_to_string(&path).map_err(failed("read", &path))
    };
    let mut trust = read(CA_PEM)?;
    for _ in 0..AUTHORITY_TRIES {
        let key = read(CA_KEY)?;
        let again = read(CA_PEM)?;
        if again == trust {
            tls::facts::signer(&trust, &key)?;
            return Ok([trust, key]);
        }
        trust = again;
    }
    Err(BackupError::Refused("the master's certificates change too fast; run the command again".to_owned()))
}

/// No snapshot is longer than the files it is made of.
fn snapshots_at_most(lib: &Path) -> u64 {
    let length = |name: &str| fs::metadata(lib.join(name)).map_or(0, |file| file.len());
    ["config.data", "config.data-wal", "locks.data", "locks.data-wal", "queue.data", "queue.data-wal"]
        .iter()
        .map(|name| length(name))
        .sum()
}

fn named(role: &RoleFile, w: &SnapshotFile, q: &SnapshotFile) -> Result<Named, BackupError> {
    let mut named = Named::default();
    gantry_store::snapshot_objects(&w.path, LogKind::W, |object| match object.kind.as_str() {
        kind::CLUSTER => {
            named.cluster_name = serde_json::from_slice::<Cluster>(&object.body).ok().map(|c| c.cluster_name);
        }
        kind::NODE => match serde_json::from_slice::<Node>(&object.body) {
            Ok(node) if node.uuid == role.node => named.node_name = Some(node.name),
            Ok(node) if node.master_candidate => named.candidates.extend(others::peer(&node)),
            Ok(_) | Err(_) => {}
        },
        kind::IMAGE => {
            named.bodies.extend(serde_json::from_slice::<Image>(&object.body).map(|image| image.digest));
        }
        _ => {}
    })?;
    gantry_store::snapshot_objects(&q.path, LogKind::Q, |object| {
        if object.kind == TASK
            && let Ok(task) = serde_json::from_slice::<Task>(&object.body)
        {
            named.bodies.extend(task.bodies().map(str::to_owned));
        }
    })?;
    Ok(named)
}

fn entry(dir: &Path, name: String) -> Result<Entry, BackupError> {
    let path = dir.join(&name);
    let mut file = File::open(&path).map_err(failed("open", &path))?;
    let bytes = file.metadata().map_err(failed("look at", &path))?.len();
    let sha256 = digest(&mut file, |_| {}).map_err(failed("read", &path))?;
    Ok(Entry { name, bytes, sha256 })
}

/// Copies the bodies that are named, checking each. Those that are not there, or not what their name says, are told: they
/// are lost on the master already.
fn copy_bodies(
    root: &Root,
    partial: &Path,
    named: &BTreeSet<String>,
) -> Result<(Vec<Body>, Vec<String>), BackupError> {
    let mut found = Vec::new();
    let mut absent = Vec::new();
    for digest in named {
        match fs::metadata(root.blob(digest)) {
            Ok(file) => found.push((digest, file.len())),
            Err(error) if error.kind() == io::ErrorKind::NotFound => absent.push(digest.clone()),
            Err(error) => return Err(failed("look at", &root.blob(digest))(error)),
        }
    }
    let total = found.iter().map(|(_, bytes)| bytes).sum();
    room(partial, total + SPARE_BYTES)?;
    let (mut progress, mut bodies, mut dirs) =
        (Progress::new("copying bodies", total), Vec::new(), BTreeSet::new());
    for (digest, _) in found {
        let to = partial.join(body_name(digest));
        if let Some(dir) = to.parent() {
            DirBuilder::new().recursive(true).mode(0o700).create(dir).map_err(failed("make", dir))?;
            dirs.insert(dir.to_owned());
        }
        match copy_body(&root.blob(digest), &to, digest, &mut progress)? {
            Some(bytes) => bodies.push(Body { digest: digest.clone(), bytes }),
            None => absent.push(digest.clone()),
        }
    }
    dirs.insert(partial.join("blob"));
    for dir in dirs.iter().filter(|dir| dir.exists()) {
        files::sync_dir(dir).map_err(failed("flush", dir))?;
    }
    for digest in &absent {
        say(&format!(
            "warning: body {digest} is named by a task or an image, but is not whole on this node's disk"
        ));
    }
    Ok((bodies, absent))
}

/// Copies one, durably; its length. None: it is gone, or its content is not what its name says.
pub(super) fn copy_body(
    from: &Path,
    to: &Path,
    digest: &str,
    progress: &mut Progress,
) -> Result<Option<u64>, BackupError> {
    let file = match File::open(from) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(failed("open", from)(error)),
    };
    let mut options = OpenOptions::new();
    let out =
        options.write(true).create(true).truncate(true).mode(0o600).open(to).map_err(failed("make", to))?;
    let (mut bytes, mut written) = (0, Ok(()));
    let mut tee = Tee { from: file, to: &out, failed: &mut written };
    let found = super::check::digest(&mut tee, |n| {
        bytes += n;
        progress.add(n);
    });
    written.map_err(failed("write", to))?;
    if found.map_err(failed("read", from))? != digest {
        fs::remove_file(to).map_err(failed("remove", to))?;
        return Ok(None);
    }
    out.sync_all().map_err(failed("flush", to))?;
    Ok(Some(bytes))
}

/// Writes what is read. A failed write ends the reading, and is kept apart from a failed read.
struct Tee<'a> {
    from: File,
    to: &'a File,
    failed: &'a mut io::Result<()>,
}

impl Read for Tee<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let n = self.from.read(buffer)?;
        match self.to.write_all(&buffer[..n]) {
            Ok(()) => Ok(n),
            Err(error) => {
                *self.failed = Err(error);
                Ok(0)
            }
        }
    }
}

/// What was written, for people.
pub fn tell(manifest: &Manifest, dir: &Path) {
    let Manifest { config, queue, files, bodies, .. } = manifest;
    let all = files.iter().map(|file| file.bytes).sum::<u64>() + bodies.iter().map(|b| b.bytes).sum::<u64>();
    say(&format!("Backup of cluster {} in {}: {}", manifest.cluster_name, dir.display(), size(all)));
    say(&format!("  configuration to row {} of epoch {}", config.row, config.epoch));
    say(&format!("  job queue to row {} of epoch {}", queue.row, queue.epoch));
    say(&format!("  {}", count(bodies.len(), "body", "bodies (inputs, outputs, images)")));
    say("It holds the cluster's keys: whoever can read it can be a node of this cluster.");
}
