//! The sender's decisions, without sockets, files, clock or random source.
//!
//! # Contract
//! - Inputs: [`SenderEngine::handle_nack`], [`SenderEngine::handle_command`], [`SenderEngine::handle_done`],
//!   [`SenderEngine::handle_timeout`], each with `now`, which never goes back.
//! - After each input drain the outputs: [`SenderEngine::poll_work`], [`SenderEngine::poll_event`], and
//!   [`SenderEngine::poll_transmit`] until it returns none; then sleep until [`SenderEngine::poll_deadline`].
//! - The same inputs give the same outputs. Every queue is bounded by the catalogue, by `max_jobs`, or by a
//!   named constant.
//! - Reading, hashing, FEC, signing, sealing and storing are the driver's: they leave as [`Work`] and
//!   [`Transmit`] and return as [`Done`].

mod answers;
mod audience;
mod beginning;
mod bounds;
mod congestion;
mod covered;
mod demand;
mod ending;
pub mod event;
mod feedback;
mod flow;
mod foresight;
mod job;
mod outputs;
mod pace;
mod promises;
mod repair;
mod schedule;

use std::collections::{BTreeMap, VecDeque};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use nackcast_common::clock::Time;
use nackcast_common::ids::{Digest, ObjectIndex};
use nackcast_common::manifest::Manifest;
use nackcast_common::pacing::Pacer;
use nackcast_common::units::{BitRate, RateLimit};
use nackcast_proto::wire::limits::FINISHED_MAX;
use nackcast_proto::wire::{FinishedPass, ManifestRef, NackAnswer, Role, SenderState};

pub use audience::Audience;
use congestion::Congestion;
pub use congestion::RateBounds;
pub use event::{Command, Done, EngineConfig, Event, Publication, Snapshot, SymbolRun, Transmit, Work};
use feedback::Feedback;
use flow::Flow;
use foresight::Foresight;
use job::{Job, Phase, Proactive};
use promises::Promises;
use schedule::{FirstPassMay, Object, Order, Schedule};

/// Headers below ours that a rate counts: IPv6 and UDP.
const IP_UDP_LEN: u64 = 48;
/// Least time between two advertisements, however much there is to tell.
const ADVERTISE_SPACING: Duration = Duration::from_millis(20);
/// A group that more than doubled, and grew by more than this, is advertised at once.
const ADVERTISE_GROWTH: u32 = 32;
/// Blocks prepared ahead, of each job.
const STAGED_MAX: usize = 3;
/// Repair symbols that manifest blocks get unasked: losing one would make a receiver drop what follows. Whoever loses
/// the root, which is short, loses all parts.
const MANIFEST_PROACTIVE: Proactive = Proactive { ppm: 150_000, least: 8 };

/// The sender's engine, one for each channel.
#[derive(Debug)]
pub struct SenderEngine {
    config: EngineConfig,
    state: SenderState,
    /// The state follows the sender's role; else content alone makes it active.
    has_role: bool,
    /// Draining because another sender goes first.
    is_yielding: bool,
    /// Since when receivers are this sender's.
    serves_since: Option<Time>,
    schedule: Schedule,
    feedback: Feedback,
    flow: Flow,
    congestion: Congestion,
    foresight: Foresight,
    promises: Promises,
    pacer: Pacer,
    manifest: Option<(ManifestRef, Arc<Manifest>)>,
    started: Option<Time>,
    /// When the manifest was published.
    published_at: Time,
    manifest_sent_at: Option<Time>,
    /// Objects of this manifest may begin their first pass: receivers had their time to take it.
    content_begun: bool,
    sequence: u64,
    pass_serial: u64,
    finished: VecDeque<FinishedPass>,
    advertise_at: Time,
    advertised_at: Option<Time>,
    advertised_size: u32,
    data_packets: u64,
    next_job: usize,
    last_demand: Time,
    /// When a receiver last said that its dataset is not whole yet, although it demands nothing.
    last_incomplete: Time,
    last_symbol: Time,
    work: VecDeque<Work>,
    answers: VecDeque<(SocketAddr, NackAnswer)>,
    events: VecDeque<Event>,
    counters: Counters,
    said: Said,
}

#[derive(Debug, Default)]
struct Counters {
    sent_bytes: u64,
    repair_bytes: u64,
    nacks: u64,
}

/// Events that are reported once.
#[derive(Debug, Default)]
struct Said {
    first_pass_over: bool,
    /// As many receivers as `once` expects were there.
    all_came: bool,
    finished: bool,
    session_ending: bool,
    drained: bool,
}

