//! A task under way in a worker, and what can become of it.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use farcall_bootstrap::Class;
use farcall_channel::{
    Channel, CodecError, OpenError as ChannelOpenError, Receiver, RecvError, SendError, Sender,
};
use futures_core::Stream;

use crate::end::GatewayEnd;
use crate::failure::{Failure, Panic, plain};
use crate::gateway::Inner;
use crate::task::{Message, Task};
use crate::tasks::name_of;
use crate::wire::{Order, Reply, Request};

/// Why a task gave no value.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CallError {
    /// The task is not in the list that was handed to [`init`](crate::init). Nothing was sent.
    #[error("task {name} is not in the list that was handed to farcall::init")]
    UnknownTask {
        /// Its name.
        name: &'static str,
    },
    /// The task returned an error.
    #[error(transparent)]
    Failed(Failure),
    /// The task panicked.
    #[error(transparent)]
    Panicked(Panic),
    /// The arguments could not be encoded, or hold ends of channels that cannot travel there. Nothing was sent.
    #[error("the arguments cannot be sent")]
    Arguments(#[source] CodecError),
    /// An end of a pipe in the arguments, which travels by [`local`](crate::local) only. Nothing was sent.
    #[error(transparent)]
    PipeEnd(crate::local::TravelError),
    /// The arguments are longer than a message may be. Nothing was sent.
    #[error("the arguments take {len} bytes, a message may have {max}")]
    TooLarge {
        /// Their length in bytes.
        len: u64,
        /// The limit in bytes.
        max: u64,
    },
    /// The worker could not make sense of the arguments.
    #[error("the worker cannot read the arguments: {}", plain(.0))]
    Unreadable(String),
    /// The task ended well, but its value could not be sent.
    #[error("the worker cannot send the task's value: {}", plain(.0))]
    Unsendable(String),
    /// The worker's reply made no sense.
    #[error("the worker's reply cannot be read")]
    Reply(#[source] CodecError),
    /// The worker refused.
    #[error("the worker refused: {}", plain(.0))]
    Refused(String),
    /// The worker gave the task up without a word: it is ending.
    #[error("the worker gave no reply")]
    NoReply,
    /// The gateway has ended. Whether the task ran, and how far, is not known.
    #[error(transparent)]
    Ended(Arc<GatewayEnd>),
}

impl CallError {
    /// What kind of failure it was; `None` for one of the task itself, of its arguments or its value, and where this side ended
    /// the gateway.
    pub fn class(&self) -> Option<Class> {
        match self {
            CallError::Refused(_) => Some(Class::Exec),
            CallError::NoReply => Some(Class::Lost),
            CallError::Ended(end) => end.class(),
            CallError::UnknownTask { .. }
            | CallError::Failed(_)
            | CallError::Panicked(_)
            | CallError::Arguments(_)
            | CallError::PipeEnd(_)
            | CallError::TooLarge { .. }
            | CallError::Unreadable(_)
            | CallError::Unsendable(_)
            | CallError::Reply(_) => None,
        }
    }

    /// Where on the way of a call it happened, for people: `send`, `start`, `run` or `reply`.
    pub fn step(&self) -> &'static str {
        match self {
            CallError::UnknownTask { .. }
            | CallError::Arguments(_)
            | CallError::PipeEnd(_)
            | CallError::TooLarge { .. } => "send",
            CallError::Refused(_) | CallError::Unreadable(_) => "start",
            CallError::Failed(_) | CallError::Panicked(_) | CallError::Ended(_) => "run",
            CallError::Unsendable(_) | CallError::Reply(_) | CallError::NoReply => "reply",
        }
    }

    /// What the far side left for whoever looks for the reason: the end of its standard error, the calls that led to a panic. It
    /// comes from there as it is: whoever shows it escapes control characters.
    pub fn evidence(&self) -> &str {
        match self {
            CallError::Panicked(panic) => &panic.backtrace,
            CallError::Ended(end) => end.stderr(),
            _ => "",
        }
    }
}

/// A task that was given its arguments: a future of its value.
///
/// Dropping it cancels the task, which is dropped where it waits; [`detach`](Self::detach) lets it go on. The gateway lives at
/// least as long as this.
#[must_use = "dropping it cancels the task"]
pub struct Call<V> {
    replies: Receiver<Reply<V>>,
    orders: Box<dyn LetGo>,
    state: State,
    inner: Arc<Inner>,
}

enum State {
    Waiting,
    /// The gateway has ended; its end is about to be told.
    Ending(Pin<Box<dyn Future<Output = Arc<GatewayEnd>> + Send>>),
    Done,
}

/// The sending side of a call, whatever its arguments were.
trait LetGo: Send + Sync {
    fn let_go(self: Box<Self>) -> Pin<Box<dyn Future<Output = ()> + Send>>;
}

impl<A: Message> LetGo for Sender<Order<A>> {
    fn let_go(self: Box<Self>) -> Pin<Box<dyn Future<Output = ()> + Send>> {
        Box::pin(async move {
            // A gateway that has ended holds nothing to let go of.
            let _ = self.send(Order::Detach).await;
        })
    }
}

