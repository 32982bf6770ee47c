//! `nackcast doctor`, in networks that have the faults that it is to find.

use nackcast_testbed::fabric::{Direction, Link};
use nackcast_testbed::netns::with_namespaces;
use serde_json::Value;

use crate::bridge::Bridge;
use crate::stage::{Stage, end, until, with_others};

const GROUP: &str = "239.192.7.8";

/// What the doctor finds on the host: its exit code, and what of it is `verdict`.
fn found(stage: &Stage, host: &str, verdict: &str, arguments: &[&str]) -> (Option<i32>, Vec<String>, String) {
    let mut all = vec!["doctor", "--json", "--wait", "3s"];
    let key = stage.path("news.key").display().to_string();
    let ticket = format!("@{}", stage.path("news.ticket").display());
    all.extend(if host == "sender" { ["--channel", &key] } else { ["--ticket", &ticket] });
    all.extend(arguments);
    let output = stage.on(host, crate::stage::program().to_str().unwrap(), &all);
    let text = format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    let printed: Value = serde_json::from_slice(&output.stdout).unwrap_or_else(|_| panic!("{output:?}"));
    let of = printed["findings"].as_array().unwrap().iter().filter(|finding| finding["verdict"] == verdict);
    (output.status.code(), of.map(|finding| finding["what"].as_str().unwrap().to_owned()).collect(), text)
}

/// The doctor finds this wrong, and exits 1.
fn assert_wrong(stage: &Stage, host: &str, what: &str, arguments: &[&str]) {
    let (code, wrong, text) = found(stage, host, "wrong", arguments);
    assert!(wrong.iter().any(|found| found == what) && code == Some(1), "{what}: {text}");
}

/// Drops what the rule matches.
pub(crate) fn forbid(stage: &Stage, host: &str, hook: &str, rule: &str) {
    let table =
        format!("add table inet doctor; add chain inet doctor {hook} {{ type filter hook {hook} priority 0; }}; ");
    stage.must(host, "nft", &[&format!("{table} add rule inet doctor {hook} {rule} drop")]);
}

pub(crate) fn allow(stage: &Stage, host: &str) {
    stage.must(host, "nft", &["delete table inet doctor"]);
}

fn set(stage: &Stage, host: &str, setting: &str, value: &str) {
    stage.must(host, "sh", &["-c", &format!("echo {value} > /proc/sys/net/ipv4/{setting}")]);
}

