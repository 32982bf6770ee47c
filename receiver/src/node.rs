//! One channel of a receiver, whole, without sockets, threads, files, clock or random source: datagrams and reports
//! go in, sealed NACKs and disk work come out.
//!
//! The daemon's driver and the simulator drive the same [`ReceiverNode`], with the same workers
//! ([`crate::blocks::Blocks`], [`crate::dataset::Dataset`]; see [`Workers`]) beside it. Around the engine it does
//! what needs bytes: opening, parsing and sealing datagrams, keys, memory for symbols, pieces of the manifest.

mod datagrams;
mod epochs;
mod joining;
mod manifest;
mod notes;
mod pull;
mod steering;
#[cfg(test)]
mod tests;
mod watch;
mod work;
mod workers;

use std::collections::{BTreeMap, VecDeque};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use nackcast_common::clock::{Deadline, Time};
use nackcast_common::control::{Reply, Scan};
use nackcast_common::epochs::Epochs;
use nackcast_common::ids::{Digest, Epoch, Generation, ObjectId, RunId};
use nackcast_common::keys::{Flow, VerifyingKey};
use nackcast_common::manifest::{ChainingValue, EntryKind, Manifest};
use nackcast_proto::ticket::Ticket;
use nackcast_proto::wire::limits::DATAGRAM_LEN_MAX;
use nackcast_proto::wire::{DatagramType, Header};

use self::datagrams::Listening;
pub use self::epochs::JoinEnd;
use self::joining::Joining;
use self::manifest::Pieces;
use self::notes::Notes;
pub use self::pull::PullOrder;
use self::pull::Sources;
use self::watch::Watch;
pub use self::workers::{OpenError, Workers};
use crate::arena::Arena;
use crate::disk::scan::Depth;
use crate::engine::{EngineConfig, Event, ReceiverEngine};
use crate::keys::Keys;
use crate::report::{ChannelProgress, ReceivedChannel, WAITING};
use crate::{blocks, dataset};

/// After the dataset is whole, `once` waits so long for the sender to take note.
const LAST_WORD: Duration = Duration::from_secs(3);
/// Memory of one open block, about: a block of the default size.
const SLOT_BYTES: u64 = 256 << 10;

/// What a node is made with.
#[derive(Clone, Debug)]
pub struct NodeConfig {
    /// The channel.
    pub ticket: Ticket,
    /// The directory that it fills, for people.
    pub into: String,
    /// Random, and new at each start: the key that seals NACKs follows from it.
    pub run: RunId,
    /// Random: seeds the backoff.
    pub seed: u64,
    /// A manifest of an earlier run is at hand: its generation and hash.
    pub remembered: Option<(Generation, Digest)>,
    /// Wait for a NACK's answer.
    pub nack_retry: Duration,
    /// NACK datagrams in a window.
    pub nack_budget: usize,
    /// Bytes of blocks held in memory.
    pub memory: u64,
    /// Time between scans of the dataset; zero: none.
    pub scan: Duration,
    /// End when the whole dataset is installed and verified.
    pub once: bool,
    /// The key of a sender that serves what this node holds: it is not asked.
    pub own_sender: Option<VerifyingKey>,
}

/// Work for one of the workers.
#[derive(Debug)]
pub enum Order {
    /// For the block worker.
    Blocks(blocks::Order),
    /// For the dataset worker.
    Dataset(dataset::Order),
}

/// Somebody wants a scan.
#[derive(Debug)]
pub struct ScanRequest {
    /// Read every byte.
    pub deep: bool,
    /// Who wants to know; dropped unanswered when no comparison could be made.
    pub answer: Option<Reply<Scan>>,
}

/// How a node ended by itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum End {
    /// The dataset is whole, and that was all that was wanted.
    Complete,
    /// The directory holds other files under the dataset's names: nothing was touched.
    NotOurs(Vec<String>),
}

