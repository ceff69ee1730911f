//! Two sides, the bytes between them, and what must hold after every step.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use bytes::{Buf, Bytes};
use farcall_channel::mux::{Config, Event, Key, Lent, Mux, Queue, Role, Transmit};
use farcall_channel::{ConnectionError, HandshakeError};

use super::flow::{Flow, Mark};
use super::script::Script;

pub struct World {
    pub sides: [Side; 2],
    pub flows: Vec<Flow>,
    pub now: Instant,
    /// Something was done that may end the connection out of order.
    pub killed: bool,
    /// Messages made so far.
    pub stamps: u64,
}

/// One side: its connection, its handles, and who waits for what.
pub struct Side {
    pub config: Config,
    pub mux: Mux,
    pub ends: Vec<Option<End>>,
    /// What is on its way to the other side: not yet written, and written.
    pending: Transmit,
    wire: VecDeque<u8>,
    /// The other side sees the end of the stream after what is written.
    cut: bool,
    /// Bytes of a frame that has not come whole.
    rest: Vec<u8>,
    /// Room for what comes next of a long message, while it is read to there.
    lent: Option<Lent>,
    pub ready: bool,
    pub draining: bool,
    drained: bool,
    pub acceptor: Task,
    pub opener: Task,
    /// Ends that this side opened and the other did not accept.
    pub opened: VecDeque<Mark>,
    /// What messages between ends on this side, and pairs, may hold beyond the rest.
    pub local: u64,
}

/// Somebody who waits, and is to be polled only when woken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Task {
    Idle,
    Waiting,
    Woken,
}

impl Task {
    pub fn wake(&mut self) {
        if *self == Task::Waiting {
            *self = Task::Woken;
        }
    }

    pub fn is_waiting(self) -> bool {
        self == Task::Waiting
    }
}

/// The handles of an end.
pub struct End {
    pub key: Key,
    pub out: Option<Sending>,
    pub into: Option<Receiving>,
    /// It is in a message that waits to be taken.
    pub leaving: bool,
    /// That message goes where the other end is.
    pub returning: bool,
}

pub struct Sending {
    pub flow: usize,
    pub waiting: Vec<Waiting>,
    /// Waits for the receipt.
    pub ending: Task,
    /// The connection's end was reported.
    pub lost: bool,
}

/// A message that waits for room.
pub struct Waiting {
    pub stamp: u64,
    pub payload: Bytes,
    pub ends: Vec<usize>,
    pub ticket: Option<u32>,
    pub task: Task,
}

pub struct Receiving {
    pub flow: usize,
    pub batch: Queue,
    pub task: Task,
    /// Handed out, not reported.
    pub consumed: u64,
    pub cost: u64,
    pub report_after: u64,
    pub cargo: bool,
    pub number: u64,
    pub ended: bool,
    pub lost: bool,
}

impl Side {
    fn new(role: Role, config: Config, now: Instant) -> Side {
        Side {
            mux: Mux::new(role, config.clone(), now),
            config,
            ends: Vec::new(),
            pending: Transmit::default(),
            wire: VecDeque::new(),
            cut: false,
            rest: Vec::new(),
            lent: None,
            ready: false,
            draining: false,
            drained: false,
            acceptor: Task::Idle,
            opener: Task::Idle,
            opened: VecDeque::new(),
            local: 0,
        }
    }

    pub fn add(&mut self, key: Key, mark: Mark) -> usize {
        let out = mark.out.map(|flow| Sending { flow, waiting: Vec::new(), ending: Task::Idle, lost: false });
        let into = mark.into.map(|flow| Receiving {
            flow,
            batch: Queue::default(),
            task: Task::Idle,
            consumed: 0,
            cost: 0,
            report_after: u64::MAX,
            cargo: false,
            number: 0,
            ended: false,
            lost: false,
        });
        self.ends.push(Some(End { key, out, into, leaving: false, returning: false }));
        self.ends.len() - 1
    }

    pub fn end(&mut self, end: usize) -> &mut End {
        self.ends[end].as_mut().expect("the script picks ends that exist")
    }

    /// The ends for which `fits` holds.
    pub fn ends_that(&self, fits: impl Fn(&End) -> bool) -> Vec<usize> {
        let ends = self.ends.iter().enumerate();
        ends.filter(|(_, end)| end.as_ref().is_some_and(&fits)).map(|(place, _)| place).collect()
    }

    fn by_key(&mut self, key: Key) -> Option<&mut End> {
        self.ends.iter_mut().flatten().find(|end| end.key == key)
    }

    /// Whether bytes are anywhere between this side's state and the other's.
    fn is_sending(&self) -> bool {
        !self.pending.is_empty() || !self.wire.is_empty() || self.mux.wants_transmit()
    }

    pub fn is_lost(&self) -> bool {
        self.mux.cause().is_some()
    }
}

