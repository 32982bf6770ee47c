//! Multicast out: batches of equal-sized datagrams in one system call each.
//!
//! - One `sendmsg` with `UDP_SEGMENT` (GSO) carries up to 64 datagrams. Where kernel or device refuse it, the same
//!   call sends them one by one, and remembers: for all sizes, or only for sizes that do not fit the link.
//! - DSCP is a socket option here; crates that attach ECN bits to every datagram would wipe it.
//! - Nothing is queued here: what the kernel does not take stays with the caller.

use std::io::{self, IoSlice};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV6, UdpSocket};
use std::os::fd::AsRawFd;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use nix::errno::Errno;
use nix::sys::socket::{ControlMessage, MsgFlags, SockaddrStorage, sendmsg, setsockopt, sockopt};
use rustix::net::sockopt::set_ip_multicast_if_with_ifindex;
use socket2::{Domain, Protocol, Socket, Type};
use tokio::io::Interest;

use super::{BIND, Interface, NetError, OPEN, SET, family, require_multicast};

/// Most datagrams in one call: what every kernel with GSO takes.
pub const SEGMENTS_MAX: usize = 64;
/// Most bytes in one call: the largest UDP payload over IPv4.
pub const BATCH_BYTES_MAX: usize = 65_507;
/// Send buffer asked of the kernel: a few batches, so that one is on its way while the next is made.
const SEND_BUFFER: usize = 1 << 20;

/// How multicast leaves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SendOptions {
    /// Routers that a datagram may pass: TTL, or hop limit.
    pub ttl: u8,
    /// Differentiated services code point, 0 to 63.
    pub dscp: u8,
}

impl Default for SendOptions {
    /// Eight hops, best effort.
    fn default() -> Self {
        Self { ttl: 8, dscp: 0 }
    }
}

/// A socket that sends to multicast groups of one family through one interface. Receivers on the same machine
/// hear it too.
#[derive(Debug)]
pub struct MulticastSender {
    socket: tokio::net::UdpSocket,
    gso: Gso,
}

/// The same without tokio.
#[derive(Debug)]
pub(super) struct Raw {
    socket: UdpSocket,
    gso: Gso,
}

/// Largest datagram that goes out by GSO; 0 after the kernel refused it altogether.
#[derive(Debug)]
struct Gso(AtomicUsize);

impl Default for Gso {
    fn default() -> Self {
        Self(AtomicUsize::new(BATCH_BYTES_MAX))
    }
}

impl Raw {
    /// See [`MulticastSender::bind`].
    pub(super) fn bind(group: IpAddr, interface: &Interface, options: SendOptions) -> Result<Self, NetError> {
        Ok(Self { socket: open(group, interface, options)?.into(), gso: Gso::default() })
    }

    /// From now on a call waits while the socket is full, but not longer than this.
    pub(super) fn block(&self, patience: Duration) -> io::Result<()> {
        self.socket.set_write_timeout(Some(patience))?;
        self.socket.set_nonblocking(false)
    }

    /// See [`MulticastSender::try_send_batch`].
    pub(super) fn send_batch(&self, dest: SocketAddr, buffer: &[u8], segment_size: usize) -> io::Result<usize> {
        self.gso.send_batch(&self.socket, dest, one_call(buffer, segment_size)?, segment_size)
    }
}

fn open(group: IpAddr, interface: &Interface, options: SendOptions) -> Result<Socket, NetError> {
    require_multicast(group)?;
    if !interface.serves(group) {
        let interface = interface.name.clone();
        return Err(NetError::FamilyMismatch { group, interface, family: family(group) });
    }
    let local = local_address(group, interface);
    let socket = Socket::new(Domain::for_address(local), Type::DGRAM, Some(Protocol::UDP))
        .map_err(NetError::sort(OPEN, local))?;
    prepare(&socket, group, interface, options).map_err(NetError::sort(SET, local))?;
    socket.bind(&local.into()).map_err(NetError::sort(BIND, local))?;
    Ok(socket)
}

