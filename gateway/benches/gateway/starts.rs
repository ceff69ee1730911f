//! From nothing to the first reply: local, and over SSH with and without the program being there.

use std::io::{Read, Write};
use std::path::Path;
use std::process::{Command, ExitCode, Stdio};
use std::time::Instant;

use farcall::ssh::ConfigFiles;
use farcall::{Delivery, Gateway, Spec};

use crate::Failure;
use crate::assignment::Assignment;
use crate::farm;
use crate::peers;
use crate::times::{median, milliseconds};

/// The argument that makes this program reply and wait for the end of its input, with nothing of ours.
pub(crate) const REPLY: &str = "reply";

/// The task that is called for the first reply.
pub(crate) async fn nothing() {}

/// Milliseconds of a start.
pub(crate) async fn run(assignment: &Assignment) -> Result<f64, Failure> {
    let home = &assignment.home;
    if (assignment.row.as_str(), assignment.contender.as_str()) == ("start_ssh_warm", "ours") {
        // The first of all brings the program there.
        timed(&remote(home, 0)).await?;
    }
    let once = async || match (assignment.row.as_str(), assignment.contender.as_str()) {
        ("start_local", "exec") => fork_and_exec(),
        ("start_local", _) => open(&Spec::local(), Delivery::Present).await,
        (_, "ssh") => peers::ssh_true(home),
        ("start_ssh_ship", _) => {
            let cache = farm::cache(home, 0);
            std::fs::remove_dir_all(&cache)?;
            std::fs::create_dir(&cache)?;
            let (time, delivery) = timed(&remote(home, 0)).await?;
            match delivery {
                Delivery::Sent { .. } => Ok(time),
                other => Err(format!("a cold start found its program {other:?}").into()),
            }
        }
        _ => open(&remote(home, 0), Delivery::Cached).await,
    };
    median(assignment.length, once).await
}

/// A place on one of the servers.
pub(crate) fn remote(home: &Path, server: usize) -> Spec {
    Spec::ssh(farm::name(server)).config(ConfigFiles::Only(farm::config(home)))
}

async fn open(spec: &Spec, expected: Delivery) -> Result<f64, Failure> {
    match timed(spec).await? {
        (time, delivery) if delivery == expected => Ok(time),
        (_, other) => Err(format!("the program came there as {other:?}").into()),
    }
}

/// Starts a worker, has it reply, and ends it; the end is not part of the time.
async fn timed(spec: &Spec) -> Result<(f64, Delivery), Failure> {
    let began = Instant::now();
    let gateway = Gateway::open(spec).await?;
    gateway.call(nothing, ()).await?;
    let time = milliseconds(began);
    let delivery = gateway.delivery();
    gateway.exit();
    gateway.wait().await;
    Ok((time, delivery))
}

/// The same program started by hand: fork, exec, and one byte of reply.
fn fork_and_exec() -> Result<f64, Failure> {
    let began = Instant::now();
    let mut child = Command::new(std::env::current_exe()?)
        .arg(REPLY)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()?;
    let mut reply = [0];
    child.stdout.take().ok_or("stdout is piped")?.read_exact(&mut reply)?;
    let time = milliseconds(began);
    drop(child.stdin.take());
    child.wait()?;
    Ok(time)
}

/// The other half of [`fork_and_exec`].
pub(crate) fn reply() -> ExitCode {
    let replied = std::io::stdout().write_all(b"!").and_then(|()| std::io::stdout().flush());
    let ended = replied.and_then(|()| std::io::stdin().read(&mut [0]));
    if ended.is_ok() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
