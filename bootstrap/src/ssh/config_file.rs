//! A reader of OpenSSH configuration files: for those that mean the same to everybody, and for machines without the `ssh`
//! program.

use std::io::Read;
use std::os::unix::fs::MetadataExt;
use std::path::{Component, Path, PathBuf};

use super::config::Raw;
use super::{config_plain, pattern};

/// How deep files may include each other, as in OpenSSH.
const DEPTH: u32 = 16;

/// A configuration file that cannot be followed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum FileError {
    #[error("{}: cannot be read", .0.display())]
    Read(PathBuf, #[source] std::io::Error),
    #[error("{}: belongs to somebody else, or others may write to it, so ssh does not read it", .0.display())]
    Others(PathBuf),
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

/// What is asked of a file.
#[derive(Clone, Copy)]
struct Trust {
    /// It must be there.
    required: bool,
    /// It must be ours or root's, and nobody else may be able to write to it.
    owned: bool,
}

/// Included files are checked wherever they are included: as in OpenSSH, also from a file that is not checked itself.
const INCLUDED: Trust = Trust { required: false, owned: true };

impl Trust {
    /// The content; nothing when others could have written it.
    fn read(self, file: &Path) -> std::io::Result<Option<Vec<u8>>> {
        let mut file = std::fs::File::open(file)?;
        // Of the file that is open, not of whatever has its name a moment later.
        let metadata = file.metadata()?;
        let own = rustix::process::getuid().as_raw();
        if self.owned && (![0, own].contains(&metadata.uid()) || metadata.mode() & 0o022 != 0) {
            return Ok(None);
        }
        let mut text = Vec::new();
        file.read_to_end(&mut text)?;
        Ok(Some(text))
    }
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

    /// Reads the file that a caller names, which must be there and may be anybody's.
    pub(crate) fn named_file(&mut self, file: &Path) -> Result<(), FileError> {
        self.read(file, Trust { required: true, owned: false }, true, file.starts_with("/etc/ssh"), 0)
    }

    /// Reads the user's file, if it is there. Nobody else may be able to write to it.
    pub(crate) fn user_file(&mut self, file: &Path) -> Result<(), FileError> {
        self.read(file, Trust { required: false, owned: true }, true, false, 0)
    }

    /// Reads the system's file, if it is there.
    pub(crate) fn system_file(&mut self, file: &Path) -> Result<(), FileError> {
        self.read(file, Trust { required: false, owned: false }, true, true, 0)
    }

    fn read(
        &mut self,
        file: &Path,
        trust: Trust,
        applies: bool,
        system: bool,
        depth: u32,
    ) -> Result<(), FileError> {
        let text = match trust.read(file) {
            Ok(Some(text)) => text,
            Ok(None) => return Err(FileError::Others(file.to_owned())),
            Err(e) if trust.required || e.kind() != std::io::ErrorKind::NotFound => {
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
                        self.read(&included, INCLUDED, active, system, depth + 1)?;
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
            files.extend(matching(&path));
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

/// The files that a pattern names, as with glob(3).
fn matching(pattern: &Path) -> Vec<PathBuf> {
    // Two stars are any number of folders to the library, and one star to glob(3).
    let mut text = pattern.to_string_lossy().into_owned();
    while text.contains("**") {
        text = text.replace("**", "*");
    }
    // A pattern that means nothing names no file, as in OpenSSH.
    let Ok(found) = glob::glob(&text) else { return Vec::new() };
    // What is hidden is named by a pattern that begins with a dot, and by no other. The library's own option for that hides
    // it from those as well.
    let hidden = |name: Component<'_>| name.as_os_str().as_encoded_bytes().starts_with(b".");
    let named = |path: &PathBuf| {
        let pairs = path.components().rev().zip(Path::new(&text).components().rev());
        pairs.into_iter().all(|(name, pattern)| !hidden(name) || hidden(pattern))
    };
    found.filter_map(Result::ok).filter(named).collect()
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
