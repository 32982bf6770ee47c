//! The senders that are heard: one row for each session whose signed advertisement verified.
//!
//! Order comes from the sequence inside the signed bytes. The table is bounded; a session that is silent for
//! three of its intervals (and a moment) is lost, and one that a later start of the same sender replaced goes
//! at once.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::ops::Range;
use std::time::Duration;

use nackcast_common::clock::Time;
use nackcast_common::ids::SessionId;
use nackcast_common::mutation::{Mutation, planted};
use nackcast_proto::wire::{Advertisement, Role, SenderState};

use super::choice::Choice;

/// Sessions at once: a primary, a few backups, and their runs before a restart.
pub(super) const SESSIONS_MAX: usize = 16;
/// Intervals without an advertisement after which a sender is lost.
const SILENT_INTERVALS: u32 = 3;
/// And at least so long: a short interval must not make a hiccup a loss.
pub(super) const SILENT_MIN: Duration = Duration::from_millis(1500);
/// A packet number may run ahead of the last advertisement by so much: more than any link carries in its interval.
const PACKETS_AHEAD_MAX: u64 = 1 << 24;
/// Loss is estimated over windows of so many packets, and at first over fewer: a sender reckons with it before content
/// begins.
const LOSS_WINDOW: u64 = 512;
const LOSS_WINDOW_FIRST: u64 = 128;

/// One session.
#[derive(Debug)]
pub(super) struct Session {
    pub(super) advertisement: Advertisement,
    pub(super) from: SocketAddr,
    pub(super) heard_at: Time,
    /// A signed answer echoed our nonce: it is live, not a recording.
    pub(super) confirmed: bool,
    /// Sequence of the last Digest: a recorded one is worth nothing.
    digest_sequence: u64,
    /// Next packet number on the data group.
    next_packet: u64,
    window_start: u64,
    window_received: u64,
    received: u64,
    loss_ppm: u32,
    measured: bool,
}

/// What an advertisement did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Heard {
    /// Of a session that was not known.
    First,
    /// Newer than the last of its session.
    Newer,
    /// A replay or a straggler: ignored.
    Old,
}

#[derive(Debug, Default)]
pub(super) struct Sessions {
    sessions: BTreeMap<SessionId, Session>,
    pub(super) choice: Choice,
}

impl Sessions {
    pub(super) fn get(&self, id: SessionId) -> Option<&Session> {
        self.sessions.get(&id)
    }

    pub(super) fn get_mut(&mut self, id: SessionId) -> Option<&mut Session> {
        self.sessions.get_mut(&id)
    }

    pub(super) fn len(&self) -> usize {
        self.sessions.len()
    }

    /// Takes a verified advertisement. Sessions that it replaces are returned.
    pub(super) fn on_advertisement(
        &mut self,
        now: Time,
        from: SocketAddr,
        advertisement: &Advertisement,
    ) -> (Heard, Vec<SessionId>) {
        let id = advertisement.session;
        if let Some(session) = self.sessions.get_mut(&id) {
            if advertisement.sequence <= session.advertisement.sequence {
                return (Heard::Old, Vec::new());
            }
            session.advertisement = advertisement.clone();
            session.from = from;
            session.heard_at = now;
            return (Heard::Newer, Vec::new());
        }
        let same_sender = |s: &Session| s.advertisement.certificate.sender_key == advertisement.certificate.sender_key;
        if self.sessions.values().any(|s| same_sender(s) && s.advertisement.start_number > advertisement.start_number) {
            return (Heard::Old, Vec::new());
        }
        let replaced: Vec<_> = self.sessions.iter().filter(|(_, s)| same_sender(s)).map(|(id, _)| *id).collect();
        for id in &replaced {
            self.sessions.remove(id);
        }
        if self.sessions.len() >= SESSIONS_MAX {
            let oldest = self.sessions.iter().min_by_key(|(_, s)| s.heard_at).map(|(id, _)| *id);
            oldest.and_then(|id| self.sessions.remove(&id));
        }
        self.sessions.insert(
            id,
            Session {
                advertisement: advertisement.clone(),
                from,
                heard_at: now,
                confirmed: false,
                digest_sequence: 0,
                next_packet: advertisement.data_packets,
                window_start: advertisement.data_packets,
                window_received: 0,
                received: 0,
                loss_ppm: 0,
                measured: false,
            },
        );
        (Heard::First, replaced)
    }

    /// Removes sessions that fell silent.
    pub(super) fn expire(&mut self, now: Time) -> Vec<SessionId> {
        let is_lost = |s: &Session| now >= s.lost_at() && !planted(Mutation::SilenceNotSeen);
        let lost: Vec<_> = self.sessions.iter().filter(|(_, s)| is_lost(s)).map(|(id, _)| *id).collect();
        for id in &lost {
            let session = self.sessions.remove(id);
            if let Some(session) = session.filter(|s| s.advertisement.state == SenderState::Active) {
                self.choice.on_lost(session.heard_at);
            }
        }
        lost
    }

