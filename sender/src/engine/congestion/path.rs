//! The way to one receiver, as it tells of it: what is lost, how long packets wait, how fast they arrive.
//!
//! - A reading counts all packets that came so far, so one that is lost is made up for by the next.
//! - Delay is told by averages (mean arrival, mean packet number), which a jitter of single packets hardly moves. Its
//!   clock's offset does not matter: what counts is the delay above the least of the last seconds.
//! - Loss without a queue is the way's own: it is learned, and only more than chance explains is an excess.

use std::time::Duration;

use nackcast_common::clock::Time;
use nackcast_proto::wire::Reading;

use super::sent::SentLog;

/// The least delay is of the last two such spans: clocks drift.
const SPAN: Duration = Duration::from_secs(5);
/// A queue that is there: above the least delay so much, in microseconds.
const QUEUE: f64 = 1_500.0;
/// A queue that stands, at two verdicts in a row.
const STANDING: f64 = 3_000.0;
/// On a slow link a few packets take longer than that: so many are a queue, and one that stands.
const QUEUED: (f64, f64) = (4.0, 8.0);
/// So much is too much although nothing is lost; and so many round-trip times.
const HIGH: f64 = 30_000.0;
/// What is learned of loss fades over so many packets.
const MEMORY: f64 = 20_000.0;
/// So many excesses without a queue are none.
const EXCESSES: u32 = 3;
/// With so many packets a way's own loss is known.
const KNOWN: f64 = 300.0;
/// Verdicts need so many packets.
const LEAST: u64 = 8;
/// As many standard deviations are no chance any more.
const SIGMAS: f64 = 5.0;
const QUEUE_SIGMAS: f64 = 5.0;
/// Beside others less is left to chance: they heed each loss. Of many receivers one is always unlucky.
const SHARED_SIGMAS: f64 = 3.0;

/// What a receiver saw of one round, or of several that it told of together.
#[derive(Clone, Copy, Debug)]
pub(super) struct Verdict {
    /// The first and the last of them.
    pub(super) first: u64,
    pub(super) last: u64,
    packets: f64,
    lost: f64,
    /// Loss that is the way's own, as a share; and the most that chance makes of it.
    pub(super) usual: f64,
    chance: f64,
    /// Mean time in queues, microseconds.
    queue: f64,
    rtt: f64,
    /// Between two packets, microseconds.
    spacing: f64,
    stood: u32,
    /// Others use the way, too, and its own loss is known: so many standard deviations are no chance.
    shared: Option<f64>,
    /// Packets a second that arrived.
    pub(super) delivered: f64,
}

impl Verdict {
    /// More was lost than chance explains.
    ///
    /// Where packets wait for each other, little is left to chance.
    pub(super) fn is_excess(&self) -> bool {
        let usual = self.packets * self.usual;
        self.lost
            > if let Some(sigmas) = self.shared {
                usual + sigmas * usual.sqrt() + 1.0
            } else if self.queue >= QUEUE.max(QUEUED.0 * self.spacing) {
                usual + QUEUE_SIGMAS * usual.sqrt()
            } else {
                self.chance
            }
    }

    /// The same while little is known of the way: nobody loses so much without a reason.
    pub(super) fn is_crowded(&self) -> bool {
        self.is_excess() && is_much(self.lost, self.packets)
    }

    /// What may be sent so that it arrives, but for what the way itself loses: in bits a second, for packets of so many.
    pub(super) fn carried(&self, packet_bits: f64) -> f64 {
        self.delivered * packet_bits / (1.0 - self.usual)
    }

    pub(super) fn stands(&self) -> bool {
        self.stood >= 2
    }

    pub(super) fn stands_high(&self) -> bool {
        self.queue > HIGH.max(self.rtt) && self.packets >= 24.0
    }
}

/// Nobody loses so much without a reason, while nothing else is known.
fn is_much(lost: f64, packets: f64) -> bool {
    lost > packets * 0.04 + 2.0
}

/// The least of the last one to two spans.
#[derive(Debug)]
struct Least {
    now: f64,
    before: f64,
    since: Time,
}

impl Least {
    const fn new() -> Self {
        Self { now: f64::INFINITY, before: f64::INFINITY, since: Time::ZERO }
    }

    fn add(&mut self, now: Time, value: f64) -> f64 {
        if now.since(self.since) >= SPAN {
            (self.before, self.now, self.since) = (self.now, f64::INFINITY, now);
        }
        self.now = self.now.min(value);
        self.get()
    }

    const fn get(&self) -> f64 {
        self.now.min(self.before)
    }
}

#[derive(Debug)]
pub(super) struct Path {
    pub(super) heard_at: Time,
    pub(super) loss_ppm: u32,
    /// The round that is being looked at: all before it were told of.
    pub(super) round: u64,
    /// As it told last: below which number it counts, and how many came.
    last: Option<(u64, u64)>,
    /// Of this round so far: packets, those that were lost, and the sum of their delays.
    packets: u64,
    lost: i64,
    delays: f64,
    delayed: f64,
    /// The reading before: when its packets came, how many; and how many came since, up to the last reading's mean.
    began: Option<f64>,
    since: f64,
    /// Lost and sent packets of rounds without a queue, fading.
    own: (f64, f64),
    /// Who competes learns nothing of loss: it may be another's.
    pub(super) learns: bool,
    /// How many receivers are listened to, this one with them.
    pub(super) readers: usize,
    /// Verdicts in a row in which too much was lost without a queue.
    excesses: u32,
    /// Verdicts in a row in which a queue stood.
    stood: u32,
    delay: Least,
    rtt: Least,
}

