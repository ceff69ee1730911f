//! A map gives every input one result, in the order and under the limits that were asked for.

mod gateways;

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering::SeqCst};
use std::sync::{Arc, Mutex};
use std::task::Poll;
use std::time::{Duration, Instant};

use farcall::channel::Config;
use farcall::{
    BoxError, Context, Gateway, ItemError, MapError, OnError, Progress, Receiver, Spec, Tasks, map,
    map_stream,
};
use gateways::{EVERYWHERE, Place, at, local, plain, until, until_idle, value};

fn main() {
    let tasks = Tasks::new()
        .add(square)
        .add(plain_square)
        .add(add)
        .add(sleep)
        .add(wait)
        .add(odd_fails)
        .add(third_time)
        .add(panics)
        .add(together)
        .add(together_plain)
        .add(hangs_once)
        .add(block)
        .add(until_there)
        .add(hold_text)
        .add(long)
        .add(first)
        .add(with_end)
        .add(returns_end)
        .add(hold)
        .add(wait_for_cancel);
    gateways::main(
        tasks,
        [
            at(&EVERYWHERE, "every_input_has_its_value", every_input_has_its_value),
            plain("results_come_in_order_or_as_they_are_ready", results_come_in_order_or_as_they_are_ready),
            plain("inputs_of_all_shapes", inputs_of_all_shapes),
            plain("failing_items_stop_the_map_or_not", failing_items_stop_the_map_or_not),
            plain(
                "a_map_that_stops_leaves_its_gateways_as_they_are",
                a_map_that_stops_leaves_its_gateways_as_they_are,
            ),
            plain("items_are_tried_again_as_often_as_asked", items_are_tried_again_as_often_as_asked),
            plain("an_item_that_took_too_long_is_tried_again", an_item_that_took_too_long_is_tried_again),
            plain("a_gateway_that_refuses_is_left_out", a_gateway_that_refuses_is_left_out),
            plain("short_messages_hold_many_replies", short_messages_hold_many_replies),
            plain("an_item_that_takes_too_long_is_dropped", an_item_that_takes_too_long_is_dropped),
            plain(
                "an_item_that_cannot_be_stopped_keeps_its_slot",
                an_item_that_cannot_be_stopped_keeps_its_slot,
            ),
            plain("as_many_run_at_once_as_there_are_slots", as_many_run_at_once_as_there_are_slots),
            plain("hundreds_of_plain_items_run_at_once", hundreds_of_plain_items_run_at_once),
            plain("long_arguments_and_values", long_arguments_and_values),
            plain("ends_of_channels_are_refused", ends_of_channels_are_refused),
            plain("dropping_the_map_gives_up_what_runs", dropping_the_map_gives_up_what_runs),
            plain(
                "dropping_a_map_whose_workers_are_full_gives_up_what_runs",
                dropping_a_map_whose_workers_are_full_gives_up_what_runs,
            ),
            plain("no_inputs_are_taken_after_the_map", no_inputs_are_taken_after_the_map),
            plain("a_panic_of_the_inputs_is_passed_on", a_panic_of_the_inputs_is_passed_on),
            plain("inputs_that_block_hold_up_no_result", inputs_that_block_hold_up_no_result),
            plain("a_slow_gateway_costs_no_more_than_its_share", a_slow_gateway_costs_no_more_than_its_share),
            plain("one_long_item_does_not_hold_up_the_others", one_long_item_does_not_hold_up_the_others),
            plain("progress_is_told_to_the_end", progress_is_told_to_the_end),
            plain("what_cannot_be_started_is_told", what_cannot_be_started_is_told),
        ],
    );
}

// ---- tasks -------------------------------------------------------------------------------------------------------

async fn square(n: u64) -> u64 {
    n * n
}

fn plain_square(n: u64) -> u64 {
    n * n
}

async fn add(a: u64, b: u64) -> u64 {
    a + b
}

