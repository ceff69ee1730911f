//! Message pipes whose ends are descriptors of their own: between tasks, and between processes of one machine.

use std::io;
use std::marker::PhantomData;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use farcall_channel::{Cbor, Codec, CodecError};
use rustix::net::Shutdown;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use tokio::sync::Mutex;

use super::child::within;
use super::socket::{Assembly, MAX_MESSAGE, Received, RecvFault, Socket};
use super::travel::{self, Fault, TravelError};

/// Why a message was not sent. The pipe is as before, but for [`Closed`](Self::Closed).
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PipeSendError {
    /// Nobody has the other end any more.
    #[error("the pipe's other end is gone")]
    Closed,
    /// The value could not be encoded.
    #[error(transparent)]
    Codec(CodecError),
    /// An end of a pipe in the value cannot travel.
    #[error(transparent)]
    End(TravelError),
    /// The value's encoding is too long.
    #[error("the message takes {len} bytes, {max} are allowed")]
    TooLarge {
        /// Its length in bytes.
        len: usize,
        /// The limit in bytes.
        max: usize,
    },
    /// The system refused.
    #[error("cannot send through the pipe")]
    System(#[source] io::Error),
}

/// Why [`PipeSender::send_timeout`] sent nothing.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PipeSendTimeoutError {
    /// There was no room in time.
    #[error("the pipe had no room in time")]
    Timeout,
    /// It failed.
    #[error(transparent)]
    Failed(PipeSendError),
}

/// Why [`PipeSender::try_send`] sent nothing.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TryPipeSendError<T> {
    /// There is no room now; the value comes back.
    #[error("the pipe has no room now")]
    Full(T),
    /// It failed.
    #[error(transparent)]
    Failed(PipeSendError),
}

/// Why no message was received.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PipeRecvError {
    /// The other side went away in the middle of a message, or where it had given one up and had no room to say so. Nothing
    /// follows.
    #[error("the pipe ended in the middle of a message")]
    Cut,
    /// The message is not what was expected. The next can be received.
    #[error(transparent)]
    Codec(CodecError),
    /// An end of a pipe in the message did not arrive. The next message can be received.
    #[error(transparent)]
    End(TravelError),
    /// What came is no message of a pipe. Nothing follows.
    #[error("what came through the pipe is no message")]
    Malformed,
    /// The system refused. Nothing follows.
    #[error("cannot receive from the pipe")]
    System(#[source] io::Error),
}

/// Why [`PipeReceiver::try_recv`] or [`PipeReceiver::recv_timeout`] received nothing.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TryPipeRecvError {
    /// There is no message yet. The pipe is as before, also if a part of one had come.
    #[error("there is no message yet")]
    Empty,
    /// It failed.
    #[error(transparent)]
    Failed(PipeRecvError),
}

/// The sending end of a pipe of `T`s.
///
/// Several tasks may send through one end, by reference: messages never interleave. Dropping the end ends the pipe: the other
/// side receives what was sent, then the end. Of what was not yet received the kernel keeps about 200 KiB; then sending waits.
///
/// An end moves into a process inside the arguments of [`local::run`](super::run) and its like, inside the value of a task, or
/// inside a message of another pipe, wherever in the value it stands: there it is the same pipe, and nobody in between.
///
/// ```no_run
/// use farcall::local::{self, PipeReceiver};
///
/// async fn sum(mut numbers: PipeReceiver<u64>) -> Result<u64, farcall::local::PipeRecvError> {
///     let mut sum = 0;
///     while let Some(number) = numbers.recv().await? {
///         sum += number;
///     }
///     Ok(sum)
/// }
///
/// # async fn example() -> Result<(), Box<dyn std::error::Error>> {
/// let (sender, receiver) = local::pipe()?;
/// let process = local::open(sum, (receiver,)).await?;
/// sender.send(1).await?;
/// sender.send(2).await?;
/// sender.close();
/// assert_eq!(process.result().await?, 3);
/// # Ok(())
/// # }
/// ```
///
/// An end that has moved is gone here:
///
/// ```compile_fail,E0382
/// # async fn feed(numbers: farcall::local::PipeSender<u64>) {}
/// # async fn example() -> Result<(), Box<dyn std::error::Error>> {
/// let (sender, receiver) = farcall::local::pipe()?;
/// farcall::local::run(feed, (sender,)).await?;
/// sender.send(1).await?;
/// # Ok(())
/// # }
/// ```
///
/// An end may be used on one runtime now and on another later, and on any: waiting on one that is not tokio's, or on none, is done
/// by the thread that drives connections.
///
/// # Panics
/// Waiting on a runtime of tokio's without I/O does, and waiting for a limited time on one without a timer.
pub struct PipeSender<T, C = Cbor> {
    socket: Arc<Socket>,
    /// The other direction is somebody else's.
    half: bool,
    /// Held while a message of several chunks is under way.
    turn: Mutex<Turn>,
    _types: PhantomData<fn(T) -> C>,
}

