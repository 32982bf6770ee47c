//! What oracles see of unicast: orders, replies, answers of senders, and what receivers make of them.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use nackcast_common::clock::Time;
use nackcast_common::ids::{ObjectId, RunId};
use nackcast_common::manifest::Manifest;
use nackcast_proto::wire::Header;
use nackcast_receiver::engine::RequestId;
use nackcast_receiver::node::PullOrder;
use nackcast_sender::node::HeardNack;

use super::{Exchange, Place};
use crate::sim::content::Edition;
use crate::sim::oracle::Verdict;
use crate::sim::oracle::false_source::FalseSource;
use crate::sim::oracle::last_resort::LastResort;
use crate::sim::oracle::pull_bounds::{Flight, PullBounds};
use crate::sim::receiver::{Receiver, SLOT_BYTES};
use crate::sim::scenario::{PullSpec, ReceiverSpec};
use crate::sim::sender::layouts;
use crate::sim::wiretap::Said;

/// The oracles of unicast. What one found goes with its name.
#[derive(Debug)]
pub struct Witness {
    last_resort: LastResort,
    false_source: FalseSource,
    bounds: PullBounds,
}

/// What each of the oracles says, in the order of [`NAMES`].
pub type Judged = [Verdict; 3];

/// The oracles' names.
pub const NAMES: [&str; 3] = ["last resort", "false source", "pull bounds"];

impl Witness {
    /// Of receivers like these.
    #[must_use]
    pub fn new(pull: &PullSpec, receiver: &ReceiverSpec) -> Self {
        let memory = u64::from(receiver.slots) * SLOT_BYTES;
        Self {
            last_resort: LastResort::new(pull.when.into(), Duration::from_millis(receiver.nack_retry_ms)),
            false_source: FalseSource::default(),
            // A quarter of the memory is for what is pulled.
            bounds: PullBounds::new(memory / 4),
        }
    }

    /// A generation was published.
    pub fn learn(&mut self, edition: &Edition) {
        let of_table = |(id, bytes): (&ObjectId, &Bytes)| {
            let record = edition.manifest.object(edition.manifest.index_of(*id)?)?;
            Some((*id, record.layout, bytes.clone()))
        };
        self.false_source.learn(edition.objects.iter().filter_map(of_table).chain(layouts(edition)));
    }

    /// A receiver's process begins.
    pub fn on_start(&mut self, local: Time, receiver: u32) {
        self.last_resort.on_start(local, receiver);
        self.false_source.on_start(receiver);
        self.bounds.on_start(receiver);
    }

    /// A receiver sent this.
    pub fn on_sent(&mut self, local: Time, receiver: u32, datagram: &[u8]) {
        if let Ok(header) = Header::read(datagram) {
            self.last_resort.on_sent(local, receiver, RunId(header.session), header.packet_number);
        }
    }

    /// A sender read a NACK, which speaks of this manifest.
    pub fn on_nack(&mut self, heard: &HeardNack, manifest: Option<&Arc<Manifest>>) {
        self.last_resort.on_nack(heard.run, heard.packet, &heard.nack, manifest);
    }

    /// A receiver read what a sender said.
    pub fn on_heard(&mut self, local: Time, receiver: u32, said: &Said) {
        self.last_resort.on_heard(local, receiver, said);
    }

    /// A receiver orders something.
    pub fn on_order(&mut self, local: Time, receiver: &Receiver, order: &PullOrder, exchange: &Exchange) -> Judged {
        let number = receiver.number;
        let (request, source, allowed, object, blocks) = match order {
            PullOrder::Manifest { request, source } => {
                (*request, source, self.last_resort.on_manifest(local, number), None, 0..0)
            }
            PullOrder::Fetch { request, source, object, blocks, .. } => {
                let allowed = self.last_resort.on_fetch(local, number, *object, blocks);
                (*request, source, allowed, Some(*object), blocks.clone())
            }
            PullOrder::Cancel { request } => {
                self.bounds.on_end(number, *request);
                return [Ok(()), Ok(()), Ok(())];
            }
        };
        let Some(place) = exchange.place(source) else {
            return [allowed, Err(format!("receiver {number} asks {source}, and nobody is called so")), Ok(())];
        };
        let block_size = object.map_or(0, |object| self.false_source.block_size(object));
        let flight = Flight { source: place, object, blocks, block_size, heard_at: local };
        let trusted = self.false_source.on_order(number, place);
        [allowed, trusted, self.bounds.on_order(number, request, flight, receiver.pulled_waiting())]
    }

    /// A receiver is given a block of what it asked for.
    pub fn on_block(&mut self, local: Time, (receiver, request): (u32, RequestId), given: &Given<'_>) {
        self.bounds.on_block(local, receiver, request, given.block);
        self.false_source.on_block(receiver, given.source, given.object, given.block, given.data);
    }

    /// A request is over, or brought all that it can.
    pub fn on_end(&mut self, (receiver, request): (u32, RequestId)) {
        self.bounds.on_end(receiver, request);
    }

    /// A receiver's worker looked at pulled blocks, and the node is going to know.
    pub fn on_worked(&mut self, receiver: &Receiver) -> Verdict {
        let checked = receiver.checked();
        checked
            .map(|(object, block, outcome)| self.false_source.on_checked(receiver.number, object, block, outcome))
            .find(Verdict::is_err)
            .unwrap_or(Ok(()))
    }

    /// A look at a receiver, and at what it waits for.
    pub fn look(&mut self, local: Time, receiver: &Receiver, exchange: &Exchange) -> Judged {
        let number = receiver.number;
        if receiver.is_paused() || !receiver.is_up() {
            self.bounds.on_pause(local, number);
            return [Ok(()), Ok(()), Ok(())];
        }
        let waits = |flight: &Flight| match flight.object {
            Some(object) => self.last_resort.on_fetch(local, number, object, &flight.blocks),
            None => self.last_resort.on_manifest(local, number),
        };
        let waits = self.bounds.flights(number).map(waits).find(Verdict::is_err).unwrap_or(Ok(()));
        let told = |place: Place| {
            let findings = receiver.node().map(|node| node.progress(local).findings).unwrap_or_default();
            findings.iter().any(|finding| Some(finding.subject.as_str()) == exchange.name(place))
        };
        [waits, self.false_source.look(number, told), self.bounds.look(local, number)]
    }

    /// Whether people were told that a source of the receiver is false.
    #[must_use]
    pub fn is_alarmed(&self, receiver: u32) -> bool {
        self.false_source.dropped(receiver).next().is_some()
    }
}

/// A block that a receiver is given.
#[derive(Clone, Copy, Debug)]
pub struct Given<'a> {
    /// By whom.
    pub source: Place,
    /// Of which object.
    pub object: ObjectId,
    /// Which one.
    pub block: u32,
    /// Its bytes, as they are.
    pub data: &'a Bytes,
}
