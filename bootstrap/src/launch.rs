//! From a description of a place to a worker that has said its first words.

use std::ffi::OsString;
use std::fmt;
use std::io;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

use crate::artifact::{Artifact, Digest};
use crate::error::{Class, LaunchError, Step};
use crate::failure::{self, Failure};
use crate::hub::{Hub, HubError, HubProcess, HubStart, HubStarted};
use crate::image::Program;
use crate::local::{self, Child, Started};
use crate::platform::Platform;
use crate::process::{Kill, Process, Stderr, watch_at_hub};
use crate::remote;
use crate::ssh;
use crate::stage::{Action, Form, How, Stage, StageError};
use crate::target::{CommandForm, CommandTarget, LaunchOptions, Target};

/// A worker that has spoken.
///
/// Shutting down the writer ends the worker's input, after which it should end; dropping the process kills it.
pub struct Launched {
    /// What the worker says, from its first word on: the greeting is still in here.
    pub reader: Box<dyn AsyncRead + Send + Unpin>,
    /// What the worker hears.
    pub writer: Box<dyn AsyncWrite + Send + Unpin>,
    /// The end of what came over its standard error.
    pub stderr: Stderr,
    /// The process at this end.
    pub process: Process,
    /// Where it runs, if anybody said so: a command that is itself the worker does not.
    pub platform: Option<Platform>,
    /// How its program came there.
    pub delivery: Delivery,
    /// The program that it runs, where its bytes are known.
    pub image: Option<Artifact>,
}

/// How a worker's program came to where it runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Delivery {
    /// It needed no delivery: it is on this machine, or the command brought it.
    Present,
    /// It was there from an earlier start, and its digest is right.
    Cached,
    /// It was sent.
    Sent {
        /// How many bytes crossed, repetitions included.
        bytes: u64,
        /// Whether it stays there for the next start.
        kept: bool,
    },
    /// The hub gave it a copy of its own program: see [`launch_via`].
    Shared {
        /// Whether it stays there for the next start.
        kept: bool,
    },
}

impl fmt::Debug for Launched {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Launched")
            .field("process", &self.process)
            .field("platform", &self.platform)
            .field("delivery", &self.delivery)
            .finish_non_exhaustive()
    }
}

/// How much is read at once.
const CHUNK: usize = 16 << 10;

/// How long a failed start is waited for, at each of three steps: until it ends by itself, until it is dead, until all it
/// said has arrived. Most are over already.
const FAREWELL: Duration = Duration::from_millis(500);

/// Starts a worker at `target` and returns when it has said the greeting that `options` name.
///
/// All descriptors belong to the runtime that polls this.
///
/// # Errors
///
/// Each names the host, the step and the class of the failure, and carries what the far side printed.
///
/// # Cancel safety
///
/// When the future is dropped, what it started is killed. A delivery that was under way leaves a file that no start will
/// take for a worker, and that a later delivery removes.
///
/// ```no_run
/// # async fn start() -> Result<(), Box<dyn std::error::Error>> {
/// use farcall_bootstrap::image::Program;
/// use farcall_bootstrap::launch::launch;
/// use farcall_bootstrap::target::{CommandTarget, LaunchOptions, Target};
///
/// let options = LaunchOptions { greeting: b"ready".to_vec(), ..LaunchOptions::default() };
/// let place = Target::from(CommandTarget::new("docker").args(["exec", "-i", "web"]));
/// let worker = launch(&place, &Program::current()?, &options).await?;
/// println!("{:?}", worker.delivery);
/// # Ok(())
/// # }
/// ```
pub async fn launch(
    target: &Target,
    program: &Program,
    options: &LaunchOptions,
) -> Result<Launched, LaunchError> {
    let host = target.to_string();
    let wrong = |error| LaunchError::new(Step::Config, Class::Bootstrap, &host).because(error);
    options.check().map_err(wrong)?;
    match target {
        Target::Local => {
            let path = program.local();
            if let Some(launched) = forked(&host, path, options).await? {
                return Ok(launched);
            }
            let args = &options.arguments;
            let child = Child { program: path.as_os_str(), args, kill: Kill::Alone, options: Some(options) };
            let started = spawn(&host, Step::Exec, child).await?;
            let mut start = Start::new(&host, started, Stage::already_running(options));
            start.platform = Some(Platform::current());
            start.run(options).await
        }
        Target::Ssh(server) => {
            let connecting = ssh::connect(server, &options.ssh);
            let (session, (stage, guess)) = tokio::try_join!(connecting, dialogue(&host, program, options))?;
            let started = remote::start(&session, &stage.line()).await?;
            Start::new(&host, started, stage).shipping(program, guess).run(options).await
        }
        Target::Command(command) if command.form == CommandForm::Worker => {
            let args: Vec<_> = command.args.iter().chain(&options.arguments).cloned().collect();
            let child =
                Child { program: &command.program, args: &args, kill: Kill::Alone, options: Some(options) };
            let started = spawn(&host, Step::Exec, child).await?;
            Start::new(&host, started, Stage::already_running(options)).run(options).await
        }
        Target::Command(command) => {
            let (stage, guess) = dialogue(&host, program, options).await?;
            let args = carrying(command, &stage);
            let child = Child { program: &command.program, args: &args, kill: Kill::Group, options: None };
            let started = spawn(&host, Step::Start, child).await?;
            Start::new(&host, started, stage).shipping(program, guess).run(options).await
        }
    }
}

