//! The protocol as a pure state machine: no sockets, clocks, wakers or randomness.
//!
//! Input goes in by `handle_*`, output comes out by `poll_*`, and plain verbs are what a user of the connection wants
//! done. Whoever drives it must, after each call, hand the bytes of [`Mux::poll_transmit`] to the peer while
//! [`Mux::wants_transmit`], and act on the [`Event`]s of [`Mux::poll_event`].
//!
//! # Memory
//!
//! Buffered for one connection are at most, each way,
//! `max_channels × (initial_window + requests and errors) + growth_budget + assembly_budget` bytes: a channel holds no more
//! than its window, windows grow only out of the growth budget, and a message longer than its window is admitted only
//! once its whole length is taken from the assembly budget. A sender's queue holds no more than its channel's window.
//! [`Config::memory_bound`] computes it. The loops that drive it add at most 256 KiB of bytes just read, 1 MiB to be written,
//! and 1 MiB of spare buffers, which they give back when the connection is idle.

mod assembly;
mod close;
mod config;
mod home;
mod lend;
mod liveness;
mod open;
mod receive;
mod send;
mod slot;
mod take;
mod transmit;
mod travel;

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustc_hash::FxHashMap;
use slab::Slab;

pub use config::{Config, Role};
pub use lend::Lent;
pub use slot::Key;
use slot::Slot;
pub use transmit::Transmit;

use crate::error::{ConnectionError, RemoteError};
use crate::frame::Limits;
use crate::queue::Spares;
pub use crate::queue::{Payload, Queue};
use liveness::Liveness;

/// What happened that somebody waits for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Event {
    /// The greetings were exchanged.
    Ready,
    /// The peer opened a channel: [`Mux::accept`].
    Incoming,
    /// A channel can be opened again.
    Capacity,
    /// A channel has messages, or came to its end; asked for by a receive that found none.
    Readable(Key),
    /// A channel takes messages, or came to its end; asked for by a send that found no room.
    Writable(Key),
    /// The last channel ended while the connection is being closed.
    Drained,
    /// The connection ended: [`Mux::cause`].
    Closed,
}

/// What became of a message offered to [`Mux::send`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sent {
    /// Taken whole; it will be sent.
    Taken,
    /// No room now: offer it again after [`Event::Writable`]. With a ticket its length was announced to the peer; offer it
    /// with that ticket, or [`Mux::withdraw`] it.
    Wait(Option<u32>),
}

/// Why a message offered to [`Mux::send`] will never be taken.
#[derive(Debug)]
pub enum SendFault {
    /// This side closed the channel.
    Closed,
    /// The peer takes no more.
    Stopped(Option<RemoteError>),
    /// The connection ended.
    Lost(ConnectionError),
    /// Longer than the peer accepts, which is this much.
    TooLarge(u64),
    /// An end in the message is in use, or the channel that should carry it has not left this side.
    EndInUse,
    /// An end in the message needs a channel, and one side is closing the connection.
    Draining,
}

/// What [`Mux::take`] found.
#[derive(Debug)]
pub enum Taken {
    /// Messages, now in the queue that was handed in.
    Messages {
        /// Report what was consumed at the latest after so many bytes of cost.
        report_after: u64,
        /// Ends travel in some message of the channel: [`Mux::settle`] after each.
        cargo: bool,
    },
    /// Nothing yet; an [`Event::Readable`] will come.
    Wait,
    /// The channel is at its end, for this reason if there is one.
    End(Option<RemoteError>),
    /// The connection ended first.
    Lost(ConnectionError),
}

/// Why no channel was opened.
#[derive(Debug)]
pub enum OpenFault {
    /// The peer allows no more at once: an [`Event::Capacity`] will come.
    Full,
    /// One side is closing the connection.
    Draining,
    /// The connection ended.
    Lost(ConnectionError),
}

/// What a connection has moved since it began.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct Counters {
    /// Messages taken for sending.
    pub messages_sent: u64,
    /// Their bytes.
    pub bytes_sent: u64,
    /// Messages that came whole.
    pub messages_received: u64,
    /// Their bytes.
    pub bytes_received: u64,
    /// How long sends have waited for room on their channels, all together, those that wait now included. A [`Mux`] knows
    /// no time: its own is zero.
    pub blocked: Duration,
}

/// A protocol step, for tracing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Step {
    /// Sent rather than received.
    pub sent: bool,
    /// The frame's kind.
    pub kind: &'static str,
    /// The channel, or 0.
    pub id: u64,
    /// Bytes of its payload.
    pub len: usize,
}

/// A channel's beginning or end, for tracing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Life {
    /// It has its id.
    Opened {
        /// The id.
        id: u64,
        /// This side opened it.
        ours: bool,
    },
    /// Both directions have ended on both sides, or the connection has.
    Ended {
        /// The id.
        id: u64,
        /// Messages and bytes taken for sending.
        sent: (u64, u64),
        /// Messages and bytes that came.
        received: (u64, u64),
    },
}

#[derive(Debug)]
enum Phase {
    Greeting,
    Open,
    Closed(ConnectionError),
}

