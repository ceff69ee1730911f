//! One run of one contender: a program that prints a number.

use std::ffi::{OsStr, OsString};
use std::io;
use std::path::PathBuf;
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process_group};
use tokio::io::AsyncReadExt;
use tokio::process::{Child, Command};
use tokio::time::timeout;

use crate::contest::RunError;

/// How much longer than its measurement a run may take before it counts as hung.
const SLACK: Duration = Duration::from_secs(30);

/// How a contender's measuring process is started, before the arguments of the measurement.
#[derive(Clone, Debug)]
pub(crate) struct Program {
    pub(crate) path: PathBuf,
    pub(crate) leading: Vec<OsString>,
}

impl Program {
    /// Runs it once, to measure for about `length`.
    pub(crate) async fn measure(
        &self,
        args: impl IntoIterator<Item = impl AsRef<OsStr>>,
        length: Duration,
    ) -> Result<f64, RunError> {
        let limit = length * 3 + SLACK;
        let mut child = Command::new(&self.path)
            .args(&self.leading)
            .args(args)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .process_group(0)
            .kill_on_drop(true)
            .spawn()
            .map_err(start_error)?;
        let Ok(ended) = timeout(limit, finish(&mut child)).await else {
            // Not yet waited for, so the id still is this child's and its group's.
            if let Some(group) = child.id().and_then(|id| Pid::from_raw(id.cast_signed())) {
                let _ = kill_process_group(group, Signal::KILL);
            }
            let _ = child.wait().await;
            return Err(RunError::Hung(limit));
        };
        let (printed, status) = ended.map_err(start_error)?;
        if !status.success() {
            return Err(RunError::Failed(status));
        }
        match printed.parse() {
            Ok(number) if f64::is_finite(number) && number > 0.0 => Ok(number),
            _ => Err(RunError::Garbled(printed)),
        }
    }
}

fn start_error(error: io::Error) -> RunError {
    RunError::Start(error.to_string())
}

/// All that a child prints, and how it ends.
async fn finish(child: &mut Child) -> io::Result<(String, ExitStatus)> {
    let mut printed = String::new();
    if let Some(mut output) = child.stdout.take() {
        output.read_to_string(&mut printed).await?;
    }
    Ok((printed.trim().to_owned(), child.wait().await?))
}
