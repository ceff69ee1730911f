//! Places to start a worker at: private homes, shells, and name spaces with mounts of their own.

#![allow(dead_code, reason = "each test file uses a part of it")]

use std::ffi::OsString;
use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use farcall_bootstrap::error::LaunchError;
use farcall_bootstrap::hub::Hub;
use farcall_bootstrap::image::Program;
use farcall_bootstrap::launch::{Delivery, Launched, launch, launch_via};
use farcall_bootstrap::process::Exit;
use farcall_bootstrap::target::{CommandTarget, LaunchOptions, Target};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};

/// The test worker, shared by the starts of one test.
pub(crate) fn program() -> Program {
    Program::at(env!("CARGO_BIN_EXE_farcall-bootstrap-test-worker"))
}

pub(crate) fn options() -> LaunchOptions {
    LaunchOptions {
        greeting: b"HELLO ".to_vec(),
        start_limit: Duration::from_secs(30),
        ..LaunchOptions::default()
    }
}

/// A machine to start workers at, as far as a shell can tell: a home, a `PATH`, and mounts.
pub(crate) struct Place {
    folder: tempfile::TempDir,
    path: OsString,
    variables: Vec<OsString>,
    mounts: String,
    login: Vec<OsString>,
}

impl Place {
    /// A home of its own, bash as the login shell, and the system's tools.
    pub(crate) fn new() -> Self {
        // Not in the folders over which some tests mount.
        let built = Path::new(env!("CARGO_TARGET_TMPDIR"));
        let covered = ["/tmp", "/var/tmp", "/dev/shm"].iter().any(|folder| built.starts_with(folder));
        let parent = if covered { Path::new("/var/lib") } else { built };
        let folder = tempfile::tempdir_in(parent).expect("a folder");
        fs::create_dir(folder.path().join("home")).expect("a home");
        Self {
            folder,
            path: "/usr/local/bin:/usr/bin:/bin".into(),
            variables: Vec::new(),
            mounts: String::new(),
            login: vec!["bash".into(), "-c".into()],
        }
    }

    pub(crate) fn home(&self) -> PathBuf {
        self.folder.path().join("home")
    }

    pub(crate) fn cache(&self) -> PathBuf {
        self.home().join(".cache/farcall")
    }

    pub(crate) fn variable(mut self, assignment: impl Into<OsString>) -> Self {
        self.variables.push(assignment.into());
        self
    }

    /// The shell that reads the command, with the option that says so last.
    pub(crate) fn login(mut self, words: &[&str]) -> Self {
        self.login = words.iter().map(Into::into).collect();
        self
    }

    /// Only these tools, `sh` being `shell`.
    pub(crate) fn only_tools(mut self, shell: &str, tools: &[&str]) -> Self {
        let bin = self.folder.path().join("bin");
        fs::create_dir(&bin).expect("a folder");
        for tool in tools {
            symlink(found(tool), bin.join(tool)).expect("linked");
        }
        symlink(found(shell), bin.join("sh")).expect("linked");
        self.path = bin.into();
        self
    }

    /// Nothing but busybox, as in a small container or a router.
    pub(crate) fn only_busybox(mut self) -> Self {
        let bin = self.folder.path().join("bin");
        fs::create_dir(&bin).expect("a folder");
        let busybox = found("busybox");
        let applets = Command::new(&busybox).arg("--list").output().expect("it runs").stdout;
        for applet in String::from_utf8(applets).expect("names").lines() {
            symlink(&busybox, bin.join(applet)).expect("linked");
        }
        // Debian builds it without this one.
        let _ = symlink(found("nice"), bin.join("nice"));
        self.path = bin.into();
        self
    }

    /// `sh` is this shell, all else as it is.
    pub(crate) fn shell(mut self, shell: &str) -> Self {
        let bin = self.folder.path().join("bin");
        fs::create_dir(&bin).expect("a folder");
        symlink(found(shell), bin.join("sh")).expect("linked");
        let mut path = OsString::from(bin);
        path.push(":");
        path.push(&self.path);
        self.path = path;
        self
    }

    /// A program in front of all others of its name.
    pub(crate) fn tool(mut self, name: &str, script: &str) -> Self {
        let bin = self.folder.path().join("tools");
        fs::create_dir_all(&bin).expect("a folder");
        let file = bin.join(name);
        fs::write(&file, format!("#!/bin/sh\n{script}\n")).expect("written");
        fs::set_permissions(&file, fs::Permissions::from_mode(0o755)).expect("executable");
        let mut path = OsString::from(bin);
        path.push(":");
        path.push(&self.path);
        self.path = path;
        self
    }

    /// Shell commands that mount, in a name space of the place's own. `$H` is the home.
    pub(crate) fn mounts(mut self, commands: &str) -> Self {
        self.mounts = commands.into();
        self
    }

