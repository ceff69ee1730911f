//! What is asked of a map before it starts.

use std::borrow::Borrow;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use farcall_channel::{Cbor, Codec};
use futures_core::Stream;

use super::drive::{self, Shared};
use super::fault::OnError;
use super::intake::{self, Encoded, Iterate};
use super::isolation::Isolation;
use super::results::{Decode, Map};
use super::schedule::Rules;
use super::stream::Plan;
use crate::gateway::Gateway;
use crate::task::{Message, Task};
use crate::tasks::name_of;

/// Why a map was not started. Nothing was sent, and no input was taken.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum MapError {
    /// It has no gateways.
    #[error("a map needs at least one gateway")]
    NoGateways,
    /// The task is not in the list that was handed to [`init`](crate::init).
    #[error("task {name} is not in the list that was handed to farcall::init")]
    UnknownTask {
        /// Its name.
        name: &'static str,
    },
    /// The system gives no thread for the inputs.
    #[error("cannot start a thread for the inputs of a map")]
    Thread(#[source] io::Error),
}

/// What can be an input of a task with these arguments: all of them as a tuple, or for a task of one argument that one itself.
#[diagnostic::on_unimplemented(
    message = "`{Self}` is no input of a task with the arguments `{Args}`",
    note = "an input is a tuple of all arguments, or the only one itself"
)]
pub trait Input<Args>: Send + 'static {
    /// The arguments.
    #[doc(hidden)]
    fn into_args(self) -> Args;
}

impl<A: Send + 'static> Input<(A,)> for A {
    #[inline]
    fn into_args(self) -> (A,) {
        (self,)
    }
}

macro_rules! inputs {
    ($($arg:ident),*) => {
        impl<$($arg: Send + 'static),*> Input<($($arg,)*)> for ($($arg,)*) {
            #[inline]
            fn into_args(self) -> ($($arg,)*) {
                self
            }
        }
    };
}

inputs!();
inputs!(A, B);
inputs!(A, B, C);
inputs!(A, B, C, D);
inputs!(A, B, C, D, E);
inputs!(A, B, C, D, E, G);
inputs!(A, B, C, D, E, G, H);
inputs!(A, B, C, D, E, G, H, I);

/// Runs a task over any number of inputs, on any number of gateways.
///
/// Inputs are taken as gateways need them, so there may be more than fit into memory, or no end of them. Gateways get as many at
/// once as keep their slots busy over the round trip: of tiny tasks thousands, of long ones hardly more than there are slots. What
/// waits at a busy gateway while another is idle moves there.
///
/// Every input ends in exactly one result. If a gateway is lost, its unfinished items run elsewhere, once they can no longer
/// be running there: at once if its process is known to have ended, otherwise after its lease and grace. So no item runs twice
/// at a time, but it may run more than once, unless [`at_most_once`](MapBuilder::at_most_once) is asked for. An item that
/// kills its workers is found, and ends as [`Poisonous`](super::ItemError::Poisonous).
///
/// The iterator runs on a thread of its own, and may block. If it blocks when the map ends or is dropped, thread and iterator stay
/// until it yields once more, which is thrown away. For streams there is [`map_stream`], for programs
/// [`map_command`](super::map_command).
///
/// Ends of channels cannot be arguments or values here: they belong to one gateway. (Arguments with such end as
/// [`ItemError::Arguments`](super::ItemError::Arguments).)
///
/// ```no_run
/// use farcall::{Gateway, Spec, Tasks};
///
/// fn digits(n: u64) -> usize {
///     (1..=n).fold(String::from("1"), |product, n| format!("{product}{n}")).len()
/// }
///
/// fn main() -> Result<(), farcall::BoxError> {
///     farcall::init(Tasks::new().add(digits));
///     tokio::runtime::Runtime::new()?.block_on(async {
///         let gateways = [Gateway::open(&Spec::local()).await?, Gateway::open(&Spec::ssh("web1")).await?];
///         let mut results = farcall::map(digits, 0..10_000).on(&gateways).ordered().start()?;
///         while let Some((n, digits)) = results.next().await {
///             println!("{n}: {}", digits?);
///         }
///         Ok(())
///     })
/// }
/// ```
pub fn map<F, M, I>(task: F, inputs: I) -> MapBuilder<F::Value>
where
    F: Task<M>,
    I: IntoIterator<IntoIter: Send + 'static>,
    I::Item: Input<F::Args>,
{
    let _ = task;
    let inputs = intake::encoded(Iterate(inputs.into_iter()), Input::into_args);
    MapBuilder::new(name_of::<F>(), inputs, decode::<F::Value>)
}

