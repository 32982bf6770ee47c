//! What NACKs tell about the group: round-trip time, size, and how far receivers must spread their NACKs.
//!
//! - GRTT rises fast and falls slowly (RFC 5740, section 5.5.3: peaks are taken at once, decays are halvings per
//!   window).
//! - The NACK window is at least 6 GRTT (RFC 5401: receivers that cannot hear each other) and grows while NACKs
//!   take more than their share of the rate. Reports do not count: receivers spread them by the group's size.
//! - What is kept about single receivers is bounded: of a group larger than [`RECEIVERS_MAX`] a sample of known
//!   share, chosen by run id, from which sizes are scaled up.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::Duration;

use nackcast_common::clock::{Time, micros};
use nackcast_common::ids::RunId;

/// Before anything was measured.
const GRTT_START: Duration = Duration::from_millis(20);
/// Scheduling noise makes less than this meaningless.
const GRTT_MIN: Duration = Duration::from_millis(1);
const GRTT_MAX: Duration = Duration::from_secs(10);
/// RFC 5401's K for unicast feedback.
const WINDOW_GRTTS: u32 = 6;
const WINDOW_MIN: Duration = Duration::from_millis(10);
const WINDOW_MAX: Duration = Duration::from_secs(4);
/// NACKs may take so many millionths of the rate before the window grows; below half of it shrinks again.
const SHARE_PPM: u64 = 6_000;
/// About what a NACK takes on the wire, in bits.
const NACK_BITS: u64 = 1_400;
/// NACKs a second that a slow sender reads too, and that are enough for a fast one.
const NACKS_PER_SECOND: (u64, u64) = (60, 3_000);
/// A receiver's packet number does not jump further: one forged with its run must not make its own look old.
const AHEAD_MAX: u64 = 1 << 16;
/// Rows about single receivers.
const RECEIVERS_MAX: usize = 4096;
/// A receiver that was not heard for so long is no longer counted.
const RECEIVER_FORGOTTEN: Duration = Duration::from_secs(3600);

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
    /// Highest packet number and a bitmap of the 64 before: a NACK counts once.
    highest: u64,
    window: u64,
}

/// The group as its NACKs show it.
#[derive(Debug)]
pub(super) struct Feedback {
    grtt: Duration,
    peak: Duration,
    window: Duration,
    window_began: Time,
    nacks_in_window: u32,
    receivers: BTreeMap<RunId, Row>,
    /// One in 2^`level` of the receivers has a row.
    level: u32,
    /// When a receiver was heard for the first time, last.
    last_new: Time,
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
    pub(super) const fn new() -> Self {
        Self {
            grtt: GRTT_START,
            peak: Duration::ZERO,
            window: Duration::from_millis(6 * 20),
            window_began: Time::ZERO,
            nacks_in_window: 0,
            receivers: BTreeMap::new(),
            level: 0,
            last_new: Time::ZERO,
        }
    }

    pub(super) const fn grtt(&self) -> Duration {
        self.grtt
    }

    pub(super) const fn window(&self) -> Duration {
        self.window
    }

    /// Estimated number of receivers.
    pub(super) fn group_size(&self) -> u32 {
        self.scaled(self.receivers.len())
    }

    /// How many reported the manifest with this hash prefix complete.
    pub(super) fn complete(&self, manifest: u64) -> u32 {
        self.scaled(self.receivers.values().filter(|r| r.complete == Some(manifest)).count())
    }

    /// So many rows stand for so many receivers.
    fn scaled(&self, rows: usize) -> u32 {
        u32::try_from((rows as u64) << self.level.min(32)).unwrap_or(u32::MAX)
    }

    fn has_row(&self, run: RunId) -> bool {
        // Run ids are random; a round of multiplication spreads those that are not.
        (run.0.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 32).trailing_zeros() >= self.level
    }

    /// No receiver was new for so long.
    pub(super) fn quiet_for(&self, now: Time) -> Duration {
        now.since(self.last_new)
    }

