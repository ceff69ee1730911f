//! A program as it is shipped: its bytes, digest and platform, and its compressed form.

use std::fmt;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use flate2::Compression;
use flate2::write::GzEncoder;
use object::read::elf::{FileHeader, ProgramHeader};
use object::{Endianness, FileKind, elf};
use sha2::{Digest as _, Sha256};
use tokio::sync::OnceCell;

use crate::platform::Platform;
use crate::strip;

/// A program for one platform, ready to be shipped. Cloning shares it.
#[derive(Clone)]
pub struct Artifact(Arc<Inner>);

struct Inner {
    path: PathBuf,
    bytes: Vec<u8>,
    digest: Digest,
    header: Header,
    packed: OnceCell<Vec<u8>>,
}

/// A SHA-256 digest: every host has some tool that computes it. It shows itself as 64 hexadecimal digits.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Digest([u8; 32]);

/// What the header of a program file says about where it runs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Header {
    pub(crate) platform: Platform,
    pub(crate) interpreter: Option<String>,
}

/// Why a file cannot be shipped.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ArtifactError {
    /// It cannot be read.
    #[error("cannot read {}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// It is no program of a kind that is known here.
    #[error("{} is not a program for a known platform", path.display())]
    NotAProgram {
        /// The file.
        path: PathBuf,
    },
}

impl Artifact {
    /// Reads a program, leaves out its debug sections, and computes its digest. Blocks for as long as that takes: a
    /// few milliseconds for a stripped program, a second for a large one with debug sections.
    pub fn load(path: &Path) -> Result<Self, ArtifactError> {
        // Read, not mapped: a mapped file that somebody truncates would kill this process.
        let bytes =
            std::fs::read(path).map_err(|source| ArtifactError::Read { path: path.into(), source })?;
        let header = Header::parse(&bytes).ok_or_else(|| ArtifactError::NotAProgram { path: path.into() })?;
        let bytes = strip::without_debug(&bytes).unwrap_or(bytes);
        let digest = Digest(Sha256::digest(&bytes).into());
        Ok(Self(Arc::new(Inner { path: path.into(), bytes, digest, header, packed: OnceCell::new() })))
    }

    /// Where it was read from.
    pub fn path(&self) -> &Path {
        &self.0.path
    }

    /// What is shipped.
    pub fn bytes(&self) -> &[u8] {
        &self.0.bytes
    }

    /// The digest of what is shipped.
    pub fn digest(&self) -> Digest {
        self.0.digest
    }

    /// Where it runs.
    pub fn platform(&self) -> &Platform {
        &self.0.header.platform
    }

    /// The dynamic loader that it needs; `None` for a static program, which runs anywhere.
    pub fn interpreter(&self) -> Option<&str> {
        self.0.header.interpreter.as_deref()
    }

    /// The gzip form, made on a blocking thread when it is asked for the first time and shared from then on.
    ///
    /// Cancel-safe: a cancelled call costs at most the work it had begun.
    pub async fn packed(&self) -> &[u8] {
        let make = || async {
            let this = self.clone();
            let packed = tokio::task::spawn_blocking(move || pack(&this.0.bytes)).await;
            packed.unwrap_or_else(|_| pack(&self.0.bytes)) // the runtime is ending: do it here
        };
        self.0.packed.get_or_init(make).await
    }
}

/// Programs up to this size are compressed as well as it goes.
const LEAN: usize = 4 << 20;

/// The last three of nine levels save one byte in twenty-five for three times the work: that is a tenth of a second for a lean
/// program, a second or more for others.
fn pack(bytes: &[u8]) -> Vec<u8> {
    let level = if bytes.len() <= LEAN { Compression::best() } else { Compression::new(6) };
    let mut encoder = GzEncoder::new(Vec::with_capacity(bytes.len() / 2), level);
    encoder.write_all(bytes).expect("a Vec takes all");
    encoder.finish().expect("a Vec takes all")
}