/// As [`map`], over what a stream yields. The stream is polled on a thread of its own, within a runtime that has timers and I/O.
///
/// ```no_run
/// # use farcall::Gateway;
/// # async fn square(n: u64) -> u64 { n * n }
/// # async fn example(gateways: Vec<Gateway>, numbers: farcall::Receiver<u64>) -> Result<(), farcall::BoxError> {
/// // What comes on a channel of one gateway, squared by others, until it fails.
/// # use std::pin::Pin;
/// # use std::task::{Context, Poll};
/// # struct UntilError(farcall::Receiver<u64>);
/// # impl futures_core::Stream for UntilError {
/// #     type Item = u64;
/// #     fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<u64>> {
/// #         Pin::new(&mut self.0).poll_next(cx).map(|next| next.and_then(Result::ok))
/// #     }
/// # }
/// let squares = farcall::map_stream(square, UntilError(numbers)).on(&gateways).start()?.all().await;
/// # Ok(())
/// # }
/// ```
pub fn map_stream<F, M, S>(task: F, inputs: S) -> MapBuilder<F::Value>
where
    F: Task<M>,
    S: Stream + Send + 'static,
    S::Item: Input<F::Args>,
{
    let _ = task;
    MapBuilder::new(name_of::<F>(), intake::encoded(inputs, Input::into_args), decode::<F::Value>)
}

fn decode<V: Message>(bytes: &[u8]) -> Result<V, farcall_channel::CodecError> {
    <Cbor as Codec<V>>::decode(bytes)
}

/// A map before it starts: from [`map`], [`map_stream`] and [`map_command`](super::map_command).
#[must_use = "nothing happens before it is started"]
pub struct MapBuilder<V> {
    name: &'static str,
    inputs: Encoded,
    decode: Decode<V>,
    gateways: Vec<Gateway>,
    rules: Rules,
    pub(super) plan: Plan,
    replacements: Option<usize>,
    /// In processes of their own, with this limit of memory.
    isolated: Option<Option<u64>>,
}

impl<V> MapBuilder<V> {
    pub(super) fn new(name: &'static str, inputs: Encoded, decode: Decode<V>) -> MapBuilder<V> {
        MapBuilder {
            name,
            inputs,
            decode,
            gateways: Vec::new(),
            rules: Rules::default(),
            plan: Plan::default(),
            replacements: None,
            isolated: None,
        }
    }

    /// Where it runs: these too.
    pub fn on<G: Borrow<Gateway>>(mut self, gateways: impl IntoIterator<Item = G>) -> MapBuilder<V> {
        self.gateways.extend(gateways.into_iter().map(|gateway| gateway.borrow().clone()));
        self
    }

    /// How many items each gateway runs at once; at least one. By default as many as it has processors.
    pub fn slots(mut self, slots: usize) -> MapBuilder<V> {
        self.plan.slots = Some(u32::try_from(slots.max(1)).unwrap_or(u32::MAX));
        self
    }

    /// Results come in the order of their inputs. At most a [window](Self::window) of them waits for the first.
    pub fn ordered(mut self) -> MapBuilder<V> {
        self.rules.ordered = true;
        self
    }

    /// Results come as they are ready, which is the default.
    pub fn unordered(mut self) -> MapBuilder<V> {
        self.rules.ordered = false;
        self
    }

    /// How many inputs may be under way: taken, and their results not. 32,768 by default; at least one.
    ///
    /// This, and about 64 MiB of their arguments and values, bounds the memory of a map while nobody takes its results. How long a
    /// value is shows only when it comes. So if they become longer, what gateways have not begun is asked back, and a few more
    /// come than that: those that run meanwhile, and what is under way.
    pub fn window(mut self, items: usize) -> MapBuilder<V> {
        self.rules.window = items.max(1);
        self
    }

    /// How long an item may run, each time it is tried. Then it is dropped where it waits. One that computes or blocks cannot be
    /// stopped: it is reported as [still running](super::ItemError::TimedOut), and keeps its slot until it ends.
    pub fn item_timeout(mut self, limit: Duration) -> MapBuilder<V> {
        self.plan.limit = Some(limit);
        self
    }

    /// How often an item that failed, panicked or took too long is tried again. Not at all by default.
    pub fn retries(mut self, retries: u32) -> MapBuilder<V> {
        self.rules.retries = retries;
        self
    }

    /// What happens when an item has failed for good. By default the map [goes on](OnError::GoOn).
    pub fn on_error(mut self, on_error: OnError) -> MapBuilder<V> {
        self.rules.on_error = on_error;
        self
    }

