//! Any process of a gateway may be killed, or stopped for a while, at any moment: nothing hangs, and nothing is left.

mod gateways;

use std::io::{BufRead, BufReader, Write};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use farcall::{BoxError, Gateway, ItemError, Receiver, Sender, Spec, Tasks, map};
use farcall_test_support::descendants;
use gateways::{EVERYWHERE, Kind, Place, Random, alive, at, plain, serves_all, until};
use rustix::process::{Pid, Signal, kill_process};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::task::JoinSet;

/// The program's first argument when it is a coordinator of its own.
const PLAY: &str = "--play";

/// The stated bound on the end of everything: the grace of 2 s, and 1 s for killing. The rest is for a machine that is busy with
/// other tests.
const GONE: Duration = Duration::from_secs(3 + 7);

fn main() {
    let tasks = || Tasks::new().add(square).add(hold).add(echo).add(print).add(breed);
    let args: Vec<String> = std::env::args().skip(1).collect();
    if let [PLAY, part, rest @ ..] = args.iter().map(String::as_str).collect::<Vec<_>>().as_slice() {
        farcall::init(tasks());
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
        return runtime.expect("a runtime").block_on(async {
            match *part {
                "stopped" => be_stopped(rest[0]).await,
                "fork-server" => lose_the_fork_server().await,
                other => panic!("{other}"),
            }
        });
    }
    gateways::main(
        tasks(),
        [
            at(&EVERYWHERE, "any_process_killed_at_any_moment_hangs_nothing", any_process_killed),
            at(&EVERYWHERE, "a_process_killed_while_it_starts_hangs_no_start", killed_while_it_starts),
            at(&EVERYWHERE, "a_coordinator_stopped_within_the_lease_loses_nothing", a_stopped_coordinator),
            plain("a_killed_fork_server_hangs_nothing_and_is_replaced", a_killed_fork_server),
            plain("the_end_of_a_killed_guardian_is_told_when_all_below_it_is_gone", a_killed_guardian),
        ],
    );
}

// ---- tasks -------------------------------------------------------------------------------------------------------

async fn square(n: u64) -> u64 {
    n * n
}

/// Says that it runs, and never ends.
async fn hold(running: Sender<u32>) -> Result<(), BoxError> {
    running.send(std::process::id()).await?;
    std::future::pending().await
}

async fn echo(mut from: Receiver<u64>, to: Sender<u64>) -> Result<(), BoxError> {
    while let Some(number) = from.recv().await? {
        to.send(number).await?;
    }
    Ok(())
}

fn print(text: String) {
    println!("{text}");
}

/// Starts processes that have sessions of their own and hold nothing of this one's, tells their numbers, and never ends.
async fn breed(count: u32, running: Sender<Vec<u32>>) -> Result<(), BoxError> {
    let script = format!("for n in $(seq {count}); do setsid sleep 1000 & echo $!; done; exec >&-; wait");
    let mut shell = Command::new("sh");
    shell.args(["-c", &script]).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null());
    let output = shell.spawn()?.stdout.take().ok_or("piped")?;
    let lines = BufReader::new(output).lines().take(count as usize);
    running.send(lines.map(|line| Ok(line?.trim().parse()?)).collect::<Result<_, BoxError>>()?).await?;
    std::future::pending().await
}

// ---- what the tests share ----------------------------------------------------------------------------------------

fn kill(pid: u32, signal: Signal) {
    // It may have ended.
    let _ = kill_process(Pid::from_raw(pid.cast_signed()).expect("a number"), signal);
}

fn parent(pid: u32) -> Option<u32> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    stat.rsplit_once(')')?.1.split_whitespace().nth(1)?.parse().ok()
}

