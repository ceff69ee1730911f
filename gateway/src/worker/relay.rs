//! The hub's half of a leaf: starts its process, relays its streams, tells its end.

use std::ffi::OsString;
use std::fs::File;
use std::io::{self, Read};
use std::path::PathBuf;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use bytes::Bytes;
use farcall_channel::{Channel, DriverThread, Raw, Receiver, RecvError, Sender};
use tokio::io::AsyncWriteExt;
use tokio::runtime::Handle;
use tokio::sync::mpsc;

use super::background;
use super::child::{Control, Input, Launch, Output, Running, Stdin, Whom};
use super::command::{not_started, report_of, unread, without_thread};
use super::crew::Crew;
use super::follow::follow;
use super::guardian::SWEEP;
use crate::wire::{CommandReport, RelayOrder, RelayPlan, RelayReport};

/// How much of the program is read at once when it is fed.
const CHUNK: u64 = 128 * 1024;

/// Of the time that the end of the worker may take, what leaves get to end by themselves.
const SHARE: f32 = 0.6;

/// How long after it was told to end a process is killed, as a guardian that was stopped must be. What such a one guards ends
/// by itself, a moment after it.
const PATIENCE: Duration = Duration::from_millis(500);

/// The thread that moves the bytes of leaves and of connections, and how many there are.
///
/// A thread of its own: neither the start of a command, which may wait for a file system, nor tasks hold leaves up.
#[derive(Default)]
pub(crate) struct Relays {
    thread: Mutex<Option<DriverThread>>,
    count: Arc<Count>,
}

#[derive(Default)]
struct Count {
    present: Mutex<usize>,
    none: Condvar,
}

/// Counts one relay.
pub(super) struct RelayPresent(Arc<Count>);

impl Count {
    fn lock(&self) -> MutexGuard<'_, usize> {
        self.present.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for RelayPresent {
    fn drop(&mut self) {
        *self.0.lock() -= 1;
        self.0.none.notify_all();
    }
}

impl Relays {
    /// Where relays run. Made when the first comes.
    pub(super) fn runtime(&self) -> io::Result<(Handle, RelayPresent)> {
        let mut thread = self.thread.lock().unwrap_or_else(PoisonError::into_inner);
        let handle = match &*thread {
            Some(thread) => thread.handle().clone(),
            None => thread.insert(DriverThread::start("farcall-relay")?).handle().clone(),
        };
        *self.count.lock() += 1;
        Ok((handle, RelayPresent(Arc::clone(&self.count))))
    }

    /// Whether there ever was one.
    pub(super) fn any(&self) -> bool {
        self.thread.lock().unwrap_or_else(PoisonError::into_inner).is_some()
    }

