//! Messages with descriptors over a socket pair: chunks that arrive whole or not at all, put together again.
//!
//! A chunk is one packet: a byte of flags and up to [`CHUNK`] bytes. A message is a chunk with [`START`], and while chunks say
//! [`MORE`], further ones. A sender that gives up in the middle just begins the next message: what was put together is thrown
//! away at the next `START`. The kernel keeps packets apart (`SOCK_SEQPACKET`), so no part of one is ever left over here or there.

use std::cell::Cell;
use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
#[cfg(target_os = "linux")]
use std::os::fd::AsRawFd;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::pin::pin;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, ready};
use std::time::Instant;

use rustix::event::{PollFd, PollFlags, poll};
use rustix::io::Errno;
use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, Shutdown, SocketFlags, SocketType, recvmsg, sendmsg, socketpair,
};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

use super::busy_poll::BusyPoll;
use super::travel::{MAX_ENDS, TravelError};

/// The most bytes of a chunk. Several of them fit into a socket's usual buffer of 208 KiB.
pub(crate) const CHUNK: usize = 32 * 1024;

/// The longest message in bytes.
pub const MAX_MESSAGE: usize = 64 * 1024 * 1024;

/// The first chunk of a message.
pub(crate) const START: u8 = 1;
/// Another chunk follows.
const MORE: u8 = 2;
/// No chunk: the message that was begun is given up.
const ABORT: u8 = 4;

/// The room that is kept for the next message.
const KEPT: usize = 64 * 1024;

thread_local! {
    static SCRATCH: Cell<Vec<u8>> = const { Cell::new(Vec::new()) };
}

/// One end of a socket pair.
#[derive(Debug)]
pub(crate) struct Socket {
    fd: Arc<OwnedFd>,
    /// With the runtime that it was last waited for on.
    reactor: Mutex<Option<(tokio::runtime::Id, Arc<Reactor>)>>,
    /// What it is waited for.
    interest: Interest,
    /// Another process has it now: closing it here must not end it there.
    travelled: AtomicBool,
}

type Reactor = AsyncFd<Arc<OwnedFd>>;

/// What is put together of a message.
#[derive(Debug, Default)]
pub(crate) struct Assembly {
    bytes: Vec<u8>,
    descriptors: Vec<OwnedFd>,
    begun: bool,
    /// The other side closed its end without having read all that was sent to it.
    pub(crate) unread: bool,
    /// How the next chunk is waited for.
    wait: BusyPoll,
}

/// Why nothing more is received.
#[derive(Debug)]
pub(crate) enum RecvFault {
    /// The other side went away in the middle of a message.
    Cut,
    /// What came is no message.
    Malformed,
    System(io::Error),
}

/// A whole message.
#[derive(Debug)]
pub(crate) struct Received {
    buffer: Vec<u8>,
    from: usize,
    to: usize,
    pub(crate) descriptors: Vec<OwnedFd>,
}

impl Received {
    pub(crate) fn bytes(&self) -> &[u8] {
        &self.buffer[self.from..self.to]
    }
}

impl Drop for Received {
    fn drop(&mut self) {
        if self.from == 1 {
            SCRATCH.set(std::mem::take(&mut self.buffer));
        }
    }
}

impl Assembly {
    pub(crate) fn is_begun(&self) -> bool {
        self.begun
    }

    fn clear(&mut self) {
        self.bytes.clear();
        self.bytes.shrink_to(KEPT);
        self.descriptors.clear();
        self.begun = false;
    }

    /// Takes a packet in. Returns the message that it completes.
    fn add(
        &mut self,
        scratch: Vec<u8>,
        len: usize,
        descriptors: Vec<OwnedFd>,
    ) -> Result<Option<Received>, RecvFault> {
        let Some((&flags, chunk)) = scratch[..len].split_first() else { return Err(RecvFault::Malformed) };
        let fits = match flags {
            ABORT => chunk.is_empty() && descriptors.is_empty(),
            START => true,
            _ if flags == START | MORE => !chunk.is_empty(),
            0 | MORE => {
                self.begun
                    && descriptors.is_empty()
                    && !chunk.is_empty()
                    && self.bytes.len() + chunk.len() <= MAX_MESSAGE
            }
            _ => false,
        };
        if !fits {
            return Err(RecvFault::Malformed);
        }
        if flags & (START | ABORT) != 0 {
            self.clear();
        }
        if flags == START {
            return Ok(Some(Received { buffer: scratch, from: 1, to: len, descriptors }));
        }
        if flags != ABORT {
            self.bytes.extend_from_slice(chunk);
            self.begun = true;
            if flags & START != 0 {
                self.descriptors = descriptors;
            }
        }
        SCRATCH.set(scratch);
        if flags != 0 {
            return Ok(None);
        }
        self.begun = false;
        let (buffer, descriptors) = (std::mem::take(&mut self.bytes), std::mem::take(&mut self.descriptors));
        Ok(Some(Received { from: 0, to: buffer.len(), buffer, descriptors }))
    }
}

