//! What is told about a task that failed or panicked.

use std::error::Error;
use std::fmt;

use serde::{Deserialize, Serialize};

/// Sources beyond this many are not told: a chain may be made to be endless.
const MAX_SOURCES: usize = 32;

/// The most bytes of one message.
const MAX_TEXT: usize = 16 * 1024;

/// The error that a task returned: its message, the name of its type, and its sources.
///
/// It shows its own message; [`Error::source`] goes on with the chain that the error had in the worker.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Failure {
    message: String,
    kind: String,
    source: Option<Box<Cause>>,
}

/// A source of a [`Failure`], as it was in the worker.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Cause {
    message: String,
    source: Option<Box<Cause>>,
}

impl Failure {
    pub(crate) fn of<E>(error: &(dyn Error + 'static)) -> Failure {
        let mut sources = Vec::new();
        let mut next = error.source();
        while let Some(source) = next.filter(|_| sources.len() < MAX_SOURCES) {
            sources.push(source.to_string());
            next = source.source();
        }
        let source = sources
            .into_iter()
            .rev()
            .fold(None, |source, message| Some(Box::new(Cause { message: cut(message), source })));
        Failure { message: cut(error.to_string()), kind: cut(std::any::type_name::<E>().to_owned()), source }
    }

    /// The error's own message.
    pub fn message(&self) -> &str {
        &self.message
    }

    /// The name of the error's type in the worker, for people: the compiler may spell it differently some day.
    pub fn kind(&self) -> &str {
        &self.kind
    }

    /// The messages of the error and its sources, outermost first.
    pub fn chain(&self) -> impl Iterator<Item = &str> {
        let causes = std::iter::successors(self.source.as_deref(), |cause| cause.source.as_deref());
        std::iter::once(self.message()).chain(causes.map(|cause| cause.message.as_str()))
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl Error for Failure {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        self.source.as_deref().map(|cause| cause as &(dyn Error + 'static))
    }
}

impl fmt::Display for Cause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl Error for Cause {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        self.source.as_deref().map(|cause| cause as &(dyn Error + 'static))
    }
}

/// A panic of a task.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Panic {
    /// What it said; empty for a panic whose payload is no text.
    pub message: String,
    /// The file, line and column of the code that panicked, as the compiler knew them.
    pub location: String,
    /// The calls that led there, as far as the program has symbols.
    pub backtrace: String,
}

impl fmt::Display for Panic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "the task panicked at {}: {}", self.location, self.message)
    }
}

impl Error for Panic {}

/// The beginning of `text`, as much as is worth sending.
pub(crate) fn cut(mut text: String) -> String {
    if text.len() > MAX_TEXT {
        let end = (0..=MAX_TEXT).rev().find(|at| text.is_char_boundary(*at)).unwrap_or(0);
        text.truncate(end);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, thiserror::Error)]
    #[error("outer")]
    struct Outer(#[source] std::io::Error);

    #[test]
    fn a_chain_survives_the_wire() {
        let failure = Failure::of::<Outer>(&Outer(std::io::Error::other("inner")));
        let bytes = farcall_channel::to_bytes(&failure).unwrap();
        let failure: Failure = farcall_channel::from_bytes(&bytes).unwrap();
        assert_eq!(failure.chain().collect::<Vec<_>>(), ["outer", "inner"]);
        assert_eq!(failure.to_string(), "outer");
        assert_eq!(failure.source().unwrap().to_string(), "inner");
        assert!(failure.kind().ends_with("Outer"));
    }

    #[test]
    fn endless_chains_and_long_messages_are_cut() {
        #[derive(Debug)]
        struct Endless;
        impl fmt::Display for Endless {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&"é".repeat(MAX_TEXT))
            }
        }
        impl Error for Endless {
            fn source(&self) -> Option<&(dyn Error + 'static)> {
                Some(&Endless)
            }
        }
        let failure = Failure::of::<Endless>(&Endless);
        assert_eq!(failure.chain().count(), MAX_SOURCES + 1);
        assert!(failure.chain().all(|text| text.len() <= MAX_TEXT));
        let bytes = farcall_channel::to_bytes(&failure).unwrap();
        assert_eq!(farcall_channel::from_bytes::<Failure>(&bytes).unwrap(), failure);
    }
}
