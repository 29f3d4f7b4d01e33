//! One log of this node: a thread that owns its copy, and what is half received of it.
//!
//! ```text
//!  verbs ── run(work) ──▶ bounded queue ──▶ one thread: Copy, snapshot pieces ──▶ answer
//! ```
//!
//! The thread is started when the log is first spoken of. A copy whose files failed is closed, and opened anew for the
//! next caller: opening flushes first, so nothing is confirmed that rests on a page cache (P1.4). One whose log was removed stays
//! open: only it still knows what it had promised.

use super::bodies::Bodies;
use super::snapshot::{Incoming, Outgoing};
use gantry_model::root::Root;
use gantry_proto::envelope::{Code, Fail};
use gantry_store::core::Rules;
use gantry_store::{Copy, CopyOptions, LogKind, StoreError};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use tokio::sync::{mpsc, oneshot};

/// Calls that may wait for one log: one sender, some candidates that look or elect, and late ones of the dead.
const WAITING_MAX: usize = 64;

type Work = Box<dyn FnOnce(&mut Seat) + Send>;

/// The way to one log. Clones share it; the thread ends with the last.
#[derive(Clone)]
pub struct LogThread {
    log: LogKind,
    root: Root,
    bodies: Bodies,
    queue: Arc<Mutex<Option<mpsc::Sender<Work>>>>,
}

/// What the thread owns.
pub struct Seat {
    /// Which log.
    pub log: LogKind,
    /// Where its files are.
    pub dir: PathBuf,
    /// A snapshot on its way here.
    pub incoming: Option<Incoming>,
    /// A snapshot on its way from here.
    pub outgoing: Option<Outgoing>,
    bodies: Bodies,
    copy: Option<Copy>,
}

/// How a failure of the store looks to callers: none of them is a refusal, so none has promised or confirmed anything.
#[must_use]
pub fn failure(error: &StoreError) -> Fail {
    let code = if error.is_busy() { Code::Busy } else { Code::Internal };
    Fail::new(code, error.chain())
}

fn none(seat: &Seat) -> Fail {
    let path = seat.log.log_file().path(&seat.dir);
    let text = format!(
        "this node has no copy of log {:?}: {} is missing. If the node is a master candidate, have it fed anew: on the master \
         \"gnt-node modify -C no\" with its name, then \"-C yes\"",
        seat.log,
        path.display()
    );
    Fail::new(Code::NotFound, text)
}

impl LogThread {
    /// Of one log below `root`.
    #[must_use]
    pub fn new(log: LogKind, root: Root, bodies: Bodies) -> Self {
        Self { log, root, bodies, queue: Arc::default() }
    }

    /// Whether this node has such a log.
    ///
    /// # Errors
    /// The disk's.
    pub fn exists(&self) -> Result<bool, Fail> {
        let path = self.log.log_file().path(&self.root.lib());
        path.try_exists().map_err(|why| Fail::new(Code::Internal, format!("{}: {why}", path.display())))
    }

    /// Whether its copy may be open: also one of files that are not there any more.
    pub fn is_started(&self) -> bool {
        let queue = self.queue.lock().unwrap_or_else(PoisonError::into_inner);
        queue.as_ref().is_some_and(|sender| !sender.is_closed())
    }

    /// Runs `work` on the thread. It is done whether or not the caller waits for it.
    ///
    /// # Errors
    /// `Busy` when too many wait; what `work` says.
    pub async fn run<T: Send + 'static>(
        &self,
        work: impl FnOnce(&mut Seat) -> Result<T, Fail> + Send + 'static,
    ) -> Result<T, Fail> {
        let (done, answer) = oneshot::channel();
        let job: Work = Box::new(move |seat| {
            let _ = done.send(work(seat));
        });
        let busy = || Fail::new(Code::Busy, format!("{WAITING_MAX} calls wait for this log"));
        self.sender()?.try_send(job).map_err(|_| busy())?;
        answer.await.map_err(|_| crate::error::stopping())?
    }

    fn sender(&self) -> Result<mpsc::Sender<Work>, Fail> {
        let mut queue = self.queue.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(sender) = queue.as_ref().filter(|sender| !sender.is_closed()) {
            return Ok(sender.clone());
        }
        let (sender, mut works) = mpsc::channel::<Work>(WAITING_MAX);
        let mut seat = Seat {
            log: self.log,
            dir: self.root.lib(),
            incoming: None,
            outgoing: None,
            bodies: self.bodies.clone(),
            copy: None,
        };
        let thread = std::thread::Builder::new().name(format!("copy-{:?}", self.log));
        let started = thread.spawn(move || {
            while let Some(work) = works.blocking_recv() {
                work(&mut seat);
            }
        });
        started.map_err(|why| Fail::new(Code::Internal, format!("can't start a thread: {why}")))?;
        *queue = Some(sender.clone());
        Ok(sender)
    }
}

impl Seat {
    fn options(&self) -> CopyOptions {
        CopyOptions { log: self.log, rules: Rules::ALL, bodies: Arc::new(self.bodies.clone()) }
    }

    /// Opens the copy if it is not open; None: there is none. What was put in the place of its files is judged like what is found
    /// at a start.
    fn open(&mut self) -> Result<Option<&mut Copy>, Fail> {
        let displaced = |copy: &Copy| copy.displaced().filter(|_| !copy.is_removed());
        if let Some(why) = self.copy.as_ref().and_then(displaced) {
            tracing::error!(log = ?self.log, why, "what is there now is opened instead");
            self.close();
        }
        if self.copy.is_none() {
            self.copy = Copy::open(&self.dir, self.options()).map_err(|why| failure(&why))?;
        }
        Ok(self.copy.as_mut())
    }

    /// Works on the copy. One whose files fail is closed.
    ///
    /// # Errors
    /// `NotFound` when there is none; the store's.
    pub fn with<T>(&mut self, work: impl FnOnce(&mut Copy) -> Result<T, StoreError>) -> Result<T, Fail> {
        self.try_with(work)?.ok_or_else(|| none(self))
    }

    /// As [`Seat::with`]; None when there is no copy.
    ///
    /// # Errors
    /// The store's.
    pub fn try_with<T>(
        &mut self,
        work: impl FnOnce(&mut Copy) -> Result<T, StoreError>,
    ) -> Result<Option<T>, Fail> {
        let log = self.log;
        let Some(copy) = self.open()? else { return Ok(None) };
        match work(copy) {
            Ok(done) => Ok(Some(done)),
            Err(why) => {
                if copy.is_removed() {
                    tracing::error!(
                        ?log,
                        error = why.chain(),
                        "a copy is gone; it counts no more, and takes nothing"
                    );
                } else {
                    tracing::error!(
                        ?log,
                        error = why.chain(),
                        "a copy failed; it is opened anew for the next caller"
                    );
                    self.copy = None;
                }
                Err(failure(&why))
            }
        }
    }

    /// Closes the copy, so that its files may be moved.
    pub fn close(&mut self) {
        self.copy = None;
        self.incoming = None;
        self.outgoing = None;
    }
}
