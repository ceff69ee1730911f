//! Attempts on real gateways: a worker is started on the host, and runs the command there.

use std::ffi::OsString;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::Duration;

use farcall::channel::{ByteReader, ByteWriter};
use farcall::ssh::SshOptions;
use farcall::{CommandError, Ended, ExitStatus, Gateway, Program, Spec, Stdio};
use tokio::io::{AsyncBufReadExt, AsyncWriteExt};
use tokio::time::timeout;

use crate::failure::{no_result, not_opened, not_started};
use crate::input::{Input, InputError, InputReader};
use crate::outcome::{Failure, FailureClass};
use crate::output::{HostId, Stream};
use crate::run_loop::{Attempt, Reporter, Stop};
use crate::run_plan::AttemptEnd;

/// How long a command that is told to end may take before it is killed: as long as a worker gives what it ends.
const KILL_AFTER: Duration = Duration::from_secs(2);

/// The numbers of SIGTERM and SIGKILL on every system.
const TERM: i32 = 15;
const KILL: i32 = 9;

/// Makes the attempts of one run. Clones are the same runner.
#[derive(Clone)]
pub(crate) struct Runner {
    shared: Arc<Shared>,
}

struct Shared {
    /// By [`HostId`].
    specs: Vec<Spec>,
    ssh: SshOptions,
    program: Program,
    command: OsString,
    input: Option<Input>,
    /// How long a worker may take to say that the command runs.
    start_limit: Duration,
    /// By [`HostId`]: whether its part of the input was opened or given up.
    settled: Vec<AtomicBool>,
}

impl Runner {
    /// A runner of `command` on workers at `specs`, which are delivered as `program`. A worker that has not started the
    /// command within `start_limit` is given up.
    pub(crate) fn new(
        specs: Vec<Spec>,
        ssh: SshOptions,
        program: Program,
        command: OsString,
        input: Option<Input>,
        start_limit: Duration,
    ) -> Self {
        let settled = specs.iter().map(|_| AtomicBool::new(false)).collect();
        Runner { shared: Arc::new(Shared { specs, ssh, program, command, input, start_limit, settled }) }
    }

    /// Starts a worker on the host and runs the command there.
    ///
    /// Told to stop, it ends the command, and goes on passing on what the command has written until that has ended.
    /// Dropping the future ends the worker with all that it started, and what it has not passed on is lost.
    pub(crate) async fn attempt(self, mut attempt: Attempt) -> AttemptEnd {
        let shared = &self.shared;
        let Attempt { host, reporter, stop, .. } = &mut attempt;
        let opening = Gateway::builder(shared.specs[host.0].clone())
            .ssh(shared.ssh.clone())
            .program(shared.program.clone())
            .open();
        let gateway = tokio::select! {
            opened = opening => match opened {
                Ok(gateway) => gateway,
                Err(error) => return AttemptEnd::Failed(not_opened(&error)),
            },
            () = stop.asked() => return stopped(),
        };
        shared.run(&gateway, *host, reporter, stop).await.unwrap_or_else(AttemptEnd::Failed)
    }

    /// The host has its result: if it never came to read the input, nobody has to wait for it any more.
    pub(crate) fn finished(&self, host: HostId) {
        if let Some(input) = &self.shared.input
            && !self.shared.settled[host.0].swap(true, Relaxed)
        {
            input.give_up();
        }
    }
}

/// The end of an attempt that was told to end; why is known to who told it.
fn stopped() -> AttemptEnd {
    AttemptEnd::Failed(Failure {
        class: FailureClass::Lost,
        step: "run".to_owned(),
        message: "stopped".to_owned(),
        evidence: String::new(),
        hint: None,
    })
}

/// Why a command is ended before its own end.
enum Cut {
    /// Whoever asked knows why.
    Asked,
    /// A part of the input must not pass for all of it.
    Input(InputError),
}

