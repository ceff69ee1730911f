//! Who runs what: the decisions of a map as a pure state machine, without gateways, clocks, threads or wakers.
//!
//! Every input becomes an item, and every item ends in exactly one result. In between it is in one [`Place`]: ready, given to one
//! gateway, in limbo while its lost gateway may still run it, or under suspicion because workers died that had it. So it is
//! never at two gateways.
//!
//! It is longer than files here are, since every part of it changes where an item is, and that must be seen together.
//!
//! Times are counted from the beginning of the map. `handle_*` and verbs take what happened, `poll_*` and `next_*` hand out what
//! is to be done.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use super::batch::{Malformed, Payload};
use super::fault::{ItemError, OnError};
use super::gate::{Gate, State};
pub(crate) use super::outbox::Ended;
use super::outbox::Outbox;
use crate::end::GatewayEnd;

/// So many bytes of arguments one gateway has, beyond one item for each slot.
const GATE_BYTES: usize = 1024 * 1024;

/// Ready items that are kept beyond what gateways are about to take.
const SPARE: usize = 32;

/// How often idle gateways look whether others have too much.
const LOOK: Duration = Duration::from_millis(5);

/// More slots than these no gateway has, whatever it says.
const MOST_SLOTS: u32 = 1 << 16;

/// Into so many parts suspects are divided.
const PARTS: usize = 8;

/// What the user asked for.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Rules {
    pub(crate) ordered: bool,
    /// Items between being taken from the inputs and being handed out as results.
    pub(crate) window: usize,
    /// Bytes of their arguments and values, about.
    pub(crate) bytes: usize,
    pub(crate) retries: u32,
    pub(crate) max_deaths: u32,
    pub(crate) at_most_once: bool,
    pub(crate) on_error: OnError,
}

impl Default for Rules {
    fn default() -> Rules {
        Rules {
            ordered: false,
            window: 32 * 1024,
            bytes: 64 * 1024 * 1024,
            retries: 0,
            max_deaths: 3,
            at_most_once: false,
            on_error: OnError::GoOn,
        }
    }
}

/// A gateway of this map: its place in the list, for ever.
pub(crate) type GateId = usize;

/// What a gateway says about an item that it was given.
#[derive(Debug)]
pub(crate) enum Answer {
    Value(Payload),
    /// May be tried again.
    Fault(ItemError),
    /// Would be the same again.
    Final(ItemError),
    /// Not begun, and given back.
    Withdrawn,
    /// Ended with this, but goes on and keeps its slot.
    Stuck(ItemError),
}

/// How a gateway was lost.
#[derive(Clone, Debug)]
pub(crate) struct Loss {
    /// How long its items may still be running there.
    pub(crate) settle: Duration,
    /// Whether one of its items may have been the reason.
    pub(crate) suspicious: bool,
    pub(crate) end: Option<Arc<GatewayEnd>>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Place {
    Free,
    Ready,
    /// Was given to a gateway as its so-manieth.
    At(GateId, u64),
    Limbo,
    Suspect,
}

#[derive(Debug)]
struct Item {
    index: u64,
    args: Payload,
    place: Place,
    /// How often it was tried and failed.
    tries: u32,
    deaths: u32,
    /// Its gateway was asked to give it back.
    asked: bool,
    /// The gateway that was asked to give it back for one that is idle.
    avoids: Option<u32>,
}

/// Items whose gateway is lost and may still run them.
#[derive(Debug)]
struct Limbo {
    until: Duration,
    items: Vec<u32>,
    suspicious: bool,
}

/// What became of all items, in numbers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Counts {
    pub(crate) taken: u64,
    pub(crate) done: u64,
    pub(crate) failed: u64,
    pub(crate) retried: u64,
    pub(crate) moved: u64,
}

#[derive(Debug)]
pub(crate) struct Scheduler {
    rules: Rules,
    items: Vec<Item>,
    free: Vec<u32>,
    /// In the order of their inputs, so that the one that all results wait for is the first.
    ready: VecDeque<u32>,
    /// To be run by themselves, each group in turn.
    suspects: VecDeque<Vec<u32>>,
    limbo: Vec<Limbo>,
    gates: Vec<Gate>,
    counts: Counts,
    unfinished: usize,
    /// Bytes of their arguments.
    arg_bytes: usize,
    outbox: Outbox,
    inputs_ended: bool,
    stopped: bool,
    hopeless: Option<Option<Arc<GatewayEnd>>>,
    /// How long the values of this map are.
    value_bytes: f64,
    next_look: Duration,
    /// Items to be asked back, because too many values are held.
    recalls: Vec<(GateId, u32)>,
}

