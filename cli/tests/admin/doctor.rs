//! `nackcast doctor`, in networks that have the faults that it is to find.

use nackcast_testbed::fabric::{Direction, Link};
use nackcast_testbed::netns::with_namespaces;
use serde_json::Value;

use crate::stage::{Stage, alone, end};

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
fn forbid(stage: &Stage, host: &str, hook: &str, rule: &str) {
    let table =
        format!("add table inet doctor; add chain inet doctor {hook} {{ type filter hook {hook} priority 0; }}; ");
    stage.must(host, "nft", &[&format!("{table} add rule inet doctor {hook} {rule} drop")]);
}

fn allow(stage: &Stage, host: &str) {
    stage.must(host, "nft", &["delete table inet doctor"]);
}

fn set(stage: &Stage, host: &str, setting: &str, value: &str) {
    stage.must(host, "sh", &["-c", &format!("echo {value} > /proc/sys/net/ipv4/{setting}")]);
}

#[test]
fn what_keeps_a_receiver_from_hearing_is_found() {
    let _alone = alone();
    with_namespaces(|| {
        let stage = Stage::new();
        let nacks = format!("{}:7701", stage.address("sender"));
        let mut sender = stage.send(&[]);
        stage.until_channel("sender", "it serves", |channel| channel["state"] == "idle");
        let (code, fine, text) = found(&stage, "receiver", "fine", &[]);
        for what in ["interface", "advertised", "nack", "way"] {
            assert!(fine.iter().any(|found| found == what), "{what}: {text}");
        }
        assert_eq!(code, Some(0), "{text}");

        assert_wrong(&stage, "receiver", "interface", &["--interface", "eth9"]);
        assert_wrong(&stage, "receiver", "wrong-interface", &["--interface", "lo"]);
        forbid(&stage, "receiver", "input", &format!("ip daddr {GROUP} udp dport 7600"));
        assert_wrong(&stage, "receiver", "firewall", &["--to", &nacks]);
        allow(&stage, "receiver");
        forbid(&stage, "sender", "input", "udp dport 7701");
        assert_wrong(&stage, "receiver", "nack", &[]);
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
        end(&mut sender);
    });
}

#[test]
fn links_that_are_too_small_and_hops_that_are_too_few_are_found() {
    let _alone = alone();
    with_namespaces(|| {
        let stage = Stage::new();
        let receiver = format!("{}:7701", stage.address("receiver"));
        let (code, fine, text) = found(&stage, "sender", "fine", &["--to", &receiver]);
        assert!(code == Some(0) && fine.iter().any(|found| found == "way"), "{text}");
        // Somewhere on the way long packets vanish.
        let narrow = Link { mtu: 1000, ..Link::default() };
        stage.fabric().set_link("receiver", Direction::ToHost, narrow).unwrap();
        assert_wrong(&stage, "sender", "mtu", &["--to", &receiver]);
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
    let _alone = alone();
    with_namespaces(|| {
        let stage = Stage::new();
        let mut sender = stage.send(&[]);
        stage.until_channel("sender", "it serves", |channel| channel["state"] == "idle");
        let (_, noted, text) = found(&stage, "sender", "note", &[]);
        assert!(noted.iter().any(|found| found == "port"), "{text}");
        stage.another_ticket();
        assert_wrong(&stage, "receiver", "ticket", &[]);
        end(&mut sender);
    });
}
