//! `farcall run`: one command on many hosts.

use std::ffi::OsString;
use std::future::Future;
use std::hash::{BuildHasher, Hasher, RandomState};
use std::io::{self, Read, Write};
use std::num::NonZeroUsize;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc;

use super::CommandError;
use crate::args::connect::ConnectArgs;
use crate::args::run::{ColorChoice, Layout, RunArgs};
use crate::environment::Environment;
use crate::exit::{Ended, Exit, Interrupt};
use crate::hosts::select::{SelectError, read_groups};
use crate::hosts::{Host, fold, labels};
use crate::input::Input;
use crate::interrupts::interrupts;
use crate::output::{HostId, Options, Output, Progress, Screen};
use crate::place;
use crate::prompt;
use crate::run_loop::{Attempt, carry_out};
use crate::run_plan::{AttemptEnd, Limits, RunPlan};
use crate::runner::Runner;

/// How long a stopped command may take to end: 2 s until it is killed, 1 s in which what it left behind may hold its output
/// open, and the ways there and back.
const STOP_GRACE: Duration = Duration::from_secs(5);

/// The pause before a host is tried again for the first time.
const RETRY_PAUSE: Duration = Duration::from_secs(1);

/// Runs the command to its end.
///
/// # Errors
/// Hosts that cannot be understood, results that cannot be shown, or a fault of this program.
pub(crate) fn run(args: &RunArgs, environment: &Environment) -> Result<Exit, CommandError> {
    let seed = RandomState::new().build_hasher().finish();
    let job = Job::new(args, environment, io::stdin().lock(), seed)?;
    let specs = place::specs(&job.hosts, &job.labels, &job.connect)?;
    for note in place::missing_files(&job.connect)? {
        // Where nobody can be told, what comes of it still tells.
        let _ = writeln!(io::stderr(), "{note}");
    }
    // One thread decides and passes on; connections are driven, and output is shown, by threads of their own.
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(CommandError::Runtime)?;
    let end = runtime.block_on(async {
        let interrupts = interrupts().map_err(CommandError::Runtime)?;
        let input = if job.stdin && !job.dry_run {
            let input = Input::new(io::stdin(), job.hosts.len(), job.limits.at_once.get());
            Some(input.map_err(CommandError::Input)?)
        } else {
            None
        };
        let program = place::program(environment).map_err(CommandError::Program)?;
        let ssh = place::ssh(&job.connect, environment);
        let limit = job.connect.connect_limit();
        let runner = Runner::new(specs, ssh, program, job.command.clone(), input, limit);
        let (attempts, finishes) = (runner.clone(), runner);
        job.run(
            move |attempt| attempts.clone().attempt(attempt),
            move |host| finishes.finished(host),
            Box::new(io::BufWriter::new(io::stdout())),
            Box::new(io::BufWriter::new(io::stderr())),
            interrupts,
        )
        .await
    });
    // A reader of our output that is stuck must not keep us.
    runtime.shutdown_background();
    prompt::restore();
    end
}

/// Everything a run needs, decided before anything is started.
#[derive(Debug)]
pub(crate) struct Job {
    /// In natural order, each once.
    pub(crate) hosts: Arc<[Host]>,
    /// What they are called wherever they are shown.
    pub(crate) labels: Arc<[Host]>,
    /// What the shell there reads.
    pub(crate) command: OsString,
    /// Whether standard input goes to every host.
    pub(crate) stdin: bool,
    pub(crate) connect: ConnectArgs,
    limits: Limits,
    options: Options,
    color_out: bool,
    color_err: bool,
    progress: bool,
    largest_code: bool,
    dry_run: bool,
}

impl Job {
    /// Reads the groups file and lists of hosts. `stdin` is read when a list comes from there; `seed` is any number.
    ///
    /// # Errors
    /// A host set, a file or a group that cannot be read, or no hosts.
    pub(crate) fn new(
        args: &RunArgs,
        environment: &Environment,
        stdin: impl Read,
        seed: u64,
    ) -> Result<Self, SelectError> {
        let asked = args.hosts.groups.as_deref().or(environment.groups.as_deref());
        let groups = read_groups(asked, &environment.usual_groups)?;
        let hosts: Arc<[Host]> = args.hosts.selection(&[]).resolve(&groups, stdin)?.iter().cloned().collect();
        let color = |is_terminal: bool| match args.show.color {
            ColorChoice::Auto => is_terminal && !environment.no_color,
            ColorChoice::Always => true,
            ColorChoice::Never => false,
        };
        Ok(Job {
            command: args.command(),
            // A terminal is never forwarded: whose keys would it be?
            stdin: !args.running.no_stdin && !environment.stdin_is_terminal && !args.hosts.reads_stdin(),
            connect: args.connect.clone(),
            limits: Limits {
                at_once: NonZeroUsize::from(args.running.at_once),
                retries: args.running.retries,
                command: args.running.command_limit.0,
                grace: STOP_GRACE,
                pause: RETRY_PAUSE,
                seed,
            },
            options: Options {
                layout: args.show.layout(),
                no_label: args.show.no_label,
                quiet: args.show.quiet,
                outdir: args.show.outdir.clone(),
                errdir: args.show.errdir.clone(),
                append: args.show.append,
                ..Options::default()
            },
            color_out: color(environment.stdout_is_terminal) && args.show.layout() != Layout::Json,
            color_err: color(environment.stderr_is_terminal),
            progress: environment.stderr_is_terminal && !args.show.quiet,
            largest_code: args.running.largest_code,
            dry_run: args.running.dry_run,
            labels: labels(&hosts),
            hosts,
        })
    }

    /// Does it: an attempt by `runner` for each start; `finished` is told each host that has its result. Nothing is
    /// started, and what would be is said, when that was asked for.
    ///
    /// Cancel safe: dropping it drops every attempt.
    ///
    /// # Errors
    /// When results cannot be shown, or this program is at fault. That commands fail is a matter of the exit code.
    pub(crate) async fn run<R, F>(
        self,
        runner: R,
        finished: impl Fn(HostId),
        mut out: Box<dyn Write + Send>,
        err: Box<dyn Write + Send>,
        interrupts: mpsc::Receiver<Interrupt>,
    ) -> Result<Exit, CommandError>
    where
        R: Fn(Attempt) -> F,
        F: Future<Output = AttemptEnd> + Send + 'static,
    {
        if self.dry_run {
            return self.say(&mut out).map(|()| Exit::OK).map_err(CommandError::Write);
        }
        let plan = RunPlan::new(self.hosts.len(), self.limits.clone());
        let progress =
            if self.progress { Progress::on_terminal(self.hosts.len()) } else { Progress::hidden() };
        let screen = Screen::new(out, err, self.color_out, self.color_err);
        let output = Output::new(self.labels, &self.options, screen, progress)?;
        let end = carry_out(plan, output, runner, finished, interrupts).await?;
        Ok(Ended { outcomes: &end.outcomes, interrupt: end.interrupt, largest: self.largest_code }.exit())
    }

    /// What would be done.
    fn say(&self, out: &mut dyn Write) -> io::Result<()> {
        let count = self.hosts.len();
        let hosts = if count == 1 { "host" } else { "hosts" };
        writeln!(out, "would run on {count} {hosts}, at most {} at once:", self.limits.at_once)?;
        writeln!(out, "  {}", fold(self.labels.iter()))?;
        writeln!(out, "the command:")?;
        for line in crate::text::lines(&self.command.to_string_lossy()) {
            writeln!(out, "  {line}")?;
        }
        out.flush()
    }
}

#[cfg(test)]
mod tests;
