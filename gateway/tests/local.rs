//! Child processes: one function with all that can become of it, handles, reused workers, pools.
//!
//! Some tests look at all that is below their process: they need one each, as nextest gives them, or `-- --test-threads=1`.

mod gateways;

use std::os::fd::AsRawFd;
use std::sync::atomic::{AtomicU32, Ordering::SeqCst};
use std::time::{Duration, Instant};

use bytes::Bytes;
use farcall::local::{self, Options, Pool, PoolError, RunError, State, Worker};
use farcall::{Context, ExitStatus, Plain, Tasks};
use gateways::{alive, plain, serves_all, until};
use rustix::process::{Pid, Resource, Rlimit, Signal, getrlimit, kill_process, prlimit};
use serde::{Deserialize, Serialize};

/// A start in which this is set never comes to `init`.
const STUCK: &str = "FARCALL_TEST_STUCK";

fn main() {
    if std::env::var_os(STUCK).is_some() {
        loop {
            std::thread::park();
        }
    }
    let tasks = Tasks::new()
        .add(square)
        .add(fail)
        .add(panics)
        .add(raise)
        .add(exit)
        .add(odd)
        .add(unsendable)
        .add(unreadable)
        .add(length)
        .add(hold)
        .add(spin)
        .add(ask)
        .add(pid)
        .add(is_there)
        .add(settings)
        .add(signals)
        .add(descriptors)
        .add(fill)
        .add(print)
        .add(ignore_interrupts)
        .add(count)
        .add(family)
        .add(close_all)
        .add(note);
    let tests = [
        plain("values_errors_and_panics_come_back", values_errors_and_panics_come_back),
        plain("how_a_process_ends_is_told", how_a_process_ends_is_told),
        plain("what_cannot_be_read_or_sent_is_told", what_cannot_be_read_or_sent_is_told),
        plain("a_start_that_takes_too_long_is_ended", a_start_that_takes_too_long_is_ended),
        plain("long_arguments_and_values_pass", long_arguments_and_values_pass),
        plain("a_process_is_gone_when_its_run_returns", a_process_is_gone_when_its_run_returns),
        plain("a_dropped_run_leaves_nothing", a_dropped_run_leaves_nothing),
        plain("a_time_limit_ends_what_computes", a_time_limit_ends_what_computes),
        plain("options_hold_in_the_process", options_hold_in_the_process),
        plain("a_memory_limit_holds", a_memory_limit_holds),
        plain("signals_are_at_their_defaults", signals_are_at_their_defaults),
        plain("no_descriptor_is_inherited", no_descriptor_is_inherited),
        plain("children_have_children", children_have_children),
        plain("a_task_that_closes_everything_is_told", a_task_that_closes_everything_is_told),
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
        plain("a_worker_goes_on_after_failures", a_worker_goes_on_after_failures),
        plain("a_worker_survives_a_dropped_call_that_waits", a_worker_survives_a_dropped_call_that_waits),
        plain(
            "a_worker_ends_with_a_dropped_call_that_computes",
            a_worker_ends_with_a_dropped_call_that_computes,
        ),
        plain("a_dead_worker_says_so_again_and_again", a_dead_worker_says_so_again_and_again),
        plain("a_pool_starts_processes_as_they_are_needed", a_pool_starts_processes_as_they_are_needed),
        plain("a_pool_is_fair", a_pool_is_fair),
        plain("a_pool_goes_on_after_failures", a_pool_goes_on_after_failures),
        plain("a_dead_worker_is_never_handed_out", a_dead_worker_is_never_handed_out),
        plain("a_worker_killed_at_work_is_replaced", a_worker_killed_at_work_is_replaced),
        plain("a_dropped_call_that_waits_keeps_its_worker", a_dropped_call_that_waits_keeps_its_worker),
        plain("a_dropped_call_that_computes_is_killed", a_dropped_call_that_computes_is_killed),
        plain("a_dropped_call_that_asks_keeps_its_worker", a_dropped_call_that_asks_keeps_its_worker),
        plain("a_pool_limits_time_and_memory", a_pool_limits_time_and_memory),
        plain("closing_a_pool_fails_its_calls", closing_a_pool_fails_its_calls),
        plain("a_closed_pool_has_no_process_left", a_closed_pool_has_no_process_left),
        plain("a_pool_never_has_more_processes_than_workers", a_pool_never_has_more_processes_than_workers),
        plain("workers_are_renewed_after_so_many_calls", workers_are_renewed_after_so_many_calls),
        plain("a_pool_serves_several_runtimes", a_pool_serves_several_runtimes),
    ];
    gateways::main(tasks, tests);
}