#[derive(Debug, Default)]
struct Turn {
    /// A message was begun, and given up.
    abandoned: bool,
}

/// The receiving end of a pipe of `T`s.
///
/// Dropping it ends the pipe: the other side's sends fail. It moves into a process as a [`PipeSender`] does, as long as nothing
/// that it has received waits to be handed out.
pub struct PipeReceiver<T, C = Cbor> {
    socket: Arc<Socket>,
    half: bool,
    assembly: Assembly,
    /// Looked at and not taken.
    peeked: Option<Result<Option<T>, PipeRecvError>>,
    ended: bool,
    _types: PhantomData<fn() -> (T, C)>,
}

/// One end of a pipe of both directions: sends `S`s and receives `R`s. It moves into a process as a whole.
pub struct Duplex<S, R, C = Cbor> {
    sender: PipeSender<S, C>,
    receiver: PipeReceiver<R, C>,
}

/// Two ends of a new pipe, whose values are encoded as CBOR by serde.
///
/// ```
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let (sender, mut receiver) = farcall::local::pipe::<String>()?;
/// sender.send("hello".to_owned()).await?;
/// drop(sender);
/// assert_eq!(receiver.recv().await?.as_deref(), Some("hello"));
/// assert_eq!(receiver.recv().await?, None);
/// # Ok(())
/// # }
/// ```
///
/// # Errors
/// That the system gives no descriptors.
pub fn pipe<T>() -> io::Result<(PipeSender<T>, PipeReceiver<T>)>
where
    Cbor: Codec<T>,
{
    pipe_with::<T, Cbor>()
}

/// As [`pipe`], with another codec: [`Raw`](farcall_channel::Raw) for bytes as they are, or one of your own.
///
/// # Errors
/// As [`pipe`].
pub fn pipe_with<T, C: Codec<T>>() -> io::Result<(PipeSender<T, C>, PipeReceiver<T, C>)> {
    let (from, to) = Socket::pair()?;
    Ok((PipeSender::new(Arc::new(from), false), PipeReceiver::new(Arc::new(to), false)))
}

/// Two ends of a new pipe of both directions: the first sends `S`s and receives `R`s.
///
/// # Errors
/// As [`pipe`].
pub fn duplex<S, R>() -> io::Result<(Duplex<S, R>, Duplex<R, S>)>
where
    Cbor: Codec<S> + Codec<R>,
{
    duplex_with::<S, R, Cbor>()
}

/// As [`duplex`], with another codec.
///
/// # Errors
/// As [`pipe`].
#[expect(clippy::type_complexity, reason = "a name for the pair of ends would say less")]
pub fn duplex_with<S, R, C: Codec<S> + Codec<R>>() -> io::Result<(Duplex<S, R, C>, Duplex<R, S, C>)> {
    let (one, other) = Socket::pair()?;
    Ok((Duplex::new(Arc::new(one)), Duplex::new(Arc::new(other))))
}

fn send_fault(fault: Fault) -> PipeSendError {
    match fault {
        Fault::Codec(error) => PipeSendError::Codec(error),
        Fault::Travel(error) => PipeSendError::End(error),
    }
}

fn send_error(error: io::Error) -> PipeSendError {
    match error.kind() {
        io::ErrorKind::BrokenPipe | io::ErrorKind::ConnectionReset | io::ErrorKind::NotConnected => {
            PipeSendError::Closed
        }
        _ => PipeSendError::System(error),
    }
}

