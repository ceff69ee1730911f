//! A command on the far side: its standard streams and its end.

use std::io;
use std::sync::Arc;

use russh::Sig;
use tokio::io::Join;

use super::pump::{ExecError, ExitStatus, Link, Stderr, Stdin, Stdout};
use super::session::Session;

/// A command that runs on the far side of a [`Session`].
///
/// It is made of parts that can be used from different tasks. When the last of them is dropped, the channel is closed,
/// at which the server closes the command's streams; whether that ends the command is its own affair.
pub struct Exec {
    /// Its standard input.
    pub stdin: Stdin,
    /// Its standard output.
    pub stdout: Stdout,
    /// Its standard error.
    pub stderr: Stderr,
    /// Its end, and the means to bring that about.
    pub process: Process,
}

impl Exec {
    pub(crate) fn new(link: Arc<Link>) -> Self {
        Self {
            stdin: Stdin::new(Arc::clone(&link)),
            stdout: Stdout(Arc::clone(&link)),
            stderr: Stderr(Arc::clone(&link)),
            process: Process { link },
        }
    }
}

/// The life of a command.
#[derive(Clone)]
pub struct Process {
    link: Arc<Link>,
}

impl Process {
    /// Waits until the command has ended, as far as the server says. Its output may still go on: a child that it left
    /// behind may hold it open.
    ///
    /// # Errors
    /// When the server refused the command, when the connection ended first, or when too much output waited.
    ///
    /// Cancel safe: nothing is lost.
    pub async fn wait(&self) -> Result<ExitStatus, ExecError> {
        let mut end = self.link.end();
        let end = end
            .wait_for(|end| end.status.is_some() || end.over || end.error.is_some())
            .await
            .expect("the link keeps the sender alive");
        match (&end.status, &end.error) {
            (Some(status), _) => Ok(status.clone()),
            (None, Some(error)) => Err(error.clone()),
            (None, None) => Ok(ExitStatus::Unknown),
        }
    }

    /// Waits until the channel is closed and nothing more can come. Cancel safe.
    pub async fn closed(&self) {
        let mut end = self.link.end();
        let _ = end.wait_for(|end| end.over).await;
    }

    /// How it ended, if it is known by now.
    pub fn status(&self) -> Option<ExitStatus> {
        self.link.end().borrow().status.clone()
    }

    /// The end of what came on standard error so far, at most 4 KiB, whether or not it was read.
    pub fn stderr_tail(&self) -> Vec<u8> {
        self.link.stderr_tail()
    }

    /// Asks the server to send the command a signal, named without `SIG`. Servers may ignore that: OpenSSH before 7.9
    /// does, and later ones where a command is forced.
    ///
    /// # Errors
    /// When the connection has ended.
    pub async fn signal(&self, name: &str) -> io::Result<()> {
        let signal = match name {
            "ABRT" => Sig::ABRT,
            "ALRM" => Sig::ALRM,
            "FPE" => Sig::FPE,
            "HUP" => Sig::HUP,
            "ILL" => Sig::ILL,
            "INT" => Sig::INT,
            "KILL" => Sig::KILL,
            "PIPE" => Sig::PIPE,
            "QUIT" => Sig::QUIT,
            "SEGV" => Sig::SEGV,
            "TERM" => Sig::TERM,
            "USR1" => Sig::USR1,
            other => Sig::Custom(other.to_owned()),
        };
        self.link.write.signal(signal).await.map_err(io::Error::other)
    }

    /// Ends the command as far as the protocol can: a KILL signal, and when a second later it has not ended by that,
    /// the channel is closed; then [`wait`](Self::wait) says [`ExitStatus::Unknown`].
    ///
    /// # Errors
    /// When the connection has ended, and with it the command's streams.
    pub async fn kill(&self) -> io::Result<()> {
        self.link.killed();
        self.signal("KILL").await
    }

    /// The session that it runs on.
    pub fn session(&self) -> &Session {
        self.link.session()
    }
}

/// A connection through a jump host, as the byte stream of the next connection.
pub(crate) fn tunnel(link: Arc<Link>) -> Join<Stdout, Stdin> {
    tokio::io::join(Stdout(Arc::clone(&link)), Stdin::new(link))
}
