//! The receiver's decisions, without sockets, files, clock or random source of its own (its backoff is seeded).
//!
//! # Contract
//! - Inputs, each with `now`, which never goes back: [`ReceiverEngine::handle_advertisement`],
//!   [`ReceiverEngine::handle_digest`], [`ReceiverEngine::handle_symbol`], [`ReceiverEngine::handle_answer`]
//!   (all opened, parsed and, where signed, verified), [`ReceiverEngine::handle_wants`],
//!   [`ReceiverEngine::handle_done`], [`ReceiverEngine::handle_timeout`]; and of unicast
//!   [`ReceiverEngine::handle_pulled`], [`ReceiverEngine::handle_checked`], [`ReceiverEngine::handle_pull_over`],
//!   [`ReceiverEngine::handle_offer`].
//! - `handle_symbol` answers what to do with the bytes; they never enter the engine.
//! - After each input (or a bounded batch of symbols) drain [`ReceiverEngine::poll_work`],
//!   [`ReceiverEngine::poll_transmit`], [`ReceiverEngine::poll_pull`], [`ReceiverEngine::poll_event`]; then sleep until
//!   [`ReceiverEngine::poll_deadline`].
//! - The same inputs give the same outputs. Memory is bounded: slots for open blocks, a bitmap for each block
//!   that is open, ranges for the rest.

mod admission;
mod backoff;
mod bounds;
mod choice;
pub mod event;
mod following;
mod keeping;
mod leaving;
mod manifest;
mod nacks;
mod object;
mod progress;
mod pull;
mod pulling;
mod readings;
pub mod runs;
mod sessions;
mod slots;
#[cfg(test)]
mod testing;

use std::collections::{BTreeMap, VecDeque};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use nackcast_common::clock::{Deadline, Time};
use nackcast_common::ids::{Digest, Generation, ObjectId, ObjectIndex, SessionId};
use nackcast_common::manifest::Manifest;
use nackcast_common::mutation::{Mutation, planted};
use nackcast_common::ranges::RangeSet;
use nackcast_proto::wire::{Advertisement, DigestBody, NackAnswer, NackStatus, Promise, SenderState};
use rand::SeedableRng;
use rand::rngs::StdRng;

pub use event::{
    Admission, BlockOutcome, Done, EngineConfig, Event, Ignored, InstallOutcome, Slot, Snapshot, Transmit, Want, Wants,
    Work,
};
use keeping::Keeping;
use manifest::Acquisition;
use nacks::Cycle;
use object::{Class, Reception};
use pull::Pull;
pub use pull::{PullEnd, PullOrder, PullWhen, RequestId, SourceId};
use readings::Readings;
use sessions::Sessions;
use slots::Slots;

/// Open blocks older than this go to disk at each checkpoint.
const CHECKPOINT: Duration = Duration::from_millis(500);

/// The receiver's engine, one for each channel.
#[derive(Debug)]
pub struct ReceiverEngine {
    config: EngineConfig,
    rng: StdRng,
    sessions: Sessions,
    /// Whom NACKs go to since the last look.
    asked: Option<SessionId>,
    acquisition: Acquisition,
    /// The manifest that the dataset follows, when it has been compared with it.
    held: Option<Held>,
    receptions: BTreeMap<ObjectId, Reception>,
    /// Table objects of which nothing is held and which are wanted.
    missing: RangeSet,
    slots: Slots,
    cycle: Cycle,
    checkpoint_at: Option<Time>,
    keeping: Keeping,
    /// A dataset that was not whole is not looked at again before.
    finish_at: Time,
    /// A checkpoint is under way.
    checkpointing: bool,
    finishing: bool,
    complete: bool,
    /// It ends.
    leaving: bool,
    pull: Pull,
    readings: Readings,
    /// Since when no sender is heard.
    alone_since: Option<Time>,
    /// News of the end of passes, to be believed at a time.
    settling: VecDeque<(Time, SessionId)>,
    work: VecDeque<Work>,
    transmits: VecDeque<Transmit>,
    events: VecDeque<Event>,
    counters: Counters,
}

/// The manifest in force.
#[derive(Debug)]
struct Held {
    manifest: Arc<Manifest>,
    hash: Digest,
    /// The generation that its oldest object is of.
    oldest: Generation,
    /// All objects of the manifest, and their bytes.
    objects: u64,
    bytes: u64,
    /// Of these, what was wanted when the directory was compared last.
    wanted: u64,
    wanted_bytes: u64,
    installed: u64,
    installed_bytes: u64,
}

#[derive(Debug, Default)]
struct Counters {
    symbols: u64,
    repair_symbols: u64,
    unneeded: u64,
    nacks: u64,
    nack_bytes: u64,
}

