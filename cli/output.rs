//! The output of many hosts as one: what arrives in events is shown, stored and summed up.

mod diff;
mod files;
mod gathered;
mod json;
mod lines;
mod live;
mod ordered;
mod progress;
mod screen;
mod store;
pub(crate) mod summary;
#[cfg(test)]
pub(crate) mod tests;

use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use crate::args::run::Layout;
use crate::hosts::Host;
use crate::outcome::Outcome;

use files::Files;
pub(crate) use progress::Progress;
pub(crate) use screen::Screen;

/// A host of a run, by its place in the list of hosts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct HostId(pub(crate) usize);

/// Which of its two outputs a command wrote to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Stream {
    Stdout,
    Stderr,
}

/// What happens to a host. For each host at most one `Started`, then any output, then one `Finished`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Event {
    /// Work on the host began: connecting, then running.
    Started { host: HostId },
    /// The command wrote these bytes; where they are cut means nothing.
    Output { host: HostId, stream: Stream, bytes: Vec<u8> },
    /// The host has its result; `elapsed` is since it was started.
    Finished { host: HostId, outcome: Outcome, elapsed: Duration },
}

/// How to show a run.
#[derive(Debug, Clone)]
pub(crate) struct Options {
    pub(crate) layout: Layout,
    /// Leave host names out of lines and blocks.
    pub(crate) no_label: bool,
    /// No summary when all is well.
    pub(crate) quiet: bool,
    /// Folders for a file per host.
    pub(crate) outdir: Option<PathBuf>,
    pub(crate) errdir: Option<PathBuf>,
    /// Add to those files.
    pub(crate) append: bool,
    /// How many bytes of output may be held in memory at once; what exceeds it is cut, and said to be.
    pub(crate) budget: usize,
}

impl Default for Options {
    fn default() -> Self {
        Options {
            layout: Layout::Live,
            no_label: false,
            quiet: false,
            outdir: None,
            errdir: None,
            append: false,
            budget: 512 << 20,
        }
    }
}

/// Output that could not be passed on.
#[derive(Debug, thiserror::Error)]
pub(crate) enum OutputError {
    /// Standard output or standard error does not take it.
    #[error("cannot write to standard output: {0}")]
    Screen(#[from] io::Error),
    /// A file of `--outdir` or `--errdir` does not take it, or cannot be made.
    #[error("cannot write {}: {source}", path.display())]
    File { path: PathBuf, source: io::Error },
    /// A host's name that no file can have.
    #[error(
        "the name of {host} is too long for a file: leave --outdir and --errdir out, or give the host a shorter name"
    )]
    FileName { host: String },
}

/// One way of showing what hosts say.
trait Show: Send {
    /// Takes a piece of output.
    fn output(&mut self, host: HostId, stream: Stream, bytes: &[u8], screen: &mut Screen) -> io::Result<()>;
    /// The host says nothing more.
    fn finished(
        &mut self,
        host: HostId,
        outcome: &Outcome,
        elapsed: Duration,
        screen: &mut Screen,
    ) -> io::Result<()>;
    /// No host says anything more.
    fn end(&mut self, screen: &mut Screen) -> io::Result<()>;
}

/// Where all events of a run go.
///
/// ```text
/// let mut output = Output::new(hosts, &options, screen, progress)?;
/// output.handle(Event::Started { host })?;
/// …
/// let outcomes = output.end()?;
/// ```
pub(crate) struct Output {
    hosts: Arc<[Host]>,
    show: Box<dyn Show>,
    screen: Screen,
    outdir: Option<Files>,
    errdir: Option<Files>,
    started: Vec<bool>,
    outcomes: Vec<Option<Outcome>>,
    progress: Progress,
    quiet: bool,
}

