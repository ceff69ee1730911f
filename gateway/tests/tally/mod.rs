//! What very many starts leave behind: nothing, if what processes hold is counted before and after.

use std::process::{Command, Stdio};
use std::time::Duration;

use farcall_test_support::descendants;

use crate::gateways::{alive, serves_all, until};

/// The first argument that makes a program do what is counted rather than run tests.
pub(crate) const PLAY: &str = "--play";

/// How many starts there are.
pub(crate) const COUNT: u64 = 10_000;

/// Before the first count: what is made once is made by then, buffers have their sizes.
pub(crate) const FIRST: u64 = 300;

/// What memory may vary by, in KiB: neither allocators nor kernels account for every page at once.
const TOLERANCE: u64 = 4096;

/// What a process holds.
#[derive(Clone, Copy, Debug)]
struct Held {
    descriptors: usize,
    threads: usize,
    /// In KiB.
    resident: u64,
}

impl Held {
    fn by(pid: u32) -> Held {
        let count =
            |folder: &str| std::fs::read_dir(format!("/proc/{pid}/{folder}")).expect("a process").count();
        let status = std::fs::read_to_string(format!("/proc/{pid}/status")).expect("a process");
        let resident = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).expect("a line");
        let resident = resident.trim().trim_end_matches(" kB").parse().expect("a number");
        Held { descriptors: count("fd"), threads: count("task"), resident }
    }
}

/// What this process and the one that forks its workers hold, and what else is below.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Tally {
    own: Held,
    server: Held,
    /// Dead ones included.
    pub(crate) below: usize,
}

impl Tally {
    pub(crate) fn now() -> Tally {
        let below = descendants(std::process::id());
        let (servers, others): (Vec<u32>, Vec<u32>) = below.into_iter().partition(|pid| serves_all(*pid));
        // What it keeps ready is below it, and may end any moment.
        let (server, kept) = servers.split_first().expect("all are forked by one process");
        let its_own = descendants(*server);
        let is_its_own = |kept: &u32| its_own.contains(kept) || !alive(*kept);
        assert!(kept.iter().all(is_its_own), "all are forked by one process");
        Tally { own: Held::by(std::process::id()), server: Held::by(*server), below: others.len() }
    }

    /// Descriptors of what has just ended may be open for a moment yet: the least of some looks is what stays.
    pub(crate) async fn at_rest() -> Tally {
        let mut least = Tally::now();
        for _ in 0..100 {
            tokio::time::sleep(Duration::from_millis(5)).await;
            let now = Tally::now();
            least.own.descriptors = least.own.descriptors.min(now.own.descriptors);
            least.server.descriptors = least.server.descriptors.min(now.server.descriptors);
            least.below = least.below.min(now.below);
        }
        least
    }

    fn both(&self) -> [(&'static str, Held); 2] {
        [("this process", self.own), ("the one that forks", self.server)]
    }

    /// Waits until there is no more than before, and prints both.
    pub(crate) async fn no_more_than(before: Tally) {
        let fits = |(now, before): (Held, Held)| {
            now.descriptors <= before.descriptors && now.threads <= before.threads
        };
        until("nothing more is held than before", || {
            let now = Tally::now();
            [(now.own, before.own), (now.server, before.server)].into_iter().all(fits)
                && now.below <= before.below
        })
        .await;
        let after = Tally::now();
        for ((whose, before), (_, after)) in before.both().into_iter().zip(after.both()) {
            println!(
                "{whose}: {} and {} descriptors, {} and {} threads, {} and {} KiB resident",
                before.descriptors,
                after.descriptors,
                before.threads,
                after.threads,
                before.resident,
                after.resident
            );
            assert!(after.resident < before.resident + TOLERANCE, "{whose} has grown");
        }
        println!("processes below: {} and {}", before.below, after.below);
    }
}

/// This program, to be started once more: so that what is counted is of it alone, and the limit of other tests cannot end it.
pub(crate) fn this_program(words: &[&str]) -> Command {
    let mut command = Command::new(std::env::current_exe().expect("a path"));
    command.arg(PLAY).args(words).stdin(Stdio::null()).stdout(Stdio::piped());
    command
}

/// Runs it, shows what it prints, and sees that it found nothing left.
pub(crate) fn run_alone(mut command: Command) {
    let output = tokio::task::block_in_place(|| command.spawn().expect("started").wait_with_output());
    let output = output.expect("its end");
    let text = String::from_utf8_lossy(&output.stdout);
    print!("{text}");
    assert!(output.status.success(), "{}: {text}", output.status);
    assert!(text.contains("processes left: 0"), "{text}");
}
