//! Pacing: a token bucket in bytes, so that a sender holds its rate without bursts that a switch would drop.
//!
//! - Pure: the caller passes `now` with every call; time that goes backwards counts as standing still.
//! - Over any window a sender that spends no more than its budget sends at most `rate x window + burst` bytes; an
//!   idle time never earns more than the burst.
//! - Arithmetic is exact (in bits times microseconds), so no rounding adds up over a long run.

use crate::clock::Time;
use crate::units::RateLimit;

/// The default burst holds at least this: eight full Ethernet datagrams. With two, a busy machine whose timers come
/// some milliseconds late held 14 of 20 Mbit/s, since an idle time earns no more than the burst.
const BURST_MIN: u64 = 8 * 1500;
/// And at most this: what a shallow switch buffer takes.
const BURST_MAX: u64 = 256 << 10;
/// Between the two, what the rate gives in this time: short against a router's queue, long against the wake-up
/// latency of a timer.
const BURST_MICROS: u64 = 8_000;
/// Bucket units in a byte: the credit is counted in bits times microseconds per second.
const PER_BYTE: i128 = 8 * 1_000_000;

/// The default burst in bytes: what `limit` gives in 8 ms, at least 12,000 and at most 256 KiB.
#[must_use]
pub fn default_burst(limit: RateLimit) -> u64 {
    match limit {
        RateLimit::Max | RateLimit::Auto => BURST_MIN,
        RateLimit::Fixed(rate) => {
            (rate.0 / 8).saturating_mul(BURST_MICROS).div_euclid(1_000_000).clamp(BURST_MIN, BURST_MAX)
        }
    }
}

/// A token bucket. It begins full.
#[derive(Clone, Debug)]
pub struct Pacer {
    limit: RateLimit,
    burst: u64,
    /// In units of `PER_BYTE`; negative after more was spent than there was.
    credit: i128,
    refilled: Time,
}

impl Pacer {
    /// A full bucket of `burst_bytes` (see [`default_burst`]) that refills at `limit`.
    #[must_use]
    pub fn new(limit: RateLimit, burst_bytes: u64) -> Self {
        let burst = burst_bytes.max(1);
        Self { limit, burst, credit: i128::from(burst) * PER_BYTE, refilled: Time::ZERO }
    }

    /// The limit in force.
    #[must_use]
    pub const fn limit(&self) -> RateLimit {
        self.limit
    }

    /// Changes the rate and the bucket from `now` on; what was earned so far stays, up to the new burst.
    pub fn set_rate(&mut self, now: Time, limit: RateLimit, burst_bytes: u64) {
        self.refill(now);
        self.limit = limit;
        self.burst = burst_bytes.max(1);
        self.credit = self.credit.min(self.full());
    }

    /// How many bytes may be sent now; `u64::MAX` without a limit.
    #[must_use]
    pub fn budget(&self, now: Time) -> u64 {
        match self.limit {
            RateLimit::Max | RateLimit::Auto => u64::MAX,
            RateLimit::Fixed(_) => u64::try_from(self.credit_at(now).max(0) / PER_BYTE).unwrap_or(u64::MAX),
        }
    }

    /// Accounts for `bytes` sent. More than the budget is allowed (a datagram larger than the bucket) and is paid
    /// back before the next byte.
    pub fn spend(&mut self, now: Time, bytes: u64) {
        self.refill(now);
        if matches!(self.limit, RateLimit::Fixed(_)) {
            self.credit -= i128::from(bytes) * PER_BYTE;
        }
    }

    /// When `bytes` may be sent: `None` means now. More bytes than the bucket holds are ready when it is full.
    #[must_use]
    pub fn ready_at(&self, now: Time, bytes: u64) -> Option<Time> {
        let RateLimit::Fixed(rate) = self.limit else { return None };
        let lacking = i128::from(bytes.min(self.burst)) * PER_BYTE - self.credit_at(now);
        if lacking <= 0 {
            return None;
        }
        let per_micro = i128::from(rate.0.max(1));
        // Rounded up: woken a microsecond early, the caller would only go round once more.
        let wait = (lacking + per_micro - 1) / per_micro;
        let now = now.max(self.refilled);
        Some(Time(now.0.saturating_add(u64::try_from(wait).unwrap_or(u64::MAX))))
    }

    fn full(&self) -> i128 {
        i128::from(self.burst) * PER_BYTE
    }

    /// The credit at `now`, without storing it.
    fn credit_at(&self, now: Time) -> i128 {
        let RateLimit::Fixed(rate) = self.limit else { return self.credit };
        let elapsed = now.0.saturating_sub(self.refilled.0);
        (self.credit + i128::from(rate.0) * i128::from(elapsed)).min(self.full())
    }

