//! Ends of channels that travel inside messages.
//!
//! [`Mux::pair`] makes two ends on this side, linked to each other. When one of them is sent in a message its partner stays
//! and becomes a channel on the wire: its `OPEN` says in which message the end travels, and what the end had not yet
//! received goes after it. The peer keeps the channel with the one that carries it until the message is decoded and the
//! end is claimed; what is not claimed by then, or lies in messages that nobody receives, is ended.

use super::slot::{InState, OutState, Slot};
use super::{Key, Mux, SendFault, Sent};
use crate::error::Violation;
use crate::flow::{Outflow, cost};
use crate::frame::Carried;
use crate::queue::Payload;

/// So many ends are always kept for messages that were not decoded yet.
const UNCLAIMED: usize = 256;

impl Mux {
    /// Two ends, both on this side: whether the first sends to the second, and the second to the first.
    pub fn pair(&mut self, forward: bool, backward: bool) -> (Key, Key) {
        let window = self.config.initial_window;
        let mut end = |sends: bool, receives: bool| {
            let mut slot = Slot::new(0, true, sends.then_some(window), receives.then_some(window));
            slot.into.on_wire = false;
            self.insert(slot)
        };
        let (here, there) = (end(forward, backward), end(backward, forward));
        self.slot(here).link = Some(there);
        self.slot(there).link = Some(here);
        (here, there)
    }

    /// Whether the end with these directions may travel: as a whole, and if its partner is with the peer only as long as
    /// nothing came of it that would have to be told apart from what comes later.
    pub fn may_travel(&self, key: Key, sends: bool, receives: bool) -> bool {
        if !self.is_live(key) {
            return false;
        }
        let slot = &self.slots[key.index()];
        let whole = slot.out.handle == sends && slot.into.handle == receives;
        whole && (self.may_depart(slot) || self.may_return(slot))
    }

    /// Whether the end, whose partner is on this side, may leave it: nothing of it is in use or over.
    fn may_depart(&self, slot: &Slot) -> bool {
        let idle = slot.extra.as_ref().is_none_or(|extra| extra.cargo.is_empty() && extra.homing.is_none());
        let sends = matches!(slot.out.state, OutState::Open | OutState::Done { stopped: true, .. });
        let receives = matches!(slot.into.state, InState::Open | InState::Ended);
        // What came home to it may be longer than what can leave again.
        let fits = slot.into.queue.longest() as u64 <= self.peer.max_message;
        let usable = (sends || !slot.out.handle) && (receives || !slot.into.handle) && fits;
        slot.link.is_some() && idle && usable
    }

    fn may_return(&self, slot: &Slot) -> bool {
        let receives = slot.into.state != InState::Done;
        let untouched = slot.into.consumed == 0 && slot.into.state != InState::Finishing;
        let idle = match slot.out.state {
            OutState::Unused => true,
            // All credit is here, so none is on its way for a message that was announced and withdrawn.
            OutState::Open => {
                let flow = &slot.out.flow;
                !receives || slot.out.accepted == 0 && !slot.out.withdraw && flow.credit() == flow.window()
            }
            OutState::Closing | OutState::Closed | OutState::Done { .. } => false,
        };
        let plain = slot.extra.as_ref().is_none_or(|extra| {
            extra.cargo.is_empty() && !extra.echo && extra.deliver.is_none() && extra.base == 0
        });
        // What comes on the channel goes back out, and must be as welcome there.
        let fits = !receives || self.config.max_message <= self.peer.max_message;
        let known = slot.id != 0 && slot.counted && slot.out.long.is_none();
        known && (!receives || untouched) && idle && plain && fits
    }

    pub(super) fn send_locally(
        &mut self,
        key: Key,
        payload: &Payload<'_>,
        ends: &[Key],
    ) -> Result<Sent, SendFault> {
        if !ends.is_empty() {
            return Err(SendFault::EndInUse);
        }
        let cost = cost(payload.len());
        let slot = self.slot(key);
        let Some(partner) = slot.link else { return Err(SendFault::Closed) };
        if slot.homing().is_some() {
            slot.out.want = true;
            return Ok(Sent::Wait(None));
        }
        let into = &mut self.slot(partner).into;
        if !into.has_local_room(cost) {
            self.slot(key).out.want = true;
            return Ok(Sent::Wait(None));
        }
        into.flow.admit(cost);
        self.arrive(partner, payload.clone());
        let out = &mut self.slot(key).out;
        out.accepted += 1;
        out.bytes += payload.len() as u64;
        self.counters.messages_sent += 1;
        self.counters.bytes_sent += payload.len() as u64;
        Ok(Sent::Taken)
    }

