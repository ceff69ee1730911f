//! The proofs that a server is given: a person's answers, and signatures of keys.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};

use russh::keys::agent::AgentIdentity;
use russh::keys::agent::client::AgentClient;
use russh::keys::ssh_key::private::KeypairData;
use russh::keys::{self, HashAlg, PrivateKey, signature};
use russh::{SendError, Signer};
use tokio::net::UnixStream;

use super::clock::Clock;
use super::identity::SignedBy;
use super::keyring::{KeyFileError, Keyring};
use super::options::{Prompter, Question, Secret};

/// Asks a person while the clock stands still.
pub(super) struct Asker<'a> {
    pub prompter: Option<&'a dyn Prompter>,
    pub keyring: &'a Keyring,
    pub prompts: u32,
    pub clock: &'a Clock,
    /// Whether a question was answered.
    pub asked: AtomicBool,
    /// Whether the agent has been asked for a signature and has not answered.
    pub waits_for_agent: AtomicBool,
}

impl Asker<'_> {
    pub(super) async fn ask(&self, question: Question) -> Option<Secret> {
        let prompter = self.prompter?;
        let answer = self.clock.paused(self.keyring.ask(prompter, question)).await;
        self.asked.fetch_or(answer.is_some(), Relaxed);
        answer
    }

    pub(super) async fn unlock(&self, path: &Path) -> Result<Arc<PrivateKey>, KeyFileError> {
        self.clock.paused(self.keyring.unlock(path, self.prompter, self.prompts)).await
    }
}

/// Signs when the server has said that it would accept the key, and not before: a passphrase is asked for only then.
pub(super) struct KeySigner<'a> {
    pub signed_by: SignedBy,
    pub agent: Option<&'a mut AgentClient<UnixStream>>,
    pub asker: &'a Asker<'a>,
}

#[derive(Debug, thiserror::Error)]
pub(super) enum SignError {
    #[error("the connection ended")]
    Gone,
    #[error("the agent did not sign: {0}")]
    Agent(keys::Error),
    #[error("{0}")]
    File(#[from] KeyFileError),
    #[error("the key does not sign")]
    Key,
}

impl From<SendError> for SignError {
    fn from(_: SendError) -> Self {
        SignError::Gone
    }
}

impl Signer for KeySigner<'_> {
    type Error = SignError;

    /// Returns the data with the signature appended, as the library wants it.
    async fn auth_sign(
        &mut self,
        _: &AgentIdentity,
        hash: Option<HashAlg>,
        mut data: Vec<u8>,
    ) -> Result<Vec<u8>, SignError> {
        match &self.signed_by {
            SignedBy::Agent(identity) => {
                let agent = self.agent.as_mut().ok_or(SignError::Key)?;
                self.asker.waits_for_agent.store(true, Relaxed);
                let signed = agent.sign_request(identity, hash, data).await;
                self.asker.waits_for_agent.store(false, Relaxed);
                signed.map_err(SignError::Agent)
            }
            SignedBy::File(path) => {
                let key = self.asker.unlock(path).await?;
                let signature = sign(&key, hash, &data).map_err(|_| SignError::Key)?;
                data.extend_from_slice(
                    &u32::try_from(signature.len()).map_err(|_| SignError::Key)?.to_be_bytes(),
                );
                data.extend_from_slice(&signature);
                Ok(data)
            }
        }
    }
}

fn sign(key: &PrivateKey, hash: Option<HashAlg>, data: &[u8]) -> Result<Vec<u8>, signature::Error> {
    use russh::keys::ssh_encoding::Encode;
    use signature::Signer as _;

    let signature: keys::ssh_key::Signature = match key.key_data() {
        KeypairData::Rsa(pair) => (pair, hash).try_sign(data)?,
        _ => key.try_sign(data)?,
    };
    let mut out = Vec::new();
    signature.encode(&mut out).map_err(|_| signature::Error::new())?;
    Ok(out)
}
