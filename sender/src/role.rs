//! The role of a sender: who serves, who stands by, and how one takes over from the other. A state machine without
//! sockets, clock or random source of its own; senders share no state.
//!
//! | state | on | to |
//! |---|---|---|
//! | waiting | there is content | primary: asking; backup: standby |
//! | asking | a sender that goes after us is active | holding off (first penalty, if its last returns failed) |
//! | asking | a sender that goes before us serves, or is starting | standby |
//! | asking | all say no, or nobody answers | active |
//! | penalty | time is over | holding off |
//! | holding off | nobody is active any more, or time is over | active |
//! | standby | a NACK | probing |
//! | probing | another one serves | standby: the NACK is disregarded, forwarded, answered `primary-alive` |
//! | probing | nobody serves | active: the NACK is served |
//! | active | a sender that goes before us serves, or is ready to | draining, then standby |
//! | active | disk or network fails, and another sender is there | blind |
//! | blind | both work again | as at the start |
//! | draining | block boundary, or [`RoleConfig::drain_limit`] over | standby, or drained |
//! | any | pause, drain, resume by command | paused; draining, then drained; as at the start |
//!
//! # Promises
//! - Of two active senders that hear each other (by probes or by advertisements) the one that goes after the other
//!   begins to drain within [`PROBE_EVERY`] and a probe's time, and is silent [`RoleConfig::drain_limit`] later at
//!   the latest: that sum is [`overlap_max`].
//! - What an advertisement or a question says makes a sender ask; only a fresh answer decides, or, where none comes,
//!   an advertisement that is younger than three of its intervals.
//! - Alive is not serving: a sender that is paused, drained, has no content or cannot send counts as gone.
//! - Memory is bounded by named constants.

pub mod hold;
mod peers;
mod reached;
#[cfg(test)]
mod tests;
mod words;

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::time::Duration;

use nackcast_common::clock::{Deadline, Time};
use nackcast_common::ids::{RunId, SessionId, StartNumber};
use nackcast_common::mutation::{Mutation, planted};
use nackcast_proto::wire::{Advertisement, Role, SenderState, Standing};

pub use peers::Precedence;
use peers::{Peer, Peers, Says};
use reached::Reached;
pub use reached::{NAMED_MAX, OnlyBackupReached};

/// Between two questions of one inquiry.
pub const PROBE_TIMEOUT: Duration = Duration::from_millis(100);
/// Questions of an inquiry that nobody answers.
pub const PROBE_TRIES: u32 = 3;
/// An active backup asks again so often.
pub const PROBE_EVERY: Duration = Duration::from_secs(1);
/// A primary that holds off asks so often whether the backup is done.
const HOLD_PROBE_EVERY: Duration = Duration::from_millis(250);
/// An answer that comes later than this is none.
const NONCE_AGE_MAX: Duration = Duration::from_secs(2);
/// Nonces that may be answered.
const NONCES_MAX: usize = 32;
/// What is added to the drain limit when a primary holds off: a probe is answered in between.
const HOLD_EXTRA: Duration = Duration::from_secs(2);
/// After a hand-over, or when a sender became active, receivers need a moment to hear of it: their NACKs are forwarded,
/// and no sign of a bad network.
const GRACE: Duration = Duration::from_secs(5);
/// Receivers whose NACKs wait for an inquiry.
const PENDING_MAX: usize = 256;

/// How long two active senders that hear each other may both send.
#[must_use]
pub fn overlap_max(drain_limit: Duration) -> Duration {
    PROBE_EVERY + PROBE_TIMEOUT * (PROBE_TRIES + 1) + drain_limit
}

/// What a role machine is made with.
#[derive(Clone, Debug)]
pub struct RoleConfig {
    /// What this sender is for.
    pub role: Role,
    /// Order among senders of one role: the best has 0.
    pub rank: u32,
    /// Where the other senders take probes, as configured. Others are found by their advertisements.
    pub peers: Vec<SocketAddr>,
    /// A sender that yields sends at most so long; default 10 s.
    pub drain_limit: Duration,
    /// How long a primary holds off at this start, see [`hold::hold_off`]; at least [`RoleConfig::hold_base`].
    pub hold_off: Duration,
    /// Secret and random: nonces follow from it.
    pub seed: u64,
}

impl RoleConfig {
    /// A sender that knows no other.
    #[must_use]
    pub const fn new(role: Role, seed: u64) -> Self {
        let drain_limit = Duration::from_secs(10);
        Self { role, rank: 0, peers: Vec::new(), drain_limit, hold_off: Duration::ZERO, seed }
    }

