//! The slots of an isolated map are processes: whatever an item does there, it is stopped, and the others are done.

mod gateways;

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering::SeqCst};
use std::time::{Duration, Instant};

use farcall::{Context, Gateway, ItemError, OnError, Spec, Tasks, map};
use gateways::{alive, local, plain, until};
use rustix::process::{Pid, Signal, kill_process};

fn main() {
    let tasks = Tasks::new().add(whereabouts).add(spin).add(crash).add(fill).add(square);
    gateways::main(
        tasks,
        [
            plain("slots_are_processes_that_are_kept", slots_are_processes_that_are_kept),
            plain("an_item_that_computes_for_ever_is_killed", an_item_that_computes_for_ever_is_killed),
            plain("a_crash_costs_its_item_only", a_crash_costs_its_item_only),
            plain("memory_is_limited", memory_is_limited),
            plain(
                "dropping_or_stopping_the_map_kills_what_computes",
                dropping_or_stopping_the_map_kills_what_computes,
            ),
            plain("a_lost_host_is_replaced", a_lost_host_is_replaced),
            plain("processes_that_take_no_calls_are_given_up", processes_that_take_no_calls_are_given_up),
        ],
    );
}

// ---- tasks -------------------------------------------------------------------------------------------------------

struct Count(AtomicU64);

/// In which process it runs, and how many did before.
async fn whereabouts(cx: Context, wait: u64) -> (u32, u64) {
    tokio::time::sleep(Duration::from_millis(wait)).await;
    (std::process::id(), cx.state(|| Count(AtomicU64::new(0))).0.fetch_add(1, SeqCst))
}

/// Computes for ever, but for some.
fn spin(folder: PathBuf, n: u64) -> u64 {
    if n.is_multiple_of(4) {
        let _ = std::fs::write(folder.join(format!("{n}.{}", std::process::id())), b"");
        loop {
            std::hint::black_box(n);
        }
    }
    n
}

fn crash(n: u64) -> Result<u64, String> {
    match n {
        5 => std::process::abort(),
        6 => std::process::exit(3),
        7 => Err("seven".into()),
        _ => Ok(n),
    }
}

fn fill(mib: usize) -> usize {
    vec![1_u8; mib << 20].iter().map(|byte| usize::from(*byte)).sum::<usize>() >> 20
}

async fn square(n: u64) -> u64 {
    n * n
}

// ---- tests -------------------------------------------------------------------------------------------------------

/// The processes that left their number behind in files.
fn pids(folder: &Path) -> BTreeSet<u32> {
    let files = std::fs::read_dir(folder).into_iter().flatten().flatten();
    files.filter_map(|file| file.path().extension()?.to_str()?.parse().ok()).collect()
}

async fn slots_are_processes_that_are_kept() {
    let gateways = local(2).await;
    let results = map(whereabouts, [3; 200]).on(&gateways).isolated().slots(1).start().unwrap().all().await;
    let results: Vec<(u32, u64)> = results.into_iter().map(Result::unwrap).collect();
    let pids: BTreeSet<u32> = results.iter().map(|(pid, _)| *pid).collect();
    assert_eq!(pids.len(), 2, "one of each gateway");
    assert!(gateways.iter().all(|gateway| !pids.contains(&gateway.pid())));
    assert!(results.iter().any(|(_, before)| *before > 50));
    // And they are there for the next.
    let again = map(whereabouts, [3; 20]).on(&gateways).isolated().slots(1).start().unwrap().all().await;
    assert!(again.into_iter().all(|result| pids.contains(&result.unwrap().0)));
}

async fn an_item_that_computes_for_ever_is_killed() {
    let gateways = local(1).await;
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().to_owned();
    let limit = Duration::from_secs(1);
    let began = Instant::now();
    let inputs = (0..10).map(move |n| (path.clone(), n));
    let results = map(spin, inputs)
        .on(&gateways)
        .isolated()
        .item_timeout(limit)
        .retries(1)
        .start()
        .unwrap()
        .all()
        .await;
    for (n, result) in (0..).zip(results) {
        match result {
            Err(ItemError::TimedOut { running: false }) => assert_eq!(n % 4, 0),
            other => assert_eq!(other.unwrap(), n),
        }
    }
    assert!(began.elapsed() >= 2 * limit, "each was tried twice");
    let pids = pids(folder.path());
    assert_eq!(pids.len(), 6, "three of them, each twice, and each time in another process");
    until("they are gone", || pids.iter().all(|pid| !alive(*pid))).await;
    assert_eq!(gateways[0].call(square, (3,)).await.unwrap(), 9);
}

