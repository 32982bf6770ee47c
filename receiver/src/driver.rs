//! One channel's sockets, threads and clock around its engine.
//!
//! The loop takes one input (a batch of datagrams, a result, a timer), hands it to the engine, and drains what
//! the engine orders. Blocks and files are the work of two threads; the loop itself never waits for a disk.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use fixedbitset::FixedBitSet;
use nackcast_common::archive::Archive;
use nackcast_common::clock::{Clock, Time};
use nackcast_common::geometry::Layout;
use nackcast_common::ids::{Digest, Generation, ObjectId, RunId};
use nackcast_common::keys::{Flow, fill_random};
use nackcast_common::manifest::{Chaining, ChainingValue, Manifest};
use nackcast_common::net::interface::Interface;
use nackcast_common::net::multicast::GroupSocket;
use nackcast_common::net::unicast::UnicastSocket;
use nackcast_common::seal::{FlowKey, PacketNumbers};
use nackcast_proto::manifest::decode_root;
use nackcast_proto::ticket::Ticket;
use nackcast_proto::wire::limits::{DATAGRAM_LEN_MAX, TAG_LEN};
use nackcast_proto::wire::symbol::SymbolId;
use nackcast_proto::wire::{Advertisement, DatagramType, DigestBody, Header, ManifestRef, NackAnswer, header};
use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;

use crate::app::RunError;
use crate::arena::Arena;
use crate::blocks::{self, Blocks, Check, Keep};
use crate::config::Config;
use crate::dataset::{self, Dataset, Record, ScanReport, Settings};
use crate::disk::part::PartStore;
use crate::disk::scan::Depth;
use crate::disk::target::TargetDir;
use crate::engine::{Admission, Done, EngineConfig, Event, ReceiverEngine, Wants, Work};
use crate::keys::Keys;
use crate::report::{ChannelProgress, ReceivedChannel, WAITING};

/// Bytes of manifest parts kept in memory at most, while a manifest is being received.
const BLOBS_MAX: usize = 1 << 30;
/// Nothing valid for so long, but datagrams that do not open: the ticket is probably wrong.
const WRONG_TICKET_AFTER: Duration = Duration::from_secs(3);
/// After the dataset is whole, `--once` waits so long for the sender to take note.
const LAST_WORD: Duration = Duration::from_secs(3);
/// Between two lines about the same trouble.
const TROUBLE_SPACING: Duration = Duration::from_secs(5);
/// Batches of datagrams read before orders are looked at.
const BATCHES_PER_TURN: usize = 8;
/// A comparison that failed is tried again after so long.
const COMPARE_RETRY: Duration = Duration::from_secs(5);

/// What one channel is given.
pub(crate) struct Setup {
    pub(crate) ticket: Ticket,
    pub(crate) target: Arc<TargetDir>,
    pub(crate) parts: Arc<PartStore>,
    pub(crate) archive: Archive,
    pub(crate) record: Record,
    pub(crate) remembered: Option<(Generation, Digest)>,
    pub(crate) interface: Interface,
    pub(crate) sources: Vec<SocketAddr>,
    pub(crate) clock: Clock,
    pub(crate) shutdown: CancellationToken,
    pub(crate) progress: watch::Sender<ChannelProgress>,
    pub(crate) scans: mpsc::Receiver<ScanRequest>,
}

/// Somebody wants a scan.
pub(crate) struct ScanRequest {
    pub(crate) deep: bool,
    pub(crate) answer: Option<tokio::sync::oneshot::Sender<ScanReport>>,
}

/// Datagrams that were not used, by reason.
#[derive(Clone, Copy, Debug, Default)]
struct Dropped {
    malformed: u64,
    unopened: u64,
    refused: u64,
    stranger: u64,
}

