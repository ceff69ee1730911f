//! What a slow, silent or blocked side may cost the others, and what it may not.

mod support;

use std::time::{Duration, Instant};

use bytes::{Buf, Bytes};
use farcall_channel::mux::{Mux, Transmit};
use farcall_channel::{
    Channel, Config, Connection, ConnectionError, DriverThread, Options, Raw, Role, TryRecvError,
    TrySendError,
};
use support::{channel, connect, raw, small};
use tokio::net::UnixStream;

#[tokio::test]
async fn two_sides_that_send_until_full_and_then_read_finish() {
    const EACH: u32 = 1_000_000;
    async fn side(mut channel: Channel<u32, u32>) {
        let (mut sent, mut received) = (0, 0);
        while sent < EACH || received < EACH {
            while sent < EACH {
                match channel.try_send(sent) {
                    Ok(()) => sent += 1,
                    Err(TrySendError::Full(_)) => break,
                    Err(error) => panic!("{error}"),
                }
            }
            if received < EACH {
                assert_eq!(channel.recv().await.unwrap(), Some(received));
                received += 1;
            } else {
                // Nothing more will come: wait for room as others do.
                channel.send(sent).await.unwrap();
                sent += 1;
            }
            while received < EACH {
                match channel.try_recv() {
                    Ok(Some(number)) => assert_eq!(number, received),
                    Err(TryRecvError::Empty) => break,
                    other => panic!("{other:?}"),
                }
                received += 1;
            }
        }
    }
    let (near, far) = connect(Config::default()).await;
    let (left, right) = channel::<u32, u32>(&near, &far).await;
    finishes(async { tokio::join!(side(left), side(right)) }).await;
}

/// Waits for what would otherwise wait for ever.
async fn finishes<F: Future>(future: F) -> F::Output {
    tokio::time::timeout(Duration::from_secs(120), future).await.expect("a deadlock")
}

#[tokio::test]
async fn who_never_reads_costs_one_window_on_each_side_and_nobody_else_anything() {
    let config = small();
    let (near, far) = connect(config.clone()).await;
    let (stalled, unread) = channel::<u64, u64>(&near, &far).await;
    let (busy, mut busy_far) = channel::<u64, u64>(&near, &far).await;
    let filling = tokio::spawn(async move {
        for number in 0.. {
            if stalled.send(number).await.is_err() {
                return number;
            }
        }
        0
    });
    let window = u64::from(config.initial_window);
    let sending = tokio::spawn(async move {
        for number in 0..20_000 {
            busy.send(number).await.unwrap();
        }
        busy
    });
    for number in 0..20_000 {
        assert_eq!(busy_far.recv().await.unwrap(), Some(number));
        // The other channel's own share comes on top.
        assert!(near.held().0 <= window + u64::from(config.max_window), "{:?}", near.held());
        assert!(far.held().0 <= window + u64::from(config.max_window), "{:?}", far.held());
    }
    let busy = sending.await.unwrap();
    assert!(!filling.is_finished(), "it waits");
    assert!(near.held().0 <= window && far.held().0 <= window, "{:?} {:?}", near.held(), far.held());
    drop((unread, busy));
    let sent = filling.await.unwrap();
    assert!(sent * 13 <= 2 * window, "{sent} messages in two windows");
}

/// Limits in which one of the longest messages takes all there is.
fn tight() -> Config {
    Config { max_message: 50_000, assembly_budget: 50_000, ..small() }
}

/// Channels on which a message of the greatest length waits to be received.
async fn long_ones(near: &Connection, far: &Connection, count: usize) -> Vec<Channel<Bytes, Bytes, Raw>> {
    let mut receivers = Vec::new();
    for _ in 0..count {
        let (left, right) = raw(near, far).await;
        tokio::spawn(async move {
            left.send(vec![7; 50_000].into()).await.unwrap();
        });
        receivers.push(right);
    }
    receivers
}

#[tokio::test]
async fn long_messages_are_received_one_after_another_by_one_who_goes_back_to_none() {
    let (near, far) = connect(tight()).await;
    let mut channels = long_ones(&near, &far, 5).await;
    for channel in &mut channels {
        assert_eq!(finishes(channel.recv()).await.unwrap().unwrap().len(), 50_000);
    }
}

