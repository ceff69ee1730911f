//! One live worker, as its coordinator holds it.

use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{Arc, OnceLock};
use std::task::{Context, Waker};
use std::time::{Duration, Instant};

use farcall_bootstrap::Delivery;
use farcall_bootstrap::artifact::Artifact;
use farcall_bootstrap::platform::Platform;
use farcall_channel::{
    Cbor, Channel, Codec, Connection, Counters, OpenError as ChannelOpenError, Receiver, RecvError, Sender,
};
use tokio::runtime::Handle;
use tokio::sync::{Notify, watch};
use tokio::task::JoinSet;

use crate::call::{self, Call, CallError, TaskHandle};
use crate::end::{self, GatewayEnd};
use crate::host::{Info, Status};
use crate::ids::Id;
use crate::isolated::Pool;
use crate::open::{Builder, OpenError};
use crate::output::{Output, Prints};
use crate::process::Command;
use crate::role::Life;
use crate::spec::Spec;
use crate::task::{ChannelFirst, Message, Task};
use crate::tasks::Tasks;
use crate::via::{Hub, Via};
use crate::wire::Request;

/// A live worker: the handle through which a coordinator uses it.
///
/// Cloning is cheap; all clones are one gateway. When the last is dropped, and no [`Call`] or [`Child`](crate::Child) is left,
/// the worker is ended with all that it started, as by [`exit`](Self::exit). [`close`](Self::close) lets it finish first.
///
/// ```no_run
/// use farcall::{Gateway, Spec};
/// # async fn square(n: u64) -> u64 { n * n }
///
/// # async fn example() -> Result<(), Box<dyn std::error::Error>> {
/// // After farcall::init(Tasks::new().add(square)) at the beginning of main.
/// let gateway = Gateway::open(&Spec::ssh("web1")).await?;
/// assert_eq!(gateway.call(square, (7,)).await?, 49);
/// let output = gateway.command("uname").arg("-a").output().await?;
/// println!("{}", String::from_utf8_lossy(&output.stdout));
/// # Ok(())
/// # }
/// ```
#[derive(Clone)]
pub struct Gateway {
    inner: Arc<Inner>,
}

pub(crate) struct Inner {
    pub(crate) id: Id,
    pub(crate) place: Arc<str>,
    pub(crate) connection: Connection,
    pub(crate) end: watch::Receiver<Option<Arc<GatewayEnd>>>,
    pub(crate) kill: Arc<Notify>,
    /// Whether this side has asked for the end.
    pub(crate) asked: Arc<AtomicBool>,
    pub(crate) prints: Arc<Prints>,
    pub(crate) platform: Option<Platform>,
    pub(crate) delivery: Delivery,
    pub(crate) pid: OnceLock<u32>,
    pub(crate) tasks: Arc<Tasks>,
    /// What it was opened by: others are opened by it in its place.
    pub(crate) origin: Builder,
    pub(crate) driver: Handle,
    pub(crate) life: Life,
    /// The program that the worker runs, where its bytes are known.
    pub(crate) image: Option<Artifact>,
    pub(crate) hub: Option<Hub>,
    pub(crate) via: Via,
    /// Its processes for isolated tasks, which do not keep it alive.
    pub(crate) isolated: Pool,
}

impl Drop for Inner {
    fn drop(&mut self) {
        self.exit("the coordinator is done with it");
    }
}

impl Inner {
    /// Waits for the end, which is near, and returns it.
    pub(crate) async fn ended(&self) -> Arc<GatewayEnd> {
        let unknown = || {
            GatewayEnd::unknown(Arc::clone(self.id.text()), Arc::clone(&self.place), self.connection.cause())
        };
        end::told(&self.end, unknown).await
    }

    /// The end of a gateway that opens no more channels, which is brought about if only the worker has said so.
    pub(crate) async fn gone(&self) -> Arc<GatewayEnd> {
        if !self.asked.load(Relaxed) {
            self.connection.abort("the worker takes no more");
        }
        self.ended().await
    }

    /// Has the worker end when all that it has sent is here.
    fn finish(&self) {
        self.asked.store(true, Relaxed);
        let connection = self.connection.clone();
        // Ends with the connection, also if nobody waits for that any more.
        self.driver.spawn(async move {
            let last: Result<Channel<(), ()>, _> = connection.open_kept_back(Request::End.to_bytes()).await;
            connection.ended().await;
            drop(last);
        });
    }

