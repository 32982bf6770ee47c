//! Time as the engines see it: a count of microseconds since an origin that the driver chose.
//!
//! An engine gets `now` with every input and never asks for it, so a simulator may run hours in a
//! second. [`Clock`] is the one reader of the operating system's clock.

use std::fmt;
use std::ops::{Add, AddAssign, Sub};
use std::time::Duration;

/// A point in time, in microseconds since the origin of the node's [`Clock`].
#[derive(Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Time(pub u64);

impl Time {
    /// The origin.
    pub const ZERO: Self = Self(0);
    /// Later than anything that will happen.
    pub const NEVER: Self = Self(u64::MAX);

    /// Time passed since `earlier`, zero when `earlier` is not earlier.
    #[must_use]
    pub const fn since(self, earlier: Self) -> Duration {
        Duration::from_micros(self.0.saturating_sub(earlier.0))
    }

    /// This point, moved back; stops at the origin.
    #[must_use]
    pub fn before(self, by: Duration) -> Self {
        Self(self.0.saturating_sub(micros(by)))
    }
}

/// A duration in whole microseconds, capped at `u64::MAX`.
#[must_use]
pub fn micros(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(u64::MAX)
}

impl Add<Duration> for Time {
    type Output = Self;
    fn add(self, rhs: Duration) -> Self {
        Self(self.0.saturating_add(micros(rhs)))
    }
}

impl AddAssign<Duration> for Time {
    fn add_assign(&mut self, rhs: Duration) {
        *self = *self + rhs;
    }
}

impl Sub for Time {
    type Output = Duration;
    fn sub(self, rhs: Self) -> Duration {
        self.since(rhs)
    }
}

impl fmt::Debug for Time {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{:06}s", self.0 / 1_000_000, self.0 % 1_000_000)
    }
}

/// When an engine wants to be woken, and why (logged by the driver).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Deadline {
    /// The time of the wake-up.
    pub at: Time,
    /// Which timer it is.
    pub why: &'static str,
}

impl Deadline {
    /// The earlier of two.
    #[must_use]
    pub fn earlier(a: Option<Self>, b: Option<Self>) -> Option<Self> {
        match (a, b) {
            (Some(a), Some(b)) => Some(if b.at < a.at { b } else { a }),
            (a, b) => a.or(b),
        }
    }
}

/// See [`Clock::waited`].
const WAITED_MAX: Duration = Duration::from_secs(1);

/// The monotonic clock of this process.
#[derive(Clone, Copy, Debug)]
pub struct Clock {
    origin: std::time::Instant,
}

impl Clock {
    /// A clock whose origin is now.
    #[must_use]
    #[expect(clippy::disallowed_methods, reason = "the one reader of the monotonic clock")]
    pub fn start() -> Self {
        Self { origin: std::time::Instant::now() }
    }

    /// The current time.
    #[must_use]
    pub fn now(&self) -> Time {
        Time(micros(self.origin.elapsed()))
    }

    /// The wall clock: since 1970; zero before.
    #[must_use]
    #[expect(clippy::disallowed_methods, reason = "the one reader of the wall clock")]
    pub fn wall() -> Duration {
        std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default()
    }

    /// How long ago the kernel noted `at`, when the wall clock says `wall`. Nothing waits for a second to be read: if it
    /// looks so, the clock was set, and nothing is known.
    #[must_use]
    pub fn waited(wall: Duration, at: Duration) -> Duration {
        wall.checked_sub(at).filter(|waited| *waited < WAITED_MAX).unwrap_or_default()
    }

    /// The same as [`Self::wall`], in milliseconds.
    #[must_use]
    pub fn wall_ms() -> u64 {
        u64::try_from(Self::wall().as_millis()).unwrap_or(u64::MAX)
    }

    /// What the wall clock would have said at the origin, as it goes now: it may be set at any time.
    #[must_use]
    pub fn wall_origin_ms(&self) -> u64 {
        Self::wall_ms().saturating_sub(self.now().0 / 1000)
    }

    /// `time` as tokio counts it.
    #[must_use]
    pub fn instant(&self, time: Time) -> std::time::Instant {
        // A deadline a day away is never waited for: the driver is woken by something else before.
        let ahead = Duration::from_micros(time.0).min(self.origin.elapsed() + Duration::from_secs(86_400));
        self.origin + ahead
    }
}
