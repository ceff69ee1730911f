//! The table of `farcall check`: a row a host, a column for each step on the way to it.

use std::time::Duration;

/// The steps that are timed, in their order.
pub(crate) const STEPS: [&str; 5] = ["RESOLVE", "CONNECT", "KEYS", "AUTH", "START"];

/// What became of one step.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Cell {
    Took(Duration),
    /// This way to the host has no such step.
    NotNeeded,
    Failed,
    /// A step before failed.
    NotReached,
}

/// What is known about one host.
#[derive(Debug, Clone)]
pub(crate) struct Row {
    pub(crate) host: String,
    pub(crate) cells: [Cell; STEPS.len()],
    /// What kind of machine it is, once it was reached: `x86_64-linux`.
    pub(crate) platform: Option<String>,
    /// How far its clock is ahead of ours, in milliseconds.
    pub(crate) clock_ahead_ms: Option<i64>,
}

/// The rows under a heading, columns aligned, without white space at the ends of lines.
pub(crate) fn table(rows: &[Row]) -> String {
    let mut lines: Vec<Vec<String>> = Vec::with_capacity(rows.len() + 1);
    let head = ["HOST"].into_iter().chain(STEPS).chain(["PLATFORM", "CLOCK"]);
    lines.push(head.map(str::to_owned).collect());
    for row in rows {
        let mut line = vec![row.host.clone()];
        line.extend(row.cells.iter().map(|cell| match cell {
            Cell::Took(time) => format!("{}ms", time.as_millis()),
            Cell::NotNeeded => "-".to_owned(),
            Cell::Failed => "FAILED".to_owned(),
            Cell::NotReached => String::new(),
        }));
        line.push(row.platform.as_deref().map(crate::text::one_line).unwrap_or_default());
        line.push(row.clock_ahead_ms.map(clock).unwrap_or_default());
        lines.push(line);
    }
    let widths: Vec<usize> = (0..lines[0].len())
        .map(|column| lines.iter().map(|line| line[column].chars().count()).max().unwrap_or(0))
        .collect();
    let mut text = String::new();
    for line in &lines {
        let cells: Vec<String> =
            line.iter().zip(&widths).map(|(cell, &width)| format!("{cell:<width$}")).collect();
        text.push_str(cells.join("  ").trim_end());
        text.push('\n');
    }
    text
}

/// `+1.2s`, `-0.3s`, and `ok` for what no one would notice.
fn clock(ahead_ms: i64) -> String {
    if ahead_ms.unsigned_abs() < 100 {
        return "ok".to_owned();
    }
    let sign = if ahead_ms < 0 { '-' } else { '+' };
    let tenths = ahead_ms.unsigned_abs() / 100;
    format!("{sign}{}.{}s", tenths / 10, tenths % 10)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_line_up_and_stop_where_it_failed() {
        let took = |ms| Cell::Took(Duration::from_millis(ms));
        let rows = [
            Row {
                host: "web01".into(),
                cells: [took(2), took(11), took(130), took(12), took(40)],
                platform: Some("x86_64-linux".into()),
                clock_ahead_ms: Some(-1250),
            },
            Row {
                host: "local".into(),
                cells: [Cell::NotNeeded, Cell::NotNeeded, Cell::NotNeeded, Cell::NotNeeded, took(4)],
                platform: Some("x86_64-linux".into()),
                clock_ahead_ms: Some(0),
            },
            Row {
                host: "dead".into(),
                cells: [took(1), Cell::Failed, Cell::NotReached, Cell::NotReached, Cell::NotReached],
                platform: None,
                clock_ahead_ms: None,
            },
        ];
        let expected = "\
HOST   RESOLVE  CONNECT  KEYS   AUTH  START  PLATFORM      CLOCK
web01  2ms      11ms     130ms  12ms  40ms   x86_64-linux  -1.2s
local  -        -        -      -     4ms    x86_64-linux  ok
dead   1ms      FAILED
";
        assert_eq!(table(&rows), expected);
    }

    #[test]
    fn a_clock_is_shown_when_it_matters() {
        for (ms, text) in
            [(0, "ok"), (-99, "ok"), (100, "+0.1s"), (61_234, "+61.2s"), (i64::MIN, "-9223372036854775.8s")]
        {
            assert_eq!(clock(ms), text);
        }
    }
}
