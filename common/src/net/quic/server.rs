//! Answers nodes, within bounds, on threads of its own that give way to everything else on the machine.

use std::collections::HashMap;
use std::future::Future;
use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use quinn::{Endpoint, EndpointConfig, RecvStream, SendStream, VarInt};
use tokio::runtime::Runtime;
use tokio::sync::Semaphore;

use super::super::unicast::{bind_std, plain};
use super::{
    IDLE_MAX, MESSAGE_LEN_MAX, QuicError, Service, Session, binding_of, frame, identity_of, server_config, setup,
};
use crate::clock::Clock;
use crate::keys::SigningKey;
use crate::pacing::{Pacer, default_burst};
use crate::units::RateLimit;

/// A handshake, a hello or a request takes no longer.
const PATIENCE: Duration = Duration::from_secs(5);
/// Pieces in which replies are paced.
const PIECE: usize = 16 << 10;
/// How much the server's threads give way (see nice(1)).
const NICE: i32 = 10;
/// Threads that read blocks.
const READERS: usize = 2;

/// What all peers together, and one peer (an IP address), may make a server do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Connections at once.
    pub connections: usize,
    /// Of one peer.
    pub connections_per_peer: usize,
    /// Requests of a connection that are answered at once.
    pub streams: u32,
    /// Replies in memory at once: read, and not sent yet.
    pub replies: usize,
    /// Of one peer.
    pub replies_per_peer: usize,
    /// What leaves in all.
    pub rate: RateLimit,
    /// To one peer.
    pub rate_per_peer: RateLimit,
}

impl Limits {
    /// Bounds for so much in all; half of it to one peer.
    #[must_use]
    pub const fn with_rate(rate: RateLimit) -> Self {
        let rate_per_peer = match rate {
            RateLimit::Fixed(rate) => RateLimit::Fixed(crate::units::BitRate(if rate.0 > 2 { rate.0 / 2 } else { 1 })),
            RateLimit::Max => RateLimit::Max,
        };
        Self {
            connections: 64,
            connections_per_peer: 4,
            streams: 8,
            replies: 32,
            replies_per_peer: 8,
            rate,
            rate_per_peer,
        }
    }
}

/// What a server did so far.
#[derive(Debug, Default)]
pub struct Counters {
    /// Bytes of replies that were written.
    pub bytes: AtomicU64,
    /// Connections that were greeted.
    pub greeted: AtomicU64,
    /// Connections that were refused: too many, or not of a channel that is served.
    pub refused: AtomicU64,
}

/// A server that runs until it is dropped.
#[derive(Debug)]
pub struct Server {
    endpoint: Endpoint,
    local: SocketAddr,
    counters: Arc<Counters>,
    runtime: Option<Runtime>,
}

impl Server {
    /// Listens at `listen`; `[::]` takes IPv4 too.
    ///
    /// # Errors
    /// When the address cannot be had, or the machine gives no threads.
    pub fn start(
        listen: SocketAddr,
        identity: &SigningKey,
        service: Arc<dyn Service>,
        limits: Limits,
    ) -> Result<Self, QuicError> {
        let config = server_config(identity, limits.streams)?;
        let (socket, local) = bind_std(listen)?;
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .max_blocking_threads(READERS)
            .thread_name("pull")
            .on_thread_start(give_way)
            .enable_all()
            .build()
            .map_err(setup("start threads"))?;
        let endpoint = {
            let _inside = runtime.enter();
            Endpoint::new(EndpointConfig::default(), Some(config), socket, Arc::new(quinn::TokioRuntime))
                .map_err(setup("listen for QUIC"))?
        };
        let counters = Arc::new(Counters::default());
        let clock = Clock::start();
        let shared = Arc::new(Shared {
            service,
            limits,
            counters: Arc::clone(&counters),
            clock,
            pacer: Mutex::new(pacer(limits.rate)),
            replies: Semaphore::new(limits.replies),
            peers: Mutex::default(),
        });
        runtime.spawn(accept(endpoint.clone(), shared));
        Ok(Self { endpoint, local, counters, runtime: Some(runtime) })
    }

    /// Where it listens.
    #[must_use]
    pub const fn local_addr(&self) -> SocketAddr {
        self.local
    }

