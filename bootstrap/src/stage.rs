//! The delivery dialogue: the text of its far half, and its near half as a state machine without sockets or clock.
//!
//! One command is run at the far side, `sh -c` with the text of `stage.sh` and a few arguments. Each of its messages is a
//! line that begins with a marker. The two halves of the marker stand apart among the arguments, so a shell or terminal
//! that shows the command does not forge it. All before the first marker is noise.
//!
//! ```text
//! far                                 near
//! ask LIBC OS MACHINE                 DIGEST                     the guess at the platform was wrong
//! need TOOLS LIBC OS MACHINE          gz|raw LENGTH UNPACKED     the worker is not there
//! go                                  exactly LENGTH bytes
//! env                                 NAME=VALUE NAME=VALUE …    only when there are any: not for `ps` to see
//! run HOW LIBC OS MACHINE             nothing more               then the worker's own first words
//! fail WHAT …
//! ```
//!
//! `need` comes again when a delivery did not arrive well, for the same folder and then for the others. A worker that is
//! there and was guessed right is started without any answer of ours. The near half speaks only when it was asked to, since
//! shells and some versions of `head` read ahead.
//!
//! The far half waits for each answer no longer than a start may take, where `timeout` is there to see to that: behind a
//! network that fell silent nothing else would end it.

use std::sync::LazyLock;
use std::time::Duration;

use crate::artifact::Digest;
use crate::error::{EVIDENCE_LIMIT, Step};
use crate::escape::escape;
use crate::platform::{Libc, Platform};
use crate::target::{Cache, LaunchOptions};

/// The text of the far half, joined to one line.
static SCRIPT: LazyLock<String> = LazyLock::new(|| {
    let lines = include_str!("stage.sh").lines().map(str::trim);
    lines.filter(|line| !line.is_empty() && !line.starts_with('#')).collect::<Vec<_>>().join(" ")
});

/// The longest message that is believed, in bytes.
const LINE_LIMIT: usize = 4096;

/// A year: not every `timeout` there takes a number of seconds of any size.
const LONGEST_WAIT: Duration = Duration::from_secs(365 * 24 * 3600);

/// How often a worker is sent before giving up: twice for each folder of the ladder.
const ATTEMPT_LIMIT: usize = 12;

/// Half of the marker, in bytes of randomness; it is written in hexadecimal digits.
const HALF: usize = 8;

/// How the worker came to be where it was started.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum How {
    /// It was there.
    Cached,
    /// It was sent, and kept for the next time.
    Kept,
    /// It was sent, and is removed.
    Gone,
}

/// What whoever drives the machine has to do next. It shows itself nowhere: what is written may be a secret.
pub(crate) enum Action {
    /// Hand on more bytes from the far side.
    Read,
    /// Write these bytes.
    Write(Vec<u8>),
    /// Find the build for this platform and call [`Stage::image`].
    FindImage(Platform),
    /// Prepare the build in this form and call [`Stage::offer`].
    Prepare(Form),
    /// Write the whole build in this form and call [`Stage::delivered`].
    Deliver(Form),
    /// The worker has spoken: [`Stage::spoken`] are its first words.
    Ready,
}

/// In which form a build crosses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Form {
    Packed,
    Raw,
}

/// Why the dialogue failed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum StageError {
    /// Line ends were changed on the way.
    #[error("a terminal stands between and changes what passes")]
    Terminal,
    /// The far side said what does not belong there.
    #[error("the first stage said {0:?}, which does not belong there")]
    Unexpected(String),
    /// The deliveries did not arrive well.
    #[error("the program was sent {ATTEMPT_LIMIT} times and never arrived well")]
    Attempts,
    /// No folder can hold the program: each with its reason.
    #[error("no folder there can hold a program and run it: {0}")]
    Folders(String),
    /// The folder to start in cannot be made or entered.
    #[error("the folder to start in cannot be made or entered")]
    Chdir,
    /// The niceness cannot be set.
    #[error("the niceness cannot be set there")]
    Nice,
    /// The limit of memory cannot be set.
    #[error("the limit of memory cannot be set there")]
    Memory,
    /// A variable cannot be set: a shell has some for itself, such as `UID`.
    #[error("the shell there does not let {} be set", named(.0))]
    Variable(String),
    /// What was started does not speak as a worker does.
    #[error("what was started is not the worker")]
    NotTheWorker,
    /// The far side ended before the worker spoke.
    #[error("it ended before the worker spoke")]
    Ended,
}

