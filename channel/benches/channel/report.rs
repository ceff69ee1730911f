//! What is printed: a table for people, or one JSON object a line.

use std::fs;
use std::io::{self, Write};

use serde::Serialize;
use serde_json::{Map, Value};

use crate::contest::{Outcome, Samples};
use crate::row::{Bound, Row, Unit};

/// Prints rows as they come.
#[derive(Debug)]
pub(crate) struct Report {
    json: bool,
}

#[derive(Serialize)]
struct Line<'a> {
    row: &'a str,
    unit: &'a str,
    ours: f64,
    peers: Map<String, Value>,
    /// Least and greatest run of each.
    spread: Map<String, Value>,
    runs: usize,
}

impl Report {
    /// Begins a report; the table is headed by the machine and `way`, the way of measuring.
    pub(crate) fn begin(json: bool, way: &str) -> io::Result<Self> {
        if !json {
            writeln!(io::stdout().lock(), "{}\n{way}\n", machine())?;
        }
        Ok(Self { json })
    }

    /// Prints a row. A row without a number of ours is only complained about.
    pub(crate) fn row(&self, row: &Row, outcome: &Outcome) -> io::Result<()> {
        let mut out = io::stdout().lock();
        if self.json {
            for (peer, samples) in &outcome.peers {
                if let Err(error) = samples {
                    eprintln!("{}: {peer}: {error}", row.name);
                }
            }
            match &outcome.ours {
                Ok(ours) => writeln!(out, "{}", json(row, ours, outcome)?)?,
                Err(error) => eprintln!("{}: ours: {error}", row.name),
            }
        } else {
            table(&mut out, row, outcome)?;
        }
        out.flush()
    }
}

fn json(row: &Row, ours: &Samples, outcome: &Outcome) -> serde_json::Result<String> {
    let mut peers = Map::new();
    let mut spread = Map::from_iter([("ours".to_owned(), ours.spread().map(rounded).to_vec().into())]);
    for (peer, samples) in &outcome.peers {
        if let Ok(samples) = samples {
            peers.insert((*peer).to_owned(), rounded(samples.median()).into());
            spread.insert((*peer).to_owned(), samples.spread().map(rounded).to_vec().into());
        }
    }
    serde_json::to_string(&Line {
        row: row.name,
        unit: row.unit.name(),
        ours: rounded(ours.median()),
        peers,
        spread,
        runs: ours.runs(),
    })
}

fn table(out: &mut impl Write, row: &Row, outcome: &Outcome) -> io::Result<()> {
    writeln!(out, "{:<18} {}", row.name, row.what)?;
    let ours = match &outcome.ours {
        Ok(ours) => {
            writeln!(out, "  {:<8} {}", "ours", number_and_spread(row.unit, ours))?;
            Some(ours.median())
        }
        Err(error) => {
            writeln!(out, "  {:<8} {error}", "ours")?;
            None
        }
    };
    for (peer, samples) in &outcome.peers {
        match samples {
            Ok(samples) => {
                let shown = number_and_spread(row.unit, samples);
                match ours {
                    Some(ours) => {
                        writeln!(
                            out,
                            "  {peer:<8} {shown}   ours / {peer} = {}",
                            times(ours / samples.median())
                        )?;
                    }
                    None => writeln!(out, "  {peer:<8} {shown}")?,
                }
            }
            Err(error) => writeln!(out, "  {peer:<8} {error}")?,
        }
    }
    for (label, bounds) in [("must", row.must), ("aim", row.aim)] {
        for bound in bounds {
            let verdict = match ours.and_then(|ours| met(bound, ours, outcome)) {
                Some(true) => "reached",
                Some(false) => "NOT REACHED",
                None => "unknown",
            };
            writeln!(out, "  {label:<8} {:<22} {verdict}", describe(bound, row.unit))?;
        }
    }
    writeln!(out)
}

/// Whether a bound holds; `None` if the peer it speaks of has no number.
fn met(bound: &Bound, ours: f64, outcome: &Outcome) -> Option<bool> {
    let of = |wanted: &str| {
        let (_, samples) = outcome.peers.iter().find(|(peer, _)| *peer == wanted)?;
        samples.as_ref().ok().map(Samples::median)
    };
    Some(match *bound {
        Bound::Ceiling(limit) => ours <= limit,
        Bound::Floor(limit) => ours >= limit,
        Bound::CeilingTimes(factor, peer) => ours <= factor * of(peer)?,
        Bound::FloorTimes(factor, peer) => ours >= factor * of(peer)?,
    })
}

fn describe(bound: &Bound, unit: Unit) -> String {
    match *bound {
        Bound::Ceiling(limit) => format!("≤ {}", amount(unit, limit)),
        Bound::Floor(limit) => format!("≥ {}", amount(unit, limit)),
        Bound::CeilingTimes(factor, peer) => format!("≤ {factor}× {peer}"),
        Bound::FloorTimes(factor, peer) => format!("≥ {factor}× {peer}"),
    }
}

fn number_and_spread(unit: Unit, samples: &Samples) -> String {
    let [least, greatest] = samples.spread();
    let spread = format!("({} – {})", amount(unit, least), amount(unit, greatest));
    format!("{:>14}  {spread:<31}", amount(unit, samples.median()))
}

fn amount(unit: Unit, number: f64) -> String {
    match unit {
        Unit::Microseconds => format!("{number:.2} us"),
        Unit::Milliseconds => format!("{number:.2} ms"),
        Unit::Ratio => format!("{number:.3}"),
        Unit::Bytes => format!("{number:.0} B"),
        Unit::MebibytesPerSecond => format!("{number:.0} MiB/s"),
        Unit::PerSecond if number >= 1e6 => format!("{:.2} M/s", number / 1e6),
        Unit::PerSecond if number >= 1e3 => format!("{:.1} k/s", number / 1e3),
        Unit::PerSecond => format!("{number:.0} /s"),
    }
}

/// A ratio with as many digits as it is worth.
fn times(ratio: f64) -> String {
    if ratio >= 10.0 { format!("{ratio:.0}×") } else { format!("{ratio:.2}×") }
}

impl Unit {
    /// The unit as it stands in the JSON.
    fn name(self) -> &'static str {
        match self {
            Unit::Microseconds => "us",
            Unit::PerSecond => "/s",
            Unit::MebibytesPerSecond => "MiB/s",
            Unit::Bytes => "B",
            Unit::Milliseconds => "ms",
            Unit::Ratio => "ratio",
        }
    }
}

/// Three decimals for small numbers, none for large ones: the rest is noise.
fn rounded(number: f64) -> f64 {
    if number < 1000.0 { (number * 1000.0).round() / 1000.0 } else { number.round() }
}

/// The processor and the kernel, as far as the machine tells.
fn machine() -> String {
    let read = |path| fs::read_to_string(path).unwrap_or_default();
    let cpus = read("/proc/cpuinfo");
    let model = cpus.lines().find_map(|line| line.strip_prefix("model name")?.split_once(": "));
    let model = model.map_or("unknown processor", |(_, model)| model).to_owned();
    format!("{model}, Linux {}", read("/proc/sys/kernel/osrelease").trim())
}
