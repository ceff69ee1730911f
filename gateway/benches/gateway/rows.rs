//! The rows of the table: what each measures, against whom, and what it has to reach.

use crate::row::Bound::{Ceiling, CeilingTimes, Floor, FloorTimes};
use crate::row::{Row, Unit};

/// How many servers there are where many are wanted.
pub(crate) const SERVERS: usize = 32;

/// How many servers a row needs.
pub(crate) fn servers(row: &Row) -> usize {
    match row.name {
        "start_local" | "start_1000" | "scaling" | "run_local" | "pool_call" | "map_tiny" | "map_true" => 0,
        "gateway_memory" => SERVERS,
        _ => 1,
    }
}

/// All rows, in the order in which they run.
pub(crate) const ROWS: &[Row] = &[
    Row {
        name: "start_local",
        what: "local start to first reply",
        unit: Unit::Milliseconds,
        peers: &["exec"],
        must: &[CeilingTimes(2.0, "exec")],
        aim: &[CeilingTimes(1.3, "exec")],
    },
    Row {
        name: "start_ssh_warm",
        what: "ssh start to first reply, worker cached",
        unit: Unit::Milliseconds,
        peers: &["ssh"],
        must: &[CeilingTimes(0.9, "ssh")],
        aim: &[CeilingTimes(0.6, "ssh")],
    },
    Row {
        name: "start_ssh_ship",
        what: "the same, delivery of this very program of 12 MB included",
        unit: Unit::Milliseconds,
        peers: &["ssh"],
        // What is promised is promised of the stock worker: start_ssh_cold, beside the program.
        must: &[],
        aim: &[],
    },
    Row {
        name: "ssh_bytes",
        what: "bytes through a channel over ssh",
        unit: Unit::MebibytesPerSecond,
        peers: &["ssh"],
        must: &[FloorTimes(1.0, "ssh")],
        aim: &[FloorTimes(2.0, "ssh")],
    },
    Row {
        name: "gateway_memory",
        what: "coordinator memory per idle ssh gateway",
        unit: Unit::Bytes,
        peers: &[],
        must: &[Ceiling(300e3)],
        aim: &[Ceiling(100e3)],
    },
    Row {
        name: "start_1000",
        what: "start of 1,000 local gateways, all answering",
        unit: Unit::Milliseconds,
        peers: &["exec"],
        must: &[CeilingTimes(1.5, "exec")],
        aim: &[CeilingTimes(1.1, "exec")],
    },
    Row {
        name: "map_tiny",
        what: "map of a task that does nothing over two local workers",
        unit: Unit::PerSecond,
        peers: &["execnet", "multiprocessing"],
        must: &[Floor(300e3), FloorTimes(4.0, "execnet"), FloorTimes(4.0, "multiprocessing")],
        aim: &[Floor(1e6)],
    },
    Row {
        name: "map_true",
        what: "map of the command /bin/true over two slots",
        unit: Unit::PerSecond,
        peers: &["xargs", "parallel"],
        must: &[FloorTimes(0.9, "xargs"), FloorTimes(4.0, "parallel")],
        aim: &[FloorTimes(1.2, "xargs")],
    },
    Row {
        name: "scaling",
        what: "tasks of 10 ms that block a thread, one slot a gateway: rate of 8 gateways, by 8 times that of one",
        unit: Unit::Ratio,
        peers: &[],
        must: &[Floor(0.95)],
        aim: &[Floor(0.98)],
    },
    Row {
        name: "run_local",
        what: "one function in a fresh process, from nothing to its end",
        unit: Unit::Milliseconds,
        peers: &["exec"],
        must: &[CeilingTimes(1.5, "exec")],
        aim: &[CeilingTimes(1.2, "exec")],
    },
    Row {
        name: "pool_call",
        what: "round trip of a call of a pool's warm worker",
        unit: Unit::Microseconds,
        peers: &["raw", "trio_parallel"],
        must: &[CeilingTimes(6.0, "raw"), CeilingTimes(0.1, "trio_parallel")],
        aim: &[CeilingTimes(3.0, "raw")],
    },
];
