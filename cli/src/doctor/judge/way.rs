//! The way to a node, and what it says.

use std::net::IpAddr;

use nackcast_common::net::passage::Passage;

use super::super::facts::{Echo, Facts, Part, Quic, Reached};
use super::{Finding, Findings, NEW_TICKET, of_clock};

/// The way to a node.
pub(in crate::doctor) fn of_way(facts: &Facts, reached: &Reached) -> Vec<Finding> {
    let mut found = Findings::default();
    if let Some(address) = reached.address {
        if of_passage(facts, reached, address, &mut found) {
            of_answers(facts, reached, &mut found);
        }
    } else {
        let text = format!("{} is not known: its name has no address", reached.name);
        found.wrong("name", text, "check the name server, or give the address".into());
    }
    found.0
}

/// A node there speaks our protocol, and does not take this ticket.
pub(super) fn is_refused(reached: &Reached) -> bool {
    reached.quic == Quic::Refused && !matches!(reached.echo, Echo::Answered { .. })
}

/// Whether anything can be sent there at all.
fn of_passage(facts: &Facts, reached: &Reached, address: IpAddr, found: &mut Findings) -> bool {
    let Reached { short, long, longest, .. } = reached;
    let at = |by: &Option<IpAddr>| by.map(|by| format!(" at {by}")).unwrap_or_default();
    match short {
        Passage::Expired(by) => {
            let text = format!("with {} hops a datagram gets no further than the router{}", facts.ttl, at(by));
            found.wrong("ttl", text, "raise --ttl: it must be above the number of routers".into());
            return false;
        }
        Passage::Unreachable(by) => {
            let text = format!("{address} cannot be reached: so says the host{}", at(by));
            found.wrong("unicast", text, format!("ip route get {address}; look for a firewall that rejects UDP"));
        }
        Passage::Refused(error) => {
            let text = format!("nothing can be sent to {address}: {error}");
            found.wrong("unicast", text, format!("ip route get {address}; nft list ruleset"));
        }
        Passage::Arrived | Passage::Silent | Passage::TooLong(_) => {}
    }
    let symbol_size = |packet: u32| packet.saturating_sub(facts.packet - 1400) & !1;
    match (short, long) {
        (_, Passage::TooLong(mtu)) if *mtu < facts.packet => {
            let text = format!(
                "on the way to {address} packets of at most {mtu} bytes pass, and symbols need {}",
                facts.packet
            );
            let mend = format!("raise the MTU of that link, or at the sender: --symbol-size {}", symbol_size(*mtu));
            found.wrong("mtu", text, mend);
        }
        (Passage::Arrived, Passage::Silent) => {
            let (arrive, fits) = match longest {
                Some(longest) => (format!("packets of {longest} bytes"), symbol_size(*longest).to_string()),
                None => ("short datagrams".to_owned(), "SIZE".to_owned()),
            };
            let text = format!(
                "{arrive} arrive at {address}, and those of {} bytes vanish: a link on the way is too small and does not \
                 say so",
                facts.packet
            );
            let mend = format!("find it and raise its MTU: ping -M do -s SIZE; or at the sender: --symbol-size {fits}");
            found.wrong("mtu", text, mend);
        }
        (Passage::Arrived, Passage::Arrived) => {
            let ttl = if facts.part == Part::Sends { format!(", with {} hops", facts.ttl) } else { String::new() };
            found.fine("way", format!("datagrams of all sizes arrive at {address}{ttl}"));
        }
        _ => {}
    }
    true
}

/// What a sender says, on both of its ports.
fn of_answers(facts: &Facts, reached: &Reached, found: &mut Findings) {
    let Reached { name, echo, quic, .. } = reached;
    let port = name.rsplit(':').next().and_then(|port| port.parse::<u16>().ok()).unwrap_or_default();
    let let_in = |port: u16| {
        format!(
            "let UDP to {name} and its answers through the firewalls between, and on the sender: nft insert rule inet \
             filter input udp dport {port} accept"
        )
    };
    if is_refused(reached) || *echo == Echo::Strange {
        let text =
            format!("{name} is a node of nackcast and does not take this ticket: it is of another channel or epoch");
        found.wrong("ticket", text, NEW_TICKET.into());
        return;
    }
    match echo {
        Echo::Answered { after, clock_ahead_ms } => {
            found.fine("nack", format!("{name} answers NACKs, after {} ms", after.as_millis()));
            if facts.heard.advertisement.is_none() {
                of_clock(name, *clock_ahead_ms, found);
            }
        }
        // Who cannot open what is advertised is not answered, either: that is told already.
        Echo::Silent if facts.heard.advertised > 0 && facts.heard.opened == 0 => return,
        Echo::Silent if facts.heard.opened > 0 || matches!(quic, Quic::Answered(_)) => {
            let text =
                format!("{name} is there, and does not answer on its NACK port: what is lost cannot be asked for");
            found.wrong("nack", text, let_in(port));
        }
        Echo::Silent => {
            let text = format!("{name} does not answer on its NACK port");
            found.wrong(
                "nack",
                text,
                "check that the sender runs, and firewalls between: UDP to that port and back".into(),
            );
        }
        Echo::Strange | Echo::NotAsked => {}
    }
    let quic_port = port.saturating_add(1);
    match quic {
        Quic::Answered(after) => {
            let after = after.as_millis();
            found.fine("quic", format!("{name} gives blocks by unicast (QUIC, port {quic_port}), after {after} ms"));
        }
        Quic::Refused => {
            let text = format!("{name} refuses to give blocks by unicast to this machine");
            found.note("quic", text, "its log says why, with -v".into());
        }
        // Where neither port answers, one word is enough.
        Quic::Silent(why) if matches!(echo, Echo::Answered { .. }) => {
            let text =
                format!("{name} answers NACKs, and not on its QUIC port, {quic_port}: there is no last resort ({why})");
            found.note("quic", text, let_in(quic_port));
        }
        Quic::Silent(_) | Quic::NotAsked => {}
    }
}
