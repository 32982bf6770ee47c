//! The role machine inside a node: NACKs that wait for it, probes in and out, and what it makes of the engine.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::time::Duration;

use nackcast_common::clock::Time;
use nackcast_common::ids::SessionId;
use nackcast_proto::wire::header::DatagramType;
use nackcast_proto::wire::{Advertisement, ECHO_SESSION, Nack, Probe, ProbeKind, Role, SenderState, Standing};

use super::nacks::HeardProbe;
use super::{Datagrams, Destination, HeardNack, SenderNode, Work};
use crate::engine::Command;
use crate::role::{Action, Path, RoleCommand, RoleEvent, Serving, State, Verdict};

/// Questions of other nodes that are answered in a second.
const ANSWERS_PER_SECOND: u32 = 100;
/// Questions that are remembered as taken.
const KNOWN_MAX: usize = 1024;
/// NACKs that wait for an inquiry.
const HELD_MAX: usize = 256;
/// Datagrams to other senders that wait for the socket.
const OUTGOING_MAX: usize = 1024;
/// Events that nobody took yet.
const EVENTS_MAX: usize = 64;

/// What goes to another sender.
#[derive(Debug)]
enum ToSender {
    Question { nonce: u64 },
    Answer { nonce: u64 },
    Forwarded(Box<Nack>),
}

/// What waits in a node because of its role.
#[derive(Debug, Default)]
pub(super) struct Waiting {
    held: Vec<HeardNack>,
    outgoing: VecDeque<(SocketAddr, ToSender)>,
    events: VecDeque<RoleEvent>,
    /// Since when strangers' questions are counted, and how many were taken.
    taken: (Time, u32),
    /// Questions that were taken lately: the run that sealed them, and which of its own.
    known: VecDeque<(u64, u64)>,
}

impl Waiting {
    /// The name of each table, how much is in it, how much may be.
    pub(super) fn bounds(&self) -> [(&'static str, usize, usize); 4] {
        [
            ("NACKs that wait for an inquiry", self.held.len(), HELD_MAX),
            ("datagrams to other senders", self.outgoing.len(), OUTGOING_MAX),
            ("events of the role", self.events.len(), EVENTS_MAX),
            ("questions that were taken", self.known.len(), KNOWN_MAX),
        ]
    }

    /// Whether one more question may be answered: each costs signatures, and a recording of one is soon had. A
    /// recording takes no room from others.
    fn may_answer(&mut self, now: Time, question: (u64, u64)) -> bool {
        if self.known.contains(&question) {
            return false;
        }
        let (since, count) = &mut self.taken;
        if now.since(*since) >= Duration::from_secs(1) {
            (*since, *count) = (now, 0);
        }
        if *count >= ANSWERS_PER_SECOND {
            return false;
        }
        *count += 1;
        self.known.push_back(question);
        if self.known.len() > KNOWN_MAX {
            self.known.pop_front();
        }
        true
    }
}

impl SenderNode {
    /// A NACK of this channel.
    pub fn handle_nack(&mut self, now: Time, heard: &HeardNack) {
        let HeardNack { from, run, packet, epoch, nack } = heard;
        // Who was taken off the channel has no say any more.
        if *epoch < self.epoch {
            return;
        }
        if nack.session == ECHO_SESSION {
            if self.waiting.may_answer(now, (run.0, *packet)) {
                self.engine.echo(*from, *run, *packet, nack);
                self.settle(now);
            }
            return;
        }
        // Reports are of use to every sender, and what is stale is dropped there.
        let verdict = if nack.is_report() || !self.engine.is_fresh(now, nack) {
            Verdict::Serve
        } else {
            self.role.handle_demand(now, *run, *from)
        };
        match verdict {
            Verdict::Serve => self.engine.handle_nack(now, *from, *run, *packet, nack),
            Verdict::Hold => {
                if self.waiting.held.len() < HELD_MAX {
                    self.waiting.held.push(heard.clone());
                }
            }
            Verdict::Ignore => {}
        }
        self.settle(now);
    }

    /// A verified advertisement of another sender of the channel.
    pub fn handle_advertisement(&mut self, now: Time, from: SocketAddr, advertisement: &Advertisement) {
        self.role.handle_advertisement(now, from, advertisement);
        self.settle(now);
    }

