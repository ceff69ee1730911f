//! One child process: how it ends, when it is reaped, and signals that cannot hit another.

use std::io;
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use rustix::process::{
    Pid, Signal, WaitId, WaitIdOptions, WaitIdStatus, WaitOptions, kill_process, kill_process_group, waitid,
    waitpid,
};
use tokio::io::Interest;
use tokio::runtime::Handle;
use tokio::sync::watch;
use tokio::time::Instant;

use super::background;
use super::spawn::Started;

/// How a process ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Status {
    /// By itself, with this code.
    Code(i32),
    /// By this signal.
    Signal(i32),
}

impl Status {
    /// Whether it ended with code 0.
    #[must_use]
    pub fn success(self) -> bool {
        self == Self::Code(0)
    }
}

/// Whom a signal is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Whom {
    /// The process that was started.
    Process,
    /// It and all in its process group.
    Group,
}

/// Why a signal could not be sent.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SignalError {
    /// The command has ended and its end has been reported: its number may be another's by now.
    #[error("the command has ended already")]
    Ended,
    /// There is no such signal.
    #[error("there is no signal {0}")]
    Unknown(i32),
    /// The system refused.
    #[error("cannot signal the command")]
    System(#[source] io::Error),
}

#[derive(Debug)]
pub(super) struct Process {
    pid: Pid,
    life: Mutex<Life>,
    /// How and when it ended.
    ended: watch::Receiver<Option<(Status, Instant)>>,
    /// Whether its output was cut while something held it open.
    was_held_open: AtomicBool,
}

/// While it is not reaped, the numbers of process and group are its own, and it can be signalled without risk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Life {
    Running,
    /// Nobody is interested any more: to be reaped as soon as it ends.
    Abandoned,
    /// Its end is known, but has not been reported.
    Ended,
    Reaped,
}

impl Process {
    /// Takes charge of a process: from now on it is reaped when its end has been reported, or nobody is interested.
    pub(super) fn watch(started: Started, runtime: &Handle) -> Arc<Self> {
        let (publish, ended) = watch::channel(None);
        let process = Arc::new(Self {
            pid: started.pid,
            life: Mutex::new(Life::Running),
            ended,
            was_held_open: AtomicBool::new(false),
        });
        // Ends when the process does; nobody waits for it.
        background::spawn_on(runtime, await_end(Arc::clone(&process), started.pidfd, publish));
        process
    }

    /// The number of the process, and of its group.
    pub(super) fn number(&self) -> u32 {
        self.pid.as_raw_nonzero().get().unsigned_abs()
    }

    /// Its output was cut while something held it open.
    pub(super) fn cut_open(&self) {
        self.was_held_open.store(true, Relaxed);
    }

    pub(super) fn was_held_open(&self) -> bool {
        self.was_held_open.load(Relaxed)
    }

    /// How and when it ended, if it has.
    pub(super) fn ended(&self) -> Option<(Status, Instant)> {
        *self.ended.borrow()
    }

    /// Waits for the end. Cancel-safe.
    pub(super) async fn end(&self) -> Status {
        let mut ended = self.ended.clone();
        if let Ok(known) = ended.wait_for(Option::is_some).await
            && let Some((status, _)) = *known
        {
            return status;
        }
        // The runtime is going down, and what waited for the process with it.
        self.peek().unwrap_or(Status::Signal(libc::SIGKILL))
    }

    /// The handle is gone: kills the group unless the end has been reported, and reaps the process when it has ended.
    pub(super) fn abandon(&self) {
        let mut life = self.life();
        if matches!(*life, Life::Running | Life::Ended) {
            let _ = kill_process_group(self.pid, Signal::KILL);
        }
        match *life {
            Life::Running => *life = Life::Abandoned,
            Life::Ended => self.reap_now(&mut life),
            Life::Abandoned | Life::Reaped => {}
        }
    }

    fn life(&self) -> MutexGuard<'_, Life> {
        self.life.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The end has been reported: what remains of the process can go.
    pub(super) fn reap(&self) {
        let mut life = self.life();
        if *life == Life::Ended {
            self.reap_now(&mut life);
        }
    }