    /// The coordinator is gone, so that the input of every leaf has ended. Gives them a part of `limit` to end in order,
    /// then kills what is left.
    pub(super) fn stop(&self, limit: Duration) {
        let end = Instant::now() + limit.mul_f32(SHARE);
        let mut present = self.count.lock();
        while *present > 0 {
            let left = end.saturating_duration_since(Instant::now());
            if left.is_zero() {
                break;
            }
            present = self
                .count
                .none
                .wait_timeout(present, left)
                .map_or_else(|error| error.into_inner().0, |(present, _)| present);
        }
        drop(present);
        drop(self.thread.lock().unwrap_or_else(PoisonError::into_inner).take());
    }
}

/// Follows the orders on `channel` until the process has ended or its holder is gone.
pub(super) fn start(channel: Channel<RelayReport, RelayOrder>, crew: &Arc<Crew>) {
    match crew.relays.runtime() {
        // Ends with the process, with its holder, or with the runtime when the worker ends; `stop` waits for it.
        Ok((runtime, present)) => drop(background::spawn_on(&runtime, live(channel, present))),
        Err(error) => {
            // A new channel has room.
            let _ = channel.try_send(relayed(without_thread(&error)));
        }
    }
}

async fn live(mut channel: Channel<RelayReport, RelayOrder>, _present: RelayPresent) {
    let Ok(Some(RelayOrder::Start(plan))) = channel.recv().await else { return };
    let (plan, streams) = part(*plan);
    // May wait for a file system, which must not hold up others.
    let started = background::blocking(move || plan.start()).await;
    let mut running = match started.unwrap_or_else(|error| Err(relayed(without_thread(&error)))) {
        Ok(running) => running,
        Err(report) => {
            // A holder that is gone needs no telling.
            let _ = channel.send(report).await;
            return;
        }
    };
    let (reports, orders) = channel.split();
    if reports.send(RelayReport::Started { pid: running.pid() }).await.is_err() {
        return;
    }
    let (feeds, feed_orders) = mpsc::channel(1);
    let feeding = feed(streams.stdin, running.stdin(), feed_orders, &reports);
    let control = running.control();
    let mut following = std::pin::pin!(follow(&mut running, Some(streams.stdout), Some(streams.stderr)));
    let mut obeying = std::pin::pin!(obey(orders, &control, feeds));
    let mut feeding = std::pin::pin!(feeding);
    let mut unread = std::pin::pin!(unread(&control));
    let (mut fed, mut told, mut held) = (false, false, true);
    loop {
        tokio::select! {
            biased;
            report = &mut following => {
                if !told {
                    let _ = reports.send(relayed(report)).await;
                }
                return;
            }
            (status, _) = &mut unread, if !told => {
                told = true;
                let _ = reports.send(RelayReport::Ended { status: report_of(status) }).await;
            }
            left = &mut obeying, if held => {
                held = false;
                if matches!(left, Left::Dropped) && !control.has_ended() {
                    // Dropping the process kills it.
                    return;
                }
            }
            () = &mut feeding, if !fed => fed = true,
        }
    }
}

fn relayed(report: CommandReport) -> RelayReport {
    match report {
        CommandReport::Ended { status, .. } => RelayReport::Ended { status },
        CommandReport::Lost { message } => RelayReport::Lost { message },
        CommandReport::NotStarted { step, code, message } => RelayReport::NotStarted { step, code, message },
        // Never the last that is said.
        CommandReport::Started { .. } | CommandReport::Signalled { .. } => {
            RelayReport::Lost { message: "its end was not seen".into() }
        }
    }
}

/// The ends of channels that are the streams of a process.
struct Streams {
    stdin: Receiver<Bytes, Raw>,
    stdout: Sender<Bytes, Raw>,
    stderr: Sender<Bytes, Raw>,
}

/// What is started.
struct Plan {
    program: Option<OsString>,
    arg0: Option<OsString>,
    args: Vec<OsString>,
    env: Vec<(OsString, OsString)>,
    directory: Option<PathBuf>,
    nice: Option<i32>,
    memory: Option<u64>,
}

fn part(plan: RelayPlan) -> (Plan, Streams) {
    let RelayPlan { program, arg0, args, env, directory, nice, memory, stdin, stdout, stderr } = plan;
    let directory = directory.map(PathBuf::from);
    (Plan { program, arg0, args, env, directory, nice, memory }, Streams { stdin, stdout, stderr })
}

impl Plan {
    fn start(self) -> Result<Running, RelayReport> {
        let failed = |step: &str, error: io::Error| RelayReport::NotStarted {
            step: step.into(),
            code: error.raw_os_error(),
            message: error.to_string(),
        };
        let program = match self.program {
            Some(program) => program,
            None => own_program().map_err(|error| failed("find the hub's own program", error))?.into(),
        };
        let mut launch = Launch::new(program).args(self.args);
        if let Some(name) = self.arg0 {
            launch = launch.arg0(name);
        }
        for (name, value) in self.env {
            launch = launch.env(name, value);
        }
        if let Some(directory) = self.directory {
            std::fs::create_dir_all(&directory).map_err(|error| failed("make its directory", error))?;
            launch = launch.current_dir(directory);
        }
        if let Some(bytes) = self.memory {
            launch = launch.memory(bytes);
        }
        if let Some(increment) = self.nice {
            launch = launch.nice(increment);
        }
        let launch = launch.stdin(Input::Piped).stdout(Output::Piped).stderr(Output::Piped);
        launch.spawn().map_err(|error| relayed(not_started(&error)))
    }
}

/// This process's program, also when its file was replaced or removed since it started.
fn own_program() -> io::Result<PathBuf> {
    if cfg!(target_os = "linux") {
        // Also names it in a child that has not yet executed anything.
        return Ok("/proc/self/exe".into());
    }
    std::env::current_exe()
}

/// How the orders ended.
enum Left {
    /// The holder let go.
    Dropped,
    /// The coordinator is gone; the input has ended with it, and `stop` sees to the rest.
    Lost,
}

async fn obey(mut orders: Receiver<RelayOrder>, control: &Control, feeds: mpsc::Sender<u64>) -> Left {
    const KILL: i32 = 9; // on every system
    let mut patience = None;
    loop {
        let order = tokio::select! {
            order = orders.recv() => order,
            () = reached(patience) => {
                patience = None;
                // One that has ended needs none.
                let _ = control.signal(KILL, Whom::Group);
                continue;
            }
        };
        match order {
            Ok(Some(RelayOrder::Feed { length })) => {
                // A second one before the first is done has no place: nothing is fed twice.
                let _ = feeds.try_send(length);
            }
            Ok(Some(RelayOrder::Kill)) => {
                // A worker's guardian ends after all that it guards, so that its end says that all is gone. Anything else
                // ends by this too.
                let _ = control.signal(SWEEP.as_raw(), Whom::Process);
                patience.get_or_insert(Instant::now() + PATIENCE);
            }
            Err(RecvError::Lost(_)) => return Left::Lost,
            Ok(Some(RelayOrder::Start(_)) | None) | Err(_) => return Left::Dropped,
        }
    }
}

async fn reached(moment: Option<Instant>) {
    match moment {
        Some(moment) => tokio::time::sleep_until(moment.into()).await,
        None => std::future::pending().await,
    }
}

/// Moves the input, and feeds the program when told to, until the input ends or nothing reads it any more.
async fn feed(
    mut from: Receiver<Bytes, Raw>,
    to: Option<Stdin>,
    mut orders: mpsc::Receiver<u64>,
    reports: &Sender<RelayReport>,
) {
    let Some(mut to) = to else { return };
    loop {
        // What came before the order is written before the program: the order answers what the process said to it.
        tokio::select! {
            biased;
            bytes = from.recv() => match bytes {
                Ok(Some(bytes)) => {
                    if to.write_all(&bytes).await.is_err() {
                        return from.close_with("the process reads no more input");
                    }
                }
                // Dropping the pipe is the end of the input.
                Ok(None) | Err(_) => return,
            },
            Some(length) = orders.recv() => {
                let written = match open_own(length).await {
                    Some(program) => {
                        if write_program(program, &mut to).await.is_err() {
                            return from.close_with("the process reads no more input");
                        }
                        true
                    }
                    None => false,
                };
                if reports.send(RelayReport::Fed { written }).await.is_err() {
                    return;
                }
            }
        }
    }
}

/// The own program's file, if it has this length.
async fn open_own(length: u64) -> Option<File> {
    let open = move || {
        let file = File::open(own_program()?)?;
        let fits = file.metadata()?.len() == length;
        io::Result::Ok(fits.then_some(file))
    };
    background::blocking(open).await.ok()?.ok()?
}

async fn write_program(mut program: File, to: &mut Stdin) -> io::Result<()> {
    let mut buffer = Vec::new();
    loop {
        // Not here: reading may wait for a file system.
        (program, buffer) = background::blocking(move || {
            buffer.clear();
            (&program).take(CHUNK).read_to_end(&mut buffer)?;
            io::Result::Ok((program, buffer))
        })
        .await??;
        if buffer.is_empty() {
            return Ok(());
        }
        to.write_all(&buffer).await?;
    }
}
