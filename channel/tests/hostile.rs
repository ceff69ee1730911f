//! Whatever a peer sends ends in a typed error for its connection, or is absorbed; memory stays within the bound.

mod support;

use std::time::Duration;

use farcall_channel::frame::{Carried, Frame, FrameError, HELLO_LEN, Hello, VERSION};
use farcall_channel::mux::{Config, Queue, Taken};
use farcall_channel::{
    Channel, CodecError, Connection, ConnectionError, HandshakeError, Options, RecvError, Role, SendError,
    Value, Violation,
};
use support::raw::{Victim, any_frame, config, connection, encode, frames, hello, open};
use support::small;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

/// These frames, of which the last is too much.
#[track_caller]
fn refused(frames: &[Frame<'_>], expected: Violation) {
    let bytes: Vec<u8> = frames.iter().flat_map(|frame| encode(*frame)).collect();
    refused_bytes(&bytes, &expected);
}

#[track_caller]
fn refused_bytes(bytes: &[u8], expected: &Violation) {
    let mut victim = Victim::new(&config());
    victim.feed_bytes(bytes);
    victim.accuses(expected);
    assert_eq!(victim.mux.channels(), 0, "nobody has a handle");
    // Whatever comes after is nobody's business.
    victim.feed_bytes(b"and so on");
    assert!(!victim.mux.wants_transmit());
    // Cut into single bytes it is the same.
    let mut victim = Victim::new(&config());
    let mut rest = Vec::new();
    for byte in bytes {
        rest.push(*byte);
        let used = victim.mux.handle_bytes(victim.now, &rest);
        rest.drain(..used);
    }
    victim.accuses(expected);
}

const CHANNEL: Frame<'static> =
    Frame::Open { id: 1, sends: true, receives: true, window: 256, carried: None, request: b"" };
const CLOSE: Frame<'static> = Frame::Close { id: 1, error: None };

#[test]
fn bytes_that_are_no_frame() {
    let refused = |kind, flags, id, payload: &[u8], expected| {
        refused_bytes(&any_frame(kind, flags, id, payload), &Violation::Frame(expected));
    };
    refused(0, 0, 1, b"", FrameError::Kind(0));
    refused(12, 0, 1, b"", FrameError::Kind(12));
    refused(255, 255, u64::MAX, b"text", FrameError::Kind(255));
    refused(2, 1, 1, b"", FrameError::Flags { kind: 2, flags: 1 });
    refused(9, 2, 0, &[0; 8], FrameError::Flags { kind: 9, flags: 2 });
    refused(2, 0, 0, b"", FrameError::Channel { kind: 2, id: 0 });
    refused(9, 0, 1, &[0; 8], FrameError::Channel { kind: 9, id: 1 });
    refused(1, 3, 1, &[0; 4 + 1025], FrameError::Length { kind: 1, len: 1025 });
    refused(7, 1, 1, &[0; 8193], FrameError::Length { kind: 7, len: 8193 });
    refused(6, 0, 1, &[0; 7], FrameError::Length { kind: 6, len: 3 });
}

#[test]
fn channels_that_were_never_opened_or_opened_out_of_order() {
    let data = |id| Frame::Data { id, payload: b"" };
    refused(&[data(1)], Violation::UnknownChannel { id: 1 });
    refused(&[CHANNEL, data(3)], Violation::UnknownChannel { id: 3 });
    refused(&[data(2)], Violation::UnknownChannel { id: 2 });
    for frame in [
        Frame::First { id: 9, total: 1, payload: b"" },
        Frame::Next { id: 9, payload: b"x" },
        Frame::Withdraw { id: 9, credit: 0 },
        Frame::Credit { id: 9, credit: 0, window: 0 },
        Frame::Close { id: 9, error: None },
        Frame::Reset { id: 9, consumed: 0, error: None },
        Frame::Return { id: 9, carried: Carried { carrier: 9, message: 0, index: 0 } },
    ] {
        refused(&[frame], Violation::UnknownChannel { id: 9 });
    }
    refused(&[open(2, true, true)], Violation::OpenOrder { id: 2 });
    refused(&[open(3, true, true), open(1, true, true)], Violation::OpenOrder { id: 1 });
    refused(&[CHANNEL, CHANNEL], Violation::OpenOrder { id: 1 });
    refused(&[open(1, false, false)], Violation::OpenOrder { id: 1 });
    let opens: Vec<_> = (0..5).map(|number| open(2 * number + 1, true, true)).collect();
    refused(&opens, Violation::TooManyChannels { max: 4 });
}

#[test]
fn credit_that_cannot_be() {
    let window = (1 << 31) - 1;
    let credit = Violation::Credit { id: 1 };
    let open =
        |window| Frame::Open { id: 1, sends: true, receives: true, window, carried: None, request: b"" };
    refused(&[open(1 << 31)], credit.clone());
    refused(&[open(window), Frame::Credit { id: 1, credit: 1, window }], credit.clone());
    refused(&[CHANNEL, Frame::Credit { id: 1, credit: 1, window: 1 << 31 }], credit.clone());
    refused(&[CHANNEL, Frame::Credit { id: 1, credit: u32::MAX, window: 256 }], credit.clone());
    refused(
        &[support::raw::open(1, true, false), Frame::Credit { id: 1, credit: 0, window: 0 }],
        credit.clone(),
    );
    refused(&[CHANNEL, Frame::Withdraw { id: 1, credit: 257 }], credit);
}

#[test]
fn messages_beyond_their_credit_or_limit() {
    let long = Violation::TooLong { id: 1, len: 1001, max: 1000 };
    refused(&[CHANNEL, Frame::Data { id: 1, payload: &[0; 1001] }], long.clone());
    refused(&[CHANNEL, Frame::First { id: 1, total: 1001, payload: b"" }], long);
    let overrun = Violation::Overrun { id: 1 };
    refused(&[CHANNEL, Frame::Data { id: 1, payload: &[0; 245] }], overrun.clone());
    let most = Frame::Data { id: 1, payload: &[0; 233] };
    refused(&[CHANNEL, most, Frame::Data { id: 1, payload: b"" }], overrun.clone());
    refused(&[CHANNEL, most, Frame::First { id: 1, total: 1, payload: b"" }], overrun.clone());
    refused(&[CHANNEL, Frame::First { id: 1, total: 900, payload: &[0; 245] }], overrun.clone());
    let first = Frame::First { id: 1, total: 900, payload: &[0; 244] };
    refused(&[CHANNEL, first, Frame::Next { id: 1, payload: b"x" }], overrun);
}

#[test]
fn parts_that_do_not_make_a_message() {
    let parts = Violation::Parts { id: 1 };
    let first = Frame::First { id: 1, total: 4, payload: b"a" };
    refused(&[CHANNEL, Frame::Next { id: 1, payload: b"x" }], parts.clone());
    refused(&[CHANNEL, Frame::First { id: 1, total: 0, payload: b"" }], parts.clone());
    refused(&[CHANNEL, Frame::First { id: 1, total: 1, payload: b"ab" }], parts.clone());
    refused(&[CHANNEL, first, first], parts.clone());
    refused(&[CHANNEL, first, Frame::Data { id: 1, payload: b"x" }], parts.clone());
    refused(&[CHANNEL, first, Frame::Next { id: 1, payload: b"abcd" }], parts.clone());
    let whole = Frame::Next { id: 1, payload: b"bcd" };
    refused(&[CHANNEL, first, whole, whole], parts.clone());
    refused(&[CHANNEL, first, Frame::Withdraw { id: 1, credit: 0 }], parts);
}

#[test]
fn frames_after_the_close_and_receipts_that_lie() {
    let after = Violation::AfterClose { id: 1 };
    for frame in [
        Frame::Data { id: 1, payload: b"" },
        Frame::First { id: 1, total: 1, payload: b"" },
        Frame::Next { id: 1, payload: b"x" },
        Frame::Withdraw { id: 1, credit: 0 },
        CLOSE,
    ] {
        refused(&[CHANNEL, CLOSE, frame], after.clone());
    }
    let receipt = Violation::Receipt { id: 1 };
    let reset = |consumed| Frame::Reset { id: 1, consumed, error: None };
    refused(&[CHANNEL, reset(1)], receipt.clone());
    refused(&[CHANNEL, reset(u64::MAX)], receipt.clone());
    refused(&[CHANNEL, reset(0), reset(0)], receipt.clone());
    refused(&[open(1, true, false), reset(0)], receipt);
}

#[test]
fn ends_that_travel_where_they_cannot() {
    let carried = |id, carrier, message| Frame::Open {
        id,
        sends: true,
        receives: true,
        window: 1,
        carried: Some(Carried { carrier, message, index: 0 }),
        request: b"",
    };
    refused(&[carried(1, 1, 0)], Violation::Travel { id: 1 });
    refused(&[carried(1, 7, 0)], Violation::UnknownChannel { id: 7 });
    refused(&[CHANNEL, CLOSE, carried(3, 1, 0)], Violation::Travel { id: 3 });
    let data = Frame::Data { id: 1, payload: b"" };
    refused(&[CHANNEL, data, carried(3, 1, 0)], Violation::Travel { id: 3 });
    let home = Frame::Return { id: 1, carried: Carried { carrier: 3, message: 0, index: 0 } };
    refused(&[CHANNEL, open(3, true, true), data, home], Violation::Travel { id: 1 });
    refused(&[CHANNEL, open(3, true, true), home, home], Violation::Travel { id: 1 });
}

#[test]
fn what_a_dead_channel_still_gets_is_ignored() {
    let mut victim = Victim::new(&config());
    victim.feed(CHANNEL);
    victim.feed(open(3, true, true));
    let (key, ..) = victim.mux.accept().unwrap();
    victim.mux.refuse(key, b"no");
    victim.said();
    victim.feed(Frame::Reset { id: 1, consumed: 0, error: None });
    for frame in [
        Frame::Data { id: 1, payload: &[0; 5000] },
        Frame::First { id: 1, total: u64::MAX, payload: &[0; 5000] },
        Frame::Next { id: 1, payload: &[0; 60_000] },
        Frame::Withdraw { id: 1, credit: u32::MAX },
        Frame::Credit { id: 1, credit: u32::MAX, window: u32::MAX },
        Frame::Reset { id: 1, consumed: u64::MAX, error: Some(b"again") },
        CLOSE,
        CLOSE,
    ] {
        victim.feed(frame);
    }
    assert!(victim.mux.cause().is_none());
    assert_eq!((victim.mux.channels(), victim.mux.memory()), (1, 0));
}

#[test]
fn channels_opened_and_closed_are_counted_until_they_are_accepted() {
    let frames: Vec<_> = (0..5u64)
        .flat_map(|round| {
            let id = 2 * round + 1;
            [
                open(id, true, true),
                Frame::Close { id, error: None },
                Frame::Reset { id, consumed: 0, error: None },
            ]
        })
        .collect();
    refused(&frames[..13], Violation::TooManyChannels { max: 4 });
}

#[test]
fn many_half_sent_messages_take_no_more_than_the_bound() {
    let config = Config { max_channels: 100, max_message: 50_000, assembly_budget: 50_000, ..config() };
    let mut victim = Victim::new(&config);
    let mut keys = Vec::new();
    for number in 0..100 {
        let id = 2 * number + 1;
        victim.feed(open(id, true, false));
        victim.feed(Frame::First { id, total: 50_000, payload: &[7; 244] });
        keys.push(victim.mux.accept().unwrap().0);
    }
    assert!(victim.mux.memory() <= 100 * 256);
    victim.said();
    // Everybody receives: one message after the other gets room, the rest none.
    let mut queue = Queue::default();
    for key in &keys {
        let taken = victim.mux.take(*key, 0, 0, victim.now, &mut queue);
        assert!(matches!(taken, Taken::Wait), "{taken:?}");
    }
    let said = victim.said();
    assert_eq!(frames(&said), [Frame::Credit { id: 1, credit: 49_756, window: 256 }]);
    for _ in 0..10 {
        victim.feed(Frame::Next { id: 1, payload: &[7; 4_000] });
        assert!(victim.mux.memory() <= 100 * 256 + 50_000);
    }
    victim.feed(Frame::Next { id: 3, payload: b"x" });
    victim.accuses(&Violation::Overrun { id: 3 });
}

#[test]
fn a_message_that_nobody_receives_gets_no_room() {
    let mut victim = Victim::new(&config());
    victim.feed(CHANNEL);
    let (key, ..) = victim.mux.accept().unwrap();
    victim.feed(Frame::First { id: 1, total: 900, payload: &[7; 244] });
    assert!(victim.said().is_empty());
    assert_eq!(victim.mux.unused().0, 1000);
    assert!(matches!(victim.mux.take(key, 0, 0, victim.now, &mut Queue::default()), Taken::Wait));
    assert_eq!(victim.mux.unused().0, 1000 - 656);
    // Withdrawing what was begun is no way out, and closing gives all of it back.
    victim.feed(CLOSE);
    assert_eq!(victim.mux.unused().0, 1000);
    assert!(victim.mux.cause().is_none());
    assert_eq!(victim.mux.memory(), 0);
}

// ---- over a byte stream ----

/// What comes of greeting so, and what the connection sends back.
async fn greeted(role: Role, greeting: &[u8]) -> (ConnectionError, Vec<u8>) {
    let (near, mut far) = tokio::io::duplex(4096);
    let (reader, writer) = tokio::io::split(near);
    let start = tokio::spawn(Connection::start(reader, writer, role, Options::default()));
    far.write_all(greeting).await.unwrap();
    let error = start.await.unwrap().unwrap_err();
    let mut answer = Vec::new();
    far.read_to_end(&mut answer).await.unwrap();
    (error, answer)
}

fn told(answer: &[u8]) -> String {
    match frames(&answer[HELLO_LEN..])[..] {
        [Frame::GoAway { error: true, text, .. }] => String::from_utf8_lossy(text).into_owned(),
        ref other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn a_peer_that_is_none_is_sent_nothing() {
    let (error, answer) = greeted(Role::Coordinator, b"Welcome to Debian GNU/Linux 12\n").await;
    match error {
        ConnectionError::Violation(Violation::Frame(FrameError::Magic { found })) => {
            assert_eq!(found, b"Welcome to D");
        }
        other => panic!("{other}"),
    }
    assert!(answer.is_empty(), "it may be a shell");
}

#[tokio::test]
async fn another_version_is_named_on_both_sides() {
    for role in [Role::Coordinator, Role::Worker] {
        let mut greeting = Vec::new();
        Hello { version: VERSION + 6, ..hello(&Config::default()) }.encode(&mut greeting);
        let (error, answer) = greeted(role, &greeting).await;
        match &error {
            ConnectionError::Handshake(HandshakeError::Version { ours, theirs }) => {
                assert_eq!((*ours, *theirs), (VERSION, VERSION + 6));
            }
            other => panic!("{other}"),
        }
        assert_eq!(Hello::decode(&answer).unwrap(), Some(hello(&Config::default())));
        assert_eq!(told(&answer), error.to_string());
    }
}

#[tokio::test]
async fn limits_that_cannot_be_are_named() {
    let good = Config::default();
    for config in [
        Config { initial_window: 63, ..good.clone() },
        Config { initial_window: u32::MAX, ..good.clone() },
        Config { max_message: u64::MAX, assembly_budget: u64::MAX, ..good.clone() },
        Config { assembly_budget: good.max_message - 1, ..good.clone() },
    ] {
        let mut greeting = Vec::new();
        hello(&config).encode(&mut greeting);
        let (error, answer) = greeted(Role::Worker, &greeting).await;
        match &error {
            ConnectionError::Handshake(HandshakeError::Limits { ours, theirs, .. }) => {
                assert_eq!(*ours, hello(&good).limits);
                assert_eq!(*theirs, hello(&config).limits);
            }
            other => panic!("{other}"),
        }
        assert_eq!(told(&answer), error.to_string());
    }
}

#[tokio::test]
async fn a_peer_that_greets_by_halves_is_given_up() {
    let (near, mut far) = tokio::io::duplex(4096);
    let (reader, writer) = tokio::io::split(near);
    let limit = Duration::from_millis(50);
    let options = Options { handshake_limit: limit, ..Options::default() };
    let mut greeting = Vec::new();
    hello(&Config::default()).encode(&mut greeting);
    far.write_all(&greeting[..HELLO_LEN - 1]).await.unwrap();
    match Connection::start(reader, writer, Role::Coordinator, options).await {
        Err(ConnectionError::Handshake(HandshakeError::Timeout { after })) => assert_eq!(after, limit),
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn every_handle_reports_what_the_peer_did_and_the_peer_is_told() {
    let (connection, mut far) = connection(small()).await;
    let mut channel = connection.open::<u32, u32>("one").await.unwrap();
    let sender = connection.open::<Vec<u8>, u32>("two").await.unwrap();
    let waiting = tokio::spawn(async move { sender.send(vec![0; 5000]).await });
    let accepting = tokio::spawn({
        let connection = connection.clone();
        async move { connection.accept().await.is_none() }
    });
    let mut opened = [0; 2 * (12 + 4 + 3)];
    far.read_exact(&mut opened).await.unwrap();
    far.write_all(&encode(Frame::Data { id: 77, payload: b"" })).await.unwrap();
    let is_it = |cause: &ConnectionError| {
        matches!(cause, ConnectionError::Violation(Violation::UnknownChannel { id: 77 }))
    };
    match channel.recv().await {
        Err(RecvError::Lost(cause)) => assert!(is_it(&cause)),
        other => panic!("{other:?}"),
    }
    match waiting.await.unwrap() {
        Err(SendError::Lost(cause)) => assert!(is_it(&cause)),
        other => panic!("{other:?}"),
    }
    assert!(accepting.await.unwrap());
    assert!(is_it(&connection.ended().await));
    let mut rest = Vec::new();
    far.read_to_end(&mut rest).await.unwrap();
    match frames(&rest).last() {
        Some(Frame::GoAway { error: true, text, .. }) => {
            assert!(String::from_utf8_lossy(text).contains("channel 77, which was never opened"));
        }
        other => panic!("{other:?}"),
    }
    drop(channel);
    assert_eq!(connection.held(), (0, 0));
}

#[tokio::test]
async fn values_that_nest_too_deeply_or_lie_about_their_length_cost_one_message() {
    let config = Config { max_message: 1 << 20, assembly_budget: 1 << 20, ..Config::default() };
    let (connection, mut far) = connection(config).await;
    far.write_all(&encode(open(2, true, true))).await.unwrap();
    let mut channel: Channel<Value, Value> = connection.accept().await.unwrap().accept();
    let deep = [0x81; 40_000];
    let lie = [0x9b, 0x7f, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff];
    for payload in [&deep[..], &lie[..], &[][..], &[0x01][..]] {
        far.write_all(&encode(Frame::Data { id: 2, payload })).await.unwrap();
    }
    assert!(matches!(channel.recv().await, Err(RecvError::Codec(CodecError::TooDeep))));
    assert!(matches!(channel.recv().await, Err(RecvError::Codec(CodecError::Truncated))));
    assert!(matches!(channel.recv().await, Err(RecvError::Codec(CodecError::Truncated))));
    assert_eq!(channel.recv().await.unwrap(), Some(Value::Integer(1.into())));
}

#[tokio::test]
async fn a_message_that_claims_ends_it_did_not_bring_costs_one_message() {
    let (connection, mut far) = connection(small()).await;
    far.write_all(&encode(open(2, true, true))).await.unwrap();
    let mut channel: Channel<u32, farcall_channel::Sender<u32>> = connection.accept().await.unwrap().accept();
    for index in [0u8, 23, 1] {
        far.write_all(&encode(Frame::Data { id: 2, payload: &[index] })).await.unwrap();
    }
    for _ in 0..3 {
        assert!(matches!(channel.recv().await, Err(RecvError::Codec(CodecError::EndMissing))));
    }
    assert!(connection.cause().is_none());
}
