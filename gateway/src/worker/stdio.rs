//! The protocol's streams moved away from descriptors 0 to 2, and what is printed there caught.
//!
//! Anything that runs in a worker, or is started by it, may print, read, close or reuse the three standard
//! descriptors. So before anything can print, [`move_aside`] duplicates the protocol's two to high numbers that
//! nothing inherits; 0 becomes `/dev/null`, 1 a pipe into [`Prints`], and 2 stays what it was, for messages that must
//! reach whoever launched us, until [`Prints::capture_stderr`].

use std::io;
use std::os::fd::{AsFd, BorrowedFd, IntoRawFd, OwnedFd};
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use tokio::io::unix::AsyncFd;
use tokio::io::{AsyncRead, AsyncWrite, Interest, ReadBuf};
use tokio::net::unix::pipe;

/// Where the protocol's descriptors go, if the limit on descriptors allows: out of the way of code that assumes that
/// the next free number, or a handful of low ones, is its own.
const HIGH: [i32; 3] = [512, 128, 3];

/// The most bytes of a [`Record`].
pub const MAX_RECORD: usize = 64 * 1024;

/// Why the standard streams could not be moved.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StdioError {
    /// A system call failed.
    #[error("cannot {doing}")]
    System {
        /// What was tried, for people.
        doing: &'static str,
        /// What the system said.
        source: io::Error,
    },
    /// Input or output is a file of a kind that cannot be waited for: a regular file, say, rather than a pipe, socket
    /// or terminal.
    #[error("standard {which} is not a pipe, socket or terminal")]
    NotAStream {
        /// Which of the two.
        which: Which,
        /// What the system said.
        source: io::Error,
    },
}

/// The protocol's input or output.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Which {
    /// Descriptor 0.
    Input,
    /// Descriptor 1.
    Output,
}

impl std::fmt::Display for Which {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Input => "input",
            Self::Output => "output",
        })
    }
}

fn failed<E: Into<io::Error>>(doing: &'static str) -> impl FnOnce(E) -> StdioError {
    move |error| StdioError::System { doing, source: error.into() }
}

/// The protocol's streams and the pipe of prints, not yet on a reactor.
#[derive(Debug)]
pub struct Moved {
    input: OwnedFd,
    output: OwnedFd,
    stdout: Caught,
    stderr: Option<Caught>,
}

/// Both ends of a pipe that has taken a standard descriptor's place. The writing end is kept, so that the pipe does
/// not end when a task closes the descriptor.
#[derive(Debug)]
struct Caught {
    read: OwnedFd,
    write: OwnedFd,
}

impl Caught {
    fn new() -> Result<Self, StdioError> {
        let (read, write) = io::pipe().map_err(failed("make a pipe for prints"))?;
        Ok(Self { read: high(read.as_fd())?, write: high(write.as_fd())? })
    }
}

/// Moves the protocol's streams aside and puts `/dev/null` and a pipe in their places.
///
/// To be called once, before anything can print, and after the guardians have started: they watch descriptor 0. Where
/// descriptors 1 and 2 are the same file, prints to either would damage the protocol, and both are caught at once.
///
/// # Errors
/// [`StdioError::System`]; the descriptors may then be in any state, and the worker cannot go on.
pub fn move_aside() -> Result<Moved, StdioError> {
    let (input, output) = (high(standard(0))?, high(standard(1))?);
    #[cfg(target_os = "linux")]
    for stream in [&input, &output] {
        // With the usual 64 KiB whoever relays it, as an SSH server does, is put to sleep and woken for each of them. Fails where
        // it is no pipe, and where the account has used up what it may have of pipes: then it stays as it is.
        let _ = rustix::pipe::fcntl_setpipe_size(stream, farcall_bootstrap::PIPE_SIZE);
    }
    let one_file = same_file(standard(1), standard(2));

    let null = rustix::fs::open(c"/dev/null", OFlags::RDWR | OFlags::CLOEXEC, Mode::empty())
        .map_err(failed("open /dev/null"))?;
    rustix::stdio::dup2_stdin(&null).map_err(failed("replace the standard input"))?;
    let stdout = Caught::new()?;
    rustix::stdio::dup2_stdout(&stdout.write).map_err(failed("replace the standard output"))?;
    let mut moved = Moved { input, output, stdout, stderr: None };
    if one_file {
        moved.stderr = Some(take_stderr()?);
    }
    Ok(moved)
}

/// One more descriptor of the standard error that there is now, for what must be heard whatever becomes of descriptor 2.
///
/// # Errors
/// [`StdioError::System`].
pub(super) fn keep_stderr() -> Result<OwnedFd, StdioError> {
    high(standard(2))
}

/// The same as [`move_aside`] for streams that are no standard ones: their places are taken by `/dev/null`. Prints to descriptor 2 go to
/// `stderr`.
#[cfg(target_os = "linux")]
pub(super) fn put_aside(input: OwnedFd, output: OwnedFd, stderr: OwnedFd) -> Result<Moved, StdioError> {
    let (input, output) = (high(input.as_fd())?, high(output.as_fd())?);
    let stdout = Caught::new()?;
    rustix::stdio::dup2_stdout(&stdout.write).map_err(failed("replace the standard output"))?;
    rustix::stdio::dup2_stderr(&stderr).map_err(failed("replace the standard error"))?;
    Ok(Moved { input, output, stdout, stderr: None })
}

