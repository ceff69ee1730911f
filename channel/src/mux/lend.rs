//! Room for what comes next, lent to whoever reads: a long message is read to where it is put together.

use std::time::Instant;

use super::slot::InState;
use super::{Mux, Phase};
use crate::error::Violation;

/// A long message of which parts have come, lent by [`Mux::lend_part`].
#[derive(Debug)]
pub struct Lent {
    /// What has come. What is read next is to be appended, at most [`room`](Self::room) bytes of it.
    pub bytes: Vec<u8>,
    /// How many bytes may be appended: so much capacity there is, and so much of the part is to come.
    pub room: usize,
    before: usize,
}

impl Mux {
    /// How much is to come of the part of a long message whose beginning has come: 0 if there is none.
    pub fn part_left(&self) -> usize {
        self.part.map_or(0, |(_, left)| left)
    }

    /// When a part of a long message is coming in: where it goes. Nothing is to be handed to
    /// [`handle_bytes`](Self::handle_bytes) before that was given [back](Self::return_part).
    pub fn lend_part(&mut self) -> Option<Lent> {
        let (id, left) = self.part.filter(|_| matches!(self.phase, Phase::Open))?;
        let key = self.find(id).ok()??;
        let into = &mut self.slots[key.index()].into;
        let granted = into.flow.outstanding();
        let assembly = into.assembly.as_mut().filter(|_| into.state == InState::Open)?;
        // What the peer may not send is for the ordinary way to refuse.
        if granted.min(assembly.missing()) < left as u64 {
            return None;
        }
        assembly.make_room(left, granted);
        let bytes = std::mem::take(&mut assembly.bytes);
        assembly.lent = bytes.len();
        Some(Lent { room: left, before: bytes.len(), bytes })
    }

    /// Takes back what was lent, with what has been read.
    ///
    /// # Panics
    /// If there is less than was lent, or more than there was room for.
    pub fn return_part(&mut self, now: Instant, lent: Lent) {
        let came = lent.bytes.len() - lent.before;
        let Some((id, left)) = self.part else { return };
        assert!(came <= left, "no more is read than there is room for");
        if came > 0 {
            self.liveness.heard(now);
            self.part = (left > came).then_some((id, left - came));
        }
        // The channel may have ended in the meantime; then nobody wants it.
        let Ok(Some(key)) = self.find(id) else { return };
        let into = &mut self.slots[key.index()].into;
        let Some(assembly) = into.assembly.as_mut().filter(|assembly| assembly.lent == lent.before) else {
            return;
        };
        assembly.bytes = lent.bytes;
        assembly.lent = 0;
        if came == 0 {
            return;
        }
        match into.flow.receive(came as u64) {
            Ok(()) => self.finish_part(key),
            Err(_) => self.end(Violation::Overrun { id }.into()),
        }
    }
}
