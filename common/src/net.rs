//! Sockets (Linux): which interface, multicast in and out, the NACK and answer socket, QUIC.
//!
//! - Only this module and the drivers know sockets.
//! - Errors at set-up are a [`NetError`], which says what was asked, where, and what to do; errors on a running
//!   socket are plain [`io::Error`]s, which the drivers count.

use std::io;
use std::net::{IpAddr, SocketAddr};

pub mod interface;
pub mod lane;
pub mod multicast;
pub mod passage;
pub mod quic;
pub mod send;
pub mod tap;
pub mod unicast;

pub use interface::Interface;
pub use lane::Lane;
pub use multicast::GroupSocket;
pub use send::{MulticastSender, SendOptions};
pub use unicast::UnicastSocket;

/// Why a socket could not be set up.
#[derive(Debug, thiserror::Error)]
pub enum NetError {
    /// No interface has this name or address.
    #[error("no interface has the name or address `{asked}`; there are: {known}")]
    NoSuchInterface {
        /// What the user named.
        asked: String,
        /// What there is, with addresses.
        known: String,
    },
    /// The interface is there but not in use.
    #[error("interface {0} is down: bring it up, or name another with --interface")]
    InterfaceDown(String),
    /// No interface can carry the group.
    #[error("no interface that is up has an {family} address for group {group}; there are: {known}")]
    NoInterface {
        /// The group.
        group: IpAddr,
        /// `IPv4` or `IPv6`.
        family: &'static str,
        /// What there is, with addresses.
        known: String,
    },
    /// A group is needed.
    #[error(
        "{0} is not a multicast address: use one in 239.0.0.0/8 (or 232.0.0.0/8 for source-specific), or ff15::/16"
    )]
    NotMulticast(IpAddr),
    /// The group's family is not the interface's.
    #[error("interface {interface} has no {family} address, which group {group} needs: give it one, or use another")]
    FamilyMismatch {
        /// The group.
        group: IpAddr,
        /// The interface.
        interface: String,
        /// `IPv4` or `IPv6`.
        family: &'static str,
    },
    /// Linux gives loopback no route for IPv6 multicast.
    #[error(
        "interface {interface} has no route for group {group}: name another interface, use an IPv4 group, or run: \
         ip -6 route add {kind} ff00::/8 dev {interface}"
    )]
    NoMulticastRoute {
        /// The group.
        group: IpAddr,
        /// The interface.
        interface: String,
        /// The kind of route that helps: `local` on loopback, `multicast` elsewhere.
        kind: &'static str,
    },
    /// Another program has the port.
    #[error("{0} is in use by another program (another nackcast?): stop it, or choose another address and port")]
    AddressInUse(SocketAddr),
    /// This machine has no such address.
    #[error("{0} is no address of this machine: choose one that it has, or [::] for all")]
    AddressNotHere(SocketAddr),
    /// The system forbids it.
    #[error(
        "not permitted to {action} ({address}): ports below 1024 need CAP_NET_BIND_SERVICE, others a look at the security policy"
    )]
    Permission {
        /// What was tried.
        action: &'static str,
        /// Where.
        address: SocketAddr,
    },
    /// Anything else that the system said.
    #[error("cannot {action} ({address}): {source}")]
    Io {
        /// What was tried.
        action: &'static str,
        /// Where.
        address: SocketAddr,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// The system did not say which interfaces there are.
    #[error("cannot list the network interfaces: {0}")]
    Listing(#[source] io::Error),
}

impl NetError {
    /// Sorts what the system said when `action` was tried at `address`.
    fn sort(action: &'static str, address: SocketAddr) -> impl FnOnce(io::Error) -> Self {
        move |source| match source.kind() {
            io::ErrorKind::AddrInUse => Self::AddressInUse(address),
            io::ErrorKind::AddrNotAvailable if action == BIND => Self::AddressNotHere(address),
            io::ErrorKind::PermissionDenied => Self::Permission { action, address },
            _ => Self::Io { action, address, source },
        }
    }
}

const OPEN: &str = "open a UDP socket";
const BIND: &str = "bind a UDP socket";
const SET: &str = "set the options of a UDP socket";
const JOIN: &str = "join the multicast group";

/// `IPv4` or `IPv6`.
fn family(address: IpAddr) -> &'static str {
    if address.is_ipv4() { "IPv4" } else { "IPv6" }
}

/// The group's address, if it is one.
fn require_multicast(group: IpAddr) -> Result<IpAddr, NetError> {
    if group.is_multicast() { Ok(group) } else { Err(NetError::NotMulticast(group)) }
}

/// Whether receivers of this group name the sources (RFC 4607): 232/8 and ff3x::/32.
#[must_use]
pub fn is_source_specific(group: IpAddr) -> bool {
    match group {
        IpAddr::V4(group) => group.octets()[0] == 232,
        IpAddr::V6(group) => group.segments()[0] & 0xfff0 == 0xff30 && group.segments()[1] == 0,
    }
}

/// `group` with the interface as scope, where the address means something on one link only.
fn scoped(group: SocketAddr, interface: &Interface) -> SocketAddr {
    match group {
        SocketAddr::V6(mut group) if group.scope_id() == 0 && group.ip().segments()[0] & 0x000f <= 2 => {
            group.set_scope_id(interface.index);
            group.into()
        }
        other => other,
    }
}
