//! A program that starts things for the tests that look at what becomes of them when it is killed, or replaced on disk.
//!
//! Its first argument says what it does:
//! - `command PROGRAM ARGUMENTS...` starts a worker through a command;
//! - `ssh CONFIG PROGRAM HOST` connects to a host, asking the program for the configuration;
//! - `replaced OTHER` replaces its own file by a copy of another, starts itself, and prints the digest of what it ships;
//! - `worker` is what it starts then: it greets and ends.

use std::error::Error;
use std::time::Duration;

use farcall_bootstrap::ssh::{self, ConfigFiles, SshOptions, SshTarget};
use farcall_bootstrap::{CommandTarget, LaunchOptions, Program, Target, launch};

fn main() -> Result<(), Box<dyn Error>> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    // Longer than any test waits.
    let limit = Duration::from_secs(600);
    match words[..] {
        ["command", program, ref arguments @ ..] => {
            let target = CommandTarget::new(program).args(arguments).into();
            let options = LaunchOptions { start_limit: limit, ..LaunchOptions::default() };
            runtime.block_on(launch(&target, &Program::current()?, &options))?;
        }
        ["ssh", config, program, host] => {
            let options = SshOptions {
                program: Some(program.into()),
                files: ConfigFiles::Only(config.into()),
                limit,
                ..SshOptions::default()
            };
            runtime.block_on(ssh::connect(&SshTarget::new(host), &options))?;
        }
        ["replaced", other] => {
            let program = Program::current()?;
            let own = std::env::current_exe()?;
            // Renamed, as an upgrade does it: a file that runs cannot be written to.
            let new = own.with_extension("new");
            std::fs::copy(other, &new)?;
            std::fs::rename(&new, &own)?;
            for program in [program, Program::current()?] {
                let options = LaunchOptions {
                    arguments: vec!["worker".into()],
                    greeting: b"HELLO".to_vec(),
                    ..LaunchOptions::default()
                };
                runtime.block_on(launch(&Target::Local, &program, &options))?;
                println!("{}", runtime.block_on(program.for_here())?.digest());
            }
        }
        ["worker"] => println!("HELLO"),
        _ => return Err("not understood".into()),
    }
    Ok(())
}
