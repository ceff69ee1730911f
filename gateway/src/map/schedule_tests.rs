//! The scheduler in a world of its own: gateways that work, die and are replaced at random, in virtual time.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Duration;

use proptest::prelude::*;

use super::*;

const SETTLE: Duration = Duration::from_secs(22);
const TRIP: Duration = Duration::from_micros(100);

/// A gateway of the world: what it holds, in order; the first `slots` of it are running.
struct Far {
    id: GateId,
    slots: usize,
    /// Slots that are taken by what was given up.
    stuck: usize,
    queue: VecDeque<(u64, u64)>,
    dead: bool,
}

impl Far {
    fn running(&self) -> usize {
        self.queue.len().min(self.slots - self.stuck)
    }
}

struct World {
    scheduler: Scheduler,
    now: Duration,
    fars: Vec<Far>,
    inputs: u64,
    pushed: u64,
    poison: BTreeSet<u64>,
    failing: BTreeSet<u64>,
    results: BTreeMap<u64, Ended>,
    order: Vec<u64>,
    /// Until when items of dead gateways may be running.
    ghosts: Vec<(Duration, BTreeSet<u64>)>,
    given: BTreeMap<u64, u32>,
    /// Items that nothing could stop.
    stuck: BTreeSet<u64>,
    deaths: u32,
    hopeless: bool,
    rules: Rules,
}

#[derive(Clone, Debug)]
enum Op {
    /// So many inputs, if they are wanted.
    Feed(u8),
    /// A gateway takes what it is to have.
    Fill(u8),
    /// A gateway finishes one of what it runs.
    Finish(u8, u8),
    /// A gateway dies: by itself, or because the network is cut; perhaps there is another process in its place at once.
    Die(u8, bool, bool),
    Open(u8),
    /// One of the running items is given up and goes on.
    Stick(u8, u8),
    /// What was stuck ends.
    Free(u8),
    /// No gateway is left, and none will come.
    GiveUp,
    Pass(u16),
    Take,
    /// What was asked back is given back, if it was not begun.
    Withdraw,
}

fn op() -> impl Strategy<Value = Op> {
    prop_oneof![
        4 => (1u8..40).prop_map(Op::Feed),
        6 => any::<u8>().prop_map(Op::Fill),
        12 => (any::<u8>(), any::<u8>()).prop_map(|(gate, which)| Op::Finish(gate, which)),
        1 => any::<(u8, bool, bool)>().prop_map(|(gate, cut, again)| Op::Die(gate, cut, again)),
        1 => any::<(u8, u8)>().prop_map(|(gate, which)| Op::Stick(gate, which)),
        1 => any::<u8>().prop_map(Op::Free),
        1 => Just(Op::GiveUp),
        1 => (1u8..5).prop_map(Op::Open),
        3 => (1u16..3000).prop_map(Op::Pass),
        3 => Just(Op::Take),
        3 => Just(Op::Withdraw),
    ]
}

impl World {
    fn new(rules: Rules, inputs: u64, poison: BTreeSet<u64>, failing: BTreeSet<u64>) -> World {
        World {
            scheduler: Scheduler::new(rules),
            now: Duration::ZERO,
            fars: Vec::new(),
            inputs,
            pushed: 0,
            poison,
            failing,
            results: BTreeMap::new(),
            order: Vec::new(),
            ghosts: Vec::new(),
            given: BTreeMap::new(),
            stuck: BTreeSet::new(),
            deaths: 0,
            hopeless: false,
            rules,
        }
    }

    fn open(&mut self, slots: usize) {
        let id = self.scheduler.add_gate();
        self.answers(id, slots);
    }

    fn answers(&mut self, id: GateId, slots: usize) {
        self.scheduler.opened(id, slots as u32, TRIP, self.now);
        self.fars.push(Far { id, slots, stuck: 0, queue: VecDeque::new(), dead: false });
    }

    fn live(&self, number: u8) -> Option<usize> {
        let live: Vec<usize> = (0..self.fars.len()).filter(|far| !self.fars[*far].dead).collect();
        (!live.is_empty()).then(|| live[usize::from(number) % live.len()])
    }

