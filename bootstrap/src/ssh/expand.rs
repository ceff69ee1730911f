//! The `~`, `%` and `${}` of file names in a configuration.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::LazyLock;

use hmac::digest::Digest;
use sha1::Sha1;

/// What the tokens stand for.
#[derive(Clone, Debug, Default)]
pub(crate) struct Tokens {
    /// `~` and `%d`: the local home folder, where it is known.
    pub home: Option<PathBuf>,
    /// `%u`: the local account.
    pub local_user: String,
    /// `%i`: its number.
    pub local_id: u32,
    /// `%l`: this machine's name.
    pub local_host: String,
    /// `%n`: the host as the user wrote it.
    pub original: String,
    /// `%h`: the host to connect to.
    pub host: String,
    /// `%p`: its port.
    pub port: u16,
    /// `%r`: the account there.
    pub user: String,
    /// `%k`: the host's name for its keys.
    pub key_alias: String,
    /// `%j`: the ProxyJump setting, or nothing.
    pub jump: String,
    /// `${NAME}`.
    pub environment: BTreeMap<String, String>,
}

/// Why a value cannot be expanded.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub(crate) enum ExpandError {
    #[error("unknown token %{0} in {1:?}")]
    Unknown(char, String),
    #[error("a lone % at the end of {0:?}")]
    Lone(String),
    #[error("what %{0} stands for in {1:?} has characters that a shell would read")]
    Shell(char, String),
    #[error("the variable {0} of {1:?} was not given")]
    Variable(String, String),
    #[error("the home folder of {0:?} is not known")]
    Home(String),
}

const COMMAND_TOKENS: &str = "hknpr";

fn mentions(value: &str, token: char) -> bool {
    let mut chars = value.chars();
    while let Some(c) = chars.next() {
        if c == '%' && chars.next() == Some(token) {
            return true;
        }
    }
    false
}

impl Tokens {
    /// Expands the value of a setting that names a file.
    pub(crate) fn path(&self, value: &str) -> Result<PathBuf, ExpandError> {
        let value = self.variables(value)?;
        let value = self.percent(&value, "dhijklnpruLC")?;
        self.tilde(&value)
    }

    /// Expands the tokens of a host name.
    pub(crate) fn host_name(&self, value: &str) -> Result<String, ExpandError> {
        self.percent(value, "h")
    }

    /// Expands a proxy command, which is then a shell's to read. Values are safe there: host and user names with
    /// characters that a shell reads are refused before, and other names are refused here.
    pub(crate) fn command(&self, value: &str) -> Result<String, ExpandError> {
        let safe = |c: char| c.is_alphanumeric() || "-_.:,@%+/[]".contains(c);
        let alias_is_safe = !self.key_alias.starts_with('-') && self.key_alias.chars().all(safe);
        if !alias_is_safe && mentions(value, 'k') {
            return Err(ExpandError::Shell('k', value.to_owned()));
        }
        self.percent(value, COMMAND_TOKENS)
    }

    /// Expands a name of `ProxyJump`. As ssh makes a command of it, it has a command's tokens.
    pub(crate) fn jump_name(&self, value: &str) -> Result<String, ExpandError> {
        self.percent(value, COMMAND_TOKENS)
    }

    fn percent(&self, value: &str, known: &str) -> Result<String, ExpandError> {
        let mut out = String::with_capacity(value.len());
        let mut chars = value.chars();
        while let Some(c) = chars.next() {
            if c != '%' {
                out.push(c);
                continue;
            }
            let token = chars.next().ok_or_else(|| ExpandError::Lone(value.to_owned()))?;
            if token == '%' {
                out.push('%');
                continue;
            }
            if !known.contains(token) {
                return Err(ExpandError::Unknown(token, value.to_owned()));
            }
            match token {
                'C' => out.push_str(&self.connection_hash()),
                'd' => {
                    let home = self.home.as_ref().ok_or_else(|| ExpandError::Home(value.to_owned()))?;
                    out.push_str(&home.to_string_lossy());
                }
                'h' => out.push_str(&self.host),
                'i' => out.push_str(&self.local_id.to_string()),
                'j' => out.push_str(&self.jump),
                'k' => out.push_str(&self.key_alias),
                'L' => out.push_str(self.local_host.split('.').next().unwrap_or_default()),
                'l' => out.push_str(&self.local_host),
                'n' => out.push_str(&self.original),
                'p' => out.push_str(&self.port.to_string()),
                'r' => out.push_str(&self.user),
                _ => out.push_str(&self.local_user),
            }
        }
        Ok(out)
    }

    /// `%C`: SHA-1 over `%l%h%p%r%j`, in hexadecimal.
    fn connection_hash(&self) -> String {
        let mut hash = Sha1::new();
        for part in [&self.local_host, &self.host, &self.port.to_string(), &self.user, &self.jump] {
            hash.update(part.as_bytes());
        }
        hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect()
    }

