//! Nothing that a server does, or leaves undone, holds up a connection for longer than its limit; and many connections at
//! once do not trip over each other.

mod ssh_client;

use std::time::{Duration, Instant};

use farcall_bootstrap::ssh::{Gate, SshOptions};
use farcall_bootstrap::{Class, LaunchError, Step};
use farcall_test_support::{Sshd, TempHome};
use ssh_client::{class, options, printed, reach, system_ssh};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

/// A server of our own that does `behave` with its first connection, and the options to reach it.
async fn fake<F>(
    home: &TempHome,
    behave: impl FnOnce(TcpStream) -> F + Send + 'static,
) -> (SshOptions, tokio::task::JoinHandle<()>)
where
    F: Future<Output = ()> + Send,
{
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let port = listener.local_addr().expect("bound").port();
    let config = format!("Host server\n HostName 127.0.0.1\n Port {port}\n UserKnownHostsFile none\n");
    let options = SshOptions { limit: Duration::from_millis(400), retries: 0, ..options(home, &config) };
    let serving = tokio::spawn(async move {
        let (stream, _) = listener.accept().await.expect("a connection");
        behave(stream).await;
    });
    (options, serving)
}

/// Reads until the client gives the connection up.
async fn until_closed(mut stream: TcpStream) {
    let mut buffer = [0; 4096];
    while stream.read(&mut buffer).await.is_ok_and(|n| n > 0) {}
}

