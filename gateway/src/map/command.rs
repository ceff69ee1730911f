//! A map of a command: a program for each input.

use std::ffi::OsString;
use std::path::PathBuf;

use farcall_channel::CodecError;

use super::builder::MapBuilder;
use super::intake::{self, Iterate};
use super::stream::CommandPlan;
use crate::process::{CommandOutput, ExitStatus};
use crate::wire::ExitReport;
use crate::worker::command_lanes::CommandResult;

/// So many bytes of each output are kept, unless asked otherwise.
const KEEP: u64 = 1024 * 1024;

/// Runs a program once for each input, on any number of gateways: the inputs are its last arguments.
///
/// All that is said of [`map`](super::map) holds. A slot starts the next command as soon as one has ended, without a round trip in
/// between. Commands lead process groups of their own, have no input, and are killed with their group when they take
/// too long or the map is dropped. That a command ends with another code than zero is a value, not an error;
/// [`ItemError::Failed`](super::ItemError::Failed) is one that could not be started.
///
/// ```no_run
/// # use farcall::Gateway;
/// # async fn example(gateways: Vec<Gateway>) -> Result<(), farcall::BoxError> {
/// let files = ["a.log", "b.log"].map(|file| [file]);
/// let mut counts = farcall::map_command("wc", files).args(["-l"]).current_dir("/var/log").on(&gateways).start()?;
/// while let Some((place, output)) = counts.next().await {
///     println!("{place}: {}", String::from_utf8_lossy(&output?.stdout));
/// }
/// # Ok(())
/// # }
/// ```
pub fn map_command<I>(program: impl Into<OsString>, inputs: I) -> MapBuilder<CommandOutput>
where
    I: IntoIterator<IntoIter: Send + 'static>,
    I::Item: IntoIterator<Item: Into<OsString>>,
{
    let args = |input: I::Item| input.into_iter().map(Into::into).collect::<Vec<OsString>>();
    let mut builder = MapBuilder::new("", intake::encoded(Iterate(inputs.into_iter()), args), output);
    builder.plan.command = Some(CommandPlan {
        program: program.into(),
        args: Vec::new(),
        env: Vec::new(),
        env_clear: false,
        directory: None,
        keep: Some(KEEP),
    });
    builder
}

fn output(bytes: &[u8]) -> Result<CommandOutput, CodecError> {
    let result: CommandResult = farcall_channel::from_bytes(bytes)?;
    Ok(CommandOutput {
        status: match result.status {
            ExitReport::Code(code) => ExitStatus::Code(code),
            ExitReport::Signal(signal) => ExitStatus::Signal(signal),
        },
        stdout: result.stdout.into(),
        stderr: result.stderr.into(),
        held_open: result.held_open,
    })
}

impl MapBuilder<CommandOutput> {
    fn with(mut self, change: impl FnOnce(&mut CommandPlan)) -> Self {
        if let Some(plan) = &mut self.plan.command {
            change(plan);
        }
        self
    }

    /// Adds arguments before those of each input.
    pub fn args<A: Into<OsString>>(self, args: impl IntoIterator<Item = A>) -> Self {
        self.with(|plan| plan.args.extend(args.into_iter().map(Into::into)))
    }

    /// Sets a variable; the others are the worker's.
    pub fn env(self, name: impl Into<OsString>, value: impl Into<OsString>) -> Self {
        self.with(|plan| plan.env.push((name.into(), Some(value.into()))))
    }

    /// Takes a variable away.
    pub fn env_remove(self, name: impl Into<OsString>) -> Self {
        self.with(|plan| plan.env.push((name.into(), None)))
    }

    /// Takes all variables away, but those that are set from now on.
    pub fn env_clear(self) -> Self {
        self.with(|plan| {
            plan.env.clear();
            plan.env_clear = true;
        })
    }

    /// The folder to start in, which must exist. A relative one is taken from the worker's.
    pub fn current_dir(self, directory: impl Into<PathBuf>) -> Self {
        self.with(|plan| plan.directory = Some(directory.into().into()))
    }

    /// How many bytes of each output are kept; the rest is read and thrown away. One mebibyte by default.
    pub fn keep(self, bytes: u64) -> Self {
        self.with(|plan| plan.keep = Some(bytes))
    }

    /// Its outputs are not kept but go where the worker's own prints go: to [`Gateway::output`](crate::Gateway::output).
    pub fn inherit_output(self) -> Self {
        self.with(|plan| plan.keep = None)
    }
}
