//! Every host gets every byte, the slowest sets the pace, and who has gone holds nobody up.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc;

use super::*;

/// A source of so many bytes that counts what was taken from it; its bytes tell their place.
struct Counted {
    taken: Arc<AtomicU64>,
    left: u64,
}

fn counted(length: u64) -> (Counted, Arc<AtomicU64>) {
    let taken = Arc::new(AtomicU64::new(0));
    (Counted { taken: taken.clone(), left: length }, taken)
}

fn expected(length: u64) -> Vec<u8> {
    (0..length).map(byte).collect()
}

fn byte(place: u64) -> u8 {
    (place % 251) as u8
}

impl Read for Counted {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = (buffer.len() as u64).min(self.left).min(10_007);
        let from = self.taken.load(Ordering::SeqCst);
        for (i, to) in buffer[..count as usize].iter_mut().enumerate() {
            *to = byte(from + i as u64);
        }
        self.left -= count;
        self.taken.store(from + count, Ordering::SeqCst);
        Ok(count as usize)
    }
}

async fn read_all(mut reader: InputReader) -> Result<Vec<u8>, InputError> {
    let mut all = Vec::new();
    while let Some(bytes) = reader.next().await? {
        all.extend_from_slice(&bytes);
    }
    assert!(reader.next().await?.is_none(), "the end stays the end");
    Ok(all)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_host_gets_every_byte() {
    const LENGTH: u64 = 3 * WINDOW + 12_345;
    for at_once in [4, 3] {
        let (source, _) = counted(LENGTH);
        let input = Input::new(source, 4, at_once).unwrap();
        let tasks: Vec<_> = (0..4).map(|_| tokio::spawn(read_all(input.open()))).collect();
        for task in tasks {
            assert!(task.await.unwrap().unwrap() == expected(LENGTH), "at once: {at_once}");
        }
    }
}

#[tokio::test]
async fn a_host_that_begins_after_the_others_gets_it_from_the_beginning() {
    const LENGTH: u64 = 2 * WINDOW + 5;
    let (source, _) = counted(LENGTH);
    let input = Input::new(source, 3, 1).unwrap();
    for _ in 0..3 {
        assert!(read_all(input.open()).await.unwrap() == expected(LENGTH));
    }
}

#[tokio::test]
async fn the_slowest_sets_the_pace() {
    let (source, taken) = counted(100 * WINDOW);
    let input = Input::new(source, 2, 2).unwrap();
    let (mut fast, mut slow) = (input.open(), input.open());
    let mut ahead = 0;
    // The fast one reads until there is nothing more for it: a window ahead of the slow one.
    while ahead < WINDOW {
        ahead += fast.next().await.unwrap().unwrap().len() as u64;
    }
    let mut waiting = Box::pin(fast.next());
    assert!(futures_poll(&mut waiting).is_none(), "it waits for the slow one");
    assert!(taken.load(Ordering::SeqCst) <= WINDOW + CHUNK as u64);
    let first = slow.next().await.unwrap().unwrap();
    assert!(!first.is_empty());
    assert!(waiting.await.unwrap().is_some(), "and goes on with it");
    drop(slow);
    for _ in 0..1000 {
        fast.next().await.unwrap().unwrap(); // far beyond the window: who has gone is not waited for
    }
}

/// Polls once.
fn futures_poll<F: Future + Unpin>(future: &mut F) -> Option<F::Output> {
    match std::pin::Pin::new(future).poll(&mut std::task::Context::from_waker(std::task::Waker::noop())) {
        std::task::Poll::Ready(output) => Some(output),
        std::task::Poll::Pending => None,
    }
}

#[tokio::test]
async fn a_host_that_is_not_there_yet_is_waited_for_and_one_given_up_is_not() {
    let (source, taken) = counted(100 * WINDOW);
    let input = Input::new(source, 2, 2).unwrap();
    let mut reader = input.open();
    let mut ahead = 0;
    while ahead < WINDOW {
        ahead += reader.next().await.unwrap().unwrap().len() as u64;
    }
    assert!(futures_poll(&mut Box::pin(reader.next())).is_none());
    assert!(taken.load(Ordering::SeqCst) <= WINDOW + CHUNK as u64);
    input.give_up();
    for _ in 0..1000 {
        reader.next().await.unwrap().unwrap();
    }
}

#[tokio::test]
async fn nothing_is_kept_that_all_have_taken() {
    let (source, _) = counted(10 * WINDOW);
    let input = Input::new(source, 2, 2).unwrap();
    let (mut a, mut b) = (input.open(), input.open());
    let mut total = 0;
    while let Some(bytes) = a.next().await.unwrap() {
        total += bytes.len() as u64;
        let mut other = 0;
        while other < bytes.len() {
            other += b.next().await.unwrap().unwrap().len();
        }
        let Kept::Window { chunks, .. } = &input.shared.lock().kept else { panic!("a window") };
        let held: u64 = chunks.iter().map(|chunk| chunk.len() as u64).sum();
        assert!(held <= WINDOW + CHUNK as u64, "{held}");
    }
    assert_eq!(total, 10 * WINDOW);
}

/// A source that gives `first`, then waits for the test.
struct Waits {
    first: Option<&'static [u8]>,
    then: mpsc::Receiver<io::Result<usize>>,
    ended: mpsc::Sender<()>,
}

impl Read for Waits {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if let Some(first) = self.first.take() {
            buffer[..first.len()].copy_from_slice(first);
            return Ok(first.len());
        }
        self.then.recv().unwrap_or(Ok(0))
    }
}

impl Drop for Waits {
    fn drop(&mut self) {
        let _ = self.ended.send(());
    }
}

#[tokio::test]
async fn what_is_there_is_given_at_once_and_an_error_after_it() {
    let (send, then) = mpsc::channel();
    let (ended, _) = mpsc::channel();
    let input = Input::new(Waits { first: Some(b"abc"), then, ended }, 2, 2).unwrap();
    let (mut a, mut b) = (input.open(), input.open());
    assert_eq!(a.next().await.unwrap().unwrap(), b"abc");
    assert!(futures_poll(&mut Box::pin(a.next())).is_none(), "neither bytes nor an end yet");
    send.send(Err(io::Error::other("torn"))).unwrap();
    assert_eq!(a.next().await.unwrap_err().to_string(), "cannot read standard input: torn");
    assert_eq!(b.next().await.unwrap().unwrap(), b"abc", "the bytes before come first");
    assert!(b.next().await.is_err());
    assert!(b.next().await.is_err(), "again and again");
}

#[tokio::test]
async fn the_thread_ends_when_nobody_wants_more() {
    let (send, then) = mpsc::channel();
    let (ended, has_ended) = mpsc::channel();
    let input = Input::new(Waits { first: Some(b"abc"), then, ended }, 2, 2).unwrap();
    input.give_up();
    drop(input.open());
    let _ = send.send(Ok(0)); // it may be within a read, or have ended already
    has_ended.recv_timeout(std::time::Duration::from_secs(10)).unwrap();
}
