//! Isolated tasks: hard limits, real cancellation, and every way in which they can end.

mod gateways;

use std::sync::Arc;
use std::time::{Duration, Instant};

use farcall::{BoxError, Context, Gateway, IsolatedError, PrintStream, Raw, Receiver, Sender, Tasks};
use gateways::{Kind, Place, Random, alive, at, until};
use rustix::process::{Pid, Signal, kill_process};

type Bytes = bytes::Bytes;

const PLACES: [Kind; 3] = [Kind::Local, Kind::Command, Kind::Ssh];

fn tasks() -> Tasks {
    Tasks::new()
        .add(square)
        .add(refuse)
        .add(panic)
        .add(spin)
        .add(spin_with_family)
        .add(eat)
        .add(abort)
        .add(exit)
        .add(count)
        .add(process)
        .add(print)
        .add(double)
        .add(size)
        .add(hold)
}

fn main() {
    gateways::main(
        tasks(),
        [
            at(&PLACES, "values_errors_and_panics_leave_the_process_in_use", values_errors_and_panics),
            at(&PLACES, "a_task_that_spins_is_killed_at_its_limit", a_task_that_spins_is_killed_at_its_limit),
            at(&PLACES, "a_dropped_call_kills_all_that_it_started", a_dropped_call_kills_all_that_it_started),
            at(
                &[Kind::Local, Kind::Ssh],
                "a_limit_holds_while_the_caller_is_blocked",
                a_limit_holds_while_the_caller_is_blocked,
            ),
            at(&[Kind::Local, Kind::Ssh], "memory_is_limited", memory_is_limited),
            at(&PLACES, "a_process_killed_from_outside_is_told_by_its_signal", a_process_killed_from_outside),
            at(&[Kind::Local], "a_process_that_ends_itself_is_told_by_its_code", a_process_that_ends_itself),
            at(
                &[Kind::Local, Kind::Ssh],
                "processes_are_as_many_as_slots_and_used_again",
                processes_are_used_again,
            ),
            at(
                &[Kind::Local],
                "another_limit_of_memory_is_another_process",
                another_limit_of_memory_is_another_process,
            ),
            at(&[Kind::Local, Kind::Ssh], "channels_go_to_a_slot", channels_go_to_a_slot),
            at(&[Kind::Local], "prints_come_with_the_gateways_own", prints_come_with_the_gateways_own),
            at(
                &PLACES,
                "nothing_is_left_of_a_gateway_with_processes",
                nothing_is_left_of_a_gateway_with_processes,
            ),
            at(
                &[Kind::Local, Kind::Ssh],
                "an_ended_gateway_ends_its_isolated_calls",
                an_ended_gateway_ends_its_isolated_calls,
            ),
            at(&[Kind::Local], "a_start_that_takes_too_long_is_told", a_start_that_takes_too_long_is_told),
            at(&[Kind::Local], "random_cancellation_leaks_nothing", random_cancellation_leaks_nothing),
        ],
    );
}

// ---- tasks -------------------------------------------------------------------------------------------------------

async fn square(n: u64) -> u64 {
    n * n
}

fn refuse() -> Result<u64, BoxError> {
    Err("not today".into())
}

fn panic() {
    panic!("at once");
}

/// Computes for ever, on the runtime's own thread, after telling its process.
async fn spin(running: Option<Sender<u32>>) -> Result<(), BoxError> {
    if let Some(running) = running {
        running.send(std::process::id()).await?;
    }
    loop {
        std::hint::black_box(());
    }
}

/// The same with a child that ignores signals and one that left session and group.
fn spin_with_family(pids: Sender<Vec<u32>>) -> Result<(), BoxError> {
    use std::io::BufRead;
    let script = "trap '' HUP INT TERM; setsid sh -c 'echo $$; exec sleep 1000' & echo $$; wait";
    let mut command = std::process::Command::new("sh");
    let mut child = command.args(["-c", script]).stdout(std::process::Stdio::piped()).spawn()?;
    let lines = std::io::BufReader::new(child.stdout.take().ok_or("piped")?).lines();
    let mut all = vec![std::process::id()];
    for line in lines.take(2) {
        all.push(line?.trim().parse()?);
    }
    pids.try_send(all).map_err(|_| "room for one")?;
    loop {
        std::hint::black_box(());
    }
}

/// Takes memory a MiB at a time, and uses it.
fn eat(mib: usize) -> usize {
    let mut all = Vec::new();
    for part in 0..mib {
        all.push(vec![u8::try_from(part % 255).expect("small") + 1; 1 << 20]);
    }
    all.iter().map(Vec::len).sum()
}

