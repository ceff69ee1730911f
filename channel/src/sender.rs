//! The sending end of a channel.

use std::cell::Cell;
use std::future::poll_fn;
use std::marker::PhantomData;
use std::ops::Deref;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::codec::{Cbor, Codec};
use crate::driver::{self, List, Place, Shared, Ticket};
use crate::ends;
use crate::error::{ClosedError, CodecError, SendError, SendTimeoutError, TrySendError};
use crate::mux::{Key, SendFault, Sent};
use crate::queue::{LARGE, Payload};
use crate::sync::Arc;

/// An encoding of at least this size is moved rather than copied.
const MOVE: usize = 16 * 1024;

thread_local! {
    static SCRATCH: Cell<Vec<u8>> = const { Cell::new(Vec::new()) };
}

/// The sending end of a channel of `T`s.
///
/// Several tasks may send through one end (by reference); messages never interleave. Dropping it closes the channel after
/// what was sent; see [`close`](Self::close).
///
/// An end may travel inside a message of a channel of the same connection, wherever in the value it stands: it then is gone
/// here and works there. Ends come from [`Connection::pair`](crate::Connection::pair).
pub struct Sender<T, C = Cbor> {
    pub(crate) end: SendEnd,
    _types: PhantomData<fn(T) -> C>,
}

/// The handle of a sending direction; dropping it closes the direction.
pub(crate) struct SendEnd {
    pub(crate) shared: Arc<Shared>,
    pub(crate) key: Key,
}

impl Drop for SendEnd {
    fn drop(&mut self) {
        self.shared.with(|state| state.mux.release_sender(self.key));
    }
}

/// A message that waits for room. Dropping it takes it back.
pub(crate) struct Pending<H: Deref<Target = Shared>> {
    shared: H,
    key: Key,
    payload: Bytes,
    ends: Vec<Key>,
    /// The announcement of a long message.
    announced: Option<u32>,
    /// The places in line for room on the channel, and for the channels of its ends.
    room: Option<Ticket>,
    capacity: Option<Ticket>,
}

impl<H: Deref<Target = Shared>> Drop for Pending<H> {
    fn drop(&mut self) {
        if self.announced.is_none() && self.room.is_none() && self.capacity.is_none() {
            return;
        }
        let wakers = self.shared.with(|state| {
            if let Some(announced) = self.announced {
                state.mux.withdraw(self.key, announced);
            }
            (
                state.leave(List::Room(self.key), &mut self.room),
                state.leave(List::Capacity, &mut self.capacity),
            )
        });
        drop(wakers);
    }
}

impl<H: Deref<Target = Shared>> Pending<H> {
    fn new(shared: H, key: Key, payload: Bytes, ends: Vec<Key>, announced: Option<u32>) -> Pending<H> {
        Pending { shared, key, payload, ends, announced, room: None, capacity: None }
    }

    pub(crate) fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), SendError>> {
        let payload = Payload::Shared(self.payload.clone());
        let (room, capacity) = (List::Room(self.key), List::Capacity);
        let (sent, wakers) = self.shared.with(|state| {
            let sent = state.mux.send(self.key, &payload, &self.ends, self.announced);
            let wakers = if let Ok(Sent::Wait(_)) = sent {
                let waits = !self.ends.is_empty();
                (
                    state.enter(room, &mut self.room, cx.waker()),
                    waits.then(|| state.enter(capacity, &mut self.capacity, cx.waker())).flatten(),
                )
            } else {
                (state.leave(room, &mut self.room), state.leave(capacity, &mut self.capacity))
            };
            (sent, wakers)
        });
        drop(wakers);
        self.announced = None;
        match sent {
            Ok(Sent::Taken) => Poll::Ready(Ok(())),
            Ok(Sent::Wait(announced)) => {
                self.announced = announced;
                Poll::Pending
            }
            Err(fault) => Poll::Ready(Err(send_error(fault, self.payload.len()))),
        }
    }
}

fn owned(payload: Payload<'_>) -> Bytes {
    match payload {
        Payload::Slice(slice) => Bytes::copy_from_slice(slice),
        Payload::Shared(bytes) => bytes,
    }
}

