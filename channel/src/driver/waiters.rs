//! A list of those who wait for one thing, which each of them can leave again.

use std::task::Waker;

use slab::Slab;

/// Who waits for one thing.
#[derive(Default)]
pub(crate) struct Waiters {
    places: Slab<(u64, Waker)>,
}

/// A place in a list. Its number is never given again, so that a place which was emptied, or is another's by now, shows.
#[derive(Debug)]
pub(crate) struct Ticket {
    place: usize,
    number: u64,
}

/// An empty list keeps memory for so many at the most.
const KEPT: usize = 16;

impl Waiters {
    /// Has `waker` woken: in the place that `ticket` names, or else in a new one with this number. Returns whether it is new,
    /// and the waker that it replaces, which the caller drops outside the lock: that may run anybody's code.
    pub(crate) fn enter(
        &mut self,
        ticket: &mut Option<Ticket>,
        number: u64,
        waker: &Waker,
    ) -> (bool, Option<Waker>) {
        if let Some(ticket) = ticket
            && let Some((found, known)) = self.places.get_mut(ticket.place)
            && *found == ticket.number
        {
            let replaced = (!known.will_wake(waker)).then(|| std::mem::replace(known, waker.clone()));
            return (false, replaced);
        }
        let place = self.places.insert((number, waker.clone()));
        *ticket = Some(Ticket { place, number });
        (true, None)
    }

    /// Empties the place that `ticket` names, and returns the waker if it was still there.
    pub(crate) fn leave(&mut self, ticket: &Ticket) -> Option<Waker> {
        if self.places.get(ticket.place).is_none_or(|(number, _)| *number != ticket.number) {
            return None;
        }
        let (_, waker) = self.places.remove(ticket.place);
        if self.places.is_empty() && self.places.capacity() > KEPT {
            self.places = Slab::new();
        }
        Some(waker)
    }

    /// Whether nobody waits.
    pub(crate) fn is_empty(&self) -> bool {
        self.places.is_empty()
    }

    /// Moves all to `wakers`; returns how many there were.
    pub(crate) fn drain(&mut self, wakers: &mut Vec<Waker>) -> usize {
        let count = self.places.len();
        wakers.extend(self.places.drain().map(|(_, waker)| waker));
        count
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_leaves_is_forgotten_and_the_list_stays_as_small_as_it_was() {
        let mut waiters = Waiters::default();
        let mut tickets: Vec<Option<Ticket>> = Vec::new();
        for number in 0..100_000 {
            let mut ticket = None;
            assert!(waiters.enter(&mut ticket, number, Waker::noop()).0);
            assert!(!waiters.enter(&mut ticket, number, Waker::noop()).0, "it is there already");
            tickets.push(ticket);
        }
        for ticket in tickets.iter().flatten() {
            assert!(waiters.leave(ticket).is_some());
            assert!(waiters.leave(ticket).is_none());
        }
        assert_eq!(waiters.places.len(), 0);
        assert!(waiters.places.capacity() <= KEPT);
        // One after the other they take one place.
        for number in 0..100_000 {
            let mut ticket = None;
            waiters.enter(&mut ticket, number, Waker::noop());
            waiters.leave(&ticket.unwrap());
        }
        assert!(waiters.places.capacity() <= KEPT);
    }

    #[test]
    fn a_place_that_is_anothers_by_now_is_left_alone() {
        let mut waiters = Waiters::default();
        let (mut first, mut second) = (None, None);
        waiters.enter(&mut first, 1, Waker::noop());
        let mut wakers = Vec::new();
        assert_eq!(waiters.drain(&mut wakers), 1);
        waiters.enter(&mut second, 2, Waker::noop());
        assert!(waiters.leave(&first.unwrap()).is_none());
        assert_eq!(waiters.drain(&mut wakers), 1);
        assert_eq!(wakers.len(), 2);
    }
}
