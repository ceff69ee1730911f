//! Key revocation lists in their binary form, as `ssh-keygen -k` makes them: whether one names a key or a certificate.
//!
//! The form is described in OpenSSH's PROTOCOL.krl. What cannot be understood is an error and not passed over, since it might
//! revoke the key in question. Signatures are not checked: as with OpenSSH, a list is trusted because the configuration
//! names its file.

use russh::keys::ssh_key::public::KeyData;
use russh::keys::{Certificate, PublicKey};
use sha1::{Digest, Sha1};
use sha2::Sha256;

/// How every such list begins.
const MAGIC: &[u8] = b"SSHKRL\n\0";

const VERSION: u32 = 1;

mod section {
    pub(super) const CERTIFICATES: u8 = 1;
    pub(super) const EXPLICIT_KEY: u8 = 2;
    pub(super) const FINGERPRINT_SHA1: u8 = 3;
    pub(super) const SIGNATURE: u8 = 4;
    pub(super) const FINGERPRINT_SHA256: u8 = 5;
    pub(super) const EXTENSION: u8 = 255;
}

/// Parts of the section about certificates.
mod certificates {
    pub(super) const SERIAL_LIST: u8 = 0x20;
    pub(super) const SERIAL_RANGE: u8 = 0x21;
    pub(super) const SERIAL_BITMAP: u8 = 0x22;
    pub(super) const KEY_ID: u8 = 0x23;
    pub(super) const EXTENSION: u8 = 0x39;
}

/// Why a list cannot be used.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub(crate) enum KrlError {
    #[error("it ends in the middle")]
    Truncated,
    #[error("its version is {0}, and only {VERSION} is known")]
    Version(u32),
    #[error("it has a part of the unknown kind {0}")]
    Part(u8),
    #[error("it has a critical extension that is not known")]
    Extension,
    #[error("the key to look for cannot be written")]
    Key,
}

/// Whether a file's content is such a list.
pub(crate) fn is_krl(content: &[u8]) -> bool {
    content.starts_with(MAGIC)
}

/// Whether `list` revokes `key`, the certificate that it came in, or the authority that signed that.
pub(crate) fn revokes(
    list: &[u8],
    key: &KeyData,
    certificate: Option<&Certificate>,
) -> Result<bool, KrlError> {
    let authority = certificate.map(|certificate| Blob::of(certificate.signature_key())).transpose()?;
    let keys: Vec<Blob> = [Blob::of(key)?].into_iter().chain(authority.clone()).collect();
    let certificate = certificate.zip(authority.as_ref());

    let mut rest = Reader(list.strip_prefix(MAGIC).ok_or(KrlError::Truncated)?);
    match rest.u32()? {
        VERSION => {}
        version => return Err(KrlError::Version(version)),
    }
    let (_number, _made, _flags) = (rest.u64()?, rest.u64()?, rest.u64()?);
    let (_reserved, _comment) = (rest.string()?, rest.string()?);
    let mut revoked = false;
    // To the end, whatever is found: a damaged list says nothing that can be relied on.
    while !rest.is_empty() {
        let (kind, mut part) = (rest.u8()?, rest.part()?);
        revoked |= match kind {
            section::CERTIFICATES => revokes_certificate(part, certificate)?,
            section::EXPLICIT_KEY => part.any(|blob| keys.iter().any(|key| key.bytes == blob))?,
            section::FINGERPRINT_SHA1 => part.any(|hash| keys.iter().any(|key| key.sha1 == hash))?,
            section::FINGERPRINT_SHA256 => part.any(|hash| keys.iter().any(|key| key.sha256 == hash))?,
            section::SIGNATURE => rest.string().map(|_signature| false)?,
            section::EXTENSION => part.extension()?,
            other => return Err(KrlError::Part(other)),
        };
    }
    Ok(revoked)
}