fn send_error(fault: SendFault, len: usize) -> SendError {
    match fault {
        SendFault::Closed => SendError::Closed,
        SendFault::Stopped(error) => SendError::Stopped(error),
        SendFault::Lost(cause) => SendError::Lost(cause),
        SendFault::TooLarge(max) => SendError::TooLarge { len: len as u64, max },
        SendFault::EndInUse => SendError::Codec(CodecError::EndInUse),
        SendFault::Draining => SendError::Draining,
    }
}

/// What became of the first attempt.
enum Attempt {
    Taken,
    /// No room; the encoding is kept.
    Full(Bytes, Vec<Key>, Option<u32>),
    /// Not offered: others should run first. The encoding is kept.
    Greedy(Bytes, Vec<Key>),
}

impl<T, C: Codec<T>> Sender<T, C> {
    pub(crate) fn new(end: SendEnd) -> Sender<T, C> {
        Sender { end, _types: PhantomData }
    }

    /// Encodes the value and offers it.
    #[inline]
    fn attempt(&self, value: &T, may_yield: bool) -> Result<Attempt, SendError> {
        if let Some(bytes) = C::as_bytes(value) {
            if bytes.len() < LARGE {
                return self.offer(Payload::Slice(bytes), Vec::new(), may_yield);
            }
            if let Some(shared) = C::encode_shared(value) {
                return self.offer(Payload::Shared(shared), Vec::new(), may_yield);
            }
        }
        let mut buffer = SCRATCH.take();
        buffer.clear();
        let encoded = ends::encoding(&self.end.shared, || C::encode(value, &mut buffer));
        let ((), ends) = encoded.map_err(SendError::Codec)?;
        if buffer.len() >= MOVE {
            return self.offer(Payload::Shared(buffer.into()), ends, may_yield);
        }
        let attempt = self.offer(Payload::Slice(&buffer), ends, may_yield);
        SCRATCH.set(buffer);
        attempt
    }

    #[inline]
    fn offer(&self, payload: Payload<'_>, ends: Vec<Key>, may_yield: bool) -> Result<Attempt, SendError> {
        let len = payload.len();
        let sent = self.end.shared.with_send(|state| {
            if may_yield && state.is_greedy(len) {
                return None;
            }
            Some(state.mux.send(self.end.key, &payload, &ends, None))
        });
        match sent {
            Some(Ok(Sent::Taken)) => Ok(Attempt::Taken),
            None => Ok(Attempt::Greedy(owned(payload), ends)),
            Some(Ok(Sent::Wait(ticket))) => Ok(Attempt::Full(owned(payload), ends, ticket)),
            Some(Err(fault)) => Err(send_error(fault, len)),
        }
    }

    /// Sends a message: waits until there is room on the channel, at most for as long as the peer does not read.
    ///
    /// Messages of up to a window are taken when there is room in the window; longer ones once the peer receives and has room
    /// for the whole. What was taken is sent, but not yet received: see [`wait_closed`](Self::wait_closed).
    ///
    /// Cancel safety: a dropped `send` has sent nothing. The value is lost.
    pub async fn send(&self, value: T) -> Result<(), SendError> {
        let (payload, ends, announced) = match self.attempt(&value, true)? {
            Attempt::Taken => return Ok(()),
            Attempt::Full(payload, ends, announced) => (payload, ends, announced),
            Attempt::Greedy(payload, ends) => {
                tokio::task::yield_now().await;
                (payload, ends, None)
            }
        };
        let mut pending = Pending::new(&*self.end.shared, self.end.key, payload, ends, announced);
        let sent = poll_fn(|cx| pending.poll(cx)).await;
        drop(pending);
        // Only now: ends in the value must stay alive until they have left.
        drop(value);
        sent
    }

    /// Offers a message: what waits is to be polled until it is sent.
    pub(crate) fn begin(&self, value: &T) -> Result<Option<Pending<Arc<Shared>>>, SendError> {
        let (payload, ends, announced) = match self.attempt(value, false)? {
            Attempt::Taken => return Ok(None),
            Attempt::Full(payload, ends, announced) => (payload, ends, announced),
            Attempt::Greedy(payload, ends) => (payload, ends, None),
        };
        Ok(Some(Pending::new(self.end.shared.clone(), self.end.key, payload, ends, announced)))
    }