impl Output {
    /// An output for these hosts, in the order in which [`HostId`] counts them.
    ///
    /// # Errors
    /// A folder for files that cannot be made, or a host that no file can be named after.
    pub(crate) fn new(
        hosts: Arc<[Host]>,
        options: &Options,
        screen: Screen,
        progress: Progress,
    ) -> Result<Self, OutputError> {
        let count = hosts.len();
        let show: Box<dyn Show> = match options.layout {
            Layout::Live => Box::new(live::Live::new(count, options.no_label)),
            Layout::ByHost => Box::new(ordered::Ordered::new(count, options.budget)),
            Layout::Gathered { with_stderr } => {
                Box::new(gathered::Gathered::new(count, options.budget, with_stderr, false))
            }
            Layout::Diff => Box::new(gathered::Gathered::new(count, options.budget, false, true)),
            Layout::Json => Box::new(json::Json::new(count, options.budget)),
        };
        let files = |dir: &Option<PathBuf>| {
            dir.as_ref().map(|dir| Files::new(dir, hosts.clone(), options.append)).transpose()
        };
        Ok(Output {
            show,
            outdir: files(&options.outdir)?,
            errdir: files(&options.errdir)?,
            started: vec![false; count],
            outcomes: vec![None; count],
            progress,
            quiet: options.quiet,
            screen: screen.of(hosts.clone(), !options.no_label),
            hosts,
        })
    }

    /// Takes one event.
    ///
    /// # Errors
    /// What could not be written. The run cannot show its results then, and should end.
    pub(crate) fn handle(&mut self, event: Event) -> Result<(), OutputError> {
        match event {
            Event::Started { host } => {
                for files in [&mut self.outdir, &mut self.errdir].into_iter().flatten() {
                    files.open(host)?;
                }
                self.started[host.0] = true;
                self.progress.started();
            }
            Event::Output { host, stream, bytes } => {
                let files = match stream {
                    Stream::Stdout => &mut self.outdir,
                    Stream::Stderr => &mut self.errdir,
                };
                if let Some(files) = files {
                    files.write(host, &bytes)?;
                }
                let (show, screen) = (&mut self.show, &mut self.screen);
                self.progress
                    .aside(|| show.output(host, stream, &bytes, screen).and_then(|()| screen.flush()))?;
            }
            Event::Finished { host, outcome, elapsed } => {
                for files in [&mut self.outdir, &mut self.errdir].into_iter().flatten() {
                    files.close(host);
                }
                self.progress.finished(outcome.is_ok(), self.started[host.0]);
                let (show, screen) = (&mut self.show, &mut self.screen);
                self.progress
                    .aside(|| show.finished(host, &outcome, elapsed, screen).and_then(|()| screen.flush()))?;
                self.outcomes[host.0] = Some(outcome);
            }
        }
        Ok(())
    }

    /// Redraws the progress line, if there is one; `elapsed` is since the run began.
    pub(crate) fn tick(&mut self, elapsed: Duration) {
        self.progress.draw(elapsed);
    }

    /// Says something to the person, on standard error.
    ///
    /// # Errors
    /// What could not be written.
    pub(crate) fn note(&mut self, line: &str) -> Result<(), OutputError> {
        let screen = &mut self.screen;
        Ok(self.progress.aside(|| screen.note(line).and_then(|()| screen.flush()))?)
    }

    /// Shows what was held back, then the summary, and gives every host's outcome; hosts without one were not started.
    ///
    /// # Errors
    /// What could not be written.
    pub(crate) fn end(mut self) -> Result<Vec<Outcome>, OutputError> {
        self.progress.clear();
        for i in 0..self.outcomes.len() {
            if self.outcomes[i].is_none() {
                self.handle(Event::Finished {
                    host: HostId(i),
                    outcome: Outcome::NotStarted,
                    elapsed: Duration::ZERO,
                })?;
            }
        }
        self.progress.clear();
        self.show.end(&mut self.screen)?;
        let outcomes: Vec<Outcome> = self.outcomes.into_iter().flatten().collect();
        self.screen.flush()?;
        for line in summary::lines(&self.hosts, &outcomes, self.quiet) {
            self.screen.note(&line)?;
        }
        self.screen.flush()?;
        Ok(outcomes)
    }
}