/// One channel of a receiver.
///
/// # Contract
/// - Inputs, each with `now`, which never goes back: [`Self::handle_advertisement_datagram`],
///   [`Self::handle_data_datagram`], [`Self::handle_answer_datagram`], [`Self::handle_block_report`],
///   [`Self::handle_dataset_report`], [`Self::handle_timeout`]; [`Self::handle_pulled`], [`Self::handle_offered`],
///   [`Self::handle_pull_over`]; [`Self::handle_joined`]; and [`Self::scan`], [`Self::checkpoint_all`], [`Self::leave`],
///   [`Self::trouble`].
/// - After each input take, in this order:
///   1. [`Self::poll_order`] until there is none. Each worker carries out its orders in the order in which they
///      came, and each report comes back; the two workers may run side by side, and the node need not wait for them.
///   2. [`Self::poll_transmit`] until there is none. A datagram that could not be sent counts as lost. And
///      [`Self::poll_pull`] until there is none, where pulling was allowed ([`Self::allow_pull`]).
///      [`Self::poll_join`]: asks senders for secrets where it says so.
///   3. [`Self::ended`]: then nothing more is wanted, and the rest may be left out.
///   4. [`Self::data_group`]: where data is to be heard from now on.
///   5. [`Self::poll_deadline`], and call [`Self::handle_timeout`] then, if nothing else comes first.
/// - Of datagrams that wait, those of the data group go in before those of the advertisement group: what an
///   advertisement says of packets sent must not overtake the packets.
/// - Datagrams are opened in place: their bytes are worthless afterwards. They may be anything.
/// - Before the node is dropped: [`Self::checkpoint_all`], its orders carried out, then
///   [`blocks::Blocks::sync`]. Without this, what was received since the last checkpoint is received again.
/// - The same inputs give the same outputs. Memory is bounded by [`NodeConfig::memory`], the manifest, and
///   the orders that a worker has not answered yet.
#[derive(Debug)]
pub struct ReceiverNode {
    config: NodeConfig,
    engine: ReceiverEngine,
    keys: Keys,
    arena: Arena,
    /// None: the ticket holds the secret.
    joining: Option<Joining>,
    /// What keeps it out, for people.
    kept_out: Option<String>,
    /// The epoch of which people were told that this ticket does not open it.
    told_epoch: Option<Epoch>,
    outgoing: Vec<u8>,
    orders: VecDeque<Order>,
    manifest: Option<Arc<Manifest>>,
    manifest_hash: Option<Digest>,
    sources: Sources,
    pieces: Pieces,
    /// Block hashes of large objects.
    chaining: BTreeMap<ObjectId, Arc<[ChainingValue]>>,
    listening: Listening,
    notes: Notes,
    data_group: SocketAddr,
    complete_at: Option<Time>,
    retry_compare: Option<Time>,
    scan_at: Option<Time>,
    ended: Option<End>,
    watch: Watch,
    /// The generation of an earlier run, until the directory was compared with it.
    remembers: Option<Generation>,
}

impl ReceiverNode {
    /// A node at its start; its first orders and deadline are to be taken at once.
    #[must_use]
    pub fn new(now: Time, config: NodeConfig) -> Self {
        let ticket = &config.ticket;
        let epochs = match &ticket.secret {
            Some(secret) => Epochs::of_secret(ticket.channel, ticket.epoch, secret.clone()),
            None => Epochs::none(ticket.channel),
        };
        let slots = u32::try_from(config.memory / SLOT_BYTES).unwrap_or(u32::MAX).clamp(8, 65_536);
        let engine = ReceiverEngine::new(EngineConfig {
            channel: ticket.channel,
            seed: config.seed,
            nack_retry: config.nack_retry,
            nack_budget: config.nack_budget,
            slots,
            remembered: config.remembered,
            once: config.once,
        });
        let data_group = SocketAddr::new(ticket.advertise.ip(), ticket.advertise.port().saturating_add(1));
        let mut node = Self {
            engine,
            joining: ticket.secret.is_none().then(|| Joining::new(now, config.seed, true)),
            kept_out: None,
            told_epoch: None,
            keys: Keys::new(epochs, config.run),
            arena: Arena::new(slots),
            outgoing: Vec::with_capacity(DATAGRAM_LEN_MAX),
            orders: VecDeque::new(),
            manifest: None,
            manifest_hash: None,
            sources: Sources::default(),
            pieces: Pieces::default(),
            chaining: BTreeMap::new(),
            listening: Listening::default(),
            notes: Notes::new(ticket.name.clone()),
            data_group,
            complete_at: None,
            retry_compare: None,
            scan_at: (!config.scan.is_zero()).then(|| now + config.scan),
            ended: None,
            watch: Watch::new(now),
            remembers: config.remembered.map(|(generation, _)| generation),
            config,
        };
        if node.config.remembered.is_some() {
            node.order_dataset(dataset::Order::Remember);
        }
        node
    }

