//! Decides what a run does next: who starts, who is stopped, and what each host's outcome is. It does nothing itself.
//!
//! `handle_*` tells it what happened, `poll_action` hands out what is to be done until there is nothing, and
//! `poll_timeout` says when to come back with `handle_timeout` at the latest. Time only comes in as an argument.
//!
//! | state of a host | left when |
//! |---|---|
//! | waiting | a place is free, and a pause before another attempt is over |
//! | starting | the command runs, or could not be started |
//! | running | it ends, its limit passes, or the user interrupts |
//! | stopping | it ends, or the grace passes |
//! | done | never |

use std::collections::{BTreeSet, VecDeque};
use std::num::NonZeroUsize;
use std::time::{Duration, Instant};

use crate::outcome::{Failure, Outcome};
use crate::output::HostId;

/// What bounds a run.
#[derive(Debug, Clone)]
pub(crate) struct Limits {
    /// How many hosts are at work at once.
    pub(crate) at_once: NonZeroUsize,
    /// How often a host is tried again after a failure that [may be retried](crate::outcome::FailureClass::may_retry).
    pub(crate) retries: u32,
    /// How long a command may run.
    pub(crate) command: Option<Duration>,
    /// How long a stopped command may take to end before it is given up.
    pub(crate) grace: Duration,
    /// The pause before the first further attempt; it doubles each time, up to [`LONGEST_PAUSE`].
    pub(crate) pause: Duration,
    /// Any number. It spreads the pauses, so that many hosts behind one lame server do not come back together.
    pub(crate) seed: u64,
}

/// The longest pause between two attempts.
pub(crate) const LONGEST_PAUSE: Duration = Duration::from_secs(30);

/// How one attempt ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum AttemptEnd {
    Exited { code: u8 },
    Signaled { signal: u8 },
    Failed(Failure),
}

/// What is to be done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Action {
    /// Begin an attempt; they are counted from 1.
    Start { host: HostId, attempt: u32 },
    /// Ask the attempt to end, and whatever it started with it.
    Stop { host: HostId },
    /// Let the attempt go without waiting for it any longer.
    Drop { host: HostId },
    /// This is the host's result; nothing follows.
    Finish { host: HostId, outcome: Outcome, elapsed: Duration },
}

#[derive(Debug)]
enum State {
    /// `last` is why the attempt before failed.
    Waiting {
        attempt: u32,
        last: Option<Failure>,
    },
    Starting {
        attempt: u32,
    },
    Running,
    Stopping {
        why: Why,
        has_run: bool,
    },
    Done,
}

/// Why a command is being stopped.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Why {
    Limit(Duration),
    Interrupt,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    /// Hosts are started as there is room.
    Going,
    /// The user interrupted: no host is started any more.
    Ending,
}

/// The plan of one run.
#[derive(Debug)]
pub(crate) struct RunPlan {
    limits: Limits,
    phase: Phase,
    states: Vec<State>,
    began: Vec<Option<Instant>>,
    /// Hosts that may start now, in order.
    ready: VecDeque<HostId>,
    /// Hosts that may start later.
    pausing: BTreeSet<(Instant, HostId)>,
    /// When a running command has had its time, and when a stopping one is given up; in order, and by host.
    deadlines: BTreeSet<(Instant, HostId)>,
    due: Vec<Option<Instant>>,
    /// Hosts whose command has ended, whatever is still to come from it.
    over: Vec<bool>,
    /// Hosts that are starting, running or stopping.
    active: usize,
    unfinished: usize,
    actions: VecDeque<Action>,
}

impl RunPlan {
    /// A plan for that many hosts, in the order of their ids.
    pub(crate) fn new(hosts: usize, limits: Limits) -> Self {
        RunPlan {
            limits,
            phase: Phase::Going,
            states: (0..hosts).map(|_| State::Waiting { attempt: 1, last: None }).collect(),
            began: vec![None; hosts],
            ready: (0..hosts).map(HostId).collect(),
            pausing: BTreeSet::new(),
            deadlines: BTreeSet::new(),
            due: vec![None; hosts],
            over: vec![false; hosts],
            active: 0,
            unfinished: hosts,
            actions: VecDeque::new(),
        }
    }

