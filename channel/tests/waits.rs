//! A wait that is dropped leaves nothing behind, and one that goes on is woken.

mod support;

use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll, Wake, Waker};
use std::time::Duration;

use bytes::Bytes;
use farcall_channel::Sender;
use futures_sink::Sink;
use support::{channel, connect, raw, small};
use tokio::io::AsyncWrite;

/// Counts how often it was woken.
#[derive(Default)]
struct Counting(AtomicUsize);

impl Wake for Counting {
    fn wake(self: Arc<Self>) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }
}

/// Polls futures that wait, each with a waker of its own, drops them, and sees that the wakers are dropped, too.
#[track_caller]
fn leaves_nothing<F: Future>(what: &str, make: impl Fn() -> F) {
    let waits: Vec<_> = (0..100)
        .map(|_| {
            let counting = Arc::new(Counting::default());
            let mut future = Box::pin(make());
            // A send may let others run first.
            for _ in 0..2 {
                let waker = Waker::from(counting.clone());
                assert!(future.as_mut().poll(&mut Context::from_waker(&waker)).is_pending(), "{what} waits");
            }
            assert!(Arc::strong_count(&counting) > 1, "{what} has a waker");
            (future, counting)
        })
        .collect();
    // Not in the order in which they came.
    let (odd, even): (Vec<_>, Vec<_>) = waits.into_iter().enumerate().partition(|(index, _)| index % 2 == 1);
    for (_, (future, counting)) in odd.into_iter().chain(even) {
        drop(future);
        assert_eq!(Arc::strong_count(&counting), 1, "the waker of {what} is gone");
    }
}

#[tokio::test]
async fn a_hundred_thousand_dropped_waits_leave_no_waker() {
    let (near, far) = connect(small()).await;
    let (left, _right) = channel::<String, u8>(&near, &far).await;
    while left.try_send("x".repeat(50)).is_ok() {}
    let mut kept = Vec::new();
    for _ in 1..small().max_channels {
        kept.push(near.open::<u8, u8>("").await.unwrap());
    }
    // On a thread without a runtime, which would keep wakers of its own.
    std::thread::scope(|scope| {
        scope.spawn(|| {
            for _ in 0..170 {
                leaves_nothing("ended", || near.ended());
                leaves_nothing("accept", || near.accept());
                leaves_nothing("open", || near.open::<u8, u8>(""));
                leaves_nothing("send", || left.send("x".repeat(50)));
                leaves_nothing("a long send", || left.send("x".repeat(5000)));
                leaves_nothing("wait_closed", || left.wait_closed());
            }
        });
    });
}

#[tokio::test]
async fn a_dropped_receive_writer_or_sink_leaves_no_waker() {
    let (near, far) = connect(small()).await;
    let (mut left, right) = raw(&near, &far).await;
    let counting = Arc::new(Counting::default());
    let waker = Waker::from(counting.clone());
    let mut cx = Context::from_waker(&waker);
    for _ in 0..100 {
        assert!(pin!(left.recv()).poll(&mut cx).is_pending());
    }
    assert_eq!(Arc::strong_count(&counting), 2);
    {
        let (_sender, receiver) = left.split();
        let mut receiver = pin!(receiver);
        assert!(futures_core::Stream::poll_next(receiver.as_mut(), &mut cx).is_pending());
        assert_eq!(Arc::strong_count(&counting), 3, "a stream may be polled again");
    }
    assert_eq!(Arc::strong_count(&counting), 2);
    drop(right);

    let (left, _right) = raw(&near, &far).await;
    let mut stream = left.into_stream();
    while std::pin::Pin::new(&mut stream).poll_write(&mut cx, &[7; 100]).is_ready() {}
    for _ in 0..100 {
        assert!(std::pin::Pin::new(&mut stream).poll_write(&mut cx, &[7; 100]).is_pending());
    }
    assert_eq!(Arc::strong_count(&counting), 3);
    drop(stream);
    assert_eq!(Arc::strong_count(&counting), 2);

    let (left, _right) = raw(&near, &far).await;
    let mut sink = Box::pin(left.split().0.into_sink());
    while sink.as_mut().poll_ready(&mut cx).is_ready() {
        sink.as_mut().start_send(Bytes::from_static(&[7; 100])).unwrap();
    }
    assert_eq!(Arc::strong_count(&counting), 3);
    drop(sink);
    assert_eq!(Arc::strong_count(&counting), 2);
}

#[tokio::test]
async fn who_waits_with_a_handle_whose_end_leaves_is_woken() {
    let (near, far) = connect(small()).await;
    let (left, mut right) = channel::<support::Kept<u32>, u8>(&near, &far).await;
    let (sender, mut receiver) = near.pair::<u32>();
    let kept = Arc::new(sender);
    while kept.try_send(7).is_ok() {}
    let counting = Arc::new(Counting::default());
    let waker = Waker::from(counting.clone());
    let mut closed = pin!(kept.wait_closed());
    assert!(closed.as_mut().poll(&mut Context::from_waker(&waker)).is_pending());
    let mut sent = pin!(kept.send(8));
    assert!(sent.as_mut().poll(&mut Context::from_waker(&waker)).is_pending());
    left.send(support::Kept(kept.clone())).await.unwrap();
    assert_eq!(counting.0.load(Ordering::Relaxed), 2);
    assert!(matches!(closed.poll(&mut Context::from_waker(&waker)), Poll::Ready(Ok(()))));
    assert!(matches!(sent.poll(&mut Context::from_waker(&waker)), Poll::Ready(Err(_))));
    let there: Arc<Sender<u32>> = right.recv().await.unwrap().unwrap().0;
    let arrived = tokio::spawn(async move { while let Ok(Some(7)) = receiver.recv().await {} });
    drop(there);
    tokio::time::timeout(Duration::from_secs(60), arrived).await.expect("the channel ends").unwrap();
}
