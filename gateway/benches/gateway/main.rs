//! The gateways' benchmark: starts, bytes and memory, ours beside what people use today, in one interleaved run.
//!
//! Each number comes from a fresh process. The same program asks for the measurements, takes them when started with an
//! assignment, and is the worker at the far end of what it measures: it ships itself, as every program does.

#[path = "../../../channel/benches/channel/args.rs"]
mod args;
mod assignment;
#[path = "../../../channel/benches/channel/contest.rs"]
mod contest;
mod farm;
mod memory;
mod peers;
#[path = "../../../channel/benches/channel/report.rs"]
mod report;
#[path = "../../../channel/benches/channel/row.rs"]
mod row;
mod rows;
mod starts;
mod stream;
mod times;
#[path = "../../../channel/benches/channel/trial.rs"]
mod trial;

use std::process::ExitCode;

use args::Args;
use assignment::Assignment;
use farcall::Tasks;
use farm::Farm;
use report::Report;
use row::Row;
use rows::ROWS;

/// What goes wrong is printed, whatever it is.
type Failure = farcall::BoxError;

fn main() -> ExitCode {
    // Before anything of ours: this is what a program costs that has nothing of ours.
    if std::env::args().nth(1).as_deref() == Some(starts::REPLY) {
        return starts::reply();
    }
    farcall::init(Tasks::new().add(starts::nothing).add(stream::swallow));
    let done = match Assignment::from_args(std::env::args().skip(1)) {
        Some(assignment) => measure(&assignment),
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

/// Takes one measurement and prints its number.
fn measure(assignment: &Assignment) -> Result<ExitCode, Failure> {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    let number = runtime.block_on(async {
        match assignment.row.as_str() {
            "ssh_bytes" => stream::run(assignment).await,
            "gateway_memory" => memory::run(assignment).await,
            _ => starts::run(assignment).await,
        }
    })?;
    println!("{number}");
    Ok(ExitCode::SUCCESS)
}

/// All rows that were asked for; fails if one of them has no number of ours.
fn compare() -> Result<ExitCode, Failure> {
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
            let assignment = Assignment::new(contender, row, &args, farm.home());
            own.measure(assignment.to_args(), args.length).await
        };
        let outcome = runtime.block_on(contest::run(row, &args, measure));
        report.row(row, &outcome)?;
        if outcome.ours.is_err() {
            code = ExitCode::FAILURE;
        }
    }
    Ok(code)
}
