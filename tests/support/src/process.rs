//! Processes and what they started.

use rustix::process::{Pid, Signal, kill_process};

/// The processes below `pid`, nearest first, as they are now.
pub fn descendants(pid: u32) -> Vec<u32> {
    let parents: Vec<(u32, u32)> = std::fs::read_dir("/proc")
        .expect("a mounted /proc")
        .filter_map(|entry| {
            let pid = entry.ok()?.file_name().to_str()?.parse().ok()?;
            let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
            // The name may contain anything, even parentheses; what follows its last one is plain.
            let parent = stat.rsplit_once(')')?.1.split_whitespace().nth(1)?.parse().ok()?;
            Some((pid, parent))
        })
        .collect();
    let mut found = vec![pid];
    let mut at = 0;
    while at < found.len() {
        let above = found[at];
        let below = parents.iter().filter(|(_, parent)| *parent == above).map(|(pid, _)| *pid);
        found.extend(below.collect::<Vec<_>>());
        at += 1;
    }
    found.remove(0);
    found
}

/// The processes of our account whose environment has `name` with a value that `wanted` selects.
pub fn with_variable(name: &str, wanted: impl Fn(&str) -> bool) -> Vec<u32> {
    std::fs::read_dir("/proc")
        .expect("a mounted /proc")
        .filter_map(|entry| {
            let pid: u32 = entry.ok()?.file_name().to_str()?.parse().ok()?;
            let environment = std::fs::read(format!("/proc/{pid}/environ")).ok()?;
            let has = environment.split(|&b| b == 0).any(|variable| {
                let text = String::from_utf8_lossy(variable);
                text.strip_prefix(name).and_then(|rest| rest.strip_prefix('=')).is_some_and(&wanted)
            });
            has.then_some(pid)
        })
        .collect()
}

/// Kills `pid` and the processes below it. Those are stopped first, so that none can start another meanwhile.
pub fn kill_tree(pid: u32) {
    let send = |pid: u32, signal| {
        let pid = i32::try_from(pid).ok().and_then(Pid::from_raw);
        // A process that is gone already is what is wanted.
        pid.map(|pid| kill_process(pid, signal));
    };
    send(pid, Signal::STOP);
    let mut known = Vec::new();
    loop {
        let new: Vec<u32> = descendants(pid).into_iter().filter(|pid| !known.contains(pid)).collect();
        if new.is_empty() {
            break;
        }
        for &pid in &new {
            send(pid, Signal::STOP);
        }
        known.extend(new);
    }
    for pid in known.into_iter().chain([pid]) {
        send(pid, Signal::KILL);
    }
}