fn revokes_certificate(
    mut rest: Reader<'_>,
    certificate: Option<(&Certificate, &Blob)>,
) -> Result<bool, KrlError> {
    let (authority, _reserved) = (rest.string()?, rest.string()?);
    // Without an authority it is about the certificates of all.
    let certificate = certificate
        .filter(|(_, signed_by)| authority.is_empty() || authority == signed_by.bytes)
        .map(|(certificate, _)| certificate);
    // Zero is what authorities write that do not count.
    let serial = certificate.map(Certificate::serial).filter(|&serial| serial != 0);
    let id = certificate.map(|certificate| certificate.key_id().as_bytes());
    let mut revoked = false;
    while !rest.is_empty() {
        let (kind, mut part) = (rest.u8()?, rest.part()?);
        revoked |= match kind {
            certificates::SERIAL_LIST => {
                let mut listed = false;
                while !part.is_empty() {
                    listed |= Some(part.u64()?) == serial;
                }
                listed
            }
            certificates::SERIAL_RANGE => {
                let range = part.u64()?..=part.u64()?;
                serial.is_some_and(|serial| range.contains(&serial))
            }
            certificates::SERIAL_BITMAP => {
                let (first, bits) = (part.u64()?, part.string()?);
                serial.and_then(|serial| serial.checked_sub(first)).is_some_and(|bit| has_bit(bits, bit))
            }
            certificates::KEY_ID => part.any(|listed| Some(listed) == id)?,
            certificates::EXTENSION => part.extension()?,
            other => return Err(KrlError::Part(other)),
        };
    }
    Ok(revoked)
}

/// Whether a bit of a large number is set; its last byte has the lowest.
fn has_bit(number: &[u8], bit: u64) -> bool {
    let byte = usize::try_from(bit / 8).ok().and_then(|back| number.iter().rev().nth(back));
    byte.is_some_and(|byte| byte >> (bit % 8) & 1 == 1)
}

/// A key in the forms in which a list may name it.
#[derive(Clone)]
struct Blob {
    bytes: Vec<u8>,
    sha1: [u8; 20],
    sha256: [u8; 32],
}

impl Blob {
    fn of(key: &KeyData) -> Result<Self, KrlError> {
        let bytes = PublicKey::new(key.clone(), "").to_bytes().map_err(|_| KrlError::Key)?;
        let (sha1, sha256) = (Sha1::digest(&bytes).into(), Sha256::digest(&bytes).into());
        Ok(Self { bytes, sha1, sha256 })
    }
}

/// What is left to read.
struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    fn take<const N: usize>(&mut self) -> Result<[u8; N], KrlError> {
        let (taken, rest) = self.0.split_first_chunk().ok_or(KrlError::Truncated)?;
        self.0 = rest;
        Ok(*taken)
    }

    fn u8(&mut self) -> Result<u8, KrlError> {
        self.take::<1>().map(|[byte]| byte)
    }

    fn u32(&mut self) -> Result<u32, KrlError> {
        self.take().map(u32::from_be_bytes)
    }

    fn u64(&mut self) -> Result<u64, KrlError> {
        self.take().map(u64::from_be_bytes)
    }

    fn string(&mut self) -> Result<&'a [u8], KrlError> {
        let length = usize::try_from(self.u32()?).map_err(|_| KrlError::Truncated)?;
        let (string, rest) = self.0.split_at_checked(length).ok_or(KrlError::Truncated)?;
        self.0 = rest;
        Ok(string)
    }

    fn part(&mut self) -> Result<Reader<'a>, KrlError> {
        self.string().map(Reader)
    }

    /// Whether one of the strings that are left is `wanted`.
    fn any(&mut self, wanted: impl Fn(&[u8]) -> bool) -> Result<bool, KrlError> {
        let mut found = false;
        while !self.is_empty() {
            found |= wanted(self.string()?);
        }
        Ok(found)
    }

    /// An extension, which may be disregarded if it says so. It revokes nothing that we know of.
    fn extension(&mut self) -> Result<bool, KrlError> {
        let (_name, critical, _content) = (self.string()?, self.u8()?, self.string()?);
        if critical == 0 { Ok(false) } else { Err(KrlError::Extension) }
    }
}

#[cfg(test)]
#[path = "krl_tests.rs"]
mod tests;