// ---- tasks -------------------------------------------------------------------------------------------------------

async fn square(n: u64) -> u64 {
    n * n
}

#[derive(Debug, thiserror::Error)]
#[error("cannot count sheep")]
struct CountError(#[source] std::io::Error);

async fn fail() -> Result<u64, CountError> {
    Err(CountError(std::io::Error::other("asleep")))
}

fn panics(what: String) {
    panic!("of {what}");
}

fn raise(number: i32) {
    let signal = Signal::from_named_raw(number).expect("a signal");
    kill_process(rustix::process::getpid(), signal).expect("signal this process");
    loop {
        std::thread::park();
    }
}

async fn exit(code: i32) {
    std::process::exit(code);
}

/// Written as a number, read as text.
struct Odd;

impl Serialize for Odd {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_u8(1)
    }
}

impl<'de> Deserialize<'de> for Odd {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Odd, D::Error> {
        String::deserialize(deserializer).map(|_| Odd)
    }
}

impl Plain for Odd {}

async fn odd() -> Odd {
    Odd
}

async fn unreadable(_: Odd) {}

/// Cannot be written.
#[derive(Deserialize)]
struct Unwritable;

impl Serialize for Unwritable {
    fn serialize<S: serde::Serializer>(&self, _: S) -> Result<S::Ok, S::Error> {
        Err(serde::ser::Error::custom("by no means"))
    }
}

impl Plain for Unwritable {}

async fn unsendable() -> Unwritable {
    Unwritable
}

async fn length(bytes: Bytes, more: usize) -> (usize, Bytes) {
    (bytes.len(), vec![7; more].into())
}

/// Says that it runs by making a file, waits, and removes the file when it is dropped.
async fn hold(file: String) {
    struct Remove(String);
    impl Drop for Remove {
        fn drop(&mut self) {
            let _ = std::fs::remove_file(&self.0);
        }
    }
    write_whole(&file, &std::process::id().to_string());
    let _remove = Remove(file);
    std::future::pending::<()>().await;
}

fn spin(file: String) {
    write_whole(&file, &std::process::id().to_string());
    loop {
        std::hint::spin_loop();
    }
}

/// Blocks until it is cancelled.
fn ask(cx: Context, file: String) {
    write_whole(&file, &std::process::id().to_string());
    while !cx.is_cancelled() {
        std::thread::sleep(Duration::from_millis(1));
    }
}

async fn pid() -> u32 {
    std::process::id()
}

type Settings = (Vec<String>, Option<String>, String, i32);

fn settings(variable: String) -> Settings {
    let words = std::fs::read("/proc/self/cmdline").expect("the arguments");
    let words = words.split(|byte| *byte == 0).map(|word| String::from_utf8_lossy(word).into_owned());
    let folder = std::env::current_dir().expect("a folder").to_string_lossy().into_owned();
    // Of a thread, but what the process was started with.
    let nice = std::fs::read_to_string("/proc/self/stat").expect("stat");
    let nice = nice.rsplit_once(')').expect("a name").1.split_whitespace().nth(16).expect("a field");
    (words.collect(), std::env::var(variable).ok(), folder, nice.parse().expect("a number"))
}

/// Ignored and blocked signals, as bits.
fn signals() -> (u64, u64) {
    let status = std::fs::read_to_string("/proc/self/status").expect("status");
    let bits = |name: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(name)).expect("a line");
        u64::from_str_radix(line.trim(), 16).expect("bits")
    };
    (bits("SigIgn:"), bits("SigBlk:"))
}

fn descriptors() -> Vec<String> {
    let all = std::fs::read_dir("/proc/self/fd").expect("descriptors").flatten();
    all.filter_map(|entry| Some(std::fs::read_link(entry.path()).ok()?.to_string_lossy().into_owned()))
        .collect()
}

