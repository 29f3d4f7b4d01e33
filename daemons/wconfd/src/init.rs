//! A new cluster: everything is made in a directory beside the final one, which then takes its name in
//! one rename. A crash before it leaves nothing that a later init minds; after it the cluster is there.

use crate::args::InitOptions;
use crate::core::config::Config;
use crate::core::{config, ssconf};
use gantry_model::config::{MemberCopy, Members, Meta, Node, Params, Stamp, kind};
use gantry_model::defaults;
use gantry_model::ids::{ClusterUuid, GroupUuid, NodeUuid};
use gantry_model::names::{is_group_name, is_host_name};
use gantry_model::role::{Role, RoleFile};
use gantry_model::root::Root;
use gantry_rpc::tls::{self, TlsError, ca};
use gantry_rt::node_toml::{NodeToml, NodeTomlError};
use gantry_rt::{clock, files, node_toml};
use gantry_store::{Batch, Birth, Change, LogKind, Member, StoreError, create};
use nix::fcntl::{Flock, FlockArg};
use serde::Serialize;
use std::fmt;
use std::fs::{self, DirBuilder, File};
use std::io;
use std::net::IpAddr;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use uuid::Uuid;

/// Name of the directory that is made beside `var/lib/gantry`.
const NEW_DIR: &str = ".gantry.init";
/// The first epoch.
const FIRST_EPOCH: u64 = 1;
/// Hypervisors that Ganeti's clients accept as those of a cluster.
const HYPERVISORS: [&str; 6] = ["chroot", "fake", "kvm", "lxc", "xen-hvm", "xen-pvm"];
/// Directories of `var/lib/gantry` that daemons make before there is a cluster.
const EMPTY_DIRS: [&str; 2] = ["secrets", "spool"];
/// What a noded that belongs to no cluster waits with: a new cluster makes it void.
const JOIN_SECRET: &str = "join-secret";

