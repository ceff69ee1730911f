//! Standard output and standard error as the layouts write to them.

use std::io::{self, Write};
use std::sync::Arc;

use super::{HostId, Stream};
use crate::hosts::{Host, fold};

const STDOUT_LABEL: &str = "\x1b[36m"; // cyan
const STDERR_LABEL: &str = "\x1b[31m"; // red
const PLAIN: &str = "\x1b[0m";

/// Both outputs, whether they take colours, and the names to label lines with.
pub(crate) struct Screen {
    out: Box<dyn Write + Send>,
    err: Box<dyn Write + Send>,
    color_out: bool,
    color_err: bool,
    hosts: Arc<[Host]>,
    labels: bool,
}

impl Screen {
    /// Two writers, best with a buffer each, as they are flushed after every event; and whether host names on them are
    /// coloured.
    pub(crate) fn new(
        out: Box<dyn Write + Send>,
        err: Box<dyn Write + Send>,
        color_out: bool,
        color_err: bool,
    ) -> Self {
        Screen { out, err, color_out, color_err, hosts: Arc::new([]), labels: true }
    }

    pub(super) fn of(self, hosts: Arc<[Host]>, labels: bool) -> Self {
        Screen { hosts, labels, ..self }
    }

    pub(super) fn labels(&self) -> bool {
        self.labels
    }

    pub(super) fn hosts(&self) -> &Arc<[Host]> {
        &self.hosts
    }

    /// Standard output, for what is not labelled.
    pub(super) fn out(&mut self) -> &mut dyn Write {
        &mut *self.out
    }

    /// The writer of a stream, as it is.
    pub(super) fn raw(&mut self, stream: Stream) -> &mut dyn Write {
        match stream {
            Stream::Stdout => &mut *self.out,
            Stream::Stderr => &mut *self.err,
        }
    }

    /// One line of a host, given without its newline.
    pub(super) fn line(&mut self, host: HostId, stream: Stream, line: &[u8]) -> io::Result<()> {
        let (to, color, label) = match stream {
            Stream::Stdout => (&mut self.out, self.color_out, STDOUT_LABEL),
            Stream::Stderr => (&mut self.err, self.color_err, STDERR_LABEL),
        };
        if self.labels {
            let name = self.hosts[host.0].name();
            match color {
                true => write!(to, "{label}{name}:{PLAIN} ")?,
                false => write!(to, "{name}: ")?,
            }
        }
        to.write_all(line)?;
        to.write_all(b"\n")
    }

    /// A line of our own, on standard error.
    pub(super) fn note(&mut self, line: &str) -> io::Result<()> {
        writeln!(self.err, "{line}")
    }

    /// A host set for a heading, with its size when it is more than one: `db[1-9,11] (10)`.
    pub(super) fn set(&self, hosts: &[HostId]) -> String {
        let folded = fold(hosts.iter().map(|host| &self.hosts[host.0]));
        match hosts.len() {
            1 => folded,
            count => format!("{folded} ({count})"),
        }
    }

    /// Says that output was dropped, if it was.
    pub(super) fn cut(&mut self, host: HostId, lost: u64) -> io::Result<()> {
        if lost == 0 {
            return Ok(());
        }
        let line = format!(
            "{}: the last {lost} bytes of output were dropped for lack of memory: --outdir keeps everything",
            self.hosts[host.0]
        );
        self.note(&line)
    }

    pub(super) fn flush(&mut self) -> io::Result<()> {
        self.out.flush()?;
        self.err.flush()
    }
}
