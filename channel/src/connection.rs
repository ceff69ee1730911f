//! A connection: greeting, opening and accepting channels, and its end.

use std::time::{Duration, Instant};

use bytes::Bytes;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::runtime::Handle;

use crate::channel::Channel;
use crate::codec::{Cbor, Codec};
use crate::driver::{self, List, Shared, Writer};
use crate::error::{ConnectionError, HandshakeError, OpenError};
use crate::frame::MAX_REQUEST;
use crate::mux::{Config, Counters, Key, Mux, OpenFault, Role};
use crate::receiver::{Receiver, RecvEnd};
use crate::sender::{SendEnd, Sender};
use crate::sync::Arc;

/// How a connection is started.
#[derive(Debug, Clone)]
pub struct Options {
    /// Limits and liveness.
    pub config: Config,
    /// How long the peer's greeting may take.
    pub handshake_limit: Duration,
    /// The runtime that moves the bytes; the current one by default. With a [`DriverThread`](crate::DriverThread)'s, code
    /// that blocks the current runtime never makes the connection look dead. The byte streams must belong to that
    /// runtime.
    pub driver: Option<Handle>,
}

impl Default for Options {
    fn default() -> Options {
        Options { config: Config::default(), handshake_limit: Duration::from_secs(15), driver: None }
    }
}

/// A connection to a peer: many channels over one byte stream.
///
/// Cloning is cheap; all clones are one connection. When the last is dropped, no more channels are opened or accepted, and the
/// connection closes once those that exist have ended; see [`close`](Self::close).
///
/// ```
/// use farcall_channel::{Connection, Options, Role};
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let (near, far) = tokio::io::duplex(65536);
/// let ((near_read, near_write), (far_read, far_write)) = (tokio::io::split(near), tokio::io::split(far));
/// let worker = tokio::spawn(async move {
///     let connection = Connection::start(far_read, far_write, Role::Worker, Options::default()).await.unwrap();
///     let incoming = connection.accept().await.unwrap();
///     assert_eq!(&incoming.request()[..], b"double");
///     let mut channel = incoming.accept::<u64, u64>();
///     while let Some(number) = channel.recv().await.unwrap() {
///         channel.send(number * 2).await.unwrap();
///     }
/// });
///
/// let connection = Connection::start(near_read, near_write, Role::Coordinator, Options::default()).await?;
/// let mut channel = connection.open::<u64, u64>("double").await?;
/// channel.send(21).await?;
/// assert_eq!(channel.recv().await?, Some(42));
/// channel.close_sending();
/// assert_eq!(channel.recv().await?, None);
/// # worker.await?;
/// # Ok(())
/// # }
/// ```
#[derive(Clone)]
pub struct Connection {
    inner: Arc<Inner>,
}

struct Inner {
    shared: Arc<Shared>,
}

impl Drop for Inner {
    fn drop(&mut self) {
        self.shared.with(|state| state.mux.drain());
    }
}

/// A channel that the peer opened. Dropping it refuses the channel.
#[derive(Debug)]
pub struct Incoming {
    shared: Arc<Shared>,
    key: Option<Key>,
    request: Bytes,
    sends: bool,
    receives: bool,
}

impl Connection {
    /// Greets the peer over a byte stream and starts the two loops that move bytes.
    ///
    /// Cancel safety: a dropped `start` ends the connection.
    ///
    /// # Panics
    /// Outside of a tokio runtime: also with [`Options::driver`], since the limit of the handshake is kept by the
    /// current one, which needs its time enabled, as the driver's does.
    pub async fn start(
        reader: impl AsyncRead + Send + 'static,
        writer: impl AsyncWrite + Send + 'static,
        role: Role,
        options: Options,
    ) -> Result<Connection, ConnectionError> {
        let driver = options.driver.clone().unwrap_or_else(Handle::current);
        let shared = Arc::new(Shared::new(Mux::new(role, options.config, Instant::now())));
        let connection = Connection { inner: Arc::new(Inner { shared: shared.clone() }) };
        driver.spawn(driver::read_loop(shared.clone(), reader));
        driver.spawn(driver::write_loop(shared.clone(), Writer::new(writer, Some(driver.clone()))));
        let ready = driver::wait(&shared, List::Change, |state| match state.mux.cause() {
            Some(cause) => Some(Err(cause.clone())),
            None => state.mux.is_ready().then_some(Ok(())),
        });
        let mut guard = AbortUnlessReady(Some(&shared));
        match tokio::time::timeout(options.handshake_limit, ready).await {
            Ok(ready) => ready?,
            Err(_) => {
                let cause = ConnectionError::from(HandshakeError::Timeout { after: options.handshake_limit });
                shared.with(|state| state.mux.end(cause.clone()));
                return Err(cause);
            }
        }
        guard.0 = None;
        Ok(connection)
    }

