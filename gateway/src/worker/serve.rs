//! A worker from its first moment to its last.

use std::os::fd::OwnedFd;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::task::{Context, Poll};
use std::time::Duration;

use farcall_channel::{Channel, Connection, Incoming, Options};
use tokio::io::{AsyncRead, ReadBuf};
use tokio::sync::{mpsc, oneshot, watch};

use super::crew::Crew;
use super::guardian::{Guarded, Lease};
use super::stdio::{self, Moved, Prints};
use super::{background, command, dial, early, guardian, limits, panics, relay, stream};
use crate::host::Info;
use crate::local::serve::Calls;
use crate::output::Printed;
use crate::role::{Life, Role};
use crate::tasks::Tasks;
use crate::wire::{Hello, Request};

/// Serves until the coordinator goes, then ends the process.
pub(crate) fn serve(role: Role, tasks: Arc<Tasks>) -> ! {
    // A command that leads here is killed with the coordinator, and this process may be the command's own, executed in its
    // place: it goes by the end of its input, which leaves time to end in order.
    #[cfg(target_os = "linux")]
    let _ = rustix::process::set_parent_process_death_signal(None);
    stdio::close_inherited();
    // Everything from here to `move_aside` prints to the standard error that the coordinator reads.
    // Unguarded it would leave behind what leaves its groups: that is promised not to happen.
    let guarded = match early::guarded(&options(&role.life)) {
        Ok(guarded) => guarded,
        Err(error) => fail(&error),
    };
    if let Err(error) = limits::raise_descriptors() {
        eprintln!("{error}");
    }
    // What is printed later has no reader but this process.
    let last_words = if panics::END_THE_PROCESS { stdio::keep_stderr().ok() } else { None };
    let moved = match stdio::move_aside() {
        Ok(moved) => moved,
        Err(error) => fail(&error),
    };
    panics::install(last_words);
    go(role, tasks, moved, guarded, limits::slots().get())
}

/// Serves with everything in its place.
pub(super) fn go(role: Role, tasks: Arc<Tasks>, moved: Moved, guarded: Guarded, slots: usize) -> ! {
    let passed = if role.calls { crate::local::serve::passed() } else { Ok(None) };
    let passed = match passed {
        Ok(passed) => passed,
        Err(error) => fail(&error),
    };
    let run = move || -> ! {
        let code = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
            // This thread moves the bytes and answers; what may block or compute gets threads of its own.
            Ok(runtime) => runtime.block_on(live(role, tasks, moved, guarded, slots, passed)),
            Err(error) => fail(&error),
        };
        std::process::exit(code)
    };
    if tokio::runtime::Handle::try_current().is_err() {
        run()
    }
    // A runtime cannot run within a runtime.
    let serving = std::thread::Builder::new().name("farcall-worker".into()).spawn(move || run());
    match serving.map(std::thread::JoinHandle::join) {
        // It ends the process, unless it panics.
        Ok(_panicked) => std::process::exit(70),
        Err(error) => fail(&error),
    }
}

pub(super) fn options(life: &Life) -> guardian::Options {
    guardian::Options { grace: life.grace, ..guardian::Options::default() }
}

/// Too early for anybody to be told otherwise.
pub(super) fn fail(error: &dyn std::error::Error) -> ! {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(error) = source {
        text = format!("{text}: {error}");
        source = error.source();
    }
    eprintln!("{text}");
    std::process::exit(70)
}