    /// Asks for a comparison of the directory with the manifest.
    pub fn scan(&mut self, request: ScanRequest) {
        let depth = if request.deep { Depth::Deep } else { Depth::Quick };
        self.order_dataset(dataset::Order::Scan { depth, answer: request.answer });
    }

    /// The data socket holds so many packets: see [`ReceiverEngine::tell_window`].
    pub const fn tell_window(&mut self, packets: u32) {
        self.engine.tell_window(packets);
    }

    /// Orders everything that is open to be put on disk, before the process ends.
    pub fn checkpoint_all(&mut self) {
        let blocks = self.engine.open_in_memory();
        self.checkpoint(blocks);
    }

    /// The node ends as it was told: whoever may miss it shall know. With `once` that was said already, with the report
    /// that the dataset is whole.
    pub fn leave(&mut self, now: Time) {
        if self.ended.is_none() {
            self.engine.leave(now);
        }
    }

    /// Nothing waits for [`Self::leave`] to be heard any more.
    #[must_use]
    pub fn has_left(&self) -> bool {
        self.ended.is_some() || self.engine.has_left()
    }

    /// A line for people, of something around the node.
    pub fn trouble(&mut self, now: Time, line: &str) {
        self.notes.say(now, line);
    }

    /// The deadline passed.
    pub fn handle_timeout(&mut self, now: Time) {
        if self.retry_compare.is_some_and(|at| now >= at) {
            self.retry_compare = None;
            self.scan(ScanRequest { deep: false, answer: None });
        }
        if self.scan_at.is_some_and(|at| now >= at) {
            self.scan_at = Some(now + self.config.scan);
            self.scan(ScanRequest { deep: false, answer: None });
        }
        self.engine.handle_timeout(now);
        self.drain(now);
    }

    /// When to call [`Self::handle_timeout`], if nothing else comes first.
    #[must_use]
    pub fn poll_deadline(&self) -> Option<Deadline> {
        let at = |at: Option<Time>, why| at.map(|at| Deadline { at, why });
        [
            at(self.complete_at.map(|at| at + LAST_WORD), "last word"),
            at(self.joining.as_ref().and_then(Joining::deadline), "join"),
            at(self.retry_compare, "compare again"),
            at(self.scan_at, "scan"),
        ]
        .into_iter()
        .fold(self.engine.poll_deadline(), Deadline::earlier)
    }

    /// The next work order.
    pub fn poll_order(&mut self) -> Option<Order> {
        self.orders.pop_front()
    }

    /// The next datagram to send, sealed, and the sender that it is for.
    pub fn poll_transmit(&mut self) -> Option<(SocketAddr, &[u8])> {
        let (transmit, epoch, key) = loop {
            let transmit = self.engine.poll_transmit()?;
            // That of a session which is gone since goes nowhere.
            if let Some((epoch, key)) = self.keys.sealing_for(transmit.nack.session) {
                break (transmit, epoch, key);
            }
        };
        let header = Header {
            datagram_type: DatagramType::Nack,
            flow: Flow::ToSender,
            epoch_low: epoch.low(),
            session: self.config.run.0,
            packet_number: transmit.packet,
        };
        header.seal(key, &transmit.nack.encode(), &mut self.outgoing);
        Some((transmit.to, &self.outgoing))
    }

    /// Where data is to be heard.
    #[must_use]
    pub const fn data_group(&self) -> SocketAddr {
        self.data_group
    }

    /// How the node ended, if it did.
    #[must_use]
    pub const fn ended(&self) -> Option<&End> {
        self.ended.as_ref()
    }

