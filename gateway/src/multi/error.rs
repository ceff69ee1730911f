//! What can go wrong where many do the same: the first failure is reported, and all others are kept.

use std::error::Error;
use std::fmt;
use std::sync::Arc;

use farcall_channel::SendError;

use crate::call::CallError;
use crate::group::Which;
use crate::multi::all;

/// What came of one of many tasks.
#[derive(Clone, Debug)]
pub struct Settled<V> {
    /// The id of its gateway.
    pub id: Arc<str>,
    /// Its value, or why it gave none.
    pub result: Result<V, Arc<CallError>>,
}

/// Tasks on many gateways, some of which failed. It shows the one that failed first.
pub struct MultiError<V> {
    first: usize,
    failed: usize,
    outcomes: Vec<Settled<V>>,
}

impl<V> MultiError<V> {
    /// All values, or the error with `first` at its head.
    pub(super) fn check(first: Option<usize>, outcomes: Vec<Settled<V>>) -> Result<Vec<V>, MultiError<V>> {
        let failed = outcomes.iter().filter(|outcome| outcome.result.is_err()).count();
        match first {
            Some(first) if failed > 0 => Err(MultiError { first, failed, outcomes }),
            _ => Ok(outcomes.into_iter().filter_map(|outcome| outcome.result.ok()).collect()),
        }
    }

    /// The error that came first, and the id of its gateway.
    pub fn first(&self) -> Option<(&str, &CallError)> {
        let Settled { id, result } = self.outcomes.get(self.first)?;
        Some((id, result.as_ref().err()?))
    }

    /// All errors in the gateways' order, each with its gateway's id.
    pub fn errors(&self) -> impl Iterator<Item = (&str, &CallError)> {
        self.outcomes.iter().filter_map(|Settled { id, result }| Some((&**id, &**result.as_ref().err()?)))
    }

    /// What came of each, in the gateways' order.
    pub fn outcomes(&self) -> &[Settled<V>] {
        &self.outcomes
    }

    /// As [`outcomes`](Self::outcomes), values included.
    pub fn into_outcomes(self) -> Vec<Settled<V>> {
        self.outcomes
    }
}

impl<V> fmt::Display for MultiError<V> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some((id, error)) = self.first() {
            write!(f, "{id}: {error}")?;
        }
        match (self.failed - 1, self.outcomes.len() - 1) {
            (0, _) => Ok(()),
            (failed, others) => write!(f, " (and {failed} of {others} others failed)"),
        }
    }
}

impl<V> fmt::Debug for MultiError<V> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MultiError").field("first", &self.first()).field("failed", &self.failed).finish()
    }
}

impl<V> Error for MultiError<V> {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        self.outcomes.get(self.first)?.result.as_ref().err()?.source()
    }
}

/// Waits for all calls and returns their values in order.
pub(crate) async fn values<V>(
    ids: Vec<Arc<str>>,
    calls: Vec<impl Future<Output = Result<V, CallError>>>,
) -> Result<Vec<V>, MultiError<V>> {
    let mut first = None;
    let outcomes = all(calls, |index, outcome: &Result<V, CallError>| {
        if outcome.is_err() {
            first.get_or_insert(index);
        }
    });
    let outcomes = outcomes.await;
    let settled = |(id, result): (_, Result<V, CallError>)| Settled { id, result: result.map_err(Arc::new) };
    MultiError::check(first, ids.into_iter().zip(outcomes).map(settled).collect())
}

/// Why a message was not sent to one of many tasks.
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SendToError {
    /// There is no such task.
    #[error("there is no task {which}")]
    Unknown {
        /// The number or id that was asked for.
        which: String,
    },
    /// The task was not started.
    #[error(transparent)]
    NotStarted(Arc<CallError>),
    /// The task takes no more, or not this.
    #[error(transparent)]
    Send(Arc<SendError>),
}

impl SendToError {
    pub(super) fn unknown(which: Which<'_>) -> SendToError {
        SendToError::Unknown { which: which.to_string() }
    }
}

/// One of many tasks that a message was not sent to.
#[derive(Clone, Debug, thiserror::Error)]
#[error("{id}: {error}")]
#[non_exhaustive]
pub struct SendFailure {
    /// The number of the gateway.
    pub index: usize,
    /// Its id.
    pub id: Arc<str>,
    /// Why not. Its own sources follow.
    pub error: SendToError,
}

/// A message that was sent to some tasks and not to others.
#[derive(Clone, Debug, thiserror::Error)]
#[error("{} of {} tasks were not sent the message: {}", .failures.len(), .failures.len() + .sent, first(.failures))]
#[non_exhaustive]
pub struct SendEachError {
    /// Those that it was not sent to, in the gateways' order; never empty.
    pub failures: Vec<SendFailure>,
    /// To how many it was sent.
    pub sent: usize,
}

fn first(failures: &[SendFailure]) -> String {
    failures.first().map(ToString::to_string).unwrap_or_default()
}