    /// Opens a channel that sends `S`s and receives `R`s; `request` (at most 1 KiB) tells the peer what it is for. Waits
    /// while the peer's limit of channels is reached; not for the peer to accept.
    ///
    /// Cancel safety: a dropped `open` has opened nothing.
    pub async fn open<S, R>(&self, request: impl Into<Bytes>) -> Result<Channel<S, R>, OpenError>
    where
        Cbor: Codec<S> + Codec<R>,
    {
        self.open_with::<S, R, Cbor>(request).await
    }

    /// As [`open`](Self::open), with the codec `C`.
    pub async fn open_with<S, R, C>(&self, request: impl Into<Bytes>) -> Result<Channel<S, R, C>, OpenError>
    where
        C: Codec<S> + Codec<R>,
    {
        self.open_by(request.into(), |mux, request| mux.open(true, true, request)).await
    }

    /// As [`open`](Self::open), also of what [`Config::kept_back`] leaves: for the few channels without which nothing could be
    /// done about all the others.
    pub async fn open_kept_back<S, R>(&self, request: impl Into<Bytes>) -> Result<Channel<S, R>, OpenError>
    where
        Cbor: Codec<S> + Codec<R>,
    {
        self.open_by(request.into(), |mux, request| mux.open_kept_back(true, true, request)).await
    }

    async fn open_by<S, R, C: Codec<S> + Codec<R>>(
        &self,
        request: Bytes,
        open: impl Fn(&mut Mux, Bytes) -> Result<Key, OpenFault>,
    ) -> Result<Channel<S, R, C>, OpenError> {
        if request.len() > MAX_REQUEST {
            return Err(OpenError::RequestTooLong { len: request.len() });
        }
        let shared = &self.inner.shared;
        let opened = driver::wait_to_send(shared, List::Capacity, |state| {
            match open(&mut state.mux, request.clone()) {
                Ok(key) => {
                    state.forget(key);
                    Some(Ok(key))
                }
                Err(OpenFault::Full) => None,
                Err(OpenFault::Draining) => Some(Err(OpenError::Draining)),
                Err(OpenFault::Lost(cause)) => Some(Err(OpenError::Lost(cause))),
            }
        });
        let key = opened.await?;
        Ok(Channel::new(shared.clone(), key))
    }

    /// Two ends, one sending and one receiving, both here until one of them travels inside a message.
    ///
    /// Making them needs nothing of the peer. The message in which one travels does: it opens a channel, so its send waits while
    /// as many are open as the peer allows ([`Config::max_channels`]), and [`Sender::try_send`] finds no room.
    pub fn pair<T>(&self) -> (Sender<T>, Receiver<T>)
    where
        Cbor: Codec<T>,
    {
        self.pair_with()
    }

    /// As [`pair`](Self::pair), with the codec `C`.
    pub fn pair_with<T, C: Codec<T>>(&self) -> (Sender<T, C>, Receiver<T, C>) {
        let (here, there) = self.link(true, false);
        let shared = &self.inner.shared;
        (
            Sender::new(SendEnd { shared: shared.clone(), key: here }),
            Receiver::new(RecvEnd::new(shared.clone(), there)),
        )
    }

    /// Two ends of a channel with both directions, both here until one of them travels inside a message; see
    /// [`pair`](Self::pair).
    pub fn channel_pair<S, R>(&self) -> (Channel<S, R>, Channel<R, S>)
    where
        Cbor: Codec<S> + Codec<R>,
    {
        self.channel_pair_with()
    }

    /// As [`channel_pair`](Self::channel_pair), with the codec `C`.
    pub fn channel_pair_with<S, R, C: Codec<S> + Codec<R>>(&self) -> (Channel<S, R, C>, Channel<R, S, C>) {
        let (here, there) = self.link(true, true);
        let shared = &self.inner.shared;
        (Channel::new(shared.clone(), here), Channel::new(shared.clone(), there))
    }

    fn link(&self, forward: bool, backward: bool) -> (Key, Key) {
        self.inner.shared.with(|state| {
            let (here, there) = state.mux.pair(forward, backward);
            state.forget(here);
            state.forget(there);
            (here, there)
        })
    }

