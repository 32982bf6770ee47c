//! A primary and a backup, real processes in a network of namespaces: killed, frozen, cut off, and back again.
//!
//! Judged by what arrives, by who sends on the cables, and by what the nodes say; never by the clock. The gap between
//! the last symbol of the primary and the first of the backup is measured and printed.

#![expect(
    clippy::unwrap_used,
    clippy::print_stderr,
    reason = "a test that cannot go on has failed; the gap is to be read"
)]

#[path = "backup/paths.rs"]
mod paths;
#[allow(dead_code, reason = "made for several tests, of which each takes what it needs")]
#[path = "common/site.rs"]
mod site;
#[allow(dead_code, reason = "made for several tests, of which each takes what it needs")]
#[path = "common/tree.rs"]
mod tree;
#[path = "backup/trouble.rs"]
mod trouble;

use std::net::{IpAddr, UdpSocket};
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use nackcast_common::clock::{Clock, Time};
use nackcast_testbed::fabric::Direction;
use nackcast_testbed::netns::with_namespaces;
use nackcast_testbed::process::{Process, Signal};

use crate::site::{GROUP_PORT, NACK_PORT, PATIENCE, Site, assert_ends, program, receiver_name, until, with_another};
use crate::tree::{Tree, copy_tree, noise};

const MIB: usize = 1 << 20;
const RATE: [&str; 2] = ["--rate", "40mbit"];

/// A primary's host, a backup's with a copy of the content, and receivers.
struct Pair {
    site: Site,
    tree: Tree,
}

impl Pair {
    fn new(receivers: usize) -> Self {
        let site = Site::with_hosts(&["sender", "backup", "second", "observer"], receivers, 0.0);
        for file in 0..8 {
            std::fs::write(site.source().join(format!("large-{file}")), noise(file, 2 * MIB)).unwrap();
        }
        for file in 0..40 {
            std::fs::write(site.source().join(format!("small-{file}")), noise(100 + file, 10_000)).unwrap();
        }
        copy_tree(&site.source(), &site.path("copy"));
        let tree = Tree::read(&site.source());
        let pair = Self { site, tree };
        pair.delegate("backup.key");
        pair
    }

    /// Makes a key file that may serve.
    fn delegate(&self, name: &str) {
        let mut delegate = Command::new(program());
        let key = self.site.path("site.key");
        delegate.args(["channel", "delegate"]).arg(key).arg("--out").arg(self.site.path(name));
        assert!(delegate.output().unwrap().status.success());
    }

    fn primary(&self) -> Process {
        self.primary_with(&[])
    }

    fn primary_with(&self, environment: &[(&str, &str)]) -> Process {
        let backup = format!("{}:{NACK_PORT}", self.site.network.host("backup").addr_v4());
        self.site.send_with(&[&RATE[..], &["--peer", &backup, "--drain-limit", "3s"]].concat(), environment)
    }

    /// A primary that sent everything once, and a backup that receives.
    fn serving(&self) -> (Process, Process) {
        let mut backup = self.backup();
        backup.wait_for_stderr("receiving on interface", PATIENCE).unwrap();
        let mut primary = self.primary();
        primary.wait_for_stderr("first pass over", PATIENCE).unwrap();
        (primary, backup)
    }

    fn backup(&self) -> Process {
        self.standby("backup", ["backup.key", "copy"], &[])
    }

    /// A backup on this host, with this key and this content.
    fn standby(&self, host: &str, [key, copy]: [&str; 2], more: &[&str]) -> Process {
        let mut source = self.site.path(key).into_os_string();
        source.push("=");
        source.push(self.site.path(copy));
        let peer = format!("{}:{NACK_PORT}", self.site.sender_addr());
        let mut arguments = vec!["standby".into(), "--channel".into(), source];
        arguments.extend(["--state".into(), self.site.state(host).into_os_string()]);
        arguments.extend(["--peer".into(), peer.into()]);
        arguments.extend(["--interface", "eth0", "--json", "--progress-json", "--drain-limit", "3s"].map(Into::into));
        arguments.extend(RATE.map(Into::into));
        arguments.extend(more.iter().map(Into::into));
        self.site.start(host, arguments)
    }

