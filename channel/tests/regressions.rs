//! What once went wrong.

mod support;

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use farcall_channel::{
    ClosedError, CodecError, Config, Connection, ConnectionError, Delivery, DriverThread, HandshakeError,
    Options, RecvError, Role, SendError, Sender,
};
use serde::{Serialize, Serializer};
use support::{Kept, channel, connect, small};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

#[tokio::test]
async fn a_peer_that_is_slow_to_greet_costs_no_more_than_the_handshake_limit() {
    let (near, _far) = tokio::io::duplex(4096);
    let (reader, writer) = tokio::io::split(near);
    let config = Config {
        heartbeat: Duration::from_millis(10),
        lease: Duration::from_millis(20),
        ..Config::default()
    };
    let options = Options { config, handshake_limit: Duration::from_millis(100), ..Options::default() };
    let started = Connection::start(reader, writer, Role::Coordinator, options).await;
    let cause = started.expect_err("nobody greets");
    assert!(matches!(cause, ConnectionError::Handshake(HandshakeError::Timeout { .. })), "{cause}");
}

#[tokio::test]
async fn a_lease_without_end_is_a_very_long_one() {
    let config = Config { lease: Duration::MAX, heartbeat: Duration::MAX, ..Config::default() };
    let (near, far) = connect(config).await;
    let (left, mut right) = channel::<u8, u8>(&near, &far).await;
    left.send(1).await.unwrap();
    assert_eq!(right.recv().await.unwrap(), Some(1));
}

#[tokio::test]
async fn a_connection_whose_loops_are_gone_ends_with_that_cause() {
    let driver = DriverThread::start("driver").unwrap();
    let (near, far) = driver.enter(|| tokio::io::duplex(4096));
    let ((near_read, near_write), (far_read, far_write)) = (tokio::io::split(near), tokio::io::split(far));
    let driven = Options { driver: Some(driver.handle().clone()), ..Options::default() };
    let (near, far) = tokio::join!(
        Connection::start(near_read, near_write, Role::Coordinator, driven),
        Connection::start(far_read, far_write, Role::Worker, Options::default()),
    );
    let (near, far) = (near.unwrap(), far.unwrap());
    let (mut left, _right) = channel::<u8, u8>(&near, &far).await;
    drop(driver);
    assert!(matches!(near.ended().await, ConnectionError::NotDriven));
    assert!(matches!(left.recv().await, Err(RecvError::Lost(ConnectionError::NotDriven))));
    assert!(near.open::<u8, u8>("").await.is_err());
}

/// A stream that needs its runtime, as those that hand work to blocking threads do.
struct NeedsRuntime<W>(W);

impl<W: tokio::io::AsyncWrite + Unpin> tokio::io::AsyncWrite for NeedsRuntime<W> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<std::io::Result<usize>> {
        let _ = tokio::runtime::Handle::current();
        Pin::new(&mut self.0).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.0).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.0).poll_shutdown(cx)
    }
}

#[tokio::test]
async fn a_send_from_a_thread_without_a_runtime_may_write_by_itself() {
    let (near, far) = tokio::io::duplex(4096);
    let ((near_read, near_write), (far_read, far_write)) = (tokio::io::split(near), tokio::io::split(far));
    let (near, far) = tokio::join!(
        Connection::start(near_read, NeedsRuntime(near_write), Role::Coordinator, Options::default()),
        Connection::start(far_read, far_write, Role::Worker, Options::default()),
    );
    let (near, far) = (near.unwrap(), far.unwrap());
    let (mut left, mut right) = channel::<u8, u8>(&near, &far).await;
    right.send(0).await.unwrap();
    left.recv().await.unwrap();
    let left = std::thread::spawn(move || left.try_send(1).map(|()| left)).join().unwrap().unwrap();
    assert_eq!(right.recv().await.unwrap(), Some(1));
    assert!(near.cause().is_none());
    drop(left);
}

#[tokio::test]
async fn a_handle_whose_end_has_left_is_closed_and_never_another_channels() {
    let (near, far) = connect(small()).await;
    let (left, mut right) = channel::<Kept<u32>, Kept<u32>>(&near, &far).await;
    let (sender, mut receiver) = near.pair::<u32>();
    let kept = Arc::new(sender);
    left.send(Kept(kept.clone())).await.unwrap();
    let there = right.recv().await.unwrap().unwrap();
    // Takes the place that the end had.
    let (other, mut other_receiver) = near.pair::<u32>();
    assert!(kept.is_closed());
    assert!(matches!(kept.send(99).await, Err(SendError::Closed)));
    kept.close();
    kept.wait_closed().await.unwrap();
    drop(kept);
    other.send(1).await.unwrap();
    assert_eq!(other_receiver.recv().await.unwrap(), Some(1));
    there.0.send(2).await.unwrap();
    assert_eq!(receiver.recv().await.unwrap(), Some(2));
}

