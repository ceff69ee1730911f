//! A gateway of a map whose slots are processes of their own: each is a gateway to the scheduler.
//!
//! Such a process is killed when its item cannot be stopped otherwise, and another takes its place. That costs no replacement: its
//! host is still there.

use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::Notify;

use super::drive::Shared;
use super::link::{self, Broken, Lost};
use super::schedule::{Answer, GateId, Loss};
use crate::gateway::Gateway;
use crate::isolated::{Isolated, IsolatedError, Slot};
use crate::worker::stream::MAX_SLOTS;

/// How long a failure to start a process is waited out.
const PATIENCE: Duration = Duration::from_millis(200);

/// After so many in a row there is nothing to wait for.
const ATTEMPTS: u32 = 5;

/// What is asked of the processes.
#[derive(Clone, Copy, Debug)]
pub(super) struct Isolation {
    pub(super) memory: Option<u64>,
    /// How many there are, at most as many as the worker has slots.
    pub(super) slots: Option<u32>,
}

/// Serves one gateway, and those that replace it, until the map is over. Runs on the driver.
pub(super) async fn run(
    shared: Arc<Shared>,
    isolation: Isolation,
    gateway: Gateway,
    gate: GateId,
    wake: Arc<Notify>,
) {
    let (mut gateway, mut gate, mut wake) = (gateway, gate, wake);
    loop {
        shared.with(|state, _| state.undecided += 1);
        let Some(lost) = serve(&shared, isolation, &gateway, gate, wake).await else { return };
        // Nothing is waited for before it is decided.
        shared.with(|state, _| state.undecided -= 1);
        match link::replace(&shared, gateway, lost).await {
            Some(found) => (gateway, gate, wake) = found,
            None => return,
        }
    }
}

/// Until the map is over, or none of the gateway's slots can be had any more.
async fn serve(
    shared: &Arc<Shared>,
    isolation: Isolation,
    gateway: &Gateway,
    gate: GateId,
    wake: Arc<Notify>,
) -> Option<Lost> {
    let mut slots = 1;
    // One that cannot say has ended, which its slot will notice.
    let status = tokio::select! {
        status = gateway.status() => status,
        () = shared.over(&wake) => return None,
    };
    if let Ok(status) = status {
        // More than these no worker has, whatever it says.
        let most = u32::try_from(status.slots.clamp(1, MAX_SLOTS)).unwrap_or(1);
        slots = isolation.slots.unwrap_or(most).clamp(1, most);
    }
    let isolated = gateway.isolated();
    let isolated = match isolation.memory {
        Some(bytes) => isolated.memory(bytes),
        None => isolated,
    };
    // Its own place is that of the first slot.
    let others = (1..slots).map(|_| shared.add_link(gateway.id().into()));
    let places: Vec<_> = std::iter::once((gate, wake)).chain(others).collect();
    let driver = &gateway.inner().driver;
    let links = places.into_iter().map(|(gate, wake)| {
        let (shared, isolated, gateway) = (Arc::clone(shared), isolated.clone(), gateway.clone());
        driver.spawn(async move { slot(&shared, &isolated, &gateway, gate, &wake).await })
    });
    let links: Vec<_> = links.collect();
    let mut lost = None;
    for link in links {
        // They do not panic, and the driver ends with the program.
        lost = link.await.ok()?;
        lost.as_ref()?;
    }
    lost
}

/// Serves one slot, in one process after another. `None` when the map is over.
async fn slot(
    shared: &Arc<Shared>,
    isolated: &Isolated,
    gateway: &Gateway,
    gate: GateId,
    wake: &Notify,
) -> Option<Lost> {
    let mut slot = None;
    let mut attempts = 0;
    loop {
        let ready = async {
            match &mut slot {
                None => isolated.slot().await.map(|taken| slot = Some(taken)),
                Some(slot) => Slot::ready(slot).await,
            }
        };
        let ready = tokio::select! {
            ready = ready => ready,
            () = shared.over(wake) => return None,
        };
        let slot = match (ready, &mut slot) {
            (Ok(()), Some(slot)) => slot,
            (Ok(()), None) => return None,
            (Err(error), _) => {
                attempts += 1;
                tracing::debug!(gateway = gateway.id(), %error, "a process for a slot of a map did not start");
                if attempts < ATTEMPTS && !matches!(error, IsolatedError::Ended(_)) {
                    tokio::select! {
                        () = tokio::time::sleep(PATIENCE) => continue,
                        () = shared.over(wake) => return None,
                    }
                }
                let noticed = Instant::now();
                let lost = match gateway.end() {
                    None if !matches!(error, IsolatedError::Ended(_)) => {
                        let loss = Loss { settle: Duration::ZERO, suspicious: false, end: None };
                        Lost { loss, replace: false }
                    }
                    _ => {
                        let end = tokio::select! {
                            end = gateway.wait() => end,
                            () = shared.over(wake) => return None,
                        };
                        Lost { loss: link::loss(gateway, &end, noticed), replace: end.class().is_some() }
                    }
                };
                // What it ran is lost with it.
                shared.lost(gate, &lost.loss);
                return Some(lost);
            }
        };
        let process = slot.process().clone();
        shared.name_link(gate, process.id());
        let exchanged = link::exchange(shared, &process, gate, wake, true).await;
        // One that starts and then takes no calls is no better than one that does not start.
        let opened = shared.with(|state, _| state.scheduler.has_opened(gate));
        attempts = if opened { 0 } else { attempts + 1 };
        let lost = match exchanged {
            Ok(()) => {
                if shared.with(|state, _| state.scheduler.is_busy(gate)) {
                    // What it runs nobody wants any more.
                    slot.kill();
                }
                return None;
            }
            Err(Broken::Stream(error)) => {
                let lost = link::lost_by(shared, &process, wake, error).await;
                // It may live, and is of no use.
                slot.kill();
                lost?.loss
            }
            Err(Broken::Stuck { number, error }) => {
                slot.kill();
                let noticed = Instant::now();
                let end = process.wait().await;
                // Only now: it may be tried again at once.
                let answered = shared.with(|state, now| {
                    state.scheduler.handle_answer(gate, number, Answer::Fault(error), now)
                });
                if answered.is_err() {
                    tracing::debug!(gateway = process.id(), "it is stuck with what it was not given");
                }
                Loss { suspicious: false, ..link::loss(&process, &end, noticed) }
            }
        };
        shared.lost(gate, &lost);
        if attempts >= ATTEMPTS {
            return Some(Lost { loss: lost, replace: false });
        }
        shared.with(|state, _| state.scheduler.reopen(gate));
        if attempts > 0 {
            tokio::select! {
                () = tokio::time::sleep(PATIENCE) => {}
                () = shared.over(wake) => return None,
            }
        }
    }
}
