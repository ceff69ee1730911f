//! Events of both sides: printed in a coordinator, sent there from a worker.

use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};

use serde::{Deserialize, Serialize};
use tokio::sync::mpsc;
use tracing::field::{Field, Visit};
use tracing::{Level, Subscriber};
use tracing_subscriber::Layer;
use tracing_subscriber::filter::Targets;
use tracing_subscriber::layer::{Context, SubscriberExt};

/// Events that wait for a slow coordinator; more are dropped, and counted.
const BACKLOG: usize = 1024;

/// The most bytes of an event's text.
const MAX_TEXT: usize = 4096;

/// Reads a filter: `debug`, `info,farcall=debug`.
pub(crate) fn filter(text: &str) -> Result<Targets, String> {
    text.parse::<Targets>().map_err(|error| error.to_string())
}

/// Prints events on standard error, unless the program has a subscriber of its own.
pub(crate) fn print(filter: Targets) {
    let lines = tracing_subscriber::fmt::layer().with_writer(std::io::stderr).with_filter(filter);
    let _ = tracing::subscriber::set_global_default(tracing_subscriber::registry().with(lines));
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

/// Has a worker's events put into the returned queue. `None` if the program has a subscriber of its own.
pub(crate) fn forward(filter: Targets) -> Option<mpsc::Receiver<Event>> {
    let (queue, events) = mpsc::channel(BACKLOG);
    let forward = Forward { queue, dropped: Arc::default() };
    let subscriber = tracing_subscriber::registry().with(forward.with_filter(filter));
    tracing::subscriber::set_global_default(subscriber).ok()?;
    Some(events)
}

struct Forward {
    queue: mpsc::Sender<Event>,
    dropped: Arc<Mutex<u64>>,
}

impl<S: Subscriber> Layer<S> for Forward {
    fn on_event(&self, event: &tracing::Event<'_>, _: Context<'_, S>) {
        let metadata = event.metadata();
        // Sending an event makes frames, whose events would make frames.
        if metadata.target().starts_with("farcall_channel") {
            return;
        }
        let mut text = Text(String::new());
        event.record(&mut text);
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
            text: crate::failure::cut(text.0),
            dropped: *dropped,
        };
        *dropped = if self.queue.try_send(event).is_ok() { 0 } else { *dropped + 1 };
    }
}

/// The fields of an event on one line.
struct Text(String);

impl Visit for Text {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        use fmt::Write;
        if self.0.len() > MAX_TEXT {
            return;
        }
        let space = if self.0.is_empty() { "" } else { " " };
        // Writing into a string cannot fail; a value whose Debug fails is cut there.
        let _ = match field.name() {
            "message" => write!(self.0, "{space}{value:?}"),
            name => write!(self.0, "{space}{name}={value:?}"),
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