impl Shared {
    async fn run(
        &self,
        gateway: &Gateway,
        host: HostId,
        reporter: &Reporter,
        stop: &mut Stop,
    ) -> Result<AttemptEnd, Failure> {
        let stdin = if self.input.is_some() { Stdio::Piped } else { Stdio::Null };
        let command = gateway
            .command("sh")
            .arg("-c")
            .arg(self.command.clone())
            .stdin(stdin)
            .stdout(Stdio::Piped)
            .stderr(Stdio::Piped);
        let mut child = tokio::select! {
            spawned = timeout(self.start_limit, command.spawn()) => match spawned {
                Ok(spawned) => spawned.map_err(|error| no_result(&error, false))?,
                Err(_) => return Err(not_started(self.start_limit)),
            },
            () = stop.asked() => {
                end(gateway).await;
                return Ok(stopped());
            }
        };
        let input = self.open_input(host);
        reporter.running().await;
        let (mut stdin, stdout, stderr) = (child.stdin.take(), child.stdout.take(), child.stderr.take());
        let mut following = pin!(async {
            tokio::join!(pass(stdout, Stream::Stdout, reporter), pass(stderr, Stream::Stderr, reporter));
        });
        let mut feeding = Box::pin(feed(&mut stdin, input));
        let (mut followed, mut fed) = (false, false);
        let cut = loop {
            tokio::select! {
                ended = child.wait() => {
                    reporter.over();
                    if !followed {
                        following.await;
                    }
                    return finish(ended, reporter).await;
                }
                () = &mut following, if !followed => followed = true,
                result = &mut feeding, if !fed => match result {
                    Ok(()) => fed = true,
                    Err(error) => break Cut::Input(error),
                },
                () = stop.asked() => break Cut::Asked,
            }
        };
        // The others need not wait for this reader any more. The command must not see the end of its input, though.
        drop(feeding);
        let ending = async {
            // What cannot be told has ended, or is ended with its worker.
            let _ = child.signal(TERM).await;
            if timeout(KILL_AFTER, child.wait()).await.is_err() {
                let _ = child.signal(KILL).await;
                let _ = child.wait().await;
            }
        };
        tokio::join!(ending, async {
            if !followed {
                following.await;
            }
        });
        drop(stdin);
        end(gateway).await;
        match cut {
            Cut::Asked => Ok(stopped()),
            Cut::Input(error) => Err(input_failed(&error)),
        }
    }

    fn open_input(&self, host: HostId) -> Option<InputReader> {
        let input = self.input.as_ref()?;
        (!self.settled[host.0].swap(true, Relaxed)).then(|| input.open())
    }
}

async fn finish(ended: Result<Ended, CommandError>, reporter: &Reporter) -> Result<AttemptEnd, Failure> {
    let ended = ended.map_err(|error| no_result(&error, true))?;
    if ended.held_open {
        let note = b"farcall: a process that was left behind held the output open; it was ended\n";
        reporter.output(Stream::Stderr, note.to_vec()).await;
    }
    Ok(match ended.status {
        ExitStatus::Code(code) => AttemptEnd::Exited { code: u8::try_from(code).unwrap_or(u8::MAX) },
        ExitStatus::Signal(signal) => {
            AttemptEnd::Signaled { signal: u8::try_from(signal).unwrap_or(u8::MAX) }
        }
    })
}

/// Ends a worker with all that the command has left behind, and waits until it has ended.
async fn end(gateway: &Gateway) {
    gateway.exit();
    gateway.wait().await;
}

fn input_failed(error: &InputError) -> Failure {
    Failure {
        class: FailureClass::Ours,
        step: "input".to_owned(),
        message: error.to_string(),
        evidence: String::new(),
        hint: None,
    }
}

/// Passes on what the command writes.
async fn pass(reader: Option<ByteReader>, stream: Stream, reporter: &Reporter) {
    let Some(mut reader) = reader else { return };
    // An error here is the end of the connection, which the command's end tells better.
    while let Ok(bytes) = reader.fill_buf().await {
        if bytes.is_empty() {
            return;
        }
        let bytes = bytes.to_vec();
        reader.consume(bytes.len());
        reporter.output(stream, bytes).await;
    }
}

/// Writes the input to the command, until either ends. A command may well end without reading it.
///
/// The writer is taken, and the command sees the end of its input, unless that was not all of it.
async fn feed(to: &mut Option<ByteWriter>, input: Option<InputReader>) -> Result<(), InputError> {
    if let (Some(writer), Some(mut input)) = (&mut *to, input) {
        while let Some(bytes) = input.next().await? {
            if writer.write_all(&bytes).await.is_err() {
                break;
            }
        }
    }
    *to = None;
    Ok(())
}
