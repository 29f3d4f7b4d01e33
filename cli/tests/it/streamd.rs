//! The other half of the scripted luxid: a real `stream.sock` with bodies, a command and a log that it was told.

use crate::stage::Stage;
use gantry_model::error::{Ecode, GanetiError};
use gantry_proto::hello::Hello;
use gantry_proto::noded::{Bytes, CommandEnd, OutputPiece, PieceReply, Stream, Why};
use gantry_proto::stream::{
    BlobGet, BlobPut, LeaseExec, LeaseExecRequest, LeaseGet, LeaseGetReply, LeasePut, LeasePutRequest,
    LeaseSignal, PROTOCOL, TaskLog, TaskLogEnd, TaskLogPiece, TaskLogRequest,
};
use gantry_rpc::{Call, Code, Fail, Handled, Limits, Service, reply, unknown_verb};
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

/// What it does and what it saw.
#[derive(Default)]
pub struct Acts {
    /// Bodies by digest.
    pub blobs: BTreeMap<String, Vec<u8>>,
    /// Pieces of bodies that came: offset and length.
    pub puts: Vec<(u64, usize)>,
    /// The connection breaks at this piece, once.
    pub break_at: Option<usize>,
    /// What a command writes: both streams.
    pub output: (Vec<u8>, Vec<u8>),
    /// How a command ends; none = it waits until it is cancelled.
    pub end: Option<Why>,
    /// Commands asked for.
    pub execs: Vec<LeaseExecRequest>,
    /// Signals that came.
    pub signals: Vec<i32>,
    /// Uploads into machines: requests without their bytes, and all bytes.
    pub uploads: (Vec<LeasePutRequest>, Vec<u8>),
    /// It forgets an upload into a machine when so many bytes of it are there, and wants it anew.
    pub forgets_at: Option<usize>,
    /// What `LeaseGet` answers.
    pub archive: Vec<u8>,
    /// Logs asked for, and the pieces of a log.
    pub logs: (Vec<TaskLogRequest>, Vec<TaskLogPiece>),
    /// The end of a log.
    pub log_end: (u8, String),
}

struct Door {
    acts: Mutex<Acts>,
    news: Notify,
    stop: Mutex<CancellationToken>,
}

pub struct Streamd {
    door: Arc<Door>,
    ended: CancellationToken,
    thread: Option<JoinHandle<()>>,
}

impl Streamd {
    pub fn new(stage: &Stage, acts: Acts) -> Self {
        let path = stage.root.socket("stream.sock");
        let door = Arc::new(Door {
            acts: Mutex::new(acts),
            news: Notify::new(),
            stop: Mutex::new(CancellationToken::new()),
        });
        let ended = CancellationToken::new();
        let listener = std::os::unix::net::UnixListener::bind(&path).unwrap();
        let (served, until) = (Arc::clone(&door), ended.clone());
        let thread = std::thread::spawn(move || serve(listener, path, &served, &until));
        Self { door, ended, thread: Some(thread) }
    }

    pub fn acts<T>(&self, look: impl FnOnce(&mut Acts) -> T) -> T {
        look(&mut self.door.acts.lock().unwrap())
    }

    /// Waits until something holds.
    pub fn until(&self, holds: impl Fn(&Acts) -> bool) {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        runtime.block_on(async {
            loop {
                let news = self.door.news.notified();
                tokio::pin!(news);
                news.as_mut().enable();
                if holds(&self.door.acts.lock().unwrap()) {
                    return;
                }
                news.await;
            }
        });
    }
}

impl Drop for Streamd {
    fn drop(&mut self) {
        self.ended.cancel();
        let ended = self.thread.take().map(JoinHandle::join);
        if !std::thread::panicking() {
            ended.unwrap().unwrap();
        }
    }
}

/// Serves; when a break is asked for, all connections end and a new socket takes the old one's place.
fn serve(
    first: std::os::unix::net::UnixListener,
    path: PathBuf,
    door: &Arc<Door>,
    ended: &CancellationToken,
) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        first.set_nonblocking(true).unwrap();
        let mut listener = tokio::net::UnixListener::from_std(first).unwrap();
        loop {
            let stop = ended.child_token();
            *door.stop.lock().unwrap() = stop.clone();
            gantry_rpc::serve_unix(listener, Arc::clone(door), Limits::default(), stop).await;
            if ended.is_cancelled() {
                return;
            }
            std::fs::remove_file(&path).unwrap();
            listener = tokio::net::UnixListener::bind(&path).unwrap();
        }
    });
}

impl Service for Door {
    fn hello(&self) -> Hello {
        Hello::new(PROTOCOL, "gantry-luxid")
    }