struct Channel {
    ticket: Ticket,
    engine: ReceiverEngine,
    keys: Keys,
    arena: Arena,
    run: RunId,
    run_key: FlowKey,
    packets: PacketNumbers,
    clock: Clock,
    archive: Archive,
    nacks: Arc<UnicastSocket>,
    outgoing: Vec<u8>,
    blocks: std::sync::mpsc::Sender<blocks::Order>,
    dataset: std::sync::mpsc::Sender<dataset::Order>,
    manifest: Option<Arc<Manifest>>,
    /// Sizes and digests of the manifest's own objects.
    fetching: BTreeMap<ObjectId, (Layout, Digest)>,
    blobs: BTreeMap<Digest, Bytes>,
    reference: Option<ManifestRef>,
    chaining: BTreeMap<ObjectId, Arc<[ChainingValue]>>,
    dropped: Dropped,
    opened_at: Option<Time>,
    unopened_since: Option<Time>,
    told_wrong_ticket: bool,
    told_other_channel: bool,
    data_group: Option<SocketAddr>,
    received_bytes: u64,
    repair_bytes: u64,
    notes: Notes,
    ended: Option<Result<(), RunError>>,
    complete_at: Option<Time>,
    once: bool,
    retry_compare: Option<Time>,
}

/// Lines for people, not the same one over and over.
#[derive(Default)]
struct Notes {
    last: BTreeMap<String, Time>,
    current: Option<String>,
    problems: Vec<String>,
}

impl Notes {
    fn say(&mut self, now: Time, name: &str, line: &str) {
        self.current = Some(line.to_owned());
        let key: String = line.chars().take(60).collect();
        if self.last.get(&key).is_some_and(|at| now.since(*at) < TROUBLE_SPACING) {
            return;
        }
        if self.last.len() > 256 {
            self.last.clear();
        }
        self.last.insert(key, now);
        tracing::warn!("{name}: {line}");
        if self.problems.len() < 100 && !self.problems.iter().any(|p| p == line) {
            self.problems.push(line.to_owned());
        }
    }
}

/// Runs one channel until it is done or told to end.
pub(crate) async fn run(setup: Setup, config: &Config) -> Result<ReceivedChannel, RunError> {
    let Setup {
        ticket,
        target,
        parts,
        archive,
        record,
        remembered,
        interface,
        sources,
        clock,
        shutdown,
        progress,
        scans,
    } = setup;
    let mut scans = scans;
    let allowed: Vec<_> = sources.iter().map(SocketAddr::ip).collect();
    let mut advertisements = GroupSocket::bind(ticket.advertise, &interface, &allowed).map_err(RunError::Network)?;
    let data_group = SocketAddr::new(ticket.advertise.ip(), ticket.advertise.port().saturating_add(1));
    let mut data = GroupSocket::bind(data_group, &interface, &allowed).map_err(RunError::Network)?;
    if let Some(warning) = data.warning() {
        tracing::info!("{}: {warning}", ticket.name);
    }
    let any = if ticket.advertise.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" };
    let any = any.parse().map_err(|_| RunError::Internal("address"))?;
    let nacks = Arc::new(UnicastSocket::bind(any).map_err(RunError::Network)?);

    let (block_orders, block_inbox) = std::sync::mpsc::channel();
    let (block_reports, mut block_outbox) = mpsc::unbounded_channel();
    let (dataset_orders, dataset_inbox) = std::sync::mpsc::channel();
    let (dataset_reports, mut dataset_outbox) = mpsc::unbounded_channel();
    let block_worker = Blocks::new(Arc::clone(&parts), block_reports);
    let settings = Settings {
        channel: ticket.channel,
        publisher: ticket.publisher,
        mode_mask: config.mode_mask,
        overwrite: config.overwrite,
        prune: config.prune,
    };
    let dataset_worker = Dataset::new(settings, Arc::clone(&target), parts, archive.clone(), record, dataset_reports);
    let block_thread = spawn("blocks", move || block_worker.run(&block_inbox))?;
    let dataset_thread = spawn("dataset", move || dataset_worker.run(&dataset_inbox))?;

    let mut channel =
        Channel::new(ticket, config, archive, remembered, clock, Arc::clone(&nacks), block_orders, dataset_orders);
    channel.data_group = Some(data_group);
    if remembered.is_some() {
        channel.order_dataset(dataset::Order::Remember);
    }
    let mut scan_at = tokio::time::Instant::now() + config.scan;
    let mut tick = tokio::time::interval(Duration::from_millis(500));
    let mut incoming = vec![0; DATAGRAM_LEN_MAX];
    loop {
        channel.drain();
        if let Some(result) = channel.ended.take() {
            result?;
            break;
        }
        if let Some(group) = channel.other_data_group(data.group()) {
            data = GroupSocket::bind(group, &interface, &allowed).map_err(RunError::Network)?;
        }
        let deadline = channel.deadline();
        tokio::select! {
            biased;
            () = shutdown.cancelled() => break,
            // Data before advertisements: what these say of packets sent must not overtake the packets.
            result = data.readable() => channel.read_data(result, &mut data),
            Some(report) = block_outbox.recv() => channel.on_block_report(report),
            Some(report) = dataset_outbox.recv() => channel.on_dataset_report(report),
            result = advertisements.readable() => channel.read_advertisements(result, &mut advertisements),
            result = nacks.recv_from(&mut incoming) => {
                if let Ok((length, _)) = result && let Some(datagram) = incoming.get_mut(..length) {
                    channel.on_answer(datagram);
                }
            }
            Some(request) = scans.recv() => channel.scan(request),
            () = tokio::time::sleep_until(scan_at), if !config.scan.is_zero() => {
                scan_at = tokio::time::Instant::now() + config.scan;
                channel.scan(ScanRequest { deep: false, answer: None });
            }
            () = tokio::time::sleep_until(deadline.into()) => channel.on_timeout(),
            _ = tick.tick() => { progress.send_replace(channel.progress()); }
        }
    }
    // Orders given before now are carried out: what was received shall survive.
    channel.last_checkpoint();
    progress.send_replace(channel.progress());
    let summary = channel.summary(&target);
    drop(channel);
    tokio::task::spawn_blocking(move || {
        for thread in [block_thread, dataset_thread] {
            if thread.join().is_err() {
                tracing::error!("a disk thread ended badly");
            }
        }
    })
    .await
    .map_err(|_| RunError::Internal("disk threads"))?;
    Ok(summary)
}