impl SenderEngine {
    /// An engine without content; it advertises from the first timeout on.
    #[must_use]
    pub fn new(config: EngineConfig) -> Self {
        let congestion = Congestion::new(config.auto);
        let (limit, burst) = pace::pace_of(config.rate, &congestion);
        Self {
            state: SenderState::Starting,
            has_role: false,
            is_yielding: false,
            serves_since: None,
            schedule: Schedule::new(config.schedule),
            feedback: Feedback::new(),
            flow: Flow::default(),
            congestion,
            foresight: Foresight::default(),
            promises: Promises::new(),
            pacer: Pacer::new(limit, burst),
            manifest: None,
            started: None,
            published_at: Time::ZERO,
            manifest_sent_at: None,
            content_begun: false,
            sequence: 0,
            pass_serial: 0,
            finished: VecDeque::new(),
            advertise_at: Time::ZERO,
            advertised_at: None,
            advertised_size: 0,
            data_packets: 0,
            next_job: 0,
            last_demand: Time::ZERO,
            last_incomplete: Time::ZERO,
            last_symbol: Time::ZERO,
            work: VecDeque::new(),
            answers: VecDeque::new(),
            events: VecDeque::new(),
            counters: Counters::default(),
            said: Said::default(),
            config,
        }
    }

    /// Bits a second, about.
    const fn rate(&self) -> u64 {
        match self.config.rate {
            RateLimit::Fixed(BitRate(rate)) => rate,
            RateLimit::Max => 500_000_000,
            RateLimit::Auto => self.congestion.rate().0,
        }
    }

    /// What the admin, or the driver, wants.
    pub fn handle_command(&mut self, now: Time, command: Command) {
        match command {
            Command::Publish(publication) => self.publish(now, *publication),
            Command::Roll(session, start_number, epoch) => {
                self.config.session = session;
                self.config.start_number = start_number;
                self.config.epoch = epoch;
                self.data_packets = 0;
                self.flow.reset();
                self.congestion.reset(now);
                self.schedule.jobs.iter_mut().for_each(Job::on_roll);
                self.said.session_ending = false;
                self.advertise_at = now;
            }
            Command::SetRate(rate) => {
                // What was told before was told of another course of packets.
                self.flow.reset();
                if rate == RateLimit::Auto && self.config.rate != rate {
                    self.congestion.reset(now);
                }
                self.config.rate = rate;
                self.pace(now);
            }
            Command::Drain => {
                self.state = SenderState::Draining;
                self.is_yielding = false;
                self.advertise_at = now;
            }
            Command::Resend(objects) => {
                for id in objects {
                    if let Some((demand, layout)) = self.schedule.resend(now, id) {
                        self.last_demand = now;
                        self.promises.add(now, id, &demand, layout);
                    }
                }
            }
            Command::Become(state) => self.become_state(now, state),
            Command::Lacks(objects) => {
                for id in objects {
                    if let Some(job) = self.schedule.gone(id) {
                        self.release(&job);
                    }
                }
            }
        }
        self.advance(now);
    }

    fn become_state(&mut self, now: Time, state: SenderState) {
        self.has_role = true;
        self.state = state;
        self.said.drained = false;
        self.said.finished = false;
        self.is_yielding = state == SenderState::Draining;
        self.advertise_at = now;
        match state {
            SenderState::Active => {}
            SenderState::Draining => self.schedule.jobs.iter_mut().for_each(Job::cut_short),
            SenderState::Starting | SenderState::Standby | SenderState::Paused => {
                for job in self.schedule.stop() {
                    self.release(&job);
                }
                self.promises = Promises::new();
            }
        }
    }

    fn publish(&mut self, now: Time, publication: Publication) {
        let Publication { reference, manifest, parts, fresh, passes } = publication;
        let generation = manifest.head().generation;
        let mut objects = BTreeMap::new();
        let mut first = Vec::new();
        for (place, (id, layout)) in (0_u32..).zip(parts) {
            if fresh && self.schedule.object(id).is_none() {
                first.push(id);
            }
            objects.insert(id, Object::new(layout, Order::Manifest(place), generation));
        }
        for (place, object) in (0_u32..).zip(manifest.objects()) {
            if fresh && object.since == generation && self.config.role == Role::Primary {
                first.push(object.id);
            }
            objects.insert(object.id, Object::new(object.layout, Order::Table(ObjectIndex(place)), object.since));
        }
        for job in self.schedule.replace(now, objects, &first) {
            self.release(&job);
        }
        for (id, count) in passes {
            self.schedule.restore_passes(id, count, now);
        }
        self.manifest = Some((reference, manifest));
        self.manifest_sent_at = None;
        self.content_begun = false;
        (self.said.first_pass_over, self.said.finished) = (false, false);
        self.started.get_or_insert(now);
        self.published_at = now;
        self.last_demand = now;
        if self.state == SenderState::Starting && !self.has_role {
            self.state = SenderState::Active;
        }
        self.advertise_at = now;
    }

