//! Child processes of this program, on the same machine.
//!
//! A function that crashes, leaks, blocks or must be stopped from outside runs in a process of its own: this program started
//! again, as a worker that needs neither shell nor network. What a function is, and what it takes and returns, is as for any
//! gateway ([`Task`]); what can become of it is more: [`RunError`].
//!
//! - [`run`] runs one function in a fresh process.
//! - [`open`] does so with a handle: states, signals, exit status.
//! - [`Worker`] is one process for many calls, [`Pool`] several.
//! - [`Options`] sets up any of these.
//! - [`pipe`] and [`duplex`] make ends that move into processes inside arguments, and lead directly from one to the other.
//! - [`relay_signals`] hands signals on that reach the program.
//!
//! All of it works on any runtime, and on none; only one of tokio's that has no I/O makes it panic where it waits.
//!
//! Where calls and messages follow each other within 100 µs, who waits for the next one looks again for up to 50 µs before it
//! sleeps, in turns with the other tasks of its runtime: a wake-up on another processor takes longer.
//!
//! Nothing that is started here outlives the program, however that ends, and nothing inherits a descriptor but its own.
//!
//! ```no_run
//! use farcall::{Tasks, local};
//!
//! fn parse(text: String) -> Result<u64, std::num::ParseIntError> {
//!     text.parse()
//! }
//!
//! fn main() -> Result<(), farcall::BoxError> {
//!     farcall::init(Tasks::new().add(parse));
//!     tokio::runtime::Runtime::new()?.block_on(async {
//!         assert_eq!(local::run(parse, ("42".to_owned(),)).await?, 42);
//!         Ok(())
//!     })
//! }
//! ```

mod busy_poll;
mod child;
mod error;
mod family;
#[cfg(target_os = "linux")]
pub(crate) mod line;
#[cfg(target_os = "linux")]
mod once;
mod options;
mod pipe;
mod pool;
mod process;
mod relay;
mod run;
pub(crate) mod serve;
#[cfg(target_os = "linux")]
pub(crate) mod serve_once;
pub(crate) mod socket;
pub(crate) mod travel;
mod wire;
mod worker;

pub use error::{PoolError, RunError};
pub use family::SignalError;
pub use options::Options;
pub use pipe::{
    Duplex, PipeReceiver, PipeRecvError, PipeSendError, PipeSendTimeoutError, PipeSender, TryPipeRecvError,
    TryPipeSendError, duplex, duplex_with, pipe, pipe_with,
};
pub use pool::Pool;
pub use process::{Process, State};
pub use relay::{Relay, relay_signals};
pub use socket::MAX_MESSAGE;
pub use travel::{MAX_ENDS, TravelError};
pub use worker::Worker;

use crate::task::Task;

/// Runs one function in a fresh process, which has ended when this returns.
///
/// Ends of [`pipe`]s in the arguments, and in the value, are handed over as descriptors. What the function prints is not told:
/// [`open`] has a handle that tells it. With more than the usual: [`Options::run`].
///
/// Cancel safety: dropping it ends the function and its process. A function that waits is dropped where it waits; one that
/// computes is killed after the grace, half a second.
///
/// ```no_run
/// # async fn parse(text: String) -> Result<u64, std::num::ParseIntError> { text.parse() }
/// # async fn example() -> Result<(), Box<dyn std::error::Error>> {
/// match farcall::local::run(parse, ("x".to_owned(),)).await {
///     Ok(number) => println!("{number}"),
///     Err(farcall::local::RunError::Failed(failure)) => println!("no number: {failure}"),
///     Err(farcall::local::RunError::Killed { signal, .. }) => println!("killed by signal {signal}"),
///     Err(other) => return Err(other.into()),
/// }
/// # Ok(())
/// # }
/// ```
///
/// # Errors
/// See [`RunError`].
pub async fn run<F: Task<M>, M>(task: F, args: F::Args) -> Result<F::Value, RunError> {
    Options::new().run(task, args).await
}

/// Starts one function in a process of its own, and returns the handle of that at once: it is
/// [`Starting`](State::Starting). With more than the usual: [`Options::open`].
///
/// Cancel safety: nothing was started when it is dropped.
///
/// # Errors
/// What is wrong before anything is started: the arguments cannot be sent, or the task is unknown.
pub async fn open<F: Task<M>, M>(task: F, args: F::Args) -> Result<Process<F::Value>, RunError> {
    Options::new().open(task, args).await
}
