//! A program that runs a function of its own somewhere else.
//!
//! ```text
//! cargo run -p farcall --example hello                  # in another process of this machine
//! cargo run -p farcall --example hello ssh://user@host  # on any host that ssh reaches
//! cargo run -p farcall --example hello docker://name    # in a running container
//! ```

use farcall::{BoxError, Gateway, Spec, Tasks};

/// Says where it runs. Any function of serde types is a task; a plain one may block.
fn greet(name: String) -> std::io::Result<String> {
    let host = std::fs::read_to_string("/proc/sys/kernel/hostname")?;
    Ok(format!("hello {name}, from process {} on {}", std::process::id(), host.trim()))
}

/// `async fn`s are tasks too.
async fn square(n: u64) -> u64 {
    n * n
}

fn main() -> Result<(), BoxError> {
    // First of all: at the far end this program goes no further.
    farcall::init(Tasks::new().add(greet).add(square));

    let spec: Spec = std::env::args().nth(1).unwrap_or_else(|| "local".into()).parse()?;
    tokio::runtime::Runtime::new()?.block_on(async {
        let gateway = Gateway::open(&spec).await?;
        println!("{}", gateway.call(greet, ("world".into(),)).await?);
        println!("7 * 7 = {}", gateway.call(square, (7,)).await?);

        Ok(())
    })
}
