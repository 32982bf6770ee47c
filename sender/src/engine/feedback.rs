//! What NACKs tell about the group: round-trip time, size, and how far receivers must spread their NACKs.
//!
//! - GRTT rises fast and falls slowly (RFC 5740, section 5.5.3): it at most doubles and at most halves in a window.
//!   More is not believed at once, since an echo is only as honest as its receiver. Silence halves it each second.
//! - The NACK window is at least 6 GRTT (RFC 5401: receivers that cannot hear each other), but in a small group less,
//!   since there is little to suppress. It grows while NACKs take more than their share of the rate. Reports do not
//!   count: receivers spread them by the group's size.
//! - Windows end with time, whether NACKs come or not.
//! - What is kept about single receivers is bounded: of a group larger than [`RECEIVERS_MAX`] a sample of known
//!   share, chosen by run id, from which sizes are scaled up, and the worst.

mod rows;

use std::net::SocketAddr;
use std::time::Duration;

use nackcast_common::clock::{Time, micros};
use nackcast_common::ids::{Generation, RunId};
use nackcast_common::mutation::{Mutation, planted};
use nackcast_proto::wire::Nack;

use super::answers::ECHO_AGE_MAX;
use super::foresight::Loss;
use rows::Rows;

/// Before anything was measured.
const GRTT_START: Duration = Duration::from_millis(20);
/// Scheduling noise makes less than this meaningless.
const GRTT_MIN: Duration = Duration::from_millis(1);
/// No way takes longer; a busy machine may.
const GRTT_MAX: Duration = Duration::from_secs(2);
/// Without an echo GRTT halves after each such time, down to what it began with.
const GRTT_HALVES: Duration = Duration::from_secs(1);
/// RFC 5401's K for unicast feedback.
const WINDOW_GRTTS: u32 = 6;
/// For each receiver the window needs no more than this, whatever GRTT is: a few NACKs too many do no harm.
const WINDOW_RECEIVER: Duration = Duration::from_millis(50);
const WINDOW_MIN: Duration = Duration::from_millis(10);
const WINDOW_MAX: Duration = Duration::from_secs(4);
/// NACKs may take so many millionths of the rate before the window grows; below half of it shrinks again.
const SHARE_PPM: u64 = 6_000;
/// About what a NACK takes on the wire, in bits.
const NACK_BITS: u64 = 1_400;
/// NACKs a second that a slow sender reads too, and that are enough for a fast one.
const NACKS_PER_SECOND: (u64, u64) = (60, 3_000);
/// So many times more are a flood.
const FLOOD: u64 = 2;
/// A receiver's packet number does not jump further: one forged with its run must not make its own look old.
const AHEAD_MAX: u64 = 1 << 16;
/// Rows about single receivers.
pub(super) const RECEIVERS_MAX: usize = 4096;
/// A receiver that was not heard for so long has no row, if others need it.
const RECEIVER_FORGOTTEN: Duration = Duration::from_secs(3600);
/// Several of the times after which a receiver says that it is there: one that is silent for longer is not counted.
/// One that is whole speaks seldom.
const SILENT_MAX: Duration = Duration::from_secs(30);
const SILENT_MAX_WHOLE: Duration = Duration::from_secs(40 * 60);
/// In a large group receivers speak less often: so many a second, in all.
const SPEAK_PER_SECOND: u32 = 100;
/// Between two looks at who fell silent.
const RECOUNT_EVERY: Duration = Duration::from_secs(1);
/// An echo that is older than so many advertisement intervals (and a moment) says more about its receiver than about
/// the way.
const ECHO_INTERVALS: u32 = 8;
const ECHO_MIN: Duration = Duration::from_secs(2);

