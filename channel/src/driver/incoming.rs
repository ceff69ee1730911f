//! The byte stream from the peer, and where what comes goes.

use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Instant;

use bytes::BufMut;
use tokio::io::{AsyncRead, ReadBuf};

use super::trace::Wanted;
use super::{Shared, Wakes};
use crate::mux::Mux;

/// The read buffer while little comes, and the most it grows to.
pub(super) const READ_MIN: usize = 8 * 1024;
const READ_MAX: usize = 256 * 1024;
/// For less than this a read of its own costs more than a copy.
const WORTHWHILE: usize = 16 * 1024;

/// The byte stream from the peer, with what has come and is less than a frame.
pub(super) struct Incoming<S> {
    pub(super) stream: S,
    buffer: Vec<u8>,
    kept: usize,
    /// The middle of a long message is coming in: it is read to where it belongs.
    lends: bool,
    /// It was just read so. More of it may follow after the next header, so little is read with that.
    lent: bool,
}

impl<S: AsyncRead> Incoming<Pin<&mut S>> {
    pub(super) fn new(stream: Pin<&mut S>) -> Incoming<Pin<&mut S>> {
        Incoming { stream, buffer: vec![0; READ_MIN], kept: 0, lends: false, lent: false }
    }

    /// Reads once and hands on what came: so many bytes, or 0 at the end of the stream.
    pub(super) fn poll_read(
        &mut self,
        shared: &Shared,
        cx: &mut Context<'_>,
        wakes: &mut Wakes,
    ) -> Poll<std::io::Result<usize>> {
        // The lock is released again before the stream is asked.
        let lent = if std::mem::take(&mut self.lends) { shared.lock().mux.lend_part() } else { None };
        if let Some(mut lent) = lent {
            let mut room = (&mut lent.bytes).limit(lent.room);
            let read = tokio_util::io::poll_read_buf(self.stream.as_mut(), cx, &mut room);
            (_, self.lends) = arrived(shared, wakes, |mux, now| mux.return_part(now, lent));
            self.lent = true;
            return read;
        }
        let end = if self.lent { self.buffer.len().min(self.kept + READ_MIN) } else { self.buffer.len() };
        let mut read = ReadBuf::new(&mut self.buffer[self.kept..end]);
        ready!(self.stream.as_mut().poll_read(cx, &mut read))?;
        let came = read.filled().len();
        if came > 0 {
            let filled = self.kept + came;
            let used;
            (used, self.lends) = receive(shared, &self.buffer[..filled], wakes);
            self.lent = self.lends;
            self.buffer.copy_within(used..filled, 0);
            self.kept = filled - used;
            if filled == self.buffer.len() && filled < READ_MAX {
                self.buffer.resize((filled * 4).min(READ_MAX), 0);
            }
        }
        Poll::Ready(Ok(came))
    }

    /// Gives the buffer's memory back, unless something is in it.
    pub(super) fn shrink(&mut self) {
        if self.kept == 0 {
            self.buffer = vec![0; READ_MIN];
        }
    }
}

/// Takes bytes that came; returns how many were used, and whether the middle of a long message is coming in.
pub(crate) fn receive(shared: &Shared, bytes: &[u8], wakes: &mut Wakes) -> (usize, bool) {
    arrived(shared, wakes, |mux, now| mux.handle_bytes(now, bytes))
}

fn arrived<R>(shared: &Shared, wakes: &mut Wakes, act: impl FnOnce(&mut Mux, Instant) -> R) -> (R, bool) {
    let wanted = Wanted::now();
    let now = Instant::now();
    let mut state = shared.lock();
    state.watch(wanted);
    let result = act(&mut state.mux, now);
    if state.collect(wakes) {
        state.answering = true;
    }
    state.collect_writer(wakes);
    let lends = state.mux.part_left() >= WORTHWHILE;
    let traces = state.traces();
    drop(state);
    wakes.wake();
    traces.emit();
    (result, lends)
}
