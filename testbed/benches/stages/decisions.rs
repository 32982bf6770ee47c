//! The engines' decisions: what a sender sends next, and what a receiver does with a symbol. Nanoseconds of a symbol.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use criterion::{BatchSize, Criterion, Throughput};
use nackcast_common::clock::Time;
use nackcast_common::ids::{ChannelId, Epoch, ObjectIndex, SessionId, StartNumber};
use nackcast_common::keys::SigningKey;
use nackcast_common::ranges::RangeSet;
use nackcast_common::units::RateLimit;
use nackcast_proto::wire::symbol::SymbolId;
use nackcast_proto::wire::{Advertisement, Role, SenderCertificate};
use nackcast_receiver::engine::{self as receiver, Admission, BlockOutcome, ReceiverEngine, Want, Wants};
use nackcast_sender::RateBounds;
use nackcast_sender::ScheduleConfig;
use nackcast_sender::engine::{self as sender, SenderEngine, SymbolRun, Transmit};
use nackcast_testbed::sim::scale::Content;

pub(crate) const CHANNEL: ChannelId = ChannelId([9; 16]);
pub(crate) const SESSION: SessionId = SessionId(77);
const BYTES: u64 = 64 << 20;

pub(crate) fn bench(criterion: &mut Criterion) {
    let publisher = SigningKey::from_seed([1; 32]);
    for (name, files) in [("one file", 1), ("1,000 files", 1_000)] {
        let content = Content::new(CHANNEL, &publisher, BYTES, files, 1).expect("content");
        scheduler(criterion, name, &content);
        admission(criterion, name, &content);
    }
}

/// A sender's engine whose work is done at once, in virtual time.
pub(crate) struct Sender {
    pub(crate) engine: SenderEngine,
    pub(crate) now: Time,
    /// The last one sent.
    advertisement: Option<Box<Advertisement>>,
}

impl Sender {
    pub(crate) fn new(content: &Content) -> Self {
        let (publisher, key) = (SigningKey::from_seed([1; 32]), SigningKey::from_seed([2; 32]));
        let config = sender::EngineConfig {
            channel: CHANNEL,
            session: SESSION,
            start_number: StartNumber(1),
            epoch: Epoch(1),
            role: Role::Primary,
            certificate: SenderCertificate::issue(&publisher, CHANNEL, key.verifying_key()),
            data_group: SocketAddr::from(([239, 1, 1, 1], 7601)),
            nack_port: 7701,
            quic_port: 0,
            rate: RateLimit::Max,
            auto: RateBounds::default(),
            schedule: ScheduleConfig::default(),
            once: None,
        };
        let mut engine = SenderEngine::new(config);
        engine.handle_command(Time::ZERO, sender::Command::Publish(Box::new(content.publication())));
        Self { engine, now: Time::ZERO, advertisement: None }
    }

    /// Lets it send so many symbols, or until its first pass is over; the runs that it sent.
    pub(crate) fn send(&mut self, symbols: u64) -> Vec<SymbolRun> {
        let (mut runs, mut sent, mut is_over) = (Vec::new(), 0, false);
        while sent < symbols && !is_over {
            while let Some(work) = self.engine.poll_work() {
                match work {
                    sender::Work::Prepare { object, block, .. } => {
                        self.engine.handle_done(self.now, sender::Done::Prepared { object, block, sound: true });
                    }
                    sender::Work::RecordPass { object, .. } => {
                        self.engine.handle_done(self.now, sender::Done::PassRecorded { object });
                    }
                    sender::Work::Release { .. } => {}
                }
            }
            while let Some(event) = self.engine.poll_event() {
                is_over |= matches!(event, sender::Event::FirstPassOver(_));
            }
            match self.engine.poll_transmit(self.now) {
                Some(Transmit::Symbols(run)) => {
                    sent += u64::from(run.esis.end - run.esis.start);
                    runs.push(run);
                }
                Some(Transmit::Advertisement(advertisement)) => self.advertisement = Some(advertisement),
                Some(_) => {}
                None => {
                    let due = self.engine.poll_deadline(self.now).map_or(self.now, |deadline| deadline.at);
                    self.now = due.max(self.now + Duration::from_micros(1));
                    self.engine.handle_timeout(self.now);
                }
            }
        }
        runs
    }
}

