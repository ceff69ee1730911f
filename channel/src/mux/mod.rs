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

mod assembly;
mod home;
mod liveness;
mod receive;
mod slot;
mod transmit;
mod travel;

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use rustc_hash::FxHashMap;
use slab::Slab;

pub use slot::Key;
use slot::{InState, Long, OutState, Slot};
pub use transmit::Transmit;

use crate::error::{ClosedError, ConnectionError, HandshakeError, RemoteError};
use crate::flow::{MAX_CREDIT, cost};
use crate::frame::{Hello, Limits, MAX_ERROR, MAX_REQUEST, VERSION};
use crate::queue::Spares;
pub use crate::queue::{Payload, Queue};
use liveness::Liveness;

/// Which side of a connection this is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// The side that started the other. It waits for the worker's hello.
    Coordinator,
    /// The side that was started. It speaks first.
    Worker,
}

/// What this side of a connection holds and promises.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Config {
    /// Channels that the peer may have open at once.
    pub max_channels: u32,
    /// Bytes that may be on their way or unread on a channel before its window has grown. At least 64.
    pub initial_window: u32,
    /// The largest that a channel's window grows, in bytes.
    pub max_window: u32,
    /// Bytes by which all windows together may grow.
    pub growth_budget: u64,
    /// The longest message that this side accepts, in bytes; at most 1 GiB.
    pub max_message: u64,
    /// Bytes kept for messages longer than their channel's window; at least `max_message` and 12 bytes more.
    pub assembly_budget: u64,
    /// After so long without a byte from the peer it is asked for one.
    pub heartbeat: Duration,
    /// After so long without a byte from the peer it is lost.
    pub lease: Duration,
}

impl Default for Config {
    fn default() -> Config {
        Config {
            max_channels: 4096,
            initial_window: 64 * 1024,
            max_window: 16 * 1024 * 1024,
            growth_budget: 64 * 1024 * 1024,
            max_message: 64 * 1024 * 1024,
            assembly_budget: 128 * 1024 * 1024,
            heartbeat: Duration::from_secs(5),
            lease: Duration::from_secs(20),
        }
    }
}

impl Config {
    /// The longest `max_message` that a configuration may have.
    pub const MAX_MESSAGE: u64 = 1 << 30;

    fn limits(&self) -> Limits {
        Limits {
            max_channels: self.max_channels,
            initial_window: self.initial_window,
            max_message: self.max_message,
            assembly_budget: self.assembly_budget,
        }
    }

    /// The bound on the memory that buffers of one connection take on this side, in bytes, each way.
    pub fn memory_bound(&self) -> u64 {
        let channel = u64::from(self.initial_window) + MAX_REQUEST as u64 + 2 * MAX_ERROR as u64;
        u64::from(self.max_channels) * channel + self.growth_budget + self.assembly_budget
    }
}

