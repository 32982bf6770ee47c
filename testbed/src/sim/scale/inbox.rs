//! The sender's NACK socket: a queue of finite length, read one datagram after the other.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::time::Duration;

use nackcast_common::clock::Time;
use nackcast_common::ids::RunId;
use nackcast_proto::wire::Nack;

/// Datagrams that the socket holds: what the usual 208 KiB of a socket take of small ones.
const DATAGRAMS_MAX: usize = 256;
/// To open, parse and decide on one, and to answer it.
const SERVICE: Duration = Duration::from_micros(20);

/// A NACK on its way into the engine.
#[derive(Debug)]
pub(super) struct Arrived {
    pub(super) from: SocketAddr,
    pub(super) run: RunId,
    pub(super) packet: u64,
    pub(super) nack: Box<Nack>,
}

#[derive(Debug, Default)]
pub(super) struct Inbox {
    waiting: VecDeque<Arrived>,
    free_at: Time,
    pub(super) dropped: u64,
}

impl Inbox {
    /// A datagram arrives; true when the sender must be woken for it.
    pub(super) fn put(&mut self, now: Time, arrived: Arrived) -> bool {
        if self.waiting.len() >= DATAGRAMS_MAX {
            self.dropped += 1;
            return false;
        }
        if self.waiting.is_empty() {
            self.free_at = self.free_at.max(now + SERVICE);
        }
        self.waiting.push_back(arrived);
        self.waiting.len() == 1
    }

    /// The next one is read by then.
    pub(super) fn next(&self) -> Option<Time> {
        (!self.waiting.is_empty()).then_some(self.free_at)
    }

    pub(super) fn take(&mut self, now: Time) -> Option<Arrived> {
        let arrived = self.waiting.pop_front()?;
        self.free_at = now + SERVICE;
        Some(arrived)
    }
}
