//! What the files in `secrets/` say (feature `ca`): which CAs are trusted, who signed this node's certificate, of which CA
//! the key is there. Pure functions of PEM texts, but for [`Own::load`].

use super::ca::Pair;
use super::{CA_KEY, CA_PEM, Identity, NODE_PEM, TlsError, has_key, own, read};
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use sha2::{Digest, Sha256};
use std::path::Path;
use x509_parser::prelude::{FromDer, X509Certificate};

/// SHA-256 of a certificate's DER.
pub type Print = [u8; 32];

const BEGIN: &str = "-----BEGIN CERTIFICATE-----";
const END: &str = "-----END CERTIFICATE-----";

/// A CA's certificate.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Authority {
    /// Its fingerprint.
    pub print: Print,
    /// Its last second, since 1970.
    pub ends: i64,
    /// PEM, of this certificate alone.
    pub pem: String,
}

/// All that a node's secrets say.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Own {
    /// Whom it trusts.
    pub trust: Vec<Authority>,
    /// Which of them signed its certificate; None: none, or it is over.
    pub issuer: Option<Print>,
    /// Last second of its certificate, since 1970.
    pub ends: i64,
    /// Of which CA it has the key.
    pub key: Option<Print>,
}

impl Own {
    /// Reads `secrets`. Blocks for some small reads.
    ///
    /// # Errors
    /// When what every node has is missing or broken. A CA's key that fits no certificate counts as none.
    pub fn load(secrets: &Path) -> Result<Self, TlsError> {
        let (certificate, key) = own(secrets)?;
        let ca = read(secrets, CA_PEM)?;
        let trust = authorities(&ca)?;
        let signed = |ca: &&Authority| {
            Identity::from_pem(&certificate, &key, &ca.pem).is_ok_and(|own| own.check_signed().is_ok())
        };
        let issuer = trust.iter().find(signed).map(|ca| ca.print);
        let ends = ends(&first(&certificate)?)?;
        let pair = read(secrets, CA_KEY).and_then(|key| signer(&ca, &key));
        let key = pair.ok().map(|pair| print_of(&pair.certificate)).transpose()?;
        Ok(Self { trust, issuer, ends, key })
    }
}

/// The CAs of a PEM text, each once.
///
/// # Errors
/// When it has none, or one that can't be read.
pub fn authorities(pem: &str) -> Result<Vec<Authority>, TlsError> {
    let mut found: Vec<Authority> = Vec::new();
    for pem in blocks(pem) {
        let der = first(&pem)?;
        let authority = Authority { print: Sha256::digest(&der).into(), ends: ends(&der)?, pem };
        if !found.iter().any(|known| known.print == authority.print) {
            found.push(authority);
        }
    }
    if found.is_empty() {
        return Err(TlsError::Pem { what: "CA", why: "no certificate in it".to_owned() });
    }
    Ok(found)
}

/// The fingerprint of a PEM text's first certificate.
///
/// # Errors
/// When there is none.
pub fn print_of(pem: &str) -> Result<Print, TlsError> {
    Ok(Sha256::digest(&first(pem)?).into())
}

/// The CA that `key` belongs to: the one whose certificate stands beside the key, else the one in `ca` that has this key.
///
/// # Errors
/// When there is none.
pub fn signer(ca: &str, key: &str) -> Result<Pair, TlsError> {
    let pem = |why: String| TlsError::Pem { what: "CA's key", why };
    let alone = key_block(key);
    let pair = rcgen::KeyPair::from_pem(&alone).map_err(|why| pem(why.to_string()))?;
    let public = pair.public_key_raw();
    let fits = |pem: &String| {
        let Ok(der) = first(pem) else { return false };
        X509Certificate::from_der(&der)
            .is_ok_and(|(_, found)| found.public_key().subject_public_key.data.as_ref() == public)
    };
    let beside = blocks(key);
    let mut candidates = beside.into_iter().chain(blocks(ca));
    let certificate = candidates.find(fits).ok_or_else(|| pem("no CA's certificate has it".to_owned()))?;
    Ok(Pair { certificate, key: alone })
}

/// A CA's key that carries its certificate: one file, so that one rename replaces both.
#[must_use]
pub fn joined(pair: &Pair) -> String {
    format!("{}{}", pair.certificate, pair.key)
}

/// Whether this node's key stands beside its certificate, so that another file with a key counts for nothing.
///
/// # Errors
/// When the certificate can't be read.
pub fn key_is_beside(secrets: &Path) -> Result<bool, TlsError> {
    Ok(has_key(&read(secrets, NODE_PEM)?))
}

