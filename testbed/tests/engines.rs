//! The two engines against each other in virtual time: one sender, receivers behind lossy links, disks that
//! always work. What is asserted are counts and order, never time on a clock.

#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "a test may fail")]

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use fixedbitset::FixedBitSet;
use nackcast_common::clock::Time;
use nackcast_common::geometry::Geometry;
use nackcast_common::hash::merge;
use nackcast_common::ids::{
    ChannelId, Digest, Epoch, Generation, ObjectId, ObjectIndex, RunId, SessionId, StartNumber,
};
use nackcast_common::keys::SigningKey;
use nackcast_common::manifest::{
    Chaining, ChainingValue, Content, Entry, EntryKind, Head, Manifest, Mtime, ObjectKind, ObjectRecord,
};
use nackcast_common::path::DatasetPath;
use nackcast_common::ranges::RangeSet;
use nackcast_common::units::{BitRate, RateLimit};
use nackcast_proto::manifest::{EncodedManifest, decode_root, encode};
use nackcast_proto::wire::symbol::SymbolId;
use nackcast_proto::wire::{Advertisement, DigestBody, Nack, NackAnswer, Role, SenderCertificate};
use nackcast_receiver::engine as receiver;
use nackcast_receiver::engine::{ReceiverEngine, Want, Wants};
use nackcast_sender::engine as sender;
use nackcast_sender::engine::{Publication, SenderEngine};
use nackcast_sender::{Once, ScheduleConfig};
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

const CHANNEL: ChannelId = ChannelId([9; 16]);
const DELAY: Duration = Duration::from_millis(2);
const DISK: Duration = Duration::from_micros(300);

/// A manifest of files of these sizes, without any bytes: only hashes that fit together.
fn manifest(sizes: &[u64], generation: u64) -> Manifest {
    let geometry = Geometry::default();
    let mut objects = Vec::new();
    let mut entries = Vec::new();
    for (at, size) in sizes.iter().enumerate() {
        let layout = geometry.object(*size).unwrap();
        let blocks = layout.block_count();
        let value = |b: u32| -> ChainingValue { Digest::of(format!("{at} {b} {size}").as_bytes()).0 };
        let values: Vec<_> = (0..blocks).map(value).collect();
        let (digest, chaining) = match blocks {
            1 => (Digest::of(format!("{at} {size}").as_bytes()), Chaining::Digest),
            2..=8 => (merge(&values), Chaining::Inline(values.into())),
            _ => {
                let bytes = values.concat();
                let digest = Digest::of(&bytes);
                let id = geometry.object_id(&digest, bytes.len() as u64);
                let layout = geometry.object(bytes.len() as u64).unwrap();
                objects.push(ObjectRecord {
                    id,
                    digest,
                    layout,
                    kind: ObjectKind::Chaining,
                    since: Generation(generation),
                    chaining: Chaining::Digest,
                });
                (merge(&values), Chaining::Object(id))
            }
        };
        let id = geometry.object_id(&digest, *size);
        let index = ObjectIndex(u32::try_from(objects.len()).unwrap());
        objects.push(ObjectRecord {
            id,
            digest,
            layout,
            kind: ObjectKind::File,
            since: Generation(generation),
            chaining,
        });
        entries.push(Entry {
            path: DatasetPath::new(format!("{at:06}").as_bytes()).unwrap(),
            kind: EntryKind::File { size: *size, digest, content: Content::Object(index) },
            mode: 0o644,
            mtime: Mtime::default(),
        });
    }
    let head = Head { channel: CHANNEL, generation: Generation(generation), parent: None, epoch: Epoch(1), geometry };
    Manifest::new(head, objects, entries).unwrap()
}

struct Node {
    engine: ReceiverEngine,
    run: RunId,
    /// ESIs in each slot, by block.
    slots: BTreeMap<receiver::Slot, FixedBitSet>,
    disk: BTreeMap<(ObjectId, u32), FixedBitSet>,
    parts: BTreeSet<Digest>,
    loss: f64,
    joins: Time,
    complete_at: Option<Time>,
    unicast: u64,
}

