//! The rows of the table: what each measures, against whom, and what it has to reach.

use crate::row::Bound::{Ceiling, CeilingTimes};
use crate::row::{Row, Unit};

/// How many hosts the command runs on.
pub(crate) const SERVERS: usize = 32;

/// How many servers a row needs.
pub(crate) fn servers(row: &Row) -> usize {
    match row.name {
        "run_32" | "run_32_cpu" => SERVERS,
        "start_ssh_cold" => 1,
        _ => 0,
    }
}

/// All rows, in the order in which they run.
pub(crate) const ROWS: &[Row] = &[
    Row {
        name: "run_32",
        what: "farcall run on 32 hosts, wall",
        unit: Unit::Milliseconds,
        peers: &["clush", "pdsh"],
        // Both, and so the faster one.
        must: &[CeilingTimes(0.9, "clush"), CeilingTimes(0.9, "pdsh")],
        aim: &[CeilingTimes(0.75, "clush"), CeilingTimes(0.75, "pdsh")],
    },
    Row {
        name: "run_32_cpu",
        what: "coordinator CPU per host",
        unit: Unit::Milliseconds,
        peers: &["ssh", "clush", "pdsh"],
        must: &[CeilingTimes(1.2, "ssh")],
        aim: &[CeilingTimes(0.6, "ssh")],
    },
    Row {
        name: "start_ssh_cold",
        what: "ssh start to first reply, delivery of the stock worker included",
        unit: Unit::Milliseconds,
        peers: &["ssh"],
        must: &[CeilingTimes(1.2, "ssh")],
        aim: &[CeilingTimes(0.8, "ssh")],
    },
    Row {
        name: "worker_size",
        what: "bytes sent for the stock worker",
        unit: Unit::Bytes,
        peers: &[],
        must: &[Ceiling(850e3)],
        aim: &[Ceiling(450e3)],
    },
    Row {
        name: "worker_rss",
        what: "idle resident memory of the stock worker",
        unit: Unit::Bytes,
        peers: &[],
        must: &[Ceiling(4e6)],
        aim: &[Ceiling(2e6)],
    },
];
