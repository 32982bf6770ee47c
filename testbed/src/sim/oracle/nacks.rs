//! A receiver keeps to the NACK window: at most `nack_budget` NACKs in one, and few reports beside them.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use nackcast_common::clock::Time;

use super::Verdict;

/// Reports, greetings and repeated tries in one window, beside the budget.
const BESIDE: usize = 4;
/// A window that is shorter says little about a rate.
const LEAST: Duration = Duration::from_millis(20);

/// The oracle.
#[derive(Debug)]
pub struct Nacks {
    budget: usize,
    sent: BTreeMap<u32, VecDeque<Time>>,
    /// Shortest window that the sender announced lately.
    window: Duration,
}

impl Nacks {
    /// With the receivers' budget.
    #[must_use]
    pub const fn new(budget: usize) -> Self {
        Self { budget, sent: BTreeMap::new(), window: LEAST }
    }

    /// The sender announces another window. Receivers may still follow a shorter one that they heard.
    pub fn on_window(&mut self, window: Duration) {
        self.window = self.window.min(window).max(LEAST);
    }

    /// A receiver sent a NACK.
    ///
    /// # Errors
    /// When it sent too many within one window.
    pub fn on_nack(&mut self, now: Time, receiver: u32) -> Verdict {
        let sent = self.sent.entry(receiver).or_default();
        sent.push_back(now);
        while sent.front().is_some_and(|at| now.since(*at) >= self.window) {
            sent.pop_front();
        }
        let most = self.budget + BESIDE;
        if sent.len() > most {
            return Err(format!(
                "receiver {receiver} sent {} NACKs within {:?}; {most} are allowed",
                sent.len(),
                self.window
            ));
        }
        Ok(())
    }

    /// The receiver's process is a new one.
    pub fn on_start(&mut self, receiver: u32) {
        self.sent.remove(&receiver);
    }
}
