//! The time that counts for a run's limits: it stands still while nobody takes what is to be shown.

use std::time::{Duration, Instant};

/// A clock that can be held. A command that cannot go on, or whose end cannot be told, because a pager waits for its reader
/// has not taken too long.
#[derive(Debug, Default)]
pub(crate) struct RunClock {
    /// For how long it was held before.
    held: Duration,
    since: Option<Instant>,
}

impl RunClock {
    /// What it shows when the real time is `real`.
    pub(crate) fn show(&self, real: Instant) -> Instant {
        self.since.unwrap_or(real) - self.held
    }

    /// When it will show `shown`, unless it is held.
    pub(crate) fn when(&self, shown: Instant) -> Instant {
        shown + self.held
    }

    /// Has it stand still, or go on.
    pub(crate) fn hold(&mut self, hold: bool, real: Instant) {
        if hold {
            self.since.get_or_insert(real);
        } else if let Some(since) = self.since.take() {
            self.held += real - since;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn time_that_it_was_held_does_not_count() {
        let begin = Instant::now();
        let at = |seconds| begin + Duration::from_secs(seconds);
        let mut clock = RunClock::default();
        assert_eq!((clock.show(at(3)), clock.when(at(5))), (at(3), at(5)));
        for second in 10..20 {
            clock.hold(true, at(second));
            assert_eq!(clock.show(at(second)), at(10));
        }
        clock.hold(false, at(20));
        clock.hold(false, at(21));
        assert_eq!((clock.show(at(21)), clock.when(at(11))), (at(11), at(21)));
        clock.hold(true, at(30));
        clock.hold(false, at(31));
        assert_eq!((clock.show(at(40)), clock.when(at(29))), (at(29), at(40)));
    }
}
