//! Forking the guardians of Linux, and the worker's side of them.

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicI32, Ordering::Relaxed};
use std::time::Duration;

use rustix::net::{AddressFamily, SocketFlags, SocketType, socketpair};
use rustix::process::{
    Pid, Signal, getpgid, getpgrp, getpid, getppid, kill_process, set_child_subreaper, setpgid,
};

use super::super::guard::{Guardian, Shared};
use super::super::signals::{SignalFd, SignalSet, be_told_of_children, stop_ignoring};
use super::super::sweep::Below;
use super::{Options, StartError};

/// What a guardian takes off its signal descriptor. SIGCHLD wakes it, SIGALRM says that
/// its time is up, the others it passes on.
pub(in super::super) const WATCHED: [Signal; 8] = [
    Signal::CHILD,
    Signal::ALARM,
    Signal::HUP,
    Signal::INT,
    Signal::QUIT,
    Signal::TERM,
    Signal::USR1,
    Signal::USR2,
];

/// The worker's side of its guardians.
///
/// Dropping it changes nothing: the guardians stay for the life of the process.
#[derive(Debug)]
pub struct Guarded {
    shared: &'static Shared,
    /// To knock at.
    link: OwnedFd,
}

/// The worker's sign of life: while it is [touched](Lease::touch) more often than its period, the guardians are
/// content. Cheap enough to touch for every read from the coordinator: a clock reading and a store.
#[derive(Clone, Debug)]
pub struct Lease {
    shared: &'static Shared,
}

/// Forks the guardians; returns in the worker, which is a new process.
///
/// Must be called before any thread exists and before descriptor 0 is moved: the inner guardian watches a duplicate
/// of it. A few milliseconds later the guardians have closed everything else, so the worker's output ends with the
/// worker (where input and output are one socket: as soon as the inner guardian has noticed the worker's end).
///
/// In the worker, signals that the launching side had ignored have their default action again, except SIGPIPE, and none is
/// blocked.
///
/// # Errors
/// See [`StartError`]. If the second of the two forks fails, the error is returned in a process that has one guardian.
///
/// # Example
/// ```no_run
/// use farcall::worker::guardian;
///
/// let guarded = guardian::start(&guardian::Options::default())?;
/// // Only the worker gets here. Whatever it starts from now on ends with it.
/// let lease = guarded.lease(std::time::Duration::from_secs(20));
/// lease.touch();
/// # Ok::<(), guardian::StartError>(())
/// ```
pub fn start(options: &Options) -> Result<Guarded, StartError> {
    let threads = threads();
    if threads != 1 {
        return Err(StartError::Threads { threads });
    }
    let shared = Shared::new(options).map_err(failed("share a page with the guardians"))?;
    let watched = SignalSet::of(&WATCHED);
    // Blocked before the first fork, so that no guardian can miss a signal or die by one.
    let mask = watched.install();
    be_told_of_children();
    let started = fork_guardians(options, shared, &watched);
    mask.install();
    let worker = started?;

    // Leads its own group, so that signals to the group of whoever launched us do not reach it. Cannot fail: a process
    // that was just forked leads nothing.
    let _ = setpgid(None, None);
    leave_terminal();
    stop_ignoring();
    outlive_no_guardian(worker.guardian);
    Ok(Guarded { shared, link: worker.link })
}

/// What the worker has of its guardian.
struct Forked {
    link: OwnedFd,
    guardian: Pid,
}

/// Lets go of the controlling terminal, if there is one: nothing below shall ask there for passwords, or be stopped
/// for reading in the background. A session of its own would do that too, but costs more than the fork where the
/// scheduler gives every session a group.
pub(in super::super) fn leave_terminal() {
    let flags = rustix::fs::OFlags::RDWR | rustix::fs::OFlags::NOCTTY | rustix::fs::OFlags::CLOEXEC;
    if let Ok(terminal) = rustix::fs::open(c"/dev/tty", flags, rustix::fs::Mode::empty()) {
        // SAFETY: takes no argument; the process was just forked and leads no session, so only it is affected.
        unsafe { libc::ioctl(terminal.as_raw_fd(), libc::TIOCNOTTY) };
    }
}

fn failed<E: Into<io::Error>>(doing: &'static str) -> impl FnOnce(E) -> StartError {
    move |error| StartError::System { doing, source: error.into() }
}

