//! A reader of OpenSSH configuration files: for those that mean the same to everybody, and for machines without the `ssh`
//! program.

use std::path::{Path, PathBuf};

use super::config::Raw;
use super::{config_plain, pattern};

/// How deep files may include each other, as in OpenSSH.
const DEPTH: u32 = 16;

/// A configuration file that cannot be followed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum FileError {
    #[error("{}: cannot be read", .0.display())]
    Read(PathBuf, #[source] std::io::Error),
    #[error("{}:{line}: Match needs the ssh program to be understood", file.display())]
    Match { file: PathBuf, line: usize },
    #[error("{}:{line}: a quotation mark is missing", file.display())]
    Quote { file: PathBuf, line: usize },
    #[error("{}:{line}: {keyword} has no value", file.display())]
    Empty { file: PathBuf, line: usize, keyword: String },
    #[error("{}:{line}: files include each other too deeply", file.display())]
    Depth { file: PathBuf, line: usize },
    #[error("{0:?} is not of the form Keyword=value")]
    Setting(String),
}

/// Reads files in order; of each setting the first value wins.
pub(crate) struct Parser {
    host: String,
    home: Option<PathBuf>,
    raw: Raw,
    plain: bool,
}

impl Parser {
    /// A parser of what applies to `host`, as the user wrote it.
    pub(crate) fn new(host: &str, home: Option<PathBuf>) -> Self {
        let plain = config_plain::is_plain_host(host);
        Self { host: host.to_owned(), home, raw: Raw::new(), plain }
    }

    /// Whether `ssh` would have found the same.
    pub(crate) fn is_plain(&self) -> bool {
        self.plain
    }

    /// What was found.
    pub(crate) fn finish(self) -> Raw {
        self.raw
    }

    /// A setting as after `-o`.
    pub(crate) fn setting(&mut self, setting: &str) -> Result<(), FileError> {
        let error = || FileError::Setting(setting.to_owned());
        let (keyword, rest) = keyword_and_rest(setting).ok_or_else(error)?;
        let words = values(&keyword, rest).ok_or_else(error)?;
        if words.is_empty() {
            return Err(error());
        }
        self.plain &= config_plain::is_plain(&keyword, rest, &words);
        self.put(&keyword, words);
        Ok(())
    }

    /// A private key as after `-i`.
    pub(crate) fn identity(&mut self, file: &Path) {
        // A percent sign in an actual file name is no token.
        let name = file.to_string_lossy().replace('%', "%%");
        self.put("identityfile", vec![name]);
    }

    /// Reads a file. One that is not there is an error only when it is `required`.
    pub(crate) fn file(&mut self, file: &Path, required: bool) -> Result<(), FileError> {
        let system = file.starts_with("/etc/ssh");
        self.read(file, required, true, system, 0)
    }

    fn read(
        &mut self,
        file: &Path,
        required: bool,
        applies: bool,
        system: bool,
        depth: u32,
    ) -> Result<(), FileError> {
        let text = match std::fs::read(file) {
            Ok(text) => text,
            Err(e) if required || e.kind() != std::io::ErrorKind::NotFound => {
                return Err(FileError::Read(file.to_owned(), e));
            }
            Err(_) => return Ok(()),
        };
        // A Host line inside applies until the end of its file, and never where the including line does not.
        let mut active = applies;
        for (number, line) in String::from_utf8_lossy(&text).lines().enumerate() {
            let line_number = number + 1;
            let Some((keyword, rest)) = keyword_and_rest(line) else { continue };
            let at = || (file.to_owned(), line_number);
            let Some(words) = values(&keyword, rest) else {
                let (file, line) = at();
                return Err(FileError::Quote { file, line });
            };
            if words.is_empty() {
                let (file, line) = at();
                return Err(FileError::Empty { file, line, keyword });
            }
            // Also where it does not apply: ssh finds fault with that too.
            self.plain &= config_plain::is_plain(&keyword, rest, &words);
            match keyword.as_str() {
                "host" => {
                    active = applies && pattern::list_matches(words.iter().map(String::as_str), &self.host);
                }
                "match" => {
                    let (file, line) = at();
                    // The one form that means the same for everybody.
                    if words.len() == 1 && words[0].eq_ignore_ascii_case("all") {
                        active = applies;
                        continue;
                    }
                    return Err(FileError::Match { file, line });
                }
                "include" => {
                    if depth == DEPTH {
                        let (file, line) = at();
                        return Err(FileError::Depth { file, line });
                    }
                    for included in self.included(&words, system) {
                        self.read(&included, false, active, system, depth + 1)?;
                    }
                }
                _ if active => self.put(&keyword, words),
                _ => {}
            }
        }
        Ok(())
    }

