//! One row's runs: ours, then every peer, then the next round.
//!
//! Interleaved, so that a machine that slows down or is busy for a while burdens everybody alike.

use std::collections::BTreeMap;
use std::io;
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process_group};
use thiserror::Error;
use tokio::io::AsyncReadExt;
use tokio::process::{Child, Command};
use tokio::time::timeout;

use crate::args::Args;
use crate::pair::{Assignment, Side};
use crate::peers::{Peers, Program};
use crate::rows::Row;

/// How much longer than its measurement a run may take before it counts as hung.
const SLACK: Duration = Duration::from_secs(30);

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

impl RunError {
    fn start(error: io::Error) -> Self {
        Self::Start(error.to_string())
    }
}

/// Runs all rounds of a row.
pub(crate) async fn run(row: &Row, peers: &Peers, args: &Args, cores: [usize; 2]) -> Outcome {
    let contenders = || std::iter::once("ours").chain(args.peers(row));
    let mut numbers: BTreeMap<&str, Result<Vec<f64>, RunError>> = BTreeMap::new();
    for _ in 0..args.rounds {
        for contender in contenders() {
            let so_far = numbers.entry(contender).or_insert_with(|| Ok(Vec::new()));
            // One failure is enough: a median over fewer runs than the others' would not be comparable.
            let Ok(samples) = so_far else { continue };
            let assignment = Assignment {
                side: Side::Near,
                contender: contender.to_owned(),
                row: row.name.to_owned(),
                length: args.length,
                cores,
            };
            match measure(peers.program(contender), &assignment).await {
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

/// Runs one contender once.
async fn measure(program: Result<&Program, RunError>, assignment: &Assignment) -> Result<f64, RunError> {
    let program = program?;
    let limit = assignment.length * 3 + SLACK;
    let mut child = Command::new(&program.path)
        .args(&program.leading)
        .args(assignment.to_args())
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .process_group(0)
        .kill_on_drop(true)
        .spawn()
        .map_err(RunError::start)?;
    let Ok(ended) = timeout(limit, finish(&mut child)).await else {
        // Not yet waited for, so the id still is this child's and its group's.
        if let Some(group) = child.id().and_then(|id| Pid::from_raw(id.cast_signed())) {
            let _ = kill_process_group(group, Signal::KILL);
        }
        let _ = child.wait().await;
        return Err(RunError::Hung(limit));
    };
    let (printed, status) = ended.map_err(RunError::start)?;
    if !status.success() {
        return Err(RunError::Failed(status));
    }
    match printed.parse() {
        Ok(number) if f64::is_finite(number) && number > 0.0 => Ok(number),
        _ => Err(RunError::Garbled(printed)),
    }
}

/// All that a child prints, and how it ends.
async fn finish(child: &mut Child) -> io::Result<(String, ExitStatus)> {
    let mut printed = String::new();
    if let Some(mut output) = child.stdout.take() {
        output.read_to_string(&mut printed).await?;
    }
    Ok((printed.trim().to_owned(), child.wait().await?))
}