    fn feed(&mut self, most: usize) {
        for _ in 0..self.scheduler.wanted(self.now).min(most) {
            if self.pushed == self.inputs {
                self.scheduler.end_inputs();
                return;
            }
            self.scheduler.push(Payload::new(&self.pushed.to_le_bytes()));
            self.pushed += 1;
        }
    }

    fn fill(&mut self, far: usize) {
        let id = self.fars[far].id;
        while let Some((number, args)) = self.scheduler.next_call(id, self.now) {
            let index = u64::from_le_bytes(args.as_slice().try_into().unwrap());
            let here = self.fars.iter().flat_map(|far| &far.queue).any(|(_, other)| *other == index);
            assert!(!here, "{index} is at two gateways");
            let haunted =
                self.ghosts.iter().any(|(until, items)| *until > self.now && items.contains(&index));
            assert!(!haunted, "{index} may still run where it was");
            assert!(!self.results.contains_key(&index), "{index} has ended");
            self.fars[far].queue.push_back((number, index));
            *self.given.entry(index).or_default() += 1;
            if self.rules.at_most_once {
                assert_eq!(self.given[&index], 1, "{index} is given out again");
            }
        }
        let far = &self.fars[far];
        assert!(far.queue.len() <= 8192 + far.slots, "a gateway holds {}", far.queue.len());
    }

    /// One of the running items ends, or ends its worker.
    fn finish(&mut self, far: usize, which: u8) {
        let running = self.fars[far].running();
        if running == 0 {
            return;
        }
        let at = usize::from(which) % running;
        let (number, index) = self.fars[far].queue[at];
        if self.poison.contains(&index) {
            return self.die(far, false);
        }
        self.fars[far].queue.remove(at);
        let id = self.fars[far].id;
        self.scheduler.pace(id, 1000 + u64::from(which) * 10_000);
        let answer = if self.failing.contains(&index) {
            Answer::Fault(ItemError::TimedOut { running: false })
        } else {
            Answer::Value(Payload::new(&index.to_le_bytes()))
        };
        self.scheduler.handle_answer(id, number, answer, self.now).unwrap();
    }

    fn stick(&mut self, far: usize, which: u8) {
        let place = &mut self.fars[far];
        if place.running() == 0 {
            return;
        }
        let (number, index) = place.queue.remove(usize::from(which) % place.running()).unwrap();
        place.stuck += 1;
        self.stuck.insert(index);
        let answer = Answer::Stuck(ItemError::TimedOut { running: true });
        self.scheduler.handle_answer(place.id, number, answer, self.now).unwrap();
    }

    fn free(&mut self, far: usize) {
        if self.fars[far].stuck > 0 {
            self.fars[far].stuck -= 1;
            self.scheduler.freed(self.fars[far].id);
        }
    }

    fn die(&mut self, far: usize, cut: bool) {
        let settle = if cut { SETTLE } else { Duration::ZERO };
        self.fars[far].dead = true;
        self.deaths += 1;
        let items: BTreeSet<u64> = self.fars[far].queue.drain(..).map(|(_, index)| index).collect();
        if cut {
            self.ghosts.push((self.now + settle, items));
        }
        let loss = Loss { settle, suspicious: !cut, end: None };
        self.scheduler.lost(self.fars[far].id, &loss, self.now);
    }

    fn withdraw(&mut self) {
        while let Some((gate, number)) = self.scheduler.poll_withdrawal(self.now) {
            let far = self.fars.iter_mut().find(|far| far.id == gate && !far.dead).unwrap();
            let at = far.queue.iter().position(|(other, _)| *other == number).unwrap();
            assert!(at >= far.slots - far.stuck, "an item is asked back that is running");
            let index = far.queue.remove(at).unwrap().1;
            // It did not run, so it may be given out again.
            *self.given.get_mut(&index).unwrap() -= 1;
            self.scheduler.handle_answer(gate, number, Answer::Withdrawn, self.now).unwrap();
        }
    }

    fn take(&mut self) {
        let mut results = VecDeque::new();
        self.scheduler.take_results(&mut results);
        for (index, ended) in results {
            if let Ok(value) = &ended {
                assert_eq!(value.as_slice(), index.to_le_bytes(), "the value of another");
            }
            assert!(self.results.insert(index, ended).is_none(), "{index} has two results");
            self.order.push(index);
        }
    }

