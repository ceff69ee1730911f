//! A short way for the messages that most types make: read where they lie, in one pass.
//!
//! The general decoder reads through a stream and copies every name and text twice; for a record of five fields that is
//! most of what receiving it costs. This one knows only what serde makes of ordinary types: integers, floats, texts, byte
//! strings, arrays and maps of definite length, options and enums. Whatever else it meets (tags, indefinite lengths, big
//! numbers, types that ask what there is, deep nesting, errors of all kinds) it leaves to the general decoder, which
//! starts anew and has the last word. So it need not explain itself, and cannot accept what the other would refuse, but
//! for the order of attempts: a `Deserialize` with effects of its own may run twice.

use std::fmt;

use serde::de::{
    DeserializeOwned, DeserializeSeed, Deserializer, EnumAccess, Error, MapAccess, SeqAccess, VariantAccess,
    Visitor,
};
use serde::forward_to_deserialize_any;

/// The value that is encoded in exactly these bytes, if it is of the ordinary kind.
#[inline]
pub(crate) fn decode<T: DeserializeOwned>(message: &[u8]) -> Option<T> {
    let mut slice = Slice { rest: message, depth: MAX_DEPTH };
    let value = T::deserialize(&mut slice).ok()?;
    slice.rest.is_empty().then_some(value)
}

/// Nesting beyond this is unusual, too.
const MAX_DEPTH: u8 = 64;

/// The part not yet read.
struct Slice<'a> {
    rest: &'a [u8],
    depth: u8,
}

/// To be decoded by the general decoder.
#[derive(Debug)]
struct Elsewhere;

impl fmt::Display for Elsewhere {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("not an ordinary value")
    }
}

impl std::error::Error for Elsewhere {}

impl Error for Elsewhere {
    fn custom<M: fmt::Display>(_message: M) -> Elsewhere {
        Elsewhere
    }
}

type Read<T> = Result<T, Elsewhere>;

// Major types (RFC 8949, section 3.1).
const POSITIVE: u8 = 0;
const NEGATIVE: u8 = 1;
const BYTES: u8 = 2;
const TEXT: u8 = 3;
const ARRAY: u8 = 4;
const MAP: u8 = 5;

// Whole initial bytes of major type 7 (section 3.3).
const FALSE: u8 = 0xf4;
const TRUE: u8 = 0xf5;
const NULL: u8 = 0xf6;
const HALF: u8 = 0xf9;
const SINGLE: u8 = 0xfa;
const DOUBLE: u8 = 0xfb;

impl<'a> Slice<'a> {
    #[inline]
    fn peek(&self) -> Read<u8> {
        self.rest.first().copied().ok_or(Elsewhere)
    }

    #[inline]
    fn byte(&mut self) -> Read<u8> {
        let (&first, rest) = self.rest.split_first().ok_or(Elsewhere)?;
        self.rest = rest;
        Ok(first)
    }

    #[inline]
    fn fixed<const N: usize>(&mut self) -> Read<[u8; N]> {
        let (bytes, rest) = self.rest.split_first_chunk().ok_or(Elsewhere)?;
        self.rest = rest;
        Ok(*bytes)
    }

    /// An item's major type and argument.
    #[inline]
    fn head(&mut self) -> Read<(u8, u64)> {
        let first = self.byte()?;
        let argument = match first & 0x1f {
            small @ 0..=23 => u64::from(small),
            24 => u64::from(self.byte()?),
            25 => u64::from(u16::from_be_bytes(self.fixed()?)),
            26 => u64::from(u32::from_be_bytes(self.fixed()?)),
            27 => u64::from_be_bytes(self.fixed()?),
            _ => return Err(Elsewhere),
        };
        Ok((first >> 5, argument))
    }

    /// The argument of an item of this major type.
    #[inline]
    fn expect(&mut self, major: u8) -> Read<u64> {
        let (found, argument) = self.head()?;
        if found == major { Ok(argument) } else { Err(Elsewhere) }
    }

