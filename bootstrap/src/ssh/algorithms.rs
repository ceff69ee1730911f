//! Which algorithms are offered to a server, in which order.

use std::borrow::Cow;

use russh::keys::{Algorithm, EcdsaCurve, HashAlg};
use russh::{Preferred, cipher, compression, kex, mac};

use super::config::{AlgorithmSettings, Config};
use super::pattern::{self, list_matches};

/// Key exchange, post-quantum first.
const KEX: &[kex::Name] = &[
    kex::MLKEM768X25519_SHA256,
    kex::CURVE25519,
    kex::CURVE25519_PRE_RFC_8731,
    kex::ECDH_SHA2_NISTP256,
    kex::ECDH_SHA2_NISTP384,
    kex::ECDH_SHA2_NISTP521,
    kex::DH_GEX_SHA256,
    kex::DH_G16_SHA512,
    kex::DH_G18_SHA512,
    kex::DH_G14_SHA256,
];

/// Not algorithms, but how both sides say that they know RFC 8308 and the strict key exchange.
const KEX_EXTENSIONS: &[kex::Name] =
    &[kex::EXTENSION_SUPPORT_AS_CLIENT, kex::EXTENSION_OPENSSH_STRICT_KEX_AS_CLIENT];

/// Ciphers. AES-GCM is hardware's work where there is any: 900 against 550 MiB/s for ChaCha20 on the machine where
/// this was measured.
const CIPHERS: &[cipher::Name] = &[
    cipher::AES_256_GCM,
    cipher::AES_128_GCM,
    cipher::CHACHA20_POLY1305,
    cipher::AES_256_CTR,
    cipher::AES_192_CTR,
    cipher::AES_128_CTR,
];

const MACS: &[mac::Name] = &[mac::HMAC_SHA256_ETM, mac::HMAC_SHA512_ETM, mac::HMAC_SHA256, mac::HMAC_SHA512];

/// Host keys, the same order as OpenSSH's.
const HOST_KEYS: &[Algorithm] = &[
    Algorithm::Ed25519,
    Algorithm::Ecdsa { curve: EcdsaCurve::NistP256 },
    Algorithm::Ecdsa { curve: EcdsaCurve::NistP384 },
    Algorithm::Ecdsa { curve: EcdsaCurve::NistP521 },
    Algorithm::Rsa { hash: Some(HashAlg::Sha512) },
    Algorithm::Rsa { hash: Some(HashAlg::Sha256) },
];

/// None of the algorithms that the configuration names is one that we have.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("{keyword} leaves no algorithm that is supported here: {value}")]
pub(crate) struct NoneLeft {
    keyword: &'static str,
    value: String,
}

/// What is known of a server's keys before it shows one.
#[derive(Clone, Debug, Default)]
pub(crate) struct KnownAlgorithms {
    /// The algorithms of keys that are known for it.
    pub keys: Vec<Algorithm>,
    /// Whether an authority is known that may vouch for it.
    pub authority: bool,
}

/// What to offer. Algorithms of keys that are already known come first, so that a server with several keys shows one
/// that can be checked; certificates only where an authority is known that could have signed them.
pub(crate) fn preferred(config: &Config, known: &KnownAlgorithms) -> Result<Preferred, NoneLeft> {
    let settings = &config.algorithms;
    let kex_list =
        choose("KexAlgorithms", settings.kex.as_deref(), KEX, |name| kex::Name::try_from(name).ok())?;
    let (certificates, keys) = host_keys(settings, known)?;
    let compressions: &[compression::Name] = if config.compression {
        &[compression::ZLIB_LEGACY, compression::ZLIB, compression::NONE]
    } else {
        &[compression::NONE]
    };
    Ok(Preferred {
        kex: kex_list.into_iter().chain(KEX_EXTENSIONS.iter().copied()).collect(),
        key: Cow::Owned(keys),
        host_key_certificates: Cow::Owned(certificates),
        cipher: choose("Ciphers", settings.cipher.as_deref(), CIPHERS, |name| {
            cipher::Name::try_from(name).ok()
        })?
        .into(),
        mac: choose("MACs", settings.mac.as_deref(), MACS, |name| mac::Name::try_from(name).ok())?.into(),
        compression: Cow::Borrowed(compressions),
    })
}

