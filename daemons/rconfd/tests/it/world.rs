//! One root with a real copy of the configuration, a writer of it, and the real program beside.

use crate::objects::{Row, rows};
use gantry_confd::client::Client;
use gantry_confd::core::wire::seal_request;
use gantry_confd::{Form, Keys, Kind, Query};
use gantry_model::root::Root;
use gantry_store::{Batch, Birth, Change, LogKind, Member, StartOptions, Started, create, start};
use serde_json::json;
use std::fs;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, UdpSocket};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};
use tempfile::TempDir;
use uuid::Uuid;

/// Longest wait for anything here; far more than a loaded machine needs.
pub const LIMIT: Duration = Duration::from_secs(30);
/// How long a silent server is listened to.
pub const SILENCE: Duration = Duration::from_millis(300);
pub const KEY: &str = "0123456789abcdef0123456789abcdef01234567\n";
const PORT: u16 = 1814;

pub struct World {
    _dir: TempDir,
    pub root: Root,
    pub addr: SocketAddr,
    daemon: Option<Child>,
    writer: Option<Started>,
}

/// Looks again and again.
pub fn until<T>(what: &str, mut found: impl FnMut() -> Option<T>) -> T {
    let end = Instant::now() + LIMIT;
    loop {
        if let Some(found) = found() {
            return found;
        }
        assert!(Instant::now() < end, "waited in vain: {what}");
        std::thread::sleep(Duration::from_millis(10));
    }
}

impl World {
    /// A root whose program does not run yet.
    pub fn new(settings: &str) -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        // An address of its own for each, in a part of the loopback network that nobody else uses.
        let number = (std::process::id() * 16 + COUNT.fetch_add(1, Ordering::Relaxed)) % (1 << 20);
        let ip = Ipv4Addr::from(0x7f40_0000 + number);
        Self::at(ip.into(), settings)
    }

    pub fn at(ip: IpAddr, settings: &str) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let root = Root::new(dir.path());
        gantry_rt::files::make_dirs(&root).unwrap();
        let text = format!("name = \"node1.example.test\"\naddress = \"{ip}\"\n[confd]\n{settings}\n");
        fs::write(root.node_toml(), text).unwrap();
        gantry_rt::files::atomic_write(&root.hmac_key(), KEY.as_bytes(), 0o640).unwrap();
        Self { _dir: dir, root, addr: SocketAddr::new(ip, PORT), daemon: None, writer: None }
    }

    /// With the configuration of these tests, and the program.
    pub fn running(settings: &str) -> Self {
        let mut world = Self::new(settings);
        world.configure();
        world.start();
        world
    }

    /// Makes the copy, and goes on as its writer.
    pub fn configure(&mut self) {
        let member = Member { node: Uuid::from_u128(1), copy_id: Uuid::from_u128(2) };
        let birth = Birth {
            cluster: Uuid::from_u128(1),
            history: Uuid::new_v4(),
            epoch: 1,
            ballot: [9; 16],
            members: vec![member],
            first: batch(&rows()),
        };
        create(&self.root.lib(), LogKind::W, &birth).unwrap();
        self.writer = Some(start(&self.root.lib(), StartOptions::new(LogKind::W)).unwrap());
    }

    /// Commits and applies.
    pub fn write(&self, rows: &[Row]) {
        let writer = &self.writer.as_ref().expect("configured").writer;
        let index = writer.append(batch(rows)).unwrap();
        writer.wait(index).unwrap();
    }

    /// Takes the copy away, as a node that is taken out.
    pub fn unconfigure(&mut self) {
        if let Some(started) = self.writer.take() {
            started.writer.stop();
        }
        for name in ["wconf.log", "config.data", "locks.data"] {
            for end in ["", "-wal", "-shm"] {
                let _ = fs::remove_file(self.root.lib().join(format!("{name}{end}")));
            }
        }
    }

    pub fn start(&mut self) {
        let listens = self.said().matches("listens").count();
        let log = fs::File::options().create(true).append(true).open(self.log()).unwrap();
        let mut program = Command::new(env!("CARGO_BIN_EXE_gantry-rconfd"));
        program.arg("--root").arg(self.root.path()).stdin(Stdio::null()).stderr(Stdio::from(log));
        self.daemon = Some(program.spawn().unwrap());
        // Its port is bound before its admin socket says anything of it; the log says when threads listen.
        until("it listens", || {
            (self.said().matches("listens").count() > listens || self.ended()).then_some(())
        });
    }

    fn log(&self) -> std::path::PathBuf {
        self.root.path().join("log")
    }

    /// What it has logged.
    pub fn said(&self) -> String {
        fs::read_to_string(self.log()).unwrap_or_default()
    }

    fn ended(&mut self) -> bool {
        self.daemon.as_mut().is_none_or(|daemon| daemon.try_wait().unwrap().is_some())
    }

    pub fn pid(&self) -> u32 {
        self.daemon.as_ref().expect("it runs").id()
    }

    pub fn is_alive(&mut self) -> bool {
        !self.ended()
    }

    pub fn kill(&mut self) {
        if let Some(mut daemon) = self.daemon.take() {
            daemon.kill().unwrap();
            daemon.wait().unwrap();
        }
    }

    /// Resident memory, KiB.
    pub fn rss_kib(&self) -> u64 {
        let text = fs::read_to_string(format!("/proc/{}/status", self.pid())).unwrap();
        let line = text.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
        line.trim().trim_end_matches(" kB").parse().unwrap()
    }

    pub fn client(&self, form: Form) -> Client {
        Client::new(keys(), form, vec![self.addr])
    }

    /// One question by the library's client. None = silence.
    pub fn ask(&self, form: Form, kind: Kind, query: &Query) -> Option<gantry_confd::core::reply::Heard> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let asked = async { self.client(form).ask(kind, query.clone()).await };
        runtime.block_on(asked).ok().map(|answer| answer.reply)
    }

    /// A socket that speaks to it.
    pub fn socket(&self) -> UdpSocket {
        let any: IpAddr =
            if self.addr.is_ipv4() { "127.0.0.1".parse().unwrap() } else { "::1".parse().unwrap() };
        let socket = UdpSocket::bind((any, 0)).unwrap();
        socket.connect(self.addr).unwrap();
        socket.set_read_timeout(Some(SILENCE)).unwrap();
        socket
    }
}

