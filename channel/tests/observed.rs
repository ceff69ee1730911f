//! What a connection does can be seen: blocked time in counters, its steps as `tracing` events.

mod support;

use std::fmt::Write;
use std::pin::{Pin, pin};
use std::sync::{Arc, Mutex};
use std::task::{Context, Waker};
use std::time::Duration;

use farcall_channel::{Channel, Config, Connection, Options, Role};
use support::{channel, connect, raw, small};
use tokio::io::{AsyncWrite, AsyncWriteExt};
use tracing::field::{Field, Visit};
use tracing::{Event, Level, Metadata, Subscriber, span};

/// Goes on with what waits, until this much time is counted.
async fn grows(mut go_on: impl FnMut(), count: impl Fn() -> Duration, past: Duration) -> Duration {
    let counting = async {
        while count() <= past {
            go_on();
            tokio::task::yield_now().await;
        }
        count()
    };
    tokio::time::timeout(Duration::from_secs(60), counting).await.expect("the time is not counted")
}

/// Fills the windows of both sides.
async fn fill(left: &Channel<u64, u64>) {
    for _ in 0..100 {
        while left.try_send(7).is_ok() {}
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn blocked_time_is_counted_while_a_send_waits_and_kept_when_it_gives_up() {
    let (near, far) = connect(small()).await;
    let (left, mut right) = channel::<u64, u64>(&near, &far).await;
    let (other, _other_far) = channel::<u64, u64>(&near, &far).await;
    fill(&left).await;
    assert_eq!(left.sender().blocked(), Duration::ZERO);
    assert_eq!(near.counters().blocked, Duration::ZERO);
    let mut cx = Context::from_waker(Waker::noop());
    let waited = {
        let mut sending = pin!(left.send(7));
        let mut go_on = || assert!(sending.as_mut().poll(&mut cx).is_pending());
        let waited = grows(&mut go_on, || left.sender().blocked(), Duration::from_millis(5)).await;
        grows(&mut go_on, || near.counters().blocked, waited).await
    };
    let kept = left.sender().blocked();
    assert!(kept >= waited);
    // Nobody waits for room: who waits for the end does not count.
    let mut closed = pin!(left.wait_closed());
    assert!(closed.as_mut().poll(&mut cx).is_pending());
    tokio::task::yield_now().await;
    assert_eq!(left.sender().blocked(), kept);
    assert_eq!(near.counters().blocked, kept);
    assert_eq!(other.sender().blocked(), Duration::ZERO);
    assert_eq!(far.counters().blocked, Duration::ZERO);
    // A send that is let in counts no further.
    let sending = async {
        left.send(8).await.unwrap();
        left.close_sending();
    };
    let receiving = async { while right.recv().await.unwrap().is_some() {} };
    tokio::join!(sending, receiving);
    let kept = left.sender().blocked();
    assert_eq!(left.sender().blocked(), kept);
    assert_eq!(near.counters().blocked, kept);
}

#[tokio::test]
async fn blocked_time_of_byte_streams_counts_too() {
    let (near, far) = connect(small()).await;
    let (left, _right) = raw(&near, &far).await;
    let mut stream = left.into_stream();
    let mut cx = Context::from_waker(Waker::noop());
    let go_on = || while Pin::new(&mut stream).poll_write(&mut cx, &[7; 100]).is_ready() {};
    grows(go_on, || near.counters().blocked, Duration::from_millis(2)).await;
    drop(stream);
    let kept = near.counters().blocked;
    assert_eq!(near.counters().blocked, kept);
}

/// Notes events down to a level.
struct Notes {
    level: Level,
    lines: Arc<Mutex<Vec<String>>>,
}

struct Line(String);

impl Visit for Line {
    fn record_debug(&mut self, field: &Field, value: &dyn std::fmt::Debug) {
        match field.name() {
            "message" => self.0.insert_str(0, &format!("{value:?}")),
            name => write!(self.0, " {name}={value:?}").unwrap(),
        }
    }
}

impl Subscriber for Notes {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        *metadata.level() <= self.level && metadata.target().starts_with("farcall_channel")
    }

    fn new_span(&self, _: &span::Attributes<'_>) -> span::Id {
        span::Id::from_u64(1)
    }

    fn record(&self, _: &span::Id, _: &span::Record<'_>) {}

    fn record_follows_from(&self, _: &span::Id, _: &span::Id) {}

    fn event(&self, event: &Event<'_>) {
        let mut line = Line(String::new());
        event.record(&mut line);
        self.lines.lock().unwrap().push(line.0);
    }

    fn enter(&self, _: &span::Id) {}

    fn exit(&self, _: &span::Id) {}
}

fn noting(level: Level) -> (tracing::subscriber::DefaultGuard, Arc<Mutex<Vec<String>>>) {
    let lines = Arc::new(Mutex::new(Vec::new()));
    let guard = tracing::subscriber::set_default(Notes { level, lines: lines.clone() });
    (guard, lines)
}

/// Waits for a line that holds all of these.
async fn noted(lines: &Mutex<Vec<String>>, parts: &[&str]) -> String {
    let noted = async {
        loop {
            let found = lines
                .lock()
                .unwrap()
                .iter()
                .find(|line| parts.iter().all(|part| line.contains(part)))
                .cloned();
            if let Some(line) = found {
                return line;
            }
            tokio::task::yield_now().await;
        }
    };
    let noted = tokio::time::timeout(Duration::from_secs(60), noted).await;
    noted.unwrap_or_else(|_| panic!("no {parts:?} in {:#?}", lines.lock().unwrap()))
}

#[tokio::test]
async fn channels_and_connections_are_told_of_and_messages_are_not() {
    let (_guard, lines) = noting(Level::DEBUG);
    let (near, far) = connect(Config::default()).await;
    let (left, mut right) = channel::<u8, u8>(&near, &far).await;
    noted(&lines, &["channel opened", "channel=1", "ours=true"]).await;
    noted(&lines, &["channel opened", "channel=1", "ours=false"]).await;
    for number in 0..100 {
        left.send(number).await.unwrap();
        right.recv().await.unwrap();
    }
    assert_eq!(lines.lock().unwrap().len(), 2, "nothing for each message");
    drop((left, right));
    noted(&lines, &["channel ended", "channel=1", "messages_sent=100", "messages_received=0"]).await;
    noted(&lines, &["channel ended", "channel=1", "messages_sent=0", "messages_received=100"]).await;
    let (_left, _right) = channel::<u8, u8>(&near, &far).await;
    near.abort("over");
    far.ended().await;
    noted(&lines, &["connection ended", "cause=the connection was ended: over", "messages_sent=100"]).await;
    noted(
        &lines,
        &["connection ended", "cause=the peer ended the connection: over", "messages_received=100"],
    )
    .await;
    noted(&lines, &["channel ended", "channel=3"]).await;
    let ends = lines.lock().unwrap().iter().filter(|line| line.starts_with("connection ended")).count();
    assert_eq!(ends, 2, "once for each side");
}

#[tokio::test]
async fn a_handshake_that_fails_is_told_of_with_its_cause() {
    let (_guard, lines) = noting(Level::DEBUG);
    let (near, mut far) = tokio::io::duplex(4096);
    let (reader, writer) = tokio::io::split(near);
    far.write_all(b"sh: farcall: command not found, and more than a greeting's length\n").await.unwrap();
    Connection::start(reader, writer, Role::Coordinator, Options::default()).await.unwrap_err();
    noted(&lines, &["handshake failed", "cause=the peer broke the protocol"]).await;
    let (near, _far) = tokio::io::duplex(4096);
    let (reader, writer) = tokio::io::split(near);
    let options = Options { handshake_limit: Duration::from_millis(20), ..Options::default() };
    Connection::start(reader, writer, Role::Coordinator, options).await.unwrap_err();
    noted(&lines, &["handshake failed", "cause=the peer did not greet"]).await;
}

#[tokio::test]
async fn each_frame_is_told_of_at_the_finest_level() {
    let (_guard, lines) = noting(Level::TRACE);
    let (near, far) = connect(Config::default()).await;
    let (left, mut right) = channel::<u8, u8>(&near, &far).await;
    left.send(1).await.unwrap();
    right.recv().await.unwrap();
    for sent in ["sent=true", "sent=false"] {
        for kind in ["HELLO", "OPEN", "DATA"] {
            noted(&lines, &["frame", sent, &format!("kind={kind:?}")]).await;
        }
    }
}
