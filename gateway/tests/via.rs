//! Gateways that are started from another gateway's host, wherever that is.

mod gateways;

use std::collections::BTreeSet;
use std::io::Write;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use farcall::channel::{ByteReader, ConnectionError, RecvError};
use farcall::ssh::{ConfigFiles, SshOptions};
use farcall::{
    BoxError, CallError, Channel, Class, CommandTarget, Delivery, Exit, Gateway, OpenError, Raw, Receiver,
    Sender, Spec, Step, Tasks,
};
use farcall_test_support::{Sshd, TempHome};
use gateways::{EVERYWHERE, Kind, Place, alive, at, plain, until};
use rustix::process::{Pid, Signal, kill_process};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

type Bytes = bytes::Bytes;

fn tasks() -> Tasks {
    Tasks::new()
        .add(square)
        .add(echo)
        .add(echo_both)
        .add(hold)
        .add(spin)
        .add(settings)
        .add(family)
        .add(exit)
        .add(flood)
        .add(slow_goodbye)
        .add(complain)
}

fn main() {
    gateways::main(
        tasks(),
        [
            at(&EVERYWHERE, "a_leaf_at_the_hub_is_a_gateway", a_leaf_at_the_hub_is_a_gateway),
            at(&EVERYWHERE, "settings_hold_in_a_leaf", settings_hold_in_a_leaf),
            at(&EVERYWHERE, "a_leaf_through_a_command_of_the_hub", a_leaf_through_a_command_of_the_hub),
            at(
                &[Kind::Command, Kind::Ssh],
                "five_leaves_do_not_cost_five_images",
                five_leaves_do_not_cost_five_images,
            ),
            at(
                &[Kind::Local],
                "a_hub_that_was_not_delivered_has_it_sent",
                a_hub_that_was_not_delivered_has_it_sent,
            ),
            at(&[Kind::Local, Kind::Command, Kind::Ssh], "ssh_starts_from_the_hub", ssh_starts_from_the_hub),
            at(&[Kind::Local], "the_hub_looks_up_names", the_hub_looks_up_names),
            at(&[Kind::Local], "jump_hosts_start_from_the_hub", jump_hosts_start_from_the_hub),
            at(
                &[Kind::Local],
                "a_proxy_command_cannot_start_at_a_hub",
                a_proxy_command_cannot_start_at_a_hub,
            ),
            at(&EVERYWHERE, "leaves_of_leaves", leaves_of_leaves),
            at(
                &EVERYWHERE,
                "a_killed_hub_is_the_cause_on_its_leaves",
                a_killed_hub_is_the_cause_on_its_leaves,
            ),
            at(&[Kind::Local, Kind::Ssh], "a_killed_leaf_ends_alone", a_killed_leaf_ends_alone),
            at(
                &[Kind::Local, Kind::Ssh],
                "a_leaf_that_ends_itself_says_how",
                a_leaf_that_ends_itself_says_how,
            ),
            at(&[Kind::Local, Kind::Ssh], "kill_ends_a_busy_leaf", kill_ends_a_busy_leaf),
            at(
                &[Kind::Local, Kind::Ssh],
                "exit_of_a_hub_ends_its_leaves_first",
                exit_of_a_hub_ends_its_leaves_first,
            ),
            at(&[Kind::Local, Kind::Ssh], "a_leaf_keeps_its_hub_alive", a_leaf_keeps_its_hub_alive),
            at(&[Kind::Local], "close_of_a_hub_lets_leaves_finish", close_of_a_hub_lets_leaves_finish),
            at(
                &[Kind::Local, Kind::Ssh],
                "a_silent_hub_is_the_cause_on_its_leaves",
                a_silent_hub_is_the_cause_on_its_leaves,
            ),
            at(&[Kind::Local, Kind::Ssh], "a_stalled_reader_bounds_the_hub", a_stalled_reader_bounds_the_hub),
            at(&[Kind::Local], "streams_of_bytes_in_arguments", streams_of_bytes_in_arguments),
            at(
                &[Kind::Local],
                "what_cannot_be_started_at_a_hub_is_named",
                what_cannot_be_started_at_a_hub_is_named,
            ),
            at(&[Kind::Local], "an_ended_hub_starts_nothing", an_ended_hub_starts_nothing),
            plain("a_hub_that_is_only_named_is_an_error", a_hub_that_is_only_named_is_an_error),
        ],
    );
}

// ---- tasks -------------------------------------------------------------------------------------------------------

async fn square(n: u64) -> u64 {
    n * n
}

