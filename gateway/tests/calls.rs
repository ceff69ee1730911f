//! A task is called like a function: values, channels, errors and panics come back as they should, from every place.

mod gateways;

use std::collections::BTreeMap;
use std::error::Error as _;
use std::sync::Arc;

use farcall::{BoxError, Call, CallError, Channel, Context, Gateway, Plain, Receiver, Sender, Tasks};
use gateways::{EVERYWHERE, Place, at, until};
use serde::{Deserialize, Serialize};

fn main() {
    let tasks = Tasks::new()
        .add(nothing)
        .add(square)
        .add(eight)
        .add(describe)
        .add(where_am_i)
        .add(thread_name)
        .add(route)
        .add(echo)
        .add(open_counter)
        .add(fail)
        .add(fail_with_text)
        .add(send_then_fail)
        .add(panics)
        .add(panics_later)
        .add(blocking_panics)
        .add(too_large)
        .add(counts)
        .add(unreadable)
        .add(odd);
    gateways::main(
        tasks,
        [
            at(&EVERYWHERE, "values_of_all_kinds", values_of_all_kinds),
            at(&EVERYWHERE, "channels_nested_in_arguments", channels_nested_in_arguments),
            at(&EVERYWHERE, "a_task_with_a_channel", a_task_with_a_channel),
            at(&EVERYWHERE, "a_channel_in_the_value", a_channel_in_the_value),
            at(&EVERYWHERE, "errors_come_with_their_chain", errors_come_with_their_chain),
            at(&EVERYWHERE, "an_error_comes_after_all_data", an_error_comes_after_all_data),
            at(&EVERYWHERE, "panics_come_with_place_and_calls", panics_come_with_place_and_calls),
            at(&EVERYWHERE, "a_thousand_calls_at_once", a_thousand_calls_at_once),
            at(
                &EVERYWHERE,
                "a_value_or_argument_too_large_is_an_error",
                a_value_or_argument_too_large_is_an_error,
            ),
            at(
                &EVERYWHERE,
                "arguments_that_make_no_sense_are_an_error",
                arguments_that_make_no_sense_are_an_error,
            ),
            at(&EVERYWHERE, "an_end_of_another_gateway_is_refused", an_end_of_another_gateway_is_refused),
            at(&EVERYWHERE, "a_task_that_was_not_added_is_unknown", a_task_that_was_not_added_is_unknown),
            at(&EVERYWHERE, "state_is_built_once_per_worker", state_is_built_once_per_worker),
        ],
    );
}

// ---- tasks -------------------------------------------------------------------------------------------------------

async fn nothing() {}

async fn square(n: u64) -> u64 {
    n * n
}

