//! A command on a session: its streams are whole, its end is known, and no reader holds up another.

mod ssh_client;

use std::time::Duration;

use farcall_bootstrap::ssh::{ExecError, ExitStatus, SshOptions};
use farcall_bootstrap::{Class, Step};
use farcall_test_support::{Sshd, TempHome};
use ssh_client::{options, printed, reach};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt};

fn setting(sshd: &Sshd, home: &TempHome) -> SshOptions {
    options(home, &sshd.config("server"))
}

/// A bound for what must happen soon.
async fn soon<T>(future: impl Future<Output = T>) -> T {
    tokio::time::timeout(Duration::from_secs(30), future).await.expect("in time")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ends_and_streams() {
    let (home, sshd) = (TempHome::new(), Sshd::start());
    let session = reach("server", &setting(&sshd, &home)).await.expect("let in");

    let mut exec = session.exec("cat; echo oops >&2; exit 3").await.expect("a channel");
    exec.stdin.write_all(b"hello ").await.expect("written");
    exec.stdin.write_all(b"there").await.expect("written");
    exec.stdin.shutdown().await.expect("ended");
    let (mut out, mut err) = (String::new(), String::new());
    exec.stdout.read_to_string(&mut out).await.expect("read");
    exec.stderr.read_to_string(&mut err).await.expect("read");
    assert_eq!((out.as_str(), err.as_str()), ("hello there", "oops\n"));
    assert_eq!(soon(exec.process.wait()).await, Ok(ExitStatus::Exited(3)));
    assert_eq!(exec.process.stderr_tail(), b"oops\n");
    soon(exec.process.closed()).await;
    let error = exec.stdin.write_all(b"late").await.expect_err("closed");
    assert_eq!(error.kind(), std::io::ErrorKind::BrokenPipe);

    let exec = session.exec("kill -TERM $$").await.expect("a channel");
    let expected = ExitStatus::Signaled { signal: "TERM".into(), core_dumped: false };
    assert_eq!(soon(exec.process.wait()).await, Ok(expected));

    let exec = session.exec("exec sleep 600").await.expect("a channel");
    soon(exec.process.kill()).await.expect("sent");
    // A server signals the commands of root only since OpenSSH 9.8; an older one closes the channel.
    let by_signal = ExitStatus::Signaled { signal: "KILL".into(), core_dumped: false };
    let status = soon(exec.process.wait()).await.expect("an end");
    assert!(status == by_signal || status == ExitStatus::Unknown, "{status:?}");
    soon(exec.process.closed()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_ignores_signals_cannot_keep_a_killed_command() {
    let home = TempHome::new();
    // Where a command is forced, signals are not delivered.
    let sshd = Sshd::builder().option("ForceCommand trap '' TERM; sleep 600").start();
    let session = reach("server", &setting(&sshd, &home)).await.expect("let in");
    let exec = session.exec("true").await.expect("a channel");
    soon(exec.process.kill()).await.expect("sent");
    soon(exec.process.closed()).await;
    assert_eq!(soon(exec.process.wait()).await, Ok(ExitStatus::Unknown));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_end_is_known_while_output_is_held_open() {
    let (home, sshd) = (TempHome::new(), Sshd::start());
    let session = reach("server", &setting(&sshd, &home)).await.expect("let in");
    let mut exec = session.exec("sleep 600 & echo $!; exit 5").await.expect("a channel");
    assert_eq!(soon(exec.process.wait()).await, Ok(ExitStatus::Exited(5)));
    let mut line = String::new();
    let mut stdout = tokio::io::BufReader::new(&mut exec.stdout);
    soon(stdout.read_line(&mut line)).await.expect("read");
    let sleeper = rustix::process::Pid::from_raw(line.trim().parse().expect("a number")).expect("not zero");
    // It still holds the output: the end comes with its death, and not before.
    rustix::process::kill_process(sleeper, rustix::process::Signal::KILL).expect("it was running");
    let mut rest = String::new();
    soon(stdout.read_to_string(&mut rest)).await.expect("read");
    assert_eq!(rest, "");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn much_in_both_directions() {
    let (home, sshd) = (TempHome::new(), Sshd::start());
    let session = reach("server", &setting(&sshd, &home)).await.expect("let in");
    let mut exec = session.exec("cat").await.expect("a channel");
    let sent: Vec<u8> = (0..12_000_000_u32).map(|n| (n % 251) as u8).collect();
    let mut received = Vec::new();
    let (wrote, read) = soon(async {
        tokio::join!(
            async {
                exec.stdin.write_all(&sent).await?;
                exec.stdin.shutdown().await
            },
            exec.stdout.read_to_end(&mut received)
        )
    })
    .await;
    wrote.expect("written");
    read.expect("read");
    assert!(received == sent);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn output_that_nobody_reads_holds_up_nobody_and_has_a_bound() {
    let (home, sshd) = (TempHome::new(), Sshd::start());
    let options = SshOptions { backlog: 4 << 20, window: 1 << 20, ..setting(&sshd, &home) };
    let session = reach("server", &options).await.expect("let in");
    // Three times its window, which it keeps to itself.
    let mut unread = session.exec("head -c 3145728 /dev/zero; echo done >&2; cat").await.expect("a channel");
    let mut word = [0; 5];
    soon(unread.stderr.read_exact(&mut word)).await.expect("all of it was taken");
    assert_eq!(soon(printed(&session, "echo beside")).await, "beside\n");
    let mut all = vec![0; 3 << 20];
    soon(unread.stdout.read_exact(&mut all)).await.expect("kept");

    let mut endless = session.exec("cat /dev/zero").await.expect("a channel");
    assert_eq!(soon(endless.process.wait()).await, Err(ExecError::Backlog(4 << 20)));
    let error = soon(endless.stdout.read_to_end(&mut Vec::new())).await.expect_err("cut");
    assert_eq!(error.kind(), std::io::ErrorKind::QuotaExceeded);
    assert_eq!(soon(printed(&session, "echo beside")).await, "beside\n");

    // Standard error keeps its end, and as much as was promised.
    let mut loud =
        session.exec("head -c 3000000 /dev/zero | tr '\\0' x >&2; echo last >&2").await.expect("a channel");
    assert_eq!(soon(loud.process.wait()).await, Ok(ExitStatus::Exited(0)));
    soon(loud.process.closed()).await;
    let mut text = Vec::new();
    loud.stderr.read_to_end(&mut text).await.expect("read");
    assert!(text.ends_with(b"xlast\n") && text.len() <= (1 << 20), "{}", text.len());
    assert_eq!(loud.process.stderr_tail().len(), 4096);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_writer_is_woken_when_nobody_will_ever_read() {
    let (home, sshd) = (TempHome::new(), Sshd::start());
    let session = reach("server", &setting(&sshd, &home)).await.expect("let in");
    // The window fills up, and then the far side ends.
    let mut exec = session.exec("sleep 1").await.expect("a channel");
    let error = soon(exec.stdin.write_all(&vec![0; 64 << 20])).await.expect_err("nobody reads");
    assert_eq!(error.kind(), std::io::ErrorKind::BrokenPipe);
    assert_eq!(soon(exec.process.wait()).await, Ok(ExitStatus::Exited(0)));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lost_connection_ends_everything_on_it() {
    let (home, sshd) = (TempHome::new(), Sshd::start());
    let session = reach("server", &setting(&sshd, &home)).await.expect("let in");
    let mut exec = session.exec("echo up; cat").await.expect("a channel");
    let mut line = [0; 3];
    soon(exec.stdout.read_exact(&mut line)).await.expect("it runs");
    sshd.cut_connections();
    assert!(matches!(soon(exec.process.wait()).await, Err(ExecError::Lost(_))));
    let error = soon(exec.stdout.read_to_end(&mut Vec::new())).await.expect_err("not an end like any other");
    assert_eq!(error.kind(), std::io::ErrorKind::ConnectionAborted);
    assert!(soon(exec.stdin.write_all(b"x")).await.is_err());
    let error = soon(session.exec("true")).await.err().expect("lost");
    assert_eq!((error.class(), error.step()), (Class::Lost, Step::Session));
    assert!(session.is_closed());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn too_many_channels_are_refused_with_a_reason() {
    let home = TempHome::new();
    let sshd = Sshd::builder().option("MaxSessions 2").start();
    let session = reach("server", &setting(&sshd, &home)).await.expect("let in");
    let one = session.exec("cat").await.expect("a channel");
    let _two = session.exec("cat").await.expect("a channel");
    let error = session.exec("cat").await.err().expect("refused");
    assert_eq!((error.class(), error.step()), (Class::Bootstrap, Step::Session));
    assert!(error.hint().expect("a hint").contains("MaxSessions"));
    // Dropping a command makes room.
    let closed = one.process.clone();
    drop((one.stdin, one.stdout, one.stderr, one.process));
    closed.kill().await.expect("sent");
    soon(closed.closed()).await;
    // The server counts a session until its process has ended.
    soon(async { while session.exec("cat").await.is_err() {} }).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn dropping_a_command_closes_its_streams_and_no_other() {
    let (home, sshd) = (TempHome::new(), Sshd::start());
    let session = reach("server", &setting(&sshd, &home)).await.expect("let in");
    let mark = home.ssh("ended");
    let kept = session.exec("cat").await.expect("a channel");
    let command = format!("echo up; cat; echo ended > {}.new; mv {0}.new {0}", mark.display());
    let mut dropped = session.exec(&command).await.expect("a channel");
    let mut line = [0; 3];
    soon(dropped.stdout.read_exact(&mut line)).await.expect("it runs");
    drop(dropped);
    soon(async {
        while !mark.exists() {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    })
    .await;
    assert_eq!(kept.process.status(), None);
    // The connection lives as long as anything on it, the session's own handle or not.
    let mut kept = kept;
    drop(session);
    kept.stdin.write_all(b"still here").await.expect("written");
    kept.stdin.shutdown().await.expect("ended");
    let mut text = String::new();
    soon(kept.stdout.read_to_string(&mut text)).await.expect("read");
    assert_eq!(text, "still here");
    drop(kept);
    sshd.wait_for_log("Received disconnect", 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn connections_come_from_the_address_that_is_asked_for() {
    let home = TempHome::new();
    let sshd = Sshd::start();
    let from = |address: &str| options(&home, &format!("{}  BindAddress {address}\n", sshd.config("server")));
    for (address, seen) in [("127.0.0.9", "127.0.0.9"), ("localhost", "127.0.0.1")] {
        for program in [Some("ssh".into()), None] {
            let options = SshOptions { program, ..from(address) };
            let session = reach("server", &options).await.expect(address);
            assert_eq!(printed(&session, "echo ${SSH_CLIENT%% *}").await.trim(), seen);
        }
    }
    for (address, class, said) in [
        ("nowhere.invalid", Class::Resolve, "BindAddress nowhere.invalid: "),
        ("::1", Class::Connect, "BindAddress has no address of this family"),
        // Of a network for documentation (RFC 5737): nobody's own.
        ("192.0.2.1", Class::Connect, "127.0.0.1"),
    ] {
        let error = reach("server", &from(address)).await.expect_err(address);
        assert_eq!(error.class(), class, "{error}");
        assert!(error.to_string().contains(said), "{error}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn settings_of_the_transport_are_honoured() {
    let home = TempHome::new();
    let sshd = Sshd::builder().option("LogLevel DEBUG1").start();
    let base = sshd.config("server");
    for (settings, expected) in [
        ("", "cipher: aes256-gcm@openssh.com"),
        ("  Ciphers aes128-ctr\n  MACs hmac-sha2-512\n", "cipher: aes128-ctr MAC: hmac-sha2-512"),
        ("  KexAlgorithms diffie-hellman-group14-sha256\n", "kex: algorithm: diffie-hellman-group14-sha256"),
        ("  Compression yes\n", "compression: zlib@openssh.com"),
        (
            "  KexAlgorithms ecdh-sha2-nistp384\n  Ciphers chacha20-poly1305@openssh.com\n",
            "kex: algorithm: ecdh-sha2-nistp384",
        ),
    ] {
        let before = sshd.log().len();
        let session = reach("server", &options(&home, &format!("{base}{settings}"))).await.expect(settings);
        assert_eq!(printed(&session, "head -c 100000 /dev/zero | wc -c").await.trim(), "100000");
        assert!(
            sshd.log()[before..].iter().any(|line| line.contains(expected)),
            "{expected}: {:#?}",
            &sshd.log()[before..]
        );
    }
    let none = options(&home, &format!("{base}  Ciphers 3des-cbc\n"));
    let error = reach("server", &none).await.expect_err("nothing in common");
    assert_eq!(error.class(), Class::Connect);
}
