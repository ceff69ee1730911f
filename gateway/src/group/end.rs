//! The end of many gateways in a bounded time, leaves before hubs.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use tokio::task::JoinSet;
use tokio::time::{Instant, timeout_at};

use crate::end::GatewayEnd;
use crate::gateway::Gateway;
use crate::role::LONGEST;

/// What became of gateways that were to end.
pub(super) struct Ends {
    pub(super) ended: Vec<Arc<GatewayEnd>>,
    /// Those whose end nobody saw.
    pub(super) overdue: Vec<Gateway>,
}

/// How far above the leaves each gateway stands: 0 if none leads through it. `vias` are leaves and their hubs.
pub(super) fn heights<'a>(ids: impl Iterator<Item = &'a str>, vias: &[(Arc<str>, Arc<str>)]) -> Vec<u32> {
    let ids: Vec<&str> = ids.collect();
    let places: HashMap<&str, usize> = ids.iter().enumerate().map(|(place, id)| (*id, place)).collect();
    let above: HashMap<&str, &str> = vias.iter().map(|(leaf, hub)| (&**leaf, &**hub)).collect();
    let mut heights = vec![0; ids.len()];
    for id in &ids {
        let mut height = 0;
        let mut at = *id;
        while let Some(hub) = above.get(at) {
            height += 1;
            at = hub;
            if let Some(place) = places.get(at) {
                // Who stands as high by another way has told those above already.
                if heights[*place] >= height {
                    break;
                }
                heights[*place] = height;
            }
        }
    }
    heights
}

/// Ends all gateways within `limit`, each after those that lead through it: `heights` says which those are. Each level has
/// its share of the time; in the last quarter of its share a gateway that has not ended is killed.
///
/// Runs on the driver, and goes on when nobody waits for it.
pub(super) async fn end(gateways: Vec<Gateway>, heights: Vec<u32>, limit: Duration) -> Ends {
    let begin = Instant::now();
    let limit = limit.min(LONGEST);
    let levels = heights.iter().max().map_or(1, |highest| highest + 1);
    let share = limit / levels;
    let mut results = Vec::new();
    for level in 0..levels {
        let until = begin + share * (level + 1);
        let mut ending = JoinSet::new();
        for (place, gateway) in gateways.iter().enumerate().filter(|(place, _)| heights[*place] == level) {
            let gateway = gateway.clone();
            ending.spawn(async move { (place, one(gateway, until - share / 4, until).await) });
        }
        results.extend(ending.join_all().await);
    }
    results.sort_by_key(|(place, _)| *place);
    let mut ends = Ends { ended: Vec::new(), overdue: Vec::new() };
    for (_, result) in results {
        match result {
            Ok(end) => ends.ended.push(end),
            Err(gateway) => ends.overdue.push(gateway),
        }
    }
    ends
}

/// Returns the gateway if nobody saw its end.
async fn one(gateway: Gateway, kill_at: Instant, until: Instant) -> Result<Arc<GatewayEnd>, Gateway> {
    if let Some(end) = gateway.end() {
        return Ok(end);
    }
    gateway.exit();
    let mut end = timeout_at(kill_at, gateway.wait()).await;
    if end.is_err() {
        gateway.kill();
        end = timeout_at(until, gateway.wait()).await;
    }
    match end {
        // Its process was seen to end, or nobody can see it any more.
        Ok(end) if end.exit().is_some() => Ok(end),
        _ => Err(gateway),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hubs_stand_above_all_that_lead_through_them() {
        let vias = [("leaf", "hub"), ("twig", "leaf"), ("other", "hub"), ("gone", "top"), ("far", "gone")];
        let vias = vias.map(|(leaf, hub)| (Arc::from(leaf), Arc::from(hub)));
        let ids = ["hub", "leaf", "twig", "other", "alone", "top", "far"];
        assert_eq!(heights(ids.into_iter(), &vias), [2, 1, 0, 0, 0, 2, 0]);
    }
}
