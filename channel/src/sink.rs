//! Sending ends as `Sink`s.

use std::pin::Pin;
use std::sync::Mutex;
use std::task::{Context, Poll, ready};

use futures_sink::Sink;

use crate::codec::{Cbor, Codec};
use crate::driver::Shared;
use crate::error::SendError;
use crate::sender::{Pending, Sender};
use crate::sync::Arc;

/// A sending end as a `Sink`. It keeps one message while there is no room; dropping it loses that one: flush first.
///
/// # Panics
/// `start_send` without a `poll_ready` that was ready before, as `Sink` demands.
pub struct SendSink<T, C = Cbor> {
    /// Before `sender`, which must not end while somebody is in line.
    waiting: Waiting<T>,
    sender: Sender<T, C>,
}

/// The message that waits for room.
// Behind a lock that nobody ever takes, since a message need not be `Sync` for its channel to be. Boxed, since there seldom
// is one.
pub(crate) struct Waiting<T>(Option<Box<Mutex<Held<T>>>>);

/// A message with its value: ends in it must stay alive until they have left.
struct Held<T> {
    pending: Pending<Arc<Shared>>,
    _value: T,
}

impl<T> Waiting<T> {
    pub(crate) fn new() -> Waiting<T> {
        Waiting(None)
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_none()
    }

    pub(crate) fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), SendError>> {
        let Some(held) = &mut self.0 else { return Poll::Ready(Ok(())) };
        let held = held.get_mut().unwrap_or_else(std::sync::PoisonError::into_inner);
        let sent = ready!(held.pending.poll(cx));
        self.0 = None;
        Poll::Ready(sent)
    }

    /// Closes the channel once nothing waits.
    pub(crate) fn poll_close<C>(
        &mut self,
        sender: &Sender<T, C>,
        cx: &mut Context<'_>,
    ) -> Poll<Result<(), SendError>> {
        ready!(self.poll_ready(cx))?;
        sender.close();
        Poll::Ready(Ok(()))
    }

    pub(crate) fn start_send<C: Codec<T>>(
        &mut self,
        sender: &Sender<T, C>,
        value: T,
    ) -> Result<(), SendError> {
        assert!(self.0.is_none(), "a message was handed to a sink that was not ready");
        if let Some(pending) = sender.begin(&value)? {
            self.0 = Some(Box::new(Mutex::new(Held { pending, _value: value })));
        }
        Ok(())
    }
}

impl<T, C: Codec<T>> Sender<T, C> {
    /// This end as a `Sink`.
    pub fn into_sink(self) -> SendSink<T, C> {
        SendSink { waiting: Waiting::new(), sender: self }
    }
}

impl<T, C> SendSink<T, C> {
    /// The channel's end again. A message that was not flushed is lost.
    pub fn into_inner(self) -> Sender<T, C> {
        self.sender
    }
}

impl<T, C> Unpin for SendSink<T, C> {}

impl<T, C: Codec<T>> Sink<T> for SendSink<T, C> {
    type Error = SendError;

    fn poll_ready(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Result<(), SendError>> {
        self.waiting.poll_ready(cx)
    }

    fn start_send(mut self: Pin<&mut Self>, value: T) -> Result<(), SendError> {
        let SendSink { waiting, sender } = &mut *self;
        waiting.start_send(sender, value)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Result<(), SendError>> {
        self.waiting.poll_ready(cx)
    }

    fn poll_close(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Result<(), SendError>> {
        let SendSink { waiting, sender } = &mut *self;
        waiting.poll_close(sender, cx)
    }
}

impl<T, C> std::fmt::Debug for SendSink<T, C> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("SendSink").field("sender", &self.sender).finish_non_exhaustive()
    }
}
