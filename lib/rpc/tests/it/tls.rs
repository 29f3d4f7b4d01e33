//! Mutual TLS between nodes, and the way in for unjoined ones.

use crate::world::verbs::Echo;
use crate::world::{Lab, SOON, hello};
use gantry_model::ids::{ClusterUuid, NodeUuid};
use gantry_rpc::tls::ca::{self, Pair};
use gantry_rpc::tls::{self, Identity, ServerTls};
use gantry_rpc::{Call, Client, ConnectError, Handled, Hello, Limits, Peer, Service, serve_tls};
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

const CLUSTER: ClusterUuid = ClusterUuid(Uuid::from_u128(0xc1));
const MASTER: NodeUuid = NodeUuid(Uuid::from_u128(1));
const NODE: NodeUuid = NodeUuid(Uuid::from_u128(2));

/// Remembers whom it met.
struct Door {
    lab: Arc<Lab>,
    met: Mutex<Vec<Peer>>,
}

impl Service for Door {
    fn hello(&self) -> Hello {
        self.lab.hello()
    }

    fn accept(&self, peer: &Peer) -> Result<(), String> {
        self.met.lock().expect("not poisoned").push(peer.clone());
        Ok(())
    }

    fn handle(self: Arc<Self>, call: Call) -> Handled {
        Arc::clone(&self.lab).handle(call)
    }
}

async fn serve(tls: ServerTls) -> (SocketAddr, Arc<Door>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let addr = listener.local_addr().expect("bound");
    let door = Arc::new(Door { lab: Arc::new(Lab::new()), met: Mutex::default() });
    tokio::spawn(serve_tls(listener, tls, Arc::clone(&door), Limits::default(), CancellationToken::new()));
    (addr, door)
}

fn identity(ca: &Pair, cluster: ClusterUuid, node: NodeUuid) -> Identity {
    let Pair { certificate, key } = ca::make_node(ca, cluster, node).expect("made");
    Identity::from_pem(&certificate, &key, &ca.certificate).expect("sound")
}

#[tokio::test]
async fn members_prove_themselves_both_ways() {
    let authority = ca::make_ca(CLUSTER).expect("made");
    let (addr, door) = serve(tls::server_config(&identity(&authority, CLUSTER, NODE)).expect("sound")).await;
    let master = identity(&authority, CLUSTER, MASTER);
    assert_eq!((master.cluster(), master.node()), (CLUSTER, MASTER));
    let client = Client::tls(addr, &hello(), &master, NODE).await.expect("connects");
    assert_eq!(client.call::<Echo>(&vec![1], SOON).await, Ok(vec![1]));
    let large = vec![7; 300_000];
    assert_eq!(client.call::<Echo>(&large, SOON).await, Ok(large));
    let met = door.met.lock().expect("not poisoned").clone();
    assert_eq!(met[0].node, Some((CLUSTER, MASTER)));
    assert!(client.exporter().is_some());
    assert_eq!(met[0].exporter, client.exporter());
}

#[tokio::test]
async fn another_node_is_not_the_wanted_one() {
    let authority = ca::make_ca(CLUSTER).expect("made");
    let (addr, _door) = serve(tls::server_config(&identity(&authority, CLUSTER, NODE)).expect("sound")).await;
    let master = identity(&authority, CLUSTER, MASTER);
    let failed = Client::tls(addr, &hello(), &master, MASTER).await.expect_err("another node");
    let ConnectError::WrongPeer { wanted, found } = failed else { panic!("{failed:?}") };
    assert_eq!((wanted, found), (tls::node_uri(CLUSTER, MASTER), tls::node_uri(CLUSTER, NODE)));
}

#[tokio::test]
async fn strangers_are_kept_out() {
    let authority = ca::make_ca(CLUSTER).expect("made");
    let node = identity(&authority, CLUSTER, NODE);
    let (addr, door) = serve(tls::server_config(&node).expect("sound")).await;
    // A cluster of the same name with a CA of its own.
    let forger = ca::make_ca(CLUSTER).expect("made");
    let stranger = identity(&forger, CLUSTER, MASTER);
    assert!(Client::tls(addr, &hello(), &stranger, NODE).await.is_err());
    // It trusts our CA, but its own certificate is not of it.
    let Pair { certificate, key } = ca::make_node(&forger, CLUSTER, MASTER).expect("made");
    let half = Identity::from_pem(&certificate, &key, &authority.certificate).expect("sound");
    assert!(Client::tls(addr, &hello(), &half, NODE).await.is_err());
    // Our CA signed a name of another cluster.
    let other = identity(&authority, ClusterUuid(Uuid::from_u128(9)), MASTER);
    assert!(Client::tls(addr, &hello(), &other, NODE).await.is_err());
    // No certificate at all.
    assert!(Client::tls_join(addr, &hello()).await.is_err());
    // The CA's own certificate is no node's.
    assert!(Identity::from_pem(&authority.certificate, &authority.key, &authority.certificate).is_err());
    assert!(door.met.lock().expect("not poisoned").is_empty());
}

