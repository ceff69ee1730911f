//! The process that carries a worker: its end, its kill switch, the end of its standard error.

use std::fmt;
use std::os::unix::process::ExitStatusExt;
use std::process::ExitStatus;
use std::sync::{Arc, Mutex, PoisonError};

use tokio::io::{AsyncRead, AsyncReadExt};
use tokio::process::Child;
use tokio::sync::{mpsc, watch};
use tokio_util::sync::{CancellationToken, DropGuard};

use crate::error::EVIDENCE_LIMIT;
use crate::hub::HubProcess;
use crate::ssh;

/// How a process ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Exit {
    /// With a code.
    Code(i32),
    /// By a signal, numbered as on Linux.
    Signal(i32),
    /// Nobody can say: the connection to it went away.
    Unknown,
}

impl fmt::Display for Exit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Exit::Code(code) => write!(f, "exit code {code}"),
            Exit::Signal(signal) => write!(f, "signal {signal}"),
            Exit::Unknown => f.write_str("an end that nobody saw"),
        }
    }
}

impl From<ExitStatus> for Exit {
    fn from(status: ExitStatus) -> Self {
        match (status.code(), status.signal()) {
            (Some(code), _) => Exit::Code(code),
            (None, Some(signal)) => Exit::Signal(signal),
            (None, None) => Exit::Unknown,
        }
    }
}

/// The process at this end of a worker's streams: a local worker itself, the command that leads to it, or the
/// program at the far end of an SSH channel. Dropping it kills the process.
#[derive(Debug)]
pub struct Process {
    id: Option<u32>,
    exit: watch::Receiver<Option<Exit>>,
    kill: CancellationToken,
    _kill_on_drop: DropGuard,
}

/// How the process is killed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kill {
    /// Alone: a worker's own guardian ends what it started.
    Alone,
    /// With its process group, which it leads: a command may have helpers.
    Group,
}

impl Process {
    /// A process whose end is reported through `exit`, and that is killed when `kill` is cancelled.
    pub(crate) fn new(id: Option<u32>, exit: watch::Receiver<Option<Exit>>, kill: CancellationToken) -> Self {
        Self { id, exit, _kill_on_drop: kill.clone().drop_guard(), kill }
    }

    /// Its number on this machine; `None` for a process elsewhere.
    pub fn id(&self) -> Option<u32> {
        self.id
    }

    /// How it ended, if it has. It needs no call of [`wait`](Self::wait) for this to be known.
    pub fn exit(&self) -> Option<Exit> {
        *self.exit.borrow()
    }

    /// Waits for its end. Cancel-safe, and may be called again.
    pub async fn wait(&mut self) -> Exit {
        match self.exit.wait_for(Option::is_some).await {
            Ok(exit) => exit.unwrap_or(Exit::Unknown),
            Err(_) => Exit::Unknown, // the runtime that watched it has ended
        }
    }

    /// Kills it. Harmless when it has ended; what it is, [`wait`](Self::wait) tells.
    pub fn kill(&self) {
        self.kill.cancel();
    }
}

/// The end of what a process wrote to its standard error, as far as it is known. Cloning shares it.
#[derive(Clone)]
pub struct Stderr(Source);

#[derive(Clone)]
enum Source {
    Pipe(Arc<Kept>),
    Channel(ssh::Process),
}

#[derive(Default)]
struct Kept {
    tail: Mutex<Vec<u8>>,
    closed: CancellationToken,
}

impl Stderr {
    pub(crate) fn of_channel(process: ssh::Process) -> Self {
        Self(Source::Channel(process))
    }

    /// Reads a pipe until it is closed, or nobody cares how the process ends any more.
    #[cfg(target_os = "linux")]
    pub(crate) fn of_pipe(
        pipe: impl AsyncRead + Send + Unpin + 'static,
        exited: watch::Sender<Option<Exit>>,
    ) -> Self {
        let kept = Arc::new(Kept::default());
        tokio::spawn(read_stderr(pipe, Arc::clone(&kept), exited));
        Self(Source::Pipe(kept))
    }

