//! Unicast pull in a cast: receivers that ask senders and each other.

use std::time::Duration;

use bytes::Bytes;
use nackcast_common::clock::Time;
use nackcast_proto::ticket::Ticket;
use nackcast_receiver::node::PullOrder;
use nackcast_sender::node::{Destination, HeardNack};

use super::{Event, World, sender_address, sender_key};
use crate::sim::receiver::{Lane, Receiver};
use crate::sim::roles::cast::{Cast, Turn};
use crate::sim::scenario::ReceiverSpec;
use crate::sim::trace::Kind;
use crate::sim::unicast::witness::{Judged, NAMES};
use crate::sim::unicast::{self, Call, Ends, Names, PORT, Place, Pulls, Replied, Step};
use crate::sim::wiretap::Wiretap;

/// What is under way by unicast, and who reads along.
#[derive(Debug)]
pub(super) struct Watched {
    pub(super) pulls: Pulls,
    /// On each sender.
    wiretaps: Vec<Wiretap>,
}

fn name(receiver: u32) -> String {
    format!("10.0.1.{receiver}:{PORT}")
}

fn receivers(cast: &Cast) -> u32 {
    u32::try_from(cast.receivers).unwrap_or(u32::MAX)
}

/// A receiver that takes part as the cast says.
pub(super) fn join(cast: &Cast, receiver: Receiver) -> Receiver {
    unicast::join(&cast.pull, receivers(cast), name, receiver)
}

impl Watched {
    /// None where nobody pulls.
    pub(super) fn of(cast: &Cast, ticket: &Ticket) -> Option<Self> {
        let senders = (0..cast.parts.len()).map(|n| (format!("{}:{PORT}", sender_address(n).ip()), Place::Sender(n)));
        let names: Names = (0..receivers(cast)).map(|n| (name(n), Place::Receiver(n))).chain(senders).collect();
        let wiretap = |number: usize| {
            let key = sender_key(number).verifying_key();
            let secret = ticket.secret.clone().expect("tickets of the simulator hold the secret");
            Wiretap::new(ticket.channel, secret, ticket.publisher, key)
        };
        let pulls = Pulls::new(&cast.pull, &ReceiverSpec::default(), names, cast.seed)?;
        Some(Self { pulls, wiretaps: (0..cast.parts.len()).map(wiretap).collect() })
    }
}

impl World {
    fn place(&self, node: usize) -> Place {
        match node.checked_sub(self.senders.len()) {
            None => Place::Sender(node),
            Some(receiver) => Place::Receiver(u32::try_from(receiver).unwrap_or(u32::MAX)),
        }
    }

    fn judge_all(&mut self, judged: Judged) {
        NAMES.into_iter().zip(judged).for_each(|(oracle, verdict)| self.judge(oracle, verdict));
    }

    pub(super) fn begin_pulls(&mut self, number: usize) {
        if let Some(Watched { pulls, .. }) = &mut self.pulls {
            pulls.begin(self.now, &self.receivers[number]);
        }
    }

    pub(super) fn disturb_pulls(&mut self, turn: Turn) {
        let at = |node: usize, ms: u64| (self.place(node), self.now + Duration::from_millis(ms));
        let (place, until) = match turn {
            Turn::Spoil(node, for_ms) | Turn::Mute(node, for_ms) | Turn::Bar(node, for_ms) => at(node, for_ms),
            _ => at(0, 0),
        };
        let Some(Watched { pulls, .. }) = &mut self.pulls else { return };
        match turn {
            Turn::Spoil(..) => pulls.exchange.spoil(place, until),
            Turn::Mute(..) => pulls.exchange.mute(place, until),
            Turn::Bar(..) => pulls.exchange.bar(place, until),
            _ => pulls.exchange.break_all().into_iter().for_each(|step| self.queue.push(self.now, Event::Pull(step))),
        }
    }

    /// Connections are sound again, and people who were told of a false source have looked into it: the receiver is
    /// started anew, and trusts it again.
    pub(super) fn heal_pulls(&mut self) {
        let Some(Watched { pulls, .. }) = &mut self.pulls else { return };
        pulls.exchange.heal();
        let alarmed = |number: &usize| pulls.witness.is_alarmed(self.receivers[*number].number);
        for number in (0..self.receivers.len()).filter(alarmed).collect::<Vec<_>>() {
            self.receivers[number].kill();
            self.receivers[number].start(self.now);
            self.receiver_due[number] = Time::NEVER;
            self.begin_pulls(number);
            self.settle_receiver(number);
        }
    }

