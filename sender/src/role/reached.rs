//! Receivers that reach only the backup, while the primary serves: what the network alert is made of.
//!
//! One such NACK may be two lost datagrams. A second one within [`WITHIN`], from anyone, is a network that lets some
//! receivers reach only the backup.

use std::collections::{BTreeSet, VecDeque};
use std::net::SocketAddr;
use std::time::Duration;

use nackcast_common::clock::Time;
use nackcast_common::ids::RunId;
use nackcast_common::mutation::{Mutation, planted};

/// Two disregarded NACKs so close are an alert.
pub(super) const WITHIN: Duration = Duration::from_secs(60);
/// Receivers that an alert names.
pub const NAMED_MAX: usize = 20;
/// Receivers that are told apart when they are counted; of a larger group so many is all that is said.
const COUNTED_MAX: usize = 4096;
/// An alert that goes on is told again after so long at the earliest.
const AGAIN: Duration = Duration::from_secs(10);

/// What is told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OnlyBackupReached {
    /// The first of them, by run and address.
    pub receivers: Vec<(RunId, SocketAddr)>,
    /// How many there are in all.
    pub receiver_count: u64,
    /// How many NACKs were disregarded.
    pub count: u64,
    /// Since when.
    pub since: Time,
    /// What the probe saw of the primary.
    pub saw: String,
}

#[derive(Debug, Default)]
pub(super) struct Reached {
    receivers: VecDeque<(RunId, SocketAddr)>,
    runs: BTreeSet<RunId>,
    count: u64,
    first: Time,
    last: Time,
    told: Option<Time>,
}

impl Reached {
    /// NACKs of these receivers were disregarded; what is to be told, if anything is.
    pub(super) fn on_disregarded(
        &mut self,
        now: Time,
        asked: &[(RunId, SocketAddr)],
        saw: impl FnOnce() -> String,
    ) -> Option<OnlyBackupReached> {
        if asked.is_empty() {
            return None;
        }
        if self.count == 0 || now.since(self.last) >= WITHIN {
            *self = Self { first: now, ..Self::default() };
        }
        self.last = now;
        self.count += asked.len() as u64;
        for receiver in asked {
            if self.runs.len() < COUNTED_MAX {
                self.runs.insert(receiver.0);
            }
            if self.receivers.len() < NAMED_MAX && !self.receivers.contains(receiver) {
                self.receivers.push_back(*receiver);
            }
        }
        let enough = if planted(Mutation::AlertAtFirstNack) { 1 } else { 2 };
        if self.count < enough || self.told.is_some_and(|at| now.since(at) < AGAIN) {
            return None;
        }
        self.told = Some(now);
        let receivers = self.receivers.iter().copied().collect();
        let receiver_count = self.runs.len() as u64;
        Some(OnlyBackupReached { receivers, receiver_count, count: self.count, since: self.first, saw: saw() })
    }

    /// True once, when what was told is over.
    pub(super) fn is_over(&mut self, now: Time) -> bool {
        let over = self.told.is_some() && now.since(self.last) >= WITHIN;
        if over {
            *self = Self::default();
        }
        over
    }

    /// When that is to be asked.
    pub(super) fn over_at(&self) -> Option<Time> {
        self.told.map(|_| self.last + WITHIN)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn receivers_beyond_those_that_are_named_are_counted_once_each() {
        let mut reached = Reached::default();
        let receivers: Vec<_> =
            (0..500_u16).map(|n| (RunId(n.into()), SocketAddr::from(([192, 0, 2, 1], 4000 + n)))).collect();
        let told = reached.on_disregarded(Time(1), &receivers, String::new).unwrap();
        assert_eq!((told.receivers.len(), told.receiver_count, told.count), (NAMED_MAX, 500, 500));
        let later = Time(1) + AGAIN;
        let told = reached.on_disregarded(later, &receivers, String::new).unwrap();
        assert_eq!((told.receiver_count, told.count), (500, 1000), "the same ones again");
        let many: Vec<_> = (0..9000).map(|n| (RunId(n), receivers[0].1)).collect();
        let told = reached.on_disregarded(later + AGAIN, &many, String::new).unwrap();
        assert_eq!(told.receiver_count, COUNTED_MAX as u64, "memory is bounded");
    }
}
