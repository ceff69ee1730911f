//! Peers written in Python: run by an interpreter that has them, the machine's or one of an environment made for it.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use crate::contest::RunError;
use crate::trial::Program;

/// Where the peers' scripts are.
const SCRIPTS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/benches/peers");

/// The peers, by the names of their modules; each has a script of its name.
const PEERS: &[&str] = &["execnet", "multiprocessing", "trio_parallel"];

/// Whether a contender is written in Python.
pub(crate) fn is_one(contender: &str) -> bool {
    PEERS.contains(&contender)
}

/// What measures a contender, or why it is absent.
pub(crate) fn program(name: &str) -> Result<Program, RunError> {
    let environment = folder().join("python");
    let within = environment.join("bin/python3");
    let imports = |python: &Path| quietly(Command::new(python).args(["-c", &format!("import {name}")]));
    let python = if imports(Path::new("python3")) {
        PathBuf::from("python3")
    } else {
        if !imports(&within) {
            install(&environment, &within, name).map_err(RunError::Absent)?;
        }
        within
    };
    let script = Path::new(SCRIPTS).join(format!("{name}_peer.py"));
    Ok(Program { path: python, leading: vec!["-B".into(), script.into()] })
}

/// A folder inside the target folder that this program was built in, which cargo marks as a cache.
fn folder() -> PathBuf {
    let own = std::env::current_exe().unwrap_or_default();
    let marked = own.ancestors().find(|folder| folder.join("CACHEDIR.TAG").is_file());
    marked.or(own.parent()).unwrap_or(Path::new(".")).join("bench-peers")
}

fn install(environment: &Path, python: &Path, name: &str) -> Result<(), String> {
    if !quietly(Command::new("python3").args(["-m", "venv"]).arg(environment)) {
        return Err("no python3 that can make an environment".to_owned());
    }
    let mut pip = Command::new(python);
    pip.args(["-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--retries", "1"])
        .args(["--timeout", "20", name, "--constraint"])
        .arg(Path::new(SCRIPTS).join("constraints.txt"));
    if quietly(&mut pip) { Ok(()) } else { Err("pip cannot install it".to_owned()) }
}

/// Runs a command without output; true if it succeeds.
fn quietly(command: &mut Command) -> bool {
    let status = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).status();
    status.is_ok_and(|status| status.success())
}
