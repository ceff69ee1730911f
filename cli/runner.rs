//! Attempts on real gateways: a worker is started on the host, and runs the command there.

use std::ffi::OsString;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};

use farcall::channel::{ByteReader, ByteWriter};
use farcall::ssh::SshOptions;
use farcall::{Child, CommandError, Ended, ExitStatus, Gateway, Program, Spec, Stdio};
use tokio::io::{AsyncBufReadExt, AsyncWriteExt};

use crate::failure::{no_result, not_opened};
use crate::input::{Input, InputError, InputReader};
use crate::outcome::{Failure, FailureClass};
use crate::output::{HostId, Stream};
use crate::run_loop::{Attempt, Reporter};
use crate::run_plan::AttemptEnd;

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
    /// By [`HostId`]: whether its part of the input was opened or given up.
    settled: Vec<AtomicBool>,
}

impl Runner {
    /// A runner of `command` on workers at `specs`, which are delivered as `program`.
    pub(crate) fn new(
        specs: Vec<Spec>,
        ssh: SshOptions,
        program: Program,
        command: OsString,
        input: Option<Input>,
    ) -> Self {
        let settled = specs.iter().map(|_| AtomicBool::new(false)).collect();
        Runner { shared: Arc::new(Shared { specs, ssh, program, command, input, settled }) }
    }

    /// Starts a worker on the host and runs the command there.
    ///
    /// Dropping the future ends the worker with all that it started.
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
        let end = tokio::select! {
            end = shared.run(&gateway, *host, reporter) => end,
            () = stop.asked() => {
                gateway.exit();
                gateway.wait().await;
                return stopped();
            }
        };
        end.unwrap_or_else(AttemptEnd::Failed)
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

impl Shared {
    async fn run(&self, gateway: &Gateway, host: HostId, reporter: &Reporter) -> Result<AttemptEnd, Failure> {
        let stdin = if self.input.is_some() { Stdio::Piped } else { Stdio::Null };
        let command = gateway
            .command("sh")
            .arg("-c")
            .arg(self.command.clone())
            .stdin(stdin)
            .stdout(Stdio::Piped)
            .stderr(Stdio::Piped);
        let mut child = command.spawn().await.map_err(|error| no_result(&error, false))?;
        let input = self.open_input(host);
        reporter.running().await;
        let feeding = feed(child.stdin.take(), input);
        let following = follow(child, reporter);
        tokio::pin!(feeding, following);
        let mut fed = false;
        loop {
            tokio::select! {
                ended = &mut following => return finish(ended, reporter).await,
                result = &mut feeding, if !fed => match result {
                    Ok(()) => fed = true,
                    // A part of the input must not pass for all of it.
                    Err(error) => return Err(input_failed(&error)),
                },
            }
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

fn input_failed(error: &InputError) -> Failure {
    Failure {
        class: FailureClass::Lost,
        step: "input".to_owned(),
        message: error.to_string(),
        evidence: String::new(),
        hint: None,
    }
}

/// Passes on what the command writes, until it has ended.
async fn follow(mut child: Child, reporter: &Reporter) -> Result<Ended, CommandError> {
    let (stdout, stderr) = (child.stdout.take(), child.stderr.take());
    let ((), (), ended) = tokio::join!(
        pass(stdout, Stream::Stdout, reporter),
        pass(stderr, Stream::Stderr, reporter),
        child.wait()
    );
    ended
}

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
async fn feed(writer: Option<ByteWriter>, input: Option<InputReader>) -> Result<(), InputError> {
    let (Some(mut writer), Some(mut input)) = (writer, input) else { return Ok(()) };
    while let Some(bytes) = input.next().await? {
        if writer.write_all(&bytes).await.is_err() {
            return Ok(());
        }
    }
    Ok(())
}