async fn late(options: SshOptions, serving: tokio::task::JoinHandle<()>) -> LaunchError {
    let started = Instant::now();
    let error = reach("server", &options).await.expect_err("the limit");
    assert_eq!((error.class(), error.step()), (Class::Timeout, Step::KeyExchange), "{error}");
    assert!(started.elapsed() < Duration::from_secs(10), "{:?}", started.elapsed());
    // The connection is given up, not merely forgotten: the server sees its end.
    tokio::time::timeout(Duration::from_secs(10), serving).await.expect("an end").expect("no panic");
    error
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_says_nothing_is_given_up() {
    let home = TempHome::new();
    let (options, serving) = fake(&home, until_closed).await;
    late(options, serving).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_stops_after_its_first_words_is_given_up() {
    let home = TempHome::new();
    let (options, serving) = fake(&home, |mut stream| async move {
        stream.write_all(b"welcome to nowhere\r\nSSH-2.0-Silent\r\n").await.expect("sent");
        until_closed(stream).await;
    })
    .await;
    let error = late(options, serving).await;
    assert_eq!(error.evidence(), "welcome to nowhere\r\n");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_talks_without_end_or_in_riddles_is_an_error() {
    let home = TempHome::new();
    for words in
        [vec![b'x'; 1 << 20], b"line\n".repeat(100_000), [&b"SSH-2.0-x\r\n"[..], &[0xff; 65536]].concat()]
    {
        let (options, serving) = fake(&home, |mut stream| async move {
            let _ = stream.write_all(&words).await;
            until_closed(stream).await;
        })
        .await;
        let error = reach("server", &options).await.expect_err("not a server");
        assert!(matches!(error.class(), Class::Connect | Class::Timeout), "{error}");
        assert_eq!(error.step(), Step::KeyExchange);
        assert!(error.evidence().len() <= 8192);
        tokio::time::timeout(Duration::from_secs(10), serving).await.expect("an end").expect("no panic");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_freezes_during_authentication_is_given_up() {
    let home = TempHome::new();
    let sshd = Sshd::builder()
        .option("AuthorizedKeysCommand /bin/sleep 600")
        .option("AuthorizedKeysCommandUser root")
        .start();
    let key = home.key("unknown", farcall_test_support::KeyKind::Ed25519);
    let config = sshd
        .config("server")
        .replace(sshd.client_key().path().to_str().expect("text"), key.path().to_str().expect("text"));
    let options = SshOptions { limit: Duration::from_secs(2), ..options(&home, &config) };
    let error = reach("server", &options).await.expect_err("the limit");
    assert_eq!((error.class(), error.step()), (Class::Timeout, Step::Authenticate), "{error}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_configured_limit_wins() {
    let home = TempHome::new();
    let (options, serving) = fake(&home, until_closed).await;
    let options =
        SshOptions { limit: Duration::from_secs(600), settings: vec!["ConnectTimeout=1".into()], ..options };
    late(options, serving).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_configured_limit_does_not_cut_a_slow_login() {
    let home = TempHome::new();
    // Asked for keys that are in no file.
    let sshd = Sshd::builder()
        .option("AuthorizedKeysCommand /bin/sleep 3")
        .option("AuthorizedKeysCommandUser root")
        .start();
    let unknown = home.key("unknown", farcall_test_support::KeyKind::Ed25519);
    let settings = format!("Host server\n  ConnectTimeout 2\n  IdentityFile {}\n", unknown.path().display());
    let options = options(&home, &(settings + &sshd.config("server")));
    let config = home.ssh("config");
    let theirs = tokio::task::spawn_blocking(move || system_ssh(&config, "server", &[]));
    // Without end is as good as long enough.
    let endless = SshOptions { limit: Duration::MAX, ..options.clone() };
    let session = reach("server", &endless).await.expect("let in");
    assert_eq!(printed(&session, "echo in").await, "in\n");
    let theirs = theirs.await.expect("no panic");
    assert!(theirs.status.success(), "{}", String::from_utf8_lossy(&theirs.stderr));
    let short = SshOptions { limit: Duration::from_millis(500), ..options };
    let error = reach("server", &short).await.expect_err("the longer of two short limits");
    assert_eq!((error.class(), error.step()), (Class::Timeout, Step::Authenticate), "{error}");
    assert!(error.to_string().contains("limit of 2 s"), "{error}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_connect_that_is_dropped_leaves_nothing_behind() {
    let home = TempHome::new();
    let (accepted, was_accepted) = tokio::sync::oneshot::channel();
    let (options, serving) = fake(&home, |stream| async move {
        let _ = accepted.send(());
        until_closed(stream).await;
    })
    .await;
    let options = SshOptions { limit: Duration::from_secs(600), ..options };
    let connecting = tokio::spawn(async move { reach("server", &options).await.map(drop) });
    was_accepted.await.expect("a connection");
    connecting.abort();
    tokio::time::timeout(Duration::from_secs(10), serving).await.expect("an end").expect("no panic");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nobody_there() {
    let home = TempHome::new();
    let port = TcpListener::bind("127.0.0.1:0").await.expect("a port").local_addr().expect("bound").port();
    let config =
        format!("Host server\n HostName 127.0.0.1\n Port {port}\nHost nowhere\n HostName nowhere.invalid\n");
    let options = options(&home, &config);
    let refused = reach("server", &options).await.expect_err("nobody listens");
    assert_eq!((refused.class(), refused.step()), (Class::Connect, Step::Connect));
    assert!(refused.to_string().contains(&format!("127.0.0.1:{port}")), "{refused}");
    let options = SshOptions { limit: Duration::from_secs(2), ..options };
    let unnamed = reach("nowhere", &options).await.expect_err("no such name");
    // Without a name service the question takes its time.
    assert!(matches!(unnamed.class(), Class::Resolve | Class::Timeout), "{unnamed}");
    assert_eq!(unnamed.step(), Step::Resolve);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn forty_at_once_pass_a_default_server() {
    let home = TempHome::new();
    let sshd = Sshd::start();
    let options = options(&home, &sshd.config("server"));
    let tasks: Vec<_> = (0..40)
        .map(|n| {
            let options = options.clone();
            tokio::spawn(async move {
                let session = reach("server", &options).await?;
                let text = printed(&session, &format!("echo {n}")).await;
                assert_eq!(text, format!("{n}\n"));
                Ok::<_, LaunchError>(session)
            })
        })
        .collect();
    let mut sessions = Vec::new();
    for task in tasks {
        sessions.push(task.await.expect("no panic").expect("let in"));
    }
    assert!(!sshd.log().iter().any(|line| line.contains("MaxStartups")), "{:#?}", sshd.log());
    drop(sessions);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_place_at_the_gate_is_kept_until_the_server_has_no_stranger_left() {
    let home = TempHome::new();
    let sshd = Sshd::builder().option("MaxStartups 1").start();
    let options = SshOptions { gate: Gate::new(1), retries: 0, ..options(&home, &sshd.config("server")) };
    // All wait at the gate. Each follows at once on the one before it, which the server counts for a moment longer than
    // we do.
    let tasks: Vec<_> = (0..25)
        .map(|_| {
            let options = options.clone();
            tokio::spawn(async move { reach("server", &options).await })
        })
        .collect();
    let mut sessions = Vec::new();
    for task in tasks {
        sessions.push(task.await.expect("no panic").expect("let in at once"));
    }
    drop(sessions);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_busy_server_is_tried_again() {
    let home = TempHome::new();
    // One stranger at a time; everybody else is cut off at once.
    let sshd = Sshd::builder().option("MaxStartups 1").start();
    let options = SshOptions {
        gate: Gate::new(4),
        retries: 40,
        limit: Duration::from_secs(60),
        ..options(&home, &sshd.config("server"))
    };
    let tasks: Vec<_> = (0..8)
        .map(|_| {
            let options = options.clone();
            tokio::spawn(async move { reach("server", &options).await })
        })
        .collect();
    for task in tasks {
        task.await.expect("no panic").expect("let in at last");
    }
    assert!(
        sshd.log().iter().any(|line| line.contains("MaxStartups")),
        "nobody was cut off: {:#?}",
        sshd.log()
    );
    // Being cut off costs no attempt to authenticate.
    assert_eq!(sshd.log().iter().filter(|line| line.contains("Accepted publickey")).count(), 8);
    assert!(!sshd.log().iter().any(|line| line.contains("Failed publickey")));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_stays_busy_is_an_error_in_the_end() {
    let home = TempHome::new();
    let sshd = Sshd::builder().option("MaxStartups 1").start();
    // Takes the only place.
    let stranger = TcpStream::connect(("127.0.0.1", sshd.port())).await.expect("connected");
    sshd.wait_for_log("Connection from", 1);
    let options = SshOptions { retries: 2, ..options(&home, &sshd.config("server")) };
    let error = reach("server", &options).await.expect_err("busy");
    assert_eq!((error.class(), error.step()), (Class::Connect, Step::KeyExchange));
    assert!(error.evidence().contains("MaxStartups"), "{error}");
    drop(stranger);
    sshd.wait_for_log("kex_exchange_identification", 1);
    assert_eq!(class(&reach("server", &options).await), None);
}

/// Stops the processes of a server's connections, or lets them go on. Stopped, they hold their connections and answer
/// nothing, as behind a network that was cut.
fn signal(sshd: &Sshd, signal: rustix::process::Signal) {
    for pid in sshd.sessions() {
        let pid = rustix::process::Pid::from_raw(i32::try_from(pid).expect("small")).expect("not zero");
        match rustix::process::kill_process(pid, signal) {
            // One that served the login alone ends with it.
            Ok(()) | Err(rustix::io::Errno::SRCH) => {}
            Err(error) => panic!("{pid:?}: {error}"),
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_channel_that_nobody_waits_for_any_more_is_closed() {
    let home = TempHome::new();
    let sshd = Sshd::builder().option("MaxSessions 1").start();
    let limited = SshOptions { limit: Duration::from_secs(5), ..options(&home, &sshd.config("server")) };
    let session = reach("server", &limited).await.expect("let in");
    // The whole limit, and a caller who loses patience.
    for (n, patience) in [(1, Duration::from_secs(60)), (2, Duration::from_millis(300))] {
        signal(&sshd, rustix::process::Signal::STOP);
        let waited = tokio::time::timeout(patience, session.exec("echo never")).await;
        assert!(matches!(&waited, Err(_) | Ok(Err(_))), "answered");
        signal(&sshd, rustix::process::Signal::CONT);
        sshd.wait_for_log("Close session", n);
    }
    // Its place is free, and what nobody waited for did not run.
    assert_eq!(printed(&session, "echo in").await, "in\n");
    assert!(!sshd.log().iter().any(|line| line.contains("no more sessions")), "{:#?}", sshd.log());
    drop(session);
    sshd.wait_until_idle();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_tunnel_that_nobody_waits_for_any_more_is_closed() {
    let home = TempHome::new();
    let (jump, near, far) = (Sshd::start(), Sshd::start(), Sshd::start());
    let behind = |alias: &str, sshd: &Sshd| format!("{}  ProxyJump jump\n", sshd.config(alias));
    let config = format!("{}{}{}", jump.config("jump"), behind("near", &near), behind("far", &far));
    let options = options(&home, &config);
    let session = reach("near", &options).await.expect("let in");
    signal(&jump, rustix::process::Signal::STOP);
    let impatient = SshOptions { limit: Duration::from_secs(1), ..options };
    let error = reach("far", &impatient).await.expect_err("the limit");
    assert_eq!((error.class(), error.step()), (Class::Timeout, Step::Jump), "{error}");
    signal(&jump, rustix::process::Signal::CONT);
    far.wait_for_log("Connection from", 1);
    // Closed before a word was said.
    far.wait_for_log("kex_exchange_identification", 1);
    assert_eq!(printed(&session, "echo in").await, "in\n");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_connection_without_users_ends_also_where_a_channel_is_not_answered() {
    let home = TempHome::new();
    let sshd = Sshd::start();
    let name = format!("[127.0.0.1]:{}", sshd.port());
    let (relay, ended) = fake(&home, {
        let port = sshd.port();
        move |stream| async move {
            let server = TcpStream::connect(("127.0.0.1", port)).await.expect("listens");
            let ((mut from_us, mut to_us), (mut from_server, mut to_server)) =
                (stream.into_split(), server.into_split());
            tokio::spawn(async move { tokio::io::copy(&mut from_server, &mut to_us).await });
            // Ends when we hang up.
            let _ = tokio::io::copy(&mut from_us, &mut to_server).await;
        }
    })
    .await;
    // The relay's place, the server's keys.
    let key = sshd.client_key().path().display();
    let known = sshd.dir().join("known");
    std::fs::write(&known, sshd.known_hosts()).expect("writable");
    let settings =
        ["IdentityAgent=none".to_owned(), format!("HostKeyAlias={name}"), format!("IdentityFile={key}")];
    let mut settings = settings.to_vec();
    settings.push(format!("UserKnownHostsFile={}", known.display()));
    let options = SshOptions { settings, limit: Duration::from_secs(20), ..relay };
    let session = reach("server", &options).await.expect("let in");
    signal(&sshd, rustix::process::Signal::STOP);
    let waited = tokio::time::timeout(Duration::from_millis(300), session.exec("true")).await;
    assert!(waited.is_err(), "answered");
    drop(session);
    tokio::time::timeout(Duration::from_secs(10), ended).await.expect("hung up").expect("no panic");
    signal(&sshd, rustix::process::Signal::CONT);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_vanishes_is_noticed() {
    let home = TempHome::new();
    let sshd = Sshd::start();
    let config = format!("{}  ServerAliveInterval 1\n  ServerAliveCountMax 2\n", sshd.config("server"));
    let session = reach("server", &options(&home, &config)).await.expect("let in");
    let mut exec = session.exec("echo up; cat").await.expect("a channel");
    let mut line = [0; 3];
    exec.stdout.read_exact(&mut line).await.expect("it runs");
    signal(&sshd, rustix::process::Signal::STOP);
    let waiting = tokio::time::timeout(Duration::from_secs(30), exec.process.wait());
    let error = waiting.await.expect("noticed").expect_err("lost");
    assert!(matches!(error, farcall_bootstrap::ssh::ExecError::Lost(_)), "{error}");
    assert!(session.is_closed());
    signal(&sshd, rustix::process::Signal::CONT);
}
