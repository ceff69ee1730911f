//! What `farcall hosts` takes.

use clap::{Args, Subcommand};

use super::selection::HostArgs;

/// Expand, fold, count and combine host sets.
#[derive(Debug, Args)]
#[command(
    arg_required_else_help = true,
    after_help = "\
Host sets:
  web[01-20,30]  n[0-8/2]  r[1-2]sw[1-4]  ranges; padding is kept, brackets multiply
  @db  @*                                 a group, every group
  local  4*local                          this machine, as one worker or four
  ssh://u@h:22?chdir=/srv  docker://name  a full specification, up to a comma or white space; more settings by &:
                                          nice, memory, env.NAME, cache=none, lease, start_limit, name, id
  a,b  a!b  a&b  a^b                      union, difference, intersection, symmetric difference,
                                          from left to right; white space is union, parentheses group

Groups are read from the file of --groups, or $FARCALL_GROUPS, ~/.config/farcall/groups, /etc/farcall/groups.

Examples:
  farcall hosts fold web3 web1 web2            web[1-3]
  farcall hosts expand 'n[1-5]!n3'
  farcall hosts count -a -x @broken
  cut -d: -f1 mounts | farcall hosts fold"
)]
pub(crate) struct HostsArgs {
    #[command(subcommand)]
    pub(crate) action: HostsAction,
}

/// What to do with the hosts.
#[derive(Debug, Subcommand)]
pub(crate) enum HostsAction {
    /// One host a line, in natural order
    Expand {
        /// Write this between hosts instead of a new line
        #[arg(short = 's', long, value_name = "TEXT")]
        separator: Option<String>,
        #[command(flatten)]
        sets: Sets,
    },
    /// The shortest set that means the same hosts
    Fold(Sets),
    /// How many hosts there are
    Count(Sets),
    /// The groups of the groups file, how many hosts they have, and which
    Groups(GroupsFile),
}

/// Host sets by position or option.
#[derive(Debug, Args)]
pub(crate) struct Sets {
    /// Host sets; all together count. Without any, standard input is read
    #[arg(value_name = "HOSTS")]
    pub(crate) sets: Vec<String>,

    #[command(flatten)]
    pub(crate) hosts: HostArgs,
}

/// Which groups file.
#[derive(Debug, Args)]
pub(crate) struct GroupsFile {
    /// The file with the groups, lines such as 'web: web[01-20]'
    #[arg(long = "groups", value_name = "FILE")]
    pub(crate) groups: Option<std::path::PathBuf>,
}
