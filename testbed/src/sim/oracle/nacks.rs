//! A receiver keeps to the NACK window: at most `nack_budget` NACKs in one, and few reports beside them.
//!
//! The window is the one that the receiver read last, by its own clock; of several that it read lately, the shortest.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use nackcast_common::clock::Time;

use super::Verdict;
use crate::sim::wiretap::Said;

/// Reports, greetings and repeated tries in one window, beside the budget.
const BESIDE: usize = 6;
/// Reports are sent in a long window, too: one more in each such time.
const REPORTS: Duration = Duration::from_millis(100);
/// Readings are no oftener than this.
const READINGS: Duration = Duration::from_millis(10);
/// A window that is shorter says little about a rate.
const LEAST: Duration = Duration::from_millis(20);
/// A window that was read so long ago may still be followed: who is asked may change.
const LATELY: Duration = Duration::from_secs(2);

/// The oracle.
#[derive(Debug)]
pub struct Nacks {
    budget: usize,
    tells: bool,
    receivers: BTreeMap<u32, Seen>,
}

/// Of one receiver.
#[derive(Debug, Default)]
struct Seen {
    windows: VecDeque<(Time, Duration)>,
    /// When it sent, and until when that counts.
    sent: VecDeque<(Time, Time)>,
}

impl Seen {
    /// The shortest window of those that it may follow.
    fn window(&self) -> Duration {
        self.windows.iter().map(|(_, window)| *window).min().unwrap_or_default().max(LEAST)
    }
}

impl Nacks {
    /// With the receivers' budget.
    #[must_use]
    ///
    /// `tells`: they tell what they read, too, as a sender with congestion control asks.
    pub const fn new(budget: usize, tells: bool) -> Self {
        Self { budget, tells, receivers: BTreeMap::new() }
    }

    /// A receiver read this.
    pub fn on_heard(&mut self, now: Time, receiver: u32, said: &Said) {
        let Said::Advertisement(advertisement) = said else { return };
        let windows = &mut self.receivers.entry(receiver).or_default().windows;
        // The last one counts however old it is.
        while windows.front().is_some_and(|(at, _)| now.since(*at) > LATELY) {
            windows.pop_front();
        }
        windows.push_back((now, advertisement.nack_window));
    }

    /// A receiver sent a NACK.
    ///
    /// # Errors
    /// When it sent too many within one window.
    pub fn on_nack(&mut self, now: Time, receiver: u32) -> Verdict {
        let seen = self.receivers.entry(receiver).or_default();
        let window = seen.window();
        seen.sent.push_back((now, now + window));
        seen.sent.retain(|(_, until)| now < *until);
        let reports = window.as_micros() / REPORTS.as_micros();
        let readings = if self.tells { window.as_micros() / READINGS.as_micros() + 1 } else { 0 };
        let most = self.budget + BESIDE + usize::try_from(reports + readings).unwrap_or(usize::MAX);
        if seen.sent.len() > most {
            return Err(format!(
                "receiver {receiver} sent {} NACKs within {window:?}; {most} are allowed",
                seen.sent.len()
            ));
        }
        Ok(())
    }

    /// The receiver's process is a new one.
    pub fn on_start(&mut self, receiver: u32) {
        self.receivers.remove(&receiver);
    }
}

#[cfg(test)]
mod tests {
    use super::super::promises::tests::advertisement_with;
    use super::*;

    /// Sends so often, in milliseconds; when too much was sent.
    fn found(window: u64, every: u64) -> Option<u64> {
        let mut nacks = Nacks::new(4, false);
        nacks.on_heard(Time(0), 7, &advertisement_with(Duration::from_millis(window)));
        (1..2_000).find(|n| nacks.on_nack(Time(n * every * 1000), 7).is_err())
    }

    #[test]
    fn who_sends_more_than_its_budget_in_the_window_that_it_read_is_found() {
        assert_eq!(found(1_000, 60), None);
        assert_eq!(found(1_000, 40), Some(21));
        assert_eq!(found(20, 3), None);
        assert_eq!(found(20, 1), Some(11));
        // One window that is shorter, and was read lately, may be followed.
        let mut nacks = Nacks::new(4, false);
        nacks.on_heard(Time(0), 7, &advertisement_with(Duration::from_millis(20)));
        nacks.on_heard(Time(1), 7, &advertisement_with(Duration::from_millis(1_000)));
        assert!((1..100).all(|n| nacks.on_nack(Time(n * 3_000), 7).is_ok()));
    }
}
