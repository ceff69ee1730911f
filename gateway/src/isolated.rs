//! Tasks in processes of their own, with hard limits in time and memory.

use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use farcall_bootstrap::{Class, Exit};
use farcall_channel::{Cbor, Channel, Codec, CodecError, Receiver, Sender};
use tokio::sync::{OnceCell, OwnedSemaphorePermit, Semaphore};
use tokio::task::AbortHandle;

use crate::call::CallError;
use crate::end::GatewayEnd;
use crate::failure::{Failure, Panic};
use crate::gateway::Gateway;
use crate::open::OpenError;
use crate::spec::Spec;
use crate::task::Task;

/// What Rust programs end by when memory runs out; the same number on every system.
const ABORT: i32 = 6;

/// Tasks on a gateway's host that are run in processes of their own: from [`Gateway::isolated`].
///
/// A task that computes cannot be stopped from within its process. Here it has a process to itself, so that a limit is hard
/// and a dropped call is really cancelled: the process is killed with everything that it started. Otherwise it is kept for the next
/// call, with what the task left in it (statics, threads, [state](crate::Context::state)). There are at most as
/// many such processes as the gateway's worker has slots, and each runs one task at a time; more calls wait for their turn.
///
/// What is printed there comes with the gateway's own [output](Gateway::output).
///
/// ```no_run
/// use std::time::Duration;
/// use farcall::{Gateway, IsolatedError};
///
/// fn parse(text: String) -> Result<u64, std::num::ParseIntError> {
///     text.parse()
/// }
///
/// # async fn example(gateway: Gateway) -> Result<(), Box<dyn std::error::Error>> {
/// let careful = gateway.isolated().limit(Duration::from_secs(2)).memory(256 << 20);
/// match careful.call(parse, ("12".into(),)).await {
///     Ok(number) => println!("{number}"),
///     Err(IsolatedError::TimeLimit { .. } | IsolatedError::MemoryLimit { .. }) => println!("too much"),
///     Err(IsolatedError::Killed { signal, .. }) => println!("it crashed by signal {signal}"),
///     Err(error) => return Err(error.into()),
/// }
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug)]
pub struct Isolated {
    gateway: Gateway,
    settings: Settings,
}

#[derive(Clone, Debug, Default)]
struct Settings {
    limit: Option<Duration>,
    memory: Option<u64>,
    start_limit: Option<Duration>,
}

