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
#[path = "backup/returns.rs"]
mod returns;
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
use nackcast_proto::wire::DatagramType;
use nackcast_testbed::fabric::Direction;
use nackcast_testbed::netns::with_namespaces;
use nackcast_testbed::process::{Process, Signal};

use crate::site::{
    GROUP_PORT, NACK_PORT, PATIENCE, Site, assert_ends, program, progress, receiver_name, until, with_others,
};
use crate::tree::{Tree, copy_tree, noise};

const MIB: usize = 1 << 20;
const RATE: [&str; 2] = ["--rate", "40mbit"];
/// A NACK cycle at its longest: two tries of 200 ms at each of two senders, and the widest window.
const CYCLE_MAX: Duration = Duration::from_millis(4800);

/// A primary's host, a backup's with a copy of the content, and receivers.
struct Pair {
    site: Site,
    tree: Tree,
    drain_limit: Duration,
}

impl Pair {
    fn new(receivers: usize) -> Self {
        Self::with(receivers, Duration::from_secs(3), 2 * MIB)
    }

    /// Senders that yield within `drain_limit`, and a last file of that length.
    fn with(receivers: usize, drain_limit: Duration, last: usize) -> Self {
        let site = Site::with_hosts(&["sender", "backup", "second", "observer"], receivers, 0.0);
        // More than eight blocks: their hashes are an object of their own, which a copied directory does not hold.
        std::fs::write(site.source().join("huge"), noise(50, 6 * MIB)).unwrap();
        for file in 0..4 {
            std::fs::write(site.source().join(format!("large-{file}")), noise(file, 2 * MIB)).unwrap();
        }
        std::fs::write(site.source().join("last"), noise(51, last)).unwrap();
        for file in 0..40 {
            std::fs::write(site.source().join(format!("small-{file}")), noise(100 + file, 10_000)).unwrap();
        }
        copy_tree(&site.source(), &site.path("copy"));
        let tree = Tree::read(&site.source());
        let pair = Self { site, tree, drain_limit };
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
        let limit = format!("{}ms", self.drain_limit.as_millis());
        self.site.send_with(&[&RATE[..], &["--peer", &backup, "--drain-limit", &limit]].concat(), environment)
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
        arguments.extend(["--interface", "eth0", "--json", "--progress-json"].map(Into::into));
        arguments.extend(["--drain-limit".into(), format!("{}ms", self.drain_limit.as_millis()).into()]);
        arguments.extend(RATE.map(Into::into));
        arguments.extend(more.iter().map(Into::into));
        self.site.start(host, arguments, &[])
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

    /// All receivers have everything, by multicast alone.
    fn assert_received(&self, receivers: &mut [Process]) {
        for (number, receiver) in (1..).zip(receivers) {
            assert_ends(receiver, 0);
            self.tree.assert_at(&self.site.target(number));
            let summary = site::summary(receiver);
            assert_eq!([&summary["pulled_bytes"], &summary["unicast_wanted"]], [0, 0], "{summary}");
        }
    }

    /// What a node's admin says to it must do.
    fn tell(&self, node: &str, verb: &str) {
        let mut tell = Command::new(program());
        let output = tell.args([verb, "--node"]).arg(self.site.state(node)).output().unwrap();
        assert!(output.status.success(), "{verb}: {output:?}");
    }

    /// NACKs that reached the backup.
    fn nacks_at_backup(&self) -> u64 {
        self.site.counters("backup", Direction::ToHost).datagrams.of(DatagramType::Nack).datagrams
    }

    /// A gRPC client that is not ours reads the backup's alert by reflection, where there is one: `.ci/run` brings it.
    fn third_party_reads(&self, kind: &str) {
        let Some(python) = std::env::var_os("GRPC_PYTHON") else { return };
        let mut client = Command::new(python);
        client.arg(concat!(env!("CARGO_MANIFEST_DIR"), "/../testbed/third-party/grpc_client.py")).arg("--alert");
        client.arg(format!("unix:{}", self.site.state("backup").join("admin.sock").display())).arg(kind);
        let output = client.output().unwrap();
        assert!(output.status.success(), "{output:?}");
        eprintln!("a client that is not ours: {}", String::from_utf8_lossy(&output.stdout).trim());
    }

    fn cut(&self, host: &str, other: &str, blocked: bool) {
        let fabric = self.site.network.fabric();
        fabric.partition(host, other, blocked).unwrap();
        fabric.partition(other, host, blocked).unwrap();
    }
}

/// Symbols that were heard: when, and of whom.
struct Heard(Vec<(Time, IpAddr)>);

impl Heard {
    /// Hears all symbols until `stop`.
    fn record(socket: &UdpSocket, clock: Clock, stop: &AtomicBool) -> Self {
        socket.set_read_timeout(Some(Duration::from_millis(100))).unwrap();
        let (mut heard, mut buffer) = (Vec::new(), [0; 2048]);
        while !stop.load(Ordering::Relaxed) {
            if let Ok((_, from)) = socket.recv_from(&mut buffer) {
                heard.push((clock.now(), from.ip()));
            }
        }
        Self(heard)
    }