#[test]
fn what_keeps_a_receiver_from_hearing_is_found() {
    let _turn = with_others();
    with_namespaces(|| {
        let stage = Stage::new();
        let nacks = format!("{}:7701", stage.address("sender"));
        let mut sender = stage.send(&[]);
        stage.until_channel("sender", "it serves", |channel| channel["state"] == "idle");
        let (code, fine, text) = found(&stage, "receiver", "fine", &[]);
        for what in ["interface", "advertised", "nack", "way", "quic", "clock"] {
            assert!(fine.iter().any(|found| found == what), "{what}: {text}");
        }
        assert_eq!(code, Some(0), "{text}");
        let (_, noted, text) = found(&stage, "receiver", "note", &[]);
        assert!(noted.iter().any(|found| found == "join"), "no receiver runs: {text}");
        // What the kernel grants is the machine's setting, and no namespace's; the machine's administrator may pass it.
        let granted: u64 = std::fs::read_to_string("/proc/sys/net/core/rmem_max").unwrap().trim().parse().unwrap();
        assert!(granted < 8 << 20 || noted.iter().all(|found| found != "buffer"), "{granted}: {text}");
        let mut receiver = stage.receive(&[]);
        stage.until_complete();
        let (_, fine, text) = found(&stage, "receiver", "fine", &[]);
        assert!(fine.iter().any(|found| found == "join"), "{text}");
        end(&mut receiver);

        assert_wrong(&stage, "receiver", "interface", &["--interface", "eth9"]);
        assert_wrong(&stage, "receiver", "wrong-interface", &["--interface", "lo"]);
        forbid(&stage, "receiver", "input", &format!("ip daddr {GROUP} udp dport 7600"));
        assert_wrong(&stage, "receiver", "firewall", &["--to", &nacks]);
        allow(&stage, "receiver");
        forbid(&stage, "sender", "input", "udp dport 7701");
        assert_wrong(&stage, "receiver", "nack", &[]);
        allow(&stage, "sender");
        forbid(&stage, "sender", "input", "udp dport 7702");
        let (code, noted, text) = found(&stage, "receiver", "note", &[]);
        assert!(noted.iter().any(|found| found == "quic") && code == Some(0), "{text}");
        allow(&stage, "sender");
        forbid(&stage, "sender", "output", &format!("ip daddr {GROUP}"));
        assert_wrong(&stage, "receiver", "multicast", &["--to", &nacks]);
        assert_wrong(&stage, "sender", "send", &[]);
        allow(&stage, "sender");
        stage.must("receiver", "ip", &["route", "add", "blackhole", &format!("{}/32", stage.address("sender"))]);
        for interface in ["all", "eth0"] {
            set(&stage, "receiver", &format!("conf/{interface}/rp_filter"), "1");
        }
        assert_wrong(&stage, "receiver", "rp-filter", &[]);
        stage.must("receiver", "ip", &["route", "del", "blackhole", &format!("{}/32", stage.address("sender"))]);
        stage.must("receiver", "ip", &["route", "flush", "table", "main"]);
        assert_wrong(&stage, "receiver", "route", &[]);
        stage.must("receiver", "ip", &["route", "add", "224.0.0.0/4", "dev", "lo"]);
        let (_, wrong, text) = found(&stage, "receiver", "wrong", &[]);
        assert!(wrong.iter().any(|found| found == "route") && text.contains("224.0.0.0/4 dev lo"), "{text}");
        stage.must("receiver", "ip", &["route", "add", "default", "dev", "eth0"]);
        let (_, noted, text) = found(&stage, "receiver", "note", &[]);
        assert!(noted.iter().any(|found| found == "route"), "{text}");
        end(&mut sender);
    });
}

#[test]
fn links_that_are_too_small_and_hops_that_are_too_few_are_found() {
    let _turn = with_others();
    with_namespaces(|| {
        let stage = Stage::new();
        let receiver = format!("{}:7701", stage.address("receiver"));
        let (code, fine, text) = found(&stage, "sender", "fine", &["--to", &receiver]);
        assert!(code == Some(0) && fine.iter().any(|found| found == "way"), "{text}");
        // Somewhere on the way long packets vanish.
        let narrow = Link { mtu: 1000, ..Link::default() };
        stage.fabric().set_link("receiver", Direction::ToHost, narrow).unwrap();
        assert_wrong(&stage, "sender", "mtu", &["--to", &receiver]);
        let (_, _, text) = found(&stage, "sender", "wrong", &["--to", &receiver]);
        assert!(text.contains("packets of 1000 bytes arrive"), "{text}");
        stage.fabric().set_link("receiver", Direction::ToHost, Link::default()).unwrap();
        // By a router.
        set(&stage, "admin", "ip_forward", "1");
        set(&stage, "admin", "conf/all/send_redirects", "0");
        set(&stage, "admin", "conf/eth0/send_redirects", "0");
        let (to, by) = (format!("{}/32", stage.address("receiver")), stage.address("admin").to_string());
        stage.must("sender", "ip", &["route", "add", &to, "via", &by]);
        assert_wrong(&stage, "sender", "ttl", &["--to", &receiver, "--ttl", "1"]);
        let (code, _, text) = found(&stage, "sender", "wrong", &["--to", &receiver, "--ttl", "2"]);
        assert_eq!(code, Some(0), "{text}");
        stage.must("receiver", "ip", &["link", "set", "eth0", "mtu", "1000"]);
        assert_wrong(&stage, "receiver", "mtu", &[]);
    });
}

