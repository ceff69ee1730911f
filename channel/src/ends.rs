//! Ends of channels inside values: what `Serialize` and `Deserialize` of an end need to know of the message around them.
//!
//! Serde hands no context down, so it stands in thread-local variables for the duration of one call. In the message an end is
//! the number of ends before it; which channel that is travels outside the value, with the channel's `OPEN`.

use std::cell::{Cell, RefCell};

use crate::driver::Shared;
use crate::error::CodecError;
use crate::mux::Key;
use crate::sync::Arc;

/// Ends found in the value being encoded, with their connection.
type Found = Vec<(Arc<Shared>, Key)>;

/// Where the message being decoded came from: the connection, the channel and the message's number.
type Origin = (Arc<Shared>, Key, u64);

thread_local! {
    static ENCODING: Cell<bool> = const { Cell::new(false) };
    static FOUND: RefCell<Found> = const { RefCell::new(Vec::new()) };
    static ORIGIN: RefCell<Option<Origin>> = const { RefCell::new(None) };
    static FAULT: RefCell<Option<CodecError>> = const { RefCell::new(None) };
}

/// Forgets what an end reported through somebody else's serialiser.
pub(crate) fn clear_fault() {
    drop(fault());
}

/// Takes the error that an end reported through serde, whose own errors are only text.
pub(crate) fn fault() -> Option<CodecError> {
    FAULT.with(|fault| fault.borrow_mut().take())
}

fn report(fault: CodecError) -> String {
    let text = fault.to_string();
    FAULT.with(|place| *place.borrow_mut() = Some(fault));
    text
}

/// Reports that an end may not travel.
pub(crate) fn in_use() -> String {
    report(CodecError::EndInUse)
}

/// Encodes with `encode` and returns the ends that were found, all of them of the connection of `shared`.
#[inline]
pub(crate) fn encoding<R>(
    shared: &Arc<Shared>,
    encode: impl FnOnce() -> Result<R, CodecError>,
) -> Result<(R, Vec<Key>), CodecError> {
    struct Reset(bool);
    impl Drop for Reset {
        fn drop(&mut self) {
            ENCODING.set(self.0);
            if std::thread::panicking() {
                // The ends of a message that will never be sent.
                FOUND.with(|found| found.borrow_mut().clear());
            }
        }
    }
    let reset = Reset(ENCODING.replace(true));
    let result = encode();
    drop(reset);
    let found = FOUND.with(|found| {
        let mut found = found.borrow_mut();
        if found.is_empty() { Vec::new() } else { std::mem::take(&mut *found) }
    });
    let result = result?;
    if found.is_empty() {
        return Ok((result, Vec::new()));
    }
    if found.iter().any(|(other, _)| !Arc::ptr_eq(other, shared)) {
        return Err(CodecError::ForeignEnd);
    }
    Ok((result, found.into_iter().map(|(_, key)| key).collect()))
}

/// Notes an end in the value being encoded; returns what stands for it.
pub(crate) fn embark(shared: &Arc<Shared>, key: Key, sends: bool, receives: bool) -> Result<u16, String> {
    if !ENCODING.get() {
        return Err(report(CodecError::OutsideChannel));
    }
    if !shared.with(|state| state.mux.may_travel(key, sends, receives)) {
        return Err(in_use());
    }
    FOUND.with(|found| {
        let mut found = found.borrow_mut();
        let index = u16::try_from(found.len()).map_err(|_| report(CodecError::EndInUse))?;
        found.push((shared.clone(), key));
        Ok(index)
    })
}

/// Whether the message being decoded came with ends.
#[inline]
pub(crate) fn is_decoding() -> bool {
    ORIGIN.with(|origin| origin.borrow().is_some())
}

/// Decodes with `decode` a message that came with ends, and ends those that the value did not take.
pub(crate) fn decoding<R>(shared: &Arc<Shared>, carrier: Key, number: u64, decode: impl FnOnce() -> R) -> R {
    struct Settle(Option<Origin>);
    impl Drop for Settle {
        fn drop(&mut self) {
            let origin = ORIGIN.with(|origin| std::mem::replace(&mut *origin.borrow_mut(), self.0.take()));
            if let Some((shared, carrier, number)) = origin {
                shared.with(|state| state.mux.settle(carrier, number));
            }
        }
    }
    let origin = (shared.clone(), carrier, number);
    let _settle = Settle(ORIGIN.with(|place| place.borrow_mut().replace(origin)));
    decode()
}

/// The end that the message being decoded calls `index`, which must have these directions, or more.
pub(crate) fn disembark(index: u16, sends: bool, receives: bool) -> Result<(Arc<Shared>, Key), String> {
    let origin = ORIGIN.with(|origin| origin.borrow().clone());
    let Some((shared, carrier, number)) = origin else {
        return Err(report(CodecError::EndMissing));
    };
    let claimed = shared.with(|state| {
        let claimed = state.mux.claim(carrier, number, index);
        if let Some((key, can_send, can_receive)) = claimed {
            state.forget(key);
            // What the value has no place for ends here; all of it, if the directions are wrong.
            let fits = (can_send || !sends) && (can_receive || !receives);
            if can_send && !(sends && fits) {
                state.mux.release_sender(key);
            }
            if can_receive && !(receives && fits) {
                state.mux.release_receiver(key, 0);
            }
            return Ok((key, fits));
        }
        Err(CodecError::EndMissing)
    });
    match claimed {
        Ok((key, true)) => Ok((shared, key)),
        Ok((_, false)) => Err(report(CodecError::EndDirection)),
        Err(fault) => Err(report(fault)),
    }
}