/// What the far side says it is, or nothing: the shell then reads no encoded values at all.
fn named(variable: &str) -> String {
    if variable.is_empty() { "any variable".to_owned() } else { format!("the variable {variable:?}") }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd)]
enum Phase {
    /// Noise, until the first marker.
    Probing,
    /// `ask` came: which build?
    FindingImage,
    /// The build's digest was told.
    Looking,
    /// `need` came: in which form, how long?
    Preparing,
    /// The length was told; until `go`.
    Offered,
    /// `go` came: the build is on its way.
    Delivering,
    /// All of it was written.
    Delivered,
    /// The environment was told.
    Setting,
    /// `run` came: what follows is the worker's.
    Greeting,
    /// The worker's first words are whole.
    Ready,
}

/// The near half of the dialogue.
pub(crate) struct Stage {
    marker: String,
    arguments: Vec<String>,
    environment: Option<String>,
    greeting: Vec<u8>,
    phase: Phase,
    /// Whether anything came at all.
    heard: bool,
    /// Bytes not yet understood. Before `run` at most a line, after it the worker's words.
    pending: Vec<u8>,
    /// The end of what was no message.
    noise: Vec<u8>,
    outgoing: Option<Vec<u8>>,
    attempts: usize,
    form: Form,
    found: Option<Platform>,
    libc: Option<Libc>,
    how: Option<How>,
}

impl Stage {
    /// A dialogue that guesses the build with `digest`, for `platform`. `nonce` must be unpredictable.
    pub(crate) fn new(
        nonce: [u8; 2 * HALF],
        options: &LaunchOptions,
        digest: Digest,
        platform: &Platform,
    ) -> Self {
        let hex = |bytes: &[u8]| bytes.iter().map(|byte| format!("{byte:02x}")).collect::<String>();
        let (first, second) = (hex(&nonce[..HALF]), hex(&nonce[HALF..]));
        let marker = format!("{first}{second}");
        let (system, machine) = platform.uname();
        let mut arguments = vec!["farcall".into(), first, second, digest.to_string(), system, machine];
        let mut option = |letter: char, value: &[u8]| arguments.push(format!("{letter}{}", escape(value)));
        if let Some(folder) = &options.chdir {
            // `cd -` would mean another folder.
            let folder = folder.as_os_str().as_encoded_bytes();
            let dash: &[u8] = if folder.starts_with(b"-") { b"./" } else { b"" };
            option('c', &[dash, folder].concat());
        }
        if let Some(nice) = options.nice {
            option('n', nice.to_string().as_bytes());
        }
        if let Some(memory) = options.memory {
            option('m', memory.div_ceil(1024).to_string().as_bytes());
        }
        let limit = options.start_limit.min(LONGEST_WAIT);
        let limit = limit.as_secs() + u64::from(limit.subsec_nanos() > 0);
        option('l', limit.max(1).to_string().as_bytes());
        if options.cache == Cache::LeaveNothing {
            option('t', b"");
        }
        if !options.env.is_empty() {
            option('e', b"");
        }
        for argument in &options.arguments {
            option('a', argument.as_encoded_bytes());
        }
        let environment = (!options.env.is_empty()).then(|| {
            let words = options
                .env
                .iter()
                .map(|(name, value)| format!("{name}={}", escape(value.as_encoded_bytes())));
            words.collect::<Vec<_>>().join(" ") + "\n"
        });
        Self::start(Phase::Probing, marker, arguments, environment, options)
    }

    /// No dialogue: the worker runs already, and only its first words are awaited.
    pub(crate) fn already_running(options: &LaunchOptions) -> Self {
        Self::start(Phase::Greeting, String::new(), Vec::new(), None, options)
    }

    fn start(
        phase: Phase,
        marker: String,
        arguments: Vec<String>,
        environment: Option<String>,
        options: &LaunchOptions,
    ) -> Self {
        Self {
            marker,
            arguments,
            environment,
            greeting: options.greeting.clone(),
            phase,
            heard: false,
            pending: Vec::new(),
            noise: Vec::new(),
            outgoing: None,
            attempts: 0,
            form: Form::Packed,
            found: None,
            libc: None,
            how: None,
        }
    }

    /// The command as an argument list.
    pub(crate) fn command(&self) -> Vec<String> {
        let start = ["sh".into(), "-c".into(), SCRIPT.clone()];
        start.into_iter().chain(self.arguments.iter().cloned()).collect()
    }

