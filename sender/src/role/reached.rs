//! Receivers that reach only the backup, while the primary serves: what the network alert is made of.
//!
//! One such NACK may be two lost datagrams. A second one within [`WITHIN`], from anyone, is a network that lets some
//! receivers reach only the backup.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::time::Duration;

use nackcast_common::clock::Time;
use nackcast_common::ids::RunId;
use nackcast_common::mutation::{Mutation, planted};

/// Two disregarded NACKs so close are an alert.
pub(super) const WITHIN: Duration = Duration::from_secs(60);
/// Receivers that an alert names.
pub const NAMED_MAX: usize = 20;
/// An alert that goes on is told again after so long at the earliest.
const AGAIN: Duration = Duration::from_secs(10);

/// What is told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OnlyBackupReached {
    /// The first of them, by run and address.
    pub receivers: Vec<(RunId, SocketAddr)>,
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
        Some(OnlyBackupReached { receivers, count: self.count, since: self.first, saw: saw() })
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