/// Why there is no new cluster.
#[derive(Debug, thiserror::Error)]
pub enum InitError {
    /// There is one.
    #[error(
        "this node already belongs to a cluster: {} exists; destroy that cluster first (gnt-cluster destroy)",
        found.display()
    )]
    Exists {
        /// What shows it.
        found: PathBuf,
    },
    /// The directory has something in it that is not ours to remove.
    #[error("{} is not empty ({found} is in it): move it away first", dir.display())]
    NotEmpty {
        /// The directory.
        dir: PathBuf,
        /// Something in it.
        found: String,
    },
    /// An option is missing or wrong.
    #[error("{0}")]
    Option(String),
    /// Another init runs.
    #[error("another init is at work in {}", dir.display())]
    Busy {
        /// Where.
        dir: PathBuf,
    },
    /// `node.toml` can't be read or written.
    #[error("node.toml: {0}")]
    NodeToml(#[from] NodeTomlError),
    /// Keys or certificates can't be made.
    #[error("making certificates: {0}")]
    Tls(#[from] TlsError),
    /// A log can't be made.
    #[error("making the store: {}", .0.chain())]
    Store(#[from] StoreError),
    /// What was made is no valid configuration.
    #[error("the new configuration is not valid: {0}")]
    Config(#[from] config::LoadError),
    /// A file operation failed.
    #[error("can't {what} {}: {source}", path.display())]
    Io {
        /// What was tried.
        what: &'static str,
        /// On what.
        path: PathBuf,
        /// What the system says.
        source: io::Error,
    },
}

fn io_error<'a>(what: &'static str, path: &'a Path) -> impl Fn(io::Error) -> InitError + 'a {
    move |source| InitError::Io { what, path: path.to_owned(), source }
}

/// What was made.
#[derive(Debug, Clone)]
pub struct Made {
    /// The cluster.
    pub cluster: ClusterUuid,
    /// Its master, this node.
    pub node: NodeUuid,
    name: String,
    node_name: String,
}

impl fmt::Display for Made {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "cluster {} ({}), master {} ({})", self.name, self.cluster, self.node_name, self.node)
    }
}

/// All that is decided before anything is made.
struct Plan {
    cluster: ClusterUuid,
    node: NodeUuid,
    /// The id of this node's copies of both logs.
    copy: Uuid,
    settings: NodeToml,
    /// Whether node.toml has to be written.
    save: bool,
    objects: Vec<config::Object>,
}

/// Makes this node the master of a new cluster. Blocks; durable when it returns.
///
/// # Errors
/// When there is a cluster already, an option is wrong, or something can't be made. Then nothing is left
/// but `node.toml` and directories.
pub fn init(root: &Root, options: &InitOptions) -> Result<Made, InitError> {
    let dir = root.lib();
    let parent = dir.parent().map(Path::to_owned).unwrap_or_default();
    fs::create_dir_all(&parent).map_err(io_error("make", &parent))?;
    let file = File::open(&parent).map_err(io_error("open", &parent))?;
    let _lock = Flock::lock(file, FlockArg::LockExclusiveNonblock)
        .map_err(|_| InitError::Busy { dir: parent.clone() })?;
    refuse_existing(root)?;
    let plan = plan(root, options)?;
    let new = parent.join(NEW_DIR);
    remove_leftover(&new)?;
    make(&new, &plan)?;
    if plan.save {
        let etc = root.etc();
        fs::create_dir_all(&etc).map_err(io_error("make", &etc))?;
        plan.settings.save(root)?;
    }
    clear(&dir)?;
    fs::rename(&new, &dir).map_err(io_error("rename into", &dir))?;
    files::sync_dir(&parent).map_err(io_error("flush", &parent))?;
    let (name, node_name) = (options.cluster_name.clone(), plan.settings.name);
    Ok(Made { cluster: plan.cluster, node: plan.node, name, node_name })
}

/// Refuses a root with a cluster, or part of one.
fn refuse_existing(root: &Root) -> Result<(), InitError> {
    let dir = root.lib();
    let signs = ["role.json", "wconf.log", "queue.data", "config.data", "secrets/ca.pem", "secrets/node.pem"];
    for sign in signs {
        let found = dir.join(sign);
        if found.try_exists().map_err(io_error("look for", &found))? {
            return Err(InitError::Exists { found });
        }
    }
    Ok(())
}

fn remove_leftover(new: &Path) -> Result<(), InitError> {
    match fs::remove_dir_all(new) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(io_error("remove", new)(error)),
        Ok(()) | Err(_) => Ok(()),
    }
}

/// Removes the directories that daemons made before; whatever else is there is a refusal.
fn clear(dir: &Path) -> Result<(), InitError> {
    let entries = match fs::read_dir(dir) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(io_error("list", dir)(error)),
    };
    let mut known = Vec::new();
    for entry in entries {
        let entry = entry.map_err(io_error("list", dir))?;
        let name = entry.file_name().to_string_lossy().into_owned();
        let empty = EMPTY_DIRS.contains(&name.as_str())
            && fs::read_dir(entry.path()).is_ok_and(|mut inner| inner.next().is_none());
        if !empty && name != JOIN_SECRET {
            return Err(InitError::NotEmpty { dir: dir.to_owned(), found: name });
        }
        known.push(entry.path());
    }
    known.iter().try_for_each(|path| {
        let gone = if path.is_dir() { fs::remove_dir(path) } else { fs::remove_file(path) };
        gone.map_err(io_error("remove", path))
    })
}

fn option(text: impl Into<String>) -> InitError {
    InitError::Option(text.into())
}

