//! The NACK window is short again soon after NACKs became rare.
//!
//! It is at least 6 GRTT, and longer only while more NACKs come than fit their share; without any, each window is two
//! thirds of the one before. An echo may lengthen it for a moment: only a window that stays as it is stays too long.

use std::time::Duration;

use nackcast_common::clock::Time;

use super::Verdict;

/// The window that needs no reason.
const GRTTS: u32 = 6;
const LEAST: Duration = Duration::from_millis(10);
/// GRTT is told in whole microseconds.
const TICK: Duration = Duration::from_micros(1);
/// Nobody may see a window that does not change for so long, and for so many windows.
const AIR: Duration = Duration::from_secs(3);
const WINDOWS: u32 = 4;

/// The oracle.
#[derive(Debug, Default)]
pub struct Window {
    quiet: Option<Quiet>,
    grtt: Duration,
}

/// Since the last NACK.
#[derive(Debug)]
struct Quiet {
    window: Duration,
    /// Since when the window is this one.
    since: Time,
    grtt: Duration,
}

impl Window {
    /// The sender read a NACK that asks for something.
    pub const fn on_nack(&mut self, now: Time) {
        self.quiet = Some(Quiet { since: now, window: Duration::ZERO, grtt: self.grtt });
    }

    /// The sender stood still, or is a new one.
    pub fn on_excuse(&mut self) {
        self.quiet = None;
    }

    /// The sender told the group.
    ///
    /// # Errors
    /// When the window stays long though nobody asks.
    pub fn on_advertisement(&mut self, now: Time, window: Duration, grtt: Duration) -> Verdict {
        self.grtt = grtt;
        let Some(quiet) = &mut self.quiet else { return Ok(()) };
        if quiet.window != window {
            (quiet.window, quiet.since) = (window, now);
        }
        quiet.grtt = quiet.grtt.max(grtt);
        let (same, enough) = (now.since(quiet.since), ((quiet.grtt + TICK) * GRTTS).max(LEAST));
        if window > enough && same > window * WINDOWS + AIR {
            return Err(format!("nobody asks, and the window has been {window:?} for {same:?}; {enough:?} would do"));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_window_that_stays_long_is_found_and_one_that_shrinks_is_not() {
        let (grtt, long) = (Duration::from_millis(20), Duration::from_secs(2));
        let mut oracle = Window::default();
        oracle.on_nack(Time(0));
        let late = Time::ZERO + Duration::from_secs(12);
        assert_eq!(oracle.on_advertisement(Time(1), long, grtt), Ok(()));
        assert!(oracle.on_advertisement(late, long, grtt).is_err());
        assert_eq!(oracle.on_advertisement(late, grtt * 6, grtt), Ok(()));
        oracle.on_excuse();
        assert_eq!(oracle.on_advertisement(late, long, grtt), Ok(()));
    }
}