#[tokio::test]
async fn who_gave_up_receiving_does_not_keep_the_room_for_long_messages() {
    let (near, far) = connect(tight()).await;
    let mut channels = long_ones(&near, &far, 3).await;
    let (first, rest) = channels.split_first_mut().unwrap();
    // The first takes the room and hands it on while two wait in line, of whom one gives up.
    let (second, third) = rest.split_at_mut(1);
    let mut receiving = Box::pin(first.recv());
    assert!(poll_once(receiving.as_mut()).is_none());
    let mut fickle = Box::pin(second[0].recv());
    assert!(poll_once(fickle.as_mut()).is_none());
    drop(fickle);
    let mut patient = Box::pin(third[0].recv());
    assert!(poll_once(patient.as_mut()).is_none());
    assert_eq!(finishes(receiving).await.unwrap().unwrap().len(), 50_000);
    assert_eq!(finishes(patient).await.unwrap().unwrap().len(), 50_000);
}

fn poll_once<F: Future + ?Sized>(future: std::pin::Pin<&mut F>) -> Option<F::Output> {
    match future.poll(&mut std::task::Context::from_waker(std::task::Waker::noop())) {
        std::task::Poll::Ready(output) => Some(output),
        std::task::Poll::Pending => None,
    }
}

// ---- time ----

const LEASE: Duration = Duration::from_millis(1000);

fn lively() -> Config {
    Config { heartbeat: LEASE / 5, lease: LEASE, ..Config::default() }
}

/// One end of a socket, driven by a thread of its own.
async fn driven(driver: &DriverThread, socket: std::os::unix::net::UnixStream, role: Role) -> Connection {
    socket.set_nonblocking(true).unwrap();
    let (reader, writer) = driver.enter(|| UnixStream::from_std(socket).unwrap().into_split());
    let options = Options { config: lively(), driver: Some(driver.handle().clone()), ..Options::default() };
    Connection::start(reader, writer, role, options).await.unwrap()
}

fn current_thread() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap()
}

#[test]
fn user_code_that_blocks_for_three_leases_on_either_side_loses_nothing() {
    const MESSAGES: u32 = 20_000;
    let (near, far) = std::os::unix::net::UnixStream::pair().unwrap();
    let far_side = std::thread::spawn(move || {
        let driver = DriverThread::start("far").unwrap();
        current_thread().block_on(async {
            let connection = driven(&driver, far, Role::Worker).await;
            let mut channel = connection.accept().await.unwrap().accept::<u32, u32>();
            let mut sum = 0;
            for number in 0..MESSAGES {
                assert_eq!(channel.recv().await.unwrap(), Some(number));
                sum += number % 7;
            }
            channel.send(sum).await.unwrap();
            // The near side is blocked now.
            for number in 0..MESSAGES {
                channel.send(number).await.unwrap();
            }
            channel.close_sending();
            channel.wait_closed().await.unwrap();
            std::thread::sleep(3 * LEASE);
            assert_eq!(channel.recv().await.unwrap(), Some(7));
            assert_eq!(channel.recv().await.unwrap(), None);
            drop(channel);
            connection.ended().await
        })
    });
    let driver = DriverThread::start("near").unwrap();
    let cause = current_thread().block_on(async {
        let connection = driven(&driver, near, Role::Coordinator).await;
        let mut channel = connection.open::<u32, u32>("work").await.unwrap();
        for number in 0..MESSAGES {
            channel.send(number).await.unwrap();
        }
        let sum = channel.recv().await.unwrap().unwrap();
        assert_eq!(sum, (0..MESSAGES).map(|number| number % 7).sum());
        std::thread::sleep(3 * LEASE);
        for number in 0..MESSAGES {
            assert_eq!(channel.recv().await.unwrap(), Some(number));
        }
        assert_eq!(channel.recv().await.unwrap(), None);
        // The far side is blocked now.
        channel.send(7).await.unwrap();
        channel.close_sending();
        channel.wait_closed().await.unwrap();
        drop(channel);
        connection.close().await
    });
    assert!(cause.is_orderly(), "{cause}");
    let cause = far_side.join().unwrap();
    assert!(cause.is_orderly(), "{cause}");
}

#[tokio::test]
async fn a_peer_that_falls_silent_is_lost_within_the_lease() {
    let (connection, far) = support::raw::connection(lively()).await;
    let mut channel = connection.open::<u32, u32>("anybody").await.unwrap();
    let began = Instant::now();
    let cause = connection.ended().await;
    let took = began.elapsed();
    match cause {
        ConnectionError::Silent { after } => assert!(after >= LEASE && after < 5 * LEASE, "{after:?}"),
        other => panic!("{other}"),
    }
    assert!(took < 5 * LEASE, "{took:?}");
    assert!(channel.recv().await.is_err() && channel.send(1).await.is_err());
    // Its stream was open all the time.
    drop(far);
}

