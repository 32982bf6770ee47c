//! Everything that was seen.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use nackcast_common::net::passage::Passage;
use nackcast_proto::wire::SenderState;

/// What this node is, or is to be, on the channel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Part {
    Sends,
    Receives,
}

#[derive(Clone, Debug)]
pub(super) struct Facts {
    pub(super) part: Part,
    pub(super) group: SocketAddr,
    /// A sender gives the secret, to those on its list: the ticket opens nothing.
    pub(super) is_listed: bool,
    /// Bytes in the longest IP packet of a channel with symbols of the default size.
    pub(super) packet: u32,
    pub(super) interface: Result<Link, String>,
    /// Interfaces on which some program of this machine had joined the group already.
    pub(super) joined: BTreeSet<String>,
    /// What the kernel grants of the receive buffer that is wanted.
    pub(super) buffer: Option<(usize, usize)>,
    /// Why the port for NACKs cannot be had, at a sender.
    pub(super) port: Option<String>,
    /// A node of ours answers there.
    pub(super) port_is_ours: bool,
    /// What became of one datagram to the group, at a sender.
    pub(super) sent: Option<Result<(), String>>,
    pub(super) heard: Heard,
    pub(super) reached: Vec<Reached>,
    pub(super) ttl: u8,
}

/// The interface that would be used.
#[derive(Clone, Debug, Default)]
pub(super) struct Link {
    pub(super) name: String,
    pub(super) loopback: bool,
    pub(super) named_by_user: bool,
    /// A route that keeps the group on this machine, which counts for programs that name no interface.
    pub(super) loopback_route: Option<String>,
    pub(super) mtu: Option<u32>,
    /// IPv4: 1 is strict. The greater of this interface's and that of all.
    pub(super) rp_filter: u8,
}

/// What arrived while it was listened.
#[derive(Clone, Debug, Default)]
pub(super) struct Heard {
    pub(super) waited: Duration,
    /// Why it could not be listened.
    pub(super) failed: Option<String>,
    /// Datagrams that the sockets got.
    pub(super) advertised: u64,
    pub(super) data: u64,
    /// Of the first, those that the ticket opens.
    pub(super) opened: u64,
    /// Of the first, those that are of another key epoch than the ticket.
    pub(super) other_epoch: u64,
    pub(super) advertisement: Option<Told>,
    /// What came before the firewall; none: not permitted to look.
    pub(super) tapped: Option<Tapped>,
}

#[derive(Clone, Debug)]
pub(super) struct Told {
    pub(super) from: SocketAddr,
    pub(super) takes_nacks_at: SocketAddr,
    pub(super) state: SenderState,
    pub(super) data_group: SocketAddr,
    /// By how much its clock is ahead of ours, in milliseconds; none: it does not say.
    pub(super) clock_ahead_ms: Option<i64>,
}

#[derive(Clone, Debug, Default)]
pub(super) struct Tapped {
    /// By interface.
    pub(super) links: BTreeMap<String, Passing>,
}

#[derive(Clone, Debug, Default)]
pub(super) struct Passing {
    pub(super) advertised: u64,
    pub(super) data: u64,
    pub(super) fragments: u64,
    /// Left this machine.
    pub(super) outgoing: u64,
    pub(super) querier: bool,
    /// This machine told the network which groups it wants.
    pub(super) reported: bool,
    pub(super) from: Option<IpAddr>,
    /// The interface by which this machine would answer `from`.
    pub(super) back: Option<String>,
    /// Fewest hops that were left.
    pub(super) hops: Option<u8>,
}

/// The way to another node.
#[derive(Clone, Debug)]
pub(super) struct Reached {
    pub(super) name: String,
    /// None: its name is not known.
    pub(super) address: Option<IpAddr>,
    /// The interface by which it is reached.
    pub(super) by: Option<String>,
    pub(super) short: Passage,
    pub(super) long: Passage,
    /// Bytes in the longest packet that arrived, where the long one vanished without a word.
    pub(super) longest: Option<u32>,
    pub(super) echo: Echo,
    pub(super) quic: Quic,
}

/// The port after that for NACKs, where blocks are given by unicast.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Quic {
    NotAsked,
    /// No connection, and what is said of it.
    Silent(String),
    /// A node of ours is there, and does not take this ticket.
    Refused,
    Answered(Duration),
}

/// Whether a sender answered on its NACK port.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Echo {
    NotAsked,
    Silent,
    /// Something answered that is not of the channel, or of another epoch.
    Strange,
    Answered {
        after: Duration,
        /// By how much the sender's clock is ahead of ours, in milliseconds; none: it does not say.
        clock_ahead_ms: Option<i64>,
    },
}
