//! Child processes: one function with all that can become of it, and handles.
//!
//! Some tests look at all that is below their process: they need one each, as nextest gives them, or `-- --test-threads=1`.

mod gateways;
mod local_tasks;

use std::os::fd::AsRawFd;
use std::time::{Duration, Instant};

use bytes::Bytes;
use farcall::ExitStatus;
use farcall::local::{self, Options, Pool, RunError, State, Worker};
use gateways::{alive, plain, serves_all, until};
use libtest_mimic::Trial;
use local_tasks::{
    Odd, STUCK, ask, close_all, descriptors, exit, fail, family, fill, gone, hold, ignore_interrupts, kill,
    killed_by, length, odd, offspring, open_short_way, panics, patient, print, raise, settings, signals,
    spin, square, temporary, unreadable, unsendable, without_runtime, written, zombies,
};
use rustix::process::{Pid, Resource, Rlimit, getrlimit, prlimit};

fn main() {
    let tests = [
        both_ways("values_errors_and_panics_come_back", values_errors_and_panics_come_back),
        both_ways("how_a_process_ends_is_told", how_a_process_ends_is_told),
        both_ways("what_cannot_be_read_or_sent_is_told", what_cannot_be_read_or_sent_is_told),
        plain("a_start_that_takes_too_long_is_ended", a_start_that_takes_too_long_is_ended),
        both_ways("long_arguments_and_values_pass", long_arguments_and_values_pass),
        both_ways("a_process_is_gone_when_its_run_returns", a_process_is_gone_when_its_run_returns),
        both_ways("a_dropped_run_leaves_nothing", a_dropped_run_leaves_nothing),
        both_ways("a_time_limit_ends_what_computes", a_time_limit_ends_what_computes),
        plain("options_hold_in_the_process", options_hold_in_the_process),
        plain("a_memory_limit_holds", a_memory_limit_holds),
        both_ways("signals_are_at_their_defaults", signals_are_at_their_defaults),
        both_ways("no_descriptor_is_inherited", no_descriptor_is_inherited),
        both_ways("children_have_children", children_have_children),
        both_ways("a_task_that_closes_everything_is_told", a_task_that_closes_everything_is_told),
        plain("states_advance_and_the_status_is_known", states_advance_and_the_status_is_known),
        plain("a_kill_from_outside_is_noticed_at_once", a_kill_from_outside_is_noticed_at_once),
        plain("signals_reach_the_process", signals_reach_the_process),
        plain("an_ignored_interrupt_becomes_a_kill", an_ignored_interrupt_becomes_a_kill),
        plain("a_dropped_or_closed_handle_ends_the_process", a_dropped_or_closed_handle_ends_the_process),
        plain("a_process_is_killed_while_it_starts", a_process_is_killed_while_it_starts),
        plain(
            "a_kill_at_any_moment_of_a_start_is_told_as_what_it_was",
            a_kill_at_any_moment_of_a_start_is_told_as_what_it_was,
        ),
        plain(
            "a_start_that_the_fork_server_cannot_take_is_over",
            a_start_that_the_fork_server_cannot_take_is_over,
        ),
        plain("times_of_any_length_are_taken", times_of_any_length_are_taken),
        plain("no_runtime_is_needed", no_runtime_is_needed),
        plain("prints_of_a_process_are_told", prints_of_a_process_are_told),
        plain("a_run_whose_guardian_is_killed_leaves_nothing", a_run_whose_guardian_is_killed_leaves_nothing),
    ];
    local_tasks::main(tests);
}

/// A test of runs, as they are in a program that has just begun, and by the short way.
fn both_ways<F: Future<Output = ()> + Send + 'static>(name: &str, test: fn() -> F) -> Vec<Trial> {
    let short = Trial::test(format!("{name}::by_the_short_way"), move || {
        gateways::run(Box::pin(async move {
            open_short_way().await;
            test().await;
        }));
        Ok(())
    });
    plain(name, test).into_iter().chain([short]).collect()
}

// ---- run ---------------------------------------------------------------------------------------------------------

async fn values_errors_and_panics_come_back() {
    assert_eq!(local::run(square, (7,)).await.expect("a value"), 49);
    match local::run(fail, ()).await {
        Err(RunError::Failed(failure)) => {
            assert_eq!(failure.chain().collect::<Vec<_>>(), ["cannot count sheep", "asleep"]);
        }
        other => panic!("{other:?}"),
    }
    match local::run(panics, ("rage".to_owned(),)).await {
        Err(RunError::Panicked(panic)) => {
            assert_eq!(panic.message, "of rage");
            assert!(panic.location.contains("local_tasks"), "{}", panic.location);
            assert!(panic.backtrace.contains("local_tasks::panics"), "{}", panic.backtrace);
        }
        other => panic!("{other:?}"),
    }
}

