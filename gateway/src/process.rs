//! Commands on the far side, in the shape of `tokio::process`.

use std::ffi::OsString;
use std::fmt;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;

use bytes::Bytes;
use farcall_bootstrap::Class;
use farcall_channel::{
    ByteReader, ByteWriter, Channel, CodecError, Raw, Receiver, RecvError, SendError, Sender,
};
use tokio::io::AsyncReadExt;
use tokio::sync::Mutex;

use crate::end::GatewayEnd;
use crate::failure::plain;
use crate::gateway::Inner;
use crate::wire::{CommandOrder, CommandPlan, CommandReport, ExitReport, Output, Request};

/// A program to be run in a worker's place: from [`Gateway::command`](crate::Gateway::command).
///
/// The program leads a process group of its own, gets default signals, and is killed with its group when its [`Child`] is
/// dropped or the gateway ends; what left the group ends with the gateway.
///
/// ```no_run
/// # use farcall::{Gateway, Stdio};
/// # async fn example(gateway: Gateway) -> Result<(), Box<dyn std::error::Error>> {
/// let output = gateway.command("df").arg("-h").current_dir("/").output().await?;
/// assert!(output.status.success());
///
/// let mut child = gateway.command("sort").stdin(Stdio::Piped).stdout(Stdio::Piped).spawn().await?;
/// let mut stdin = child.stdin.take().expect("it is piped");
/// tokio::io::AsyncWriteExt::write_all(&mut stdin, b"b\na\n").await?;
/// drop(stdin);
/// assert_eq!(child.wait_with_output().await?.stdout, b"a\nb\n");
/// # Ok(())
/// # }
/// ```
pub struct Command {
    inner: Arc<Inner>,
    program: OsString,
    arg0: Option<OsString>,
    args: Vec<OsString>,
    env: Vec<(OsString, Option<OsString>)>,
    env_clear: bool,
    directory: Option<PathBuf>,
    stdin: Option<Stdio>,
    stdout: Option<Stdio>,
    stderr: Option<Stdio>,
    terminal: Option<(u16, u16)>,
}

/// What becomes of one of a command's standard streams.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stdio {
    /// A stream to or from here.
    Piped,
    /// Nothing: `/dev/null`.
    Null,
    /// The worker's own: its output is told by [`Gateway::output`](crate::Gateway::output), its input is empty.
    Inherit,
}

/// Why a command did not run, or cannot be followed any more.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CommandError {
    /// It was not started. A program that does not exist has the kind [`io::ErrorKind::NotFound`], and `step` tells it
    /// from a folder that does not exist.
    #[error("cannot start {}: cannot {}", program.display(), plain(.step))]
    Start {
        /// The program as given.
        program: OsString,
        /// What failed: `execute it`, `enter its directory`.
        step: String,
        /// What the far system said.
        source: io::Error,
    },
    /// Its description is longer than a message may be, or cannot be encoded.
    #[error("the command cannot be sent")]
    Send(#[source] SendError),
    /// A signal was not sent: there is no such signal there, or the command belongs to somebody else by now.
    #[error("cannot send signal {number} to the command")]
    Signal {
        /// The signal's number, there.
        number: i32,
        /// What the far system said.
        source: io::Error,
    },
    /// The worker refused.
    #[error("the worker refused: {}", plain(.0))]
    Refused(String),
    /// The worker's report made no sense.
    #[error("the worker's report cannot be read")]
    Report(#[source] CodecError),
    /// The worker cannot follow the command any more.
    #[error("the worker has lost the command: {}", plain(.0))]
    Untraceable(String),
    /// The gateway has ended, and the command with it.
    #[error(transparent)]
    Ended(Arc<GatewayEnd>),
}

impl CommandError {
    /// What kind of failure it was; `None` for what could not be sent at all, for a signal that was refused, and where this side
    /// ended the gateway.
    pub fn class(&self) -> Option<Class> {
        match self {
            CommandError::Start { .. } | CommandError::Refused(_) => Some(Class::Exec),
            CommandError::Report(_) | CommandError::Untraceable(_) => Some(Class::Lost),
            CommandError::Ended(end) => end.class(),
            CommandError::Send(_) | CommandError::Signal { .. } => None,
        }
    }

    /// Where in the life of a command it happened, for people: `send`, `start`, `signal` or `run`.
    pub fn step(&self) -> &'static str {
        match self {
            CommandError::Send(_) => "send",
            CommandError::Start { .. } | CommandError::Refused(_) => "start",
            CommandError::Signal { .. } => "signal",
            CommandError::Report(_) | CommandError::Untraceable(_) | CommandError::Ended(_) => "run",
        }
    }

    /// The end of the worker's standard error, if the gateway has ended. It comes from there as it is: whoever shows it escapes
    /// control characters.
    pub fn evidence(&self) -> &str {
        match self {
            CommandError::Ended(end) => end.stderr(),
            _ => "",
        }
    }
}

