//! Where the demo's processes run: hosts of a network of namespaces, or this machine's loopback interface.

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::path::Path;
use std::process::Command;

use nackcast_common::units::counted;
use nackcast_testbed::fabric::{Direction, Link};
use nackcast_testbed::netns;
use nackcast_testbed::network::{Network, NetworkError};

use crate::args::values::Percent;
use crate::failure::{Failure, OrFail};

/// Decides the random loss; always the same, so that two demos can be compared.
const SEED: u64 = 2026;
const PORT: u16 = 7701;

/// Where the processes run.
#[derive(Debug)]
pub(super) enum Stage {
    /// Each on a host of its own; the fabric loses datagrams on the way to receivers.
    Namespaces(Network),
    /// All on the loopback interface.
    Loopback {
        /// Why there are no namespaces; none when they were not wanted.
        reason: Option<String>,
        /// A free port with a free successor.
        port: u16,
    },
}

/// What the fabric counted for a receiver.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Traffic {
    pub(super) given: u64,
    pub(super) lost: u64,
    /// Unicast from the receiver: NACKs, headers included.
    pub(super) nack_bytes: u64,
}

impl Stage {
    /// Builds the network, or falls back to loopback.
    pub(super) fn build(sender: &str, receivers: &[String], loss: f64, loopback: bool) -> Result<Self, Failure> {
        let reason = if loopback {
            None
        } else {
            match network(sender, receivers, loss) {
                Ok(network) => return Ok(Self::Namespaces(network)),
                Err(reason) => Some(reason),
            }
        };
        Ok(Self::Loopback { reason, port: free_port()? })
    }

    /// One line that says what will be seen.
    pub(super) fn describe(&self, loss: Percent, receivers: usize) -> String {
        let receivers = counted(receivers as u64, "receiver");
        match self {
            Self::Namespaces(_) => format!(
                "one sender and {receivers}, each in a network namespace of its own, {loss} of datagrams \
                 lost on the way to each receiver"
            ),
            Self::Loopback { reason, .. } => {
                let why = reason.as_ref().map(|reason| format!(" ({reason})")).unwrap_or_default();
                format!("one sender and {receivers} on the loopback interface, without injected loss{why}")
            }
        }
    }

    /// Whether loss was injected.
    pub(super) const fn is_lossy(&self) -> bool {
        matches!(self, Self::Namespaces(_))
    }

    /// A command that runs `program` as the node called `name`.
    pub(super) fn command(&self, name: &str, program: &Path) -> Command {
        match self {
            Self::Namespaces(network) => network.host(name).command(program),
            Self::Loopback { .. } => Command::new(program),
        }
    }

    /// The interface that nodes use.
    pub(super) fn interface(&self) -> &'static str {
        match self {
            Self::Namespaces(network) => network.hosts()[0].interface(),
            Self::Loopback { .. } => "lo",
        }
    }

    /// Where the sender listens.
    pub(super) const fn listen(&self) -> SocketAddr {
        match self {
            Self::Namespaces(_) => SocketAddr::new(std::net::IpAddr::V6(Ipv6Addr::UNSPECIFIED), PORT),
            Self::Loopback { port, .. } => SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::LOCALHOST), *port),
        }
    }

    /// Where receivers find the sender.
    pub(super) fn sender_address(&self) -> SocketAddr {
        match self {
            Self::Namespaces(network) => SocketAddr::new(network.hosts()[0].addr_v4().into(), PORT),
            Self::Loopback { .. } => self.listen(),
        }
    }

    /// What the fabric counted, by host; empty on loopback.
    pub(super) fn traffic(&self) -> BTreeMap<String, Traffic> {
        let Self::Namespaces(network) = self else {
            return BTreeMap::new();
        };
        let count = |name: &str| {
            let to_host = network.fabric().counters(name, Direction::ToHost).ok()?;
            let from_host = network.fabric().counters(name, Direction::FromHost).ok()?;
            Some(Traffic {
                given: to_host.multicast_udp.frames + to_host.unicast_udp.frames,
                lost: to_host.dropped_by_fault,
                nack_bytes: from_host.unicast_udp.bytes,
            })
        };
        let hosts = network.hosts().iter();
        hosts.filter_map(|host| Some((host.name().to_owned(), count(host.name())?))).collect()
    }
}

/// The network, the sender being its first host; or one line that says why there is none.
fn network(sender: &str, receivers: &[String], loss: f64) -> Result<Network, String> {
    netns::enter_user_namespace().map_err(|error| error.to_string())?;
    let names: Vec<&str> = std::iter::once(sender).chain(receivers.iter().map(String::as_str)).collect();
    let build = || -> Result<Network, NetworkError> { Network::build(&names, SEED) };
    let network = build().map_err(|error| error.to_string())?;
    for receiver in receivers {
        let lossy = network.fabric().set_link(receiver, Direction::ToHost, Link::lossy(loss));
        lossy.map_err(|error| error.to_string())?;
    }
    Ok(network)
}

/// A UDP port that is free on loopback and whose successor is, too.
fn free_port() -> Result<u16, Failure> {
    let context = "no free UDP port was found on the loopback interface";
    for _ in 0..64 {
        let first = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).or_running(context)?;
        let port = first.local_addr().or_running(context)?.port();
        if port < u16::MAX && UdpSocket::bind((Ipv4Addr::LOCALHOST, port + 1)).is_ok() {
            return Ok(port);
        }
    }
    Err(Failure::running(context))
}