/// Returns the process's exit code.
async fn live(
    role: Role,
    tasks: Arc<Tasks>,
    moved: Moved,
    guarded: Guarded,
    slots: usize,
    passed: Option<OwnedFd>,
) -> i32 {
    let (reader, writer, prints) = match moved.open() {
        Ok(streams) => streams,
        Err(error) => fail(&error),
    };
    let mut options = Options::default();
    options.config.heartbeat = role.life.heartbeat;
    options.config.lease = role.life.lease;
    let lease = guarded.lease(role.life.lease);
    let reader = Touching { reader, lease };
    let connection = match Connection::start(reader, writer, farcall_channel::Role::Worker, options).await {
        Ok(connection) => connection,
        Err(error) => fail(&error),
    };
    let id: Arc<str> = role.id.into();
    let crew = Arc::new(Crew::new(id, tasks, connection.clone(), role.life.max_tasks, slots));
    // Bounded by the channels that a coordinator may have.
    let (finish, finishing) = mpsc::unbounded_channel();
    let (stay, staying) = watch::channel(());
    let calls = Arc::<Calls>::default();
    let mut server = Server {
        crew: Arc::clone(&crew),
        prints: Some((prints, finishing)),
        finish,
        staying,
        calls: Arc::clone(&calls),
        passed,
    };
    let mut last = None;
    while let Some(incoming) = connection.accept().await {
        if Request::parse(incoming.request()) == Some(Request::End) {
            last = Some(incoming.accept::<(), ()>());
            break;
        }
        server.take(incoming);
    }
    drop((server, stay));
    // Of the grace the guardian leaves, the last quarter is for ending the process.
    let limit = role.life.grace.mul_f32(0.75);
    if last.is_some() {
        // What was sent is to arrive, received or not.
        end(&crew, &calls, limit).await;
        tokio::select! {
            _ = connection.close() => {}
            () = sent(&connection) => {}
        }
        return 0;
    }
    let cause = connection.ended().await;
    tracing::debug!(%cause, "the coordinator is gone");
    end(&crew, &calls, limit).await;
    0
}

/// Waits until all that was sent is with the coordinator, or on its way. What exceeds the window of its channel goes when
/// somebody receives it; the coordinator's end ends the waiting.
async fn sent(connection: &Connection) {
    while !connection.is_flushed() {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
}

/// Stops everything, for at most `limit`. What does not stop ends with the process.
async fn end(crew: &Arc<Crew>, calls: &Arc<Calls>, limit: Duration) {
    // This one, and the one that takes calls.
    let threads = 1 + usize::from(calls.taken.load(Relaxed));
    if calls.refuse() && crew.is_still(threads) {
        // Most processes that ran one function end here, and somebody waits for that.
        crew.dismiss();
        return;
    }
    let (crew, calls) = (Arc::clone(crew), Arc::clone(calls));
    let (tell, stopped) = oneshot::channel();
    // Not here: dropping tasks runs their code, and this thread is not for that.
    let stopping = std::thread::Builder::new().spawn(move || {
        calls.stop(limit);
        crew.stop(limit);
        // Nobody listens beyond the limit.
        let _ = tell.send(());
    });
    if stopping.is_ok() {
        let _ = tokio::time::timeout(limit, stopped).await;
    }
}

/// Tells the guardian with every read that the coordinator lives.
struct Touching<R> {
    reader: R,
    lease: Lease,
}

impl<R: AsyncRead + Unpin> AsyncRead for Touching<R> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<std::io::Result<()>> {
        let before = buf.filled().len();
        let read = Pin::new(&mut self.reader).poll_read(cx, buf);
        if buf.filled().len() > before {
            self.lease.touch();
        }
        read
    }
}

/// Hands out channels to what they are for.
struct Server {
    crew: Arc<Crew>,
    /// Until somebody wants them; with the receiver of those who wait until all is told.
    prints: Option<(Prints, mpsc::UnboundedReceiver<Channel<(), ()>>)>,
    finish: mpsc::UnboundedSender<Channel<(), ()>>,
    /// Changes when the worker ends.
    staying: watch::Receiver<()>,
    calls: Arc<Calls>,
    /// The socket that calls come over, until both sides have said hello.
    passed: Option<OwnedFd>,
}

