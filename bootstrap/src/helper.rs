//! Starts programs on this machine that do not outlive the one that started them, however that ends.

mod group;

use std::io;

use tokio::process::{Child, Command};

pub(crate) use group::{Group, spawn as spawn_group};

/// Starts `command` as a helper of this process: killed when this process ends, and by `SIGKILL` too.
///
/// On Linux the kernel sees to that, for the program itself and whatever it executes in its own place; not for processes
/// that it forks ([`spawn_group`] is for those), nor for a program that runs with another account's rights (`sudo`), which
/// has the end of its standard input to go by. On other systems that is all that a helper has.
///
/// Cancel safe: with [`Command::kill_on_drop`] what was started meanwhile is killed.
pub(crate) async fn spawn(command: Command) -> io::Result<Child> {
    #[cfg(target_os = "linux")]
    return linux::spawn(command).await;
    #[cfg(not(target_os = "linux"))]
    {
        let mut command = command;
        command.spawn()
    }
}

#[cfg(target_os = "linux")]
mod linux {
    use std::io;
    use std::panic::{AssertUnwindSafe, catch_unwind};
    use std::sync::mpsc::{Receiver, Sender, channel};
    use std::sync::{Mutex, PoisonError};

    use rustix::process::{Pid, Signal, getpid, getppid, set_parent_process_death_signal};
    use tokio::process::{Child, Command};
    use tokio::runtime::Handle;
    use tokio::sync::oneshot;

    /// A command to start, the runtime that its streams belong to, and who waits for it.
    struct Order {
        command: Command,
        runtime: Handle,
        reply: oneshot::Sender<io::Result<Child>>,
    }

    pub(super) async fn spawn(mut command: Command) -> io::Result<Child> {
        let parent = getpid();
        // SAFETY: between fork and exec the closure makes system calls only: no allocation, no locks.
        unsafe { command.pre_exec(move || end_with(parent)) };
        let (reply, started) = oneshot::channel();
        spawner()?
            .send(Order { command, runtime: Handle::current(), reply })
            .map_err(|_| io::Error::from(io::ErrorKind::BrokenPipe))?;
        started.await.unwrap_or_else(|_| Err(io::ErrorKind::BrokenPipe.into()))
    }

    /// Has the process that calls this killed when `parent` ends, or at once if it has.
    fn end_with(parent: Pid) -> io::Result<()> {
        set_parent_process_death_signal(Some(Signal::KILL))?;
        if getppid() == Some(parent) { Ok(()) } else { Err(io::ErrorKind::BrokenPipe.into()) }
    }

    /// The thread that starts helpers. What the kernel calls the end of a parent is the end of the thread that forked, and
    /// a runtime's threads come and go; this one lives as long as the process.
    fn spawner() -> io::Result<Sender<Order>> {
        static SPAWNER: Mutex<Option<Sender<Order>>> = Mutex::new(None);
        let mut spawner = SPAWNER.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(orders) = &*spawner {
            return Ok(orders.clone());
        }
        let (orders, taken) = channel();
        // Nobody waits for it, and the sender kept here never lets it end.
        std::thread::Builder::new().name("farcall-helpers".into()).spawn(move || serve(&taken))?;
        Ok(spawner.insert(orders).clone())
    }

    fn serve(orders: &Receiver<Order>) {
        for Order { mut command, runtime, reply } in orders {
            let _entered = runtime.enter();
            // A runtime without the means to watch a process panics; the helpers of others must not end with that.
            let started = catch_unwind(AssertUnwindSafe(|| command.spawn()))
                .unwrap_or_else(|_| Err(io::Error::other("the runtime cannot watch processes")));
            // What else holds the helper's ends of its streams goes with the command.
            drop(command);
            // Who does not wait any more has it killed, if the command says so.
            let _ = reply.send(started);
        }
    }
}
