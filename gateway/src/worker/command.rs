//! The far half of a command: starts it, moves its streams, tells its end.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use farcall_channel::{Channel, Raw, Receiver, Sender};
use tokio::io::AsyncWriteExt;

use super::background;
use super::child::{
    Control, HELD_OPEN, Input, Launch, Output as To, SignalError, Size, SpawnError, Status, Stdin, Whom,
};
use super::crew::{CommandPresent, Crew};
use super::follow::follow;
use crate::wire::{CommandOrder, CommandPlan, CommandReport, ExitReport, Output};

/// How much longer than the cut of an output it may take to be passed on before its command's end is told without it.
const MARGIN: Duration = Duration::from_millis(500);

/// Follows the orders on `channel` until the command has ended or its holder is gone.
pub(super) fn start(channel: Channel<CommandReport, CommandOrder>, crew: &Arc<Crew>) {
    match crew.starter() {
        // Ends with the command, with its holder, or with the runtime when the worker ends; nobody waits for it.
        Ok(runtime) => drop(background::spawn_on(&runtime, live(channel, crew.command()))),
        Err(error) => {
            // A new channel has room.
            let _ = channel.try_send(without_thread(&error));
        }
    }
}

async fn live(mut channel: Channel<CommandReport, CommandOrder>, _present: CommandPresent) {
    let Ok(Some(CommandOrder::Start(plan))) = channel.recv().await else { return };
    let (launch, piped) = prepare(*plan);
    // Its file system, or that of its folder, may be slow, or hang: that must hold up no other command.
    let started = match background::blocking(move || launch.spawn()).await {
        Ok(started) => started.map_err(|error| not_started(&error)),
        Err(error) => Err(without_thread(&error)),
    };
    let mut running = match started {
        Ok(running) => running,
        Err(report) => {
            // A holder that is gone needs no telling.
            let _ = channel.send(report).await;
            return;
        }
    };
    let (reports, orders) = channel.split();
    if reports.send(CommandReport::Started { pid: running.pid() }).await.is_err() {
        return;
    }
    let feeding = feed(piped.stdin, running.stdin());
    let control = running.control();
    let mut following = std::pin::pin!(follow(&mut running, piped.stdout, piped.stderr));
    let mut obeying = std::pin::pin!(obey(orders, &control, &reports));
    let mut feeding = std::pin::pin!(feeding);
    let mut unread = std::pin::pin!(unread(&control));
    let (mut fed, mut told, mut held) = (false, false, true);
    loop {
        tokio::select! {
            biased;
            report = &mut following => {
                if !told {
                    let _ = reports.send(report).await;
                }
                return;
            }
            (status, held_open) = &mut unread, if !told => {
                // Whoever waits need not read. Whoever reads slowly still gets everything.
                told = true;
                let _ = reports.send(CommandReport::Ended { status: report_of(status), held_open }).await;
            }
            () = &mut obeying, if held => {
                if control.has_ended() {
                    // What it wrote may still be read.
                    held = false;
                } else {
                    // Dropping the command kills it.
                    return;
                }
            }
            () = &mut feeding, if !fed => fed = true,
        }
    }
}

/// Waits until the command has ended and its output still is not all taken though it was cut, or would be. Says whether
/// something that it left behind holds the output open.
pub(super) async fn unread(control: &Control) -> (Status, bool) {
    let status = control.ended().await;
    tokio::time::sleep(HELD_OPEN + MARGIN).await;
    (status, control.is_held_open())
}

pub(super) fn report_of(status: Status) -> ExitReport {
    match status {
        Status::Code(code) => ExitReport::Code(code),
        Status::Signal(signal) => ExitReport::Signal(signal),
    }
}

/// The ends of channels that are the command's streams.
struct Piped {
    stdin: Option<Receiver<Bytes, Raw>>,
    stdout: Option<Sender<Bytes, Raw>>,
    stderr: Option<Sender<Bytes, Raw>>,
}

fn prepare(plan: CommandPlan) -> (Launch, Piped) {
    let mut launch = Launch::new(plan.program).args(plan.args);
    if let Some(name) = plan.arg0 {
        launch = launch.arg0(name);
    }
    if plan.env_clear {
        launch = launch.env_clear();
    }
    for (name, value) in plan.env {
        launch = match value {
            Some(value) => launch.env(name, value),
            None => launch.env_remove(name),
        };
    }
    if let Some(directory) = plan.directory {
        launch = launch.current_dir(directory);
    }
    if plan.stdin.is_some() {
        launch = launch.stdin(Input::Piped);
    }
    let to = |output| match output {
        Output::Inherit => (To::Inherit, None),
        Output::Null => (To::Null, None),
        Output::Piped(sender) => (To::Piped, Some(sender)),
    };
    let (stdout_to, stdout) = to(plan.stdout);
    let (stderr_to, stderr) = to(plan.stderr);
    launch = launch.stdout(stdout_to).stderr(stderr_to);
    if let Some((rows, columns)) = plan.terminal {
        launch = launch.terminal(Size { rows, columns });
    }
    (launch, Piped { stdin: plan.stdin, stdout, stderr })
}

/// The report of a command that the system gave no thread.
pub(super) fn without_thread(error: &io::Error) -> CommandReport {
    CommandReport::NotStarted {
        step: "prepare the start".into(),
        code: error.raw_os_error(),
        message: format!("cannot start a thread: {error}"),
    }
}

pub(super) fn not_started(error: &SpawnError) -> CommandReport {
    match error {
        SpawnError::Step { step, source, .. } => CommandReport::NotStarted {
            step: step.to_string(),
            code: source.raw_os_error(),
            message: source.to_string(),
        },
        other => CommandReport::NotStarted {
            step: "prepare the start".into(),
            code: None,
            message: other.to_string(),
        },
    }
}

/// Moves the input until it ends, or nothing reads it any more.
async fn feed(from: Option<Receiver<Bytes, Raw>>, to: Option<Stdin>) {
    let (Some(mut from), Some(mut to)) = (from, to) else { return };
    while let Ok(Some(bytes)) = from.recv().await {
        if to.write_all(&bytes).await.is_err() {
            return from.close_with("the command reads no more input");
        }
    }
    // Says so to a terminal; a pipe ends when it is dropped.
    let _ = to.shutdown().await;
}

/// Until the holder is gone.
async fn obey(mut orders: Receiver<CommandOrder>, control: &Control, reports: &Sender<CommandReport>) {
    loop {
        match orders.recv().await {
            Ok(Some(CommandOrder::Signal { turn, number, group })) => {
                let refused = match control.signal(number, if group { Whom::Group } else { Whom::Process }) {
                    // One that has ended needs none.
                    Ok(()) | Err(SignalError::Ended) => None,
                    Err(SignalError::System(error)) => Some((error.raw_os_error(), error.to_string())),
                    Err(error) => Some((None, error.to_string())),
                };
                // A holder that is gone needs no telling.
                let _ = reports.send(CommandReport::Signalled { turn, refused }).await;
            }
            Ok(Some(CommandOrder::Resize { rows, columns })) => {
                let _ = control.resize(Size { rows, columns });
            }
            Ok(Some(CommandOrder::Start(_))) | Ok(None) | Err(_) => return,
        }
    }
}
