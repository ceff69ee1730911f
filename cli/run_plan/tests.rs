//! The plan in a world of its own, where time passes only when it is told to.

use super::*;
use crate::outcome::FailureClass;

const SECOND: Duration = Duration::from_secs(1);

fn limits(at_once: usize) -> Limits {
    Limits {
        at_once: NonZeroUsize::new(at_once).unwrap(),
        retries: 0,
        command: None,
        grace: 5 * SECOND,
        pause: SECOND,
        seed: 7,
    }
}

fn failure(class: FailureClass) -> Failure {
    Failure { class, step: String::new(), message: String::new(), evidence: String::new(), hint: None }
}

fn failed(class: FailureClass) -> AttemptEnd {
    AttemptEnd::Failed(failure(class))
}

const OK: AttemptEnd = AttemptEnd::Exited { code: 0 };

/// A plan, its clock, and all that it asked for.
struct World {
    plan: RunPlan,
    now: Instant,
}

impl World {
    fn new(hosts: usize, limits: Limits) -> Self {
        World { plan: RunPlan::new(hosts, limits), now: Instant::now() }
    }

    fn actions(&mut self) -> Vec<Action> {
        std::iter::from_fn(|| self.plan.poll_action(self.now)).collect()
    }

    fn starts(&mut self) -> Vec<(usize, u32)> {
        let starts = self.actions().into_iter().map(|action| match action {
            Action::Start { host, attempt } => (host.0, attempt),
            other => panic!("not a start: {other:?}"),
        });
        starts.collect()
    }

    fn results(&mut self) -> Vec<(usize, Outcome)> {
        let results = self.actions().into_iter().filter_map(|action| match action {
            Action::Finish { host, outcome, .. } => Some((host.0, outcome)),
            _ => None,
        });
        results.collect()
    }

    fn runs(&mut self, host: usize) {
        self.plan.handle_running(HostId(host), self.now);
    }

    fn ends(&mut self, host: usize, end: AttemptEnd) {
        self.plan.handle_ended(HostId(host), end, self.now);
    }

    fn pass(&mut self, time: Duration) {
        self.now += time;
        self.plan.handle_timeout(self.now);
    }

    fn interrupt(&mut self) {
        self.plan.handle_interrupt(self.now);
    }
}

#[test]
fn so_many_at_once_and_in_order() {
    let mut world = World::new(5, limits(2));
    assert_eq!(world.starts(), [(0, 1), (1, 1)]);
    world.runs(1);
    assert_eq!(world.starts(), []);
    world.ends(1, OK);
    let begun = world.actions();
    let done =
        Action::Finish { host: HostId(1), outcome: Outcome::Exited { code: 0 }, elapsed: Duration::ZERO };
    assert_eq!(begun, [done, Action::Start { host: HostId(2), attempt: 1 }]);
    assert_eq!(world.plan.active(), 2);
    for host in [0, 2, 3, 4] {
        world.actions();
        world.ends(host, OK);
    }
    assert!(!world.plan.is_finished(), "results are still to be handed out");
    assert_eq!(world.results().len(), 1);
    assert!(world.plan.is_finished());
}

#[test]
fn no_hosts_are_finished_at_once() {
    assert!(World::new(0, limits(1)).plan.is_finished());
}

#[test]
fn elapsed_counts_from_the_first_attempt() {
    let mut world = World::new(1, Limits { retries: 1, ..limits(1) });
    world.actions();
    world.ends(0, failed(FailureClass::Connect));
    world.pass(3 * SECOND);
    world.actions();
    world.pass(SECOND);
    world.ends(0, OK);
    let Some(Action::Finish { elapsed, .. }) = world.actions().pop() else { panic!("no result") };
    assert_eq!(elapsed, 4 * SECOND);
}

#[test]
fn only_what_certainly_did_not_run_is_tried_again() {
    use FailureClass::*;
    for (class, again) in [
        (Resolve, true),
        (Connect, true),
        (Timeout, true),
        (Bootstrap, true),
        (HostKey, false),
        (Auth, false),
        (Exec, false),
        (Lost, false),
    ] {
        let mut world = World::new(1, Limits { retries: 1, ..limits(1) });
        world.actions();
        world.ends(0, failed(class));
        world.pass(SECOND);
        if again {
            assert_eq!(world.starts(), [(0, 2)], "{class:?}");
            world.ends(0, failed(class));
        }
        assert_eq!(world.results(), [(0, Outcome::Failed(failure(class)))], "{class:?}");
        assert!(world.plan.is_finished());
    }
}

