//! Mutual TLS 1.3 between nodes (DESIGN §4). A certificate names `gantry:CLUSTERUUID/NODEUUID` in a URI; peers
//! check that name and the cluster's CA, never host names. Sessions are not resumed: each connection proves anew.

#[cfg(feature = "ca")]
pub mod ca;
#[cfg(feature = "ca")]
pub mod facts;
mod public;
mod verify;

pub use public::PublicTls;

use crate::client::{Below, Client};
use crate::error::ConnectError;
use crate::serve::Facts;
use gantry_model::ids::{ClusterUuid, NodeUuid};
use gantry_proto::hello::Hello;
use rustls::client::verify_server_cert_signed_by_trust_anchor;
use rustls::crypto::CryptoProvider;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::server::{
    ClientCertVerifierBuilder, NoServerSessionStorage, ParsedCertificate, WebPkiClientVerifier,
};
use rustls::{AlertDescription, ClientConfig, RootCertStore, ServerConfig, version::TLS13};
use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;
use tokio::net::TcpStream;

/// Label of the exporter that binds join proofs to their connection.
const EXPORTER_LABEL: &[u8] = b"EXPORTER-gantry-join";

/// A silent peer is probed after this many seconds, then at [`PROBE_EVERY_S`], and given up after [`PROBES`]:
/// a dead machine is noticed within half a minute, before a lease is lost to it.
const PROBE_AFTER_S: u32 = 10;
const PROBE_EVERY_S: u32 = 5;
const PROBES: u32 = 3;

/// How long sent bytes may stay unacknowledged.
const UNACKED_MS: u32 = 25_000;

/// File names in `secrets/`.
pub const CA_PEM: &str = "ca.pem";
/// The CA's key, with its certificate or without; on master candidates only.
pub const CA_KEY: &str = "ca.key";
/// The key of the CA that a renewal changes to, on the master that made it, until it is [`CA_KEY`].
pub const NEXT_KEY: &str = "next-ca.key";
/// This node's certificate.
pub const NODE_PEM: &str = "node.pem";
/// This node's key.
pub const NODE_KEY: &str = "node.key";

/// A host name that every node's certificate has beside its own URI, for programs that check host names: who trusts the
/// cluster's CA alone and wants this name speaks to a node of the cluster. Nodes themselves ignore it.
pub const NODE_HOST: &str = "node.gantry.internal";

/// Why keys and certificates can't be used.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// A file can't be read.
    #[error("can't read {}", path.display())]
    Read {
        /// Which.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// A PEM text is none, or not of what it should be.
    #[error("bad PEM of the {what}: {why}")]
    Pem {
        /// Of what.
        what: &'static str,
        /// Why.
        why: String,
    },
    /// A certificate does not name a cluster and node.
    #[error("bad certificate: {0}")]
    Name(String),
    /// rustls does not take them.
    #[error("keys and certificates do not fit")]
    Rustls(#[from] rustls::Error),
    /// Making or signing failed.
    #[error("can't make a certificate: {0}")]
    Make(String),
}

/// A node's certificate, its key, and the CA it trusts.
#[derive(Clone)]
pub struct Identity {
    cluster: ClusterUuid,
    node: NodeUuid,
    chain: Vec<CertificateDer<'static>>,
    key: Arc<PrivateKeyDer<'static>>,
    roots: Arc<RootCertStore>,
    client: Arc<ClientParts>,
}

/// What every outgoing connection shares; the wanted node differs.
struct ClientParts {
    provider: Arc<CryptoProvider>,
}

impl std::fmt::Debug for Identity {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Identity({})", node_uri(self.cluster, self.node))
    }
}

impl Identity {
    /// Reads `node.pem`, `node.key` and `ca.pem` in `secrets`. Blocks for three small reads. A key that stands in
    /// `node.pem` itself counts, not `node.key`: so both are replaced by one rename.
    ///
    /// # Errors
    /// When one is missing or they don't fit.
    pub fn load(secrets: &Path) -> Result<Self, TlsError> {
        let (certificate, key) = own(secrets)?;
        Self::from_pem(&certificate, &key, &read(secrets, CA_PEM)?)
    }

