//! Whom a caller believes: [`Member`] the one node wanted, [`Anybody`] any key that proves itself.

use super::node_uri;
use gantry_model::ids::{ClusterUuid, NodeUuid};
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::verify_server_cert_signed_by_trust_anchor;
use rustls::crypto::{CryptoProvider, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::server::ParsedCertificate;
use rustls::{CertificateError, DigitallySignedStruct, Error, OtherError, RootCertStore, SignatureScheme};
use std::sync::Arc;

/// The certificate is sound and another node's.
#[derive(Debug, thiserror::Error)]
#[error("wanted {wanted}, found {found}")]
struct WrongPeer {
    wanted: String,
    found: String,
}

/// The (wanted, found) names, if `error` is about them.
pub(super) fn wrong_peer(error: &Error) -> Option<(String, String)> {
    let Error::InvalidCertificate(CertificateError::Other(OtherError(inner))) = error else { return None };
    let WrongPeer { wanted, found } = inner.downcast_ref()?;
    Some((wanted.clone(), found.clone()))
}

/// The certificate names the wanted node, and none of our CAs has signed it (or its time is over).
#[derive(Debug, thiserror::Error)]
#[error("the certificate of {found} is not believed here: {why}")]
struct OtherCa {
    found: String,
    why: Error,
}

/// What is wrong with the certificate, if `error` is about one that names the wanted node.
pub(super) fn other_ca(error: &Error) -> Option<String> {
    let Error::InvalidCertificate(CertificateError::Other(OtherError(inner))) = error else { return None };
    inner.downcast_ref::<OtherCa>().map(OtherCa::to_string)
}

/// The cluster and node that a certificate names.
pub(super) fn node_of(certificate: &CertificateDer<'_>) -> Result<(ClusterUuid, NodeUuid), String> {
    let parsed = webpki::EndEntityCert::try_from(certificate).map_err(|error| error.to_string())?;
    let mut names = parsed.valid_uri_names().filter_map(parse_uri);
    match (names.next(), names.next()) {
        (Some(found), None) => Ok(found),
        (None, _) => Err("it names no node".to_owned()),
        (Some(_), Some(_)) => Err("it names several nodes".to_owned()),
    }
}

fn parse_uri(uri: &str) -> Option<(ClusterUuid, NodeUuid)> {
    let (cluster, node) = uri.strip_prefix("gantry:")?.split_once('/')?;
    Some((cluster.parse().ok()?, node.parse().ok()?))
}

/// Believes one node of one cluster.
#[derive(Debug)]
pub(super) struct Member {
    provider: Arc<CryptoProvider>,
    roots: Arc<RootCertStore>,
    cluster: ClusterUuid,
    node: NodeUuid,
}

impl Member {
    pub fn new(
        provider: Arc<CryptoProvider>,
        roots: Arc<RootCertStore>,
        cluster: ClusterUuid,
        node: NodeUuid,
    ) -> Self {
        Self { provider, roots, cluster, node }
    }
}

impl ServerCertVerifier for Member {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _name: &ServerName<'_>,
        _ocsp: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let parsed = ParsedCertificate::try_from(end_entity)?;
        let algorithms = self.provider.signature_verification_algorithms.all;
        let signed =
            verify_server_cert_signed_by_trust_anchor(&parsed, &self.roots, intermediates, now, algorithms);
        let wanted = node_uri(self.cluster, self.node);
        let found = match node_of(end_entity) {
            Ok((cluster, node)) => node_uri(cluster, node),
            Err(why) => why,
        };
        match signed {
            Ok(()) => {}
            // Whoever says so: nobody is let in by it.
            Err(why) if wanted == found => {
                let other = OtherError(Arc::new(OtherCa { found, why }));
                return Err(Error::InvalidCertificate(CertificateError::Other(other)));
            }
            Err(why) => return Err(why),
        }
        if wanted == found {
            return Ok(ServerCertVerified::assertion());
        }
        let other = OtherError(Arc::new(WrongPeer { wanted, found }));
        Err(Error::InvalidCertificate(CertificateError::Other(other)))
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls12_signature(message, cert, dss, &self.provider.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(message, cert, dss, &self.provider.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}

/// Believes any key that signs its handshake.
#[derive(Debug)]
pub(super) struct Anybody {
    provider: Arc<CryptoProvider>,
}

impl Anybody {
    pub fn new(provider: Arc<CryptoProvider>) -> Self {
        Self { provider }
    }
}

impl ServerCertVerifier for Anybody {
    fn verify_server_cert(
        &self,
        _end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _name: &ServerName<'_>,
        _ocsp: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls12_signature(message, cert, dss, &self.provider.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(message, cert, dss, &self.provider.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}