/// The threads of this process, or one where `/proc` is missing and cannot tell.
pub(in super::super) fn threads() -> usize {
    use std::os::unix::fs::MetadataExt;
    // A directory has a link from its parent, one from itself, and one from each directory in it: here, a thread.
    std::fs::metadata("/proc/self/task")
        .map_or(1, |task| usize::try_from(task.nlink().saturating_sub(2)).unwrap_or(1))
}

/// Returns the link to the guardian in the worker, or what failed in whichever process it failed. The guardians
/// themselves never return.
fn fork_guardians(
    options: &Options,
    shared: &'static Shared,
    watched: &SignalSet,
) -> Result<Forked, StartError> {
    set_child_subreaper(Some(Pid::INIT)).map_err(failed("become the parent of orphans"))?;
    let mut outer = None;
    let launcher = getppid().and_then(|launcher| getpgid(Some(launcher)).ok());
    let mut outside = [Some(getpgrp()), launcher, None];
    // Out of the terminal's foreground group. The leader of a session stays where it is.
    let _ = setpgid(None, None);
    if options.doubled {
        let (above, below) = link()?;
        match fork()? {
            Some(inner) => {
                drop(below);
                let signals = SignalFd::new(watched);
                Guardian {
                    name: c"farcall-outer",
                    child: inner,
                    outer: true,
                    outside,
                    input: None,
                    above: None,
                    below: above,
                    tidy: false,
                    knocking: false,
                }
                .run(signals, shared)
            }
            None => {
                drop(above);
                outer = Some(below);
                outside[2] = getppid();
                // Subreaping is not inherited.
                set_child_subreaper(Some(Pid::INIT)).map_err(failed("become the parent of orphans"))?;
            }
        }
    }
    // A group of its own, which the groups below cannot be mistaken for. The leader of a session has one already.
    let _ = setpgid(None, None);
    fork_inner(shared, outside, outer, false, || {
        // SAFETY: borrowed for this call only. Descriptor 0 may be closed; then duplicating it fails, and there is no
        // input to watch.
        let input = rustix::io::fcntl_dupfd_cloexec(unsafe { BorrowedFd::borrow_raw(0) }, 3).ok();
        (SignalFd::new(watched), input)
    })
}

/// Forks the worker off the inner guardian. Returns in the worker only; what the guardian watches is asked for in the
/// guardian only.
fn fork_inner(
    shared: &'static Shared,
    outside: [Option<Pid>; 3],
    above: Option<OwnedFd>,
    tidy: bool,
    watched: impl FnOnce() -> (io::Result<SignalFd>, Option<OwnedFd>),
) -> Result<Forked, StartError> {
    let myself = getpid();
    let (guardian, worker) = link()?;
    match fork()? {
        Some(child) => {
            drop(worker);
            let (signals, input) = watched();
            Guardian {
                name: c"farcall-guard",
                child,
                outer: false,
                outside,
                input,
                above,
                below: guardian,
                tidy,
                knocking: true,
            }
            .run(signals, shared)
        }
        None => Ok(Forked { link: worker, guardian: myself }),
    }
}

/// What a fork server, the outer guardian of all its workers, gives to the inner guardian of one.
pub(in super::super) struct Outer {
    /// Made from [`WATCHED`], which is blocked.
    pub(in super::super) signals: SignalFd,
    /// The mask that the worker is to have.
    pub(in super::super) mask: SignalSet,
    /// Hangs up when the server ends.
    pub(in super::super) life: OwnedFd,
    /// Groups of the server and of whoever launched it.
    pub(in super::super) outside: [Option<Pid>; 3],
}

/// Goes on as the guardian, in a process that was forked for it; returns in the worker (or what failed, in whichever process
/// it failed), with the worker's input and what else is the worker's alone.
///
/// Descriptors 0 to 2 are `/dev/null`, there is no terminal, no signal is ignored.
pub(in super::super) fn start_below<T>(
    outer: Outer,
    options: &Options,
    lease: Duration,
    input: OwnedFd,
    others: T,
) -> (Result<Guarded, StartError>, OwnedFd, T) {
    let Outer { signals, mask, life, outside } = outer;
    let (mut signals, mut streams) = (Some(signals), Some((input, others)));
    let forked = || {
        set_child_subreaper(Some(Pid::INIT)).map_err(failed("become the parent of orphans"))?;
        // A group of its own, which the groups below cannot be mistaken for.
        let _ = setpgid(None, None);
        let shared = Shared::new(options).map_err(failed("share a page with the guardian"))?;
        shared.touch();
        shared.set_lease(lease);
        let worker = fork_inner(shared, outside, Some(life), true, || {
            let input = streams.take().map(|(input, _others)| input);
            (signals.take().ok_or_else(|| io::ErrorKind::NotFound.into()), input)
        })?;
        mask.install();
        let _ = setpgid(None, None);
        outlive_no_guardian(worker.guardian);
        Ok(Guarded { shared, link: worker.link })
    };
    let guarded = forked();
    let (input, others) = streams.take().expect("only the guardian takes them, and it does not return");
    (guarded, input, others)
}

