//! The receiving end of a channel.

use std::marker::PhantomData;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant};

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::codec::{Cbor, Codec};
use crate::driver::Shared;
use crate::ends;
use crate::error::{RecvError, TryRecvError};
use crate::flow::cost;
use crate::mux::{Key, Taken};
use crate::queue::Queue;
use crate::sync::Arc;

/// The receiving end of a channel of `T`s.
///
/// Dropping it tells the peer to stop sending; what was not received is lost, and the sender's
/// [`wait_closed`](crate::Sender::wait_closed) says how much. It may travel inside a message like a
/// [`Sender`](crate::Sender), as long as nothing was received.
pub struct Receiver<T, C = Cbor> {
    pub(crate) end: RecvEnd,
    /// A message that was looked at and not taken.
    peeked: Option<T>,
    _types: PhantomData<fn() -> (T, C)>,
}

/// The handle of a receiving direction, with messages taken and not yet handed out. Dropping it ends the direction.
pub(crate) struct RecvEnd {
    pub(crate) shared: Arc<Shared>,
    pub(crate) key: Key,
    batch: Queue,
    /// Messages handed out and not reported, and their cost.
    consumed: u64,
    consumed_cost: u64,
    report_after: u64,
    /// Messages handed out since the channel's beginning.
    number: u64,
    cargo: bool,
    ended: bool,
    /// The message that was handed out last is not consumed yet: it was only looked at, partly read, or a callback is at
    /// work on it. It is in `consumed` all the same, and never reported while it is the last.
    unfinished: bool,
}

impl Drop for RecvEnd {
    fn drop(&mut self) {
        let consumed = self.take_consumed();
        let waker = self.shared.with(|state| {
            let waker = state.unwait_receiver(self.key);
            state.mux.release_receiver(self.key, consumed);
            waker
        });
        drop(waker);
    }
}

impl RecvEnd {
    pub(crate) fn new(shared: Arc<Shared>, key: Key) -> RecvEnd {
        RecvEnd {
            shared,
            key,
            batch: Queue::default(),
            consumed: 0,
            consumed_cost: 0,
            report_after: u64::MAX,
            number: 0,
            cargo: false,
            ended: false,
            unfinished: false,
        }
    }

    /// Says whether the message that was handed out last is not consumed yet. It must be by the next receive.
    #[inline]
    pub(crate) fn set_unfinished(&mut self, unfinished: bool) {
        self.unfinished = unfinished;
    }

    /// Messages that were consumed and not reported, at the end.
    fn take_consumed(&mut self) -> u64 {
        let unfinished = std::mem::take(&mut self.unfinished);
        std::mem::take(&mut self.consumed).saturating_sub(u64::from(unfinished))
    }

    /// Takes the next messages: `Ok(true)` if there are some, `Ok(false)` at the end, `None` if there are none yet.
    fn refill(&mut self, cx: Option<&mut Context<'_>>) -> Option<Result<bool, RecvError>> {
        if self.ended {
            return Some(Ok(false));
        }
        let now = Instant::now();
        let (consumed, cost) = (std::mem::take(&mut self.consumed), std::mem::take(&mut self.consumed_cost));
        let (key, batch) = (self.key, &mut self.batch);
        let (taken, replaced) = self.shared.with(|state| {
            let taken = state.mux.take(key, consumed, cost, now, batch);
            let replaced = match (&taken, &cx) {
                (Taken::Wait, Some(cx)) => state.await_receiver(key, cx.waker()),
                _ => None,
            };
            (taken, replaced)
        });
        drop(replaced);
        match taken {
            Taken::Messages { report_after, cargo } => {
                self.report_after = report_after;
                self.cargo = cargo;
                Some(Ok(true))
            }
            Taken::Wait => None,
            Taken::End(error) => {
                self.ended = true;
                Some(match error {
                    Some(error) => Err(RecvError::Remote(error)),
                    None => Ok(false),
                })
            }
            Taken::Lost(cause) => Some(Err(RecvError::Lost(cause))),
        }
    }

