//! The wire format: its layout, encoding and decoding.
//!
//! A connection is two byte streams, one in each direction. Each begins with a [`Hello`] of [`HELLO_LEN`] bytes, whose
//! layout never changes; everything after it is frames. All numbers are big-endian.
//!
//! # Hello
//!
//! | bytes | field |
//! |---|---|
//! | 12 | magic: `89 'FARCALL' 0D 0A 1A 0A`; a terminal or a text-mode transfer that translates line ends or strips the eighth bit spoils it (the reasoning of PNG's signature, RFC 2083 section 3.1) |
//! | 2 | version |
//! | 2 | reserved, zero |
//! | 4 | `max_channels` that the peer may have open at once |
//! | 4 | `initial_window` of a channel that the peer opens, in bytes |
//! | 8 | `max_message` that the peer may send, in bytes |
//! | 8 | `assembly_budget`, in bytes, at least `max_message` |
//!
//! The worker speaks first: it sends its hello at once, the coordinator answers.
//!
//! # Frames
//!
//! A header of [`HEADER_LEN`] bytes (kind `u8`, flags `u8`, payload length `u16`, channel `u64`), then the payload. A
//! payload is at most 65,535 bytes by construction, so a peer never chooses the size of an allocation. Only the parts of a
//! longer message, `FIRST` and `NEXT`, may be longer: they have no flags, and there that byte is the highest of a length of
//! 24 bits. A part is never gathered before it is handled: its bytes go where the message is put together as they come, into
//! room that the sender had credit for. So a long message passes without being copied once more.
//!
//! | kind | flags | payload | meaning |
//! |---|---|---|---|
//! | `OPEN` 1 | `SENDS` 1, `RECEIVES` 2, `CARRIED` 4 | window `u32`; with `CARRIED`: carrier `u64`, message `u64`, index `u16`; request ≤ 1,024 B | a new channel; the flags say which directions the opener uses |
//! | `DATA` 2 | | bytes | one whole message |
//! | `FIRST` 3 | length | total length `u64`, bytes | a message that does not fit a frame or the credit begins; without bytes it only announces the length |
//! | `NEXT` 4 | length | bytes, at least one | the message goes on |
//! | `WITHDRAW` 5 | | credit `u32` | this much credit is returned, and an announced message of which no byte was sent, if there is one, taken back |
//! | `CREDIT` 6 | | credit `u32`, window `u32` | the peer may send that much more; the window it is given out of |
//! | `CLOSE` 7 | `ERROR` 1 | with `ERROR`: text ≤ 8 KiB | the sender's direction ends, after all its messages |
//! | `RESET` 8 | `ERROR` 1 | consumed `u64`; with `ERROR`: text ≤ 8 KiB | the receiver's direction ends: it wants no more, or has consumed everything up to `CLOSE`; the number of messages it consumed. Exactly one for each direction |
//! | `PING` 9 | `ACK` 1 | token `u64` | answered with `ACK` and the same token; channel 0 |
//! | `GOAWAY` 10 | `ERROR` 1 | last channel accepted `u64`; text ≤ 8 KiB | no more channels are accepted; with `ERROR` the connection ends at once; channel 0 |
//! | `RETURN` 11 | | carrier `u64`, message `u64`, index `u16` | the end of this channel that its holder had travels home inside that message |
//!
//! # Channels
//!
//! A coordinator opens channels with odd ids, a worker with even ones, both increasing. An id is never used again, so a
//! late frame is never ambiguous: one for an id above the highest seen is an error, one for a dead id is ignored. A channel
//! has two directions; each ends by exactly one `CLOSE` or none and exactly one `RESET`, which is also the receipt, and a
//! channel counts against `max_channels` until both directions have ended so.
//!
//! # Credit
//!
//! A message costs [`HEADER_LEN`] plus its length, however it is cut, so empty messages cost too; nothing else costs credit.
//! `CLOSE` follows its channel's last message. `OPEN` precedes all other frames of its channel, the message that carries
//! its end, and a `GOAWAY` that was decided upon later.

use std::fmt;

