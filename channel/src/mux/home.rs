//! Ends that travel back to the side where their partner is.
//!
//! The side that holds the end says so by `RETURN`, ends what it sent on the channel by `CLOSE`, and sends what had come for
//! the end, and still comes, back out on the same channel: the end is gone here, so nobody else uses that direction.
//! The partner's side gives its user a new pair of linked ends, the partner's handle on one of them; the channel itself
//! only brings home what is on its way, and until its `CLOSE` has come what either end sends has to wait. So nothing is lost
//! and nothing overtakes.
//!
//! If both sides send their end to the other at the same time, neither has a partner to come home to: both are ended.

use std::collections::VecDeque;

use super::slot::{InState, OutState, Slot};
use super::{Key, Mux};
use crate::error::Violation;
use crate::flow::{Inflow, Outflow, cost};
use crate::frame::Carried;
use crate::queue::Payload;

impl Mux {
    /// The end, whose partner is with the peer, leaves in a message.
    pub(super) fn go_home(&mut self, end: Key, carried: Carried) {
        let generation = self.next_generation;
        self.next_generation = generation.wrapping_add(1);
        let window = self.peer.initial_window;
        self.tell_writable(end);
        self.tell_readable(end);
        let slot = self.slot(end);
        // The handle that is dropped with the message means nothing any more.
        slot.generation = generation;
        slot.out.handle = false;
        slot.into.handle = false;
        let announced = slot.announced;
        let unused = slot.out.state == OutState::Unused;
        let extra = slot.extra();
        if !announced {
            extra.opened = extra.carried.take();
            extra.silent = unused;
        }
        extra.carried = Some(carried);
        slot.owes.returned = true;
        if slot.into.state == InState::Done {
            slot.out.state = OutState::Closing;
        } else {
            slot.extra().echo = true;
            slot.out.state = OutState::Open;
            slot.out.flow = Outflow::new(window);
            slot.owes.credit = false;
            let mut queue = std::mem::take(&mut slot.into.queue);
            while let Some(bytes) = queue.pop_shared() {
                self.echo(end, Payload::Shared(bytes));
            }
            if self.slot(end).into.state == InState::Ended {
                self.close_diverted(end);
            }
            self.claim_room_to_pass_on(end);
        }
        self.schedule_control(end);
        self.schedule(end);
    }

    /// A message for an end that went home goes back out.
    fn echo(&mut self, key: Key, payload: Payload<'_>) {
        let out = &mut self.slot(key).out;
        if out.is_over() {
            // The peer wants none of it.
            self.echoed(key, 1, cost(payload.len()));
            return;
        }
        out.queued += cost(payload.len());
        out.accepted += 1;
        out.queue.push(payload);
        self.schedule(key);
    }

    /// So many messages went back out: there is room for more.
    pub(super) fn echoed(&mut self, key: Key, messages: u64, cost: u64) {
        let into = &mut self.slot(key).into;
        if matches!(into.state, InState::Open | InState::Ended) {
            into.consumed += messages;
            into.flow.consume(cost);
            self.give_back(key);
        }
    }

    /// A long message that is passed on has nobody who waits for it here: it may come when it can leave again.
    pub(super) fn claim_room_to_pass_on(&mut self, key: Key) {
        let slot = self.slot(key);
        let (Some(extra), Some(assembly)) = (&slot.extra, &slot.into.assembly) else { return };
        let cost = cost(assembly.total as usize);
        let leaves = match extra.deliver {
            Some(end) => {
                let wanted = self.is_live(end) && self.slot(end).into.state == InState::Open;
                !wanted || self.slot(end).into.has_local_room(cost)
            }
            None => extra.echo,
        };
        if leaves {
            self.claim_room(key);
        }
    }

    /// Credit for a channel whose messages this side only passes on.
    fn give_back(&mut self, key: Key) {
        let flow = &mut self.slot(key).into.flow;
        let freed = if flow.reserved() > 0 { flow.release() } else { 0 };
        self.release_room(u64::from(freed));
        if self.slot(key).into.flow.is_due() {
            self.owe_credit(key);
        }
    }

