//! Guardians: small processes above the worker that leave nothing behind when it ends.
//!
//! A worker killed by SIGKILL kills nobody, a program that calls `setsid` leaves every group, and a parent-death
//! signal reaches direct children only. So [`start`] forks, while there is a single thread:
//!
//! ```text
//! outer guardian   the process that was launched; repeats the worker's exit status or signal as its own
//! └ inner guardian watches the worker and the worker's input
//!   └ worker       returns from start(); the leader of a process group of its own, without a terminal
//!     └ whatever it starts, daemons included
//! ```
//!
//! Both guardians are child subreapers, so that nothing below can get out from under them. One would do, were it not
//! that its own death by SIGKILL (say, by whoever launched it) would hand the daemons that it had adopted to init:
//! with two, any one process can be killed and the rest is still swept away. Their cost is two forks of a program that
//! has just started, and two processes that sleep in `poll`.
//!
//! | what happens | what follows |
//! |---|---|
//! | the worker ends, in any way | all that it left is killed at once (or asked first: [`Options::ask_first`]) |
//! | the worker's input ends or hangs up | the worker may end by itself for the grace, then everything is killed |
//! | the lease passes without [`Lease::touch`] | the same |
//! | HUP, INT, QUIT or TERM reaches a guardian | it is passed on to the worker, and the grace begins |
//! | USR1 or USR2 reaches a guardian | it is passed on |
//! | ALRM reaches a guardian | everything below is killed at once, and the guardian ends after it |
//! | a guardian is killed | everything below is killed at once by the other |
//! | both guardians are killed together | the worker kills the descendants that it still sees, then itself |
//!
//! The bound: everything is gone one second after the end of the worker, or of the grace. It does not hold for
//! processes of other users (they refuse the signal) nor for those in an uninterruptible sleep (they end when it does);
//! the guardians give up on these after one and ten seconds.
//!
//! **Elsewhere than on Linux** there is no subreaper. [`start`] then only makes the worker the leader of a process
//! group of its own: nobody watches, and what leaves its group is not found.

use std::io;
use std::time::Duration;

/// Has a guardian kill all that is below it. Unlike one that is killed itself, it ends when that is gone.
pub(super) const SWEEP: rustix::process::Signal = rustix::process::Signal::ALARM;

/// What the guardians are told when they start.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Options {
    /// How long the worker may take to end by itself after its input has ended, its lease has passed, or it was
    /// signalled. Two seconds by default.
    pub grace: Duration,
    /// Whether processes that a worker leaves behind when it ends are sent SIGTERM and given the grace, rather than
    /// killed at once. Off by default: a worker that ends in order has asked them already.
    pub ask_first: bool,
    /// Whether to put a second guardian above the first, so that no single SIGKILL can leave anything behind. On by
    /// default; it costs one more fork of a program that has just started.
    pub doubled: bool,
}

impl Default for Options {
    fn default() -> Self {
        Self { grace: Duration::from_secs(2), ask_first: false, doubled: true }
    }
}

/// Why no guardian could be started. The process can go on, unguarded.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StartError {
    /// Only a process with one thread can be forked and go on: the others would be missing, their locks held.
    #[error("guardians must start before any thread does, but there are {threads} threads")]
    Threads {
        /// The threads of the process.
        threads: usize,
    },
    /// A system call failed.
    #[error("cannot {doing}")]
    System {
        /// What was tried, for people.
        doing: &'static str,
        /// What the system said.
        source: io::Error,
    },
}

#[cfg(not(target_os = "linux"))]
pub use elsewhere::{Guarded, Lease, start};
#[cfg(target_os = "linux")]
pub use linux::{Guarded, Lease, start};
#[cfg(target_os = "linux")]
pub(super) use linux::{Outer, WATCHED, fork, leave_terminal, outlive_no_guardian, start_below, threads};

#[cfg(target_os = "linux")]
#[path = "guardian_linux.rs"]
mod linux;

/// The weaker form: a process group, and nobody who watches.
#[cfg(not(target_os = "linux"))]
mod elsewhere {
    use super::{Duration, Options, StartError};

    /// The worker's side of its guardians. There are none on this platform.
    #[derive(Debug)]
    pub struct Guarded(());

    /// The lease on the worker's life. Without guardians nobody watches it.
    #[derive(Clone, Debug)]
    pub struct Lease(());

    /// Makes this process the leader of a process group of its own.
    ///
    /// # Errors
    /// None on this platform: a process that leads its group already is left alone.
    pub fn start(_options: &Options) -> Result<Guarded, StartError> {
        // Fails for a session leader, which leads its group already.
        let _ = rustix::process::setpgid(None, None);
        super::super::signals::stop_ignoring();
        Ok(Guarded(()))
    }

    impl Guarded {
        /// Does nothing on this platform.
        pub fn set_grace(&self, _grace: Duration) {}
        /// Does nothing on this platform.
        pub fn set_ask_first(&self, _ask: bool) {}
        /// A lease that nobody watches.
        pub fn lease(&self, _period: Duration) -> Lease {
            Lease(())
        }
    }

    impl Lease {
        /// Does nothing on this platform.
        pub fn touch(&self) {}
        /// Does nothing on this platform.
        pub fn end(&self) {}
    }
}
