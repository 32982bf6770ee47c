//! This machine: its interface, what the kernel is set to, its ports.

use std::collections::BTreeSet;
use std::fs;
use std::net::{IpAddr, SocketAddr};

use nackcast_common::geometry::Geometry;
use nackcast_common::net::multicast::{self, RECEIVE_BUFFER};
use nackcast_common::net::{Interface, MulticastSender, SendOptions, UnicastSocket, interface, passage};
use nackcast_proto::ticket::Ticket;
use nackcast_proto::wire::symbol;

use super::facts::{Facts, Heard, Link, Part};
use crate::args::DoctorArgs;

pub(super) fn look(ticket: &Ticket, part: Part, interface: Option<&Interface>, args: &DoctorArgs) -> Facts {
    let group = ticket.advertise;
    let port = match part {
        Part::Sends => UnicastSocket::bind(listen(args)).err(),
        Part::Receives => None,
    };
    Facts {
        part,
        group,
        is_listed: ticket.secret.is_none(),
        packet: packet_length(group),
        interface: interface.map(|interface| link(interface, group, args)).ok_or_else(String::new),
        joined: joined(group.ip()),
        buffer: interface.and_then(|interface| buffer(group, interface)),
        port: port.map(|error| error.to_string()),
        port_is_ours: false,
        sent: None,
        heard: Heard::default(),
        reached: Vec::new(),
        ttl: args.ttl,
    }
}

/// Where this machine's sender takes NACKs, or is to.
pub(super) fn listen(args: &DoctorArgs) -> SocketAddr {
    args.listen.map_or(crate::send::DEFAULT_LISTEN, |listen| listen.0)
}

/// Bytes in a datagram with a symbol of the default size.
pub(super) fn payload_length() -> usize {
    symbol::datagram_len(Geometry::default().symbol_size())
}

/// The same with IP and UDP headers.
fn packet_length(group: SocketAddr) -> u32 {
    u32::try_from(payload_length()).unwrap_or(u32::MAX) + headers(group.ip())
}

/// Bytes of IP and UDP headers.
pub(super) const fn headers(address: IpAddr) -> u32 {
    if address.is_ipv4() { 28 } else { 48 }
}

fn link(interface: &Interface, group: SocketAddr, args: &DoctorArgs) -> Link {
    let setting = |name: &str| {
        let text = fs::read_to_string(format!("/proc/sys/net/ipv4/conf/{name}/rp_filter")).ok()?;
        text.trim().parse::<u8>().ok()
    };
    let rp_filter = match group.ip() {
        IpAddr::V4(_) => setting("all").max(setting(&interface.name)).unwrap_or(0),
        IpAddr::V6(_) => 0,
    };
    Link {
        name: interface.name.clone(),
        loopback: interface.loopback,
        named_by_user: args.interface.is_some(),
        loopback_route: interface::loopback_route(group.ip()),
        mtu: passage::mtu_of(interface, group),
        rp_filter,
    }
}

/// Interfaces on which this machine's kernel has joined the group.
fn joined(group: IpAddr) -> BTreeSet<String> {
    let read = |path| fs::read_to_string(path).unwrap_or_default();
    match group {
        IpAddr::V4(group) => joined_v4(&read("/proc/net/igmp"), group.octets()),
        IpAddr::V6(group) => {
            let digits = group.octets().iter().fold(String::new(), |text, byte| format!("{text}{byte:02x}"));
            let lines = read("/proc/net/igmp6");
            let fields = lines.lines().map(|line| line.split_whitespace().collect::<Vec<_>>());
            fields
                .filter(|f| f.get(2) == Some(&digits.as_str()))
                .filter_map(|f| Some((*f.get(1)?).to_owned()))
                .collect()
        }
    }
}

/// Lines of an interface begin with its number; those of its groups, with the bytes in the machine's order, are
/// indented.
fn joined_v4(text: &str, group: [u8; 4]) -> BTreeSet<String> {
    let wanted = format!("{:08X}", u32::from_ne_bytes(group));
    let (mut interface, mut joined) = (String::new(), BTreeSet::new());
    for line in text.lines().skip(1) {
        let mut fields = line.split_whitespace();
        if !line.starts_with(char::is_whitespace) {
            interface = fields.nth(1).unwrap_or_default().trim_end_matches(':').to_owned();
        } else if fields.next() == Some(wanted.as_str()) {
            joined.insert(interface.clone());
        }
    }
    joined
}

fn buffer(group: SocketAddr, interface: &Interface) -> Option<(usize, usize)> {
    // The port is taken where another program does not share it; then that is said elsewhere.
    let bound = multicast::bind_group(group, interface, &[]).ok()?;
    Some((bound.receive_buffer, RECEIVE_BUFFER))
}

/// One datagram to the group, which nobody can open.
pub(super) async fn send_one(ticket: &Ticket, interface: &Interface, ttl: u8) -> Result<(), String> {
    let options = SendOptions { ttl, ..SendOptions::default() };
    let sender = MulticastSender::bind(ticket.advertise.ip(), interface, options).map_err(|error| error.to_string())?;
    let datagram = vec![0; payload_length()];
    sender.writable().await.map_err(|error| error.to_string())?;
    let sent = sender.try_send_batch(ticket.advertise, &datagram, datagram.len());
    sent.map(|_| ()).map_err(|error| error.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn joins_are_read_as_the_kernel_writes_them() {
        let text = "Idx\tDevice    : Count Querier\tGroup    Users Timer\tReporter\n\
                    1\tlo        :     1      V3\n\
                    \t\t\t\t010000E0     1 0:00000000\t\t0\n\
                    2\teth0      :     2      V3\n\
                    \t\t\t\t0807C0EF     1 0:00000000\t\t0\n\
                    \t\t\t\t010000E0     1 0:00000000\t\t0\n";
        let joined = |group| joined_v4(text, group).into_iter().collect::<Vec<_>>();
        if cfg!(target_endian = "little") {
            assert_eq!(joined([239, 192, 7, 8]), ["eth0"]);
            assert_eq!(joined([224, 0, 0, 1]), ["eth0", "lo"]);
            assert_eq!(joined([239, 1, 1, 1]), Vec::<String>::new());
        }
    }
}