fn spawn(name: &str, work: impl FnOnce() + Send + 'static) -> Result<std::thread::JoinHandle<()>, RunError> {
    std::thread::Builder::new().name(name.into()).spawn(work).map_err(|_| RunError::Internal("threads"))
}

impl Channel {
    #[expect(clippy::too_many_arguments, reason = "built in one place from what `run` made")]
    fn new(
        ticket: Ticket,
        config: &Config,
        archive: Archive,
        remembered: Option<(Generation, Digest)>,
        clock: Clock,
        nacks: Arc<UnicastSocket>,
        blocks: std::sync::mpsc::Sender<blocks::Order>,
        dataset: std::sync::mpsc::Sender<dataset::Order>,
    ) -> Self {
        let mut random = [0; 16];
        fill_random(&mut random);
        let [run, seed] = [&random[..8], &random[8..]].map(|half| half.try_into().map_or(1, u64::from_be_bytes));
        let keys = Keys::new(ticket.channel, ticket.secret.clone());
        let slots = u32::try_from(config.memory / (256 << 10)).unwrap_or(u32::MAX).clamp(8, 65_536);
        let engine = ReceiverEngine::new(EngineConfig {
            channel: ticket.channel,
            seed,
            nack_retry: config.nack_retry,
            nack_budget: config.nack_budget,
            slots,
            remembered,
        });
        Self {
            engine,
            run_key: keys.derive(run, Flow::ToSender),
            keys,
            arena: Arena::new(slots),
            run: RunId(run),
            packets: PacketNumbers::new(),
            clock,
            archive,
            nacks,
            outgoing: Vec::with_capacity(DATAGRAM_LEN_MAX),
            blocks,
            dataset,
            manifest: None,
            fetching: BTreeMap::new(),
            blobs: BTreeMap::new(),
            reference: None,
            chaining: BTreeMap::new(),
            dropped: Dropped::default(),
            opened_at: None,
            unopened_since: None,
            told_wrong_ticket: false,
            told_other_channel: false,
            data_group: None,
            received_bytes: 0,
            repair_bytes: 0,
            notes: Notes::default(),
            ended: None,
            complete_at: None,
            once: config.once,
            retry_compare: None,
            ticket,
        }
    }

    fn now(&self) -> Time {
        self.clock.now()
    }

