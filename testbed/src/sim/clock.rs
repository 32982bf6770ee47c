//! A node's own clock: it may run fast or slow, and it stands at zero when the node starts.

use nackcast_common::clock::Time;

const MILLION: i128 = 1_000_000;

/// A monotonic clock with a rate.
#[derive(Clone, Copy, Debug, Default)]
pub struct LocalClock {
    /// World time and local time at which the rate was set.
    world: Time,
    local: Time,
    ppm: i32,
}

impl LocalClock {
    /// A clock that starts now.
    #[must_use]
    pub const fn starting(now: Time, ppm: i32) -> Self {
        Self { world: now, local: Time::ZERO, ppm }
    }

    /// From now on it runs fast by so many millionths, or slow.
    pub fn skew(&mut self, now: Time, ppm: i32) {
        *self = Self { world: now, local: self.at(now), ppm };
    }

    /// What it shows.
    #[must_use]
    pub fn at(&self, world: Time) -> Time {
        let passed = i128::from(world.0.saturating_sub(self.world.0));
        let local = passed * (MILLION + i128::from(self.ppm)) / MILLION;
        Time(self.local.0.saturating_add(u64::try_from(local).unwrap_or(u64::MAX)))
    }

    /// When it will show this, never too early.
    #[must_use]
    pub fn when(&self, local: Time) -> Time {
        let ahead = i128::from(local.0.saturating_sub(self.local.0));
        let rate = MILLION + i128::from(self.ppm);
        let world = (ahead * MILLION + rate - 1) / rate;
        Time(self.world.0.saturating_add(u64::try_from(world).unwrap_or(u64::MAX)))
    }

    /// How far it runs from true time.
    #[must_use]
    pub const fn ppm(&self) -> i32 {
        self.ppm
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_deadline_is_reached_when_the_clock_shows_it() {
        for ppm in [-100_000, -1, 0, 7, 100_000] {
            let mut clock = LocalClock::starting(Time(1_000), ppm);
            for n in 0..1000 {
                let world = clock.when(Time(n * 37));
                assert!(clock.at(world) >= Time(n * 37), "{ppm} {n}");
                assert!(n == 0 || clock.at(Time(world.0 - 2)) < Time(n * 37));
            }
            let before = clock.at(Time(50_000));
            clock.skew(Time(50_000), 0);
            assert_eq!(clock.at(Time(50_000)), before);
        }
    }
}
