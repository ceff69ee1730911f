//! Both ends' directions together.

use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use futures_core::Stream;
use futures_sink::Sink;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::codec::{Cbor, Codec};
use crate::driver::Shared;
use crate::ends;
use crate::error::{ClosedError, RecvError, SendError, SendTimeoutError, TryRecvError, TrySendError};
use crate::mux::Key;
use crate::receiver::{Receiver, Recv, RecvEnd};
use crate::sender::{SendEnd, Sender};
use crate::sink::Waiting;
use crate::sync::Arc;

/// A channel's end that sends `S`s and receives `R`s.
///
/// Dropping it closes the sending direction after what was sent, and tells the peer to stop sending. As a whole it may travel
/// inside a message, as long as nothing was received on it.
///
/// It is a `Stream` of what it receives, and a `Sink` of what it sends. As a `Sink` it keeps one message while there is no
/// room, which is lost by dropping or [splitting](Self::split) it: flush first. What [`send`](Self::send) takes meanwhile may
/// go before it. `start_send` panics unless `poll_ready` was ready before, as `Sink` demands.
pub struct Channel<S, R, C = Cbor> {
    /// Before `sender`, which must not end while somebody is in line.
    waiting: Waiting<S>,
    sender: Sender<S, C>,
    receiver: Receiver<R, C>,
}

/// Two halves that are not of one channel; they come back.
#[derive(Debug)]
pub struct NotOneChannel<S, R, C>(pub Sender<S, C>, pub Receiver<R, C>);

impl<S, R, C: Codec<S> + Codec<R>> Channel<S, R, C> {
    pub(crate) fn new(shared: Arc<Shared>, key: Key) -> Channel<S, R, C> {
        Channel {
            waiting: Waiting::new(),
            sender: Sender::new(SendEnd { shared: shared.clone(), key }),
            receiver: Receiver::new(RecvEnd::new(shared, key)),
        }
    }

    /// The two directions on their own.
    pub fn split(self) -> (Sender<S, C>, Receiver<R, C>) {
        (self.sender, self.receiver)
    }

    /// The two directions of one channel together again.
    pub fn join(
        sender: Sender<S, C>,
        receiver: Receiver<R, C>,
    ) -> Result<Channel<S, R, C>, NotOneChannel<S, R, C>> {
        let (out, into) = (&sender.end, &receiver.end);
        if Arc::ptr_eq(&out.shared, &into.shared) && out.key == into.key {
            Ok(Channel { waiting: Waiting::new(), sender, receiver })
        } else {
            Err(NotOneChannel(sender, receiver))
        }
    }

    /// See [`Sender::send`].
    pub async fn send(&self, value: S) -> Result<(), SendError> {
        self.sender.send(value).await
    }

    /// See [`Sender::try_send`].
    pub fn try_send(&self, value: S) -> Result<(), TrySendError<S>> {
        self.sender.try_send(value)
    }

    /// See [`Sender::send_timeout`].
    pub async fn send_timeout(&self, value: S, limit: Duration) -> Result<(), SendTimeoutError> {
        self.sender.send_timeout(value, limit).await
    }

    /// See [`Receiver::recv`].
    pub fn recv(&mut self) -> Recv<'_, R, C> {
        self.receiver.recv()
    }

    /// See [`Receiver::try_recv`].
    pub fn try_recv(&mut self) -> Result<Option<R>, TryRecvError> {
        self.receiver.try_recv()
    }

    /// See [`Receiver::recv_timeout`].
    pub async fn recv_timeout(&mut self, limit: Duration) -> Result<Option<R>, TryRecvError> {
        self.receiver.recv_timeout(limit).await
    }

    /// See [`Receiver::peek`].
    pub async fn peek(&mut self) -> Result<Option<&R>, RecvError> {
        self.receiver.peek().await
    }

    /// See [`Receiver::is_ready`].
    pub fn is_ready(&self) -> bool {
        self.receiver.is_ready()
    }

    /// Closes the sending direction; receiving goes on. See [`Sender::close`].
    pub fn close_sending(&self) {
        self.sender.close();
    }

    /// Closes both directions: the peer receives what was sent, then the end; what it sends is lost.
    pub fn close(&mut self) {
        self.sender.close();
        self.receiver.close();
    }

    /// As [`close`](Self::close), with an error for the peer.
    pub fn close_with(&mut self, error: impl AsRef<[u8]>) {
        let error = error.as_ref();
        self.sender.close_with(error);
        self.receiver.close_with(error);
    }

    /// See [`Sender::wait_closed`].
    pub async fn wait_closed(&self) -> Result<(), ClosedError> {
        self.sender.wait_closed().await
    }

    /// Whether sending is an error by now.
    pub fn is_closed(&self) -> bool {
        self.sender.is_closed()
    }

    /// The sending direction.
    pub fn sender(&self) -> &Sender<S, C> {
        &self.sender
    }

    /// The receiving direction.
    pub fn receiver(&mut self) -> &mut Receiver<R, C> {
        &mut self.receiver
    }

    /// The channel's id, the same on both sides; `None` while both ends are on this side.
    pub fn id(&self) -> Option<u64> {
        self.sender.id()
    }
}

impl<S, R, C> Unpin for Channel<S, R, C> {}

impl<S, R, C: Codec<R>> Stream for Channel<S, R, C> {
    type Item = Result<R, RecvError>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        Pin::new(&mut self.receiver).poll_next(cx)
    }
}

impl<S, R, C: Codec<S>> Sink<S> for Channel<S, R, C> {
    type Error = SendError;

    fn poll_ready(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Result<(), SendError>> {
        self.waiting.poll_ready(cx)
    }

    fn start_send(mut self: Pin<&mut Self>, value: S) -> Result<(), SendError> {
        let Channel { waiting, sender, .. } = &mut *self;
        waiting.start_send(sender, value)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Result<(), SendError>> {
        self.waiting.poll_ready(cx)
    }

    fn poll_close(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Result<(), SendError>> {
        let Channel { waiting, sender, .. } = &mut *self;
        waiting.poll_close(sender, cx)
    }
}

impl<S, R, C> std::fmt::Debug for Channel<S, R, C> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Channel").field("channel", &self.sender.id()).finish_non_exhaustive()
    }
}

impl<S, R, C> Serialize for Channel<S, R, C> {
    fn serialize<Z: Serializer>(&self, serializer: Z) -> Result<Z::Ok, Z::Error> {
        if !self.waiting.is_empty() {
            return Err(serde::ser::Error::custom(ends::in_use()));
        }
        serializer.serialize_u16(self.receiver.embark(true).map_err(serde::ser::Error::custom)?)
    }
}

impl<'de, S, R, C: Codec<S> + Codec<R>> Deserialize<'de> for Channel<S, R, C> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let index = u16::deserialize(deserializer)?;
        let (shared, key) = ends::disembark(index, true, true).map_err(serde::de::Error::custom)?;
        Ok(Channel::new(shared, key))
    }
}
