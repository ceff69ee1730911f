//! A map outlives its workers: killed, silent and poisoned ones lose no input, and run none twice at a time.

mod gateways;

use std::collections::BTreeMap;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use farcall::{Gateway, GatewayState, ItemError, Spec, Tasks, map};
use gateways::{Kind, Place, Random, at, local, plain, until};
use rustix::process::{Pid, Signal, kill_process};

fn main() {
    let tasks =
        Tasks::new().add(square).add(log).add(span).add(log_and_die).add(die_on).add(hang_on).add(pid);
    gateways::main(
        tasks,
        [
            plain(
                "workers_killed_at_random_lose_and_double_nothing",
                workers_killed_at_random_lose_and_double_nothing,
            ),
            plain(
                "nothing_runs_twice_at_a_time_when_workers_are_killed",
                nothing_runs_twice_at_a_time_when_workers_are_killed,
            ),
            plain("items_move_on_from_a_killed_worker_at_once", items_move_on_from_a_killed_worker_at_once),
            plain("items_of_a_silent_worker_wait_for_its_end", items_of_a_silent_worker_wait_for_its_end),
            at(
                &[Kind::Local, Kind::Ssh],
                "items_of_leaves_move_on_when_their_hub_is_killed",
                items_of_leaves_move_on_when_their_hub_is_killed,
            ),
            plain("an_item_that_kills_its_workers_is_found", an_item_that_kills_its_workers_is_found),
            plain("at_most_once_runs_nothing_again", at_most_once_runs_nothing_again),
            plain("lost_gateways_are_replaced_up_to_the_limit", lost_gateways_are_replaced_up_to_the_limit),
            plain("what_this_program_ended_is_not_replaced", what_this_program_ended_is_not_replaced),
        ],
    );
}

// ---- tasks -------------------------------------------------------------------------------------------------------

/// Marks a number whose square takes longer than a result takes to be read.
const SLOWLY: u64 = 1 << 63;

async fn square(n: u64) -> u64 {
    if n & SLOWLY != 0 {
        std::thread::sleep(Duration::from_micros(200));
    }
    (n & !SLOWLY) * (n & !SLOWLY)
}

/// On a clock that all processes share and nobody sets.
fn millis() -> u128 {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
    now.tv_sec as u128 * 1000 + now.tv_nsec as u128 / 1_000_000
}

fn note(file: &Path, n: u64) {
    let line = format!("{n} {} {}\n", millis(), std::process::id());
    let mut file = std::fs::OpenOptions::new().append(true).create(true).open(file).expect("a file");
    file.write_all(line.as_bytes()).expect("it is written");
}

/// Says when it begins, and takes a while.
async fn log(file: PathBuf, n: u64, wait: u64) -> u64 {
    note(&file, n);
    tokio::time::sleep(Duration::from_millis(wait)).await;
    n
}

/// Says when it begins and ends, in its process's own file.
async fn span(folder: PathBuf, n: u64) -> u64 {
    let file = folder.join(std::process::id().to_string());
    note(&file, n);
    tokio::time::sleep(Duration::from_millis(2)).await;
    note(&file, n);
    n
}

/// Kills its worker, but for some.
async fn log_and_die(file: PathBuf, n: u64) -> u64 {
    note(&file, n);
    if n.is_multiple_of(5) {
        std::process::abort();
    }
    n
}

async fn die_on(n: u64, fatal: u64) -> u64 {
    if n == fatal {
        std::process::abort();
    }
    n
}

fn hang_on(n: u64) -> u64 {
    std::thread::sleep(Duration::from_millis(if n == 0 { 600_000 } else { 1 }));
    n
}

async fn pid(wait: u64) -> u32 {
    tokio::time::sleep(Duration::from_millis(wait)).await;
    std::process::id()
}

// ---- tests -------------------------------------------------------------------------------------------------------

fn signal(pid: u32, signal: Signal) {
    let pid = Pid::from_raw(pid.cast_signed()).expect("a pid");
    // It may have ended.
    let _ = kill_process(pid, signal);
}

/// The lines that tasks wrote: which item, when, in which process.
fn notes(file: &Path) -> Vec<(u64, u128, u32)> {
    let text = std::fs::read_to_string(file).unwrap_or_default();
    let line = |line: &str| {
        let mut words = line.split(' ');
        let number = words.next()?.parse().ok()?;
        Some((number, words.next()?.parse().ok()?, words.next()?.parse().ok()?))
    };
    text.lines().filter_map(line).collect()
}

/// How a map is run whose workers are killed.
struct Way {
    seed: u64,
    inputs: u64,
    ordered: bool,
    at_most_once: bool,
    isolated: bool,
}

/// What killing them has come to.
#[derive(Default)]
struct Toll {
    killed: u64,
    moved: u64,
    replaced: u64,
    lost: u64,
}

