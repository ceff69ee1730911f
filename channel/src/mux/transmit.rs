//! Bytes for the peer.

use std::collections::VecDeque;
use std::io::IoSlice;
use std::time::Instant;

use bytes::{Buf, Bytes};

use super::slot::{InState, Long, OutState};
use super::{Key, Mux, Phase};
use crate::flow::cost;
use crate::frame::{FIRST_LEN, Frame, HEADER_LEN, Hello, MAX_ERROR, MAX_PART, MAX_PAYLOAD, VERSION};
use crate::queue::LARGE;

/// Bytes that a channel sends before the next one's turn.
const QUANTUM: usize = 64 * 1024;

/// Bytes on their way to the peer: small pieces in one buffer, large ones as shared slices.
#[derive(Debug, Default)]
pub struct Transmit {
    buffer: Vec<u8>,
    /// How much of `buffer` is sent.
    begin: usize,
    /// Shared slices, each with the place in `buffer` that it stands before.
    shared: VecDeque<(usize, Bytes)>,
    /// Bytes to send.
    len: usize,
}

impl Transmit {
    /// Whether everything is sent.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    fn share(&mut self, bytes: Bytes) {
        self.len += bytes.len();
        self.shared.push_back((self.buffer.len(), bytes));
    }

    #[inline]
    fn put_data(&mut self, id: u64, message: &[u8]) {
        self.buffer.reserve(HEADER_LEN + message.len());
        Frame::data_header(id, message.len(), &mut self.buffer);
        self.buffer.extend_from_slice(message);
        self.len += HEADER_LEN + message.len();
    }

    fn put<R>(&mut self, write: impl FnOnce(&mut Vec<u8>) -> R) -> R {
        let before = self.buffer.len();
        let result = write(&mut self.buffer);
        self.len += self.buffer.len() - before;
        result
    }

    fn clear_if_sent(&mut self) {
        if self.len == 0 {
            self.buffer.clear();
            self.begin = 0;
        }
    }

    /// Gives the buffer's memory back if it is more than `keep` bytes and nothing is in it.
    pub fn shrink(&mut self, keep: usize) {
        if self.len == 0 && self.buffer.capacity() > keep {
            *self = Transmit::default();
        }
    }
}

impl Buf for Transmit {
    fn remaining(&self) -> usize {
        self.len
    }

    fn chunk(&self) -> &[u8] {
        match self.shared.front() {
            Some((place, bytes)) if *place == self.begin => bytes,
            Some((place, _)) => &self.buffer[self.begin..*place],
            None => &self.buffer[self.begin..],
        }
    }

    fn chunks_vectored<'a>(&'a self, slices: &mut [IoSlice<'a>]) -> usize {
        let mut begin = self.begin;
        let mut used = 0;
        let mut push = |slice: &'a [u8]| {
            if slice.is_empty() || used == slices.len() {
                return used < slices.len();
            }
            slices[used] = IoSlice::new(slice);
            used += 1;
            true
        };
        for (place, bytes) in &self.shared {
            if !push(&self.buffer[begin..*place]) || !push(bytes) {
                return used;
            }
            begin = *place;
        }
        push(&self.buffer[begin..]);
        used
    }

    fn advance(&mut self, mut count: usize) {
        assert!(count <= self.len, "no more is sent than there was");
        self.len -= count;
        while count > 0 {
            let end = self.shared.front().map_or(self.buffer.len(), |(place, _)| *place);
            let plain = count.min(end - self.begin);
            self.begin += plain;
            count -= plain;
            if count > 0
                && let Some((_, bytes)) = self.shared.front_mut()
            {
                if count < bytes.len() {
                    bytes.advance(count);
                    return;
                }
                count -= bytes.len();
                self.shared.pop_front();
            }
        }
        self.clear_if_sent();
    }
}

impl Mux {
    /// Whether there is something to send.
    #[inline]
    pub fn wants_transmit(&self) -> bool {
        let queued = || !(self.ready.is_empty() && self.controls.is_empty() && self.opens.is_empty());
        let signs = || self.goaway_owed || self.liveness.ping_owed || self.liveness.pong_owed.is_some();
        match self.phase {
            Phase::Greeting => self.hello_owed,
            Phase::Open => self.hello_owed || signs() || queued(),
            Phase::Closed(_) => self.hello_owed || self.farewell.is_some(),
        }
    }