    fn pass(&mut self, time: Duration) {
        self.now += time;
        self.scheduler.handle_timeout(self.now);
    }

    fn apply(&mut self, op: &Op) {
        match *op {
            Op::Feed(count) => self.feed(count.into()),
            Op::Fill(gate) => self.live(gate).into_iter().for_each(|far| self.fill(far)),
            Op::Finish(gate, which) => self.live(gate).into_iter().for_each(|far| self.finish(far, which)),
            Op::Die(gate, cut, again) => {
                if let Some(far) = self.live(gate) {
                    self.die(far, cut);
                    if again {
                        self.scheduler.reopen(self.fars[far].id);
                        self.answers(self.fars[far].id, self.fars[far].slots);
                    }
                }
            }
            Op::Stick(gate, which) => self.live(gate).into_iter().for_each(|far| self.stick(far, which)),
            Op::Free(gate) => self.live(gate).into_iter().for_each(|far| self.free(far)),
            Op::GiveUp if self.live(0).is_none() => {
                self.hopeless = true;
                self.scheduler.give_up_hope(None);
            }
            Op::GiveUp => {}
            Op::Open(slots) if self.fars.iter().filter(|far| !far.dead).count() < 6 => {
                self.open(slots.into())
            }
            Op::Open(_) => {}
            Op::Pass(millis) => self.pass(Duration::from_millis(millis.into())),
            Op::Take => self.take(),
            Op::Withdraw => self.withdraw(),
        }
        self.check();
    }

    fn check(&self) {
        let held = self.scheduler.unfinished + self.scheduler.outbox.held();
        // Errors that were collected all come at the end.
        let collected = matches!(self.rules.on_error, OnError::Collect { .. }) && self.scheduler.is_done();
        assert!(held <= self.rules.window || collected, "{held} items are held");
        assert!(self.scheduler.items.len() <= self.rules.window, "places of items are reused");
    }

    /// Everything goes well from now on: the map must end.
    fn run_out(&mut self) {
        for round in 0..200_000 {
            if self.scheduler.is_done() && !self.scheduler.has_results() {
                return;
            }
            if self.live(0).is_none() {
                self.open(1 + round % 3);
            }
            self.feed(usize::MAX);
            for far in 0..self.fars.len() {
                if !self.fars[far].dead {
                    self.free(far);
                    self.fill(far);
                }
            }
            for far in 0..self.fars.len() {
                if !self.fars[far].dead {
                    self.finish(far, round as u8);
                }
            }
            self.take();
            self.withdraw();
            self.check();
            self.pass(Duration::from_millis(10));
        }
        panic!("the map does not end: {:#?}", self.scheduler);
    }
}

