//! Several waits at once in one thread: what a lot of slots needs, without another library.

use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::task::Poll;

/// Completes when all of `works` did; their results in the same order. Each wake looks at all that are not done, so
/// the number of works should be small: tens, a node list at most.
pub async fn together<T, F: Future<Output = T>>(works: impl IntoIterator<Item = F>) -> Vec<T> {
    let mut works: Vec<Pin<Box<F>>> = works.into_iter().map(Box::pin).collect();
    let mut results: Vec<Option<T>> = works.iter().map(|_| None).collect();
    poll_fn(move |cx| {
        for (work, result) in works.iter_mut().zip(&mut results).filter(|(_, result)| result.is_none()) {
            if let Poll::Ready(done) = work.as_mut().poll(cx) {
                *result = Some(done);
            }
        }
        if results.iter().any(Option::is_none) {
            return Poll::Pending;
        }
        Poll::Ready(results.drain(..).flatten().collect())
    })
    .await
}

#[cfg(test)]
mod tests {
    use super::together;
    use tokio::sync::Barrier;

    #[tokio::test]
    async fn works_are_under_way_at_the_same_time() {
        let (barrier, none) = (&Barrier::new(3), Vec::<std::future::Ready<u8>>::new());
        // None passes before all three have come.
        let works = (0..3).map(|n| async move {
            barrier.wait().await;
            n
        });
        assert_eq!(together(works).await, [0, 1, 2]);
        assert!(together(none).await.is_empty());
    }
}
