//! What on this machine forbids a restore: files of another cluster, daemons at work, an address that is not its own.
//! It changes nothing.

use super::manifest::Manifest;
use super::{BackupError, failed, refused};
use gantry_model::ids::NodeUuid;
use gantry_model::root::Root;
use gantry_rt::files;
use gantry_rt::node_toml::NodeToml;
use gantry_store::{LogKind, writer_runs};
use nix::fcntl::{Flock, FlockArg};
use std::fs::File;
use std::io;
use std::net::TcpListener;

/// Refuses a node of another cluster, and one on which a master's daemons run.
///
/// # Errors
/// Why nothing may be restored here.
pub fn refuse_cluster(root: &Root, backup: &Manifest, node: NodeUuid) -> Result<(), BackupError> {
    let path = root.role_file();
    let role = files::read_role(root).map_err(failed("read", &path))?;
    if let Some(role) = role {
        if role.cluster != backup.cluster {
            return Err(refused(format!(
                "this node belongs to cluster {}, and the backup is of cluster {} ({}): end that cluster here first (gnt-cluster \
                 destroy), or restore on another machine",
                role.cluster, backup.cluster, backup.cluster_name
            )));
        }
        if role.node != node {
            return Err(refused(format!(
                "this node is {} by its role.json, and {} by the name in its node.toml: correct node.toml",
                role.node, node
            )));
        }
    }
    for log in [LogKind::W, LogKind::Q] {
        if let Some(pid) = writer_runs(&root.lib(), log)? {
            let pid = pid.map_or(String::new(), |pid| format!(" (process {pid})"));
            return Err(refused(format!(
                "this node is a master at work{pid}: a backup is not restored over it. To go back to the backup all the same, \
                 stop it first (gantry daemon stop), then run this command again"
            )));
        }
    }
    Ok(())
}

/// Daemons hold the files that are replaced.
///
/// # Errors
/// When boot runs in this root.
pub fn refuse_boot(root: &Root) -> Result<(), BackupError> {
    if boot_runs(root) {
        return Err(refused(format!(
            "gantry-boot runs on {}: stop it first, then run this command again",
            root.path().display()
        )));
    }
    Ok(())
}

/// Refuses an address that this node's noded could not have: whoever has it may be the very node that is said to be lost, and
/// other nodes would go on with it. Not asked while boot runs here, whose noded has it by right.
///
/// # Errors
/// When the address is somebody else's, or not this machine's.
pub fn refuse_address(root: &Root, settings: &NodeToml) -> Result<(), BackupError> {
    let (address, port) = (settings.address, settings.noded_port);
    let taken = match TcpListener::bind((address, port)) {
        Ok(_free) => return Ok(()),
        Err(_) if boot_runs(root) => return Ok(()),
        Err(taken) => taken,
    };
    Err(refused(match taken.kind() {
        io::ErrorKind::AddrInUse => format!(
            "{address} port {port}, the address of {}, is served already: that node may still live, with files in another \
             directory, and a master is not restored beside it. Stop what listens there (gantry daemon stop), then run this \
             command again",
            settings.name
        ),
        io::ErrorKind::AddrNotAvailable => format!(
            "this machine does not have {address}, the address of {}: give it that address once the lost machine is off, since \
             the other nodes will look for the master there",
            settings.name
        ),
        _ => format!("{address} port {port}, the address of {}, can't be had here: {taken}", settings.name),
    }))
}

fn boot_runs(root: &Root) -> bool {
    let Ok(file) = File::open(root.run().join("boot.lock")) else { return false };
    Flock::lock(file, FlockArg::LockExclusiveNonblock).is_err()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// An address that no other test listens on.
    #[test]
    fn an_address_is_free_taken_or_not_here() {
        let dir = tempfile::tempdir().unwrap();
        let root = Root::new(dir.path());
        let other = TcpListener::bind("127.77.9.1:0").unwrap();
        let port = other.local_addr().unwrap().port();
        let at = |address: &str| {
            let mut settings = NodeToml::new("lost.gantry.test", address.parse().unwrap());
            settings.noded_port = port;
            refuse_address(&root, &settings).map_err(|why| why.to_string())
        };
        assert!(at("127.77.9.1").unwrap_err().contains("is served already"));
        // Documentation's own addresses (RFC 5737) are no machine's.
        assert!(at("192.0.2.1").unwrap_err().contains("does not have 192.0.2.1"));
        drop(other);
        assert_eq!(at("127.77.9.1"), Ok(()));
    }

    #[test]
    fn the_node_that_runs_here_has_its_address_by_right() {
        let dir = tempfile::tempdir().unwrap();
        let root = Root::new(dir.path());
        std::fs::create_dir_all(root.run()).unwrap();
        let lock = File::create(root.run().join("boot.lock")).unwrap();
        let _lock = Flock::lock(lock, FlockArg::LockExclusive).unwrap();
        let noded = TcpListener::bind("127.77.9.1:0").unwrap();
        let mut settings = NodeToml::new("here.gantry.test", "127.77.9.1".parse().unwrap());
        settings.noded_port = noded.local_addr().unwrap().port();
        assert!(refuse_address(&root, &settings).is_ok());
        assert!(refuse_boot(&root).is_err());
    }
}
