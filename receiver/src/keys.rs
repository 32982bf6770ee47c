//! The keys of the sessions that are heard, derived when first needed, and those of our own NACKs.
//!
//! - A key is kept only for a session whose advertisement verified; the table is bounded.
//! - A session has one epoch, and what we send to it is sealed with the same.

use std::collections::BTreeMap;

use nackcast_common::epochs::Epochs;
use nackcast_common::ids::{Epoch, RunId, SessionId};
use nackcast_common::keys::{EpochSecret, Flow};
use nackcast_common::seal::FlowKey;

const SESSIONS_MAX: usize = 16;

/// One session's keys.
#[derive(Debug)]
pub(crate) struct SessionKeys {
    epoch: Epoch,
    pub(crate) advertisement: FlowKey,
    pub(crate) data: FlowKey,
    pub(crate) answer: FlowKey,
}

#[derive(Debug)]
pub(crate) struct Keys {
    epochs: Epochs,
    run: RunId,
    sessions: BTreeMap<SessionId, (SessionKeys, u64)>,
    used: u64,
    /// Of our run, in the epoch that was used last.
    own: Option<(Epoch, FlowKey)>,
}

impl Keys {
    pub(crate) const fn new(epochs: Epochs, run: RunId) -> Self {
        Self { epochs, run, sessions: BTreeMap::new(), used: 0, own: None }
    }

    /// The secrets that are held.
    pub(crate) const fn epochs(&self) -> &Epochs {
        &self.epochs
    }

    /// Other secrets. Keys of sessions stay.
    pub(crate) fn replace(&mut self, epochs: Epochs) {
        (self.epochs, self.own) = (epochs, None);
    }

    /// One more secret; false when it is not new.
    pub(crate) fn hold(&mut self, epoch: Epoch, secret: EpochSecret) -> bool {
        self.epochs.hold(epoch, secret)
    }

    /// A datagram of this epoch was authentic.
    pub(crate) fn heard(&mut self, epoch: Epoch) {
        self.epochs.heard(epoch);
    }

    /// The epoch that a header names, and the key of the advertisements of one of its sessions.
    pub(crate) fn of_advertisements(&self, epoch_low: u8, session: u64) -> Option<(Epoch, FlowKey)> {
        let (epoch, secret) = self.epochs.by_low(epoch_low)?;
        Some((epoch, secret.flow_key(self.epochs.channel(), session, Flow::Advertisement)))
    }

    /// The keys of a known session.
    pub(crate) fn get(&self, session: u64) -> Option<&SessionKeys> {
        self.sessions.get(&SessionId(session)).map(|(keys, _)| keys)
    }

    /// The session's advertisement verified: its keys are kept.
    pub(crate) fn keep(&mut self, session: SessionId, epoch: Epoch) {
        self.used += 1;
        if let Some((_, used)) = self.sessions.get_mut(&session) {
            *used = self.used;
            return;
        }
        let Some(secret) = self.epochs.secret(epoch) else { return };
        if self.sessions.len() >= SESSIONS_MAX {
            let oldest = self.sessions.iter().min_by_key(|(_, (_, used))| *used).map(|(id, _)| *id);
            oldest.and_then(|id| self.sessions.remove(&id));
        }
        let derive = |flow| secret.flow_key(self.epochs.channel(), session.0, flow);
        let keys = SessionKeys {
            epoch,
            advertisement: derive(Flow::Advertisement),
            data: derive(Flow::Data),
            answer: derive(Flow::ToReceiver),
        };
        self.sessions.insert(session, (keys, self.used));
    }

    /// The epoch and the key that seal what goes to a session.
    pub(crate) fn sealing_for(&mut self, session: SessionId) -> Option<(Epoch, &FlowKey)> {
        let epoch = self.get(session.0)?.epoch;
        if self.own.as_ref().is_none_or(|(own, _)| *own != epoch) {
            let key = self.epochs.secret(epoch)?.flow_key(self.epochs.channel(), self.run.0, Flow::ToSender);
            self.own = Some((epoch, key));
        }
        self.own.as_ref().map(|(epoch, key)| (*epoch, key))
    }
}

#[cfg(test)]
mod tests {
    use nackcast_common::ids::ChannelId;
    use nackcast_common::keys::SenderMaster;

    use super::*;

    const CHANNEL: ChannelId = ChannelId([7; 16]);

    fn seals_alike(a: &FlowKey, b: &FlowKey) -> bool {
        let sealed = |key: &FlowKey| {
            let mut datagram = [0_u8; 30];
            key.seal_in_place(0, 4, &mut datagram);
            datagram
        };
        sealed(a) == sealed(b)
    }

    #[test]
    fn what_goes_to_a_session_is_sealed_in_its_epoch() {
        let secret = |epoch| SenderMaster([1; 32]).epoch(CHANNEL, Epoch(epoch));
        let mut keys = Keys::new(Epochs::of_secret(CHANNEL, Epoch(1), secret(1)), RunId(5));
        assert!(keys.of_advertisements(2, 8).is_none());
        assert!(keys.hold(Epoch(2), secret(2)) && !keys.hold(Epoch(2), secret(2)));
        assert_eq!(keys.of_advertisements(2, 8).unwrap().0, Epoch(2));
        keys.keep(SessionId(7), Epoch(1));
        keys.keep(SessionId(8), Epoch(2));
        keys.keep(SessionId(9), Epoch(3));
        assert!(keys.get(9).is_none(), "its secret is not held");
        for (session, epoch) in [(7, 1), (8, 2), (7, 1)] {
            let (told, key) = keys.sealing_for(SessionId(session)).unwrap();
            assert!(told == Epoch(epoch) && seals_alike(key, &secret(epoch).flow_key(CHANNEL, 5, Flow::ToSender)));
        }
        assert!(keys.sealing_for(SessionId(9)).is_none());
    }
}
