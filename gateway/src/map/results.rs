//! A map under way: the stream of its results.

use std::collections::VecDeque;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use farcall_channel::CodecError;
use futures_core::Stream;

use super::drive::Shared;
use super::fault::ItemError;
use super::progress::{Progress, ProgressEvents};
use super::schedule::Ended;

/// What makes a value of a reply's bytes.
pub(super) type Decode<V> = fn(&[u8]) -> Result<V, CodecError>;

/// A map under way: a stream of results, each with the place of its input, from zero on.
///
/// Every input that was taken ends in exactly one result. While nobody takes results, no more inputs are taken than the
/// [window](super::MapBuilder::window) allows, and then the workers rest.
///
/// Dropping it gives up what runs: `async` tasks are dropped where they wait, others can ask
/// [`Context::is_cancelled`](crate::Context::is_cancelled). The gateways stay as they are, but for those that the map started.
#[must_use = "dropping it stops the map"]
pub struct Map<V> {
    shared: Arc<Shared>,
    decode: Decode<V>,
    results: VecDeque<(u64, Ended)>,
}

impl<V> Map<V> {
    pub(super) fn new(shared: Arc<Shared>, decode: Decode<V>) -> Map<V> {
        Map { shared, decode, results: VecDeque::new() }
    }

    /// The next result, with the place of its input; `None` when every input has had its own.
    ///
    /// Cancel safety: nothing is lost.
    ///
    /// # Panics
    /// If the inputs panicked: after the results of those that came before, once.
    pub async fn next(&mut self) -> Option<(u64, Result<V, ItemError>)> {
        std::future::poll_fn(|cx| self.poll_result(cx)).await
    }

    /// All results, in the order of their inputs. What [`next`](Self::next) has returned is missing.
    ///
    /// Cancel safety: dropping it stops the map.
    ///
    /// # Panics
    /// As [`next`](Self::next).
    pub async fn all(mut self) -> Vec<Result<V, ItemError>> {
        let mut all = Vec::new();
        while let Some(result) = self.next().await {
            all.push(result);
        }
        all.sort_by_key(|(index, _)| *index);
        all.into_iter().map(|(_, result)| result).collect()
    }

    /// How far it is, from now on, as a stream that may outlive the map.
    ///
    /// ```no_run
    /// # use farcall::Gateway;
    /// # async fn square(n: u64) -> u64 { n * n }
    /// # async fn example(gateways: Vec<Gateway>) -> Result<(), farcall::BoxError> {
    /// let map = farcall::map(square, 0..1_000_000).on(&gateways).start()?;
    /// let mut events = map.progress();
    /// tokio::spawn(async move {
    ///     while let Some(progress) = events.next().await {
    ///         eprintln!("{} of {}, {:.0} a second", progress.done, progress.taken, progress.rate);
    ///     }
    /// });
    /// # drop(map);
    /// # Ok(())
    /// # }
    /// ```
    pub fn progress(&self) -> ProgressEvents {
        ProgressEvents::new(self.shared.progress())
    }

    /// How far it is now.
    pub fn snapshot(&self) -> Progress {
        self.shared.snapshot()
    }

    fn poll_result(&mut self, cx: &mut Context<'_>) -> Poll<Option<(u64, Result<V, ItemError>)>> {
        loop {
            if let Some((index, ended)) = self.results.pop_front() {
                let result = ended.and_then(|value| {
                    (self.decode)(value.as_slice()).map_err(|error| ItemError::Reply(Arc::new(error)))
                });
                return Poll::Ready(Some((index, result)));
            }
            // Once for each batch: a stream that never pauses must not keep other tasks from running.
            let progress = ready!(tokio::task::coop::poll_proceed(cx));
            if !ready!(self.shared.poll_results(&mut self.results, cx)) {
                if let Some(panic) = self.shared.take_panic() {
                    std::panic::resume_unwind(panic);
                }
                return Poll::Ready(None);
            }
            progress.made_progress();
        }
    }
}

impl<V> Stream for Map<V> {
    type Item = (u64, Result<V, ItemError>);

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        self.poll_result(cx)
    }
}

impl<V> Unpin for Map<V> {}

impl<V> Drop for Map<V> {
    fn drop(&mut self) {
        self.shared.drop_all();
    }
}

impl<V> std::fmt::Debug for Map<V> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Map").field("progress", &self.snapshot()).finish_non_exhaustive()
    }
}
