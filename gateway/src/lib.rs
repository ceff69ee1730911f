//! Run this program's own functions on any host.

pub mod worker;