    /// The command as a line for a login shell of any kind.
    pub(crate) fn line(&self) -> String {
        format!("exec sh -c '{}' {}", *SCRIPT, self.arguments.join(" "))
    }

    /// What to do next.
    pub(crate) fn poll_action(&mut self) -> Action {
        if let Some(bytes) = self.outgoing.take() {
            return Action::Write(bytes);
        }
        match self.phase {
            Phase::FindingImage => {
                let platform = self.found.clone().expect("set on entering this phase");
                Action::FindImage(platform)
            }
            Phase::Preparing => Action::Prepare(self.form),
            Phase::Delivering => Action::Deliver(self.form),
            Phase::Ready => Action::Ready,
            Phase::Probing | Phase::Looking | Phase::Offered => Action::Read,
            Phase::Delivered | Phase::Setting | Phase::Greeting => Action::Read,
        }
    }

    /// Takes what the far side printed, in pieces of any size.
    pub(crate) fn handle_bytes(&mut self, bytes: &[u8]) -> Result<(), StageError> {
        self.heard |= !bytes.is_empty();
        self.pending.extend_from_slice(bytes);
        while self.phase < Phase::Greeting {
            let Some(at) = find(&self.pending, self.marker.as_bytes()) else {
                let keep = self.pending.len().min(self.marker.len() - 1);
                let noise = self.pending.len() - keep;
                self.drop_noise(noise);
                return Ok(());
            };
            self.drop_noise(at);
            let Some(end) = self.pending.iter().position(|&byte| byte == b'\n') else {
                if self.pending.len() > LINE_LIMIT {
                    return Err(self.unexpected("a line without end"));
                }
                return Ok(());
            };
            let line: Vec<u8> = self.pending.drain(..=end).collect();
            let message = String::from_utf8_lossy(&line[self.marker.len()..end]).into_owned();
            self.handle_message(&message)?;
        }
        let common = self.pending.len().min(self.greeting.len());
        if self.pending[..common] != self.greeting[..common] {
            let rest = self.pending.len();
            self.drop_noise(rest);
            return Err(StageError::NotTheWorker);
        }
        if common == self.greeting.len() {
            self.phase = Phase::Ready;
        }
        Ok(())
    }

    /// Nothing more comes from the far side. What came and was not understood counts as noise.
    pub(crate) fn handle_end(&mut self) -> StageError {
        let rest = self.pending.len();
        self.drop_noise(rest);
        StageError::Ended
    }

    /// Answers [`Action::FindImage`].
    pub(crate) fn image(&mut self, digest: Digest) {
        debug_assert_eq!(self.phase, Phase::FindingImage);
        self.phase = Phase::Looking;
        self.outgoing = Some(format!("{digest}\n").into_bytes());
    }

    /// Answers [`Action::Prepare`]: the number of bytes to be sent, and of the program unpacked.
    pub(crate) fn offer(&mut self, length: usize, unpacked: usize) {
        debug_assert_eq!(self.phase, Phase::Preparing);
        self.phase = Phase::Offered;
        let form = match self.form {
            Form::Packed => "gz",
            Form::Raw => "raw",
        };
        self.outgoing = Some(format!("{form} {length} {unpacked}\n").into_bytes());
    }

    /// Answers [`Action::Prepare`] where the program comes unpacked from elsewhere.
    pub(crate) fn offer_plain(&mut self, length: usize) {
        self.form = Form::Raw;
        self.offer(length, length);
    }

    /// Answers [`Action::Deliver`].
    pub(crate) fn delivered(&mut self) {
        debug_assert_eq!(self.phase, Phase::Delivering);
        self.phase = Phase::Delivered;
    }

    /// The end of what the far side printed beside the dialogue, at most [`EVIDENCE_LIMIT`] bytes.
    pub(crate) fn noise(&self) -> &[u8] {
        &self.noise
    }

    /// Where on the way it is.
    pub(crate) fn step(&self) -> Step {
        match self.phase {
            Phase::Probing if !self.heard => Step::Start,
            Phase::Probing => Step::Probe,
            Phase::FindingImage | Phase::Looking | Phase::Preparing => Step::Deliver,
            Phase::Offered | Phase::Delivering | Phase::Delivered => Step::Deliver,
            Phase::Setting => Step::Exec,
            Phase::Greeting | Phase::Ready => Step::Greeting,
        }
    }

    /// The place's platform, once known.
    pub(crate) fn platform(&self) -> Option<&Platform> {
        self.found.as_ref()
    }

