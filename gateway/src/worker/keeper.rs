//! A guardian that stays: it forks the processes of runs, one after another, and leaves nothing of any of them.
//!
//! A process that runs one function needs a guardian as every worker does (see [`super::guardian`]), and to fork one for each
//! would double what its start costs. So the fork server keeps some, each of which forks a process, sweeps what that leaves
//! behind, and then waits for the next. It is told to whoever wants the run over a [line](crate::local::line) of its own that
//! the process has ended: the fork server sleeps meanwhile.
//!
//! | what happens | what follows |
//! |---|---|
//! | the process ends, in any way | all that it left is killed at once, then the end is told |
//! | the line ends, or HUP, INT, QUIT or TERM reaches this guardian | the process may end by itself for the grace, then all is killed |
//! | the line asks for it, the fork server ends, or ALRM reaches this guardian | all is killed at once |
//! | this guardian is killed | the process kills what it sees below it and itself, the fork server the rest, and tells the end |
//! | there was nothing to do for a while, or no more will come | this guardian ends |

use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::time::{Duration, Instant};

use farcall_bootstrap::Exit;
use farcall_bootstrap::fork_server::in_a_row;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::net::{RecvFlags, SendFlags, recv, send};
use rustix::process::{Pid, Signal, kill_process, set_child_subreaper, setpgid};

use super::fork_server::exit_of;
use super::guard::SWEEP_LIMIT;
use super::guardian::{self, Outer, SWEEP};
use super::orders::{Run, hear_run};
use super::signals::{SignalFd, by_number};
use super::sweep::Below;
use super::title::Title;
use crate::local::line::{Ask, Told, WORD};
use crate::local::socket::START;
use crate::tasks::Tasks;

/// How long it stays without anything to do.
const STAY: Timespec = Timespec { tv_sec: 0, tv_nsec: 500_000_000 };

/// What all of them share with the fork server that forks them.
pub(super) struct Keeper {
    pub(super) outer: Outer,
    /// Where the runs come from; none but the first come where there is none.
    pub(super) runs: Option<OwnedFd>,
    /// Whether it waits for one, as the fork server sees it. It is taken by whoever sets it to false.
    pub(super) idle: Option<&'static AtomicBool>,
    pub(super) title: Title,
    pub(super) tasks: Arc<Tasks>,
    pub(super) slots: usize,
}

impl Keeper {
    /// The whole life of a process that was forked for it.
    pub(super) fn serve(self, first: Run) -> ! {
        let _ = rustix::thread::set_name(c"farcall-guard");
        // Without it what a run leaves behind would go to the fork server, which would end it too, but only with this process.
        let _ = set_child_subreaper(Some(Pid::INIT));
        // A group of its own, which the groups below cannot be mistaken for.
        let _ = setpgid(None, None);
        let Keeper { outer, runs, idle, title, tasks, slots } = self;
        let Outer { signals, mask, life, outside } = outer;
        let mut below = Below::new(None, Some(&signals), outside);
        below.look_around();
        let mut next = Some(first);
        while let Some(run) = next {
            let Run { role, words, socket, line } = run;
            let told = match guardian::fork() {
                Ok(None) => {
                    let guardian = below.myself();
                    drop(below);
                    drop((signals, life, line, runs));
                    let _ = rustix::thread::set_name(c"farcall-run");
                    // It has worked before.
                    let _ = title.show(in_a_row(&words));
                    mask.install();
                    let _ = setpgid(None, None);
                    guardian::outlive_no_guardian(guardian);
                    crate::local::serve_once::serve(&role, &tasks, socket, slots)
                }
                Ok(Some(child)) => {
                    drop(socket);
                    below.watch(child);
                    guard(child, role.life.grace, &line, &life, &signals, &mut below)
                }
                Err(_) => {
                    // Whoever wants the run listens there first.
                    drop(socket);
                    Told::NotStarted(libc::EAGAIN)
                }
            };
            // What could not be killed must not be taken for the next run's, which would be held up by it.
            let stays = !below.reap();
            // Before it is told: whoever hears of it may want the next run at once.
            if let Some(idle) = idle.filter(|_| stays) {
                idle.store(true, SeqCst);
            }
            tell(&line, told);
            drop(line);
            next = match (&runs, idle) {
                (Some(runs), Some(idle)) if stays => wait(runs, &signals, idle),
                _ => None,
            };
        }
        // SAFETY: ends the process without running anything of it. `exit` would run what the program had registered before
        // it was forked.
        unsafe { libc::_exit(0) }
    }
}

