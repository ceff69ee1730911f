//! Specs as text: read, written, and what can be wrong with them.

use std::ffi::{OsStr, OsString};
use std::fmt;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::str::FromStr;
use std::time::Duration;

use farcall_bootstrap::ssh::{ConfigFiles, SshTarget};
use farcall_bootstrap::{Cache, CommandForm, CommandTarget};

use super::{Place, Spec, Tool};

/// The most specs that one text may stand for.
const MAX_COUNT: usize = 100_000;

/// What is wrong with the text of a spec.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum SpecError {
    /// There is no such kind of place.
    #[error(
        "there is no kind of place {scheme:?}; there are local, ssh, openssh, docker, podman, kubectl, sudo, command, command-line and worker"
    )]
    Scheme {
        /// What stands before the colon.
        scheme: String,
    },
    /// The place has a part too many or too few.
    #[error("{place:?} is no place: {reason}")]
    Place {
        /// The place as written.
        place: String,
        /// What is wrong.
        reason: &'static str,
    },
    /// There is no such setting.
    #[error("there is no setting {key:?}{}", near(.key))]
    UnknownKey {
        /// The key.
        key: String,
    },
    /// A setting is given twice.
    #[error("{key} is given twice")]
    DuplicateKey {
        /// The key.
        key: String,
    },
    /// The value does not fit the setting.
    #[error("{key}={value:?}: {reason}")]
    Value {
        /// The key.
        key: String,
        /// The value, unescaped.
        value: String,
        /// What it should be.
        reason: &'static str,
    },
    /// A `%` that two hexadecimal digits do not follow, or bytes that are no text where text is needed.
    #[error("{text:?} is not escaped as in URLs: % and two hexadecimal digits, UTF-8 where it is text")]
    Escape {
        /// The part as written.
        text: String,
    },
    /// A count where one spec is needed, or a count that is none.
    #[error("{text:?} stands for {count} gateways where one is needed")]
    Count {
        /// The text.
        text: String,
        /// How many.
        count: usize,
    },
    /// A count that cannot be.
    #[error("{count:?} is no number of gateways from 1 to {MAX_COUNT}")]
    BadCount {
        /// What stands before the star.
        count: String,
    },
    /// Several gateways of one id.
    #[error("{count} gateways cannot have the same id {id:?}")]
    SharedId {
        /// The id.
        id: String,
        /// How many.
        count: usize,
    },
}

const KEYS: [&str; 15] = [
    "id",
    "chdir",
    "nice",
    "memory",
    "max_tasks",
    "heartbeat",
    "lease",
    "grace",
    "start_limit",
    "config",
    "identity",
    "name",
    "cache",
    "via",
    "env.NAME",
];

fn near(key: &str) -> String {
    let plain = |text: &str| text.replace(['-', '_'], "").to_lowercase();
    match KEYS.iter().find(|known| plain(known) == plain(key)) {
        Some(known) => format!("; {known} is meant?"),
        None => format!("; there are {}", KEYS.join(", ")),
    }
}

impl FromStr for Spec {
    type Err = SpecError;

    fn from_str(text: &str) -> Result<Spec, SpecError> {
        match counted(text)? {
            (1, rest) => one(rest),
            (count, _) => Err(SpecError::Count { text: text.into(), count }),
        }
    }
}

impl Spec {
    /// Reads a spec, or several: `4*local` is four of them.
    ///
    /// # Errors
    /// See [`SpecError`].
    pub fn parse_all(text: &str) -> Result<Vec<Spec>, SpecError> {
        let (count, rest) = counted(text)?;
        let spec = one(rest)?;
        match &spec.id {
            Some(id) if count > 1 => Err(SpecError::SharedId { id: id.clone(), count }),
            _ => Ok(vec![spec; count]),
        }
    }
}

