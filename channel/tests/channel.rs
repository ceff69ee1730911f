//! What users rely on in a channel: order, ends, errors, cancellation, callbacks, byte streams.

mod support;

use std::time::Duration;

use farcall_channel::{
    ClosedError, CodecError, Delivery, Raw, RecvError, SendError, SendTimeoutError, TryRecvError,
    TrySendError, Value,
};
use serde::{Deserialize, Serialize};
use support::{channel, connect, small};

#[tokio::test]
async fn messages_arrive_in_order_and_the_end_again_and_again() {
    let (near, far) = connect(small()).await;
    let (left, mut right) = channel::<u32, u32>(&near, &far).await;
    let sending = tokio::spawn(async move {
        for number in 0..10_000 {
            left.send(number).await.unwrap();
        }
    });
    for number in 0..10_000 {
        assert_eq!(right.recv().await.unwrap(), Some(number));
    }
    sending.await.unwrap();
    for _ in 0..3 {
        assert_eq!(right.recv().await.unwrap(), None);
    }
}

#[tokio::test]
async fn a_receive_that_timed_out_or_was_dropped_leaves_the_channel_usable() {
    let (near, far) = connect(small()).await;
    let (left, mut right) = channel::<String, String>(&near, &far).await;
    let timeout = right.recv_timeout(Duration::from_millis(1)).await;
    assert!(matches!(timeout, Err(TryRecvError::Empty)));
    assert!(matches!(right.try_recv(), Err(TryRecvError::Empty)));
    assert!(!right.receiver().is_ready());
    left.send("late".into()).await.unwrap();
    assert_eq!(right.peek().await.unwrap(), Some(&"late".to_owned()));
    assert!(right.receiver().is_ready());
    assert_eq!(right.try_recv().unwrap(), Some("late".into()));
}

#[tokio::test]
async fn an_error_with_the_close_comes_after_the_data_once_and_then_the_end() {
    let (near, far) = connect(small()).await;
    let (mut left, mut right) = channel::<u32, u32>(&near, &far).await;
    left.send(1).await.unwrap();
    left.close_with("disk full");
    left.close();
    assert!(matches!(left.send(2).await, Err(SendError::Closed)));
    assert_eq!(right.recv().await.unwrap(), Some(1));
    match right.recv().await {
        Err(RecvError::Remote(error)) => assert_eq!(error.to_string(), "disk full"),
        other => panic!("{other:?}"),
    }
    assert_eq!(right.recv().await.unwrap(), None);
    assert_eq!(right.recv().await.unwrap(), None);
}

#[tokio::test]
async fn half_close_leaves_the_other_direction_open() {
    let (near, far) = connect(small()).await;
    let (mut left, mut right) = channel::<u32, u32>(&near, &far).await;
    left.close_sending();
    assert_eq!(right.recv().await.unwrap(), None);
    right.send(5).await.unwrap();
    assert_eq!(left.recv().await.unwrap(), Some(5));
    assert!(left.is_closed() && !right.is_closed());
}

