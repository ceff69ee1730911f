//! One side of a connection whose peer says anything, while its users go on.

use std::time::{Duration, Instant};

use bytes::{Buf, Bytes};
use farcall_channel::frame::{Frame, Hello, Limits, VERSION};
use farcall_channel::mux::{Config, Key, Mux, Payload, Queue, Role, Taken, Transmit};

/// Reads `bytes` as frames, then as what a peer says in pieces, with a user's act between each two.
pub fn run(bytes: &[u8]) {
    round_trip(bytes);
    let mut bytes = bytes;
    let mut side = Side::new(take(&mut bytes));
    while !bytes.is_empty() {
        let act = take(&mut bytes);
        let len = usize::from(take(&mut bytes)).min(bytes.len());
        let (piece, rest) = bytes.split_at(len);
        bytes = rest;
        side.hear(piece);
        side.act(act);
        side.check();
    }
    side.leave();
}

fn take(bytes: &mut &[u8]) -> u8 {
    let Some((first, rest)) = bytes.split_first() else { return 0 };
    *bytes = rest;
    *first
}

/// Every frame that can be read is written as it was.
fn round_trip(mut bytes: &[u8]) {
    while let Ok(Some((frame, len))) = Frame::decode(bytes) {
        let mut again = Vec::new();
        frame.encode(&mut again);
        assert_eq!(again, bytes[..len]);
        bytes = &bytes[len..];
    }
}

struct Side {
    mux: Mux,
    now: Instant,
    rest: Vec<u8>,
    ends: Vec<End>,
    /// What its own users put in: the peer may claim to take any amount, and then not take it.
    sent: u64,
}

#[derive(Debug, Clone, Copy)]
struct End {
    key: Key,
    sends: bool,
    receives: bool,
    number: u64,
}

/// Whether to print what happens.
const TRACE: bool = false;
const WINDOW: u32 = 200;
const CHANNELS: u32 = 4;
const MESSAGE: u64 = 2000;

impl Side {
    fn new(choice: u8) -> Side {
        let now = Instant::now();
        let config = Config {
            max_channels: CHANNELS,
            initial_window: WINDOW,
            max_window: 2 * WINDOW,
            growth_budget: u64::from(WINDOW),
            max_message: MESSAGE,
            assembly_budget: MESSAGE,
            ..Config::default()
        };
        let role = if choice & 1 == 0 { Role::Coordinator } else { Role::Worker };
        let mut mux = Mux::new(role, config, now);
        mux.trace(TRACE || choice & 2 != 0);
        let limits = Limits {
            max_channels: CHANNELS,
            initial_window: WINDOW,
            max_message: MESSAGE,
            assembly_budget: MESSAGE,
        };
        let mut hello = Vec::new();
        Hello { version: VERSION, limits }.encode(&mut hello);
        mux.handle_bytes(now, &hello);
        let mut side = Side { mux, now, rest: Vec::new(), ends: Vec::new(), sent: 0 };
        for (sends, receives) in [(true, true), (true, false), (false, true)] {
            let key = side.mux.open(sends, receives, Bytes::from_static(b"?")).expect("there is room");
            side.add(key, sends, receives);
        }
        side.transmit();
        side
    }

    fn add(&mut self, key: Key, sends: bool, receives: bool) {
        self.ends.push(End { key, sends, receives, number: 0 });
    }

    fn hear(&mut self, piece: &[u8]) {
        let mut input = std::mem::take(&mut self.rest);
        input.extend_from_slice(piece);
        let used = self.mux.handle_bytes(self.now, &input);
        self.rest = input.split_off(used);
        while self.mux.poll_event().is_some() {}
    }

    fn transmit(&mut self) {
        let mut out = Transmit::default();
        while self.mux.wants_transmit() {
            self.mux.poll_transmit(self.now, &mut out, 500);
            assert!(out.remaining() < 4 * 65_536);
            out.advance(out.remaining());
        }
        self.mux.poll_steps();
    }