    /// Backup and primary run, the backup has the manifest, and receivers wait for more.
    fn started(&self, receivers: usize) -> (Process, Process, Vec<Process>) {
        let mut backup = self.backup();
        backup.wait_for_stderr("receiving on interface", PATIENCE).unwrap();
        let receivers: Vec<_> = (1..=receivers).map(|receiver| self.site.receive(receiver, &[])).collect();
        let primary = self.primary();
        backup.wait_for_stderr("to=standby", PATIENCE).unwrap();
        (primary, backup, receivers)
    }

    /// The backup's admin hears of an alert of this kind.
    fn until_alerted(&self, kind: &str) {
        self.until_alerted_at("backup", kind);
    }

    /// What a node says when it is asked so.
    fn ask(&self, node: &str, verb: &str) -> serde_json::Value {
        let mut ask = Command::new(program());
        let output = ask.args([verb, "--json", "--node"]).arg(self.site.state(node)).output().unwrap();
        serde_json::from_slice(&output.stdout).unwrap_or_else(|_| panic!("{verb}: {output:?}"))
    }

    /// The same of another node.
    fn until_alerted_at(&self, node: &str, kind: &str) {
        let mut ask = Command::new(program());
        ask.args(["alerts", "--json", "--node"]).arg(self.site.state(node));
        let mut said = move || String::from_utf8_lossy(&ask.output().unwrap().stdout).contains(&format!("\"{kind}\""));
        until(&format!("{kind} is an alert"), &mut said);
    }

    fn backup_bytes(&self) -> u64 {
        self.bytes_of("backup")
    }

    fn bytes_of(&self, host: &str) -> u64 {
        self.site.counters(host, Direction::FromHost).multicast_udp.bytes
    }

    fn assert_received(&self, receivers: &mut [Process]) {
        for (number, receiver) in (1..).zip(receivers) {
            assert_ends(receiver, 0);
            self.tree.assert_at(&self.site.target(number));
            let summary = site::summary(receiver);
            assert_eq!(summary["unicast_wanted"], 0, "{summary}");
        }
    }

    fn cut(&self, host: &str, other: &str, blocked: bool) {
        let fabric = self.site.network.fabric();
        fabric.partition(host, other, blocked).unwrap();
        fabric.partition(other, host, blocked).unwrap();
    }
}

/// When who sent symbols: the longest time between two of them, of different senders.
struct Gap {
    last_of_first: Time,
    first_of_second: Option<Time>,
}

/// Hears data until `stop`, or the second sender.
fn watch(socket: &UdpSocket, first: IpAddr, clock: Clock, stop: &AtomicBool) -> Gap {
    socket.set_read_timeout(Some(Duration::from_millis(100))).unwrap();
    let mut gap = Gap { last_of_first: Time::ZERO, first_of_second: None };
    let mut buffer = [0; 2048];
    while gap.first_of_second.is_none() && !stop.load(Ordering::Relaxed) {
        if let Ok((_, from)) = socket.recv_from(&mut buffer) {
            if from.ip() == first {
                gap.last_of_first = clock.now();
            } else {
                gap.first_of_second = Some(clock.now());
            }
        }
    }
    gap
}

/// The primary stops at this share of the first pass; the backup must send the rest.
fn takes_over_at(percent: u64, stop: impl FnOnce(&mut Process)) {
    let pair = Pair::new(8);
    let (mut primary, mut backup, mut receivers) = pair.started(8);
    let socket = pair.site.listen(GROUP_PORT + 1);
    let (clock, over) = (Clock::start(), AtomicBool::new(false));
    let first = IpAddr::V4(pair.site.sender_addr());
    let gap = std::thread::scope(|scope| {
        let watched = scope.spawn(|| watch(&socket, first, clock, &over));
        pair.site.until_sent(pair.tree.bytes() * percent / 100);
        stop(&mut primary);
        backup.wait_for_stderr("to=active", PATIENCE).unwrap();
        pair.until_alerted("role-changed");
        pair.assert_received(&mut receivers);
        over.store(true, Ordering::Relaxed);
        watched.join().unwrap()
    });
    let at = gap.first_of_second.expect("the backup sent symbols");
    eprintln!(
        "stopped at {percent} %: {} ms from the primary's last symbol to the backup's first; the primary sent {} bytes, the backup {}",
        at.since(gap.last_of_first).as_millis(),
        pair.site.sent_bytes(),
        pair.backup_bytes(),
    );
}

