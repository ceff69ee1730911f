//! The life of a gateway: busy, cancelled, killed, ended, and what is left of it, which is nothing.

mod gateways;

use std::io::{BufRead, BufReader, Write};
use std::process::{Child, ChildStdout, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use farcall::{
    BoxError, CallError, Class, Context, Exit, Gateway, Group, OpenError, Receiver, Sender, Spec, Tasks,
};
use gateways::{EVERYWHERE, Kind, Place, alive, at, plain, until};
use rustix::process::{Pid, Signal, kill_process};

/// Makes a worker of this program another program; see `main`.
const VARIANT: &str = "FARCALL_TEST_VARIANT";

/// The stated bound on the end of everything, once the coordinator is gone: the grace of 2 s, and 1 s for killing. The rest is
/// for a machine that is busy with other tests.
const GONE: Duration = Duration::from_secs(3 + 7);

fn tasks() -> Tasks {
    Tasks::new()
        .add(square)
        .add(hold)
        .add(answer_later)
        .add(spin)
        .add(block)
        .add(wait_for_cancel)
        .add(print)
        .add(ruin_descriptors)
        .add(family)
        .add(exit)
        .add(abort)
        .add(say)
}

fn main() {
    match std::env::args().nth(1).as_deref() {
        Some("--play") => return play(&std::env::args().skip(2).collect::<Vec<_>>()),
        Some("--farcall-worker") => match std::env::var(VARIANT).as_deref() {
            Ok("other") => farcall::init(Tasks::new().add(square).add(other).version("9")),
            Ok("runtime") => in_runtime(tokio::runtime::Builder::new_multi_thread()),
            Ok("thread") => in_runtime(tokio::runtime::Builder::new_current_thread()),
            Ok(other) => panic!("{other}"),
            Err(_) => {}
        },
        _ => {}
    }
    gateways::main(
        tasks(),
        [
            at(&EVERYWHERE, "dropping_a_call_drops_the_task", dropping_a_call_drops_the_task),
            at(&EVERYWHERE, "a_detached_task_goes_on", a_detached_task_goes_on),
            at(&EVERYWHERE, "a_blocking_task_can_ask", a_blocking_task_can_ask),
            at(&EVERYWHERE, "more_tasks_than_may_run_wait", more_tasks_than_may_run_wait),
            at(&EVERYWHERE, "a_busy_worker_answers_and_lives", a_busy_worker_answers_and_lives),
            at(
                &EVERYWHERE,
                "a_coordinator_that_blocks_loses_nothing",
                a_coordinator_that_blocks_loses_nothing,
            ),
            at(
                &EVERYWHERE,
                "a_stopped_worker_goes_on_when_continued",
                a_stopped_worker_goes_on_when_continued,
            ),
            at(
                &EVERYWHERE,
                "a_silent_worker_is_lost_within_the_lease",
                a_silent_worker_is_lost_within_the_lease,
            ),
            at(
                &[Kind::Ssh, Kind::OpenSsh],
                "a_silent_network_loses_both_sides",
                a_silent_network_loses_both_sides,
            ),
            at(&EVERYWHERE, "prints_arrive_and_damage_nothing", prints_arrive_and_damage_nothing),
            at(&EVERYWHERE, "ruined_descriptors_damage_nothing", ruined_descriptors_damage_nothing),
            at(&EVERYWHERE, "a_killed_worker_leaves_no_call_hanging", a_killed_worker_leaves_no_call_hanging),
            at(
                &[Kind::Local, Kind::Ssh],
                "a_worker_that_ends_itself_says_how",
                a_worker_that_ends_itself_says_how,
            ),
            at(&EVERYWHERE, "exit_ends_a_busy_worker", exit_ends_a_busy_worker),
            at(
                &EVERYWHERE,
                "dropping_the_last_handle_ends_the_worker",
                dropping_the_last_handle_ends_the_worker,
            ),
            at(&EVERYWHERE, "close_waits_for_tasks_and_prints", close_waits_for_tasks_and_prints),
            at(&EVERYWHERE, "a_killed_coordinator_leaves_nothing", a_killed_coordinator_leaves_nothing),
            at(&EVERYWHERE, "settings_hold_in_the_worker", settings_hold_in_the_worker),
            at(&EVERYWHERE, "a_worker_is_recognisable", a_worker_is_recognisable),
            at(
                &EVERYWHERE,
                "a_worker_killed_at_any_moment_hangs_nothing",
                a_worker_killed_at_any_moment_hangs_nothing,
            ),
            at(&EVERYWHERE, "kill_ends_a_stopped_worker", kill_ends_a_stopped_worker),
            at(&EVERYWHERE, "a_long_status_arrives_whole", a_long_status_arrives_whole),
            plain("ids_are_given_once", ids_are_given_once),
            plain(
                "another_program_is_refused_with_what_differs",
                another_program_is_refused_with_what_differs,
            ),
            plain("init_works_inside_a_runtime", init_works_inside_a_runtime),
            plain("a_program_that_forgot_init_is_told_so", a_program_that_forgot_init_is_told_so),
            plain("a_task_added_twice_is_told_by_init", a_task_added_twice_is_told_by_init),
            plain("init_is_called_once", init_is_called_once),
            plain("events_of_both_sides_are_logged", events_of_both_sides_are_logged),
        ],
    );
}

fn in_runtime(mut builder: tokio::runtime::Builder) {
    builder.worker_threads(3).enable_all().build().expect("a runtime").block_on(async {
        farcall::init(tasks());
    });
}

// ---- tasks -------------------------------------------------------------------------------------------------------

async fn square(n: u64) -> u64 {
    n * n
}

async fn other(n: u32) -> u32 {
    n
}

/// Says that it runs, and never ends.
async fn hold(running: Sender<u32>) -> Result<(), BoxError> {
    running.send(std::process::id()).await?;
    std::future::pending().await
}

async fn answer_later(mut go: Receiver<u64>, answers: Sender<u64>) -> Result<u64, BoxError> {
    let number = go.recv().await?.ok_or("nothing came")?;
    answers.send(number + 1).await?;
    Ok(number)
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

fn block(for_millis: u64) {
    std::thread::sleep(Duration::from_millis(for_millis));
}

fn wait_for_cancel(cx: Context, running: Sender<u32>, cancelled: Sender<u32>) {
    running.try_send(1).expect("room for one");
    while !cx.is_cancelled() {
        std::thread::sleep(Duration::from_millis(1));
    }
    // The call is gone, its channels are not.
    let _ = cancelled.try_send(2);
}

async fn print(text: String) -> Result<(), BoxError> {
    println!("{text}");
    eprintln!("{text} too");
    std::io::stdout().flush()?;
    let child = tokio::process::Command::new("sh")
        .arg("-c")
        .arg(format!("echo {text} from a child"))
        .status()
        .await?;
    if child.success() { Ok(()) } else { Err("the child failed".into()) }
}

async fn ruin_descriptors() -> u64 {
    for fd in 0..3 {
        // SAFETY: closes what a careless program might; nothing in this process relies on these three.
        unsafe { libc::close(fd) };
    }
    // These take the lowest numbers.
    let files: Vec<_> = (0..3).map(|_| std::fs::File::options().write(true).open("/dev/null")).collect();
    println!("into one of the files");
    files.iter().filter(|file| file.is_ok()).count() as u64
}

/// Starts a child that ignores signals and one that left session and group, and tells their numbers.
async fn family() -> Result<Vec<u32>, BoxError> {
    let script = "trap '' HUP INT TERM; setsid sh -c 'echo $$; exec sleep 1000' & echo $$; wait";
    let mut child = std::process::Command::new("sh").args(["-c", script]).stdout(Stdio::piped()).spawn()?;
    let lines = BufReader::new(child.stdout.take().ok_or("piped")?).lines();
    lines.take(2).map(|line| Ok(line?.trim().parse()?)).collect()
}

fn exit(code: i32) {
    std::process::exit(code);
}

fn abort() {
    std::process::abort();
}

async fn say(text: String) {
    tracing::info!(answer = 42, "{text}");
}

// ---- programs ----------------------------------------------------------------------------------------------------

/// What this program does when it plays another one.
fn play(args: &[String]) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    match args[0].as_str() {
        "forgot" => runtime.block_on(async {
            // Every way to start a process of this program.
            println!("{}", Gateway::open(&Spec::local()).await.expect_err("refused"));
            println!(
                "{}",
                Gateway::open(&"command:env".parse().expect("a spec")).await.expect_err("refused")
            );
            println!("{:?}", Group::open(["2*local"]).await.expect_err("refused"));
            println!("{:?}", farcall::local::run(square, (1,)).await.expect_err("refused"));
            println!("{:?}", farcall::local::open(square, (1,)).await.expect_err("refused"));
            println!("{:?}", farcall::local::Pool::new(2).call(square, (1,)).await.expect_err("refused"));
            println!("{:?}", farcall_test_support::descendants(std::process::id()));
        }),
        "twice" => {
            farcall::init(tasks().add(square));
            println!("it went on");
        }
        "init-twice" => {
            farcall::init(tasks());
            println!("{}", farcall::try_init(tasks()).expect_err("refused"));
            farcall::init(tasks());
            println!("it went on");
        }
        "logs" => {
            farcall::init(tasks());
            runtime.block_on(async {
                let gateway = Gateway::open(&Spec::local().id("logger")).await.expect("a gateway");
                gateway.call(say, ("from afar".into(),)).await.expect("said");
                gateway.close().await.expect("closed");
            });
        }
        "coordinator" => {
            farcall::init(tasks());
            runtime.block_on(async {
                let gateway = Gateway::open(&args[1].parse().expect("a spec")).await.expect("a gateway");
                let mut pids = gateway.call(family, ()).await.expect("a family");
                pids.push(gateway.pid());
                // Busy: on every thread, and for longer than the test takes.
                let slots = gateway.status().await.expect("a status").slots;
                for _ in 0..slots {
                    gateway.start(spin, (600_000,)).await.expect("a call").detach();
                }
                running(&gateway, slots).await;
                println!("{}", pids.iter().map(ToString::to_string).collect::<Vec<_>>().join(" "));
                std::future::pending::<()>().await;
            });
        }
        other => panic!("{other}"),
    }
}

fn program(args: &[&str]) -> Command {
    let mut command = Command::new(std::env::current_exe().expect("a path"));
    command.arg("--play").args(args).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

// ---- tests -------------------------------------------------------------------------------------------------------

async fn dropping_a_call_drops_the_task(place: Arc<Place>) {
    let gateway = place.open().await;
    let (running, mut runs) = gateway.pair();
    let call = gateway.start(hold, (running,)).await.expect("a call");
    assert_eq!(runs.recv().await.expect("it runs"), Some(gateway.pid()));
    assert_eq!(gateway.status().await.expect("a status").running, 1);
    drop(call);
    assert_eq!(runs.recv().await.expect("the end"), None);
    while gateway.status().await.expect("a status").running > 0 {}
}

async fn a_detached_task_goes_on(place: Arc<Place>) {
    let gateway = place.open().await;
    let (go, their_go) = gateway.pair();
    let (their_answers, mut answers) = gateway.pair();
    gateway.start(answer_later, (their_go, their_answers)).await.expect("a call").detach();
    // What was sent later has arrived later.
    gateway.call(square, (1,)).await.expect("a number");
    go.send(5).await.expect("sent");
    assert_eq!(answers.recv().await.expect("an answer"), Some(6));
    while !gateway.status().await.expect("a status").tasks.is_empty() {}
}

async fn a_blocking_task_can_ask(place: Arc<Place>) {
    let gateway = place.open().await;
    let (running, mut runs) = gateway.pair();
    let (cancelled, mut cancels) = gateway.pair();
    let call = gateway.start(wait_for_cancel, (running, cancelled)).await.expect("a call");
    assert_eq!(runs.recv().await.expect("it runs"), Some(1));
    drop(call);
    assert_eq!(cancels.recv().await.expect("it was told"), Some(2));
}

async fn more_tasks_than_may_run_wait(place: Arc<Place>) {
    let gateway = place.open_as(place.spec().max_tasks(2)).await.expect("a gateway");
    let mut waiting = Vec::new();
    for _ in 0..2 {
        let (running, mut runs) = gateway.pair();
        let call = gateway.start(hold, (running,)).await.expect("a call");
        runs.recv().await.expect("it runs");
        waiting.push((call, runs));
    }
    let third = gateway.start(square, (3,)).await.expect("it waits");
    let given_up = gateway.start(square, (4,)).await.expect("it waits");
    let let_go = gateway.start(square, (5,)).await.expect("it waits");
    let status = gateway.status().await.expect("a status");
    assert_eq!((status.running, status.queued), (2, 3));
    assert_eq!(status.tasks.iter().filter(|task| task.name.ends_with("::square")).count(), 3);
    drop(given_up);
    let_go.detach();
    while gateway.status().await.expect("a status").queued != 2 {}
    drop(waiting.pop());
    assert_eq!(third.await.expect("its turn came"), 9);
    while gateway.status().await.expect("a status").tasks.len() != 1 {}
}

async fn a_busy_worker_answers_and_lives(place: Arc<Place>) {
    let (heartbeat, lease) = (Duration::from_millis(100), Duration::from_millis(800));
    let gateway = place.open_as(place.spec().heartbeat(heartbeat).lease(lease)).await.expect("a gateway");
    let mut calls = Vec::new();
    for _ in 0..gateway.status().await.expect("a status").slots + 1 {
        calls.push(gateway.start(spin, (2400,)).await.expect("a call"));
    }
    let blocked = gateway.start(block, (2400,)).await.expect("a call");
    let info = gateway.info().await.expect("information");
    assert_eq!((info.pid, info.os.as_str()), (gateway.pid(), std::env::consts::OS));
    assert!(gateway.status().await.expect("a status").tasks.len() >= 2);
    gateway.ping().await.expect("an answer");
    for call in calls {
        assert!(call.await.expect("three leases later") > 0);
    }
    blocked.await.expect("three leases later");
}

async fn a_coordinator_that_blocks_loses_nothing(place: Arc<Place>) {
    let (heartbeat, lease) = (Duration::from_millis(100), Duration::from_millis(800));
    let gateway = place.open_as(place.spec().heartbeat(heartbeat).lease(lease)).await.expect("a gateway");
    let (go, their_go) = gateway.pair();
    let (their_answers, mut answers) = gateway.pair();
    let call = gateway.start(answer_later, (their_go, their_answers)).await.expect("a call");
    // Both threads of the test's runtime.
    let other = tokio::task::spawn(async { std::thread::sleep(Duration::from_millis(2400)) });
    std::thread::sleep(Duration::from_millis(2400));
    other.await.expect("it slept");
    go.send(1).await.expect("sent");
    assert_eq!(answers.recv().await.expect("an answer"), Some(2));
    assert_eq!(call.await.expect("a number"), 1);
}

fn pid_of(gateway: &Gateway) -> Pid {
    Pid::from_raw(gateway.pid().cast_signed()).expect("a number")
}

async fn a_stopped_worker_goes_on_when_continued(place: Arc<Place>) {
    let gateway = place.open_as(place.spec().lease(Duration::from_secs(5))).await.expect("a gateway");
    kill_process(pid_of(&gateway), Signal::STOP).expect("stopped");
    let call = gateway.start(square, (8,)).await.expect("a call");
    // Nothing can be waited for: that nothing happens is the point.
    tokio::time::sleep(Duration::from_millis(1500)).await;
    kill_process(pid_of(&gateway), Signal::CONT).expect("continued");
    assert_eq!(call.await.expect("a number"), 64);
}

async fn a_silent_worker_is_lost_within_the_lease(place: Arc<Place>) {
    let spec = place.spec().heartbeat(Duration::from_millis(100)).lease(Duration::from_millis(700));
    let gateway = place.open_as(spec).await.expect("a gateway");
    let pids = gateway.call(family, ()).await.expect("a family");
    let (running, mut runs) = gateway.pair();
    let call = gateway.start(hold, (running,)).await.expect("a call");
    runs.recv().await.expect("it runs");
    kill_process(pid_of(&gateway), Signal::STOP).expect("stopped");
    let silent = Instant::now();
    let error = call.await.expect_err("it is lost");
    assert!(silent.elapsed() < Duration::from_millis(700) + GONE, "{:?}", silent.elapsed());
    let CallError::Ended(end) = &error else { panic!("{error:?}") };
    assert!(end.class().is_some(), "{end:?}");
    // The guardian of the stopped worker does its work.
    for pid in pids.into_iter().chain([gateway.pid()]) {
        until("everything is gone", || !alive(pid)).await;
    }
}

/// The server's processes are stopped, so that bytes are neither passed on nor refused.
async fn a_silent_network_loses_both_sides(place: Arc<Place>) {
    let lease = Duration::from_millis(700);
    let gateway = place.open_as(place.spec().heartbeat(lease / 7).lease(lease)).await.expect("a gateway");
    let mut pids = gateway.call(family, ()).await.expect("a family");
    pids.push(gateway.pid());
    let call = gateway.start(spin, (600_000,)).await.expect("a call");
    running(&gateway, 1).await;
    let server = place.server.as_ref().expect("a server");
    let name = |pid: u32| std::fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
    let stopped: Vec<u32> =
        server.sessions().into_iter().filter(|pid| name(*pid).starts_with("sshd")).collect();
    assert!(!stopped.is_empty());
    for pid in &stopped {
        kill_process(Pid::from_raw(pid.cast_signed()).expect("a number"), Signal::STOP).expect("stopped");
    }
    let begin = Instant::now();
    let error = call.await.expect_err("it is lost");
    let CallError::Ended(end) = &error else { panic!("{error:?}") };
    assert!(end.class().is_some(), "{end:?}");
    for pid in pids {
        until("everything is gone", || !alive(pid)).await;
    }
    assert!(begin.elapsed() < lease + GONE, "{:?}", begin.elapsed());
    for pid in &stopped {
        assert!(alive(*pid), "it was not the end of the server that ended the rest");
    }
}

async fn prints_arrive_and_damage_nothing(place: Arc<Place>) {
    let gateway = place.open().await;
    let mut output = gateway.output();
    gateway.call(print, ("hello".into(),)).await.expect("printed");
    let mut text = String::new();
    while !["hello\n", "hello too\n", "hello from a child\n"].iter().all(|line| text.contains(line)) {
        let printed = output.next().await.expect("more prints");
        text.push_str(std::str::from_utf8(&printed.bytes).expect("text"));
    }
    // Much more than is kept, and nobody reads.
    drop(output);
    gateway.call(print, ("x".repeat(100_000),)).await.expect("printed");
    let mut output = gateway.output();
    assert_eq!(gateway.call(square, (3,)).await.expect("a number"), 9);
    assert!(output.next().await.expect("the end of it").bytes.starts_with(b"x") || output.lost() > 0);
}

async fn ruined_descriptors_damage_nothing(place: Arc<Place>) {
    let gateway = place.open().await;
    assert_eq!(gateway.call(ruin_descriptors, ()).await.expect("a number"), 3);
    for number in 0..100 {
        assert_eq!(gateway.call(square, (number,)).await.expect("a number"), number * number);
    }
    assert_eq!(gateway.command("echo").arg("fine").output().await.expect("output").stdout, b"fine\n");
}

async fn a_killed_worker_leaves_no_call_hanging(place: Arc<Place>) {
    let gateway = place.open().await;
    let pids = gateway.call(family, ()).await.expect("a family");
    let (running, mut runs) = gateway.pair();
    let call = gateway.start(hold, (running,)).await.expect("a call");
    runs.recv().await.expect("it runs");
    let mut child = gateway.command("sleep").arg("1000").spawn().await.expect("a command");
    let (_nothing, mut nothing) = gateway.channel::<u32, u32>();
    kill_process(pid_of(&gateway), Signal::KILL).expect("killed");
    let end = gateway.wait().await;
    let error = call.await.expect_err("ended");
    assert!(matches!(error, CallError::Ended(_)), "{error:?}");
    child.wait().await.expect_err("ended");
    nothing.recv().await.expect_err("ended");
    for error in [
        gateway.call(square, (1,)).await.expect_err("refused"),
        gateway.status().await.expect_err("refused"),
        gateway.start(square, (1,)).await.expect_err("refused"),
    ] {
        assert!(matches!(error, CallError::Ended(_)), "{error:?}");
    }
    gateway.command("true").spawn().await.expect_err("refused");
    if matches!(place.kind, Kind::Local | Kind::Command | Kind::Ssh) {
        assert_eq!((end.class(), end.exit()), (Some(Class::Signal), Some(Exit::Signal(9))), "{end}");
    } else {
        // The ssh program has only exit codes.
        assert!(matches!(end.class(), Some(Class::RemoteExit | Class::Signal)), "{end}");
    }
    for pid in pids.into_iter().chain([child.id()]) {
        until("everything is gone", || !alive(pid)).await;
    }
}

async fn a_worker_killed_at_any_moment_hangs_nothing(place: Arc<Place>) {
    for round in 0..12_u64 {
        let gateway = place.open().await;
        let mut busy = tokio::task::JoinSet::new();
        for user in 0..6_u64 {
            let gateway = gateway.clone();
            busy.spawn(async move {
                loop {
                    let ended = match user {
                        0 => gateway.call(square, (user,)).await.err().map(|error| error.to_string()),
                        1 => {
                            gateway.call(print, ("words".into(),)).await.err().map(|error| error.to_string())
                        }
                        2 => gateway.command("true").output().await.err().map(|error| error.to_string()),
                        3 => gateway.status().await.err().map(|error| error.to_string()),
                        4 => gateway.start(spin, (1,)).await.err().map(|error| error.to_string()),
                        _ => {
                            let (running, mut runs) = gateway.pair();
                            let call = gateway.start(hold, (running,)).await;
                            let received = runs.recv().await;
                            drop(call);
                            received.err().map(|error| error.to_string())
                        }
                    };
                    if ended.is_some() || gateway.end().is_some() {
                        return;
                    }
                }
            });
        }
        // Any moment will do; these differ.
        tokio::time::sleep(Duration::from_micros(700 * round * round)).await;
        kill_process(pid_of(&gateway), Signal::KILL).expect("killed");
        let begin = Instant::now();
        while let Some(user) = busy.join_next().await {
            user.expect("no panic");
        }
        gateway.wait().await;
        assert!(begin.elapsed() < GONE, "round {round}: {:?}", begin.elapsed());
    }
}

async fn kill_ends_a_stopped_worker(place: Arc<Place>) {
    let gateway = place.open().await;
    let mut pids = gateway.call(family, ()).await.expect("a family");
    pids.push(gateway.pid());
    kill_process(pid_of(&gateway), Signal::STOP).expect("stopped");
    gateway.kill();
    let end = gateway.wait().await;
    assert!(end.class().is_some() || end.exit().is_some(), "{end:?}");
    let begin = Instant::now();
    for pid in pids {
        until("everything is gone", || !alive(pid)).await;
    }
    assert!(begin.elapsed() < GONE, "{:?}", begin.elapsed());
}

async fn a_long_status_arrives_whole(place: Arc<Place>) {
    let gateway = place.open_as(place.spec().max_tasks(1)).await.expect("a gateway");
    let (running, mut runs) = gateway.pair();
    let _first = gateway.start(hold, (running,)).await.expect("a call");
    runs.recv().await.expect("it runs");
    let mut calls = Vec::new();
    for _ in 0..3000 {
        calls.push(gateway.start(square, (1,)).await.expect("a call"));
    }
    let status = gateway.status().await.expect("a status");
    assert_eq!((status.running, status.queued, status.tasks.len()), (1, 3000, 256));
    assert!(status.channels >= 3001);
}

async fn a_worker_that_ends_itself_says_how(place: Arc<Place>) {
    let gateway = place.open().await;
    let error = gateway.call(exit, (3,)).await.expect_err("ended");
    let CallError::Ended(end) = &error else { panic!("{error:?}") };
    assert_eq!((end.class(), end.exit()), (Some(Class::RemoteExit), Some(Exit::Code(3))), "{end}");
    assert!(error.to_string().contains("ended with exit code 3"), "{error}");
    let gateway = place.open().await;
    let error = gateway.call(abort, ()).await.expect_err("ended");
    let CallError::Ended(end) = &error else { panic!("{error:?}") };
    assert_eq!((end.class(), end.exit()), (Some(Class::Signal), Some(Exit::Signal(6))), "{end}");
}

async fn running(gateway: &Gateway, count: usize) {
    while gateway.status().await.expect("a status").running < count {}
}

async fn exit_ends_a_busy_worker(place: Arc<Place>) {
    let gateway = place.open().await;
    let pids = gateway.call(family, ()).await.expect("a family");
    let blocked = gateway.start(block, (600_000,)).await.expect("a call");
    running(&gateway, 1).await;
    let mut calls = Vec::new();
    let slots = gateway.status().await.expect("a status").slots;
    for _ in 0..slots {
        calls.push(gateway.start(spin, (600_000,)).await.expect("a call"));
    }
    running(&gateway, slots + 1).await;
    let begin = Instant::now();
    gateway.exit();
    gateway.exit();
    for call in calls {
        assert!(matches!(call.await, Err(CallError::Ended(_))));
    }
    assert!(matches!(blocked.await, Err(CallError::Ended(_))));
    let end = gateway.wait().await;
    assert_eq!(end.class(), None, "{end}");
    assert!(begin.elapsed() < GONE, "{:?}", begin.elapsed());
    for pid in pids.into_iter().chain([gateway.pid()]) {
        until("everything is gone", || !alive(pid)).await;
    }
    assert!(begin.elapsed() < GONE, "{:?}", begin.elapsed());
}

async fn dropping_the_last_handle_ends_the_worker(place: Arc<Place>) {
    let gateway = place.open().await;
    let pid = gateway.pid();
    let clone = gateway.clone();
    drop(gateway);
    assert_eq!(clone.call(square, (2,)).await.expect("it lives"), 4);
    let call = clone.start(block, (300,)).await.expect("a call");
    drop(clone);
    call.await.expect("a call keeps it alive");
    until("the worker is gone", || !alive(pid)).await;
}

async fn close_waits_for_tasks_and_prints(place: Arc<Place>) {
    let gateway = place.open().await;
    let mut output = gateway.output();
    let (go, their_go) = gateway.pair();
    let (their_answers, mut answers) = gateway.pair();
    gateway.start(answer_later, (their_go, their_answers)).await.expect("a call").detach();
    let printing = gateway.start(print, ("last words".into(),)).await.expect("a call");
    let closing = tokio::spawn({
        let gateway = gateway.clone();
        async move { gateway.close().await }
    });
    printing.await.expect("printed");
    assert!(!closing.is_finished());
    go.send(1).await.expect("sent");
    assert_eq!(answers.recv().await.expect("an answer"), Some(2));
    closing.await.expect("no panic").expect("closed");
    let mut text = Vec::new();
    while let Some(printed) = output.next().await {
        text.extend_from_slice(&printed.bytes);
    }
    let text = String::from_utf8(text).expect("text");
    assert!(text.contains("last words from a child\n") && text.contains("last words too\n"), "{text}");
}

/// A coordinator that is another process, and what it says.
struct Coordinator {
    child: Child,
    lines: std::io::Lines<BufReader<ChildStdout>>,
}

impl Drop for Coordinator {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

async fn a_killed_coordinator_leaves_nothing(place: Arc<Place>) {
    let mut child =
        program(&["coordinator", &place.text()]).stderr(Stdio::inherit()).spawn().expect("a coordinator");
    let lines = BufReader::new(child.stdout.take().expect("it is piped")).lines();
    let mut coordinator = Coordinator { child, lines };
    let pids = tokio::task::block_in_place(|| coordinator.lines.next()).expect("a line").expect("a line");
    let pids: Vec<u32> = pids.split(' ').map(|pid| pid.parse().expect("a number")).collect();
    assert_eq!(pids.len(), 3);
    assert!(pids.iter().all(|pid| alive(*pid)));
    let begin = Instant::now();
    coordinator.child.kill().expect("killed");
    for pid in pids {
        until("everything is gone", || !alive(pid)).await;
    }
    assert!(begin.elapsed() < GONE, "{:?}", begin.elapsed());
}

async fn settings_hold_in_the_worker(place: Arc<Place>) {
    let folder = tempfile::tempdir().expect("a folder");
    let inside = folder.path().join("a b/c");
    let spec = place.spec().chdir(&inside).nice(3).env("FARCALL_TEST_VALUE", "it's\n\"odd\" $HOME \\");
    let gateway = place.open_as(spec).await.expect("a gateway");
    assert_eq!(gateway.info().await.expect("information").cwd.as_deref(), Some(inside.as_path()));
    let output =
        gateway.command("sh").arg("-c").arg("nice; printf %s \"$FARCALL_TEST_VALUE\"").output().await;
    let expected = "3\nit's\n\"odd\" $HOME \\";
    assert_eq!(String::from_utf8(output.expect("output").stdout).expect("text"), expected);
}

async fn a_worker_is_recognisable(place: Arc<Place>) {
    let id = format!("seen-{:?}", place.kind);
    let gateway = place.open_as(place.spec().id(&id)).await.expect("a gateway");
    let line = std::fs::read(format!("/proc/{}/cmdline", gateway.pid())).expect("it lives");
    let words: Vec<_> =
        line.split(|byte| *byte == 0).map(|word| String::from_utf8_lossy(word).into_owned()).collect();
    let ours = format!(":{}", std::process::id());
    match place.kind {
        Kind::Local => assert!(
            words[0].starts_with(&format!("farcall-worker {id} of ")) && words[0].ends_with(&ours),
            "{words:?}"
        ),
        _ => assert!(words[0].contains("farcall"), "{words:?}"),
    }
    assert_eq!((words[1].as_str(), words[2].as_str()), ("--farcall-worker", &*format!("id={id}")));
    assert!(words[3].starts_with("from=") && words[3].ends_with(&ours), "{words:?}");
}

async fn ids_are_given_once() {
    let place = Place::new(Kind::Local);
    let one = place.open_as(Spec::local().id("web")).await.expect("a gateway");
    let error = place.open_as("command:/does/not/exist?id=web".parse().expect("a spec")).await;
    assert!(matches!(&error, Err(OpenError::DuplicateId { id }) if id == "web"), "{error:?}");
    let automatic = place.open().await;
    assert!(automatic.id().starts_with("gw"), "{}", automatic.id());
    let next = place.open().await;
    assert_ne!(automatic.id(), next.id());
    drop(one);
    let again = place.open_as(Spec::local().id("web")).await.expect("the id is free again");
    assert_eq!(again.id(), "web");
}

async fn another_program_is_refused_with_what_differs() {
    let place = Place::new(Kind::Local);
    let error = place.open_as(Spec::local().env(VARIANT, "other")).await.expect_err("refused");
    let OpenError::Mismatch { mismatch, .. } = &error else { panic!("{error:?}") };
    assert_eq!(mismatch.program, Some((String::new(), "9".to_owned())));
    assert!(mismatch.missing.iter().any(|name| name.ends_with("::hold")), "{mismatch:?}");
    assert_eq!(mismatch.unknown, ["lives::other"]);
    assert!(mismatch.changed.is_empty());
    assert!(error.to_string().contains("lives::other"), "{error}");
}

async fn init_works_inside_a_runtime() {
    let place = Place::new(Kind::Local);
    for variant in ["runtime", "thread"] {
        let gateway = place.open_as(Spec::local().env(VARIANT, variant)).await.expect("a gateway");
        assert_eq!(gateway.call(square, (5,)).await.expect("a number"), 25);
        let pids = gateway.call(family, ()).await.expect("a family");
        kill_process(pid_of(&gateway), Signal::KILL).expect("killed");
        let end = gateway.wait().await;
        assert_eq!(end.exit(), Some(Exit::Signal(9)), "{variant}: {end}");
        for pid in pids {
            until("everything is gone", || !alive(pid)).await;
        }
        let gateway = place.open_as(Spec::local().env(VARIANT, variant)).await.expect("a gateway");
        let pids = gateway.call(family, ()).await.expect("a family");
        gateway.kill();
        gateway.wait().await;
        for pid in pids.into_iter().chain([gateway.pid()]) {
            until("everything is gone", || !alive(pid)).await;
        }
        let gateway = place.open_as(Spec::local().env(VARIANT, variant)).await.expect("a gateway");
        gateway.exit();
        let end = gateway.wait().await;
        assert_eq!(end.exit(), Some(Exit::Code(0)), "{variant}: {end}");
    }
}

async fn a_program_that_forgot_init_is_told_so() {
    let output = tokio::task::block_in_place(|| program(&["forgot"]).output().expect("it ran"));
    let text = String::from_utf8(output.stdout).expect("text");
    let lines: Vec<&str> = text.lines().collect();
    let (none, refused) = lines.split_last().expect("lines");
    assert_eq!((*none, refused.len()), ("[]", 6), "{text}");
    for line in refused {
        assert!(
            line.contains("farcall::init must be called first thing in main") || line.contains("BeforeInit"),
            "{line}"
        );
    }
}

async fn a_task_added_twice_is_told_by_init() {
    let output = tokio::task::block_in_place(|| program(&["twice"]).output().expect("it ran"));
    assert_eq!(output.status.code(), Some(70));
    assert!(output.stdout.is_empty());
    let text = String::from_utf8(output.stderr).expect("text");
    assert_eq!(text, "task lives::square was added twice\n");
}

async fn init_is_called_once() {
    let output = tokio::task::block_in_place(|| program(&["init-twice"]).output().expect("it ran"));
    assert_eq!(output.status.code(), Some(70));
    assert_eq!(String::from_utf8(output.stdout).expect("text"), "farcall::init was called twice\n");
}

async fn events_of_both_sides_are_logged() {
    let run = |filter: &str| {
        let output = tokio::task::block_in_place(|| program(&["logs"]).env("FARCALL_LOG", filter).output());
        String::from_utf8(output.expect("it ran").stderr).expect("text")
    };
    let text = run("info,farcall=debug");
    let far = text.lines().find(|line| line.contains("from afar")).unwrap_or_else(|| panic!("{text}"));
    assert!(
        far.contains("gateway=logger") && far.contains("from=lives") && far.contains("answer=42"),
        "{far}"
    );
    assert!(text.lines().any(|line| line.contains("launch") && line.contains("gateway=logger")), "{text}");
    let text = run("error");
    assert_eq!(text, "");
    let text = run("farcall=loud");
    assert!(text.contains("FARCALL_LOG=\"farcall=loud\" is no filter"), "{text}");
}