async fn how_a_process_ends_is_told() {
    for number in [libc::SIGKILL, libc::SIGTERM, libc::SIGUSR2, libc::SIGINT] {
        assert_eq!(killed_by(local::run(raise, (number,)).await), number);
    }
    for wanted in [0, 7] {
        match local::run(exit, (wanted,)).await {
            Err(RunError::Exited { code, .. }) => assert_eq!(code, wanted),
            other => panic!("{other:?}"),
        }
    }
}

async fn what_cannot_be_read_or_sent_is_told() {
    async fn unknown() {}
    assert!(matches!(local::run(odd, ()).await, Err(RunError::Undecodable(_))));
    match local::run(unsendable, ()).await {
        Err(RunError::Unsendable(reason)) => assert!(reason.contains("by no means"), "{reason}"),
        other => panic!("{:?}", other.err()),
    }
    assert!(matches!(local::run(unreadable, (Odd,)).await, Err(RunError::Unreadable(_))));
    assert!(matches!(local::run(unknown, ()).await, Err(RunError::UnknownTask { .. })));
    let too_long = Bytes::from(vec![0; local::MAX_MESSAGE]);
    assert!(matches!(local::run(length, (too_long, 0)).await, Err(RunError::TooLarge { .. })));
    let too_long = local::run(length, (Bytes::new(), local::MAX_MESSAGE)).await;
    assert!(matches!(too_long, Err(RunError::Unsendable(_))), "{too_long:?}");
}

async fn a_start_that_takes_too_long_is_ended() {
    let stuck = Options::new().env(STUCK, "1").start_limit(Duration::from_millis(300));
    let began = Instant::now();
    let result = stuck.run(square, (1,)).await;
    assert!(matches!(result, Err(RunError::StartTimedOut(_))), "{result:?}");
    assert!(began.elapsed() < Duration::from_secs(20));
    until("the process is reaped", || zombies() == 0).await;
}

async fn long_arguments_and_values_pass() {
    for (there, back) in [(0, 0), (40_000, 70_000), (20 << 20, 30 << 20)] {
        let bytes = Bytes::from(vec![1; there]);
        let (len, value) = local::run(length, (bytes, back)).await.expect("a value");
        assert_eq!((len, value.len()), (there, back));
        assert!(value.iter().all(|byte| *byte == 7));
    }
}

async fn a_process_is_gone_when_its_run_returns() {
    let pids = local::run(family, (0,)).await.expect("a number");
    assert!(pids.iter().all(|pid| !std::path::Path::new(&format!("/proc/{pid}")).exists()));
    assert_eq!(zombies(), 0);
}

async fn a_dropped_run_leaves_nothing() {
    let (_folder, file) = temporary();
    let run = tokio::spawn({
        let file = file.clone();
        async move { patient().run(hold, (file,)).await }
    });
    let pid = written(&file).await;
    run.abort();
    until("the process is gone", || !alive(pid)).await;
    assert!(!std::path::Path::new(&file).exists(), "the task was dropped where it waited");

    let run = tokio::spawn(local::run(spin, (file.clone(),)));
    let pid = written(&file).await;
    run.abort();
    until("the process that computes is gone", || !alive(pid)).await;
    until("all are reaped", || zombies() == 0).await;
}

async fn a_run_whose_guardian_is_killed_leaves_nothing() {
    // The second starts what forks, so that the third has a guardian that stays.
    for _ in 0..2 {
        local::run(square, (1,)).await.expect("a value");
    }
    let (_folder, file) = temporary();
    let run = tokio::spawn(local::run(spin, (file.clone(),)));
    let pid = written(&file).await;
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).expect("it runs");
    let guardian = stat.rsplit_once(')').and_then(|(_, rest)| rest.split_whitespace().nth(1)?.parse().ok());
    let guardian = Pid::from_raw(guardian.expect("a parent")).expect("a number");
    rustix::process::kill_process(guardian, rustix::process::Signal::KILL).expect("kill");
    assert_eq!(killed_by(run.await.expect("no panic")), libc::SIGKILL);
    assert!(!alive(pid));
    assert_eq!(local::run(square, (3,)).await.expect("a value"), 9);
    let below = || farcall_test_support::descendants(std::process::id());
    until("a guardian that has nothing to do ends", || below().len() == 1).await;
}

