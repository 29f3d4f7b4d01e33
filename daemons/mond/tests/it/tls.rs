//! The TLS listener with real certificates: who gets in, and that what is renewed counts at once.

use crate::stage::{Got, Mond, Stage, free, receive, send, until};
use gantry_model::ids::{ClusterUuid, NodeUuid};
use gantry_rpc::tls::ca::{self, Pair};
use gantry_rpc::tls::{CA_PEM, NODE_HOST, NODE_KEY, NODE_PEM};
use gantry_rt::files::atomic_write;
use rustls::crypto::ring::default_provider;
use rustls::{ClientConfig, ClientConnection, RootCertStore, StreamOwned};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use std::io::{self, Read};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::sync::Arc;
use uuid::Uuid;

const CLUSTER: ClusterUuid = ClusterUuid(Uuid::from_u128(6));
const NODE: NodeUuid = NodeUuid(Uuid::from_u128(5));
const OTHER: NodeUuid = NodeUuid(Uuid::from_u128(7));
const TOKEN: &str = "0123456789abcdef0123456789abcdef";

/// A node with a certificate and a token.
struct Site {
    stage: Stage,
    authority: Pair,
    /// Of the TLS listener.
    address: SocketAddr,
    tokens: PathBuf,
}

impl Site {
    fn new(more: &str) -> Self {
        let (stage, authority, address) = (Stage::new(), ca::make_ca(CLUSTER).unwrap(), free());
        let tokens = stage.path().join("tokens");
        let port = address.port();
        let table = format!("[mond]\ntls_port = {port}\ntoken_file = \"{}\"\n{more}\n", tokens.display());
        let site = Self { stage: stage.settings(&table), authority, address, tokens };
        site.token(TOKEN);
        site.store(&site.authority, &site.member(NODE));
        site
    }

    /// A certificate of the cluster.
    fn member(&self, node: NodeUuid) -> Pair {
        ca::make_node(&self.authority, CLUSTER, node).unwrap()
    }

    /// As noded does at a join and a renewal.
    fn store(&self, trusted: &Pair, own: &Pair) {
        let write = |name: &str, text: &str| {
            atomic_write(&self.stage.root.secrets().join(name), text.as_bytes(), 0o600).unwrap();
        };
        write(CA_PEM, &trusted.certificate);
        write(NODE_PEM, &format!("{}{}", own.certificate, own.key));
    }

    fn token(&self, token: &str) {
        atomic_write(&self.tokens, format!("# of a test\n{token}\n").as_bytes(), 0o600).unwrap();
    }

    /// Who trusts the cluster's CA.
    fn guest(&self, own: Option<&Pair>) -> Guest {
        Guest::new(self.address, &self.authority, own)
    }
}

/// A program that checks host names, as others do.
struct Guest {
    address: SocketAddr,
    config: Arc<ClientConfig>,
}

impl Guest {
    fn new(address: SocketAddr, trusted: &Pair, own: Option<&Pair>) -> Self {
        let mut roots = RootCertStore::empty();
        roots.add(CertificateDer::from_pem_slice(trusted.certificate.as_bytes()).unwrap()).unwrap();
        let config = ClientConfig::builder_with_provider(Arc::new(default_provider()))
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(roots);
        let config = match own {
            None => config.with_no_client_auth(),
            Some(Pair { certificate, key }) => {
                let chain = vec![CertificateDer::from_pem_slice(certificate.as_bytes()).unwrap()];
                let key = PrivateKeyDer::from_pem_slice(key.as_bytes()).unwrap();
                config.with_client_auth_cert(chain, key).unwrap()
            }
        };
        Self { address, config: Arc::new(config) }
    }

    fn over(&self, mut tcp: TcpStream) -> io::Result<StreamOwned<ClientConnection, TcpStream>> {
        let name = NODE_HOST.try_into().unwrap();
        let mut tls = ClientConnection::new(Arc::clone(&self.config), name).map_err(io::Error::other)?;
        while tls.is_handshaking() {
            tls.complete_io(&mut tcp)?;
        }
        Ok(StreamOwned::new(tls, tcp))
    }

    fn connect(&self) -> io::Result<StreamOwned<ClientConnection, TcpStream>> {
        let tcp = TcpStream::connect(self.address)?;
        tcp.set_read_timeout(Some(crate::stage::LIMIT))?;
        self.over(tcp)
    }

    /// The answer to a GET; None: no handshake, or it was closed without one.
    fn get(&self, target: &str, headers: &str) -> Option<Got> {
        let mut stream = self.connect().ok()?;
        send(&mut stream, "GET", target, headers);
        // TLS 1.3 lets a client speak before the server has looked at its certificate.
        stream.conn.complete_io(&mut stream.sock).ok()?;
        Some(receive(&mut stream, false))
    }

