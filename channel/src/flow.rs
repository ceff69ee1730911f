//! Credit: window arithmetic of one direction of a channel.
//!
//! A message costs [`cost`] bytes. The receiving side grants credit; the sending side spends it. With `granted`,
//! `received` and `consumed` counted from the channel's beginning, the receiving side keeps
//!
//! > `consumed ≤ received ≤ granted ≤ consumed + window + reserved`
//!
//! so what it holds, `received - consumed`, never exceeds its window and the memory reserved for one long message.

use crate::frame::HEADER_LEN;

/// The most credit that may be outstanding on a channel, in bytes: enough for any message, and every sum of two stays
/// within 32 bits.
pub(crate) const MAX_CREDIT: u32 = (1 << 31) - 1;

/// What a message of `len` bytes costs, however it is cut into frames.
#[inline]
pub(crate) fn cost(len: usize) -> u64 {
    len as u64 + HEADER_LEN as u64
}

/// The sending side's view: credit that it may spend.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Outflow {
    credit: u32,
    window: u32,
}

/// The peer granted more than [`MAX_CREDIT`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct CreditOverflow;

impl Outflow {
    pub(crate) fn new(window: u32) -> Outflow {
        Outflow { credit: window.min(MAX_CREDIT), window: window.min(MAX_CREDIT) }
    }

    #[inline]
    pub(crate) fn credit(&self) -> u64 {
        u64::from(self.credit)
    }

    /// The window that the credit is given out of: a message that costs more must be announced.
    #[inline]
    pub(crate) fn window(&self) -> u64 {
        u64::from(self.window)
    }

    pub(crate) fn grant(&mut self, credit: u32, window: u32) -> Result<(), CreditOverflow> {
        let sum = self.credit.checked_add(credit).filter(|sum| *sum <= MAX_CREDIT).ok_or(CreditOverflow)?;
        if window > MAX_CREDIT {
            return Err(CreditOverflow);
        }
        self.credit = sum;
        self.window = window;
        Ok(())
    }

    #[inline]
    pub(crate) fn spend(&mut self, bytes: u64) {
        debug_assert!(bytes <= self.credit(), "nothing is sent without credit");
        self.credit -= bytes as u32;
    }

    /// Gives back what is above `keep`.
    pub(crate) fn refund(&mut self, keep: u32) -> u32 {
        let refund = self.credit.saturating_sub(keep);
        self.credit -= refund;
        refund
    }
}

/// The receiving side's view: credit that it gave and may give.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Inflow {
    granted: u64,
    received: u64,
    consumed: u64,
    window: u32,
    reserved: u32,
    /// Where the present turn of the window began: `consumed` and the time in microseconds since the connection began.
    turn: (u64, u64),
}

/// The peer sent more than it had credit for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Overrun;

impl Inflow {
    pub(crate) fn new(window: u32) -> Inflow {
        Inflow { granted: window.into(), received: 0, consumed: 0, window, reserved: 0, turn: (0, 0) }
    }

    fn check(&self) {
        debug_assert!(self.consumed <= self.received, "only what came is consumed");
        debug_assert!(self.received <= self.granted, "only what was granted comes");
        debug_assert!(
            self.granted
                <= self.received.max(self.consumed + u64::from(self.window) + u64::from(self.reserved)),
            "no more is granted than there is room for"
        );
    }

    #[inline]
    pub(crate) fn receive(&mut self, bytes: u64) -> Result<(), Overrun> {
        if bytes > self.granted - self.received {
            return Err(Overrun);
        }
        self.received += bytes;
        Ok(())
    }

    #[inline]
    pub(crate) fn consume(&mut self, bytes: u64) {
        self.consumed += bytes;
        debug_assert!(self.consumed <= self.received, "only what came is consumed");
    }

    /// Bytes that came and were not consumed.
    pub(crate) fn held(&self) -> u64 {
        self.received - self.consumed
    }

    /// Credit that the peer has and did not use.
    pub(crate) fn outstanding(&self) -> u64 {
        self.granted - self.received
    }

    pub(crate) fn window(&self) -> u32 {
        self.window
    }

    pub(crate) fn reserved(&self) -> u32 {
        self.reserved
    }

    /// Credit that could be granted now.
    pub(crate) fn due(&self) -> u64 {
        (self.consumed + u64::from(self.window) + u64::from(self.reserved)).saturating_sub(self.granted)
    }

    /// Whether so much is due that it is worth a frame.
    #[inline]
    pub(crate) fn is_due(&self) -> bool {
        self.due() >= u64::from(self.window / 2)
    }

    /// Grants all that is due.
    pub(crate) fn grant(&mut self) -> u32 {
        let room = u64::from(MAX_CREDIT) - self.outstanding();
        let credit = self.due().min(room);
        self.granted += credit;
        self.check();
        credit as u32
    }

    /// Makes room for a long message beyond the window.
    pub(crate) fn reserve(&mut self, bytes: u32) {
        self.reserved += bytes;
    }

