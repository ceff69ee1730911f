//! Many gateways as one: started at once, named before, ended together, whatever hangs.

mod gateways;

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use farcall::{
    BoxError, CallError, Class, Exit, Gateway, Group, NotStarted, OpenError, Spec, SpecError, StartError,
    Tasks,
};
use farcall_test_support::descendants;
use gateways::{Kind, Place, alive, at, plain, serves_all, until};
use rustix::process::{Pid, Signal, kill_process};

/// Makes a worker of this program wait before it is one: the folder where it says so, and where it is let go.
const GATE: &str = "FARCALL_TEST_GATE";

/// The stated bound on the end of everything, once the coordinator is gone: the grace of 2 s, and 1 s for killing. The rest is
/// for a machine that is busy with other tests.
const GONE: Duration = Duration::from_secs(3 + 12);

/// More than a worker needs to end by itself.
const LIMIT: Duration = Duration::from_secs(20);

fn tasks() -> Tasks {
    Tasks::new().add(square).add(divide).add(spin).add(family).add(hold)
}

fn main() {
    let mut arguments = std::env::args().skip(1);
    match arguments.next().as_deref() {
        Some("--play") => return play(&arguments.collect::<Vec<_>>()),
        Some("--farcall-worker") => {
            if let Ok(folder) = std::env::var(GATE) {
                wait_at(Path::new(&folder));
            }
        }
        _ => {}
    }
    gateways::main(
        tasks(),
        [
            plain("gateways_have_numbers_and_ids", gateways_have_numbers_and_ids),
            plain("removed_gateways_live_on", removed_gateways_live_on),
            plain("the_default_spec_is_used", the_default_spec_is_used),
            plain("ids_are_known_before_the_start", ids_are_known_before_the_start),
            plain("what_cannot_be_is_refused_before_the_start", what_cannot_be_is_refused_before_the_start),
            plain("a_partial_start_keeps_what_came_up", a_partial_start_keeps_what_came_up),
            plain("starts_run_at_once_up_to_a_limit", starts_run_at_once_up_to_a_limit),
            plain("dropping_a_start_leaves_nothing", dropping_a_start_leaves_nothing),
            plain("a_task_runs_on_all", a_task_runs_on_all),
            at(&[Kind::Local, Kind::Ssh], "terminate_ends_busy_gateways", terminate_ends_busy_gateways),
            plain("times_of_any_length_are_taken", times_of_any_length_are_taken),
            plain("a_plan_whose_hub_has_left_is_refused", a_plan_whose_hub_has_left_is_refused),
            plain("a_stopped_worker_is_killed_in_time", a_stopped_worker_is_killed_in_time),
            at(&[Kind::Ssh], "a_hung_transport_holds_nothing_up", a_hung_transport_holds_nothing_up),
            at(&[Kind::Local, Kind::Ssh], "hubs_start_first_and_end_last", hubs_start_first_and_end_last),
            plain("leaves_of_a_hub_that_failed_are_told_so", leaves_of_a_hub_that_failed_are_told_so),
            plain("a_dropped_terminate_goes_on", a_dropped_terminate_goes_on),
            plain("a_dropped_group_ends_its_gateways", a_dropped_group_ends_its_gateways),
            plain("a_program_that_panics_leaves_nothing", a_program_that_panics_leaves_nothing),
            plain("a_program_that_ends_leaves_nothing", a_program_that_ends_leaves_nothing),
            plain("an_interrupted_program_leaves_nothing", an_interrupted_program_leaves_nothing),
        ],
    );
}

// ---- tasks -------------------------------------------------------------------------------------------------------

async fn square(n: u64) -> u64 {
    n * n
}

fn divide(a: u64, b: u64) -> Result<u64, BoxError> {
    a.checked_div(b).ok_or_else(|| "by nothing".into())
}

/// Computes without a pause.
async fn spin(for_millis: u64) -> u64 {
    let end = Instant::now() + Duration::from_millis(for_millis);
    let mut turns = 0;
    while Instant::now() < end {
        turns = std::hint::black_box(turns + 1);
    }
    turns
}

async fn hold() {
    std::future::pending().await
}