    /// How long a primary holds off that did not fail after its last return.
    #[must_use]
    pub fn hold_base(&self) -> Duration {
        self.drain_limit + HOLD_EXTRA
    }
}

/// What a sender does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// There is no content yet.
    Waiting,
    /// A primary at its start asks whether a backup is active.
    Asking,
    /// A primary whose last returns failed leaves the channel to the backup for a while.
    Penalty {
        /// Until then.
        until: Time,
    },
    /// A primary lets a backup finish.
    HoldingOff {
        /// Until then.
        until: Time,
    },
    /// It waits until it is needed.
    Standby,
    /// A NACK came: it asks whether another sender serves.
    Probing,
    /// It sends.
    Active,
    /// It finishes the blocks that it sends.
    Draining {
        /// At most until then.
        until: Time,
        /// By command: it stays so.
        for_good: bool,
    },
    /// Stopped by command.
    Paused,
    /// Its disk or its network fails.
    Blind,
    /// Ended by command.
    Drained,
}

impl State {
    /// What others are told.
    #[must_use]
    pub const fn told(self) -> SenderState {
        match self {
            Self::Waiting | Self::Asking | Self::HoldingOff { .. } => SenderState::Starting,
            Self::Standby | Self::Probing => SenderState::Standby,
            Self::Active => SenderState::Active,
            Self::Draining { .. } => SenderState::Draining,
            Self::Penalty { .. } | Self::Paused | Self::Blind | Self::Drained => SenderState::Paused,
        }
    }
}

/// How a question was answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Path {
    /// On the NACK port: it must repeat a nonce that was drawn lately.
    NackPort,
    /// On a connection, asked a moment ago: it is fresh by itself.
    Quic,
}

/// What becomes of a NACK.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It is served.
    Serve,
    /// It is kept until [`Action::ServeHeld`] or [`Action::Disregard`].
    Hold,
    /// Nothing: who asks will ask another sender.
    Ignore,
}

/// Whom a disregarded NACK is forwarded to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Serving {
    /// Which one.
    pub precedence: Precedence,
    /// Where it takes NACKs.
    pub address: SocketAddr,
    /// Sequence of its last advertisement, to be echoed.
    pub sequence: u64,
    /// Its clock then.
    pub time: u64,
    /// When that was said, by our clock.
    pub at: Time,
}

/// What the node is to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// Ask the sender there, on all paths.
    Probe {
        /// Where.
        to: SocketAddr,
        /// To be repeated by an answer on the NACK port.
        nonce: u64,
    },
    /// From now on this state is told and kept: [`SenderState::Active`] sends, [`SenderState::Draining`] finishes
    /// blocks, every other one sends no content.
    Become(SenderState),
    /// NACKs that are held are served.
    ServeHeld,
    /// NACKs that are held are answered `primary-alive` and forwarded.
    Disregard(Serving),
}

/// What people should know.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RoleEvent {
    /// The state changed.
    Changed {
        /// Before.
        from: State,
        /// Now.
        to: State,
        /// For people.
        why: &'static str,
    },
    /// Receivers reach only this sender, while another one serves.
    OnlyBackupReached(OnlyBackupReached),
    /// No longer.
    OnlyBackupReachedOver,
    /// Another sender is active beside this one.
    TwoActive {
        /// The other one.
        other: SessionId,
        /// Since when.
        since: Time,
    },
    /// No longer.
    TwoActiveOver,
}

/// What an admin wants.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RoleCommand {
    /// Stop sending.
    Pause,
    /// Go on as after a start.
    Resume,
    /// Finish what is sent, then stop.
    Drain,
}

#[derive(Debug)]
struct Inquiry {
    began: Time,
    tries: u32,
    next: Time,
}

/// The machine.
#[derive(Debug)]
pub struct RoleMachine {
    config: RoleConfig,
    session: SessionId,
    start_number: StartNumber,
    state: State,
    peers: Peers,
    inquiry: Option<Inquiry>,
    inquire_at: Option<Time>,
    nonces: VecDeque<(u64, Time)>,
    nonces_drawn: u64,
    /// Whose NACKs are held.
    pending: Vec<(RunId, SocketAddr)>,
    reached: Reached,
    grace_until: Time,
    both_since: Option<(Time, SessionId)>,
    both_told: bool,
    can_read: bool,
    can_send: bool,
    actions: VecDeque<Action>,
    events: VecDeque<RoleEvent>,
}