fn factor() -> f64 {
    std::env::var("SLOW").ok().and_then(|slow| slow.parse().ok()).unwrap_or(1.0)
}

/// Milliseconds, of which some workers' are longer.
fn sleep(millis: u64) -> u64 {
    std::thread::sleep(Duration::from_millis(millis).mul_f64(factor()));
    millis
}

async fn wait(millis: u64) -> u64 {
    tokio::time::sleep(Duration::from_millis(millis)).await;
    millis
}

async fn odd_fails(n: u64) -> Result<u64, String> {
    if n % 2 == 1 { Err(format!("{n} is odd")) } else { Ok(n) }
}

struct Tries(AtomicU64);

async fn third_time(cx: Context, n: u64) -> Result<u64, String> {
    let tries = cx.state(|| Tries(AtomicU64::new(0))).0.fetch_add(1, SeqCst) + 1;
    if tries < 3 { Err("not yet".into()) } else { Ok(n + tries) }
}

fn panics(n: u64) -> u64 {
    assert!(n != 3, "three");
    n
}

#[derive(Default)]
struct Now {
    running: AtomicUsize,
    most: AtomicUsize,
}

impl Now {
    fn enter(&self) {
        self.most.fetch_max(self.running.fetch_add(1, SeqCst) + 1, SeqCst);
    }

    fn leave(&self) {
        self.running.fetch_sub(1, SeqCst);
    }
}

