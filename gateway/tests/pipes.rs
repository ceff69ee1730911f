//! Message pipes: whole messages at any moment, and ends that move into processes as descriptors.

mod gateways;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use farcall::channel::{Codec, CodecError, Raw};
use farcall::local::{
    self, Duplex, PipeReceiver, PipeRecvError, PipeSendError, PipeSendTimeoutError, PipeSender, Pool,
    RunError, TravelError, TryPipeRecvError, TryPipeSendError,
};
use farcall::{BoxError, CallError, Gateway, Spec, Tasks};
use gateways::{plain, until};
use serde::{Deserialize, Serialize};

fn main() {
    let tasks = Tasks::new()
        .add(route)
        .add(pump)
        .add(feed)
        .add(echo)
        .add(hand_on)
        .add(open_numbers)
        .add(sockets)
        .add(keep)
        .add(leave);
    let tests = [
        plain("messages_pass_in_order_to_the_end", messages_pass_in_order_to_the_end),
        plain("both_directions_pass", both_directions_pass),
        plain("codecs_are_bytes_or_your_own", codecs_are_bytes_or_your_own),
        plain("a_failing_codec_leaves_the_pipe_usable", a_failing_codec_leaves_the_pipe_usable),
        plain("what_is_there_can_be_looked_at", what_is_there_can_be_looked_at),
        plain("a_timeout_anywhere_leaves_messages_whole", a_timeout_anywhere_leaves_messages_whole),
        plain("a_receive_is_given_up_in_the_middle", a_receive_is_given_up_in_the_middle),
        plain("a_sender_dropped_in_the_middle_ends_the_pipe", a_sender_dropped_in_the_middle_ends_the_pipe),
        plain("concurrent_senders_never_interleave", concurrent_senders_never_interleave),
        plain("a_full_pipe_says_so", a_full_pipe_says_so),
        plain("an_end_that_is_gone_is_told", an_end_that_is_gone_is_told),
        plain("ends_nested_in_arguments_move", ends_nested_in_arguments_move),
        plain("children_speak_without_their_parent", children_speak_without_their_parent),
        plain("what_was_sent_before_moves_along", what_was_sent_before_moves_along),
        plain("ends_are_handed_on_to_grandchildren", ends_are_handed_on_to_grandchildren),
        plain("ends_come_back_in_values_and_through_pipes", ends_come_back_in_values_and_through_pipes),
        plain("an_end_that_is_not_passed_is_not_there", an_end_that_is_not_passed_is_not_there),
        plain("a_child_that_dies_ends_its_pipes", a_child_that_dies_ends_its_pipes),
        plain("ends_in_use_do_not_move", ends_in_use_do_not_move),
        plain("ends_do_not_move_elsewhere", ends_do_not_move_elsewhere),
        plain("too_many_ends_are_refused", too_many_ends_are_refused),
        plain("moving_ends_leaks_no_descriptor", moving_ends_leaks_no_descriptor),
    ];
    gateways::main(tasks, tests);
}

// ---- tasks -------------------------------------------------------------------------------------------------------