    fn status(&self, headers: &str) -> Option<u16> {
        self.get("/", headers).map(|got| got.status)
    }
}

fn bearer(token: &str) -> String {
    format!("Authorization: Bearer {token}\r\n")
}

/// Waits for what a guest gets, as the first look at a changed file may be of a moment before.
fn gets(what: &str, guest: &Guest, headers: &str, status: Option<u16>) {
    until(what, || (guest.status(headers) == status).then_some(()));
}

#[test]
fn a_token_or_a_certificate_of_the_cluster_lets_in() {
    let site = Site::new("");
    let mond = site.stage.mond(None);
    let nobody = site.guest(None);
    let got = until("the TLS listener", || nobody.get("/1/report/all", ""));
    assert_eq!((got.status, got.header("www-authenticate")), (401, Some("Bearer realm=\"gantry-mond\"")));
    assert!(got.body.contains("must prove itself") && got.body.contains("token_file"), "{}", got.body);
    for wrong in
        [bearer("fedcba9876543210fedcba9876543210"), bearer(&TOKEN[1..]), "Authorization: Basic x\r\n".into()]
    {
        let got = nobody.get("/metrics", &wrong).unwrap();
        let challenge = "Bearer realm=\"gantry-mond\", error=\"invalid_token\"";
        assert_eq!((got.status, got.header("www-authenticate")), (401, Some(challenge)), "{wrong}");
        assert!(!got.body.contains(TOKEN), "{}", got.body);
    }
    let got = nobody.get("/", &bearer(TOKEN)).unwrap();
    assert_eq!((got.status, got.body.as_str(), got.header("www-authenticate")), (200, "[1]", None));
    // A certificate of the cluster's CA needs no token.
    let member = site.member(OTHER);
    assert_eq!(site.guest(Some(&member)).get("/1", "").unwrap().body, "null");
    // One of another CA gets no handshake, whatever the token; one that names another cluster counts for nothing.
    let foreign = ca::make_node(&ca::make_ca(CLUSTER).unwrap(), CLUSTER, OTHER).unwrap();
    assert_eq!(site.guest(Some(&foreign)).status(&bearer(TOKEN)), None);
    let other = ca::make_node(&site.authority, ClusterUuid(Uuid::from_u128(9)), OTHER).unwrap();
    assert_eq!(site.guest(Some(&other)).status(""), Some(401));
    // Plain HTTP is as it was, and no HTTP where TLS is spoken.
    assert_eq!(mond.get("/").body, "[1]");
    let mut plain = TcpStream::connect(site.address).unwrap();
    plain.set_read_timeout(Some(crate::stage::LIMIT)).unwrap();
    send(&mut plain, "GET", "/", "");
    let mut said = Vec::new();
    let _ = plain.read_to_end(&mut said);
    assert!(!said.starts_with(b"HTTP"), "{}", String::from_utf8_lossy(&said));
    let counted = until("it is counted", || {
        let text = mond.get("/metrics").body;
        text.contains("gantry_mond_failed_handshakes_total{daemon=\"mond\"} 2").then_some(text)
    });
    assert!(counted.contains("gantry_mond_requests_total{status=\"401\",daemon=\"mond\"} 5"), "{counted}");
}

#[test]
fn a_renewed_certificate_counts_without_a_restart() {
    let mut site = Site::new("");
    let mond = site.stage.mond(None);
    let shown = |guest: &Guest| {
        let stream = guest.connect().ok()?;
        Some(stream.conn.peer_certificates()?.first()?.to_vec())
    };
    let der = |pair: &Pair| CertificateDer::from_pem_slice(pair.certificate.as_bytes()).unwrap().to_vec();
    let guest = site.guest(None);
    let before = until("it listens", || shown(&guest));
    // New certificates alone.
    let renewed = site.member(NODE);
    site.store(&site.authority, &renewed);
    let guest = site.guest(None);
    until("it shows the new one", || (shown(&guest)? == der(&renewed)).then_some(()));
    assert_ne!(before, der(&renewed));
    // A new CA: who has a certificate of the old one is a stranger.
    let old = site.member(OTHER);
    assert_eq!(site.guest(Some(&old)).status(""), Some(200));
    let old_guest = site.guest(None);
    site.authority = ca::make_ca(CLUSTER).unwrap();
    let renewed = site.member(NODE);
    site.store(&site.authority, &renewed);
    let (new_guest, late) = (site.guest(Some(&site.member(OTHER))), site.guest(Some(&old)));
    gets("the new CA counts", &new_guest, "", Some(200));
    gets("the old CA does not", &late, "", None);
    assert!(old_guest.connect().is_err(), "it shows a certificate of the old CA");
    // A certificate that can't be read: the last one holds.
    let path = site.stage.root.secrets().join(NODE_PEM);
    atomic_write(&path, b"half a renewal", 0o600).unwrap();
    assert_eq!(new_guest.status(""), Some(200));
    assert_eq!(mond.get("/").status, 200);
}

