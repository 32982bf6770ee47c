//! What the sender has taken on and not yet told: the content of the next Digests.
//!
//! - A promise waits a moment, so that the NACKs of one window share a datagram.
//! - Digests take at most [`SHARE`] of the rate, and there is at most one every [`SPACING`].
//! - What was taken on first is told first. What there is to tell is bounded: beyond [`BLOCKS_MAX`] blocks new
//!   demands are not promised (their receivers ask once more, no harm is done).

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use nackcast_common::clock::Time;
use nackcast_common::geometry::Layout;
use nackcast_common::ids::ObjectId;
use nackcast_common::units::{BitRate, RateLimit};
use nackcast_proto::wire::limits::LAPSE_MAX;
use nackcast_proto::wire::{DigestBody, Promise, PromiseList};

use super::IP_UDP_LEN;
use super::demand::Demand;
use super::event::EngineConfig;

/// Promises gather for so long.
const GATHER: Duration = Duration::from_millis(4);
/// Least time between two Digests: each costs its receivers a signature check.
const SPACING: Duration = Duration::from_millis(12);
/// One part in so many of the rate is for Digests.
const SHARE: u64 = 50;
/// More blocks than this are in no datagram.
const BLOCKS_PER_DIGEST: usize = 4096;
/// Blocks that wait to be told.
pub(super) const BLOCKS_MAX: usize = 100_000;

#[derive(Debug)]
pub(super) struct Promises {
    /// The objects of `waiting`, as they came.
    order: VecDeque<ObjectId>,
    waiting: BTreeMap<ObjectId, Waiting>,
    count: usize,
    due_at: Option<Time>,
    /// The Digests so far used their part of the rate up to here.
    not_before: Time,
}

/// What is to be told of one object.
#[derive(Debug)]
enum Waiting {
    Whole,
    Blocks(BTreeMap<u32, u16>),
}

impl Waiting {
    fn count(&self) -> usize {
        match self {
            Self::Whole => 1,
            Self::Blocks(blocks) => blocks.len(),
        }
    }
}

/// Promises that go into one Digest.
#[derive(Debug)]
pub(super) struct Due(Vec<Promise>);

impl Promises {
    pub(super) const fn new() -> Self {
        Self { order: VecDeque::new(), waiting: BTreeMap::new(), count: 0, due_at: None, not_before: Time::ZERO }
    }

    /// A demand was taken on.
    pub(super) fn add(&mut self, now: Time, id: ObjectId, demand: &Demand, layout: Layout) {
        if demand.is_empty() || self.count >= BLOCKS_MAX {
            return;
        }
        let waiting = self.waiting.entry(id).or_insert_with(|| {
            self.order.push_back(id);
            Waiting::Blocks(BTreeMap::new())
        });
        let before = waiting.count();
        if demand.whole.count() == u64::from(layout.block_count()) {
            *waiting = Waiting::Whole;
        } else if let Waiting::Blocks(blocks) = waiting {
            for block in demand.whole.iter() {
                blocks.insert(block, layout.source_symbols(block));
            }
            for (block, asked) in &demand.short {
                let told = blocks.entry(*block).or_insert(0);
                *told = asked.largest().max(*told);
            }
        }
        self.count = self.count + waiting.count() - before;
        self.due_at.get_or_insert((now + GATHER).max(self.not_before));
    }

    /// Blocks and whole objects that wait to be told.
    pub(super) const fn len(&self) -> usize {
        self.count
    }

    pub(super) const fn due_at(&self) -> Option<Time> {
        self.due_at
    }

    fn next(&mut self) -> Option<(ObjectId, Waiting)> {
        let id = self.order.pop_front()?;
        let waiting = self.waiting.remove(&id)?;
        self.count -= waiting.count();
        Some((id, waiting))
    }

    /// What one Digest tells now; the rest stays.
    pub(super) fn due(&mut self, now: Time, rate: RateLimit) -> Option<Due> {
        if self.due_at? > now {
            return None;
        }
        let mut list = PromiseList::default();
        while let Some((id, mut waiting)) = self.next() {
            if let Some(rest) = waiting.take(id).and_then(|promise| list.add(promise)) {
                waiting.give_back(rest);
            }
            if waiting.count() > 0 {
                self.count += waiting.count();
                self.waiting.insert(id, waiting);
                self.order.push_front(id);
                break;
            }
        }
        self.not_before = now + spacing(list.datagram_len(), rate);
        self.due_at = (!self.order.is_empty()).then_some(self.not_before);
        let promises = list.into_vec();
        (!promises.is_empty()).then_some(Due(promises))
    }
}

