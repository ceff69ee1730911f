//! Byte streams on a channel: `AsyncRead` and `AsyncWrite`.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::{Buf, Bytes};
use tokio::io::{AsyncBufRead, AsyncRead, AsyncWrite, ReadBuf};

use crate::channel::Channel;
use crate::codec::Raw;
use crate::driver::{Place, Shared};
use crate::error::{RecvError, SendError, TrySendError};
use crate::receiver::Receiver;
use crate::sender::Sender;
use crate::sync::Arc;

/// The most that one write puts into a message.
const WRITE: usize = 32 * 1024;

/// The reading side of a byte stream. Message boundaries do not show; the channel's end is the end of the file.
#[derive(Debug)]
pub struct ByteReader {
    receiver: Receiver<Bytes, Raw>,
    rest: Bytes,
}

/// The writing side of a byte stream. Dropping it, or shutting it down, is the end of the file for the reader; what was
/// written before is delivered.
#[derive(Debug)]
pub struct ByteWriter {
    /// Before `sender`, which must not end while somebody is in line.
    room: Place<Arc<Shared>>,
    sender: Sender<Bytes, Raw>,
}

/// A byte stream in both directions.
#[derive(Debug)]
pub struct ByteStream {
    /// What the peer writes.
    pub reader: ByteReader,
    /// What the peer reads.
    pub writer: ByteWriter,
}

impl Receiver<Bytes, Raw> {
    /// This end as a stream of bytes.
    pub fn into_reader(self) -> ByteReader {
        ByteReader { receiver: self, rest: Bytes::new() }
    }
}

impl Sender<Bytes, Raw> {
    /// This end as a stream of bytes.
    pub fn into_writer(self) -> ByteWriter {
        ByteWriter { room: self.room(), sender: self }
    }
}

impl Channel<Bytes, Bytes, Raw> {
    /// This end as a stream of bytes in both directions.
    pub fn into_stream(self) -> ByteStream {
        let (sender, receiver) = self.split();
        ByteStream { reader: receiver.into_reader(), writer: sender.into_writer() }
    }
}

impl ByteReader {
    /// The channel's end again, unless part of a message was read.
    #[expect(clippy::result_large_err, reason = "the error is the reader that was handed in")]
    pub fn into_inner(self) -> Result<Receiver<Bytes, Raw>, ByteReader> {
        if self.rest.is_empty() { Ok(self.receiver) } else { Err(self) }
    }
}

impl ByteWriter {
    /// The channel's end again.
    pub fn into_inner(self) -> Sender<Bytes, Raw> {
        self.sender
    }
}

fn read_error(error: RecvError) -> io::Error {
    let kind = match &error {
        RecvError::Remote(_) => io::ErrorKind::Other,
        RecvError::Lost(_) => io::ErrorKind::ConnectionAborted,
        RecvError::Codec(_) => io::ErrorKind::InvalidData,
    };
    io::Error::new(kind, error)
}

fn write_error(error: SendError) -> io::Error {
    let kind = match &error {
        SendError::Closed | SendError::Stopped(_) => io::ErrorKind::BrokenPipe,
        SendError::Lost(_) => io::ErrorKind::ConnectionAborted,
        SendError::Codec(_) | SendError::TooLarge { .. } | SendError::Draining => io::ErrorKind::InvalidInput,
    };
    io::Error::new(kind, error)
}

impl AsyncBufRead for ByteReader {
    fn poll_fill_buf(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<&[u8]>> {
        let this = self.get_mut();
        // Empty messages are no end of file.
        while this.rest.is_empty() {
            match ready!(this.receiver.poll_recv(cx)).map_err(read_error)? {
                Some(bytes) => {
                    this.receiver.end.set_unfinished(!bytes.is_empty());
                    this.rest = bytes;
                }
                None => break,
            }
        }
        Poll::Ready(Ok(&this.rest))
    }

    fn consume(mut self: Pin<&mut Self>, amount: usize) {
        self.rest.advance(amount);
        if self.rest.is_empty() {
            self.receiver.end.set_unfinished(false);
        }
    }
}

impl AsyncRead for ByteReader {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let available = ready!(self.as_mut().poll_fill_buf(cx))?;
        let amount = available.len().min(buf.remaining());
        buf.put_slice(&available[..amount]);
        self.consume(amount);
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for ByteWriter {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        if buf.is_empty() {
            return Poll::Ready(Ok(0));
        }
        let ByteWriter { room, sender } = self.get_mut();
        // A message longer than the window would have to be announced; a piece of it goes at once.
        let mut amount = buf.len().min(WRITE).min(sender.piece());
        loop {
            ready!(sender.poll_room(room, cx, amount));
            match sender.try_send(Bytes::copy_from_slice(&buf[..amount])) {
                Ok(()) => return Poll::Ready(Ok(amount)),
                Err(TrySendError::Failed(error)) => return Poll::Ready(Err(write_error(error))),
                // Another writer was quicker, or the window has become smaller.
                Err(TrySendError::Full(_)) => amount = amount.min(sender.piece()),
            }
        }
    }

    fn poll_flush(self: Pin<&mut Self>, _cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        // What was taken is sent without further ado.
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.sender.close();
        Poll::Ready(Ok(()))
    }
}

impl AsyncRead for ByteStream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.reader).poll_read(cx, buf)
    }
}

impl AsyncWrite for ByteStream {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.writer).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.writer).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.writer).poll_shutdown(cx)
    }
}
