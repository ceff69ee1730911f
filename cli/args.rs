//! The command line: what each command takes, with raw text made typed as it is read.

pub(crate) mod check;
pub(crate) mod connect;
pub(crate) mod hosts;
mod limit;
pub(crate) mod run;
pub(crate) mod selection;
mod taken;
#[cfg(test)]
mod tests;

use clap::{Parser, Subcommand};

/// Run commands on many machines, with nothing installed on them.
#[derive(Debug, Parser)]
#[command(name = "farcall", version, about, disable_help_subcommand = true)]
pub(crate) struct Cli {
    #[command(subcommand)]
    pub(crate) command: Command,
}

/// The commands.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Run one command on many hosts
    Run(Box<run::RunArgs>),
    /// Connect step by step and say what is wrong
    Check(Box<check::CheckArgs>),
    /// Expand, fold, count and combine host sets
    Hosts(hosts::HostsArgs),
}
