//! A command that runs: its output and end as events, and its death with its handle.

use std::io;
use std::os::fd::OwnedFd;
use std::pin::Pin;
use std::sync::{Arc, Weak};
use std::task::Poll;
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::Signal;
use tokio::io::unix::AsyncFd;
use tokio::io::{AsyncWrite, Interest};
use tokio::time::Instant;

use super::process::{Process, SignalError, Status, Whom};
use super::pty::Size;
use super::streams::{Source, Stdin, read};

/// How long after the end of a command its output may stay open before it is cut.
pub const HELD_OPEN: Duration = Duration::from_secs(1);

/// The most bytes of one [`Event`].
pub const MAX_CHUNK: usize = 64 * 1024;

/// The end of a command.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ended {
    /// How the process ended.
    pub status: Status,
    /// Whether something that it left behind still held its output open [a second](HELD_OPEN) later, so that the
    /// output was cut there.
    pub held_open: bool,
}

/// What happens to a command.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// It wrote to its output, or to its terminal.
    Stdout(Vec<u8>),
    /// It wrote to its error output.
    Stderr(Vec<u8>),
    /// Its output, or its terminal, has ended; those of a command that ends itself need not be told one by one.
    StdoutEnd,
    /// Its error output has ended.
    StderrEnd,
    /// It ended; nothing comes after this.
    Ended(Ended),
}

/// A command that has been started.
///
/// Dropping it kills the command's process group, unless its end has been reported. Of what has left the group nothing
/// is known here; that ends with the worker.
#[derive(Debug)]
pub struct Running {
    process: Arc<Process>,
    stdin: Option<Stdin>,
    outputs: [Option<Source>; 2],
    /// A terminal that nobody has open any more, as when a program closes its streams before it ends. Closing our side would
    /// hang it up, and kill that program.
    unused: Option<Source>,
    /// The output to ask first, so that neither can keep the other out.
    first: usize,
    /// Outputs that are not read for now.
    held: [bool; 2],
    told: bool,
    /// How much of each output is still to be read before it is cut, once that is due.
    cut: Option<[usize; 2]>,
    buffer: Vec<u8>,
}

impl Running {
    pub(super) fn new(process: Arc<Process>, stdin: Option<Stdin>, outputs: [Option<Source>; 2]) -> Self {
        Self {
            process,
            stdin,
            outputs,
            unused: None,
            first: 0,
            held: [false; 2],
            told: false,
            cut: None,
            buffer: Vec::new(),
        }
    }

