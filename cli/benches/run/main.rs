//! The program's benchmark: one command on many hosts beside what people use today, and the worker that it ships.
//!
//! Each number comes from a fresh process, which starts the programs that it measures.

#[path = "../../../channel/benches/channel/args.rs"]
mod args;
#[path = "../../../gateway/benches/gateway/assignment.rs"]
mod assignment;
mod commands;
#[path = "../../../gateway/benches/gateway/compare.rs"]
mod compare;
#[path = "../../../channel/benches/channel/contest.rs"]
mod contest;
#[path = "../../../gateway/benches/gateway/farm.rs"]
mod farm;
#[path = "../../../gateway/benches/gateway/peers.rs"]
mod peers;
#[path = "../../../gateway/benches/gateway/python.rs"]
mod python;
#[path = "../../../channel/benches/channel/report.rs"]
mod report;
#[path = "../../../channel/benches/channel/row.rs"]
mod row;
mod rows;
#[path = "../../tasks.rs"]
mod tasks;
#[path = "../../../gateway/benches/gateway/times.rs"]
mod times;
#[path = "../../../channel/benches/channel/trial.rs"]
mod trial;
mod worker;

use std::process::ExitCode;

use assignment::Assignment;

/// What goes wrong is printed, whatever it is.
type Failure = farcall::BoxError;

fn main() -> ExitCode {
    // The rows of the worker are measured through gateways of our own.
    farcall::init(tasks::tasks());
    let done = match Assignment::from_args(std::env::args().skip(1)) {
        Some(assignment) => measure(&assignment),
        None => worker::build().and_then(|()| compare::compare()),
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
            "start_ssh_cold" => worker::cold(assignment).await,
            "worker_size" => worker::size(assignment).await,
            "worker_rss" => worker::resident().await,
            _ => commands::run(assignment).await,
        }
    })?;
    println!("{number}");
    Ok(ExitCode::SUCCESS)
}