fn kill(primary: &mut Process) {
    primary.kill9().unwrap();
}

/// The states of the role machine that a sender told, in order.
fn states(process: &Process) -> Vec<String> {
    let word = |line: &str| line.split("to=").nth(1)?.split_whitespace().next().map(ToOwned::to_owned);
    process.stderr().lines().filter_map(word).collect()
}

#[test]
fn a_primary_killed_at_a_quarter_is_replaced() {
    let _turn = with_another();
    with_namespaces(|| takes_over_at(25, kill));
}

#[test]
fn a_primary_killed_at_half_is_replaced() {
    let _turn = with_another();
    with_namespaces(|| takes_over_at(50, kill));
}

#[test]
fn a_primary_killed_near_the_end_is_replaced() {
    let _turn = with_another();
    with_namespaces(|| takes_over_at(95, kill));
}

#[test]
fn a_frozen_primary_is_replaced() {
    let _turn = with_another();
    with_namespaces(|| takes_over_at(50, |primary| primary.signal(Signal::SIGSTOP).unwrap()));
}

#[test]
fn a_primary_that_returns_has_the_channel_again() {
    let _turn = with_another();
    with_namespaces(|| {
        let pair = Pair::new(2);
        let (mut primary, mut backup, mut receivers) = pair.started(2);
        pair.site.until_sent(pair.tree.bytes() / 4);
        primary.kill9().unwrap();
        backup.wait_for_stderr("to=active", PATIENCE).unwrap();
        until("the backup sends", || pair.backup_bytes() > MIB as u64);
        let mut primary = pair.primary();
        primary.wait_for_stderr("to=active", PATIENCE).unwrap();
        let states = states(&backup);
        assert!(states.iter().any(|state| state.starts_with("draining")), "it was handed over: {states:?}");
        backup.wait_for_stderr("what was sent is finished", PATIENCE).unwrap();
        pair.assert_received(&mut receivers);
        // It follows, whatever its admin says.
        let mut publish = Command::new(program());
        let refused = publish.args(["publish", "--node"]).arg(pair.site.state("backup")).output().unwrap();
        let said = String::from_utf8_lossy(&refused.stderr);
        assert!(refused.status.code() == Some(1) && said.contains("publish at the primary"), "{refused:?}");
        let row = &pair.ask("backup", "status")["channels"][0];
        assert_eq!([&row["sender_role"], &row["role_state"]], ["backup", "standby"], "{row}");
        let primary = format!("{}:{NACK_PORT}", pair.site.sender_addr());
        until("it says who serves", || pair.ask("backup", "status")["channels"][0]["served_by"] == primary);
    });
}

#[test]
fn receivers_that_reach_only_the_backup_are_an_alert_and_no_take_over() {
    let _turn = with_another();
    with_namespaces(|| {
        let pair = Pair::new(2);
        let (_primary, mut backup) = pair.serving();
        for receiver in 1..=2 {
            pair.cut(&receiver_name(receiver), "sender", true);
        }
        let mut receivers: Vec<_> = (1..=2).map(|receiver| pair.site.receive(receiver, &[])).collect();
        backup.wait_for_stderr("network alert: receivers reach only this sender", PATIENCE).unwrap();
        pair.until_alerted("backup-asked");
        assert!(!backup.stderr().contains("to=active"), "the primary serves\n{}", backup.tail());
        for receiver in 1..=2 {
            pair.cut(&receiver_name(receiver), "sender", false);
        }
        pair.assert_received(&mut receivers);
        assert!(!backup.stderr().contains("to=active"), "the primary serves\n{}", backup.tail());
    });
}