    /// Whether every host has its result.
    pub(crate) fn is_finished(&self) -> bool {
        self.unfinished == 0 && self.actions.is_empty()
    }

    /// How many hosts are at work.
    pub(crate) fn active(&self) -> usize {
        self.active
    }

    /// The next thing to do, if there is one now.
    pub(crate) fn poll_action(&mut self, now: Instant) -> Option<Action> {
        if let Some(action) = self.actions.pop_front() {
            return Some(action);
        }
        if self.phase != Phase::Going || self.active >= self.limits.at_once.get() {
            return None;
        }
        let host = match self.pausing.first() {
            Some(&(when, host)) if when <= now => {
                self.pausing.remove(&(when, host));
                host
            }
            _ => self.ready.pop_front()?,
        };
        let State::Waiting { attempt, .. } = self.states[host.0] else {
            unreachable!("only waiting hosts are ready or pausing");
        };
        self.states[host.0] = State::Starting { attempt };
        self.began[host.0].get_or_insert(now);
        self.active += 1;
        Some(Action::Start { host, attempt })
    }

    /// When something is due without anything happening. Stays until `handle_timeout` is called at that time.
    pub(crate) fn poll_timeout(&self) -> Option<Instant> {
        let deadline = self.deadlines.first().map(|&(when, _)| when);
        // A pause matters only when there is room to start.
        let room = self.active < self.limits.at_once.get();
        let pause = self.pausing.first().map(|&(when, _)| when).filter(|_| room);
        deadline.into_iter().chain(pause).min()
    }

    /// The time is `now`.
    pub(crate) fn handle_timeout(&mut self, now: Instant) {
        while let Some(&(when, host)) = self.deadlines.first().filter(|(when, _)| *when <= now) {
            debug_assert_eq!(self.due[host.0], Some(when));
            self.set_due(host, None);
            match self.states[host.0] {
                State::Running => {
                    let limit = self.limits.command.expect("only a limit gives a running command a deadline");
                    self.stop(host, Why::Limit(limit), true, now);
                }
                State::Stopping { why, has_run } => {
                    self.actions.push_back(Action::Drop { host });
                    self.active -= 1;
                    self.finish(host, stopped(why, has_run), now);
                }
                State::Waiting { .. } | State::Starting { .. } | State::Done => {
                    unreachable!("such a host has no deadline")
                }
            }
        }
    }

    /// The command of a host has begun to run: its limit counts from now.
    pub(crate) fn handle_running(&mut self, host: HostId, now: Instant) {
        match &mut self.states[host.0] {
            State::Starting { .. } => {
                self.states[host.0] = State::Running;
                if let Some(limit) = self.limits.command.filter(|_| !self.over[host.0]) {
                    self.set_due(host, Some(now + limit));
                }
            }
            State::Stopping { has_run, .. } => *has_run = true,
            State::Waiting { .. } | State::Running | State::Done => {} // late, or said twice
        }
    }

    /// The command of a host has ended, and what it wrote is still passed on: however long that takes, it is in time.
    /// May come before it is known here that the command has begun.
    pub(crate) fn handle_over(&mut self, host: HostId) {
        self.over[host.0] = true;
        if let State::Running = self.states[host.0] {
            self.set_due(host, None);
        }
    }