    /// The number of the process, and of its group.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.process.number()
    }

    /// Its input, if it is piped or a terminal and has not been taken yet.
    pub fn stdin(&mut self) -> Option<Stdin> {
        self.stdin.take()
    }

    /// A handle for signals that does not keep the command alive.
    #[must_use]
    pub fn control(&self) -> Control {
        let outputs = self.outputs.each_ref().map(|output| output.as_ref().map(Arc::downgrade));
        Control { process: Arc::clone(&self.process), terminal: self.terminal(), outputs }
    }

    fn terminal(&self) -> Option<Weak<AsyncFd<OwnedFd>>> {
        let [Some(output), None] = &self.outputs else { return None };
        rustix::termios::isatty(output.get_ref()).then(|| Arc::downgrade(output))
    }

    /// How it ended, if it has, without waiting.
    #[must_use]
    pub fn status(&self) -> Option<Status> {
        self.process.ended().map(|(status, _)| status)
    }

    /// Waits for its end only, which then counts as reported. Output is not read meanwhile: a command that writes more
    /// than a pipe holds would wait for a reader. Cancel-safe.
    pub async fn wait(&mut self) -> Status {
        let status = self.process.end().await;
        self.process.reap();
        status
    }

    /// Reads no output, or no error output, until told otherwise: the command waits when its pipe is full. The end is not told
    /// while there is something unread in one that is held.
    pub fn hold(&mut self, held: [bool; 2]) {
        self.held = held;
    }

    /// Waits for the next event: output in order within its stream, then the end, which comes when both outputs have
    /// ended or a [second](HELD_OPEN) after the process has. `None` after the end. Cancel-safe: nothing is lost.
    ///
    /// # Errors
    /// Whatever reading a pipe can fail with, which is nothing in practice.
    pub async fn next(&mut self) -> io::Result<Option<Event>> {
        if self.told {
            return Ok(None);
        }
        loop {
            let ended = self.process.ended();
            if let Some((_, at)) = ended
                && self.cut.is_none()
                && Instant::now() >= at + HELD_OPEN
            {
                // What was written before the end is in the pipes by now; what is written from now on is not awaited.
                self.cut = Some(self.outputs.each_ref().map(|output| output.as_ref().map_or(0, waiting_in)));
            }
            if let Some(event) = self.read_some()? {
                return Ok(Some(event));
            }
            let open = self.outputs.iter().any(Option::is_some);
            if let Some((status, at)) = ended {
                let rest =
                    |at: usize| self.outputs[at].is_some() && self.cut.is_some_and(|left| left[at] > 0);
                if !open || (self.cut.is_some() && !rest(0) && !rest(1)) {
                    let held_open = self.control().is_held_open();
                    if held_open {
                        self.process.cut_open();
                    }
                    self.outputs = [None, None];
                    self.unused = None;
                    self.told = true;
                    self.process.reap();
                    return Ok(Some(Event::Ended(Ended { status, held_open })));
                }
                tokio::select! {
                    result = self.readable() => result?,
                    () = tokio::time::sleep_until(at + HELD_OPEN), if self.cut.is_none() => {}
                }
            } else {
                tokio::select! {
                    result = self.readable() => result?,
                    _ = self.process.end() => {
                        if self.process.ended().is_none() {
                            return Err(io::Error::other("the runtime is going down"));
                        }
                    }
                }
            }
        }
    }

    /// Waits until there is something in an output that is not held, of which all is still to be read.
    async fn readable(&self) -> io::Result<()> {
        std::future::poll_fn(|cx| {
            let whole = self.outputs.iter().zip(self.held).filter(|(_, held)| !held && self.cut.is_none());
            for output in whole.filter_map(|(output, _)| output.as_ref()) {
                if output.poll_read_ready(cx)?.is_ready() {
                    return Poll::Ready(Ok(()));
                }
            }
            Poll::Pending
        })
        .await
    }

    /// Reads from one output what is there, and drops outputs that have ended.
    fn read_some(&mut self) -> io::Result<Option<Event>> {
        self.buffer.resize(MAX_CHUNK, 0);
        for turn in 0..2 {
            let at = (self.first + turn) % 2;
            let Some(output) = self.outputs[at].as_ref().filter(|_| !self.held[at]) else { continue };
            let result = match &mut self.cut {
                None => output.try_io(Interest::READABLE, |fd| read(fd, &mut self.buffer)),
                Some(left) if left[at] == 0 => continue,
                // The pipe itself is asked, since the reactor may lag behind it.
                Some(left) => {
                    let most = left[at].min(MAX_CHUNK);
                    let result = read(output.get_ref(), &mut self.buffer[..most]);
                    left[at] -= result.as_ref().map_or(left[at], |count| *count);
                    result
                }
            };
            match result {
                Ok(0) => {
                    let ended = self.outputs[at].take();
                    self.unused = ended.filter(|output| rustix::termios::isatty(output.get_ref()));
                    return Ok(Some(if at == 0 { Event::StdoutEnd } else { Event::StderrEnd }));
                }
                Ok(count) => {
                    self.first = at + 1;
                    let bytes = self.buffer[..count].to_vec();
                    return Ok(Some(if at == 0 { Event::Stdout(bytes) } else { Event::Stderr(bytes) }));
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => return Err(error),
            }
        }
        Ok(None)
    }

    /// Gives up its output: whatever writes there is told that nobody reads, as when the reader of a pipe is gone. A terminal
    /// stays as it is.
    pub fn close_stdout(&mut self) {
        if self.terminal().is_none() {
            self.outputs[0] = None;
        }
    }

    /// Gives up its error output, as [`close_stdout`](Self::close_stdout).
    pub fn close_stderr(&mut self) {
        self.outputs[1] = None;
    }

    /// Runs it to its end and returns its output, at most `limit` bytes of each stream; what exceeds that is read and
    /// thrown away. Its input ends at once unless it has been taken. Dropping the future kills the command.
    ///
    /// # Errors
    /// As [`Running::next`].
    pub async fn collect(mut self, limit: usize) -> io::Result<Collected> {
        if let Some(mut stdin) = self.stdin.take() {
            // Fails for a command that has ended already.
            let _ = std::future::poll_fn(|cx| Pin::new(&mut stdin).poll_shutdown(cx)).await;
        }
        let (mut stdout, mut stderr, mut truncated) = (Vec::new(), Vec::new(), false);
        let mut keep = |all: &mut Vec<u8>, bytes: &[u8]| {
            let room = limit - all.len();
            truncated |= bytes.len() > room;
            all.extend_from_slice(&bytes[..bytes.len().min(room)]);
        };
        loop {
            match self.next().await? {
                Some(Event::Stdout(bytes)) => keep(&mut stdout, &bytes),
                Some(Event::Stderr(bytes)) => keep(&mut stderr, &bytes),
                Some(Event::StdoutEnd | Event::StderrEnd) => {}
                Some(Event::Ended(ended)) => return Ok(Collected { ended, stdout, stderr, truncated }),
                None => return Err(io::Error::other("the end has been reported before")),
            }
        }
    }

    /// Sends a signal by its number.
    ///
    /// # Errors
    /// See [`SignalError`].
    pub fn signal(&self, number: i32, whom: Whom) -> Result<(), SignalError> {
        self.control().signal(number, whom)
    }

    /// Kills the process group at once. The end still comes as an event.
    ///
    /// # Errors
    /// See [`SignalError`].
    pub fn kill(&self) -> Result<(), SignalError> {
        self.process.signal(Signal::KILL, Whom::Group)
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.process.abandon();
    }
}

