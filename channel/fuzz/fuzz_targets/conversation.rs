//! Two peers and everything that their users can do.

#![no_main]

#[path = "../../tests/simulation/mod.rs"]
mod simulation;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| simulation::run(bytes));
