//! What moves bytes and wakes people: one short lock around the [`Mux`], a reader loop and a writer loop.
//!
//! Under the lock nothing is awaited and no serialiser, callback, waker or tracing subscriber runs: whom to wake is collected
//! there and done after. Wakers are stored under the same lock as what they wait for, so none is lost.
//!
//! The writer belongs to whoever took it out of [`State::idle`]: the writer loop, or a sender that answers something and
//! finds it idle. Such a sender writes by itself; that spares the way through the loop, which on a thread of its own costs
//! more than the write. Only one send for each batch received may do so, since one write for each message of a stream
//! would cost far more than batches do.

use std::pin::Pin;
use std::task::{Context, Poll, Waker, ready};
use std::time::{Duration, Instant};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::runtime::Handle;

use crate::error::ConnectionError;
use crate::mux::{Event, Key, Mux, Step, Transmit};
use crate::sync::{Arc, Mutex, MutexGuard};

/// About as many bytes are handed to the byte stream in one write: a pipe's usual capacity at the most. Reader and writer of
/// a pipe get in each other's way with each call, so few large ones are faster.
const WRITE_LIMIT: usize = 1024 * 1024;
/// The largest write buffer that is kept while nothing is sent.
const WRITE_KEPT: usize = 128 * 1024;
/// The read buffer while little comes, and the most it grows to.
const READ_MIN: usize = 8 * 1024;
const READ_MAX: usize = 1024 * 1024;
/// How often a connection that is not greeted yet is looked at for deadlines, which it then has.
const GREETING_TICK: Duration = Duration::from_millis(500);
/// So many bytes a task may send before it lets others run.
const SEND_BUDGET: u64 = 32 * 1024;

/// What all handles of a connection and its two loops share.
#[derive(Debug)]
pub(crate) struct Shared {
    state: Mutex<State>,
}

pub(crate) struct State {
    pub(crate) mux: Mux,
    channels: Vec<Waiting>,
    /// Waiting for an incoming channel, for room for one more, and for a change of the connection as a whole.
    acceptors: Vec<Waker>,
    openers: Vec<Waker>,
    watchers: Vec<Waker>,
    reader: Option<Waker>,
    /// The writer loop's: while it sleeps, and while it waits for the byte stream.
    writer: Option<Waker>,
    blocked_writer: Option<Waker>,
    /// The writer while nobody writes, with the writer loop's waker.
    idle: Option<(Box<Writer>, Waker)>,
    /// Something came since a sender last wrote by itself.
    answering: bool,
    sent: u64,
}

impl std::fmt::Debug for State {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("State").field("mux", &self.mux).finish_non_exhaustive()
    }
}

/// Who waits on a channel.
#[derive(Default)]
struct Waiting {
    receiver: Option<Waker>,
    senders: Vec<Waker>,
    blocked: Duration,
}

/// Whom to wake once the lock is released.
#[derive(Default)]
pub(crate) struct Wakes(Vec<Waker>);

impl Wakes {
    fn wake(&mut self) {
        for waker in self.0.drain(..) {
            waker.wake();
        }
    }
}

fn register(wakers: &mut Vec<Waker>, waker: &Waker) {
    if !wakers.iter().any(|known| known.will_wake(waker)) {
        wakers.push(waker.clone());
    }
}

impl State {
    fn waiting(&mut self, key: Key) -> &mut Waiting {
        let index = key.index();
        if index >= self.channels.len() {
            self.channels.resize_with(index + 1, Waiting::default);
        }
        &mut self.channels[index]
    }

    pub(crate) fn await_receiver(&mut self, key: Key, waker: &Waker) {
        match &mut self.waiting(key).receiver {
            Some(known) => known.clone_from(waker),
            none => *none = Some(waker.clone()),
        }
    }

    pub(crate) fn unwait_receiver(&mut self, key: Key) {
        self.waiting(key).receiver = None;
        self.mux.unwait_receiver(key);
    }

    pub(crate) fn await_sender(&mut self, key: Key, waker: &Waker) {
        self.mux.await_sender(key);
        register(&mut self.waiting(key).senders, waker);
    }

    pub(crate) fn await_opener(&mut self, waker: &Waker) {
        register(&mut self.openers, waker);
    }

    pub(crate) fn await_acceptor(&mut self, waker: &Waker) {
        register(&mut self.acceptors, waker);
    }

    pub(crate) fn await_change(&mut self, waker: &Waker) {
        register(&mut self.watchers, waker);
    }

    pub(crate) fn add_blocked(&mut self, key: Key, time: Duration) {
        self.waiting(key).blocked += time;
    }

    pub(crate) fn blocked(&mut self, key: Key) -> Duration {
        self.waiting(key).blocked
    }

    /// A new channel took the place: nobody waits for the old one.
    pub(crate) fn forget(&mut self, key: Key) {
        *self.waiting(key) = Waiting::default();
    }

