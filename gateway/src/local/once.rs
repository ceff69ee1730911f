//! One function in a fresh process, by the short way: no connection, one fork, and no thread but the caller's.
//!
//! ```text
//! caller ── order, with two sockets ──▶ fork server ──▶ guardian ── forks ──▶ process
//!        ◀───────────────── reply ──────────────────────────────────────────────┘
//!        ◀─ that all has ended ───────────────────────────┘
//! ```
//!
//! The call waits in the process's socket before there is a process. It is of this very program, so there is nothing to agree
//! on; what it prints nobody could read. The short way is open where a fork server runs, the process is to be as this one is, the
//! function asks for no [`Context`](crate::Context), and no log is wanted.

use std::io;
use std::os::fd::AsFd;
use std::sync::Arc;
use std::time::Duration;

use farcall_bootstrap::fork_server::Run;
use farcall_bootstrap::{Class, Exit, LaunchError, Step};

use super::child::sleep;
use super::error::RunError;
use super::family::Member;
use super::line::{Ask, Told};
use super::options::Options;
use super::socket::{Assembly, Received, RecvFault, Socket};
use super::wire::{self, Call, Said};
use crate::end::GatewayEnd;
use crate::ids::Id;
use crate::open::OpenError;
use crate::role::LONGEST;

/// How long a process may take to be told to have ended after it was killed.
const AFTERMATH: Duration = Duration::from_secs(2);

/// How soon it is killed again.
const AGAIN: Duration = Duration::from_millis(100);

/// A process that was ordered. Dropping it ends it, within its grace.
pub(super) struct Once {
    id: Id,
    socket: Socket,
    line: Arc<Line>,
    /// Whether the call may be sent to another process, if this one has not read it.
    repeatable: bool,
    grace: Duration,
    driver: tokio::runtime::Handle,
    /// For signals that reach the program.
    _member: Member,
}

/// The line to the guardian.
#[derive(Debug)]
pub(super) struct Line {
    socket: Socket,
    run: Run,
}

impl Line {
    pub(super) fn signal(&self, number: i32) -> rustix::io::Result<()> {
        self.socket.try_send(&Ask::Signal(number).to_bytes(), &[]).map(drop)
    }

    /// By its guardian, and by the fork server where that is stopped: each may have no ear for it, or no room.
    pub(super) fn kill(&self) {
        let _ = self.socket.try_send(&Ask::Kill.to_bytes(), &[]);
        self.run.kill();
    }
}

impl Once {
    /// Orders a process for the call. `None` if the short way is not open; nothing was started then, and the call not sent.
    pub(super) fn start(options: &Options, call: &mut Call) -> Result<Option<Once>, RunError> {
        let Some(initialised) = crate::init::program() else { return Ok(None) };
        if !options.are_plain() || initialised.log.is_some() || !call.fits_a_chunk() {
            return Ok(None);
        }
        let system = |error: rustix::io::Errno| RunError::System(error.into());
        let driver = crate::open::driver().map_err(|error| RunError::of_open(OpenError::Driver(error)))?;
        let server = crate::open::own_fork_server();
        let server = server.map_err(|error| RunError::of_open(OpenError::Program(error)))?;
        let spec = options.spec();
        let Some(id) = Id::take(spec.asked_id()) else { return Ok(None) };
        // Before the start: a signal that reaches the program in the meantime is for this one too.
        let member = Member::join();
        let (socket, theirs) = Socket::pair().map_err(RunError::System)?;
        let (line, guardian) = Socket::pair().map_err(RunError::System)?;
        // A time limit begins when the call has been read, and room tells that.
        let socket = if options.time_limit.is_some() { socket } else { socket.without_waiting_for_room() };
        let line = line.without_waiting_for_room();
        // A new socket has room for a chunk.
        let (message, sockets) = call.numbered(0);
        socket.try_send(message, sockets).map_err(system)?;
        let words = crate::open::worker_words(&id, spec.life(), false);
        let ends = [theirs.descriptor(), guardian.descriptor()];
        // What was sent to a process that is not to be is closed with its socket.
        let Some(run) = server.run(&words, [ends[0].as_fd(), ends[1].as_fd()]) else { return Ok(None) };
        call.departed();
        let line = Arc::new(Line { socket: line, run });
        member.ordered(&line);
        let grace = options.grace_or_usual();
        let repeatable = call.is_repeatable();
        Ok(Some(Once { id, socket, line, repeatable, grace, driver, _member: member }))
    }

