//! When the engine pulls by unicast: as the last resort, never earlier. In virtual time.

#![allow(clippy::unwrap_used, reason = "a test may fail")]

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use nackcast_common::clock::Time;
use nackcast_common::geometry::Geometry;
use nackcast_common::hash::merge;
use nackcast_common::ids::{
    ChannelId, Digest, Epoch, Generation, ObjectId, ObjectIndex, RunId, SessionId, StartNumber,
};
use nackcast_common::keys::SigningKey;
use nackcast_common::manifest::{Chaining, ChainingValue, Head, Manifest, ObjectKind, ObjectRecord};
use nackcast_common::ranges::RangeSet;
use nackcast_proto::wire::symbol::SymbolId;
use nackcast_proto::wire::{
    Advertisement, ManifestRef, Nack, NackAnswer, NackStatus, Role, SenderCertificate, SenderState,
};
use nackcast_receiver::engine::{
    BlockOutcome, Done, EngineConfig, Event, InstallOutcome, PullEnd, PullOrder, PullWhen, ReceiverEngine, RequestId,
    SourceId, Want, Wants, Work,
};

const CHANNEL: ChannelId = ChannelId([3; 16]);
const SESSION: SessionId = SessionId(5);
const HASH: Digest = Digest([7; 32]);
const OBJECTS: u32 = 3;
const BLOCKS: u32 = 4;
const SOURCE: SourceId = SourceId(0);

fn geometry() -> Geometry {
    Geometry::new(100, 1024, 1).unwrap()
}

fn manifest() -> Arc<Manifest> {
    manifest_of(0)
}

/// With objects from this number on.
fn manifest_of(first: u32) -> Arc<Manifest> {
    let object = |number: u32| {
        let layout = geometry().object(4096 - 300).unwrap();
        let value = |block: u32| -> ChainingValue { Digest::of(format!("{number} {block}").as_bytes()).0 };
        let values: Vec<_> = (0..layout.block_count()).map(value).collect();
        let digest = merge(&values);
        let id = geometry().object_id(&digest, layout.size());
        let chaining = Chaining::Inline(values.into());
        ObjectRecord { id, digest, layout, kind: ObjectKind::Pack, since: Generation(1), chaining }
    };
    let head =
        Head { channel: CHANNEL, generation: Generation(1), parent: None, epoch: Epoch(1), geometry: geometry() };
    Arc::new(Manifest::new(head, (first..first + OBJECTS).map(object).collect(), Vec::new()).unwrap())
}

/// An engine, a sender that does as it is told, and a source that is slow: its orders are kept.
struct Stage {
    engine: ReceiverEngine,
    now: Time,
    sequence: u64,
    /// What the sender serves.
    hash: Digest,
    /// The sender speaks.
    speaks: bool,
    /// It answers NACKs: with this for whatever is asked.
    answers: Option<NackStatus>,
    nacks: Vec<Nack>,
    orders: Vec<PullOrder>,
    installed: Vec<ObjectId>,
    events: Vec<Event>,
    complete: bool,
}

impl Stage {
    fn new(when: PullWhen) -> Self {
        let mut stage = Self::without_manifest(when);
        stage.follow(manifest(), HASH);
        stage
    }

    /// From now on everything of this manifest is wanted, and the sender serves it.
    fn follow(&mut self, manifest: Arc<Manifest>, hash: Digest) {
        let wants =
            (0..OBJECTS).map(|index| Want { index: ObjectIndex(index), done: RangeSet::new(), held: Vec::new() });
        let wants = Wants { manifest, hash, objects: wants.collect() };
        self.hash = hash;
        self.engine.handle_wants(self.now, wants);
        self.drain();
    }

    fn without_manifest(when: PullWhen) -> Self {
        let mut engine = ReceiverEngine::new(EngineConfig {
            channel: CHANNEL,
            seed: 1,
            nack_retry: Duration::from_millis(200),
            nack_budget: 4,
            slots: 8,
            remembered: None,
            once: false,
        });
        engine.allow_pull(when, 1 << 20);
        engine.add_source(SOURCE);
        Self {
            engine,
            now: Time(1),
            sequence: 0,
            hash: HASH,
            speaks: true,
            answers: None,
            nacks: Vec::new(),
            orders: Vec::new(),
            installed: Vec::new(),
            events: Vec::new(),
            complete: false,
        }
    }

    fn object(&self, index: u32) -> ObjectId {
        manifest().object(ObjectIndex(index)).unwrap().id
    }

