//! One channel of a sending node, complete, as a state machine: datagrams in and out, no sockets, files, tasks,
//! clock or random source.
//!
//! [`SenderNode`] puts together what the tokio driver and the simulator both need around the engine: keys and packet
//! numbers, the book of blocks in memory, when a session rolls or a scan is wanted, when the channel is done, and
//! what is told to people.
//!
//! | module | does |
//! |---|---|
//! | `blocks` | which blocks are in memory, and for how many jobs |
//! | `epochs` | the next epoch: announced, then entered with a new session |
//! | `keys` | datagrams as sealed bytes |
//! | `nacks` | opens what comes to the NACK port |
//! | `standing` | the role: what it makes of NACKs, probes in and out |
//! | `steering` | what an admin tells it |
//! | `tally` | progress, troubles, the summary |
//! | `watch` | what is wrong now |

mod blocks;
mod epochs;
mod keys;
mod nacks;
mod others;
mod standing;
mod steering;
mod tally;
mod watch;

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::time::Duration;

use nackcast_common::clock::{Deadline, Time};
use nackcast_common::epochs::Epochs;
use nackcast_common::ids::{ChannelId, Epoch, ObjectId, SessionId, StartNumber};
use nackcast_common::keys::{SigningKey, VerifyingKey};
use nackcast_common::mutation::{Mutation, planted};
use nackcast_proto::wire::header::DatagramType;
use nackcast_proto::wire::{Role, SenderCertificate, SenderState};

pub use blocks::{BlockId, Made, MakeError, Order};
use blocks::{Blocks, Request};
use epochs::Rotation;
use keys::SessionKeys;
#[cfg(test)]
pub(crate) use nacks::tests::sealed as sealed_nack;
pub use nacks::{Heard, HeardNack, HeardProbe, NackOpener, Refused};
pub use others::AdvertisementOpener;
use standing::Waiting;
use tally::Tally;
pub use tally::Trouble;
pub use watch::Limits;
use watch::Watch;

use crate::engine::{self, Command, Done, EngineConfig, Event, Publication, SenderEngine, Snapshot, Transmit};
use crate::library::BlockError;
use crate::report::{ChannelProgress, ChannelSummary};
use crate::role::{RoleConfig, RoleMachine};

/// What is under way when the node ends gets so long.
const DRAIN_MAX: Duration = Duration::from_secs(3);

/// So many blocks in a row that cannot be made: the disk is gone.
const UNREADABLE: u32 = 3;

/// What a node is made with.
#[derive(Clone, Debug)]
pub struct NodeConfig {
    /// The channel's name, for people.
    pub name: String,
    /// Seal and open; the engine's epoch is among them.
    pub epochs: Epochs,
    /// Signs what the sender says.
    pub signer: SigningKey,
    /// Certifies the other senders.
    pub publisher: VerifyingKey,
    /// The role's part; what it is for stands in the engine's, too.
    pub role: RoleConfig,
    /// The engine's part. Its session must be new: no other run may have had it.
    pub engine: EngineConfig,
}

/// Where datagrams go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Destination {
    /// To the advertisement address.
    Advertised,
    /// To the data group.
    Data,
    /// To a receiver.
    Receiver(SocketAddr),
    /// To another sender's NACK port, from ours.
    Sender(SocketAddr),
}

/// What [`SenderNode::poll_transmit`] wrote.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Datagrams {
    /// Where they go.
    pub to: Destination,
    /// Bytes of each: a buffer that is longer holds several, all of this size, for one GSO send.
    pub len: usize,
}

/// Something that the driver is to do.
#[derive(Debug)]
pub enum Work {
    /// Carry this out ([`Order::make`]) and hand the result to [`SenderNode::handle_made`].
    Make(Order),
    /// Store that the object's pass `count` of the round begins, then say so to [`SenderNode::handle_recorded`].
    RecordPass {
        /// The object.
        object: ObjectId,
        /// Passes of the round, with the one that begins.
        count: u32,
    },
    /// Scan the directory soon: the object's bytes are no longer what the manifest says. Every number up to this one
    /// is answered by [`SenderNode::handle_scanned`].
    Rescan {
        /// Of this request.
        number: u64,
        /// What changed.
        object: ObjectId,
    },
    /// Ask the sender there (where it takes NACKs) over QUIC, too: [`SenderNode::standing`] goes with the question, and
    /// [`SenderNode::handle_standing`] takes the answer.
    Call(SocketAddr),
    /// Make a start number durable, then begin a session with [`SenderNode::roll`]. Not ordered again before that.
    Roll,
}