    /// The reply. The process has ended when this returns. `None` if it has never begun, since the fork server ended, and is to be
    /// started in another way.
    pub(super) async fn outcome(self, options: &Options) -> Result<Option<Received>, RunError> {
        let start_limit = options.start_limit_or_usual();
        let mut assembly = Assembly::default();
        let received = match options.time_limit {
            None => self.received(&mut assembly, start_limit).await?,
            Some(limit) => {
                let deadline = async {
                    self.socket.all_read().await;
                    sleep(&self.driver, limit).await;
                };
                let received = tokio::select! {
                    biased;
                    received = self.received(&mut assembly, start_limit) => Some(received?),
                    () = deadline => None,
                };
                match received {
                    Some(received) => received,
                    None => {
                        self.kill().await;
                        return Err(RunError::TimedOut { limit });
                    }
                }
            }
        };
        match received {
            Ok(Some(received)) if wire::said(received.bytes()) == Some(Said::Reply(0)) => {
                // That the process closes it as it ends need not wake anybody.
                self.socket.rest();
                self.ended().await;
                Ok(Some(received))
            }
            Ok(Some(_)) | Err(RecvFault::Malformed) => {
                self.kill().await;
                Err(RunError::Malformed)
            }
            Err(RecvFault::System(error)) => {
                self.kill().await;
                Err(RunError::System(error))
            }
            // A function may have closed the socket without ending its process, which is of no use any more.
            Ok(None) | Err(RecvFault::Cut) => {
                let told = self.ended().await;
                if assembly.unread && self.repeatable && self.line.run.has_lost_its_server() {
                    return Ok(None);
                }
                Err(match told {
                    Told::NotStarted(errno) => {
                        let error = LaunchError::new(Step::Start, Class::Exec, PLACE);
                        let error = error.because(io::Error::from_raw_os_error(errno));
                        RunError::of_open(OpenError::Launch(error))
                    }
                    Told::Ended(exit) if assembly.unread => {
                        RunError::of_open(OpenError::Ended { end: self.end(exit) })
                    }
                    Told::Ended(exit) => RunError::of_end(self.end(exit)),
                })
            }
        }
    }

    /// What comes from the process, which has to begin within the limit.
    async fn received(
        &self,
        assembly: &mut Assembly,
        start_limit: Duration,
    ) -> Result<Result<Option<Received>, RecvFault>, RunError> {
        let late = sleep(&self.driver, start_limit);
        tokio::select! {
            biased;
            received = self.socket.recv(assembly) => return Ok(received),
            () = late => {}
        }
        if self.socket.is_unread() {
            self.kill().await;
            let place = PLACE.to_owned();
            return Err(RunError::of_open(OpenError::Silent { place }));
        }
        Ok(self.socket.recv(assembly).await)
    }

    fn end(&self, exit: Exit) -> Arc<GatewayEnd> {
        Arc::new(GatewayEnd::of_process(Arc::clone(self.id.text()), PLACE.into(), exit))
    }

    /// Waits for the end, and brings it about if it does not come.
    async fn ended(&self) -> Told {
        let deadline = sleep(&self.driver, self.grace.min(LONGEST));
        tokio::select! {
            biased;
            told = self.told() => return told,
            () = deadline => {}
        }
        self.kill().await
    }

    async fn kill(&self) -> Told {
        for _ in 0..AFTERMATH.as_millis() / AGAIN.as_millis() {
            // Again, since nobody may have had an ear for it.
            self.line.kill();
            let deadline = sleep(&self.driver, AGAIN);
            tokio::select! {
                biased;
                told = self.told() => return told,
                () = deadline => {}
            }
        }
        Told::Ended(Exit::Unknown)
    }

    /// Waits for what the guardian tells.
    async fn told(&self) -> Told {
        let mut assembly = Assembly::default();
        match self.line.socket.recv(&mut assembly).await {
            Ok(Some(word)) => Told::from_bytes(word.bytes()).unwrap_or(Told::Ended(Exit::Unknown)),
            // It is gone together with the fork server.
            Ok(None) | Err(_) => Told::Ended(Exit::Unknown),
        }
    }
}

/// As a spec names where it runs.
const PLACE: &str = "local";
