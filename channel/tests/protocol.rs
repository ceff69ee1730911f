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

#[test]
fn credit_for_a_withdrawn_message_does_not_keep_others_waiting() {
    run(9749);
}

#[test]
fn a_direction_that_was_never_used_needs_no_receipt() {
    run(9599);
}

#[test]
fn a_channel_opened_while_the_peer_closes_is_no_lost_connection() {
    run(3713);
    run(6272);
}

#[test]
fn a_message_keeps_its_ends_when_the_sender_goes_home_behind_it() {
    run(38510);
}

#[test]
fn ends_sent_to_each_other_at_once_are_over_and_nothing_else_is() {
    run(21698);
}
