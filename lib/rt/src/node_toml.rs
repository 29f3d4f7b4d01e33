//! `etc/gantry/node.toml`: what is true of one machine only (DESIGN §1). What is true of the cluster is in the
//! cluster's object; nothing is in both.

use crate::files;
use gantry_model::root::Root;
use serde::{Deserialize, Serialize};
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};

/// Port of noded, TCP.
pub const NODED_PORT: u16 = 1811;
/// Port of ConfD, UDP (`spec/confd.md`).
pub const CONFD_PORT: u16 = 1814;
/// Port of MonD, TCP.
pub const MOND_PORT: u16 = 1815;
/// Port of RAPI, TCP.
pub const RAPI_PORT: u16 = 5080;
/// First uid of VMs, above those that distributions hand out.
pub const UID_BASE: u32 = 1_000_000;

/// The settings of one node.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NodeToml {
    /// The node's name, as the cluster knows it.
    pub name: String,
    /// Address of its daemons; those of other nodes connect to it.
    pub address: IpAddr,
    /// Port of noded.
    #[serde(default = "noded_port")]
    pub noded_port: u16,
    /// Port of ConfD.
    #[serde(default = "confd_port")]
    pub confd_port: u16,
    /// Port of MonD.
    #[serde(default = "mond_port")]
    pub mond_port: u16,
    /// Port of RAPI.
    #[serde(default = "rapi_port")]
    pub rapi_port: u16,
    /// First uid of this node's VMs; nodes that share a machine need ranges of their own.
    #[serde(default = "uid_base")]
    pub uid_base: u32,
    /// What the node offers to VMs; None = all the machine has.
    #[serde(default)]
    pub capacity: Option<Capacity>,
    /// Drivers to use; empty = all whose tools are found. `fake` is used only if named.
    #[serde(default)]
    pub drivers: Vec<String>,
    /// For Ganeti's own programs.
    #[serde(default)]
    pub compat: Compat,
    /// How often the overseer looks at what, should this node be the master.
    #[serde(default, skip_serializing_if = "OverseerToml::is_default")]
    pub overseer: OverseerToml,
    /// Bounds of RConfD, should this node be a master candidate.
    #[serde(default, skip_serializing_if = "ConfdToml::is_default")]
    pub confd: ConfdToml,
    /// Where MonD listens.
    #[serde(default, skip_serializing_if = "MondToml::is_default")]
    pub mond: MondToml,
}

/// Bounds of RConfD; None = its default.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ConfdToml {
    /// Addresses to listen on instead of the node's own.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub bind: Vec<IpAddr>,
    /// Requests that are remembered, so that none is answered twice.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub replay_entries: Option<u64>,
    /// Requests a second of one source that are answered.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rate: Option<u64>,
    /// And at once.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub burst: Option<u64>,
    /// Bytes a second of all answers together.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub bytes_per_s: Option<u64>,
    /// How far the clock of who asks may be off, seconds.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub clock_s: Option<u64>,
}

impl ConfdToml {
    fn is_default(&self) -> bool {
        *self == Self::default()
    }
}

/// MonD's own settings.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct MondToml {
    /// Addresses to listen on instead of the node's own.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub bind: Vec<IpAddr>,
    /// Networks that may ask, such as 192.0.2.0/24; empty = all.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub allow: Vec<String>,
    /// Port of its TLS listener; 0 = none.
    #[serde(skip_serializing_if = "is_zero")]
    pub tls_port: u16,
    /// File with the bearer tokens that the TLS listener takes, one a line.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub token_file: Option<PathBuf>,
    /// Whether it listens without TLS too, as Ganeti's does; None = it does.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub plain: Option<bool>,
}

fn is_zero(port: &u16) -> bool {
    *port == 0
}

impl MondToml {
    fn is_default(&self) -> bool {
        *self == Self::default()
    }
}

/// Periods of the overseer's passes, seconds; None = its default.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct OverseerToml {
    /// DIRTY slots are destroyed; news of them do not wait for this.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub destroy_dirty_s: Option<u64>,
    /// ABSENT slots get VMs; as above.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub create_slots_s: Option<u64>,
    /// Pools get slots; as above.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub expand_pools_s: Option<u64>,
    /// Pools lose slots, outdated VMs are replaced; as above.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub drain_slots_s: Option<u64>,
    /// CLEAN VMs are looked at.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub health_check_s: Option<u64>,
    /// Nodes are asked whether they are there; leases on lost ones are broken.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub node_repair_s: Option<u64>,
    /// Nodes compare what lives with what should.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub audit_nodes_s: Option<u64>,
    /// A node that is away for longer is lost.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub node_lost_s: Option<u64>,
}

impl OverseerToml {
    fn is_default(&self) -> bool {
        *self == Self::default()
    }
}

