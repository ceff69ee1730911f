//! Private keys from files, unlocked at most once.

use std::collections::HashMap;
use std::fmt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use russh::keys::{self, PrivateKey, PublicKey};
use zeroize::Zeroizing;

use super::options::{Prompter, Question, Secret};

/// A key file is not read beyond this many bytes; the largest RSA keys need a few thousand.
const FILE_LIMIT: u64 = 256 << 10;

/// Private keys that were unlocked, wiped from memory with the last clone. Clones are the same keyring.
///
/// It also is the queue in which questions wait: connections that share a keyring ask one at a time. A passphrase that was
/// declined, or wrong as often as it was asked for, is not asked for again: who declines for one of a hundred hosts is
/// not asked for the others. [`ask_again`](Self::ask_again) undoes that.
#[derive(Clone, Default)]
pub struct Keyring {
    shared: Arc<Shared>,
}

#[derive(Default)]
struct Shared {
    /// Held while a person is asked.
    asking: tokio::sync::Mutex<()>,
    keys: Mutex<HashMap<PathBuf, Known>>,
}

/// What came of a key.
#[derive(Clone)]
enum Known {
    Unlocked(Arc<PrivateKey>),
    /// The person declined to give its passphrase.
    Declined,
    /// The person gave wrong ones.
    Wrong,
}

impl Known {
    fn key(self) -> Result<Arc<PrivateKey>, KeyFileError> {
        match self {
            Known::Unlocked(key) => Ok(key),
            Known::Declined => Err(KeyFileError::Declined),
            Known::Wrong => Err(KeyFileError::Passphrase),
        }
    }
}

impl fmt::Debug for Keyring {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let keys = self.shared.keys.lock().unwrap_or_else(PoisonError::into_inner).len();
        f.debug_struct("Keyring").field("keys", &keys).finish()
    }
}

