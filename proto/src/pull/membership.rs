//! What a node is to a channel while epochs change: as whom it calls others, and whom it lets in.
//!
//! One is shared by all connections of a channel and changed by whoever follows the epochs.
//! - A receiver must prove the secret of the epoch in force, or of a later one. Who was taken off the channel holds
//!   neither, and a connection from before says nothing any more.
//! - A sender may prove that of any epoch that is known here: its certificate says who it is.

use std::sync::{Mutex, MutexGuard, PoisonError};

use nackcast_common::epochs::Epochs;
use nackcast_common::ids::{ChannelId, Epoch};
use nackcast_common::keys::{Side, SigningKey, VerifyingKey};

use super::hello::{HelloError, Member, Peer, Subject, introduction};
use crate::wire::SenderCertificate;

/// What a node is to a channel.
#[derive(Debug)]
pub struct Membership {
    channel: ChannelId,
    publisher: VerifyingKey,
    sender: Option<(SenderCertificate, SigningKey)>,
    now: Mutex<Now>,
}

#[derive(Debug)]
struct Now {
    epochs: Epochs,
    /// Whoever proves less is no member any more.
    least: Epoch,
}

/// A client that was greeted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Greeted {
    /// It proved the secret of this epoch.
    Member(Peer, Epoch),
    /// It has none, and wants to join.
    Joins,
}

impl Membership {
    /// A node that holds these secrets and has perhaps the right to send; `least` is the epoch in force.
    #[must_use]
    pub const fn new(
        epochs: Epochs,
        least: Epoch,
        publisher: VerifyingKey,
        sender: Option<(SenderCertificate, SigningKey)>,
    ) -> Self {
        Self { channel: epochs.channel(), publisher, sender, now: Mutex::new(Now { epochs, least }) }
    }

    /// That of a member whose channel stays in one epoch.
    #[must_use]
    pub fn of(member: Member) -> Self {
        let Member { channel, epoch, secret, publisher, sender } = member;
        Self::new(Epochs::of_secret(channel, epoch, secret), epoch, publisher, sender)
    }

    /// The channel.
    #[must_use]
    pub const fn channel(&self) -> ChannelId {
        self.channel
    }

    /// Who certifies senders.
    #[must_use]
    pub const fn publisher(&self) -> &VerifyingKey {
        &self.publisher
    }

    /// From now on these secrets are held, and this epoch is in force.
    pub fn follow(&self, epochs: Epochs, least: Epoch) {
        *self.lock() = Now { epochs, least };
    }

    /// As whom this node calls others: by the newest secret. None while it has none.
    #[must_use]
    pub fn newest(&self) -> Option<Member> {
        let epoch = self.lock().epochs.newest()?;
        self.member(epoch)
    }

    /// As whom else, where that one is refused: by the other secrets that it was given, the newest first. Whoever is called
    /// may not have the newest yet.
    #[must_use]
    pub fn others(&self) -> Vec<Member> {
        let held: Vec<_> = self.lock().epochs.held().map(|(epoch, _)| epoch).collect();
        held.into_iter().rev().skip(1).filter_map(|epoch| self.member(epoch)).collect()
    }

    fn member(&self, epoch: Epoch) -> Option<Member> {
        let secret = self.lock().epochs.secret(epoch)?;
        let (channel, publisher) = (self.channel, self.publisher);
        Some(Member { channel, epoch, secret, publisher, sender: self.sender.clone() })
    }

    /// Checks what a client says first, and gives the answer.
    pub(super) fn greet(&self, binding: &[u8; 32], hello: &[u8]) -> Result<(Vec<u8>, Greeted), HelloError> {
        let Subject { channel, epoch } = Subject::of(hello)?;
        if channel != self.channel {
            return Err(HelloError::Channel(channel));
        }
        let Some(epoch) = epoch else {
            let right = self.sender.as_ref().ok_or(HelloError::NoSender)?;
            return Ok((introduction(channel, right, binding), Greeted::Joins));
        };
        let ours = self.lock().least;
        let member = self.member(epoch).ok_or(HelloError::Epoch { theirs: epoch, ours })?;
        let greeted = Greeted::Member(member.check(Side::Client, binding, hello)?, epoch);
        if !self.still_takes(&greeted) {
            return Err(HelloError::Over { theirs: epoch, ours });
        }
        Ok((member.hello(Side::Server, binding), greeted))
    }

    /// Whether a client that was greeted is still what it was.
    pub(super) fn still_takes(&self, greeted: &Greeted) -> bool {
        match greeted {
            Greeted::Member(peer, epoch) => peer.sender.is_some() || *epoch >= self.lock().least,
            Greeted::Joins => true,
        }
    }

    fn lock(&self) -> MutexGuard<'_, Now> {
        // What is behind it is whole between two statements.
        self.now.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
