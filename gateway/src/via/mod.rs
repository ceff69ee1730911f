//! The bond between a hub and its leaves: gateways that are started from another gateway's host.
//!
//! A leaf that the hub starts has its three streams relayed on channels of the hub's connection, and a leaf that SSH reaches
//! has its connection relayed so. Within these bytes it speaks its own connection with the coordinator: the hub
//! takes no part in what it says.

mod dial;
mod relay;

use std::sync::atomic::Ordering::Relaxed;
use std::sync::{Arc, Mutex, OnceLock, PoisonError, Weak};
use std::time::Duration;

use farcall_bootstrap::ssh::Dialer;
use farcall_bootstrap::{LaunchOptions, Launched, Program, Target, launch_via};
use farcall_channel::ConnectionError;

use crate::end::GatewayEnd;
use crate::gateway::{Gateway, Inner};
use crate::open::OpenError;

/// After a leaf's silence the hub is asked whether it is there, and may take so long, or as long as its own lease.
const ANSWER: Duration = Duration::from_secs(5);

/// What a leaf holds of its hub.
#[derive(Clone)]
pub(crate) enum Hub {
    /// The leaf keeps it alive.
    Kept(Gateway),
    /// The leaf is a part of it, and ends with it.
    Whole(Weak<Inner>),
}

impl Hub {
    /// That of a leaf which is `inside`, a part of its hub, or is not.
    pub(crate) fn of(hub: &Gateway, inside: bool) -> Hub {
        if inside { Hub::Whole(Arc::downgrade(hub.inner())) } else { Hub::Kept(hub.clone()) }
    }

    pub(crate) fn is_whole(&self) -> bool {
        matches!(self, Hub::Whole(_))
    }

    /// `None` if it is gone, with all handles on it.
    pub(crate) fn gateway(&self) -> Option<Gateway> {
        match self {
            Hub::Kept(gateway) => Some(gateway.clone()),
            Hub::Whole(inner) => inner.upgrade().map(Gateway::of),
        }
    }

    /// The hub's end, if that is why a leaf's connection ended for `cause`.
    pub(crate) async fn cause_of(&self, cause: &ConnectionError) -> Option<Arc<GatewayEnd>> {
        if matches!(cause, ConnectionError::Closed | ConnectionError::Aborted { .. }) {
            return None;
        }
        let hub = self.gateway()?;
        if hub.inner().connection.cause().is_none() {
            if !matches!(cause, ConnectionError::Silent { .. }) {
                return None;
            }
            // What silenced the leaf may have silenced the hub, whose lease was renewed a little later.
            let limit = ANSWER.max(hub.inner().life.lease);
            if !matches!(tokio::time::timeout(limit, hub.status()).await, Ok(Err(_))) {
                return None;
            }
        }
        hub.inner().connection.cause()?;
        Some(hub.wait().await)
    }
}

/// What a gateway has as a hub.
#[derive(Default)]
pub(crate) struct Via {
    leaves: Mutex<Vec<Weak<Inner>>>,
    /// One for all, since those that start at the same place share jump hosts.
    dialer: OnceLock<Arc<dyn Dialer>>,
}

impl Via {
    pub(crate) fn add(&self, leaf: &Gateway) {
        let mut leaves = self.leaves.lock().unwrap_or_else(PoisonError::into_inner);
        leaves.retain(|leaf| leaf.strong_count() > 0);
        leaves.push(Arc::downgrade(leaf.inner()));
    }

    /// Those that have not ended.
    pub(crate) fn leaves(&self) -> Vec<Gateway> {
        let leaves = self.leaves.lock().unwrap_or_else(PoisonError::into_inner);
        let alive = leaves.iter().filter_map(Weak::upgrade).map(Gateway::of);
        alive.filter(|leaf| leaf.end().is_none()).collect()
    }
}

/// Launches a worker from a hub's host. `place` is what it is called.
pub(crate) async fn launch(
    hub: &Gateway,
    target: &Target,
    program: &Program,
    mut options: LaunchOptions,
    place: &str,
) -> Result<Launched, OpenError> {
    let inner = hub.inner();
    let dialer = inner.via.dialer.get_or_init(|| Arc::new(dial::FromHub::new(hub)));
    options.ssh.dialer = Some(Arc::clone(dialer));
    let launched = launch_via(&relay::Relay(hub.clone()), target, program, &options).await;
    match launched {
        Ok(launched) => Ok(launched),
        // Also while it ends: an end that this side has asked for comes within its grace.
        Err(_) if inner.asked.load(Relaxed) || inner.connection.cause().is_some() => {
            Err(OpenError::Hub { place: place.to_owned(), end: hub.wait().await })
        }
        Err(error) => Err(error.into()),
    }
}