    /// A work order's result.
    pub fn handle_done(&mut self, now: Time, done: Done) {
        match done {
            Done::Prepared { object, block, sound: true } => {
                if let Some(job) = self.schedule.jobs.iter_mut().find(|j| j.object == object) {
                    job.prepared(block);
                }
            }
            Done::Prepared { object, sound: false, .. } => {
                if let Some(job) = self.schedule.gone(object) {
                    self.release(&job);
                }
                self.events.push_back(Event::ObjectChanged(object));
            }
            Done::PassRecorded { object } => {
                if let Some(job) = self.schedule.jobs.iter_mut().find(|j| j.object == object)
                    && job.phase == Phase::Recording
                {
                    job.phase = Phase::Running;
                }
            }
        }
        self.advance(now);
    }

    /// A deadline passed.
    pub fn handle_timeout(&mut self, now: Time) {
        self.advance(now);
    }

    fn release(&mut self, job: &Job) {
        for staged in &job.staged {
            self.work.push_back(Work::Release { object: job.object, block: staged.block });
        }
    }

    /// Moves every machine as far as it goes.
    fn advance(&mut self, now: Time) {
        self.started.get_or_insert(now);
        let serves = matches!(self.state, SenderState::Active | SenderState::Draining);
        self.serves_since = serves.then(|| self.serves_since.unwrap_or(now));
        self.feedback.follow(now, self.rate());
        self.feedback.recount(now);
        self.schedule.end_closed(now, &mut self.foresight);
        let may = self.first_pass_may(now);
        if may == FirstPassMay::All && !self.content_begun {
            // Whoever joins from now on asks for what it missed.
            self.content_begun = true;
            if self.foresight.is_new() {
                self.foresee();
            }
        }
        self.fill(now, may);
        let answered = now.before(self.linger());
        for job in &mut self.schedule.jobs {
            job.teach(answered, &mut self.foresight);
        }
        let mut has_closed = false;
        for at in 0..self.schedule.jobs.len() {
            self.stage(at);
            has_closed |= self.close_if_drained(now, at);
        }
        if has_closed {
            self.fill(now, may);
            (0..self.schedule.jobs.len()).for_each(|at| self.stage(at));
        }
        if self.manifest_sent_at.is_none() && self.manifest.is_some() && self.schedule.manifest_sent() {
            self.manifest_sent_at = Some(now);
            self.advertise_soon(now);
        }
        self.report(now);
    }

    /// Gives the free slots away.
    fn fill(&mut self, now: Time, first: FirstPassMay) {
        let proactive = |order| match order {
            Order::Manifest(_) => MANIFEST_PROACTIVE,
            Order::Table(_) => Proactive::default(),
        };
        let may = (self.state == SenderState::Active).then_some(first);
        for (object, count) in self.schedule.fill(now, may, proactive) {
            self.work.push_back(Work::RecordPass { object, count });
        }
    }

    /// What advertisements say of the rate; 0: no limit.
    const fn advertised_rate(&self) -> u64 {
        match self.config.rate {
            RateLimit::Fixed(BitRate(rate)) => rate,
            RateLimit::Max => 0,
            RateLimit::Auto => self.congestion.rate().0,
        }
    }

    fn stage(&mut self, at: usize) {
        let session = self.config.session;
        let Some((job, steps)) = self.schedule.job_and_steps(at) else { return };
        while job.wants_staging(STAGED_MAX) {
            let Some((block, repair)) = job.stage(session, steps, &self.foresight) else { return };
            self.work.push_back(Work::Prepare { object: job.object, block, repair });
        }
    }

    /// Whoever has something to ask has asked when so long passed since it could.
    fn linger(&self) -> Duration {
        self.feedback.window() + self.feedback.grtt() * 2 + ADVERTISE_SPACING * 2
    }

    /// True when it has closed.
    fn close_if_drained(&mut self, now: Time, at: usize) -> bool {
        let linger = self.linger();
        let is_last = self.schedule.has_no_next();
        let Some(job) = self.schedule.jobs.get_mut(at) else { return false };
        if job.phase != Phase::Running || !job.is_drained() {
            return false;
        }
        job.close(now, linger, is_last);
        self.pass_serial += 1;
        self.finished.push_back(FinishedPass { object: job.object, serial: self.pass_serial });
        while self.finished.len() > FINISHED_MAX {
            self.finished.pop_front();
        }
        self.advertise_soon(now);
        true
    }

    fn advertise_soon(&mut self, now: Time) {
        let earliest = self.advertised_at.map_or(now, |at| (at + ADVERTISE_SPACING).max(now));
        self.advertise_at = self.advertise_at.min(earliest);
    }

    /// Sequence of the last advertisement.
    #[must_use]
    pub const fn sequence(&self) -> u64 {
        self.sequence
    }

    /// What it does, as advertisements say.
    #[must_use]
    pub const fn state(&self) -> SenderState {
        self.state
    }

    /// The manifest hash that is served.
    #[must_use]
    pub fn serving(&self) -> Option<Digest> {
        self.manifest.as_ref().map(|(reference, _)| reference.hash)
    }
}
