//! One side of a connection whose peer says anything.

#![no_main]

#[path = "../../tests/garbage/mod.rs"]
mod garbage;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| garbage::run(bytes));