async fn workers_killed_at_random_lose_and_double_nothing() {
    let (mut plain, mut isolated) = (Toll::default(), Toll::default());
    for seed in 1..=20 {
        let by_processes = seed % 5 == 4;
        let way = Way {
            seed,
            // Each of these is a call of a process.
            inputs: if by_processes { 8_000 } else { 100_000 },
            ordered: seed % 2 == 0,
            at_most_once: seed % 4 == 3,
            isolated: by_processes,
        };
        let toll = if way.isolated { &mut isolated } else { &mut plain };
        kill_at_random(&way, toll).await;
    }
    // They were at work when they were killed.
    assert_eq!((plain.killed, isolated.killed), (16 * KILLS as u64, 4 * KILLS as u64));
    assert!(plain.moved > 100 && plain.replaced > 16, "{} moved, {} replaced", plain.moved, plain.replaced);
    assert!(isolated.moved > 4, "{} moved", isolated.moved);
    assert!(plain.lost > 0, "none was lost where none may run again");
}

/// So many workers are killed in each map.
const KILLS: usize = 6;

async fn kill_at_random(way: &Way, toll: &mut Toll) {
    let Way { seed, inputs, .. } = *way;
    let mut random = Random(seed);
    let gateways = local(3).await;
    // Workers that are killed are a few thousand items at most ahead of the results. No item is to blame, however often it was there.
    let window = if inputs > 10_000 { 4096 } else { 512 };
    // A process has one item at a time: it must be at work when it is killed.
    let pace = if way.isolated { SLOWLY } else { 0 };
    let numbers = (0..inputs).map(move |n| n | pace);
    let builder = map(square, numbers).on(&gateways).slots(2).replace_lost(20).window(window).max_deaths(20);
    let builder = if way.ordered { builder.ordered() } else { builder };
    let builder = if way.at_most_once { builder.at_most_once() } else { builder };
    let builder = if way.isolated { builder.isolated() } else { builder };
    let mut map = builder.start().expect("a map");
    let mut moments: Vec<u64> = (0..KILLS).map(|_| random.below(inputs / 2)).collect();
    moments.sort_unstable();
    moments.reverse();
    let mut seen = vec![false; inputs as usize];
    let mut results = 0;
    while let Some((index, result)) = map.next().await {
        match result {
            Ok(number) => assert_eq!(number, index * index),
            Err(ItemError::Lost(_)) if way.at_most_once => toll.lost += 1,
            Err(error) => panic!("seed {seed}: {index}: {error}"),
        }
        assert!(!std::mem::replace(&mut seen[index as usize], true), "seed {seed}: {index} has two results");
        if way.ordered {
            assert_eq!(index, results);
        }
        results += 1;
        if moments.last().is_some_and(|moment| *moment <= results) {
            let mut living = map.snapshot().gateways;
            living.retain(|gateway| gateway.state != GatewayState::Lost && !gateway.id.is_empty());
            if living.is_empty() {
                continue;
            }
            let victim = &living[random.below(living.len() as u64) as usize];
            let pids = workers(&victim.id);
            // It may have been killed just now; then it is another's turn at the next result.
            if !pids.is_empty() {
                pids.into_iter().for_each(|pid| signal(pid, Signal::KILL));
                toll.killed += 1;
                moments.pop();
            }
        }
    }
    assert_eq!(results, inputs, "seed {seed}");
    let progress = map.snapshot();
    assert!(progress.finished);
    toll.moved += progress.moved;
    toll.replaced += progress.replaced;
}

async fn nothing_runs_twice_at_a_time_when_workers_are_killed() {
    const INPUTS: u64 = 3000;
    let gateways = local(3).await;
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().to_owned();
    let inputs = (0..INPUTS).map(move |n| (path.clone(), n));
    let mut map = map(span, inputs).on(&gateways).slots(4).window(200).max_deaths(20).start().unwrap();
    let mut results = 0;
    while let Some((index, result)) = map.next().await {
        assert_eq!(result.unwrap(), index);
        results += 1;
        if results % 500 == 0 && results <= 1500 {
            signal(gateways[results / 500 - 1].pid(), Signal::KILL);
        }
    }
    assert_eq!(results as u64, INPUTS);
    // Of each run: in which process, from when, and until when at least: one that was killed with its process has no end, and
    // what that process wrote last is the latest that is known.
    let mut runs: BTreeMap<u64, Vec<(u128, u128, u32)>> = BTreeMap::new();
    for entry in std::fs::read_dir(folder.path()).unwrap() {
        let notes = notes(&entry.unwrap().path());
        let last = notes.iter().map(|(_, at, _)| *at).max().unwrap();
        let mut begun = BTreeMap::new();
        for (n, at, pid) in notes {
            match begun.remove(&n) {
                None => drop(begun.insert(n, (at, pid))),
                Some((from, _)) => runs.entry(n).or_default().push((from, at, pid)),
            }
        }
        for (n, (from, pid)) in begun {
            runs.entry(n).or_default().push((from, last, pid));
        }
    }
    assert_eq!(runs.len() as u64, INPUTS);
    let again = runs.values().filter(|runs| runs.len() > 1).count();
    assert!(again >= 3, "{again} ran again, though three workers were killed at work");
    for (n, runs) in &mut runs {
        runs.sort_unstable();
        for pair in runs.windows(2) {
            assert!(pair[0].1 <= pair[1].0, "{n} ran twice at a time: {pair:?}");
        }
    }
}