/// Notes that a message was begun when its send is dropped in the middle.
struct Under<'a> {
    turn: tokio::sync::MutexGuard<'a, Turn>,
    begun: bool,
}

impl Drop for Under<'_> {
    fn drop(&mut self) {
        self.turn.abandoned = self.begun;
    }
}

impl<T, C: Codec<T>> PipeSender<T, C> {
    fn new(socket: Arc<Socket>, half: bool) -> PipeSender<T, C> {
        PipeSender { socket, half, turn: Mutex::default(), _types: PhantomData }
    }

    fn encode(value: &T) -> Result<(Vec<u8>, Vec<Arc<Socket>>), PipeSendError> {
        let mut message = Vec::new();
        let ((), ends) = travel::encoding(|| C::encode(value, &mut message)).map_err(send_fault)?;
        if message.len() > MAX_MESSAGE {
            return Err(PipeSendError::TooLarge { len: message.len(), max: MAX_MESSAGE });
        }
        Ok((message, ends))
    }

    /// Sends a message, and waits as long as there is no room. What was taken is on its way; that it was received, only an
    /// answer tells.
    ///
    /// Cancel safety: a dropped `send` has sent nothing, also when it was dropped in the middle: the other side throws away
    /// what it had of the message. The value is lost, with the ends in it.
    ///
    /// # Errors
    /// See [`PipeSendError`].
    pub async fn send(&self, value: T) -> Result<(), PipeSendError> {
        let (message, ends) = Self::encode(&value)?;
        let mut under = Under { turn: self.turn.lock().await, begun: false };
        let sent = self.socket.send(&message, &ends, &mut under.begun).await;
        drop(under);
        // Only now: ends in the value must be there until they have left.
        drop(value);
        sent.map_err(send_error)
    }

    /// As [`send`](Self::send), for at most this long. After a timeout nothing was sent and the pipe is usable.
    ///
    /// Cancel safety: as of `send`.
    ///
    /// # Errors
    /// See [`PipeSendTimeoutError`].
    pub async fn send_timeout(&self, value: T, limit: Duration) -> Result<(), PipeSendTimeoutError> {
        match within(limit, self.send(value)).await {
            Ok(Some(sent)) => sent.map_err(PipeSendTimeoutError::Failed),
            Ok(None) => Err(PipeSendTimeoutError::Timeout),
            Err(error) => Err(PipeSendTimeoutError::Failed(PipeSendError::System(error))),
        }
    }

    /// Sends a message if there is room now, without a runtime. One of more than 32 KiB needs [`send`](Self::send).
    ///
    /// # Errors
    /// See [`TryPipeSendError`].
    pub fn try_send(&self, value: T) -> Result<(), TryPipeSendError<T>> {
        let (message, ends) = Self::encode(&value).map_err(TryPipeSendError::Failed)?;
        let Ok(mut turn) = self.turn.try_lock() else { return Err(TryPipeSendError::Full(value)) };
        match self.socket.try_send(&message, &ends) {
            Ok(true) => {
                turn.abandoned = false;
                Ok(())
            }
            Ok(false) => Err(TryPipeSendError::Full(value)),
            Err(error) => Err(TryPipeSendError::Failed(send_error(error.into()))),
        }
    }
}

impl<T, C> PipeSender<T, C> {
    /// Ends the pipe, as dropping does: the other side receives what was sent, then the end.
    pub fn close(self) {}

    fn movable(&self) -> Option<&Arc<Socket>> {
        (!self.half && self.turn.try_lock().is_ok()).then_some(&self.socket)
    }
}

impl<T, C> Drop for PipeSender<T, C> {
    fn drop(&mut self) {
        if self.turn.get_mut().abandoned {
            self.socket.try_abort();
        }
        if self.half {
            self.socket.shut(Shutdown::Write);
        }
    }
}

impl<T, C: Codec<T>> PipeReceiver<T, C> {
    fn new(socket: Arc<Socket>, half: bool) -> PipeReceiver<T, C> {
        PipeReceiver {
            socket,
            half,
            assembly: Assembly::default(),
            peeked: None,
            ended: false,
            _types: PhantomData,
        }
    }

