//! Ends of channels travel inside messages.

mod support;

use farcall_channel::{Channel, CodecError, Receiver, RecvError, SendError, Sender, Value};
use serde::{Deserialize, Serialize};
use support::{channel, connect, mixed, small};

#[derive(Serialize, Deserialize)]
struct Job {
    name: String,
    parts: Vec<Option<Part>>,
}

#[derive(Serialize, Deserialize)]
enum Part {
    Input(Receiver<String>),
    Output { to: Sender<u64> },
    Both(Channel<u8, u16>),
}

#[tokio::test]
async fn ends_travel_nested_anywhere() {
    let (near, far) = connect(small()).await;
    let (left, mut right) = channel::<Job, Job>(&near, &far).await;
    let (input, input_far) = near.pair::<String>();
    let (output_far, mut output) = near.pair::<u64>();
    let (mut both, both_far) = near.channel_pair::<u16, u8>();
    input.send("before the journey".into()).await.unwrap();
    let parts = vec![
        None,
        Some(Part::Input(input_far)),
        Some(Part::Output { to: output_far }),
        Some(Part::Both(both_far)),
    ];
    left.send(Job { name: "nested".into(), parts }).await.unwrap();
    input.send("after".into()).await.unwrap();

    let mut job = right.recv().await.unwrap().unwrap();
    assert_eq!(job.name, "nested");
    let (Some(Part::Both(mut both_here)), Some(Part::Output { to }), Some(Part::Input(mut lines))) =
        (job.parts.pop().unwrap(), job.parts.pop().unwrap(), job.parts.pop().unwrap())
    else {
        panic!("parts in another order")
    };
    assert_eq!(lines.recv().await.unwrap().as_deref(), Some("before the journey"));
    assert_eq!(lines.recv().await.unwrap().as_deref(), Some("after"));
    to.send(7).await.unwrap();
    assert_eq!(output.recv().await.unwrap(), Some(7));
    drop(to);
    assert_eq!(output.recv().await.unwrap(), None);
    both.send(300).await.unwrap();
    assert_eq!(both_here.recv().await.unwrap(), Some(300));
    both_here.send(3).await.unwrap();
    assert_eq!(both.recv().await.unwrap(), Some(3));
    drop(input);
    assert_eq!(lines.recv().await.unwrap(), None);
}

#[tokio::test]
async fn a_pair_works_before_it_travels() {
    let (near, _far) = connect(small()).await;
    let (sender, mut receiver) = near.pair::<u32>();
    assert_eq!(sender.id(), None);
    let sending = tokio::spawn(async move {
        for number in 0..1000 {
            sender.send(number).await.unwrap();
        }
        sender.close_with("done");
        sender.wait_closed().await
    });
    for number in 0..1000 {
        assert_eq!(receiver.recv().await.unwrap(), Some(number));
    }
    assert!(matches!(receiver.recv().await, Err(RecvError::Remote(error)) if error.text() == "done"));
    assert_eq!(receiver.recv().await.unwrap(), None);
    sending.await.unwrap().unwrap();
}

#[tokio::test]
async fn a_receiver_that_comes_home_loses_nothing_and_talks_to_its_partner() {
    let (near, far) = connect(small()).await;
    let (left, mut right) = channel::<Receiver<u32>, Receiver<u32>>(&near, &far).await;
    let mut home = left.split();
    for round in 0..50u32 {
        let (sender, receiver) = near.pair::<u32>();
        // Enough to fill windows on the way, sent before, during and after the journey.
        let sending = tokio::spawn(async move {
            for number in 0..200 + round {
                sender.send(number).await.unwrap();
            }
            sender
        });
        home.0.send(receiver).await.unwrap();
        let there = right.recv().await.unwrap().unwrap();
        right.send(there).await.unwrap();
        let mut back = home.1.recv().await.unwrap().unwrap();
        for number in 0..200 + round {
            assert_eq!(back.recv().await.unwrap(), Some(number));
        }
        let sender = sending.await.unwrap();
        assert_eq!(sender.id(), None, "both ends are on this side");
        sender.send(7).await.unwrap();
        sender.close();
        assert_eq!(back.recv().await.unwrap(), Some(7));
        assert_eq!(back.recv().await.unwrap(), None);
        sender.wait_closed().await.unwrap();
    }
    drop((home, right));
    near.close().await;
    assert_eq!((near.held(), far.held()), ((0, 0), (0, 0)));
}

#[tokio::test]
async fn a_sender_in_use_may_come_home_and_its_messages_stay_in_order() {
    let (near, far) = connect(small()).await;
    let (left, mut right) = channel::<Sender<u32>, Sender<u32>>(&near, &far).await;
    let (to_far, mut from_far) = left.split();
    for round in 0..50u32 {
        let (sender, mut receiver) = near.pair::<u32>();
        to_far.send(sender).await.unwrap();
        let there = right.recv().await.unwrap().unwrap();
        let reading = tokio::spawn(async move {
            for number in 0..100 + round {
                assert_eq!(receiver.recv().await.unwrap(), Some(number));
            }
            assert_eq!(receiver.recv().await.unwrap(), None);
        });
        for number in 0..50 {
            there.send(number).await.unwrap();
        }
        right.send(there).await.unwrap();
        let back = from_far.recv().await.unwrap().unwrap();
        for number in 50..100 + round {
            back.send(number).await.unwrap();
        }
        drop(back);
        reading.await.unwrap();
    }
}

