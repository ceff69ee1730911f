//! A thread that does nothing but move bytes.

use std::io;
use std::sync::mpsc;
use std::thread::JoinHandle;

use tokio::runtime::Handle;
use tokio::sync::oneshot;

/// A thread with a runtime of its own for the loops of any number of connections, so that code that blocks or computes
/// elsewhere never makes a connection look dead.
///
/// Byte streams belong to the runtime that they are made on: make them inside [`enter`](Self::enter). Dropping this stops
/// the thread, and with it the connections that it drives.
///
/// ```
/// use farcall_channel::{Connection, DriverThread, Options, Role};
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let driver = DriverThread::start("driver")?;
/// let options = Options { driver: Some(driver.handle().clone()), ..Options::default() };
/// let (near, far) = driver.enter(|| tokio::io::duplex(65536));
/// let (near_read, near_write) = tokio::io::split(near);
/// let (far_read, far_write) = tokio::io::split(far);
/// let (near, far) = tokio::join!(
///     Connection::start(near_read, near_write, Role::Coordinator, options.clone()),
///     Connection::start(far_read, far_write, Role::Worker, options),
/// );
/// # (near?, far?);
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
pub struct DriverThread {
    handle: Handle,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl DriverThread {
    /// Starts the thread under this name. Fails if the system gives no thread or no event queue.
    pub fn start(name: &str) -> io::Result<DriverThread> {
        let (stop, stopped) = oneshot::channel::<()>();
        let (started, start) = mpsc::channel();
        let thread = std::thread::Builder::new().name(name.to_owned()).spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
            let runtime = match runtime {
                Ok(runtime) => runtime,
                Err(error) => {
                    // Nobody listening means that nobody wants the thread.
                    let _ = started.send(Err(error));
                    return;
                }
            };
            let _ = started.send(Ok(runtime.handle().clone()));
            // Either way it is time to stop.
            let _ = runtime.block_on(stopped);
        })?;
        let handle =
            start.recv().unwrap_or_else(|_| Err(io::Error::other("the driver thread ended at once")))?;
        Ok(DriverThread { handle, stop: Some(stop), thread: Some(thread) })
    }

    /// The thread's runtime, for [`Options::driver`](crate::Options::driver).
    pub fn handle(&self) -> &Handle {
        &self.handle
    }

    /// Makes byte streams that belong to the thread's runtime.
    pub fn enter<R>(&self, make: impl FnOnce() -> R) -> R {
        let _guard = self.handle.enter();
        make()
    }
}

impl Drop for DriverThread {
    fn drop(&mut self) {
        // A thread that is gone already needs no stopping.
        let _ = self.stop.take().map(|stop| stop.send(()));
        if let Some(thread) = self.thread.take()
            && thread.thread().id() != std::thread::current().id()
        {
            // It only drops its runtime; a panic there has been printed by the panic hook.
            let _ = thread.join();
        }
    }
}
