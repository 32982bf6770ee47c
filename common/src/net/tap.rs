//! What reaches an interface before any firewall, filter or socket of this machine: for finding out why a program
//! hears nothing. Needs `CAP_NET_RAW`.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::AsRawFd;

use nix::sys::socket::{LinkAddr, recvfrom};
use socket2::{Domain, Protocol, Socket, Type};
use tokio::io::Interest;
use tokio::net::UdpSocket;

/// All protocols: what leaves is shown only to those who ask for all.
const ETHERTYPE_ALL: u16 = 0x0003;
const UDP: u8 = 17;
const IGMP: u8 = 2;
const ICMP6: u8 = 58;
const HOP_BY_HOP: u8 = 0;
const IGMP_QUERY: u8 = 0x11;
/// Of IGMP versions 1, 2 and 3.
const IGMP_REPORTS: [u8; 3] = [0x12, 0x16, 0x22];
const MLD_QUERY: u8 = 130;
/// Of MLD versions 1 and 2.
const MLD_REPORTS: [u8; 2] = [131, 143];
/// Of what this machine sends.
const OUTGOING: u8 = 4;

/// What passed by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Passed {
    /// A UDP datagram.
    Udp {
        /// From where.
        from: SocketAddr,
        /// Where to.
        to: SocketAddr,
        /// Hops that are left.
        hops: u8,
        /// It is a fragment, so that a link on the way was too small for it.
        fragment: bool,
    },
    /// Somebody asks who wants which group (IGMP or MLD): there is a querier.
    Query(IpAddr),
    /// Somebody says which groups are wanted, and which no longer.
    Report(IpAddr),
}

/// One packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Seen {
    /// Number of the interface.
    pub interface: u32,
    /// This machine sent it.
    pub outgoing: bool,
    /// What it is.
    pub passed: Passed,
}

/// Sees all packets of one family, on all interfaces.
#[derive(Debug)]
pub struct Tap {
    socket: UdpSocket,
    is_v4: bool,
}

impl Tap {
    /// Opens it. Must be called inside a tokio runtime.
    ///
    /// # Errors
    /// Mostly because it is not permitted.
    pub fn open(is_v4: bool) -> io::Result<Self> {
        let socket = Socket::new(Domain::PACKET, Type::DGRAM, Some(Protocol::from(i32::from(ETHERTYPE_ALL.to_be()))))?;
        socket.set_nonblocking(true)?;
        // It is none of UDP; what is used of it here is the same for all sockets.
        let socket = UdpSocket::from_std(socket.into())?;
        Ok(Self { socket, is_v4 })
    }

    /// The next packet that says something.
    ///
    /// # Errors
    /// What the system says.
    pub async fn next(&self) -> io::Result<Seen> {
        let mut packet = [0; 2048];
        loop {
            let read = || recvfrom::<LinkAddr>(self.socket.as_raw_fd(), &mut packet).map_err(io::Error::from);
            let (length, link) = self.socket.async_io(Interest::READABLE, read).await?;
            let (Some(packet), Some(link)) = (packet.get(..length), link) else { continue };
            if let Some(passed) = parse(packet, self.is_v4) {
                let interface = u32::try_from(link.ifindex()).unwrap_or(0);
                return Ok(Seen { interface, outgoing: link.pkttype() == OUTGOING, passed });
            }
        }
    }
}

fn parse(packet: &[u8], is_v4: bool) -> Option<Passed> {
    match packet.first()? >> 4 {
        4 if is_v4 => parse_v4(packet),
        6 if !is_v4 => parse_v6(packet),
        _ => None,
    }
}

fn parse_v4(packet: &[u8]) -> Option<Passed> {
    let header: &[u8; 20] = packet.first_chunk()?;
    let body = packet.get(usize::from(header[0] & 15) * 4..)?;
    let address = |at: usize| Some(Ipv4Addr::from(*header.get(at..)?.first_chunk::<4>()?));
    let (from, to) = (address(12)?, address(16)?);
    let flags = u16::from_be_bytes([header[6], header[7]]);
    let (more, offset) = (flags & 0x2000 != 0, flags & 0x1fff);
    match header[9] {
        UDP if offset == 0 => udp(from.into(), to.into(), header[8], more, body),
        IGMP => membership(from.into(), *body.first()?, IGMP_QUERY, &IGMP_REPORTS),
        _ => None,
    }
}