#[tokio::test]
async fn a_whole_channel_comes_home() {
    let (near, far) = connect(small()).await;
    type Both = Channel<u32, u32>;
    let (left, mut right) = channel::<Both, Both>(&near, &far).await;
    let (to_far, mut from_far) = left.split();
    let (mut here, there) = near.channel_pair::<u32, u32>();
    here.send(1).await.unwrap();
    to_far.send(there).await.unwrap();
    here.send(2).await.unwrap();
    let there = right.recv().await.unwrap().unwrap();
    right.send(there).await.unwrap();
    let mut back = from_far.recv().await.unwrap().unwrap();
    here.send(3).await.unwrap();
    for number in 1..=3 {
        assert_eq!(back.recv().await.unwrap(), Some(number));
    }
    back.send(4).await.unwrap();
    assert_eq!(here.recv().await.unwrap(), Some(4));
    drop(here);
    assert_eq!(back.recv().await.unwrap(), None);
}

#[tokio::test]
async fn an_error_given_before_the_journey_home_arrives_after_the_data() {
    let (near, far) = connect(small()).await;
    let (left, mut right) = channel::<Receiver<u32>, Receiver<u32>>(&near, &far).await;
    let (to_far, mut from_far) = left.split();
    let (sender, receiver) = near.pair::<u32>();
    sender.send(1).await.unwrap();
    to_far.send(receiver).await.unwrap();
    let there = right.recv().await.unwrap().unwrap();
    sender.close_with("no more");
    right.send(there).await.unwrap();
    let mut back = from_far.recv().await.unwrap().unwrap();
    assert_eq!(back.recv().await.unwrap(), Some(1));
    assert!(matches!(back.recv().await, Err(RecvError::Remote(error)) if error.text() == "no more"));
    assert_eq!(back.recv().await.unwrap(), None);
}

#[tokio::test]
async fn ends_in_use_and_ends_of_other_connections_are_refused_and_stay_usable() {
    let (near, far) = connect(small()).await;
    let (other, _other_far) = connect(small()).await;
    let (left, _right) = channel::<Receiver<u32>, u32>(&near, &far).await;
    let (senders, _right) = channel::<Sender<u32>, u32>(&near, &far).await;

    let (sender, foreign) = other.pair::<u32>();
    assert!(matches!(left.send(foreign).await, Err(SendError::Codec(CodecError::ForeignEnd))));
    assert!(sender.is_closed(), "the end was dropped with the message");

    let (sender, mut receiver) = near.pair::<u32>();
    sender.send(1).await.unwrap();
    receiver.recv().await.unwrap();
    assert!(matches!(left.send(receiver).await, Err(SendError::Codec(CodecError::EndInUse))));

    // Half of a channel whose other half stays.
    let (_here, there) = near.channel_pair::<u32, u32>();
    let (half, mut other_half) = there.split();
    assert!(matches!(senders.send(half).await, Err(SendError::Codec(CodecError::EndInUse))));
    assert!(matches!(other_half.try_recv(), Err(farcall_channel::TryRecvError::Empty)));

    assert!(matches!(farcall_channel::to_bytes(&near.pair::<u32>().0), Err(CodecError::OutsideChannel)));
}

#[tokio::test]
async fn ends_in_messages_that_nobody_takes_are_ended() {
    let (near, far) = connect(small()).await;
    let (left, right) = channel::<Receiver<u32>, u32>(&near, &far).await;
    let (unread, receiver) = near.pair::<u32>();
    left.send(receiver).await.unwrap();
    drop(right);
    assert!(unread.wait_closed().await.is_err() || unread.is_closed());

    // A message whose decoding leaves the end where it is, or expects another direction.
    let (left, mut right) = mixed::<Receiver<u32>, u32, u32, Value>(&near, &far).await;
    let (ignored, receiver) = near.pair::<u32>();
    left.send(receiver).await.unwrap();
    assert_eq!(right.recv().await.unwrap(), Some(Value::Integer(0.into())));
    ignored.send(1).await.ok();
    let _ = ignored.wait_closed().await;
    let (left, mut right) = mixed::<Receiver<u32>, u32, u32, Sender<u32>>(&near, &far).await;
    let (wrong, receiver) = near.pair::<u32>();
    left.send(receiver).await.unwrap();
    assert!(matches!(right.recv().await, Err(RecvError::Codec(CodecError::EndDirection))));
    let _ = wrong.wait_closed().await;
    let (left, mut right) = mixed::<u16, u32, u32, Sender<u32>>(&near, &far).await;
    left.send(0).await.unwrap();
    assert!(matches!(right.recv().await, Err(RecvError::Codec(CodecError::EndMissing))));
}

#[tokio::test]
async fn a_cancelled_send_of_an_end_opened_nothing() {
    let (near, far) = connect(small()).await;
    let (left, _right) = channel::<(Vec<u8>, Receiver<u32>), u32>(&near, &far).await;
    let channels = far.held().1;
    for _ in 0..100 {
        let (sender, receiver) = near.pair::<u32>();
        let send = left.send((vec![1; 5000], receiver));
        let sent = tokio::time::timeout(std::time::Duration::from_millis(1), send).await;
        assert!(sent.is_err(), "nobody receives the long message");
        assert!(sender.is_closed(), "the end went with the value");
    }
    assert_eq!(far.held().1, channels);
}
