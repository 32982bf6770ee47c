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

mod audience;
mod bounds;
mod covered;
mod demand;
pub mod event;
mod feedback;
mod foresight;
mod job;
mod promises;
mod repair;
mod schedule;

use std::collections::{BTreeMap, VecDeque};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use nackcast_common::clock::{Deadline, Time};
use nackcast_common::ids::{Digest, ObjectId, ObjectIndex, RunId};
use nackcast_common::manifest::Manifest;
use nackcast_common::pacing::{Pacer, default_burst};
use nackcast_common::ranges::RangeSet;
use nackcast_common::units::{BitRate, RateLimit};
use nackcast_proto::wire::limits::{FINISHED_MAX, WAIT_MAX};
use nackcast_proto::wire::{
    Advertisement, FinishedPass, ManifestRef, Nack, NackAnswer, NackStatus, Role, SenderState, report_spread, symbol,
};

pub use audience::Audience;
use demand::Demand;
pub use event::{Command, Done, EngineConfig, Event, Publication, Snapshot, SymbolRun, Transmit, Work};
use feedback::{Feedback, Heard};
use foresight::Foresight;
use job::{Job, Phase, Proactive};
use promises::Promises;
use schedule::{FirstPassMay, Object, Order, Schedule};

/// Headers below ours that a rate counts: IPv6 and UDP.
const IP_UDP_LEN: u64 = 48;
/// Bytes of one run: what one GSO send takes.
const RUN_LEN_MAX: usize = 64_000;
/// Least time between two advertisements, however much there is to tell.
const ADVERTISE_SPACING: Duration = Duration::from_millis(20);
/// A group that more than doubled, and grew by more than this, is advertised at once.
const ADVERTISE_GROWTH: u32 = 32;
/// Blocks prepared ahead, of each job.
const STAGED_MAX: usize = 3;
/// A NACK that echoes an advertisement older than this is stale.
const ECHO_AGE_MAX: Duration = Duration::from_secs(10);
/// Receivers that are known get so long to report the manifest before content follows (what comes before they
/// compared their directories with it is lost on them), and longer the more entries there are to compare.
const MANIFEST_SETTLE: Duration = Duration::from_secs(2);
/// If no receiver is known, content follows after so long.
const MANIFEST_SETTLE_ALONE: Duration = Duration::from_millis(500);
/// A first report that was lost is repeated by then.
const REPORTED_AGAIN: Duration = Duration::from_millis(300);
/// Entries that a slow receiver compares in a second.
const ENTRIES_PER_SECOND: u64 = 20_000;
/// Advertisements go out for so long before a first pass, so that receivers that wait are heard...
const HELLO: Duration = Duration::from_millis(300);
/// ...and for so long before each new manifest...
const ANNOUNCE: Duration = Duration::from_millis(100);
/// ...so often: whoever heard none drops what it hears of the manifest, and would have all of it sent once more.
const ANNOUNCE_INTERVAL: Duration = Duration::from_millis(25);
/// Repair symbols that manifest blocks get unasked: losing one would make a receiver drop what follows. Whoever loses
/// the root, which is short, loses all parts.
const MANIFEST_PROACTIVE: Proactive = Proactive { ppm: 150_000, least: 8 };
/// An expected receiver that is not complete may be silent for so long (it writes, or it says that it is there
/// only now and then) before it is given up.
const EXPECTED_PATIENCE: Duration = Duration::from_secs(10);
/// Packet numbers of a session; far below what one key may seal.
const SESSION_PACKETS_MAX: u64 = 1 << 31;
/// Between two advertisements of a sender that stands by.
const STANDBY_INTERVAL: Duration = Duration::from_secs(1);
/// What another sender was told of is not asked again before it can have come.
const REFERRED: Duration = Duration::from_secs(1);
/// Answers that wait for the socket.
const ANSWERS_MAX: usize = 4096;

