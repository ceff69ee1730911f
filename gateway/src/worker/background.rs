//! Work of the worker's own that goes on beside what began it.

use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::pin::Pin;

use tokio::runtime::Handle;
use tokio::sync::oneshot;
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

/// Has a thread of its own do what may block, within the current runtime. Where the system gives no thread, that is an error: the
/// runtime's own threads for such work are had for nothing less than a panic then.
///
/// Who no longer waits leaves the work to itself; what it returns is dropped where it was done. A panic of the work is one of
/// whoever waits.
pub(super) async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> io::Result<T> {
    let runtime = Handle::current();
    let (done, outcome) = oneshot::channel();
    std::thread::Builder::new().spawn(move || {
        let _entered = runtime.enter();
        // What the work leaves behind when it panics is seen by nobody but who unwinds as well.
        drop(done.send(catch_unwind(AssertUnwindSafe(work))));
    })?;
    let outcome = outcome.await.expect("it sends what the work returned, or its panic");
    Ok(outcome.unwrap_or_else(|panic| resume_unwind(panic)))
}
