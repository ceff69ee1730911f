//! What users of the two sides do, and what they must get.

use farcall_channel::mux::{Payload, SendFault, Sent, Taken};
use farcall_channel::{ClosedError, RemoteError};

use super::flow::{Mark, Message, payload};
use super::world::{Task, Waiting, World};

/// What a receive gave.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Received {
    Message,
    Nothing,
    End,
}

fn bytes(error: Option<RemoteError>) -> Option<Vec<u8>> {
    error.map(|error| error.as_bytes().to_vec())
}

impl World {
    // ---- sending ----

    /// Offers a message of `len` bytes with these ends. `patient`: waits for room.
    pub fn send(&mut self, side: usize, end: usize, len: usize, ends: Vec<usize>, patient: bool) {
        let here = &mut self.sides[side];
        for &end in &ends {
            here.end(end).leaving = true;
        }
        self.stamps += 1;
        let stamp = self.stamps;
        let payload = payload(stamp, len).into();
        let waiting = Waiting { stamp, payload, ends, ticket: None, task: Task::Woken };
        if let Some(waiting) = self.offer(side, end, waiting) {
            if patient {
                let out = self.sides[side].end(end).out.as_mut().expect("it just sent");
                out.waiting.push(waiting);
            } else {
                self.give_up(side, end, waiting);
            }
        }
    }

    /// Offers a message: `None` if it is done with.
    fn offer(&mut self, side: usize, end: usize, mut waiting: Waiting) -> Option<Waiting> {
        let limit = self.sides[1 - side].config.max_message;
        let here = &mut self.sides[side];
        let keys: Vec<_> = waiting.ends.iter().map(|&end| here.end(end).key).collect();
        let key = here.end(end).key;
        let flow = here.end(end).out.as_ref().expect("it sends").flow;
        let local = here.mux.id(key) == 0;
        let message = Payload::Shared(waiting.payload.clone());
        for &end in &waiting.ends {
            // Its partner is with the peer.
            let returning = here.mux.id(here.ends[end].as_ref().expect("it is offered").key) != 0;
            here.end(end).returning = returning;
        }
        let result = here.mux.send(key, &message, &keys, waiting.ticket);
        self.say(side, |_| {
            format!("send {} bytes, {keys:?} on {key:?}, flow {flow}: {result:?}", waiting.payload.len())
        });
        let here = &mut self.sides[side];
        match result {
            Ok(Sent::Taken) => {
                let len = waiting.payload.len();
                if local {
                    here.local += len as u64 + 12;
                }
                let ends = waiting.ends.iter().map(|&end| self.departed(side, end)).collect();
                let sent = &mut self.flows[flow];
                assert!(sent.closed.is_none() || sent.crossed, "a closed channel takes nothing");
                sent.expected.push_back(Message { stamp: waiting.stamp, len, ends });
                sent.sent += 1;
                if sent.stopped.is_some() || sent.unread {
                    self.abandon_messages(flow);
                }
                self.settle(side);
                None
            }
            Ok(Sent::Wait(ticket)) => {
                here.mux.await_sender(key);
                waiting.ticket = ticket;
                waiting.task = Task::Waiting;
                self.settle(side);
                Some(waiting)
            }
            Err(fault) => {
                let flow = &self.flows[flow];
                match fault {
                    SendFault::Closed => assert!(flow.closed.is_some(), "nobody closed it"),
                    SendFault::Stopped(error) => {
                        let stopped = flow.stopped.as_ref();
                        assert!(stopped.is_some() || flow.crossed, "nobody stopped it");
                        // The error does not make the journey of an end that was sent home meanwhile.
                        let known = stopped == Some(&bytes(error)) || flow.returned;
                        assert!(known, "another error than was given");
                    }
                    SendFault::Lost(_) => {
                        assert!(here.is_lost());
                        here.end(end).out.as_mut().expect("it sends").lost = true;
                    }
                    SendFault::TooLarge(max) => {
                        assert_eq!(max, limit);
                        assert!(waiting.payload.len() as u64 > max);
                    }
                    SendFault::EndInUse => assert!(!waiting.ends.is_empty()),
                    SendFault::Draining => {
                        assert!(self.sides.iter().any(|side| side.draining) && !waiting.ends.is_empty());
                    }
                }
                self.stay(side, &waiting.ends);
                self.settle(side);
                None
            }
        }
    }

