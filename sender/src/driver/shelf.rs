//! What a channel gives to those who pull, and what it says to those who ask what it does.
//!
//! - Blocks are the same verified ones that it multicasts.
//! - What it says of itself is what its task said last, and nothing when the task does not go on: a process that answers
//!   is no sender that serves.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use nackcast_common::clock::{Clock, Time};
use nackcast_common::ids::ObjectId;
use nackcast_common::keys::VerifyingKey;
use nackcast_proto::pull::{Joined, Offer, Shelf};
use nackcast_proto::wire::Standing;
use tokio::sync::{mpsc, watch};

use super::origin::Origin;
use crate::gate::Gate;

/// A task that said nothing for so long does not go on; it says something twice a second.
const STANDING_AGE_MAX: Duration = Duration::from_secs(2);

/// What a channel serves now, as its task says.
#[derive(Clone, Debug, Default)]
pub(crate) struct Served {
    pub(crate) origin: Origin,
    pub(crate) offer: Option<Offer>,
    pub(crate) standing: Option<Standing>,
}

/// One channel's blocks, for the threads that serve QUIC.
#[derive(Debug)]
pub(crate) struct SenderShelf {
    pub(crate) served: watch::Receiver<Served>,
    /// What was given is counted there.
    pub(crate) given: Arc<AtomicU64>,
    /// Whom the channel lets in.
    pub(crate) gate: Arc<Gate>,
    /// Takes what other senders say of themselves when they ask. Full: they ask again.
    pub(crate) askers: mpsc::Sender<Standing>,
    /// The task's clock.
    pub(crate) clock: Clock,
}

impl Shelf for SenderShelf {
    fn manifest(&self) -> Option<Offer> {
        self.served.borrow().offer.clone()
    }

    fn block(&self, object: ObjectId, block: u32) -> Option<Bytes> {
        let origin = self.served.borrow().origin.clone();
        let read = origin.read((object, block));
        let (layout, bytes) = read.inspect_err(|error| tracing::debug!(%object, block, "not given: {error}")).ok()?;
        // A part of the manifest has one block, whatever is asked for.
        if block >= layout.block_count() {
            return None;
        }
        self.given.fetch_add(bytes.len() as u64, Ordering::Relaxed);
        Some(bytes)
    }

    fn probe(&self, asker: Option<Standing>) -> Option<Standing> {
        if asker.is_some_and(|asker| self.askers.try_send(asker).is_err()) {
            tracing::debug!("a question of another sender found no room; it asks again");
        }
        let (now, standing) = (self.clock.now(), self.served.borrow().standing?);
        // Whoever forwards a NACK to us echoes our clock: it must be that of the answer.
        (now.since(Time(standing.time)) < STANDING_AGE_MAX).then_some(Standing { time: now.0, ..standing })
    }

    fn join(&self, identity: &VerifyingKey) -> Joined {
        self.gate.join(self.clock.now(), identity)
    }
}

#[cfg(test)]
mod tests {
    use nackcast_common::admission::Admission;
    use nackcast_common::epochs::Epochs;
    use nackcast_common::ids::{ChannelId, Epoch, SessionId, StartNumber};
    use nackcast_common::keys::{EpochSecret, SigningKey};
    use nackcast_proto::pull::Membership;
    use nackcast_proto::wire::{Role, SenderCertificate, SenderState};

    use super::*;

    fn gate() -> Gate {
        let epochs = Epochs::of_secret(ChannelId([7; 16]), Epoch(1), EpochSecret([5; 32]));
        let publisher = SigningKey::from_seed([1; 32]).verifying_key();
        let membership = Membership::new(epochs.clone(), Epoch(1), publisher, None);
        Gate::new(epochs, Admission { epoch: Epoch(1), receivers: None }, Arc::new(membership), true)
    }

    #[test]
    fn a_task_that_stands_still_says_nothing() {
        let (clock, key) = (Clock::start(), SigningKey::from_seed([1; 32]));
        let channel = ChannelId([7; 16]);
        let standing = Standing {
            channel,
            session: SessionId(1),
            start_number: StartNumber(1),
            certificate: SenderCertificate::issue(&key, channel, key.verifying_key()),
            role: Role::Primary,
            rank: 0,
            state: SenderState::Active,
            can_read: true,
            can_send: true,
            sequence: 1,
            time: clock.now().0,
        };
        let (served, shown) = watch::channel(Served::default());
        let (askers, mut asked) = mpsc::channel(1);
        let shelf = SenderShelf { served: shown, given: Arc::default(), gate: Arc::new(gate()), askers, clock };
        assert_eq!(shelf.probe(Some(standing)), None, "nothing was said yet");
        assert_eq!(asked.try_recv(), Ok(standing));
        served.send_modify(|served| served.standing = Some(standing));
        assert!(shelf.probe(None).is_some_and(|told| told.state == SenderState::Active && told.time >= standing.time));
        // Nothing more is said: this would go on for ever.
        while shelf.probe(None).is_some() {
            std::thread::park_timeout(Duration::from_millis(20));
        }
    }
}
