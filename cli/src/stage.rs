//! Where processes run that this program starts: hosts of a network of namespaces, or this machine's loopback interface.

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::path::Path;
use std::process::Command;

use nackcast_common::units::counted;
use nackcast_testbed::fabric::{Direction, Link};
use nackcast_testbed::netns;
use nackcast_testbed::network::{Bridged, Host, Network};

use crate::args::values::Percent;
use crate::failure::{Failure, OrFail};

/// Decides the random loss; always the same, so that two demos can be compared.
const SEED: u64 = 2026;
const PORT: u16 = 7701;

/// Where the processes run.
#[derive(Debug)]
pub(crate) enum Stage {
    /// Each on a host of its own; the fabric loses datagrams on the way to receivers.
    Namespaces(Network),
    /// The same, and the kernel's bridge joins them: fast, and nothing is lost.
    Bridged(Bridged),
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
pub(crate) struct Traffic {
    pub(crate) given: u64,
    pub(crate) lost: u64,
    /// Unicast from the receiver: NACKs, headers included.
    pub(crate) nack_bytes: u64,
}

/// What joins the hosts.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Cables {
    /// The fabric, with a share of datagrams that is lost on the way to each receiver.
    Lossy(f64),
    /// The kernel's bridge.
    Bridge,
    /// No hosts: all on the loopback interface.
    Loopback,
}

impl Stage {
    /// Builds the network, the sender being its first host, or falls back to loopback. To be called before there is a
    /// second thread: a user namespace cannot be entered with one.
    pub(crate) fn build(sender: &str, receivers: &[String], cables: Cables) -> Result<Self, Failure> {
        let built = match cables {
            Cables::Lossy(loss) => network(sender, receivers, loss).map(Self::Namespaces),
            Cables::Bridge => bridged(sender, receivers).map(Self::Bridged),
            Cables::Loopback => return Ok(Self::Loopback { reason: None, port: free_port()? }),
        };
        built.or_else(|reason| Ok(Self::Loopback { reason: Some(reason), port: free_port()? }))
    }

    fn hosts(&self) -> &[Host] {
        match self {
            Self::Namespaces(network) => network.hosts(),
            Self::Bridged(network) => network.hosts(),
            Self::Loopback { .. } => &[],
        }
    }

    /// Does something where the node called `name` runs, on a thread of its own.
    pub(crate) fn run<T: Send>(&self, name: &str, work: impl FnOnce() -> T + Send) -> Result<T, Failure> {
        match self.hosts().iter().find(|host| host.name() == name) {
            Some(host) => host.run(work).or_running(format_args!("host {name} cannot be entered")),
            None => Ok(work()),
        }
    }

    /// One line that says what will be seen.
    pub(crate) fn describe(&self, loss: Percent, receivers: usize) -> String {
        let receivers = counted(receivers as u64, "receiver");
        match self {
            Self::Bridged(_) => {
                format!("one sender and {receivers}, each in a network namespace of its own, on a bridge")
            }
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
    pub(crate) const fn is_lossy(&self) -> bool {
        matches!(self, Self::Namespaces(_))
    }

    /// A command that runs `program` as the node called `name`.
    pub(crate) fn command(&self, name: &str, program: &Path) -> Command {
        match self.hosts().iter().find(|host| host.name() == name) {
            Some(host) => host.command(program),
            None => Command::new(program),
        }
    }

    /// The interface that nodes use.
    pub(crate) fn interface(&self) -> &'static str {
        self.hosts().first().map_or("lo", Host::interface)
    }

    /// Where the sender listens.
    pub(crate) const fn listen(&self) -> SocketAddr {
        match self {
            Self::Namespaces(_) | Self::Bridged(_) => {
                SocketAddr::new(std::net::IpAddr::V6(Ipv6Addr::UNSPECIFIED), PORT)
            }
            Self::Loopback { port, .. } => SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::LOCALHOST), *port),
        }
    }

    /// Where receivers find the sender.
    pub(crate) fn sender_address(&self) -> SocketAddr {
        self.hosts().first().map_or_else(|| self.listen(), |host| SocketAddr::new(host.addr_v4().into(), PORT))
    }

    /// What the fabric counted, by host; empty on loopback.
    pub(crate) fn traffic(&self) -> BTreeMap<String, Traffic> {
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

fn names<'a>(sender: &'a str, receivers: &'a [String]) -> Vec<&'a str> {
    std::iter::once(sender).chain(receivers.iter().map(String::as_str)).collect()
}

/// The network, or one line that says why there is none.
fn bridged(sender: &str, receivers: &[String]) -> Result<Bridged, String> {
    netns::enter_user_namespace().map_err(|error| error.to_string())?;
    Bridged::build(&names(sender, receivers)).map_err(|error| error.to_string())
}

/// The same with faults.
fn network(sender: &str, receivers: &[String], loss: f64) -> Result<Network, String> {
    netns::enter_user_namespace().map_err(|error| error.to_string())?;
    let network = Network::build(&names(sender, receivers), SEED).map_err(|error| error.to_string())?;
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