    /// After how many deaths of workers that ran it an item is [poisonous](super::ItemError::Poisonous). Three by default; at
    /// least one.
    ///
    /// When a worker dies, all items that it had are suspects. They are run by themselves on a quarter of the gateways, in ever
    /// smaller groups: those that end are cleared. An item is found guilty only by the death of a worker that had it alone; deaths of
    /// workers that had it beside others count then, too. A lost network makes no suspects.
    pub fn max_deaths(mut self, deaths: u32) -> MapBuilder<V> {
        self.rules.max_deaths = deaths.max(1);
        self
    }

    /// An item that was sent to a gateway is never given out again, whatever becomes of it: not tried again, and
    /// [`Lost`](super::ItemError::Lost) with its gateway. Only what a gateway gives back unbegun goes to another.
    ///
    /// Gateways are sent more than they run at once, of tiny items thousands. All that a lost one had are lost then, also those
    /// that it had not begun, since nobody knows which those are. In an [isolated](Self::isolated) map the same holds for a
    /// process that is killed for the time limit of one of its items.
    pub fn at_most_once(mut self) -> MapBuilder<V> {
        self.rules.at_most_once = true;
        self
    }

    /// How many gateways may be started in place of lost ones, from the same specs; by default as many as there are gateways. One
    /// that this program ended is not replaced. They have ids of their own and end with the map.
    pub fn replace_lost(mut self, limit: usize) -> MapBuilder<V> {
        self.replacements = Some(limit);
        self
    }

    /// Each slot is a process of its own on the gateway's host, as of [`Gateway::isolated`]: then the
    /// [time limit](Self::item_timeout) of an item is hard, because its process is killed and replaced, and so is giving up what
    /// runs when the map is dropped. What an item leaves in its process the next one finds there.
    ///
    /// There are no more slots than the gateway's worker has processors. Such processes are replaced as long as the gateway is
    /// there, whatever [`replace_lost`](Self::replace_lost) says.
    ///
    /// ```no_run
    /// # use std::time::Duration;
    /// # use farcall::{Gateway, ItemError};
    /// # fn parse(text: String) -> u64 { text.len() as u64 }
    /// # async fn example(gateways: Vec<Gateway>, files: Vec<String>) -> Result<(), farcall::BoxError> {
    /// let careful = farcall::map(parse, files).on(&gateways).isolated().memory(256 << 20).item_timeout(Duration::from_secs(1));
    /// for result in careful.max_deaths(1).start()?.all().await {
    ///     match result {
    ///         Ok(number) => println!("{number}"),
    ///         Err(ItemError::TimedOut { .. }) => println!("too slow"),
    ///         Err(ItemError::Poisonous { .. }) => println!("it crashed, or took too much memory"),
    ///         Err(error) => return Err(error.into()),
    ///     }
    /// }
    /// # Ok(())
    /// # }
    /// ```
    pub fn isolated(mut self) -> MapBuilder<V> {
        self.isolated = Some(self.isolated.flatten());
        self
    }

    /// How much memory the process of each slot may use, in bytes: as [`Isolated::memory`](crate::Isolated::memory). Makes the map
    /// [isolated](Self::isolated).
    pub fn memory(mut self, bytes: u64) -> MapBuilder<V> {
        self.isolated = Some(Some(bytes));
        self
    }

    /// Starts it.
    ///
    /// # Errors
    /// See [`MapError`].
    pub fn start(self) -> Result<Map<V>, MapError> {
        let first = self.gateways.first().ok_or(MapError::NoGateways)?;
        if !self.name.is_empty() && !first.inner().tasks.contains(self.name) {
            return Err(MapError::UnknownTask { name: self.name });
        }
        let replacements = self.replacements.unwrap_or(self.gateways.len());
        let slots = self.plan.slots;
        let plan = Plan { slots: if self.isolated.is_some() { Some(1) } else { slots }, ..self.plan };
        let shared = Arc::new(Shared::new(self.name, plan, self.rules, replacements));
        let (pumped, inputs) = (Arc::clone(&shared), self.inputs);
        // Ends with the inputs, or when the map is over; an iterator that blocks then holds it up until it returns.
        std::thread::Builder::new()
            .name("farcall-inputs".into())
            .spawn(move || intake::pump(inputs, &pumped))
            .map_err(MapError::Thread)?;
        let isolation = self.isolated.map(|memory| Isolation { memory, slots });
        drive::start(&shared, self.gateways, isolation);
        Ok(Map::new(shared, self.decode))
    }
}

impl<V> std::fmt::Debug for MapBuilder<V> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("MapBuilder")
            .field("task", &self.name)
            .field("gateways", &self.gateways)
            .field("rules", &self.rules)
            .finish_non_exhaustive()
    }
}
