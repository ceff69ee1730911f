//! Our side of the SSH protocol's callbacks: the server's key, its words, and the channels it may not open.

use std::sync::{Arc, Mutex, PoisonError};

use russh::client::{self, ChannelOpenHandle, DisconnectReason, Msg};
use russh::keys::{PublicKey, PublicKeyOrCertificate, ssh_encoding};
use russh::{Channel, ChannelId, Error};

use super::dial::keep_tail;
use super::gate::Unsettled;
use super::host_key::{Accepted, HostKeyError, HostKeys};

/// What went wrong inside the protocol.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ProtocolError {
    #[error(transparent)]
    HostKey(HostKeyError),
    #[error(transparent)]
    Ssh(#[from] Error),
}

/// The server says something that is not UTF-8. The standard wants UTF-8, and the library ends a connection on anything else.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "the server's words (its banner, a question, or why it leaves) are not UTF-8, and such are not read here"
)]
pub(crate) struct NotText;

impl NotText {
    pub(crate) fn is(error: &Error) -> bool {
        matches!(error, Error::SshEncoding(ssh_encoding::Error::CharacterEncoding))
    }
}

/// What the protocol's task learns and others want to know.
#[derive(Debug, Default)]
pub(crate) struct Report {
    /// The end of what the server said in words: its banner and its reason for leaving.
    pub said: Vec<u8>,
    /// Why the connection ended.
    pub ended: Option<String>,
    /// Whether that was for words that cannot be read.
    pub not_text: bool,
    /// The server's key was let through although it contradicts what is known.
    pub unverified: bool,
}

/// Shared with the protocol's task. Locked for moments, never across an await.
pub(crate) type SharedReport = Arc<Mutex<Report>>;

pub(crate) struct Client {
    host_keys: HostKeys,
    report: SharedReport,
    unsettled: Unsettled,
}

impl Client {
    pub(crate) fn new(host_keys: HostKeys, report: SharedReport, unsettled: Unsettled) -> Self {
        Self { host_keys, report, unsettled }
    }

    fn report(&self) -> std::sync::MutexGuard<'_, Report> {
        self.report.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl client::Handler for Client {
    type Error = ProtocolError;

    async fn check_server_key(&mut self, shown: &PublicKeyOrCertificate) -> Result<bool, ProtocolError> {
        let (host_keys, key, certificate) =
            (self.host_keys.clone(), shown.public_key(), shown.certificate().cloned());
        let judging = tokio::task::spawn_blocking(move || host_keys.judge(&key, certificate.as_ref()));
        match judging.await {
            Ok(Ok(Accepted::Trusted)) => Ok(true),
            Ok(Ok(Accepted::Unverified)) => {
                self.report().unverified = true;
                Ok(true)
            }
            Ok(Err(e)) => Err(ProtocolError::HostKey(e)),
            // The runtime is being shut down: what was not judged is not accepted.
            Err(_) => Ok(false),
        }
    }

    async fn auth_banner(&mut self, banner: &str, _: &mut client::Session) -> Result<(), ProtocolError> {
        keep_tail(&mut self.report().said, banner.as_bytes());
        Ok(())
    }

    async fn disconnected(&mut self, reason: DisconnectReason<ProtocolError>) -> Result<(), ProtocolError> {
        let mut report = self.report();
        match reason {
            DisconnectReason::ReceivedDisconnect(info) => {
                keep_tail(&mut report.said, info.message.as_bytes());
                keep_tail(&mut report.said, b"\n");
                report.ended = Some(format!("the server left ({:?})", info.reason_code));
            }
            DisconnectReason::Error(ProtocolError::Ssh(e)) if NotText::is(&e) => {
                report.ended = Some(NotText.to_string());
                report.not_text = true;
            }
            DisconnectReason::Error(e) => report.ended = Some(e.to_string()),
        }
        Ok(())
    }

    // Both come from the process that serves us after authentication. OpenSSH announces its keys as its first act, so
    // that there is no need to ask for a sign.

    async fn openssh_ext_host_keys_announced(
        &mut self,
        _: Vec<PublicKey>,
        _: &mut client::Session,
    ) -> Result<(), ProtocolError> {
        self.unsettled.settle();
        Ok(())
    }

    async fn channel_open_confirmation(
        &mut self,
        _: ChannelId,
        _: u32,
        _: u32,
        _: &mut client::Session,
    ) -> Result<(), ProtocolError> {
        self.unsettled.settle();
        Ok(())
    }

    // Nothing was asked for that would let a server open channels. The library accepts them unless told otherwise; a
    // handle that is dropped refuses.

    async fn server_channel_open_forwarded_tcpip(
        &mut self,
        _: Channel<Msg>,
        _: &str,
        _: u32,
        _: &str,
        _: u32,
        reply: ChannelOpenHandle,
        _: &mut client::Session,
    ) -> Result<(), ProtocolError> {
        drop(reply);
        Ok(())
    }

    async fn server_channel_open_forwarded_streamlocal(
        &mut self,
        _: Channel<Msg>,
        _: &str,
        reply: ChannelOpenHandle,
        _: &mut client::Session,
    ) -> Result<(), ProtocolError> {
        drop(reply);
        Ok(())
    }

    async fn server_channel_open_agent_forward(
        &mut self,
        _: Channel<Msg>,
        reply: ChannelOpenHandle,
        _: &mut client::Session,
    ) -> Result<(), ProtocolError> {
        drop(reply);
        Ok(())
    }

    async fn server_channel_open_session(
        &mut self,
        _: Channel<Msg>,
        reply: ChannelOpenHandle,
        _: &mut client::Session,
    ) -> Result<(), ProtocolError> {
        drop(reply);
        Ok(())
    }

    async fn server_channel_open_direct_tcpip(
        &mut self,
        _: Channel<Msg>,
        _: &str,
        _: u32,
        _: &str,
        _: u32,
        reply: ChannelOpenHandle,
        _: &mut client::Session,
    ) -> Result<(), ProtocolError> {
        drop(reply);
        Ok(())
    }

    async fn server_channel_open_direct_streamlocal(
        &mut self,
        _: Channel<Msg>,
        _: &str,
        reply: ChannelOpenHandle,
        _: &mut client::Session,
    ) -> Result<(), ProtocolError> {
        drop(reply);
        Ok(())
    }

    async fn server_channel_open_x11(
        &mut self,
        _: Channel<Msg>,
        _: &str,
        _: u32,
        reply: ChannelOpenHandle,
        _: &mut client::Session,
    ) -> Result<(), ProtocolError> {
        drop(reply);
        Ok(())
    }
}
