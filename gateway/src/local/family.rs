//! The children that live, and signals to them.

use std::collections::BTreeMap;
use std::io;
#[cfg(target_os = "linux")]
use std::os::fd::OwnedFd;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use rustix::process::{Pid, Signal};

use super::child::sleep;
#[cfg(target_os = "linux")]
use super::once::Line;
use crate::gateway::{Gateway, Inner};
use crate::worker::signals::by_number;

/// Why a signal was not sent.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SignalError {
    /// The process has not started yet, or has ended.
    #[error("the process is not running")]
    NotRunning,
    /// There is no such signal.
    #[error("there is no signal {0}")]
    Unknown(i32),
    /// The system refused.
    #[error("cannot signal the process")]
    System(#[source] io::Error),
}

static FAMILY: Mutex<Family> = Mutex::new(Family { next: 0, members: BTreeMap::new() });

struct Family {
    next: u64,
    members: BTreeMap<u64, Arc<Target>>,
}

fn family() -> MutexGuard<'static, Family> {
    FAMILY.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A process that can be signalled, or will be when it has started. Does not keep it alive.
#[derive(Debug)]
pub(super) struct Target {
    progress: Mutex<Progress>,
}

#[derive(Debug)]
enum Progress {
    /// What reached the family while this one was being started: it gets it then.
    Starting {
        signals: Vec<Signal>,
        killed: bool,
    },
    Started(Arc<Started>),
}

#[derive(Debug)]
enum Started {
    Worker(Worker),
    /// Of a process for one function, by its guardian.
    #[cfg(target_os = "linux")]
    Once(Weak<Line>),
}

#[derive(Debug)]
struct Worker {
    pid: u32,
    /// Names this very process, also when its number is another's.
    #[cfg(target_os = "linux")]
    pidfd: Option<OwnedFd>,
    gateway: Weak<Inner>,
}

/// A child's place in the family, from before its start until it is dropped.
#[derive(Debug)]
pub(super) struct Member {
    number: u64,
    target: Arc<Target>,
}

impl Member {
    /// A place for a child that is about to be started.
    pub(super) fn join() -> Member {
        let starting = Progress::Starting { signals: Vec::new(), killed: false };
        let target = Arc::new(Target { progress: Mutex::new(starting) });
        let mut family = family();
        let number = family.next;
        family.next += 1;
        family.members.insert(number, Arc::clone(&target));
        Member { number, target }
    }

    /// The child has started: it gets what has reached the family in the meantime.
    pub(super) fn started(&self, gateway: &Gateway) {
        let pid = gateway.pid();
        let worker = Worker {
            pid,
            #[cfg(target_os = "linux")]
            pidfd: pidfd(pid),
            gateway: Arc::downgrade(gateway.inner()),
        };
        self.is(Started::Worker(worker));
    }

    /// The same for one that was ordered, and that its guardian is asked about.
    #[cfg(target_os = "linux")]
    pub(super) fn ordered(&self, line: &Arc<Line>) {
        self.is(Started::Once(Arc::downgrade(line)));
    }

    fn is(&self, started: Started) {
        let started = Arc::new(started);
        let mut progress = self.target.progress();
        let before = std::mem::replace(&mut *progress, Progress::Started(Arc::clone(&started)));
        // Under the lock, so that a later signal does not overtake these.
        if let Progress::Starting { signals, killed } = before {
            for signal in signals {
                // One that has just ended needs none.
                let _ = started.send(signal);
            }
            if killed {
                started.kill();
            }
        }
    }

    pub(super) fn target(&self) -> Arc<Target> {
        Arc::clone(&self.target)
    }
}

impl Drop for Member {
    fn drop(&mut self) {
        family().members.remove(&self.number);
    }
}

/// All children that live now or are being started.
pub(super) fn members() -> Vec<Arc<Target>> {
    family().members.values().cloned().collect()
}

