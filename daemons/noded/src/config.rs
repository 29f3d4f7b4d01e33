//! What a node needs to know before it starts: arguments, `node.toml`, and the identities file.

use gantry_model::root::{ROOT_ENV, Root};
use gantry_rt::node_toml::{self, Capacity, NODED_PORT, NodeToml, NodeTomlError};
use serde::Deserialize;
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};

/// Most identities of one process; a simulated cluster has 200 nodes at most (DESIGN).
pub const IDENTITIES_MAX: usize = 1024;

/// NodeD: serves one node, or with `--identities` many fake ones.
#[derive(Debug, Clone, clap::Parser)]
#[command(name = "gantry-noded", version)]
pub struct Args {
    /// Root directory of this node; with --identities of the process (its admin socket).
    #[arg(long, env = ROOT_ENV, default_value = "/")]
    pub root: PathBuf,
    /// JSON list of {"root", "address", "port"}: serve each as a node of its own.
    #[arg(long, value_name = "FILE")]
    pub identities: Option<PathBuf>,
    /// Log to this file instead of standard error.
    #[arg(long, value_name = "FILE")]
    pub log_file: Option<PathBuf>,
}

/// Why there are no settings.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// node.toml.
    #[error(transparent)]
    NodeToml(#[from] NodeTomlError),
    /// The identities file can't be read.
    #[error("can't read {}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// The identities file is wrong.
    #[error("{} is wrong: {why}", path.display())]
    Wrong {
        /// The file.
        path: PathBuf,
        /// What.
        why: String,
    },
}

/// The settings of one served node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settings {
    /// Its root.
    pub root: Root,
    /// Its name in node.toml; a cluster must know it by the same.
    pub name: Option<String>,
    /// Where it listens; port 0 = any (tests).
    pub address: SocketAddr,
    /// What it offers instead of all the machine has.
    pub capacity: Option<Capacity>,
    /// Drivers to use.
    pub drivers: Vec<String>,
    /// Whether ssconf files also appear under Ganeti's own paths.
    pub ganeti_paths: bool,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Identity {
    root: PathBuf,
    address: IpAddr,
    #[serde(default = "default_port")]
    port: u16,
}

fn default_port() -> u16 {
    NODED_PORT
}

impl From<(Root, NodeToml)> for Settings {
    fn from((root, toml): (Root, NodeToml)) -> Self {
        Self {
            root,
            name: Some(toml.name.clone()),
            address: toml.noded_addr(),
            capacity: toml.capacity,
            drivers: toml.drivers,
            ganeti_paths: toml.compat.ganeti_paths,
        }
    }
}

impl Settings {
    /// From `etc/gantry/node.toml` of `root`.
    ///
    /// # Errors
    /// When it is missing or wrong.
    pub fn load(root: Root) -> Result<Self, ConfigError> {
        let toml = node_toml::load(&root)?;
        Ok(Self::from((root, toml)))
    }

    /// Everything an identities file names. A root's own node.toml gives capacity and drivers if there is one, else
    /// the node is fake with all of the machine; address and port are always the file's.
    ///
    /// # Errors
    /// When a file is unreadable, wrong, or names more than [`IDENTITIES_MAX`].
    pub fn load_identities(path: &Path) -> Result<Vec<Self>, ConfigError> {
        let wrong = |why: String| ConfigError::Wrong { path: path.to_owned(), why };
        let text =
            std::fs::read(path).map_err(|source| ConfigError::Read { path: path.to_owned(), source })?;
        let all: Vec<Identity> = serde_json::from_slice(&text).map_err(|error| wrong(error.to_string()))?;
        if all.is_empty() || all.len() > IDENTITIES_MAX {
            return Err(wrong(format!("{} identities; 1 to {IDENTITIES_MAX} can be", all.len())));
        }
        all.into_iter().map(Self::of_identity).collect()
    }

    fn of_identity(identity: Identity) -> Result<Self, ConfigError> {
        let root = Root::new(identity.root);
        let address = SocketAddr::new(identity.address, identity.port);
        if root.node_toml().exists() {
            return Ok(Self { address, ..Self::load(root)? });
        }
        let drivers = vec!["fake".to_owned()];
        Ok(Self { root, name: None, address, capacity: None, drivers, ganeti_paths: false })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn identities_are_read() {
        let dir = tempfile::tempdir().expect("dir");
        let file = dir.path().join("nodes.json");
        std::fs::write(&file, r#"[{"root": "/n/1", "address": "127.0.0.11"}]"#).expect("written");
        let all = Settings::load_identities(&file).expect("read");
        assert_eq!(all[0].address, SocketAddr::from(([127, 0, 0, 11], 1811)));
        assert_eq!(all[0].drivers, ["fake"]);
        for wrong in ["[]", "{}", r#"[{"root": "/n/1", "address": "x"}]"#] {
            std::fs::write(&file, wrong).expect("written");
            assert!(Settings::load_identities(&file).is_err(), "{wrong}");
        }
    }
}