/// The version of the protocol after the hello.
pub const VERSION: u16 = 1;
/// Bytes of a frame's header.
pub const HEADER_LEN: usize = 12;
/// Bytes of a hello.
pub const HELLO_LEN: usize = 40;
/// The longest payload of a frame that is no part of a longer message.
pub const MAX_PAYLOAD: usize = u16::MAX as usize;
/// The longest payload of a part of a longer message.
pub const MAX_PART: usize = (1 << 24) - 1;
/// The longest request of an `OPEN`.
pub const MAX_REQUEST: usize = 1024;
/// The longest error text of a `CLOSE`, `RESET` or `GOAWAY`.
pub const MAX_ERROR: usize = 8 * 1024;

const MAGIC: [u8; 12] = *b"\x89FARCALL\r\n\x1a\n";

/// The opener sends on the channel.
pub(crate) const OPEN_SENDS: u8 = 1;
/// The opener receives on the channel.
pub(crate) const OPEN_RECEIVES: u8 = 2;
const OPEN_CARRIED: u8 = 4;
const ERROR: u8 = 1;
const ACK: u8 = 1;

/// What one side tells the other before anything else.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Hello {
    /// The protocol's version.
    pub version: u16,
    /// What the sender of this hello is willing to hold.
    pub limits: Limits,
}

/// What a side is willing to receive; the other side keeps to it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Channels that the peer may have open at once.
    pub max_channels: u32,
    /// Bytes that the peer may send on a channel it opened before the first `CREDIT`.
    pub initial_window: u32,
    /// Bytes of the longest message.
    pub max_message: u64,
    /// Bytes kept for messages longer than their channel's window, all channels together.
    pub assembly_budget: u64,
}

impl fmt::Display for Limits {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "max_channels {}, initial_window {}, max_message {}, assembly_budget {}",
            self.max_channels, self.initial_window, self.max_message, self.assembly_budget
        )
    }
}

impl Hello {
    /// Appends the hello to `out`.
    pub fn encode(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(&MAGIC);
        out.extend_from_slice(&self.version.to_be_bytes());
        out.extend_from_slice(&[0, 0]);
        out.extend_from_slice(&self.limits.max_channels.to_be_bytes());
        out.extend_from_slice(&self.limits.initial_window.to_be_bytes());
        out.extend_from_slice(&self.limits.max_message.to_be_bytes());
        out.extend_from_slice(&self.limits.assembly_budget.to_be_bytes());
    }

    /// Reads a hello from the start of `input`: `None` while it is incomplete, an error as soon as a byte of the magic
    /// differs.
    pub fn decode(input: &[u8]) -> Result<Option<Hello>, FrameError> {
        let seen = input.len().min(MAGIC.len());
        if input[..seen] != MAGIC[..seen] {
            return Err(FrameError::Magic { found: input[..seen].to_vec() });
        }
        let Some(hello) = input.get(..HELLO_LEN) else { return Ok(None) };
        let mut fields = Fields { bytes: &hello[MAGIC.len()..], kind: 0 };
        let version = fields.u16()?;
        fields.u16()?;
        let limits = Limits {
            max_channels: fields.u32()?,
            initial_window: fields.u32()?,
            max_message: fields.u64()?,
            assembly_budget: fields.u64()?,
        };
        Ok(Some(Hello { version, limits }))
    }
}

/// Which message an end of a channel travels in: the carrying channel, the number of the message on it, and the place
/// among the ends of that message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Carried {
    /// The channel that carries the message.
    pub carrier: u64,
    /// How many messages went before it on the carrier.
    pub message: u64,
    /// How many ends went before it in the message.
    pub index: u16,
}

