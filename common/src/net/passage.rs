//! What becomes of one datagram on its way to a host: whether it is too long or has too few hops.
//!
//! It goes, as with `traceroute`, to a port that nobody serves: the host says so, or a router says what is in the
//! way. Silence proves nothing, since firewalls and routers may say nothing.

use std::io::{self, IoSliceMut};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::{AsFd, AsRawFd};
use std::time::Duration;

use nix::sys::socket::{ControlMessageOwned, MsgFlags, SockaddrStorage, getsockopt, recvmsg, setsockopt, sockopt};
use socket2::{Domain, Protocol, SockRef, Socket, Type};
use tokio::io::Interest;

use super::{Interface, NetError, OPEN, SET};

/// Where `traceroute` begins, too.
const PORT: u16 = 33434;
/// From an ICMP message.
const ORIGIN_ICMP: u8 = libc::SO_EE_ORIGIN_ICMP;
const ORIGIN_ICMP6: u8 = libc::SO_EE_ORIGIN_ICMP6;
const V4_UNREACHABLE: u8 = 3;
const V4_PORT: u8 = 3;
const V4_EXPIRED: u8 = 11;
const V6_UNREACHABLE: u8 = 1;
const V6_PORT: u8 = 4;
const V6_TOO_LONG: u8 = 2;
const V6_EXPIRED: u8 = 3;

/// What became of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Passage {
    /// The host has it.
    Arrived,
    /// Nobody said anything.
    Silent,
    /// It is longer than a link on the way takes, in bytes of an IP packet.
    TooLong(u32),
    /// A router had to drop it, since its hops were used up.
    Expired(Option<IpAddr>),
    /// A router or firewall says that it cannot or must not go there.
    Unreachable(Option<IpAddr>),
    /// This machine did not send it.
    Refused(String),
}

/// Sends one datagram of `length` bytes with so many hops, and waits for what comes back. Must be called inside a
/// tokio runtime.
///
/// # Errors
/// When no socket can be made.
pub async fn passage(
    interface: Option<&Interface>,
    to: IpAddr,
    hops: u8,
    length: usize,
    wait: Duration,
) -> Result<Passage, NetError> {
    let to = SocketAddr::new(to, PORT);
    let socket =
        Socket::new(Domain::for_address(to), Type::DGRAM, Some(Protocol::UDP)).map_err(NetError::sort(OPEN, to))?;
    prepare(&socket, interface, to, hops).map_err(NetError::sort(SET, to))?;
    let sent = socket.connect(&to.into()).and_then(|()| socket.send(&vec![0; length]));
    if let Err(error) = sent {
        return Ok(if error.raw_os_error() == Some(libc::EMSGSIZE) {
            Passage::TooLong(known_mtu(&socket))
        } else {
            Passage::Refused(error.to_string())
        });
    }
    let read = NetError::sort("read errors of a UDP socket", to);
    let (mtu, answer) = listen(socket, wait).await.map_err(read)?;
    // What is known to be too long is cut in pieces without a word.
    let headers = if to.is_ipv4() { 28 } else { 48 };
    Ok(if mtu > 0 && (length + headers) as u64 > u64::from(mtu) { Passage::TooLong(mtu) } else { answer })
}

/// The longest IP packet that leaves by this interface to the group; none: not known.
#[must_use]
pub fn mtu_of(interface: &Interface, group: SocketAddr) -> Option<u32> {
    let socket = Socket::new(Domain::for_address(group), Type::DGRAM, Some(Protocol::UDP)).ok()?;
    if let Some(address) = interface.v4.filter(|_| group.is_ipv4()) {
        socket.set_multicast_if_v4(&address).ok()?;
        // A route that is given for the group leads elsewhere, perhaps: what counts is the interface.
        socket.bind(&SocketAddr::new(address.into(), 0).into()).ok()?;
    }
    socket.connect(&group.into()).ok()?;
    Some(known_mtu(&socket)).filter(|mtu| *mtu > 0)
}

