//! A number of processes that run functions for whoever asks.

use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore, watch};

use super::child::{Birth, Child, Gone, Remains, prepare, value_in};
use super::error::{PoolError, RunError};
use super::options::Options;
use super::socket::Received;
use super::wire::Call;
use crate::task::Task;

/// So many workers may turn out to be dead one after another, before a call gives up: somebody kills them all.
const ATTEMPTS: u32 = 8;

/// A pool of worker processes. Cloning is cheap; all clones are one pool. When the last is dropped, and no call is left, the
/// workers end.
///
/// Processes are started when they are needed, up to the pool's size. Calls that find all busy wait in the order in which they
/// came. A worker that died, or that a dropped call could not be got out of, is replaced.
///
/// ```no_run
/// use std::time::Duration;
/// use farcall::local::Options;
/// # fn parse(text: String) -> Result<u64, std::num::ParseIntError> { text.parse() }
///
/// # async fn example() -> Result<(), farcall::local::PoolError> {
/// let parsers = Options::new().memory(1 << 30).time_limit(Duration::from_secs(10)).pool(4);
/// let (one, two) = tokio::try_join!(
///     parsers.call(parse, ("1".to_owned(),)),
///     parsers.call(parse, ("2".to_owned(),)),
/// )?;
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug)]
pub struct Pool {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    options: Options,
    size: usize,
    /// One for each worker that runs a call, starts, or is recovered. Whoever waits gets them in order.
    turns: Arc<Semaphore>,
    /// Those that wait for work; the one that worked last is first.
    idle: Mutex<Vec<Child>>,
    closed: AtomicBool,
    closing: Notify,
    /// How many turns are taken.
    busy: watch::Sender<usize>,
}

/// A turn, with the worker that it is for.
struct Turn {
    shared: Arc<Shared>,
    child: Option<Child>,
    /// What a start may leave behind.
    remains: Option<Remains>,
    permit: Option<OwnedSemaphorePermit>,
}

/// A turn that is over when this is dropped.
struct Taken {
    shared: Arc<Shared>,
    _permit: Option<OwnedSemaphorePermit>,
}

impl Drop for Taken {
    fn drop(&mut self) {
        self.shared.busy.send_modify(|busy| *busy -= 1);
    }
}

impl Shared {
    fn idle(&self) -> MutexGuard<'_, Vec<Child>> {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Puts a worker back. One that has worked enough, or that nobody wants any more, is to be ended: it is returned.
    fn put_back(&self, child: Child) -> Option<Child> {
        if self.options.max_calls.is_some_and(|max| child.answered >= max) {
            return Some(child);
        }
        let mut idle = self.idle();
        // Looked at under the lock that closing empties it under.
        if self.closed.load(SeqCst) {
            return Some(child);
        }
        idle.push(child);
        None
    }
}

impl Drop for Turn {
    /// Also when a call is dropped: then its worker is to be recovered, or replaced.
    fn drop(&mut self) {
        let taken = Taken { shared: Arc::clone(&self.shared), _permit: self.permit.take() };
        if let Some(remains) = self.remains.take()
            && let Ok(driver) = crate::open::driver()
        {
            // Ends when nothing is left of the start, and the turn with it.
            driver.spawn(async move {
                remains.gone().await;
                drop(taken);
            });
            return;
        }
        let Some(child) = self.child.take() else { return };
        if !child.is_busy() {
            if let Some(child) = self.shared.put_back(child) {
                let driver = child.driver().clone();
                // Ends within the grace, and the turn with it: there are never more processes than the pool may have.
                driver.spawn(async move {
                    child.end().await;
                    drop(taken);
                });
            }
            return;
        }
        let driver = child.driver().clone();
        // Ends within the grace, and the turn with it.
        driver.spawn(async move {
            if taken.shared.closed.load(SeqCst) {
                child.kill().await;
            } else if let Ok(child) = child.recover().await
                && let Some(child) = taken.shared.put_back(child)
            {
                child.end().await;
            }
            drop(taken);
        });
    }
}

impl Pool {
    /// A pool of at most `size` workers, at least one, with the usual [`Options`].
    pub fn new(size: usize) -> Pool {
        Options::new().pool(size)
    }