impl ReceiverEngine {
    /// An engine that knows nothing yet, or remembers an earlier run's manifest.
    #[must_use]
    pub fn new(config: EngineConfig) -> Self {
        Self {
            rng: StdRng::seed_from_u64(config.seed),
            sessions: Sessions::default(),
            asked: None,
            acquisition: Acquisition::new(config.remembered),
            held: None,
            receptions: BTreeMap::new(),
            missing: RangeSet::new(),
            slots: Slots::new(config.slots),
            cycle: Cycle::new(),
            checkpoint_at: None,
            keeping: Keeping::new(),
            finish_at: Time::ZERO,
            checkpointing: false,
            finishing: false,
            complete: false,
            leaving: false,
            pull: Pull::new(),
            readings: Readings::default(),
            alone_since: None,
            settling: VecDeque::new(),
            work: VecDeque::new(),
            transmits: VecDeque::new(),
            events: VecDeque::new(),
            counters: Counters::default(),
            config,
        }
    }

    fn void_promises(&mut self) {
        for reception in self.receptions.values_mut() {
            reception.void_promises();
        }
        self.cycle.void();
    }

    fn say(&mut self, event: Event) {
        if self.cycle.say_once(&event) {
            self.events.push_back(event);
        }
    }

    /// A verified Digest of a known session.
    pub fn handle_digest(&mut self, now: Time, digest: &DigestBody) {
        if !self.sessions.get_mut(digest.session).is_some_and(|s| s.on_digest(digest.sequence)) {
            return;
        }
        let until = if planted(Mutation::PromiseForEver) { Time::NEVER } else { now + digest.lapse };
        for promise in &digest.promises {
            match promise {
                Promise::Whole(id) => {
                    if let Some(reception) = self.receptions.get_mut(id) {
                        reception.whole_until = until;
                    } else if let Some(index) = self.index_of(*id) {
                        self.cycle.promise_missing(index, until);
                    }
                }
                Promise::Blocks(id, blocks) => {
                    if let Some(reception) = self.receptions.get_mut(id) {
                        for (block, count) in blocks {
                            reception.on_promise(*block, *count, until);
                        }
                    }
                }
            }
        }
        self.advance(now);
    }

    fn index_of(&self, id: ObjectId) -> Option<ObjectIndex> {
        self.held.as_ref()?.manifest.index_of(id)
    }

    /// An answer of a known session to a NACK of this run; `signed` when its signature was checked. One that answers
    /// no NACK of the last moments, or one that was answered before, does nothing.
    pub fn handle_answer(&mut self, now: Time, answer: &NackAnswer, signed: bool) {
        if self.sessions.get(answer.session).is_none() {
            return;
        }
        let Some(asked) = self.cycle.answered(now, answer) else { return };
        let is_elsewhere = answer.status == NackStatus::PrimaryAlive;
        // A sender that only stands by answers reports, too.
        let answering = self.sessions.get(answer.session).map(|session| session.advertisement.state);
        if !asked.is_report() || answering == Some(SenderState::Active) {
            self.sessions.choice.on_answer(is_elsewhere);
        }
        let Some(session) = self.sessions.get_mut(answer.session) else { return };
        if signed && self.cycle.is_our_nonce(answer.nonce) {
            session.confirmed = true;
            self.acquire();
        }
        let until = now + answer.wait;
        let table = self.held.as_ref().map(|h| Arc::clone(&h.manifest));
        let here = |id: &ObjectId| self.receptions.contains_key(id);
        let events = self.cycle.on_answer(now, answer, &asked, table.as_deref(), &here);
        self.events.extend(events);
        for reception in self.receptions.values_mut() {
            reception.on_answer(now, until);
        }
        self.advance(now);
    }

    /// A deadline passed.
    pub fn handle_timeout(&mut self, now: Time) {
        self.advance(now);
    }

    /// Moves every machine as far as it goes.
    fn advance(&mut self, now: Time) {
        for lost in self.sessions.expire(now) {
            self.events.push_back(Event::SenderLost(lost));
            self.void_promises();
        }
        self.sessions.choose(now);
        self.greet();
        self.settle(now);
        if !self.checkpointing && self.checkpoint_at.is_some_and(|at| now >= at) {
            self.checkpoint(now);
        }
        if self.keeping.look(now) {
            self.work.push_back(Work::Room);
        }
        if !self.keeping.is_stopped() {
            self.unblock(now);
        }
        self.nack(now);
        self.tell_reading(now);
        self.pull(now);
    }

    /// Another sender is asked from now on: it must hear of us, and what waits for a live sender may wait for it.
    fn greet(&mut self) {
        let Some((id, is_known)) = self.sessions.chosen().map(|(id, session)| (id, session.confirmed)) else { return };
        if self.asked.replace(id) != Some(id) {
            if !is_known {
                self.cycle.report();
            }
            self.acquire();
        }
    }

