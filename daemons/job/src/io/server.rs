//! The job's own socket: luxid is the only caller (P4.2, P4.4). Keeps the board and tells it to whoever is attached.

use crate::core::board::Board;
use gantry_model::ids::JobOwner;
use gantry_model::job::Report;
use gantry_proto::codec::Json;
use gantry_proto::envelope::{Code, Fail};
use gantry_proto::hello::Hello;
use gantry_proto::job::{
    Attach, Cancel, Confirm, ConfirmRequest, Go, GoRequest, PROTOCOL, Ping, SetPriority,
};
use gantry_proto::verb::Verb;
use gantry_rpc::{Call, Peer, Service, reply};
use std::future::Future;
use std::pin::Pin;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;
use tokio::sync::{oneshot, watch};

/// How long a report that says of no end waits for what follows it: short jobs end sooner, and each report is a commit.
const GATHER: Duration = Duration::from_millis(50);
/// The same once the result is stored for which somebody waited.
const GATHER_REST: Duration = Duration::from_secs(1);

/// What luxid and the executing half share.
pub struct Desk {
    owner: JobOwner,
    board: Mutex<Option<Board>>,
    /// Counts changes of the board, and of who is attached.
    changed: watch::Sender<u64>,
    cancel: watch::Sender<bool>,
    go: Mutex<Option<oneshot::Sender<GoRequest>>>,
    attached: AtomicUsize,
}

impl Desk {
    /// A desk without a board, and what arrives when luxid says go.
    pub fn new(owner: JobOwner) -> (Arc<Self>, oneshot::Receiver<GoRequest>) {
        let (go, gone) = oneshot::channel();
        let desk = Self {
            owner,
            board: Mutex::new(None),
            changed: watch::Sender::new(0),
            cancel: watch::Sender::new(false),
            go: Mutex::new(Some(go)),
            attached: AtomicUsize::new(0),
        };
        (Arc::new(desk), gone)
    }

    fn lock(&self) -> MutexGuard<'_, Option<Board>> {
        self.board.lock().expect("no holder of this lock panics: the process aborts on panic")
    }

    /// Changes the board, which exists once luxid said go, and lets those attached know.
    pub fn update<R>(&self, change: impl FnOnce(&mut Board) -> R) -> R {
        let result = change(self.lock().as_mut().expect("the executing half runs only after go"));
        self.changed.send_modify(|count| *count += 1);
        result
    }

    /// Reads the board; None before go.
    pub fn read<R>(&self, look: impl FnOnce(&Board) -> R) -> Option<R> {
        self.lock().as_ref().map(look)
    }

    /// Whether cancelling was asked for; a receiver to wait for it.
    pub fn cancelled(&self) -> watch::Receiver<bool> {
        self.cancel.subscribe()
    }

    /// Waits for changes of the board or of who is attached.
    pub fn changes(&self) -> watch::Receiver<u64> {
        self.changed.subscribe()
    }

    /// Whether a luxid takes reports right now.
    pub fn is_attached(&self) -> bool {
        self.attached.load(Ordering::Acquire) > 0
    }

    fn begin(&self, request: GoRequest) -> Result<(), Fail> {
        if request.owner != self.owner {
            let text = format!("this is the process of {}, not of {}", self.owner, request.owner);
            return Err(Fail::new(Code::Stale, text));
        }
        let ops = request.ops.read().map_err(|why| Fail::new(Code::BadRequest, why.to_string()))?;
        let Some(go) = self.go.lock().expect("never poisoned").take() else {
            return Ok(()); // Told before: attach.
        };
        *self.lock() = Some(Board::new(self.owner, &ops, request.next_serial));
        go.send(request)
            .map_err(|_| Fail::new(Code::NotReady, "this job is leaving: it was not told to go in time"))
    }

    /// Waits until the job is over or waits itself, or for [`GATHER`].
    async fn gather(&self) {
        let mut changes = self.changes();
        let urgent =
            async { while self.read(Board::is_urgent) == Some(false) && changes.changed().await.is_ok() {} };
        let rest = self.read(Board::is_past_the_result) == Some(true);
        let _ = tokio::time::timeout(if rest { GATHER_REST } else { GATHER }, urgent).await;
    }

    /// Waits until luxid has stored what the board says now. False when there is no luxid that could, or the job is to
    /// end: it does not go on then.
    pub async fn stored(&self) -> bool {
        let number = self.update(Board::await_stored);
        let (mut changes, mut cancelled) = (self.changes(), self.cancelled());
        loop {
            changes.borrow_and_update();
            if self.read(|board| board.is_stored(number)) == Some(true) {
                return true;
            }
            // A report that nobody takes is spooled with the rest: the next luxid finds it.
            if !self.is_attached() || *cancelled.borrow_and_update() {
                return false;
            }
            tokio::select! {
                changed = changes.changed() => if changed.is_err() { return false },
                _ = cancelled.changed() => {}
            }
        }
    }

    /// Sends every report that is news until the outcome is confirmed; news within [`GATHER`] in one.
    async fn attend<V: Verb<Item = Json<Report>, Reply = ()>>(
        self: Arc<Self>,
        call: Call,
    ) -> Result<Vec<u8>, Fail> {
        let _here = Attached::new(&self);
        let items = call.items::<V>();
        let mut changes = self.changes();
        let mut sent = 0;
        loop {
            if self.read(|board| board.report().number > sent) == Some(true) {
                self.gather().await;
            }
            changes.borrow_and_update();
            let (news, over) = {
                let board = self.lock();
                let board = board.as_ref().ok_or_else(|| Fail::new(Code::NotReady, "not told to go yet"))?;
                let report = board.report();
                let news = (report.number > sent).then(|| (report.number, Json::of(report)));
                (news, board.is_over_and_known())
            };
            if let Some((number, report)) = news {
                let report = report.map_err(|why| Fail::new(Code::Internal, why.to_string()))?;
                items.send(&report).await.map_err(|_| Fail::new(Code::NotReady, "the stream is closed"))?;
                sent = number;
            }
            if over {
                return reply::<V>(&());
            }
            if changes.changed().await.is_err() {
                return Err(Fail::new(Code::NotReady, "this job is leaving"));
            }
        }
    }
}

