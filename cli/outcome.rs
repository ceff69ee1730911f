//! How a command ended on one host.

use std::time::Duration;

/// The one result that every host has at the end.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// The command ended by itself; 0 is success.
    Exited { code: u8 },
    /// The command died by a signal that was not ours.
    Signaled { signal: u8 },
    /// The command ran longer than its limit and was stopped.
    TimedOut { limit: Duration },
    /// The command could not be run, or nobody knows how it ended.
    Failed(Failure),
    /// The command was running when the user interrupted, and was stopped.
    Interrupted,
    /// The command was never started, as the run ended before.
    NotStarted,
}

/// Why there is no exit code.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Failure {
    pub(crate) class: FailureClass,
    /// Where on the way to the host it happened: `connect`, `authenticate`, …
    pub(crate) step: String,
    /// One line: what happened.
    pub(crate) message: String,
    /// What the far side said, if anything.
    pub(crate) evidence: String,
    /// What to do about it: exact commands, line by line.
    pub(crate) hint: Option<String>,
}

/// The kinds of failure that have no exit code.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum FailureClass {
    /// The name has no address.
    Resolve,
    /// No connection.
    Connect,
    /// No answer within the limit for connecting and starting.
    Timeout,
    /// The host's key is not known, or not the known one.
    HostKey,
    /// The host does not let us in.
    Auth,
    /// The worker could not be delivered.
    Bootstrap,
    /// The worker, or the command, could not be started.
    Exec,
    /// The connection was lost while the command ran, or nobody knows whether it ran.
    Lost,
    /// This side could not give the command what it needs, its input above all, and stopped it.
    Ours,
}

impl FailureClass {
    /// Whether another attempt is safe and may do better: the command has certainly not been started, and the reason
    /// is not one that stays, as a refused key does (trying that again can lock an account).
    pub(crate) fn may_retry(self) -> bool {
        match self {
            FailureClass::Resolve
            | FailureClass::Connect
            | FailureClass::Timeout
            | FailureClass::Bootstrap => true,
            FailureClass::HostKey
            | FailureClass::Auth
            | FailureClass::Exec
            | FailureClass::Lost
            | FailureClass::Ours => false,
        }
    }

    /// What people call it in a summary.
    fn label(self) -> &'static str {
        match self {
            FailureClass::Resolve | FailureClass::Connect | FailureClass::Timeout => "unreachable",
            FailureClass::HostKey => "host key",
            FailureClass::Auth => "unauthenticated",
            FailureClass::Bootstrap | FailureClass::Exec => "no worker",
            FailureClass::Lost => "lost",
            FailureClass::Ours => "stopped",
        }
    }

    fn word(self) -> &'static str {
        match self {
            FailureClass::Resolve => "resolve",
            FailureClass::Connect => "connect",
            FailureClass::Timeout => "timeout",
            FailureClass::HostKey => "host key",
            FailureClass::Auth => "auth",
            FailureClass::Bootstrap => "bootstrap",
            FailureClass::Exec => "exec",
            FailureClass::Lost => "lost",
            FailureClass::Ours => "internal",
        }
    }
}

impl Outcome {
    /// Whether the command ended with 0.
    pub(crate) fn is_ok(&self) -> bool {
        *self == Outcome::Exited { code: 0 }
    }

    /// The word for it that programs sort by, the same as the library's.
    pub(crate) fn class(&self) -> &'static str {
        match self {
            Outcome::Exited { code: 0 } => "ok",
            Outcome::Exited { .. } => "remote exit",
            Outcome::Signaled { .. } => "signal",
            Outcome::TimedOut { .. } => "timeout",
            Outcome::Failed(failure) => failure.class.word(),
            Outcome::Interrupted => "interrupted",
            Outcome::NotStarted => "not started",
        }
    }

    /// What people call it; hosts with the same label are one group of a summary.
    pub(crate) fn label(&self) -> String {
        match self {
            Outcome::Exited { code: 0 } => "ok".to_owned(),
            Outcome::Exited { code } => format!("exit {code}"),
            Outcome::Signaled { signal } => format!("killed by {}", signal_name(*signal)),
            Outcome::TimedOut { limit } => format!("timed out after {}", crate::text::duration(*limit)),
            Outcome::Failed(failure) => failure.class.label().to_owned(),
            Outcome::Interrupted => "interrupted".to_owned(),
            Outcome::NotStarted => "not started".to_owned(),
        }
    }

    /// The word that counts it on the last line.
    pub(crate) fn tally(&self) -> &'static str {
        match self {
            Outcome::Exited { code: 0 } => "ok",
            Outcome::Exited { .. } => "failed",
            Outcome::Signaled { .. } => "killed",
            Outcome::TimedOut { .. } => "timed out",
            Outcome::Failed(Failure { class: FailureClass::HostKey, .. }) => "untrusted",
            Outcome::Failed(failure) => failure.class.label(),
            Outcome::Interrupted => "interrupted",
            Outcome::NotStarted => "not started",
        }
    }

    /// Where it stands among others in a summary: the order of the exit codes.
    pub(crate) fn rank(&self) -> u8 {
        match self {
            Outcome::Failed(failure) => failure.class as u8,
            Outcome::TimedOut { .. } => 10,
            Outcome::Signaled { .. } => 11,
            Outcome::Exited { code: 0 } => 15,
            Outcome::Exited { .. } => 12,
            Outcome::Interrupted => 13,
            Outcome::NotStarted => 14,
        }
    }
}

/// `SIGKILL` for 9; the numbers that POSIX fixes or that all Linux platforms share, others by number.
fn signal_name(signal: u8) -> String {
    let name = match signal {
        1 => "SIGHUP",
        2 => "SIGINT",
        3 => "SIGQUIT",
        4 => "SIGILL",
        6 => "SIGABRT",
        8 => "SIGFPE",
        9 => "SIGKILL",
        11 => "SIGSEGV",
        13 => "SIGPIPE",
        14 => "SIGALRM",
        15 => "SIGTERM",
        _ => return format!("signal {signal}"),
    };
    name.to_owned()
}
