use std::sync::Arc;
use std::time::Duration;

use farcall_test_support::{Sshd, TempHome};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_util::sync::CancellationToken;

use super::start;
use crate::hub::Later;
use crate::process::Exit;
use crate::ssh::{ConfigFiles, DialFailure, Dialed, Dialer, Family, SshOptions, SshTarget, connect};

/// Connections through which nothing more goes towards the server once they are clogged.
struct Clogged(CancellationToken);

impl Dialer for Clogged {
    fn name(&self) -> &str {
        "clogged"
    }

    fn dial(&self, host: &str, port: u16, _: Family) -> Later<'_, Result<Dialed, DialFailure>> {
        let (host, clogged) = (host.to_owned(), self.0.clone());
        Box::pin(async move {
            let (reader, mut to_server) =
                TcpStream::connect((host, port)).await.expect("listens").into_split();
            let (mut from_us, writer) = tokio::io::duplex(4096);
            tokio::spawn(async move {
                tokio::select! {
                    _ = tokio::io::copy(&mut from_us, &mut to_server) => return,
                    () = clogged.cancelled() => {}
                }
                // Nobody reads this, so it waits until the other end is dropped, and so does the connection to the server.
                while from_us.write_all(&[0; 4096]).await.is_ok() {}
            });
            Ok(Dialed { reader: Box::new(reader), writer: Box::new(writer) })
        })
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_kill_ends_where_the_connection_takes_nothing_more() {
    let (home, sshd) = (TempHome::new(), Sshd::start());
    let clogged = CancellationToken::new();
    let options = SshOptions {
        files: ConfigFiles::Only(home.write("config", &sshd.config("server"))),
        dialer: Some(Arc::new(Clogged(clogged.clone()))),
        ..SshOptions::default()
    };
    let session = connect(&SshTarget::new("server"), &options).await.expect("let in");
    let mut started = start(&session, "echo up; exec cat > /dev/null").await.expect("a channel");
    let mut line = [0; 3];
    started.reader.read_exact(&mut line).await.expect("it runs");
    clogged.cancel();
    // Until nothing more is taken, from the window of the channel down to the pipe.
    let sent = vec![b'x'; 64 << 10];
    while tokio::time::timeout(Duration::from_secs(1), started.writer.write_all(&sent)).await.is_ok() {}
    started.process.kill();
    let ended = tokio::time::timeout(Duration::from_secs(10), started.process.wait()).await;
    assert_eq!(ended.expect("in time"), Exit::Unknown);
    // Nothing holds the connection but its users.
    drop((started, session));
    sshd.wait_until_idle();
}