    /// Ends the reservation, as far as the peer has no credit out of it any more; returns what became free.
    pub(crate) fn release(&mut self) -> u32 {
        let needed = self.granted.saturating_sub(self.consumed + u64::from(self.window));
        let freed = u64::from(self.reserved).saturating_sub(needed);
        self.reserved -= freed as u32;
        self.check();
        freed as u32
    }

    /// A message comes from an end on this side, which asked for room itself.
    pub(crate) fn admit(&mut self, bytes: u64) {
        self.received += bytes;
        self.granted = self.granted.max(self.received);
    }

    /// The other end leaves this side: what is held counts against the window that it gets.
    pub(crate) fn depart(&mut self) {
        self.granted = self.received.max(self.consumed + u64::from(self.window));
    }

    /// Nothing more will come: credit that was given is void.
    pub(crate) fn close(&mut self) {
        self.granted = self.received;
    }

    /// Nothing more will come, and what is held was dropped; returns the reservation that became free.
    pub(crate) fn abandon(&mut self) -> u32 {
        self.close();
        std::mem::take(&mut self.reserved)
    }

    /// The peer gave credit back.
    pub(crate) fn refund(&mut self, credit: u32) -> Result<(), Overrun> {
        if u64::from(credit) > self.outstanding() {
            return Err(Overrun);
        }
        self.granted -= u64::from(credit);
        Ok(())
    }

    /// Whether windows are consumed in less than four round trips each: then the window, not the reader or the path, is what
    /// limits the flow. (The rule of the estimators in HTTP/2 and yamux implementations, which take two: they do not wake a
    /// reader for each window.) Judged in turns of at least half a window; starts a new one.
    pub(crate) fn is_limiting(&mut self, now: u64, round_trip: u64) -> bool {
        let (consumed, began) = self.turn;
        let amount = self.consumed - consumed;
        if amount < u64::from(self.window / 2) {
            return false;
        }
        self.turn = (self.consumed, now);
        let reference = u128::from(amount) * 4 * u128::from(round_trip);
        began != 0 && u128::from(now - began) * u128::from(self.window) < reference
    }

    pub(crate) fn grow(&mut self, bytes: u32) {
        self.window += bytes;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn credit_is_returned_as_messages_are_consumed() {
        let (mut out, mut into) = (Outflow::new(100), Inflow::new(100));
        out.spend(60);
        into.receive(60).unwrap();
        assert!(!into.is_due());
        into.consume(60);
        assert!(into.is_due());
        let credit = into.grant();
        assert_eq!(credit, 60);
        out.grant(credit, 100).unwrap();
        assert_eq!(out.credit(), 100);
        assert_eq!(into.outstanding(), 100);
    }

    #[test]
    fn more_than_granted_is_an_overrun_and_more_than_the_limit_an_overflow() {
        let mut into = Inflow::new(10);
        assert_eq!(into.receive(11), Err(Overrun));
        into.receive(10).unwrap();
        assert_eq!(into.receive(1), Err(Overrun));
        let mut out = Outflow::new(10);
        assert_eq!(out.grant(MAX_CREDIT - 9, 10), Err(CreditOverflow));
        assert_eq!(out.grant(0, MAX_CREDIT + 1), Err(CreditOverflow));
        out.grant(MAX_CREDIT - 10, 10).unwrap();
        assert_eq!(out.credit(), u64::from(MAX_CREDIT));
    }

    #[test]
    fn a_reservation_is_granted_beyond_the_window_and_freed_once_consumed() {
        let mut into = Inflow::new(100);
        into.receive(12).unwrap();
        into.reserve(1000);
        assert_eq!(into.grant(), 1000);
        assert_eq!(into.release(), 0, "the peer still holds the credit");
        into.receive(1000).unwrap();
        into.consume(1012);
        assert_eq!(into.release(), 1000);
        assert_eq!(into.grant(), 12);
    }

    #[test]
    fn a_refund_frees_the_reservation() {
        let (mut out, mut into) = (Outflow::new(100), Inflow::new(100));
        out.spend(12);
        into.receive(12).unwrap();
        into.reserve(1000);
        out.grant(into.grant(), 100).unwrap();
        into.consume(12);
        let refund = out.refund(0);
        assert_eq!(refund, 1088);
        into.refund(refund).unwrap();
        assert_eq!(into.release(), 1000);
        assert_eq!(into.grant(), 100);
        assert_eq!(into.refund(101), Err(Overrun));
    }

    #[test]
    fn a_dropped_long_message_frees_its_reservation() {
        let mut into = Inflow::new(100);
        into.receive(12).unwrap();
        into.reserve(1000);
        assert_eq!(into.grant(), 1000);
        into.receive(1088).unwrap();
        assert_eq!(into.release(), 0, "it is held");
        assert_eq!(into.abandon(), 1000);
    }

    #[test]
    fn a_window_limits_when_it_is_consumed_in_less_than_four_round_trips() {
        let mut into = Inflow::new(100);
        let mut turn = |now, round_trip| {
            into.receive(100).unwrap();
            into.consume(100);
            into.grant();
            into.is_limiting(now, round_trip)
        };
        assert!(!turn(1000, 500), "the first turn has no beginning");
        assert!(turn(2999, 500));
        assert!(!turn(5000, 500));
        assert!(!turn(5001, 0));
    }
}