impl Scheduler {
    pub(crate) fn new(rules: Rules) -> Scheduler {
        Scheduler {
            rules,
            items: Vec::new(),
            free: Vec::new(),
            ready: VecDeque::new(),
            suspects: VecDeque::new(),
            limbo: Vec::new(),
            gates: Vec::new(),
            counts: Counts::default(),
            unfinished: 0,
            arg_bytes: 0,
            outbox: Outbox::new(rules.ordered, matches!(rules.on_error, OnError::Collect { .. })),
            inputs_ended: false,
            stopped: false,
            hopeless: None,
            value_bytes: 0.0,
            next_look: Duration::ZERO,
            recalls: Vec::new(),
        }
    }

    // ---- inputs --------------------------------------------------------------------------------------------------

    /// How many inputs should be taken now.
    pub(crate) fn wanted(&self, now: Duration) -> usize {
        if self.inputs_ended || self.stopped || self.over_budget() {
            return 0;
        }
        let room = self.rules.window.max(1).saturating_sub(self.unfinished + self.outbox.held());
        if self.hopeless.is_some() {
            return room;
        }
        let live = self.gates.iter().filter(|gate| gate.state == State::Live);
        // As many again as they have now, so that taking inputs never waits for replies.
        let wanted: usize = live.map(|gate| gate.target(now) as usize).sum::<usize>() + SPARE;
        room.min(wanted.saturating_sub(self.ready.len()))
    }

    fn over_budget(&self) -> bool {
        self.unfinished + self.outbox.held() > 0 && self.arg_bytes + self.outbox.bytes() >= self.rules.bytes
    }

    /// Takes an input.
    pub(crate) fn push(&mut self, args: Payload) {
        let key = self.add(args);
        if self.stopped {
            self.finish(key, Err(ItemError::Stopped));
        } else if let Some(end) = &self.hopeless {
            let error = ItemError::Lost(end.clone());
            self.fail(key, error);
        } else {
            self.ready.push_back(key);
        }
    }

    /// Takes an input whose arguments cannot be sent.
    pub(crate) fn push_failed(&mut self, error: ItemError) {
        let key = self.add(Payload::new(&[]));
        let error = if self.stopped { ItemError::Stopped } else { error };
        self.fail(key, error);
    }

    pub(crate) fn end_inputs(&mut self) {
        self.inputs_ended = true;
        self.check_end();
    }

    fn add(&mut self, args: Payload) -> u32 {
        let index = self.counts.taken;
        self.counts.taken += 1;
        self.unfinished += 1;
        self.arg_bytes += args.len();
        let item = Item { index, args, place: Place::Ready, tries: 0, deaths: 0, asked: false, avoids: None };
        match self.free.pop() {
            Some(key) => {
                self.items[key as usize] = item;
                key
            }
            None => {
                self.items.push(item);
                (self.items.len() - 1) as u32
            }
        }
    }

    // ---- gateways ------------------------------------------------------------------------------------------------

    /// Adds a gateway, which is being connected.
    pub(crate) fn add_gate(&mut self) -> GateId {
        self.gates.push(Gate::new());
        self.gates.len() - 1
    }

    /// A gateway that was lost is being connected again: another process in its place.
    pub(crate) fn reopen(&mut self, gate: GateId) {
        self.gates[gate].reopen();
    }

    /// Whether a gateway has answered.
    pub(crate) fn has_opened(&self, gate: GateId) -> bool {
        self.gates[gate].state == State::Live
    }

    /// Whether a gateway runs something.
    pub(crate) fn is_busy(&self, gate: GateId) -> bool {
        self.gates[gate].is_busy()
    }

