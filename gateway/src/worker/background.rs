//! Work of the worker's own that goes on beside what began it.

use std::pin::Pin;

use tokio::runtime::Handle;
use tokio::task::JoinHandle;

/// As `tokio::spawn`, see [`spawn_on`].
pub(super) fn spawn(work: impl Future<Output = ()> + Send + 'static) -> JoinHandle<()> {
    spawn_on(&Handle::current(), work)
}

/// Has `runtime` do it. All work has one type there: what the runtime makes of each type of future, and that twice for its two
/// kinds, would weigh more in the program that is shipped than most of the work itself.
pub(super) fn spawn_on(runtime: &Handle, work: impl Future<Output = ()> + Send + 'static) -> JoinHandle<()> {
    let work: Pin<Box<dyn Future<Output = ()> + Send>> = Box::pin(work);
    runtime.spawn(work)
}
