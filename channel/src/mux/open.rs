//! Opening and accepting channels.

use bytes::Bytes;

use super::slot::{OutState, Slot};
use super::{Key, Life, Mux, OpenFault, Phase};
use crate::frame::MAX_REQUEST;

impl Mux {
    /// Opens a channel: whether this side `sends` and `receives` on it, and what the peer should know.
    pub fn open(&mut self, sends: bool, receives: bool, request: Bytes) -> Result<Key, OpenFault> {
        self.open_of(self.room(), sends, receives, request)
    }

    /// As [`open`](Self::open), also of what [`Config::kept_back`](super::Config::kept_back) leaves.
    pub fn open_kept_back(&mut self, sends: bool, receives: bool, request: Bytes) -> Result<Key, OpenFault> {
        self.open_of(self.peer.max_channels.saturating_sub(self.ours_open), sends, receives, request)
    }

    /// How many channels this side may open in the usual ways.
    pub(super) fn room(&self) -> u32 {
        let most = self.peer.max_channels;
        most.saturating_sub(self.config.kept_back.min(most / 2)).saturating_sub(self.ours_open)
    }

    fn open_of(&mut self, room: u32, sends: bool, receives: bool, request: Bytes) -> Result<Key, OpenFault> {
        debug_assert!(request.len() <= MAX_REQUEST, "the caller checks the request's length");
        match &self.phase {
            Phase::Closed(cause) => return Err(OpenFault::Lost(cause.clone())),
            Phase::Greeting => return Err(OpenFault::Full),
            Phase::Open if self.draining || self.peer_draining => return Err(OpenFault::Draining),
            Phase::Open => {}
        }
        if room == 0 {
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
    pub(super) fn enlist(&mut self, key: Key) {
        let id = self.next_id;
        self.next_id += 2;
        self.ours_open += 1;
        let slot = self.slot(key);
        slot.id = id;
        slot.ours = true;
        slot.announced = false;
        slot.counted = true;
        if let Some(lives) = &mut self.lives {
            lives.push(Life::Opened { id, ours: true });
        }
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
        if self.is_live(key) { self.slots[key.index()].id } else { 0 }
    }

    /// Whether the peer may open more channels.
    pub fn may_come(&self) -> bool {
        self.cause().is_none() && !self.draining && !self.peer_draining
    }

    /// Asks the peer for a sign of life.
    pub fn ping(&mut self) {
        self.liveness.ping_owed = true;
    }
}
