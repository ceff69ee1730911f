//! The effective configuration of one host.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::config_file::{self, FileError};
use super::expand::{ExpandError, Tokens, own_account};
use super::options::{ConfigFiles, SshOptions, SshTarget};
use super::resolve::Family;
use super::variables::Variables;
use super::{config_jumps, config_program};
use crate::error::{Class, LaunchError, Step};

/// Settings as they were read: each keyword in lower case, with its values, each of them cut into words.
pub(crate) type Raw = HashMap<String, Vec<Vec<String>>>;

/// What a configuration says of keys that are not known.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Strictness {
    /// Unknown keys are refused. Also what `ask` means to us: nobody is asked.
    Strict,
    /// Unknown keys are remembered, changed ones refused.
    AcceptNew,
    /// Unknown keys are remembered; a changed one is let through, without passwords.
    Off,
}

/// The settings that we honour, with their defaults filled in and their names expanded.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Config {
    /// As the user wrote it.
    pub original: String,
    pub host: String,
    pub port: u16,
    pub user: String,
    /// `ProxyJump`, the nearest hop first.
    pub jumps: Vec<SshTarget>,
    /// `ProxyCommand`, expanded.
    pub proxy_command: Option<String>,
    pub identity_files: Vec<PathBuf>,
    pub certificate_files: Vec<PathBuf>,
    pub identities_only: bool,
    /// The agent's socket.
    pub agent: Option<PathBuf>,
    pub user_known_hosts: Vec<PathBuf>,
    pub global_known_hosts: Vec<PathBuf>,
    pub revoked_host_keys: Option<PathBuf>,
    pub strictness: Strictness,
    pub host_key_alias: Option<String>,
    pub hash_known_hosts: bool,
    pub connect_timeout: Option<Duration>,
    pub alive_interval: Option<Duration>,
    pub alive_count_max: usize,
    pub compression: bool,
    pub family: Family,
    /// The address, or a name of it, that connections come from.
    pub bind_address: Option<String>,
    /// The ways of authenticating that may be used, best first.
    pub methods: Vec<Method>,
    /// How often a person is asked for one secret; 0 in batch mode.
    pub prompts: u32,
    /// Ways of authenticating that the configuration asks for and that only the `ssh` program knows.
    pub foreign: Vec<&'static str>,
    /// Whether keys of a device are to be used by way of a PKCS#11 library, which is not done here.
    pub token_keys: bool,
    /// The fewest bits that an RSA key may have, a server's or our own.
    pub required_rsa_bits: u32,
    pub algorithms: AlgorithmSettings,
    pub variables: Variables,
    /// Whether an agent is to be forwarded, which is not done here.
    pub forward_agent: bool,
}

/// Lists of algorithms by name; `None` where the configuration leaves the choice to us.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub(crate) struct AlgorithmSettings {
    pub kex: Option<String>,
    pub host_key: Option<String>,
    pub cipher: Option<String>,
    pub mac: Option<String>,
    pub ca_signature: Option<String>,
    pub public_key: Option<String>,
}

/// A way of authenticating.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Method {
    PublicKey,
    KeyboardInteractive,
    Password,
}