enum Happening {
    Advertisement(usize, Box<Advertisement>),
    Digest(usize, DigestBody),
    Symbol(usize, SessionId, u64, SymbolId),
    Answer(usize, NackAnswer),
    Nack(usize, u64, Box<Nack>),
    SenderDone(sender::Done),
    ReceiverDone(usize, receiver::Done),
    Root(usize, Digest),
    Wants(usize),
}

fn sender_config(
    session: SessionId,
    start_number: StartNumber,
    certificate: SenderCertificate,
    rate: u64,
) -> sender::EngineConfig {
    sender::EngineConfig {
        channel: CHANNEL,
        session,
        start_number,
        epoch: Epoch(1),
        role: Role::Primary,
        certificate,
        data_group: "239.1.1.1:7601".parse().unwrap(),
        nack_port: 7701,
        quic_port: 0,
        rate: RateLimit::Fixed(BitRate(rate)),
        schedule: ScheduleConfig::default(),
        auto: nackcast_sender::RateBounds::default(),
        once: Some(Once { expect: None, linger: Duration::from_secs(3) }),
    }
}

struct World {
    rate: u64,
    now: Time,
    queue: BTreeMap<(Time, u64), Happening>,
    number: u64,
    rng: StdRng,
    sender: SenderEngine,
    session: SessionId,
    nodes: Vec<Node>,
    manifest: Arc<Manifest>,
    encoded: EncodedManifest,
    publisher: SigningKey,
    sent_symbols: u64,
    /// Those of objects in the manifest's table.
    sent_content: u64,
    nacks: u64,
    passes: BTreeMap<ObjectId, u32>,
    finished: bool,
}

struct Scenario {
    sizes: Vec<u64>,
    receivers: usize,
    loss: f64,
    rate: u64,
    seed: u64,
}

impl World {
    fn new(scenario: &Scenario) -> Self {
        let publisher = SigningKey::from_seed([1; 32]);
        let key = SigningKey::from_seed([2; 32]);
        let manifest = Arc::new(manifest(&scenario.sizes, 1));
        let encoded = encode(&manifest, &publisher).unwrap();
        let session = SessionId(77);
        let certificate = SenderCertificate::issue(&publisher, CHANNEL, key.verifying_key());
        let config = sender_config(session, StartNumber(1), certificate, scenario.rate);
        let node = |at: usize| Node {
            engine: ReceiverEngine::new(receiver::EngineConfig {
                channel: CHANNEL,
                seed: scenario.seed * 1000 + at as u64,
                nack_retry: Duration::from_millis(200),
                nack_budget: 4,
                slots: 64,
                remembered: None,
                once: false,
            }),
            run: RunId(at as u64 + 1),
            slots: BTreeMap::new(),
            disk: BTreeMap::new(),
            parts: BTreeSet::new(),
            loss: scenario.loss,
            joins: Time::ZERO,
            complete_at: None,
            unicast: 0,
        };
        let mut world = Self {
            rate: scenario.rate,
            now: Time::ZERO,
            queue: BTreeMap::new(),
            number: 0,
            rng: StdRng::seed_from_u64(scenario.seed),
            sender: SenderEngine::new(config),
            session,
            nodes: (0..scenario.receivers).map(node).collect(),
            manifest: Arc::clone(&manifest),
            encoded,
            publisher,
            sent_symbols: 0,
            sent_content: 0,
            nacks: 0,
            passes: BTreeMap::new(),
            finished: false,
        };
        let publication = world.publication(true);
        world.sender.handle_command(Time::ZERO, sender::Command::Publish(Box::new(publication)));
        world
    }

    fn publication(&self, fresh: bool) -> Publication {
        let geometry = Geometry::default();
        let all = std::iter::once(&self.encoded.root).chain(&self.encoded.parts);
        let parts = all.map(|p| {
            let len = p.bytes.len() as u64;
            (geometry.object_id(&p.digest, len), geometry.object(len).unwrap())
        });
        Publication {
            reference: self.encoded.reference,
            manifest: Arc::clone(&self.manifest),
            parts: parts.collect(),
            fresh,
            passes: Vec::new(),
        }
    }

