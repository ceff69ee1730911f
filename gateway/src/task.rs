//! What a task is: a function whose signature says what crosses the wire.

use std::error::Error;
use std::future::Future;
use std::marker::PhantomData;
use std::pin::Pin;

use farcall_channel::{Channel, Codec, Receiver, Sender};
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::context::Context;
use crate::failure::Failure;

/// What may cross the wire: any serde type that owns what it holds. Ends of channels are such types too.
#[diagnostic::on_unimplemented(
    message = "`{Self}` cannot cross the wire",
    note = "it must implement `Serialize` and `Deserialize` without borrowing, be `Send` and `'static`"
)]
pub trait Message: Serialize + DeserializeOwned + Send + 'static {}

impl<T: Serialize + DeserializeOwned + Send + 'static> Message for T {}

/// A value that a task returns as it is, without `Result`.
///
/// Numbers, text, the collections of the standard library, tuples, and ends of channels are. For a type of your own,
/// say so: then nothing has to be guessed about types that are both a result and a serde type.
///
/// ```
/// #[derive(serde::Serialize, serde::Deserialize)]
/// struct Hit {
///     line: u64,
/// }
///
/// impl farcall::Plain for Hit {}
/// ```
#[diagnostic::on_unimplemented(
    message = "a task cannot return `{Self}` as it is",
    note = "return a `Result`, or write `impl farcall::Plain for {Self} {{}}`"
)]
pub trait Plain: Message {}

/// What a task returns: a [`Plain`] value, or a `Result` of any serde value and any error.
///
/// The error needs not be serde: what crosses is its message, and those of its sources ([`Failure`]).
#[diagnostic::on_unimplemented(
    message = "a task cannot return `{Self}`",
    note = "a task returns a value that implements `farcall::Plain`, or a `Result` whose value is a serde type and whose error \
            converts into `Box<dyn Error + Send + Sync>`"
)]
pub trait Outcome: Send + 'static {
    /// What the caller gets if all is well.
    type Value: Message;

    /// The value, or what is told about the error.
    ///
    /// # Errors
    /// The task's own.
    fn into_result(self) -> Result<Self::Value, Failure>;
}

impl<T: Plain> Outcome for T {
    type Value = T;

    fn into_result(self) -> Result<T, Failure> {
        Ok(self)
    }
}

impl<T, E> Outcome for Result<T, E>
where
    T: Message,
    E: Into<Box<dyn Error + Send + Sync>> + Send + 'static,
{
    type Value = T;

    fn into_result(self) -> Result<T, Failure> {
        self.map_err(|error| Failure::of::<E>(&*error.into()))
    }
}

macro_rules! plain {
    ($($type:ty),* $(,)?) => { $(impl Plain for $type {})* };
}

plain!(
    (),
    bool,
    char,
    String,
    u8,
    u16,
    u32,
    u64,
    u128,
    usize,
    i8,
    i16,
    i32,
    i64,
    i128,
    isize,
    f32,
    f64,
    std::ffi::OsString,
    std::ffi::CString,
    std::path::PathBuf,
    std::time::Duration,
    std::time::SystemTime,
    std::net::IpAddr,
    std::net::Ipv4Addr,
    std::net::Ipv6Addr,
    std::net::SocketAddr,
);

impl<T> Plain for Vec<T> where Vec<T>: Message {}
impl<T> Plain for std::collections::VecDeque<T> where Self: Message {}
impl<T> Plain for std::collections::BTreeSet<T> where Self: Message {}
impl<T, S> Plain for std::collections::HashSet<T, S> where Self: Message {}
impl<K, V> Plain for std::collections::BTreeMap<K, V> where Self: Message {}
impl<K, V, S> Plain for std::collections::HashMap<K, V, S> where Self: Message {}
impl<T> Plain for Option<T> where Self: Message {}
impl<T> Plain for Box<T> where Self: Message {}
impl<T, C: Codec<T> + 'static> Plain for Sender<T, C> where Self: Message {}
impl<T, C: Codec<T> + 'static> Plain for Receiver<T, C> where Self: Message {}
impl<S, R, C: Codec<S> + Codec<R> + 'static> Plain for Channel<S, R, C> where Self: Message {}

/// How a task's code runs in the worker.
#[doc(hidden)]
pub enum Work<V> {
    /// On the worker's runtime.
    Async(Pin<Box<dyn Future<Output = Result<V, Failure>> + Send>>),
    /// On a thread that may block.
    Blocking(Box<dyn FnOnce() -> Result<V, Failure> + Send>),
}

impl<V> std::fmt::Debug for Work<V> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Work::Async(_) => "Async",
            Work::Blocking(_) => "Blocking",
        })
    }
}

/// A function that a worker can run for a coordinator.
///
/// Implemented for functions of up to eight [`Message`]s, with or without a [`Context`] before them, that return an
/// [`Outcome`]: `async fn`s, which run on the worker's runtime, and plain `fn`s, which run on threads that may block, as many
/// at once as the worker has slots. `M` tells these forms apart and is inferred.
#[diagnostic::on_unimplemented(
    message = "`{Self}` is not a task",
    note = "a task is an `async fn` or `fn` item that takes up to eight serde values, with or without a `farcall::Context` before \
            them, and returns a `Result`, or a value that implements `farcall::Plain`; the future must be `Send`"
)]
pub trait Task<M>: Copy + Send + Sync + 'static {
    /// The arguments, as a tuple.
    type Args: Message;
    /// What the caller gets if all is well.
    type Value: Message;

    /// Whether it asks for a [`Context`], which a process has that is connected.
    #[doc(hidden)]
    const HAS_CONTEXT: bool;

    /// The call itself. The context is made if the function asks for one.
    #[doc(hidden)]
    fn work(self, cx: impl FnOnce() -> Context, args: Self::Args) -> Work<Self::Value>;
}

