use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use super::*;
use crate::units::{BitRate, RateLimit};

/// Takes whoever says the password together with the binding, and gives what is asked for so many times. Who says that
/// it is a guest stays a stranger.
struct Echo;

struct EchoSession;

struct Guest;

impl Session for Guest {
    fn is_member(&self) -> bool {
        false
    }

    fn answer(&self, request: &[u8]) -> Option<Replies> {
        EchoSession.answer(request)
    }
}

impl Service for Echo {
    fn greet(
        &self,
        identity: &VerifyingKey,
        binding: &[u8; 32],
        hello: &[u8],
    ) -> Result<(Vec<u8>, Arc<dyn Session>), String> {
        if hello == b"guest" {
            return Ok((b"welcome".to_vec(), Arc::new(Guest)));
        }
        if hello != [&b"password"[..], &binding[..]].concat() {
            return Err("a stranger".to_owned());
        }
        Ok(([binding, &identity.0[..]].concat(), Arc::new(EchoSession)))
    }
}

impl Session for EchoSession {
    fn answer(&self, request: &[u8]) -> Option<Replies> {
        let (count, text) = request.split_first()?;
        let (count, text) = (*count, Bytes::copy_from_slice(text));
        (count > 0).then(|| -> Replies { Box::new((0..count).map(move |_| Bytes::from(text.repeat(1000)))) })
    }
}

fn limits() -> Limits {
    Limits::with_rate(RateLimit::Max)
}

fn server(limits: Limits) -> Server {
    let listen = "127.0.0.1:0".parse().unwrap();
    Server::start(listen, &SigningKey::generate(), Arc::new(Echo), limits).unwrap()
}

async fn greeted(client: &Client, server: &Server) -> Result<Connection, QuicError> {
    let connection = client.connect(server.local_addr()).await?;
    let hello = [&b"password"[..], connection.binding()].concat();
    let reply = connection.greet(&hello).await?;
    assert_eq!(reply[..32], connection.binding()[..], "both sides export the same");
    Ok(connection)
}

async fn all(connection: &Connection, request: &[u8]) -> Result<Vec<Bytes>, QuicError> {
    let mut incoming = connection.ask(request).await?;
    let mut replies = Vec::new();
    while let Some(reply) = incoming.next(100_000).await? {
        replies.push(reply);
    }
    Ok(replies)
}

#[tokio::test]
async fn the_server_is_told_whose_key_tls_found() {
    let (server, identity) = (server(limits()), SigningKey::generate());
    let connection = Client::new(&identity).unwrap().connect(server.local_addr()).await.unwrap();
    let reply = connection.greet(&[&b"password"[..], connection.binding()].concat()).await.unwrap();
    assert_eq!(reply[32..], identity.verifying_key().0);
}

#[tokio::test]
async fn requests_are_answered_side_by_side_on_one_connection() {
    let server = server(limits());
    let client = Client::new(&SigningKey::generate()).unwrap();
    let connection = greeted(&client, &server).await.unwrap();
    let (a, b, c) = tokio::join!(all(&connection, b"\x03abc"), all(&connection, b"\x01x"), all(&connection, b"\x02"));
    assert_eq!(a.unwrap(), vec![Bytes::from("abc".repeat(1000)); 3]);
    assert_eq!(b.unwrap(), [Bytes::from("x".repeat(1000))]);
    assert_eq!(c.unwrap(), [Bytes::new(), Bytes::new()], "an empty reply is one");
    assert_eq!(server.counters().bytes.load(Ordering::Relaxed), 10_000);
    assert!(all(&connection, b"\x00").await.is_err(), "what is refused is not an empty answer");
    assert!(!all(&connection, b"\x01y").await.unwrap().is_empty(), "and the connection goes on");
}

#[tokio::test]
async fn a_stranger_gets_nothing() {
    let server = server(limits());
    let client = Client::new(&SigningKey::generate()).unwrap();
    let connection = client.connect(server.local_addr()).await.unwrap();
    assert!(connection.greet(b"password").await.is_err());
    assert!(all(&connection, b"\x01x").await.is_err());
    // What was said on another connection is worth nothing on this one.
    let friend = greeted(&client, &server).await.unwrap();
    let replayed = [&b"password"[..], friend.binding()].concat();
    let connection = client.connect(server.local_addr()).await.unwrap();
    assert!(connection.greet(&replayed).await.is_err());
    assert_eq!(server.counters().greeted.load(Ordering::Relaxed), 1);
    assert_eq!(server.counters().bytes.load(Ordering::Relaxed), 0);
}