    /// From the last symbol of one sender to the first of the other, if that sent any.
    fn gap(&self, first: IpAddr) -> Option<Duration> {
        let at = self.0.iter().position(|(_, from)| *from != first)?;
        let before = at.checked_sub(1).map(|before| self.0[before].0)?;
        Some(self.0[at].0.since(before))
    }

    /// Symbols that others sent after the last time that `first` began to send.
    fn after_return_of(&self, first: IpAddr) -> Option<usize> {
        let others_began = self.0.iter().position(|(_, from)| *from != first)?;
        let returned = others_began + self.0[others_began..].iter().position(|(_, from)| *from == first)?;
        Some(self.0[returned..].iter().filter(|(_, from)| *from != first).count())
    }
}

/// Does `work` while the observer records who sends symbols.
fn recorded(pair: &Pair, work: impl FnOnce()) -> Heard {
    let (socket, over) = (pair.site.listen(GROUP_PORT + 1), AtomicBool::new(false));
    std::thread::scope(|scope| {
        let heard = scope.spawn(|| Heard::record(&socket, Clock::start(), &over));
        work();
        over.store(true, Ordering::Relaxed);
        heard.join().unwrap()
    })
}

/// The primary stops at this share of the first pass; the backup must send the rest.
fn takes_over_at(percent: u64, stop: impl FnOnce(&mut Process)) {
    let pair = Pair::new(8);
    let (mut primary, mut backup, mut receivers) = pair.started(8);
    let heard = recorded(&pair, || {
        pair.site.until_sent(pair.tree.bytes() * percent / 100);
        stop(&mut primary);
        backup.wait_for_stderr("to=active", PATIENCE).unwrap();
        pair.until_alerted("role-changed");
        pair.assert_received(&mut receivers);
    });
    let gap = heard.gap(IpAddr::V4(pair.site.sender_addr())).expect("the backup sent symbols");
    let (sent, of_backup) = (pair.site.sent_bytes(), pair.backup_bytes());
    eprintln!(
        "stopped at {percent} %: {} ms from the primary's last symbol to the backup's first; the primary sent {sent} \
         bytes, the backup {of_backup}",
        gap.as_millis(),
    );
    assert!(of_backup >= pair.tree.bytes().saturating_sub(sent), "{of_backup} bytes of the backup, {sent} before");
    for sender in [&primary, &backup] {
        assert_eq!(progress(sender)["unicast_bytes"], 0, "{}", sender.name());
    }
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
    let _turn = with_others();
    with_namespaces(|| takes_over_at(25, kill));
}

#[test]
fn a_primary_killed_at_half_is_replaced() {
    let _turn = with_others();
    with_namespaces(|| takes_over_at(50, kill));
}

#[test]
fn a_primary_killed_near_the_end_is_replaced() {
    let _turn = with_others();
    with_namespaces(|| takes_over_at(95, kill));
}

#[test]
fn a_frozen_primary_is_replaced() {
    let _turn = with_others();
    with_namespaces(|| takes_over_at(50, |primary| primary.signal(Signal::SIGSTOP).unwrap()));
}

#[test]
fn receivers_that_reach_only_the_backup_are_an_alert_and_no_take_over() {
    let _turn = with_others();
    with_namespaces(|| {
        let pair = Pair::new(2);
        let (_primary, mut backup) = pair.serving();
        for receiver in 1..=2 {
            pair.cut(&receiver_name(receiver), "sender", true);
        }
        let before = pair.nacks_at_backup();
        let mut receivers: Vec<_> = (1..=2).map(|receiver| pair.site.receive(receiver, &[])).collect();
        until("two NACKs reached the backup", || pair.nacks_at_backup() >= before + 2);
        let clock = Clock::start();
        pair.until_alerted("backup-asked");
        let took = clock.now().since(Time::ZERO);
        eprintln!("the alert could be read {} ms after the second NACK", took.as_millis());
        assert!(took <= CYCLE_MAX, "{took:?}");
        backup.wait_for_stderr("network alert: receivers reach only this sender", PATIENCE).unwrap();
        pair.third_party_reads("backup-asked");
        assert!(!backup.stderr().contains("to=active"), "the primary serves\n{}", backup.tail());
        for receiver in 1..=2 {
            pair.cut(&receiver_name(receiver), "sender", false);
        }
        pair.assert_received(&mut receivers);
        assert!(!backup.stderr().contains("to=active"), "the primary serves\n{}", backup.tail());
    });
}