    #[inline]
    fn next<T, C: Codec<T>>(&mut self) -> Option<Result<T, RecvError>> {
        let len = self.batch.front_len()?;
        let number = self.number;
        self.number += 1;
        let decoded = if self.cargo {
            let (shared, batch) = (self.shared.clone(), &mut self.batch);
            ends::decoding(&shared, self.key, number, || decode_front::<T, C>(batch))
        } else {
            decode_front::<T, C>(&mut self.batch)
        };
        self.consumed += 1;
        self.consumed_cost += cost(len);
        if self.consumed_cost >= self.report_after {
            self.report();
        }
        Some(decoded.map_err(RecvError::Codec))
    }

    /// Gives back the room of what was handed out: of the last message, too, or one that is slow to handle a long message
    /// would hold up whoever else waits for a long one. As consumed that one counts later: a callback may be at work on it.
    #[cold]
    fn report(&mut self) {
        let consumed = std::mem::replace(&mut self.consumed, 1) - 1;
        let cost = std::mem::take(&mut self.consumed_cost);
        let now = Instant::now();
        self.shared.with(|state| state.mux.consume(self.key, consumed, cost, now));
    }
}

#[inline]
fn decode_front<T, C: Codec<T>>(batch: &mut Queue) -> Result<T, crate::error::CodecError> {
    if batch.front_is_large()
        && let Some(bytes) = batch.pop_large()
    {
        return C::decode_shared(bytes);
    }
    let decoded = C::decode(batch.front().unwrap_or_default());
    batch.pop();
    decoded
}

impl<T, C: Codec<T>> Receiver<T, C> {
    pub(crate) fn new(end: RecvEnd) -> Receiver<T, C> {
        Receiver { end, peeked: None, _types: PhantomData }
    }

    /// Receives the next message: `None` at the end of the channel, again and again.
    ///
    /// Errors: the peer's error, once, after all messages; the connection's end, again and again; a message that is not a
    /// `T`, after which the next can be received.
    ///
    /// Cancel safety: nothing is lost.
    pub fn recv(&mut self) -> Recv<'_, T, C> {
        Recv { receiver: self, waits: false }
    }

    /// Receives a message if there is one now.
    pub fn try_recv(&mut self) -> Result<Option<T>, TryRecvError> {
        match self.next_now(None) {
            Some(received) => received.map_err(TryRecvError::Failed),
            None => {
                drop(self.end.shared.with(|state| state.unwait_receiver(self.end.key)));
                Err(TryRecvError::Empty)
            }
        }
    }

    /// As [`recv`](Self::recv), for at most this long; after a timeout the channel is as before.
    pub async fn recv_timeout(&mut self, limit: Duration) -> Result<Option<T>, TryRecvError> {
        match tokio::time::timeout(limit, self.recv()).await {
            Ok(received) => received.map_err(TryRecvError::Failed),
            Err(_) => Err(TryRecvError::Empty),
        }
    }

    /// Waits for the next message and looks at it; the next receive returns it. Until then it is not consumed.
    ///
    /// Cancel safety: nothing is lost.
    pub async fn peek(&mut self) -> Result<Option<&T>, RecvError> {
        if self.peeked.is_none() {
            self.peeked = self.recv().await?;
            self.end.set_unfinished(self.peeked.is_some());
        }
        Ok(self.peeked.as_ref())
    }

    /// Whether a receive would return at once: with a message, an error or the end.
    pub fn is_ready(&self) -> bool {
        self.peeked.is_some()
            || !self.end.batch.is_empty()
            || self.end.ended
            || self.end.shared.with(|state| state.mux.is_readable(self.end.key))
    }

    #[inline]
    fn next_now(&mut self, mut cx: Option<&mut Context<'_>>) -> Option<Result<Option<T>, RecvError>> {
        if let Some(value) = self.peeked.take() {
            self.end.set_unfinished(false);
            return Some(Ok(Some(value)));
        }
        loop {
            if let Some(decoded) = self.end.next::<T, C>() {
                return Some(decoded.map(Some));
            }
            match self.end.refill(cx.as_deref_mut())? {
                Ok(true) => {}
                Ok(false) => return Some(Ok(None)),
                Err(error) => return Some(Err(error)),
            }
        }
    }

    #[inline]
    pub(crate) fn poll_recv(&mut self, cx: &mut Context<'_>) -> Poll<Result<Option<T>, RecvError>> {
        if self.peeked.is_none() && self.end.batch.is_empty() {
            // Once for each batch: a stream that never pauses must not keep other tasks from running.
            let progress = ready!(tokio::task::coop::poll_proceed(cx));
            return match self.next_now(Some(cx)) {
                Some(received) => {
                    progress.made_progress();
                    Poll::Ready(received)
                }
                None => Poll::Pending,
            };
        }
        match self.next_now(Some(cx)) {
            Some(received) => Poll::Ready(received),
            None => Poll::Pending,
        }
    }
}