    fn deadline(&self) -> std::time::Instant {
        let engine = self.engine.poll_deadline().map(|deadline| deadline.at);
        let at = [engine, self.complete_at.map(|at| at + LAST_WORD), self.retry_compare];
        self.clock.instant(at.into_iter().flatten().min().unwrap_or(Time::NEVER))
    }

    fn on_timeout(&mut self) {
        let now = self.now();
        if self.retry_compare.is_some_and(|at| now >= at) {
            self.retry_compare = None;
            self.order_dataset(dataset::Order::Scan { depth: Depth::Quick, answer: None });
        }
        self.engine.handle_timeout(now);
    }

    /// Reads what is in, but not for ever: orders and timers wait.
    fn read_data(&mut self, ready: std::io::Result<()>, socket: &mut GroupSocket) {
        let mut result = ready.map(|()| 0);
        for _ in 0..BATCHES_PER_TURN {
            if result.is_err() {
                break;
            }
            result = socket.try_recv(|from, datagram| self.on_data(from, datagram));
        }
        self.on_socket(result);
    }

    fn read_advertisements(&mut self, ready: std::io::Result<()>, socket: &mut GroupSocket) {
        let result = ready.and_then(|()| socket.try_recv(|from, datagram| self.on_advertisement(from, datagram)));
        self.on_socket(result);
    }

    fn on_socket(&mut self, result: std::io::Result<usize>) {
        if let Err(error) = result
            && error.kind() != std::io::ErrorKind::WouldBlock
        {
            let now = self.now();
            self.notes.say(now, &self.ticket.name, &format!("cannot read from the network: {error}"));
        }
    }

    /// Carries out what the engine orders.
    fn drain(&mut self) {
        let now = self.now();
        loop {
            while let Some(work) = self.engine.poll_work() {
                self.work(now, work);
            }
            let Some(transmit) = self.engine.poll_transmit() else { break };
            let body = transmit.nack.encode();
            let packet = self.packets.take(1).start;
            let header = Header {
                datagram_type: DatagramType::Nack,
                flow: Flow::ToSender,
                epoch_low: self.ticket.epoch.0.to_le_bytes()[0],
                session: self.run.0,
                packet_number: packet,
            };
            self.outgoing.clear();
            self.outgoing.resize(header::LEN, 0);
            if let Some(head) = self.outgoing.first_chunk_mut() {
                header.write(head);
            }
            self.outgoing.extend_from_slice(&body);
            self.outgoing.resize(self.outgoing.len() + TAG_LEN, 0);
            self.run_key.seal_in_place(packet, header::LEN, &mut self.outgoing);
            // A NACK that the socket does not take is like one that was lost: it is asked again.
            if let Err(error) = self.nacks.try_send_to(&self.outgoing, transmit.to) {
                tracing::debug!(%error, to = %transmit.to, "NACK not sent");
            }
        }
        while let Some(event) = self.engine.poll_event() {
            self.event(now, event);
        }
        self.end_when_complete(now);
    }

    /// `--once` ends with a whole dataset of the newest generation that is offered, when the sender knows, or
    /// after a moment in which no sender with a newer one was heard.
    fn end_when_complete(&mut self, now: Time) {
        let Some(at) = self.complete_at else { return };
        if !self.engine.is_complete() || !self.engine.is_current() {
            self.complete_at = None;
            return;
        }
        let told = self.engine.has_reported() && self.engine.snapshot().senders > 0;
        if told || now >= at + LAST_WORD {
            self.ended.get_or_insert(Ok(()));
        }
    }

    fn event(&mut self, now: Time, event: Event) {
        let name = self.ticket.name.clone();
        match event {
            Event::SenderHeard(_, from) => tracing::info!("{name}: sender at {from}"),
            Event::SenderLost(_) => tracing::info!("{name}: the sender fell silent; waiting for it"),
            Event::BlockUnsound(object, block) => self.notes.say(
                now,
                &name,
                &format!("symbols of object {object}, block {block} were wrong: it is received again"),
            ),
            Event::TwoManifests(generation) => self.notes.say(
                now,
                &name,
                &format!("two manifests of generation {generation} exist: ours is kept; publish a new generation"),
            ),
            Event::OlderGeneration(generation) => {
                tracing::info!("{name}: the sender still has generation {generation}; ours is kept");
            }
            Event::UnicastWanted(count) => self.notes.say(
                now,
                &name,
                &format!("{count} objects had all their passes: they are asked for again until a new round begins"),
            ),
            Event::Unknown(count) => self.notes.say(now, &name, &format!("the sender does not have {count} objects")),
            Event::Complete(generation) => {
                tracing::info!("{name}: generation {generation} is complete and verified");
                self.notes.current = None;
                if self.once {
                    self.complete_at = Some(now);
                }
            }
        }
    }