async fn echo(mut from: Receiver<Bytes, Raw>, to: Sender<Bytes, Raw>) -> Result<u64, BoxError> {
    let mut count = 0;
    while let Some(bytes) = from.recv().await? {
        count += bytes.len() as u64;
        to.send(bytes).await?;
    }
    Ok(count)
}

async fn echo_both(channel: Channel<Bytes, Bytes, Raw>) -> std::io::Result<u64> {
    let stream = channel.into_stream();
    let (mut from, mut to) = (stream.reader, stream.writer);
    tokio::io::copy(&mut from, &mut to).await
}

async fn hold(running: Sender<u32>) -> Result<(), BoxError> {
    running.send(std::process::id()).await?;
    std::future::pending().await
}

fn spin(running: Sender<u32>) -> Result<(), BoxError> {
    running.try_send(std::process::id())?;
    loop {
        std::hint::black_box(());
    }
}

type Settings = (PathBuf, i32, String, Option<u64>);

fn settings() -> Result<Settings, BoxError> {
    let limit = rustix::process::getrlimit(rustix::process::Resource::Data).current;
    let nice = rustix::process::getpriority_process(None)?;
    Ok((std::env::current_dir()?, nice, std::env::var("LEAF")?, limit))
}

/// Starts a child that ignores signals and one that left session and group, and tells their numbers.
async fn family() -> Result<Vec<u32>, BoxError> {
    use std::io::BufRead;
    let script = "trap '' HUP INT TERM; setsid sh -c 'echo $$; exec sleep 1000' & echo $$; wait";
    let mut command = std::process::Command::new("sh");
    let mut child = command.args(["-c", script]).stdout(std::process::Stdio::piped()).spawn()?;
    let lines = std::io::BufReader::new(child.stdout.take().ok_or("piped")?).lines();
    lines.take(2).map(|line| Ok(line?.trim().parse()?)).collect()
}

fn exit(code: i32) {
    std::process::exit(code);
}

/// Sends for ever.
async fn flood(to: Sender<Bytes, Raw>) -> Result<(), BoxError> {
    let bytes = Bytes::from(vec![7; 32 * 1024]);
    loop {
        to.send(bytes.clone()).await?;
    }
}

/// Notes in a file when it is dropped, after a while.
async fn slow_goodbye(file: PathBuf, running: Sender<u32>) -> Result<(), BoxError> {
    struct Goodbye(PathBuf);
    impl Drop for Goodbye {
        fn drop(&mut self) {
            std::thread::sleep(Duration::from_millis(200));
            std::fs::write(&self.0, "goodbye").expect("writable");
        }
    }
    let _goodbye = Goodbye(file);
    running.send(0).await?;
    std::future::pending().await
}

async fn complain(words: String) -> Result<(), BoxError> {
    // Where the launching side reads it, beside what is caught.
    eprintln!("{words}");
    std::io::stderr().flush()?;
    Ok(())
}

// ---- tests -------------------------------------------------------------------------------------------------------

async fn leaf(hub: &Gateway) -> Gateway {
    Gateway::builder(Spec::local()).via(hub).open().await.expect("a leaf")
}

async fn a_leaf_at_the_hub_is_a_gateway(place: Arc<Place>) {
    let hub = place.open().await;
    let leaf = leaf(&hub).await;
    assert_eq!(leaf.place(), format!("local via {}", hub.id()));
    assert_eq!(leaf.hub().expect("a hub").id(), hub.id());
    assert_eq!(leaf.delivery(), Delivery::Present);
    assert_ne!(leaf.pid(), hub.pid());
    assert_eq!(leaf.call(square, (7,)).await.expect("a square"), 49);
    let (info, hubs) = (leaf.info().await.expect("info"), hub.info().await.expect("info"));
    assert_eq!((info.executable, info.host), (hubs.executable, hubs.host));
    let output = leaf.command("sh").args(["-c", "echo $PPID"]).output().await.expect("output");
    assert_eq!(output.stdout, format!("{}\n", leaf.pid()).as_bytes());
    let arguments = std::fs::read(format!("/proc/{}/cmdline", leaf.pid())).expect("a command line");
    let arguments = String::from_utf8_lossy(&arguments).into_owned();
    assert!(arguments.starts_with(&format!("farcall-worker {} of ", leaf.id())), "{arguments}");

    // More than all windows, both ways at once.
    let (to, their_from) = leaf.pair_with::<Bytes, Raw>();
    let (their_to, from) = leaf.pair_with::<Bytes, Raw>();
    let echoing = leaf.start(echo, (their_from, their_to)).await.expect("a call");
    const TOTAL: usize = 20 << 20;
    let mut to = to.into_writer();
    let sending = tokio::spawn(async move {
        for part in 0..TOTAL / 65536 {
            to.write_all(&[u8::try_from(part % 251).expect("small"); 65536]).await.expect("sent");
        }
    });
    let mut from: ByteReader = from.into_reader();
    let mut part = vec![0; 65536];
    for number in 0..TOTAL / 65536 {
        from.read_exact(&mut part).await.expect("echoed");
        assert!(part.iter().all(|byte| usize::from(*byte) == number % 251), "part {number}");
    }
    assert_eq!(from.read(&mut part).await.expect("the end"), 0);
    sending.await.expect("sent");
    assert_eq!(echoing.await.expect("a count"), TOTAL as u64);
}