    /// The sending direction of `key` was closed and its partner is on this side.
    pub(super) fn close_locally(&mut self, key: Key) {
        let slot = self.slot(key);
        slot.out.state = OutState::Closed;
        if slot.homing().is_some() {
            // What is still on its way home comes first.
            return;
        }
        let error = slot.extra.as_mut().and_then(|extra| extra.close_error.take());
        let Some(partner) = slot.link else { return };
        let other = self.slot(partner);
        if other.into.state == InState::Open {
            other.into.state = InState::Ended;
            if error.is_some() {
                other.extra().closed_with = error;
            }
            self.tell_readable(partner);
        }
    }

    /// The receiving direction of `key` has ended and its partner is on this side.
    pub(super) fn finish_locally(&mut self, key: Key, partner: Key) {
        let slot = self.slot(key);
        slot.into.state = InState::Done;
        slot.owes.reset = false;
        let consumed = slot.into.consumed;
        let error = slot.extra.as_mut().and_then(|extra| extra.reset_error.take());
        let other = self.slot(partner);
        if !other.out.is_over() {
            let stopped =
                other.out.state != OutState::Closed || error.is_some() || consumed < other.out.accepted;
            if error.is_some() {
                other.extra().stopped_with = error;
            }
            other.out.state = OutState::Done { consumed, stopped };
            self.tell_writable(partner);
        }
        self.unlink_if_over(key, partner);
    }

    pub(super) fn unlink_if_over(&mut self, key: Key, partner: Key) {
        if self.slot(key).is_over() && self.slot(partner).is_over() {
            self.slot(key).link = None;
            self.slot(partner).link = None;
            // Whoever called this still uses `key`, and settles it.
            self.settle_slot(partner);
        }
    }

    /// Whether `ends` may travel in a message of `carrier` now: not without the capacity for all of them.
    pub(super) fn may_embark(&self, carrier: Key, ends: &[Key]) -> Result<bool, SendFault> {
        if ends.iter().any(|end| !self.is_live(*end)) {
            return Err(SendFault::EndInUse);
        }
        let mut fresh = 0;
        for (index, end) in ends.iter().enumerate() {
            let slot = &self.slots[end.index()];
            if *end == carrier || ends[..index].contains(end) {
                return Err(SendFault::EndInUse);
            }
            match slot.link {
                // Both ends of a pair would leave nothing here to be a channel of.
                Some(partner) if ends.contains(&partner) => return Err(SendFault::EndInUse),
                Some(_) if self.may_depart(slot) => fresh += 1,
                Some(_) => return Err(SendFault::EndInUse),
                None if self.may_return(slot) => {}
                None => return Err(SendFault::EndInUse),
            }
        }
        let capacity = self.room();
        if fresh > 0 && (self.draining || self.peer_draining) {
            return Err(SendFault::Draining);
        }
        Ok(fresh <= capacity)
    }

    /// Sends `ends` away in message `number` of `carrier`: all of them or, without capacity, none.
    pub(super) fn embark(&mut self, carrier: Key, number: u64, ends: &[Key]) -> Result<bool, SendFault> {
        if !self.may_embark(carrier, ends)? {
            return Ok(false);
        }
        let carrier = self.slot(carrier).id;
        for (index, end) in ends.iter().enumerate() {
            let carried = Carried { carrier, message: number, index: index as u16 };
            match self.slot(*end).link {
                Some(stays) => self.depart(*end, stays, carried),
                None => self.go_home(*end, carried),
            }
        }
        Ok(true)
    }

    /// The end leaves; its partner becomes a channel on the wire.
    fn depart(&mut self, end: Key, stays: Key, carried: Carried) {
        // The handle means nothing any more: whoever waits with it learns that now.
        self.tell_writable(end);
        self.tell_readable(end);
        let mut leaves = self.slots.remove(end.index());
        let window = self.peer.initial_window;
        let slot = self.slot(stays);
        slot.link = None;
        slot.out.flow = Outflow::new(window);
        if !slot.out.is_over() {
            slot.out.accepted = 0;
        }
        while let Some(bytes) = leaves.into.queue.pop_shared() {
            slot.out.queued += cost(bytes.len());
            slot.out.accepted += 1;
            slot.out.queue.push(Payload::Shared(bytes));
        }
        if slot.out.state == OutState::Closed {
            slot.out.state = OutState::Closing;
            let error = leaves.extra.as_mut().and_then(|extra| extra.closed_with.take());
            if error.is_some() {
                slot.extra().close_error = error;
            }
        }
        if leaves.out.handle && slot.into.state == InState::Done {
            // The peer's end can send, for all it knows, and is told that nobody receives.
            slot.into.state = InState::Finishing;
            slot.owes.reset = true;
            let error = leaves.extra.as_mut().and_then(|extra| extra.stopped_with.take());
            if error.is_some() {
                slot.extra().reset_error = error;
            }
        }
        slot.into.on_wire = matches!(slot.into.state, InState::Open | InState::Finishing);
        slot.into.flow.depart();
        let received = slot.into.received;
        let extra = slot.extra();
        extra.base = received;
        extra.carried = Some(carried);
        self.enlist(stays);
        self.tell_writable(stays);
    }