    fn at(&mut self, delay: Duration, happening: Happening) {
        self.number += 1;
        self.queue.insert((self.now + delay, self.number), happening);
    }

    fn lost(&mut self, node: usize) -> bool {
        let loss = self.nodes[node].loss;
        self.rng.random_range(0.0..1.0) < loss
    }

    fn multicast(&mut self, make: impl Fn(usize) -> Happening) {
        for at in 0..self.nodes.len() {
            if self.now >= self.nodes[at].joins && !self.lost(at) {
                self.at(DELAY, make(at));
            }
        }
    }

    fn drain_sender(&mut self) {
        let now = self.now;
        loop {
            let mut idle = true;
            while let Some(work) = self.sender.poll_work() {
                idle = false;
                match work {
                    sender::Work::Prepare { object, block, .. } => {
                        self.at(DISK, Happening::SenderDone(sender::Done::Prepared { object, block, sound: true }));
                    }
                    sender::Work::Release { .. } => {}
                    sender::Work::RecordPass { object, count } => {
                        *self.passes.entry(object).or_insert(0) = count;
                        self.at(DISK, Happening::SenderDone(sender::Done::PassRecorded { object }));
                    }
                }
            }
            while let Some(event) = self.sender.poll_event() {
                self.finished |= event == sender::Event::Finished;
            }
            if let Some(transmit) = self.sender.poll_transmit(now) {
                idle = false;
                match transmit {
                    sender::Transmit::Advertisement(a) => {
                        self.multicast(|at| Happening::Advertisement(at, a.clone()));
                    }
                    sender::Transmit::Digest(d) => self.multicast(|at| Happening::Digest(at, d.clone())),
                    sender::Transmit::Answer(to, answer) => {
                        let at = usize::from(to.port());
                        if !self.lost(at) {
                            self.at(DELAY, Happening::Answer(at, answer));
                        }
                    }
                    sender::Transmit::Symbols(run) => {
                        let session = self.session;
                        for (nth, esi) in run.esis.clone().enumerate() {
                            self.sent_symbols += 1;
                            self.sent_content += u64::from(self.manifest.index_of(run.object).is_some());
                            let packet = run.first_packet + nth as u64;
                            let id = SymbolId { object: run.object, block: run.block, esi };
                            self.multicast(|at| Happening::Symbol(at, session, packet, id));
                        }
                    }
                }
            }
            if idle {
                return;
            }
        }
    }

    fn drain_receiver(&mut self, at: usize) {
        while let Some(work) = self.nodes[at].engine.poll_work() {
            self.receiver_work(at, work);
        }
        while let Some(transmit) = self.nodes[at].engine.poll_transmit() {
            let body = transmit.nack.encode();
            assert!(body.len() <= nackcast_proto::wire::limits::BODY_LEN_MAX);
            let packet = transmit.packet;
            self.nacks += 1;
            if !self.lost(at) {
                self.at(DELAY, Happening::Nack(at, packet, Box::new(Nack::decode(&body).unwrap())));
            }
        }
        while let Some(event) = self.nodes[at].engine.poll_event() {
            match event {
                receiver::Event::Complete(_) => self.nodes[at].complete_at = Some(self.now),
                receiver::Event::UnicastWanted(n) => self.nodes[at].unicast = n,
                receiver::Event::BlockUnsound(object, block) => panic!("object {object} block {block} unsound"),
                _ => {}
            }
        }
    }