    fn reap_now(&self, life: &mut Life) {
        let _ = waitpid(Some(self.pid), WaitOptions::NOHANG);
        *life = Life::Reaped;
    }

    pub(super) fn signal(&self, signal: Signal, whom: Whom) -> Result<(), SignalError> {
        let life = self.life();
        if *life == Life::Reaped {
            return Err(SignalError::Ended);
        }
        let sent = match whom {
            Whom::Process => kill_process(self.pid, signal),
            // The number of a group is that of its leader.
            Whom::Group => kill_process_group(self.pid, signal),
        };
        sent.map_err(|error| SignalError::System(error.into()))
    }

    /// Whether and how it has ended, without reaping it.
    fn peek(&self) -> Option<Status> {
        let options = WaitIdOptions::EXITED | WaitIdOptions::NOHANG | WaitIdOptions::NOWAIT;
        match waitid(WaitId::Pid(self.pid), options) {
            Ok(Some(status)) => Some(from_wait(&status)),
            Ok(None) => None,
            // Somebody else in this process waits for all children; how it ended is known to them only.
            Err(_) => Some(Status::Code(-1)),
        }
    }
}

fn from_wait(status: &WaitIdStatus) -> Status {
    match (status.exit_status(), status.terminating_signal()) {
        (Some(code), _) => Status::Code(code),
        (None, signal) => Status::Signal(signal.unwrap_or(libc::SIGKILL)),
    }
}

/// Waits for the end of a process and publishes it; reaps the process if nobody is interested.
async fn await_end(
    process: Arc<Process>,
    pidfd: Option<OwnedFd>,
    publish: watch::Sender<Option<(Status, Instant)>>,
) {
    let pidfd = pidfd.and_then(|fd| super::reactor::register_as_is(fd, Interest::READABLE).ok());
    let status = match pidfd {
        Some(pidfd) => loop {
            let Ok(mut guard) = pidfd.readable().await else { return };
            if let Some(status) = process.peek() {
                break status;
            }
            guard.clear_ready();
        },
        None => match end_by_signal(&process).await {
            Some(status) => status,
            None => return,
        },
    };
    let mut life = process.life();
    if *life == Life::Abandoned {
        process.reap_now(&mut life);
    } else {
        *life = Life::Ended;
    }
    drop(life);
    // Fails if nobody is interested.
    let _ = publish.send(Some((status, Instant::now())));
}

/// For systems without descriptors of processes: looks whenever any child has ended.
async fn end_by_signal(process: &Process) -> Option<Status> {
    use tokio::signal::unix::{SignalKind, signal};
    let mut child = signal(SignalKind::child()).ok()?;
    loop {
        if let Some(status) = process.peek() {
            return Some(status);
        }
        child.recv().await?;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// As on systems without descriptors of processes.
    #[test]
    fn end_is_noticed_without_a_descriptor() {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        runtime.block_on(async {
            for code in 0..20 {
                let child = std::process::Command::new("sh").args(["-c", &format!("exit {code}")]).spawn();
                let pid = Pid::from_child(&child.expect("start a shell"));
                let process = Process::watch(Started { pid, pidfd: None }, &Handle::current());
                assert_eq!(process.end().await, Status::Code(code));
                process.reap();
                assert!(matches!(process.signal(Signal::TERM, Whom::Group), Err(SignalError::Ended)));
                assert!(waitpid(Some(pid), WaitOptions::NOHANG).is_err(), "a zombie is left");
            }
        });
    }

    #[test]
    fn abandoned_process_is_killed_and_reaped() {
        use std::os::unix::process::CommandExt;
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        runtime.block_on(async {
            let child = std::process::Command::new("sleep").arg("1000").process_group(0).spawn();
            let pid = Pid::from_child(&child.expect("start"));
            let process = Process::watch(Started { pid, pidfd: None }, &Handle::current());
            process.abandon();
            assert_eq!(process.end().await, Status::Signal(libc::SIGKILL));
            assert!(waitpid(Some(pid), WaitOptions::NOHANG).is_err(), "a zombie is left");
        });
    }
}
