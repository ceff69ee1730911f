//! The built program, started as people start it, and hosts that it reaches through private servers.

#![allow(dead_code, reason = "each test file uses its own part of this")]

use std::io::{BufRead, BufReader, Read, Write};
use std::path::PathBuf;
use std::process::{Child, ChildStdout, Command, Stdio};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use farcall_test_support::{Sshd, TempHome, kill_tree, with_variable};
use rustix::process::{Pid, Signal, kill_process};

/// How long anything that must happen may take on a busy machine.
pub(crate) const LIMIT: Duration = Duration::from_secs(60);

/// The program, with an empty home and nothing of the person's environment.
pub(crate) struct Program {
    pub(crate) home: TempHome,
    /// By alias in the configuration.
    pub(crate) servers: Vec<Sshd>,
}

/// What the program printed, and its exit code.
#[derive(Debug)]
pub(crate) struct Printed {
    pub(crate) code: i32,
    pub(crate) out: String,
    pub(crate) err: String,
}

impl Printed {
    /// The lines of standard output, sorted: hosts answer in any order.
    pub(crate) fn sorted(&self) -> Vec<&str> {
        let mut lines: Vec<&str> = self.out.lines().collect();
        lines.sort_unstable();
        lines
    }

    pub(crate) fn last_line(&self) -> &str {
        self.err.lines().last().unwrap_or_default()
    }
}

impl Program {
    /// Without any host.
    pub(crate) fn alone() -> Program {
        Program { home: TempHome::new(), servers: Vec::new() }
    }

    /// With servers that the configuration calls `n1`, `n2`, …
    pub(crate) fn with_hosts(count: usize) -> Program {
        let servers: Vec<Sshd> = (0..count).map(|_| server().start()).collect();
        let config: String =
            servers.iter().enumerate().map(|(at, server)| server.config(&format!("n{}", at + 1))).collect();
        let home = TempHome::new();
        home.write("config", &config);
        Program { home, servers }
    }

    /// The command line `farcall COMMAND…`, on which the configuration is given where a command takes one.
    pub(crate) fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_farcall"));
        command
            .env_clear()
            .env("HOME", self.home.path())
            .env("PATH", std::env::var_os("PATH").expect("a path to look for programs"))
            .env("XDG_CACHE_HOME", cache())
            .stdin(Stdio::null());
        command.arg(args[0]);
        if self.home.ssh("config").exists() {
            command.arg("-F").arg(self.home.ssh("config"));
        }
        command.args(&args[1..]);
        command
    }

    /// Runs it to its end, without input.
    pub(crate) fn run(&self, args: &[&str]) -> Printed {
        self.run_with(args, b"")
    }

    /// Runs it to its end; its input is a pipe with these bytes.
    pub(crate) fn run_with(&self, args: &[&str], input: &[u8]) -> Printed {
        let mut running = Running::start(self.command(args).stdin(Stdio::piped()));
        let mut stdin = running.child.stdin.take().expect("it is piped");
        let input = input.to_vec();
        // It may end without reading all.
        let feeding = std::thread::spawn(move || drop(stdin.write_all(&input)));
        let printed = running.end();
        feeding.join().expect("it does not panic");
        printed
    }

    /// Starts it without input.
    pub(crate) fn start(&self, args: &[&str]) -> Running {
        Running::start(&mut self.command(args))
    }

    /// Starts it without input, with `FARCALL_TEST` set for it and for what it starts on this machine.
    pub(crate) fn start_marked(&self, args: &[&str], mark: &str) -> Running {
        Running::start(self.command(args).env("FARCALL_TEST", mark))
    }

    /// Waits until nothing is left of any session at any server.
    pub(crate) fn wait_until_idle(&self) {
        for server in &self.servers {
            server.wait_until_idle();
        }
    }
}

/// Where all tests keep the delivered worker, so that it is sent once.
fn cache() -> PathBuf {
    let cache = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join("run-cache");
    std::fs::create_dir_all(&cache).expect("a folder");
    cache
}

/// A server whose sessions share the cache.
pub(crate) fn server() -> farcall_test_support::SshdBuilder {
    // The home too, which is not that of whoever runs the tests.
    Sshd::builder().option(format!("SetEnv XDG_CACHE_HOME={0} HOME={0}", cache().display()))
}

/// The program while it runs. Dropping it kills it.
pub(crate) struct Running {
    child: Child,
    /// `None` once closed.
    out: Option<BufReader<ChildStdout>>,
    seen: String,
    err: std::thread::JoinHandle<String>,
    watch: mpsc::Sender<()>,
}

impl Running {
    fn start(command: &mut Command) -> Running {
        let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("it was built");
        let out = BufReader::new(child.stdout.take().expect("it is piped"));
        let mut stderr = child.stderr.take().expect("it is piped");
        let err = std::thread::spawn(move || {
            let mut text = Vec::new();
            stderr.read_to_end(&mut text).expect("a pipe can be read");
            String::from_utf8_lossy(&text).into_owned()
        });
        // A test that hangs would tell nothing.
        let (watch, done) = mpsc::channel();
        let pid = child.id();
        std::thread::spawn(move || {
            if done.recv_timeout(LIMIT) == Err(mpsc::RecvTimeoutError::Timeout) {
                kill_tree(pid);
            }
        });
        Running { child, out: Some(out), seen: String::new(), err, watch }
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Waits until a line of standard output contains `text`.
    pub(crate) fn wait_for(&mut self, text: &str) {
        loop {
            let from = self.seen.len();
            let out = self.out.as_mut().expect("it was not closed");
            let count = out.read_line(&mut self.seen).expect("a pipe can be read");
            assert!(count > 0, "{text:?} was not printed: {}", self.seen);
            if self.seen[from..].contains(text) {
                return;
            }
        }
    }

    /// Reads no more, as `head` does.
    pub(crate) fn close_output(&mut self) {
        self.out = None;
    }

    pub(crate) fn signal(&self, signal: Signal) {
        let pid = Pid::from_raw(self.child.id().try_into().expect("a process id")).expect("not zero");
        kill_process(pid, signal).expect("it is our child");
    }

    /// Waits for its end.
    pub(crate) fn end(mut self) -> Printed {
        let mut rest = Vec::new();
        if let Some(out) = &mut self.out {
            out.read_to_end(&mut rest).expect("a pipe can be read");
        }
        self.seen.push_str(&String::from_utf8_lossy(&rest));
        let status = self.child.wait().expect("it is our child");
        let err = self.err.join().expect("it does not panic");
        let _ = self.watch.send(());
        use std::os::unix::process::ExitStatusExt;
        let code = status.code().unwrap_or_else(|| -status.signal().expect("a code or a signal"));
        Printed { code, out: self.seen, err }
    }
}

/// Waits until no process of this account carries `FARCALL_TEST` with this value. Those that do in the end are killed, and that is
/// a failure.
pub(crate) fn wait_until_none_has(value: &str) {
    let limit = Instant::now() + LIMIT;
    loop {
        let left = with_variable("FARCALL_TEST", |found| found == value);
        if left.is_empty() {
            return;
        }
        if Instant::now() >= limit {
            left.iter().for_each(|pid| kill_tree(*pid));
            panic!("still running: {left:?}");
        }
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// A command that prints `started` when it runs, ignores what it can, and has left a process that hides in a session
/// of its own.
pub(crate) const STUBBORN: &str = "trap '' INT TERM HUP; setsid sh -c 'sleep 1000' & (sleep 1000 &) ; \
     echo started; while :; do sleep 1000; done";
