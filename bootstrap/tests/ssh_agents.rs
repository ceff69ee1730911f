//! An agent is asked for its keys, and one that is odd or silent is no obstacle to them or to others.

mod ssh_client;

use std::time::Duration;

use farcall_bootstrap::ssh::{ConfigFiles, SshOptions};
use farcall_bootstrap::{Class, Step};
use farcall_test_support::{KeyKind, KeyPair, SshAgent, Sshd, TempHome};
use ssh_client::{block, options, printed, reach, system_ssh};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{UnixListener, UnixStream};

/// An agent between us and a real one, which lists a key of an unknown kind before the others and gives those comments that
/// are not UTF-8. Unless it `signs`, it never answers when it is asked for a signature.
fn odd_agent(home: &TempHome, real: &SshAgent, signs: bool) -> std::path::PathBuf {
    let socket = home.ssh("odd_agent");
    let listener = UnixListener::bind(&socket).expect("a socket");
    let real = real.socket().to_owned();
    tokio::spawn(async move {
        while let Ok((mut client, _)) = listener.accept().await {
            let mut agent = UnixStream::connect(&real).await.expect("the real agent");
            tokio::spawn(async move {
                while let Ok(request) = frame(&mut client).await {
                    if !signs && request[0] == 13 {
                        std::future::pending::<()>().await;
                    }
                    agent.write_all(&framed(&request)).await.expect("the real agent");
                    let mut answer = frame(&mut agent).await.expect("the real agent");
                    if request == [11] {
                        // One key: a type, a count, the key, its comment.
                        let key = 5..9 + u32::from_be_bytes(answer[5..9].try_into().expect("4")) as usize;
                        let unknown = framed(&framed(b"ssh-unknown"));
                        let comment = framed(b"\xff\xfe");
                        answer = [b"\x0c\0\0\0\x02", &*unknown, &comment, &answer[key], &comment].concat();
                    }
                    client.write_all(&framed(&answer)).await.expect("our client");
                }
            });
        }
    });
    socket
}

fn framed(text: &[u8]) -> Vec<u8> {
    [&u32::try_from(text.len()).expect("short").to_be_bytes(), text].concat()
}

async fn frame(stream: &mut UnixStream) -> std::io::Result<Vec<u8>> {
    let mut frame = vec![0; stream.read_u32().await? as usize];
    stream.read_exact(&mut frame).await?;
    Ok(frame)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_odd_entry_does_not_hide_the_agents_other_keys() {
    let home = TempHome::new();
    let agent = SshAgent::start();
    let key = home.key("key", KeyKind::Ed25519);
    agent.add(&key);
    let socket = odd_agent(&home, &agent, true);
    let with_odd =
        |sshd: &Sshd| options(&home, &block(sshd, &format!(" IdentityAgent {}", socket.display())));
    let sshd = Sshd::builder().authorize(&key).start();
    let options = with_odd(&sshd);
    let ConfigFiles::Only(file) = options.files.clone() else { unreachable!("set above") };
    let theirs =
        tokio::task::spawn_blocking(move || system_ssh(&file, "server", &[])).await.expect("no panic");
    assert!(theirs.status.success(), "{}", String::from_utf8_lossy(&theirs.stderr));
    let session = reach("server", &options).await.expect("the agent's key");
    assert_eq!(printed(&session, "echo in").await, "in\n");
    let error = reach("server", &with_odd(&Sshd::start())).await.expect_err("not authorized");
    assert_eq!(error.class(), Class::Auth);
    assert!(error.to_string().contains("ssh-unknown"), "{error}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_agent_that_does_not_sign_is_blamed_for_the_time() {
    let home = TempHome::new();
    let agent = SshAgent::start();
    let key = home.key("key", KeyKind::Ed25519);
    agent.add(&key);
    let sshd = Sshd::builder().authorize(&key).start();
    let config = block(&sshd, &format!(" IdentityAgent {}", odd_agent(&home, &agent, false).display()));
    let options = SshOptions { limit: Duration::from_secs(6), ..options(&home, &config) };
    let error = reach("server", &options).await.expect_err("the limit");
    assert_eq!((error.class(), error.step()), (Class::Timeout, Step::Authenticate), "{error}");
    assert!(error.to_string().contains("was asked for a signature and has not answered"), "{error}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_agent_that_does_not_answer_is_left_for_files() {
    let home = TempHome::new();
    let socket = home.ssh("silent_agent");
    // Takes the connection, as far as the system does that.
    let _silent = std::os::unix::net::UnixListener::bind(&socket).expect("a socket");
    let sshd = Sshd::start();
    let named = |key: &KeyPair| {
        format!(" IdentityFile {}\n IdentityAgent {}", key.path().display(), socket.display())
    };
    let limited = |config: &str| SshOptions { limit: Duration::from_secs(6), ..options(&home, config) };
    let known = limited(&block(&sshd, &named(sshd.client_key())));
    reach("server", &known).await.expect("let in by a file");
    let blamed = format!("the agent at {} does not answer", socket.display());
    let key = home.key("unknown", KeyKind::Ed25519);
    let error = reach("server", &limited(&block(&sshd, &named(&key)))).await.expect_err("not authorized");
    assert_eq!(error.class(), Class::Auth, "{error}");
    assert!(error.to_string().contains(&blamed), "{error}");

    // A server that takes the rest of the time is no reason to forget it.
    let frozen = Sshd::builder()
        .option("AuthorizedKeysCommand /bin/sleep 600")
        .option("AuthorizedKeysCommandUser root")
        .start();
    let options = SshOptions { limit: Duration::from_secs(6), ..limited(&block(&frozen, &named(&key))) };
    let error = reach("server", &options).await.expect_err("the limit");
    assert_eq!((error.class(), error.step()), (Class::Timeout, Step::Authenticate), "{error}");
    assert!(error.to_string().contains(&blamed), "{error}");
}
