//! Pseudo-terminals for commands that want one.

use std::io;
use std::os::fd::OwnedFd;

use rustix::fs::OFlags;
use rustix::pty::{OpenptFlags, grantpt, openpt, unlockpt};
use rustix::termios::{SpecialCodeIndex, Winsize, tcgetattr, tcsetwinsize};

/// The size of a terminal, in characters.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Size {
    /// Lines.
    pub rows: u16,
    /// Characters in a line.
    pub columns: u16,
}

impl Default for Size {
    /// 24 lines of 80, what terminals had.
    fn default() -> Self {
        Self { rows: 24, columns: 80 }
    }
}

#[cfg(any(target_os = "linux", target_os = "freebsd", target_os = "netbsd"))]
const OURS: OpenptFlags = OpenptFlags::RDWR.union(OpenptFlags::NOCTTY).union(OpenptFlags::CLOEXEC);
#[cfg(not(any(target_os = "linux", target_os = "freebsd", target_os = "netbsd")))]
const OURS: OpenptFlags = OpenptFlags::RDWR.union(OpenptFlags::NOCTTY);

/// A new pseudo-terminal: our side and the side of the command. Neither is inherited, neither becomes the controlling
/// terminal of this process.
pub(super) fn open(size: Size) -> io::Result<(OwnedFd, OwnedFd)> {
    let ours = openpt(OURS)?;
    // Where it cannot be asked for at once.
    #[cfg(not(any(target_os = "linux", target_os = "freebsd", target_os = "netbsd")))]
    rustix::io::fcntl_setfd(&ours, rustix::io::FdFlags::CLOEXEC)?;
    grantpt(&ours)?;
    unlockpt(&ours)?;
    resize(&ours, size)?;
    let theirs = open_other_side(&ours)?;
    Ok((ours, theirs))
}

fn open_other_side(ours: &OwnedFd) -> io::Result<OwnedFd> {
    // By descriptor where the kernel can (Linux 4.13): a name in /dev/pts may be missing or another one in a container.
    #[cfg(target_os = "linux")]
    if let Ok(theirs) =
        rustix::pty::ioctl_tiocgptpeer(ours, OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC)
    {
        return Ok(theirs);
    }
    let name = rustix::pty::ptsname(ours, Vec::new())?;
    let flags = OFlags::RDWR | OFlags::NOCTTY | OFlags::CLOEXEC;
    Ok(rustix::fs::open(name.as_c_str(), flags, rustix::fs::Mode::empty())?)
}

/// Changes the size; the command's foreground group gets SIGWINCH.
pub(super) fn resize(ours: &OwnedFd, size: Size) -> io::Result<()> {
    let size = Winsize { ws_row: size.rows, ws_col: size.columns, ws_xpixel: 0, ws_ypixel: 0 };
    Ok(tcsetwinsize(ours, size)?)
}

/// The character that means end of file when typed at this terminal.
pub(super) fn end_of_file(ours: &OwnedFd) -> u8 {
    const CTRL_D: u8 = 4;
    tcgetattr(ours).map_or(CTRL_D, |attributes| attributes.special_codes[SpecialCodeIndex::VEOF])
}
