//! What a channel gives to those who pull: the same verified blocks that it multicasts.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;
use nackcast_common::ids::ObjectId;
use nackcast_common::keys::VerifyingKey;
use nackcast_proto::pull::{Joined, Offer, Probe, Shelf};
use tokio::sync::watch;

use super::origin::Origin;
use crate::gate::Gate;

/// What a channel serves now, as its task says.
#[derive(Clone, Debug, Default)]
pub(crate) struct Served {
    pub(crate) origin: Origin,
    pub(crate) offer: Option<Offer>,
    pub(crate) probe: Probe,
}

/// One channel's blocks, for the threads that serve QUIC.
#[derive(Debug)]
pub(crate) struct SenderShelf {
    served: watch::Receiver<Served>,
    given: Arc<AtomicU64>,
    gate: Arc<Gate>,
}

impl SenderShelf {
    /// What was given is counted there.
    pub(crate) const fn new(served: watch::Receiver<Served>, given: Arc<AtomicU64>, gate: Arc<Gate>) -> Self {
        Self { served, given, gate }
    }
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

    fn probe(&self) -> Probe {
        self.served.borrow().probe
    }

    fn join(&self, identity: &VerifyingKey) -> Joined {
        self.gate.join(identity)
    }
}
