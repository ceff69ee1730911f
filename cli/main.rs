//! The program `farcall`.

#![expect(
    dead_code,
    reason = "the commands `run` and `check`, whose parts are here, come with the gateways they start"
)]

mod args;
mod check_table;
mod commands;
mod environment;
mod exit;
mod hosts;
mod input;
mod interrupts;
mod outcome;
mod output;
mod run_loop;
mod run_plan;
mod text;

use std::io::{self, Write};
use std::process::ExitCode;

use clap::Parser;

fn main() -> ExitCode {
    let cli = args::Cli::parse();
    let environment = environment::Environment::read();
    let result = match &cli.command {
        args::Command::Hosts(args) => {
            let out = io::BufWriter::new(io::stdout().lock());
            commands::hosts::run(&args.action, &environment, io::stdin().lock(), out)
        }
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            if let Some(message) = error.message() {
                // Where nobody can be told, the exit code still tells.
                let _ = writeln!(io::stderr(), "farcall: {message}");
            }
            error.exit().into()
        }
    }
}
