//! The other senders of the channel, and what each path last said of them.
//!
//! - A fresh unicast answer decides. Without one, an advertisement younger than three of its intervals does.
//! - The table is bounded, and made of what was signed by certified senders only.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::Duration;

use nackcast_common::clock::Time;
use nackcast_common::ids::{SessionId, StartNumber};
use nackcast_common::keys::VerifyingKey;
use nackcast_proto::wire::{Advertisement, Role, SenderState, Standing};

/// Senders at once: a primary, a few backups, and their runs before a restart.
pub(super) const PEERS_MAX: usize = 16;
/// A peer of which nothing was heard for so long is forgotten.
const FORGET: Duration = Duration::from_secs(60);
/// Intervals after which an advertisement says nothing of now.
const YOUNG_INTERVALS: u32 = 3;

/// Who goes before whom: the primary before backups, backups by rank, then who started first. The least is the best.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Precedence {
    /// What the sender is for.
    pub role: Role,
    /// Order among senders of one role.
    pub rank: u32,
    /// Order among runs.
    pub start_number: StartNumber,
    /// Its run.
    pub session: SessionId,
}

impl Precedence {
    /// Of the sender of an advertisement.
    #[must_use]
    pub const fn of_advertisement(of: &Advertisement) -> Self {
        Self { role: of.role, rank: of.rank, start_number: of.start_number, session: of.session }
    }

    /// Of the sender of a question or an answer.
    #[must_use]
    pub const fn of_standing(of: &Standing) -> Self {
        Self { role: of.role, rank: of.rank, start_number: of.start_number, session: of.session }
    }
}

/// What a sender says of itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Says {
    pub(super) state: SenderState,
    /// It has content, can read it and can send.
    pub(super) is_able: bool,
}

impl Says {
    /// It would answer a NACK, or will in a moment.
    pub(super) const fn serves(self) -> bool {
        self.is_able && matches!(self.state, SenderState::Active)
    }

    /// It sends, or finishes what it sends.
    pub(super) const fn sends(self) -> bool {
        matches!(self.state, SenderState::Active | SenderState::Draining)
    }
}

/// One other sender.
#[derive(Clone, Debug)]
pub(super) struct Peer {
    key: VerifyingKey,
    pub(super) precedence: Precedence,
    /// Where it takes NACKs and probes.
    pub(super) address: SocketAddr,
    pub(super) answered: Option<(Time, Says)>,
    pub(super) heard: Option<(Time, Says)>,
    /// Since when it says that it serves.
    pub(super) active_since: Option<Time>,
    interval: Duration,
    /// What a NACK to it must echo: sequence, its clock, and when that was so.
    pub(super) echo: (u64, u64, Time),
    /// How long its last answer on a connection took.
    took: Duration,
}

impl Peer {
    fn note(&mut self, now: Time, says: Says) {
        if says.serves() {
            self.active_since.get_or_insert(now);
        } else {
            self.active_since = None;
        }
    }

    /// Its last advertisement is young enough to say something of now.
    pub(super) fn heard_young(&self, now: Time) -> Option<(Time, Says)> {
        self.heard.filter(|(at, _)| now < *at + self.interval * YOUNG_INTERVALS)
    }

    /// Until when its last advertisement is young.
    pub(super) fn young_until(&self) -> Option<Time> {
        self.heard.map(|(at, _)| at + self.interval * YOUNG_INTERVALS)
    }

    fn last(&self) -> Time {
        let at = |said: Option<(Time, Says)>| said.map_or(Time::ZERO, |(at, _)| at);
        at(self.answered).max(at(self.heard))
    }

    /// What it does, as far as is known: an answer not older than `since`, else a young advertisement.
    pub(super) fn says(&self, now: Time, since: Time) -> Option<Says> {
        let answered = self.answered.filter(|(at, _)| *at >= since);
        answered.or_else(|| self.heard_young(now)).map(|(_, says)| says)
    }
}

/// All of them.
#[derive(Debug, Default)]
pub(super) struct Peers {
    peers: BTreeMap<SessionId, Peer>,
}

impl Peers {
    pub(super) fn len(&self) -> usize {
        self.peers.len()
    }

    /// An advertisement of another sender.
    pub(super) fn on_advertisement(&mut self, now: Time, from: SocketAddr, advertisement: &Advertisement) {
        let says = Says { state: advertisement.state, is_able: advertisement.manifest.is_some() };
        let precedence = Precedence::of_advertisement(advertisement);
        let address = SocketAddr::new(from.ip(), advertisement.nack_port);
        let Some(peer) = self.entry(now, advertisement.certificate.sender_key, precedence, address) else { return };
        if peer.heard.is_some() && advertisement.sequence <= peer.echo.0 {
            return; // a recording or a straggler
        }
        peer.note(now, says);
        peer.heard = Some((now, says));
        peer.interval = advertisement.interval;
        peer.echo = (advertisement.sequence, advertisement.time, now);
    }

    /// A fresh answer of another sender; how long it took, on a connection.
    pub(super) fn on_answer(&mut self, now: Time, from: SocketAddr, standing: &Standing, took: Option<Duration>) {
        let says = Says { state: standing.state, is_able: standing.can_read && standing.can_send };
        let precedence = Precedence::of_standing(standing);
        let Some(peer) = self.entry(now, standing.certificate.sender_key, precedence, from) else { return };
        peer.took = took.unwrap_or(peer.took);
        if peer.answered.is_some_and(|(at, _)| at > now) {
            return; // another path was faster, and says something newer
        }
        peer.note(now, says);
        peer.answered = Some((now, says));
        peer.address = from;
        if standing.sequence >= peer.echo.0 {
            peer.echo = (standing.sequence, standing.time, now);
        }
    }

    /// The row of a run; none when a later run of the same sender is known.
    fn entry(
        &mut self,
        now: Time,
        key: VerifyingKey,
        precedence: Precedence,
        address: SocketAddr,
    ) -> Option<&mut Peer> {
        let session = precedence.session;
        if !self.peers.contains_key(&session) {
            let same = |peer: &Peer| peer.key == key;
            let later = |peer: &Peer| peer.precedence.start_number > precedence.start_number;
            if self.peers.values().any(|peer| same(peer) && later(peer)) {
                return None;
            }
            self.peers.retain(|_, peer| !same(peer) && now.since(peer.last()) < FORGET);
            if self.peers.len() >= PEERS_MAX {
                let oldest = self.peers.iter().min_by_key(|(_, peer)| peer.last()).map(|(id, _)| *id);
                oldest.and_then(|id| self.peers.remove(&id));
            }
        }
        let interval = Duration::from_secs(1);
        let echo = (0, 0, now);
        let (answered, heard, active_since, took) = (None, None, None, Duration::ZERO);
        let new = Peer { key, precedence, address, answered, heard, active_since, interval, echo, took };
        Some(self.peers.entry(session).or_insert(new))
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &Peer> {
        self.peers.values()
    }

    /// How long an answer on a connection may take, by what it took before; with half as much again, since no two ways are
    /// the same.
    pub(super) fn takes(&self, now: Time) -> Duration {
        let lately = self.peers.values().filter(|peer| now.since(peer.last()) < FORGET);
        lately.map(|peer| peer.took * 3 / 2).max().unwrap_or_default()
    }

    /// Where others of which something was heard lately can be asked.
    pub(super) fn addresses(&self, now: Time) -> impl Iterator<Item = SocketAddr> + '_ {
        self.peers.values().filter(move |peer| now.since(peer.last()) < FORGET / 6).map(|peer| peer.address)
    }
}
