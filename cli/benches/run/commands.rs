//! One command on all servers: the time it takes, and the processor time that it costs here.

use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use crate::Failure;
use crate::assignment::Assignment;
use crate::farm;
use crate::peers;
use crate::rows::SERVERS;
use crate::times::{median, milliseconds};

/// What runs on each host. Its output shows that it did.
const COMMAND: &str = "echo ready";

/// How many hosts each program may work on at once; more than there are.
const AT_ONCE: &str = "64";

/// How many clients, one after another, are a run of plain `ssh`: their processor time is too short for one.
const CLIENTS: usize = 8;

/// Milliseconds of a run, or of the processor for each host.
pub(crate) async fn run(assignment: &Assignment) -> Result<f64, Failure> {
    let home = &assignment.home;
    let contender = assignment.contender.as_str();
    let once = async || {
        let (began, cpu) = (Instant::now(), processor_time()?);
        let hosts = if contender == "ssh" {
            for _ in 0..CLIENTS {
                expect_lines(peers::ssh(home, 0, COMMAND), 1)?;
            }
            CLIENTS
        } else {
            expect_lines(program(contender, home), SERVERS)?;
            SERVERS
        };
        let took = milliseconds(began);
        let spent = processor_time()?.saturating_sub(cpu);
        Ok(match assignment.row.as_str() {
            "run_32_cpu" => spent.as_secs_f64() * 1e3 / hosts as f64,
            _ => took,
        })
    };
    median(assignment.length, once).await
}

/// A program that runs the command on all servers.
fn program(contender: &str, home: &Path) -> Command {
    let (config, hosts) = (farm::config(home), format!("b[00-{:02}]", SERVERS - 1));
    let mut command = match contender {
        "clush" => {
            let mut clush = Command::new("clush");
            clush.arg("-o").arg(format!("-F {}", config.display())).args(["-f", AT_ONCE, "-w", &hosts]);
            clush
        }
        "pdsh" => {
            let mut pdsh = Command::new("pdsh");
            pdsh.env("PDSH_SSH_ARGS_APPEND", format!("-F {}", config.display()));
            pdsh.args(["-R", "ssh", "-f", AT_ONCE, "-w", &hosts]);
            pdsh
        }
        _ => {
            let mut farcall = Command::new(env!("CARGO_BIN_EXE_farcall"));
            farcall.args(["run", "-n", "-f", AT_ONCE, "-w", &hosts, "-F"]).arg(&config);
            farcall
        }
    };
    command.arg(COMMAND).env("HOME", home).env_remove("SSH_AUTH_SOCK").stdin(Stdio::null());
    command
}

/// Runs a program to its end; an error if not every host answered.
fn expect_lines(mut command: Command, count: usize) -> Result<(), Failure> {
    let output = command.stderr(Stdio::piped()).output()?;
    let printed = String::from_utf8_lossy(&output.stdout);
    let lines = printed.lines().filter(|line| line.ends_with("ready")).count();
    if output.status.success() && lines == count {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&output.stderr);
    let program = command.get_program().display();
    Err(format!("{program}: {lines} of {count} hosts answered, {}\n{said}", output.status).into())
}

/// The time that processors spent on children that have ended, and on theirs.
fn processor_time() -> Result<Duration, Failure> {
    let mut usage = std::mem::MaybeUninit::<libc::rusage>::uninit();
    // SAFETY: the pointer is to memory of the size that the call fills, and alive during it.
    let done = unsafe { libc::getrusage(libc::RUSAGE_CHILDREN, usage.as_mut_ptr()) };
    if done != 0 {
        return Err(std::io::Error::last_os_error().into());
    }
    // SAFETY: a successful call has filled all of it.
    let usage = unsafe { usage.assume_init() };
    let time = |time: libc::timeval| -> Result<Duration, Failure> {
        Ok(Duration::from_secs(time.tv_sec.try_into()?) + Duration::from_micros(time.tv_usec.try_into()?))
    };
    Ok(time(usage.ru_utime)? + time(usage.ru_stime)?)
}
