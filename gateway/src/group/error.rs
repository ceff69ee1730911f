//! Why gateways of a group did not start, or were not seen to end.

use std::fmt;
use std::io;
use std::sync::Arc;

use crate::end::GatewayEnd;
use crate::gateway::Gateway;
use crate::open::OpenError;
use crate::spec::{Spec, SpecError};

use super::Group;

/// Why not all of several gateways were started.
///
/// After every error but [`Failed`](Self::Failed) nothing was started at all.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StartError {
    /// A text is no spec.
    #[error(transparent)]
    Spec(#[from] SpecError),
    /// The program would start itself for ever: a worker only becomes one in [`init`](crate::init).
    #[error("farcall::init must be called first thing in main, before gateways are started")]
    BeforeInit,
    /// Another gateway has that id, or another of these is to have it.
    #[error("there is a gateway {id} already, or two that are to be called so")]
    DuplicateId {
        /// The id.
        id: String,
    },
    /// A gateway leads through another that is neither in the group nor among these.
    #[error("gateway {id} leads through {via}, which is not in the group")]
    UnknownHub {
        /// The gateway.
        id: String,
        /// The gateway that it leads through.
        via: String,
    },
    /// Gateways lead through each other in a circle.
    #[error("gateways lead through each other in a circle: {}", .ids.join(", "))]
    Circle {
        /// The gateways of the circle, each followed by the one that it leads through.
        ids: Vec<String>,
    },
    /// The system gives no thread.
    #[error("cannot start the thread that drives connections")]
    Driver(#[source] io::Error),
    /// Some gateways did not start. The others did.
    #[error("{} of {} gateways did not start: {}", .failures.len(), .failures.len() + .started, first(.failures))]
    Failed {
        /// Those that did not, in the order in which they were asked for; never empty.
        failures: Vec<StartFailure>,
        /// How many did.
        started: usize,
    },
}

fn first(failures: &[StartFailure]) -> String {
    failures.first().map(ToString::to_string).unwrap_or_default()
}

impl StartError {
    /// The gateways that did not start, in the order in which they were asked for; none if nothing was tried.
    pub fn failures(&self) -> &[StartFailure] {
        match self {
            StartError::Failed { failures, .. } => failures,
            _ => &[],
        }
    }
}

/// A gateway that did not start. Nothing is left of the attempt, and its id is free again.
#[derive(Debug, thiserror::Error)]
#[error("{id}: {cause}")]
#[non_exhaustive]
pub struct StartFailure {
    /// The id that it would have had.
    pub id: String,
    /// What was asked for.
    pub spec: Spec,
    /// Why it did not start. Its own sources follow.
    pub cause: NotStarted,
}

/// Why one gateway of several did not start.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum NotStarted {
    /// As if it had been started alone.
    #[error(transparent)]
    Open(#[from] OpenError),
    /// The gateway that it leads through did not start.
    #[error("gateway {via}, through which it leads, did not start")]
    Hub {
        /// That gateway's id.
        via: String,
    },
}

/// What came of the start of a whole group, some of which did not start: from [`Group::open`].
pub struct PartialStart {
    /// Those that did start; empty if nothing was tried.
    pub group: Group,
    /// Why the others did not.
    pub error: StartError,
}

impl fmt::Debug for PartialStart {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PartialStart")
            .field("started", &self.group.len())
            .field("error", &self.error)
            .finish()
    }
}

impl fmt::Display for PartialStart {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.error.fmt(f)
    }
}

impl std::error::Error for PartialStart {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        self.error.source()
    }
}

/// Gateways that were not seen to end in time: from [`Group::terminate`].
#[derive(Debug, thiserror::Error)]
#[error("{} of {} gateways were not seen to end in time: {}", .overdue.len(), .overdue.len() + .ended.len(), names(.overdue))]
#[non_exhaustive]
pub struct TerminateError {
    /// Those whose end nobody saw, in the order in which they were started. They were told to end, and killed as far as they
    /// can be from here; whoever wants to know more may [`wait`](Gateway::wait).
    pub overdue: Vec<Gateway>,
    /// How the others ended.
    pub ended: Vec<Arc<GatewayEnd>>,
}

/// The gateways that are named in a message; the rest is counted.
const MAX_NAMED: usize = 5;

fn names(gateways: &[Gateway]) -> String {
    let named: Vec<_> = gateways.iter().take(MAX_NAMED).map(Gateway::id).collect();
    match gateways.len().saturating_sub(MAX_NAMED) {
        0 => named.join(", "),
        more => format!("{} and {more} more", named.join(", ")),
    }
}
