//! Multicast in: a socket bound to one group on one interface, read in batches.
//!
//! A datagram of another group never gets through, by three means: the bind to the group's address, the kernel's
//! `IP_MULTICAST_ALL` off (else every group that any program of the machine joined would arrive), and a check of
//! the destination address of every datagram.

use std::io::{self, IoSliceMut};
use std::net::{IpAddr, SocketAddr, UdpSocket as StdUdpSocket};
use std::os::fd::AsRawFd;
use std::time::Duration;

use nix::sys::socket::{setsockopt, sockopt};
use quinn_udp::{RecvMeta, UdpSocketState};
use socket2::{Domain, InterfaceIndexOrAddress, Protocol, SockAddr, Socket, Type};
use tokio::io::Interest;

use super::{BIND, Interface, JOIN, NetError, OPEN, SET, family, is_source_specific, require_multicast, scoped};
use crate::clock::Clock;

/// Receive buffer asked of the kernel: 80 ms of 800 Mbit/s.
pub const RECEIVE_BUFFER: usize = 8 << 20;
/// What the kernel reckons for one full datagram.
const KERNEL_DATAGRAM: usize = 2304;
/// Room for what one receive may join to one buffer: the largest UDP datagram.
const BUFFER_LEN: usize = 64 << 10;
/// Buffers that one receive may fill. Without GRO each holds one datagram.
const BATCH: usize = 16;

/// A bound and joined socket, and how many bytes the kernel really queues for it.
#[derive(Debug)]
pub struct Bound {
    /// Non-blocking.
    pub socket: StdUdpSocket,
    /// Bytes of the receive buffer; less than [`RECEIVE_BUFFER`] where the kernel's limit is lower.
    pub receive_buffer: usize,
}

impl Bound {
    /// What to tell the user when the kernel grants a smaller buffer than wanted.
    #[must_use]
    pub fn warning(&self) -> Option<String> {
        (self.receive_buffer < RECEIVE_BUFFER).then(|| {
            format!(
                "the kernel limits the receive buffer to {} of {RECEIVE_BUFFER} bytes, so bursts may be lost: \
                 sysctl -w net.core.rmem_max={RECEIVE_BUFFER}",
                self.receive_buffer
            )
        })
    }
}

/// Binds to `group` and joins it on `interface`: source-specifically where the group is of that kind and sources of
/// its family are known, else from any source.
///
/// # Errors
/// When the group is no group, the interface lacks its family, or the system refuses.
pub fn bind_group(group: SocketAddr, interface: &Interface, sources: &[IpAddr]) -> Result<Bound, NetError> {
    require_multicast(group.ip())?;
    if !interface.serves(group.ip()) {
        let interface = interface.name.clone();
        return Err(NetError::FamilyMismatch { group: group.ip(), interface, family: family(group.ip()) });
    }
    let socket = Socket::new(Domain::for_address(group), Type::DGRAM, Some(Protocol::UDP))
        .map_err(NetError::sort(OPEN, group))?;
    let receive_buffer = prepare(&socket, group).map_err(NetError::sort(SET, group))?;
    socket.bind(&scoped(group, interface).into()).map_err(NetError::sort(BIND, group))?;
    join(&socket, group, interface, sources).map_err(NetError::sort(JOIN, group))?;
    Ok(Bound { socket: socket.into(), receive_buffer })
}

fn prepare(socket: &Socket, group: SocketAddr) -> io::Result<usize> {
    socket.set_nonblocking(true)?;
    // Several receivers of one machine listen to the same group.
    socket.set_reuse_address(true)?;
    if group.is_ipv4() {
        socket.set_multicast_all_v4(false)?;
    } else {
        socket.set_only_v6(true)?;
        socket.set_multicast_all_v6(false)?;
    }
    // An administrator's process may pass the kernel's limit, others get what the limit allows.
    if setsockopt(socket, sockopt::RcvBufForce, &RECEIVE_BUFFER).is_err() {
        socket.set_recv_buffer_size(RECEIVE_BUFFER)?;
    }
    // Linux doubles the size for its own bookkeeping, and tells the double. What is asked, granted by
    // `net.core.rmem_max`, and told to people is the half.
    Ok(socket.recv_buffer_size()? / 2)
}

fn join(socket: &Socket, group: SocketAddr, interface: &Interface, sources: &[IpAddr]) -> io::Result<()> {
    let group = group.ip();
    let mut own_family = sources.iter().filter(|source| source.is_ipv4() == group.is_ipv4()).peekable();
    if is_source_specific(group) && own_family.peek().is_some() {
        return own_family.try_for_each(|&source| join_source(socket, group, source, interface.index));
    }
    match group {
        IpAddr::V4(group) => socket.join_multicast_v4_n(&group, &InterfaceIndexOrAddress::Index(interface.index)),
        IpAddr::V6(group) => socket.join_multicast_v6(&group, interface.index),
    }
}

