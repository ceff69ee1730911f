//! What a process and its child say to each other about calls: over a socket of their own, one call at a time.
//!
//! | message | layout |
//! |---|---|
//! | call | number (8 bytes), length of the name (2), name, the arguments' encoding |
//! | reply | number (8 bytes), `r`, the encoding of a [`Reply`](crate::wire::Reply) |
//! | dropped | number (8 bytes), `d`: the call was cancelled, and its task is no more |
//!
//! Numbers are little-endian and grow. That a call is cancelled is said on the connection, since whoever runs it does not listen
//! meanwhile.

use std::sync::Arc;

use farcall_channel::{Cbor, Codec};

use super::socket::{MAX_MESSAGE, Socket};
use super::travel::{self, Fault};
use crate::failure::{Failure, Panic};
use crate::task::Message;
use crate::wire::Reply;

const REPLY: u8 = b'r';
const DROPPED: u8 = b'd';
const REPLY_HEAD: usize = 9;

/// A call, ready to be sent, but for its number.
#[derive(Debug)]
pub(crate) struct Call {
    message: Vec<u8>,
    ends: Vec<Arc<Socket>>,
    repeatable: bool,
}

/// Why a call or a reply cannot be sent.
#[derive(Debug)]
pub(crate) enum Unfit {
    Fault(Fault),
    TooLarge(usize),
}

impl Call {
    pub(crate) fn new<A: Message>(name: &str, args: &A) -> Result<Call, Unfit> {
        let mut message = vec![0; 8];
        // Names are limited to less where tasks are added.
        let len = u16::try_from(name.len()).unwrap_or(u16::MAX);
        message.extend_from_slice(&len.to_le_bytes());
        message.extend_from_slice(name.as_bytes());
        let ends = append(&mut message, args)?;
        Ok(Call { repeatable: ends.is_empty(), message, ends })
    }

    /// It was sent: its ends are not here any more.
    pub(crate) fn departed(&mut self) {
        self.ends.clear();
    }

    /// Whether it goes in one packet.
    #[cfg(target_os = "linux")]
    pub(crate) fn fits_a_chunk(&self) -> bool {
        self.message.len() <= super::socket::CHUNK
    }

    /// Whether it can be sent once more. Ends go once.
    pub(crate) fn is_repeatable(&self) -> bool {
        self.repeatable
    }

    /// The message of that number, and the ends that go along.
    pub(crate) fn numbered(&mut self, number: u64) -> (&[u8], &[Arc<Socket>]) {
        self.message[..8].copy_from_slice(&number.to_le_bytes());
        (&self.message, &self.ends)
    }
}

/// What a child is asked for.
#[derive(Debug, PartialEq)]
pub(crate) struct Asked<'a> {
    pub(crate) number: u64,
    pub(crate) name: &'a str,
    pub(crate) args: &'a [u8],
}

/// `None` for what no parent says.
pub(crate) fn asked(message: &[u8]) -> Option<Asked<'_>> {
    let (number, rest) = message.split_first_chunk()?;
    let (len, rest) = rest.split_first_chunk()?;
    let (name, args) = rest.split_at_checked(u16::from_le_bytes(*len).into())?;
    Some(Asked { number: u64::from_le_bytes(*number), name: std::str::from_utf8(name).ok()?, args })
}

/// A reply that can be sent, in place of one that cannot if need be.
pub(crate) fn reply<V: Message>(number: u64, reply: &Reply<V>) -> (Vec<u8>, Vec<Arc<Socket>>) {
    match try_reply(number, reply) {
        Ok(sendable) => sendable,
        Err(unfit) => {
            let reason = match unfit {
                Unfit::Fault(Fault::Codec(error)) => error.to_string(),
                Unfit::Fault(Fault::Travel(error)) => error.to_string(),
                Unfit::TooLarge(len) => {
                    format!("the message takes {len} bytes, {MAX_MESSAGE} are allowed")
                }
            };
            // Text of this length can be sent.
            try_reply(number, &Reply::<()>::Unsendable(reason)).unwrap_or_else(|_| dropped(number))
        }
    }
}

fn try_reply<V: Message>(number: u64, reply: &Reply<V>) -> Result<(Vec<u8>, Vec<Arc<Socket>>), Unfit> {
    let mut message = number.to_le_bytes().to_vec();
    message.push(REPLY);
    let ends = append(&mut message, reply)?;
    Ok((message, ends))
}

/// Says that a cancelled call's task is no more.
pub(crate) fn dropped(number: u64) -> (Vec<u8>, Vec<Arc<Socket>>) {
    let mut message = number.to_le_bytes().to_vec();
    message.push(DROPPED);
    (message, Vec::new())
}

fn append<T: Message>(message: &mut Vec<u8>, value: &T) -> Result<Vec<Arc<Socket>>, Unfit> {
    let encoded = travel::encoding(|| <Cbor as Codec<T>>::encode(value, message));
    let ((), ends) = encoded.map_err(Unfit::Fault)?;
    if message.len() > MAX_MESSAGE {
        return Err(Unfit::TooLarge(message.len()));
    }
    // The value is not needed any more, and must not end its pipes when it goes.
    ends.iter().for_each(|end| end.travelled());
    Ok(ends)
}

/// What a child says.
#[derive(Debug, PartialEq)]
pub(crate) enum Said {
    Reply(u64),
    Dropped(u64),
}

/// `None` for what no child of this version says. It is not trusted.
pub(crate) fn said(message: &[u8]) -> Option<Said> {
    let (number, rest) = message.split_first_chunk()?;
    let number = u64::from_le_bytes(*number);
    match rest.split_first()? {
        (&REPLY, _) => Some(Said::Reply(number)),
        (&DROPPED, []) => Some(Said::Dropped(number)),
        _ => None,
    }
}

/// The reply in a message that [`said`] to be one.
pub(crate) fn reply_in<V: Message>(
    message: &[u8],
    descriptors: Vec<std::os::fd::OwnedFd>,
) -> Result<Reply<V>, Fault> {
    let bytes = message.get(REPLY_HEAD..).unwrap_or_default();
    travel::decoding(descriptors, || <Cbor as Codec<Reply<V>>>::decode(bytes))
}

/// The reply for how a task ended.
pub(crate) fn outcome<V>(outcome: Result<Result<V, Failure>, Panic>) -> Reply<V> {
    match outcome {
        Ok(Ok(value)) => Reply::Value(value),
        Ok(Err(failure)) => Reply::Failed(failure),
        Err(panic) => Reply::Panicked(panic),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_are_read_as_they_are_written() {
        let mut call = Call::new("a::b", &(7_u8, "x".to_owned())).unwrap();
        let message = call.numbered(9).0.to_vec();
        let read = asked(&message).unwrap();
        assert_eq!((read.number, read.name), (9, "a::b"));
        assert_eq!(<Cbor as Codec<(u8, String)>>::decode(read.args).unwrap(), (7, "x".to_owned()));
        for cut in 0..14 {
            assert_eq!(asked(&message[..cut]), None);
        }
        let (message, _) = reply(9, &Reply::Value(5_u32));
        assert_eq!(said(&message), Some(Said::Reply(9)));
        assert!(matches!(reply_in::<u32>(&message, Vec::new()), Ok(Reply::Value(5))));
        assert_eq!(said(&dropped(3).0), Some(Said::Dropped(3)));
        for other in [&b""[..], b"12345678", b"12345678x", b"12345678dx"] {
            assert_eq!(said(other), None);
        }
    }
}
