//! The lock, replaceable by the model checker's.

#[cfg(not(farcall_loom))]
pub(crate) use std::sync::{Arc, Mutex, MutexGuard};

#[cfg(farcall_loom)]
pub(crate) use loom::sync::{Arc, Mutex, MutexGuard};
