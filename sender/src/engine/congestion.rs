//! Congestion control of `--rate auto`: as fast as the way to the slowest receiver carries, and fair to others on it.
//!
//! Receivers tell what came and when ([`path`]); packets are sent in rounds of about a round-trip time, each at one
//! rate, and each receiver gives a verdict on each round. The course:
//!
//! | course | on | to |
//! |---|---|---|
//! | startup | a round was clean at everybody | startup, twice the rate |
//! | startup | an overflow: too much was lost, or a queue stood | settle, at the rate before |
//! | settle | the overflow's rounds are all told of | hold, a little below what arrived of them |
//! | hold | it held for [`PROBE`] | probe |
//! | probe | its round was clean at everybody | probe again, a larger step above the new rate |
//! | probe | an overflow in its round | hold, at the rate before |
//! | hold | an overflow that no probe explains: somebody else is on the way | compete |
//! | compete | an overflow | compete; after a few, hold (if nobody else is left, it stays there) |
//!
//! - Hold keeps a link that is ours busy without a standing queue: loss that comes without congestion does not slow
//!   it. Each path learns how much that is; only more than chance explains is an overflow.
//! - Compete is CUBIC (RFC 9438) in rates: it gives way as TCP does, and takes its share back.
//! - One overflow is answered once: verdicts on rounds that began before the answer say nothing new.
//! - Without verdicts the rate halves every [`SILENCE`], down to where it began (RFC 4654, section 4.4, in spirit).
//! - Everything is bounded: readers, rounds, and what is remembered of sent packets.

mod path;
mod sent;

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use nackcast_common::clock::Time;
use nackcast_common::ids::RunId;
use nackcast_common::units::BitRate;
use nackcast_proto::wire::Reading;

use path::{Path, Verdict};
use sent::SentLog;

/// Receivers that are listened to at most: in a larger group those who lose most.
pub(super) const READERS_MAX: usize = 64;
/// Rounds that verdicts may still speak of.
const ROUNDS_MAX: usize = 256;
/// Where a sender begins that knows nothing.
const BEGIN: u64 = 4_000_000;
/// A round lasts a round-trip time, but no less than this, nor fewer packets.
const ROUND_MIN: Duration = Duration::from_millis(40);
const ROUND_PACKETS: f64 = 32.0;
pub(super) const ROUND_MAX: Duration = Duration::from_secs(1);
/// How far below what arrived a held rate is.
const BELOW: f64 = 0.96;
/// Between probes: at first, and after many that found nothing.
const PROBE: (Duration, Duration) = (Duration::from_millis(700), Duration::from_secs(6));
/// After competition.
const SHY: Duration = Duration::from_secs(3);
/// First and largest step of a probe.
const STEP: (f64, f64) = (0.06, 0.5);
/// Rounds of a probe, beside the first; and so much of a step must arrive.
const PROBED: u64 = 2;
const PASSES: f64 = 0.6;
/// A probe counts when so much of its rate was sent.
const NEARLY: f64 = 0.9;
/// Of what arrived of a probe so much is taken: it may have filled a queue.
const TAKEN: f64 = 0.98;
/// CUBIC's constants (RFC 9438, sections 4.1 and 4.6).
const CUBIC_C: f64 = 0.4;
const CUBIC_BETA: f64 = 0.7;
/// A receiver that tells nothing for so long is not waited for.
const SILENCE: Duration = Duration::from_secs(2);
/// Overflows in competition before it is tried whether one is alone: doubled each time when one was not.
const TRIALS: (u32, u32) = (2, 8);
/// One verdict is not believed to say that less than this part arrives.
const LEAST_KEPT: f64 = 0.85;
/// A second overflow of a hold within so long is no mistake of ours.
const STRIKES: Duration = Duration::from_secs(8);
/// Who competes does not run ahead of what arrives by more than this part...
const AHEAD: f64 = 1.15;
/// ...of the last so many rounds.
const LATELY: u32 = 4;
/// A hold that lasted so long was no mistake.
const HELD: Duration = Duration::from_secs(30);

/// Between which rates, and for whom, it decides.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RateBounds {
    /// Never slower.
    pub floor: BitRate,
    /// Never faster.
    pub ceiling: BitRate,
    /// One tenth of the receivers, at least one, may be left behind.
    pub leave_slow: bool,
}

