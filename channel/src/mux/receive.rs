//! Bytes from the peer.

use std::time::Instant;

use bytes::Bytes;

use super::liveness::Verdict;
use super::slot::{Assembly, InState, OutState, Slot};
use super::{Event, Key, Life, Mux, Phase};
use crate::error::{ConnectionError, Violation};
use crate::flow::{MAX_CREDIT, cost};
use crate::frame::{Carried, FIRST_LEN, Frame, HEADER_LEN, HELLO_LEN, Header, Hello};
use crate::queue::Payload;

impl Mux {
    /// Takes bytes that came from the peer and returns how many it used; the rest, less than a frame, is to be handed in
    /// again with what comes next. What the peer does wrong ends the connection.
    pub fn handle_bytes(&mut self, now: Instant, input: &[u8]) -> usize {
        if input.is_empty() {
            return 0;
        }
        self.liveness.heard(now);
        let mut used = 0;
        while used < input.len() && self.cause().is_none() {
            used += self.handle_messages(&input[used..]);
            if used == input.len() {
                break;
            }
            match self.handle_some(now, &input[used..]) {
                Ok(0) => return used,
                Ok(more) => used += more,
                Err(cause) => {
                    if let ConnectionError::Violation(_) | ConnectionError::Handshake(_) = cause {
                        self.farewell = Some(cause.to_string().into());
                    }
                    self.end(cause);
                }
            }
        }
        input.len()
    }

    /// Deadlines: to be called when the time of [`Mux::poll_timeout`] has come, after pending input was handed in.
    pub fn handle_timeout(&mut self, now: Instant) {
        // Deadlines come while little else does.
        self.spares.clear();
        if self.is_ready()
            && let Verdict::Silent(after) = self.liveness.handle_timeout(now)
        {
            self.end(ConnectionError::Silent { after });
        }
    }

    /// When [`Mux::handle_timeout`] is to be called.
    pub fn poll_timeout(&self) -> Option<Instant> {
        // Until the peer has greeted, its limit is the handshake's.
        self.is_ready().then(|| self.liveness.deadline())
    }

    /// The short way for what most bytes are: whole small messages for the channel that was the last one's. Returns how many
    /// bytes it used, and stops at whatever needs a closer look.
    fn handle_messages(&mut self, input: &[u8]) -> usize {
        let (id, key) = self.recent;
        if id == 0 || self.part.is_some() || self.steps.is_some() || !matches!(self.phase, Phase::Open) {
            return 0;
        }
        let slot = &mut self.slots[key.index()];
        let into = &mut slot.into;
        if into.state != InState::Open || into.assembly.is_some() || slot.extra.is_some() {
            return 0;
        }
        let (mut used, mut messages) = (0, 0);
        into.queue.prepare(&mut self.spares);
        while let Some((payload, end)) = Frame::small_data(&input[used..], id) {
            if payload.len() as u64 > self.config.max_message
                || into.flow.receive(cost(payload.len())).is_err()
            {
                break;
            }
            into.queue.push(Payload::Slice(payload));
            messages += 1;
            used += end;
        }
        let bytes = (used - messages * HEADER_LEN) as u64;
        into.received += messages as u64;
        into.bytes += bytes;
        self.counters.messages_received += messages as u64;
        self.counters.bytes_received += bytes;
        if messages > 0 && into.want {
            into.want = false;
            self.events.push_back(Event::Readable(key));
        }
        used
    }

    fn handle_some(&mut self, now: Instant, input: &[u8]) -> Result<usize, ConnectionError> {
        if let Phase::Greeting = self.phase {
            return match Hello::decode(input).map_err(Violation::from)? {
                Some(hello) => {
                    self.step(false, "HELLO", 0, HELLO_LEN);
                    self.greet(hello).map(|()| HELLO_LEN)
                }
                None => Ok(0),
            };
        }
        if let Some((id, left)) = self.part {
            let here = left.min(input.len());
            // The channel may have ended in the meantime; then the rest is ignored.
            if let Some(key) = self.find(id)? {
                let into = &self.slot(key).into;
                if into.state == InState::Open && into.assembly.is_none() {
                    return Err(Violation::Parts { id }.into());
                }
                self.add_part(key, &input[..here])?;
            }
            self.part = (left > here).then_some((id, left - here));
            return Ok(here);
        }
        let Some(header) = Header::decode(input) else { return Ok(0) };
        let end = HEADER_LEN + header.payload_len();
        if let Some(payload) = input.get(HEADER_LEN..end) {
            self.handle_frame(now, Frame::from_parts(header, payload).map_err(Violation::from)?)?;
            return Ok(end);
        }
        // The payload of a part goes where it belongs as it comes; all others are waited for.
        let here = &input[HEADER_LEN..];
        if header.is_part() && here.len() >= FIRST_LEN {
            let frame = Frame::from_parts(header, here).map_err(Violation::from)?;
            self.handle_frame(now, frame)?;
            let id = header.id();
            if let Some(key) = self.find(id)? {
                let into = &self.slot(key).into;
                if into.state == InState::Open && into.assembly.is_none() {
                    return Err(Violation::Parts { id }.into());
                }
            }
            self.part = Some((id, header.payload_len() - here.len()));
            return Ok(input.len());
        }
        Ok(0)
    }

