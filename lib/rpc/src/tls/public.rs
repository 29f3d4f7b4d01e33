//! A listener for programs that are no nodes: it proves itself by the node's certificate and asks for one of the cluster's CA,
//! but also lets in who has none. What those may do is up to who listens.

use super::{Identity, TlsError, certificate_of, own_config, tune, verify, without_resumption};
use gantry_model::ids::ClusterUuid;
use std::io;
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
        let config = own_config(identity, |verifier| verifier.allow_unauthenticated())?;
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
