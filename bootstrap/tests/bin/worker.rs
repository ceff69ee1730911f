//! The worker of these tests: greets with its process number, then gives back what it hears until its input ends.
//! An argument makes it fail in some way instead.

use std::io::{self, Read, Write};

fn main() -> io::Result<()> {
    for argument in std::env::args_os() {
        match argument.to_str() {
            Some("mute") => return io::copy(&mut io::stdin().lock(), &mut io::sink()).map(drop),
            Some("abort") => std::process::abort(),
            Some("fail") => {
                eprintln!("the reason for it");
                std::process::exit(3);
            }
            _ => {}
        }
    }
    eprintln!("started");
    let mut out = io::stdout().lock();
    writeln!(out, "HELLO {}", std::process::id())?;
    out.flush()?;
    let mut input = io::stdin().lock();
    let mut buffer = [0; 4096];
    loop {
        let length = input.read(&mut buffer)?;
        if length == 0 {
            return Ok(());
        }
        out.write_all(&buffer[..length])?;
        out.flush()?;
    }
}