    /// A NACK arrived: notes its sender; says whether it was seen before.
    pub(super) fn on_nack(&mut self, now: Time, run: RunId, packet: u64, from: SocketAddr, loss_ppm: u32) -> Heard {
        let fresh =
            Row { last_heard: now, address: from, loss_ppm, holds: 0, complete: None, highest: packet, window: 0 };
        if !self.has_row(run) {
            return Heard::Known;
        }
        let Some(row) = self.receivers.get_mut(&run) else {
            self.last_new = now;
            self.receivers.insert(run, fresh);
            self.bound(now);
            return Heard::First;
        };
        if packet > row.highest {
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
        (row.last_heard, row.address, row.loss_ppm) = (now, from, loss_ppm);
        Heard::Known
    }

    /// Forgets the silent, then takes a smaller sample.
    fn bound(&mut self, now: Time) {
        if self.receivers.len() > RECEIVERS_MAX {
            self.receivers.retain(|_, r| now.since(r.last_heard) < RECEIVER_FORGOTTEN);
        }
        while self.receivers.len() > RECEIVERS_MAX {
            self.level += 1;
            let mut rows = std::mem::take(&mut self.receivers);
            rows.retain(|run, _| self.has_row(*run));
            self.receivers = rows;
        }
    }

    /// Which manifest a receiver holds, and whether its dataset is whole; true when that is news.
    pub(super) fn on_report(&mut self, run: RunId, manifest: u64, complete: bool) -> bool {
        let Some(row) = self.receivers.get_mut(&run) else { return false };
        let complete = complete.then_some(manifest);
        let news = complete.is_some() && row.complete != complete;
        (row.holds, row.complete) = (manifest, complete);
        news
    }

    /// How many hold the manifest with this hash.
    pub(super) fn holding(&self, manifest: u64) -> u32 {
        self.scaled(self.receivers.values().filter(|r| r.holds == manifest).count())
    }

    /// A round-trip time was measured.
    pub(super) fn on_rtt(&mut self, rtt: Duration) {
        let rtt = rtt.clamp(GRTT_MIN, GRTT_MAX);
        self.peak = self.peak.max(rtt);
        if rtt > self.grtt {
            self.grtt = self.grtt / 4 + rtt * 3 / 4;
        }
    }

    /// A NACK datagram that asks for something was read.
    pub(super) fn count_nack(&mut self) {
        self.nacks_in_window = self.nacks_in_window.saturating_add(1);
    }

    /// Sets the next window when this one is over. `rate` in bits a second.
    pub(super) fn follow(&mut self, now: Time, rate: u64) {
        let passed = now.since(self.window_began);
        if passed < self.window {
            return;
        }
        if self.peak > Duration::ZERO {
            self.grtt = self.peak.max(self.grtt / 2).clamp(GRTT_MIN, GRTT_MAX);
        }
        let least = (self.grtt * WINDOW_GRTTS).max(WINDOW_MIN);
        let wanted = (rate / 1_000_000 * SHARE_PPM / NACK_BITS).clamp(NACKS_PER_SECOND.0, NACKS_PER_SECOND.1);
        let came = u64::from(self.nacks_in_window) * 1_000_000 / micros(passed).max(1);
        if came > wanted {
            self.window = self.window * 3 / 2;
        } else if came < wanted / 2 {
            self.window = self.window * 2 / 3;
        }
        self.window = self.window.clamp(least, WINDOW_MAX.max(least));
        self.peak = Duration::ZERO;
        self.nacks_in_window = 0;
        self.window_began = now;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn nack(feedback: &mut Feedback, run: u64, packet: u64) -> Heard {
        feedback.on_nack(Time(1), RunId(run), packet, "127.0.0.1:1".parse().unwrap(), 0)
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

    const RATE: u64 = 100_000_000;

    #[test]
    fn the_window_follows_round_trip_time_and_load() {
        let mut feedback = Feedback::new();
        let mut now = Time(0);
        for _ in 0..20 {
            feedback.on_rtt(Duration::from_millis(2));
            now += Duration::from_secs(1);
            feedback.follow(now, RATE);
        }
        assert_eq!(feedback.window(), Duration::from_millis(12));
        feedback.on_rtt(Duration::from_millis(100));
        assert!(feedback.grtt() > Duration::from_millis(70));
        let before = feedback.window();
        for _ in 0..3 {
            (0..2000).for_each(|_| feedback.count_nack());
            now += Duration::from_millis(700);
            feedback.follow(now, RATE);
        }
        assert!(feedback.window() >= before * 2);
        // Without any NACK it falls back to what the round-trip time asks.
        for _ in 0..20 {
            now += Duration::from_secs(5);
            feedback.follow(now, RATE);
        }
        assert!(feedback.window() <= feedback.grtt() * 6 + WINDOW_MIN);
    }
}
