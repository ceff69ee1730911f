//! The byte stream below SSH: a TCP connection or a proxy command.

use std::error::Error;
use std::fmt;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::pin::Pin;
use std::process::Stdio;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, ReadBuf};
use tokio::net::{TcpSocket, TcpStream};
use tokio::process::{ChildStdin, ChildStdout, Command};
use tokio::task::JoinSet;

use super::resolve::Family;
use crate::error::EVIDENCE_LIMIT;
use crate::helper::{self, Group};
use crate::hub::Later;

/// How long an address may stay silent before the next is tried beside it (RFC 8305, section 5).
const STAGGER: Duration = Duration::from_millis(250);

/// Makes connections in another way than from this machine.
///
/// The stream carries SSH end to end: what makes the connection sees no keys, and need not be trusted with more than with
/// knowing where it leads.
pub trait Dialer: Send + Sync {
    /// Where connections start, in errors and for the [gate](super::Gate): each place is a client of its own to servers.
    fn name(&self) -> &str;

    /// Connects to a host, whose name is looked up where the connection starts. A dropped attempt is given up there.
    fn dial(&self, host: &str, port: u16, family: Family) -> Later<'_, Result<Dialed, DialFailure>>;
}

/// A connection that a [`Dialer`] made.
pub struct Dialed {
    /// What the server says.
    pub reader: Box<dyn AsyncRead + Send + Unpin>,
    /// What the server hears.
    pub writer: Box<dyn AsyncWrite + Send + Unpin>,
}

impl fmt::Debug for Dialed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Dialed").finish_non_exhaustive()
    }
}

/// Why a [`Dialer`] made no connection.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DialFailure {
    /// The name has no address there.
    #[error(transparent)]
    Resolve(Box<dyn Error + Send + Sync>),
    /// The host did not take the connection.
    #[error(transparent)]
    Connect(Box<dyn Error + Send + Sync>),
    /// Where the connection was to start is gone.
    #[error(transparent)]
    Lost(Box<dyn Error + Send + Sync>),
}

/// No address took the connection.
#[derive(Debug, thiserror::Error)]
#[error("{address}: {source}")]
pub struct DialError {
    address: SocketAddr,
    source: io::Error,
}

/// Connects to the first of `addresses` that answers, giving each a short lead before the next is tried beside it. The
/// attempts that lose are dropped with the future.
///
/// # Errors
/// That of the first address, if none answers.
pub async fn tcp(addresses: &[IpAddr], port: u16) -> Result<TcpStream, DialError> {
    endpoints(addresses.iter().map(|&ip| SocketAddr::new(ip, port)).collect(), None).await
}

/// The same for addresses with ports, from one of the addresses in `origins` where that is given: the first of the same family.
pub(crate) async fn endpoints(
    addresses: Vec<SocketAddr>,
    origins: Option<Vec<IpAddr>>,
) -> Result<TcpStream, DialError> {
    let mut waiting = addresses.into_iter();
    let mut running = JoinSet::new();
    let mut first_error = None;
    loop {
        let next = waiting.next();
        if let Some(address) = next {
            let origin = origins.as_ref().map(|origins| {
                let near = origins.iter().copied().find(|origin| origin.is_ipv4() == address.is_ipv4());
                near.ok_or_else(|| io::Error::other(OtherFamily))
            });
            running.spawn(async move {
                let connected = match origin.transpose() {
                    Ok(origin) => one(address, origin).await,
                    Err(error) => Err(error),
                };
                connected.map_err(|source| DialError { address, source })
            });
        }
        let more = waiting.len() > 0;
        loop {
            let lead =
                async { if more { tokio::time::sleep(STAGGER).await } else { std::future::pending().await } };
            tokio::select! {
                ended = running.join_next() => match ended {
                    Some(Ok(Ok(stream))) => return Ok(stream),
                    Some(Ok(Err(e))) => {
                        // The first failure is the one of the preferred address.
                        first_error.get_or_insert(e);
                        if more || running.is_empty() { break }
                    }
                    Some(Err(_)) => if more || running.is_empty() { break },
                    None => break,
                },
                () = lead => break,
            }
        }
        if !more && running.is_empty() {
            return Err(first_error.unwrap_or_else(|| DialError {
                address: SocketAddr::from(([0, 0, 0, 0], 0)),
                source: io::ErrorKind::AddrNotAvailable.into(),
            }));
        }
    }
}

/// Connections of one family come from an address of that family.
#[derive(Debug, thiserror::Error)]
#[error("BindAddress has no address of this family")]
struct OtherFamily;