fn host_keys(
    settings: &AlgorithmSettings,
    known: &KnownAlgorithms,
) -> Result<(Vec<Algorithm>, Vec<Algorithm>), NoneLeft> {
    // With names of their own, certificates and keys are told apart here.
    let usual: Vec<Offer> = HOST_KEYS
        .iter()
        .cloned()
        .map(Offer::Certificate)
        .chain(HOST_KEYS.iter().cloned().map(Offer::Key))
        .collect();
    let chosen = choose("HostKeyAlgorithms", settings.host_key.as_deref(), &usual, Offer::from_name)?;
    let (mut certificates, mut keys) = (Vec::new(), Vec::new());
    for offer in chosen {
        match offer {
            Offer::Certificate(algorithm) => certificates.push(algorithm),
            Offer::Key(algorithm) => keys.push(algorithm),
        }
    }
    // A stable sort: among the known and among the others the order stays. Also where a list is given: `ssh -G` prints
    // what became of `+ssh-rsa` as if somebody had written it out, and there ssh prefers what is known too.
    keys.sort_by_key(|algorithm| !known.keys.iter().any(|key| same_key(key, algorithm)));
    // Who allows certificates alone gets no plain key in their place.
    if !known.authority && !keys.is_empty() {
        certificates.clear();
    }
    Ok((certificates, keys))
}

/// Whether a key of one algorithm can sign by the other: RSA keys sign by either hash.
fn same_key(a: &Algorithm, b: &Algorithm) -> bool {
    match (a, b) {
        (Algorithm::Rsa { .. }, Algorithm::Rsa { .. }) => true,
        (a, b) => a == b,
    }
}

#[derive(Clone, Debug, PartialEq)]
enum Offer {
    Certificate(Algorithm),
    Key(Algorithm),
}

impl Offer {
    fn from_name(name: &str) -> Option<Self> {
        let (plain, certificate) = match name.strip_suffix("-cert-v01@openssh.com") {
            Some(plain) => (plain, true),
            None => (name, false),
        };
        // Algorithms without a name of ours could not be verified.
        let algorithm = match Algorithm::new(plain).ok()? {
            known @ (Algorithm::Ed25519 | Algorithm::Ecdsa { .. } | Algorithm::Rsa { .. }) => known,
            _ => return None,
        };
        Some(if certificate { Offer::Certificate(algorithm) } else { Offer::Key(algorithm) })
    }

    fn name(&self) -> String {
        match self {
            Offer::Certificate(algorithm) => algorithm.to_certificate_type(),
            Offer::Key(algorithm) => algorithm.to_string(),
        }
    }
}

/// The algorithms of certificates' signatures that are trusted, by name.
pub(crate) fn ca_signatures(settings: &AlgorithmSettings) -> Result<Vec<Algorithm>, NoneLeft> {
    let parse = |name: &str| Algorithm::new(name).ok();
    choose("CASignatureAlgorithms", settings.ca_signature.as_deref(), HOST_KEYS, parse)
}

/// Which signatures the configuration lets keys make (`PubkeyAcceptedAlgorithms`); all that we can make where it says nothing.
pub(crate) struct AcceptedKeys<'a>(Option<&'a str>);

impl<'a> AcceptedKeys<'a> {
    pub(crate) fn of(settings: &'a AlgorithmSettings) -> Self {
        Self(settings.public_key.as_deref())
    }

    /// Whether a signature of this name may be made. RSA goes by the hash, certificates have names of their own.
    fn allows(&self, name: &str) -> bool {
        match self.0.map(|list| (list.split_at_checked(1), list)) {
            // All of ours are usual ones, so there is nothing to add to them.
            None | Some((Some(("+" | "^", _)), _)) => true,
            Some((Some(("-", rest)), _)) => !list_matches(rest.split(',').map(str::trim), name),
            Some((_, list)) => list_matches(list.split(',').map(str::trim), name),
        }
    }