#[expect(clippy::too_many_arguments, reason = "it is the most that a task may have")]
fn eight(a: u8, b: u16, c: u32, d: u64, e: i8, f: i16, g: i32, h: i64) -> Vec<i64> {
    vec![a.into(), b.into(), c.into(), d.cast_signed(), e.into(), f.into(), g.into(), h]
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct Shape {
    name: String,
    corners: Vec<(f64, f64)>,
    tags: BTreeMap<String, Option<u32>>,
}

impl Plain for Shape {}

async fn describe(cx: Context, mut shape: Shape) -> Shape {
    shape.name.push_str(cx.gateway());
    shape
}

async fn where_am_i(cx: Context) -> Result<(String, u32), std::convert::Infallible> {
    Ok((cx.gateway().to_owned(), std::process::id()))
}

fn thread_name(_: Context) -> Option<String> {
    std::thread::current().name().map(ToOwned::to_owned)
}

#[derive(Serialize, Deserialize)]
struct Routes {
    inputs: BTreeMap<String, Receiver<u64>>,
    outputs: Vec<Option<Sender<(String, u64)>>>,
}

async fn route(routes: Routes) -> Result<usize, BoxError> {
    let mut count = 0;
    for (name, mut input) in routes.inputs {
        while let Some(number) = input.recv().await? {
            for output in routes.outputs.iter().flatten() {
                output.send((name.clone(), number)).await?;
                count += 1;
            }
        }
    }
    Ok(count)
}

async fn echo(mut channel: Channel<String, String>, suffix: String) -> Result<u64, BoxError> {
    let mut count = 0;
    while let Some(line) = channel.recv().await? {
        channel.send(line + &suffix).await?;
        count += 1;
    }
    Ok(count)
}

async fn open_counter(cx: Context) -> Receiver<u64> {
    let (sender, receiver) = cx.pair();
    tokio::spawn(async move {
        for number in 0..1000 {
            if sender.send(number).await.is_err() {
                return;
            }
        }
    });
    receiver
}

#[derive(Debug, thiserror::Error)]
#[error("cannot count the {what}")]
struct CountError {
    what: &'static str,
    source: MiddleError,
}

#[derive(Debug, thiserror::Error)]
#[error("the middle failed")]
struct MiddleError(#[source] std::io::Error);

async fn fail(what: String) -> Result<u64, CountError> {
    let what = if what == "sheep" { "sheep" } else { "others" };
    Err(CountError { what, source: MiddleError(std::io::Error::other("asleep")) })
}

fn fail_with_text() -> Result<u64, String> {
    Err("only words".into())
}

async fn send_then_fail(channel: Channel<u64, ()>, count: u64) -> Result<(), BoxError> {
    for number in 0..count {
        channel.send(number).await?;
    }
    Err("after all data".into())
}

async fn panics(text: String) -> u64 {
    panic!("because {text}")
}

async fn panics_later() -> u64 {
    tokio::task::yield_now().await;
    "no number".parse().expect("there is something")
}

fn blocking_panics() {
    panic!("on a thread of its own");
}

async fn too_large(len: usize) -> String {
    "x".repeat(len)
}

#[derive(Default)]
struct Counter(std::sync::atomic::AtomicU64);

async fn counts(cx: Context) -> (u64, u64) {
    static BUILT: std::sync::atomic::AtomicU64 = std::sync::atomic::AtomicU64::new(0);
    let counter = cx.state(|| {
        BUILT.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        Counter::default()
    });
    let count = counter.0.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
    (BUILT.load(std::sync::atomic::Ordering::Relaxed), count)
}

/// Writes what it cannot read.
struct OneWay;

impl Serialize for OneWay {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str("one way")
    }
}

impl<'de> Deserialize<'de> for OneWay {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        u64::deserialize(deserializer).map(|_| OneWay)
    }
}

async fn unreadable(_: OneWay) {}

async fn odd() -> Result<OneWay, BoxError> {
    Ok(OneWay)
}

async fn never_added(n: u64) -> u64 {
    n
}

// ---- tests -------------------------------------------------------------------------------------------------------

async fn values_of_all_kinds(place: Arc<Place>) {
    let gateway =
        place.open_as(place.spec().id(format!("values-{:?}", place.kind))).await.expect("a gateway");
    gateway.call(nothing, ()).await.expect("nothing");
    assert_eq!(gateway.call(square, (12,)).await.expect("a number"), 144);
    let numbers = gateway.call(eight, (1, 2, 3, 4, -5, -6, -7, -8)).await.expect("numbers");
    assert_eq!(numbers, [1, 2, 3, 4, -5, -6, -7, -8]);
    let shape = Shape {
        name: "é\u{1f600} ".into(),
        corners: vec![(0.1, f64::MIN_POSITIVE), (f64::INFINITY, -0.0)],
        tags: [("a".to_owned(), None), (String::new(), Some(7))].into(),
    };
    let described = gateway.call(describe, (shape.clone(),)).await.expect("a shape");
    assert_eq!(described, Shape { name: format!("é\u{1f600} {}", gateway.id()), ..shape });
    let (id, pid) = gateway.call(where_am_i, ()).await.expect("a place");
    assert_eq!((id.as_str(), pid), (gateway.id(), gateway.pid()));
    assert_ne!(pid, std::process::id());
    assert_ne!(gateway.call(thread_name, ()).await.expect("a name").as_deref(), Some("main"));
}