/// What a scan came to.
#[derive(Debug, Default)]
pub struct ScanResult {
    /// A manifest that was not served before.
    pub publication: Option<Publication>,
    /// The directory could be read, so that blocks which were not what they should be may be so again.
    pub is_read: bool,
    /// The highest number of a [`Work::Rescan`] that it answers.
    pub answers: u64,
    /// What was left out.
    pub troubles: Vec<Trouble>,
}

/// Whether a channel is done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ending {
    /// No: go on.
    Running,
    /// As soon as everything that was handed out is sent.
    WhenSent,
    /// Now.
    Now,
}

/// One channel of a sending node.
///
/// # Contract
/// - Every input comes with `now`, which never goes back. Inputs never fail and may come at any time and in any
///   order; what no longer fits (a block made for a job that ended) is ignored.
/// - After each input, and when the deadline passed ([`SenderNode::handle_timeout`]), drain the outputs:
///   [`SenderNode::poll_work`] until it gives none, then [`SenderNode::poll_transmit`], again and again until both
///   give none. Then sleep until [`SenderNode::poll_deadline`]. Inputs may be given between two polls.
/// - `poll_transmit` hands out what may be sent *now*: pacing is decided here. A driver whose data socket takes
///   nothing calls [`SenderNode::poll_control`] meanwhile, so that advertisements and answers pass; content then
///   waits in the node.
/// - What `poll_transmit` wrote is numbered and sealed. It may be lost on the way, but must not be sent twice.
/// - The same configuration and the same inputs give the same outputs, byte for byte.
/// - Memory is bounded: by the manifest, by the blocks of `max_jobs` jobs, and by named constants.
///
/// Session ids (random) and start numbers (from the store and the wall clock) are the driver's; so are bytes on
/// disk: the node orders blocks and never sees a file.
#[derive(Debug)]
pub struct SenderNode {
    id: ChannelId,
    epoch: Epoch,
    epochs: Epochs,
    rotation: Rotation,
    signer: SigningKey,
    publisher: VerifyingKey,
    certificate: SenderCertificate,
    role_of_sender: Role,
    start_number: StartNumber,
    role: RoleMachine,
    waiting: Waiting,
    /// Blocks could be read lately.
    can_read: bool,
    failed_in_row: u32,
    can_send: bool,
    engine: SenderEngine,
    keys: SessionKeys,
    blocks: Blocks,
    work: VecDeque<Work>,
    /// What is served, to be served again when bytes came back; without passes.
    published: Option<Publication>,
    /// Number of the last scan that a bad block asked for, and of the last that was answered.
    scans_asked: u64,
    scans_answered: u64,
    /// An object is out of service since the last publication.
    is_short: bool,
    is_rolling: bool,
    is_finished: bool,
    drain_until: Option<Time>,
    tally: Tally,
    watch: Watch,
}

impl SenderNode {
    /// A node without content; it advertises from the first timeout on.
    ///
    /// # Panics
    /// When the secret of the engine's epoch is not given.
    #[must_use]
    pub fn new(config: NodeConfig) -> Self {
        let NodeConfig { name, epochs, signer, publisher, role, engine } = config;
        let (id, epoch) = (engine.channel, engine.epoch);
        let keys = SessionKeys::new(&epochs, epoch, engine.session).expect("a sender holds the secret of its epoch");
        let role = RoleMachine::new(role, engine.session, engine.start_number);
        let mut node = Self {
            publisher,
            certificate: engine.certificate,
            role_of_sender: engine.role,
            start_number: engine.start_number,
            waiting: Waiting::default(),
            can_read: true,
            failed_in_row: 0,
            can_send: true,
            id,
            epoch,
            keys,
            tally: Tally::new(name, engine.once),
            engine: SenderEngine::new(engine),
            epochs,
            rotation: Rotation::default(),
            signer,
            blocks: Blocks::default(),
            work: VecDeque::new(),
            published: None,
            scans_asked: 0,
            scans_answered: 0,
            is_short: false,
            is_rolling: false,
            is_finished: false,
            drain_until: None,
            watch: Watch::default(),
            role,
        };
        let first = match node.role_of_sender {
            Role::Primary => SenderState::Starting,
            Role::Backup => SenderState::Standby,
        };
        node.engine.handle_command(Time::ZERO, Command::Become(first));
        node
    }

