//! Commands on the far side: one child process, its input, its output and its end.
//!
//! Every child leads a process group of its own, has its signals at their defaults and unblocked, the limit on
//! descriptors that the worker was started with, and no descriptors but 0, 1 and 2.

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::io;
use std::path::PathBuf;

pub use super::process::{SignalError, Status, Whom};
pub use super::pty::Size;
pub use super::running::{Collected, Control, Ended, Event, HELD_OPEN, MAX_CHUNK, Running};
pub use super::spawn::Step;
pub use super::streams::{Input, Output, Stdin};

use super::process::Process;
use super::spawn::{self, Plan};
use super::streams::Streams;

/// What to start, in the manner of `std::process::Command`.
///
/// # Example
/// ```no_run
/// # async fn example() -> Result<(), Box<dyn std::error::Error>> {
/// use farcall::worker::child::{Launch, Output};
///
/// let running = Launch::new("uname").arg("-a").stdout(Output::Piped).spawn()?;
/// let collected = running.collect(1 << 20).await?;
/// assert!(collected.ended.status.success());
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug)]
pub struct Launch {
    program: OsString,
    arg0: Option<OsString>,
    args: Vec<OsString>,
    env: BTreeMap<OsString, Option<OsString>>,
    env_clear: bool,
    directory: Option<PathBuf>,
    stdin: Input,
    stdout: Output,
    stderr: Output,
    terminal: Option<Size>,
    memory: Option<u64>,
    nice: i32,
}

/// Why a command could not be started. Nothing is left of the attempt.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SpawnError {
    /// A step of the start failed. A program that does not exist fails at [`Step::Execute`], a directory that does not
    /// exist at [`Step::Directory`], both with [`io::ErrorKind::NotFound`].
    #[error("cannot start {}: cannot {step}", program.display())]
    Step {
        /// The program as given.
        program: OsString,
        /// What failed.
        step: Step,
        /// What the system said.
        source: io::Error,
    },
    /// Commands are waited for by tasks, so there must be a tokio runtime.
    #[error("commands must be started within a tokio runtime")]
    NoRuntime,
}

impl Launch {
    /// The program is looked for in the command's own `PATH`, unless its name contains a slash. Without more, it gets
    /// no arguments, this process's environment and directory, no input, and inherits the output.
    pub fn new(program: impl Into<OsString>) -> Self {
        Self {
            program: program.into(),
            arg0: None,
            args: Vec::new(),
            env: BTreeMap::new(),
            env_clear: false,
            directory: None,
            stdin: Input::default(),
            stdout: Output::default(),
            stderr: Output::default(),
            terminal: None,
            memory: None,
            nice: 0,
        }
    }

    /// Adds an argument.
    #[must_use]
    pub fn arg(mut self, arg: impl Into<OsString>) -> Self {
        self.args.push(arg.into());
        self
    }

    /// Adds arguments.
    #[must_use]
    pub fn args<A: Into<OsString>>(mut self, args: impl IntoIterator<Item = A>) -> Self {
        self.args.extend(args.into_iter().map(Into::into));
        self
    }

    /// What the command sees as its own name, instead of the program's.
    #[must_use]
    pub fn arg0(mut self, name: impl Into<OsString>) -> Self {
        self.arg0 = Some(name.into());
        self
    }

    /// Sets a variable of its environment.
    #[must_use]
    pub fn env(mut self, name: impl Into<OsString>, value: impl Into<OsString>) -> Self {
        self.env.insert(name.into(), Some(value.into()));
        self
    }

    /// Takes a variable out of its environment.
    #[must_use]
    pub fn env_remove(mut self, name: impl Into<OsString>) -> Self {
        self.env.insert(name.into(), None);
        self
    }

    /// Gives it an empty environment, to which only what is set afterwards is added.
    #[must_use]
    pub fn env_clear(mut self) -> Self {
        self.env.clear();
        self.env_clear = true;
        self
    }

    /// Its working directory, which must exist.
    #[must_use]
    pub fn current_dir(mut self, directory: impl Into<PathBuf>) -> Self {
        self.directory = Some(directory.into());
        self
    }

    /// Where its input comes from.
    #[must_use]
    pub fn stdin(mut self, input: Input) -> Self {
        self.stdin = input;
        self
    }

    /// Where its output goes.
    #[must_use]
    pub fn stdout(mut self, output: Output) -> Self {
        self.stdout = output;
        self
    }

    /// Where its errors go.
    #[must_use]
    pub fn stderr(mut self, output: Output) -> Self {
        self.stderr = output;
        self
    }

    /// Runs it at a pseudo-terminal of this size, in a session of its own. Input, output and errors are then the
    /// terminal, whatever else was asked for; errors come as [`Event::Stdout`].
    #[must_use]
    pub fn terminal(mut self, size: Size) -> Self {
        self.terminal = Some(size);
        self
    }

    /// Limits the memory of its process to so many bytes: see [`limit_memory`](super::limits::limit_memory).
    #[must_use]
    pub fn memory(mut self, bytes: u64) -> Self {
        self.memory = Some(bytes);
        self
    }

    /// Adds to its niceness.
    #[must_use]
    pub fn nice(mut self, increment: i32) -> Self {
        self.nice = increment;
        self
    }

    /// Starts it. Blocks the thread until the program is executing, a fraction of a millisecond unless its file system
    /// is slow.
    ///
    /// # Errors
    /// See [`SpawnError`].
    pub fn spawn(&self) -> Result<Running, SpawnError> {
        let runtime = tokio::runtime::Handle::try_current().map_err(|_| SpawnError::NoRuntime)?;
        let failed =
            |step| move |source: io::Error| SpawnError::Step { program: self.program.clone(), step, source };
        let streams = match self.terminal {
            Some(size) => Streams::terminal(size),
            None => Streams::pipes(self.stdin, self.stdout, self.stderr),
        };
        let Streams { theirs, stdin, outputs } = streams.map_err(failed(Step::Prepare))?;

        let name = self.arg0.as_ref().unwrap_or(&self.program);
        let plan = Plan {
            program: self.program.clone(),
            args: std::iter::once(name).chain(&self.args).cloned().collect(),
            env: self.environment(),
            directory: self.directory.clone(),
            stdio: theirs,
            terminal: self.terminal.is_some(),
            descriptors: super::limits::descriptors_of_children(),
            memory: self.memory,
            nice: self.nice,
        };
        let started = spawn::spawn(plan).map_err(|error| failed(error.step)(error.source))?;

        Ok(Running::new(Process::watch(started, &runtime), stdin, outputs))
    }

    fn environment(&self) -> Vec<(OsString, OsString)> {
        let inherited = (!self.env_clear).then(std::env::vars_os).into_iter().flatten();
        let kept = inherited.filter(|(name, _)| !self.env.contains_key::<OsStr>(name));
        let set = self.env.iter().filter_map(|(name, value)| Some((name.clone(), value.clone()?)));
        kept.chain(set).collect()
    }
}
