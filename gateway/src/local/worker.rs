//! A process that runs one function after another.

use std::sync::Arc;

use tokio::task::JoinHandle;

use super::child::{Child, prepare, value_in};
use super::error::RunError;
use super::options::Options;
use crate::end::GatewayEnd;
use crate::output::Output;
use crate::task::Task;

/// A child process that runs functions, one after another. It goes on after one that fails or panics; what a function keeps in
/// statics or by [`Context::state`](crate::Context::state) is there for the next.
///
/// Dropping it ends the process. From [`Worker::new`], or [`Options::worker`].
///
/// ```no_run
/// use farcall::local::Worker;
/// # async fn parse(text: String) -> Result<u64, std::num::ParseIntError> { text.parse() }
///
/// # async fn example() -> Result<(), farcall::local::RunError> {
/// let mut worker = Worker::new().await?;
/// assert!(worker.call(parse, ("x".to_owned(),)).await.is_err());
/// assert_eq!(worker.call(parse, ("42".to_owned(),)).await?, 42);
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
pub struct Worker {
    options: Options,
    slot: Slot,
}

#[derive(Debug)]
enum Slot {
    Ready(Box<Child>),
    /// A call was dropped.
    Recovering(JoinHandle<Result<Child, Arc<GatewayEnd>>>),
    Ended(Arc<GatewayEnd>),
    /// Only while the slot changes.
    Empty,
}

/// A call under way. When it is dropped before the reply, the call is cancelled.
struct Under<'a> {
    slot: &'a mut Slot,
    child: Option<Box<Child>>,
}

impl Drop for Under<'_> {
    fn drop(&mut self) {
        let Some(child) = self.child.take() else { return };
        *self.slot = if child.is_busy() {
            let driver = child.driver().clone();
            // Ends within the grace; awaited by the next call.
            Slot::Recovering(driver.spawn(child.recover()))
        } else {
            Slot::Ready(child)
        };
    }
}

impl Worker {
    /// Starts one with the usual [`Options`].
    ///
    /// Cancel safety: what a dropped `new` has started is ended.
    ///
    /// # Errors
    /// That it could not be started.
    pub async fn new() -> Result<Worker, RunError> {
        Options::new().worker().await
    }

    pub(super) async fn start(options: &Options) -> Result<Worker, RunError> {
        let child = Child::start(options, None).await?;
        Ok(Worker { options: options.clone(), slot: Slot::Ready(Box::new(child)) })
    }

    /// Runs a function there.
    ///
    /// Cancel safety: dropping it cancels the function. One that waits is dropped where it waits, and the worker is as before;
    /// one that computes ends with its process, and the next call says so.
    ///
    /// # Errors
    /// See [`RunError`]. After [`Killed`](RunError::Killed) and the like the worker is gone, and every call says so.
    pub async fn call<F: Task<M>, M>(&mut self, task: F, args: F::Args) -> Result<F::Value, RunError> {
        let mut call = prepare(task, args)?;
        let limit = self.options.time_limit;
        let child = self.ready().await?;
        let mut under = Under { slot: &mut self.slot, child: Some(child) };
        let child = under.child.as_mut().expect("it was just put there");
        let exchanged = child.exchange_within(&mut call, limit).await;
        let error = match exchanged {
            Ok(Ok(received)) => {
                drop(under);
                return value_in(received);
            }
            Ok(Err(gone)) => child.explain(gone).await,
            Err(error) => error,
        };
        let end = child.gateway().wait().await;
        under.child = None;
        drop(under);
        self.slot = Slot::Ended(end);
        Err(error)
    }

    /// Takes the child out of its slot, once a call that was dropped is over.
    async fn ready(&mut self) -> Result<Box<Child>, RunError> {
        if let Slot::Recovering(recovering) = &mut self.slot {
            let recovered = recovering.await;
            self.slot = match recovered {
                Ok(Ok(child)) => Slot::Ready(Box::new(child)),
                Ok(Err(end)) => Slot::Ended(end),
                // The driver ends with the program.
                Err(_) => Slot::Empty,
            };
        }
        match std::mem::replace(&mut self.slot, Slot::Empty) {
            Slot::Ready(child) => Ok(child),
            Slot::Ended(end) => {
                self.slot = Slot::Ended(Arc::clone(&end));
                Err(RunError::of_end(end))
            }
            Slot::Recovering(_) | Slot::Empty => {
                Err(RunError::System(std::io::Error::other("the driver has ended")))
            }
        }
    }

    /// The number of its process, while no dropped call is being cancelled and it has not ended.
    pub fn pid(&self) -> Option<u32> {
        match &self.slot {
            Slot::Ready(child) => Some(child.gateway().pid()),
            _ => None,
        }
    }

    /// What its functions print; `None` where [`pid`](Self::pid) is.
    pub fn output(&self) -> Option<Output> {
        match &self.slot {
            Slot::Ready(child) => Some(child.gateway().output()),
            _ => None,
        }
    }

    /// Ends it and waits until its process is gone.
    ///
    /// Cancel safety: it ends also when this is dropped.
    pub async fn close(mut self) {
        if let Ok(child) = self.ready().await {
            child.end().await;
        }
    }
}