async fn one(address: SocketAddr, origin: Option<IpAddr>) -> io::Result<TcpStream> {
    let socket = if address.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
    // As ssh's TCPKeepAlive: a peer that vanished is noticed some day, even without keepalive of the protocol.
    socket.set_keepalive(true)?;
    socket.set_nodelay(true)?;
    if let Some(origin) = origin {
        socket.bind(SocketAddr::new(origin, 0))?;
    }
    socket.connect(address).await
}

/// The standard streams of a proxy command. The command, with what it has started in its group, is killed when this and its
/// [`Complaints`] are dropped.
pub(crate) struct Proxy {
    stdin: ChildStdin,
    stdout: ChildStdout,
    _group: Arc<Group>,
}

/// What a proxy command says on standard error.
pub(crate) struct Complaints {
    said: Arc<Mutex<Vec<u8>>>,
    reading: tokio::task::JoinHandle<()>,
    /// A command that has closed its output may be about to say why.
    _group: Arc<Group>,
}

impl Complaints {
    /// The end of what it has said. A command that has just ended may have said why, so this waits for a moment.
    pub(crate) async fn hear(mut self) -> Vec<u8> {
        let _ = tokio::time::timeout(Duration::from_millis(500), &mut self.reading).await;
        std::mem::take(&mut self.said.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// Starts a proxy command under `/bin/sh`.
pub(crate) fn proxy(command: &str) -> io::Result<(Proxy, Complaints)> {
    let mut shell = Command::new("/bin/sh");
    shell.arg("-c").arg(format!("exec {command}"));
    shell.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut group = helper::spawn_group(shell)?;
    let stdin = group.child.stdin.take().expect("standard input was piped");
    let stdout = group.child.stdout.take().expect("standard output was piped");
    let mut stderr = group.child.stderr.take().expect("standard error was piped");
    let said = Arc::<Mutex<Vec<u8>>>::default();
    let kept = Arc::clone(&said);
    // Ends with the command: nobody else holds the other end of the pipe, unless the command left children behind
    // that do, and then it waits for those without cost.
    let reading = tokio::spawn(async move {
        let mut buffer = [0; 1024];
        while let Ok(n @ 1..) = stderr.read(&mut buffer).await {
            keep_tail(&mut kept.lock().unwrap_or_else(PoisonError::into_inner), &buffer[..n]);
        }
    });
    let group = Arc::new(group);
    Ok((Proxy { stdin, stdout, _group: Arc::clone(&group) }, Complaints { said, reading, _group: group }))
}

/// Appends `bytes` to `tail` and forgets what is before its last [`EVIDENCE_LIMIT`] bytes.
pub(crate) fn keep_tail(tail: &mut Vec<u8>, bytes: &[u8]) {
    let bytes = &bytes[bytes.len().saturating_sub(EVIDENCE_LIMIT)..];
    let excess = (tail.len() + bytes.len()).saturating_sub(EVIDENCE_LIMIT);
    tail.drain(..excess.min(tail.len()));
    tail.extend_from_slice(bytes);
}

impl AsyncRead for Proxy {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stdout).poll_read(cx, buf)
    }
}

impl AsyncWrite for Proxy {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stdin).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stdin).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stdin).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use tokio::net::TcpListener;

    use super::*;

    #[tokio::test]
    async fn an_address_that_refuses_does_not_hide_the_next() {
        let listener = TcpListener::bind("127.0.0.2:0").await.expect("a port");
        let port = listener.local_addr().expect("bound").port();
        let addresses = ["127.0.0.3".parse().expect("an address"), "127.0.0.2".parse().expect("an address")];
        let stream = tcp(&addresses, port).await.expect("the second address answers");
        assert_eq!(stream.peer_addr().expect("connected").ip(), addresses[1]);

        drop(listener);
        let refused = tcp(&addresses, port).await.expect_err("nobody listens");
        assert_eq!(refused.address.ip(), addresses[0]);
        assert_eq!(refused.source.kind(), io::ErrorKind::ConnectionRefused);
    }

    #[test]
    fn the_tail_is_bounded() {
        let mut tail = Vec::new();
        for n in 0..3000_u32 {
            keep_tail(&mut tail, n.to_string().as_bytes());
        }
        assert_eq!(tail.len(), EVIDENCE_LIMIT);
        assert!(tail.ends_with(b"29982999"));
        keep_tail(&mut tail, &[b'x'; EVIDENCE_LIMIT * 2]);
        assert_eq!(tail, [b'x'; EVIDENCE_LIMIT]);
    }
}
