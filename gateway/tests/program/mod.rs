//! The test's own program as the launching side sees it: start it in a role, find everything it started, see it gone.
//!
//! Everything that descends from a [`Launched`] carries a mark in the environment it was executed with, so it can be
//! found in `/proc` wherever it went.

#![allow(dead_code, reason = "each test file uses its own part of this")]

use std::ffi::OsStr;
use std::io::{BufRead, BufReader, Read};
use std::os::fd::OwnedFd;
use std::process::{Child, ChildStdin, ChildStdout, Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, PidfdFlags, Signal, kill_process, pidfd_open};

/// The name of the marking variable.
const MARK: &str = "FARCALL_TEST_MARK";

/// The first argument that makes the program play a role instead of running tests.
pub(crate) const PLAY: &str = "--play";

/// A program started in a role.
pub(crate) struct Launched {
    pub(crate) child: Child,
    pub(crate) stdin: Option<ChildStdin>,
    pub(crate) stdout: BufReader<ChildStdout>,
    mark: String,
}

/// How to start it.
pub(crate) struct Launch {
    command: Command,
    mark: String,
}

impl Launch {
    pub(crate) fn role(role: &str) -> Self {
        Self::program(std::env::current_exe().expect("the test's own path")).arg(PLAY).arg(role)
    }

    /// Another program than the test's own.
    pub(crate) fn program(program: impl AsRef<OsStr>) -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let mark = format!("{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
        let mut command = Command::new(program);
        command.env(MARK, &mark).stdin(Stdio::piped()).stdout(Stdio::piped());
        Self { command, mark }
    }

    pub(crate) fn arg(mut self, arg: impl AsRef<OsStr>) -> Self {
        self.command.arg(arg);
        self
    }

    pub(crate) fn stdin(mut self, stdin: impl Into<Stdio>) -> Self {
        self.command.stdin(stdin);
        self
    }

    pub(crate) fn stderr(mut self, stderr: impl Into<Stdio>) -> Self {
        self.command.stderr(stderr);
        self
    }

    pub(crate) fn start(mut self) -> Launched {
        let mut child = self.command.spawn().expect("start the program");
        let stdin = child.stdin.take();
        let stdout = BufReader::new(child.stdout.take().expect("stdout is piped"));
        Launched { child, stdin, stdout, mark: self.mark }
    }
}

impl Launched {
    pub(crate) fn pid(&self) -> Pid {
        Pid::from_child(&self.child)
    }

    /// The next line, without its end. Fails after fifty seconds.
    pub(crate) fn line(&mut self) -> String {
        let mut line = String::new();
        if self.stdout.buffer().is_empty() {
            assert!(readable(self.stdout.get_ref(), Duration::from_secs(50)), "no line within fifty seconds");
        }
        self.stdout.read_line(&mut line).expect("read a line");
        assert!(line.ends_with('\n'), "the program ended instead of printing a line: {line:?}");
        line.trim_end().to_owned()
    }

    /// The numbers of a line that begins with `word`.
    pub(crate) fn numbers(&mut self, word: &str) -> Vec<i32> {
        let line = self.line();
        let rest = line.strip_prefix(word).unwrap_or_else(|| panic!("expected {word:?}, got {line:?}"));
        rest.split_whitespace().map(|number| number.parse().expect("a number")).collect()
    }

    /// Whether the output ends within `bound`, whatever comes before.
    pub(crate) fn output_ends(&mut self, bound: Duration) -> bool {
        let end = Instant::now() + bound;
        let mut buffer = [0; 4096];
        loop {
            let left = end.saturating_duration_since(Instant::now());
            if self.stdout.buffer().is_empty() && !readable(self.stdout.get_ref(), left) {
                return false;
            }
            if self.stdout.read(&mut buffer).expect("read the output") == 0 {
                return true;
            }
        }
    }

    /// How the launched process ended, which it must within `bound`.
    pub(crate) fn ended(&mut self, bound: Duration) -> ExitStatus {
        assert!(ends(self.pid(), bound), "the launched process still runs after {bound:?}");
        self.child.wait().expect("wait for the launched process")
    }