fn counted(text: &str) -> Result<(usize, &str), SpecError> {
    // A star elsewhere is part of a value.
    let place = text.split('?').next().unwrap_or(text);
    let Some((count, _)) = place.split_once('*').filter(|(count, _)| !count.contains([':', '/', '@'])) else {
        return Ok((1, text));
    };
    let number = count.parse().ok().filter(|number| (1..=MAX_COUNT).contains(number));
    let number = number.ok_or_else(|| SpecError::BadCount { count: count.into() })?;
    Ok((number, &text[count.len() + 1..]))
}

fn one(text: &str) -> Result<Spec, SpecError> {
    let (place, settings) = match text.split_once('?') {
        Some((place, settings)) => (place, Some(settings)),
        None => (text, None),
    };
    let mut spec = Spec::at(read_place(place)?);
    let mut seen: Vec<String> = Vec::new();
    for setting in
        settings.into_iter().flat_map(|settings| settings.split('&')).filter(|text| !text.is_empty())
    {
        let (key, value) = setting.split_once('=').unwrap_or((setting, ""));
        let key = unescape_text(key)?;
        let value = unescape(value).map_err(|error| match error {
            // A variable's value may be a secret.
            SpecError::Escape { .. } if key.starts_with("env.") => {
                SpecError::Escape { text: format!("{key}=…") }
            }
            other => other,
        })?;
        spec = set(spec, &key, value)?;
        if seen.contains(&key) {
            return Err(SpecError::DuplicateKey { key });
        }
        seen.push(key);
    }
    let life = spec.life();
    match spec.heartbeat {
        Some(heartbeat) if heartbeat > life.lease / 2 => Err(SpecError::Value {
            key: "heartbeat".into(),
            value: Time(heartbeat).to_string(),
            reason: "it is at most half of the lease, which is 20s unless set",
        }),
        _ => Ok(spec),
    }
}

fn read_place(text: &str) -> Result<Place, SpecError> {
    let wrong = |reason| SpecError::Place { place: text.into(), reason };
    if text == "local" || text == "local:" || text == "local://" {
        return Ok(Place::Local);
    }
    let words = |rest: &str, form| {
        let mut words = rest.split(',').map(unescape).collect::<Result<Vec<_>, _>>()?.into_iter();
        let program = words.next().filter(|program| !program.is_empty());
        let program = program.ok_or_else(|| wrong("a command needs a program"))?;
        let mut command = CommandTarget::new(program).args(words);
        command.form = form;
        Ok(Place::Command(command))
    };
    for (prefix, form) in [
        ("command:", CommandForm::Arguments),
        ("command-line:", CommandForm::Line),
        ("worker:", CommandForm::Worker),
    ] {
        if let Some(rest) = text.strip_prefix(prefix) {
            return words(rest, form);
        }
    }
    let Some((scheme, rest)) = text.split_once("://") else {
        // As after `ssh`. A port needs the long form, since an address of version 6 has colons of its own.
        if text.is_empty() || text.contains('/') {
            return Err(wrong("it is no host name"));
        }
        let (user, host) = user_and(text)?;
        return Ok(Place::Ssh(SshTarget { host: non_empty(host, &wrong)?, user, port: None }));
    };
    match scheme {
        "ssh" => Ok(Place::Ssh(host(rest, &wrong)?)),
        "openssh" => Ok(Place::OpenSsh(host(rest, &wrong)?)),
        "docker" | "podman" => {
            let tool = if scheme == "docker" { Tool::Docker } else { Tool::Podman };
            let (user, name) = user_and(rest)?;
            Ok(Place::Container { tool, user, name: non_empty(name, &wrong)? })
        }
        "kubectl" => {
            let parts = rest.split('/').map(unescape_text).collect::<Result<Vec<_>, _>>()?;
            if parts.iter().any(|part| part.is_empty() || part.starts_with('-')) {
                return Err(wrong("a pod needs a name"));
            }
            let mut parts = parts.into_iter();
            match (parts.next(), parts.next(), parts.next(), parts.next()) {
                (Some(pod), None, ..) => Ok(Place::Pod { namespace: None, pod, container: None }),
                (namespace, Some(pod), container, None) => Ok(Place::Pod { namespace, pod, container }),
                _ => Err(wrong("a pod is named POD, NAMESPACE/POD or NAMESPACE/POD/CONTAINER")),
            }
        }
        "sudo" => Ok(Place::Sudo { user: unescape_text(rest)? }),
        _ => Err(SpecError::Scheme { scheme: scheme.into() }),
    }
}