impl Default for RateBounds {
    /// From 64 kbit/s to 100 Gbit/s, for everybody.
    fn default() -> Self {
        Self { floor: BitRate(64_000), ceiling: BitRate(100_000_000_000), leave_slow: false }
    }
}

/// Packets that were sent at one rate.
#[derive(Debug)]
struct Round {
    first: u64,
    began: Time,
    /// The sender had enough to send.
    is_full: bool,
    /// How many called it an overflow.
    complaints: usize,
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Course {
    /// Until the verdicts on this round.
    Startup {
        round: u64,
    },
    /// `arrived`: what arrived of the overflow's rounds, as the mean of so many verdicts.
    Settle {
        arrived: f64,
        verdicts: f64,
    },
    Hold {
        since: Time,
        probe_at: Time,
    },
    /// `base`: the rate before, of which the step was taken. `carried`: what arrived, as the mean of so many verdicts.
    Probe {
        round: u64,
        base: f64,
        step: f64,
        carried: f64,
        verdicts: f64,
    },
    Compete {
        since: Time,
        most: f64,
    },
}

/// The controller of one sender.
#[derive(Debug)]
pub(super) struct Congestion {
    bounds: RateBounds,
    /// Bits a second, all headers above Ethernet counted.
    rate: f64,
    course: Course,
    /// The last ones; the newest is under way.
    rounds: VecDeque<Round>,
    next_round: u64,
    /// Verdicts on earlier rounds are old news.
    deaf_to: u64,
    /// The rate changed: a round begins with the next packet.
    is_cut: bool,
    probe_every: Duration,
    /// When a hold was found to be too fast, last.
    struck_at: Time,
    /// What arrives, lately, at the slowest.
    arrives: VecDeque<(Time, f64)>,
    /// Overflows to come before a hold is tried, and how many there are in a row.
    trial_in: u32,
    trials: u32,
    readers: BTreeMap<RunId, Path>,
    sent: SentLog,
    packet_bits: f64,
    heard_at: Time,
}

impl Congestion {
    pub(super) fn new(bounds: RateBounds) -> Self {
        let mut new = Self {
            bounds,
            rate: 0.0,
            course: Course::Startup { round: 0 },
            rounds: VecDeque::new(),
            next_round: 0,
            deaf_to: 0,
            is_cut: false,
            probe_every: PROBE.0,
            struck_at: Time::ZERO,
            arrives: VecDeque::new(),
            trial_in: TRIALS.0,
            trials: TRIALS.0,
            readers: BTreeMap::new(),
            sent: SentLog::default(),
            packet_bits: 1400.0 * 8.0,
            heard_at: Time::ZERO,
        };
        new.set_rate(BEGIN as f64);
        new
    }

