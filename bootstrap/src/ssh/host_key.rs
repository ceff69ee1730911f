//! Whether a server's key is accepted.

use std::fmt;
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use russh::keys::ssh_key::certificate::CertType;
use russh::keys::ssh_key::public::KeyData;
use russh::keys::{Algorithm, Certificate, HashAlg, PublicKey};

use super::algorithms::{self, KnownAlgorithms, NoneLeft};
use super::config::{Config, Strictness};
use super::key_length::{self, ShortKey};
use super::known_hosts::{KnownHosts, Place, Standing, name_with_port};
use super::krl;
use super::remedy::Whereabouts;
use super::remember::{self, Remembered};

/// Why a server's key was not accepted.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum HostKeyError {
    /// No key is known for the host.
    #[error("no key is known for {name}, which shows {shown}{}", because(.certificate))]
    Unknown {
        /// The host as known hosts files name it.
        name: String,
        /// What it showed.
        shown: ShownKey,
        /// Why its certificate, if it showed one, was of no use.
        certificate: Option<CertificateProblem>,
    },
    /// Another key is known for the host: it was replaced, or somebody else answers.
    #[error(
        "{name} shows {shown}, but {file}:{line} has another key for it{}",
        because(.certificate), file = .file.display()
    )]
    Changed {
        /// The host as known hosts files name it.
        name: String,
        /// What it showed.
        shown: ShownKey,
        /// The file that has another key.
        file: PathBuf,
        /// The line in it, counted from 1.
        line: usize,
        /// Why its certificate, if it showed one, was of no use.
        certificate: Option<CertificateProblem>,
    },
    /// The key, or the authority that vouches for it, was revoked.
    #[error("{name} shows {shown}, which {} revokes", at(.file, .line))]
    Revoked {
        /// The host as known hosts files name it.
        name: String,
        /// What it showed.
        shown: ShownKey,
        /// The file that revokes it.
        file: PathBuf,
        /// The line in it, counted from 1, where that is known.
        line: Option<usize>,
    },
    /// It is too short to be trusted.
    #[error("{name} shows {shown}: {short}")]
    Short {
        /// The host as known hosts files name it.
        name: String,
        /// What it showed.
        shown: ShownKey,
        /// By how much.
        short: ShortKey,
    },
    /// The list of revoked keys cannot be used, so no key can be trusted.
    #[error("the list of revoked keys in {} cannot be used: {reason}", file.display())]
    RevocationList {
        /// The list.
        file: PathBuf,
        /// Why.
        reason: String,
    },
    /// The configuration's list of algorithms for certificates has none that we know.
    #[error("no certificate can be checked")]
    Algorithms {
        /// What the configuration says.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
}

fn because(problem: &Option<CertificateProblem>) -> String {
    problem.as_ref().map(|problem| format!(" (its certificate: {problem})")).unwrap_or_default()
}

fn at(file: &Path, line: &Option<usize>) -> String {
    match line {
        Some(line) => format!("{}:{line}", file.display()),
        None => file.display().to_string(),
    }
}

/// A key as people compare it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ShownKey {
    /// Its type, such as `ssh-ed25519`.
    pub kind: Box<str>,
    /// Its fingerprint, `SHA256:` with base64.
    pub fingerprint: Box<str>,
    /// The key itself in base64, as known hosts files have it.
    pub key: Box<str>,
}

impl fmt::Display for ShownKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "the {} key {}", self.kind, self.fingerprint)
    }
}

impl ShownKey {
    fn of(key: &KeyData) -> Self {
        let text = PublicKey::new(key.clone(), "").to_openssh().unwrap_or_default();
        Self {
            kind: key.algorithm().to_string().into(),
            fingerprint: key.fingerprint(HashAlg::Sha256).to_string().into(),
            key: text.split(' ').nth(1).unwrap_or_default().into(),
        }
    }
}

/// Why a certificate does not vouch for a host.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum CertificateProblem {
    /// It was signed by an authority that is not known for this host.
    #[error("signed by an authority that is not known for this host")]
    Authority,
    /// It is for users, not hosts.
    #[error("not one for hosts")]
    Kind,
    /// Its time has not come, or is over.
    #[error("not valid at this time")]
    Time,
    /// It names other hosts.
    #[error("for other hosts")]
    Principal,
    /// It has conditions that are not understood.
    #[error("has conditions that are not understood")]
    CriticalOption,
    /// Its signature is by an algorithm that is not trusted.
    #[error("signed by an algorithm that is not trusted")]
    Algorithm,
    /// Its signature is wrong.
    #[error("its signature is wrong")]
    Signature,
}

