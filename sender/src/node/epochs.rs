//! The next epoch: announced for a while, so that receivers get its secret, then entered with a new session.
//!
//! A session has one epoch: keys of another one, and packet numbers from zero, come with a new session id only.

use std::time::Duration;

use nackcast_common::clock::Time;
use nackcast_common::ids::Epoch;
use nackcast_proto::wire::NextEpoch;

use super::SenderNode;

/// Where a sender stands between two epochs.
#[derive(Debug, Default)]
pub(super) struct Rotation {
    /// What receivers are told, and when it begins.
    announced: Option<(Epoch, Time)>,
    /// The next session is to be of this epoch.
    entering: Option<Epoch>,
}

impl Rotation {
    /// For an advertisement. It stays until the epoch began, which may take longer than was announced.
    pub(super) fn told(&self, now: Time) -> Option<NextEpoch> {
        self.announced.map(|(epoch, at)| NextEpoch { epoch, within: at.since(now) })
    }

    /// A session begins: in which epoch.
    pub(super) fn enter(&mut self, current: Epoch) -> Epoch {
        let epoch = self.entering.take().unwrap_or(current);
        self.announced = self.announced.filter(|(announced, _)| *announced > epoch);
        epoch
    }
}

impl SenderNode {
    /// The epoch of this session.
    #[must_use]
    pub const fn epoch(&self) -> Epoch {
        self.epoch
    }

    /// Tells receivers that an epoch begins after so long; nothing else changes.
    pub fn announce_epoch(&mut self, now: Time, epoch: Epoch, within: Duration) {
        // Saying it again does not put it off.
        if epoch > self.epoch && self.rotation.announced.is_none_or(|(announced, _)| epoch > announced) {
            tracing::info!(channel = self.tally.name(), %epoch, ?within, "the next epoch is announced");
            self.rotation.announced = Some((epoch, now + within));
        }
    }

    /// What is served next is of this epoch. When true, it must wait for the next session, whose start is ordered
    /// ([`super::Work::Roll`]); else this session has the epoch already.
    pub fn enter_epoch(&mut self, epoch: Epoch) -> bool {
        // Epochs only grow: a manifest of an earlier one is served in this one. Before anything was served, all that is
        // known is a key file, which may be ahead of its publisher.
        let is_over = epoch < self.epoch && self.published.is_some();
        if epoch == self.epoch || is_over || self.epochs.secret(epoch).is_none() {
            return false;
        }
        self.rotation.entering = Some(epoch);
        self.want_roll();
        true
    }
}