async fn settings_hold_in_a_leaf(place: Arc<Place>) {
    let hub = place.open().await;
    let folder = tempfile::tempdir().expect("a folder");
    let inside = folder.path().join("made/below");
    let lease = Duration::from_millis(4500);
    let spec = Spec::local()
        .id("set")
        .chdir(&inside)
        .nice(3)
        .env("LEAF", "a b'c")
        .memory(1 << 30)
        .max_tasks(1)
        .heartbeat(Duration::from_millis(500))
        .lease(lease);
    let leaf = Gateway::builder(spec).via(&hub).open().await.expect("a leaf");
    assert_eq!(leaf.id(), "set");
    let own = hub.command("nice").output().await.expect("output").stdout;
    let own: i32 = String::from_utf8(own).expect("text").trim().parse().expect("a number");
    let expected = (inside.canonicalize().expect("made"), own + 3, "a b'c".to_owned(), Some(1 << 30));
    assert_eq!(leaf.call(settings, ()).await.expect("settings"), expected);
    let (running, mut runs) = leaf.pair();
    let _held = leaf.start(hold, (running,)).await.expect("a call");
    runs.recv().await.expect("it runs");
    let _second = leaf.start(square, (1,)).await.expect("it waits");
    while leaf.status().await.expect("a status").queued != 1 {}
    // A leaf that is stopped for longer than its own lease is lost, and the hub is not.
    let pid = Pid::from_raw(leaf.pid().cast_signed()).expect("a number");
    kill_process(pid, Signal::STOP).expect("stopped");
    let end = leaf.wait().await;
    // Its own lease, and not the usual one, which is several times as long.
    let own = lease..2 * lease;
    let silent = matches!(end.cause(), ConnectionError::Silent { after } if own.contains(after));
    assert!(silent && end.to_string().contains("nothing heard for"), "{end}");
    assert!(end.hub().is_none());
    assert_eq!(hub.call(square, (2,)).await.expect("a square"), 4);
    until("the stopped leaf is gone", || !alive(leaf.pid())).await;
}

/// A command that leads to a shell with a cache of its own.
fn corner(cache: &std::path::Path) -> CommandTarget {
    let variable = format!("XDG_CACHE_HOME={}", cache.display());
    CommandTarget::new("env").args([&*variable, "sh", "-c"]).as_line()
}

async fn a_leaf_through_a_command_of_the_hub(place: Arc<Place>) {
    let hub = place.open().await;
    // Set aside for this one, so that nothing is there from elsewhere.
    let cache = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).expect("a folder");
    let spec = Spec::command(corner(cache.path()).named("corner"));
    let first = Gateway::builder(spec.clone()).via(&hub).open().await.expect("a leaf");
    assert_eq!(first.place(), format!("corner via {}", hub.id()));
    assert_eq!(first.call(square, (7,)).await.expect("a square"), 49);
    match place.kind {
        // What it runs was not shipped there, so that its bytes are not known.
        Kind::Local => assert!(matches!(first.delivery(), Delivery::Sent { kept: true, .. })),
        _ => assert_eq!(first.delivery(), Delivery::Shared { kept: true }),
    }
    let second = Gateway::builder(spec).via(&hub).open().await.expect("a leaf");
    assert_eq!(second.delivery(), Delivery::Cached);
    assert_eq!(second.call(square, (8,)).await.expect("a square"), 64);
    // And without anything left behind.
    let spec = Spec::command(corner(&cache.path().join("other"))).cache(farcall::Cache::LeaveNothing);
    let third = Gateway::builder(spec).via(&hub).open().await.expect("a leaf");
    match place.kind {
        Kind::Local => assert!(matches!(third.delivery(), Delivery::Sent { kept: false, .. })),
        _ => assert_eq!(third.delivery(), Delivery::Shared { kept: false }),
    }
    // Whose own program is then found where no name leads any more.
    let inner = leaf(&third).await;
    assert_eq!(inner.call(square, (9,)).await.expect("a square"), 81);
    hub.exit();
    hub.wait().await;
}