/// Joins `group` for datagrams of `source` only. Neither the standard library nor socket2 can for IPv6.
#[expect(unsafe_code, reason = "one setsockopt that no safe crate offers")]
fn join_source(socket: &Socket, group: IpAddr, source: IpAddr, interface_index: u32) -> io::Result<()> {
    let level = if group.is_ipv4() { libc::IPPROTO_IP } else { libc::IPPROTO_IPV6 };
    let (group, source) = (SockAddr::from(SocketAddr::new(group, 0)), SockAddr::from(SocketAddr::new(source, 0)));
    // SAFETY: a `SockAddrStorage` is a transparent `sockaddr_storage`, and both addresses live during the reads.
    let request = unsafe {
        libc::group_source_req {
            gsr_interface: interface_index,
            gsr_group: *group.as_ptr().cast::<libc::sockaddr_storage>(),
            gsr_source: *source.as_ptr().cast::<libc::sockaddr_storage>(),
        }
    };
    let length = libc::socklen_t::try_from(size_of_val(&request)).expect("a few hundred bytes");
    // SAFETY: the descriptor is open for the whole call, and the kernel only reads `length` bytes of `request`.
    let result = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            level,
            libc::MCAST_JOIN_SOURCE_GROUP,
            (&raw const request).cast::<libc::c_void>(),
            length,
        )
    };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// How a datagram came.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Arrival {
    /// Who sent it.
    pub from: SocketAddr,
    /// So long it waited to be read. The kernel notes when it comes; several that it joined came together.
    pub waited: Duration,
}

/// A group's socket on tokio, read in batches. One per interface: datagrams do not say where they came in.
pub struct GroupSocket {
    socket: StdUdpSocket,
    /// How the event loop watches it; none: it does not.
    watch: Option<tokio::net::UdpSocket>,
    state: UdpSocketState,
    group: SocketAddr,
    memory: Box<[u8]>,
    warning: Option<String>,
    receive_buffer: usize,
    foreign: u64,
}

impl GroupSocket {
    /// Binds and joins (see [`bind_group`]). Must be called inside a tokio runtime.
    ///
    /// # Errors
    /// As [`bind_group`].
    pub fn bind(group: SocketAddr, interface: &Interface, sources: &[IpAddr]) -> Result<Self, NetError> {
        let bound = bind_group(group, interface, sources)?;
        let (warning, receive_buffer) = (bound.warning(), bound.receive_buffer);
        let state = UdpSocketState::new((&bound.socket).into()).map_err(NetError::sort(SET, group))?;
        let memory = vec![0; BATCH * BUFFER_LEN].into_boxed_slice();
        let mut new =
            Self { socket: bound.socket, watch: None, state, group, memory, warning, receive_buffer, foreign: 0 };
        new.watch(true).map_err(NetError::sort(SET, group))?;
        Ok(new)
    }

    /// The group that it is bound to.
    #[must_use]
    pub const fn group(&self) -> SocketAddr {
        self.group
    }

    /// What to tell the user when the kernel grants a smaller receive buffer than wanted.
    #[must_use]
    pub fn warning(&self) -> Option<&str> {
        self.warning.as_deref()
    }

    /// Full datagrams that surely wait in the kernel until they are read.
    #[must_use]
    pub fn holds(&self) -> u32 {
        u32::try_from(self.receive_buffer / KERNEL_DATAGRAM).unwrap_or(u32::MAX)
    }

    /// Datagrams dropped because they were for another address: always 0 unless the kernel leaks.
    #[must_use]
    pub const fn foreign(&self) -> u64 {
        self.foreign
    }