#[derive(Serialize, Deserialize)]
struct Routes {
    inputs: BTreeMap<String, PipeReceiver<u64>>,
    outputs: Vec<Option<PipeSender<(String, u64)>>>,
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

/// Sends so many numbers.
async fn feed(to: PipeSender<u64>, count: u64) -> Result<(), BoxError> {
    for number in 0..count {
        to.send(number).await?;
    }
    Ok(())
}

/// Adds all up, and says so.
async fn pump(mut from: PipeReceiver<u64>, said: PipeSender<String>) -> Result<u64, BoxError> {
    let mut sum = 0;
    while let Some(number) = from.recv().await? {
        sum += number;
    }
    said.send(format!("the sum is {sum}")).await?;
    Ok(sum)
}

async fn echo(mut pipe: Duplex<String, String>, suffix: String) -> Result<(), BoxError> {
    while let Some(line) = pipe.recv().await? {
        pipe.send(line + &suffix).await?;
    }
    Ok(())
}

/// Hands the end on to a process below this one, and says which that was.
fn hand_on(pipe: Duplex<String, String>, depth: u32) -> Result<u32, BoxError> {
    let runtime = tokio::runtime::Handle::current();
    if depth > 0 {
        return Ok(runtime.block_on(local::run(hand_on, (pipe, depth - 1)))?);
    }
    runtime.block_on(echo(pipe, "!".to_owned()))?;
    Ok(std::process::id())
}

async fn open_numbers() -> Result<PipeReceiver<u64>, BoxError> {
    let (sender, receiver) = local::pipe()?;
    tokio::spawn(async move {
        for number in 0..100 {
            if sender.send(number).await.is_err() {
                return;
            }
        }
        // It would end with its process.
        std::future::pending::<()>().await;
    });
    Ok(receiver)
}

/// The sockets that the process has.
fn own_sockets() -> Vec<String> {
    let all = std::fs::read_dir("/proc/self/fd").expect("descriptors").flatten();
    let names = all.filter_map(|fd| Some(std::fs::read_link(fd.path()).ok()?.to_string_lossy().into_owned()));
    names.filter(|name| name.starts_with("socket:")).collect()
}

async fn sockets(_: Option<PipeSender<u8>>) -> Vec<String> {
    own_sockets()
}

async fn keep(_pipe: Duplex<Bytes, Bytes>) {
    std::future::pending::<()>().await;
}

async fn leave(_pipe: Duplex<u8, u8>) {
    std::process::exit(1);
}

// ---- between tasks -----------------------------------------------------------------------------------------------

async fn messages_pass_in_order_to_the_end() {
    let (sender, mut receiver) = local::pipe::<(u64, String)>().expect("a pipe");
    let sending = tokio::spawn(async move {
        for number in 0..2000_u64 {
            // From nothing to several chunks.
            let len = usize::try_from(number * number % 100_003).expect("a length");
            sender.send((number, "x".repeat(len))).await.expect("sent");
        }
    });
    for wanted in 0..2000_u64 {
        let (number, text) = receiver.recv().await.expect("a message").expect("not the end");
        assert_eq!((number, text.len() as u64), (wanted, wanted * wanted % 100_003));
    }
    for _ in 0..3 {
        assert_eq!(receiver.recv().await.expect("the end"), None);
    }
    sending.await.expect("no panic");
}

async fn both_directions_pass() {
    let (mut near, far) = local::duplex::<u64, String>().expect("a pipe");
    let (back, mut there) = far.split();
    let echoing = tokio::spawn(async move {
        while let Some(number) = there.recv().await.expect("a number") {
            back.send(number.to_string()).await.expect("sent");
        }
        // This direction is still open.
        back.send("that was all".to_owned()).await.expect("sent");
    });
    for number in 0..500 {
        near.send(number).await.expect("sent");
        assert_eq!(near.recv().await.expect("a text"), Some(number.to_string()));
    }
    let (to, mut from) = near.split();
    to.close();
    assert_eq!(from.recv().await.expect("a text").as_deref(), Some("that was all"));
    assert_eq!(from.recv().await.expect("the end"), None);
    echoing.await.expect("no panic");
}

/// Numbers as text; not every one of them.
enum Decimal {}

impl Codec<u64> for Decimal {
    fn encode(value: &u64, out: &mut Vec<u8>) -> Result<(), CodecError> {
        // Half a message is written before it fails.
        out.extend_from_slice(value.to_string().as_bytes());
        if value % 10 == 7 { Err(CodecError::Encode("unlucky".into())) } else { Ok(()) }
    }