    fn advertise(&mut self) {
        self.sequence += 1;
        let key = SigningKey::from_seed([2; 32]);
        let certificate = SenderCertificate::issue(&SigningKey::from_seed([1; 32]), CHANNEL, key.verifying_key());
        let advertisement = Advertisement {
            channel: CHANNEL,
            session: SESSION,
            epoch: Epoch(1),
            sequence: self.sequence,
            start_number: StartNumber(1),
            time: self.now.0,
            wall_ms: 0,
            next_epoch: None,
            reading_every: Duration::ZERO,
            interval: Duration::from_millis(250),
            generation: Generation(1),
            manifest: Some(ManifestRef { hash: self.hash, length: 100, geometry: geometry() }),
            certificate,
            role: Role::Primary,
            state: SenderState::Active,
            data_group: "239.1.1.1:7601".parse().unwrap(),
            nack_port: 7701,
            quic_port: 7702,
            grtt: Duration::from_millis(2),
            nack_window: Duration::from_millis(12),
            group_size: 4,
            max_passes: 16,
            rate_bps: 1_000_000,
            first_pass_cursor: u32::MAX,
            first_pass_since: Generation(0),
            finished: Vec::new(),
            data_packets: 0,
            manifest_sent: true,
            list: 0,
            rank: 0,
        };
        let from: SocketAddr = "10.0.0.1:7600".parse().unwrap();
        self.engine.handle_advertisement(self.now, from, &advertisement);
        self.drain();
    }

    /// Time goes on, while the sender advertises four times a second and answers at once.
    fn pass(&mut self, time: Duration) {
        let end = self.now + time;
        while self.now < end {
            self.now += Duration::from_millis(5);
            if self.speaks && self.now.0 % 250_000 < 5000 {
                self.advertise();
            }
            self.engine.handle_timeout(self.now);
            self.drain();
        }
    }

    fn drain(&mut self) {
        loop {
            let mut is_quiet = true;
            while let Some(work) = self.engine.poll_work() {
                is_quiet = false;
                let done = match work {
                    Work::Complete { object, block, slot } => {
                        Done::Complete { object, block, slot, outcome: BlockOutcome::Sound }
                    }
                    Work::Install { object } => {
                        self.installed.push(object);
                        Done::Install { object, outcome: InstallOutcome::Installed }
                    }
                    Work::Checkpoint { .. } => Done::Checkpoint,
                    Work::Room => Done::Room { is_there: true },
                    Work::Finish => Done::Finish { whole: true },
                    Work::Discard { .. } | Work::Assemble(_) => continue,
                    Work::Spill { .. } | Work::Load { .. } => panic!("memory suffices"),
                };
                self.engine.handle_done(self.now, done);
            }
            while let Some(transmit) = self.engine.poll_transmit() {
                is_quiet = false;
                if let Some(status) = self.answers {
                    let answer = answer(&transmit.nack, transmit.packet, status);
                    self.engine.handle_answer(self.now, &answer, true);
                }
                self.nacks.push(transmit.nack);
            }
            while let Some(order) = self.engine.poll_pull() {
                is_quiet = false;
                self.orders.push(order);
            }
            while let Some(event) = self.engine.poll_event() {
                self.complete |= matches!(event, Event::Complete(_));
                self.events.push(event);
            }
            if is_quiet {
                return;
            }
        }
    }

    /// The source gives everything that it was asked for, of this outcome.
    fn give(&mut self, outcome: BlockOutcome) {
        for order in std::mem::take(&mut self.orders) {
            if let PullOrder::Fetch { request, object, blocks, .. } = order {
                for block in blocks {
                    self.give_block(request, object, block, outcome);
                }
                self.engine.handle_pull_over(self.now, request, PullEnd::Over);
                self.drain();
            }
        }
    }

    fn give_block(&mut self, request: RequestId, object: ObjectId, block: u32, outcome: BlockOutcome) {
        if self.engine.handle_pulled(self.now, request, block) == Some(object) {
            self.engine.handle_checked(self.now, object, block, outcome);
        }
        self.drain();
    }

    fn fetched(&self) -> Vec<ObjectId> {
        let fetched = self.orders.iter().filter_map(|order| match order {
            PullOrder::Fetch { object, .. } => Some(*object),
            PullOrder::Manifest { .. } | PullOrder::Cancel { .. } => None,
        });
        fetched.collect()
    }

    fn symbols(&mut self, object: ObjectId, block: u32, esis: std::ops::Range<u16>) {
        for esi in esis {
            let packet = self.now.0 + u64::from(esi);
            let symbol = SymbolId { object, block, esi };
            self.engine.handle_symbol(self.now, self.now, SESSION, packet, symbol);
            self.drain();
        }
    }
}

