//! Named host sets: the groups file.
//!
//! One group a line, a name, a colon and a host set; other groups may be part of it, in any order:
//!
//! ```text
//! # the web farm
//! web: web[01-20]
//! db: db[1-11]!db10
//! prod: @web @db
//!       ! @broken
//! broken: web07
//! ```
//!
//! A line that begins with white space continues the one before. `#` at the start of a line, or after white space,
//! begins a comment. A group called `all` is what `-a` takes; without one, `-a` takes every host of the file.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::error::{Problem, Source};

/// The groups of one file, not yet evaluated; empty when there is no file.
#[derive(Debug, Default)]
pub(crate) struct Groups {
    definitions: BTreeMap<String, Definition>,
    /// Where a file was looked for, when none was there.
    searched: Option<Vec<PathBuf>>,
}

/// One group as written.
#[derive(Debug)]
pub(crate) struct Definition {
    text: String,
    path: Arc<PathBuf>,
    line: usize,
}

impl Definition {
    pub(super) fn text(&self) -> &str {
        &self.text
    }

    pub(super) fn source(&self) -> Source {
        Source::File { path: self.path.clone(), line: self.line }
    }
}

/// A groups file that cannot be read as one.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub(crate) enum GroupsError {
    /// A line without a name and a colon.
    #[error("{path}:{line}: expected 'name: hosts', such as web: web[01-20]")]
    NoColon { path: String, line: usize },
    /// A name that could not be written after `@`.
    #[error("{path}:{line}: {name:?} cannot name a group: use letters, digits, '-', '_', '.' and ':'")]
    BadName { path: String, line: usize, name: String },
    /// The same name twice.
    #[error("{path}:{line}: the group '{name}' is defined already in line {first}")]
    Duplicate { path: String, line: usize, name: String, first: usize },
    /// White space before the first group.
    #[error(
        "{path}:{line}: a line that begins with white space continues a group, and there is none before it"
    )]
    NothingToContinue { path: String, line: usize },
}

impl Groups {
    /// No file was found in any of these places.
    pub(crate) fn absent(searched: Vec<PathBuf>) -> Self {
        Groups { definitions: BTreeMap::new(), searched: Some(searched) }
    }

    /// The groups in the text of a file; `path` is for messages.
    ///
    /// # Errors
    /// The first line that is no group.
    pub(crate) fn parse(text: &str, path: &Path) -> Result<Self, GroupsError> {
        let shared = Arc::new(path.to_owned());
        let shown = || path.display().to_string();
        let mut definitions: BTreeMap<String, Definition> = BTreeMap::new();
        let mut current: Option<String> = None;
        for (line, content) in text.lines().enumerate().map(|(i, content)| (i + 1, without_comment(content)))
        {
            if content.trim().is_empty() {
                continue;
            }
            if content.starts_with(char::is_whitespace) {
                let definition = current.as_ref().and_then(|name| definitions.get_mut(name));
                let Some(definition) = definition else {
                    return Err(GroupsError::NothingToContinue { path: shown(), line });
                };
                definition.text.push(' ');
                definition.text.push_str(content.trim());
                continue;
            }
            // The first colon that white space or the end follows: a name may hold colons itself.
            let colon = content
                .char_indices()
                .find(|&(at, c)| c == ':' && content[at + 1..].chars().next().is_none_or(char::is_whitespace))
                .or_else(|| content.char_indices().find(|&(_, c)| c == ':'));
            let Some((colon, _)) = colon else {
                return Err(GroupsError::NoColon { path: shown(), line });
            };
            let name = content[..colon].trim();
            if name.is_empty() || !name.chars().all(|c| c.is_alphanumeric() || "-_.:".contains(c)) {
                return Err(GroupsError::BadName { path: shown(), line, name: name.to_owned() });
            }
            if let Some(first) = definitions.get(name).map(|first| first.line) {
                return Err(GroupsError::Duplicate { path: shown(), line, name: name.to_owned(), first });
            }
            let text = content[colon + 1..].trim().to_owned();
            definitions.insert(name.to_owned(), Definition { text, path: shared.clone(), line });
            current = Some(name.to_owned());
        }
        Ok(Groups { definitions, searched: None })
    }

    /// The names of all groups, sorted.
    pub(crate) fn names(&self) -> impl Iterator<Item = &str> {
        self.definitions.keys().map(String::as_str)
    }

    /// The text that `-a` stands for.
    pub(crate) fn all(&self) -> &'static str {
        if self.definitions.contains_key("all") { "@all" } else { "@*" }
    }

    pub(super) fn get(&self, name: &str) -> Option<&Definition> {
        self.definitions.get(name)
    }

    /// Where a file was looked for, if there was none.
    pub(crate) fn searched(&self) -> Option<&[PathBuf]> {
        self.searched.as_deref()
    }

    /// Why there is no group of that name.
    pub(super) fn missing(&self, name: &str) -> Problem {
        let name = name.to_owned();
        match &self.searched {
            Some(searched) => Problem::NoGroupsFile { name, searched: searched.clone() },
            None => Problem::UnknownGroup { name, known: self.names().map(str::to_owned).collect() },
        }
    }
}

/// A line up to a `#` that begins it or follows white space (`local#2` is a name).
pub(super) fn without_comment(line: &str) -> &str {
    let mut before = ' ';
    for (at, c) in line.char_indices() {
        if c == '#' && before.is_whitespace() {
            return line[..at].trim_end();
        }
        before = c;
    }
    line.trim_end()
}
