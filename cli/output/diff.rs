//! Shows how two outputs differ, as `diff -u` does.

use std::io::{self, Write};
use std::time::Duration;

use similar::TextDiff;

/// Past this, a difference is found that may not be the smallest: large outputs must not cost minutes.
const LIMIT: Duration = Duration::from_secs(2);

/// Writes the difference from one named output to another.
pub(super) fn write(out: &mut dyn Write, from: (&[u8], &str), to: (&[u8], &str)) -> io::Result<()> {
    let ended = |bytes: &[u8]| [bytes, b"\n"].concat();
    let (old, new) = (ended(from.0), ended(to.0));
    let diff = TextDiff::configure().timeout(LIMIT).diff_lines(&old[..], &new[..]);
    writeln!(out, "--- {}\n+++ {}", from.1, to.1)?;
    // Hunk by hunk: the writer for the whole replaces bytes that are no UTF-8.
    for hunk in diff.unified_diff().iter_hunks() {
        hunk.to_writer(&mut *out)?;
    }
    Ok(())
}
