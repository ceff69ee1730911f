//! The worker that the program ships: how fast it is there, what it weighs on the way, and what it takes while it is idle.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Instant;

use farcall::ssh::ConfigFiles;
use farcall::{CommandTarget, Delivery, Gateway, Program, Spec};

use crate::Failure;
use crate::assignment::Assignment;
use crate::times::{median, milliseconds};
use crate::{farm, peers};

/// The profile that the lean twin is shipped in, which is not the benchmark's.
const PROFILE: &str = "worker";

/// Where cargo puts what it builds for this platform.
fn folder() -> &'static Path {
    let here = Path::new(env!("CARGO_BIN_EXE_farcall-worker"));
    here.ancestors().nth(2).expect("cargo gives each profile a folder")
}

/// Builds the lean twin with the cargo that runs this benchmark.
pub(crate) fn build() -> Result<(), Failure> {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let target = folder().parent().expect("the platform is named");
    let built = Command::new(cargo)
        .args(["build", "--locked", "--profile", PROFILE, "--bin", "farcall-worker", "--target-dir"])
        .arg(target)
        // cargo reads its configuration from where it runs.
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .status()?;
    if built.success() { Ok(()) } else { Err("farcall-worker does not build here".into()) }
}

/// The lean twin, as it was built.
fn program() -> Program {
    let path: PathBuf = folder().join(PROFILE).join("farcall-worker");
    Program::at(path)
}

/// Bytes that a first delivery sends to a shell.
pub(crate) async fn size(assignment: &Assignment) -> Result<f64, Failure> {
    let cache = assignment.home.join("size");
    if cache.exists() {
        std::fs::remove_dir_all(&cache)?;
    }
    std::fs::create_dir(&cache)?;
    let place = format!("XDG_CACHE_HOME={}", cache.display());
    let shell = CommandTarget::new("env").args([&*place, "sh", "-c"]).as_line();
    let gateway = Gateway::builder(Spec::command(shell)).program(program()).open().await?;
    match gateway.delivery() {
        Delivery::Sent { bytes, .. } => Ok(bytes as f64),
        other => Err(format!("the worker came there as {other:?}").into()),
    }
}

/// Milliseconds from nothing to the first reply, at a host that has no worker yet; or of `ssh host true`.
pub(crate) async fn cold(assignment: &Assignment) -> Result<f64, Failure> {
    let home = &assignment.home;
    // Read, and compressed for those that can unpack, once for all starts of a process.
    let program = program();
    let spec = Spec::ssh(farm::name(0)).config(ConfigFiles::Only(farm::config(home)));
    let once = async || {
        if assignment.contender == "ssh" {
            return peers::ssh_true(home);
        }
        let cache = farm::cache(home, 0);
        std::fs::remove_dir_all(&cache)?;
        std::fs::create_dir(&cache)?;
        let began = Instant::now();
        let gateway = Gateway::builder(spec.clone()).program(program.clone()).open().await?;
        gateway.info().await?;
        let time = milliseconds(began);
        let delivery = gateway.delivery();
        gateway.exit();
        gateway.wait().await;
        match delivery {
            Delivery::Sent { .. } => Ok(time),
            other => Err(format!("a cold start found its worker {other:?}").into()),
        }
    };
    median(assignment.length, once).await
}

/// Bytes of resident memory of a worker that has nothing to do.
pub(crate) async fn resident() -> Result<f64, Failure> {
    let gateway = Gateway::builder(Spec::local()).program(program()).open().await?;
    let resident = gateway.info().await?.resident.ok_or("the system does not tell")?;
    Ok(resident as f64)
}
