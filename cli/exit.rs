//! The exit code of a command, by the table that the help prints.

use std::process::ExitCode;

use crate::outcome::{FailureClass, Outcome};

/// An exit code of this program.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Exit(u8);

impl Exit {
    /// Nothing failed.
    pub(crate) const OK: Exit = Exit(0);
    /// Some command failed.
    pub(crate) const FAILED: Exit = Exit(1);
    /// Wrong usage, or no hosts matched.
    pub(crate) const USAGE: Exit = Exit(2);
    /// A limit passed, or a command died by a signal.
    pub(crate) const STOPPED: Exit = Exit(3);
    /// A host was not reached, did not let us in, could not start a worker, or was lost.
    pub(crate) const UNREACHABLE: Exit = Exit(4);
    /// The run was halted before some hosts were started.
    pub(crate) const HALTED: Exit = Exit(6);
    /// A fault of this program.
    pub(crate) const INTERNAL: Exit = Exit(70);
    /// Who reads our output has gone: what a shell reports for a program that SIGPIPE ends.
    pub(crate) const BROKEN_PIPE: Exit = Exit(141);
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        ExitCode::from(exit.0)
    }
}

/// What ended a run from outside.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Interrupt {
    /// The interrupt key, SIGINT.
    Interrupted,
    /// SIGTERM, or SIGHUP.
    Terminated,
}

/// What a run ended with, as far as its exit code asks.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Ended<'a> {
    /// One outcome for each host that was chosen.
    pub(crate) outcomes: &'a [Outcome],
    pub(crate) interrupt: Option<Interrupt>,
    /// `-S`: the largest code of any command instead of 1.
    pub(crate) largest: bool,
}

impl Ended<'_> {
    /// The exit code: the first rule of the table that holds.
    pub(crate) fn exit(&self) -> Exit {
        match self.interrupt {
            Some(Interrupt::Interrupted) => return Exit(130),
            Some(Interrupt::Terminated) => return Exit(143),
            None => {}
        }
        if let [Outcome::Exited { .. } | Outcome::Signaled { .. }] = self.outcomes {
            return self.largest_code();
        }
        let any = |rule: fn(&Outcome) -> bool| self.outcomes.iter().any(rule);
        if any(|outcome| matches!(outcome, Outcome::Interrupted)) {
            return Exit::INTERNAL; // nobody interrupted
        }
        if any(|outcome| matches!(outcome, Outcome::Failed(failure) if failure.class == FailureClass::Ours)) {
            return Exit::INTERNAL;
        }
        if any(|outcome| matches!(outcome, Outcome::Failed(_))) {
            return Exit::UNREACHABLE;
        }
        if any(|outcome| matches!(outcome, Outcome::TimedOut { .. })) {
            return Exit::STOPPED;
        }
        // With -S a signal is a code too, 128 and its number.
        if !self.largest && any(|outcome| matches!(outcome, Outcome::Signaled { .. })) {
            return Exit::STOPPED;
        }
        if any(|outcome| matches!(outcome, Outcome::NotStarted)) {
            return Exit::HALTED;
        }
        if self.largest {
            return self.largest_code();
        }
        if any(|outcome| !outcome.is_ok()) { Exit::FAILED } else { Exit::OK }
    }

    fn largest_code(&self) -> Exit {
        let codes = self.outcomes.iter().map(|outcome| match outcome {
            Outcome::Exited { code } => *code,
            Outcome::Signaled { signal } => 128_u8.saturating_add(*signal),
            _ => 0,
        });
        Exit(codes.max().unwrap_or(0))
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::outcome::Failure;

    fn exited(code: u8) -> Outcome {
        Outcome::Exited { code }
    }

    fn signaled(signal: u8) -> Outcome {
        Outcome::Signaled { signal }
    }

    fn timed_out() -> Outcome {
        Outcome::TimedOut { limit: Duration::from_secs(1) }
    }

    fn failed(class: FailureClass) -> Outcome {
        let message = "connection refused".to_owned();
        Outcome::Failed(Failure {
            class,
            step: "connect".into(),
            message,
            evidence: String::new(),
            hint: None,
        })
    }

    fn code(outcomes: &[Outcome], interrupt: Option<Interrupt>, largest: bool) -> u8 {
        Ended { outcomes, interrupt, largest }.exit().0
    }

    #[test]
    fn the_first_rule_that_holds_decides() {
        use Outcome::{Interrupted, NotStarted};
        let refused = || failed(FailureClass::Connect);
        let cases: Vec<(Vec<Outcome>, u8)> = vec![
            (vec![exited(0), exited(0)], 0),
            (vec![exited(0), exited(5)], 1),
            (vec![exited(0), exited(255)], 1),
            (vec![exited(5), NotStarted], 6),
            (vec![NotStarted, NotStarted], 6),
            (vec![exited(0), signaled(9)], 3),
            (vec![exited(5), timed_out()], 3),
            (vec![timed_out(), NotStarted], 3),
            (vec![exited(5), refused()], 4),
            (vec![timed_out(), refused(), NotStarted, signaled(9)], 4),
            (vec![exited(0), Interrupted], 70),
        ];
        for (outcomes, expected) in cases {
            assert_eq!(code(&outcomes, None, false), expected, "{outcomes:?}");
            assert_eq!(code(&outcomes, Some(Interrupt::Interrupted), false), 130, "{outcomes:?}");
            assert_eq!(code(&outcomes, Some(Interrupt::Terminated), true), 143, "{outcomes:?}");
        }
    }

    #[test]
    fn every_class_of_failure_is_4_and_never_255() {
        use FailureClass::*;
        for class in [Resolve, Connect, Timeout, HostKey, Auth, Bootstrap, Exec, Lost] {
            assert_eq!(code(&[failed(class)], None, false), 4, "{class:?}");
            assert_eq!(code(&[failed(class), exited(255)], None, true), 4, "{class:?}");
        }
    }

    #[test]
    fn what_failed_here_is_not_the_hosts_fault() {
        let ours = || failed(FailureClass::Ours);
        assert_eq!(code(&[ours()], None, false), 70);
        assert_eq!(code(&[ours(), failed(FailureClass::Connect), exited(5)], None, true), 70);
        assert_eq!(code(&[ours()], Some(Interrupt::Interrupted), false), 130);
    }

    #[test]
    fn one_target_passes_its_code_through() {
        for n in [0, 1, 2, 4, 70, 127, 130, 255] {
            assert_eq!(code(&[exited(n)], None, false), n);
        }
        assert_eq!(code(&[signaled(9)], None, false), 137);
        assert_eq!(code(&[timed_out()], None, false), 3);
        assert_eq!(code(&[Outcome::NotStarted], None, false), 6);
        assert_eq!(code(&[exited(3)], Some(Interrupt::Interrupted), false), 130);
    }

    #[test]
    fn the_largest_code_is_given_on_request() {
        assert_eq!(code(&[exited(0), exited(3), exited(77)], None, true), 77);
        assert_eq!(code(&[exited(0), exited(0)], None, true), 0);
        assert_eq!(code(&[exited(3), signaled(9)], None, true), 137);
        assert_eq!(code(&[exited(3), timed_out()], None, true), 3);
        assert_eq!(code(&[exited(77), Outcome::NotStarted], None, true), 6);
    }
}
