//! The benchmark's own command line.

use std::time::Duration;

use crate::peers::is_other;
use crate::row::Row;

/// What a person asked for.
#[derive(Debug)]
pub(crate) struct Args {
    /// One JSON object a line instead of the table.
    pub(crate) json: bool,
    /// How often every contender of a row is run.
    pub(crate) rounds: usize,
    /// How long one run measures.
    pub(crate) length: Duration,
    /// Measure only what this program holds itself: ours, the pipe, and our own rate without the burden.
    pub(crate) without_peers: bool,
    /// Rows whose name contains one of these; all rows if there are none.
    pub(crate) filters: Vec<String>,
}

/// What to type.
pub(crate) const USAGE: &str = concat!(
    "usage: cargo bench -p ",
    env!("CARGO_PKG_NAME"),
    " -- [--json] [--quick] [--rounds N] [--without-peers] [ROW...]
  --json           one JSON object a line
  --quick          three short runs of each, to see that everything works
  --rounds N       how often each contender of a row runs (5)
  --without-peers  neither build nor run other people's programs
  ROW              only rows whose name contains this"
);

impl Args {
    /// Reads the command line without the program's name.
    pub(crate) fn parse(mut args: impl Iterator<Item = String>) -> Result<Self, String> {
        let mut quick = false;
        let mut rounds = None;
        let mut parsed = Self {
            json: false,
            rounds: 5,
            length: Duration::from_secs(1),
            without_peers: false,
            filters: Vec::new(),
        };
        while let Some(arg) = args.next() {
            match arg.as_str() {
                "--bench" => {} // from cargo, to every benchmark
                "--json" => parsed.json = true,
                "--quick" => quick = true,
                "--without-peers" => parsed.without_peers = true,
                "--rounds" => {
                    let value = args.next().unwrap_or_default();
                    let number = value.parse().ok().filter(|&n: &usize| n > 0);
                    rounds = Some(number.ok_or_else(|| format!("--rounds wants a number, not `{value}`"))?);
                }
                flag if flag.starts_with('-') => return Err(format!("unknown option `{flag}`\n{USAGE}")),
                filter => parsed.filters.push(filter.to_owned()),
            }
        }
        if quick {
            parsed.rounds = 3;
            parsed.length = Duration::from_millis(200);
        }
        parsed.rounds = rounds.unwrap_or(parsed.rounds);
        Ok(parsed)
    }

    /// Who is measured beside us in a row.
    pub(crate) fn peers(&self, row: &Row) -> impl Iterator<Item = &'static str> {
        let without_peers = self.without_peers;
        row.peers.iter().copied().filter(move |peer| !(without_peers && is_other(peer)))
    }

    /// Whether a row was asked for.
    pub(crate) fn wants(&self, row: &str) -> bool {
        self.filters.is_empty() || self.filters.iter().any(|filter| row.contains(filter.as_str()))
    }
}