fn symbols(content: &Content) -> u64 {
    content.manifest.objects().iter().map(|object| object.layout.source_symbols_total()).sum()
}

fn scheduler(criterion: &mut Criterion, name: &str, content: &Content) {
    let total: u64 = Sender::new(content).send(u64::MAX).iter().map(length).sum();
    assert!(total >= symbols(content), "all is sent: {total} of {}", symbols(content));
    let mut group = criterion.benchmark_group("scheduler");
    group.sample_size(20).throughput(Throughput::Elements(total));
    group.bench_function(name, |bencher| {
        bencher.iter_batched(|| Sender::new(content), |mut sender| sender.send(u64::MAX).len(), BatchSize::LargeInput);
    });
    group.finish();
}

const fn length(run: &SymbolRun) -> u64 {
    (run.esis.end - run.esis.start) as u64
}

/// A receiver's engine that has the manifest and heard the sender.
fn receiver(content: &Content, advertisement: &Advertisement) -> ReceiverEngine {
    let hash = content.encoded.reference.hash;
    let mut engine = ReceiverEngine::new(receiver::EngineConfig {
        channel: CHANNEL,
        seed: 1,
        nack_retry: Duration::from_millis(200),
        nack_budget: 4,
        slots: 64,
        remembered: Some((content.manifest.head().generation, hash)),
        once: false,
    });
    let objects = (0..content.manifest.objects().len()).filter_map(|index| u32::try_from(index).ok());
    let want = |index| Want { index: ObjectIndex(index), done: RangeSet::new(), held: Vec::new() };
    let wants = Wants { manifest: Arc::clone(&content.manifest), hash, objects: objects.map(want).collect() };
    engine.handle_wants(Time::ZERO, wants);
    engine.handle_advertisement(Time::ZERO, SocketAddr::from(([10, 0, 0, 1], 7600)), advertisement);
    settle(&mut engine);
    engine
}

/// Does all work that is ordered.
fn settle(engine: &mut ReceiverEngine) {
    use receiver::{Done, InstallOutcome, Work};
    while let Some(work) = engine.poll_work() {
        let done = match work {
            Work::Complete { object, block, slot } => {
                Done::Complete { object, block, slot, outcome: BlockOutcome::Sound }
            }
            Work::Install { object } => Done::Install { object, outcome: InstallOutcome::Installed },
            Work::Checkpoint { .. } => Done::Checkpoint,
            Work::Finish => Done::Finish { whole: true },
            other => panic!("this takes no {other:?}"),
        };
        engine.handle_done(Time::ZERO, done);
    }
    while engine.poll_transmit().is_some() {}
    while engine.poll_event().is_some() {}
}

/// Every symbol of the content, one by one, as a receiver's thread asks for each.
fn admission(criterion: &mut Criterion, name: &str, content: &Content) {
    let mut sender = Sender::new(content);
    let runs = sender.send(u64::MAX);
    let mut advertisement = sender.advertisement.expect("a sender advertises");
    // The bound of what this session may have sent so far.
    advertisement.data_packets = u64::MAX >> 1;
    let runs: Vec<_> = runs.into_iter().filter(|run| content.manifest.index_of(run.object).is_some()).collect();
    let total = runs.iter().map(length).sum();
    let take = |mut engine: ReceiverEngine| {
        let mut kept = 0;
        for run in &runs {
            for (packet, esi) in (run.first_packet..).zip(run.esis.clone()) {
                let symbol = SymbolId { object: run.object, block: run.block, esi };
                let admission = engine.handle_symbol(Time::ZERO, Time::ZERO, SESSION, packet, symbol);
                kept += u64::from(matches!(admission, Admission::Keep(_)));
            }
            settle(&mut engine);
        }
        kept
    };
    assert_eq!(take(receiver(content, &advertisement)), symbols(content), "every source symbol is kept");
    let mut group = criterion.benchmark_group("admission");
    group.sample_size(20).throughput(Throughput::Elements(total));
    group.bench_function(name, |bencher| {
        bencher.iter_batched(|| receiver(content, &advertisement), take, BatchSize::LargeInput);
    });
    group.finish();
}
