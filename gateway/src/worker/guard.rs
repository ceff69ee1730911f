//! The loop that a guardian is: what it watches, what it shares with the worker, and how it ends.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::mm::{MapFlags, ProtFlags, mmap_anonymous};
use rustix::process::{Pid, Signal, WaitStatus, kill_process};

use super::guardian::{Options, SWEEP};
use super::signals::{SignalFd, die_by};
use super::sweep::Below;

/// After this much killing, what is left cannot be killed.
pub(super) const SWEEP_LIMIT: Duration = Duration::from_secs(10);

/// How much longer than the inner guardian the outer one waits: it steps in only where the inner one is stuck.
const OUTER_MARGIN: Duration = Duration::from_secs(2);

/// A timer that fires this late was asleep with the whole machine, or stopped.
const LATE: Duration = Duration::from_secs(1);

/// How long a guardian leaves the processor to the worker before it tidies up after the fork.
const HEAD_START: Timespec = Timespec { tv_sec: 0, tv_nsec: 2_000_000 };

/// One page that the worker and its guardians share. Times are milliseconds, of the clock of [`now_ms`].
#[repr(C)]
#[derive(Debug)]
pub(super) struct Shared {
    touched: AtomicU64,
    /// Zero: no lease.
    lease: AtomicU64,
    grace: AtomicU64,
    ask_first: AtomicBool,
}

impl Shared {
    pub(super) fn new(options: &Options) -> io::Result<&'static Self> {
        // SAFETY: a fresh mapping at an address of the kernel's choice overlaps nothing.
        let page = unsafe {
            mmap_anonymous(
                std::ptr::null_mut(),
                size_of::<Self>(),
                ProtFlags::READ | ProtFlags::WRITE,
                MapFlags::SHARED,
            )?
        };
        // SAFETY: the mapping is large enough, aligned to a page, zeroed (valid for atomics) and never unmapped.
        let shared = unsafe { &*page.cast::<Self>() };
        shared.set_grace(options.grace);
        shared.set_ask_first(options.ask_first);
        Ok(shared)
    }

    pub(super) fn touch(&self) {
        self.touched.store(now_ms(), Relaxed);
    }

    pub(super) fn set_lease(&self, period: Duration) {
        self.lease.store(millis(period), Relaxed);
    }

    pub(super) fn set_grace(&self, grace: Duration) {
        self.grace.store(millis(grace), Relaxed);
    }

    pub(super) fn set_ask_first(&self, ask: bool) {
        self.ask_first.store(ask, Relaxed);
    }

    pub(super) fn has_lease(&self, period: Duration) -> bool {
        self.lease.load(Relaxed) == millis(period)
    }

    fn grace(&self) -> Duration {
        Duration::from_millis(self.grace.load(Relaxed))
    }
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

/// The monotonic clock, which all processes share and which stands still while the machine sleeps.
fn now_ms() -> u64 {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
    u64::try_from(now.tv_sec).unwrap_or(0) * 1000 + u64::try_from(now.tv_nsec).unwrap_or(0) / 1_000_000
}

/// A guardian: one child, and what to watch.
pub(super) struct Guardian {
    /// As `ps` shows it.
    pub(super) name: &'static std::ffi::CStr,
    pub(super) child: Pid,
    pub(super) outer: bool,
    /// Groups of whoever launched us.
    pub(super) outside: [Option<Pid>; 3],
    /// A duplicate of the worker's input.
    pub(super) input: Option<OwnedFd>,
    /// The link to the outer guardian.
    pub(super) above: Option<OwnedFd>,
    /// The link to the child.
    pub(super) below: OwnedFd,
    /// Whether descriptors 0 to 2 are `/dev/null` already.
    pub(super) tidy: bool,
    /// Whether the child may still knock at the link. Its end alone is no sign: SIGCHLD tells that.
    pub(super) knocking: bool,
}

/// What a guardian decided after waking.
enum Next {
    Wait(Option<Instant>),
    Sweep,
}

