//! What the sender has taken on and not yet told: the content of the next Digests.
//!
//! A promise waits a moment, so that the NACKs of one window share a datagram; Digests then go out at most
//! every [`SPACING`]. What there is to tell is bounded: beyond [`BLOCKS_MAX`] blocks, the oldest objects are
//! told first and new ones are not promised (their receivers ask once more, no harm is done).

use std::collections::BTreeMap;
use std::time::Duration;

use nackcast_common::clock::Time;
use nackcast_common::geometry::Layout;
use nackcast_common::ids::ObjectId;
use nackcast_proto::wire::limits::LAPSE_MAX;
use nackcast_proto::wire::{DigestBody, Promise};

use super::demand::Demand;
use super::event::EngineConfig;

/// Promises gather for so long.
const GATHER: Duration = Duration::from_millis(4);
/// Least time between two Digests: each costs its receivers a signature check.
const SPACING: Duration = Duration::from_millis(12);
/// Blocks that wait to be told.
const BLOCKS_MAX: usize = 100_000;

#[derive(Debug)]
pub(super) struct Promises {
    whole: BTreeMap<ObjectId, ()>,
    blocks: BTreeMap<ObjectId, BTreeMap<u32, u16>>,
    count: usize,
    due_at: Option<Time>,
    last: Option<Time>,
}

/// Promises that go into one Digest.
#[derive(Debug)]
pub(super) struct Due(Vec<Promise>);

impl Promises {
    pub(super) const fn new() -> Self {
        Self { whole: BTreeMap::new(), blocks: BTreeMap::new(), count: 0, due_at: None, last: None }
    }

    /// A demand was taken on.
    pub(super) fn add(&mut self, now: Time, id: ObjectId, demand: &Demand, layout: Layout) {
        if demand.is_empty() || self.count >= BLOCKS_MAX {
            return;
        }
        if demand.whole.count() == u64::from(layout.block_count()) {
            self.count += usize::from(self.whole.insert(id, ()).is_none());
        } else {
            let blocks = self.blocks.entry(id).or_default();
            let before = blocks.len();
            for block in demand.whole.iter() {
                blocks.insert(block, layout.source_symbols(block));
            }
            for (block, asked) in &demand.short {
                let told = blocks.entry(*block).or_insert(0);
                *told = asked.largest().max(*told);
            }
            self.count += blocks.len() - before;
        }
        let earliest = self.last.map_or(now + GATHER, |last| (last + SPACING).max(now + GATHER));
        self.due_at.get_or_insert(earliest);
    }

    pub(super) const fn due_at(&self) -> Option<Time> {
        self.due_at
    }

    /// What one Digest tells now; the rest stays.
    pub(super) fn due(&mut self, now: Time) -> Option<Due> {
        if self.due_at? > now {
            return None;
        }
        let whole = std::mem::take(&mut self.whole).into_keys().map(Promise::Whole);
        let blocks = std::mem::take(&mut self.blocks)
            .into_iter()
            .map(|(id, blocks)| Promise::Blocks(id, blocks.into_iter().filter(|(_, count)| *count > 0).collect()));
        let mut pending: Vec<_> = whole.chain(blocks).collect();
        let mut one = DigestBody {
            channel: Default::default(),
            session: Default::default(),
            epoch: Default::default(),
            sequence: 0,
            time: 0,
            lapse: Duration::ZERO,
            promises: Vec::new(),
        };
        one.fill(&mut pending);
        self.count = 0;
        for promise in pending {
            match promise {
                Promise::Whole(id) => {
                    self.whole.insert(id, ());
                    self.count += 1;
                }
                Promise::Blocks(id, blocks) => {
                    self.count += blocks.len();
                    self.blocks.insert(id, blocks.into_iter().collect());
                }
            }
        }
        self.last = Some(now);
        self.due_at = (self.count > 0).then(|| now + SPACING);
        (!one.promises.is_empty()).then_some(Due(one.promises))
    }
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
