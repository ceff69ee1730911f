//! The gateways' benchmark: starts, bytes and memory, ours beside what people use today, in one interleaved run.
//!
//! Each number comes from a fresh process. The same program asks for the measurements, takes them when started with an
//! assignment, and is the worker at the far end of what it measures: it ships itself, as every program does.

#[path = "../../../channel/benches/channel/args.rs"]
mod args;
mod assignment;
mod compare;
#[path = "../../../channel/benches/channel/contest.rs"]
mod contest;
mod farm;
mod group;
mod local;
mod map;
mod memory;
mod peers;
mod python;
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

use assignment::Assignment;
use farcall::Tasks;

/// What goes wrong is printed, whatever it is.
type Failure = farcall::BoxError;

fn main() -> ExitCode {
    // Before anything of ours: this is what a program costs that has nothing of ours.
    if std::env::args().nth(1).as_deref() == Some(starts::REPLY) {
        return starts::reply();
    }
    if std::env::args().nth(1).as_deref() == Some(local::ECHO) {
        return local::echo();
    }
    farcall::init(Tasks::new().add(starts::nothing).add(stream::swallow).add(group::sleep).add(map::nothing));
    let done = match Assignment::from_args(std::env::args().skip(1)) {
        Some(assignment) => measure(&assignment),
        None => compare::compare(),
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
    // On the thread that waits, as the peers do: a runtime of several threads has another one look after its sockets.
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let number = runtime.block_on(async {
        match assignment.row.as_str() {
            "ssh_bytes" => stream::run(assignment).await,
            "gateway_memory" => memory::run(assignment).await,
            "start_1000" => group::start(assignment).await,
            "scaling" => group::scaling(assignment).await,
            "run_local" => local::run(assignment).await,
            "pool_call" => local::call(assignment).await,
            "map_tiny" | "map_true" => map::run(assignment).await,
            _ => starts::run(assignment).await,
        }
    })?;
    println!("{number}");
    Ok(ExitCode::SUCCESS)
}