    /// The gateway runs so many items at once, and has answered for the first time.
    pub(crate) fn opened(&mut self, gate: GateId, slots: u32, trip: Duration, now: Duration) {
        let gate = &mut self.gates[gate];
        if gate.state == State::Opening {
            gate.state = State::Live;
            gate.slots = slots.clamp(1, MOST_SLOTS);
            gate.pace.tripped(trip);
            gate.last_reply = now;
        }
        self.call_for_suspects();
    }

    /// The next item for a gateway, if it is to have one more: the number to call it by, and its arguments.
    pub(crate) fn next_call(&mut self, gate: GateId, now: Duration) -> Option<(u64, &Payload)> {
        if self.stopped || self.gates[gate].state != State::Live {
            return None;
        }
        if !self.has_room(gate, now) {
            return None;
        }
        let key =
            if self.gates[gate].examines { self.next_suspect(gate)? } else { self.ready.pop_front()? };
        let item = &mut self.items[key as usize];
        (item.asked, item.avoids) = (false, None);
        item.place = Place::At(gate, self.gates[gate].give(key, item.args.len(), now));
        Some((u64::from(key), &self.items[key as usize].args))
    }

    /// Whether there is something to give to a gateway now.
    pub(crate) fn has_call(&self, gate: GateId, now: Duration) -> bool {
        let place = &self.gates[gate];
        if self.stopped || place.state != State::Live {
            return false;
        }
        if place.examines && place.group.is_empty() && (place.out > 0 || self.suspects.is_empty()) {
            return false;
        }
        self.has_room(gate, now)
    }

    /// Whether a gateway is to have the first of those that are ready, or the next suspect.
    fn has_room(&self, gate: GateId, now: Duration) -> bool {
        let place = &self.gates[gate];
        let slots = place.slots_left();
        if place.examines {
            // All of a group together, but not at any price.
            return place.out < slots.max(1)
                || (place.bytes < GATE_BYTES && self.values_to_come() < self.rules.bytes as f64);
        }
        let Some(key) = self.ready.front() else { return false };
        if slots == 0 || (place.out >= slots && (place.out >= place.target(now) || place.bytes >= GATE_BYTES))
        {
            return false;
        }
        let item = &self.items[*key as usize];
        if item.avoids.is_some_and(|avoided| avoided as usize == gate)
            && place.out >= slots
            && self.gates.iter().any(|gate| gate.idle_slots() > 0)
        {
            return false;
        }
        self.is_awaited(*key) || self.values_to_come() < self.rules.bytes as f64
    }

    /// Whether all results wait for this item, which is never held up then. Results that are there wait for whoever takes them.
    fn is_awaited(&self, key: u32) -> bool {
        !self.outbox.is_ready() && self.outbox.waits_for(self.items[key as usize].index)
    }

    /// Bytes of values that are held, or that are likely to come.
    fn values_to_come(&self) -> f64 {
        let out: u32 = self.gates.iter().map(|gate| gate.out).sum();
        if out == 0 && self.outbox.held() == 0 {
            return 0.0;
        }
        self.outbox.bytes() as f64 + f64::from(out) * self.value_bytes
    }

    /// Takes a gateway's answer about an item.
    pub(crate) fn handle_answer(
        &mut self,
        gate: GateId,
        number: u64,
        answer: Answer,
        now: Duration,
    ) -> Result<(), Malformed> {
        let key = u32::try_from(number).map_err(|_| Malformed)?;
        let item = self.items.get_mut(key as usize).ok_or(Malformed)?;
        if self.stopped || self.hopeless.is_some() {
            // All have ended without their gateways, which know nothing of that.
            return Ok(());
        }
        let Place::At(holder, given) = item.place else { return Err(Malformed) };
        if holder != gate {
            return Err(Malformed);
        }
        let begun = !matches!(answer, Answer::Withdrawn);
        self.gates[gate].answered(given, item.args.len(), item.asked, begun, now);
        match answer {
            Answer::Value(value) => {
                self.gates[gate].done += 1;
                let known = if self.counts.done == 0 { value.len() as f64 } else { self.value_bytes };
                self.value_bytes = known + (value.len() as f64 - known) / 16.0;
                self.finish(key, Ok(value));
            }
            Answer::Withdrawn => self.make_ready(key),
            Answer::Fault(_) if !self.rules.at_most_once && item.tries < self.rules.retries => {
                item.tries += 1;
                self.counts.retried += 1;
                self.gates[gate].failed += 1;
                self.make_ready(key);
            }
            Answer::Fault(error) | Answer::Final(error) => {
                self.gates[gate].failed += 1;
                self.fail(key, error);
            }
            Answer::Stuck(error) => {
                // It still runs, so it cannot be tried again.
                self.gates[gate].failed += 1;
                self.gates[gate].stuck += 1;
                self.fail(key, error);
            }
        }
        if self.gates[gate].out == 0 {
            self.gates[gate].rest();
            self.call_for_suspects();
        }
        Ok(())
    }

