//! What is on the other side may be no worker of this program: nothing hangs, and nothing it says does any harm.

mod gateways;

use std::io::{Read, Write};
use std::process::Stdio;
use std::sync::Arc;
use std::time::{Duration, Instant};

use farcall::channel::frame::{Hello as Greeting, Limits, VERSION};
use farcall::channel::{Channel, Connection, Incoming, Options, Role};
use farcall::{CallError, Class, CommandTarget, Exit, Gateway, OpenError, Spec, Step, Tasks};
use gateways::plain;
use serde::{Deserialize, Serialize};

/// The first argument of this program when it plays a stranger; the second says which.
const STRANGER: &str = "--stranger";

/// How long what must not hang may take on a busy machine.
const SOON: Duration = Duration::from_secs(12);

fn main() {
    let mut args = std::env::args().skip(1);
    if args.next().as_deref() == Some(STRANGER) {
        return play(&args.next().expect("a part"));
    }
    gateways::main(
        Tasks::new().add(square),
        [
            plain("limits_that_make_no_sense_are_told", limits_that_make_no_sense_are_told),
            plain("a_worker_that_says_nothing_is_given_up", a_worker_that_says_nothing_is_given_up),
            plain("an_introduction_that_makes_no_sense_is_told", an_introduction_that_makes_no_sense_is_told),
            plain("a_refusal_is_told_and_harmless", a_refusal_is_told_and_harmless),
            plain("no_reply_is_an_error", no_reply_is_an_error),
            plain("a_worker_that_leaves_hangs_nothing", a_worker_that_leaves_hangs_nothing),
            plain(
                "a_worker_that_cannot_finish_is_not_waited_for",
                a_worker_that_cannot_finish_is_not_waited_for,
            ),
            plain("a_death_behind_an_open_stream_is_told", a_death_behind_an_open_stream_is_told),
        ],
    );
}

async fn square(n: u64) -> u64 {
    n * n
}

// ---- strangers ---------------------------------------------------------------------------------------------------

/// As the crate's own, so far as a stranger cares.
#[derive(Serialize, Deserialize)]
struct Hello {
    farcall: String,
    program: String,
    build: u64,
    digest: u64,
    tasks: Vec<String>,
    pid: u32,
}

fn play(part: &str) {
    if part == "limits" {
        let limits = Limits { max_channels: 1, initial_window: 1, max_message: 1, assembly_budget: 0 };
        let mut bytes = Vec::new();
        Greeting { version: VERSION, limits }.encode(&mut bytes);
        std::io::stdout().write_all(&bytes).expect("written");
        std::io::stdout().flush().expect("flushed");
        eprintln!("last\u{7} words");
        // Until the other side has had enough.
        let _ = std::io::stdin().read_to_end(&mut Vec::new());
        return;
    }
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    runtime.block_on(async {
        let (reader, writer) = (tokio::io::stdin(), tokio::io::stdout());
        let connection = Connection::start(reader, writer, Role::Worker, Options::default()).await;
        let connection = connection.expect("a connection");
        // Neither read nor dropped.
        let mut kept: Vec<Incoming> = Vec::new();
        while let Some(incoming) = connection.accept().await {
            match (incoming.request().first(), part) {
                (Some(b'h'), "silent") => kept.push(incoming),
                (Some(b'h'), "introduction") => {
                    incoming.accept::<String, Hello>().send("nobody".into()).await.expect("sent");
                }
                (Some(b'h'), _) => {
                    let mut channel: Channel<Hello, Hello> = incoming.accept();
                    let hello = channel.recv().await.expect("received").expect("a hello");
                    channel.send(Hello { pid: std::process::id(), ..hello }).await.expect("sent");
                }
                (Some(b't'), "refuses") => incoming.refuse("\u{1b}[2Jnever\r"),
                (Some(b't' | b'f'), "closes") => drop(incoming.accept::<(), ()>()),
                (Some(b's'), "leaves") => {
                    let leaving = connection.clone();
                    // Ends never: what was opened stays open.
                    tokio::spawn(async move { leaving.close().await });
                    kept.push(incoming);
                }
                (Some(b's'), "dies") => {
                    // It holds the streams open.
                    let mut sleep = std::process::Command::new("sleep");
                    sleep.arg("5").stdin(Stdio::inherit()).stdout(Stdio::inherit()).spawn().expect("started");
                    std::process::exit(7);
                }
                _ => kept.push(incoming),
            }
        }
        connection.ended().await;
    });
}

