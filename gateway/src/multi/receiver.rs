//! Messages from many tasks: as they come, one from each, or from one of them.

use std::collections::VecDeque;
use std::fmt;
use std::future::poll_fn;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use farcall_channel::{CodecError, Receiver, RecvError};
use futures_core::Stream;

use super::ready::Ready;
use super::{Member, MultiError, Settled};
use crate::call::{Call, CallError};
use crate::group::Which;
use crate::task::Message;

/// Something that came from one of many tasks.
#[derive(Debug)]
pub struct Received<R> {
    /// The number of its gateway.
    pub index: usize,
    /// The id of its gateway.
    pub id: Arc<str>,
    /// What came.
    pub event: Event<R>,
}

/// What can come from a task.
#[derive(Debug)]
#[non_exhaustive]
pub enum Event<R> {
    /// A message.
    Message(R),
    /// A message that is not what was expected. The next may be.
    Unreadable(CodecError),
    /// The task's end, after all its messages, and the cause if it failed. Nothing comes from it any more.
    End(Result<(), Arc<CallError>>),
}

/// The receiving directions of the channels to many tasks, and the tasks' ends: from
/// [`MultiChannel::split`](super::MultiChannel::split). Also a `Stream`, of what [`recv`](Self::recv) returns.
///
/// Dropping it cancels the tasks.
pub struct MultiReceiver<R, V> {
    sources: Vec<Source<R, V>>,
    ready: Ready,
    /// Sources whose next event was taken, and waits here for those of others.
    held: VecDeque<usize>,
    /// Sources whose end was not yet handed out.
    left: usize,
    /// The source that failed first.
    failed: Option<usize>,
}

struct Source<R, V> {
    id: Arc<str>,
    state: State<R, V>,
    held: Option<Event<R>>,
    /// Whether its end was handed out.
    told: bool,
}

enum State<R, V> {
    /// What the task sends.
    Receiving(Receiver<R>, Call<V>),
    /// All was received; the task has yet to end.
    Ending(Call<V>),
    Ended(Result<V, Arc<CallError>>),
    /// Between two of these.
    Changing,
}

impl<R: Message, V: Message> Source<R, V> {
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Event<R>> {
        loop {
            match &mut self.state {
                State::Receiving(receiver, _) => match ready!(Pin::new(receiver).poll_next(cx)) {
                    Some(Ok(message)) => return Poll::Ready(Event::Message(message)),
                    Some(Err(RecvError::Codec(error))) => return Poll::Ready(Event::Unreadable(error)),
                    // The task's own end says more.
                    None | Some(Err(_)) => {
                        if let State::Receiving(_, call) = std::mem::replace(&mut self.state, State::Changing)
                        {
                            self.state = State::Ending(call);
                        }
                    }
                },
                State::Ending(call) => {
                    let outcome = ready!(Pin::new(call).poll(cx)).map_err(Arc::new);
                    self.state = State::Ended(outcome);
                }
                State::Ended(outcome) => {
                    return Poll::Ready(Event::End(outcome.as_ref().map(|_| ()).map_err(Arc::clone)));
                }
                State::Changing => unreachable!("it is changed at once"),
            }
        }
    }
}

impl<R: Message, V: Message> MultiReceiver<R, V> {
    pub(super) fn new(members: Vec<Member<(Receiver<R>, Call<V>)>>) -> MultiReceiver<R, V> {
        let source = |(id, task)| {
            let state = match task {
                Ok((receiver, call)) => State::Receiving(receiver, call),
                Err(error) => State::Ended(Err(error)),
            };
            Source { id, state, held: None, told: false }
        };
        let sources: Vec<_> = members.into_iter().map(source).collect();
        let (ready, left) = (Ready::new(sources.len()), sources.len());
        MultiReceiver { sources, ready, held: VecDeque::new(), left, failed: None }
    }

    /// Receives what comes next from any task: its messages in order, then its end, once. `None` when all ends were
    /// received. None that sends much keeps the others' messages waiting.
    ///
    /// Cancel safety: nothing is lost.
    pub async fn recv(&mut self) -> Option<Received<R>> {
        poll_fn(|cx| self.poll_recv(cx)).await
    }

