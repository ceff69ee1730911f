//! What the linker is told.

use std::path::Path;

/// For a program whose panics end it: it needs no tables by which they would unwind.
pub(crate) fn without_unwinding(package: &Path) -> [String; 2] {
    // The table of contents as well: the linker would look for what the script takes away.
    ["-Wl,--no-eh-frame-hdr".to_owned(), format!("-T{}", package.join("cli/link/worker.ld").display())]
}
