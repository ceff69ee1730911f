//! The line on a terminal that says how far a run is.

use std::time::Duration;

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

use crate::text;

/// How far a run is, drawn on standard error, or nowhere.
pub(crate) struct Progress {
    bar: ProgressBar,
    counts: Counts,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Counts {
    total: usize,
    running: usize,
    done: usize,
    failed: usize,
}

impl Progress {
    /// A line on standard error for a run on so many hosts.
    pub(crate) fn on_terminal(hosts: usize) -> Self {
        Self::new(hosts, ProgressDrawTarget::stderr())
    }

    /// No line: standard error is no terminal, or nobody wants to see it.
    pub(crate) fn hidden() -> Self {
        Self::new(0, ProgressDrawTarget::hidden())
    }

    fn new(hosts: usize, target: ProgressDrawTarget) -> Self {
        let bar = ProgressBar::with_draw_target(None, target);
        bar.set_style(ProgressStyle::with_template("{msg}").expect("the template is well formed"));
        Progress { bar, counts: Counts { total: hosts, ..Counts::default() } }
    }

    pub(super) fn started(&mut self) {
        self.counts.running += 1;
    }

    pub(super) fn finished(&mut self, ok: bool, was_started: bool) {
        self.counts.running -= usize::from(was_started);
        self.counts.done += 1;
        self.counts.failed += usize::from(!ok);
    }

    /// Writes something else to the terminal, with the line out of the way.
    pub(super) fn aside<T>(&self, write: impl FnOnce() -> T) -> T {
        self.bar.suspend(write)
    }

    pub(super) fn draw(&mut self, elapsed: Duration) {
        self.bar.set_message(line(self.counts, elapsed));
        self.bar.tick();
    }

    pub(super) fn clear(&mut self) {
        self.bar.finish_and_clear();
    }
}

/// `12/20 done, 6 running, 1 failed, 5s left`
fn line(counts: Counts, elapsed: Duration) -> String {
    let Counts { total, running, done, failed } = counts;
    let mut line = format!("{done}/{total} done, {running} running");
    if failed > 0 {
        line.push_str(&format!(", {failed} failed"));
    }
    // As long for each of the rest as for those that are done; before the first, nobody knows.
    if done > 0 && done < total {
        let left = elapsed.as_secs_f64() / done as f64 * (total - done) as f64;
        line.push_str(&format!(", {} left", text::duration(Duration::from_secs(left.ceil() as u64))));
    }
    line
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_line_counts_and_estimates() {
        let counts = Counts { total: 20, running: 8, done: 0, failed: 0 };
        assert_eq!(line(counts, Duration::from_secs(3)), "0/20 done, 8 running");
        let counts = Counts { total: 20, running: 6, done: 12, failed: 1 };
        assert_eq!(line(counts, Duration::from_secs(9)), "12/20 done, 6 running, 1 failed, 6s left");
        let counts = Counts { total: 20, running: 0, done: 20, failed: 2 };
        assert_eq!(line(counts, Duration::from_secs(9)), "20/20 done, 0 running, 2 failed");
    }

    #[test]
    fn hosts_that_never_started_are_not_taken_off_the_running_ones() {
        let mut progress = Progress::hidden();
        progress.started();
        progress.finished(false, false);
        progress.finished(true, true);
        assert_eq!(progress.counts, Counts { total: 0, running: 0, done: 2, failed: 1 });
    }
}
