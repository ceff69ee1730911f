//! Writes what each host says to a file of its name.

use std::fs::File;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::{HostId, OutputError};
use crate::hosts::Host;

/// The longest file name that common file systems take, in bytes.
const MAX_FILE_NAME: usize = 255;

/// A folder with a file per host. Files are open only while their host is at work.
pub(super) struct Files {
    dir: PathBuf,
    names: Vec<String>,
    open: Vec<Option<File>>,
    append: bool,
}

impl Files {
    /// Makes the folder, with its parents, where it is missing.
    pub(super) fn new(dir: &Path, hosts: Arc<[Host]>, append: bool) -> Result<Self, OutputError> {
        let names: Vec<String> = hosts.iter().map(|host| file_name(host.name())).collect();
        if let Some(at) = names.iter().position(|name| name.len() > MAX_FILE_NAME) {
            return Err(OutputError::FileName { host: hosts[at].name().to_owned() });
        }
        std::fs::create_dir_all(dir).map_err(|source| OutputError::File { path: dir.to_owned(), source })?;
        let open = names.iter().map(|_| None).collect();
        Ok(Files { dir: dir.to_owned(), names, open, append })
    }

    /// Makes the file, also for a host that will say nothing: an old file would look like its answer.
    pub(super) fn open(&mut self, host: HostId) -> Result<(), OutputError> {
        let mut options = File::options();
        match self.append {
            true => options.append(true),
            false => options.write(true).truncate(true),
        };
        let file = options.create(true).open(self.path(host));
        self.open[host.0] = Some(file.map_err(|source| self.error(host, source))?);
        Ok(())
    }

    /// Writes at once, so that the file can be watched.
    pub(super) fn write(&mut self, host: HostId, bytes: &[u8]) -> Result<(), OutputError> {
        let written = match &mut self.open[host.0] {
            Some(file) => file.write_all(bytes),
            None => Err(io::Error::other("the host says something without having been started")),
        };
        written.map_err(|source| self.error(host, source))
    }

    pub(super) fn close(&mut self, host: HostId) {
        self.open[host.0] = None;
    }

    fn path(&self, host: HostId) -> PathBuf {
        self.dir.join(&self.names[host.0])
    }

    fn error(&self, host: HostId, source: io::Error) -> OutputError {
        OutputError::File { path: self.path(host), source }
    }
}

/// A host's name as the name of one file in a folder: what could lead out of it, or trouble a shell, is written as
/// `%` and two hexadecimal digits. Different hosts have different files.
fn file_name(host: &str) -> String {
    let mut name = String::with_capacity(host.len());
    for (at, byte) in host.bytes().enumerate() {
        match byte {
            b'.' if at == 0 => name.push_str("%2E"), // neither hidden nor `..`
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'.' | b'_' | b'-' | b'@' | b':' | b'+' | b'#' => {
                name.push(byte as char);
            }
            other => name.push_str(&format!("%{other:02X}")),
        }
    }
    name
}

#[cfg(test)]
mod tests {
    use super::file_name;

    #[test]
    fn no_name_leads_out_of_the_folder() {
        let cases = [
            ("web03", "web03"),
            ("local#2", "local#2"),
            ("..", "%2E."),
            (".", "%2E"),
            ("../../etc/passwd", "%2E.%2F..%2Fetc%2Fpasswd"),
            ("ssh://u@h:22?chdir=/srv", "ssh:%2F%2Fu@h:22%3Fchdir%3D%2Fsrv"),
            ("50%", "50%25"),
            ("é", "%C3%A9"),
        ];
        for (host, name) in cases {
            assert_eq!(file_name(host), name);
        }
    }
}