    /// Whether channels with this id are for this side to open.
    pub(super) fn is_ours(&self, id: u64) -> bool {
        id.is_multiple_of(2) == (self.role == super::Role::Worker)
    }

    /// The channel with this id: `None` if it is dead.
    #[inline]
    pub(super) fn find(&mut self, id: u64) -> Result<Option<Key>, Violation> {
        if self.recent.0 == id {
            return Ok(Some(self.recent.1));
        }
        if let Some(&key) = self.ids.get(&id) {
            self.recent = (id, key);
            return Ok(Some(key));
        }
        let seen = if self.is_ours(id) { id < self.next_id } else { id <= self.highest };
        if seen { Ok(None) } else { Err(Violation::UnknownChannel { id }) }
    }

    #[inline]
    fn handle_frame(&mut self, now: Instant, frame: Frame<'_>) -> Result<(), ConnectionError> {
        if let Frame::Data { id, payload } = frame {
            if self.steps.is_some() {
                self.step(false, "DATA", id, payload.len());
            }
            return match self.find(id)? {
                Some(key) => Ok(self.handle_data(key, payload)?),
                None => Ok(()),
            };
        }
        self.handle_other_frame(now, frame)
    }

    fn handle_other_frame(&mut self, now: Instant, frame: Frame<'_>) -> Result<(), ConnectionError> {
        match frame {
            Frame::Data { .. } => {}
            Frame::Open { id, sends, receives, window, carried, request } => {
                self.step(false, "OPEN", id, request.len());
                self.handle_open(id, sends, receives, window, carried, request)?;
            }
            Frame::First { id, total, payload } => {
                self.step(false, "FIRST", id, payload.len());
                if let Some(key) = self.find(id)? {
                    self.handle_first(key, total, payload)?;
                }
            }
            Frame::Next { id, payload } => {
                self.step(false, "NEXT", id, payload.len());
                if let Some(key) = self.find(id)? {
                    let into = &self.slot(key).into;
                    match (into.state, into.assembly.is_some()) {
                        (InState::Finishing | InState::Done, _) => {}
                        (InState::Ended, _) => return Err(Violation::AfterClose { id }.into()),
                        (InState::Open, false) => return Err(Violation::Parts { id }.into()),
                        (InState::Open, true) => self.add_part(key, payload)?,
                    }
                }
            }
            Frame::Withdraw { id, credit } => {
                self.step(false, "WITHDRAW", id, 0);
                if let Some(key) = self.find(id)? {
                    self.handle_withdraw(key, credit)?;
                }
            }
            Frame::Credit { id, credit, window } => {
                self.step(false, "CREDIT", id, 0);
                if let Some(key) = self.find(id)? {
                    self.handle_credit(key, credit, window)?;
                }
            }
            Frame::Close { id, error } => {
                self.step(false, "CLOSE", id, error.map_or(0, <[u8]>::len));
                if let Some(key) = self.find(id)? {
                    self.handle_close(key, error)?;
                }
            }
            Frame::Reset { id, consumed, error } => {
                self.step(false, "RESET", id, error.map_or(0, <[u8]>::len));
                if let Some(key) = self.find(id)? {
                    self.handle_reset(key, consumed, error)?;
                }
            }
            Frame::Ping { ack, token } => {
                self.step(false, "PING", 0, 0);
                if ack {
                    self.liveness.pong(now, token);
                } else {
                    self.liveness.pong_owed = Some(token);
                }
            }
            Frame::GoAway { last, error, text } => {
                self.step(false, "GOAWAY", 0, text.len());
                if error {
                    let reason = String::from_utf8_lossy(text).into();
                    return Err(ConnectionError::AbortedByPeer { reason });
                }
                self.peer_draining = true;
                self.peer_last = last;
                if std::mem::take(&mut self.capacity_wanted) {
                    self.events.push_back(Event::Capacity);
                }
                self.events.push_back(Event::Incoming);
                self.check_drained();
            }
            Frame::Return { id, carried } => {
                self.step(false, "RETURN", id, 0);
                match self.find(id)? {
                    Some(key) => self.handle_return(key, carried)?,
                    None => self.load_over(id, carried)?,
                }
            }
        }
        Ok(())
    }

