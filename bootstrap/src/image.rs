//! Which program is shipped to which platform.

use std::collections::HashMap;
use std::fs;
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};

use tokio::sync::Mutex;

use crate::artifact::{Artifact, ArtifactError, Header};
use crate::platform::Platform;

/// The program that becomes the worker, in its builds for one or more platforms. Cloning shares what was loaded.
///
/// A program is its own worker, so the plain case is [`Program::current`]. A platform that this program was not built
/// for is served by a build found [beside](Program::beside) it or in a [folder](Program::folder) of images. Such files
/// are told apart by what their headers say, not by what follows the name.
///
/// ```no_run
/// # fn main() -> std::io::Result<()> {
/// use farcall_bootstrap::image::Program;
///
/// let program = Program::current()?.beside("farcall-worker").folder("/usr/lib/farcall");
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug)]
pub struct Program {
    /// What is read and started.
    main: PathBuf,
    /// Where it was installed: its name and its neighbours.
    path: PathBuf,
    twin: Option<String>,
    folders: Vec<PathBuf>,
    found: Arc<Found>,
}

/// What was found once and serves every start.
#[derive(Debug, Default)]
struct Found {
    local: OnceLock<PathBuf>,
    artifacts: Mutex<HashMap<Platform, Artifact>>,
}

/// Why there is nothing to ship.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ImageError {
    /// No build for that platform was found.
    #[error("no build of {name} for {platform}")]
    Missing {
        /// The program's file name.
        name: String,
        /// The far side's platform.
        platform: Platform,
        /// Where a build was looked for.
        looked: Vec<PathBuf>,
    },
    /// A build was found but is of no use.
    #[error(transparent)]
    Artifact(#[from] ArtifactError),
}

impl ImageError {
    /// What the person who reads this can do.
    pub fn hint(&self) -> String {
        match self {
            ImageError::Missing { name, platform, looked } => {
                let places: Vec<_> = looked.iter().map(|path| path.display().to_string()).collect();
                format!(
                    "build {name} for {platform} (`rustup target add`, `cargo build --target`) and put it, under a name \
                     that begins with {name}, into {}",
                    places.join(" or ")
                )
            }
            ImageError::Artifact(_) => "rebuild the program, or correct its path".into(),
        }
    }
}

/// How many files of a folder are looked at.
const FOLDER_LIMIT: usize = 4096;

impl Program {
    /// The running program, also when its file was replaced or removed since it started.
    pub fn current() -> io::Result<Self> {
        let mut this = Self::at(std::env::current_exe()?);
        // An upgrade may at any time put another program where this one was. What runs is still reached through /proc, and
        // that also holds in a child that has not yet executed anything.
        let running = Path::new("/proc/self/exe");
        if cfg!(target_os = "linux") && running.exists() {
            this.main = running.into();
            this.path = without_mark(this.path);
        }
        Ok(this)
    }

    /// The program in a file.
    pub fn at(path: impl Into<PathBuf>) -> Self {
        let path = path.into();
        Self { main: path.clone(), path, twin: None, folders: Vec::new(), found: Arc::default() }
    }

    /// Prefers files beside the program whose names begin with `twin`: leaner builds, or builds for other platforms.
    #[must_use]
    pub fn beside(mut self, twin: impl Into<String>) -> Self {
        self.twin = Some(twin.into());
        self.found = Arc::default();
        self
    }

    /// Looks for other platforms' builds in a folder too: files whose names begin with the twin's name or the program's.
    /// May be called again for further folders.
    #[must_use]
    pub fn folder(mut self, path: impl Into<PathBuf>) -> Self {
        self.folders.push(path.into());
        self.found = Arc::default();
        self
    }

    /// What is started on this machine: the twin for this platform, or else the program itself.
    pub fn local(&self) -> &Path {
        self.found.local.get_or_init(|| self.find(&Platform::current()).unwrap_or_else(|| self.main.clone()))
    }

    /// The build for this machine's platform, the first guess for any place.
    ///
    /// Cancel-safe. Concurrent calls load a file once.
    pub async fn for_here(&self) -> Result<Artifact, ImageError> {
        self.for_platform(&Platform::current()).await
    }

    /// The build for `platform`: static ones before others.
    ///
    /// Cancel-safe. Concurrent calls load a file once.
    pub async fn for_platform(&self, platform: &Platform) -> Result<Artifact, ImageError> {
        let this = self.clone();
        let wanted = platform.clone();
        // Held while loading, so that many starts at once read and digest a program once.
        let mut artifacts = self.found.artifacts.lock().await;
        if let Some(known) = artifacts.get(platform) {
            return Ok(known.clone());
        }
        let artifact = tokio::task::spawn_blocking(move || this.load(&wanted))
            .await
            .unwrap_or_else(|_| self.load(platform))?; // the runtime is ending: do it here
        artifacts.insert(platform.clone(), artifact.clone());
        Ok(artifact)
    }

