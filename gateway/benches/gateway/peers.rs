//! Other people's programs: what is installed of them.
#![allow(
    dead_code,
    reason = "each benchmark uses its own part of this, so expect would be unfulfilled in some"
)]

use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Instant;

use crate::Failure;
use crate::contest::RunError;
use crate::farm;
use crate::times::milliseconds;
use crate::trial::Program;

/// Contenders that are programs of their own, each with the Debian package that holds it.
const OTHERS: &[(&str, &str)] = &[
    ("ssh", "openssh-client"),
    ("clush", "clustershell"),
    ("pdsh", "pdsh"),
    ("xargs", "findutils"),
    ("parallel", "parallel"),
];

/// Whether a contender is another program than ours.
pub(crate) fn is_other(contender: &str) -> bool {
    OTHERS.iter().any(|(name, _)| *name == contender)
}

/// This program, which measures every contender.
pub(crate) fn own() -> std::io::Result<Program> {
    Ok(Program { path: std::env::current_exe()?, leading: Vec::new() })
}

/// An error for a contender that is not installed.
pub(crate) fn present(contender: &str) -> Result<(), RunError> {
    let Some((name, package)) = OTHERS.iter().find(|(name, _)| *name == contender) else { return Ok(()) };
    let path = std::env::var_os("PATH").unwrap_or_default();
    if std::env::split_paths(&path).any(|folder| folder.join(name).is_file()) {
        return Ok(());
    }
    Err(RunError::Absent(format!("{name} is not installed (package {package})")))
}

/// Milliseconds of `ssh host true`, from start to end.
pub(crate) fn ssh_true(home: &Path) -> Result<f64, Failure> {
    let began = Instant::now();
    let status = ssh(home, 0, "true").status()?;
    let time = milliseconds(began);
    if status.success() { Ok(time) } else { Err(format!("ssh ended with {status}").into()) }
}

/// The system's `ssh` to one of the servers, without the agent and home of whoever measures.
pub(crate) fn ssh(home: &Path, server: usize, command: &str) -> Command {
    let mut ssh = Command::new("ssh");
    ssh.arg("-F").arg(farm::config(home)).arg(farm::name(server)).arg(command);
    ssh.env("HOME", home).env_remove("SSH_AUTH_SOCK").stdin(Stdio::null());
    ssh
}