    /// Sends a message if there is room now. One that is longer than the channel's window needs [`send`](Self::send).
    pub fn try_send(&self, value: T) -> Result<(), TrySendError<T>> {
        match self.attempt(&value, false) {
            Ok(Attempt::Taken) => Ok(()),
            Ok(Attempt::Full(_, _, ticket)) => {
                if let Some(ticket) = ticket {
                    self.end.shared.with(|state| state.mux.withdraw(self.end.key, ticket));
                }
                Err(TrySendError::Full(value))
            }
            Ok(Attempt::Greedy(..)) => Err(TrySendError::Full(value)),
            Err(error) => Err(TrySendError::Failed(error)),
        }
    }

    /// As [`send`](Self::send), for at most this long. After a timeout nothing was sent and the channel is usable.
    pub async fn send_timeout(&self, value: T, limit: Duration) -> Result<(), SendTimeoutError> {
        match tokio::time::timeout(limit, self.send(value)).await {
            Ok(sent) => sent.map_err(SendTimeoutError::Failed),
            Err(_) => Err(SendTimeoutError::Timeout),
        }
    }

    /// The longest message that needs no announcement.
    pub(crate) fn piece(&self) -> usize {
        self.end.shared.with(|state| state.mux.piece(self.end.key))
    }

    /// A place in line for [`poll_room`](Self::poll_room).
    pub(crate) fn room(&self) -> Place<Arc<Shared>> {
        Place::new(self.end.shared.clone(), List::Room(self.end.key))
    }

    /// Waits until a small message would probably be taken at once, or the channel takes no more.
    pub(crate) fn poll_room(
        &self,
        room: &mut Place<Arc<Shared>>,
        cx: &mut Context<'_>,
        bytes: usize,
    ) -> Poll<()> {
        let key = self.end.key;
        room.poll(cx, |state| (state.mux.is_closed(key) || state.mux.has_room(key, bytes)).then_some(()))
    }
}

impl<T, C> Sender<T, C> {
    /// Closes the channel: the peer receives what was sent, then the end. Sending is an error from now on; closing twice is
    /// harmless.
    pub fn close(&self) {
        self.end.shared.with(|state| state.mux.close(self.end.key, None));
    }

    /// Closes the channel with an error, which the peer receives after what was sent. At most 8 KiB of it.
    pub fn close_with(&self, error: impl AsRef<[u8]>) {
        self.end.shared.with(|state| state.mux.close(self.end.key, Some(error.as_ref())));
    }

    /// Whether sending is an error by now: closed here, stopped by the peer, or lost.
    pub fn is_closed(&self) -> bool {
        self.end.shared.with(|state| state.mux.is_closed(self.end.key))
    }

    /// Waits until the peer has consumed everything up to the end that [`close`](Self::close) put there, or stopped before
    /// that: then the error says how many messages it never consumed. A message is consumed when a receive handed it
    /// out, or its callback has returned. Without `close` it waits for the peer to stop.
    ///
    /// Cancel safety: nothing is lost.
    pub async fn wait_closed(&self) -> Result<(), ClosedError> {
        let key = self.end.key;
        driver::wait(&self.end.shared, List::End(key), |state| state.mux.ending(key)).await
    }

    /// How long sends have waited for room on this channel, all together, those that wait now included.
    pub fn blocked(&self) -> Duration {
        self.end.shared.with(|state| state.blocked(self.end.key))
    }

    /// Messages and bytes sent on this channel.
    pub fn sent(&self) -> (u64, u64) {
        self.end.shared.with(|state| state.mux.sent(self.end.key))
    }

    /// The channel's id, the same on both sides; `None` while both ends are on this side.
    pub fn id(&self) -> Option<u64> {
        let id = self.end.shared.with(|state| state.mux.id(self.end.key));
        (id != 0).then_some(id)
    }
}

impl<T, C> std::fmt::Debug for Sender<T, C> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Sender").field("channel", &self.id()).finish_non_exhaustive()
    }
}

impl<T, C> Serialize for Sender<T, C> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let index =
            ends::embark(&self.end.shared, self.end.key, true, false).map_err(serde::ser::Error::custom)?;
        serializer.serialize_u16(index)
    }
}

impl<'de, T, C: Codec<T>> Deserialize<'de> for Sender<T, C> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let index = u16::deserialize(deserializer)?;
        let (shared, key) = ends::disembark(index, true, false).map_err(serde::de::Error::custom)?;
        Ok(Sender::new(SendEnd { shared, key }))
    }
}
