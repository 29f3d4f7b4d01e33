//! Making this node the master of what a backup holds.
//!
//! Everything is made in `.restore/` beside the files it replaces. Then `role.json` goes aside, so that from there on the
//! node belongs to no cluster and no daemon starts; what it had goes aside; the new files take their names; `role.json` is
//! the last. A crash leaves a node on which the same command is given again, and `aside/` has all that was there.
//!
//! Nobody else is asked for anything: both logs begin a new history with this copy as the only member (P1.12). Copies of the
//! old history are strangers to it, however long they are; they join again as empty ones. The epoch is above all that any
//! node may have stored, so that a master of before is refused by each node the new one has claimed.

use super::here;
use super::manifest::Manifest;
use super::others::{self, Other};
use super::replaced;
use super::{
    BackupError, HMAC_KEY, NODE_TOML, Progress, SECRETS, body_name, check, count, failed, make, refused,
    room, say, size, snapshot_name,
};
use crate::args::RestoreOptions;
use crate::core::config::{Config, Object};
use crate::core::ssconf;
use gantry_copies::peers::Peer;
use gantry_model::config::{Node, Slot, kind};
use gantry_model::ids::{InstanceUuid, NodeUuid};
use gantry_model::lease::Lease;
use gantry_model::role::{Role, RoleFile};
use gantry_model::root::Root;
use gantry_rpc::tls::{self, Identity, ca};
use gantry_rt::node_toml::NodeToml;
use gantry_rt::{crash, files, node_toml};
use gantry_store::{LogKind, Member, Rebirth, SnapshotHead, rebirth, snapshot_objects};
use nix::fcntl::{Flock, FlockArg};
use serde::de::DeserializeOwned;
use std::collections::BTreeSet;
use std::fs::{self, DirBuilder, File};
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::Path;
use uuid::Uuid;

/// Where everything is made first.
const STAGE: &str = ".restore";
/// The node's record of its slots: it outlives a restore, since only it has the floors.
const NODED_DATA: &str = "noded.data";
/// Added to the generations of slots of this node when its own record of them is lost: the cluster went on after the
/// backup, and no slot makes so many VMs before somebody takes another.
const GENERATIONS_LOST: u64 = 1_000_000;
/// Room left free beside what is written.
const SPARE_BYTES: u64 = 16 << 20;

/// What is decided before anything is written.
struct Plan {
    manifest: Manifest,
    settings: NodeToml,
    /// `node.toml` has to be written.
    save: bool,
    node: NodeUuid,
    heads: [SnapshotHead; 2],
    config: Config,
    /// Other nodes, and whether the backup calls them candidates.
    others: Vec<(NodeUuid, Peer)>,
    candidates: Vec<String>,
    /// Slots of this node, when nothing here knows their generations any more.
    unknown: BTreeSet<InstanceUuid>,
}

/// Restores, or only says what it would do. Blocks.
///
/// # Errors
/// Why not. Before the last step the node belongs to no cluster; the command may be given again.
pub fn restore(root: &Root, options: &RestoreOptions) -> Result<(), BackupError> {
    let dir = &options.dir;
    let plan = plan(root, dir)?;
    here::refuse_cluster(root, &plan.manifest, plan.node)?;
    let address = here::refuse_address(root, &plan.settings);
    tell(&plan);
    match address {
        // A backup may be looked at on any machine.
        Err(why) if options.look => say(&format!("NOT to be restored here: {why}")),
        done => done?,
    }
    let identity = identity(dir, &plan)?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.map_err(failed("ask other nodes for", dir))?;
    let own = own_identity(root, &plan);
    let asked = others::ask(&identity.0, own.as_ref(), plan.manifest.cluster, &plan.others);
    let mut answers = runtime.block_on(asked);
    answers.iter().for_each(|other| say(&others::tell(other)));
    answers.push(own_copies(root, &plan));
    let verdict = others::judge(&plan.manifest, &answers, super::unix_ms());
    if !verdict.other_ca.is_empty() {
        return Err(other_ca(&verdict.other_ca));
    }
    if !verdict.masters.is_empty() {
        return Err(BackupError::Refused(format!(
            "the cluster has a master that answers: {}; a backup is not restored beside it. To go back to the backup all the \
             same, stop it there first (gantry daemon stop), then run this command again",
            verdict.masters.join(", ")
        )));
    }
    if !verdict.newer.is_empty() {
        verdict.newer.iter().for_each(|newer| say(&format!("LOST by a restore: {newer}")));
        say(
            "Nothing is lost when one of these becomes the master instead: gnt-cluster master-failover there",
        );
        if !options.look && !options.yes_do_it {
            return Err(BackupError::Refused(
                "other copies have more than the backup (above); give --yes-do-it to go back to the backup all the same"
                    .to_owned(),
            ));
        }
    }
    if options.look {
        say(&format!("It would be restored as epoch {}", verdict.epoch));
        return Ok(());
    }
    carry_out(root, dir, &plan, &identity.1, verdict.epoch)?;
    done(&plan, verdict.epoch);
    Ok(())
}

