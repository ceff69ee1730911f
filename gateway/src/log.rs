//! Events of both sides: printed in a coordinator, sent there from a worker.

use std::fmt;
use std::io;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Mutex, PoisonError};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use serde::{Deserialize, Serialize};
use tokio::sync::mpsc;
use tracing::field::{Field, Visit};
use tracing::level_filters::LevelFilter;
use tracing::{Level, Metadata, Subscriber, span};
use tracing_subscriber::Layer;
use tracing_subscriber::filter::Targets;
use tracing_subscriber::layer::SubscriberExt;

/// Events that wait for a slow coordinator; more are dropped, and counted.
const BACKLOG: usize = 1024;

/// The most bytes of an event's text.
const MAX_TEXT: usize = 4096;

/// What a pipe takes at once if it takes anything; at least 512 everywhere, and this on Linux.
const PIPE_BUF: usize = if cfg!(target_os = "linux") { 4096 } else { 512 };

/// Reads a filter: `debug`, `info,farcall=debug`.
pub(crate) fn filter(text: &str) -> Result<Targets, String> {
    text.parse::<Targets>().map_err(|error| error.to_string())
}

/// Prints events on standard error, unless the program has a subscriber of its own.
pub(crate) fn print(filter: Targets) {
    let lines = tracing_subscriber::fmt::layer().with_writer(|| Line).with_filter(filter);
    let _ = tracing::subscriber::set_global_default(tracing_subscriber::registry().with(lines));
}

/// Writes lines to standard error. Of the thread that drives the connections, those are left out, and counted, that nobody
/// takes now: a terminal that is stopped, or a pipe that nobody reads, must not cost gateways their lives.
struct Line;

impl io::Write for Line {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        static LEFT_OUT: AtomicU64 = AtomicU64::new(0);
        let mut stderr = io::stderr();
        if std::thread::current().name() == Some(crate::open::DRIVER_THREAD) {
            let mut wanted = [PollFd::new(&stderr, PollFlags::OUT)];
            let now = Timespec { tv_sec: 0, tv_nsec: 0 };
            if poll(&mut wanted, Some(&now)).is_ok_and(|ready| ready == 0) {
                LEFT_OUT.fetch_add(1, Relaxed);
                return Ok(line.len());
            }
            // A pipe that is said to take something takes as much at once (POSIX, PIPE_BUF).
            let left_out = LEFT_OUT.swap(0, Relaxed);
            let note = if left_out > 0 {
                format!("{left_out} lines before this were not read\n")
            } else {
                String::new()
            };
            let room = PIPE_BUF - note.len().min(PIPE_BUF);
            let (most, end) =
                if line.len() > room { (&line[..room - 1], &b"\n"[..]) } else { (line, &b""[..]) };
            stderr.write_all(&[note.as_bytes(), most, end].concat())?;
            return Ok(line.len());
        }
        stderr.write_all(line)?;
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        // Standard error has no buffer.
        Ok(())
    }
}

/// An event in a worker.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Event {
    /// 1 for errors to 5 for traces.
    level: u8,
    target: String,
    text: String,
    /// Events that were dropped just before this one.
    dropped: u64,
}

/// Has a worker's events put into the returned queue, but for those of the channel `own`, which takes them away. `None` if the
/// program has a subscriber of its own.
pub(crate) fn forward(filter: Targets, own: Option<u64>) -> Option<mpsc::Receiver<Event>> {
    let (queue, events) = mpsc::channel(BACKLOG);
    let forward = Forward { filter, queue, own, dropped: Mutex::default() };
    tracing::subscriber::set_global_default(forward).ok()?;
    Some(events)
}

/// Spans are not told, so it keeps none.
struct Forward {
    filter: Targets,
    queue: mpsc::Sender<Event>,
    own: Option<u64>,
    dropped: Mutex<u64>,
}

impl Subscriber for Forward {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        self.filter.would_enable(metadata.target(), metadata.level())
    }

    fn max_level_hint(&self) -> Option<LevelFilter> {
        let named = self.filter.iter().map(|(_, level)| level);
        named.chain(self.filter.default_level()).max()
    }

    fn new_span(&self, _: &span::Attributes<'_>) -> span::Id {
        span::Id::from_u64(1)
    }

    fn record(&self, _: &span::Id, _: &span::Record<'_>) {}

    fn record_follows_from(&self, _: &span::Id, _: &span::Id) {}

    fn enter(&self, _: &span::Id) {}

    fn exit(&self, _: &span::Id) {}

    fn event(&self, event: &tracing::Event<'_>) {
        let metadata = event.metadata();
        let mut text = Text { text: String::new(), channel: None };
        event.record(&mut text);
        // Sending an event makes frames, whose events would make frames.
        if metadata.target().starts_with("farcall_channel")
            && text.channel.is_some()
            && text.channel == self.own
        {
            return;
        }
        let level = match *metadata.level() {
            Level::ERROR => 1,
            Level::WARN => 2,
            Level::INFO => 3,
            Level::DEBUG => 4,
            Level::TRACE => 5,
        };
        let mut dropped = self.dropped.lock().unwrap_or_else(PoisonError::into_inner);
        let event = Event {
            level,
            target: metadata.target().to_owned(),
            text: crate::failure::cut(text.text),
            dropped: *dropped,
        };
        *dropped = if self.queue.try_send(event).is_ok() { 0 } else { *dropped + 1 };
    }
}

/// The fields of an event on one line.
struct Text {
    text: String,
    /// The field of that name.
    channel: Option<u64>,
}

impl Visit for Text {
    fn record_u64(&mut self, field: &Field, value: u64) {
        if field.name() == "channel" {
            self.channel = Some(value);
        }
        self.record_debug(field, &value);
    }

    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        use fmt::Write;
        if self.text.len() > MAX_TEXT {
            return;
        }
        let space = if self.text.is_empty() { "" } else { " " };
        // Writing into a string cannot fail; a value whose Debug fails is cut there.
        let _ = match field.name() {
            "message" => write!(self.text, "{space}{value:?}"),
            name => write!(self.text, "{space}{name}={value:?}"),
        };
    }
}

impl Event {
    /// Says it here, with the gateway that it came from.
    pub(crate) fn repeat(&self, gateway: &str) {
        let Event { level, dropped, .. } = self;
        // It comes from another machine, and goes to a terminal.
        let plain = |text: &str| text.replace(char::is_control, "\u{fffd}");
        let (target, text) = (plain(&self.target), plain(&self.text));
        macro_rules! say {
            ($level:expr) => {
                tracing::event!(target: "farcall::far", $level, %gateway, from = %target, dropped, "{text}")
            };
        }
        match level {
            1 => say!(Level::ERROR),
            2 => say!(Level::WARN),
            3 => say!(Level::INFO),
            4 => say!(Level::DEBUG),
            _ => say!(Level::TRACE),
        }
    }
}