async fn five_leaves_do_not_cost_five_images(place: Arc<Place>) {
    let hub = place.open().await;
    let caches = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).expect("a folder");
    let executable = hub.info().await.expect("info").executable.expect("a path");
    let image = std::fs::metadata(executable).expect("the program").len();
    let before = hub.counters().bytes_sent;
    for number in 0..5 {
        let spec = Spec::command(corner(&caches.path().join(number.to_string())));
        let leaf = Gateway::builder(spec).via(&hub).open().await.expect("a leaf");
        assert_eq!(leaf.delivery(), Delivery::Shared { kept: true });
        assert_eq!(leaf.call(square, (number,)).await.expect("a square"), number * number);
    }
    let sent = hub.counters().bytes_sent - before;
    // Far less than even one, packed.
    assert!(sent < image / 20, "{sent} bytes crossed for five leaves; the program has {image}");
    let delivered = std::fs::read_dir(caches.path()).expect("a folder").count();
    assert_eq!(delivered, 5);
}

async fn a_hub_that_was_not_delivered_has_it_sent(place: Arc<Place>) {
    let hub = place.open().await;
    let cache = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).expect("a folder");
    let spec = Spec::command(corner(cache.path()));
    let before = hub.counters().bytes_sent;
    let leaf = Gateway::builder(spec).via(&hub).open().await.expect("a leaf");
    let Delivery::Sent { bytes, kept: true } = leaf.delivery() else { panic!("{:?}", leaf.delivery()) };
    assert!(hub.counters().bytes_sent - before > bytes);
    assert_eq!(leaf.call(square, (7,)).await.expect("a square"), 49);
}

/// A server that only keys of this side open, and what this side needs for it.
struct Server {
    sshd: Sshd,
    home: TempHome,
}

impl Server {
    fn new() -> Server {
        let home = TempHome::new();
        let cache = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join("gateways");
        std::fs::create_dir_all(&cache).expect("a folder");
        let variables = format!("SetEnv XDG_CACHE_HOME={} HOME={}", cache.display(), home.path().display());
        Server { sshd: Sshd::builder().option(&variables).start(), home }
    }

    /// The options for a configuration in which `change` was made to the block of this server, `far`.
    fn options(&self, change: impl Fn(String) -> String) -> SshOptions {
        let config = self.home.write("config", &change(self.sshd.config("far")));
        SshOptions {
            files: ConfigFiles::Only(config),
            home: Some(self.home.path().to_owned()),
            ..SshOptions::default()
        }
    }
}

/// The sockets of a process that are connected to a port of 127.0.0.1.
fn sockets_to(pid: u32, port: u16) -> usize {
    let table = std::fs::read_to_string("/proc/net/tcp").expect("the table of sockets");
    let remote = format!("0100007F:{port:04X}");
    let mut connected = BTreeSet::new();
    for line in table.lines() {
        let fields: Vec<&str> = line.split_whitespace().collect();
        // `local remote state … inode`, as in proc(5).
        if fields.get(2) == Some(&&*remote) {
            connected.insert(format!("socket:[{}]", fields[9]));
        }
    }
    let folder = std::fs::read_dir(format!("/proc/{pid}/fd")).expect("descriptors");
    let targets = folder.filter_map(|entry| std::fs::read_link(entry.ok()?.path()).ok());
    targets.filter(|target| connected.contains(&*target.to_string_lossy())).count()
}

async fn ssh_starts_from_the_hub(place: Arc<Place>) {
    let server = Server::new();
    let hub = place.open().await;
    let leaf = Gateway::builder(Spec::ssh("far").id("inner"))
        .ssh(server.options(|config| config))
        .via(&hub)
        .open()
        .await
        .expect("a leaf");
    assert_eq!(leaf.call(square, (7,)).await.expect("a square"), 49);
    assert_eq!(leaf.place(), format!("far via {}", hub.id()));
    let port = server.sshd.port();
    assert_eq!(sockets_to(hub.pid(), port), 1, "the hub makes the connection");
    assert_eq!(sockets_to(std::process::id(), port), 0, "and this side does not");
    // The key was this side's all along: the hub was never told of it.
    server.sshd.wait_for_log("Accepted publickey", 1);
    leaf.exit();
    let end = leaf.wait().await;
    assert!(end.class().is_none() && end.hub().is_none(), "{end}");
    server.sshd.wait_until_idle();
    until("the hub has let go", || sockets_to(hub.pid(), port) == 0).await;
    assert_eq!(hub.call(square, (3,)).await.expect("a square"), 9);
}