#[tokio::test]
async fn a_server_of_another_ca_is_not_believed() {
    let authority = ca::make_ca(CLUSTER).expect("made");
    let forger = ca::make_ca(CLUSTER).expect("made");
    let (addr, _door) = serve(tls::server_config(&identity(&forger, CLUSTER, NODE)).expect("sound")).await;
    let master = identity(&authority, CLUSTER, MASTER);
    let failed = Client::tls(addr, &hello(), &master, NODE).await.expect_err("not believed");
    assert!(matches!(failed, ConnectError::Distrust(_)), "{failed:?}");
}

/// Who lives and who is silent is not the same to those who ask before they do what can't be undone.
#[tokio::test]
async fn certificates_of_another_ca_are_told_from_silence() {
    let authority = ca::make_ca(CLUSTER).expect("made");
    let forger = ca::make_ca(CLUSTER).expect("made");
    let (addr, _door) = serve(tls::server_config(&identity(&authority, CLUSTER, NODE)).expect("sound")).await;
    // It trusts the server's CA, as after a renewal half done, and its own certificate is of another.
    let Pair { certificate, key } = ca::make_node(&forger, CLUSTER, MASTER).expect("made");
    let half = Identity::from_pem(&certificate, &key, &authority.certificate).expect("sound");
    for _ in 0..50 {
        let failed = Client::tls(addr, &hello(), &half, NODE).await.expect_err("kept out");
        assert!(matches!(failed, ConnectError::Distrust(_)), "{failed:?}");
    }
    // Another node of another CA says nothing of the one that is wanted.
    let failed = Client::tls(addr, &hello(), &identity(&forger, CLUSTER, MASTER), MASTER).await;
    let failed = failed.expect_err("another node");
    assert!(matches!(failed, ConnectError::Io(_)), "{failed:?}");
    // Nor does one that is not joined yet, whose certificate proves nothing.
    let (addr, _door) = serve(ca::self_signed().expect("made")).await;
    let failed = Client::tls(addr, &hello(), &identity(&authority, CLUSTER, MASTER), NODE).await;
    let failed = failed.expect_err("not a member");
    assert!(matches!(failed, ConnectError::Io(_)), "{failed:?}");
}

#[tokio::test]
async fn unjoined_nodes_share_an_exporter_with_their_caller() {
    let (addr, door) = serve(ca::self_signed().expect("made")).await;
    let one = Client::tls_join(addr, &hello()).await.expect("connects");
    let two = Client::tls_join(addr, &hello()).await.expect("connects");
    let met = door.met.lock().expect("not poisoned").clone();
    assert_eq!(met[0].node, None);
    assert_eq!((met[0].exporter, met[1].exporter), (one.exporter(), two.exporter()));
    assert_ne!(one.exporter(), two.exporter());
    // A member does not take an unjoined node for another member.
    let authority = ca::make_ca(CLUSTER).expect("made");
    let master = identity(&authority, CLUSTER, MASTER);
    assert!(Client::tls(addr, &hello(), &master, NODE).await.is_err());
}

#[tokio::test]
async fn tls_1_2_is_not_spoken() {
    use rustls::{ClientConfig, RootCertStore, version::TLS12};
    let authority = ca::make_ca(CLUSTER).expect("made");
    let (addr, _door) = serve(tls::server_config(&identity(&authority, CLUSTER, NODE)).expect("sound")).await;
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&TLS12])
        .expect("known")
        .with_root_certificates(RootCertStore::empty())
        .with_no_client_auth();
    let stream = tokio::net::TcpStream::connect(addr).await.expect("connects");
    let name = rustls::pki_types::ServerName::IpAddress(addr.ip().into());
    let failed = tokio_rustls::TlsConnector::from(Arc::new(config)).connect(name, stream).await;
    assert!(failed.expect_err("refused").to_string().contains("ProtocolVersion"));
}

