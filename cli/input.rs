//! Gives standard input to every host, whole.
//!
//! When all hosts can be at work at once, only a window is held: it is read no faster than the slowest host takes it,
//! and a host that is still being connected is the slowest. When some hosts wait until others have finished, they need
//! it from the beginning later: then it is also written to an unnamed temporary file.

use std::collections::VecDeque;
use std::fs::File;
use std::io::{self, Read, Write};
use std::os::unix::fs::FileExt;
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::thread;

use tokio::sync::watch;

/// How far the fastest host may be ahead of the slowest, in bytes.
pub(crate) const WINDOW: u64 = 1 << 20;

/// How much is read at once.
const CHUNK: usize = 64 << 10;

/// One input for many readers.
#[derive(Clone)]
pub(crate) struct Input {
    shared: Arc<Shared>,
}

/// A host's own view of the input, from its beginning to its end. Dropping it lets the others go on.
pub(crate) struct InputReader {
    shared: Arc<Shared>,
    id: usize,
    news: watch::Receiver<()>,
}

/// Why the input came to an end before its end.
#[derive(Debug, Clone, thiserror::Error)]
pub(crate) enum InputError {
    /// Standard input cannot be read.
    #[error("cannot read standard input: {0}")]
    Read(Arc<io::Error>),
    /// The temporary file that keeps it for later hosts fails.
    #[error("cannot keep standard input for hosts that start later: {0}")]
    Keep(Arc<io::Error>),
}

struct Shared {
    state: Mutex<State>,
    /// Tells the thread that reads that somebody has taken something, or gone.
    taken: Condvar,
    /// Tells readers that there is more, or the end.
    news: watch::Sender<()>,
}

struct State {
    kept: Kept,
    /// How many bytes have been read in all.
    written: u64,
    end: Option<Result<(), InputError>>,
    /// How far each reader is; none when it has gone.
    readers: Vec<Option<u64>>,
    /// Hosts that have no reader yet.
    expected: usize,
}

enum Kept {
    /// The chunks that some reader still needs; the first begins at `from`.
    Window { from: u64, chunks: VecDeque<Arc<[u8]>> },
    /// Everything from the beginning.
    File(File),
}

impl Input {
    /// Reads `source` on a thread of its own, for so many hosts of which `at_once` are at work together.
    ///
    /// The thread ends with the source, or when no host needs more; nobody waits for it, since a read cannot be broken
    /// off. The input then is as good as closed.
    ///
    /// # Errors
    /// When there can be no thread or no temporary file.
    pub(crate) fn new(source: impl Read + Send + 'static, hosts: usize, at_once: usize) -> io::Result<Self> {
        let kept = if hosts > at_once {
            Kept::File(tempfile::tempfile()?)
        } else {
            Kept::Window { from: 0, chunks: VecDeque::new() }
        };
        let state = State { kept, written: 0, end: None, readers: Vec::new(), expected: hosts };
        let shared = Shared { state: Mutex::new(state), taken: Condvar::new(), news: watch::Sender::new(()) };
        let shared = Arc::new(shared);
        let input = Input { shared: shared.clone() };
        thread::Builder::new().name("stdin".to_owned()).spawn(move || feed(source, &shared))?;
        Ok(input)
    }

    /// The input for one host, from its beginning. Each host either opens it once or is given up once.
    pub(crate) fn open(&self) -> InputReader {
        let mut state = self.shared.lock();
        debug_assert!(state.expected > 0, "every host opens its input once");
        state.expected = state.expected.saturating_sub(1);
        state.readers.push(Some(0));
        let id = state.readers.len() - 1;
        InputReader { shared: self.shared.clone(), id, news: self.shared.news.subscribe() }
    }

    /// One host will never open its input: it was not reached, or is not started any more.
    pub(crate) fn give_up(&self) {
        let mut state = self.shared.lock();
        debug_assert!(state.expected > 0, "a host that has opened its input drops its reader instead");
        state.expected = state.expected.saturating_sub(1);
        state.forget();
        drop(state);
        self.shared.taken.notify_one();
    }
}

impl InputReader {
    /// The next bytes, or none at the end, again and again.
    ///
    /// Cancel safe: nothing is lost.
    ///
    /// # Errors
    /// The same for every reader, after the bytes that were read before.
    pub(crate) async fn next(&mut self) -> Result<Option<Vec<u8>>, InputError> {
        loop {
            self.news.borrow_and_update(); // what comes after this look is news
            if let Some(answer) = self.take() {
                return answer;
            }
            // The sender lives in what we hold, so this cannot fail.
            let _ = self.news.changed().await;
        }
    }

