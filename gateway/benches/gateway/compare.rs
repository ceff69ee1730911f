//! The run of all rows, from the command line to the exit code.

use std::process::ExitCode;

use crate::Failure;
use crate::args::Args;
use crate::assignment::Assignment;
use crate::contest;
use crate::farm::{self, Farm};
use crate::peers;
use crate::python;
use crate::report::Report;
use crate::row::Row;
use crate::rows::{self, ROWS};

/// All rows that were asked for; fails if one of them has no number of ours.
pub(crate) fn compare() -> Result<ExitCode, Failure> {
    let args = Args::parse(std::env::args().skip(1))?;
    let rows: Vec<&Row> = ROWS.iter().filter(|row| args.wants(row.name)).collect();
    if rows.is_empty() {
        let names: Vec<&str> = ROWS.iter().map(|row| row.name).collect();
        return Err(format!("no row is called that; there are: {}", names.join(", ")).into());
    }
    let servers = rows.iter().map(|row| rows::servers(row)).max().unwrap_or_default();
    let farm = Farm::start(servers);
    let way = format!(
        "medians of {} interleaved runs of {:?} (least and greatest); private sshds on loopback, {}",
        args.rounds,
        args.length,
        farm::ALGORITHMS
    );
    let report = Report::begin(args.json, &way)?;
    let own = peers::own()?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let mut code = ExitCode::SUCCESS;
    for row in rows {
        let measure = async |contender: &str| {
            peers::present(contender)?;
            let python = python::is_one(contender).then(|| python::program(contender)).transpose()?;
            let assignment = Assignment::new(contender, row, &args, farm.home());
            python.as_ref().unwrap_or(&own).measure(assignment.to_args(), args.length).await
        };
        let outcome = runtime.block_on(contest::run(row, &args, measure));
        report.row(row, &outcome)?;
        if outcome.ours.is_err() {
            code = ExitCode::FAILURE;
        }
    }
    Ok(code)
}