/// What is known of one receiver.
#[derive(Clone, Debug)]
pub(super) struct Row {
    pub(super) last_heard: Time,
    pub(super) address: SocketAddr,
    pub(super) loss_ppm: u32,
    /// Prefix of the hash of the manifest that it holds; 0: none.
    holds: u64,
    /// Prefix of the manifest hash that it reported complete.
    pub(super) complete: Option<u64>,
    /// Heard lately enough.
    counted: bool,
    /// Highest packet number and a bitmap of the 64 before: a NACK counts once.
    highest: u64,
    window: u64,
    pub(super) first_heard: Time,
    /// What it said last of its dataset.
    pub(super) generation: Generation,
    pub(super) objects_missing: u64,
    pub(super) bytes_missing: u64,
    /// It ended as it was told.
    pub(super) left: bool,
}

impl Row {
    /// Heard lately enough.
    pub(super) const fn is_counted(&self) -> bool {
        self.counted
    }
}

/// The group as its NACKs show it.
#[derive(Debug)]
pub(super) struct Feedback {
    grtt: Duration,
    peak: Duration,
    window: Duration,
    window_began: Time,
    nacks_in_window: u32,
    /// What GRTT may rise to in this window.
    ceiling: Duration,
    /// When GRTT was last measured, or halved for want of an echo.
    grtt_at: Time,
    receivers: Rows,
    /// Sum of the loss that they report, in millionths.
    loss_sum: u64,
    /// How many of them are counted, and when that was looked at.
    counted: u32,
    counted_at: Time,
    /// When a receiver was heard for the first time, last.
    last_new: Time,
    /// Since when more NACKs come than the window should let through.
    flooded_since: Option<Time>,
}

/// What a NACK says of its receiver.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Said {
    pub(super) loss_ppm: u32,
    pub(super) generation: Generation,
    pub(super) objects_missing: u64,
    pub(super) bytes_missing: u64,
    /// It ends as it was told, and is not missed.
    pub(super) leaves: bool,
}

impl Said {
    /// All that a NACK says.
    pub(super) const fn of(nack: &Nack) -> Self {
        let Nack { loss_ppm, generation, objects_missing, bytes_missing, leaves, .. } = *nack;
        Self { loss_ppm, generation, objects_missing, bytes_missing, leaves }
    }
}

/// What a NACK did to the table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Heard {
    /// A replay, or a duplicate.
    Again,
    /// From a receiver that was not in the table.
    First,
    /// From one that was.
    Known,
}

impl Feedback {
    pub(super) fn new() -> Self {
        Self {
            grtt: GRTT_START,
            peak: Duration::ZERO,
            window: Duration::from_millis(6 * 20),
            window_began: Time::ZERO,
            nacks_in_window: 0,
            ceiling: Duration::from_millis(2 * 20),
            grtt_at: Time::ZERO,
            receivers: Rows::new(),
            loss_sum: 0,
            counted: 0,
            counted_at: Time::ZERO,
            last_new: Time::ZERO,
            flooded_since: None,
        }
    }

    pub(super) const fn grtt(&self) -> Duration {
        self.grtt
    }

    pub(super) const fn window(&self) -> Duration {
        self.window
    }

    /// Rows about single receivers.
    pub(super) fn rows(&self) -> usize {
        self.receivers.len()
    }

    /// Receivers heard lately, about.
    pub(super) fn group_size(&self) -> u32 {
        self.scaled(self.counted)
    }

    /// So many rows stand for so many receivers.
    fn scaled(&self, rows: u32) -> u32 {
        u32::try_from(u64::from(rows) << self.receivers.level().min(32)).unwrap_or(u32::MAX)
    }

    /// By the loss that is reported, somebody's first report was probably lost.
    pub(super) fn is_one_unheard(&self) -> bool {
        let mean = self.loss_sum / (self.receivers.sample_len() as u64).max(1);
        u64::from(self.group_size()) * mean >= 500_000
    }

    /// When a receiver was heard for the first time, last.
    pub(super) const fn last_new(&self) -> Time {
        self.last_new
    }

    /// Of these, how many reported the manifest with this hash prefix complete.
    pub(super) fn complete(&self, manifest: u64) -> u32 {
        self.scaled(self.count(|row| row.counted && row.complete == Some(manifest)))
    }

    /// The same, whether they are still heard or not.
    pub(super) fn complete_ever(&self, manifest: u64) -> u32 {
        self.scaled(self.count(|row| row.complete == Some(manifest)))
    }

