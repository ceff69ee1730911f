//! Descriptors of any kind on the reactor of the current runtime.

use std::io;
use std::os::fd::OwnedFd;

use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

/// Makes `fd` non-blocking and waits for it on the reactor.
///
/// # Errors
/// A regular file cannot be waited for.
pub(super) fn register(fd: OwnedFd, interest: Interest) -> io::Result<AsyncFd<OwnedFd>> {
    rustix::io::ioctl_fionbio(&fd, true)?;
    register_as_is(fd, interest)
}

/// The same without changing the descriptor, for kinds that know no blocking mode.
pub(super) fn register_as_is(fd: OwnedFd, interest: Interest) -> io::Result<AsyncFd<OwnedFd>> {
    // SAFETY: an `OwnedFd` is open and names the same descriptor for as long as it lives.
    unsafe { AsyncFd::register_with_interest(fd, interest) }.map_err(Into::into)
}