    /// What advertisements said of finished passes is believed when stragglers have arrived.
    fn settle(&mut self, now: Time) {
        while let Some((at, id)) = self.settling.front().copied() {
            if at > now {
                break;
            }
            self.settling.pop_front();
            let Some(session) = self.sessions.get_mut(id) else { continue };
            let (finished, packets) = (session.advertisement.finished.clone(), session.advertisement.data_packets);
            if self.settling.iter().all(|(_, other)| *other != id) {
                session.settle(packets);
            }
            for pass in finished {
                match self.receptions.get_mut(&pass.object) {
                    Some(reception) if reception.finished_serial < pass.serial => {
                        reception.on_pass_over(pass.serial);
                        self.cycle.look();
                    }
                    Some(_) => {}
                    None => {
                        if let Some(index) = self.index_of(pass.object) {
                            self.cycle.missing_pass_over(index, pass.serial);
                        }
                    }
                }
            }
        }
    }

    /// The next work order.
    pub fn poll_work(&mut self) -> Option<Work> {
        self.work.pop_front()
    }

    /// The next NACK to send.
    pub fn poll_transmit(&mut self) -> Option<Transmit> {
        self.transmits.pop_front()
    }

    /// The next event.
    pub fn poll_event(&mut self) -> Option<Event> {
        self.events.pop_front()
    }

    /// When to call [`Self::handle_timeout`], if nothing else comes first.
    #[must_use]
    pub fn poll_deadline(&self) -> Option<Deadline> {
        let at = |at: Option<Time>, why| at.map(|at| Deadline { at, why });
        [
            at(self.sessions.next_loss(), "sender silent"),
            at(self.settling.front().map(|(at, _)| *at), "stragglers"),
            at(self.checkpoint_at.filter(|_| !self.checkpointing), "checkpoint"),
            at(self.keeping.deadline(), "look for room"),
            at(self.stuck_until(), "blocked"),
            at(self.pull.look_at, "pull"),
            at(self.readings.due(), "reading"),
            // Without a sender there is nobody to ask.
            at(self.sessions.chosen().and_then(|_| self.cycle.deadline()), "NACK"),
        ]
        .into_iter()
        .fold(None, Deadline::earlier)
    }

    /// The session's last advertisement, to verify what it signs.
    #[must_use]
    pub fn advertisement(&self, session: SessionId) -> Option<&Advertisement> {
        self.sessions.get(session).map(|s| &s.advertisement)
    }

    /// Where the session's last advertisement came from.
    #[must_use]
    pub fn address_of(&self, session: SessionId) -> Option<SocketAddr> {
        self.sessions.get(session).map(|s| s.from)
    }

    /// A sender took note of the last report.
    #[must_use]
    pub const fn has_reported(&self) -> bool {
        self.cycle.has_reported()
    }

    /// The dataset is whole and verified.
    #[must_use]
    pub const fn is_complete(&self) -> bool {
        self.complete
    }

    /// What is known of an object of the manifest in force: a word or two, and how many of its bytes are here.
    #[must_use]
    pub fn object_state(&self, index: ObjectIndex, id: ObjectId, size: u64) -> (&'static str, u64) {
        match self.receptions.get(&id) {
            Some(reception) if reception.installing => ("installing", size),
            Some(reception) => ("receiving", reception.bytes_done()),
            None if self.missing.contains(index.0) => ("missing", 0),
            None => ("installed", size),
        }
    }

    /// Counters and state, for displays.
    #[must_use]
    pub fn snapshot(&self) -> Snapshot {
        let held = self.held.as_ref();
        let table = || self.receptions.values().filter(|r| r.class != Class::Manifest);
        let partial: u64 = table().map(Reception::bytes_done).sum();
        Snapshot {
            generation: held.map_or(Generation(0), |h| h.manifest.head().generation),
            has_manifest: held.is_some(),
            objects: held.map_or(0, |h| h.objects),
            objects_done: held.map_or(0, |h| h.objects.saturating_sub(h.wanted) + h.installed),
            bytes: held.map_or(0, |h| h.bytes),
            bytes_done: held.map_or(0, |h| h.bytes.saturating_sub(h.wanted_bytes) + h.installed_bytes) + partial,
            symbols: self.counters.symbols,
            repair_symbols: self.counters.repair_symbols,
            unneeded: self.counters.unneeded,
            nacks: self.counters.nacks,
            nack_bytes: self.counters.nack_bytes,
            loss_ppm: self.sessions.chosen().map_or(0, |(_, s)| s.loss_ppm()),
            unicast_wanted: self.cycle.unicast_wanted(),
            pulling: self.pull.is_busy(),
            open_blocks: table().map(|r| r.open_blocks() as u64).sum(),
            complete: self.complete,
            finishing: self.finishing,
            senders: u32::try_from(self.sessions.len()).unwrap_or(u32::MAX),
            unanswered: self.sessions.choice.is_unanswered() && !self.complete,
            served_by: self.sessions.served_by(),
        }
    }
}
