//! A peer that sends the same without end takes no more memory than one that sends it once.

mod support;

use farcall_channel::frame::{Carried, Frame};
use support::raw::{Victim, config, connection, encode, frames, open};
use support::small;
use tokio::io::AsyncWriteExt;
use tokio::sync::Mutex;

/// Memory is measured for the whole process, so that only one test may run at a time.
static ALONE: Mutex<()> = Mutex::const_new(());

const CHANNEL: Frame<'static> =
    Frame::Open { id: 1, sends: true, receives: true, window: 256, carried: None, request: b"" };

/// Bytes of memory that this process has.
fn resident() -> usize {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    line.trim().trim_end_matches(" kB").parse::<usize>().unwrap() * 1024
}

/// Feeds what `frame` makes, many thousand times over, and checks that nothing piles up.
/// `reads`: the peer takes what it is sent.
fn flood(victim: &mut Victim, reads: bool, mut frame: impl FnMut(u64) -> Vec<u8>) {
    let before = resident();
    for round in 0..150_000 {
        victim.feed_bytes(&frame(round));
        if reads {
            victim.said();
        }
        assert!(victim.mux.cause().is_none(), "{:?} after {round}", victim.mux.cause());
        assert!(victim.mux.channels() <= 600, "after {round}");
    }
    let grown = resident().saturating_sub(before);
    assert!(grown < 8 * 1024 * 1024, "{grown} bytes more");
}

#[test]
fn pings_are_answered_once_however_many_there_are() {
    let _alone = ALONE.blocking_lock();
    let mut victim = Victim::new(&config());
    flood(&mut victim, false, |token| encode(Frame::Ping { ack: false, token }));
    let said = victim.said();
    assert_eq!(frames(&said), [Frame::Ping { ack: true, token: 149_999 }]);
    flood(&mut victim, false, |token| encode(Frame::Ping { ack: true, token }));
    assert!(victim.mux.round_trip().is_none(), "nobody asked");
}

#[test]
fn frames_that_change_nothing_take_no_memory() {
    let _alone = ALONE.blocking_lock();
    let mut victim = Victim::new(&config());
    victim.feed(CHANNEL);
    flood(&mut victim, false, |_| encode(Frame::Credit { id: 1, credit: 0, window: 256 }));
    flood(&mut victim, false, |_| encode(Frame::Withdraw { id: 1, credit: 0 }));
    flood(&mut victim, false, |_| encode(Frame::GoAway { last: 0, error: false, text: b"going" }));
}

#[test]
fn channels_opened_and_given_up_do_not_pile_up() {
    let _alone = ALONE.blocking_lock();
    let mut victim = Victim::new(&config());
    flood(&mut victim, false, |round| {
        let id = 2 * round + 1;
        let reset = Frame::Reset { id, consumed: 0, error: Some(b"never mind") };
        [encode(open(id, false, true)), encode(reset)].concat()
    });
    assert!(victim.mux.accept().is_none(), "none is left to accept");
    assert_eq!(victim.mux.channels(), 0);
}

#[test]
fn ends_for_messages_that_never_come_do_not_pile_up() {
    let _alone = ALONE.blocking_lock();
    let carried = |id, message| Frame::Open {
        id,
        sends: false,
        receives: true,
        window: 256,
        carried: Some(Carried { carrier: 1, message, index: 0 }),
        request: b"",
    };
    let mut victim = Victim::new(&config());
    victim.feed(CHANNEL);
    flood(&mut victim, false, |round| {
        let id = 2 * round + 3;
        [encode(carried(id, round)), encode(Frame::Reset { id, consumed: 0, error: None })].concat()
    });

    // The same with ends that come home.
    let mut victim = Victim::new(&config());
    victim.feed(CHANNEL);
    flood(&mut victim, true, |round| {
        let id = 2 * round + 3;
        let home = Frame::Return { id, carried: Carried { carrier: 1, message: round, index: 0 } };
        let close = Frame::Close { id, error: None };
        let reset = Frame::Reset { id, consumed: 0, error: None };
        [open(id, true, true), home, close, reset].into_iter().flat_map(encode).collect()
    });
}

#[tokio::test]
async fn a_peer_that_pings_and_never_reads_is_not_answered_for_ever() {
    let _alone = ALONE.lock().await;
    let (connection, mut far) = connection(small()).await;
    let before = resident();
    let pings: Vec<u8> = (0..10_000).flat_map(|token| encode(Frame::Ping { ack: false, token })).collect();
    for _ in 0..100 {
        far.write_all(&pings).await.unwrap();
    }
    // Still alive, and with room for others.
    far.write_all(&encode(open(2, true, true))).await.unwrap();
    assert!(connection.accept().await.is_some());
    let grown = resident().saturating_sub(before);
    assert!(grown < 8 * 1024 * 1024, "{grown} bytes more");
}
