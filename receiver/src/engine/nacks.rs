//! The NACK cycle: when to ask, what, and when to be silent.
//!
//! | state | on | to |
//! |---|---|---|
//! | quiet | something is short, and neither promised nor asked lately | backing off (RFC 5401) |
//! | backing off | backoff over | asks what is still short, at most `nack_budget` datagrams; quiet for one window |
//! | any | a promise or an answer covers the need | (the need is looked at again when that lapses) |
//!
//! Reports are spread evenly, by the group's size, so that all of them together take a tenth of the sender's rate.
//! A report (nothing is asked) greets a new sender, says that the manifest is held, and that the dataset is whole;
//! it is repeated until answered.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use nackcast_common::clock::Time;
use nackcast_common::ids::{ObjectId, ObjectIndex, SessionId};
use nackcast_common::manifest::Manifest;
use nackcast_common::mutation::{Mutation, planted};
use nackcast_common::ranges::RangeSet;
use nackcast_common::seal::PacketNumbers;
use nackcast_proto::wire::limits::{IDS_MAX, SHORT_MAX};
use nackcast_proto::wire::{Nack, NackAnswer, NackStatus, SenderState, ShortObject, report_spread};
use rand::RngExt;
use rand::rngs::StdRng;

use super::event::{Event, Transmit};
use super::object::{Class, Reception};
use super::pull::PullWhen;
use super::{ReceiverEngine, backoff};

/// Least time between two looks at everything that is short.
const LOOK_SPACING: Duration = Duration::from_millis(3);
/// A report is repeated after so long without an answer (or three round-trip times), at first; each time twice as long.
const REPORT_RETRY: Duration = Duration::from_millis(100);
const REPORT_RETRY_MAX: Duration = Duration::from_secs(8);
/// A receiver whose dataset is not whole says so at least so often, so that a sender knows that it is there...
const ALIVE: Duration = Duration::from_secs(3);
/// ...and one whose dataset is whole at least so often...
const ALIVE_WHOLE: Duration = Duration::from_secs(10 * 60);
/// ...but in a large group less often: so many reports a second reach the sender in all.
const ALIVE_PER_SECOND: u32 = 100;
/// The first report to a sender is spread over so long: it goes out before that sender knows how many receivers there
/// are, and ends before a first pass begins.
const GREETING: Duration = Duration::from_millis(200);
/// A block that gets nothing for three intervals, or for so long, is asked for.
const STALL_MAX: Duration = Duration::from_secs(1);
/// Blocks asked for in one cycle, over all objects.
const BLOCKS_PER_CYCLE: usize = 8192;
/// NACKs of which the answer is waited for: those of many windows.
pub(super) const ASKED_MAX: usize = 256;
/// An answer that takes longer than this is none.
const ANSWER_AGE_MAX: Duration = Duration::from_secs(10);
/// What was refused (`unicast`, `unknown`) is asked again after so long.
const REFUSED_RETRY: Duration = Duration::from_secs(10);

/// State of the cycle.
#[derive(Debug)]
pub(super) struct Cycle {
    /// Something may have become short.
    look: bool,
    looked_at: Time,
    /// Look again then, even if nothing happens.
    look_at: Option<Time>,
    /// Backing off.
    nack_at: Option<Time>,
    /// One window after the last NACK.
    hold_until: Time,
    /// Missing objects that were asked for or promised, and until when they are quiet.
    quiet_missing: BTreeMap<u32, Time>,
    /// NACKs that may be answered, by packet number.
    asked: BTreeMap<u64, Asked>,
    packets: PacketNumbers,
    missing_serials: BTreeMap<u32, u64>,
    refused: BTreeMap<ObjectId, Time>,
    /// What a sender has no passes left for, and what it does not have.
    unicast: BTreeSet<ObjectId>,
    unknown: BTreeSet<ObjectId>,
    report: Option<Report>,
    nonce: u64,
    said: Vec<Event>,
    /// Window and size of the group, as an active sender told them last: who stands by does not know them.
    crowd: (Duration, u32),
    /// Say that we are here then, if nothing else was said.
    alive_at: Option<Time>,
    /// When the last NACK or report was sent.
    said_at: Time,
}