#[test]
fn a_command_that_ran_is_never_run_again() {
    for end in
        [AttemptEnd::Exited { code: 1 }, AttemptEnd::Signaled { signal: 9 }, failed(FailureClass::Connect)]
    {
        let mut world = World::new(1, Limits { retries: 9, ..limits(1) });
        world.actions();
        world.runs(0);
        world.ends(0, end);
        world.pass(60 * SECOND);
        assert_eq!(world.results().len(), 1);
        assert!(world.plan.is_finished());
    }
}

#[test]
fn a_pause_lets_others_go_first_and_grows() {
    let mut world = World::new(2, Limits { retries: 8, ..limits(1) });
    assert_eq!(world.starts(), [(0, 1)]);
    world.ends(0, failed(FailureClass::Connect));
    assert_eq!(world.starts(), [(1, 1)], "its place is free meanwhile");
    assert_eq!(world.plan.poll_timeout(), None, "nothing can start, so nothing is due");
    world.ends(1, OK);
    world.results();
    let mut pauses = Vec::new();
    for attempt in 2..=9 {
        let due = world.plan.poll_timeout().expect("a pause ends");
        pauses.push(due - world.now);
        let early = due - Duration::from_nanos(1) - world.now;
        world.pass(early);
        assert_eq!(world.starts(), []);
        world.pass(Duration::from_nanos(1));
        assert_eq!(world.starts(), [(0, attempt)]);
        world.ends(0, failed(FailureClass::Connect));
    }
    for (i, pause) in pauses.iter().enumerate() {
        let whole = (SECOND * (1 << i)).min(LONGEST_PAUSE);
        assert!(*pause >= whole / 2 && *pause <= whole, "pause {i}: {pause:?}");
    }
    assert_eq!(world.results(), [(0, Outcome::Failed(failure(FailureClass::Connect)))]);
}

#[test]
fn pauses_of_many_hosts_are_spread() {
    let mut world = World::new(100, Limits { retries: 1, ..limits(100) });
    world.actions();
    for host in 0..100 {
        world.ends(host, failed(FailureClass::Connect));
    }
    world.pass(SECOND * 3 / 4);
    let early = world.starts().len();
    assert!((30..70).contains(&early), "{early} of 100 in the first half of the spread");
}

#[test]
fn a_command_past_its_limit_is_stopped_and_timed_out_however_it_ends() {
    let limit = 30 * SECOND;
    for end in [OK, AttemptEnd::Signaled { signal: 15 }, failed(FailureClass::Lost)] {
        let mut world = World::new(1, Limits { command: Some(limit), ..limits(1) });
        world.actions();
        world.pass(10 * SECOND);
        assert_eq!(world.plan.poll_timeout(), None, "connecting does not count");
        world.runs(0);
        assert_eq!(world.plan.poll_timeout(), Some(world.now + limit));
        world.pass(limit - Duration::from_nanos(1));
        assert_eq!(world.actions(), []);
        world.pass(Duration::from_nanos(1));
        assert_eq!(world.actions(), [Action::Stop { host: HostId(0) }]);
        world.ends(0, end);
        assert_eq!(world.results(), [(0, Outcome::TimedOut { limit })]);
        assert_eq!(world.plan.poll_timeout(), None);
        assert!(world.plan.is_finished());
    }
}

/// Whether that is told before it is told that the command runs, or after it.
#[test]
fn a_command_that_has_ended_is_in_time_however_late_the_rest_comes() {
    for first in [true, false] {
        let mut world = World::new(1, Limits { command: Some(SECOND), ..limits(1) });
        world.actions();
        if first {
            world.plan.handle_over(HostId(0));
        }
        world.runs(0);
        if !first {
            world.plan.handle_over(HostId(0));
        }
        assert_eq!(world.plan.poll_timeout(), None);
        world.pass(60 * SECOND);
        assert_eq!(world.actions(), []);
        world.ends(0, OK);
        assert_eq!(world.results(), [(0, Outcome::Exited { code: 0 })]);
    }
}

#[test]
fn one_that_does_not_stop_is_given_up_after_the_grace() {
    let mut world = World::new(2, Limits { command: Some(SECOND), ..limits(1) });
    world.actions();
    world.runs(0);
    world.pass(SECOND);
    assert_eq!(world.actions(), [Action::Stop { host: HostId(0) }]);
    world.pass(5 * SECOND);
    let limit = SECOND;
    let expected = [
        Action::Drop { host: HostId(0) },
        Action::Finish { host: HostId(0), outcome: Outcome::TimedOut { limit }, elapsed: 6 * SECOND },
        Action::Start { host: HostId(1), attempt: 1 },
    ];
    assert_eq!(world.actions(), expected);
    world.ends(0, OK); // too late
    assert_eq!(world.actions(), []);
    world.ends(1, OK);
    assert_eq!(world.results(), [(1, Outcome::Exited { code: 0 })]);
}

