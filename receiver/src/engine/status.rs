//! Status: how far this receiver has read, for a sender without a rate limit, which waits for the slowest.
//!
//! It is told about four times in what the socket holds, and a moment after the last packet. While memory for blocks
//! runs short nothing is told: the sender shall wait for the disk, too. Whoever is complete is not waited for.

use std::time::Duration;

use nackcast_common::clock::Time;
use nackcast_common::ids::SessionId;
use nackcast_proto::wire::Nack;

use super::ReceiverEngine;
use super::event::Transmit;

/// Told this often in what the socket holds...
const PARTS: u64 = 4;
/// ...and so long after a packet that was not told of.
const LATEST: Duration = Duration::from_millis(10);

#[derive(Debug, Default)]
pub(super) struct Status {
    /// Packets that the socket holds; 0: nothing is told.
    window: u32,
    session: SessionId,
    /// Next packet expected, and as it was told last.
    heard: u64,
    told: u64,
    /// When it is told although few packets came.
    at: Option<Time>,
}

impl Status {
    pub(super) const fn window(&self) -> u32 {
        self.window
    }

    /// A packet of a session that asks for it was read.
    pub(super) fn on_packet(&mut self, now: Time, session: SessionId, heard: u64) {
        if self.window == 0 {
            return;
        }
        if self.session != session {
            (self.session, self.told) = (session, 0);
        }
        self.heard = heard;
        if self.at.is_none() {
            self.at = Some(now + LATEST);
        }
        if heard.saturating_sub(self.told) >= u64::from(self.window) / PARTS {
            self.at = Some(now);
        }
    }

    pub(super) const fn due(&self) -> Option<Time> {
        self.at
    }
}

impl ReceiverEngine {
    /// The socket holds so many packets: a sender that has no rate limit is told how far they were read.
    pub const fn tell_window(&mut self, packets: u32) {
        self.status.window = packets;
    }

    pub(super) fn tell_status(&mut self, now: Time) {
        if self.status.at.is_none_or(|at| now < at) {
            return;
        }
        if self.slots.is_short() {
            self.status.at = Some(now + LATEST);
            return;
        }
        self.status.at = None;
        // Only who is asked for repair counts on being read.
        if self.sessions.chosen().is_none_or(|(id, _)| id != self.status.session) || self.complete {
            return;
        }
        let Some((to, nack)) = self.nack_with(now, 0) else { return };
        self.status.told = self.status.heard;
        let packet = self.cycle.number();
        self.transmits.push_back(Transmit { to, packet, nack: Nack { status: true, ..nack } });
    }
}
