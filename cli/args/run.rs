//! What `farcall run` takes.

use std::convert::Infallible;
use std::ffi::OsString;
use std::num::NonZeroU16;
use std::path::PathBuf;

use clap::{Args, ValueEnum};

use super::connect::ConnectArgs;
use super::limit::{Limit, at_once, command_limit, retries};
use super::selection::HostArgs;
use super::taken::refuse;

/// Run one command on many hosts.
#[derive(Debug, Args)]
#[command(after_help = "\
Exit codes, the first that holds:
  130, 143  interrupted
  2         usage, or no hosts matched
  70        a fault of farcall itself, or standard input could not be read
  4         a host was unreachable, did not let us in, could not start a worker, or was lost
  3         a command ran out of time, or died by a signal
  1         some command failed
  0         all is well
  141       nobody reads the output any more, as with `| head`
With one host, it is the code of the command (128 and the number of a signal); with -S, the largest of all.

Examples:
  farcall run -w local uname -a
  farcall run -w web[01-20] uptime
  farcall run -w @db -b 'rpm -q openssl'
  farcall run -a -u 30 'du -s /data'
  cat motd | farcall run -a 'tee /etc/motd >/dev/null'
  farcall run -a --json uptime | jq -r 'select(.class!=\"ok\").host'")]
pub(crate) struct RunArgs {
    /// The command; its words are joined by spaces as with ssh, and read by `sh` there
    #[arg(required = true, trailing_var_arg = true, value_name = "COMMAND")]
    command: Vec<OsString>,

    #[command(flatten)]
    pub(crate) hosts: HostArgs,

    #[command(flatten)]
    pub(crate) connect: ConnectArgs,

    #[command(flatten)]
    pub(crate) running: RunningArgs,

    #[command(flatten)]
    pub(crate) show: ShowArgs,
}

/// How to run it.
#[derive(Debug, Args)]
#[command(next_help_heading = "Running")]
pub(crate) struct RunningArgs {
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

    /// Limit for the command: 30, 30s, 2m; 0 is none. Time in which a pager takes no output does not count
    #[arg(
        short = 'u',
        long = "command-timeout",
        value_name = "TIME",
        alias = "command_timeout",
        default_value = "0",
        value_parser = command_limit
    )]
    pub(crate) command_limit: Limit,

    /// Try a host again, this many times, when its command could not be started
    #[arg(long, value_name = "N", default_value_t = 0, value_parser = retries)]
    pub(crate) retries: u32,

    /// Give the command no input; otherwise standard input goes to every host, unless it is a terminal
    #[arg(short = 'n', long = "no-stdin", alias = "nostdin")]
    pub(crate) no_stdin: bool,

    /// Exit with the largest code of any command
    #[arg(short = 'S', long = "largest-code", alias = "maxrc")]
    pub(crate) largest_code: bool,

    /// Only say what would run where
    #[arg(long = "dry-run", aliases = ["dryrun", "check"])]
    pub(crate) dry_run: bool,

    #[arg(long, hide = true, value_parser = refuse("say which: --connect-timeout (-t), or --command-timeout (-u)"))]
    timeout: Option<Infallible>,
}

/// What to show of it.
#[derive(Debug, Args)]
#[command(next_help_heading = "Showing")]
pub(crate) struct ShowArgs {
    /// Gather output and show what is the same once, under the hosts that said it
    #[arg(short = 'b', long = "gather", alias = "dshbak", group = "layout")]
    gather: bool,

    /// The same, with stderr
    #[arg(short = 'B', long = "gather-all", group = "layout")]
    gather_all: bool,

    /// Show output host by host, in natural order
    #[arg(short = 'L', long = "by-host", short_alias = 'k', alias = "keep-order", group = "layout")]
    by_host: bool,

    /// Show what most hosts said, and how the others differ
    #[arg(long = "diff", group = "layout")]
    diff: bool,

    /// One JSON object per host and line on stdout, and nothing else there
    #[arg(long = "json", group = "layout", conflicts_with = "no_label")]
    json: bool,

    /// Leave the host names out
    #[arg(short = 'N', long = "no-label")]
    pub(crate) no_label: bool,

    /// Write the stdout of each host to a file of its name in this folder
    #[arg(long, value_name = "DIR")]
    pub(crate) outdir: Option<PathBuf>,

    /// Write the stderr of each host to a file of its name in this folder
    #[arg(long, value_name = "DIR")]
    pub(crate) errdir: Option<PathBuf>,

    /// Add to those files instead of replacing them
    #[arg(long)]
    pub(crate) append: bool,

    /// No progress, and no summary when all is well
    #[arg(short = 'q', long)]
    pub(crate) quiet: bool,

    /// Colour the host names
    #[arg(long, value_name = "WHEN", alias = "colour", default_value = "auto")]
    pub(crate) color: ColorChoice,

    #[arg(long, hide = true, value_parser = refuse("to write the output of each host to a file use --outdir"))]
    tree: Option<Infallible>,
}

/// When to colour.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum ColorChoice {
    /// On a terminal, unless NO_COLOR is set
    Auto,
    Always,
    Never,
}

/// How the output of many hosts becomes one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Layout {
    /// Lines as they come.
    Live,
    /// Identical output once, stderr live or with it.
    Gathered { with_stderr: bool },
    /// Host by host.
    ByHost,
    /// Differences from what most said.
    Diff,
    /// One object a host.
    Json,
}

impl ShowArgs {
    /// The layout that was asked for.
    pub(crate) fn layout(&self) -> Layout {
        match self {
            ShowArgs { json: true, .. } => Layout::Json,
            ShowArgs { diff: true, .. } => Layout::Diff,
            ShowArgs { by_host: true, .. } => Layout::ByHost,
            ShowArgs { gather_all: true, .. } => Layout::Gathered { with_stderr: true },
            ShowArgs { gather: true, .. } => Layout::Gathered { with_stderr: false },
            _ => Layout::Live,
        }
    }
}

impl RunArgs {
    /// The command as the far shell reads it: the words joined by spaces, as ssh does.
    pub(crate) fn command(&self) -> OsString {
        self.command.join(std::ffi::OsStr::new(" "))
    }
}