    /// What opens this channel's NACKs; whoever reads the NACK port has it.
    #[must_use]
    pub fn opener(&self) -> NackOpener {
        NackOpener::new(self.epochs.clone())
    }

    /// A [`Work::Make`] was carried out.
    pub fn handle_made(&mut self, now: Time, made: Made) {
        let (object, block) = made.id;
        if let Err(error) = &made.result {
            tracing::warn!(channel = self.tally.name(), %object, block, "not sent: {error}");
            self.tally.note(Trouble { line: error.to_string(), is_failure: true });
            self.watch.on_unmade(error);
        }
        let sound = made.result.is_ok();
        // A file that was changed says nothing of the disk.
        self.failed_in_row = match &made.result {
            Ok(_) => 0,
            Err(MakeError::Block(BlockError::Io { .. } | BlockError::HashList { .. })) => self.failed_in_row + 1,
            Err(_) => self.failed_in_row,
        };
        if sound || self.failed_in_row >= UNREADABLE {
            self.can_read = sound;
            self.look_at_ability(now);
        }
        let (answered, next) = self.blocks.take(made);
        for _ in 0..answered {
            self.engine.handle_done(now, Done::Prepared { object, block, sound });
        }
        self.work.extend(next.map(Work::Make));
        self.settle(now);
    }

    /// Passes of these objects were recorded.
    pub fn handle_recorded(&mut self, now: Time, objects: &[ObjectId]) {
        for object in objects {
            self.engine.handle_done(now, Done::PassRecorded { object: *object });
        }
        self.settle(now);
    }

    /// A scan is over. From here on blocks must come from what it found.
    pub fn handle_scanned(&mut self, now: Time, result: ScanResult) {
        let ScanResult { publication, is_read, answers, troubles } = result;
        self.scans_answered = self.scans_answered.max(answers);
        self.can_read = is_read || publication.is_some();
        self.failed_in_row = 0;
        self.watch.on_scan(&troubles);
        troubles.into_iter().for_each(|trouble| self.tally.note(trouble));
        if let Some(publication) = publication {
            self.publish(now, publication);
        } else if let (true, true, Some(published)) = (is_read, self.is_short, self.published.clone()) {
            // The bytes may be there again.
            self.publish(now, Publication { fresh: false, ..published });
        }
        self.look_at_ability(now);
        self.settle(now);
    }

    /// Serves a manifest from now on.
    pub fn publish(&mut self, now: Time, publication: Publication) {
        let (head, manifest) = (publication.manifest.head(), &publication.manifest);
        tracing::info!(
            channel = self.tally.name(), generation = %head.generation, objects = manifest.objects().len(),
            entries = manifest.entries().len(), fresh = publication.fresh, "serving"
        );
        self.watch.on_publish(now, head.generation);
        self.published = Some(Publication { passes: Vec::new(), ..publication.clone() });
        (self.is_short, self.is_finished) = (false, false);
        self.engine.handle_command(now, Command::Publish(Box::new(publication)));
        self.role.handle_content(now);
        self.settle(now);
    }

    /// The bytes of these objects of the publication are not here (yet).
    pub fn lacks(&mut self, now: Time, objects: Vec<ObjectId>) {
        self.engine.handle_command(now, Command::Lacks(objects));
        self.settle(now);
    }