async fn channels_nested_in_arguments(place: Arc<Place>) {
    let gateway = place.open().await;
    let (left, their_left) = gateway.pair();
    let (right, their_right) = gateway.pair();
    let (their_output, mut output) = gateway.pair();
    let routes = Routes {
        inputs: [("left".to_owned(), their_left), ("right".to_owned(), their_right)].into(),
        outputs: vec![None, Some(their_output)],
    };
    let call = gateway.start(route, (routes,)).await.expect("a call");
    let sending = tokio::spawn(async move {
        for number in 0..10_000 {
            left.send(number).await.expect("sent");
        }
        right.send(7).await.expect("sent");
    });
    for number in 0..10_000 {
        assert_eq!(output.recv().await.expect("received"), Some(("left".to_owned(), number)));
    }
    assert_eq!(output.recv().await.expect("received"), Some(("right".to_owned(), 7)));
    assert_eq!(output.recv().await.expect("the end"), None);
    sending.await.expect("sent");
    assert_eq!(call.await.expect("a number"), 10_001);
}

async fn a_task_with_a_channel(place: Arc<Place>) {
    let gateway = place.open().await;
    let mut task = gateway.open_task(echo, ("!".to_owned(),)).await.expect("a task");
    for word in ["one", "two"] {
        task.send(word.to_owned()).await.expect("sent");
        assert_eq!(task.recv().await.expect("received"), Some(format!("{word}!")));
    }
    task.close_sending();
    assert_eq!(task.recv().await.expect("the end"), None);
    assert_eq!(task.recv().await.expect("the end again"), None);
    assert_eq!(task.value().await.expect("a value"), 2);
}

async fn a_channel_in_the_value(place: Arc<Place>) {
    let gateway = place.open().await;
    let mut numbers = gateway.call(open_counter, ()).await.expect("a receiver");
    for number in 0..1000 {
        assert_eq!(numbers.recv().await.expect("received"), Some(number));
    }
    assert_eq!(numbers.recv().await.expect("the end"), None);
}

async fn errors_come_with_their_chain(place: Arc<Place>) {
    let gateway = place.open().await;
    let error = gateway.call(fail, ("sheep".into(),)).await.expect_err("it fails");
    assert_eq!(error.to_string(), "cannot count the sheep");
    assert_eq!(error.source().expect("a source").to_string(), "the middle failed");
    let CallError::Failed(failure) = error else { panic!("{error:?}") };
    assert_eq!(
        failure.chain().collect::<Vec<_>>(),
        ["cannot count the sheep", "the middle failed", "asleep"]
    );
    assert!(failure.kind().ends_with("CountError"), "{}", failure.kind());
    let error = gateway.call(fail_with_text, ()).await.expect_err("it fails");
    assert_eq!(error.to_string(), "only words");
    // The worker is as before.
    assert_eq!(gateway.call(square, (3,)).await.expect("a number"), 9);
}

async fn an_error_comes_after_all_data(place: Arc<Place>) {
    let gateway = place.open().await;
    let mut task = gateway.open_task(send_then_fail, (20_000,)).await.expect("a task");
    for number in 0..20_000 {
        assert_eq!(task.recv().await.expect("data before the error"), Some(number));
    }
    let error = task.recv().await.expect_err("the error");
    assert!(
        matches!(&error, CallError::Failed(failure) if failure.message() == "after all data"),
        "{error:?}"
    );
    for _ in 0..3 {
        assert_eq!(task.recv().await.expect("the end"), None);
    }
}

