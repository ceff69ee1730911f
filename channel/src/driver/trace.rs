//! What of a connection's life goes to `tracing`, outside the lock.

use tracing::{Level, debug, enabled, trace};

use super::{Shared, State};
use crate::mux::{Life, Step};

/// What happened while the lock was held.
pub(super) struct Traces {
    steps: Vec<Step>,
    lives: Vec<Life>,
}

/// Which of it somebody wants to know. To be asked outside the lock.
#[derive(Clone, Copy)]
pub(super) struct Wanted {
    frames: bool,
    channels: bool,
}

impl Wanted {
    pub(super) fn now() -> Wanted {
        Wanted { frames: enabled!(Level::TRACE), channels: enabled!(Level::DEBUG) }
    }
}

impl State {
    pub(super) fn watch(&mut self, wanted: Wanted) {
        self.mux.trace(wanted.frames);
        self.mux.watch(wanted.channels);
    }

    pub(super) fn traces(&mut self) -> Traces {
        Traces { steps: self.mux.poll_steps(), lives: self.mux.poll_lives() }
    }
}

impl Traces {
    pub(super) fn emit(&self) {
        for step in &self.steps {
            trace!(sent = step.sent, kind = step.kind, channel = step.id, bytes = step.len, "frame");
        }
        for life in &self.lives {
            match *life {
                Life::Opened { id, ours } => debug!(channel = id, ours, "channel opened"),
                Life::Ended { id, sent, received } => debug!(
                    channel = id,
                    messages_sent = sent.0,
                    bytes_sent = sent.1,
                    messages_received = received.0,
                    bytes_received = received.1,
                    "channel ended"
                ),
            }
        }
    }
}

impl Shared {
    /// Tells how the connection has ended; only the first time.
    pub(super) fn tell_end(&self) {
        let mut state = self.lock();
        if std::mem::replace(&mut state.told, true) {
            return;
        }
        let traces = state.traces();
        let (cause, greeted, counters) = (state.mux.cause().cloned(), state.greeted, state.counters());
        drop(state);
        traces.emit();
        let Some(cause) = cause else { return };
        if greeted {
            debug!(
                %cause,
                messages_sent = counters.messages_sent,
                bytes_sent = counters.bytes_sent,
                messages_received = counters.messages_received,
                bytes_received = counters.bytes_received,
                blocked = ?counters.blocked,
                "connection ended"
            );
        } else {
            debug!(%cause, "handshake failed");
        }
    }
}