impl RoleMachine {
    /// A machine that waits for content.
    #[must_use]
    pub fn new(config: RoleConfig, session: SessionId, start_number: StartNumber) -> Self {
        Self {
            config,
            session,
            start_number,
            state: State::Waiting,
            peers: Peers::default(),
            inquiry: None,
            inquire_at: None,
            nonces: VecDeque::new(),
            nonces_drawn: 0,
            pending: Vec::new(),
            reached: Reached::default(),
            grace_until: Time::ZERO,
            both_since: None,
            both_told: false,
            can_read: false,
            can_send: true,
            actions: VecDeque::new(),
            events: VecDeque::new(),
        }
    }

    /// What it does.
    #[must_use]
    pub const fn state(&self) -> State {
        self.state
    }

    /// Order among senders of its role.
    #[must_use]
    pub const fn rank(&self) -> u32 {
        self.config.rank
    }

    /// Whether it has content and can read it, and whether it can send.
    #[must_use]
    pub const fn able(&self) -> (bool, bool) {
        (self.can_read, self.can_send)
    }

    const fn precedence(&self) -> Precedence {
        let (role, rank) = (self.config.role, self.config.rank);
        Precedence { role, rank, start_number: self.start_number, session: self.session }
    }

    fn is_before_us(&self, peer: &Peer) -> bool {
        peer.precedence < self.precedence()
    }

    /// There is something to serve.
    pub fn handle_content(&mut self, now: Time) {
        if self.state == State::Waiting {
            self.can_read = true;
            self.start(now, "there is content");
        }
        self.handle_able(now, true, self.can_send);
    }

    fn start(&mut self, now: Time, why: &'static str) {
        match self.config.role {
            Role::Backup => self.enter(now, State::Standby, why),
            Role::Primary => {
                self.enter(now, State::Asking, why);
                self.inquire(now);
            }
        }
    }

    /// The run goes on under another session.
    pub const fn handle_roll(&mut self, session: SessionId, start_number: StartNumber) {
        self.session = session;
        self.start_number = start_number;
    }

    /// Where the other senders take probes. One that sends asks them at once: it is asked back.
    pub fn handle_peers(&mut self, now: Time, peers: Vec<SocketAddr>) {
        self.config.peers = peers;
        if self.state == State::Active {
            self.inquire(now);
        }
        self.advance(now);
    }

    /// Disk and network work, or do not.
    pub fn handle_able(&mut self, now: Time, can_read: bool, can_send: bool) {
        (self.can_read, self.can_send) = (can_read, can_send);
        // Who resumed without content waits for it, too.
        if matches!(self.state, State::Blind | State::Waiting) && can_read && can_send {
            self.start(now, "disk and network work again");
        }
        self.advance(now);
    }

    /// A NACK that asks for something, and who sent it.
    pub fn handle_demand(&mut self, now: Time, run: RunId, from: SocketAddr) -> Verdict {
        match self.state {
            State::Active => Verdict::Serve,
            State::Standby | State::Probing if self.can_read && self.can_send => {
                if self.pending.len() < PENDING_MAX && !self.pending.iter().any(|(known, _)| *known == run) {
                    self.pending.push((run, from));
                }
                if self.state == State::Standby {
                    if planted(Mutation::ProbeSkipped) {
                        self.take_over(now);
                        return Verdict::Hold;
                    }
                    self.enter(now, State::Probing, "a receiver asked");
                    self.inquire(now);
                    self.advance(now);
                }
                Verdict::Hold
            }
            // A hand-over: whoever goes before us serves in a moment.
            State::Draining { for_good: false, .. } => match self.serving(now, now.before(PROBE_EVERY * 2)) {
                Some(serving) => {
                    self.actions.push_back(Action::Disregard(serving));
                    Verdict::Hold
                }
                None => Verdict::Ignore,
            },
            _ => Verdict::Ignore,
        }
    }

    /// A verified advertisement of another sender.
    pub fn handle_advertisement(&mut self, now: Time, from: SocketAddr, advertisement: &Advertisement) {
        if advertisement.session == self.session {
            return;
        }
        self.peers.on_advertisement(now, from, advertisement);
        let precedence = Precedence::of_advertisement(advertisement);
        let is_back = matches!(advertisement.state, SenderState::Active | SenderState::Starting);
        if self.state == State::Active && is_back && precedence < self.precedence() {
            self.inquire(now);
        }
        self.advance(now);
    }