fn user_and(text: &str) -> Result<(Option<String>, String), SpecError> {
    Ok(match text.rsplit_once('@') {
        Some((user, rest)) => (Some(unescape_text(user)?), unescape_text(rest)?),
        None => (None, unescape_text(text)?),
    })
}

/// A name that would be taken for an option of the command is none.
fn non_empty(name: String, wrong: &impl Fn(&'static str) -> SpecError) -> Result<String, SpecError> {
    if name.is_empty() || name.starts_with('-') {
        Err(wrong("a name is missing, or begins with -"))
    } else {
        Ok(name)
    }
}

fn host(text: &str, wrong: &impl Fn(&'static str) -> SpecError) -> Result<SshTarget, SpecError> {
    let text = text.strip_suffix('/').unwrap_or(text);
    let (user, rest) = match text.rsplit_once('@') {
        Some((user, rest)) => (Some(unescape_text(user)?), rest),
        None => (None, text),
    };
    let (host, port) = match rest.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
        Some((host, "")) => (host, None),
        Some((host, port)) => {
            (host, Some(port.strip_prefix(':').ok_or_else(|| wrong("after ] comes a port"))?))
        }
        None => match rest.rsplit_once(':') {
            Some((host, port)) if !host.contains(':') => (host, Some(port)),
            // An address of version 6 without brackets has no port.
            _ => (rest, None),
        },
    };
    let port =
        port.map(|port| port.parse().map_err(|_| wrong("the port is a number up to 65535"))).transpose()?;
    Ok(SshTarget { host: non_empty(unescape_text(host)?, wrong)?, user, port })
}

fn set(spec: Spec, key: &str, value: OsString) -> Result<Spec, SpecError> {
    let shown = value.to_string_lossy().into_owned();
    // A variable's value may be a secret.
    let wrong = |reason| SpecError::Value { key: key.into(), value: shown.clone(), reason };
    let text = || value.to_str().ok_or_else(|| wrong("it is not UTF-8"));
    let some = |value: OsString| if value.is_empty() { Err(wrong("it is empty")) } else { Ok(value) };
    if let Some(name) = key.strip_prefix("env.") {
        let first = name.bytes().next().is_some_and(|byte| byte.is_ascii_alphabetic() || byte == b'_');
        if !first || !name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_') {
            return Err(SpecError::Value {
                key: key.into(),
                value: "…".into(),
                reason: "the variable's name has other characters than letters, digits and _",
            });
        }
        // A second one is found by the caller.
        return Ok(spec.env(name, value));
    }
    Ok(match key {
        "id" | "via" => {
            let id = text()?;
            if id.is_empty() || id.chars().any(char::is_control) {
                return Err(wrong("an id is a word without control characters"));
            }
            if key == "id" { spec.id(id) } else { spec.via(id) }
        }
        "chdir" => spec.chdir(some(value)?),
        "nice" => {
            let nice = text()?.parse().ok().filter(|nice| (-20..=19).contains(nice));
            spec.nice(nice.ok_or_else(|| wrong("it is a number from -20 to 19"))?)
        }
        "memory" => {
            spec.memory(bytes(text()?).ok_or_else(|| wrong("it is a number of bytes, or of K, M or G"))?)
        }
        "max_tasks" => {
            let max = text()?.parse().ok().filter(|max| *max > 0);
            spec.max_tasks(max.ok_or_else(|| wrong("it is a number above 0"))?)
        }
        "heartbeat" | "lease" | "grace" | "start_limit" => {
            let time =
                duration(text()?).ok_or_else(|| wrong("it is a time above 0, like 30, 30s, 1500ms or 2m"))?;
            match key {
                "heartbeat" => spec.heartbeat(time),
                "lease" => spec.lease(time),
                "grace" => spec.grace(time),
                _ => spec.start_limit(time),
            }
        }
        "config" if value == "none" => spec.config(ConfigFiles::None),
        "config" => spec.config(ConfigFiles::Only(some(value)?.into())),
        "identity" => spec.identity(some(value)?),
        "name" => {
            let name = text()?;
            if name.is_empty() || name.chars().any(char::is_control) {
                return Err(wrong("a name is a word without control characters"));
            }
            let Place::Command(command) = spec.place else {
                return Err(wrong("only the place of a command may be named"));
            };
            Spec { place: Place::Command(command.named(name)), ..spec }
        }
        "cache" => spec.cache(match text()? {
            "keep" => Cache::Keep,
            "none" => Cache::LeaveNothing,
            _ => return Err(wrong("it is keep or none")),
        }),
        _ => return Err(SpecError::UnknownKey { key: key.into() }),
    })
}