fn fill(bytes: usize) -> usize {
    let filled = vec![1_u8; bytes];
    filled.iter().map(|byte| usize::from(*byte)).sum()
}

fn print(text: String) {
    println!("{text}");
}

/// Whether there is such a process, dead or not.
async fn is_there(pid: u32) -> bool {
    std::path::Path::new(&format!("/proc/{pid}")).exists()
}

async fn ignore_interrupts(file: String) {
    // Handled, and nothing done.
    let _handler = tokio::signal::unix::signal(tokio::signal::unix::SignalKind::interrupt());
    hold(file).await;
}

async fn count(cx: Context) -> u32 {
    cx.state(|| AtomicU32::new(0)).fetch_add(1, SeqCst)
}

/// Its own process, and as many below it one after another.
fn family(depth: u32) -> Result<Vec<u32>, RunError> {
    let mut pids = match depth {
        0 => Vec::new(),
        _ => tokio::runtime::Handle::current().block_on(local::run(family, (depth - 1,)))?,
    };
    pids.push(std::process::id());
    Ok(pids)
}

fn close_all() {
    for fd in 3..10_000 {
        // SAFETY: nothing of this process is used afterwards.
        unsafe { libc::close(fd) };
    }
}

/// Appends a line to a file.
async fn note(file: String, line: u32) {
    use std::io::Write;
    let file = std::fs::OpenOptions::new().append(true).create(true).open(file);
    writeln!(file.expect("the file"), "{line}").expect("write");
}

// ---- helpers -----------------------------------------------------------------------------------------------------

/// So that nobody sees half of it.
fn write_whole(file: &str, text: &str) {
    let new = format!("{file}.new");
    std::fs::write(&new, text).expect("write");
    std::fs::rename(new, file).expect("rename");
}

fn temporary() -> (tempfile::TempDir, String) {
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("here").to_string_lossy().into_owned();
    (folder, file)
}

/// The process that a task wrote into its file.
async fn written(file: &str) -> u32 {
    let mut pid = None;
    until("the task runs", || {
        pid = std::fs::read_to_string(file).ok().and_then(|text| text.parse().ok());
        pid.is_some()
    })
    .await;
    pid.expect("it was read")
}

/// A process that was killed has closed all that it had a moment before it is gone.
async fn gone(pid: u32) {
    until("the process is gone", || !alive(pid)).await;
}

fn kill(pid: u32) {
    let pid = Pid::from_raw(pid.cast_signed()).expect("a number");
    kill_process(pid, Signal::KILL).expect("kill");
}

fn killed_by(result: Result<(), RunError>) -> i32 {
    match result {
        Err(RunError::Killed { signal, .. }) => signal,
        other => panic!("{other:?}"),
    }
}

/// The children of this process that are dead and not reaped.
fn zombies() -> usize {
    let mut count = 0;
    for entry in std::fs::read_dir("/proc").expect("processes").flatten() {
        let Ok(stat) = std::fs::read_to_string(entry.path().join("stat")) else { continue };
        let Some((_, rest)) = stat.rsplit_once(')') else { continue };
        let mut fields = rest.split_whitespace();
        if fields.next() == Some("Z") && fields.next() == Some(&std::process::id().to_string()) {
            count += 1;
        }
    }
    count
}

/// With the time that a task needs to be dropped where it waits, on the busiest of machines.
fn patient() -> Options {
    Options::new().grace(Duration::from_secs(20))
}