    /// Whether a key other than RSA, or a certificate of it, may be used.
    pub(crate) fn allows_key(&self, key: &Algorithm, certified: bool) -> bool {
        self.allows(&key_name(key, certified))
    }

    /// The hashes that an RSA key may sign with, best first.
    pub(crate) fn rsa_hashes(&self, certified: bool) -> Vec<HashAlg> {
        let name = |hash: &HashAlg| key_name(&Algorithm::Rsa { hash: Some(*hash) }, certified);
        let mut hashes = vec![HashAlg::Sha512, HashAlg::Sha256];
        hashes.retain(|hash| self.allows(&name(hash)));
        if let Some(list) = self.0.filter(|list| !list.starts_with(['+', '-'])) {
            let wishes: Vec<&str> = list.trim_start_matches('^').split(',').map(str::trim).collect();
            hashes.sort_by_key(|hash| {
                wishes.iter().position(|wish| pattern::matches(wish, &name(hash))).unwrap_or(usize::MAX)
            });
        }
        hashes
    }
}

fn key_name(key: &Algorithm, certified: bool) -> String {
    if certified { key.to_certificate_type() } else { key.to_string() }
}

/// Has a name by which a configuration lists it.
trait Named {
    fn named(&self, pattern: &str) -> bool;
}

impl Named for Offer {
    fn named(&self, pattern: &str) -> bool {
        super::pattern::matches(pattern, &self.name())
    }
}

impl Named for Algorithm {
    fn named(&self, pattern: &str) -> bool {
        super::pattern::matches(pattern, self.as_ref())
    }
}

macro_rules! named {
    ($($name:ty),*) => {$(
        impl Named for $name {
            fn named(&self, pattern: &str) -> bool {
                super::pattern::matches(pattern, self.as_ref())
            }
        }
    )*};
}
named!(kex::Name, cipher::Name, mac::Name);

