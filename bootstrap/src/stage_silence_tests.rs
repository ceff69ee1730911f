//! The far half, in a real shell, when the near half falls silent and its streams stay open: as behind a network that is gone.

use std::io::{self, BufReader, Read, Write};
use std::os::unix::fs::symlink;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, PidfdFlags, pidfd_open};

use super::*;
use crate::artifact::Artifact;

/// How long a start may take here, in seconds: more each time, as long as the machine is too busy with other tests to give the
/// answers before the silence in time.
const LIMITS: [u64; 3] = [1, 4, 16];

/// Five times the longest.
const PATIENCE: Timespec = Timespec { tv_sec: 80, tv_nsec: 0 };

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
        let tools = std::env::var("PATH").expect("a path");
        // What a place has of its own comes first.
        command.env("PATH", format!("{}/bin:{tools}", home.display()));
        command.arg0("sh").args(&words[1..]).env("HOME", home).env_remove("XDG_CACHE_HOME");
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().expect(shell);
        let (input, output) = (child.stdin.take().expect("piped"), child.stdout.take().expect("piped"));
        Far { child, input, output: BufReader::new(output) }
    }

    /// Whether it has ended by itself.
    fn ends(&mut self) -> bool {
        let process = pidfd_open(Pid::from_child(&self.child), PidfdFlags::empty()).expect("ours");
        let ended = poll(&mut [PollFd::new(&process, PollFlags::IN)], Some(&PATIENCE)).expect("polled") == 1;
        if !ended {
            self.child.kill().expect("ours");
        }
        self.child.wait().expect("ours");
        ended
    }
}

/// What the near half is asked for, in this order.
const ASKED: [&str; 4] = ["which build", "its length", "the build", "variables"];

/// Leads the dialogue until the far half waits for what `silent_at` names, of which it gets a part at the most. An error: it
/// ended before.
fn fall_silent(stage: &mut Stage, far: &mut Far, silent_at: &str, worker: &Artifact) -> io::Result<()> {
    let mut buffer = [0; 4096];
    loop {
        match stage.poll_action() {
            Action::Read => {
                let length = far.output.read(&mut buffer)?;
                if length == 0 {
                    return Err(io::ErrorKind::UnexpectedEof.into());
                }
                stage.handle_bytes(&buffer[..length]).expect("the far half");
            }
            Action::FindImage(_) if silent_at == ASKED[0] => return Ok(()),
            Action::FindImage(_) => stage.image(worker.digest()),
            Action::Prepare(_) if silent_at == ASKED[1] => return Ok(()),
            Action::Prepare(_) => stage.offer_plain(worker.bytes().len()),
            Action::Deliver(_) if silent_at == ASKED[2] => {
                return far.input.write_all(&worker.bytes()[..1000]);
            }
            Action::Deliver(_) => {
                far.input.write_all(worker.bytes())?;
                stage.delivered();
            }
            Action::Write(bytes) if stage.phase == Phase::Setting => {
                assert_eq!((silent_at, bytes.is_empty()), (ASKED[3], false));
                return Ok(());
            }
            Action::Write(bytes) => far.input.write_all(&bytes)?,
            Action::Ready => panic!("nothing was asked for at {silent_at}"),
        }
    }
}

/// A place whose `timeout` becomes what it runs, which then ends by a signal; most others end with a number. It is a link: a
/// file that was just written cannot be run while a process that was forked meanwhile still has it open (ETXTBSY).
fn with_busybox(home: &Path) {
    std::fs::create_dir(home.join("bin")).expect("a folder");
    symlink("/bin/busybox", home.join("bin/timeout")).expect("a link");
}

fn gives_up(shell: &str, asked: &str, cache: Cache, worker: &Artifact, prepare: fn(&Path)) {
    let mut last = None;
    for limit in LIMITS {
        let home = tempfile::tempdir().expect("a folder");
        prepare(home.path());
        let elsewhere = Platform::from_uname("Linux", "riscv64").expect("known");
        let env = vec![("A".into(), "b".into())];
        let start_limit = Duration::from_secs(limit);
        let options = LaunchOptions { start_limit, env, cache, ..LaunchOptions::default() };
        let mut stage = Stage::new([7; 2 * HALF], &options, worker.digest(), &elsewhere);
        let mut far = Far::start(&stage, shell, home.path());
        let silent = fall_silent(&mut stage, &mut far, asked, worker);
        assert!(far.ends(), "{shell} still waits for {asked}");
        let mut more = String::new();
        far.output.read_to_string(&mut more).expect("text");
        let left = std::fs::read_dir(home.path().join(".cache/farcall")).into_iter().flatten().flatten();
        let left: Vec<_> = left.map(|entry| entry.file_name().into_string().expect("text")).collect();
        let kept = |name: &&String| cache == Cache::LeaveNothing || name.starts_with(".n-");
        assert_eq!(left.iter().find(kept), None, "{shell}, {asked}: {left:?}");
        match silent {
            Ok(()) => return assert_eq!(more, "", "{shell} went on without {asked}"),
            Err(error) => last = Some((error, String::from_utf8_lossy(stage.noise()).into_owned())),
        }
    }
    panic!("{shell} ended before it asked for {asked}: {last:?}");
}

const SHELLS: [&str; 7] = ["dash", "bash", "busybox", "ksh93", "mksh", "yash", "zsh"];

/// In every shell, at every place to fall silent.
fn gives_up_everywhere(cache: Cache, prepare: fn(&Path)) {
    let worker = &Artifact::load("/bin/true".as_ref()).expect("a program");
    std::thread::scope(|scope| {
        for shell in SHELLS {
            for asked in ASKED {
                scope.spawn(move || gives_up(shell, asked, cache, worker, prepare));
            }
        }
    });
}

#[test]
fn a_far_half_that_nobody_answers_ends_and_takes_back_what_it_made() {
    gives_up_everywhere(Cache::default(), |_| {});
}

#[test]
fn whatever_its_timeout_ends_with() {
    gives_up_everywhere(Cache::LeaveNothing, with_busybox);
}

#[test]
fn a_limit_of_any_length_is_told_as_one_that_every_timeout_takes() {
    let digest = Artifact::load("/bin/true".as_ref()).expect("a program").digest();
    for (limit, told) in
        [(Duration::MAX, "l31536000"), (Duration::ZERO, "l1"), (Duration::from_millis(700), "l1")]
    {
        let options = LaunchOptions { start_limit: limit, ..LaunchOptions::default() };
        let here = Platform::from_uname("Linux", "x86_64").expect("known");
        let stage = Stage::new([7; 2 * HALF], &options, digest, &here);
        assert!(stage.command().iter().any(|word| word == told), "{:?}", stage.arguments);
    }
}
