//! Which sender is asked.
//!
//! | asks | on | then asks |
//! |---|---|---|
//! | the best sender | [`TRIES`] of `nack_retry` without an answer | the next one, at last the best one again: a cycle |
//! | another one | it answers `primary-alive`, or the best one is heard again | the best one |
//! | any | [`CYCLES_MAX`] cycles without any answer | on, and says that no sender answers |
//!
//! The best sender is one that is active, then one that stands by, then one that finishes; of these the primary, then
//! backups by rank, then the latest start. Who stands by is asked only when no active sender was heard for a while, or
//! none answers, or one says that it stopped: a receiver that has just begun to listen may not have heard it yet.

use std::cmp::Reverse;
use std::time::Duration;

use nackcast_common::clock::Time;
use nackcast_common::ids::SessionId;
use nackcast_proto::wire::{Advertisement, SenderState};

use super::sessions::{SILENT_MIN, Session, Sessions};

/// NACKs without an answer before another sender is asked; a lone one is asked twice as often in a cycle.
const TRIES: u32 = 2;
/// Cycles without an answer after which no sender is believed to answer.
pub(super) const CYCLES_MAX: u32 = 3;

/// State of the choice.
#[derive(Debug, Default)]
pub(super) struct Choice {
    /// Asked instead of the best one, and since when.
    instead: Option<(SessionId, Time)>,
    /// Who was asked last, and when its last try began.
    asked: Option<(SessionId, Time)>,
    tries: u32,
    cycles: u32,
    told: bool,
    /// Since when no active sender is heard.
    quiet_since: Option<Time>,
}

/// The better, the smaller.
fn rank(advertisement: &Advertisement) -> impl Ord + use<> {
    let class = match advertisement.state {
        SenderState::Active => 0,
        SenderState::Standby => 1,
        SenderState::Draining => 2,
        SenderState::Starting | SenderState::Paused => 3,
    };
    (class, advertisement.role, advertisement.rank, Reverse(advertisement.start_number))
}

fn is_active(session: &Session) -> bool {
    session.advertisement.state == SenderState::Active
}

impl Choice {
    /// Whom to ask among those that are heard.
    pub(super) fn of<'a>(
        &self,
        sessions: impl Iterator<Item = (&'a SessionId, &'a Session)>,
    ) -> Option<(SessionId, &'a Session)> {
        let instead = self.instead.map(|(id, _)| id);
        let best = sessions.min_by_key(|(id, session)| (Some(**id) != instead, rank(&session.advertisement)));
        best.map(|(id, session)| (*id, session))
    }

    /// Something was heard, or time passed.
    pub(super) fn follow(&mut self, now: Time, sessions: &Sessions) {
        let active = sessions.iter().any(|(_, session)| is_active(session));
        if active {
            self.quiet_since = None;
        } else {
            self.quiet_since.get_or_insert(now);
        }
        let Some((id, since)) = self.instead else { return };
        let is_back = |(other, session): (&SessionId, &Session)| {
            *other != id && is_active(session) && session.heard_at > since && better(sessions, *other, id)
        };
        if sessions.get(id).is_none() || sessions.iter().any(is_back) {
            self.instead = None;
        }
    }

    /// An active sender fell silent: it was last heard then.
    pub(super) fn on_lost(&mut self, heard_at: Time) {
        self.quiet_since = Some(self.quiet_since.map_or(heard_at, |since| since.min(heard_at)));
    }

    /// When a sender that stands by may be asked; none: now.
    pub(super) fn standby_from(&self, now: Time, sessions: &Sessions) -> Option<Time> {
        let stopped =
            |session: &Session| matches!(session.advertisement.state, SenderState::Paused | SenderState::Draining);
        if self.instead.is_some() || sessions.iter().any(|(_, session)| stopped(session)) {
            return None;
        }
        let from = self.quiet_since.map_or(now, |since| since) + SILENT_MIN;
        (now < from).then_some(from)
    }

    /// Before a NACK: another sender's turn, when this one did not answer. True when no sender answers.
    pub(super) fn turn(&mut self, now: Time, retry: Duration, sessions: &Sessions) -> bool {
        let Some((chosen, _)) = self.of(sessions.iter()) else { return false };
        let mut order: Vec<_> = sessions.iter().filter(|(_, s)| may_be_asked(s)).collect();
        let tries = if order.len() < 2 { TRIES * 2 } else { TRIES };
        match self.asked {
            Some((asked, at)) if asked == chosen && self.tries > 0 => {
                if now < at + retry {
                    return false;
                }
                if self.tries < tries {
                    self.tries += 1;
                    self.asked = Some((asked, now));
                    return false;
                }
            }
            _ => {
                self.tries = 1;
                self.asked = Some((chosen, now));
                return false;
            }
        }
        order.sort_by_key(|(_, session)| rank(&session.advertisement));
        let at = order.iter().position(|(id, _)| **id == chosen);
        let next = order.get(at.map_or(0, |at| at + 1)).or(order.first()).map(|(id, _)| **id);
        let is_over = at.is_none_or(|at| at + 1 >= order.len());
        self.instead = next.filter(|_| !is_over).map(|id| (id, now));
        self.tries = 1;
        self.asked = next.map(|id| (id, now));
        self.cycles = self.cycles.saturating_add(is_over.into());
        self.is_unanswered() && !std::mem::replace(&mut self.told, true)
    }

    /// [`CYCLES_MAX`] cycles, and no sender answered.
    pub(super) const fn is_unanswered(&self) -> bool {
        self.cycles >= CYCLES_MAX
    }

    /// A sender answered a NACK; `elsewhere` when it is not the one that serves.
    pub(super) fn on_answer(&mut self, elsewhere: bool) {
        (self.tries, self.cycles, self.told) = (0, 0, false);
        if elsewhere {
            self.instead = None;
        }
    }
}

fn may_be_asked(session: &Session) -> bool {
    matches!(session.advertisement.state, SenderState::Active | SenderState::Standby | SenderState::Draining)
}

fn better(sessions: &Sessions, one: SessionId, other: SessionId) -> bool {
    match (sessions.get(one), sessions.get(other)) {
        (Some(one), Some(other)) => rank(&one.advertisement) < rank(&other.advertisement),
        _ => false,
    }
}

#[cfg(test)]
mod tests;
