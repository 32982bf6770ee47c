//! What goes into a role machine and comes out of it, beside datagrams' contents.

use std::net::SocketAddr;
use std::time::Duration;

use nackcast_common::clock::Time;
use nackcast_common::ids::SessionId;
use nackcast_proto::wire::SenderState;

use super::peers::Precedence;
use super::reached::OnlyBackupReached;
use super::state::State;

/// How a question was answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Path {
    /// On the NACK port: it must repeat a nonce that was drawn lately.
    NackPort,
    /// On a connection: it is fresh by itself.
    Quic {
        /// When.
        came: Time,
        /// How long it took to call, and to be answered.
        took: Duration,
    },
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
