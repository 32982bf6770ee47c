//! NACKs at the sender keep to what its window promises: where more come than their share of its rate, the window grows
//! until they fit, or is as long as it may be.

use std::collections::VecDeque;
use std::time::Duration;

use nackcast_common::clock::Time;

use super::Verdict;

/// Over so long it is counted.
const SPAN: Duration = Duration::from_secs(10);
/// The share of the sender's rate, in NACKs a second: at least, and at most.
const LEAST: u64 = 60;
const MOST: u64 = 3_000;
/// Bits a second that a NACK each second is worth: 0.6 % of the rate, 1,400 bits a NACK.
const BITS: u64 = 233_333;
/// The longest window.
const WINDOW_MAX: Duration = Duration::from_secs(4);
/// The shortest; each is at most half as long again as the one before.
const WINDOW_MIN: Duration = Duration::from_millis(10);

/// The oracle.
#[derive(Debug)]
pub struct Rate {
    most: usize,
    heard: VecDeque<Time>,
}

impl Rate {
    /// With the sender's rate, the number of receivers, and the budget of each in a window.
    #[must_use]
    pub fn new(rate_bps: u64, receivers: u32, budget: usize) -> Self {
        let share = (rate_bps / BITS).clamp(LEAST, MOST) * SPAN.as_secs();
        let all = u64::from(receivers) * budget as u64;
        // In the window that gives them their share, or in the longest, they come at that rate.
        let enough =
            (SPAN * u32::try_from(all).unwrap_or(u32::MAX) / u32::try_from(share).unwrap_or(1)).min(WINDOW_MAX);
        let longer = |window: &Duration| Some(*window * 3 / 2).filter(|next| *next < enough * 3 / 2);
        let growing = std::iter::successors(Some(WINDOW_MIN), longer).count() as u64;
        let in_longest = all * (SPAN.as_millis() / enough.max(WINDOW_MIN).as_millis()) as u64;
        // Some more than the share come before the window grows.
        let most = share.max(in_longest) * 3 / 2 + all * growing;
        Self { most: usize::try_from(most).unwrap_or(usize::MAX), heard: VecDeque::new() }
    }

    /// The sender read a NACK that asks for something.
    ///
    /// # Errors
    /// When too many came.
    pub fn on_nack(&mut self, now: Time) -> Verdict {
        self.heard.push_back(now);
        while self.heard.front().is_some_and(|at| now.since(*at) >= SPAN) {
            self.heard.pop_front();
        }
        let count = self.heard.len();
        if count > self.most {
            return Err(format!("{count} NACKs came within {SPAN:?}, where the window promises {}", self.most));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_fits_the_share_may_come_and_no_more() {
        // Of three receivers: 900 NACKs, and 216 until the window has grown.
        let count = |every: u64| {
            let mut rate = Rate::new(2_000_000, 3, 4);
            (0..60_000_000 / every).map(|n| rate.on_nack(Time(n * every))).find(Result::is_err)
        };
        assert!(count(10_000).is_none());
        assert!(count(8_000).is_some());
    }
}
