//! A small service on a real Unix socket.

use gantry_rpc::{
    Call, Client, Code, Fail, Handled, Hello, Limits, Peer, Service, reply, route, serve_unix, unix,
};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

/// Verbs of the test service.
pub mod verbs {
    use gantry_proto::verbs;

    verbs! {
        /// Sends it back.
        1 Echo(Vec<u8>) as Vec<u8>;
        /// Never answers.
        2 Hang(()) as ();
        /// Counts up to a number.
        3 Count(u64) => u64 as u64;
        /// Fails.
        4 Broken(()) as ();
        /// A reply of so many bytes.
        5 Big(u64) as Vec<u8>;
        /// The trace and the deadline in milliseconds.
        6 Mirror(()) as (String, Option<u64>);
        /// Counts for ever.
        7 Endless(()) => Vec<u8> as ();
        /// Takes a text; its server answers as [`Echo`].
        8 EchoAsText(Vec<u8>) as String;
        /// Never answers, and keeps its request.
        9 Hold(String) as ();
        /// Not served.
        99 Missing(()) as ();
    }
}

/// The service, with counters that tests wait for.
pub struct Lab {
    pub hello: Hello,
    pub refuse: Option<String>,
    pub hanging: Gauge,
    pub peers: Gauge,
    pub sent: AtomicUsize,
}

/// A number that can be waited for.
#[derive(Default)]
pub struct Gauge {
    value: AtomicUsize,
    changed: Notify,
}

impl Gauge {
    pub fn add(&self, by: isize) {
        self.value.fetch_add(by.cast_unsigned(), Ordering::SeqCst);
        self.changed.notify_waiters();
    }

    pub async fn reaches(&self, wanted: usize) {
        let wait = async {
            loop {
                let changed = self.changed.notified();
                if self.value.load(Ordering::SeqCst) == wanted {
                    return;
                }
                changed.await;
            }
        };
        tokio::time::timeout(Duration::from_secs(10), wait).await.unwrap_or_else(|_| {
            panic!("{} instead of {wanted}", self.value.load(Ordering::SeqCst));
        });
    }
}

struct Counted<'a>(&'a Gauge);

impl<'a> Counted<'a> {
    fn new(gauge: &'a Gauge) -> Self {
        gauge.add(1);
        Self(gauge)
    }
}

impl Drop for Counted<'_> {
    fn drop(&mut self) {
        self.0.add(-1);
    }
}

impl Lab {
    pub fn new() -> Self {
        Self {
            hello: Hello::new("lab", "gantry-lab"),
            refuse: None,
            hanging: Gauge::default(),
            peers: Gauge::default(),
            sent: AtomicUsize::new(0),
        }
    }

    async fn count(&self, to: u64, call: Call) -> Result<u64, Fail> {
        let items = call.items::<verbs::Count>();
        for number in 0..to {
            items.send(&number).await?;
            self.sent.fetch_add(1, Ordering::SeqCst);
        }
        Ok(to)
    }

    async fn hang(&self) -> Result<(), Fail> {
        let _counted = Counted::new(&self.hanging);
        std::future::pending().await
    }

    async fn endless(&self, call: Call) -> Result<(), Fail> {
        let _counted = Counted::new(&self.hanging);
        let items = call.items::<verbs::Endless>();
        loop {
            items.send(&vec![7; 100_000]).await?;
            self.sent.fetch_add(1, Ordering::SeqCst);
        }
    }
}

impl Service for Lab {
    fn hello(&self) -> Hello {
        self.hello.clone()
    }

    fn accept(&self, _peer: &Peer) -> Result<(), String> {
        if let Some(why) = &self.refuse {
            return Err(why.clone());
        }
        self.peers.add(1);
        Ok(())
    }

    fn handle(self: Arc<Self>, call: Call) -> Handled {
        Box::pin(async move {
            if call.is::<verbs::EchoAsText>() {
                return reply::<verbs::Echo>(&call.request::<verbs::Echo>()?);
            }
            route!(call, {
                verbs::Echo => |request, _call| Ok(request),
                verbs::Hang => |_request, _call| self.hang().await,
                verbs::Count => |to, call| self.count(to, call).await,
                verbs::Broken => |_request, _call| Err(Fail::new(Code::Stale, "as asked")),
                verbs::Big => |bytes, _call| Ok(vec![0; usize::try_from(bytes).expect("64 bits")]),
                verbs::Mirror => |_request, call| {
                    Ok((call.trace.clone(), call.deadline.map(|d| u64::try_from(d.as_millis()).expect("short"))))
                },
                verbs::Hold => |_request, _call| self.hang().await,
                verbs::Endless => |_request, call| self.endless(call).await,
            })
        })
    }

    fn gone(&self, _peer: &Peer) {
        self.peers.add(-1);
    }
}

/// A served socket.
pub struct World {
    pub lab: Arc<Lab>,
    pub path: PathBuf,
    pub stop: CancellationToken,
    pub server: tokio::task::JoinHandle<()>,
    _dir: tempfile::TempDir,
}

impl World {
    pub fn new() -> Self {
        Self::of(Lab::new(), Limits::default())
    }

    pub fn of(lab: Lab, limits: Limits) -> Self {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("lab.sock");
        let listener = unix::bind(&path, 0o600).expect("a free path");
        let (lab, stop) = (Arc::new(lab), CancellationToken::new());
        let server = tokio::spawn(serve_unix(listener, Arc::clone(&lab), limits, stop.clone()));
        Self { lab, path, stop, server, _dir: dir }
    }

    pub async fn client(&self) -> Client {
        Client::unix(&self.path, &hello()).await.expect("connects")
    }
}

pub fn hello() -> Hello {
    Hello::new("lab", "gantry-test")
}

/// Ample time for what should happen at once.
pub const SOON: Duration = Duration::from_secs(10);