fn waiting_in(output: &Source) -> usize {
    rustix::io::ioctl_fionread(output.get_ref())
        .ok()
        .and_then(|count| usize::try_from(count).ok())
        .unwrap_or(0)
}

/// All that a command wrote, and how it ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Collected {
    /// How it ended.
    pub ended: Ended,
    /// Its output, if it was piped.
    pub stdout: Vec<u8>,
    /// Its error output, if it was piped.
    pub stderr: Vec<u8>,
    /// Whether either was longer than the limit.
    pub truncated: bool,
}

/// Signals a command from elsewhere. Does not keep it alive.
#[derive(Clone, Debug)]
pub struct Control {
    process: Arc<Process>,
    terminal: Option<Weak<AsyncFd<OwnedFd>>>,
    outputs: [Option<Weak<AsyncFd<OwnedFd>>>; 2],
}

impl Control {
    /// Whether anything could still write to an output, or could when it was cut.
    #[must_use]
    pub fn is_held_open(&self) -> bool {
        if self.process.was_held_open() {
            return true;
        }
        let now = Timespec { tv_sec: 0, tv_nsec: 0 };
        self.outputs.iter().flatten().filter_map(Weak::upgrade).any(|output| {
            // A hang-up is told without having been asked for, also while there is something to read.
            let mut asked = [PollFd::new(output.get_ref(), PollFlags::empty())];
            poll(&mut asked, Some(&now)).is_ok() && !asked[0].revents().contains(PollFlags::HUP)
        })
    }

    /// Waits for the end of the process, which does not count as reported then. Cancel-safe.
    pub async fn ended(&self) -> Status {
        self.process.end().await
    }

    /// Whether the process has ended.
    #[must_use]
    pub fn has_ended(&self) -> bool {
        self.process.ended().is_some()
    }

    /// Sends a signal by its number.
    ///
    /// # Errors
    /// See [`SignalError`].
    pub fn signal(&self, number: i32, whom: Whom) -> Result<(), SignalError> {
        let signal = super::signals::by_number(number).ok_or(SignalError::Unknown(number))?;
        self.process.signal(signal, whom)
    }

    /// Changes the size of its terminal. Does nothing if it has none, or has ended.
    ///
    /// # Errors
    /// What the system said.
    pub fn resize(&self, size: Size) -> io::Result<()> {
        match self.terminal.as_ref().and_then(Weak::upgrade) {
            Some(terminal) => super::pty::resize(terminal.get_ref(), size),
            None => Ok(()),
        }
    }
}