impl Guardian {
    pub(super) fn run(mut self, signals: io::Result<SignalFd>, shared: &'static Shared) -> ! {
        let _ = rustix::thread::set_name(self.name);
        let Ok(signals) = signals else {
            // Blind, it cannot guard. Ending makes the worker end too.
            let _ = kill_process(self.child, Signal::KILL);
            die_by(libc::SIGKILL)
        };
        // The worker's first steps matter more than ours, and on a busy machine both compete. Its end wakes us.
        let _ = poll(&mut [PollFd::new(&signals, PollFlags::IN)], Some(&HEAD_START));
        let mut below = Below::new(Some(self.child), Some(&signals), self.outside);
        if !below.reap() {
            // That is all there was to guard.
            repeat(below.status())
        }
        self.let_go_of_everything_else(&signals);
        below.look_around();
        let mut clock =
            Clock { shared, ending: None, margin: if self.outer { OUTER_MARGIN } else { Duration::ZERO } };
        let mut due: Option<Instant> = None;
        loop {
            let next = self.look(&mut below, &signals, &mut clock, due);
            match next {
                Next::Sweep => break,
                Next::Wait(until) => due = until,
            }
            self.sleep(&signals, due);
        }
        // First of all, so that the coordinator sees the end of the worker's output even where it is one socket with
        // the input.
        self.input = None;

        let asked = below.status().is_some() && shared.ask_first.load(Relaxed) && !self.outer;
        if asked {
            let until = clock.ending.unwrap_or_else(Instant::now) + shared.grace();
            below.ask(until);
        }
        below.end(SWEEP_LIMIT);
        repeat(below.status())
    }

    /// Keeps the descriptors that it polls, and three of `/dev/null`.
    fn let_go_of_everything_else(&self, signals: &SignalFd) {
        let mut keep = [-1; 4];
        keep[0] = signals.as_fd().as_raw_fd();
        keep[1] = self.below.as_raw_fd();
        keep[2] = self.input.as_ref().map_or(-1, AsRawFd::as_raw_fd);
        keep[3] = self.above.as_ref().map_or(-1, AsRawFd::as_raw_fd);
        if self.tidy {
            close_all_but(&mut keep, 3);
        } else {
            close_all_but(&mut keep, 0);
            occupy_standard();
        }
        // So as not to keep a file system busy.
        let _ = rustix::process::chdir(c"/");
    }

    /// Takes in all that has happened and says what to do next.
    fn look(
        &mut self,
        below: &mut Below<'_>,
        signals: &SignalFd,
        clock: &mut Clock,
        due: Option<Instant>,
    ) -> Next {
        while let Some(signal) = signals.next() {
            match signal {
                Signal::CHILD => {}
                // Whoever forked us wants it over.
                SWEEP => return Next::Sweep,
                Signal::USR1 | Signal::USR2 => self.pass_on(signal),
                other => {
                    self.pass_on(other);
                    clock.begin_ending();
                }
            }
        }
        let any_child = below.reap();
        if below.status().is_some() || !any_child {
            return Next::Sweep;
        }
        if self.above.as_ref().is_some_and(|above| hung_up(above.as_fd())) {
            return Next::Sweep;
        }
        if self.input.as_ref().is_some_and(|input| hung_up(input.as_fd())) {
            clock.begin_ending();
            // It would be reported for ever.
            self.input = None;
        }
        // The worker's knocks only wake; what they are about is in the page.
        let mut knocks = [0u8; 64];
        while self.knocking {
            match rustix::io::read(&self.below, &mut knocks) {
                Ok(1..) | Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => break,
                // The worker has ended, or has closed what is not its own.
                Ok(0) | Err(_) => self.knocking = false,
            }
        }

        let now = Instant::now();
        if !self.outer {
            // A lease that is seen for the first time begins now: before, nothing would have told that we were asleep.
            let late = due.is_none_or(|due| now.saturating_duration_since(due) > LATE);
            clock.check_lease(late);
        }
        match clock.next(now, !self.outer) {
            Some(at) if at <= now && clock.ending.is_some() => Next::Sweep,
            at => Next::Wait(at),
        }
    }

    fn pass_on(&self, signal: Signal) {
        let _ = kill_process(self.child, signal);
    }

    fn sleep(&self, signals: &SignalFd, until: Option<Instant>) {
        let timeout = until.map(|until| {
            let left = until.saturating_duration_since(Instant::now()) + Duration::from_millis(1);
            Timespec::try_from(left).unwrap_or(Timespec { tv_sec: 3600, tv_nsec: 0 })
        });
        // POLLRDHUP, since sshd only shuts down its half of the socket when the coordinator has sent its end of file.
        // Data is not asked for, so the worker's traffic does not wake us.
        let mut fds: [_; 4] = std::array::from_fn(|_| PollFd::new(signals, PollFlags::IN));
        let mut count = 1;
        let knocks = self.knocking.then_some((&self.below, PollFlags::IN));
        let ends = [&self.input, &self.above].into_iter().flatten().map(|fd| (fd, PollFlags::RDHUP));
        for (slot, (fd, flags)) in fds[1..].iter_mut().zip(knocks.into_iter().chain(ends)) {
            *slot = PollFd::new(fd, flags);
            count += 1;
        }
        let _ = poll(&mut fds[..count], timeout.as_ref());
    }
}

