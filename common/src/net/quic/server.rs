//! Answers nodes, within bounds, on threads of its own that give way to everything else on the machine.
//!
//! - A connection is a *stranger's* until its hello was accepted. It has [`PATIENCE`] for that, from its first packet on.
//! - Who proved nothing may ask one thing, within the same time, and has to go when that is answered.
//! - Strangers have a part of the places ([`Limits::strangers`]). When these are taken, or all of an address or in all,
//!   the eldest of them makes room for the next one: whoever belongs here says so in less time than that takes.

use std::collections::BTreeMap;
use std::future::Future;
use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use quinn::{Endpoint, EndpointConfig, Incoming, RecvStream, SendStream, VarInt};
use tokio::runtime::Runtime;
use tokio::sync::{Semaphore, oneshot};

use super::super::unicast::{bind_std, plain};
use super::{
    IDLE_MAX, MESSAGE_LEN_MAX, QuicError, Service, Session, binding_of, frame, identity_of, server_config, setup,
};
use crate::clock::Clock;
use crate::keys::SigningKey;
use crate::pacing::{Pacer, default_burst};
use crate::units::RateLimit;

/// Handshake and hello, or a request, take no longer; nor does anything that a stranger does.
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
    /// Of those that have not said who they are.
    pub strangers: usize,
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
            open => open,
        };
        Self {
            connections: 64,
            connections_per_peer: 4,
            strangers: 16,
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
    clock: Clock,
    pacer: Arc<Mutex<Pacer>>,
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
        let (clock, pacer) = (Clock::start(), Arc::new(Mutex::new(pacer(limits.rate))));
        let shared = Arc::new(Shared {
            service,
            limits,
            counters: Arc::clone(&counters),
            clock,
            pacer: Arc::clone(&pacer),
            replies: Semaphore::new(limits.replies),
            doors: Mutex::default(),
        });
        runtime.spawn(accept(endpoint.clone(), shared));
        Ok(Self { endpoint, local, counters, clock, pacer, runtime: Some(runtime) })
    }

    /// Where it listens.
    #[must_use]
    pub const fn local_addr(&self) -> SocketAddr {
        self.local
    }

    /// From now on so much leaves in all.
    pub fn set_rate(&self, rate: RateLimit) {
        lock(&self.pacer).set_rate(self.clock.now(), rate, burst(rate));
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
    Pacer::new(rate, burst(rate))
}

fn burst(rate: RateLimit) -> u64 {
    default_burst(rate).max(PIECE as u64)
}

/// What all connections share.
struct Shared {
    service: Arc<dyn Service>,
    limits: Limits,
    counters: Arc<Counters>,
    clock: Clock,
    pacer: Arc<Mutex<Pacer>>,
    replies: Semaphore,
    doors: Mutex<Doors>,
}

/// Who is inside.
#[derive(Default)]
struct Doors {
    /// In the order in which they came.
    places: BTreeMap<u64, Held>,
    came: u64,
}

/// A place that is taken.
struct Held {
    peer: Arc<Peer>,
    /// Of a stranger: dropped, it makes the stranger go.
    leave: Option<oneshot::Sender<()>>,
}

impl Doors {
    fn of(&self, address: IpAddr) -> impl Iterator<Item = &Held> {
        self.places.values().filter(move |held| held.peer.address == address)
    }

    fn strangers(&self) -> usize {
        self.places.values().filter(|held| held.leave.is_some()).count()
    }

    /// Makes the stranger go that came first; false when there is none.
    fn show_out(&mut self, is_meant: impl Fn(&Held) -> bool) -> bool {
        let eldest = self.places.iter().find(|(_, held)| held.leave.is_some() && is_meant(held)).map(|(id, _)| *id);
        eldest.and_then(|id| self.places.remove(&id)).is_some()
    }
}

/// What all connections of one address share.
struct Peer {
    address: IpAddr,
    pacer: Mutex<Pacer>,
    replies: Semaphore,
}

/// One connection's place, until it is dropped.
struct Place {
    id: u64,
    peer: Arc<Peer>,
    shared: Arc<Shared>,
}

impl Place {
    /// It is no stranger's any more; false when it had to go just now.
    fn greet(&self) -> bool {
        let mut doors = lock(&self.shared.doors);
        let held = doors.places.get_mut(&self.id);
        held.map(|held| held.leave = None).is_some()
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        lock(&self.shared.doors).places.remove(&self.id);
    }
}