    /// A probe of another sender, or its answer to ours.
    pub fn handle_probe(&mut self, now: Time, heard: &HeardProbe) {
        let HeardProbe { from, kind, session, body } = heard;
        if *kind == ProbeKind::Question && !self.waiting.may_answer(now, (*session, short_hash(body))) {
            return;
        }
        let probe = match Probe::decode(body, *kind, &self.publisher, self.id) {
            Ok(probe) if probe.standing.session == SessionId(*session) => probe,
            Ok(_) => return,
            Err(error) => {
                tracing::debug!(channel = self.tally.name(), %from, %error, "a probe was refused");
                return;
            }
        };
        match kind {
            ProbeKind::Question => {
                self.tell(*from, ToSender::Answer { nonce: probe.nonce });
                self.role.handle_question(now, &probe.standing);
            }
            ProbeKind::Answer => self.role.handle_answer(now, Path::NackPort, *from, probe.nonce, &probe.standing),
        }
        self.settle(now);
    }

    /// What another sender answered on a connection ([`Work::Call`], `path` says when), from the address where it takes
    /// NACKs: it proved to be that sender's.
    pub fn handle_standing(&mut self, now: Time, from: SocketAddr, path: Path, standing: &Standing) {
        self.role.handle_answer(now, path, from, 0, standing);
        self.settle(now);
    }

    /// Another sender asked on a connection, and said this of itself. What it is answered is
    /// [`SenderNode::standing`].
    pub fn handle_call(&mut self, now: Time, asker: &Standing) {
        self.role.handle_question(now, asker);
        self.settle(now);
    }

    /// Names the list of receivers, for other senders; 0: there is none.
    pub const fn set_list(&mut self, list: u64) {
        self.list = list;
    }

    /// Where the other senders take NACKs; more of them are known than before.
    pub fn handle_peers(&mut self, now: Time, peers: Vec<SocketAddr>) {
        self.role.handle_peers(now, peers);
        self.settle(now);
    }

    /// A command about the role.
    pub fn handle_role_command(&mut self, now: Time, command: RoleCommand) {
        self.role.handle_command(now, command);
        self.settle(now);
    }

    /// Whether multicast leaves the node, as the driver sees it.
    pub fn handle_can_send(&mut self, now: Time, can_send: bool) {
        self.can_send = can_send;
        self.look_at_ability(now);
        self.settle(now);
    }

    pub(super) fn look_at_ability(&mut self, now: Time) {
        let can_read = self.published.is_some() && self.can_read && !self.reads.hangs();
        if self.role.able() != (can_read, self.can_send) {
            self.role.handle_able(now, can_read, self.can_send);
        }
    }

    /// What this sender says of itself.
    #[must_use]
    pub fn standing(&self, now: Time) -> Standing {
        let (can_read, can_send) = self.role.able();
        let state = if self.drain_until.is_some() { SenderState::Draining } else { self.role.state().told() };
        Standing {
            channel: self.id,
            session: self.keys.session,
            start_number: self.start_number,
            certificate: self.certificate,
            role: self.role_of_sender,
            rank: self.role.rank(),
            state,
            can_read,
            can_send,
            sequence: self.engine.sequence(),
            time: now.0,
        }
    }

    /// What the role does.
    #[must_use]
    pub const fn role_state(&self) -> State {
        self.role.state()
    }

    /// What keeps it from sending, for people; none: nothing does.
    pub(super) const fn role_in_words(&self) -> Option<&'static str> {
        Some(match (self.role.state(), self.role_of_sender) {
            _ if self.drain_until.is_some() => "draining",
            (State::Draining { .. }, _) => "draining",
            (State::Drained, _) => "drained",
            (State::Paused, _) => "paused",
            (State::Blind, _) => "blind",
            (State::Penalty { .. } | State::HoldingOff { .. }, _) => "holding off",
            (State::Probing, _) => "asking the primary",
            (State::Standby, _) | (State::Waiting, Role::Backup) => "standby",
            (State::Waiting, Role::Primary) | (State::Asking | State::Active, _) => return None,
        })
    }

    /// The next thing that people should know of the role.
    pub fn poll_role_event(&mut self) -> Option<RoleEvent> {
        self.waiting.events.pop_front()
    }

    fn tell(&mut self, to: SocketAddr, what: ToSender) {
        if self.waiting.outgoing.len() < OUTGOING_MAX {
            self.waiting.outgoing.push_back((to, what));
        }
    }

