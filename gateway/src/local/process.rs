//! A child process with a handle: its states, its end, signals to it.

use std::marker::PhantomData;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::Duration;

use farcall_bootstrap::Exit;
use tokio::sync::{Notify, watch};
use tokio::task::AbortHandle;

use super::child::{Birth, prepare, sleep, value_in, within};
use super::error::RunError;
use super::family::{SignalError, Target};
use super::options::Options;
use super::socket::Received;
use super::wire::Call;
use crate::gateway::Gateway;
use crate::open::OpenError;
use crate::output::Output;
use crate::process::ExitStatus;
use crate::task::{Message, Task};

/// How far a [`Process`] is. It only advances.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum State {
    /// It is being started.
    Starting,
    /// It runs the function.
    Running,
    /// It has ended, or was never started.
    Finished,
}

/// A function that runs in a process of its own: from [`local::open`](super::open) or [`Options::open`].
///
/// Dropping it ends the process, within its grace.
///
/// ```no_run
/// use farcall::local::{self, State};
/// # async fn parse(text: String) -> Result<u64, std::num::ParseIntError> { text.parse() }
///
/// # async fn example() -> Result<(), Box<dyn std::error::Error>> {
/// let process = local::open(parse, ("42".to_owned(),)).await?;
/// process.wait_for(State::Running).await;
/// println!("{:?} is process {:?}", process.name(), process.pid());
/// assert_eq!(process.result().await?, 42);
/// process.wait().await;
/// assert!(process.status().is_some_and(|status| status.success()));
/// # Ok(())
/// # }
/// ```
pub struct Process<V> {
    shared: Arc<Shared>,
    progress: watch::Receiver<Progress>,
    living: AbortHandle,
    grace: Duration,
    _value: PhantomData<fn() -> V>,
}

#[derive(Clone, Copy, Debug)]
struct Progress {
    state: State,
    answered: bool,
}

/// What the handle and the task that follows the process share.
#[derive(Debug, Default)]
struct Shared {
    started: OnceLock<(Gateway, Arc<Target>)>,
    /// Has it killed, also while it is being started.
    kill: Notify,
    result: Mutex<Answer>,
}

#[derive(Debug, Default)]
enum Answer {
    #[default]
    Awaited,
    Here(Result<Received, RunError>),
    Taken,
}

impl Shared {
    fn answer(&self, result: Result<Received, RunError>) {
        *self.result.lock().unwrap_or_else(PoisonError::into_inner) = Answer::Here(result);
    }
}

impl<V: Message> Process<V> {
    pub(super) fn open<F: Task<M, Value = V>, M>(
        options: &Options,
        task: F,
        args: F::Args,
    ) -> Result<Process<V>, RunError> {
        let call = prepare(task, args)?;
        let driver = crate::open::driver().map_err(|error| RunError::of_open(OpenError::Driver(error)))?;
        let shared = Arc::<Shared>::default();
        let (tell, progress) = watch::channel(Progress { state: State::Starting, answered: false });
        // Ends with the process or the handle.
        let living = driver.spawn(live(options.clone(), call, Arc::clone(&shared), tell));
        Ok(Process {
            shared,
            progress,
            living: living.abort_handle(),
            grace: options.grace_or_usual(),
            _value: PhantomData,
        })
    }

    /// Waits for the function's value. It comes once; the process may take a moment longer to end.
    ///
    /// Cancel safety: nothing is lost; it may be called again.
    ///
    /// # Errors
    /// See [`RunError`].
    pub async fn result(&self) -> Result<V, RunError> {
        // Fails only when nobody can answer any more.
        let _ = self.progress.clone().wait_for(|progress| progress.answered).await;
        let mut result = self.shared.result.lock().unwrap_or_else(PoisonError::into_inner);
        let answer = match std::mem::replace(&mut *result, Answer::Taken) {
            Answer::Here(answer) => answer,
            Answer::Awaited => Err(RunError::NeverRan),
            Answer::Taken => Err(RunError::Taken),
        };
        drop(result);
        value_in(answer?)
    }
}

impl<V> Process<V> {
    /// How far it is.
    pub fn state(&self) -> State {
        self.progress.borrow().state
    }

    /// Waits until it has come to `state`, or beyond.
    ///
    /// Cancel safety: nothing is lost.
    pub async fn wait_for(&self, state: State) {
        // Fails only when the driver has ended with the program.
        let _ = self.progress.clone().wait_for(|progress| progress.state >= state).await;
    }

    /// The name that it has in errors and lists of processes; `None` before it runs.
    pub fn name(&self) -> Option<&str> {
        self.shared.started.get().map(|(gateway, _)| gateway.id())
    }

    /// Its number; `None` before it runs.
    pub fn pid(&self) -> Option<u32> {
        self.shared.started.get().map(|(gateway, _)| gateway.pid())
    }

    /// Whether it runs or is being started.
    pub fn is_alive(&self) -> bool {
        self.state() != State::Finished
    }