    fn exit(&self, reason: &str) {
        self.asked.store(true, Relaxed);
        self.connection.abort(reason);
    }
}

impl Gateway {
    pub(crate) fn new(inner: Inner) -> Gateway {
        Gateway { inner: Arc::new(inner) }
    }

    pub(crate) fn of(inner: Arc<Inner>) -> Gateway {
        Gateway { inner }
    }

    pub(crate) fn inner(&self) -> &Arc<Inner> {
        &self.inner
    }

    /// Starts a worker and connects to it.
    ///
    /// Needs [`init`](crate::init) to have been called. Works on any runtime; the connection is driven by a thread of its own.
    ///
    /// Cancel safety: what a dropped `open` has started is ended.
    ///
    /// # Errors
    /// See [`OpenError`].
    pub async fn open(spec: &Spec) -> Result<Gateway, OpenError> {
        Gateway::builder(spec.clone()).open().await
    }

    /// Describes a gateway in more ways than a spec can.
    pub fn builder(spec: Spec) -> Builder {
        Builder::new(spec)
    }

    /// Its id: the spec's, or `gw0`, `gw1`, …
    pub fn id(&self) -> &str {
        self.inner.id.text()
    }

    /// Where the worker runs, as the spec names it.
    pub fn place(&self) -> &str {
        &self.inner.place
    }

    /// The number of the worker's process, there.
    pub fn pid(&self) -> u32 {
        // A gateway is handed out only after the worker has told it.
        self.inner.pid.get().copied().unwrap_or_default()
    }

    /// The worker's platform, where the place told it.
    pub fn platform(&self) -> Option<&Platform> {
        self.inner.platform.as_ref()
    }

    /// The gateway from whose host it was started, if that was not this one.
    pub fn hub(&self) -> Option<Gateway> {
        self.inner.hub.as_ref().and_then(Hub::gateway)
    }

    /// How the worker's program came to where it runs.
    pub fn delivery(&self) -> Delivery {
        self.inner.delivery
    }

    /// Runs a task there and returns its value.
    ///
    /// The task must be in the list that was handed to [`init`](crate::init). While as many run as the worker may run at once,
    /// this waits for its turn.
    ///
    /// Cancel safety: dropping it cancels the task, which is dropped where it waits. A task that computes or blocks meanwhile
    /// cannot be stopped; it can ask [`Context::is_cancelled`](crate::Context::is_cancelled).
    ///
    /// # Errors
    /// What the task returned, that it panicked, or that it could not be run: see [`CallError`].
    pub async fn call<F: Task<M>, M>(&self, task: F, args: F::Args) -> Result<F::Value, CallError> {
        self.start(task, args).await?.await
    }

    /// Hands a task its arguments, and returns when they were taken.
    ///
    /// Cancel safety: as of [`call`](Self::call).
    ///
    /// # Errors
    /// That the arguments could not be sent: see [`CallError`].
    pub async fn start<F: Task<M>, M>(&self, task: F, args: F::Args) -> Result<Call<F::Value>, CallError> {
        call::start(&self.inner, task, args).await
    }

    /// Starts a task whose first argument is a channel, and holds the other end: `args` are the other arguments.
    ///
    /// Cancel safety: dropping it cancels the task if it was started.
    ///
    /// ```no_run
    /// # use farcall::{Channel, Gateway};
    /// async fn echo(mut channel: Channel<String, String>) -> Result<u64, farcall::BoxError> {
    ///     let mut count = 0;
    ///     while let Some(line) = channel.recv().await? {
    ///         channel.send(line).await?;
    ///         count += 1;
    ///     }
    ///     Ok(count)
    /// }
    ///
    /// # async fn example(gateway: Gateway) -> Result<(), Box<dyn std::error::Error>> {
    /// let mut task = gateway.open_task(echo, ()).await?;
    /// task.send("hello".into()).await?;
    /// task.close_sending();
    /// while let Some(line) = task.recv().await? {
    ///     println!("{line}");
    /// }
    /// assert_eq!(task.value().await?, 1);
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// As [`start`](Self::start).
    pub async fn open_task<F, M>(
        &self,
        task: F,
        args: <F::Args as ChannelFirst>::Rest,
    ) -> Result<
        TaskHandle<<F::Args as ChannelFirst>::Receives, <F::Args as ChannelFirst>::Sends, F::Value>,
        CallError,
    >
    where
        F: Task<M>,
        F::Args: ChannelFirst,
    {
        let (ours, theirs) = self.inner.connection.channel_pair();
        let call = self.start(task, F::Args::with_channel(theirs, args)).await?;
        Ok(TaskHandle::new(ours, call))
    }

