//! Other people's programs: built or installed when a row needs them, outside the ordinary build.

use std::collections::BTreeMap;
use std::env;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use serde_json::Value;

use crate::contest::RunError;
use crate::trial::Program;

/// Where the peers' sources are.
const SOURCES: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/benches/peers");

/// Peers written in Rust; one program holds them all.
const RUST: &[&str] = &["remoc", "tarpc"];

/// Peers written in Python; each has a script of its name.
const PYTHON: &[&str] = &["execnet", "gipc"];

/// Whether a contender is another program than this one.
pub(crate) fn is_other(contender: &str) -> bool {
    RUST.contains(&contender) || PYTHON.contains(&contender)
}

/// The programs of the contenders that were asked for, or why one is absent.
#[derive(Debug)]
pub(crate) struct Peers {
    /// This program, which holds ours, the plain pipe, and our own rates without the burden.
    own: Program,
    others: BTreeMap<&'static str, Result<Program, String>>,
}

impl Peers {
    /// Makes ready those of the named contenders that are other people's.
    pub(crate) fn prepare(wanted: &[&str]) -> std::io::Result<Self> {
        let own = env::current_exe()?;
        let folder = folder_for_peers(&own);
        let mut others = BTreeMap::new();
        if RUST.iter().any(|name| wanted.contains(name)) {
            let built = build(&folder);
            others.extend(RUST.iter().map(|&name| (name, built.clone())));
        }
        if PYTHON.iter().any(|name| wanted.contains(name)) {
            others.extend(PYTHON.iter().map(|&name| (name, script(name, &folder))));
        }
        Ok(Self { own: Program { path: own, leading: Vec::new() }, others })
    }

    /// The program that measures a contender.
    pub(crate) fn program(&self, contender: &str) -> Result<&Program, RunError> {
        match self.others.get(contender) {
            None => Ok(&self.own),
            Some(Ok(program)) => Ok(program),
            Some(Err(reason)) => Err(RunError::Absent(reason.clone())),
        }
    }
}

/// A folder inside the target folder that this program was built in, which cargo marks as a cache.
fn folder_for_peers(own: &Path) -> PathBuf {
    let marked = own.ancestors().find(|folder| folder.join("CACHEDIR.TAG").is_file());
    marked.or(own.parent()).unwrap_or(Path::new(".")).join("bench-peers")
}

/// Builds the Rust peers with the cargo that runs this benchmark, and so with the same compiler and flags.
fn build(folder: &Path) -> Result<Program, String> {
    let cargo = env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let output = Command::new(cargo)
        .args(["build", "--release", "--locked", "--message-format", "json-render-diagnostics"])
        .arg("--manifest-path")
        .arg(Path::new(SOURCES).join("Cargo.toml"))
        .arg("--target-dir")
        .arg(folder)
        // cargo reads its configuration from where it runs: the workspace's makes both programs static.
        .current_dir(SOURCES)
        .stdin(Stdio::null())
        .stderr(Stdio::inherit())
        .output()
        .map_err(|error| format!("cargo: {error}"))?;
    if !output.status.success() {
        return Err("does not build here".to_owned());
    }
    let executable = String::from_utf8_lossy(&output.stdout)
        .lines()
        .filter_map(|line| serde_json::from_str::<Value>(line).ok())
        .find_map(|message| message.get("executable")?.as_str().map(PathBuf::from));
    executable.map(|path| Program { path, leading: Vec::new() }).ok_or("cargo named no program".to_owned())
}

/// A Python peer, run by an interpreter that can import it: the machine's, or one of an environment made for it.
fn script(name: &str, folder: &Path) -> Result<Program, String> {
    let own = folder.join("python");
    let within = own.join("bin/python3");
    let imports = |python: &Path| quietly(Command::new(python).args(["-c", &format!("import {name}")]));
    let python = if imports(Path::new("python3")) {
        PathBuf::from("python3")
    } else {
        if !imports(&within) {
            install(&own, &within, name)?;
        }
        within
    };
    let script = Path::new(SOURCES).join(format!("{name}_peer.py"));
    Ok(Program { path: python, leading: vec!["-B".into(), script.into()] })
}

fn install(environment: &Path, python: &Path, name: &str) -> Result<(), String> {
    if !quietly(Command::new("python3").args(["-m", "venv"]).arg(environment)) {
        return Err("no python3 that can make an environment".to_owned());
    }
    let mut pip = Command::new(python);
    pip.args(["-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--retries", "1"])
        .args(["--timeout", "20", name, "--constraint"])
        .arg(Path::new(SOURCES).join("constraints.txt"));
    if quietly(&mut pip) { Ok(()) } else { Err("pip cannot install it".to_owned()) }
}

/// Runs a command without output; true if it succeeds.
fn quietly(command: &mut Command) -> bool {
    let status = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).status();
    status.is_ok_and(|status| status.success())
}
