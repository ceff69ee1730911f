//! How a child process is set up, and how long things may take.

use std::ffi::OsString;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use super::error::RunError;
use super::pool::Pool;
use super::process::Process;
use super::run;
use super::worker::Worker;
#[cfg(target_os = "linux")]
use crate::role::LONGEST;
use crate::spec::Spec;
use crate::task::Task;

/// How long a child may take to end where nothing else is said.
const GRACE: Duration = Duration::from_millis(500);

/// How long a start may take where nothing else is said.
#[cfg(target_os = "linux")]
const START_LIMIT: Duration = Duration::from_secs(60);

/// How child processes are set up. [`run`](Self::run), [`open`](Self::open), [`worker`](Self::worker) and [`pool`](Self::pool)
/// start them.
///
/// ```no_run
/// use std::time::Duration;
/// use farcall::local::Options;
/// # async fn parse(text: String) -> Result<u64, std::num::ParseIntError> { text.parse() }
///
/// # async fn example() -> Result<(), farcall::local::RunError> {
/// let careful = Options::new().name("parser").memory(256 << 20).time_limit(Duration::from_secs(5));
/// assert_eq!(careful.run(parse, ("42".to_owned(),)).await?, 42);
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Default)]
pub struct Options {
    name: Option<String>,
    env: Vec<(String, OsString)>,
    cwd: Option<PathBuf>,
    nice: Option<i32>,
    memory: Option<u64>,
    start_limit: Option<Duration>,
    pub(super) time_limit: Option<Duration>,
    grace: Option<Duration>,
    pub(super) max_calls: Option<u64>,
}

impl Options {
    /// Nothing out of the ordinary: this process's environment, folder and limits.
    pub fn new() -> Options {
        Options::default()
    }

    /// What the processes are called, in errors and lists of processes: a number is added, so that each is told from the
    /// others.
    #[must_use]
    pub fn name(mut self, name: impl Into<String>) -> Options {
        self.name = Some(name.into());
        self
    }

    /// A variable, set before the process starts. The others are this process's.
    #[must_use]
    pub fn env(mut self, name: impl Into<String>, value: impl Into<OsString>) -> Options {
        self.env.push((name.into(), value.into()));
        self
    }

    /// The folder to start in; made with its parents if it is missing.
    #[must_use]
    pub fn cwd(mut self, folder: impl Into<PathBuf>) -> Options {
        self.cwd = Some(folder.into());
        self
    }

    /// Added to the niceness: −20 to 19.
    #[must_use]
    pub fn nice(mut self, nice: i32) -> Options {
        self.nice = Some(nice);
        self
    }

    /// The limit of each process's memory in bytes: what of it is writable and its own. An allocation beyond it aborts the
    /// process, which is [`RunError::Killed`] by signal 6.
    #[must_use]
    pub fn memory(mut self, bytes: u64) -> Options {
        self.memory = Some(bytes);
        self
    }

    /// How long a start may take; 60 seconds by default.
    #[must_use]
    pub fn start_limit(mut self, limit: Duration) -> Options {
        self.start_limit = Some(limit);
        self
    }

    /// How long one function may run, from when its process is ready. Then the process is killed, whatever it does.
    #[must_use]
    pub fn time_limit(mut self, limit: Duration) -> Options {
        self.time_limit = Some(limit);
        self
    }

    /// How long a process may take to end when it is asked to, or to drop what was cancelled, before it is killed: half a
    /// second by default.
    #[must_use]
    pub fn grace(mut self, grace: Duration) -> Options {
        self.grace = Some(grace);
        self
    }

    /// How many calls a worker of a [`Pool`] runs before a fresh process takes its place. Without limit by default.
    #[must_use]
    pub fn max_calls(mut self, calls: u64) -> Options {
        self.max_calls = Some(calls.max(1));
        self
    }

    /// As [`local::run`](super::run()), with these options.
    ///
    /// Cancel safety: as of `run`.
    ///
    /// # Errors
    /// See [`RunError`].
    pub async fn run<F: Task<M>, M>(&self, task: F, args: F::Args) -> Result<F::Value, RunError> {
        run::run(self, task, args).await
    }

    /// As [`local::open`](super::open), with these options.
    ///
    /// Cancel safety: as of `open`.
    ///
    /// # Errors
    /// See [`RunError`].
    pub async fn open<F: Task<M>, M>(&self, task: F, args: F::Args) -> Result<Process<F::Value>, RunError> {
        Process::open(self, task, args)
    }

    /// A process that runs one function after another.
    ///
    /// Cancel safety: what is started is ended when this is dropped.
    ///
    /// # Errors
    /// That it could not be started.
    pub async fn worker(&self) -> Result<Worker, RunError> {
        Worker::start(self).await
    }

    /// So many such processes, started when they are needed.
    pub fn pool(&self, size: usize) -> Pool {
        Pool::with(size, self.clone())
    }

    pub(super) fn grace_or_usual(&self) -> Duration {
        self.grace.unwrap_or(GRACE)
    }

    /// Whether the process is to be as this one is.
    #[cfg(target_os = "linux")]
    pub(super) fn are_plain(&self) -> bool {
        self.env.is_empty() && self.cwd.is_none() && self.nice.is_none() && self.memory.is_none()
    }

    #[cfg(target_os = "linux")]
    pub(super) fn start_limit_or_usual(&self) -> Duration {
        self.start_limit.unwrap_or(START_LIMIT).min(LONGEST)
    }

    /// What is started, with an id of its own.
    pub(super) fn spec(&self) -> Spec {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        let mut spec = Spec::local().grace(self.grace_or_usual());
        if let Some(name) = &self.name {
            spec = spec.id(format!("{name}-{}", NEXT.fetch_add(1, Relaxed)));
        }
        for (name, value) in &self.env {
            spec = spec.env(name.clone(), value.clone());
        }
        if let Some(folder) = &self.cwd {
            spec = spec.chdir(folder.clone());
        }
        if let Some(nice) = self.nice {
            spec = spec.nice(nice);
        }
        if let Some(memory) = self.memory {
            spec = spec.memory(memory);
        }
        if let Some(limit) = self.start_limit {
            spec = spec.start_limit(limit);
        }
        spec
    }
}

impl std::fmt::Debug for Options {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        // Variables may hold secrets.
        f.debug_struct("Options")
            .field("name", &self.name)
            .field("cwd", &self.cwd)
            .field("nice", &self.nice)
            .field("memory", &self.memory)
            .field("time_limit", &self.time_limit)
            .field("max_calls", &self.max_calls)
            .finish_non_exhaustive()
    }
}
