//! Ends every process below this one, whatever it does to escape.
//!
//! The process that sweeps is a child subreaper: whoever loses its parent becomes its child, so everything ever
//! started below it has a chain of living parents that leads here, sessions and process groups notwithstanding. The
//! kernel's "no child left" (`ECHILD`) therefore means that nothing is left, and is the only answer that is believed;
//! what `/proc` shows merely tells whom to signal next, and may be stale or incomplete.
//!
//! Two rounds of SIGSTOP come first, so that nobody can react to the death of another (pairs that restart each
//! other), then rounds of SIGKILL. A direct child cannot be reaped by anybody else, so its number is its own and its
//! process group can be signalled too: the kernel does that at one stroke against `fork`, which catches a program that
//! forks and exits faster than `/proc` can be read.

use std::ffi::CStr;
use std::io::Write as _;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{CWD, Mode, OFlags, RawDir, openat};
use rustix::io::Errno;
use rustix::process::{
    Pid, Signal, WaitOptions, WaitStatus, getpgid, getpgrp, getpid, kill_process, kill_process_group, wait,
};

use super::signals::SignalFd;

/// How many processes one round looks at. What exceeds it is met in a later round, when these are gone.
const ROUND: usize = 1024;

/// Rounds that only stop, so that the killing meets a frozen tree.
const FREEZING_ROUNDS: u32 = 2;

/// The sweeper's view of what is below it. Allocates nothing: memory may be what ran out.
pub(super) struct Below<'a> {
    /// Groups that are never signalled as such: whoever is below and in one of these has joined strangers.
    spared: [Option<Pid>; 4],
    myself: Pid,
    proc_dir: Option<OwnedFd>,
    source: Source,
    signals: Option<&'a SignalFd>,
    /// The child whose end is of interest, and how it ended.
    watched: Option<Pid>,
    /// Children that are not ours to end, in order.
    left_alone: &'a [i32],
    status: Option<WaitStatus>,
    pids: [i32; ROUND],
    len: usize,
}

/// Where the kernel tells who is whose child.
#[derive(Clone, Copy)]
enum Source {
    /// `/proc/<pid>/task/<tid>/children`: the whole tree in one round.
    ChildrenFiles,
    /// `/proc/<pid>/stat` of everybody, for kernels without those files. Only direct children are looked for: the
    /// death of each layer makes the next one direct.
    ParentNumbers,
    /// No `/proc` here: only the watched child and its group can be named.
    Nothing,
}

impl<'a> Below<'a> {
    /// `outside`: groups that somebody below could have joined, and that are not ours to end. Nobody is seen before
    /// [`look_around`](Self::look_around).
    pub(super) fn new(
        watched: Option<Pid>,
        signals: Option<&'a SignalFd>,
        outside: [Option<Pid>; 3],
    ) -> Self {
        Self {
            spared: [Some(getpgrp()), outside[0], outside[1], outside[2]],
            myself: getpid(),
            proc_dir: None,
            source: Source::Nothing,
            signals,
            watched,
            left_alone: &[],
            status: None,
            pids: [0; ROUND],
            len: 0,
        }
    }

    /// Opens what tells who is there: early, since it may be descriptors that run out.
    pub(super) fn look_around(&mut self) {
        let flags = OFlags::DIRECTORY | OFlags::RDONLY | OFlags::CLOEXEC;
        self.proc_dir = openat(CWD, c"/proc", flags, Mode::empty()).ok();
        self.source = self.find_source();
    }

    /// One round against all but `children`, in order, who guard what is below them. Returns how many others took the
    /// signal. Groups are left alone: nothing is known of those of the children's children.
    pub(super) fn round_without(&mut self, children: &'a [i32], signal: Signal) -> usize {
        self.left_alone = children;
        let met = self.round(signal);
        self.left_alone = &[];
        met
    }

    /// Watches another child.
    pub(super) fn watch(&mut self, child: Pid) {
        self.watched = Some(child);
        self.status = None;
    }

    /// Who sweeps.
    pub(super) fn myself(&self) -> Pid {
        self.myself
    }

    /// How the watched child ended, once it has been reaped here.
    pub(super) fn status(&self) -> Option<WaitStatus> {
        self.status
    }

    /// Reaps everybody who has ended, adopted processes included. False once no child is left.
    pub(super) fn reap(&mut self) -> bool {
        loop {
            match wait(WaitOptions::NOHANG) {
                Ok(Some((pid, status))) => {
                    if Some(pid) == self.watched && (status.exited() || status.signaled()) {
                        self.status = Some(status);
                    }
                }
                Ok(None) => return true,
                Err(Errno::INTR) => {}
                Err(_) => return false,
            }
        }
    }