/// How a key was accepted.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Accepted {
    /// It is known, or was new and is now remembered.
    Trusted,
    /// It contradicts what is known and was let through on request: no secret may be shown to this host.
    Unverified,
}

/// Judges the keys of one host.
#[derive(Clone, Debug)]
pub(crate) struct HostKeys {
    /// The name with the port, or the alias.
    name: String,
    /// The name without the port, which is asked next, as OpenSSH does.
    bare: Option<String>,
    /// Against which a certificate's names are compared.
    principal: String,
    files: Vec<PathBuf>,
    user_file: Option<PathBuf>,
    hash_names: bool,
    revoked_file: Option<PathBuf>,
    strictness: Strictness,
    required_rsa_bits: u32,
    ca_algorithms: Vec<Algorithm>,
}

impl HostKeys {
    pub(crate) fn new(config: &Config) -> Result<Self, NoneLeft> {
        let (name, bare) = match &config.host_key_alias {
            Some(alias) => (alias.clone(), None),
            None if config.port == 22 => (name_with_port(&config.host, 22), None),
            None => (name_with_port(&config.host, config.port), Some(config.host.to_ascii_lowercase())),
        };
        Ok(Self {
            name,
            bare,
            principal: config.host_key_alias.clone().unwrap_or_else(|| config.host.to_ascii_lowercase()),
            files: config.user_known_hosts.iter().chain(&config.global_known_hosts).cloned().collect(),
            user_file: config.user_known_hosts.first().cloned(),
            hash_names: config.hash_known_hosts,
            revoked_file: config.revoked_host_keys.clone(),
            strictness: config.strictness,
            required_rsa_bits: config.required_rsa_bits,
            ca_algorithms: algorithms::ca_signatures(&config.algorithms)?,
        })
    }

    /// What is known before the server shows anything.
    pub(crate) fn known_algorithms(&self) -> KnownAlgorithms {
        let mut known = KnownHosts::read(&self.files, &self.name);
        if known.keys.is_empty()
            && known.authorities.is_empty()
            && let Some(bare) = &self.bare
        {
            known = KnownHosts::read(&self.files, bare);
        }
        KnownAlgorithms {
            keys: known.keys.iter().map(|known| known.key.algorithm()).collect(),
            authority: !known.authorities.is_empty(),
        }
    }

    /// Decides, and remembers a new key where that is wanted.
    ///
    /// Reads files, and may wait for another program to have written one.
    pub(crate) fn judge(
        &self,
        key: &PublicKey,
        certificate: Option<&Certificate>,
    ) -> Result<Accepted, HostKeyError> {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
        key_length::check(key.key_data(), self.required_rsa_bits).map_err(|short| HostKeyError::Short {
            name: self.name.clone(),
            shown: ShownKey::of(key.key_data()),
            short,
        })?;
        self.check_revocation_list(key.key_data(), certificate)?;
        let known = KnownHosts::read(&self.files, &self.name);
        let bare = self.bare.as_ref().map(|bare| KnownHosts::read(&self.files, bare));

        // A certificate that does not vouch, for whatever reason but revocation, leaves the key in it to be judged
        // as a plain one. That is OpenSSH's rule, and lets a site move to certificates step by step.
        let mut problem = None;
        if let Some(certificate) = certificate {
            for known in [Some(&known), bare.as_ref()].into_iter().flatten() {
                match self.check_certificate(certificate, known, now) {
                    Ok(()) => return Ok(Accepted::Trusted),
                    Err(Refusal::Revoked(place)) => return Err(self.revoked(key, &place)),
                    Err(Refusal::Problem(CertificateProblem::Authority)) if problem.is_some() => {}
                    Err(Refusal::Problem(found)) => problem = Some(found),
                }
            }
        }

        match known.standing(key.key_data()) {
            Standing::Known => return Ok(Accepted::Trusted),
            Standing::Revoked(by) => return Err(self.revoked(key, &by.place)),
            Standing::Changed(other) => return self.changed(key, &other.place, problem),
            Standing::New => {}
        }
        match bare.as_ref().map(|bare| bare.standing(key.key_data())) {
            Some(Standing::Known) => return Ok(Accepted::Trusted),
            Some(Standing::Revoked(by)) => return Err(self.revoked(key, &by.place)),
            // Another key for the bare name is about another server of that host.
            Some(Standing::Changed(_) | Standing::New) | None => {}
        }
        if self.strictness == Strictness::Strict {
            return Err(HostKeyError::Unknown {
                name: self.name.clone(),
                shown: ShownKey::of(key.key_data()),
                certificate: problem,
            });
        }
        let Some(file) = &self.user_file else { return Ok(Accepted::Trusted) };
        match remember::append(file, &self.files, &self.name, key, self.hash_names) {
            Ok(Remembered::Now | Remembered::Already) => Ok(Accepted::Trusted),
            // Another connection was first, and was shown another key.
            Ok(Remembered::Contradicted(place)) => self.changed(key, &place, problem),
            Err(e) => {
                tracing::warn!(file = %file.display(), error = %e, "the new host key could not be remembered");
                Ok(Accepted::Trusted)
            }
        }
    }

