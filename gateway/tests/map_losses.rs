//! A map outlives its workers: killed, silent and poisoned ones lose no input, and run none twice at a time.

mod gateways;

use std::collections::BTreeMap;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant, SystemTime};

use farcall::{Gateway, GatewayState, ItemError, Spec, Tasks, map};
use gateways::{plain, until};
use rustix::process::{Pid, Signal, kill_process};

fn main() {
    let tasks = Tasks::new().add(square).add(log).add(log_and_die).add(die_on).add(hang_on).add(pid);
    gateways::main(
        tasks,
        [
            plain(
                "workers_killed_at_random_lose_and_double_nothing",
                workers_killed_at_random_lose_and_double_nothing,
            ),
            plain("items_move_on_from_a_killed_worker_at_once", items_move_on_from_a_killed_worker_at_once),
            plain("items_of_a_silent_worker_wait_for_its_end", items_of_a_silent_worker_wait_for_its_end),
            plain("an_item_that_kills_its_workers_is_found", an_item_that_kills_its_workers_is_found),
            plain("at_most_once_runs_nothing_again", at_most_once_runs_nothing_again),
            plain("lost_gateways_are_replaced_up_to_the_limit", lost_gateways_are_replaced_up_to_the_limit),
            plain("what_this_program_ended_is_not_replaced", what_this_program_ended_is_not_replaced),
        ],
    );
}

// ---- tasks -------------------------------------------------------------------------------------------------------

async fn square(n: u64) -> u64 {
    n * n
}

fn millis() -> u128 {
    SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_millis()
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

async fn local(count: usize) -> Vec<Gateway> {
    let mut gateways = Vec::new();
    for _ in 0..count {
        gateways.push(Gateway::open(&Spec::local()).await.expect("a gateway"));
    }
    gateways
}

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

struct Random(u64);

impl Random {
    fn below(&mut self, end: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % end
    }
}

async fn workers_killed_at_random_lose_and_double_nothing() {
    const INPUTS: u64 = 100_000;
    for seed in 1..=4 {
        let mut random = Random(seed);
        let gateways = local(3).await;
        let ordered = seed % 2 == 0;
        let builder = map(square, 0..INPUTS).on(&gateways).slots(2).replace_lost(20);
        let builder = if ordered { builder.ordered() } else { builder };
        let mut map = builder.start().expect("a map");
        // Each is killed once at a moment of its own, and so are some of those that replace them.
        let mut moments: Vec<u64> = (0..6).map(|_| random.below(INPUTS)).collect();
        moments.sort_unstable();
        moments.reverse();
        let mut seen = vec![false; INPUTS as usize];
        let mut results = 0;
        let mut killed = 0;
        while let Some((index, result)) = map.next().await {
            assert_eq!(result.unwrap_or_else(|error| panic!("seed {seed}: {index}: {error}")), index * index);
            assert!(!std::mem::replace(&mut seen[index as usize], true), "{index} has two results");
            if ordered {
                assert_eq!(index, results);
            }
            results += 1;
            while moments.last().is_some_and(|moment| *moment <= results) {
                moments.pop();
                if killed < gateways.len() {
                    signal(gateways[killed].pid(), Signal::KILL);
                    killed += 1;
                } else {
                    // One that the map started.
                    let others = map.snapshot().gateways.split_off(gateways.len());
                    let living = others.iter().find(|gateway| gateway.state != GatewayState::Lost);
                    living
                        .into_iter()
                        .flat_map(|gateway| workers(&gateway.id))
                        .for_each(|pid| signal(pid, Signal::KILL));
                }
            }
        }
        assert_eq!(results, INPUTS, "seed {seed}");
        assert!(map.snapshot().finished);
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
        (Duration::from_millis(200), Duration::from_millis(1000), Duration::from_millis(500));
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