async fn a_time_limit_ends_what_computes() {
    let (_folder, file) = temporary();
    let limit = Duration::from_millis(2500);
    let result = Options::new().time_limit(limit).run(spin, (file.clone(),)).await;
    assert!(matches!(result, Err(RunError::TimedOut { limit: told }) if told == limit), "{result:?}");
    gone(written(&file).await).await;
}

async fn options_hold_in_the_process() {
    let (folder, _) = temporary();
    let deep = folder.path().join("made/for/it");
    let options = Options::new().name("parser").env("FARCALL_TEST_X", "y").cwd(&deep).nice(3);
    let (words, variable, cwd, nice) =
        options.run(settings, ("FARCALL_TEST_X".to_owned(),)).await.expect("settings");
    assert!(words[0].contains("parser-"), "{words:?}");
    assert_eq!(variable.as_deref(), Some("y"));
    assert_eq!(cwd, deep.to_string_lossy());
    assert_eq!(nice, 3);
}

async fn a_memory_limit_holds() {
    let small = Options::new().memory(128 << 20);
    assert_eq!(small.run(fill, (1 << 20,)).await.expect("enough"), 1 << 20);
    match small.run(fill, (256 << 20,)).await {
        // An allocation that fails aborts.
        Err(RunError::Killed { signal, .. }) => assert_eq!(signal, libc::SIGABRT),
        other => panic!("{other:?}"),
    }
}

async fn signals_are_at_their_defaults() {
    // SAFETY: ignoring a signal that nobody sends changes nothing else.
    unsafe { libc::signal(libc::SIGWINCH, libc::SIG_IGN) };
    let (ignored, blocked) = local::run(signals, ()).await.expect("signals");
    // Every Rust program ignores SIGPIPE; and two are the C library's own, whoever ignored them.
    let excepted = [libc::SIGPIPE, 32, 33].map(|number| 1 << (number - 1)).into_iter().sum::<u64>();
    assert_eq!(ignored & !excepted, 0, "{ignored:x}");
    assert_eq!(blocked, 0, "{blocked:x}");
}

async fn no_descriptor_is_inherited() {
    let (folder, _) = temporary();
    let careless = std::fs::File::create(folder.path().join("secret")).expect("a file");
    // SAFETY: the descriptor is open; only its flag is changed.
    assert_eq!(unsafe { libc::fcntl(careless.as_raw_fd(), libc::F_SETFD, 0) }, 0);
    let (ours, theirs) = local::pipe::<u8>().expect("a pipe");
    let own: Vec<String> = descriptors();
    let there = local::run(descriptors, ()).await.expect("descriptors");
    assert!(!there.iter().any(|name| name.contains("secret")), "{there:?}");
    for name in own.iter().filter(|name| name.starts_with("socket:") || name.starts_with("pipe:")) {
        assert!(!there.contains(name), "{name} in {there:?}");
    }
    drop((ours, theirs));
}

async fn children_have_children() {
    let mut pids = local::run(family, (2,)).await.expect("numbers");
    pids.sort_unstable();
    pids.dedup();
    assert_eq!(pids.len(), 3);
    assert!(pids.iter().all(|pid| !alive(*pid)));
}

async fn a_task_that_closes_everything_is_told() {
    let result = local::run(close_all, ()).await;
    assert!(
        matches!(result, Err(RunError::Killed { .. } | RunError::Exited { .. } | RunError::Lost(_))),
        "{result:?}"
    );
}

// ---- open --------------------------------------------------------------------------------------------------------

async fn states_advance_and_the_status_is_known() {
    let (_folder, file) = temporary();
    let process = Options::new().name("holder").open(ask, (file.clone(),)).await.expect("a handle");
    assert!(process.is_alive());
    process.wait_for(State::Running).await;
    assert_eq!(process.state(), State::Running);
    assert_eq!(process.pid(), Some(written(&file).await));
    assert!(process.name().is_some_and(|name| name.starts_with("holder-")));
    assert_eq!(process.status(), None);
    assert_eq!(process.wait_timeout(Duration::from_millis(20)).await, None);
    process.kill();
    process.wait_for(State::Finished).await;
    assert!(!process.is_alive());
    assert_eq!(process.status(), Some(ExitStatus::Signal(9)));
    assert_eq!(process.wait().await, Some(ExitStatus::Signal(9)));

    let process = local::open(square, (3,)).await.expect("a handle");
    assert_eq!(process.result().await.expect("a value"), 9);
    assert!(matches!(process.result().await, Err(RunError::Taken)));
    assert_eq!(process.wait().await, Some(ExitStatus::Code(0)));
    assert_eq!(process.state(), State::Finished);
}

