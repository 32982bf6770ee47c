//! Other senders, asked over QUIC: firewalls treat it in another way than the NACK port.
//!
//! - QUIC is on the port after that of NACKs, by which a sender is known.
//! - One connection to each, made when the first question needs it; it ends when it is idle. Far senders have
//!   [`CONNECTING`] for it, since it takes several round trips.
//! - One question to each at a time. It has [`PATIENCE`]; then the connection ends, too: the sender may have started
//!   anew, and know nothing of it. For the same reason one that is still connecting then does not keep the next from trying.
//! - An answer is of when it came, however late it is looked at.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use nackcast_common::clock::{Clock, Time};
use nackcast_common::keys::{Side, SigningKey};
use nackcast_common::net::quic::{Client, Connection, MESSAGE_LEN_MAX, QuicError};
use nackcast_proto::pull::{HelloError, Membership, Peer, ProbeReply, Request};
use nackcast_proto::wire::{Standing, WireError};
use tokio::task::{JoinError, JoinSet};
use tokio::time::timeout;

/// What is answered later is of another inquiry.
const PATIENCE: Duration = Duration::from_secs(1);
/// Three round trips of a second: an address that proves itself, the handshake, and the first message.
const CONNECTING: Duration = Duration::from_secs(3);

/// Why nothing was answered.
#[derive(Debug, thiserror::Error)]
enum CallError {
    #[error(transparent)]
    Quic(#[from] QuicError),
    #[error("not of this channel: {0}")]
    Hello(#[from] HelloError),
    #[error("an answer that is none: {0}")]
    Wire(#[from] WireError),
    #[error("it is no sender that goes on")]
    Nobody,
    #[error("there is no port for QUIC after that of NACKs")]
    Port,
    #[error("the channel's secret is not at hand")]
    Secret,
    #[error("no answer in time")]
    Late,
}

/// A connection with who is at its other end.
#[derive(Debug)]
struct Line {
    connection: Connection,
    peer: Peer,
    /// How long it took to have it.
    connecting: Duration,
}

/// What a sender answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Answer {
    /// Where it takes NACKs.
    pub(crate) from: SocketAddr,
    pub(crate) standing: Standing,
    pub(crate) came: Time,
    /// With the connection that it needed, also when that was there from before: the next time it may not be.
    pub(crate) took: Duration,
}

/// What a question came to.
#[derive(Debug)]
struct Called {
    to: SocketAddr,
    asked: Time,
    came: Time,
    answer: Option<(Line, Standing, Duration)>,
}

/// Asks the other senders of a channel.
#[derive(Debug)]
pub(crate) struct Caller {
    shared: Arc<Shared>,
    clock: Clock,
    calls: JoinSet<Called>,
    /// Who is being asked, since when.
    asked: BTreeMap<SocketAddr, Time>,
    lines: BTreeMap<SocketAddr, Line>,
}

#[derive(Debug)]
struct Shared {
    client: Client,
    membership: Arc<Membership>,
}

impl Caller {
    /// Asks as this node, which is a sender of the channel.
    pub(crate) fn new(identity: &SigningKey, membership: Arc<Membership>, clock: Clock) -> Result<Self, QuicError> {
        let shared = Arc::new(Shared { client: Client::new(identity)?, membership });
        Ok(Self { shared, clock, calls: JoinSet::new(), asked: BTreeMap::new(), lines: BTreeMap::new() })
    }

    /// Asks the sender that takes NACKs at `to` what it does, and says what we do; unless it was asked just now.
    pub(crate) fn call(&mut self, to: SocketAddr, ours: Standing) {
        let asked = self.clock.now();
        if self.asked.get(&to).is_some_and(|at| asked.since(*at) < PATIENCE) {
            return;
        }
        self.asked.insert(to, asked);
        self.lines.retain(|_, line| !line.connection.is_closed());
        let (shared, clock, line) = (Arc::clone(&self.shared), self.clock, self.lines.remove(&to));
        self.calls.spawn(async move {
            let answer = shared.ask(clock, to, line, ours).await;
            let answer =
                answer.inspect_err(|error| tracing::debug!(%to, "another sender was asked over QUIC: {error}"));
            Called { to, asked, came: clock.now(), answer: answer.ok() }
        });
    }

    /// What a sender answered. Pending while nobody is asked.
    pub(crate) async fn answered(&mut self) -> Answer {
        loop {
            match self.calls.join_next().await {
                Some(called) => {
                    if let Some(answer) = self.take(called) {
                        return answer;
                    }
                }
                None => std::future::pending().await,
            }
        }
    }

    /// The same, of what is here already.
    pub(crate) fn try_answered(&mut self) -> Option<Answer> {
        while let Some(called) = self.calls.try_join_next() {
            let answer = self.take(called);
            if answer.is_some() {
                return answer;
            }
        }
        None
    }

    fn take(&mut self, called: Result<Called, JoinError>) -> Option<Answer> {
        let Ok(Called { to, asked, came, answer }) = called else {
            // Its panic was printed. Who was asked is not known: nobody is taken for being asked any more.
            self.asked.clear();
            return None;
        };
        if self.asked.get(&to) == Some(&asked) {
            self.asked.remove(&to);
        }
        let (line, standing, took) = answer?;
        self.lines.insert(to, line);
        Some(Answer { from: to, standing, came, took })
    }
}

impl Shared {
    async fn ask(
        &self,
        clock: Clock,
        to: SocketAddr,
        line: Option<Line>,
        ours: Standing,
    ) -> Result<(Line, Standing, Duration), CallError> {
        let line = match line {
            Some(line) => line,
            None => {
                let began = clock.now();
                let connected = timeout(CONNECTING, self.connect(to)).await;
                let (connection, peer) = connected.unwrap_or(Err(CallError::Late))?;
                Line { connection, peer, connecting: clock.now().since(began) }
            }
        };
        let began = clock.now();
        let standing = timeout(PATIENCE, question(&line, ours)).await.unwrap_or(Err(CallError::Late))?;
        let took = line.connecting + clock.now().since(began);
        Ok((line, standing, took))
    }

    async fn connect(&self, to: SocketAddr) -> Result<(Connection, Peer), CallError> {
        // The same address, of which an IPv6 scope is a part.
        let mut quic = to;
        quic.set_port(to.port().checked_add(1).ok_or(CallError::Port)?);
        let connection = self.client.connect(quic).await?;
        let member = self.membership.newest().ok_or(CallError::Secret)?;
        let hello = member.hello(Side::Client, connection.binding());
        let reply = connection.greet(&hello).await?;
        let peer = member.check(Side::Server, connection.binding(), &reply)?;
        Ok((connection, peer))
    }
}

async fn question(Line { connection, peer, .. }: &Line, ours: Standing) -> Result<Standing, CallError> {
    let mut replies = connection.ask(&Request::Probe { asker: Some(ours) }.encode()).await?;
    let reply = replies.next(MESSAGE_LEN_MAX).await?.ok_or(CallError::Nobody)?;
    ProbeReply::decode(&reply, peer)?.standing.ok_or(CallError::Nobody)
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use nackcast_common::epochs::Epochs;
    use nackcast_common::ids::{ChannelId, Epoch, ObjectId, SessionId, StartNumber};
    use nackcast_common::keys::EpochSecret;
    use nackcast_common::net::quic::{Limits, Server};
    use nackcast_common::units::RateLimit;
    use nackcast_proto::pull::{Offer, Service, Shelf};
    use nackcast_proto::wire::{Role, SenderCertificate, SenderState};

    use super::*;

    const CHANNEL: ChannelId = ChannelId([7; 16]);

    fn membership(seed: u8) -> Arc<Membership> {
        let (publisher, key) = (SigningKey::from_seed([1; 32]), SigningKey::from_seed([seed; 32]));
        let certificate = SenderCertificate::issue(&publisher, CHANNEL, key.verifying_key());
        let (publisher, sender) = (publisher.verifying_key(), Some((certificate, key)));
        let epochs = Epochs::of_secret(CHANNEL, Epoch(1), EpochSecret([5; 32]));
        Arc::new(Membership::new(epochs, Epoch(1), publisher, sender))
    }

    fn standing(seed: u8, state: SenderState) -> Standing {
        Standing {
            channel: CHANNEL,
            session: SessionId(seed.into()),
            start_number: StartNumber(1),
            certificate: membership(seed).newest().unwrap().sender.unwrap().0,
            role: Role::Backup,
            rank: 0,
            state,
            can_read: true,
            can_send: true,
            sequence: 1,
            time: 1,
        }
    }

    /// Says this, and remembers who asked.
    struct Says(Option<Standing>, Arc<Mutex<Vec<Standing>>>);

    impl Shelf for Says {
        fn manifest(&self) -> Option<Offer> {
            None
        }

        fn block(&self, _: ObjectId, _: u32) -> Option<bytes::Bytes> {
            None
        }

        fn probe(&self, asker: Option<Standing>) -> Option<Standing> {
            self.1.lock().unwrap().extend(asker);
            self.0
        }
    }

    /// A sender that says so, and the NACK port that would be its own.
    fn sender(says: Option<Standing>) -> (Server, SocketAddr, Arc<Mutex<Vec<Standing>>>) {
        let (mut service, heard) = (Service::default(), Arc::default());
        service.add(membership(2), Arc::new(Says(says, Arc::clone(&heard))));
        let (listen, limits) = ("127.0.0.1:0".parse().unwrap(), Limits::with_rate(RateLimit::Max));
        let server = Server::start(listen, &SigningKey::from_seed([2; 32]), Arc::new(service), limits).unwrap();
        let mut nacks = server.local_addr();
        nacks.set_port(nacks.port() - 1);
        (server, nacks, heard)
    }

    #[tokio::test]
    async fn a_sender_answers_again_and_again_and_hears_who_asks() {
        let says = standing(2, SenderState::Active);
        let (server, nacks, heard) = sender(Some(says));
        let mut caller = Caller::new(&SigningKey::from_seed([3; 32]), membership(3), Clock::start()).unwrap();
        for state in [SenderState::Starting, SenderState::Active] {
            caller.call(nacks, standing(3, state));
            caller.call(nacks, standing(3, SenderState::Paused));
            let answer = caller.answered().await;
            assert_eq!((answer.from, answer.standing), (nacks, says));
        }
        let states: Vec<_> = heard.lock().unwrap().iter().map(|asker| asker.state).collect();
        assert_eq!(states, [SenderState::Starting, SenderState::Active], "one question at a time");
        let greeted = &server.counters().greeted;
        assert_eq!(greeted.load(std::sync::atomic::Ordering::Relaxed), 1, "on one connection");
    }

    #[tokio::test]
    async fn who_is_not_there_or_speaks_for_another_one_says_nothing() {
        let says = standing(2, SenderState::Active);
        let (_here, nacks, _) = sender(Some(says));
        let (_stands_still, still, _) = sender(None);
        let (_liar, lies, _) = sender(Some(standing(4, SenderState::Active)));
        let (gone, dead, _) = sender(Some(says));
        drop(gone);
        let mut caller = Caller::new(&SigningKey::from_seed([3; 32]), membership(3), Clock::start()).unwrap();
        for to in [still, lies, dead] {
            caller.call(to, standing(3, SenderState::Standby));
        }
        assert!(timeout(CONNECTING + PATIENCE, caller.answered()).await.is_err());
        assert!(caller.asked.is_empty() && caller.lines.is_empty());
        caller.call(nacks, standing(3, SenderState::Standby));
        let answer = caller.answered().await;
        assert_eq!((answer.from, answer.standing), (nacks, says), "the others hold up nothing");
    }

    #[tokio::test]
    async fn an_answer_that_nobody_waited_for_is_there_and_is_of_when_it_came() {
        let (_server, nacks, _) = sender(Some(standing(2, SenderState::Active)));
        let clock = Clock::start();
        let mut caller = Caller::new(&SigningKey::from_seed([3; 32]), membership(3), clock).unwrap();
        let asked = clock.now();
        caller.call(nacks, standing(3, SenderState::Standby));
        let (answer, before) = loop {
            let before = clock.now();
            tokio::time::sleep(Duration::from_millis(50)).await;
            if let Some(answer) = caller.try_answered() {
                break (answer, before);
            }
        };
        assert!(answer.came >= asked && answer.came < clock.now().before(Duration::from_millis(1)));
        assert!(answer.took <= clock.now().since(asked) && before >= asked);
        let connecting = caller.lines[&nacks].connecting;
        caller.call(nacks, standing(3, SenderState::Standby));
        assert!(caller.answered().await.took > connecting, "the connection was there, and may not be the next time");
    }
}