#[test]
fn who_signs_fills_in_the_name() {
    use rcgen::{CertificateParams, KeyPair, SanType};
    let authority = ca::make_ca(CLUSTER).expect("made");
    let key = KeyPair::generate().expect("made");
    let mut greedy = CertificateParams::new(vec!["example.org".to_owned()]).expect("a name");
    let uri = tls::node_uri(CLUSTER, MASTER);
    greedy.subject_alt_names.push(SanType::URI(uri.as_str().try_into().expect("ASCII")));
    greedy.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    let csr = greedy.serialize_request(&key).expect("made").pem().expect("PEM");
    let signed = ca::sign_csr(&authority, &csr, CLUSTER, NODE).expect("signed");
    let identity = Identity::from_pem(&signed, &key.serialize_pem(), &authority.certificate).expect("sound");
    assert_eq!(identity.node(), NODE);
    assert!(ca::sign_csr(&authority, "no request", CLUSTER, NODE).is_err());
    let p384 = KeyPair::generate_for(&rcgen::PKCS_ECDSA_P384_SHA384).expect("made");
    let csr = CertificateParams::default().serialize_request(&p384).expect("made").pem().expect("PEM");
    assert!(ca::sign_csr(&authority, &csr, CLUSTER, NODE).is_err());
}

#[test]
fn an_identity_is_read_from_files() {
    let dir = tempfile::tempdir().expect("a directory");
    assert!(Identity::load(dir.path()).expect_err("nothing there").to_string().contains("node.pem"));
    let authority = ca::make_ca(CLUSTER).expect("made");
    let Pair { certificate, key } = ca::make_node(&authority, CLUSTER, NODE).expect("made");
    for (name, text) in
        [(tls::NODE_PEM, &certificate), (tls::NODE_KEY, &key), (tls::CA_PEM, &authority.certificate)]
    {
        std::fs::write(dir.path().join(name), text).expect("written");
    }
    assert_eq!(Identity::load(dir.path()).expect("sound").node(), NODE);
}

/// A node whose files are `pair` and a trust in `roots`.
fn trusting(pair: &Pair, roots: &[&Pair]) -> Identity {
    let roots: String = roots.iter().map(|root| root.certificate.as_str()).collect();
    Identity::from_pem(&pair.certificate, &pair.key, &roots).expect("sound")
}

#[tokio::test]
async fn a_listener_is_renewed_under_a_standing_connection_and_the_old_authority_is_refused_at_the_end() {
    let (old, new) = (ca::make_ca(CLUSTER).expect("made"), ca::make_ca(CLUSTER).expect("made"));
    let made = |ca: &Pair, node| ca::make_node(ca, CLUSTER, node).expect("made");
    let (node_old, node_new) = (made(&old, NODE), made(&new, NODE));
    let (master_old, master_new) = (made(&old, MASTER), made(&new, MASTER));
    let tls = tls::server_config(&trusting(&node_old, &[&old])).expect("sound");
    let (addr, _door) = serve(tls.clone()).await;
    let before = trusting(&master_old, &[&old]);
    let standing = Client::tls(addr, &hello(), &before, NODE).await.expect("connects");
    let renewed = trusting(&master_new, &[&old, &new]);
    assert!(Client::tls(addr, &hello(), &renewed, NODE).await.is_err(), "nobody trusts the new one yet");

    tls.renew(&trusting(&node_old, &[&old, &new])).expect("trusts both");
    Client::tls(addr, &hello(), &before, NODE).await.expect("the old certificate");
    Client::tls(addr, &hello(), &renewed, NODE).await.expect("the new certificate");
    tls.renew(&trusting(&node_new, &[&old, &new])).expect("has a new certificate");
    Client::tls(addr, &hello(), &trusting(&master_old, &[&old, &new]), NODE).await.expect("trusts both");
    assert!(Client::tls(addr, &hello(), &before, NODE).await.is_err(), "trusts the old one only");

    tls.renew(&trusting(&node_new, &[&new])).expect("drops the old one");
    Client::tls(addr, &hello(), &trusting(&master_new, &[&new]), NODE).await.expect("connects");
    let stolen = trusting(&master_old, &[&old, &new]);
    assert!(Client::tls(addr, &hello(), &stolen, NODE).await.is_err(), "the old certificate is refused");
    assert_eq!(standing.call::<Echo>(&vec![1], SOON).await, Ok(vec![1]), "never dropped");
}

#[test]
fn certificate_and_key_in_one_file_are_replaced_by_one_rename() {
    let dir = tempfile::tempdir().expect("a directory");
    let authority = ca::make_ca(CLUSTER).expect("made");
    let write = |name: &str, text: &str| std::fs::write(dir.path().join(name), text).expect("written");
    let pair = ca::make_node(&authority, CLUSTER, NODE).expect("made");
    write(tls::CA_PEM, &authority.certificate);
    write(tls::NODE_PEM, &format!("{}{}", pair.certificate, pair.key));
    // Of the certificate before: a crash left it.
    write(tls::NODE_KEY, &ca::make_node(&authority, CLUSTER, NODE).expect("made").key);
    let identity = Identity::load(dir.path()).expect("sound");
    tls::server_config(&identity).expect("key and certificate fit");
}