    /// Appends frames to `out`, until it holds about `limit` bytes: control frames first, then messages, channel by
    /// channel in turn.
    pub fn poll_transmit(&mut self, now: Instant, out: &mut Transmit, limit: usize) {
        if std::mem::take(&mut self.hello_owed) {
            let hello = Hello { version: VERSION, limits: self.config.limits() };
            out.put(|buffer| hello.encode(buffer));
            self.hello_sent = true;
            self.step(true, "HELLO", 0, 0);
        }
        match self.phase {
            Phase::Greeting => return,
            Phase::Closed(_) => {
                // Who never greeted may be no peer at all but a shell, which must not be sent anything.
                if let Some(reason) = self.farewell.take_if(|_| self.hello_sent) {
                    let text = &reason.as_bytes()[..reason.len().min(MAX_ERROR)];
                    let frame = Frame::GoAway { last: self.highest, error: true, text };
                    out.put(|buffer| frame.encode(buffer));
                    self.step(true, "GOAWAY", 0, text.len());
                }
                self.farewell = None;
                self.goaway_owed = false;
                self.liveness.ping_owed = false;
                self.liveness.pong_owed = None;
                return;
            }
            Phase::Open => {}
        }
        if let Some(token) = self.liveness.pong_owed.take() {
            out.put(|buffer| Frame::Ping { ack: true, token }.encode(buffer));
            self.step(true, "PING", 0, 0);
        }
        if self.liveness.ping_owed {
            let token = self.liveness.ping(now);
            out.put(|buffer| Frame::Ping { ack: false, token }.encode(buffer));
            self.step(true, "PING", 0, 0);
        }
        while out.len < limit
            && let Some(key) = self.opens.pop_front()
        {
            self.transmit_open(key, out);
        }
        // After the channels that were opened before, so that the peer knows of all that is left.
        if self.opens.is_empty() && std::mem::take(&mut self.goaway_owed) {
            self.our_last = self.highest;
            let frame = Frame::GoAway { last: self.highest, error: false, text: b"" };
            out.put(|buffer| frame.encode(buffer));
            self.step(true, "GOAWAY", 0, 0);
        }
        while out.len < limit
            && self.opens.is_empty()
            && let Some(key) = self.controls.pop_front()
        {
            self.transmit_controls(key, out);
        }
        if !(self.opens.is_empty() && self.controls.is_empty()) {
            return;
        }
        while out.len < limit
            && let Some(key) = self.ready.pop_front()
        {
            // Who has nobody beside it need not stop for the others' turns.
            let quantum = if self.ready.is_empty() { (limit - out.len).max(QUANTUM) } else { QUANTUM };
            self.transmit_turn(key, out, quantum);
        }
    }

    fn transmit_open(&mut self, key: Key, out: &mut Transmit) {
        let slot = self.slot(key);
        let id = slot.id;
        let window = slot.into.flow.outstanding() as u32;
        let carried = match &mut slot.extra {
            // A `carried` of a channel that goes home at once is for its `RETURN`.
            Some(extra) if slot.owes.returned => extra.opened.take(),
            Some(extra) => extra.carried.take(),
            None => None,
        };
        // A request beside `carried` is of an earlier channel, and not yet accepted here.
        let request = match &mut slot.extra {
            Some(extra) if carried.is_none() => std::mem::take(&mut extra.request),
            _ => Bytes::new(),
        };
        let silent = slot.extra.as_ref().is_some_and(|extra| extra.silent);
        let sends = !slot.out.is_over() && !silent;
        // A receiver dropped before the peer knew the channel still ends by its RESET.
        let receives = slot.into.on_wire && slot.into.state != InState::Done;
        slot.announced = true;
        slot.tidy();
        out.put(|buffer| {
            Frame::Open { id, sends, receives, window, carried, request: &request }.encode(buffer);
        });
        let owes = slot.owes;
        self.step(true, "OPEN", id, request.len());
        if owes.credit || owes.reset || owes.returned {
            self.schedule_control(key);
        }
        self.schedule(key);
    }

    fn transmit_controls(&mut self, key: Key, out: &mut Transmit) {
        let slot = self.slot(key);
        slot.in_controls = false;
        let id = slot.id;
        let owes = std::mem::take(&mut slot.owes);
        if owes.returned
            && let Some(carried) = slot.extra().carried.take()
        {
            out.put(|buffer| Frame::Return { id, carried }.encode(buffer));
            self.step(true, "RETURN", id, 0);
        }
        let slot = self.slot(key);
        if owes.credit && slot.into.state == InState::Open {
            let credit = slot.into.flow.grant();
            let window = slot.into.flow.window();
            out.put(|buffer| Frame::Credit { id, credit, window }.encode(buffer));
            self.step(true, "CREDIT", id, 0);
        }
        if owes.reset {
            let slot = self.slot(key);
            let error = slot.extra.as_mut().and_then(|extra| extra.reset_error.take());
            let base = slot.extra.as_ref().map_or(0, |extra| extra.base);
            let consumed = slot.into.consumed.saturating_sub(base);
            let frame = Frame::Reset { id, consumed, error: error.as_deref() };
            out.put(|buffer| frame.encode(buffer));
            slot.into.state = InState::Done;
            self.step(true, "RESET", id, error.map_or(0, |error| error.len()));
        }
        self.settle_slot(key);
    }