fn abort() {
    std::process::abort();
}

fn exit(code: i32) {
    std::process::exit(code);
}

/// How often it was called in its process, and which that is.
fn count(cx: Context) -> (u64, u32) {
    let counted = cx.state(|| std::sync::atomic::AtomicU64::new(0));
    (counted.fetch_add(1, std::sync::atomic::Ordering::Relaxed) + 1, std::process::id())
}

async fn process() -> u32 {
    std::process::id()
}

fn print(text: String) {
    println!("{text}");
}

async fn double(mut numbers: Receiver<u64>, doubled: Sender<u64>) -> Result<(), BoxError> {
    while let Some(number) = numbers.recv().await? {
        doubled.send(number * 2).await?;
    }
    Ok(())
}

async fn size(input: Receiver<Bytes, Raw>) -> std::io::Result<u64> {
    tokio::io::copy(&mut input.into_reader(), &mut tokio::io::sink()).await
}

async fn hold(running: Sender<u32>) -> Result<(), BoxError> {
    running.send(std::process::id()).await?;
    std::future::pending().await
}

// ---- tests -------------------------------------------------------------------------------------------------------

async fn values_errors_and_panics(place: Arc<Place>) {
    let gateway = place.open().await;
    let isolated = gateway.isolated();
    let first = isolated.call(process, ()).await.expect("a process");
    assert_ne!(first, gateway.pid());
    assert_eq!(isolated.call(square, (7,)).await.expect("a square"), 49);
    let error = isolated.call(refuse, ()).await.expect_err("refused");
    assert!(matches!(&error, IsolatedError::Failed(failure) if failure.message() == "not today"), "{error}");
    let error = isolated.call(panic, ()).await.expect_err("a panic");
    assert!(matches!(&error, IsolatedError::Panicked(panic) if panic.message == "at once"), "{error}");
    assert_eq!(isolated.call(process, ()).await.expect("a process"), first, "it is used again");
    // The gateway's own process is another.
    assert_eq!(gateway.call(process, ()).await.expect("a process"), gateway.pid());
}

async fn a_task_that_spins_is_killed_at_its_limit(place: Arc<Place>) {
    let gateway = place.open().await;
    // Enough for what is quick on the busiest of machines.
    let limit = Duration::from_millis(1500);
    let isolated = gateway.isolated().limit(limit);
    let mut slot = isolated.slot().await.expect("a slot");
    for _ in 0..2 {
        slot.ready().await.expect("a process");
        let (running, mut runs) = slot.pair();
        let began = Instant::now();
        let error = slot.call(spin, (Some(running),)).await.expect_err("killed");
        assert!(matches!(&error, IsolatedError::TimeLimit { limit: passed } if *passed == limit), "{error}");
        assert!(began.elapsed() >= limit);
        let pid = runs.recv().await.expect("it ran").expect("it told its process");
        assert!(!alive(pid), "the process is dead when the limit is told");
        assert_eq!(slot.call(square, (7,)).await.expect("the slot works again"), 49);
    }
    // Within its limit nothing happens to it.
    assert_eq!(isolated.call(square, (8,)).await.expect("a square"), 64);
    let kept = slot.call(process, ()).await.expect("a process");
    tokio::time::sleep(limit + limit / 2).await;
    assert_eq!(slot.call(process, ()).await.expect("a process"), kept, "a limit is that of one call");
}

async fn a_dropped_call_kills_all_that_it_started(place: Arc<Place>) {
    let gateway = place.open().await;
    let mut slot = gateway.isolated().slot().await.expect("a slot");
    let (told, mut pids) = slot.pair();
    let mut call = Box::pin(slot.call(spin_with_family, (told,)));
    let family = tokio::select! {
        _ = &mut call => panic!("it never ends"),
        family = pids.recv() => family.expect("it runs").expect("its family"),
    };
    assert_eq!(family.len(), 3);
    assert!(family.iter().all(|pid| alive(*pid)));
    let dropped = Instant::now();
    drop(call);
    until("all of it is gone", || !family.iter().any(|pid| alive(*pid))).await;
    // The stated bound is a second; the rest is for a machine that is busy with other tests.
    assert!(dropped.elapsed() < Duration::from_secs(1 + 15), "{:?}", dropped.elapsed());
    assert_eq!(slot.call(square, (7,)).await.expect("the slot works again"), 49);
    assert_eq!(gateway.call(square, (6,)).await.expect("the gateway never noticed"), 36);
}

