//! Unicast pull, the last resort: which blocks are asked of which source, and what becomes of sources.
//!
//! | source state | on | to |
//! |---|---|---|
//! | usable | a request broke, or its next block took too long ([`SLOWEST`]) | backing off, each time twice as long |
//! | usable | it did not have (all of) an object | usable, not for this object for [`LACKS`] |
//! | backing off | time | usable |
//! | any | a block of it was wrong | dropped, for good |
//!
//! - Several sources at once; in flight are at most [`Pull::bytes_max`] bytes (and one request), counted until a block
//!   is verified, and [`REQUESTS`] requests of one source.
//! - A source that is not there holds nothing up: as soon as another one was reached, it has [`REACHED_IN`]; then what
//!   was asked of it is asked elsewhere.
//! - A request that breaks is taken up at the block where it broke, from whichever source is usable.
//! - What may be pulled is not decided here: see [`super::pulling`].

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::ops::Range;
use std::time::Duration;

use nackcast_common::clock::Time;
use nackcast_common::geometry::Layout;
use nackcast_common::ids::ObjectId;
use nackcast_common::mutation::{Mutation, planted};
use nackcast_common::ranges::RangeSet;

/// Somebody who may have blocks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SourceId(pub u32);

/// A request that was ordered.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RequestId(pub u64);

/// When blocks are pulled at all.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum PullWhen {
    /// Never.
    Never,
    /// When the sender has no passes left for the object, or when no sender answers.
    #[default]
    Last,
    /// Also when the sender does not have the object.
    Unknown,
}

/// Order to the driver.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PullOrder {
    /// Ask this source for the manifest that it has.
    Manifest {
        /// Names the request.
        request: RequestId,
        /// Whom to ask.
        source: SourceId,
    },
    /// Ask this source for these blocks.
    Fetch {
        /// Names the request.
        request: RequestId,
        /// Whom to ask.
        source: SourceId,
        /// The object.
        object: ObjectId,
        /// Which of its blocks.
        blocks: Range<u32>,
    },
    /// What this request asked for is not wanted any more.
    Cancel {
        /// The request.
        request: RequestId,
    },
}

/// How a request ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PullEnd {
    /// The source gave what it has.
    Over,
    /// The source could not be reached, or refused, or the connection broke.
    Broken,
}

/// Requests to one source at once.
const REQUESTS: usize = 4;
/// Bytes that one request asks for, if blocks are not larger.
const REQUEST_BYTES: u64 = 2 << 20;
/// Blocks that one request asks for at most.
const REQUEST_BLOCKS: u32 = 256;
/// A request has failed if its next reply took longer than this...
const STALL: Duration = Duration::from_secs(10);
/// ...and than the block at so many bytes a second. (Of a dead source the driver tells much sooner.) A way that loses
/// most of what it carries gives a block in ten seconds; who began each block anew would never get one.
const SLOWEST: u32 = 2048;
/// So long may it take to reach a source, where another one was reached. To find out that nobody is there takes ten times
/// as long, and a way that loses much needs them.
const REACHED_IN: Duration = Duration::from_secs(1);
/// A source that failed is left alone for so long, at first and at most.
const BACKOFF: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(60));
/// A source that did not have an object is asked for it again after so long.
const LACKS: Duration = Duration::from_secs(5);
/// Objects that a source lacks are remembered up to here; beyond, they are asked for again.
const LACKS_MAX: usize = 4096;
/// A source that was asked for its manifest is asked again after so long: while none is held, and when one is.
const MANIFEST_AGAIN: [Duration; 2] = [Duration::from_secs(5), Duration::from_secs(60)];

#[derive(Clone, Debug, Default)]
struct Source {
    retry_at: Time,
    backoff: Duration,
    /// It is asked for its manifest not before.
    manifest_at: Time,
    dropped: bool,
    /// It was reached, and did not fail since.
    is_reached: bool,
    lacks: BTreeMap<ObjectId, Time>,
    /// Sound bytes that it gave.
    bytes: u64,
}

#[derive(Clone, Debug)]
struct Flight {
    source: SourceId,
    /// None: the manifest.
    object: Option<(ObjectId, Layout)>,
    /// Blocks that did not arrive yet.
    blocks: Range<u32>,
    heard_at: Time,
}