    fn handle_open(
        &mut self,
        id: u64,
        sends: bool,
        receives: bool,
        window: u32,
        carried: Option<Carried>,
        request: &[u8],
    ) -> Result<(), Violation> {
        if self.is_ours(id) || id <= self.highest || !(sends || receives) {
            return Err(Violation::OpenOrder { id });
        }
        if self.theirs_open >= self.config.max_channels {
            return Err(Violation::TooManyChannels { max: self.config.max_channels });
        }
        if window > MAX_CREDIT {
            return Err(Violation::Credit { id });
        }
        if let Some(lives) = &mut self.lives {
            lives.push(Life::Opened { id, ours: false });
        }
        self.highest = id;
        self.theirs_open += 1;
        // Opened before the peer knew; the stream must not end before it has been refused.
        self.drained_reported = false;
        let ours = self.config.initial_window;
        let mut slot = Slot::new(id, false, receives.then_some(window), sends.then_some(ours));
        slot.out.handle = false;
        slot.into.handle = false;
        let key = self.insert(slot);
        self.ids.insert(id, key);
        match carried {
            Some(carried) => self.load(key, carried)?,
            None if self.draining => self.refuse(key, b"the connection is being closed"),
            None => {
                if !request.is_empty() {
                    self.slot(key).extra().request = Bytes::copy_from_slice(request);
                }
                // Those that their opener gave up again are not counted, and must not pile up.
                if self.accepts.len() > 2 * self.config.max_channels as usize {
                    let mut accepts = std::mem::take(&mut self.accepts);
                    accepts.retain(|&key| self.is_live(key));
                    self.accepts = accepts;
                }
                self.accepts.push_back(key);
                self.events.push_back(Event::Incoming);
            }
        }
        Ok(())
    }

    #[inline]
    fn handle_data(&mut self, key: Key, payload: &[u8]) -> Result<(), Violation> {
        let max = self.config.max_message;
        let slot = &mut self.slots[key.index()];
        let into = &mut slot.into;
        match into.state {
            InState::Open => {}
            InState::Ended => return Err(Violation::AfterClose { id: slot.id }),
            InState::Finishing | InState::Done => return Ok(()),
        }
        if payload.len() as u64 > max {
            return Err(Violation::TooLong { id: slot.id, len: payload.len() as u64, max });
        }
        if into.assembly.is_some() {
            return Err(Violation::Parts { id: slot.id });
        }
        into.flow.receive(cost(payload.len())).map_err(|_| Violation::Overrun { id: slot.id })?;
        if slot.extra.is_some() && self.divert(key, Payload::Slice(payload)) {
            return Ok(());
        }
        self.arrive(key, Payload::Slice(payload));
        Ok(())
    }

    fn handle_first(&mut self, key: Key, total: u64, payload: &[u8]) -> Result<(), Violation> {
        let max = self.config.max_message;
        let slot = &mut self.slots[key.index()];
        let id = slot.id;
        match slot.into.state {
            InState::Open => {}
            InState::Ended => return Err(Violation::AfterClose { id }),
            InState::Finishing | InState::Done => return Ok(()),
        }
        if total > max {
            return Err(Violation::TooLong { id, len: total, max });
        }
        if slot.into.assembly.is_some() || total == 0 {
            return Err(Violation::Parts { id });
        }
        slot.into.flow.receive(cost(0)).map_err(|_| Violation::Overrun { id })?;
        slot.into.assembly = Some(Box::new(Assembly { total, bytes: Vec::new(), lent: 0 }));
        self.add_part(key, payload)
    }

    fn add_part(&mut self, key: Key, payload: &[u8]) -> Result<(), Violation> {
        let slot = &mut self.slots[key.index()];
        let id = slot.id;
        let Some(assembly) = &mut slot.into.assembly else { return Ok(()) };
        if payload.len() as u64 > assembly.missing() {
            return Err(Violation::Parts { id });
        }
        let granted = slot.into.flow.outstanding();
        slot.into.flow.receive(payload.len() as u64).map_err(|_| Violation::Overrun { id })?;
        assembly.make_room(payload.len(), granted);
        assembly.bytes.extend_from_slice(payload);
        self.finish_part(key);
        Ok(())
    }

