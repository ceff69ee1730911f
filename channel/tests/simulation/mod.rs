//! Two peers in virtual time, driven by operations that are decoded from bytes, beside a model of what must come out.
//!
//! The same interpreter serves the property tests, which feed it random bytes, and the fuzz target. Whoever waits is polled
//! again only after the event that the protocol promises, so an event that is missing shows as a wait without end.

mod channels;
mod flow;
mod script;
mod users;
mod world;

use std::time::Duration;

use script::Script;
use users::Received;
use world::{End, Task, World};

/// Does what `bytes` say, then lets everything finish; panics if anything is not as it must be.
pub fn run(bytes: &[u8]) {
    let mut script = Script::new(bytes);
    let mut world = World::new(&mut script);
    let sudden = script.one_in(5);
    while !script.is_over() {
        step(&mut world, &mut script, sudden);
    }
    world.everything_moves(&mut script);
    world.everybody_leaves(&mut script);
    world.everything_is_free(&mut script);
}

fn error(script: &mut Script<'_>) -> Option<Vec<u8>> {
    let len = script.up_to(40);
    script.one_in(2).then(|| vec![b'e'; len])
}

fn sends(end: &End) -> bool {
    end.out.is_some() && !end.leaving
}

fn receives(end: &End) -> bool {
    end.into.is_some() && !end.leaving
}

/// An end that may leave: nobody is using it.
fn rests(end: &End) -> bool {
    let out = end.out.as_ref().is_none_or(|out| out.waiting.is_empty() && out.ending == Task::Idle);
    let into =
        end.into.as_ref().is_none_or(|into| into.task == Task::Idle && into.number == 0 && !into.ended);
    !end.leaving && out && into
}

/// One operation.
fn step(world: &mut World, script: &mut Script<'_>, sudden: bool) {
    let side = script.up_to(1);
    match script.up_to(31) {
        0..=3 => {
            let limit = 1 + script.up_to(4000);
            world.transmit(side, limit);
        }
        4..=6 => {
            let (count, vectored) = (script.up_to(4000), script.one_in(3));
            world.write(side, count, vectored);
        }
        7..=9 => {
            let count = if script.one_in(2) { script.up_to(64) } else { script.up_to(8000) };
            world.deliver(side, count);
        }
        10..=13 => send(world, script, side),
        14..=15 => world.poll_one_send(script, side),
        16..=19 => world.receive_some(script, side),
        20 => world.wake_one_receiver(script, side),
        21 => {
            let (sends, receives) =
                *[(true, true), (true, false), (false, true)].get(script.up_to(2)).unwrap();
            if world.sides[side].ready && world.sides[side].opener != Task::Waiting {
                world.open(side, sends, receives);
            }
        }
        22 => {
            let refused = if script.one_in(6) { error(script) } else { None };
            if world.sides[side].acceptor != Task::Waiting {
                world.accept(side, refused);
            }
        }
        23 if world.sides[side].ready && world.flows.len() < 24 => {
            let (forward, backward) = *[(true, true), (true, false)].get(script.up_to(1)).unwrap();
            world.pair(side, forward, backward);
        }
        24 => {
            let Some(end) = script.pick(&world.sides[side].ends_that(sends)) else { return };
            match script.up_to(3) {
                0 => {
                    let error = error(script);
                    world.close(side, end, error);
                }
                1 => world.release_sender(side, end),
                _ => drop(world.poll_ending(side, end)),
            }
        }
        25 => {
            let Some(end) = script.pick(&world.sides[side].ends_that(receives)) else { return };
            match script.up_to(3) {
                0 => {
                    let error = error(script);
                    world.stop(side, end, error);
                }
                1 => world.release_receiver(side, end),
                _ => world.unwait(side, end),
            }
        }
        26 => {
            let waiting = world.sides[side]
                .ends_that(|end| end.out.as_ref().is_some_and(|out| !out.waiting.is_empty()) && !end.leaving);
            let Some(end) = script.pick(&waiting) else { return };
            let out = world.sides[side].end(end).out.as_mut().unwrap();
            let waiting = out.waiting.remove(script.up_to(out.waiting.len() - 1));
            world.give_up(side, end, waiting);
        }
        27 => {
            let Some(end) = script.pick(&world.sides[side].ends_that(receives)) else { return };
            world.report(side, end);
        }
        28 => world.advance(Duration::from_micros(script.up_to(60_000) as u64)),
        29 => {
            world.mux(side).ping();
        }
        30 if sudden && script.one_in(12) => match script.up_to(3) {
            0 => world.drain(side),
            1 => {
                world.killed = true;
                world.mux(side).abort("enough");
                world.settle(side);
            }
            2 => {
                let left = [script.up_to(300), script.up_to(300)];
                world.cut(left);
            }
            _ => {
                world.killed = true;
                world.advance(Duration::from_secs(30));
            }
        },
        _ => {
            world.exchange(script);
        }
    }
}