fn parse_v6(packet: &[u8]) -> Option<Passed> {
    let (header, body) = packet.split_first_chunk::<40>()?;
    let address = |at: usize| Some(Ipv6Addr::from(*header.get(at..)?.first_chunk::<16>()?));
    let (from, to) = (address(8)?, address(24)?);
    match header[6] {
        UDP => udp(from.into(), to.into(), header[7], false, body),
        HOP_BY_HOP => {
            let [next, length, ..] = body.first_chunk::<8>()?;
            let body = body.get((usize::from(*length) + 1) * 8..)?;
            if *next != ICMP6 {
                return None;
            }
            membership(from.into(), *body.first()?, MLD_QUERY, &MLD_REPORTS)
        }
        _ => None,
    }
}

/// What a message about membership is.
fn membership(from: IpAddr, kind: u8, query: u8, reports: &[u8]) -> Option<Passed> {
    match kind {
        kind if kind == query => Some(Passed::Query(from)),
        kind if reports.contains(&kind) => Some(Passed::Report(from)),
        _ => None,
    }
}

fn udp(from: IpAddr, to: IpAddr, hops: u8, fragment: bool, body: &[u8]) -> Option<Passed> {
    let [a, b, c, d, ..] = *body.first_chunk::<8>()?;
    let (from_port, to_port) = (u16::from_be_bytes([a, b]), u16::from_be_bytes([c, d]));
    let (from, to) = (SocketAddr::new(from, from_port), SocketAddr::new(to, to_port));
    Some(Passed::Udp { from, to, hops, fragment })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// An IPv4 packet from 10.0.0.1 to 239.1.1.1 with 7 hops left.
    fn packet(protocol: u8, flags: u16, body: &[u8]) -> Vec<u8> {
        let mut packet = vec![0x45, 0, 0, 0, 0, 0, 0, 0, 7, protocol, 0, 0, 10, 0, 0, 1, 239, 1, 1, 1];
        packet[6..8].copy_from_slice(&flags.to_be_bytes());
        packet.extend(body);
        packet
    }

    #[test]
    fn datagrams_fragments_and_queries_are_told_apart() {
        let datagram = [0x1d, 0xb0, 0x1d, 0xb1, 0, 9, 0, 0, 1];
        let (from, to) = ("10.0.0.1:7600".parse().unwrap(), "239.1.1.1:7601".parse().unwrap());
        assert_eq!(parse(&packet(UDP, 0, &datagram), true), Some(Passed::Udp { from, to, hops: 7, fragment: false }));
        assert_eq!(
            parse(&packet(UDP, 0x2000, &datagram), true),
            Some(Passed::Udp { from, to, hops: 7, fragment: true })
        );
        assert_eq!(parse(&packet(UDP, 0x2001, &datagram), true), None, "only the first fragment has ports");
        assert_eq!(parse(&packet(IGMP, 0, &[IGMP_QUERY, 100]), true), Some(Passed::Query(from.ip())));
        assert_eq!(parse(&packet(IGMP, 0, &[0x22]), true), Some(Passed::Report(from.ip())));
        assert_eq!(parse(&packet(IGMP, 0, &[0x17]), true), None, "who leaves");
        for short in 0..28 {
            assert_eq!(parse(&packet(UDP, 0, &datagram)[..short], true), None);
        }
        let mut mld = vec![0x60, 0, 0, 0, 0, 0, HOP_BY_HOP, 1];
        mld.extend([0xfe; 32]);
        mld.extend([ICMP6, 0, 5, 2, 0, 0, 1, 0, MLD_QUERY]);
        assert_eq!(parse(&mld, true), None, "of the other family");
        assert!(matches!(parse(&mld, false), Some(Passed::Query(IpAddr::V6(_)))));
    }
}
