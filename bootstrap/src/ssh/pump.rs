//! Takes everything that arrives on one SSH channel, at once, whoever reads it when.

use std::collections::VecDeque;
use std::io;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use bytes::{Buf, Bytes};
use russh::client::Msg;
use russh::{Channel, ChannelMsg, ChannelReadHalf, ChannelWriteHalf};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::sync::watch;
use tokio_util::sync::{CancellationToken, DropGuard};

use super::dial::keep_tail;
use super::ending::Ending;
use super::prompt::Haste;
use super::session::Session;

/// How many bytes of standard error are kept for a reader that is slow or absent; older ones are dropped.
const STDERR_LIMIT: usize = 1 << 20;

/// What keeping a chunk costs besides its bytes, about: a far side that sends single bytes must not cost a hundred
/// times the bound.
const CHUNK_COST: usize = 128;

/// How the far side ended.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum ExitStatus {
    /// The program ended with this code.
    Exited(u32),
    /// A signal ended the program.
    Signaled {
        /// The signal's name without `SIG`, such as `KILL`.
        signal: String,
        /// Whether it left a core dump.
        core_dumped: bool,
    },
    /// The server closed the channel without saying how the program ended.
    Unknown,
}

/// Why a channel ended early.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ExecError {
    /// The server did not run the command.
    #[error("the server refused to run the command")]
    Refused,
    /// The connection ended before the program did.
    #[error("the connection ended: {0}")]
    Lost(String),
    /// The far side sent more than may wait while nobody reads.
    #[error("more than {0} bytes came while nobody read them")]
    Backlog(usize),
}

/// What is known of the end so far.
#[derive(Clone, Debug, Default)]
pub(crate) struct End {
    pub status: Option<ExitStatus>,
    pub error: Option<ExecError>,
    /// Nothing more comes.
    pub over: bool,
}

/// What arrived and was not read. The lock is held for moments; wakers run after it was released.
#[derive(Default)]
struct State {
    stdout: Queue,
    stderr: Queue,
    stderr_tail: Vec<u8>,
    /// Waits for the far side's window; woken when there will never be one.
    writer: Option<Waker>,
    error: Option<ExecError>,
    over: bool,
}

#[derive(Default)]
struct Queue {
    chunks: VecDeque<Bytes>,
    /// What the chunks cost in memory, in bytes.
    cost: usize,
    ended: bool,
    reader: Option<Waker>,
}

impl Queue {
    fn push(&mut self, chunk: Bytes) -> Option<Waker> {
        self.cost += CHUNK_COST + chunk.len();
        self.chunks.push_back(chunk);
        self.reader.take()
    }

    fn pop_into(&mut self, buf: &mut ReadBuf<'_>) {
        while buf.remaining() > 0
            && let Some(chunk) = self.chunks.front_mut()
        {
            let n = chunk.len().min(buf.remaining());
            buf.put_slice(&chunk[..n]);
            chunk.advance(n);
            self.cost -= n;
            if chunk.is_empty() {
                self.cost -= CHUNK_COST;
                self.chunks.pop_front();
            }
        }
    }
}

pub(crate) struct Shared {
    state: Mutex<State>,
    end: watch::Sender<End>,
    killed: CancellationToken,
    backlog: usize,
}

/// Holds a channel open: as long as one of its users lives, the channel and its session do.
pub(crate) struct Link {
    pub shared: Arc<Shared>,
    pub write: Arc<ChannelWriteHalf<Msg>>,
    session: Session,
    _close: DropGuard,
}

impl Link {
    pub(crate) fn end(&self) -> watch::Receiver<End> {
        self.shared.end.subscribe()
    }

    pub(crate) fn stderr_tail(&self) -> Vec<u8> {
        self.shared.lock().stderr_tail.clone()
    }

    /// Lets the channel be closed soon, if the far side does not end it by then.
    pub(crate) fn killed(&self) {
        self.shared.killed.cancel();
    }

    pub(crate) fn session(&self) -> &Session {
        &self.session
    }
}

/// Starts to take in what arrives on `channel`. The task ends with the channel, which ends when the link is dropped,
/// or with the session.
pub(crate) fn start(channel: Channel<Msg>, session: Session, backlog: usize) -> Arc<Link> {
    let (read, write) = channel.split();
    let shared = Arc::new(Shared {
        state: Mutex::default(),
        end: watch::Sender::default(),
        killed: CancellationToken::new(),
        backlog,
    });
    let write = Arc::new(write);
    let close = CancellationToken::new();
    tokio::spawn(run(
        read,
        Arc::clone(&write),
        Arc::clone(&shared),
        close.clone(),
        session.haste(),
        Arc::clone(session.ending()),
    ));
    Arc::new(Link { shared, write, session, _close: close.drop_guard() })
}