    fn receiver_work(&mut self, at: usize, work: receiver::Work) {
        use receiver::{BlockOutcome, Done, InstallOutcome, Work};
        match work {
            Work::Complete { object, block, slot } => {
                let held = self.nodes[at].slots.remove(&slot).unwrap_or_default();
                let k = self.layout(object).source_symbols(block);
                assert!(held.count_ones(..) >= usize::from(k), "a block is completed with enough symbols");
                let part = self
                    .encoded
                    .parts
                    .iter()
                    .chain([&self.encoded.root])
                    .find(|p| Geometry::default().object_id(&p.digest, p.bytes.len() as u64) == object);
                if let Some(digest) = part.map(|p| p.digest) {
                    self.nodes[at].parts.insert(digest);
                    if digest == self.encoded.reference.hash {
                        self.at(DISK, Happening::Root(at, digest));
                    }
                }
                let done = Done::Complete { object, block, slot, outcome: BlockOutcome::Sound };
                self.at(DISK, Happening::ReceiverDone(at, done));
            }
            Work::Spill { object, block, slot } => {
                let held = self.nodes[at].slots.remove(&slot).unwrap_or_default();
                self.nodes[at].disk.insert((object, block), held.clone());
                self.at(DISK, Happening::ReceiverDone(at, Done::Spill { object, block, slot, held: Some(held) }));
            }
            Work::Load { object, block, slot } => {
                let held = self.nodes[at].disk.get(&(object, block)).cloned().unwrap_or_default();
                self.at(DISK, Happening::ReceiverDone(at, Done::Load { object, block, slot, held }));
            }
            Work::Discard { slot } => drop(self.nodes[at].slots.remove(&slot)),
            Work::Assemble(reference) => {
                assert_eq!(reference.hash, self.encoded.reference.hash);
                assert_eq!(self.nodes[at].parts.len(), self.encoded.parts.len() + 1, "root and all parts are here");
                self.at(Duration::from_millis(5), Happening::Wants(at));
            }
            Work::Install { object } => {
                let done = Done::Install { object, outcome: InstallOutcome::Installed };
                self.at(DISK, Happening::ReceiverDone(at, done));
            }
            Work::Checkpoint { .. } => self.at(DISK, Happening::ReceiverDone(at, Done::Checkpoint)),
            Work::Room => self.at(DISK, Happening::ReceiverDone(at, Done::Room { is_there: true })),
            Work::Finish => self.at(DISK, Happening::ReceiverDone(at, Done::Finish { whole: true })),
        }
    }

    fn layout(&self, object: ObjectId) -> nackcast_common::geometry::Layout {
        let geometry = Geometry::default();
        let parts = self.encoded.parts.iter().chain([&self.encoded.root]);
        let mut parts = parts.map(|p| p.bytes.len() as u64).zip(self.encoded.parts.iter().chain([&self.encoded.root]));
        if let Some((len, _)) = parts.find(|(len, p)| geometry.object_id(&p.digest, *len) == object) {
            return geometry.object(len).unwrap();
        }
        self.manifest.object(self.manifest.index_of(object).unwrap()).unwrap().layout
    }

    fn step(&mut self, happening: Happening) {
        let now = self.now;
        match happening {
            Happening::Advertisement(at, a) => {
                self.nodes[at].engine.handle_advertisement(now, "10.0.0.1:7600".parse().unwrap(), &a);
                self.drain_receiver(at);
            }
            Happening::Digest(at, d) => {
                self.nodes[at].engine.handle_digest(now, &d);
                self.drain_receiver(at);
            }
            Happening::Symbol(at, session, packet, id) => {
                let admission = self.nodes[at].engine.handle_symbol(now, now, session, packet, id);
                if let receiver::Admission::Keep(slot) = admission {
                    let bits = self.layout(id.object).esi_end(id.block).into();
                    let slot = self.nodes[at].slots.entry(slot).or_default();
                    slot.grow(bits);
                    slot.insert(id.esi.into());
                }
                self.drain_receiver(at);
            }
            Happening::Answer(at, answer) => {
                self.nodes[at].engine.handle_answer(now, &answer, true);
                self.drain_receiver(at);
            }
            Happening::Nack(at, packet, nack) => {
                let from = SocketAddr::new("10.0.0.2".parse().unwrap(), u16::try_from(at).unwrap());
                let run = self.nodes[at].run;
                self.sender.handle_nack(now, from, run, packet, &nack);
                self.drain_sender();
            }
            Happening::SenderDone(done) => {
                self.sender.handle_done(now, done);
                self.drain_sender();
            }
            Happening::ReceiverDone(at, done) => {
                let done = match done {
                    receiver::Done::Load { object, block, slot, held } => {
                        let mut all = self.nodes[at].slots.get(&slot).cloned().unwrap_or_default();
                        all.grow(self.layout(object).esi_end(block).into());
                        all.union_with(&held);
                        self.nodes[at].slots.insert(slot, all.clone());
                        receiver::Done::Load { object, block, slot, held: all }
                    }
                    other => other,
                };
                self.nodes[at].engine.handle_done(now, done);
                self.drain_receiver(at);
            }
            Happening::Root(at, hash) => {
                let root = decode_root(&self.encoded.root.bytes, &self.publisher.verifying_key(), CHANNEL).unwrap();
                self.nodes[at].engine.handle_root(now, hash, &root, |_| false);
                self.drain_receiver(at);
            }
            Happening::Wants(at) => {
                let objects = (0..u32::try_from(self.manifest.objects().len()).unwrap()).map(|index| Want {
                    index: ObjectIndex(index),
                    done: RangeSet::new(),
                    held: Vec::new(),
                });
                let wants = Wants {
                    manifest: Arc::clone(&self.manifest),
                    hash: self.encoded.reference.hash,
                    objects: objects.collect(),
                };
                self.nodes[at].engine.handle_wants(now, wants);
                self.drain_receiver(at);
            }
        }
    }

