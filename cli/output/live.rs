//! Shows lines as they come, each with its host's name.

use std::io;
use std::time::Duration;

use super::lines::Lines;
use super::{HostId, Screen, Show, Stream};
use crate::outcome::Outcome;

/// The layout for people who watch, and for pipes.
pub(super) struct Live {
    partial: Vec<[Lines; 2]>,
    /// One host without a label: its bytes pass through untouched, down to a missing last newline.
    verbatim: bool,
}

impl Live {
    pub(super) fn new(hosts: usize, no_label: bool) -> Self {
        let partial = (0..hosts).map(|_| Default::default()).collect();
        Live { partial, verbatim: hosts == 1 && no_label }
    }
}

impl Show for Live {
    fn output(&mut self, host: HostId, stream: Stream, bytes: &[u8], screen: &mut Screen) -> io::Result<()> {
        if self.verbatim {
            return screen.raw(stream).write_all(bytes);
        }
        self.partial[host.0][stream as usize].push(bytes, |line| screen.line(host, stream, line))
    }

    fn finished(&mut self, host: HostId, _: &Outcome, _: Duration, screen: &mut Screen) -> io::Result<()> {
        for stream in [Stream::Stdout, Stream::Stderr] {
            self.partial[host.0][stream as usize].finish(|line| screen.line(host, stream, line))?;
        }
        Ok(())
    }

    fn end(&mut self, _: &mut Screen) -> io::Result<()> {
        Ok(())
    }
}