fn check_limits(limits: &Limits) -> Result<(), &'static str> {
    if limits.initial_window < 64 || limits.initial_window > MAX_CREDIT / 2 {
        return Err("initial_window must be from 64 to 2^30 - 1");
    }
    if limits.max_message > Config::MAX_MESSAGE {
        return Err("max_message must be at most 2^30");
    }
    if limits.assembly_budget < limits.max_message {
        return Err("assembly_budget must be at least max_message");
    }
    Ok(())
}

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
    fn is_live(&self, key: Key) -> bool {
        self.slots.get(key.index()).is_some_and(|slot| slot.generation == key.generation)
    }

    // ---- opening ----

    /// Opens a channel: whether this side `sends` and `receives` on it, and what the peer should know.
    pub fn open(&mut self, sends: bool, receives: bool, request: Bytes) -> Result<Key, OpenFault> {
        debug_assert!(request.len() <= MAX_REQUEST, "the caller checks the request's length");
        match &self.phase {
            Phase::Closed(cause) => return Err(OpenFault::Lost(cause.clone())),
            Phase::Greeting => return Err(OpenFault::Full),
            Phase::Open if self.draining || self.peer_draining => return Err(OpenFault::Draining),
            Phase::Open => {}
        }
        if self.ours_open >= self.peer.max_channels {
            self.capacity_wanted = true;
            return Err(OpenFault::Full);
        }
        let mut slot = Slot::new(
            self.next_id,
            true,
            sends.then_some(self.peer.initial_window),
            receives.then_some(self.config.initial_window),
        );
        slot.extra().request = request;
        let key = self.insert(slot);
        self.enlist(key);
        Ok(key)
    }

    /// Gives the channel the next id and a place among those to be opened.
    fn enlist(&mut self, key: Key) {
        let id = self.next_id;
        self.next_id += 2;
        self.ours_open += 1;
        let slot = self.slot(key);
        slot.id = id;
        slot.ours = true;
        slot.announced = false;
        slot.counted = true;
        self.ids.insert(id, key);
        self.opens.push_back(key);
    }

    /// The next channel that the peer opened, with its request and the directions `(sends, receives)` of this side.
    pub fn accept(&mut self) -> Option<(Key, Bytes, bool, bool)> {
        let key = loop {
            let key = self.accepts.pop_front()?;
            // One that its opener gave up again is gone.
            if self.is_live(key) {
                break key;
            }
        };
        let slot = self.slot(key);
        let sends = slot.out.state != OutState::Unused;
        let receives = slot.into.flow.window() != 0;
        slot.out.handle = sends;
        slot.into.handle = receives;
        let request = slot.extra.as_mut().map(|extra| std::mem::take(&mut extra.request)).unwrap_or_default();
        slot.tidy();
        Some((key, request, sends, receives))
    }

    /// The channel's id; 0 while both of its ends are on this side.
    pub fn id(&self, key: Key) -> u64 {
        self.slots[key.index()].id
    }

    /// Whether the peer may open more channels.
    pub fn may_come(&self) -> bool {
        self.cause().is_none() && !self.draining && !self.peer_draining
    }

    /// Asks the peer for a sign of life.
    pub fn ping(&mut self) {
        self.liveness.ping_owed = true;
    }

    // ---- sending ----

    /// Offers a message with the ends that travel in it. `ticket` as from an earlier [`Sent::Wait`] for this message.
    #[inline]
    pub fn send(
        &mut self,
        key: Key,
        payload: &Payload<'_>,
        ends: &[Key],
        ticket: Option<u32>,
    ) -> Result<Sent, SendFault> {
        let len = payload.len();
        let slot = &mut self.slots[key.index()];
        let out = &mut slot.out;
        let room = out.flow.window().saturating_sub(out.queued);
        if matches!(self.phase, Phase::Open)
            && out.state == OutState::Open
            && out.long.is_none()
            && ends.is_empty()
            && slot.link.is_none()
            && len as u64 <= self.peer.max_message
            && cost(len) <= room
        {
            out.queued += cost(len);
            out.queue.prepare(&mut self.spares);
            out.queue.push(payload.clone());
            out.accepted += 1;
            out.bytes += len as u64;
            self.counters.messages_sent += 1;
            self.counters.bytes_sent += len as u64;
            if !slot.in_ready {
                self.schedule(key);
            }
            return Ok(Sent::Taken);
        }
        self.send_slowly(key, payload, ends, ticket)
    }

    #[cold]
    fn send_slowly(
        &mut self,
        key: Key,
        payload: &Payload<'_>,
        ends: &[Key],
        ticket: Option<u32>,
    ) -> Result<Sent, SendFault> {
        let len = payload.len() as u64;
        match &self.phase {
            Phase::Closed(cause) => return Err(SendFault::Lost(cause.clone())),
            Phase::Greeting | Phase::Open => {}
        }
        let slot = &mut self.slots[key.index()];
        match slot.out.state {
            OutState::Open => {}
            OutState::Closing
            | OutState::Closed
            | OutState::Unused
            | OutState::Done { stopped: false, .. } => {
                return Err(SendFault::Closed);
            }
            OutState::Done { stopped: true, .. } => {
                let error = slot.extra.as_ref().and_then(|extra| extra.stopped_with.clone());
                return Err(SendFault::Stopped(error.map(RemoteError::new)));
            }
        }
        if len > self.peer.max_message {
            return Err(SendFault::TooLarge(self.peer.max_message));
        }
        if slot.link.is_some() {
            return self.send_locally(key, payload, ends);
        }
        let out = &mut slot.out;
        let cost = cost(payload.len());
        let long = match out.long {
            Some(long) if Some(long.ticket) != ticket => {
                out.want = true;
                return Ok(Sent::Wait(None));
            }
            long => long,
        };
        let admitted = match long {
            Some(long) => {
                debug_assert_eq!(u64::from(long.len), len, "a ticket is for one message");
                long.sent && out.flow.credit() >= len
            }
            None => out.queued + cost <= out.flow.window(),
        };
        if !admitted {
            out.want = true;
            if long.is_none() && out.queued == 0 && cost > out.flow.window() {
                let ticket = self.next_ticket;
                self.next_ticket = ticket.wrapping_add(1);
                out.long = Some(Long { len: len as u32, ticket, sent: false });
                self.schedule(key);
                return Ok(Sent::Wait(Some(ticket)));
            }
            return Ok(Sent::Wait(long.map(|long| long.ticket)));
        }
        let number = out.accepted;
        if !ends.is_empty() {
            match self.embark(key, number, ends) {
                Ok(true) => {}
                Ok(false) => {
                    self.slot(key).out.want = true;
                    self.capacity_wanted = true;
                    return Ok(Sent::Wait(long.map(|long| long.ticket)));
                }
                Err(fault) => {
                    if let Some(long) = long {
                        self.withdraw(key, long.ticket);
                    }
                    return Err(fault);
                }
            }
        }
        let out = &mut self.slots[key.index()].out;
        if long.is_some() {
            out.long = None;
            out.begun = Some(0);
            out.queued += len;
        } else {
            out.queued += cost;
        }
        out.queue.push(payload.clone());
        out.accepted += 1;
        out.bytes += len;
        self.counters.messages_sent += 1;
        self.counters.bytes_sent += len;
        self.schedule(key);
        Ok(Sent::Taken)
    }

    /// Takes back a message that was announced and not taken.
    pub fn withdraw(&mut self, key: Key, ticket: u32) {
        let slot = self.slot(key);
        if slot.out.long.is_some_and(|long| long.ticket == ticket) {
            let sent = slot.out.long.take().is_some_and(|long| long.sent);
            slot.out.withdraw |= sent;
            if std::mem::take(&mut slot.out.want) {
                self.events.push_back(Event::Writable(key));
            }
            self.schedule(key);
        }
    }

    /// Asks for an [`Event::Writable`] at the next change of the sending direction; `None` if it ended already.
    pub fn await_sender(&mut self, key: Key) {
        self.slot(key).out.want = true;
    }

    /// Ends the sending direction after its queued messages, with an error for the peer if there is one. Again: nothing.
    pub fn close(&mut self, key: Key, error: Option<&[u8]>) {
        let slot = self.slot(key);
        if slot.out.state != OutState::Open {
            return;
        }
        slot.out.state = OutState::Closing;
        if let Some(error) = error {
            slot.extra().close_error = Some(error[..error.len().min(MAX_ERROR)].into());
        }
        let slot = self.slot(key);
        if slot.out.long.take().is_some_and(|long| long.sent) {
            slot.out.withdraw = true;
        }
        if std::mem::take(&mut slot.out.want) {
            self.events.push_back(Event::Writable(key));
        }
        if self.slot(key).link.is_some() { self.close_locally(key) } else { self.schedule(key) }
    }

    /// How the sending direction ended: `None` while it has not.
    pub fn ending(&self, key: Key) -> Option<Result<(), ClosedError>> {
        let slot = &self.slots[key.index()];
        match (slot.out.state, &self.phase) {
            (OutState::Unused | OutState::Done { stopped: false, .. }, _) => Some(Ok(())),
            (OutState::Done { consumed, stopped: true }, _) => {
                let error = slot.extra.as_ref().and_then(|extra| extra.stopped_with.clone());
                Some(Err(ClosedError::Stopped {
                    unconsumed: slot.out.accepted.saturating_sub(consumed),
                    error: error.map(RemoteError::new),
                }))
            }
            (_, Phase::Closed(cause)) => Some(Err(ClosedError::Lost(cause.clone()))),
            (OutState::Open | OutState::Closing | OutState::Closed, _) => None,
        }
    }

    /// Whether the sending direction takes no more messages.
    pub fn is_closed(&self, key: Key) -> bool {
        !self.slots[key.index()].out.is_accepting() || self.cause().is_some()
    }

    /// Puts the channel among those with something to send, if it has.
    fn schedule(&mut self, key: Key) {
        let slot = &mut self.slots[key.index()];
        if !slot.in_ready && slot.id != 0 && slot.out.is_ready() && matches!(self.phase, Phase::Open) {
            slot.in_ready = true;
            self.ready.push_back(key);
        }
    }

    fn schedule_control(&mut self, key: Key) {
        let slot = &mut self.slots[key.index()];
        if !slot.in_controls && slot.announced && slot.id != 0 && matches!(self.phase, Phase::Open) {
            slot.in_controls = true;
            self.controls.push_back(key);
        }
    }

    /// Whether a message of `bytes` would be taken now.
    pub fn has_room(&self, key: Key, bytes: usize) -> bool {
        let slot = &self.slots[key.index()];
        if let Some(partner) = slot.link {
            return self.slots[partner.index()].into.has_local_room(cost(bytes));
        }
        slot.out.long.is_none() && slot.out.queued + cost(bytes) <= slot.out.flow.window()
    }

    /// The length of the longest message that needs no announcement.
    pub fn piece(&self, key: Key) -> usize {
        let window = self.slots[key.index()].out.flow.window();
        (window as usize).saturating_sub(crate::frame::HEADER_LEN).max(1)
    }

    /// Messages and bytes taken for sending.
    pub fn sent(&self, key: Key) -> (u64, u64) {
        let out = &self.slots[key.index()].out;
        (out.accepted, out.bytes)
    }

    // ---- receiving ----

    /// Reports `consumed` messages of `cost` bytes, and swaps the channel's queue with the empty `batch`.
    pub fn take(&mut self, key: Key, consumed: u64, cost: u64, now: Instant, batch: &mut Queue) -> Taken {
        debug_assert!(batch.is_empty(), "what was taken is consumed first");
        self.consume(key, consumed, cost, now);
        let slot = &mut self.slots[key.index()];
        if !slot.into.queue.is_empty() {
            std::mem::swap(&mut slot.into.queue, batch);
            return Taken::Messages {
                report_after: u64::from(slot.into.flow.window() / 4).max(1),
                cargo: slot.extra.as_ref().is_some_and(|extra| !extra.cargo.is_empty()),
            };
        }
        match (slot.into.state, &self.phase) {
            (InState::Open, Phase::Closed(cause)) => Taken::Lost(cause.clone()),
            (InState::Open, _) => {
                slot.into.want = true;
                slot.into.queue.shrink(&mut self.spares);
                batch.shrink(&mut self.spares);
                self.claim_room(key);
                Taken::Wait
            }
            (InState::Ended, _) => {
                self.finish(key);
                let error = self.slot(key).extra.as_mut().and_then(|extra| extra.closed_with.take());
                Taken::End(error.map(RemoteError::new))
            }
            (InState::Finishing | InState::Done, _) => {
                let error = self.slot(key).extra.as_mut().and_then(|extra| extra.closed_with.take());
                Taken::End(error.map(RemoteError::new))
            }
        }
    }

    /// Reports messages as consumed: their credit goes back to the peer.
    pub fn consume(&mut self, key: Key, messages: u64, cost: u64, now: Instant) {
        if messages == 0 {
            return;
        }
        let slot = &mut self.slots[key.index()];
        slot.into.consumed += messages;
        slot.into.flow.consume(cost);
        if let Some(partner) = slot.link {
            match slot.homing() {
                Some(home) => self.forward(home),
                None => self.tell_writable(partner),
            }
            return;
        }
        if slot.into.state != InState::Open {
            return;
        }
        let freed = if slot.into.flow.reserved() > 0 { slot.into.flow.release() } else { 0 };
        if freed > 0 {
            self.release_room(u64::from(freed));
        }
        if self.slot(key).into.flow.is_due() {
            self.grow(key, now);
            self.owe_credit(key);
        }
    }

    fn owe_credit(&mut self, key: Key) {
        let slot = self.slot(key);
        if slot.into.state == InState::Open && slot.into.flow.due() > 0 {
            slot.owes.credit = true;
            self.schedule_control(key);
        }
    }

    /// Widens the window of a channel that it limits.
    fn grow(&mut self, key: Key, now: Instant) {
        let micros = self.liveness.micros(now);
        let round_trip = self.liveness.growth_round_trip(now);
        let slot = &mut self.slots[key.index()];
        let flow = &mut slot.into.flow;
        if flow.is_limiting(micros, round_trip) {
            let by = flow.window().min(self.config.max_window.saturating_sub(flow.window()));
            let by = u64::from(by).min(self.growth_free);
            self.growth_free -= by;
            flow.grow(by as u32);
        }
    }

    /// Nobody waits for a message any more.
    pub fn unwait_receiver(&mut self, key: Key) {
        self.slot(key).into.want = false;
    }

    /// Whether a receive would not wait.
    pub fn is_readable(&self, key: Key) -> bool {
        let into = &self.slots[key.index()].into;
        !into.queue.is_empty() || into.state != InState::Open || self.cause().is_some()
    }

    /// Messages and bytes that came.
    pub fn arrived(&self, key: Key) -> (u64, u64) {
        let into = &self.slots[key.index()].into;
        (into.received, into.bytes)
    }

    /// Everything was received: the receipt is owed.
    fn finish(&mut self, key: Key) {
        let slot = self.slot(key);
        slot.into.state = InState::Finishing;
        slot.into.queue.clear();
        slot.into.assembly = None;
        let freed = slot.into.flow.abandon();
        let cargo = slot.extra.as_mut().map(|extra| std::mem::take(&mut extra.cargo)).unwrap_or_default();
        slot.owes.credit = false;
        slot.owes.reset = true;
        let link = slot.link;
        self.release_room(u64::from(freed));
        for (_, _, key) in cargo {
            self.discard(key);
        }
        self.leave_line(key);
        match link {
            Some(partner) => {
                let homing = self.slot(key).homing();
                self.finish_locally(key, partner);
                if let Some(home) = homing {
                    self.forward(home);
                }
            }
            None if !self.slot(key).into.on_wire || self.cause().is_some() => {
                self.slot(key).into.state = InState::Done;
                self.settle_slot(key);
            }
            None => self.schedule_control(key),
        }
    }

    /// The peer may stop sending on this channel, for this reason: what comes is ignored. `consumed` messages of `cost`
    /// bytes were consumed since the last report. Again: nothing.
    pub fn stop(&mut self, key: Key, consumed: u64, error: Option<&[u8]>) {
        let slot = self.slot(key);
        slot.into.want = false;
        slot.into.consumed += consumed;
        if matches!(slot.into.state, InState::Finishing | InState::Done) {
            return;
        }
        if let Some(error) = error {
            slot.extra().reset_error = Some(error[..error.len().min(MAX_ERROR)].into());
        }
        self.finish(key);
    }

    /// The sending handle is gone: the direction ends after what is queued. Nothing if the end has travelled away.
    pub fn release_sender(&mut self, key: Key) {
        if !self.is_live(key) {
            return;
        }
        self.close(key, None);
        let slot = self.slot(key);
        slot.out.handle = false;
        slot.out.want = false;
        self.settle_slot(key);
    }

    /// The receiving handle is gone. Nothing if the end has travelled away.
    pub fn release_receiver(&mut self, key: Key, consumed: u64) {
        if !self.is_live(key) {
            return;
        }
        self.stop(key, consumed, None);
        self.slot(key).into.handle = false;
        self.settle_slot(key);
    }

    /// Ends both directions of a channel that nobody took.
    fn discard(&mut self, key: Key) {
        let slot = self.slot(key);
        slot.unload();
        slot.into.handle = true;
        slot.out.handle = true;
        self.release_receiver(key, 0);
        self.release_sender(key);
    }

    /// Refuses a channel that the peer opened.
    pub fn refuse(&mut self, key: Key, error: &[u8]) {
        let slot = self.slot(key);
        slot.into.handle = true;
        slot.out.handle = true;
        self.stop(key, 0, Some(error));
        self.close(key, Some(error));
        self.release_receiver(key, 0);
        self.release_sender(key);
    }

    /// Frees what is not needed any more of a channel that may have ended.
    fn settle_slot(&mut self, key: Key) {
        let closed = self.cause().is_some();
        let slot = &mut self.slots[key.index()];
        if slot.counted && (slot.is_over() || closed) {
            slot.counted = false;
            self.ids.remove(&slot.id);
            if self.recent.0 == slot.id {
                self.recent.0 = 0;
            }
            let ours = slot.ours;
            if ours {
                self.ours_open -= 1;
                if std::mem::take(&mut self.capacity_wanted) {
                    self.events.push_back(Event::Capacity);
                }
            } else {
                self.theirs_open -= 1;
            }
            self.check_drained();
        }
        let slot = &self.slots[key.index()];
        let queued = slot.in_controls || slot.in_ready || slot.in_line;
        if slot.is_released() && !slot.counted && !queued && slot.link.is_none() {
            if slot.is_cargo() && !closed {
                self.keep_unclaimed(key);
                return;
            }
            let growth = slot.into.flow.window().saturating_sub(self.config.initial_window);
            if slot.into.flow.window() != 0 {
                self.growth_free += u64::from(growth);
            }
            self.slots.remove(key.index());
        }
    }

    fn tell_writable(&mut self, key: Key) {
        if std::mem::take(&mut self.slot(key).out.want) {
            self.events.push_back(Event::Writable(key));
        }
    }

    fn tell_readable(&mut self, key: Key) {
        if std::mem::take(&mut self.slot(key).into.want) {
            self.events.push_back(Event::Readable(key));
        }
    }

    // ---- the connection's end ----

    /// Accepts no more channels; once the last one has ended there is an [`Event::Drained`].
    pub fn drain(&mut self) {
        if !self.draining && self.cause().is_none() {
            self.draining = true;
            self.goaway_owed = true;
            while let Some((key, ..)) = self.accept() {
                self.refuse(key, b"the connection is being closed");
            }
            if std::mem::take(&mut self.capacity_wanted) {
                self.events.push_back(Event::Capacity);
            }
            self.check_drained();
        }
    }

    fn check_drained(&mut self) {
        let draining = self.draining || self.peer_draining;
        if draining && !self.drained_reported && self.ours_open == 0 && self.theirs_open == 0 {
            self.drained_reported = true;
            self.events.push_back(Event::Drained);
        }
    }

    /// Whether the connection is being closed and no channel is left.
    pub fn is_drained(&self) -> bool {
        self.drained_reported
    }

    /// Ends the connection at once and tells the peer why.
    pub fn abort(&mut self, reason: &str) {
        if self.cause().is_none() {
            let reason: Arc<str> = reason.into();
            self.farewell = Some(reason.clone());
            self.end(ConnectionError::Aborted { reason });
        }
    }

    /// The byte stream from the peer ended.
    pub fn handle_eof(&mut self) {
        let cause = match (self.is_drained(), self.draining) {
            (true, true) => ConnectionError::Closed,
            (true, false) => ConnectionError::ClosedByPeer,
            // Channels that were opened too late for the peer to know of them.
            (false, _)
                if self.peer_draining
                    && self.ids.keys().all(|&id| self.is_ours(id) && id > self.peer_last) =>
            {
                ConnectionError::ClosedByPeer
            }
            (false, _) => ConnectionError::Eof,
        };
        self.end(cause);
    }

    /// Ends the connection for this cause; only the first counts.
    pub fn end(&mut self, cause: ConnectionError) {
        if self.cause().is_some() {
            return;
        }
        self.phase = Phase::Closed(cause);
        self.opens.clear();
        self.ready.clear();
        self.controls.clear();
        self.assembly_line.clear();
        let keys: Vec<Key> = (self.slots.iter())
            .map(|(index, slot)| Key { place: index as u32, generation: slot.generation })
            .collect();
        for &key in &keys {
            let slot = self.slot(key);
            slot.in_controls = false;
            slot.in_ready = false;
            slot.in_line = false;
            slot.out.discard();
            slot.into.assembly = None;
            self.tell_writable(key);
            self.tell_readable(key);
        }
        // What was never handed to anybody goes now; the rest when its handles do.
        let mut nobodys: Vec<Key> = self.accepts.drain(..).collect();
        for &key in &keys {
            if let Some(extra) = &mut self.slot(key).extra {
                nobodys.extend(extra.cargo.drain(..).map(|(_, _, key)| key));
            }
        }
        for key in nobodys {
            if self.is_live(key) {
                if let Some(partner) = self.slot(key).link.take() {
                    self.slot(partner).link = None;
                }
                self.settle_slot(key);
            }
        }
        for key in keys {
            if self.is_live(key) {
                self.settle_slot(key);
            }
        }
        self.unclaimed.clear();
        self.events.push_back(Event::Capacity);
        self.events.push_back(Event::Closed);
    }

    fn greet(&mut self, hello: Hello) -> Result<(), ConnectionError> {
        // Also when it does not fit, so that the peer can see for itself what does not.
        self.hello_owed |= self.role == Role::Coordinator;
        if hello.version != VERSION {
            return Err(HandshakeError::Version { ours: VERSION, theirs: hello.version }.into());
        }
        let ours = self.config.limits();
        if let Err(what) = check_limits(&hello.limits).and_then(|()| check_limits(&ours)) {
            return Err(HandshakeError::Limits { what, ours, theirs: hello.limits }.into());
        }
        self.peer = hello.limits;
        self.phase = Phase::Open;
        self.events.push_back(Event::Ready);
        Ok(())
    }

    /// Bytes of messages held now, both ways together.
    pub fn memory(&self) -> u64 {
        let slots = self.slots.iter();
        slots
            .map(|(_, slot)| {
                let assembly = slot.into.assembly.as_ref().map_or(0, |assembly| assembly.bytes.len() as u64);
                (slot.out.queue.memory() + slot.into.queue.memory()) as u64 + assembly
            })
            .sum()
    }

    /// What of this side's budgets for long messages and for wider windows is not in use, in bytes.
    pub fn unused(&self) -> (u64, u64) {
        (self.assembly_free, self.growth_free)
    }

    /// Channels in the table, ended ones with live handles included.
    pub fn channels(&self) -> usize {
        self.slots.len()
    }
}