    /// Receives from each task that has not ended, one event from each, in their order; waits for the slowest. Empty when all
    /// have ended.
    ///
    /// Cancel safety: nothing is lost: the next receive of any kind returns what had come.
    pub async fn recv_each(&mut self) -> Vec<Received<R>> {
        let due = self.left;
        poll_fn(|cx| {
            while self.held.len() < due {
                let (index, event) = ready!(self.poll_next_event(cx));
                self.sources[index].held = Some(event);
                self.held.push_back(index);
            }
            Poll::Ready(())
        })
        .await;
        let mut received: Vec<_> = std::iter::from_fn(|| self.next_held()).collect();
        received.sort_by_key(|received| received.index);
        received
    }

    /// Receives what comes next from one task, by the number or the id of its gateway. `None` if there is no such task, or
    /// its end was received.
    ///
    /// Cancel safety: nothing is lost.
    pub async fn recv_from<'a>(&mut self, which: impl Into<Which<'a>>) -> Option<Received<R>> {
        let index = which.into().find(self.sources.iter().map(|source| &*source.id))?;
        if self.sources[index].told {
            return None;
        }
        if let Some(at) = self.held.iter().position(|held| *held == index) {
            self.held.remove(at);
        }
        // Whatever it wakes from now on, and however this ends, it has to be looked at with the others.
        self.ready.again(index);
        let source = &mut self.sources[index];
        let event = match source.held.take() {
            Some(event) => event,
            None => poll_fn(|cx| source.poll(cx)).await,
        };
        Some(self.hand_out(index, event))
    }

    /// Waits for all tasks to end, and returns their values in the gateways' order. Messages that they still send are
    /// received and lost.
    ///
    /// Cancel safety: dropping it cancels the tasks.
    ///
    /// # Errors
    /// The first that failed, with what came of all the others: see [`MultiError`].
    pub async fn values(mut self) -> Result<Vec<V>, MultiError<V>> {
        while self.recv().await.is_some() {}
        let outcome = |source: Source<R, V>| match source.state {
            State::Ended(result) => Some(Settled { id: source.id, result }),
            _ => None,
        };
        MultiError::check(self.failed, self.sources.into_iter().filter_map(outcome).collect())
    }

    /// Tasks whose end was not yet received.
    pub fn running(&self) -> usize {
        self.left
    }

    pub(super) fn poll_recv(&mut self, cx: &mut Context<'_>) -> Poll<Option<Received<R>>> {
        if let Some(received) = self.next_held() {
            return Poll::Ready(Some(received));
        }
        if self.left == 0 {
            return Poll::Ready(None);
        }
        let (index, event) = ready!(self.poll_next_event(cx));
        Poll::Ready(Some(self.hand_out(index, event)))
    }

    /// The next event of any source that holds none.
    fn poll_next_event(&mut self, cx: &mut Context<'_>) -> Poll<(usize, Event<R>)> {
        let (sources, failed) = (&mut self.sources, &mut self.failed);
        self.ready.poll(cx, |index, cx| {
            let source = &mut sources[index];
            if source.told || source.held.is_some() {
                return Poll::Pending;
            }
            let event = ready!(source.poll(cx));
            if let Event::End(Err(_)) = &event {
                failed.get_or_insert(index);
            }
            Poll::Ready((index, event))
        })
    }

    fn next_held(&mut self) -> Option<Received<R>> {
        let index = self.held.pop_front()?;
        let event = self.sources[index].held.take()?;
        Some(self.hand_out(index, event))
    }

    fn hand_out(&mut self, index: usize, event: Event<R>) -> Received<R> {
        if let Event::End(outcome) = &event {
            self.sources[index].told = true;
            self.left -= 1;
            if outcome.is_err() {
                self.failed.get_or_insert(index);
            }
        } else {
            // There may be more where it came from.
            self.ready.again(index);
        }
        Received { index, id: Arc::clone(&self.sources[index].id), event }
    }
}

impl<R: Message, V: Message> Stream for MultiReceiver<R, V> {
    type Item = Received<R>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Received<R>>> {
        self.poll_recv(cx)
    }
}

impl<R, V> Unpin for MultiReceiver<R, V> {}

impl<R, V> fmt::Debug for MultiReceiver<R, V> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ids: Vec<_> = self.sources.iter().map(|source| &source.id).collect();
        f.debug_struct("MultiReceiver").field("ids", &ids).field("running", &self.left).finish()
    }
}
