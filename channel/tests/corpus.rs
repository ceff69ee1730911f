//! What the fuzzer found worth keeping, replayed.

#[expect(unreachable_pub, reason = "shared with the fuzz target")]
mod garbage;
#[expect(unreachable_pub, reason = "its files are modules only here, and shared with the fuzz target")]
mod simulation;

use std::path::Path;

fn replay(target: &str, run: fn(&[u8])) {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus").join(target);
    let mut replayed = 0;
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        let bytes = std::fs::read(&path).unwrap();
        let result = std::panic::catch_unwind(|| run(&bytes));
        assert!(result.is_ok(), "{}", path.display());
        replayed += 1;
    }
    assert!(replayed > 10, "only {replayed} files");
}

#[test]
fn frames() {
    replay("frames", garbage::run);
}

#[test]
fn conversations() {
    replay("conversation", simulation::run);
}
