//! The worker's side of tasks: where they run, how many at once, which do now.

use std::collections::BTreeMap;
use std::io;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use farcall_channel::{Connection, DriverThread};
use rustix::process::{Resource, getrlimit};
use tokio::runtime::{Handle, Runtime};
use tokio::sync::{Notify, Semaphore};

use crate::context::{Context, States};
use crate::host::{RunningTask, Status};
use crate::tasks::Tasks;
use crate::worker::panics;
use crate::worker::relay::Relays;
use crate::worker::stream::MAX_SLOTS;

/// Blocking threads for tasks' own use while a map has the most slots.
const SPARE_THREADS: usize = 512;

/// More tasks than these are not listed one by one.
const MAX_LISTED: usize = 256;

/// All that the tasks of a worker share.
pub(crate) struct Crew {
    pub(crate) gateway: Arc<str>,
    pub(crate) tasks: Arc<Tasks>,
    pub(crate) connection: Connection,
    pub(crate) states: Arc<States>,
    /// How many run at once; the others wait.
    pub(crate) permits: Arc<Semaphore>,
    /// How many of the plain functions run at once.
    pub(crate) slots: Arc<Semaphore>,
    slot_count: usize,
    /// Made for the first task: a worker that only runs commands needs none.
    runtime: Mutex<Option<Runtime>>,
    /// The thread of commands, made for the first one: starting a program may have to wait for a file system.
    starter: Mutex<Option<DriverThread>>,
    pub(crate) relays: Relays,
    roll: Mutex<Roll>,
    /// Something ended.
    left: Notify,
    pub(crate) commands: AtomicUsize,
    began: Instant,
}

/// The threads of this process.
#[cfg(target_os = "linux")]
pub(crate) fn all_threads() -> usize {
    super::guardian::threads()
}

/// Nobody says how many there are.
#[cfg(not(target_os = "linux"))]
fn all_threads() -> usize {
    usize::MAX
}

#[derive(Default)]
struct Roll {
    next: u64,
    present: BTreeMap<u64, Arc<Entry>>,
}

/// Whether this process may use so little memory that there may be none for a thread.
fn is_limited() -> bool {
    [Resource::Data, Resource::As].into_iter().any(|resource| getrlimit(resource).current.is_some())
}

/// A runtime of users' code: as many threads as slots.
pub(crate) fn runtime_of(slots: usize) -> io::Result<Runtime> {
    if is_limited() {
        probe(slots)?;
    }
    let mut builder = tokio::runtime::Builder::new_multi_thread();
    builder
        .worker_threads(slots)
        // A map may have so many slots for plain functions, and each runs on a thread.
        .max_blocking_threads(MAX_SLOTS + SPARE_THREADS)
        .thread_name("farcall-task")
        .enable_all();
    // It panics when the system gives it no thread. Mostly that was found out before.
    panics::caught_here(|| builder.build()).map_err(|panic| io::Error::other(panic.message))?
}

/// Whether so many threads can be had at once. A runtime that gets only some of those that it wants panics, and its first ones
/// may hang.
fn probe(count: usize) -> io::Result<()> {
    let gate = Arc::new(Mutex::new(()));
    let closed = gate.lock().unwrap_or_else(PoisonError::into_inner);
    let wait = |gate: Arc<Mutex<()>>| move || drop(gate.lock());
    let threads: Vec<_> =
        (0..count).map(|_| std::thread::Builder::new().spawn(wait(Arc::clone(&gate)))).collect();
    drop(closed);
    for thread in threads {
        // They do not panic.
        let _ = thread?.join();
    }
    Ok(())
}

/// A task that waits or runs.
pub(crate) struct Entry {
    name: &'static str,
    began: Instant,
    started: AtomicBool,
    detached: AtomicBool,
    /// Whether nobody waits for the reply any more.
    abandoned: Box<dyn Fn() -> bool + Send + Sync>,
}

/// Keeps a task on the roll.
pub(crate) struct Present {
    crew: Arc<Crew>,
    number: u64,
    entry: Arc<Entry>,
}

impl Crew {
    pub(crate) fn new(
        gateway: Arc<str>,
        tasks: Arc<Tasks>,
        connection: Connection,
        max_tasks: Option<usize>,
        slots: usize,
    ) -> Crew {
        Crew {
            gateway,
            tasks,
            connection,
            states: Arc::default(),
            permits: Arc::new(Semaphore::new(
                max_tasks.unwrap_or(Semaphore::MAX_PERMITS).clamp(1, Semaphore::MAX_PERMITS),
            )),
            slots: Arc::new(Semaphore::new(slots)),
            slot_count: slots,
            runtime: Mutex::default(),
            starter: Mutex::default(),
            relays: Relays::default(),
            roll: Mutex::default(),
            left: Notify::new(),
            commands: AtomicUsize::new(0),
            began: Instant::now(),
        }
    }

    /// What a task knows of this worker.
    pub(crate) fn context(&self, cancelled: Arc<AtomicBool>) -> Context {
        Context {
            gateway: Arc::clone(&self.gateway),
            connection: self.connection.clone(),
            states: Arc::clone(&self.states),
            cancelled,
        }
    }

    /// The runtime of users' code. Made when it is first needed.
    pub(crate) fn runtime(&self) -> io::Result<Handle> {
        let mut runtime = self.runtime.lock().unwrap_or_else(PoisonError::into_inner);
        if runtime.is_none() {
            return Ok(runtime.insert(runtime_of(self.slot_count)?).handle().clone());
        }
        Ok(runtime.as_ref().map(|runtime| runtime.handle().clone()).expect("it was just looked at"))
    }

