//! Which ssconf files there are (`spec/config.md` §6). The list is closed, so that no caller can name a
//! path outside it.

/// Most bytes of one file, as Ganeti's readers take it.
pub const SSCONF_BYTES_MAX: usize = 128 << 10;

/// Every key.
pub const KEYS: &[&str] = &[
    "cluster_name",
    "cluster_tags",
    "confd_digest",
    "enabled_user_shutdown",
    "file_storage_dir",
    "gluster_storage_dir",
    "hvparams_chroot",
    "hvparams_fake",
    "hvparams_kvm",
    "hvparams_lxc",
    "hvparams_xen-hvm",
    "hvparams_xen-pvm",
    "hypervisor_list",
    "instance_list",
    "maintain_node_health",
    "master_candidates",
    "master_candidates_certs",
    "master_candidates_ips",
    "master_ip",
    "master_netdev",
    "master_netmask",
    "master_node",
    "networks",
    "node_list",
    "node_primary_ips",
    "node_secondary_ips",
    "node_vm_capable",
    "nodegroups",
    "offline_nodes",
    "online_nodes",
    "primary_ip_family",
    "release_version",
    "shared_file_storage_dir",
    "ssh_ports",
    "uid_pool",
];

/// What is wrong with a set of values.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SsconfError {
    /// No such key.
    #[error("'{0}' is no ssconf key")]
    UnknownKey(String),
    /// Too large.
    #[error("ssconf_{key} would have {bytes} bytes, the limit is {SSCONF_BYTES_MAX}")]
    TooLarge {
        /// Which.
        key: String,
        /// Its size.
        bytes: usize,
    },
}

/// Checks all of `values`, so that a bad set changes no file at all.
///
/// # Errors
/// The first that is wrong.
pub fn check(values: &[(String, String)]) -> Result<(), SsconfError> {
    for (key, value) in values {
        if KEYS.binary_search(&key.as_str()).is_err() {
            return Err(SsconfError::UnknownKey(key.clone()));
        }
        if value.len() > SSCONF_BYTES_MAX {
            return Err(SsconfError::TooLarge { key: key.clone(), bytes: value.len() });
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_list_is_sorted() {
        assert!(KEYS.is_sorted());
    }

    #[test]
    fn keys_outside_the_list_are_refused() {
        for key in ["../../etc/passwd", "", "master_node/", "MASTER_NODE", "x"] {
            assert!(check(&[(key.to_owned(), String::new())]).is_err(), "{key}");
        }
        assert_eq!(check(&[("master_node".to_owned(), "node1\n".to_owned())]), Ok(()));
        let large = "x".repeat(SSCONF_BYTES_MAX + 1);
        assert!(matches!(check(&[("node_list".to_owned(), large)]), Err(SsconfError::TooLarge { .. })));
    }
}