/// Why there is no effective configuration.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ConfigError {
    #[error("{0:?} is not a host name")]
    Host(String),
    #[error("{0:?} is not an account name")]
    User(String),
    #[error("{program} refuses these settings: it says so when asked for them (`-G`)", program = .0.display())]
    Program(PathBuf),
    #[error("{program} cannot be started", program = .0.display())]
    Start(PathBuf, #[source] std::io::Error),
    #[error("{program} -G did not end within {1:?}", program = .0.display())]
    Late(PathBuf, Duration),
    #[error(transparent)]
    File(#[from] FileError),
    #[error("{keyword} cannot have the value {value:?}")]
    Value { keyword: &'static str, value: String },
    #[error("{keyword}: {source}")]
    Expand { keyword: &'static str, source: ExpandError },
    #[error("{0} is not supported")]
    Unsupported(&'static str),
}

/// What a person can do where a configuration needs what we do not have.
pub(crate) const SYSTEM_SSH: &str =
    "a host given as openssh://HOST is reached by the system's ssh, which knows that";

/// Finds out how `ssh` would connect to `target`.
pub(crate) async fn effective(target: &SshTarget, options: &SshOptions) -> Result<Config, LaunchError> {
    let failed = |error: ConfigError, said: &[u8]| {
        let class = if matches!(error, ConfigError::Late(..)) { Class::Timeout } else { Class::Connect };
        let failure =
            LaunchError::new(Step::Config, class, target.to_string()).because(error).with_evidence(said);
        match failure.cause().and_then(|cause| cause.downcast_ref::<ConfigError>()) {
            Some(ConfigError::File(FileError::Match { .. })) => failure.with_hint(
                "install the ssh program, which is asked for the configuration where it exists, or name a file \
                 without Match",
            ),
            Some(ConfigError::File(FileError::Others(_))) => {
                failure.with_hint("it must belong to you or to root, with a mode such as 600 or 644")
            }
            Some(ConfigError::Unsupported(_)) => failure.with_hint(SYSTEM_SSH),
            _ => failure,
        }
    };
    check_host(&target.host).map_err(|e| failed(e, b""))?;
    if let Some(user) = &target.user {
        check_user(user).map_err(|e| failed(e, b""))?;
    }
    let read = read_files(target, options);
    let asked = match &options.program {
        // Asking takes longer than a connection, for each host.
        Some(_) if read.as_ref().is_ok_and(|(_, plain)| *plain) => None,
        Some(program) => {
            config_program::ask(program, target, options).await.map_err(|(e, said)| failed(e, &said))?
        }
        None => None,
    };
    let raw = match asked {
        Some(raw) => raw,
        None => read.map_err(|e| failed(e, b""))?.0,
    };
    Config::from_raw(raw, target, options).map_err(|e| failed(e, b""))
}

/// A host name with characters that a shell reads must not get into a proxy command, nor one that begins with a dash
/// into an argument list.
pub(crate) fn check_host(host: &str) -> Result<(), ConfigError> {
    let bad = |c: char| "'`\"$\\;&<>|(){}".contains(c) || c.is_whitespace() || c.is_control();
    if host.is_empty() || host.starts_with('-') || host.contains(bad) {
        return Err(ConfigError::Host(host.to_owned()));
    }
    Ok(())
}

pub(crate) fn check_user(user: &str) -> Result<(), ConfigError> {
    let bad = |c: char| "'`\";&<>|(){}$".contains(c) || c.is_control() || c.is_whitespace();
    if user.is_empty() || user.starts_with('-') || user.ends_with('\\') || user.contains(bad) {
        return Err(ConfigError::User(user.to_owned()));
    }
    Ok(())
}

/// The configuration by our own parser, and whether `ssh` would have found the same.
fn read_files(target: &SshTarget, options: &SshOptions) -> Result<(Raw, bool), ConfigError> {
    let mut parser = config_file::Parser::new(&target.host, home(options));
    for setting in &options.settings {
        parser.setting(setting)?;
    }
    for file in &options.identity_files {
        parser.identity(file);
    }
    let mut usual = true;
    match &options.files {
        ConfigFiles::None => {}
        ConfigFiles::Only(file) => parser.named_file(file)?,
        ConfigFiles::Usual => {
            if let Some(home) = home(options) {
                let file = home.join(".ssh/config");
                // ssh looks in the home of the account, whatever the variable says.
                usual = own_account().is_some_and(|account| account.home == home);
                parser.user_file(&file)?;
            }
            parser.system_file(Path::new("/etc/ssh/ssh_config"))?;
        }
    }
    let plain = usual && parser.is_plain();
    Ok((parser.finish(), plain))
}

fn home(options: &SshOptions) -> Option<PathBuf> {
    options.home.clone().or_else(|| own_account().map(|account| account.home.clone()))
}

impl Config {
    fn from_raw(raw: Raw, target: &SshTarget, options: &SshOptions) -> Result<Self, ConfigError> {
        let get = Settings { raw: &raw };
        let own = rustix::process::getuid().as_raw();
        let local_user = options
            .local_user
            .clone()
            .or_else(|| own_account().map(|account| account.name.clone()))
            .unwrap_or_else(|| own.to_string());
        let user = match (&target.user, get.text("user")) {
            (Some(user), _) => user.clone(),
            (None, Some(user)) => user.to_owned(),
            (None, None) => local_user.clone(),
        };
        check_user(&user)?;
        let port = match (target.port, get.text("port")) {
            (Some(port), _) => port,
            (None, Some(text)) => {
                text.parse().ok().filter(|&port| port != 0).ok_or_else(|| bad("Port", text))?
            }
            (None, None) => 22,
        };
        let jump = get.name("proxyjump");
        // Names of hosts are compared in lower case, and ssh takes the alias for one.
        let alias = get.text("hostkeyalias").map(str::to_ascii_lowercase);
        let mut tokens = Tokens {
            home: home(options),
            local_user,
            local_id: own,
            local_host: rustix::system::uname().nodename().to_string_lossy().into_owned(),
            original: target.host.clone(),
            host: target.host.clone(),
            port,
            user: user.clone(),
            key_alias: alias.clone().unwrap_or_else(|| target.host.clone()),
            jump: jump.unwrap_or_default().to_owned(),
            environment: options.environment.clone(),
        };
        let expand = |keyword| move |source| ConfigError::Expand { keyword, source };
        if let Some(name) = get.text("hostname") {
            // ssh has expanded it already, and then there is no token left.
            tokens.host = tokens.host_name(name).map_err(expand("HostName"))?;
        }
        check_host(&tokens.host)?;
        if get.flag("proxyusefdpass", false)? {
            return Err(ConfigError::Unsupported("ProxyUseFdpass"));
        }
        // What it says can forbid a key as well as allow one, so it cannot be left out.
        if get.name("knownhostscommand").is_some() {
            return Err(ConfigError::Unsupported("KnownHostsCommand"));
        }
        // A connection by another way than the wanted one may end at another host.
        if get.name("bindinterface").is_some() {
            return Err(ConfigError::Unsupported("BindInterface"));
        }
        let proxy_command = match get.name("proxycommand") {
            Some(command) if jump.is_none() => Some(tokens.command(command).map_err(expand("ProxyCommand"))?),
            _ => None,
        };
        let files = |keyword: &'static str, usual: &[&str]| -> Result<Vec<PathBuf>, ConfigError> {
            let given: Vec<&str> = match raw.get(&keyword.to_ascii_lowercase()) {
                Some(values) => values.iter().flatten().map(String::as_str).collect(),
                None => usual.to_vec(),
            };
            let mut paths = Vec::new();
            for name in given.into_iter().filter(|name| !name.eq_ignore_ascii_case("none")) {
                match tokens.path(name) {
                    Ok(path) if paths.contains(&path) => {}
                    Ok(path) => paths.push(path),
                    // Without a home there are no files in it; nothing is lost by that.
                    Err(ExpandError::Home(_)) => {}
                    Err(source) => return Err(ConfigError::Expand { keyword, source }),
                }
            }
            Ok(paths)
        };
        let batch = get.flag("batchmode", false)?;
        let prompts =
            if batch { 0 } else { get.number("numberofpasswordprompts", "NumberOfPasswordPrompts", 3)? };
        Ok(Self {
            identity_files: files(
                "IdentityFile",
                &["~/.ssh/id_rsa", "~/.ssh/id_ecdsa", "~/.ssh/id_ed25519"],
            )?,
            certificate_files: files("CertificateFile", &[])?,
            identities_only: get.flag("identitiesonly", false)?,
            agent: agent(&get, &tokens, options)?,
            user_known_hosts: files("UserKnownHostsFile", &["~/.ssh/known_hosts", "~/.ssh/known_hosts2"])?,
            global_known_hosts: files(
                "GlobalKnownHostsFile",
                &["/etc/ssh/ssh_known_hosts", "/etc/ssh/ssh_known_hosts2"],
            )?,
            revoked_host_keys: match get.name("revokedhostkeys") {
                Some(name) => Some(tokens.path(name).map_err(expand("RevokedHostKeys"))?),
                None => None,
            },
            strictness: match get.text("stricthostkeychecking").unwrap_or("ask") {
                "yes" | "true" | "ask" => Strictness::Strict,
                "accept-new" => Strictness::AcceptNew,
                "no" | "off" | "false" => Strictness::Off,
                other => return Err(bad("StrictHostKeyChecking", other)),
            },
            host_key_alias: alias,
            hash_known_hosts: get.flag("hashknownhosts", false)?,
            connect_timeout: get.duration("connecttimeout", "ConnectTimeout")?,
            alive_interval: get.duration("serveraliveinterval", "ServerAliveInterval")?,
            alive_count_max: get.number("serveralivecountmax", "ServerAliveCountMax", 3)? as usize,
            compression: get.flag("compression", false)?,
            family: match get.text("addressfamily").unwrap_or("any") {
                "inet" => Family::V4,
                "inet6" => Family::V6,
                _ => Family::Any,
            },
            bind_address: get.name("bindaddress").map(str::to_owned),
            methods: methods(&get)?,
            foreign: [
                ("gssapi-with-mic", get.flag("gssapiauthentication", false)?),
                ("hostbased", get.flag("hostbasedauthentication", false)?),
            ]
            .into_iter()
            .filter_map(|(name, wanted)| wanted.then_some(name))
            .collect(),
            token_keys: get.name("pkcs11provider").is_some(),
            // As many as ssh asks for at the least.
            required_rsa_bits: get.number("requiredrsasize", "RequiredRSASize", 1024)?.max(1024),
            prompts,
            algorithms: AlgorithmSettings {
                kex: get.text("kexalgorithms").map(str::to_owned),
                host_key: get.text("hostkeyalgorithms").map(str::to_owned),
                cipher: get.text("ciphers").map(str::to_owned),
                mac: get.text("macs").map(str::to_owned),
                ca_signature: get.text("casignaturealgorithms").map(str::to_owned),
                public_key: get
                    .text("pubkeyacceptedalgorithms")
                    .or_else(|| get.text("pubkeyacceptedkeytypes"))
                    .map(str::to_owned),
            },
            variables: Variables::read(get.words("setenv"), get.words("sendenv"))
                .map_err(|reason| bad("SetEnv", &reason))?,
            // The name of another agent's socket means yes too.
            forward_agent: get.text("forwardagent").is_some_and(|text| !matches!(text, "no" | "false")),
            jumps: jump.map(|text| config_jumps::parse(text, &tokens)).transpose()?.unwrap_or_default(),
            proxy_command,
            original: target.host.clone(),
            host: tokens.host,
            port,
            user,
        })
    }
}

pub(crate) fn bad(keyword: &'static str, value: &str) -> ConfigError {
    ConfigError::Value { keyword, value: value.to_owned() }
}

fn agent(get: &Settings<'_>, tokens: &Tokens, options: &SshOptions) -> Result<Option<PathBuf>, ConfigError> {
    let given = options.environment.get("SSH_AUTH_SOCK").filter(|path| !path.is_empty()).map(PathBuf::from);
    match get.text("identityagent") {
        None | Some("SSH_AUTH_SOCK") => Ok(given),
        Some("none") => Ok(None),
        Some(value) => match value.strip_prefix('$').filter(|name| !name.starts_with('{')) {
            Some(name) => {
                Ok(options.environment.get(name).filter(|path| !path.is_empty()).map(PathBuf::from))
            }
            None => tokens
                .path(value)
                .map(Some)
                .map_err(|source| ConfigError::Expand { keyword: "IdentityAgent", source }),
        },
    }
}

fn methods(get: &Settings<'_>) -> Result<Vec<Method>, ConfigError> {
    let enabled = |method: &Method| -> Result<bool, ConfigError> {
        match method {
            // Newer versions print "unbound" and "host-bound" here: kinds of yes.
            Method::PublicKey => Ok(!matches!(get.text("pubkeyauthentication"), Some("no" | "false"))),
            Method::KeyboardInteractive => match get.text("challengeresponseauthentication") {
                Some(_) => get.flag("challengeresponseauthentication", true),
                None => get.flag("kbdinteractiveauthentication", true),
            },
            Method::Password => get.flag("passwordauthentication", true),
        }
    };
    let order = get.text("preferredauthentications").unwrap_or("publickey,keyboard-interactive,password");
    let mut methods = Vec::new();
    for name in order.split(',') {
        let method = match name.trim() {
            "publickey" => Method::PublicKey,
            "keyboard-interactive" => Method::KeyboardInteractive,
            "password" => Method::Password,
            // gssapi-with-mic and hostbased, which the system's ssh can do.
            _ => continue,
        };
        if enabled(&method)? && !methods.contains(&method) {
            methods.push(method);
        }
    }
    Ok(methods)
}

/// Typed access to raw settings.
struct Settings<'a> {
    raw: &'a Raw,
}

impl Settings<'_> {
    fn text(&self, keyword: &str) -> Option<&str> {
        self.raw.get(keyword)?.first()?.first().map(String::as_str)
    }

    /// What is neither missing nor `none`.
    fn name(&self, keyword: &str) -> Option<&str> {
        self.text(keyword).filter(|text| !text.eq_ignore_ascii_case("none"))
    }

    fn words(&self, keyword: &str) -> impl Iterator<Item = &String> {
        self.raw.get(keyword).into_iter().flatten().flatten()
    }

    fn flag(&self, keyword: &'static str, usual: bool) -> Result<bool, ConfigError> {
        match self.text(keyword) {
            None => Ok(usual),
            Some("yes" | "true") => Ok(true),
            Some("no" | "false") => Ok(false),
            Some(other) => Err(bad(keyword, other)),
        }
    }

    fn number(&self, keyword: &str, name: &'static str, usual: u32) -> Result<u32, ConfigError> {
        self.text(keyword).map_or(Ok(usual), |text| text.parse().map_err(|_| bad(name, text)))
    }

    /// A time such as `90`, `1m30s` or `none`. No time and nothing are the same.
    fn duration(&self, keyword: &str, name: &'static str) -> Result<Option<Duration>, ConfigError> {
        let Some(text) = self.text(keyword).filter(|text| *text != "none") else { return Ok(None) };
        let mut total: u64 = 0;
        let mut digits = String::new();
        for c in text.chars().chain(std::iter::once('s')) {
            let unit = match c.to_ascii_lowercase() {
                digit @ '0'..='9' => {
                    digits.push(digit);
                    continue;
                }
                's' if digits.is_empty() => continue,
                's' => 1,
                'm' => 60,
                'h' => 3600,
                'd' => 86400,
                'w' => 604_800,
                _ => return Err(bad(name, text)),
            };
            let count: u64 = digits.parse().map_err(|_| bad(name, text))?;
            total =
                count.checked_mul(unit).and_then(|n| n.checked_add(total)).ok_or_else(|| bad(name, text))?;
            digits.clear();
        }
        Ok(Some(Duration::from_secs(total)).filter(|time| !time.is_zero()))
    }
}

#[cfg(test)]
#[path = "config_tests.rs"]
mod tests;