/// How many of them have run at once so far: waits for so many, and a little longer for more.
async fn together(cx: Context, wanted: usize) -> u64 {
    let now = cx.state(Now::default);
    now.enter();
    while now.most.load(SeqCst) < wanted {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    tokio::time::sleep(Duration::from_millis(5)).await;
    now.leave();
    now.most.load(SeqCst) as u64
}

fn together_plain(cx: Context, wanted: usize) -> u64 {
    let now = cx.state(Now::default);
    now.enter();
    while now.most.load(SeqCst) < wanted {
        std::thread::sleep(Duration::from_millis(1));
    }
    std::thread::sleep(Duration::from_millis(5));
    now.leave();
    now.most.load(SeqCst) as u64
}

/// Items that have been tried.
#[derive(Default)]
struct Tried(Mutex<BTreeSet<u64>>);

/// Hangs at first, if it is odd. Otherwise takes longer than a call has to obey.
async fn hangs_once(cx: Context, n: u64) -> u64 {
    let first = cx.state(Tried::default).0.lock().unwrap().insert(n);
    if first && n % 2 == 1 {
        std::future::pending::<()>().await;
    }
    tokio::time::sleep(Duration::from_millis(500)).await;
    n
}

/// Blocks until the file is there, if there is to be one.
fn block(file: Option<PathBuf>, n: u64) -> u64 {
    while file.as_ref().is_some_and(|file| !file.exists()) {
        std::thread::sleep(Duration::from_millis(2));
    }
    n
}

/// Waits until the file is there.
async fn until_there(file: PathBuf) {
    while !file.exists() {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// Short values, and from some point on long ones.
async fn hold_text(folder: PathBuf, n: u64, text: String) -> Result<usize, std::convert::Infallible> {
    hold(folder, n).await?;
    Ok(text.len())
}

async fn long(len: usize) -> String {
    "x".repeat(len)
}

async fn first(text: String) -> usize {
    text.len()
}

async fn with_end(mut numbers: Receiver<u64>) -> Result<u64, BoxError> {
    Ok(numbers.recv().await?.unwrap_or_default())
}

async fn returns_end(cx: Context, _: u64) -> Receiver<u64> {
    cx.pair().1
}

struct Gone(PathBuf);

impl Drop for Gone {
    fn drop(&mut self) {
        let _ = std::fs::write(&self.0, b"");
    }
}

/// Leaves a file behind when it is dropped.
async fn hold(folder: PathBuf, n: u64) -> Result<(), std::convert::Infallible> {
    let _gone = Gone(folder.join(format!("gone{n}")));
    let _ = std::fs::write(folder.join(format!("here{n}")), b"");
    std::future::pending().await
}

fn wait_for_cancel(cx: Context, folder: PathBuf) {
    let _ = std::fs::write(folder.join("here"), b"");
    while !cx.is_cancelled() {
        std::thread::sleep(Duration::from_millis(2));
    }
    let _ = std::fs::write(folder.join("gone"), b"");
}

// ---- tests -------------------------------------------------------------------------------------------------------

async fn every_input_has_its_value(place: Arc<Place>) {
    let gateways = [place.open().await, place.open().await];
    let squares: Vec<u64> = (0..3000).map(|n| n * n).collect();
    for slots in [1, 3] {
        let all = map(square, 0..3000).on(&gateways).slots(slots).start().unwrap().all().await;
        assert_eq!(all.into_iter().map(value).collect::<Vec<_>>(), squares);
        let all = map(plain_square, 0..3000).on(&gateways).slots(slots).start().unwrap().all().await;
        assert_eq!(all.into_iter().map(value).collect::<Vec<_>>(), squares);
    }
    // Nothing is left of them.
    for gateway in &gateways {
        until_idle(gateway).await;
    }
    assert!(map(square, Vec::<u64>::new()).on(&gateways).start().unwrap().next().await.is_none());
}

async fn results_come_in_order_or_as_they_are_ready() {
    let gateways = local(2).await;
    let inputs = || (0..200u64).map(|n| if n % 10 == 0 { 60 } else { n % 3 });
    let mut ordered = map(wait, inputs()).on(&gateways).slots(4).ordered().start().unwrap();
    let mut unordered = map(wait, inputs()).on(&gateways).slots(4).start().unwrap();
    for place in 0..200 {
        let (index, result) = ordered.next().await.unwrap();
        assert_eq!(index, place);
        assert_eq!(value(result), inputs().nth(place as usize).unwrap());
    }
    assert!(ordered.next().await.is_none());
    let mut order = Vec::new();
    while let Some((index, result)) = unordered.next().await {
        assert_eq!(value(result), inputs().nth(index as usize).unwrap());
        order.push(index);
    }
    assert!(!order.is_sorted(), "the long ones come later");
    assert_eq!(order.into_iter().collect::<BTreeSet<_>>().len(), 200);
}

/// Numbers, some of which are not there at once.
struct Hesitant(u64, bool);

impl futures_core::Stream for Hesitant {
    type Item = (u64, u64);

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut std::task::Context<'_>) -> Poll<Option<(u64, u64)>> {
        if self.0 == 100 {
            return Poll::Ready(None);
        }
        self.1 = !self.1;
        if self.1 {
            cx.waker().wake_by_ref();
            return Poll::Pending;
        }
        self.0 += 1;
        Poll::Ready(Some((self.0, 1000)))
    }
}

async fn inputs_of_all_shapes() {
    let gateways = local(1).await;
    let sums = map(add, vec![(1, 2), (3, 4)]).on(&gateways).start().unwrap().all().await;
    assert_eq!(sums.into_iter().map(value).collect::<Vec<_>>(), [3, 7]);
    let texts = ["a".to_owned(), "bc".to_owned()];
    let lens = map(first, texts).on(gateways).start().unwrap().all().await;
    assert_eq!(lens.into_iter().map(value).collect::<Vec<_>>(), [1, 2]);
    let sums = map_stream(add, Hesitant(0, false)).on(local(1).await).ordered().start().unwrap().all().await;
    assert_eq!(sums.into_iter().map(value).collect::<Vec<_>>(), (1001..=1100).collect::<Vec<u64>>());
}

async fn failing_items_stop_the_map_or_not() {
    let gateways = local(2).await;
    let run = async |on_error| {
        let mut map = map(odd_fails, 0..1000).on(&gateways).on_error(on_error).start().unwrap();
        let (mut values, mut failed, mut stopped, mut order) = (0, 0, 0, Vec::new());
        while let Some((index, result)) = map.next().await {
            match result {
                Ok(number) => {
                    assert_eq!(number, index);
                    values += 1;
                }
                Err(ItemError::Failed(failure)) => {
                    assert_eq!(failure.message(), format!("{index} is odd"));
                    failed += 1;
                    order.push(values);
                }
                Err(ItemError::Stopped) => stopped += 1,
                Err(other) => panic!("{other}"),
            }
        }
        let taken = map.snapshot().taken;
        assert_eq!(taken, values + failed + stopped, "every input that was taken has one result");
        (values, failed, stopped, order)
    };
    let (values, failed, stopped, order) = run(OnError::GoOn).await;
    assert_eq!((values, failed, stopped), (500, 500, 0));
    assert!(order[0] < 500, "errors come among the others");
    let (_, failed, _, _) = run(OnError::Stop).await;
    assert_eq!(failed, 1);
    let (values, failed, stopped, order) = run(OnError::Collect { most: 1000 }).await;
    assert_eq!((values, failed, stopped), (500, 500, 0));
    assert_eq!(order[0], 500, "errors come last");
    let (_, failed, _, _) = run(OnError::Collect { most: 10 }).await;
    assert_eq!(failed, 11);
}

async fn a_map_that_stops_leaves_its_gateways_as_they_are() {
    let gateways = local(2).await;
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("go on");
    // Calls that are under way all the time.
    let call = |gateway: &Gateway| {
        let (gateway, file) = (gateway.clone(), file.clone());
        tokio::spawn(async move { gateway.call(until_there, (file,)).await })
    };
    let calls: Vec<_> = gateways.iter().map(call).collect();
    for round in 0..20 {
        let on_error = if round % 2 == 0 { OnError::Stop } else { OnError::Collect { most: 5 } };
        // One fails in the midst of others, whose replies are under way then.
        let inputs = (0..10_000).map(|n| if n % 1000 == 999 { 1 } else { 2 * n });
        let mut map = map(odd_fails, inputs).on(&gateways).on_error(on_error).start().unwrap();
        let mut results = 0;
        while map.next().await.is_some() {
            results += 1;
        }
        let progress = map.snapshot();
        assert!(progress.failed > 0 && progress.finished);
        assert_eq!(results, progress.taken);
        assert!(map.next().await.is_none(), "what has ended has ended");
        for gateway in &gateways {
            assert_eq!(gateway.call(square, (3,)).await.unwrap(), 9);
        }
    }
    std::fs::write(file, b"").unwrap();
    for call in calls {
        call.await.unwrap().unwrap();
    }
    assert!(gateways.iter().all(|gateway| gateway.end().is_none()));
}

async fn items_are_tried_again_as_often_as_asked() {
    let gateways = local(1).await;
    let again = map(third_time, [10]).on(&gateways).retries(1).start().unwrap().all().await;
    assert!(matches!(&again[0], Err(ItemError::Failed(failure)) if failure.message() == "not yet"));
    let again = map(third_time, [10]).on(&gateways).retries(1).start().unwrap().all().await;
    assert_eq!(value(again.into_iter().next().unwrap()), 13);
    let gateways = local(1).await;
    // What failed has run.
    let once = map(third_time, [10]).on(&gateways).retries(5).at_most_once().start().unwrap().all().await;
    assert!(matches!(once[0], Err(ItemError::Failed(_))));
    let panicked = map(panics, 0..6).on(&gateways).retries(2).start().unwrap().all().await;
    for (n, result) in panicked.into_iter().enumerate() {
        match result {
            Err(ItemError::Panicked(panic)) => assert_eq!((n, panic.message.as_str()), (3, "three")),
            other => assert_eq!(value(other), n as u64),
        }
    }
}

async fn an_item_that_takes_too_long_is_dropped() {
    let gateways = local(1).await;
    let began = Instant::now();
    let millis = [1, 600_000, 2, 600_000, 3];
    // Many times as long as the short ones take.
    let limit = Duration::from_secs(1);
    let results = map(wait, millis).on(&gateways).slots(1).item_timeout(limit).start().unwrap().all().await;
    for (result, millis) in results.into_iter().zip(millis) {
        match result {
            Err(ItemError::TimedOut { running: false }) => assert_eq!(millis, 600_000),
            other => assert_eq!(value(other), millis),
        }
    }
    assert!(began.elapsed() >= 2 * limit);
    until_idle(&gateways[0]).await;
}

async fn an_item_that_took_too_long_is_tried_again() {
    let limit = Duration::from_secs(3);
    let run = async |inputs: [u64; 3], retries| {
        let map = map(hangs_once, inputs).on(local(1).await).slots(1).window(1).item_timeout(limit);
        map.retries(retries).start().unwrap().all().await
    };
    // One that takes a while comes after one that was stopped: the same again, and another that has its place.
    let (again, others) = tokio::join!(run([1, 3, 4], 1), run([2, 1, 4], 0));
    assert_eq!(again.into_iter().map(value).collect::<Vec<_>>(), [1, 3, 4]);
    assert!(matches!(others[1], Err(ItemError::TimedOut { running: false })), "{:?}", others[1]);
    assert!(matches!((&others[0], &others[2]), (Ok(2), Ok(4))), "{others:?}");
    // The longest of all limits is none.
    let all = map(square, [3]).on(local(1).await).item_timeout(Duration::MAX).start().unwrap().all().await;
    assert!(matches!(all[0], Ok(9)));
}

async fn a_gateway_that_refuses_is_left_out() {
    let able = local(1).await;
    let mut refused = 0;
    // With little memory a worker has no room for threads, or none at all.
    for mebibytes in 1..=16 {
        let Ok(small) = Gateway::open(&Spec::local().memory(mebibytes << 20)).await else { continue };
        let both = able.iter().chain([&small]);
        let all = map(square, 0..100).on(both).slots(1).replace_lost(0).start().unwrap().all().await;
        assert!(all.into_iter().zip(0..).all(|(result, n)| value(result) == n * n));
        let alone = map(square, 0..100).on([&small]).slots(1).replace_lost(0).start().unwrap().all().await;
        assert_eq!(alone.len(), 100);
        if alone.iter().all(|result| matches!(result, Err(ItemError::Lost(None)))) {
            refused += 1;
            assert!(small.end().is_none());
        }
    }
    assert!(refused > 0, "none was as small as that");
}

async fn short_messages_hold_many_replies() {
    let config = Config { max_message: 4096, ..Config::default() };
    let gateway = Gateway::builder(Spec::local()).limits(config).open().await.unwrap();
    let lens = || (0..20_000).map(|n| if n % 1000 == 7 { 5000 } else { n % 100 * 10 });
    let mut results = map(long, lens()).on([&gateway]).slots(4).start().unwrap();
    let mut refused = 0;
    while let Some((index, result)) = results.next().await {
        match result {
            Ok(text) => assert_eq!(Some(text.len()), lens().nth(index as usize)),
            Err(ItemError::Unsendable(_)) => {
                assert_eq!(index % 1000, 7);
                refused += 1;
            }
            Err(other) => panic!("{other}"),
        }
    }
    assert_eq!((refused, results.snapshot().taken), (20, 20_000));
    assert!(gateway.end().is_none());
}

async fn hundreds_of_plain_items_run_at_once() {
    const SLOTS: usize = 600;
    let all =
        map(together_plain, [SLOTS; SLOTS]).on(local(1).await).slots(SLOTS).start().unwrap().all().await;
    assert_eq!(all.into_iter().map(value).max(), Some(SLOTS as u64));
}

async fn an_item_that_cannot_be_stopped_keeps_its_slot() {
    let gateways = local(1).await;
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("go on");
    let path = file.clone();
    let inputs = (0..5).map(move |n| ([0, 3].contains(&n).then(|| path.clone()), n));
    let limit = Duration::from_secs(1);
    let builder = map(block, inputs).on(&gateways).slots(2).item_timeout(limit).retries(3);
    let mut map = builder.start().unwrap();
    let (mut stuck, mut done) = (0, Vec::new());
    while let Some((index, result)) = map.next().await {
        match result {
            Err(ItemError::TimedOut { running: true }) => {
                assert!([0, 3].contains(&index));
                stuck += 1;
                assert!(map.snapshot().gateways[0].stuck >= stuck);
                if stuck == 2 {
                    // The last one has no slot until one of them ends.
                    assert_eq!(done, [1, 2]);
                    std::fs::write(&file, b"").unwrap();
                }
            }
            other => done.push(value(other)),
        }
    }
    assert_eq!((stuck, done), (2, vec![1, 2, 4]));
}

async fn as_many_run_at_once_as_there_are_slots() {
    let gateways = local(1).await;
    for slots in [1, 5] {
        let most = slots as u64;
        let gateways = local(1).await;
        let asynchronous = map(together, [slots; 30]).on(&gateways).slots(slots).start().unwrap().all().await;
        assert_eq!(asynchronous.into_iter().map(value).max(), Some(most));
        let gateways = local(1).await;
        let blocking =
            map(together_plain, [slots; 30]).on(&gateways).slots(slots).start().unwrap().all().await;
        assert_eq!(blocking.into_iter().map(value).max(), Some(most));
    }
    // Without a number, as many as the worker has processors.
    let cores = gateways[0].status().await.unwrap().slots;
    let usual = map(together, [cores; 30]).on(&gateways).start().unwrap().all().await;
    assert_eq!(usual.into_iter().map(value).max(), Some(cores as u64));
    // A worker's own limit holds as well.
    let limited = [Gateway::open(&Spec::local().max_tasks(2)).await.unwrap()];
    let limited = map(together, [2; 30]).on(&limited).slots(9).start().unwrap().all().await;
    assert_eq!(limited.into_iter().map(value).max(), Some(2));
}

async fn long_arguments_and_values() {
    let gateways = local(2).await;
    let lens = [0, 1, 4095, 4096, 20_000, 1 << 20, 9 << 20];
    let values = map(long, lens).on(&gateways).start().unwrap().all().await;
    assert_eq!(values.into_iter().map(|result| value(result).len()).collect::<Vec<_>>(), lens);
    let texts = lens.map(|len| "x".repeat(len));
    let counts = map(first, texts).on(&gateways).start().unwrap().all().await;
    assert_eq!(counts.into_iter().map(value).collect::<Vec<_>>(), lens);
    // More than a message may have, there and back, among others that fit.
    let counts = map(first, ["x".repeat(64 << 20), "y".into()]).on(&gateways).start().unwrap().all().await;
    assert!(matches!(counts[0], Err(ItemError::TooLarge { .. })));
    assert!(matches!(counts[1], Ok(1)));
    let values = map(long, [10, 65 << 20, 11]).on(&gateways).slots(1).start().unwrap().all().await;
    assert!(values[0].is_ok() && values[2].is_ok());
    assert!(matches!(&values[1], Err(ItemError::Unsendable(_))), "{:?}", values[1].as_ref().map(String::len));
}

async fn ends_of_channels_are_refused() {
    let gateways = local(1).await;
    let (_sender, receiver) = gateways[0].pair::<u64>();
    let refused = map(with_end, [receiver]).on(&gateways).start().unwrap().all().await;
    assert!(matches!(refused[0], Err(ItemError::Arguments(_))));
    let refused = map(returns_end, [1]).on(&gateways).start().unwrap().all().await;
    assert!(matches!(refused[0], Err(ItemError::Unsendable(_))));
}

async fn dropping_the_map_gives_up_what_runs() {
    let gateways = local(1).await;
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().to_owned();
    let map_of_holds =
        map(hold, (0..).map(move |n| (path.clone(), n))).on(&gateways).slots(3).start().unwrap();
    until("three run", || (0..3).all(|n| folder.path().join(format!("here{n}")).exists())).await;
    drop(map_of_holds);
    until("they are dropped", || (0..3).all(|n| folder.path().join(format!("gone{n}")).exists())).await;
    assert!(!folder.path().join("here3").exists());
    let asking = map(wait_for_cancel, [folder.path().to_owned()]).on(&gateways).start().unwrap();
    until("it runs", || folder.path().join("here").exists()).await;
    drop(asking);
    until("it has asked", || folder.path().join("gone").exists()).await;
    until_idle(&gateways[0]).await;
    assert_eq!(gateways[0].call(square, (3,)).await.unwrap(), 9);
}

async fn dropping_a_map_whose_workers_are_full_gives_up_what_runs() {
    let gateways = [Gateway::open(&Spec::local().max_tasks(1)).await.unwrap()];
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().to_owned();
    // More than a worker keeps: it reads no more orders until one of them is begun.
    let inputs = (0..).map(move |n| (path.clone(), n, "x".repeat(1 << 20)));
    let map_of_holds = map(hold_text, inputs).on(&gateways).slots(30).start().unwrap();
    let began = |n: u64| folder.path().join(format!("here{n}")).exists();
    until("one runs and more wait than may", || began(0) && gateways[0].counters().bytes_sent >= 9 << 20)
        .await;
    drop(map_of_holds);
    until("it is dropped", || folder.path().join("gone0").exists()).await;
    until_idle(&gateways[0]).await;
    assert!(!began(1));
}

async fn no_inputs_are_taken_after_the_map() {
    let gateways = local(1).await;
    for stops in [false, true] {
        let (give, inputs) = std::sync::mpsc::channel::<u64>();
        let taken = Arc::new(AtomicU64::new(0));
        let counted = Arc::clone(&taken);
        let inputs = inputs.into_iter().inspect(move |_| {
            counted.fetch_add(1, SeqCst);
        });
        let mut map = map(odd_fails, inputs).on(&gateways).on_error(OnError::Stop).start().unwrap();
        for n in 0..10 {
            give.send(2 * n).unwrap();
            assert_eq!(map.next().await.map(|(_, result)| value(result)), Some(2 * n));
        }
        if stops {
            give.send(1).unwrap();
            assert!(matches!(map.next().await, Some((10, Err(ItemError::Failed(_))))));
            assert!(map.next().await.is_none());
        } else {
            drop(map);
        }
        // Their thread waits for one more; with that it ends, and nobody takes what is given.
        until("the inputs are dropped", || give.send(0).is_err()).await;
        assert_eq!(taken.load(SeqCst), 11 + u64::from(stops));
    }
}

async fn a_panic_of_the_inputs_is_passed_on() {
    let gateways = local(1).await;
    let inputs = (0..100u64).inspect(|n| assert!(*n < 50, "no more"));
    let mut map = map(square, inputs).on(&gateways).start().unwrap();
    let mut results = 0;
    let panicked = loop {
        match tokio::spawn(async move { (map.next().await.is_some(), map) }).await {
            Ok((true, back)) => {
                map = back;
                results += 1;
            }
            Ok((false, _)) => panic!("the panic is lost"),
            Err(error) => break error.into_panic(),
        }
    };
    assert_eq!(results, 50);
    assert_eq!(panicked.downcast_ref::<&str>(), Some(&"no more"));
}

async fn inputs_that_block_hold_up_no_result() {
    let gateways = local(1).await;
    let (give, inputs) = std::sync::mpsc::channel::<u64>();
    let mut map = map(square, inputs).on(&gateways).start().unwrap();
    for n in 0..3000 {
        give.send(n).unwrap();
        // The iterator waits for the next one meanwhile.
        assert_eq!(map.next().await.map(|(index, result)| (index, value(result))), Some((n, n * n)));
    }
    drop(give);
    assert!(map.next().await.is_none());
}

async fn a_slow_gateway_costs_no_more_than_its_share() {
    let mut gateways = local(3).await;
    gateways.push(Gateway::open(&Spec::local().env("SLOW", "20")).await.unwrap());
    let began = Instant::now();
    let mut map = map(sleep, [10; 300]).on(&gateways).slots(1).start().unwrap();
    let mut results = 0;
    while let Some((_, result)) = map.next().await {
        value(result);
        results += 1;
    }
    let took = began.elapsed();
    assert_eq!(results, 300);
    // 3.05 of such gateways do them in 0.98 s; the slow one's last may begin just before.
    assert!(took < Duration::from_secs(5), "it took {took:?}");
    let slow = map.snapshot().gateways[3].done;
    let most = took.as_millis() as u64 / 200 + 2;
    assert!((1..=most).contains(&slow), "the slow one did {slow} in {took:?}");
}

async fn one_long_item_does_not_hold_up_the_others() {
    let gateways = local(2).await;
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("go on");
    let path = file.clone();
    // They look tiny, so that many are given at once; then one is not.
    let inputs = (0..4000).map(move |n| ((n == 3500).then(|| path.clone()), n));
    let mut map = map(block, inputs).on(&gateways).slots(1).start().unwrap();
    for _ in 0..3999 {
        assert_ne!(value(map.next().await.unwrap().1), 3500);
    }
    std::fs::write(file, b"").unwrap();
    assert_eq!(value(map.next().await.unwrap().1), 3500);
    assert!(map.next().await.is_none());
}

async fn progress_is_told_to_the_end() {
    let gateways = local(2).await;
    // There are inputs until enough was told.
    let (give, inputs) = std::sync::mpsc::sync_channel::<u64>(8);
    let giving = std::thread::spawn(move || while give.send(5).is_ok() {});
    let (told, enough) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicBool::new(false)));
    let stop = Arc::clone(&enough);
    let inputs = inputs.into_iter().take_while(move |_| !stop.load(SeqCst));
    let mut map = map(wait, inputs).on(&gateways).slots(2).start().unwrap();
    let mut events = map.progress();
    let listening = tokio::spawn(async move {
        let mut all: Vec<Progress> = Vec::new();
        while let Some(progress) = events.next().await {
            all.push(progress);
            let busy = |progress: &Progress| progress.out > 0 && progress.rate > 0.0 && !progress.finished;
            let both = |progress: &Progress| progress.gateways.iter().all(|gateway| gateway.done > 0);
            if all.len() >= 3 && all.iter().any(busy) && all.iter().any(both) {
                told.store(true, SeqCst);
                enough.store(true, SeqCst);
            }
        }
        (all, told.load(SeqCst))
    });
    let mut results = 0;
    while map.next().await.is_some() {
        results += 1;
    }
    let (all, told) = listening.await.unwrap();
    giving.join().unwrap();
    assert!(told);
    assert!(all.is_sorted_by_key(|progress| progress.done));
    let last = all.last().unwrap();
    assert!(last.finished);
    assert_eq!((last.done, last.failed, last.out), (results, 0, 0));
    let ids: BTreeSet<&str> = last.gateways.iter().map(|gateway| &*gateway.id).collect();
    assert_eq!(ids, gateways.iter().map(Gateway::id).collect());
    assert_eq!(last.gateways.iter().map(|gateway| gateway.done).sum::<u64>(), results);
    assert!(last.gateways.iter().all(|gateway| gateway.slots == 2 && gateway.item_time.is_some()));
}

async fn nobody_knows_this(n: u64) -> u64 {
    n
}

async fn what_cannot_be_started_is_told() {
    assert!(matches!(map(square, 0..3).start(), Err(MapError::NoGateways)));
    let gateways = local(1).await;
    match map(nobody_knows_this, 0..3).on(&gateways).start() {
        Err(MapError::UnknownTask { name }) => assert!(name.ends_with("nobody_knows_this")),
        other => panic!("{other:?}"),
    }
}