#[tokio::test]
async fn a_reply_that_is_longer_than_expected_is_not_read() {
    let server = server(limits());
    let client = Client::new(&SigningKey::generate()).unwrap();
    let connection = greeted(&client, &server).await.unwrap();
    let mut incoming = connection.ask(b"\x01abc").await.unwrap();
    assert!(matches!(incoming.next(2999).await, Err(QuicError::TooLong(3000))));
    let endless = connection.ask(&[1; MESSAGE_LEN_MAX + 1]).await.unwrap().next(100_000).await;
    assert!(endless.is_err(), "a request is bounded, too");
}

#[tokio::test]
async fn with_many_connections_the_next_prove_their_address() {
    // One of four: the second is told to try again with a token, which nobody above notices.
    let server = server(Limits { connections: 4, ..limits() });
    let client = Client::new(&SigningKey::generate()).unwrap();
    let _first = greeted(&client, &server).await.unwrap();
    let second = greeted(&client, &server).await.unwrap();
    assert!(!all(&second, b"\x01x").await.unwrap().is_empty());
}

/// Gives large replies, and counts them.
#[derive(Clone, Default)]
struct Large(Arc<AtomicUsize>);

impl Service for Large {
    fn greet(&self, _: &VerifyingKey, binding: &[u8; 32], _: &[u8]) -> Result<(Vec<u8>, Arc<dyn Session>), String> {
        Ok((binding.to_vec(), Arc::new(self.clone())))
    }
}

impl Session for Large {
    fn answer(&self, _: &[u8]) -> Option<Replies> {
        let made = Arc::clone(&self.0);
        Some(Box::new(std::iter::once_with(move || {
            made.fetch_add(1, Ordering::Relaxed);
            Bytes::from(vec![7; 4 << 20])
        })))
    }
}

