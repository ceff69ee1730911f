//! The commands, a file each, and the way their failures end the program.

pub(crate) mod check;
pub(crate) mod hosts;
pub(crate) mod run;

use std::io;

use crate::exit::Exit;
use crate::hosts::error::SetError;
use crate::hosts::groups::GroupsError;
use crate::hosts::select::SelectError;
use crate::output::OutputError;
use crate::place::PlaceError;
use crate::run_loop::RunError;

/// A command that could not do its work.
#[derive(Debug, thiserror::Error)]
pub(crate) enum CommandError {
    /// No hosts, or a set, file or group that cannot be read.
    #[error(transparent)]
    Select(#[from] SelectError),
    /// Standard output cannot be written.
    #[error("cannot write to standard output: {0}")]
    Write(#[from] io::Error),
    /// The files for the output cannot be made; nothing was started.
    #[error(transparent)]
    Output(#[from] OutputError),
    /// A host that cannot be a place for a worker.
    #[error(transparent)]
    Place(#[from] PlaceError),
    /// The system lacks what this program needs itself.
    #[error("cannot start: {0}")]
    Runtime(#[source] io::Error),
    /// Standard input cannot be shared among hosts.
    #[error("cannot read standard input for the hosts: {0}")]
    Input(#[source] io::Error),
    /// This program's own file cannot be found.
    #[error("cannot find this program's own file: {0}")]
    Program(#[source] io::Error),
    /// A run broke off.
    #[error(transparent)]
    Run(#[from] RunError),
}

impl From<SetError> for CommandError {
    fn from(error: SetError) -> Self {
        SelectError::from(error).into()
    }
}

impl From<GroupsError> for CommandError {
    fn from(error: GroupsError) -> Self {
        SelectError::from(error).into()
    }
}

impl CommandError {
    /// The exit code it stands for.
    pub(crate) fn exit(&self) -> Exit {
        match self {
            _ if self.is_broken_pipe() => Exit::BROKEN_PIPE,
            CommandError::Select(_) | CommandError::Place(_) | CommandError::Output(_) => Exit::USAGE,
            CommandError::Write(_)
            | CommandError::Runtime(_)
            | CommandError::Input(_)
            | CommandError::Program(_)
            | CommandError::Run(_) => Exit::INTERNAL,
        }
    }

    /// What to tell the person: nothing when the reader of our output has gone, as of `head`.
    pub(crate) fn message(&self) -> Option<String> {
        match self {
            _ if self.is_broken_pipe() => None,
            CommandError::Select(error) => Some(match error.place() {
                Some(place) => format!("{error}\n{}", place.excerpt()),
                None => error.to_string(),
            }),
            other => Some(other.to_string()),
        }
    }

    fn is_broken_pipe(&self) -> bool {
        match self {
            CommandError::Write(error) | CommandError::Run(RunError::Output(OutputError::Screen(error))) => {
                error.kind() == io::ErrorKind::BrokenPipe
            }
            _ => false,
        }
    }
}
