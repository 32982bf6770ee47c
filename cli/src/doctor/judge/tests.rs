//! What was seen in networks with a fault, and what is found.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use nackcast_common::net::passage::Passage;

use super::*;
use crate::doctor::facts::{Heard, Quic, Reached, Tapped, Told};

/// A receiver that hears everything.
fn sound() -> Facts {
    let from = "10.0.0.1:7600".parse().unwrap();
    let passing = Passing {
        advertised: 20,
        data: 100,
        querier: true,
        from: Some("10.0.0.1".parse().unwrap()),
        back: Some("eth0".into()),
        hops: Some(8),
        ..Passing::default()
    };
    let told = Told {
        from,
        takes_nacks_at: "10.0.0.1:7701".parse().unwrap(),
        state: SenderState::Active,
        data_group: "239.192.7.7:7601".parse().unwrap(),
        clock_ahead_ms: Some(3),
    };
    Facts {
        part: Part::Receives,
        group: "239.192.7.7:7600".parse().unwrap(),
        is_listed: false,
        packet: 1478,
        interface: Ok(Link { name: "eth0".into(), mtu: Some(1500), rp_filter: 1, ..Link::default() }),
        joined: BTreeSet::from(["eth0".to_owned()]),
        buffer: Some((8 << 20, 8 << 20)),
        port: None,
        port_is_ours: false,
        sent: None,
        heard: Heard {
            waited: Duration::from_secs(5),
            advertised: 20,
            data: 100,
            opened: 20,
            other_epoch: 0,
            advertisement: Some(told),
            tapped: Some(Tapped { links: BTreeMap::from([("eth0".to_owned(), passing)]) }),
            failed: None,
        },
        reached: vec![Reached {
            name: "10.0.0.1:7701".into(),
            address: Some("10.0.0.1".parse().unwrap()),
            by: Some("eth0".into()),
            short: Passage::Arrived,
            long: Passage::Arrived,
            longest: None,
            echo: Echo::Answered { after: Duration::from_millis(2), clock_ahead_ms: Some(3) },
            quic: Quic::Answered(Duration::from_millis(5)),
        }],
        ttl: 8,
    }
}

fn judge(facts: &Facts) -> Vec<Finding> {
    let ways = facts.reached.iter().flat_map(|reached| of_way(facts, reached));
    [of_machine(facts), ways.collect(), of_hearing(facts)].concat()
}

fn judged(facts: &Facts, wanted: Verdict) -> Vec<&'static str> {
    let findings = judge(facts).into_iter().filter(|finding| finding.verdict == wanted);
    let checked = findings.inspect(|finding| assert!(finding.mend.is_some() || wanted == Verdict::Fine));
    checked.map(|finding| finding.what).collect()
}

fn wrong(change: impl FnOnce(&mut Facts)) -> Vec<&'static str> {
    let mut facts = sound();
    change(&mut facts);
    judged(&facts, Verdict::Wrong)
}

fn noted(change: impl FnOnce(&mut Facts)) -> Vec<&'static str> {
    let mut facts = sound();
    change(&mut facts);
    judged(&facts, Verdict::Note)
}

/// Nothing gets through to the sockets.
fn deaf(facts: &mut Facts) -> &mut Passing {
    (facts.heard.advertised, facts.heard.opened, facts.heard.data) = (0, 0, 0);
    facts.heard.advertisement = None;
    facts.heard.tapped.as_mut().unwrap().links.get_mut("eth0").unwrap()
}

/// Nothing gets to the interface.
fn cut_off(facts: &mut Facts) {
    let passing = deaf(facts);
    (passing.advertised, passing.data, passing.from, passing.back) = (0, 0, None, None);
}

#[test]
fn nothing_is_wrong_where_everything_is_heard() {
    assert_eq!((judged(&sound(), Verdict::Wrong), judged(&sound(), Verdict::Note)), (vec![], vec![]));
}

#[test]
fn what_reaches_the_interface_and_no_socket_met_the_filter_or_the_firewall() {
    assert_eq!(
        wrong(|facts| {
            deaf(facts);
        }),
        ["firewall"]
    );
    assert_eq!(wrong(|facts| deaf(facts).back = Some("eth1".into())), ["rp-filter"]);
    assert_eq!(wrong(|facts| facts.heard.data = 0), ["firewall"], "of the data group only");
}

#[test]
fn what_does_not_reach_the_interface_is_elsewhere_or_lost() {
    assert_eq!(wrong(cut_off), ["multicast"]);
    assert_eq!(
        wrong(|facts| {
            cut_off(facts);
            facts.reached[0].by = Some("eth1".into());
        }),
        ["wrong-interface"]
    );
    assert_eq!(
        wrong(|facts| {
            cut_off(facts);
            let other = Passing { advertised: 3, ..Passing::default() };
            facts.heard.tapped.as_mut().unwrap().links.insert("eth1".into(), other);
        }),
        ["wrong-interface"]
    );
    assert_eq!(
        wrong(|facts| {
            cut_off(facts);
            facts.reached.clear();
        }),
        ["silence"]
    );
    let first = |facts: &mut Facts, reported| {
        cut_off(facts);
        facts.joined.clear();
        facts.heard.tapped.as_mut().unwrap().links.get_mut("eth0").unwrap().reported = reported;
    };
    assert_eq!(wrong(|facts| first(facts, false)), ["igmp"]);
    assert_eq!(wrong(|facts| first(facts, true)), ["multicast"]);
}

