//! Hosts behind a jump host share connections to it, and its end is theirs.

mod ssh_client;

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use farcall_bootstrap::ssh::{
    Answer, ExecError, PASSENGERS, Prompter, Question, Secret, Session, SshOptions, SshTarget, connect,
};
use farcall_bootstrap::{Class, LaunchError, Step};
use farcall_test_support::{PASSWORD, Sshd, TempHome};
use ssh_client::{options, printed, reach};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

/// How often it let somebody in: "Accepted publickey for", "Accepted password for".
fn logins(sshd: &Sshd) -> usize {
    sshd.log().iter().filter(|line| line.starts_with("Accepted p")).count()
}

/// Connects `count` times at once.
async fn many(host: &str, count: usize, options: &SshOptions) -> Vec<Session> {
    let tasks: Vec<_> = (0..count)
        .map(|_| {
            let (host, options) = (host.to_owned(), options.clone());
            tokio::spawn(async move { reach(&host, &options).await })
        })
        .collect();
    let mut sessions = Vec::new();
    for task in tasks {
        sessions.push(task.await.expect("no panic").expect("let in"));
    }
    sessions
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn forty_behind_a_jump_host_are_few_logins_there() {
    let home = TempHome::new();
    let (jump, last) = (Sshd::start(), Sshd::start());
    let config = format!("{}{}  ProxyJump jump\n", jump.config("jump"), last.config("last"));
    let options = options(&home, &config);
    let sessions = many("last", 40, &options).await;
    for session in &sessions {
        assert_eq!(printed(session, "echo in").await, "in\n");
    }
    assert_eq!(logins(&last), 40);
    assert!((40_usize.div_ceil(PASSENGERS)..=4).contains(&logins(&jump)), "{} logins", logins(&jump));
    // With the last of them the connections to the jump host end, and are made anew when they are wanted again.
    let before = logins(&jump);
    drop(sessions);
    jump.wait_until_idle();
    drop(reach("last", &options).await.expect("let in"));
    assert_eq!(logins(&jump), before + 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_end_of_a_jump_host_is_the_reason_that_those_behind_it_give() {
    let home = TempHome::new();
    let (jump, last) = (Sshd::start(), Sshd::start());
    let config = format!("{}{}  ProxyJump jump\n", jump.config("jump"), last.config("last"));
    let options = options(&home, &config);
    let sessions = many("last", 3, &options).await;
    let mut commands = Vec::new();
    for session in &sessions {
        let mut exec = session.exec("echo up; cat").await.expect("a channel");
        exec.stdout.read_exact(&mut [0; 3]).await.expect("it runs");
        commands.push(exec);
    }
    let before = logins(&jump);
    jump.cut_connections();
    for exec in &commands {
        let ended =
            tokio::time::timeout(Duration::from_secs(20), exec.process.wait()).await.expect("noticed");
        let Err(ExecError::Lost(reason)) = ended else { panic!("{ended:?}") };
        assert!(reason.starts_with("the connection to the jump host jump ended: "), "{reason}");
    }
    let error = sessions[0].exec("true").await.err().expect("the connection is gone");
    assert_eq!((error.class(), error.host()), (Class::Lost, "last"));
    assert!(error.to_string().contains("jump host jump"), "{error}");
    // Whoever comes now does not meet the dead connection, though it still has users.
    let session = reach("last", &options).await.expect("let in");
    assert_eq!(printed(&session, "echo in").await, "in\n");
    assert_eq!(logins(&jump), before + 1);
    drop((sessions, commands));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_jump_host_that_ends_during_a_handshake_is_named() {
    let home = TempHome::new();
    let jump = Sshd::start();
    // Behind it somebody listens who says nothing.
    let silent = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let port = silent.local_addr().expect("bound").port();
    let config = format!(
        "{}Host last\n  HostName 127.0.0.1\n  Port {port}\n  UserKnownHostsFile none\n  ProxyJump jump\n",
        jump.config("jump")
    );
    let options = options(&home, &config);
    let connecting = tokio::spawn(async move { reach("last", &options).await.map(drop) });
    let (mut stream, _) = silent.accept().await.expect("a connection");
    // Its first words came all the way.
    stream.read_exact(&mut [0; 4]).await.expect("an introduction");
    jump.cut_connections();
    let error: LaunchError = connecting.await.expect("no panic").expect_err("the way is gone");
    assert_eq!((error.class(), error.step()), (Class::Lost, Step::Jump), "{error}");
    assert!(error.to_string().contains("the connection to the jump host jump ended"), "{error}");
    let _ = stream.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn users_of_a_jump_host_have_connections_of_their_own() {
    let home = TempHome::new();
    let (jump, last) = (Sshd::start(), Sshd::start());
    // It forwards for an account without a shell as well.
    let config = format!(
        "{}{}{}  ProxyJump jump\n{}  ProxyJump other\n",
        jump.config("jump"),
        jump.config("other").replace("Host other\n", "Host other\n  User nobody\n"),
        last.config("one"),
        last.config("two"),
    );
    let options = options(&home, &config);
    let mut sessions = many("one", 2, &options).await;
    sessions.extend(many("two", 2, &options).await);
    let as_nobody = |line: &&String| line.starts_with("Accepted publickey for nobody ");
    assert_eq!(logins(&jump), 2, "{:#?}", jump.log());
    assert_eq!(jump.log().iter().filter(as_nobody).count(), 1);
    // So have those who gave their options no common origin.
    let apart = SshOptions { jump_hosts: Default::default(), ..options.clone() };
    sessions.push(connect(&SshTarget::new("one"), &apart).await.expect("let in"));
    assert_eq!(logins(&jump), 3);
    for session in &sessions {
        assert_eq!(printed(session, "echo in").await, "in\n");
    }
}

/// Knows the password, and counts how often it is asked.
struct Person(AtomicUsize);

impl Prompter for Person {
    fn ask(&self, _: Question) -> Answer<'_> {
        self.0.fetch_add(1, Ordering::SeqCst);
        Box::pin(async { Some(Secret::new(PASSWORD)) })
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_jump_hosts_password_is_asked_for_once() {
    let home = TempHome::new();
    let (jump, last) = (Sshd::builder().passwords().option("PermitRootLogin yes").start(), Sshd::start());
    let asking = "PreferredAuthentications password\n  BatchMode no";
    let config = format!(
        "{}{}  ProxyJump jump\n",
        jump.config("jump").replace("BatchMode yes", asking),
        last.config("last")
    );
    let person = Arc::new(Person(AtomicUsize::new(0)));
    let prompter: Arc<dyn Prompter> = Arc::clone(&person) as _;
    let options = SshOptions { prompter: Some(prompter), ..options(&home, &config) };
    let sessions = many("last", PASSENGERS + 2, &options).await;
    assert_eq!((person.0.load(Ordering::SeqCst), logins(&jump)), (1, 1));
    drop(sessions);
}