    fn variables(&self, value: &str) -> Result<String, ExpandError> {
        let mut out = String::with_capacity(value.len());
        let mut rest = value;
        while let Some(start) = rest.find("${") {
            let after = &rest[start + 2..];
            let Some(end) = after.find('}') else { break };
            let name = &after[..end];
            let content = self
                .environment
                .get(name)
                .ok_or_else(|| ExpandError::Variable(name.to_owned(), value.to_owned()))?;
            out.push_str(&rest[..start]);
            out.push_str(content);
            rest = &after[end + 1..];
        }
        out.push_str(rest);
        Ok(out)
    }

    fn tilde(&self, value: &str) -> Result<PathBuf, ExpandError> {
        let Some(rest) = value.strip_prefix('~') else { return Ok(PathBuf::from(value)) };
        let (name, below) = rest.split_once('/').unwrap_or((rest, ""));
        let home = if name.is_empty() {
            self.home.clone()
        } else {
            account(|entry| entry.name == name).map(|a| a.home)
        };
        let home = home.ok_or_else(|| ExpandError::Home(value.to_owned()))?;
        Ok(if below.is_empty() { home } else { home.join(below.trim_start_matches('/')) })
    }
}

/// An entry of `/etc/passwd`.
pub(crate) struct Account {
    pub name: String,
    pub id: u32,
    pub home: PathBuf,
}

/// The first entry of `/etc/passwd` that `wanted` selects. Read by ourselves: the C library's own look-up loads
/// modules at run time, which a static program cannot rely on.
pub(crate) fn account(wanted: impl Fn(&Account) -> bool) -> Option<Account> {
    let text = std::fs::read(Path::new("/etc/passwd")).ok()?;
    String::from_utf8_lossy(&text)
        .lines()
        .filter_map(|line| {
            let mut fields = line.split(':');
            let name = fields.next()?.to_owned();
            let id = fields.nth(1)?.parse().ok()?;
            let home = PathBuf::from(fields.nth(2)?);
            Some(Account { name, id, home })
        })
        .find(wanted)
}

/// The entry of whoever runs this process, read once.
pub(crate) fn own_account() -> Option<&'static Account> {
    static OWN: LazyLock<Option<Account>> = LazyLock::new(|| {
        let own = rustix::process::getuid().as_raw();
        account(|entry| entry.id == own)
    });
    OWN.as_ref()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tokens() -> Tokens {
        Tokens {
            home: Some("/home/me".into()),
            local_user: "me".into(),
            local_id: 1000,
            local_host: "desk.example.org".into(),
            original: "web".into(),
            host: "web1.example.org".into(),
            port: 2222,
            user: "admin".into(),
            key_alias: "webs".into(),
            jump: String::new(),
            environment: BTreeMap::from([("KEYS".to_owned(), "/keys".to_owned())]),
        }
    }

    #[test]
    fn every_token() {
        let tokens = tokens();
        let all = tokens.path("~/%d|%h|%i|%k|%L|%l|%n|%p|%r|%u|%%").expect("known tokens");
        assert_eq!(
            all.to_str().expect("text"),
            "/home/me/home/me|web1.example.org|1000|webs|desk|desk.example.org|web|2222|admin|me|%"
        );
        assert_eq!(tokens.path("${KEYS}/%r").expect("a variable"), Path::new("/keys/admin"));
        assert_eq!(tokens.path("plain").expect("no token"), Path::new("plain"));
        assert_eq!(tokens.command("nc %h %p").expect("a command"), "nc web1.example.org 2222");
        let command = tokens.command("nc %h %n%%k %k %r").expect("a command");
        assert_eq!(command, "nc web1.example.org web%k webs admin");
        // printf desk.example.orgweb1.example.org2222admin | sha1sum
        assert_eq!(tokens.path("%C").expect("a hash"), Path::new("ab344864b7ea46d01bd7b8b266cb3f231f717bf1"));
    }

    #[test]
    fn what_cannot_be_expanded_is_an_error() {
        let tokens = tokens();
        assert_eq!(tokens.path("%z"), Err(ExpandError::Unknown('z', "%z".into())));
        assert_eq!(tokens.path("x%"), Err(ExpandError::Lone("x%".into())));
        assert_eq!(tokens.path("${NO}"), Err(ExpandError::Variable("NO".into(), "${NO}".into())));
        assert_eq!(tokens.command("%C"), Err(ExpandError::Unknown('C', "%C".into())));
        for alias in ["a;b", "a b", "$(x)", "-oX", "a'"] {
            let tokens = Tokens { key_alias: alias.into(), ..tokens.clone() };
            assert_eq!(tokens.command("nc %k"), Err(ExpandError::Shell('k', "nc %k".into())));
            assert_eq!(tokens.command("nc %%k").expect("no token"), "nc %k");
        }
        let homeless = Tokens { home: None, ..tokens };
        assert_eq!(homeless.path("~/x"), Err(ExpandError::Home("~/x".into())));
    }

    #[test]
    fn other_accounts_come_from_the_password_file() {
        assert_eq!(tokens().path("~root/.ssh").expect("root exists"), Path::new("/root/.ssh"));
    }
}
