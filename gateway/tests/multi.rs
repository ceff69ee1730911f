//! One channel to many tasks: sent to each or one, received from all with the source, ended with the cause.

mod gateways;

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use farcall::channel::SendError;
use farcall::{
    BoxError, CallError, Channel, Context, Event, Group, MultiChannel, Received, SendToError, Spec, Tasks,
};
use futures_core::Stream;
use gateways::{Kind, Place, at, plain};

fn main() {
    let tasks = Tasks::new()
        .add(echo)
        .add(give)
        .add(one_of_many)
        .add(read_when_told)
        .add(fill)
        .add(filled)
        .add(flood)
        .add(fail_after)
        .add(square);
    gateways::main(
        tasks,
        [
            at(&[Kind::Local, Kind::Ssh], "messages_go_to_each_and_to_one", messages_go_to_each_and_to_one),
            plain("every_end_comes_with_its_cause", every_end_comes_with_its_cause),
            plain("one_is_received_from_each", one_is_received_from_each),
            plain("a_dropped_receive_loses_nothing", a_dropped_receive_loses_nothing),
            plain("a_slow_reader_holds_up_no_other", a_slow_reader_holds_up_no_other),
            plain("what_cannot_be_sent_is_told_for_each", what_cannot_be_sent_is_told_for_each),
            plain("a_flood_does_not_starve_the_others", a_flood_does_not_starve_the_others),
            plain("memory_is_bounded_when_nobody_receives", memory_is_bounded_when_nobody_receives),
            plain("values_come_in_order_after_all_messages", values_come_in_order_after_all_messages),
            plain(
                "the_first_error_is_reported_and_the_rest_kept",
                the_first_error_is_reported_and_the_rest_kept,
            ),
            plain("it_is_a_stream_and_can_be_split", it_is_a_stream_and_can_be_split),
            plain("dropping_it_cancels_all", dropping_it_cancels_all),
        ],
    );
}

// ---- tasks -------------------------------------------------------------------------------------------------------

async fn echo(mut channel: Channel<String, String>, suffix: String) -> Result<u64, BoxError> {
    let mut count = 0;
    while let Some(line) = channel.recv().await? {
        channel.send(line + &suffix).await?;
        count += 1;
    }
    Ok(count)
}

/// Gives so many numbers, beginning with the first.
async fn give(channel: Channel<u64, ()>, first: u64, count: u64) -> Result<u64, BoxError> {
    for number in first..first + count {
        channel.send(number).await?;
    }
    Ok(count)
}

/// Ends in one of many ways, after a message.
async fn one_of_many(channel: Channel<String, ()>, way: String) -> Result<String, BoxError> {
    channel.send(way.clone()).await?;
    match &*way {
        "fail" => Err("it failed".into()),
        "panic" => panic!("it panicked"),
        // Once the message has arrived.
        "exit" => {
            channel.close_sending();
            channel.wait_closed().await?;
            std::process::exit(3)
        }
        _ => Ok(way),
    }
}

/// Says that it has each message; the one that is slow reads none before `go`.
async fn read_when_told(
    cx: Context,
    mut channel: Channel<u64, Vec<u8>>,
    slow: String,
) -> Result<u64, BoxError> {
    let mut read = 0;
    if cx.gateway() == slow {
        cx.state(Gate::default).0.notified().await;
    }
    while let Some(bytes) = channel.recv().await? {
        read += bytes.len() as u64;
        channel.send(read).await?;
    }
    Ok(read)
}

#[derive(Default)]
struct Gate(tokio::sync::Notify);

/// Counts what can be sent before there is no room.
async fn fill(cx: Context, channel: Channel<Vec<u8>, ()>) -> Result<(), BoxError> {
    let count = cx.state(Filled::default);
    loop {
        let message = vec![7; 1000];
        if channel.try_send(message).is_err() {
            count.full.notify_one();
            channel.send(vec![7; 1000]).await?;
        }
        count.sent.fetch_add(1, Relaxed);
    }
}

#[derive(Default)]
struct Filled {
    sent: AtomicU64,
    full: tokio::sync::Notify,
}

/// How much was sent when there was no more room.
async fn filled(cx: Context) -> u64 {
    let filled = cx.state(Filled::default);
    filled.full.notified().await;
    filled.sent.load(Relaxed)
}

/// Sends without end, or one message when told to.
async fn flood(cx: Context, mut channel: Channel<u64, ()>, flooding: String) -> Result<u64, BoxError> {
    if cx.gateway() != flooding {
        channel.recv().await?;
        channel.send(0).await?;
        return Ok(1);
    }
    let mut sent = 0;
    while channel.send(sent).await.is_ok() {
        sent += 1;
    }
    Ok(sent)
}