#[test]
fn the_rest_is_told_one_by_one() {
    assert_eq!(wrong(|facts| facts.interface = Err("none".into())), ["interface"]);
    assert_eq!(wrong(|facts| facts.interface.as_mut().unwrap().mtu = Some(1000)), ["mtu"]);
    assert_eq!(wrong(|facts| facts.interface.as_mut().unwrap().loopback = true), ["route"]);
    let on_loopback =
        |facts: &mut Facts| facts.interface.as_mut().unwrap().loopback_route = Some("224.0.0.0/4 dev lo".into());
    assert_eq!((wrong(on_loopback), noted(on_loopback)), (vec![], vec!["route"]), "another interface is used");
    assert_eq!(wrong(|facts| facts.heard.failed = Some("in use".into())), ["port"]);
    assert_eq!(wrong(|facts| facts.reached[0].echo = Echo::Silent), ["nack"]);
    assert_eq!(wrong(|facts| facts.reached[0].echo = Echo::Strange), ["ticket"]);
    assert_eq!(wrong(|facts| facts.reached[0].long = Passage::TooLong(1400)), ["mtu"]);
    assert_eq!(wrong(|facts| facts.reached[0].long = Passage::Silent), ["mtu"]);
    assert_eq!(noted(|facts| facts.reached[0].quic = Quic::Silent("nobody".into())), ["quic"]);
    assert_eq!(noted(|facts| facts.reached[0].quic = Quic::Refused), ["quic"], "the ticket is good");
    assert_eq!(wrong(|facts| facts.reached[0].short = Passage::Expired(None)), ["ttl"]);
    assert_eq!(wrong(|facts| facts.reached[0].address = None), ["name"]);
    assert_eq!(noted(|facts| facts.buffer = Some((212_992, 8 << 20))), ["buffer"]);
    assert_eq!(noted(|facts| facts.joined = BTreeSet::from(["eth1".to_owned()])), ["join"]);
    assert_eq!(noted(|facts| facts.heard.advertisement.as_mut().unwrap().clock_ahead_ms = Some(-90_000)), ["clock"]);
    let quiet = |facts: &mut Facts, seconds| {
        facts.heard.waited = Duration::from_secs(seconds);
        facts.heard.tapped.as_mut().unwrap().links.get_mut("eth0").unwrap().querier = false;
    };
    assert_eq!(noted(|facts| quiet(facts, 5)), ["querier"]);
    assert_eq!(wrong(|facts| quiet(facts, 130)), ["querier"]);
}

#[test]
fn of_a_wrong_ticket_only_the_ticket_is_told() {
    // On the same group as the right channel: nothing opens, and nobody answers.
    let shut = |facts: &mut Facts| {
        (facts.heard.opened, facts.heard.advertisement) = (0, None);
        facts.reached[0].echo = Echo::Silent;
    };
    assert_eq!(wrong(|facts| shut(facts)), ["ticket"], "the QUIC port is not reached");
    let text = |facts: &Facts| judge(facts).into_iter().find(|found| found.what == "ticket").unwrap().text;
    let mut facts = sound();
    shut(&mut facts);
    assert!(text(&facts).contains("another channel that uses the same group"));
    facts.heard.other_epoch = facts.heard.advertised;
    assert!(text(&facts).contains("another key epoch"));
    // On a group where nobody sends: the node says so.
    let refused = |facts: &mut Facts| {
        cut_off(facts);
        (facts.reached[0].echo, facts.reached[0].quic) = (Echo::Silent, Quic::Refused);
    };
    assert_eq!((wrong(refused), noted(refused)), (vec!["ticket"], vec!["silence"]));
}

#[test]
fn a_sender_that_is_not_heard_tells_its_clock() {
    let off = |facts: &mut Facts| {
        cut_off(facts);
        facts.reached[0].echo = Echo::Answered { after: Duration::ZERO, clock_ahead_ms: Some(100_000) };
    };
    assert_eq!(noted(off), ["clock"]);
}

#[test]
fn a_sender_hears_of_its_port_and_of_what_did_not_leave() {
    let sending = |facts: &mut Facts| {
        facts.part = Part::Sends;
        facts.sent = Some(Ok(()));
    };
    assert_eq!(wrong(sending), Vec::<&str>::new());
    assert_eq!(
        wrong(|facts| {
            sending(facts);
            facts.sent = Some(Err("Operation not permitted".into()));
        }),
        ["send"]
    );
    assert_eq!(
        noted(|facts| {
            sending(facts);
            (facts.port, facts.port_is_ours) = (Some("in use".into()), true);
        }),
        ["port"]
    );
    assert_eq!(
        wrong(|facts| {
            sending(facts);
            facts.port = Some("in use".into());
        }),
        ["port"],
        "another program has it"
    );
}