/// The worker of a gateway of this process, with its guardian: both have its arguments.
fn workers(id: &str) -> Vec<u32> {
    let (id, from) = (format!("id={id}"), format!(":{}", std::process::id()));
    let processes = std::fs::read_dir("/proc").into_iter().flatten().flatten();
    let pids = processes.filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
    let is_it = |pid: &u32| {
        let line = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        let words: Vec<_> = line.split(|byte| *byte == 0).map(String::from_utf8_lossy).collect();
        let from = words.iter().any(|word| word.starts_with("from=") && word.ends_with(&from));
        from && words.iter().any(|word| **word == id)
    };
    pids.filter(is_it).collect()
}

async fn items_move_on_from_a_killed_worker_at_once() {
    let gateways = local(2).await;
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("log");
    let inputs: Vec<_> = (0..4).map(|n| (file.clone(), n, if n < 2 { 1000 } else { 5 })).collect();
    let began = Instant::now();
    let map = map(log, inputs).on(&gateways).slots(1).replace_lost(0).start().unwrap();
    until("both work", || notes(&file).len() >= 2).await;
    signal(gateways[0].pid(), Signal::KILL);
    let all = map.all().await;
    assert!(all.iter().all(Result::is_ok));
    // Its process is known to have ended, so nobody waits for its lease of twenty seconds.
    assert!(began.elapsed() < Duration::from_secs(10), "it took {:?}", began.elapsed());
}

async fn items_of_a_silent_worker_wait_for_its_end() {
    let (heartbeat, lease, grace) =
        (Duration::from_millis(500), Duration::from_secs(3), Duration::from_millis(500));
    let spec = Spec::local().heartbeat(heartbeat).lease(lease).grace(grace);
    // A command leads to it, so that the end of the process here says nothing of the worker there.
    let command = farcall::CommandTarget::new("env").args(["sh", "-c"]).as_line();
    let far = Spec::command(command).heartbeat(heartbeat).lease(lease).grace(grace);
    let gateways = [Gateway::open(&far).await.unwrap(), Gateway::open(&spec).await.unwrap()];
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("log");
    let inputs: Vec<_> = (0..2).map(|n| (file.clone(), n, 400)).collect();
    let map = map(log, inputs).on(&gateways).slots(1).replace_lost(0).start().unwrap();
    until("both work", || notes(&file).len() == 2).await;
    let stopped = millis();
    signal(gateways[0].pid(), Signal::STOP);
    let all = map.all().await;
    assert!(all.iter().all(Result::is_ok));
    let notes = notes(&file);
    assert_eq!(notes.len(), 3, "one of them ran again");
    let (again, at, pid) = notes[2];
    assert_eq!(pid, gateways[1].pid());
    assert_eq!(again, notes.iter().find(|(.., pid)| *pid == gateways[0].pid()).unwrap().0);
    let waited = at - stopped;
    // It is noticed when nothing was heard for a lease; after another, and the grace, it cannot be running.
    let settled = (2 * lease + grace).as_millis() - heartbeat.as_millis() * 2;
    assert!(waited >= settled, "it ran again after {waited} ms");
    signal(gateways[0].pid(), Signal::CONT);
}

async fn items_of_leaves_move_on_when_their_hub_is_killed(place: Arc<Place>) {
    let far = place.kind != Kind::Local;
    // What the hub has started is killed with it. Of a host that it leads to nobody knows whether it has heard of its end.
    let lease = Duration::from_secs(if far { 3 } else { 120 });
    let spec: Spec = place.text().parse().unwrap();
    let spec = spec.heartbeat(Duration::from_millis(500)).lease(lease).grace(Duration::from_millis(500));
    let hub = local(1).await.remove(0);
    let gateways = [Gateway::builder(spec).via(&hub).open().await.unwrap(), local(1).await.remove(0)];
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("log");
    let inputs: Vec<_> = (0..2).map(|n| (file.clone(), n, 1000)).collect();
    let map = map(log, inputs).on(&gateways).slots(1).replace_lost(0).start().unwrap();
    until("both work", || notes(&file).len() == 2).await;
    let killed = millis();
    signal(hub.pid(), Signal::KILL);
    let all = map.all().await;
    assert!(all.iter().all(Result::is_ok), "{all:?}");
    assert!(gateways[0].end().unwrap().hub().is_some());
    let notes = notes(&file);
    assert_eq!(notes.len(), 3, "one of them ran again");
    let (again, at, pid) = notes[2];
    assert_eq!(pid, gateways[1].pid());
    assert_eq!(again, notes.iter().find(|(.., pid)| *pid != gateways[1].pid()).unwrap().0);
    let waited = at - killed;
    if far {
        assert!(waited >= lease.as_millis(), "it ran again after {waited} ms");
    } else {
        assert!(waited < lease.as_millis() / 2, "it ran again after {waited} ms");
    }
}