/// A NACK that was sent.
#[derive(Debug)]
pub(super) struct Asked {
    at: Time,
    session: SessionId,
    /// Its missing objects, by place in the table.
    missing: RangeSet,
    /// What it named by id.
    ids: Vec<ObjectId>,
    /// It asked for nothing.
    report: bool,
}

impl Asked {
    pub(super) const fn is_report(&self) -> bool {
        self.report
    }
}

#[derive(Debug)]
struct Report {
    at: Option<Time>,
    /// Packet number of its first copy.
    sent: Option<u64>,
    retry: Duration,
}

impl Cycle {
    pub(super) const fn new() -> Self {
        Self {
            look: false,
            looked_at: Time::ZERO,
            look_at: None,
            nack_at: None,
            hold_until: Time::ZERO,
            quiet_missing: BTreeMap::new(),
            asked: BTreeMap::new(),
            packets: PacketNumbers::new(),
            missing_serials: BTreeMap::new(),
            refused: BTreeMap::new(),
            unicast: BTreeSet::new(),
            unknown: BTreeSet::new(),
            report: None,
            nonce: 0,
            said: Vec::new(),
            crowd: (Duration::ZERO, 0),
            alive_at: None,
            said_at: Time::ZERO,
        }
    }

    /// Something happened that may have made something short.
    pub(super) fn look(&mut self) {
        self.look = true;
    }

    /// There is something to report.
    pub(super) fn report(&mut self) {
        self.report = Some(Report { at: None, sent: None, retry: REPORT_RETRY });
    }

    /// Nothing that was promised or asked will come.
    pub(super) fn void(&mut self) {
        self.quiet_missing.clear();
        self.missing_serials.clear();
        self.hold_until = Time::ZERO;
        self.look = true;
    }

    /// Places in the table mean something else now.
    pub(super) fn new_manifest(&mut self) {
        self.quiet_missing.clear();
        self.missing_serials.clear();
        self.asked.values_mut().for_each(|asked| asked.missing = RangeSet::new());
        self.refused.clear();
        self.unicast.clear();
        self.unknown.clear();
        self.report();
    }

    /// A missing object was promised.
    pub(super) fn promise_missing(&mut self, index: ObjectIndex, until: Time) {
        let quiet = self.quiet_missing.entry(index.0).or_insert(until);
        *quiet = until.max(*quiet);
    }

    /// A pass of a missing object is over, and nothing of it arrived.
    pub(super) fn missing_pass_over(&mut self, index: ObjectIndex, serial: u64) {
        let last = self.missing_serials.entry(index.0).or_insert(0);
        if *last < serial {
            *last = serial;
            self.quiet_missing.remove(&index.0);
            self.look = true;
        }
    }

    pub(super) const fn is_our_nonce(&self, nonce: u64) -> bool {
        nonce != 0 && nonce == self.nonce
    }

    /// No report waits for an answer.
    pub(super) const fn has_reported(&self) -> bool {
        self.report.is_none()
    }

    /// Rows about missing objects (quiet ones, ends of passes), refused objects, objects for unicast, and NACKs that
    /// may be answered.
    pub(super) fn sizes(&self) -> [usize; 5] {
        let (quiet, serials) = (self.quiet_missing.len(), self.missing_serials.len());
        [quiet, serials, self.refused.len(), self.unicast.len(), self.asked.len()]
    }

    /// The sender refused the object, and is not asked again yet.
    pub(super) fn is_refused(&self, now: Time, id: ObjectId) -> bool {
        self.refused.get(&id).is_some_and(|until| now < *until)
    }

    pub(super) fn unicast_wanted(&self) -> u64 {
        self.unicast.len() as u64
    }

    /// A sender said that the object does not come by multicast; where `with_unknown`, also that it does not have it.
    pub(super) fn is_permitted(&self, id: ObjectId, with_unknown: bool) -> bool {
        self.unicast.contains(&id) || with_unknown && self.unknown.contains(&id)
    }

    /// Some of these objects, from this one on.
    pub(super) fn permits(&self, from: ObjectId, most: usize) -> Vec<ObjectId> {
        let sets = [&self.unicast, &self.unknown].into_iter();
        sets.flat_map(|set| set.range(from..).chain(set.range(..from)).take(most)).copied().collect()
    }

    pub(super) fn has_permits(&self) -> bool {
        !(self.unicast.is_empty() && self.unknown.is_empty())
    }

