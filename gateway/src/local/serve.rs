//! The child's side of calls: a thread that takes them one after another, and runs plain functions itself.
//!
//! A call costs two changes between processes and none between threads: the thread that reads it runs it and replies. That it is
//! cancelled is therefore told by another, the one that serves the connection.

use std::io::{self, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use farcall_channel::{Cbor, Codec};
use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, recvmsg};
use tokio::runtime::Handle;
use tokio::sync::Notify;

use super::socket::{Assembly, Socket};
use super::travel::{self, Fault};
use super::wire::{self, Asked, asked};
use crate::task::{Task, Work};
use crate::tasks::Tasks;
use crate::wire::Reply;
use crate::worker::crew::Crew;
use crate::worker::panics;

/// A message to the parent, with the ends that go along.
pub(crate) type Answer = (Vec<u8>, Vec<Arc<Socket>>);

/// Runs one task for [`Calls`]. Made where the task is added, since there its types are known.
pub(crate) type RunCall = Box<dyn Fn(Arguments<'_>, &Stage<'_>) -> Answer + Send + Sync>;

/// The arguments of a call, not yet decoded.
pub(crate) struct Arguments<'a> {
    number: u64,
    bytes: &'a [u8],
    descriptors: Vec<OwnedFd>,
}

/// What a call runs with.
pub(crate) struct Stage<'a> {
    pub(super) runtime: &'a Handle,
    pub(super) kind: Kind<'a>,
}

/// How many calls a process is there for.
pub(super) enum Kind<'a> {
    /// For one after another.
    Many { crew: &'a Arc<Crew>, cancel: &'a Arc<Cancel> },
    /// For this one, whose parent ends the socket when it wants it no more. Nobody asks what runs here.
    #[cfg_attr(not(target_os = "linux"), expect(dead_code, reason = "there every process has a connection"))]
    One { socket: &'a Socket },
}

/// Cancels one call.
#[derive(Default)]
pub(super) struct Cancel {
    asked: Arc<AtomicBool>,
    now: Notify,
}

/// The calls of this process, as the thread that serves the connection sees them.
#[derive(Default)]
pub(crate) struct Calls {
    state: Mutex<State>,
    idle: Condvar,
    /// Its thread was started.
    pub(crate) taken: AtomicBool,
}

#[derive(Default)]
struct State {
    running: Option<(u64, Arc<Cancel>)>,
    /// Calls up to this number are cancelled, also those that are still on their way.
    cancelled: Option<u64>,
    stopped: bool,
}

/// Takes the socket that came with the standard error, if it has brought one. To be called before that is replaced.
pub(crate) fn passed() -> io::Result<Option<OwnedFd>> {
    let mut byte = [0];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    // SAFETY: borrowed for this call only, which fails where the descriptor is closed or no socket.
    let stderr = unsafe { BorrowedFd::borrow_raw(2) };
    recvmsg(stderr, &mut [IoSliceMut::new(&mut byte)], &mut control, RecvFlags::DONTWAIT)?;
    let mut passed = None;
    for message in control.drain() {
        if let RecvAncillaryMessage::ScmRights(mut rights) = message {
            passed = rights.next().or(passed);
        }
    }
    if let Some(passed) = &passed {
        rustix::io::fcntl_setfd(passed, rustix::io::FdFlags::CLOEXEC)?;
    }
    Ok(passed)
}

