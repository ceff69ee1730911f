//! What the linker is told.

use std::path::Path;

/// For a program whose panics end it: it needs no tables by which they would unwind.
pub(crate) fn without_unwinding(package: &Path) -> String {
    // The table of contents first: the linker would look for what the script takes away.
    format!("-Wl,--no-eh-frame-hdr,-T,{}", package.join("cli/link/worker.ld").display())
}
