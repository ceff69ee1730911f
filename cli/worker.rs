//! The program `farcall-worker`: what `farcall` delivers, without what only people need.
//!
//! With the GNU C library it begins at C's `main`. What the standard library does before a `main` of its own is done by
//! [`farcall::init_twin`], but for the message that a stack has overflowed: to learn where the first thread's stack ends it
//! reads a file by `sscanf`, and that is an eighteenth of what would be delivered. Other C libraries hand over a program's
//! arguments in that start alone.

#![cfg_attr(all(target_os = "linux", target_env = "gnu"), no_main)]

mod tasks;

// SAFETY: no other function of this program has that name, and its type is what the C standard asks for: the two arguments
// are passed and need not be looked at.
#[cfg(all(target_os = "linux", target_env = "gnu"))]
#[unsafe(no_mangle)]
extern "C" fn main(_count: std::ffi::c_int, _values: *const *const std::ffi::c_char) -> std::ffi::c_int {
    serve()
}

#[cfg(not(all(target_os = "linux", target_env = "gnu")))]
fn main() {
    std::process::exit(serve())
}

/// Returns the exit code of a start that was not a coordinator's.
fn serve() -> i32 {
    // A worker goes no further.
    farcall::init_twin(tasks::tasks());
    eprintln!("farcall-worker: this is the part of farcall that it starts on hosts; start farcall itself");
    2
}
