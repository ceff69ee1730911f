//! How far a map is, in numbers that people look at.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use futures_core::Stream;
use tokio::sync::watch;

use super::gate::State;
use super::schedule::Scheduler;

/// Over how long the rate is taken.
const SPAN: Duration = Duration::from_secs(1);

/// How far a map is.
#[derive(Clone, Debug, Default, PartialEq)]
#[non_exhaustive]
pub struct Progress {
    /// Inputs taken so far.
    pub taken: u64,
    /// Inputs that have a value.
    pub done: u64,
    /// Inputs that have failed for good.
    pub failed: u64,
    /// Items that gateways have, those that run and those that wait there.
    pub out: u64,
    /// Items that wait here: for a gateway, or for a lost one to be certainly over.
    pub waiting: u64,
    /// Results that were not taken yet.
    pub held: u64,
    /// Tries after the first.
    pub retried: u64,
    /// Items that moved on from lost gateways.
    pub moved: u64,
    /// Gateways that were started in place of lost ones.
    pub replaced: u64,
    /// Since the map began.
    pub elapsed: Duration,
    /// Results a second, of late.
    pub rate: f64,
    /// Whether every input has its result.
    pub finished: bool,
    /// Each gateway that the map has, or had.
    pub gateways: Vec<GatewayProgress>,
}

/// How far one gateway of a map is.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct GatewayProgress {
    /// Its id; empty for one that is being started.
    pub id: Arc<str>,
    /// What it is doing.
    pub state: GatewayState,
    /// How many items it runs at once.
    pub slots: u32,
    /// Items that it has: as many as there are slots run, the others wait there.
    pub out: u32,
    /// Slots that are taken by items that were given up and cannot be stopped.
    pub stuck: u32,
    /// Items that it has done.
    pub done: u64,
    /// Tries that failed.
    pub failed: u64,
    /// How long an item runs there, of late.
    pub item_time: Option<Duration>,
}

/// What a gateway of a map is doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum GatewayState {
    /// It is being started, or asked for the first time.
    Connecting,
    /// It runs items.
    Working,
    /// It runs suspects: items that were at a worker when that died.
    Examining,
    /// It has ended.
    Lost,
}

pub(super) fn describe(
    scheduler: &Scheduler,
    ids: impl Iterator<Item = Arc<str>>,
    now: Duration,
    rate: f64,
    over: bool,
    replaced: u64,
) -> Progress {
    let counts = scheduler.counts();
    let (waiting, held) = scheduler.waiting();
    let gateways: Vec<GatewayProgress> = scheduler
        .gates()
        .zip(ids)
        .map(|(gate, id)| GatewayProgress {
            id,
            state: match gate.state {
                State::Opening => GatewayState::Connecting,
                State::Live if gate.examines => GatewayState::Examining,
                State::Live => GatewayState::Working,
                State::Lost => GatewayState::Lost,
            },
            slots: gate.slots,
            out: gate.out,
            stuck: gate.stuck,
            done: gate.done,
            failed: gate.failed,
            item_time: gate.pace.run(),
        })
        .collect();
    Progress {
        taken: counts.taken,
        done: counts.done,
        failed: counts.failed,
        out: gateways.iter().map(|gateway| u64::from(gateway.out)).sum(),
        waiting: waiting as u64,
        held: held as u64,
        retried: counts.retried,
        moved: counts.moved,
        replaced,
        elapsed: now,
        rate,
        finished: over,
        gateways,
    }
}

/// Counts by the time, so that a rate can be taken over the last second.
#[derive(Debug, Default)]
pub(super) struct Rate {
    before: (Duration, u64),
    last: (Duration, u64),
}

impl Rate {
    pub(super) fn at(&mut self, now: Duration, count: u64) -> f64 {
        if now.saturating_sub(self.last.0) >= SPAN {
            self.before = self.last;
            self.last = (now, count);
        }
        let (since, counted) = self.before;
        let time = now.saturating_sub(since).as_secs_f64();
        if time > 0.0 { (count.saturating_sub(counted)) as f64 / time } else { 0.0 }
    }
}

/// How far a map is, told about ten times a second: from [`Map::progress`](super::Map::progress).
///
/// Whoever looks seldom misses what was in between. The last says that the map is finished; then this ends.
pub struct ProgressEvents {
    state: Option<watch::Receiver<Progress>>,
    waiting: Option<Waiting>,
}

type Waiting = Pin<Box<dyn Future<Output = (watch::Receiver<Progress>, bool)> + Send>>;

impl ProgressEvents {
    pub(super) fn new(receiver: watch::Receiver<Progress>) -> ProgressEvents {
        ProgressEvents { state: Some(receiver), waiting: None }
    }

    /// The next event; `None` after the last.
    ///
    /// Cancel safety: nothing is lost.
    pub async fn next(&mut self) -> Option<Progress> {
        std::future::poll_fn(|cx| Pin::new(&mut *self).poll_next(cx)).await
    }
}

impl Stream for ProgressEvents {
    type Item = Progress;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Progress>> {
        if let Some(mut receiver) = self.state.take() {
            if receiver.borrow().finished && !receiver.has_changed().unwrap_or(false) {
                return Poll::Ready(None);
            }
            self.waiting = Some(Box::pin(async move {
                let changed = receiver.changed().await.is_ok();
                (receiver, changed)
            }));
        }
        let Some(waiting) = &mut self.waiting else { return Poll::Ready(None) };
        let (mut receiver, changed) = ready!(waiting.as_mut().poll(cx));
        self.waiting = None;
        if !changed {
            return Poll::Ready(None);
        }
        let progress = receiver.borrow_and_update().clone();
        self.state = Some(receiver);
        Poll::Ready(Some(progress))
    }
}

impl std::fmt::Debug for ProgressEvents {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ProgressEvents").finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_rate_is_that_of_the_last_second_or_two() {
        let mut rate = Rate::default();
        assert_eq!(rate.at(Duration::from_millis(500), 50), 100.0);
        for second in 1..10 {
            rate.at(Duration::from_secs(second), second * 1000);
        }
        assert_eq!(rate.at(Duration::from_millis(9500), 9500), 1000.0);
        assert!(rate.at(Duration::from_secs(11), 9500) < 600.0);
    }
}