    /// From PEM texts. The cluster and node are those the certificate names.
    ///
    /// # Errors
    /// When they are no PEM or don't fit.
    pub fn from_pem(certificate: &str, key: &str, ca: &str) -> Result<Self, TlsError> {
        let chain = certificates("node certificate", certificate)?;
        let key = PrivateKeyDer::from_pem_slice(key.as_bytes()).map_err(pem_error("node key"))?;
        let mut roots = RootCertStore::empty();
        for root in certificates("CA", ca)? {
            roots.add(root)?;
        }
        let (cluster, node) = verify::node_of(&chain[0]).map_err(TlsError::Name)?;
        let client = Arc::new(ClientParts { provider: provider() });
        Ok(Self { cluster, node, chain, key: Arc::new(key), roots: Arc::new(roots), client })
    }

    /// Reads the certificate and key in `secrets`, with the trust that `ca` would give. Blocks for two small reads.
    ///
    /// # Errors
    /// When one is missing or they don't fit.
    pub fn load_trusting(secrets: &Path, ca: &str) -> Result<Self, TlsError> {
        let (certificate, key) = own(secrets)?;
        Self::from_pem(&certificate, &key, ca)
    }

    /// Whether one of the CAs that it trusts signed its own certificate: who shares its trust believes it.
    ///
    /// # Errors
    /// When none did.
    pub fn check_signed(&self) -> Result<(), TlsError> {
        let parsed = ParsedCertificate::try_from(&self.chain[0])?;
        let algorithms = self.client.provider.signature_verification_algorithms.all;
        Ok(verify_server_cert_signed_by_trust_anchor(&parsed, &self.roots, &[], UnixTime::now(), algorithms)?)
    }

    /// The cluster this identity belongs to.
    #[must_use]
    pub fn cluster(&self) -> ClusterUuid {
        self.cluster
    }

    /// The node this identity is.
    #[must_use]
    pub fn node(&self) -> NodeUuid {
        self.node
    }

    fn client_config(&self, wanted: NodeUuid) -> Result<ClientConfig, TlsError> {
        let provider = Arc::clone(&self.client.provider);
        let verifier =
            verify::Member::new(Arc::clone(&provider), Arc::clone(&self.roots), self.cluster, wanted);
        let mut config = ClientConfig::builder_with_provider(provider)
            .with_protocol_versions(&[&TLS13])?
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(verifier))
            .with_client_auth_cert(self.chain.clone(), self.key.clone_key())?;
        config.resumption = rustls::client::Resumption::disabled();
        Ok(config)
    }
}

fn read(secrets: &Path, name: &str) -> Result<String, TlsError> {
    let path = secrets.join(name);
    std::fs::read_to_string(&path).map_err(|source| TlsError::Read { path, source })
}

/// A node's own certificate and key.
fn own(secrets: &Path) -> Result<(String, String), TlsError> {
    let certificate = read(secrets, NODE_PEM)?;
    let key = if has_key(&certificate) { certificate.clone() } else { read(secrets, NODE_KEY)? };
    Ok((certificate, key))
}

/// Whether a PEM text has a private key in it.
fn has_key(pem: &str) -> bool {
    PrivateKeyDer::from_pem_slice(pem.as_bytes()).is_ok()
}

/// How a TLS listener proves itself and whom it lets in. Clones share it.
#[derive(Clone)]
pub struct ServerTls {
    acceptor: Arc<RwLock<tokio_rustls::TlsAcceptor>>,
    /// None: an unjoined node, which asks for no certificate.
    cluster: Option<ClusterUuid>,
}

/// A member's listener: only nodes of the same cluster get in.
///
/// # Errors
/// When key and certificate don't fit.
pub fn server_config(identity: &Identity) -> Result<ServerTls, TlsError> {
    let config = member_config(identity)?;
    Ok(ServerTls { acceptor: acceptor(config), cluster: Some(identity.cluster) })
}

fn member_config(identity: &Identity) -> Result<ServerConfig, TlsError> {
    own_config(identity, |verifier| verifier)
}

/// Proves itself by `identity`, and takes from clients certificates of the CAs that it trusts; `strict` may ask for less.
fn own_config(
    identity: &Identity,
    strict: impl FnOnce(ClientCertVerifierBuilder) -> ClientCertVerifierBuilder,
) -> Result<ServerConfig, TlsError> {
    let provider = Arc::clone(&identity.client.provider);
    let builder =
        WebPkiClientVerifier::builder_with_provider(Arc::clone(&identity.roots), Arc::clone(&provider));
    let verifier = strict(builder).build().map_err(|error| TlsError::Make(error.to_string()))?;
    let config = ServerConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&TLS13])?
        .with_client_cert_verifier(verifier)
        .with_single_cert(identity.chain.clone(), identity.key.clone_key())?;
    Ok(config)
}