    pub(super) fn with(size: usize, options: Options) -> Pool {
        let size = size.clamp(1, Semaphore::MAX_PERMITS);
        Pool {
            shared: Arc::new(Shared {
                options,
                size,
                turns: Arc::new(Semaphore::new(size)),
                idle: Mutex::default(),
                closed: AtomicBool::new(false),
                closing: Notify::new(),
                busy: watch::Sender::new(0),
            }),
        }
    }

    /// How many workers it has at most.
    pub fn size(&self) -> usize {
        self.shared.size
    }

    /// Runs a function in one of the workers.
    ///
    /// A worker that turns out to be dead before it has read the call is replaced without a word, unless ends of pipes went
    /// with the call. What may have begun is never run again: the error says how the worker ended.
    ///
    /// Cancel safety: dropping it ends the function. One that waits is dropped where it waits; a worker that computes is
    /// killed after the grace, and replaced.
    ///
    /// # Errors
    /// See [`PoolError`].
    pub async fn call<F: Task<M>, M>(&self, task: F, args: F::Args) -> Result<F::Value, PoolError> {
        let mut call = prepare(task, args)?;
        let received = self.exchange(&mut call).await?;
        Ok(value_in(received)?)
    }

    async fn exchange(&self, call: &mut Call) -> Result<Received, PoolError> {
        let shared = &self.shared;
        for attempt in 1.. {
            let permit = Arc::clone(&shared.turns).acquire_owned().await.map_err(|_| PoolError::Closed)?;
            shared.busy.send_modify(|busy| *busy += 1);
            let mut turn =
                Turn { shared: Arc::clone(shared), child: None, remains: None, permit: Some(permit) };
            let closing = shared.closing.notified();
            let mut closing = std::pin::pin!(closing);
            closing.as_mut().enable();
            if shared.closed.load(SeqCst) {
                return Err(PoolError::Closed);
            }
            tokio::select! {
                biased;
                exchanged = turn.exchange(call, attempt) => match exchanged? {
                    Ok(received) => return Ok(received),
                    Err(gone) => {
                        let unread = matches!(gone, Gone::Unread);
                        let error = turn.child.as_mut().expect("it did not reply").explain(gone).await;
                        // It has ended.
                        turn.child = None;
                        if !unread || !call.is_repeatable() || attempt == ATTEMPTS {
                            return Err(error.into());
                        }
                    }
                },
                () = closing => return Err(PoolError::Closed),
            }
        }
        unreachable!("the attempts are numbered")
    }

    /// Closes the pool: calls that wait or run fail with [`PoolError::Closed`], and no more are taken. Returns when all
    /// workers have ended.
    ///
    /// Cancel safety: the pool is closed also when this is dropped; may be called again.
    pub async fn close(&self) {
        let shared = &self.shared;
        shared.closed.store(true, SeqCst);
        shared.turns.close();
        shared.closing.notify_waiters();
        let idle = std::mem::take(&mut *shared.idle());
        idle.iter().for_each(|child| child.gateway().exit());
        for child in idle {
            child.end().await;
        }
        let mut busy = shared.busy.subscribe();
        // The sender lives as long as the pool.
        let _ = busy.wait_for(|busy| *busy == 0).await;
    }
}

impl Turn {
    async fn exchange(&mut self, call: &mut Call, attempt: u32) -> Result<Result<Received, Gone>, RunError> {
        // Looking costs as much as a tenth of a call. That one is dead shows when it does not read the call, which can be sent again.
        let trusting = attempt == 1 && call.is_repeatable();
        let child = loop {
            let idle = self.shared.idle().pop();
            let Some(mut child) = idle else {
                break Birth::begin(&self.shared.options, None)?.finish(&mut self.remains).await?;
            };
            if trusting || !child.is_dead() {
                break child;
            }
            // In its place, so that its turn is not over before it is gone.
            self.child.insert(child).kill().await;
            self.child = None;
        };
        let limit = self.shared.options.time_limit;
        self.child.insert(child).exchange_within(call, limit).await
    }
}