async fn fail_after(cx: Context, mut go: Channel<(), ()>, fails: Vec<String>) -> Result<String, BoxError> {
    go.recv().await?;
    if fails.iter().any(|id| id == cx.gateway()) {
        return Err(format!("{} failed", cx.gateway()).into());
    }
    Ok(cx.gateway().to_owned())
}

/// Lets [`read_when_told`] go on, or just answers.
async fn square(cx: Context, n: u64) -> u64 {
    cx.state(Gate::default).0.notify_one();
    n * n
}

// ---- tests -------------------------------------------------------------------------------------------------------

async fn named(prefix: &str, count: usize) -> Group {
    let specs: Vec<_> = (0..count).map(|number| Spec::local().id(format!("{prefix}{number}"))).collect();
    Group::open(specs).await.expect("a group")
}

/// Everything that comes, as text.
async fn rest<S, R, V>(tasks: &mut MultiChannel<S, R, V>) -> Vec<(usize, String)>
where
    S: farcall::Message,
    R: farcall::Message + std::fmt::Debug,
    V: farcall::Message,
{
    let mut all = Vec::new();
    while let Some(Received { index, event, .. }) = tasks.recv().await {
        all.push((
            index,
            match event {
                Event::Message(message) => format!("{message:?}"),
                Event::End(Ok(())) => "end".to_owned(),
                Event::End(Err(error)) => error.to_string(),
                other => format!("{other:?}"),
            },
        ));
    }
    // The end again and again.
    assert!(tasks.recv().await.is_none() && tasks.recv_each().await.is_empty());
    all
}

fn of(index: usize, all: &[(usize, String)]) -> Vec<&str> {
    all.iter().filter(|(from, _)| *from == index).map(|(_, text)| &**text).collect()
}

async fn messages_go_to_each_and_to_one(place: Arc<Place>) {
    let text = place.text();
    let group = Group::open(vec![text; 3]).await.expect("a group");
    let ids: Vec<_> = group.iter().map(|gateway| gateway.id().to_owned()).collect();
    let mut numbers = 0..;
    let mut tasks = group.open_task_with(echo, |_| (numbers.next().expect("endless").to_string(),)).await;
    assert!(tasks.ids().eq(&ids));
    tasks.send_each("a".to_owned()).await.expect("sent");
    tasks.send_to(1, "b".to_owned()).await.expect("sent");
    tasks.send_to(&ids[2], "c".to_owned()).await.expect("sent");
    let error = tasks.send_to("nobody", String::new()).await.expect_err("unknown");
    assert!(matches!(&error, SendToError::Unknown { which } if which == "nobody"), "{error:?}");
    assert!(matches!(tasks.send_to(3, String::new()).await, Err(SendToError::Unknown { .. })));
    let first = tasks.recv_from(&ids[1]).await.expect("an answer");
    assert_eq!((first.index, &*first.id), (1, &*ids[1]));
    assert!(matches!(&first.event, Event::Message(text) if text == "a1"), "{first:?}");
    tasks.close_sending();
    let all = rest(&mut tasks).await;
    assert_eq!(of(0, &all), ["\"a0\"", "end"]);
    assert_eq!(of(1, &all), ["\"b1\"", "end"]);
    assert_eq!(of(2, &all), ["\"a2\"", "\"c2\"", "end"]);
    assert!(tasks.recv_from(1).await.is_none() && tasks.recv_from(3).await.is_none());
    assert_eq!(tasks.values().await.expect("all ended well"), [1, 2, 2]);
}

async fn every_end_comes_with_its_cause() {
    let group = named("cause-", 5).await;
    group[4].exit();
    group[4].wait().await;
    let mut ways = ["well", "fail", "panic", "exit", "late"].into_iter();
    let mut tasks = group.open_task_with(one_of_many, |_| (ways.next().expect("five").to_owned(),)).await;
    let mut ends = Vec::new();
    while let Some(Received { index, id, event }) = tasks.recv().await {
        assert_eq!(group[index].id(), &*id);
        match event {
            Event::Message(way) => assert_eq!(way, ["well", "fail", "panic", "exit"][index]),
            Event::End(end) => ends.push((index, end)),
            other => panic!("{other:?}"),
        }
    }
    ends.sort_by_key(|(index, _)| *index);
    assert!(matches!(ends[0], (0, Ok(()))));
    let ends: Vec<Option<Arc<CallError>>> = ends.into_iter().map(|(_, end)| end.err()).collect();
    assert!(
        matches!(ends[1].as_deref(), Some(CallError::Failed(failure)) if failure.message() == "it failed")
    );
    assert!(matches!(ends[2].as_deref(), Some(CallError::Panicked(panic)) if panic.message == "it panicked"));
    assert!(
        matches!(ends[3].as_deref(), Some(CallError::Ended(end)) if end.exit() == Some(farcall::Exit::Code(3))),
        "{ends:?}"
    );
    assert!(matches!(ends[4].as_deref(), Some(CallError::Ended(end)) if end.class().is_none()), "{ends:?}");
    let error = tasks.values().await.expect_err("four failed");
    assert_eq!(error.errors().count(), 4);
    assert_eq!(error.outcomes()[0].result.as_deref().ok(), Some("well"));
}