    /// Whether the sender should let others run first; `bytes` are about to be sent.
    #[inline]
    pub(crate) fn is_greedy(&mut self, bytes: usize) -> bool {
        self.sent += bytes as u64;
        if self.sent > SEND_BUDGET {
            self.sent = 0;
            return true;
        }
        false
    }

    /// Collects whom the events concern; returns whether something arrived.
    fn collect(&mut self, wakes: &mut Wakes) -> bool {
        let mut arrived = false;
        while let Some(event) = self.mux.poll_event() {
            let list = match event {
                Event::Readable(key) => {
                    arrived = true;
                    wakes.0.extend(self.waiting(key).receiver.take());
                    continue;
                }
                Event::Writable(key) => &mut self.waiting(key).senders,
                Event::Incoming => {
                    arrived = true;
                    &mut self.acceptors
                }
                Event::Capacity => &mut self.openers,
                Event::Ready | Event::Drained => &mut self.watchers,
                Event::Closed => {
                    wakes.0.append(&mut self.acceptors);
                    wakes.0.append(&mut self.openers);
                    wakes.0.extend(self.reader.take());
                    wakes.0.extend(self.writer.take());
                    wakes.0.extend(self.blocked_writer.take());
                    &mut self.watchers
                }
            };
            wakes.0.append(list);
        }
        arrived
    }

    fn collect_writer(&mut self, wakes: &mut Wakes) {
        if self.writer.is_some() && (self.mux.wants_transmit() || self.mux.is_drained()) {
            wakes.0.extend(self.writer.take());
        }
    }
}

