//! Whether a reader looks again for a while before it sleeps.

use std::time::{Duration, Instant};

/// Where each message comes soon after the one before, to sleep and to be woken takes longer than to wait: a reader then looks
/// again and again for a short while first. As the kernel does before it halts a processor ("guest halt polling" in its
/// documentation), it looks only where that has paid off lately, so that one which waits for longer costs nothing.
#[derive(Debug)]
pub(super) struct BusyPoll {
    /// Since when there is nothing.
    since: Option<Instant>,
    polled: bool,
    /// So many waits in a row were short.
    short: u32,
    /// So many must be before it looks again.
    needed: u32,
}

/// It looks again for so long: about twice what a sleeping thread takes to be woken on another processor.
const WINDOW: Duration = Duration::from_micros(50);
/// A wait of up to that is short. With a sleep on both sides it has two wake-ups in it.
const SHORT: Duration = Duration::from_micros(100);
/// The least and the most of short waits before it looks again. Doubled by each time that was in vain, as where both sides
/// share one processor, and one cannot come while the other looks.
const NEEDED: (u32, u32) = (4, 4096);

impl Default for BusyPoll {
    fn default() -> BusyPoll {
        BusyPoll { since: None, polled: false, short: 0, needed: NEEDED.0 }
    }
}

impl BusyPoll {
    /// There is nothing at this time: whether to look again rather than to sleep.
    pub(super) fn looks_again(&mut self, now: Instant) -> bool {
        let since = *self.since.get_or_insert(now);
        let again = self.short >= self.needed && now.duration_since(since) < WINDOW;
        self.polled |= again;
        again
    }

    /// Something has come.
    pub(super) fn over(&mut self) {
        // Most were there at once, and need no look at the time.
        match self.since.take() {
            Some(since) => self.waited(since.elapsed()),
            None => self.waited(Duration::ZERO),
        }
    }

    fn waited(&mut self, time: Duration) {
        let in_vain = time >= WINDOW;
        if std::mem::take(&mut self.polled) {
            self.needed = if in_vain { (self.needed * 2).min(NEEDED.1) } else { NEEDED.0 };
            self.short = if in_vain { 0 } else { self.short };
        }
        self.short = if time < SHORT { self.short.saturating_add(1) } else { 0 };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const QUICK: Duration = Duration::from_micros(60);
    const SLOW: Duration = Duration::from_millis(1);

    /// Waits as a reader does for something that comes after `time`; returns whether it looked again meanwhile.
    fn wait(poll: &mut BusyPoll, time: Duration) -> bool {
        let began = Instant::now();
        let looked = poll.looks_again(began);
        if looked && time >= WINDOW {
            assert!(!poll.looks_again(began + WINDOW), "it sleeps when its time is over");
        }
        poll.since = None;
        poll.waited(time);
        looked
    }

    #[test]
    fn it_looks_again_where_waits_are_short() {
        let mut poll = BusyPoll::default();
        for _ in 0..NEEDED.0 {
            assert!(!wait(&mut poll, QUICK));
        }
        for _ in 0..100 {
            assert!(wait(&mut poll, Duration::from_micros(3)));
        }
        assert!(wait(&mut poll, SLOW));
        assert!(!wait(&mut poll, SLOW), "a wait that was long is not followed by looks");
    }

    #[test]
    fn looks_in_vain_become_rare_until_one_pays_off() {
        let mut poll = BusyPoll::default();
        let looks = (0..10_000).filter(|_| wait(&mut poll, QUICK)).count();
        assert!((2..20).contains(&looks), "{looks} of 10,000");
        while !wait(&mut poll, Duration::from_micros(3)) {}
        assert_eq!(poll.needed, NEEDED.0);
    }

    #[test]
    fn it_never_looks_where_waits_are_long() {
        let mut poll = BusyPoll::default();
        assert!((0..1_000).all(|_| !wait(&mut poll, SLOW)));
    }
}