/// Starts a child that ignores signals and one that left session and group, and tells their numbers.
async fn family() -> Result<Vec<u32>, BoxError> {
    let script = "trap '' HUP INT TERM; setsid sh -c 'echo $$; exec sleep 1000' & echo $$; wait";
    let mut child = Command::new("sh").args(["-c", script]).stdout(Stdio::piped()).spawn()?;
    let lines = BufReader::new(child.stdout.take().ok_or("piped")?).lines();
    lines.take(2).map(|line| Ok(line?.trim().parse()?)).collect()
}

// ---- programs ----------------------------------------------------------------------------------------------------

/// Says that this process is there, and waits for `go`, or for the end of whoever started it.
fn wait_at(folder: &Path) {
    let parent = rustix::process::getppid();
    std::fs::write(folder.join(std::process::id().to_string()), "").expect("a folder");
    while !folder.join("go").exists() && rustix::process::getppid() == parent {
        std::thread::sleep(Duration::from_millis(1));
    }
}

/// The processes that have come to wait there.
fn waiting(folder: &Path) -> Vec<u32> {
    let files = std::fs::read_dir(folder).expect("a folder");
    files.filter_map(|file| file.ok()?.file_name().to_str()?.parse().ok()).collect()
}

/// What this program does when it plays another one: it tells all its processes, and ends as it is asked to.
fn play(args: &[String]) {
    farcall::init(tasks());
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    runtime.block_on(async {
        let group = Group::open("4*local").await.expect("a group");
        let mut pids: Vec<u32> = group.call(family, ()).await.expect("families").concat();
        pids.extend(group.iter().map(Gateway::pid));
        for gateway in &group {
            gateway.start(spin, (600_000,)).await.expect("a call").detach();
        }
        println!("{}", pids.iter().map(ToString::to_string).collect::<Vec<_>>().join(" "));
        match args[0].as_str() {
            "end" => {}
            "panic" => panic!("as asked"),
            "wait" => std::future::pending().await,
            other => panic!("{other}"),
        }
    });
}

/// Starts this program as `play` has it, and returns it with all processes that it tells.
fn program(how: &str) -> (std::process::Child, Vec<u32>) {
    let mut child = Command::new(std::env::current_exe().expect("a path"))
        .args(["--play", how])
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .expect("it starts");
    let mut line = String::new();
    let stdout = child.stdout.take().expect("it is piped");
    BufReader::new(stdout).read_line(&mut line).expect("it speaks");
    let pids: Vec<u32> = line.split_whitespace().map(|pid| pid.parse().expect("a number")).collect();
    assert_eq!(pids.len(), 12, "{line}");
    (child, pids)
}

async fn all_gone(pids: Vec<u32>) {
    let begin = Instant::now();
    for pid in pids {
        until("everything is gone", || !alive(pid)).await;
    }
    assert!(begin.elapsed() < GONE, "{:?}", begin.elapsed());
}

fn pid(number: u32) -> Pid {
    Pid::from_raw(number.cast_signed()).expect("a process")
}

// ---- tests -------------------------------------------------------------------------------------------------------

async fn gateways_have_numbers_and_ids() {
    let mut group = Group::open(["2*local", "local?id=third"]).await.expect("a group");
    group.add(Spec::local().id("fourth")).await.expect("one more");
    group.add(vec![Spec::local().id("fifth"), Spec::local()]).await.expect("two more");
    assert_eq!(group.len(), 6);
    let ids: Vec<String> = group.iter().map(|gateway| gateway.id().to_owned()).collect();
    assert_eq!(ids[2..5], ["third", "fourth", "fifth"]);
    assert!([0, 1, 5].iter().all(|automatic| ids[*automatic].starts_with("gw")), "{ids:?}");
    for (index, id) in ids.iter().enumerate() {
        assert_eq!(group[index].id(), id);
        assert_eq!(group[id].pid(), group[index].pid());
        assert_eq!(group.get(index).map(Gateway::id), group.get(id).map(Gateway::id));
    }
    assert!(group.get(6).is_none() && group.get("sixth").is_none());
    assert_eq!(group["fourth"].call(square, (3,)).await.expect("a number"), 9);
    let error = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| group["sixth"].pid()));
    assert!(error.is_err());
}

