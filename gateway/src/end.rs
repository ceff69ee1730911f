//! The end of a gateway: noticed, explained, told to everybody who waits.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::Duration;

use farcall_bootstrap::{Class, Exit, Process, Stderr};
use farcall_channel::{Connection, ConnectionError};
use tokio::sync::{Notify, watch};

use crate::via::Hub;

/// How long the connection may take to end after the process: what it said before is still on its way.
const FAREWELL: Duration = Duration::from_secs(1);

/// How long the process may take to end after the connection was lost: it takes what it started with it.
const AFTERMATH: Duration = Duration::from_secs(2);

/// How long it may take where nobody can be asked any more.
const BEYOND_REACH: Duration = Duration::from_millis(200);

/// Why and how a gateway ended.
#[derive(Clone, Debug)]
pub struct GatewayEnd {
    id: Arc<str>,
    place: Arc<str>,
    cause: ConnectionError,
    exit: Option<Exit>,
    stderr: String,
    hub: Option<Arc<GatewayEnd>>,
    /// Whether this side had asked for it before.
    asked: bool,
}

impl GatewayEnd {
    /// The gateway's id.
    pub fn id(&self) -> &str {
        &self.id
    }

    /// The place where the worker ran, as the spec names it.
    pub fn place(&self) -> &str {
        &self.place
    }

    /// What kind of failure it was: [`Class::Signal`], [`Class::RemoteExit`] or [`Class::Lost`]; `None` if this side ended the
    /// gateway. A leaf that went with its [hub](Self::hub) is lost.
    pub fn class(&self) -> Option<Class> {
        let over = match self.cause {
            ConnectionError::Closed
            | ConnectionError::ClosedByPeer
            | ConnectionError::Aborted { .. }
            | ConnectionError::AbortedByPeer { .. } => true,
            // With values that are here and that nobody has received yet.
            ConnectionError::Eof => self.exit == Some(Exit::Code(0)),
            _ => false,
        };
        if self.asked && over {
            return None;
        }
        Some(match self.exit.filter(|_| self.hub.is_none()) {
            Some(Exit::Signal(_)) => Class::Signal,
            Some(Exit::Code(_)) => Class::RemoteExit,
            _ => Class::Lost,
        })
    }

    /// What became of the connection.
    pub fn cause(&self) -> &ConnectionError {
        &self.cause
    }

    /// How the worker's process ended, if anybody could say.
    pub fn exit(&self) -> Option<Exit> {
        self.exit
    }

    /// The end of the hub, if the gateway ended because the one from whose host it was started did.
    pub fn hub(&self) -> Option<&GatewayEnd> {
        self.hub.as_deref()
    }

    /// The end of what came over the worker's standard error and was not caught as its output. It comes from there as it
    /// is: whoever shows it escapes control characters, as Display does.
    pub fn stderr(&self) -> &str {
        &self.stderr
    }
}

impl fmt::Display for GatewayEnd {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "gateway {} ({}) ", self.id, self.place)?;
        if let Some(hub) = &self.hub {
            return write!(f, "is lost with its hub: {hub}");
        }
        match (self.class(), self.exit) {
            (None, _) => return f.write_str("was ended by this side"),
            (Some(_), Some(Exit::Signal(signal))) => write!(f, "was killed by signal {signal}")?,
            (Some(_), Some(Exit::Code(code))) => write!(f, "ended with exit code {code}")?,
            (Some(_), _) => write!(f, "is lost: {}", self.cause)?,
        }
        if let Some(line) = self.stderr.lines().rev().map(str::trim).find(|line| !line.is_empty()) {
            let line = line.replace(char::is_control, "\u{fffd}");
            write!(f, " (it printed: {line})")?;
        }
        Ok(())
    }
}

impl std::error::Error for GatewayEnd {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        if let Some(hub) = &self.hub {
            return std::error::Error::source(&**hub);
        }
        // Where the cause is shown already, what is below it.
        match (self.class(), self.exit) {
            (Some(_), Some(Exit::Code(_) | Exit::Signal(_))) => Some(&self.cause),
            _ => std::error::Error::source(&self.cause),
        }
    }
}

