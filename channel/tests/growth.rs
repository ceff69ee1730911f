//! Windows grow with the bandwidth-delay product, and only for readers that keep up. In virtual time.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use bytes::{Buf, Bytes};
use farcall_channel::mux::{Config, Key, Mux, Payload, Queue, Role, Sent, Taken, Transmit};

const DELAY: Duration = Duration::from_millis(25);
const STEP: Duration = Duration::from_millis(1);

/// Two peers with a delay between them and no limit of bandwidth.
struct Path {
    now: Instant,
    peers: [Mux; 2],
    on_the_way: [VecDeque<(Instant, Vec<u8>)>; 2],
    kept: [Vec<u8>; 2],
}

impl Path {
    fn new(config: &Config) -> Path {
        let now = Instant::now();
        let peer = |role| Mux::new(role, config.clone(), now);
        Path {
            now,
            peers: [peer(Role::Coordinator), peer(Role::Worker)],
            on_the_way: Default::default(),
            kept: Default::default(),
        }
    }

    fn step(&mut self) {
        self.now += STEP;
        for from in 0..2 {
            let mut transmit = Transmit::default();
            while self.peers[from].wants_transmit() {
                self.peers[from].poll_transmit(self.now, &mut transmit, usize::MAX);
            }
            let bytes = transmit.copy_to_bytes(transmit.remaining()).to_vec();
            self.on_the_way[from].push_back((self.now + DELAY, bytes));
            let to = 1 - from;
            while self.on_the_way[from].front().is_some_and(|(due, _)| *due <= self.now) {
                let (_, bytes) = self.on_the_way[from].pop_front().unwrap();
                self.kept[to].extend_from_slice(&bytes);
                let used = self.peers[to].handle_bytes(self.now, &self.kept[to]);
                self.kept[to].drain(..used);
            }
        }
    }

    /// A channel on which the first peer sends and the second receives.
    fn open(&mut self) -> (Key, Key) {
        while !self.peers[0].is_ready() || !self.peers[1].is_ready() {
            self.step();
        }
        let near = self.peers[0].open(true, false, Bytes::new()).unwrap();
        loop {
            self.step();
            if let Some((far, ..)) = self.peers[1].accept() {
                return (near, far);
            }
        }
    }

    /// Sends all that can be sent for so long, and receives what there is, or one message in each `pause`. Returns the
    /// bytes received.
    fn stream(&mut self, (near, far): (Key, Key), time: Duration, pause: Option<Duration>) -> usize {
        let payload = Payload::Shared(Bytes::from(vec![0; 4000]));
        let (mut batch, mut received, mut consumed) = (Queue::default(), 0, (0, 0));
        let end = self.now + time;
        let mut next = self.now;
        while self.now < end {
            while let Ok(Sent::Taken) = self.peers[0].send(near, &payload, &[], None) {}
            while self.now >= next {
                let Some(len) = batch.front_len() else {
                    let (messages, cost) = std::mem::take(&mut consumed);
                    match self.peers[1].take(far, messages, cost, self.now, &mut batch) {
                        Taken::Messages { .. } => continue,
                        _ => break,
                    }
                };
                batch.pop();
                received += len;
                consumed.0 += 1;
                consumed.1 += len as u64 + 12;
                next += pause.unwrap_or_default();
            }
            self.step();
        }
        let (messages, cost) = consumed;
        self.peers[1].consume(far, messages, cost, self.now);
        received
    }
}

#[test]
fn a_window_grows_until_the_delay_no_longer_limits_the_stream() {
    let config = Config::default();
    let mut path = Path::new(&config);
    let channel = path.open();
    path.stream(channel, Duration::from_secs(2), None);
    let last = path.stream(channel, Duration::from_secs(1), None);
    // One initial window for each round trip would be this much in a second.
    let first = config.initial_window as usize * 20;
    assert!(last > 100 * first, "{last} bytes in a second, {first} at first");
    let window = path.peers[0].piece(channel.0);
    assert!(window > config.max_window as usize / 2, "{window}");
    let round_trip = path.peers[1].round_trip().unwrap();
    assert!(round_trip >= 2 * DELAY && round_trip < 3 * DELAY, "{round_trip:?}");
}

#[test]
fn a_slow_reader_does_not_make_its_window_grow() {
    let config = Config::default();
    let mut path = Path::new(&config);
    let channel = path.open();
    // A window takes 64 round trips to read.
    path.stream(channel, Duration::from_secs(20), Some(Duration::from_millis(200)));
    assert!(path.peers[0].piece(channel.0) <= config.initial_window as usize);
    let bound = 2 * u64::from(config.initial_window);
    assert!(path.peers[0].memory() <= bound && path.peers[1].memory() <= bound);
}

#[test]
fn windows_grow_only_as_far_as_the_budget_and_give_it_back() {
    let config = Config { growth_budget: 256 * 1024, ..Config::default() };
    let mut path = Path::new(&config);
    let first = path.open();
    path.stream(first, Duration::from_secs(4), None);
    let grown = path.peers[0].piece(first.0) + 12;
    assert_eq!(grown, (u64::from(config.initial_window) + config.growth_budget) as usize);
    let second = path.open();
    path.stream(second, Duration::from_secs(4), None);
    assert_eq!(path.peers[0].piece(second.0) + 12, config.initial_window as usize, "the budget is spent");
    path.peers[1].release_receiver(first.1, 0);
    path.peers[0].release_sender(first.0);
    path.stream(second, Duration::from_secs(4), None);
    assert_eq!(path.peers[0].piece(second.0) + 12, grown, "the budget came back");
}
