//! The secrets of a channel's epochs, as far as a node has them: a sender has the master and so all of them, a
//! receiver those that it was given.
//!
//! - A datagram's header has the low byte of its epoch. It is looked for among the secrets that are held. With the
//!   master it is that epoch of this byte that is nearest to the newest one heard: some 127 at once may be gone by.
//! - Of a receiver's secrets the newest few are kept.

use std::collections::BTreeMap;

use crate::ids::{ChannelId, Epoch};
use crate::keys::{EpochSecret, SenderMaster};

/// Secrets that are held at once: of the current epoch, of the next, and of one more that was announced before that began.
pub const HELD_MAX: usize = 3;

/// The secrets of one channel.
#[derive(Clone, Debug)]
pub struct Epochs {
    channel: ChannelId,
    master: Option<SenderMaster>,
    held: BTreeMap<Epoch, EpochSecret>,
    near: Epoch,
}

impl Epochs {
    /// None yet.
    #[must_use]
    pub const fn none(channel: ChannelId) -> Self {
        Self { channel, master: None, held: BTreeMap::new(), near: Epoch(0) }
    }

    /// That of one epoch, as a ticket has it.
    #[must_use]
    pub fn of_secret(channel: ChannelId, epoch: Epoch, secret: EpochSecret) -> Self {
        let mut epochs = Self::none(channel);
        epochs.hold(epoch, secret);
        epochs
    }

    /// All, of which those near `epoch` are used.
    #[must_use]
    pub const fn of_master(channel: ChannelId, master: SenderMaster, epoch: Epoch) -> Self {
        Self { channel, master: Some(master), held: BTreeMap::new(), near: epoch }
    }

    /// The channel.
    #[must_use]
    pub const fn channel(&self) -> ChannelId {
        self.channel
    }

    /// One more secret; false when it was known, or is older than those that are kept.
    pub fn hold(&mut self, epoch: Epoch, secret: EpochSecret) -> bool {
        let is_new = self.held.insert(epoch, secret).is_none();
        self.near = self.near.max(epoch);
        while self.held.len() > HELD_MAX {
            self.held.pop_first();
        }
        is_new && self.held.contains_key(&epoch)
    }

    /// A datagram of this epoch was authentic: the next ones are near it.
    pub fn heard(&mut self, epoch: Epoch) {
        self.near = self.near.max(epoch);
    }

    /// The secret of an epoch.
    #[must_use]
    pub fn secret(&self, epoch: Epoch) -> Option<EpochSecret> {
        match &self.master {
            Some(master) => Some(master.epoch(self.channel, epoch)),
            None => self.held.get(&epoch).cloned(),
        }
    }

    /// The epoch that a header means by its low byte; none when its secret is not here.
    #[must_use]
    pub fn named(&self, low: u8) -> Option<Epoch> {
        if self.master.is_none() {
            return self.held.keys().rev().find(|epoch| epoch.low() == low).copied();
        }
        let away = i32::from(low.wrapping_sub(self.near.low()).cast_signed());
        // Before the first one only later ones are left.
        self.near.0.checked_add_signed(away).or_else(|| self.near.0.checked_add_signed(away + 256)).map(Epoch)
    }

    /// The same, with its secret.
    #[must_use]
    pub fn by_low(&self, low: u8) -> Option<(Epoch, EpochSecret)> {
        let epoch = self.named(low)?;
        Some((epoch, self.secret(epoch)?))
    }

    /// The newest epoch whose secret is at hand: of those that were given, or near which senders are.
    #[must_use]
    pub fn newest(&self) -> Option<Epoch> {
        match &self.master {
            Some(_) => Some(self.near),
            None => self.held.keys().next_back().copied(),
        }
    }

    /// Whether it has the secrets of all epochs.
    #[must_use]
    pub const fn holds_all(&self) -> bool {
        self.master.is_some()
    }

    /// What was given, to be kept.
    pub fn held(&self) -> impl Iterator<Item = (Epoch, &EpochSecret)> {
        self.held.iter().map(|(epoch, secret)| (*epoch, secret))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const CHANNEL: ChannelId = ChannelId([7; 16]);

    fn secret(byte: u8) -> EpochSecret {
        EpochSecret([byte; 32])
    }

    #[test]
    fn the_newest_secrets_are_held_and_found_by_the_low_byte() {
        let mut epochs = Epochs::of_secret(CHANNEL, Epoch(0x1fe), secret(1));
        assert!(epochs.hold(Epoch(0x1ff), secret(2)));
        assert!(!epochs.hold(Epoch(0x1ff), secret(2)), "it is known");
        assert!(epochs.hold(Epoch(0x200), secret(3)));
        assert!(!epochs.hold(Epoch(1), secret(4)), "it is older than what is kept");
        assert_eq!(epochs.held().map(|(epoch, _)| epoch.0).collect::<Vec<_>>(), [0x1fe, 0x1ff, 0x200]);
        assert_eq!(epochs.by_low(0), Some((Epoch(0x200), secret(3))));
        assert_eq!(epochs.by_low(0xff), Some((Epoch(0x1ff), secret(2))));
        assert_eq!((epochs.by_low(0xfd), epochs.by_low(1)), (None, None));
        assert_eq!(epochs.newest(), Some(Epoch(0x200)));
        assert_eq!(Epochs::none(CHANNEL).newest(), None);
    }

    #[test]
    fn the_master_opens_what_is_near_and_follows() {
        let master = SenderMaster([1; 32]);
        let mut epochs = Epochs::of_master(CHANNEL, master.clone(), Epoch(3));
        for epoch in [0, 3, 11, 23, 130, 255] {
            let low = Epoch(epoch).low();
            assert_eq!(epochs.by_low(low), Some((Epoch(epoch), master.epoch(CHANNEL, Epoch(epoch)))));
        }
        epochs.heard(Epoch(0x2fe));
        assert_eq!(epochs.by_low(0x80).unwrap().0, Epoch(0x280), "far behind");
        epochs.heard(Epoch(5));
        assert_eq!(epochs.by_low(1).unwrap().0, Epoch(0x301));
        assert_eq!(epochs.newest(), Some(Epoch(0x2fe)));
    }
}
