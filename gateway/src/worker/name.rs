//! Names to addresses at a hub: the host's own `getent` is asked, since the worker is static and has no look-up that could be
//! trusted on every host.

use std::io;
use std::net::IpAddr;
use std::time::Duration;

use farcall_bootstrap::ssh::Family;

use super::background;
use super::child::{Launch, Output, SpawnError, Status};

/// How long a look-up may take.
const LIMIT: Duration = Duration::from_secs(10);

/// The most that is read of an answer, in bytes.
const ANSWER: usize = 64 * 1024;

/// The most addresses that are tried.
const ADDRESSES: usize = 32;

/// Why a name has no address.
#[derive(Debug, thiserror::Error)]
pub(super) enum NameError {
    #[error("{name:?} is no host name")]
    NoName { name: String },
    #[error(
        "the hub's host cannot look up names, since it has no getent: give the address of {name} instead"
    )]
    NoTool { name: String },
    #[error("the hub's host has no address for {name}")]
    Unknown { name: String },
    #[error("the hub's host has no address of the wanted family for {name}")]
    Family { name: String },
    #[error("the look-up of {name} on the hub's host took longer than {} s", LIMIT.as_secs())]
    Late { name: String },
    #[error("getent on the hub's host ended with {status:?} for {name}: give the address instead")]
    Failed { name: String, status: Status },
    #[error(
        "getent on the hub's host says {line:?} for {name}, which is no address: give the address instead"
    )]
    Nonsense { name: String, line: String },
    #[error("cannot run getent on the hub's host: {0}")]
    Run(#[source] io::Error),
}

/// The addresses of a name, in the order in which the host would try them; of an address itself.
///
/// Cancel-safe: a dropped look-up is killed.
pub(super) async fn addresses(name: &str, family: Family) -> Result<Vec<IpAddr>, NameError> {
    let bare = name.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')).unwrap_or(name);
    let found = match bare.parse() {
        Ok(address) => vec![address],
        Err(_) => ask(name).await?,
    };
    let found: Vec<IpAddr> = found.into_iter().filter(|address| family.takes(address)).collect();
    if found.is_empty() { Err(NameError::Family { name: name.into() }) } else { Ok(found) }
}

async fn ask(name: &str) -> Result<Vec<IpAddr>, NameError> {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b".-_".contains(&byte);
    if name.is_empty() || name.len() > 253 || name.starts_with('-') || !name.bytes().all(plain) {
        return Err(NameError::NoName { name: name.chars().take(253).collect() });
    }
    let name = name.to_owned();
    let launch = Launch::new("getent").args(["ahosts", &name]).stdout(Output::Piped).stderr(Output::Null);
    let started = background::blocking(move || launch.spawn()).await;
    let running = match started.map_err(NameError::Run)? {
        Ok(running) => running,
        Err(SpawnError::Step { source, .. }) if source.kind() == io::ErrorKind::NotFound => {
            return Err(NameError::NoTool { name });
        }
        Err(SpawnError::Step { source, .. }) => return Err(NameError::Run(source)),
        Err(SpawnError::NoRuntime) => {
            return Err(NameError::Run(io::Error::other("the worker is ending")));
        }
    };
    let Ok(collected) = tokio::time::timeout(LIMIT, running.collect(ANSWER)).await else {
        return Err(NameError::Late { name });
    };
    let collected = collected.map_err(NameError::Run)?;
    match collected.ended.status {
        Status::Code(0) => parse(&name, &collected.stdout),
        // getent(1): one or more of the names could not be found.
        Status::Code(2) => Err(NameError::Unknown { name }),
        status => Err(NameError::Failed { name, status }),
    }
}

/// Each line begins with an address, and those of one kind of socket repeat those of another.
fn parse(name: &str, answer: &[u8]) -> Result<Vec<IpAddr>, NameError> {
    let mut found: Vec<IpAddr> = Vec::new();
    for line in String::from_utf8_lossy(answer).lines() {
        let Some(word) = line.split_ascii_whitespace().next() else { continue };
        // Reachable by one interface of that host only, whose number has no meaning elsewhere.
        if word.contains('%') {
            continue;
        }
        let address = word
            .parse()
            .map_err(|_| NameError::Nonsense { name: name.into(), line: line.chars().take(80).collect() })?;
        if !found.contains(&address) && found.len() < ADDRESSES {
            found.push(address);
        }
    }
    if found.is_empty() { Err(NameError::Unknown { name: name.into() }) } else { Ok(found) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_address_of_an_answer_comes_once_and_in_order() {
        let answer = b"2001:db8::1     STREAM web1\n2001:db8::1     DGRAM  \nfe80::1%eth0    STREAM \n192.0.2.1       STREAM \n";
        let found = parse("web1", answer).unwrap();
        assert_eq!(found, ["2001:db8::1".parse::<IpAddr>().unwrap(), "192.0.2.1".parse().unwrap()]);
    }

    #[test]
    fn an_answer_that_is_none_is_an_error() {
        for answer in [&b"web1 has address 192.0.2.1\n"[..], b"192.0.2.1.5 STREAM\n"] {
            assert!(matches!(parse("web1", answer), Err(NameError::Nonsense { .. })));
        }
        assert!(matches!(parse("web1", b"\n"), Err(NameError::Unknown { .. })));
    }

    #[tokio::test]
    async fn addresses_need_nobody_and_odd_names_reach_nobody() {
        assert_eq!(addresses("[::1]", Family::Any).await.unwrap(), ["::1".parse::<IpAddr>().unwrap()]);
        assert!(matches!(addresses("127.0.0.1", Family::V6).await, Err(NameError::Family { .. })));
        for name in ["", "--help", "a b", "a;b", "\u{e9}", &"a".repeat(300)] {
            assert!(matches!(addresses(name, Family::Any).await, Err(NameError::NoName { .. })), "{name}");
        }
        let localhost = addresses("localhost", Family::Any).await.unwrap();
        assert!(localhost.iter().all(IpAddr::is_loopback), "{localhost:?}");
        assert!(matches!(
            addresses("no-such-name.invalid", Family::Any).await,
            Err(NameError::Unknown { .. })
        ));
    }
}
