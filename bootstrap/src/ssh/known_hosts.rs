//! Known hosts files: what they say of one host.

use std::path::{Path, PathBuf};

use hmac::{Hmac, KeyInit, Mac};
use russh::keys::PublicKey;
use russh::keys::ssh_key::known_hosts::{Entry, HostPatterns, Marker};
use russh::keys::ssh_key::public::KeyData;
use sha1::Sha1;

use super::pattern;

/// Files larger than this are not read: nobody has so many hosts, and reading may not exhaust memory.
const FILE_LIMIT: u64 = 64 << 20;

/// Where a key stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Place {
    pub file: PathBuf,
    /// Counted from 1.
    pub line: usize,
    /// Whether the line names its hosts literally or by a hash, so that `ssh-keygen -R` finds it.
    pub literal: bool,
}

/// A key that a file has for the host.
#[derive(Clone, Debug)]
pub(crate) struct Known {
    pub key: PublicKey,
    pub place: Place,
}

/// A line about the host, or possibly about it, that cannot be read. It is no reason to disregard the others.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct BadLine {
    pub file: PathBuf,
    pub line: usize,
}

/// All that the files have for one name.
#[derive(Clone, Debug, Default)]
pub(crate) struct KnownHosts {
    pub keys: Vec<Known>,
    pub authorities: Vec<Known>,
    pub revoked: Vec<Known>,
    pub bad: Vec<BadLine>,
}

/// What the files say of a key, or of the authority behind a certificate.
#[derive(Clone, Debug)]
pub(crate) enum Standing<'a> {
    Known,
    /// Nothing is known for this host.
    New,
    /// Other keys are known, this one not.
    Changed(&'a Known),
    Revoked(&'a Known),
}

impl KnownHosts {
    /// Reads `files` in order and keeps what applies to `name`: a host, or `[host]:port`. A file that is absent says
    /// nothing; one that cannot be read says nothing either and is reported, as OpenSSH does.
    pub(crate) fn read(files: &[PathBuf], name: &str) -> Self {
        let name = name.to_ascii_lowercase();
        let mut found = Self::default();
        for file in files {
            match read(file) {
                Ok(text) => found.scan(file, &String::from_utf8_lossy(&text), &name),
                Err(e) if e.kind() == std::io::ErrorKind::NotFound => {}
                Err(e) => {
                    tracing::warn!(file = %file.display(), error = %e, "known hosts file cannot be read")
                }
            }
        }
        found
    }

    fn scan(&mut self, file: &Path, text: &str, name: &str) {
        for (number, line) in text.lines().enumerate() {
            let line = line.trim();
            if line.is_empty() || line.starts_with('#') {
                continue;
            }
            let mut words = line.split_ascii_whitespace();
            let first = words.next().unwrap_or_default();
            let (marker, hosts) = if first.starts_with('@') {
                (Some(first), words.next().unwrap_or_default())
            } else {
                (None, first)
            };
            // Decided before the key is looked at: an unreadable key of another host is none of our business.
            let Some(literal) = applies(hosts, name) else { continue };
            let bad = BadLine { file: file.to_owned(), line: number + 1 };
            let (Some(kind), Some(key)) = (words.next(), words.next()) else {
                self.bad.push(bad);
                continue;
            };
            // Written anew with single spaces and without the comment: the parser knows neither tabs nor runs of spaces.
            let mut plain = String::new();
            for word in marker.into_iter().chain([hosts, kind, key]) {
                if !plain.is_empty() {
                    plain.push(' ');
                }
                plain.push_str(word);
            }
            let Ok(entry) = plain.parse::<Entry>() else {
                tracing::warn!(file = %file.display(), line = bad.line, "line of a known hosts file cannot be read");
                self.bad.push(bad);
                continue;
            };
            let place = Place { file: bad.file, line: bad.line, literal };
            let known = Known { key: entry.public_key().clone(), place };
            match entry.marker() {
                None => self.keys.push(known),
                Some(Marker::CertAuthority) => self.authorities.push(known),
                Some(Marker::Revoked) => self.revoked.push(known),
            }
        }
    }

    /// What is known of a plain key. As in OpenSSH, a host of which other keys are known, be they of another type, has
    /// changed.
    pub(crate) fn standing(&self, key: &KeyData) -> Standing<'_> {
        if let Some(revoked) = self.revoked(key) {
            return Standing::Revoked(revoked);
        }
        if self.keys.iter().any(|known| known.key.key_data() == key) {
            return Standing::Known;
        }
        // A key of the same type is the one that was replaced, if there is one.
        let same = self.keys.iter().find(|known| known.key.algorithm() == key.algorithm());
        same.or(self.keys.last()).map_or(Standing::New, Standing::Changed)
    }

    /// What is known of the authority that signed a certificate, whose own key is `key`.
    pub(crate) fn standing_of_authority(&self, key: &KeyData, authority: &KeyData) -> Standing<'_> {
        if let Some(revoked) = self.revoked(key).or_else(|| self.revoked(authority)) {
            return Standing::Revoked(revoked);
        }
        if self.authorities.iter().any(|known| known.key.key_data() == authority) {
            return Standing::Known;
        }
        Standing::New
    }

    fn revoked(&self, key: &KeyData) -> Option<&Known> {
        self.revoked.iter().find(|known| known.key.key_data() == key)
    }
}

fn read(file: &Path) -> std::io::Result<Vec<u8>> {
    let about = std::fs::metadata(file)?;
    // /dev/null is a usual value; a pipe would block.
    if !about.is_file() {
        return Ok(Vec::new());
    }
    if about.len() > FILE_LIMIT {
        return Err(std::io::ErrorKind::FileTooLarge.into());
    }
    std::fs::read(file)
}

/// Whether the host field selects `name`, and if so, whether it does so without wildcards.
fn applies(hosts: &str, name: &str) -> Option<bool> {
    let patterns: HostPatterns = hosts.parse().ok()?;
    match patterns {
        HostPatterns::HashedName { salt, hash } => (hash_name(&salt, name) == hash).then_some(true),
        HostPatterns::Patterns(patterns) => {
            let patterns: Vec<String> = patterns.iter().map(|p| p.to_ascii_lowercase()).collect();
            pattern::list_matches(patterns.iter().map(String::as_str), name)
                .then(|| patterns.iter().any(|p| p == name))
        }
    }
}

/// The hash under which OpenSSH hides a host name.
pub(crate) fn hash_name(salt: &[u8], name: &str) -> [u8; 20] {
    let mut mac = Hmac::<Sha1>::new_from_slice(salt).expect("HMAC takes keys of any length");
    mac.update(name.as_bytes());
    mac.finalize().into_bytes().into()
}

/// The name of a host in these files: with its port where that is not the usual one.
pub(crate) fn name_with_port(host: &str, port: u16) -> String {
    let host = host.to_ascii_lowercase();
    if port == 22 { host } else { format!("[{host}]:{port}") }
}

#[cfg(test)]
#[path = "known_hosts_tests.rs"]
mod tests;
