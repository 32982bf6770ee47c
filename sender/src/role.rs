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
//!   the latest: that sum is [`overlap_max`]. Senders that answer only over QUIC, and from far away, take longer.
//! - What an advertisement or a question says makes a sender ask; only a fresh answer decides, or, where none comes,
//!   an advertisement that is younger than three of its intervals.
//! - Alive is not serving: a sender that is paused, drained, has no content or cannot send counts as gone.
//! - Memory is bounded by named constants.

mod course;
mod event;
pub mod hold;
mod inquiry;
mod peers;
mod reached;
mod state;
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

pub use event::{Action, Path, RoleCommand, RoleEvent, Serving, Verdict};
use inquiry::Inquiry;
pub use peers::Precedence;
use peers::{Peer, Peers};
use reached::Reached;
pub use reached::{NAMED_MAX, OnlyBackupReached};
pub use state::State;

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
    /// The name of each table, how much is in it, how much may be.
    #[must_use]
    pub fn bounds(&self) -> [(&'static str, usize, usize); 3] {
        [
            ("other senders", self.peers.len(), peers::PEERS_MAX),
            ("questions to other senders", self.nonces.len(), inquiry::NONCES_MAX),
            ("receivers whose NACKs are held", self.pending.len(), PENDING_MAX),
        ]
    }

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
        let (at, took) = match path {
            Path::NackPort => {
                let fresh = |(drawn, at): &(u64, Time)| *drawn == nonce && now.since(*at) <= NONCE_AGE_MAX;
                if !self.nonces.iter().any(fresh) {
                    return;
                }
                (now, None)
            }
            Path::Quic { came, took } => (came.min(now), Some(took)),
        };
        self.peers.on_answer(at, from, standing, took);
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
}
