//! How many calls a gateway should have: enough that its slots never wait for the next, and no more.

use std::time::Duration;

/// What replies to tiny calls wait for each other, and schedulers of both systems.
const SLACK: f64 = 1e6;

/// The most calls beyond the slots: what bounds memory, and what is at stake when a worker dies.
const MOST: f64 = 8192.0;

/// A round trip is not believed to be shorter.
const SHORTEST: f64 = 50e3;

/// What is known of how fast a gateway works. Times are nanoseconds.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Pace {
    /// How long a call runs.
    run: Option<f64>,
    /// The round trip, of those that were measured the shortest: the others waited for something.
    trip: Option<f64>,
}

impl Pace {
    /// The mean run time of some calls.
    pub(crate) fn ran(&mut self, nanos: u64) {
        let new = nanos as f64;
        self.run = Some(self.run.map_or(new, |run| (run + new) / 2.0));
    }

    /// A round trip was measured, perhaps with something beside it.
    pub(crate) fn tripped(&mut self, trip: Duration) {
        let new = (trip.as_nanos() as f64).max(SHORTEST);
        self.trip = Some(self.trip.map_or(new, |trip| trip.min(new)));
    }

    pub(crate) fn run(&self) -> Option<Duration> {
        self.run.map(|run| Duration::from_nanos(run as u64))
    }

    pub(crate) fn trip(&self) -> Duration {
        Duration::from_nanos(self.trip.unwrap_or(SHORTEST) as u64)
    }

    /// How long at most nothing is heard of so many calls, usually.
    pub(crate) fn expected(&self, calls: u32, slots: u32) -> Duration {
        let run = self.run.unwrap_or(0.0) * f64::from(calls) / f64::from(slots.max(1));
        Duration::from_nanos((run + 2.0 * self.trip.unwrap_or(SHORTEST) + 2.0 * SLACK) as u64)
    }

    /// How many calls should be there, of which the present ones run at least for `overdue`: one for each slot, and as many as end until the next can come. Of calls that take long
    /// that is one in all, since it waits behind them; of tiny ones it is thousands.
    pub(crate) fn target(&self, slots: u32, overdue: Duration) -> u32 {
        let Some(run) = self.run else { return slots };
        let run = run.max(overdue.as_nanos() as f64);
        let ahead = 2.0 * self.trip.unwrap_or(SHORTEST) + SLACK;
        let more = (f64::from(slots) * ahead / run.max(1.0)).ceil().clamp(1.0, MOST);
        slots.saturating_add(more as u32)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pace(run: Duration, trip: Duration) -> Pace {
        let mut pace = Pace::default();
        pace.ran(run.as_nanos() as u64);
        pace.tripped(trip);
        pace
    }

    #[test]
    fn tiny_calls_fill_the_pipe_and_long_ones_do_not_queue() {
        let (micro, milli) = (Duration::from_micros(1), Duration::from_millis(1));
        assert_eq!(Pace::default().target(4, Duration::ZERO), 4, "nothing is known yet");
        assert_eq!(pace(Duration::from_secs(10), milli).target(4, Duration::ZERO), 5);
        assert_eq!(pace(100 * milli, milli).target(4, Duration::ZERO), 5);
        assert!(pace(micro, 100 * micro).target(2, Duration::ZERO) > 1000);
        assert!(pace(micro, 100 * milli).target(2, Duration::ZERO) <= 2 + MOST as u32);
        // Unless nothing has been heard of those that are there.
        assert_eq!(pace(micro, 100 * micro).target(2, Duration::from_secs(1)), 3);
        // A far gateway needs more than a near one.
        assert!(pace(milli, 50 * milli).target(2, Duration::ZERO) > 100);
        assert!(pace(milli, 100 * micro).target(2, Duration::ZERO) < 10);
    }

    #[test]
    fn the_shortest_round_trip_counts_and_the_latest_run_times() {
        let mut pace = pace(Duration::from_micros(1), Duration::from_millis(5));
        pace.tripped(Duration::from_millis(1));
        pace.tripped(Duration::from_millis(9));
        assert_eq!(pace.trip(), Duration::from_millis(1));
        for _ in 0..20 {
            pace.ran(1_000_000_000);
        }
        assert_eq!(pace.target(1, Duration::ZERO), 2);
    }
}
