//! A run is the same as its symbols one by one: two engines get the same inputs, one of them in runs.

#![allow(clippy::unwrap_used, reason = "a test may fail")]

use std::net::SocketAddr;
use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use nackcast_common::clock::Time;
use nackcast_common::geometry::Geometry;
use nackcast_common::hash::merge;
use nackcast_common::ids::{ChannelId, Digest, Epoch, Generation, ObjectIndex, SessionId, StartNumber};
use nackcast_common::keys::SigningKey;
use nackcast_common::manifest::{Chaining, ChainingValue, Head, Manifest, ObjectKind, ObjectRecord};
use nackcast_common::ranges::RangeSet;
use nackcast_proto::wire::symbol::SymbolId;
use nackcast_proto::wire::{Advertisement, DigestBody, Promise, Role, SenderCertificate, SenderState};
use nackcast_receiver::engine::{
    BlockOutcome, Done, EngineConfig, InstallOutcome, ReceiverEngine, Transmit, Want, Wants, Work,
};
use proptest::prelude::*;

const CHANNEL: ChannelId = ChannelId([3; 16]);
const SESSION: SessionId = SessionId(5);
const OBJECTS: u32 = 3;

/// What happens to both engines.
#[derive(Clone, Debug)]
enum Input {
    Run {
        object: u32,
        block: u32,
        esis: Range<u16>,
        skipped: u64,
        lost: Vec<u16>,
    },
    Promise {
        object: u32,
        block: u32,
        count: u16,
    },
    Wait(u64),
    /// The block turns out wrong, or cannot be kept.
    Outcome(BlockOutcome),
}

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

struct Side {
    engine: ReceiverEngine,
    manifest: Arc<Manifest>,
    in_runs: bool,
    outcome: BlockOutcome,
    work: Vec<Work>,
    sent: Vec<Transmit>,
    sequence: u64,
}

impl Side {
    fn new(in_runs: bool, slots: u32) -> Self {
        let config = EngineConfig {
            channel: CHANNEL,
            seed: 1,
            nack_retry: Duration::from_millis(50),
            nack_budget: 4,
            slots,
            remembered: Some((Generation(1), Digest([7; 32]))),
        };
        let engine = ReceiverEngine::new(config);
        let outcome = BlockOutcome::Sound;
        let manifest = manifest();
        let (work, sent) = (Vec::new(), Vec::new());
        let mut side = Self { engine, manifest, in_runs, outcome, work, sent, sequence: 0 };
        let wants =
            (0..OBJECTS).map(|index| Want { index: ObjectIndex(index), done: RangeSet::new(), held: Vec::new() });
        let manifest = Arc::clone(&side.manifest);
        side.engine.handle_wants(Time::ZERO, Wants { manifest, hash: Digest([7; 32]), objects: wants.collect() });
        side.drain(Time::ZERO);
        side
    }

    fn advertise(&mut self, now: Time, data_packets: u64) {
        self.sequence += 1;
        let key = SigningKey::from_seed([2; 32]);
        let certificate = SenderCertificate::issue(&SigningKey::from_seed([1; 32]), CHANNEL, key.verifying_key());
        let advertisement = Advertisement {
            channel: CHANNEL,
            session: SESSION,
            epoch: Epoch(1),
            sequence: self.sequence,
            start_number: StartNumber(1),
            time: now.0,
            interval: Duration::from_millis(250),
            generation: Generation(1),
            manifest: None,
            certificate,
            role: Role::Primary,
            state: SenderState::Active,
            data_group: "239.1.1.1:7601".parse().unwrap(),
            nack_port: 7701,
            quic_port: 0,
            grtt: Duration::from_millis(2),
            nack_window: Duration::from_millis(12),
            group_size: 4,
            max_passes: 16,
            rate_bps: 1_000_000,
            first_pass_cursor: u32::MAX,
            first_pass_since: Generation(0),
            finished: Vec::new(),
            data_packets,
            manifest_sent: true,
            rank: 0,
        };
        let from: SocketAddr = "10.0.0.1:7600".parse().unwrap();
        self.engine.handle_advertisement(now, from, &advertisement);
        self.drain(now);
    }

