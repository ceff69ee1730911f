//! The hub's half of a connection: made from its host, relayed as bytes.

use std::sync::Arc;

use bytes::Bytes;
use farcall_bootstrap::ssh::{Family, dial_tcp};
use farcall_channel::{Channel, Raw, Receiver, Sender};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};

use super::crew::Crew;
use super::relay::RelayPresent;
use super::{background, name};
use crate::wire::{DialFamily, DialOrder, DialReport};

/// How much is read at once.
const CHUNK: usize = 64 * 1024;

/// As many reads at the beginning are acknowledged at once. A server that has not yet switched Nagle's algorithm off keeps its
/// next packet back until then, and the system would take its time.
const PROMPT_READS: u32 = 64;

/// Makes the connection that is ordered on `channel`.
pub(super) fn start(channel: Channel<DialReport, DialOrder>, crew: &Arc<Crew>) {
    match crew.relays.runtime() {
        // Ends with the connection, with its holder, or with the runtime when the worker ends; `stop` waits for it.
        Ok((runtime, present)) => drop(background::spawn_on(&runtime, live(channel, present))),
        // A new channel has room.
        Err(error) => {
            drop(channel.try_send(DialReport::Unreached(format!("the hub cannot start a thread: {error}"))))
        }
    }
}

async fn live(mut channel: Channel<DialReport, DialOrder>, _present: RelayPresent) {
    let Ok(Some(DialOrder { host, port, family, input, output })) = channel.recv().await else { return };
    let stream = tokio::select! {
        stream = connect(&host, port, family) => stream,
        // Nobody waits for it any more. How that came about does not matter.
        _ = channel.wait_closed() => return,
    };
    match stream {
        Ok(stream) => {
            if channel.send(DialReport::Connected).await.is_ok() {
                drop(channel);
                relay(stream, input, output).await;
            }
        }
        Err(report) => drop(channel.send(report).await),
    }
}

async fn connect(host: &str, port: u16, family: DialFamily) -> Result<TcpStream, DialReport> {
    let family = match family {
        DialFamily::Any => Family::Any,
        DialFamily::V4 => Family::V4,
        DialFamily::V6 => Family::V6,
    };
    let addresses = name::addresses(host, family).await;
    let addresses = addresses.map_err(|error| DialReport::Unresolved(error.to_string()))?;
    let stream = dial_tcp(&addresses, port).await;
    stream.map_err(|error| DialReport::Unreached(error.to_string()))
}

/// Moves bytes both ways until both have ended, or nobody reads what comes from the host.
async fn relay(stream: TcpStream, input: Receiver<Bytes, Raw>, output: Sender<Bytes, Raw>) {
    let (from, to) = stream.into_split();
    let mut up = std::pin::pin!(up(input, to));
    let mut down = std::pin::pin!(down(from, output));
    let mut upwards = true;
    loop {
        tokio::select! {
            open = &mut up, if upwards => {
                if !open {
                    return;
                }
                upwards = false;
            }
            open = &mut down => {
                // A host that has said all may still listen.
                if open && upwards {
                    up.await;
                }
                return;
            }
        }
    }
}

/// Returns whether the other way may go on.
async fn up(mut input: Receiver<Bytes, Raw>, mut to: OwnedWriteHalf) -> bool {
    loop {
        match input.recv().await {
            Ok(Some(bytes)) => {
                if to.write_all(&bytes).await.is_err() {
                    input.close_with("the host reads no more");
                    // What it said before may say why.
                    return true;
                }
            }
            Ok(None) => return to.shutdown().await.is_ok(),
            Err(_) => return false,
        }
    }
}

/// Returns whether the other way may go on.
async fn down(mut from: OwnedReadHalf, output: Sender<Bytes, Raw>) -> bool {
    let mut buffer = vec![0; CHUNK];
    let mut reads = 0;
    loop {
        let read = tokio::select! {
            read = from.read(&mut buffer) => read,
            // Nobody reads.
            _ = output.wait_closed() => return false,
        };
        if reads < PROMPT_READS {
            reads += 1;
            acknowledge(from.as_ref());
        }
        match read {
            Ok(0) => {
                output.close();
                return true;
            }
            Ok(length) => {
                if output.send(Bytes::copy_from_slice(&buffer[..length])).await.is_err() {
                    return false;
                }
            }
            Err(error) => {
                output.close_with(error.to_string());
                return false;
            }
        }
    }
}

/// Sends the acknowledgement that is due.
#[cfg(target_os = "linux")]
fn acknowledge(stream: &TcpStream) {
    // Where it fails, the connection is as slow as it would have been, or broken, which the next read says better.
    let _ = rustix::net::sockopt::set_tcp_quickack(stream, true);
}

/// Other systems have no such option.
#[cfg(not(target_os = "linux"))]
fn acknowledge(_: &TcpStream) {}
