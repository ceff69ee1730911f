//! The error of a start: where it failed, how, on which host, and what the far side said.

use std::error::Error;
use std::fmt;

/// How much of what the far side printed is kept, in bytes: the end of it, where the reason usually is.
pub const EVIDENCE_LIMIT: usize = 4096;

/// What kind of failure it was: the word that tables and JSON sort by.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[non_exhaustive]
pub enum Class {
    /// The host's name has no address.
    Resolve,
    /// No connection could be made: refused, unreachable, cut during the handshake.
    Connect,
    /// The host's key is unknown, changed, revoked, or not what was asked for.
    HostKey,
    /// The host accepts us not.
    Auth,
    /// The place was reached, but the worker could not be delivered there.
    Bootstrap,
    /// The worker was delivered, but does not run there.
    Exec,
    /// A limit in time passed.
    Timeout,
    /// A process died by a signal.
    Signal,
    /// What worked before broke: the connection or the process went away.
    Lost,
    /// The far side's program ended with an exit code of its own.
    RemoteExit,
}

impl fmt::Display for Class {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Class::Resolve => "resolve",
            Class::Connect => "connect",
            Class::HostKey => "host key",
            Class::Auth => "auth",
            Class::Bootstrap => "bootstrap",
            Class::Exec => "exec",
            Class::Timeout => "timeout",
            Class::Signal => "signal",
            Class::Lost => "lost",
            Class::RemoteExit => "remote exit",
        })
    }
}

/// Where on the way from a description to a running worker it happened, in the order of that way.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[non_exhaustive]
pub enum Step {
    /// Reading configuration and options, before anything was started.
    Config,
    /// Looking up the host's addresses.
    Resolve,
    /// Making the connection.
    Connect,
    /// Agreeing on keys with the server.
    KeyExchange,
    /// Checking the server's key.
    HostKey,
    /// Proving who we are.
    Authenticate,
    /// Passing through a jump host.
    Jump,
    /// Opening a session on the connection.
    Session,
    /// Starting the local program, the command, or the shell that carries the worker.
    Start,
    /// Hearing from the first stage what the place is like.
    Probe,
    /// Sending the program.
    Deliver,
    /// Starting the program there.
    Exec,
    /// Waiting for the worker's first words.
    Greeting,
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Step::Config => "config",
            Step::Resolve => "resolve",
            Step::Connect => "connect",
            Step::KeyExchange => "key exchange",
            Step::HostKey => "host key",
            Step::Authenticate => "authenticate",
            Step::Jump => "jump",
            Step::Session => "session",
            Step::Start => "start",
            Step::Probe => "probe",
            Step::Deliver => "deliver",
            Step::Exec => "exec",
            Step::Greeting => "greeting",
        })
    }
}

/// Why a worker could not be started.
///
/// It shows itself on one line: host, step, class, the source's message, the last line that the far side printed, and
/// the remedy where one is known. As that line contains the source's message, [`Error::source`] goes on with the cause
/// below it; [`LaunchError::cause`] has the source itself.
///
/// ```
/// use farcall_bootstrap::error::{Class, LaunchError, Step};
///
/// let error = LaunchError::new(Step::Probe, Class::Bootstrap, "web1")
///     .because(std::io::Error::other("no shell"))
///     .with_evidence(b"welcome\nThis account is not available\n")
///     .with_hint("give the account a shell");
/// assert_eq!(
///     error.to_string(),
///     "web1: bootstrap failure at probe: no shell (it printed: This account is not available); give the account a shell"
/// );
/// ```
#[derive(Debug)]
pub struct LaunchError {
    step: Step,
    class: Class,
    host: String,
    evidence: String,
    hint: Option<String>,
    source: Option<Box<dyn Error + Send + Sync>>,
}

impl LaunchError {
    /// A failure of `class` at `step` on `host`, as the user named it.
    pub fn new(step: Step, class: Class, host: impl Into<String>) -> Self {
        Self { step, class, host: host.into(), evidence: String::new(), hint: None, source: None }
    }

    /// Adds the error that caused it.
    #[must_use]
    pub fn because(mut self, source: impl Into<Box<dyn Error + Send + Sync>>) -> Self {
        self.source = Some(source.into());
        self
    }

    /// Adds what the far side printed. The last [`EVIDENCE_LIMIT`] bytes are kept; what is not UTF-8 is replaced.
    #[must_use]
    pub fn with_evidence(mut self, printed: &[u8]) -> Self {
        let tail = &printed[printed.len().saturating_sub(EVIDENCE_LIMIT)..];
        self.evidence = String::from_utf8_lossy(tail).into_owned();
        self
    }

    /// Adds a remedy: what the person who reads this can do.
    #[must_use]
    pub fn with_hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }

    /// Where it happened.
    pub fn step(&self) -> Step {
        self.step
    }

    /// What kind of failure it was.
    pub fn class(&self) -> Class {
        self.class
    }

    /// The place, as the user named it.
    pub fn host(&self) -> &str {
        &self.host
    }

    /// The end of what the far side printed, empty when it printed nothing. It comes from there as it is: whoever
    /// shows it escapes control characters, as this type's own Display does.
    pub fn evidence(&self) -> &str {
        &self.evidence
    }

    /// The remedy, where one is known.
    pub fn hint(&self) -> Option<&str> {
        self.hint.as_deref()
    }

    /// The error that caused this one.
    pub fn cause(&self) -> Option<&(dyn Error + Send + Sync + 'static)> {
        self.source.as_deref()
    }
}

impl fmt::Display for LaunchError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {} failure at {}", self.host, self.class, self.step)?;
        if let Some(source) = &self.source {
            write!(f, ": {source}")?;
        }
        if let Some(line) = self.evidence.lines().rev().map(str::trim).find(|line| !line.is_empty()) {
            // Control characters of a stranger do not reach a terminal.
            let line: String = line.chars().map(|c| if c.is_control() { '\u{fffd}' } else { c }).collect();
            write!(f, " (it printed: {line})")?;
        }
        if let Some(hint) = &self.hint {
            write!(f, "; {hint}")?;
        }
        Ok(())
    }
}

impl Error for LaunchError {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        self.source.as_ref().and_then(|source| source.source())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn display_escapes_what_a_stranger_printed_and_keeps_its_end() {
        let mut printed = vec![b'x'; EVIDENCE_LIMIT * 2];
        printed.extend_from_slice(b"\n\x1b[31mred \xff\r\n\n");
        let error = LaunchError::new(Step::Exec, Class::Exec, "h").with_evidence(&printed);
        assert!(error.evidence().len() <= EVIDENCE_LIMIT + 8);
        assert_eq!(error.to_string(), "h: exec failure at exec (it printed: \u{fffd}[31mred \u{fffd})");
    }

    #[test]
    fn the_chain_of_sources_says_nothing_twice() {
        #[derive(Debug, thiserror::Error)]
        #[error("outer")]
        struct Outer(#[source] std::io::Error);

        let error = LaunchError::new(Step::Connect, Class::Connect, "h")
            .because(Outer(std::io::Error::other("inner")));
        assert_eq!(error.to_string(), "h: connect failure at connect: outer");
        assert_eq!(error.source().expect("a source").to_string(), "inner");
        assert!(error.cause().expect("a cause").is::<Outer>());
    }
}
