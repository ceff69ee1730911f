//! Shows one JSON object a host, each on a line of its own.

use std::io;
use std::time::Duration;

use base64ct::{Base64, Encoding};
use serde::Serialize;

use super::store::{Kept, Store};
use super::{HostId, Screen, Show, Stream};
use crate::outcome::Outcome;

/// Objects in the order in which hosts finish.
pub(super) struct Json {
    store: Store,
}

/// The object. Fields that follow `stderr` are there only when they say something.
#[derive(Serialize)]
struct Line<'a> {
    host: &'a str,
    /// `ok`, or what kind of failure it was.
    class: &'static str,
    /// The exit code, when the command ended by itself.
    code: Option<u8>,
    /// The signal, when it died by one.
    signal: Option<u8>,
    /// From the start of the host to its end.
    ms: u64,
    stdout: &'a str,
    stderr: &'a str,
    /// The exact bytes, when they are no UTF-8 and the text therefore has replacement characters.
    #[serde(skip_serializing_if = "Option::is_none")]
    stdout_base64: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    stderr_base64: Option<String>,
    /// How many bytes at the end of each were dropped for lack of memory.
    #[serde(skip_serializing_if = "is_zero")]
    stdout_lost: u64,
    #[serde(skip_serializing_if = "is_zero")]
    stderr_lost: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    step: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    message: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    evidence: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    hint: Option<&'a str>,
}

fn is_zero(number: &u64) -> bool {
    *number == 0
}

impl Json {
    pub(super) fn new(hosts: usize, budget: usize) -> Self {
        Json { store: Store::new(hosts, budget) }
    }
}

/// The bytes as text, and exactly where the text is not exact.
fn text(kept: &Kept) -> (std::borrow::Cow<'_, str>, Option<String>) {
    let text = String::from_utf8_lossy(&kept.bytes);
    let exact = matches!(text, std::borrow::Cow::Owned(_)).then(|| Base64::encode_string(&kept.bytes));
    (text, exact)
}

impl Show for Json {
    fn output(&mut self, host: HostId, stream: Stream, bytes: &[u8], _: &mut Screen) -> io::Result<()> {
        self.store.push(host, stream, bytes);
        Ok(())
    }

    fn finished(
        &mut self,
        host: HostId,
        outcome: &Outcome,
        elapsed: Duration,
        screen: &mut Screen,
    ) -> io::Result<()> {
        let stdout = self.store.take(host, Stream::Stdout);
        let stderr = self.store.take(host, Stream::Stderr);
        let ((out, stdout_base64), (err, stderr_base64)) = (text(&stdout), text(&stderr));
        let failure = match outcome {
            Outcome::Failed(failure) => Some(failure),
            _ => None,
        };
        let hosts = screen.hosts().clone();
        let line = Line {
            host: hosts[host.0].name(),
            class: outcome.class(),
            code: match outcome {
                Outcome::Exited { code } => Some(*code),
                _ => None,
            },
            signal: match outcome {
                Outcome::Signaled { signal } => Some(*signal),
                _ => None,
            },
            ms: u64::try_from(elapsed.as_millis()).unwrap_or(u64::MAX),
            stdout: &out,
            stderr: &err,
            stdout_base64,
            stderr_base64,
            stdout_lost: stdout.lost,
            stderr_lost: stderr.lost,
            step: failure.map(|failure| failure.step.as_str()),
            message: failure.map(|failure| failure.message.as_str()),
            evidence: failure
                .map(|failure| failure.evidence.as_str())
                .filter(|evidence| !evidence.is_empty()),
            hint: failure.and_then(|failure| failure.hint.as_deref()),
        };
        serde_json::to_writer(screen.out(), &line)?;
        screen.out().write_all(b"\n")?;
        self.store.release(stdout.bytes.len() + stderr.bytes.len());
        Ok(())
    }

    fn end(&mut self, _: &mut Screen) -> io::Result<()> {
        Ok(())
    }
}