/// Why a key file cannot be used.
#[derive(Debug, thiserror::Error)]
pub(crate) enum KeyFileError {
    #[error("cannot be read")]
    Read(#[source] std::io::Error),
    #[error("is longer than a key")]
    Length,
    #[error("can be read by others (mode {0:o}), so it is not used")]
    Open(u32),
    #[error("is not a private key")]
    Format(#[source] keys::Error),
    #[error("is encrypted and nobody was there to give the passphrase")]
    Locked,
    #[error("is encrypted and the passphrase was not given when it was asked for")]
    Declined,
    #[error("is encrypted and the passphrase was wrong")]
    Passphrase,
}

/// A key file whose secret may still be locked.
#[derive(Debug)]
pub(crate) struct KeyFile {
    /// The public half, where it can be known without the passphrase.
    pub public: Option<PublicKey>,
    /// Whether the private half is there.
    pub private: bool,
}

/// Looks at a key file. `Ok(None)` when there is none.
pub(crate) fn look(path: &Path) -> Result<Option<KeyFile>, KeyFileError> {
    let text = match read(path) {
        Ok(text) => text,
        Err(KeyFileError::Read(e)) if e.kind() == std::io::ErrorKind::NotFound => {
            // The public half alone is enough where an agent has the private one.
            return Ok(public_beside(path).map(|public| KeyFile { public: Some(public), private: false }));
        }
        Err(e) => return Err(e),
    };
    // The OpenSSH format shows the public half of an encrypted key.
    let (public, private) = match PrivateKey::from_openssh(text.as_bytes()) {
        Ok(key) => (Some(key.public_key().clone()), true),
        Err(_) => match keys::decode_secret_key(&text, None) {
            Ok(key) => (Some(key.public_key().clone()), true),
            // A file that only holds a public key names one that an agent has.
            Err(keys::Error::CouldNotReadKey) => match PublicKey::from_openssh(&text) {
                Ok(public) => (Some(public), false),
                Err(_) => return Err(KeyFileError::Format(keys::Error::CouldNotReadKey)),
            },
            Err(_) => (public_beside(path), true),
        },
    };
    Ok(Some(KeyFile { public, private }))
}

fn public_beside(path: &Path) -> Option<PublicKey> {
    let mut name = path.as_os_str().to_owned();
    name.push(".pub");
    keys::load_public_key(Path::new(&name)).ok()
}

fn read(path: &Path) -> Result<Zeroizing<String>, KeyFileError> {
    let about = std::fs::metadata(path).map_err(KeyFileError::Read)?;
    if !about.is_file() || about.len() > FILE_LIMIT {
        return Err(KeyFileError::Length);
    }
    let text = Zeroizing::new(std::fs::read(path).map_err(KeyFileError::Read)?);
    let text = std::str::from_utf8(&text)
        .map_err(|_| KeyFileError::Format(keys::Error::CouldNotReadKey))?
        .to_owned();
    let text = Zeroizing::new(text);
    // As ssh does: a secret that others of this machine can read is not one. Other people's files are their affair.
    let mode = about.mode() & 0o777;
    let private = text.contains("PRIVATE KEY");
    if private && mode & 0o077 != 0 && about.uid() == rustix::process::getuid().as_raw() {
        return Err(KeyFileError::Open(mode));
    }
    Ok(text)
}

impl Keyring {
    /// Forgets which passphrases were declined or wrong, so that they are asked for again; keys that were unlocked stay.
    /// For programs that live on after a person has changed their mind.
    pub fn ask_again(&self) {
        self.lock().retain(|_, known| matches!(known, Known::Unlocked(_)));
    }

    /// The private key in `path`, asking for its passphrase up to `prompts` times where it has one.
    pub(crate) async fn unlock(
        &self,
        path: &Path,
        prompter: Option<&dyn Prompter>,
        prompts: u32,
    ) -> Result<Arc<PrivateKey>, KeyFileError> {
        if let Some(known) = self.known(path) {
            return known.key();
        }
        let text = read(path)?;
        match decode(&text, None).await {
            Ok(key) => return self.keep(path, Known::Unlocked(Arc::new(key))),
            Err(keys::Error::KeyIsEncrypted) => {}
            // PKCS#8 says of a missing passphrase what it says of a wrong one.
            Err(_) if text.contains("ENCRYPTED") => {}
            Err(e) => return Err(KeyFileError::Format(e)),
        }
        let Some(prompter) = prompter else { return Err(KeyFileError::Locked) };

        let _turn = self.shared.asking.lock().await;
        // Another connection may have asked meanwhile.
        if let Some(known) = self.known(path) {
            return known.key();
        }
        for failures in 0..prompts.max(1) {
            let question = Question::Passphrase { key: path.to_owned(), failures };
            let Some(passphrase) = prompter.ask(question).await else {
                return self.keep(path, Known::Declined);
            };
            if let Ok(key) = decode(&text, Some(passphrase)).await {
                return self.keep(path, Known::Unlocked(Arc::new(key)));
            }
        }
        self.keep(path, Known::Wrong)
    }

    /// Asks in turn with all other questions.
    pub(crate) async fn ask(&self, prompter: &dyn Prompter, question: Question) -> Option<Secret> {
        let _turn = self.shared.asking.lock().await;
        prompter.ask(question).await
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<PathBuf, Known>> {
        self.shared.keys.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn known(&self, path: &Path) -> Option<Known> {
        self.lock().get(path).cloned()
    }

    fn keep(&self, path: &Path, known: Known) -> Result<Arc<PrivateKey>, KeyFileError> {
        self.lock().insert(path.to_owned(), known.clone());
        known.key()
    }
}

/// Decodes on a blocking thread: the usual key derivation takes a tenth of a second on purpose.
async fn decode(text: &Zeroizing<String>, passphrase: Option<Secret>) -> Result<PrivateKey, keys::Error> {
    let text = text.clone();
    let work = move || keys::decode_secret_key(&text, passphrase.as_ref().map(Secret::expose));
    tokio::task::spawn_blocking(work).await.unwrap_or(Err(keys::Error::CouldNotReadKey))
}