    /// The place's C library, once known.
    pub(crate) fn libc(&self) -> Option<Libc> {
        self.libc
    }

    /// How the worker came there, once it is started.
    pub(crate) fn how(&self) -> Option<How> {
        self.how
    }

    /// The worker's first words: the greeting, and what came with it.
    pub(crate) fn spoken(&mut self) -> Vec<u8> {
        std::mem::take(&mut self.pending)
    }

    fn handle_message(&mut self, message: &str) -> Result<(), StageError> {
        if message.ends_with('\r') {
            return Err(StageError::Terminal);
        }
        let Some(message) = message.strip_prefix(' ') else { return Err(self.unexpected(message)) };
        let mut words = message.split(' ');
        let verb = words.next().unwrap_or_default();
        match (self.phase, verb) {
            (Phase::Probing, "ask") => {
                self.place(message, words)?;
                self.phase = Phase::FindingImage;
            }
            (Phase::Probing | Phase::Looking | Phase::Delivered, "need") => {
                let tools = words.next().unwrap_or_default();
                self.place(message, words)?;
                // A packed delivery that did not arrive well is tried in the plain form: perhaps it is the tool.
                let packed = tools.contains('g') && self.attempts == 0;
                self.form = if packed { Form::Packed } else { Form::Raw };
                self.attempts += 1;
                if self.attempts > ATTEMPT_LIMIT {
                    return Err(StageError::Attempts);
                }
                self.phase = Phase::Preparing;
            }
            (Phase::Offered, "go") => self.phase = Phase::Delivering,
            (Phase::Probing | Phase::Looking | Phase::Delivered, "env") if self.environment.is_some() => {
                self.outgoing = self.environment.take().map(String::into_bytes);
                self.phase = Phase::Setting;
            }
            (Phase::Probing | Phase::Looking | Phase::Delivered | Phase::Setting, "run")
                if self.environment.is_none() =>
            {
                self.how = Some(match (words.next(), self.attempts) {
                    (Some("cached"), _) => How::Cached,
                    (Some("kept"), 1..) => How::Kept,
                    (Some("gone"), 1..) => How::Gone,
                    _ => return Err(self.unexpected(message)),
                });
                self.place(message, words)?;
                self.phase = Phase::Greeting;
            }
            (Phase::Probing | Phase::Looking | Phase::Delivered | Phase::Setting, "fail") => {
                return Err(match words.next() {
                    Some("folders") => StageError::Folders(words.collect::<Vec<_>>().join(" ")),
                    Some("chdir") => StageError::Chdir,
                    Some("nice") => StageError::Nice,
                    Some("memory") => StageError::Memory,
                    Some("env") => StageError::Variable(words.next().unwrap_or_default().into()),
                    _ => self.unexpected(message),
                });
            }
            (
                Phase::Probing
                | Phase::FindingImage
                | Phase::Looking
                | Phase::Preparing
                | Phase::Offered
                | Phase::Delivering
                | Phase::Delivered
                | Phase::Setting
                | Phase::Greeting
                | Phase::Ready,
                _,
            ) => return Err(self.unexpected(message)),
        }
        Ok(())
    }

    fn place<'a>(
        &mut self,
        message: &str,
        mut words: impl Iterator<Item = &'a str>,
    ) -> Result<(), StageError> {
        let libc = match words.next() {
            Some("gnu") => Some(Libc::Gnu),
            Some("musl") => Some(Libc::Musl),
            _ => None,
        };
        let platform = match (words.next(), words.next()) {
            (Some(system), Some(machine)) => Platform::from_uname(system, machine),
            _ => None,
        };
        if platform.is_none() || libc.is_none() {
            return Err(self.unexpected(message));
        }
        (self.found, self.libc) = (platform, libc);
        Ok(())
    }

    fn unexpected(&self, message: &str) -> StageError {
        StageError::Unexpected(message.chars().take(80).collect())
    }

    fn drop_noise(&mut self, length: usize) {
        self.noise.extend(self.pending.drain(..length));
        let excess = self.noise.len().saturating_sub(EVIDENCE_LIMIT);
        self.noise.drain(..excess);
    }
}

fn find(haystack: &[u8], needle: &[u8]) -> Option<usize> {
    haystack.windows(needle.len()).position(|window| window == needle)
}

#[cfg(test)]
#[path = "stage_silence_tests.rs"]
mod silence_tests;
#[cfg(test)]
#[path = "stage_tests.rs"]
mod tests;