impl Flight {
    fn stalls_at(&self, is_reached: bool, another_is: bool) -> Time {
        if another_is && !is_reached {
            return self.heard_at + REACHED_IN;
        }
        let block = self.object.map_or(0, |(_, layout)| layout.geometry().block_size());
        self.heard_at + STALL + Duration::from_secs((block / SLOWEST).into())
    }
}

/// All requests and sources.
#[derive(Debug)]
pub(super) struct Pull {
    pub(super) when: PullWhen,
    sources: BTreeMap<SourceId, Source>,
    flights: BTreeMap<RequestId, Flight>,
    /// Blocks that arrived and are being verified.
    checking: BTreeMap<(ObjectId, u32), (SourceId, u64)>,
    next: u64,
    bytes_max: u64,
    orders: VecDeque<PullOrder>,
    /// Where the search for work goes on.
    pub(super) cursor: ObjectId,
    /// When to look again, if nothing else happens.
    pub(super) look_at: Option<Time>,
    /// Somebody offered a manifest by unicast: it is live.
    pub(super) vouched: bool,
}

impl Pull {
    pub(super) const fn new() -> Self {
        Self {
            when: PullWhen::Never,
            sources: BTreeMap::new(),
            flights: BTreeMap::new(),
            checking: BTreeMap::new(),
            next: 0,
            bytes_max: 0,
            orders: VecDeque::new(),
            cursor: ObjectId(0),
            look_at: None,
            vouched: false,
        }
    }

    pub(super) const fn set_up(&mut self, when: PullWhen, bytes_max: u64) {
        self.when = when;
        self.bytes_max = bytes_max;
    }

    pub(super) fn add_source(&mut self, source: SourceId) {
        self.sources.entry(source).or_default();
    }

    /// Whether anything can ever be pulled.
    pub(super) fn is_possible(&self) -> bool {
        self.when != PullWhen::Never && self.sources.values().any(|source| !source.dropped)
    }

    pub(super) fn poll(&mut self) -> Option<PullOrder> {
        self.orders.pop_front()
    }