/// An unjoined node's listener: proves itself with `certificate`, asks for none.
///
/// # Errors
/// When key and certificate don't fit.
pub fn server_config_unjoined(certificate: &str, key: &str) -> Result<ServerTls, TlsError> {
    let chain = certificates("certificate", certificate)?;
    let key = PrivateKeyDer::from_pem_slice(key.as_bytes()).map_err(pem_error("key"))?;
    let config = ServerConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&TLS13])?
        .with_no_client_auth()
        .with_single_cert(chain, key)?;
    Ok(ServerTls { acceptor: acceptor(config), cluster: None })
}

fn acceptor(config: ServerConfig) -> Arc<RwLock<tokio_rustls::TlsAcceptor>> {
    Arc::new(RwLock::new(without_resumption(config)))
}

fn without_resumption(mut config: ServerConfig) -> tokio_rustls::TlsAcceptor {
    config.send_tls13_tickets = 0;
    config.session_storage = Arc::new(NoServerSessionStorage {});
    tokio_rustls::TlsAcceptor::from(Arc::new(config))
}

impl ServerTls {
    /// New connections prove and trust by `identity` from now on; those that stand are left alone.
    ///
    /// # Errors
    /// When key and certificate don't fit; all is then as before.
    pub fn renew(&self, identity: &Identity) -> Result<(), TlsError> {
        let renewed = without_resumption(member_config(identity)?);
        *self.acceptor.write().unwrap_or_else(PoisonError::into_inner) = renewed;
        Ok(())
    }

    /// The server's half of the handshake.
    pub(crate) async fn accept(
        &self,
        stream: TcpStream,
    ) -> io::Result<(tokio_rustls::server::TlsStream<TcpStream>, Facts)> {
        tune(&stream)?;
        let acceptor = self.acceptor.read().unwrap_or_else(PoisonError::into_inner).clone();
        let stream = acceptor.accept(stream).await?;
        let (_, session) = stream.get_ref();
        let mut facts = Facts { exporter: exporter(session)?, ..Facts::default() };
        if let Some(ours) = self.cluster {
            let certificate = certificate_of(session).ok_or_else(|| denied("no certificate"))?;
            let (cluster, node) = verify::node_of(certificate).map_err(denied)?;
            if cluster != ours {
                return Err(denied(format!("a certificate of cluster {cluster}")));
            }
            facts.node = Some((cluster, node));
        }
        Ok((stream, facts))
    }
}

impl Client {
    /// Connects to node `node` at `addr` and proves both sides, within [`crate::CONNECT_MS`].
    ///
    /// # Errors
    /// [`ConnectError::WrongPeer`] when another node answers; see [`ConnectError`].
    pub async fn tls(
        addr: SocketAddr,
        hello: &Hello,
        tls: &Identity,
        node: NodeUuid,
    ) -> Result<Client, ConnectError> {
        let config = tls.client_config(node).map_err(|error| ConnectError::Io(io::Error::other(error)))?;
        connect(addr, hello, config).await
    }

    /// Connects to an unjoined node, whose certificate proves nothing: who it is must be proved by the join secret
    /// over [`Client::exporter`].
    ///
    /// # Errors
    /// See [`ConnectError`].
    pub async fn tls_join(addr: SocketAddr, hello: &Hello) -> Result<Client, ConnectError> {
        let provider = provider();
        let config = ClientConfig::builder_with_provider(Arc::clone(&provider))
            .with_protocol_versions(&[&TLS13])
            .map_err(|error| ConnectError::Io(io::Error::other(error)))?
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(verify::Anybody::new(provider)))
            .with_no_client_auth();
        connect(addr, hello, config).await
    }
}

