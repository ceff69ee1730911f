//! What a row of a benchmark's table is made of; the rows themselves are each benchmark's own.
#![allow(
    dead_code,
    reason = "each benchmark uses its own part of this, so expect would be unfulfilled in some"
)]

/// One measured quantity.
#[derive(Debug)]
pub(crate) struct Row {
    pub(crate) name: &'static str,
    pub(crate) what: &'static str,
    pub(crate) unit: Unit,
    /// Who is measured beside us, in this order.
    pub(crate) peers: &'static [&'static str],
    pub(crate) must: &'static [Bound],
    pub(crate) aim: &'static [Bound],
}

/// What a row's numbers count.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Unit {
    Microseconds,
    PerSecond,
    MebibytesPerSecond,
    Bytes,
    Milliseconds,
    /// Of two rates.
    Ratio,
}

/// What a number has to reach, alone or relative to a peer's.
#[derive(Clone, Copy, PartialEq, Debug)]
pub(crate) enum Bound {
    Ceiling(f64),
    Floor(f64),
    CeilingTimes(f64, &'static str),
    FloorTimes(f64, &'static str),
}