async fn open(part: &str) -> Result<Gateway, OpenError> {
    let program = std::env::current_exe().expect("a path");
    let command = CommandTarget::new(program).args([STRANGER, part]).as_worker().named(part);
    Gateway::open(&Spec::command(command)).await
}

// ---- tests -------------------------------------------------------------------------------------------------------

async fn limits_that_make_no_sense_are_told() {
    let error = open("limits").await.expect_err("refused");
    assert!(matches!(&error, OpenError::Connect { place, .. } if place == "limits"), "{error:?}");
    assert_eq!((error.class(), error.step()), (Class::Lost, Step::Greeting));
    assert_eq!(error.evidence(), "last\u{7} words\n");
    let text = error.to_string();
    assert!(text.contains("limits: ") && text.contains("last\u{fffd} words"), "{text}");
}

async fn a_worker_that_says_nothing_is_given_up() {
    let begin = Instant::now();
    let error = open("silent").await.expect_err("given up");
    assert!(matches!(&error, OpenError::Silent { place } if place == "silent"), "{error:?}");
    assert_eq!(error.class(), Class::Timeout);
    assert!(begin.elapsed() < Duration::from_secs(15) + SOON, "{:?}", begin.elapsed());
}

async fn an_introduction_that_makes_no_sense_is_told() {
    let error = open("introduction").await.expect_err("refused");
    assert!(matches!(&error, OpenError::Introduction { .. }), "{error:?}");
    assert_eq!(error.step(), Step::Greeting);
}

async fn a_refusal_is_told_and_harmless() {
    let gateway = open("refuses").await.expect("a gateway");
    let error = gateway.call(square, (1,)).await.expect_err("refused");
    assert!(matches!(&error, CallError::Refused(reason) if reason == "\u{1b}[2Jnever\r"), "{error:?}");
    assert_eq!(error.to_string(), "the worker refused: \u{fffd}[2Jnever\u{fffd}");
    assert_eq!((error.class(), error.step()), (Some(Class::Exec), "start"));
}

async fn no_reply_is_an_error() {
    let gateway = open("closes").await.expect("a gateway");
    let error = gateway.call(square, (1,)).await.expect_err("no reply");
    assert!(matches!(error, CallError::NoReply), "{error:?}");
    assert_eq!((error.class(), error.step()), (Some(Class::Lost), "reply"));
}

async fn a_worker_that_leaves_hangs_nothing() {
    let gateway = open("leaves").await.expect("a gateway");
    let waiting = gateway.start(square, (1,)).await.expect("a call");
    let begin = Instant::now();
    // That has it say that it takes no more.
    let status = tokio::spawn({
        let gateway = gateway.clone();
        async move { gateway.status().await }
    });
    while gateway.end().is_none() {
        match gateway.start(square, (1,)).await {
            Ok(call) => drop(call),
            Err(error) => assert!(matches!(error, CallError::Ended(_)), "{error:?}"),
        }
        assert!(begin.elapsed() < SOON, "{:?}", begin.elapsed());
        tokio::task::yield_now().await;
    }
    assert!(matches!(waiting.await, Err(CallError::Ended(_))));
    assert!(matches!(status.await.expect("no panic"), Err(CallError::Ended(_))));
    let error = gateway.command("true").spawn().await.expect_err("ended");
    assert!(error.class().is_some(), "{error:?}");
}

async fn a_worker_that_cannot_finish_is_not_waited_for() {
    let gateway = open("closes").await.expect("a gateway");
    let begin = Instant::now();
    let end = gateway.close().await.expect_err("it did not finish");
    assert!(end.class().is_some(), "{end}");
    assert!(begin.elapsed() < SOON, "{:?}", begin.elapsed());
}

async fn a_death_behind_an_open_stream_is_told() {
    let gateway = open("dies").await.expect("a gateway");
    let error = gateway.status().await.expect_err("it has ended");
    let CallError::Ended(end) = &error else { panic!("{error:?}") };
    assert_eq!((end.class(), end.exit()), (Some(Class::RemoteExit), Some(Exit::Code(7))), "{end}");
    assert!(end.to_string().contains("ended with exit code 7"), "{end}");
    let kept = Arc::new(gateway);
    assert!(kept.end().is_some());
}