async fn removed_gateways_live_on() {
    let mut group =
        Group::open(["local?id=removed-0", "local?id=removed-1", "2*local"]).await.expect("a group");
    let (one, other) =
        (group.remove("removed-1").expect("it is there"), group.remove(0).expect("it is there"));
    assert_eq!((one.id(), other.id()), ("removed-1", "removed-0"));
    assert!(group.remove("removed-1").is_none() && group.remove(2).is_none());
    assert_eq!(group.len(), 2);
    group.terminate(LIMIT).await.expect("all end");
    assert_eq!(one.call(square, (2,)).await.expect("it lives"), 4);
    // Ids are taken as long as their gateways live.
    let error = group.add("local?id=removed-1").await.expect_err("refused");
    assert!(matches!(&error, StartError::DuplicateId { id } if id == "removed-1"), "{error:?}");
    drop(one);
    group.add("local?id=removed-1").await.expect("the id is free again");
    let all = group.take();
    drop(group);
    assert_eq!(all[0].call(square, (2,)).await.expect("it lives"), 4);
}

async fn the_default_spec_is_used() {
    let mut group = Group::builder().default_spec(Spec::local().env("FARCALL_TEST_VALUE", "usual")).build();
    group.add_default(2).await.expect("two");
    group.add(Spec::local()).await.expect("one");
    let mut values = Vec::new();
    for gateway in &group {
        let command = gateway.command("sh").arg("-c").arg("printf %s \"$FARCALL_TEST_VALUE\"");
        values.push(String::from_utf8(command.output().await.expect("output").stdout).expect("text"));
    }
    assert_eq!(values, ["usual", "usual", ""]);
}

async fn ids_are_known_before_the_start() {
    let mut group = Group::new();
    // An automatic id must not take one that is asked for by another.
    let next = group.plan(Spec::local()).expect("a plan").ids().next().expect("one").to_string();
    let number: u64 = next.strip_prefix("gw").expect("automatic").parse().expect("a number");
    let asked = format!("gw{}", number + 1);
    let plan = group.plan(vec![Spec::local(), Spec::local().id(&*asked), Spec::local()]).expect("a plan");
    let ids: Vec<String> = plan.ids().map(ToString::to_string).collect();
    assert_eq!(ids[1], asked);
    assert!(ids[0] != ids[1] && ids[1] != ids[2] && ids[0] != ids[2], "{ids:?}");
    // They are taken from now on.
    let error = Gateway::open(&Spec::local().id(&*asked)).await.expect_err("refused");
    assert!(matches!(error, OpenError::DuplicateId { .. }), "{error:?}");
    assert!(group.is_empty());
    group.start(plan).await.expect("all start");
    assert!(group.iter().map(Gateway::id).eq(&ids));
}

async fn what_cannot_be_is_refused_before_the_start() {
    let folder = tempfile::tempdir().expect("a folder");
    let started = folder.path().join("started");
    // Whatever starts it leaves a trace.
    let trace = || format!("worker:touch,{}", started.display());
    let mut group = Group::open("local?id=refused-here").await.expect("a group");
    for (id, other) in [("refused-here", "refused-other"), ("refused-twice", "refused-twice")] {
        let specs = [trace(), format!("{}?id={id}", trace()), format!("{}?id={other}", trace())];
        let error = group.add(&specs[..]).await.expect_err("refused");
        assert!(matches!(&error, StartError::DuplicateId { id: named } if named == id), "{error:?}");
        assert!(error.failures().is_empty());
        // What was taken by the attempt is free again.
        drop(group.plan("local?id=refused-other").expect("a plan"));
    }
    let error = group.add([trace(), "local?speed=9".to_owned()]).await.expect_err("refused");
    assert!(matches!(&error, StartError::Spec(SpecError::UnknownKey { .. })), "{error:?}");
    let error = group.add([trace(), "local?via=refused-nowhere".to_owned()]).await.expect_err("refused");
    assert!(matches!(&error, StartError::UnknownHub { via, .. } if via == "refused-nowhere"), "{error:?}");
    let circle =
        ["local?id=refused-a&via=refused-b".to_owned(), "local?id=refused-b&via=refused-a".to_owned()];
    let error =
        group.add([trace()].into_iter().chain(circle).collect::<Vec<_>>()).await.expect_err("refused");
    assert!(matches!(&error, StartError::Circle { ids } if ids.len() == 2), "{error:?}");
    let partial = Group::open(["local?id=refused-here".to_owned(), trace()]).await.expect_err("refused");
    assert!(
        partial.group.is_empty() && matches!(partial.error, StartError::DuplicateId { .. }),
        "{partial:?}"
    );
    assert_eq!(group.len(), 1);
    // All would have been started before this one, had they been started.
    group.add("local").await.expect("a gateway");
    assert!(!started.exists());
}

