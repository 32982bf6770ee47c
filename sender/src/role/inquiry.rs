//! Inquiries: all other senders are asked a few times, and what they answer, or do not, decides what this one does.

use std::net::SocketAddr;
use std::time::Duration;

use nackcast_common::clock::Time;
use nackcast_common::mutation::{Mutation, planted};
use nackcast_proto::wire::{Role, SenderState};

use super::event::{Action, Serving};
use super::peers::{Peer, Says};
use super::state::State;
use super::{HOLD_PROBE_EVERY, PROBE_EVERY, PROBE_TIMEOUT, PROBE_TRIES, RoleMachine};

/// An inquiry waits so long at most for senders that are far away on QUIC, whose last answer took longer than all its
/// questions.
const FAR_MAX: Duration = Duration::from_secs(3);
/// Nonces that may be answered.
pub(super) const NONCES_MAX: usize = 32;

/// One that goes on.
#[derive(Debug)]
pub(super) struct Inquiry {
    pub(super) began: Time,
    tries: u32,
    pub(super) next: Time,
}

impl RoleMachine {
    /// Asks everybody who is known, unless that goes on already.
    pub(super) fn inquire(&mut self, now: Time) {
        if self.inquiry.is_none() {
            self.inquiry = Some(Inquiry { began: now, tries: 0, next: now });
        }
    }

    fn targets(&self, now: Time) -> Vec<SocketAddr> {
        let mut targets = self.config.peers.clone();
        for address in self.peers.addresses(now) {
            if !targets.contains(&address) {
                targets.push(address);
            }
        }
        targets
    }

    fn ask(&mut self, now: Time, targets: &[SocketAddr]) {
        self.nonces_drawn += 1;
        let mut hasher = blake3::Hasher::new();
        hasher.update(&self.config.seed.to_be_bytes()).update(&self.nonces_drawn.to_be_bytes());
        let bytes = hasher.finalize();
        let nonce = bytes.as_bytes().first_chunk().map_or(1, |first| u64::from_be_bytes(*first)).max(1);
        self.nonces.push_back((nonce, now));
        if self.nonces.len() > NONCES_MAX {
            self.nonces.pop_front();
        }
        self.actions.extend(targets.iter().map(|to| Action::Probe { to: *to, nonce }));
    }

    /// Moves an inquiry on, and ends it when it is decided.
    pub(super) fn question(&mut self, now: Time) {
        let Some(inquiry) = &mut self.inquiry else { return };
        let began = inquiry.began;
        let mut is_over = false;
        if now >= inquiry.next {
            if inquiry.tries >= PROBE_TRIES {
                is_over = true;
                inquiry.next = now + PROBE_TIMEOUT;
            } else {
                inquiry.tries += 1;
                inquiry.next = now + PROBE_TIMEOUT;
                if inquiry.tries == PROBE_TRIES {
                    inquiry.next = inquiry.next.max(began + self.peers.takes(now).min(FAR_MAX));
                }
                let targets = self.targets(now);
                if targets.is_empty() {
                    is_over = true;
                } else {
                    self.ask(now, &targets);
                }
            }
        }
        let answered = |address: SocketAddr| {
            let here = |peer: &Peer| peer.address == address && peer.answered.is_some_and(|(at, _)| at >= began);
            self.peers.iter().any(here)
        };
        let is_over = is_over || self.targets(now).into_iter().all(answered);
        if self.decide(now, began, is_over) {
            self.inquiry = None;
            match self.state {
                State::HoldingOff { .. } => self.inquire_at = Some(now + HOLD_PROBE_EVERY),
                State::Penalty { .. } => self.inquire_at = Some(now + PROBE_EVERY),
                State::Active if self.config.role == Role::Backup || self.both_since.is_some() => {
                    self.inquire_at = Some(now + PROBE_EVERY);
                }
                _ => {}
            }
        }
    }

