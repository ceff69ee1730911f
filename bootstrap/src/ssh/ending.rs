//! Why a connection ended, asked of it and of the jump hosts that it passes through.

use std::sync::{Arc, MutexGuard, PoisonError};

use super::handler::{Report, SharedReport};

/// Knows how a connection fares. Holds no claim on it.
pub(crate) struct Ending {
    name: String,
    report: SharedReport,
    upstream: Option<Arc<Ending>>,
}

/// A jump host's connection ended, and with it what passed through it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the connection to the jump host {name} ended: {reason}")]
pub(crate) struct JumpHostLost {
    name: String,
    reason: String,
}

impl Ending {
    pub(crate) fn new(name: String, report: SharedReport, upstream: Option<Arc<Ending>>) -> Self {
        Self { name, report, upstream }
    }

    /// The host, as it was asked for.
    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    pub(crate) fn report(&self) -> MutexGuard<'_, Report> {
        self.report.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The jump host whose end was that of this connection, the one nearest to us.
    pub(crate) fn of_jump_host(&self) -> Option<JumpHostLost> {
        let upstream = self.upstream.as_deref()?;
        upstream.of_jump_host().or_else(|| upstream.own())
    }

    /// How this connection itself ended, as a jump host's.
    pub(crate) fn own(&self) -> Option<JumpHostLost> {
        let reason = self.report().ended.clone()?;
        Some(JumpHostLost { name: self.name.clone(), reason })
    }

    /// The reason in words, where the connection is known to have ended.
    pub(crate) fn reason(&self) -> String {
        match self.of_jump_host() {
            Some(lost) => lost.to_string(),
            None => self.report().ended.clone().unwrap_or_else(|| "it was closed".to_owned()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_nearest_host_that_went_away_is_named() {
        let ending = |name: &str, upstream: Option<&Arc<Ending>>| {
            Arc::new(Ending::new(name.to_owned(), SharedReport::default(), upstream.cloned()))
        };
        let near = ending("near", None);
        let far = ending("far", Some(&near));
        let target = ending("target", Some(&far));
        assert_eq!(target.of_jump_host(), None);
        target.report().ended = Some("cut".to_owned());
        assert_eq!((target.of_jump_host(), target.reason().as_str()), (None, "cut"));
        // The end of one is the end of all behind it, and all of them know of their own.
        far.report().ended = Some("cut".to_owned());
        assert_eq!(target.reason(), "the connection to the jump host far ended: cut");
        near.report().ended = Some("the server left".to_owned());
        assert_eq!(target.reason(), "the connection to the jump host near ended: the server left");
    }
}
