//! Values to bytes and back.

use bytes::Bytes;
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::ends;
use crate::error::CodecError;
use crate::slice;

/// How the values of a channel become messages. A codec is a type without values, named by the channel's type, so both ends
/// agree at compile time.
///
/// ```
/// use farcall_channel::{Codec, CodecError};
///
/// /// Numbers as text.
/// enum Decimal {}
///
/// impl Codec<u64> for Decimal {
///     fn encode(value: &u64, out: &mut Vec<u8>) -> Result<(), CodecError> {
///         out.extend_from_slice(value.to_string().as_bytes());
///         Ok(())
///     }
///
///     fn decode(message: &[u8]) -> Result<u64, CodecError> {
///         let text = std::str::from_utf8(message).map_err(|error| CodecError::Decode(error.into()))?;
///         text.parse().map_err(|error: std::num::ParseIntError| CodecError::Decode(error.into()))
///     }
/// }
/// ```
pub trait Codec<T> {
    /// Appends the value's encoding to `out`, which is empty. After an error nothing is sent and the channel is as before.
    fn encode(value: &T, out: &mut Vec<u8>) -> Result<(), CodecError>;

    /// Reads a value from a whole message. After an error the message is gone and the channel is usable.
    fn decode(message: &[u8]) -> Result<T, CodecError>;

    /// The encoding, for values that are their own; then [`encode`](Self::encode) is not called.
    fn as_bytes(_value: &T) -> Option<&[u8]> {
        None
    }

    /// The encoding as shared bytes, for large values that already are.
    fn encode_shared(_value: &T) -> Option<Bytes> {
        None
    }

    /// As [`decode`](Self::decode), from bytes that may be kept.
    fn decode_shared(message: Bytes) -> Result<T, CodecError> {
        Self::decode(&message)
    }
}

/// CBOR (RFC 8949) by serde: the codec of any type that implements both `Serialize` and `DeserializeOwned`, ends of channels in
/// it included.
///
/// `Cbor: Codec<T>` stands for these two bounds: wherever a channel of `T`s is made, on the side that only sends and on the side
/// that only receives as well, so that both name one type. A type that borrows, or implements only one of them, needs a
/// [`Codec`] of its own.
#[derive(Debug)]
pub enum Cbor {}

/// The bytes as they are: `Bytes` or `Vec<u8>`, never through serde. Large `Bytes` are handed on without a copy.
#[derive(Debug)]
pub enum Raw {}

/// A CBOR value of any shape, for messages whose type is not known.
pub type Value = ciborium::Value;

/// Strings up to this size are read without an intermediate copy.
const SCRATCH: usize = 256;

impl<T: Serialize + DeserializeOwned> Codec<T> for Cbor {
    #[inline]
    fn encode(value: &T, out: &mut Vec<u8>) -> Result<(), CodecError> {
        encode(value, out)
    }

    #[inline]
    fn decode(message: &[u8]) -> Result<T, CodecError> {
        decode(message)
    }
}

impl Codec<Bytes> for Raw {
    #[inline]
    fn encode(value: &Bytes, out: &mut Vec<u8>) -> Result<(), CodecError> {
        out.extend_from_slice(value);
        Ok(())
    }

    #[inline]
    fn decode(message: &[u8]) -> Result<Bytes, CodecError> {
        Ok(Bytes::copy_from_slice(message))
    }

    #[inline]
    fn as_bytes(value: &Bytes) -> Option<&[u8]> {
        Some(value)
    }

    fn encode_shared(value: &Bytes) -> Option<Bytes> {
        Some(value.clone())
    }

    fn decode_shared(message: Bytes) -> Result<Bytes, CodecError> {
        Ok(message)
    }
}

impl Codec<Vec<u8>> for Raw {
    #[inline]
    fn encode(value: &Vec<u8>, out: &mut Vec<u8>) -> Result<(), CodecError> {
        out.extend_from_slice(value);
        Ok(())
    }

    #[inline]
    fn as_bytes(value: &Vec<u8>) -> Option<&[u8]> {
        Some(value)
    }

    #[inline]
    fn decode(message: &[u8]) -> Result<Vec<u8>, CodecError> {
        Ok(message.to_vec())
    }

    fn decode_shared(message: Bytes) -> Result<Vec<u8>, CodecError> {
        Ok(message.into())
    }
}

fn encode<T: Serialize + ?Sized>(value: &T, out: &mut Vec<u8>) -> Result<(), CodecError> {
    ciborium::into_writer(value, out)
        .map_err(|error| ends::fault().unwrap_or_else(|| CodecError::Encode(error.into())))
}