    fn stay(&mut self, side: usize, ends: &[usize]) {
        for &end in ends {
            self.sides[side].end(end).leaving = false;
        }
    }

    /// The end went away in a message. Also returns whether it goes home.
    fn departed(&mut self, side: usize, end: usize) -> (Mark, bool) {
        let here = &mut self.sides[side];
        let end = here.ends[end].take().expect("it was offered");
        let returns = end.returning;
        let here = &mut self.sides[side];
        // What the dropped handles do must not hurt whoever has the place now.
        here.mux.release_sender(end.key);
        here.mux.release_receiver(end.key, 0);
        let out = end.out.map(|out| out.flow);
        let into = end.into.map(|into| into.flow);
        for flow in [out, into].into_iter().flatten() {
            let flow = &mut self.flows[flow];
            flow.crossed |= returns && flow.homing;
            flow.returned |= returns;
            flow.homing |= returns;
        }
        if let Some(out) = out {
            self.flows[out].before = self.flows[out].sent;
        }
        if let Some(into) = into.filter(|_| returns) {
            self.flows[into].unread = true;
            self.abandon_messages(into);
        }
        (Mark { out, into }, returns)
    }

    /// Withdraws a message that was not taken.
    pub fn give_up(&mut self, side: usize, end: usize, waiting: Waiting) {
        self.say(side, |_| format!("give up on end {end}"));
        let key = self.sides[side].end(end).key;
        if let Some(ticket) = waiting.ticket {
            self.mux(side).withdraw(key, ticket);
        }
        self.stay(side, &waiting.ends);
        self.settle(side);
    }

    /// Polls a send that was woken; returns whether it is done with.
    pub fn poll_send(&mut self, side: usize, end: usize, place: usize) -> bool {
        let out = self.sides[side].end(end).out.as_mut().expect("it sends");
        let waiting = out.waiting.remove(place);
        assert_eq!(waiting.task, Task::Woken);
        let waiting = self.offer(side, end, waiting);
        let done = waiting.is_none();
        if let Some(waiting) = waiting {
            let out = self.sides[side].end(end).out.as_mut().expect("it sends");
            out.waiting.insert(place, waiting);
        }
        done
    }

    pub fn close(&mut self, side: usize, end: usize, error: Option<Vec<u8>>) {
        self.say(side, |_| format!("close end {end} with {error:?}"));
        let end = self.sides[side].end(end);
        let (key, flow) = (end.key, end.out.as_ref().expect("it sends").flow);
        self.mux(side).close(key, error.as_deref());
        self.flows[flow].closed.get_or_insert(error);
        self.settle(side);
    }

    /// Asks how the sending direction ended; waits if it has not.
    pub fn poll_ending(&mut self, side: usize, end: usize) -> bool {
        self.say(side, |_| format!("poll the ending of end {end}"));
        let here = &mut self.sides[side];
        let key = here.end(end).key;
        let ending = here.mux.ending(key);
        if ending.is_none() {
            here.mux.await_sender(key);
        }
        let lost = here.is_lost();
        let out = here.end(end).out.as_mut().expect("it sends");
        out.ending = if ending.is_none() { Task::Waiting } else { Task::Idle };
        let flow = &self.flows[out.flow];
        match ending {
            None => return false,
            Some(Ok(())) => {
                assert!(flow.closed.is_some(), "it ends well only after a close");
                assert!(flow.received == flow.sent || flow.returned, "everything was consumed");
            }
            Some(Err(ClosedError::Stopped { unconsumed, error })) => {
                if !flow.returned {
                    assert_eq!(Some(bytes(error)), flow.stopped, "it was stopped, and so");
                    assert_eq!(unconsumed, flow.unconsumed(), "{flow:?}");
                }
            }
            Some(Err(ClosedError::Lost(_))) => assert!(lost),
            Some(Err(error)) => panic!("{error}"),
        }
        true
    }

