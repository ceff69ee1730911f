//! A command's input and outputs: the child's descriptors and our ends of them.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::pin::Pin;
use std::sync::{Arc, OnceLock};
use std::task::{Context, Poll, ready};

use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use tokio::io::unix::AsyncFd;
use tokio::io::{AsyncWrite, Interest};

use super::pty::Size;

/// Where a command's input comes from.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Input {
    /// From nowhere: `/dev/null`.
    #[default]
    Null,
    /// From [`Running::stdin`](super::child::Running::stdin).
    Piped,
}

/// Where a command's output goes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Output {
    /// Where the worker's own prints go.
    #[default]
    Inherit,
    /// Nowhere: `/dev/null`.
    Null,
    /// To [`Running::next`](super::child::Running::next).
    Piped,
}

/// Our end of an output.
pub(super) type Source = Arc<AsyncFd<OwnedFd>>;

/// The child's three descriptors and our ends of them.
pub(super) struct Streams {
    pub(super) theirs: [Option<OwnedFd>; 3],
    pub(super) stdin: Option<Stdin>,
    pub(super) outputs: [Option<Source>; 2],
}

impl Streams {
    pub(super) fn pipes(input: Input, stdout: Output, stderr: Output) -> io::Result<Self> {
        let (their_stdin, stdin) = match input {
            Input::Null => (null()?, None),
            Input::Piped => {
                let (theirs, ours) = io::pipe()?;
                let stdin = Stdin { to: Some(on_reactor(ours.into(), Interest::WRITABLE)?), terminal: false };
                (theirs.into(), Some(stdin))
            }
        };
        let (their_stdout, stdout) = output(stdout)?;
        let (their_stderr, stderr) = output(stderr)?;
        Ok(Self { theirs: [Some(their_stdin), their_stdout, their_stderr], stdin, outputs: [stdout, stderr] })
    }

    pub(super) fn terminal(size: Size) -> io::Result<Self> {
        let (ours, theirs) = super::pty::open(size)?;
        let ours = on_reactor(ours, Interest::READABLE | Interest::WRITABLE)?;
        let stdin = Stdin { to: Some(Arc::clone(&ours)), terminal: true };
        let theirs = [Some(theirs.try_clone()?), Some(theirs.try_clone()?), Some(theirs)];
        Ok(Self { theirs, stdin: Some(stdin), outputs: [Some(ours), None] })
    }
}

fn output(kind: Output) -> io::Result<(Option<OwnedFd>, Option<Source>)> {
    Ok(match kind {
        Output::Inherit => (None, None),
        Output::Null => (Some(null()?), None),
        Output::Piped => {
            let (ours, theirs) = io::pipe()?;
            (Some(theirs.into()), Some(on_reactor(ours.into(), Interest::READABLE)?))
        }
    })
}

/// `/dev/null`, opened once.
pub(super) fn null() -> io::Result<OwnedFd> {
    static NULL: OnceLock<OwnedFd> = OnceLock::new();
    if let Some(null) = NULL.get() {
        return null.try_clone();
    }
    let opened = rustix::fs::open(c"/dev/null", OFlags::RDWR | OFlags::CLOEXEC, Mode::empty())?;
    NULL.get_or_init(|| opened).try_clone()
}

fn on_reactor(fd: OwnedFd, interest: Interest) -> io::Result<Source> {
    super::reactor::register(fd, interest).map(Arc::new)
}

pub(super) fn read(fd: &OwnedFd, buffer: &mut [u8]) -> io::Result<usize> {
    loop {
        match rustix::io::read(fd, &mut *buffer) {
            Err(Errno::INTR) => {}
            // How Linux says that nobody has a terminal open any more.
            Err(Errno::IO) => return Ok(0),
            result => return result.map_err(Into::into),
        }
    }
}

/// A command's input. Nothing is buffered; dropping it ends a piped input. A terminal's input ends only by
/// [shutdown](AsyncWrite::poll_shutdown), which types the end-of-file character.
#[derive(Debug)]
pub struct Stdin {
    to: Option<Arc<AsyncFd<OwnedFd>>>,
    terminal: bool,
}

impl Stdin {
    fn poll_write_with(&self, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let Some(to) = &self.to else { return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into())) };
        loop {
            let mut guard = ready!(to.poll_write_ready(cx))?;
            let result = guard.try_io(|fd| {
                loop {
                    match rustix::io::write(fd.as_fd(), buf) {
                        Err(Errno::INTR) => {}
                        result => return result.map_err(Into::into),
                    }
                }
            });
            if let Ok(written) = result {
                return Poll::Ready(written);
            }
        }
    }
}

impl AsyncWrite for Stdin {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        self.poll_write_with(cx, buf)
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.terminal
            && let Some(to) = &self.to
        {
            let end = super::pty::end_of_file(to.get_ref());
            ready!(self.poll_write_with(cx, &[end]))?;
        }
        self.to = None;
        Poll::Ready(Ok(()))
    }
}