    /// Runs until everybody is complete, or until `limit`.
    fn run(&mut self, limit: Duration) {
        self.drain_sender();
        let end = Time::ZERO + limit;
        while self.now < end && !self.nodes.iter().all(|n| n.complete_at.is_some()) {
            self.turn(end);
        }
    }

    fn turn(&mut self, end: Time) {
        let timers = self.nodes.iter().enumerate().map(|(at, n)| (n.engine.poll_deadline().map(|d| d.at), Some(at)));
        let own = self.sender.poll_deadline(self.now).map(|d| d.at);
        let (due, who) = timers
            .chain(std::iter::once((own, None)))
            .map(|(at, who)| (at.unwrap_or(Time::NEVER), who))
            .min_by_key(|(at, _)| *at)
            .unwrap();
        let next = self.queue.first_key_value().map_or(Time::NEVER, |((at, _), _)| *at);
        if next <= due {
            let ((at, _), happening) = self.queue.pop_first().unwrap();
            self.now = at.max(self.now);
            self.step(happening);
            return;
        }
        assert!(due < Time::NEVER, "somebody always waits for something");
        // A deadline in the past would never pass: that is a livelock.
        self.now = due.max(self.now + Duration::from_micros(1)).min(end);
        match who {
            Some(at) => {
                self.nodes[at].engine.handle_timeout(self.now);
                self.drain_receiver(at);
            }
            None => {
                self.sender.handle_timeout(self.now);
                self.drain_sender();
            }
        }
    }

    /// The next thing that happens to receivers before `end` while the sender is stopped: a datagram or result,
    /// or (none inside) a timer that was handled.
    fn next_without_sender(&mut self, end: Time) -> Option<Option<Happening>> {
        let timers = self.nodes.iter().enumerate().map(|(at, n)| (n.engine.poll_deadline().map(|d| d.at), at));
        let (due, who) = timers.map(|(at, who)| (at.unwrap_or(Time::NEVER), who)).min_by_key(|(at, _)| *at)?;
        let next = self.queue.first_key_value().map_or(Time::NEVER, |((at, _), _)| *at);
        if next.min(due) >= end {
            return None;
        }
        if next <= due {
            let ((at, _), happening) = self.queue.pop_first()?;
            self.now = at.max(self.now);
            return Some(Some(happening));
        }
        self.now = due.max(self.now + Duration::from_micros(1));
        self.nodes[who].engine.handle_timeout(self.now);
        self.drain_receiver(who);
        Some(None)
    }

    fn step_receivers_only(&mut self, happening: Happening) {
        match happening {
            // To a sender that is stopped: lost, but what its own disk did is there when it goes on.
            Happening::Nack(..) => {}
            Happening::SenderDone(done) => self.sender.handle_done(self.now, done),
            other => self.step(other),
        }
    }

