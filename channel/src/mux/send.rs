//! What the holder of a sending end can do.

use super::slot::{Long, OutState};
use super::{Event, Key, Mux, Payload, Phase, SendFault, Sent};
use crate::error::{ClosedError, RemoteError};
use crate::flow::cost;
use crate::frame::{HEADER_LEN, MAX_ERROR};

impl Mux {
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
        let slot = match self.slots.get_mut(key.index()) {
            Some(slot) if slot.generation == key.generation => slot,
            _ => return Err(SendFault::Closed),
        };
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
    pub(super) fn send_slowly(
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
                // Announced only with the channels for its ends at hand: the room that the peer keeps for it is others' room.
                if !self.may_embark(key, ends)? {
                    self.capacity_wanted = true;
                    return Ok(Sent::Wait(None));
                }
                let out = &mut self.slots[key.index()].out;
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
                    if let Some(long) = long {
                        self.withdraw(key, long.ticket);
                    }
                    self.slot(key).out.want = true;
                    self.capacity_wanted = true;
                    return Ok(Sent::Wait(None));
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
        if !self.is_live(key) {
            return;
        }
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

    /// Asks for an [`Event::Writable`] at the next change of the sending direction.
    pub fn await_sender(&mut self, key: Key) {
        if self.is_live(key) {
            self.slot(key).out.want = true;
        }
    }

    /// Ends the sending direction after its queued messages, with an error for the peer if there is one. Again: nothing.
    pub fn close(&mut self, key: Key, error: Option<&[u8]>) {
        if !self.is_live(key) {
            return;
        }
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
        if !self.is_live(key) {
            return Some(Ok(()));
        }
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
        !self.is_live(key) || !self.slots[key.index()].out.is_accepting() || self.cause().is_some()
    }

    /// Puts the channel among those with something to send, if it has.
    pub(super) fn schedule(&mut self, key: Key) {
        let slot = &mut self.slots[key.index()];
        if !slot.in_ready && slot.id != 0 && slot.out.is_ready() && matches!(self.phase, Phase::Open) {
            slot.in_ready = true;
            self.ready.push_back(key);
        }
    }

    pub(super) fn schedule_control(&mut self, key: Key) {
        let slot = &mut self.slots[key.index()];
        if !slot.in_controls && slot.announced && slot.id != 0 && matches!(self.phase, Phase::Open) {
            slot.in_controls = true;
            self.controls.push_back(key);
        }
    }

    /// Whether a message of `bytes` would be taken now.
    pub fn has_room(&self, key: Key, bytes: usize) -> bool {
        if !self.is_live(key) {
            return true;
        }
        let slot = &self.slots[key.index()];
        if let Some(partner) = slot.link {
            return slot.homing().is_none() && self.slots[partner.index()].into.has_local_room(cost(bytes));
        }
        slot.out.long.is_none() && slot.out.queued + cost(bytes) <= slot.out.flow.window()
    }

    /// The length of the longest message that needs no announcement.
    pub fn piece(&self, key: Key) -> usize {
        let window = self.slots.get(key.index()).map_or(0, |slot| slot.out.flow.window());
        window.saturating_sub(HEADER_LEN as u64).min(self.peer.max_message).max(1) as usize
    }

    /// Messages and bytes taken for sending.
    pub fn sent(&self, key: Key) -> (u64, u64) {
        if !self.is_live(key) {
            return (0, 0);
        }
        let out = &self.slots[key.index()].out;
        (out.accepted, out.bytes)
    }
}
