//! Orders as a fork server hears them, and hands those to run on to guardians.

use std::ffi::OsString;
use std::io::{IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{BorrowedFd, OwnedFd};

use farcall_bootstrap::fork_server::{MAX_WORD, Order, RUN_ENDS, STREAMS};
use rustix::io::Errno;
use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, SocketFlags, SocketType, recvmsg, sendmsg, socketpair,
};

use crate::role::{Role, WORD};

/// An order to run, taken apart.
pub(super) struct Run {
    pub(super) role: Role,
    pub(super) words: Vec<OsString>,
    pub(super) socket: OwnedFd,
    pub(super) line: OwnedFd,
}

/// Nothing more is heard.
pub(super) struct Gone;

/// The next order on this socket, if there is one.
pub(super) fn receive(socket: &OwnedFd) -> Result<Option<(Order, Vec<OwnedFd>)>, Gone> {
    let mut bytes = [0; MAX_WORD];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(STREAMS))];
    let mut ancillary = RecvAncillaryBuffer::new(&mut space);
    let flags = RecvFlags::CMSG_CLOEXEC | RecvFlags::DONTWAIT;
    let heard = recvmsg(socket, &mut [IoSliceMut::new(&mut bytes)], &mut ancillary, flags);
    let length = match heard {
        Ok(message) if message.bytes > 0 => message.bytes,
        Err(Errno::AGAIN | Errno::INTR) => return Ok(None),
        Ok(_) | Err(_) => return Err(Gone),
    };
    let mut ends = Vec::new();
    for message in ancillary.drain() {
        if let RecvAncillaryMessage::ScmRights(fds) = message {
            ends.extend(fds);
        }
    }
    // What cannot be read is not from this program.
    Ok(Order::from_bytes(&bytes[..length]).map(|order| (order, ends)))
}

/// The next run that a guardian is given, if there is one.
pub(super) fn hear_run(runs: &OwnedFd) -> Result<Option<Run>, Gone> {
    let Some((Order::Run { words, .. }, ends)) = receive(runs)? else { return Ok(None) };
    // They fitted into the fork server's table, which was fuller.
    let [socket, line] = <[OwnedFd; RUN_ENDS]>::try_from(ends).map_err(|_| Gone)?;
    let role = role(&words).ok_or(Gone)?;
    Ok(Some(Run { role, words, socket, line }))
}

/// Hands an order on, with what it brings along.
pub(super) fn pass_on(
    runs: &OwnedFd,
    order: &Order,
    ends: [BorrowedFd<'_>; RUN_ENDS],
) -> rustix::io::Result<()> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(RUN_ENDS))];
    let mut ancillary = SendAncillaryBuffer::new(&mut space);
    // The buffer is made for so many.
    ancillary.push(SendAncillaryMessage::ScmRights(&ends));
    let flags = SendFlags::NOSIGNAL | SendFlags::DONTWAIT;
    sendmsg(runs, &[IoSlice::new(&order.to_bytes())], &mut ancillary, flags).map(drop)
}

/// What leads from here to a guardian of runs.
pub(super) fn runs_socket() -> rustix::io::Result<(OwnedFd, OwnedFd)> {
    socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)
}

/// Whom the words describe.
pub(super) fn role(words: &[OsString]) -> Option<Role> {
    let [_name, first, rest @ ..] = words else { return None };
    (first == WORD).then(|| Role::from_arguments(rest.iter().cloned()).ok()).flatten()
}
