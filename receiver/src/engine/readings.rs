//! Readings: what this receiver has read, for a sender that chooses its rate by it.
//!
//! - Told as often as the sender asks, once something came. While a sender without a rate limit waits for the slowest,
//!   it is told about four times in what the socket holds, too.
//! - While memory for blocks runs short nothing is told: the sender shall wait for the disk as well.
//! - Whoever is complete tells nothing, and is not waited for.

use std::ops::Range;
use std::time::Duration;

use nackcast_common::clock::Time;
use nackcast_common::ids::SessionId;
use nackcast_proto::wire::{Nack, Reading};

use super::ReceiverEngine;
use super::event::Transmit;
use super::sessions::Session;

/// Told this often in what the socket holds.
const PARTS: u64 = 4;

#[derive(Debug, Default)]
pub(super) struct Readings {
    /// Packets that the socket holds; 0: it is not told.
    window: u32,
    /// Who is asked for repair, and whose packets these are.
    chosen: Option<SessionId>,
    session: SessionId,
    /// Next packet expected as it was told last, and how many below it came.
    told: u64,
    below: u64,
    /// Packets that came since: how many, and the sums of their numbers and times above those of the first.
    came: u64,
    first: (u64, Time),
    sums: (u64, u64),
    at: Option<Time>,
}

impl Readings {
    /// Packets of a session were read; they had come at `arrived`. How long they wait for this program is no delay of
    /// the way.
    pub(super) fn on_packets(
        &mut self,
        now: Time,
        arrived: Time,
        session: SessionId,
        row: &Session,
        numbers: Range<u64>,
    ) {
        let every = row.advertisement.reading_every;
        let count = numbers.end - numbers.start;
        if every.is_zero() || count == 0 || self.chosen != Some(session) {
            return;
        }
        if self.session != session {
            *self = Self { window: self.window, chosen: self.chosen, session, ..Self::default() };
        }
        if self.came == 0 {
            self.first = (numbers.start, arrived);
        }
        self.came += count;
        self.below += self.told.clamp(numbers.start, numbers.end) - numbers.start;
        // Packets may overtake each other: those that are behind the first count as it does.
        let ahead = numbers.start.saturating_sub(self.first.0);
        self.sums.0 += ahead * count + count * (count - 1) / 2;
        self.sums.1 += arrived.0.saturating_sub(self.first.1.0) * count;
        let at = self.at.get_or_insert(now + every);
        let is_waited_for = self.window > 0 && row.advertisement.rate_bps == 0;
        if is_waited_for && row.heard_to().saturating_sub(self.told) >= u64::from(self.window) / PARTS {
            *at = now;
        }
    }

    /// Begins anew: nobody wants to know.
    fn forget(&mut self) {
        *self = Self { window: self.window, chosen: self.chosen, ..Self::default() };
    }

    pub(super) const fn due(&self) -> Option<Time> {
        self.at
    }

    fn take(&mut self, heard: u64, received: u64) -> Reading {
        let (count, (number, time)) = (self.came, self.first);
        let mean = |sum: u64, scale: u64| (sum * scale).checked_div(count).unwrap_or(0);
        let reading = Reading {
            window: self.window,
            up_to: self.told,
            received: self.below,
            count,
            arrival: time.0 + mean(self.sums.1, 1),
            number: number * 16 + mean(self.sums.0, 16),
        };
        (self.told, self.below, self.came, self.sums) = (heard, received, 0, (0, 0));
        reading
    }
}

impl ReceiverEngine {
    /// The socket holds so many packets: a sender that has no rate limit waits for them to be read.
    pub const fn tell_window(&mut self, packets: u32) {
        self.readings.window = packets;
    }

    pub(super) fn tell_reading(&mut self, now: Time) {
        self.readings.chosen = self.sessions.chosen().map(|(id, _)| id);
        if self.readings.at.is_none_or(|at| now < at) {
            return;
        }
        // Only who is asked for repair counts on being read.
        let session = self.sessions.chosen().filter(|(id, _)| *id == self.readings.session && !self.complete);
        let every = session.map_or(Duration::ZERO, |(_, session)| session.advertisement.reading_every);
        let Some((_, session)) = session.filter(|_| !every.is_zero()) else {
            self.readings.forget();
            return;
        };
        if self.slots.is_short() {
            self.readings.at = Some(now + every);
            return;
        }
        self.readings.at = None;
        let (heard, received) = (session.heard_to(), session.received());
        let Some((to, nack)) = self.nack_with(now, 0) else { return };
        let reading = Some(self.readings.take(heard, received));
        let packet = self.cycle.number();
        self.transmits.push_back(Transmit { to, packet, nack: Nack { reading, ..nack } });
    }
}
