//! How much of a stream may be under way: [`STREAM_WINDOW`] items, and [`WINDOW_BYTES`] of them or one item more. So long
//! as its caller takes nothing, a stream holds no more memory than that, here or there.

use gantry_proto::envelope::STREAM_WINDOW;
use std::collections::VecDeque;
use std::sync::{Mutex, MutexGuard, PoisonError};
use tokio::sync::{Notify, Semaphore, SemaphorePermit};

/// Bytes under way from which on no further item is sent. More than [`LOT_BYTES`], so that a caller who has taken all
/// never withholds what the sender waits for.
pub const WINDOW_BYTES: usize = 4 << 20;
/// Credit is given back when this many items were taken, or this many bytes.
const LOT: u32 = STREAM_WINDOW / 2;
const LOT_BYTES: usize = WINDOW_BYTES / 4;

/// The sender's side.
#[derive(Debug)]
pub struct Window {
    items: Semaphore,
    held: Mutex<Held>,
    freed: Notify,
}

#[derive(Debug, Default)]
struct Held {
    bytes: usize,
    /// Of the items under way, in their order.
    sizes: VecDeque<usize>,
}

/// Leave to send one item. Dropped unused, it is given back.
#[derive(Debug)]
pub struct Leave<'w> {
    window: &'w Window,
    item: Option<SemaphorePermit<'w>>,
    bytes: usize,
}

impl Window {
    pub fn new() -> Self {
        Self { items: Semaphore::new(STREAM_WINDOW as usize), held: Mutex::default(), freed: Notify::new() }
    }

    fn lock(&self) -> MutexGuard<'_, Held> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits until an item of `bytes` may be sent. None: the call is over.
    pub async fn leave(&self, bytes: usize) -> Option<Leave<'_>> {
        let item = self.items.acquire().await.ok()?;
        loop {
            let freed = self.freed.notified();
            tokio::pin!(freed);
            freed.as_mut().enable();
            if self.is_closed() {
                return None;
            }
            {
                let mut held = self.lock();
                if held.bytes < WINDOW_BYTES {
                    held.bytes += bytes;
                    break;
                }
            }
            freed.await;
        }
        Some(Leave { window: self, item: Some(item), bytes })
    }

    /// The caller has taken so many items, if that many are under way.
    pub fn credit(&self, items: u32) -> bool {
        if self.items.available_permits() + items as usize > STREAM_WINDOW as usize {
            return false;
        }
        let mut held = self.lock();
        let count = held.sizes.len().min(items as usize);
        let bytes: usize = held.sizes.drain(..count).sum();
        held.bytes -= bytes;
        drop(held);
        self.items.add_permits(items as usize);
        self.freed.notify_waiters();
        true
    }

    /// The call is over.
    pub fn close(&self) {
        self.items.close();
        self.freed.notify_waiters();
    }

    pub fn is_closed(&self) -> bool {
        self.items.is_closed()
    }
}

impl Leave<'_> {
    /// Sends the item by `push`: sizes are kept in the order in which items leave.
    pub fn used(mut self, push: impl FnOnce()) {
        let mut held = self.window.lock();
        held.sizes.push_back(std::mem::take(&mut self.bytes));
        push();
        drop(held);
        if let Some(item) = self.item.take() {
            item.forget();
        }
    }
}

impl Drop for Leave<'_> {
    fn drop(&mut self) {
        if self.bytes > 0 {
            self.window.lock().bytes -= self.bytes;
            self.window.freed.notify_waiters();
        }
    }
}

/// The caller's side: what it has taken since it last gave credit.
#[derive(Debug, Default)]
pub struct Taken {
    items: u32,
    bytes: usize,
}

impl Taken {
    /// One more item is taken. How many to give credit for, if it is time.
    pub fn one(&mut self, bytes: usize) -> Option<u32> {
        self.items += 1;
        self.bytes += bytes;
        if self.items < LOT && self.bytes < LOT_BYTES {
            return None;
        }
        self.bytes = 0;
        Some(std::mem::take(&mut self.items))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::task::{Context, Poll, Waker};

    fn leave(window: &Window, bytes: usize) -> Option<Leave<'_>> {
        let mut waits = Box::pin(window.leave(bytes));
        match waits.as_mut().poll(&mut Context::from_waker(Waker::noop())) {
            Poll::Ready(leave) => leave,
            Poll::Pending => None,
        }
    }

    fn send(window: &Window, bytes: usize) -> bool {
        leave(window, bytes).map(|leave| leave.used(|| ())).is_some()
    }

    #[test]
    fn few_large_items_or_many_small_ones_are_under_way() {
        for (bytes, wanted) in [(1, 64), (64 << 10, 64), (1 << 20, 4), (3 << 20, 2), (4 << 20, 1)] {
            let window = Window::new();
            let sent = (0..100).filter(|_| send(&window, bytes)).count();
            assert_eq!(sent, wanted, "items of {bytes} bytes");
            assert!(window.credit(1) && send(&window, bytes));
        }
    }

    #[test]
    fn a_caller_who_has_taken_all_holds_nobody_up() {
        for bytes in [0, 1, 40 << 10, (1 << 20) - 1, 1 << 20, 4 << 20] {
            let (window, mut taken) = (Window::new(), Taken::default());
            for sent in 0..500 {
                assert!(send(&window, bytes + 30), "item {sent} of {bytes} bytes");
                if let Some(items) = taken.one(bytes) {
                    assert!(window.credit(items));
                }
            }
        }
    }

    #[test]
    fn leave_that_is_not_used_is_given_back() {
        let window = Window::new();
        for _ in 0..100 {
            drop(leave(&window, WINDOW_BYTES));
        }
        assert!(send(&window, 1) && !window.credit(64) && window.credit(1) && !window.credit(1));
        window.close();
        assert!(!send(&window, 1));
    }
}
