//! What tests of child processes have run there, and how they look at those.

#![allow(dead_code, reason = "each test file uses its own part of this")]

use std::sync::atomic::{AtomicU32, Ordering::SeqCst};
use std::time::Duration;

use bytes::Bytes;
use farcall::local::{self, Options, RunError};
use farcall::{Context, Plain, Tasks};
use libtest_mimic::Trial;
use rustix::process::{Pid, Signal, kill_process};
use serde::{Deserialize, Serialize};

use crate::gateways::{self, alive, serves_all, until};

/// A start in which this is set never comes to `init`.
pub(crate) const STUCK: &str = "FARCALL_TEST_STUCK";

/// Plays a worker that has these tasks, or runs the tests.
pub(crate) fn main(tests: impl IntoIterator<Item = Vec<Trial>>) {
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
        .add(leave)
        .add(surroundings)
        .add(take)
        .add(note);
    gateways::main(tasks, tests);
}

// ---- tasks -------------------------------------------------------------------------------------------------------

pub(crate) async fn square(n: u64) -> u64 {
    n * n
}

#[derive(Debug, thiserror::Error)]
#[error("cannot count sheep")]
pub(crate) struct CountError(#[source] std::io::Error);

pub(crate) async fn fail() -> Result<u64, CountError> {
    Err(CountError(std::io::Error::other("asleep")))
}

pub(crate) fn panics(what: String) {
    panic!("of {what}");
}

pub(crate) fn raise(number: i32) {
    let signal = Signal::from_named_raw(number).expect("a signal");
    kill_process(rustix::process::getpid(), signal).expect("signal this process");
    loop {
        std::thread::park();
    }
}

pub(crate) async fn exit(code: i32) {
    std::process::exit(code);
}

/// Written as a number, read as text.
pub(crate) struct Odd;

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

pub(crate) async fn odd() -> Odd {
    Odd
}

pub(crate) async fn unreadable(_: Odd) {}

/// Cannot be written.
#[derive(Deserialize)]
pub(crate) struct Unwritable;

impl Serialize for Unwritable {
    fn serialize<S: serde::Serializer>(&self, _: S) -> Result<S::Ok, S::Error> {
        Err(serde::ser::Error::custom("by no means"))
    }
}

impl Plain for Unwritable {}

pub(crate) async fn unsendable() -> Unwritable {
    Unwritable
}

pub(crate) async fn length(bytes: Bytes, more: usize) -> (usize, Bytes) {
    (bytes.len(), vec![7; more].into())
}

/// Says that it runs by making a file, waits, and removes the file when it is dropped.
pub(crate) async fn hold(file: String) {
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

pub(crate) fn spin(file: String) {
    write_whole(&file, &std::process::id().to_string());
    loop {
        std::hint::spin_loop();
    }
}

/// Blocks until it is cancelled.
pub(crate) fn ask(cx: Context, file: String) {
    write_whole(&file, &std::process::id().to_string());
    while !cx.is_cancelled() {
        std::thread::sleep(Duration::from_millis(1));
    }
}

pub(crate) async fn pid() -> u32 {
    std::process::id()
}

pub(crate) type Settings = (Vec<String>, Option<String>, String, i32);

pub(crate) fn settings(variable: String) -> Settings {
    let words = std::fs::read("/proc/self/cmdline").expect("the arguments");
    let words = words.split(|byte| *byte == 0).map(|word| String::from_utf8_lossy(word).into_owned());
    let folder = std::env::current_dir().expect("a folder").to_string_lossy().into_owned();
    // Of a thread, but what the process was started with.
    let nice = std::fs::read_to_string("/proc/self/stat").expect("stat");
    let nice = nice.rsplit_once(')').expect("a name").1.split_whitespace().nth(16).expect("a field");
    (words.collect(), std::env::var(variable).ok(), folder, nice.parse().expect("a number"))
}

/// Ignored and blocked signals, as bits.
pub(crate) fn signals() -> (u64, u64) {
    let status = std::fs::read_to_string("/proc/self/status").expect("status");
    let bits = |name: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(name)).expect("a line");
        u64::from_str_radix(line.trim(), 16).expect("bits")
    };
    (bits("SigIgn:"), bits("SigBlk:"))
}

pub(crate) fn descriptors() -> Vec<String> {
    let all = std::fs::read_dir("/proc/self/fd").expect("descriptors").flatten();
    all.filter_map(|entry| Some(std::fs::read_link(entry.path()).ok()?.to_string_lossy().into_owned()))
        .collect()
}