    fn count(&self, which: impl Fn(&Row) -> bool) -> u32 {
        u32::try_from(self.receivers.sample().filter(|row| which(row)).count()).unwrap_or(u32::MAX)
    }

    /// Looks who fell silent, now and then.
    pub(super) fn recount(&mut self, now: Time) {
        if now.since(self.counted_at) < RECOUNT_EVERY {
            return;
        }
        self.counted_at = now;
        let large = Duration::from_secs(3) * (self.group_size() / SPEAK_PER_SECOND);
        for row in self.receivers.values_mut() {
            let patience = if row.complete.is_some() { SILENT_MAX_WHOLE } else { SILENT_MAX };
            row.counted = now.since(row.last_heard) < patience.max(large);
        }
        // Who is gone would keep its place for ever: nothing makes it lack less.
        self.receivers.retain_worst(|row| now.since(row.last_heard) < RECEIVER_FORGOTTEN);
        self.counted = self.count(|row| row.counted);
    }

    /// A NACK arrived: notes its sender; says whether it was seen before.
    pub(super) fn on_nack(&mut self, now: Time, run: RunId, packet: u64, from: SocketAddr, said: Said) -> Heard {
        let is_sampled = self.receivers.is_sampled(run);
        let Some(row) = self.receivers.get_mut(run) else {
            let row = Row {
                last_heard: now,
                address: from,
                loss_ppm: said.loss_ppm,
                holds: 0,
                complete: None,
                counted: true,
                highest: packet,
                window: 0,
                first_heard: now,
                generation: said.generation,
                objects_missing: said.objects_missing,
                bytes_missing: said.bytes_missing,
                left: said.leaves,
            };
            self.receivers.insert(run, row);
            if !is_sampled {
                // Of those without a row nobody knows who is new.
                return Heard::Known;
            }
            self.last_new = now;
            self.loss_sum += u64::from(said.loss_ppm);
            self.counted += 1;
            self.bound(now);
            return Heard::First;
        };
        if now.since(row.last_heard) > ECHO_AGE_MAX {
            // Whatever counted before is stale by now. A forged number, or a way that was cut for long, must not
            // make a receiver unheard for ever.
            (row.highest, row.window) = (packet, 0);
        } else if packet > row.highest {
            let ahead = packet - row.highest;
            if ahead > AHEAD_MAX {
                return Heard::Again;
            }
            row.window = if ahead > 64 { 0 } else { (row.window << (ahead - 1) << 1) | (1 << (ahead - 1)) };
            row.highest = packet;
        } else {
            let behind = row.highest - packet;
            if behind == 0 || behind > 64 || row.window & (1 << (behind - 1)) != 0 {
                return Heard::Again;
            }
            row.window |= 1 << (behind - 1);
        }
        if is_sampled {
            self.loss_sum = self.loss_sum + u64::from(said.loss_ppm) - u64::from(row.loss_ppm);
            self.counted += u32::from(!row.counted);
        }
        (row.last_heard, row.address, row.loss_ppm) = (now, from, said.loss_ppm);
        (row.counted, row.left) = (true, said.leaves);
        (row.generation, row.objects_missing) = (said.generation, said.objects_missing);
        self.receivers.set_lack(run, said.bytes_missing);
        Heard::Known
    }

    /// Forgets the silent, then takes a smaller sample.
    fn bound(&mut self, now: Time) {
        if !self.receivers.bound(|row| now.since(row.last_heard) < RECEIVER_FORGOTTEN) {
            return;
        }
        self.loss_sum = self.receivers.sample().map(|row| u64::from(row.loss_ppm)).sum();
        self.counted = self.count(|row| row.counted);
    }

    /// Which manifest a receiver holds, and whether its dataset is whole; true when that is news.
    pub(super) fn on_report(&mut self, run: RunId, manifest: u64, complete: bool) -> bool {
        let Some(row) = self.receivers.get_mut(run) else { return false };
        let complete = complete.then_some(manifest);
        let news = complete.is_some() && row.complete != complete;
        (row.holds, row.complete) = (manifest, complete);
        news
    }

