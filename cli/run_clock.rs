//! The time that counts for a run's limits: it stands still while nobody takes what is to be shown.

use std::time::{Duration, Instant};

/// A reader that takes nothing for so long has stopped reading; one that takes something is slow.
const PATIENCE: Duration = Duration::from_secs(1);

/// A clock that stands still while a reader has stopped. A command that cannot go on because a pager waits for its reader has
/// not taken too long.
#[derive(Debug, Default)]
pub(crate) struct RunClock {
    /// For how long it stood still before.
    held: Duration,
    /// Since when the reader has taken nothing, if something waits for it.
    since: Option<Instant>,
}

impl RunClock {
    /// What it shows when the real time is `real`.
    pub(crate) fn show(&self, real: Instant) -> Instant {
        self.since.map_or(real, |since| real.min(since + PATIENCE)) - self.held
    }

    /// When it will show `shown`; never, if it stands still before.
    pub(crate) fn when(&self, shown: Instant) -> Option<Instant> {
        let real = shown + self.held;
        self.since.is_none_or(|since| real <= since + PATIENCE).then_some(real)
    }

    /// Something waits for the reader.
    pub(crate) fn wait(&mut self, real: Instant) {
        self.since.get_or_insert(real);
    }

    /// The reader has taken something, or need not any more.
    pub(crate) fn go_on(&mut self, real: Instant) {
        if let Some(since) = self.since.take() {
            self.held += (real - since).saturating_sub(PATIENCE);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn time_in_which_nothing_is_taken_does_not_count() {
        let begin = Instant::now();
        let at = |seconds| begin + Duration::from_secs(seconds);
        let mut clock = RunClock::default();
        assert_eq!((clock.show(at(3)), clock.when(at(5))), (at(3), Some(at(5))));
        for second in 10..=20 {
            clock.wait(at(second));
            assert_eq!(clock.show(at(second)), at(second.min(11)));
        }
        assert_eq!((clock.when(at(11)), clock.when(at(12))), (Some(at(11)), None));
        clock.go_on(at(20));
        clock.go_on(at(21));
        assert_eq!((clock.show(at(21)), clock.when(at(12))), (at(12), Some(at(21))));
        // One that is slow does not stop it.
        for second in 30..40 {
            clock.wait(at(second));
            assert_eq!(clock.show(at(second)), at(second - 9));
            clock.go_on(at(second + 1));
        }
        assert_eq!(clock.show(at(40)), at(31));
    }
}