    /// One channel's turn, of about `quantum` bytes.
    fn transmit_turn(&mut self, key: Key, out: &mut Transmit, quantum: usize) {
        let tracing = self.steps.is_some();
        let slot = &mut self.slots[key.index()];
        let id = slot.id;
        let outgoing = &mut slot.out;
        slot.in_ready = false;
        if !slot.announced || outgoing.is_over() {
            self.settle_slot(key);
            return;
        }
        let paid = (outgoing.debt as usize).min(quantum);
        outgoing.debt -= paid as u32;
        let quantum = quantum - paid;
        let before = out.len;
        let mut steps: Vec<(&'static str, usize)> = Vec::new();
        let mut closed = false;
        let mut admitted = false;
        let mut gone = (0, 0);
        let mut more = false;
        if outgoing.begun.is_none() && !outgoing.withdraw && !tracing {
            // The short way for what most messages are: small, and paid for.
            let mut spent = 0;
            let mut credit = outgoing.flow.credit();
            while out.len - before < quantum {
                let sent = outgoing.queue.pop_small(credit, |message| out.put_data(id, message));
                let Some(len) = sent else { break };
                let cost = cost(len);
                credit -= cost;
                spent += cost;
                gone.0 += 1;
            }
            outgoing.flow.spend(spent);
            outgoing.queued -= spent;
            gone.1 = spent;
        }
        while outgoing.is_ready() {
            if out.len - before >= quantum {
                more = true;
                break;
            }
            if std::mem::take(&mut outgoing.withdraw) {
                let credit = outgoing.flow.refund(0);
                out.put(|buffer| Frame::Withdraw { id, credit }.encode(buffer));
                steps.push(("WITHDRAW", 0));
                continue;
            }
            let Some(len) = outgoing.queue.front_len() else {
                if let Some(Long { len, sent, .. }) = &mut outgoing.long {
                    *sent = true;
                    outgoing.flow.spend(HEADER_LEN as u64);
                    let total = u64::from(*len);
                    out.put(|buffer| Frame::first_header(id, total, 0, buffer));
                    steps.push(("FIRST", 0));
                    admitted = outgoing.flow.credit() >= total;
                } else {
                    closed = true;
                    break;
                }
                continue;
            };
            let credit = outgoing.flow.credit();
            // At least one byte.
            let turn = quantum - (out.len - before);
            let (spent, done) = match outgoing.begun {
                None if len <= MAX_PAYLOAD && cost(len) <= credit => {
                    out.put(|buffer| Frame::data_header(id, len, buffer));
                    if tracing {
                        steps.push(("DATA", len));
                    }
                    transmit_part(outgoing, out, 0, len);
                    (cost(len), true)
                }
                None => {
                    let part =
                        len.min(turn).min(MAX_PART - FIRST_LEN).min((credit - HEADER_LEN as u64) as usize);
                    out.put(|buffer| Frame::first_header(id, len as u64, part, buffer));
                    steps.push(("FIRST", part));
                    transmit_part(outgoing, out, 0, part);
                    outgoing.begun = Some(part as u32);
                    (cost(part), part == len)
                }
                Some(sent) => {
                    let sent = sent as usize;
                    let part = (len - sent).min(turn).min(MAX_PART).min(credit as usize);
                    out.put(|buffer| Frame::next_header(id, part, buffer));
                    steps.push(("NEXT", part));
                    transmit_part(outgoing, out, sent, part);
                    outgoing.begun = Some((sent + part) as u32);
                    (part as u64, sent + part == len)
                }
            };
            outgoing.flow.spend(spent);
            outgoing.queued -= spent;
            if done {
                outgoing.begun = None;
                outgoing.queue.pop();
                gone.0 += 1;
                gone.1 += cost(len);
                // Credit for a longer message, withdrawn before this one used it, keeps others waiting at the peer.
                outgoing.withdraw |= outgoing.flow.credit() > outgoing.flow.window();
            }
        }
        outgoing.debt += (out.len - before).saturating_sub(quantum) as u32;
        if more {
            slot.in_ready = true;
            self.ready.push_back(key);
        } else {
            outgoing.debt = 0;
            outgoing.queue.shrink(&mut self.spares);
        }
        if closed {
            let error = slot.extra.as_mut().and_then(|extra| extra.close_error.take());
            slot.out.state = OutState::Closed;
            out.put(|buffer| Frame::Close { id, error: error.as_deref() }.encode(buffer));
            steps.push(("CLOSE", error.map_or(0, |error| error.len())));
        }
        let echoes = slot.extra.as_ref().is_some_and(|extra| extra.echo);
        let out = &slot.out;
        // Waking a sender for each freed byte would cost more than it gains.
        let room = out.queued * 2 <= out.flow.window() && out.long.is_none();
        if out.want && (room || admitted) {
            self.tell_writable(key);
        }
        if echoes && gone.0 > 0 {
            self.echoed(key, gone.0, gone.1);
        }
        if tracing {
            for (kind, len) in steps {
                self.step(true, kind, id, len);
            }
        }
        self.settle_slot(key);
    }
}

/// Appends `len` bytes of the first queued message, from its byte `begin` on.
#[inline]
fn transmit_part(outgoing: &super::slot::Outgoing, out: &mut Transmit, begin: usize, len: usize) {
    if len >= LARGE
        && let Some(shared) = outgoing.queue.front_shared()
    {
        out.share(shared.slice(begin..begin + len));
    } else if let Some(message) = outgoing.queue.front() {
        out.put(|buffer| buffer.extend_from_slice(&message[begin..begin + len]));
    }
}