impl Socket {
    pub(crate) fn pair() -> io::Result<(Socket, Socket)> {
        let (one, other) = socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, CLOEXEC_PAIR, None)?;
        #[cfg(target_vendor = "apple")]
        for end in [&one, &other] {
            rustix::io::fcntl_setfd(end, rustix::io::FdFlags::CLOEXEC)?;
        }
        Ok((Socket::new(one), Socket::new(other)))
    }

    pub(crate) fn new(fd: OwnedFd) -> Socket {
        let interest = Interest::READABLE.add(Interest::WRITABLE);
        Socket { fd: Arc::new(fd), reactor: Mutex::new(None), interest, travelled: AtomicBool::new(false) }
    }

    /// One on which it is never waited for room: else whoever waits for a message is woken whenever the other side has read one.
    #[cfg(target_os = "linux")]
    pub(crate) fn without_waiting_for_room(mut self) -> Socket {
        self.interest = Interest::READABLE;
        self
    }

    /// Is not told any more what happens to the socket, until it is waited for again.
    #[cfg(target_os = "linux")]
    pub(crate) fn rest(&self) {
        drop(self.reactor.lock().unwrap_or_else(PoisonError::into_inner).take());
    }

    /// A descriptor that came from elsewhere.
    pub(crate) fn adopt(fd: OwnedFd) -> Result<Socket, TravelError> {
        let is = |fd: BorrowedFd<'_>| -> rustix::io::Result<bool> {
            Ok(rustix::net::getsockname(fd)?.address_family() == AddressFamily::UNIX
                && rustix::net::sockopt::socket_type(fd)? == SocketType::SEQPACKET)
        };
        if is(fd.as_fd()) != Ok(true) {
            return Err(TravelError::NotAPipe);
        }
        Ok(Socket::new(fd))
    }

    /// Its descriptor, to be handed to a process.
    pub(crate) fn descriptor(&self) -> Arc<OwnedFd> {
        Arc::clone(&self.fd)
    }

    pub(crate) fn travelled(&self) {
        self.travelled.store(true, Relaxed);
    }

    /// Ends one direction, while the other goes on.
    pub(crate) fn shut(&self, direction: Shutdown) {
        if !self.travelled.load(Relaxed) {
            // Fails where the other side is gone already.
            let _ = rustix::net::shutdown(&self.fd, direction);
        }
    }

    /// Sends a packet. `EAGAIN` if there is no room and it shall not wait.
    fn send_packet(
        &self,
        flags: u8,
        chunk: &[u8],
        ends: &[Arc<Socket>],
        how: SendFlags,
    ) -> rustix::io::Result<()> {
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_ENDS))];
        let mut control = SendAncillaryBuffer::new(&mut space);
        let descriptors: Vec<BorrowedFd<'_>>;
        if !ends.is_empty() {
            descriptors = ends.iter().map(|end| end.fd.as_fd()).collect();
            // There is room for as many as may embark.
            control.push(SendAncillaryMessage::ScmRights(&descriptors));
        }
        let head = [flags];
        let parts = [IoSlice::new(&head), IoSlice::new(chunk)];
        loop {
            match sendmsg(&self.fd, &parts, &mut control, how | NO_SIGNAL) {
                Err(Errno::INTR) => {}
                sent => return sent.map(drop),
            }
        }
    }

    /// Sends a message if it is one chunk and there is room now.
    pub(crate) fn try_send(&self, message: &[u8], ends: &[Arc<Socket>]) -> rustix::io::Result<bool> {
        if message.len() > CHUNK {
            return Ok(false);
        }
        match self.send_packet(START, message, ends, SendFlags::DONTWAIT) {
            Ok(()) => {
                departed(ends);
                Ok(true)
            }
            Err(Errno::AGAIN) => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Gives up what was begun, if there is room to say so.
    pub(crate) fn try_abort(&self) {
        let _ = self.send_packet(ABORT, &[], &[], SendFlags::DONTWAIT);
    }

    /// Sends a message. `begun` says, also when this is dropped, whether a part of it is on its way.
    pub(crate) async fn send(
        &self,
        message: &[u8],
        ends: &[Arc<Socket>],
        begun: &mut bool,
    ) -> io::Result<()> {
        let mut chunks = message.chunks(CHUNK).peekable();
        let mut first = chunks.next().unwrap_or_default();
        let mut flags = START;
        loop {
            let more = if chunks.peek().is_some() { MORE } else { 0 };
            let ends = if flags == START { ends } else { &[] };
            std::future::poll_fn(|cx| self.poll_packet(cx, flags | more, first, ends)).await?;
            *begun = more != 0;
            match chunks.next() {
                Some(chunk) => (first, flags) = (chunk, 0),
                None => break,
            }
        }
        departed(ends);
        Ok(())
    }

    fn poll_packet(
        &self,
        cx: &mut Context<'_>,
        flags: u8,
        chunk: &[u8],
        ends: &[Arc<Socket>],
    ) -> Poll<io::Result<()>> {
        let progress = ready!(tokio::task::coop::poll_proceed(cx));
        match self.send_packet(flags, chunk, ends, SendFlags::DONTWAIT) {
            Err(Errno::AGAIN) => {}
            sent => {
                progress.made_progress();
                return Poll::Ready(sent.map_err(Into::into));
            }
        }
        let reactor = self.reactor()?;
        loop {
            let mut ready = ready!(reactor.poll_write_ready(cx))?;
            match self.send_packet(flags, chunk, ends, SendFlags::DONTWAIT) {
                Err(Errno::AGAIN) => ready.clear_ready(),
                sent => return Poll::Ready(sent.map_err(Into::into)),
            }
        }
    }

    /// Sends a message and waits for room on this thread.
    pub(crate) fn send_blocking(&self, message: &[u8], ends: &[Arc<Socket>]) -> io::Result<()> {
        let mut flags = START;
        let mut chunks = message.chunks(CHUNK).peekable();
        let mut first = chunks.next().unwrap_or_default();
        loop {
            let more = if chunks.peek().is_some() { MORE } else { 0 };
            let ends = if flags == START { ends } else { &[] };
            self.send_packet(flags | more, first, ends, SendFlags::empty())?;
            match chunks.next() {
                Some(chunk) => (first, flags) = (chunk, 0),
                None => break,
            }
        }
        departed(ends);
        Ok(())
    }

    /// Receives a message if a whole one is here: `Ok(None)` at the end.
    pub(crate) fn try_recv(&self, assembly: &mut Assembly) -> Option<Result<Option<Received>, RecvFault>> {
        loop {
            let mut scratch = SCRATCH.take();
            // One more than a packet has, so that one that is too long shows.
            if scratch.is_empty() {
                // Its pages are not touched where the allocator knows that they are zero: most messages are short, and in a
                // process that was just forked each page costs a microsecond.
                scratch = vec![0; CHUNK + 2];
            }
            scratch.resize(CHUNK + 2, 0);
            let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_ENDS))];
            let mut control = RecvAncillaryBuffer::new(&mut space);
            let mut parts = [IoSliceMut::new(&mut scratch)];
            let received = recvmsg(&self.fd, &mut parts, &mut control, RecvFlags::DONTWAIT | CLOEXEC);
            let mut descriptors = Vec::new();
            for message in control.drain() {
                if let RecvAncillaryMessage::ScmRights(rights) = message {
                    descriptors.extend(rights);
                }
            }
            let keep = |scratch| SCRATCH.set(scratch);
            let message = match received {
                Ok(packet) if packet.bytes == 0 => {
                    keep(scratch);
                    if std::mem::take(&mut assembly.begun) {
                        return Some(Err(RecvFault::Cut));
                    }
                    return Some(Ok(None));
                }
                Ok(packet) if packet.flags.intersects(ReturnFlags::TRUNC | ReturnFlags::CTRUNC) => {
                    keep(scratch);
                    return Some(Err(RecvFault::Malformed));
                }
                Ok(packet) => assembly.add(scratch, packet.bytes, descriptors),
                Err(error) => {
                    keep(scratch);
                    match error {
                        Errno::INTR => continue,
                        Errno::AGAIN => return None,
                        // Said once, before what the other side had sent.
                        Errno::CONNRESET => {
                            assembly.unread = true;
                            continue;
                        }
                        error => return Some(Err(RecvFault::System(error.into()))),
                    }
                }
            };
            match message {
                Ok(None) => {}
                Ok(message) => return Some(Ok(message)),
                Err(fault) => return Some(Err(fault)),
            }
        }
    }

    /// Receives a message; `None` at the end. Nothing is lost when it is not polled to its end.
    pub(crate) fn poll_recv(
        &self,
        cx: &mut Context<'_>,
        assembly: &mut Assembly,
    ) -> Poll<Result<Option<Received>, RecvFault>> {
        let progress = ready!(tokio::task::coop::poll_proceed(cx));
        if let Some(received) = self.try_recv(assembly) {
            progress.made_progress();
            assembly.wait.over();
            return Poll::Ready(received);
        }
        // Woken at once, after the other tasks have had their turns; nothing must live until then.
        if assembly.wait.looks_again(Instant::now()) && pin!(tokio::task::yield_now()).poll(cx).is_pending() {
            return Poll::Pending;
        }
        let reactor = self.reactor().map_err(RecvFault::System)?;
        loop {
            let mut ready = ready!(reactor.poll_read_ready(cx)).map_err(RecvFault::System)?;
            match self.try_recv(assembly) {
                Some(received) => {
                    assembly.wait.over();
                    return Poll::Ready(received);
                }
                None => ready.clear_ready(),
            }
        }
    }

    pub(crate) async fn recv(&self, assembly: &mut Assembly) -> Result<Option<Received>, RecvFault> {
        std::future::poll_fn(|cx| self.poll_recv(cx, assembly)).await
    }

    /// Receives a message and waits for it on this thread; `None` at the end.
    ///
    /// By `poll`, since a process that is killed while it waits in `recvmsg` may take the message with it, which then nobody has
    /// seen, and which the other side takes for read.
    pub(crate) fn recv_blocking(&self, assembly: &mut Assembly) -> Result<Option<Received>, RecvFault> {
        loop {
            if let Some(received) = self.try_recv(assembly) {
                assembly.wait.over();
                return received;
            }
            if assembly.wait.looks_again(Instant::now()) {
                continue;
            }
            match poll(&mut [PollFd::new(&self.fd, PollFlags::IN)], None) {
                Ok(_) | Err(Errno::INTR) => {}
                Err(error) => return Err(RecvFault::System(error.into())),
            }
        }
    }

    /// Waits for the end of the other side, which is known to send nothing more.
    pub(crate) async fn ended(&self) {
        match self.reactor() {
            Ok(reactor) => drop(reactor.readable().await),
            // It cannot be known, and whoever takes this for the end would end what is still wanted.
            Err(_) => std::future::pending().await,
        }
    }

    /// Waits until the other side has read all that was sent to it, or is gone. Where that cannot be known, it is taken to have.
    #[cfg(target_os = "linux")]
    pub(crate) async fn all_read(&self) {
        let Ok(reactor) = self.reactor() else { return };
        while let Ok(mut room) = reactor.writable().await {
            if !self.is_unread() {
                return;
            }
            // Told anew when something was read, also if that was in between.
            room.clear_ready();
        }
    }

    /// Whether the other side has not read all that was sent to it.
    #[cfg(target_os = "linux")]
    pub(crate) fn is_unread(&self) -> bool {
        let mut bytes: libc::c_int = 0;
        // SAFETY: the descriptor is open, and the answer has the size of an int.
        let told = unsafe { libc::ioctl(self.fd.as_raw_fd(), libc::TIOCOUTQ, &raw mut bytes) };
        told == 0 && bytes > 0
    }

    /// The socket on the current runtime's reactor, or on the driver's where the current runtime is none of tokio's. An end may be
    /// used on one runtime now and on another later.
    fn reactor(&self) -> io::Result<Arc<Reactor>> {
        let handle = match tokio::runtime::Handle::try_current() {
            Ok(current) => current,
            Err(_) => crate::open::driver()?,
        };
        let runtime = handle.id();
        let mut reactor = self.reactor.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((known, reactor)) = &*reactor
            && *known == runtime
        {
            return Ok(Arc::clone(reactor));
        }
        let _entered = handle.enter();
        // SAFETY: the `Arc` keeps the descriptor open, and the same one, for as long as it is registered.
        let registered = unsafe { AsyncFd::register_with_interest(Arc::clone(&self.fd), self.interest) };
        let registered = Arc::new(registered.map_err(io::Error::from)?);
        *reactor = Some((runtime, Arc::clone(&registered)));
        Ok(registered)
    }
}