fn rules() -> impl Strategy<Value = Rules> {
    let on_error = prop_oneof![
        3 => Just(OnError::GoOn),
        1 => Just(OnError::Stop),
        1 => (0usize..5).prop_map(|most| OnError::Collect { most }),
    ];
    let bytes = prop_oneof![1 => 1usize..200, 1 => Just(64 << 20)];
    (any::<bool>(), 1usize..400, bytes, 0u32..3, 1u32..4, any::<bool>(), on_error).prop_map(
        |(ordered, window, bytes, retries, max_deaths, at_most_once, on_error)| Rules {
            ordered,
            window,
            bytes,
            retries,
            max_deaths,
            at_most_once,
            on_error,
        },
    )
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 128, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn every_item_has_one_result_whatever_happens(
        rules in rules(),
        inputs in 0u64..600,
        poison in prop::collection::btree_set(0u64..600, 0..4),
        failing in prop::collection::btree_set(0u64..600, 0..10),
        ops in prop::collection::vec(op(), 0..600),
    ) {
        let mut world = World::new(rules, inputs, poison, failing);
        world.open(2);
        world.open(3);
        for op in &ops {
            world.apply(op);
        }
        world.run_out();
        let stopped = world.scheduler.is_stopped();
        prop_assert_eq!(world.results.len() as u64, world.pushed);
        prop_assert!(world.pushed == inputs || stopped);
        prop_assert!(!stopped || rules.on_error != OnError::GoOn);
        if rules.ordered {
            let collects = matches!(rules.on_error, OnError::Collect { .. });
            let place = |index: &u64| (collects && world.results[index].is_err(), *index);
            prop_assert!(world.order.iter().map(place).is_sorted());
        }
        let counts = world.scheduler.counts();
        prop_assert_eq!(counts.done + counts.failed, counts.taken);
        let failed = |error: &Ended| !matches!(error, Ok(_) | Err(ItemError::Stopped));
        let failed = world.results.values().filter(|ended| failed(ended)).count();
        match rules.on_error {
            OnError::GoOn => {}
            // Without hope all are lost, at once.
            OnError::Stop => prop_assert!(failed == usize::from(stopped) || world.hopeless),
            OnError::Collect { most } => {
                prop_assert!(stopped == (failed > most) || world.hopeless);
                prop_assert!(failed <= most + 1 || world.hopeless);
            }
        }
        for (index, ended) in &world.results {
            match ended {
                Ok(_) => prop_assert!(!world.poison.contains(index) && !world.failing.contains(index)),
                Err(ItemError::Poisonous { deaths }) => {
                    // An innocent one is only suspected as often as gateways died by themselves.
                    prop_assert!(*deaths >= rules.max_deaths && *deaths <= world.deaths);
                }
                Err(ItemError::Lost(_)) => prop_assert!(rules.at_most_once || world.hopeless),
                Err(ItemError::Stopped) => prop_assert!(stopped),
                Err(ItemError::TimedOut { running }) => {
                    let known = if *running { &world.stuck } else { &world.failing };
                    prop_assert!(known.contains(index));
                }
                Err(error) => prop_assert!(false, "{index}: {error}"),
            }
        }
    }

    #[test]
    fn deaths_that_no_item_causes_condemn_none(
        inputs in 200u64..2000,
        kills in prop::collection::vec((0usize..3000, any::<u8>()), 0..12),
    ) {
        // With as many deaths allowed as there are: only one alone at each of them could be condemned.
        let rules = Rules { max_deaths: 13, ..Rules::default() };
        let mut world = World::new(rules, inputs, BTreeSet::new(), BTreeSet::new());
        let mut kills: Vec<(usize, u8)> = kills;
        kills.sort_unstable();
        for step in 0..3000 {
            while world.fars.iter().filter(|far| !far.dead).count() < 3 {
                world.open(2);
            }
            world.feed(50);
            for far in 0..world.fars.len() {
                if !world.fars[far].dead {
                    world.fill(far);
                    world.finish(far, step as u8);
                }
            }
            while let Some((_, gate)) = kills.first().copied().filter(|(at, _)| *at == step) {
                kills.remove(0);
                if let Some(far) = world.live(gate) {
                    world.die(far, false);
                }
            }
            world.take();
        }
        world.run_out();
        prop_assert_eq!(world.results.len() as u64, inputs);
        prop_assert!(world.results.values().all(Result::is_ok));
    }

    #[test]
    fn the_poisonous_are_found_and_the_others_done(
        inputs in 1u64..3000,
        poison in prop::collection::btree_set(0u64..3000, 1..4),
        max_deaths in 1u32..4,
        slots in 1usize..5,
    ) {
        let rules = Rules { max_deaths, ..Rules::default() };
        let mut world = World::new(rules, inputs, poison.clone(), BTreeSet::new());
        for _ in 0..3 {
            world.open(slots);
        }
        world.run_out();
        prop_assert_eq!(world.results.len() as u64, inputs);
        for (index, ended) in &world.results {
            if poison.contains(index) {
                let found = matches!(ended, Err(ItemError::Poisonous { deaths }) if *deaths >= max_deaths);
                prop_assert!(found, "{index}: {ended:?}");
            } else {
                prop_assert!(ended.is_ok(), "{index}: {ended:?}");
            }
        }
        // Each is found by parting its fellows into eight, and then as often as asked for.
        prop_assert!(world.deaths <= poison.len() as u32 * (5 + max_deaths), "{} deaths", world.deaths);
    }
}

fn world(rules: Rules, inputs: u64) -> World {
    World::new(rules, inputs, BTreeSet::new(), BTreeSet::new())
}

