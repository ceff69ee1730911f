//! The end of a gateway in order: what has finished is here, and what has not is waited for, told, or let go.

mod gateways;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use farcall::{BoxError, CallError, Class, Context, Gateway, Output, Receiver, Sender, Stdio, Tasks};
use gateways::{EVERYWHERE, Kind, Place, alive, at, until};
use tokio::io::{AsyncBufReadExt, AsyncReadExt};

fn main() {
    let tasks = Tasks::new()
        .add(hold)
        .add(after)
        .add(print)
        .add(long)
        .add(long_blocking)
        .add(keep)
        .add(wait_for_the_end)
        .add(take_memory);
    if let [_, first, spec, file] = &std::env::args().collect::<Vec<_>>()[..]
        && first == "--coordinate"
    {
        farcall::init(tasks);
        return coordinate(spec, file.into());
    }
    gateways::main(
        tasks,
        [
            at(&EVERYWHERE, "a_dropped_close_changes_nothing", a_dropped_close_changes_nothing),
            at(&EVERYWHERE, "many_may_close_at_once", many_may_close_at_once),
            at(&EVERYWHERE, "what_has_finished_is_here_after_close", what_has_finished_is_here_after_close),
            at(&EVERYWHERE, "a_long_value_is_waited_for", a_long_value_is_waited_for),
            at(&EVERYWHERE, "what_was_printed_last_is_here", what_was_printed_last_is_here),
            at(
                &EVERYWHERE,
                "a_channel_in_a_state_does_not_hold_it_up",
                a_channel_in_a_state_does_not_hold_it_up,
            ),
            at(&EVERYWHERE, "a_task_that_blocks_is_told_of_the_end", a_task_that_blocks_is_told_of_the_end),
            at(
                &EVERYWHERE,
                "a_killed_coordinator_is_no_reason_for_haste",
                a_killed_coordinator_is_no_reason_for_haste,
            ),
            at(
                &EVERYWHERE,
                "a_worker_that_takes_too_much_memory_ends",
                a_worker_that_takes_too_much_memory_ends,
            ),
            at(
                &[Kind::Local, Kind::Ssh],
                "a_worker_full_of_calls_still_answers",
                a_worker_full_of_calls_still_answers,
            ),
        ],
    );
}

// ---- tasks -------------------------------------------------------------------------------------------------------

async fn hold() {
    std::future::pending().await
}

async fn after(mut go: Receiver<u64>) -> Result<u64, BoxError> {
    Ok(go.recv().await?.ok_or("nothing came")?)
}

fn print(lines: usize) {
    for line in 0..lines {
        println!("line {line}");
    }
}

async fn long(len: usize) -> String {
    "x".repeat(len)
}

fn long_blocking(len: usize) -> String {
    "x".repeat(len)
}

#[derive(Default)]
struct Kept(Mutex<Vec<Sender<u64>>>);

async fn keep(cx: Context, sender: Sender<u64>) {
    cx.state(Kept::default).0.lock().expect("no panic").push(sender);
}

fn wait_for_the_end(cx: Context, running: Sender<u64>, file: PathBuf) {
    running.try_send(1).expect("room for one");
    while !cx.is_cancelled() {
        std::thread::sleep(Duration::from_millis(1));
    }
    std::fs::write(file, "told").expect("written");
}

async fn take_memory(len: usize) -> usize {
    std::hint::black_box(vec![1_u8; len]).len()
}

/// Has a task wait for the end at a place, and says so; to be killed then.
fn coordinate(spec: &str, file: PathBuf) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    runtime.block_on(async {
        let gateway = Gateway::open(&spec.parse().expect("a spec")).await.expect("a gateway");
        let (running, mut runs) = gateway.pair();
        gateway.start(wait_for_the_end, (running, file)).await.expect("a call").detach();
        assert_eq!(runs.recv().await.expect("it runs"), Some(1));
        println!("{}", gateway.pid());
        std::future::pending::<()>().await;
    });
}