#[test]
fn a_port_that_is_taken_and_a_wrong_ticket_are_found() {
    let _turn = with_others();
    with_namespaces(|| {
        let stage = Stage::new();
        let mut sender = stage.send(&[]);
        stage.until_channel("sender", "it serves", |channel| channel["state"] == "idle");
        let (_, noted, text) = found(&stage, "sender", "note", &[]);
        assert!(noted.iter().any(|found| found == "port"), "{text}");
        // Another program that answers nothing, in the sender's place.
        let taken = stage.socket("sender", "0.0.0.0:7711");
        assert_wrong(&stage, "sender", "port", &["--listen", "0.0.0.0:7711"]);
        drop(taken);
        let (code, wrong, text) = found(&stage, "sender", "wrong", &["--listen", "0.0.0.0:7711"]);
        assert!(wrong.is_empty() && code == Some(0), "{text}");
        // A program at a receiver that does not share the group's port.
        let taken = stage.socket("receiver", "0.0.0.0:7600");
        assert_wrong(&stage, "receiver", "port", &[]);
        drop(taken);
        // On the same group, and on another one: of what follows from a wrong ticket nothing is blamed.
        let nacks = format!("{}:7701", stage.address("sender"));
        for group in [GROUP, "239.192.7.9"] {
            stage.another_ticket(group);
            let (code, wrong, text) = found(&stage, "receiver", "wrong", &["--to", &nacks]);
            assert!(!wrong.is_empty() && wrong.iter().all(|found| found == "ticket") && code == Some(1), "{text}");
        }
        end(&mut sender);
    });
}

#[test]
fn on_a_switch_that_snoops_a_querier_is_heard_and_a_report_that_does_not_leave_is_found() {
    let _turn = with_others();
    with_namespaces(|| {
        let bridge = Bridge::new();
        let has = |found: &[(String, String)], verdict: &str, what: &str| {
            found.iter().any(|(a, b)| (a.as_str(), b.as_str()) == (verdict, what))
        };
        // No word of a member ever reaches the bridge. Without a querier it sends every group to everybody.
        bridge.receiver(
            "nft 'add table ip doctor; add chain ip doctor out { type filter hook output priority 0; }; add rule ip \
             doctor out ip protocol igmp drop'",
        );
        let (found, text) = bridge.doctor();
        assert!(has(&found, "note", "querier") && has(&found, "fine", "advertised"), "without a querier: {text}");
        // It does so for a moment longer when it begins to ask.
        bridge.ask();
        until("what does not leave is found", || {
            let (found, text) = bridge.doctor();
            assert!(has(&found, "fine", "nack"), "{text}");
            has(&found, "wrong", "igmp").then_some(())
        });
        bridge.receiver("nft 'delete table ip doctor'");
        let (found, text) = bridge.doctor();
        assert!(has(&found, "fine", "querier") && has(&found, "fine", "advertised"), "{text}");
        assert!(found.iter().all(|(verdict, _)| verdict != "wrong"), "{text}");
    });
}

#[test]
fn a_switch_that_stops_a_group_without_a_querier_is_found() {
    let _turn = with_others();
    with_namespaces(|| {
        let bridge = Bridge::new();
        let has = |found: &[(String, String)], verdict: &str, what: &str| {
            found.iter().any(|(a, b)| (a.as_str(), b.as_str()) == (verdict, what))
        };
        bridge.flood_nobody();
        let is_stopped = |(found, text): (Vec<(String, String)>, String)| {
            assert!(has(&found, "fine", "nack"), "{text}");
            let is_told = has(&found, "note", "querier") && text.contains("and no querier was heard");
            (is_told && has(&found, "wrong", "multicast")).then_some(())
        };
        assert!(is_stopped(bridge.doctor()).is_some(), "nobody asks, and nothing comes");
        bridge.ask();
        until("the group comes", || {
            let (found, _) = bridge.doctor();
            let is_well = has(&found, "fine", "querier") && has(&found, "fine", "advertised");
            (is_well && found.iter().all(|(verdict, _)| verdict != "wrong")).then_some(())
        });
        bridge.ask_no_more();
        until("the group is stopped again", || is_stopped(bridge.doctor()));
    });
}
