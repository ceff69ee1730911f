//! From the library's errors to the failure that a host shows.

use std::error::Error;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use farcall::{Class, CommandError, Exit, GatewayEnd, LaunchError, OpenError, Step};

use crate::outcome::{Failure, FailureClass};

/// Why no worker was started.
pub(crate) fn not_opened(error: &OpenError) -> Failure {
    match error {
        OpenError::Launch(error) => not_launched(error),
        other => Failure {
            class: before_running(other.class()),
            step: "start".to_owned(),
            message: chain(other),
            evidence: String::new(),
            hint: None,
        },
    }
}

fn not_launched(error: &LaunchError) -> Failure {
    Failure {
        class: before_running(error.class()),
        step: error.step().to_string(),
        message: reason(error),
        evidence: error.evidence().trim_end().to_owned(),
        hint: error.hint().map(str::to_owned),
    }
}

/// What happened; the same words for hosts with the same trouble.
fn reason(error: &LaunchError) -> String {
    let Some(cause) = error.cause() else { return format!("{} failure", error.class()) };
    // It was not the host's fault, and perhaps that of all others behind the same one.
    if let Some(jump) = cause.downcast_ref::<Arc<LaunchError>>() {
        return format!("jump host {}: {}", jump.host(), reason(jump));
    }
    match error.step() {
        Step::Connect => system(cause).unwrap_or_else(|| chain(cause)),
        _ => chain(cause),
    }
}

/// Why the command has no result. `running` says whether it had begun.
pub(crate) fn no_result(error: &CommandError, running: bool) -> Failure {
    let class = match error {
        CommandError::Start { .. } | CommandError::Send(_) | CommandError::Refused(_) => FailureClass::Exec,
        // Whether it began cannot be known, so it must not be tried again.
        _ => FailureClass::Lost,
    };
    let step = if running { "run" } else { "start the command" };
    let evidence = match error {
        CommandError::Ended(end) => end.stderr().trim_end().to_owned(),
        _ => String::new(),
    };
    let message = match error {
        CommandError::Ended(end) => lost(end),
        _ => chain(error),
    };
    Failure { class, step: step.to_owned(), message, evidence, hint: None }
}

/// What became of the worker, in words that do not repeat the host's name.
fn lost(end: &GatewayEnd) -> String {
    match (end.hub(), end.exit()) {
        (Some(_), _) => chain(end),
        (None, Some(Exit::Signal(signal))) => format!("the worker was killed by signal {signal}"),
        (None, Some(Exit::Code(code))) => format!("the worker ended with exit code {code}"),
        (None, _) => chain(end.cause()),
    }
}

/// A worker did not say within the limit whether the command runs. It may have begun, so it must not be tried again.
pub(crate) fn not_started(limit: Duration) -> Failure {
    let limit = crate::text::duration(limit);
    Failure {
        class: FailureClass::Lost,
        step: "start the command".to_owned(),
        message: format!("no answer within {limit} when the command was to be started"),
        evidence: String::new(),
        hint: None,
    }
}

/// The class of a failure after which the command has certainly not begun.
fn before_running(class: Class) -> FailureClass {
    match class {
        Class::Resolve => FailureClass::Resolve,
        // A connection that was lost before anything ran is one that was not made.
        Class::Connect | Class::Lost => FailureClass::Connect,
        Class::HostKey => FailureClass::HostKey,
        Class::Auth => FailureClass::Auth,
        Class::Timeout => FailureClass::Timeout,
        Class::Exec | Class::Signal | Class::RemoteExit => FailureClass::Exec,
        _ => FailureClass::Bootstrap,
    }
}

/// What the system said below it, without the address, so that hosts with the same trouble stand together.
fn system(error: &(dyn Error + 'static)) -> Option<String> {
    let mut next = Some(error);
    while let Some(error) = next {
        match error.downcast_ref::<io::Error>() {
            Some(told) if told.raw_os_error().is_some() => return Some(told.kind().to_string()),
            _ => next = error.source(),
        }
    }
    None
}

/// The message with those of its sources, where they add something.
fn chain(error: &(dyn Error + 'static)) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(error) = source {
        let more = error.to_string();
        if !text.contains(&more) {
            text.push_str(": ");
            text.push_str(&more);
        }
        source = error.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(host: &str) -> LaunchError {
        let source = io::Error::from_raw_os_error(111);
        LaunchError::new(Step::Connect, Class::Connect, host).because(source).with_hint("start it")
    }

    #[test]
    fn a_refused_connection_is_said_shortly_and_a_jump_hosts_is_not_the_hosts() {
        assert_eq!(not_launched(&refused("db1")).message, "connection refused");
        let behind =
            |host: &str, error| LaunchError::new(Step::Jump, Class::Connect, host).because(Arc::new(error));
        let failure = not_launched(&behind("db1", refused("bastion")));
        assert_eq!((&*failure.step, &*failure.message), ("jump", "jump host bastion: connection refused"));
        assert_eq!(
            not_launched(&behind("db1", behind("inner", refused("outer")))).message,
            "jump host inner: jump host outer: connection refused"
        );
    }
}
