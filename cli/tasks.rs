//! The tasks that `farcall` and its worker have in common; the same list must be in both.

use farcall::Tasks;

/// All of them: so far commands are enough.
pub(crate) fn tasks() -> Tasks {
    Tasks::new().version(env!("CARGO_PKG_VERSION"))
}
