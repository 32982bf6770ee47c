//! The NACK and answer socket: one for both families, with plain addresses on both sides of its interface.
//!
//! On a dual-stack socket the kernel shows IPv4 peers as `::ffff:a.b.c.d`. That form never leaves this module, so
//! that a peer has one address everywhere else.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV6};

use socket2::{Domain, Protocol, Socket, Type};

use super::{BIND, NetError, OPEN, SET};

/// Receive buffer asked of the kernel: a window of NACKs from some thousand receivers.
const RECEIVE_BUFFER: usize = 2 << 20;

/// A UDP socket for NACKs and their answers.
#[derive(Debug)]
pub struct UnicastSocket {
    socket: tokio::net::UdpSocket,
    local: SocketAddr,
}

impl UnicastSocket {
    /// Binds to `listen`; `[::]` takes IPv4 too (and is `0.0.0.0` where the system has no IPv6), port 0 takes a
    /// free one. Must be called inside a tokio runtime.
    ///
    /// # Errors
    /// When the address is taken, is not of this machine, or is not permitted.
    pub fn bind(listen: SocketAddr) -> Result<Self, NetError> {
        let (socket, local) = bind_std(listen)?;
        let socket = tokio::net::UdpSocket::from_std(socket).map_err(NetError::sort(SET, listen))?;
        Ok(Self { socket, local })
    }

    /// Where it is bound.
    #[must_use]
    pub const fn local_addr(&self) -> SocketAddr {
        self.local
    }

    /// Waits for a datagram, and gives its length and sender.
    ///
    /// # Errors
    /// What the system says; the socket stays usable.
    pub async fn recv_from(&self, buffer: &mut [u8]) -> io::Result<(usize, SocketAddr)> {
        let (len, from) = self.socket.recv_from(buffer).await?;
        Ok((len, plain(from)))
    }

    /// A datagram that is here already.
    ///
    /// # Errors
    /// `WouldBlock` when there is none; else what the system says.
    pub fn try_recv_from(&self, buffer: &mut [u8]) -> io::Result<(usize, SocketAddr)> {
        let (len, from) = self.socket.try_recv_from(buffer)?;
        Ok((len, plain(from)))
    }

    /// Sends a datagram, waiting for room.
    ///
    /// # Errors
    /// What the system says, for example that there is no route.
    pub async fn send_to(&self, bytes: &[u8], dest: SocketAddr) -> io::Result<usize> {
        self.socket.send_to(bytes, self.native(dest)).await
    }

    /// Sends a datagram if there is room.
    ///
    /// # Errors
    /// `WouldBlock` when there is none; else what the system says.
    pub fn try_send_to(&self, bytes: &[u8], dest: SocketAddr) -> io::Result<usize> {
        self.socket.try_send_to(bytes, self.native(dest))
    }

    /// Waits until a datagram is here.
    ///
    /// # Errors
    /// When the runtime is shutting down.
    pub async fn readable(&self) -> io::Result<()> {
        self.socket.readable().await
    }

    /// Waits until there is room to send.
    ///
    /// # Errors
    /// When the runtime is shutting down.
    pub async fn writable(&self) -> io::Result<()> {
        self.socket.writable().await
    }

    /// `dest` in the form that the socket's family takes.
    fn native(&self, dest: SocketAddr) -> SocketAddr {
        match dest {
            SocketAddr::V4(v4) if self.local.is_ipv6() => {
                SocketAddrV6::new(v4.ip().to_ipv6_mapped(), v4.port(), 0, 0).into()
            }
            other => other,
        }
    }
}

/// `address` without the mapping of IPv4 into IPv6.
#[must_use]
pub fn plain(address: SocketAddr) -> SocketAddr {
    match address {
        SocketAddr::V6(v6) => match v6.ip().to_ipv4_mapped() {
            Some(v4) => SocketAddr::new(v4.into(), v6.port()),
            None => address,
        },
        SocketAddr::V4(_) => address,
    }
}

/// A socket that does not block, and where it is bound; for both families where `listen` is `[::]`.
pub(super) fn bind_std(listen: SocketAddr) -> Result<(std::net::UdpSocket, SocketAddr), NetError> {
    match open(listen) {
        // Told as the address family or, with IPv6 disabled by sysctl, as the address that is not there.
        Err(NetError::Io { action: OPEN, .. } | NetError::AddressNotHere(_))
            if listen.ip() == IpAddr::V6(Ipv6Addr::UNSPECIFIED) =>
        {
            open(SocketAddr::new(Ipv4Addr::UNSPECIFIED.into(), listen.port()))
        }
        result => result,
    }
}

fn open(listen: SocketAddr) -> Result<(std::net::UdpSocket, SocketAddr), NetError> {
    let socket = Socket::new(Domain::for_address(listen), Type::DGRAM, Some(Protocol::UDP))
        .map_err(NetError::sort(OPEN, listen))?;
    prepare(&socket, listen).map_err(NetError::sort(SET, listen))?;
    socket.bind(&listen.into()).map_err(NetError::sort(BIND, listen))?;
    let socket = std::net::UdpSocket::from(socket);
    let local = socket.local_addr().map_err(NetError::sort(SET, listen))?;
    Ok((socket, local))
}

fn prepare(socket: &Socket, listen: SocketAddr) -> io::Result<()> {
    socket.set_nonblocking(true)?;
    if listen.is_ipv6() {
        socket.set_only_v6(false)?;
    }
    // A hint: the kernel grants what its limit allows.
    socket.set_recv_buffer_size(RECEIVE_BUFFER)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn free(listen: &str) -> UnicastSocket {
        UnicastSocket::bind(listen.parse().unwrap()).unwrap()
    }

    #[tokio::test]
    async fn one_socket_speaks_both_families_and_shows_plain_addresses() {
        let node = free("[::]:0");
        let port = node.local_addr().port();
        for local in ["127.0.0.1", "::1"] {
            let address: IpAddr = local.parse().unwrap();
            let peer = UnicastSocket::bind(SocketAddr::new(address, 0)).unwrap();
            peer.send_to(b"nack", SocketAddr::new(address, port)).await.unwrap();
            let mut buffer = [0; 16];
            let (len, from) = node.recv_from(&mut buffer).await.unwrap();
            assert_eq!((&buffer[..len], from), (&b"nack"[..], peer.local_addr()));
            node.send_to(b"answer", from).await.unwrap();
            let (len, from) = peer.recv_from(&mut buffer).await.unwrap();
            assert_eq!((&buffer[..len], from), (&b"answer"[..], SocketAddr::new(address, port)));
        }
    }

    #[tokio::test]
    async fn a_port_in_use_is_told_with_the_address() {
        let first = free("[::]:0");
        let second = UnicastSocket::bind(first.local_addr());
        let message = second.unwrap_err().to_string();
        assert!(message.contains("is in use") && message.contains(&first.local_addr().to_string()), "{message}");
    }

    #[tokio::test]
    async fn an_address_of_another_machine_is_told() {
        let error = UnicastSocket::bind("203.0.113.7:0".parse().unwrap()).unwrap_err();
        assert!(matches!(error, NetError::AddressNotHere(_)), "{error}");
    }
}
