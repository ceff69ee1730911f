//! A home folder for one test.

use std::path::{Path, PathBuf};

use crate::keys::{KeyKind, KeyPair};

/// An empty home folder with a `.ssh` in it, removed when dropped.
pub struct TempHome {
    dir: tempfile::TempDir,
}

impl Default for TempHome {
    fn default() -> Self {
        Self::new()
    }
}

impl TempHome {
    /// A new home.
    pub fn new() -> Self {
        let dir = tempfile::Builder::new().prefix("farcall-home-").tempdir().expect("a temporary folder");
        std::fs::create_dir(dir.path().join(".ssh")).expect("an empty folder");
        Self { dir }
    }

    /// The folder.
    pub fn path(&self) -> &Path {
        self.dir.path()
    }

    /// The path of `name` in `.ssh`.
    pub fn ssh(&self, name: &str) -> PathBuf {
        self.dir.path().join(".ssh").join(name)
    }

    /// Writes `text` to `name` in `.ssh`, and returns its path.
    pub fn write(&self, name: &str, text: &str) -> PathBuf {
        let path = self.ssh(name);
        std::fs::create_dir_all(path.parent().expect("a file in a folder")).expect("a folder");
        std::fs::write(&path, text).expect("a writable folder");
        path
    }

    /// Makes a key pair with the given file name in `.ssh`.
    pub fn key(&self, name: &str, kind: KeyKind) -> KeyPair {
        KeyPair::generate(self.ssh(name), kind, "")
    }

    /// The text of `name` in `.ssh`.
    pub fn read(&self, name: &str) -> String {
        std::fs::read_to_string(self.ssh(name)).expect("a file that was written")
    }
}
