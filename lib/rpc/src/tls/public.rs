//! A listener for programs that are no nodes: it proves itself by the node's certificate and asks for one of the cluster's CA,
//! but also lets in who has none. What those may do is up to who listens.

use super::{Identity, TlsError, certificate_of, tune, verify, without_resumption};
use gantry_model::ids::ClusterUuid;
use rustls::server::WebPkiClientVerifier;
use rustls::{ServerConfig, version::TLS13};
use std::io;
use std::sync::Arc;
use tokio::net::TcpStream;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;

/// See the module. Clones share it.
#[derive(Clone)]
pub struct PublicTls {
    acceptor: TlsAcceptor,
    cluster: ClusterUuid,
}

impl PublicTls {
    /// Proves itself and trusts by `identity`.
    ///
    /// # Errors
    /// When key and certificate don't fit.
    pub fn new(identity: &Identity) -> Result<Self, TlsError> {
        let provider = Arc::clone(&identity.client.provider);
        let verifier =
            WebPkiClientVerifier::builder_with_provider(Arc::clone(&identity.roots), Arc::clone(&provider))
                .allow_unauthenticated()
                .build()
                .map_err(|error| TlsError::Make(error.to_string()))?;
        let config = ServerConfig::builder_with_provider(provider)
            .with_protocol_versions(&[&TLS13])?
            .with_client_cert_verifier(verifier)
            .with_single_cert(identity.chain.clone(), identity.key.clone_key())?;
        Ok(Self { acceptor: without_resumption(config), cluster: identity.cluster })
    }

    /// The server's half of the handshake; with the stream, whether the other side has a certificate of the cluster's CA. One
    /// that names a node of another cluster is none. Has no time limit; dropping it is fine.
    ///
    /// # Errors
    /// The handshake failed, such as by a certificate of another CA.
    pub async fn accept(&self, stream: TcpStream) -> io::Result<(TlsStream<TcpStream>, bool)> {
        tune(&stream)?;
        let stream = self.acceptor.accept(stream).await?;
        let certificate = certificate_of(stream.get_ref().1);
        // Its signature was checked in the handshake. The CA may have signed certificates of programs, which name no node.
        let ours = |certificate| verify::node_of(certificate).map_or(true, |(of, _)| of == self.cluster);
        let proved = certificate.is_some_and(ours);
        Ok((stream, proved))
    }
}