    pub fn release_sender(&mut self, side: usize, end: usize) {
        self.say(side, |_| format!("release the sender of end {end}"));
        while let Some(out) = &mut self.sides[side].end(end).out {
            let Some(waiting) = out.waiting.pop() else { break };
            self.give_up(side, end, waiting);
        }
        let handles = self.sides[side].end(end);
        let (key, out) = (handles.key, handles.out.take().expect("it sends"));
        if handles.into.is_none() {
            self.sides[side].ends[end] = None;
        }
        self.mux(side).release_sender(key);
        self.flows[out.flow].closed.get_or_insert(None);
        self.settle(side);
    }

    // ---- receiving ----

    /// One receive, as a receiver's handle does it. `patient`: waits for a message.
    pub fn receive(&mut self, side: usize, end: usize, patient: bool) -> Received {
        self.say(side, |world| {
            format!(
                "receive on end {end}, flow {:?}",
                world.sides[side].ends[end].as_ref().and_then(|end| end.into.as_ref()).map(|into| into.flow)
            )
        });
        let now = self.now;
        let here = &mut self.sides[side];
        let lost = here.is_lost();
        let handles = here.ends[end].as_mut().expect("the script picks ends that exist");
        let key = handles.key;
        let into = handles.into.as_mut().expect("the script picks ends that receive");
        let flow = into.flow;
        into.task = Task::Idle;
        if into.ended {
            return Received::End;
        }
        if into.batch.is_empty() {
            let (consumed, cost) = (std::mem::take(&mut into.consumed), std::mem::take(&mut into.cost));
            match here.mux.take(key, consumed, cost, now, &mut into.batch) {
                Taken::Messages { report_after, cargo } => {
                    assert!(!into.batch.is_empty());
                    (into.report_after, into.cargo) = (report_after, cargo);
                }
                Taken::Wait => {
                    if patient {
                        into.task = Task::Waiting;
                    } else {
                        here.mux.unwait_receiver(key);
                    }
                    self.settle(side);
                    return Received::Nothing;
                }
                Taken::End(error) => {
                    into.ended = true;
                    let flow = &mut self.flows[flow];
                    assert!(flow.closed.is_some() || flow.crossed, "nobody closed {flow:?}");
                    let closed = flow.closed.get_or_insert(None);
                    assert!(bytes(error) == *closed || flow.crossed, "another error than was given");
                    assert!(
                        flow.expected.is_empty() || flow.crossed,
                        "the end came before {:?}",
                        flow.expected
                    );
                    flow.ended = true;
                    self.settle(side);
                    return Received::End;
                }
                Taken::Lost(_) => {
                    assert!(lost);
                    into.lost = true;
                    self.settle(side);
                    return Received::End;
                }
            }
        }
        self.hand_out(side, end);
        let into = self.sides[side].end(end).into.as_ref().expect("it just received");
        if into.cost >= into.report_after {
            self.report(side, end);
        }
        self.settle(side);
        Received::Message
    }

    fn hand_out(&mut self, side: usize, end: usize) {
        let here = &mut self.sides[side];
        let handles = here.ends[end].as_mut().expect("it receives");
        let (key, into) = (handles.key, handles.into.as_mut().expect("it receives"));
        let flow = into.flow;
        let message = self.flows[flow].expected.pop_front().expect("a message came that nobody sent");
        let front = into.batch.front().expect("the batch is not empty");
        let whole = front == payload(message.stamp, message.len);
        assert!(whole, "another message than {message:?} on flow {flow}: {} bytes", front.len());
        into.batch.pop();
        let (number, cargo) = (into.number, into.cargo);
        into.number += 1;
        into.consumed += 1;
        into.cost += message.len as u64 + 12;
        self.flows[flow].received += 1;
        // The end of the connection is theirs, too.
        let lost = self.sides[side].is_lost();
        assert!(cargo || lost || message.ends.is_empty(), "ends came unannounced");
        for (index, (mark, returns)) in message.ends.into_iter().enumerate() {
            let here = &mut self.sides[side];
            // Every seventh message is one whose decoding does not take its ends.
            let wanted = number % 7 != 6;
            let claimed = if wanted { here.mux.claim(key, number, index as u16) } else { None };
            let Some((key, sends, receives)) = claimed else {
                assert!(!wanted || here.is_lost(), "end {index} of message {number} did not come with it");
                self.abandon(mark, None);
                continue;
            };
            // A half whose other half was dropped before comes as a whole.
            let here = &mut self.sides[side];
            assert!(sends || mark.out.is_none(), "it sent");
            assert!(receives || mark.into.is_none(), "it received");
            if sends && mark.out.is_none() {
                here.mux.release_sender(key);
            }
            if receives && mark.into.is_none() {
                here.mux.release_receiver(key, 0);
            }
            // The other end, on its way out, may meanwhile have arrived where this one came from.
            for flow in [mark.out, mark.into].into_iter().flatten().filter(|_| returns) {
                self.flows[flow].homing = false;
                self.flows[flow].unread = false;
            }
            self.sides[side].add(key, mark);
        }
        if cargo {
            self.mux(side).settle(key, number);
        }
    }

