//! What a program needs of a place: operating system, processor, C library.

use std::fmt;

/// An operating system and processor, in the words that Rust's target names use (`linux`, `x86_64`).
///
/// ```
/// use farcall_bootstrap::platform::Platform;
///
/// let platform = Platform::from_uname("FreeBSD", "amd64").expect("a known shape");
/// assert_eq!(platform.to_string(), "x86_64-freebsd");
/// ```
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Platform {
    os: String,
    arch: String,
}

/// The C library that a place has, as far as it matters: for programs that are not static.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Libc {
    /// glibc, or a system where that question has no meaning.
    Gnu,
    /// musl.
    Musl,
}

/// The longest name of a system or processor that is believed.
const NAME_LIMIT: usize = 32;

impl Platform {
    /// The platform that this program runs on.
    pub fn current() -> Self {
        Self { os: std::env::consts::OS.into(), arch: std::env::consts::ARCH.into() }
    }

    /// From the words that `uname -s` and `uname -m` print; `None` when they are no such words.
    pub fn from_uname(system: &str, machine: &str) -> Option<Self> {
        let word = |s: &str| {
            let fits = !s.is_empty() && s.len() <= NAME_LIMIT;
            fits && s.bytes().all(|b| b.is_ascii_alphanumeric() || b"._-+".contains(&b))
        };
        if !word(system) || !word(machine) {
            return None;
        }
        let os = match system.to_ascii_lowercase().as_str() {
            "darwin" => "macos".into(),
            other => other.to_owned(),
        };
        let arch = match machine.to_ascii_lowercase().as_str() {
            "amd64" | "x64" => "x86_64".into(),
            "arm64" => "aarch64".into(),
            "i386" | "i486" | "i586" | "i686" | "i86pc" => "x86".into(),
            "ppc64le" | "ppc64el" => "powerpc64le".into(),
            other if other.starts_with("armv") => "arm".into(),
            other => other.to_owned(),
        };
        Some(Self { os, arch })
    }

    /// The platform of a program file, read from its ELF header.
    pub(crate) fn of_elf(machine: object::elf::Machine, os: Option<&str>) -> Option<Self> {
        use object::elf;
        let arch = match machine {
            elf::EM_X86_64 => "x86_64",
            elf::EM_386 => "x86",
            elf::EM_AARCH64 => "aarch64",
            elf::EM_ARM => "arm",
            elf::EM_RISCV => "riscv64",
            elf::EM_PPC64 => "powerpc64le",
            elf::EM_S390 => "s390x",
            elf::EM_LOONGARCH => "loongarch64",
            _ => return None,
        };
        Some(Self { os: os.unwrap_or("linux").into(), arch: arch.into() })
    }

    /// The operating system: `linux`, `macos`, `freebsd`, …
    pub fn os(&self) -> &str {
        &self.os
    }

    /// The processor: `x86_64`, `aarch64`, `arm`, …
    pub fn arch(&self) -> &str {
        &self.arch
    }

    /// The words that `uname -s` and `uname -m` most likely print there.
    pub(crate) fn uname(&self) -> (String, String) {
        let system = match self.os.as_str() {
            "linux" => "Linux",
            "macos" => "Darwin",
            "freebsd" => "FreeBSD",
            "netbsd" => "NetBSD",
            "openbsd" => "OpenBSD",
            other => other,
        };
        let machine = match (self.arch.as_str(), self.os.as_str()) {
            ("x86_64", "freebsd" | "netbsd" | "openbsd") => "amd64",
            ("aarch64", "macos" | "freebsd" | "openbsd") => "arm64",
            ("x86", _) => "i686",
            ("arm", _) => "armv7l",
            ("powerpc64le", _) => "ppc64le",
            (other, _) => other,
        };
        (system.into(), machine.into())
    }
}

impl fmt::Display for Platform {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}", self.arch, self.os)
    }
}

impl fmt::Display for Libc {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Libc::Gnu => "gnu",
            Libc::Musl => "musl",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_a_processor_come_to_one() {
        for (machine, arch) in [
            ("x86_64", "x86_64"),
            ("amd64", "x86_64"),
            ("arm64", "aarch64"),
            ("aarch64", "aarch64"),
            ("armv7l", "arm"),
            ("i686", "x86"),
            ("ppc64le", "powerpc64le"),
            ("s390x", "s390x"),
        ] {
            assert_eq!(Platform::from_uname("Linux", machine).expect(machine).arch(), arch);
        }
    }

    #[test]
    fn what_is_no_name_is_refused() {
        for bad in ["", "x y", "x/../y", "é", &"x".repeat(33), "x\n"] {
            assert_eq!(Platform::from_uname(bad, "x86_64"), None, "{bad:?}");
            assert_eq!(Platform::from_uname("Linux", bad), None, "{bad:?}");
        }
    }

    #[test]
    fn what_uname_should_print_is_read_back() {
        let current = Platform::current();
        let (system, machine) = current.uname();
        assert_eq!(Platform::from_uname(&system, &machine), Some(current));
    }
}
