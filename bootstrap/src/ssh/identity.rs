//! The keys that are tried, in the order of `ssh`.

use std::path::{Path, PathBuf};

use russh::keys::agent::AgentIdentity;
use russh::keys::ssh_key::certificate::CertType;
use russh::keys::ssh_key::public::KeyData;
use russh::keys::{Certificate, PublicKey};

use super::config::Config;
use super::keyring;

/// A key or certificate to show, and who can sign for it.
#[derive(Clone, Debug)]
pub(crate) struct Identity {
    pub shown: Shown,
    pub signer: SignedBy,
}

/// What the server is shown.
#[derive(Clone, Debug)]
pub(crate) enum Shown {
    Key(PublicKey),
    Certificate(Box<Certificate>),
    /// A file that must be unlocked before its public half is known.
    Locked,
}

/// Who has the private half.
#[derive(Debug, Clone)]
pub(crate) enum SignedBy {
    /// The agent, by the identity that it lists.
    Agent(Box<AgentIdentity>),
    File(PathBuf),
}

impl Identity {
    /// How it is named to a person: the file, or the agent's comment and fingerprint.
    pub(crate) fn label(&self) -> String {
        match &self.signer {
            SignedBy::File(path) => path.display().to_string(),
            SignedBy::Agent(identity) => {
                let key = identity.public_key();
                format!("the agent's {}", key.fingerprint(russh::keys::HashAlg::Sha256))
            }
        }
    }
}

/// A key that the configuration names.
struct Listed {
    path: PathBuf,
    public: Option<PublicKey>,
    private_exists: bool,
}

/// Collects what is to be tried:
/// 1. certificates that the configuration names, or that lie beside its keys;
/// 2. certificates that the agent holds;
/// 3. the agent's keys that the configuration names;
/// 4. the agent's other keys, unless `IdentitiesOnly`;
/// 5. keys from files.
///
/// What is wrong with files is appended to `problems`: one bad file is no reason not to try the others.
pub(crate) fn gather(config: &Config, held: &[AgentIdentity], problems: &mut Vec<String>) -> Vec<Identity> {
    let mut listed = Vec::new();
    for path in &config.identity_files {
        match keyring::look(path) {
            Ok(None) => {}
            Ok(Some(file)) => {
                listed.push(Listed { path: path.clone(), public: file.public, private_exists: file.private })
            }
            Err(e) => problems.push(format!("{} {e}", path.display())),
        }
    }
    let mut found = Vec::new();
    for certificate in certificates(config, problems) {
        let key = certificate.public_key();
        let signer = match held.iter().find(|identity| is_key(identity, key)) {
            Some(identity) => Some(SignedBy::Agent(Box::new(identity.clone()))),
            None => listed
                .iter()
                .find(|file| file.private_exists && file.public.as_ref().is_some_and(|p| p.key_data() == key))
                .map(|file| SignedBy::File(file.path.clone())),
        };
        if let Some(signer) = signer {
            found.push(Identity { shown: Shown::Certificate(Box::new(certificate)), signer });
        }
    }

    let named =
        |key: &KeyData| listed.iter().any(|file| file.public.as_ref().is_some_and(|p| p.key_data() == key));
    let from_agent = |identity: &AgentIdentity| Identity {
        shown: match identity {
            AgentIdentity::PublicKey { key, .. } => Shown::Key(key.clone()),
            AgentIdentity::Certificate { certificate, .. } => {
                Shown::Certificate(Box::new(certificate.clone()))
            }
        },
        signer: SignedBy::Agent(Box::new(identity.clone())),
    };
    let (certified, plain): (Vec<_>, Vec<_>) =
        held.iter().partition(|identity| matches!(identity, AgentIdentity::Certificate { .. }));
    for identity in certified {
        if !config.identities_only || named(identity.public_key().key_data()) {
            found.push(from_agent(identity));
        }
    }
    let (wanted, others): (Vec<_>, Vec<_>) =
        plain.into_iter().partition(|identity| named(identity.public_key().key_data()));
    // In the order of the configuration.
    for file in &listed {
        let Some(public) = &file.public else { continue };
        found.extend(wanted.iter().filter(|i| is_key(i, public.key_data())).take(1).map(|i| from_agent(i)));
    }
    if !config.identities_only {
        found.extend(others.iter().map(|identity| from_agent(identity)));
    }
    for file in listed {
        let in_agent = file.public.as_ref().is_some_and(|p| wanted.iter().any(|i| is_key(i, p.key_data())));
        if file.private_exists && !in_agent {
            let shown = file.public.map_or(Shown::Locked, Shown::Key);
            found.push(Identity { shown, signer: SignedBy::File(file.path) });
        }
    }
    found
}

fn is_key(identity: &AgentIdentity, key: &KeyData) -> bool {
    matches!(identity, AgentIdentity::PublicKey { key: held, .. } if held.key_data() == key)
}

/// The certificates that the configuration names, then those beside its keys, each once.
fn certificates(config: &Config, problems: &mut Vec<String>) -> Vec<Certificate> {
    let mut found: Vec<Certificate> = Vec::new();
    let beside = config.identity_files.iter().map(|path| {
        let mut name = path.as_os_str().to_owned();
        name.push("-cert.pub");
        (PathBuf::from(name), false)
    });
    for (path, named) in config.certificate_files.iter().map(|path| (path.clone(), true)).chain(beside) {
        match read_certificate(&path) {
            Ok(certificate) if certificate.cert_type() != CertType::User => {
                problems.push(format!("{} is not a certificate for users", path.display()));
            }
            Ok(certificate) if found.contains(&certificate) => {}
            Ok(certificate) => found.push(certificate),
            Err(e) if !named && e.kind() == std::io::ErrorKind::NotFound => {}
            Err(e) => problems.push(format!("{}: {e}", path.display())),
        }
    }
    found
}

fn read_certificate(path: &Path) -> std::io::Result<Certificate> {
    let text = std::fs::read_to_string(path)?;
    let line = text.lines().map(str::trim).find(|line| !line.is_empty() && !line.starts_with('#'));
    Certificate::from_openssh(line.unwrap_or_default()).map_err(std::io::Error::other)
}