/// What is below this process, dead ones included, but for the process that forks the others.
fn offspring() -> Vec<u32> {
    let below = farcall_test_support::descendants(std::process::id());
    below.into_iter().filter(|pid| !serves_all(*pid)).collect()
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
            assert!(panic.location.contains("local.rs"), "{}", panic.location);
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
    let below = farcall_test_support::descendants(std::process::id());
    let server = below.into_iter().find(|pid| serves_all(*pid)).expect("the second was forked");
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

/// Polls a future on this thread, of which no runtime knows.
fn without_runtime<F: Future>(future: F) -> F::Output {
    struct Unpark(std::thread::Thread);
    impl std::task::Wake for Unpark {
        fn wake(self: std::sync::Arc<Self>) {
            self.0.unpark();
        }
    }
    assert!(tokio::runtime::Handle::try_current().is_err());
    let waker = std::sync::Arc::new(Unpark(std::thread::current())).into();
    let mut future = std::pin::pin!(future);
    loop {
        match future.as_mut().poll(&mut std::task::Context::from_waker(&waker)) {
            std::task::Poll::Ready(output) => return output,
            std::task::Poll::Pending => std::thread::park(),
        }
    }
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

// ---- worker ------------------------------------------------------------------------------------------------------

async fn a_worker_goes_on_after_failures() {
    let mut worker = Worker::new().await.expect("a worker");
    let first = worker.call(pid, ()).await.expect("a number");
    assert_eq!(worker.pid(), Some(first));
    assert!(matches!(worker.call(fail, ()).await, Err(RunError::Failed(_))));
    assert!(matches!(worker.call(panics, ("x".to_owned(),)).await, Err(RunError::Panicked(_))));
    assert!(matches!(worker.call(odd, ()).await, Err(RunError::Undecodable(_))));
    for n in 0..100 {
        assert_eq!(worker.call(square, (n,)).await.expect("a value"), n * n);
        assert_eq!(u64::from(worker.call(count, ()).await.expect("a count")), n);
    }
    assert_eq!(worker.call(pid, ()).await.expect("a number"), first);
    worker.close().await;
    gone(first).await;
}

async fn a_worker_survives_a_dropped_call_that_waits() {
    let (_folder, file) = temporary();
    let mut worker = patient().worker().await.expect("a worker");
    let first = worker.pid().expect("it is idle");
    {
        let call = worker.call(hold, (file.clone(),));
        tokio::select! {
            result = call => panic!("{result:?}"),
            pid = written(&file) => assert_eq!(pid, first),
        }
    }
    assert_eq!(worker.call(pid, ()).await.expect("a number"), first);
    assert!(!std::path::Path::new(&file).exists(), "its task was dropped");
}

async fn a_worker_ends_with_a_dropped_call_that_computes() {
    let (_folder, file) = temporary();
    let mut worker = Options::new().grace(Duration::from_millis(100)).worker().await.expect("a worker");
    let pid = tokio::select! {
        result = worker.call(spin, (file.clone(),)) => panic!("{result:?}"),
        pid = written(&file) => pid,
    };
    let result = worker.call(square, (1,)).await;
    assert!(matches!(result, Err(RunError::Killed { signal: 9, .. })), "{result:?}");
    gone(pid).await;
}

async fn a_dead_worker_says_so_again_and_again() {
    let mut worker = Worker::new().await.expect("a worker");
    let pid = worker.pid().expect("it is idle");
    assert!(matches!(worker.call(exit, (3,)).await, Err(RunError::Exited { code: 3, .. })));
    for _ in 0..2 {
        assert!(matches!(worker.call(square, (1,)).await, Err(RunError::Exited { code: 3, .. })));
    }
    gone(pid).await;
    assert_eq!(worker.pid(), None);
}

// ---- pool --------------------------------------------------------------------------------------------------------

async fn pids(pool: &Pool, count: usize) -> Vec<u32> {
    let mut pids = Vec::new();
    for _ in 0..count {
        pids.push(pool.call(pid, ()).await.expect("a number"));
    }
    pids.sort_unstable();
    pids.dedup();
    pids
}

async fn a_pool_starts_processes_as_they_are_needed() {
    let before = descriptors().len();
    let pool = Pool::new(3);
    assert_eq!(descriptors().len(), before, "nothing is started yet");
    assert_eq!(pids(&pool, 20).await.len(), 1, "one is enough for one call after another");

    let (folder, _) = temporary();
    let files: Vec<String> =
        (0..5).map(|n| folder.path().join(n.to_string()).to_string_lossy().into_owned()).collect();
    let calls: Vec<_> = files
        .iter()
        .map(|file| {
            let (pool, file) = (pool.clone(), file.clone());
            tokio::spawn(async move { pool.call(hold, (file,)).await })
        })
        .collect();
    let running = || files.iter().filter(|file| std::path::Path::new(file).exists()).count();
    until("as many run as there are workers", || running() == 3).await;
    assert_eq!(running(), 3);
    calls.iter().for_each(|call| call.abort());
    pool.close().await;
}

async fn a_pool_is_fair() {
    let (_folder, file) = temporary();
    let pool = Pool::new(1);
    let mut calls = Vec::new();
    for line in 0..20 {
        let mut call = Box::pin({
            let (pool, file) = (pool.clone(), file.clone());
            async move { pool.call(note, (file, line)).await }
        });
        // It takes its place in the queue.
        let ready =
            std::future::poll_fn(|cx| std::task::Poll::Ready(call.as_mut().poll(cx).is_ready())).await;
        assert!(!ready);
        calls.push(call);
    }
    // Whoever asks first is served last in this order of polling.
    let calls: Vec<_> = calls.into_iter().rev().map(tokio::spawn).collect();
    for call in calls {
        call.await.expect("no panic").expect("a value");
    }
    let lines = std::fs::read_to_string(&file).expect("the lines");
    let wanted: String = (0..20).map(|line| format!("{line}\n")).collect();
    assert_eq!(lines, wanted);
}

async fn a_pool_goes_on_after_failures() {
    let pool = Pool::new(1);
    let first = pids(&pool, 1).await;
    for _ in 0..20 {
        assert!(matches!(pool.call(fail, ()).await, Err(PoolError::Run(RunError::Failed(_)))));
        let panicked = pool.call(panics, ("x".to_owned(),)).await;
        assert!(matches!(panicked, Err(PoolError::Run(RunError::Panicked(_)))));
        assert!(matches!(pool.call(odd, ()).await, Err(PoolError::Run(RunError::Undecodable(_)))));
    }
    assert_eq!(pids(&pool, 1).await, first);
}

async fn a_dead_worker_is_never_handed_out() {
    let pool = Pool::new(1);
    let mut last = pids(&pool, 1).await[0];
    for _ in 0..30 {
        kill(last);
        let next = pool.call(pid, ()).await.expect("a living worker");
        assert_ne!(next, last);
        last = next;
    }
}

async fn a_worker_killed_at_work_is_replaced() {
    let (_folder, file) = temporary();
    let pool = Pool::new(1);
    let call = tokio::spawn({
        let (pool, file) = (pool.clone(), file.clone());
        async move { pool.call(hold, (file,)).await }
    });
    kill(written(&file).await);
    let result = call.await.expect("no panic");
    assert!(matches!(result, Err(PoolError::Run(RunError::Killed { signal: 9, .. }))), "{result:?}");
    assert_eq!(pool.call(square, (5,)).await.expect("a value"), 25);
}

/// Drops a call when it runs, and returns its process.
async fn drop_at_work<F, M>(pool: &Pool, task: F, file: &str) -> u32
where
    F: farcall::Task<M, Args = (String,), Value = ()>,
    M: Send + 'static,
{
    tokio::select! {
        result = pool.call(task, (file.to_owned(),)) => panic!("{result:?}"),
        pid = written(file) => pid,
    }
}

async fn a_dropped_call_that_waits_keeps_its_worker() {
    let (_folder, file) = temporary();
    let pool = patient().pool(1);
    let first = pids(&pool, 1).await;
    for _ in 0..10 {
        assert_eq!(drop_at_work(&pool, hold, &file).await, first[0]);
        assert_eq!(pids(&pool, 1).await, first);
        assert!(!std::path::Path::new(&file).exists(), "its task was dropped before the next call");
    }
}

async fn a_dropped_call_that_computes_is_killed() {
    let (_folder, file) = temporary();
    let pool = Options::new().grace(Duration::from_millis(50)).pool(1);
    for _ in 0..3 {
        let pid = drop_at_work(&pool, spin, &file).await;
        assert_eq!(pool.call(square, (2,)).await.expect("a value"), 4);
        gone(pid).await;
        std::fs::remove_file(&file).expect("the file");
    }
}

async fn a_dropped_call_that_asks_keeps_its_worker() {
    let (_folder, file) = temporary();
    let pool = patient().pool(1);
    let pid = drop_at_work(&pool, ask, &file).await;
    assert_eq!(pids(&pool, 1).await, [pid]);
}

async fn a_pool_limits_time_and_memory() {
    let (_folder, file) = temporary();
    let pool = Options::new().memory(128 << 20).time_limit(Duration::from_secs(5)).pool(1);
    let result = pool.call(spin, (file.clone(),)).await;
    assert!(matches!(result, Err(PoolError::Run(RunError::TimedOut { .. }))), "{result:?}");
    gone(written(&file).await).await;
    let result = pool.call(fill, (256 << 20,)).await;
    assert!(matches!(result, Err(PoolError::Run(RunError::Killed { signal: 6, .. }))), "{result:?}");
    assert_eq!(pool.call(square, (2,)).await.expect("a value"), 4);
}

async fn closing_a_pool_fails_its_calls() {
    let (folder, _) = temporary();
    let pool = Pool::new(2);
    let files: Vec<String> =
        (0..2).map(|n| folder.path().join(n.to_string()).to_string_lossy().into_owned()).collect();
    let call = |file: &String| {
        let (pool, file) = (pool.clone(), file.clone());
        tokio::spawn(async move { pool.call(spin, (file,)).await })
    };
    let mut calls: Vec<_> = files.iter().map(call).collect();
    let running = [written(&files[0]).await, written(&files[1]).await];
    // These wait.
    calls.extend(files.iter().map(call));
    pool.close().await;
    gone(running[0]).await;
    gone(running[1]).await;
    for call in calls {
        let result = call.await.expect("no panic");
        assert!(matches!(result, Err(PoolError::Closed)), "{result:?}");
    }
    assert!(matches!(pool.call(square, (1,)).await, Err(PoolError::Closed)));
    assert_eq!(zombies(), 0);
}

async fn a_closed_pool_has_no_process_left() {
    // One that has worked enough.
    let pool = Options::new().max_calls(1).pool(1);
    pids(&pool, 1).await;
    pool.close().await;
    assert!(offspring().is_empty(), "{:?}", offspring());

    // Some that are being started, by calls of which one was given up before.
    let pool = Options::new().env(STUCK, "1").pool(2);
    let calls: Vec<_> = (0..2)
        .map(|n| {
            let pool = pool.clone();
            tokio::spawn(async move { pool.call(square, (n,)).await })
        })
        .collect();
    until("both are being started", || offspring().len() >= 2).await;
    calls[0].abort();
    pool.close().await;
    assert!(offspring().is_empty(), "{:?}", offspring());

    // Those that are put back meanwhile.
    for round in 0..20 {
        let pool = Pool::new(2);
        let calls: Vec<_> = (0..2)
            .map(|n| {
                let pool = pool.clone();
                tokio::spawn(async move { pool.call(square, (n,)).await })
            })
            .collect();
        tokio::time::sleep(Duration::from_micros(round * 500)).await;
        pool.close().await;
        assert!(offspring().is_empty(), "{:?}", offspring());
        for call in calls {
            assert!(matches!(call.await.expect("no panic"), Ok(_) | Err(PoolError::Closed)));
        }
    }
}

async fn a_pool_never_has_more_processes_than_workers() {
    let pool = Options::new().max_calls(1).pool(1);
    pids(&pool, 1).await;
    for _ in 0..10 {
        let last = pool.call(pid, ()).await.expect("a number");
        let alone = pool.call(is_there, (last,)).await.expect("an answer");
        assert!(!alone, "the one before is there");
    }
}

async fn workers_are_renewed_after_so_many_calls() {
    let pool = Options::new().max_calls(3).pool(1);
    assert_eq!(pids(&pool, 9).await.len(), 3);
}

async fn a_pool_serves_several_runtimes() {
    let pool = Pool::new(1);
    let first = pids(&pool, 1).await;
    for _ in 0..3 {
        let other = pool.clone();
        let there = std::thread::spawn(move || {
            let runtime =
                tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
            runtime.block_on(pids(&other, 5))
        });
        assert_eq!(there.join().expect("no panic"), first);
        assert_eq!(pids(&pool, 5).await, first);
    }
}
