//! The stream that the SSH protocol reads and writes: it can be cut from outside, and it remembers the server's first words.

use std::io;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio_util::sync::{CancellationToken, WaitForCancellationFutureOwned};

use crate::error::EVIDENCE_LIMIT;

/// Wraps a byte stream for the protocol's task.
///
/// That task outlives the future which started it, and reads for as long as the stream lives: a server that accepts and
/// says nothing would keep it for ever. Cutting the stream ends it.
pub(crate) struct Line<S> {
    inner: S,
    cut: Pin<Box<WaitForCancellationFutureOwned>>,
    cut_for_writes: Pin<Box<WaitForCancellationFutureOwned>>,
    heard: Arc<Mutex<Heard>>,
    /// The identification came, or there was too much before it to keep.
    heard_enough: bool,
    at_line_start: bool,
}

/// The server's first words.
#[derive(Debug, Default)]
pub(crate) struct Heard {
    /// What came before its identification, at most [`EVIDENCE_LIMIT`] bytes.
    pub prelude: Vec<u8>,
    /// Whether its identification came.
    pub identified: bool,
}

impl<S> Line<S> {
    pub(crate) fn new(inner: S, cut: &CancellationToken, heard: Arc<Mutex<Heard>>) -> Self {
        Self {
            inner,
            cut: Box::pin(cut.clone().cancelled_owned()),
            cut_for_writes: Box::pin(cut.clone().cancelled_owned()),
            heard,
            heard_enough: false,
            at_line_start: true,
        }
    }

    /// Keeps `bytes` until a line begins with `SSH-`. A server that cuts them in odd places only costs evidence.
    fn remember(&mut self, bytes: &[u8]) {
        let mut heard = self.heard.lock().unwrap_or_else(PoisonError::into_inner);
        for line in bytes.split_inclusive(|&b| b == b'\n') {
            heard.identified = self.at_line_start && line.starts_with(b"SSH-");
            let room = EVIDENCE_LIMIT - heard.prelude.len();
            if heard.identified || room == 0 {
                self.heard_enough = true;
                return;
            }
            heard.prelude.extend_from_slice(&line[..line.len().min(room)]);
            self.at_line_start = line.ends_with(b"\n");
        }
    }
}

fn was_cut() -> io::Error {
    io::Error::new(io::ErrorKind::ConnectionAborted, "the connection was given up")
}

impl<S: AsyncRead + Unpin> AsyncRead for Line<S> {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if this.cut.as_mut().poll(cx).is_ready() {
            return Poll::Ready(Err(was_cut()));
        }
        let before = buf.filled().len();
        let polled = Pin::new(&mut this.inner).poll_read(cx, buf);
        if !this.heard_enough && matches!(polled, Poll::Ready(Ok(()))) {
            let new = buf.filled()[before..].to_vec();
            this.remember(&new);
        }
        polled
    }
}

impl<S: AsyncWrite + Unpin> Line<S> {
    fn cut_while_writing(&mut self, cx: &mut Context<'_>) -> bool {
        self.cut_for_writes.as_mut().poll(cx).is_ready()
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Line<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        if self.cut_while_writing(cx) {
            return Poll::Ready(Err(was_cut()));
        }
        Pin::new(&mut self.inner).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.cut_while_writing(cx) {
            return Poll::Ready(Err(was_cut()));
        }
        Pin::new(&mut self.inner).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        // A connection that broke or was cut cannot be shut down either. The protocol's task must not stumble over that: it
        // has yet to tell how the connection ended.
        if self.cut_while_writing(cx) {
            return Poll::Ready(Ok(()));
        }
        Pin::new(&mut self.inner).poll_shutdown(cx).map(|_| Ok(()))
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;

    #[tokio::test]
    async fn a_cut_ends_reading_and_writing() {
        let (ours, _theirs) = tokio::io::duplex(8);
        let cut = CancellationToken::new();
        let (mut reader, mut writer) = tokio::io::split(Line::new(ours, &cut, Arc::default()));
        let reading = tokio::spawn(async move { reader.read_u8().await });
        let writing = tokio::spawn(async move { writer.write_all(&[0; 100]).await });
        tokio::task::yield_now().await;
        cut.cancel();
        let read = reading.await.expect("no panic").expect_err("cut");
        let written = writing.await.expect("no panic").expect_err("cut");
        assert_eq!(
            (read.kind(), written.kind()),
            (io::ErrorKind::ConnectionAborted, io::ErrorKind::ConnectionAborted)
        );
    }

    #[tokio::test]
    async fn first_words_are_kept_up_to_the_identification() {
        let heard = Arc::<Mutex<Heard>>::default();
        let words = b"Go away\r\nnot SSH-\nSSH-2.0-x\r\nbinary";
        let mut line = Line::new(&words[..], &CancellationToken::new(), Arc::clone(&heard));
        line.read_to_end(&mut Vec::new()).await.expect("memory");
        let said = |heard: &Mutex<Heard>| {
            let heard = heard.lock().expect("not poisoned");
            (heard.prelude.clone(), heard.identified)
        };
        assert_eq!(said(&heard), (b"Go away\r\nnot SSH-\n".to_vec(), true));

        let endless = [b'x'; EVIDENCE_LIMIT * 3];
        let heard = Arc::<Mutex<Heard>>::default();
        let mut line = Line::new(&endless[..], &CancellationToken::new(), Arc::clone(&heard));
        line.read_to_end(&mut Vec::new()).await.expect("memory");
        assert_eq!(said(&heard), (vec![b'x'; EVIDENCE_LIMIT], false));
    }
}