async fn panics_come_with_place_and_calls(place: Arc<Place>) {
    fn panic_of<T: std::fmt::Debug>(result: Result<T, CallError>) -> farcall::Panic {
        match result {
            Err(CallError::Panicked(panic)) => panic,
            other => panic!("{other:?}"),
        }
    }
    let gateway = place.open().await;
    let panic = panic_of(gateway.call(panics, ("of this".into(),)).await);
    assert_eq!(panic.message, "because of this");
    assert!(panic.location.contains("calls.rs:"), "{panic}");
    assert!(panic.backtrace.contains("calls::panics"), "{}", panic.backtrace);
    let panic = panic_of(gateway.call(panics_later, ()).await);
    assert!(panic.message.starts_with("there is something: "), "{panic}");
    let panic = panic_of(gateway.call(blocking_panics, ()).await);
    assert!(panic.location.contains("calls.rs:"), "{panic}");
    assert_eq!(gateway.call(square, (3,)).await.expect("the worker lives"), 9);
}

async fn a_thousand_calls_at_once(place: Arc<Place>) {
    let gateway = place.open().await;
    let mut calls: Vec<Call<u64>> = Vec::new();
    for number in 0..1000 {
        calls.push(gateway.start(square, (number,)).await.expect("a call"));
    }
    for (number, call) in (0..).zip(calls) {
        assert_eq!(call.await.expect("a number"), number * number);
    }
    // Everything that belonged to them is gone there.
    until_quiet(&gateway).await;
}

async fn until_quiet(gateway: &Gateway) {
    let first = gateway.status().await.expect("a status");
    let mut left = first.tasks.len();
    while left > 0 {
        left = gateway.status().await.expect("a status").tasks.len();
    }
}

async fn a_value_or_argument_too_large_is_an_error(place: Arc<Place>) {
    let gateway = place.open().await;
    let error = gateway.call(too_large, (65 << 20,)).await.expect_err("too large");
    assert!(matches!(error, CallError::Unsendable(_)), "{error:?}");
    let long = "x".repeat(65 << 20);
    let error = gateway.call(panics, (long,)).await.expect_err("too large");
    assert!(matches!(error, CallError::TooLarge { .. }), "{error:?}");
    assert_eq!(gateway.call(too_large, (10 << 20,)).await.expect("ten megabytes").len(), 10 << 20);
}

async fn arguments_that_make_no_sense_are_an_error(place: Arc<Place>) {
    let gateway = place.open().await;
    let error = gateway.call(unreadable, (OneWay,)).await.expect_err("unreadable");
    assert!(matches!(error, CallError::Unreadable(_)), "{error:?}");
    let error = gateway.call(odd, ()).await.map(|_| ()).expect_err("unreadable");
    assert!(matches!(error, CallError::Reply(_)), "{error:?}");
    assert_eq!(gateway.call(square, (3,)).await.expect("a number"), 9);
}

async fn an_end_of_another_gateway_is_refused(place: Arc<Place>) {
    let (one, other) = (place.open().await, place.open().await);
    let (_ours, theirs) = other.channel::<String, String>();
    let error = one.call(echo, (theirs, String::new())).await.expect_err("a foreign end");
    assert!(matches!(&error, CallError::Arguments(farcall::channel::CodecError::ForeignEnd)), "{error:?}");
}

async fn a_task_that_was_not_added_is_unknown(place: Arc<Place>) {
    let gateway = place.open().await;
    let error = gateway.call(never_added, (1,)).await.expect_err("unknown");
    assert!(error.to_string().contains("never_added"), "{error}");
}

async fn state_is_built_once_per_worker(place: Arc<Place>) {
    let (one, other) = (place.open().await, place.open().await);
    for count in 0..10 {
        assert_eq!(one.call(counts, ()).await.expect("counts"), (1, count));
    }
    assert_eq!(other.call(counts, ()).await.expect("counts"), (1, 0));
    until("both workers are still there", || one.end().is_none() && other.end().is_none()).await;
}
