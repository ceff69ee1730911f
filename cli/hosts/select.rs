//! The hosts that a command line chooses: `-w`, `-x`, `-a`, `--hostfile` and the groups file together.

use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::error::{Place, Problem, SetError, Source};
use super::groups::{Groups, GroupsError, without_comment};
use super::{HostSet, MAX_HOSTS, evaluate};

/// The largest groups file or list of hosts that is read.
const MAX_FILE: u64 = 16 << 20;

/// What was asked for, before any file is read.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Selection {
    /// Host sets, each an expression of its own; the union of all counts.
    pub(crate) with: Vec<String>,
    /// Host sets to take out at the end.
    pub(crate) without: Vec<String>,
    /// Files with a host set a line; `-` is standard input.
    pub(crate) files: Vec<PathBuf>,
    /// Everything the groups file has.
    pub(crate) all: bool,
}

/// Why no hosts could be chosen.
#[derive(Debug, thiserror::Error)]
pub(crate) enum SelectError {
    /// A host set that cannot be read.
    #[error(transparent)]
    Set(#[from] SetError),
    /// A groups file that cannot be read as one.
    #[error(transparent)]
    Groups(#[from] GroupsError),
    /// A file that is not there or cannot be read.
    #[error("cannot read {}: {source}", path.display())]
    Read { path: PathBuf, source: io::Error },
    /// A file beyond any use.
    #[error("{} is larger than {} MiB", path.display(), MAX_FILE >> 20)]
    TooLarge { path: PathBuf },
    /// No option names any host.
    #[error(
        "no hosts chosen: name them with -w web[01-20], read them with --hostfile FILE, or take all with -a"
    )]
    NothingAsked,
    /// `-a` without a groups file.
    #[error("-a takes the hosts of the groups file, and there is none: looked for {}", .0.iter().map(|p| p.display().to_string()).collect::<Vec<_>>().join(", "))]
    NoGroupsFile(Vec<PathBuf>),
    /// The options leave nobody.
    #[error("no hosts matched{}", if *.excluded == 0 { String::new() } else { format!(": -x takes out all {excluded}") })]
    NoneLeft { excluded: usize },
}

impl SelectError {
    /// The place in a text that the error is about.
    pub(crate) fn place(&self) -> Option<&Place> {
        match self {
            SelectError::Set(error) => Some(&error.place),
            _ => None,
        }
    }
}

/// Reads the first groups file there is. A file that was asked for by name must exist; others may be missing.
///
/// # Errors
/// A file that is there but cannot be read, and one that is no groups file.
pub(crate) fn read_groups(asked: Option<&Path>, usual: &[PathBuf]) -> Result<Groups, SelectError> {
    let candidates = match asked {
        Some(path) => std::slice::from_ref(&path.to_owned()).to_vec(),
        None => usual.to_vec(),
    };
    for path in &candidates {
        match std::fs::File::open(path) {
            Ok(file) => return Ok(Groups::parse(&read_text(file, path)?, path)?),
            Err(error) if error.kind() == io::ErrorKind::NotFound && asked.is_none() => {}
            Err(source) => return Err(SelectError::Read { path: path.clone(), source }),
        }
    }
    Ok(Groups::absent(candidates))
}

impl Selection {
    /// The hosts, at least one.
    ///
    /// `stdin` is read when a host file is `-`.
    ///
    /// # Errors
    /// Whatever [`SelectError`] names; that nobody is left is an error too.
    pub(crate) fn resolve(&self, groups: &Groups, stdin: impl Read) -> Result<HostSet, SelectError> {
        if self.with.is_empty() && self.files.is_empty() && !self.all {
            return Err(SelectError::NothingAsked);
        }
        let (hosts, excluded) = self.resolve_any(groups, stdin)?;
        if hosts.is_empty() {
            return Err(SelectError::NoneLeft { excluded });
        }
        Ok(hosts)
    }

    /// The hosts, maybe none, and how many the exclusion took out.
    ///
    /// # Errors
    /// As [`resolve`](Self::resolve), but for an empty result.
    pub(crate) fn resolve_any(
        &self,
        groups: &Groups,
        mut stdin: impl Read,
    ) -> Result<(HostSet, usize), SelectError> {
        let mut hosts = HostSet::default();
        for text in &self.with {
            add(&mut hosts, text, Source::Argument, groups)?;
        }
        if self.all {
            if let Some(searched) = groups.searched() {
                return Err(SelectError::NoGroupsFile(searched.to_vec()));
            }
            add(&mut hosts, groups.all(), Source::Argument, groups)?;
        }
        for path in &self.files {
            let text = if path.as_os_str() == "-" {
                read_text(&mut stdin, Path::new("standard input"))?
            } else {
                let file = std::fs::File::open(path)
                    .map_err(|source| SelectError::Read { path: path.clone(), source })?;
                read_text(file, path)?
            };
            add_lines(&mut hosts, &text, path, groups)?;
        }
        let before = hosts.len();
        for text in &self.without {
            hosts.difference(&evaluate(text, Source::Argument, groups)?);
        }
        let excluded = before - hosts.len();
        Ok((hosts, excluded))
    }
}

/// A host set a line, empty lines and comments aside.
fn add_lines(hosts: &mut HostSet, text: &str, path: &Path, groups: &Groups) -> Result<(), SelectError> {
    let path =
        Arc::new(if path.as_os_str() == "-" { PathBuf::from("standard input") } else { path.to_owned() });
    for (i, line) in text.lines().enumerate() {
        let content = without_comment(line);
        if !content.trim().is_empty() {
            add(hosts, content, Source::File { path: path.clone(), line: i + 1 }, groups)?;
        }
    }
    Ok(())
}

fn add(hosts: &mut HostSet, text: &str, source: Source, groups: &Groups) -> Result<(), SelectError> {
    hosts.union(evaluate(text, source.clone(), groups)?);
    if hosts.len() > MAX_HOSTS {
        let place = Place { source, text: text.to_owned(), span: 0..text.len() };
        return Err(SetError { problem: Problem::TooManyHosts, place }.into());
    }
    Ok(())
}

/// The text of a file, bounded.
fn read_text(file: impl Read, path: &Path) -> Result<String, SelectError> {
    let mut text = String::new();
    let read = file.take(MAX_FILE + 1).read_to_string(&mut text);
    read.map_err(|source| SelectError::Read { path: path.to_owned(), source })?;
    if text.len() as u64 > MAX_FILE {
        return Err(SelectError::TooLarge { path: path.to_owned() });
    }
    Ok(text)
}