impl Calls {
    /// Starts the thread. It ends with the parent's end of the socket; nobody waits for it.
    pub(crate) fn start(self: &Arc<Self>, socket: OwnedFd, crew: &Arc<Crew>) -> io::Result<()> {
        let (calls, crew) = (Arc::clone(self), Arc::clone(crew));
        let socket = Socket::new(socket);
        std::thread::Builder::new()
            .name("farcall-calls".into())
            .spawn(move || calls.serve(&socket, &crew))?;
        self.taken.store(true, Relaxed);
        Ok(())
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What is wrong is told by the end of the socket.
    fn serve(&self, socket: &Socket, crew: &Arc<Crew>) {
        let Ok(runtime) = crew.runtime() else { return };
        // For plain functions, which run here.
        let _entered = runtime.enter();
        let mut assembly = Assembly::default();
        while let Ok(Some(mut received)) = socket.recv_blocking(&mut assembly) {
            let descriptors = std::mem::take(&mut received.descriptors);
            let Some(asked) = asked(received.bytes()) else { return };
            let number = asked.number;
            let (message, ends) = match self.begin(number) {
                None => wire::dropped(number),
                Some(cancel) => {
                    let stage = Stage { runtime: &runtime, kind: Kind::Many { crew, cancel: &cancel } };
                    answer_to(&crew.tasks, &asked, descriptors, &stage)
                }
            };
            // Before the reply: whoever has it may send the next call, and cancel it.
            self.end();
            if socket.send_blocking(&message, &ends).is_err() {
                return;
            }
        }
    }

    /// `None` if the call was cancelled before it began.
    fn begin(&self, number: u64) -> Option<Arc<Cancel>> {
        let mut state = self.state();
        if state.stopped || state.cancelled.is_some_and(|cancelled| number <= cancelled) {
            return None;
        }
        let cancel = Arc::<Cancel>::default();
        state.running = Some((number, Arc::clone(&cancel)));
        Some(cancel)
    }

    fn end(&self) {
        let mut state = self.state();
        state.running = None;
        // Nobody else waits, and this is on the way of every reply.
        if state.stopped {
            self.idle.notify_all();
        }
    }

    /// Cancels the call of this number, whether it has begun or is still to come.
    pub(crate) fn cancel(&self, number: u64) {
        let mut state = self.state();
        state.cancelled = state.cancelled.max(Some(number));
        if let Some((running, cancel)) = &state.running
            && *running <= number
        {
            cancel.ask();
        }
    }

    /// Has nothing begin any more, and cancels what runs. Returns whether nothing does.
    pub(crate) fn refuse(&self) -> bool {
        let mut state = self.state();
        state.stopped = true;
        if let Some((_, cancel)) = &state.running {
            cancel.ask();
        }
        state.running.is_none()
    }

    /// Cancels what runs and waits until it has ended, at most for `limit`. Nothing begins any more.
    pub(crate) fn stop(&self, limit: Duration) {
        let end = Instant::now() + limit;
        if self.refuse() {
            return;
        }
        let mut state = self.state();
        while state.running.is_some() {
            let left = end.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return;
            }
            let waited = self.idle.wait_timeout(state, left);
            state = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
    }
}

/// Runs the task that is asked for.
pub(super) fn answer_to(
    tasks: &Tasks,
    asked: &Asked<'_>,
    descriptors: Vec<OwnedFd>,
    stage: &Stage<'_>,
) -> Answer {
    let arguments = Arguments { number: asked.number, bytes: asked.args, descriptors };
    match tasks.call(asked.name) {
        Some(run) => run(arguments, stage),
        None => {
            let reason = format!("this program has no task {}", asked.name);
            wire::reply(asked.number, &Reply::<()>::Refused(reason))
        }
    }
}

impl Kind<'_> {
    /// Waits until nobody wants the call any more.
    async fn cancelled(&self) {
        match self {
            Kind::Many { cancel, .. } => cancel.now.notified().await,
            Kind::One { socket } => socket.ended().await,
        }
    }
}

impl Cancel {
    fn ask(&self) {
        self.asked.store(true, Relaxed);
        self.now.notify_one();
    }
}

/// Decodes the arguments, runs the task, encodes its reply.
pub(crate) fn run<F: Task<M>, M: 'static>(
    name: &'static str,
    task: F,
    arguments: Arguments<'_>,
    stage: &Stage<'_>,
) -> Answer {
    let Arguments { number, bytes, descriptors } = arguments;
    let Stage { runtime, kind } = stage;
    let present = match kind {
        Kind::Many { crew, cancel } => {
            let asked = Arc::clone(&cancel.asked);
            Some(crew.enter(name, move || asked.load(Relaxed)))
        }
        Kind::One { .. } if F::HAS_CONTEXT => {
            let reason = format!("task {name} needs a process that is connected");
            return wire::reply(number, &Reply::<()>::Refused(reason));
        }
        Kind::One { .. } => None,
    };
    // Reading them runs code of the user's types, and so does writing the value.
    let decoded =
        panics::caught_here(|| travel::decoding(descriptors, || <Cbor as Codec<F::Args>>::decode(bytes)));
    let args = match decoded {
        Ok(Ok(args)) => args,
        Ok(Err(Fault::Codec(error))) => {
            return answer::<F::Value>(number, Reply::Arguments(error.to_string()));
        }
        Ok(Err(Fault::Travel(error))) => {
            return answer::<F::Value>(number, Reply::Arguments(error.to_string()));
        }
        Err(panic) => return answer::<F::Value>(number, Reply::Panicked(panic)),
    };
    if let Some(present) = &present {
        present.started();
    }
    let cx = || match kind {
        Kind::Many { crew, cancel } => crew.context(Arc::clone(&cancel.asked)),
        Kind::One { .. } => unreachable!("it was refused"),
    };
    let outcome = match panics::caught_here(|| task.work(cx, args)) {
        Err(panic) => Err(panic),
        Ok(Work::Blocking(work)) => panics::caught_here(work),
        Ok(Work::Async(work)) => {
            let outcome = runtime.block_on(async {
                tokio::select! {
                    biased;
                    outcome = panics::caught(work) => Some(outcome),
                    () = kind.cancelled() => None,
                }
            });
            match outcome {
                Some(outcome) => outcome,
                // It was dropped where it waited.
                None => return wire::dropped(number),
            }
        }
    };
    answer(number, wire::outcome(outcome))
}

fn answer<V: crate::task::Message>(number: u64, reply: Reply<V>) -> Answer {
    let answer = panics::caught_here(|| wire::reply(number, &reply));
    answer.unwrap_or_else(|panic| wire::reply(number, &Reply::<()>::Panicked(panic)))
}
