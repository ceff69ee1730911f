//! How long senders wait for room.

use std::time::Duration;

/// How long several have waited, all together, those who wait now included.
#[derive(Debug, Default, Clone, Copy)]
pub(crate) struct Blocked {
    /// All ends minus all beginnings, in nanoseconds. Wraps around, and is right again once each beginning has its end.
    nanos: u64,
    waiting: u32,
}

impl Blocked {
    /// One begins to wait; `now` in nanoseconds, as everywhere here.
    pub(crate) fn begin(&mut self, now: u64) {
        self.nanos = self.nanos.wrapping_sub(now);
        self.waiting += 1;
    }

    /// So many have waited until now.
    pub(crate) fn end(&mut self, now: u64, count: u32) {
        self.nanos = self.nanos.wrapping_add(now.wrapping_mul(count.into()));
        self.waiting -= count;
    }

    /// The time until now.
    pub(crate) fn total(&self, now: u64) -> Duration {
        Duration::from_nanos(self.nanos.wrapping_add(now.wrapping_mul(self.waiting.into())))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blocked_time_counts_those_who_wait_now() {
        let mut blocked = Blocked::default();
        blocked.begin(1_000);
        blocked.begin(1_500);
        assert_eq!(blocked.total(2_000), Duration::from_nanos(1_500));
        blocked.end(2_000, 1);
        assert_eq!(blocked.total(3_000), Duration::from_nanos(2_500));
        blocked.end(3_000, 1);
        assert_eq!(blocked.total(9_000), Duration::from_nanos(2_500));
    }
}