fn decode<T: DeserializeOwned>(message: &[u8]) -> Result<T, CodecError> {
    // Claiming an end is nothing that could be done twice.
    if !ends::is_decoding()
        && let Some(value) = slice::decode(message)
    {
        return Ok(value);
    }
    ends::clear_fault();
    let mut rest = message;
    let mut scratch = [0; SCRATCH];
    let value = ciborium::from_reader_with_buffer(&mut rest, &mut scratch).map_err(decode_error)?;
    if rest.is_empty() { Ok(value) } else { Err(CodecError::Trailing { extra: rest.len() }) }
}

fn decode_error(error: ciborium::de::Error<std::io::Error>) -> CodecError {
    if let Some(fault) = ends::fault() {
        return fault;
    }
    match error {
        // The reader is a slice: its only failure is to end.
        ciborium::de::Error::Io(_) => CodecError::Truncated,
        ciborium::de::Error::RecursionLimitExceeded => CodecError::TooDeep,
        error => CodecError::Decode(error.into()),
    }
}

/// The CBOR encoding of a value, on its own. Ends of channels cannot be encoded so.
///
/// ```
/// let bytes = farcall_channel::to_bytes(&("answer", 42))?;
/// assert_eq!(farcall_channel::from_bytes::<(String, u32)>(&bytes)?, ("answer".to_owned(), 42));
/// # Ok::<(), farcall_channel::CodecError>(())
/// ```
pub fn to_bytes<T: Serialize + ?Sized>(value: &T) -> Result<Vec<u8>, CodecError> {
    to_bytes_within(value, u64::MAX)
}

/// As [`to_bytes`], refused with [`CodecError::TooLarge`] if it takes more than `max` bytes.
pub fn to_bytes_within<T: Serialize + ?Sized>(value: &T, max: u64) -> Result<Vec<u8>, CodecError> {
    let mut out = Vec::new();
    encode(value, &mut out)?;
    check_length(out.len(), max)?;
    Ok(out)
}

/// The value that is encoded in exactly these bytes. Truncated, trailing and too deeply nested input are errors.
pub fn from_bytes<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, CodecError> {
    decode(bytes)
}

/// As [`from_bytes`], refused with [`CodecError::TooLarge`] unread if there are more than `max` bytes.
pub fn from_bytes_within<T: DeserializeOwned>(bytes: &[u8], max: u64) -> Result<T, CodecError> {
    check_length(bytes.len(), max)?;
    decode(bytes)
}

fn check_length(len: usize, max: u64) -> Result<(), CodecError> {
    let len = len as u64;
    if len > max { Err(CodecError::TooLarge { len, max }) } else { Ok(()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn truncated_trailing_deep_and_large_input_are_typed_errors() {
        let bytes = to_bytes(&vec!["text".to_owned(); 3]).unwrap();
        for cut in 0..bytes.len() {
            assert!(matches!(from_bytes::<Vec<String>>(&bytes[..cut]), Err(CodecError::Truncated)), "{cut}");
        }
        let trailing = [&bytes[..], &[0, 0]].concat();
        assert!(matches!(from_bytes::<Vec<String>>(&trailing), Err(CodecError::Trailing { extra: 2 })));
        let deep = vec![0x81; 100_000];
        assert!(matches!(from_bytes::<Value>(&deep), Err(CodecError::TooDeep)));
        assert!(matches!(from_bytes_within::<Value>(&bytes, 3), Err(CodecError::TooLarge { max: 3, .. })));
        assert!(matches!(to_bytes_within(&bytes, 3), Err(CodecError::TooLarge { max: 3, .. })));
        assert!(matches!(from_bytes::<u32>(&bytes), Err(CodecError::Decode(_))));
    }

    #[test]
    fn a_length_that_lies_costs_no_memory() {
        // An array, a byte string and a text that each claim to hold 2^62 items.
        for major in [0x9b, 0x5b, 0x7b] {
            let mut lie = vec![major];
            lie.extend_from_slice(&(1u64 << 62).to_be_bytes());
            assert!(from_bytes::<Value>(&lie).is_err());
            assert!(from_bytes::<Vec<u64>>(&lie).is_err());
            assert!(from_bytes::<String>(&lie).is_err());
        }
    }

    #[test]
    fn any_value_survives_the_round_trip() {
        let value = Value::Map(vec![
            (Value::Text("list".into()), Value::Array(vec![Value::Null, Value::Bool(true), 1.into()])),
            (Value::Integer(7.into()), Value::Bytes(vec![0, 255])),
            (Value::Float(0.1), Value::Tag(32, Box::new(Value::Text("tagged".into())))),
        ]);
        assert_eq!(from_bytes::<Value>(&to_bytes(&value).unwrap()).unwrap(), value);
    }
}