/// Two sides in virtual time.
struct Pair {
    sides: [Mux; 2],
    now: Instant,
}

impl Pair {
    fn new() -> Pair {
        let now = Instant::now();
        let mut pair =
            Pair { sides: [Role::Coordinator, Role::Worker].map(|role| Mux::new(role, lively(), now)), now };
        pair.exchange();
        assert!(pair.sides.iter().all(Mux::is_ready));
        pair
    }

    fn exchange(&mut self) {
        let mut out = Transmit::default();
        for from in [0, 1, 0, 1] {
            let (now, [left, right]) = (self.now, &mut self.sides);
            let (from, to) = if from == 0 { (left, right) } else { (right, left) };
            if from.wants_transmit() {
                from.poll_transmit(now, &mut out, usize::MAX);
                let bytes = out.copy_to_bytes(out.remaining());
                assert_eq!(to.handle_bytes(now, &bytes), bytes.len());
            }
        }
    }

    /// Time passes, and only the sides that are not stopped notice.
    fn pass(&mut self, time: Duration, stopped: Option<usize>) {
        let end = self.now + time;
        while self.now < end {
            self.now += LEASE / 20;
            for (number, side) in self.sides.iter_mut().enumerate() {
                if stopped != Some(number) && side.poll_timeout().is_some_and(|deadline| deadline <= self.now)
                {
                    side.handle_timeout(self.now);
                }
            }
            if stopped.is_none() {
                self.exchange();
            }
        }
    }
}

#[test]
fn a_side_that_is_stopped_and_continued_within_the_lease_loses_nothing() {
    for stopped in [0, 1] {
        let mut pair = Pair::new();
        pair.pass(3 * LEASE, None);
        pair.pass(LEASE * 7 / 10, Some(stopped));
        // It wakes, and its timer may come before its input.
        let now = pair.now;
        pair.sides[stopped].handle_timeout(now);
        pair.pass(3 * LEASE, None);
        assert!(pair.sides.iter().all(|side| side.cause().is_none()), "side {stopped} was stopped");
    }
}

#[test]
fn a_side_that_is_stopped_for_longer_is_lost_to_the_other_and_hears_of_it_first() {
    for stopped in [0, 1] {
        let mut pair = Pair::new();
        pair.pass(3 * LEASE, Some(stopped));
        assert!(matches!(pair.sides[1 - stopped].cause(), Some(ConnectionError::Silent { .. })));
        // What it wakes up to is the end of the stream, not its own timer.
        let now = pair.now;
        pair.sides[stopped].handle_timeout(now);
        assert!(pair.sides[stopped].cause().is_none());
        pair.sides[stopped].handle_eof();
        assert!(matches!(pair.sides[stopped].cause(), Some(ConnectionError::Eof)));
    }
}

#[tokio::test]
async fn a_long_message_that_waits_for_channels_does_not_keep_the_room_for_others() {
    // One channel for the ends that travel, taken by the first; one for each of the others.
    let config = Config { max_channels: 3, ..tight() };
    let (near, far) = connect(config).await;
    let (left, mut right) = channel::<(Vec<u8>, farcall_channel::Sender<u8>), u8>(&near, &far).await;
    let (plain, mut plain_far) = raw(&near, &far).await;
    let (first, _receives_first) = near.pair::<u8>();
    let (second, _receives_second) = near.pair::<u8>();
    let small_one = left.send((Vec::new(), first));
    small_one.await.unwrap();
    let (_, taken) = right.recv().await.unwrap().unwrap();

    // All channels are taken: this one waits for one of them to end.
    let waiting = tokio::spawn(async move { left.send((vec![1; 20_000], second)).await });
    let receiving = tokio::spawn(async move { right.recv().await });
    let sending = tokio::spawn(async move { plain.send(vec![7; 50_000].into()).await });
    assert_eq!(finishes(plain_far.recv()).await.unwrap().unwrap().len(), 50_000);
    sending.await.unwrap().unwrap();
    assert!(!waiting.is_finished());
    drop((taken, _receives_first));
    finishes(waiting).await.unwrap().unwrap();
    assert!(finishes(receiving).await.unwrap().unwrap().is_some());
}