async fn the_hub_looks_up_names(place: Arc<Place>) {
    let server = Server::new();
    let hub = place.open().await;
    let open = async |name: &'static str| {
        let options = server.options(|config| {
            let known = format!("HostName {name}\n  HostKeyAlias [127.0.0.1]:{}", server.sshd.port());
            config.replace("HostName 127.0.0.1", &known)
        });
        Gateway::builder(Spec::ssh("far")).ssh(options).via(&hub).open().await
    };
    let leaf = open("localhost").await.expect("a leaf");
    assert_eq!(leaf.call(square, (7,)).await.expect("a square"), 49);
    let OpenError::Launch(error) = open("no-such-host.invalid").await.expect_err("no such host") else {
        panic!("another error")
    };
    assert_eq!((error.step(), error.class()), (Step::Resolve, Class::Resolve), "{error}");
    assert!(error.to_string().contains("has no address for no-such-host.invalid"), "{error}");

    // Where there is nothing to look names up with, an address serves.
    let empty = tempfile::tempdir().expect("a folder");
    let bare = Gateway::open(&Spec::local().env("PATH", empty.path())).await.expect("a gateway");
    let open = async |name: &'static str| {
        let options =
            server.options(|config| config.replace("HostName 127.0.0.1", &format!("HostName {name}")));
        Gateway::builder(Spec::ssh("far")).ssh(options).via(&bare).open().await
    };
    let error = open("localhost").await.expect_err("no getent");
    assert!(error.to_string().contains("has no getent: give the address of localhost instead"), "{error}");
    assert_eq!(error.class(), Class::Resolve);
    let leaf = open("127.0.0.1").await.expect("a leaf");
    assert_eq!(leaf.call(square, (7,)).await.expect("a square"), 49);
    drop(server.sshd);
    let gone = leaf.wait().await;
    assert!(gone.hub().is_none(), "{gone}");
}

async fn jump_hosts_start_from_the_hub(place: Arc<Place>) {
    let (server, jump) = (Server::new(), Server::new());
    let hub = place.open().await;
    let options = server.options(|config| config + "  ProxyJump jump\n" + &jump.sshd.config("jump"));
    let opening = Gateway::builder(Spec::ssh("far")).ssh(options).via(&hub).open();
    let leaf = opening.await.expect("a leaf");
    assert_eq!(leaf.call(square, (7,)).await.expect("a square"), 49);
    assert_eq!(sockets_to(hub.pid(), jump.sshd.port()), 1, "the hub reaches the jump host");
    assert_eq!(sockets_to(hub.pid(), server.sshd.port()), 0, "the jump host reaches the leaf");
    assert_eq!(sockets_to(std::process::id(), jump.sshd.port()), 0);
    assert_eq!(sockets_to(std::process::id(), server.sshd.port()), 0);
}

async fn a_proxy_command_cannot_start_at_a_hub(place: Arc<Place>) {
    let server = Server::new();
    let hub = place.open().await;
    let options = server.options(|config| config + "  ProxyCommand nc %h %p\n");
    let opening = Gateway::builder(Spec::ssh("far")).ssh(options).via(&hub).open();
    let error = opening.await.expect_err("refused").to_string();
    assert!(error.contains("ProxyCommand") && error.contains("ProxyJump"), "{error}");
}

async fn leaves_of_leaves(place: Arc<Place>) {
    let server = Server::new();
    let hub = place.open().await;
    let first = leaf(&hub).await;
    let second = leaf(&first).await;
    let options = server.options(|config| config);
    let third = Gateway::builder(Spec::ssh("far"))
        .ssh(options)
        .via(&second)
        .open()
        .await
        .expect("a leaf of a leaf of a leaf");
    let fourth = leaf(&third).await;
    let all = [&hub, &first, &second, &third, &fourth];
    for (number, gateway) in (0..).zip(all) {
        assert_eq!(gateway.call(square, (number,)).await.expect("a square"), number * number);
    }
    assert_eq!(sockets_to(second.pid(), server.sshd.port()), 1);
    assert_eq!(fourth.hub().and_then(|hub| hub.hub()).expect("two levels up").id(), second.id());
    let mut processes = fourth.call(family, ()).await.expect("a family");
    processes.extend(all.map(Gateway::pid));
    // The innermost holds all that it needs.
    let ends = [hub, first, second, third].map(|gateway| {
        let watched = gateway.clone();
        drop(gateway);
        tokio::spawn(async move { watched.wait().await })
    });
    assert_eq!(fourth.call(square, (9,)).await.expect("a square"), 81);
    fourth.hub().and_then(|hub| hub.hub()?.hub()?.hub()).expect("four levels up").exit();
    for end in ends {
        let end = end.await.expect("an end");
        assert!(end.class().is_none() && end.hub().is_none(), "{end}");
    }
    until("all are gone", || !processes.iter().any(|pid| alive(*pid))).await;
}

