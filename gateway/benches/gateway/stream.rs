//! Bytes through a channel over SSH, beside `ssh host 'cat >/dev/null'`.

use std::io::{Read, Write};
use std::path::Path;
use std::process::Stdio;
use std::time::{Duration, Instant};

use bytes::Bytes;
use farcall::{Gateway, Receiver};

use crate::Failure;
use crate::assignment::Assignment;
use crate::peers;
use crate::starts::remote;

/// Bytes that are handed over at once, by everybody.
const PIECE: usize = 1 << 20;

/// Takes all that comes, and says how much it was.
pub(crate) async fn swallow(mut bytes: Receiver<Bytes>) -> Result<u64, farcall::BoxError> {
    let mut sum = 0;
    while let Some(piece) = bytes.recv().await? {
        sum += piece.len() as u64;
    }
    Ok(sum)
}

/// MiB a second.
pub(crate) async fn run(assignment: &Assignment) -> Result<f64, Failure> {
    let (bytes, time) = match assignment.contender.as_str() {
        "ssh" => ssh(&assignment.home, assignment.length)?,
        _ => ours(&assignment.home, assignment.length).await?,
    };
    Ok(bytes as f64 / (1 << 20) as f64 / time.as_secs_f64())
}

/// From the first byte until the far side says that it has the last.
async fn ours(home: &Path, length: Duration) -> Result<(u64, Duration), Failure> {
    let gateway = Gateway::open(&remote(home, 0)).await?;
    let (sender, theirs) = gateway.pair();
    let swallowing = gateway.start(swallow, (theirs,)).await?;
    let piece = Bytes::from(vec![0x5a; PIECE]);
    let began = Instant::now();
    let mut sent = 0;
    while began.elapsed() < length {
        sender.send(piece.clone()).await?;
        sent += piece.len() as u64;
    }
    sender.close();
    let arrived = swallowing.await?;
    let time = began.elapsed();
    if arrived == sent { Ok((sent, time)) } else { Err(format!("{arrived} of {sent} bytes arrived").into()) }
}

/// The same: what its start and its end cost is kept out, since the far side speaks before the first byte and after the
/// last.
fn ssh(home: &Path, length: Duration) -> Result<(u64, Duration), Failure> {
    let mut child = peers::ssh(home, 0, "echo; cat >/dev/null; echo")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()?;
    let mut stdin = child.stdin.take().ok_or("stdin is piped")?;
    let mut stdout = child.stdout.take().ok_or("stdout is piped")?;
    stdout.read_exact(&mut [0])?;
    let piece = vec![0x5a; PIECE];
    let began = Instant::now();
    let mut sent = 0;
    while began.elapsed() < length {
        stdin.write_all(&piece)?;
        sent += piece.len() as u64;
    }
    drop(stdin);
    stdout.read_exact(&mut [0])?;
    let time = began.elapsed();
    let status = child.wait()?;
    if status.success() { Ok((sent, time)) } else { Err(format!("ssh ended with {status}").into()) }
}
