//! The options that choose hosts, the same for every command.

use std::convert::Infallible;
use std::path::PathBuf;

use clap::Args;

use super::taken::refuse;
use crate::hosts::select::Selection;

/// Which hosts.
#[derive(Debug, Clone, Default, Args)]
#[command(next_help_heading = "Choosing hosts")]
pub(crate) struct HostArgs {
    /// Hosts: web[01-20,30], @group, local, 4*local, ssh://u@h:22?chdir=/srv, joined by , ! & ^
    #[arg(short = 'w', long = "hosts", value_name = "HOSTS", visible_alias = "nodes", aliases = ["host"])]
    with: Vec<String>,

    /// Hosts to leave out
    #[arg(short = 'x', long = "exclude", value_name = "HOSTS")]
    without: Vec<String>,

    /// All hosts of the groups file: its group 'all', or else every host in it
    #[arg(short = 'a', long = "all")]
    all: bool,

    /// Read hosts from a file, a set a line; '-' is standard input
    #[arg(long = "hostfile", value_name = "FILE", aliases = ["machinefile", "hosts-file", "sshloginfile", "slf"])]
    files: Vec<PathBuf>,

    /// The file with the groups, lines such as 'web: web[01-20]'
    #[arg(long = "groups", value_name = "FILE", alias = "groupsfile")]
    pub(crate) groups: Option<PathBuf>,

    #[arg(long = "limit", hide = true, value_parser = refuse("narrow the set instead: -w '@web&web[1-3]', or -x"))]
    host_limit: Option<Infallible>,

    #[arg(long = "inventory", hide = true, value_parser = refuse("lists of hosts are read with --hostfile, groups with --groups"))]
    inventory: Option<Infallible>,
}

impl HostArgs {
    /// What was asked for; `more` are host sets from elsewhere on the line.
    pub(crate) fn selection(&self, more: &[String]) -> Selection {
        Selection {
            with: self.with.iter().chain(more).cloned().collect(),
            without: self.without.clone(),
            files: self.files.clone(),
            all: self.all,
        }
    }

    /// Whether a list of hosts comes over standard input, which is then not for the command.
    pub(crate) fn reads_stdin(&self) -> bool {
        self.files.iter().any(|file| file.as_os_str() == "-")
    }
}