impl<T, C> Receiver<T, C> {
    /// Tells the peer to stop sending; what was not received is lost. Receiving returns the end from now on.
    pub fn close(&mut self) {
        self.stop(None);
    }

    /// As [`close`](Self::close), with an error that the peer's sends report. At most 8 KiB of it.
    pub fn close_with(&mut self, error: impl AsRef<[u8]>) {
        self.stop(Some(error.as_ref()));
    }

    fn stop(&mut self, error: Option<&[u8]>) {
        self.end.ended = true;
        self.end.batch.clear();
        self.peeked = None;
        let consumed = self.end.take_consumed();
        self.end.shared.with(|state| state.mux.stop(self.end.key, consumed, error));
    }

    /// Notes this end, with its sending direction if it has one, in the value being encoded.
    pub(crate) fn embark(&self, sends: bool) -> Result<u16, String> {
        if self.peeked.is_some() || self.end.number > 0 || !self.end.batch.is_empty() || self.end.ended {
            return Err(ends::in_use());
        }
        ends::embark(&self.end.shared, self.end.key, sends, true)
    }

    /// Messages and bytes that came on this channel, received or not.
    pub fn arrived(&self) -> (u64, u64) {
        self.end.shared.with(|state| state.mux.arrived(self.end.key))
    }

    /// The channel's id, the same on both sides; `None` while both ends are on this side.
    pub fn id(&self) -> Option<u64> {
        let id = self.end.shared.with(|state| state.mux.id(self.end.key));
        (id != 0).then_some(id)
    }
}

impl<T, C> std::fmt::Debug for Receiver<T, C> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Receiver").field("channel", &self.id()).finish_non_exhaustive()
    }
}

/// The future of [`Receiver::recv`].
#[must_use = "futures do nothing unless polled"]
pub struct Recv<'a, T, C = Cbor> {
    receiver: &'a mut Receiver<T, C>,
    waits: bool,
}

impl<T, C: Codec<T>> Future for Recv<'_, T, C> {
    type Output = Result<Option<T>, RecvError>;

    #[inline]
    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let polled = self.receiver.poll_recv(cx);
        self.waits = polled.is_pending();
        polled
    }
}

impl<T, C> Drop for Recv<'_, T, C> {
    fn drop(&mut self) {
        // A long message is let in only while somebody waits for it.
        if self.waits {
            let end = &self.receiver.end;
            drop(end.shared.with(|state| state.unwait_receiver(end.key)));
        }
    }
}

impl<T, C> Unpin for Receiver<T, C> {}

impl<T, C: Codec<T>> futures_core::Stream for Receiver<T, C> {
    type Item = Result<T, RecvError>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        self.poll_recv(cx).map(Result::transpose)
    }
}

impl<T, C> Serialize for Receiver<T, C> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_u16(self.embark(false).map_err(serde::ser::Error::custom)?)
    }
}

impl<'de, T, C: Codec<T>> Deserialize<'de> for Receiver<T, C> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let index = u16::deserialize(deserializer)?;
        let (shared, key) = ends::disembark(index, false, true).map_err(serde::de::Error::custom)?;
        Ok(Receiver::new(RecvEnd::new(shared, key)))
    }
}