fn prepare(socket: &Socket, interface: Option<&Interface>, to: SocketAddr, hops: u8) -> io::Result<()> {
    if to.is_ipv4() {
        socket.set_ttl_v4(hops.into())?;
        setsockopt(socket, sockopt::Ipv4RecvErr, &true)?;
    } else {
        socket.set_unicast_hops_v6(hops.into())?;
        setsockopt(socket, sockopt::Ipv6RecvErr, &true)?;
    }
    // Only an address that the user named: a host may well be reached another way than the group.
    match (interface.filter(|interface| interface.pinned), to) {
        (Some(Interface { v4: Some(v4), .. }), SocketAddr::V4(_)) => {
            socket.bind(&SocketAddr::new((*v4).into(), 0).into())
        }
        _ => Ok(()),
    }
}

/// 0: not known.
fn known_mtu(socket: &impl AsFd) -> u32 {
    let is_v4 = SockRef::from(socket).domain().is_ok_and(|domain| domain == Domain::IPV4);
    let mtu = if is_v4 { getsockopt(socket, sockopt::IpMtu).ok() } else { None };
    mtu.and_then(|mtu| u32::try_from(mtu).ok()).unwrap_or(0)
}

/// The MTU of the way, as far as it is known then, and what came back.
async fn listen(socket: Socket, wait: Duration) -> io::Result<(u32, Passage)> {
    socket.set_nonblocking(true)?;
    let socket = tokio::net::UdpSocket::from_std(socket.into())?;
    let answer = socket.async_io(Interest::ERROR, || match take(&socket)? {
        Some(passage) => Ok(passage),
        None => Err(io::ErrorKind::WouldBlock.into()),
    });
    let answer = match tokio::time::timeout(wait, answer).await {
        Ok(answer) => answer?,
        Err(_) => Passage::Silent,
    };
    Ok((known_mtu(&socket), answer))
}

/// What the error queue says; none: nothing of use.
fn take(socket: &impl AsFd) -> io::Result<Option<Passage>> {
    let mut bytes = [0; 64];
    let mut parts = [IoSliceMut::new(&mut bytes)];
    let mut control = nix::cmsg_space!([u8; 256]);
    let flags = MsgFlags::MSG_ERRQUEUE | MsgFlags::MSG_DONTWAIT;
    let message = match recvmsg::<SockaddrStorage>(socket.as_fd().as_raw_fd(), &mut parts, Some(&mut control), flags) {
        Ok(message) => message,
        Err(nix::Error::EAGAIN) => {
            return Ok(SockRef::from(socket).take_error()?.map(|error| Passage::Refused(error.to_string())));
        }
        Err(error) => return Err(error.into()),
    };
    for control in message.cmsgs()? {
        let (error, from) = match control {
            ControlMessageOwned::Ipv4RecvErr(error, from) => {
                (error, from.map(|from| IpAddr::V4(Ipv4Addr::from(u32::from_be(from.sin_addr.s_addr)))))
            }
            ControlMessageOwned::Ipv6RecvErr(error, from) => {
                (error, from.map(|from| IpAddr::V6(Ipv6Addr::from(from.sin6_addr.s6_addr))))
            }
            _ => continue,
        };
        return Ok(Some(sort(&error, from)));
    }
    Ok(None)
}

fn sort(error: &libc::sock_extended_err, from: Option<IpAddr>) -> Passage {
    if error.ee_errno == libc::EMSGSIZE.unsigned_abs() {
        return Passage::TooLong(error.ee_info);
    }
    match (error.ee_origin, error.ee_type, error.ee_code) {
        (ORIGIN_ICMP, V4_UNREACHABLE, V4_PORT) | (ORIGIN_ICMP6, V6_UNREACHABLE, V6_PORT) => Passage::Arrived,
        (ORIGIN_ICMP, V4_EXPIRED, _) | (ORIGIN_ICMP6, V6_EXPIRED, _) => Passage::Expired(from),
        (ORIGIN_ICMP6, V6_TOO_LONG, _) => Passage::TooLong(error.ee_info),
        (ORIGIN_ICMP | ORIGIN_ICMP6, ..) => Passage::Unreachable(from),
        _ => Passage::Refused(io::Error::from_raw_os_error(error.ee_errno.cast_signed()).to_string()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn this_machine_says_that_nobody_serves_the_port() {
        let arrived = passage(None, Ipv4Addr::LOCALHOST.into(), 1, 100, Duration::from_secs(10)).await.unwrap();
        assert_eq!(arrived, Passage::Arrived);
    }
}
