//! Whether the peer lives, and how far away it is.

use std::time::{Duration, Instant};

/// How long a measured round trip serves as the basis of window growth.
const FRESH: Duration = Duration::from_secs(1);

const FOREVER: Duration = Duration::from_secs(30 * 365 * 24 * 3600);

#[derive(Debug)]
pub(super) struct Liveness {
    began: Instant,
    heartbeat: Duration,
    lease: Duration,
    heard: Instant,
    /// The deadline fired late and the lease was extended; once, until the peer is heard again.
    extended: bool,
    next_token: u64,
    /// A ping that was sent and not answered.
    asked: Option<(u64, Instant)>,
    last_ping: Option<Instant>,
    pub(super) ping_owed: bool,
    pub(super) pong_owed: Option<u64>,
    round_trip: Option<Duration>,
}

/// What a deadline brought.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// All is well, or the peer was asked.
    Alive,
    /// The peer is lost.
    Silent(Duration),
}

impl Liveness {
    pub(super) fn new(now: Instant, heartbeat: Duration, lease: Duration) -> Liveness {
        Liveness {
            began: now,
            // Longer is as good as never, and adds to any instant; shorter than this is a busy loop.
            heartbeat: heartbeat.clamp(Duration::from_millis(1), FOREVER),
            lease: lease.clamp(Duration::from_millis(1), FOREVER),
            heard: now,
            extended: false,
            next_token: 0,
            asked: None,
            last_ping: None,
            ping_owed: false,
            pong_owed: None,
            round_trip: None,
        }
    }

    pub(super) fn micros(&self, now: Instant) -> u64 {
        now.saturating_duration_since(self.began).as_micros() as u64
    }

    pub(super) fn round_trip(&self) -> Option<Duration> {
        self.round_trip
    }

    /// The round trip in microseconds for deciding about a window, 0 if unknown; has it measured if it is not fresh.
    pub(super) fn growth_round_trip(&mut self, now: Instant) -> u64 {
        if self.last_ping.is_none_or(|last| now.saturating_duration_since(last) >= FRESH) {
            self.ping_owed = true;
        }
        self.round_trip.map_or(0, |round_trip| round_trip.as_micros() as u64)
    }

    pub(super) fn heard(&mut self, now: Instant) {
        self.heard = now;
        self.extended = false;
    }

    /// A ping leaves now; returns its token.
    pub(super) fn ping(&mut self, now: Instant) -> u64 {
        self.ping_owed = false;
        let token = self.next_token;
        self.next_token += 1;
        self.asked = Some((token, now));
        self.last_ping = Some(now);
        token
    }

    /// A ping was answered.
    pub(super) fn pong(&mut self, now: Instant, token: u64) {
        if let Some((_, asked)) = self.asked.take_if(|(expected, _)| *expected == token) {
            let sample = now.saturating_duration_since(asked);
            // The least is the path's, the rest is queues: follow it down at once and up slowly.
            self.round_trip = Some(match self.round_trip {
                Some(known) if known < sample => known + (sample - known) / 8,
                _ => sample,
            });
        }
    }

    /// When [`handle_timeout`](Self::handle_timeout) is to be called.
    pub(super) fn deadline(&self) -> Instant {
        let lost = self.heard + self.lease;
        let ask = match self.last_ping {
            Some(last) if last >= self.heard => last + self.heartbeat,
            _ => self.heard + self.heartbeat,
        };
        ask.min(lost)
    }

    pub(super) fn handle_timeout(&mut self, now: Instant) -> Verdict {
        let deadline = self.deadline();
        if now < deadline {
            return Verdict::Alive;
        }
        let silent = now.saturating_duration_since(self.heard);
        if silent >= self.lease {
            // Fired late: this process was stopped or starved, and what the peer sent meanwhile may not be read yet.
            let late = now.saturating_duration_since(deadline) >= self.heartbeat / 2;
            if !late || self.extended {
                return Verdict::Silent(silent);
            }
            self.extended = true;
            self.heard = now.checked_sub(self.lease / 2).unwrap_or(now);
        }
        self.ping_owed = true;
        self.last_ping = Some(now);
        Verdict::Alive
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BEAT: Duration = Duration::from_secs(5);
    const LEASE: Duration = Duration::from_secs(20);

    #[test]
    fn a_silent_peer_is_asked_and_then_lost() {
        let start = Instant::now();
        let mut liveness = Liveness::new(start, BEAT, LEASE);
        let mut asked = 0;
        loop {
            let now = liveness.deadline();
            match liveness.handle_timeout(now) {
                Verdict::Alive => asked += usize::from(std::mem::take(&mut liveness.ping_owed)),
                Verdict::Silent(after) => {
                    assert_eq!(after, LEASE);
                    assert_eq!(now, start + LEASE);
                    break;
                }
            }
        }
        assert_eq!(asked, 3);
    }

    #[test]
    fn a_process_that_was_stopped_hears_its_peer_out_once() {
        let start = Instant::now();
        let mut liveness = Liveness::new(start, BEAT, LEASE);
        let woke = start + 10 * LEASE;
        assert_eq!(liveness.handle_timeout(woke), Verdict::Alive);
        assert!(liveness.ping_owed);
        assert!(liveness.deadline() > woke);
        assert!(matches!(liveness.handle_timeout(woke + LEASE), Verdict::Silent(_)));
        let mut liveness = Liveness::new(start, BEAT, LEASE);
        assert_eq!(liveness.handle_timeout(woke), Verdict::Alive);
        liveness.heard(woke);
        assert_eq!(liveness.handle_timeout(woke + 10 * LEASE), Verdict::Alive);
    }

    #[test]
    fn the_round_trip_follows_the_least_sample() {
        let start = Instant::now();
        let mut liveness = Liveness::new(start, BEAT, LEASE);
        let mut sample = |millis| {
            let token = liveness.ping(start);
            liveness.pong(start + Duration::from_millis(millis), token + 1);
            liveness.pong(start + Duration::from_millis(millis), token);
            liveness.round_trip().unwrap().as_millis()
        };
        assert_eq!(sample(80), 80);
        assert_eq!(sample(16), 16);
        assert_eq!(sample(24), 17);
    }
}