/// A frame, borrowed from the bytes that it was decoded from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[expect(missing_docs, reason = "the module's documentation describes every field")]
pub enum Frame<'a> {
    Open { id: u64, sends: bool, receives: bool, window: u32, carried: Option<Carried>, request: &'a [u8] },
    Data { id: u64, payload: &'a [u8] },
    First { id: u64, total: u64, payload: &'a [u8] },
    Next { id: u64, payload: &'a [u8] },
    Withdraw { id: u64, credit: u32 },
    Credit { id: u64, credit: u32, window: u32 },
    Close { id: u64, error: Option<&'a [u8]> },
    Reset { id: u64, consumed: u64, error: Option<&'a [u8]> },
    Ping { ack: bool, token: u64 },
    GoAway { last: u64, error: bool, text: &'a [u8] },
    Return { id: u64, carried: Carried },
}

/// Bytes that are not what the wire format allows.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum FrameError {
    /// The stream does not begin as a farcall connection does.
    #[error("the peer does not speak farcall's protocol: it began with {:?}", String::from_utf8_lossy(.found))]
    Magic {
        /// What came instead, as far as the magic reaches.
        found: Vec<u8>,
    },
    /// A kind of frame that this version does not know.
    #[error("unknown frame kind {0}")]
    Kind(u8),
    /// Flags that the kind does not have.
    #[error("frame kind {kind} with unknown flags {flags:#04x}")]
    Flags {
        /// The frame's kind.
        kind: u8,
        /// The flags that came.
        flags: u8,
    },
    /// A payload too short or too long for its kind.
    #[error("frame kind {kind} with a payload of {len} bytes")]
    Length {
        /// The frame's kind.
        kind: u8,
        /// The length of the payload.
        len: usize,
    },
    /// A frame about a channel without one, or the reverse.
    #[error("frame kind {kind} for channel {id}")]
    Channel {
        /// The frame's kind.
        kind: u8,
        /// The channel it named.
        id: u64,
    },
}

const OPEN: u8 = 1;
const DATA: u8 = 2;
const FIRST: u8 = 3;
const NEXT: u8 = 4;
const WITHDRAW: u8 = 5;
const CREDIT: u8 = 6;
const CLOSE: u8 = 7;
const RESET: u8 = 8;
const PING: u8 = 9;
const GOAWAY: u8 = 10;
const RETURN: u8 = 11;

/// A frame's header.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Header {
    kind: u8,
    flags: u8,
    len: u32,
    id: u64,
}

impl Header {
    /// Reads a header from the start of `input`; `None` while it is incomplete.
    #[inline]
    pub fn decode(input: &[u8]) -> Option<Header> {
        let bytes: &[u8; HEADER_LEN] = input.first_chunk()?;
        let [kind, flags, l0, l1, id @ ..] = *bytes;
        let (flags, high) = if matches!(kind, FIRST | NEXT) { (0, flags) } else { (flags, 0) };
        Some(Header { kind, flags, len: u32::from_be_bytes([0, high, l0, l1]), id: u64::from_be_bytes(id) })
    }

    /// Bytes of the payload that follows.
    #[inline]
    pub fn payload_len(&self) -> usize {
        self.len as usize
    }

    /// The channel that the frame is about, or 0.
    pub fn id(&self) -> u64 {
        self.id
    }

    /// Whether the frame is part of a longer message, whose payload may be handled piece by piece.
    pub(crate) fn is_part(&self) -> bool {
        matches!(self.kind, FIRST | NEXT)
    }

    /// The header of a part of a longer message.
    fn write_part(kind: u8, len: usize, id: u64, out: &mut Vec<u8>) {
        assert!(len <= MAX_PART, "every caller keeps its part within MAX_PART");
        Self::write(kind, (len >> 16) as u8, len & MAX_PAYLOAD, id, out);
    }

    #[inline]
    fn write(kind: u8, flags: u8, len: usize, id: u64, out: &mut Vec<u8>) {
        let len = u16::try_from(len).expect("every caller keeps its payload within MAX_PAYLOAD");
        let mut header = [0; HEADER_LEN];
        header[0] = kind;
        header[1] = flags;
        header[2..4].copy_from_slice(&len.to_be_bytes());
        header[4..].copy_from_slice(&id.to_be_bytes());
        out.extend_from_slice(&header);
    }
}

impl<'a> Frame<'a> {
    /// Reads one frame from the start of `input`, with its length in bytes; `None` while it is incomplete.
    pub fn decode(input: &'a [u8]) -> Result<Option<(Frame<'a>, usize)>, FrameError> {
        let Some(header) = Header::decode(input) else { return Ok(None) };
        let end = HEADER_LEN + header.payload_len();
        match input.get(HEADER_LEN..end) {
            Some(payload) => Ok(Some((Frame::from_parts(header, payload)?, end))),
            None => Ok(None),
        }
    }

    /// The payload of a whole `DATA` of this channel at the start of `input`, with the frame's length; `None` for anything
    /// else.
    #[inline]
    pub(crate) fn small_data(input: &'a [u8], id: u64) -> Option<(&'a [u8], usize)> {
        let header = Header::decode(input)?;
        let end = HEADER_LEN + header.payload_len();
        let expected = header.kind == DATA && header.flags == 0 && header.id == id;
        if expected { Some((input.get(HEADER_LEN..end)?, end)) } else { None }
    }

    /// Interprets `payload` as what `header` says. For a part of a longer message the payload may be cut short.
    #[inline]
    pub fn from_parts(header: Header, payload: &'a [u8]) -> Result<Frame<'a>, FrameError> {
        let Header { kind, flags, id, .. } = header;
        let wrong_length = || FrameError::Length { kind, len: payload.len() };
        let allowed = match kind {
            DATA | FIRST | NEXT | WITHDRAW | CREDIT | RETURN => 0,
            OPEN => OPEN_SENDS | OPEN_RECEIVES | OPEN_CARRIED,
            CLOSE | RESET | GOAWAY => ERROR,
            PING => ACK,
            _ => return Err(FrameError::Kind(kind)),
        };
        if flags & !allowed != 0 {
            return Err(FrameError::Flags { kind, flags });
        }
        if matches!(kind, PING | GOAWAY) != (id == 0) {
            return Err(FrameError::Channel { kind, id });
        }
        let mut fields = Fields { bytes: payload, kind };
        let frame = match kind {
            DATA => return Ok(Frame::Data { id, payload }),
            FIRST => Frame::First { id, total: fields.u64()?, payload: fields.rest(MAX_PART)? },
            NEXT if header.len == 0 => return Err(wrong_length()),
            NEXT => Frame::Next { id, payload: fields.rest(MAX_PART)? },
            OPEN => Frame::Open {
                id,
                sends: flags & OPEN_SENDS != 0,
                receives: flags & OPEN_RECEIVES != 0,
                window: fields.u32()?,
                carried: if flags & OPEN_CARRIED != 0 { Some(fields.carried()?) } else { None },
                request: fields.rest(MAX_REQUEST)?,
            },
            WITHDRAW => Frame::Withdraw { id, credit: fields.u32()? },
            CREDIT => Frame::Credit { id, credit: fields.u32()?, window: fields.u32()? },
            CLOSE => Frame::Close { id, error: fields.error(flags)? },
            RESET => Frame::Reset { id, consumed: fields.u64()?, error: fields.error(flags)? },
            PING => Frame::Ping { ack: flags & ACK != 0, token: fields.u64()? },
            GOAWAY => Frame::GoAway {
                last: fields.u64()?,
                error: flags & ERROR != 0,
                text: fields.rest(MAX_ERROR)?,
            },
            RETURN => Frame::Return { id, carried: fields.carried()? },
            _ => return Err(FrameError::Kind(kind)),
        };
        if fields.bytes.is_empty() { Ok(frame) } else { Err(wrong_length()) }
    }

    /// Appends the frame to `out`. Payloads longer than their kind allows are the caller's mistake and panic.
    pub fn encode(&self, out: &mut Vec<u8>) {
        match *self {
            Frame::Open { id, sends, receives, window, carried, request } => {
                let mut flags = 0;
                flags |= if sends { OPEN_SENDS } else { 0 };
                flags |= if receives { OPEN_RECEIVES } else { 0 };
                flags |= if carried.is_some() { OPEN_CARRIED } else { 0 };
                let len = 4 + if carried.is_some() { CARRIED_LEN } else { 0 } + request.len();
                Header::write(OPEN, flags, len, id, out);
                out.extend_from_slice(&window.to_be_bytes());
                if let Some(carried) = carried {
                    carried.write(out);
                }
                out.extend_from_slice(request);
            }
            Frame::Data { id, payload } => {
                Header::write(DATA, 0, payload.len(), id, out);
                out.extend_from_slice(payload);
            }
            Frame::First { id, total, payload } => {
                Frame::first_header(id, total, payload.len(), out);
                out.extend_from_slice(payload);
            }
            Frame::Next { id, payload } => {
                Frame::next_header(id, payload.len(), out);
                out.extend_from_slice(payload);
            }
            Frame::Withdraw { id, credit } => {
                Header::write(WITHDRAW, 0, 4, id, out);
                out.extend_from_slice(&credit.to_be_bytes());
            }
            Frame::Credit { id, credit, window } => {
                Header::write(CREDIT, 0, 8, id, out);
                out.extend_from_slice(&credit.to_be_bytes());
                out.extend_from_slice(&window.to_be_bytes());
            }
            Frame::Close { id, error } => {
                Header::write(CLOSE, error_flag(error), error.map_or(0, <[u8]>::len), id, out);
                out.extend_from_slice(error.unwrap_or_default());
            }
            Frame::Reset { id, consumed, error } => {
                Header::write(RESET, error_flag(error), 8 + error.map_or(0, <[u8]>::len), id, out);
                out.extend_from_slice(&consumed.to_be_bytes());
                out.extend_from_slice(error.unwrap_or_default());
            }
            Frame::Ping { ack, token } => {
                Header::write(PING, if ack { ACK } else { 0 }, 8, 0, out);
                out.extend_from_slice(&token.to_be_bytes());
            }
            Frame::GoAway { last, error, text } => {
                Header::write(GOAWAY, if error { ERROR } else { 0 }, 8 + text.len(), 0, out);
                out.extend_from_slice(&last.to_be_bytes());
                out.extend_from_slice(text);
            }
            Frame::Return { id, carried } => {
                Header::write(RETURN, 0, CARRIED_LEN, id, out);
                carried.write(out);
            }
        }
    }

    /// Appends the header of a `DATA` whose payload of `len` bytes is written elsewhere.
    #[inline]
    pub(crate) fn data_header(id: u64, len: usize, out: &mut Vec<u8>) {
        Header::write(DATA, 0, len, id, out);
    }

    /// Appends a `FIRST` without its `len` bytes.
    pub(crate) fn first_header(id: u64, total: u64, len: usize, out: &mut Vec<u8>) {
        Header::write_part(FIRST, FIRST_LEN + len, id, out);
        out.extend_from_slice(&total.to_be_bytes());
    }

    /// Appends a `NEXT` without its `len` bytes.
    pub(crate) fn next_header(id: u64, len: usize, out: &mut Vec<u8>) {
        Header::write_part(NEXT, len, id, out);
    }
}

/// Bytes of a `FIRST`'s payload before the message's own.
pub(crate) const FIRST_LEN: usize = 8;
const CARRIED_LEN: usize = 18;

fn error_flag(error: Option<&[u8]>) -> u8 {
    if error.is_some() { ERROR } else { 0 }
}

impl Carried {
    fn write(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(&self.carrier.to_be_bytes());
        out.extend_from_slice(&self.message.to_be_bytes());
        out.extend_from_slice(&self.index.to_be_bytes());
    }
}

/// The not yet read part of a payload.
struct Fields<'a> {
    bytes: &'a [u8],
    kind: u8,
}

impl<'a> Fields<'a> {
    fn take<const N: usize>(&mut self) -> Result<[u8; N], FrameError> {
        let too_short = FrameError::Length { kind: self.kind, len: self.bytes.len() };
        let (head, rest) = self.bytes.split_first_chunk().ok_or(too_short)?;
        self.bytes = rest;
        Ok(*head)
    }

    fn u16(&mut self) -> Result<u16, FrameError> {
        self.take().map(u16::from_be_bytes)
    }

    fn u32(&mut self) -> Result<u32, FrameError> {
        self.take().map(u32::from_be_bytes)
    }

    fn u64(&mut self) -> Result<u64, FrameError> {
        self.take().map(u64::from_be_bytes)
    }

    fn carried(&mut self) -> Result<Carried, FrameError> {
        Ok(Carried { carrier: self.u64()?, message: self.u64()?, index: self.u16()? })
    }

    fn rest(&mut self, max: usize) -> Result<&'a [u8], FrameError> {
        let rest = std::mem::take(&mut self.bytes);
        if rest.len() > max { Err(FrameError::Length { kind: self.kind, len: rest.len() }) } else { Ok(rest) }
    }

    fn error(&mut self, flags: u8) -> Result<Option<&'a [u8]>, FrameError> {
        if flags & ERROR == 0 { Ok(None) } else { self.rest(MAX_ERROR).map(Some) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const CARRIED: Carried = Carried { carrier: 3, message: 9, index: 2 };

    fn samples() -> Vec<Frame<'static>> {
        vec![
            Frame::Open { id: 1, sends: true, receives: true, window: 7, carried: None, request: b"task" },
            Frame::Open {
                id: 5,
                sends: false,
                receives: true,
                window: 7,
                carried: Some(CARRIED),
                request: b"",
            },
            Frame::Data { id: u64::MAX, payload: b"hello" },
            Frame::Data { id: 1, payload: b"" },
            Frame::First { id: 1, total: 1 << 40, payload: b"" },
            Frame::First { id: 1, total: 10, payload: b"01234" },
            Frame::Next { id: 1, payload: b"5" },
            Frame::Withdraw { id: 1, credit: 99 },
            Frame::Credit { id: 1, credit: 5, window: 6 },
            Frame::Close { id: 1, error: None },
            Frame::Close { id: 1, error: Some(b"") },
            Frame::Reset { id: 1, consumed: 77, error: Some(b"why") },
            Frame::Reset { id: 1, consumed: 77, error: None },
            Frame::Ping { ack: true, token: 4 },
            Frame::GoAway { last: 8, error: true, text: b"text" },
            Frame::Return { id: 2, carried: CARRIED },
        ]
    }

    #[test]
    fn every_frame_survives_the_round_trip_and_any_cut_is_incomplete() {
        for frame in samples() {
            let mut bytes = Vec::new();
            frame.encode(&mut bytes);
            assert_eq!(Frame::decode(&bytes).unwrap(), Some((frame, bytes.len())));
            for cut in 0..bytes.len() {
                assert_eq!(Frame::decode(&bytes[..cut]).unwrap(), None, "{frame:?} cut at {cut}");
            }
        }
    }

    #[test]
    fn only_parts_are_longer_than_two_bytes_can_say() {
        let bytes = vec![7; MAX_PAYLOAD + 1];
        for frame in
            [Frame::First { id: 3, total: 1 << 30, payload: &bytes }, Frame::Next { id: 3, payload: &bytes }]
        {
            let mut out = Vec::new();
            frame.encode(&mut out);
            assert_eq!(Frame::decode(&out), Ok(Some((frame, out.len()))));
            let header = Header::decode(&out).expect("a whole header");
            assert_eq!(HEADER_LEN + header.payload_len(), out.len());
            // The same byte is flags in any other frame.
            out[0] = DATA;
            assert_eq!(Frame::decode(&out), Err(FrameError::Flags { kind: DATA, flags: 1 }));
        }
    }

    #[test]
    fn what_the_format_does_not_allow_is_refused() {
        let header = |kind, flags, len: u16, id: u64| {
            let mut out = vec![kind, flags];
            out.extend_from_slice(&len.to_be_bytes());
            out.extend_from_slice(&id.to_be_bytes());
            out.resize(HEADER_LEN + usize::from(len), 0);
            Frame::decode(&out).map(|_| ()).unwrap_err()
        };
        assert_eq!(header(0, 0, 0, 1), FrameError::Kind(0));
        assert_eq!(header(12, 0, 0, 1), FrameError::Kind(12));
        assert_eq!(header(DATA, 1, 0, 1), FrameError::Flags { kind: DATA, flags: 1 });
        assert_eq!(header(DATA, 0, 0, 0), FrameError::Channel { kind: DATA, id: 0 });
        assert_eq!(header(PING, 0, 8, 1), FrameError::Channel { kind: PING, id: 1 });
        for (kind, flags, len, id) in [
            (NEXT, 0, 0, 1),
            (FIRST, 0, 7, 1),
            (CREDIT, 0, 9, 1),
            (CREDIT, 0, 7, 1),
            (CLOSE, 0, 1, 1),
            (PING, 0, 9, 0),
            (RETURN, 0, 17, 1),
            (OPEN, 0, 4 + 1025, 1),
            (OPEN, OPEN_CARRIED, 4 + 17, 1),
            (CLOSE, ERROR, 8 * 1024 + 1, 1),
        ] {
            assert!(matches!(header(kind, flags, len, id), FrameError::Length { .. }), "{kind} {len}");
        }
    }

    #[test]
    fn a_hello_survives_the_round_trip_and_a_translated_one_is_refused() {
        let limits =
            Limits { max_channels: 1, initial_window: 2, max_message: 1 << 33, assembly_budget: 1 << 34 };
        let hello = Hello { version: 7, limits };
        let mut bytes = Vec::new();
        hello.encode(&mut bytes);
        assert_eq!(bytes.len(), HELLO_LEN);
        assert_eq!(Hello::decode(&bytes).unwrap(), Some(hello));
        for cut in 0..HELLO_LEN {
            assert_eq!(Hello::decode(&bytes[..cut]).unwrap(), None);
        }
        let text: Vec<u8> = bytes.iter().copied().filter(|byte| *byte != b'\r').collect();
        assert!(matches!(Hello::decode(&text), Err(FrameError::Magic { .. })));
        assert!(matches!(Hello::decode(b"Welcome to Debian"), Err(FrameError::Magic { .. })));
    }
}