async fn a_partial_start_keeps_what_came_up() {
    let specs = [
        "local",
        "command:/does/not/exist?id=partial-none",
        "local?id=partial-up",
        "worker:true?id=partial-mute",
    ];
    let partial = Group::open(specs).await.expect_err("two cannot start");
    let ids: Vec<_> = partial.group.iter().map(Gateway::id).collect();
    assert_eq!(ids.len(), 2);
    assert_eq!(ids[1], "partial-up");
    assert_eq!(partial.group.call(square, (5,)).await.expect("numbers"), [25, 25]);
    let failures = partial.error.failures();
    assert_eq!(
        failures.iter().map(|failure| &*failure.id).collect::<Vec<_>>(),
        ["partial-none", "partial-mute"]
    );
    assert_eq!(failures[0].spec.to_string(), specs[1]);
    assert!(
        matches!(&failures[0].cause, NotStarted::Open(OpenError::Launch(error)) if error.class() == Class::Exec),
        "{failures:?}"
    );
    assert!(matches!(&failures[1].cause, NotStarted::Open(_)), "{failures:?}");
    let text = partial.to_string();
    assert!(text.starts_with("2 of 4 gateways did not start: partial-none: "), "{text}");
    // Their ids are free again, those of the others are not.
    let mut group = partial.group;
    assert!(matches!(group.add("local?id=partial-up").await, Err(StartError::DuplicateId { .. })));
    group.add(["local?id=partial-none", "local?id=partial-mute"]).await.expect("both start now");
    let error = group.add(["local", "command:/does/not/exist"]).await.expect_err("one cannot start");
    assert!(matches!(&error, StartError::Failed { started: 1, .. }), "{error:?}");
    assert_eq!(group.len(), 5);
}

async fn starts_run_at_once_up_to_a_limit() {
    let folder = tempfile::tempdir().expect("a folder");
    let gated = Spec::local().env(GATE, folder.path());
    let mut group = Group::builder().at_once(3).default_spec(gated).build();
    let starting = tokio::spawn(async move {
        group.add_default(7).await.expect("all start");
        group
    });
    // That there are three at all shows that they start at once: each waits.
    until("three wait", || waiting(folder.path()).len() == 3).await;
    // More would have been started before this one is.
    Gateway::open(&Spec::local()).await.expect("a gateway");
    assert_eq!(waiting(folder.path()).len(), 3);
    std::fs::write(folder.path().join("go"), "").expect("a folder");
    let group = starting.await.expect("no panic");
    assert_eq!(waiting(folder.path()).len(), 7);
    assert_eq!(group.call(square, (2,)).await.expect("numbers"), [4; 7]);
}

async fn dropping_a_start_leaves_nothing() {
    let folder = tempfile::tempdir().expect("a folder");
    let mut group = Group::open("local").await.expect("a group");
    let before = group[0].pid();
    let gated = |id: &str| Spec::local().env(GATE, folder.path()).id(id);
    let ids = ["dropped-0", "dropped-1", "dropped-2"];
    {
        // One that comes up meanwhile, and three that do not.
        let specs: Vec<_> = ids.iter().map(|id| gated(id)).chain([Spec::local().id("dropped-3")]).collect();
        let mut adding = std::pin::pin!(group.add(specs));
        let worker_of = |id: &str| {
            let is = |pid: &u32| {
                let line = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
                String::from_utf8_lossy(&line).contains(&format!("id={id}"))
            };
            descendants(std::process::id()).into_iter().filter(is).collect::<Vec<_>>()
        };
        tokio::select! {
            added = &mut adding => panic!("{added:?}"),
            () = until("all are under way", || {
                waiting(folder.path()).len() == 3 && !worker_of("dropped-3").is_empty()
            }) => {}
        }
    }
    for pid in waiting(folder.path()) {
        until("a start that was dropped is gone", || !alive(pid)).await;
    }
    // Ids are free once nothing is left of who had them.
    for id in ids.into_iter().chain(["dropped-3"]) {
        until("its id is free", || group.plan(Spec::local().id(id)).is_ok()).await;
    }
    until("nothing else is left", || {
        descendants(std::process::id()).iter().all(|pid| {
            *pid == before || !alive(*pid) || serves_all(*pid) || {
                descendants(before).contains(pid) || descendants(*pid).contains(&before)
            }
        })
    })
    .await;
    assert_eq!(group.len(), 1);
    assert_eq!(group.call(square, (2,)).await.expect("it lives"), [4]);
}

