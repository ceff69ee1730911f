//! The program `farcall-worker`: what `farcall` delivers, without what only people need.

mod tasks;

use std::process::ExitCode;

fn main() -> ExitCode {
    // A worker goes no further.
    farcall::init_twin(tasks::tasks());
    eprintln!("farcall-worker: this is the part of farcall that it starts on hosts; start farcall itself");
    ExitCode::from(2)
}