    fn order_blocks(&self, order: blocks::Order) {
        if self.blocks.send(order).is_err() {
            tracing::error!("the block thread is gone");
        }
    }

    fn order_dataset(&self, order: dataset::Order) {
        if self.dataset.send(order).is_err() {
            tracing::error!("the dataset thread is gone");
        }
    }

    fn scan(&mut self, request: ScanRequest) {
        let depth = if request.deep { Depth::Deep } else { Depth::Quick };
        self.order_dataset(dataset::Order::Scan { depth, answer: request.answer });
    }

    fn layout(&self, object: ObjectId) -> Option<Layout> {
        if let Some((layout, _)) = self.fetching.get(&object) {
            return Some(*layout);
        }
        let manifest = self.manifest.as_ref()?;
        manifest.object(manifest.index_of(object)?).map(|o| o.layout)
    }

    fn check(&self, object: ObjectId) -> Option<(Check, Keep)> {
        if let Some((_, digest)) = self.fetching.get(&object) {
            return Some((Check::Digest(*digest), Keep::Memory));
        }
        let manifest = self.manifest.as_ref()?;
        let record = manifest.object(manifest.index_of(object)?)?;
        let check = match &record.chaining {
            Chaining::Digest => Check::Digest(record.digest),
            Chaining::Inline(values) => Check::Chaining(Arc::clone(values)),
            Chaining::Object(id) => Check::Chaining(Arc::clone(self.chaining.get(id)?)),
        };
        Some((check, Keep::Disk))
    }

    fn work(&mut self, now: Time, work: Work) {
        match work {
            Work::Complete { object, block, slot } => {
                let buffer = self.arena.take(slot);
                match self.layout(object).zip(self.check(object)) {
                    Some((layout, (check, keep))) => {
                        self.order_blocks(blocks::Order::Complete { object, layout, block, slot, buffer, check, keep });
                    }
                    None => {
                        self.arena.give_back(buffer);
                        let outcome = crate::engine::BlockOutcome::NotKept;
                        self.engine.handle_done(now, Done::Complete { object, block, slot, outcome });
                    }
                }
            }
            Work::Spill { object, block, slot } => {
                let buffer = self.arena.take(slot);
                match self.layout(object) {
                    Some(layout) => self.order_blocks(blocks::Order::Spill { object, layout, block, slot, buffer }),
                    None => {
                        self.arena.give_back(buffer);
                        self.engine.handle_done(now, Done::Spill { object, block, slot, held: None });
                    }
                }
            }
            Work::Load { object, block, slot } => self.order_blocks(blocks::Order::Load { object, block, slot }),
            Work::Discard { slot } => self.arena.discard(slot),
            Work::Assemble(reference) => {
                let blobs = std::mem::take(&mut self.blobs);
                self.fetching.clear();
                self.order_dataset(dataset::Order::Assemble { hash: reference.hash, blobs });
            }
            Work::Install { object } => self.order_dataset(dataset::Order::Install(object)),
            Work::Checkpoint { blocks } => self.checkpoint(blocks),
            Work::Finish => self.order_dataset(dataset::Order::Finish),
        }
    }

    fn checkpoint(&mut self, blocks: Vec<(ObjectId, u32, crate::engine::Slot)>) {
        let blocks = blocks
            .into_iter()
            .filter_map(|(object, block, slot)| Some((object, self.layout(object)?, block, self.arena.copy(slot)?)))
            .collect();
        self.order_blocks(blocks::Order::Checkpoint { blocks });
    }

    /// Everything that is open goes to disk before the process ends.
    fn last_checkpoint(&mut self) {
        let blocks = self.engine.open_in_memory();
        self.checkpoint(blocks);
    }