    fn drain(&mut self, now: Time) {
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
                Work::Install { object } => Some(Done::Install { object, outcome: InstallOutcome::Installed }),
                Work::Checkpoint { .. } => Some(Done::Checkpoint),
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

    fn apply(&mut self, now: &mut Time, packet: u64, input: &Input) {
        let object = |index: u32| self.manifest.object(ObjectIndex(index)).unwrap();
        match input {
            Input::Run { object: index, block, esis, lost, .. } => {
                let id = object(*index).id;
                if self.in_runs {
                    self.engine.handle_run(*now, SESSION, packet, id, *block, esis.clone(), lost);
                } else {
                    for (place, esi) in (0_u16..).zip(esis.clone()).filter(|(place, _)| !lost.contains(place)) {
                        let symbol = SymbolId { object: id, block: *block, esi };
                        self.engine.handle_symbol(*now, SESSION, packet + u64::from(place), symbol);
                    }
                }
            }
            Input::Promise { object: index, block, count } => {
                self.sequence += 1;
                let digest = DigestBody {
                    channel: CHANNEL,
                    session: SESSION,
                    epoch: Epoch(1),
                    sequence: self.sequence,
                    time: now.0,
                    lapse: Duration::from_millis(40),
                    promises: vec![Promise::Blocks(object(*index).id, vec![(*block, *count)])],
                };
                self.engine.handle_digest(*now, &digest);
            }
            Input::Wait(micros) => {
                *now += Duration::from_micros(*micros);
                self.engine.handle_timeout(*now);
            }
            Input::Outcome(outcome) => self.outcome = *outcome,
        }
        self.drain(*now);
    }
}

fn input() -> impl Strategy<Value = Input> {
    let run = (0..OBJECTS, 0_u32..5, 0_u16..30, 1_u16..40, 0_u64..700, prop::collection::btree_set(0_u16..40, 0..4));
    let run = run.prop_map(|(object, block, start, count, skipped, lost)| {
        // Source symbols 0..11 (the last block has 8), or repair symbols behind them.
        let k = if block == 3 { 8 } else { 11 };
        let esis = if start < k { start..(start + count).min(k) } else { start..start + count };
        let count = esis.end - esis.start;
        Input::Run { object, block, esis, skipped, lost: lost.into_iter().filter(|at| *at < count).collect() }
    });
    let promise = (0..OBJECTS, 0_u32..4, 1_u16..12);
    let outcome = prop_oneof![
        4 => Just(BlockOutcome::Sound),
        1 => Just(BlockOutcome::Unsound),
        1 => Just(BlockOutcome::NotKept),
    ];
    prop_oneof![
        12 => run,
        2 => promise.prop_map(|(object, block, count)| Input::Promise { object, block, count }),
        4 => (0_u64..60_000).prop_map(Input::Wait),
        1 => outcome.prop_map(Input::Outcome),
    ]
}

proptest! {
    #[test]
    fn a_run_is_its_symbols_one_by_one(inputs in prop::collection::vec(input(), 1..120), slots in 4_u32..12) {
        let mut sides = [Side::new(true, slots), Side::new(false, slots)];
        let mut times = [Time(1), Time(1)];
        let mut packet = 0;
        for (number, input) in inputs.iter().enumerate() {
            if let Input::Run { skipped, .. } = input {
                // Sometimes a window of the loss estimate ends in the middle of a run.
                packet += skipped;
            }
            for (side, now) in sides.iter_mut().zip(&mut times) {
                if number % 7 == 0 {
                    side.advertise(*now, packet);
                }
                side.apply(now, packet, input);
            }
            if let Input::Run { esis, .. } = input {
                packet += u64::from(esis.end - esis.start);
            }
            let [runs, symbols] = &sides;
            prop_assert_eq!(runs.engine.snapshot(), symbols.engine.snapshot(), "after input {}", number);
            prop_assert_eq!(&runs.work, &symbols.work);
            prop_assert_eq!(&runs.sent, &symbols.sent);
            prop_assert_eq!(runs.engine.poll_deadline(), symbols.engine.poll_deadline());
        }
    }
}