    /// Another run of the same sender, with the manifest and the pass counts that the first stored.
    fn restart_sender(&mut self) {
        self.session = SessionId(self.session.0 + 1);
        let key = SigningKey::from_seed([2; 32]);
        let certificate = SenderCertificate::issue(&self.publisher, CHANNEL, key.verifying_key());
        self.sender =
            SenderEngine::new(sender_config(self.session, StartNumber(self.session.0), certificate, self.rate));
        let passes = self.passes.iter().map(|(id, count)| (*id, *count)).collect();
        let publication = Publication { passes, ..self.publication(false) };
        self.sender.handle_command(self.now, sender::Command::Publish(Box::new(publication)));
        self.drain_sender();
    }

    fn source_symbols(&self) -> u64 {
        self.manifest.objects().iter().map(|o| o.layout.source_symbols_total()).sum()
    }

    fn diagnosis(&self) -> String {
        let nodes = self
            .nodes
            .iter()
            .map(|n| format!("{:?} {:?} {:?}\n", n.complete_at, n.engine.snapshot(), n.engine.poll_deadline()));
        format!("at {:?}: {:?}\n{}", self.now, self.sender.snapshot(), nodes.collect::<String>())
    }

    fn assert_all_complete(&self) {
        assert!(self.nodes.iter().all(|n| n.complete_at.is_some()), "not all complete {}", self.diagnosis());
    }
}

fn sent_ratio(world: &World) -> f64 {
    world.sent_symbols as f64 / world.source_symbols() as f64
}

#[test]
fn without_loss_every_symbol_is_sent_once() {
    let sizes = vec![3_000_000, 100, 262_144, 262_145, 5_000_000];
    let mut world = World::new(&Scenario { sizes, receivers: 3, loss: 0.0, rate: 100_000_000, seed: 1 });
    world.run(Duration::from_secs(30));
    world.assert_all_complete();
    assert_eq!(world.sent_content, world.source_symbols());
    let extra = world.sent_symbols - world.sent_content;
    assert!(extra < 60, "{extra} symbols beside content: a manifest of three blocks, with repair for each");
    assert!(world.now < Time::ZERO + Duration::from_secs(3), "{:?}", world.now);
}

#[test]
fn loss_is_repaired_near_the_least_that_the_worst_receiver_needs() {
    for (loss, receivers, most) in [(0.01, 4, 1.10), (0.05, 4, 1.20), (0.02, 8, 1.12)] {
        for seed in 1..4 {
            let sizes = vec![20_000_000, 1_000_000, 300_000];
            let mut world = World::new(&Scenario { sizes, receivers, loss, rate: 100_000_000, seed });
            world.run(Duration::from_secs(60));
            world.assert_all_complete();
            let ratio = sent_ratio(&world);
            println!(
                "loss {loss} receivers {receivers} seed {seed}: sent {ratio:.3}, nacks {}, {:?}",
                world.nacks, world.now
            );
            assert!(ratio < most, "sent {ratio:.3} of the content at {loss} loss, {receivers} receivers, seed {seed}");
        }
    }
}

#[test]
fn a_receiver_that_joins_late_gets_all() {
    let sizes = vec![10_000_000, 5_000_000];
    let mut world = World::new(&Scenario { sizes, receivers: 3, loss: 0.01, rate: 100_000_000, seed: 5 });
    world.nodes[1].joins = Time::ZERO + Duration::from_millis(900);
    world.nodes[2].joins = Time::ZERO + Duration::from_secs(5);
    world.run(Duration::from_secs(60));
    world.assert_all_complete();
    let ratio = sent_ratio(&world);
    println!("late joiners: sent {ratio:.3} at {:?}", world.now);
    // The first pass, most of it again for the one that came near its end, all of it for the one that came after.
    assert!(ratio < 3.15, "{ratio}");
}