    /// The channel's name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.config.ticket.name
    }

    /// The manifest in force, and the hash of its root.
    #[must_use]
    pub fn manifest(&self) -> Option<(Digest, &Arc<Manifest>)> {
        self.manifest_hash.zip(self.manifest.as_ref())
    }

    /// Block hashes of large objects that are at hand.
    #[must_use]
    pub const fn chaining(&self) -> &BTreeMap<ObjectId, Arc<[ChainingValue]>> {
        &self.chaining
    }

    /// The engine, to look at.
    #[must_use]
    pub const fn engine(&self) -> &ReceiverEngine {
        &self.engine
    }

    /// What it does now; the rate is for whoever reads the clock.
    #[must_use]
    pub fn progress(&self, now: Time) -> ChannelProgress {
        let snapshot = self.engine.snapshot();
        let (pulled_bytes, pull_sources) = self.pulled();
        let state = match (snapshot.senders, snapshot.has_manifest, snapshot.complete) {
            (0, _, _) if self.is_kept_out() => "not let in",
            (_, _, true) => "complete",
            // Removing many files takes a disk its time: without a word it would look like a stall.
            _ if snapshot.finishing => "finishing",
            _ if snapshot.pulling && pulled_bytes > 0 => "pulling by unicast",
            _ if self.remembers.is_some() => "scanning",
            (0, _, _) => WAITING,
            (_, false, _) => "fetching the manifest",
            (_, true, _) => "receiving",
        };
        ChannelProgress {
            name: self.config.ticket.name.clone(),
            generation: self.remembers.unwrap_or(snapshot.generation).0,
            objects: snapshot.objects,
            objects_done: snapshot.objects_done,
            bytes: snapshot.bytes,
            bytes_done: snapshot.bytes_done,
            wire_bytes: self.listening.received_bytes,
            repair_bytes: self.listening.repair_bytes,
            rate_bps: 0,
            nacks: snapshot.nacks,
            loss_ppm: snapshot.loss_ppm,
            unicast_wanted: snapshot.unicast_wanted,
            senders: snapshot.senders.into(),
            served_by: snapshot.served_by.map(|address| address.to_string()).unwrap_or_default(),
            completed: self.watch.completed.iter().copied().collect(),
            pulled_bytes,
            pull_sources,
            state: state.into(),
            note: self.notes.current.clone(),
            findings: self.findings(now, &snapshot, pulled_bytes),
            ..ChannelProgress::default()
        }
    }

    /// What it did, for its end.
    #[must_use]
    pub fn summary(&self) -> ReceivedChannel {
        let snapshot = self.engine.snapshot();
        let (files, bytes) = self.manifest.as_ref().map_or((0, 0), |m| {
            let files = m.entries().iter().filter(|e| matches!(e.kind, EntryKind::File { .. }));
            (files.count() as u64, m.file_bytes())
        });
        let (pulled_bytes, pull_sources) = self.pulled();
        tracing::debug!(listening = ?self.listening, ?snapshot, "channel ends");
        ReceivedChannel {
            name: self.config.ticket.name.clone(),
            into: self.config.into.clone(),
            generation: snapshot.generation.0,
            files,
            bytes,
            received_bytes: self.listening.received_bytes,
            repair_bytes: self.listening.repair_bytes,
            pulled_bytes,
            pull_sources,
            unicast_bytes: 0,
            complete: snapshot.complete,
            unicast_wanted: snapshot.unicast_wanted,
            problems: self.notes.problems.clone(),
        }
    }

    /// Carries out what the engine orders after an input.
    fn drain(&mut self, now: Time) {
        self.drain_work(now);
        while let Some(event) = self.engine.poll_event() {
            if matches!(event, Event::Complete(_)) && self.config.once {
                self.complete_at = Some(now);
            }
            if let Event::SourceDropped(source, object) = event {
                self.on_source_dropped(now, source, object);
            }
            self.notes.event(now, &event);
            self.watch.on_event(now, &event);
        }
        self.end_when_complete(now);
    }

    /// `once` ends with a whole dataset of the newest generation that is offered, when the sender knows, or
    /// after a moment in which no sender with a newer one was heard.
    fn end_when_complete(&mut self, now: Time) {
        let Some(at) = self.complete_at else { return };
        if !self.engine.is_complete() || !self.engine.is_current() {
            self.complete_at = None;
            return;
        }
        let told = self.engine.has_reported() && self.engine.snapshot().senders > 0;
        if told || now >= at + LAST_WORD {
            self.ended.get_or_insert(End::Complete);
        }
    }
}
