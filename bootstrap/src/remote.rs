//! A program at the end of an SSH channel that carries a worker.

use std::time::Duration;

use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::error::LaunchError;
use crate::local::Started;
use crate::process::{Exit, Process, Stderr};
use crate::ssh::{self, ExitStatus, Session};

/// How long a kill may take to be sent and to show. A far side that takes nothing more from the connection would hold it up for
/// ever; then the channel is left, and with its last user the connection.
const KILL_LIMIT: Duration = Duration::from_secs(2);

/// Starts `line` under the login shell at the far end of `session`. The connection lives as long as what is returned.
pub(crate) async fn start(session: &Session, line: &str) -> Result<Started, LaunchError> {
    let ssh::Exec { stdin, stdout, stderr, process } = session.exec(line).await?;
    let kill = CancellationToken::new();
    let (exited, exit) = watch::channel(None);
    let watched = Process::new(None, exit, kill.clone());
    let tail = Stderr::of_channel(process.clone());
    // Ends with the program, or when the process is dropped: until then it holds the connection open.
    tokio::spawn(async move {
        let mut stderr = stderr;
        let mut nowhere = tokio::io::sink();
        let end = async {
            // The channel keeps the end of it; the rest has no reader. The program's end does not wait for this one.
            let unread = async {
                let _ = tokio::io::copy(&mut stderr, &mut nowhere).await;
                std::future::pending::<()>().await;
            };
            tokio::select! {
                end = process.wait() => end,
                () = unread => Ok(ExitStatus::Unknown),
            }
        };
        let end = tokio::select! {
            end = end => end.map_or(Exit::Unknown, |status| exit_of(&status)),
            () = kill.cancelled() => {
                let killed = async {
                    // It fails only when the connection is gone, and the program with it.
                    let _ = process.kill().await;
                    process.wait().await.map_or(Exit::Unknown, |status| exit_of(&status))
                };
                tokio::time::timeout(KILL_LIMIT, killed).await.unwrap_or(Exit::Unknown)
            }
        };
        exited.send_replace(Some(end));
        // A later kill still has something to do: those that the program left behind may hold the channel.
        kill.cancelled().await;
        let _ = tokio::time::timeout(KILL_LIMIT, process.kill()).await;
    });
    Ok(Started { reader: Box::new(stdout), writer: Box::new(stdin), stderr: tail, process: watched })
}

fn exit_of(status: &ExitStatus) -> Exit {
    match status {
        ExitStatus::Exited(code) => Exit::Code(code.cast_signed()),
        ExitStatus::Signaled { signal, .. } => match number_of(signal) {
            Some(number) => Exit::Signal(number),
            None => Exit::Unknown,
        },
        ExitStatus::Unknown => Exit::Unknown,
    }
}

/// The signals that RFC 4254, section 6.10, names, by their numbers on Linux.
fn number_of(name: &str) -> Option<i32> {
    Some(match name {
        "HUP" => 1,
        "INT" => 2,
        "QUIT" => 3,
        "ILL" => 4,
        "ABRT" => 6,
        "FPE" => 8,
        "KILL" => 9,
        "USR1" => 10,
        "SEGV" => 11,
        "USR2" => 12,
        "PIPE" => 13,
        "ALRM" => 14,
        "TERM" => 15,
        _ => return None,
    })
}

#[cfg(test)]
#[path = "remote_tests.rs"]
mod tests;