fn link() -> Result<(OwnedFd, OwnedFd), StartError> {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    socketpair(AddressFamily::UNIX, SocketType::STREAM, flags, None).map_err(failed("link the guardians"))
}

/// The child's number in the parent, `None` in the child.
pub(in super::super) fn fork() -> Result<Option<Pid>, StartError> {
    // SAFETY: there is one thread, so the child is a complete copy of this process: no lock is held by a thread that
    // it lacks.
    let pid = unsafe { libc::fork() };
    match pid {
        -1 => Err(failed("fork a guardian")(io::Error::last_os_error())),
        0 => Ok(None),
        pid => Ok(Pid::from_raw(pid)),
    }
}

impl Guarded {
    /// Changes the grace for whatever ends from now on.
    pub fn set_grace(&self, grace: Duration) {
        self.shared.set_grace(grace);
        self.wake();
    }

    /// Changes [`Options::ask_first`].
    pub fn set_ask_first(&self, ask: bool) {
        self.shared.set_ask_first(ask);
    }

    /// Begins a lease: when `period` passes without [`Lease::touch`], the guardians act as if the input had ended. A
    /// process that was stopped, or slept with its machine, beyond the period gets one more to come to its senses.
    ///
    /// There is one lease per worker; a later call changes its period. A period of zero is no lease.
    pub fn lease(&self, period: Duration) -> Lease {
        let lease = Lease { shared: self.shared };
        lease.touch();
        if !self.shared.has_lease(period) {
            self.shared.set_lease(period);
            self.wake();
        }
        lease
    }

    /// Has the inner guardian look at its page again. A full link means that it is about to.
    fn wake(&self) {
        let _ = rustix::net::send(&self.link, b"!", rustix::net::SendFlags::NOSIGNAL);
    }
}

impl Lease {
    /// Says that the coordinator was heard of just now.
    pub fn touch(&self) {
        self.shared.touch();
    }

    /// Ends the lease: from now on only the end of the input counts.
    pub fn end(&self) {
        self.shared.set_lease(Duration::ZERO);
    }
}

/// The last resort: when the guardian is gone, the worker kills what is still below it, then itself.
///
/// By a signal that the kernel sends at the guardian's death: it interrupts whatever the threads are doing, costs
/// nothing until then, and leaves the worker with one thread.
pub(in super::super) fn outlive_no_guardian(guardian: Pid) {
    GUARDIAN.store(guardian.as_raw_nonzero().get(), Relaxed);
    let signal = libc::SIGRTMIN() + DEATH_OF_GUARDIAN;
    // SAFETY: the action is zeroed, which is valid, and its handler makes system calls only.
    unsafe {
        let mut action: libc::sigaction = std::mem::zeroed();
        action.sa_sigaction = guardian_died as extern "C" fn(libc::c_int) as libc::sighandler_t;
        action.sa_flags = libc::SA_RESTART;
        libc::sigaction(signal, &raw const action, std::ptr::null_mut());
        libc::prctl(libc::PR_SET_PDEATHSIG, signal);
    }
    // It may have died before that.
    guardian_died(signal);
}

/// The signal, counted from the first real-time signal that the C library leaves to programs. Nothing known uses it.
const DEATH_OF_GUARDIAN: i32 = 13;

/// The guardian's number, for the handler.
static GUARDIAN: AtomicI32 = AtomicI32::new(0);

/// Allocates nothing, takes no lock, and leaves `errno` alone: the calls are made directly, not through the C library.
extern "C" fn guardian_died(_signal: libc::c_int) {
    let guardian = Pid::from_raw(GUARDIAN.load(Relaxed));
    if getppid() == guardian {
        // Somebody else's signal, or none.
        return;
    }
    // Whoever loses its parent while this goes on shall come here and not escape.
    let _ = set_child_subreaper(Some(Pid::INIT));
    let mut below = Below::new(None, None, [None; 3]);
    below.look_around();
    below.end(Duration::from_secs(1));
    let _ = kill_process(getpid(), Signal::KILL);
}
