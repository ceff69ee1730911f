//! Shows output that several hosts share once, under their folded names.

use std::collections::HashMap;
use std::io;
use std::time::Duration;

use super::lines::Lines;
use super::store::Store;
use super::{HostId, Screen, Show, Stream, diff};
use crate::hosts::fold;
use crate::outcome::Outcome;

const RULER: &str = "---------------";

/// Blocks under host sets, the largest set first.
pub(super) struct Gathered {
    store: Store,
    with_stderr: bool,
    as_diff: bool,
    errors: Vec<Lines>,
    /// Identical output is held once, whoever said it.
    said: HashMap<Vec<u8>, Vec<HostId>>,
    silent: Vec<HostId>,
    cut: Vec<(HostId, u64)>,
}

impl Gathered {
    /// With `as_diff`, only the first block is shown whole, and the others by how they differ from it.
    pub(super) fn new(hosts: usize, budget: usize, with_stderr: bool, as_diff: bool) -> Self {
        Gathered {
            store: Store::new(hosts, budget),
            with_stderr,
            as_diff,
            errors: (0..hosts).map(|_| Lines::default()).collect(),
            said: HashMap::new(),
            silent: Vec::new(),
            cut: Vec::new(),
        }
    }
}

impl Show for Gathered {
    fn output(&mut self, host: HostId, stream: Stream, bytes: &[u8], screen: &mut Screen) -> io::Result<()> {
        match stream {
            Stream::Stderr if !self.with_stderr => {
                self.errors[host.0].push(bytes, |line| screen.line(host, Stream::Stderr, line))?;
            }
            // With stderr, both go where standard output goes, in the order in which they came.
            _ => self.store.push(host, Stream::Stdout, bytes),
        }
        Ok(())
    }

    fn finished(
        &mut self,
        host: HostId,
        outcome: &Outcome,
        _: Duration,
        screen: &mut Screen,
    ) -> io::Result<()> {
        self.errors[host.0].finish(|line| screen.line(host, Stream::Stderr, line))?;
        let mut kept = self.store.take(host, Stream::Stdout);
        if kept.lost > 0 {
            self.cut.push((host, kept.lost));
        }
        if kept.bytes.is_empty() {
            // Who never ran is named by the summary, with the reason.
            if matches!(outcome, Outcome::Exited { .. } | Outcome::Signaled { .. } | Outcome::TimedOut { .. })
            {
                self.silent.push(host);
            }
            return Ok(());
        }
        let held = kept.bytes.len();
        // A missing last newline is no difference worth a block of its own.
        if kept.bytes.last() == Some(&b'\n') {
            kept.bytes.pop();
        }
        match self.said.get_mut(&kept.bytes) {
            Some(hosts) => {
                hosts.push(host);
                self.store.release(held);
            }
            None => {
                kept.bytes.shrink_to_fit();
                self.said.insert(kept.bytes, vec![host]);
            }
        }
        Ok(())
    }

    fn end(&mut self, screen: &mut Screen) -> io::Result<()> {
        let mut blocks: Vec<(Vec<u8>, Vec<HostId>)> = std::mem::take(&mut self.said).into_iter().collect();
        for (_, hosts) in &mut blocks {
            hosts.sort_unstable();
        }
        // The odd ones come last, where they are seen.
        blocks.sort_by_key(|(_, hosts)| (std::cmp::Reverse(hosts.len()), hosts[0]));
        let mut usual: Option<(&[u8], String)> = None;
        for (bytes, hosts) in &blocks {
            let name = screen.set(hosts);
            match &usual {
                Some((usual_bytes, usual_name)) if self.as_diff => {
                    diff::write(screen.out(), (usual_bytes, usual_name), (bytes, &name))?;
                    continue;
                }
                _ => {}
            }
            if screen.labels() {
                writeln!(screen.out(), "{RULER}\n{name}\n{RULER}")?;
            }
            screen.out().write_all(bytes)?;
            screen.out().write_all(b"\n")?;
            usual.get_or_insert((bytes, name));
        }
        screen.flush()?;
        self.cut.sort_unstable();
        for (host, lost) in &self.cut {
            screen.cut(*host, *lost)?;
        }
        if !self.silent.is_empty() {
            self.silent.sort_unstable();
            let hosts = self.silent.iter().map(|host| &screen.hosts()[host.0]);
            let line = format!("no output ({}): {}", self.silent.len(), fold(hosts));
            screen.note(&line)?;
        }
        Ok(())
    }
}
