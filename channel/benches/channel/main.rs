//! The channel's benchmark: ours, the pipe below it and other people's channels, in one interleaved run.
//!
//! Each number comes from a fresh pair of processes, each on a core of its own, joined by two pipes. The same program
//! is the one that asks for the measurements and, started again with an assignment, either side of a pair.

mod allocation;
mod args;
mod contest;
mod cores;
mod meter;
mod ours;
mod pair;
mod payload;
mod peers;
mod raw;
mod report;
mod row;
mod rows;
mod trial;

use std::error::Error;
use std::process::ExitCode;

use args::Args;
use pair::{Assignment, Side};
use peers::Peers;
use report::Report;
use row::Row;
use rows::ROWS;

/// What goes wrong is printed, whatever it is.
type Failure = Box<dyn Error + Send + Sync>;

fn main() -> ExitCode {
    let done = match Assignment::from_args(std::env::args().skip(1)) {
        Some(assignment) => take_part(&assignment),
        None => compare(),
    };
    match done {
        Ok(code) => code,
        Err(error) => {
            eprintln!("{error}");
            ExitCode::from(2)
        }
    }
}

/// One side of one measurement.
fn take_part(assignment: &Assignment) -> Result<ExitCode, Failure> {
    let ends = assignment.start()?;
    let measured = match assignment.contender.as_str() {
        "raw" => raw::run(assignment, ends).map_err(Into::into),
        // Ours, and our own rates without a row's burden.
        _ => ours::run(assignment, ends),
    };
    match (assignment.side, measured) {
        (Side::Near, Ok(number)) => println!("{number}"),
        (Side::Near, Err(error)) => return Err(error),
        // The near side leaves when it has its number, so the far side's pipes break: that is how it ends.
        (Side::Far, _) => {}
    }
    Ok(ExitCode::SUCCESS)
}

/// All rows that were asked for; fails if one of them has no number of ours.
fn compare() -> Result<ExitCode, Failure> {
    let args = Args::parse(std::env::args().skip(1))?;
    let rows: Vec<&Row> = ROWS.iter().filter(|row| args.wants(row.name)).collect();
    if rows.is_empty() {
        return Err(format!("no row is called that; there are: {}", names()).into());
    }
    let wanted: Vec<&str> = rows.iter().flat_map(|row| args.peers(row)).collect();
    let peers = Peers::prepare(&wanted)?;
    let cores = cores::two()?;
    let way = format!(
        "medians of {} interleaved runs of {:?} (least and greatest), processors {} and {}",
        args.rounds, args.length, cores[0], cores[1]
    );
    let report = Report::begin(args.json, &way)?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let mut code = ExitCode::SUCCESS;
    for row in rows {
        let measure = async |contender: &str| {
            let assignment = Assignment {
                side: Side::Near,
                contender: contender.to_owned(),
                row: row.name.to_owned(),
                length: args.length,
                cores,
            };
            peers.program(contender)?.measure(assignment.to_args(), args.length).await
        };
        let outcome = runtime.block_on(contest::run(row, &args, measure));
        report.row(row, &outcome)?;
        if outcome.ours.is_err() {
            code = ExitCode::FAILURE;
        }
    }
    Ok(code)
}

fn names() -> String {
    ROWS.iter().map(|row| row.name).collect::<Vec<_>>().join(", ")
}