// ---- tests -------------------------------------------------------------------------------------------------------

/// Asks for the end, and lets go when the worker has heard of it.
async fn close_and_let_go(gateway: &Gateway) {
    tokio::select! {
        biased;
        closed = gateway.close() => panic!("{closed:?}"),
        // What was asked for first has arrived first.
        status = gateway.status() => drop(status.expect("a status")),
    }
}

async fn read_until(output: &mut Output, text: &str) {
    let mut read = String::new();
    while !read.contains(text) {
        let printed = output.next().await.expect("more prints");
        read.push_str(std::str::from_utf8(&printed.bytes).expect("text"));
    }
}

async fn a_dropped_close_changes_nothing(place: Arc<Place>) {
    let gateway = place.open().await;
    let mut output = gateway.output();
    let holding = gateway.start(hold, ()).await.expect("a call");
    for _ in 0..20 {
        close_and_let_go(&gateway).await;
    }
    drop(holding);
    while !gateway.status().await.expect("a status").tasks.is_empty() {}
    for _ in 0..3 {
        gateway.call(print, (10,)).await.expect("printed");
        read_until(&mut output, "line 9\n").await;
    }
    gateway.close().await.expect("closed");
    assert!(output.next().await.is_none());
}

async fn many_may_close_at_once(place: Arc<Place>) {
    let gateway = place.open().await;
    let (go, their_go) = gateway.pair();
    let call = gateway.start(after, (their_go,)).await.expect("a call");
    let mut closing = tokio::task::JoinSet::new();
    for _ in 0..5 {
        let gateway = gateway.clone();
        closing.spawn(async move { gateway.close().await });
    }
    close_and_let_go(&gateway).await;
    close_and_let_go(&gateway).await;
    assert!(closing.try_join_next().is_none() && gateway.end().is_none());
    go.send(7).await.expect("sent");
    while let Some(closed) = closing.join_next().await {
        closed.expect("no panic").expect("closed");
    }
    assert_eq!(call.await.expect("its value is here"), 7);
    assert_eq!(gateway.end().expect("it has ended").class(), None);
}

async fn what_has_finished_is_here_after_close(place: Arc<Place>) {
    for _ in 0..3 {
        let gateway = place.open().await;
        let mut calls = Vec::new();
        for number in 0..100_usize {
            let len = 50_000 + number;
            calls.push((len, gateway.start(long, (len,)).await.expect("a call")));
            calls.push((len, gateway.start(long_blocking, (len,)).await.expect("a call")));
        }
        let command = gateway.command("head").args(["-c", "50000", "/dev/zero"]).stdout(Stdio::Piped);
        let mut child = command.spawn().await.expect("a command");
        gateway.close().await.expect("closed");
        for (len, call) in calls {
            assert_eq!(call.await.expect("its value is here").len(), len);
        }
        let mut bytes = Vec::new();
        child.stdout.take().expect("it is piped").read_to_end(&mut bytes).await.expect("its output is here");
        assert_eq!(bytes.len(), 50_000);
        assert!(child.wait().await.expect("its end is here").status.success());
    }
}

async fn a_long_value_is_waited_for(place: Arc<Place>) {
    let gateway = place.open().await;
    let call = gateway.start(long, (20 << 20,)).await.expect("a call");
    let (closed, value) = tokio::join!(gateway.close(), call);
    closed.expect("closed");
    assert_eq!(value.expect("its value").len(), 20 << 20);
}

async fn what_was_printed_last_is_here(place: Arc<Place>) {
    let gateway = place.open().await;
    let mut output = gateway.output();
    let reading = tokio::spawn(async move {
        let mut text = Vec::new();
        while let Some(printed) = output.next().await {
            text.extend_from_slice(&printed.bytes);
        }
        String::from_utf8(text).expect("text")
    });
    gateway.start(print, (50_000,)).await.expect("a call").detach();
    gateway.close().await.expect("closed");
    let text = reading.await.expect("no panic");
    assert!(text.ends_with("line 49999\n"), "{}", &text[text.len().saturating_sub(100)..]);
    assert_eq!(text.lines().count(), 50_000);
}

