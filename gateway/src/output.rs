//! What is printed in a worker, as its coordinator reads it.

use std::collections::VecDeque;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};

use bytes::Bytes;
use farcall_channel::Receiver;
use serde::{Deserialize, Serialize};

use crate::worker::stdio::{Record, Stream};

/// What is kept while nobody reads: the end of it.
const KEPT: usize = 64 * 1024;

/// What a print costs beside its bytes.
const OVERHEAD: usize = 64;

/// Where something was printed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum PrintStream {
    /// Descriptor 1.
    Stdout,
    /// Descriptor 2.
    Stderr,
}

/// Something that a task, or a process that it started, printed: bytes in order within their stream, cut anywhere.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Printed {
    /// Where it was printed.
    pub stream: PrintStream,
    /// What was printed; never empty.
    pub bytes: Bytes,
}

impl From<Record> for Printed {
    fn from(record: Record) -> Printed {
        let stream = match record.stream {
            Stream::Stdout => PrintStream::Stdout,
            Stream::Stderr => PrintStream::Stderr,
        };
        Printed { stream, bytes: record.bytes.into() }
    }
}

/// What a worker prints, as a `Stream`: from [`Gateway::output`](crate::Gateway::output).
///
/// It begins with what was printed before, of which the last 64 KiB are kept. As long as it lives, nothing is thrown away:
/// who prints waits for who reads. It ends when the gateway has ended.
#[derive(Debug)]
pub struct Output {
    prints: Arc<Prints>,
}

/// What was printed and not yet read.
#[derive(Debug, Default)]
pub(crate) struct Prints(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    waiting: VecDeque<Printed>,
    /// So that empty prints are bounded too.
    cost: usize,
    /// Thrown away because nobody read.
    lost: u64,
    readers: usize,
    ended: bool,
    waiting_readers: Vec<Waker>,
    waiting_writers: Vec<Waker>,
}

fn cost(printed: &Printed) -> usize {
    OVERHEAD + printed.bytes.len()
}

impl Prints {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes what comes until nothing more can; `all` if nothing comes from elsewhere then. Runs on the driver, which never
    /// waits for it elsewhere.
    pub(crate) async fn gather(self: Arc<Self>, mut receiver: Receiver<Printed>, all: bool) {
        while let Ok(Some(printed)) = receiver.recv().await {
            let mut printed = Some(printed);
            std::future::poll_fn(|cx| self.poll_push(&mut printed, cx)).await;
        }
        if !all {
            return;
        }
        let mut state = self.lock();
        state.ended = true;
        let reader = std::mem::take(&mut state.waiting_readers);
        drop(state);
        reader.into_iter().for_each(Waker::wake);
    }

    fn poll_push(&self, printed: &mut Option<Printed>, cx: &mut Context<'_>) -> Poll<()> {
        let mut state = self.lock();
        if state.readers > 0 && state.cost >= KEPT {
            if !state.waiting_writers.iter().any(|waker| waker.will_wake(cx.waker())) {
                state.waiting_writers.push(cx.waker().clone());
            }
            return Poll::Pending;
        }
        if let Some(printed) = printed.take() {
            state.cost += cost(&printed);
            state.waiting.push_back(printed);
        }
        while state.readers == 0 && state.cost > KEPT {
            let Some(oldest) = state.waiting.pop_front() else { break };
            state.cost -= cost(&oldest);
            state.lost += oldest.bytes.len() as u64;
        }
        let reader = std::mem::take(&mut state.waiting_readers);
        drop(state);
        reader.into_iter().for_each(Waker::wake);
        Poll::Ready(())
    }

    pub(crate) fn read(self: &Arc<Self>) -> Output {
        self.lock().readers += 1;
        Output { prints: Arc::clone(self) }
    }
}

impl Output {
    /// What is printed next; `None` when the gateway has ended and all was read.
    ///
    /// Cancel safety: nothing is lost.
    pub async fn next(&mut self) -> Option<Printed> {
        std::future::poll_fn(|cx| self.poll_printed(cx)).await
    }

    /// How many bytes were thrown away because nobody read them.
    pub fn lost(&self) -> u64 {
        self.prints.lock().lost
    }

    fn poll_printed(&mut self, cx: &mut Context<'_>) -> Poll<Option<Printed>> {
        let mut state = self.prints.lock();
        let Some(printed) = state.waiting.pop_front() else {
            if state.ended {
                return Poll::Ready(None);
            }
            if !state.waiting_readers.iter().any(|waker| waker.will_wake(cx.waker())) {
                state.waiting_readers.push(cx.waker().clone());
            }
            return Poll::Pending;
        };
        state.cost -= cost(&printed);
        let writers = std::mem::take(&mut state.waiting_writers);
        drop(state);
        writers.into_iter().for_each(Waker::wake);
        Poll::Ready(Some(printed))
    }
}

impl futures_core::Stream for Output {
    type Item = Printed;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Printed>> {
        self.poll_printed(cx)
    }
}

impl Drop for Output {
    fn drop(&mut self) {
        let mut state = self.prints.lock();
        state.readers -= 1;
        let writers = std::mem::take(&mut state.waiting_writers);
        drop(state);
        writers.into_iter().for_each(Waker::wake);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn printed(byte: u8, len: usize) -> Option<Printed> {
        Some(Printed { stream: PrintStream::Stdout, bytes: vec![byte; len].into() })
    }

    #[test]
    fn unread_prints_are_bounded_and_a_reader_holds_the_printer_up() {
        let prints = Arc::new(Prints::default());
        let mut cx = Context::from_waker(Waker::noop());
        for byte in 0..10 {
            assert!(prints.poll_push(&mut printed(byte, KEPT / 4 - OVERHEAD), &mut cx).is_ready());
        }
        let mut output = prints.read();
        assert_eq!(output.lost(), 6 * (KEPT - 4 * OVERHEAD) as u64 / 4);
        let mut late = printed(99, 1);
        assert!(prints.poll_push(&mut late, &mut cx).is_pending());
        let Poll::Ready(Some(first)) = output.poll_printed(&mut cx) else { panic!("something is there") };
        assert_eq!(first.bytes[0], 6);
        assert!(prints.poll_push(&mut late, &mut cx).is_ready());
    }
}
