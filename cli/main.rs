//! The program `farcall`.

mod args;
mod check_json;
mod check_table;
mod commands;
mod environment;
mod exit;
mod failure;
mod hosts;
mod input;
mod interrupts;
mod outcome;
mod output;
mod place;
mod prompt;
mod run_clock;
mod run_loop;
mod run_plan;
mod runner;
mod tasks;
mod text;

use std::io::{self, Write};
use std::process::ExitCode;

use clap::Parser;

use exit::Exit;

fn main() -> ExitCode {
    // A worker goes no further.
    farcall::init(tasks::tasks());
    let cli = args::Cli::parse();
    let environment = environment::Environment::read();
    let result = match &cli.command {
        args::Command::Run(args) => commands::run::run(args, &environment),
        args::Command::Check(args) => commands::check::run(args, &environment),
        args::Command::Hosts(args) => {
            let out = io::BufWriter::new(io::stdout().lock());
            commands::hosts::run(&args.action, &environment, io::stdin().lock(), out).map(|()| Exit::OK)
        }
    };
    match result {
        Ok(exit) => exit.into(),
        Err(error) => {
            if let Some(message) = error.message() {
                // Where nobody can be told, the exit code still tells.
                let _ = writeln!(io::stderr(), "farcall: {message}");
            }
            error.exit().into()
        }
    }
}