    /// The object is here.
    pub(super) fn done_with(&mut self, id: ObjectId) {
        self.unicast.remove(&id);
        self.unknown.remove(&id);
    }

    /// True the first time.
    pub(super) fn say_once(&mut self, event: &Event) -> bool {
        let new = !self.said.contains(event);
        if new {
            self.said.truncate(63);
            self.said.insert(0, event.clone());
        }
        new
    }

    /// The next packet number.
    pub(super) fn number(&mut self) -> u64 {
        self.packets.take(1).start
    }

    /// The next NACK's packet number; it may be answered from now on.
    fn sent(&mut self, asked: Asked) -> u64 {
        let packet = self.number();
        self.asked.insert(packet, asked);
        if self.asked.len() > ASKED_MAX {
            self.asked.pop_first();
        }
        packet
    }

    /// Which NACK this answers, once; none when it answers nothing that was sent lately.
    pub(super) fn answered(&mut self, now: Time, answer: &NackAnswer) -> Option<Asked> {
        self.asked.retain(|_, asked| now.since(asked.at) <= ANSWER_AGE_MAX);
        if self.asked.get(&answer.nack)?.session != answer.session {
            return None;
        }
        self.asked.remove(&answer.nack)
    }

    /// The sender's answer to a NACK.
    pub(super) fn on_answer(
        &mut self,
        now: Time,
        answer: &NackAnswer,
        asked: &Asked,
        table: Option<&Manifest>,
        here: &dyn Fn(&ObjectId) -> bool,
    ) -> Vec<Event> {
        if answer.status == NackStatus::Noted
            && let Some(report) = &self.report
            && report.sent.is_some_and(|first| first <= answer.nack)
        {
            self.report = None;
        }
        let until = now + answer.wait;
        for index in asked.missing.iter() {
            let quiet = self.quiet_missing.entry(index).or_insert(until);
            *quiet = until.max(*quiet);
        }
        // Places of what was asked only: where the manifest is another one since, they mean other objects.
        let ids = |set: &RangeSet| -> Vec<ObjectId> {
            let asked = set
                .iter()
                .filter(|i| asked.missing.contains(*i))
                .take_while(|i| table.is_some_and(|t| (*i as usize) < t.objects().len()));
            asked.filter_map(|i| table.and_then(|t| t.object(ObjectIndex(i)))).map(|o| o.id).collect()
        };
        let unicast: Vec<_> = ids(&answer.unicast).into_iter().chain(answer.unicast_ids.iter().copied()).collect();
        let unknown: Vec<_> = ids(&answer.unknown).into_iter().chain(answer.unknown_ids.iter().copied()).collect();
        // Only what we know can be refused: an answer must not grow our memory.
        let ours = |id: &ObjectId| here(id) || table.is_some_and(|t| t.index_of(*id).is_some());
        let unicast: Vec<_> = unicast.into_iter().filter(ours).collect();
        let unknown: Vec<_> = unknown.into_iter().filter(ours).collect();
        self.refused.retain(|_, until| *until > now);
        for id in unicast.iter().chain(&unknown) {
            self.refused.insert(*id, now + REFUSED_RETRY);
            if let Some(index) = table.and_then(|t| t.index_of(*id)) {
                self.quiet_missing.insert(index.0, now + REFUSED_RETRY);
            }
        }
        if matches!(answer.status, NackStatus::Queued | NackStatus::Sending) && !planted(Mutation::PermitStays) {
            // Whatever else was asked for will come.
            let named: BTreeSet<_> = asked.ids.iter().copied().collect();
            let was_asked = |id: &ObjectId| {
                named.contains(id) || table.and_then(|t| t.index_of(*id)).is_some_and(|i| asked.missing.contains(i.0))
            };
            self.unicast.retain(|id| !was_asked(id) || unicast.contains(id));
            self.unknown.retain(|id| !was_asked(id) || unknown.contains(id));
        }
        self.unknown.extend(&unknown);
        let known = self.unicast.len();
        self.unicast.extend(&unicast);
        let mut events = Vec::new();
        if self.unicast.len() > known {
            events.push(Event::UnicastWanted(self.unicast.len() as u64));
        }
        if !unknown.is_empty() && self.say_once(&Event::Unknown(unknown.len() as u64)) {
            events.push(Event::Unknown(unknown.len() as u64));
        }
        events
    }