/// What a node offers to VMs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Capacity {
    /// Memory, MiB.
    pub memory_mib: u64,
    /// Logical CPUs.
    pub cpus: u64,
    /// Disk, MiB.
    pub disk_mib: u64,
}

/// For Ganeti's own programs.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Compat {
    /// Whether the LUXI socket and the ssconf files also appear where Ganeti's programs look.
    #[serde(default)]
    pub ganeti_paths: bool,
}

fn noded_port() -> u16 {
    NODED_PORT
}
fn confd_port() -> u16 {
    CONFD_PORT
}
fn mond_port() -> u16 {
    MOND_PORT
}
fn rapi_port() -> u16 {
    RAPI_PORT
}
fn uid_base() -> u32 {
    UID_BASE
}

/// Why there are no settings.
#[derive(Debug, thiserror::Error)]
pub enum NodeTomlError {
    /// It can't be read or written.
    #[error("can't access {}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// It is no settings file.
    #[error("{} is wrong: {why}", path.display())]
    Wrong {
        /// The file.
        path: PathBuf,
        /// What and where.
        why: String,
    },
}

impl NodeToml {
    /// Settings with everything at its default.
    #[must_use]
    pub fn new(name: &str, address: IpAddr) -> Self {
        Self {
            name: name.to_owned(),
            address,
            noded_port: NODED_PORT,
            confd_port: CONFD_PORT,
            mond_port: MOND_PORT,
            rapi_port: RAPI_PORT,
            uid_base: UID_BASE,
            capacity: None,
            drivers: Vec::new(),
            compat: Compat::default(),
            overseer: OverseerToml::default(),
            confd: ConfdToml::default(),
            mond: MondToml::default(),
        }
    }

    /// Where noded listens.
    #[must_use]
    pub fn noded_addr(&self) -> SocketAddr {
        SocketAddr::new(self.address, self.noded_port)
    }

    /// Writes them; durable when this returns.
    ///
    /// # Errors
    /// When the file can't be written.
    pub fn save(&self, root: &Root) -> Result<(), NodeTomlError> {
        let path = root.node_toml();
        let text = toml::to_string(self)
            .map_err(|error| NodeTomlError::Wrong { path: path.clone(), why: error.to_string() })?;
        files::atomic_write(&path, text.as_bytes(), 0o644)
            .map_err(|source| NodeTomlError::Io { path, source })
    }
}

/// Reads `node.toml` of `root`.
///
/// # Errors
/// When it is missing, unreadable, or has unknown or ill-typed keys.
pub fn load(root: &Root) -> Result<NodeToml, NodeTomlError> {
    let path = root.node_toml();
    let text = match std::fs::read_to_string(&path) {
        Ok(text) => text,
        Err(source) => return Err(NodeTomlError::Io { path, source }),
    };
    parse(&text, &path)
}

/// Reads settings that were found in `path`.
///
/// # Errors
/// They are none.
pub fn parse(text: &str, path: &Path) -> Result<NodeToml, NodeTomlError> {
    toml::from_str(text)
        .map_err(|error| NodeTomlError::Wrong { path: path.to_owned(), why: error.to_string() })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn root() -> (tempfile::TempDir, Root) {
        let dir = tempfile::tempdir().expect("a directory");
        let root = Root::new(dir.path());
        files::make_dirs(&root).expect("made");
        (dir, root)
    }

    #[test]
    fn what_is_not_named_has_a_default() {
        let (_dir, root) = root();
        std::fs::write(root.node_toml(), "name = \"n1\"\naddress = \"127.0.0.2\"\n").expect("written");
        assert_eq!(load(&root).expect("read"), NodeToml::new("n1", IpAddr::from([127, 0, 0, 2])));
    }

    #[test]
    fn settings_are_read_back() {
        let (_dir, root) = root();
        let mut settings = NodeToml::new("n1", IpAddr::from([127, 0, 0, 2]));
        settings.capacity = Some(Capacity { memory_mib: 1, cpus: 2, disk_mib: 3 });
        settings.drivers = vec!["fake".to_owned()];
        settings.compat.ganeti_paths = true;
        settings.overseer.health_check_s = Some(1);
        settings.confd.rate = Some(7);
        settings.mond.bind = vec![IpAddr::from([127, 0, 0, 1])];
        settings.mond.allow = vec!["192.0.2.0/24".to_owned()];
        settings.mond.tls_port = 1816;
        settings.mond.token_file = Some("/etc/gantry/tokens".into());
        settings.mond.plain = Some(false);
        settings.save(&root).expect("written");
        assert_eq!(load(&root).expect("read"), settings);
    }

    #[test]
    fn a_typing_error_is_named() {
        let (_dir, root) = root();
        std::fs::write(root.node_toml(), "name = \"n1\"\nadress = \"127.0.0.2\"\n").expect("written");
        assert!(load(&root).expect_err("wrong").to_string().contains("adress"));
    }
}