/// Whether the other end of a pipe or socket is gone, or has said that nothing more will come, even if something is
/// still to be read.
fn hung_up(fd: BorrowedFd<'_>) -> bool {
    let mut fds = [PollFd::from_borrowed_fd(fd, PollFlags::RDHUP)];
    let none = Timespec { tv_sec: 0, tv_nsec: 0 };
    let gone = PollFlags::HUP | PollFlags::RDHUP | PollFlags::ERR | PollFlags::NVAL;
    poll(&mut fds, Some(&none)).is_ok_and(|ready| ready > 0) && fds[0].revents().intersects(gone)
}

/// When the worker must be gone.
struct Clock {
    shared: &'static Shared,
    ending: Option<Instant>,
    margin: Duration,
}

impl Clock {
    fn begin_ending(&mut self) {
        self.ending.get_or_insert_with(Instant::now);
    }

    fn check_lease(&mut self, late: bool) {
        let period = self.shared.lease.load(Relaxed);
        if period == 0 || self.ending.is_some() {
            return;
        }
        if late {
            self.shared.touched.fetch_max(now_ms(), Relaxed);
        } else if now_ms().saturating_sub(self.shared.touched.load(Relaxed)) >= period {
            self.begin_ending();
        }
    }

    /// The next moment at which something must be decided.
    fn next(&self, now: Instant, leased: bool) -> Option<Instant> {
        if let Some(began) = self.ending {
            return began.checked_add(self.shared.grace() + self.margin);
        }
        let period = self.shared.lease.load(Relaxed);
        if period == 0 || !leased {
            return None;
        }
        let spent = now_ms().saturating_sub(self.shared.touched.load(Relaxed));
        now.checked_add(Duration::from_millis(period.saturating_sub(spent)))
    }
}

/// Ends as the child did.
fn repeat(status: Option<WaitStatus>) -> ! {
    match status {
        Some(status) if status.exited() => {
            let code = status.exit_status().unwrap_or(1);
            // SAFETY: ends the process without running anything of it. `exit` would run what the program had
            // registered before it was forked.
            unsafe { libc::_exit(code) }
        }
        Some(status) => die_by(status.terminating_signal().unwrap_or(libc::SIGKILL)),
        None => die_by(libc::SIGKILL),
    }
}

/// Opens `/dev/null` three times, where the standard streams have been closed.
fn occupy_standard() {
    for _ in 0..3 {
        if let Ok(null) = rustix::fs::open(c"/dev/null", rustix::fs::OFlags::RDWR, rustix::fs::Mode::empty())
        {
            std::mem::forget(null);
        }
    }
}

/// Closes every descriptor from `first` on but those of `keep` (-1 for none).
fn close_all_but(keep: &mut [RawFd], first: RawFd) {
    keep.sort_unstable();
    let mut from = first;
    for kept in keep.iter().copied().filter(|fd| *fd >= first) {
        if kept > from {
            close_range(from, kept - 1);
        }
        from = kept + 1;
    }
    close_range(from, RawFd::MAX);
}

fn close_range(first: RawFd, last: RawFd) {
    let (first, last) = (first.unsigned_abs(), last.unsigned_abs());
    // SAFETY: called in a guardian, where no owner of such a descriptor will ever run again.
    if unsafe { libc::syscall(libc::SYS_close_range, first, last, 0) } == 0 {
        return;
    }
    // Before Linux 5.9. A program that has just started has few, but an inherited one may be high.
    let limit =
        rustix::process::getrlimit(rustix::process::Resource::Nofile).maximum.unwrap_or(65_536).min(65_536);
    for fd in first..=last.min(u32::try_from(limit).unwrap_or(65_536)) {
        let Ok(fd) = RawFd::try_from(fd) else { return };
        // SAFETY: as above; closing what is not open does nothing.
        unsafe { libc::close(fd) };
    }
}