    /// When something here is due.
    pub(super) fn deadline(&self) -> Option<Time> {
        let look = self.look.then(|| self.looked_at + LOOK_SPACING);
        let look = if self.nack_at.is_some() { None } else { look.map(|at| at.max(self.hold_until)) };
        let look_at = if self.nack_at.is_some() { None } else { self.look_at.map(|at| at.max(self.hold_until)) };
        let report = self.report.as_ref().and_then(|r| r.at);
        [self.nack_at, look, look_at, report, self.alive_at].into_iter().flatten().min()
    }
}

/// Any moment of the next `spread`.
fn spread_over(rng: &mut StdRng, spread: Duration) -> Duration {
    spread.mul_f64(rng.random_range(0.0..1.0))
}

/// What is short now.
#[derive(Debug, Default)]
struct Needs {
    ids: Vec<ObjectId>,
    short: Vec<ShortObject>,
    missing: RangeSet,
    look_again: Option<Time>,
}

impl Needs {
    fn is_empty(&self) -> bool {
        self.ids.is_empty() && self.short.is_empty() && self.missing.is_empty()
    }

    fn again(&mut self, at: Option<Time>) {
        self.look_again = match (self.look_again, at) {
            (Some(a), Some(b)) => Some(a.min(b)),
            (a, b) => a.or(b),
        };
    }
}

impl ReceiverEngine {
    /// Advances the cycle.
    pub(super) fn nack(&mut self, now: Time) {
        self.send_report(now);
        let Some((_, session)) = self.sessions.chosen() else { return };
        if self.leaving {
            return;
        }
        let advertisement = &session.advertisement;
        let wait = match advertisement.state {
            SenderState::Active | SenderState::Draining => None,
            SenderState::Standby => self.sessions.choice.standby_from(now, &self.sessions),
            SenderState::Starting | SenderState::Paused => Some(Time::NEVER),
        };
        let is_stopped = self.keeping.is_stopped();
        if wait.is_some() || is_stopped {
            self.cycle.look_at = wait.filter(|at| *at < Time::NEVER && !is_stopped);
            self.cycle.look = false;
            self.cycle.nack_at = None;
            return;
        }
        let (window, size, grtt) = (advertisement.nack_window, advertisement.group_size, advertisement.grtt);
        let (window, size) = if advertisement.state == SenderState::Active {
            self.cycle.crowd = (window, size);
            (window, size)
        } else {
            (window.max(self.cycle.crowd.0), size.max(self.cycle.crowd.1))
        };
        match self.cycle.nack_at {
            Some(at) if now >= at => {
                self.cycle.nack_at = None;
                self.ask(now, window, grtt);
            }
            Some(_) => {}
            None => {
                let due = self.cycle.look && now >= self.cycle.looked_at + LOOK_SPACING
                    || self.cycle.look_at.is_some_and(|at| now >= at);
                if due && now >= self.cycle.hold_until {
                    let needs = self.needs(now);
                    self.cycle.looked_at = now;
                    self.cycle.look = false;
                    self.cycle.look_at = needs.look_again;
                    if !needs.is_empty() {
                        self.cycle.nack_at = Some(now + backoff::draw(&mut self.rng, window, size));
                    }
                }
            }
        }
    }