    fn load(&self, platform: &Platform) -> Result<Artifact, ImageError> {
        if let Some(path) = self.find(platform) {
            return Ok(Artifact::load(&path)?);
        }
        let main = Artifact::load(&self.main)?;
        if main.platform() == platform {
            return Ok(main);
        }
        let mut looked: Vec<PathBuf> = self.path.parent().map(Into::into).into_iter().collect();
        looked.extend(self.folders.iter().cloned());
        Err(ImageError::Missing { name: self.name(), platform: platform.clone(), looked })
    }

    fn name(&self) -> String {
        let main = || self.path.file_name().map(|name| name.to_string_lossy().into_owned());
        self.twin.clone().or_else(main).unwrap_or_default()
    }

    /// A build for `platform` other than the program itself.
    fn find(&self, platform: &Platform) -> Option<PathBuf> {
        let name = self.name();
        let beside = self.path.parent().filter(|_| self.twin.is_some());
        // The plain name first: the usual case needs no look at a folder that may be /usr/bin.
        if let Some(folder) = beside {
            let path = folder.join(&name);
            if header_of(&path)
                .is_some_and(|header| header.platform == *platform && header.interpreter.is_none())
            {
                return Some(path);
            }
        }
        let mut dynamic = None;
        for folder in beside.into_iter().chain(self.folders.iter().map(PathBuf::as_path)) {
            let Ok(entries) = fs::read_dir(folder) else { continue };
            let mut paths: Vec<_> = entries
                .take(FOLDER_LIMIT)
                .filter_map(|entry| Some(entry.ok()?.path()))
                .filter(|path| path.file_name().is_some_and(|file| file.to_string_lossy().starts_with(&name)))
                .collect();
            paths.sort();
            for path in paths {
                match header_of(&path) {
                    Some(header) if header.platform != *platform => {}
                    Some(header) if header.interpreter.is_none() => return Some(path),
                    Some(_) => dynamic = dynamic.or(Some(path)),
                    None => {}
                }
            }
        }
        dynamic
    }
}

/// Linux says of a file that was removed or replaced where it was, and that behind the name.
fn without_mark(path: PathBuf) -> PathBuf {
    match path.to_str().and_then(|text| text.strip_suffix(" (deleted)")) {
        Some(name) if !path.exists() => name.into(),
        _ => path,
    }
}

/// What a program file says in its first pages.
fn header_of(path: &Path) -> Option<Header> {
    if !fs::metadata(path).ok()?.is_file() {
        return None; // opening a pipe would wait
    }
    let mut start = Vec::new();
    fs::File::open(path).ok()?.take(64 * 1024).read_to_end(&mut start).ok()?;
    Header::parse(&start)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A program of another processor: this one with the machine number changed (offset 18 of the ELF header).
    fn foreign(folder: &Path, name: &str) -> PathBuf {
        let mut bytes = fs::read(std::env::current_exe().expect("a path")).expect("readable");
        bytes[18..20].copy_from_slice(&object::elf::EM_S390.0.to_le_bytes());
        let path = folder.join(name);
        fs::write(&path, bytes).expect("written");
        path
    }

    fn s390x() -> Platform {
        Platform::from_uname("Linux", "s390x").expect("known")
    }

    #[tokio::test]
    async fn the_program_serves_its_own_platform_and_is_read_once() {
        let program = Program::current().expect("a program");
        let (a, b) = tokio::join!(program.for_here(), program.for_here());
        let (a, b) = (a.expect("loads"), b.expect("loads"));
        assert!(std::ptr::eq(a.bytes(), b.bytes()));
    }

    #[tokio::test]
    async fn a_missing_build_says_which_and_where_it_belongs() {
        let folder = tempfile::tempdir().expect("a folder");
        let program = Program::current().expect("a program").folder(folder.path());
        let error = program.for_platform(&s390x()).await.expect_err("none there");
        assert!(error.to_string().ends_with("for s390x-linux"), "{error}");
        assert!(error.hint().contains(&folder.path().display().to_string()), "{}", error.hint());
    }

    #[tokio::test]
    async fn a_twin_is_found_beside_and_images_in_a_folder() {
        let folder = tempfile::tempdir().expect("a folder");
        let images = tempfile::tempdir().expect("a folder");
        let main = folder.path().join("tool");
        let twin = folder.path().join("tool-worker");
        fs::copy(std::env::current_exe().expect("a path"), &main).expect("copied");
        fs::copy(&main, &twin).expect("copied");
        fs::write(images.path().join("tool-worker.txt"), "no program").expect("written");
        let image = foreign(images.path(), "tool-worker-s390x-unknown-linux-musl");

        let plain = Program::at(&main);
        assert_eq!(plain.for_here().await.expect("itself").path(), main);
        assert_eq!(plain.local(), main);
        let program = plain.beside("tool-worker").folder(images.path());
        assert_eq!(program.local(), twin);
        assert_eq!(program.for_platform(&s390x()).await.expect("an image").path(), image);
        assert_eq!(program.for_here().await.expect("the twin").path(), twin);
    }
}