    fn check_certificate(
        &self,
        certificate: &Certificate,
        known: &KnownHosts,
        now: u64,
    ) -> Result<(), Refusal> {
        let authority = certificate.signature_key();
        match known.standing_of_authority(certificate.public_key(), authority) {
            Standing::Known => {}
            Standing::Revoked(by) => return Err(Refusal::Revoked(by.place.clone())),
            Standing::New | Standing::Changed(_) => {
                return Err(Refusal::Problem(CertificateProblem::Authority));
            }
        }
        let refuse = |problem| Err(Refusal::Problem(problem));
        if certificate.cert_type() != CertType::Host {
            return refuse(CertificateProblem::Kind);
        }
        if now < certificate.valid_after() || now >= certificate.valid_before() {
            return refuse(CertificateProblem::Time);
        }
        // No names at all means any host (PROTOCOL.certkeys). Names are compared as they are, without wildcards.
        let names = certificate.valid_principals();
        if !names.is_empty() && !names.contains(&self.principal) {
            return refuse(CertificateProblem::Principal);
        }
        // There are no critical options for hosts, so any is one that is not understood.
        if certificate.critical_options().iter().next().is_some() {
            return refuse(CertificateProblem::CriticalOption);
        }
        if !self.ca_algorithms.contains(&certificate.signature().algorithm()) {
            return refuse(CertificateProblem::Algorithm);
        }
        // The library's own check has the last word: signature, time and authority once more.
        match certificate.validate_at(now, [&authority.fingerprint(HashAlg::Sha256)]) {
            Ok(()) => Ok(()),
            Err(_) => refuse(CertificateProblem::Signature),
        }
    }

    fn check_revocation_list(
        &self,
        key: &KeyData,
        certificate: Option<&Certificate>,
    ) -> Result<(), HostKeyError> {
        let Some(file) = &self.revoked_file else { return Ok(()) };
        let unusable = |reason: String| HostKeyError::RevocationList { file: file.clone(), reason };
        let text = std::fs::read(file).map_err(|e| unusable(e.to_string()))?;
        let revoked = |line| {
            let (name, shown) = (self.name.clone(), ShownKey::of(key));
            Err(HostKeyError::Revoked { name, shown, file: file.clone(), line })
        };
        if krl::is_krl(&text) {
            let named = krl::revokes(&text, key, certificate).map_err(|e| unusable(e.to_string()))?;
            return if named { revoked(None) } else { Ok(()) };
        }
        for (number, line) in String::from_utf8_lossy(&text).lines().enumerate() {
            let line = line.trim();
            if line.is_empty() || line.starts_with('#') {
                continue;
            }
            let listed =
                PublicKey::from_openssh(line).map_err(|_| unusable(format!("line {}", number + 1)))?;
            let listed = listed.key_data();
            if listed == key || certificate.is_some_and(|certificate| certificate.signature_key() == listed) {
                return revoked(Some(number + 1));
            }
        }
        Ok(())
    }

    fn revoked(&self, key: &PublicKey, place: &Place) -> HostKeyError {
        HostKeyError::Revoked {
            name: self.name.clone(),
            shown: ShownKey::of(key.key_data()),
            file: place.file.clone(),
            line: Some(place.line),
        }
    }

    fn changed(
        &self,
        key: &PublicKey,
        place: &Place,
        certificate: Option<CertificateProblem>,
    ) -> Result<Accepted, HostKeyError> {
        if self.strictness == Strictness::Off {
            return Ok(Accepted::Unverified);
        }
        Err(HostKeyError::Changed {
            name: self.name.clone(),
            shown: ShownKey::of(key.key_data()),
            file: place.file.clone(),
            line: place.line,
            certificate,
        })
    }

    /// What a person can do about `error`.
    pub(crate) fn remedy(&self, error: &HostKeyError) -> Option<String> {
        let known = Whereabouts {
            name: &self.name,
            principal: &self.principal,
            files: &self.files,
            user_file: self.user_file.as_deref(),
            hash_names: self.hash_names,
        };
        known.remedy(error)
    }
}

enum Refusal {
    Revoked(Place),
    Problem(CertificateProblem),
}
