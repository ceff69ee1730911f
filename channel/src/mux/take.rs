//! What the holder of a receiving end can do, and the end of a channel.

use std::time::Instant;

use super::slot::InState;
use super::{Event, Key, Life, Mux, Phase, Queue, Taken};
use crate::error::RemoteError;
use crate::frame::MAX_ERROR;

impl Mux {
    /// Reports `consumed` messages of `cost` bytes, and swaps the channel's queue with the empty `batch`.
    pub fn take(&mut self, key: Key, consumed: u64, cost: u64, now: Instant, batch: &mut Queue) -> Taken {
        debug_assert!(batch.is_empty(), "what was taken is consumed first");
        if !self.is_live(key) {
            return Taken::End(None);
        }
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
        if (messages == 0 && cost == 0) || !self.is_live(key) {
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
        let freed = if slot.into.flow.reserved() > 0 { slot.into.flow.release() } else { 0 };
        if freed > 0 {
            self.release_room(u64::from(freed));
        }
        if self.slot(key).into.state != InState::Open {
            return;
        }
        if self.slot(key).into.flow.is_due() {
            self.grow(key, now);
            self.owe_credit(key);
        }
    }

    pub(super) fn owe_credit(&mut self, key: Key) {
        let slot = self.slot(key);
        if slot.into.state == InState::Open && slot.into.flow.due() > 0 {
            slot.owes.credit = true;
            self.schedule_control(key);
        }
    }

    /// Widens the window of a channel that it limits.
    pub(super) fn grow(&mut self, key: Key, now: Instant) {
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
        if self.is_live(key) {
            self.slot(key).into.want = false;
            self.leave_line(key);
        }
    }

    /// Whether a receive would not wait.
    pub fn is_readable(&self, key: Key) -> bool {
        if !self.is_live(key) {
            return true;
        }
        let into = &self.slots[key.index()].into;
        !into.queue.is_empty() || into.state != InState::Open || self.cause().is_some()
    }

    /// Messages and bytes that came.
    pub fn arrived(&self, key: Key) -> (u64, u64) {
        if !self.is_live(key) {
            return (0, 0);
        }
        let into = &self.slots[key.index()].into;
        (into.received, into.bytes)
    }

    /// Everything was received: the receipt is owed.
    pub(super) fn finish(&mut self, key: Key) {
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
                let slot = self.slot(key);
                slot.into.state = InState::Done;
                slot.owes.reset = false;
                self.settle_slot(key);
            }
            None => self.schedule_control(key),
        }
    }

    /// The peer may stop sending on this channel, for this reason: what comes is ignored. `consumed` messages of `cost`
    /// bytes were consumed since the last report. Again: nothing.
    pub fn stop(&mut self, key: Key, consumed: u64, error: Option<&[u8]>) {
        if !self.is_live(key) {
            return;
        }
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
    pub(super) fn discard(&mut self, key: Key) {
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
    pub(super) fn settle_slot(&mut self, key: Key) {
        let closed = self.cause().is_some();
        let slot = &mut self.slots[key.index()];
        if slot.counted && (slot.is_over() || closed) {
            slot.counted = false;
            if let Some(lives) = &mut self.lives {
                let (sent, received) =
                    ((slot.out.accepted, slot.out.bytes), (slot.into.received, slot.into.bytes));
                lives.push(Life::Ended { id: slot.id, sent, received });
            }
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

    pub(super) fn tell_writable(&mut self, key: Key) {
        if std::mem::take(&mut self.slot(key).out.want) {
            self.events.push_back(Event::Writable(key));
        }
    }

    pub(super) fn tell_readable(&mut self, key: Key) {
        if std::mem::take(&mut self.slot(key).into.want) {
            self.events.push_back(Event::Readable(key));
        }
    }
}