    /// Receives the next message: `None` at the end of the pipe, again and again.
    ///
    /// Cancel safety: nothing is lost, also in the middle of a message.
    ///
    /// # Errors
    /// See [`PipeRecvError`].
    pub async fn recv(&mut self) -> Result<Option<T>, PipeRecvError> {
        std::future::poll_fn(|cx| self.poll_recv(cx)).await
    }

    /// As [`recv`](Self::recv), for at most this long; after a timeout the pipe is as before.
    ///
    /// Cancel safety: nothing is lost.
    ///
    /// # Errors
    /// See [`TryPipeRecvError`].
    pub async fn recv_timeout(&mut self, limit: Duration) -> Result<Option<T>, TryPipeRecvError> {
        match within(limit, self.recv()).await {
            Ok(Some(received)) => received.map_err(TryPipeRecvError::Failed),
            Ok(None) => Err(TryPipeRecvError::Empty),
            Err(error) => Err(TryPipeRecvError::Failed(PipeRecvError::System(error))),
        }
    }

    /// Receives a message if a whole one is here, without a runtime.
    ///
    /// # Errors
    /// See [`TryPipeRecvError`].
    pub fn try_recv(&mut self) -> Result<Option<T>, TryPipeRecvError> {
        if let Some(peeked) = self.peeked.take() {
            return peeked.map_err(TryPipeRecvError::Failed);
        }
        if self.ended {
            return Ok(None);
        }
        match self.socket.try_recv(&mut self.assembly) {
            None => Err(TryPipeRecvError::Empty),
            Some(received) => self.take(received).map_err(TryPipeRecvError::Failed),
        }
    }

    /// Waits for the next message and looks at it; the next receive returns it.
    ///
    /// Cancel safety: nothing is lost.
    ///
    /// # Errors
    /// As [`recv`](Self::recv).
    pub async fn peek(&mut self) -> Result<Option<&T>, PipeRecvError> {
        if self.peeked.is_none() {
            let received = self.recv().await;
            self.peeked = Some(received);
        }
        match self.peeked.take() {
            Some(Ok(value)) => match self.peeked.insert(Ok(value)) {
                Ok(value) => Ok(value.as_ref()),
                Err(_) => Ok(None),
            },
            Some(Err(error)) => Err(error),
            None => Ok(None),
        }
    }

    /// Whether a receive would return at once: with a message, an error or the end.
    pub fn is_ready(&mut self) -> bool {
        if self.peeked.is_none() {
            self.peeked = match self.try_recv() {
                Ok(value) => Some(Ok(value)),
                Err(TryPipeRecvError::Failed(error)) => Some(Err(error)),
                Err(TryPipeRecvError::Empty) => None,
            };
        }
        self.peeked.is_some()
    }

    fn poll_recv(&mut self, cx: &mut Context<'_>) -> Poll<Result<Option<T>, PipeRecvError>> {
        if let Some(peeked) = self.peeked.take() {
            return Poll::Ready(peeked);
        }
        if self.ended {
            return Poll::Ready(Ok(None));
        }
        let received = ready!(self.socket.poll_recv(cx, &mut self.assembly));
        Poll::Ready(self.take(received))
    }

    fn take(&mut self, received: Result<Option<Received>, RecvFault>) -> Result<Option<T>, PipeRecvError> {
        let error = match received {
            Ok(Some(mut received)) => {
                let descriptors = std::mem::take(&mut received.descriptors);
                return match travel::decoding(descriptors, || C::decode(received.bytes())) {
                    Ok(value) => Ok(Some(value)),
                    Err(Fault::Codec(error)) => Err(PipeRecvError::Codec(error)),
                    Err(Fault::Travel(error)) => Err(PipeRecvError::End(error)),
                };
            }
            Ok(None) => {
                self.ended = true;
                return Ok(None);
            }
            Err(RecvFault::Cut) => PipeRecvError::Cut,
            Err(RecvFault::Malformed) => PipeRecvError::Malformed,
            Err(RecvFault::System(error)) => PipeRecvError::System(error),
        };
        self.ended = true;
        Err(error)
    }
}

impl<T, C> PipeReceiver<T, C> {
    /// Ends the pipe, as dropping does: the other side's sends fail.
    pub fn close(self) {}