async fn one_is_received_from_each() {
    let group = named("each-", 3).await;
    let mut firsts = [(0, 3), (10, 1), (20, 2)].into_iter();
    let mut tasks = group.open_task_with(give, |_| firsts.next().expect("three")).await;
    let mut rounds = Vec::new();
    loop {
        let round = tasks.recv_each().await;
        if round.is_empty() {
            break;
        }
        let number = |received: &Received<u64>| match received.event {
            Event::Message(number) => Some(number),
            _ => None,
        };
        rounds.push(round.iter().map(|received| (received.index, number(received))).collect::<Vec<_>>());
    }
    let expected = [
        vec![(0, Some(0)), (1, Some(10)), (2, Some(20))],
        vec![(0, Some(1)), (1, None), (2, Some(21))],
        vec![(0, Some(2)), (2, None)],
        vec![(0, None)],
    ];
    assert_eq!(rounds, expected);
    assert_eq!(tasks.values().await.expect("all ended well"), [3, 1, 2]);
}

async fn a_dropped_receive_loses_nothing() {
    let group = named("dropped-", 3).await;
    let mut tasks = group.open_task(echo, (String::new(),)).await;
    for round in 0..20 {
        for index in 0..2 {
            tasks.send_to(index, format!("{round}")).await.expect("sent");
        }
        // Never ready: the third says nothing.
        {
            let mut each = std::pin::pin!(tasks.recv_each());
            for _ in 0..round {
                let polled = std::future::poll_fn(|cx| std::task::Poll::Ready(each.as_mut().poll(cx)));
                assert!(polled.await.is_pending());
                tokio::task::yield_now().await;
            }
        }
        // One way or the other both come, and nothing else.
        let mut from = if round % 2 == 0 {
            let (one, other) = (tasks.recv().await.expect("one"), tasks.recv().await.expect("the other"));
            [one, other]
        } else {
            [tasks.recv_from(1).await.expect("one"), tasks.recv_from(0).await.expect("the other")]
        };
        from.sort_by_key(|received| received.index);
        for (index, received) in from.iter().enumerate() {
            assert_eq!(received.index, index);
            assert!(
                matches!(&received.event, Event::Message(text) if *text == round.to_string()),
                "{received:?}"
            );
        }
    }
    tasks.close_sending();
    assert_eq!(tasks.values().await.expect("all ended well"), [20, 20, 0]);
}

async fn a_slow_reader_holds_up_no_other() {
    let group = named("slow-", 3).await;
    let (senders, mut receiver) = group.open_task(read_when_told, ("slow-1".to_owned(),)).await.split();
    let senders = Arc::new(senders);
    let sending = tokio::spawn({
        let senders = Arc::clone(&senders);
        // More than a window, so that it waits for who reads.
        async move { senders.send_each(vec![0; 200_000]).await }
    });
    let mut heard = Vec::new();
    while heard.len() < 2 {
        let received = receiver.recv().await.expect("an answer");
        assert!(matches!(received.event, Event::Message(200_000)), "{received:?}");
        heard.push(received.index);
    }
    heard.sort_unstable();
    assert_eq!(heard, [0, 2]);
    // The others take more meanwhile.
    for index in [0, 2] {
        senders.send_to(index, vec![0; 1000]).await.expect("sent");
        let received = receiver.recv_from(index).await.expect("an answer");
        assert!(matches!(received.event, Event::Message(201_000)), "{received:?}");
    }
    assert!(!sending.is_finished());
    group["slow-1"].call(square, (1,)).await.expect("a number");
    sending.await.expect("no panic").expect("sent");
    let received = receiver.recv().await.expect("an answer");
    assert!(matches!(received, Received { index: 1, event: Event::Message(200_000), .. }), "{received:?}");
    senders.close();
    assert_eq!(receiver.values().await.expect("all ended well"), [201_000, 200_000, 201_000]);
}

