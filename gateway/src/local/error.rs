//! What can become of a function that runs in another process.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use farcall_channel::CodecError;

use super::socket::MAX_MESSAGE;
use super::travel::{Fault, TravelError};
use super::wire::Unfit;
use crate::end::GatewayEnd;
use crate::failure::{Failure, Panic};
use crate::open::OpenError;

/// Why a function in another process gave no value.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RunError {
    /// It returned an error.
    #[error(transparent)]
    Failed(Failure),
    /// It panicked.
    #[error(transparent)]
    Panicked(Panic),
    /// Its process was killed by a signal: from outside, or by itself (an abort is signal 6).
    #[error("the process was killed by signal {signal}")]
    Killed {
        /// The signal's number.
        signal: i32,
        /// The process's end.
        end: Arc<GatewayEnd>,
    },
    /// Its process ended with this code, before the function had returned.
    #[error("the process ended with exit code {code}")]
    Exited {
        /// The code.
        code: i32,
        /// The process's end.
        end: Arc<GatewayEnd>,
    },
    /// Its process is gone, and nobody knows how.
    #[error(transparent)]
    Lost(Arc<GatewayEnd>),
    /// The reply makes no sense as the function's value.
    #[error("the reply cannot be read")]
    Undecodable(#[source] CodecError),
    /// What came in place of a reply is none. The process was killed.
    #[error("what the process replied is no reply")]
    Malformed,
    /// The process was not ready in time, and was killed.
    #[error("the process did not start in time")]
    StartTimedOut(#[source] Box<OpenError>),
    /// The process was not started.
    #[error("the process was not started")]
    Start(#[source] Box<OpenError>),
    /// The function took longer than its time limit. The process was killed.
    #[error("the time limit of {:.3} s has passed", .limit.as_secs_f64())]
    TimedOut {
        /// The limit.
        limit: Duration,
    },
    /// The task is not in the list that was handed to [`init`](crate::init). Nothing was started.
    #[error("task {name} is not in the list that was handed to farcall::init")]
    UnknownTask {
        /// Its name.
        name: &'static str,
    },
    /// The arguments could not be encoded. Nothing was sent.
    #[error("the arguments cannot be sent")]
    Arguments(#[source] CodecError),
    /// An end of a pipe in the arguments cannot travel, or one in the value did not arrive.
    #[error(transparent)]
    PipeEnd(TravelError),
    /// The arguments are longer than a message may be. Nothing was sent.
    #[error("the arguments take {len} bytes, {max} are allowed")]
    TooLarge {
        /// Their length in bytes.
        len: usize,
        /// The limit in bytes.
        max: usize,
    },
    /// The process could not make sense of the arguments.
    #[error("the process cannot read the arguments: {0}")]
    Unreadable(String),
    /// The function ended well, but its value could not be sent.
    #[error("the process cannot send the value: {0}")]
    Unsendable(String),
    /// The process refused.
    #[error("the process refused: {0}")]
    Refused(String),
    /// The process was killed before it ran.
    #[error("the process was killed before it ran")]
    NeverRan,
    /// The process was killed while it was being started. The function may have begun.
    #[error("the process was killed while it was being started, and may have begun")]
    KilledAtStart,
    /// The result was taken before.
    #[error("the result was taken already")]
    Taken,
    /// The system gives no descriptors, or fails otherwise on this side.
    #[error("cannot speak with the process")]
    System(#[source] io::Error),
}

impl RunError {
    pub(super) fn of_open(error: OpenError) -> RunError {
        let late = match &error {
            OpenError::Silent { .. } => true,
            OpenError::Launch(launch) => launch.class() == farcall_bootstrap::Class::Timeout,
            _ => false,
        };
        let error = Box::new(error);
        if late { RunError::StartTimedOut(error) } else { RunError::Start(error) }
    }

    pub(super) fn of_end(end: Arc<GatewayEnd>) -> RunError {
        match end.exit() {
            Some(farcall_bootstrap::Exit::Signal(signal)) => RunError::Killed { signal, end },
            Some(farcall_bootstrap::Exit::Code(code)) => RunError::Exited { code, end },
            _ => RunError::Lost(end),
        }
    }

    pub(super) fn of_arguments(unfit: Unfit) -> RunError {
        match unfit {
            Unfit::Fault(Fault::Codec(error)) => RunError::Arguments(error),
            Unfit::Fault(Fault::Travel(error)) => RunError::PipeEnd(error),
            Unfit::TooLarge(len) => RunError::TooLarge { len, max: MAX_MESSAGE },
        }
    }

    pub(super) fn of_reply(fault: Fault) -> RunError {
        match fault {
            Fault::Codec(error) => RunError::Undecodable(error),
            Fault::Travel(error) => RunError::PipeEnd(error),
        }
    }
}

/// Why a call of a [`Pool`](super::Pool) gave no value.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PoolError {
    /// The pool was closed, before the call or while it was waiting or running.
    #[error("the pool is closed")]
    Closed,
    /// As of a single process.
    #[error(transparent)]
    Run(#[from] RunError),
}