async fn a_task_runs_on_all() {
    let group = Group::open("4*local").await.expect("a group");
    assert_eq!(group.call(square, (3,)).await.expect("numbers"), [9; 4]);
    let mut divisors = [1, 0, 3, 0].into_iter();
    let mut next = |_: &Gateway| (12, divisors.next().expect("four"));
    let error = group.call_with(divide, &mut next).await.expect_err("two fail");
    let (id, first) = error.first().expect("the first");
    assert!(matches!(first, CallError::Failed(failure) if failure.message() == "by nothing"), "{first:?}");
    assert!([group[1].id(), group[3].id()].contains(&id));
    let failed: Vec<_> = error.errors().map(|(id, _)| id.to_owned()).collect();
    assert_eq!(failed, [group[1].id(), group[3].id()]);
    assert_eq!(error.to_string(), format!("{id}: by nothing (and 1 of 3 others failed)"));
    let values: Vec<_> = error.into_outcomes().into_iter().map(|outcome| outcome.result.ok()).collect();
    assert_eq!(values, [Some(12), None, Some(4), None]);
    // Ends of channels belong to one gateway each.
    group[2].exit();
    group[2].wait().await;
    let error = group.call(square, (3,)).await.expect_err("one has ended");
    assert!(matches!(error.first(), Some((id, CallError::Ended(_))) if id == group[2].id()), "{error:?}");
    assert_eq!(error.outcomes().iter().filter(|outcome| outcome.result.is_ok()).count(), 3);
}

async fn terminate_ends_busy_gateways(place: Arc<Place>) {
    let text = place.text();
    let mut group = Group::open(vec![text; 3]).await.expect("a group");
    let mut pids = group.call(family, ()).await.expect("families").concat();
    pids.extend(group.iter().map(Gateway::pid));
    let mut calls = Vec::new();
    for gateway in &group {
        // More than there are threads.
        let slots = gateway.status().await.expect("a status").slots;
        for _ in 0..=slots {
            calls.push(gateway.start(spin, (600_000,)).await.expect("a call"));
        }
    }
    let ids: Vec<_> = group.iter().map(|gateway| gateway.id().to_owned()).collect();
    let begin = Instant::now();
    let ends = group.terminate(LIMIT).await.expect("all end");
    assert!(begin.elapsed() < GONE, "{:?}", begin.elapsed());
    assert!(ends.iter().map(|end| end.id()).eq(&ids));
    assert!(ends.iter().all(|end| end.class().is_none()), "{ends:?}");
    all_gone(pids).await;
    for call in calls {
        assert!(matches!(call.await, Err(CallError::Ended(_))));
    }
    // It can be used again, and ended again.
    assert!(group.is_empty());
    assert!(group.terminate(Duration::ZERO).await.expect("nothing to end").is_empty());
    group.add(place.text()).await.expect("another");
    assert_eq!(group.call(square, (2,)).await.expect("a number"), [4]);
}

async fn times_of_any_length_are_taken() {
    let ever = Spec::local().grace(Duration::MAX).lease(Duration::MAX).heartbeat(Duration::MAX / 2);
    let mut group = Group::open(vec![ever; 2]).await.expect("a group");
    assert_eq!(group.call(square, (3,)).await.expect("numbers"), [9, 9]);
    let ends = group.terminate(Duration::MAX).await.expect("all end");
    assert!(ends.iter().all(|end| end.exit() == Some(Exit::Code(0))), "{ends:?}");
}

