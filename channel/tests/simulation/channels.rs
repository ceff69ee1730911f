//! How channels come to be: opened and accepted, or made as pairs whose ends travel.

use bytes::Bytes;
use farcall_channel::mux::OpenFault;

use super::flow::Mark;
use super::world::{Task, World};

impl World {
    /// Opens a channel, or waits until one can be opened; returns whether there is one more.
    pub fn open(&mut self, side: usize, sends: bool, receives: bool) -> bool {
        let marks = Mark {
            out: sends.then_some(self.flows.len()),
            into: receives.then_some(self.flows.len() + usize::from(sends)),
        };
        let request = Bytes::from(format!("{marks:?}"));
        let here = &mut self.sides[side];
        here.opener = Task::Idle;
        match here.mux.open(sends, receives, request) {
            Ok(key) => {
                self.say(side, |_| format!("open {key:?}: {marks:?}"));
                for _ in 0..usize::from(sends) + usize::from(receives) {
                    self.flow();
                }
                let here = &mut self.sides[side];
                here.add(key, marks);
                here.opened.push_back(Mark { out: marks.into, into: marks.out });
                if self.sides[1 - side].draining {
                    self.refuse_opened(side);
                }
                self.settle(side);
                true
            }
            Err(OpenFault::Full) => {
                here.opener = Task::Waiting;
                false
            }
            Err(OpenFault::Draining) => {
                assert!(self.sides.iter().any(|side| side.draining));
                false
            }
            Err(OpenFault::Lost(_)) => {
                assert!(here.is_lost());
                false
            }
        }
    }

    /// Takes or refuses a channel that the other side opened, or waits for one; returns whether there was one.
    pub fn accept(&mut self, side: usize, refuse: Option<Vec<u8>>) -> bool {
        let here = &mut self.sides[side];
        let Some((key, request, sends, receives)) = here.mux.accept() else {
            here.acceptor = Task::Waiting;
            return false;
        };
        here.acceptor = Task::Idle;
        self.say(side, |_| format!("accept {key:?}: {request:?}, refused with {refuse:?}"));
        let mark = loop {
            let mark = self.sides[1 - side].opened.pop_front().expect("it was opened");
            let theirs = Mark { out: mark.into, into: mark.out };
            if request == format!("{theirs:?}") {
                break mark;
            }
            self.assert_given_up(mark);
        };
        assert_eq!((sends, receives), (mark.out.is_some(), mark.into.is_some()));
        match refuse {
            Some(error) => {
                self.mux(side).refuse(key, &error);
                self.abandon(mark, Some(error));
            }
            None => {
                self.sides[side].add(key, mark);
            }
        }
        self.settle(side);
        true
    }

    /// Only a channel that its opener gave up again is not accepted.
    pub fn assert_given_up(&self, mark: Mark) {
        let stopped = mark.out.is_none_or(|flow| self.flows[flow].stopped.is_some());
        assert!(mark.into.is_none() && stopped, "a channel that did not come");
    }

    /// What this side opened and the other did not accept is refused by a side that closes the connection.
    fn refuse_opened(&mut self, side: usize) {
        for mark in std::mem::take(&mut self.sides[side].opened) {
            self.abandon(mark, Some(b"the connection is being closed".to_vec()));
        }
    }

    pub fn pair(&mut self, side: usize, forward: bool, backward: bool) {
        let there = forward.then(|| self.flow());
        let back = backward.then(|| self.flow());
        let here = &mut self.sides[side];
        let (near, far) = here.mux.pair(forward, backward);
        self.say(side, |_| format!("pair {near:?} {far:?}, flows {there:?} {back:?}"));
        let here = &mut self.sides[side];
        here.local += 4 * u64::from(here.config.initial_window);
        here.add(near, Mark { out: there, into: back });
        here.add(far, Mark { out: back, into: there });
        self.settle(side);
    }

    pub fn drain(&mut self, side: usize) {
        if self.sides[side].is_lost() {
            return;
        }
        self.say(side, |_| "drain".into());
        self.sides[side].draining = true;
        self.refuse_opened(1 - side);
        self.mux(side).drain();
        self.settle(side);
    }
}
