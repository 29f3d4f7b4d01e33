//! One connection on the server's side: one task that reads requests, polls their handlers and writes answers.
//! Dropping [`Conn`] drops the handlers.

use crate::link::{FRAMES_PER_TURN, Link, LinkError, Outbox};
use crate::serve::Limits;
use crate::service::{Call, Handled, Peer, Service};
use crate::window::Window;
use futures_util::future::{AbortHandle, Abortable};
use futures_util::stream::{FuturesUnordered, Stream};
use gantry_proto::envelope::{Code, Envelope, Fail, Part};
use std::collections::HashMap;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::time::Sleep;
use tokio_util::sync::CancellationToken;

/// A handler with its call's number and deadline.
struct Running {
    id: u64,
    work: Handled,
    deadline: Option<Pin<Box<Sleep>>>,
}

impl Future for Running {
    type Output = (u64, Result<Vec<u8>, Fail>);

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        if let Poll::Ready(done) = self.work.as_mut().poll(cx) {
            return Poll::Ready((self.id, done));
        }
        let late = self.deadline.as_mut().is_some_and(|sleep| sleep.as_mut().poll(cx).is_ready());
        if late {
            let fail = Fail::new(Code::Deadline, "time ran out on the server");
            return Poll::Ready((self.id, Err(fail)));
        }
        Poll::Pending
    }
}

/// What must be known of a call from outside its handler.
struct InFlight {
    abort: AbortHandle,
    credit: Arc<Window>,
    bytes: usize,
}

impl Drop for InFlight {
    fn drop(&mut self) {
        self.abort.abort();
        self.credit.close();
    }
}

/// One connection.
pub(crate) struct Conn<T, S: ?Sized> {
    link: Link<T>,
    out: Arc<Outbox>,
    service: Arc<S>,
    peer: Arc<Peer>,
    limits: Limits,
    running: FuturesUnordered<Abortable<Running>>,
    calls: HashMap<u64, InFlight>,
    request_bytes: usize,
    drain: Option<Pin<Box<Sleep>>>,
}

/// How a connection ended.
#[derive(Debug)]
pub(crate) enum End {
    /// The peer closed.
    Closed,
    /// This server stops.
    Stopped,
    /// The peer broke the protocol, or the socket broke.
    Broken(LinkError),
}

impl<T: AsyncRead + AsyncWrite + Unpin, S: Service + ?Sized> Conn<T, S> {
    pub fn new(link: Link<T>, out: Arc<Outbox>, service: Arc<S>, peer: Arc<Peer>, limits: Limits) -> Self {
        Self {
            link,
            out,
            service,
            peer,
            limits,
            running: FuturesUnordered::new(),
            calls: HashMap::new(),
            request_bytes: 0,
            drain: None,
        }
    }

    /// Serves until the peer closes, breaks the protocol, or `stop`; the handlers are dropped when it returns.
    pub async fn run(mut self, stop: &CancellationToken) -> End {
        let mut stopped = std::pin::pin!(stop.cancelled());
        let end = std::future::poll_fn(|cx| {
            if self.drain.is_none() && stopped.as_mut().poll(cx).is_ready() {
                self.drain = Some(Box::pin(tokio::time::sleep(self.limits.drain)));
            }
            self.turn(cx)
        })
        .await;
        let Self { link, out, running, calls, .. } = self;
        drop(running);
        drop(calls);
        if let End::Broken(error @ (LinkError::Garbage(_) | LinkError::Stalled(_))) = &end {
            out.push_small(0, Part::Fail(Fail::new(Code::BadRequest, error.to_string())));
        }
        link.finish().await;
        out.ended();
        end
    }

    /// One turn: read, work, write.
    fn turn(&mut self, cx: &mut Context<'_>) -> Poll<End> {
        self.out.quiet();
        match self.take_in(cx) {
            Ok(true) => return Poll::Ready(End::Closed),
            Ok(false) => {}
            Err(error) => return Poll::Ready(End::Broken(error)),
        }
        self.work(cx);
        let was_full = self.out.is_full();
        let sent = self.link.poll_send(cx);
        if let Poll::Ready(Err(error)) = sent {
            return Poll::Ready(End::Broken(error));
        }
        if was_full && !self.out.is_full() {
            // What the full queue held back goes on.
            cx.waker().wake_by_ref();
        }
        if let Poll::Ready(error) = self.link.poll_stall(cx) {
            return Poll::Ready(End::Broken(error));
        }
        self.poll_drain(cx, sent.is_ready())
    }

