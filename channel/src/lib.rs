//! Typed, flow-controlled message channels over any byte stream.