async fn connect(addr: SocketAddr, hello: &Hello, config: ClientConfig) -> Result<Client, ConnectError> {
    let connected = async {
        let stream = TcpStream::connect(addr).await.map_err(ConnectError::Io)?;
        tune(&stream).map_err(ConnectError::Io)?;
        // No host names here: the verifier looks at the node's URI instead.
        let name = ServerName::IpAddress(addr.ip().into());
        let connector = tokio_rustls::TlsConnector::from(Arc::new(config));
        let stream = connector.connect(name, stream).await.map_err(handshake_error)?;
        let exporter = exporter(stream.get_ref().1).map_err(ConnectError::Io)?;
        let greeted = Client::greet(stream, hello, Below { cred: None, exporter }).await;
        greeted.map_err(|error| match error {
            ConnectError::Io(error) => match alert_error(error) {
                // It came instead of a hello.
                ConnectError::Io(error) if alert(&error).is_some() => ConnectError::Hello(error.to_string()),
                other => other,
            },
            other => other,
        })
    };
    let limit = Duration::from_millis(crate::CONNECT_MS);
    tokio::time::timeout(limit, connected).await.unwrap_or(Err(ConnectError::TimedOut))
}

/// Picks the verifier's word out of a failed handshake.
fn handshake_error(error: io::Error) -> ConnectError {
    if let Some((wanted, found)) = of_rustls(&error).and_then(verify::wrong_peer) {
        return ConnectError::WrongPeer { wanted, found };
    }
    match of_rustls(&error).and_then(verify::other_ca) {
        Some(why) => ConnectError::Distrust(why),
        None => alert_error(error),
    }
}

/// What the other side said when it ended the connection: in TLS 1.3 it may judge a certificate after the handshake is over here.
fn alert_error(error: io::Error) -> ConnectError {
    match alert(&error) {
        // Also of an expired one, and of one that it can't read: it lives, and does not let this node in.
        Some(
            AlertDescription::UnknownCA
            | AlertDescription::BadCertificate
            | AlertDescription::UnsupportedCertificate
            | AlertDescription::CertificateRevoked
            | AlertDescription::CertificateExpired
            | AlertDescription::CertificateUnknown
            | AlertDescription::DecryptError
            | AlertDescription::AccessDenied,
        ) => ConnectError::Distrust(format!("it does not believe this node's: {error}")),
        Some(_) | None => ConnectError::Io(error),
    }
}

/// The reason with which the other side ended a connection.
pub(crate) fn alert(error: &io::Error) -> Option<AlertDescription> {
    match of_rustls(error)? {
        rustls::Error::AlertReceived(why) => Some(*why),
        _ => None,
    }
}

fn of_rustls(error: &io::Error) -> Option<&rustls::Error> {
    error.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>())
}

/// The peer's own certificate.
fn certificate_of<Data>(session: &rustls::ConnectionCommon<Data>) -> Option<&CertificateDer<'static>> {
    session.peer_certificates()?.first()
}

/// The URI that names a node.
#[must_use]
pub fn node_uri(cluster: ClusterUuid, node: NodeUuid) -> String {
    format!("gantry:{cluster}/{node}")
}

fn provider() -> Arc<CryptoProvider> {
    Arc::new(rustls::crypto::ring::default_provider())
}

fn exporter<Data>(session: &rustls::ConnectionCommon<Data>) -> io::Result<Option<[u8; 32]>> {
    session.export_keying_material([0; 32], EXPORTER_LABEL, None).map(Some).map_err(io::Error::other)
}

fn denied(why: impl Into<String>) -> io::Error {
    io::Error::new(io::ErrorKind::PermissionDenied, why.into())
}

/// No waiting to gather small packets; a dead machine is noticed.
fn tune(stream: &TcpStream) -> io::Result<()> {
    use nix::sys::socket::{setsockopt, sockopt};
    stream.set_nodelay(true)?;
    setsockopt(stream, sockopt::KeepAlive, &true)?;
    setsockopt(stream, sockopt::TcpKeepIdle, &PROBE_AFTER_S)?;
    setsockopt(stream, sockopt::TcpKeepInterval, &PROBE_EVERY_S)?;
    setsockopt(stream, sockopt::TcpKeepCount, &PROBES)?;
    setsockopt(stream, sockopt::TcpUserTimeout, &UNACKED_MS)?;
    Ok(())
}

fn pem_error<E: std::fmt::Display>(what: &'static str) -> impl Fn(E) -> TlsError {
    move |error| TlsError::Pem { what, why: error.to_string() }
}

/// All certificates of a PEM text, at least one.
fn certificates(what: &'static str, pem: &str) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let all: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(pem.as_bytes()).collect();
    let all = all.map_err(pem_error(what))?;
    if all.is_empty() {
        return Err(TlsError::Pem { what, why: "no certificate in it".to_owned() });
    }
    Ok(all)
}