    fn movable(&self) -> Option<&Arc<Socket>> {
        let in_hand = self.half || self.peeked.is_some() || self.assembly.is_begun() || self.ended;
        (!in_hand).then_some(&self.socket)
    }
}

impl<T, C> Drop for PipeReceiver<T, C> {
    fn drop(&mut self) {
        if self.half {
            self.socket.shut(Shutdown::Read);
        }
    }
}

impl<T, C> Unpin for PipeReceiver<T, C> {}

impl<T, C: Codec<T>> futures_core::Stream for PipeReceiver<T, C> {
    type Item = Result<T, PipeRecvError>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        self.poll_recv(cx).map(Result::transpose)
    }
}

impl<S, R, C: Codec<S> + Codec<R>> Duplex<S, R, C> {
    fn new(socket: Arc<Socket>) -> Duplex<S, R, C> {
        Duplex {
            sender: PipeSender::new(Arc::clone(&socket), true),
            receiver: PipeReceiver::new(socket, true),
        }
    }

    /// See [`PipeSender::send`], also for cancel safety.
    ///
    /// # Errors
    /// See [`PipeSendError`].
    pub async fn send(&self, value: S) -> Result<(), PipeSendError> {
        self.sender.send(value).await
    }

    /// See [`PipeReceiver::recv`], also for cancel safety.
    ///
    /// # Errors
    /// See [`PipeRecvError`].
    pub async fn recv(&mut self) -> Result<Option<R>, PipeRecvError> {
        self.receiver.recv().await
    }

    /// The sending direction, for its other operations.
    pub fn sender(&self) -> &PipeSender<S, C> {
        &self.sender
    }

    /// The receiving direction, for its other operations.
    pub fn receiver(&mut self) -> &mut PipeReceiver<R, C> {
        &mut self.receiver
    }

    /// The two directions on their own. Each ends by itself when it is dropped; they do not move into a process any more.
    pub fn split(self) -> (PipeSender<S, C>, PipeReceiver<R, C>) {
        (self.sender, self.receiver)
    }

    /// Ends both directions, as dropping does.
    pub fn close(self) {}
}

impl<S, R, C> Duplex<S, R, C> {
    fn movable(&self) -> Option<&Arc<Socket>> {
        let receiver = &self.receiver;
        let in_hand = receiver.peeked.is_some()
            || receiver.assembly.is_begun()
            || receiver.ended
            || self.sender.turn.try_lock().is_err();
        (!in_hand).then_some(&receiver.socket)
    }
}

macro_rules! travels {
    ($end:ident<$($type:ident),+>, $make:expr) => {
        impl<$($type,)+ C> Serialize for $end<$($type,)+ C> {
            fn serialize<Z: Serializer>(&self, serializer: Z) -> Result<Z::Ok, Z::Error> {
                let index = travel::embark(self.movable()).map_err(serde::ser::Error::custom)?;
                serializer.serialize_u16(index)
            }
        }

        impl<'de, $($type,)+ C: $(Codec<$type> +)+> Deserialize<'de> for $end<$($type,)+ C> {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                let index = u16::deserialize(deserializer)?;
                let socket = travel::disembark(index).map_err(serde::de::Error::custom)?;
                Ok($make(Arc::new(socket)))
            }
        }

        impl<$($type,)+ C> std::fmt::Debug for $end<$($type,)+ C> {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.debug_struct(stringify!($end)).finish_non_exhaustive()
            }
        }
    };
}

travels!(PipeSender<T>, |socket| PipeSender::new(socket, false));
travels!(PipeReceiver<T>, |socket| PipeReceiver::new(socket, false));
travels!(Duplex<S, R>, Duplex::new);

impl<T: 'static, C: Codec<T> + 'static> crate::task::Plain for PipeSender<T, C> where Self: crate::Message {}
impl<T: 'static, C: Codec<T> + 'static> crate::task::Plain for PipeReceiver<T, C> where Self: crate::Message {}
impl<S: 'static, R: 'static, C: Codec<S> + Codec<R> + 'static> crate::task::Plain for Duplex<S, R, C> where
    Self: crate::Message
{
}