#[test]
fn an_interrupt_stops_all_and_starts_nobody() {
    let mut world = World::new(6, Limits { retries: 1, ..limits(5) });
    world.actions();
    world.runs(0);
    world.ends(4, failed(FailureClass::Connect));
    assert_eq!(world.starts(), [(5, 1)]);
    world.ends(5, OK);
    world.results();
    world.interrupt();
    let mut actions = world.actions();
    actions.retain(|action| !matches!(action, Action::Finish { .. }));
    assert_eq!(actions, [0, 1, 2, 3].map(|host| Action::Stop { host: HostId(host) }));
    world.ends(0, AttemptEnd::Signaled { signal: 2 }); // was running
    world.ends(1, failed(FailureClass::Connect)); // was still connecting
    world.ends(2, OK); // had begun to run without our knowing yet
    world.runs(3); // the same, and we hear of it
    world.ends(3, failed(FailureClass::Lost));
    use Outcome::{Interrupted, NotStarted};
    assert_eq!(world.results(), [(0, Interrupted), (1, NotStarted), (2, Interrupted), (3, Interrupted)]);
    assert!(world.plan.is_finished());
}

#[test]
fn an_interrupt_keeps_the_reason_of_a_failed_attempt() {
    let mut world = World::new(2, Limits { retries: 5, ..limits(1) });
    world.actions();
    world.ends(0, failed(FailureClass::Connect));
    world.interrupt();
    let expected = [(0, Outcome::Failed(failure(FailureClass::Connect))), (1, Outcome::NotStarted)];
    assert_eq!(world.results(), expected);
    assert!(world.plan.is_finished());
}

#[test]
fn a_second_interrupt_waits_for_nothing() {
    let mut world = World::new(3, limits(2));
    world.actions();
    world.runs(0);
    world.interrupt();
    world.actions();
    assert!(!world.plan.is_finished());
    world.interrupt();
    let actions = world.actions();
    assert_eq!(actions.iter().filter(|action| matches!(action, Action::Drop { .. })).count(), 2);
    assert!(world.plan.is_finished());
    assert_eq!(world.plan.poll_timeout(), None);
}

/// Whatever happens in whatever order: the bound holds, every host has one result, and it ends.
#[test]
fn every_host_ends_in_one_result_whatever_happens() {
    for seed in 1..400_u64 {
        let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15);
        let mut next = move |below: u64| {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            state % below
        };
        let hosts = next(12) as usize;
        let at_once = 1 + next(5) as usize;
        let retries = next(3) as u32;
        let command = (next(2) == 0).then_some(20 * SECOND);
        let mut world = World::new(hosts, Limits { retries, command, ..limits(at_once) });
        let mut at_work = vec![false; hosts];
        let mut attempts = vec![0; hosts];
        let mut results = vec![0; hosts];
        let mut interrupts = 0;
        for step in 0.. {
            assert!(step < 10_000, "seed {seed}: it does not end");
            for action in world.actions() {
                match action {
                    Action::Start { host, attempt } => {
                        attempts[host.0] += 1;
                        assert_eq!(attempt, attempts[host.0], "seed {seed}");
                        assert!(attempt <= retries + 1, "seed {seed}");
                        assert!(!std::mem::replace(&mut at_work[host.0], true), "seed {seed}: twice at once");
                        assert_eq!((interrupts, results[host.0]), (0, 0), "seed {seed}");
                    }
                    Action::Stop { host } => assert!(at_work[host.0], "seed {seed}: it is not at work"),
                    Action::Drop { host } => at_work[host.0] = false,
                    Action::Finish { host, .. } => {
                        results[host.0] += 1;
                        assert!(!at_work[host.0], "seed {seed}: a result while at work");
                    }
                }
            }
            assert!(at_work.iter().filter(|at_work| **at_work).count() <= at_once, "seed {seed}");
            assert_eq!(
                world.plan.active(),
                at_work.iter().filter(|at_work| **at_work).count(),
                "seed {seed}"
            );
            if world.plan.is_finished() {
                break;
            }
            let host = next(hosts as u64) as usize;
            match next(40) {
                0 => {
                    world.interrupt();
                    interrupts += 1;
                }
                1..10 if at_work[host] => world.runs(host),
                10..25 if at_work[host] => {
                    at_work[host] = false;
                    let end = match next(4) {
                        0 => OK,
                        1 => AttemptEnd::Signaled { signal: 9 },
                        2 => failed(FailureClass::Connect),
                        _ => failed(FailureClass::Lost),
                    };
                    world.ends(host, end);
                }
                _ => world.pass(Duration::from_millis(next(4000))),
            }
        }
        assert!(results.iter().all(|&count| count == 1), "seed {seed}: {results:?}");
    }
}