fn answer(nack: &Nack, packet: u64, status: NackStatus) -> NackAnswer {
    let mut answer = NackAnswer {
        channel: CHANNEL,
        session: nack.session,
        run: RunId(1),
        nack: packet,
        nonce: nack.nonce,
        wait: Duration::from_millis(300),
        ..NackAnswer::default()
    };
    let ids = || nack.missing_ids.iter().copied().chain(nack.short.iter().map(|short| short.object)).collect();
    match status {
        NackStatus::Unicast => {
            (answer.unicast, answer.unicast_ids, answer.status) = (nack.missing.clone(), ids(), NackStatus::Noted);
        }
        NackStatus::Unknown => {
            (answer.unknown, answer.unknown_ids, answer.status) = (nack.missing.clone(), ids(), NackStatus::Noted);
        }
        other => answer.status = other,
    }
    answer
}

#[test]
fn nothing_is_pulled_while_the_sender_has_passes() {
    for answers in [NackStatus::Queued, NackStatus::Sending] {
        let mut stage = Stage::new(PullWhen::Unknown);
        stage.answers = Some(answers);
        stage.pass(Duration::from_secs(60));
        assert!(stage.nacks.len() > 10, "it asks");
        assert_eq!(stage.orders, [], "and does not pull");
    }
}

#[test]
fn what_has_no_passes_left_is_pulled_and_only_that() {
    let mut stage = Stage::new(PullWhen::Last);
    stage.answers = Some(NackStatus::Unicast);
    // The first object comes by multicast before anything is asked.
    let first = stage.object(0);
    stage.advertise();
    for block in 0..BLOCKS {
        stage.symbols(first, block, 0..11);
    }
    assert_eq!(stage.installed, [first]);
    stage.pass(Duration::from_secs(1));
    let mut fetched = stage.fetched();
    fetched.sort_unstable();
    let mut wanted = vec![stage.object(1), stage.object(2)];
    wanted.sort_unstable();
    assert_eq!(fetched, wanted);
    stage.give(BlockOutcome::Sound);
    stage.pass(Duration::from_secs(1));
    assert!(stage.complete);
    assert_eq!(stage.engine.pulled().collect::<Vec<_>>(), [(SOURCE, 2 * (4096 - 300))]);
    assert_eq!(stage.engine.snapshot().unicast_wanted, 0);
}

#[test]
fn a_new_round_ends_the_pull() {
    let mut stage = Stage::new(PullWhen::Last);
    stage.answers = Some(NackStatus::Unicast);
    stage.pass(Duration::from_secs(1));
    assert_eq!(stage.fetched().len(), 3);
    // The source is slow; what it does not give is asked for again, and now there are passes.
    stage.answers = Some(NackStatus::Queued);
    for order in std::mem::take(&mut stage.orders) {
        if let PullOrder::Fetch { request, .. } = order {
            stage.engine.handle_pull_over(stage.now, request, PullEnd::Broken);
        }
    }
    stage.pass(Duration::from_secs(15));
    let late: Vec<_> = stage.fetched();
    stage.orders.clear();
    stage.pass(Duration::from_secs(60));
    assert_eq!(stage.fetched(), [], "nothing more, after {late:?} before the answer was known");
}

#[test]
fn what_the_sender_does_not_have_is_pulled_only_where_configured() {
    for (when, pulled) in [(PullWhen::Never, 0), (PullWhen::Last, 0), (PullWhen::Unknown, 3)] {
        let mut stage = Stage::new(when);
        stage.answers = Some(NackStatus::Unknown);
        stage.pass(Duration::from_secs(5));
        assert_eq!(stage.fetched().len(), pulled, "{when:?}");
    }
}

#[test]
fn everything_is_pulled_when_nobody_answers_three_cycles_and_not_before() {
    let mut stage = Stage::new(PullWhen::Last);
    stage.advertise();
    while stage.nacks.is_empty() {
        stage.pass(Duration::from_millis(5));
    }
    // A cycle is four tries of 200 ms.
    stage.pass(Duration::from_millis(2300));
    assert_eq!(stage.orders, []);
    assert!(stage.nacks.len() > 3, "it asks again and again");
    stage.pass(Duration::from_secs(2));
    assert_eq!(stage.fetched().len(), 3);
    // An answer says that multicast will bring it.
    stage.answers = Some(NackStatus::Queued);
    stage.pass(Duration::from_secs(2));
    let cancelled = stage.orders.iter().filter(|order| matches!(order, PullOrder::Cancel { .. })).count();
    assert_eq!(cancelled, 4, "blocks, and the manifest: {:?}", stage.orders);
    stage.orders.clear();
    stage.pass(Duration::from_secs(60));
    assert_eq!(stage.orders, []);
}

