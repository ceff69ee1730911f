//! Keys and certificates, made by `ssh-keygen`.

use std::path::{Path, PathBuf};
use std::process::Command;

/// A type of key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum KeyKind {
    /// Ed25519.
    Ed25519,
    /// RSA with 2048 bits.
    Rsa,
    /// ECDSA on the curve P-256.
    Ecdsa,
}

impl KeyKind {
    fn arguments(self) -> &'static [&'static str] {
        match self {
            KeyKind::Ed25519 => &["-t", "ed25519"],
            KeyKind::Rsa => &["-t", "rsa", "-b", "2048"],
            KeyKind::Ecdsa => &["-t", "ecdsa", "-b", "256"],
        }
    }
}

/// A key pair in files.
#[derive(Clone, Debug)]
pub struct KeyPair {
    path: PathBuf,
    public: String,
}

impl KeyPair {
    /// Makes a pair in `path` and `path.pub`.
    pub fn generate(path: impl Into<PathBuf>, kind: KeyKind, passphrase: &str) -> Self {
        Self::generate_with(path, kind, passphrase, &[])
    }

    /// Makes a pair with further arguments for `ssh-keygen`, such as `-m PEM`.
    pub fn generate_with(path: impl Into<PathBuf>, kind: KeyKind, passphrase: &str, more: &[&str]) -> Self {
        let path = path.into();
        keygen(
            Command::new("ssh-keygen")
                .arg("-q")
                .args(kind.arguments())
                .args(more)
                .args(["-C", "", "-N", passphrase])
                .arg("-f")
                .arg(&path),
        );
        Self::read(path)
    }

    fn read(path: PathBuf) -> Self {
        let text =
            std::fs::read_to_string(with_suffix(&path, ".pub")).expect("ssh-keygen wrote the public half");
        let public = text.split_whitespace().take(2).collect::<Vec<_>>().join(" ");
        Self { path, public }
    }

    /// The private half's file.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The public half's file.
    pub fn public_path(&self) -> PathBuf {
        with_suffix(&self.path, ".pub")
    }

    /// The public half, `type base64`, as known hosts and authorized keys files have it.
    pub fn public(&self) -> &str {
        &self.public
    }

    /// The file of the certificate that [`Authority::certify`] makes for this key.
    pub fn certificate_path(&self) -> PathBuf {
        with_suffix(&self.path, "-cert.pub")
    }
}

fn with_suffix(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(suffix);
    PathBuf::from(name)
}

/// A key that signs certificates.
#[derive(Clone, Debug)]
pub struct Authority(pub KeyPair);

/// What a certificate says.
#[derive(Clone, Copy, Debug, Default)]
pub struct Certify<'a> {
    /// Whether it is for a host; for a user otherwise.
    pub host: bool,
    /// The names it is valid for, separated by commas; any when empty.
    pub principals: &'a str,
    /// The times it is valid at, as `ssh-keygen -V` wants them; always when empty.
    pub validity: &'a str,
    /// Further arguments for `ssh-keygen`.
    pub more: &'a [&'a str],
}

impl Authority {
    /// Makes an authority with its key in `path`.
    pub fn generate(path: impl Into<PathBuf>, kind: KeyKind) -> Self {
        Self(KeyPair::generate(path, kind, ""))
    }

    /// Signs a certificate for `key` and writes it beside it.
    pub fn certify(&self, key: &KeyPair, what: Certify<'_>) {
        let mut command = Command::new("ssh-keygen");
        command.args(["-q", "-I", "farcall test"]).arg("-s").arg(self.0.path());
        if what.host {
            command.arg("-h");
        }
        if !what.principals.is_empty() {
            command.args(["-n", what.principals]);
        }
        if !what.validity.is_empty() {
            command.args(["-V", what.validity]);
        }
        keygen(command.args(what.more).arg(key.public_path()));
    }
}

fn keygen(command: &mut Command) {
    let output = command.output().expect("ssh-keygen must be installed (openssh-client)");
    assert!(output.status.success(), "ssh-keygen: {}", String::from_utf8_lossy(&output.stderr));
}
