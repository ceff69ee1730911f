//! One row's runs: ours, then every peer, then the next round.
//!
//! Interleaved, so that a machine that slows down or is busy for a while burdens everybody alike.

use std::collections::BTreeMap;
use std::process::ExitStatus;
use std::time::Duration;

use thiserror::Error;

use crate::args::Args;
use crate::row::Row;

/// What all runs of a row gave.
#[derive(Debug)]
pub(crate) struct Outcome {
    pub(crate) ours: Result<Samples, RunError>,
    /// In the row's order.
    pub(crate) peers: Vec<(&'static str, Result<Samples, RunError>)>,
}

/// The numbers of one contender, one a round, in ascending order.
#[derive(Clone, Debug)]
pub(crate) struct Samples(Vec<f64>);

impl Samples {
    pub(crate) fn median(&self) -> f64 {
        let middle = self.0.len() / 2;
        match self.0.len() {
            0 => f64::NAN,
            odd if odd % 2 == 1 => self.0[middle],
            _ => (self.0[middle - 1] + self.0[middle]) / 2.0,
        }
    }

    /// The least and the greatest.
    pub(crate) fn spread(&self) -> [f64; 2] {
        let first = self.0.first().copied().unwrap_or(f64::NAN);
        [first, self.0.last().copied().unwrap_or(f64::NAN)]
    }

    pub(crate) fn runs(&self) -> usize {
        self.0.len()
    }
}

/// Why a contender has no number.
#[derive(Clone, Debug, Error)]
pub(crate) enum RunError {
    #[error("absent: {0}")]
    Absent(String),
    #[error("could not be started: {0}")]
    Start(String),
    #[error("gave no number within {0:?}")]
    Hung(Duration),
    #[error("ended with {0}")]
    Failed(ExitStatus),
    #[error("printed {0:?} instead of a number")]
    Garbled(String),
}

/// Runs all rounds of a row; `measure` runs a contender once.
pub(crate) async fn run(
    row: &Row,
    args: &Args,
    mut measure: impl AsyncFnMut(&'static str) -> Result<f64, RunError>,
) -> Outcome {
    let contenders = || std::iter::once("ours").chain(args.peers(row));
    let mut numbers: BTreeMap<&str, Result<Vec<f64>, RunError>> = BTreeMap::new();
    for _ in 0..args.rounds {
        for contender in contenders() {
            let so_far = numbers.entry(contender).or_insert_with(|| Ok(Vec::new()));
            // One failure is enough: a median over fewer runs than the others' would not be comparable.
            let Ok(samples) = so_far else { continue };
            match measure(contender).await {
                Ok(number) => samples.push(number),
                Err(error) => *so_far = Err(error),
            }
        }
    }
    let mut take = |contender| {
        let numbers = numbers.remove(contender).unwrap_or_else(|| Ok(Vec::new()));
        numbers.map(|mut numbers| {
            numbers.sort_by(f64::total_cmp);
            Samples(numbers)
        })
    };
    Outcome { ours: take("ours"), peers: args.peers(row).map(|peer| (peer, take(peer))).collect() }
}
