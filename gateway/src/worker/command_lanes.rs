//! What runs the commands of a stream: a thread for each slot, which starts one, reads what it writes, waits for its end, and
//! starts the next.
//!
//! Unlike a single [command](super::command) these need no runtime and no way through the coordinator between two of them: a
//! thousand short ones cost little more than their own starts.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{WaitId, WaitIdOptions, WaitIdStatus, WaitOptions, waitid, waitpid};
use serde::{Deserialize, Serialize};

use super::crew::Crew;
use super::desk::{Desk, Done, Step};
use super::lanes::tell;
use super::running::HELD_OPEN;
use super::spawn::{self, Plan, Started};
use super::streams::{null, read};
use crate::failure::Failure;
use crate::map::batch::Reply;
use crate::map::stream::CommandPlan;
use crate::wire::{ExitReport, Name};

/// How long the end of a command is waited for before it is looked for, where nothing announces it.
const LOOK: Duration = Duration::from_millis(2);

/// How often it is looked whether a command was stopped whose outputs others hold open.
const HELD_LOOK: Duration = Duration::from_millis(20);

/// How a command ended, and what it wrote.
#[derive(Serialize, Deserialize)]
pub(crate) struct CommandResult {
    pub(crate) status: ExitReport,
    pub(crate) stdout: bytes::Bytes,
    pub(crate) stderr: bytes::Bytes,
    /// Whether an output was longer than what is kept.
    pub(crate) cut: bool,
    pub(crate) held_open: bool,
}