/// Uses the gateway in one of the ways that there are, until that fails.
async fn in_use(gateway: Gateway, way: u64) {
    loop {
        let failed = match way {
            0 => gateway.call(square, (way,)).await.is_err(),
            1 => gateway.call(print, ("words".into(),)).await.is_err(),
            2 => gateway.status().await.is_err() || gateway.info().await.is_err(),
            3 => gateway.command("true").output().await.is_err(),
            4 => talk_to_a_command(&gateway).await.is_err(),
            5 => {
                let (running, mut runs) = gateway.pair();
                let Ok(call) = gateway.start(hold, (running,)).await else { return };
                let received = runs.recv().await;
                drop(call);
                received.is_err()
            }
            6 => stream(&gateway).await.is_err(),
            7 => gateway.isolated().call(square, (way,)).await.is_err(),
            8 => match Gateway::builder(Spec::local()).via(&gateway).open().await {
                Ok(leaf) => leaf.call(square, (way,)).await.is_err(),
                Err(_) => true,
            },
            9 => {
                let mut results =
                    map(square, 0..u64::MAX).on([&gateway]).replace_lost(0).start().expect("a map");
                loop {
                    match results.next().await {
                        Some((_, Err(ItemError::Lost(_)))) | None => break true,
                        Some(_) => {}
                    }
                }
            }
            // Whoever only waits is told too.
            10 => gateway.output().next().await.is_none(),
            _ => gateway.wait().await.class().is_some(),
        };
        if failed || gateway.end().is_some() {
            return;
        }
    }
}

/// Those of [`in_use`].
const WAYS: u64 = 12;

async fn talk_to_a_command(gateway: &Gateway) -> Result<(), BoxError> {
    let command = gateway.command("cat").stdin(farcall::Stdio::Piped).stdout(farcall::Stdio::Piped);
    let mut child = command.spawn().await?;
    let mut stdin = child.stdin.take().ok_or("piped")?;
    let mut stdout = child.stdout.take().ok_or("piped")?;
    let mut read = [0; 5];
    for _ in 0..20 {
        stdin.write_all(b"words").await?;
        stdout.read_exact(&mut read).await?;
    }
    drop(stdin);
    child.wait().await?;
    Ok(())
}

async fn stream(gateway: &Gateway) -> Result<(), BoxError> {
    let (numbers, theirs) = gateway.pair();
    let (back, mut answers) = gateway.pair();
    let call = gateway.start(echo, (theirs, back)).await?;
    let sending = async {
        for number in 0..500 {
            numbers.send(number).await?;
        }
        numbers.close();
        Ok::<(), BoxError>(())
    };
    let receiving = async {
        let mut next = 0;
        while let Some(number) = answers.recv().await? {
            assert_eq!(number, next);
            next += 1;
        }
        Ok::<(), BoxError>(())
    };
    let (sent, received) = tokio::join!(sending, receiving);
    sent?;
    received?;
    Ok(call.await?)
}

/// Uses a gateway in all ways, kills a process of it at some moment, and sees that everything ends.
async fn use_and_kill(gateway: Gateway, victims: &[u32], micros: u64) {
    let mut busy = JoinSet::new();
    for way in 0..WAYS {
        busy.spawn(in_use(gateway.clone(), way));
    }
    tokio::time::sleep(Duration::from_micros(micros)).await;
    let family: Vec<u32> = descendants(gateway.pid());
    for victim in victims {
        kill(*victim, Signal::KILL);
    }
    let begin = Instant::now();
    while let Some(user) = busy.join_next().await {
        user.expect("no panic");
    }
    let end = gateway.wait().await;
    assert!(end.class().is_some(), "{end}");
    assert!(begin.elapsed() < GONE, "{victims:?} killed after {micros} µs: {:?}", begin.elapsed());
    for pid in family.into_iter().chain([gateway.pid()]) {
        until("everything is gone", || !alive(pid)).await;
    }
    assert!(begin.elapsed() < GONE, "{victims:?} killed after {micros} µs: {:?}", begin.elapsed());
}

// ---- tests -------------------------------------------------------------------------------------------------------

