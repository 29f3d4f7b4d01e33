//! Making and signing certificates (feature `ca`): ECDSA P-256 throughout. Keys are PEM texts; who calls decides
//! where they are kept.

use super::{NODE_HOST, ServerTls, TlsError, node_uri, server_config_unjoined};
use gantry_model::ids::{ClusterUuid, NodeUuid};
use rcgen::{
    BasicConstraints, CertificateParams, CertificateSigningRequestParams, DnType, ExtendedKeyUsagePurpose,
    IsCa, Issuer, KeyPair, KeyUsagePurpose, PKCS_ECDSA_P256_SHA256, SanType, date_time_ymd,
};

/// First year of validity: long gone, since a fresh machine's clock may be far behind.
const FROM_YEAR: i32 = 2000;
/// Last year of validity. A certificate ends with its node's membership or its cluster's CA, not by date.
const TO_YEAR: i32 = 2199;

/// A certificate and its key.
#[derive(Clone)]
pub struct Pair {
    /// PEM of the certificate.
    pub certificate: String,
    /// PEM of the private key (PKCS#8).
    pub key: String,
}

/// A certificate request and its key.
#[derive(Clone)]
pub struct Request {
    /// PEM of the request.
    pub csr: String,
    /// PEM of the private key (PKCS#8).
    pub key: String,
}

fn failed(error: rcgen::Error) -> TlsError {
    TlsError::Make(error.to_string())
}

fn key_pair() -> Result<KeyPair, TlsError> {
    KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).map_err(failed)
}

fn params(common_name: &str) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name = rcgen::DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, common_name);
    params.not_before = date_time_ymd(FROM_YEAR, 1, 1);
    params.not_after = date_time_ymd(TO_YEAR, 1, 1);
    params
}

/// A new CA for `cluster`.
///
/// # Errors
/// When the machine has no randomness.
pub fn make_ca(cluster: ClusterUuid) -> Result<Pair, TlsError> {
    let key = key_pair()?;
    let mut params = params(&format!("gantry CA of {cluster}"));
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
    let certificate = params.self_signed(&key).map_err(failed)?;
    Ok(Pair { certificate: certificate.pem(), key: key.serialize_pem() })
}

/// A new key and a request for its certificate. The request asks for nothing: who signs fills in the name.
///
/// # Errors
/// When the machine has no randomness.
pub fn make_csr() -> Result<Request, TlsError> {
    let key = key_pair()?;
    let csr = params("gantry node").serialize_request(&key).map_err(failed)?;
    Ok(Request { csr: csr.pem().map_err(failed)?, key: key.serialize_pem() })
}

/// The certificate of `node`, for the key that signed `csr`. Nothing else of the request is used.
///
/// # Errors
/// When the request is none, its signature is wrong, its key is no P-256 key, or the CA's PEM is bad.
pub fn sign_csr(ca: &Pair, csr: &str, cluster: ClusterUuid, node: NodeUuid) -> Result<String, TlsError> {
    let ca_key = KeyPair::from_pem(&ca.key).map_err(failed)?;
    let issuer = Issuer::from_ca_cert_pem(&ca.certificate, ca_key).map_err(failed)?;
    let request = CertificateSigningRequestParams::from_pem(csr).map_err(failed)?;
    if *request.public_key.algorithm() != PKCS_ECDSA_P256_SHA256 {
        return Err(TlsError::Make("the request's key is no P-256 key".to_owned()));
    }
    let certificate = node_params(cluster, node)?.signed_by(&request.public_key, &issuer).map_err(failed)?;
    Ok(certificate.pem())
}

/// A node's key and certificate in one go, for the first node.
///
/// # Errors
/// As [`sign_csr`].
pub fn make_node(ca: &Pair, cluster: ClusterUuid, node: NodeUuid) -> Result<Pair, TlsError> {
    let Request { csr, key } = make_csr()?;
    Ok(Pair { certificate: sign_csr(ca, &csr, cluster, node)?, key })
}

fn node_params(cluster: ClusterUuid, node: NodeUuid) -> Result<CertificateParams, TlsError> {
    let mut params = params(&format!("gantry node {node}"));
    let uri = node_uri(cluster, node).try_into().map_err(failed)?;
    let host = NODE_HOST.try_into().map_err(failed)?;
    params.subject_alt_names = vec![SanType::URI(uri), SanType::DnsName(host)];
    params.is_ca = IsCa::ExplicitNoCa;
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages =
        vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
    params.use_authority_key_identifier_extension = true;
    Ok(params)
}

/// The listener of an unjoined node, with a fresh self-signed certificate.
///
/// # Errors
/// When the machine has no randomness.
pub fn self_signed() -> Result<ServerTls, TlsError> {
    let key = key_pair()?;
    let certificate = params("gantry unjoined node").self_signed(&key).map_err(failed)?;
    server_config_unjoined(&certificate.pem(), &key.serialize_pem())
}