    /// Sound bytes by source.
    pub(super) fn pulled(&self) -> impl Iterator<Item = (SourceId, u64)> + '_ {
        self.sources.iter().map(|(id, source)| (*id, source.bytes))
    }

    /// Something is under way, or being verified.
    pub(super) fn is_busy(&self) -> bool {
        !(self.flights.is_empty() && self.checking.is_empty())
    }

    /// Bytes under way and being verified.
    fn in_flight(&self) -> u64 {
        let asked = self.flights.values().filter_map(|flight| {
            let (_, layout) = flight.object?;
            Some(u64::from(layout.geometry().block_size()) * flight.blocks.len() as u64)
        });
        asked.sum::<u64>() + self.checking.values().map(|(_, bytes)| bytes).sum::<u64>()
    }

    /// Room for another request.
    pub(super) fn has_room(&self) -> bool {
        !self.is_busy() || self.in_flight() < self.bytes_max
    }

    /// A source was asked for its manifest a moment ago: until when no other one is.
    fn asks_for_manifest_until(&self, now: Time) -> Option<Time> {
        let asked = self.flights.values().filter(|flight| flight.object.is_none());
        asked.map(|flight| flight.heard_at + REACHED_IN).max().filter(|until| *until > now)
    }

    /// A source was reached: the way to it works.
    pub(super) fn on_reached(&mut self, source: SourceId) {
        if let Some(source) = self.sources.get_mut(&source) {
            source.is_reached = true;
        }
    }

    /// Each request with the time at which it has failed if nothing comes.
    fn stalls(&self) -> impl Iterator<Item = (RequestId, Time)> + '_ {
        let is_reached =
            |id: &SourceId| self.sources.get(id).is_some_and(|source| source.is_reached && !source.dropped);
        let reached = self.sources.keys().filter(|id| is_reached(id)).count();
        self.flights.iter().map(move |(id, flight)| (*id, flight.stalls_at(is_reached(&flight.source), reached > 0)))
    }

    fn requests_of(&self, source: SourceId) -> usize {
        self.flights.values().filter(|flight| flight.source == source).count()
    }

    /// The usable source with the fewest requests; `object` is one that it does not lack.
    pub(super) fn usable(&self, now: Time, object: Option<ObjectId>) -> Option<SourceId> {
        let usable = self.sources.iter().filter(|(id, source)| {
            let lacks = object.and_then(|object| source.lacks.get(&object)).is_some_and(|until| now < *until);
            !source.dropped && now >= source.retry_at && !lacks && self.requests_of(**id) < REQUESTS
        });
        usable.map(|(id, _)| (self.requests_of(*id), *id)).min().map(|(_, id)| id)
    }

    /// When a source that cannot be asked now can be.
    pub(super) fn next_usable(&self, now: Time) -> Option<Time> {
        let sources = self.sources.values().filter(|source| !source.dropped);
        let times = sources.flat_map(|source| source.lacks.values().copied().chain([source.retry_at]));
        times.filter(|at| *at > now).min()
    }

    /// Asks a source for its manifest: each in turn, the next when nothing came for a moment, and more seldom when we
    /// have one.
    pub(super) fn ask_manifest(&mut self, now: Time, has_one: bool) {
        if self.asks_for_manifest_until(now).is_some() {
            return;
        }
        let usable = |(id, source): &(&SourceId, &Source)| {
            let is_time = now >= source.retry_at.max(source.manifest_at);
            is_time && !source.dropped && self.requests_of(**id) < REQUESTS
        };
        let next = self.sources.iter().filter(usable).min_by_key(|(id, source)| (source.manifest_at, **id));
        let Some(source) = next.map(|(id, _)| *id) else { return };
        if let Some(asked) = self.sources.get_mut(&source) {
            asked.manifest_at = now + MANIFEST_AGAIN[usize::from(has_one)];
        }
        let request = self.begin(Flight { source, object: None, blocks: 0..0, heard_at: now });
        self.orders.push_back(PullOrder::Manifest { request, source });
    }

    /// When a source may be asked for its manifest that cannot be now.
    pub(super) fn next_manifest(&self, now: Time) -> Option<Time> {
        let sources = self.sources.values().filter(|source| !source.dropped);
        let next = sources.map(|source| source.retry_at.max(source.manifest_at)).min()?;
        Some(self.asks_for_manifest_until(now).map_or(next, |until| next.max(until))).filter(|at| *at > now)
    }

    fn begin(&mut self, flight: Flight) -> RequestId {
        let request = RequestId(self.next);
        self.next += 1;
        self.flights.insert(request, flight);
        request
    }

    /// Asks a source for blocks of `gaps`, from the first on that is not under way. False when all are.
    pub(super) fn fetch(
        &mut self,
        now: Time,
        source: SourceId,
        object: ObjectId,
        layout: Layout,
        gaps: impl Iterator<Item = Range<u32>>,
    ) -> bool {
        let mut taken = RangeSet::new();
        for flight in self.flights.values().filter(|flight| flight.object.is_some_and(|(id, _)| id == object)) {
            taken.insert(flight.blocks.clone());
        }
        for (_, block) in self.checking.range((object, 0)..=(object, u32::MAX)).map(|(key, _)| *key) {
            taken.insert(block..block + 1);
        }
        let mut free = gaps.map(|gap| {
            let mut free = RangeSet::new();
            free.insert(gap);
            taken.ranges().for_each(|range| free.remove(range));
            free
        });
        let Some(run) = free.find_map(|free| free.ranges().next()) else { return false };
        let block_size = u64::from(layout.geometry().block_size());
        let most = u32::try_from(REQUEST_BYTES / block_size).unwrap_or(u32::MAX).clamp(1, REQUEST_BLOCKS);
        let blocks = run.start..run.end.min(run.start.saturating_add(most));
        let flight = Flight { source, object: Some((object, layout)), blocks: blocks.clone(), heard_at: now };
        let request = self.begin(flight);
        self.orders.push_back(PullOrder::Fetch { request, source, object, blocks });
        true
    }

    /// A block arrived, of so many bytes: which object it is of, if it was asked for. It is being verified from now
    /// on.
    pub(super) fn on_block(&mut self, now: Time, request: RequestId, block: u32) -> Option<(ObjectId, Layout)> {
        let flight = self.flights.get_mut(&request)?;
        let (object, layout) = flight.object.filter(|_| flight.blocks.contains(&block))?;
        // They come in order: what was passed over the source does not have.
        if block > flight.blocks.start {
            self.sources.entry(flight.source).or_default().lack(now, object);
        }
        flight.blocks.start = block + 1;
        flight.heard_at = now;
        let source = flight.source;
        self.checking.insert((object, block), (flight.source, layout.block_len(block).into()));
        if flight.blocks.is_empty() {
            // All is here: how the request ends says nothing more.
            self.flights.remove(&request);
        }
        self.on_reached(source);
        Some((object, layout))
    }

    /// The manifest that was asked for is followed: nobody else is asked for it, and how the request ends says nothing more.
    pub(super) fn manifest_came(&mut self) {
        self.cancel(|flight| flight.object.is_none());
    }

    /// A request is over.
    pub(super) fn on_over(&mut self, now: Time, request: RequestId, end: PullEnd) {
        let Some(flight) = self.flights.remove(&request) else { return };
        let Some(source) = self.sources.get_mut(&flight.source) else { return };
        match (end, flight.object) {
            (PullEnd::Over, Some((object, _))) if !flight.blocks.is_empty() => source.lack(now, object),
            (PullEnd::Over, _) => {}
            (PullEnd::Broken, _) => source.fail(now),
        }
        if end == PullEnd::Over {
            self.on_reached(flight.source);
        }
    }

    /// A block that arrived was verified: who gave it. A wrong one was the last of its source.
    pub(super) fn on_checked(&mut self, object: ObjectId, block: u32, sound: Option<bool>) -> Option<SourceId> {
        let (source_id, bytes) = self.checking.remove(&(object, block))?;
        let source = self.sources.get_mut(&source_id)?;
        match sound {
            Some(true) => {
                source.bytes += bytes;
                source.backoff = Duration::ZERO;
            }
            Some(false) => {
                source.dropped = !planted(Mutation::SourceNotDropped);
                self.cancel(|flight| flight.source == source_id);
            }
            None => {}
        }
        Some(source_id)
    }

    /// Ends requests of which nothing came for long.
    pub(super) fn expire(&mut self, now: Time) {
        let stalled: Vec<_> = self.stalls().filter(|(_, at)| now >= *at).map(|(id, _)| id).collect();
        for request in stalled {
            self.orders.push_back(PullOrder::Cancel { request });
            self.on_over(now, request, PullEnd::Broken);
        }
    }

    /// When the next request stalls.
    pub(super) fn stalls_at(&self) -> Option<Time> {
        self.stalls().map(|(_, at)| at).min()
    }

    /// Ends requests for objects that are not wanted (from here) any more.
    pub(super) fn keep(&mut self, wanted: impl Fn(ObjectId) -> bool, manifest_wanted: bool) {
        let objects: BTreeSet<_> =
            self.flights.values().filter_map(|f| f.object).map(|(id, _)| id).filter(|id| !wanted(*id)).collect();
        self.cancel(|flight| flight.object.map_or(!manifest_wanted, |(id, _)| objects.contains(&id)));
    }

    fn cancel(&mut self, which: impl Fn(&Flight) -> bool) {
        let requests: Vec<_> = self.flights.iter().filter(|(_, f)| which(f)).map(|(id, _)| *id).collect();
        for request in requests {
            self.flights.remove(&request);
            // What nobody took yet is never sent.
            let waiting = self.orders.iter().position(|order| order.request() == request);
            match waiting.and_then(|at| self.orders.remove(at)) {
                Some(_) => {}
                None => self.orders.push_back(PullOrder::Cancel { request }),
            }
        }
    }
}

impl PullOrder {
    const fn request(&self) -> RequestId {
        match self {
            Self::Manifest { request, .. } | Self::Fetch { request, .. } | Self::Cancel { request } => *request,
        }
    }
}

impl Source {
    fn lack(&mut self, now: Time, object: ObjectId) {
        if self.lacks.len() >= LACKS_MAX {
            self.lacks.clear();
        }
        self.lacks.retain(|_, until| *until > now);
        self.lacks.insert(object, now + LACKS);
    }

    fn fail(&mut self, now: Time) {
        self.is_reached = false;
        // Several requests of one connection break together: that is one failure.
        if now < self.retry_at {
            return;
        }
        self.backoff = (self.backoff * 2).clamp(BACKOFF.0, BACKOFF.1);
        self.retry_at = now + self.backoff;
    }
}

#[cfg(test)]
mod tests;