/// Also with `--yes-do-it`: nodes that believe only another CA obey the restored master never, so there would be two for good.
fn other_ca(names: &[String]) -> BackupError {
    refused(format!(
        "{} {} alive and {} certificates of another CA than the backup: the backup is from before a renewal. They would not believe \
         the restored master. Take a newer backup, or let one of the candidates become the master (gnt-cluster master-failover there). \
         To go back to this backup all the same, stop the daemons on each of these nodes first (gantry daemon stop), then run this \
         command again; they must be joined anew after it (gnt-node add --readd)",
        names.join(", "),
        if names.len() == 1 { "is" } else { "are" },
        if names.len() == 1 { "has" } else { "have" },
    ))
}

fn body<T: DeserializeOwned>(object: &gantry_store::Object) -> Option<T> {
    serde_json::from_slice(&object.body).ok()
}

fn plan(root: &Root, dir: &Path) -> Result<Plan, BackupError> {
    let manifest = check::check(dir)?;
    let (settings, save) = settings(root, dir)?;
    let mut objects = Vec::new();
    let w =
        snapshot_objects(&dir.join(snapshot_name(LogKind::W)), LogKind::W, |object| objects.push(object))?;
    let q = snapshot_objects(&dir.join(snapshot_name(LogKind::Q)), LogKind::Q, |_| {})?;
    for head in [&w, &q] {
        if head.cluster != manifest.cluster.0 {
            return Err(refused(format!(
                "the backup is mixed from two clusters, {} and {}: take another backup",
                manifest.cluster, head.cluster
            )));
        }
    }
    let nodes: Vec<Node> =
        objects.iter().filter(|object| object.kind == kind::NODE).filter_map(body).collect();
    let node = me(&settings, &nodes)?.uuid;
    let lost = !root.lib().join(NODED_DATA).exists();
    let slots = objects.iter().filter(|object| lost && object.kind == kind::SLOT).filter_map(body::<Slot>);
    let unknown = slots.filter(|slot| slot.node == node).map(|slot| slot.uuid).collect();
    let config = Config::load(objects.into_iter().map(|object| Object {
        kind: object.kind,
        key: object.key,
        rev: object.rev,
        body: object.body,
    }))?;
    let others = nodes.iter().filter(|other| other.uuid != node);
    let candidates = others.clone().filter(|other| other.master_candidate).map(|n| n.name.clone()).collect();
    let others = others.filter_map(others::peer).collect();
    Ok(Plan { manifest, settings, save, node, heads: [w, q], config, others, candidates, unknown })
}

/// This node's settings: its own, else the old master's.
fn settings(root: &Root, dir: &Path) -> Result<(NodeToml, bool), BackupError> {
    if root.node_toml().exists() {
        return Ok((node_toml::load(root)?, false));
    }
    let path = dir.join(NODE_TOML);
    let text = fs::read_to_string(&path).map_err(failed("read", &path))?;
    let settings = node_toml::parse(&text, &path)?;
    Ok((settings, true))
}

/// The node of the backed up cluster that this one is.
fn me<'a>(settings: &NodeToml, nodes: &'a [Node]) -> Result<&'a Node, BackupError> {
    let Some(node) = nodes.iter().find(|node| node.name == settings.name) else {
        let names: Vec<&str> = nodes.iter().map(|node| node.name.as_str()).take(10).collect();
        return Err(refused(format!(
            "this machine is {} by its node.toml, and the backed up cluster has no such node: restore on one of its nodes ({}), or \
             give this machine the name and address of a lost one",
            settings.name,
            names.join(", ")
        )));
    };
    let there = (node.primary_ip.as_str(), node.noded_port);
    if there != (settings.address.to_string().as_str(), settings.noded_port) {
        return Err(refused(format!(
            "the cluster knows {} at {} port {}, and this machine's node.toml says {} port {}: give the machine that \
             address, since the other nodes will look for it there",
            node.name, there.0, there.1, settings.address, settings.noded_port
        )));
    }
    if node.offline || node.drained || !node.master_capable {
        return Err(refused(format!(
            "the backed up cluster has {} as offline, drained or not master capable: restore on another of its nodes",
            node.name
        )));
    }
    Ok(node)
}

