//! Hostile circumstances for both engines, in virtual time: replays, forged numbers, little memory, disks that fail,
//! restarts again and again. Each test is a fault that was found once.

#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    clippy::redundant_clone,
    clippy::let_underscore_must_use,
    reason = "a test may fail"
)]

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
    packets: u64,
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

struct World {
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
    nacks: u64,
    passes: BTreeMap<ObjectId, u32>,
    finished: bool,
    later: BTreeSet<ObjectId>,
    digests: Vec<DigestBody>,
    last_symbol_at: Time,
    complete_reports: u64,
    spill_lost: bool,
    black_out: Option<usize>,
    sender_config: sender::EngineConfig,
    spinning: u64,
    checkpointed: u64,
    old: Vec<Arc<Manifest>>,
    jitter: u64,
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
        let config = sender::EngineConfig {
            channel: CHANNEL,
            session,
            start_number: StartNumber(1),
            epoch: Epoch(1),
            role: Role::Primary,
            certificate: SenderCertificate::issue(&publisher, CHANNEL, key.verifying_key()),
            data_group: "239.1.1.1:7601".parse().unwrap(),
            nack_port: 7701,
            quic_port: 0,
            rate: RateLimit::Fixed(BitRate(scenario.rate)),
            schedule: ScheduleConfig::default(),
            auto: nackcast_sender::RateBounds::default(),
            once: Some(Once { expect: None, linger: Duration::from_secs(3) }),
        };
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
            packets: 0,
            loss: scenario.loss,
            joins: Time::ZERO,
            complete_at: None,
            unicast: 0,
        };
        let mut world = Self {
            now: Time::ZERO,
            queue: BTreeMap::new(),
            number: 0,
            rng: StdRng::seed_from_u64(scenario.seed),
            sender: SenderEngine::new(config.clone()),
            sender_config: config,
            session,
            nodes: (0..scenario.receivers).map(node).collect(),
            manifest: Arc::clone(&manifest),
            encoded,
            publisher,
            sent_symbols: 0,
            nacks: 0,
            passes: BTreeMap::new(),
            finished: false,
            later: BTreeSet::new(),
            digests: Vec::new(),
            last_symbol_at: Time::ZERO,
            complete_reports: 0,
            spill_lost: false,
            black_out: None,
            spinning: 0,
            checkpointed: 0,
            old: Vec::new(),
            jitter: 0,
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
        if self.black_out == Some(node) {
            return true;
        }
        let loss = self.nodes[node].loss;
        self.rng.random_range(0.0..1.0) < loss
    }

    fn multicast(&mut self, make: impl Fn(usize) -> Happening) {
        for at in 0..self.nodes.len() {
            if self.now >= self.nodes[at].joins && !self.lost(at) {
                let copies = if self.jitter > 0 && self.rng.random_range(0..20) == 0 { 2 } else { 1 };
                for _ in 0..copies {
                    let late = if self.jitter > 0 { self.rng.random_range(0..self.jitter) } else { 0 };
                    self.at(DELAY + Duration::from_micros(late), make(at));
                }
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
                    sender::Transmit::Digest(d) => {
                        self.digests.push(d.clone());
                        self.multicast(|at| Happening::Digest(at, d.clone()));
                    }
                    sender::Transmit::Answer(to, answer) => {
                        let at = usize::from(to.port());
                        if !self.lost(at) {
                            self.at(DELAY, Happening::Answer(at, answer));
                        }
                    }
                    sender::Transmit::Symbols(run) => {
                        let session = self.session;
                        self.last_symbol_at = now;
                        for (nth, esi) in run.esis.clone().enumerate() {
                            self.sent_symbols += 1;
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
            self.nodes[at].packets = packet;
            self.nacks += 1;
            self.complete_reports += u64::from(transmit.nack.complete);
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
                self.at(
                    DISK,
                    Happening::ReceiverDone(
                        at,
                        Done::Spill { object, block, slot, held: (!self.spill_lost).then_some(held) },
                    ),
                );
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
                let outcome =
                    if self.later.contains(&object) { InstallOutcome::Later } else { InstallOutcome::Installed };
                let done = Done::Install { object, outcome };
                self.at(DISK, Happening::ReceiverDone(at, done));
            }
            Work::Checkpoint { blocks } => self.checkpointed += blocks.len() as u64,
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
        let mut all = self.old.iter().chain([&self.manifest]);
        all.find_map(|m| Some(m.object(m.index_of(object)?)?.layout)).unwrap()
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
        self.spinning += u64::from(due <= self.now);
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

impl World {
    fn restart_sender(&mut self) {
        // What was under way to or from the old one is lost.
        self.queue.retain(|_, h| !matches!(h, Happening::SenderDone(_) | Happening::Nack(..)));
        self.session = SessionId(self.session.0 + 1);
        self.sender_config.session = self.session;
        self.sender_config.start_number = StartNumber(self.sender_config.start_number.0 + 1);
        self.sender = SenderEngine::new(self.sender_config.clone());
        let mut publication = self.publication(false);
        publication.passes = self.passes.iter().map(|(id, count)| (*id, *count)).collect();
        self.sender.handle_command(self.now, sender::Command::Publish(Box::new(publication)));
        self.drain_sender();
    }

    fn run_for(&mut self, time: Duration) {
        self.drain_sender();
        let end = self.now + time;
        while self.now < end {
            self.turn(end);
        }
    }

    fn slots(&mut self, slots: u32) {
        for at in 0..self.nodes.len() {
            self.nodes[at].engine = ReceiverEngine::new(receiver::EngineConfig {
                channel: CHANNEL,
                seed: at as u64,
                nack_retry: Duration::from_millis(200),
                nack_budget: 4,
                slots,
                remembered: None,
                once: false,
            });
        }
    }
}

fn small(sizes: Vec<u64>, receivers: usize, loss: f64, seed: u64) -> World {
    World::new(&Scenario { sizes, receivers, loss, rate: 50_000_000, seed })
}

/// An outsider (no ticket) records one Digest of a session and sends it again and again.
#[test]
fn a_replayed_digest_does_not_silence_a_receiver() {
    replay(false);
    replay(true);
}

fn replay(replayed: bool) {
    let mut world = small(vec![3_000_000], 2, 0.02, 21);
    world.nodes[1].joins = Time::ZERO + Duration::from_secs(8);
    // The first receiver is served; then the second joins, NACKs, and its Digests are recorded.
    let end = Time::ZERO + Duration::from_secs(60);
    world.drain_sender();
    while world.now < end
        && world.digests.iter().all(|d| {
            !d.promises.iter().any(
                |p| matches!(p, nackcast_proto::wire::Promise::Whole(id) if world.manifest.index_of(*id).is_some()),
            )
        })
    {
        world.turn(end);
    }
    let recorded: Vec<_> = world.digests.clone();
    assert!(!recorded.is_empty());
    println!("recorded {} digests at {:?}", recorded.len(), world.now);
    // A third receiver, fresh, hears everything of the sender but also the replay; it lost all content.
    world.black_out = Some(1);
    world.run_for(Duration::from_secs(6));
    world.black_out = None;
    let until = world.now + Duration::from_secs(120);
    let mut next = world.now;
    while world.now < until && world.nodes[1].complete_at.is_none() {
        if replayed && world.now >= next {
            next = world.now + Duration::from_millis(5);
            for digest in recorded.clone() {
                world.at(Duration::ZERO, Happening::Digest(1, digest));
            }
        }
        let stop = if replayed { next.min(until) } else { until };
        world.turn(stop);
    }
    println!("replayed: {replayed}, complete: {:?}", world.nodes[1].complete_at);
    assert!(world.nodes[1].complete_at.is_some(), "silenced by a replay: {}", world.diagnosis());
}

/// One object that can never be installed (its directory is not ours) must not stop all others.
#[test]
fn one_object_that_cannot_be_installed_does_not_stop_the_others() {
    let mut world = small(vec![1_000, 30_000_000], 1, 0.01, 22);
    let id = world.manifest.objects()[0].id;
    world.later.insert(id);
    world.run_for(Duration::from_secs(120));
    let snapshot = world.nodes[0].engine.snapshot();
    assert!(snapshot.objects_done + 1 >= snapshot.objects, "{}", world.diagnosis());
}

/// The serials of finished passes begin anew with a session.
#[test]
fn a_restarted_senders_finished_passes_are_believed() {
    let time = |restart: bool| {
        let mut world = small(vec![400_000; 40], 1, 0.0, 23);
        world.sender_config.once = None;
        world.nodes[0].loss = 0.3;
        world.run(Duration::from_millis(2500));
        if restart {
            world.restart_sender();
        }
        let from = world.now;
        world.run(Duration::from_secs(300));
        world.assert_all_complete();
        (world.now.since(from), world.nacks)
    };
    let (plain, restarted) = (time(false), time(true));
    println!("without restart {plain:?}, with restart {restarted:?}");
    assert!(restarted.0 < plain.0 * 2 + Duration::from_secs(3));
}

/// `--once`: the linger counts from the end of the first pass.
#[test]
fn a_once_sender_lingers_after_its_last_symbol() {
    let mut world = small(vec![60_000_000], 1, 0.0, 24);
    let end = Time::ZERO + Duration::from_secs(60);
    world.drain_sender();
    while !world.finished && world.now < end {
        world.turn(end);
        // The receiver loses the tail: everything of the last 400 ms of the pass, both ways.
        if world.sender.snapshot().objects_passed == 2 && world.sent_symbols + 600 > world.source_symbols() {
            world.black_out = Some(0);
        }
    }
    let lingered = world.now.since(world.last_symbol_at);
    println!("finished {lingered:?} after the last symbol, at {:?}", world.now);
    assert!(lingered >= Duration::from_secs(3), "finished {lingered:?} after its last symbol");
}

/// An insider seals one NACK under another receiver's run (which stands in clear in headers) with the highest number.
#[test]
fn one_forged_packet_number_does_not_silence_a_receiver() {
    let mut world = small(vec![2_000_000], 1, 0.02, 25);
    world.run(Duration::from_millis(200));
    let forged = Nack { channel: CHANNEL, session: world.session, sequence: 1, time: world.now.0, ..Nack::default() };
    let run = world.nodes[0].run;
    world.sender.handle_nack(world.now, "10.0.0.9:0".parse().unwrap(), run, u64::MAX, &forged);
    world.run(Duration::from_secs(300));
    world.assert_all_complete();
}

/// Unsigned answers, forged by an insider, name objects that do not exist.
#[test]
fn forged_answers_do_not_grow_memory() {
    let mut world = small(vec![2_000_000], 1, 0.0, 26);
    world.run(Duration::from_millis(1000));
    let mut id = 0;
    for _ in 0..10_000 {
        let ids = (0..60)
            .map(|_| {
                id += 1;
                ObjectId(id)
            })
            .collect();
        let (channel, session, nack) = (CHANNEL, world.session, id / 60 % 100);
        let answer = NackAnswer { channel, session, nack, unicast_ids: ids, ..NackAnswer::default() };
        world.nodes[0].engine.handle_answer(world.now, &answer, false);
    }
    let known = world.nodes[0].engine.snapshot().unicast_wanted;
    assert!(known <= 10, "{known} objects are remembered, of a dataset of 1");
}

/// An answer counts once, and only for the NACK that it names: replayed, or sent on to another receiver, it does
/// nothing.
#[test]
fn a_replayed_answer_does_nothing() {
    let mut world = small(vec![2_000_000], 1, 0.0, 26);
    world.run(Duration::from_millis(1000));
    let refused = world.manifest.objects()[0].id;
    let (channel, session, last) = (CHANNEL, world.session, world.nodes[0].packets);
    let answer = |nack| NackAnswer { channel, session, nack, unicast_ids: vec![refused], ..NackAnswer::default() };
    assert!(last > 0 && world.nodes[0].engine.snapshot().has_manifest);
    // Everything that was asked is answered; then an answer with other content comes under the same number, and one
    // under a number that was never used.
    let engine = &mut world.nodes[0].engine;
    for nack in 0..=last {
        engine.handle_answer(world.now, &NackAnswer { unicast_ids: Vec::new(), ..answer(nack) }, false);
    }
    for nack in (0..=last).chain([last + 1, u64::MAX]) {
        engine.handle_answer(world.now, &answer(nack), false);
    }
    assert_eq!(engine.snapshot().unicast_wanted, 0);
    world.run(Duration::from_secs(60));
    world.assert_all_complete();
}

/// After all passes are used up, a round ends some time.
#[test]
fn a_receiver_whose_passes_were_used_up_completes_in_a_later_round() {
    let mut world = small(vec![300_000], 1, 0.0, 27);
    world.sender_config.once = None;
    // The link is bad for a while: NACKs get through, content does not.
    let end = world.now + Duration::from_secs(400);
    let content = world.manifest.objects()[0].id;
    world.drain_sender();
    while world.now < end {
        world.queue.retain(|_, h| !matches!(h, Happening::Symbol(_, _, _, id) if id.object == content));
        world.turn(end);
    }
    println!("passes {:?} {}", world.passes, world.diagnosis());
    // Then it is perfect, for three hours.
    world.run(Duration::from_secs(3 * 3600));
    world.assert_all_complete();
}

/// The answer to an earlier report must not count as the answer to the report that all is complete.
#[test]
fn the_word_that_all_is_complete_is_sent_although_an_older_answer_arrives() {
    let mut world = small(vec![200_000], 1, 0.0, 28);
    let end = Time::ZERO + Duration::from_secs(10);
    world.drain_sender();
    while world.nodes[0].complete_at.is_none() && world.now < end {
        if world.nodes[0].packets > 0 {
            // Reports are repeated, and the last one is not answered yet.
            world.queue.retain(|_, h| !matches!(h, Happening::Answer(..)));
        }
        world.turn(end);
    }
    assert!(world.nodes[0].complete_at.is_some());
    assert_eq!(world.complete_reports, 0);
    // On its way since before: the answer to the last copy of "the manifest is held".
    let answer = NackAnswer {
        channel: CHANNEL,
        session: world.session,
        nack: world.nodes[0].packets,
        status: nackcast_proto::wire::NackStatus::Noted,
        ..NackAnswer::default()
    };
    world.at(Duration::from_micros(100), Happening::Answer(0, answer));
    world.run_for(Duration::from_secs(60));
    assert!(world.complete_reports > 0, "the sender never hears that the receiver is complete: {}", world.diagnosis());
}

/// A new manifest of several parts arrives after a disk trouble: the deadline must not stay in the past.
#[test]
fn no_deadline_stays_in_the_past() {
    let mut world = small(vec![1_000, 60_000_000], 1, 0.0, 29);
    let id = world.manifest.objects()[0].id;
    world.later.insert(id);
    world.run(Duration::from_millis(2000));
    world.later.clear();
    world.run(Duration::from_millis(5000));
    assert!(world.nodes[0].complete_at.is_none());
    // Generation 2: many entries, so that its manifest has several parts; the sender goes in the middle of it.
    let sizes: Vec<u64> = (0..40_000).map(|n| 1000 + n).collect();
    let before = std::mem::replace(&mut world.manifest, Arc::new(manifest(&sizes, 2)));
    world.old.push(before);
    world.encoded = encode(&world.manifest, &world.publisher).unwrap();
    world.nodes[0].parts.clear();
    println!("{} parts", world.encoded.parts.len());
    let publication = world.publication(true);
    world.sender.handle_command(world.now, sender::Command::Publish(Box::new(publication)));
    world.drain_sender();
    let end = world.now + Duration::from_secs(4);
    let mut spun = 0_u64;
    let before = world.now;
    while world.now < end && world.nodes[0].parts.len() < 2 {
        // The last part is lost for now.
        let last = world.encoded.parts.last().map(|p| Geometry::default().object_id(&p.digest, p.bytes.len() as u64));
        world.queue.retain(|_, h| !matches!(h, Happening::Symbol(_, _, _, id) if Some(id.object) == last));
        world.turn(end);
    }
    println!("parts here {} after {:?}", world.nodes[0].parts.len(), world.now.since(before));
    println!("{} spinning {}", world.diagnosis(), world.spinning);
    world.black_out = Some(0);
    let silent = world.now + Duration::from_millis(20);
    while let Some(happening) = world.next_without_sender(silent) {
        spun += 1;
        if let Some(happening) = happening {
            world.step_receivers_only(happening);
        }
    }
    let deadline = world.nodes[0].engine.poll_deadline();
    println!("woken {spun} times in 20 ms; deadline {deadline:?} at {:?}", world.now);
    assert!(spun < 500, "woken {spun} times in 20 ms without a sender");
}

/// A slow disk: checkpoints must not pile up.
#[test]
fn checkpoints_wait_for_the_disk() {
    let mut world = small(vec![60_000_000], 1, 0.05, 30);
    world.nodes[0].loss = 0.0;
    let end = Time::ZERO + Duration::from_secs(40);
    world.drain_sender();
    let (mut ordered, mut most) = (0_usize, 0_usize);
    let mut dropped = 0_u64;
    while world.now < end && world.nodes[0].complete_at.is_none() {
        // One symbol of each block never arrives, and no NACK either.
        world.queue.retain(|_, h| {
            let gone = matches!(h, Happening::Symbol(_, _, _, id) if id.esi == 7 && world.manifest.index_of(id.object).is_some())
                || matches!(h, Happening::Nack(_, _, nack) if !nack.short.is_empty());
            dropped += u64::from(gone);
            !gone
        });
        world.turn(end);
        let _ = (&mut ordered, &mut most);
    }
    println!("dropped {dropped}; checkpointed blocks {}", world.checkpointed);
    assert!(world.checkpointed < 1000, "{} block copies were ordered while the disk answered none", world.checkpointed);
}

fn tiny(slots: u32, loss: f64, seed: u64, sizes: Vec<u64>) -> World {
    let mut world = small(sizes, 3, loss, seed);
    world.slots(slots);
    world.run(Duration::from_secs(600));
    world
}

#[test]
fn tiny_memory_with_chaining_objects() {
    for slots in [4, 8, 12] {
        for seed in 0..4 {
            let world = tiny(slots, 0.1, seed, vec![9_000_000, 3_000_000, 100, 2_500_000]);
            println!("slots {slots} seed {seed}: {:?} sent {} nacks {}", world.now, world.sent_symbols, world.nacks);
            world.assert_all_complete();
        }
    }
}

#[test]
fn restarts_again_and_again() {
    for seed in 0..5 {
        let mut world = small(vec![9_000_000, 400_000, 400_000, 100], 3, 0.05, seed);
        world.sender_config.once = None;
        for _ in 0..6 {
            world.run(world.now.since(Time::ZERO) + Duration::from_millis(700));
            world.restart_sender();
        }
        world.run(Duration::from_secs(300));
        println!("seed {seed}: {:?} sent {} nacks {}", world.now, world.sent_symbols, world.nacks);
        world.assert_all_complete();
    }
}

#[test]
fn spills_that_are_lost_now_and_then() {
    for seed in 0..3 {
        let mut world = small(vec![9_000_000, 3_000_000, 100, 2_500_000], 3, 0.1, seed);
        world.slots(8);
        world.spill_lost = true;
        world.run(Duration::from_secs(3));
        world.spill_lost = false;
        world.run(Duration::from_secs(600));
        println!("lost spills, seed {seed}: {:?} sent {} nacks {}", world.now, world.sent_symbols, world.nacks);
        world.assert_all_complete();
    }
}

/// A Finish that says "not whole" while something new is wanted: symbols of it must not be thrown away for seconds.
#[test]
fn what_is_sent_after_an_unsuccessful_finish_is_kept() {
    let mut world = small(vec![3_000_000], 1, 0.0, 31);
    world.run(Duration::from_millis(700));
    // The order of reports when generation 2 arrives while generation 1 is being finished: its Wants, then this.
    world.nodes[0].engine.handle_done(world.now, receiver::Done::Finish { whole: false });
    world.run(Duration::from_secs(30));
    println!(
        "after Finish: complete at {:?}, sent {:.2}",
        world.nodes[0].complete_at,
        world.sent_symbols as f64 / world.source_symbols() as f64
    );
    assert!(world.sent_symbols < world.source_symbols() * 11 / 10);
}

#[test]
fn reordering_and_duplication() {
    for jitter in [2_000, 30_000, 200_000] {
        for seed in 0..3 {
            let mut world = small(vec![9_000_000, 400_000, 100], 3, 0.05, seed);
            world.jitter = jitter;
            world.run(Duration::from_secs(200));
            println!(
                "jitter {jitter} us, seed {seed}: {:?} sent {:.2} nacks {}",
                world.now,
                sent_ratio(&world),
                world.nacks
            );
            world.assert_all_complete();
        }
    }
}

fn sent_ratio(world: &World) -> f64 {
    world.sent_symbols as f64 / world.source_symbols() as f64
}

/// A roll to a new session in the middle of a job: blocks sent before it must still be repaired in this pass.
#[test]
fn a_session_rolls_in_the_middle_of_a_pass() {
    let time = |roll: bool| {
        let mut world = small(vec![30_000_000], 3, 0.05, 41);
        world.sender_config.once = None;
        world.run(Duration::from_millis(3000));
        if roll {
            world.session = SessionId(78);
            world.sender.handle_command(world.now, sender::Command::Roll(SessionId(78), StartNumber(2), Epoch(1)));
            world.drain_sender();
        }
        world.run(Duration::from_secs(300));
        world.assert_all_complete();
        (world.now, world.nacks, world.passes.values().max().copied())
    };
    let (plain, rolled) = (time(false), time(true));
    println!("without a roll {plain:?}, with one {rolled:?}");
}
