//! The coordinator's half of a fork server: starts it, gives orders, hears of ends.

use std::collections::HashMap;
use std::ffi::{OsStr, OsString};
use std::fmt;
use std::io::{self, IoSlice};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::net::{
    AddressFamily, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage, SendFlags, SocketFlags, SocketType,
};
use rustix::process::{Resource, Rlimit};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::net::UnixStream;
use tokio::net::unix::pipe;
use tokio::process::Command;
use tokio::sync::watch;
use tokio_util::sync::{CancellationToken, DropGuard};

use super::wire::{MAX_WORD, Order, RUN_ENDS, Report, STREAMS};
use crate::local::{PIPE_SIZE, Started, socket_with};
use crate::process::{Exit, Process, Stderr};
use crate::target::LaunchOptions;

/// Forks processes of one program; see the [module](super). Cloning shares it. It is to be used on one runtime only.
///
/// Dropping the last clone leaves the processes alone; the server ends with the last of them.
#[derive(Clone)]
pub struct ForkServer(Arc<Shared>);

struct Shared {
    program: PathBuf,
    words: Vec<OsString>,
    state: Mutex<State>,
}

enum State {
    /// Nothing was started yet.
    Unused,
    /// One process was started by executing the program; the next would be worth a server.
    Used,
    Running(Arc<Server>, Box<Surroundings>),
    /// The program is no fork server.
    Unable,
}

impl fmt::Debug for ForkServer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ForkServer").field("program", &self.0.program).finish_non_exhaustive()
    }
}

impl ForkServer {
    /// A server that is `program` started with `words`, of which the first is its name. Nothing is started yet.
    pub fn new(program: &Path, words: Vec<OsString>) -> ForkServer {
        let program = program.to_owned();
        ForkServer(Arc::new(Shared { program, words, state: Mutex::new(State::Unused) }))
    }

    /// Starts a process of `program`. `None` if it is to be started in another way; nothing was started then.
    pub(crate) async fn start(
        &self,
        program: &Path,
        options: &LaunchOptions,
    ) -> Option<(Started, Arc<Server>)> {
        let LaunchOptions { chdir: None, nice: None, memory: None, .. } = options else { return None };
        if program != self.0.program || !options.env.is_empty() {
            return None;
        }
        let name = options.argv0.as_deref().unwrap_or(program.as_os_str());
        // A server that has ended meanwhile is replaced once.
        for _ in 0..2 {
            let server = self.server()?;
            match server.start(name, options).await {
                Ok(started) => return Some((started, server)),
                Err(error) => tracing::debug!(%error, "the fork server does not take the order"),
            }
        }
        None
    }