    /// The runtime of commands.
    pub(crate) fn starter(&self) -> io::Result<Handle> {
        let mut starter = self.starter.lock().unwrap_or_else(PoisonError::into_inner);
        if starter.is_none() {
            return Ok(starter.insert(DriverThread::start("farcall-command")?).handle().clone());
        }
        Ok(starter.as_ref().map(|thread| thread.handle().clone()).expect("it was just looked at"))
    }

    /// Whether there is nothing to [stop](Self::stop): no task, no command, nothing that a task has left behind in its runtime
    /// or in states. `threads` are there besides those of tasks.
    pub(crate) fn is_still(&self, threads: usize) -> bool {
        let runtime = self.runtime.lock().unwrap_or_else(PoisonError::into_inner);
        let workers = runtime.as_ref().map_or(0, |_| self.slot_count);
        runtime.as_ref().is_none_or(|runtime| runtime.metrics().num_alive_tasks() == 0)
            // Functions that block have threads of their own.
            && all_threads() <= threads + workers
            && self.starter.lock().unwrap_or_else(PoisonError::into_inner).is_none()
            && !self.relays.any()
            && self.states.is_empty()
            && self.roll().present.is_empty()
    }

    /// Lets go of the runtime, in which [nothing](Self::is_still) is left, without waiting for its threads: the process is ending.
    pub(crate) fn dismiss(&self) {
        let runtime = self.runtime.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(runtime) = runtime {
            // To drop it would be to wait, which an asynchronous context must not.
            runtime.shutdown_background();
        }
    }

    /// Kills all commands; drops all tasks where they wait, and waits for those that do not wait, at most for `limit`.
    pub(crate) fn stop(&self, limit: Duration) {
        self.states.end();
        // With its runtime go the commands, and with their handles their process groups.
        drop(self.starter.lock().unwrap_or_else(PoisonError::into_inner).take());
        let runtime = self.runtime.lock().unwrap_or_else(PoisonError::into_inner).take();
        std::thread::scope(|scope| {
            let relays = || self.relays.stop(limit);
            // Without a thread the leaves end with the process.
            let _ = self.relays.any().then(|| std::thread::Builder::new().spawn_scoped(scope, relays));
            if let Some(runtime) = runtime {
                runtime.shutdown_timeout(limit);
            }
        });
        // They may hold ends of channels.
        self.states.clear();
    }

    fn roll(&self) -> MutexGuard<'_, Roll> {
        self.roll.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn enter(
        self: &Arc<Self>,
        name: &'static str,
        abandoned: impl Fn() -> bool + Send + Sync + 'static,
    ) -> Present {
        let entry = Arc::new(Entry {
            name,
            began: Instant::now(),
            started: AtomicBool::new(false),
            detached: AtomicBool::new(false),
            abandoned: Box::new(abandoned),
        });
        let mut roll = self.roll();
        let number = roll.next;
        roll.next += 1;
        roll.present.insert(number, Arc::clone(&entry));
        Present { crew: Arc::clone(self), number, entry }
    }

    pub(crate) fn status(&self) -> Status {
        let present: Vec<Arc<Entry>> = self.roll().present.values().cloned().collect();
        let running = present.iter().filter(|entry| entry.started.load(Relaxed));
        let list = |entry: &Arc<Entry>| RunningTask {
            name: entry.name.to_owned(),
            age: entry.began.elapsed(),
            started: entry.started.load(Relaxed),
            cancelled: !entry.detached.load(Relaxed) && (entry.abandoned)(),
        };
        let started = running.count();
        Status {
            channels: self.connection.held().1,
            running: started,
            queued: present.len() - started,
            commands: self.commands.load(Relaxed),
            slots: self.slot_count,
            tasks: present.iter().take(MAX_LISTED).map(list).collect(),
        }
    }

    /// How many tasks that compute fit here at once.
    pub(crate) fn slot_count(&self) -> usize {
        self.slot_count
    }

    pub(crate) fn uptime(&self) -> Duration {
        self.began.elapsed()
    }

    /// Waits until no task and no command runs.
    pub(crate) async fn idle(&self) {
        loop {
            let left = self.left.notified();
            let mut left = std::pin::pin!(left);
            left.as_mut().enable();
            if self.roll().present.is_empty() && self.commands.load(Relaxed) == 0 {
                return;
            }
            left.await;
        }
    }

    /// A command is being run, until the guard goes.
    pub(crate) fn command(self: &Arc<Self>) -> CommandPresent {
        self.commands.fetch_add(1, Relaxed);
        CommandPresent(Arc::clone(self))
    }
}

/// Counts a command.
pub(crate) struct CommandPresent(Arc<Crew>);

impl Drop for CommandPresent {
    fn drop(&mut self) {
        self.0.commands.fetch_sub(1, Relaxed);
        self.0.left.notify_waiters();
    }
}

impl Entry {
    /// The caller has let go: that it is gone means nothing.
    pub(crate) fn detached(&self) {
        self.detached.store(true, Relaxed);
    }
}

impl Present {
    pub(crate) fn started(&self) {
        self.entry.started.store(true, Relaxed);
    }

    pub(crate) fn entry(&self) -> Arc<Entry> {
        Arc::clone(&self.entry)
    }
}

impl Drop for Present {
    fn drop(&mut self) {
        self.crew.roll().present.remove(&self.number);
        self.crew.left.notify_waiters();
    }
}