    /// What may be sent now.
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "it lies within the bounds")]
    pub(super) const fn rate(&self) -> BitRate {
        BitRate(self.rate as u64)
    }

    /// Packet numbers begin anew.
    pub(super) fn reset(&mut self, now: Time) {
        self.rounds.clear();
        self.readers.clear();
        self.sent = SentLog::default();
        self.deaf_to = self.next_round;
        self.heard_at = now;
        self.course = match self.course {
            Course::Startup { .. } | Course::Settle { .. } => Course::Startup { round: self.next_round },
            Course::Probe { base, .. } => {
                self.set_rate(base);
                self.hold(now)
            }
            other => other,
        };
    }

    /// Readers, and how many there may be.
    pub(super) fn bound(&self) -> (usize, usize) {
        (self.readers.len(), READERS_MAX)
    }

    /// Packets from `first` on are sent now.
    pub(super) fn on_sent(&mut self, now: Time, first: u64, count: u64, packet_bits: u64) {
        self.packet_bits = packet_bits as f64;
        self.follow(now, first);
        self.sent.on_sent(now, first, count, self.packet_bits / self.rate * 1e6);
    }

    /// A receiver tells what came. True when the rate changed.
    pub(super) fn on_reading(
        &mut self,
        now: Time,
        run: RunId,
        (heard, reading): (u64, &Reading),
        loss_ppm: u32,
        sent: u64,
    ) -> bool {
        if heard > sent || self.rounds.is_empty() {
            return false;
        }
        if !self.readers.contains_key(&run) && !self.make_room(now, loss_ppm) {
            return false;
        }
        let before = self.rate;
        let (newest, front, readers) = (self.next_round - 1, self.front(), self.readers.len());
        let path = self.readers.entry(run).or_insert_with(|| Path::new(newest));
        path.loss_ppm = loss_ppm;
        path.learns = !matches!(self.course, Course::Compete { .. });
        path.readers = readers;
        self.heard_at = now;
        // A round ends where the next one begins: verdicts are on those that ended.
        let rounds = &self.rounds;
        let round_of = |packet: u64| {
            let after = rounds.partition_point(|round| round.first <= packet) as u64;
            front + after.saturating_sub(1)
        };
        if let Some(verdict) = path.on_reading(now, heard, reading, &self.sent, round_of) {
            self.judge(now, &verdict);
        }
        self.rate != before
    }

    /// A receiver is complete, or gone.
    pub(super) fn forget(&mut self, run: RunId) {
        self.readers.remove(&run);
    }

    /// In a full table who loses least makes room for who loses more.
    fn make_room(&mut self, now: Time, loss_ppm: u32) -> bool {
        self.readers.retain(|_, path| now.since(path.heard_at) < SILENCE * 5);
        if self.readers.len() < READERS_MAX {
            return true;
        }
        let least = self.readers.iter().min_by_key(|(run, path)| (path.loss_ppm, **run));
        let Some((run, _)) = least.filter(|(_, path)| path.loss_ppm < loss_ppm).map(|(run, path)| (*run, path)) else {
            return false;
        };
        self.readers.remove(&run);
        true
    }

    fn judge(&mut self, now: Time, verdict: &Verdict) {
        let front = self.front();
        if let Course::Settle { arrived, verdicts } = &mut self.course {
            if verdict.delivered > 0.0 && verdict.first < self.deaf_to {
                *verdicts += 1.0;
                *arrived += (verdict.carried(self.packet_bits) - *arrived) / *verdicts;
            }
            if verdict.first >= self.deaf_to {
                let carried = if *verdicts > 0.0 { *arrived } else { self.rate };
                // The rate that overflowed: a single measure is not believed to be far from it.
                let was = self.rate * 2.0;
                self.set_rate((carried * BELOW).clamp(was * 0.25, was));
                self.course = self.hold(now);
                (self.is_cut, self.deaf_to) = (true, self.next_round);
            }
            return;
        }
        if verdict.first < self.deaf_to || verdict.first < front {
            return;
        }
        let arrived = verdict.carried(self.packet_bits);
        let sent = self.sent_between(verdict.first, verdict.last);
        if let Course::Probe { round, base, step, carried, verdicts } = &mut self.course
            && (*round..=*round + PROBED).contains(&verdict.first)
            && verdict.last <= *round + PROBED
            && let Some(sent) = sent.filter(|sent| *sent > *base * (1.0 + *step) * NEARLY)
        {
            // A busy machine sends a little less than it may; and no more arrives than was sent, whatever one measure says.
            let arrived = (arrived / sent).min(1.0) * *base * (1.0 + *step);
            *verdicts += 1.0;
            *carried += (arrived - *carried) / *verdicts;
        }
        if verdict.delivered > 0.0 {
            self.arrives.push_back((now, arrived));
            if self.arrives.len() > ROUNDS_MAX {
                self.arrives.pop_front();
            }
        }
        let is_competing = matches!(self.course, Course::Compete { .. });
        let is_overflow = match self.course {
            // The rounds after it, at the same rate, tell what one alone does not.
            Course::Startup { round } => {
                verdict.is_crowded() || verdict.stands() || (verdict.first > round && verdict.is_excess())
            }
            _ => verdict.is_excess() || (!is_competing && verdict.stands_high()),
        };
        if !is_overflow {
            return;
        }
        let needed = 1 + if self.bounds.leave_slow { (self.readers.len() / 10).max(1) } else { 0 };
        let Some(round) = usize::try_from(verdict.last - front).ok().and_then(|at| self.rounds.get_mut(at)) else {
            return;
        };
        round.complaints += 1;
        if round.complaints >= needed.min(self.readers.len().max(1)) {
            self.overflow(now, verdict);
        }
    }

    fn overflow(&mut self, now: Time, verdict: &Verdict) {
        let carried = verdict.carried(self.packet_bits).min(self.rate);
        match self.course {
            Course::Startup { .. } | Course::Settle { .. } => {
                self.set_rate(self.rate / 2.0);
                // The rounds that follow overflowed as well, and show better what the way carries.
                self.course = Course::Settle { arrived: 0.0, verdicts: 0.0 };
            }
            Course::Probe { round, base, step, .. } if verdict.last >= round => {
                self.set_rate(base);
                let is_first = step <= STEP.0;
                self.probe_every = if is_first { (self.probe_every * 2).min(PROBE.1) } else { PROBE.0 };
                self.course = self.hold(now);
            }
            Course::Probe { base, .. } => {
                self.set_rate(base);
                self.compete(now);
            }
            Course::Hold { .. } if now.since(self.struck_at) > STRIKES => {
                self.struck_at = now;
                self.set_rate(carried.max(self.rate * LEAST_KEPT) * BELOW);
                self.course = self.hold(now);
            }
            Course::Hold { since, .. } => {
                self.trials = if now.since(since) < HELD { (self.trials * 2).min(TRIALS.1) } else { TRIALS.0 };
                self.trial_in = self.trials;
                self.probe_every = PROBE.0;
                self.compete(now);
            }
            Course::Compete { .. } => {
                self.trial_in = self.trial_in.saturating_sub(1);
                if self.trial_in == 0 {
                    self.set_rate(carried.max(self.rate * 0.5) * BELOW);
                    self.course = self.hold(now);
                } else {
                    self.compete(now);
                }
            }
        }
        (self.is_cut, self.deaf_to) = (true, self.next_round);
    }

    fn hold(&self, now: Time) -> Course {
        let every = if self.trials > TRIALS.0 { self.probe_every.max(SHY) } else { self.probe_every };
        Course::Hold { since: now, probe_at: now + every }
    }

    /// Gives way as CUBIC does, with room for others (fast convergence); who had all gives way to a half.
    fn compete(&mut self, now: Time) {
        let is_new = !matches!(self.course, Course::Compete { .. });
        let (less, most) = if is_new { (0.5, 0.75) } else { (CUBIC_BETA, f64::midpoint(1.0, CUBIC_BETA)) };
        let most = self.rate * most;
        self.set_rate(self.rate * less);
        self.course = Course::Compete { since: now, most };
    }

    /// Time passes: rounds end, and with them what was learned is used.
    fn follow(&mut self, now: Time, next_packet: u64) {
        let rtt = self.rtt();
        let long = self.packet_bits * ROUND_PACKETS / self.rate;
        let lasts = rtt.max(ROUND_MIN).max(Duration::from_secs_f64(long)).min(ROUND_MAX);
        if let Some(round) = self.rounds.back() {
            let age = now.since(round.began);
            if age > SILENCE {
                // Nothing was sent that could be told of.
                self.heard_at = now;
            }
            if age < lasts && !self.is_cut {
                return;
            }
            let could = self.rate * age.as_secs_f64() / self.packet_bits;
            let is_full = (next_packet - round.first.min(next_packet)) as f64 > could * 0.7;
            if let Some(round) = self.rounds.back_mut() {
                round.is_full = is_full;
            }
        }
        if self.rounds.len() == ROUNDS_MAX {
            self.rounds.pop_front();
        }
        self.is_cut = false;
        let newest = self.next_round;
        self.next_round += 1;
        self.rounds.push_back(Round { first: next_packet, began: now, is_full: true, complaints: 0 });
        if now.since(self.heard_at) > SILENCE && !self.readers.is_empty() {
            self.heard_at = now;
            self.set_rate((self.rate / 2.0).max((BEGIN as f64).min(self.rate)));
        }
        self.advance(now, newest, lasts);
    }

    fn advance(&mut self, now: Time, newest: u64, lasts: Duration) {
        match self.course {
            Course::Startup { round } if self.is_clean(now, round) => {
                self.set_rate(self.rate * 2.0);
                self.course = Course::Startup { round: newest };
            }
            // It had too little to send, or is forgotten: nothing is learned of it any more.
            Course::Startup { round } if round < newest && !self.is_full(round) => {
                self.course = Course::Startup { round: newest };
            }
            Course::Hold { since, probe_at } if now >= probe_at => {
                if now.since(since) >= HELD {
                    self.trials = TRIALS.0;
                }
                self.probe(self.rate, STEP.0);
            }
            Course::Probe { round, base, step, carried, .. } => {
                if self.is_clean(now, round + PROBED) && carried >= base * (1.0 + step * PASSES) {
                    let base = (base * (1.0 + step)).min(carried * TAKEN);
                    if self.trials > TRIALS.0 {
                        // Somebody else was here: what is free may be what it gave way for.
                        self.set_rate(base);
                        self.course = Course::Hold { since: now, probe_at: now + SHY };
                    } else {
                        self.probe(base, (step * 2.0).min(STEP.1));
                    }
                } else if !self.is_full(round) || self.is_clean(now, round + PROBED) {
                    self.set_rate(base);
                    self.probe_every = (self.probe_every * 2).min(PROBE.1);
                    self.course = self.hold(now);
                } else if newest > round + PROBED {
                    // Enough to see; the next wait for what was seen.
                    self.set_rate(base);
                }
            }
            Course::Compete { since, most } => {
                let most = cubic(now.since(since), most / self.packet_bits, self.rtt()).max(1.0) * self.packet_bits;
                self.arrives.retain(|(at, _)| now.since(*at) < lasts * LATELY);
                let arrives = self.arrives.iter().map(|(_, bits)| *bits).fold(0.0, f64::max);
                self.set_rate(if arrives > 0.0 { most.min(arrives * AHEAD) } else { most.min(self.rate) });
            }
            Course::Startup { .. } | Course::Settle { .. } | Course::Hold { .. } => {}
        }
    }

    fn probe(&mut self, base: f64, step: f64) {
        self.set_rate(base * (1.0 + step));
        self.is_cut = true;
        self.course = Course::Probe { round: self.next_round, base, step, carried: 0.0, verdicts: 0.0 };
    }

    /// Everybody who tells something has seen this round, and nobody complained (or it would be another course).
    fn is_clean(&self, now: Time, round: u64) -> bool {
        self.is_full(round)
            && !self.readers.is_empty()
            && self.readers.values().all(|path| path.round > round || now.since(path.heard_at) > SILENCE)
            && self.readers.values().any(|path| path.round > round)
    }

    /// The first round that is still known.
    fn front(&self) -> u64 {
        self.next_round - self.rounds.len() as u64
    }

    fn round(&self, round: u64) -> Option<&Round> {
        self.rounds.get(usize::try_from(round.checked_sub(self.front())?).ok()?)
    }

    fn is_full(&self, round: u64) -> bool {
        self.round(round).is_some_and(|round| round.is_full)
    }

    /// How fast was sent from one round's beginning to another's.
    fn sent_between(&self, first: u64, last: u64) -> Option<f64> {
        let (first, last) = (self.round(first)?, self.round(last)?);
        let bits = (last.first - first.first) as f64 * self.packet_bits;
        let seconds = last.began.since(first.began).as_secs_f64();
        (bits > 0.0 && seconds > 0.0).then(|| bits / seconds)
    }

    /// The longest of those that are listened to.
    pub(super) fn rtt(&self) -> Duration {
        self.readers.values().filter_map(Path::rtt).max().unwrap_or(Duration::from_millis(50))
    }

    fn set_rate(&mut self, rate: f64) {
        let (floor, ceiling) = (self.bounds.floor.0 as f64, self.bounds.ceiling.0 as f64);
        self.rate = rate.max(floor).min(ceiling.max(floor));
    }
}

/// Packets a second, `since` an overflow at `most` packets a second: RFC 9438's window over the round-trip time, or
/// Reno's where that is larger.
fn cubic(since: Duration, most: f64, rtt: Duration) -> f64 {
    let (t, rtt) = (since.as_secs_f64(), rtt.as_secs_f64().max(0.001));
    let w_max = most * rtt;
    let k = (w_max * (1.0 - CUBIC_BETA) / CUBIC_C).cbrt();
    let cubic = CUBIC_C * (t - k).powi(3) + w_max;
    let alpha = 3.0 * (1.0 - CUBIC_BETA) / (1.0 + CUBIC_BETA);
    let reno = w_max * CUBIC_BETA + alpha * t / rtt;
    cubic.max(reno) / rtt
}

#[cfg(test)]
mod tests;