/// Why an isolated task gave no value.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum IsolatedError {
    /// The task returned an error.
    #[error(transparent)]
    Failed(Failure),
    /// The task panicked.
    #[error(transparent)]
    Panicked(Panic),
    /// The time limit passed; the process was killed.
    #[error("the task took longer than {} s and was killed", .limit.as_secs_f64())]
    TimeLimit {
        /// The limit.
        limit: Duration,
    },
    /// The process aborted, as it does when an allocation fails, and its memory was limited. A task that calls
    /// [`abort`](std::process::abort) under a limit of memory cannot be told from that.
    #[error("the task needed more memory than {bytes} bytes, or aborted")]
    MemoryLimit {
        /// The limit in bytes.
        bytes: u64,
    },
    /// The process was killed by a signal that nobody here sent.
    #[error("the task's process was killed by signal {signal}")]
    Killed {
        /// The signal.
        signal: i32,
        /// What else is known.
        end: Arc<GatewayEnd>,
    },
    /// The process ended by itself in the middle of the task.
    #[error("the task's process ended with exit code {code}")]
    Exited {
        /// The code.
        code: i32,
        /// What else is known.
        end: Arc<GatewayEnd>,
    },
    /// The task's reply made no sense.
    #[error("the task's reply cannot be read")]
    Reply(#[source] CodecError),
    /// The process did not start in time.
    #[error("the task's process did not start in time")]
    StartTimedOut(#[source] Box<OpenError>),
    /// The process did not start.
    #[error("the task's process did not start")]
    Start(#[source] Box<OpenError>),
    /// The gateway, or the process for another reason, has ended. Whether the task ran, and how far, is not known.
    #[error(transparent)]
    Ended(Arc<GatewayEnd>),
    /// The call could not be made, or was refused.
    #[error(transparent)]
    Call(CallError),
}

impl Gateway {
    /// Tasks that run in processes of their own, on this gateway's host, with hard limits.
    pub fn isolated(&self) -> Isolated {
        Isolated { gateway: self.clone(), settings: Settings::default() }
    }
}

impl Isolated {
    /// How long a call may take, from when the process takes it. There is no limit by default.
    ///
    /// It holds whatever the task does, and also while the caller's own runtime is blocked.
    #[must_use]
    pub fn limit(mut self, limit: Duration) -> Isolated {
        self.settings.limit = Some(limit);
        self
    }

    /// How much memory the process may use, in bytes: as [`Spec::memory`]. The worker itself takes a few MiB of it for
    /// each of its slots. A process that was started with another limit is not used.
    #[must_use]
    pub fn memory(mut self, bytes: u64) -> Isolated {
        self.settings.memory = Some(bytes);
        self
    }

    /// How long the start of a process may take: as [`Spec::start_limit`].
    #[must_use]
    pub fn start_limit(mut self, limit: Duration) -> Isolated {
        self.settings.start_limit = Some(limit);
        self
    }

    /// Runs a task in a process of its own, and returns its value. Waits for its turn first.
    ///
    /// Arguments cannot hold ends of channels that were made before: for those take a [`slot`](Self::slot).
    ///
    /// Cancel safety: dropping it kills the process, with everything that the task started, within a second.
    ///
    /// # Errors
    /// See [`IsolatedError`].
    pub async fn call<F: Task<M>, M>(&self, task: F, args: F::Args) -> Result<F::Value, IsolatedError> {
        self.slot().await?.call(task, args).await
    }

    /// Waits for a process that is free, or starts one.
    ///
    /// Cancel safety: a dropped `slot` loses its place among those that wait; a process that was being started is ended.
    ///
    /// # Errors
    /// That the gateway has ended, or no process could be started.
    pub async fn slot(&self) -> Result<Slot, IsolatedError> {
        let pool = &self.gateway.inner().isolated;
        let turns = pool.turns(&self.gateway).await?;
        // It is never closed.
        let Ok(turn) = Arc::clone(turns).acquire_owned().await else {
            return Err(IsolatedError::Ended(self.gateway.wait().await));
        };
        let leaf = pool.process(&self.gateway, &self.settings).await?;
        Ok(Slot {
            gateway: self.gateway.clone(),
            settings: self.settings.clone(),
            leaf,
            doomed: false,
            _turn: turn,
        })
    }
}

/// A process for isolated tasks, taken from a gateway's others: from [`Isolated::slot`].
///
/// It runs one task after another. After a call that ended the process the next call starts another. Dropping the slot gives the
/// process back.
///
/// ```no_run
/// # use farcall::{BoxError, Gateway, Receiver, Sender};
/// async fn double(mut numbers: Receiver<u64>, doubled: Sender<u64>) -> Result<(), BoxError> {
///     while let Some(number) = numbers.recv().await? {
///         doubled.send(number * 2).await?;
///     }
///     Ok(())
/// }
///
/// # async fn example(gateway: Gateway) -> Result<(), BoxError> {
/// let mut slot = gateway.isolated().slot().await?;
/// let (numbers, theirs) = slot.pair();
/// let (their_doubled, mut doubled) = slot.pair();
/// let feed = async {
///     numbers.send(21).await?;
///     numbers.close();
///     doubled.recv().await.map_err(BoxError::from)
/// };
/// let (done, answer) = tokio::join!(slot.call(double, (theirs, their_doubled)), feed);
/// done?;
/// assert_eq!(answer?, Some(42));
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
pub struct Slot {
    gateway: Gateway,
    settings: Settings,
    leaf: Gateway,
    /// The process was killed.
    doomed: bool,
    /// Given back after the process was.
    _turn: OwnedSemaphorePermit,
}

impl Slot {
    /// Runs a task in the process, and returns its value. If the process has ended, another is started first; ends of channels
    /// that were made for the one before are refused then.
    ///
    /// Cancel safety: as [`Isolated::call`].
    ///
    /// # Errors
    /// See [`IsolatedError`].
    pub async fn call<F: Task<M>, M>(&mut self, task: F, args: F::Args) -> Result<F::Value, IsolatedError> {
        self.ready().await?;
        let leaf = self.leaf.clone();
        let running = Running::watch(self);
        let result = leaf.call(task, args).await;
        running.settle(result)
    }

    /// Sees that there is a process: starts another, if the last call ended it. For those who make pairs before each call.
    ///
    /// Cancel safety: nothing is lost.
    ///
    /// # Errors
    /// As [`Isolated::slot`].
    pub async fn ready(&mut self) -> Result<(), IsolatedError> {
        if self.doomed || !is_alive(&self.leaf) {
            self.leaf = self.gateway.inner().isolated.process(&self.gateway, &self.settings).await?;
            self.doomed = false;
        }
        Ok(())
    }

    /// As [`Gateway::pair`], for arguments of this slot's calls.
    pub fn pair<T>(&self) -> (Sender<T>, Receiver<T>)
    where
        Cbor: Codec<T>,
    {
        self.leaf.pair()
    }

    /// As [`Gateway::pair_with`], for arguments of this slot's calls.
    pub fn pair_with<T, C: Codec<T>>(&self) -> (Sender<T, C>, Receiver<T, C>) {
        self.leaf.pair_with()
    }

    /// As [`Gateway::channel`], for arguments of this slot's calls.
    pub fn channel<S, R>(&self) -> (Channel<S, R>, Channel<R, S>)
    where
        Cbor: Codec<S> + Codec<R>,
    {
        self.leaf.channel()
    }

    /// As [`Gateway::channel_with`], for arguments of this slot's calls.
    pub fn channel_with<S, R, C: Codec<S> + Codec<R>>(&self) -> (Channel<S, R, C>, Channel<R, S, C>) {
        self.leaf.channel_with()
    }

    /// The process, as a gateway of its own: a leaf of the one that it was taken from.
    pub fn process(&self) -> &Gateway {
        &self.leaf
    }

    /// Kills the process. The next call starts another.
    pub fn kill(&mut self) {
        self.doomed = true;
        self.leaf.kill();
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        if !self.doomed && is_alive(&self.leaf) {
            let idle = Idle { memory: self.settings.memory, leaf: self.leaf.clone() };
            self.gateway.inner().isolated.idle().push(idle);
        }
    }
}

fn is_alive(leaf: &Gateway) -> bool {
    leaf.inner().connection.cause().is_none() && leaf.end().is_none()
}

/// A call under way. Dropping it before it is settled kills the process.
struct Running<'a> {
    slot: &'a mut Slot,
    settled: bool,
    /// Whether it is decided who was first: the end of the call, or its limit.
    over: Arc<AtomicBool>,
    watchdog: Option<AbortHandle>,
}

impl<'a> Running<'a> {
    /// Begins the time limit. It is watched on the driver: no caller that forgets to poll prolongs it.
    fn watch(slot: &'a mut Slot) -> Running<'a> {
        let over = Arc::new(AtomicBool::new(false));
        let watchdog = slot.settings.limit.map(|limit| {
            let (over, leaf) = (Arc::clone(&over), slot.leaf.clone());
            let watch = async move {
                tokio::time::sleep(limit).await;
                if !over.swap(true, Relaxed) {
                    leaf.kill();
                }
            };
            slot.gateway.inner().driver.spawn(watch).abort_handle()
        });
        Running { slot, settled: false, over, watchdog }
    }

    fn settle<V>(mut self, result: Result<V, CallError>) -> Result<V, IsolatedError> {
        self.settled = true;
        if let Some(watchdog) = self.watchdog.take() {
            watchdog.abort();
        }
        let late = self.over.swap(true, Relaxed);
        self.slot.doomed |= late;
        result.map_err(|error| match error {
            CallError::Failed(failure) => IsolatedError::Failed(failure),
            CallError::Panicked(panic) => IsolatedError::Panicked(panic),
            CallError::Reply(error) => IsolatedError::Reply(error),
            CallError::Ended(end) => self.ended(end, late),
            other => IsolatedError::Call(other),
        })
    }

    fn ended(&self, end: Arc<GatewayEnd>, late: bool) -> IsolatedError {
        let Settings { limit, memory, .. } = &self.slot.settings;
        match (late.then_some(*limit).flatten(), end.exit(), *memory) {
            _ if end.hub().is_some() => IsolatedError::Ended(end),
            (Some(limit), ..) => IsolatedError::TimeLimit { limit },
            _ if end.class().is_none() => IsolatedError::Ended(end),
            (None, Some(Exit::Signal(ABORT)), Some(bytes)) => IsolatedError::MemoryLimit { bytes },
            (None, Some(Exit::Signal(signal)), _) => IsolatedError::Killed { signal, end },
            (None, Some(Exit::Code(code)), _) => IsolatedError::Exited { code, end },
            (None, _, _) => IsolatedError::Ended(end),
        }
    }
}

impl Drop for Running<'_> {
    fn drop(&mut self) {
        if let Some(watchdog) = self.watchdog.take() {
            watchdog.abort();
        }
        if !self.settled {
            self.slot.kill();
        }
    }
}

/// The processes of a gateway that nobody uses, and whose turn it is.
#[derive(Default)]
pub(crate) struct Pool {
    /// As many as the worker has slots, once it was asked.
    turns: OnceCell<(usize, Arc<Semaphore>)>,
    idle: Mutex<Vec<Idle>>,
    /// Of the next process.
    number: AtomicU64,
}

struct Idle {
    memory: Option<u64>,
    leaf: Gateway,
}

impl Pool {
    fn idle(&self) -> MutexGuard<'_, Vec<Idle>> {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn turns(&self, gateway: &Gateway) -> Result<&Arc<Semaphore>, IsolatedError> {
        let ask = async || {
            let status = gateway.status().await.map_err(|error| match error {
                CallError::Ended(end) => IsolatedError::Ended(end),
                other => IsolatedError::Call(other),
            })?;
            // What the worker says is bounded by what a semaphore can count.
            let slots = status.slots.clamp(1, Semaphore::MAX_PERMITS);
            Ok((slots, Arc::new(Semaphore::new(slots))))
        };
        Ok(&self.turns.get_or_try_init(ask).await?.1)
    }

    /// A process for somebody whose turn it is.
    async fn process(&self, gateway: &Gateway, settings: &Settings) -> Result<Gateway, IsolatedError> {
        if let Some(leaf) = self.take(settings.memory) {
            return Ok(leaf);
        }
        start(gateway, settings, &self.number).await.map_err(|error| match error {
            OpenError::Hub { end, .. } => IsolatedError::Ended(end),
            error if error.class() == Class::Timeout => IsolatedError::StartTimedOut(Box::new(error)),
            error => IsolatedError::Start(Box::new(error)),
        })
    }

    /// One that nobody uses and that is as it must be. Where there is none, one of the others makes room.
    fn take(&self, memory: Option<u64>) -> Option<Gateway> {
        let mut gone = Vec::new();
        let mut idle = self.idle();
        while let Some(at) = idle.iter().rposition(|idle| idle.memory == memory || !is_alive(&idle.leaf)) {
            let Idle { leaf, .. } = idle.remove(at);
            if is_alive(&leaf) {
                return Some(leaf);
            }
            gone.push(leaf);
        }
        if let Some((slots, turns)) = self.turns.get() {
            // With the one that is about to be started.
            let used = slots.saturating_sub(turns.available_permits());
            while idle.len() + used > *slots && !idle.is_empty() {
                gone.push(idle.remove(0).leaf);
            }
        }
        drop(idle);
        // Not under the lock.
        gone.iter().for_each(Gateway::exit);
        None
    }
}

fn start<'a>(
    gateway: &'a Gateway,
    settings: &'a Settings,
    number: &'a AtomicU64,
) -> Pin<Box<dyn Future<Output = Result<Gateway, OpenError>> + Send + 'a>> {
    Box::pin(async move {
        loop {
            let id = format!("{}.{}", gateway.id(), number.fetch_add(1, Relaxed));
            let life = &gateway.inner().life;
            let mut spec = Spec::local().id(id).heartbeat(life.heartbeat).lease(life.lease).grace(life.grace);
            if let Some(bytes) = settings.memory {
                spec = spec.memory(bytes);
            }
            if let Some(limit) = settings.start_limit {
                spec = spec.start_limit(limit);
            }
            match Gateway::builder(spec).inside(gateway).open().await {
                // Somebody's gateway is called so. There is always a next number.
                Err(OpenError::DuplicateId { .. }) => {}
                opened => return opened,
            }
        }
    })
}