#[test]
fn what_a_new_generation_brings_is_not_pulled_because_nobody_answered_before() {
    let mut stage = Stage::new(PullWhen::Last);
    stage.pass(Duration::from_secs(6));
    assert_eq!(stage.fetched().len(), 3, "nobody answers");
    stage.give(BlockOutcome::Sound);
    assert!(stage.complete);
    stage.pass(Duration::from_secs(1));
    stage.orders.clear();
    stage.follow(manifest_of(OBJECTS), Digest([8; 32]));
    // A cycle is four tries of 200 ms. Who asked others for a newer manifest needs it no more.
    stage.pass(Duration::from_secs(2));
    assert!(stage.orders.iter().all(|order| matches!(order, PullOrder::Cancel { .. })), "{:?}", stage.orders);
    stage.pass(Duration::from_secs(4));
    assert_eq!(stage.fetched().len(), 3, "until it is the same with these");
}

#[test]
fn everything_is_pulled_when_no_sender_is_heard_until_one_is() {
    let mut stage = Stage::new(PullWhen::Last);
    stage.answers = Some(NackStatus::Queued);
    stage.pass(Duration::from_secs(3));
    stage.speaks = false;
    // It is lost after 1.5 s; then three cycles of 0.8 s.
    stage.pass(Duration::from_millis(3400));
    assert_eq!(stage.orders, []);
    stage.pass(Duration::from_secs(1));
    assert_eq!(stage.fetched().len(), 3);
    stage.orders.retain(|order| matches!(order, PullOrder::Fetch { .. }));
    stage.orders.truncate(1);
    stage.give(BlockOutcome::Sound);
    assert_eq!(stage.installed.len(), 1);
    stage.speaks = true;
    stage.pass(Duration::from_secs(1));
    assert_eq!(stage.orders.len(), 3);
    assert!(stage.orders.iter().all(|order| matches!(order, PullOrder::Cancel { .. })), "{:?}", stage.orders);
}

#[test]
fn a_block_that_multicast_brought_meanwhile_is_not_taken_twice() {
    let mut stage = Stage::new(PullWhen::Last);
    stage.answers = Some(NackStatus::Unicast);
    stage.pass(Duration::from_secs(1));
    let orders = std::mem::take(&mut stage.orders);
    let PullOrder::Fetch { request, object, blocks, .. } = orders[0].clone() else { panic!("{orders:?}") };
    assert_eq!(blocks, 0..BLOCKS);
    // Half of the first block, all of the second.
    stage.symbols(object, 0, 0..5);
    stage.symbols(object, 1, 0..11);
    assert_eq!(stage.engine.handle_pulled(stage.now, request, 0), Some(object), "half a block is not enough");
    stage.engine.handle_checked(stage.now, object, 0, BlockOutcome::Sound);
    stage.drain();
    assert_eq!(stage.engine.handle_pulled(stage.now, request, 1), None, "it is here");
    stage.symbols(object, 0, 5..11);
    stage.symbols(object, 2, 0..11);
    stage.symbols(object, 3, 0..11);
    assert_eq!(stage.installed, [object]);
    assert!(stage.engine.handle_pulled(stage.now, request, 2).is_none(), "nothing of it is wanted any more");
    assert!(stage.engine.open_in_memory().is_empty());
}

#[test]
fn a_source_that_lies_is_dropped_and_reported() {
    let mut stage = Stage::new(PullWhen::Last);
    stage.answers = Some(NackStatus::Unicast);
    stage.pass(Duration::from_secs(1));
    stage.give(BlockOutcome::Unsound);
    let dropped = stage.events.iter().filter(|event| matches!(event, Event::SourceDropped(SOURCE, _))).count();
    assert_eq!(dropped, 1);
    stage.pass(Duration::from_secs(120));
    assert_eq!(stage.fetched(), [], "it is never asked again");
    assert!(stage.installed.is_empty());
    assert!(stage.nacks.len() > 1, "the sender still is");
}

