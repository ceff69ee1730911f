//! `farcall hosts`: expand, fold and count host sets, and list the groups.

use std::io::{Read, Write};
use std::path::{Path, PathBuf};

use super::CommandError;
use crate::args::hosts::{HostsAction, Sets};
use crate::environment::Environment;
use crate::hosts::error::Source;
use crate::hosts::groups::Groups;
use crate::hosts::select::{SelectError, read_groups};
use crate::hosts::{HostSet, evaluate, fold};

/// Does `action`, writing the answer to `out`.
///
/// # Errors
/// A set that cannot be read or, but for counting, is empty; and a failing `out`.
pub(crate) fn run(
    action: &HostsAction,
    environment: &Environment,
    stdin: impl Read,
    mut out: impl Write,
) -> Result<(), CommandError> {
    match action {
        HostsAction::Expand { sets, separator } => {
            let hosts = some(resolve(sets, environment, stdin)?)?;
            let separator = separator.as_deref().unwrap_or("\n");
            for (i, host) in hosts.iter().enumerate() {
                let before = if i == 0 { "" } else { separator };
                write!(out, "{before}{host}")?;
            }
            writeln!(out)?;
        }
        HostsAction::Fold(sets) => {
            let hosts = some(resolve(sets, environment, stdin)?)?;
            writeln!(out, "{}", fold(hosts.iter()))?;
        }
        HostsAction::Count(sets) => writeln!(out, "{}", resolve(sets, environment, stdin)?.0.len())?,
        HostsAction::Groups(file) => {
            let groups = groups(file.groups.as_deref(), environment)?;
            if let Some(searched) = groups.searched() {
                return Err(SelectError::NoGroupsFile(searched.to_vec()).into());
            }
            for name in groups.names() {
                let hosts = evaluate(&format!("@{name}"), Source::Argument, &groups)?;
                writeln!(out, "@{name} ({}): {}", hosts.len(), fold(hosts.iter()))?;
            }
        }
    }
    out.flush()?;
    Ok(())
}

/// The groups of the file that was asked for, or of the usual one.
fn groups(asked: Option<&Path>, environment: &Environment) -> Result<Groups, SelectError> {
    read_groups(asked.or(environment.groups.as_deref()), &environment.usual_groups)
}

fn resolve(
    sets: &Sets,
    environment: &Environment,
    stdin: impl Read,
) -> Result<(HostSet, usize), CommandError> {
    let groups = groups(sets.hosts.groups.as_deref(), environment)?;
    let mut selection = sets.hosts.selection(&sets.sets);
    if selection.with.is_empty() && selection.files.is_empty() && !selection.all {
        if environment.stdin_is_terminal {
            return Err(SelectError::NothingAsked.into());
        }
        selection.files.push(PathBuf::from("-"));
    }
    Ok(selection.resolve_any(&groups, stdin)?)
}

/// The hosts, unless there are none.
fn some((hosts, excluded): (HostSet, usize)) -> Result<HostSet, SelectError> {
    if hosts.is_empty() { Err(SelectError::NoneLeft { excluded }) } else { Ok(hosts) }
}