    #[inline]
    fn slice(&mut self, major: u8) -> Read<&'a [u8]> {
        let len = usize::try_from(self.expect(major)?).map_err(|_| Elsewhere)?;
        let (slice, rest) = self.rest.split_at_checked(len).ok_or(Elsewhere)?;
        self.rest = rest;
        Ok(slice)
    }

    #[inline]
    fn text(&mut self) -> Read<&'a str> {
        std::str::from_utf8(self.slice(TEXT)?).map_err(|_| Elsewhere)
    }

    /// Reads the inside of an array or a map of `items`, all of which must be taken.
    #[inline]
    fn inside<R>(&mut self, items: u64, read: impl FnOnce(&mut Items<'_, 'a>) -> Read<R>) -> Read<R> {
        self.depth = self.depth.checked_sub(1).ok_or(Elsewhere)?;
        let mut items = Items { slice: self, left: items };
        let value = read(&mut items)?;
        if items.left > 0 {
            return Err(Elsewhere);
        }
        self.depth += 1;
        Ok(value)
    }
}

/// What is left of an array or a map.
struct Items<'s, 'a> {
    slice: &'s mut Slice<'a>,
    left: u64,
}

impl Items<'_, '_> {
    #[inline]
    fn next(&mut self) -> bool {
        let more = self.left > 0;
        self.left -= u64::from(more);
        more
    }

    /// An item takes at least a byte, so a length that lies promises no more than there is.
    fn hint(&self) -> Option<usize> {
        Some(usize::try_from(self.left).unwrap_or(usize::MAX).min(self.slice.rest.len()))
    }
}

impl<'de> SeqAccess<'de> for &mut Items<'_, 'de> {
    type Error = Elsewhere;

    #[inline]
    fn next_element_seed<S: DeserializeSeed<'de>>(&mut self, seed: S) -> Read<Option<S::Value>> {
        if self.next() { seed.deserialize(&mut *self.slice).map(Some) } else { Ok(None) }
    }

    fn size_hint(&self) -> Option<usize> {
        self.hint()
    }
}

impl<'de> MapAccess<'de> for &mut Items<'_, 'de> {
    type Error = Elsewhere;

    #[inline]
    fn next_key_seed<S: DeserializeSeed<'de>>(&mut self, seed: S) -> Read<Option<S::Value>> {
        if self.next() { seed.deserialize(&mut *self.slice).map(Some) } else { Ok(None) }
    }

    #[inline]
    fn next_value_seed<S: DeserializeSeed<'de>>(&mut self, seed: S) -> Read<S::Value> {
        seed.deserialize(&mut *self.slice)
    }

    fn size_hint(&self) -> Option<usize> {
        self.hint()
    }
}

/// A variant: a text alone, or the key of a map with one entry.
struct Variant<'s, 'a> {
    slice: &'s mut Slice<'a>,
    has_content: bool,
}

impl<'de> EnumAccess<'de> for Variant<'_, 'de> {
    type Error = Elsewhere;
    type Variant = Self;

    #[inline]
    fn variant_seed<S: DeserializeSeed<'de>>(self, seed: S) -> Read<(S::Value, Self)> {
        let variant = seed.deserialize(&mut *self.slice)?;
        Ok((variant, self))
    }
}

impl<'de> VariantAccess<'de> for Variant<'_, 'de> {
    type Error = Elsewhere;

    fn unit_variant(self) -> Read<()> {
        if self.has_content { Err(Elsewhere) } else { Ok(()) }
    }

    fn newtype_variant_seed<S: DeserializeSeed<'de>>(self, seed: S) -> Read<S::Value> {
        if self.has_content { seed.deserialize(self.slice) } else { Err(Elsewhere) }
    }

    fn tuple_variant<V: Visitor<'de>>(self, _len: usize, visitor: V) -> Read<V::Value> {
        if self.has_content { self.slice.deserialize_seq(visitor) } else { Err(Elsewhere) }
    }

    fn struct_variant<V: Visitor<'de>>(self, _fields: &'static [&'static str], visitor: V) -> Read<V::Value> {
        if self.has_content { self.slice.deserialize_map(visitor) } else { Err(Elsewhere) }
    }
}

/// Integers are handed out as the general decoder does, as the widest of their sign.
macro_rules! integers {
    ($($method:ident $read:ident)*) => {$(
        #[inline]
        fn $method<V: Visitor<'de>>(self, visitor: V) -> Read<V::Value> {
            self.$read(visitor)
        }
    )*};
}