/// A panic elsewhere leaves the bookkeeping valid.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Shared {
    /// Whether a place is only for those that are where they say: with many connections, or one from there. Senders are
    /// easily invented.
    fn is_busy(&self, address: IpAddr) -> bool {
        let doors = lock(&self.doors);
        doors.places.len() >= self.limits.connections / 4 || doors.of(address).next().is_some()
    }

    /// A stranger's place for one more connection of this peer, and what ends when it must go.
    fn admit(self: &Arc<Self>, address: IpAddr) -> Option<(Place, oneshot::Receiver<()>)> {
        let mut doors = lock(&self.doors);
        if doors.of(address).count() >= self.limits.connections_per_peer
            && !doors.show_out(|held| held.peer.address == address)
        {
            return None;
        }
        let is_full = doors.places.len() >= self.limits.connections || doors.strangers() >= self.limits.strangers;
        if is_full && !doors.show_out(|_| true) {
            return None;
        }
        let known = doors.of(address).next().map(|held| Arc::clone(&held.peer));
        let peer = known.unwrap_or_else(|| {
            let (pacer, replies) = (pacer(self.limits.rate_per_peer), Semaphore::new(self.limits.replies_per_peer));
            Arc::new(Peer { address, pacer: Mutex::new(pacer), replies })
        });
        doors.came += 1;
        let (id, (leave, left)) = (doors.came, oneshot::channel());
        doors.places.insert(id, Held { peer: Arc::clone(&peer), leave: Some(leave) });
        Some((Place { id, peer, shared: Arc::clone(self) }, left))
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
pub(super) fn network_of(address: IpAddr) -> IpAddr {
    match address {
        IpAddr::V4(_) => address,
        IpAddr::V6(v6) if v6.is_unicast_link_local() => address,
        IpAddr::V6(v6) => IpAddr::V6((v6.to_bits() & (u128::MAX << 64)).into()),
    }
}

async fn accept(endpoint: Endpoint, shared: Arc<Shared>) {
    while let Some(incoming) = endpoint.accept().await {
        let address = network_of(plain(incoming.remote_address()).ip());
        if !incoming.remote_address_validated() && shared.is_busy(address) {
            // Fails where it was validated, which it was not.
            drop(incoming.retry());
            continue;
        }
        let Some((place, mut left)) = shared.admit(address) else {
            shared.counters.refused.fetch_add(1, Ordering::Relaxed);
            incoming.refuse();
            continue;
        };
        tokio::spawn(async move {
            let until = tokio::time::Instant::now() + PATIENCE;
            let greeted = tokio::select! {
                greeted = within(PATIENCE, greet(incoming, &place)) => greeted,
                _ = &mut left => Err(QuicError::Broken("others wait for its place".to_owned())),
            };
            let shared = &place.shared;
            match greeted {
                Ok((connection, session, is_member)) => {
                    shared.counters.greeted.fetch_add(1, Ordering::Relaxed);
                    if is_member {
                        serve(&connection, session, &place).await;
                    } else {
                        tokio::select! {
                            _ = tokio::time::timeout_at(until, serve_once(&connection, session, &place)) => {}
                            _ = &mut left => {}
                        }
                    }
                    connection.close(VarInt::from_u32(1), b"");
                }
                Err(error) => {
                    shared.counters.refused.fetch_add(1, Ordering::Relaxed);
                    tracing::debug!(%address, %error, "a QUIC connection was refused");
                }
            }
        });
    }
}

/// A stranger's connection, up to its hello; and whether it is a stranger's no more. Dropped, it is closed.
async fn greet(incoming: Incoming, place: &Place) -> Result<(quinn::Connection, Arc<dyn Session>, bool), QuicError> {
    let broken = |e: quinn::ConnectionError| QuicError::Broken(e.to_string());
    let connection = incoming.accept().map_err(broken)?.await.map_err(broken)?;
    let (identity, binding) = (identity_of(&connection)?, binding_of(&connection)?);
    let (mut send, mut receive) = connection.accept_bi().await.map_err(broken)?;
    let hello = frame::read(&mut receive, MESSAGE_LEN_MAX).await?.unwrap_or_default();
    let (reply, session) = place.shared.service.greet(&identity, &binding, &hello).map_err(QuicError::Broken)?;
    frame::write(&mut send, &reply).await?;
    send.finish().map_err(|e| QuicError::Broken(e.to_string()))?;
    // Who only asks to join proved nothing. Last, and nothing is waited for after it: that the place is no stranger's any
    // more looks to whoever waits on it as if others wanted it.
    let is_member = session.is_member();
    if is_member && !place.greet() {
        return Err(QuicError::Broken("others waited for its place".to_owned()));
    }
    Ok((connection, session, is_member))
}

/// One answer to a stranger, until it has it.
async fn serve_once(connection: &quinn::Connection, session: Arc<dyn Session>, place: &Place) {
    let Ok((mut send, receive)) = connection.accept_bi().await else { return };
    match answer(&place.shared, &place.peer, session, &mut send, receive).await {
        // Nothing is to be done when it did not want to have it all.
        Ok(()) => drop(send.stopped().await),
        Err(error) => tracing::debug!(peer = %place.peer.address, %error, "a stranger was not answered"),
    }
}

/// A connection that was greeted, to its end.
async fn serve(connection: &quinn::Connection, session: Arc<dyn Session>, place: &Place) {
    while let Ok((mut send, receive)) = connection.accept_bi().await {
        let (session, shared, peer) = (Arc::clone(&session), Arc::clone(&place.shared), Arc::clone(&place.peer));
        let connection = connection.clone();
        tokio::spawn(async move {
            if let Err(error) = answer(&shared, &peer, Arc::clone(&session), &mut send, receive).await {
                tracing::debug!(peer = %peer.address, %error, "a request was not answered to the end");
                if !session.is_member() {
                    // What it proved is worth nothing any more: it has to say again who it is.
                    connection.close(VarInt::from_u32(1), b"");
                }
                // Else the stream would end as if all had been said. It may be closed already.
                drop(send.reset(VarInt::from_u32(1)));
            }
        });
    }
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
