//! The limit of one attempt to connect, which does not run while a person is asked.

use std::future::Future;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::Instant;

/// The limit of an attempt passed.
#[derive(Debug, thiserror::Error)]
#[error("nothing more came within the limit of {} s", limit.as_secs_f32())]
pub(crate) struct Late {
    pub limit: Duration,
}

/// A limit that several steps share.
#[derive(Debug)]
pub(crate) struct Clock {
    limit: Duration,
    state: Mutex<State>,
    changed: watch::Sender<()>,
}

#[derive(Debug)]
enum State {
    Running { deadline: Instant },
    Paused { left: Duration },
}

/// The longest limit: nobody waits longer, and greater ones have no end that an [`Instant`] could hold.
const LONGEST: Duration = Duration::from_secs(365 * 24 * 60 * 60);

impl Clock {
    pub(crate) fn start(limit: Duration) -> Self {
        let limit = limit.min(LONGEST);
        Self {
            limit,
            state: Mutex::new(State::Running { deadline: Instant::now() + limit }),
            changed: watch::Sender::new(()),
        }
    }

    /// Runs `step` until it ends or the limit has passed, whichever is first; `step` is dropped then.
    pub(crate) async fn within<T>(&self, step: impl Future<Output = T>) -> Result<T, Late> {
        tokio::pin!(step);
        let mut changed = self.changed.subscribe();
        loop {
            let deadline = match *self.state.lock().unwrap_or_else(PoisonError::into_inner) {
                State::Running { deadline } => Some(deadline),
                State::Paused { .. } => None,
            };
            let late = async {
                match deadline {
                    Some(deadline) => tokio::time::sleep_until(deadline).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                biased;
                done = &mut step => return Ok(done),
                _ = changed.changed() => {}
                () = late => return Err(Late { limit: self.limit }),
            }
        }
    }

    /// Runs `question` while the clock stands still.
    pub(crate) async fn paused<T>(&self, question: impl Future<Output = T>) -> T {
        let _pause = Pause::of(self);
        question.await
    }

    /// What is left, nothing when it has passed.
    pub(crate) fn left(&self) -> Duration {
        match *self.state.lock().unwrap_or_else(PoisonError::into_inner) {
            State::Running { deadline } => deadline.saturating_duration_since(Instant::now()),
            State::Paused { left } => left,
        }
    }
}

/// The clock goes on when this is dropped, so that a cancelled question does not stop it for ever.
struct Pause<'a> {
    clock: &'a Clock,
    outermost: bool,
}

impl<'a> Pause<'a> {
    fn of(clock: &'a Clock) -> Self {
        let left = clock.left();
        let mut state = clock.state.lock().unwrap_or_else(PoisonError::into_inner);
        let outermost = matches!(*state, State::Running { .. });
        *state = State::Paused { left };
        drop(state);
        clock.changed.send_replace(());
        Self { clock, outermost }
    }
}

impl Drop for Pause<'_> {
    fn drop(&mut self) {
        if !self.outermost {
            return;
        }
        let left = self.clock.left();
        *self.clock.state.lock().unwrap_or_else(PoisonError::into_inner) =
            State::Running { deadline: Instant::now() + left };
        self.clock.changed.send_replace(());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_limit_without_end_is_a_year() {
        let clock = Clock::start(Duration::MAX);
        clock.within(clock.paused(async {})).await.expect("in time");
        assert_eq!(clock.left(), LONGEST);
        let late = clock.within(std::future::pending::<()>()).await.expect_err("in the end");
        assert_eq!(late.limit, LONGEST);
    }

    #[tokio::test(start_paused = true)]
    async fn time_in_which_a_person_is_asked_does_not_count() {
        let clock = Clock::start(Duration::from_secs(10));
        clock.within(tokio::time::sleep(Duration::from_secs(6))).await.expect("in time");
        let asked = clock.within(clock.paused(tokio::time::sleep(Duration::from_secs(3600)))).await;
        asked.expect("the clock stood still");
        clock.within(tokio::time::sleep(Duration::from_secs(3))).await.expect("in time");
        let late = clock.within(tokio::time::sleep(Duration::from_secs(3))).await;
        assert_eq!(late.expect_err("too late").limit, Duration::from_secs(10));
        assert_eq!(clock.left(), Duration::ZERO);
    }
}
