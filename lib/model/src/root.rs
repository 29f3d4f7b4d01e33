//! Where everything lies. Every program takes `--root DIR` (or `GANTRY_ROOT`), default `/`, and finds
//! `DIR/{etc,run,var/lib,var/log}/gantry` below it. Names paths only; makes and opens nothing.

use crate::ids::JobOwner;
use std::path::{Path, PathBuf};

/// The environment variable that names the root.
pub const ROOT_ENV: &str = "GANTRY_ROOT";

/// One node's root directory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Root(PathBuf);

impl Default for Root {
    fn default() -> Self {
        Self(PathBuf::from("/"))
    }
}

impl Root {
    /// A root at `path`.
    pub fn new(path: impl Into<PathBuf>) -> Self {
        Self(path.into())
    }

    /// The directory itself.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.0
    }

    /// `etc/gantry`: what the operator writes (`node.toml`).
    #[must_use]
    pub fn etc(&self) -> PathBuf {
        self.0.join("etc/gantry")
    }

    /// `run/gantry`: sockets, pid files, vmd's journals: what a start of the machine may lose. On hosts in memory.
    #[must_use]
    pub fn run(&self) -> PathBuf {
        self.0.join("run/gantry")
    }

    /// `var/lib/gantry`: durable state.
    #[must_use]
    pub fn lib(&self) -> PathBuf {
        self.0.join("var/lib/gantry")
    }

    /// `var/log/gantry`.
    #[must_use]
    pub fn log(&self) -> PathBuf {
        self.0.join("var/log/gantry")
    }

    /// `etc/gantry/node.toml`.
    #[must_use]
    pub fn node_toml(&self) -> PathBuf {
        self.etc().join("node.toml")
    }

    /// A socket of this node, such as `luxi.sock`.
    #[must_use]
    pub fn socket(&self, name: &str) -> PathBuf {
        self.run().join(name)
    }

    /// The admin socket of a daemon: `admin/NAME.sock`.
    #[must_use]
    pub fn admin_socket(&self, daemon: &str) -> PathBuf {
        self.run().join("admin").join(format!("{daemon}.sock"))
    }

    /// The pid file of a daemon: `pid/NAME.json`.
    #[must_use]
    pub fn pid_file(&self, daemon: &str) -> PathBuf {
        self.run().join("pid").join(format!("{daemon}.json"))
    }

    /// The directory of the job sockets.
    #[must_use]
    pub fn job_dir(&self) -> PathBuf {
        self.run().join("job")
    }

    /// The socket of one start of a job: `job/ID.E-R-C.sock` (P4).
    #[must_use]
    pub fn job_socket(&self, owner: JobOwner) -> PathBuf {
        self.job_dir().join(format!("{owner}.sock"))
    }

    /// The socket by which an interruptible OP_TEST_DELAY of one start is ended early.
    #[must_use]
    pub fn job_delay_socket(&self, owner: JobOwner) -> PathBuf {
        self.job_dir().join(format!("{owner}.delay"))
    }

    /// The directory of vmd's journals, one per VM, which need not outlive the machine: `vm`.
    #[must_use]
    pub fn vm_dir(&self) -> PathBuf {
        self.run().join("vm")
    }

    /// The directory of spool files.
    #[must_use]
    pub fn spool_dir(&self) -> PathBuf {
        self.lib().join("spool")
    }

    /// The last report of one start of a job whose luxid was away: `spool/ID.E-R-C` (P4.4).
    #[must_use]
    pub fn spool_file(&self, owner: JobOwner) -> PathBuf {
        self.spool_dir().join(owner.to_string())
    }

    /// The body store, `blob/sha256` (DESIGN §3).
    #[must_use]
    pub fn blob_dir(&self) -> PathBuf {
        self.lib().join("blob/sha256")
    }

    /// The body with this digest (lower-case hex): `blob/sha256/ab/HEX`.
    #[must_use]
    pub fn blob(&self, digest: &str) -> PathBuf {
        self.blob_dir().join(digest.get(..2).unwrap_or("__")).join(digest)
    }

    /// Bodies that are being sent by clients: `blob/partial`.
    #[must_use]
    pub fn partial_dir(&self) -> PathBuf {
        self.lib().join("blob/partial")
    }

    /// Bodies that are not what their names say: `blob/damaged`.
    #[must_use]
    pub fn damaged_dir(&self) -> PathBuf {
        self.lib().join("blob/damaged")
    }

    /// `role.json`: what runs here; written only by noded and init.
    #[must_use]
    pub fn role_file(&self) -> PathBuf {
        self.lib().join("role.json")
    }

    /// `role.json.2`: the same, for when that is damaged. Without `role.json` it says nothing.
    #[must_use]
    pub fn role_spare(&self) -> PathBuf {
        self.lib().join("role.json.2")
    }

    /// `hmac.key`: by which confd's clients and servers know each other.
    #[must_use]
    pub fn hmac_key(&self) -> PathBuf {
        self.lib().join("hmac.key")
    }

    /// `hmac.key.old`: the one before, which counts for a while after a renewal.
    #[must_use]
    pub fn old_hmac_key(&self) -> PathBuf {
        self.lib().join("hmac.key.old")
    }

    /// `master_ip.json`: what noded has put of the cluster's address on this machine.
    #[must_use]
    pub fn master_ip_file(&self) -> PathBuf {
        self.lib().join("master_ip.json")
    }

    /// `etc/gantry/hooks`: the operator's hooks.
    #[must_use]
    pub fn hooks(&self) -> PathBuf {
        self.etc().join("hooks")
    }

    /// `ssconf_KEY`.
    #[must_use]
    pub fn ssconf(&self, key: &str) -> PathBuf {
        self.lib().join(format!("ssconf_{key}"))
    }

    /// `secrets/`: keys and certificates, mode 0700.
    #[must_use]
    pub fn secrets(&self) -> PathBuf {
        self.lib().join("secrets")
    }

    /// The secret an unjoined node waits with.
    #[must_use]
    pub fn join_secret(&self) -> PathBuf {
        self.lib().join("join-secret")
    }
}
