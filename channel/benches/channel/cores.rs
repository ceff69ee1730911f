//! The two cores that a measurement uses.

use std::fs;
use std::io;

use rustix::thread::{CpuSet, sched_getaffinity};

/// Two of the processors that this process may use, on different cores where there are such; the same one twice where
/// there is only one.
pub(crate) fn two() -> io::Result<[usize; 2]> {
    let allowed = sched_getaffinity(None)?;
    let mut usable = (0..CpuSet::MAX_CPU).filter(|&cpu| allowed.is_set(cpu));
    let first = usable.next().ok_or_else(|| io::Error::other("no processor may be used"))?;
    let others: Vec<usize> = usable.collect();
    let apart = others.iter().find(|&&cpu| core(cpu) != core(first));
    Ok([first, apart.or(others.first()).copied().unwrap_or(first)])
}

/// The processors that share a core with this one, as the kernel lists them.
fn core(cpu: usize) -> String {
    let path = format!("/sys/devices/system/cpu/cpu{cpu}/topology/thread_siblings_list");
    // Where the kernel does not tell, each processor counts as a core of its own.
    fs::read_to_string(path).unwrap_or_else(|_| cpu.to_string())
}