    fn decode(message: &[u8]) -> Result<u64, CodecError> {
        let text = std::str::from_utf8(message).map_err(|error| CodecError::Decode(error.into()))?;
        match text.parse() {
            Ok(13) => Err(CodecError::Decode("unlucky too".into())),
            parsed => parsed.map_err(|error: std::num::ParseIntError| CodecError::Decode(error.into())),
        }
    }
}

async fn codecs_are_bytes_or_your_own() {
    let (sender, mut receiver) = local::pipe_with::<Bytes, Raw>().expect("a pipe");
    for len in [0, 1, 32 * 1024, 32 * 1024 + 1, 100_000] {
        let bytes = Bytes::from((0..len).map(|n: u32| n.to_le_bytes()[0]).collect::<Vec<_>>());
        sender.send(bytes.clone()).await.expect("sent");
        assert_eq!(receiver.recv().await.expect("bytes"), Some(bytes));
    }
    let (sender, mut receiver) = local::pipe_with::<u64, Decimal>().expect("a pipe");
    sender.send(42).await.expect("sent");
    assert_eq!(receiver.recv().await.expect("a number"), Some(42));
}

async fn a_failing_codec_leaves_the_pipe_usable() {
    let (sender, mut receiver) = local::pipe_with::<u64, Decimal>().expect("a pipe");
    for round in 0..20 {
        assert!(matches!(sender.send(17).await, Err(PipeSendError::Codec(CodecError::Encode(_)))));
        assert!(matches!(
            sender.try_send(27),
            Err(TryPipeSendError::Failed(PipeSendError::Codec(CodecError::Encode(_))))
        ));
        sender.send(13).await.expect("it is written");
        sender.send(100 + round * 10).await.expect("sent");
        assert!(matches!(receiver.recv().await, Err(PipeRecvError::Codec(CodecError::Decode(_)))));
        assert_eq!(receiver.recv().await.expect("the next"), Some(100 + round * 10));
    }
    assert!(matches!(receiver.try_recv(), Err(TryPipeRecvError::Empty)));
}

async fn what_is_there_can_be_looked_at() {
    let (sender, mut receiver) = local::pipe::<u8>().expect("a pipe");
    assert!(!receiver.is_ready());
    assert!(matches!(receiver.try_recv(), Err(TryPipeRecvError::Empty)));
    let short = Duration::from_millis(10);
    assert!(matches!(receiver.recv_timeout(short).await, Err(TryPipeRecvError::Empty)));
    sender.try_send(1).expect("room");
    sender.try_send(2).expect("room");
    assert!(receiver.is_ready());
    assert_eq!(receiver.peek().await.expect("a message"), Some(&1));
    assert_eq!(receiver.peek().await.expect("the same"), Some(&1));
    assert_eq!(receiver.recv().await.expect("the same"), Some(1));
    assert_eq!(receiver.try_recv().expect("a message"), Some(2));
    assert!(!receiver.is_ready());
    drop(sender);
    assert!(receiver.is_ready());
    assert_eq!(receiver.peek().await.expect("the end"), None);
    assert_eq!(receiver.try_recv().expect("the end"), None);
}

fn pattern(seed: u8, len: usize) -> Bytes {
    vec![seed; len].into()
}

async fn a_timeout_anywhere_leaves_messages_whole() {
    let (sender, mut receiver) = local::pipe_with::<Bytes, Raw>().expect("a pipe");
    for round in 0..20_u8 {
        // Nobody reads: a part of it fits.
        let sent = sender.send_timeout(pattern(200, 2 << 20), Duration::from_millis(5)).await;
        assert!(matches!(sent, Err(PipeSendTimeoutError::Timeout)), "{sent:?}");
        // Begun there, and given up here.
        let received = receiver.recv_timeout(Duration::from_millis(5)).await;
        assert!(matches!(received, Err(TryPipeRecvError::Empty)), "{received:?}");
        let len = usize::from(round) * 10_000;
        sender.send_timeout(pattern(round, len), Duration::from_secs(10)).await.expect("sent");
        let received = receiver.recv_timeout(Duration::from_secs(10)).await.expect("the next message");
        assert_eq!(received, Some(pattern(round, len)));
    }
}

async fn a_receive_is_given_up_in_the_middle() {
    let (sender, mut receiver) = local::pipe_with::<Bytes, Raw>().expect("a pipe");
    let len = 4 << 20;
    for seed in 0..3 {
        let mut sending = Box::pin(sender.send(pattern(seed, len)));
        let mut given_up = 0;
        let message = loop {
            // Each is polled once: what fits is sent, what is there is taken, and then the receive is dropped.
            let message = std::future::poll_fn(|cx| {
                let _ = sending.as_mut().poll(cx);
                let mut recv = Box::pin(receiver.recv());
                std::task::Poll::Ready(recv.as_mut().poll(cx))
            });
            match message.await {
                std::task::Poll::Ready(message) => break message.expect("a message").expect("not the end"),
                std::task::Poll::Pending => given_up += 1,
            }
            tokio::task::yield_now().await;
        };
        assert!(given_up > 5, "a pipe holds less than this message");
        assert_eq!(message, pattern(seed, len));
    }
}

async fn a_sender_dropped_in_the_middle_ends_the_pipe() {
    let (sender, mut receiver) = local::pipe_with::<Bytes, Raw>().expect("a pipe");
    let sent = sender.send_timeout(pattern(1, 1 << 20), Duration::from_millis(5)).await;
    assert!(matches!(sent, Err(PipeSendTimeoutError::Timeout)));
    // Makes room for the word that it was given up.
    assert!(matches!(receiver.try_recv(), Err(TryPipeRecvError::Empty)));
    drop(sender);
    assert_eq!(receiver.recv().await.expect("the end"), None);
}

async fn concurrent_senders_never_interleave() {
    let (sender, mut receiver) = local::pipe_with::<Bytes, Raw>().expect("a pipe");
    let sender = Arc::new(sender);
    let senders: Vec<_> = (0..8_u8)
        .map(|seed| {
            let sender = Arc::clone(&sender);
            tokio::spawn(async move {
                // The last is sent whole: of one that was given up the end of the pipe would be told as a cut.
                for round in 0..=40_usize {
                    let len = 1 + (round * 7919 + usize::from(seed) * 31_337) % 150_000;
                    if round % 5 == 4 {
                        // Given up somewhere, or not.
                        let limit = Duration::from_micros(100);
                        let _ = sender.send_timeout(pattern(100 + seed, len), limit).await;
                    } else {
                        sender.send(pattern(seed, len)).await.expect("sent");
                    }
                }
            })
        })
        .collect();
    drop(sender);
    let mut whole = 0;
    while let Some(message) = receiver.recv().await.expect("a whole message") {
        let seed = message[0];
        assert!(message.iter().all(|byte| *byte == seed), "two messages in one");
        whole += usize::from(seed < 100);
    }
    assert_eq!(whole, 8 * 33);
    for sender in senders {
        sender.await.expect("no panic");
    }
}

async fn a_full_pipe_says_so() {
    let (sender, mut receiver) = local::pipe_with::<Bytes, Raw>().expect("a pipe");
    let mut sent = 0_u32;
    let full = loop {
        match sender.try_send(pattern(3, 10_000)) {
            Ok(()) => sent += 1,
            Err(TryPipeSendError::Full(value)) => break value,
            Err(error) => panic!("{error}"),
        }
        assert!(sent < 1000, "what nobody reads is bounded");
    };
    assert_eq!(full, pattern(3, 10_000));
    assert!(matches!(sender.try_send(pattern(3, 100_000)), Err(TryPipeSendError::Full(_))));
    for _ in 0..sent {
        assert_eq!(receiver.recv().await.expect("a message"), Some(pattern(3, 10_000)));
    }
    sender.try_send(full).expect("room");
}

async fn an_end_that_is_gone_is_told() {
    let (sender, receiver) = local::pipe::<u8>().expect("a pipe");
    receiver.close();
    assert!(matches!(sender.send(1).await, Err(PipeSendError::Closed)));
    assert!(matches!(sender.try_send(1), Err(TryPipeSendError::Failed(PipeSendError::Closed))));

    // Also to a send that waits.
    let (sender, receiver) = local::pipe_with::<Bytes, Raw>().expect("a pipe");
    let sending = tokio::spawn(async move { sender.send(pattern(1, 4 << 20)).await });
    tokio::task::yield_now().await;
    drop(receiver);
    assert!(matches!(sending.await.expect("no panic"), Err(PipeSendError::Closed)));

    // Of a pipe of both directions, what was sent before is still received.
    let (near, mut far) = local::duplex::<u8, u8>().expect("a pipe");
    near.send(1).await.expect("sent");
    far.send(2).await.expect("sent");
    drop(near);
    assert_eq!(far.recv().await.expect("a message"), Some(1));
    assert_eq!(far.recv().await.expect("the end"), None);
    assert!(matches!(far.send(3).await, Err(PipeSendError::Closed)));
}

// ---- between processes -------------------------------------------------------------------------------------------

async fn ends_nested_in_arguments_move() {
    let (one, first) = local::pipe().expect("a pipe");
    let (two, second) = local::pipe().expect("a pipe");
    let (to, mut hits) = local::pipe().expect("a pipe");
    let (other_to, mut others) = local::pipe().expect("a pipe");
    let inputs = BTreeMap::from([("one".to_owned(), first), ("two".to_owned(), second)]);
    let routes = Routes { inputs, outputs: vec![Some(to), None, Some(other_to)] };
    let running = tokio::spawn(local::run(route, (routes,)));
    for number in 0..100 {
        one.send(number).await.expect("sent");
        two.send(number + 1000).await.expect("sent");
    }
    drop((one, two));
    for hits in [&mut hits, &mut others] {
        for number in 0..100 {
            assert_eq!(hits.recv().await.expect("a hit"), Some(("one".to_owned(), number)));
        }
        for number in 1000..1100 {
            assert_eq!(hits.recv().await.expect("a hit"), Some(("two".to_owned(), number)));
        }
        assert_eq!(hits.recv().await.expect("the end"), None);
    }
    assert_eq!(running.await.expect("no panic").expect("a value"), 400);
}

async fn children_speak_without_their_parent() {
    let before = own_sockets();
    let (to, from) = local::pipe().expect("a pipe");
    let (say, mut said) = local::pipe().expect("a pipe");
    let ends: Vec<String> = own_sockets().into_iter().filter(|name| !before.contains(name)).collect();
    assert_eq!(ends.len(), 4);
    let pumping = local::open(pump, (from, say)).await.expect("a handle");
    pumping.wait_for(local::State::Running).await;
    let feeding = local::open(feed, (to, 20_000)).await.expect("a handle");
    feeding.wait_for(local::State::Running).await;
    // No thread of this runtime does anything for them meanwhile, and this process has none of their ends.
    let here = own_sockets();
    assert_eq!(ends.iter().filter(|end| here.contains(end)).count(), 1, "but the one that tells us");
    loop {
        if said.is_ready() {
            break;
        }
        std::thread::yield_now();
    }
    let sum = (0..20_000).sum::<u64>();
    assert_eq!(said.try_recv().expect("it is here"), Some(format!("the sum is {sum}")));
    assert_eq!(pumping.result().await.expect("a sum"), sum);
    feeding.result().await.expect("it is done");
}

async fn what_was_sent_before_moves_along() {
    let (to, mut from) = local::pipe().expect("a pipe");
    let (say, mut said) = local::pipe().expect("a pipe");
    for number in 1..=4 {
        to.send(number).await.expect("sent");
    }
    // An end that was used may move, too.
    assert_eq!(from.recv().await.expect("a number"), Some(1));
    drop(to);
    assert_eq!(local::run(pump, (from, say)).await.expect("a sum"), 2 + 3 + 4);
    assert_eq!(said.recv().await.expect("a text").as_deref(), Some("the sum is 9"));
}

async fn ends_are_handed_on_to_grandchildren() {
    let (mut near, far) = local::duplex::<String, String>().expect("a pipe");
    let running = tokio::spawn(local::run(hand_on, (far, 2)));
    for number in 0..50 {
        near.send(number.to_string()).await.expect("sent");
        assert_eq!(near.recv().await.expect("an echo"), Some(format!("{number}!")));
    }
    near.close();
    running.await.expect("no panic").expect("a number");
}

async fn ends_come_back_in_values_and_through_pipes() {
    let pool = Pool::new(1);
    let mut numbers = pool.call(open_numbers, ()).await.expect("an end");
    for number in 0..100 {
        assert_eq!(numbers.recv().await.expect("a number"), Some(number));
    }
    pool.close().await;
    assert_eq!(numbers.recv().await.expect("the end"), None);

    let (carry, mut carried) = local::pipe::<(u8, PipeSender<u64>)>().expect("a pipe");
    let (sender, mut receiver) = local::pipe().expect("a pipe");
    sender.send(1).await.expect("sent");
    carry.send((7, sender)).await.expect("sent");
    let (seven, sender) = carried.recv().await.expect("a message").expect("not the end");
    assert_eq!(seven, 7);
    sender.send(2).await.expect("sent");
    assert_eq!(receiver.recv().await.expect("a number"), Some(1));
    assert_eq!(receiver.recv().await.expect("a number"), Some(2));
    drop(sender);
    assert_eq!(receiver.recv().await.expect("the end"), None);
}

async fn an_end_that_is_not_passed_is_not_there() {
    let before = own_sockets();
    let (passed, passed_other) = local::pipe::<u8>().expect("a pipe");
    let here = own_sockets();
    let passed_ends: Vec<_> = here.iter().filter(|name| !before.contains(name)).cloned().collect();
    let (kept, kept_other) = local::pipe::<u8>().expect("a pipe");
    let kept_ends: Vec<_> = own_sockets().into_iter().filter(|name| !here.contains(name)).collect();
    let there = local::run(sockets, (Some(passed),)).await.expect("sockets");
    assert_eq!(passed_ends.iter().filter(|name| there.contains(name)).count(), 1, "{there:?}");
    assert!(kept_ends.iter().all(|name| !there.contains(name)), "{kept_ends:?} in {there:?}");
    drop((kept, kept_other, passed_other));
}

async fn a_child_that_dies_ends_its_pipes() {
    let (mut near, far) = local::duplex::<u8, u8>().expect("a pipe");
    let result = local::run(leave, (far,)).await;
    assert!(matches!(result, Err(RunError::Exited { code: 1, .. })), "{result:?}");
    assert_eq!(near.recv().await.expect("the end"), None);
    assert!(matches!(near.send(1).await, Err(PipeSendError::Closed)));
}

async fn ends_in_use_do_not_move() {
    let (sender, mut receiver) = local::pipe().expect("a pipe");
    sender.send(1_u64).await.expect("sent");
    receiver.peek().await.expect("a number");
    let (say, _said) = local::pipe().expect("a pipe");
    let result = local::run(pump, (receiver, say)).await;
    assert!(matches!(result, Err(RunError::PipeEnd(TravelError::InUse))), "{result:?}");

    // In the middle of a message.
    let (near, mut far) = local::duplex_with::<Bytes, Bytes, farcall::channel::Cbor>().expect("a pipe");
    let sent = near.sender().send_timeout(pattern(0, 1 << 20), Duration::from_millis(5)).await;
    assert!(matches!(sent, Err(PipeSendTimeoutError::Timeout)));
    assert!(!far.receiver().is_ready());
    let result = local::run(keep, (far,)).await;
    assert!(matches!(result, Err(RunError::PipeEnd(TravelError::InUse))), "{result:?}");

    // Half of a pipe of both directions.
    let (near, _far) = local::duplex::<u64, u64>().expect("a pipe");
    let (half, _other) = near.split();
    let result = local::run(feed, (half, 1)).await;
    assert!(matches!(result, Err(RunError::PipeEnd(TravelError::InUse))), "{result:?}");
}

async fn ends_do_not_move_elsewhere() {
    let gateway = Gateway::open(&Spec::local()).await.expect("a gateway");
    let (to, mut from) = local::pipe().expect("a pipe");
    let result = gateway.call(feed, (to, 1)).await;
    assert!(matches!(result, Err(CallError::PipeEnd(TravelError::Elsewhere))), "{result:?}");
    assert_eq!(from.recv().await.expect("the end"), None);
    let (to, _from) = local::pipe::<u8>().expect("a pipe");
    assert!(farcall::channel::to_bytes(&to).is_err());
    // The gateway is as before.
    assert!(gateway.call(sockets, (None,)).await.is_ok());
    // What names an end that did not come makes none.
    let forged = farcall::channel::to_bytes(&0_u16).expect("bytes");
    assert!(farcall::channel::from_bytes::<PipeSender<u8>>(&forged).is_err());
}

async fn too_many_ends_are_refused() {
    let (carry, mut carried) = local::pipe::<Vec<PipeSender<u8>>>().expect("a pipe");
    let ends = |count| (0..count).map(|_| local::pipe().expect("a pipe").0).collect::<Vec<_>>();
    let sent = carry.send(ends(local::MAX_ENDS + 1)).await;
    assert!(matches!(sent, Err(PipeSendError::End(TravelError::TooMany))), "{sent:?}");
    carry.send(ends(local::MAX_ENDS)).await.expect("sent");
    assert_eq!(carried.recv().await.expect("ends").map(|ends| ends.len()), Some(local::MAX_ENDS));
}

async fn moving_ends_leaks_no_descriptor() {
    let pool = Pool::new(1);
    let count = || std::fs::read_dir("/proc/self/fd").expect("descriptors").count();
    let one = async || {
        let (to, from) = local::pipe().expect("a pipe");
        let (say, mut said) = local::pipe().expect("a pipe");
        to.send(5).await.expect("sent");
        drop(to);
        assert_eq!(pool.call(pump, (from, say)).await.expect("a sum"), 5);
        assert!(said.recv().await.expect("a text").is_some());
    };
    one().await;
    let before = count();
    let there = pool.call(sockets, (None,)).await.expect("sockets").len();
    for _ in 0..200 {
        one().await;
        // One that is refused, and one whose call is dropped.
        let (to, from) = local::pipe::<u64>().expect("a pipe");
        let (half, _) = local::duplex::<u64, u64>().expect("a pipe").0.split();
        assert!(pool.call(feed, (half, 1)).await.is_err());
        let (say, _said) = local::pipe().expect("a pipe");
        let mut call = Box::pin(pool.call(pump, (from, say)));
        let once = std::future::poll_fn(|cx| std::task::Poll::Ready(call.as_mut().poll(cx).is_ready())).await;
        assert!(!once);
        drop((call, to));
    }
    assert_eq!(pool.call(sockets, (None,)).await.expect("sockets").len(), there);
    until("all descriptors are closed", || count() <= before).await;
}