impl Path {
    pub(super) const fn new(round: u64) -> Self {
        Self {
            heard_at: Time::ZERO,
            loss_ppm: 0,
            round,
            last: None,
            packets: 0,
            lost: 0,
            delays: 0.0,
            delayed: 0.0,
            began: None,
            since: 0.0,
            own: (0.0, 0.0),
            learns: true,
            readers: 1,
            excesses: 0,
            stood: 0,
            delay: Least::new(),
            rtt: Least::new(),
        }
    }

    pub(super) fn rtt(&self) -> Option<Duration> {
        let least = self.rtt.get();
        least.is_finite().then(|| Duration::from_secs_f64((least / 1e6).clamp(0.0, 10.0)))
    }

    /// A verdict when a round is through.
    pub(super) fn on_reading(
        &mut self,
        now: Time,
        heard: u64,
        reading: &Reading,
        sent: &SentLog,
        round_of: impl Fn(u64) -> u64,
    ) -> Option<Verdict> {
        self.heard_at = now;
        let up_to = reading.up_to.min(heard);
        let Some((before, received)) = self.last else {
            // The first reading of a receiver counts from the first packet that it heard, which it tells with the next.
            if up_to > 0 {
                self.last = Some((up_to, reading.received));
                self.round = round_of(up_to - 1);
            }
            return None;
        };
        // They may overtake each other on the way.
        if up_to <= before || reading.received < received {
            return None;
        }
        self.last = Some((up_to, reading.received));
        let (span, came) = (up_to - before, reading.count);
        self.packets += span;
        let came_below = i64::try_from(reading.received - received).unwrap_or(i64::MAX);
        self.lost = self.lost.saturating_add(span.cast_signed().saturating_sub(came_below));
        let number = reading.number as f64 / 16.0;
        let mut speed = None;
        if came == 0 || reading.number == 0 || up_to == heard {
            // Nothing new is told of delay.
        } else if let Some((mean, spacing)) = sent.mean(up_to..heard) {
            let arrival = reading.arrival as f64;
            // Those that were lost are not in the receiver's mean.
            let sent_at = mean + (number - (up_to + heard - 1) as f64 / 2.0) * spacing;
            self.delays += (arrival - sent_at) * came as f64;
            self.delayed += came as f64;
            // From the middle of one reading's packets to the middle of another's.
            let half = came as f64 / 2.0;
            if let Some(from) = self.began {
                if arrival > from {
                    speed = Some((self.since + half) / (arrival - from) * 1e6);
                }
                self.since += half * 2.0;
            } else {
                (self.began, self.since) = (Some(arrival), half);
            }
        } else {
            // While the sender pauses nothing arrives.
            (self.began, self.since) = (None, 0.0);
        }
        if let Some(sent_at) = sent.sent_at(heard.saturating_sub(1) as f64) {
            self.rtt.add(now, (now.0 as f64 - sent_at).max(0.0));
        }
        let round = round_of(up_to - 1);
        if round <= self.round || self.packets < LEAST {
            return None;
        }
        let verdict = self.verdict(now, (self.round, round), speed);
        self.round = round;
        (self.packets, self.lost, self.delays, self.delayed) = (0, 0, 0.0, 0.0);
        (self.began, self.since) =
            (self.began.and(Some(reading.arrival as f64)).filter(|_| came > 0), came as f64 / 2.0);
        Some(verdict)
    }

    fn verdict(&mut self, now: Time, (first, last): (u64, u64), speed: Option<f64>) -> Verdict {
        let (packets, lost) = (self.packets as f64, self.lost.max(0) as f64);
        let queue = if self.delayed > 0.0 {
            let mean = self.delays / self.delayed;
            mean - self.delay.add(now, mean)
        } else {
            0.0
        };
        let delivered = speed.unwrap_or(0.0);
        let spacing = if delivered > 0.0 { 1e6 / delivered } else { 0.0 };
        let stands = queue > STANDING.max(QUEUED.1 * spacing) && packets >= 24.0;
        let (own_lost, own_sent) = self.own;
        // The most that it may be, after what was seen.
        let most = ((own_lost + 2.0 * (own_lost + 1.0).sqrt() + 1.0) / (own_sent + 20.0)).min(0.5);
        let chance = packets * most + SIGMAS * (packets * most).sqrt() + 1.0;
        let usual = own_lost / own_sent.max(100.0);
        // Of a new way nothing is known of its delay either: a queue may have stood from the beginning.
        let is_much = lost > chance || (own_sent < KNOWN && is_much(lost, packets));
        self.excesses = if queue < QUEUE && is_much { self.excesses + 1 } else { 0 };
        // What is lost without a queue again and again is the way's own.
        if self.learns && !stands && (!is_much || self.excesses > EXCESSES) {
            let fades = (1.0 - packets / MEMORY).max(0.0);
            self.own = (own_lost * fades + lost, own_sent * fades + packets);
        }
        self.stood = if stands { self.stood + 1 } else { 0 };
        Verdict {
            spacing,
            shared: (!self.learns && own_sent >= KNOWN)
                .then(|| (SHARED_SIGMAS.powi(2) + 2.0 * (self.readers.max(1) as f64).ln()).sqrt()),
            stood: self.stood,
            first,
            last,
            packets,
            lost,
            usual: usual.min(0.5),
            chance,
            queue,
            rtt: Some(self.rtt.get()).filter(|rtt| rtt.is_finite()).unwrap_or(0.0),
            delivered,
        }
    }
}
