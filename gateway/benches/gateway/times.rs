//! The median of what one run measured several times.
#![allow(
    dead_code,
    reason = "each benchmark uses its own part of this, so expect would be unfulfilled in some"
)]

use std::time::{Duration, Instant};

use crate::Failure;

/// The fewest times that something is measured in a run, however long each takes.
const LEAST: usize = 3;

/// Measures again and again for about `length`, first once to warm up, and returns the median.
pub(crate) async fn median(
    length: Duration,
    mut once: impl AsyncFnMut() -> Result<f64, Failure>,
) -> Result<f64, Failure> {
    once().await?;
    let began = Instant::now();
    let mut numbers = Vec::new();
    while numbers.len() < LEAST || began.elapsed() < length {
        numbers.push(once().await?);
    }
    numbers.sort_by(f64::total_cmp);
    Ok(numbers[numbers.len() / 2])
}

/// Milliseconds since a moment.
pub(crate) fn milliseconds(since: Instant) -> f64 {
    since.elapsed().as_secs_f64() * 1e3
}
