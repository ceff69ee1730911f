//! What a coordinator started on its own machine to reach others ends with it, also when it is killed.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use farcall_bootstrap::ssh::{ConfigFiles, SshOptions, SshTarget, describe};
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

    /// By SIGKILL, so that it can do nothing more. Not in the instant in which it has just started something.
    fn kill(mut self) {
        let limit = Instant::now() + LIMIT;
        while is_busy(self.0.id()) {
            assert!(Instant::now() < limit, "it does not come to rest");
            std::thread::sleep(Duration::from_millis(1));
        }
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

/// Whether one of its threads runs, or would if there were a processor for it.
fn is_busy(pid: u32) -> bool {
    let threads = std::fs::read_dir(format!("/proc/{pid}/task")).expect("it lives").filter_map(Result::ok);
    threads.filter_map(|thread| std::fs::read_to_string(thread.path().join("stat")).ok()).any(|stat| {
        let state = stat.rsplit_once(") ").expect("a name").1;
        !state.starts_with('S')
    })
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

/// A coordinator that reaches for `server` by this configuration.
fn reaching(home: &TempHome, config: &str) -> Coordinator {
    let config = home.write("config", config);
    Coordinator::start(&["ssh", config.to_str().expect("text"), "ssh", "server"])
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
    let coordinator = reaching(&home, &format!("Host server\n  ProxyCommand {}\n", script.display()));
    let helper = noted(&note);
    coordinator.kill();
    gone(helper);
}

/// Waits until what the helpers of a process start is watched over, and returns all that is below it.
fn watched(pid: u32) -> Vec<u32> {
    let limit = Instant::now() + LIMIT;
    let name = format!("farcall-helpers of {pid}\0");
    loop {
        let below = farcall_test_support::descendants(pid);
        let line = |pid: &u32| std::fs::read_to_string(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        if below.iter().any(|pid| line(pid).ends_with(&name)) {
            return below;
        }
        assert!(Instant::now() < limit, "nothing watches over them");
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// The shell that watches over what helpers start, and everything else below a process, is gone.
fn all_gone(below: &[u32]) {
    assert!(!below.is_empty());
    below.iter().copied().for_each(gone);
}

#[test]
fn what_a_proxy_command_starts_ends_with_a_killed_coordinator() {
    let home = TempHome::new();
    let (script, note) = deaf(&home);
    // A pipeline, of which the coordinator's child is only the shell.
    let proxy = format!("sh -c 'trap : TERM; sleep 600 | {} | cat'", script.display());
    let coordinator = reaching(&home, &format!("Host server\n  ProxyCommand {proxy}\n"));
    let helper = noted(&note);
    let below = watched(coordinator.0.id());
    assert!(below.contains(&helper));
    coordinator.kill();
    all_gone(&below);
}

#[test]
fn what_a_configuration_executes_ends_with_a_killed_coordinator() {
    let home = TempHome::new();
    let (script, note) = deaf(&home);
    let coordinator = reaching(&home, &format!("Match exec {}\n  Port 1\n", script.display()));
    let helper = noted(&note);
    let below = watched(coordinator.0.id());
    assert!(below.contains(&helper));
    coordinator.kill();
    all_gone(&below);
}

/// Nothing is left running for a coordinator that goes on, neither of what is given up nor of what is over.
#[tokio::test]
async fn what_a_configuration_executes_ends_when_it_is_given_up() {
    let home = TempHome::new();
    let (script, note) = deaf(&home);
    let config = home.write("config", &format!("Match exec {}\n  Port 1\n", script.display()));
    let options = SshOptions { files: ConfigFiles::Only(config), ..SshOptions::default() };
    let target = SshTarget::new("server");
    let asking = describe(&target, &options);
    let helper = tokio::select! {
        described = asking => panic!("{described:?}"),
        helper = tokio::task::spawn_blocking(move || noted(&note)) => helper.expect("no panic"),
    };
    gone(helper);
    let plain = SshOptions { files: ConfigFiles::None, ..options };
    describe(&target, &plain).await.expect("understood");
    let limit = Instant::now() + LIMIT;
    while !farcall_test_support::descendants(std::process::id()).is_empty() {
        assert!(Instant::now() < limit, "{:?}", farcall_test_support::descendants(std::process::id()));
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
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