/// The sender's engine, one for each channel.
#[derive(Debug)]
pub struct SenderEngine {
    config: EngineConfig,
    state: SenderState,
    /// The state follows the sender's role; else content alone makes it active.
    has_role: bool,
    /// Draining because another sender goes first.
    is_yielding: bool,
    schedule: Schedule,
    feedback: Feedback,
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
        let rate = config.rate;
        Self {
            state: SenderState::Starting,
            has_role: false,
            is_yielding: false,
            schedule: Schedule::new(config.schedule),
            feedback: Feedback::new(),
            foresight: Foresight::default(),
            promises: Promises::new(),
            pacer: Pacer::new(rate, default_burst(rate)),
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

    /// A NACK that opened and parsed, from the run that sealed it.
    pub fn handle_nack(&mut self, now: Time, from: SocketAddr, run: RunId, packet: u64, nack: &Nack) {
        if !self.is_fresh(now, nack) {
            return;
        }
        match self.feedback.on_nack(now, run, packet, from, nack.loss_ppm) {
            Heard::Again => return,
            Heard::First => {
                self.events.push_back(Event::ReceiverHeard);
                // Who spreads reports by a group size that is no longer true must hear of it.
                if self.feedback.group_size() > self.advertised_size * 2 + ADVERTISE_GROWTH {
                    self.advertise_soon(now);
                }
            }
            Heard::Known => {}
        }
        self.counters.nacks += 1;
        if !nack.is_report() {
            self.feedback.count_nack();
        }
        let rtt = now.since(Time(nack.time)).saturating_sub(nack.hold);
        self.feedback.on_rtt(now, rtt, self.config.schedule.interval);
        let ours = self.manifest.as_ref().map(|(reference, _)| reference.hash);
        if let Some(hash) = ours {
            let holds = nack.manifest == hash.prefix();
            if self.feedback.on_report(run, nack.manifest, nack.complete && holds) {
                self.events.push_back(Event::ReceiverComplete(hash));
            }
        }
        self.feedback.on_lack(run, nack.generation, nack.objects_missing, nack.bytes_missing);
        let mut answer = self.demands(now, nack);
        (answer.run, answer.nack) = (run, packet);
        if self.answers.len() < ANSWERS_MAX {
            self.answers.push_back((from, answer));
        }
        self.advance(now);
    }

    /// Echoes a recent advertisement of this session.
    #[must_use]
    pub fn is_fresh(&self, now: Time, nack: &Nack) -> bool {
        let age = now.since(Time(nack.time)).saturating_sub(nack.hold);
        nack.channel == self.config.channel
            && nack.session == self.config.session
            && nack.sequence <= self.sequence
            && nack.time <= now.0
            && age <= ECHO_AGE_MAX
    }

    /// Answers a NACK that is not served here: another sender serves.
    pub fn refer(&mut self, from: SocketAddr, run: RunId, packet: u64, nack: &Nack) {
        self.only_answer(from, run, packet, nack.nonce, NackStatus::PrimaryAlive, REFERRED);
    }

    /// Answers who only asks whether it is heard.
    pub fn echo(&mut self, from: SocketAddr, run: RunId, packet: u64, nack: &Nack) {
        self.only_answer(from, run, packet, nack.nonce, NackStatus::Noted, Duration::ZERO);
    }

    fn only_answer(
        &mut self,
        from: SocketAddr,
        run: RunId,
        packet: u64,
        nonce: u64,
        status: NackStatus,
        wait: Duration,
    ) {
        let (channel, session) = (self.config.channel, self.config.session);
        if self.answers.len() < ANSWERS_MAX {
            let answer =
                NackAnswer { channel, session, run, nack: packet, nonce, status, wait, ..NackAnswer::default() };
            self.answers.push_back((from, answer));
        }
    }

    fn demands(&mut self, now: Time, nack: &Nack) -> NackAnswer {
        let mut answer = NackAnswer {
            channel: self.config.channel,
            session: self.config.session,
            nonce: nack.nonce,
            status: NackStatus::Noted,
            ..NackAnswer::default()
        };
        if nack.is_report() {
            if !nack.complete {
                self.last_incomplete = now;
            }
            return answer;
        }
        let mut statuses = [false; 2];
        let (mut unicast, mut unknown) = (Vec::new(), Vec::new());
        let mut note = |status: NackStatus, unicast: &mut dyn FnMut(), unknown: &mut dyn FnMut()| match status {
            NackStatus::Unicast => unicast(),
            NackStatus::Unknown | NackStatus::OtherGeneration | NackStatus::PrimaryAlive => unknown(),
            NackStatus::Noted => {}
            NackStatus::Queued => statuses[0] = true,
            NackStatus::Sending => statuses[1] = true,
        };
        for id in &nack.missing_ids {
            let status = self.demand_object(now, *id, None, nack);
            note(status, &mut || answer.unicast_ids.push(*id), &mut || answer.unknown_ids.push(*id));
        }
        for short in &nack.short {
            let status = self.demand_object(now, short.object, Some(&short.blocks), nack);
            let id = short.object;
            note(status, &mut || answer.unicast_ids.push(id), &mut || answer.unknown_ids.push(id));
        }
        let current = self.manifest.as_ref().filter(|(reference, _)| reference.hash.prefix() == nack.manifest);
        if let (Some((_, manifest)), false) = (current, nack.missing.is_empty()) {
            let manifest = Arc::clone(manifest);
            let count = u32::try_from(manifest.objects().len()).unwrap_or(u32::MAX);
            for run in nack.missing.ranges().map(|run| run.start..run.end.min(count)) {
                let fresh: Vec<_> = self.schedule.not_queued(run.clone(), nack.loss_ppm).collect();
                if fresh.iter().map(ExactSizeIterator::len).sum::<usize>() < run.len() {
                    self.last_demand = now;
                    note(NackStatus::Queued, &mut || {}, &mut || {});
                }
                for index in fresh.into_iter().flatten() {
                    let Some(object) = manifest.object(ObjectIndex(index)) else { continue };
                    let status = self.demand_object(now, object.id, None, nack);
                    note(status, &mut || unicast.push(index), &mut || unknown.push(index));
                }
            }
            (answer.unicast, answer.unknown) = (unicast.into_iter().collect(), unknown.into_iter().collect());
        }
        answer.status = match (statuses, current_is_other(&self.manifest, nack)) {
            (_, true) => NackStatus::OtherGeneration,
            ([_, true], _) => NackStatus::Sending,
            ([true, false], _) => NackStatus::Queued,
            ([false, false], _) => NackStatus::Noted,
        };
        answer.wait = self.wait();
        answer
    }

    /// `blocks`: what is short; none: nothing is held.
    fn demand_object(&mut self, now: Time, id: ObjectId, blocks: Option<&[(u32, u16)]>, nack: &Nack) -> NackStatus {
        let Some(layout) = self.schedule.object(id).map(|o| o.layout) else { return NackStatus::Unknown };
        let mut demand = Demand { loss_ppm: nack.loss_ppm, ..Demand::default() };
        match blocks {
            None => demand.whole = RangeSet::full(layout.block_count()),
            Some(blocks) => {
                for (block, deficit) in blocks {
                    let k = layout.source_symbols(*block);
                    if *deficit >= k && k > 0 {
                        demand.whole.insert(*block..*block + 1);
                    } else if k > 0 {
                        demand.short.entry(*block).or_default().merge(*deficit);
                    }
                }
            }
        }
        if demand.is_empty() {
            return NackStatus::Noted;
        }
        let (status, new) = self.schedule.demand(now, id, demand, nack.heard);
        if matches!(status, NackStatus::Queued | NackStatus::Sending) {
            self.last_demand = now;
            self.promises.add(now, id, &new, layout);
        }
        status
    }

    /// How long what is queued takes, with some air.
    fn wait(&self) -> Duration {
        let symbols = self.schedule.symbols_ahead();
        let bits = symbols * (symbol::datagram_len(1400) as u64 + IP_UDP_LEN) * 8;
        let rate = self.rate();
        let sending = Duration::from_micros(bits.saturating_mul(1_100_000) / rate.max(1));
        (sending + self.feedback.window() + self.feedback.grtt() * 2).min(WAIT_MAX)
    }

    /// Bits a second, about.
    const fn rate(&self) -> u64 {
        match self.config.rate {
            RateLimit::Fixed(BitRate(rate)) => rate,
            RateLimit::Max => 500_000_000,
        }
    }

    /// What the admin, or the driver, wants.
    pub fn handle_command(&mut self, now: Time, command: Command) {
        match command {
            Command::Publish(publication) => self.publish(now, *publication),
            Command::Roll(session, start_number) => {
                self.config.session = session;
                self.config.start_number = start_number;
                self.data_packets = 0;
                self.schedule.jobs.iter_mut().for_each(Job::on_roll);
                self.said.session_ending = false;
                self.advertise_at = now;
            }
            Command::SetRate(rate) => {
                self.config.rate = rate;
                self.pacer.set_rate(now, rate, default_burst(rate));
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

    fn first_pass_may(&self, now: Time) -> FirstPassMay {
        if self.content_begun {
            return FirstPassMay::All;
        }
        let expected = self.expected();
        let is_hidden = self.feedback.group_size() < expected || now < self.published_at + ANNOUNCE;
        if is_hidden || (expected == 0 && now < self.announced_at()) {
            return FirstPassMay::Nothing;
        }
        let known = self.feedback.group_size();
        let prefix = self.manifest.as_ref().map_or(0, |(reference, _)| reference.hash.prefix());
        // To count is the dearest: it comes last.
        let all_hold = known > 0 && now >= self.heard_all_at() && self.feedback.holding(prefix) >= known;
        match self.manifest_sent_at {
            Some(at) if all_hold || now >= at + self.settle() => FirstPassMay::All,
            Some(_) | None => FirstPassMay::Manifest,
        }
    }

    /// The manifest was advertised often enough.
    fn announced_at(&self) -> Time {
        self.started.map_or(Time::NEVER, |started| started + HELLO).max(self.published_at + ANNOUNCE)
    }

    /// Of a large group more is heard until nobody new was for as long as its reports are spread, and while one was
    /// probably lost, until it was repeated: whoever gets the manifest after content began asks for all that it missed.
    fn heard_all_at(&self) -> Time {
        let spread = report_spread(self.feedback.group_size(), self.advertised_rate());
        let again = if self.feedback.is_one_unheard() { REPORTED_AGAIN } else { Duration::ZERO };
        self.feedback.last_new() + spread.max(again)
    }

    /// What advertisements say of the rate; 0: no limit.
    const fn advertised_rate(&self) -> u64 {
        match self.config.rate {
            RateLimit::Fixed(BitRate(rate)) => rate,
            RateLimit::Max => 0,
        }
    }

    /// Before the first content: what the group will need.
    fn foresee(&mut self) {
        let Some((reference, manifest)) = &self.manifest else { return };
        let loss = self.feedback.loss_of_holders(reference.hash.prefix());
        let full = manifest.objects().iter().map(|o| o.layout.source_symbols(0)).max().unwrap_or(0);
        self.foresight.begin(full, self.feedback.group_size(), loss);
    }

    /// How long receivers get to take the manifest.
    fn settle(&self) -> Duration {
        if self.feedback.group_size() == 0 {
            return MANIFEST_SETTLE_ALONE;
        }
        let entries = self.manifest.as_ref().map_or(0, |(_, m)| m.entries().len() as u64);
        let comparing = Duration::from_millis(entries * 1000 / ENTRIES_PER_SECOND).min(MANIFEST_SETTLE * 5);
        // Each says first that it is there, and then that it has it; some of that is lost.
        let reports = report_spread(self.feedback.group_size(), self.advertised_rate()) * 4;
        (MANIFEST_SETTLE + comparing).max(self.feedback.window() * 4).max(reports)
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

    fn report(&mut self, now: Time) {
        if self.is_yielding && self.nothing_is_open() && !self.said.drained {
            self.said.drained = true;
            self.events.push_back(Event::Drained);
        }
        if self.data_packets > SESSION_PACKETS_MAX && !self.said.session_ending {
            self.said.session_ending = true;
            self.events.push_back(Event::SessionEnding);
        }
        let Some((_, manifest)) = &self.manifest else { return };
        let may_all = self.manifest_sent_at.is_some();
        if may_all && self.schedule.first_pass_over() && !self.said.first_pass_over {
            self.said.first_pass_over = true;
            self.events.push_back(Event::FirstPassOver(manifest.head().generation));
        }
        self.said.all_came =
            self.said.all_came || self.feedback.group_size() >= self.expected() || self.is_as_expected();
        if self.finished_at().is_some_and(|at| now >= at) && !self.said.finished {
            self.said.finished = true;
            self.events.push_back(Event::Finished);
        }
    }

    /// `once`, or draining: when it is over if nothing more is asked.
    fn finished_at(&self) -> Option<Time> {
        if self.state == SenderState::Paused {
            return None;
        }
        if self.state == SenderState::Draining {
            return (!self.is_yielding && self.nothing_is_open()).then_some(Time::ZERO);
        }
        let once = self.config.once?;
        // All may have been sent by an earlier run: whom it expects it waits for all the same.
        let idle = self.said.all_came && self.said.first_pass_over && self.schedule.is_idle();
        let patience = if self.is_as_expected() { Duration::ZERO } else { EXPECTED_PATIENCE };
        let quiet = once.linger.max(self.feedback.window() * 2 + self.feedback.grtt()).max(patience);
        let since = self.manifest_sent_at?.max(self.last_demand).max(self.last_incomplete).max(self.last_symbol);
        idle.then_some(since + quiet)
    }

    /// Every job has sent what it had.
    fn nothing_is_open(&self) -> bool {
        self.schedule.jobs.iter().all(|j| matches!(j.phase, Phase::Closing { .. }))
    }

    /// Receivers that reported this manifest complete, those included that left since then.
    fn complete_ever(&self) -> u32 {
        self.manifest.as_ref().map_or(0, |(reference, _)| self.feedback.complete_ever(reference.hash.prefix()))
    }

    /// How many receivers `once` expects.
    fn expected(&self) -> u32 {
        self.config.once.and_then(|once| once.expect).unwrap_or(0)
    }

    /// As many receivers as `once` expects reported complete.
    #[must_use]
    pub fn is_as_expected(&self) -> bool {
        // To count is the dearest: it comes last.
        let expected = self.expected();
        expected == 0 || self.complete_ever() >= expected
    }

    /// The next work order.
    pub fn poll_work(&mut self) -> Option<Work> {
        self.work.pop_front()
    }

    /// The next event.
    pub fn poll_event(&mut self) -> Option<Event> {
        self.events.pop_front()
    }

    /// The next thing to send now.
    pub fn poll_transmit(&mut self, now: Time) -> Option<Transmit> {
        self.poll_control(now).or_else(|| self.symbols(now))
    }

    /// The same without content: for a driver whose data socket is full.
    pub fn poll_control(&mut self, now: Time) -> Option<Transmit> {
        if let Some((to, answer)) = self.answers.pop_front() {
            return Some(Transmit::Answer(to, answer));
        }
        if now >= self.advertise_at {
            return Some(self.advertisement(now));
        }
        if let Some(promises) = self.promises.due(now, self.config.rate) {
            self.sequence += 1;
            let lapse = self.wait();
            return Some(Transmit::Digest(promises.into_digest(&self.config, self.sequence, now, lapse)));
        }
        None
    }

    fn symbols(&mut self, now: Time) -> Option<Transmit> {
        if self.state == SenderState::Paused {
            return None;
        }
        let jobs = self.schedule.jobs.len();
        let at = (0..jobs).map(|step| (self.next_job + step) % jobs).find(|at| self.schedule.jobs[*at].is_ready())?;
        let job = &mut self.schedule.jobs[at];
        let datagram = symbol::datagram_len(job.layout.geometry().symbol_size());
        let wire_len = datagram as u64 + IP_UDP_LEN;
        let affordable = self.pacer.budget(now) / wire_len;
        let most = u16::try_from(affordable.min((RUN_LEN_MAX / datagram) as u64)).unwrap_or(1);
        if most == 0 {
            return None;
        }
        let object = job.object;
        let (block, esis, through) = job.next_run(now, most, self.data_packets)?;
        let count = u64::from(esis.end - esis.start);
        let (first, k) = (job.first, job.layout.source_symbols(block));
        let run = SymbolRun { object, block, esis, first_packet: self.data_packets };
        self.data_packets += count;
        self.last_symbol = now;
        self.pacer.spend(now, count * wire_len);
        self.counters.sent_bytes += count * datagram as u64;
        if !first || run.esis.start >= k {
            self.counters.repair_bytes += count * datagram as u64;
        }
        if through {
            self.work.push_back(Work::Release { object, block });
            // Blocks of the running jobs take turns, so that a small object does not wait for a large one.
            self.next_job = at + 1;
            self.advance(now);
        } else {
            self.next_job = at;
        }
        Some(Transmit::Symbols(run))
    }

    /// Between two advertisements: whoever sends nothing has little to tell.
    fn interval(&self) -> Duration {
        match self.state {
            SenderState::Standby | SenderState::Paused => self.config.schedule.interval.max(STANDBY_INTERVAL),
            SenderState::Starting | SenderState::Active | SenderState::Draining => self.config.schedule.interval,
        }
    }

    /// Sequence of the last advertisement.
    #[must_use]
    pub const fn sequence(&self) -> u64 {
        self.sequence
    }

    fn advertisement(&mut self, now: Time) -> Transmit {
        self.sequence += 1;
        self.advertised_at = Some(now);
        self.advertised_size = self.feedback.group_size();
        let interval = self.interval();
        let is_new = self.state == SenderState::Active && self.manifest.is_some() && now < self.announced_at();
        self.advertise_at = now + if is_new { ANNOUNCE_INTERVAL.min(interval) } else { interval };
        let first_pass = self.schedule.first_pass_cursor();
        Transmit::Advertisement(Box::new(Advertisement {
            channel: self.config.channel,
            session: self.config.session,
            epoch: self.config.epoch,
            sequence: self.sequence,
            start_number: self.config.start_number,
            time: now.0,
            interval,
            generation: self.manifest.as_ref().map_or_else(Default::default, |(_, m)| m.head().generation),
            manifest: self.manifest.as_ref().map(|(reference, _)| *reference),
            certificate: self.config.certificate,
            role: self.config.role,
            state: self.state,
            data_group: self.config.data_group,
            nack_port: self.config.nack_port,
            quic_port: self.config.quic_port,
            grtt: self.feedback.grtt(),
            nack_window: self.feedback.window(),
            group_size: self.feedback.group_size(),
            max_passes: self.config.schedule.max_passes,
            rate_bps: self.advertised_rate(),
            first_pass_cursor: first_pass.map_or(u32::MAX, |index| index.0),
            first_pass_since: self.schedule.first_pass_since().unwrap_or_default(),
            finished: self.finished.iter().copied().collect(),
            data_packets: self.data_packets,
            manifest_sent: self.schedule.manifest_sent(),
            rank: 0,
            // No engine knows the wall clock.
            wall_ms: 0,
        }))
    }

    /// When to call [`Self::handle_timeout`], if nothing else comes first.
    #[must_use]
    pub fn poll_deadline(&self, now: Time) -> Option<Deadline> {
        let at = |at: Option<Time>, why| at.map(|at| Deadline { at, why });
        let sends = self.state != SenderState::Paused;
        let ready = self.schedule.jobs.iter().find(|j| sends && j.is_ready());
        let pace = ready.and_then(|job| {
            let datagram = symbol::datagram_len(job.layout.geometry().symbol_size()) as u64 + IP_UDP_LEN;
            // Ready already when the driver asks later than it drained.
            self.pacer.ready_at(now, datagram).or(Some(now))
        });
        let settle = match self.first_pass_may(now) {
            FirstPassMay::Nothing => Some(self.announced_at()).filter(|at| *at > now),
            FirstPassMay::Manifest => self.manifest_sent_at.map(|s| {
                let heard_all = Some(self.heard_all_at()).filter(|at| *at > now);
                heard_all.map_or(Time::NEVER, |at| at).min(s + self.settle())
            }),
            FirstPassMay::All => None,
        };
        [
            at(Some(self.advertise_at), "advertisement"),
            at(self.promises.due_at(), "digest"),
            at(pace, "pacing"),
            at(self.schedule.next_due(), "schedule"),
            at(settle, "first pass"),
            at(self.finished_at().filter(|_| !self.said.finished), "once"),
        ]
        .into_iter()
        .fold(None, Deadline::earlier)
    }

    /// What it does, as advertisements say.
    #[must_use]
    pub const fn state(&self) -> SenderState {
        self.state
    }

    /// Counters and state, for displays.
    #[must_use]
    pub fn snapshot(&self) -> Snapshot {
        let (left, bytes_left) = self.schedule.first_pass_left();
        let objects = self.manifest.as_ref().map_or(0, |(_, m)| m.objects().len() as u64);
        let bytes = self.manifest.as_ref().map_or(0, |(_, m)| m.objects().iter().map(|o| o.layout.size()).sum());
        Snapshot {
            generation: self.manifest.as_ref().map_or_else(Default::default, |(_, m)| m.head().generation),
            objects,
            objects_passed: objects - left,
            bytes,
            bytes_passed: bytes - bytes_left,
            sent_bytes: self.counters.sent_bytes,
            repair_bytes: self.counters.repair_bytes,
            receivers: self.feedback.group_size(),
            receivers_complete: self.manifest.as_ref().map_or(0, |(r, _)| self.feedback.complete(r.hash.prefix())),
            nacks: self.counters.nacks,
            pool: self.schedule.pool_len(),
            jobs: self.schedule.running(),
            grtt: self.feedback.grtt(),
            nack_window: self.feedback.window(),
            rate_limit_bps: self.advertised_rate(),
            state: Some(self.state),
            loss_ppm: self.feedback.mean_loss(),
            exhausted: self.schedule.exhausted().count() as u64,
        }
    }

    /// The manifest hash that is served.
    #[must_use]
    pub fn serving(&self) -> Option<Digest> {
        self.manifest.as_ref().map(|(reference, _)| reference.hash)
    }
}

/// The NACK speaks of places in a manifest that is not served here.
fn current_is_other(manifest: &Option<(ManifestRef, Arc<Manifest>)>, nack: &Nack) -> bool {
    !nack.missing.is_empty() && manifest.as_ref().is_none_or(|(reference, _)| reference.hash.prefix() != nack.manifest)
}