async fn a_limit_holds_while_the_caller_is_blocked(place: Arc<Place>) {
    let gateway = place.open().await;
    let mut slot = gateway.isolated().limit(Duration::from_secs(2)).slot().await.expect("a slot");
    let (running, mut runs) = slot.pair();
    let mut call = Box::pin(slot.call(spin, (Some(running),)));
    let pid = tokio::select! {
        _ = &mut call => panic!("before it told its process"),
        pid = runs.recv() => pid.expect("it runs").expect("its process"),
    };
    // From here on nobody polls the call.
    until("it is killed all the same", || !alive(pid)).await;
    let error = call.await.expect_err("killed");
    assert!(matches!(error, IsolatedError::TimeLimit { .. }), "{error}");
}

async fn memory_is_limited(place: Arc<Place>) {
    let gateway = place.open().await;
    let bytes = 192 << 20;
    let isolated = gateway.isolated().memory(bytes);
    assert_eq!(isolated.call(eat, (20,)).await.expect("there is room"), 20 << 20);
    let error = isolated.call(eat, (400,)).await.expect_err("too much");
    assert!(matches!(error, IsolatedError::MemoryLimit { bytes: limit } if limit == bytes), "{error}");
    assert_eq!(isolated.call(eat, (20,)).await.expect("there is room again"), 20 << 20);
    assert_eq!(gateway.isolated().call(eat, (400,)).await.expect("without a limit"), 400 << 20);
    // Without a limit an abort is an abort.
    let error = gateway.isolated().call(abort, ()).await.expect_err("aborted");
    assert!(matches!(error, IsolatedError::Killed { signal: 6, .. }), "{error}");
}

async fn a_process_killed_from_outside(place: Arc<Place>) {
    let gateway = place.open().await;
    let mut slot = gateway.isolated().limit(Duration::from_secs(50)).slot().await.expect("a slot");
    for signal in [Signal::KILL, Signal::TERM] {
        slot.ready().await.expect("a process");
        let (running, mut runs) = slot.pair();
        let call = slot.call(hold, (running,));
        let kill = async {
            let pid = runs.recv().await.expect("it runs").expect("its process");
            kill_process(Pid::from_raw(pid.cast_signed()).expect("a number"), signal).expect("killed");
        };
        let (result, ()) = tokio::join!(call, kill);
        let error = result.expect_err("killed");
        let IsolatedError::Killed { signal: told, end } = &error else { panic!("{error}") };
        assert_eq!(*told, signal.as_raw(), "{end}");
        assert_eq!(slot.call(square, (7,)).await.expect("the slot works again"), 49);
    }
    // One that is killed while nobody uses it is not handed out.
    let pid = slot.call(process, ()).await.expect("a process");
    let idle = slot.process().clone();
    drop(slot);
    kill_process(Pid::from_raw(pid.cast_signed()).expect("a number"), Signal::KILL).expect("killed");
    idle.wait().await;
    assert_ne!(gateway.isolated().call(process, ()).await.expect("another"), pid);
}

async fn a_process_that_ends_itself(place: Arc<Place>) {
    let gateway = place.open().await;
    for code in [0, 3] {
        let error = gateway.isolated().call(exit, (code,)).await.expect_err("it ended");
        assert!(matches!(error, IsolatedError::Exited { code: told, .. } if told == code), "{error}");
    }
    assert_eq!(gateway.isolated().call(square, (7,)).await.expect("a square"), 49);
}

async fn processes_are_used_again(place: Arc<Place>) {
    let gateway = place.open().await;
    let slots = gateway.status().await.expect("a status").slots;
    let isolated = gateway.isolated();
    let calls: Vec<_> = (0..slots * 5)
        .map(|_| {
            let isolated = isolated.clone();
            tokio::spawn(async move { isolated.call(count, ()).await.expect("a count") })
        })
        .collect();
    let mut counts = std::collections::BTreeMap::<u32, Vec<u64>>::new();
    for call in calls {
        let (number, pid) = call.await.expect("no panic");
        counts.entry(pid).or_default().push(number);
    }
    assert!(counts.len() <= slots, "{} processes for {slots} slots", counts.len());
    let total: usize = counts.values().map(Vec::len).sum();
    assert_eq!(total, slots * 5);
    for numbers in counts.values_mut() {
        numbers.sort_unstable();
        // One at a time in each, and none of them started anew.
        assert!(numbers.iter().copied().eq(1..=numbers.len() as u64), "{numbers:?}");
    }
    // All taken, the next waits for its turn.
    let mut taken = Vec::new();
    for _ in 0..slots {
        taken.push(isolated.slot().await.expect("a slot"));
    }
    let waiting = isolated.clone();
    let mut waiting = Box::pin(async move { waiting.call(process, ()).await });
    assert!(tokio::time::timeout(Duration::from_millis(100), &mut waiting).await.is_err(), "no slot is free");
    let pid = taken[0].call(process, ()).await.expect("a process");
    drop(taken.remove(0));
    assert_eq!(waiting.await.expect("its turn came"), pid);
}