fn send(world: &mut World, script: &mut Script<'_>, side: usize) {
    let Some(end) = script.pick(&world.sides[side].ends_that(sends)) else { return };
    let there = &world.sides[1 - side].config;
    let window = there.initial_window as usize;
    let longest = there.max_message as usize;
    let len = match script.up_to(15) {
        0..=5 => script.up_to(30),
        6..=9 => script.up_to(window),
        10..=12 => script.up_to(3 * window),
        13 => window.saturating_sub(12) + script.up_to(2),
        14 => script.up_to(longest),
        _ => longest + script.up_to(1),
    };
    let mut ends = Vec::new();
    let key = world.sides[side].end(end).key;
    if script.one_in(4) && world.sides[side].mux.id(key) != 0 {
        let resting = world.sides[side].ends_that(rests);
        for _ in 0..=script.up_to(1) {
            ends.extend(script.pick(&resting).filter(|other| *other != end && !ends.contains(other)));
        }
        let here = &mut world.sides[side];
        ends.retain(|&end| {
            let (key, sends, receives) = {
                let end = here.end(end);
                (end.key, end.out.is_some(), end.into.is_some())
            };
            here.mux.may_travel(key, sends, receives)
        });
    }
    let crowded = world.sides[side].end(end).out.as_ref().is_some_and(|out| out.waiting.len() > 2);
    let patient = !crowded && !script.one_in(5);
    world.send(side, end, len, ends, patient);
}

impl World {
    fn poll_one_send(&mut self, script: &mut Script<'_>, side: usize) {
        let woken = self.woken_sends(side);
        if let Some((end, place)) = script.pick(&woken) {
            self.poll_send(side, end, place);
        }
    }

    fn woken_sends(&self, side: usize) -> Vec<(usize, usize)> {
        let mut woken = Vec::new();
        for (number, end) in self.sides[side].ends.iter().enumerate() {
            let waiting = end.iter().flat_map(|end| &end.out).flat_map(|out| &out.waiting).enumerate();
            woken
                .extend(waiting.filter(|(_, one)| one.task == Task::Woken).map(|(place, _)| (number, place)));
        }
        woken
    }

    fn receive_some(&mut self, script: &mut Script<'_>, side: usize) {
        let idle = self.sides[side]
            .ends_that(|end| receives(end) && end.into.as_ref().is_some_and(|into| into.task == Task::Idle));
        let Some(end) = script.pick(&idle) else { return };
        let patient = !script.one_in(4);
        for _ in 0..=script.up_to(8) {
            if self.receive(side, end, patient) != Received::Message {
                break;
            }
        }
    }

    fn wake_one_receiver(&mut self, script: &mut Script<'_>, side: usize) {
        let woken = self.sides[side]
            .ends_that(|end| end.into.as_ref().is_some_and(|into| into.task == Task::Woken) && !end.leaving);
        if let Some(end) = script.pick(&woken) {
            self.receive(side, end, true);
        }
    }

    /// Polls everybody who was woken, until nobody is. `receivers`: everybody who can receive does.
    fn run(&mut self, script: &mut Script<'_>) {
        loop {
            let mut moved = self.exchange(script);
            for side in 0..2 {
                while let Some((end, place)) = script.pick(&self.woken_sends(side)) {
                    moved |= self.poll_send(side, end, place);
                }
                for end in self.sides[side].ends_that(receives) {
                    let into = self.sides[side].end(end).into.as_ref().unwrap();
                    if into.task.is_waiting() || into.ended || into.lost {
                        continue;
                    }
                    while self.receive(side, end, true) == Received::Message {}
                    moved = true;
                }
                for end in self.sides[side].ends_that(sends) {
                    if self.sides[side].end(end).out.as_ref().unwrap().ending == Task::Woken {
                        moved |= self.poll_ending(side, end);
                    }
                }
                if self.sides[side].opener == Task::Woken {
                    moved |= self.open(side, true, true);
                }
                while !self.sides[side].acceptor.is_waiting() && self.accept(side, None) {
                    moved = true;
                }
            }
            moved |= (0..2).any(|side| !self.woken_sends(side).is_empty());
            if !moved {
                return;
            }
        }
    }

