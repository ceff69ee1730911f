//! Model checks of the lock and the wakers around it: every order in which threads can meet there, up to a few preemptions.
//!
//! A lost wake-up shows as a deadlock, which the checker reports. `tests/run` has the command.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, Waker};
use std::time::Instant;

use bytes::{Buf, Bytes};
use loom::future::block_on;
use loom::thread;
use tokio::io::AsyncWrite;

use crate::codec::Raw;
use crate::driver::{Parting, Shared, Wakes, Writer, receive, write_loop};
use crate::error::{ClosedError, RecvError, SendError};
use crate::frame::{Frame, Hello, Limits, VERSION};
use crate::mux::{Config, Key, Mux, Role, Transmit};
use crate::receiver::{Receiver, RecvEnd};
use crate::sender::{SendEnd, Sender};
use crate::sync::{Arc, Mutex};

/// Explores `check` with so many preemptions: those that go wrong need few.
fn explore(preemptions: usize, check: impl Fn() + Send + Sync + 'static) {
    let mut builder = loom::model::Builder::new();
    builder.preemption_bound = Some(preemptions);
    builder.check(check);
}

const WINDOW: u32 = 64;

fn encode(frame: Frame<'_>) -> Vec<u8> {
    let mut bytes = Vec::new();
    frame.encode(&mut bytes);
    bytes
}

/// A connection that has greeted, with one channel, which is announced.
fn connection() -> (Arc<Shared>, Key) {
    let now = Instant::now();
    let config = Config { initial_window: WINDOW, ..Config::default() };
    let mut mux = Mux::new(Role::Coordinator, config.clone(), now);
    let limits = Limits {
        max_channels: 1,
        initial_window: WINDOW,
        max_message: config.max_message,
        assembly_budget: config.assembly_budget,
    };
    let mut hello = Vec::new();
    Hello { version: VERSION, limits }.encode(&mut hello);
    mux.handle_bytes(now, &hello);
    let key = mux.open(true, true, Bytes::new()).expect("the connection is open");
    let mut out = Transmit::default();
    mux.poll_transmit(now, &mut out, usize::MAX);
    out.advance(out.remaining());
    while mux.poll_event().is_some() {}
    (Arc::new(Shared::new(mux)), key)
}

fn sender(shared: &Arc<Shared>, key: Key) -> Sender<Bytes, Raw> {
    Sender::new(SendEnd { shared: shared.clone(), key })
}

fn receiver(shared: &Arc<Shared>, key: Key) -> Receiver<Bytes, Raw> {
    Receiver::new(RecvEnd::new(shared.clone(), key))
}

fn message(len: u8) -> Bytes {
    vec![len; usize::from(len)].into()
}

/// What the reader loop does with these bytes.
fn arrive(shared: &Shared, bytes: &[u8]) {
    assert_eq!(receive(shared, bytes, &mut Wakes::default()), (bytes.len(), false));
}

/// A byte stream into memory, which can be slow.
#[derive(Clone)]
struct Sink(Arc<Mutex<Written>>);

#[derive(Default)]
struct Written {
    bytes: Vec<u8>,
    /// So many bytes more are taken now.
    room: usize,
    writer: Option<Waker>,
    watcher: Option<Waker>,
}

impl Sink {
    fn new(room: usize) -> Sink {
        Sink(Arc::new(Mutex::new(Written { room, ..Written::default() })))
    }

    /// Takes everything from now on.
    fn open(&self) {
        let mut written = self.0.lock().expect("nobody panics");
        written.room = usize::MAX;
        let writer = written.writer.take();
        drop(written);
        writer.into_iter().for_each(Waker::wake);
    }

    /// Waits until so many frames were written.
    fn wait_for(&self, frames: usize) {
        block_on(std::future::poll_fn(|cx| {
            let mut written = self.0.lock().expect("nobody panics");
            let mut rest = &written.bytes[..];
            let mut seen = 0;
            while let Some((_, len)) = Frame::decode(rest).expect("frames are written") {
                rest = &rest[len..];
                seen += 1;
            }
            if seen >= frames {
                return Poll::Ready(());
            }
            written.watcher = Some(cx.waker().clone());
            Poll::Pending
        }));
    }
}