/// The ends have left: what is dropped here now must not end them.
fn departed(ends: &[Arc<Socket>]) {
    for end in ends {
        end.travelled();
    }
}

/// A socket whose other side is gone is an error. Apple's systems know no such flag, but the standard library has SIGPIPE ignored.
#[cfg(not(target_vendor = "apple"))]
const NO_SIGNAL: SendFlags = SendFlags::NOSIGNAL;
#[cfg(target_vendor = "apple")]
const NO_SIGNAL: SendFlags = SendFlags::empty();

/// Descriptors that arrive must not be inherited by what this process starts.
#[cfg(not(target_vendor = "apple"))]
const CLOEXEC: RecvFlags = RecvFlags::CMSG_CLOEXEC;
#[cfg(target_vendor = "apple")]
const CLOEXEC: RecvFlags = RecvFlags::empty();

/// Nor those of a new pair.
#[cfg(not(target_vendor = "apple"))]
const CLOEXEC_PAIR: SocketFlags = SocketFlags::CLOEXEC;
#[cfg(target_vendor = "apple")]
const CLOEXEC_PAIR: SocketFlags = SocketFlags::empty();

#[cfg(test)]
mod tests {
    use super::*;

    fn packet(flags: u8, chunk: &[u8]) -> (Vec<u8>, usize) {
        let mut bytes = vec![0; CHUNK + 2];
        bytes[0] = flags;
        bytes[1..=chunk.len()].copy_from_slice(chunk);
        (bytes, chunk.len() + 1)
    }