    /// All rows.
    pub(super) fn each(&self) -> impl Iterator<Item = (RunId, &Row)> {
        self.receivers.iter()
    }

    /// How many receivers are like this, about: those that have a row at least.
    pub(super) fn about(&self, which: impl Fn(&Row) -> bool) -> u64 {
        let rows = self.receivers.iter().filter(|(_, row)| which(row)).count() as u64;
        u64::from(self.scaled(self.count(which))).max(rows)
    }

    /// Since when more NACKs come than the window should let through.
    pub(super) const fn flooded_since(&self) -> Option<Time> {
        self.flooded_since
    }

    /// Mean loss of those that are heard, in millionths.
    pub(super) fn mean_loss(&self) -> u32 {
        let heard = || self.receivers.sample().filter(|row| row.counted);
        let sum: u64 = heard().map(|row| u64::from(row.loss_ppm)).sum();
        u32::try_from(sum / (heard().count() as u64).max(1)).unwrap_or(u32::MAX)
    }

    /// How many of those that are heard hold the manifest with this hash.
    pub(super) fn holding(&self, manifest: u64) -> u32 {
        self.scaled(self.count(|row| row.counted && row.holds == manifest))
    }

    /// Loss of those that hold the manifest with this hash.
    pub(super) fn loss_of_holders(&self, manifest: u64) -> Loss {
        let holders = || self.receivers.sample().filter(|row| row.counted && row.holds == manifest);
        let loss = || holders().map(|row| f64::from(row.loss_ppm) / 1e6);
        let count = holders().count().max(1) as f64;
        let mean = loss().sum::<f64>() / count;
        Loss { mean, variance: loss().map(|loss| (loss - mean).powi(2)).sum::<f64>() / count }
    }

    /// A round-trip time was measured, by an echo of an advertisement.
    pub(super) fn on_rtt(&mut self, now: Time, rtt: Duration, interval: Duration) {
        if rtt > (interval * ECHO_INTERVALS).max(ECHO_MIN) {
            return;
        }
        self.grtt_at = now;
        let rtt = rtt.clamp(GRTT_MIN, GRTT_MAX).min(self.ceiling);
        self.peak = self.peak.max(rtt);
        if rtt > self.grtt {
            self.grtt = self.grtt / 4 + rtt * 3 / 4;
        }
    }

    /// A NACK datagram that asks for something was read.
    pub(super) fn count_nack(&mut self) {
        self.nacks_in_window = self.nacks_in_window.saturating_add(1);
    }

    /// The window that this group needs.
    fn least_window(&self) -> Duration {
        (self.grtt * WINDOW_GRTTS).min(WINDOW_RECEIVER.saturating_mul(self.group_size())).max(WINDOW_MIN)
    }