    /// Some of a long message has come, perhaps all of it.
    pub(super) fn finish_part(&mut self, key: Key) {
        let slot = &mut self.slots[key.index()];
        if slot.into.assembly.as_ref().is_some_and(|assembly| assembly.missing() > 0) {
            if slot.into.want {
                self.claim_room(key);
            } else if slot.extra.is_some() {
                self.claim_room_to_pass_on(key);
            }
            return;
        }
        let bytes = Bytes::from(slot.into.assembly.take().map(|assembly| assembly.bytes).unwrap_or_default());
        if !self.divert(key, Payload::Shared(bytes.clone())) {
            self.arrive(key, Payload::Shared(bytes));
        }
    }

    /// A whole message came for the receiver of this channel.
    #[inline]
    pub(super) fn arrive(&mut self, key: Key, payload: Payload<'_>) {
        let len = payload.len() as u64;
        self.counters.messages_received += 1;
        self.counters.bytes_received += len;
        let into = &mut self.slots[key.index()].into;
        into.received += 1;
        into.bytes += len;
        into.queue.prepare(&mut self.spares);
        into.queue.push(payload);
        if into.want {
            into.want = false;
            self.events.push_back(Event::Readable(key));
        }
    }

    fn handle_withdraw(&mut self, key: Key, credit: u32) -> Result<(), Violation> {
        let slot = &mut self.slots[key.index()];
        let id = slot.id;
        match slot.into.state {
            InState::Open => {}
            InState::Ended => return Err(Violation::AfterClose { id }),
            InState::Finishing | InState::Done => return Ok(()),
        }
        if slot.into.assembly.as_ref().is_some_and(|assembly| !assembly.bytes.is_empty()) {
            return Err(Violation::Parts { id });
        }
        if slot.into.assembly.take().is_some() {
            slot.into.flow.consume(cost(0));
        }
        slot.into.flow.refund(credit).map_err(|_| Violation::Credit { id })?;
        let freed = slot.into.flow.release();
        self.leave_line(key);
        self.release_room(u64::from(freed));
        self.owe_credit(key);
        Ok(())
    }

    fn handle_credit(&mut self, key: Key, credit: u32, window: u32) -> Result<(), Violation> {
        let slot = &mut self.slots[key.index()];
        let id = slot.id;
        match slot.out.state {
            OutState::Open | OutState::Closing => {}
            OutState::Closed | OutState::Done { .. } => return Ok(()),
            OutState::Unused => return Err(Violation::Credit { id }),
        }
        let out = &mut slot.out;
        out.flow.grant(credit, window).map_err(|_| Violation::Credit { id })?;
        // Granted for a message that was withdrawn in the meantime.
        if out.long.is_none() && out.begun.is_none() && out.flow.credit() > out.flow.window() {
            out.withdraw = true;
        }
        let admitted = match out.long {
            Some(long) => out.flow.credit() >= u64::from(long.len),
            None => true,
        };
        if admitted {
            self.tell_writable(key);
        }
        self.schedule(key);
        Ok(())
    }

    fn handle_close(&mut self, key: Key, error: Option<&[u8]>) -> Result<(), Violation> {
        let slot = self.slot(key);
        match slot.into.state {
            InState::Open => {}
            InState::Ended => return Err(Violation::AfterClose { id: slot.id }),
            InState::Finishing | InState::Done => return Ok(()),
        }
        if let Some(error) = error {
            slot.extra().closed_with = Some(error.into());
        }
        slot.into.state = InState::Ended;
        slot.into.assembly = None;
        slot.into.flow.close();
        let freed = slot.into.flow.release();
        self.leave_line(key);
        self.release_room(u64::from(freed));
        self.tell_readable(key);
        self.close_diverted(key);
        Ok(())
    }

    fn handle_reset(&mut self, key: Key, consumed: u64, error: Option<&[u8]>) -> Result<(), Violation> {
        let slot = self.slot(key);
        let id = slot.id;
        if slot.extra.as_ref().is_some_and(|extra| extra.echo)
            && matches!(slot.out.state, OutState::Open | OutState::Closing)
        {
            // Said before the peer knew that the end goes home, about what its holder would have sent.
            return Ok(());
        }
        let stopped = match slot.out.state {
            OutState::Open | OutState::Closing => true,
            OutState::Closed => error.is_some() || consumed < slot.out.accepted,
            OutState::Unused | OutState::Done { .. } => return Err(Violation::Receipt { id }),
        };
        if consumed > slot.out.accepted {
            return Err(Violation::Receipt { id });
        }
        if let Some(error) = error {
            slot.extra().stopped_with = Some(error.into());
        }
        slot.out.state = OutState::Done { consumed, stopped };
        slot.out.discard();
        self.tell_writable(key);
        self.settle_slot(key);
        Ok(())
    }
}