#[test]
fn long_items_do_not_queue_behind_each_other() {
    let mut world = world(Rules::default(), 1000);
    for _ in 0..4 {
        world.open(2);
    }
    for far in 0..4 {
        world.scheduler.pace(world.fars[far].id, 10_000_000_000);
    }
    for far in 0..4 {
        world.feed(usize::MAX);
        world.fill(far);
        assert_eq!(world.fars[far].queue.len(), 3, "two run, one waits");
    }
}

#[test]
fn what_waits_at_a_busy_gateway_is_given_to_an_idle_one() {
    let mut world = world(Rules::default(), 6);
    world.open(1);
    world.open(1);
    let busy = world.fars[0].id;
    world.scheduler.pace(busy, 1000);
    world.feed(usize::MAX);
    world.feed(usize::MAX);
    world.fill(0);
    assert_eq!(world.fars[0].queue.len(), 6, "they looked tiny");
    world.withdraw();
    assert_eq!(world.fars[0].queue.len(), 6, "and may be done at any moment");
    world.pass(Duration::from_secs(1));
    world.withdraw();
    assert_eq!(world.fars[0].queue.len(), 5, "of the other nothing is known, so it gets one for its slot");
    world.fill(0);
    assert_eq!(world.fars[0].queue.len(), 5, "it is meant for the other");
    world.fill(1);
    assert_eq!(world.fars[1].queue.len(), 1);
    world.run_out();
    assert_eq!(world.results.len(), 6);
}

#[test]
fn what_was_asked_back_in_vain_holds_up_no_other() {
    let mut world = world(Rules::default(), 3);
    world.open(1);
    world.open(1);
    world.scheduler.pace(0, 1000);
    let answer = |world: &mut World, number: u64| {
        let value = Answer::Value(Payload::new(&[]));
        world.scheduler.handle_answer(0, number, value, world.now).unwrap();
    };
    for _ in 0..2 {
        world.scheduler.push(Payload::new(&world.pushed.to_le_bytes()));
        world.pushed += 1;
    }
    world.fill(0);
    world.pass(Duration::from_secs(1));
    let (_, second) = world.scheduler.poll_withdrawal(world.now).unwrap();
    // The order comes too late: the second item runs, and will for long.
    let (first, _) = world.fars[0].queue.pop_front().unwrap();
    answer(&mut world, first);
    world.scheduler.push(Payload::new(&world.pushed.to_le_bytes()));
    world.fill(0);
    let (third, _) = world.fars[0].queue[1];
    let asked = loop {
        let due = world.scheduler.poll_timeout().expect("somebody is idle");
        assert!(due < Duration::from_secs(60));
        world.now = world.now.max(due) + LOOK;
        if let Some((gate, number)) = world.scheduler.poll_withdrawal(world.now) {
            assert_eq!(gate, 0);
            break number;
        }
    };
    assert_eq!(asked, third);
    assert_ne!(asked, second);
}

#[test]
fn items_of_a_cut_gateway_wait_until_they_cannot_run_there() {
    let mut world = world(Rules::default(), 2);
    world.open(2);
    world.feed(usize::MAX);
    world.fill(0);
    world.die(0, true);
    world.open(2);
    world.fill(1);
    assert!(world.fars[1].queue.is_empty());
    assert_eq!(world.scheduler.poll_timeout(), Some(SETTLE));
    world.pass(SETTLE);
    world.fill(1);
    assert_eq!(world.fars[1].queue.len(), 2);
}

#[test]
fn a_stuck_item_keeps_its_slot_and_is_not_tried_again() {
    let mut world = world(Rules { retries: 5, ..Rules::default() }, 3);
    world.open(1);
    world.feed(usize::MAX);
    world.fill(0);
    let (number, _) = world.fars[0].queue.pop_front().unwrap();
    let stuck = Answer::Stuck(ItemError::TimedOut { running: true });
    world.scheduler.handle_answer(0, number, stuck, world.now).unwrap();
    world.take();
    assert!(matches!(world.results[&0], Err(ItemError::TimedOut { running: true })));
    world.fill(0);
    assert!(world.fars[0].queue.is_empty(), "the only slot is taken");
    world.scheduler.freed(0);
    world.fill(0);
    assert_eq!(world.fars[0].queue.len(), 1);
}

