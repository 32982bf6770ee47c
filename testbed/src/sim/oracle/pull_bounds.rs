//! What is pulled is bounded: bytes under way, requests of one source, and how long a silent one is waited for.

use std::collections::BTreeMap;
use std::ops::Range;
use std::time::Duration;

use nackcast_common::clock::Time;
use nackcast_common::ids::ObjectId;
use nackcast_receiver::engine::RequestId;

use super::Verdict;
use crate::sim::unicast::Place;

/// Requests of one source.
const REQUESTS: usize = 4;
/// What the last request may add to the bytes that are allowed, if blocks are not larger.
const REQUEST_BYTES: u64 = 2 << 20;
/// A reply takes no longer than this...
const STALL: Duration = Duration::from_secs(10);
/// ...and than a block at so many bytes a second...
const SLOWEST: u32 = 2048;
/// ...and a moment.
const AIR: Duration = Duration::from_secs(1);

/// The oracle.
#[derive(Debug)]
pub struct PullBounds {
    bytes_max: u64,
    receivers: BTreeMap<u32, BTreeMap<RequestId, Flight>>,
}

/// A request under way.
#[derive(Clone, Debug)]
pub struct Flight {
    /// Who was asked.
    pub source: Place,
    /// Of which object; none: the manifest.
    pub object: Option<ObjectId>,
    /// Which of its blocks did not come yet.
    pub blocks: Range<u32>,
    /// Bytes of a block.
    pub block_size: u32,
    /// When something came of it, or it was sent; by the receiver's clock.
    pub heard_at: Time,
}

impl PullBounds {
    /// Where so many bytes may be under way.
    #[must_use]
    pub const fn new(bytes_max: u64) -> Self {
        Self { bytes_max, receivers: BTreeMap::new() }
    }

    /// The receiver's process is gone, or a new one.
    pub fn on_start(&mut self, receiver: u32) {
        self.receivers.remove(&receiver);
    }

    /// A receiver asks; so many bytes that came before wait to be verified.
    ///
    /// # Errors
    /// When it asks for too much.
    pub fn on_order(&mut self, receiver: u32, request: RequestId, flight: Flight, waiting: u64) -> Verdict {
        let flights = self.receivers.entry(receiver).or_default();
        let (source, block_size) = (flight.source, flight.block_size);
        flights.insert(request, flight);
        let requests = flights.values().filter(|flight| flight.source == source).count();
        if requests > REQUESTS {
            return Err(format!("receiver {receiver} has {requests} requests of {source:?}; {REQUESTS} are allowed"));
        }
        let asked = flights.values().map(|flight| u64::from(flight.block_size) * flight.blocks.len() as u64);
        let (bytes, most) = (asked.sum::<u64>() + waiting, self.bytes_max + REQUEST_BYTES.max(block_size.into()));
        if bytes > most {
            return Err(format!("receiver {receiver} has {bytes} bytes under way by unicast; {most} are allowed"));
        }
        Ok(())
    }

    /// A block came of a request: those up to it are here, or passed over. When all are, it is waited for no longer.
    pub fn on_block(&mut self, now: Time, receiver: u32, request: RequestId, block: u32) {
        let flights = self.receivers.entry(receiver).or_default();
        let Some(flight) = flights.get_mut(&request) else { return };
        flight.heard_at = now;
        flight.blocks.start = flight.blocks.start.max(block.saturating_add(1));
        if flight.blocks.is_empty() {
            flights.remove(&request);
        }
    }

    /// What a receiver waits for.
    pub fn flights(&self, receiver: u32) -> impl Iterator<Item = &Flight> {
        self.receivers.get(&receiver).into_iter().flat_map(BTreeMap::values)
    }

    /// It is over.
    pub fn on_end(&mut self, receiver: u32, request: RequestId) {
        self.receivers.entry(receiver).or_default().remove(&request);
    }

    /// The receiver stands still: it can do nothing.
    pub fn on_pause(&mut self, now: Time, receiver: u32) {
        for flight in self.receivers.entry(receiver).or_default().values_mut() {
            flight.heard_at = now;
        }
    }

    /// A look at a receiver.
    ///
    /// # Errors
    /// When it waits for somebody who gives nothing.
    pub fn look(&self, now: Time, receiver: u32) -> Verdict {
        let late = |flight: &&Flight| {
            let most = STALL + Duration::from_secs((flight.block_size / SLOWEST).into()) + AIR;
            now.since(flight.heard_at) > most
        };
        match self.flights(receiver).find(late) {
            Some(flight) => {
                let (source, since) = (flight.source, now.since(flight.heard_at));
                Err(format!("receiver {receiver} waits for {source:?}, which has given nothing for {since:?}"))
            }
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn flight(blocks: Range<u32>) -> Flight {
        Flight { source: Place::Sender(0), object: Some(ObjectId(1)), blocks, block_size: 1 << 20, heard_at: Time(0) }
    }

    #[test]
    fn too_many_bytes_and_too_many_requests_are_found() {
        let mut oracle = PullBounds::new(1 << 20);
        let mut order = |nth, blocks, waiting| oracle.on_order(0, RequestId(nth), flight(blocks), waiting).is_ok();
        assert!(order(0, 0..1, 0) && order(1, 1..3, 0));
        assert!(!order(1, 1..3, 1), "one byte more");
        let mut oracle = PullBounds::new(1 << 30);
        let mut order = |nth| oracle.on_order(0, RequestId(nth), flight(0..1), 0).is_ok();
        assert!((0..4).all(&mut order) && !order(4));
    }

    #[test]
    fn who_waits_too_long_is_found() {
        let mut oracle = PullBounds::new(1 << 30);
        let after = |seconds| Time::ZERO + Duration::from_secs(seconds);
        oracle.on_order(0, RequestId(0), flight(0..2), 0).unwrap();
        // A block of 1 MiB may take 512 s.
        assert!(oracle.look(after(522), 0).is_ok() && oracle.look(after(524), 0).is_err());
        oracle.on_block(after(500), 0, RequestId(0), 0);
        assert!(oracle.look(after(1_000), 0).is_ok());
        oracle.on_block(after(1_000), 0, RequestId(0), 1);
        assert!(oracle.look(after(9_000), 0).is_ok(), "all is here");
    }
}