pub(crate) fn fill(bytes: usize) -> usize {
    let filled = vec![1_u8; bytes];
    filled.iter().map(|byte| usize::from(*byte)).sum()
}

pub(crate) fn print(text: String) {
    println!("{text}");
}

/// Whether there is such a process, dead or not.
pub(crate) async fn is_there(pid: u32) -> bool {
    std::path::Path::new(&format!("/proc/{pid}")).exists()
}

pub(crate) async fn ignore_interrupts(file: String) {
    // Handled, and nothing done.
    let _handler = tokio::signal::unix::signal(tokio::signal::unix::SignalKind::interrupt());
    hold(file).await;
}

pub(crate) async fn count(cx: Context) -> u32 {
    cx.state(|| AtomicU32::new(0)).fetch_add(1, SeqCst)
}

/// Its own process, and as many below it one after another.
pub(crate) fn family(depth: u32) -> Result<Vec<u32>, RunError> {
    let mut pids = match depth {
        0 => Vec::new(),
        _ => tokio::runtime::Handle::current().block_on(local::run(family, (depth - 1,)))?,
    };
    pids.push(std::process::id());
    Ok(pids)
}

pub(crate) fn close_all() {
    for fd in 3..10_000 {
        // SAFETY: nothing of this process is used afterwards.
        unsafe { libc::close(fd) };
    }
}

/// Leaves a process behind that has a session of its own.
pub(crate) fn leave() -> u32 {
    std::process::Command::new("setsid").args(["sleep", "1000"]).spawn().expect("start a daemon").id()
}

pub(crate) async fn take(_: local::PipeReceiver<u8>) {}

/// Whether the parent is there for one run after another, and how many are below that.
pub(crate) fn surroundings() -> (bool, usize) {
    let parent = std::os::unix::process::parent_id();
    (serves_all(parent), farcall_test_support::descendants(parent).len())
}

/// Appends a line to a file.
pub(crate) async fn note(file: String, line: u32) {
    use std::io::Write;
    let file = std::fs::OpenOptions::new().append(true).create(true).open(file);
    writeln!(file.expect("the file"), "{line}").expect("write");
}

// ---- helpers -----------------------------------------------------------------------------------------------------

/// So that nobody sees half of it.
pub(crate) fn write_whole(file: &str, text: &str) {
    let new = format!("{file}.new");
    std::fs::write(&new, text).expect("write");
    std::fs::rename(new, file).expect("rename");
}

pub(crate) fn temporary() -> (tempfile::TempDir, String) {
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("here").to_string_lossy().into_owned();
    (folder, file)
}

/// From now on a plain run is forked by a guardian that stays: a first one and a second are started in other ways.
pub(crate) async fn open_short_way() {
    for _ in 0..20 {
        if local::run(surroundings, ()).await.expect("a value").0 {
            return;
        }
    }
    panic!("all runs are started in another way");
}

/// Polls a future on this thread, of which no runtime knows.
pub(crate) fn without_runtime<F: Future>(future: F) -> F::Output {
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

/// The process that a task wrote into its file.
pub(crate) async fn written(file: &str) -> u32 {
    let mut pid = None;
    until("the task runs", || {
        pid = std::fs::read_to_string(file).ok().and_then(|text| text.parse().ok());
        pid.is_some()
    })
    .await;
    pid.expect("it was read")
}

/// A process that was killed has closed all that it had a moment before it is gone.
pub(crate) async fn gone(pid: u32) {
    until("the process is gone", || !alive(pid)).await;
}

pub(crate) fn kill(pid: u32) {
    let pid = Pid::from_raw(pid.cast_signed()).expect("a number");
    kill_process(pid, Signal::KILL).expect("kill");
}

pub(crate) fn killed_by(result: Result<(), RunError>) -> i32 {
    match result {
        Err(RunError::Killed { signal, .. }) => signal,
        other => panic!("{other:?}"),
    }
}

/// The children of this process that are dead and not reaped.
pub(crate) fn zombies() -> usize {
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
pub(crate) fn patient() -> Options {
    Options::new().grace(Duration::from_secs(20))
}

/// What is below this process, dead ones included, but for the process that forks the others.
pub(crate) fn offspring() -> Vec<u32> {
    let below = farcall_test_support::descendants(std::process::id());
    below.into_iter().filter(|pid| !serves_all(*pid)).collect()
}
