//! Processes of a program forked by a process of it that was started before and does nothing else: a fork server.
//!
//! To execute a program costs half a millisecond: its pages are mapped and relocated, its libraries set themselves up. A
//! process that has done so once can be forked in a fraction of that, if it has a single thread. The program that starts
//! workers has many, so it starts one process of itself for the purpose, at the second start that could use it: programs that
//! start one worker shall not pay for two.
//!
//! The server is told over a socket what to fork, and gets the new process's streams along. Its half is the program's: whoever
//! makes a [`ForkServer`] promises that the program, started with those arguments and the socket as its standard input,
//! follows [`Order`]s and makes [`Report`]s, leaves nothing of a process behind when it reports its end, and ends with all that
//! it forked when the socket ends. A program that does not say [`Report::Ready`] is not asked again.
//!
//! A process that is to run one function and end is forked by a [`Run`](Order::Run) order: that is given without a runtime, and
//! what becomes of it is told to whoever gave it, over a line of its own.
//!
//! A process is born into what surrounded the server when that was started. If the environment, the working directory,
//! the user, the limits or the niceness of this process have changed since, a new server is started, and the old one ends with
//! the last of its processes. The mask of new files' modes is not looked at. What the program does before it becomes
//! a server, all its processes share: a random number drawn there is the same in all of them.

mod wire;

pub use wire::{MAX_WORD, Order, RUN_ENDS, Report, STREAMS, in_a_row};

#[cfg(target_os = "linux")]
mod client;
#[cfg(target_os = "linux")]
pub use client::{ForkServer, Run};
#[cfg(not(target_os = "linux"))]
pub use elsewhere::ForkServer;

/// Elsewhere than on Linux there are no fork servers: there every process is started by executing its program.
#[cfg(not(target_os = "linux"))]
mod elsewhere {
    use std::ffi::OsString;
    use std::path::Path;
    use std::sync::Arc;

    use crate::local::Started;
    use crate::target::LaunchOptions;

    /// Starts nothing on this platform.
    #[derive(Clone, Debug)]
    pub struct ForkServer(());

    /// There is none on this platform.
    pub(crate) enum Server {}

    impl ForkServer {
        /// Does nothing on this platform.
        pub fn new(_program: &Path, _words: Vec<OsString>) -> ForkServer {
            ForkServer(())
        }

        pub(crate) async fn start(&self, _: &Path, _: &LaunchOptions) -> Option<(Started, Arc<Server>)> {
            None
        }
    }

    impl Server {
        pub(crate) fn is_gone(&self) -> bool {
            match *self {}
        }
    }
}
