//! The course of a machine: how it goes from one state to another, and what follows from that.

use nackcast_common::clock::Time;
use nackcast_common::mutation::{Mutation, planted};
use nackcast_proto::wire::SenderState;

use super::event::{Action, RoleEvent, Serving};
use super::peers::{Peer, Says};
use super::state::State;
use super::{GRACE, HOLD_PROBE_EVERY, PROBE_EVERY, RoleMachine};

impl RoleMachine {
    pub(super) fn enter(&mut self, now: Time, to: State, why: &'static str) {
        let from = std::mem::replace(&mut self.state, to);
        if from == to {
            return;
        }
        self.inquiry = None;
        self.inquire_at = match to {
            State::HoldingOff { .. } => Some(now + HOLD_PROBE_EVERY),
            State::Active | State::Penalty { .. } => Some(now + PROBE_EVERY),
            _ => None,
        };
        if !matches!(to, State::Probing) {
            self.pending.clear();
        }
        if from.told() != to.told() {
            self.actions.push_back(Action::Become(to.told()));
        }
        self.events.push_back(RoleEvent::Changed { from, to, why });
    }

    pub(super) fn advance(&mut self, now: Time) {
        match self.state {
            // A lone sender goes on trying: nobody would take over.
            State::Active if !(self.can_read && self.can_send) && self.peers.addresses(now).next().is_some() => {
                self.enter(now, State::Blind, "its disk or its network fails");
            }
            State::Penalty { until } if now >= until => {
                let until = now + self.config.hold_base();
                self.enter(now, State::HoldingOff { until }, "its time is over");
                self.inquire(now);
            }
            State::HoldingOff { until } if now >= until => {
                if self.is_preceded(now, now.before(HOLD_PROBE_EVERY)) {
                    self.enter(now, State::Standby, "another sender serves, and goes first");
                } else {
                    self.enter(now, State::Active, "it held off long enough");
                }
            }
            State::Draining { until, for_good } if now >= until => {
                self.end_drain(now, for_good, "time to finish is over");
            }
            _ => {}
        }
        if self.inquiry.is_none() && self.inquire_at.is_some_and(|at| now >= at) {
            self.inquire_at = None;
            self.inquire(now);
        }
        self.question(now);
        self.watch_overlap(now);
        if self.reached.is_over(now) {
            self.events.push_back(RoleEvent::OnlyBackupReachedOver);
        }
    }

    pub(super) fn disregard(&mut self, now: Time, serving: Serving) {
        let asked = std::mem::take(&mut self.pending);
        self.actions.push_back(Action::Disregard(serving));
        self.enter(now, State::Standby, "another sender serves");
        let peer = self.peers.iter().find(|peer| peer.precedence == serving.precedence);
        let is_settled = peer.and_then(|peer| peer.active_since).is_some_and(|since| now >= since + GRACE);
        if now < self.grace_until || !is_settled {
            return;
        }
        let saw = || peer.map_or_else(String::new, |peer| describe(now, peer));
        if let Some(told) = self.reached.on_disregarded(now, &asked, saw) {
            self.events.push_back(RoleEvent::OnlyBackupReached(told));
        }
    }

    pub(super) fn take_over(&mut self, now: Time) {
        self.enter(now, State::Active, "a receiver asked, and no other sender serves");
        self.actions.push_back(Action::ServeHeld);
    }

    pub(super) fn yield_to(&mut self, now: Time) {
        if planted(Mutation::DrainForgotten) {
            return;
        }
        let until = now + self.config.drain_limit;
        self.enter(now, State::Draining { until, for_good: false }, "a sender that goes first is there");
    }

    pub(super) fn end_drain(&mut self, now: Time, for_good: bool, why: &'static str) {
        if for_good {
            self.enter(now, State::Drained, why);
        } else {
            self.grace_until = now + GRACE;
            self.enter(now, State::Standby, why);
        }
    }

    /// Two that are active longer than a hand-over takes.
    fn watch_overlap(&mut self, now: Time) {
        let active = |peer: &&Peer| {
            peer.says(now, now.before(PROBE_EVERY * 2)).is_some_and(|says| says.state == SenderState::Active)
        };
        let other = self.peers.iter().find(active).map(|peer| peer.precedence.session);
        match (self.state == State::Active, other) {
            (true, Some(other)) => {
                let (since, other) = *self.both_since.get_or_insert((now, other));
                if !self.both_told && now >= since + self.overlap_max() {
                    self.both_told = true;
                    self.events.push_back(RoleEvent::TwoActive { other, since });
                }
            }
            _ => {
                self.both_since = None;
                if std::mem::take(&mut self.both_told) {
                    self.events.push_back(RoleEvent::TwoActiveOver);
                }
            }
        }
    }
}

/// What each path said of a sender, for people.
fn describe(now: Time, peer: &Peer) -> String {
    let said = |path: &str, said: Option<(Time, Says)>| match said {
        Some((at, says)) => {
            let able = if says.is_able { "" } else { ", not able to serve" };
            format!("{path} {} ms ago: {:?}{able}", now.since(at).as_millis(), says.state)
        }
        None => format!("{path}: never"),
    };
    format!("{} {}, {}", peer.address, said("answered", peer.answered), said("advertised", peer.heard))
}