    fn handle(self: Arc<Self>, call: Call) -> Handled {
        Box::pin(async move {
            let done = self.answer(&call).await;
            self.news.notify_waiters();
            done
        })
    }
}

impl Door {
    async fn answer(&self, call: &Call) -> Result<Vec<u8>, Fail> {
        if call.is::<BlobPut>() {
            return self.put(call).await;
        }
        if call.is::<BlobGet>() {
            let request = call.request::<BlobGet>()?;
            let body = self.acts.lock().unwrap().blobs.get(&request.digest).cloned();
            let body = body.ok_or_else(|| Fail::new(Code::BadRequest, "no such body"))?;
            let from = usize::try_from(request.offset).unwrap();
            for bytes in body[from..].chunks(700) {
                call.items::<BlobGet>().send(&Bytes { bytes: bytes.to_vec() }).await.unwrap();
            }
            return reply::<BlobGet>(&());
        }
        if call.is::<TaskLog>() {
            let pieces = {
                let mut acts = self.acts.lock().unwrap();
                acts.logs.0.push(call.request::<TaskLog>()?);
                acts.logs.1.clone()
            };
            for piece in pieces {
                call.items::<TaskLog>().send(&piece).await.unwrap();
            }
            let (state, why) = self.acts.lock().unwrap().log_end.clone();
            return reply::<TaskLog>(&TaskLogEnd { state, why });
        }
        if call.is::<LeaseExec>() {
            return self.exec(call).await;
        }
        if call.is::<LeaseSignal>() {
            let signal = call.request::<LeaseSignal>()?.signal;
            self.acts.lock().unwrap().signals.push(signal);
            return reply::<LeaseSignal>(&());
        }
        if call.is::<LeasePut>() {
            let mut request = call.request::<LeasePut>()?;
            let mut acts = self.acts.lock().unwrap();
            acts.uploads.1.append(&mut request.bytes);
            if acts.forgets_at.is_some_and(|most| acts.uploads.1.len() >= most) {
                acts.uploads.1.clear();
                request.last = false;
            }
            let (next, done) = (acts.uploads.1.len() as u64, request.last);
            acts.uploads.0.push(request);
            return reply::<LeasePut>(&PieceReply { next, done });
        }
        if call.is::<LeaseGet>() {
            let bytes = self.acts.lock().unwrap().archive.clone();
            call.items::<LeaseGet>().send(&Bytes { bytes }).await.unwrap();
            return reply::<LeaseGet>(&LeaseGetReply { files: 1, refused: 2 });
        }
        Err(unknown_verb(call))
    }

    async fn put(&self, call: &Call) -> Result<Vec<u8>, Fail> {
        let request = call.request::<BlobPut>()?;
        let breaks = {
            let mut acts = self.acts.lock().unwrap();
            acts.puts.push((request.offset, request.bytes.len()));
            let breaks = acts.break_at == Some(acts.puts.len());
            if breaks {
                acts.break_at = None;
            }
            breaks
        };
        if breaks {
            self.stop.lock().unwrap().cancel();
            std::future::pending::<()>().await;
        }
        let mut acts = self.acts.lock().unwrap();
        let body = acts.blobs.entry(request.digest).or_default();
        if body.len() as u64 == request.offset {
            body.extend_from_slice(&request.bytes);
        }
        let next = body.len() as u64;
        reply::<BlobPut>(&PieceReply { next, done: next == request.total })
    }

    async fn exec(&self, call: &Call) -> Result<Vec<u8>, Fail> {
        let request = call.request::<LeaseExec>()?;
        if request.vm > 0 {
            let text = format!("the lease has one machine, number 0; there is no {}", request.vm);
            return Err(Fail::ganeti(&GanetiError::prereq(text, Ecode::WrongInput)));
        }
        let (output, end) = {
            let mut acts = self.acts.lock().unwrap();
            acts.execs.push(request);
            (acts.output.clone(), acts.end)
        };
        for (stream, bytes) in [(Stream::Out, output.0), (Stream::Err, output.1)] {
            call.items::<LeaseExec>().send(&OutputPiece { stream, offset: 0, bytes }).await.unwrap();
        }
        self.news.notify_waiters();
        let why = match end {
            Some(why) => why,
            None => {
                loop {
                    let news = self.news.notified();
                    tokio::pin!(news);
                    news.as_mut().enable();
                    if self.acts.lock().unwrap().signals.contains(&0) {
                        break;
                    }
                    news.await;
                }
                Why::Cancelled
            }
        };
        let end = CommandEnd { why, wall_ms: 1, cpu_us: 1, memory_peak_bytes: 1, truncated: false };
        reply::<LeaseExec>(&end)
    }
}
