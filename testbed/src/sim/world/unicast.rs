//! Unicast pull in the world: receivers that ask the sender and each other.

use std::time::Duration;

use nackcast_receiver::node::PullOrder;

use super::{Event, World};
use crate::sim::receiver::{Lane, Receiver};
use crate::sim::scenario::Scenario;
use crate::sim::trace::Kind;
use crate::sim::unicast::witness::{Judged, NAMES};
use crate::sim::unicast::{self, Call, Delivery, Ends, Names, PORT, Place, Pulls, Replied, Step};

/// A process that stands still takes what arrived later.
const LATER: Duration = Duration::from_millis(5);

/// By what name a receiver is asked.
fn name(receiver: u32) -> String {
    format!("{}:{PORT}", super::address(receiver).ip())
}

/// What is under way by unicast; none where nobody pulls.
pub(super) fn pulls(scenario: &Scenario) -> Option<Pulls> {
    let mut names: Names = (0..scenario.receivers).map(|n| (name(n), Place::Receiver(n))).collect();
    names.insert(format!("{}:{PORT}", super::sender_address().ip()), Place::Sender(0));
    Pulls::new(&scenario.pull, &scenario.receiver, names, scenario.seed)
}

/// A receiver that takes part as the scenario says.
pub(super) fn join(scenario: &Scenario, receiver: Receiver) -> Receiver {
    unicast::join(&scenario.pull, scenario.receivers, name, receiver)
}

impl World {
    fn judge_all(&mut self, judged: Judged) {
        for (oracle, verdict) in NAMES.into_iter().zip(judged) {
            self.oracles.judge(self.now, oracle, verdict);
        }
    }

    /// A receiver's process begins, or its disk refused.
    pub(super) fn begin_pulls(&mut self, number: u32) {
        if let Some(pulls) = &mut self.pulls {
            pulls.begin(self.now, &self.receivers[number as usize]);
        }
    }

    pub(super) fn order_pull(&mut self, number: u32, order: &PullOrder) {
        let Some(pulls) = &mut self.pulls else { return };
        let (judged, due) = pulls.order(self.now, &self.receivers[number as usize], order);
        self.judge_all(judged);
        self.trace.add(self.now, Kind::Pull, number, 0);
        self.trace.line(self.now, Some(number), None, || format!("{order:?}"));
        if let Some((at, step)) = due {
            self.queue.push(at, Event::Pull(step));
        }
    }

    pub(super) fn on_pull(&mut self, step: Step) {
        if let Step::Arrive(call, _) | Step::End(call, _) = &step
            && self.is_asleep(*call)
        {
            self.queue.push(self.now + LATER, Event::Pull(step));
            return;
        }
        let Some(mut pulls) = self.pulls.take() else { return };
        let (due, given) = pulls.step(self.now, step, self);
        self.pulls = Some(pulls);
        due.into_iter().for_each(|(at, step)| self.queue.push(at, Event::Pull(step)));
        if let Some((call, delivery)) = given {
            self.give(call, &delivery);
        }
    }

    fn is_asleep(&self, call: Call) -> bool {
        let receiver = &self.receivers[call.receiver as usize];
        receiver.life == call.life && receiver.is_paused()
    }

    fn give(&mut self, call: Call, delivery: &Delivery) {
        let (number, Some(pulls)) = (call.receiver, &mut self.pulls) else { return };
        if !pulls.deliver(self.now, call, delivery, &mut self.receivers[number as usize]) {
            return;
        }
        self.trace.add(self.now, Kind::Pull, number, 1);
        self.trace.line(self.now, Some(number), None, || match delivery {
            Delivery::Block(source, object, block) => {
                format!("{:?}: block {} of object {object} from {source:?}", call.request, block.block)
            }
            Delivery::Offer(offer) => format!("{:?}: generation {}", call.request, offer.generation),
            Delivery::Over(end) => format!("{:?}: {end:?}", call.request),
        });
        self.settle_receiver(number);
    }

    pub(super) fn break_pulls(&mut self) {
        let ends = self.pulls.as_mut().map(|pulls| pulls.exchange.break_all()).unwrap_or_default();
        ends.into_iter().for_each(|step| self.on_pull(step));
    }

    /// Connections are sound again, and people who were told of a false source have looked into it: the receiver is
    /// started anew, and trusts it again.
    pub(super) fn heal_pulls(&mut self) {
        let Some(pulls) = &mut self.pulls else { return };
        pulls.exchange.heal();
        for number in (0..self.scenario.receivers).filter(|number| pulls.witness.is_alarmed(*number)) {
            self.receivers[number as usize].kill();
            self.complete_at[number as usize] = None;
        }
    }

    /// A block worker's time is over, and the node is going to know.
    pub(super) fn witness_work(&mut self, number: u32, lane: Lane) {
        if let (Some(pulls), Lane::Blocks) = (&mut self.pulls, lane) {
            let verdict = pulls.witness.on_worked(&self.receivers[number as usize]);
            self.oracles.judge(self.now, NAMES[1], verdict);
        }
    }

    pub(super) fn look_at_pulls(&mut self, number: u32) {
        if let Some(pulls) = &mut self.pulls {
            let judged = pulls.look(self.now, &self.receivers[number as usize]);
            self.judge_all(judged);
        }
    }
}

impl Ends for World {
    fn life(&self, place: Place) -> Option<u32> {
        match place {
            Place::Sender(_) => {
                let sender = &self.sender;
                (sender.is_up() && !sender.is_paused()).then_some(sender.life)
            }
            Place::Receiver(number) => {
                let receiver = &self.receivers[number as usize];
                (receiver.is_up() && !receiver.is_paused()).then_some(receiver.life)
            }
        }
    }

    fn join(&self, receiver: u32, place: Place) -> bool {
        let other = match place {
            Place::Sender(_) => true,
            Place::Receiver(number) => self.network.is_open(self.now, number),
        };
        other && self.network.is_open(self.now, receiver)
    }

    fn begin(&mut self, place: Place, call: Call, request: &[u8]) -> bool {
        let caller = self.receivers[call.receiver as usize].member();
        match place {
            Place::Sender(_) => self.sender.answer(call, &caller, request),
            Place::Receiver(number) => self.receivers[number as usize].answer(call, &caller, request),
        }
    }

    fn reply(&mut self, place: Place, call: Call) -> (Replied, Duration) {
        match place {
            Place::Sender(_) => self.sender.reply(self.now, call),
            Place::Receiver(number) => {
                let replied = self.receivers[number as usize].reply(call);
                if self.receivers[number as usize].disk.stopped() {
                    self.lose_power(number);
                }
                replied
            }
        }
    }
}