impl Drop for World {
    fn drop(&mut self) {
        if let Some(daemon) = &mut self.daemon {
            let _ = daemon.kill();
            let _ = daemon.wait();
        }
        if let Some(started) = self.writer.take() {
            started.writer.stop();
        }
    }
}

fn batch(rows: &[Row]) -> Batch {
    let change = |(kind, key, body): &Row| Change {
        kind: (*kind).to_owned(),
        key: key.clone(),
        rev: 1,
        body: Some(body.clone().into_bytes()),
    };
    Batch::of(rows.iter().map(change).collect())
}

pub fn keys() -> Keys {
    Keys::new(KEY.as_bytes()).unwrap()
}

/// A ping that was never sent before.
pub fn ping(form: Form, dst: IpAddr, salt: u64) -> (Vec<u8>, String) {
    let rsalt = Uuid::new_v4().to_string();
    let mut msg = json!({"protocol": 1, "type": 0, "query": null, "rsalt": rsalt});
    if form == Form::Second {
        msg["dst"] = json!(dst.to_string());
    }
    (seal_request(form, &keys(), &salt.to_string(), &msg.to_string()).0, rsalt)
}

pub fn seconds() -> u64 {
    gantry_rt::clock::now().0
}

/// Sends and listens; None = silence.
pub fn exchange(socket: &UdpSocket, datagram: &[u8]) -> Option<Vec<u8>> {
    socket.send(datagram).unwrap();
    let mut buffer = vec![0; 65_536];
    let bytes = socket.recv(&mut buffer).ok()?;
    buffer.truncate(bytes);
    Some(buffer)
}
