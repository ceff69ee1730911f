//! How the tests of the SSH half connect: with ours, and with the system's `ssh` for comparison.
#![allow(dead_code, reason = "each test file uses a part, so expect would be unfulfilled in some")]

use std::path::Path;
use std::process::{Command, Output, Stdio};

use farcall_bootstrap::ssh::{ConfigFiles, Exec, Session, SshOptions, SshTarget, connect};
use farcall_bootstrap::{Class, LaunchError};
use farcall_test_support::{Sshd, TempHome};
use tokio::io::AsyncReadExt;

/// Options that read one configuration file, and know nothing of the machine the tests run on.
pub(crate) fn options(home: &TempHome, config: &str) -> SshOptions {
    let file = home.write("config", config);
    SshOptions { files: ConfigFiles::Only(file), home: Some(home.path().to_owned()), ..SshOptions::default() }
}

/// A block for the server that leaves the choice of keys to the test.
pub(crate) fn block(sshd: &Sshd, more: &str) -> String {
    let known = sshd.dir().join("known");
    std::fs::write(&known, sshd.known_hosts()).expect("a writable folder");
    format!(
        "Host server\n{more}\n HostName 127.0.0.1\n Port {}\n UserKnownHostsFile {}\n GlobalKnownHostsFile none\n",
        sshd.port(),
        known.display()
    )
}

/// Connects by the options' configuration.
pub(crate) async fn reach(host: &str, options: &SshOptions) -> Result<Session, LaunchError> {
    connect(&SshTarget::new(host), options).await
}

/// Runs a command to its end and returns what it printed.
pub(crate) async fn printed(session: &Session, command: &str) -> String {
    let mut exec: Exec = session.exec(command).await.expect("a channel");
    let mut text = String::new();
    exec.stdout.read_to_string(&mut text).await.expect("output");
    text
}

/// The class of failure, or none.
pub(crate) fn class<T>(result: &Result<T, LaunchError>) -> Option<Class> {
    result.as_ref().err().map(LaunchError::class)
}

/// What the system's `ssh` makes of the same configuration.
pub(crate) fn system_ssh(config: &Path, host: &str, environment: &[(&str, &str)]) -> Output {
    Command::new("ssh")
        .arg("-F")
        .arg(config)
        .args(["-o", "BatchMode=yes", "-o", "ConnectTimeout=20", host, "true"])
        .env_remove("SSH_AUTH_SOCK")
        .envs(environment.iter().copied())
        .stdin(Stdio::null())
        .output()
        .expect("ssh must be installed (openssh-client)")
}
