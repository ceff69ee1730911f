//! How the lean twin is linked where it is built for size: without the tables by which panics unwind, as its profile's never do.
//!
//! They are a tenth of what would be delivered. The compiler leaves out its own for such a profile only on request, for all
//! profiles at once, and never those of the C library and of the standard library.

mod arguments;

use std::path::Path;

/// Linkers that read no scripts of this kind; they are named in the flags where they are used.
const WITHOUT_SCRIPTS: [&str; 3] = ["mold", "gold", "wild"];

fn main() {
    println!("cargo::rerun-if-changed=cli/link");
    println!("cargo::rerun-if-env-changed=CARGO_ENCODED_RUSTFLAGS");
    let variable = |name| std::env::var(name).unwrap_or_default();
    // Profiles have no names here, nor do they say what they do with panics: the worker's is known by this.
    let for_size = variable("OPT_LEVEL") == "z";
    let flags = variable("CARGO_ENCODED_RUSTFLAGS");
    let scripted = !WITHOUT_SCRIPTS.iter().any(|linker| flags.contains(linker));
    if for_size && scripted && variable("CARGO_CFG_TARGET_OS") == "linux" {
        let package = variable("CARGO_MANIFEST_DIR");
        for argument in arguments::without_unwinding(Path::new(&package)) {
            println!("cargo::rustc-link-arg-bin=farcall-worker={argument}");
        }
    }
}
