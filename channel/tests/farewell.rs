//! Whoever ends a connection with a reason is heard, also when bytes are stuck on their way.

mod support;

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use bytes::Bytes;
use farcall_channel::frame::{Frame, HELLO_LEN};
use farcall_channel::{Channel, Config, Connection, ConnectionError, Options, Raw, Role};
use support::raw::{connection_over, encode, hello};
use support::{connect, raw};
use tokio::io::{AsyncReadExt, AsyncWrite, AsyncWriteExt, DuplexStream};
use tokio::sync::Notify;

/// Waits for what would otherwise wait for ever.
async fn finishes<F: Future>(future: F) -> F::Output {
    tokio::time::timeout(Duration::from_secs(60), future).await.expect("it never ends")
}

/// A byte stream that can break.
struct Breaking<W> {
    inner: W,
    broken: Arc<AtomicBool>,
    failed: Arc<Notify>,
}

impl<W: AsyncWrite + Unpin> AsyncWrite for Breaking<W> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        if self.broken.load(Ordering::Relaxed) {
            self.failed.notify_one();
            return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into()));
        }
        Pin::new(&mut self.inner).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_shutdown(cx)
    }
}

/// A connection with a channel, whose peer is the test itself, after a write has failed.
async fn broken(answers: bool) -> (Connection, Channel<Bytes, Bytes, Raw>, DuplexStream) {
    let config = Config::default();
    let (near, mut far) = tokio::io::duplex(1 << 20);
    let (reader, inner) = tokio::io::split(near);
    let (broken, failed) = (Arc::new(AtomicBool::new(false)), Arc::new(Notify::new()));
    let writer = Breaking { inner, broken: broken.clone(), failed: failed.clone() };
    let start = tokio::spawn(Connection::start(reader, writer, Role::Coordinator, Options::default()));
    let mut greeting = Vec::new();
    hello(&config).encode(&mut greeting);
    far.write_all(&greeting).await.unwrap();
    let connection = start.await.unwrap().unwrap();
    let mut channel = connection.open_with::<Bytes, Bytes, Raw>("").await.unwrap();
    far.read_exact(&mut [0; HELLO_LEN + 12]).await.unwrap();
    if answers {
        // Who answers may write by itself.
        far.write_all(&encode(Frame::Data { id: 1, payload: b"?" })).await.unwrap();
        channel.recv().await.unwrap();
    }
    broken.store(true, Ordering::Relaxed);
    channel.send("!".into()).await.unwrap();
    finishes(failed.notified()).await;
    (connection, channel, far)
}

#[tokio::test]
async fn the_peers_reason_counts_more_than_a_write_that_failed() {
    for answers in [false, true] {
        let (connection, mut channel, mut far) = broken(answers).await;
        far.write_all(&encode(Frame::Data { id: 1, payload: b"last" })).await.unwrap();
        assert_eq!(channel.recv().await.unwrap(), Some("last".into()), "what came is delivered");
        assert!(connection.cause().is_none());
        far.write_all(&encode(Frame::GoAway { last: 0, error: true, text: b"overloaded" })).await.unwrap();
        match finishes(connection.ended()).await {
            ConnectionError::AbortedByPeer { reason } => assert_eq!(&*reason, "overloaded"),
            other => panic!("{other}"),
        }
    }
}

#[tokio::test]
async fn a_write_that_failed_ends_the_connection_when_the_peer_gives_no_reason() {
    // It goes, which the end of its stream says better; it falls silent; it goes on for ever.
    let (connection, _channel, far) = broken(false).await;
    drop(far);
    assert!(matches!(finishes(connection.ended()).await, ConnectionError::Eof));

    let (connection, _channel, _far) = broken(false).await;
    assert!(matches!(finishes(connection.ended()).await, ConnectionError::Io(_)));

    let (connection, _channel, mut far) = broken(false).await;
    let ping = encode(Frame::Ping { ack: false, token: 1 });
    let flooding = async { while far.write_all(&ping).await.is_ok() {} };
    let began = Instant::now();
    let (cause, ()) = finishes(async { tokio::join!(connection.ended(), flooding) }).await;
    assert!(matches!(cause, ConnectionError::Io(_)), "{cause}");
    // The limit is 2 s; the machine may be busy.
    assert!(began.elapsed() < Duration::from_secs(20));
}

/// Sends until nothing more goes, over a byte stream that nobody reads.
async fn stuck() -> (Connection, DuplexStream) {
    let config = Config { initial_window: 1 << 20, ..Config::default() };
    let (connection, mut far) = connection_over(4096, config).await;
    let channel = connection.open_with::<Bytes, Bytes, Raw>("").await.unwrap();
    channel.send(vec![7; 50_000].into()).await.unwrap();
    // Until some of it is in the stream, and so the rest is stuck.
    far.read_exact(&mut [0; 100]).await.unwrap();
    (connection, far)
}

#[tokio::test]
async fn a_reason_is_told_after_what_was_stuck() {
    let (connection, mut far) = stuck().await;
    connection.abort("enough");
    let mut bytes = Vec::new();
    finishes(far.read_to_end(&mut bytes)).await.unwrap();
    let mut expected = Vec::new();
    Frame::GoAway { last: 0, error: true, text: b"enough" }.encode(&mut expected);
    assert!(bytes.len() > 50_000 - 100, "what was begun is finished");
    assert!(bytes.ends_with(&expected));
}

#[tokio::test]
async fn a_peer_that_never_reads_is_not_waited_for() {
    let (connection, mut far) = stuck().await;
    connection.abort("enough");
    // The stream is let go of, although nobody has read it.
    finishes(async { while far.write_all(&[0; 100]).await.is_ok() {} }).await;
}

#[tokio::test]
async fn a_reason_reaches_the_peer_while_both_send_all_they_can() {
    for _ in 0..20 {
        let (near, far) = connect(Config::default()).await;
        let (left, right) = raw(&near, &far).await;
        let mut senders = tokio::task::JoinSet::new();
        let mut receivers = Vec::new();
        for channel in [left, right] {
            let (sender, mut receiver) = channel.split();
            senders.spawn(async move { while sender.send(vec![7; 30_000].into()).await.is_ok() {} });
            // Slower than they come.
            receivers.push(tokio::spawn(async move {
                while let Ok(Some(_)) = receiver.recv().await {
                    tokio::task::yield_now().await;
                }
            }));
        }
        while near.counters().bytes_received < 200_000 {
            tokio::task::yield_now().await;
        }
        near.abort("enough");
        match finishes(far.ended()).await {
            ConnectionError::AbortedByPeer { reason } => assert_eq!(&*reason, "enough"),
            other => panic!("{other}"),
        }
        finishes(senders.join_all()).await;
        for receiver in receivers {
            finishes(receiver).await.unwrap();
        }
    }
}
