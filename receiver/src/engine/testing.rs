//! An engine that is told at once that its work is done: what its tests share.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use nackcast_common::clock::Time;
use nackcast_common::geometry::Geometry;
use nackcast_common::hash::merge;
use nackcast_common::ids::{Digest, Epoch, Generation, ObjectIndex};
use nackcast_common::manifest::{Chaining, ChainingValue, Head, Manifest, ObjectKind, ObjectRecord};
use nackcast_common::ranges::RangeSet;
use nackcast_proto::wire::{Advertisement, DigestBody, Promise};

use super::{BlockOutcome, Done, EngineConfig, InstallOutcome, ReceiverEngine, Transmit, Want, Wants, Work};
use crate::testing::{CHANNEL, SESSION, advertisement};

pub(super) const OBJECTS: u32 = 3;
const HASH: Digest = Digest([7; 32]);

/// Objects of three blocks of 11 symbols, and a last one of 8.
fn manifest() -> Arc<Manifest> {
    let geometry = Geometry::new(100, 1024, 1).unwrap();
    let object = |number: u32| {
        let layout = geometry.object(4096 - 300).unwrap();
        let value = |block: u32| -> ChainingValue { Digest::of(format!("{number} {block}").as_bytes()).0 };
        let values: Vec<_> = (0..layout.block_count()).map(value).collect();
        let digest = merge(&values);
        let id = geometry.object_id(&digest, layout.size());
        let chaining = Chaining::Inline(values.into());
        ObjectRecord { id, digest, layout, kind: ObjectKind::Pack, since: Generation(1), chaining }
    };
    let head = Head { channel: CHANNEL, generation: Generation(1), parent: None, epoch: Epoch(1), geometry };
    Arc::new(Manifest::new(head, (0..OBJECTS).map(object).collect(), Vec::new()).unwrap())
}

/// An engine, and what its node would have answered and sent.
pub(super) struct Rig {
    pub(super) engine: ReceiverEngine,
    manifest: Arc<Manifest>,
    /// How blocks come out.
    pub(super) outcome: BlockOutcome,
    /// How objects come out.
    pub(super) installed: InstallOutcome,
    /// There is room for a block.
    pub(super) has_room: bool,
    pub(super) work: Vec<Work>,
    pub(super) sent: Vec<Transmit>,
    sequence: u64,
}

impl Rig {
    /// Every object is wanted, and nothing is here.
    pub(super) fn new(slots: u32) -> Self {
        let config = EngineConfig {
            channel: CHANNEL,
            seed: 1,
            nack_retry: Duration::from_millis(50),
            nack_budget: 4,
            slots,
            remembered: Some((Generation(1), HASH)),
            once: false,
        };
        let mut rig = Self {
            engine: ReceiverEngine::new(config),
            manifest: manifest(),
            outcome: BlockOutcome::Sound,
            installed: InstallOutcome::Installed,
            has_room: true,
            work: Vec::new(),
            sent: Vec::new(),
            sequence: 0,
        };
        let want = |index| Want { index: ObjectIndex(index), done: RangeSet::new(), held: Vec::new() };
        let (manifest, objects) = (Arc::clone(&rig.manifest), (0..OBJECTS).map(want).collect());
        rig.engine.handle_wants(Time::ZERO, Wants { manifest, hash: HASH, objects });
        rig.drain(Time::ZERO);
        rig
    }

    pub(super) fn object(&self, index: u32) -> &ObjectRecord {
        self.manifest.object(ObjectIndex(index)).unwrap()
    }

    pub(super) fn advertise(&mut self, now: Time, data_packets: u64) {
        self.sequence += 1;
        let advertisement = Advertisement {
            grtt: Duration::from_millis(2),
            nack_window: Duration::from_millis(12),
            group_size: 4,
            rate_bps: 1_000_000,
            ..advertisement(now, self.sequence, data_packets)
        };
        let from: SocketAddr = "10.0.0.1:7600".parse().unwrap();
        self.engine.handle_advertisement(now, from, &advertisement);
        self.drain(now);
    }

    pub(super) fn promise(&mut self, now: Time, promises: Vec<Promise>) {
        self.sequence += 1;
        let digest = DigestBody {
            channel: CHANNEL,
            session: SESSION,
            epoch: Epoch(1),
            sequence: self.sequence,
            time: now.0,
            lapse: Duration::from_millis(40),
            promises,
        };
        self.engine.handle_digest(now, &digest);
    }

    /// Does all work that is ordered.
    pub(super) fn drain(&mut self, now: Time) {
        while let Some(work) = self.engine.poll_work() {
            let held = |object, block| self.engine.held_symbols(object, block).cloned();
            let done = match work.clone() {
                Work::Complete { object, block, slot } => {
                    Some(Done::Complete { object, block, slot, outcome: self.outcome })
                }
                Work::Spill { object, block, slot } => {
                    Some(Done::Spill { object, block, slot, held: held(object, block) })
                }
                Work::Load { object, block, slot } => {
                    let held = held(object, block).unwrap_or_default();
                    Some(Done::Load { object, block, slot, held })
                }
                Work::Install { object } => Some(Done::Install { object, outcome: self.installed.clone() }),
                Work::Checkpoint { .. } => Some(Done::Checkpoint),
                Work::Room => Some(Done::Room { is_there: self.has_room }),
                Work::Finish => Some(Done::Finish { whole: true }),
                Work::Discard { .. } | Work::Assemble(_) => None,
            };
            self.work.push(work);
            if let Some(done) = done {
                self.engine.handle_done(now, done);
            }
        }
        while let Some(transmit) = self.engine.poll_transmit() {
            self.sent.push(transmit);
        }
        while self.engine.poll_event().is_some() {}
    }
}