/// Puts `/dev/null` in the place of each standard stream that is closed, or the next file would take its number: the standard
/// library's start does so too.
pub(crate) fn open_closed() {
    for number in 0..=2 {
        if rustix::io::fcntl_getfd(standard(number)) == Err(Errno::BADF)
            // The least number that is free, which is this one. Without it there is nothing better to do than to go on.
            && let Ok(null) = rustix::fs::open(c"/dev/null", OFlags::RDWR, Mode::empty())
        {
            let _ = null.into_raw_fd();
        }
    }
}

/// Puts `/dev/null` in the place of the standard streams.
#[cfg(target_os = "linux")]
pub(super) fn close_all() -> io::Result<()> {
    let null = rustix::fs::open(c"/dev/null", OFlags::RDWR | OFlags::CLOEXEC, Mode::empty())?;
    rustix::stdio::dup2_stdin(&null)?;
    rustix::stdio::dup2_stdout(&null)?;
    rustix::stdio::dup2_stderr(&null)?;
    Ok(())
}

/// Closes what was inherited beyond the three standard descriptors: whoever started this process need not have known of it. What
/// this program has opened itself is marked to be closed when another is executed, and that is how the two are told apart.
pub(super) fn close_inherited() {
    let Ok(all) = std::fs::read_dir("/proc/self/fd") else { return };
    let numbers = all.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok());
    // The folder's own descriptor is closed by the end of this.
    for number in numbers.filter(|number| *number > 2).collect::<Vec<i32>>() {
        // SAFETY: asks for the flags of whatever it is, and fails where nothing is open.
        let fd = unsafe { BorrowedFd::borrow_raw(number) };
        if rustix::io::fcntl_getfd(fd) == Ok(rustix::io::FdFlags::empty()) {
            // SAFETY: what this program did not open belongs to nothing in it.
            unsafe { rustix::io::close(number) };
        }
    }
}

fn take_stderr() -> Result<Caught, StdioError> {
    let caught = Caught::new()?;
    rustix::stdio::dup2_stderr(&caught.write).map_err(failed("replace the standard error"))?;
    Ok(caught)
}

/// A standard descriptor, for the time of a call. It may be closed; then the call fails.
fn standard(number: i32) -> BorrowedFd<'static> {
    // SAFETY: used for single calls that do not keep it, and that fail for a descriptor that is not open.
    unsafe { BorrowedFd::borrow_raw(number) }
}

fn high(fd: BorrowedFd<'_>) -> Result<OwnedFd, StdioError> {
    let mut result = Err(Errno::INVAL);
    for least in HIGH {
        result = rustix::io::fcntl_dupfd_cloexec(fd, least);
        // EINVAL: beyond the limit on descriptors. EMFILE: nothing free from there on.
        if !matches!(result, Err(Errno::INVAL | Errno::MFILE)) {
            break;
        }
    }
    result.map_err(failed("move a descriptor aside"))
}

fn same_file(one: BorrowedFd<'_>, other: BorrowedFd<'_>) -> bool {
    match (rustix::fs::fstat(one), rustix::fs::fstat(other)) {
        (Ok(one), Ok(other)) => (one.st_dev, one.st_ino) == (other.st_dev, other.st_ino),
        _ => false,
    }
}

impl Moved {
    /// Puts everything on the reactor of the current runtime.
    ///
    /// # Errors
    /// [`StdioError::NotAStream`] where input or output cannot be waited for.
    ///
    /// # Panics
    /// Outside a tokio runtime with I/O enabled.
    pub fn open(self) -> Result<(ProtocolReader, ProtocolWriter, Prints), StdioError> {
        let reader = ProtocolReader(on_reactor(self.input, Interest::READABLE, Which::Input)?);
        let writer = ProtocolWriter(on_reactor(self.output, Interest::WRITABLE, Which::Output)?);
        let mut sources = vec![Source::open(Stream::Stdout, self.stdout)?];
        if let Some(stderr) = self.stderr {
            sources.push(Source::open(Stream::Stderr, stderr)?);
        }
        Ok((reader, writer, Prints { sources, first: 0, buffer: Vec::new() }))
    }
}

fn on_reactor(fd: OwnedFd, interest: Interest, which: Which) -> Result<AsyncFd<OwnedFd>, StdioError> {
    super::reactor::register(fd, interest).map_err(|source| StdioError::NotAStream { which, source })
}

/// The protocol's input: whatever descriptor 0 was, waited for on the reactor.
#[derive(Debug)]
pub struct ProtocolReader(AsyncFd<OwnedFd>);

/// The protocol's output: whatever descriptor 1 was. Nothing is buffered; shutting it down does nothing, dropping it
/// closes it.
#[derive(Debug)]
pub struct ProtocolWriter(AsyncFd<OwnedFd>);