impl Shared {
    pub(crate) fn new(mux: Mux) -> Shared {
        Shared {
            state: Mutex::new(State {
                mux,
                channels: Vec::new(),
                acceptors: Vec::new(),
                openers: Vec::new(),
                watchers: Vec::new(),
                reader: None,
                writer: None,
                blocked_writer: None,
                idle: None,
                answering: true,
                sent: 0,
            }),
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // Nothing that panics leaves the state half changed in a way that matters more than going on does.
        self.state.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    /// Does something to the state, then wakes whom it concerns.
    #[inline]
    pub(crate) fn with<R>(&self, act: impl FnOnce(&mut State) -> R) -> R {
        let mut wakes = Wakes::default();
        let mut state = self.lock();
        let result = act(&mut state);
        state.collect(&mut wakes);
        state.collect_writer(&mut wakes);
        drop(state);
        wakes.wake();
        result
    }

    /// As [`with`](Self::with), for a send: writes by itself when that is the shorter way.
    #[inline]
    pub(crate) fn with_send<R>(&self, act: impl FnOnce(&mut State) -> R) -> R {
        let mut wakes = Wakes::default();
        let mut state = self.lock();
        let result = act(&mut state);
        state.collect(&mut wakes);
        if state.answering && state.mux.wants_transmit() {
            state.answering = false;
            if let Some((writer, waker)) = state.idle.take() {
                drop(state);
                wakes.wake();
                self.write_directly(writer, waker);
                return result;
            }
        }
        state.collect_writer(&mut wakes);
        drop(state);
        wakes.wake();
        result
    }

    /// Writes what there is now; what does not go at once is left to the writer loop.
    fn write_directly(&self, mut writer: Box<Writer>, waker: Waker) {
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
        let unfinished = written.is_pending() || state.mux.wants_transmit();
        if let Poll::Ready(Err(error)) = written {
            state.mux.end(ConnectionError::Io(std::sync::Arc::new(error)));
        }
        state.idle = Some((writer, waker));
        state.collect(&mut wakes);
        if unfinished || state.mux.is_drained() || state.mux.cause().is_some() {
            wakes.0.extend(state.writer.take());
        }
        drop(state);
        wakes.wake();
    }
}

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

    fn fill(&mut self, shared: &Shared) {
        let tracing = tracing::enabled!(tracing::Level::TRACE);
        let mut state = shared.lock();
        state.mux.trace(tracing);
        state.mux.poll_transmit(Instant::now(), &mut self.pending, WRITE_LIMIT);
        let mut wakes = Wakes::default();
        state.collect(&mut wakes);
        let steps = state.mux.poll_steps();
        drop(state);
        wakes.wake();
        trace(&steps);
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

fn trace(steps: &[Step]) {
    for step in steps {
        tracing::trace!(sent = step.sent, kind = step.kind, channel = step.id, bytes = step.len, "frame");
    }
}

/// Ends the connection when the loop or the write that it belongs to is dropped before it has.
struct Driving<'a>(&'a Shared);

impl Drop for Driving<'_> {
    fn drop(&mut self) {
        self.0.with(|state| state.mux.end(ConnectionError::NotDriven));
    }
}

/// Sends until the connection has ended. Ended by that, or by its runtime.
pub(crate) async fn write_loop(shared: Arc<Shared>, writer: Box<Writer>) {
    let driving = Driving(&shared);
    let mut held = Some(writer);
    let end = std::future::poll_fn(|cx| {
        let mut writer = match held.take().or_else(|| take_idle(&shared, cx.waker())) {
            Some(writer) => writer,
            None => return Poll::Pending,
        };
        loop {
            if writer.pending.is_empty() {
                writer.fill(&shared);
            }
            match writer.poll_send(cx) {
                Poll::Pending => {
                    let mut state = shared.lock();
                    if state.mux.cause().is_some() {
                        // The peer does not read, so it cannot be told why; waiting for it could last for ever.
                        drop(state);
                        return Poll::Ready(writer);
                    }
                    // Woken when the stream takes more, or when the connection ends.
                    state.blocked_writer = Some(cx.waker().clone());
                    held = Some(writer);
                    return Poll::Pending;
                }
                Poll::Ready(Err(error)) => {
                    shared.with(|state| state.mux.end(ConnectionError::Io(std::sync::Arc::new(error))));
                    return Poll::Ready(writer);
                }
                Poll::Ready(Ok(())) => {}
            }
            let mut state = shared.lock();
            if state.mux.wants_transmit() {
                continue;
            }
            if state.mux.cause().is_some() || state.mux.is_drained() {
                return Poll::Ready(writer);
            }
            writer.pending.shrink(WRITE_KEPT);
            state.writer = Some(cx.waker().clone());
            state.idle = Some((writer, cx.waker().clone()));
            return Poll::Pending;
        }
    });
    let mut writer = end.await;
    // Drained perhaps, and not ended: the reader waits for the peer.
    std::mem::forget(driving);
    // The peer sees the end of the stream. An error here has no one to go to: the connection has ended.
    let _ = std::future::poll_fn(|cx| writer.stream.as_mut().poll_shutdown(cx)).await;
}

fn take_idle(shared: &Shared, waker: &Waker) -> Option<Box<Writer>> {
    let mut state = shared.lock();
    let idle = state.idle.take();
    if idle.is_none() {
        state.writer = Some(waker.clone());
    }
    idle.map(|(writer, _)| writer)
}

/// Receives until the connection has ended, and keeps its deadlines. Ended by that, or by its runtime.
pub(crate) async fn read_loop(shared: Arc<Shared>, stream: impl AsyncRead + Send + 'static) {
    let _driving = Driving(&shared);
    let mut stream = Box::pin(stream);
    let mut buffer = vec![0; READ_MIN];
    let mut kept = 0;
    let mut wakes = Wakes::default();
    let deadline = shared.lock().mux.poll_timeout();
    let sleep = tokio::time::sleep_until(deadline.unwrap_or_else(Instant::now).into());
    let mut sleep = std::pin::pin!(sleep);
    std::future::poll_fn(|cx| {
        loop {
            let mut read = ReadBuf::new(&mut buffer[kept..]);
            match stream.as_mut().poll_read(cx, &mut read) {
                Poll::Ready(Ok(())) if read.filled().is_empty() => {
                    shared.with(|state| state.mux.handle_eof());
                    return Poll::Ready(());
                }
                Poll::Ready(Ok(())) => {
                    let filled = kept + read.filled().len();
                    let used = receive(&shared, &buffer[..filled], &mut wakes);
                    buffer.copy_within(used..filled, 0);
                    kept = filled - used;
                    if filled == buffer.len() && filled < READ_MAX {
                        buffer.resize((filled * 4).min(READ_MAX), 0);
                    }
                }
                Poll::Ready(Err(error)) => {
                    shared.with(|state| state.mux.end(ConnectionError::Io(std::sync::Arc::new(error))));
                    return Poll::Ready(());
                }
                Poll::Pending => break,
            }
            if shared.lock().mux.cause().is_some() {
                return Poll::Ready(());
            }
        }
        while sleep.as_mut().poll(cx).is_ready() {
            let now = Instant::now();
            let deadline = shared.with(|state| {
                state.mux.handle_timeout(now);
                let deadline = state.mux.poll_timeout();
                // Not greeted yet: whoever waits for that keeps the time.
                deadline.or_else(|| state.mux.cause().is_none().then(|| now + GREETING_TICK))
            });
            let Some(deadline) = deadline else { return Poll::Ready(()) };
            sleep.as_mut().reset(deadline.into());
            if kept == 0 {
                buffer = vec![0; READ_MIN];
            }
        }
        let mut state = shared.lock();
        if state.mux.cause().is_some() {
            return Poll::Ready(());
        }
        state.reader = Some(cx.waker().clone());
        Poll::Pending
    })
    .await;
}

pub(crate) fn receive(shared: &Shared, bytes: &[u8], wakes: &mut Wakes) -> usize {
    let tracing = tracing::enabled!(tracing::Level::TRACE);
    let now = Instant::now();
    let mut state = shared.lock();
    state.mux.trace(tracing);
    let used = state.mux.handle_bytes(now, bytes);
    if state.collect(wakes) {
        state.answering = true;
    }
    state.collect_writer(wakes);
    let steps = state.mux.poll_steps();
    drop(state);
    wakes.wake();
    trace(&steps);
    used
}