/// The node's settings: those of node.toml, or of the options where there is none.
fn settings(root: &Root, options: &InitOptions) -> Result<(NodeToml, bool), InitError> {
    if root.node_toml().exists() {
        let there = node_toml::load(root)?;
        let differs =
            |what: &str| Err(option(format!("--{what} is not what node.toml says: change one of them")));
        if options.node_name.as_ref().is_some_and(|name| *name != there.name) {
            return differs("node-name");
        }
        if options.address.is_some_and(|address| address != there.address) {
            return differs("address");
        }
        if options.noded_port.is_some_and(|port| port != there.noded_port) {
            return differs("noded-port");
        }
        return Ok((there, false));
    }
    let missing = |what: &str| option(format!("--{what} is needed: there is no node.toml"));
    let name = options.node_name.as_deref().ok_or_else(|| missing("node-name"))?;
    let address = options.address.ok_or_else(|| missing("address"))?;
    let mut new = NodeToml::new(name, address);
    new.noded_port = options.noded_port.unwrap_or(new.noded_port);
    if options.hypervisors.iter().any(|name| name == "fake") {
        new.drivers = vec!["fake".to_owned()];
    }
    Ok((new, true))
}

fn check(options: &InitOptions, settings: &NodeToml) -> Result<(), InitError> {
    if !is_host_name(&options.cluster_name) {
        return Err(option(format!("'{}' is not a cluster name", options.cluster_name)));
    }
    if !is_host_name(&settings.name) {
        return Err(option(format!("'{}' is not a node name", settings.name)));
    }
    if options.cluster_name == settings.name {
        return Err(option("the cluster needs another name than its node"));
    }
    if settings.noded_port == 0 {
        return Err(option("the port of noded can't be 0"));
    }
    if !is_group_name(&options.group_name) {
        return Err(option(format!("'{}' is not a name of a node group", options.group_name)));
    }
    if options.mac_prefix.as_deref().is_some_and(|prefix| !config::is_mac_prefix(prefix)) {
        return Err(option("the MAC prefix must look like aa:00:00, with an even first byte"));
    }
    let unknown = options.hypervisors.iter().find(|name| !HYPERVISORS.contains(&name.as_str()));
    match unknown {
        Some(name) => Err(option(format!("hypervisor '{name}' is none of {}", HYPERVISORS.join(", ")))),
        None if options.hypervisors.is_empty() => Err(option("at least one hypervisor must be enabled")),
        None => Ok(()),
    }
}

fn plan(root: &Root, options: &InitOptions) -> Result<Plan, InitError> {
    let (settings, save) = settings(root, options)?;
    check(options, &settings)?;
    let (cluster, node, group) =
        (ClusterUuid(Uuid::new_v4()), NodeUuid(Uuid::new_v4()), GroupUuid(Uuid::new_v4()));
    let mut objects = objects(options, &settings, (cluster, node, group), clock::now().epoch());
    let copy = Uuid::new_v4();
    let members =
        Members { n: 1, members: vec![MemberCopy { node, copy_id: copy }], settled: true, learner: None };
    objects.push(object(kind::MEMBERS, kind::MEMBERS_KEY, &members));
    Ok(Plan { cluster, node, copy, settings, save, objects })
}

fn objects(
    options: &InitOptions,
    settings: &NodeToml,
    (uuid, node, group): (ClusterUuid, NodeUuid, GroupUuid),
    now: f64,
) -> Vec<config::Object> {
    let mut cluster = defaults::cluster(defaults::ClusterSeed {
        uuid,
        name: options.cluster_name.clone(),
        master_node: node,
        master_ip: options.master_ip.map(|ip| ip.to_string()).unwrap_or_default(),
        enabled_hypervisors: options.hypervisors.clone(),
        now,
    });
    if let Some(prefix) = &options.mac_prefix {
        cluster.mac_prefix.clone_from(prefix);
    }
    if let Some(device) = &options.master_netdev {
        cluster.extra.insert("master_netdev".to_owned(), device.clone().into());
    }
    if settings.address.is_ipv6() {
        cluster.extra.insert("primary_ip_family".to_owned(), 10.into());
    }
    let secondary: IpAddr = options.secondary_address.unwrap_or(settings.address);
    let node = Node {
        uuid: node,
        name: settings.name.clone(),
        primary_ip: settings.address.to_string(),
        secondary_ip: secondary.to_string(),
        master_candidate: true,
        offline: false,
        drained: false,
        group,
        master_capable: true,
        vm_capable: true,
        ndparams: Params::new(),
        powered: true,
        noded_port: settings.noded_port,
        stamp: Stamp::new(now),
        extra: Params::new(),
    };
    let meta = Meta { version: CONFIG_VERSION, serial_no: 1, ctime: now, mtime: now };
    let group = defaults::group(group, &options.group_name, now);
    vec![
        object(kind::META, kind::META_KEY, &meta),
        object(kind::CLUSTER, kind::CLUSTER_KEY, &cluster),
        object(kind::GROUP, group.uuid, &group),
        object(kind::NODE, node.uuid, &node),
    ]
}