async fn run(
    mut read: ChannelReadHalf,
    write: Arc<ChannelWriteHalf<Msg>>,
    shared: Arc<Shared>,
    close: CancellationToken,
    haste: Haste,
    ending: Arc<Ending>,
) {
    // Once we have closed the channel, the library reports nothing more of it, not even the end. Sending the close is
    // polled beside reading: the session may be waiting for this loop to take what it has.
    let mut closing: Option<Pin<Box<dyn Future<Output = ()> + Send>>> = None;
    let mut closed = false;
    let mut grace = Box::pin(shared.killed_and_grace_over());
    loop {
        let message = tokio::select! {
            message = read.wait() => message,
            () = sent(&mut closing) => {
                closed = true;
                break;
            }
            () = either(close.cancelled(), grace.as_mut()), if closing.is_none() => {
                closing = Some(send_close(&write));
                continue;
            }
        };
        match message {
            Some(ChannelMsg::Close) => closed = true,
            // The server has started the command, and keeps nothing back from here on.
            Some(ChannelMsg::Success) => haste.end(),
            Some(message) if closing.is_none() => {
                if shared.take(message).is_err() {
                    closing = Some(send_close(&write));
                }
            }
            Some(_) => {}
            None => break,
        }
    }
    drop(grace);
    shared.finish(closed, || ending.reason());
}

fn send_close(write: &Arc<ChannelWriteHalf<Msg>>) -> Pin<Box<dyn Future<Output = ()> + Send>> {
    let write = Arc::clone(write);
    Box::pin(async move { _ = write.close().await })
}

async fn sent(closing: &mut Option<Pin<Box<dyn Future<Output = ()> + Send>>>) {
    match closing {
        Some(closing) => closing.await,
        None => std::future::pending().await,
    }
}

async fn either(a: impl Future<Output = ()>, b: impl Future<Output = ()>) {
    tokio::select! {
        () = a => {}
        () = b => {}
    }
}

/// The channel is to be closed, and what still comes to be thrown away.
struct Stop;

impl Shared {
    fn lock(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// How long a killed command has until its channel is closed without waiting for its end.
    const GRACE: Duration = Duration::from_secs(1);

    async fn killed_and_grace_over(&self) {
        self.killed.cancelled().await;
        tokio::time::sleep(Self::GRACE).await;
    }

    fn take(&self, message: ChannelMsg) -> Result<(), Stop> {
        match message {
            ChannelMsg::Data { data } | ChannelMsg::ExtendedData { data, ext: 1 } if data.is_empty() => {}
            ChannelMsg::Data { data } => {
                let mut state = self.lock();
                if state.stdout.cost + CHUNK_COST + data.len() > self.backlog {
                    let error = ExecError::Backlog(self.backlog);
                    state.error = Some(error.clone());
                    drop(state);
                    self.end.send_modify(|end| end.error = Some(error));
                    return Err(Stop);
                }
                let waker = state.stdout.push(data);
                drop(state);
                waker.into_iter().for_each(Waker::wake);
            }
            // 1 is standard error, and there are no others (RFC 4254, section 5.2).
            ChannelMsg::ExtendedData { data, ext: 1 } => {
                let mut state = self.lock();
                keep_tail(&mut state.stderr_tail, &data);
                let waker = state.stderr.push(data);
                while state.stderr.cost > STDERR_LIMIT && state.stderr.chunks.len() > 1 {
                    let dropped = state.stderr.chunks.pop_front().map_or(0, |chunk| CHUNK_COST + chunk.len());
                    state.stderr.cost -= dropped;
                }
                drop(state);
                waker.into_iter().for_each(Waker::wake);
            }
            ChannelMsg::Eof => {
                let mut state = self.lock();
                state.stdout.ended = true;
                state.stderr.ended = true;
                let wakers = [state.stdout.reader.take(), state.stderr.reader.take()];
                drop(state);
                wakers.into_iter().flatten().for_each(Waker::wake);
            }
            ChannelMsg::Failure => {
                self.lock().error = Some(ExecError::Refused);
                self.end.send_modify(|end| end.error = Some(ExecError::Refused));
                return Err(Stop);
            }
            ChannelMsg::ExitStatus { exit_status } => {
                self.end.send_modify(|end| end.status = Some(ExitStatus::Exited(exit_status)));
            }
            ChannelMsg::ExitSignal { signal_name, core_dumped, .. } => {
                let signal = signal_text(&signal_name);
                self.end.send_modify(|end| end.status = Some(ExitStatus::Signaled { signal, core_dumped }));
            }
            _ => {}
        }
        Ok(())
    }

    fn finish(&self, closed: bool, ending: impl Fn() -> String) {
        let mut state = self.lock();
        if !closed && state.error.is_none() {
            state.error = Some(ExecError::Lost(ending()));
        }
        state.over = true;
        let error = state.error.clone();
        let wakers = [state.stdout.reader.take(), state.stderr.reader.take(), state.writer.take()];
        drop(state);
        wakers.into_iter().flatten().for_each(Waker::wake);
        self.end.send_modify(|end| {
            end.over = true;
            end.error = error;
        });
    }

    fn poll_read(
        &self,
        queue: fn(&mut State) -> &mut Queue,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let mut state = self.lock();
        if !queue(&mut state).chunks.is_empty() || buf.remaining() == 0 {
            queue(&mut state).pop_into(buf);
            return Poll::Ready(Ok(()));
        }
        if queue(&mut state).ended {
            return Poll::Ready(Ok(()));
        }
        if let Some(error) = &state.error {
            return Poll::Ready(Err(io_error(error.clone())));
        }
        if state.over {
            return Poll::Ready(Ok(()));
        }
        queue(&mut state).reader = Some(cx.waker().clone());
        Poll::Pending
    }
}

fn io_error(error: ExecError) -> io::Error {
    let kind = match error {
        ExecError::Refused => io::ErrorKind::PermissionDenied,
        ExecError::Lost(_) => io::ErrorKind::ConnectionAborted,
        ExecError::Backlog(_) => io::ErrorKind::QuotaExceeded,
    };
    io::Error::new(kind, error)
}

fn signal_text(signal: &russh::Sig) -> String {
    use russh::Sig;
    match signal {
        // A name from the server: bounded, as it will be shown.
        Sig::Custom(name) => name.chars().filter(|c| !c.is_control()).take(32).collect(),
        known => format!("{known:?}"),
    }
}

/// Reads standard output. Ends when the far side's output ends; an error says why it ended early.
pub struct Stdout(pub(crate) Arc<Link>);

impl AsyncRead for Stdout {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        self.0.shared.poll_read(|state| &mut state.stdout, cx, buf)
    }
}

