//! A private `ssh-agent`.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use crate::keys::KeyPair;
use crate::process::kill_tree;

/// An agent of its own, killed when dropped.
pub struct SshAgent {
    child: Child,
    socket: PathBuf,
    _dir: tempfile::TempDir,
}

impl Default for SshAgent {
    fn default() -> Self {
        Self::start()
    }
}

impl SshAgent {
    /// Starts an agent without keys.
    pub fn start() -> Self {
        let dir = tempfile::Builder::new().prefix("farcall-agent-").tempdir().expect("a temporary folder");
        let socket = dir.path().join("socket");
        let child = Command::new("ssh-agent")
            .arg("-D")
            .arg("-a")
            .arg(&socket)
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("ssh-agent must be installed (openssh-client)");
        let agent = Self { child, socket, _dir: dir };
        let limit = Instant::now() + Duration::from_secs(10);
        while std::os::unix::net::UnixStream::connect(&agent.socket).is_err() {
            assert!(Instant::now() < limit, "ssh-agent did not open its socket");
            std::thread::sleep(Duration::from_millis(5));
        }
        agent
    }

    /// The agent's socket.
    pub fn socket(&self) -> &Path {
        &self.socket
    }

    /// Adds a key, with its certificate if there is one beside it.
    pub fn add(&self, key: &KeyPair) {
        let output = Command::new("ssh-add")
            .arg("-q")
            .arg(key.path())
            .env("SSH_AUTH_SOCK", &self.socket)
            .stdin(Stdio::null())
            .output()
            .expect("ssh-add must be installed (openssh-client)");
        assert!(output.status.success(), "ssh-add: {}", String::from_utf8_lossy(&output.stderr));
    }
}

impl Drop for SshAgent {
    fn drop(&mut self) {
        kill_tree(self.child.id());
        let _ = self.child.wait();
    }
}