async fn what_cannot_be_sent_is_told_for_each() {
    let group = named("unsent-", 3).await;
    let mut tasks = group.open_task(echo, (String::new(),)).await;
    group[1].kill();
    group[1].wait().await;
    let error = tasks.send_each("text".to_owned()).await.expect_err("one has ended");
    assert_eq!((error.sent, error.failures.len()), (2, 1));
    assert_eq!((error.failures[0].index, &*error.failures[0].id), (1, "unsent-1"));
    assert!(
        matches!(&error.failures[0].error, SendToError::Send(error) if matches!(**error, SendError::Lost(_))),
        "{error:?}"
    );
    assert!(error.to_string().starts_with("1 of 3 tasks were not sent the message: unsent-1: "), "{error}");
    // A task that was never started.
    let mut later = group.open_task(echo, (String::new(),)).await;
    let error = later.send_each("text".to_owned()).await.expect_err("one was not started");
    assert!(
        matches!(&error.failures[0].error, SendToError::NotStarted(error) if matches!(**error, CallError::Ended(_)))
    );
    for tasks in [&mut tasks, &mut later] {
        tasks.close_sending();
        let all = rest(tasks).await;
        assert_eq!((of(0, &all), of(2, &all)), (vec!["\"text\"", "end"], vec!["\"text\"", "end"]));
        assert_eq!(of(1, &all).len(), 1);
    }
}

async fn a_flood_does_not_starve_the_others() {
    let group = named("flood-", 4).await;
    let (senders, mut tasks) = group.open_task(flood, ("flood-0".to_owned(),)).await.split();
    let (mut ended, mut flooded, mut others) = (0, 0_u64, 0);
    while ended < 3 {
        let received = tasks.recv().await.expect("it goes on");
        match received.event {
            Event::Message(_) if received.index == 0 => flooded += 1,
            Event::Message(_) => others += 1,
            Event::End(Ok(())) => ended += 1,
            other => panic!("{other:?}"),
        }
        if flooded == 1000 {
            for index in 1..4 {
                senders.send_to(index, ()).await.expect("sent");
            }
            flooded += 1;
        }
    }
    assert_eq!(others, 3);
    // The flood goes on, and nobody waited for its end.
    assert_eq!(tasks.running(), 1);
}

async fn memory_is_bounded_when_nobody_receives() {
    let group = named("bounded-", 3).await;
    let mut tasks = group.open_task(fill, ()).await;
    let counts = group.call(filled, ()).await.expect("all are full");
    // A window is 64 KiB at first, and what is on its way beside it.
    assert!(counts.iter().all(|count| (10..500).contains(count)), "{counts:?}");
    let first = tasks.recv_each().await;
    assert_eq!(first.len(), 3);
}

async fn values_come_in_order_after_all_messages() {
    let group = named("values-", 3).await;
    let mut firsts = [(0, 1), (10, 100_000), (20, 0)].into_iter();
    let tasks = group.open_task_with(give, |_| firsts.next().expect("three")).await;
    // Far more than fits into a window; what nobody wants must not keep the task from ending.
    assert_eq!(tasks.values().await.expect("all ended well"), [1, 100_000, 0]);
}

async fn the_first_error_is_reported_and_the_rest_kept() {
    let group = named("first-", 4).await;
    let fails = vec!["first-0".to_owned(), "first-2".to_owned(), "first-3".to_owned()];
    let mut tasks = group.open_task(fail_after, (fails,)).await;
    // The order in which they fail is not theirs.
    tasks.send_to(2, ()).await.expect("sent");
    let received = tasks.recv().await.expect("an end");
    assert!(matches!(received, Received { index: 2, event: Event::End(Err(_)), .. }), "{received:?}");
    tasks.send_each(()).await.expect_err("one has ended");
    let error = tasks.values().await.expect_err("three failed");
    assert!(matches!(error.first(), Some(("first-2", CallError::Failed(_)))), "{error:?}");
    assert_eq!(error.to_string(), "first-2: first-2 failed (and 2 of 3 others failed)");
    let ids: Vec<_> = error.errors().map(|(id, _)| id).collect();
    assert_eq!(ids, ["first-0", "first-2", "first-3"]);
    let outcomes = error.into_outcomes();
    assert_eq!(outcomes[1].result.as_deref().ok(), Some("first-1"));
}

async fn it_is_a_stream_and_can_be_split() {
    let group = named("stream-", 2).await;
    let (senders, mut receiver) = MultiChannel::open(&group, echo, |_| ("!".to_owned(),)).await.split();
    assert_eq!((senders.len(), receiver.running()), (2, 2));
    senders.get("stream-1").expect("it is there").send("to one".to_owned()).await.expect("sent");
    drop(senders);
    let mut all = Vec::new();
    while let Some(received) = std::future::poll_fn(|cx| Pin::new(&mut receiver).poll_next(cx)).await {
        all.push(format!("{}: {:?}", received.id, received.event));
    }
    all.sort();
    assert_eq!(all, ["stream-0: End(Ok(()))", "stream-1: End(Ok(()))", "stream-1: Message(\"to one!\")"]);
}

async fn dropping_it_cancels_all() {
    let group = named("cancel-", 2).await;
    let tasks = group.open_task(echo, (String::new(),)).await;
    for gateway in &group {
        while gateway.status().await.expect("a status").running < 1 {}
    }
    drop(tasks);
    for gateway in &group {
        while gateway.status().await.expect("a status").running > 0 {}
    }
}
