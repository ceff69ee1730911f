//! How many handshakes with one server may run at once.

use std::collections::HashMap;
use std::fmt;
use std::sync::{Arc, LazyLock, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio_util::sync::{CancellationToken, DropGuard};

/// How many handshakes run at once with one server, unless told otherwise. A default sshd begins to drop connections
/// at random when ten are not yet authenticated (`MaxStartups 10:30:100`), and other clients want their share.
pub const HANDSHAKES: usize = 8;

/// How long a server that let us in may go on without showing that it no longer counts us among its strangers.
const SETTLING: Duration = Duration::from_secs(5);

/// Bounds the handshakes that run at once with each server. Clones are the same gate.
///
/// A handshake passes from before the connection is made until the server has settled it. That is later than the end of
/// authentication as we see it: sshd says that we are in, and only then ends the process that it counts as a stranger,
/// which on a busy machine takes a while. What its next process says is the sign, or a few seconds have to do.
///
/// Jump hosts and the hosts behind them have places of their own. While one is waited for, another may be held, but only
/// by a server's settling, which waits for nobody.
#[derive(Clone)]
pub struct Gate {
    width: usize,
    places: Arc<Mutex<HashMap<String, Arc<Semaphore>>>>,
}

impl Gate {
    /// A gate that lets `width` handshakes with each server through at once, at least one.
    pub fn new(width: usize) -> Self {
        Self { width: width.clamp(1, Semaphore::MAX_PERMITS), places: Arc::default() }
    }

    /// The gate of this process, of width [`HANDSHAKES`]. What a server tolerates does not depend on which part of a
    /// program connects, so this is the default.
    pub fn shared() -> Self {
        static SHARED: LazyLock<Gate> = LazyLock::new(|| Gate::new(HANDSHAKES));
        SHARED.clone()
    }

    /// Waits for a turn with `server`. Cancelling loses the place in the queue and nothing else.
    pub(crate) async fn pass(&self, server: &str) -> Pass {
        let semaphore = {
            let mut places = self.places.lock().unwrap_or_else(PoisonError::into_inner);
            // Servers that nobody is at or waits for are forgotten, so the map stays as small as what is going on.
            if places.len() >= 64 {
                places.retain(|_, place| Arc::strong_count(place) > 1);
            }
            Arc::clone(
                places.entry(server.to_owned()).or_insert_with(|| Arc::new(Semaphore::new(self.width))),
            )
        };
        let permit = semaphore.acquire_owned().await.expect("the gate's semaphores are never closed");
        Pass { _permit: permit }
    }
}

impl fmt::Debug for Gate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Gate").field("width", &self.width).finish_non_exhaustive()
    }
}

/// A place in the gate, given back when dropped.
pub(crate) struct Pass {
    _permit: OwnedSemaphorePermit,
}

impl Pass {
    /// Keeps the place until the connection has settled or ended, without holding anybody up.
    pub(crate) fn keep_until(self, settled: CancellationToken) {
        // Ends by the sign, the end of the connection, or the limit.
        tokio::spawn(async move {
            if tokio::time::timeout(SETTLING, settled.cancelled()).await.is_err() {
                tracing::debug!("the server did not show in time that it settled the connection");
            }
            drop(self);
        });
    }
}

/// Held by the connection until the server shows that it has settled it; its end is the sign.
pub(crate) struct Unsettled(Option<DropGuard>);

impl Unsettled {
    /// One, and where its end is seen.
    pub(crate) fn new() -> (Self, CancellationToken) {
        let settled = CancellationToken::new();
        (Self(Some(settled.clone().drop_guard())), settled)
    }

    /// The server has settled the connection.
    pub(crate) fn settle(&mut self) {
        self.0 = None;
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;

    #[tokio::test]
    async fn no_more_than_its_width_pass_at_once() {
        let gate = Gate::new(3);
        let (inside, most) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
        let tasks: Vec<_> = (0..20)
            .map(|_| {
                let (gate, inside, most) = (gate.clone(), Arc::clone(&inside), Arc::clone(&most));
                tokio::spawn(async move {
                    let _pass = gate.pass("a").await;
                    most.fetch_max(inside.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
                    for _ in 0..10 {
                        tokio::task::yield_now().await;
                    }
                    inside.fetch_sub(1, Ordering::SeqCst);
                })
            })
            .collect();
        for task in tasks {
            task.await.expect("no panic");
        }
        assert_eq!(most.load(Ordering::SeqCst), 3);
    }

    #[tokio::test(start_paused = true)]
    async fn a_place_is_kept_until_the_connection_has_settled_or_ended_or_the_limit_has_passed() {
        let gate = Gate::new(1);
        let (mut unsettled, settled) = Unsettled::new();
        gate.pass("a").await.keep_until(settled);
        let early = tokio::time::timeout(SETTLING / 2, gate.pass("a")).await;
        assert!(early.is_err(), "the place was given back at once");
        unsettled.settle();
        let pass = tokio::time::timeout(SETTLING / 4, gate.pass("a")).await.expect("settled");

        let (ended, settled) = Unsettled::new();
        pass.keep_until(settled);
        drop(ended);
        let pass = tokio::time::timeout(SETTLING / 4, gate.pass("a")).await.expect("ended");

        let (_silent, settled) = Unsettled::new();
        pass.keep_until(settled);
        tokio::time::timeout(SETTLING * 2, gate.pass("a")).await.expect("the limit passed");
    }

    #[tokio::test]
    async fn servers_do_not_wait_for_each_other_and_are_forgotten() {
        let gate = Gate::new(1);
        let _a = gate.pass("a").await;
        for n in 0..1000 {
            let _other = gate.pass(&format!("b{n}")).await;
        }
        assert!(gate.places.lock().expect("not poisoned").len() <= 64);
        // The one that is taken is still the same place.
        let waiting = gate.pass("a");
        tokio::pin!(waiting);
        assert!(
            std::future::poll_fn(|cx| std::task::Poll::Ready(waiting.as_mut().poll(cx).is_pending())).await
        );
    }
}
