//! The program `farcall`.

fn main() -> anyhow::Result<()> {
    Ok(())
}
