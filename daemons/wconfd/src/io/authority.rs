//! The cluster's CA on the master's disk: who signs, and the CA that a renewal changes to (docs/adr/0010).

use anyhow::Context;
use gantry_model::ids::{ClusterUuid, NodeUuid};
use gantry_proto::noded::Print;
use gantry_proto::wconfd::{CaNextReply, CertSignReply};
use gantry_rpc::tls::ca::{self, Pair};
use gantry_rpc::tls::facts;
use gantry_rpc::tls::{CA_KEY, CA_PEM, NEXT_KEY};
use gantry_rt::{crash, files};
use std::path::Path;

fn read(secrets: &Path, name: &str) -> anyhow::Result<String> {
    std::fs::read_to_string(secrets.join(name)).with_context(|| name.to_owned())
}

/// The CA whose key is in the file `name`. Blocks on the disk.
fn of_file(secrets: &Path, name: &str) -> anyhow::Result<Pair> {
    Ok(facts::signer(&read(secrets, CA_PEM)?, &read(secrets, name)?)?)
}

/// Signs a node's request; with the certificate goes all that this master trusts. Blocks on the disk.
///
/// # Errors
/// When the CA's key is not there, or the request is none.
pub fn sign(
    secrets: &Path,
    cluster: ClusterUuid,
    node: NodeUuid,
    csr: &str,
) -> anyhow::Result<CertSignReply> {
    let certificate = ca::sign_csr(&of_file(secrets, CA_KEY)?, csr, cluster, node)?;
    crash::point("renew-signed");
    Ok(CertSignReply { certificate, ca: read(secrets, CA_PEM)? })
}

/// The CA `wanted`, when its key is here; else a new one, whose key is durable before anybody hears of it. Blocks on the disk.
///
/// # Errors
/// When the disk refuses.
pub fn next(secrets: &Path, cluster: ClusterUuid, wanted: Option<Print>) -> anyhow::Result<CaNextReply> {
    for name in [CA_KEY, NEXT_KEY] {
        // A key that can't be read is as good as none: the renewal goes on with a new one.
        let Ok(pair) = of_file(secrets, name) else { continue };
        let print = facts::print_of(&pair.certificate)?;
        if Some(print) == wanted {
            return Ok(reply(print, &pair));
        }
    }
    let pair = ca::make_ca(cluster)?;
    let path = secrets.join(NEXT_KEY);
    files::atomic_write(&path, facts::joined(&pair).as_bytes(), 0o600)
        .with_context(|| NEXT_KEY.to_owned())?;
    crash::point("renew-ca-made");
    Ok(reply(facts::print_of(&pair.certificate)?, &pair))
}

fn reply(print: Print, pair: &Pair) -> CaNextReply {
    CaNextReply { print, certificate: pair.certificate.clone(), key: facts::joined(pair) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use gantry_rpc::tls::Identity;
    use uuid::Uuid;

    const CLUSTER: ClusterUuid = ClusterUuid(Uuid::from_u128(1));
    const NODE: NodeUuid = NodeUuid(Uuid::from_u128(2));

    fn secrets() -> (tempfile::TempDir, Pair) {
        let dir = tempfile::tempdir().unwrap();
        let pair = ca::make_ca(CLUSTER).unwrap();
        std::fs::write(dir.path().join(CA_PEM), &pair.certificate).unwrap();
        std::fs::write(dir.path().join(CA_KEY), &pair.key).unwrap();
        (dir, pair)
    }

    #[test]
    fn the_wanted_ca_is_found_where_its_key_is_and_else_another_is_made() {
        let (dir, old) = secrets();
        let made = next(dir.path(), CLUSTER, None).unwrap();
        assert_eq!(
            next(dir.path(), CLUSTER, Some(made.print)).unwrap(),
            made,
            "as long as the key lies here"
        );
        std::fs::rename(dir.path().join(NEXT_KEY), dir.path().join(CA_KEY)).unwrap();
        assert_eq!(next(dir.path(), CLUSTER, Some(made.print)).unwrap(), made);
        let other = next(dir.path(), CLUSTER, Some([0; 32])).unwrap();
        assert_ne!(other.print, made.print);
        let old = facts::print_of(&old.certificate).unwrap();
        assert_ne!(next(dir.path(), CLUSTER, Some(old)).unwrap().print, old, "its key is here no more");
    }

    #[test]
    fn who_has_the_key_signs_among_several_trusted() {
        let (dir, old) = secrets();
        let made = next(dir.path(), CLUSTER, None).unwrap();
        let both = format!("{}{}", made.certificate, old.certificate);
        std::fs::write(dir.path().join(CA_PEM), &both).unwrap();
        let asked = ca::make_csr().unwrap();
        let signed = |by: &str| {
            let CertSignReply { certificate, ca } = sign(dir.path(), CLUSTER, NODE, &asked.csr).unwrap();
            assert_eq!(ca, both);
            Identity::from_pem(&certificate, &asked.key, by).unwrap().check_signed().is_ok()
        };
        assert!(signed(&old.certificate), "the key without a certificate beside it");
        std::fs::write(dir.path().join(CA_KEY), &made.key).unwrap();
        assert!(signed(&made.certificate) && !signed(&old.certificate));
    }
}
