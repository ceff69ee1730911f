//! A host behind others is reached through them, each of them checked as strictly as the last.

mod ssh_client;

use farcall_bootstrap::ssh::SshOptions;
use farcall_bootstrap::{Class, Step};
use farcall_test_support::{Sshd, TempHome};
use ssh_client::{class, options, printed, reach, system_ssh};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn through_two_hosts() {
    let home = TempHome::new();
    let (first, second, last) = (Sshd::start(), Sshd::start(), Sshd::start());
    let config = format!(
        "{}{}{}  ProxyJump first,second\n",
        first.config("first"),
        second.config("second"),
        last.config("last")
    );
    let options = options(&home, &config);
    let session = reach("last", &options).await.expect("let in everywhere");
    assert_eq!(printed(&session, "echo $SSH_CONNECTION | cut -d' ' -f4").await, format!("{}\n", last.port()));
    for sshd in [&first, &second, &last] {
        sshd.wait_for_log("Accepted publickey", 1);
    }

    // As much as does not fit into any buffer on the way, in both directions.
    let mut exec = session.exec("cat").await.expect("a channel");
    let sent = vec![b'x'; 8 << 20];
    let mut received = Vec::new();
    let (wrote, read) = tokio::join!(
        async {
            exec.stdin.write_all(&sent).await?;
            exec.stdin.shutdown().await
        },
        exec.stdout.read_to_end(&mut received)
    );
    wrote.expect("written");
    read.expect("read");
    assert!(received == sent, "{} of {} bytes", received.len(), sent.len());

    // With the last user the connections through all hosts end.
    drop((exec, session));
    for sshd in [&first, &second, &last] {
        sshd.wait_until_idle();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tokens_name_jump_hosts_and_fill_commands() {
    let home = TempHome::new();
    let (jump, last) = (Sshd::start(), Sshd::start());
    // The port, too, is the one that is named there.
    let port = format!("Port {}\n", jump.port());
    let named = format!(
        "{}{}  ProxyJump %r@jump-%n:{}\n",
        jump.config("jump-last").replace(&port, "Port 1\n"),
        last.config("last"),
        jump.port()
    );
    let copy = home.ssh("seen");
    let helper = format!(
        "{}  HostKeyAlias Web\n  ProxyCommand bash -c 'echo %k %n %p > {}; exec 3<>/dev/tcp/%h/%p; cat <&3 & cat >&3'\n",
        last.config("last"),
        copy.display()
    );
    std::fs::write(
        last.dir().join("known_hosts_last"),
        format!("{}{}", last.known_hosts(), last.known_hosts_as("web")),
    )
    .expect("writable");
    for (config, seen) in [(named, None), (helper, Some(format!("web last {}\n", last.port())))] {
        let options = options(&home, &config);
        let farcall_bootstrap::ssh::ConfigFiles::Only(file) = &options.files else {
            unreachable!("set above")
        };
        let theirs = system_ssh(file, "last", &[]);
        assert!(theirs.status.success(), "{}", String::from_utf8_lossy(&theirs.stderr));
        for options in [options.clone(), SshOptions { program: None, ..options.clone() }] {
            if seen.is_some() {
                assert_eq!(std::fs::read_to_string(&copy).ok(), seen);
                std::fs::remove_file(&copy).expect("written by the one before");
            }
            let session = reach("last", &options).await.expect("let in");
            assert_eq!(printed(&session, "echo in").await, "in\n");
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_jump_host_may_have_one_of_its_own() {
    let home = TempHome::new();
    let (first, second, last) = (Sshd::start(), Sshd::start(), Sshd::start());
    let config = format!(
        "{}{}  ProxyJump first\n{}  ProxyJump second\n",
        first.config("first"),
        second.config("second"),
        last.config("last")
    );
    let session = reach("last", &options(&home, &config)).await.expect("let in everywhere");
    assert_eq!(printed(&session, "echo in").await, "in\n");
    first.wait_for_log("Accepted publickey", 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_hop_is_checked_and_a_failure_says_which() {
    let home = TempHome::new();
    let (jump, last) = (Sshd::start(), Sshd::start());
    let known = |alias: &str| jump.dir().join(format!("known_hosts_{alias}"));
    let config = format!("{}{}  ProxyJump jump\n", jump.config("jump"), last.config("last"));
    let good = options(&home, &config);

    std::fs::write(known("jump"), "").expect("writable");
    let error = reach("last", &good).await.expect_err("an unknown jump host");
    assert_eq!((error.step(), error.class(), error.host()), (Step::Jump, Class::HostKey, "last"));
    let text = error.to_string();
    assert!(
        text.contains("jump: host key failure at host key")
            && text.contains(&format!("{}' >> ", jump.host_key(0).public())),
        "{text}"
    );
    // Nothing of us was shown to it.
    assert!(!last.log().iter().any(|line| line.contains("Connection from")));

    std::fs::write(known("jump"), jump.known_hosts()).expect("writable");
    std::fs::write(last.dir().join("known_hosts_last"), "").expect("writable");
    let error = reach("last", &good).await.expect_err("an unknown last host");
    assert_eq!((error.step(), error.class()), (Step::HostKey, Class::HostKey));

    let closed = Sshd::builder().option("AllowTcpForwarding no").start();
    let config = format!("{}{}  ProxyJump closed\n", closed.config("closed"), last.config("last"));
    let error = reach("last", &options(&home, &config)).await.expect_err("no forwarding");
    assert_eq!((error.step(), error.class()), (Step::Jump, Class::Connect));
    assert!(error.hint().expect("a hint").contains("AllowTcpForwarding"));

    // Nobody listens behind the jump host.
    let config =
        format!("{}Host gone\n  HostName 127.0.0.1\n  Port 1\n  ProxyJump jump\n", jump.config("jump"));
    let error = reach("gone", &options(&home, &config)).await.expect_err("refused");
    assert_eq!((error.step(), error.class()), (Step::Jump, Class::Connect));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_circle_has_an_end() {
    let home = TempHome::new();
    let config = "Host a\n  ProxyJump b\nHost b\n  ProxyJump a\n";
    let error = reach("a", &options(&home, config)).await.expect_err("a circle");
    assert_eq!((error.step(), error.class()), (Step::Jump, Class::Connect));
    assert!(error.hint().expect("a hint").contains("circle"), "{error}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn through_a_command() {
    let home = TempHome::new();
    let sshd = Sshd::start();
    // bash can make a connection of its own; whatever else can is not installed everywhere.
    let bridge = home.write(
        "bridge",
        "#!/bin/bash\nexec 3<>/dev/tcp/$1/$2 || exit 1\necho bridging >&2\ncat <&3 & cat >&3\nkill $!\n",
    );
    let config = format!("{}  ProxyCommand bash {} %h %p\n", sshd.config("server"), bridge.display());
    let options = options(&home, &config);
    let session = reach("server", &options).await.expect("let in");
    assert_eq!(printed(&session, "echo in").await, "in\n");
    drop(session);
    sshd.wait_until_idle();

    let failing = format!("{}  ProxyCommand echo no way >&2; exit 7\n", sshd.config("server"));
    let options = ssh_client::options(&home, &failing);
    let farcall_bootstrap::ssh::ConfigFiles::Only(file) = &options.files else { unreachable!("set above") };
    assert!(!system_ssh(file, "server", &[]).status.success());
    let error = reach("server", &options).await.expect_err("the command fails");
    assert_eq!((error.step(), error.class()), (Step::KeyExchange, Class::Connect));
    assert!(error.evidence().contains("no way"), "{error:?}");
    assert!(error.to_string().contains("ProxyCommand ended"), "{error}");

    let unknown = format!("{}  ProxyCommand x %z\n", sshd.config("server"));
    assert!(
        reach("server", &ssh_client::options(&home, &unknown)).await.is_err_and(|e| e.step() == Step::Config)
    );
    assert_eq!(class(&reach("server", &ssh_client::options(&home, &sshd.config("server"))).await), None);
}