    /// Goes on under a new session, in the epoch that was to be entered. Its id must be new.
    pub fn roll(&mut self, now: Time, session: SessionId, number: StartNumber) {
        self.is_rolling = false;
        let session = if planted(Mutation::RollKeepsSession) { self.keys.session } else { session };
        let epoch = self.rotation.enter(self.epoch);
        // Else the secret is not at hand, which was looked at when the epoch was to be entered.
        if let Some(keys) = SessionKeys::new(&self.epochs, epoch, session) {
            (self.epoch, self.keys) = (epoch, keys);
        }
        tracing::info!(channel = self.tally.name(), %session, epoch = %self.epoch, "a new session");
        self.start_number = number;
        self.role.handle_roll(session, number);
        self.engine.handle_command(now, Command::Roll(session, number, self.epoch));
        self.settle(now);
    }

    /// Begins to end: what is under way is finished, for a few seconds at most.
    pub fn drain(&mut self, now: Time) {
        // Nothing is under way before there is something to serve.
        let patience = if self.published.is_some() { DRAIN_MAX } else { Duration::ZERO };
        self.drain_until = Some(now + patience);
        // Whatever finished before, what runs now gets its time.
        self.is_finished = false;
        self.engine.handle_command(now, Command::Drain);
        self.settle(now);
    }

    /// Something about the content that people should know; a failure spoils a `--once` run.
    pub fn note(&mut self, trouble: Trouble) {
        self.tally.note(trouble);
    }

    /// A deadline passed.
    pub fn handle_timeout(&mut self, now: Time) {
        self.role.handle_timeout(now);
        self.engine.handle_timeout(now);
        self.settle(now);
    }

    /// The next thing to do.
    pub fn poll_work(&mut self) -> Option<Work> {
        self.work.pop_front()
    }

    /// Makes `out` the next thing to send now, whatever it held before.
    pub fn poll_transmit(&mut self, now: Time, out: &mut Vec<u8>) -> Option<Datagrams> {
        if let Some(datagrams) = self.poll_to_sender(now, out) {
            return Some(datagrams);
        }
        loop {
            let transmit = self.engine.poll_transmit(now)?;
            if let Some(datagrams) = self.seal(now, transmit, out) {
                return Some(datagrams);
            }
        }
    }

    /// The same without content: for a driver whose data socket is full.
    pub fn poll_control(&mut self, now: Time, out: &mut Vec<u8>) -> Option<Datagrams> {
        if let Some(datagrams) = self.poll_to_sender(now, out) {
            return Some(datagrams);
        }
        let transmit = self.engine.poll_control(now)?;
        self.seal(now, transmit, out)
    }

    /// When to call [`Self::handle_timeout`], if nothing else comes first.
    #[must_use]
    pub fn poll_deadline(&self, now: Time) -> Option<Deadline> {
        let drain = self.drain_until.map(|at| Deadline { at, why: "drain" });
        let engine = Deadline::earlier(self.engine.poll_deadline(now), drain);
        Deadline::earlier(engine, self.role.poll_deadline())
    }

    /// Whether the channel is done.
    #[must_use]
    pub fn ending(&self, now: Time) -> Ending {
        match self.drain_until {
            Some(until) if now >= until => Ending::Now,
            Some(_) if self.is_finished => Ending::WhenSent,
            None if self.tally.is_once() && self.is_finished && self.scans_answered >= self.scans_asked => Ending::Now,
            Some(_) | None => Ending::Running,
        }
    }

    /// What the channel does now. To be asked for about twice a second: rates are measured between two calls, and
    /// what changed for receivers is logged.
    pub fn progress(&mut self, now: Time) -> ChannelProgress {
        let is_published = self.published.is_some();
        let snapshot = self.engine.snapshot();
        let progress = self.tally.progress(now, &snapshot, self.role_in_words(), is_published);
        ChannelProgress { findings: self.findings(now, &snapshot), ..progress }
    }

    /// How it went, and whether that is a success.
    #[must_use]
    pub fn summary(&self) -> (ChannelSummary, bool) {
        let is_success = self.tally.is_success() && self.engine.is_as_expected();
        let is_drained = self.engine.snapshot().state == Some(SenderState::Draining);
        let is_cut_short = self.tally.is_once() && (self.drain_until.is_some() || is_drained);
        (self.tally.summary(&self.engine.snapshot()), is_success && !is_cut_short)
    }

    /// What it does, as advertisements say.
    #[must_use]
    pub const fn state(&self) -> SenderState {
        self.engine.state()
    }

