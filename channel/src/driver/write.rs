//! The writer: its loop, and the writes of senders that spare the way through it.

use std::pin::Pin;
use std::sync::Arc as StdArc;
use std::task::{Context, Poll, Waker, ready};
use std::time::Instant;

use bytes::Buf;
use tokio::io::AsyncWrite;
use tokio::runtime::Handle;

use super::patience::Patience;
use super::trace::Wanted;
use super::{Driving, FAREWELL_LIMIT, Shared, Wakes};
use crate::error::ConnectionError;
use crate::mux::Transmit;
use crate::sync::Arc;

/// About as many bytes are handed to the byte stream in one write: a pipe's usual capacity at the most. Reader and writer of
/// a pipe get in each other's way with each call, so few large ones are faster.
const WRITE_LIMIT: usize = 1024 * 1024;
/// The largest write buffer that is kept while nothing is sent.
const WRITE_KEPT: usize = 128 * 1024;

/// The byte stream to the peer, with what is on its way into it.
pub(crate) struct Writer {
    stream: Pin<Box<dyn AsyncWrite + Send>>,
    pending: Transmit,
    /// The runtime of the loops.
    runtime: Option<Handle>,
}

impl Writer {
    pub(crate) fn new(stream: impl AsyncWrite + Send + 'static, runtime: Option<Handle>) -> Box<Writer> {
        Box::new(Writer { stream: Box::pin(stream), pending: Transmit::default(), runtime })
    }

    /// Whether all that it took is in the byte stream.
    pub(super) fn is_empty(&self) -> bool {
        self.pending.is_empty()
    }

    fn fill(&mut self, shared: &Shared) {
        let wanted = Wanted::now();
        let mut state = shared.lock();
        state.watch(wanted);
        state.mux.poll_transmit(Instant::now(), &mut self.pending, WRITE_LIMIT);
        let mut wakes = Wakes::default();
        state.collect(&mut wakes);
        let traces = state.traces();
        drop(state);
        wakes.wake();
        traces.emit();
    }

    /// Sends all that is pending and flushes it.
    fn poll_send(&mut self, cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        while !self.pending.is_empty() {
            let written =
                ready!(tokio_util::io::poll_write_buf(self.stream.as_mut(), cx, &mut self.pending))?;
            if written == 0 {
                return Poll::Ready(Err(std::io::ErrorKind::WriteZero.into()));
            }
        }
        self.stream.as_mut().poll_flush(cx)
    }
}

impl Shared {
    /// Writes what there is now; what does not go at once is left to the writer loop.
    pub(super) fn write_directly(&self, mut writer: Box<Writer>, waker: Waker) {
        let mut context = Context::from_waker(&waker);
        writer.fill(self);
        // The stream belongs to the loops' runtime, and is somebody else's code: if it panics, the writer is gone.
        let runtime = writer.runtime.clone();
        let entered = runtime.as_ref().map(Handle::enter);
        let driving = Driving(self);
        let written = writer.poll_send(&mut context);
        std::mem::forget(driving);
        drop(entered);
        let mut wakes = Wakes::default();
        let mut state = self.lock();
        let mut unfinished = written.is_pending() || state.mux.wants_transmit();
        if let Poll::Ready(Err(error)) = written {
            state.fail(error, &mut wakes);
            unfinished = true;
        }
        state.idle = Some((writer, waker));
        state.collect(&mut wakes);
        if unfinished || state.mux.is_drained() || state.mux.cause().is_some() {
            wakes.0.extend(state.writer.take());
        }
        drop(state);
        wakes.wake();
    }

    /// The writer if nobody has it, and whether its stream has failed.
    fn take_idle(&self, waker: &Waker) -> Option<(Box<Writer>, bool)> {
        let mut state = self.lock();
        let idle = state.idle.take();
        if idle.is_none() {
            state.writer = Some(waker.clone());
        }
        idle.map(|(writer, _)| (writer, state.failed.is_some()))
    }
}

impl super::State {
    /// A write failed: nothing is written any more. The peer may have said why before it went, so the reader goes on.
    fn fail(&mut self, error: std::io::Error, wakes: &mut Wakes) {
        if self.failed.is_none() && self.mux.cause().is_none() {
            let cause = ConnectionError::Io(StdArc::new(error));
            self.failed = Some((cause, Instant::now() + FAREWELL_LIMIT));
            wakes.0.extend(self.reader.take());
        }
    }
}

/// Sends until the connection has ended, and then the farewell if there is one. Ended by that, or by its runtime.
pub(crate) async fn write_loop(shared: Arc<Shared>, writer: Box<Writer>) {
    let driving = Driving(&shared);
    let mut held = Some(writer);
    let mut patience = Patience::default();
    let end = std::future::poll_fn(|cx| {
        let mut writer =
            match held.take().map(|writer| (writer, false)).or_else(|| shared.take_idle(cx.waker())) {
                Some((writer, false)) => writer,
                // A sender's own write failed.
                Some((writer, true)) => return Poll::Ready(writer),
                None => return Poll::Pending,
            };
        loop {
            if writer.pending.is_empty() {
                writer.fill(&shared);
            }
            let before = writer.pending.remaining();
            let sent = writer.poll_send(cx);
            patience.moved(before - writer.pending.remaining());
            match sent {
                Poll::Pending => {
                    patience.looks_again(cx);
                    let mut state = shared.lock();
                    if state.mux.cause().is_some() && !state.parting {
                        // There is nothing to tell the peer, or it takes nothing.
                        drop(state);
                        return Poll::Ready(writer);
                    }
                    // Woken when the stream takes more, when the connection ends, or when the farewell has taken too long.
                    state.blocked_writer = Some(cx.waker().clone());
                    held = Some(writer);
                    return Poll::Pending;
                }
                Poll::Ready(Err(error)) => {
                    let mut wakes = Wakes::default();
                    shared.lock().fail(error, &mut wakes);
                    wakes.wake();
                    return Poll::Ready(writer);
                }
                Poll::Ready(Ok(())) => {}
            }
            let mut state = shared.lock();
            if state.mux.wants_transmit() {
                continue;
            }
            if state.mux.cause().is_some() || state.mux.is_drained() {
                drop(state);
                return Poll::Ready(writer);
            }
            writer.pending.shrink(WRITE_KEPT);
            state.writer = Some(cx.waker().clone());
            state.idle = Some((writer, cx.waker().clone()));
            return Poll::Pending;
        }
    });
    let mut writer = end.await;
    // Drained perhaps, or failed, and not ended: the reader waits for the peer.
    std::mem::forget(driving);
    // The peer sees the end of the stream. An error here has no one to go to: the connection has ended.
    let _ = std::future::poll_fn(|cx| writer.stream.as_mut().poll_shutdown(cx)).await;
    let mut wakes = Wakes::default();
    let mut state = shared.lock();
    state.written = true;
    wakes.0.extend(state.reader.take());
    drop(state);
    wakes.wake();
}