    /// Reports what was handed out.
    pub fn report(&mut self, side: usize, end: usize) {
        self.say(side, |_| format!("report on end {end}"));
        let now = self.now;
        let here = &mut self.sides[side];
        let handles = here.ends[end].as_mut().expect("it receives");
        let into = handles.into.as_mut().expect("it receives");
        // The last message counts as consumed only later.
        let consumed = into.consumed.saturating_sub(1);
        into.consumed -= consumed;
        let cost = std::mem::take(&mut into.cost);
        here.mux.consume(handles.key, consumed, cost, now);
        self.settle(side);
    }

    /// Gives up a receive that waits.
    pub fn unwait(&mut self, side: usize, end: usize) {
        self.say(side, |_| format!("give up receiving on end {end}"));
        let here = &mut self.sides[side];
        let handles = here.ends[end].as_mut().expect("it receives");
        handles.into.as_mut().expect("it receives").task = Task::Idle;
        here.mux.unwait_receiver(handles.key);
        self.settle(side);
    }

    pub fn stop(&mut self, side: usize, end: usize, error: Option<Vec<u8>>) {
        self.say(side, |_| format!("stop end {end} with {error:?}"));
        let here = &mut self.sides[side];
        let handles = here.ends[end].as_mut().expect("it receives");
        let into = handles.into.as_mut().expect("it receives");
        into.batch = Default::default();
        into.task = Task::Idle;
        let already = std::mem::replace(&mut into.ended, true);
        let (flow, consumed) = (into.flow, std::mem::take(&mut into.consumed));
        here.mux.stop(handles.key, consumed, error.as_deref());
        if !already {
            self.stopped(flow, error);
        }
        self.settle(side);
    }

    pub fn release_receiver(&mut self, side: usize, end: usize) {
        self.say(side, |_| format!("release the receiver of end {end}"));
        let here = &mut self.sides[side];
        let handles = here.ends[end].as_mut().expect("it receives");
        let into = handles.into.take().expect("it receives");
        here.mux.release_receiver(handles.key, into.consumed);
        if handles.out.is_none() {
            here.ends[end] = None;
        }
        if !into.ended {
            self.stopped(into.flow, None);
        }
        self.settle(side);
    }

    // ---- ends that nobody has any more ----

    fn stopped(&mut self, flow: usize, error: Option<Vec<u8>>) {
        let stopped = &mut self.flows[flow];
        if !stopped.ended {
            stopped.stopped.get_or_insert(error);
        }
        self.abandon_messages(flow);
    }

    /// Messages that nobody will decode: the ends in them are ended.
    fn abandon_messages(&mut self, flow: usize) {
        let ends: Vec<(Mark, bool)> = self.flows[flow]
            .expected
            .iter_mut()
            .flat_map(|message| std::mem::take(&mut message.ends))
            .collect();
        for (end, _) in ends {
            self.abandon(end, None);
        }
    }

    /// Nobody has this end, for this reason.
    pub fn abandon(&mut self, end: Mark, error: Option<Vec<u8>>) {
        if let Some(out) = end.out {
            self.flows[out].closed.get_or_insert_with(|| error.clone());
        }
        if let Some(into) = end.into {
            self.stopped(into, error);
        }
    }
}