    /// Reads frames while there is room for their answers. True when the peer closed.
    fn take_in(&mut self, cx: &mut Context<'_>) -> Result<bool, LinkError> {
        for _ in 0..FRAMES_PER_TURN {
            if self.out.is_full() {
                return Ok(false);
            }
            match self.link.poll_recv(cx) {
                Poll::Ready(Ok(Some(envelope))) => self.dispatch(envelope)?,
                Poll::Ready(Ok(None)) => return Ok(true),
                Poll::Ready(Err(error)) => return Err(error),
                Poll::Pending => return Ok(false),
            }
        }
        cx.waker().wake_by_ref();
        Ok(false)
    }

    /// Polls handlers while there is room for their answers.
    fn work(&mut self, cx: &mut Context<'_>) {
        for _ in 0..FRAMES_PER_TURN {
            if self.running.is_empty() || self.out.is_full() {
                return;
            }
            match Pin::new(&mut self.running).poll_next(cx) {
                Poll::Ready(Some(Ok((id, done)))) => self.answer(id, done),
                // A cancelled one: nobody wants its answer.
                Poll::Ready(Some(Err(_aborted))) => {}
                Poll::Ready(None) | Poll::Pending => return,
            }
        }
        cx.waker().wake_by_ref();
    }

    /// After `stop`: ends when all is answered and written, or the time is up.
    fn poll_drain(&mut self, cx: &mut Context<'_>, all_sent: bool) -> Poll<End> {
        let Some(drain) = &mut self.drain else { return Poll::Pending };
        if (all_sent && self.calls.is_empty()) || drain.as_mut().poll(cx).is_ready() {
            return Poll::Ready(End::Stopped);
        }
        Poll::Pending
    }

    fn dispatch(&mut self, Envelope { id, part }: Envelope) -> Result<(), LinkError> {
        match part {
            Part::Request { verb, deadline_ms, trace, body } => {
                if id == 0 || self.calls.contains_key(&id) {
                    return Err(LinkError::Garbage(format!("call number {id} used twice")));
                }
                match self.room_for(body.len()) {
                    Err(fail) => self.out.push_small(id, Part::Fail(fail)),
                    Ok(()) => self.begin(id, verb, deadline_ms, trace, body),
                }
            }
            Part::Cancel => self.forget(id),
            Part::Credit { items } => self.credit(id, items)?,
            Part::Reply { .. } | Part::Fail(_) | Part::Item { .. } => {
                return Err(LinkError::Garbage("a server's frame from a caller".to_owned()));
            }
        }
        Ok(())
    }

    fn room_for(&self, bytes: usize) -> Result<(), Fail> {
        if self.drain.is_some() {
            return Err(Fail::new(Code::NotReady, "the server is stopping"));
        }
        if self.calls.len() >= self.limits.calls {
            return Err(Fail::new(Code::Busy, format!("{} calls are under way", self.calls.len())));
        }
        if self.request_bytes + bytes > crate::REQUEST_BYTES_MAX {
            return Err(Fail::new(Code::Busy, "requests under way hold too many bytes"));
        }
        Ok(())
    }

    fn begin(&mut self, id: u64, verb: u16, deadline_ms: u64, trace: String, body: Vec<u8>) {
        let (abort, registration) = AbortHandle::new_pair();
        let credit = Arc::new(Window::new());
        let deadline = (deadline_ms > 0).then(|| Duration::from_millis(deadline_ms));
        self.request_bytes += body.len();
        self.calls.insert(id, InFlight { abort, credit: Arc::clone(&credit), bytes: body.len() });
        let peer = Arc::clone(&self.peer);
        let call = Call { peer, verb, trace, deadline, body, id, out: Arc::clone(&self.out), credit };
        let work = Arc::clone(&self.service).handle(call);
        let deadline = deadline.map(|limit| Box::pin(tokio::time::sleep(limit)));
        self.running.push(Abortable::new(Running { id, work, deadline }, registration));
    }

    fn credit(&mut self, id: u64, items: u32) -> Result<(), LinkError> {
        let Some(call) = self.calls.get(&id) else { return Ok(()) };
        if !call.credit.credit(items) {
            return Err(LinkError::Garbage(format!("credit of {items} for call {id} is over the window")));
        }
        Ok(())
    }

    fn forget(&mut self, id: u64) {
        if let Some(call) = self.calls.remove(&id) {
            self.request_bytes -= call.bytes;
        }
    }

    fn answer(&mut self, id: u64, done: Result<Vec<u8>, Fail>) {
        if !self.calls.contains_key(&id) {
            return;
        }
        self.forget(id);
        let part = match done {
            Ok(body) => Part::Reply { body },
            Err(fail) => Part::Fail(fail),
        };
        match self.out.encode(id, part) {
            Ok(bytes) => self.out.push(bytes, None),
            Err(error) => self.out.push_small(id, Part::Fail(Fail::new(Code::Internal, error.to_string()))),
        }
    }
}
