//! Unicast pull in virtual time: what receivers order is carried by connections that are slow, break, or lead to
//! somebody who is gone, silent or false.
//!
//! | module | what |
//! |---|---|
//! | [`server`] | a node's side: the daemon's own service and shelf |
//! | [`exchange`] | all requests under way |
//! | [`witness`] | what oracles see of them |
//!
//! Hellos, requests and replies are the real messages. Replaced is QUIC itself: a request is told to have failed when
//! the way was cut, or the process gone, for [`exchange::IDLE_MAX`]; what is shorter only delays it. Bits do not flip on
//! the way: QUIC would notice.

pub mod exchange;
pub mod server;
pub mod witness;

use std::collections::BTreeMap;

use nackcast_common::clock::Time;
use nackcast_receiver::engine::RequestId;
use nackcast_receiver::node::PullOrder;

pub use exchange::{Delivery, Ends, Exchange, Step};
pub use server::{Replied, Server};
pub use witness::Witness;

use self::witness::{Given, Judged};
use super::receiver::{Receiver, Unicast};
use super::scenario::{PullSpec, ReceiverSpec};

/// Where QUIC listens, at every node.
pub const PORT: u16 = 7702;

/// Somebody who may give blocks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Place {
    /// A sender, by number.
    Sender(usize),
    /// A receiver, by number.
    Receiver(u32),
}

/// A request of a receiver's process.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Call {
    /// Who asks.
    pub receiver: u32,
    /// In which of its lives.
    pub life: u32,
    /// How it names the request.
    pub request: RequestId,
}

/// Who is behind a source's name.
pub type Names = BTreeMap<String, Place>;

/// What is due then, and what a receiver is given now.
pub type Stepped = (Vec<(Time, Step)>, Option<(Call, Delivery)>);

/// What is under way by unicast in a world, and who watches.
#[derive(Debug)]
pub struct Pulls {
    /// The requests.
    pub exchange: Exchange,
    /// The oracles.
    pub witness: Witness,
}

impl Pulls {
    /// Between these nodes; none where nobody pulls.
    #[must_use]
    pub fn new(spec: &PullSpec, receiver: &ReceiverSpec, names: Names, seed: u64) -> Option<Self> {
        let witness = Witness::new(spec, receiver);
        (!spec.is_off()).then(|| Self { exchange: Exchange::new(spec, names, seed), witness })
    }

    /// A receiver's process begins: nothing of an earlier one is under way.
    pub fn begin(&mut self, now: Time, receiver: &Receiver) {
        self.exchange.forget(receiver.number);
        self.witness.on_start(receiver.local(now), receiver.number);
    }

    /// A receiver orders something: what oracles say to it, and what is due.
    pub fn order(&mut self, now: Time, receiver: &Receiver, order: &PullOrder) -> (Judged, Option<(Time, Step)>) {
        let judged = self.witness.on_order(receiver.local(now), receiver, order, &self.exchange);
        (judged, self.exchange.order(now, (receiver.number, receiver.life), order))
    }

    /// What is due happens.
    pub fn step(&mut self, now: Time, step: Step, ends: &mut impl Ends) -> Stepped {
        match step {
            Step::Go(call) => (self.exchange.go(now, call, ends), None),
            Step::Arrive(call, reply) => (Vec::new(), self.exchange.arrive(call, reply).map(|given| (call, given))),
            Step::End(call, end) => (Vec::new(), self.exchange.end(call).then_some((call, Delivery::Over(end)))),
        }
    }

    /// A receiver is given something; false when its process is another one.
    pub fn deliver(&mut self, now: Time, call: Call, delivery: &Delivery, receiver: &mut Receiver) -> bool {
        if receiver.life != call.life {
            return false;
        }
        let asked = (call.receiver, call.request);
        match delivery {
            Delivery::Block(source, object, block) => {
                let given = Given { source: *source, object: *object, block: block.block, data: &block.data };
                self.witness.on_block(receiver.local(now), asked, &given);
                receiver.pulled(now, call.request, block);
            }
            Delivery::Offer(offer) => {
                self.witness.on_end(asked);
                receiver.offered(now, offer);
            }
            Delivery::Over(end) => {
                self.witness.on_end(asked);
                receiver.pull_over(now, call.request, *end);
            }
        }
        true
    }

    /// A look at a receiver.
    pub fn look(&mut self, now: Time, receiver: &Receiver) -> Judged {
        self.witness.look(receiver.local(now), receiver, &self.exchange)
    }
}

/// A receiver that takes part, among so many of such names.
#[must_use]
pub fn join(spec: &PullSpec, receivers: u32, name: impl Fn(u32) -> String, receiver: Receiver) -> Receiver {
    if spec.is_off() {
        return receiver;
    }
    let sources = (0..receivers).filter(|n| *n != receiver.number && spec.peers).map(name).collect();
    receiver.with_unicast(Unicast { when: spec.when.into(), sources, gives: spec.peers })
}