fn tell(plan: &Plan) {
    let Manifest { cluster, cluster_name, made_at, node_name, config, queue, files, bodies, .. } =
        &plan.manifest;
    let when = i64::try_from(*made_at).ok().and_then(|at| jiff::Timestamp::from_second(at).ok());
    let when = when.map_or_else(|| made_at.to_string(), |at| at.to_string());
    say(&format!("Backup of cluster {cluster_name} ({cluster}), made on {node_name} at {when}"));
    say(&format!(
        "  configuration to row {} of epoch {}, queue to row {} of epoch {}",
        config.row, config.epoch, queue.row, queue.epoch
    ));
    let bytes = files.iter().map(|f| f.bytes).sum::<u64>() + bodies.iter().map(|b| b.bytes).sum::<u64>();
    let bodies = count(bodies.len(), "body", "bodies");
    say(&format!("  whole: {} and {bodies}, {}", count(files.len(), "file", "files"), size(bytes)));
}

/// A new certificate of this node, by the cluster's CA.
fn identity(dir: &Path, plan: &Plan) -> Result<(Identity, ca::Pair), BackupError> {
    let read = |name: &str| {
        let path = dir.join("secrets").join(name);
        fs::read_to_string(&path).map_err(|source| BackupError::Io { what: "read", path, source })
    };
    // A backup made during a renewal has several CAs, and the key of one.
    let trust = read(tls::CA_PEM)?;
    let authority = tls::facts::signer(&trust, &read(tls::CA_KEY)?)?;
    let node = ca::make_node(&authority, plan.manifest.cluster, plan.node)?;
    Ok((Identity::from_pem(&node.certificate, &node.key, &trust)?, node))
}

/// This node's certificate as it is now, if it has one of this cluster: it may be newer than the backup.
fn own_identity(root: &Root, plan: &Plan) -> Option<Identity> {
    let own = Identity::load(&root.secrets()).ok()?;
    (own.cluster() == plan.manifest.cluster).then_some(own)
}

/// This node's own copies, as far as they can be read: they are not lost unasked either.
fn own_copies(root: &Root, plan: &Plan) -> Other {
    let mut answer = others::Answer::default();
    let role = files::read_role(root).ok().flatten();
    answer.epoch = role.map_or(0, |role| role.epoch);
    for (log, place) in [(LogKind::W, &mut answer.config), (LogKind::Q, &mut answer.queue)] {
        if let Ok(Some(end)) = gantry_store::end_of(&root.lib(), log)
            && end.cluster == plan.manifest.cluster.0
        {
            *place = Some(super::manifest::Place::of(end.last));
            answer.epoch = answer.epoch.max(end.promised).max(end.last.term.epoch);
        }
    }
    Other { name: format!("{} (this node)", plan.settings.name), answer: Ok(answer), other_ca: false }
}

fn carry_out(root: &Root, dir: &Path, plan: &Plan, node: &ca::Pair, epoch: u64) -> Result<(), BackupError> {
    here::refuse_boot(root)?;
    // Once more: nobody watched it while boot ended.
    here::refuse_address(root, &plan.settings)?;
    files::make_dirs(root).map_err(failed("make the directories of", root.path()))?;
    let lib = root.lib();
    let stage = lib.join(STAGE);
    remove_dir(&stage)?;
    DirBuilder::new().mode(0o700).create(&stage).map_err(failed("make", &stage))?;
    let file = File::open(&stage).map_err(failed("open", &stage))?;
    let _lock = Flock::lock(file, FlockArg::LockExclusiveNonblock)
        .map_err(|_| BackupError::Busy { dir: stage.clone() })?;
    let snapshots = plan.manifest.files.iter().map(|file| file.bytes).sum::<u64>();
    // Objects in SQLite take up to twice their length in a snapshot.
    let bodies: u64 = plan.manifest.bodies.iter().map(|body| body.bytes).sum();
    room(&lib, 2 * snapshots + bodies + SPARE_BYTES)?;
    put_bodies(root, dir, plan)?;
    crash::point("restore-bodies");
    make_logs(&stage, dir, plan, epoch)?;
    crash::point("restore-staged");
    exchange(root, dir, plan, node, epoch)?;
    crash::point("restore-role-written");
    remove_dir(&stage)
}

