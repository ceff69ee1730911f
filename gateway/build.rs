//! Numbers the sources, so that workers built from others are told apart though they have the same version.

use std::path::Path;
use std::{env, fs, io};

fn main() -> io::Result<()> {
    // The folders of the crates below, where this is built in the workspace; from a registry their versions are pinned.
    let folders = ["src", "../bootstrap/src", "../channel/src"];
    let mut hash = Hash(0xcbf2_9ce4_8422_2325);
    for folder in folders.map(Path::new).into_iter().filter(|folder| folder.is_dir()) {
        println!("cargo::rerun-if-changed={}", folder.display());
        hash.folder(folder)?;
    }
    hash.bytes(env::var("CARGO_PKG_VERSION").unwrap_or_default().as_bytes());
    println!("cargo::rerun-if-changed=build.rs");
    println!("cargo::rustc-env=FARCALL_BUILD={:016x}", hash.0);
    Ok(())
}

/// FNV-1a: it need not hold against forgers, who could as well forge the number.
struct Hash(u64);

impl Hash {
    fn bytes(&mut self, bytes: &[u8]) {
        for byte in bytes.len().to_be_bytes().iter().chain(bytes) {
            self.0 = (self.0 ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3);
        }
    }

    /// All files below, by name.
    fn folder(&mut self, folder: &Path) -> io::Result<()> {
        let mut entries = fs::read_dir(folder)?.collect::<io::Result<Vec<_>>>()?;
        entries.sort_by_key(fs::DirEntry::file_name);
        for entry in entries {
            let path = entry.path();
            if entry.file_type()?.is_dir() {
                self.folder(&path)?;
            } else if path.extension().is_some_and(|extension| extension == "rs" || extension == "sh") {
                self.bytes(entry.file_name().as_encoded_bytes());
                self.bytes(&fs::read(&path)?);
            }
        }
        Ok(())
    }
}