fn duration(text: &str) -> Option<Duration> {
    let digits = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let number: u64 = text[..digits].parse().ok()?;
    let millis = match &text[digits..] {
        "ms" => number,
        "" | "s" => number.checked_mul(1000)?,
        "m" => number.checked_mul(60_000)?,
        _ => return None,
    };
    (millis > 0 && millis <= 1000 * 60 * 60 * 24 * 365).then(|| Duration::from_millis(millis))
}

fn bytes(text: &str) -> Option<u64> {
    let digits = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let number: u64 = text[..digits].parse().ok()?;
    let shift = match &text[digits..] {
        "" => 0,
        "K" => 10,
        "M" => 20,
        "G" => 30,
        _ => return None,
    };
    number.checked_mul(1 << shift).filter(|bytes| *bytes > 0)
}

fn unescape(text: &str) -> Result<OsString, SpecError> {
    let wrong = || SpecError::Escape { text: text.into() };
    let mut out = Vec::with_capacity(text.len());
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        if byte != b'%' {
            out.push(byte);
            continue;
        }
        let mut digit = || rest.next().and_then(|digit| char::from(digit).to_digit(16));
        let (Some(high), Some(low)) = (digit(), digit()) else { return Err(wrong()) };
        out.push(u8::try_from(high * 16 + low).map_err(|_| wrong())?);
    }
    if out.contains(&0) {
        return Err(wrong());
    }
    Ok(OsString::from_vec(out))
}

fn unescape_text(text: &str) -> Result<String, SpecError> {
    unescape(text)?.into_string().map_err(|_| SpecError::Escape { text: text.into() })
}

/// Writes text with all escaped that could be taken for something else.
struct Escaped<'a>(&'a OsStr);

impl fmt::Display for Escaped<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for &byte in self.0.as_bytes() {
            if byte.is_ascii_alphanumeric() || b"-._~/+ ".contains(&byte) && byte != b' ' {
                write!(f, "{}", char::from(byte))?;
            } else {
                write!(f, "%{byte:02X}")?;
            }
        }
        Ok(())
    }
}

fn escaped(text: &(impl AsRef<OsStr> + ?Sized)) -> Escaped<'_> {
    Escaped(text.as_ref())
}

struct Time(Duration);

