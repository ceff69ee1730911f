//! The reader: its loop, which also keeps the connection's deadlines.

use std::pin::Pin;
use std::task::Poll;
use std::time::{Duration, Instant};

use tokio::io::{AsyncRead, ReadBuf};
use tokio::task::coop;

use super::incoming::{Incoming, READ_MIN};
use super::patience::Patience;
use super::{Driving, FAREWELL_LIMIT, Shared, State, Wakes};
use crate::error::ConnectionError;
use crate::sync::Arc;

/// How often a connection that is not greeted yet is looked at for deadlines, which it then has.
const GREETING_TICK: Duration = Duration::from_millis(500);

/// Receives until the connection has ended, and keeps its deadlines. Ended by that, or by its runtime.
pub(crate) async fn read_loop(shared: Arc<Shared>, stream: impl AsyncRead + Send + 'static) {
    let mut stream = Box::pin(stream);
    let reading = Reading(&shared);
    read(&shared, stream.as_mut()).await;
    drop(reading);
    let _parting = Parting(&shared);
    // In time or not, the connection has ended.
    let _ = tokio::time::timeout(FAREWELL_LIMIT, part(&shared, stream.as_mut())).await;
}

/// Ends the connection when the loop is dropped before it has, and tells its end.
struct Reading<'a>(&'a Shared);

impl Drop for Reading<'_> {
    fn drop(&mut self) {
        drop(Driving(self.0));
        self.0.tell_end();
    }
}

async fn read(shared: &Shared, stream: Pin<&mut impl AsyncRead>) {
    let mut incoming = Incoming::new(stream);
    let mut patience = Patience::default();
    let mut wakes = Wakes::default();
    let sleep = tokio::time::sleep_until(shared.lock().deadline(Instant::now()).into());
    let mut sleep = std::pin::pin!(sleep);
    std::future::poll_fn(|cx| {
        loop {
            match incoming.poll_read(shared, cx, &mut wakes) {
                Poll::Ready(Ok(0)) => {
                    shared.with(State::handle_eof);
                    return Poll::Ready(());
                }
                Poll::Ready(Ok(came)) => patience.moved(came),
                Poll::Ready(Err(error)) => {
                    let cause = ConnectionError::Io(std::sync::Arc::new(error));
                    shared.with(|state| state.end(cause));
                    return Poll::Ready(());
                }
                Poll::Pending => break,
            }
            let state = shared.lock();
            let (ended, failed) = (state.mux.cause().is_some(), state.failed.is_some());
            drop(state);
            if ended || failed && shared.with(State::has_ended) {
                return Poll::Ready(());
            }
        }
        if patience.looks_again(cx) {
            return Poll::Pending;
        }
        loop {
            let mut state = shared.lock();
            if state.mux.cause().is_some() {
                return Poll::Ready(());
            }
            state.reader = Some(cx.waker().clone());
            if let Some((_, by)) = state.failed
                && by < sleep.deadline().into_std()
            {
                sleep.as_mut().reset(by.into());
            }
            drop(state);
            if sleep.as_mut().poll(cx).is_pending() {
                return Poll::Pending;
            }
            let now = Instant::now();
            let deadline = shared.with(|state| {
                state.mux.handle_timeout(now);
                state.has_ended();
                state.deadline(now)
            });
            sleep.as_mut().reset(deadline.into());
            incoming.shrink();
        }
    })
    .await;
}

impl State {
    /// When the reader is to look at the time.
    fn deadline(&self, now: Instant) -> Instant {
        // Not greeted yet: whoever waits for that keeps the time.
        let deadline = self.mux.poll_timeout().unwrap_or(now + GREETING_TICK);
        self.failed.as_ref().map_or(deadline, |(_, by)| deadline.min(*by))
    }

    /// Whether the connection has ended; ends it if a write failed and the peer's farewell has taken too long.
    fn has_ended(&mut self) -> bool {
        if let Some((cause, by)) = &self.failed
            && Instant::now() >= *by
        {
            self.mux.end(cause.clone());
        }
        self.mux.cause().is_some()
    }

    /// The byte stream from the peer ended.
    fn handle_eof(&mut self) {
        match self.mux.cause_of_eof() {
            cause if cause.is_orderly() => self.mux.end(cause),
            // That is why the write failed, and all that the peer sent before has come.
            cause if self.failed.as_ref().is_some_and(|(failed, _)| is_broken_pipe(failed)) => {
                self.mux.end(cause)
            }
            cause => self.end(cause),
        }
    }

    /// Nothing more comes from the peer: the connection ends for this cause, or for that of an earlier write.
    fn end(&mut self, cause: ConnectionError) {
        let cause = self.failed.as_ref().map_or(cause, |(failed, _)| failed.clone());
        self.mux.end(cause);
    }
}

fn is_broken_pipe(cause: &ConnectionError) -> bool {
    matches!(cause, ConnectionError::Io(error) if error.kind() == std::io::ErrorKind::BrokenPipe)
}

/// Lets the peer go on while it is told why the connection ended: what it still sends is read and dropped until it ends, too. If
/// nobody took it, the peer might not come to read the farewell, and a socket closed with unread input drops its output.
async fn part(shared: &Shared, mut stream: Pin<&mut impl AsyncRead>) {
    if !shared.lock().parting {
        return;
    }
    let mut buffer = vec![0; READ_MIN];
    let mut open = true;
    std::future::poll_fn(|cx| {
        while open {
            let progress = std::task::ready!(coop::poll_proceed(cx));
            let mut read = ReadBuf::new(&mut buffer);
            match stream.as_mut().poll_read(cx, &mut read) {
                Poll::Ready(Ok(())) if !read.filled().is_empty() => progress.made_progress(),
                Poll::Ready(_) => open = false,
                Poll::Pending => break,
            }
        }
        let mut state = shared.lock();
        if !open && state.written {
            return Poll::Ready(());
        }
        state.reader = Some(cx.waker().clone());
        Poll::Pending
    })
    .await;
}

/// The end of trying to send the farewell.
pub(crate) struct Parting<'a>(pub(crate) &'a Shared);

impl Drop for Parting<'_> {
    fn drop(&mut self) {
        let mut wakes = Wakes::default();
        let mut state = self.0.lock();
        state.parting = false;
        wakes.0.extend(state.blocked_writer.take());
        drop(state);
        wakes.wake();
    }
}
