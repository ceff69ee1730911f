//! The beginning and the end of the connection.

use std::sync::Arc;

use super::config::check_limits;
use super::{Event, Key, Mux, Phase, Role};
use crate::error::{ConnectionError, HandshakeError};
use crate::frame::{Hello, VERSION};

impl Mux {
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

    pub(super) fn check_drained(&mut self) {
        // A connection that was not greeted yet is greeted first.
        let draining = self.is_ready() && (self.draining || self.peer_draining);
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

    /// Whether a reason is still to be told to the peer.
    pub(crate) fn has_farewell(&self) -> bool {
        self.farewell.is_some() && (self.hello_sent || self.hello_owed)
    }

    /// The byte stream from the peer ended.
    pub fn handle_eof(&mut self) {
        self.end(self.cause_of_eof());
    }

    /// What the end of the byte stream from the peer would mean now.
    pub(crate) fn cause_of_eof(&self) -> ConnectionError {
        // Channels that one side opened before it knew that the other closes the connection never came to be.
        let over = self.ids.keys().all(|&id| {
            let (closing, last) = if self.is_ours(id) {
                (self.peer_draining, self.peer_last)
            } else {
                (self.draining, self.our_last)
            };
            closing && id > last
        });
        match (self.draining, self.peer_draining) {
            (true, _) if over => ConnectionError::Closed,
            (_, true) if over => ConnectionError::ClosedByPeer,
            _ => ConnectionError::Eof,
        }
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
        self.accepts.clear();
        // What nobody has a handle of goes now; the rest when its handles do.
        for key in keys {
            if !self.is_live(key) {
                continue;
            }
            let slot = self.slot(key);
            if let Some(extra) = &mut slot.extra {
                extra.cargo.clear();
            }
            if slot.is_released()
                && let Some(partner) = slot.link.take()
            {
                self.slot(partner).link = None;
            }
            self.settle_slot(key);
        }
        self.unclaimed.clear();
        self.events.push_back(Event::Capacity);
        self.events.push_back(Event::Closed);
    }

    pub(super) fn greet(&mut self, hello: Hello) -> Result<(), ConnectionError> {
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
        self.check_drained();
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

    /// Whether nothing waits to be transmitted, for its turn or for credit.
    pub fn is_flushed(&self) -> bool {
        !self.wants_transmit() && self.slots.iter().all(|(_, slot)| slot.out.queue.memory() == 0)
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