/// Tiny limits, so that edges happen often.
fn config(script: &mut Script<'_>) -> Config {
    let initial_window = 64 + script.up_to(448) as u32;
    let grows = script.one_in(2);
    let max_message = match script.up_to(7) {
        0 => 150_000,
        1 => script.up_to(80) as u64,
        _ => 100 + script.up_to(4000) as u64,
    };
    Config {
        max_channels: 1 + script.up_to(4) as u32,
        initial_window,
        max_window: if grows { initial_window * (1 + script.up_to(4) as u32) } else { initial_window },
        growth_budget: script.up_to(2048) as u64,
        max_message,
        assembly_budget: max_message + if script.one_in(2) { 0 } else { script.up_to(4000) as u64 },
        ..Config::default()
    }
}

impl World {
    pub fn new(script: &mut Script<'_>) -> World {
        let began = Instant::now();
        let mut sides = [Role::Coordinator, Role::Worker].map(|role| Side::new(role, config(script), began));
        for side in &mut sides {
            side.mux.trace(TRACE);
            if TRACE {
                println!("{:?}", side.config);
            }
        }
        World { sides, flows: Vec::new(), now: began, killed: false, stamps: 0 }
    }

    pub fn mux(&mut self, side: usize) -> &mut Mux {
        &mut self.sides[side].mux
    }

    pub fn flow(&mut self) -> usize {
        self.flows.push(Flow::default());
        self.flows.len() - 1
    }

    /// Brings what happened to those who wait for it, and checks what must hold after every step.
    pub fn settle(&mut self, side: usize) {
        while let Some(event) = self.mux(side).poll_event() {
            self.say(side, |_| format!("{event:?}"));
            let here = &mut self.sides[side];
            match event {
                Event::Ready => here.ready = true,
                Event::Incoming => here.acceptor.wake(),
                Event::Capacity => {
                    here.opener.wake();
                    let waiting = here.ends.iter_mut().flatten().flat_map(|end| &mut end.out);
                    let waiting = waiting.flat_map(|out| &mut out.waiting);
                    waiting
                        .filter(|waiting| !waiting.ends.is_empty())
                        .for_each(|waiting| waiting.task.wake());
                }
                Event::Readable(key) => {
                    if let Some(into) = here.by_key(key).and_then(|end| end.into.as_mut()) {
                        into.task.wake();
                    }
                }
                Event::Writable(key) => {
                    if let Some(out) = here.by_key(key).and_then(|end| end.out.as_mut()) {
                        out.waiting.iter_mut().for_each(|waiting| waiting.task.wake());
                        out.ending.wake();
                    }
                }
                Event::Drained => here.drained = true,
                Event::Closed => {
                    here.acceptor.wake();
                    here.opener.wake();
                }
            }
        }
        self.check(side);
    }

    /// Says what happens, for whoever looks into a seed that fails.
    pub fn say(&mut self, side: usize, what: impl FnOnce(&World) -> String) {
        if TRACE {
            for step in self.mux(side).poll_steps() {
                println!(
                    "    {side} {} {} of {}: {} bytes",
                    if step.sent { "->" } else { "<-" },
                    step.kind,
                    step.id,
                    step.len
                );
            }
            println!("{side} {}", what(self));
        }
    }

    fn check(&self, side: usize) {
        let (here, there) = (&self.sides[side], &self.sides[1 - side]);
        // Each channel on the wire holds a window in each direction; what windows grew by and what longer messages
        // take comes out of one budget for all channels, this side's for what comes and the other's for what goes.
        let channels = u64::from(here.config.max_channels + there.config.max_channels);
        let way = |config: &Config| {
            channels * u64::from(config.initial_window) + config.growth_budget + config.assembly_budget
        };
        let bound = way(&here.config) + way(&there.config) + here.local;
        let memory = here.mux.memory() + here.lent.as_ref().map_or(0, |lent| lent.bytes.len() as u64);
        assert!(memory <= bound, "side {side} holds {memory} bytes, allowed are {bound}");
        assert!(here.pending.remaining() <= PENDING, "a transmit is bounded");
        match here.mux.cause() {
            None => {}
            Some(ConnectionError::Violation(violation)) => {
                panic!("side {side} accuses the other: {violation}")
            }
            Some(ConnectionError::AbortedByPeer { reason }) if reason.contains("broke the protocol") => {
                panic!("side {side} is accused: {reason}")
            }
            Some(ConnectionError::Handshake(HandshakeError::Limits { what, .. })) => panic!("{what}"),
            Some(cause) => assert!(self.killed || cause.is_orderly(), "side {side} ended: {cause}"),
        }
    }

    /// Lets the side hand out frames.
    pub fn transmit(&mut self, side: usize, limit: usize) {
        let now = self.now;
        let here = &mut self.sides[side];
        if here.mux.wants_transmit() {
            here.mux.poll_transmit(now, &mut here.pending, limit);
            self.settle(side);
        }
    }