async fn another_limit_of_memory_is_another_process(place: Arc<Place>) {
    let gateway = place.open().await;
    let slots = gateway.status().await.expect("a status").slots;
    let mut processes = std::collections::BTreeSet::new();
    for mib in 0..slots as u64 + 2 {
        let isolated = gateway.isolated().memory((256 + mib) << 20);
        let pid = isolated.call(process, ()).await.expect("a process");
        assert_eq!(isolated.call(process, ()).await.expect("a process"), pid);
        assert!(processes.insert(pid), "a process with another limit was used");
    }
    until("those too many are gone", || processes.iter().filter(|pid| alive(**pid)).count() <= slots).await;
}

async fn channels_go_to_a_slot(place: Arc<Place>) {
    let gateway = place.open().await;
    let mut slot = gateway.isolated().slot().await.expect("a slot");
    let (numbers, theirs) = slot.pair();
    let (their_doubled, mut doubled) = slot.pair();
    let feed = async {
        for number in 0..1000 {
            numbers.send(number).await.expect("sent");
            assert_eq!(doubled.recv().await.expect("doubled"), Some(number * 2));
        }
        numbers.close();
    };
    let (done, ()) = tokio::join!(slot.call(double, (theirs, their_doubled)), feed);
    done.expect("done");
    let (input, theirs) = slot.pair_with::<Bytes, Raw>();
    let sent = async {
        for _ in 0..100 {
            input.send(Bytes::from(vec![1; 50_000])).await.expect("sent");
        }
        input.close();
    };
    let (size, ()) = tokio::join!(slot.call(size, (theirs,)), sent);
    assert_eq!(size.expect("a size"), 5_000_000);
    // Ends of the gateway's own connection do not go there.
    let (_keep, foreign) = gateway.pair_with::<Bytes, Raw>();
    let error = slot.call(self::size, (foreign,)).await.expect_err("refused");
    assert!(matches!(error, IsolatedError::Call(_)), "{error}");
    assert_eq!(slot.call(square, (7,)).await.expect("a square"), 49);
}

async fn prints_come_with_the_gateways_own(place: Arc<Place>) {
    let gateway = place.open().await;
    let mut output = gateway.output();
    let slots = gateway.status().await.expect("a status").slots;
    let mut taken = Vec::new();
    for _ in 0..slots {
        taken.push(gateway.isolated().slot().await.expect("a slot"));
    }
    for (number, slot) in taken.iter_mut().enumerate() {
        slot.call(print, (format!("from {number}"),)).await.expect("printed");
    }
    drop(taken);
    gateway.call(print, ("from the gateway".into(),)).await.expect("printed");
    let mut wanted: Vec<String> = (0..slots).map(|number| format!("from {number}\n")).collect();
    wanted.push("from the gateway\n".into());
    let mut printed = String::new();
    while !wanted.iter().all(|line| printed.contains(line)) {
        let print = output.next().await.expect("a print");
        assert_eq!(print.stream, PrintStream::Stdout);
        printed.push_str(std::str::from_utf8(&print.bytes).expect("text"));
    }
    // The end of a process is not the end of the output.
    let error = gateway.isolated().call(exit, (1,)).await.expect_err("it ended");
    assert!(matches!(error, IsolatedError::Exited { .. }), "{error}");
    gateway.call(print, ("later".into(),)).await.expect("printed");
    let later = output.next().await.expect("a print").bytes;
    assert!(later.starts_with(b"l"), "{later:?}");
    gateway.exit();
    while output.next().await.is_some() {}
}

