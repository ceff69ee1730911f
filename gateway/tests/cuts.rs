//! The network between coordinator and worker is cut, and nobody is told: both ends end within their bounds, or go on if it heals.
//!
//! The coordinator is this program, in a network namespace of its own; the hosts are servers in others, joined to it by wires.

mod gateways;

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use farcall::channel::ConnectionError;
use farcall::{
    BoxError, CallError, Class, Command, CommandError, Gateway, GatewayEnd, Receiver, Sender, Spec, Stdio,
    Tasks, map,
};
use farcall_test_support::{Cut, Network, Sshd};
use gateways::{Kind, Place, over_ssh, until};
use libtest_mimic::Arguments;
use tokio::io::{AsyncBufReadExt, AsyncWriteExt};

const HEARTBEAT: Duration = Duration::from_millis(200);
const LEASE: Duration = Duration::from_millis(1500);
const GRACE: Duration = Duration::from_millis(500);

/// The stated bound on killing, once the grace is over.
const KILLING: Duration = Duration::from_secs(1);

/// What a machine that is busy with other tests may add to any bound.
const BUSY: Duration = Duration::from_secs(4);

fn main() {
    let tasks = Tasks::new().add(square).add(hold).add(spin).add(family).add(echo).add(beat);
    farcall::init(tasks);
    // Whoever may not do that can at least see what tests there are.
    if !std::env::args().any(|arg| arg == "--list") {
        Network::enter_own();
    }
    let trials = [
        over_ssh("an_idle_gateway_ends_on_both_sides", an_idle_gateway_ends_on_both_sides),
        over_ssh("a_task_that_spins_ends_on_both_sides", a_task_that_spins_ends_on_both_sides),
        over_ssh("a_command_ends_on_both_sides", a_command_ends_on_both_sides),
        over_ssh("a_call_that_waits_is_told", a_call_that_waits_is_told),
        over_ssh("a_full_stream_ends_on_both_sides", a_full_stream_ends_on_both_sides),
        over_ssh("a_hub_and_its_leaf_end_on_both_sides", a_hub_and_its_leaf_end_on_both_sides),
        over_ssh("a_cut_of_one_direction_ends_both_sides", a_cut_of_one_direction_ends_both_sides),
        over_ssh("a_cut_that_heals_loses_nothing", a_cut_that_heals_loses_nothing),
        over_ssh("items_of_a_map_move_on_and_none_runs_twice_at_once", items_move_on),
    ];
    libtest_mimic::run(&Arguments::from_args(), trials.into_iter().flatten().collect()).exit();
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

fn spin() {
    loop {
        std::hint::spin_loop();
    }
}

/// What no signal but one ends, in the shell's words: a child that ignores them, and one that was forked twice into a session
/// of its own. Each says so.
const FAMILY: &str = "trap '' HUP INT TERM; (setsid sh -c 'echo daemon; exec sleep 1000' &); sh -c 'echo child; sleep 1000'; sleep 1000";

/// How many processes that makes, at least.
const MEMBERS: usize = 4;

async fn family() -> Result<Vec<String>, BoxError> {
    let mut child =
        std::process::Command::new("sh").args(["-c", FAMILY]).stdout(std::process::Stdio::piped()).spawn()?;
    let lines = BufReader::new(child.stdout.take().ok_or("piped")?).lines();
    Ok(lines.take(2).collect::<Result<_, _>>()?)
}

async fn echo(mut from: Receiver<u64>, to: Sender<u64>) -> Result<u64, BoxError> {
    let mut count = 0;
    while let Some(number) = from.recv().await? {
        to.send(number).await?;
        count += 1;
    }
    Ok(count)
}

/// Says all the time that it runs, and where: for ever in a process that is marked, and shortly elsewhere.
fn beat(folder: PathBuf, item: u64) -> Result<u64, std::io::Error> {
    let file = folder.join(format!("{item}"));
    let mut file = std::fs::OpenOptions::new().append(true).create(true).open(file)?;
    let began = Instant::now();
    let marked = std::env::var_os(MARK).is_some();
    while marked || began.elapsed() < Duration::from_millis(60) {
        // Short enough to be written at once.
        let line = format!("{} {}\n", std::process::id(), since_1970().as_micros());
        file.write_all(line.as_bytes())?;
        std::thread::sleep(Duration::from_millis(2));
    }
    Ok(item)
}

/// The variable that marks a worker.
const MARK: &str = "FARCALL_TEST_MARK";

fn since_1970() -> Duration {
    SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default()
}

// ---- what the tests share ----------------------------------------------------------------------------------------

/// A host behind a wire.
struct Host {
    place: Place,
    network: Arc<Network>,
}

impl Host {
    fn new(kind: Kind) -> Host {
        let network = Arc::new(Network::start());
        Host { place: Place::behind(kind, Sshd::builder().network(&network)), network }
    }

    fn spec(&self) -> Spec {
        self.place.spec().heartbeat(HEARTBEAT).lease(LEASE).grace(GRACE)
    }

    async fn open(&self) -> Gateway {
        self.place.open_as(self.spec()).await.expect("a gateway")
    }

    /// Cuts the wire. From here on, both sides are watched.
    fn cut(&self, how: Cut) -> Watch {
        let (server, started) = split(&self.network);
        assert!(server.len() > 1, "a session is there: {server:?}");
        let began = Instant::now();
        self.network.cut(how);
        let network = Arc::clone(&self.network);
        // Ends by itself, soon after the bound.
        let gone = tokio::task::spawn_blocking(move || {
            while !split(&network).1.is_empty() {
                let rest: Vec<String> = split(&network).1.into_iter().map(words).collect();
                assert!(began.elapsed() < LEASE + GRACE + KILLING + BUSY, "still there: {rest:?}");
                std::thread::sleep(Duration::from_millis(5));
            }
            began.elapsed()
        });
        Watch { began, server, started: started.len(), gone, network: Arc::clone(&self.network) }
    }
}

/// The server's own processes in a network, and all others.
fn split(network: &Network) -> (Vec<u32>, Vec<u32>) {
    let is_server = |pid: &u32| {
        std::fs::read_to_string(format!("/proc/{pid}/comm")).is_ok_and(|name| name.starts_with("sshd"))
    };
    network.processes().into_iter().partition(is_server)
}

fn words(pid: u32) -> String {
    let line = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    format!("{pid} {}", String::from_utf8_lossy(&line).replace('\0', " "))
}

/// What a cut does on both sides.
struct Watch {
    began: Instant,
    server: Vec<u32>,
    started: usize,
    gone: tokio::task::JoinHandle<Duration>,
    network: Arc<Network>,
}

impl Watch {
    /// The end, as this side sees it, came in time and for no other reason than that nothing was heard.
    fn lost(&self, end: &GatewayEnd) {
        let taken = self.began.elapsed();
        assert_eq!(end.class(), Some(Class::Lost), "{end}");
        assert!(matches!(end.cause(), ConnectionError::Silent { .. }), "{end:?}");
        assert!(taken > LEASE / 2, "lost after {taken:?}: somebody told");
        assert!(taken < LEASE + BUSY, "lost after {taken:?}");
        println!("lost after {taken:?}");
    }

    /// All is gone there, of which there were so many processes and more, in time and without any help by the server.
    async fn gone(self, least: usize) {
        assert!(self.started >= least, "{} processes are fewer than {least}", self.started);
        let taken = self.gone.await.expect("all is gone in time");
        assert!(taken > LEASE / 2, "gone after {taken:?}: somebody told");
        println!("{} processes gone after {taken:?}", self.started);
        let now = self.network.processes();
        assert!(self.server.iter().all(|pid| now.contains(pid)), "{:?} were {:?}", now, self.server);
    }
}

/// On this side, the client that led there is gone too.
async fn nothing_here(host: &Host) {
    until("the client is gone", || host.place.clients().is_empty()).await;
}

/// The worker, and at least one guardian.
const WORKER: usize = 2;

fn ended(error: &CallError) -> &GatewayEnd {
    let CallError::Ended(end) = error else { panic!("{error:?}") };
    end
}

async fn with_family(host: &Host) -> Gateway {
    let gateway = host.open().await;
    let mut members = gateway.call(family, ()).await.expect("a family");
    members.sort_unstable();
    assert_eq!(members, ["child", "daemon"]);
    assert_eq!(host.place.clients().len(), usize::from(host.place.kind == Kind::OpenSsh));
    gateway
}

// ---- tests -------------------------------------------------------------------------------------------------------

async fn an_idle_gateway_ends_on_both_sides(kind: Kind) {
    for how in [Cut::Silent, Cut::Unplugged] {
        let host = Host::new(kind);
        let gateway = with_family(&host).await;
        let watch = host.cut(how);
        let end = gateway.wait().await;
        watch.lost(&end);
        let error = gateway.call(square, (1,)).await.expect_err("refused");
        assert_eq!(ended(&error).class(), Some(Class::Lost));
        watch.gone(WORKER + MEMBERS).await;
        nothing_here(&host).await;
    }
}

async fn a_task_that_spins_ends_on_both_sides(kind: Kind) {
    let host = Host::new(kind);
    let gateway = with_family(&host).await;
    let slots = gateway.status().await.expect("a status").slots;
    let mut calls = Vec::new();
    for _ in 0..slots {
        calls.push(gateway.start(spin, ()).await.expect("a call"));
    }
    while gateway.status().await.expect("a status").running < slots {}
    let watch = host.cut(Cut::Silent);
    for call in calls {
        watch.lost(ended(&call.await.expect_err("lost")));
    }
    watch.gone(WORKER + MEMBERS).await;
}

async fn a_command_ends_on_both_sides(kind: Kind) {
    let host = Host::new(kind);
    let gateway = host.open().await;
    let command: Command = gateway.command("sh").args(["-c", FAMILY]);
    let mut child = command.stdout(Stdio::Piped).spawn().await.expect("a command");
    let mut lines = tokio::io::BufReader::new(child.stdout.take().expect("it is piped")).lines();
    for _ in 0..2 {
        lines.next_line().await.expect("a line").expect("a line");
    }
    let watch = host.cut(Cut::Silent);
    let error = child.wait().await.expect_err("lost");
    let CommandError::Ended(end) = &error else { panic!("{error:?}") };
    watch.lost(end);
    lines.next_line().await.expect_err("no end was told");
    watch.gone(WORKER + MEMBERS).await;
}

async fn a_call_that_waits_is_told(kind: Kind) {
    let host = Host::new(kind);
    let gateway = host.open().await;
    let (running, mut runs) = gateway.pair();
    let call = gateway.start(hold, (running,)).await.expect("a call");
    runs.recv().await.expect("it runs").expect("it runs");
    let waiting = tokio::spawn(async move { runs.recv().await });
    let (_open, mut open) = gateway.channel::<u32, u32>();
    let watch = host.cut(Cut::Silent);
    // What is asked for while nobody knows is told, too.
    let (info, later) = tokio::join!(gateway.info(), gateway.call(square, (1,)));
    watch.lost(ended(&info.expect_err("lost")));
    watch.lost(ended(&later.expect_err("lost")));
    watch.lost(ended(&call.await.expect_err("lost")));
    waiting.await.expect("no panic").expect_err("lost");
    open.recv().await.expect_err("lost");
    watch.gone(WORKER).await;
}

async fn a_full_stream_ends_on_both_sides(kind: Kind) {
    let host = Host::new(kind);
    let gateway = host.open().await;
    let (numbers, theirs) = gateway.pair();
    let (back, mut answers) = gateway.pair();
    let call = gateway.start(echo, (theirs, back)).await.expect("a call");
    let sending = tokio::spawn(async move {
        let mut number = 0_u64;
        loop {
            if let Err(error) = numbers.send(number).await {
                return error;
            }
            number += 1;
        }
    });
    let receiving = tokio::spawn({
        let gateway = gateway.clone();
        async move {
            let mut number = 0;
            let end = loop {
                match answers.recv().await {
                    Ok(Some(answer)) => {
                        assert_eq!(answer, number);
                        number += 1;
                    }
                    Ok(None) => panic!("the end was told"),
                    Err(error) => break error,
                }
            };
            drop(gateway);
            (number, end)
        }
    });
    let before = gateway.counters();
    until("much has passed", || gateway.counters().messages_received > before.messages_received + 10_000)
        .await;
    let watch = host.cut(Cut::Silent);
    watch.lost(ended(&call.await.expect_err("lost")));
    drop(sending.await.expect("no panic"));
    let (received, _lost) = receiving.await.expect("no panic");
    assert!(received >= 10_000);
    watch.gone(WORKER).await;
}

async fn a_hub_and_its_leaf_end_on_both_sides(kind: Kind) {
    let host = Host::new(kind);
    let hub = host.open().await;
    let spec = Spec::local().heartbeat(HEARTBEAT).lease(LEASE).grace(GRACE);
    let leaf = Gateway::builder(spec).via(&hub).open().await.expect("a leaf");
    leaf.call(family, ()).await.expect("a family");
    let call = leaf.start(spin, ()).await.expect("a call");
    while leaf.status().await.expect("a status").running < 1 {}
    let watch = host.cut(Cut::Silent);
    let (hub_end, leaf_end) = tokio::join!(hub.wait(), leaf.wait());
    watch.lost(&hub_end);
    assert_eq!(leaf_end.class(), Some(Class::Lost), "{leaf_end}");
    call.await.expect_err("lost");
    watch.gone(WORKER + WORKER + MEMBERS).await;
}

/// What still passes is of no use: acknowledgements are missing. Whichever side notices first may be able to tell the other.
async fn a_cut_of_one_direction_ends_both_sides(kind: Kind) {
    for how in [Cut::Thither, Cut::Hither] {
        let host = Host::new(kind);
        let gateway = with_family(&host).await;
        let call = gateway.start(spin, ()).await.expect("a call");
        while gateway.status().await.expect("a status").running < 1 {}
        let watch = host.cut(how);
        let error = call.await.expect_err("lost");
        let taken = watch.began.elapsed();
        println!("{how:?}: {} after {taken:?}", ended(&error));
        assert!(ended(&error).class().is_some(), "{error}");
        assert!(taken < LEASE + GRACE + KILLING + BUSY, "{how:?}: {taken:?}");
        let taken = watch.gone.await.expect("all is gone in time");
        println!("{how:?}: gone after {taken:?}");
    }
}

async fn a_cut_that_heals_loses_nothing(kind: Kind) {
    const NUMBERS: u64 = 60_000;
    for how in [Cut::Silent, Cut::Unplugged] {
        let host = Host::new(kind);
        // Long enough for a machine that is busy, and for the network to try again.
        let gateway =
            host.place.open_as(host.spec().lease(Duration::from_secs(12))).await.expect("a gateway");
        let slots = gateway.status().await.expect("a status").slots;
        assert_eq!(gateway.call(square, (3,)).await.expect("a number"), 9);
        let mut child = gateway
            .command("sh")
            .args(["-c", "read line; echo \"got $line\""])
            .stdin(Stdio::Piped)
            .stdout(Stdio::Piped)
            .spawn()
            .await
            .expect("a command");
        let (numbers, theirs) = gateway.pair();
        let (back, mut answers) = gateway.pair();
        let echoing = gateway.start(echo, (theirs, back)).await.expect("a call");
        let sending = tokio::spawn(async move {
            for number in 0..NUMBERS {
                numbers.send(number).await.expect("sent");
            }
            numbers.close();
        });
        for number in 0..1000 {
            assert_eq!(answers.recv().await.expect("an answer"), Some(number));
        }
        host.network.cut(how);
        let mut call = Box::pin(gateway.call(square, (4,)));
        // That nothing passes shows that it is cut, and takes a few heartbeats.
        let early = tokio::time::timeout(6 * HEARTBEAT, &mut call).await;
        assert!(early.is_err(), "{how:?}: it passed: {early:?}");
        host.network.mend();
        assert_eq!(call.await.expect("a number"), 16);
        for number in 1000..NUMBERS {
            assert_eq!(answers.recv().await.expect("an answer"), Some(number));
        }
        assert_eq!(answers.recv().await.expect("the end"), None);
        sending.await.expect("all was sent");
        assert_eq!(echoing.await.expect("a number"), NUMBERS);
        let mut stdin = child.stdin.take().expect("it is piped");
        stdin.write_all(b"through\n").await.expect("written");
        let stdout = child.stdout.take().expect("it is piped");
        let line = tokio::io::BufReader::new(stdout).lines().next_line().await.expect("a line");
        assert_eq!(line.as_deref(), Some("got through"));
        assert!(child.wait().await.expect("its end").status.success());
        assert_eq!(gateway.status().await.expect("a status").slots, slots);
        gateway.close().await.expect("closed in order");
    }
}

async fn items_move_on(kind: Kind) {
    const ITEMS: u64 = 40;
    let (cut, whole) = (Host::new(kind), Host::new(kind));
    let gateways = [
        cut.place.open_as(cut.spec().env(MARK, "1")).await.expect("a gateway"),
        whole.place.open_as(whole.spec()).await.expect("a gateway"),
    ];
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().to_owned();
    let inputs = (0..ITEMS).map(move |item| (path.clone(), item));
    let map = map(beat, inputs).on(&gateways).slots(2).replace_lost(0).start().expect("a map");
    let first = gateways[0].pid();
    let held = || (0..ITEMS).filter(|item| beats(folder.path(), *item).contains_key(&first)).count();
    until("both slots of the first are taken", || held() >= 2).await;
    let watch = cut.cut(Cut::Silent);
    let results = map.all().await;
    let results: Vec<u64> = results.into_iter().map(|result| result.expect("a value")).collect();
    assert_eq!(results, (0..ITEMS).collect::<Vec<_>>());
    watch.gone(WORKER).await;
    let mut moved = 0;
    for item in 0..ITEMS {
        let beats = beats(folder.path(), item);
        let second = &beats[&gateways[1].pid()];
        if let Some(first) = beats.get(&first) {
            assert!(first.last() < second.first(), "{item} ran twice at once: {first:?}, {second:?}");
            moved += 1;
        }
        assert!(beats.len() <= 2, "{item} ran in {:?}", beats.keys());
    }
    assert_eq!(moved, held());
    assert!(moved >= 2);
}

/// When an item said that it ran, by process.
fn beats(folder: &Path, item: u64) -> BTreeMap<u32, Vec<u64>> {
    let text = std::fs::read_to_string(folder.join(format!("{item}"))).unwrap_or_default();
    let mut beats = BTreeMap::<u32, Vec<u64>>::new();
    for (pid, at) in text.lines().filter_map(|line| line.split_once(' ')) {
        beats.entry(pid.parse().expect("a number")).or_default().push(at.parse().expect("a number"));
    }
    beats
}