async fn a_plan_whose_hub_has_left_is_refused() {
    let mut group = Group::open([Spec::local().id("leaving")]).await.expect("a group");
    let plan = group.plan(vec![Spec::local(), Spec::local().via("leaving")]).expect("a plan");
    let hub = group.remove("leaving").expect("it is there");
    let error = group.start(plan).await.expect_err("its hub has left");
    assert!(matches!(&error, StartError::UnknownHub { via, .. } if via == "leaving"), "{error:?}");
    assert!(group.is_empty());
    hub.exit();
}

async fn a_stopped_worker_is_killed_in_time() {
    let mut group = Group::open("3*local").await.expect("a group");
    let stopped = group[1].id().to_owned();
    let mut pids: Vec<u32> = group.call(family, ()).await.expect("families").concat();
    pids.extend(group.iter().map(Gateway::pid));
    // With its guardians, which would end it otherwise.
    let tree = |of: &Gateway| {
        let mine = descendants(std::process::id()).into_iter().filter(|pid| !serves_all(*pid));
        let above = mine.filter(|pid| descendants(*pid).contains(&of.pid()));
        above.chain([of.pid()]).collect::<Vec<_>>()
    };
    let tree = tree(&group[1]);
    for number in &tree {
        kill_process(pid(*number), Signal::STOP).expect("stopped");
    }
    let begin = Instant::now();
    // In the last quarter it is killed, and must be seen to have ended.
    let limit = Duration::from_secs(8);
    let ends = group.terminate(limit).await.expect("all end");
    assert!(begin.elapsed() < limit + GONE, "{:?}", begin.elapsed());
    let killed = ends.iter().find(|end| end.id() == stopped).expect("it is told");
    assert_eq!(killed.exit(), Some(Exit::Signal(9)), "{killed}");
    // What else was stopped goes on, and sees to the rest.
    for number in &tree {
        let _ = kill_process(pid(*number), Signal::CONT);
    }
    all_gone(pids).await;
}

async fn a_hung_transport_holds_nothing_up(place: Arc<Place>) {
    let far = place.text().parse::<Spec>().expect("a spec");
    let mut group = Group::open(vec![Spec::local(), far.id("hung"), Spec::local()]).await.expect("a group");
    let pids: Vec<u32> = group.iter().map(Gateway::pid).collect();
    // Neither the word to end nor the kill arrives.
    let sessions = place.server.as_ref().expect("a server").sessions();
    assert!(!sessions.is_empty());
    for session in &sessions {
        kill_process(pid(*session), Signal::STOP).expect("stopped");
    }
    let limit = Duration::from_millis(2500);
    let begin = Instant::now();
    let error = group.terminate(limit).await.expect_err("one cannot be seen to end");
    assert!(begin.elapsed() < limit + Duration::from_secs(10), "{:?}", begin.elapsed());
    assert_eq!(error.overdue.iter().map(Gateway::id).collect::<Vec<_>>(), ["hung"]);
    assert_eq!(error.ended.len(), 2);
    assert_eq!(error.to_string(), "1 of 3 gateways were not seen to end in time: hung");
    assert!(group.is_empty());
    assert!(!alive(pids[0]) && !alive(pids[2]));
    for session in sessions {
        kill_process(pid(session), Signal::CONT).expect("continued");
    }
    all_gone(pids).await;
}