#[test]
fn a_node_without_a_certificate_tells_in_plain_and_takes_one_up_later() {
    let site = Site::new("");
    let pair = site.member(NODE);
    for name in [CA_PEM, NODE_PEM] {
        std::fs::remove_file(site.stage.root.secrets().join(name)).unwrap();
    }
    let mond = site.stage.mond(None);
    assert_eq!(mond.get("/").status, 200);
    let guest = site.guest(None);
    assert_eq!(guest.status(&bearer(TOKEN)), None);
    let write = |name: &str, text: &str| {
        atomic_write(&site.stage.root.secrets().join(name), text.as_bytes(), 0o600).unwrap();
    };
    write(CA_PEM, &site.authority.certificate);
    write(NODE_KEY, &pair.key);
    write(NODE_PEM, &pair.certificate);
    gets("it has one", &guest, &bearer(TOKEN), Some(200));
}

#[test]
fn tokens_change_without_a_restart_and_none_counts_of_a_file_that_is_wrong() {
    let site = Site::new("");
    let _mond = site.stage.mond(None);
    let (guest, new) = (site.guest(None), "new-".repeat(8));
    // The plain listener, for which the start waits, is there before this one.
    gets("the first one counts", &guest, &bearer(TOKEN), Some(200));
    site.token(&new);
    gets("the new one counts", &guest, &bearer(&new), Some(200));
    assert_eq!(guest.status(&bearer(TOKEN)), Some(401));
    let mode = |mode| std::fs::set_permissions(&site.tokens, std::fs::Permissions::from_mode(mode)).unwrap();
    mode(0o644);
    gets("others may read it", &guest, &bearer(&new), Some(401));
    mode(0o640);
    gets("its group alone may", &guest, &bearer(&new), Some(200));
    site.token("short");
    gets("a short one", &guest, &bearer("short"), Some(401));
    std::fs::remove_file(&site.tokens).unwrap();
    gets("no file", &guest, &bearer(&new), Some(401));
    assert_eq!(site.guest(Some(&site.member(OTHER))).status(""), Some(200));
}

#[test]
fn a_wrong_file_of_tokens_is_said_at_the_start() {
    let site = Site::new("");
    let says = |what: &str| {
        let said = site.stage.refused();
        assert!(said.contains(what) && said.contains(&site.tokens.display().to_string()), "{said}");
        assert!(!said.contains("0123456789"), "{said}");
    };
    site.token(&TOKEN[1..]);
    says("line 2 has 31 characters: a token has 32 to 512");
    site.token(TOKEN);
    std::fs::set_permissions(&site.tokens, std::fs::Permissions::from_mode(0o604)).unwrap();
    says("its mode is 0604");
    std::fs::remove_file(&site.tokens).unwrap();
    says("No such file");
    std::fs::create_dir(&site.tokens).unwrap();
    says("it is no file");
}

#[test]
fn networks_hold_for_tls_too_and_plain_http_can_be_off() {
    let site = Site::new("plain = false\nallow = [\"127.0.0.2\"]");
    let mond: Mond = site.stage.mond_at(site.address);
    let guest = site.guest(None);
    let over = |last| guest.over(mond.connect_from(Ipv4Addr::new(127, 0, 0, last)));
    assert!(over(1).is_err() && over(3).is_err());
    let mut stream = over(2).unwrap();
    send(&mut stream, "GET", "/", &bearer(TOKEN));
    assert_eq!(receive(&mut stream, false).body, "[1]");
    let log = std::fs::read_dir(format!("/proc/{}/fd", mond.pid())).unwrap();
    let sockets = log.filter_map(|entry| std::fs::read_link(entry.unwrap().path()).ok());
    let inodes: Vec<String> = sockets
        .filter_map(|to| Some(to.to_str()?.strip_prefix("socket:[")?.strip_suffix(']')?.to_owned()))
        .collect();
    // Lines of listeners (state 0A), by their address.
    let table = std::fs::read_to_string("/proc/net/tcp").unwrap();
    let listeners: Vec<&str> = table
        .lines()
        .map(|line| line.split_whitespace().collect::<Vec<_>>())
        .filter(|row| {
            row.get(3) == Some(&"0A") && inodes.iter().any(|inode| row.get(9) == Some(&inode.as_str()))
        })
        .filter_map(|row| row.get(1).copied())
        .collect();
    assert_eq!(listeners, [format!("0100007F:{:04X}", site.address.port())]);
}
