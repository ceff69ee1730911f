//! The worker of these tests: greets with its process number, then gives back what it hears until its input ends.

use std::io::{self, Write};

fn main() -> io::Result<()> {
    let mut arguments = std::env::args_os();
    if arguments.any(|argument| argument == "mute") {
        io::copy(&mut io::stdin().lock(), &mut io::sink())?;
        return Ok(());
    }
    let mut out = io::stdout().lock();
    writeln!(out, "HELLO {}", std::process::id())?;
    out.flush()?;
    // Copied without buffering: what was heard is given back at once.
    let mut input = io::stdin().lock();
    let mut buffer = [0; 4096];
    loop {
        let length = io::Read::read(&mut input, &mut buffer)?;
        if length == 0 {
            return Ok(());
        }
        out.write_all(&buffer[..length])?;
        out.flush()?;
    }
}