    /// Everything alive that descends from this, zombies aside.
    pub(crate) fn family(&self) -> Vec<Pid> {
        marked(&self.mark)
    }

    /// Waits until nothing of the family is left, and returns how long that took.
    pub(crate) fn all_gone(&self, bound: Duration) -> Duration {
        let begin = Instant::now();
        let mut empty = 0;
        loop {
            let left = self.family();
            if left.is_empty() {
                // One look may miss a process that forks while the directory is read.
                empty += 1;
                if empty == 3 {
                    return begin.elapsed();
                }
                continue;
            }
            empty = 0;
            let rest = bound.saturating_sub(begin.elapsed());
            if rest.is_zero() {
                let names: Vec<_> = left.iter().map(|pid| describe(*pid)).collect();
                panic!("still alive after {bound:?}: {names:?}");
            }
            ends(left[0], rest);
        }
    }
}

impl Drop for Launched {
    /// Whatever a failing test left behind.
    fn drop(&mut self) {
        self.stdin = None;
        let end = Instant::now() + Duration::from_secs(5);
        while Instant::now() < end {
            let left = self.family();
            if left.is_empty() {
                break;
            }
            for pid in left {
                let _ = kill_process(pid, Signal::KILL);
            }
        }
        let _ = self.child.wait();
    }
}

/// Whether the process ends, or has ended, within `bound`.
pub(crate) fn ends(pid: Pid, bound: Duration) -> bool {
    match pidfd_open(pid, PidfdFlags::empty()) {
        Ok(fd) => readable(&fd, bound),
        Err(_) => true,
    }
}

/// Whether there is something to read, or the end, within `bound`.
pub(crate) fn readable(fd: &impl std::os::fd::AsFd, bound: Duration) -> bool {
    let timeout = Timespec::try_from(bound).expect("a bound of seconds");
    let mut fds = [PollFd::new(fd, PollFlags::IN)];
    poll(&mut fds, Some(&timeout)).expect("poll") > 0
}

fn marked(mark: &str) -> Vec<Pid> {
    let wanted = format!("{MARK}={mark}");
    let mut found = Vec::new();
    for entry in std::fs::read_dir("/proc").expect("read /proc").flatten() {
        let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse().ok()).and_then(Pid::from_raw)
        else {
            continue;
        };
        // A zombie's is empty; a process that ended meanwhile has none.
        let Ok(environ) = std::fs::read(entry.path().join("environ")) else { continue };
        if environ.split(|byte| *byte == 0).any(|variable| variable == wanted.as_bytes()) {
            found.push(pid);
        }
    }
    found
}

fn describe(pid: Pid) -> String {
    let read =
        |file| std::fs::read_to_string(format!("/proc/{}/{file}", pid.as_raw_nonzero())).unwrap_or_default();
    format!("{} [{}]", read("stat").trim_end(), read("cmdline").replace('\0', " "))
}

/// The fields of `/proc/<pid>/stat` from the state on.
pub(crate) fn stat(pid: Pid) -> Option<Vec<String>> {
    let stat = std::fs::read_to_string(format!("/proc/{}/stat", pid.as_raw_nonzero())).ok()?;
    let (_, fields) = stat.rsplit_once(')')?;
    Some(fields.split_whitespace().map(str::to_owned).collect())
}

/// A connected pair of sockets, as an SSH server gives to a command.
pub(crate) fn socket_pair() -> (std::os::unix::net::UnixStream, OwnedFd) {
    let (ours, theirs) = std::os::unix::net::UnixStream::pair().expect("a pair of sockets");
    (ours, theirs.into())
}

/// Runs `trials` unless the program was started to play a role, which `play` then does.
pub(crate) fn main(play: impl FnOnce(&str, &[String]), tests: &[(&'static str, fn())]) {
    let args: Vec<String> = std::env::args().collect();
    if args.get(1).map(String::as_str) == Some(PLAY) {
        return play(&args[2], &args[3..]);
    }
    let arguments = libtest_mimic::Arguments::from_args();
    let trials = tests
        .iter()
        .map(|&(name, test)| {
            libtest_mimic::Trial::test(name, move || {
                test();
                Ok(())
            })
        })
        .collect();
    libtest_mimic::run(&arguments, trials).exit();
}