    /// A sender sends this.
    pub(super) fn witness_sent(&mut self, sender: usize, to: Destination, datagram: &Bytes) {
        if let (Some(watched), Destination::Advertised | Destination::Receiver(_)) = (&mut self.pulls, to) {
            watched.wiretaps[sender].on_sent(datagram);
        }
    }

    /// A sender read a NACK.
    pub(super) fn witness_nack(&mut self, heard: &HeardNack) {
        if let Some(Watched { pulls, .. }) = &mut self.pulls {
            let manifest = self.editions.iter().find(|e| e.encoded.reference.hash.prefix() == heard.nack.manifest);
            pulls.witness.on_nack(heard, manifest.map(|edition| &edition.manifest));
        }
    }

    /// A receiver sends a NACK.
    pub(super) fn witness_asked(&mut self, number: usize, datagram: &Bytes) {
        let receiver = &self.receivers[number];
        if let Some(Watched { pulls, .. }) = &mut self.pulls {
            pulls.witness.on_sent(receiver.local(self.now), receiver.number, datagram);
        }
    }

    /// A receiver read what is no symbol.
    pub(super) fn witness_read(&mut self, number: usize, datagram: &Bytes) {
        let receiver = &self.receivers[number];
        if let Some(Watched { pulls, wiretaps }) = &mut self.pulls
            && let Some(said) = wiretaps.iter().find_map(|wiretap| wiretap.heard(datagram))
        {
            pulls.witness.on_heard(receiver.local(self.now), receiver.number, &said);
        }
    }

    /// A block worker's time is over, and the node is going to know.
    pub(super) fn witness_work(&mut self, number: usize, lane: Lane) {
        if let (Some(Watched { pulls, .. }), Lane::Blocks) = (&mut self.pulls, lane) {
            let verdict = pulls.witness.on_worked(&self.receivers[number]);
            self.judge(NAMES[1], verdict);
        }
    }

    pub(super) fn order_pull(&mut self, number: usize, order: &PullOrder) {
        self.trace.add(self.now, Kind::Pull, self.node(number), 0);
        let Some(Watched { pulls, .. }) = &mut self.pulls else { return };
        let (judged, due) = pulls.order(self.now, &self.receivers[number], order);
        self.judge_all(judged);
        if let Some((at, step)) = due {
            self.queue.push(at, Event::Pull(step));
        }
    }

    pub(super) fn on_pull(&mut self, step: Step) {
        let Some(mut watched) = self.pulls.take() else { return };
        let (due, given) = watched.pulls.step(self.now, step, self);
        due.into_iter().for_each(|(at, step)| self.queue.push(at, Event::Pull(step)));
        let taken = given.map(|(call, delivery)| {
            let number = call.receiver as usize;
            watched.pulls.deliver(self.now, call, &delivery, &mut self.receivers[number]).then_some(number)
        });
        self.pulls = Some(watched);
        if let Some(number) = taken.flatten() {
            self.trace.add(self.now, Kind::Pull, self.node(number), 1);
            self.settle_receiver(number);
        }
    }

    pub(super) fn look_at_pulls(&mut self, number: usize) {
        if let Some(Watched { pulls, .. }) = &mut self.pulls {
            let judged = pulls.look(self.now, &self.receivers[number]);
            self.judge_all(judged);
        }
    }
}

impl Ends for World {
    fn life(&self, place: Place) -> Option<u32> {
        match place {
            Place::Sender(number) => {
                let sender = &self.senders[number];
                (sender.is_up() && !sender.is_paused()).then_some(sender.life)
            }
            Place::Receiver(number) => {
                let receiver = &self.receivers[number as usize];
                receiver.is_up().then_some(receiver.life)
            }
        }
    }

    fn join(&self, receiver: u32, place: Place) -> bool {
        let node = |receiver: u32| self.senders.len() + receiver as usize;
        let other = match place {
            Place::Sender(number) => number,
            Place::Receiver(number) => node(number),
        };
        self.wires.join(self.now, node(receiver), other)
    }

    fn begin(&mut self, place: Place, call: Call, request: &[u8]) -> bool {
        let caller = self.receivers[call.receiver as usize].member();
        match place {
            Place::Sender(number) => self.senders[number].answer(call, &caller, request),
            Place::Receiver(number) => self.receivers[number as usize].answer(call, &caller, request),
        }
    }

    fn reply(&mut self, place: Place, call: Call) -> (Replied, Duration) {
        match place {
            Place::Sender(number) => self.senders[number].reply(self.now, call),
            Place::Receiver(number) => self.receivers[number as usize].reply(call),
        }
    }
}