    fn refill(&mut self, now: Time) {
        self.credit = self.credit_at(now);
        self.refilled = self.refilled.max(now);
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use proptest::prelude::*;

    use super::*;
    use crate::units::BitRate;

    fn fixed(bits: u64) -> RateLimit {
        RateLimit::Fixed(BitRate(bits))
    }

    #[test]
    fn the_default_burst_is_eight_milliseconds_within_bounds() {
        assert_eq!(default_burst(fixed(100_000_000)), 100_000);
        assert_eq!(default_burst(fixed(20_000_000)), 20_000);
        assert_eq!(default_burst(fixed(1_000_000)), 12_000);
        assert_eq!(default_burst(fixed(10_000_000_000)), 262_144);
        assert_eq!(default_burst(RateLimit::Max), 12_000);
    }

    #[test]
    fn an_idle_hour_earns_no_more_than_the_burst() {
        let pacer = Pacer::new(fixed(8_000_000), 3000);
        assert_eq!(pacer.budget(Time::ZERO + Duration::from_secs(3600)), 3000);
    }

    #[test]
    fn without_a_limit_everything_is_ready_now() {
        let mut pacer = Pacer::new(RateLimit::Max, 3000);
        pacer.spend(Time::ZERO, 1 << 40);
        assert_eq!(pacer.budget(Time::ZERO), u64::MAX);
        assert_eq!(pacer.ready_at(Time::ZERO, u64::MAX), None);
    }

    #[test]
    fn a_spent_bucket_says_when_it_is_ready_again() {
        let mut pacer = Pacer::new(fixed(8_000_000), 3000); // a byte a microsecond
        pacer.spend(Time(0), 3000);
        assert_eq!(pacer.budget(Time(0)), 0);
        assert_eq!(pacer.ready_at(Time(0), 1500), Some(Time(1500)));
        assert_eq!(pacer.budget(Time(1499)), 1499);
        assert_eq!(pacer.ready_at(Time(1500), 1500), None);
        // More than the bucket holds is ready when the bucket is full, and the rest is owed.
        assert_eq!(pacer.ready_at(Time(0), 9000), Some(Time(3000)));
        pacer.spend(Time(3000), 9000);
        assert_eq!(pacer.ready_at(Time(3000), 1), Some(Time(9001)));
    }

    #[test]
    fn time_that_goes_backwards_stands_still() {
        let mut pacer = Pacer::new(fixed(8_000_000), 3000);
        pacer.spend(Time(10_000), 3000);
        assert_eq!(pacer.budget(Time(0)), 0);
        pacer.spend(Time(0), 0);
        assert_eq!(pacer.budget(Time(10_100)), 100);
    }

    #[test]
    fn a_new_rate_holds_from_its_moment_on() {
        let mut pacer = Pacer::new(fixed(8_000_000), 3000);
        pacer.spend(Time(0), 3000);
        pacer.set_rate(Time(1000), fixed(16_000_000), 4000);
        assert_eq!(pacer.budget(Time(1500)), 2000);
        pacer.set_rate(Time(1500), RateLimit::Max, 3000);
        pacer.set_rate(Time(900_000), fixed(8_000_000), 1000);
        assert_eq!(pacer.budget(Time(900_000)), 1000);
    }

    proptest! {
        /// Sends as much as allowed (or a part of it) at random times, then looks at every window.
        #[test]
        fn no_window_carries_more_than_rate_times_window_and_the_burst(
            rate in 8_000_u64..10_000_000_000,
            burst in 1_u64..300_000,
            steps in proptest::collection::vec((0_u64..20_000, 0_u64..=100), 1..60),
        ) {
            let mut pacer = Pacer::new(fixed(rate), burst);
            let mut now = Time(0);
            let mut sent: Vec<(u64, u128)> = Vec::new();
            for (wait, percent) in steps {
                now = Time(now.0 + wait);
                let bytes = pacer.budget(now) * percent / 100;
                pacer.spend(now, bytes);
                sent.push((now.0, u128::from(bytes)));
            }
            for (i, &(start, _)) in sent.iter().enumerate() {
                let mut total = 0;
                for &(end, bytes) in &sent[i..] {
                    total += bytes;
                    let allowed = u128::from(rate) * u128::from(end - start) / 8_000_000 + u128::from(burst);
                    prop_assert!(total <= allowed, "{} bytes in {} us, {} allowed", total, end - start, allowed);
                }
            }
        }

        /// Waiting until `ready_at` is enough, and a microsecond less is not.
        #[test]
        fn ready_at_is_exact(rate in 8_000_u64..10_000_000_000, burst in 1_u64..300_000, spent in 0_u64..1_000_000, want in 1_u64..300_000) {
            let mut pacer = Pacer::new(fixed(rate), burst);
            pacer.spend(Time(5), spent);
            let want = want.min(burst);
            match pacer.ready_at(Time(5), want) {
                None => prop_assert!(pacer.budget(Time(5)) >= want),
                Some(at) => {
                    prop_assert!(pacer.budget(at) >= want);
                    prop_assert!(pacer.budget(Time(at.0 - 1)) < want);
                }
            }
        }
    }
}
