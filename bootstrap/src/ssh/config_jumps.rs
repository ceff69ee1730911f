//! The hosts that a `ProxyJump` names.

use super::config::{ConfigError, bad, check_host, check_user};
use super::expand::{ExpandError, Tokens};
use super::options::SshTarget;

/// Reads `[user@]host[:port]` and `ssh://` addresses, separated by commas, and expands the tokens in them.
///
/// In this order, as ssh does it: what a token stands for cannot add a host or change who is asked.
pub(crate) fn parse(text: &str, tokens: &Tokens) -> Result<Vec<SshTarget>, ConfigError> {
    let expand = |name: &str| -> Result<String, ConfigError> {
        let keyword = "ProxyJump";
        tokens.jump_name(name).map_err(|source: ExpandError| ConfigError::Expand { keyword, source })
    };
    text.split(',')
        .map(|hop| {
            let hop = hop.trim();
            let failed = || bad("ProxyJump", hop);
            let address = hop.strip_prefix("ssh://").map_or(hop, |rest| rest.trim_end_matches('/'));
            let (user, place) = match address.rsplit_once('@') {
                Some((user, place)) => (Some(user), place),
                None => (None, address),
            };
            let (host, port) = if let Some(rest) = place.strip_prefix('[') {
                let (host, after) = rest.split_once(']').ok_or_else(failed)?;
                (
                    host,
                    if after.is_empty() { None } else { Some(after.strip_prefix(':').ok_or_else(failed)?) },
                )
            } else {
                match place.rsplit_once(':') {
                    // More colons than one: an address of version 6 without brackets.
                    Some((host, port)) if !host.contains(':') => (host, Some(port)),
                    _ => (place, None),
                }
            };
            let port = port.map(|port| port.parse().map_err(|_| failed())).transpose()?;
            let (user, host) = (user.map(expand).transpose()?, expand(host)?);
            check_host(&host)?;
            user.as_deref().map(check_user).transpose()?;
            Ok(SshTarget { host, user, port })
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(text: &str, original: &str) -> Result<Vec<String>, ConfigError> {
        let tokens = Tokens {
            original: original.into(),
            host: "fe80::1%lo".into(),
            port: 2222,
            user: "me@home".into(),
            key_alias: "webs".into(),
            ..Tokens::default()
        };
        Ok(parse(text, &tokens)?.iter().map(ToString::to_string).collect())
    }

    #[test]
    fn names_have_tokens() {
        assert_eq!(parsed("a,u@b:22, ssh://c:1/", "web").expect("plain"), ["a", "u@b:22", "c:1"]);
        let all = parsed("%r@jump-%n:7,[%h]:8,p%p-%k,x%%y", "web").expect("known tokens");
        assert_eq!(all, ["me@home@jump-web:7", "[fe80::1%lo]:8", "p2222-webs", "x%y"]);
    }

    #[test]
    fn what_a_token_stands_for_is_no_structure() {
        let one = parsed("jump-%n", "a,b").expect("one odd name");
        assert_eq!(one, ["jump-a,b"]);
        let one =
            parse("%n", &Tokens { original: "u@h:1".into(), ..Tokens::default() }).expect("one odd name");
        assert_eq!((one[0].host.as_str(), &one[0].user, one[0].port), ("u@h:1", &None, None));
        for (text, original) in [("%n", "-oProxyCommand=x"), ("%n", "a;b"), ("%n", ""), ("%n@h", "a b")] {
            assert!(parsed(text, original).is_err(), "{text} {original}");
        }
        for text in ["%z", "a%", "a:%p", "%d@a"] {
            assert!(parsed(text, "web").is_err(), "{text}");
        }
    }
}
