//! How fast, where the admin left it open: the pacer follows [congestion control](super::congestion), the window
//! [flow control](super::flow), and both what receivers tell of what they read.

use std::time::Duration;

use nackcast_common::clock::Time;
use nackcast_common::ids::RunId;
use nackcast_common::pacing::default_burst;
use nackcast_common::units::{BitRate, RateLimit};
use nackcast_proto::wire::{Nack, Reading};

use super::congestion::{self, Congestion};
use super::{SenderEngine, flow};

/// Without a rate limit receivers tell what they read this often, beside every part of their window.
const READING_EVERY: Duration = Duration::from_millis(25);
/// With congestion control they tell at least twice in a round-trip time, but not more often than this...
const READING_MIN: Duration = Duration::from_millis(10);
const READING_MAX: Duration = Duration::from_secs(5);
/// ...and readings take at most one part of the rate in so many, each about so large on the wire.
const READING_PART: u64 = 100;
const READING_BITS: u64 = 2_000;
/// The bucket of a rate that is found by itself: what it gives in this time, since queues may be short.
const AUTO_BURST_MICROS: u64 = 2_000;
const AUTO_BURST_MIN: u64 = 4 * 1500;

/// The pacer's limit and bucket.
pub(super) fn pace_of(rate: RateLimit, congestion: &Congestion) -> (RateLimit, u64) {
    match rate {
        RateLimit::Auto => {
            let BitRate(bits) = congestion.rate();
            let burst = (bits / 8).saturating_mul(AUTO_BURST_MICROS) / 1_000_000;
            (RateLimit::Fixed(BitRate(bits)), burst.max(AUTO_BURST_MIN))
        }
        fixed => (fixed, default_burst(fixed)),
    }
}

impl SenderEngine {
    /// The pacer follows the configuration, or congestion control.
    pub(super) fn pace(&mut self, now: Time) {
        let (limit, burst) = pace_of(self.config.rate, &self.congestion);
        if limit != self.pacer.limit() {
            self.pacer.set_rate(now, limit, burst);
        }
    }

    /// A receiver tells what it read.
    pub(super) fn on_reading(&mut self, now: Time, run: RunId, nack: &Nack, reading: &Reading) {
        if self.reading_every().is_zero() {
            return;
        }
        let sent = self.data_packets;
        if self.config.rate == RateLimit::Max {
            self.flow.on_reading(now, run, nack.heard, reading.window, sent);
        } else if self.congestion.on_reading(now, run, (nack.heard, reading), nack.loss_ppm, sent) {
            self.pace(now);
        }
    }

    /// What advertisements ask of receivers.
    pub(super) fn reading_every(&self) -> Duration {
        let receivers = self.feedback.group_size().max(1);
        match self.config.rate {
            RateLimit::Fixed(_) => Duration::ZERO,
            // Of more some are slow always.
            RateLimit::Max if receivers as usize > flow::READERS_MAX => Duration::ZERO,
            RateLimit::Max => READING_EVERY,
            RateLimit::Auto => {
                let bits = u64::from(receivers) * READING_BITS * READING_PART;
                let dear = Duration::from_secs_f64(bits as f64 / self.rate().max(1) as f64);
                let half = self.congestion.rtt() / 2;
                half.clamp(READING_MIN, congestion::ROUND_MAX / 2).max(dear).min(READING_MAX)
            }
        }
    }
}