/// As much of it as one call takes.
fn one_call(buffer: &[u8], segment_size: usize) -> io::Result<&[u8]> {
    if segment_size == 0 || segment_size > BATCH_BYTES_MAX {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "no datagram has this size"));
    }
    let segments = (BATCH_BYTES_MAX / segment_size).min(SEGMENTS_MAX);
    Ok(&buffer[..buffer.len().min(segments * segment_size)])
}

impl MulticastSender {
    /// A socket for groups of the family of `group`. Must be called inside a tokio runtime.
    ///
    /// # Errors
    /// When `group` is no group, the interface lacks its family, or the system refuses.
    pub fn bind(group: IpAddr, interface: &Interface, options: SendOptions) -> Result<Self, NetError> {
        let socket = open(group, interface, options)?.into();
        let socket = tokio::net::UdpSocket::from_std(socket);
        let socket = socket.map_err(NetError::sort(SET, local_address(group, interface)))?;
        Ok(Self { socket, gso: Gso::default() })
    }

    /// Where its datagrams come from; the address may be unspecified (the interface's then).
    ///
    /// # Errors
    /// When the system does not say.
    pub fn local_addr(&self) -> io::Result<SocketAddr> {
        self.socket.local_addr()
    }

    /// Whether datagrams of this size still leave in batches.
    #[must_use]
    pub fn batches(&self, segment_size: usize) -> bool {
        self.gso.takes(segment_size)
    }

    /// Sends datagrams of `segment_size` bytes that stand one after the other in `buffer` (the last may be shorter),
    /// as many as one call takes, and returns their bytes: always whole datagrams.
    ///
    /// # Errors
    /// `WouldBlock` when nothing was taken: wait for [`Self::writable`]. Others are of the first datagram and may
    /// last (the interface went away, or its named address did): the caller drops the datagram, or binds anew. `InvalidInput` for a segment size of 0 or above 65,507.
    pub fn try_send_batch(&self, dest: SocketAddr, buffer: &[u8], segment_size: usize) -> io::Result<usize> {
        let batch = one_call(buffer, segment_size)?;
        self.socket.try_io(Interest::WRITABLE, || self.gso.send_batch(&self.socket, dest, batch, segment_size))
    }

    /// Waits until the socket takes more.
    ///
    /// # Errors
    /// When the runtime is shutting down.
    pub async fn writable(&self) -> io::Result<()> {
        self.socket.writable().await
    }
}

impl Gso {
    fn takes(&self, segment_size: usize) -> bool {
        segment_size <= self.0.load(Ordering::Relaxed)
    }

    fn send_batch(
        &self,
        socket: &impl AsRawFd,
        dest: SocketAddr,
        batch: &[u8],
        segment_size: usize,
    ) -> io::Result<usize> {
        let dest = SockaddrStorage::from(dest);
        if batch.len() <= segment_size || !self.takes(segment_size) {
            return send_singly(socket, &dest, batch, segment_size);
        }
        let size = u16::try_from(segment_size).expect("a UDP payload's size fits 16 bits");
        let limit = match send(socket, &dest, batch, &[ControlMessage::UdpGsoSegments(&size)]) {
            Ok(taken) => return Ok(taken),
            // Does not fit the link: smaller ones may.
            Err(Errno::EMSGSIZE) => segment_size - 1,
            // No such offload: an old kernel, or a device that cannot make checksums.
            Err(Errno::EIO | Errno::EINVAL) => 0,
            Err(other) => return Err(other.into()),
        };
        let taken = send_singly(socket, &dest, batch, segment_size)?;
        // It was the batch that was refused and not, for example, the source address.
        if self.0.fetch_min(limit, Ordering::Relaxed) > limit {
            tracing::warn!(segment_size, "the link does not take datagrams of this size in batches: sending singly");
        }
        Ok(taken)
    }
}