    /// The end of `key`'s channel that the peer held comes home in a message.
    pub(super) fn handle_return(&mut self, key: Key, carried: Carried) -> Result<(), Violation> {
        let slot = self.slot(key);
        let id = slot.id;
        if slot.extra.as_ref().is_some_and(|extra| extra.deliver.is_some()) {
            return Err(Violation::Travel { id });
        }
        if slot.extra.as_ref().is_some_and(|extra| extra.echo) {
            // The ends crossed.
            slot.out.discard();
            slot.out.state = OutState::Closing;
            self.finish(key);
            self.schedule(key);
            return self.load_over(id, carried);
        }
        let window = self.config.initial_window;
        let old = self.slot(key);
        let echoes = !matches!(old.out.state, OutState::Unused | OutState::Done { .. });
        let returns = old.into.on_wire;
        let flow = &old.into.flow;
        let base = old.extra.as_ref().map_or(0, |extra| extra.base);
        let used = old.into.received > base || old.into.assembly.is_some() || flow.reserved() > 0;
        if echoes && returns && used {
            return Err(Violation::Travel { id });
        }

        // The partner's handle gets an end of a new pair; the channel goes on elsewhere until it has ended.
        let sends = old.out.state != OutState::Unused;
        let receives = old.into.flow.window() != 0;
        let mut near = Slot::new(0, true, sends.then_some(window), receives.then_some(window));
        near.generation = old.generation;
        near.into.on_wire = false;
        near.out.handle = std::mem::take(&mut old.out.handle);
        near.out.want = std::mem::take(&mut old.out.want);
        near.out.accepted = old.out.accepted;
        near.out.bytes = old.out.bytes;
        near.into.handle = std::mem::take(&mut old.into.handle);
        near.into.want = std::mem::take(&mut old.into.want);
        near.into.received = old.into.received;
        near.into.consumed = old.into.consumed;
        near.into.bytes = old.into.bytes;
        near.into.queue = std::mem::take(&mut old.into.queue);
        // What came of a message that is not whole stays with the channel.
        let begun = old.into.assembly.as_ref().map_or(0, |assembly| cost(assembly.bytes.len()));
        let held = old.into.flow.held() - begun;
        near.into.flow.admit(held);
        near.into.state = match old.into.state {
            InState::Finishing => InState::Done,
            state => state,
        };
        near.out.state = match old.out.state {
            OutState::Closing => OutState::Closed,
            state => state,
        };
        if let Some(extra) = &mut old.extra {
            let kept = near.extra();
            kept.request = std::mem::take(&mut extra.request);
            kept.cargo = std::mem::take(&mut extra.cargo);
            kept.carrier = extra.carrier.take();
            kept.closed_with = extra.closed_with.take();
            kept.stopped_with = extra.stopped_with.take();
            kept.base = extra.base;
        }

        // What the pair's new end can do mirrors the partner.
        let mut far = Slot::new(0, true, receives.then_some(window), sends.then_some(window));
        far.into.on_wire = false;
        far.out.handle = false;
        far.into.handle = false;
        if receives && near.into.state == InState::Done {
            far.out.state = OutState::Done { consumed: 0, stopped: true };
        }
        if sends && near.out.is_over() {
            far.into.state = InState::Done;
        }
        let old = std::mem::replace(&mut self.slots[key.index()], near);
        let home = self.insert(old);
        let far = self.insert(far);
        self.move_queued(key, home);
        self.ids.insert(id, home);
        self.recent = (id, home);

        let channel = self.slot(home);
        channel.extra().deliver = Some(if echoes { far } else { key });
        channel.extra().forwards = !echoes;
        if channel.out.long.take().is_some_and(|long| long.sent) {
            channel.out.withdraw = true;
        }
        if channel.out.state == OutState::Open {
            channel.out.state = OutState::Closing;
        }
        if echoes {
            channel.owes.reset = false;
            channel.into.on_wire = true;
            channel.into.state = InState::Open;
            channel.into.flow = Inflow::new(window);
            channel.into.consumed = 0;
        } else if channel.into.state == InState::Open {
            channel.into.consumed = channel.into.received;
            channel.into.flow.consume(held);
        }
        for (end, partner) in [(key, far), (far, key)] {
            let slot = self.slot(end);
            slot.link = Some(partner);
            slot.extra().homing = Some(home);
        }
        self.load(far, carried)?;
        if self.is_live(far) {
            self.unlink_if_over(key, far);
            self.settle_slot(key);
        }
        // Neither counts against the peer's number of channels.
        for end in [key, far] {
            if self.is_live(end) && self.slot(end).is_released() {
                self.keep_unclaimed(end);
            }
        }
        self.schedule(home);
        if echoes || returns {
            self.give_back(home);
            self.forward(home);
        }
        if self.slot(home).into.state != InState::Open {
            self.come_home(home);
        }
        self.settle_slot(home);
        Ok(())
    }

