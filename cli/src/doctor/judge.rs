//! From what was seen to what is wrong. Each finding says what was seen, what it means, and what mends it.
//!
//! When nothing arrives, one cause hides the others: the first that explains it is told, in the order in which a
//! datagram meets them. A ticket that is refused comes before all of them: it may name a group where nobody sends.

#[cfg(test)]
mod tests;
mod way;

use nackcast_common::units::counted;
use nackcast_proto::wire::SenderState;
use serde::Serialize;

use self::way::is_refused;
pub(super) use self::way::of_way;
use super::facts::{Echo, Facts, Link, Part, Passing};

/// IGMP and MLD queriers ask every 125 s by default: whoever listens for less may miss one.
const QUERIER_SECONDS: u64 = 130;
/// Clocks that differ by more make generations look old.
const CLOCK_OFF_MS: u64 = 60_000;
/// What mends a ticket that is not taken.
const NEW_TICKET: &str = "print the right one where its channel is sent: nackcast channel ticket FILE";
/// Hops that routers must leave before a datagram arrives.
const HOPS_FEW: u8 = 1;

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(super) enum Verdict {
    /// As it should be.
    Fine,
    /// Worth knowing; content may flow all the same.
    Note,
    /// Content does not flow, or not as it should.
    Wrong,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(super) struct Finding {
    pub(super) verdict: Verdict,
    /// For programs.
    pub(super) what: &'static str,
    /// For people.
    pub(super) text: String,
    /// A command, or what to do.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) mend: Option<String>,
}

/// Collects findings.
#[derive(Debug, Default)]
struct Findings(Vec<Finding>);

impl Findings {
    fn fine(&mut self, what: &'static str, text: String) {
        self.0.push(Finding { verdict: Verdict::Fine, what, text, mend: None });
    }

    fn note(&mut self, what: &'static str, text: String, mend: String) {
        self.0.push(Finding { verdict: Verdict::Note, what, text, mend: Some(mend) });
    }

    fn wrong(&mut self, what: &'static str, text: String, mend: String) {
        self.0.push(Finding { verdict: Verdict::Wrong, what, text, mend: Some(mend) });
    }
}

/// This machine; the rest is not worth looking at without an interface.
pub(super) fn of_machine(facts: &Facts) -> Vec<Finding> {
    let mut found = Findings::default();
    let link = match &facts.interface {
        Ok(link) => link,
        Err(error) => {
            let text = format!("no interface for group {}: {error}", facts.group.ip());
            found.wrong("interface", text, "ip -br address shows those there are; choose one with --interface".into());
            return found.0;
        }
    };
    of_interface(facts, link, &mut found);
    of_buffer(facts, &mut found);
    if facts.part == Part::Sends {
        of_sending(facts, &mut found);
    }
    found.0
}

/// What was heard, and what keeps from hearing more: when all ways are known.
pub(super) fn of_hearing(facts: &Facts) -> Vec<Finding> {
    let mut found = Findings::default();
    let Ok(link) = &facts.interface else { return found.0 };
    match (facts.part, &facts.heard.advertisement) {
        (Part::Receives, _) => of_receiving(facts, link, &mut found),
        (Part::Sends, Some(told)) => {
            found.fine("advertised", format!("a sender at {} advertises the channel ({})", told.from, told.state));
        }
        (Part::Sends, None) => found.fine("advertised", "nobody advertises the channel here now".into()),
    }
    of_querier(facts, link, &mut found);
    found.0
}

fn of_interface(facts: &Facts, link: &Link, found: &mut Findings) {
    let Link { name, .. } = link;
    let group = facts.group.ip();
    match (&link.loopback_route, link.loopback) {
        _ if link.named_by_user => {}
        (Some(route), true) => {
            let text = format!("the route {route} keeps multicast on this machine, and there is no other");
            let to = route.split(' ').next().unwrap_or_default();
            found.wrong("route", text, format!("give --interface NAME, or: ip route replace {to} dev NAME"));
            return;
        }
        (None, true) => {
            let text = format!(
                "no default route and no multicast route was found, so {name} would be used, which reaches this machine \
                 only"
            );
            found.wrong("route", text, format!("give --interface NAME, or: ip route add {group}/32 dev NAME"));
            return;
        }
        (Some(route), false) => {
            let text = format!(
                "the route {route} would keep multicast on this machine; it is not used, and {name} is, which has the \
                 default route"
            );
            found.note(
                "route",
                text,
                format!("--interface lo if only this machine is meant, else: ip route del {route}"),
            );
        }
        (None, false) => {}
    }
    match link.mtu {
        Some(mtu) if mtu < facts.packet => {
            let text =
                format!("{name} takes packets of {mtu} bytes, symbols of the default size make {}", facts.packet);
            let fits = mtu.saturating_sub(facts.packet - 1400) & !1;
            found.wrong("mtu", text, format!("ip link set {name} mtu 1500, or at the sender: --symbol-size {fits}"));
        }
        mtu => {
            let mtu = mtu.map(|mtu| format!(", MTU {mtu}")).unwrap_or_default();
            found.fine("interface", format!("interface {name}{mtu}"));
        }
    }
    let elsewhere: Vec<_> = facts.joined.iter().filter(|joined| *joined != name).map(String::as_str).collect();
    if facts.joined.contains(name) {
        found.fine("join", format!("a program here has joined {} on {name}", facts.group.ip()));
    } else if !elsewhere.is_empty() {
        let text =
            format!("a program here has joined {} on {}, and not on {name}", facts.group.ip(), elsewhere.join(", "));
        found.note("join", text, format!("if that is the receiver, start it with --interface {name}"));
    } else if facts.part == Part::Receives {
        let text = format!("no program here has joined {} but this one", facts.group.ip());
        found.note("join", text, "start `nackcast receive` here, if it is not meant to be down".into());
    }
}

fn of_buffer(facts: &Facts, found: &mut Findings) {
    match facts.buffer {
        Some((granted, wanted)) if granted < wanted => {
            let text =
                format!("the kernel grants a receive buffer of {granted} of {wanted} bytes: fast bursts are lost");
            found.note("buffer", text, format!("sysctl -w net.core.rmem_max={wanted}"));
        }
        Some((granted, _)) => found.fine("buffer", format!("receive buffer of {granted} bytes")),
        None => {}
    }
}

fn of_sending(facts: &Facts, found: &mut Findings) {
    if let Some(error) = &facts.port {
        if facts.port_is_ours {
            let text = format!("the port for NACKs is taken by a nackcast node that runs here: {error}");
            let mend = "if that is the sender of this channel, all is well; else choose another --listen";
            found.note("port", text, mend.into());
        } else {
            let text = format!("the port for NACKs cannot be had, and no nackcast node answers there: {error}");
            let mend = "ss -ulpn shows who has it; end that program, or choose another --listen";
            found.wrong("port", text, mend.into());
        }
    }
    match &facts.sent {
        Some(Err(error)) => {
            let text = format!("a datagram to {} did not leave this machine: {error}", facts.group);
            let mend =
                format!("nft list ruleset shows what forbids it; ip route get {} shows the way", facts.group.ip());
            found.wrong("send", text, mend);
        }
        Some(Ok(())) => found.fine("send", format!("a datagram to {} left this machine", facts.group)),
        None => {}
    }
}

fn of_receiving(facts: &Facts, link: &Link, found: &mut Findings) {
    let heard = &facts.heard;
    if let Some(error) = &heard.failed {
        let mend = "ss -ulpn shows who has the port; that program, or the channel, must use another".into();
        found.wrong("port", format!("cannot listen to {}: {error}", facts.group), mend);
        return;
    }
    let passing = heard.tapped.as_ref().and_then(|tapped| tapped.links.get(&link.name));
    if heard.advertised == 0 {
        let came = passing.filter(|passing| passing.advertised > 0);
        match came {
            Some(passing) => stopped_here(facts, link, passing, facts.group.port(), found),
            None => never_came(facts, link, found),
        }
        return;
    }
    if facts.is_listed {
        let text =
            format!("{} datagrams came to {}; this ticket holds no secret to open them", heard.advertised, facts.group);
        found.fine("ticket", text);
        return;
    }
    let Some(told) = &heard.advertisement else {
        let why = match heard.other_epoch {
            strange if strange == heard.advertised => {
                "they are of another key epoch: the ticket is an old one, or of another channel"
            }
            _ => "they are of another channel that uses the same group, or the ticket's secret is an old one",
        };
        let text = format!(
            "{} came to {}, and none opens with this ticket: {why}",
            counted(heard.advertised, "datagram"),
            facts.group
        );
        found.wrong("ticket", text, NEW_TICKET.into());
        return;
    };
    found.fine("advertised", format!("the sender at {} is heard ({})", told.from, told.state));
    of_clock("the sender", told.clock_ahead_ms, found);
    let data_came = passing.map_or(0, |passing| passing.data);
    if heard.data == 0 && data_came > 0 {
        if let Some(passing) = passing {
            stopped_here(facts, link, passing, told.data_group.port(), found);
        }
    } else if heard.data > 0 {
        found.fine("data", format!("content arrives on {}", told.data_group));
    } else if told.state == SenderState::Active {
        let text =
            format!("no content came on {} in {:?}: fine if there is none to send now", told.data_group, heard.waited);
        let mend = "if the sender is busy: long packets may be lost on the way (see MTU), or a switch lets only one of \
                    the two groups through";
        found.note("data", text, mend.into());
    }
    if let Some(passing) = passing {
        if passing.fragments > 0 {
            let text =
                format!("packets of the channel arrive on {} in pieces: a link on the way is too small", link.name);
            found.wrong("mtu", text, "raise that link's MTU, or lower the sender's --symbol-size".into());
        }
        if passing.hops.is_some_and(|hops| hops <= HOPS_FEW) {
            let text = "the sender's datagrams arrive with their last hop: one router more and they would not".into();
            found.note("ttl", text, "raise the sender's --ttl".into());
        } else if let Some(hops) = passing.hops {
            found.fine("ttl", format!("the sender's datagrams arrive with {hops} hops left"));
        }
    }
}

fn of_clock(whose: &str, ahead_ms: Option<i64>, found: &mut Findings) {
    let Some(ahead) = ahead_ms else { return };
    let off = ahead.unsigned_abs();
    if off <= CLOCK_OFF_MS {
        let text = format!("the clocks of {whose} and of this machine differ by less than {} s", off / 1000 + 1);
        found.fine("clock", text);
        return;
    }
    let way = if ahead > 0 { "ahead of" } else { "behind" };
    let text = format!("the clock of {whose} is {} s {way} this machine's", off / 1000);
    found.note("clock", text, "timedatectl shows whether NTP runs; let it, on both".into());
}

/// Datagrams reach the interface, and no socket.
fn stopped_here(facts: &Facts, link: &Link, passing: &Passing, port: u16, found: &mut Findings) {
    let (name, group) = (&link.name, facts.group.ip());
    let back = passing.back.as_deref();
    if let Some(from) = passing.from.filter(|_| link.rp_filter == 1 && back != Some(name)) {
        let back = back.unwrap_or("no interface");
        let text = format!(
            "datagrams from {from} reach {name} and the kernel drops them: the way back to {from} is by {back}, and \
             rp_filter is strict"
        );
        let mend = format!(
            "sysctl -w net.ipv4.conf.all.rp_filter=2 net.ipv4.conf.{name}.rp_filter=2, or a route to {from} by {name}"
        );
        found.wrong("rp-filter", text, mend);
        return;
    }
    let text = format!("datagrams for {group}, port {port}, reach {name} and a firewall of this machine drops them");
    let family = if group.is_ipv4() { "ip" } else { "ip6" };
    let mend = format!(
        "nft list ruleset shows the rule; before it: nft insert rule inet filter input {family} daddr {group} udp dport \
         {port} accept"
    );
    found.wrong("firewall", text, mend);
}

/// Nothing reached the interface.
fn never_came(facts: &Facts, link: &Link, found: &mut Findings) {
    let name = &link.name;
    let tapped = facts.heard.tapped.as_ref();
    let elsewhere = tapped.and_then(|tapped| {
        tapped.links.iter().find(|(other, passing)| *other != name && passing.advertised > 0).map(|(other, _)| other)
    });
    if let Some(other) = elsewhere {
        let text = format!("the channel arrives on {other}, and {name} is listened to");
        found.wrong("wrong-interface", text, format!("--interface {other}"));
        return;
    }
    if facts.reached.iter().any(is_refused) {
        let group = facts.group;
        let text = format!("nothing for {group} came to {name}: with a ticket that is refused that says little");
        found.note("silence", text, "mend the ticket first, and look again".into());
        return;
    }
    let toward = facts.reached.iter().find_map(|reached| reached.by.as_deref()).filter(|by| by != name);
    if let Some(by) = toward {
        let text = format!("nothing came to {name} in {:?}, and the sender is reached by {by}", facts.heard.waited);
        found.wrong("wrong-interface", text, format!("--interface {by}"));
        return;
    }
    if is_report_lost(facts, link) {
        let family = if facts.group.is_ipv4() { "ip protocol igmp" } else { "meta l4proto ipv6-icmp" };
        let text = format!(
            "this machine joined {}, and no word of it left by {name}: a firewall here drops IGMP (or MLD), so no switch \
             or router knows that the group is wanted",
            facts.group.ip()
        );
        found.wrong("igmp", text, format!("before the rule: nft insert rule inet filter output {family} accept"));
        return;
    }
    let answers = facts.reached.iter().any(|reached| matches!(reached.echo, Echo::Answered { .. }));
    let waited = facts.heard.waited;
    if answers {
        let text = format!(
            "nothing for {} came to {name} in {waited:?}, although the sender answers by unicast: multicast is lost on \
             the way{}",
            facts.group.ip(),
            match tapped.map(|tapped| tapped.links.get(name).is_some_and(|passing| passing.querier)) {
                Some(false) => ", and no querier was heard meanwhile: switches that snoop stop it then",
                Some(true) | None => "",
            }
        );
        let mend = "ask who runs the network for: an IGMP/MLD querier where switches snoop, multicast routing (PIM) on \
                    each router, and at the sender a --ttl above the number of routers and the right --interface";
        found.wrong("multicast", text, mend.into());
    } else if tapped.is_none() {
        let text = format!(
            "nothing came to the sockets on {name} in {waited:?}; without the right to look before the firewall no more is known"
        );
        found.wrong("silence", text, "run it as root, or with CAP_NET_RAW".into());
    } else {
        let text = format!("nothing for {} came to {name} in {waited:?}, and no sender answers", facts.group.ip());
        found.wrong(
            "silence",
            text,
            "check that the sender runs: nackcast status, there; then run nackcast doctor there".into(),
        );
    }
}

/// The doctor joined, as the first one here, and the network was not told.
fn is_report_lost(facts: &Facts, link: &Link) -> bool {
    let Some(tapped) = &facts.heard.tapped else { return false };
    let reported = tapped.links.get(&link.name).is_some_and(|passing| passing.reported);
    !link.loopback && !reported && !facts.joined.contains(&link.name)
}

fn of_querier(facts: &Facts, link: &Link, found: &mut Findings) {
    let Some(tapped) = &facts.heard.tapped else { return };
    if link.loopback {
        return;
    }
    if tapped.links.get(&link.name).is_some_and(|passing| passing.querier) {
        found.fine("querier", format!("a querier asks on {} who wants which group", link.name));
        return;
    }
    let waited = facts.heard.waited.as_secs();
    let text = format!("no querier was heard on {} in {waited} s", link.name);
    let mend = "where switches snoop (most do), one is needed, or multicast stops after some minutes: let a switch or \
                router be it, or on a Linux bridge: ip link set BRIDGE type bridge mcast_querier 1";
    if waited >= QUERIER_SECONDS {
        found.wrong("querier", text, mend.into());
    } else {
        let text = format!("{text}, which is too short to be sure: --wait {QUERIER_SECONDS}s");
        found.note("querier", text, mend.into());
    }
}