fn send_singly(socket: &impl AsRawFd, dest: &SockaddrStorage, batch: &[u8], segment_size: usize) -> io::Result<usize> {
    let mut taken = 0;
    for datagram in batch.chunks(segment_size) {
        match send(socket, dest, datagram, &[]) {
            Ok(sent) => taken += sent,
            Err(error) if taken == 0 => return Err(error.into()),
            // The next call meets it again, if it lasts.
            Err(_) => break,
        }
    }
    Ok(taken)
}

fn send(
    socket: &impl AsRawFd,
    dest: &SockaddrStorage,
    bytes: &[u8],
    control: &[ControlMessage<'_>],
) -> nix::Result<usize> {
    sendmsg(socket.as_raw_fd(), &[IoSlice::new(bytes)], control, MsgFlags::empty(), Some(dest))
}

/// The address that the user named, else any: the kernel then takes the interface's.
fn local_address(group: IpAddr, interface: &Interface) -> SocketAddr {
    match group {
        IpAddr::V4(_) => {
            let address = interface.v4.filter(|_| interface.pinned).unwrap_or(Ipv4Addr::UNSPECIFIED);
            SocketAddr::new(address.into(), 0)
        }
        IpAddr::V6(_) => {
            let address = interface.v6.filter(|_| interface.pinned).unwrap_or(Ipv6Addr::UNSPECIFIED);
            let scope = if address.is_unicast_link_local() { interface.index } else { 0 };
            SocketAddrV6::new(address, 0, 0, scope).into()
        }
    }
}

fn prepare(socket: &Socket, group: IpAddr, interface: &Interface, options: SendOptions) -> io::Result<()> {
    let (ttl, traffic_class) = (u32::from(options.ttl), u32::from(options.dscp & 0x3f) << 2);
    socket.set_nonblocking(true)?;
    match group {
        IpAddr::V4(_) => {
            // By number and not by address: two interfaces may have the same one. On loopback the kernel would take
            // another interface's address as source, or none; elsewhere its choice follows changes of address.
            let any = Ipv4Addr::UNSPECIFIED;
            let source = interface.v4.filter(|_| interface.pinned || interface.loopback).unwrap_or(any);
            set_ip_multicast_if_with_ifindex(socket, &any, &source, interface.index)?;
            socket.set_multicast_loop_v4(true)?;
            socket.set_multicast_ttl_v4(ttl)?;
            socket.set_tos_v4(traffic_class)?;
        }
        IpAddr::V6(_) => {
            socket.set_only_v6(true)?;
            socket.set_multicast_if_v6(interface.index)?;
            socket.set_multicast_loop_v6(true)?;
            socket.set_multicast_hops_v6(ttl)?;
            socket.set_tclass_v6(traffic_class)?;
        }
    }
    // An administrator's process may pass the kernel's limit, others get what the limit allows.
    if setsockopt(socket, sockopt::SndBufForce, &SEND_BUFFER).is_err() {
        socket.set_send_buffer_size(SEND_BUFFER)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::net::GroupSocket;
    use crate::net::interface::resolve;

    const PATIENCE: Duration = Duration::from_secs(5);

    fn loopback(group: SocketAddr) -> Interface {
        resolve(Some("lo"), group.ip()).unwrap()
    }

    /// Whether this machine's loopback carries IPv6 multicast, which needs a route that Linux does not make.
    fn has_ipv6() -> bool {
        let found = resolve(Some("lo"), "ff15::1".parse().unwrap());
        if let Err(error) = &found {
            eprintln!("IPv6 skipped: {error}");
        }
        found.is_ok()
    }

    async fn send_all(sender: &MulticastSender, dest: SocketAddr, mut bytes: &[u8], size: usize) {
        while !bytes.is_empty() {
            match sender.try_send_batch(dest, bytes, size) {
                Ok(taken) => bytes = &bytes[taken..],
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => sender.writable().await.unwrap(),
                Err(error) => panic!("{error}"),
            }
        }
    }

    async fn receive(socket: &mut GroupSocket, count: usize) -> Vec<Vec<u8>> {
        let mut datagrams = Vec::new();
        while datagrams.len() < count {
            let got = socket.recv(|_, datagram| datagrams.push(datagram.to_vec()));
            tokio::time::timeout(PATIENCE, got).await.expect("datagrams are missing").unwrap();
        }
        datagrams
    }

    /// 100 datagrams of 1,400 bytes and a short one, each with its number in every byte.
    fn numbered() -> Vec<u8> {
        let mut bytes: Vec<u8> = (0..100_u8).flat_map(|i| [i; 1400]).collect();
        bytes.extend([100; 17]);
        bytes
    }

    async fn batch_arrives(group: &str, by_batch: bool) {
        let group: SocketAddr = group.parse().unwrap();
        let interface = loopback(group);
        let mut socket = GroupSocket::bind(group, &interface, &[]).unwrap();
        let sender = MulticastSender::bind(group.ip(), &interface, SendOptions::default()).unwrap();
        if !by_batch {
            sender.gso.0.store(0, Ordering::Relaxed);
        }
        let bytes = numbered();
        send_all(&sender, group, &bytes, 1400).await;
        let expected: Vec<_> = bytes.chunks(1400).map(<[u8]>::to_vec).collect();
        assert!(receive(&mut socket, expected.len()).await == expected, "{group}: datagrams differ");
        assert_eq!(sender.batches(1400), by_batch);
    }

    #[tokio::test]
    async fn a_batch_arrives_as_single_datagrams() {
        batch_arrives("239.255.71.1:47101", true).await;
    }

    #[tokio::test]
    async fn without_gso_the_same_datagrams_arrive() {
        batch_arrives("239.255.71.2:47102", false).await;
    }

    #[tokio::test]
    async fn a_batch_arrives_over_ipv6() {
        if !has_ipv6() {
            return;
        }
        batch_arrives("[ff15::7103]:47103", true).await;
        batch_arrives("[ff12::7104]:47104", true).await;
    }

    #[tokio::test]
    async fn one_call_takes_whole_datagrams_up_to_the_limits() {
        let group: SocketAddr = "239.255.71.5:47105".parse().unwrap();
        let sender = MulticastSender::bind(group.ip(), &loopback(group), SendOptions::default()).unwrap();
        sender.writable().await.unwrap();
        let bytes = vec![0; 200_000];
        assert_eq!(sender.try_send_batch(group, &bytes, 1400).unwrap(), 46 * 1400);
        assert_eq!(sender.try_send_batch(group, &bytes, 100).unwrap(), 64 * 100);
        assert_eq!(sender.try_send_batch(group, &bytes[..1399], 1400).unwrap(), 1399);
        for size in [0, 65_508] {
            let error = sender.try_send_batch(group, &bytes, size).unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::InvalidInput);
        }
    }

    #[tokio::test]
    async fn two_groups_on_one_port_do_not_mix() {
        let groups: [SocketAddr; 2] = ["239.255.71.6:47106".parse().unwrap(), "239.255.71.7:47106".parse().unwrap()];
        let interface = loopback(groups[0]);
        let mut sockets = groups.map(|group| GroupSocket::bind(group, &interface, &[]).unwrap());
        let sender = MulticastSender::bind(groups[0].ip(), &interface, SendOptions::default()).unwrap();
        for (group, byte) in groups.into_iter().zip([1, 2]) {
            send_all(&sender, group, &[byte; 300], 100).await;
        }
        for (socket, byte) in sockets.iter_mut().zip([1, 2]) {
            assert_eq!(receive(socket, 3).await, vec![vec![byte; 100]; 3]);
            // Loopback delivers in order, so a stray datagram would be here by now.
            let more = tokio::time::timeout(Duration::from_millis(50), socket.recv(|_, _| {})).await;
            assert!(more.is_err(), "a datagram of the other group came through");
            assert_eq!(socket.foreign(), 0);
        }
    }

    #[tokio::test]
    async fn source_specific_joins_take_the_named_source_only() {
        for (group, source, stranger) in
            [("232.255.71.8:47108", "127.0.0.1", "127.0.0.9"), ("[ff35::7109]:47109", "::1", "fd00::9")]
        {
            let group: SocketAddr = group.parse().unwrap();
            if group.is_ipv6() && !has_ipv6() {
                continue;
            }
            let (source, stranger): (IpAddr, IpAddr) = (source.parse().unwrap(), stranger.parse().unwrap());
            let interface = loopback(group);
            let sender = MulticastSender::bind(group.ip(), &interface, SendOptions::default()).unwrap();
            let mut deaf = GroupSocket::bind(group, &interface, &[stranger]).unwrap();
            let mut right = GroupSocket::bind(group, &interface, &[source]).unwrap();
            send_all(&sender, group, b"hello", 5).await;
            assert_eq!(receive(&mut right, 1).await, vec![b"hello".to_vec()]);
            let nothing = tokio::time::timeout(Duration::from_millis(50), deaf.recv(|_, _| {})).await;
            assert!(nothing.is_err(), "{group}: a datagram of another source came through");
        }
    }

    #[tokio::test]
    async fn an_empty_datagram_harms_nobody() {
        let group: SocketAddr = "239.255.71.10:47110".parse().unwrap();
        let interface = loopback(group);
        let mut socket = GroupSocket::bind(group, &interface, &[]).unwrap();
        let sender = MulticastSender::bind(group.ip(), &interface, SendOptions::default()).unwrap();
        sender.socket.send_to(&[], group).await.unwrap();
        send_all(&sender, group, b"after", 5).await;
        assert_eq!(receive(&mut socket, 1).await, vec![b"after".to_vec()]);
    }

    #[tokio::test]
    async fn dscp_and_ttl_leave_with_every_datagram_of_a_batch() {
        use nix::cmsg_space;
        use nix::sys::socket::{ControlMessageOwned, recvmsg};

        let group: SocketAddr = "239.255.71.11:47111".parse().unwrap();
        let interface = loopback(group);
        let bound = crate::net::multicast::bind_group(group, &interface, &[]).unwrap();
        setsockopt(&bound.socket, sockopt::IpRecvTos, &true).unwrap();
        setsockopt(&bound.socket, sockopt::Ipv4RecvTtl, &true).unwrap();
        let plain = tokio::net::UdpSocket::from_std(bound.socket).unwrap();
        let sender = MulticastSender::bind(group.ip(), &interface, SendOptions { ttl: 3, dscp: 34 }).unwrap();
        send_all(&sender, group, &[5; 300], 100).await;
        for _ in 0..3 {
            let mut bytes = [0; 200];
            let mut control = cmsg_space!(u8, i32);
            let facts: Vec<String> = plain
                .async_io(Interest::READABLE, || {
                    let mut vectors = [io::IoSliceMut::new(&mut bytes)];
                    let fd = plain.as_raw_fd();
                    let message = recvmsg::<SockaddrStorage>(fd, &mut vectors, Some(&mut control), MsgFlags::empty())?;
                    let describe = |fact| match fact {
                        ControlMessageOwned::Ipv4Tos(tos) => format!("tos {tos}"),
                        ControlMessageOwned::Ipv4Ttl(ttl) => format!("ttl {ttl}"),
                        other => format!("{other:?}"),
                    };
                    Ok(message.cmsgs()?.map(describe).collect())
                })
                .await
                .unwrap();
            assert!(facts.contains(&"tos 136".to_owned()) && facts.contains(&"ttl 3".to_owned()), "{facts:?}");
        }
    }
}