    /// An item that was given out is ready again.
    fn make_ready(&mut self, key: u32) {
        self.set(key, Place::Ready);
        let index = self.items[key as usize].index;
        // Mostly it comes before all that were never given out.
        match self.ready.front() {
            Some(first) if self.items[*first as usize].index < index => {
                let at = self.ready.partition_point(|other| self.items[*other as usize].index < index);
                self.ready.insert(at, key);
            }
            _ => self.ready.push_front(key),
        }
    }

    /// How long the calls that were answered have run on average.
    pub(crate) fn pace(&mut self, gate: GateId, nanos: u64) {
        self.gates[gate].pace.ran(nanos);
    }

    /// A slot that was stuck is free again.
    pub(crate) fn freed(&mut self, gate: GateId) {
        self.gates[gate].stuck = self.gates[gate].stuck.saturating_sub(1);
    }

    /// Which item a gateway should be asked to give back: because values are longer than they were and nobody takes them, or for
    /// another gateway that is idle.
    pub(crate) fn poll_withdrawal(&mut self, now: Duration) -> Option<(GateId, u64)> {
        if self.outbox.bytes() >= self.rules.bytes && self.recalls.is_empty() {
            self.recall();
        }
        if let Some((gate, key)) = self.recalls.pop() {
            return Some((gate, u64::from(key)));
        }
        if !self.ready.is_empty() || self.stopped || now < self.next_look {
            return None;
        }
        self.forget_vain();
        let asked: u32 = self.gates.iter().map(|gate| gate.asked).sum();
        let idle = self.gates.iter().filter(|gate| gate.idle_slots() > 0);
        let room: u32 = idle.map(|gate| gate.target(now).saturating_sub(gate.out)).sum();
        if room > asked
            && let Some(victim) = self.longest_wait(now)
            // Half of what waits there: it may be done at any moment.
            && self.gates[victim].asked < self.gates[victim].waiting()
            && let Some(key) = self.last_unasked(victim)
        {
            let item = &mut self.items[key as usize];
            (item.asked, item.avoids) = (true, u32::try_from(victim).ok());
            self.gates[victim].asked += 1;
            return Some((victim, u64::from(key)));
        }
        self.next_look = now + LOOK;
        None
    }

    /// What has become one of those that run since it was asked back will not come back, and counts no more as if it would.
    fn forget_vain(&mut self) {
        for gate in self.gates.iter_mut().filter(|gate| gate.asked > 0) {
            let mut begun = 0;
            for key in gate.items().take(gate.slots_left() as usize) {
                begun += u32::from(std::mem::take(&mut self.items[key as usize].asked));
            }
            gate.asked -= begun;
        }
    }

    /// Asks back all that waits at gateways.
    fn recall(&mut self) {
        self.forget_vain();
        for gate in 0..self.gates.len() {
            let place = &self.gates[gate];
            if place.waiting() == 0 {
                continue;
            }
            let (items, outbox) = (&self.items, &self.outbox);
            let unbegun = place.items().rev().take((place.waiting() + place.asked) as usize);
            let unasked = unbegun.filter(|key| {
                let item = &items[*key as usize];
                !item.asked && !outbox.waits_for(item.index)
            });
            let before = self.recalls.len();
            self.recalls.extend(unasked.map(|key| (gate, key)));
            for (_, key) in &self.recalls[before..] {
                self.items[*key as usize].asked = true;
            }
            self.gates[gate].asked += (self.recalls.len() - before) as u32;
        }
        // The last of all is asked back first.
        self.recalls.sort_unstable_by_key(|(_, key)| self.items[*key as usize].index);
    }