async fn any_process_killed(place: Arc<Place>) {
    let mut random = Random(0x5eed_0004);
    for round in 0..9_u64 {
        let gateway = place.open().await;
        let worker = gateway.pid();
        let guardian = parent(worker).expect("a guardian");
        let victims = match round % 3 {
            0 => vec![worker],
            1 => vec![guardian],
            // One that is shared is another test's.
            _ if place.kind == Kind::Local => vec![worker, guardian],
            _ => vec![parent(guardian).expect("another guardian")],
        };
        use_and_kill(gateway, &victims, random.below(60_000)).await;
    }
}

/// The processes that have the word among their arguments.
fn named(word: &str) -> Vec<u32> {
    let all = std::fs::read_dir("/proc").expect("a mounted /proc").flatten();
    let pids = all.filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
    pids.filter(|pid| {
        let line = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        line.windows(word.len()).any(|part| part == word.as_bytes())
    })
    .collect()
}

/// The shell that starts it, the client that leads there, its guardians, the worker.
async fn killed_while_it_starts(place: Arc<Place>) {
    let mut random = Random(0x5eed_0005);
    // The first has it delivered; the second shows how long a start takes.
    place.open().await.exit();
    let begin = Instant::now();
    place.open().await.exit();
    let start = begin.elapsed().as_micros() as u64;
    let mut failed = 0;
    for round in 0..12 {
        // Of letters that no shell minds.
        let id = format!("start{}x{round}x{:?}", std::process::id(), place.kind);
        let opening = {
            let (place, id) = (Arc::clone(&place), id.clone());
            tokio::spawn(async move { place.open_as(place.spec().id(id)).await })
        };
        let begin = Instant::now();
        let mut found = named(&id);
        while found.is_empty() && !opening.is_finished() {
            tokio::task::yield_now().await;
            found = named(&id);
        }
        tokio::time::sleep(Duration::from_micros(random.below(start))).await;
        let found = named(&id);
        if !found.is_empty() {
            kill(found[random.below(found.len() as u64) as usize], Signal::KILL);
        }
        match opening.await.expect("no panic") {
            Err(_) => failed += 1,
            Ok(gateway) => {
                // It had started before, and has ended or will.
                let called = tokio::time::timeout(GONE, gateway.call(square, (2,))).await;
                drop(called.expect("a call does not hang"));
                gateway.exit();
            }
        }
        assert!(begin.elapsed() < GONE, "{:?}", begin.elapsed());
        until("everything is gone", || named(&id).iter().all(|pid| !alive(*pid))).await;
    }
    println!("{failed} starts of 12 failed");
    assert_eq!(place.open().await.call(square, (2,)).await.expect("the next one starts"), 4);
}

/// A coordinator that is another process, and what it says.
struct Coordinator {
    child: Child,
    stdin: ChildStdin,
    lines: std::io::Lines<BufReader<ChildStdout>>,
}

impl Coordinator {
    fn start(args: &[&str]) -> Coordinator {
        let mut command = Command::new(std::env::current_exe().expect("a path"));
        command.arg(PLAY).args(args).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = command.spawn().expect("started");
        let stdin = child.stdin.take().expect("it is piped");
        let lines = BufReader::new(child.stdout.take().expect("it is piped")).lines();
        Coordinator { child, stdin, lines }
    }

    fn line(&mut self) -> String {
        tokio::task::block_in_place(|| self.lines.next()).expect("a line").expect("text")
    }
}

