//! A map holds no more than it may, however long arguments and values are and whoever takes no results.

mod gateways;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::SeqCst};
use std::time::Duration;

use farcall::{Context, Map, Tasks, map};
use gateways::{local, plain, until, value};

fn main() {
    gateways::main(
        Tasks::new().add(grows).add(long).add(count),
        [
            plain("a_stalled_consumer_bounds_everything", a_stalled_consumer_bounds_everything),
            plain("a_stalled_consumer_bounds_values_that_grow", a_stalled_consumer_bounds_values_that_grow),
        ],
    );
}

// ---- tasks -------------------------------------------------------------------------------------------------------

async fn grows(n: usize, from: usize) -> String {
    "x".repeat(if n < from { 10 } else { 1 << 20 })
}

async fn long(len: usize) -> String {
    "x".repeat(len)
}

struct Count(AtomicU64);

/// How often it ran in this worker.
async fn count(cx: Context, _: u64) -> u64 {
    cx.state(|| Count(AtomicU64::new(0))).0.fetch_add(1, SeqCst) + 1
}

// ---- tests -------------------------------------------------------------------------------------------------------

async fn a_stalled_consumer_bounds_everything() {
    for ordered in [false, true] {
        let gateways = local(2).await;
        let taken = Arc::new(AtomicU64::new(0));
        let counted = Arc::clone(&taken);
        // Without end.
        let inputs = (0..).inspect(move |_| {
            counted.fetch_add(1, SeqCst);
        });
        let builder = map(count, inputs).on(&gateways).window(100);
        let builder = if ordered { builder.ordered() } else { builder };
        let mut map = builder.start().unwrap();
        until("the window is full", || map.snapshot().held == 100).await;
        tokio::time::sleep(Duration::from_millis(50)).await;
        assert_eq!(taken.load(SeqCst), 100);
        // One is taken, with all that are there; as many may follow.
        assert!(map.next().await.is_some());
        tokio::time::sleep(Duration::from_millis(50)).await;
        assert_eq!(taken.load(SeqCst), 100);
        for _ in 0..100 {
            assert!(map.next().await.is_some());
        }
        until("the window is full", || taken.load(SeqCst) == 200).await;
        drop(map);
        let mut ran = 0;
        for gateway in &gateways {
            ran += gateway.call(count, (0,)).await.unwrap() - 1;
        }
        assert!(ran <= 200, "{ran} ran");
    }
    // Long values: bytes count, too.
    for ordered in [false, true] {
        let gateways = local(1).await;
        let builder = map(long, std::iter::repeat(4 << 20)).on(&gateways).slots(2);
        let map = if ordered { builder.ordered() } else { builder }.start().unwrap();
        let held = until_stalled(&map, 12).await;
        assert!(held <= 20, "{held} values of 4 MiB are held");
    }
}

/// Waits until so many values are held, and no gateway has anything to do; how many it were then.
async fn until_stalled<V>(map: &Map<V>, least: u64) -> u64 {
    until("nothing runs any more", || {
        let progress = map.snapshot();
        progress.held >= least && progress.out == 0
    })
    .await;
    map.snapshot().held
}

async fn a_stalled_consumer_bounds_values_that_grow() {
    const SHORT: usize = 20_000;
    let gateways = local(2).await;
    let mut map = map(grows, (0..SHORT + 200).map(|n| (n, SHORT))).on(&gateways).slots(2).start().unwrap();
    let held = until_stalled(&map, SHORT as u64 + 50).await - SHORT as u64;
    assert!(held < 3 * 64, "{held} values of 1 MiB are held");
    // And when they are taken it goes on.
    let mut results = 0;
    while let Some((_, result)) = map.next().await {
        value(result);
        results += 1;
    }
    assert_eq!(results, SHORT + 200);
}
