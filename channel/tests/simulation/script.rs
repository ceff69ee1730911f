//! Choices, decoded from bytes; when those are used up, from a generator that they seeded.

use std::hash::{BuildHasher, BuildHasherDefault, DefaultHasher};

use arbitrary::Unstructured;

/// A source of choices: the same bytes always make the same ones.
pub struct Script<'a> {
    bytes: Unstructured<'a>,
    generator: u64,
}

impl<'a> Script<'a> {
    pub fn new(bytes: &'a [u8]) -> Script<'a> {
        let generator = BuildHasherDefault::<DefaultHasher>::default().hash_one(bytes);
        Script { bytes: Unstructured::new(bytes), generator }
    }

    /// Whether only the generator is left.
    pub fn is_over(&self) -> bool {
        self.bytes.is_empty()
    }

    /// A number from 0 to `max`.
    pub fn up_to(&mut self, max: usize) -> usize {
        if self.bytes.is_empty() {
            self.generator = next(self.generator);
            return ((self.generator >> 33) % (max as u64 + 1)) as usize;
        }
        self.bytes.int_in_range(0..=max).expect("the range is not empty")
    }

    /// True once in `times`.
    pub fn one_in(&mut self, times: usize) -> bool {
        self.up_to(times - 1) == 0
    }

    /// One of these.
    pub fn pick<T: Copy>(&mut self, from: &[T]) -> Option<T> {
        if from.is_empty() { None } else { Some(from[self.up_to(from.len() - 1)]) }
    }
}

/// The next state of a linear congruential generator (Knuth's MMIX).
pub fn next(state: u64) -> u64 {
    state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407)
}