fn remove_dir(dir: &Path) -> Result<(), BackupError> {
    match fs::remove_dir_all(dir) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(failed("remove", dir)(error)),
        Ok(()) | Err(_) => Ok(()),
    }
}

/// Bodies go where they belong at once: until a record names them they are in nobody's way.
fn put_bodies(root: &Root, dir: &Path, plan: &Plan) -> Result<(), BackupError> {
    let total = plan.manifest.bodies.iter().map(|body| body.bytes).sum();
    let (mut progress, mut dirs) = (Progress::new("restoring bodies", total), BTreeSet::new());
    for body in &plan.manifest.bodies {
        let to = root.blob(&body.digest);
        let parent = to.parent().unwrap_or(&to).to_owned();
        DirBuilder::new().recursive(true).mode(0o700).create(&parent).map_err(failed("make", &parent))?;
        // The store's name for what is on its way: its sweep removes what a crash leaves.
        let temp = parent.join(format!(".{}.restore.tmp", body.digest));
        let from = dir.join(body_name(&body.digest));
        if make::copy_body(&from, &temp, &body.digest, &mut progress)?.is_none() {
            return Err(BackupError::Changed {
                name: body_name(&body.digest),
                what: "its content has changed since it was checked".to_owned(),
            });
        }
        fs::rename(&temp, &to).map_err(failed("rename into", &to))?;
        dirs.insert(parent);
    }
    dirs.insert(root.blob_dir());
    dirs.iter()
        .filter(|dir| dir.exists())
        .try_for_each(|dir| files::sync_dir(dir).map_err(failed("flush", dir)))
}

fn make_logs(stage: &Path, dir: &Path, plan: &Plan, epoch: u64) -> Result<(), BackupError> {
    let ballot = *Uuid::new_v4().as_bytes();
    let how = Rebirth {
        cluster: plan.manifest.cluster.0,
        history: Uuid::new_v4(),
        epoch,
        ballot,
        member: Member { node: plan.node.0, copy_id: Uuid::new_v4() },
        // The same in both logs, also when a change was under way.
        list_n: plan.heads.iter().map(|head| head.list.n).max().unwrap_or_default() + 1,
    };
    for log in [LogKind::W, LogKind::Q] {
        rebirth(stage, log, &dir.join(snapshot_name(log)), &how, |object| {
            if log == LogKind::W && !plan.unknown.is_empty() {
                raise(object, &plan.unknown);
            }
        })?;
    }
    Ok(())
}

/// Lifts the generations of slots of which this node has lost its record (I2).
fn raise(object: &mut gantry_store::Object, unknown: &BTreeSet<InstanceUuid>) {
    let changed = match object.kind.as_str() {
        kind::SLOT => body::<Slot>(object).filter(|slot| unknown.contains(&slot.uuid)).map(|mut slot| {
            slot.generation.0 += GENERATIONS_LOST;
            serde_json::to_vec(&slot)
        }),
        kind::LEASE => body::<Lease>(object).map(|mut lease| {
            let vms = lease.vms.iter_mut().filter(|vm| unknown.contains(&vm.slot));
            vms.for_each(|vm| vm.generation.0 += GENERATIONS_LOST);
            serde_json::to_vec(&lease)
        }),
        _ => None,
    };
    if let Some(Ok(changed)) = changed {
        object.body = changed;
    }
}

/// Whether a file of the state directory belongs to what is replaced.
fn is_replaced(name: &str) -> bool {
    let logs = ["wconf.", "config.data", "locks.data", "queue."];
    logs.iter().any(|start| name.starts_with(start)) || name.starts_with("ssconf_")
}