    /// The last bytes, at most [`EVIDENCE_LIMIT`].
    pub fn tail(&self) -> Vec<u8> {
        match &self.0 {
            Source::Pipe(kept) => kept.tail.lock().unwrap_or_else(PoisonError::into_inner).clone(),
            Source::Channel(process) => process.stderr_tail(),
        }
    }

    /// Waits until nothing more can come. A process that the worker left behind may hold this up for ever. Cancel-safe.
    pub async fn closed(&self) {
        match &self.0 {
            Source::Pipe(kept) => kept.closed.cancelled().await,
            Source::Channel(process) => process.closed().await,
        }
    }
}

impl fmt::Debug for Stderr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Stderr").field(&String::from_utf8_lossy(&self.tail())).finish()
    }
}

impl Kept {
    fn push(&self, bytes: &[u8]) {
        let mut tail = self.tail.lock().unwrap_or_else(PoisonError::into_inner);
        tail.extend_from_slice(bytes);
        let excess = tail.len().saturating_sub(EVIDENCE_LIMIT);
        tail.drain(..excess);
    }
}

/// Watches a child: reaps it, kills it when asked to, reads its standard error so that it never blocks on it.
///
/// Two tasks do so: one ends with the child and keeps `kept` until then, the other when its standard error is closed or the
/// [`Process`] is dropped.
pub(crate) fn watch_child(mut child: Child, how: Kill, kept: Option<mpsc::Sender<()>>) -> (Process, Stderr) {
    let id = child.id();
    let tail = Arc::new(Kept::default());
    let kill = CancellationToken::new();
    let (exited, exit) = watch::channel(None);
    match child.stderr.take() {
        Some(pipe) => drop(tokio::spawn(read_stderr(pipe, Arc::clone(&tail), exited.clone()))),
        None => tail.closed.cancel(),
    }
    let killed = kill.clone();
    tokio::spawn(async move {
        let status = tokio::select! {
            status = child.wait() => status,
            () = killed.cancelled() => {
                kill_child(&mut child, how);
                child.wait().await
            }
        };
        exited.send_replace(Some(status.map_or(Exit::Unknown, Exit::from)));
        drop(kept);
    });
    (Process::new(id, exit, kill), Stderr(Source::Pipe(tail)))
}

/// Watches a process at a hub, as [`watch_child`] does a child.
pub(crate) fn watch_at_hub(
    process: Arc<dyn HubProcess>,
    stderr: Box<dyn AsyncRead + Send + Unpin>,
) -> (Process, Stderr) {
    let kept = Arc::new(Kept::default());
    let kill = CancellationToken::new();
    let (exited, exit) = watch::channel(None);
    tokio::spawn(read_stderr(stderr, Arc::clone(&kept), exited.clone()));
    let killed = kill.clone();
    tokio::spawn(async move {
        let mut ending = process.exit();
        let end = tokio::select! {
            end = &mut ending => end,
            () = killed.cancelled() => {
                process.kill();
                ending.await
            }
        };
        exited.send_replace(Some(end));
    });
    (Process::new(None, exit, kill), Stderr(Source::Pipe(kept)))
}

async fn read_stderr(mut pipe: impl AsyncRead + Unpin, kept: Arc<Kept>, exited: watch::Sender<Option<Exit>>) {
    let mut buffer = [0; 2048];
    loop {
        let more = tokio::select! {
            more = pipe.read(&mut buffer) => more.unwrap_or(0),
            () = exited.closed() => 0,
        };
        if more == 0 {
            break;
        }
        kept.push(&buffer[..more]);
    }
    kept.closed.cancel();
}

fn kill_child(child: &mut Child, how: Kill) {
    // The number is the child's until it is reaped, which only its task does.
    let group = child.id().and_then(|id| rustix::process::Pid::from_raw(id.cast_signed()));
    if let (Kill::Group, Some(group)) = (how, group) {
        // It fails only when nothing is left to kill.
        let _ = rustix::process::kill_process_group(group, rustix::process::Signal::KILL);
    }
    let _ = child.start_kill();
}