    /// The gateway whose last item will have to wait longest, if that is longer than moving it would take.
    fn longest_wait(&self, now: Duration) -> Option<GateId> {
        let wait = |(_, gate): &(GateId, &Gate)| gate.wait(now);
        let (id, gate) = self.gates.iter().enumerate().max_by_key(wait)?;
        let move_takes = gate.pace.trip() * 2 + Duration::from_millis(1);
        (gate.wait(now) > move_takes).then_some(id)
    }

    /// What it was given last and was not asked for.
    fn last_unasked(&self, gate: GateId) -> Option<u32> {
        self.gates[gate].items().rev().find(|key| !self.items[*key as usize].asked)
    }

    pub(crate) fn gates(&self) -> impl Iterator<Item = &Gate> {
        self.gates.iter()
    }

    /// A gateway was lost: its items move on, once they cannot be running there any more.
    pub(crate) fn lost(&mut self, gate: GateId, loss: &Loss, now: Duration) {
        let place = &mut self.gates[gate];
        if place.state == State::Lost {
            return;
        }
        let (items, unsent) = place.lose();
        if !unsent.is_empty() {
            self.suspects.push_front(unsent);
        }
        if self.rules.at_most_once {
            for key in items {
                self.fail(key, ItemError::Lost(loss.end.clone()));
            }
        } else if !items.is_empty() {
            self.counts.moved += items.len() as u64;
            for &key in &items {
                self.set(key, Place::Limbo);
            }
            self.limbo.push(Limbo { until: now + loss.settle, items, suspicious: loss.suspicious });
        }
        self.handle_timeout(now);
        self.call_for_suspects();
    }

    /// No gateway is left and none will come: what is unfinished, and all inputs to come, are lost.
    pub(crate) fn give_up_hope(&mut self, end: Option<Arc<GatewayEnd>>) {
        if self.hopeless.is_none() {
            self.hopeless = Some(end.clone());
            self.end_all(|| ItemError::Lost(end.clone()));
        }
    }

    /// Whether a gateway is there or being connected.
    pub(crate) fn has_gates(&self) -> bool {
        self.gates.iter().any(|gate| gate.state != State::Lost)
    }

    // ---- suspects ------------------------------------------------------------------------------------------------

    /// Items that were at a gateway when it died: one of them may be the reason. They are run by themselves, in ever smaller
    /// groups, until those that end are cleared and one is left.
    fn suspect(&mut self, mut items: Vec<u32>) {
        for &key in &items {
            self.items[key as usize].deaths += 1;
        }
        if let [key] = items[..] {
            let deaths = self.items[key as usize].deaths;
            if deaths >= self.rules.max_deaths.max(1) {
                return self.fail(key, ItemError::Poisonous { deaths });
            }
        }
        for &key in &items {
            self.set(key, Place::Suspect);
        }
        let size = items.len().div_ceil(PARTS).max(1);
        while !items.is_empty() {
            let rest = items.split_off(items.len().min(size));
            self.suspects.push_back(std::mem::replace(&mut items, rest));
        }
    }

    /// Has gateways examine the suspects: a quarter of them, since the others' work goes on.
    fn call_for_suspects(&mut self) {
        let live = self.gates.iter().filter(|gate| gate.state == State::Live).count();
        let examining = self.gates.iter().filter(|gate| gate.examines).count();
        let wanted = self.suspects.len().min((live / 4).max(1));
        for _ in examining..wanted {
            let able =
                |gate: &&mut Gate| gate.state == State::Live && !gate.examines && gate.slots_left() > 0;
            let Some(gate) = self.gates.iter_mut().filter(able).min_by_key(|gate| gate.out) else { return };
            // It finishes first what it has.
            gate.examines = true;
        }
        if self.suspects.is_empty() {
            for gate in &mut self.gates {
                gate.examines &= gate.out > 0 || !gate.group.is_empty();
            }
        }
    }

    /// The next item of the group that the gateway examines; of another group only when it has nothing else.
    fn next_suspect(&mut self, gate: GateId) -> Option<u32> {
        let place = &mut self.gates[gate];
        if place.group.is_empty() {
            if place.out > 0 {
                return None;
            }
            place.group = self.suspects.pop_front()?.into();
        }
        place.group.pop_front()
    }

    // ---- time ----------------------------------------------------------------------------------------------------

