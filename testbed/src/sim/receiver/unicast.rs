//! What a receiver pulls by unicast, and what it gives to others: the daemon's own shelf on the model disk.

use std::sync::Arc;
use std::time::Duration;

use nackcast_common::clock::Time;
use nackcast_proto::pull::{Block, Member, Offer, Shelf};
use nackcast_proto::ticket::Ticket;
use nackcast_receiver::engine::{PullEnd, PullWhen, RequestId};
use nackcast_receiver::node::ReceiverNode;
use nackcast_receiver::shelf::ReceiverShelf;

use super::Receiver;
use super::work::duration;
use crate::sim::unicast::{Call, Replied, Server};

/// How a receiver takes part.
#[derive(Clone, Debug)]
pub struct Unicast {
    /// When it pulls.
    pub when: PullWhen,
    /// From whom, beside senders that are heard.
    pub sources: Vec<String>,
    /// It gives what it holds to others.
    pub gives: bool,
}

/// A process that gives.
#[derive(Debug)]
pub(super) struct Giving {
    shelf: Arc<ReceiverShelf>,
    server: Server,
}

impl Giving {
    pub(super) fn new(ticket: &Ticket, shelf: Arc<ReceiverShelf>) -> Self {
        let server = Server::new(member(ticket), Arc::clone(&shelf) as Arc<dyn Shelf>);
        Self { shelf, server }
    }

    pub(super) fn follow(&self, node: &ReceiverNode) {
        self.shelf.follow(node);
    }
}

fn member(ticket: &Ticket) -> Member {
    let (epoch, secret) = (ticket.epoch, ticket.secret.clone().expect("tickets of the simulator hold the secret"));
    Member { channel: ticket.channel, epoch, secret, publisher: ticket.publisher, sender: None }
}

impl Receiver {
    /// Takes part in unicast; before its first start.
    #[must_use]
    pub fn with_unicast(mut self, unicast: Unicast) -> Self {
        self.unicast = Some(unicast);
        self
    }

    /// As a member of the channel.
    #[must_use]
    pub fn member(&self) -> Member {
        member(&self.ticket)
    }

    /// A block arrived.
    pub fn pulled(&mut self, now: Time, request: RequestId, block: &Block) {
        let local = self.clock.at(now);
        let Some(alive) = &mut self.alive else { return };
        alive.node.handle_pulled(local, request, block);
        self.drain(now);
    }

    /// A source told which manifest it has.
    pub fn offered(&mut self, now: Time, offer: &Offer) {
        let local = self.clock.at(now);
        let Some(alive) = &mut self.alive else { return };
        alive.node.handle_offered(local, offer);
        self.drain(now);
    }

    /// A request is over.
    pub fn pull_over(&mut self, now: Time, request: RequestId, end: PullEnd) {
        let local = self.clock.at(now);
        let Some(alive) = &mut self.alive else { return };
        alive.node.handle_pull_over(local, request, end);
        self.drain(now);
    }

    /// Begins to answer; false when nobody listens, or the caller is refused.
    pub fn answer(&mut self, call: Call, caller: &Member, request: &[u8]) -> bool {
        let giving = self.alive.as_mut().and_then(|alive| alive.giving.as_mut());
        giving.is_some_and(|giving| giving.server.begin(call, caller, request))
    }

    /// The next reply, and what it took the disk.
    pub fn reply(&mut self, call: Call) -> (Replied, Duration) {
        let before = self.disk.counts();
        let giving = self.alive.as_mut().and_then(|alive| alive.giving.as_mut());
        let replied = giving.map_or(Replied::Unknown, |giving| giving.server.next(call));
        (replied, duration(&self.cost, before, self.disk.counts()))
    }
}
