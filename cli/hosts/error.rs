//! What can be wrong with the text of a host set, and where.

use std::fmt;
use std::ops::Range;
use std::path::PathBuf;
use std::sync::Arc;

use super::label::masked;
use super::{MAX_HOSTS, MAX_NAME};

/// Where a text came from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Source {
    /// Written on the command line, or read from standard input.
    Argument,
    /// A line of a file, counted from 1.
    File { path: Arc<PathBuf>, line: usize },
}

/// A part of a text, to be shown to the person who wrote it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Place {
    pub(crate) source: Source,
    pub(crate) text: String,
    /// Byte offsets into `text`, on character boundaries.
    pub(crate) span: Range<usize>,
}

/// A host set that cannot be read: what is wrong, how to mend it, and where it is.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) struct SetError {
    pub(crate) problem: Problem,
    pub(crate) place: Place,
}

/// What is wrong. Every message says what to write instead.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Problem {
    #[error("the host set is empty: write names such as web[01-20] or @group")]
    Empty,
    #[error("nothing stands before '{0}': a host set must start with hosts")]
    NothingBefore(char),
    #[error("nothing stands after '{0}': write the hosts it applies to, or take it away")]
    NothingAfter(char),
    #[error("the bracket '[' is never closed: write ']' after the ranges")]
    UnclosedBracket,
    #[error("this ']' closes no bracket: take it away, or write '[' before the ranges")]
    StrayBracket,
    #[error("the parenthesis '(' is never closed: write ')' after the hosts")]
    UnclosedParenthesis,
    #[error("this ')' closes no parenthesis: take it away")]
    StrayParenthesis,
    #[error("parentheses nest too deeply: at most {0} levels")]
    NestedTooDeeply(usize),
    #[error("an empty range: write numbers such as 1-20 or 3,5")]
    EmptyRange,
    #[error("'{0}' is not a range: write numbers such as 7, 01-20 or 0-8/2")]
    NotARange(String),
    #[error("the range runs backwards: write {1}-{0}")]
    Backwards(String, String),
    #[error("a step of 0 never arrives: write 1 or more")]
    ZeroStep,
    #[error("the ends are padded to different widths: write {0}-{1}")]
    Padding(String, String),
    #[error("the number has too many digits: at most 18")]
    NumberTooLong,
    #[error("more than {MAX_HOSTS} hosts: narrow the ranges")]
    TooManyHosts,
    #[error("a host name longer than {MAX_NAME} bytes")]
    NameTooLong,
    #[error("{0:?} cannot be part of a host name")]
    BadCharacter(char),
    #[error("'*' is no wildcard here: 4*local makes four workers, @* is every group")]
    Wildcard,
    #[error("'..' is no range here: write brackets and a dash, such as web[1-20]")]
    Braces,
    #[error("a host name cannot begin with '-'")]
    LeadingDash,
    #[error("a port is given in the long form: ssh://{0}")]
    Port(String),
    #[error("settings are given in the long form: {0}://{1}")]
    Settings(&'static str, String),
    #[error("no copies asked for: write 1*local or more")]
    NoCopies,
    #[error("'@' needs the name of a group, such as @db")]
    NoGroupName,
    #[error("there is no group '{name}'{}", choices(.known))]
    UnknownGroup { name: String, known: Vec<String> },
    #[error("there is no group '{name}', since no groups file was found: looked for {}", paths(.searched))]
    NoGroupsFile { name: String, searched: Vec<PathBuf> },
    #[error("the group contains itself: {}", .0.join(" -> "))]
    Cycle(Vec<String>),
    #[error("groups within groups more than {0} deep")]
    GroupsTooDeep(usize),
}

/// A few names to choose from, so that a slip of the finger is seen at once.
fn choices(names: &[String]) -> String {
    const SHOWN: usize = 8;
    match names.len() {
        0 => ": the groups file defines none".to_owned(),
        n => {
            let more = if n > SHOWN { ", …" } else { "" };
            format!(": there are {}{more}", names[..n.min(SHOWN)].join(", "))
        }
    }
}

fn paths(paths: &[PathBuf]) -> String {
    let list: Vec<String> = paths.iter().map(|path| path.display().to_string()).collect();
    list.join(", ")
}

impl fmt::Display for SetError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Source::File { path, line } = &self.place.source {
            write!(f, "{}:{line}: ", path.display())?;
        }
        write!(f, "{}", self.problem)
    }
}

impl Place {
    /// Two lines that show the text and point at the part that is meant; a long text is cut around it.
    pub(crate) fn excerpt(&self) -> String {
        const AROUND: usize = 30;
        // Character for character the same, but for values that may be secrets.
        let text: Vec<char> = masked(&self.text).chars().collect();
        let start = self.text[..self.span.start].chars().count();
        let length = self.text[self.span.clone()].chars().count().min(AROUND);
        let (before, rest) = text.split_at(start);
        let (marked, after) = rest.split_at(length);
        let cut_before = before.len() > AROUND;
        let cut_after = after.len() > AROUND;
        let shown_before = &before[before.len().saturating_sub(AROUND)..];
        let plain = |chars: &[char]| -> String {
            chars.iter().map(|c| if c.is_control() { ' ' } else { *c }).collect()
        };
        let lead = if cut_before { "…" } else { "" };
        let line = format!(
            "{lead}{}{}{}{}",
            plain(shown_before),
            plain(marked),
            plain(&after[..after.len().min(AROUND)]),
            if cut_after { "…" } else { "" },
        );
        let indent = shown_before.len() + usize::from(cut_before);
        format!("  {line}\n  {}{}", " ".repeat(indent), "^".repeat(marked.len().max(1)))
    }
}
