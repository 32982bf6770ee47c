//! Datagrams of the protocol that passed one place, by type: the header's type stands in the clear.

use nackcast_proto::wire::{DatagramType, Header};
use serde::Serialize;

/// How many types there are.
const TYPES: usize = 6;

/// Datagrams and their bytes, without UDP's header and those below.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Amount {
    /// How many datagrams.
    pub datagrams: u64,
    /// How many bytes.
    pub bytes: u64,
}

/// What passed, by type.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Datagrams([Amount; TYPES]);

impl Datagrams {
    /// Of what type a UDP payload is; none if it is not ours.
    #[must_use]
    pub fn kind(payload: &[u8]) -> Option<DatagramType> {
        Header::read(payload).ok().map(|header| header.datagram_type)
    }

    /// Counts a UDP payload, if it is ours.
    pub fn see(&mut self, payload: &[u8]) {
        if let Some(kind) = Self::kind(payload) {
            self.add(kind, payload.len());
        }
    }

    /// Counts a datagram.
    pub fn add(&mut self, kind: DatagramType, length: usize) {
        if let Some(amount) = self.0.get_mut(index(kind)) {
            amount.datagrams += 1;
            amount.bytes += length as u64;
        }
    }

    /// What passed of one type.
    #[must_use]
    pub fn of(&self, kind: DatagramType) -> Amount {
        self.0.get(index(kind)).copied().unwrap_or_default()
    }
}

/// Types are numbered from 1.
const fn index(kind: DatagramType) -> usize {
    kind as usize - 1
}