    /// As long as everybody receives, nobody who sends waits for ever.
    fn everything_moves(&mut self, script: &mut Script<'_>) {
        self.run(script);
        // Sends of ends may wait for channels that others hold; those behind them wait with them.
        for side in 0..2 {
            for end in self.sides[side].ends_that(sends) {
                loop {
                    let out = self.sides[side].end(end).out.as_mut().unwrap();
                    let Some(place) = out.waiting.iter().position(|waiting| !waiting.ends.is_empty()) else {
                        break;
                    };
                    let waiting = out.waiting.remove(place);
                    self.give_up(side, end, waiting);
                }
            }
        }
        self.run(script);
        for side in 0..2 {
            for end in self.sides[side].ends_that(sends) {
                let (local, flow, waiting) = {
                    let end = self.sides[side].end(end);
                    let out = end.out.as_ref().unwrap();
                    (end.key, out.flow, out.waiting.len())
                };
                let id = self.sides[side].mux.id(local);
                let flow = &self.flows[flow];
                assert!(
                    waiting == 0,
                    "{waiting} sends wait for ever on channel {id} of side {side}: {flow:?}"
                );
            }
            for end in self.sides[side].ends_that(receives) {
                let into = self.sides[side].end(end).into.as_ref().unwrap();
                let flow = &self.flows[into.flow];
                let lost = into.lost || flow.stopped.is_some() || flow.crossed;
                assert!(lost || flow.expected.is_empty(), "messages that never come: {flow:?}");
                assert!(lost || flow.ended || flow.closed.is_none(), "an end that never comes: {flow:?}");
            }
            if !self.sides.iter().any(|side| side.is_lost()) {
                for &mark in &self.sides[side].opened {
                    self.assert_given_up(mark);
                }
            }
        }
    }

    /// Everybody closes or drops what he has, in any order.
    fn everybody_leaves(&mut self, script: &mut Script<'_>) {
        loop {
            let side = script.up_to(1);
            let ends = self.sides[side].ends_that(|_| true);
            let Some(end) = script.pick(&ends) else {
                if self.sides.iter().all(|side| side.ends.iter().all(Option::is_none)) {
                    break;
                }
                continue;
            };
            if script.one_in(2) && sends(self.sides[side].end(end)) {
                let error = error(script);
                self.close(side, end, error);
                self.poll_ending(side, end);
                self.run(script);
                let ending = self.sides[side].end(end).out.as_ref().unwrap().ending;
                assert_eq!(ending, Task::Idle, "a receipt that never comes");
            }
            if self.sides[side].end(end).into.is_some() {
                self.release_receiver(side, end);
            }
            if self.sides[side].ends[end].is_some() {
                self.release_sender(side, end);
            }
            if script.one_in(4) {
                self.run(script);
            }
        }
        self.exchange(script);
    }

    /// Nothing is left, and as much fits in as ever.
    fn everything_is_free(&mut self, script: &mut Script<'_>) {
        for _ in 0..3 {
            self.run(script);
            for side in 0..2 {
                for end in self.sides[side].ends_that(|_| true) {
                    if self.sides[side].end(end).into.is_some() {
                        self.release_receiver(side, end);
                    }
                    if self.sides[side].ends[end].is_some() {
                        self.release_sender(side, end);
                    }
                }
            }
        }
        self.exchange(script);
        self.check_empty();
        if self.sides.iter().any(|side| side.is_lost() || side.draining) {
            self.run(script);
            assert!(self.sides.iter().all(|side| side.is_lost()), "both sides see the end");
            return;
        }
        for side in 0..2 {
            assert!(!self.sides[side].opener.is_waiting(), "nobody told that channels can be opened");
            let capacity = self.sides[1 - side].config.max_channels;
            for _ in 0..capacity {
                assert!(self.open(side, true, false), "all {capacity} channels can be opened again");
            }
            let longest = self.sides[1 - side].config.max_message as usize;
            for end in self.sides[side].ends_that(sends) {
                self.send(side, end, longest, Vec::new(), true);
            }
        }
        self.everything_moves(script);
        self.drain(0);
        self.everybody_leaves(script);
        self.run(script);
        self.check_empty();
        assert!(self.sides.iter().all(|side| side.is_lost()), "both sides see the end");
    }
}