/// Reads standard error. At most 1 MiB is kept for a slow reader, the newest.
pub struct Stderr(pub(crate) Arc<Link>);

impl AsyncRead for Stderr {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        self.0.shared.poll_read(|state| &mut state.stderr, cx, buf)
    }
}

/// Writes standard input. Shutting it down is the end of input; dropping it is not.
pub struct Stdin {
    link: Arc<Link>,
    writer: Pin<Box<dyn AsyncWrite + Send + Sync>>,
}

impl Stdin {
    pub(crate) fn new(link: Arc<Link>) -> Self {
        let writer = Box::pin(link.write.make_writer());
        Self { link, writer }
    }

    /// The library's writer waits for the far side's window without noticing that the channel has ended.
    fn check(&self, cx: &mut Context<'_>) -> io::Result<()> {
        let mut state = self.link.shared.lock();
        if state.over || state.error.is_some() {
            return Err(match &state.error {
                Some(error) => io_error(error.clone()),
                None => io::ErrorKind::BrokenPipe.into(),
            });
        }
        state.writer = Some(cx.waker().clone());
        Ok(())
    }
}

impl AsyncWrite for Stdin {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        self.check(cx)?;
        if buf.is_empty() {
            return Poll::Ready(Ok(0));
        }
        self.writer.as_mut().poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.check(cx)?;
        self.writer.as_mut().poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.check(cx).is_err() {
            // There is nobody left to tell.
            return Poll::Ready(Ok(()));
        }
        self.writer.as_mut().poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shared(backlog: usize) -> Shared {
        Shared {
            state: Mutex::default(),
            end: watch::Sender::default(),
            killed: CancellationToken::new(),
            backlog,
        }
    }

    #[test]
    fn single_bytes_cost_what_they_take() {
        let shared = shared(1 << 20);
        let byte = || ChannelMsg::Data { data: Bytes::from_static(b"x") };
        let taken = (0..).take_while(|_| shared.take(byte()).is_ok()).count();
        assert_eq!(taken, (1 << 20) / (CHUNK_COST + 1));
        assert_eq!(shared.end.borrow().error, Some(ExecError::Backlog(1 << 20)));
        // What is empty costs nothing, and is not the end.
        assert!(shared.take(ChannelMsg::Data { data: Bytes::new() }).is_ok());

        let mut space = vec![0; taken + 1];
        let mut buf = ReadBuf::new(&mut space);
        shared.lock().stdout.pop_into(&mut buf);
        assert_eq!((buf.filled().len(), shared.lock().stdout.cost), (taken, 0));
    }

    #[test]
    fn standard_error_forgets_its_beginning() {
        let shared = shared(0);
        for n in 0..100_000_u32 {
            let data = Bytes::from(format!("{n}\n"));
            assert!(shared.take(ChannelMsg::ExtendedData { data, ext: 1 }).is_ok());
        }
        let mut space = vec![0; STDERR_LIMIT];
        let mut buf = ReadBuf::new(&mut space);
        assert!(shared.lock().stderr.cost <= STDERR_LIMIT);
        shared.lock().stderr.pop_into(&mut buf);
        assert!(buf.filled().ends_with(b"99998\n99999\n") && shared.lock().stderr.cost == 0);
        assert!(shared.lock().stderr_tail.ends_with(b"99998\n99999\n"));
    }
}