/// Starts a worker from a hub's host, as [`launch`] does from this one.
///
/// A local worker is the hub's own program, started again there: nothing is transferred. A command is started by the hub, and
/// the delivery goes through it; a program that is the hub's own is fed by the hub itself, so that it crosses the wire once.
/// A host that SSH reaches is reached by [`SshOptions::dialer`](crate::ssh::SshOptions::dialer), which is to lead through
/// the hub.
///
/// # Errors
///
/// As [`launch`].
///
/// # Cancel safety
///
/// As [`launch`].
pub async fn launch_via(
    hub: &dyn Hub,
    target: &Target,
    program: &Program,
    options: &LaunchOptions,
) -> Result<Launched, LaunchError> {
    let host = format!("{target} via {}", hub.name());
    let wrong = |error| LaunchError::new(Step::Config, Class::Bootstrap, &host).because(error);
    options.check().map_err(wrong)?;
    let settled = |program: Option<OsString>, args: Vec<OsString>| HubStart {
        program,
        argv0: options.argv0.clone(),
        args,
        chdir: options.chdir.clone(),
        nice: options.nice,
        env: options.env.clone(),
        memory: options.memory,
    };
    match target {
        Target::Ssh(_) => launch(target, program, options).await,
        Target::Local => {
            let start = settled(None, options.arguments.clone());
            let (started, _) = start_at(hub, &host, Step::Exec, start, options.start_limit).await?;
            let mut start = Start::new(&host, started, Stage::already_running(options));
            start.artifact = hub.image().cloned();
            start.platform = start.artifact.as_ref().map(|image| image.platform().clone());
            start.run(options).await
        }
        Target::Command(command) if command.form == CommandForm::Worker => {
            let args = command.args.iter().chain(&options.arguments).cloned().collect();
            let start = settled(Some(command.program.clone()), args);
            let (started, _) = start_at(hub, &host, Step::Exec, start, options.start_limit).await?;
            Start::new(&host, started, Stage::already_running(options)).run(options).await
        }
        Target::Command(command) => {
            // Most likely it leads to another corner of the same machine.
            let likely = match hub.image() {
                Some(image) => program.for_platform(image.platform()).await.ok(),
                None => None,
            };
            let (stage, guess) = match likely {
                Some(guess) => (dialogue_about(&host, options, &guess)?, guess),
                None => dialogue(&host, program, options).await?,
            };
            let args = carrying(command, &stage);
            let start = HubStart { program: Some(command.program.clone()), args, ..HubStart::default() };
            let (started, process) = start_at(hub, &host, Step::Start, start, options.start_limit).await?;
            let feeder = hub.image().map(|image| Feeder { digest: image.digest(), process });
            let start = Start::new(&host, started, stage).shipping(program, guess);
            Start { feeder, ..start }.run(options).await
        }
    }
}

/// What a command is started with, so that it carries the dialogue.
fn carrying(command: &CommandTarget, stage: &Stage) -> Vec<OsString> {
    let more = match command.form {
        CommandForm::Line => vec![stage.line()],
        CommandForm::Arguments | CommandForm::Worker => stage.command(),
    };
    command.args.iter().cloned().chain(more.into_iter().map(Into::into)).collect()
}

async fn start_at(
    hub: &dyn Hub,
    host: &str,
    step: Step,
    start: HubStart,
    limit: Duration,
) -> Result<(Started, Arc<dyn HubProcess>), LaunchError> {
    let Ok(started) = tokio::time::timeout(limit, hub.start(start)).await else {
        let late = LaunchError::new(step, Class::Timeout, host).because(Failure::Limit(limit));
        return Err(late.with_hint("see that the hub is well"));
    };
    match started {
        Ok(started) => {
            let (process, stderr) = watch_at_hub(Arc::clone(&started.process), started.stderr);
            let HubStarted { reader, writer, process: handle, .. } = started;
            Ok((Started { reader, writer, stderr, process }, handle))
        }
        Err(error) => {
            let class = match &error {
                HubError::Start { .. } => Class::Exec,
                HubError::Refused { .. } => Class::Lost,
            };
            Err(LaunchError::new(step, class, host).because(error))
        }
    }
}