/// How a command ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ExitStatus {
    /// By itself, with this code.
    Code(i32),
    /// By this signal, numbered as it is there.
    Signal(i32),
}

impl ExitStatus {
    /// Whether it ended with code 0.
    pub fn success(self) -> bool {
        self == ExitStatus::Code(0)
    }

    /// The code, if it ended with one.
    pub fn code(self) -> Option<i32> {
        match self {
            ExitStatus::Code(code) => Some(code),
            ExitStatus::Signal(_) => None,
        }
    }

    /// The signal, if it ended by one.
    pub fn signal(self) -> Option<i32> {
        match self {
            ExitStatus::Code(_) => None,
            ExitStatus::Signal(signal) => Some(signal),
        }
    }
}

impl fmt::Display for ExitStatus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ExitStatus::Code(code) => write!(f, "exit code {code}"),
            ExitStatus::Signal(signal) => write!(f, "signal {signal}"),
        }
    }
}

/// The end of a command.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ended {
    /// How its process ended.
    pub status: ExitStatus,
    /// Whether something that it left behind still held its output open a second later, so that the output was cut there.
    pub held_open: bool,
}

/// All that a command wrote, and how it ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CommandOutput {
    /// How its process ended.
    pub status: ExitStatus,
    /// Its output, if it was piped.
    pub stdout: Vec<u8>,
    /// Its error output, if it was piped.
    pub stderr: Vec<u8>,
    /// As in [`Ended`].
    pub held_open: bool,
}

impl Command {
    pub(crate) fn new(inner: Arc<Inner>, program: OsString) -> Command {
        Command {
            inner,
            program,
            arg0: None,
            args: Vec::new(),
            env: Vec::new(),
            env_clear: false,
            directory: None,
            stdin: None,
            stdout: None,
            stderr: None,
            terminal: None,
        }
    }

    /// Adds an argument.
    #[must_use]
    pub fn arg(mut self, arg: impl Into<OsString>) -> Command {
        self.args.push(arg.into());
        self
    }

    /// Adds arguments.
    #[must_use]
    pub fn args<A: Into<OsString>>(mut self, args: impl IntoIterator<Item = A>) -> Command {
        self.args.extend(args.into_iter().map(Into::into));
        self
    }

    /// What the program sees as its own name.
    #[must_use]
    pub fn arg0(mut self, name: impl Into<OsString>) -> Command {
        self.arg0 = Some(name.into());
        self
    }

    /// Sets a variable; the others are the worker's.
    #[must_use]
    pub fn env(mut self, name: impl Into<OsString>, value: impl Into<OsString>) -> Command {
        self.env.push((name.into(), Some(value.into())));
        self
    }

    /// Sets variables.
    #[must_use]
    pub fn envs<N: Into<OsString>, V: Into<OsString>>(
        mut self,
        variables: impl IntoIterator<Item = (N, V)>,
    ) -> Command {
        self.env.extend(variables.into_iter().map(|(name, value)| (name.into(), Some(value.into()))));
        self
    }

    /// Takes a variable away.
    #[must_use]
    pub fn env_remove(mut self, name: impl Into<OsString>) -> Command {
        self.env.push((name.into(), None));
        self
    }

    /// Takes all variables away, but those that are set from now on.
    #[must_use]
    pub fn env_clear(mut self) -> Command {
        self.env.clear();
        self.env_clear = true;
        self
    }

