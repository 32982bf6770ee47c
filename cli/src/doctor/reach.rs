//! The way to another node, and back: datagrams that are too long or have too few hops, and whether a sender answers
//! on its NACK port and on QUIC.

use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use nackcast_common::ids::RunId;
use nackcast_common::keys::{Flow, Side, SigningKey};
use nackcast_common::net::passage::{Passage, passage};
use nackcast_common::net::quic::{Client, QuicError};
use nackcast_common::net::{Interface, UnicastSocket, interface};
use nackcast_proto::pull::Member;
use nackcast_proto::pull::hello::{check_introduction, join_hello};
use nackcast_proto::ticket::Ticket;
use nackcast_proto::wire::header::{self, Header};
use nackcast_proto::wire::limits::DATAGRAM_LEN_MAX;
use nackcast_proto::wire::{DatagramType, ECHO_SESSION, Nack, NackAnswer};
use rand::RngExt;
use tokio::time::{Instant, timeout, timeout_at};

use super::facts::{Echo, Part, Quic, Reached};
use super::listen::clock_ahead;
use super::machine::{headers, payload_length};
use crate::args::DoctorArgs;

/// How often a sender is asked.
const TRIES: u32 = 3;
/// How long a datagram may take to arrive, and the word of it to come back.
const PATIENCE: Duration = Duration::from_secs(2);
/// Hops of unicast, as systems have them.
const UNICAST_HOPS: u8 = 64;
/// Bytes in a short datagram.
const SHORT: usize = 32;
/// Packets that links of the usual kinds take, where not 1,500 bytes: PPPoE, tunnels, and the least that IP promises.
const PACKETS: [u32; 7] = [1480, 1450, 1420, 1400, 1280, 1000, 576];
/// How long a packet may take that is as long as a link allows: so many times what a short one took, and at least.
const LONGER: u32 = 3;
const LONGER_LEAST: Duration = Duration::from_millis(300);
/// Most addresses of one name.
const ADDRESSES_MAX: usize = 4;

/// Looks at the way to all addresses of HOST:PORT.
pub(super) async fn reach(
    ticket: &Ticket,
    part: Part,
    name: &str,
    interface: &Interface,
    args: &DoctorArgs,
) -> Vec<Reached> {
    let addresses: Vec<SocketAddr> = match tokio::net::lookup_host(name).await {
        Ok(found) => found.take(ADDRESSES_MAX).collect(),
        Err(_) => Vec::new(),
    };
    if addresses.is_empty() {
        let (short, long, longest) = (Passage::Silent, Passage::Silent, None);
        let (echo, quic) = (Echo::NotAsked, Quic::NotAsked);
        return vec![Reached { name: name.to_owned(), address: None, by: None, short, long, longest, echo, quic }];
    }
    let mut all = Vec::new();
    for address in addresses {
        // Content goes from senders to receivers; in the other direction NACKs go, by ordinary unicast.
        let hops = if part == Part::Sends { args.ttl } else { UNICAST_HOPS };
        let went = async |length, wait| {
            let passed = passage(Some(interface), address.ip(), hops, length, wait).await;
            passed.unwrap_or_else(|error| Passage::Refused(error.to_string()))
        };
        let (echo, quic) = match part {
            Part::Receives => (echo(ticket, address, args.wait).await, quic(ticket, address, args.wait).await),
            Part::Sends => (Echo::NotAsked, Quic::NotAsked),
        };
        let wait = args.wait.min(PATIENCE);
        let began = Instant::now();
        let short = went(SHORT, wait).await;
        let took = began.elapsed();
        let long = went(payload_length(), wait).await;
        let mut longest = None;
        if (&short, &long) == (&Passage::Arrived, &Passage::Silent) {
            let wait = wait.min((took * LONGER).max(LONGER_LEAST));
            for packet in PACKETS {
                if went((packet - headers(address.ip())) as usize, wait).await == Passage::Arrived {
                    longest = Some(packet);
                    break;
                }
            }
        }
        all.push(Reached {
            name: name.to_owned(),
            address: Some(address.ip()),
            by: interface::toward(address.ip()),
            short,
            long,
            longest,
            echo,
            quic,
        });
    }
    all
}