/// See the [module](self).
#[derive(Debug)]
pub struct Mux {
    role: Role,
    config: Config,
    peer: Limits,
    phase: Phase,
    slots: Slab<Slot>,
    ids: FxHashMap<u64, Key>,
    /// The channel that a frame was last about.
    recent: (u64, Key),
    next_id: u64,
    /// The highest id that the peer opened.
    highest: u64,
    ours_open: u32,
    theirs_open: u32,
    capacity_wanted: bool,
    next_ticket: u32,
    next_generation: u32,

    hello_owed: bool,
    hello_sent: bool,
    goaway_owed: bool,
    /// This side accepts no more channels, or the peer does not.
    draining: bool,
    peer_draining: bool,
    /// The last of this side's channels that the peer knew when it said so.
    peer_last: u64,
    /// The last of the peer's channels that this side knew when it said so.
    our_last: u64,
    drained_reported: bool,
    /// The reason to tell the peer when this side ends the connection at once.
    farewell: Option<Arc<str>>,
    opens: VecDeque<Key>,
    controls: VecDeque<Key>,
    ready: VecDeque<Key>,

    accepts: VecDeque<Key>,
    /// Ends that came in messages, were not claimed, and have ended for the peer.
    unclaimed: VecDeque<Key>,
    events: VecDeque<Event>,
    /// The part of a longer message whose payload is coming in: its channel and the bytes that are to come.
    part: Option<(u64, usize)>,
    assembly_free: u64,
    assembly_line: VecDeque<Key>,
    growth_free: u64,
    spares: Spares,

    liveness: Liveness,
    counters: Counters,
    /// Collected while tracing.
    steps: Option<Vec<Step>>,
    lives: Option<Vec<Life>>,
}

impl Mux {
    /// A connection that begins `now`.
    pub fn new(role: Role, config: Config, now: Instant) -> Mux {
        let limits = config.limits();
        Mux {
            role,
            peer: limits,
            phase: Phase::Greeting,
            slots: Slab::new(),
            ids: FxHashMap::default(),
            recent: (0, Key { place: 0, generation: 0 }),
            next_id: if role == Role::Coordinator { 1 } else { 2 },
            highest: 0,
            ours_open: 0,
            theirs_open: 0,
            capacity_wanted: false,
            next_ticket: 0,
            next_generation: 0,
            hello_owed: role == Role::Worker,
            hello_sent: false,
            goaway_owed: false,
            draining: false,
            peer_draining: false,
            peer_last: 0,
            our_last: 0,
            drained_reported: false,
            farewell: None,
            opens: VecDeque::new(),
            controls: VecDeque::new(),
            ready: VecDeque::new(),
            accepts: VecDeque::new(),
            unclaimed: VecDeque::new(),
            events: VecDeque::new(),
            part: None,
            assembly_free: config.assembly_budget,
            assembly_line: VecDeque::new(),
            growth_free: config.growth_budget,
            spares: Spares::default(),
            liveness: Liveness::new(now, config.heartbeat, config.lease),
            counters: Counters::default(),
            steps: None,
            lives: None,
            config,
        }
    }

    /// Which side this is.
    pub fn role(&self) -> Role {
        self.role
    }

    /// What was moved so far.
    pub fn counters(&self) -> Counters {
        self.counters
    }

    /// The measured round trip, once there is one.
    pub fn round_trip(&self) -> Option<Duration> {
        self.liveness.round_trip()
    }

    /// Why the connection ended, if it did.
    pub fn cause(&self) -> Option<&ConnectionError> {
        match &self.phase {
            Phase::Closed(cause) => Some(cause),
            Phase::Greeting | Phase::Open => None,
        }
    }

    /// Whether the greetings were exchanged.
    pub fn is_ready(&self) -> bool {
        matches!(self.phase, Phase::Open)
    }

    /// The next thing that happened.
    pub fn poll_event(&mut self) -> Option<Event> {
        self.events.pop_front()
    }

    /// Starts or stops collecting [`Step`]s.
    pub fn trace(&mut self, on: bool) {
        if on != self.steps.is_some() {
            self.steps = on.then(Vec::new);
        }
    }

    /// The steps since the last call.
    pub fn poll_steps(&mut self) -> Vec<Step> {
        self.steps.as_mut().map(std::mem::take).unwrap_or_default()
    }

    /// Starts or stops collecting [`Life`]s.
    pub fn watch(&mut self, on: bool) {
        if on != self.lives.is_some() {
            self.lives = on.then(Vec::new);
        }
    }

    /// The beginnings and ends of channels since the last call.
    pub fn poll_lives(&mut self) -> Vec<Life> {
        self.lives.as_mut().map(std::mem::take).unwrap_or_default()
    }

    fn step(&mut self, sent: bool, kind: &'static str, id: u64, len: usize) {
        if let Some(steps) = &mut self.steps {
            steps.push(Step { sent, kind, id, len });
        }
    }

    fn slot(&mut self, key: Key) -> &mut Slot {
        &mut self.slots[key.index()]
    }

    fn insert(&mut self, mut slot: Slot) -> Key {
        let generation = self.next_generation;
        self.next_generation = generation.wrapping_add(1);
        slot.generation = generation;
        let place = self.slots.insert(slot);
        Key { place: u32::try_from(place).expect("both sides' channels are counted in 32 bits"), generation }
    }

    /// Whether `key` still means the channel that it was made for.
    pub(crate) fn is_live(&self, key: Key) -> bool {
        self.slots.get(key.index()).is_some_and(|slot| slot.generation == key.generation)
    }
}
