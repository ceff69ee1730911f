//! Runs by the short way: one fork by a guardian that stays. What every run promises holds there too, and while what forks is
//! stopped, killed or short of something.

mod gateways;
mod local_tasks;

use std::time::Duration;

use farcall::local::{self, Options, RunError};
use gateways::{alive, plain, serves_all, until};
use libtest_mimic::Trial;
use local_tasks::*;
use rustix::process::{Pid, Resource, Rlimit, Signal, kill_process, prlimit};

fn main() {
    let tests = [
        plain("a_time_limit_begins_when_the_process_is_ready", a_time_limit_begins_when_the_process_is_ready),
        plain(
            "a_time_limit_holds_while_what_forks_is_stopped",
            a_time_limit_holds_while_what_forks_is_stopped,
        ),
        plain("a_process_that_gets_no_threads_says_so", a_process_that_gets_no_threads_says_so),
        plain("a_kill_of_what_forks_is_told_as_what_it_was", a_kill_of_what_forks_is_told_as_what_it_was),
        plain(
            "one_guardian_forks_one_after_another_and_gathers_nothing",
            one_guardian_forks_one_after_another_and_gathers_nothing,
        ),
        plain(
            "what_was_ordered_is_started_in_another_way_when_what_forks_ends",
            what_was_ordered_is_started_in_another_way_when_what_forks_ends,
        ),
        plain("nothing_is_left_of_a_run_when_the_next_begins", nothing_is_left_of_a_run_when_the_next_begins),
        vec![Trial::test("many_at_once_on_runtimes_of_all_kinds", many_at_once_on_runtimes_of_all_kinds)],
    ];
    local_tasks::main(tests);
}

/// A guardian waits for a tenth of a second, which can be over before a busy machine comes to it.
const ATTEMPTS: u32 = 20;

/// The process that forks the others.
fn server() -> Pid {
    let below = farcall_test_support::descendants(std::process::id());
    let server = below.into_iter().find(|pid| serves_all(*pid)).expect("there is one");
    Pid::from_raw(server.cast_signed()).expect("a number")
}

/// The process that forks the others, and the guardian below it, which has just forked one and waits a moment for more.
async fn forking() -> (Pid, Pid) {
    for _ in 0..ATTEMPTS {
        open_short_way().await;
        let server = server();
        let waiting = farcall_test_support::descendants(server.as_raw_nonzero().get().unsigned_abs());
        if let [guardian] = waiting[..] {
            return (server, Pid::from_raw(guardian.cast_signed()).expect("a number"));
        }
    }
    panic!("no guardian waits");
}

fn signal(pid: Pid, signal: Signal) {
    kill_process(pid, signal).expect("signal a process of this test");
}

/// A process that stands still until this is dropped.
struct Stopped(Pid);

impl Stopped {
    fn new(pid: Pid) -> Stopped {
        signal(pid, Signal::STOP);
        Stopped(pid)
    }
}

impl Drop for Stopped {
    fn drop(&mut self) {
        signal(self.0, Signal::CONT);
    }
}

async fn a_time_limit_begins_when_the_process_is_ready() {
    open_short_way().await;
    let limit = Duration::from_millis(400);
    let stopped = Stopped::new(server());
    let run = tokio::spawn(async move { Options::new().time_limit(limit).run(square, (3,)).await });
    // Nobody can tell that it waits. Where this comes too soon nothing is tested, and nothing fails.
    tokio::time::sleep(limit * 3).await;
    drop(stopped);
    assert_eq!(run.await.expect("no panic").expect("a value"), 9);
}

async fn a_time_limit_holds_while_what_forks_is_stopped() {
    open_short_way().await;
    let (_folder, file) = temporary();
    let limit = Duration::from_millis(600);
    let run = tokio::spawn({
        let file = file.clone();
        async move { Options::new().time_limit(limit).run(spin, (file,)).await }
    });
    let pid = written(&file).await;
    let _stopped = Stopped::new(server());
    let result = run.await.expect("no panic");
    assert!(matches!(result, Err(RunError::TimedOut { .. })), "{result:?}");
    assert!(!alive(pid), "it has ended when its run returns");
}

async fn one_guardian_forks_one_after_another_and_gathers_nothing() {
    open_short_way().await;
    let own = server().as_raw_nonzero().get().unsigned_abs();
    let open = |pid: u32| std::fs::read_dir(format!("/proc/{pid}/fd")).map(Iterator::count);
    let held = || -> Vec<_> {
        let guardians = farcall_test_support::descendants(own);
        std::iter::once(own).chain(guardians).filter_map(|pid| Some((pid, open(pid).ok()?))).collect()
    };
    let first = local::run(descriptors, ()).await.expect("descriptors");
    for _ in 0..ATTEMPTS {
        let before = held();
        for _ in 0..30 {
            let there = local::run(descriptors, ()).await.expect("descriptors");
            assert_eq!(there.len(), first.len(), "{there:?} after {first:?}");
        }
        // A guardian that has told the end of a run closes the line of that a moment later.
        loop {
            let now = held();
            if now.len() != 2 || !now.iter().map(|(pid, _)| pid).eq(before.iter().map(|(pid, _)| pid)) {
                break;
            }
            if now.iter().zip(&before).all(|(now, before)| now.1 <= before.1) {
                return;
            }
            tokio::task::yield_now().await;
        }
    }
    panic!("no guardian forks thirty processes, or it holds more after each");
}