    /// What is short, not covered by a promise, and was not asked lately.
    fn needs(&mut self, now: Time) -> Needs {
        let mut needs = Needs::default();
        let Some((_, session)) = self.sessions.chosen() else { return needs };
        let advertisement = &session.advertisement;
        let patience = (advertisement.interval * 3).min(STALL_MAX).max(advertisement.nack_window * 2);
        // Nothing comes unasked from who stands by, though it may not have sent what is new.
        let stands_by = advertisement.state == SenderState::Standby;
        let manifest_sent = advertisement.manifest_sent || stands_by;
        let cursor = if stands_by { u32::MAX } else { advertisement.first_pass_cursor };
        let since = advertisement.first_pass_since;
        let mut blocks_left = BLOCKS_PER_CYCLE;
        let with_unknown = self.pull.when == PullWhen::Unknown;
        for (id, reception) in &mut self.receptions {
            if reception.is_done() || self.cycle.refused.get(id).is_some_and(|until| now < *until) {
                continue;
            }
            if self.cycle.is_permitted(*id, with_unknown) && reception.is_being_pulled(now) {
                continue;
            }
            if reception.class == Class::Manifest && !manifest_sent {
                continue;
            }
            reception.on_stall(now, patience);
            needs.again(reception.stalls_at(patience));
            if reception.is_untouched() && reception.class == Class::Manifest {
                // Asked by id: its parts have no place in a table that we hold.
                let (short, again) = reception.short_blocks(now);
                needs.again(again);
                if !short.is_empty() || (reception.pass_over && again.is_none()) {
                    needs.ids.push(*id);
                }
                continue;
            }
            let (mut short, again) = reception.short_blocks(now);
            needs.again(again);
            short.truncate(blocks_left);
            blocks_left -= short.len();
            if !short.is_empty() && needs.short.len() < SHORT_MAX * 4 {
                needs.short.push(ShortObject { object: *id, blocks: short });
            }
        }
        let Some(held) = &self.held else { return needs };
        self.cycle.quiet_missing.retain(|_, until| *until > now);
        needs.missing = self.missing.clone();
        for quiet in self.cycle.quiet_missing.keys() {
            needs.missing.remove(*quiet..*quiet + 1);
        }
        let missing_quiet = |(index, _): &(&u32, &Time)| self.missing.contains(**index);
        needs.again(self.cycle.quiet_missing.iter().filter(missing_quiet).map(|(_, until)| *until).min());
        // What is still to come in the first pass is not asked.
        if since <= held.oldest {
            needs.missing.remove(cursor..u32::MAX);
        } else {
            let ahead = needs.missing.iter().skip_while(|index| *index < cursor);
            let is_new = |index: &u32| held.manifest.object(ObjectIndex(*index)).is_some_and(|o| o.since >= since);
            for range in ahead.filter(is_new).collect::<RangeSet>().ranges() {
                needs.missing.remove(range);
            }
        }
        // A sender with another manifest knows other places in its table: it is asked by id.
        if advertisement.manifest.is_none_or(|reference| reference.hash != held.hash) {
            let ids = needs.missing.iter().take(self.config.nack_budget * IDS_MAX);
            needs.ids.extend(ids.filter_map(|index| held.manifest.object(ObjectIndex(index))).map(|o| o.id));
            needs.missing = RangeSet::new();
        }
        needs
    }

    /// Sends what is short, within the budget. What was asked is not asked again before an answer can be here.
    fn ask(&mut self, now: Time, window: Duration, grtt: Duration) {
        let mut needs = self.needs(now);
        if !needs.is_empty() {
            let before = self.sessions.chosen().map(|(id, _)| id);
            if self.sessions.turn(now, self.config.nack_retry) {
                self.events.push_back(Event::NoSenderAnswers);
            }
            if self.sessions.chosen().map(|(id, _)| id) != before {
                // Another sender, of which other things are to be asked.
                self.cycle.quiet_missing.clear();
                needs = self.needs(now);
            }
        }
        let Needs { mut ids, mut short, mut missing, look_again } = needs;
        self.cycle.look_at = look_again;
        self.cycle.looked_at = now;
        let Some(base) = self.nack_base(now) else { return };
        let quiet = now + self.config.nack_retry.max(window).max(grtt);
        self.cycle.hold_until = if planted(Mutation::WindowIgnored) { now } else { now + window };
        let mut asked = RangeSet::new();
        for _ in 0..self.config.nack_budget {
            if ids.is_empty() && short.is_empty() && missing.is_empty() {
                break;
            }
            let nack = base.1.clone().fill(&mut ids, &mut short, &mut missing);
            let mut named = nack.missing.clone();
            for id in &nack.missing_ids {
                if let Some(reception) = self.receptions.get_mut(id) {
                    reception.on_asked(0..reception.layout.block_count(), quiet);
                } else if let Some(index) = self.index_of(*id) {
                    named.insert(index.0..index.0 + 1);
                }
            }
            for object in &nack.short {
                if let Some(reception) = self.receptions.get_mut(&object.object) {
                    reception.on_asked(object.blocks.iter().map(|(block, _)| *block), quiet);
                }
            }
            asked.union(&named);
            self.counters.nacks += 1;
            self.counters.nack_bytes += nack.encode().len() as u64;
            let ids = nack.missing_ids.iter().copied().chain(nack.short.iter().map(|short| short.object)).collect();
            let asked = Asked { at: now, session: nack.session, missing: named, ids, report: false };
            let packet = self.cycle.sent(asked);
            self.transmits.push_back(Transmit { to: base.0, packet, nack });
        }
        for index in asked.iter() {
            self.cycle.quiet_missing.insert(index, quiet);
        }
        // What did not fit, and what was asked if no answer comes, is looked at again.
        self.cycle.look = true;
    }

