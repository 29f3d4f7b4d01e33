//! What the files of a node say: where the candidates are, the key, the form to ask in, the port. Reads only.

use crate::client::{Client, ClientError};
use crate::core::keys::Keys;
use crate::core::wire::Form;
use gantry_model::root::Root;
use gantry_rt::node_toml::{self, CONFD_PORT};
use gantry_rt::secret;
use gantry_rt::services::Service;
use std::fs;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};

/// ConfD as a service.
const SERVICE: Service =
    Service { names: ["gantry-confd", "ganeti-confd"], protocol: "udp", port: CONFD_PORT };

/// The port of a node whose settings say `own`: they count unless they are the default and the services say otherwise.
#[must_use]
pub fn port(own: u16) -> u16 {
    SERVICE.port(own)
}

fn read(path: PathBuf) -> Result<String, ClientError> {
    fs::read_to_string(&path).map_err(|source| ClientError::File { path, source })
}

/// The keys of a key file.
///
/// # Errors
/// It can't be read, others could read or change it, or it is too short.
pub fn keys(path: &Path) -> Result<Keys, ClientError> {
    let bytes = secret::read(path)?;
    Keys::new(&bytes).map_err(|source| ClientError::Key { path: path.to_owned(), source })
}

/// The form that the cluster's clients ask in. It is never negotiated: `sha1` is the legacy one, all else the second.
///
/// # Errors
/// The file is there and can't be read.
pub fn form(root: &Root) -> Result<Form, ClientError> {
    match read(root.ssconf("confd_digest")) {
        Ok(text) if text.trim() == "sha1" => Ok(Form::Legacy),
        Ok(_) => Ok(Form::Second),
        Err(ClientError::File { source, .. }) if source.kind() == io::ErrorKind::NotFound => Ok(Form::Second),
        Err(why) => Err(why),
    }
}

/// The master candidates' addresses.
///
/// # Errors
/// The file can't be read, or has no address.
pub fn candidates(root: &Root) -> Result<Vec<IpAddr>, ClientError> {
    let path = root.ssconf("master_candidates_ips");
    let text = read(path.clone())?;
    let all: Option<Vec<IpAddr>> = text.lines().map(|line| line.trim().parse().ok()).collect();
    all.filter(|all| !all.is_empty()).ok_or(ClientError::Candidates { path })
}

/// A client of the cluster that a node belongs to.
///
/// # Errors
/// The node is in none, or a file can't be used.
pub fn client(root: &Root) -> Result<Client, ClientError> {
    let own = node_toml::load(root).map_or(CONFD_PORT, |settings| settings.confd_port);
    let port = port(own);
    let peers = candidates(root)?.into_iter().map(|ip| SocketAddr::new(ip, port)).collect();
    Ok(Client::new(keys(&root.hmac_key())?, form(root)?, peers))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_node_knows() {
        let dir = tempfile::tempdir().unwrap();
        let root = Root::new(dir.path());
        gantry_rt::files::make_dirs(&root).unwrap();
        assert!(client(&root).unwrap_err().to_string().contains("master_candidates_ips"));
        fs::write(root.ssconf("master_candidates_ips"), "127.0.0.1\n::1\n").unwrap();
        assert!(client(&root).unwrap_err().to_string().contains("hmac.key"));
        let key =
            |mode| gantry_rt::files::atomic_write(&root.hmac_key(), b"0123456789abcdef\n", mode).unwrap();
        key(0o644);
        assert!(client(&root).unwrap_err().to_string().contains("chmod 0640"));
        key(0o640);
        client(&root).unwrap();
        assert_eq!(form(&root).unwrap(), Form::Second);
        fs::write(root.ssconf("confd_digest"), "sha1\n").unwrap();
        assert_eq!(form(&root).unwrap(), Form::Legacy);
        fs::write(root.ssconf("master_candidates_ips"), "").unwrap();
        assert!(matches!(client(&root), Err(ClientError::Candidates { .. })));
    }
}
