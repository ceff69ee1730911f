//! What a coordinator started on its own machine to reach others ends with it, also when it is killed.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use farcall_test_support::TempHome;

/// How long an event may take. The helpers here run for much longer when nobody ends them.
const LIMIT: Duration = Duration::from_secs(20);

/// A coordinator that is killed when the test fails.
struct Coordinator(Child);

impl Coordinator {
    fn start(arguments: &[&str]) -> Self {
        let mut command = Command::new(env!("CARGO_BIN_EXE_farcall-bootstrap-test-coordinator"));
        command.args(arguments).stdin(Stdio::null()).stdout(Stdio::null());
        Self(command.spawn().expect("it starts"))
    }

    /// By SIGKILL, so that it can do nothing more.
    fn kill(mut self) {
        assert_eq!(self.0.try_wait().expect("our child"), None, "it waits for its helper");
        self.0.kill().expect("it runs");
        self.0.wait().expect("our child");
    }
}

impl Drop for Coordinator {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// A script that notes its number and then, as a program that heeds nothing, runs for ten minutes.
fn deaf(home: &TempHome) -> (PathBuf, PathBuf) {
    let note = home.path().join("number");
    let text =
        format!("#!/bin/sh\necho $$ >'{0}.new' && mv '{0}.new' '{0}'\nexec sleep 600\n", note.display());
    let script = home.write("deaf", &text);
    std::fs::set_permissions(&script, std::os::unix::fs::PermissionsExt::from_mode(0o755)).expect("ours");
    (script, note)
}

/// The number that the script notes when it runs.
fn noted(note: &Path) -> u32 {
    let limit = Instant::now() + LIMIT;
    loop {
        match std::fs::read_to_string(note) {
            Ok(text) => return text.trim().parse().expect("a number"),
            Err(_) => assert!(Instant::now() < limit, "the helper was not started"),
        }
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// Waits until a process has ended. Whoever inherits it may be slow to reap it.
fn gone(pid: u32) {
    let limit = Instant::now() + LIMIT;
    let runs = || {
        std::fs::read_to_string(format!("/proc/{pid}/stat"))
            .is_ok_and(|stat| !stat.rsplit_once(')').expect("a name").1.starts_with(" Z"))
    };
    while runs() {
        if Instant::now() > limit {
            farcall_test_support::kill_tree(pid);
            panic!("process {pid} outlives its coordinator");
        }
        std::thread::sleep(Duration::from_millis(5));
    }
}

#[test]
fn a_command_that_leads_elsewhere_ends_with_a_killed_coordinator() {
    let home = TempHome::new();
    let (script, note) = deaf(&home);
    let coordinator = Coordinator::start(&["command", script.to_str().expect("text")]);
    let helper = noted(&note);
    coordinator.kill();
    gone(helper);
}

#[test]
fn a_proxy_command_ends_with_a_killed_coordinator() {
    let home = TempHome::new();
    let (script, note) = deaf(&home);
    let config = home.write("config", &format!("Host server\n  ProxyCommand {}\n", script.display()));
    let coordinator = Coordinator::start(&["ssh", config.to_str().expect("text"), "ssh", "server"]);
    let helper = noted(&note);
    coordinator.kill();
    gone(helper);
}

#[test]
fn a_program_that_is_asked_for_the_configuration_ends_with_a_killed_coordinator() {
    let home = TempHome::new();
    let (script, note) = deaf(&home);
    let coordinator = Coordinator::start(&["ssh", "none", script.to_str().expect("text"), "server"]);
    let helper = noted(&note);
    coordinator.kill();
    gone(helper);
}