async fn a_killed_hub_is_the_cause_on_its_leaves(place: Arc<Place>) {
    let server = Server::new();
    let hub = place.open().await;
    let options = server.options(|config| config);
    let leaves = [
        leaf(&hub).await,
        leaf(&leaf(&hub).await).await,
        Gateway::builder(Spec::ssh("far")).ssh(options).via(&hub).open().await.expect("a leaf"),
    ];
    let mut processes = Vec::new();
    let mut calls = Vec::new();
    for leaf in &leaves {
        processes.extend(leaf.call(family, ()).await.expect("a family"));
        processes.push(leaf.pid());
        let (running, mut runs) = leaf.pair();
        calls.push(leaf.start(spin, (running,)).await.expect("a call"));
        runs.recv().await.expect("it runs");
    }
    let pid = Pid::from_raw(hub.pid().cast_signed()).expect("a number");
    let killed = Instant::now();
    kill_process(pid, Signal::KILL).expect("killed");
    for call in calls {
        let Err(CallError::Ended(end)) = call.await else { panic!("the call ended otherwise") };
        let cause = end.hub().expect("the hub is the cause");
        let root = cause.hub().unwrap_or(cause);
        assert_eq!(root.id(), hub.id());
        assert_eq!(end.class(), Some(Class::Lost));
        assert!(end.to_string().contains("is lost with its hub: gateway "), "{end}");
        if place.kind == Kind::Local {
            assert_eq!(root.exit(), Some(Exit::Signal(9)), "{end}");
            assert!(end.to_string().ends_with("was killed by signal 9"), "{end}");
        }
    }
    until("all are gone", || !processes.iter().any(|pid| alive(*pid))).await;
    assert!(killed.elapsed() < Duration::from_secs(10), "{:?}", killed.elapsed());
    let refused = leaves[0].call(square, (1,)).await.expect_err("it has ended");
    assert!(refused.to_string().contains("lost with its hub"), "{refused}");
}

async fn a_killed_leaf_ends_alone(place: Arc<Place>) {
    let hub = place.open().await;
    let (leaf, other) = (leaf(&hub).await, leaf(&hub).await);
    let mut processes = leaf.call(family, ()).await.expect("a family");
    let call = leaf.start(hold, (leaf.pair().0,)).await.expect("a call");
    let pid = Pid::from_raw(leaf.pid().cast_signed()).expect("a number");
    kill_process(pid, Signal::KILL).expect("killed");
    let Err(CallError::Ended(end)) = call.await else { panic!("the call ended otherwise") };
    assert_eq!((end.exit(), end.class()), (Some(Exit::Signal(9)), Some(Class::Signal)), "{end}");
    assert!(end.hub().is_none());
    processes.push(leaf.pid());
    until("all are gone", || !processes.iter().any(|pid| alive(*pid))).await;
    for gateway in [&hub, &other] {
        assert_eq!(gateway.call(square, (7,)).await.expect("a square"), 49);
    }
}

async fn a_leaf_that_ends_itself_says_how(place: Arc<Place>) {
    let hub = place.open().await;
    for code in [0, 7, 255] {
        let leaf = leaf(&hub).await;
        let Err(CallError::Ended(end)) = leaf.call(exit, (code,)).await else { panic!("it ended otherwise") };
        assert_eq!(end.exit(), Some(Exit::Code(code)), "{end}");
        assert_eq!(end.class(), Some(Class::RemoteExit));
    }
    let leaf = leaf(&hub).await;
    let mut output = leaf.output();
    leaf.call(complain, ("words".into(),)).await.expect("said");
    let mut printed = Vec::new();
    while printed != b"words\n" {
        printed.extend_from_slice(&output.next().await.expect("a print").bytes);
    }
}