impl AsyncRead for ProtocolReader {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        loop {
            let mut guard = ready!(self.0.poll_read_ready(cx))?;
            let unfilled = buf.initialize_unfilled();
            match guard.try_io(|fd| retry(|| rustix::io::read(fd, &mut *unfilled))) {
                Ok(read) => {
                    buf.advance(read?);
                    return Poll::Ready(Ok(()));
                }
                Err(_would_block) => {}
            }
        }
    }
}

impl ProtocolWriter {
    fn poll_io(
        &self,
        cx: &mut Context<'_>,
        mut write: impl FnMut(BorrowedFd<'_>) -> rustix::io::Result<usize>,
    ) -> Poll<io::Result<usize>> {
        loop {
            let mut guard = ready!(self.0.poll_write_ready(cx))?;
            match guard.try_io(|fd| retry(|| write(fd.as_fd()))) {
                Ok(written) => return Poll::Ready(written),
                Err(_would_block) => {}
            }
        }
    }
}

impl AsyncWrite for ProtocolWriter {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        self.poll_io(cx, |fd| rustix::io::write(fd, buf))
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.poll_io(cx, |fd| rustix::io::writev(fd, bufs))
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

fn retry(mut call: impl FnMut() -> rustix::io::Result<usize>) -> io::Result<usize> {
    loop {
        match call() {
            Err(Errno::INTR) => {}
            result => return result.map_err(Into::into),
        }
    }
}

/// Which standard stream was printed to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stream {
    /// Descriptor 1.
    Stdout,
    /// Descriptor 2.
    Stderr,
}

/// Something that a task, or a child that inherited the worker's output, has printed: bytes in order within their
/// stream, cut anywhere, never empty, at most [`MAX_RECORD`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    /// Where it was printed.
    pub stream: Stream,
    /// What was printed.
    pub bytes: Vec<u8>,
}

/// What is printed in this process and by children that inherited its output.
///
/// Nothing is buffered here beyond the pipes themselves: while nobody reads, at most a pipe's capacity (64 KiB each on
/// Linux) is kept, and then whoever prints waits.
#[derive(Debug)]
pub struct Prints {
    sources: Vec<Source>,
    /// The one to ask first, so that neither can keep the other out.
    first: usize,
    buffer: Vec<u8>,
}

#[derive(Debug)]
struct Source {
    stream: Stream,
    read: pipe::Receiver,
    _write: OwnedFd,
}

impl Source {
    fn open(stream: Stream, caught: Caught) -> Result<Self, StdioError> {
        let read = pipe::Receiver::from_owned_fd(caught.read).map_err(failed("wait for prints"))?;
        Ok(Self { stream, read, _write: caught.write })
    }
}

impl Prints {
    /// Catches descriptor 2 as well. Harmless if that is done already.
    ///
    /// # Errors
    /// [`StdioError::System`]; descriptor 2 is then what it was.
    ///
    /// # Panics
    /// Outside a tokio runtime with I/O enabled.
    pub fn capture_stderr(&mut self) -> Result<(), StdioError> {
        if self.sources.iter().all(|source| source.stream != Stream::Stderr) {
            self.sources.push(Source::open(Stream::Stderr, take_stderr()?)?);
        }
        Ok(())
    }

    /// Waits for the next print. Cancel-safe: a print is lost only with the `Prints`. There is no end: the worker
    /// itself may always print more.
    ///
    /// # Errors
    /// Whatever reading a pipe can fail with, which is nothing in practice.
    pub async fn next(&mut self) -> io::Result<Record> {
        loop {
            if let Some(record) = self.try_next()? {
                return Ok(record);
            }
            let sources = &self.sources;
            std::future::poll_fn(|cx| {
                for source in sources {
                    if source.read.poll_read_ready(cx)?.is_ready() {
                        return Poll::Ready(Ok::<_, io::Error>(()));
                    }
                }
                Poll::Pending
            })
            .await?;
        }
    }

    /// What has been printed and not yet read, without waiting. Before a worker ends: a task's prints are in the pipes
    /// when the task is done, so reading until `None` misses none of them.
    ///
    /// # Errors
    /// As [`Prints::next`].
    pub fn try_next(&mut self) -> io::Result<Option<Record>> {
        self.buffer.resize(MAX_RECORD, 0);
        for turn in 0..self.sources.len() {
            let at = (self.first + turn) % self.sources.len();
            let Source { stream, read, .. } = &self.sources[at];
            match retry_read(read, &mut self.buffer) {
                Ok(0) => {}
                Ok(count) => {
                    self.first = at + 1;
                    return Ok(Some(Record { stream: *stream, bytes: self.buffer[..count].to_vec() }));
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => return Err(error),
            }
        }
        Ok(None)
    }
}

/// The reactor may not have heard of what was printed just now, so the pipe itself is asked.
fn retry_read(pipe: &pipe::Receiver, buffer: &mut [u8]) -> io::Result<usize> {
    match pipe.try_read(buffer) {
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
            retry(|| rustix::io::read(pipe, &mut *buffer))
        }
        result => result,
    }
}