    fn act(&mut self, act: u8) {
        if TRACE {
            println!("{:?}", self.mux.poll_steps());
            println!(
                "act {} on {:?}",
                act & 15,
                self.ends.get(usize::from(act >> 4) % self.ends.len().max(1))
            );
        }
        let which = usize::from(act >> 4);
        let Some(end) = self.ends.get(which % self.ends.len().max(1)).copied() else {
            return self.accept();
        };
        let place = which % self.ends.len();
        match act & 15 {
            0..=2 => self.transmit(),
            3 | 4 => self.accept(),
            5..=7 if end.receives => self.receive(place),
            8 if end.receives => self.mux.unwait_receiver(end.key),
            9 if end.receives => {
                self.mux.stop(end.key, 0, Some(b"enough"));
                self.mux.release_receiver(end.key, 0);
                self.ends[place].receives = false;
            }
            10 if end.sends => self.send(end.key, 20, &[]),
            11 if end.sends => self.send(end.key, 500, &[]),
            12 if end.sends => {
                self.mux.close(end.key, Some(b"done"));
                self.mux.release_sender(end.key);
                self.ends[place].sends = false;
            }
            13 if end.sends => {
                let leaving = (0..self.ends.len()).find(|&other| {
                    let other = &self.ends[other];
                    other.number == 0
                        && other.key != end.key
                        && (other.sends || other.receives)
                        && self.mux.may_travel(other.key, other.sends, other.receives)
                });
                if let Some(leaving) = leaving {
                    let keys = [self.ends[leaving].key];
                    self.send(end.key, 3, &keys);
                }
            }
            14 if self.ends.len() < 12 => {
                let (near, far) = self.mux.pair(true, true);
                self.add(near, true, true);
                self.add(far, true, true);
            }
            15 => {
                self.now += Duration::from_millis(500);
                self.mux.handle_timeout(self.now);
            }
            _ => {}
        }
        self.ends.retain(|end| end.sends || end.receives);
        while self.mux.poll_event().is_some() {}
    }

    fn accept(&mut self) {
        if let Some((key, _, sends, receives)) = self.mux.accept() {
            self.add(key, sends, receives);
        }
    }

    fn send(&mut self, key: Key, len: usize, ends: &[Key]) {
        let payload = Bytes::from(vec![7; len]);
        match self.mux.send(key, &Payload::Shared(payload), ends, None) {
            Ok(farcall_channel::mux::Sent::Taken) => {
                self.sent += len as u64 + 12;
                self.ends.retain(|end| !ends.contains(&end.key));
                for &key in ends {
                    self.mux.release_sender(key);
                    self.mux.release_receiver(key, 0);
                }
            }
            Ok(farcall_channel::mux::Sent::Wait(Some(ticket))) => self.mux.withdraw(key, ticket),
            _ => {}
        }
    }

    fn receive(&mut self, place: usize) {
        let key = self.ends[place].key;
        let mut queue = Queue::default();
        if !matches!(self.mux.take(key, 0, 0, self.now, &mut queue), Taken::Messages { .. }) {
            return;
        }
        while let Some(len) = queue.front_len() {
            assert!(len as u64 <= MESSAGE);
            queue.pop();
            let number = self.ends[place].number;
            self.ends[place].number += 1;
            for index in 0..2 {
                if let Some((key, sends, receives)) = self.mux.claim(key, number, index) {
                    self.add(key, sends, receives);
                }
            }
            self.mux.settle(key, number);
            self.mux.consume(key, 1, len as u64 + 12, self.now);
        }
    }

    fn check(&self) {
        // A window for each channel, what windows grew by, and what longer messages take.
        let bound = u64::from(2 * CHANNELS * WINDOW) + u64::from(WINDOW) + MESSAGE;
        let memory = self.mux.memory();
        assert!(memory <= bound + self.sent, "{memory} bytes");
        assert!(self.mux.channels() <= 1000);
    }

    fn leave(mut self) {
        for end in std::mem::take(&mut self.ends) {
            if end.sends {
                self.mux.release_sender(end.key);
            }
            if end.receives {
                self.mux.release_receiver(end.key, 0);
            }
        }
        self.check();
        self.mux.handle_eof();
        while self.mux.poll_event().is_some() {}
        assert!(self.mux.cause().is_some());
        if TRACE {
            println!("{:#?}", self.mux);
        }
        assert_eq!((self.mux.channels(), self.mux.memory()), (0, 0), "nothing is left");
        self.transmit();
    }
}
