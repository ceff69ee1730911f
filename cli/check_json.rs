//! The results of `farcall check` for programs: one JSON object a host, each on a line of its own.

use std::collections::BTreeMap;
use std::io::{self, Write};
use std::time::Duration;

use serde::Serialize;

use crate::check_table::{Cell, Row, STEPS};
use crate::hosts::Host;
use crate::outcome::Outcome;

/// What is known about one host that was checked.
pub(crate) struct Checked {
    pub(crate) row: Row,
    /// From the beginning of its check to the worker's start, or to what failed.
    pub(crate) took: Duration,
}

/// The object. Fields that follow `steps_ms` are there only when they say something.
#[derive(Serialize)]
struct Line<'a> {
    host: &'a str,
    /// `ok`, or what kind of failure it was.
    class: &'static str,
    ms: u64,
    /// By name, for those that this way to the host has and that succeeded.
    steps_ms: BTreeMap<String, u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    platform: Option<&'a str>,
    /// How far its clock is ahead of ours.
    #[serde(skip_serializing_if = "Option::is_none")]
    clock_ahead_ms: Option<i64>,
    /// Where it failed.
    #[serde(skip_serializing_if = "Option::is_none")]
    step: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    message: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    evidence: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    hint: Option<&'a str>,
}

fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

/// Writes the object of one host; nothing is known of one whose check was never begun.
///
/// # Errors
/// What writing says.
pub(crate) fn write(
    out: &mut dyn Write,
    host: &Host,
    outcome: &Outcome,
    checked: Option<&Checked>,
) -> io::Result<()> {
    let steps = checked.into_iter().flat_map(|checked| STEPS.iter().zip(&checked.row.cells));
    let failure = match outcome {
        Outcome::Failed(failure) => Some(failure),
        _ => None,
    };
    let line = Line {
        host: host.name(),
        class: outcome.class(),
        ms: checked.map_or(0, |checked| millis(checked.took)),
        steps_ms: steps
            .filter_map(|(step, cell)| match cell {
                Cell::Took(time) => Some((step.to_lowercase(), millis(*time))),
                Cell::NotNeeded | Cell::Failed | Cell::NotReached => None,
            })
            .collect(),
        platform: checked.and_then(|checked| checked.row.platform.as_deref()),
        clock_ahead_ms: checked.and_then(|checked| checked.row.clock_ahead_ms),
        step: failure.map(|failure| &*failure.step),
        message: failure.map(|failure| &*failure.message),
        evidence: failure.map(|failure| &*failure.evidence).filter(|evidence| !evidence.is_empty()),
        hint: failure.and_then(|failure| failure.hint.as_deref()),
    };
    serde_json::to_writer(&mut *out, &line)?;
    out.write_all(b"\n")
}
