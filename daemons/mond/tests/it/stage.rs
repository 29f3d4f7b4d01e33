//! A root, a `gantry-mond`, and a way to speak HTTP to it byte for byte.

use gantry_model::ids::{ClusterUuid, NodeUuid};
use gantry_model::role::{Role, RoleFile};
use gantry_model::root::Root;
use nix::sys::socket::{self, AddressFamily, SockFlag, SockType, SockaddrIn};
use serde_json::Value;
use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4, TcpListener, TcpStream};
use std::os::fd::AsRawFd;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// Nothing here takes longer on any machine that works.
pub const LIMIT: Duration = Duration::from_secs(60);
/// Between looks at a condition.
const LOOK: Duration = Duration::from_millis(10);

/// Looks until there is something.
pub fn until<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let end = Instant::now() + LIMIT;
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(Instant::now() < end, "waited in vain: {what}");
        std::thread::sleep(LOOK);
    }
}

pub struct Stage {
    dir: tempfile::TempDir,
    pub root: Root,
}

impl Stage {
    pub fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let root = Root::new(dir.path());
        gantry_rt::files::make_dirs(&root).unwrap();
        Self { dir, root }
    }

    /// A node that has joined.
    pub fn joined(self, role: Role) -> Self {
        let (node, cluster) = (NodeUuid(uuid::Uuid::from_u128(5)), ClusterUuid(uuid::Uuid::from_u128(6)));
        gantry_rt::files::write_role(&self.root, &RoleFile { node, cluster, role, epoch: 1 }).unwrap();
        self
    }

    /// A node.toml with these tables.
    pub fn settings(self, tables: &str) -> Self {
        let text = format!("name = \"n1\"\naddress = \"127.0.0.1\"\n{tables}");
        std::fs::write(self.root.node_toml(), text).unwrap();
        self
    }

    pub fn path(&self) -> &Path {
        self.dir.path()
    }

    fn command(&self, address: SocketAddr) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_gantry-mond"));
        command.arg("--root").arg(self.path()).args(["-f", "--no-user-checks", "-b", "127.0.0.1", "-p"]);
        command.arg(address.port().to_string()).stdin(Stdio::null());
        command
    }

    /// What it says where it does not start.
    pub fn refused(&self) -> String {
        let output = self.command(free()).output().unwrap();
        assert_ne!(output.status.code(), Some(0));
        String::from_utf8(output.stderr).unwrap()
    }

    /// Starts it on a free port; it may see other programs first.
    pub fn mond(&self, programs: Option<&Path>) -> Mond {
        let free = free();
        let mut command = self.command(free);
        if let Some(dir) = programs {
            command.env("PATH", format!("{}:{}", dir.display(), std::env::var("PATH").unwrap_or_default()));
        }
        let mond = Mond { child: command.spawn().unwrap(), address: free };
        mond.listens();
        mond
    }

    /// Starts it and looks for it at another place than its plain one.
    pub fn mond_at(&self, address: SocketAddr) -> Mond {
        let mond = Mond { child: self.command(free()).spawn().unwrap(), address };
        mond.listens();
        mond
    }
}

/// Free a moment ago, and of an address that nobody else uses: taken again by chance only.
pub fn free() -> SocketAddr {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap()
}

pub struct Mond {
    child: Child,
    pub address: SocketAddr,
}

/// An HTTP answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Got {
    pub status: u16,
    pub headers: Vec<(String, String)>,
    pub body: String,
}

impl Got {
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(key, _)| key.eq_ignore_ascii_case(name)).map(|(_, value)| value.as_str())
    }

    pub fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap_or_else(|error| panic!("{error}: {self:?}"))
    }
}

impl Mond {
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    fn listens(&self) {
        until("it listens", || TcpStream::connect(self.address).ok());
    }

    pub fn connect(&self) -> TcpStream {
        let stream = TcpStream::connect(self.address).unwrap();
        stream.set_read_timeout(Some(LIMIT)).unwrap();
        stream
    }

    /// From another address of this machine.
    pub fn connect_from(&self, from: Ipv4Addr) -> TcpStream {
        let SocketAddr::V4(to) = self.address else { panic!("{}", self.address) };
        let flags = SockFlag::SOCK_CLOEXEC;
        let socket = socket::socket(AddressFamily::Inet, SockType::Stream, flags, None).unwrap();
        socket::bind(socket.as_raw_fd(), &SockaddrIn::from(SocketAddrV4::new(from, 0))).unwrap();
        socket::connect(socket.as_raw_fd(), &SockaddrIn::from(to)).unwrap();
        let stream = TcpStream::from(socket);
        stream.set_read_timeout(Some(LIMIT)).unwrap();
        stream
    }

    pub fn get(&self, target: &str) -> Got {
        self.ask("GET", target, "")
    }

    pub fn ask(&self, method: &str, target: &str, headers: &str) -> Got {
        let mut stream = self.connect();
        send(&mut stream, method, target, headers);
        receive(&mut stream, method == "HEAD")
    }

    /// The report of a collector, once it has one.
    pub fn report(&self, path: &str) -> Value {
        until(path, || {
            let got = self.get(&format!("/1/report/{path}"));
            let ready = got.status == 200
                && !got.body.contains("it has not looked yet")
                && !got.body.contains("\"error\"");
            ready.then(|| got.json())
        })
    }
}

pub fn send(stream: &mut impl Write, method: &str, target: &str, headers: &str) {
    let text = format!("{method} {target} HTTP/1.1\r\nHost: x\r\n{headers}\r\n");
    stream.write_all(text.as_bytes()).unwrap();
}

/// One answer from a connection that goes on.
pub fn receive(stream: &mut impl Read, head_only: bool) -> Got {
    let mut bytes = Vec::new();
    let mut one = [0];
    while !bytes.ends_with(b"\r\n\r\n") {
        assert_eq!(stream.read(&mut one).unwrap(), 1, "closed after {:?}", String::from_utf8_lossy(&bytes));
        bytes.push(one[0]);
    }
    let text = String::from_utf8(bytes).unwrap();
    let mut lines = text.lines();
    let status = lines.next().unwrap().split(' ').nth(1).unwrap().parse().unwrap();
    let headers: Vec<(String, String)> = lines
        .filter_map(|line| line.split_once(": "))
        .map(|(key, value)| (key.to_owned(), value.to_owned()))
        .collect();
    let mut got = Got { status, headers, body: String::new() };
    if !head_only {
        let length: usize = got.header("content-length").unwrap().parse().unwrap();
        let mut body = vec![0; length];
        stream.read_exact(&mut body).unwrap();
        got.body = String::from_utf8(body).unwrap();
    }
    got
}

impl Drop for Mond {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