    /// The folder to start in, which must exist. A relative one is taken from the worker's.
    #[must_use]
    pub fn current_dir(mut self, directory: impl Into<PathBuf>) -> Command {
        self.directory = Some(directory.into());
        self
    }

    /// Where its input comes from. By default there is none.
    #[must_use]
    pub fn stdin(mut self, stdin: Stdio) -> Command {
        self.stdin = Some(stdin);
        self
    }

    /// Where its output goes. By default [`Stdio::Inherit`], but [`Stdio::Piped`] for [`output`](Self::output).
    #[must_use]
    pub fn stdout(mut self, stdout: Stdio) -> Command {
        self.stdout = Some(stdout);
        self
    }

    /// Where its error output goes; as [`stdout`](Self::stdout).
    #[must_use]
    pub fn stderr(mut self, stderr: Stdio) -> Command {
        self.stderr = Some(stderr);
        self
    }

    /// Runs it at a terminal of so many rows and columns, in a session of its own. Input and output are then piped from and to
    /// that; there is no error output of its own. Shutting the input down types the end-of-file character.
    #[must_use]
    pub fn terminal(mut self, rows: u16, columns: u16) -> Command {
        self.terminal = Some((rows, columns));
        self
    }

    /// Starts it, and returns when it is executing.
    ///
    /// Cancel safety: a command whose `spawn` is dropped is killed.
    ///
    /// # Errors
    /// See [`CommandError`].
    pub async fn spawn(self) -> Result<Child, CommandError> {
        self.start(Stdio::Inherit).await
    }

    /// Runs it to its end and returns how it ended. What it prints goes to [`Gateway::output`](crate::Gateway::output).
    ///
    /// Cancel safety: dropping it kills the command.
    ///
    /// # Errors
    /// See [`CommandError`].
    pub async fn status(self) -> Result<ExitStatus, CommandError> {
        Ok(self.spawn().await?.wait().await?.status)
    }

    /// Runs it to its end and returns all that it wrote.
    ///
    /// Cancel safety: dropping it kills the command.
    ///
    /// # Errors
    /// See [`CommandError`].
    pub async fn output(self) -> Result<CommandOutput, CommandError> {
        self.start(Stdio::Piped).await?.wait_with_output().await
    }

    async fn start(self, usual: Stdio) -> Result<Child, CommandError> {
        let inner = self.inner;
        let connection = &inner.connection;
        let (mut stdin, mut stdout, mut stderr) = (None, None, None);
        let piped_in = self.terminal.is_some() || self.stdin == Some(Stdio::Piped);
        let their_stdin = piped_in.then(|| {
            let (ours, theirs) = connection.pair_with::<Bytes, Raw>();
            stdin = Some(ours.into_writer());
            theirs
        });
        let output = |kind: Option<Stdio>, ours: &mut Option<ByteReader>| match kind.unwrap_or(usual) {
            Stdio::Inherit => Output::Inherit,
            Stdio::Null => Output::Null,
            Stdio::Piped => {
                let (theirs, reader) = connection.pair_with::<Bytes, Raw>();
                *ours = Some(reader.into_reader());
                Output::Piped(theirs)
            }
        };
        let (out, err) = match self.terminal {
            Some(_) => (Some(Stdio::Piped), Some(Stdio::Null)),
            None => (self.stdout, self.stderr),
        };
        let plan = CommandPlan {
            program: self.program.clone(),
            arg0: self.arg0,
            args: self.args,
            env: self.env,
            env_clear: self.env_clear,
            directory: self.directory.map(Into::into),
            stdin: their_stdin,
            stdout: output(out, &mut stdout),
            stderr: output(err, &mut stderr),
            terminal: self.terminal,
        };
        let channel = connection.open(Request::Command.to_bytes()).await;
        let Ok(channel) = channel else { return Err(CommandError::Ended(inner.gone().await)) };
        let control: Channel<CommandOrder, CommandReport> = channel;
        match control.send(CommandOrder::Start(Box::new(plan))).await {
            Ok(()) | Err(SendError::Stopped(_)) => {}
            Err(SendError::Lost(_) | SendError::Draining) => {
                return Err(CommandError::Ended(inner.gone().await));
            }
            Err(error) => return Err(CommandError::Send(error)),
        }
        let (orders, mut reports) = control.split();
        match report(&inner, &mut reports).await? {
            CommandReport::Started { pid } => {
                let reports = Mutex::new(Reports { receiver: reports, ended: None, turn: 0 });
                Ok(Child { stdin, stdout, stderr, pid, orders, reports, inner })
            }
            CommandReport::NotStarted { step, code, message } => {
                Err(CommandError::Start { program: self.program, step, source: system(code, &message) })
            }
            CommandReport::Lost { message } => Err(CommandError::Untraceable(message)),
            CommandReport::Ended { .. } | CommandReport::Signalled { .. } => {
                Err(CommandError::Untraceable("it ended before it was started".into()))
            }
        }
    }
}