impl<'de> Deserializer<'de> for &mut Slice<'de> {
    type Error = Elsewhere;

    fn is_human_readable(&self) -> bool {
        false
    }

    fn deserialize_any<V: Visitor<'de>>(self, _visitor: V) -> Read<V::Value> {
        Err(Elsewhere)
    }

    #[inline]
    fn deserialize_bool<V: Visitor<'de>>(self, visitor: V) -> Read<V::Value> {
        match self.byte()? {
            FALSE => visitor.visit_bool(false),
            TRUE => visitor.visit_bool(true),
            _ => Err(Elsewhere),
        }
    }

    #[inline]
    fn deserialize_u64<V: Visitor<'de>>(self, visitor: V) -> Read<V::Value> {
        visitor.visit_u64(self.expect(POSITIVE)?)
    }

    #[inline]
    fn deserialize_i64<V: Visitor<'de>>(self, visitor: V) -> Read<V::Value> {
        let (major, argument) = self.head()?;
        let magnitude = i64::try_from(argument).map_err(|_| Elsewhere)?;
        match major {
            POSITIVE => visitor.visit_i64(magnitude),
            NEGATIVE => visitor.visit_i64(-1 - magnitude),
            _ => Err(Elsewhere),
        }
    }

    integers! {
        deserialize_u8 deserialize_u64 deserialize_u16 deserialize_u64 deserialize_u32 deserialize_u64
        deserialize_i8 deserialize_i64 deserialize_i16 deserialize_i64 deserialize_i32 deserialize_i64
        deserialize_f32 deserialize_f64 deserialize_str deserialize_string
        deserialize_identifier deserialize_string deserialize_byte_buf deserialize_bytes
    }

    #[inline]
    fn deserialize_f64<V: Visitor<'de>>(self, visitor: V) -> Read<V::Value> {
        let value = match self.byte()? {
            HALF => half::f16::from_be_bytes(self.fixed()?).to_f64(),
            SINGLE => f64::from(f32::from_be_bytes(self.fixed()?)),
            DOUBLE => f64::from_be_bytes(self.fixed()?),
            _ => return Err(Elsewhere),
        };
        visitor.visit_f64(value)
    }

    #[inline]
    fn deserialize_char<V: Visitor<'de>>(self, visitor: V) -> Read<V::Value> {
        let mut chars = self.text()?.chars();
        match (chars.next(), chars.next()) {
            (Some(char), None) => visitor.visit_char(char),
            _ => Err(Elsewhere),
        }
    }

    #[inline]
    fn deserialize_string<V: Visitor<'de>>(self, visitor: V) -> Read<V::Value> {
        visitor.visit_str(self.text()?)
    }

    #[inline]
    fn deserialize_bytes<V: Visitor<'de>>(self, visitor: V) -> Read<V::Value> {
        visitor.visit_bytes(self.slice(BYTES)?)
    }

    #[inline]
    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Read<V::Value> {
        if self.peek()? == NULL {
            self.byte()?;
            visitor.visit_none()
        } else {
            visitor.visit_some(self)
        }
    }

    #[inline]
    fn deserialize_unit<V: Visitor<'de>>(self, visitor: V) -> Read<V::Value> {
        if self.byte()? == NULL { visitor.visit_unit() } else { Err(Elsewhere) }
    }

    #[inline]
    fn deserialize_unit_struct<V: Visitor<'de>>(self, _name: &'static str, visitor: V) -> Read<V::Value> {
        self.deserialize_unit(visitor)
    }

    #[inline]
    fn deserialize_newtype_struct<V: Visitor<'de>>(self, _name: &'static str, visitor: V) -> Read<V::Value> {
        visitor.visit_newtype_struct(self)
    }

    #[inline]
    fn deserialize_seq<V: Visitor<'de>>(self, visitor: V) -> Read<V::Value> {
        let items = self.expect(ARRAY)?;
        self.inside(items, |items| visitor.visit_seq(items))
    }

    #[inline]
    fn deserialize_tuple<V: Visitor<'de>>(self, _len: usize, visitor: V) -> Read<V::Value> {
        self.deserialize_seq(visitor)
    }

    #[inline]
    fn deserialize_tuple_struct<V: Visitor<'de>>(
        self,
        _name: &'static str,
        _len: usize,
        visitor: V,
    ) -> Read<V::Value> {
        self.deserialize_seq(visitor)
    }

    #[inline]
    fn deserialize_map<V: Visitor<'de>>(self, visitor: V) -> Read<V::Value> {
        let items = self.expect(MAP)?;
        self.inside(items, |items| visitor.visit_map(items))
    }

    #[inline]
    fn deserialize_struct<V: Visitor<'de>>(
        self,
        _name: &'static str,
        _fields: &'static [&'static str],
        visitor: V,
    ) -> Read<V::Value> {
        self.deserialize_map(visitor)
    }

    #[inline]
    fn deserialize_enum<V: Visitor<'de>>(
        self,
        _name: &'static str,
        _variants: &'static [&'static str],
        visitor: V,
    ) -> Read<V::Value> {
        if self.peek()? >> 5 == TEXT {
            return visitor.visit_enum(Variant { slice: self, has_content: false });
        }
        if self.expect(MAP)? != 1 {
            return Err(Elsewhere);
        }
        self.inside(0, |items| visitor.visit_enum(Variant { slice: items.slice, has_content: true }))
    }

    forward_to_deserialize_any! { i128 u128 ignored_any }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use serde::{Deserialize, Serialize};

    use super::*;
    use crate::codec::{from_bytes, to_bytes};

    #[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
    enum Shape {
        Empty,
        One(i32),
        Two(u8, String),
        Named { wide: f64, deep: Option<Box<Shape>> },
    }

    #[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
    struct Unit;

    #[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
    struct Wrapped(String);

    #[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
    struct All {
        unsigned: (u8, u16, u32, u64, usize),
        signed: (i8, i16, i32, i64, isize),
        floats: (f32, f64),
        text: String,
        letter: char,
        flag: bool,
        nothing: (),
        unit: Unit,
        wrapped: Wrapped,
        maybe: Vec<Option<u16>>,
        nested: Option<Option<u8>>,
        map: BTreeMap<i16, Vec<Shape>>,
        #[serde(default)]
        missing: u8,
    }

    /// A little generator, the same on every run.
    struct Dice(u64);

    impl Dice {
        fn roll(&mut self, sides: u64) -> u64 {
            self.0 = self.0.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
            (self.0 >> 33) % sides
        }

        /// Small and huge numbers alike, so that every width of the encoding occurs.
        fn number(&mut self) -> u64 {
            let bits = self.roll(65);
            if bits == 0 { 0 } else { (self.roll(u64::MAX >> 33) << 31 | self.roll(1 << 31)) >> (64 - bits) }
        }

        fn text(&mut self) -> String {
            let len = [0, 1, 5, 23, 24, 100, 255, 256, 1000][self.roll(9) as usize];
            (0..len).map(|_| ['a', 'ä', '世', '\u{10ffff}'][self.roll(4) as usize]).collect()
        }

        fn float(&mut self) -> f64 {
            let value =
                [0.0, -0.0, 0.5, 1.5e-7, f64::INFINITY, 65504.0, 1e300, 0.1, 3.0e-45][self.roll(9) as usize];
            if self.roll(2) == 0 { value } else { self.number() as f64 }
        }

        fn shape(&mut self, depth: u64) -> Shape {
            match self.roll(4) {
                0 => Shape::Empty,
                1 => Shape::One(self.number() as i32),
                2 => Shape::Two(self.number() as u8, self.text()),
                _ => Shape::Named {
                    wide: self.float(),
                    deep: (depth > 0).then(|| Box::new(self.shape(depth - 1))),
                },
            }
        }

        fn all(&mut self) -> All {
            let n = self.number();
            All {
                unsigned: (n as u8, n as u16, n as u32, n, n as usize),
                signed: (n as i8, n as i16, n as i32, n as i64, n as isize),
                floats: (self.float() as f32, self.float()),
                text: self.text(),
                letter: ['a', 'ä', '世', '\u{10ffff}'][self.roll(4) as usize],
                flag: self.roll(2) == 0,
                nothing: (),
                unit: Unit,
                wrapped: Wrapped(self.text()),
                maybe: (0..self.roll(30)).map(|n| n.is_multiple_of(3).then_some(n as u16)).collect(),
                nested: [None, Some(Some(7))][self.roll(2) as usize],
                map: (0..self.roll(4)).map(|_| (self.number() as i16, vec![self.shape(5)])).collect(),
                missing: 0,
            }
        }
    }

    fn general<T: DeserializeOwned>(message: &[u8]) -> Option<T> {
        let mut rest = message;
        let value = ciborium::from_reader(&mut rest).ok()?;
        rest.is_empty().then_some(value)
    }

    #[test]
    fn ordinary_values_are_read_as_the_general_decoder_reads_them() {
        let mut dice = Dice(1);
        for _ in 0..2000 {
            let value = dice.all();
            let bytes = to_bytes(&value).unwrap();
            let read = decode::<All>(&bytes);
            assert_eq!(read.as_ref(), Some(&value), "the short way was taken");
            assert_eq!(read, general(&bytes));
        }
    }

    #[test]
    fn what_it_accepts_of_damaged_bytes_the_general_decoder_accepts_alike() {
        let mut dice = Dice(2);
        let mut accepted = 0;
        for _ in 0..20_000 {
            let mut bytes = to_bytes(&(dice.shape(3), dice.number(), dice.text())).unwrap();
            for _ in 0..=dice.roll(2) {
                let place = dice.roll(bytes.len() as u64) as usize;
                bytes[place] = match dice.roll(3) {
                    0 => dice.roll(256) as u8,
                    1 => bytes[place] ^ 1 << dice.roll(8),
                    _ => bytes[place] ^ 0x20,
                };
            }
            // As bytes again, since one that is not a number differs from itself.
            let same = |value: &(Shape, u64, String)| to_bytes(value).unwrap();
            if let Some(value) = decode::<(Shape, u64, String)>(&bytes) {
                accepted += 1;
                let other = general::<(Shape, u64, String)>(&bytes);
                assert_eq!(other.as_ref().map(same), Some(same(&value)), "{bytes:x?}");
            }
        }
        assert!(accepted > 100, "{accepted}");
    }

    #[test]
    fn cut_and_lengthened_bytes_are_left_to_the_general_decoder() {
        let bytes = to_bytes(&Dice(3).all()).unwrap();
        for cut in 0..bytes.len() {
            assert_eq!(decode::<All>(&bytes[..cut]), None);
        }
        assert_eq!(decode::<All>(&[&bytes[..], &[0]].concat()), None);
    }

    #[test]
    fn the_unusual_is_left_to_the_general_decoder_and_arrives_all_the_same() {
        // A text in two pieces, a tagged number, an array of indefinite length, too many fields, a number too large.
        assert_eq!(decode::<String>(b"\x7f\x61a\x61b\xff"), None);
        assert_eq!(from_bytes::<String>(b"\x7f\x61a\x61b\xff").unwrap(), "ab");
        assert_eq!(decode::<u8>(b"\xc1\x05"), None);
        assert_eq!(from_bytes::<u8>(b"\xc1\x05").unwrap(), 5);
        assert_eq!(from_bytes::<Vec<u8>>(b"\x9f\x01\x02\xff").unwrap(), [1, 2]);
        let more = to_bytes(&BTreeMap::from([("text", "x"), ("zzz", "y")])).unwrap();
        #[derive(Debug, PartialEq, Deserialize)]
        struct Text {
            text: String,
        }
        assert_eq!(decode::<Text>(&more), None);
        assert_eq!(from_bytes::<Text>(&more).unwrap(), Text { text: "x".into() });
        let large = to_bytes(&u128::MAX).unwrap();
        assert_eq!(from_bytes::<u128>(&large).unwrap(), u128::MAX);
        let address: std::net::IpAddr = "192.0.2.1".parse().unwrap();
        assert_eq!(from_bytes::<std::net::IpAddr>(&to_bytes(&address).unwrap()).unwrap(), address);
        let mut deep = Shape::Empty;
        for _ in 0..50 {
            deep = Shape::Named { wide: 1.0, deep: Some(Box::new(deep)) };
        }
        let bytes = to_bytes(&deep).unwrap();
        assert_eq!(decode::<Shape>(&bytes), None);
        assert_eq!(from_bytes::<Shape>(&bytes).unwrap(), deep);
    }
}
