//! What is told about a task that failed or panicked.

use std::borrow::Cow;
use std::error::Error;
use std::fmt;

use serde::{Deserialize, Serialize};

/// Sources beyond this many are not told: a chain may be made to be endless.
const MAX_SOURCES: usize = 32;

/// The most bytes of it that are shown.
const MAX_SHOWN: usize = 4 * 1024;

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
        f.write_str(&plain(&self.message))
    }
}

impl Error for Failure {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        self.source.as_deref().map(|cause| cause as &(dyn Error + 'static))
    }
}

impl fmt::Display for Cause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&plain(&self.message))
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
        write!(f, "the task panicked at {}: {}", plain(&self.location), plain(&self.message))
    }
}

impl Error for Panic {}

/// What the far side said as it may be shown: the beginning of it, without characters that would do something to a terminal.
pub(crate) fn plain(text: &str) -> Cow<'_, str> {
    let ill = |c: char| c.is_control() && !matches!(c, '\n' | '\t');
    let end = (0..=MAX_SHOWN.min(text.len())).rev().find(|at| text.is_char_boundary(*at)).unwrap_or(0);
    let shown = &text[..end];
    match (end < text.len(), shown.contains(ill)) {
        (false, false) => Cow::Borrowed(text),
        (cut, _) => Cow::Owned(shown.replace(ill, "\u{fffd}") + if cut { "…" } else { "" }),
    }
}

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
    fn what_is_shown_does_nothing_to_a_terminal() {
        assert_eq!(plain("two\n\tlines"), "two\n\tlines");
        assert_eq!(plain("\u{1b}[2Jred\r\0\u{9b}"), "\u{fffd}[2Jred\u{fffd}\u{fffd}\u{fffd}");
        let shown = plain(&"é".repeat(MAX_SHOWN)).into_owned();
        assert!(shown.len() <= MAX_SHOWN + "…".len() && shown.ends_with("é…"), "{}", shown.len());
        let failure = Failure::of::<String>(&std::io::Error::other("\u{7}bell"));
        assert_eq!((failure.to_string().as_str(), failure.message()), ("\u{fffd}bell", "\u{7}bell"));
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