    /// A channel whose end travels in a message to this side was opened.
    pub(super) fn load(&mut self, key: Key, carried: Carried) -> Result<(), Violation> {
        let id = self.slot(key).id;
        let Some(mut carrier) = self.find(carried.carrier)? else {
            self.discard(key);
            return Ok(());
        };
        if let Some(extra) = &self.slots[carrier.index()].extra {
            match extra.deliver {
                // The sending end of the carrier came home, and what it sent before is for the receiver here.
                Some(end) if extra.forwards && self.is_live(end) => carrier = end,
                None if !extra.echo => {}
                // The receiving end is on its way home, where nobody could claim what its messages hold.
                Some(_) | None => {
                    self.discard(key);
                    return Ok(());
                }
            }
        }
        let slot = self.slot(carrier);
        match slot.into.state {
            InState::Open if carrier != key => {}
            InState::Open | InState::Ended => return Err(Violation::Travel { id }),
            InState::Finishing | InState::Done => {
                self.discard(key);
                return Ok(());
            }
        }
        let number = slot.extra.as_ref().map_or(0, |extra| extra.base).saturating_add(carried.message);
        if number < slot.into.received {
            return Err(Violation::Travel { id });
        }
        slot.extra().cargo.push((number, carried.index, key));
        self.slot(key).extra().carrier = Some(carrier);
        Ok(())
    }

    /// The end that travels in this message is over: its partner has gone, or left for the other side at the same time. The
    /// message is whole all the same.
    pub(super) fn load_over(&mut self, id: u64, carried: Carried) -> Result<(), Violation> {
        let mut slot = Slot::new(0, true, Some(0), Some(self.config.initial_window));
        slot.out.state = OutState::Done { consumed: 0, stopped: true };
        slot.into.state = InState::Ended;
        slot.into.on_wire = false;
        slot.out.handle = false;
        slot.into.handle = false;
        let key = self.insert(slot);
        self.load(key, carried).map_err(|_| Violation::Travel { id })?;
        if self.is_live(key) {
            self.keep_unclaimed(key);
        }
        Ok(())
    }

    /// An end that nobody has taken yet counts against no limit (any more), since its channel has ended or gone home. Of such
    /// ends only as many are kept as there may be channels, or [`UNCLAIMED`]: a peer can send any number. The oldest go.
    pub(super) fn keep_unclaimed(&mut self, key: Key) {
        let limit = (self.config.max_channels as usize).max(UNCLAIMED);
        self.unclaimed.push_back(key);
        if self.unclaimed.len() <= limit {
            return;
        }
        let mut unclaimed = std::mem::take(&mut self.unclaimed);
        unclaimed.retain(|&key| self.is_live(key) && self.slot(key).is_released());
        self.unclaimed = unclaimed;
        if self.unclaimed.len() > limit
            && let Some(oldest) = self.unclaimed.pop_front()
        {
            match self.slot(oldest).extra.as_ref().and_then(|extra| extra.carrier) {
                Some(carrier) if self.is_live(carrier) => {
                    self.slot(carrier).extra().cargo.retain(|(_, _, key)| *key != oldest);
                }
                Some(_) => {}
                None => self.accepts.retain(|key| *key != oldest),
            }
            self.discard(oldest);
        }
    }

    /// The end that travelled as number `index` in message `number` of `carrier`, with its directions `(sends, receives)`.
    pub fn claim(&mut self, carrier: Key, number: u64, index: u16) -> Option<(Key, bool, bool)> {
        let extra = self.slots.get_mut(carrier.index())?.extra.as_mut()?;
        let place = extra.cargo.iter().position(|(message, at, _)| (*message, *at) == (number, index))?;
        let (_, _, key) = extra.cargo.swap_remove(place);
        let slot = self.slot(key);
        slot.unload();
        slot.out.handle = slot.out.state != OutState::Unused;
        slot.into.handle = slot.into.flow.window() != 0;
        let (sends, receives) = (slot.out.handle, slot.into.handle);
        Some((key, sends, receives))
    }

    /// Message `number` of `carrier` was decoded or given up: ends that travelled in it or before it and were not claimed
    /// are ended.
    pub fn settle(&mut self, carrier: Key, number: u64) {
        if !self.is_live(carrier) {
            return;
        }
        let Some(extra) = &mut self.slot(carrier).extra else { return };
        let mut left = Vec::new();
        extra.cargo.retain(|&(message, _, key)| {
            let keep = message > number;
            if !keep {
                left.push(key);
            }
            keep
        });
        for key in left {
            self.discard(key);
        }
    }
}
