//! Ends of pipes in serde values: their descriptors leave a value as it is encoded, and join it as it is decoded.

use std::cell::RefCell;
use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;

use farcall_channel::CodecError;

use super::socket::Socket;

/// The most ends that travel in one message.
pub const MAX_ENDS: usize = 64;

/// Why an end of a pipe does not travel.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TravelError {
    /// The message does not go to a process on this machine through a pipe, or through [`farcall::local`](crate::local): to a
    /// gateway, say, or into a file.
    #[error("ends of pipes travel only to processes on this machine: by farcall::local, and through pipes")]
    Elsewhere,
    /// Something was received or looked at that was not yet handed out, or the end is one half of a
    /// [`Duplex`](super::Duplex).
    #[error("the pipe's end is in use and cannot travel")]
    InUse,
    /// The message holds more ends than may travel together.
    #[error("a message may hold {MAX_ENDS} ends of pipes")]
    TooMany,
    /// The end that the message names did not come with it.
    #[error("the pipe's end that the message names did not come with it")]
    Missing,
    /// What came in an end's place is no pipe.
    #[error("what came is no end of a pipe")]
    NotAPipe,
    /// The system refused.
    #[error("cannot hand over a descriptor")]
    System(#[source] io::Error),
}

/// What went wrong with a value: its encoding, or the ends in it.
#[derive(Debug)]
pub(crate) enum Fault {
    Codec(CodecError),
    Travel(TravelError),
}

/// The ends that a message being decoded came with.
struct Arrived {
    descriptors: Vec<OwnedFd>,
    claims: usize,
}

thread_local! {
    static EMBARKED: RefCell<Option<Vec<Arc<Socket>>>> = const { RefCell::new(None) };
    static ARRIVED: RefCell<Option<Arrived>> = const { RefCell::new(None) };
    static FAULT: RefCell<Option<TravelError>> = const { RefCell::new(None) };
}

/// Takes the error that an end reported through serde, whose own errors are only text.
pub(crate) fn fault() -> Option<TravelError> {
    FAULT.with(|fault| fault.borrow_mut().take())
}

fn report(fault: TravelError) -> String {
    let text = fault.to_string();
    FAULT.with(|place| *place.borrow_mut() = Some(fault));
    text
}

/// Puts a thread's record back to what it was, also when the code in between panics.
struct Restore<T: 'static>(&'static std::thread::LocalKey<RefCell<Option<T>>>, Option<T>);

impl<T> Restore<T> {
    fn replace(key: &'static std::thread::LocalKey<RefCell<Option<T>>>, value: T) -> Restore<T> {
        Restore(key, key.with(|place| place.borrow_mut().replace(value)))
    }

    /// What was recorded meanwhile.
    fn end(mut self) -> Option<T> {
        let before = self.1.take();
        let recorded = self.0.with(|place| std::mem::replace(&mut *place.borrow_mut(), before));
        std::mem::forget(self);
        recorded
    }
}

impl<T> Drop for Restore<T> {
    fn drop(&mut self) {
        let recorded = self.0.with(|place| std::mem::replace(&mut *place.borrow_mut(), self.1.take()));
        // Not while the record is borrowed: it may hold descriptors.
        drop(recorded);
    }
}

/// Encodes with `encode`, and returns the ends that were found.
pub(crate) fn encoding<R>(
    encode: impl FnOnce() -> Result<R, CodecError>,
) -> Result<(R, Vec<Arc<Socket>>), Fault> {
    drop(fault());
    let record = Restore::replace(&EMBARKED, Vec::new());
    let result = encode();
    let found = record.end().unwrap_or_default();
    match result {
        Ok(value) => Ok((value, found)),
        Err(error) => Err(fault().map_or(Fault::Codec(error), Fault::Travel)),
    }
}

/// Notes an end in the value being encoded; returns what stands for it.
pub(super) fn embark(socket: Option<&Arc<Socket>>) -> Result<u16, String> {
    EMBARKED.with(|embarked| {
        let mut embarked = embarked.borrow_mut();
        let Some(found) = &mut *embarked else { return Err(report(TravelError::Elsewhere)) };
        let Some(socket) = socket else { return Err(report(TravelError::InUse)) };
        if found.len() >= MAX_ENDS {
            return Err(report(TravelError::TooMany));
        }
        let index = u16::try_from(found.len()).map_err(|_| report(TravelError::TooMany))?;
        found.push(Arc::clone(socket));
        Ok(index)
    })
}

/// Decodes with `decode` a message that came with these descriptors. Those that the value does not take are closed.
pub(crate) fn decoding<R>(
    descriptors: Vec<OwnedFd>,
    decode: impl FnOnce() -> Result<R, CodecError>,
) -> Result<R, Fault> {
    drop(fault());
    let record = Restore::replace(&ARRIVED, Arrived { descriptors, claims: 0 });
    let result = decode();
    drop(record);
    result.map_err(|error| fault().map_or(Fault::Codec(error), Fault::Travel))
}

/// The end that the message being decoded calls `index`.
pub(super) fn disembark(index: u16) -> Result<Socket, String> {
    let claimed = ARRIVED.with(|arrived| {
        let mut arrived = arrived.borrow_mut();
        let Some(Arrived { descriptors, claims }) = &mut *arrived else {
            return Err(TravelError::Elsewhere);
        };
        // A value may be read twice, where the fast way gives up. More often nobody reads it.
        *claims += 1;
        let Some(descriptor) =
            descriptors.get(usize::from(index)).filter(|_| *claims <= 2 * descriptors.len())
        else {
            return Err(TravelError::Missing);
        };
        descriptor.try_clone().map_err(TravelError::System)
    });
    claimed.and_then(Socket::adopt).map_err(report)
}