/// What the far system said: a number that means the same here, or words.
fn system(code: Option<i32>, message: &str) -> io::Error {
    match code {
        Some(code) => io::Error::from_raw_os_error(code),
        None => io::Error::other(plain(message).into_owned()),
    }
}

async fn report(inner: &Inner, reports: &mut Receiver<CommandReport>) -> Result<CommandReport, CommandError> {
    match reports.recv().await {
        Ok(Some(report)) => Ok(report),
        Ok(None) => Err(CommandError::Untraceable("the worker is ending".into())),
        Err(RecvError::Remote(reason)) => Err(CommandError::Refused(reason.text().into_owned())),
        Err(RecvError::Codec(error)) => Err(CommandError::Report(error)),
        Err(_) => Err(CommandError::Ended(inner.ended().await)),
    }
}

impl fmt::Debug for Command {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Variables may hold secrets.
        f.debug_struct("Command")
            .field("program", &self.program)
            .field("args", &self.args)
            .field("directory", &self.directory)
            .finish_non_exhaustive()
    }
}

/// A command that runs in a worker's place. Dropping it kills the command with its process group.
///
/// The streams are independent of it and of each other, like pipes: of an output that nobody reads 64 KiB and more wait before
/// the command does. A stream that is dropped ends: a command that writes to it gets SIGPIPE.
pub struct Child {
    /// Its input, if it was piped. Dropping it is the end of the file.
    pub stdin: Option<ByteWriter>,
    /// Its output, if it was piped.
    pub stdout: Option<ByteReader>,
    /// Its error output, if it was piped.
    pub stderr: Option<ByteReader>,
    pid: u32,
    orders: Sender<CommandOrder>,
    /// Read by who waits for the end, and by who waits for the answer to a signal.
    reports: Mutex<Reports>,
    inner: Arc<Inner>,
}

struct Reports {
    receiver: Receiver<CommandReport>,
    ended: Option<Ended>,
    /// Of the last signal: an answer to one whose sender did not wait is not taken for another's.
    turn: u64,
}

impl Child {
    /// The number of its process, and of its process group, there.
    pub fn id(&self) -> u32 {
        self.pid
    }

    /// Waits for its end. Its input is closed first, if it was not taken, so that it can end.
    ///
    /// The end is told after all output, unless that is not read within a second and a half: a command that waits for a
    /// reader does not end, but of one that has ended the output is kept for who reads it later.
    ///
    /// Cancel safety: nothing is lost; it may be called again.
    ///
    /// # Errors
    /// That the gateway ended, above all.
    pub async fn wait(&mut self) -> Result<Ended, CommandError> {
        drop(self.stdin.take());
        let reports = self.reports.get_mut();
        loop {
            if let Some(ended) = reports.ended {
                return Ok(ended);
            }
            // What else comes answers a signal whose sender did not wait.
            reports.next(&self.inner).await?;
        }
    }