impl Drop for Coordinator {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Opens a gateway, begins something, goes on with it when told to, and says whether all went well.
async fn be_stopped(spec: &str) {
    let gateway = Gateway::open(&spec.parse().expect("a spec")).await.expect("a gateway");
    let (numbers, theirs) = gateway.pair();
    let (back, mut answers) = gateway.pair();
    let call = gateway.start(echo, (theirs, back)).await.expect("a call");
    let go = tokio::task::spawn_blocking(|| std::io::stdin().lines().next().expect("a line"));
    // Something is on its way when it is stopped.
    let mut sent = 0_u64;
    while !go.is_finished() {
        sent += 1;
        numbers.send(sent).await.expect("sent");
        assert_eq!(answers.recv().await.expect("an answer"), Some(sent));
        if sent == 100 {
            println!("busy");
        }
    }
    numbers.close();
    call.await.expect("it ended well");
    assert_eq!(gateway.call(square, (5,)).await.expect("a number"), 25);
    gateway.close().await.expect("closed");
    println!("well");
}

async fn a_stopped_coordinator(place: Arc<Place>) {
    let text = place.text();
    let separator = if text.contains('?') { '&' } else { '?' };
    let spec = format!("{text}{separator}lease=5");
    let mut coordinator = Coordinator::start(&["stopped", &spec]);
    assert_eq!(coordinator.line(), "busy");
    kill(coordinator.child.id(), Signal::STOP);
    // Nothing can be waited for: that nothing happens is the point.
    tokio::time::sleep(Duration::from_millis(2500)).await;
    kill(coordinator.child.id(), Signal::CONT);
    writeln!(coordinator.stdin, "go on").expect("it reads");
    assert_eq!(coordinator.line(), "well");
}

/// What forked the gateway's worker, if it was not started on its own, as the first ones are.
fn fork_server(gateway: &Gateway) -> Option<u32> {
    parent(gateway.pid()).and_then(parent).filter(|pid| serves_all(*pid))
}

/// A gateway whose worker was forked.
async fn forked() -> (Gateway, u32) {
    for _ in 0..500 {
        let gateway = Gateway::open(&Spec::local()).await.expect("a gateway");
        if let Some(server) = fork_server(&gateway) {
            return (gateway, server);
        }
        gateway.close().await.expect("closed");
    }
    panic!("what was killed is not replaced");
}

/// Kills what forks this process's workers, again and again.
async fn lose_the_fork_server() {
    let mut random = Random(0x5eed_0006);
    let mut servers = Vec::new();
    for _ in 0..6 {
        let (one, server) = forked().await;
        let (other, same) = forked().await;
        assert_eq!(server, same);
        assert!(!servers.contains(&server));
        servers.push(server);
        let (spec, victims, micros) = (Spec::local(), [server], random.below(40_000));
        tokio::join!(use_and_kill(one, &victims, micros), use_and_kill(other, &[], micros), async {
            tokio::time::sleep(Duration::from_micros(micros)).await;
            // Asked for at that very moment, it starts in one way or the other, or is told to have ended.
            match tokio::time::timeout(GONE, Gateway::open(&spec)).await.expect("a start does not hang") {
                Ok(gateway) => {
                    drop(tokio::time::timeout(GONE, gateway.call(square, (2,))).await.expect("no call hangs"))
                }
                Err(error) => println!("{error}"),
            }
        });
    }
    until("nothing is left", || descendants(std::process::id()).into_iter().all(serves_all)).await;
    println!("fine");
}

async fn a_killed_fork_server() {
    let mut coordinator = Coordinator::start(&["fork-server"]);
    let mut line = coordinator.line();
    while line != "fine" {
        println!("{line}");
        line = coordinator.line();
    }
}

async fn a_killed_guardian() {
    for _ in 0..10 {
        let (gateway, _) = forked().await;
        let (running, mut runs) = gateway.pair();
        let call = gateway.start(breed, (40, running)).await.expect("a call");
        let pids = runs.recv().await.expect("it runs").expect("numbers");
        assert!(pids.len() == 40 && pids.iter().all(|pid| alive(*pid)));
        kill(parent(gateway.pid()).expect("a guardian"), Signal::KILL);
        gateway.wait().await;
        let left: Vec<&u32> = pids.iter().filter(|pid| alive(**pid)).collect();
        assert!(left.is_empty(), "{left:?}");
        assert!(call.await.is_err());
    }
}