    /// Moves bytes from what was handed out onto the wire, by `chunk` or by slices as a vectored write does.
    pub fn write(&mut self, side: usize, count: usize, vectored: bool) {
        let here = &mut self.sides[side];
        let mut count = count.min(here.pending.remaining());
        if vectored {
            let mut slices = [std::io::IoSlice::new(&[]); 4];
            let used = here.pending.chunks_vectored(&mut slices);
            let bytes = slices[..used].iter().flat_map(|slice| slice.iter().copied());
            let before = here.wire.len();
            here.wire.extend(bytes.take(count));
            let written = here.wire.len() - before;
            here.pending.advance(written);
            return;
        }
        while count > 0 {
            let chunk = here.pending.chunk();
            let part = chunk.len().min(count);
            assert!(part > 0, "what remains has a chunk");
            here.wire.extend(&chunk[..part]);
            here.pending.advance(part);
            count -= part;
        }
    }

    /// Hands bytes that the side wrote to the other one.
    pub fn deliver(&mut self, side: usize, count: usize) {
        let now = self.now;
        let there = 1 - side;
        let mut count = count.min(self.sides[side].wire.len());
        // Half of all long messages are read to where they belong. Users may do anything in the meantime.
        if self.sides[there].lent.is_none() && self.sides[there].rest.is_empty() && count.is_multiple_of(2) {
            self.sides[there].lent = self.mux(there).lend_part();
            if self.sides[there].lent.is_some() && count.is_multiple_of(4) {
                return;
            }
        }
        count -= self.take_back(there, count);
        let mut input = std::mem::take(&mut self.sides[there].rest);
        input.extend(self.sides[side].wire.drain(..count));
        let used = self.mux(there).handle_bytes(now, &input);
        assert!(used <= input.len());
        self.sides[there].rest = input.split_off(used);
        self.settle(there);
        self.finish_stream(side);
    }

    /// Takes back what was lent to read to, with up to `count` bytes of what the other side wrote; returns how many.
    fn take_back(&mut self, side: usize, count: usize) -> usize {
        let Some(mut lent) = self.sides[side].lent.take() else { return 0 };
        let part = lent.room.min(count);
        lent.bytes.extend(self.sides[1 - side].wire.drain(..part));
        let now = self.now;
        self.mux(side).return_part(now, lent);
        part
    }

    /// The stream ends when its side has said all that it will.
    fn finish_stream(&mut self, side: usize) {
        let here = &mut self.sides[side];
        let over = here.is_lost() || here.mux.is_drained();
        if over && !here.mux.wants_transmit() && here.pending.is_empty() {
            here.cut = true;
        }
        if here.cut && here.wire.is_empty() && !self.sides[1 - side].is_lost() {
            self.take_back(1 - side, 0);
            self.mux(1 - side).handle_eof();
            self.settle(1 - side);
        }
    }

    /// Cuts both streams: of what is written so much arrives, and nothing else.
    pub fn cut(&mut self, left: [usize; 2]) {
        self.killed = true;
        for (side, left) in left.into_iter().enumerate() {
            let here = &mut self.sides[side];
            here.wire.truncate(left);
            here.pending = Transmit::default();
            here.cut = true;
        }
    }

    pub fn advance(&mut self, time: Duration) {
        self.now += time;
        for side in 0..2 {
            self.take_back(side, 0);
            let now = self.now;
            let mux = self.mux(side);
            if mux.poll_timeout().is_some_and(|deadline| deadline <= now) {
                mux.handle_timeout(now);
                self.settle(side);
            }
        }
    }

    /// Moves bytes until none are left to move; returns whether there were any.
    pub fn exchange(&mut self, script: &mut Script<'_>) -> bool {
        let mut moved = false;
        loop {
            let mut quiet = true;
            for side in 0..2 {
                let cut = self.sides[side].cut;
                if self.sides[side].is_sending() && !(cut && self.sides[side].wire.is_empty()) {
                    quiet = false;
                    if !cut {
                        let limit = 1 + script.up_to(3) * 200;
                        self.transmit(side, limit);
                        self.write(side, usize::MAX, false);
                    }
                    self.deliver(side, 1 + script.up_to(1000));
                }
                self.finish_stream(side);
            }
            if quiet {
                return moved;
            }
            moved = true;
        }
    }

    /// Nothing of this connection is left on either side.
    pub fn check_empty(&self) {
        for (number, side) in self.sides.iter().enumerate() {
            if TRACE && side.mux.channels() > 0 {
                println!("{:#?}", side.mux);
            }
            assert_eq!(side.mux.channels(), 0, "side {number} keeps channels");
            assert_eq!(side.mux.memory(), 0, "side {number} keeps messages");
            let budgets = (side.config.assembly_budget, side.config.growth_budget);
            assert!(
                side.is_lost() || side.mux.unused() == budgets,
                "side {number} keeps budgets: {budgets:?}, {:?}",
                side.mux.unused()
            );
        }
    }
}

/// Whether to print what happens.
const TRACE: bool = false;
/// What one transmit may hold: the limit, a turn of one channel beyond it, and a frame beyond that.
const PENDING: usize = 4 * 64 * 1024;