    /// The attempt at a host has ended, by itself or because it was stopped.
    pub(crate) fn handle_ended(&mut self, host: HostId, end: AttemptEnd, now: Instant) {
        match std::mem::replace(&mut self.states[host.0], State::Done) {
            State::Stopping { why, has_run } => {
                self.leave(host);
                let has_run = has_run || !matches!(end, AttemptEnd::Failed(_));
                self.finish(host, stopped(why, has_run), now);
            }
            State::Starting { attempt } => {
                self.leave(host);
                match end {
                    AttemptEnd::Failed(failure)
                        if failure.class.may_retry()
                            && attempt <= self.limits.retries
                            && self.phase == Phase::Going =>
                    {
                        self.states[host.0] = State::Waiting { attempt: attempt + 1, last: Some(failure) };
                        self.pausing.insert((now + self.pause(host, attempt), host));
                    }
                    end => self.finish(host, ended(end), now),
                }
            }
            State::Running => {
                self.leave(host);
                self.finish(host, ended(end), now);
            }
            State::Done => {} // given up before
            waiting @ State::Waiting { .. } => self.states[host.0] = waiting, // the attempt before, once more
        }
    }

    /// The user wants it to end. The first time everything is stopped; the second time nothing is waited for.
    pub(crate) fn handle_interrupt(&mut self, now: Instant) {
        let again = self.phase == Phase::Ending;
        self.phase = Phase::Ending;
        self.ready.clear();
        self.pausing.clear();
        for host in (0..self.states.len()).map(HostId) {
            match &mut self.states[host.0] {
                State::Waiting { last, .. } => {
                    let outcome = last.take().map_or(Outcome::NotStarted, Outcome::Failed);
                    self.finish(host, outcome, now);
                }
                State::Starting { .. } => self.stop(host, Why::Interrupt, false, now),
                State::Running => self.stop(host, Why::Interrupt, true, now),
                State::Stopping { .. } | State::Done => {}
            }
            if again && let State::Stopping { why, has_run } = self.states[host.0] {
                self.leave(host);
                self.actions.push_back(Action::Drop { host });
                self.finish(host, stopped(why, has_run), now);
            }
        }
    }

    fn stop(&mut self, host: HostId, why: Why, has_run: bool, now: Instant) {
        self.set_due(host, Some(now + self.limits.grace));
        self.states[host.0] = State::Stopping { why, has_run };
        self.actions.push_back(Action::Stop { host });
    }

    /// A host is no longer at work.
    fn leave(&mut self, host: HostId) {
        self.set_due(host, None);
        self.active -= 1;
    }

    fn set_due(&mut self, host: HostId, when: Option<Instant>) {
        if let Some(before) = std::mem::replace(&mut self.due[host.0], when) {
            self.deadlines.remove(&(before, host));
        }
        if let Some(when) = when {
            self.deadlines.insert((when, host));
        }
    }

    fn finish(&mut self, host: HostId, outcome: Outcome, now: Instant) {
        self.states[host.0] = State::Done;
        self.unfinished -= 1;
        let elapsed = self.began[host.0].map_or(Duration::ZERO, |began| now.saturating_duration_since(began));
        self.actions.push_back(Action::Finish { host, outcome, elapsed });
    }

    /// Half to all of the pause for that attempt, spread evenly over hosts.
    fn pause(&self, host: HostId, attempt: u32) -> Duration {
        let doubled = self.limits.pause.saturating_mul(1 << (attempt - 1).min(16)).min(LONGEST_PAUSE);
        let mut mixed = self.limits.seed ^ ((host.0 as u64) << 32) ^ u64::from(attempt);
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        let share = (mixed >> 40) as f64 / (1_u64 << 24) as f64;
        doubled.mul_f64(0.5 + share / 2.0)
    }
}

/// The outcome of a command that ended by itself.
fn ended(end: AttemptEnd) -> Outcome {
    match end {
        AttemptEnd::Exited { code } => Outcome::Exited { code },
        AttemptEnd::Signaled { signal } => Outcome::Signaled { signal },
        AttemptEnd::Failed(failure) => Outcome::Failed(failure),
    }
}

/// The outcome of one that was stopped: what was still at work when its time was up timed out, however it then ended.
fn stopped(why: Why, has_run: bool) -> Outcome {
    match (why, has_run) {
        (Why::Limit(limit), _) => Outcome::TimedOut { limit },
        (Why::Interrupt, true) => Outcome::Interrupted,
        (Why::Interrupt, false) => Outcome::NotStarted,
    }
}

#[cfg(test)]
mod tests;