    /// Waits for datagrams and gives each one that is in to `f`, then returns how many there were (0 when
    /// all were for another group). Cancelling it loses nothing.
    ///
    /// # Errors
    /// What the system says, for example that the interface went down; the socket stays usable.
    pub async fn recv(&mut self, mut f: impl FnMut(Arrival, &mut [u8])) -> io::Result<usize> {
        loop {
            self.readable().await?;
            match self.try_recv(&mut f) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                result => return result,
            }
        }
    }

    /// Waits until there may be datagrams; for ever, while it is not watched.
    ///
    /// # Errors
    /// What the system says.
    pub async fn readable(&self) -> io::Result<()> {
        match &self.watch {
            Some(watch) => watch.readable().await,
            None => std::future::pending().await,
        }
    }

    /// Whether the event loop watches it. That wakes a thread with every datagram: who reads many looks from time to
    /// time instead.
    ///
    /// # Errors
    /// What the system says; then it is not watched.
    pub fn watch(&mut self, watched: bool) -> io::Result<()> {
        if !watched {
            self.watch = None;
        } else if self.watch.is_none() {
            // A descriptor of its own: what the event loop forgets with it is nothing else.
            self.watch = Some(tokio::net::UdpSocket::from_std(self.socket.try_clone()?)?);
        }
        Ok(())
    }

    /// See [`Self::watch`].
    #[must_use]
    pub const fn is_watched(&self) -> bool {
        self.watch.is_some()
    }

    /// As [`Self::recv`], without waiting.
    ///
    /// # Errors
    /// `WouldBlock` when nothing is in; else what the system says.
    pub fn try_recv(&mut self, mut f: impl FnMut(Arrival, &mut [u8])) -> io::Result<usize> {
        let mut metas = [RecvMeta::default(); BATCH];
        let filled = {
            let mut buffers = self.memory.chunks_exact_mut(BUFFER_LEN);
            let mut slices: [IoSliceMut<'_>; BATCH] =
                std::array::from_fn(|_| IoSliceMut::new(buffers.next().expect("the memory holds a batch")));
            let mut recv = |socket: &StdUdpSocket| self.state.recv(socket.into(), &mut slices, &mut metas);
            match &self.watch {
                Some(watch) => watch.try_io(Interest::READABLE, || recv(&self.socket))?,
                None => recv(&self.socket)?,
            }
        };
        let (wall, mut count) = (Clock::wall(), 0);
        for (meta, buffer) in metas[..filled].iter().zip(self.memory.chunks_exact_mut(BUFFER_LEN)) {
            // Datagrams of one sender that the kernel joined stand `stride` apart; an empty one has stride 0.
            let datagrams = buffer[..meta.len].chunks_mut(meta.stride.max(1));
            if meta.dst_ip != Some(self.group.ip()) {
                self.foreign += datagrams.len() as u64;
                continue;
            }
            let waited = meta.timestamp.map_or(Duration::ZERO, |at| Clock::waited(wall, at));
            let arrival = Arrival { from: meta.addr, waited };
            for datagram in datagrams {
                f(arrival, datagram);
                count += 1;
            }
        }
        Ok(count)
    }
}

impl std::fmt::Debug for GroupSocket {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("GroupSocket")
            .field("group", &self.group)
            .field("foreign", &self.foreign)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::net::interface::resolve;

    #[test]
    fn source_specific_groups_are_told_apart() {
        for (group, expected) in [
            ("232.1.2.3", true),
            ("239.1.2.3", false),
            ("ff35::1", true),
            ("ff3e::8000:1", true),
            ("ff35:1::1", false),
            ("ff15::1", false),
        ] {
            assert_eq!(is_source_specific(group.parse().unwrap()), expected, "{group}");
        }
    }

    #[test]
    fn what_cannot_be_joined_is_a_clear_error() {
        let lo = resolve(Some("lo"), "239.255.70.1".parse().unwrap()).unwrap();
        let no_group = bind_group("127.0.0.1:47001".parse().unwrap(), &lo, &[]).unwrap_err();
        assert!(matches!(no_group, NetError::NotMulticast(_)), "{no_group}");
        let only_v6 = Interface { v4: None, ..lo };
        let mismatch = bind_group("239.255.70.1:47001".parse().unwrap(), &only_v6, &[]).unwrap_err();
        assert!(matches!(mismatch, NetError::FamilyMismatch { .. }), "{mismatch}");
    }

    #[test]
    fn a_small_buffer_comes_with_a_hint() {
        let lo = resolve(Some("lo"), "239.255.70.2".parse().unwrap()).unwrap();
        let mut bound = bind_group("239.255.70.2:47002".parse().unwrap(), &lo, &[]).unwrap();
        let limit = std::fs::read_to_string("/proc/sys/net/core/rmem_max").unwrap();
        let granted = RECEIVE_BUFFER.min(limit.trim().parse().unwrap());
        assert!([granted, RECEIVE_BUFFER].contains(&bound.receive_buffer), "{}", bound.receive_buffer);
        bound.receive_buffer = 212_992;
        assert!(bound.warning().unwrap().contains("net.core.rmem_max"));
        bound.receive_buffer = RECEIVE_BUFFER;
        assert_eq!(bound.warning(), None);
    }
}