async fn nothing_is_left_of_a_gateway_with_processes(place: Arc<Place>) {
    let gateway = place.open().await;
    let slots = gateway.status().await.expect("a status").slots;
    let isolated = gateway.isolated();
    let mut taken = Vec::new();
    let mut pids = vec![gateway.pid()];
    for _ in 0..slots {
        let mut slot = isolated.slot().await.expect("a slot");
        pids.push(slot.call(process, ()).await.expect("a process"));
        taken.push(slot);
    }
    // Those that nobody uses do not keep the gateway; those in use do.
    drop((gateway, isolated));
    let mut last = taken.pop().expect("a slot");
    drop(taken);
    assert_eq!(last.call(square, (7,)).await.expect("a square"), 49);
    drop(last);
    until("all are gone", || !pids.iter().any(|pid| alive(*pid))).await;
}

async fn an_ended_gateway_ends_its_isolated_calls(place: Arc<Place>) {
    for kill in [false, true] {
        let gateway = place.open().await;
        let mut slot = gateway.isolated().slot().await.expect("a slot");
        let (running, mut runs) = slot.pair();
        let call = slot.call(spin, (Some(running),));
        let end = async {
            let pid = runs.recv().await.expect("it runs").expect("its process");
            if kill {
                let hub = Pid::from_raw(gateway.pid().cast_signed()).expect("a number");
                kill_process(hub, Signal::KILL).expect("killed");
            } else {
                gateway.exit();
            }
            pid
        };
        let (result, pid) = tokio::join!(call, end);
        let error = result.expect_err("it ended");
        let IsolatedError::Ended(end) = &error else { panic!("{error}") };
        assert_eq!(end.hub().is_some(), kill, "{end}");
        until("its process is gone", || !alive(pid)).await;
        let error = gateway.isolated().call(square, (1,)).await.expect_err("it has ended");
        assert!(matches!(&error, IsolatedError::Ended(end) if end.id() == gateway.id()), "{error}");
    }
}

async fn a_start_that_takes_too_long_is_told(place: Arc<Place>) {
    let gateway = place.open().await;
    // Asked before the worker is stopped, which then starts nothing.
    let slot = gateway.isolated().slot().await.expect("a slot");
    let stopped = Pid::from_raw(gateway.pid().cast_signed()).expect("a number");
    let isolated = gateway.isolated().memory(1 << 30).start_limit(Duration::from_millis(300));
    let second = if gateway.status().await.expect("a status").slots > 1 { Some(slot) } else { None };
    kill_process(stopped, Signal::STOP).expect("stopped");
    let result = tokio::time::timeout(Duration::from_secs(40), isolated.call(square, (7,))).await;
    kill_process(stopped, Signal::CONT).expect("continued");
    let error = result.expect("in time").expect_err("nothing starts");
    assert!(matches!(error, IsolatedError::StartTimedOut(_)), "{error}");
    drop(second);
    assert_eq!(gateway.isolated().call(square, (7,)).await.expect("a square"), 49);
}

/// The numbers of the processes below the gateway's own.
fn below(gateway: &Gateway) -> usize {
    farcall_test_support::descendants(gateway.pid()).into_iter().filter(|pid| alive(*pid)).count()
}

async fn random_cancellation_leaks_nothing(place: Arc<Place>) {
    let gateway = place.open().await;
    let slots = gateway.status().await.expect("a status").slots;
    let isolated = gateway.isolated().limit(Duration::from_millis(40));
    // For what is over at once, however busy the machine is.
    let patient = gateway.isolated().limit(Duration::from_secs(50));
    let mut random = Random(0x5eed_0004);
    for _ in 0..40 {
        let calls: Vec<_> = (0..slots)
            .map(|_| {
                let (isolated, patient, spins) = (isolated.clone(), patient.clone(), random.below(2) == 0);
                tokio::spawn(async move {
                    if spins {
                        let error = isolated.call(spin, (None,)).await.expect_err("it never ends");
                        assert!(matches!(error, IsolatedError::TimeLimit { .. }), "{error}");
                    } else {
                        assert_eq!(patient.call(square, (9,)).await.expect("no dead one is handed out"), 81);
                    }
                })
            })
            .collect();
        for call in calls {
            // At any moment: while it waits, starts, runs, or is over.
            if random.below(3) == 0 {
                tokio::time::sleep(Duration::from_micros(random.below(30_000))).await;
                call.abort();
            } else {
                call.await.expect("no panic");
            }
        }
    }
    assert_eq!(gateway.isolated().call(square, (7,)).await.expect("a square"), 49);
    // Each process has its two guardians.
    until("no more is left than is in use", || below(&gateway) <= 3 * slots).await;
    let (channels, tasks) = {
        let status = gateway.status().await.expect("a status");
        (status.channels, status.tasks.len())
    };
    assert_eq!(tasks, 0);
    assert!(channels < 16 + 8 * slots, "{channels} channels are left");
}