    /// How it ended: known as soon as it has, without waiting. `None` before, and for one that was never started.
    pub fn status(&self) -> Option<ExitStatus> {
        if self.is_alive() {
            return None;
        }
        let (gateway, _) = self.shared.started.get()?;
        match gateway.end()?.exit()? {
            Exit::Code(code) => Some(ExitStatus::Code(code)),
            Exit::Signal(signal) => Some(ExitStatus::Signal(signal)),
            _ => None,
        }
    }

    /// Waits for its end; returns what [`status`](Self::status) then says.
    ///
    /// Cancel safety: nothing is lost.
    pub async fn wait(&self) -> Option<ExitStatus> {
        self.wait_for(State::Finished).await;
        self.status()
    }

    /// As [`wait`](Self::wait), for at most this long: `None` if it still runs.
    ///
    /// Cancel safety: nothing is lost.
    pub async fn wait_timeout(&self, limit: Duration) -> Option<ExitStatus> {
        // Whether it is in time, the status tells.
        let _ = within(limit, self.wait()).await;
        self.status()
    }

    /// What it prints; `None` before it runs.
    pub fn output(&self) -> Option<Output> {
        self.shared.started.get().map(|(gateway, _)| gateway.output())
    }

    fn target(&self) -> Result<&Arc<Target>, SignalError> {
        self.shared.started.get().map(|(_, target)| target).ok_or(SignalError::NotRunning)
    }

    /// Sends it a signal by its number.
    ///
    /// # Errors
    /// See [`SignalError`].
    pub fn signal(&self, number: i32) -> Result<(), SignalError> {
        self.target()?.signal(number)
    }

    /// Asks it to end, by SIGTERM, and kills it if it has not within its grace.
    ///
    /// # Errors
    /// See [`SignalError`].
    pub fn terminate(&self) -> Result<(), SignalError> {
        self.target()?.ask(libc::SIGTERM, self.grace)
    }

    /// Interrupts it, by SIGINT, and kills it if it has not ended within its grace.
    ///
    /// # Errors
    /// See [`SignalError`].
    pub fn interrupt(&self) -> Result<(), SignalError> {
        self.target()?.ask(libc::SIGINT, self.grace)
    }

    /// Kills it, with all that it started, also while it is being started.
    pub fn kill(&self) {
        if let Ok(target) = self.target() {
            target.kill();
        }
        // For one that starts, or that has started between the two.
        self.shared.kill.notify_one();
    }

    /// Ends it as dropping does, and waits until it is gone.
    ///
    /// Cancel safety: it ends also when this is dropped.
    pub async fn close(self) {
        match self.shared.started.get() {
            Some((gateway, _)) => gateway.exit(),
            None => self.kill(),
        }
        self.wait().await;
    }
}

impl<V> Drop for Process<V> {
    fn drop(&mut self) {
        self.living.abort();
    }
}

impl<V> std::fmt::Debug for Process<V> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Process")
            .field("name", &self.name())
            .field("pid", &self.pid())
            .field("state", &self.state())
            .finish_non_exhaustive()
    }
}

/// Tells the end, also when it is dropped with the handle.
struct Teller {
    tell: watch::Sender<Progress>,
    shared: Arc<Shared>,
}

impl Drop for Teller {
    fn drop(&mut self) {
        self.tell.send_replace(Progress { state: State::Finished, answered: true });
    }
}

/// A process from its start to its end. Runs on the driver, and decodes nothing.
async fn live(options: Options, mut call: Call, shared: Arc<Shared>, tell: watch::Sender<Progress>) {
    let teller = Teller { tell, shared };
    let shared = &teller.shared;
    let mut remains = None;
    let started = match Birth::begin(&options, Some(&mut call)) {
        Ok(birth) => tokio::select! {
            biased;
            () = shared.kill.notified() => None,
            started = birth.finish(&mut remains) => Some(started),
        },
        Err(error) => Some(Err(error)),
    };
    let mut child = match started {
        Some(Ok(child)) => child,
        failed => {
            // It is not told to have ended before it has.
            let begun = match remains {
                Some(remains) => remains.gone().await,
                None => false,
            };
            return shared.answer(Err(match failed {
                Some(Err(error)) => error,
                _ if begun => RunError::KilledAtStart,
                _ => RunError::NeverRan,
            }));
        }
    };
    let gateway = child.gateway().clone();
    // Set once: here.
    let _ = shared.started.set((gateway.clone(), child.member().target()));
    teller.tell.send_modify(|progress| progress.state = State::Running);
    let target = child.member().target();
    let exchanged = {
        let mut exchange = std::pin::pin!(child.exchange_within(&mut call, options.time_limit));
        tokio::select! {
            biased;
            exchanged = &mut exchange => exchanged,
            () = shared.kill.notified() => {
                target.kill();
                exchange.await
            }
        }
    };
    let result = match exchanged {
        Ok(Ok(received)) => Ok(received),
        Ok(Err(gone)) => Err(child.explain(gone).await),
        Err(error) => Err(error),
    };
    shared.answer(result);
    teller.tell.send_modify(|progress| progress.answered = true);
    // What it has printed is told first.
    let deadline = sleep(&gateway.inner().driver, options.grace_or_usual());
    tokio::select! {
        _ = gateway.close() => {}
        () = deadline => {}
        () = shared.kill.notified() => target.kill(),
    }
    child.end().await;
}