/// Missing on old systems.
#[cfg(target_os = "linux")]
fn pidfd(pid: u32) -> Option<OwnedFd> {
    let pid = i32::try_from(pid).ok().and_then(Pid::from_raw)?;
    rustix::process::pidfd_open(pid, rustix::process::PidfdFlags::empty()).ok()
}

impl Worker {
    fn send(&self, signal: Signal) -> rustix::io::Result<()> {
        let alive = self.gateway.upgrade().is_some_and(|gateway| gateway.end.borrow().is_none());
        if !alive {
            return Err(rustix::io::Errno::SRCH);
        }
        #[cfg(target_os = "linux")]
        if let Some(pidfd) = &self.pidfd {
            return rustix::process::pidfd_send_signal(pidfd, signal);
        }
        let pid = i32::try_from(self.pid).ok().and_then(Pid::from_raw).ok_or(rustix::io::Errno::SRCH)?;
        rustix::process::kill_process(pid, signal)
    }
}

impl Started {
    fn send(&self, signal: Signal) -> rustix::io::Result<()> {
        match self {
            Started::Worker(worker) => worker.send(signal),
            #[cfg(target_os = "linux")]
            Started::Once(line) => line.upgrade().ok_or(rustix::io::Errno::SRCH)?.signal(signal.as_raw()),
        }
    }

    fn kill(&self) {
        match self {
            Started::Worker(worker) => {
                if let Some(gateway) = worker.gateway.upgrade() {
                    gateway.kill.notify_one();
                }
            }
            #[cfg(target_os = "linux")]
            Started::Once(line) => {
                if let Some(line) = line.upgrade() {
                    line.kill();
                }
            }
        }
    }

    /// The runtime of what runs longer than a call.
    fn driver(&self) -> Option<tokio::runtime::Handle> {
        match self {
            Started::Worker(worker) => worker.gateway.upgrade().map(|gateway| gateway.driver.clone()),
            #[cfg(target_os = "linux")]
            Started::Once(_) => crate::open::driver().ok(),
        }
    }
}

impl Target {
    fn progress(&self) -> MutexGuard<'_, Progress> {
        self.progress.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn running(&self) -> Option<Arc<Started>> {
        match &*self.progress() {
            Progress::Started(started) => Some(Arc::clone(started)),
            Progress::Starting { .. } => None,
        }
    }

    /// Sends a signal by its number to a process that runs.
    pub(super) fn signal(&self, number: i32) -> Result<(), SignalError> {
        let signal = by_number(number).ok_or(SignalError::Unknown(number))?;
        match self.running().ok_or(SignalError::NotRunning)?.send(signal) {
            Err(rustix::io::Errno::SRCH) => Err(SignalError::NotRunning),
            sent => sent.map_err(|error| SignalError::System(error.into())),
        }
    }

    /// Hands on a signal that reached the program: now, or when it has started.
    pub(super) fn relay(&self, signal: Signal) {
        match &mut *self.progress() {
            Progress::Starting { signals, .. } => signals.push(signal),
            Progress::Started(started) => {
                // One that has just ended needs none.
                let _ = started.send(signal);
            }
        }
    }

    /// Has it killed, with all that it started: now, or when it has started.
    pub(super) fn kill(&self) {
        match &mut *self.progress() {
            Progress::Starting { killed, .. } => *killed = true,
            Progress::Started(started) => started.kill(),
        }
    }

    /// Sends a signal that asks it to end, and kills it if it has not within `grace`.
    pub(super) fn ask(self: &Arc<Self>, number: i32, grace: Duration) -> Result<(), SignalError> {
        self.signal(number)?;
        let Some(driver) = self.running().and_then(|started| started.driver()) else {
            return Ok(());
        };
        let target = Arc::clone(self);
        let grace = sleep(&driver, grace);
        // Ends with the grace.
        driver.spawn(async move {
            grace.await;
            target.kill();
        });
        Ok(())
    }
}