    /// What it did so far.
    #[must_use]
    pub const fn counters(&self) -> &Arc<Counters> {
        &self.counters
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.endpoint.close(VarInt::from_u32(0), b"the node ends");
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

/// Lets every other thread of the machine go first.
fn give_way() {
    if let Err(error) = rustix::process::setpriority_process(None, NICE) {
        tracing::debug!(%error, "the threads for QUIC run as the others");
    }
}

fn pacer(rate: RateLimit) -> Pacer {
    Pacer::new(rate, default_burst(rate).max(PIECE as u64))
}

/// What all connections share.
struct Shared {
    service: Arc<dyn Service>,
    limits: Limits,
    counters: Arc<Counters>,
    clock: Clock,
    pacer: Mutex<Pacer>,
    replies: Semaphore,
    /// Those that have connections, and how many.
    peers: Mutex<HashMap<IpAddr, (usize, Arc<Peer>)>>,
}

/// What all connections of one address share.
struct Peer {
    address: IpAddr,
    pacer: Mutex<Pacer>,
    replies: Semaphore,
}

/// One connection's place among those of its peer, until it is dropped.
struct Place {
    peer: Arc<Peer>,
    shared: Arc<Shared>,
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut peers = lock(&self.shared.peers);
        if let Some((connections, _)) = peers.get_mut(&self.peer.address) {
            *connections -= 1;
            if *connections == 0 {
                peers.remove(&self.peer.address);
            }
        }
    }
}

/// A panic elsewhere leaves the bookkeeping valid.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Shared {
    fn connections(&self) -> usize {
        lock(&self.peers).values().map(|(connections, _)| connections).sum()
    }

    fn is_known(&self, address: IpAddr) -> bool {
        lock(&self.peers).contains_key(&address)
    }

    /// A place for one more connection of this peer.
    fn admit(self: &Arc<Self>, address: IpAddr) -> Option<Place> {
        let mut peers = lock(&self.peers);
        let all: usize = peers.values().map(|(connections, _)| connections).sum();
        let of_peer = peers.get(&address).map_or(0, |(connections, _)| *connections);
        if all >= self.limits.connections || of_peer >= self.limits.connections_per_peer {
            return None;
        }
        let (connections, peer) = peers.entry(address).or_insert_with(|| {
            let (pacer, replies) = (pacer(self.limits.rate_per_peer), Semaphore::new(self.limits.replies_per_peer));
            (0, Arc::new(Peer { address, pacer: Mutex::new(pacer), replies }))
        });
        *connections += 1;
        Some(Place { peer: Arc::clone(peer), shared: Arc::clone(self) })
    }

    /// Accounts for bytes that do not leave any more.
    fn spend(&self, peer: &Peer, bytes: u64) {
        let now = self.clock.now();
        lock(&self.pacer).spend(now, bytes);
        lock(&peer.pacer).spend(now, bytes);
    }

    /// Waits until so many bytes may leave.
    async fn pace(&self, peer: &Peer, bytes: u64) {
        loop {
            let now = self.clock.now();
            let wait = {
                let (mut all, mut one) = (lock(&self.pacer), lock(&peer.pacer));
                let wait = all.ready_at(now, bytes).max(one.ready_at(now, bytes));
                if wait.is_none() {
                    all.spend(now, bytes);
                    one.spend(now, bytes);
                }
                wait
            };
            match wait {
                None => return,
                Some(at) => tokio::time::sleep_until(self.clock.instant(at).into()).await,
            }
        }
    }
}

async fn within<T>(most: Duration, work: impl Future<Output = Result<T, QuicError>>) -> Result<T, QuicError> {
    let late = |_| Err(QuicError::Broken("the peer takes too long".to_owned()));
    tokio::time::timeout(most, work).await.unwrap_or_else(late)
}

/// Of IPv6 the network: whoever has one address of it has them all.
fn network_of(address: IpAddr) -> IpAddr {
    match address {
        IpAddr::V4(_) => address,
        IpAddr::V6(v6) if v6.is_unicast_link_local() => address,
        IpAddr::V6(v6) => IpAddr::V6((v6.to_bits() & (u128::MAX << 64)).into()),
    }
}