    /// Two ends of a new channel, one of which is to travel: in the arguments of a task, or through another channel.
    pub fn pair<T>(&self) -> (Sender<T>, Receiver<T>)
    where
        Cbor: Codec<T>,
    {
        self.inner.connection.pair()
    }

    /// Two ends of a new channel of both directions.
    pub fn channel<S, R>(&self) -> (Channel<S, R>, Channel<R, S>)
    where
        Cbor: Codec<S> + Codec<R>,
    {
        self.inner.connection.channel_pair()
    }

    /// As [`pair`](Self::pair), with the codec `C`: with [`Raw`](crate::Raw) a stream of bytes in one direction.
    ///
    /// ```no_run
    /// # use farcall::{Gateway, Raw, Receiver};
    /// use farcall::channel::ByteReader;
    /// use tokio::io::{AsyncReadExt, AsyncWriteExt};
    ///
    /// async fn size(input: Receiver<bytes::Bytes, Raw>) -> std::io::Result<u64> {
    ///     tokio::io::copy(&mut input.into_reader(), &mut tokio::io::sink()).await
    /// }
    ///
    /// # async fn example(gateway: Gateway) -> Result<(), Box<dyn std::error::Error>> {
    /// let (input, theirs) = gateway.pair_with::<bytes::Bytes, Raw>();
    /// let sizing = gateway.start(size, (theirs,)).await?;
    /// input.into_writer().write_all(b"twelve bytes").await?;
    /// assert_eq!(sizing.await?, 12);
    /// # Ok(())
    /// # }
    /// ```
    pub fn pair_with<T, C: Codec<T>>(&self) -> (Sender<T, C>, Receiver<T, C>) {
        self.inner.connection.pair_with()
    }

    /// As [`channel`](Self::channel), with the codec `C`.
    pub fn channel_with<S, R, C: Codec<S> + Codec<R>>(&self) -> (Channel<S, R, C>, Channel<R, S, C>) {
        self.inner.connection.channel_pair_with()
    }

    /// A command to run there.
    pub fn command(&self, program: impl Into<std::ffi::OsString>) -> Command {
        Command::new(Arc::clone(&self.inner), program.into())
    }

    /// The worker's process and machine. Answered also while all of the worker's threads compute.
    ///
    /// Cancel safety: nothing is lost; it may be asked again.
    ///
    /// # Errors
    /// [`CallError::Ended`] above all.
    pub async fn info(&self) -> Result<Info, CallError> {
        self.ask(Request::Info).await
    }

    /// What the worker is doing. Answered also while all of its threads compute.
    ///
    /// Cancel safety: nothing is lost; it may be asked again.
    ///
    /// # Errors
    /// [`CallError::Ended`] above all.
    pub async fn status(&self) -> Result<Status, CallError> {
        self.ask(Request::Status).await
    }

    /// Asks the worker for an answer, and returns how long that took.
    ///
    /// Cancel safety: nothing is lost; it may be asked again.
    ///
    /// # Errors
    /// [`CallError::Ended`] above all.
    pub async fn ping(&self) -> Result<Duration, CallError> {
        let asked = Instant::now();
        self.status().await?;
        Ok(asked.elapsed())
    }

    /// The round trip as measured by the connection itself, once it has measured one.
    pub fn round_trip(&self) -> Option<Duration> {
        self.inner.connection.round_trip()
    }

    /// What the connection has moved since it began, in messages and bytes. A leaf's bytes are its hub's too.
    pub fn counters(&self) -> Counters {
        self.inner.connection.counters()
    }

    /// What the worker's tasks, and what they started, print: to standard output and error.
    ///
    /// Whoever prints waits for whoever reads this, as long as it lives; without a reader the last 64 KiB are kept. Several
    /// readers share what comes.
    pub fn output(&self) -> Output {
        self.inner.prints.read()
    }