/// Counts a luxid that takes reports, until it is gone.
struct Attached<'a>(&'a Desk);

impl<'a> Attached<'a> {
    fn new(desk: &'a Desk) -> Self {
        desk.attached.fetch_add(1, Ordering::AcqRel);
        Self(desk)
    }
}

impl Drop for Attached<'_> {
    fn drop(&mut self) {
        self.0.attached.fetch_sub(1, Ordering::AcqRel);
        self.0.changed.send_modify(|count| *count += 1);
    }
}

/// The service on the job's socket.
pub struct JobService {
    /// The desk.
    pub desk: Arc<Desk>,
    /// What the job says first.
    pub hello: Hello,
}

impl Service for JobService {
    fn hello(&self) -> Hello {
        self.hello.clone()
    }

    fn accept(&self, peer: &Peer) -> Result<(), String> {
        if !peer.is_own() {
            return Err("only luxid may speak to a job, as root or as the job's own user".to_owned());
        }
        if peer.hello.cluster != self.hello.cluster {
            return Err("this job belongs to another cluster".to_owned());
        }
        Ok(())
    }

    fn handle(self: Arc<Self>, call: Call) -> Pin<Box<dyn Future<Output = Result<Vec<u8>, Fail>> + Send>> {
        let desk = Arc::clone(&self.desk);
        Box::pin(async move {
            if call.is::<Go>() {
                desk.begin(call.request::<Go>()?)?;
                return desk.attend::<Go>(call).await;
            }
            if call.is::<Attach>() {
                let wanted: JobOwner = call.request::<Attach>()?;
                if wanted != desk.owner {
                    return Err(Fail::new(Code::Stale, format!("this is the process of {}", desk.owner)));
                }
                return desk.attend::<Attach>(call).await;
            }
            answer(&desk, &call)
        })
    }
}

/// The verbs that are done at once.
fn answer(desk: &Desk, call: &Call) -> Result<Vec<u8>, Fail> {
    if call.is::<Ping>() {
        return reply::<Ping>(&desk.owner);
    }
    if desk.read(|_| ()).is_none() {
        return Err(Fail::new(Code::NotReady, "not told to go yet"));
    }
    if call.is::<Confirm>() {
        let ConfirmRequest { number, log_serial } = call.request::<Confirm>()?;
        desk.update(|board| board.confirm(number, log_serial));
        return reply::<Confirm>(&());
    }
    if call.is::<Cancel>() {
        desk.cancel.send_replace(true);
        return reply::<Cancel>(&());
    }
    if call.is::<SetPriority>() {
        let priority = call.request::<SetPriority>()?;
        desk.update(|board| board.set_priority(priority));
        return reply::<SetPriority>(&());
    }
    Err(gantry_rpc::unknown_verb(call))
}

/// The hello of a job's socket.
pub fn hello(owner: JobOwner, cluster: gantry_model::ids::ClusterUuid) -> Hello {
    let mut hello = Hello::new(PROTOCOL, "gantry-job");
    hello.cluster = Some(cluster);
    hello.epoch = Some(owner.start.epoch);
    hello.run = Some(owner.start.run);
    hello
}