async fn a_process_that_gets_no_threads_says_so() {
    open_short_way().await;
    let server = server();
    let own = server.as_raw_nonzero().get().unsigned_abs();
    until("guardians that wait are gone", || farcall_test_support::descendants(own).is_empty()).await;
    let pages = std::fs::read_to_string(format!("/proc/{own}/statm")).expect("its size");
    let pages: u64 = pages.split(' ').next().expect("a field").parse().expect("a number");
    // Less than the stack of a thread beyond what it has.
    let size = pages * rustix::param::page_size() as u64 + (1 << 20);
    let limit = |current| {
        let usual = Rlimit { current, maximum: None };
        prlimit(Some(server), Resource::As, usual).expect("its limit").current
    };
    let usual = limit(Some(size));
    match local::run(square, (3,)).await {
        Err(RunError::Refused(reason)) => assert!(reason.contains("runtime"), "{reason}"),
        other => panic!("{other:?}"),
    }
    limit(usual);
}

async fn what_was_ordered_is_started_in_another_way_when_what_forks_ends() {
    open_short_way().await;
    let (_say, said) = local::pipe::<u8>().expect("a pipe");
    let server = server();
    let stopped = Stopped::new(server);
    let run = std::pin::pin!(local::run(square, (3,)));
    let with_an_end = std::pin::pin!(local::run(take, (said,)));
    // Each is ordered when it is looked at for the first time.
    let (mut run, mut with_an_end) = (run, with_an_end);
    std::future::poll_fn(|cx| {
        assert!(run.as_mut().poll(cx).is_pending() && with_an_end.as_mut().poll(cx).is_pending());
        std::task::Poll::Ready(())
    })
    .await;
    signal(server, Signal::KILL);
    std::mem::forget(stopped);
    let (value, refused) = tokio::join!(run, with_an_end);
    assert_eq!(value.expect("a value"), 9);
    // An end goes once.
    assert!(matches!(refused, Err(RunError::Start(_))), "{refused:?}");
}

/// What forks, and in every second round the guardian that it has given the run to, at several moments.
async fn a_kill_of_what_forks_is_told_as_what_it_was() {
    let (folder, _) = temporary();
    let below = || farcall_test_support::descendants(std::process::id());
    let (mut never, mut perhaps, mut values) = ([0; 2], [0; 2], [0; 2]);
    for round in 0..120_usize {
        let (server, guardian) = forking().await;
        let file = folder.path().join(round.to_string()).to_string_lossy().into_owned();
        let run = tokio::spawn(local::run(note, (file.clone(), 1)));
        // No event tells most of these moments.
        tokio::time::sleep(Duration::from_micros(round as u64 / 2 % 30 * 100)).await;
        let kind = round % 2;
        let victim = if kind == 0 { server } else { guardian };
        // A guardian may have waited long enough meanwhile.
        let _ = kill_process(victim, Signal::KILL);
        let has_run = || std::fs::exists(&file).expect("look");
        match run.await.expect("no panic") {
            Ok(()) => {
                assert!(has_run());
                values[kind] += 1;
            }
            Err(RunError::Start(_)) => {
                assert!(!has_run(), "it ran, and is told not to have been started");
                never[kind] += 1;
            }
            Err(RunError::Killed { signal: 9, .. } | RunError::Lost(_)) => perhaps[kind] += 1,
            other => panic!("{other:?}"),
        }
        // But for what forks, or what has taken its place.
        until("nothing is left", || below().iter().filter(|pid| alive(**pid)).count() <= 1).await;
    }
    for kind in 0..2 {
        assert!(values[kind] > 0 && never[kind] + perhaps[kind] > 0, "{never:?}, {perhaps:?}, {values:?}");
    }
}

async fn nothing_is_left_of_a_run_when_the_next_begins() {
    open_short_way().await;
    for _ in 0..5 {
        let daemon = local::run(leave, ()).await.expect("a number");
        assert!(!alive(daemon), "what a run leaves ends with it");
        let (guardian, below) = local::run(surroundings, ()).await.expect("a value");
        assert!(guardian, "it is forked by a guardian that stays");
        assert_eq!(below, 1, "its guardian has no other child");
    }
}

/// Runs all on threads of their own: on runtimes with threads, on ones without, and on none.
fn many_at_once_on_runtimes_of_all_kinds() -> Result<(), libtest_mimic::Failed> {
    gateways::run(Box::pin(open_short_way()));
    let squares = |from: u64| async move {
        let runs: Vec<_> = (from..from + 16).map(|n| tokio::spawn(local::run(square, (n,)))).collect();
        for (n, run) in (from..).zip(runs) {
            assert_eq!(run.await.expect("no panic").expect("a value"), n * n);
        }
    };
    fn on<F: Future<Output = ()>>(mut builder: tokio::runtime::Builder, work: F) {
        builder.enable_all().build().expect("a runtime").block_on(work);
    }
    std::thread::scope(|scope| {
        scope.spawn(|| on(tokio::runtime::Builder::new_multi_thread(), squares(0)));
        scope.spawn(|| on(tokio::runtime::Builder::new_current_thread(), squares(100)));
        scope.spawn(|| on(tokio::runtime::Builder::new_current_thread(), squares(200)));
        scope.spawn(|| {
            for n in 0..8 {
                assert_eq!(without_runtime(local::run(square, (n,))).expect("a value"), n * n);
            }
        });
        // One that ends in the middle of its runs.
        scope.spawn(|| {
            on(tokio::runtime::Builder::new_current_thread(), async {
                for n in 0..8 {
                    tokio::spawn(local::run(square, (n,)));
                }
                tokio::task::yield_now().await;
            });
        });
    });
    gateways::run(Box::pin(async {
        until("all are gone", || farcall_test_support::descendants(std::process::id()).len() == 1).await;
    }));
    Ok(())
}