/// A local worker from a fork server; `None` if there is none that starts it.
async fn forked(host: &str, path: &Path, options: &LaunchOptions) -> Result<Option<Launched>, LaunchError> {
    let Some(server) = &options.fork_server else { return Ok(None) };
    let Some((started, server)) = server.start(path, options).await else { return Ok(None) };
    let mut start = Start::new(host, started, Stage::already_running(options));
    start.platform = Some(Platform::current());
    match start.run(options).await {
        // What had not spoken had done nothing, so that it may be started again.
        Err(error) if server.is_gone() => {
            tracing::debug!(%error, "the fork server ended with the worker that it was to start");
            Ok(None)
        }
        started => started.map(Some),
    }
}

async fn spawn(host: &str, step: Step, child: Child<'_>) -> Result<Started, LaunchError> {
    let name = child.program.to_owned();
    local::spawn(child).await.map_err(|error| failure::of_spawn(host, step, &name, error))
}

/// The dialogue for a place, with the first guess at what to ship there.
async fn dialogue(
    host: &str,
    program: &Program,
    options: &LaunchOptions,
) -> Result<(Stage, Artifact), LaunchError> {
    let failed = |error: Box<dyn std::error::Error + Send + Sync>| {
        LaunchError::new(Step::Config, Class::Bootstrap, host).because(error)
    };
    let guess = program.for_here().await.map_err(|error| {
        let hint = error.hint();
        failed(error.into()).with_hint(hint)
    })?;
    Ok((dialogue_about(host, options, &guess)?, guess))
}

fn dialogue_about(host: &str, options: &LaunchOptions, guess: &Artifact) -> Result<Stage, LaunchError> {
    let mut nonce = [0; 16];
    getrandom::fill(&mut nonce)
        .map_err(|error| LaunchError::new(Step::Config, Class::Bootstrap, host).because(error))?;
    Ok(Stage::new(nonce, options, guess.digest(), guess.platform()))
}

/// A hub that may feed its own program to what it started.
struct Feeder {
    digest: Digest,
    process: Arc<dyn HubProcess>,
}

/// A start under way: the streams are there, the worker has not spoken yet.
struct Start<'a> {
    host: &'a str,
    started: Started,
    stage: Stage,
    /// What may be shipped, and the build that was chosen; absent where nothing is.
    program: Option<&'a Program>,
    artifact: Option<Artifact>,
    platform: Option<Platform>,
    /// Until it was asked.
    feeder: Option<Feeder>,
    fed: bool,
    sent: u64,
}

impl<'a> Start<'a> {
    fn new(host: &'a str, started: Started, stage: Stage) -> Self {
        Self {
            host,
            started,
            stage,
            program: None,
            artifact: None,
            platform: None,
            feeder: None,
            fed: false,
            sent: 0,
        }
    }

    fn shipping(mut self, program: &'a Program, guess: Artifact) -> Self {
        self.program = Some(program);
        self.artifact = Some(guess);
        self
    }

    async fn run(mut self, options: &LaunchOptions) -> Result<Launched, LaunchError> {
        let outcome = tokio::time::timeout(options.start_limit, self.drive()).await;
        match outcome.unwrap_or(Err(Failure::Limit(options.start_limit))) {
            Ok(()) => Ok(self.launched()),
            Err(failure) => Err(self.failed(failure).await),
        }
    }

    fn launched(mut self) -> Launched {
        let delivery = match self.stage.how() {
            None => Delivery::Present,
            Some(How::Cached) => Delivery::Cached,
            Some(how) if self.fed => Delivery::Shared { kept: how == How::Kept },
            Some(how) => Delivery::Sent { bytes: self.sent, kept: how == How::Kept },
        };
        tracing::debug!(host = self.host, ?delivery, "the worker spoke");
        let spoken = std::io::Cursor::new(self.stage.spoken());
        Launched {
            reader: Box::new(spoken.chain(self.started.reader)),
            writer: self.started.writer,
            stderr: self.started.stderr,
            process: self.started.process,
            platform: self.stage.platform().cloned().or(self.platform),
            delivery,
            image: self.artifact,
        }
    }

