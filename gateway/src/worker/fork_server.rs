//! A process of this program that forks workers for its coordinator, and is the outer guardian of all of them.
//!
//! Its coordinator's half, and why there is one, is [`farcall_bootstrap::fork_server`]. This process has a single thread and
//! runs no task. What a worker would do before it knows whose it is has been done here once for all of them: the program
//! has been executed and relocated, signals, limits, terminal and standard streams are as a worker needs them.
//!
//! ```text
//! fork server        one for all; reports how workers ended
//! ├ inner guardian   watches the worker and the worker's input
//! │ └ worker         and whatever it starts
//! └ inner guardian …
//! ```
//!
//! For a process that runs one function, the guardian is one that [stays](super::keeper), and is given the next run when that is
//! over: one fork in place of two.
//!
//! | what happens | what follows |
//! |---|---|
//! | the coordinator ends | the workers' inputs end, of which their guardians know; this process ends after them |
//! | this process ends, in any way | the guardians sweep at once what is below them |
//! | a guardian is killed | its worker ends as by [`super::guardian`]; what else it had adopted is killed here, before its end is told |

use std::collections::{BTreeMap, VecDeque};
use std::ffi::OsString;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::time::{Duration, Instant};

use farcall_bootstrap::Exit;
use farcall_bootstrap::fork_server::{Order, RUN_ENDS, Report, STREAMS, in_a_row};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::mm::{MapFlags, ProtFlags, mmap_anonymous};
use rustix::net::{SendFlags, Shutdown, SocketType, send, shutdown};
use rustix::process::{
    Pid, Signal, WaitOptions, WaitStatus, getpgid, getpgrp, getppid, kill_process, set_child_subreaper,
    setpgid, wait,
};

use super::guardian::{self, Outer};
use super::keeper::{self, Keeper};
use super::orders::{Gone, Run, pass_on, receive, role, runs_socket};
use super::signals::{SignalFd, SignalSet, die_by, stop_ignoring};
use super::sweep::Below;
use super::title::Title;
use super::{early, limits, panics, serve, stdio};
use crate::local::line::Told;
use crate::role::Role;
use crate::tasks::Tasks;

/// How long after a guardian was told to end its worker it is killed itself, as one that was stopped must be. What it has
/// not swept by then is swept here.
const PATIENCE: Duration = Duration::from_millis(100);

/// How long after their grace workers whose coordinator is gone are left to their guardians.
const MARGIN: Duration = Duration::from_secs(2);

/// What is left of a killed guardian's worker after so much killing cannot be killed.
const SWEEP_LIMIT: Duration = Duration::from_secs(10);

/// The most guardians of runs that wait for the next one. Others end with the run that they were forked for.
const KEPT: usize = 4;

/// Orders that are taken before deaths are looked at again.
const AT_ONCE: usize = 16;

/// Serves until the coordinator goes. Without a word where this process cannot be a fork server.
pub(crate) fn serve(tasks: Arc<Tasks>) -> ! {
    match Server::new(tasks) {
        Ok(server) => server.run(),
        // The coordinator then starts its workers in another way.
        Err(_) => std::process::exit(70),
    }
}

struct Server {
    socket: OwnedFd,
    outer: Outer,
    /// The other end of what the guardians watch: its end is this process's.
    life: OwnedFd,
    title: Title,
    tasks: Arc<Tasks>,
    slots: usize,
    /// The guardians, by the numbers of their processes.
    children: BTreeMap<i32, Child>,
    /// Which guardians wait for a run, as far as they stay.
    idle: &'static [AtomicBool; KEPT],
    /// Not told yet. At most two for each order.
    reports: VecDeque<Report>,
    /// The ends of workers whose guardian was killed: told when what it left behind is swept.
    unswept: Vec<Report>,
    /// The same for runs.
    lines: Vec<OwnedFd>,
    /// Since when those are swept that a guardian left behind, and how often by now.
    sweeping: Option<(Instant, u32)>,
    /// The coordinator is gone: when to end, whatever is left.
    over: Option<Instant>,
    longest_grace: Duration,
}

struct Child {
    number: u64,
    /// It was told to end its worker: when its own time is up.
    patience: Option<Instant>,
    /// For guardians of runs.
    keeper: Option<Kept>,
}

impl Child {
    /// Whether it is a guardian of runs, and its last one is over.
    fn waits(&self, idle: &[AtomicBool; KEPT]) -> bool {
        let runs = self.keeper.as_ref().and_then(|kept| kept.runs.as_ref());
        runs.is_some_and(|(_, place)| idle[*place].load(SeqCst))
    }
}