async fn a_kill_from_outside_is_noticed_at_once() {
    let (_folder, file) = temporary();
    let process = local::open(hold, (file.clone(),)).await.expect("a handle");
    let pid = written(&file).await;
    process.wait_for(State::Running).await;
    assert_eq!(process.pid(), Some(pid));
    let began = Instant::now();
    kill(pid);
    assert_eq!(process.wait().await, Some(ExitStatus::Signal(9)));
    // Long before any time limit.
    assert!(began.elapsed() < Duration::from_secs(15), "{:?}", began.elapsed());
    assert_eq!(killed_by(process.result().await), 9);
    assert!(matches!(process.signal(15), Err(local::SignalError::NotRunning)));
    assert!(process.terminate().is_err());
}

async fn signals_reach_the_process() {
    let (_folder, file) = temporary();
    for number in [libc::SIGUSR1, libc::SIGHUP] {
        let process = local::open(hold, (file.clone(),)).await.expect("a handle");
        assert!(matches!(process.signal(number), Err(local::SignalError::NotRunning)), "it only starts");
        written(&file).await;
        process.wait_for(local::State::Running).await;
        assert!(matches!(process.signal(99), Err(local::SignalError::Unknown(99))));
        process.signal(number).expect("a signal");
        assert_eq!(process.wait().await, Some(ExitStatus::Signal(number)));
        std::fs::remove_file(&file).expect("it had no time to do so");
    }
    let process = local::open(hold, (file.clone(),)).await.expect("a handle");
    written(&file).await;
    process.terminate().expect("a signal");
    assert_eq!(process.wait().await, Some(ExitStatus::Signal(libc::SIGTERM)));
}

async fn an_ignored_interrupt_becomes_a_kill() {
    let (_folder, file) = temporary();
    let options = Options::new().grace(Duration::from_millis(300));
    let process = options.open(ignore_interrupts, (file.clone(),)).await.expect("a handle");
    written(&file).await;
    process.wait_for(State::Running).await;
    let began = Instant::now();
    process.interrupt().expect("a signal");
    assert_eq!(process.wait().await, Some(ExitStatus::Signal(9)));
    assert!(began.elapsed() >= Duration::from_millis(300));
}

async fn a_dropped_or_closed_handle_ends_the_process() {
    let (_folder, file) = temporary();
    let process = patient().open(hold, (file.clone(),)).await.expect("a handle");
    let pid = written(&file).await;
    drop(process);
    until("the process is gone", || !alive(pid)).await;
    assert!(!std::path::Path::new(&file).exists(), "the task was dropped where it waited");

    let process = local::open(spin, (file.clone(),)).await.expect("a handle");
    let pid = written(&file).await;
    process.close().await;
    gone(pid).await;
    assert_eq!(zombies(), 0);
}

async fn a_process_is_killed_while_it_starts() {
    let process = Options::new().env(STUCK, "1").open(square, (1,)).await.expect("a handle");
    assert_eq!(process.state(), State::Starting);
    assert_eq!(process.pid(), None);
    process.kill();
    assert!(matches!(process.result().await, Err(RunError::NeverRan)));
    assert_eq!(process.wait().await, None);
    assert!(offspring().is_empty(), "{:?}", offspring());

    let process = Options::new().env(STUCK, "1").open(square, (1,)).await.expect("a handle");
    until("it is started", || !offspring().is_empty()).await;
    process.close().await;
    assert!(offspring().is_empty(), "{:?}", offspring());
}

async fn a_kill_at_any_moment_of_a_start_is_told_as_what_it_was() {
    let (folder, _) = temporary();
    // The process that forks the others, which is not counted.
    for _ in 0..2 {
        local::run(square, (1,)).await.expect("a value");
    }
    let (mut never, mut began) = (0, 0);
    for round in 0..150_u64 {
        let file = folder.path().join(round.to_string()).to_string_lossy().into_owned();
        let process = local::open(hold, (file.clone(),)).await.expect("a handle");
        tokio::time::sleep(Duration::from_micros(round % 50 * 100)).await;
        process.kill();
        let result = process.result().await;
        process.wait().await;
        assert!(offspring().is_empty(), "{:?}", offspring());
        match result {
            Err(RunError::NeverRan) => {
                assert!(!std::path::Path::new(&file).exists(), "it ran");
                never += 1;
            }
            Err(RunError::KilledAtStart) => {}
            Err(RunError::Killed { signal: 9, .. }) => began += 1,
            other => panic!("{other:?}"),
        }
    }
    assert!(never > 0 && began > 0, "{never} and {began}");
}