#[tokio::test]
async fn who_asks_and_goes_away_does_not_make_the_server_read_faster_than_the_rate() {
    let (large, identity) = (Large::default(), SigningKey::generate());
    // One reply takes more than a minute.
    let slow = Limits::with_rate(RateLimit::Fixed(BitRate(1_000_000)));
    let server = Server::start("127.0.0.1:0".parse().unwrap(), &identity, Arc::new(large.clone()), slow).unwrap();
    let client = Client::new(&identity).unwrap();
    let connection = greeted(&client, &server).await.unwrap();
    for _ in 0..100 {
        // Requests that wait for their turn count as open: at some time no more may be opened.
        drop(tokio::time::timeout(Duration::from_millis(5), connection.ask(b"x")).await);
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    let made = large.0.load(Ordering::Relaxed);
    assert!((1..20).contains(&made), "{made} of 100 that were not wanted any more");
}

#[tokio::test]
async fn connections_of_one_peer_are_bounded_and_places_are_given_back() {
    let server = server(Limits { connections_per_peer: 2, ..limits() });
    let client = Client::new(&SigningKey::generate()).unwrap();
    let first = greeted(&client, &server).await.unwrap();
    let _second = greeted(&client, &server).await.unwrap();
    assert!(greeted(&client, &server).await.is_err(), "a third");
    assert!(!all(&first, b"\x01x").await.unwrap().is_empty(), "those that are there go on");
    drop(first);
    while greeted(&client, &server).await.is_err() {
        // The server has not heard yet that it ended.
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn strangers_have_a_part_of_the_places_and_the_eldest_makes_room() {
    let server = server(Limits { connections: 8, connections_per_peer: 8, strangers: 2, ..limits() });
    let client = Client::new(&SigningKey::generate()).unwrap();
    let friend = greeted(&client, &server).await.unwrap();
    let mut strangers = Vec::new();
    for _ in 0..5 {
        strangers.push(client.connect(server.local_addr()).await.unwrap());
    }
    while strangers.iter().filter(|stranger| !stranger.is_closed()).count() > 2 {
        // The client has not heard yet that they ended.
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    assert!(strangers[..3].iter().all(Connection::is_closed), "those that came first go first");
    assert!(!all(&friend, b"\x01x").await.unwrap().is_empty(), "those that are known stay");
    let second = greeted(&client, &server).await.unwrap();
    assert!(!all(&second, b"\x01x").await.unwrap().is_empty());
    assert_eq!(server.counters().greeted.load(Ordering::Relaxed), 2);
}

#[tokio::test]
async fn places_of_one_address_are_taken_from_its_strangers() {
    let server = server(Limits { connections_per_peer: 2, ..limits() });
    let client = Client::new(&SigningKey::generate()).unwrap();
    let _silent =
        [client.connect(server.local_addr()).await.unwrap(), client.connect(server.local_addr()).await.unwrap()];
    let friend = greeted(&client, &server).await.unwrap();
    assert!(!all(&friend, b"\x01x").await.unwrap().is_empty());
}

#[tokio::test]
async fn a_stranger_that_says_nothing_has_to_go() {
    let server = server(limits());
    let client = Client::new(&SigningKey::generate()).unwrap();
    let friend = greeted(&client, &server).await.unwrap();
    let silent = client.connect(server.local_addr()).await.unwrap();
    while !silent.is_closed() {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert!(!friend.is_closed(), "it said as little since then, but who it is");
}

#[tokio::test]
async fn a_guest_is_answered_and_stays_a_stranger() {
    let server = server(Limits { connections: 8, connections_per_peer: 8, strangers: 1, ..limits() });
    let client = Client::new(&SigningKey::generate()).unwrap();
    let guest = async || {
        let connection = client.connect(server.local_addr()).await.unwrap();
        connection.greet(b"guest").await.unwrap();
        connection
    };
    let (first, friend) = (guest().await, greeted(&client, &server).await.unwrap());
    let second = guest().await;
    // It makes room.
    closed(&first).await;
    let answer = all(&second, b"\x01x").await.unwrap();
    assert!(!answer.is_empty() && all(&second, b"\x01x").await.is_err(), "a stranger has one question");
    closed(&second).await;
    let third = guest().await;
    closed(&third).await;
    assert!(!friend.is_closed());
}

async fn closed(connection: &Connection) {
    while !connection.is_closed() {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// Takes everybody until it is told not to.
#[derive(Clone, Default)]
struct Fickle(Arc<AtomicBool>);

impl Service for Fickle {
    fn greet(&self, _: &VerifyingKey, binding: &[u8; 32], _: &[u8]) -> Result<(Vec<u8>, Arc<dyn Session>), String> {
        Ok((binding.to_vec(), Arc::new(self.clone())))
    }
}

impl Session for Fickle {
    fn is_member(&self) -> bool {
        !self.0.load(Ordering::Relaxed)
    }

    fn answer(&self, request: &[u8]) -> Option<Replies> {
        self.is_member().then(|| EchoSession.answer(request))?
    }
}

#[tokio::test]
async fn who_is_no_member_any_more_has_to_greet_anew() {
    let (fickle, identity) = (Fickle::default(), SigningKey::generate());
    let listen = "127.0.0.1:0".parse().unwrap();
    let server = Server::start(listen, &identity, Arc::new(fickle.clone()), limits()).unwrap();
    let client = Client::new(&identity).unwrap();
    let connection = greeted(&client, &server).await.unwrap();
    assert!(all(&connection, b"\x01x").await.is_ok());
    fickle.0.store(true, Ordering::Relaxed);
    assert!(all(&connection, b"\x01x").await.is_err());
    closed(&connection).await;
}

#[test]
fn an_address_of_ipv6_stands_for_its_network() {
    let network = |text: &str| server::network_of(text.parse().unwrap()).to_string();
    assert_eq!(network("2001:db8:1:2:3:4:5:6"), "2001:db8:1:2::");
    assert_eq!(network("fe80::1:2"), "fe80::1:2", "a link has one network for all");
    assert_eq!(network("192.0.2.7"), "192.0.2.7");
}