impl fmt::Display for Time {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0.as_millis() {
            millis if millis % 1000 == 0 => write!(f, "{}s", millis / 1000),
            millis => write!(f, "{millis}ms"),
        }
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let user = |f: &mut fmt::Formatter<'_>, user: &Option<String>| match user {
            Some(user) => write!(f, "{}@", escaped(user)),
            None => Ok(()),
        };
        match self {
            Place::Local => f.write_str("local"),
            Place::Ssh(target) | Place::OpenSsh(target) => {
                f.write_str(if matches!(self, Place::Ssh(_)) { "ssh://" } else { "openssh://" })?;
                user(f, &target.user)?;
                match target.host.contains(':') {
                    true => write!(
                        f,
                        "[{}]",
                        target
                            .host
                            .split(':')
                            .map(|part| escaped(part).to_string())
                            .collect::<Vec<_>>()
                            .join(":")
                    )?,
                    false => write!(f, "{}", escaped(&target.host))?,
                }
                target.port.map_or(Ok(()), |port| write!(f, ":{port}"))
            }
            Place::Container { tool, user: account, name } => {
                f.write_str(match tool {
                    Tool::Docker => "docker://",
                    Tool::Podman => "podman://",
                })?;
                user(f, account)?;
                write!(f, "{}", escaped(name))
            }
            Place::Pod { namespace, pod, container } => {
                let parts = namespace.iter().chain([pod]).chain(container);
                let parts: Vec<_> = parts.map(|part| escaped(part).to_string().replace('/', "%2F")).collect();
                write!(f, "kubectl://{}", parts.join("/"))
            }
            Place::Sudo { user } => write!(f, "sudo://{}", escaped(user)),
            Place::Command(command) => {
                f.write_str(match command.form {
                    CommandForm::Arguments => "command:",
                    CommandForm::Line => "command-line:",
                    CommandForm::Worker => "worker:",
                })?;
                write!(f, "{}", escaped(&command.program))?;
                command.args.iter().try_for_each(|arg| write!(f, ",{}", escaped(arg)))
            }
        }
    }
}

impl fmt::Display for Spec {
    /// As it would be written. Values of variables are shown: they are a part of it.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.place)?;
        let mut settings: Vec<String> = Vec::new();
        let mut say =
            |key: &str, value: Option<String>| settings.extend(value.map(|value| format!("{key}={value}")));
        say("id", self.id.as_ref().map(|id| escaped(id).to_string()));
        say("chdir", self.chdir.as_ref().map(|path| escaped(path).to_string()));
        say("nice", self.nice.map(|nice| nice.to_string()));
        for (name, value) in &self.env {
            say(&format!("env.{name}"), Some(escaped(value).to_string()));
        }
        say("memory", self.memory.map(|bytes| bytes.to_string()));
        say("max_tasks", self.max_tasks.map(|max| max.to_string()));
        say("heartbeat", self.heartbeat.map(|time| Time(time).to_string()));
        say("lease", self.lease.map(|time| Time(time).to_string()));
        say("grace", self.grace.map(|time| Time(time).to_string()));
        say("start_limit", self.start_limit.map(|time| Time(time).to_string()));
        let config = match &self.config {
            Some(ConfigFiles::Only(file)) if file == "none" => Some("./none".to_owned()),
            Some(ConfigFiles::Only(file)) => Some(escaped(file).to_string()),
            Some(ConfigFiles::None) => Some("none".to_owned()),
            Some(ConfigFiles::Usual) | None => None,
        };
        say("config", config);
        say("identity", self.identity.as_ref().map(|path| escaped(path).to_string()));
        if let Place::Command(CommandTarget { name, .. }) = &self.place {
            say("name", name.as_ref().map(|name| escaped(name).to_string()));
        }
        let cache = self.cache.map(|cache| if cache == Cache::Keep { "keep" } else { "none" }.to_owned());
        say("cache", cache);
        say("via", self.via.as_ref().map(|id| escaped(id).to_string()));
        if settings.is_empty() { Ok(()) } else { write!(f, "?{}", settings.join("&")) }
    }
}

#[cfg(test)]
#[path = "text_tests.rs"]
mod tests;