    pub(crate) fn target(&self) -> Target {
        let command = if self.mounts.is_empty() {
            CommandTarget::new("env")
        } else {
            // The home is found again after mounts above it.
            let script = format!("H=$1; shift; set -e; {}\nexec \"$@\"", self.mounts);
            let mut home = Vec::from(["-m", "--propagation", "private", "sh", "-c"].map(OsString::from));
            home.extend([script.into(), "sh".into(), self.home().into(), "env".into()]);
            CommandTarget::new("unshare").args(home)
        };
        let mut words = vec![OsString::from("-i")];
        for (name, value) in [("HOME", self.home().into_os_string()), ("PATH", self.path.clone())] {
            let mut word = OsString::from(name);
            word.push("=");
            word.push(value);
            words.push(word);
        }
        words.extend(self.variables.iter().cloned());
        let mut login = self.login.clone();
        login[0] = found(&login[0].to_string_lossy()).into();
        words.extend(login);
        command.args(words).as_line().into()
    }

    pub(crate) async fn start(
        &self,
        program: &Program,
        options: &LaunchOptions,
    ) -> Result<Worker, LaunchError> {
        Worker::start(&self.target(), program, options).await
    }

    /// As [`start`](Self::start), from a hub.
    pub(crate) async fn start_via(
        &self,
        hub: &dyn Hub,
        program: &Program,
        options: &LaunchOptions,
    ) -> Result<Worker, LaunchError> {
        Ok(Worker::greeted(launch_via(hub, &self.target(), program, options).await?).await)
    }

    /// The files in the cache, with their permissions.
    pub(crate) fn cached(&self) -> Vec<(String, u32)> {
        let Ok(entries) = fs::read_dir(self.cache()) else { return Vec::new() };
        let mut files: Vec<_> = entries
            .map(|entry| entry.expect("readable"))
            .map(|entry| {
                let mode = entry.metadata().expect("there").permissions().mode() & 0o7777;
                (entry.file_name().into_string().expect("text"), mode)
            })
            .collect();
        files.sort();
        files
    }

    /// The one worker in the cache.
    pub(crate) fn cached_worker(&self) -> PathBuf {
        let mut names =
            self.cached().into_iter().map(|(name, _)| name).filter(|name| name.starts_with("farcall-"));
        let name = names.next().expect("a cached worker");
        assert_eq!(names.next(), None);
        self.cache().join(name)
    }
}

/// Where a program is. A test whose shell is missing fails.
pub(crate) fn found(name: &str) -> PathBuf {
    let folders = ["/usr/local/bin", "/usr/bin", "/bin", "/usr/sbin", "/sbin"];
    let path = folders.iter().map(|folder| Path::new(folder).join(name)).find(|path| path.exists());
    path.unwrap_or_else(|| panic!("{name} is not installed"))
}

/// A worker that greeted.
pub(crate) struct Worker {
    pub(crate) launched: Launched,
    pub(crate) pid: u32,
}

impl Worker {
    pub(crate) async fn start(
        target: &Target,
        program: &Program,
        options: &LaunchOptions,
    ) -> Result<Self, LaunchError> {
        Ok(Self::greeted(launch(target, program, options).await?).await)
    }

    async fn greeted(mut launched: Launched) -> Self {
        let mut greeting = Vec::new();
        while !greeting.ends_with(b"\n") {
            greeting.push(launched.reader.read_u8().await.expect("the rest of the greeting"));
        }
        let greeting = String::from_utf8(greeting).expect("text");
        let pid = greeting.strip_prefix("HELLO ").expect("kept by launch").trim().parse().expect("a number");
        Self { launched, pid }
    }

    pub(crate) fn delivery(&self) -> Delivery {
        self.launched.delivery
    }

    /// A file of /proc about the worker.
    pub(crate) fn proc(&self, name: &str) -> String {
        String::from_utf8_lossy(&fs::read(format!("/proc/{}/{name}", self.pid)).expect("it lives"))
            .into_owned()
    }

    pub(crate) fn link(&self, name: &str) -> PathBuf {
        fs::read_link(format!("/proc/{}/{name}", self.pid)).expect("it lives")
    }

    /// Every byte comes back unchanged; then it ends well when its input ends.
    pub(crate) async fn echo_and_end(self) {
        let Launched { reader, mut writer, mut process, .. } = self.launched;
        let mut reader = BufReader::new(reader);
        let mut bytes: Vec<u8> = (0..=255).cycle().take(200_000).filter(|&b| b != b'\n').collect();
        bytes.push(b'\n');
        let mut heard = Vec::new();
        let (written, read) = tokio::join!(writer.write_all(&bytes), reader.read_until(b'\n', &mut heard));
        written.expect("it listens");
        read.expect("it speaks");
        assert!(heard == bytes, "what passes is unchanged");
        writer.shutdown().await.expect("told");
        drop(writer);
        assert_eq!(process.wait().await, Exit::Code(0));
    }
}
