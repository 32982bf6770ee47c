//! Unicast pull on the network: one connection to each source, one task for each request.
//!
//! A connection is opened when the first request needs it, belongs to a peer that proved to be of the channel, and ends
//! by itself when it is idle. Whatever goes wrong ends the request as broken; the engine decides what then.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use nackcast_common::clock::Clock;
use nackcast_common::ids::Epoch;
use nackcast_common::keys::{Side, SigningKey, VerifyingKey};
use nackcast_common::net::quic::{Client, Connection, QuicError};
use nackcast_proto::pull::hello::{check_introduction, join_hello};
use nackcast_proto::pull::{Block, HelloError, JoinRefusal, Joined, Member, Membership, Offer, Request, join};
use nackcast_proto::wire::WireError;
use nackcast_proto::wire::limits::ROOT_LEN_MAX;
use tokio::sync::mpsc;
use tokio::task::{AbortHandle, JoinSet};

use crate::engine::{PullEnd, RequestId};
use crate::node::{JoinEnd, PullOrder, ReceiverNode};
use crate::secrets;

/// Replies that wait for the node: beyond, sources wait.
const REPLIES_MAX: usize = 8;

/// One address of a name is called so long after the one before.
const NEXT_ADDRESS: Duration = Duration::from_millis(250);

/// To be let in takes no longer.
const JOIN_TAKES: Duration = Duration::from_secs(10);

/// What a request brought.
#[derive(Debug)]
pub(super) enum Reply {
    Block(RequestId, Block),
    Offer(Offer),
    Over(RequestId, PullEnd),
    Joined(JoinEnd),
    /// A source takes none of our secrets, for people.
    TurnedAway(String),
    /// A source was reached, or was not, for which reason.
    Reached(Arc<str>, Result<(), String>),
}