async fn kill_ends_a_busy_leaf(place: Arc<Place>) {
    let hub = place.open().await;
    let leaf = leaf(&hub).await;
    let mut processes = leaf.call(family, ()).await.expect("a family");
    processes.push(leaf.pid());
    let (running, mut runs) = leaf.pair();
    let _call = leaf.start(spin, (running,)).await.expect("a call");
    runs.recv().await.expect("it runs");
    leaf.kill();
    let end = leaf.wait().await;
    assert_eq!(end.exit(), Some(Exit::Signal(9)), "{end}");
    until("all are gone", || !processes.iter().any(|pid| alive(*pid))).await;
    assert_eq!(hub.call(square, (7,)).await.expect("a square"), 49);
}

async fn exit_of_a_hub_ends_its_leaves_first(place: Arc<Place>) {
    let folder = tempfile::tempdir().expect("a folder");
    let hub = place.open().await;
    let leaf = leaf(&hub).await;
    let file = folder.path().join("goodbye");
    let (running, mut runs) = leaf.pair();
    let call = leaf.start(slow_goodbye, (file.clone(), running)).await.expect("a call");
    runs.recv().await.expect("it runs");
    let of_leaf = {
        let leaf = leaf.clone();
        tokio::spawn(async move { (leaf.wait().await, Instant::now()) })
    };
    let of_hub = {
        let hub = hub.clone();
        tokio::spawn(async move { (hub.wait().await, Instant::now()) })
    };
    hub.exit();
    hub.exit();
    let error = hub.call(square, (1,)).await.expect_err("no new work");
    assert!(matches!(error, CallError::Ended(_)), "{error}");
    let ((leafs, first), (hubs, second)) = (of_leaf.await.expect("an end"), of_hub.await.expect("an end"));
    assert!(first <= second, "the hub ended {:?} before its leaf", first - second);
    for end in [leafs, hubs] {
        assert!(end.class().is_none() && end.hub().is_none(), "{end}");
        assert_eq!(end.exit(), Some(Exit::Code(0)), "{end}");
    }
    assert!(matches!(call.await, Err(CallError::Ended(_))));
    assert_eq!(std::fs::read_to_string(file).expect("the task was dropped in order"), "goodbye");
}

async fn a_leaf_keeps_its_hub_alive(place: Arc<Place>) {
    let hub = place.open().await;
    let leaf = leaf(&hub).await;
    let processes = [hub.pid(), leaf.pid()];
    drop(hub);
    assert_eq!(leaf.call(square, (7,)).await.expect("a square"), 49);
    assert_eq!(leaf.hub().expect("a hub").call(square, (6,)).await.expect("a square"), 36);
    drop(leaf);
    until("both are gone", || !processes.iter().any(|pid| alive(*pid))).await;
}

async fn close_of_a_hub_lets_leaves_finish(place: Arc<Place>) {
    let hub = place.open().await;
    let leaf = leaf(&leaf(&hub).await).await;
    let (to, from) = leaf.pair_with::<Bytes, Raw>();
    let (their_to, mut echoed) = leaf.pair_with::<Bytes, Raw>();
    let echoing = leaf.start(echo, (from, their_to)).await.expect("a call");
    let closing = {
        let hub = hub.clone();
        tokio::spawn(async move { hub.close().await })
    };
    to.send(Bytes::from_static(b"late")).await.expect("sent");
    assert_eq!(echoed.recv().await.expect("echoed").expect("bytes"), "late");
    assert!(hub.end().is_none() && leaf.end().is_none());
    drop(to);
    assert_eq!(echoing.await.expect("it finished"), 4);
    closing.await.expect("no panic").expect("closed");
    assert!(leaf.wait().await.class().is_none());
}

async fn a_silent_hub_is_the_cause_on_its_leaves(place: Arc<Place>) {
    let (heartbeat, lease) = (Duration::from_millis(500), Duration::from_secs(4));
    let hub = place.open_as(place.spec().heartbeat(heartbeat).lease(lease)).await.expect("a gateway");
    let spec = Spec::local().heartbeat(heartbeat).lease(lease);
    let leaf = Gateway::builder(spec).via(&hub).open().await.expect("a leaf");
    let pid = Pid::from_raw(hub.pid().cast_signed()).expect("a number");
    kill_process(pid, Signal::STOP).expect("stopped");
    let end = leaf.wait().await;
    assert_eq!(end.hub().expect("the hub is the cause").id(), hub.id(), "{end}");
    // Both by their guardians, who were not stopped.
    until("both are gone", || !alive(leaf.pid()) && !alive(hub.pid())).await;
}