    /// What the answers of an inquiry mean; true when it is at its end.
    fn decide(&mut self, now: Time, began: Time, is_over: bool) -> bool {
        match self.state {
            State::Asking => {
                if self.is_preceded(now, began) {
                    self.enter(now, State::Standby, "another sender serves, and goes first");
                    return true;
                }
                if self.sending_after_us(now, began) && !planted(Mutation::HoldOffIgnored) {
                    let base = self.config.hold_base();
                    if self.config.hold_off > base {
                        let until = now + (self.config.hold_off - base);
                        self.enter(now, State::Penalty { until }, "a backup serves, and the last return failed soon");
                    } else {
                        self.enter(now, State::HoldingOff { until: now + base }, "a backup serves");
                    }
                    return true;
                }
                if is_over {
                    self.enter(now, State::Active, "no other sender is active");
                }
                is_over
            }
            // Whoever served instead may be gone: then nobody else is there.
            State::Penalty { .. } => {
                if self.is_preceded(now, began) {
                    self.enter(now, State::Standby, "another sender serves, and goes first");
                    return true;
                }
                if is_over && !self.sending_after_us(now, began) {
                    self.enter(now, State::Active, "no other sender is active");
                }
                is_over
            }
            State::HoldingOff { .. } => {
                if self.is_preceded(now, began) {
                    self.enter(now, State::Standby, "another sender serves, and goes first");
                    return true;
                }
                if is_over && !self.sending_after_us(now, began) {
                    self.enter(now, State::Active, "the backup is done");
                }
                is_over
            }
            State::Probing => {
                if let Some(serving) = self.serving(now, began) {
                    self.disregard(now, serving);
                    return true;
                }
                // What was advertised just before may still be true.
                let undecided = self.peers.iter().filter(|peer| {
                    let silent = peer.answered.is_none_or(|(at, _)| at < began);
                    silent && peer.heard_young(now).is_some_and(|(_, says)| says.serves())
                });
                let until = undecided.filter_map(Peer::young_until).max();
                match until {
                    Some(until) if is_over => {
                        if let Some(inquiry) = &mut self.inquiry {
                            inquiry.next = until;
                        }
                        false
                    }
                    None if is_over => {
                        self.take_over(now);
                        true
                    }
                    Some(_) | None => false,
                }
            }
            State::Active => {
                let is_back =
                    |says: Says| says.is_able && matches!(says.state, SenderState::Active | SenderState::Starting);
                let answers = |peer: &&Peer| peer.answered.is_some_and(|(at, says)| at >= began && is_back(says));
                let is_silent = |peer: &Peer| peer.answered.is_none_or(|(at, _)| at < began);
                let advertises = |peer: &&Peer| {
                    is_over
                        && is_silent(peer)
                        && peer
                            .heard_young(now)
                            .is_some_and(|(at, says)| at >= began.before(PROBE_EVERY) && is_back(says))
                };
                let before: Vec<_> = self.peers.iter().filter(|peer| self.is_before_us(peer)).collect();
                if before.iter().any(answers) || before.iter().any(advertises) {
                    self.yield_to(now);
                    return true;
                }
                is_over
            }
            _ => true,
        }
    }

    /// A sender that serves instead of us, or will in a moment: any that is active, and any that goes before us and
    /// is ready.
    pub(super) fn serving(&self, now: Time, began: Time) -> Option<Serving> {
        let serves = |peer: &&Peer| match peer.answered.filter(|(at, _)| *at >= began) {
            Some((_, says)) => {
                let ready = says.is_able && matches!(says.state, SenderState::Standby | SenderState::Starting);
                says.serves() || (ready && self.is_before_us(peer))
            }
            // Heard since we asked: it is there, although no answer comes.
            None => peer.heard_young(now).is_some_and(|(at, says)| says.serves() && at >= began),
        };
        let active = |peer: &Peer| peer.says(now, began).is_some_and(Says::serves);
        let best = self
            .peers
            .iter()
            .filter(serves)
            .min_by_key(|peer| (!self.is_before_us(peer), !active(peer), peer.precedence))?;
        let (sequence, time, at) = best.echo;
        Some(Serving { precedence: best.precedence, address: best.address, sequence, time, at })
    }

    /// Whether a sender that goes before us serves, or is starting. One that stands by waits for a NACK: two of them
    /// would leave the channel to nobody.
    pub(super) fn is_preceded(&self, now: Time, began: Time) -> bool {
        let goes_on = |peer: &Peer| match peer.answered.filter(|(at, _)| *at >= began) {
            Some((_, says)) => says.is_able && matches!(says.state, SenderState::Active | SenderState::Starting),
            None => peer.heard_young(now).is_some_and(|(at, says)| says.serves() && at >= began),
        };
        self.peers.iter().any(|peer| self.is_before_us(peer) && goes_on(peer))
    }

    /// Whether a sender that goes after us sends.
    fn sending_after_us(&self, now: Time, began: Time) -> bool {
        let sends = |peer: &Peer| peer.says(now, began).is_some_and(Says::sends);
        self.peers.iter().any(|peer| !self.is_before_us(peer) && sends(peer))
    }
}
