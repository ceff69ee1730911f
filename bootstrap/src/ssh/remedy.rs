//! What a person can do about a host key that was not accepted.

use std::fs::File;
use std::path::{Path, PathBuf};

use super::host_key::{CertificateProblem, HostKeyError, ShownKey};
use super::known_hosts::KnownHosts;
use super::remember;

/// Where keys of a host are known from.
pub(crate) struct Whereabouts<'a> {
    /// The host as the files name it.
    pub name: &'a str,
    /// As its certificate would.
    pub principal: &'a str,
    pub files: &'a [PathBuf],
    /// The file that new keys are written to.
    pub user_file: Option<&'a Path>,
    /// Whether names are hidden there.
    pub hash_names: bool,
}

impl Whereabouts<'_> {
    /// What mends `error`, for a person who has compared the fingerprint. Where that is a command, it comes last, so that it
    /// can be copied to the end of the line.
    pub(crate) fn remedy(&self, error: &HostKeyError) -> Option<String> {
        let mended = match error {
            HostKeyError::Unknown { certificate: Some(problem), .. }
            | HostKeyError::Changed { certificate: Some(problem), .. }
                if *problem != CertificateProblem::Authority =>
            {
                self.renew(problem)
            }
            HostKeyError::Unknown { shown, .. } => match self.add(shown) {
                Some(add) => format!("if that fingerprint is the host's, run: {add}"),
                None => NOWHERE.to_owned(),
            },
            HostKeyError::Changed { shown, file, line, .. } => {
                let remove = self.remove(file, *line);
                match self.add(shown) {
                    Some(add) => format!("if the host was given that new key, run: {remove} && {add}"),
                    None => NOWHERE.to_owned(),
                }
            }
            HostKeyError::Short { .. } => {
                return Some(
                    "give the host a longer key or one of another kind, or set RequiredRSASize lower for it"
                        .to_owned(),
                );
            }
            _ => return None,
        };
        let bad = KnownHosts::read(self.files, self.name).bad;
        let notes: String =
            bad.iter().map(|bad| format!("{}:{} cannot be read; ", bad.file.display(), bad.line)).collect();
        Some(notes + &mended)
    }

    /// To trust the key that a certificate vouches for in vain would be to give up the authority.
    fn renew(&self, problem: &CertificateProblem) -> String {
        match problem {
            CertificateProblem::Time => {
                "have the host's certificate renewed, and see that the clocks here and there are right"
                    .to_owned()
            }
            CertificateProblem::Principal => format!(
                "connect by a name that the host's certificate is for, or have one made for {}",
                self.principal
            ),
            _ => "have the host's certificate made anew by the authority".to_owned(),
        }
    }

    /// The command that forgets a key.
    fn remove(&self, file: &Path, line: usize) -> String {
        let known = KnownHosts::read(std::slice::from_ref(&file.to_owned()), self.name);
        let literal = known.keys.iter().any(|k| k.place.line == line && k.place.literal);
        let quoted = quote(&file.to_string_lossy());
        if literal {
            format!("ssh-keygen -R {} -f {quoted}", quote(self.name))
        } else {
            // A line with wildcards is not found by name.
            format!("sed -i {line}d {quoted}")
        }
    }

    /// The command that makes known the very key that was shown. To ask the host again (`ssh-keyscan`) would reach none behind
    /// a jump host or a proxy command, and could be told another key than the one that the person has compared.
    fn add(&self, shown: &ShownKey) -> Option<String> {
        let file =
            self.user_file.filter(|file| std::fs::metadata(file).map_or(true, |about| about.is_file()))?;
        let hosts = remember::hosts(self.name, self.hash_names).ok()?;
        let line = quote(&format!("{hosts} {} {}", shown.kind, shown.key));
        let quoted = quote(&file.to_string_lossy());
        let folder = match file.parent().filter(|folder| !folder.as_os_str().is_empty() && !folder.exists()) {
            Some(folder) => format!("mkdir -p -m 700 {} && ", quote(&folder.to_string_lossy())),
            None => String::new(),
        };
        // No file has no unfinished line.
        let finished =
            File::open(file).and_then(|mut file| remember::ends_with_newline(&mut file)).unwrap_or(true);
        let print = match (finished, line.contains('\\')) {
            // Some shells' echo reads backslashes.
            (false, _) => "printf '\\n%s\\n'",
            (true, true) => "printf '%s\\n'",
            (true, false) => "echo",
        };
        Some(format!("{folder}{print} {line} >> {quoted}"))
    }
}

/// Nothing could be written anywhere.
const NOWHERE: &str =
    "name a file that keys can be remembered in with UserKnownHostsFile: the configuration has none";

/// Quotes a word for a POSIX shell where it needs that.
fn quote(word: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "/._-~:@%+=,".contains(c);
    if !word.is_empty() && word.chars().all(plain) {
        return word.to_owned();
    }
    format!("'{}'", word.replace('\'', "'\\''"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_for_a_shell() {
        assert_eq!(quote("/root/.ssh/known_hosts"), "/root/.ssh/known_hosts");
        assert_eq!(quote("[a]:22"), "'[a]:22'");
        assert_eq!(quote("it's"), "'it'\\''s'");
        assert_eq!(quote(""), "''");
    }

    /// What a shell makes of the command is the line, whatever the names are and however the file ends.
    #[test]
    fn the_command_appends_the_line() {
        let folder = tempfile::tempdir().expect("a folder");
        let file = folder.path().join("it's new/a file; $(false)");
        let shown = ShownKey {
            kind: "ssh-ed25519".into(),
            fingerprint: "SHA256:x".into(),
            key: "AAAAC3NzaC1lZDI1NTE5AAAAIJdD7y3aLq454yWBdwLWbieU1ebz9/cu7/QEXn9OIeZJ".into(),
        };
        let mut expected = String::new();
        for (name, unfinished) in [("[a]:22", ""), ("b'\"$(false)`", ""), ("c\\n\\t!", "x y z"), ("d", "")] {
            if !unfinished.is_empty() {
                expected = format!("{expected}{unfinished}");
                std::fs::write(&file, &expected).expect("there by now");
                expected.push('\n');
            }
            let files = [];
            let known = Whereabouts {
                name,
                principal: name,
                files: &files,
                user_file: Some(&file),
                hash_names: false,
            };
            let command = known.add(&shown).expect("there is a file");
            let output = std::process::Command::new("sh").args(["-c", &command]).output().expect("a shell");
            assert!(output.status.success(), "{command}: {}", String::from_utf8_lossy(&output.stderr));
            expected = format!("{expected}{name} {} {}\n", shown.kind, shown.key);
            assert_eq!(std::fs::read_to_string(&file).expect("written"), expected, "{command}");
        }
        let nowhere = Path::new("/dev/null");
        let known = Whereabouts {
            name: "a",
            principal: "a",
            files: &[],
            user_file: Some(nowhere),
            hash_names: false,
        };
        assert_eq!(known.add(&shown), None);
    }
}
