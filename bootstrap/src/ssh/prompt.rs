//! A TCP connection that acknowledges what it receives at once.
//!
//! OpenSSH's server switches Nagle's algorithm off only when it starts a command. Until then a second small packet waits in
//! its kernel for our acknowledgement of the first, and ours keeps that back for 40 ms, in the hope of an answer to send it
//! with. The confirmation of the first channel and what the first command says meet exactly that.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;

/// Ends the haste of a connection whose server no longer waits for acknowledgements: each costs a system call and a
/// packet. Clones are of the same connection.
#[derive(Clone, Debug, Default)]
pub(super) struct Haste(Arc<AtomicBool>);

impl Haste {
    /// Leaves acknowledgements to the system from now on.
    pub(super) fn end(&self) {
        self.0.store(true, Relaxed);
    }

    fn has_ended(&self) -> bool {
        self.0.load(Relaxed)
    }
}

/// A connection in [`Haste`].
pub(super) struct Prompt {
    stream: TcpStream,
    haste: Haste,
}

impl Prompt {
    pub(super) fn new(stream: TcpStream, haste: Haste) -> Self {
        Self { stream, haste }
    }
}

impl AsyncRead for Prompt {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let read = Pin::new(&mut self.stream).poll_read(cx, buf);
        if read.is_ready() && !self.haste.has_ended() {
            acknowledge(&self.stream);
        }
        read
    }
}

/// Sends the acknowledgement that is due. The system forgets the wish soon, so it is repeated at each read.
#[cfg(target_os = "linux")]
fn acknowledge(stream: &TcpStream) {
    // Where it fails, the connection is as slow as it would have been, or broken, which the next read says better.
    let _ = rustix::net::sockopt::set_tcp_quickack(stream, true);
}

/// Other systems have no such option.
#[cfg(not(target_os = "linux"))]
fn acknowledge(_: &TcpStream) {}

impl AsyncWrite for Prompt {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpListener;

    use super::*;

    /// Bytes that `stream` has sent and that were not acknowledged, as the kernel's table of connections has them.
    fn unacknowledged(stream: &TcpStream) -> u64 {
        let port = |address: io::Result<std::net::SocketAddr>| {
            format!(":{:04X}", address.expect("connected").port())
        };
        let (here, there) = (port(stream.local_addr()), port(stream.peer_addr()));
        let table = std::fs::read_to_string("/proc/net/tcp").expect("a mounted /proc");
        let queues = table.lines().find_map(|line| {
            let fields: Vec<&str> = line.split_whitespace().collect();
            (fields[1].ends_with(&here) && fields[2].ends_with(&there)).then(|| fields[4].to_owned())
        });
        let queues = queues.expect("a connection that the kernel knows");
        u64::from_str_radix(queues.split(':').next().expect("a queue"), 16).expect("a number")
    }

    /// In how many of 40 exchanges the far side's packet was acknowledged as soon as it was read.
    async fn at_once(haste: Haste) -> usize {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let stream = TcpStream::connect(listener.local_addr().expect("bound")).await.expect("connected");
        let (mut far, _) = listener.accept().await.expect("accepted");
        stream.set_nodelay(true).expect("an option");
        let mut near = Prompt::new(stream, haste);
        let mut count = 0;
        for _ in 0..40 {
            // Only who answers what it receives delays acknowledgements, and so do we here.
            near.write_all(b"?").await.expect("sent");
            far.read_u8().await.expect("arrived");
            far.write_all(b"!").await.expect("sent");
            near.read_u8().await.expect("arrived");
            count += usize::from(unacknowledged(&far) == 0);
        }
        count
    }

    #[tokio::test]
    async fn what_arrives_is_acknowledged_at_once_until_the_haste_ends() {
        let hasty = at_once(Haste::default()).await;
        assert!(hasty >= 36, "{hasty} of 40");
        let haste = Haste::default();
        haste.end();
        let calm = at_once(haste).await;
        // The first exchanges of a connection are acknowledged at once in any case.
        assert!(calm < 36, "{calm} of 40");
    }
}