/// Why a request broke.
#[derive(Debug, thiserror::Error)]
enum PullError {
    #[error("{0} has no address here: {1}")]
    Name(Arc<str>, std::io::Error),
    #[error(transparent)]
    Quic(#[from] QuicError),
    #[error(
        "{0} is a node of nackcast that takes none of the secrets of this node: its ticket is of another channel, or the \
         epoch is over; a newer secret is asked for where the channel has a list, else compare the ticket with what \
         `nackcast channel ticket FILE` prints at the sender"
    )]
    Refused(SocketAddr),
    #[error("not of this channel: {0}")]
    Hello(#[from] HelloError),
    #[error("an answer that is none: {0}")]
    Wire(#[from] WireError),
    #[error("it gave no answer")]
    Silent,
    #[error("this node has no secret of the channel yet")]
    NoSecret,
    #[error("the call came to no end: {0}")]
    Ended(#[from] tokio::task::JoinError),
    #[error("nobody waits for it any more")]
    Unwanted,
}

/// What pulls need.
#[derive(Debug)]
pub(crate) struct PullSetup {
    pub(crate) identity: SigningKey,
    pub(crate) membership: Arc<Membership>,
    /// Where secrets are kept that are given to this node.
    pub(crate) state: PathBuf,
}

/// The running requests of a channel.
#[derive(Debug)]
pub(super) struct Puller {
    shared: Arc<Shared>,
    tasks: JoinSet<()>,
    running: BTreeMap<RequestId, AbortHandle>,
    replies: mpsc::Receiver<Reply>,
    sender: mpsc::Sender<Reply>,
    state: PathBuf,
    /// What the membership was told last: the newest secret, and the epoch in force.
    followed: (Option<Epoch>, Epoch),
}

/// The connection to one address, or none yet; locked while it is made.
type Place = Arc<tokio::sync::Mutex<Option<Arc<Connection>>>>;

#[derive(Debug)]
struct Shared {
    client: Client,
    identity: VerifyingKey,
    membership: Arc<Membership>,
    places: Mutex<BTreeMap<SocketAddr, Place>>,
}

impl Puller {
    pub(super) fn new(setup: PullSetup) -> Result<Self, QuicError> {
        let client = Client::new(&setup.identity)?;
        let PullSetup { identity, membership, state } = setup;
        let (identity, places) = (identity.verifying_key(), Mutex::default());
        let shared = Arc::new(Shared { client, identity, membership, places });
        let (sender, replies) = mpsc::channel(REPLIES_MAX);
        let followed = (None, Epoch(0));
        Ok(Self { shared, tasks: JoinSet::new(), running: BTreeMap::new(), replies, sender, state, followed })
    }

    /// Speaks for the node as what it is now.
    pub(super) fn follow(&mut self, node: &ReceiverNode) {
        let in_force = node.manifest().map_or(Epoch(0), |(_, manifest)| manifest.head().epoch);
        let now = (node.epochs().newest(), in_force);
        if self.followed != now {
            self.followed = now;
            self.shared.membership.follow(node.epochs().clone(), in_force);
        }
    }

    /// Asks senders for secrets, one after the other.
    pub(super) fn join(&mut self, node: &ReceiverNode) {
        let (shared, replies, sources) = (Arc::clone(&self.shared), self.sender.clone(), node.join_sources());
        let held = node.epochs().newest();
        self.tasks.spawn(async move {
            let end = shared.join(&sources, held).await;
            // Nobody there: the node ended.
            drop(replies.send(Reply::Joined(end)).await);
        });
    }

    /// Begins and ends what the node orders.
    pub(super) fn carry_out(&mut self, node: &mut ReceiverNode) {
        while self.tasks.try_join_next().is_some() {}
        while let Some(order) = node.poll_pull() {
            match order {
                PullOrder::Manifest { request, source } => {
                    self.begin(request, source, Request::Manifest, ROOT_LEN_MAX as usize + 256);
                }
                PullOrder::Fetch { request, source, object, blocks, longest } => {
                    self.begin(request, source, Request::Blocks { object, blocks }, longest);
                }
                PullOrder::Cancel { request } => {
                    if let Some(task) = self.running.remove(&request) {
                        task.abort();
                    }
                }
            }
        }
    }

    fn begin(&mut self, request: RequestId, source: Arc<str>, what: Request, longest: usize) {
        let (shared, replies) = (Arc::clone(&self.shared), self.sender.clone());
        let task = self.tasks.spawn(async move {
            let end = match shared.ask(request, &source, &what, longest, &replies).await {
                Ok(()) => PullEnd::Over,
                Err(error) => {
                    tracing::info!("cannot pull from {source}: {error}");
                    if let PullError::Refused(_) = error {
                        drop(replies.send(Reply::TurnedAway(error.to_string())).await);
                    }
                    PullEnd::Broken
                }
            };
            // Nobody there: the node ended.
            drop(replies.send(Reply::Over(request, end)).await);
        });
        self.running.insert(request, task);
    }

    /// The next reply.
    pub(super) async fn recv(&mut self) -> Option<Reply> {
        self.replies.recv().await
    }

    /// A reply that is here already.
    pub(super) fn try_recv(&mut self) -> Option<Reply> {
        self.replies.try_recv().ok()
    }

    /// Hands a reply to the node.
    pub(super) fn hand_over(&mut self, node: &mut ReceiverNode, clock: Clock, reply: Reply) {
        match reply {
            Reply::Block(request, block) => node.handle_pulled(clock.now(), request, &block),
            Reply::Offer(offer) => node.handle_offered(clock.now(), &offer),
            Reply::Joined(end) => {
                if node.handle_joined(clock.now(), end) {
                    let (state, epochs) = (self.state.clone(), node.epochs().clone());
                    self.tasks.spawn_blocking(move || {
                        if let Err(error) = secrets::save(&state, &epochs) {
                            tracing::warn!("cannot keep the channel's secret in {}: {error}", state.display());
                        }
                    });
                }
            }
            Reply::Over(request, end) => {
                self.running.remove(&request);
                node.handle_pull_over(clock.now(), request, end);
            }
            Reply::TurnedAway(line) => node.handle_turned_away(clock.now(), &line),
            Reply::Reached(source, reached) => node.handle_reached(clock.now(), &source, reached),
        }
    }
}

impl Shared {
    async fn ask(
        self: &Arc<Self>,
        request: RequestId,
        source: &Arc<str>,
        what: &Request,
        longest: usize,
        replies: &mpsc::Sender<Reply>,
    ) -> Result<(), PullError> {
        // A call goes on when who wanted it is gone: a way that loses much takes its time, and people want to know.
        let (shared, called, told) = (Arc::clone(self), Arc::clone(source), replies.clone());
        let call = tokio::spawn(async move {
            let connection = shared.connection(&called).await;
            let reached = match &connection {
                Ok(_) => Some(Ok(())),
                Err(error @ (PullError::Name(..) | PullError::Quic(_) | PullError::Hello(_))) => {
                    Some(Err(error.to_string()))
                }
                // It is there and refuses, or the fault is ours.
                Err(_) => None,
            };
            if let Some(reached) = reached {
                // Nobody there: the node ended.
                drop(told.send(Reply::Reached(called, reached)).await);
            }
            connection
        });
        let connection = call.await??;
        let mut incoming = connection.ask(&what.encode()).await?;
        while let Some(bytes) = incoming.next(longest).await? {
            let reply = match what {
                Request::Blocks { .. } => Some(Reply::Block(request, Block::decode(bytes)?)),
                Request::Manifest => Offer::decode(bytes)?.map(Reply::Offer),
                // Those are for senders, and for who is not let in yet.
                Request::Probe { .. } | Request::Join => None,
            };
            if let Some(reply) = reply {
                replies.send(reply).await.map_err(|_| PullError::Unwanted)?;
            }
        }
        Ok(())
    }

    /// The first of its addresses that answers: each is called a moment after the one before.
    async fn connection(self: &Arc<Self>, source: &Arc<str>) -> Result<Arc<Connection>, PullError> {
        let mut calls = JoinSet::new();
        for (address, nth) in addresses(source).await?.into_iter().zip(0..) {
            let shared = Arc::clone(self);
            calls.spawn(async move {
                tokio::time::sleep(NEXT_ADDRESS * nth).await;
                shared.connection_to(address).await
            });
        }
        let mut last = no_address(source);
        while let Some(called) = calls.join_next().await {
            match called {
                Ok(Ok(connection)) => return Ok(connection),
                Ok(Err(error)) => last = error,
                Err(error) => last = PullError::Ended(error),
            }
        }
        Err(last)
    }

    /// The first that gives what is not held ends it. Who refuses, or gives what is known, is no last word: another one
    /// may have a newer list.
    async fn join(&self, sources: &[Arc<str>], held: Option<Epoch>) -> JoinEnd {
        let mut end = JoinEnd::Unreached("no sender is known: give --source HOST:PORT".to_owned());
        for source in sources {
            match self.join_at(source).await {
                Ok(Joined::Secrets(secrets)) => {
                    let has_new = secrets.iter().any(|(epoch, _)| Some(*epoch) > held);
                    end = JoinEnd::Secrets(secrets);
                    if has_new {
                        return end;
                    }
                }
                Ok(Joined::Refused(why)) => {
                    tracing::info!("{source} does not let this node in: {why}");
                    let is_better = why == JoinRefusal::NotListed || !matches!(end, JoinEnd::Refused { .. });
                    if is_better && !matches!(end, JoinEnd::Secrets(_)) {
                        end = JoinEnd::Refused { by: source.to_string(), why, identity: self.identity.to_string() };
                    }
                }
                Err(error) => {
                    tracing::info!("cannot ask {source} to be let in: {error}");
                    if matches!(end, JoinEnd::Unreached(_)) {
                        end = JoinEnd::Unreached(format!("{source}: {error}"));
                    }
                }
            }
        }
        end
    }

    async fn join_at(&self, source: &Arc<str>) -> Result<Joined, PullError> {
        let mut last = no_address(source);
        for address in addresses(source).await? {
            match tokio::time::timeout(JOIN_TAKES, self.join_at_address(address)).await {
                Ok(Ok(joined)) => return Ok(joined),
                Ok(Err(error)) => last = error,
                Err(_) => last = PullError::Silent,
            }
        }
        Err(last)
    }

    /// On a connection of its own, too.
    async fn join_at_address(&self, address: SocketAddr) -> Result<Joined, PullError> {
        let connection = self.client.connect(address).await?;
        let (channel, publisher) = (self.membership.channel(), self.membership.publisher());
        let reply = connection.greet(&join_hello(channel)).await?;
        check_introduction(channel, publisher, connection.binding(), &reply)?;
        let mut incoming = connection.ask(&Request::Join.encode()).await?;
        let reply = incoming.next(join::REPLY_LEN_MAX).await?.ok_or(PullError::Silent)?;
        Ok(Joined::decode(&reply)?)
    }

    async fn connection_to(&self, address: SocketAddr) -> Result<Arc<Connection>, PullError> {
        let place = {
            let mut places = self.places.lock().unwrap_or_else(PoisonError::into_inner);
            Arc::clone(places.entry(address).or_default())
        };
        let mut place = place.lock().await;
        if let Some(connection) = place.as_ref().filter(|connection| !connection.is_closed()) {
            return Ok(Arc::clone(connection));
        }
        *place = None;
        let mut greeted = self.greet(address, &self.membership.newest().ok_or(PullError::NoSecret)?).await;
        for member in self.membership.others() {
            // It may be in an earlier epoch than we are.
            if !matches!(greeted, Err(PullError::Refused(_))) {
                break;
            }
            greeted = self.greet(address, &member).await;
        }
        let connection = Arc::new(greeted?);
        *place = Some(Arc::clone(&connection));
        Ok(connection)
    }

    /// A new connection: as whom we speak is said once for each.
    async fn greet(&self, address: SocketAddr, member: &Member) -> Result<Connection, PullError> {
        let connection = self.client.connect(address).await?;
        let hello = member.hello(Side::Client, connection.binding());
        let refused = |error| match error {
            QuicError::Broken(_) => PullError::Refused(address),
            other => other.into(),
        };
        let reply = connection.greet(&hello).await.map_err(refused)?;
        let peer = member.check(Side::Server, connection.binding(), &reply)?;
        tracing::info!("pulling from {address}, {}", if peer.sender.is_some() { "a sender" } else { "a receiver" });
        Ok(connection)
    }
}

/// Where a source is, in the order in which to try.
async fn addresses(source: &Arc<str>) -> Result<Vec<SocketAddr>, PullError> {
    let found = tokio::net::lookup_host(&**source).await;
    Ok(found.map_err(|error| PullError::Name(Arc::clone(source), error))?.collect())
}

fn no_address(source: &Arc<str>) -> PullError {
    PullError::Name(Arc::clone(source), std::io::Error::from(std::io::ErrorKind::NotFound))
}

#[cfg(test)]
mod tests;
