//! Unicast pull on the network: one connection to each source, one task for each request.
//!
//! A connection is opened when the first request needs it, belongs to a peer that proved to be of the channel, and ends
//! by itself when it is idle. Whatever goes wrong ends the request as broken; the engine decides what then.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};

use nackcast_common::clock::Clock;
use nackcast_common::keys::{Side, SigningKey};
use nackcast_common::net::quic::{Client, Connection, QuicError};
use nackcast_proto::pull::{Block, HelloError, Member, Offer, Request};
use nackcast_proto::wire::WireError;
use nackcast_proto::wire::limits::ROOT_LEN_MAX;
use tokio::sync::mpsc;
use tokio::task::{AbortHandle, JoinSet};

use crate::engine::{PullEnd, RequestId};
use crate::node::{PullOrder, ReceiverNode};

/// Replies that wait for the node: beyond, sources wait.
const REPLIES_MAX: usize = 8;

/// What a request brought.
#[derive(Debug)]
pub(super) enum Reply {
    Block(RequestId, Block),
    Offer(Offer),
    Over(RequestId, PullEnd),
    /// For people.
    Trouble(String),
}

/// Why a request broke.
#[derive(Debug, thiserror::Error)]
enum PullError {
    #[error("{0} has no address here: {1}")]
    Name(Arc<str>, std::io::Error),
    #[error(transparent)]
    Quic(#[from] QuicError),
    #[error(
        "{0} is a node of nackcast that does not take this ticket: it is of another channel, or an old one; compare it \
         with what `nackcast channel ticket FILE` prints at the sender"
    )]
    Refused(SocketAddr),
    #[error("not of this channel: {0}")]
    Hello(#[from] HelloError),
    #[error("an answer that is none: {0}")]
    Wire(#[from] WireError),
    #[error("nobody waits for it any more")]
    Unwanted,
}

/// What pulls need.
#[derive(Debug)]
pub(crate) struct PullSetup {
    pub(crate) identity: SigningKey,
    pub(crate) member: Member,
}

/// The running requests of a channel.
#[derive(Debug)]
pub(super) struct Puller {
    shared: Arc<Shared>,
    tasks: JoinSet<()>,
    running: BTreeMap<RequestId, AbortHandle>,
    replies: mpsc::Receiver<Reply>,
    sender: mpsc::Sender<Reply>,
}

/// The connection to one address, or none yet; locked while it is made.
type Place = Arc<tokio::sync::Mutex<Option<Arc<Connection>>>>;

#[derive(Debug)]
struct Shared {
    client: Client,
    member: Member,
    places: Mutex<BTreeMap<SocketAddr, Place>>,
}

impl Puller {
    pub(super) fn new(setup: PullSetup) -> Result<Self, QuicError> {
        let client = Client::new(&setup.identity)?;
        let shared = Arc::new(Shared { client, member: setup.member, places: Mutex::default() });
        let (sender, replies) = mpsc::channel(REPLIES_MAX);
        Ok(Self { shared, tasks: JoinSet::new(), running: BTreeMap::new(), replies, sender })
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
                        drop(replies.send(Reply::Trouble(error.to_string())).await);
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
            Reply::Over(request, end) => {
                self.running.remove(&request);
                node.handle_pull_over(clock.now(), request, end);
            }
            Reply::Trouble(line) => node.trouble(clock.now(), &line),
        }
    }
}

impl Shared {
    async fn ask(
        &self,
        request: RequestId,
        source: &Arc<str>,
        what: &Request,
        longest: usize,
        replies: &mpsc::Sender<Reply>,
    ) -> Result<(), PullError> {
        let connection = self.connection(source).await?;
        let mut incoming = connection.ask(&what.encode()).await?;
        while let Some(bytes) = incoming.next(longest).await? {
            let reply = match what {
                Request::Blocks { .. } => Some(Reply::Block(request, Block::decode(bytes)?)),
                Request::Manifest => Offer::decode(bytes)?.map(Reply::Offer),
                // Those are for senders.
                Request::Probe { .. } => None,
            };
            if let Some(reply) = reply {
                replies.send(reply).await.map_err(|_| PullError::Unwanted)?;
            }
        }
        Ok(())
    }

    async fn connection(&self, source: &Arc<str>) -> Result<Arc<Connection>, PullError> {
        let name = |error| PullError::Name(Arc::clone(source), error);
        let nothing = || name(std::io::Error::from(std::io::ErrorKind::NotFound));
        let addresses: Vec<_> = tokio::net::lookup_host(&**source).await.map_err(name)?.collect();
        let mut last = None;
        for address in addresses {
            match self.connection_to(address).await {
                Ok(connection) => return Ok(connection),
                Err(error) => last = Some(error),
            }
        }
        Err(last.unwrap_or_else(nothing))
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
        let connection = self.client.connect(address).await?;
        let hello = self.member.hello(Side::Client, connection.binding());
        let refused = |error| match error {
            QuicError::Broken(_) => PullError::Refused(address),
            other => other.into(),
        };
        let reply = connection.greet(&hello).await.map_err(refused)?;
        let peer = self.member.check(Side::Server, connection.binding(), &reply)?;
        tracing::info!("pulling from {address}, {}", if peer.sender.is_some() { "a sender" } else { "a receiver" });
        let connection = Arc::new(connection);
        *place = Some(Arc::clone(&connection));
        Ok(connection)
    }
}
