//! What a receiver is told: plain values, checked by [`crate::run`] before anything is bound.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use nackcast_common::keys::{SenderMaster, SigningKey, VerifyingKey};
use nackcast_common::units::RateLimit;
use nackcast_proto::ticket::Ticket;

use crate::engine::PullWhen;

/// Everything a receiving node is told.
#[derive(Debug)]
pub struct Config {
    /// What to receive, and where to put it.
    pub subscriptions: Vec<Subscription>,
    /// Name or address of the interface; none: the default route's.
    pub interface: Option<String>,
    /// Senders to ask, and others to pull from, HOST:PORT, in order of preference; before those of the ticket.
    pub sources: Vec<String>,
    /// The node's key towards whom it pulls from, and who pulls from it.
    pub identity: SigningKey,
    /// When blocks are pulled by unicast.
    pub pull: PullWhen,
    /// Give blocks to other receivers.
    pub peers: Option<Peers>,
    /// State directory.
    pub state: PathBuf,
    /// Time between scans of the dataset; default 10 min.
    pub scan: Duration,
    /// Remove what left the dataset.
    pub prune: bool,
    /// Replace differing files of a directory that was not ours.
    pub overwrite: bool,
    /// End when the whole dataset is installed and verified.
    pub once: bool,
    /// Mode bits that are kept; default 0o777.
    pub mode_mask: u32,
    /// Wait for a NACK's answer; default 200 ms.
    pub nack_retry: Duration,
    /// NACK datagrams in a window; default 4.
    pub nack_budget: usize,
    /// Bytes of blocks held in memory; default 32 MiB.
    pub memory: u64,
    /// From so many hundredths on, what comes by unicast is an alert; default 5.
    pub unicast_alert: u8,
}

/// How blocks are given to other receivers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Peers {
    /// Where it is known; QUIC is on the next port, on any when the port is 0.
    pub listen: SocketAddr,
    /// To all together; half of it to one.
    pub rate: RateLimit,
}

/// One channel to receive.
#[derive(Debug)]
pub struct Subscription {
    /// How to join it.
    pub ticket: Ticket,
    /// The channel's master, at a sender that receives: it opens every epoch.
    pub master: Option<SenderMaster>,
    /// Where its dataset goes.
    pub into: PathBuf,
    /// The key of a sender on this node that serves what is received here.
    pub own_sender: Option<VerifyingKey>,
}