async fn a_crash_costs_its_item_only() {
    let gateways = local(2).await;
    // More than could be replaced if they counted.
    let mut map = map(crash, 0..40).on(&gateways).isolated().max_deaths(2).replace_lost(0).start().unwrap();
    let mut results = 0;
    while let Some((n, result)) = map.next().await {
        match result {
            Err(ItemError::Poisonous { deaths }) => {
                assert!((n == 5 || n == 6) && deaths >= 2, "{n}: {deaths}")
            }
            Err(ItemError::Failed(failure)) => assert_eq!((n, failure.message()), (7, "seven")),
            other => assert_eq!(other.unwrap(), n),
        }
        results += 1;
    }
    assert_eq!(results, 40);
    assert!(gateways.iter().all(|gateway| gateway.end().is_none()));
}

async fn memory_is_limited() {
    let gateways = local(1).await;
    let results =
        map(fill, [1, 2000, 2]).on(&gateways).memory(300 << 20).max_deaths(1).start().unwrap().all().await;
    assert_eq!(*results[0].as_ref().unwrap(), 1);
    assert!(matches!(results[1], Err(ItemError::Poisonous { .. })), "{:?}", results[1]);
    assert_eq!(*results[2].as_ref().unwrap(), 2);
}

async fn dropping_or_stopping_the_map_kills_what_computes() {
    let gateways = local(1).await;
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().to_owned();
    let inputs = move |from: u64| {
        let path = path.clone();
        (from..from + 2).map(move |n| (path.clone(), n))
    };
    let map_of_spins = map(spin, inputs(0)).on(&gateways).isolated().slots(1).start().unwrap();
    until("one computes", || !pids(folder.path()).is_empty()).await;
    drop(map_of_spins);
    until("it is killed", || pids(folder.path()).iter().all(|pid| !alive(*pid))).await;
    // By the failure of another: of one whose process is not there any more.
    let limit = Duration::from_secs(1);
    let gateways = local(2).await;
    let stopped = map(spin, inputs(4).chain(inputs(8))).on(&gateways).isolated().slots(1).item_timeout(limit);
    let results = stopped.on_error(OnError::Stop).start().unwrap().all().await;
    assert!(results.iter().any(|result| matches!(result, Err(ItemError::TimedOut { .. }))));
    until("all are killed", || pids(folder.path()).iter().all(|pid| !alive(*pid))).await;
}

async fn a_lost_host_is_replaced() {
    let gateways = vec![Gateway::open(&Spec::local().grace(Duration::from_millis(500))).await.unwrap()];
    let mut map =
        map(whereabouts, [10; 100]).on(&gateways).isolated().slots(2).replace_lost(1).start().unwrap();
    for _ in 0..20 {
        map.next().await.unwrap().1.unwrap();
    }
    kill_process(Pid::from_raw(gateways[0].pid().cast_signed()).unwrap(), Signal::KILL).unwrap();
    let mut results = 20;
    while let Some((_, result)) = map.next().await {
        result.unwrap();
        results += 1;
    }
    assert_eq!(results, 100);
    assert_eq!(map.snapshot().replaced, 1);
}

/// How many of twenty items are done in processes with so little memory.
async fn done_with(mebibytes: u64) -> usize {
    let gateways = local(1).await;
    let builder = map(square, 0..20).on(&gateways).slots(1).memory(mebibytes << 20).replace_lost(0);
    let results = builder.start().unwrap().all().await;
    assert_eq!(results.len(), 20);
    assert_eq!(gateways[0].call(square, (3,)).await.unwrap(), 9);
    results.iter().filter(|result| result.is_ok()).count()
}

async fn processes_that_take_no_calls_are_given_up() {
    // Some do not start, and some have no room for threads.
    let maps: Vec<_> = (1..=16).map(|mebibytes| tokio::spawn(done_with(mebibytes))).collect();
    let mut done = Vec::new();
    for map in maps {
        done.push(map.await.unwrap());
    }
    assert!(done.contains(&0) && done.contains(&20), "{done:?}");
    // One that is dropped while it is tried again ends.
    let gateways = local(1).await;
    drop(map(square, 0..20).on(&gateways).memory(1 << 20).start().unwrap());
    assert_eq!(gateways[0].call(square, (3,)).await.unwrap(), 9);
}
