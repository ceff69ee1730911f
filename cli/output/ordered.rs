//! Shows what each host said together, in the order of the hosts.

use std::io;
use std::time::Duration;

use super::lines::Lines;
use super::store::Store;
use super::{HostId, Screen, Show, Stream};
use crate::outcome::Outcome;

/// Lines host by host; standard error is shown as it comes.
pub(super) struct Ordered {
    store: Store,
    done: Vec<bool>,
    /// All hosts before this one have been shown.
    next: usize,
    errors: Vec<Lines>,
}

impl Ordered {
    pub(super) fn new(hosts: usize, budget: usize) -> Self {
        Ordered {
            store: Store::new(hosts, budget),
            done: vec![false; hosts],
            next: 0,
            errors: (0..hosts).map(|_| Lines::default()).collect(),
        }
    }
}

impl Show for Ordered {
    fn output(&mut self, host: HostId, stream: Stream, bytes: &[u8], screen: &mut Screen) -> io::Result<()> {
        match stream {
            Stream::Stdout => self.store.push(host, stream, bytes),
            Stream::Stderr => {
                self.errors[host.0].push(bytes, |line| screen.line(host, Stream::Stderr, line))?;
            }
        }
        Ok(())
    }

    fn finished(&mut self, host: HostId, _: &Outcome, _: Duration, screen: &mut Screen) -> io::Result<()> {
        self.errors[host.0].finish(|line| screen.line(host, Stream::Stderr, line))?;
        self.done[host.0] = true;
        while self.done.get(self.next) == Some(&true) {
            let host = HostId(self.next);
            let kept = self.store.take(host, Stream::Stdout);
            let mut lines = Lines::default();
            lines.push(&kept.bytes, |line| screen.line(host, Stream::Stdout, line))?;
            lines.finish(|line| screen.line(host, Stream::Stdout, line))?;
            self.store.release(kept.bytes.len());
            screen.cut(host, kept.lost)?;
            self.next += 1;
        }
        Ok(())
    }

    fn end(&mut self, _: &mut Screen) -> io::Result<()> {
        Ok(())
    }
}
