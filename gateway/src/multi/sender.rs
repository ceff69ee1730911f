//! Messages to many tasks: to each of them, or to one.

use std::fmt;
use std::sync::Arc;

use farcall_channel::Sender;

use super::{Member, SendEachError, SendFailure, SendToError, all};
use crate::call::CallError;
use crate::group::Which;
use crate::task::Message;

/// The sending directions of the channels to many tasks: from [`MultiChannel::split`](super::MultiChannel::split).
///
/// Dropping it ends what the tasks receive.
pub struct MultiSender<S> {
    members: Vec<Member<Sender<S>>>,
}

impl<S: Message> MultiSender<S> {
    pub(super) fn new(members: Vec<Member<Sender<S>>>) -> MultiSender<S> {
        MultiSender { members }
    }

    /// Sends a message to each task. All are sent to at the same time, so one that does not read holds up only the return of
    /// this.
    ///
    /// Cancel safety: when it is dropped, some tasks have been sent the message and some not.
    ///
    /// # Errors
    /// Those that it could not be sent to, after it was sent to all others: see [`SendEachError`].
    pub async fn send_each(&self, value: S) -> Result<(), SendEachError>
    where
        S: Clone,
    {
        let values = std::iter::repeat_n(value, self.len());
        let sends = self.members.iter().zip(values).map(|((_, sender), value)| send(sender, value));
        let sent = all(sends, |_, _| {}).await;
        let failed = |(index, sent): (usize, Result<(), SendToError>)| {
            let id = Arc::clone(&self.members[index].0);
            Some(SendFailure { index, id, error: sent.err()? })
        };
        let failures: Vec<_> = sent.into_iter().enumerate().filter_map(failed).collect();
        if failures.is_empty() {
            return Ok(());
        }
        Err(SendEachError { sent: self.len() - failures.len(), failures })
    }

    /// Sends a message to one task, by the number or the id of its gateway. See [`Sender::send`].
    ///
    /// Cancel safety: a dropped `send_to` has sent nothing.
    ///
    /// # Errors
    /// See [`SendToError`].
    pub async fn send_to<'a>(&self, which: impl Into<Which<'a>>, value: S) -> Result<(), SendToError> {
        let which = which.into();
        match self.find(which) {
            Some(index) => send(&self.members[index].1, value).await,
            None => Err(SendToError::unknown(which)),
        }
    }
}

impl<S> MultiSender<S> {
    /// How many tasks there are, those that have ended included.
    pub fn len(&self) -> usize {
        self.members.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.members.is_empty()
    }

    /// The ids of the gateways, in their order.
    pub fn ids(&self) -> impl ExactSizeIterator<Item = &str> {
        self.members.iter().map(|(id, _)| &**id)
    }

    fn find(&self, which: Which<'_>) -> Option<usize> {
        which.find(self.ids())
    }

    /// The end of the channel to one task; `None` if there is none, or it was not started.
    pub fn get<'a>(&self, which: impl Into<Which<'a>>) -> Option<&Sender<S>> {
        self.members[self.find(which.into())?].1.as_ref().ok()
    }

    /// Ends what all tasks receive. Harmless when it has ended.
    pub fn close(&self) {
        for (_, sender) in &self.members {
            if let Ok(sender) = sender {
                sender.close();
            }
        }
    }
}

async fn send<S: Message>(sender: &Result<Sender<S>, Arc<CallError>>, value: S) -> Result<(), SendToError> {
    match sender {
        Ok(sender) => sender.send(value).await.map_err(|error| SendToError::Send(Arc::new(error))),
        Err(error) => Err(SendToError::NotStarted(Arc::clone(error))),
    }
}

impl<S> fmt::Debug for MultiSender<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MultiSender").field("ids", &self.ids().collect::<Vec<_>>()).finish()
    }
}