    fn on_block_report(&mut self, report: blocks::Report) {
        let now = self.now();
        match report {
            blocks::Report::Complete { object, block, slot, buffer, outcome, bytes } => {
                self.arena.give_back(buffer);
                if let Some(bytes) = bytes {
                    self.on_manifest_bytes(now, object, bytes.into());
                }
                self.engine.handle_done(now, Done::Complete { object, block, slot, outcome });
            }
            blocks::Report::Spill { object, block, slot, buffer, held } => {
                self.arena.give_back(buffer);
                self.engine.handle_done(now, Done::Spill { object, block, slot, held });
            }
            blocks::Report::Load { object, block, slot, held } => {
                let Some(layout) = self.layout(object) else {
                    self.arena.discard(slot);
                    self.engine.handle_done(now, Done::Load { object, block, slot, held: FixedBitSet::new() });
                    return;
                };
                let held = match held {
                    Some(symbols) => self.arena.load(slot, layout, block, &symbols),
                    None => FixedBitSet::with_capacity(layout.esi_end(block).into()),
                };
                self.engine.handle_done(now, Done::Load { object, block, slot, held });
            }
            blocks::Report::Checkpoint { buffers } => {
                buffers.into_iter().for_each(|b| self.arena.give_back(b));
                self.engine.handle_done(now, Done::Checkpoint);
            }
            blocks::Report::Trouble(error) => self.notes.say(now, &self.ticket.name, &error.to_string()),
        }
    }

    /// A verified piece of the manifest: the root says which parts are wanted.
    fn on_manifest_bytes(&mut self, now: Time, object: ObjectId, bytes: Bytes) {
        let Some((_, digest)) = self.fetching.get(&object).copied() else { return };
        let held: usize = self.blobs.values().map(Bytes::len).sum();
        if held + bytes.len() > BLOBS_MAX {
            self.notes.say(now, &self.ticket.name, "the manifest is larger than this receiver takes");
            return;
        }
        self.blobs.insert(digest, bytes.clone());
        let Some(reference) = self.reference.filter(|r| r.hash == digest) else { return };
        match decode_root(&bytes, &self.ticket.publisher, self.ticket.channel) {
            Ok(root) => {
                for (digest, length) in root.parts() {
                    if let Ok(layout) = reference.geometry.object(length.into()) {
                        let id = reference.geometry.object_id(&digest, length.into());
                        self.fetching.insert(id, (layout, digest));
                    }
                }
                let archive = self.archive.clone();
                let at_hand = |digest: &Digest| archive.get(digest).is_ok();
                self.engine.handle_root(now, digest, &root, at_hand);
            }
            Err(error) => {
                self.notes.say(now, &self.ticket.name, &format!("the manifest was refused: {error}"));
                self.engine.handle_done(now, Done::ManifestRefused { hash: digest });
            }
        }
    }

    fn on_dataset_report(&mut self, report: dataset::Report) {
        let now = self.now();
        match report {
            dataset::Report::Wants(wants) => self.on_wants(now, *wants),
            dataset::Report::Refused { hash, why } => {
                self.notes.say(now, &self.ticket.name, &format!("the manifest was refused: {why}"));
                self.engine.handle_done(now, Done::ManifestRefused { hash });
            }
            dataset::Report::Chaining(id, values) => {
                self.chaining.insert(id, values);
            }
            dataset::Report::Installed { object, outcome } => {
                self.engine.handle_done(now, Done::Install { object, outcome });
            }
            dataset::Report::Finished { whole } => self.engine.handle_done(now, Done::Finish { whole }),
            dataset::Report::Trouble(line) => self.notes.say(now, &self.ticket.name, &line),
            dataset::Report::NotOurs(paths) => {
                self.ended = Some(Err(RunError::NotOurs { paths }));
            }
            dataset::Report::Failed(line) => {
                self.notes.say(now, &self.ticket.name, &line);
                self.retry_compare = Some(now + COMPARE_RETRY);
            }
        }
    }

    fn on_wants(&mut self, now: Time, wants: Wants) {
        self.manifest = Some(Arc::clone(&wants.manifest));
        self.engine.handle_wants(now, wants);
    }