/// The text without its certificates.
fn key_block(pem: &str) -> String {
    blocks(pem).iter().fold(pem.to_owned(), |text, block| text.replace(block.as_str(), ""))
}

/// The certificates of a PEM text, each with its line ends.
fn blocks(pem: &str) -> Vec<String> {
    let mut rest = pem;
    let mut found = Vec::new();
    while let Some(begin) = rest.find(BEGIN) {
        let Some(length) = rest[begin..].find(END) else { break };
        let end = begin + length + END.len();
        let tail = &rest[end..];
        let line_end = tail.len() - tail.trim_start_matches(['\r', '\n']).len();
        found.push(format!("{}\n", &rest[begin..end]));
        rest = &tail[line_end..];
    }
    found
}

fn first(pem: &str) -> Result<CertificateDer<'static>, TlsError> {
    CertificateDer::from_pem_slice(pem.as_bytes())
        .map_err(|why| TlsError::Pem { what: "certificate", why: why.to_string() })
}

fn ends(der: &CertificateDer<'_>) -> Result<i64, TlsError> {
    let (_, parsed) = X509Certificate::from_der(der)
        .map_err(|why| TlsError::Pem { what: "certificate", why: why.to_string() })?;
    Ok(parsed.validity().not_after.timestamp())
}

#[cfg(test)]
mod tests {
    use super::super::{NODE_KEY, ca};
    use super::*;
    use gantry_model::ids::{ClusterUuid, NodeUuid};
    use uuid::Uuid;

    const CLUSTER: ClusterUuid = ClusterUuid(Uuid::from_u128(1));
    const NODE: NodeUuid = NodeUuid(Uuid::from_u128(2));

    #[test]
    fn a_set_of_cas_is_read_whole_and_each_once() {
        let (one, two) = (ca::make_ca(CLUSTER).unwrap(), ca::make_ca(CLUSTER).unwrap());
        let text = format!("{}\n{}{}", one.certificate, two.certificate, one.certificate);
        let found = authorities(&text).unwrap();
        let prints: Vec<Print> = found.iter().map(|ca| ca.print).collect();
        assert_eq!(prints, [print_of(&one.certificate).unwrap(), print_of(&two.certificate).unwrap()]);
        // The first second of 2199.
        assert_eq!(found[0].ends, 7_226_582_400);
        for bad in ["", "PEM", "-----BEGIN CERTIFICATE-----\nx\n-----END CERTIFICATE-----\n"] {
            assert!(authorities(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_key_finds_its_certificate_beside_it_or_among_the_trusted() {
        let (one, two) = (ca::make_ca(CLUSTER).unwrap(), ca::make_ca(CLUSTER).unwrap());
        let both = format!("{}{}", one.certificate, two.certificate);
        let print = |pair: Pair| print_of(&pair.certificate).unwrap();
        assert_eq!(print(signer(&both, &two.key).unwrap()), print(two.clone()));
        assert_eq!(print(signer(&one.certificate, &joined(&two)).unwrap()), print(two.clone()));
        assert!(signer(&one.certificate, &two.key).is_err(), "nobody knows this key");
        let again = signer(&both, &joined(&two)).unwrap();
        assert!(ca::sign_csr(&again, &ca::make_csr().unwrap().csr, CLUSTER, NODE).is_ok());
    }

    #[test]
    fn secrets_say_who_signed_and_whose_key_is_there() {
        let (one, two) = (ca::make_ca(CLUSTER).unwrap(), ca::make_ca(CLUSTER).unwrap());
        let dir = tempfile::tempdir().unwrap();
        let write = |name: &str, text: &str| std::fs::write(dir.path().join(name), text).unwrap();
        let pair = ca::make_node(&two, CLUSTER, NODE).unwrap();
        write(NODE_PEM, &pair.certificate);
        write(NODE_KEY, &pair.key);
        write(CA_PEM, &format!("{}{}", one.certificate, two.certificate));
        let own = Own::load(dir.path()).unwrap();
        let print = |pair: &Pair| Some(print_of(&pair.certificate).unwrap());
        assert_eq!((own.trust.len(), own.issuer, own.key), (2, print(&two), None));
        assert!(!key_is_beside(dir.path()).unwrap());
        write(CA_KEY, &one.key);
        assert_eq!(Own::load(dir.path()).unwrap().key, print(&one));
        write(CA_KEY, "broken");
        assert_eq!(Own::load(dir.path()).unwrap().key, None);
        write(CA_PEM, &one.certificate);
        assert_eq!(Own::load(dir.path()).unwrap().issuer, None, "its CA is not trusted");
    }
}
