//! Signal sets, masks and the descriptor that delivers signals: the calls that no safe crate wraps.

#[cfg(target_os = "linux")]
use std::io;
use std::mem::MaybeUninit;

use rustix::process::Signal;

/// A set of signals to block, or a mask to go back to.
#[cfg(target_os = "linux")]
#[derive(Clone, Copy)]
pub(super) struct SignalSet(libc::sigset_t);

#[cfg(target_os = "linux")]
impl SignalSet {
    pub(super) fn empty() -> Self {
        let mut set = MaybeUninit::uninit();
        // SAFETY: sigemptyset initialises the whole set and cannot fail for a valid pointer.
        Self(unsafe {
            libc::sigemptyset(set.as_mut_ptr());
            set.assume_init()
        })
    }

    pub(super) fn full() -> Self {
        let mut set = MaybeUninit::uninit();
        // SAFETY: sigfillset initialises the whole set and cannot fail for a valid pointer.
        Self(unsafe {
            libc::sigfillset(set.as_mut_ptr());
            set.assume_init()
        })
    }

    pub(super) fn of(signals: &[Signal]) -> Self {
        let mut set = Self::empty();
        for signal in signals {
            // SAFETY: the set is initialised, and a number that does not exist only makes the call fail.
            unsafe { libc::sigaddset(&raw mut set.0, signal.as_raw()) };
        }
        set
    }

    pub(super) fn as_raw(&self) -> &libc::sigset_t {
        &self.0
    }

    /// Makes this the calling thread's mask and returns the one before.
    pub(super) fn install(&self) -> Self {
        let mut before = Self::empty();
        // SAFETY: both sets are initialised; the call fails for an unknown `how` only.
        unsafe { libc::pthread_sigmask(libc::SIG_SETMASK, &raw const self.0, &raw mut before.0) };
        before
    }
}

/// The signal of that number, if the system has it and programs may send it: the named ones and the real-time ones.
pub(crate) fn by_number(number: i32) -> Option<Signal> {
    #[cfg(target_os = "linux")]
    if (libc::SIGRTMIN()..=libc::SIGRTMAX()).contains(&number) {
        // SAFETY: the number is above zero, and none of those that the C library keeps for itself.
        return Some(unsafe { Signal::from_raw_unchecked(number) });
    }
    Signal::from_named_raw(number)
}

/// Has a broken pipe be an error of `write`, and no more: the standard library's start does so too.
pub(crate) fn ignore_broken_pipes() {
    // SAFETY: SIG_IGN runs no code, and the call fails for an unknown signal only.
    unsafe { libc::signal(libc::SIGPIPE, libc::SIG_IGN) };
}

/// Gives every signal that the launching side had ignored (`nohup`, a shell's `&`) its default action back, and blocks none in
/// this thread, so that what this process starts finds it so. SIGPIPE stays ignored, as [`ignore_broken_pipes`] has it.
pub(super) fn stop_ignoring() {
    let mut none = MaybeUninit::uninit();
    // SAFETY: sigemptyset initialises the set; nobody asks for the mask before; the call fails for an unknown `how` only.
    unsafe {
        libc::sigemptyset(none.as_mut_ptr());
        libc::pthread_sigmask(libc::SIG_SETMASK, none.as_ptr(), std::ptr::null_mut());
    }
    for number in 1..=31 {
        if matches!(number, libc::SIGKILL | libc::SIGSTOP | libc::SIGPIPE) {
            continue;
        }
        stop_ignoring_one(number);
    }
}

/// Has this process, and what it forks, be told of children that end: whoever started it may have ignored that, and then the
/// system says nothing and keeps no status.
pub(crate) fn be_told_of_children() {
    stop_ignoring_one(libc::SIGCHLD);
}

/// Gives a signal its default action back if it is ignored.
fn stop_ignoring_one(number: i32) {
    let mut now = MaybeUninit::<libc::sigaction>::uninit();
    // SAFETY: a null new action only asks; the answer is read only where the call succeeded; SIG_DFL runs no code.
    unsafe {
        if libc::sigaction(number, std::ptr::null(), now.as_mut_ptr()) == 0
            && now.assume_init_ref().sa_sigaction == libc::SIG_IGN
        {
            libc::signal(number, libc::SIG_DFL);
        }
    }
}

/// Signals as something to poll: a signalfd of a blocked set.
#[cfg(target_os = "linux")]
pub(super) struct SignalFd(std::os::fd::OwnedFd);

#[cfg(target_os = "linux")]
impl SignalFd {
    /// The signals of `set` must be blocked in every thread of the process.
    pub(super) fn new(set: &SignalSet) -> io::Result<Self> {
        use std::os::fd::FromRawFd;
        // SAFETY: -1 asks for a new descriptor; the set is initialised.
        let fd = unsafe { libc::signalfd(-1, set.as_raw(), libc::SFD_CLOEXEC | libc::SFD_NONBLOCK) };
        if fd < 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: the descriptor is new and belongs to nobody else.
        Ok(Self(unsafe { std::os::fd::OwnedFd::from_raw_fd(fd) }))
    }

    /// The next pending signal, without waiting.
    pub(super) fn next(&self) -> Option<Signal> {
        const SIZE: usize = size_of::<libc::signalfd_siginfo>();
        let mut info = [0u8; SIZE];
        loop {
            match rustix::io::read(&self.0, &mut info) {
                // The record begins with the signal's number (signalfd(2)).
                Ok(SIZE) => {
                    let number = u32::from_ne_bytes([info[0], info[1], info[2], info[3]]);
                    if let Some(signal) = i32::try_from(number).ok().and_then(Signal::from_named_raw) {
                        return Some(signal);
                    }
                }
                Err(rustix::io::Errno::INTR) => {}
                _ => return None,
            }
        }
    }
}

#[cfg(target_os = "linux")]
impl std::os::fd::AsFd for SignalFd {
    fn as_fd(&self) -> std::os::fd::BorrowedFd<'_> {
        self.0.as_fd()
    }
}

/// Ends this process by `signal` as if it had come from outside, without a core file; by `128 + signal` where the
/// signal cannot end it (the first process of a container ignores its own).
#[cfg(target_os = "linux")]
pub(super) fn die_by(signal: i32) -> ! {
    // A core of this process would be mistaken for one of the process whose fate it repeats.
    let _ = rustix::process::set_dumpable_behavior(rustix::process::DumpableBehavior::NotDumpable);
    // SAFETY: plain calls on numbers; SIG_DFL runs no code; the process ends here in any case.
    unsafe {
        libc::signal(signal, libc::SIG_DFL);
        SignalSet::empty().install();
        libc::raise(signal);
        libc::_exit(128 + (signal & 0x7f))
    }
}
