//! Calls nodes and asks them.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::OnceLock;

use bytes::Bytes;
use quinn::{Endpoint, RecvStream, VarInt};

use super::{MESSAGE_LEN_MAX, QuicError, binding_of, client_config, frame, setup};
use crate::keys::SigningKey;

/// What TLS is told of the server's name: raw keys have none.
const NAME: &str = "nackcast";

/// Calls nodes, all with one identity. Used inside one tokio runtime.
#[derive(Debug)]
pub struct Client {
    config: quinn::ClientConfig,
    /// One socket for each address family that was needed so far.
    v4: OnceLock<Endpoint>,
    v6: OnceLock<Endpoint>,
}

impl Client {
    /// A client that shows this identity.
    ///
    /// # Errors
    /// When TLS cannot be set up.
    pub fn new(identity: &SigningKey) -> Result<Self, QuicError> {
        Ok(Self { config: client_config(identity)?, v4: OnceLock::new(), v6: OnceLock::new() })
    }

    /// Calls a node. It may still refuse us: see [`Connection::greet`].
    ///
    /// # Errors
    /// When nobody answers there.
    pub async fn connect(&self, peer: SocketAddr) -> Result<Connection, QuicError> {
        let failed = |reason: String| QuicError::Connect { peer, reason };
        let endpoint = self.endpoint(peer)?;
        let connecting = endpoint.connect_with(self.config.clone(), peer, NAME).map_err(|e| failed(e.to_string()))?;
        let connection = connecting.await.map_err(|e| failed(e.to_string()))?;
        let binding = binding_of(&connection)?;
        Ok(Connection { connection, binding })
    }

    fn endpoint(&self, peer: SocketAddr) -> Result<&Endpoint, QuicError> {
        let (place, any): (_, IpAddr) = match peer {
            SocketAddr::V4(_) => (&self.v4, Ipv4Addr::UNSPECIFIED.into()),
            SocketAddr::V6(_) => (&self.v6, Ipv6Addr::UNSPECIFIED.into()),
        };
        if place.get().is_none() {
            let endpoint = Endpoint::client(SocketAddr::new(any, 0)).map_err(setup("open a UDP socket for QUIC"))?;
            // Another task may have been faster: its socket serves as well.
            drop(place.set(endpoint));
        }
        place.get().ok_or_else(|| setup("open a UDP socket for QUIC")("it is gone"))
    }
}

/// A connection that we opened. Ends when dropped.
#[derive(Debug)]
pub struct Connection {
    connection: quinn::Connection,
    binding: [u8; 32],
}

impl Connection {
    /// What this connection's first messages are bound to.
    #[must_use]
    pub const fn binding(&self) -> &[u8; 32] {
        &self.binding
    }

    /// Says who we are, and hears who the node is; before anything else.
    ///
    /// # Errors
    /// When the node refuses us or the connection breaks.
    pub async fn greet(&self, hello: &[u8]) -> Result<Bytes, QuicError> {
        let mut replies = self.ask(hello).await?;
        replies.next(MESSAGE_LEN_MAX).await?.ok_or_else(|| QuicError::Broken("the node refused us".to_owned()))
    }

    /// Asks; the replies come as the node makes them.
    ///
    /// # Errors
    /// When the connection breaks.
    pub async fn ask(&self, request: &[u8]) -> Result<Incoming, QuicError> {
        let broken = |error: &dyn std::fmt::Display| QuicError::Broken(error.to_string());
        let (mut send, receive) = self.connection.open_bi().await.map_err(|e| broken(&e))?;
        frame::write(&mut send, request).await?;
        send.finish().map_err(|e| broken(&e))?;
        Ok(Incoming { receive })
    }

    /// Whether it has ended.
    #[must_use]
    pub fn is_closed(&self) -> bool {
        self.connection.close_reason().is_some()
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        self.connection.close(VarInt::from_u32(0), b"done");
    }
}

/// The replies to one request. Dropped, it tells the node to stop.
#[derive(Debug)]
pub struct Incoming {
    receive: RecvStream,
}

impl Incoming {
    /// The next reply, of at most so many bytes; none at the end.
    ///
    /// # Errors
    /// When it is longer, or the connection breaks.
    pub async fn next(&mut self, longest: usize) -> Result<Option<Bytes>, QuicError> {
        frame::read(&mut self.receive, longest).await
    }
}
