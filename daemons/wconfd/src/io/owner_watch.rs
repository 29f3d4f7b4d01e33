//! The owner's part that feeds the watch streams: batches on their way to the disk, and who wants them.

use super::mailbox::Reply;
use super::owner::Owner;
use crate::core::config::{Change, Snapshot};
use gantry_model::config::kind;
use gantry_proto::wconfd::WatchChange;
use gantry_store::Index;
use std::collections::VecDeque;
use std::sync::Arc;
use tokio::sync::mpsc;

/// Committed batches that wait for one slow watcher. More, and it is cut off: it catches up from the
/// log, or begins anew.
const FEED_MAX: usize = 256;

/// One committed batch.
pub type Feed = (Index, Arc<Vec<WatchChange>>);

struct Watcher {
    /// It has everything up to here already.
    after: Index,
    feed: mpsc::Sender<Feed>,
}

/// The watchers, and the batches they will get.
#[derive(Default)]
pub(super) struct Watchers {
    all: Vec<Watcher>,
    appended: VecDeque<Feed>,
}

/// What a new watcher gets.
pub struct Watching {
    /// What it has to have before the feed: the feed goes on after this index.
    pub start: Index,
    /// The whole state at `start`, if it was asked for.
    pub state: Option<Snapshot>,
    /// Batches after `start`; it ends when the watcher is too slow.
    pub feed: mpsc::Receiver<Feed>,
}

/// A change as watchers see it; None for what is nobody's affair but wconfd's.
pub fn shown(kind: &str, key: &str, rev: u64, body: Option<&[u8]>) -> Option<WatchChange> {
    let body = body.map(|body| String::from_utf8_lossy(body).into_owned());
    (kind != kind::APPLIED).then(|| WatchChange { kind: kind.to_owned(), key: key.to_owned(), rev, body })
}

impl Watchers {
    /// Notes a batch that is on its way to the disk.
    pub(super) fn appended(&mut self, index: Index, changes: &[Change]) {
        let changes = changes.iter().filter_map(|c| shown(&c.kind, &c.key, c.rev, c.body.as_deref()));
        self.appended.push_back((index, Arc::new(changes.collect())));
    }

    /// Hands out what is committed.
    pub(super) fn advance(&mut self, committed: Index) {
        while let Some((index, changes)) = self.appended.pop_front_if(|(index, _)| *index <= committed) {
            self.all.retain(|watcher| {
                watcher.after >= index || watcher.feed.try_send((index, Arc::clone(&changes))).is_ok()
            });
        }
    }
}

impl Owner {
    /// A new watcher: of everything from now on, with the state at its beginning if `whole`.
    pub fn watch(&mut self, whole: bool, reply: Reply<Watching>) {
        let (send, feed) = mpsc::channel(FEED_MAX);
        let start = if whole { self.last } else { self.progress.committed };
        let state = whole.then(|| self.config.snapshot());
        self.watchers.all.retain(|watcher| !watcher.feed.is_closed());
        self.watchers.all.push(Watcher { after: start, feed: send });
        self.answer(reply, Ok(Watching { start, state, feed }));
    }
}