    /// A datagram of the advertisement group.
    fn on_advertisement(&mut self, from: SocketAddr, datagram: &mut [u8]) {
        let now = self.clock.now();
        let Ok(header) = Header::read(datagram) else {
            self.dropped.malformed += 1;
            return;
        };
        if header.flow != Flow::Advertisement {
            self.dropped.malformed += 1;
            return;
        }
        let opened = match self.keys.get(header.session) {
            Some(keys) => keys.advertisement.open_in_place(header.packet_number, header::LEN, datagram),
            None => self.keys.derive(header.session, Flow::Advertisement).open_in_place(
                header.packet_number,
                header::LEN,
                datagram,
            ),
        };
        let Ok(body) = opened else {
            self.unopened(now, from);
            return;
        };
        match header.datagram_type {
            DatagramType::Advertisement => {
                match Advertisement::decode(body, &self.ticket.publisher, self.ticket.channel) {
                    Ok(advertisement) if advertisement.session.0 == header.session => {
                        self.heard(now, from, &advertisement);
                    }
                    Ok(_) => self.dropped.refused += 1,
                    Err(error) => self.stranger(now, from, &error.to_string()),
                }
            }
            DatagramType::Digest => {
                let session = nackcast_common::ids::SessionId(header.session);
                let key = self.engine.advertisement(session).map(|a| a.certificate.sender_key);
                match key.map(|key| DigestBody::decode(body, &key, self.ticket.channel)) {
                    Some(Ok(digest)) if digest.session == session => self.engine.handle_digest(now, &digest),
                    Some(_) | None => self.dropped.refused += 1,
                }
            }
            DatagramType::Symbol | DatagramType::StreamSymbol | DatagramType::Nack | DatagramType::NackAnswer => {
                self.dropped.malformed += 1;
            }
        }
    }

    fn heard(&mut self, now: Time, from: SocketAddr, advertisement: &Advertisement) {
        self.opened_at = Some(now);
        if let Some(reference) = advertisement.manifest {
            let length = u64::from(reference.length);
            if let Ok(layout) = reference.geometry.object(length) {
                let id = reference.geometry.object_id(&reference.hash, length);
                if self.engine.would_follow(&reference, advertisement.generation) {
                    self.reference = Some(reference);
                    self.fetching.insert(id, (layout, reference.hash));
                }
            }
        }
        self.engine.handle_advertisement(now, from, advertisement);
        // Only of a session that the engine took: a recorded one must not push a live one's keys out.
        if self.engine.advertisement(advertisement.session).is_some_and(|a| a.sequence == advertisement.sequence) {
            self.keys.keep(advertisement.session);
            self.data_group = Some(advertisement.data_group);
        }
    }

    /// Opened with our secret, but not signed by a sender of this channel.
    fn stranger(&mut self, now: Time, from: SocketAddr, why: &str) {
        self.dropped.stranger += 1;
        self.notes.say(now, &self.ticket.name, &format!("ignored an advertisement from {from}: {why}"));
    }

    fn unopened(&mut self, now: Time, from: SocketAddr) {
        self.dropped.unopened += 1;
        // Two channels may well share a group: it is worth a line, and no trouble.
        if !self.told_other_channel && self.opened_at.is_some() {
            self.told_other_channel = true;
            tracing::info!(
                "{}: datagrams of another channel, or damaged ones, arrive on {} from {from}: they are ignored",
                self.ticket.name,
                self.ticket.advertise
            );
        }
        let since = *self.unopened_since.get_or_insert(now);
        let silent = self.opened_at.is_none_or(|at| now.since(at) > WRONG_TICKET_AFTER);
        if !self.told_wrong_ticket && silent && now.since(since) > WRONG_TICKET_AFTER {
            self.told_wrong_ticket = true;
            let line = format!(
                "datagrams arrive on {} but none opens with this ticket: it is of another channel or outdated; \
                 get a new one with `nackcast channel ticket`",
                self.ticket.advertise
            );
            self.notes.say(now, &self.ticket.name, &line);
        }
    }

    fn other_data_group(&self, bound: SocketAddr) -> Option<SocketAddr> {
        self.data_group.filter(|group| *group != bound)
    }