#[tokio::test]
async fn what_one_encoding_left_behind_does_not_reach_the_next() {
    let (near, far) = connect(small()).await;
    // An end in another format reports where it may stand; a later error of another kind is reported as itself.
    let (sender, _receiver) = near.pair::<u32>();
    assert!(ciborium::into_writer(&sender, Vec::new()).is_err());
    let error = farcall_channel::from_bytes::<u32>(b"\x64text").unwrap_err();
    assert!(matches!(error, CodecError::Decode(_)), "{error}");

    struct Panics(Sender<u32>);
    impl Serialize for Panics {
        fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
            let _ = self.0.serialize(serializer);
            panic!("no more");
        }
    }
    impl<'de> serde::Deserialize<'de> for Panics {
        fn deserialize<D: serde::Deserializer<'de>>(_: D) -> Result<Self, D::Error> {
            Err(serde::de::Error::custom("never"))
        }
    }
    let (left, _right) = channel::<Panics, Panics>(&near, &far).await;
    let panicked = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| left.try_send(Panics(sender))));
    assert!(panicked.is_err());
    let (left, mut right) = channel::<Kept<u32>, Kept<u32>>(&near, &far).await;
    let (sender, mut receiver) = near.pair::<u32>();
    left.send(Kept(Arc::new(sender))).await.unwrap();
    right.recv().await.unwrap().unwrap().0.send(3).await.unwrap();
    assert_eq!(receiver.recv().await.unwrap(), Some(3));
}

#[tokio::test]
async fn a_byte_stream_keeps_to_the_peers_longest_message() {
    let config = Config { max_message: 1000, assembly_budget: 2000, ..Config::default() };
    let (near, far) = connect(config).await;
    let (left, right) = support::raw(&near, &far).await;
    let (mut left, mut right) = (left.into_stream(), right.into_stream());
    left.write_all(&[7; 5000]).await.unwrap();
    left.shutdown().await.unwrap();
    let mut bytes = Vec::new();
    right.read_to_end(&mut bytes).await.unwrap();
    assert_eq!(bytes, [7; 5000]);
}

/// How many messages `wait_closed` says were not consumed, and why.
fn unconsumed(closed: Result<(), ClosedError>) -> (u64, Option<String>) {
    match closed {
        Err(ClosedError::Stopped { unconsumed, error }) => (unconsumed, error.map(|error| error.to_string())),
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn a_callback_that_panics_in_its_last_message_tells_the_peer() {
    let (near, far) = connect(small()).await;
    // In the call itself, and in what it returned.
    for early in [true, false] {
        let (left, right) = channel::<u8, u8>(&near, &far).await;
        left.send(1).await.unwrap();
        left.close_sending();
        let (_keep, receiver) = right.split();
        let mut callback = receiver.on_message(move |delivery| {
            assert!(!early, "early");
            async move {
                tokio::task::yield_now().await;
                match delivery {
                    Delivery::Message(number) => panic!("not {number}"),
                    Delivery::End(_) => Ok::<(), &str>(()),
                }
            }
        });
        let told = if early { "the callback panicked: early" } else { "the callback panicked: not 1" };
        assert_eq!(unconsumed(left.wait_closed().await), (1, Some(told.to_owned())));
        callback.finished().await;
    }
    let (left, mut right) = channel::<u8, u8>(&near, &far).await;
    left.send(2).await.unwrap();
    assert_eq!(right.recv().await.unwrap(), Some(2));
}

#[tokio::test]
async fn a_callback_that_is_cancelled_in_its_last_message_has_not_consumed_it() {
    let (near, far) = connect(small()).await;
    let (left, right) = channel::<u8, u8>(&near, &far).await;
    for number in 0..3 {
        left.send(number).await.unwrap();
    }
    left.close_sending();
    let (called, mut calls) = tokio::sync::mpsc::unbounded_channel();
    let (_keep, receiver) = right.split();
    let callback = receiver.on_message(move |delivery| {
        let called = called.clone();
        async move {
            if let Delivery::Message(2) = delivery {
                called.send(()).unwrap();
                std::future::pending::<()>().await;
            }
            Ok::<(), &str>(())
        }
    });
    calls.recv().await.unwrap();
    callback.cancel();
    assert_eq!(unconsumed(left.wait_closed().await), (1, None));
}

#[tokio::test]
async fn a_message_that_was_only_looked_at_is_not_consumed() {
    let (near, far) = connect(small()).await;
    for close in [false, true] {
        let (left, mut right) = channel::<u8, u8>(&near, &far).await;
        left.send(0).await.unwrap();
        left.send(1).await.unwrap();
        left.close_sending();
        assert_eq!(right.recv().await.unwrap(), Some(0));
        assert_eq!(right.peek().await.unwrap(), Some(&1));
        if close {
            right.close();
        } else {
            drop(right);
        }
        assert_eq!(unconsumed(left.wait_closed().await), (1, None));
    }
    // Taken after all, it is consumed.
    let (left, mut right) = channel::<u8, u8>(&near, &far).await;
    left.send(1).await.unwrap();
    left.close_sending();
    assert_eq!(right.peek().await.unwrap(), Some(&1));
    assert_eq!(right.recv().await.unwrap(), Some(1));
    drop(right);
    left.wait_closed().await.unwrap();
}

#[tokio::test]
async fn a_message_that_was_partly_read_is_not_consumed() {
    let (near, far) = connect(small()).await;
    for (read, lost) in [(3, 1), (5, 0)] {
        let (left, right) = support::raw(&near, &far).await;
        left.send("bytes".into()).await.unwrap();
        left.close_sending();
        let mut right = right.into_stream();
        right.read_exact(&mut vec![0; read]).await.unwrap();
        drop(right);
        match left.wait_closed().await {
            Ok(()) => assert_eq!(lost, 0),
            stopped => assert_eq!(unconsumed(stopped), (lost, None)),
        }
    }
}