    /// Carries out one action of the role; false when there is none.
    pub(super) fn settle_role(&mut self, now: Time) -> bool {
        if let Some(event) = self.role.poll_event() {
            self.log(&event);
            self.watch.on_role(now, self.role_of_sender, &event);
            if self.waiting.events.len() >= EVENTS_MAX {
                self.waiting.events.pop_front();
            }
            self.waiting.events.push_back(event);
            return true;
        }
        let Some(action) = self.role.poll_action() else { return false };
        match action {
            Action::Probe { to, nonce } => {
                self.tell(to, ToSender::Question { nonce });
                if !self.work.iter().any(|work| matches!(work, Work::Call(there) if *there == to)) {
                    self.work.push_back(Work::Call(to));
                }
            }
            // A node that ends has its own way to drain.
            Action::Become(_) if self.drain_until.is_some() => {}
            Action::Become(state) => self.engine.handle_command(now, Command::Become(state)),
            Action::ServeHeld => {
                for heard in std::mem::take(&mut self.waiting.held) {
                    let HeardNack { from, run, packet, nack, .. } = heard;
                    self.engine.handle_nack(now, from, run, packet, &nack);
                }
            }
            Action::Disregard(serving) => {
                for heard in std::mem::take(&mut self.waiting.held) {
                    self.engine.refer(heard.from, heard.run, heard.packet, &heard.nack);
                    let nack = forwarded(now, heard.nack, &serving);
                    self.tell(serving.address, ToSender::Forwarded(Box::new(nack)));
                }
            }
        }
        true
    }

    fn log(&self, event: &RoleEvent) {
        let channel = self.tally.name();
        match event {
            RoleEvent::Changed { from, to, why } => tracing::info!(channel, %from, %to, why, "role"),
            RoleEvent::OnlyBackupReached(told) => {
                let receivers: Vec<_> = told.receivers.iter().map(|(_, address)| address.to_string()).collect();
                tracing::warn!(
                    channel,
                    receivers = receivers.join(" "),
                    nacks = told.count,
                    saw = told.saw,
                    "network alert: receivers reach only this sender, while another one serves; check the network \
                     between them and that one"
                );
            }
            RoleEvent::OnlyBackupReachedOver => tracing::info!(channel, "network alert over"),
            RoleEvent::TwoActive { other, .. } => tracing::warn!(
                channel, %other,
                "two senders are active and do not yield to each other; check the network between them, and their roles"
            ),
            RoleEvent::TwoActiveOver => tracing::info!(channel, "only one sender is active again"),
        }
    }

    /// Makes `out` the next datagram to another sender.
    pub(super) fn poll_to_sender(&mut self, now: Time, out: &mut Vec<u8>) -> Option<Datagrams> {
        let (to, what) = self.waiting.outgoing.pop_front()?;
        let probe = |nonce| Probe { nonce, standing: self.standing(now) };
        match what {
            ToSender::Question { nonce } => {
                let body = probe(nonce).encode(ProbeKind::Question, &self.signer);
                self.keys.seal_question(DatagramType::Probe, &body, out);
            }
            ToSender::Answer { nonce } => {
                let body = probe(nonce).encode(ProbeKind::Answer, &self.signer);
                self.keys.seal_answer(DatagramType::ProbeAnswer, &body, out);
            }
            ToSender::Forwarded(nack) => self.keys.seal_question(DatagramType::Nack, &nack.encode(), out),
        }
        Some(Datagrams { to: Destination::Sender(to), len: out.len() })
    }
}

/// Tells one message from another.
fn short_hash(message: &[u8]) -> u64 {
    blake3::hash(message).as_bytes().first_chunk().map_or(0, |first| u64::from_be_bytes(*first))
}

/// A receiver's NACK as the sender that serves takes it: it echoes what that one said, and asks for no answer.
fn forwarded(now: Time, nack: Nack, serving: &Serving) -> Nack {
    Nack {
        session: serving.precedence.session,
        sequence: serving.sequence,
        time: serving.time,
        hold: now.since(serving.at),
        nonce: 0,
        // What this receiver heard of that sender is not known: all of it, so that nothing counts as under way.
        heard: u64::MAX,
        complete: false,
        ..nack
    }
}