/// Whether it is a node of ours that has this port of this machine, and the next one; of which channel does not matter.
pub(super) async fn is_ours(ticket: &Ticket, mut listen: SocketAddr, wait: Duration) -> bool {
    if listen.ip().is_unspecified() {
        listen.set_ip(Ipv4Addr::LOCALHOST.into());
    }
    let wait = wait.min(PATIENCE);
    matches!(echo(ticket, listen, wait).await, Echo::Answered { .. })
        || matches!(quic(ticket, listen, wait).await, Quic::Answered(_) | Quic::Refused)
}

/// Whether blocks could be pulled from there: connects, and shows the ticket.
async fn quic(ticket: &Ticket, nacks_at: SocketAddr, wait: Duration) -> Quic {
    let Some(port) = nacks_at.port().checked_add(1) else { return Quic::NotAsked };
    let began = Instant::now();
    let greeted = timeout(wait, greet(ticket, SocketAddr::new(nacks_at.ip(), port))).await;
    match greeted {
        Ok(Ok(true)) => Quic::Answered(began.elapsed()),
        Ok(Ok(false)) => Quic::Refused,
        Ok(Err(error)) => Quic::Silent(error.to_string()),
        Err(_) => Quic::Silent(format!("nothing came back in {wait:?}")),
    }
}

/// Whether whoever is there takes the ticket. Anybody may connect, so that this is all that an identity of the moment
/// is good for.
async fn greet(ticket: &Ticket, peer: SocketAddr) -> Result<bool, QuicError> {
    let connection = Client::new(&SigningKey::generate())?.connect(peer).await?;
    let Ticket { channel, epoch, publisher, .. } = *ticket;
    let Some(secret) = ticket.secret.clone() else {
        // With a list of receivers there is nothing to show; a sender says who it is to anybody.
        let reply = connection.greet(&join_hello(channel)).await;
        let binding = connection.binding();
        return Ok(reply.is_ok_and(|reply| check_introduction(channel, &publisher, binding, &reply).is_ok()));
    };
    let member = Member { channel, epoch, secret, publisher, sender: None };
    let hello = member.hello(Side::Client, connection.binding());
    let reply = connection.greet(&hello).await;
    Ok(reply.is_ok_and(|reply| member.check(Side::Server, connection.binding(), &reply).is_ok()))
}

/// Asks a sender whether it hears us.
async fn echo(ticket: &Ticket, at: SocketAddr, wait: Duration) -> Echo {
    let any = if at.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" };
    // With a list of receivers a sender gives the secret, and not to this command.
    let Some(secret) = &ticket.secret else { return Echo::NotAsked };
    let Some(socket) = any.parse().ok().and_then(|any| UnicastSocket::bind(any).ok()) else { return Echo::NotAsked };
    let (run, nonce) = (RunId(rand::rng().random()), rand::rng().random_range(1..=u64::MAX));
    let key = secret.flow_key(ticket.channel, run.0, Flow::ToSender);
    let mut strange = false;
    for packet_number in 0..u64::from(TRIES) {
        let nack = Nack { channel: ticket.channel, session: ECHO_SESSION, nonce, ..Nack::default() };
        let header = Header {
            datagram_type: DatagramType::Nack,
            flow: Flow::ToSender,
            epoch_low: ticket.epoch.low(),
            session: run.0,
            packet_number,
        };
        let mut datagram = Vec::new();
        header.seal(&key, &nack.encode(), &mut datagram);
        let asked = Instant::now();
        if socket.send_to(&datagram, at).await.is_err() {
            continue;
        }
        let mut answer = [0; DATAGRAM_LEN_MAX];
        while let Ok(Ok((length, from))) = timeout_at(asked + wait / TRIES, socket.recv_from(&mut answer)).await {
            let Some(answer) = answer.get_mut(..length).filter(|_| from.ip() == at.ip()) else { continue };
            if let Some(answer) = open(ticket, nonce, answer) {
                return Echo::Answered { after: asked.elapsed(), clock_ahead_ms: clock_ahead(answer.wall_ms) };
            }
            strange = true;
        }
    }
    if strange { Echo::Strange } else { Echo::Silent }
}

fn open(ticket: &Ticket, nonce: u64, datagram: &mut [u8]) -> Option<NackAnswer> {
    let head = Header::read(datagram).ok()?;
    let key = ticket.secret.as_ref()?.flow_key(ticket.channel, head.session, Flow::ToReceiver);
    let body = key.open_in_place(head.packet_number, header::LEN, datagram).ok()?;
    // Who signs is not known without an advertisement; that it holds the channel's secret says enough here.
    NackAnswer::decode(body, None).ok().filter(|answer| answer.nonce == nonce)
}