/// Watches over the process of one run, and ends all that it leaves.
fn guard(
    child: Pid,
    grace: Duration,
    line: &OwnedFd,
    life: &OwnedFd,
    signals: &SignalFd,
    below: &mut Below<'_>,
) -> Told {
    let mut listening = true;
    let mut due: Option<Instant> = None;
    loop {
        let timeout = due.map(|due| {
            let left = due.saturating_duration_since(Instant::now()) + Duration::from_millis(1);
            Timespec::try_from(left).unwrap_or(Timespec { tv_sec: 3600, tv_nsec: 0 })
        });
        let mut fds = [
            PollFd::new(signals, PollFlags::IN),
            PollFd::new(life, PollFlags::empty()),
            PollFd::new(line, PollFlags::IN),
        ];
        // A line that has ended would be reported for ever.
        let count = if listening { 3 } else { 2 };
        let _ = poll(&mut fds[..count], timeout.as_ref());
        let fallen = !fds[1].revents().is_empty();
        let mut ending = false;
        let mut over = fallen;
        while let Some(signal) = signals.next() {
            match signal {
                Signal::CHILD => {}
                SWEEP => over = true,
                other => {
                    let _ = kill_process(child, other);
                    ending |= !matches!(other, Signal::USR1 | Signal::USR2);
                }
            }
        }
        let any_child = below.reap();
        if below.status().is_some() || !any_child || over {
            break;
        }
        while listening {
            let mut bytes = [0; 1 + WORD];
            match recv(line, &mut bytes, RecvFlags::DONTWAIT) {
                Ok((length @ 1.., _)) => match Ask::from_bytes(&bytes[1..length]) {
                    Some(Ask::Signal(number)) => {
                        if let Some(signal) = by_number(number) {
                            // It was not reaped: its number is its own.
                            let _ = kill_process(child, signal);
                        }
                    }
                    Some(Ask::Kill) => over = true,
                    None => {}
                },
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => break,
                Ok(_) | Err(_) => (listening, ending) = (false, true),
            }
        }
        if ending && due.is_none() {
            // Beyond all clocks is never.
            due = Instant::now().checked_add(grace);
        }
        if over || due.is_some_and(|due| due <= Instant::now()) {
            break;
        }
    }
    below.end(SWEEP_LIMIT);
    Told::Ended(below.status().map_or(Exit::Signal(libc::SIGKILL), exit_of))
}

/// Waits for the next run; `None` when it is time to end.
fn wait(runs: &OwnedFd, signals: &SignalFd, idle: &AtomicBool) -> Option<Run> {
    loop {
        let mut fds = [PollFd::new(signals, PollFlags::IN), PollFd::new(runs, PollFlags::IN)];
        let ready = poll(&mut fds, Some(&STAY));
        // What was meant for the last run, before the next.
        while let Some(signal) = signals.next() {
            if !matches!(signal, Signal::CHILD | Signal::USR1 | Signal::USR2) && idle.swap(false, SeqCst) {
                return None;
            }
        }
        match ready {
            Ok(0) if idle.swap(false, SeqCst) => return None,
            // The next is on its way.
            Ok(0) => {}
            // A signal that was sent before a run is for the one before: it is off the descriptor by now only if the run was there
            // when that was looked at.
            Ok(_) if fds[1].revents().is_empty() => {}
            Ok(_) => match hear_run(runs) {
                Ok(Some(run)) => return Some(run),
                Ok(None) => {}
                // The fork server is ending, or what it said makes no sense.
                Err(_) => return None,
            },
            Err(_) => {}
        }
    }
}

/// Tells the end. Whoever wanted the run may be gone.
pub(super) fn tell(line: &OwnedFd, told: Told) {
    let mut bytes = [START; 1 + WORD];
    bytes[1..].copy_from_slice(&told.to_bytes());
    let _ = send(line, &bytes, SendFlags::NOSIGNAL | SendFlags::DONTWAIT);
}
