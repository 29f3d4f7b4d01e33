//! What changes in the configuration, told to whoever listens: watchers of `stream.sock`, calls that depend on a lease.

use crate::core::mirror::{ObjectChange, Touched};
use tokio::sync::broadcast;

/// News that a listener may be behind before it is told that it lost some.
const NEWS_MAX: usize = 4096;

/// One piece of news.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum News {
    /// An object changed.
    Changed(ObjectChange),
    /// A whole state came anew: anything may have changed.
    All,
}

/// The sender. Clones share it.
#[derive(Debug, Clone)]
pub struct Feed(broadcast::Sender<News>);

impl Default for Feed {
    fn default() -> Self {
        Self(broadcast::Sender::new(NEWS_MAX))
    }
}

impl Feed {
    /// Tells what an item of wconfd's stream changed, once readers can see it.
    pub fn tell(&self, touched: Touched) {
        let all = touched.all.then_some(News::All);
        for news in all.into_iter().chain(touched.objects.into_iter().map(News::Changed)) {
            // Fails when nobody listens.
            let _ = self.0.send(news);
        }
    }

    /// Everything from now on.
    #[must_use]
    pub fn listen(&self) -> broadcast::Receiver<News> {
        self.0.subscribe()
    }
}