    /// Has a process forked for one function: it gets the ends, its socket and the line to its guardian. Does not wait.
    /// `None` if it is to be started in another way; nothing was started then.
    pub fn run(&self, words: &[OsString], ends: [BorrowedFd<'_>; RUN_ENDS]) -> Option<Run> {
        let surroundings = Surroundings::now()?;
        let server = match &*self.0.state.lock().unwrap_or_else(PoisonError::into_inner) {
            State::Running(server, theirs) if !server.is_gone() && **theirs == surroundings => {
                Arc::clone(server)
            }
            // By the other way a server is started.
            _ => return None,
        };
        let number = server.link.next.fetch_add(1, Relaxed);
        let order = Order::Run { number, words: words.to_vec() }.to_bytes();
        if order.len() > MAX_WORD {
            return None;
        }
        server.link.say_now(&order, &ends).ok()?;
        Some(Run { server, number })
    }

    /// The server that forks processes like one that would be started now.
    fn server(&self) -> Option<Arc<Server>> {
        let surroundings = Surroundings::now()?;
        let mut state = self.0.state.lock().unwrap_or_else(PoisonError::into_inner);
        match &*state {
            State::Unused => {
                *state = State::Used;
                return None;
            }
            State::Used => {}
            State::Running(server, theirs) if !server.is_gone() => {
                if **theirs == surroundings {
                    return Some(Arc::clone(server));
                }
            }
            State::Running(server, _) => {
                if !server.link.spoke.load(Relaxed) {
                    *state = State::Unable;
                    return None;
                }
            }
            State::Unable => return None,
        }
        match Server::launch(&self.0.program, &self.0.words) {
            Ok(server) => {
                let server = Arc::new(server);
                *state = State::Running(Arc::clone(&server), Box::new(surroundings));
                Some(server)
            }
            Err(error) => {
                tracing::debug!(%error, "no fork server can be started");
                *state = State::Unable;
                None
            }
        }
    }
}

/// What a process inherits and may be changed.
#[derive(PartialEq)]
struct Surroundings {
    directory: PathBuf,
    env: Vec<(OsString, OsString)>,
    ids: [u32; 4],
    limits: [Rlimit; LIMITS.len()],
    nice: i32,
}

const LIMITS: [Resource; 16] = [
    Resource::As,
    Resource::Core,
    Resource::Cpu,
    Resource::Data,
    Resource::Fsize,
    Resource::Locks,
    Resource::Memlock,
    Resource::Msgqueue,
    Resource::Nice,
    Resource::Nofile,
    Resource::Nproc,
    Resource::Rss,
    Resource::Rtprio,
    Resource::Rttime,
    Resource::Sigpending,
    Resource::Stack,
];

impl Surroundings {
    /// `None` where they cannot be told: in a directory that was removed.
    fn now() -> Option<Surroundings> {
        use rustix::process::{getegid, geteuid, getgid, getpriority_process, getuid};
        Some(Surroundings {
            directory: std::env::current_dir().ok()?,
            env: std::env::vars_os().collect(),
            ids: [getuid().as_raw(), geteuid().as_raw(), getgid().as_raw(), getegid().as_raw()],
            limits: LIMITS.map(rustix::process::getrlimit),
            nice: getpriority_process(None).ok()?,
        })
    }
}

/// A server that was started. Dropping it ends the socket, and with that the server, once its processes are gone.
pub(crate) struct Server {
    link: Arc<Link>,
    _end: DropGuard,
}

/// A process that was ordered to be forked for one function. To be kept until its end was told: dropping it may end the server.
pub struct Run {
    server: Arc<Server>,
    number: u64,
}

impl Run {
    /// Has it killed with all that it has started. Nothing happens if it has ended.
    pub fn kill(&self) {
        // A server that is gone has taken it along. One that does not read is stopped, and nothing helps.
        let _ = self.server.link.say_now(&Order::Kill { number: self.number }.to_bytes(), &[]);
    }

    /// Whether the fork server has ended.
    pub fn has_lost_its_server(&self) -> bool {
        // Of the socket, since what is told by it is heard a moment later.
        let mut fds = [PollFd::new(self.server.link.socket.get_ref(), PollFlags::empty())];
        let at_once = Timespec { tv_sec: 0, tv_nsec: 0 };
        rustix::event::poll(&mut fds, Some(&at_once)).is_ok_and(|ended| ended > 0)
    }
}

impl fmt::Debug for Run {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Run").field("number", &self.number).finish_non_exhaustive()
    }
}

/// The socket, and who waits for news from it.
struct Link {
    socket: AsyncFd<OwnedFd>,
    next: AtomicU64,
    /// Absent once the server is gone.
    running: Mutex<Option<HashMap<u64, watch::Sender<Option<Exit>>>>>,
    spoke: AtomicBool,
}

