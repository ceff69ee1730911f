//! The start of many gateways at once.

use std::collections::HashMap;
use std::sync::Arc;

use tokio::sync::{Semaphore, watch};
use tokio::task::JoinSet;

use crate::gateway::Gateway;
use crate::open::{Builder, OpenError};

use super::plan::{Hub, Plan, Planned};
use super::{NotStarted, Settings, StartError, StartFailure};

/// What became of a hub, for those that wait for it: `None` until that is known, then the gateway if it started.
type Awaited = watch::Receiver<Option<Option<Gateway>>>;

/// A hub, for one that leads through it.
enum Through {
    Ready(Gateway),
    Awaited { via: String, hub: Awaited },
}

/// What came of a plan: the gateways that started, and those that did not, both in the plan's order.
pub(super) struct Started {
    pub(super) gateways: Vec<Gateway>,
    /// For each that leads through a hub: its id and the hub's.
    pub(super) vias: Vec<(Arc<str>, Arc<str>)>,
    pub(super) failures: Vec<StartFailure>,
}

/// Starts everything that is planned, as many at once as the settings allow. `known` finds hubs that are there already.
///
/// Dropping it ends what it has started.
pub(super) async fn start(
    plan: Plan,
    settings: &Settings,
    known: impl Fn(&str) -> Option<Gateway>,
) -> Result<Started, StartError> {
    let driver = crate::open::driver().map_err(StartError::Driver)?;
    let count = plan.members.len();
    let mut hubs: HashMap<usize, watch::Sender<Option<Option<Gateway>>>> = HashMap::new();
    for member in &plan.members {
        if let Some(Hub::Planned(place)) = member.hub {
            hubs.entry(place).or_insert_with(|| watch::channel(None).0);
        }
    }
    let ids: Vec<Arc<str>> = plan.ids().cloned().collect();
    // All of them before anything is started.
    let mut there = HashMap::new();
    for Planned { id, hub, .. } in &plan.members {
        if let Some(Hub::Known(via)) = hub {
            let unknown = || StartError::UnknownHub { id: id.text().to_string(), via: via.clone() };
            there.insert(via.clone(), known(via).ok_or_else(unknown)?);
        }
    }
    let mut vias = Vec::new();
    let turns = Arc::new(Semaphore::new(settings.at_once));
    let mut starting = JoinSet::new();
    for (place, Planned { id, spec, hub }) in plan.members.into_iter().enumerate() {
        let through = match &hub {
            None => None,
            Some(Hub::Known(via)) => {
                vias.push((Arc::clone(id.text()), Arc::from(&**via)));
                there.get(via).cloned().map(Through::Ready)
            }
            Some(Hub::Planned(hub)) => {
                vias.push((Arc::clone(id.text()), Arc::clone(&ids[*hub])));
                let via = ids[*hub].to_string();
                hubs.get(hub).map(|told| Through::Awaited { via, hub: told.subscribe() })
            }
        };
        let builder = settings.builder(spec.clone());
        let turns = Arc::clone(&turns);
        let tell = hubs.get(&place).cloned();
        let start = async move {
            let started = one(builder, through, id, turns).await;
            if let Some(tell) = tell {
                tell.send_replace(Some(started.as_ref().ok().cloned()));
            }
            (place, spec, started)
        };
        // Awaited below; dropped with the set.
        starting.spawn_on(start, &driver);
    }
    let mut gateways: Vec<Option<Gateway>> = (0..count).map(|_| None).collect();
    let mut failures = Vec::new();
    while let Some(ended) = starting.join_next().await {
        match ended {
            Ok((place, _, Ok(gateway))) => gateways[place] = Some(gateway),
            Ok((place, spec, Err(cause))) => {
                failures.push((place, StartFailure { id: ids[place].to_string(), spec, cause }));
            }
            Err(error) => match error.try_into_panic() {
                Ok(panic) => std::panic::resume_unwind(panic),
                // The driver ends with the program only.
                Err(error) => return Err(StartError::Driver(std::io::Error::other(error))),
            },
        }
    }
    failures.sort_by_key(|(place, _)| *place);
    Ok(Started {
        gateways: gateways.into_iter().flatten().collect(),
        vias,
        failures: failures.into_iter().map(|(_, failure)| failure).collect(),
    })
}

async fn one(
    builder: Builder,
    through: Option<Through>,
    id: crate::ids::Id,
    turns: Arc<Semaphore>,
) -> Result<Gateway, NotStarted> {
    let builder = match through {
        None => builder,
        Some(Through::Ready(hub)) => builder.via(&hub),
        // Before its turn: those that wait for a hub must not keep the hub from starting.
        Some(Through::Awaited { via, mut hub }) => {
            let told = hub.wait_for(Option::is_some).await.map(|told| told.clone());
            match told.ok().flatten().flatten() {
                Some(hub) => builder.via(&hub),
                None => return Err(NotStarted::Hub { via }),
            }
        }
    };
    // The semaphore is never closed.
    let _turn = turns.acquire_owned().await;
    builder.open_as(id).await.map_err(|error: OpenError| error.into())
}