/// Format version as Ganeti 3.0 writes it (`spec/config.md` §1).
const CONFIG_VERSION: u64 = 3_000_000;

fn object(kind: &str, key: impl ToString, value: &impl Serialize) -> config::Object {
    let body = serde_json::to_vec(value).expect("objects are plain JSON: their maps have texts as keys");
    config::Object { kind: kind.to_owned(), key: key.to_string(), rev: 1, body }
}

/// Makes everything below `new`.
fn make(new: &Path, plan: &Plan) -> Result<(), InitError> {
    let dir = |path: &Path, mode| DirBuilder::new().mode(mode).create(path).map_err(io_error("make", path));
    dir(new, 0o755)?;
    dir(&new.join("spool"), 0o700)?;
    dir(&new.join("secrets"), 0o700)?;
    make_logs(new, plan)?;
    make_secrets(&new.join("secrets"), plan)?;
    // Readable by its group: confd and its clients run as other users.
    write(&new.join("hmac.key"), hmac_key().as_bytes(), 0o640)?;
    let role = RoleFile { node: plan.node, cluster: plan.cluster, role: Role::Master, epoch: FIRST_EPOCH };
    let text = files::encode_role(&role).expect("a role is plain data");
    for name in ["role.json.2", "role.json"] {
        write(&new.join(name), &text, 0o644)?;
    }
    let config = Config::load(plan.objects.iter().cloned())?;
    for (key, value) in ssconf::of(&config.snapshot()) {
        write(&new.join(format!("ssconf_{key}")), value.as_bytes(), 0o444)?;
    }
    files::sync_dir(new).map_err(io_error("flush", new))
}

fn make_logs(new: &Path, plan: &Plan) -> Result<(), InitError> {
    let ballot = *Uuid::new_v4().as_bytes();
    let first = plan.objects.iter().map(|object| Change {
        kind: object.kind.clone(),
        key: object.key.clone(),
        rev: object.rev,
        body: Some(object.body.clone()),
    });
    let birth = |first| Birth {
        cluster: plan.cluster.0,
        history: Uuid::new_v4(),
        epoch: FIRST_EPOCH,
        ballot,
        members: vec![Member { node: plan.node.0, copy_id: plan.copy }],
        first,
    };
    create(new, LogKind::W, &birth(Batch::of(first.collect())))?;
    create(new, LogKind::Q, &birth(Batch::default()))?;
    Ok(())
}

fn make_secrets(dir: &Path, plan: &Plan) -> Result<(), InitError> {
    let authority = ca::make_ca(plan.cluster)?;
    let node = ca::make_node(&authority, plan.cluster, plan.node)?;
    for (name, text) in [
        (tls::CA_PEM, &authority.certificate),
        (tls::CA_KEY, &authority.key),
        (tls::NODE_PEM, &node.certificate),
        (tls::NODE_KEY, &node.key),
    ] {
        write(&dir.join(name), text.as_bytes(), 0o600)?;
    }
    Ok(())
}

fn write(path: &Path, bytes: &[u8], mode: u32) -> Result<(), InitError> {
    files::atomic_write(path, bytes, mode).map_err(io_error("write", path))
}
/// A new key of confd, as a line of hex.
pub(crate) fn hmac_key() -> String {
    format!("{}{}\n", Uuid::new_v4().simple(), Uuid::new_v4().simple())
}