impl Server {
    fn take(&mut self, incoming: Incoming) {
        let request = incoming.request().clone();
        let crew = Arc::clone(&self.crew);
        match Request::parse(&request) {
            Some(Request::Task(name)) => match self.crew.tasks.start(name) {
                Some(start) => start(incoming, &self.crew),
                None => incoming.refuse(format!("this program has no task {name}")),
            },
            Some(Request::Stream("")) => stream::start_commands(incoming, &self.crew),
            Some(Request::Stream(name)) => match self.crew.tasks.stream(name) {
                Some(start) => start(incoming, &self.crew),
                None => incoming.refuse(format!("this program has no task {name}")),
            },
            Some(Request::Hello) => {
                if let Some((prints, _)) = &mut self.prints
                    && let Err(error) = prints.capture_stderr()
                {
                    eprintln!("{error}");
                }
                // Not before what is printed is caught.
                if let Some(passed) = self.passed.take()
                    && let Err(error) = self.calls.start(passed, &self.crew)
                {
                    eprintln!("cannot take calls: {error}");
                }
                background::spawn(hello(incoming.accept(), crew));
            }
            Some(Request::Info) => {
                let info = Info::here(self.crew.tasks.program_version(), self.crew.uptime());
                answer(incoming.accept::<Info, ()>(), info);
            }
            Some(Request::Status) => answer(incoming.accept(), self.crew.status()),
            Some(Request::Prints) => match self.prints.take() {
                // Ends with the connection.
                Some((prints, finishing)) => {
                    let staying = self.staying.clone();
                    drop(background::spawn(tell(prints, incoming.accept(), finishing, staying, crew)))
                }
                None => incoming.refuse("the prints are being read already"),
            },
            // There is nothing to say to it: the channel is refused.
            Some(Request::Cancel(number)) => self.calls.cancel(number),
            Some(Request::Log) => drop(background::spawn(log(incoming.accept(), self.staying.clone()))),
            Some(Request::Command) => command::start(incoming.accept(), &self.crew),
            Some(Request::Relay) => relay::start(incoming.accept(), &self.crew),
            Some(Request::Dial) => dial::start(incoming.accept(), &self.crew),
            Some(Request::End) => {} // taken before
            Some(Request::Finish) => {
                // Dropped, and the channel closed, if nothing is told any more.
                let _ = self.finish.send(incoming.accept());
            }
            None => incoming.refuse("this worker does not know what the channel is for"),
        }
    }
}

/// Sends the only message of a channel. It may be longer than the channel's window.
fn answer<T: crate::task::Message>(channel: Channel<T, ()>, value: T) {
    // Ends when the peer has taken it, or is gone.
    background::spawn(async move { drop(channel.send(value).await) });
}

async fn hello(mut channel: Channel<Hello, Hello>, crew: Arc<Crew>) {
    let Ok(Some(theirs)) = channel.recv().await else { return };
    let digest = crew.tasks.digest();
    // They compare: the coordinator is where a person reads what differs.
    let tasks = if theirs.digest == digest { Vec::new() } else { crew.tasks.declared() };
    let ours = Hello {
        farcall: env!("CARGO_PKG_VERSION").into(),
        program: crew.tasks.program_version().into(),
        digest,
        tasks,
        build: crate::wire::BUILD,
        pid: std::process::id(),
    };
    // A connection that ends tells the other side itself.
    let _ = channel.send(ours).await;
}

/// Tells what is printed, until the worker ends. Whoever asks in between is told when all that runs has ended and all that was
/// printed has been told; it may have gone meanwhile.
async fn tell(
    mut prints: Prints,
    channel: Channel<Printed, ()>,
    mut finishing: mpsc::UnboundedReceiver<Channel<(), ()>>,
    mut staying: watch::Receiver<()>,
    crew: Arc<Crew>,
) {
    let mut asking: Vec<Channel<(), ()>> = Vec::new();
    loop {
        tokio::select! {
            record = prints.next() => {
                let Ok(record) = record else { return };
                if channel.send(record.into()).await.is_err() {
                    return;
                }
            }
            Some(asked) = finishing.recv() => {
                asking.retain(|asking| !asking.is_closed());
                asking.push(asked);
            }
            // A task that prints must not wait for us while we wait for it: so prints are told meanwhile.
            () = crew.idle(), if !asking.is_empty() => {
                while let Ok(Some(record)) = prints.try_next() {
                    if channel.send(record.into()).await.is_err() {
                        return;
                    }
                }
                for asked in asking.drain(..) {
                    // A new channel has room, and one that has gone needs no answer.
                    let _ = asked.try_send(());
                }
            }
            _ = staying.changed() => return,
        }
    }
}

async fn log(mut channel: Channel<crate::log::Event, String>, mut staying: watch::Receiver<()>) {
    let Ok(Some(filter)) = channel.recv().await else { return };
    let Ok(filter) = crate::log::filter(&filter) else { return channel.close_with("no filter") };
    let Some(mut events) = crate::log::forward(filter, channel.id()) else {
        return channel.close_with("the program has a subscriber of its own");
    };
    loop {
        let event = tokio::select! {
            event = events.recv() => event,
            _ = staying.changed() => return,
        };
        let Some(event) = event else { return };
        if channel.send(event).await.is_err() {
            return;
        }
    }
}