impl Server {
    fn launch(program: &Path, words: &[OsString]) -> io::Result<Server> {
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let (ours, theirs) =
            rustix::net::socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, flags, None)?;
        let mut command = Command::new(program);
        if let [name, arguments @ ..] = words {
            command.arg0(name).args(arguments);
        }
        // It is left alone when the handle goes: its processes may still run.
        command.stdin(Stdio::from(theirs)).stdout(Stdio::null()).stderr(Stdio::null()).process_group(0);
        let mut process = command.spawn()?;
        // Ends with the server.
        tokio::spawn(async move { process.wait().await });
        // Not for room, since then whoever listens would be woken by each order that the server takes.
        // SAFETY: an `OwnedFd` is open and names the same descriptor for as long as it lives.
        let socket = unsafe { AsyncFd::register_with_interest(ours, Interest::READABLE) };
        let link = Arc::new(Link {
            socket: socket.map_err(io::Error::from)?,
            next: AtomicU64::new(0),
            running: Mutex::new(Some(HashMap::new())),
            spoke: AtomicBool::new(false),
        });
        let end = CancellationToken::new();
        let (listening, ended) = (Arc::clone(&link), end.clone());
        // Ends with the socket, or with the last handle of it.
        tokio::spawn(async move {
            let error = tokio::select! {
                error = listening.listen() => error,
                () = ended.cancelled() => None,
            };
            tracing::debug!(?error, "the fork server is gone");
            for exited in listening.running().take().into_iter().flat_map(HashMap::into_values) {
                exited.send_replace(Some(Exit::Unknown));
            }
        });
        Ok(Server { link, _end: end.drop_guard() })
    }

    /// Whether it has ended, or nothing can be heard of it.
    pub(crate) fn is_gone(&self) -> bool {
        self.link.running().is_none()
    }

    async fn start(self: &Arc<Self>, name: &OsStr, options: &LaunchOptions) -> io::Result<Started> {
        let number = self.link.next.fetch_add(1, Relaxed);
        let words = std::iter::once(name).chain(options.arguments.iter().map(OsString::as_os_str));
        let order = Order::Start { number, words: words.map(OsStr::to_owned).collect() }.to_bytes();
        if order.len() > MAX_WORD {
            return Err(io::ErrorKind::InvalidInput.into());
        }
        let (stdin, writer) = pipe_to()?;
        let (reader, stdout) = pipe_from()?;
        let (exited, exit) = watch::channel(None);
        let (evidence, stderr) = match options.pass.as_deref() {
            None => {
                let (evidence, stderr) = pipe_from()?;
                (Stderr::of_pipe(evidence, exited.clone()), stderr)
            }
            Some(passed) => {
                let (ours, theirs) = socket_with(passed)?;
                ours.set_nonblocking(true)?;
                let ours = UnixStream::from_std(ours)?;
                (Stderr::of_pipe(ours, exited.clone()), theirs.into())
            }
        };
        // A smaller pipe works too.
        let _ = rustix::pipe::fcntl_setpipe_size(&writer, PIPE_SIZE);
        let _ = rustix::pipe::fcntl_setpipe_size(&reader, PIPE_SIZE);
        // Before the order: from the moment that it is given on, somebody must be there to take it back.
        match &mut *self.link.running() {
            Some(running) => drop(running.insert(number, exited)),
            None => return Err(io::ErrorKind::BrokenPipe.into()),
        }
        let kill = CancellationToken::new();
        let (obeyed, kept) =
            (obey(Arc::clone(self), number, exit.clone(), kill.clone()), options.kept.clone());
        // Ends with the process.
        tokio::spawn(async move {
            obeyed.await;
            drop(kept);
        });
        let process = Process::new(None, exit, kill);
        let order_lost = OrderLost { link: &self.link, number };
        self.link.say(&order, &[stdin.as_fd(), stdout.as_fd(), stderr.as_fd()]).await?;
        std::mem::forget(order_lost);
        Ok(Started { reader: Box::new(reader), writer: Box::new(writer), stderr: evidence, process })
    }
}

/// An order that was not given, because it could not be or nobody wants it any more, when this is dropped: nothing is ever heard
/// of its process.
struct OrderLost<'a> {
    link: &'a Link,
    number: u64,
}

impl Drop for OrderLost<'_> {
    fn drop(&mut self) {
        self.link.ended(self.number, Exit::Unknown);
    }
}