    /// Waits for a channel that the peer opens. `None` once there will be none: one side is closing the connection, or it
    /// ended.
    ///
    /// Cancel safety: nothing is lost.
    pub async fn accept(&self) -> Option<Incoming> {
        let shared = &self.inner.shared;
        driver::wait(shared, List::Incoming, |state| {
            if let Some((key, request, sends, receives)) = state.mux.accept() {
                state.forget(key);
                let shared = shared.clone();
                return Some(Some(Incoming { shared, key: Some(key), request, sends, receives }));
            }
            (!state.mux.may_come()).then_some(None)
        })
        .await
    }

    /// Closes the connection in order: no more channels; when the last one has ended on both sides, the byte stream ends.
    /// Returns how the connection ended.
    ///
    /// That waits for the channels of this side, too: one that is still in scope where `close` is awaited, an
    /// [`Incoming`] not yet taken, or a handle kept by another task keeps the connection open, for ever if nobody drops or
    /// ends it. Drop them first, or [`abort`](Self::abort). Both ends of a [`pair`](Self::pair) here count for nothing.
    ///
    /// Cancel safety: a dropped `close` goes on closing.
    pub async fn close(&self) -> ConnectionError {
        self.inner.shared.with(|state| state.mux.drain());
        self.ended().await
    }

    /// Ends the connection at once; every channel of both sides reports it, with this reason, of which the peer is told at most
    /// 8 KiB. What was sent and not yet delivered may be lost. If the byte stream takes nothing, the peer is not told after
    /// two seconds.
    pub fn abort(&self, reason: &str) {
        self.inner.shared.with(|state| state.mux.abort(reason));
    }

    /// Waits for the end of the connection and returns its cause.
    ///
    /// Cancel safety: nothing is lost.
    pub async fn ended(&self) -> ConnectionError {
        driver::wait(&self.inner.shared, List::Change, |state| state.mux.cause().cloned()).await
    }

    /// Why the connection ended, if it did.
    pub fn cause(&self) -> Option<ConnectionError> {
        self.inner.shared.with(|state| state.mux.cause().cloned())
    }

    /// The measured round trip to the peer, once there is one.
    pub fn round_trip(&self) -> Option<Duration> {
        self.inner.shared.with(|state| state.mux.round_trip())
    }

    /// Asks the peer for a sign of life now, which also measures the round trip.
    pub fn ping(&self) {
        self.inner.shared.with(|state| state.mux.ping());
    }

    /// What the connection has moved since it began.
    pub fn counters(&self) -> Counters {
        self.inner.shared.with(|state| state.counters())
    }

    /// Whether all that was sent on any channel, and that channels were closed, is in the byte stream: nothing waits for its turn or
    /// for the peer to receive.
    pub fn is_flushed(&self) -> bool {
        self.inner.shared.with(|state| state.is_flushed())
    }

    /// Bytes of messages that this side holds now, and channels that it knows.
    pub fn held(&self) -> (u64, usize) {
        self.inner.shared.with(|state| (state.mux.memory(), state.mux.channels()))
    }
}

impl std::fmt::Debug for Connection {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Connection").field("cause", &self.cause()).finish_non_exhaustive()
    }
}

struct AbortUnlessReady<'a>(Option<&'a Arc<Shared>>);

impl Drop for AbortUnlessReady<'_> {
    fn drop(&mut self) {
        if let Some(shared) = self.0 {
            shared.with(|state| state.mux.abort("the connection was given up before it was ready"));
        }
    }
}

impl Incoming {
    /// What the peer said the channel is for.
    pub fn request(&self) -> &Bytes {
        &self.request
    }

    /// Takes the channel.
    pub fn accept<S, R>(self) -> Channel<S, R>
    where
        Cbor: Codec<S> + Codec<R>,
    {
        self.accept_with::<S, R, Cbor>()
    }

    /// Takes the channel, with the codec `C`.
    pub fn accept_with<S, R, C: Codec<S> + Codec<R>>(mut self) -> Channel<S, R, C> {
        let key = self.key.take().expect("only taking or dropping it takes the key");
        Channel::new(self.shared.clone(), key)
    }

    /// Refuses the channel: the peer's sends and receives report the error, of which at most 8 KiB are sent.
    pub fn refuse(mut self, error: impl AsRef<[u8]>) {
        self.refuse_with(error.as_ref());
    }

    fn refuse_with(&mut self, error: &[u8]) {
        if let Some(key) = self.key.take() {
            self.shared.with(|state| state.mux.refuse(key, error));
        }
    }

    /// Whether the peer receives, and whether it sends.
    pub fn directions(&self) -> (bool, bool) {
        (self.sends, self.receives)
    }
}

impl Drop for Incoming {
    fn drop(&mut self) {
        self.refuse_with(b"the channel was refused");
    }
}