    fn nack_base(&mut self, now: Time) -> Option<(std::net::SocketAddr, Nack)> {
        self.cycle.nonce = self.rng.random::<u64>() | 1;
        self.nack_with(now, self.cycle.nonce)
    }

    /// Without demands; `nonce` is left out where the sender is known to live.
    pub(super) fn nack_with(&mut self, now: Time, nonce: u64) -> Option<(std::net::SocketAddr, Nack)> {
        let (_, session) = self.sessions.chosen()?;
        let advertisement = &session.advertisement;
        let wanted_bytes = self.held.as_ref().map_or(0, |h| h.wanted_bytes - h.installed_bytes);
        let here: u64 =
            self.receptions.values().filter(|r| r.class != Class::Manifest).map(Reception::bytes_done).sum();
        self.cycle.said_at = now;
        if let Some(at) = &mut self.cycle.alive_at {
            // Any NACK says that we are here.
            *at = (*at).max(now + ALIVE);
        }
        let nack = Nack {
            channel: self.config.channel,
            session: advertisement.session,
            sequence: advertisement.sequence,
            time: advertisement.time,
            hold: now.since(session.heard_at),
            manifest: self.held.as_ref().map_or(0, |h| h.hash.prefix()),
            generation: self.acquisition.held().map(|(generation, _)| generation).unwrap_or_default(),
            loss_ppm: session.loss_ppm(),
            primary_age: self.sessions.primary_age(now),
            nonce: if session.confirmed { 0 } else { nonce },
            heard: session.heard_to(),
            objects_missing: self.missing.count() + self.receptions.len() as u64,
            bytes_missing: wanted_bytes.saturating_sub(here),
            complete: self.complete,
            leaves: self.leaves(),
            ..Nack::default()
        };
        Some((std::net::SocketAddr::new(session.from.ip(), advertisement.nack_port), nack))
    }

    fn send_report(&mut self, now: Time) {
        let Some((_, session)) = self.sessions.chosen() else { return };
        let (size, answer) = (session.advertisement.group_size, session.advertisement.grtt * 3);
        let spread = report_spread(size, session.advertisement.rate_bps);
        // Until it answered us, the sender may not know how large the group is.
        let spread = if session.confirmed { spread } else { spread.max(GREETING) };
        // Whoever ends does not wait: nodes end one by one, or one for each report that they spread.
        let spread = if self.leaving { Duration::ZERO } else { spread };
        let most = if self.complete { ALIVE_WHOLE } else { ALIVE };
        let every = most.max(Duration::from_secs(1) * (size / ALIVE_PER_SECOND));
        match self.cycle.alive_at {
            // Soon, if the dataset no longer is whole.
            Some(at) if now < at => self.cycle.alive_at = Some(at.min(now + every + spread)),
            at => {
                let mut again = at.map_or(now, |_| self.cycle.said_at) + every;
                if now >= again {
                    again = now + every;
                    if self.cycle.report.is_none() {
                        self.cycle.report();
                    }
                }
                self.cycle.alive_at = Some(again + spread_over(&mut self.rng, spread));
            }
        }
        let Some(report) = &mut self.cycle.report else { return };
        match report.at {
            None => report.at = Some(now + spread_over(&mut self.rng, spread)),
            Some(at) if now >= at => {
                report.at = Some(now + report.retry.max(answer) + spread_over(&mut self.rng, spread));
                report.retry = (report.retry * 2).min(REPORT_RETRY_MAX);
                if let Some((to, nack)) = self.nack_base(now) {
                    self.counters.nacks += 1;
                    let (missing, ids) = (RangeSet::new(), Vec::new());
                    let asked = Asked { at: now, session: nack.session, missing, ids, report: true };
                    let packet = self.cycle.sent(asked);
                    if let Some(report) = &mut self.cycle.report {
                        report.sent.get_or_insert(packet);
                    }
                    self.transmits.push_back(Transmit { to, packet, nack });
                }
            }
            Some(_) => {}
        }
    }
}