    fn take(&self) -> Option<Result<Option<Vec<u8>>, InputError>> {
        let mut state = self.shared.lock();
        let at = state.readers[self.id].expect("a reader is there until it is dropped");
        if at == state.written {
            return state.end.clone().map(|end| end.map(|()| None));
        }
        let bytes = match state.kept.get(at, state.written) {
            Ok(bytes) => bytes,
            Err(error) => return Some(Err(InputError::Keep(Arc::new(error)))),
        };
        state.readers[self.id] = Some(at + bytes.len() as u64);
        state.forget();
        drop(state);
        self.shared.taken.notify_one();
        Some(Ok(Some(bytes)))
    }
}

impl Drop for InputReader {
    fn drop(&mut self) {
        let mut state = self.shared.lock();
        state.readers[self.id] = None;
        state.forget();
        drop(state);
        self.shared.taken.notify_one();
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("nothing panics while holding it")
    }
}

impl State {
    /// How far the slowest is that the input must wait for; none when nobody wants more.
    fn slowest(&self) -> Option<u64> {
        let slowest = self.readers.iter().flatten().min().copied();
        match &self.kept {
            // All will be at work at once, so those that are not yet are waited for.
            Kept::Window { .. } if self.expected > 0 => Some(0),
            // Some begin only when others have finished: those must not wait for them.
            Kept::File(_) if self.expected > 0 => Some(slowest.unwrap_or(0)),
            _ => slowest,
        }
    }

    /// Lets go what nobody needs any more.
    fn forget(&mut self) {
        let needed = self.slowest().unwrap_or(self.written);
        if let Kept::Window { from, chunks } = &mut self.kept {
            while let Some(chunk) = chunks.front()
                && *from + chunk.len() as u64 <= needed
            {
                *from += chunk.len() as u64;
                chunks.pop_front();
            }
        }
    }
}

impl Kept {
    /// Some bytes from `at`, which is before the end of all that was `written`.
    fn get(&self, at: u64, written: u64) -> io::Result<Vec<u8>> {
        match self {
            Kept::Window { from, chunks } => {
                let mut begin = *from;
                for chunk in chunks {
                    let end = begin + chunk.len() as u64;
                    if at < end {
                        return Ok(chunk[usize::try_from(at - begin).expect("within a chunk")..].to_vec());
                    }
                    begin = end;
                }
                unreachable!("what a reader has not taken is kept")
            }
            Kept::File(file) => {
                let mut bytes = vec![0; CHUNK.min(usize::try_from(written - at).unwrap_or(CHUNK))];
                file.read_exact_at(&mut bytes, at)?;
                Ok(bytes)
            }
        }
    }
}

/// Reads the source as fast as the slowest reader allows.
fn feed(mut source: impl Read, shared: &Shared) {
    let mut buffer = vec![0; CHUNK];
    loop {
        let state = shared.lock();
        let full =
            |state: &mut State| state.slowest().is_some_and(|slowest| state.written - slowest >= WINDOW);
        let state = shared.taken.wait_while(state, full).expect("nothing panics while holding it");
        if state.slowest().is_none() {
            return; // nobody wants more, and nobody will
        }
        drop(state); // a read may take for ever
        let end = match source.read(&mut buffer) {
            Ok(0) => Ok(()),
            Ok(count) => match keep(shared, &buffer[..count]) {
                Ok(()) => continue,
                Err(error) => Err(InputError::Keep(Arc::new(error))),
            },
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => Err(InputError::Read(Arc::new(error))),
        };
        shared.lock().end = Some(end);
        shared.news.send_replace(());
        return;
    }
}

fn keep(shared: &Shared, bytes: &[u8]) -> io::Result<()> {
    let mut state = shared.lock();
    match &mut state.kept {
        Kept::Window { chunks, .. } => chunks.push_back(bytes.into()),
        Kept::File(file) => file.write_all(bytes)?,
    }
    state.written += bytes.len() as u64;
    state.forget(); // the last reader may have gone meanwhile
    drop(state);
    shared.news.send_replace(());
    Ok(())
}

#[cfg(test)]
mod tests;
