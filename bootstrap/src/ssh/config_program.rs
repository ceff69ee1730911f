//! Asking the `ssh` program for the effective configuration.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::{Arc, LazyLock, Mutex, PoisonError};
use std::time::Duration;

use tokio::process::Command;

use super::config::{ConfigError, Raw};
use super::config_file;
use super::options::{ConfigFiles, SshOptions, SshTarget};
use crate::helper;

/// Asks `ssh -G`. `Ok(None)` when there is no such program.
pub(crate) async fn ask(
    program: &Path,
    target: &SshTarget,
    options: &SshOptions,
) -> Result<Option<Raw>, (ConfigError, Vec<u8>)> {
    let mut arguments: Vec<String> = vec!["-G".into()];
    match &options.files {
        ConfigFiles::Usual => {}
        ConfigFiles::Only(file) => arguments.extend(["-F".into(), file.to_string_lossy().into_owned()]),
        ConfigFiles::None => arguments.extend(["-F".into(), "none".into()]),
    }
    for setting in &options.settings {
        arguments.extend(["-o".into(), setting.clone()]);
    }
    for file in &options.identity_files {
        // As a setting and not as -i, which warns of files that are not there.
        arguments
            .extend(["-o".into(), format!("IdentityFile=\"{}\"", file.to_string_lossy().replace('%', "%%"))]);
    }
    if let Some(user) = &target.user {
        arguments.extend(["-l".into(), user.clone()]);
    }
    if let Some(port) = target.port {
        arguments.extend(["-p".into(), port.to_string()]);
    }
    arguments.extend(["--".into(), target.host.clone()]);
    let (settings, defaults) =
        tokio::join!(run(program, &arguments, options.limit), defaults(program, options.limit));
    let Some(mut settings) = settings? else { return Ok(None) };
    let Some(defaults) = defaults? else { return Ok(None) };
    // ssh prints its own lists of algorithms where the configuration has none. Those are not wishes of the user.
    for keyword in [
        "kexalgorithms",
        "hostkeyalgorithms",
        "ciphers",
        "macs",
        "casignaturealgorithms",
        "pubkeyacceptedalgorithms",
        "pubkeyacceptedkeytypes",
    ] {
        if settings.get(keyword) == defaults.get(keyword) {
            settings.remove(keyword);
        }
    }
    Ok(Some(settings))
}

/// What `program` prints where nothing is configured; asked once per program and process.
async fn defaults(program: &Path, limit: Duration) -> Result<Option<Arc<Raw>>, (ConfigError, Vec<u8>)> {
    static KNOWN: LazyLock<Mutex<HashMap<PathBuf, Arc<Raw>>>> = LazyLock::new(Mutex::default);
    let known = KNOWN.lock().unwrap_or_else(PoisonError::into_inner).get(program).cloned();
    if known.is_some() {
        return Ok(known);
    }
    let arguments = ["-G", "-F", "none", "--", "localhost"].map(str::to_owned);
    let Some(raw) = run(program, &arguments, limit).await? else { return Ok(None) };
    let raw = Arc::new(raw);
    KNOWN.lock().unwrap_or_else(PoisonError::into_inner).insert(program.to_owned(), Arc::clone(&raw));
    Ok(Some(raw))
}

async fn run(
    program: &Path,
    arguments: &[String],
    limit: Duration,
) -> Result<Option<Raw>, (ConfigError, Vec<u8>)> {
    let mut command = Command::new(program);
    command.args(arguments).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    // Match exec may run anything.
    let output = async { helper::spawn_group(command)?.output().await };
    let output = match tokio::time::timeout(limit, output).await {
        Err(_) => return Err((ConfigError::Late(program.to_owned(), limit), Vec::new())),
        Ok(Err(e)) if e.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Ok(Err(e)) => return Err((ConfigError::Start(program.to_owned(), e), Vec::new())),
        Ok(Ok(output)) => output,
    };
    if !output.status.success() {
        return Err((ConfigError::Program(program.to_owned()), output.stderr));
    }
    Ok(Some(parse_dump(&String::from_utf8_lossy(&output.stdout))))
}

/// Reads the output of `ssh -G`: a setting a line, the keyword first.
fn parse_dump(text: &str) -> Raw {
    let mut raw = Raw::new();
    for line in text.lines() {
        let (keyword, value) = line.split_once(' ').unwrap_or((line, ""));
        let keyword = keyword.to_ascii_lowercase();
        let words = match keyword.as_str() {
            // These name several files on a line; the others have one value, which may contain spaces.
            "userknownhostsfile" | "globalknownhostsfile" => file_names(value),
            // It is expanded already, and what follows the percent sign of an address is a network interface.
            "hostname" => vec![unquoted(value).replace('%', "%%")],
            _ => vec![unquoted(value).to_owned()],
        };
        raw.entry(keyword).or_default().push(words);
    }
    raw
}

/// Cuts a list of files. Versions that do not quote names with spaces leave open where one ends; the next begins in one of
/// the ways in which names that mean the same in every folder begin.
fn file_names(value: &str) -> Vec<String> {
    let words = config_file::words(value).unwrap_or_default();
    if value.contains('"') {
        return words;
    }
    let mut names: Vec<String> = Vec::new();
    for word in words {
        match names.last_mut() {
            Some(name) if !word.starts_with(['/', '~', '%', '$']) => {
                name.push(' ');
                name.push_str(&word);
            }
            _ => names.push(word),
        }
    }
    names
}

/// Newer versions quote names with spaces.
fn unquoted(value: &str) -> &str {
    value.strip_prefix('"').and_then(|rest| rest.strip_suffix('"')).unwrap_or(value)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_with_spaces_are_found_whether_or_not_they_are_quoted() {
        let files = |line: &str| parse_dump(line)["userknownhostsfile"][0].clone();
        assert_eq!(files("userknownhostsfile /a b/c /d"), ["/a b/c", "/d"]);
        assert_eq!(files("userknownhostsfile \"/a b/c\" \"/d /e\" f"), ["/a b/c", "/d /e", "f"]);
        assert_eq!(
            files("userknownhostsfile ~/.ssh/one %d/two ${X}/three"),
            ["~/.ssh/one", "%d/two", "${X}/three"]
        );
        assert_eq!(files("userknownhostsfile none"), ["none"]);
        assert_eq!(parse_dump("identityfile /x y")["identityfile"][0], ["/x y"]);
        assert_eq!(parse_dump("hostname fe80::1%eth0")["hostname"][0], ["fe80::1%%eth0"]);
    }
}