    /// Time went on: GRTT falls without echoes, and the next window is set when this one is over. `rate` in bits a second.
    pub(super) fn follow(&mut self, now: Time, rate: u64) {
        let passed = now.since(self.window_began);
        let mut is_quiet = false;
        while self.grtt > GRTT_START && now.since(self.grtt_at) >= GRTT_HALVES {
            self.grtt = (self.grtt / 2).max(GRTT_START);
            self.grtt_at += GRTT_HALVES;
            self.peak = Duration::ZERO;
            is_quiet = true;
        }
        // In silence a window as long as GRTT was is not waited for.
        if passed < self.window && !is_quiet {
            return;
        }
        if self.peak > Duration::ZERO {
            self.grtt = self.peak.max(self.grtt / 2).clamp(GRTT_MIN, GRTT_MAX);
        }
        let least = self.least_window();
        let wanted = (rate / 1_000_000 * SHARE_PPM / NACK_BITS).clamp(NACKS_PER_SECOND.0, NACKS_PER_SECOND.1);
        let came = u64::from(self.nacks_in_window) * 1_000_000 / micros(passed).max(1);
        // The window adapts within a few of its lengths: more than this for long is not its fault.
        let since = self.flooded_since.unwrap_or(now);
        self.flooded_since = (came > wanted * FLOOD).then_some(since);
        if came > wanted {
            self.window = self.window * 3 / 2;
        } else if came < wanted / 2 && !planted(Mutation::WindowNeverReset) {
            self.window = self.window * 2 / 3;
        }
        self.window = self.window.clamp(least, WINDOW_MAX.max(least));
        self.peak = Duration::ZERO;
        self.ceiling = (self.grtt * 2).max(GRTT_START);
        self.nacks_in_window = 0;
        self.window_began = now;
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    fn nack(feedback: &mut Feedback, run: u64, packet: u64) -> Heard {
        feedback.on_nack(Time(1), RunId(run), packet, "127.0.0.1:1".parse().unwrap(), Said::default())
    }

    #[test]
    fn a_nack_counts_once_whatever_the_order() {
        let mut feedback = Feedback::new();
        assert_eq!(nack(&mut feedback, 1, 10), Heard::First);
        for (packet, heard) in [
            (10, Heard::Again),
            (12, Heard::Known),
            (11, Heard::Known),
            (11, Heard::Again),
            (12, Heard::Again),
            (300, Heard::Known),
            (299, Heard::Known),
            (10, Heard::Again),
            (300, Heard::Again),
            (364, Heard::Known),
            (300, Heard::Again),
            (301, Heard::Known),
        ] {
            assert_eq!(nack(&mut feedback, 1, packet), heard, "packet {packet}");
        }
    }

    #[test]
    fn a_receiver_is_heard_again_whatever_its_packet_numbers_seem_to_be() {
        let mut feedback = Feedback::new();
        let mut now = Time(1);
        let mut nack =
            |now, packet| feedback.on_nack(now, RunId(1), packet, "127.0.0.1:1".parse().unwrap(), Said::default());
        assert_eq!(nack(now, 10), Heard::First);
        // Somebody else who knows the run.
        assert_eq!(nack(now, 10 + AHEAD_MAX), Heard::Known);
        assert_eq!(nack(now, 11), Heard::Again);
        now += ECHO_AGE_MAX + Duration::from_micros(1);
        assert_eq!((nack(now, 12), nack(now, 12)), (Heard::Known, Heard::Again));
        // More of its NACKs were lost than a number may jump.
        now += ECHO_AGE_MAX + Duration::from_micros(1);
        assert_eq!(nack(now, 13 + 2 * AHEAD_MAX), Heard::Known);
    }

    #[test]
    fn a_large_group_is_sampled() {
        let mut feedback = Feedback::new();
        for run in 0..50_000 {
            nack(&mut feedback, run, 1);
            if run % 3 == 0 {
                feedback.on_report(RunId(run), 7, true);
            }
        }
        assert!(feedback.receivers.len() <= RECEIVERS_MAX);
        assert!((45_000..55_000).contains(&feedback.group_size()), "{}", feedback.group_size());
        assert!((14_000..19_500).contains(&feedback.complete(7)), "{}", feedback.complete(7));
    }

    #[test]
    fn the_worst_of_a_large_group_are_kept_whatever_the_sample_is() {
        let mut feedback = Feedback::new();
        let lack = |feedback: &mut Feedback, run: u64, packet: u64, bytes_missing: u64| {
            let said = Said { bytes_missing, ..Said::default() };
            feedback.on_nack(Time(1), RunId(run), packet, "127.0.0.1:1".parse().unwrap(), said)
        };
        // First everybody lacks everything; then nearly all have nearly everything.
        let lag = |run: u64| if run % 100 == 7 { 1_000_000 + run } else { run % 50 };
        for packet in 1..=2 {
            for run in 0..50_000 {
                lack(&mut feedback, run, packet, if packet == 1 { 2_000_000 } else { lag(run) });
                assert!(feedback.rows() <= RECEIVERS_MAX);
            }
        }
        let kept: BTreeSet<_> = feedback.each().map(|(run, _)| run.0).collect();
        let worst: Vec<_> = (0..50_000).filter(|run| lag(*run) >= 1_000_000).collect();
        assert!(worst.len() < rows::WORST_MAX && worst.iter().all(|run| kept.contains(run)), "500 lag");
        assert!((45_000..55_000).contains(&feedback.group_size()), "{}", feedback.group_size());
        let lagging = feedback.about(|row| row.bytes_missing >= 1_000_000);
        assert!((450..=1_000).contains(&lagging), "{lagging}");
        assert_eq!(lack(&mut feedback, 7, 2, 0), Heard::Again, "it has a row");
        // One that lacks nothing any more makes room, and one that nobody hears any more.
        let rows = feedback.rows();
        let unsampled = worst.iter().copied().find(|run| !feedback.receivers.is_sampled(RunId(*run))).unwrap();
        lack(&mut feedback, unsampled, 3, 0);
        assert_eq!(feedback.rows(), rows - 1);
        feedback.recount(Time(2) + RECEIVER_FORGOTTEN);
        assert_eq!(feedback.rows(), feedback.receivers.sample_len());
    }

    #[test]
    fn one_that_lags_in_a_large_group_is_counted() {
        let mut feedback = Feedback::new();
        (0..5_000).for_each(|run| assert_ne!(nack(&mut feedback, run, 1), Heard::Again));
        let alone = (5_000..).find(|run| !feedback.receivers.is_sampled(RunId(*run))).unwrap();
        let said = Said { bytes_missing: 1, ..Said::default() };
        feedback.on_nack(Time(1), RunId(alone), 1, "127.0.0.1:1".parse().unwrap(), said);
        assert_eq!(feedback.about(|row| row.bytes_missing > 0), 1);
    }

    #[test]
    fn in_a_large_group_that_loses_somebody_was_not_heard() {
        for (size, loss_ppm, is_one_unheard) in
            [(1, 50_000, false), (10, 50_000, true), (100, 1_000, false), (100, 10_000, true), (10_000, 0, false)]
        {
            let mut feedback = Feedback::new();
            for (run, packet) in (0..size).flat_map(|run| [(run, 1), (run, 2)]) {
                let said = Said { loss_ppm: if packet == 1 { 0 } else { loss_ppm }, ..Said::default() };
                feedback.on_nack(Time(1), RunId(run), packet, "127.0.0.1:1".parse().unwrap(), said);
            }
            assert_eq!(feedback.is_one_unheard(), is_one_unheard, "{size} receivers, {loss_ppm} ppm");
        }
    }

    const INTERVAL: Duration = Duration::from_millis(250);
    const RATE: u64 = 100_000_000;

    /// One NACK in each of so many windows, with this echo.
    fn windows(feedback: &mut Feedback, now: &mut Time, count: u32, rtt: Duration) {
        for _ in 0..count {
            *now += feedback.window() + Duration::from_millis(1);
            feedback.follow(*now, RATE);
            feedback.count_nack();
            feedback.on_rtt(*now, rtt, INTERVAL);
        }
    }

    fn group(size: u64) -> Feedback {
        let mut feedback = Feedback::new();
        for run in 0..size {
            nack(&mut feedback, run, 1);
        }
        feedback
    }

    /// An echo every 5 ms, for a minute.
    fn echoes(feedback: &mut Feedback, now: &mut Time, rtt: Duration, interval: Duration) {
        for _ in 0..12_000 {
            *now += Duration::from_millis(5);
            feedback.follow(*now, RATE);
            feedback.on_rtt(*now, rtt, interval);
        }
    }

    #[test]
    fn a_small_group_needs_no_long_window() {
        let slow = Duration::from_millis(1900);
        for (size, window) in [(0, 10), (1, 50), (12, 600), (300, 6 * 1900)] {
            let (mut feedback, mut now) = (group(size), Time(0));
            echoes(&mut feedback, &mut now, slow, INTERVAL);
            assert_eq!(feedback.window(), Duration::from_millis(window), "{size} receivers");
        }
        let (mut feedback, mut now) = (group(12), Time(0));
        windows(&mut feedback, &mut now, 20, Duration::from_millis(2));
        assert_eq!(feedback.window(), Duration::from_millis(12), "nor does it make a short one longer");
    }

    #[test]
    fn grtt_is_bounded_whatever_is_echoed() {
        let (mut feedback, mut now) = (group(1000), Time(0));
        echoes(&mut feedback, &mut now, Duration::from_secs(8), Duration::from_secs(1));
        assert_eq!((feedback.grtt(), feedback.window()), (GRTT_MAX, GRTT_MAX * WINDOW_GRTTS));
    }

    #[test]
    fn silence_halves_grtt_each_second_and_ends_windows() {
        let (mut feedback, mut now) = (group(1000), Time(0));
        echoes(&mut feedback, &mut now, Duration::from_millis(1600), INTERVAL);
        let before = feedback.grtt();
        feedback.follow(now + Duration::from_millis(999), RATE);
        assert_eq!(feedback.grtt(), before);
        now += Duration::from_secs(2);
        feedback.follow(now, RATE);
        assert_eq!(feedback.grtt(), before / 4);
        assert!(feedback.window() <= before * WINDOW_GRTTS * 2 / 3, "its window was closed: {:?}", feedback.window());
        for _ in 0..20 {
            now += Duration::from_secs(1);
            feedback.follow(now, RATE);
        }
        assert_eq!((feedback.grtt(), feedback.window()), (GRTT_START, GRTT_START * WINDOW_GRTTS));
    }

    #[test]
    fn the_window_follows_round_trip_time_and_load() {
        let (mut feedback, mut now) = (group(100), Time(0));
        windows(&mut feedback, &mut now, 20, Duration::from_millis(2));
        assert_eq!(feedback.window(), Duration::from_millis(12));
        windows(&mut feedback, &mut now, 10, Duration::from_millis(100));
        assert!(feedback.grtt() > Duration::from_millis(70));
        let before = feedback.window();
        for _ in 0..3 {
            (0..2000).for_each(|_| feedback.count_nack());
            now += feedback.window() + Duration::from_millis(1);
            feedback.follow(now, RATE);
        }
        assert!(feedback.window() >= before * 2);
        // Without any NACK it falls back to what the round-trip time asks.
        for _ in 0..20 {
            now += Duration::from_secs(5);
            feedback.follow(now, RATE);
        }
        assert!(feedback.window() <= feedback.grtt() * WINDOW_GRTTS + WINDOW_MIN);
    }

    #[test]
    fn one_receiver_with_old_echoes_raises_grtt_little() {
        let (mut feedback, mut now) = (Feedback::new(), Time(0));
        windows(&mut feedback, &mut now, 20, Duration::from_millis(2));
        let before = feedback.grtt();
        feedback.on_rtt(now, Duration::from_secs(9), INTERVAL);
        assert_eq!(feedback.grtt(), before, "it is older than any way takes");
        for _ in 0..100 {
            feedback.on_rtt(now, Duration::from_millis(1900), INTERVAL);
        }
        assert!(feedback.grtt() <= GRTT_START, "no more than one doubling in a window: {:?}", feedback.grtt());
        windows(&mut feedback, &mut now, 10, Duration::from_millis(2));
        assert_eq!(feedback.grtt(), before, "and it falls again");
    }

    #[test]
    fn who_fell_silent_is_not_counted_but_stays_complete() {
        let mut feedback = Feedback::new();
        let address = "127.0.0.1:1".parse().unwrap();
        for run in 1..=3 {
            feedback.on_nack(Time(0), RunId(run), 1, address, Said::default());
        }
        feedback.on_report(RunId(1), 77, true);
        let later = Time(0) + SILENT_MAX + RECOUNT_EVERY;
        feedback.on_nack(later, RunId(2), 2, address, Said::default());
        feedback.recount(later);
        assert_eq!((feedback.complete(77), feedback.group_size()), (1, 2), "the third fell silent");
        let much_later = later + SILENT_MAX_WHOLE;
        feedback.recount(much_later);
        assert_eq!((feedback.complete(77), feedback.group_size()), (0, 0));
        assert_eq!(feedback.complete_ever(77), 1);
        feedback.on_nack(much_later, RunId(3), 2, address, Said::default());
        assert_eq!(feedback.group_size(), 1, "it is back");
    }
}
