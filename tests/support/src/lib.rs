//! Private servers and processes for farcall's tests.
//!
//! Everything here is real: OpenSSH's own `sshd`, `ssh-keygen` and `ssh-agent`, with files of their own in a private
//! folder, on ports of their own on the loopback address or in networks of their own. A program that is missing is a panic that names it, never a
//! test that passes by not running. What a value started, its drop ends, by process id, with all descendants.

mod agent;
mod home;
mod keys;
mod network;
mod process;
mod sshd;

pub use agent::SshAgent;
pub use home::TempHome;
pub use keys::{Authority, Certify, KeyKind, KeyPair};
pub use network::{Cut, Network};
pub use process::{descendants, kill_tree, with_variable};
pub use sshd::{PASSWORD, Sshd, SshdBuilder};