#[test]
fn a_full_disk_stops_the_pull_for_a_while_and_blames_nobody() {
    let mut stage = Stage::new(PullWhen::Last);
    stage.answers = Some(NackStatus::Unicast);
    stage.pass(Duration::from_secs(1));
    stage.give(BlockOutcome::NotKept);
    let at_once = stage.fetched();
    stage.pass(Duration::from_secs(5));
    assert_eq!(at_once, []);
    assert_eq!(stage.fetched().len(), 3);
}

#[test]
fn who_hears_nobody_asks_for_the_manifest() {
    let mut stage = Stage::without_manifest(PullWhen::Last);
    stage.speaks = false;
    stage.pass(Duration::from_secs(1));
    assert_eq!(stage.orders, []);
    stage.pass(Duration::from_secs(3));
    let [PullOrder::Manifest { request, source: SOURCE }] = stage.orders[..] else { panic!("{:?}", stage.orders) };
    let reference = ManifestRef { hash: HASH, length: 100, geometry: geometry() };
    assert!(stage.engine.handle_offer(stage.now, reference, Generation(1)));
    stage.engine.handle_pull_over(stage.now, request, PullEnd::Over);
    stage.drain();
    stage.pass(Duration::from_secs(6));
    let root = geometry().object_id(&HASH, 100);
    assert_eq!(stage.fetched(), [root], "its root comes as any object does");
}

#[test]
fn who_heard_of_a_manifest_and_then_nobody_asks_who_vouches_for_it() {
    let mut stage = Stage::without_manifest(PullWhen::Last);
    stage.advertise();
    stage.speaks = false;
    stage.pass(Duration::from_secs(6));
    let root = geometry().object_id(&HASH, 100);
    assert_eq!(stage.fetched(), [root], "it is known what it is called");
    let asked = |order: &PullOrder| match order {
        PullOrder::Manifest { request, .. } => Some(*request),
        PullOrder::Fetch { .. } | PullOrder::Cancel { .. } => None,
    };
    let request = stage.orders.iter().find_map(asked).expect("and not whether anybody live has it");
    let reference = ManifestRef { hash: HASH, length: 100, geometry: geometry() };
    assert!(stage.engine.handle_offer(stage.now, reference, Generation(1)));
    stage.engine.handle_pull_over(stage.now, request, PullEnd::Over);
    stage.drain();
    stage.orders.clear();
    stage.pass(Duration::from_secs(60));
    assert_eq!(stage.orders.iter().find_map(asked), None, "now it is");
}

#[test]
fn who_hears_nobody_asks_now_and_then_whether_others_have_a_newer_manifest() {
    let mut stage = Stage::new(PullWhen::Last);
    stage.answers = Some(NackStatus::Queued);
    stage.pass(Duration::from_secs(3));
    stage.speaks = false;
    let mut asked = Vec::new();
    for second in 0..150 {
        stage.pass(Duration::from_secs(1));
        for order in &stage.orders {
            if let PullOrder::Manifest { request, .. } = order {
                asked.push(second);
                stage.engine.handle_pull_over(stage.now, *request, PullEnd::Over);
            }
        }
        stage.give(BlockOutcome::Sound);
    }
    assert!(stage.complete);
    assert_eq!(asked.len(), 3, "once a minute: {asked:?}");
    // One of them has a newer one: although all of ours is here, its root is fetched.
    let newer = ManifestRef { hash: Digest([9; 32]), length: 100, geometry: geometry() };
    assert!(stage.engine.handle_offer(stage.now, newer, Generation(2)));
    stage.drain();
    assert_eq!(stage.fetched(), [newer.geometry.object_id(&newer.hash, 100)]);
    stage.orders.clear();
    stage.speaks = true;
    stage.pass(Duration::from_secs(120));
    assert_eq!(stage.orders.iter().filter(|order| matches!(order, PullOrder::Manifest { .. })).count(), 0);
}

#[test]
fn a_refusal_of_what_was_not_asked_permits_nothing() {
    let mut stage = Stage::new(PullWhen::Last);
    stage.advertise();
    // Of the first object a part is here: it is asked for by blocks, and the others by their places.
    let first = stage.object(0);
    stage.symbols(first, 0, 0..5);
    stage.pass(Duration::from_secs(1));
    let packet = stage.nacks.iter().position(|nack| !nack.missing.is_empty() && !nack.missing.contains(0)).unwrap();
    let mut refusal = answer(&stage.nacks[packet].clone(), packet as u64, NackStatus::Noted);
    refusal.unicast.insert(0..OBJECTS);
    stage.engine.handle_answer(stage.now, &refusal, true);
    stage.drain();
    let fetched = stage.fetched();
    assert!(fetched.len() == 2 && !fetched.contains(&first), "{fetched:?}");
}