    async fn failed(mut self, failure: Failure) -> LaunchError {
        // Without input and output it has no reason to stay, and time to clean up what was half delivered.
        let Started { reader, mut writer, stderr, mut process } = self.started;
        let _ = tokio::time::timeout(FAREWELL, writer.shutdown()).await;
        drop((reader, writer));
        let mut exit = tokio::time::timeout(FAREWELL, process.wait()).await.ok();
        if exit.is_none() {
            process.kill();
            exit = tokio::time::timeout(FAREWELL, process.wait()).await.ok();
        }
        // Others may hold it open.
        let _ = tokio::time::timeout(FAREWELL, stderr.closed()).await;
        let stderr = stderr.tail();
        self.stage.handle_end(); // what was heard and not understood is evidence
        failure::describe(self.host, failure, exit, &self.stage, self.artifact.as_ref(), &stderr)
    }

    /// Does what the dialogue asks for until the worker has spoken.
    async fn drive(&mut self) -> Result<(), Failure> {
        let mut buffer = vec![0; CHUNK];
        loop {
            let action = self.stage.poll_action();
            tracing::trace!(host = self.host, step = %self.stage.step(), "next");
            match action {
                Action::Read => {
                    let length = self.started.reader.read(&mut buffer).await?;
                    self.heard(&buffer[..length])?;
                }
                Action::Write(bytes) => self.write(&bytes, &mut buffer).await?,
                Action::FindImage(platform) => {
                    let program = self.program.ok_or(Failure::Stage(StageError::Ended))?;
                    let artifact = program.for_platform(&platform).await?;
                    self.stage.image(artifact.digest());
                    self.artifact = Some(artifact);
                }
                Action::Prepare(form) => {
                    let artifact = self.shipped()?;
                    // Once: what did not arrive well is sent from here.
                    self.fed = false;
                    self.feeder = self.feeder.take().filter(|feeder| feeder.digest == artifact.digest());
                    if self.feeder.is_some() {
                        self.stage.offer_plain(artifact.bytes().len());
                    } else {
                        let length = bytes_of(&artifact, form).await.len();
                        self.stage.offer(length, artifact.bytes().len());
                    }
                }
                Action::Deliver(form) => {
                    let artifact = self.shipped()?;
                    if let Some(feeder) = self.feeder.take() {
                        self.fed = self.feed(feeder, artifact.bytes().len(), &mut buffer).await?;
                    }
                    if !self.fed {
                        let bytes = bytes_of(&artifact, form).await;
                        self.write(bytes, &mut buffer).await?;
                        self.sent += bytes.len() as u64;
                    }
                    self.stage.delivered();
                }
                Action::Ready => return Ok(()),
            }
        }
    }

    fn shipped(&self) -> Result<Artifact, Failure> {
        self.artifact.clone().ok_or(Failure::Stage(StageError::Ended))
    }

    fn heard(&mut self, bytes: &[u8]) -> Result<(), Failure> {
        if bytes.is_empty() {
            return Err(self.stage.handle_end().into());
        }
        Ok(self.stage.handle_bytes(bytes)?)
    }

    async fn write(&mut self, bytes: &[u8], buffer: &mut [u8]) -> Result<(), Failure> {
        let Started { reader, writer, .. } = &mut self.started;
        let write = async {
            writer.write_all(bytes).await?;
            writer.flush().await
        };
        listening(write, reader, &mut self.stage, buffer).await
    }

    /// Has the hub write the program. Returns whether it did.
    async fn feed(&mut self, feeder: Feeder, length: usize, buffer: &mut [u8]) -> Result<bool, Failure> {
        let feed = feeder.process.feed(length as u64);
        listening(feed, &mut self.started.reader, &mut self.stage, buffer).await
    }
}

/// Writes, and goes on listening meanwhile: a far side that fails says so, and must not block on saying it.
async fn listening<T>(
    write: impl Future<Output = io::Result<T>>,
    reader: &mut (impl AsyncRead + Unpin),
    stage: &mut Stage,
    buffer: &mut [u8],
) -> Result<T, Failure> {
    let mut write = std::pin::pin!(write);
    let mut writing = true;
    loop {
        let length = tokio::select! {
            // First: an answer to the last byte may be here already when its writing is done.
            biased;
            done = &mut write, if writing => match done {
                Ok(done) => return Ok(done),
                // The far side went away. What it said before tells why.
                Err(_) => {
                    writing = false;
                    continue;
                }
            },
            length = reader.read(buffer) => length?,
        };
        if length == 0 {
            return Err(stage.handle_end().into());
        }
        stage.handle_bytes(&buffer[..length])?;
    }
}

async fn bytes_of(artifact: &Artifact, form: Form) -> &[u8] {
    match form {
        Form::Packed => artifact.packed().await,
        Form::Raw => artifact.bytes(),
    }
}