async fn a_channel_in_a_state_does_not_hold_it_up(place: Arc<Place>) {
    let gateway = place.open().await;
    let (sender, mut receiver) = gateway.pair();
    gateway.call(keep, (sender,)).await.expect("kept");
    let begin = Instant::now();
    gateway.close().await.expect("closed");
    assert!(begin.elapsed() < Duration::from_secs(10), "{:?}", begin.elapsed());
    assert_eq!(receiver.recv().await.expect("it was closed in order"), None);
}

async fn a_task_that_blocks_is_told_of_the_end(place: Arc<Place>) {
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("told");
    let gateway = place.open().await;
    let (running, mut runs) = gateway.pair();
    let call = gateway.start(wait_for_the_end, (running, file.clone())).await.expect("a call");
    assert_eq!(runs.recv().await.expect("it runs"), Some(1));
    // Let go: its caller will not be gone.
    call.detach();
    gateway.status().await.expect("a status");
    gateway.exit();
    until("the task was told", || file.exists()).await;
    gateway.wait().await;
}

/// What leads to a place is killed with the coordinator. A worker behind it, or in its very process, ends in order all the same.
async fn a_killed_coordinator_is_no_reason_for_haste(place: Arc<Place>) {
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("told");
    let mut command = tokio::process::Command::new(std::env::current_exe().expect("a path"));
    command.args(["--coordinate", &place.text()]).arg(&file);
    command.stdin(std::process::Stdio::null()).stdout(std::process::Stdio::piped()).kill_on_drop(true);
    let mut coordinator = command.spawn().expect("a coordinator");
    let mut lines = tokio::io::BufReader::new(coordinator.stdout.take().expect("piped")).lines();
    let line = lines.next_line().await.expect("it speaks").expect("a line");
    let worker = line.parse().expect("a number");
    coordinator.kill().await.expect("killed");
    until("the task was told", || file.exists()).await;
    until("the worker is gone", || !alive(worker)).await;
}

async fn a_worker_that_takes_too_much_memory_ends(place: Arc<Place>) {
    let gateway = place.open_as(place.spec().memory(200 << 20)).await.expect("a gateway");
    assert_eq!(gateway.call(take_memory, (50 << 20,)).await.expect("as much is allowed"), 50 << 20);
    let error = gateway.call(take_memory, (300 << 20,)).await.expect_err("it has ended");
    let CallError::Ended(end) = &error else { panic!("{error:?}") };
    assert!(matches!(error.class(), Some(Class::Signal | Class::RemoteExit)), "{end}");
    until("the worker is gone", || !alive(gateway.pid())).await;
}

async fn a_worker_full_of_calls_still_answers(place: Arc<Place>) {
    let gateway = place.open().await;
    let mut calls = BTreeMap::new();
    let full = loop {
        let number = calls.len();
        let mut starting = Box::pin(gateway.start(hold, ()));
        tokio::select! {
            biased;
            call = &mut starting => drop(calls.insert(number, call.expect("a call"))),
            // It has been asked for, and nothing came of it until an answer to a later question is here.
            status = gateway.status() => {
                drop(status.expect("a status"));
                tokio::select! {
                    biased;
                    call = &mut starting => drop(calls.insert(number, call.expect("a call"))),
                    () = std::future::ready(()) => break starting,
                }
            }
        }
    };
    assert!(calls.len() > 4000, "{}", calls.len());
    assert_eq!(gateway.status().await.expect("a status").tasks.len(), 256);
    assert_eq!(gateway.info().await.expect("information").pid, gateway.pid());
    close_and_let_go(&gateway).await;
    calls.clear();
    drop(full.await.expect("room again"));
    gateway.close().await.expect("closed");
}
