//! What the scheduler knows of one gateway.

use std::collections::VecDeque;
use std::time::Duration;

use super::pace::Pace;

/// In place of an item that is not there any more.
const ANSWERED: u32 = u32::MAX;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum State {
    Opening,
    Live,
    Lost,
}

#[derive(Debug)]
pub(crate) struct Gate {
    pub(crate) state: State,
    pub(crate) slots: u32,
    /// Slots whose items were given up and still run.
    pub(crate) stuck: u32,
    /// Items that it has, and the bytes of their arguments.
    pub(crate) out: u32,
    pub(crate) bytes: usize,
    /// What it was given, in order: as its so-manieth, and the item, or [`ANSWERED`].
    given: VecDeque<(u64, u32)>,
    gave: u64,
    pub(crate) pace: Pace,
    /// It was asked to give so many items back, and did not answer yet.
    pub(crate) asked: u32,
    /// It runs suspects only, or will when it has finished what it has.
    pub(crate) examines: bool,
    /// The suspects that it is to be given next.
    pub(crate) group: VecDeque<u32>,
    pub(crate) last_reply: Duration,
    pub(crate) done: u64,
    pub(crate) failed: u64,
    /// It may still run what nobody wants any more.
    abandoned: bool,
    /// Measures the round trip with an item that nothing was before: its number, and when it was given.
    probe: Option<(u64, Duration)>,
}

impl Gate {
    pub(crate) fn new() -> Gate {
        Gate {
            state: State::Opening,
            slots: 0,
            stuck: 0,
            out: 0,
            bytes: 0,
            given: VecDeque::new(),
            gave: 0,
            pace: Pace::default(),
            asked: 0,
            examines: false,
            group: VecDeque::new(),
            last_reply: Duration::ZERO,
            done: 0,
            failed: 0,
            abandoned: false,
            probe: None,
        }
    }

    /// Slots that can run something.
    pub(crate) fn slots_left(&self) -> u32 {
        self.slots.saturating_sub(self.stuck)
    }

    /// How many items it should have.
    pub(crate) fn target(&self, now: Duration) -> u32 {
        match self.slots_left() {
            0 => 0,
            slots => self.pace.target(slots, self.overdue(now)),
        }
    }

    /// For how much longer nothing was heard of it than what it has explains: what it runs takes at least as long.
    fn overdue(&self, now: Duration) -> Duration {
        if self.out == 0 {
            return Duration::ZERO;
        }
        now.saturating_sub(self.last_reply).saturating_sub(self.pace.expected(self.out, self.slots_left()))
    }

    /// Slots without work, of a gateway that could have any.
    pub(crate) fn idle_slots(&self) -> u32 {
        if self.state != State::Live || self.examines {
            0
        } else {
            self.slots_left().saturating_sub(self.out)
        }
    }

    /// Items that it has and cannot have begun.
    pub(crate) fn waiting(&self) -> u32 {
        // Those of a group are not given to others.
        if self.examines { 0 } else { self.out.saturating_sub(self.slots_left() + self.asked) }
    }

    /// Whether it has more than it can run, be that asked back or not.
    pub(crate) fn has_spare(&self) -> bool {
        !self.examines && self.out > self.slots_left()
    }

    /// How long its last item will wait, as far as can be known.
    pub(crate) fn wait(&self, now: Duration) -> Duration {
        let waiting = self.waiting();
        if waiting == 0 {
            return Duration::ZERO;
        }
        let run = self.pace.run().unwrap_or_default().max(self.overdue(now));
        run * waiting / self.slots_left().max(1)
    }

    /// It is given an item; returns as its so-manieth.
    pub(crate) fn give(&mut self, key: u32, bytes: usize, now: Duration) -> u64 {
        if self.out == 0 {
            self.last_reply = now;
            self.probe = Some((self.gave, now));
        }
        let number = self.gave;
        self.gave += 1;
        self.out += 1;
        self.bytes += bytes;
        self.given.push_back((number, key));
        number
    }

    /// The items that it has, in the order in which it was given them.
    pub(crate) fn items(&self) -> impl DoubleEndedIterator<Item = u32> {
        self.given.iter().map(|(_, key)| *key).filter(|key| *key != ANSWERED)
    }

    /// It has answered its so-manieth item; without having begun it, when that was asked for.
    pub(crate) fn answered(&mut self, number: u64, bytes: usize, asked: bool, begun: bool, now: Duration) {
        self.out -= 1;
        self.bytes -= bytes;
        self.asked -= u32::from(asked);
        if begun {
            self.last_reply = now;
        }
        // Mostly it is the first.
        if let Ok(at) = self.given.binary_search_by_key(&number, |(number, _)| *number) {
            self.given[at].1 = ANSWERED;
        }
        while let Some((_, ANSWERED)) = self.given.front() {
            self.given.pop_front();
        }
        if self.given.len() > 64 + 4 * self.out as usize {
            // Behind an item that takes long.
            self.given.retain(|(_, key)| *key != ANSWERED);
        }
        if let Some((probed, at)) = self.probe
            && probed == number
        {
            self.probe = None;
            let took = now.saturating_sub(at);
            self.pace.tripped(took.saturating_sub(self.pace.run().unwrap_or_default()));
        }
    }

    /// It has nothing to do.
    pub(crate) fn rest(&mut self) {
        if self.group.is_empty() {
            self.examines = false;
        }
    }

    /// It is gone; returns the items that it had, and the suspects that it was not given yet.
    pub(crate) fn lose(&mut self) -> (Vec<u32>, Vec<u32>) {
        self.state = State::Lost;
        let had = self.items().collect();
        let unsent = std::mem::take(&mut self.group).into();
        self.forget();
        (had, unsent)
    }

    /// There is another process in place of the one that was lost.
    pub(crate) fn reopen(&mut self) {
        self.state = State::Opening;
        self.stuck = 0;
        self.abandoned = false;
    }

    /// Whether it runs something.
    pub(crate) fn is_busy(&self) -> bool {
        self.out > 0 || self.stuck > 0 || self.abandoned
    }

    /// Its items have ended without it.
    pub(crate) fn forget(&mut self) {
        self.abandoned |= self.out > 0;
        self.given.clear();
        self.group.clear();
        (self.out, self.bytes, self.asked, self.examines, self.probe) = (0, 0, 0, false, None);
    }
}