/// Has a process killed when that is asked for, until it has ended. Keeps the server's socket open as long.
async fn obey(
    server: Arc<Server>,
    number: u64,
    mut exit: watch::Receiver<Option<Exit>>,
    kill: CancellationToken,
) {
    tokio::select! {
        _ = exit.wait_for(Option::is_some) => return,
        () = kill.cancelled() => {}
    }
    // A server that is gone has taken it along.
    if server.link.say(&Order::Kill { number }.to_bytes(), &[]).await.is_ok() {
        let _ = exit.wait_for(Option::is_some).await;
    }
}

impl Link {
    fn running(&self) -> MutexGuard<'_, Option<HashMap<u64, watch::Sender<Option<Exit>>>>> {
        self.running.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Gives an order. Cancel-safe: it is given or it is not.
    async fn say(&self, order: &[u8], fds: &[BorrowedFd<'_>]) -> io::Result<()> {
        match self.say_now(order, fds) {
            Err(full) if full.kind() == io::ErrorKind::WouldBlock => {}
            said => return said,
        }
        // One of its own: a descriptor is registered once.
        let room = rustix::io::fcntl_dupfd_cloexec(self.socket.get_ref(), 3)?;
        // SAFETY: an `OwnedFd` is open and names the same descriptor for as long as it lives.
        let room = unsafe { AsyncFd::register_with_interest(room, Interest::WRITABLE) };
        let room = room.map_err(io::Error::from)?;
        room.async_io(Interest::WRITABLE, |_| self.say_now(order, fds)).await
    }

    /// Gives an order if there is room for it now.
    fn say_now(&self, order: &[u8], fds: &[BorrowedFd<'_>]) -> io::Result<()> {
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(STREAMS))];
        let mut ancillary = SendAncillaryBuffer::new(&mut space);
        if !fds.is_empty() && !ancillary.push(SendAncillaryMessage::ScmRights(fds)) {
            return Err(io::ErrorKind::InvalidInput.into());
        }
        let socket = self.socket.get_ref();
        rustix::net::sendmsg(socket, &[IoSlice::new(order)], &mut ancillary, SendFlags::NOSIGNAL)?;
        Ok(())
    }

    /// Passes on what the server tells, until it ends. Returns what was wrong, if something was.
    async fn listen(&self) -> Option<io::Error> {
        let mut buffer = [0; 64];
        loop {
            let heard = self
                .socket
                .async_io(Interest::READABLE, |socket| {
                    Ok(rustix::net::recv(socket, &mut buffer, RecvFlags::empty())?.0)
                })
                .await;
            match heard {
                Ok(0) => return None,
                Ok(length) => self.heard(Report::from_bytes(&buffer[..length])?),
                Err(error) => return Some(error),
            }
        }
    }

    fn heard(&self, report: Report) {
        self.spoke.store(true, Relaxed);
        let (number, exit) = match report {
            Report::Ready => return,
            Report::Ended { number, exit } => (number, exit),
            Report::NotStarted { number, errno } => {
                tracing::debug!(error = %io::Error::from_raw_os_error(errno), "the fork server cannot fork");
                (number, Exit::Unknown)
            }
        };
        self.ended(number, exit);
    }

    fn ended(&self, number: u64, exit: Exit) {
        let exited = self.running().as_mut().and_then(|running| running.remove(&number));
        if let Some(exited) = exited {
            exited.send_replace(Some(exit));
        }
    }
}

/// A pipe into a process: its end, and ours.
fn pipe_to() -> io::Result<(OwnedFd, pipe::Sender)> {
    let (theirs, ours) = io::pipe()?;
    let ours = OwnedFd::from(ours);
    rustix::io::ioctl_fionbio(&ours, true)?;
    Ok((theirs.into(), pipe::Sender::from_owned_fd_unchecked(ours)?))
}

/// A pipe out of a process: our end, and its.
fn pipe_from() -> io::Result<(pipe::Receiver, OwnedFd)> {
    let (ours, theirs) = io::pipe()?;
    let ours = OwnedFd::from(ours);
    rustix::io::ioctl_fionbio(&ours, true)?;
    Ok((pipe::Receiver::from_owned_fd_unchecked(ours)?, theirs.into()))
}