    /// Counters and state of the engine.
    #[must_use]
    pub fn snapshot(&self) -> Snapshot {
        self.engine.snapshot()
    }

    /// How full the engine's tables are: the name, how much is in it, how much may be.
    #[must_use]
    pub fn bounds(&self) -> [(&'static str, usize, usize); 13] {
        self.engine.bounds()
    }

    /// Takes everything that the engine wants done or said.
    fn settle(&mut self, now: Time) {
        loop {
            if let Some(work) = self.engine.poll_work() {
                self.on_work(now, work);
            } else if let Some(event) = self.engine.poll_event() {
                self.on_event(now, event);
            } else if !self.settle_role(now) {
                return;
            }
        }
    }

    fn on_work(&mut self, now: Time, work: engine::Work) {
        match work {
            engine::Work::Prepare { object, block, repair } => match self.blocks.request((object, block), repair) {
                Request::Ready => self.engine.handle_done(now, Done::Prepared { object, block, sound: true }),
                Request::Make(order) => self.work.push_back(Work::Make(order)),
                Request::Wait => {}
            },
            engine::Work::Release { object, block } => self.blocks.release((object, block)),
            engine::Work::RecordPass { object, count } => self.work.push_back(Work::RecordPass { object, count }),
        }
    }

    fn on_event(&mut self, now: Time, event: Event) {
        let channel = self.tally.name();
        match event {
            Event::ObjectChanged(object) => {
                self.is_short = true;
                self.scans_asked += 1;
                self.work.push_back(Work::Rescan { number: self.scans_asked, object });
            }
            Event::FirstPassOver(generation) => tracing::info!(channel, %generation, "first pass over"),
            Event::SessionEnding => self.want_roll(),
            Event::Finished => self.is_finished = true,
            Event::Drained => self.role.handle_drained(now),
            Event::ReceiverHeard => tracing::debug!(channel, "a receiver was heard for the first time"),
            Event::ReceiverComplete(manifest) => tracing::debug!(channel, %manifest, "a receiver is complete"),
        }
    }

    fn want_roll(&mut self) {
        if !self.is_rolling {
            self.is_rolling = true;
            self.work.push_back(Work::Roll);
        }
    }

    fn seal(&mut self, now: Time, transmit: Transmit, out: &mut Vec<u8>) -> Option<Datagrams> {
        let datagrams = match transmit {
            Transmit::Symbols(run) => {
                let block = self.blocks.get((run.object, run.block));
                let filled = block.and_then(|block| self.keys.fill_batch(&run, block, out));
                if filled.is_none() {
                    // The engine asks for what was prepared only; receivers would ask again.
                    tracing::error!(channel = self.tally.name(), ?run, "symbols of a block that is not at hand");
                }
                filled.map(|len| Datagrams { to: Destination::Data, len })
            }
            Transmit::Advertisement(mut advertisement) => {
                advertisement.rank = self.role.rank();
                advertisement.wall_ms = self.watch.wall_ms(now);
                advertisement.next_epoch = self.rotation.told(now);
                let body = advertisement.encode(&self.signer);
                self.keys.seal_advertised(DatagramType::Advertisement, &body, out);
                Some(Datagrams { to: Destination::Advertised, len: out.len() })
            }
            Transmit::Digest(digest) => {
                self.keys.seal_advertised(DatagramType::Digest, &digest.encode(&self.signer), out);
                Some(Datagrams { to: Destination::Advertised, len: out.len() })
            }
            Transmit::Answer(to, mut answer) => {
                // Who asks by nonce wants to know whom it speaks with, and whether the clocks agree.
                if answer.nonce != 0 {
                    answer.wall_ms = self.watch.wall_ms(now);
                }
                let body = answer.encode((answer.nonce != 0).then_some(&self.signer));
                self.keys.seal_answer(DatagramType::NackAnswer, &body, out);
                Some(Datagrams { to: Destination::Receiver(to), len: out.len() })
            }
        };
        if self.keys.must_roll() {
            self.want_roll();
        }
        // Only now: the run may have been the last of a block, which goes with it.
        self.settle(now);
        datagrams
    }
}

#[cfg(test)]
mod tests;
