//! What arrives: at the sockets, as a receiver has them, and before any firewall, where that is permitted.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use nackcast_common::clock::Clock;
use nackcast_common::keys::Flow;
use nackcast_common::net::tap::{Passed, Seen, Tap};
use nackcast_common::net::{GroupSocket, Interface, interface};
use nackcast_proto::ticket::Ticket;
use nackcast_proto::wire::header::{self, Header};
use nackcast_proto::wire::{Advertisement, DatagramType, SenderState};
use tokio::time::{Instant, sleep_until};

use super::facts::{Heard, Tapped, Told};

pub(super) async fn listen(ticket: &Ticket, interface: &Interface, wait: Duration) -> Heard {
    let mut heard = Heard { waited: wait, ..Heard::default() };
    // Without the right to look, only what the sockets get is known.
    let tap = Tap::open(ticket.advertise.is_ipv4()).ok();
    let mut tapped = Tapped::default();
    let mut group = match GroupSocket::bind(ticket.advertise, interface, &[]) {
        Ok(socket) => socket,
        Err(error) => {
            heard.failed = Some(error.to_string());
            return heard;
        }
    };
    let mut data_group = SocketAddr::new(ticket.advertise.ip(), ticket.advertise.port().saturating_add(1));
    let mut data = GroupSocket::bind(data_group, interface, &[]).ok();
    let mut data_heard = 0;
    let until = Instant::now() + wait;
    loop {
        if let Some(told) = heard.advertisement.as_ref().map(|told| told.data_group)
            && told != data_group
        {
            (data_group, data) = (told, GroupSocket::bind(told, interface, &[]).ok());
        }
        let read = tokio::select! {
            () = sleep_until(until) => break,
            read = group.recv(|arrival, datagram| take(ticket, &mut heard, arrival.from, datagram)) => read.map(|_| ()),
            read = count(data.as_mut(), &mut data_heard) => read,
            seen = next(tap.as_ref()) => seen.map(|seen| note(&mut tapped, ticket.advertise, data_group, &seen)),
        };
        if let Err(error) = read {
            heard.failed = Some(error.to_string());
            break;
        }
    }
    heard.data = data_heard;
    for passing in tapped.links.values_mut() {
        passing.back = passing.from.and_then(interface::toward);
    }
    heard.tapped = tap.map(|_| tapped);
    heard
}

/// A datagram of the advertisement group.
fn take(ticket: &Ticket, heard: &mut Heard, from: SocketAddr, datagram: &mut [u8]) {
    heard.advertised += 1;
    let epoch = Header::read(datagram).map_or(0, |head| head.epoch_low);
    let Some(told) = open(ticket, from, datagram) else {
        heard.other_epoch += u64::from(epoch != ticket.epoch.0.to_le_bytes()[0]);
        return;
    };
    heard.opened += 1;
    // One that sends says more than one that stands by.
    if heard.advertisement.as_ref().is_none_or(|known| known.from == from || told.state == SenderState::Active) {
        heard.advertisement = Some(told);
    }
}

fn open(ticket: &Ticket, from: SocketAddr, datagram: &mut [u8]) -> Option<Told> {
    let head = Header::read(datagram).ok().filter(|head| head.datagram_type == DatagramType::Advertisement)?;
    let key = ticket.secret.as_ref()?.flow_key(ticket.channel, head.session, Flow::Advertisement);
    let body = key.open_in_place(head.packet_number, header::LEN, datagram).ok()?;
    let told = Advertisement::decode(body, &ticket.publisher, ticket.channel).ok()?;
    Some(Told {
        from,
        takes_nacks_at: SocketAddr::new(from.ip(), told.nack_port),
        state: told.state,
        data_group: told.data_group,
        clock_ahead_ms: clock_ahead(told.wall_ms),
    })
}

/// By how much a clock that says this is ahead of ours; 0: it says nothing.
pub(super) fn clock_ahead(wall_ms: u64) -> Option<i64> {
    i64::try_from(wall_ms).ok().filter(|theirs| *theirs > 0)?.checked_sub_unsigned(Clock::wall_ms())
}

/// Counts what a socket gets, if there is one.
async fn count(socket: Option<&mut GroupSocket>, counted: &mut u64) -> io::Result<()> {
    match socket {
        Some(socket) => socket.recv(|_, _| *counted += 1).await.map(|_| ()),
        None => std::future::pending().await,
    }
}

async fn next(tap: Option<&Tap>) -> io::Result<Seen> {
    match tap {
        Some(tap) => tap.next().await,
        None => std::future::pending().await,
    }
}

fn note(tapped: &mut Tapped, group: SocketAddr, data: SocketAddr, seen: &Seen) {
    let Some(name) = interface::name_of(seen.interface) else { return };
    let (is_advertised, is_data) = match seen.passed {
        Passed::Query(_) => {
            tapped.links.entry(name).or_default().querier = true;
            return;
        }
        Passed::Report(_) => {
            tapped.links.entry(name).or_default().reported |= seen.outgoing;
            return;
        }
        Passed::Udp { to, .. } => (to == group, to == data),
    };
    let Passed::Udp { from, hops, fragment, .. } = seen.passed else { return };
    if !is_advertised && !is_data {
        return;
    }
    let passing = tapped.links.entry(name).or_default();
    if seen.outgoing {
        passing.outgoing += 1;
        return;
    }
    passing.advertised += u64::from(is_advertised);
    passing.data += u64::from(is_data);
    passing.fragments += u64::from(fragment);
    passing.from = Some(from.ip());
    passing.hops = Some(passing.hops.map_or(hops, |least| least.min(hops)));
}