impl Waiting {
    /// Takes out what a datagram may hold, at most.
    fn take(&mut self, id: ObjectId) -> Option<Promise> {
        match self {
            Self::Whole => {
                *self = Self::Blocks(BTreeMap::new());
                Some(Promise::Whole(id))
            }
            Self::Blocks(blocks) => {
                let some = std::iter::from_fn(|| blocks.pop_first()).take(BLOCKS_PER_DIGEST);
                let some: Vec<_> = some.filter(|(_, count)| *count > 0).collect();
                (!some.is_empty()).then_some(Promise::Blocks(id, some))
            }
        }
    }

    fn give_back(&mut self, rest: Promise) {
        match (&mut *self, rest) {
            (Self::Blocks(blocks), Promise::Blocks(_, rest)) => blocks.extend(rest),
            (_, _) => *self = Self::Whole,
        }
    }
}

/// How long a Digest of this size keeps the next one back.
fn spacing(datagram_len: usize, rate: RateLimit) -> Duration {
    let RateLimit::Fixed(BitRate(rate)) = rate else { return SPACING };
    let bits = (datagram_len as u64 + IP_UDP_LEN) * 8;
    Duration::from_micros(bits.saturating_mul(1_000_000 * SHARE) / rate.max(1)).max(SPACING)
}

impl Due {
    pub(super) fn into_digest(self, config: &EngineConfig, sequence: u64, now: Time, lapse: Duration) -> DigestBody {
        DigestBody {
            channel: config.channel,
            session: config.session,
            epoch: config.epoch,
            sequence,
            time: now.0,
            lapse: lapse.min(LAPSE_MAX),
            promises: self.0,
        }
    }
}

#[cfg(test)]
mod tests {
    use nackcast_common::geometry::Geometry;
    use nackcast_common::ranges::RangeSet;

    use super::*;

    fn whole(layout: Layout) -> Demand {
        Demand { whole: RangeSet::full(layout.block_count()), ..Demand::default() }
    }

    #[test]
    fn what_was_taken_on_first_is_told_first_and_everything_once() {
        let layout = Geometry::default().object(100_000).unwrap();
        let mut promises = Promises::new();
        let ids: Vec<_> = (0..1000).map(|i| ObjectId(1000 - i)).collect();
        for id in &ids {
            promises.add(Time::ZERO, *id, &whole(layout), layout);
            promises.add(Time::ZERO, *id, &whole(layout), layout);
        }
        let mut told = Vec::new();
        while let Some(at) = promises.due_at() {
            told.extend(promises.due(at, RateLimit::Max).unwrap().0);
        }
        assert_eq!(told, ids.into_iter().map(Promise::Whole).collect::<Vec<_>>());
        assert_eq!(promises.count, 0);
    }

    #[test]
    fn digests_keep_to_their_part_of_the_rate() {
        let layout = Geometry::default().object(100_000).unwrap();
        for rate in [1_000_000, 20_000_000, 1_000_000_000] {
            let mut promises = Promises::new();
            for id in 0..5000 {
                promises.add(Time::ZERO, ObjectId(id), &whole(layout), layout);
            }
            let first = promises.due_at().unwrap();
            let (mut bits, mut last, mut digests) = (0, first, 0);
            while let Some(at) = promises.due_at() {
                let due = promises.due(at, RateLimit::Fixed(BitRate(rate))).unwrap();
                // What is certainly in the datagram.
                (bits, last, digests) = (bits + due.0.len() as u64 * 11 * 8, at, digests + 1);
            }
            let allowed = rate * u64::try_from(last.since(first).as_micros()).unwrap() / 1_000_000 / 50;
            let one = 1500 * 8;
            assert!(bits <= allowed + one, "{rate}: {bits} bits in {digests} Digests, {allowed} allowed");
        }
    }
}