/// What there is of a guardian of runs.
struct Kept {
    /// The line of the run that it was given last. What becomes of that is told here only if this guardian is killed.
    line: OwnedFd,
    /// Where runs are given to it, and its place among those that stay.
    runs: Option<(OwnedFd, usize)>,
}

/// What a process that was just forked is there for.
enum Forked {
    Worker { role: Role, words: Vec<OsString>, streams: Streams },
    Keeper { first: Run, runs: Option<(OwnedFd, &'static AtomicBool)> },
}

/// What an order to start brings along.
type Streams = [OwnedFd; STREAMS];

impl Server {
    fn new(tasks: Arc<Tasks>) -> io::Result<Server> {
        if guardian::threads() != 1 {
            early::below_a_copy()?;
        }
        stdio::close_inherited();
        let socket = rustix::io::fcntl_dupfd_cloexec(rustix::stdio::stdin(), 3)?;
        if rustix::net::sockopt::socket_type(&socket)? != SocketType::SEQPACKET {
            return Err(io::ErrorKind::InvalidInput.into());
        }
        stdio::close_all()?;
        // It must be possible to tell workers from this process.
        let title = Title::of_this_process()?;
        title.show(in_a_row(&std::env::args_os().collect::<Vec<_>>()))?;
        let _ = rustix::thread::set_name(c"farcall-forks");

        set_child_subreaper(Some(Pid::INIT))?;
        let launcher = getppid().and_then(|launcher| getpgid(Some(launcher)).ok());
        let _ = setpgid(None, None);
        guardian::leave_terminal();
        stop_ignoring();
        // Workers can live with the limit as it is.
        let _ = limits::raise_descriptors();
        panics::install(None);
        let watched = SignalSet::of(&guardian::WATCHED);
        let mask = watched.install();
        let signals = SignalFd::new(&watched)?;
        let (below, life) = io::pipe()?;
        Ok(Server {
            socket,
            outer: Outer { signals, mask, life: below.into(), outside: [Some(getpgrp()), launcher, None] },
            life: life.into(),
            title,
            tasks,
            slots: limits::slots().get(),
            children: BTreeMap::new(),
            idle: shared_flags()?,
            lines: Vec::new(),
            reports: VecDeque::from([Report::Ready]),
            unswept: Vec::new(),
            sweeping: None,
            over: None,
            longest_grace: Duration::ZERO,
        })
    }

    fn run(mut self) -> ! {
        loop {
            self.reap();
            self.sweep();
            self.hurry();
            self.tell();
            let nothing_left = self.children.is_empty() && self.sweeping.is_none();
            if self.over.is_some_and(|end| nothing_left || end <= Instant::now()) {
                // What is left is ended by the guardians, whom this tells.
                std::process::exit(0)
            }
            self.wait();
            while let Some(signal) = self.outer.signals.next() {
                if !matches!(signal, Signal::CHILD | Signal::ALARM | Signal::USR1 | Signal::USR2) {
                    // The guardians do the rest.
                    die_by(signal.as_raw())
                }
            }
            for _ in 0..AT_ONCE {
                let forked = match self.hear() {
                    Some((Order::Start { number, words }, ends)) => self.start(number, words, ends),
                    Some((order @ Order::Run { .. }, ends)) => self.give(&order, ends),
                    Some((Order::Kill { number }, _)) => {
                        self.kill(number);
                        None
                    }
                    None => break,
                };
                match forked {
                    None => {}
                    Some(Forked::Worker { role, words, streams }) => self.begin(role, &words, streams),
                    Some(Forked::Keeper { first, runs }) => self.keep(first, runs),
                }
            }
        }
    }

    /// Forks a worker with its guardian. Returns something in the child.
    fn start(&mut self, number: u64, words: Vec<OsString>, ends: Vec<OwnedFd>) -> Option<Forked> {
        let errno = match (Streams::try_from(ends), role(&words)) {
            (Ok(streams), Some(role)) => match guardian::fork() {
                Ok(None) => return Some(Forked::Worker { role, words, streams }),
                Ok(Some(child)) => {
                    self.longest_grace = self.longest_grace.max(role.life.grace);
                    self.insert(child, Child { number, patience: None, keeper: None });
                    return None;
                }
                Err(_) => libc::EAGAIN,
            },
            // Streams that are missing did not fit into this process's table of descriptors.
            (Err(_), _) => libc::EMFILE,
            (_, None) => libc::EINVAL,
        };
        self.reports.push_back(Report::NotStarted { number, errno });
        None
    }

    fn insert(&mut self, child: Pid, what: Child) {
        self.children.insert(child.as_raw_nonzero().get(), what);
    }

    /// Gives a run to a guardian that waits for one, or to a new one. Returns something in that.
    fn give(&mut self, order: &Order, ends: Vec<OwnedFd>) -> Option<Forked> {
        let Order::Run { number, words } = order else { return None };
        // Where the line did not fit into this process's table of descriptors, its end tells it.
        let [socket, line] = <[OwnedFd; RUN_ENDS]>::try_from(ends).ok()?;
        let Some(role) = role(words) else {
            keeper::tell(&line, Told::NotStarted(libc::EINVAL));
            return None;
        };
        self.longest_grace = self.longest_grace.max(role.life.grace);
        for child in self.children.values_mut() {
            let Some(Kept { runs: Some((runs, place)), .. }) = &child.keeper else { continue };
            if !self.idle[*place].swap(false, SeqCst) {
                continue;
            }
            if pass_on(runs, order, [socket.as_fd(), line.as_fd()]).is_ok() {
                child.number = *number;
                child.patience = None;
                if let Some(kept) = &mut child.keeper {
                    kept.line = line;
                }
                return None;
            }
            // It was killed, or the system refuses: then this has it end. Its place stays its own until it has.
            let _ = shutdown(runs, Shutdown::Write);
        }
        let taken = |place: &usize| {
            let kept = self.children.values().filter_map(|child| child.keeper.as_ref());
            kept.filter_map(|kept| kept.runs.as_ref()).any(|(_, theirs)| theirs == place)
        };
        // Without a place it ends with the run.
        let place = (0..KEPT).find(|place| !taken(place));
        let between = place.and_then(|place| Some((place, runs_socket().ok()?)));
        match guardian::fork() {
            Ok(None) => {
                let idle = self.idle;
                let runs = between.map(|(place, (ours, theirs))| {
                    drop(ours);
                    (theirs, &idle[place])
                });
                Some(Forked::Keeper { first: Run { role, words: words.clone(), socket, line }, runs })
            }
            Ok(Some(child)) => {
                let runs = between.map(|(place, (ours, _theirs))| (ours, place));
                let keeper = Some(Kept { line, runs });
                self.insert(child, Child { number: *number, patience: None, keeper });
                None
            }
            Err(_) => {
                keeper::tell(&line, Told::NotStarted(libc::EAGAIN));
                None
            }
        }
    }

    /// The life of a process that was just forked to be a guardian of runs.
    fn keep(self, first: Run, runs: Option<(OwnedFd, &'static AtomicBool)>) -> ! {
        let Server { socket, outer, life, title, tasks, slots, children, lines, .. } = self;
        drop((socket, life, children, lines));
        let (runs, idle) = runs.unzip();
        Keeper { outer, runs, idle, title, tasks, slots }.serve(first)
    }

    /// The life of a process that was just forked: as the guardian, and as the worker.
    fn begin(self, role: Role, words: &[OsString], streams: Streams) -> ! {
        let Server { socket, outer, life, title, tasks, slots, children, lines, .. } = self;
        drop((socket, life, children, lines));
        // It has worked before.
        let _ = title.show(in_a_row(words));
        let [input, output, stderr] = streams;
        let options = serve::options(&role.life);
        let (guarded, input, (output, stderr)) =
            guardian::start_below(outer, &options, role.life.lease, input, (output, stderr));
        // Puts the standard error in its place.
        let moved = match stdio::put_aside(input, output, stderr) {
            Ok(moved) => moved,
            Err(error) => serve::fail(&error),
        };
        match guarded {
            Ok(guarded) => serve::go(role, tasks, moved, guarded, slots),
            Err(error) => serve::fail(&error),
        }
    }

    /// Takes note of deaths.
    fn reap(&mut self) {
        loop {
            match wait(WaitOptions::NOHANG) {
                Ok(Some((pid, status))) if status.exited() || status.signaled() => {
                    let child = self.children.remove(&pid.as_raw_nonzero().get());
                    // A guardian that ends by itself leaves nothing. One that was killed looks as if its worker had been.
                    if child.is_none() || status.signaled() {
                        self.sweeping.get_or_insert((Instant::now(), 0));
                    }
                    match child {
                        Some(Child { keeper: Some(Kept { line, .. }), .. }) if status.signaled() => {
                            self.lines.push(line);
                        }
                        Some(Child { number, keeper: None, .. }) => {
                            let ended = Report::Ended { number, exit: exit_of(status) };
                            match status.signaled() {
                                true => self.unswept.push(ended),
                                false => self.reports.push_back(ended),
                            }
                        }
                        _ => {}
                    }
                }
                Ok(Some(_)) | Err(Errno::INTR) => {}
                Ok(None) | Err(_) => return,
            }
        }
    }

    /// One round against those whose guardian was killed.
    fn sweep(&mut self) {
        let Some((began, rounds)) = self.sweeping else { return };
        let guardians: Vec<i32> = self.children.keys().copied().collect();
        let mut below = Below::new(None, None, self.outer.outside);
        below.look_around();
        let signal = if rounds < 2 { Signal::STOP } else { Signal::KILL };
        let met = below.round_without(&guardians, signal);
        let over = met == 0 || began.elapsed() > SWEEP_LIMIT;
        self.sweeping = (!over).then_some((began, rounds.saturating_add(1)));
        if over {
            self.reports.extend(self.unswept.drain(..));
            for line in self.lines.drain(..) {
                keeper::tell(&line, Told::Ended(Exit::Signal(libc::SIGKILL)));
            }
        }
    }

    fn kill(&mut self, number: u64) {
        // Its number is its own as long as it is in the table.
        let idle = self.idle;
        if let Some((guardian, child)) = self.children.iter_mut().find(|(_, child)| child.number == number)
            && child.patience.is_none()
            && !child.waits(idle)
        {
            child.patience = Some(Instant::now() + PATIENCE);
            signal(*guardian, guardian::SWEEP);
        }
    }

    /// Kills guardians that were told to end their worker and do not.
    fn hurry(&mut self) {
        let now = Instant::now();
        for (guardian, child) in &mut self.children {
            if child.patience.is_some_and(|until| until <= now) {
                child.patience = None;
                // One that stays has done it if it waits for the next run.
                if !child.waits(self.idle) {
                    signal(*guardian, Signal::KILL);
                }
            }
        }
    }

    /// Says what there is to say, as far as the socket takes it.
    fn tell(&mut self) {
        while let Some(report) = self.reports.front() {
            match send(&self.socket, &report.to_bytes(), SendFlags::NOSIGNAL | SendFlags::DONTWAIT) {
                Err(Errno::AGAIN | Errno::NOBUFS) => return,
                Err(Errno::INTR) => {}
                // Nobody hears it any more, or it was told.
                Ok(_) | Err(_) => drop(self.reports.pop_front()),
            }
        }
    }

    fn wait(&self) {
        let now = Instant::now();
        let patience = self.children.values().filter_map(|child| child.patience);
        let round = self.sweeping.map(|(_, rounds)| now + Duration::from_millis(u64::from(rounds.min(20))));
        let until = patience.chain(round).chain(self.over).min();
        let timeout = until.map(|until| {
            let left = until.saturating_duration_since(now) + Duration::from_millis(1);
            Timespec::try_from(left).unwrap_or(Timespec { tv_sec: 3600, tv_nsec: 0 })
        });
        let mut wanted = PollFlags::IN;
        if !self.reports.is_empty() {
            wanted |= PollFlags::OUT;
        }
        let mut fds = [PollFd::new(&self.outer.signals, PollFlags::IN), PollFd::new(&self.socket, wanted)];
        // A socket that has ended would be reported for ever.
        let count = if self.over.is_some() { 1 } else { 2 };
        let _ = poll(&mut fds[..count], timeout.as_ref());
    }

    /// The next order, if there is one, with what it brings along.
    fn hear(&mut self) -> Option<(Order, Vec<OwnedFd>)> {
        if self.over.is_some() {
            return None;
        }
        match receive(&self.socket) {
            Ok(heard) => heard,
            Err(Gone) => {
                self.over = Some(Instant::now() + self.longest_grace + MARGIN);
                // Guardians that wait for a run wait no more.
                for kept in self.children.values_mut().filter_map(|child| child.keeper.as_mut()) {
                    kept.runs = None;
                }
                None
            }
        }
    }
}

/// Flags that this process shares with all that it forks from now on.
fn shared_flags() -> io::Result<&'static [AtomicBool; KEPT]> {
    let (size, access) = (size_of::<[AtomicBool; KEPT]>(), ProtFlags::READ | ProtFlags::WRITE);
    // SAFETY: a fresh mapping at an address of the kernel's choice overlaps nothing.
    let page = unsafe { mmap_anonymous(std::ptr::null_mut(), size, access, MapFlags::SHARED)? };
    // SAFETY: the mapping is large enough, aligned to a page, zeroed (all false) and never unmapped.
    Ok(unsafe { &*page.cast() })
}

fn signal(guardian: i32, signal: Signal) {
    if let Some(guardian) = Pid::from_raw(guardian) {
        // It fails only for one that has ended.
        let _ = kill_process(guardian, signal);
    }
}

pub(super) fn exit_of(status: WaitStatus) -> Exit {
    match (status.exit_status(), status.terminating_signal()) {
        (Some(code), _) => Exit::Code(code),
        (None, Some(signal)) => Exit::Signal(signal),
        (None, None) => Exit::Unknown,
    }
}