    /// Reads what is left of its outputs while it waits for its end.
    ///
    /// Cancel safety: dropping it kills the command.
    ///
    /// # Errors
    /// As [`wait`](Self::wait).
    pub async fn wait_with_output(mut self) -> Result<CommandOutput, CommandError> {
        async fn all(reader: Option<ByteReader>) -> io::Result<Vec<u8>> {
            let mut bytes = Vec::new();
            if let Some(mut reader) = reader {
                reader.read_to_end(&mut bytes).await?;
            }
            Ok(bytes)
        }
        let (stdout, stderr) = (self.stdout.take(), self.stderr.take());
        let (stdout, stderr, ended) = tokio::join!(all(stdout), all(stderr), self.wait());
        let Ended { status, held_open } = ended?;
        match (stdout, stderr) {
            (Ok(stdout), Ok(stderr)) => Ok(CommandOutput { status, stdout, stderr, held_open }),
            // Channels of the same connection fail only with it.
            _ => Err(CommandError::Ended(self.inner.ended().await)),
        }
    }

    /// Sends a signal to its process group, by its number there, and returns when it has been sent there.
    ///
    /// Cancel safety: a signal whose future is dropped may have been sent.
    ///
    /// # Errors
    /// [`CommandError::Signal`] if it was refused there, or that the gateway ended. A command that has ended takes no signal,
    /// which is no error.
    pub async fn signal(&self, number: i32) -> Result<(), CommandError> {
        self.send_signal(number, true).await
    }

    /// Sends a signal to its process alone.
    ///
    /// # Errors
    /// As [`signal`](Self::signal).
    pub async fn signal_process(&self, number: i32) -> Result<(), CommandError> {
        self.send_signal(number, false).await
    }

    async fn send_signal(&self, number: i32, group: bool) -> Result<(), CommandError> {
        let mut reports = self.reports.lock().await;
        if reports.ended.is_some() {
            return Ok(());
        }
        reports.turn += 1;
        let turn = reports.turn;
        self.order(CommandOrder::Signal { turn, number, group }).await?;
        loop {
            match reports.next(&self.inner).await? {
                Some((answered, None)) if answered == turn => return Ok(()),
                Some((answered, Some((code, message)))) if answered == turn => {
                    return Err(CommandError::Signal { number, source: system(code, &message) });
                }
                _ if reports.ended.is_some() => return Ok(()),
                _ => {}
            }
        }
    }

    /// Kills its process group. Its end still has to be [waited](Self::wait) for.
    ///
    /// # Errors
    /// As [`signal`](Self::signal).
    pub async fn kill(&self) -> Result<(), CommandError> {
        const KILL: i32 = 9; // on every system
        self.signal(KILL).await
    }

    /// Changes the size of its terminal.
    ///
    /// # Errors
    /// That the gateway ended.
    pub async fn resize(&self, rows: u16, columns: u16) -> Result<(), CommandError> {
        self.order(CommandOrder::Resize { rows, columns }).await
    }

    async fn order(&self, order: CommandOrder) -> Result<(), CommandError> {
        match self.orders.send(order).await {
            // Nobody listens to orders for a command that has ended.
            Ok(()) | Err(SendError::Stopped(_) | SendError::Closed) => Ok(()),
            Err(SendError::Lost(_) | SendError::Draining) => {
                Err(CommandError::Ended(self.inner.gone().await))
            }
            Err(error) => Err(CommandError::Send(error)),
        }
    }
}

impl Reports {
    /// Takes the next report: notes the end, and returns what became of a signal, with the signal's turn.
    async fn next(
        &mut self,
        inner: &Inner,
    ) -> Result<Option<(u64, Option<(Option<i32>, String)>)>, CommandError> {
        match report(inner, &mut self.receiver).await? {
            CommandReport::Ended { status, held_open } => {
                let status = match status {
                    ExitReport::Code(code) => ExitStatus::Code(code),
                    ExitReport::Signal(signal) => ExitStatus::Signal(signal),
                };
                self.ended = Some(Ended { status, held_open });
            }
            CommandReport::Signalled { turn, refused } => return Ok(Some((turn, refused))),
            CommandReport::Lost { message } => return Err(CommandError::Untraceable(message)),
            // Said once, at the beginning.
            CommandReport::Started { .. } | CommandReport::NotStarted { .. } => {}
        }
        Ok(None)
    }
}

impl fmt::Debug for Child {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Child").field("pid", &self.pid).finish_non_exhaustive()
    }
}