    /// Asks everything below to end, and waits for that until `deadline`. False once nothing is left.
    pub(super) fn ask(&mut self, deadline: Instant) -> bool {
        self.round(Signal::TERM);
        // A stopped process gets no further signal until it is continued.
        self.round(Signal::CONT);
        while self.reap() {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return true;
            }
            self.sleep(left);
        }
        false
    }

    /// Kills everything below until nothing is left, for at most `limit`. True if nothing is left.
    ///
    /// Gives up sooner, after a second, where nothing that is left takes our signals: processes of other users.
    pub(super) fn end(&mut self, limit: Duration) -> bool {
        let begin = Instant::now();
        let mut rounds = 0u32;
        while self.reap() {
            let signal = if rounds < FREEZING_ROUNDS { Signal::STOP } else { Signal::KILL };
            let met = self.round(signal);
            rounds = rounds.saturating_add(1);
            if rounds <= FREEZING_ROUNDS {
                continue;
            }
            let spent = begin.elapsed();
            if spent >= limit || (met == 0 && spent >= Duration::from_secs(1)) {
                return !self.reap();
            }
            // A death below is announced by SIGCHLD where signals are watched; otherwise, and for deaths further
            // down, this is how soon the next look follows.
            self.sleep(Duration::from_millis(u64::from(rounds.min(20))));
        }
        true
    }

    fn sleep(&self, at_most: Duration) {
        let timeout = Timespec::try_from(at_most).unwrap_or(Timespec { tv_sec: 1, tv_nsec: 0 });
        match self.signals {
            Some(signals) => {
                let mut fds = [PollFd::new(signals, PollFlags::IN)];
                let _ = poll(&mut fds, Some(&timeout));
                while signals.next().is_some() {}
            }
            None => {
                let _ = poll(&mut [], Some(&timeout));
            }
        }
    }

    /// Sends `signal` to everything found below, parents before children. Returns how many took it.
    fn round(&mut self, signal: Signal) -> usize {
        let mut met = 0;
        self.len = 0;
        self.find_children(self.myself);
        self.leave_alone();
        let direct = self.len;
        if matches!(self.source, Source::Nothing)
            && let Some(watched) = self.watched
        {
            // Its group may outlive it. Should nobody be left in it, then its number is hardly another's so soon.
            let _ = kill_process_group(watched, signal);
            if self.status.is_none() {
                self.push(watched);
            }
        }
        let mut next = 0;
        while next < self.len {
            let Some(pid) = Pid::from_raw(self.pids[next]) else { break };
            if matches!(self.source, Source::ChildrenFiles) {
                self.find_children(pid);
            }
            if next < direct
                && self.left_alone.is_empty()
                && let Ok(group) = getpgid(Some(pid))
                && !self.spared.contains(&Some(group))
            {
                let _ = kill_process_group(group, signal);
            }
            met += usize::from(kill_process(pid, signal).is_ok());
            next += 1;
        }
        met
    }

    fn leave_alone(&mut self) {
        let found = std::mem::take(&mut self.len);
        for at in 0..found {
            let pid = self.pids[at];
            if self.left_alone.binary_search(&pid).is_err() {
                self.pids[self.len] = pid;
                self.len += 1;
            }
        }
    }

    fn push(&mut self, pid: Pid) {
        if self.len < ROUND {
            self.pids[self.len] = pid.as_raw_nonzero().get();
            self.len += 1;
        }
    }

    fn find_source(&self) -> Source {
        let Some(proc_dir) = &self.proc_dir else { return Source::Nothing };
        let mut path = PathBuffer::new();
        let myself = self.myself.as_raw_nonzero().get();
        match path.write(format_args!("{myself}/task/{myself}/children")) {
            Some(path) if open_in(proc_dir.as_fd(), path).is_some() => Source::ChildrenFiles,
            _ if open_in(proc_dir.as_fd(), c"self/stat").is_some() => Source::ParentNumbers,
            _ => Source::Nothing,
        }
    }

    fn find_children(&mut self, of: Pid) {
        // Taken for the time of the look, since what is found is pushed into `self`.
        let Some(proc_dir) = self.proc_dir.take() else { return };
        match self.source {
            Source::ChildrenFiles => self.read_children_files(proc_dir.as_fd(), of),
            Source::ParentNumbers => self.read_parent_numbers(proc_dir.as_fd(), of),
            Source::Nothing => {}
        }
        self.proc_dir = Some(proc_dir);
    }

    fn read_children_files(&mut self, proc_dir: BorrowedFd<'_>, of: Pid) {
        let mut path = PathBuffer::new();
        let Some(path) = path.write(format_args!("{}/task", of.as_raw_nonzero())) else { return };
        let flags = OFlags::DIRECTORY | OFlags::RDONLY | OFlags::CLOEXEC;
        let Ok(tasks) = openat(proc_dir, path, flags, Mode::empty()) else { return };
        let mut buffer = [MaybeUninit::uninit(); 2048];
        let mut entries = RawDir::new(&tasks, &mut buffer);
        while let Some(Ok(entry)) = entries.next() {
            let Some(thread) = number(entry.file_name().to_bytes()) else { continue };
            let mut path = PathBuffer::new();
            let Some(path) = path.write(format_args!("{thread}/children")) else { continue };
            if let Some(file) = open_in(tasks.as_fd(), path) {
                self.read_numbers(&file);
            }
        }
    }

    /// Pushes the numbers of a `children` file: decimal, each followed by a blank.
    fn read_numbers(&mut self, file: &OwnedFd) {
        let mut buffer = [0u8; 1024];
        let mut current = 0i32;
        while let Ok(count @ 1..) = rustix::io::read(file, &mut buffer) {
            for byte in buffer.iter().take(count) {
                if byte.is_ascii_digit() {
                    current = current.saturating_mul(10).saturating_add(i32::from(byte - b'0'));
                } else if let Some(pid) = Pid::from_raw(std::mem::take(&mut current)) {
                    self.push(pid);
                }
            }
        }
    }

    fn read_parent_numbers(&mut self, proc_dir: BorrowedFd<'_>, of: Pid) {
        // Opened anew for each look: a directory's position belongs to its open description.
        let flags = OFlags::DIRECTORY | OFlags::RDONLY | OFlags::CLOEXEC;
        let Ok(all) = openat(proc_dir, c".", flags, Mode::empty()) else { return };
        let mut buffer = [MaybeUninit::uninit(); 4096];
        let mut entries = RawDir::new(&all, &mut buffer);
        while let Some(Ok(entry)) = entries.next() {
            let Some(pid) = number(entry.file_name().to_bytes()) else { continue };
            let mut path = PathBuffer::new();
            let Some(path) = path.write(format_args!("{pid}/stat")) else { continue };
            let Some(file) = open_in(proc_dir, path) else { continue };
            let mut stat = [0u8; 256];
            let count = rustix::io::read(&file, &mut stat).unwrap_or(0);
            if parent_in_stat(&stat[..count]) == Some(of.as_raw_nonzero().get())
                && let Some(pid) = Pid::from_raw(pid)
            {
                self.push(pid);
            }
        }
    }
}