async fn accept(endpoint: Endpoint, shared: Arc<Shared>) {
    while let Some(incoming) = endpoint.accept().await {
        let address = network_of(plain(incoming.remote_address()).ip());
        // With many connections, or one from there, a place is for those only that are where they say: senders are
        // easily invented.
        let is_busy = shared.connections() >= shared.limits.connections / 4 || shared.is_known(address);
        if !incoming.remote_address_validated() && is_busy {
            // Fails where it was validated, which it was not.
            drop(incoming.retry());
            continue;
        }
        let Some(place) = shared.admit(address) else {
            shared.counters.refused.fetch_add(1, Ordering::Relaxed);
            incoming.refuse();
            continue;
        };
        tokio::spawn(async move {
            let shared = Arc::clone(&place.shared);
            let connecting = async {
                let connecting = incoming.accept().map_err(|e| QuicError::Broken(e.to_string()))?;
                connecting.await.map_err(|e| QuicError::Broken(e.to_string()))
            };
            let result = match within(PATIENCE, connecting).await {
                Ok(connection) => {
                    let result = serve(&connection, &place).await;
                    connection.close(VarInt::from_u32(1), b"");
                    result
                }
                Err(error) => Err(error),
            };
            if let Err(error) = result {
                shared.counters.refused.fetch_add(1, Ordering::Relaxed);
                tracing::debug!(%address, %error, "a QUIC connection was refused");
            }
        });
    }
}

/// One connection, from its hello to its end; an error only before it was greeted.
async fn serve(connection: &quinn::Connection, place: &Place) -> Result<(), QuicError> {
    let shared = &place.shared;
    let (identity, binding) = (identity_of(connection)?, binding_of(connection)?);
    let broken = |e: quinn::ConnectionError| QuicError::Broken(e.to_string());
    let session = within(PATIENCE, async {
        let (mut send, mut receive) = connection.accept_bi().await.map_err(broken)?;
        let hello = frame::read(&mut receive, MESSAGE_LEN_MAX).await?.unwrap_or_default();
        let (reply, session) = shared.service.greet(&identity, &binding, &hello).map_err(QuicError::Broken)?;
        frame::write(&mut send, &reply).await?;
        send.finish().map_err(|e| QuicError::Broken(e.to_string()))?;
        Ok(session)
    })
    .await?;
    shared.counters.greeted.fetch_add(1, Ordering::Relaxed);
    while let Ok((mut send, receive)) = connection.accept_bi().await {
        let (session, shared, peer) = (Arc::clone(&session), Arc::clone(shared), Arc::clone(&place.peer));
        tokio::spawn(async move {
            if let Err(error) = answer(&shared, &peer, session, &mut send, receive).await {
                tracing::debug!(peer = %peer.address, %error, "a request was not answered to the end");
                // Else the stream would end as if all had been said. It may be closed already.
                drop(send.reset(VarInt::from_u32(1)));
            }
        });
    }
    Ok(())
}

async fn answer(
    shared: &Shared,
    peer: &Peer,
    session: Arc<dyn Session>,
    send: &mut SendStream,
    mut receive: RecvStream,
) -> Result<(), QuicError> {
    let request = within(PATIENCE, frame::read(&mut receive, MESSAGE_LEN_MAX)).await?.unwrap_or_default();
    let gone = |_| QuicError::Broken("a reader is gone".to_owned());
    let replies = tokio::task::spawn_blocking(move || session.answer(&request)).await.map_err(gone)?;
    let Some(mut replies) = replies else {
        return Err(QuicError::Broken("not a request that is answered here".to_owned()));
    };
    loop {
        // Who asks and goes away must not make a disk read faster than the rate: what was read in vain is paid for.
        shared.pace(peer, 1).await;
        // Never closed.
        let _of_peer = peer.replies.acquire().await;
        let _of_all = shared.replies.acquire().await;
        let made = tokio::task::spawn_blocking(move || (replies.next(), replies)).await.map_err(gone)?;
        let Some(reply) = made.0 else { break };
        replies = made.1;
        write(shared, peer, send, &reply).await.inspect_err(|_| shared.spend(peer, reply.len() as u64))?;
    }
    send.finish().map_err(|e| QuicError::Broken(e.to_string()))
}

async fn write(shared: &Shared, peer: &Peer, send: &mut SendStream, reply: &Bytes) -> Result<(), QuicError> {
    let broken = |e: quinn::WriteError| QuicError::Broken(e.to_string());
    within(IDLE_MAX, async { send.write_all(&frame::head(reply)).await.map_err(broken) }).await?;
    for piece in reply.chunks(PIECE) {
        shared.pace(peer, piece.len() as u64).await;
        within(IDLE_MAX, async { send.write_all(piece).await.map_err(broken) }).await?;
        shared.counters.bytes.fetch_add(piece.len() as u64, Ordering::Relaxed);
    }
    Ok(())
}
