//! Results on their way to whoever takes them: in the order that was asked for, and counted.

use std::collections::VecDeque;

use super::batch::Payload;
use super::fault::ItemError;

/// How an item ended.
pub(crate) type Ended = Result<Payload, ItemError>;

#[derive(Debug)]
pub(crate) struct Outbox {
    ordered: bool,
    /// Errors are kept for the end.
    collects: bool,
    /// Of the results from the next one on, those that are there; `Some(None)` is there and not to be handed out.
    reorder: VecDeque<Option<Option<Ended>>>,
    next: u64,
    reordered: usize,
    out: VecDeque<(u64, Ended)>,
    /// How many were handed out last, and their bytes: they count until the next are.
    taken: (usize, usize),
    bytes: usize,
    collected: Vec<(u64, ItemError)>,
}

impl Outbox {
    pub(crate) fn new(ordered: bool, collects: bool) -> Outbox {
        Outbox {
            ordered,
            collects,
            reorder: VecDeque::new(),
            next: 0,
            reordered: 0,
            out: VecDeque::new(),
            taken: (0, 0),
            bytes: 0,
            collected: Vec::new(),
        }
    }

    pub(crate) fn push(&mut self, index: u64, ended: Ended) {
        let ended = match ended {
            Err(error) if self.collects => {
                self.collected.push((index, error));
                None
            }
            ended => Some(ended),
        };
        self.bytes += ended.as_ref().map_or(0, size);
        if !self.ordered {
            return self.out.extend(ended.map(|ended| (index, ended)));
        }
        let at = (index - self.next) as usize;
        if self.reorder.len() <= at {
            self.reorder.resize_with(at + 1, || None);
        }
        self.reorder[at] = Some(ended);
        self.reordered += 1;
        while let Some(Some(_)) = self.reorder.front()
            && let Some(Some(next)) = self.reorder.pop_front()
        {
            self.out.extend(next.map(|ended| (self.next, ended)));
            self.next += 1;
            self.reordered -= 1;
        }
    }

    /// There will be no more: the errors that were kept come now.
    pub(crate) fn end(&mut self) {
        let mut collected = std::mem::take(&mut self.collected);
        collected.sort_by_key(|(index, _)| *index);
        self.out.extend(collected.into_iter().map(|(index, error)| (index, Err(error))));
    }

    /// How many errors are kept.
    pub(crate) fn collected(&self) -> usize {
        self.collected.len()
    }

    /// Whether all results that are there wait for this one.
    pub(crate) fn waits_for(&self, index: u64) -> bool {
        self.ordered && index == self.next
    }

    /// Results that are not handed out yet, or that were last.
    pub(crate) fn held(&self) -> usize {
        self.reordered + self.out.len() + self.taken.0
    }

    /// Their bytes.
    pub(crate) fn bytes(&self) -> usize {
        self.bytes
    }

    pub(crate) fn is_ready(&self) -> bool {
        !self.out.is_empty()
    }

    /// Hands out what is ready, if something is: `results`, which is empty, gets it. What was handed out before counts no more.
    pub(crate) fn take(&mut self, results: &mut VecDeque<(u64, Ended)>) {
        self.bytes -= self.taken.1;
        std::mem::swap(&mut self.out, results);
        self.taken = (results.len(), results.iter().map(|(_, ended)| size(ended)).sum());
    }
}

fn size(ended: &Ended) -> usize {
    ended.as_ref().map_or(0, Payload::len)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn taken(outbox: &mut Outbox) -> Vec<u64> {
        let mut results = VecDeque::new();
        outbox.take(&mut results);
        results.into_iter().map(|(index, _)| index).collect()
    }

    #[test]
    fn results_wait_for_those_before_them_only_if_asked() {
        for (ordered, first) in [(true, vec![]), (false, vec![2, 1])] {
            let mut outbox = Outbox::new(ordered, false);
            for index in [2, 1] {
                outbox.push(index, Ok(Payload::new(&[0; 10])));
            }
            assert!(outbox.waits_for(0) == ordered);
            assert_eq!(taken(&mut outbox), first);
            outbox.push(0, Err(ItemError::Stopped));
            assert_eq!(taken(&mut outbox), if ordered { vec![0, 1, 2] } else { vec![0] });
            assert_eq!(taken(&mut outbox), []);
            assert_eq!((outbox.held(), outbox.bytes()), (0, 0));
        }
    }

    #[test]
    fn what_is_taken_counts_until_more_is() {
        let mut outbox = Outbox::new(false, false);
        outbox.push(0, Ok(Payload::new(&[0; 100])));
        assert_eq!((outbox.held(), outbox.bytes()), (1, 100));
        assert_eq!(taken(&mut outbox), [0]);
        assert_eq!((outbox.held(), outbox.bytes()), (1, 100));
        assert_eq!(taken(&mut outbox), []);
        assert_eq!((outbox.held(), outbox.bytes()), (0, 0));
    }

    #[test]
    fn errors_that_are_collected_come_last_and_hold_up_none() {
        let mut outbox = Outbox::new(true, true);
        outbox.push(1, Err(ItemError::Stopped));
        outbox.push(2, Ok(Payload::new(&[])));
        outbox.push(0, Err(ItemError::Stopped));
        assert_eq!(taken(&mut outbox), [2]);
        assert_eq!(outbox.collected(), 2);
        outbox.end();
        assert_eq!(taken(&mut outbox), [0, 1]);
    }
}
