//! A short way for messages that are a text and nothing else: lines of output, names, paths.
//!
//! The general decoder copies a text twice and pulls its length through a reader; here it is read where it lies. Whatever is
//! not a text of definite length, or not asked for as one, is left to the general decoder.

use std::fmt;

use serde::de::{DeserializeOwned, Deserializer, Error, Visitor};
use serde::forward_to_deserialize_any;

/// The value, if `message` is a text and the value wants to be made of one.
#[inline]
pub(crate) fn decode<T: DeserializeOwned>(message: &[u8]) -> Option<T> {
    T::deserialize(Text(message)).ok()
}

/// The text that the CBOR item in exactly these bytes is (RFC 8949, section 3.1, major type 3).
#[inline]
fn text(message: &[u8]) -> Option<&str> {
    let (&first, rest) = message.split_first()?;
    let (len, text) = match first {
        0x60..=0x77 => (usize::from(first - 0x60), rest),
        0x78 => {
            let (&len, text) = rest.split_first()?;
            (usize::from(len), text)
        }
        0x79 => {
            let (len, text) = rest.split_first_chunk()?;
            (usize::from(u16::from_be_bytes(*len)), text)
        }
        0x7a => {
            let (len, text) = rest.split_first_chunk()?;
            (usize::try_from(u32::from_be_bytes(*len)).ok()?, text)
        }
        _ => return None,
    };
    if text.len() == len { std::str::from_utf8(text).ok() } else { None }
}

struct Text<'a>(&'a [u8]);

/// Not a text, or not wanted as one.
#[derive(Debug)]
struct Elsewhere;

impl fmt::Display for Elsewhere {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("not a text")
    }
}

impl std::error::Error for Elsewhere {}

impl Error for Elsewhere {
    fn custom<M: fmt::Display>(_message: M) -> Elsewhere {
        Elsewhere
    }
}

impl<'de> Deserializer<'de> for Text<'de> {
    type Error = Elsewhere;

    #[inline]
    fn deserialize_string<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Elsewhere> {
        visitor.visit_str(text(self.0).ok_or(Elsewhere)?)
    }

    #[inline]
    fn deserialize_newtype_struct<V: Visitor<'de>>(
        self,
        _name: &'static str,
        visitor: V,
    ) -> Result<V::Value, Elsewhere> {
        visitor.visit_newtype_struct(self)
    }

    #[inline]
    fn deserialize_any<V: Visitor<'de>>(self, _visitor: V) -> Result<V::Value, Elsewhere> {
        Err(Elsewhere)
    }

    forward_to_deserialize_any! {
        bool i8 i16 i32 i64 i128 u8 u16 u32 u64 u128 f32 f64 char str bytes byte_buf option unit unit_struct seq tuple
        tuple_struct map struct enum identifier ignored_any
    }
}

#[cfg(test)]
mod tests {
    use serde::{Deserialize, Serialize};

    use super::decode;
    use crate::codec::{from_bytes, to_bytes};

    #[derive(Debug, PartialEq, Serialize, Deserialize)]
    struct Name(String);

    #[test]
    fn texts_of_all_lengths_are_read_as_the_general_decoder_reads_them() {
        for len in [0, 1, 23, 24, 255, 256, 65_535, 65_536] {
            let text = "ä".repeat(len / 2) + &"x".repeat(len % 2);
            let bytes = to_bytes(&text).unwrap();
            assert_eq!(decode::<String>(&bytes).as_ref(), Some(&text), "{len}");
            assert_eq!(decode::<Name>(&bytes), Some(Name(text.clone())), "{len}");
            assert_eq!(decode::<String>(&bytes[..bytes.len() - 1]), None, "{len}");
            assert_eq!(decode::<String>(&[&bytes[..], b"x"].concat()), None, "{len}");
        }
    }

    #[test]
    fn everything_else_is_left_to_the_general_decoder() {
        assert_eq!(decode::<u32>(&to_bytes(&7u32).unwrap()), None);
        assert_eq!(decode::<String>(&to_bytes(&7u32).unwrap()), None);
        assert_eq!(decode::<String>(b"\x62\xff\xff"), None);
        assert_eq!(decode::<String>(b""), None);
        // A text in two pieces.
        let pieces = b"\x7f\x61a\x61b\xff";
        assert_eq!(decode::<String>(pieces), None);
        assert_eq!(from_bytes::<String>(pieces).unwrap(), "ab");
    }
}