pub(crate) async fn start<F: Task<M>, M>(
    inner: &Arc<Inner>,
    _task: F,
    args: F::Args,
) -> Result<Call<F::Value>, CallError> {
    let name = name_of::<F>();
    if !inner.tasks.contains(name) {
        return Err(CallError::UnknownTask { name });
    }
    let channel = inner.connection.open(Request::Task(name).to_bytes()).await;
    let channel: Channel<Order<F::Args>, Reply<F::Value>> = match channel {
        Ok(channel) => channel,
        Err(ChannelOpenError::RequestTooLong { .. }) => return Err(CallError::UnknownTask { name }),
        Err(_) => return Err(CallError::Ended(inner.gone().await)),
    };
    // What somebody else's encoding may have left.
    drop(crate::local::travel::fault());
    match channel.send(Order::Run(args)).await {
        // If the worker takes nothing, its reply says why.
        Ok(()) | Err(SendError::Closed | SendError::Stopped(_)) => {}
        Err(SendError::Codec(error)) => {
            let end = crate::local::travel::fault();
            return Err(end.map_or(CallError::Arguments(error), CallError::PipeEnd));
        }
        Err(SendError::TooLarge { len, max }) => return Err(CallError::TooLarge { len, max }),
        Err(_) => return Err(CallError::Ended(inner.gone().await)),
    }
    let (orders, replies) = channel.split();
    Ok(Call { replies, orders: Box::new(orders), state: State::Waiting, inner: Arc::clone(inner) })
}

impl<V: Message> Call<V> {
    /// Lets the task go on by itself, without anybody who waits for its value. It still ends with the gateway.
    pub fn detach(self) {
        let Call { replies, orders, inner, .. } = self;
        let driver = inner.driver.clone();
        // Ends as soon as the worker takes the word, which needs no user's code.
        driver.spawn(async move {
            orders.let_go().await;
            drop(replies);
        });
    }
}

fn result_of<V>(reply: Reply<V>) -> Result<V, CallError> {
    match reply {
        Reply::Value(value) => Ok(value),
        Reply::Failed(failure) => Err(CallError::Failed(failure)),
        Reply::Panicked(panic) => Err(CallError::Panicked(panic)),
        Reply::Arguments(reason) => Err(CallError::Unreadable(reason)),
        Reply::Unsendable(reason) => Err(CallError::Unsendable(reason)),
        Reply::Refused(reason) => Err(CallError::Refused(reason)),
    }
}

impl<V: Message> Future for Call<V> {
    type Output = Result<V, CallError>;

    /// # Panics
    /// When it is polled after it was ready.
    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let call = &mut *self;
        loop {
            match &mut call.state {
                State::Waiting => {
                    let received = ready!(Pin::new(&mut call.replies).poll_next(cx));
                    let result = match received {
                        Some(Ok(reply)) => result_of(reply),
                        Some(Err(RecvError::Remote(reason))) => {
                            Err(CallError::Refused(reason.text().into_owned()))
                        }
                        Some(Err(RecvError::Codec(error))) => Err(CallError::Reply(error)),
                        Some(Err(_)) => {
                            let inner = Arc::clone(&call.inner);
                            call.state = State::Ending(Box::pin(async move { inner.ended().await }));
                            continue;
                        }
                        None => Err(CallError::NoReply),
                    };
                    call.state = State::Done;
                    return Poll::Ready(result);
                }
                State::Ending(ending) => {
                    let end = ready!(ending.as_mut().poll(cx));
                    call.state = State::Done;
                    return Poll::Ready(Err(CallError::Ended(end)));
                }
                State::Done => panic!("a call was polled after it was ready"),
            }
        }
    }
}

impl<V> std::fmt::Debug for Call<V> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Call").finish_non_exhaustive()
    }
}

/// A task that was given a channel, and this side's end of it: sends `S`s, receives `R`s, ends with a `V`.
///
/// Dropping it closes the channel and cancels the task.
#[derive(Debug)]
pub struct TaskHandle<S, R, V> {
    channel: Channel<S, R>,
    call: Call<V>,
    outcome: Option<Result<V, CallError>>,
    told: bool,
}

impl<S: Message, R: Message, V: Message> TaskHandle<S, R, V> {
    pub(crate) fn new(channel: Channel<S, R>, call: Call<V>) -> Self {
        TaskHandle { channel, call, outcome: None, told: false }
    }

    /// See [`Sender::send`].
    ///
    /// # Errors
    /// See [`SendError`].
    pub fn send(&self, value: S) -> impl Future<Output = Result<(), SendError>> + Send {
        // Borrows no more than the sender, so that it is Send whatever the other types are.
        self.channel.sender().send(value)
    }

    /// Ends what the task receives.
    pub fn close_sending(&self) {
        self.channel.close_sending();
    }

    /// Receives the next message from the task. After the last it waits for the task to end: then it returns the task's error,
    /// once, or `None`, again and again.
    ///
    /// Cancel safety: nothing is lost.
    ///
    /// # Errors
    /// The task's, after all that it had sent; [`CallError::Reply`] for a message that cannot be read, after which the next can.
    pub async fn recv(&mut self) -> Result<Option<R>, CallError> {
        match self.channel.recv().await {
            Ok(Some(message)) => return Ok(Some(message)),
            Err(RecvError::Codec(error)) => return Err(CallError::Reply(error)),
            // The task's own end says more.
            Ok(None) | Err(_) => {}
        }
        if self.outcome.is_none() && !self.told {
            self.outcome = Some((&mut self.call).await);
        }
        match self.outcome.take() {
            Some(Err(error)) => {
                self.told = true;
                Err(error)
            }
            outcome => {
                self.outcome = outcome;
                Ok(None)
            }
        }
    }

    /// Waits for the task's value. What it sent and was not received is lost.
    ///
    /// # Errors
    /// The task's; [`CallError::NoReply`] if [`recv`](Self::recv) has returned it already.
    pub async fn value(mut self) -> Result<V, CallError> {
        match self.outcome.take() {
            Some(outcome) => outcome,
            None if self.told => Err(CallError::NoReply),
            None => self.call.await,
        }
    }

    /// The channel and the call on their own.
    pub fn split(self) -> (Channel<S, R>, Call<V>) {
        (self.channel, self.call)
    }
}