async fn hubs_start_first_and_end_last(place: Arc<Place>) {
    let hub = place.text().parse::<Spec>().expect("a spec").id("middle").via("top");
    // Leaves come first in the list, and only one may start at a time.
    let specs = vec![
        Spec::local().id("leaf-0").via("middle"),
        Spec::local().id("leaf-1").via("middle"),
        if place.kind == Kind::Ssh { hub } else { Spec::local().id("middle").via("top") },
        Spec::local().id("top"),
        Spec::local().id("alone"),
    ];
    let mut group = Group::builder().at_once(1).open(specs).await.expect("a group");
    group.add(Spec::local().id("later").via("top")).await.expect("through one that is there");
    let ids: Vec<_> = group.iter().map(|gateway| gateway.id().to_owned()).collect();
    assert_eq!(ids, ["leaf-0", "leaf-1", "middle", "top", "alone", "later"]);
    assert_eq!(group.call(square, (4,)).await.expect("numbers"), [16; 6]);
    let mut pids = group.call(family, ()).await.expect("families").concat();
    pids.extend(group.iter().map(Gateway::pid));
    // Leaves are where their hub is: below it, and not below this process alone.
    let below = descendants(group["middle"].pid());
    assert!(["leaf-0", "leaf-1"].iter().all(|leaf| below.contains(&group[leaf].pid())), "{below:?}");

    let (told, mut ended) = tokio::sync::mpsc::unbounded_channel();
    for gateway in &group {
        let (gateway, told) = (gateway.clone(), told.clone());
        tokio::spawn(async move {
            let end = gateway.wait().await;
            told.send((gateway.id().to_owned(), end)).expect("it is awaited");
        });
    }
    group.terminate(LIMIT).await.expect("all end");
    let mut order = Vec::new();
    while order.len() < ids.len() {
        let (id, end) = ended.recv().await.expect("all end");
        // Had its hub ended first, that would be the cause.
        assert_eq!(end.class(), None, "{end}");
        order.push(id);
    }
    let at = |id: &str| order.iter().position(|other| other == id).expect("it ended");
    assert!(at("leaf-0") < at("middle") && at("leaf-1") < at("middle"), "{order:?}");
    assert!(at("middle") < at("top") && at("later") < at("top"), "{order:?}");
    all_gone(pids).await;
}

async fn leaves_of_a_hub_that_failed_are_told_so() {
    let specs = [
        "local?id=hubless-0&via=hubless-hub",
        "local?id=hubless-1&via=hubless-0",
        "command:/does/not/exist?id=hubless-hub",
        "local?id=hubless-not",
    ];
    let partial = Group::open(specs).await.expect_err("three cannot start");
    let failures = partial.error.failures();
    assert_eq!(failures.len(), 3);
    assert!(matches!(&failures[0].cause, NotStarted::Hub { via } if via == "hubless-hub"), "{failures:?}");
    assert!(matches!(&failures[1].cause, NotStarted::Hub { via } if via == "hubless-0"), "{failures:?}");
    assert!(matches!(&failures[2].cause, NotStarted::Open(_)), "{failures:?}");
    assert_eq!(partial.group.len(), 1);
    assert_eq!(partial.group["hubless-not"].call(square, (2,)).await.expect("it lives"), 4);
}

async fn a_dropped_terminate_goes_on() {
    let mut group = Group::open("3*local").await.expect("a group");
    let pids: Vec<u32> = group.iter().map(Gateway::pid).collect();
    {
        let mut ending = std::pin::pin!(group.terminate(LIMIT));
        let once = std::future::poll_fn(|cx| std::task::Poll::Ready(ending.as_mut().poll(cx).is_pending()));
        assert!(once.await);
    }
    assert!(group.is_empty());
    all_gone(pids).await;
}

async fn a_dropped_group_ends_its_gateways() {
    let group = Group::open("3*local").await.expect("a group");
    let mut pids = group.call(family, ()).await.expect("families").concat();
    pids.extend(group.iter().map(Gateway::pid));
    let clone = group[1].clone();
    let call = clone.start(hold, ()).await.expect("a call");
    drop(group);
    assert!(matches!(call.await, Err(CallError::Ended(_))));
    assert_eq!(clone.wait().await.class(), None);
    all_gone(pids).await;
}

async fn a_program_that_panics_leaves_nothing() {
    let (mut program, pids) = tokio::task::block_in_place(|| program("panic"));
    let status = tokio::task::block_in_place(|| program.wait().expect("it ends"));
    assert_eq!(status.code(), Some(101));
    all_gone(pids).await;
}

async fn a_program_that_ends_leaves_nothing() {
    let (mut program, pids) = tokio::task::block_in_place(|| program("end"));
    let status = tokio::task::block_in_place(|| program.wait().expect("it ends"));
    assert!(status.success());
    all_gone(pids).await;
}

async fn an_interrupted_program_leaves_nothing() {
    use std::os::unix::process::ExitStatusExt;
    let (mut program, pids) = tokio::task::block_in_place(|| program("wait"));
    assert!(pids.iter().all(|pid| alive(*pid)));
    kill_process(pid(program.id()), Signal::INT).expect("interrupted");
    let status = tokio::task::block_in_place(|| program.wait().expect("it ends"));
    assert_eq!(status.signal(), Some(2));
    all_gone(pids).await;
}
