//! What `farcall check` takes.

use std::convert::Infallible;
use std::num::NonZeroU16;

use clap::Args;

use super::connect::ConnectArgs;
use super::limit::at_once;
use super::selection::HostArgs;
use super::taken::refuse;

/// Connect step by step and say what is wrong.
#[derive(Debug, Args)]
#[command(after_help = "\
For each host a line with the time of each step: looking the name up, connecting, agreeing on keys, authenticating, and \
starting a worker, which the first time includes sending it; then the machine's kind, and how far its clock is off. What \
failed is explained below, with what to do about it.

The exit code is 0 when all is well, 4 when a host is not; 2, 70, 130, 141 and 143 are as with `farcall run`.

Examples:
  farcall check -a
  farcall check -w web[01-20] -J bastion
  farcall check -a --json | jq -r 'select(.class!=\"ok\") | .host + \": \" + .message'")]
pub(crate) struct CheckArgs {
    #[command(flatten)]
    pub(crate) hosts: HostArgs,

    #[command(flatten)]
    pub(crate) connect: ConnectArgs,

    /// How many hosts at once
    #[arg(
        short = 'f',
        long = "at-once",
        value_name = "N",
        short_alias = 'j',
        visible_aliases = ["forks", "fanout", "jobs"],
        default_value = "64",
        value_parser = at_once
    )]
    pub(crate) at_once: NonZeroU16,

    /// One JSON object a host on standard output, nothing else there
    #[arg(long)]
    pub(crate) json: bool,

    #[arg(hide = true, value_name = "HOSTS", value_parser = refuse("hosts are named with -w: farcall check -w web[01-20]"))]
    unnamed: Option<Infallible>,
}