async fn a_start_that_the_fork_server_cannot_take_is_over() {
    for _ in 0..2 {
        local::run(square, (1,)).await.expect("a value");
    }
    let below = || farcall_test_support::descendants(std::process::id());
    let server = below().into_iter().find(|pid| serves_all(*pid)).expect("the second was forked");
    // A guardian that waits for another run goes when none comes, and its descriptors there with it.
    until("nothing else is there", || below() == [server]).await;
    let open = |number: &u64| std::fs::symlink_metadata(format!("/proc/{server}/fd/{number}")).is_ok();
    // Room for one of the three that come along.
    let first_free = (0..).find(|number| !open(number)).expect("one is free");
    let pid = Pid::from_raw(server.cast_signed());
    let limit = |current| {
        let usual = getrlimit(Resource::Nofile);
        prlimit(pid, Resource::Nofile, Rlimit { current, ..usual }).expect("its limit").current
    };
    let usual = limit(Some(first_free + 1));
    let process = local::open(square, (2,)).await.expect("a handle");
    assert!(matches!(process.result().await, Err(RunError::Start(_))));
    assert_eq!(process.wait().await, None);
    limit(usual);
    assert_eq!(local::run(square, (3,)).await.expect("a value"), 9);
    assert!(offspring().is_empty(), "{:?}", offspring());
}

async fn times_of_any_length_are_taken() {
    let ever = Duration::MAX;
    let options = Options::new().grace(ever).time_limit(ever).start_limit(ever);
    assert_eq!(options.run(square, (3,)).await.expect("a value"), 9);
    let pool = options.pool(1);
    assert_eq!(pool.call(square, (4,)).await.expect("a value"), 16);
    pool.close().await;
    let process = options.open(hold, (temporary().1,)).await.expect("a handle");
    process.wait_for(State::Running).await;
    process.terminate().expect("a signal");
    assert_eq!(process.wait_timeout(ever).await, Some(ExitStatus::Signal(libc::SIGTERM)));
}

async fn no_runtime_is_needed() {
    let alone = std::thread::spawn(|| {
        without_runtime(async {
            assert_eq!(local::run(square, (7,)).await.expect("a value"), 49);
            let mut worker = Worker::new().await.expect("a worker");
            assert_eq!(worker.call(square, (6,)).await.expect("a value"), 36);
            worker.close().await;
            let pool = Pool::new(2);
            assert_eq!(pool.call(square, (5,)).await.expect("a value"), 25);
            pool.close().await;
            let process = local::open(hold, (temporary().1,)).await.expect("a handle");
            assert_eq!(process.wait_timeout(Duration::from_millis(20)).await, None);
            process.close().await;
            let (sender, mut receiver) = local::pipe::<Vec<u8>>().expect("a pipe");
            let empty = receiver.recv_timeout(Duration::from_millis(20)).await;
            assert!(matches!(empty, Err(local::TryPipeRecvError::Empty)), "{empty:?}");
            let long = vec![7; 4 << 20];
            let full = sender.send_timeout(long.clone(), Duration::from_millis(20)).await;
            assert!(matches!(full, Err(local::PipeSendTimeoutError::Timeout)), "{full:?}");
            let (sent, received) = tokio::join!(sender.send(long), receiver.recv());
            sent.expect("it was sent");
            assert_eq!(received.expect("it came").map(|bytes| bytes.len()), Some(4 << 20));
        });
    });
    tokio::task::block_in_place(|| alone.join().expect("no panic"));
}

async fn prints_of_a_process_are_told() {
    let process = local::open(print, ("hello from there".to_owned(),)).await.expect("a handle");
    process.wait_for(State::Running).await;
    let mut output = process.output().expect("it runs");
    process.result().await.expect("it prints");
    let mut told = Vec::new();
    while let Some(printed) = output.next().await {
        told.extend_from_slice(&printed.bytes);
    }
    assert_eq!(told, b"hello from there\n");
}