/// The parent's number in a line of `/proc/<pid>/stat`: the second field after the name, which is in parentheses and
/// may contain anything, parentheses and blanks included.
fn parent_in_stat(stat: &[u8]) -> Option<i32> {
    let end_of_name = stat.iter().rposition(|byte| *byte == b')')?;
    number(stat[end_of_name + 1..].split(|byte| *byte == b' ').filter(|field| !field.is_empty()).nth(1)?)
}

fn number(text: &[u8]) -> Option<i32> {
    std::str::from_utf8(text).ok()?.parse().ok()
}

fn open_in(dir: BorrowedFd<'_>, path: &CStr) -> Option<OwnedFd> {
    openat(dir, path, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty()).ok()
}

/// Room for a short path below `/proc`, on the stack.
struct PathBuffer([u8; 64]);

impl PathBuffer {
    fn new() -> Self {
        Self([0; 64])
    }

    fn write(&mut self, path: std::fmt::Arguments<'_>) -> Option<&CStr> {
        let mut free = &mut self.0[..];
        free.write_fmt(path).ok()?;
        CStr::from_bytes_until_nul(&self.0).ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parent_is_found_behind_any_name() {
        assert_eq!(parent_in_stat(b"12 (sh) S 7 12 12 0 -1"), Some(7));
        assert_eq!(parent_in_stat(b"12 (a ) S 99 (b) R 8 12"), Some(8));
        assert_eq!(parent_in_stat(b"12 (cut"), None);
        assert_eq!(parent_in_stat(b""), None);
    }

    #[test]
    fn path_too_long_for_its_buffer_is_refused() {
        let mut buffer = PathBuffer::new();
        assert_eq!(buffer.write(format_args!("{}/stat", 77)), Some(c"77/stat"));
        assert!(PathBuffer::new().write(format_args!("{:080}", 1)).is_none());
    }
}