#[test]
fn a_failing_item_stops_the_map_or_not_as_asked() {
    for (on_error, results) in [
        (OnError::GoOn, 10),
        (OnError::Stop, 10),
        (OnError::Collect { most: 9 }, 10),
        (OnError::Collect { most: 1 }, 10),
    ] {
        for ordered in [false, true] {
            let rules = Rules { on_error, ordered, ..Rules::default() };
            let mut world = World::new(rules, 10, BTreeSet::new(), [2, 4].into());
            world.open(1);
            world.run_out();
            assert_eq!(world.results.len(), results);
            let stopped =
                world.results.values().filter(|ended| matches!(ended, Err(ItemError::Stopped))).count();
            match on_error {
                OnError::GoOn => assert_eq!(stopped, 0),
                OnError::Stop => assert_eq!(stopped, 7, "0 and 1 were done, 2 has failed"),
                OnError::Collect { most: 9 } => {
                    assert_eq!(stopped, 0);
                    assert_eq!(world.order[8..], [2, 4], "errors come last");
                }
                OnError::Collect { .. } => assert_eq!(stopped, 5, "two failed, three were done"),
            }
        }
    }
}

#[test]
fn without_hope_every_input_is_lost() {
    let mut world = world(Rules { window: 4, ..Rules::default() }, 100);
    world.open(1);
    world.feed(usize::MAX);
    world.fill(0);
    world.die(0, false);
    world.scheduler.give_up_hope(None);
    while world.pushed < 100 || !world.scheduler.is_done() || world.scheduler.has_results() {
        world.feed(usize::MAX);
        world.take();
        world.check();
    }
    assert_eq!(world.results.len(), 100);
    assert!(world.results.values().all(|ended| matches!(ended, Err(ItemError::Lost(_)))));
}

#[test]
fn held_values_stop_the_calls_but_never_the_one_that_is_waited_for() {
    let rules = Rules { ordered: true, bytes: 1000, window: 1000, ..Rules::default() };
    let mut world = world(rules, 500);
    world.open(1);
    world.open(1);
    // The first item is lost on its way, and all that follow have long values.
    world.feed(usize::MAX);
    world.fill(0);
    assert_eq!(world.fars[0].queue[0].1, 0);
    for _ in 0..100 {
        world.feed(usize::MAX);
        world.fill(1);
        while let Some((number, _)) = world.fars[1].queue.pop_front() {
            world.scheduler.pace(1, 1000);
            world
                .scheduler
                .handle_answer(1, number, Answer::Value(Payload::new(&[0; 200])), world.now)
                .unwrap();
        }
    }
    assert!(world.scheduler.outbox.bytes() < 5000, "{} bytes are held", world.scheduler.outbox.bytes());
    world.die(0, true);
    world.pass(SETTLE);
    world.fill(1);
    assert_eq!(world.fars[1].queue[0].1, 0);
}

#[test]
fn the_item_that_all_wait_for_is_given_out_first_however_they_came_back() {
    let rules = Rules { ordered: true, bytes: 1000, window: 1000, retries: 1, ..Rules::default() };
    let mut world = world(rules, 100);
    world.open(3);
    world.feed(usize::MAX);
    world.fill(0);
    let fault = || Answer::Fault(ItemError::TimedOut { running: false });
    let queue: Vec<_> = world.fars[0].queue.drain(..).collect();
    assert_eq!(queue.iter().map(|(_, index)| *index).collect::<Vec<_>>(), [0, 1, 2]);
    // Values are held that wait for the first; it comes back before the second.
    world.scheduler.handle_answer(0, queue[2].0, Answer::Value(Payload::new(&[0; 1000])), world.now).unwrap();
    world.scheduler.handle_answer(0, queue[0].0, fault(), world.now).unwrap();
    world.scheduler.handle_answer(0, queue[1].0, fault(), world.now).unwrap();
    for index in [0, 1] {
        world.fill(0);
        assert_eq!(world.fars[0].queue.pop_front().unwrap().1, index);
        let (number, _) = queue[index as usize];
        world.scheduler.handle_answer(0, number, Answer::Value(Payload::new(&[])), world.now).unwrap();
        world.scheduler.take_results(&mut VecDeque::new());
    }
}