#[tokio::test]
async fn a_dropped_receiver_stops_the_sender_and_tells_what_was_not_consumed() {
    let (near, far) = connect(small()).await;
    let (left, mut right) = channel::<u32, u32>(&near, &far).await;
    for number in 0..5 {
        left.send(number).await.unwrap();
    }
    assert_eq!(right.recv().await.unwrap(), Some(0));
    assert_eq!(right.recv().await.unwrap(), Some(1));
    right.close_with("enough");
    match left.wait_closed().await {
        Err(ClosedError::Stopped { unconsumed: 3, error: Some(error) }) => assert_eq!(error.text(), "enough"),
        other => panic!("{other:?}"),
    }
    match left.send(6).await {
        Err(SendError::Stopped(Some(error))) => assert_eq!(error.text(), "enough"),
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn wait_closed_returns_once_everything_was_consumed() {
    let (near, far) = connect(small()).await;
    let (left, mut right) = channel::<u32, u32>(&near, &far).await;
    left.send(1).await.unwrap();
    left.close_sending();
    let early = tokio::time::timeout(Duration::from_millis(20), left.wait_closed()).await;
    assert!(early.is_err(), "the message is not consumed yet");
    assert_eq!(right.recv().await.unwrap(), Some(1));
    assert_eq!(right.recv().await.unwrap(), None);
    left.wait_closed().await.unwrap();
}

#[tokio::test]
async fn try_send_gives_the_value_back_and_a_send_waits_for_room() {
    let (near, far) = connect(small()).await;
    let (left, mut right) = channel::<u64, u64>(&near, &far).await;
    let mut accepted = 0;
    let refused = loop {
        match left.try_send(accepted) {
            Ok(()) => accepted += 1,
            Err(TrySendError::Full(value)) => {
                assert_eq!(value, accepted);
                match left.sender().send_timeout(value, Duration::from_millis(20)).await {
                    Ok(()) => accepted += 1,
                    Err(SendTimeoutError::Timeout) => break value,
                    Err(error) => panic!("{error}"),
                }
            }
            Err(error) => panic!("{error}"),
        }
    };
    assert!(accepted * 13 <= 2 * 256, "at most one window waits on each side");
    let sending = tokio::spawn(async move {
        left.send(refused).await.unwrap();
        left.sender().blocked()
    });
    for number in 0..=accepted {
        assert_eq!(right.recv().await.unwrap(), Some(number));
    }
    sending.await.unwrap();
}

#[tokio::test]
async fn long_messages_pass_through_small_windows_both_ways_at_once() {
    let (near, far) = connect(small()).await;
    let (left, right) = channel::<Vec<u8>, Vec<u8>>(&near, &far).await;
    let run = |channel: farcall_channel::Channel<Vec<u8>, Vec<u8>>, seed: u8| async move {
        let (sender, mut receiver) = channel.split();
        let sending = tokio::spawn(async move {
            for round in 0..20u8 {
                sender.send(vec![seed ^ round; 1000 * usize::from(round)]).await.unwrap();
            }
        });
        for round in 0..20u8 {
            let expected = vec![!seed ^ round; 1000 * usize::from(round)];
            assert!(receiver.recv().await.unwrap() == Some(expected));
        }
        sending.await.unwrap();
        assert_eq!(receiver.recv().await.unwrap(), None);
    };
    tokio::join!(run(left, 0x0f), run(right, 0xf0));
}

#[tokio::test]
async fn a_dropped_send_of_a_long_message_sends_nothing_and_frees_its_room() {
    let (near, far) = connect(small()).await;
    let (left, mut right) = channel::<Vec<u8>, Vec<u8>>(&near, &far).await;
    for _ in 0..50 {
        let send = left.send(vec![7; 20_000]);
        assert!(tokio::time::timeout(Duration::from_millis(1), send).await.is_err());
    }
    let receiving = tokio::spawn(async move {
        let message = right.recv().await.unwrap().unwrap();
        (message.len(), right)
    });
    left.send(vec![8; 30_000]).await.unwrap();
    let (len, mut right) = receiving.await.unwrap();
    assert_eq!(len, 30_000);
    left.send(vec![9; 10]).await.unwrap();
    assert_eq!(right.recv().await.unwrap(), Some(vec![9; 10]));
}

#[tokio::test]
async fn a_message_over_the_peers_limit_is_refused_before_it_is_sent() {
    let (near, far) = connect(small()).await;
    let (left, mut right) = channel::<Vec<u8>, Vec<u8>>(&near, &far).await;
    let max = small().max_message;
    match left.send(vec![200; max as usize]).await {
        Err(SendError::TooLarge { len, max: limit }) => assert!(len > max && limit == max),
        other => panic!("{other:?}"),
    }
    left.send(vec![1]).await.unwrap();
    assert_eq!(right.recv().await.unwrap(), Some(vec![1]));
}

#[derive(Serialize, Deserialize, Debug, PartialEq)]
struct Picky(#[serde(serialize_with = "picky")] u32);

fn picky<S: serde::Serializer>(value: &u32, serializer: S) -> Result<S::Ok, S::Error> {
    if *value == 13 { Err(serde::ser::Error::custom("unlucky")) } else { serializer.serialize_u32(*value) }
}

#[tokio::test]
async fn values_that_cannot_be_encoded_or_decoded_leave_the_channel_usable() {
    let (near, far) = connect(small()).await;
    let (left, right) = channel::<Picky, u32>(&near, &far).await;
    assert!(matches!(left.send(Picky(13)).await, Err(SendError::Codec(CodecError::Encode(_)))));
    left.send(Picky(12)).await.unwrap();
    let (_sender, mut numbers) = right.split();
    assert_eq!(numbers.recv().await.unwrap(), Some(Picky(12)));

    let (left, mut right) = support::mixed::<Value, u32, u32, u32>(&near, &far).await;
    left.send(Value::Text("no number".into())).await.unwrap();
    left.send(Value::Integer(3.into())).await.unwrap();
    assert!(matches!(right.recv().await, Err(RecvError::Codec(CodecError::Decode(_)))));
    assert_eq!(right.recv().await.unwrap(), Some(3));
}

#[tokio::test]
async fn a_callback_gets_queued_messages_first_and_the_end_last() {
    let (near, far) = connect(small()).await;
    let (left, right) = channel::<u32, u32>(&near, &far).await;
    for number in 0..10 {
        left.send(number).await.unwrap();
    }
    let (seen, mut calls) = tokio::sync::mpsc::unbounded_channel();
    let (_keep, receiver) = right.split();
    let mut callback = receiver.on_message(move |delivery| {
        seen.send(delivery).unwrap();
        async { Ok::<(), &str>(()) }
    });
    left.send(10).await.unwrap();
    left.close_sending();
    left.wait_closed().await.unwrap();
    callback.finished().await;
    for number in 0..=10 {
        assert!(matches!(calls.recv().await, Some(Delivery::Message(got)) if got == number));
    }
    assert!(matches!(calls.recv().await, Some(Delivery::End(None))));
    assert!(calls.recv().await.is_none());
}

#[tokio::test]
async fn a_callback_set_after_the_connections_death_gets_messages_and_the_cause() {
    let (near, far) = connect(small()).await;
    let (left, mut right) = channel::<u32, u32>(&near, &far).await;
    left.send(1).await.unwrap();
    right.peek().await.unwrap();
    near.abort("the end");
    far.ended().await;
    let (seen, mut calls) = tokio::sync::mpsc::unbounded_channel();
    let (_keep, receiver) = right.split();
    drop(receiver.on_message(move |delivery| {
        seen.send(delivery).unwrap();
        async { Ok::<(), &str>(()) }
    }));
    assert!(matches!(calls.recv().await, Some(Delivery::Message(1))));
    match calls.recv().await {
        Some(Delivery::End(Some(RecvError::Lost(cause)))) => assert!(cause.to_string().contains("the end")),
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn a_failing_callback_closes_its_channel_and_a_slow_one_holds_up_only_its_own() {
    let (near, far) = connect(small()).await;
    let (left, right) = channel::<u32, u32>(&near, &far).await;
    let (other, mut other_far) = channel::<u32, u32>(&near, &far).await;
    let (slow, slow_far) = channel::<u32, u32>(&near, &far).await;
    let (_keep, receiver) = slow_far.split();
    let callback = receiver.on_message(|_| async {
        std::future::pending::<()>().await;
        Ok::<(), &str>(())
    });
    while slow.try_send(0).is_ok() {}
    let (_keep, receiver) = right.split();
    receiver.on_message(|_| async { Err("broken") });
    left.send(1).await.unwrap();
    match left.wait_closed().await {
        Err(ClosedError::Stopped { unconsumed: 1, error: Some(error) }) => assert_eq!(error.text(), "broken"),
        other => panic!("{other:?}"),
    }
    for number in 0..1000 {
        other.send(number).await.unwrap();
        assert_eq!(other_far.recv().await.unwrap(), Some(number));
    }
    assert!(!callback.is_finished());
    callback.cancel();
    assert!(matches!(slow.wait_closed().await, Err(ClosedError::Stopped { .. })));
}

#[tokio::test]
async fn byte_streams_carry_bytes_and_their_end() {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let (near, far) = connect(small()).await;
    let (left, right) = support::raw(&near, &far).await;
    let (mut left, mut right) = (left.into_stream(), right.into_stream());
    let data: Vec<u8> = (0..200_000u32).map(|number| number as u8).collect();
    let sent = data.clone();
    let writing = tokio::spawn(async move {
        left.write_all(&sent).await.unwrap();
        left.shutdown().await.unwrap();
        let mut answer = String::new();
        left.read_to_string(&mut answer).await.unwrap();
        answer
    });
    let mut received = Vec::new();
    right.read_to_end(&mut received).await.unwrap();
    assert!(received == data);
    right.write_all(b"thanks").await.unwrap();
    drop(right);
    assert_eq!(writing.await.unwrap(), "thanks");
}

#[tokio::test]
async fn raw_messages_keep_their_bytes_and_sizes() {
    let (near, far) = connect(farcall_channel::Config::default()).await;
    let (left, mut right) = support::raw(&near, &far).await;
    let sizes = [0, 1, 4095, 4096, 65_535, 65_536, 100_000, 3_000_000];
    let sending = tokio::spawn(async move {
        for size in sizes {
            left.send(vec![size as u8; size].into()).await.unwrap();
        }
    });
    for size in sizes {
        let message = right.recv().await.unwrap().unwrap();
        assert!(message.len() == size && message.iter().all(|byte| *byte == size as u8), "{size}");
    }
    sending.await.unwrap();
    assert_eq!(right.recv().await.unwrap(), None::<bytes::Bytes>);
    let _: Option<Raw> = None;
}

#[tokio::test]
async fn ids_are_freed_on_both_sides_however_a_channel_ends() {
    let (near, far) = connect(small()).await;
    for round in 0..2000 {
        let (left, right) = channel::<u32, u32>(&near, &far).await;
        match round % 5 {
            0 => drop((left, right)),
            1 => drop((right, left)),
            2 => {
                left.send(1).await.unwrap();
                drop(left);
                drop(right);
            }
            3 => {
                let (mut left, right) = (left, right);
                left.close_with("x");
                drop(right);
            }
            _ => {
                let (sender, receiver) = left.split();
                drop(receiver);
                sender.send(2).await.unwrap();
                drop(right);
                let _ = sender.wait_closed().await;
            }
        }
    }
    near.close().await;
    far.ended().await;
    assert_eq!(near.held(), (0, 0));
    assert_eq!(far.held(), (0, 0));
}

#[tokio::test]
async fn two_senders_on_one_end_never_interleave() {
    let (near, far) = connect(small()).await;
    let (left, mut right) = channel::<Vec<u8>, u8>(&near, &far).await;
    let left = std::sync::Arc::new(left);
    let tasks: Vec<_> = (0..4u8)
        .map(|seed| {
            let left = left.clone();
            tokio::spawn(async move {
                for len in 0..50 {
                    left.send(vec![seed; len * 37 % 1999]).await.unwrap();
                }
            })
        })
        .collect();
    for _ in 0..200 {
        let message: Vec<u8> = right.recv().await.unwrap().unwrap();
        assert!(message.iter().all(|byte| *byte == message[0]));
    }
    for task in tasks {
        task.await.unwrap();
    }
}

#[tokio::test]
async fn a_channel_is_a_stream_and_a_sink() {
    use std::future::poll_fn;
    use std::pin::Pin;

    use futures_core::Stream;
    use futures_sink::Sink;
    let (near, far) = connect(small()).await;
    let (mut left, mut right) = channel::<Vec<u8>, u32>(&near, &far).await;
    let sending = async {
        for number in 0..200u32 {
            poll_fn(|cx| Pin::new(&mut left).poll_ready(cx)).await.unwrap();
            // Some fit the window, some do not.
            Pin::new(&mut left).start_send(vec![1; number as usize * 3]).unwrap();
        }
        poll_fn(|cx| Pin::new(&mut left).poll_flush(cx)).await.unwrap();
        poll_fn(|cx| Pin::new(&mut left).poll_close(cx)).await.unwrap();
        assert!(left.is_closed());
        left.wait_closed().await.unwrap();
    };
    let receiving = async {
        let mut number = 0;
        while let Some(message) = poll_fn(|cx| Pin::new(&mut right).poll_next(cx)).await {
            assert_eq!(message.unwrap().len(), number * 3);
            number += 1;
        }
        assert_eq!(number, 200);
    };
    tokio::join!(sending, receiving);

    // One that is not flushed is lost, and its place in line with it.
    let (mut left, mut right) = channel::<Vec<u8>, u32>(&near, &far).await;
    poll_fn(|cx| Pin::new(&mut left).poll_ready(cx)).await.unwrap();
    Pin::new(&mut left).start_send(vec![1; 50_000]).unwrap();
    let (sender, _receiver) = left.split();
    sender.send(vec![2]).await.unwrap();
    assert_eq!(right.recv().await.unwrap(), Some(vec![2]));
}

#[tokio::test]
async fn a_channel_sends_and_receives_with_time_limits() {
    let (near, far) = connect(small()).await;
    let (left, mut right) = channel::<u64, u64>(&near, &far).await;
    let limit = Duration::from_millis(5);
    assert!(matches!(right.recv_timeout(limit).await, Err(TryRecvError::Empty)));
    assert!(!right.is_ready());
    let mut sent = 0;
    while left.send_timeout(sent, limit).await.is_ok() {
        sent += 1;
    }
    assert!(sent > 0 && !left.is_closed());
    for number in 0..sent {
        assert_eq!(right.recv_timeout(Duration::from_secs(60)).await.unwrap(), Some(number));
    }
}