/// Reads a list of names: `a,b` as it stands, `+a` after the usual ones, `^a` before them, `-a*` without these. Names that
/// we do not have are passed over, as long as something is left.
fn choose<T: Clone + PartialEq + Named>(
    keyword: &'static str,
    value: Option<&str>,
    usual: &[T],
    parse: impl Fn(&str) -> Option<T>,
) -> Result<Vec<T>, NoneLeft> {
    let Some(value) = value else { return Ok(usual.to_vec()) };
    let names = |text: &str| -> Vec<T> { text.split(',').filter_map(|name| parse(name.trim())).collect() };
    let mut chosen: Vec<T> = match value.split_at_checked(1) {
        Some(("+", rest)) => usual.iter().cloned().chain(names(rest)).collect(),
        Some(("^", rest)) => names(rest).into_iter().chain(usual.iter().cloned()).collect(),
        Some(("-", rest)) => usual
            .iter()
            .filter(|algorithm| !rest.split(',').any(|pattern| algorithm.named(pattern.trim())))
            .cloned()
            .collect(),
        _ => names(value),
    };
    let mut at = 0;
    while at < chosen.len() {
        if chosen[..at].contains(&chosen[at]) {
            chosen.remove(at);
        } else {
            at += 1;
        }
    }
    if chosen.is_empty() {
        return Err(NoneLeft { keyword, value: value.to_owned() });
    }
    Ok(chosen)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ciphers(value: &str) -> Result<Vec<&'static str>, NoneLeft> {
        let parse = |name: &str| cipher::Name::try_from(name).ok();
        let chosen = choose("Ciphers", Some(value), CIPHERS, parse)?;
        Ok(chosen
            .iter()
            .map(|c| CIPHERS.iter().find(|k| *k == c).map_or("other", |k| leak(k.as_ref())))
            .collect())
    }

    fn leak(text: &str) -> &'static str {
        Box::leak(text.to_owned().into_boxed_str())
    }

    #[test]
    fn lists_with_every_sign() {
        let usual: Vec<_> = CIPHERS.iter().map(|c| leak(c.as_ref())).collect();
        assert_eq!(ciphers("aes128-ctr,unknown,aes128-ctr").expect("one"), ["aes128-ctr"]);
        assert_eq!(ciphers("^aes128-ctr").expect("all")[..2], ["aes128-ctr", usual[0]]);
        assert_eq!(ciphers("+aes128-cbc").expect("all").len(), usual.len() + 1);
        assert_eq!(ciphers("-aes*").expect("one"), ["chacha20-poly1305@openssh.com"]);
        assert!(ciphers("unknown").is_err() && ciphers("-*").is_err());
    }

    #[test]
    fn signatures_that_keys_may_make() {
        let settings = |list: &str| AlgorithmSettings { public_key: Some(list.into()), ..Default::default() };
        let hashes = |list: &str, certified| AcceptedKeys::of(&settings(list)).rsa_hashes(certified);
        let ed25519 = |list: &str, certified| {
            AcceptedKeys::of(&settings(list)).allows_key(&Algorithm::Ed25519, certified)
        };
        let (both, other) = ([HashAlg::Sha512, HashAlg::Sha256], [HashAlg::Sha256, HashAlg::Sha512]);
        let silent = AlgorithmSettings::default();
        assert!(AcceptedKeys::of(&silent).allows_key(&Algorithm::Ed25519, true));
        assert_eq!(AcceptedKeys::of(&silent).rsa_hashes(false), both);
        for (list, plain, certified) in [
            ("ssh-ed25519", true, false),
            ("ssh-ed25519*", true, true),
            ("rsa-*, ssh-ed25519-cert-v01@openssh.com", false, true),
            ("*,!ssh-ed25519", false, true),
            ("-ssh-ed25519", false, true),
            ("-ecdsa-*,ssh-ed25519*", false, false),
            ("+ssh-rsa", true, true),
            ("^ssh-rsa", true, true),
        ] {
            assert_eq!((ed25519(list, false), ed25519(list, true)), (plain, certified), "{list}");
        }
        assert_eq!(hashes("rsa-sha2-256,rsa-sha2-512", false), other);
        assert_eq!(hashes("^rsa-sha2-256", false), other);
        assert_eq!(hashes("rsa-*", false), both);
        assert_eq!(hashes("-rsa-sha2-512", false), [HashAlg::Sha256]);
        assert_eq!(hashes("-rsa-sha2-512", true), both);
        assert_eq!(hashes("rsa-sha2-256", true), []);
        assert_eq!(hashes("rsa-sha2-512-cert-v01@openssh.com", true), [HashAlg::Sha512]);
        assert_eq!(hashes("ssh-ed25519", false), []);
    }

    #[test]
    fn known_keys_come_first_and_certificates_only_with_an_authority() {
        let settings = AlgorithmSettings::default();
        let known = KnownAlgorithms { keys: vec![Algorithm::Rsa { hash: None }], authority: false };
        let (certificates, keys) = host_keys(&settings, &known).expect("some");
        assert!(certificates.is_empty());
        assert_eq!(keys[..3], [HOST_KEYS[4].clone(), HOST_KEYS[5].clone(), HOST_KEYS[0].clone()]);
        let (certificates, keys) =
            host_keys(&settings, &KnownAlgorithms { authority: true, ..known }).expect("some");
        assert_eq!((certificates.len(), keys.len()), (6, 6));
        let named = AlgorithmSettings {
            host_key: Some("ssh-ed25519,rsa-sha2-512-cert-v01@openssh.com,ssh-dss".into()),
            ..settings
        };
        let authority = KnownAlgorithms { authority: true, ..KnownAlgorithms::default() };
        let (certificates, keys) = host_keys(&named, &authority).expect("some");
        assert_eq!((certificates, keys), (vec![HOST_KEYS[4].clone()], vec![Algorithm::Ed25519]));
        let (certificates, keys) = host_keys(&named, &KnownAlgorithms::default()).expect("some");
        assert_eq!((certificates, keys), (vec![], vec![Algorithm::Ed25519]));
        let certified =
            AlgorithmSettings { host_key: Some("ssh-ed25519-cert-v01@openssh.com".into()), ..named };
        let (certificates, keys) = host_keys(&certified, &KnownAlgorithms::default()).expect("some");
        assert_eq!((certificates, keys), (vec![Algorithm::Ed25519], vec![]));
    }
}