    /// When [`handle_timeout`](Self::handle_timeout) has something to do.
    pub(crate) fn poll_timeout(&self) -> Option<Duration> {
        let settled = self.limbo.iter().map(|limbo| limbo.until).min();
        // Somebody is idle, and somebody has more than it can do at once.
        let uneven = !self.stopped
            && self.ready.is_empty()
            && self.gates.iter().any(|gate| gate.idle_slots() > 0)
            && self.gates.iter().any(Gate::has_spare);
        settled.into_iter().chain(uneven.then_some(self.next_look)).min()
    }

    pub(crate) fn handle_timeout(&mut self, now: Duration) {
        let limbo = std::mem::take(&mut self.limbo);
        for limbo in limbo {
            if self.stopped {
                // One of those before stopped the map, and so these have ended too.
                return;
            }
            if limbo.until > now {
                self.limbo.push(limbo);
            } else if limbo.suspicious {
                self.suspect(limbo.items);
                self.call_for_suspects();
            } else {
                for key in limbo.items.into_iter().rev() {
                    self.make_ready(key);
                }
            }
        }
    }

    // ---- results -------------------------------------------------------------------------------------------------

    /// An item has failed for good, unless it has ended: with all others, by the failure of one of them.
    fn fail(&mut self, key: u32, error: ItemError) {
        if self.items[key as usize].place == Place::Free {
            return;
        }
        let stops = match self.rules.on_error {
            OnError::GoOn => false,
            OnError::Stop => true,
            OnError::Collect { most } => self.outbox.collected() >= most,
        };
        let already = self.stopped || matches!(error, ItemError::Stopped);
        self.finish(key, Err(error));
        if stops && !already {
            self.stop();
        }
    }

    fn finish(&mut self, key: u32, ended: Ended) {
        let item = &mut self.items[key as usize];
        let (index, args) = (item.index, std::mem::replace(&mut item.args, Payload::new(&[])));
        item.place = Place::Free;
        self.free.push(key);
        self.unfinished -= 1;
        self.arg_bytes -= args.len();
        match &ended {
            Ok(_) => self.counts.done += 1,
            Err(_) => self.counts.failed += 1,
        }
        self.outbox.push(index, ended);
        self.check_end();
    }

    fn check_end(&mut self) {
        if self.is_done() {
            self.outbox.end();
        }
    }

    /// Stops: no more inputs, no more calls; what is unfinished ends.
    fn stop(&mut self) {
        self.stopped = true;
        self.end_all(|| ItemError::Stopped);
        self.end_inputs();
    }

    fn end_all(&mut self, error: impl Fn() -> ItemError) {
        self.ready.clear();
        self.suspects.clear();
        self.limbo.clear();
        self.recalls.clear();
        for gate in &mut self.gates {
            gate.forget();
        }
        let mut keys: Vec<u32> = (0..self.items.len() as u32)
            .filter(|key| self.items[*key as usize].place != Place::Free)
            .collect();
        keys.sort_by_key(|key| self.items[*key as usize].index);
        for key in keys {
            self.finish(key, Err(error()));
        }
    }

    pub(crate) fn has_results(&self) -> bool {
        self.outbox.is_ready()
    }

    /// Hands out results, if there are some: `results`, which is empty, gets them. What was handed out before counts no more.
    pub(crate) fn take_results(&mut self, results: &mut VecDeque<(u64, Ended)>) {
        self.outbox.take(results);
    }

    /// Whether the inputs have ended and every one has its result, though it may not be handed out.
    pub(crate) fn is_done(&self) -> bool {
        self.inputs_ended && self.unfinished == 0
    }

    pub(crate) fn is_stopped(&self) -> bool {
        self.stopped
    }

    pub(crate) fn counts(&self) -> Counts {
        self.counts
    }

    /// How many items are waiting here, and how many results.
    pub(crate) fn waiting(&self) -> (usize, usize) {
        let out: u32 = self.gates.iter().map(|gate| gate.out).sum();
        (self.unfinished.saturating_sub(out as usize), self.outbox.held())
    }

    fn set(&mut self, key: u32, place: Place) {
        self.items[key as usize].place = place;
    }
}

#[cfg(test)]
#[path = "schedule_tests.rs"]
mod tests;
