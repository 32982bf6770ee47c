//! The way to another node, and back: datagrams that are too long or have too few hops, and whether a sender's NACK
//! port answers.

use std::net::SocketAddr;
use std::time::Duration;

use nackcast_common::ids::RunId;
use nackcast_common::keys::Flow;
use nackcast_common::net::passage::{Passage, passage};
use nackcast_common::net::{Interface, UnicastSocket, interface};
use nackcast_proto::ticket::Ticket;
use nackcast_proto::wire::header::{self, Header};
use nackcast_proto::wire::limits::DATAGRAM_LEN_MAX;
use nackcast_proto::wire::{DatagramType, ECHO_SESSION, Nack, NackAnswer};
use rand::RngExt;
use tokio::time::{Instant, timeout_at};

use super::facts::{Echo, Part, Reached};
use super::machine::payload_length;
use crate::args::DoctorArgs;

/// How often a sender is asked.
const TRIES: u32 = 3;
/// Hops of unicast, as systems have them.
const UNICAST_HOPS: u8 = 64;
/// Bytes in a short datagram.
const SHORT: usize = 32;
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
        let (short, long) = (Passage::Silent, Passage::Silent);
        return vec![Reached { name: name.to_owned(), address: None, by: None, short, long, echo: Echo::NotAsked }];
    }
    let mut all = Vec::new();
    for address in addresses {
        // Content goes from senders to receivers; in the other direction NACKs go, by ordinary unicast.
        let hops = if part == Part::Sends { args.ttl } else { UNICAST_HOPS };
        let went = async |length| {
            let passed =
                passage(Some(interface), address.ip(), hops, length, args.wait.min(Duration::from_secs(2))).await;
            passed.unwrap_or_else(|error| Passage::Refused(error.to_string()))
        };
        let echo = if part == Part::Receives { echo(ticket, address, args.wait).await } else { Echo::NotAsked };
        all.push(Reached {
            name: name.to_owned(),
            address: Some(address.ip()),
            by: interface::toward(address.ip()),
            short: went(SHORT).await,
            long: went(payload_length()).await,
            echo,
        });
    }
    all
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
            if is_answer(ticket, nonce, answer) {
                return Echo::Answered(asked.elapsed());
            }
            strange = true;
        }
    }
    if strange { Echo::Strange } else { Echo::Silent }
}

fn is_answer(ticket: &Ticket, nonce: u64, datagram: &mut [u8]) -> bool {
    let Ok(head) = Header::read(datagram) else { return false };
    let Some(secret) = &ticket.secret else { return false };
    let key = secret.flow_key(ticket.channel, head.session, Flow::ToReceiver);
    let Ok(body) = key.open_in_place(head.packet_number, header::LEN, datagram) else { return false };
    // Who signs is not known without an advertisement; that it holds the channel's secret says enough here.
    NackAnswer::decode(body, None).is_ok_and(|answer| answer.nonce == nonce)
}
