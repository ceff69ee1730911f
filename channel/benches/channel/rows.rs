//! The rows of the table: what each measures, against whom, and what it has to reach.

use crate::row::Bound::{Ceiling, CeilingTimes, Floor, FloorTimes};
use crate::row::{Row, Unit};

/// All rows, in the order in which they run.
pub(crate) const ROWS: &[Row] = &[
    Row {
        name: "rtt_64",
        what: "round trip of 64 B, typed",
        unit: Unit::Microseconds,
        peers: &["raw", "remoc", "tarpc", "execnet", "gipc"],
        must: &[CeilingTimes(4.0, "raw")],
        aim: &[CeilingTimes(2.0, "raw")],
    },
    Row {
        name: "rtt_64_thread",
        what: "the same with the driver on a thread of its own",
        unit: Unit::Microseconds,
        peers: &["raw"],
        must: &[],
        aim: &[],
    },
    Row {
        name: "stream_64",
        what: "one-way stream of a 64 B string through serde",
        unit: Unit::PerSecond,
        peers: &["remoc", "tarpc", "execnet", "gipc"],
        must: &[Floor(2.5e6), FloorTimes(10.0, "remoc")],
        aim: &[Floor(5e6)],
    },
    Row {
        name: "stream_record",
        what: "the same of a five-field struct of about 64 B",
        unit: Unit::PerSecond,
        peers: &["remoc", "tarpc", "execnet", "gipc"],
        must: &[Floor(1.5e6), FloorTimes(6.0, "remoc")],
        aim: &[Floor(2.8e6)],
    },
    Row {
        name: "stream_64_bytes",
        what: "the same of 64 B on a bytes channel",
        unit: Unit::PerSecond,
        peers: &["raw", "remoc", "tarpc", "execnet", "gipc"],
        must: &[Floor(4e6)],
        aim: &[Floor(10e6)],
    },
    Row {
        name: "bulk_1m",
        what: "one-way stream of 1 MiB messages, each handed over whole",
        unit: Unit::MebibytesPerSecond,
        peers: &["raw", "remoc", "tarpc", "execnet", "gipc"],
        must: &[FloorTimes(0.7, "raw")],
        aim: &[FloorTimes(0.9, "raw")],
    },
    Row {
        name: "stream_64_1000ch",
        what: "stream_64 spread over 1,000 channels",
        unit: Unit::PerSecond,
        peers: &["one"],
        must: &[FloorTimes(0.7, "one")],
        aim: &[FloorTimes(0.9, "one")],
    },
    Row {
        name: "beside_stalled",
        what: "a channel's rate beside 100 stalled ones",
        unit: Unit::PerSecond,
        peers: &["alone"],
        must: &[FloorTimes(0.9, "alone")],
        aim: &[FloorTimes(1.0, "alone")],
    },
    Row {
        name: "open_close",
        what: "open + one message + close, 64 at a time",
        unit: Unit::PerSecond,
        peers: &["remoc", "execnet"],
        must: &[Floor(200e3)],
        aim: &[Floor(500e3)],
    },
    Row {
        name: "idle_channel",
        what: "memory of an idle channel, the larger side",
        unit: Unit::Bytes,
        peers: &[],
        must: &[Ceiling(1024.0)],
        aim: &[Ceiling(300.0)],
    },
    Row {
        name: "idle_channel_used",
        what: "the same after a message each way",
        unit: Unit::Bytes,
        peers: &[],
        must: &[],
        aim: &[],
    },
];
