//! How long an RSA key must be: `RequiredRSASize` of a configuration.

use russh::keys::ssh_key::public::KeyData;

/// An RSA key with fewer bits than are asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("it has {bits} bits, and RequiredRSASize asks for {required}")]
pub struct ShortKey {
    /// How many it has.
    pub bits: u32,
    /// How many it must have.
    pub required: u32,
}

/// Whether `key` is long enough. Other kinds of keys have one length each.
pub(crate) fn check(key: &KeyData, required: u32) -> Result<(), ShortKey> {
    let KeyData::Rsa(rsa) = key else { return Ok(()) };
    // A number without its leading zeros: the library counts whole bytes.
    let modulus = rsa.n().as_positive_bytes().unwrap_or_default();
    let unused = modulus.first().map_or(0, |byte| byte.leading_zeros());
    let bits = rsa.key_size().saturating_sub(unused);
    if bits < required { Err(ShortKey { bits, required }) } else { Ok(()) }
}