/// Why a command was not started, or not followed to its end.
#[derive(Debug, thiserror::Error)]
enum CommandFault {
    #[error("cannot start {}: cannot {step}", .program.display())]
    Start { program: OsString, step: spawn::Step, source: io::Error },
    #[error("cannot follow the command")]
    Follow(#[source] io::Error),
}

/// Starts the lanes.
pub(super) fn start(plan: CommandPlan, desk: &Arc<Desk>, crew: &Arc<Crew>) -> io::Result<()> {
    let inherited = (!plan.env_clear).then(std::env::vars_os).into_iter().flatten();
    let mut env: BTreeMap<OsString, OsString> = inherited.collect();
    for (name, value) in &plan.env {
        match value {
            Some(value) => drop(env.insert(name.clone(), value.clone())),
            None => drop(env.remove(name)),
        }
    }
    let recipe = Arc::new(Recipe { plan, env: env.into_iter().collect() });
    for lane in 0..desk.slots() {
        let (recipe, desk, crew) = (Arc::clone(&recipe), Arc::clone(desk), Arc::clone(crew));
        // Ends with the stream, or with the process; nobody waits for it.
        std::thread::Builder::new()
            .name("farcall-command".into())
            .spawn(move || run(&recipe, &desk, lane, &crew))?;
    }
    Ok(())
}

/// What all commands of a stream have in common.
struct Recipe {
    plan: CommandPlan,
    env: Vec<(OsString, OsString)>,
}

/// Takes calls until the stream is over.
fn run(recipe: &Recipe, desk: &Desk, lane: usize, crew: &Arc<Crew>) {
    let mut payload = Vec::new();
    let mut done = None;
    let mut buffer = vec![0; 64 * 1024];
    while let Step::Run(call) = desk.step_blocking(lane, done.take(), &mut payload) {
        let _present = crew.command();
        done = Some(match farcall_channel::from_bytes(&call.args) {
            Ok(args) => match recipe.run(args, desk, lane, &mut buffer) {
                Ok(None) => Done::Stopped,
                Ok(Some(result)) => tell(Reply::Value, &result, &mut payload),
                Err(fault) => tell(Reply::Failed, &Failure::of::<CommandFault>(&fault), &mut payload),
            },
            Err(error) => {
                payload.extend_from_slice(error.to_string().as_bytes());
                Done::Replied(Reply::Arguments)
            }
        });
    }
}

impl Recipe {
    /// Runs one to its end; `None` if it was stopped.
    fn run(
        &self,
        args: Vec<Name>,
        desk: &Desk,
        lane: usize,
        buffer: &mut [u8],
    ) -> Result<Option<CommandResult>, CommandFault> {
        let plan = &self.plan;
        let start_fault = |step, source| CommandFault::Start { program: plan.program.clone(), step, source };
        let prepared = |source| start_fault(spawn::Step::Prepare, source);
        let (mut outputs, mut theirs) = ([None, None], [None, None]);
        let keep = plan.keep.map(|keep| usize::try_from(keep).unwrap_or(usize::MAX));
        if keep.is_some() {
            for (output, theirs) in outputs.iter_mut().zip(&mut theirs) {
                let (reader, writer) = io::pipe().map_err(prepared)?;
                rustix::io::ioctl_fionbio(&reader, true).map_err(|error| prepared(error.into()))?;
                *output = Some(OwnedFd::from(reader));
                *theirs = Some(OwnedFd::from(writer));
            }
        }
        let [stdout, stderr] = theirs;
        let started = spawn::spawn(Plan {
            program: plan.program.clone(),
            args: std::iter::once(&plan.program).chain(&plan.args).cloned().chain(args).collect(),
            env: self.env.clone(),
            directory: plan.directory.clone().map(Into::into),
            stdio: [Some(null().map_err(prepared)?), stdout, stderr],
            terminal: false,
            memory: None,
            nice: 0,
            descriptors: super::limits::descriptors_of_children(),
        })
        .map_err(|failed| start_fault(failed.step, failed.source))?;
        desk.is_group(lane, started.pid);
        let mut outputs =
            outputs.map(|fd| Output { fd, bytes: Vec::new(), keep: keep.unwrap_or(0), cut: false });
        let followed = follow(&started, &mut outputs, buffer, || desk.is_stopping(lane));
        let stopped = desk.is_no_group(lane);
        // It has ended, or is followed no more.
        let pid = started.pid;
        if followed.is_err() {
            let _ = rustix::process::kill_process_group(pid, rustix::process::Signal::KILL);
        }
        let _ = waitpid(Some(pid), WaitOptions::empty());
        let (status, held_open) = followed.map_err(CommandFault::Follow)?;
        if stopped {
            return Ok(None);
        }
        let cut = outputs.iter().any(|output| output.cut);
        let [stdout, stderr] = outputs.map(|output| output.bytes.into());
        Ok(Some(CommandResult { status, stdout, stderr, cut, held_open }))
    }
}

/// One output of a command, and what was kept of it.
struct Output {
    fd: Option<OwnedFd>,
    bytes: Vec<u8>,
    keep: usize,
    cut: bool,
}

impl Output {
    /// Reads what is there now.
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<()> {
        while let Some(fd) = &self.fd {
            match read(fd, buffer) {
                Ok(0) => self.fd = None,
                Ok(count) => {
                    let kept = count.min(self.keep - self.bytes.len());
                    self.cut |= kept < count;
                    self.bytes.extend_from_slice(&buffer[..kept]);
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(()),
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }
}

/// Reads the outputs until they and the process have ended; of the outputs it waits for [a second](HELD_OPEN) more at most, and not
/// at all once the command was stopped.
fn follow(
    started: &Started,
    outputs: &mut [Output; 2],
    buffer: &mut [u8],
    is_stopping: impl Fn() -> bool,
) -> io::Result<(ExitReport, bool)> {
    let options = WaitIdOptions::EXITED | WaitIdOptions::NOHANG | WaitIdOptions::NOWAIT;
    let mut ended: Option<(ExitReport, Instant)> = None;
    loop {
        let open = outputs.iter().any(|output| output.fd.is_some());
        let timeout = match (ended, &started.pidfd) {
            (Some((status, _)), _) if !open => return Ok((status, false)),
            (Some((status, at)), _) => {
                let left = HELD_OPEN.saturating_sub(at.elapsed());
                if left.is_zero() || is_stopping() {
                    return Ok((status, true));
                }
                Some(left.min(HELD_LOOK))
            }
            (None, Some(_)) => None,
            (None, None) => Some(LOOK),
        };
        let timeout =
            timeout.map(|timeout| Timespec::try_from(timeout).unwrap_or(Timespec { tv_sec: 0, tv_nsec: 0 }));
        let waiting = started.pidfd.as_ref().filter(|_| ended.is_none());
        let descriptors = waiting.into_iter().chain(outputs.iter().filter_map(|output| output.fd.as_ref()));
        let mut wanted: Vec<PollFd<'_>> =
            descriptors.map(|fd| PollFd::from_borrowed_fd(fd.as_fd(), PollFlags::IN)).collect();
        match poll(&mut wanted, timeout.as_ref()) {
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
        drop(wanted);
        if ended.is_none()
            && let Some(status) = waitid(WaitId::Pid(started.pid), options)?
        {
            ended = Some((report(&status), Instant::now()));
        }
        for output in outputs.iter_mut() {
            output.read(buffer)?;
        }
    }
}

fn report(status: &WaitIdStatus) -> ExitReport {
    match (status.exit_status(), status.terminating_signal()) {
        (Some(code), _) => ExitReport::Code(code),
        (None, signal) => ExitReport::Signal(signal.unwrap_or(libc::SIGKILL)),
    }
}