/// What is watched.
pub(crate) struct Watched {
    pub(crate) id: Arc<str>,
    pub(crate) place: Arc<str>,
    pub(crate) connection: Connection,
    pub(crate) process: Process,
    pub(crate) stderr: Stderr,
    /// Whether this side has asked for the end.
    pub(crate) asked: Arc<AtomicBool>,
    /// What the worker may take to end in order.
    pub(crate) grace: Duration,
    /// Has the process killed.
    pub(crate) kill: Arc<Notify>,
    /// From whose host it was started. Kept until here all is over.
    pub(crate) hub: Option<Hub>,
}

/// Waits for the end of connection and process, and tells it. Runs on the driver.
pub(crate) async fn watch(mut watched: Watched, tell: watch::Sender<Option<Arc<GatewayEnd>>>) {
    let Watched { connection, process, kill, .. } = &mut watched;
    tokio::select! {
        _ = connection.ended() => {}
        _ = process.wait() => end_of(connection, "its process has ended").await,
        () = kill.notified() => {
            process.kill();
            end_of(connection, "its process was killed").await;
        }
    }
    let cause = connection.ended().await;
    let asked = watched.asked.load(Relaxed);
    let limit = match &cause {
        ConnectionError::Silent { .. } | ConnectionError::Io(_) => BEYOND_REACH,
        ConnectionError::Eof => AFTERMATH,
        _ => watched.grace + AFTERMATH,
    };
    tokio::select! {
        ended = tokio::time::timeout(limit, watched.process.wait()) => if ended.is_err() && limit > BEYOND_REACH {
            // Here rather than by dropping it, so that its end is seen.
            watched.process.kill();
            let _ = tokio::time::timeout(FAREWELL, watched.process.wait()).await;
        },
        () = watched.kill.notified() => {
            watched.process.kill();
            let _ = tokio::time::timeout(AFTERMATH, watched.process.wait()).await;
        }
    }
    // Others may hold it open.
    let _ = tokio::time::timeout(BEYOND_REACH, watched.stderr.closed()).await;
    let hub = match &watched.hub {
        Some(hub) => hub.cause_of(&cause).await,
        None => None,
    };
    let end = GatewayEnd {
        id: watched.id,
        place: watched.place,
        hub,
        exit: watched.process.exit(),
        asked,
        stderr: String::from_utf8_lossy(&watched.stderr.tail()).into_owned(),
        cause,
    };
    tracing::debug!(gateway = %end.id, %end, "the gateway has ended");
    tell.send_replace(Some(Arc::new(end)));
    // Dropping the process kills it, if it is still there.
    drop(watched.process);
}

async fn end_of(connection: &Connection, reason: &str) {
    if tokio::time::timeout(FAREWELL, connection.ended()).await.is_err() {
        // Something that it left behind holds the streams open.
        connection.abort(reason);
    }
}

/// Waits for the end to be told. It always is, within seconds of the connection's end.
pub(crate) async fn told(
    told: &watch::Receiver<Option<Arc<GatewayEnd>>>,
    unknown: impl FnOnce() -> GatewayEnd,
) -> Arc<GatewayEnd> {
    let mut told = told.clone();
    match told.wait_for(Option::is_some).await.ok().and_then(|end| end.clone()) {
        Some(end) => end,
        // The driver has ended with the program.
        None => Arc::new(unknown()),
    }
}

impl GatewayEnd {
    /// Of a process that this side had no connection to.
    #[cfg(target_os = "linux")]
    pub(crate) fn of_process(id: Arc<str>, place: Arc<str>, exit: Exit) -> GatewayEnd {
        GatewayEnd {
            exit: Some(exit).filter(|exit| *exit != Exit::Unknown),
            ..GatewayEnd::unknown(id, place, None)
        }
    }

    /// For when nobody is left to tell.
    pub(crate) fn unknown(id: Arc<str>, place: Arc<str>, cause: Option<ConnectionError>) -> GatewayEnd {
        GatewayEnd {
            id,
            place,
            cause: cause.unwrap_or(ConnectionError::Eof),
            exit: None,
            stderr: String::new(),
            hub: None,
            asked: false,
        }
    }
}