impl fmt::Debug for Artifact {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Artifact")
            .field("path", &self.0.path)
            .field("length", &self.0.bytes.len())
            .field("digest", &self.0.digest)
            .field("header", &self.0.header)
            .finish_non_exhaustive()
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl Header {
    /// Reads it from the whole program, or from its first pages.
    pub(crate) fn parse(file: &[u8]) -> Option<Self> {
        match FileKind::parse(file).ok()? {
            FileKind::Elf64 => Self::parse_elf::<elf::FileHeader64<Endianness>>(file),
            FileKind::Elf32 => Self::parse_elf::<elf::FileHeader32<Endianness>>(file),
            _ => Self::parse_mach(file),
        }
    }

    fn parse_elf<H: FileHeader<Endian = Endianness>>(file: &[u8]) -> Option<Self> {
        let header = H::parse(file).ok()?;
        let endian = header.endian().ok()?;
        if !matches!(header.e_type(endian), elf::ET_EXEC | elf::ET_DYN) {
            return None;
        }
        let os = match header.e_ident().os_abi {
            elf::ELFOSABI_FREEBSD => Some("freebsd"),
            elf::ELFOSABI_NETBSD => Some("netbsd"),
            elf::ELFOSABI_OPENBSD => Some("openbsd"),
            _ => None,
        };
        let platform = Platform::of_elf(header.e_machine(endian), os)?;
        let mut interpreter = None;
        for segment in header.program_headers(endian, file).ok()? {
            if let Ok(Some(name)) = segment.interpreter(endian, file) {
                interpreter = Some(String::from_utf8_lossy(name).into_owned());
            }
        }
        Some(Self { platform, interpreter })
    }

    /// A 64-bit Mach-O program, little-endian: magic, then the processor's number (`mach/machine.h`).
    fn parse_mach(file: &[u8]) -> Option<Self> {
        let word = |at: usize| Some(u32::from_le_bytes(file.get(at..at + 4)?.try_into().ok()?));
        let machine = match (word(0)?, word(4)?) {
            (0xfeed_facf, 0x0100_0007) => "x86_64",
            (0xfeed_facf, 0x0100_000c) => "arm64",
            _ => return None,
        };
        // Its loader is part of every such system, so it never is what is missing.
        Some(Self { platform: Platform::from_uname("Darwin", machine)?, interpreter: None })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Read;

    #[tokio::test]
    async fn this_program_is_static_and_for_this_platform() {
        let artifact = Artifact::load(&std::env::current_exe().expect("a path")).expect("a program");
        assert_eq!(*artifact.platform(), Platform::current());
        assert_eq!(artifact.interpreter(), None, "built with crt-static");
        let mut unpacked = Vec::new();
        flate2::read::GzDecoder::new(artifact.packed().await).read_to_end(&mut unpacked).expect("whole");
        assert!(unpacked == artifact.bytes());
        assert!(artifact.packed().await.len() < artifact.bytes().len() / 2);
    }

    #[test]
    fn the_digest_is_the_one_that_sha256sum_prints() {
        let path = std::env::current_exe().expect("a path");
        let artifact = Artifact::load(&path).expect("a program");
        let folder = tempfile::tempdir().expect("a folder");
        let shipped = folder.path().join("shipped");
        std::fs::write(&shipped, artifact.bytes()).expect("written");
        let output = std::process::Command::new("sha256sum").arg(&shipped).output().expect("sha256sum");
        let printed = String::from_utf8(output.stdout).expect("text");
        assert_eq!(printed.split(' ').next(), Some(artifact.digest().to_string().as_str()));
    }

    #[test]
    fn a_dynamic_program_names_its_loader() {
        let header = Header::parse(&std::fs::read("/bin/sh").expect("a shell")).expect("a program");
        assert!(header.interpreter.expect("Debian's shell is dynamic").contains("ld-linux"));
    }

    #[test]
    fn other_files_are_refused() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("script");
        std::fs::write(&path, "#!/bin/sh\n").expect("written");
        assert!(matches!(Artifact::load(&path), Err(ArtifactError::NotAProgram { .. })));
        assert!(matches!(Artifact::load(&folder.path().join("none")), Err(ArtifactError::Read { .. })));
    }
}