impl AsyncWrite for Sink {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let mut written = self.0.lock().expect("nobody panics");
        let count = bytes.len().min(written.room);
        if count == 0 {
            written.writer = Some(cx.waker().clone());
            return Poll::Pending;
        }
        written.room -= count;
        written.bytes.extend_from_slice(&bytes[..count]);
        let watcher = written.watcher.take();
        drop(written);
        watcher.into_iter().for_each(Waker::wake);
        Poll::Ready(Ok(count))
    }

    fn poll_flush(self: Pin<&mut Self>, _cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

/// The writer loop on a thread of its own.
fn writing(shared: &Arc<Shared>, sink: &Sink) -> thread::JoinHandle<()> {
    let (shared, writer) = (shared.clone(), Writer::new(sink.clone(), None));
    thread::spawn(move || block_on(write_loop(shared, writer)))
}

fn abort(shared: &Shared) {
    shared.with(|state| state.mux.abort("done"));
}

#[test]
fn a_receiver_is_woken_by_what_arrives() {
    explore(3, || {
        let (shared, key) = connection();
        let mut receiver = receiver(&shared, key);
        let reading = thread::spawn(move || {
            arrive(&shared, &encode(Frame::Data { id: 1, payload: b"one" }));
            arrive(&shared, &encode(Frame::Data { id: 1, payload: b"two" }));
            arrive(&shared, &encode(Frame::Close { id: 1, error: None }));
        });
        block_on(async {
            assert_eq!(receiver.recv().await.expect("it came"), Some(Bytes::from("one")));
            assert_eq!(receiver.recv().await.expect("it came"), Some(Bytes::from("two")));
            assert_eq!(receiver.recv().await.expect("it ended"), None);
        });
        reading.join().expect("it does not panic");
    });
}

#[test]
fn a_receiver_is_woken_by_the_end_of_the_connection() {
    explore(3, || {
        let (shared, key) = connection();
        let mut receiver = receiver(&shared, key);
        let sender = sender(&shared, key);
        let closing = thread::spawn(move || block_on(sender.wait_closed()));
        let ending = thread::spawn(move || abort(&shared));
        assert!(matches!(block_on(receiver.recv()), Err(RecvError::Lost(_))));
        assert!(matches!(closing.join().expect("it does not panic"), Err(ClosedError::Lost(_))));
        ending.join().expect("it does not panic");
    });
}

#[test]
fn senders_that_wait_are_woken_by_credit() {
    explore(2, || {
        let (shared, key) = connection();
        let sink = Sink::new(usize::MAX);
        let writing = writing(&shared, &sink);
        let first = std::sync::Arc::new(sender(&shared, key));
        let second = first.clone();
        let reading = {
            let (shared, sink) = (shared.clone(), sink.clone());
            thread::spawn(move || {
                sink.wait_for(1);
                arrive(&shared, &encode(Frame::Credit { id: 1, credit: 52, window: WINDOW }));
            })
        };
        // Each takes more than half the window.
        let other = thread::spawn(move || block_on(second.send(message(40))).expect("there is room"));
        block_on(first.send(message(40))).expect("there is room");
        other.join().expect("it does not panic");
        reading.join().expect("it does not panic");
        sink.wait_for(2);
        abort(&shared);
        writing.join().expect("it does not panic");
    });
}

#[test]
fn a_sender_that_waits_is_woken_by_a_stop() {
    explore(3, || {
        let (shared, key) = connection();
        let sink = Sink::new(usize::MAX);
        let writing = writing(&shared, &sink);
        let sender = sender(&shared, key);
        let reading = {
            let shared = shared.clone();
            thread::spawn(move || {
                arrive(&shared, &encode(Frame::Reset { id: 1, consumed: 0, error: None }));
            })
        };
        // Longer than the window: announced, and then never to be sent.
        assert!(matches!(block_on(sender.send(message(200))), Err(SendError::Stopped(None))));
        reading.join().expect("it does not panic");
        abort(&shared);
        writing.join().expect("it does not panic");
    });
}

#[test]
fn everything_that_is_sent_is_written_by_the_loop_or_by_its_sender() {
    explore(3, || {
        let (shared, key) = connection();
        let sink = Sink::new(usize::MAX);
        let writing = writing(&shared, &sink);
        let sender = sender(&shared, key);
        let reading = {
            let shared = shared.clone();
            // An answer to this may be written by whoever sends it.
            thread::spawn(move || arrive(&shared, &encode(Frame::Data { id: 1, payload: b"?" })))
        };
        block_on(sender.send(message(1))).expect("there is room");
        block_on(sender.send(message(2))).expect("there is room");
        sink.wait_for(2);
        reading.join().expect("it does not panic");
        abort(&shared);
        writing.join().expect("it does not panic");
    });
}

#[test]
fn two_senders_and_the_loop_leave_nothing_unwritten() {
    explore(2, || {
        let (shared, key) = connection();
        let sink = Sink::new(usize::MAX);
        let writing = writing(&shared, &sink);
        let first = std::sync::Arc::new(sender(&shared, key));
        let second = first.clone();
        let other = thread::spawn(move || block_on(second.send(message(1))).expect("there is room"));
        block_on(first.send(message(2))).expect("there is room");
        sink.wait_for(2);
        other.join().expect("it does not panic");
        abort(&shared);
        writing.join().expect("it does not panic");
    });
}

#[test]
fn a_stream_that_takes_no_more_is_written_to_when_it_does() {
    explore(2, || {
        let (shared, key) = connection();
        let sink = Sink::new(5);
        let writing = writing(&shared, &sink);
        let sender = sender(&shared, key);
        let opening = {
            let sink = sink.clone();
            thread::spawn(move || sink.open())
        };
        block_on(sender.send(message(1))).expect("there is room");
        block_on(sender.send(message(2))).expect("there is room");
        sink.wait_for(2);
        opening.join().expect("it does not panic");
        abort(&shared);
        writing.join().expect("it does not panic");
    });
}

#[test]
fn a_writer_that_is_stuck_ends_with_the_connection() {
    explore(3, || {
        let (shared, key) = connection();
        let sink = Sink::new(5);
        let writing = writing(&shared, &sink);
        let sender = sender(&shared, key);
        let sending = thread::spawn(move || {
            // Taken, or too late.
            let _ = block_on(sender.send(message(1)));
        });
        abort(&shared);
        // What the reader does once the farewell has taken too long.
        drop(Parting(&shared));
        sending.join().expect("it does not panic");
        writing.join().expect("it does not panic");
    });
}

#[test]
fn ends_of_a_pair_wake_each_other() {
    explore(3, || {
        let (shared, _) = connection();
        let (near, far) = shared.with(|state| {
            let (near, far) = state.mux.pair(true, false);
            state.forget(near);
            state.forget(far);
            (near, far)
        });
        let (sender, mut receiver) = (sender(&shared, near), receiver(&shared, far));
        let sending = thread::spawn(move || {
            block_on(async {
                // Two of these do not fit the window.
                sender.send(message(40)).await.expect("there is room");
                sender.send(message(41)).await.expect("there is room");
                sender.close();
                sender.wait_closed().await
            })
        });
        block_on(async {
            assert_eq!(receiver.recv().await.expect("it came"), Some(message(40)));
            assert_eq!(receiver.recv().await.expect("it came"), Some(message(41)));
            assert_eq!(receiver.recv().await.expect("it ended"), None);
        });
        assert!(sending.join().expect("it does not panic").is_ok());
    });
}

#[test]
fn a_dropped_receiver_wakes_the_sender() {
    explore(3, || {
        let (shared, _) = connection();
        let (near, far) = shared.with(|state| {
            let (near, far) = state.mux.pair(true, false);
            state.forget(near);
            state.forget(far);
            (near, far)
        });
        let (sender, receiver) = (sender(&shared, near), receiver(&shared, far));
        let sending = thread::spawn(move || {
            block_on(async {
                let sent = async {
                    sender.send(message(40)).await?;
                    sender.send(message(41)).await
                };
                assert!(matches!(sent.await, Err(SendError::Stopped(None))));
            });
        });
        drop(receiver);
        sending.join().expect("it does not panic");
    });
}