#[test]
fn heavy_loss_ends_too() {
    let sizes = vec![2_000_000, 300_000];
    let mut world = World::new(&Scenario { sizes, receivers: 2, loss: 0.4, rate: 100_000_000, seed: 3 });
    world.run(Duration::from_secs(120));
    world.assert_all_complete();
    let most = world.passes.values().max().copied().unwrap();
    assert!(most <= 16, "{most} passes");
}

#[test]
fn many_small_objects_under_loss() {
    let sizes = vec![50_000; 400];
    let mut world = World::new(&Scenario { sizes, receivers: 3, loss: 0.02, rate: 200_000_000, seed: 8 });
    world.run(Duration::from_secs(60));
    world.assert_all_complete();
    println!("many small: sent {:.3}, nacks {}, {:?}", sent_ratio(&world), world.nacks, world.now);
    assert!(sent_ratio(&world) < 1.5);
}

#[test]
fn a_once_sender_ends_after_the_last_nack() {
    let mut world =
        World::new(&Scenario { sizes: vec![1_000_000], receivers: 2, loss: 0.05, rate: 50_000_000, seed: 4 });
    world.run(Duration::from_secs(30));
    world.assert_all_complete();
    let end = world.now + Duration::from_secs(20);
    while !world.finished && world.now < end {
        world.turn(end);
    }
    assert!(world.finished, "{}", world.diagnosis());
}

#[test]
fn receivers_without_a_sender_rest_and_go_on_when_it_returns() {
    let sizes = vec![10_000_000];
    let mut world = World::new(&Scenario { sizes, receivers: 2, loss: 0.02, rate: 50_000_000, seed: 6 });
    world.run(Duration::from_millis(1200));
    assert!(world.nodes.iter().all(|n| n.complete_at.is_none()), "it is in the middle");
    // What is under way arrives; then nothing of the sender is heard for a minute.
    let mut woken = 0;
    let back = world.now + Duration::from_secs(60);
    while let Some(happening) = world.next_without_sender(back) {
        woken += 1;
        if let Some(happening) = happening {
            world.step_receivers_only(happening);
        }
    }
    assert!(woken < 20_000, "receivers woke {woken} times in a minute of silence");
    world.now = back;
    world.drain_sender();
    world.run(Duration::from_secs(120));
    world.assert_all_complete();
}

#[test]
fn a_session_rolls_in_mid_transfer() {
    let sizes = vec![10_000_000, 1_000_000];
    let mut world = World::new(&Scenario { sizes, receivers: 3, loss: 0.03, rate: 50_000_000, seed: 9 });
    world.run(Duration::from_millis(1300));
    assert!(world.nodes.iter().all(|n| n.complete_at.is_none()), "it is in the middle");
    world.session = SessionId(78);
    let roll = sender::Command::Roll(world.session, StartNumber(2), Epoch(1));
    world.sender.handle_command(world.now, roll);
    world.drain_sender();
    world.run(Duration::from_secs(60));
    world.assert_all_complete();
    let ratio = sent_ratio(&world);
    assert!(ratio < 1.25, "sent {ratio:.3}: what was heard before the roll stays");
}

#[test]
fn a_sender_that_restarts_sends_only_what_is_asked() {
    let sizes = vec![10_000_000, 2_000_000];
    let mut world = World::new(&Scenario { sizes, receivers: 2, loss: 0.02, rate: 50_000_000, seed: 12 });
    world.run(Duration::from_millis(1500));
    let before = world.sent_symbols;
    assert!(before > 2000, "it is in the middle");
    let lacking = world.source_symbols() - before.min(world.source_symbols());
    world.restart_sender();
    world.run(Duration::from_secs(60));
    world.assert_all_complete();
    let after = world.sent_symbols - before;
    assert!(after < lacking + world.source_symbols() / 5, "{after} symbols after the restart, {lacking} were lacking");
}

#[test]
fn the_same_seed_runs_the_same() {
    let run = || {
        let scenario = Scenario { sizes: vec![3_000_000], receivers: 3, loss: 0.05, rate: 50_000_000, seed: 11 };
        let mut world = World::new(&scenario);
        world.run(Duration::from_secs(30));
        (world.now, world.sent_symbols, world.nacks)
    };
    assert_eq!(run(), run());
}