    async fn ask<T: Message>(&self, request: Request<'_>) -> Result<T, CallError> {
        // Answered also while calls have taken all channels.
        let channel = self.inner.connection.open_kept_back(request.to_bytes()).await;
        let mut channel: Channel<(), T> = match channel {
            Ok(channel) => channel,
            Err(ChannelOpenError::RequestTooLong { .. }) => return Err(CallError::NoReply),
            Err(ChannelOpenError::Draining | ChannelOpenError::Lost(_) | _) => {
                return Err(CallError::Ended(self.inner.gone().await));
            }
        };
        match channel.recv().await {
            Ok(Some(answer)) => Ok(answer),
            Ok(None) => Err(CallError::NoReply),
            Err(RecvError::Remote(reason)) => Err(CallError::Refused(reason.text().into_owned())),
            Err(RecvError::Codec(error)) => Err(CallError::Reply(error)),
            Err(_) => Err(CallError::Ended(self.inner.ended().await)),
        }
    }

    /// Whether the gateway has ended, and how.
    pub fn end(&self) -> Option<Arc<GatewayEnd>> {
        self.inner.end.borrow().clone()
    }

    /// Waits for the gateway to end, for whatever reason.
    ///
    /// Cancel safety: nothing is lost; it may be called again.
    pub async fn wait(&self) -> Arc<GatewayEnd> {
        self.inner.ended().await
    }

    /// Ends the gateway now. Every call ends with [`CallError::Ended`]; the worker drops its tasks, kills what it started and
    /// ends, within its grace. Harmless when the gateway has ended. [`wait`](Self::wait) waits for the worker's end.
    ///
    /// The leaves of a hub are ended before it, and until they have ended, within their graces, the hub takes no new work.
    pub fn exit(&self) {
        const REASON: &str = "the coordinator ended it";
        let leaves = self.inner.via.leaves();
        if leaves.is_empty() {
            return self.inner.exit(REASON);
        }
        self.inner.asked.store(true, Relaxed);
        leaves.iter().for_each(Gateway::exit);
        let connection = self.inner.connection.clone();
        let closing = connection.clone();
        let mut closing = Box::pin(async move { closing.close().await });
        // From here on nothing new begins.
        let _ = closing.as_mut().poll(&mut Context::from_waker(Waker::noop()));
        // Ends when the leaves have ended, which is bounded for each.
        self.inner.driver.spawn(async move {
            let ended = async {
                for leaf in leaves {
                    leaf.wait().await;
                }
            };
            tokio::select! {
                _ = closing => {}
                () = ended => connection.abort(REASON),
            }
        });
    }

    /// Kills the worker's process. What it started is killed by its guardian.
    pub fn kill(&self) {
        self.inner.kill.notify_one();
    }

    /// Lets the worker finish: waits until its tasks and commands have ended and all that they sent and printed is here,
    /// then ends it. A hub's leaves are closed before it in the same way.
    ///
    /// What is here can be received afterwards: the values of calls, the output of commands. Only what is longer than the window
    /// of its channel, 64 KiB at first, is sent while somebody receives it, and this waits for that.
    ///
    /// Cancel safety: a dropped `close` has no effect, unless all had ended already, but on leaves that have finished.
    ///
    /// # Errors
    /// That the gateway ended before, or was lost meanwhile.
    pub async fn close(&self) -> Result<(), Arc<GatewayEnd>> {
        let mut leaves = JoinSet::new();
        for leaf in self.inner.via.leaves() {
            leaves.spawn_on(leaf.into_closed(), &self.inner.driver);
        }
        // How they ended is told by their own handles.
        while leaves.join_next().await.is_some() {}
        match self.ask::<()>(Request::Finish).await {
            Ok(()) => {
                self.inner.finish();
                let end = self.wait().await;
                if end.class().is_none() { Ok(()) } else { Err(end) }
            }
            Err(CallError::Ended(end)) => Err(end),
            // A worker that cannot say when it has finished is not waited for, and has not finished.
            Err(_) => Err(self.inner.gone().await),
        }
    }

    fn into_closed(self) -> Pin<Box<dyn Future<Output = ()> + Send>> {
        Box::pin(async move { drop(self.close().await) })
    }
}

impl std::fmt::Debug for Gateway {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Gateway")
            .field("id", &self.id())
            .field("place", &self.place())
            .field("end", &self.end())
            .finish_non_exhaustive()
    }
}
