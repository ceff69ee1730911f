//! The same task on many gateways, as one channel to all of them.

mod error;
mod ready;
mod receiver;
mod sender;

use std::fmt;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use futures_core::Stream;

pub use error::{MultiError, SendEachError, SendFailure, SendToError, Settled};
pub use receiver::{Event, MultiReceiver, Received};
pub use sender::MultiSender;

pub(crate) use error::values;
pub(crate) use ready::all;

use crate::call::{CallError, TaskHandle};
use crate::gateway::Gateway;
use crate::group::Which;
use crate::task::{ChannelFirst, Message, Task};

/// A gateway's id, and what is there for its task, or why the task was not started.
type Member<T> = (Arc<str>, Result<T, Arc<CallError>>);

/// The same task on many gateways, and this side's ends of the channels to all of them: sends `S`s, receives `R`s, ends
/// with `V`s. From [`Group::open_task`](crate::Group::open_task), where there is an example.
///
/// Nothing is kept for a task beyond the window of its channel, so one that does not read, or whose messages nobody
/// receives, bounds its own memory and holds up nobody else.
///
/// Dropping it closes the channels and cancels the tasks.
pub struct MultiChannel<S, R, V> {
    sender: MultiSender<S>,
    receiver: MultiReceiver<R, V>,
}

impl<S: Message, R: Message, V: Message> MultiChannel<S, R, V> {
    /// Starts a task on each of these gateways; as [`Group::open_task_with`](crate::Group::open_task_with).
    ///
    /// Cancel safety: dropping it cancels the tasks that were started.
    pub async fn open<'a, F, M>(
        gateways: impl IntoIterator<Item = &'a Gateway>,
        task: F,
        mut args: impl FnMut(&Gateway) -> <F::Args as ChannelFirst>::Rest,
    ) -> MultiChannel<S, R, V>
    where
        F: Task<M, Value = V>,
        F::Args: ChannelFirst<Sends = R, Receives = S>,
    {
        let (ids, opening): (Vec<_>, Vec<_>) = gateways
            .into_iter()
            .map(|gateway| (Arc::clone(gateway.inner().id.text()), gateway.open_task(task, args(gateway))))
            .unzip();
        MultiChannel::new(ids.into_iter().zip(all(opening, |_, _| {}).await))
    }

    fn new(handles: impl Iterator<Item = (Arc<str>, Result<TaskHandle<S, R, V>, CallError>)>) -> Self {
        let (mut senders, mut sources) = (Vec::new(), Vec::new());
        for (id, handle) in handles {
            match handle {
                Ok(handle) => {
                    let (channel, call) = handle.split();
                    let (sender, receiver) = channel.split();
                    senders.push((Arc::clone(&id), Ok(sender)));
                    sources.push((id, Ok((receiver, call))));
                }
                Err(error) => {
                    let error = Arc::new(error);
                    senders.push((Arc::clone(&id), Err(Arc::clone(&error))));
                    sources.push((id, Err(error)));
                }
            }
        }
        MultiChannel { sender: MultiSender::new(senders), receiver: MultiReceiver::new(sources) }
    }

    /// How many tasks there are, those that have ended included.
    pub fn len(&self) -> usize {
        self.sender.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.sender.is_empty()
    }

    /// The ids of the gateways, in their order.
    pub fn ids(&self) -> impl ExactSizeIterator<Item = &str> {
        self.sender.ids()
    }

    /// See [`MultiSender::send_each`].
    ///
    /// # Errors
    /// See [`SendEachError`].
    pub fn send_each(&self, value: S) -> impl Future<Output = Result<(), SendEachError>> + Send
    where
        S: Clone,
    {
        // Borrows no more than the senders, so that it is Send whatever the other types are.
        self.sender.send_each(value)
    }

    /// See [`MultiSender::send_to`].
    ///
    /// # Errors
    /// See [`SendToError`].
    pub fn send_to<'a>(
        &self,
        which: impl Into<Which<'a>>,
        value: S,
    ) -> impl Future<Output = Result<(), SendToError>> + Send {
        self.sender.send_to(which.into(), value)
    }

    /// Ends what all tasks receive.
    pub fn close_sending(&self) {
        self.sender.close();
    }

    /// See [`MultiReceiver::recv`].
    pub async fn recv(&mut self) -> Option<Received<R>> {
        self.receiver.recv().await
    }

    /// See [`MultiReceiver::recv_each`].
    pub async fn recv_each(&mut self) -> Vec<Received<R>> {
        self.receiver.recv_each().await
    }

    /// See [`MultiReceiver::recv_from`].
    pub async fn recv_from<'a>(&mut self, which: impl Into<Which<'a>>) -> Option<Received<R>> {
        self.receiver.recv_from(which).await
    }

    /// Waits for all tasks, and returns their values in order; see [`MultiReceiver::values`]. What the tasks receive stays open
    /// until then: [close](Self::close_sending) it where they read to its end.
    ///
    /// # Errors
    /// See [`MultiError`].
    pub async fn values(self) -> Result<Vec<V>, MultiError<V>> {
        self.receiver.values().await
    }

    /// The two directions on their own.
    pub fn split(self) -> (MultiSender<S>, MultiReceiver<R, V>) {
        (self.sender, self.receiver)
    }
}

impl<S: Message, R: Message, V: Message> Stream for MultiChannel<S, R, V> {
    type Item = Received<R>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Received<R>>> {
        self.receiver.poll_recv(cx)
    }
}

impl<S, R, V> Unpin for MultiChannel<S, R, V> {}

impl<S, R, V> fmt::Debug for MultiChannel<S, R, V> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MultiChannel")
            .field("ids", &self.sender.ids().collect::<Vec<_>>())
            .finish_non_exhaustive()
    }
}