    /// Another certified sender asked who we are; it may be a recording. It is answered by whoever calls this.
    pub fn handle_question(&mut self, now: Time, asker: &Standing) {
        let is_back = matches!(asker.state, SenderState::Active | SenderState::Starting);
        if self.state == State::Active && is_back && Precedence::of_standing(asker) < self.precedence() {
            self.inquire(now);
        }
        self.advance(now);
    }

    /// A verified answer of another sender, from the address that was asked.
    pub fn handle_answer(&mut self, now: Time, path: Path, from: SocketAddr, nonce: u64, standing: &Standing) {
        if standing.session == self.session {
            return;
        }
        if path == Path::NackPort {
            let fresh = |(drawn, at): &(u64, Time)| *drawn == nonce && now.since(*at) <= NONCE_AGE_MAX;
            if !self.nonces.iter().any(fresh) {
                return;
            }
        }
        self.peers.on_answer(now, from, standing);
        self.advance(now);
    }

    /// No block is being sent any more.
    pub fn handle_drained(&mut self, now: Time) {
        if let State::Draining { for_good, .. } = self.state {
            self.end_drain(now, for_good, "what was sent is finished");
        }
    }

    /// A command.
    pub fn handle_command(&mut self, now: Time, command: RoleCommand) {
        match (command, self.state) {
            (RoleCommand::Pause, _) => self.enter(now, State::Paused, "by command"),
            (RoleCommand::Resume, State::Paused | State::Drained | State::Draining { for_good: true, .. }) => {
                if self.can_read {
                    self.start(now, "by command");
                } else {
                    self.enter(now, State::Waiting, "by command");
                }
            }
            (RoleCommand::Drain, State::Active | State::Draining { .. }) => {
                let until = now + self.config.drain_limit;
                self.enter(now, State::Draining { until, for_good: true }, "by command");
            }
            (RoleCommand::Drain, _) => self.enter(now, State::Drained, "by command"),
            (RoleCommand::Resume, _) => {}
        }
        self.advance(now);
    }

    /// A deadline passed.
    pub fn handle_timeout(&mut self, now: Time) {
        self.advance(now);
    }

    /// The next thing to do.
    pub fn poll_action(&mut self) -> Option<Action> {
        self.actions.pop_front()
    }

    /// The next thing to tell.
    pub fn poll_event(&mut self) -> Option<RoleEvent> {
        self.events.pop_front()
    }

    /// When to call [`Self::handle_timeout`], if nothing else comes first.
    #[must_use]
    pub fn poll_deadline(&self) -> Option<Deadline> {
        let at = |at: Option<Time>, why| at.map(|at| Deadline { at, why });
        let state = match self.state {
            State::Penalty { until } | State::HoldingOff { until } | State::Draining { until, .. } => Some(until),
            _ => None,
        };
        let overlap = self.both_since.filter(|_| !self.both_told).map(|(since, _)| since + self.overlap_max());
        [
            at(self.inquiry.as_ref().map(|inquiry| inquiry.next), "probe"),
            at(self.inquire_at.filter(|_| self.inquiry.is_none()), "next probe"),
            at(state, "role"),
            at(self.reached.over_at(), "alert over"),
            at(overlap, "two active"),
        ]
        .into_iter()
        .fold(None, Deadline::earlier)
    }

    fn overlap_max(&self) -> Duration {
        overlap_max(self.config.drain_limit)
    }

    fn enter(&mut self, now: Time, to: State, why: &'static str) {
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

    /// Asks everybody who is known, unless that goes on already.
    fn inquire(&mut self, now: Time) {
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

    fn advance(&mut self, now: Time) {
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

    /// Moves an inquiry on, and ends it when it is decided.
    fn question(&mut self, now: Time) {
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
    fn serving(&self, now: Time, began: Time) -> Option<Serving> {
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
    fn is_preceded(&self, now: Time, began: Time) -> bool {
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

    fn disregard(&mut self, now: Time, serving: Serving) {
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

    fn take_over(&mut self, now: Time) {
        self.enter(now, State::Active, "a receiver asked, and no other sender serves");
        self.actions.push_back(Action::ServeHeld);
    }

    fn yield_to(&mut self, now: Time) {
        if planted(Mutation::DrainForgotten) {
            return;
        }
        let until = now + self.config.drain_limit;
        self.enter(now, State::Draining { until, for_good: false }, "a sender that goes first is there");
    }

    fn end_drain(&mut self, now: Time, for_good: bool, why: &'static str) {
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