    /// When the next session is lost if nothing of it is heard.
    pub(super) fn next_loss(&self) -> Option<Time> {
        self.sessions.values().filter(|_| !planted(Mutation::SilenceNotSeen)).map(Session::lost_at).min()
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (&SessionId, &Session)> {
        self.sessions.iter()
    }

    /// Whom to ask: see [`Choice`].
    pub(super) fn chosen(&self) -> Option<(SessionId, &Session)> {
        self.choice.of(self.sessions.iter())
    }

    /// Where the sender that serves takes NACKs, as far as it is heard.
    pub(super) fn served_by(&self) -> Option<SocketAddr> {
        let (_, session) = self.chosen().filter(|(_, s)| s.advertisement.state == SenderState::Active)?;
        Some(SocketAddr::new(session.from.ip(), session.advertisement.nack_port))
    }

    /// Looks at the choice with what is heard now.
    pub(super) fn choose(&mut self, now: Time) {
        let mut choice = std::mem::take(&mut self.choice);
        choice.follow(now, self);
        self.choice = choice;
    }

    /// Before a NACK; true when no sender answers.
    pub(super) fn turn(&mut self, now: Time, retry: Duration) -> bool {
        let mut choice = std::mem::take(&mut self.choice);
        let nobody = choice.turn(now, retry, self);
        self.choice = choice;
        nobody
    }

    /// Milliseconds since a primary was heard.
    pub(super) fn primary_age(&self, now: Time) -> u32 {
        let primaries = self.sessions.values().filter(|s| s.advertisement.role == Role::Primary);
        let age = primaries.map(|s| now.since(s.heard_at)).min();
        age.map_or(u32::MAX, |age| u32::try_from(age.as_millis()).unwrap_or(u32::MAX))
    }
}

impl Session {
    fn lost_at(&self) -> Time {
        self.heard_at + (self.advertisement.interval * SILENT_INTERVALS).max(SILENT_MIN)
    }

    /// A Digest arrived; false when it is not newer than the last.
    pub(super) const fn on_digest(&mut self, sequence: u64) -> bool {
        let newer = sequence > self.digest_sequence;
        if newer {
            self.digest_sequence = sequence;
        }
        newer
    }

    /// A packet of the data group opened. False when its number is more than any sender could have reached.
    pub(super) fn on_packet(&mut self, number: u64) -> bool {
        if !self.takes(number) {
            return false;
        }
        self.window_received += 1;
        self.received += 1;
        self.next_packet = self.next_packet.max(number + 1);
        let span = self.next_packet - self.window_start;
        if span >= self.loss_window() {
            let received = self.window_received.min(span);
            let loss = u32::try_from((span - received) * 1_000_000 / span).unwrap_or(1_000_000);
            self.loss_ppm = if self.measured { (self.loss_ppm / 4) * 3 + loss / 4 } else { loss };
            self.measured = true;
            (self.window_start, self.window_received) = (self.next_packet, 0);
        }
        true
    }

    /// Whether [`Self::on_packet`] would take this number.
    pub(super) fn takes(&self, number: u64) -> bool {
        number < self.advertisement.data_packets + PACKETS_AHEAD_MAX
    }

    /// All of these packets opened, one after the other; each must be one that [`Self::takes`] and the one before
    /// the first opened just now.
    pub(super) fn on_packets(&mut self, mut numbers: Range<u64>) {
        while !numbers.is_empty() {
            // As many as leave the window open, then the one that closes it.
            let open = (self.window_start + self.loss_window() - 1).clamp(numbers.start, numbers.end) - numbers.start;
            self.window_received += open;
            self.received += open;
            numbers.start += open;
            self.next_packet = self.next_packet.max(numbers.start);
            if let Some(closing) = numbers.next() {
                self.on_packet(closing);
            }
        }
    }

    const fn loss_window(&self) -> u64 {
        if self.measured { LOSS_WINDOW } else { LOSS_WINDOW_FIRST }
    }

    /// Everything below was sent before now, and has arrived if it ever will.
    pub(super) fn heard_to(&self) -> u64 {
        self.next_packet
    }

    /// Packets that came, in all.
    pub(super) const fn received(&self) -> u64 {
        self.received
    }

    /// The sender said how many packets it used, long enough ago for them to have arrived.
    pub(super) fn settle(&mut self, data_packets: u64) {
        self.next_packet = self.next_packet.max(data_packets);
    }

    pub(super) const fn loss_ppm(&self) -> u32 {
        self.loss_ppm
    }
}