    /// `home` stands wherever `key` stood in line.
    fn move_queued(&mut self, key: Key, home: Key) {
        let replace = |queue: &mut VecDeque<Key>| {
            for place in queue.iter_mut().filter(|place| place.index() == key.index()) {
                *place = home;
            }
        };
        replace(&mut self.opens);
        replace(&mut self.controls);
        replace(&mut self.ready);
        replace(&mut self.assembly_line);
    }

    /// Takes a message that came on a channel whose end is not here, or not there, any more.
    pub(super) fn divert(&mut self, key: Key, payload: Payload<'_>) -> bool {
        let Some(extra) = &self.slots[key.index()].extra else { return false };
        if extra.echo {
            self.echo(key, payload);
            return true;
        }
        if extra.deliver.is_some() {
            let into = &mut self.slot(key).into;
            into.received += 1;
            into.queue.push(payload);
            self.forward(key);
            return true;
        }
        false
    }

    /// Hands what came on `home` to the end that it is for, as far as there is room.
    pub(super) fn forward(&mut self, home: Key) {
        if !self.is_live(home) {
            return;
        }
        let Some(end) = self.slot(home).extra.as_ref().and_then(|extra| extra.deliver) else { return };
        while let Some(len) = self.slot(home).into.queue.front_len() {
            let cost = cost(len);
            let wanted = self.is_live(end) && self.slot(end).into.state == InState::Open;
            if wanted && !self.slot(end).into.has_local_room(cost) {
                break;
            }
            let into = &mut self.slot(home).into;
            let Some(bytes) = into.queue.pop_shared() else { break };
            into.consumed += 1;
            into.flow.consume(cost);
            if wanted {
                self.slot(end).into.flow.admit(cost);
                self.arrive(end, Payload::Shared(bytes));
            }
        }
        let into = &self.slot(home).into;
        match into.state {
            InState::Open => {
                self.give_back(home);
                self.claim_room_to_pass_on(home);
            }
            InState::Ended if into.queue.is_empty() => self.come_home(home),
            InState::Ended | InState::Finishing | InState::Done => {}
        }
    }

    /// `CLOSE` came on a channel whose end is not here, or not there, any more.
    pub(super) fn close_diverted(&mut self, key: Key) {
        let Some(extra) = &mut self.slot(key).extra else { return };
        if extra.echo {
            extra.close_error = extra.closed_with.take();
            let out = &mut self.slot(key).out;
            if out.state == OutState::Open {
                out.state = OutState::Closing;
            }
            self.finish(key);
            self.schedule(key);
        } else if extra.deliver.is_some() {
            self.forward(key);
        }
    }

    /// Everything that was on its way is here: the two ends talk to each other from now on.
    fn come_home(&mut self, home: Key) {
        let Some(extra) = &mut self.slot(home).extra else { return };
        let Some(end) = extra.deliver else { return };
        let error = extra.closed_with.take();
        if self.slot(home).into.state == InState::Ended {
            self.finish(home);
        }
        let mut ends = Vec::new();
        if self.is_live(end) {
            ends.push(end);
            ends.extend(self.slot(end).link);
        }
        for &end in &ends {
            if let Some(extra) = &mut self.slot(end).extra {
                extra.homing = None;
            }
        }
        for &end in &ends {
            let slot = self.slot(end);
            if slot.out.state == OutState::Closed {
                // Closed in the meantime, or before: the error is here, or has made the journey.
                let extra = slot.extra();
                extra.close_error = extra.close_error.take().or_else(|| error.clone());
                self.close_locally(end);
            }
            self.tell_writable(end);
        }
    }
}