/// The form of a task: `async` or not, with a [`Context`] or not, and its arguments.
#[derive(Debug)]
pub struct Form<K, A>(PhantomData<fn(K, A)>);

/// An `async fn`.
#[derive(Debug)]
pub enum Async {}
/// An `async fn` that takes a [`Context`].
#[derive(Debug)]
pub enum AsyncWithContext {}
/// An `fn`.
#[derive(Debug)]
pub enum Blocking {}
/// An `fn` that takes a [`Context`].
#[derive(Debug)]
pub enum BlockingWithContext {}

macro_rules! tasks {
    ($($arg:ident $value:ident),*) => {
        impl<F, Fut, O, $($arg),*> Task<Form<Async, ($($arg,)*)>> for F
        where
            F: Fn($($arg),*) -> Fut + Copy + Send + Sync + 'static,
            Fut: Future<Output = O> + Send + 'static,
            O: Outcome,
            $($arg: Message,)*
        {
            type Args = ($($arg,)*);
            type Value = O::Value;

            const HAS_CONTEXT: bool = false;

            fn work(self, _: impl FnOnce() -> Context, ($($value,)*): Self::Args) -> Work<O::Value> {
                Work::Async(Box::pin(async move { self($($value),*).await.into_result() }))
            }
        }

        impl<F, Fut, O, $($arg),*> Task<Form<AsyncWithContext, ($($arg,)*)>> for F
        where
            F: Fn(Context, $($arg),*) -> Fut + Copy + Send + Sync + 'static,
            Fut: Future<Output = O> + Send + 'static,
            O: Outcome,
            $($arg: Message,)*
        {
            type Args = ($($arg,)*);
            type Value = O::Value;

            const HAS_CONTEXT: bool = true;

            fn work(self, cx: impl FnOnce() -> Context, ($($value,)*): Self::Args) -> Work<O::Value> {
                let cx = cx();
                Work::Async(Box::pin(async move { self(cx, $($value),*).await.into_result() }))
            }
        }

        impl<F, O, $($arg),*> Task<Form<Blocking, ($($arg,)*)>> for F
        where
            F: Fn($($arg),*) -> O + Copy + Send + Sync + 'static,
            O: Outcome,
            $($arg: Message,)*
        {
            type Args = ($($arg,)*);
            type Value = O::Value;

            const HAS_CONTEXT: bool = false;

            fn work(self, _: impl FnOnce() -> Context, ($($value,)*): Self::Args) -> Work<O::Value> {
                Work::Blocking(Box::new(move || self($($value),*).into_result()))
            }
        }

        impl<F, O, $($arg),*> Task<Form<BlockingWithContext, ($($arg,)*)>> for F
        where
            F: Fn(Context, $($arg),*) -> O + Copy + Send + Sync + 'static,
            O: Outcome,
            $($arg: Message,)*
        {
            type Args = ($($arg,)*);
            type Value = O::Value;

            const HAS_CONTEXT: bool = true;

            fn work(self, cx: impl FnOnce() -> Context, ($($value,)*): Self::Args) -> Work<O::Value> {
                let cx = cx();
                Work::Blocking(Box::new(move || self(cx, $($value),*).into_result()))
            }
        }
    };
}

tasks!();
tasks!(A a);
tasks!(A a, B b);
tasks!(A a, B b, C c);
tasks!(A a, B b, C c, D d);
tasks!(A a, B b, C c, D d, E e);
tasks!(A a, B b, C c, D d, E e, G g);
tasks!(A a, B b, C c, D d, E e, G g, H h);
tasks!(A a, B b, C c, D d, E e, G g, H h, I i);

/// Arguments of which the first is a channel: what [`Gateway::open`](crate::Gateway::open) can supply.
pub trait ChannelFirst: Message {
    /// What the task sends.
    type Sends: Message;
    /// What the task receives.
    type Receives: Message;
    /// The other arguments.
    type Rest: Send + 'static;

    /// All of them.
    #[doc(hidden)]
    fn with_channel(channel: Channel<Self::Sends, Self::Receives>, rest: Self::Rest) -> Self;
}

macro_rules! channel_first {
    ($($arg:ident $value:ident),*) => {
        impl<Out: Message, In: Message, $($arg: Message),*> ChannelFirst for (Channel<Out, In>, $($arg,)*) {
            type Sends = Out;
            type Receives = In;
            type Rest = ($($arg,)*);

            fn with_channel(channel: Channel<Out, In>, ($($value,)*): Self::Rest) -> Self {
                (channel, $($value,)*)
            }
        }
    };
}

channel_first!();
channel_first!(A a);
channel_first!(A a, B b);
channel_first!(A a, B b, C c);
channel_first!(A a, B b, C c, D d);
channel_first!(A a, B b, C c, D d, E e);
channel_first!(A a, B b, C c, D d, E e, G g);
channel_first!(A a, B b, C c, D d, E e, G g, H h);

macro_rules! plain_tuples {
    ($($arg:ident),+) => {
        impl<$($arg),+> Plain for ($($arg,)+) where Self: Message {}
    };
}

plain_tuples!(A);
plain_tuples!(A, B);
plain_tuples!(A, B, C);
plain_tuples!(A, B, C, D);
plain_tuples!(A, B, C, D, E);
plain_tuples!(A, B, C, D, E, G);
plain_tuples!(A, B, C, D, E, G, H);
plain_tuples!(A, B, C, D, E, G, H, I);