async fn an_item_that_kills_its_workers_is_found() {
    for max_deaths in [1, 3] {
        let gateways = local(2).await;
        let inputs = (0..2000u64).map(|n| (n, 700));
        let mut map = map(die_on, inputs)
            .on(&gateways)
            .slots(2)
            .max_deaths(max_deaths)
            .replace_lost(12)
            .start()
            .unwrap();
        let (mut done, mut poisonous) = (0, 0);
        while let Some((index, result)) = map.next().await {
            match result {
                Ok(number) => {
                    assert_eq!(number, index);
                    done += 1;
                }
                Err(ItemError::Poisonous { deaths }) => {
                    assert_eq!(index, 700);
                    assert!(deaths >= max_deaths);
                    poisonous += 1;
                }
                Err(other) => panic!("{index}: {other}"),
            }
        }
        assert_eq!((done, poisonous), (1999, 1));
    }
}

async fn at_most_once_runs_nothing_again() {
    let gateways = local(2).await;
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("log");
    let path = file.clone();
    let inputs = (1..40u64).map(move |n| (path.clone(), n));
    let results =
        map(log_and_die, inputs).on(&gateways).slots(1).at_most_once().replace_lost(60).start().unwrap();
    let results = results.all().await;
    let mut lost = 0;
    for (result, n) in results.into_iter().zip(1..) {
        match result {
            Ok(number) => assert_eq!(number, n),
            Err(ItemError::Lost(Some(_))) => lost += 1,
            Err(other) => panic!("{n}: {other}"),
        }
    }
    assert!(lost >= 7, "seven kill their workers, if they get so far");
    let mut runs = BTreeMap::new();
    for (n, ..) in notes(&file) {
        *runs.entry(n).or_insert(0) += 1;
    }
    assert!(runs.values().all(|runs| *runs == 1), "{runs:?}");
    assert!(runs.keys().any(|n| n % 5 == 0));
}

async fn lost_gateways_are_replaced_up_to_the_limit() {
    let gateways = local(1).await;
    // An item may be at all three workers that die here, by no fault of its own.
    let map = map(pid, std::iter::repeat(3)).on(&gateways).slots(1).replace_lost(2).max_deaths(4);
    let mut results = map.start().unwrap();
    let mut pids = Vec::new();
    let mut lost = 0;
    while let Some((_, result)) = results.next().await {
        match result {
            Ok(pid) if pids.last() != Some(&pid) => {
                pids.push(pid);
                signal(pid, Signal::KILL);
            }
            Ok(_) => {}
            Err(ItemError::Lost(Some(end))) => {
                assert!(end.exit().is_some());
                lost += 1;
                // There is no end of the inputs, and each is lost now.
                if lost == 100 {
                    break;
                }
            }
            Err(other) => panic!("{other}"),
        }
    }
    assert_eq!(pids.len(), 3, "the first, and two more");
    let progress = results.snapshot();
    assert_eq!(progress.replaced, 2);
    assert_eq!(progress.gateways.len(), 3);
    assert!(
        progress.gateways.iter().all(|gateway| gateway.state == GatewayState::Lost && !gateway.id.is_empty())
    );
}

async fn what_this_program_ended_is_not_replaced() {
    let gateways = local(2).await;
    let mut map = map(pid, [5; 400]).on(&gateways).slots(1).start().unwrap();
    for _ in 0..20 {
        map.next().await.unwrap().1.unwrap();
    }
    gateways[0].exit();
    let mut results = 20;
    while let Some((_, result)) = map.next().await {
        result.unwrap();
        results += 1;
    }
    assert_eq!(results, 400);
    let progress = map.snapshot();
    assert_eq!((progress.replaced, progress.gateways.len()), (0, 2));
    // A task that nothing can stop holds up neither its map's end nor the end of its worker.
    let stuck = farcall::map(hang_on, [0]).on(&gateways[1..]).start().unwrap();
    drop(stuck);
    gateways[1].exit();
    gateways[1].wait().await;
}