#[test]
fn values_that_grow_are_bounded_while_nobody_takes_them() {
    const BYTES: usize = 1 << 20;
    for ordered in [false, true] {
        let mut world = world(Rules { ordered, bytes: BYTES, ..Rules::default() }, 14_000);
        world.open(2);
        world.open(2);
        let mut taken = 0;
        let mut most = 0;
        while !world.scheduler.is_done() || world.scheduler.has_results() {
            // What comes before anything is taken.
            loop {
                world.feed(usize::MAX);
                let mut done = 0;
                for far in 0..2 {
                    world.fill(far);
                    for _ in 0..16 {
                        let Some((number, index)) = world.fars[far].queue.pop_front() else { break };
                        let len = if index < 10_000 { 10 } else { 16 << 10 };
                        world.scheduler.pace(world.fars[far].id, 1000);
                        let value = Answer::Value(Payload::new(&vec![0; len]));
                        world.scheduler.handle_answer(world.fars[far].id, number, value, world.now).unwrap();
                        done += 1;
                    }
                    world.withdraw();
                }
                if done == 0 {
                    break;
                }
            }
            most = most.max(world.scheduler.outbox.bytes());
            let mut results = VecDeque::new();
            world.scheduler.take_results(&mut results);
            taken += results.len();
        }
        assert_eq!(taken, 14_000);
        assert!(most >= BYTES, "the consumer was stalled");
        assert!(most < 3 * BYTES, "{most} bytes were held");
    }
}

#[test]
fn answers_that_were_under_way_when_the_map_stopped_are_taken() {
    for on_error in [OnError::Stop, OnError::Collect { most: 0 }] {
        let mut world = world(Rules { on_error, ..Rules::default() }, 10);
        world.open(4);
        world.feed(usize::MAX);
        world.fill(0);
        let numbers: Vec<u64> = world.fars[0].queue.iter().map(|(number, _)| *number).collect();
        let fault = Answer::Fault(ItemError::TimedOut { running: false });
        world.scheduler.handle_answer(0, numbers[1], fault, world.now).unwrap();
        assert!(world.scheduler.is_stopped());
        for number in [0, 2, 3].map(|at: usize| numbers[at]) {
            world.scheduler.handle_answer(0, number, Answer::Value(Payload::new(&[])), world.now).unwrap();
        }
        assert!(
            world.scheduler.handle_answer(0, 99, Answer::Withdrawn, world.now).is_err(),
            "nobody was given that"
        );
        world.take();
        assert_eq!(world.results.len() as u64, world.pushed);
    }
}

#[test]
fn a_lost_gateway_that_stops_the_map_ends_each_item_once() {
    for suspicious in [false, true] {
        let rules =
            Rules { at_most_once: !suspicious, max_deaths: 1, on_error: OnError::Stop, ..Rules::default() };
        let mut world = world(rules, 10);
        world.open(1);
        world.open(1);
        world.feed(usize::MAX);
        world.fill(0);
        world.fill(1);
        let settle = Duration::from_secs(1);
        let loss = Loss { settle, suspicious, end: None };
        // Two losses are due at once.
        world.scheduler.lost(0, &loss, world.now);
        world.scheduler.lost(1, &loss, world.now);
        world.pass(settle);
        world.take();
        assert!(world.scheduler.is_done());
        assert_eq!(world.results.len() as u64, world.pushed);
    }
}

#[test]
fn nonsense_from_a_gateway_is_refused() {
    let mut world = world(Rules::default(), 2);
    world.open(1);
    world.open(1);
    world.feed(usize::MAX);
    world.fill(0);
    let (number, _) = world.fars[0].queue[0];
    let value = || Answer::Value(Payload::new(&[]));
    assert!(world.scheduler.handle_answer(1, number, value(), world.now).is_err(), "it is another's");
    assert!(world.scheduler.handle_answer(0, u64::MAX, value(), world.now).is_err());
    assert!(world.scheduler.handle_answer(0, 77, value(), world.now).is_err());
    assert!(world.scheduler.handle_answer(0, number, value(), world.now).is_ok());
    assert!(world.scheduler.handle_answer(0, number, value(), world.now).is_err(), "it has answered");
}
