//! Adding a new host's key to a known hosts file.

use std::fs::{File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use russh::keys::PublicKey;
use russh::keys::ssh_key::known_hosts::HostPatterns;
use rustix::fs::{FlockOperation, flock};

use super::known_hosts::{KnownHosts, Place, Standing, hash_name};

/// What came of it.
#[derive(Debug)]
pub(crate) enum Remembered {
    Now,
    /// Somebody else did so meanwhile.
    Already,
    /// Somebody else remembered another key meanwhile.
    Contradicted(Place),
}

/// Appends a line for `name` to `file`, unless `files` know the host by now.
///
/// Many connections to one new host may come here at once, in this program and in others: a lock on the file makes them
/// look again one after the other, so the key is written once, and two servers that show different keys are not both
/// believed. An existing last line without its end is ended first.
pub(crate) fn append(
    file: &Path,
    files: &[PathBuf],
    name: &str,
    key: &PublicKey,
    hash: bool,
) -> io::Result<Remembered> {
    // The lock on a file is held by an open file, not by a thread.
    static TURN: Mutex<()> = Mutex::new(());
    let _turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);

    if let Some(folder) = file.parent().filter(|folder| !folder.as_os_str().is_empty()) {
        std::fs::DirBuilder::new().recursive(true).mode(0o700).create(folder)?;
    }
    let mut open = OpenOptions::new().read(true).append(true).create(true).mode(0o600).open(file)?;
    if !open.metadata()?.is_file() {
        // /dev/null: nothing is remembered, on request.
        return Ok(Remembered::Now);
    }
    flock(&open, FlockOperation::LockExclusive)?;
    match KnownHosts::read(files, name).standing(key.key_data()) {
        Standing::New => {}
        Standing::Known => return Ok(Remembered::Already),
        Standing::Changed(other) | Standing::Revoked(other) => {
            return Ok(Remembered::Contradicted(other.place.clone()));
        }
    }
    let hosts = hosts(name, hash)?;
    let plain = PublicKey::new(key.key_data().clone(), "").to_openssh().map_err(io::Error::other)?;
    let mut line = format!("{hosts} {}\n", plain.trim_end());
    if !ends_with_newline(&mut open)? {
        line.insert(0, '\n');
    }
    // One write: a reader, or another program that appends, never sees half a line.
    open.write_all(line.as_bytes())?;
    Ok(Remembered::Now)
}

/// How a line names its host: as it is, or hidden.
pub(crate) fn hosts(name: &str, hash: bool) -> io::Result<String> {
    if !hash {
        return Ok(name.to_owned());
    }
    let mut salt = [0; 20];
    getrandom::fill(&mut salt).map_err(io::Error::other)?;
    Ok(HostPatterns::HashedName { salt: salt.to_vec(), hash: hash_name(&salt, name) }.to_string())
}

/// Whether what is appended to a file begins a line of its own.
pub(crate) fn ends_with_newline(file: &mut File) -> io::Result<bool> {
    if file.metadata()?.len() == 0 {
        return Ok(true);
    }
    file.seek(SeekFrom::End(-1))?;
    let mut last = [0];
    file.read_exact(&mut last)?;
    Ok(last == *b"\n")
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    fn key(text: &str) -> PublicKey {
        PublicKey::from_openssh(text).expect("a key")
    }

    const A: &str = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIJdD7y3aLq454yWBdwLWbieU1ebz9/cu7/QEXn9OIeZJ";
    const B: &str = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIK2pr+Bfus1hvPof4Wb/plZCzSbqadHH0u+/f4ODtKnE";

    #[test]
    fn a_key_is_written_once_by_many_and_never_beside_another() {
        let dir = tempfile::tempdir().expect("a folder");
        let file = dir.path().join("new/known_hosts");
        let files = [file.clone()];
        std::thread::scope(|scope| {
            for _ in 0..8 {
                scope.spawn(|| append(&file, &files, "[h]:22", &key(A), false).expect("written"));
            }
        });
        assert_eq!(std::fs::read_to_string(&file).expect("there"), format!("[h]:22 {A}\n"));
        let mode = |path: &Path| std::fs::metadata(path).expect("there").permissions().mode() & 0o777;
        assert_eq!((mode(&file), mode(file.parent().expect("a folder"))), (0o600, 0o700));
        let other = append(&file, &files, "[h]:22", &key(B), false).expect("looked");
        assert!(matches!(other, Remembered::Contradicted(place) if place.line == 1));
    }

    #[test]
    fn an_unfinished_last_line_is_ended_and_names_are_hidden() {
        let dir = tempfile::tempdir().expect("a folder");
        let file = dir.path().join("known_hosts");
        std::fs::write(&file, format!("other {B}")).expect("written");
        let files = [file.clone()];
        append(&file, &files, "host", &key(A), true).expect("written");
        let text = std::fs::read_to_string(&file).expect("there");
        assert!(text.starts_with(&format!("other {B}\n|1|")) && !text.contains("host"), "{text}");
        assert!(matches!(append(&file, &files, "host", &key(A), true), Ok(Remembered::Already)));
    }
}
