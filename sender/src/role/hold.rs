//! How long a primary that comes back holds off while a backup serves.
//!
//! A primary that fails soon after its return would take the channel from a backup that works, again and again. So its
//! hold-off doubles with each such return, up to [`HOLD_MAX`], and is the plain one again when a run lasted.

use std::time::Duration;

/// A run that ends before this is a failed return.
pub const SOON: Duration = Duration::from_secs(60);
/// Longest hold-off.
pub const HOLD_MAX: Duration = Duration::from_secs(5 * 60);

/// What a primary's state keeps of its last start.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LastStart {
    /// When, by the wall clock, in milliseconds since 1970.
    pub wall_ms: u64,
    /// The hold-off that it had.
    pub hold: Duration,
}

/// The hold-off of a start at `wall_ms`, after `last`. A clock that went back since then counts as "soon".
#[must_use]
pub fn hold_off(base: Duration, last: Option<LastStart>, wall_ms: u64) -> Duration {
    let Some(last) = last else { return base };
    let lasted = Duration::from_millis(wall_ms.saturating_sub(last.wall_ms));
    // The time that it held off is no time that it ran.
    let is_soon = lasted < SOON + last.hold.saturating_sub(base);
    if is_soon { (last.hold * 2).clamp(base, HOLD_MAX.max(base)) } else { base }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BASE: Duration = Duration::from_secs(12);

    #[test]
    fn a_crash_loop_doubles_the_hold_off_and_a_run_that_lasts_ends_that() {
        let (mut wall, mut last) = (1_000_000, None);
        let mut holds = Vec::new();
        for _ in 0..7 {
            let hold = hold_off(BASE, last, wall);
            holds.push(hold.as_secs());
            last = Some(LastStart { wall_ms: wall, hold });
            wall += 5_000;
        }
        assert_eq!(holds, [12, 24, 48, 96, 192, 300, 300]);
        assert_eq!(hold_off(BASE, last, wall + 3_600_000), BASE);
    }

    #[test]
    fn a_clock_that_went_back_to_1970_counts_as_soon() {
        let last = Some(LastStart { wall_ms: 1_700_000_000_000, hold: BASE });
        assert_eq!(hold_off(BASE, last, 5), BASE * 2);
    }
}
