//! Whatever two peers do, however their bytes are cut: every message once, whole and in order, or its sender learns why.

#[expect(unreachable_pub, reason = "its files are modules only here, and shared with the fuzz target")]
mod simulation;

/// Random operations, from this seed.
fn run(seed: u64) {
    let mut state = seed ^ 0x9e37_79b9_7f4a_7c15;
    let mut next = || {
        state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        (state >> 33) as u8
    };
    let len = [100, 400, 1600][seed as usize % 3];
    let bytes: Vec<u8> = (0..len).map(|_| next()).collect();
    simulation::run(&bytes);
}

/// Seeds that the ordinary tests try; more are the fuzz target's work.
const SEEDS: u64 = 3000;

#[test]
fn any_operations_cut_anywhere_polled_in_any_order() {
    let failed: Vec<u64> =
        (0..SEEDS).filter(|&seed| std::panic::catch_unwind(|| run(seed)).is_err()).collect();
    assert!(failed.is_empty(), "seeds that fail: {failed:?}");
}
