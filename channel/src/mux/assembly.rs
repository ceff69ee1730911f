//! Room for messages longer than their window: reserved whole, in turn, and only while somebody receives.
//!
//! The first in line waits until its whole length is free. Everything that holds a reservation can be completed by its
//! sender without further credit and has a receiver waiting for it, so the first in line is served in the end, and no set of
//! half-arrived messages can deadlock.

use super::{Key, Mux};

impl Mux {
    /// A receiver waits on `key`: if a part of a message is there whose rest the peer has no credit for, find room for it.
    pub(super) fn claim_room(&mut self, key: Key) {
        let slot = &mut self.slots[key.index()];
        let Some(assembly) = &slot.into.assembly else { return };
        let flow = &slot.into.flow;
        let missing = assembly.missing();
        if missing <= flow.outstanding() {
            return;
        }
        if missing <= flow.outstanding() + flow.due() {
            self.owe_credit(key);
            return;
        }
        if !slot.in_line {
            slot.in_line = true;
            self.assembly_line.push_back(key);
            self.serve_line();
        }
    }

    /// The message is gone, or nobody waits for it.
    pub(super) fn leave_line(&mut self, key: Key) {
        let slot = self.slot(key);
        if slot.in_line {
            slot.in_line = false;
            self.assembly_line.retain(|waiting| *waiting != key);
            self.serve_line();
        }
    }

    /// Room was freed.
    pub(super) fn release_room(&mut self, bytes: u64) {
        if bytes > 0 {
            self.assembly_free += bytes;
            self.serve_line();
        }
    }

    fn serve_line(&mut self) {
        while let Some(&key) = self.assembly_line.front() {
            let slot = &mut self.slots[key.index()];
            let Some(assembly) = &slot.into.assembly else {
                slot.in_line = false;
                self.assembly_line.pop_front();
                continue;
            };
            let flow = &mut slot.into.flow;
            let wanted = assembly.missing().saturating_sub(flow.outstanding() + flow.due());
            if wanted > self.assembly_free {
                return;
            }
            self.assembly_free -= wanted;
            flow.reserve(wanted as u32);
            slot.in_line = false;
            self.assembly_line.pop_front();
            self.owe_credit(key);
        }
    }
}