    /// The files that an Include names, in the order of their names.
    fn included(&self, patterns: &[String], system: bool) -> Vec<PathBuf> {
        let mut files = Vec::new();
        for pattern in patterns {
            let path = match (pattern.strip_prefix("~/"), &self.home) {
                (Some(below), Some(home)) => home.join(below),
                (None, _) if pattern.starts_with('/') => PathBuf::from(pattern),
                (None, _) if system => Path::new("/etc/ssh").join(pattern),
                (None, Some(home)) => home.join(".ssh").join(pattern),
                (_, None) => continue,
            };
            // A pattern that means nothing names no file, as in OpenSSH.
            if let Ok(found) = glob::glob(&path.to_string_lossy()) {
                files.extend(found.filter_map(Result::ok));
            }
        }
        files
    }

    fn put(&mut self, keyword: &str, words: Vec<String>) {
        let keyword = match keyword {
            "identityfile2" => "identityfile",
            "challengeresponseauthentication" | "skeyauthentication" | "tisauthentication" => {
                "kbdinteractiveauthentication"
            }
            "dsaauthentication" => "pubkeyauthentication",
            "pubkeyacceptedkeytypes" => "pubkeyacceptedalgorithms",
            other => other,
        };
        // Whichever of the two comes first excludes the other.
        let other_way = match keyword {
            "proxyjump" => "proxycommand",
            "proxycommand" => "proxyjump",
            _ => "",
        };
        if self.raw.contains_key(other_way) {
            return;
        }
        let values = self.raw.entry(keyword.to_owned()).or_default();
        let accumulates = matches!(keyword, "identityfile" | "certificatefile" | "sendenv");
        if (accumulates && !values.contains(&words)) || values.is_empty() {
            values.push(words);
        }
    }
}

/// Splits a line at the keyword. Nothing for empty lines and comments.
fn keyword_and_rest(line: &str) -> Option<(String, &str)> {
    let line = line.trim();
    if line.is_empty() || line.starts_with('#') {
        return None;
    }
    let end = line.find(|c: char| c == '=' || c.is_whitespace()).unwrap_or(line.len());
    let (keyword, rest) = line.split_at(end);
    let rest = rest.trim_start();
    let rest = rest.strip_prefix('=').unwrap_or(rest).trim_start();
    Some((keyword.to_ascii_lowercase(), rest))
}

/// The words of a value. A command is one, with everything in it.
fn values(keyword: &str, rest: &str) -> Option<Vec<String>> {
    if matches!(keyword, "proxycommand" | "knownhostscommand") {
        return Some(if rest.is_empty() { Vec::new() } else { vec![rest.to_owned()] });
    }
    words(rest)
}

/// Cuts a line into words: quotation marks hold spaces together, a backslash keeps what follows, `#` begins a
/// comment. `None` when a quotation mark is missing.
pub(crate) fn words(text: &str) -> Option<Vec<String>> {
    let mut words = Vec::new();
    let mut chars = text.chars().peekable();
    loop {
        while chars.next_if(|c| c.is_whitespace()).is_some() {}
        match chars.peek() {
            None | Some('#') => return Some(words),
            Some(_) => {}
        }
        let mut word = String::new();
        let mut quote = None;
        while let Some(&c) = chars.peek() {
            if quote.is_none() && c.is_whitespace() {
                break;
            }
            chars.next();
            match (c, quote) {
                ('\\', _) => match chars.peek() {
                    Some(&next) if "'\"\\".contains(next) || (quote.is_none() && next == ' ') => {
                        word.push(next);
                        chars.next();
                    }
                    _ => word.push('\\'),
                },
                ('"' | '\'', None) => quote = Some(c),
                (c, Some(open)) if c == open => quote = None,
                (c, _) => word.push(c),
            }
        }
        if quote.is_some() {
            return None;
        }
        words.push(word);
    }
}