async fn a_stalled_reader_bounds_the_hub(place: Arc<Place>) {
    let hub = place.open().await;
    let leaf = leaf(&hub).await;
    let before = hub.info().await.expect("info").resident.expect("known");
    let (to, mut from) = leaf.pair_with::<Bytes, Raw>();
    let flooding = leaf.start(flood, (to,)).await.expect("a call");
    // It has begun, and then nobody reads until it has filled what there is to fill.
    from.recv().await.expect("bytes");
    let mut last = 0;
    loop {
        let now = leaf.counters().bytes_received;
        let elsewhere = hub.call(square, (7,)).await.expect("the hub is not held up");
        assert_eq!(elsewhere, 49);
        assert_eq!(leaf.call(square, (8,)).await.expect("nor is the leaf"), 64);
        // The calls themselves are a few hundred bytes.
        if now - last < 4096 {
            break;
        }
        last = now;
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    let grown = hub.info().await.expect("info").resident.expect("known").saturating_sub(before);
    assert!(grown < 24 << 20, "the hub grew by {grown} bytes");
    drop(from);
    assert!(flooding.await.is_err());
}

async fn streams_of_bytes_in_arguments(place: Arc<Place>) {
    let hub = place.open().await;
    let (ours, theirs) = hub.channel_with::<Bytes, Bytes, Raw>();
    let call = hub.start(echo_both, (theirs,)).await.expect("a call");
    let mut stream = ours.into_stream();
    stream.write_all(b"twelve bytes").await.expect("written");
    stream.shutdown().await.expect("half closed");
    let mut all = Vec::new();
    stream.read_to_end(&mut all).await.expect("read");
    assert_eq!(all, b"twelve bytes");
    assert_eq!(call.await.expect("a count"), 12);
    // Ends belong to one gateway.
    let leaf = leaf(&hub).await;
    let (_, foreign) = hub.pair_with::<Bytes, Raw>();
    let (to, mut nothing) = leaf.pair_with::<Bytes, Raw>();
    let error = leaf.start(echo, (foreign, to)).await.expect_err("refused");
    assert!(matches!(error, CallError::Arguments(_)), "{error}");
    assert!(matches!(nothing.recv().await, Ok(None) | Err(RecvError::Remote(_))));
}

async fn what_cannot_be_started_at_a_hub_is_named(place: Arc<Place>) {
    let hub = place.open().await;
    let open = async |spec: Spec| match Gateway::builder(spec).via(&hub).open().await {
        Err(OpenError::Launch(error)) => error,
        other => panic!("{other:?}"),
    };
    let error = open(Spec::command(CommandTarget::new("no-such-command"))).await;
    assert_eq!((error.step(), error.class()), (Step::Start, Class::Exec), "{error}");
    let expected = format!("cannot start no-such-command from {}: cannot execute the program", hub.id());
    assert!(error.to_string().contains(&expected), "{error}");
    let error = open(Spec::local().chdir("/dev/null/below")).await;
    assert!(error.to_string().contains("cannot make its directory"), "{error}");
    // What ends before it speaks leaves its words.
    let error = open(Spec::command(CommandTarget::new("sh").args(["-c", "echo no luck >&2; exit 3"]))).await;
    assert_eq!(error.evidence(), "no luck\n");
    assert!(error.to_string().contains("exit code 3"), "{error}");
    // And what never speaks is given up.
    let spec = Spec::command(CommandTarget::new("sh").args(["-c", "exec sleep 1000"]).as_worker());
    let error = open(spec.start_limit(Duration::from_millis(300))).await;
    assert_eq!(error.class(), Class::Timeout, "{error}");
    assert_eq!(hub.call(square, (7,)).await.expect("a square"), 49);
}

async fn an_ended_hub_starts_nothing(place: Arc<Place>) {
    let hub = place.open().await;
    hub.exit();
    for spec in [Spec::local(), Spec::ssh("127.0.0.1").config(ConfigFiles::None)] {
        let error = Gateway::builder(spec).via(&hub).open().await.expect_err("refused");
        let OpenError::Hub { end, .. } = error else { panic!("{error}") };
        assert_eq!(end.id(), hub.id());
    }
}

async fn a_hub_that_is_only_named_is_an_error() {
    let spec: Spec = "local?via=hub".parse().expect("a spec");
    let error = Gateway::open(&spec).await.expect_err("refused");
    assert!(matches!(&error, OpenError::UnresolvedVia { via } if via == "hub"), "{error}");
    assert!(error.to_string().contains("via hub"), "{error}");
    // Given the gateway itself, what the spec calls it is of no importance.
    let hub = Gateway::open(&Spec::local()).await.expect("a gateway");
    let leaf = Gateway::builder(spec).via(&hub).open().await.expect("a leaf");
    assert_eq!(leaf.hub().expect("a hub").id(), hub.id());
}