    #[test]
    fn a_message_given_up_in_the_middle_leaves_the_next_whole() {
        let mut assembly = Assembly::default();
        let mut add = |flags, chunk: &[u8]| {
            let (bytes, len) = packet(flags, chunk);
            assembly.add(bytes, len, Vec::new()).map(|done| done.map(|done| done.bytes().to_vec()))
        };
        assert_eq!(add(START | MORE, b"ab").unwrap(), None);
        assert_eq!(add(MORE, b"cd").unwrap(), None);
        assert_eq!(add(START, b"next").unwrap().unwrap(), b"next");
        assert_eq!(add(START | MORE, b"ab").unwrap(), None);
        assert_eq!(add(ABORT, b"").unwrap(), None);
        assert!(add(0, b"cd").is_err(), "nothing was begun");
        assert_eq!(add(START | MORE, b"ab").unwrap(), None);
        assert_eq!(add(0, b"cd").unwrap().unwrap(), b"abcd");
        assert_eq!(add(START, b"").unwrap().unwrap(), b"");
    }

    #[test]
    fn what_is_no_message_is_refused() {
        for (flags, chunk) in [(8, &b"x"[..]), (MORE, b"x"), (0, b"x"), (ABORT, b"x"), (START | MORE, b"")] {
            let (bytes, len) = packet(flags, chunk);
            assert!(matches!(Assembly::default().add(bytes, len, Vec::new()), Err(RecvFault::Malformed)));
        }
        let (bytes, _) = packet(START, b"");
        assert!(Assembly::default().add(bytes, 0, Vec::new()).is_err());
        let null = OwnedFd::from(std::fs::File::open("/dev/null").unwrap());
        assert!(matches!(Socket::adopt(null), Err(TravelError::NotAPipe)));
        let (stream, _) = std::os::unix::net::UnixStream::pair().unwrap();
        assert!(matches!(Socket::adopt(stream.into()), Err(TravelError::NotAPipe)));
    }

    #[test]
    fn a_message_has_a_longest_length() {
        let mut assembly = Assembly::default();
        let chunk = vec![0; CHUNK];
        let (bytes, len) = packet(START | MORE, &chunk);
        assembly.add(bytes, len, Vec::new()).unwrap();
        for _ in 1..MAX_MESSAGE / CHUNK {
            let (bytes, len) = packet(MORE, &chunk);
            assembly.add(bytes, len, Vec::new()).unwrap();
        }
        let (bytes, len) = packet(MORE, b"x");
        assert!(matches!(assembly.add(bytes, len, Vec::new()), Err(RecvFault::Malformed)));
    }
}
