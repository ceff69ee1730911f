//! What a failed start looks like to the person who reads about it: class, evidence, remedy.

use std::ffi::OsStr;
use std::io;
use std::time::Duration;

use crate::artifact::Artifact;
use crate::error::{Class, EVIDENCE_LIMIT, LaunchError, Step};
use crate::image::ImageError;
use crate::local::SpawnError;
use crate::process::Exit;
use crate::stage::{Stage, StageError};

/// Why a start under way failed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Failure {
    #[error(transparent)]
    Stage(#[from] StageError),
    #[error(transparent)]
    Image(#[from] ImageError),
    #[error("the stream broke: {0}")]
    Stream(#[from] io::Error),
    #[error("nothing came within {} s", .0.as_secs_f32())]
    Limit(Duration),
}

/// The remedy where a program was started and does not behave as a worker.
const HAND_OVER: &str =
    "see that the program hands over to its worker role first thing in main, and prints nothing before";

/// It ended before the worker spoke.
#[derive(Debug, thiserror::Error)]
#[error("it ended with {0} before the worker spoke")]
struct EndedEarly(Exit);

/// A program could not be started on this machine.
#[derive(Debug, thiserror::Error)]
#[error("cannot start {program}: {source}")]
struct SpawnFailed {
    program: String,
    source: io::Error,
}

/// The error of a child that could not be started.
pub(crate) fn of_spawn(host: &str, step: Step, program: &OsStr, error: SpawnError) -> LaunchError {
    let source = match error {
        SpawnError::Start(source) => source,
        error @ SpawnError::Folder { .. } => {
            return LaunchError::new(step, Class::Bootstrap, host)
                .because(error)
                .with_hint("give a folder that the account can make or enter");
        }
    };
    let hint = match source.kind() {
        io::ErrorKind::NotFound => Some("install it, or correct its name"),
        io::ErrorKind::PermissionDenied => Some("see that it may be executed, and what limits are asked for"),
        _ => None,
    };
    let program = program.display().to_string();
    let error = LaunchError::new(step, Class::Exec, host).because(SpawnFailed { program, source });
    match hint {
        Some(hint) => error.with_hint(hint),
        None => error,
    }
}

/// The error of a start that got as far as `stage` did.
pub(crate) fn describe(
    host: &str,
    failure: Failure,
    exit: Option<Exit>,
    stage: &Stage,
    artifact: Option<&Artifact>,
    stderr: &[u8],
) -> LaunchError {
    let evidence = match failure {
        // Not what it says of its own end, once nobody listens any more.
        Failure::Stage(StageError::NotTheWorker) => evidence(stderr, stage.noise()),
        _ => evidence(stage.noise(), stderr),
    };
    let text = String::from_utf8_lossy(&evidence).into_owned();
    let mut step = stage.step();
    let mut hint = None;
    let class = match &failure {
        Failure::Limit(_) => {
            hint = Some(silence(step));
            Class::Timeout
        }
        Failure::Image(error) => {
            hint = Some(error.hint());
            Class::Bootstrap
        }
        Failure::Stream(error) if error.kind() == io::ErrorKind::PermissionDenied => {
            hint = Some("the server runs no commands for this account".into());
            Class::Bootstrap
        }
        Failure::Stream(_) => Class::Lost,
        Failure::Stage(StageError::Ended) => {
            let class = ended(&mut step, exit, &text);
            hint = remedy(&text, step, stage, artifact).or_else(|| without_a_shell(&text, step));
            class
        }
        Failure::Stage(StageError::NotTheWorker) => {
            hint = remedy(&text, step, stage, artifact).or_else(|| Some(HAND_OVER.into()));
            Class::Exec
        }
        Failure::Stage(error) => {
            // What the system said goes deeper than what the dialogue knows.
            hint = remedy(&text, step, stage, artifact).or_else(|| remedy_of(error));
            Class::Bootstrap
        }
    };
    let error = LaunchError::new(step, class, host).with_evidence(&evidence);
    let error = match (failure, exit) {
        (Failure::Stage(StageError::Ended), Some(exit)) => error.because(EndedEarly(exit)),
        (failure, _) => error.because(failure),
    };
    match hint {
        Some(hint) => error.with_hint(hint),
        None => error,
    }
}

/// What was printed beside the dialogue, then what came over standard error, or the other way round; of each at least half of the
/// room.
fn evidence(first: &[u8], last: &[u8]) -> Vec<u8> {
    let half = EVIDENCE_LIMIT / 2;
    let last = &last[last.len().saturating_sub(EVIDENCE_LIMIT - first.len().min(half))..];
    let first = &first[first.len().saturating_sub(EVIDENCE_LIMIT - last.len())..];
    let mut evidence = first.to_vec();
    if !evidence.is_empty() && !last.is_empty() && !evidence.ends_with(b"\n") {
        evidence.push(b'\n');
    }
    evidence.extend_from_slice(last);
    evidence
}

/// Whether a dynamic loader finds the C library too old: it says which version is missing.
fn is_too_old(text: &str) -> bool {
    ["GLIBC_", "version `"].iter().any(|words| text.contains(words))
}

/// The class of an early end. Shells say 126 and 127 for what they cannot start, and loaders end what they cannot load.
fn ended(step: &mut Step, exit: Option<Exit>, text: &str) -> Class {
    match (*step, exit) {
        (_, Some(Exit::Signal(_))) => Class::Signal,
        (Step::Greeting, Some(Exit::Code(_))) if is_too_old(text) => {
            *step = Step::Exec;
            Class::Exec
        }
        (Step::Greeting, Some(Exit::Code(126 | 127))) => {
            *step = Step::Exec;
            Class::Exec
        }
        (Step::Greeting, Some(Exit::Code(_))) => Class::RemoteExit,
        // The code of `ssh` for all that goes wrong with the connection.
        (Step::Start | Step::Probe, Some(Exit::Code(255))) => Class::Connect,
        (Step::Start | Step::Probe | Step::Deliver | Step::Exec, Some(Exit::Code(_))) => Class::Bootstrap,
        (_, _) => Class::Lost,
    }
}

fn silence(step: Step) -> String {
    match step {
        Step::Start | Step::Probe => "see that the account's start-up files end, and do not wait for input",
        Step::Deliver => "the path may be too slow for the start limit: raise it",
        _ => HAND_OVER,
    }
    .into()
}

/// The remedy for what the dialogue itself found.
fn remedy_of(error: &StageError) -> Option<String> {
    let hint = match error {
        StageError::Terminal => "start it without a terminal (ssh -T, docker exec without -t)",
        StageError::Folders(reasons) if reasons.contains("=no-execution") => {
            "give the account a folder that is mounted without noexec, for example through XDG_CACHE_HOME"
        }
        StageError::Folders(_) => {
            "give the account a folder that it can write to and that is its own (mode 0700)"
        }
        StageError::Chdir => "give a folder that the account there can make or enter",
        StageError::Nice => {
            "only a privileged account may lower the niceness, and `nice` must be installed there"
        }
        StageError::Memory => "the account's hard limit may be lower (ulimit -H -d)",
        _ => return None,
    };
    Some(hint.into())
}

/// The remedy that the words of shells, loaders and kernels point to.
fn remedy(text: &str, step: Step, stage: &Stage, artifact: Option<&Artifact>) -> Option<String> {
    let says = |words: &[&str]| words.iter().any(|word| text.contains(word));
    let interpreter = artifact.and_then(Artifact::interpreter);
    if says(&["No space left", "Disk quota exceeded"]) {
        return Some("free some space there, or point XDG_CACHE_HOME to a folder that has some".into());
    }
    if is_too_old(text) {
        return Some("the C library there is too old for this program: build it static or for musl".into());
    }
    if says(&["xec format error", "cannot execute binary file", "cannot execute: required file"]) {
        let platform = stage.platform().map(|platform| format!(" ({platform})")).unwrap_or_default();
        return Some(format!(
            "the program is damaged or built for another processor than that place has{platform}"
        ));
    }
    match (step, interpreter) {
        (Step::Exec, Some(interpreter)) if says(&["not found", "No such file"]) => {
            let libc = stage.libc().map(|libc| format!(" (it has {libc})")).unwrap_or_default();
            return Some(format!(
                "{interpreter}, which the program needs, is missing there{libc}: build it static"
            ));
        }
        (Step::Exec, _) if says(&["Permission denied", "not permitted"]) => {
            return Some("a policy of that system forbids to run delivered programs".into());
        }
        _ => {}
    }
    None
}

/// The remedy where it ended before the far half of the dialogue said anything.
fn without_a_shell(text: &str, step: Step) -> Option<String> {
    if !matches!(step, Step::Start | Step::Probe) {
        return None;
    }
    // A server says so of an account whose home folder is missing, and goes on.
    let mut lines = text.lines().filter(|line| !line.contains("home directory"));
    let hint = lines.find_map(|line| {
        let says = |words: &[&str]| words.iter().any(|word| line.contains(word));
        if says(&["not found", "No such file", "no such file"]) {
            Some("a POSIX shell, `sh`, is needed there; where there is none, bring the worker with the image")
        } else if says(&["not available"]) {
            Some("the account has no shell to log in with: use another account, or give it one")
        } else {
            None
        }
    });
    hint.map(Into::into)
}
