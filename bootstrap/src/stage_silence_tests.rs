//! The far half, in a real shell, when the near half falls silent and its streams stay open: as behind a network that is gone.

use std::io::{BufReader, Read, Write};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::time::{Duration, Instant};

use super::*;
use crate::artifact::Artifact;

/// How long a start may take here.
const LIMIT: Duration = Duration::from_millis(700);

/// For a machine that is busy with other tests.
const PATIENCE: Duration = Duration::from_secs(20);

struct Far {
    child: Child,
    input: ChildStdin,
    output: BufReader<ChildStdout>,
}

impl Far {
    /// Nobody has ever been here: there is no worker yet.
    fn start(stage: &Stage, shell: &str, home: &Path) -> Far {
        let words = stage.command();
        let mut command = Command::new(shell);
        command.arg0("sh").args(&words[1..]).env("HOME", home).env_remove("XDG_CACHE_HOME");
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().expect(shell);
        let (input, output) = (child.stdin.take().expect("piped"), child.stdout.take().expect("piped"));
        Far { child, input, output: BufReader::new(output) }
    }

    /// Whether it has ended by itself.
    fn ends(&mut self) -> bool {
        let end = Instant::now() + PATIENCE;
        while Instant::now() < end {
            if self.child.try_wait().expect("ours").is_some() {
                return true;
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        let _ = self.child.kill();
        false
    }
}

/// What the near half is asked for, in this order.
const ASKED: [&str; 4] = ["which build", "its length", "the build", "variables"];

/// Leads the dialogue until the far half waits for what `silent_at` names, of which it gets a part at the most.
fn fall_silent(stage: &mut Stage, far: &mut Far, silent_at: &str, worker: &Artifact) {
    let mut buffer = [0; 4096];
    loop {
        match stage.poll_action() {
            Action::Read => {
                let length = far.output.read(&mut buffer).expect("its output");
                assert_ne!(
                    length,
                    0,
                    "it ended before {silent_at}: {:?}",
                    String::from_utf8_lossy(stage.noise())
                );
                stage.handle_bytes(&buffer[..length]).expect("the far half");
            }
            Action::FindImage(_) if silent_at == ASKED[0] => return,
            Action::FindImage(_) => stage.image(worker.digest()),
            Action::Prepare(_) if silent_at == ASKED[1] => return,
            Action::Prepare(_) => stage.offer_plain(worker.bytes().len()),
            Action::Deliver(_) if silent_at == ASKED[2] => {
                far.input.write_all(&worker.bytes()[..1000]).expect("it reads");
                return;
            }
            Action::Deliver(_) => {
                far.input.write_all(worker.bytes()).expect("it reads");
                stage.delivered();
            }
            Action::Write(bytes) if stage.phase == Phase::Setting => {
                assert_eq!((silent_at, bytes.is_empty()), (ASKED[3], false));
                return;
            }
            Action::Write(bytes) => far.input.write_all(&bytes).expect("it reads"),
            Action::Ready => panic!("nothing was asked for at {silent_at}"),
        }
    }
}

fn gives_up(shell: &str, asked: &str, worker: &Artifact) {
    let home = tempfile::tempdir().expect("a folder");
    let elsewhere = Platform::from_uname("Linux", "riscv64").expect("known");
    let env = vec![("A".into(), "b".into())];
    let options = LaunchOptions { start_limit: LIMIT, env, ..LaunchOptions::default() };
    let mut stage = Stage::new([7; 2 * HALF], &options, worker.digest(), &elsewhere);
    let mut far = Far::start(&stage, shell, home.path());
    fall_silent(&mut stage, &mut far, asked, worker);
    assert!(far.ends(), "{shell} still waits for {asked}");
    let left = std::fs::read_dir(home.path().join(".cache/farcall")).into_iter().flatten().flatten();
    let left: Vec<_> = left.map(|entry| entry.file_name().into_string().expect("text")).collect();
    let half = left.iter().find(|name| name.starts_with(".n-"));
    assert_eq!(half, None, "{shell}, {asked}: {left:?}");
}

#[test]
fn a_far_half_that_nobody_answers_ends_and_takes_back_what_it_made() {
    let worker = Artifact::load("/bin/true".as_ref()).expect("a program");
    std::thread::scope(|scope| {
        for shell in ["dash", "bash", "busybox", "ksh93", "mksh", "yash", "zsh"] {
            for asked in ASKED {
                let worker = &worker;
                scope.spawn(move || gives_up(shell, asked, worker));
            }
        }
    });
}