/// The old files go aside, the new ones take their names. `role.json` goes first and comes last.
fn exchange(root: &Root, dir: &Path, plan: &Plan, node: &ca::Pair, epoch: u64) -> Result<(), BackupError> {
    let lib = root.lib();
    let aside = replaced::fresh(&lib)?;
    let role = root.role_file();
    // Without role.json its spare says nothing.
    let mut old = vec![role.clone(), root.role_spare()];
    for entry in fs::read_dir(&lib).map_err(failed("list", &lib))? {
        let path = entry.map_err(failed("list", &lib))?.path();
        if path.file_name().and_then(|name| name.to_str()).is_some_and(is_replaced) {
            old.push(path);
        }
    }
    let mut moved = 0;
    for path in &old {
        let Some(name) = path.file_name() else { continue };
        match fs::rename(path, aside.join(name)) {
            Ok(()) => moved += 1,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(failed("move aside", path)(error)),
        }
        if *path == role {
            files::sync_dir(&lib).map_err(failed("flush", &lib))?;
            crash::point("restore-role-aside");
        }
    }
    crash::point("restore-old-aside");
    if moved == 0 {
        fs::remove_dir(&aside).map_err(failed("remove", &aside))?;
    } else {
        // Before other files take these names.
        files::sync_dir(&aside).map_err(failed("flush", &aside))?;
        say(&format!("What this node had is in {}", aside.display()));
    }
    match fs::remove_file(root.join_secret()) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            return Err(failed("remove", &root.join_secret())(error));
        }
        Ok(()) | Err(_) => {}
    }
    for name in ["config.data", "locks.data", "wconf.log", "queue.data"] {
        let (from, to) = (lib.join(STAGE).join(name), lib.join(name));
        fs::rename(&from, &to).map_err(failed("rename into", &to))?;
        crash::point(&format!("restore-{name}"));
    }
    put_secrets(root, dir, node)?;
    if plan.save {
        plan.settings.save(root)?;
    }
    for (key, value) in ssconf::of(&plan.config.snapshot()) {
        let path = root.ssconf(&key);
        files::atomic_write(&path, value.as_bytes(), 0o444).map_err(failed("write", &path))?;
    }
    files::sync_dir(&lib).map_err(failed("flush", &lib))?;
    crash::point("restore-all-but-role");
    let new = RoleFile { node: plan.node, cluster: plan.manifest.cluster, role: Role::Master, epoch };
    files::write_role(root, &new).map_err(failed("write", &role))?;
    replaced::forget_oldest(&lib);
    Ok(())
}

fn put_secrets(root: &Root, dir: &Path, node: &ca::Pair) -> Result<(), BackupError> {
    let secrets = root.secrets();
    let put = |name: &str, bytes: &[u8]| {
        let path = secrets.join(name);
        files::atomic_write(&path, bytes, 0o600).map_err(failed("write", &path))
    };
    for name in SECRETS {
        let from = dir.join("secrets").join(name);
        put(name, &fs::read(&from).map_err(failed("read", &from))?)?;
    }
    put(tls::NODE_PEM, node.certificate.as_bytes())?;
    put(tls::NODE_KEY, node.key.as_bytes())?;
    put_hmac(root, dir)
}

/// Confd's key: the backup's, else what is here, else another one, which the nodes are given by redist-conf.
fn put_hmac(root: &Root, dir: &Path) -> Result<(), BackupError> {
    let (from, to) = (dir.join(HMAC_KEY), root.hmac_key());
    let bytes = match fs::read(&from) {
        Ok(bytes) => bytes,
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(failed("read", &from)(error)),
        Err(_) if to.exists() => return Ok(()),
        Err(_) => crate::init::hmac_key().into_bytes(),
    };
    files::atomic_write(&to, &bytes, 0o640).map_err(failed("write", &to))
}

fn done(plan: &Plan, epoch: u64) {
    let Manifest { bodies, absent, .. } = &plan.manifest;
    say(&format!(
        "Restored: {}, {}, {}; epoch {epoch}",
        count(plan.config.nodes().count(), "node", "nodes"),
        count(plan.config.snapshot().instances().len(), "instance", "instances"),
        count(bodies.len(), "body", "bodies"),
    ));
    for digest in absent {
        say(&format!("warning: body {digest} was lost before the backup was made"));
    }
    if !plan.unknown.is_empty() {
        say(&format!(
            "This node's own record of its VMs is lost; the generations of {} go on {GENERATIONS_LOST} higher",
            count(plan.unknown.len(), "slot", "slots")
        ));
    }
    if !plan.candidates.is_empty() {
        say(
            "The copies of the other candidates are of the history before, and count no more. Feed each anew:",
        );
        plan.candidates.iter().for_each(|name| say(&format!("  gnt-node modify -C yes {name}")));
    }
}