    /// A datagram of the data group.
    fn on_data(&mut self, _from: SocketAddr, datagram: &mut [u8]) {
        let length = datagram.len() as u64;
        let Ok(header) = Header::read(datagram) else {
            self.dropped.malformed += 1;
            return;
        };
        let Some(keys) = self.keys.get(header.session).filter(|_| header.datagram_type == DatagramType::Symbol) else {
            self.dropped.unopened += 1;
            return;
        };
        let Ok(body) = keys.data.open_in_place(header.packet_number, header::LEN, datagram) else {
            self.dropped.unopened += 1;
            return;
        };
        let Ok((id, symbol)) = SymbolId::read(body) else {
            self.dropped.malformed += 1;
            return;
        };
        let now = self.clock.now();
        let session = nackcast_common::ids::SessionId(header.session);
        if let Admission::Keep(slot) = self.engine.handle_symbol(now, session, header.packet_number, id)
            && let Some(layout) = self.layout(id.object)
        {
            self.received_bytes += length;
            if id.esi >= layout.source_symbols(id.block) {
                self.repair_bytes += length;
            }
            self.arena.put(slot, layout, id.block, id.esi, symbol);
        }
        // Orders must not wait for the end of a large batch: slots run short.
        while let Some(work) = self.engine.poll_work() {
            self.work(now, work);
        }
    }

    /// A datagram from a sender's NACK port.
    fn on_answer(&mut self, datagram: &mut [u8]) {
        let now = self.now();
        let Ok(header) = Header::read(datagram) else {
            self.dropped.malformed += 1;
            return;
        };
        let Some(keys) = self.keys.get(header.session).filter(|_| header.datagram_type == DatagramType::NackAnswer)
        else {
            self.dropped.unopened += 1;
            return;
        };
        let Ok(body) = keys.answer.open_in_place(header.packet_number, header::LEN, datagram) else {
            self.dropped.unopened += 1;
            return;
        };
        let session = nackcast_common::ids::SessionId(header.session);
        let sender = self.engine.advertisement(session).map(|a| a.certificate.sender_key);
        let signed = sender.and_then(|key| NackAnswer::decode(body, Some(&key)).ok());
        let is_signed = signed.is_some();
        match signed.map_or_else(|| NackAnswer::decode(body, None), Ok) {
            Ok(answer) if answer.session == session && answer.channel == self.ticket.channel => {
                self.engine.handle_answer(now, &answer, is_signed);
            }
            Ok(_) | Err(_) => self.dropped.refused += 1,
        }
    }

    fn progress(&self) -> ChannelProgress {
        let snapshot = self.engine.snapshot();
        let state = match (snapshot.senders, snapshot.has_manifest, snapshot.complete) {
            (_, _, true) => "complete",
            // Removing many files takes a disk its time: without a word it would look like a stall.
            _ if snapshot.finishing => "finishing",
            (0, _, _) => WAITING,
            (_, false, _) => "fetching the manifest",
            (_, true, _) => "receiving",
        };
        ChannelProgress {
            name: self.ticket.name.clone(),
            generation: snapshot.generation.0,
            objects: snapshot.objects,
            objects_done: snapshot.objects_done,
            bytes: snapshot.bytes,
            bytes_done: snapshot.bytes_done,
            wire_bytes: self.received_bytes,
            repair_bytes: self.repair_bytes,
            rate_bps: 0,
            state: state.into(),
            note: self.notes.current.clone(),
            ..ChannelProgress::default()
        }
    }

    fn summary(&mut self, target: &TargetDir) -> ReceivedChannel {
        let snapshot = self.engine.snapshot();
        let (files, bytes) = self.manifest.as_ref().map_or((0, 0), |m| {
            let files =
                m.entries().iter().filter(|e| matches!(e.kind, nackcast_common::manifest::EntryKind::File { .. }));
            (files.count() as u64, m.file_bytes())
        });
        tracing::debug!(dropped = ?self.dropped, ?snapshot, "channel ends");
        ReceivedChannel {
            name: self.ticket.name.clone(),
            into: dataset::shown(target.path()),
            generation: snapshot.generation.0,
            files,
            bytes,
            received_bytes: self.received_bytes,
            repair_bytes: self.repair_bytes,
            complete: snapshot.complete,
            unicast_wanted: snapshot.unicast_wanted,
            problems: std::mem::take(&mut self.notes.problems),
        }
    }
}
