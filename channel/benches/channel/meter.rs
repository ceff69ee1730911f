//! A count of events over a measured time.

use std::time::{Duration, Instant};

/// Counts events, first for a tenth of the length to warm up, then for the length.
///
/// Reading the clock costs as much as some of the events, so it is read only every so many of them.
#[derive(Debug)]
pub(crate) struct Meter {
    length: Duration,
    every: u64,
    count: u64,
    look_at: u64,
    warm_at: Instant,
    /// When the warm-up ended, and the count at that moment.
    began: Option<(Instant, u64)>,
    /// Events and the time they took, once the length has passed.
    done: Option<(u64, Duration)>,
}

impl Meter {
    /// A meter that reads the clock at every `every`th event.
    pub(crate) fn new(length: Duration, every: u64) -> Self {
        Self {
            length,
            every,
            count: 0,
            look_at: every,
            warm_at: Instant::now() + length / 10,
            began: None,
            done: None,
        }
    }

    /// Counts one event; true once the measurement is over.
    pub(crate) fn tick(&mut self) -> bool {
        self.count += 1;
        if self.count < self.look_at {
            return false;
        }
        self.look()
    }

    fn look(&mut self) -> bool {
        self.look_at = self.count + self.every;
        let now = Instant::now();
        match self.began {
            None if now >= self.warm_at => self.began = Some((now, self.count)),
            None => {}
            Some((then, before)) => {
                let took = now - then;
                if took >= self.length && self.done.is_none() {
                    self.done = Some((self.count - before, took));
                }
            }
        }
        self.done.is_some()
    }

    /// Events a second; zero before the measurement is over.
    pub(crate) fn per_second(&self) -> f64 {
        self.done.map_or(0.0, |(count, took)| count as f64 / took.as_secs_f64())
    }

    /// Microseconds an event; zero before the measurement is over.
    pub(crate) fn microseconds_each(&self) -> f64 {
        self.done.map_or(0.0, |(count, took)| took.as_secs_f64() * 1e6 / count as f64)
    }
}
