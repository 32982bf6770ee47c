//! Strangers who speak QUIC, gRPC and HTTP and say anything: nothing breaks, nothing grows, and the transfer goes on.

#![expect(
    clippy::unwrap_used,
    clippy::print_stderr,
    reason = "a test that cannot go on has failed; what strangers cost is to be read"
)]

#[path = "hostile/quic.rs"]
mod quic;
#[path = "common/site.rs"]
#[expect(dead_code, reason = "other tests need the rest")]
mod site;
#[path = "hostile/tcp.rs"]
mod tcp;
#[path = "common/tree.rs"]
#[expect(dead_code, reason = "other tests need the rest")]
mod tree;

use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};

use nackcast_testbed::netns::with_namespaces;
use nackcast_testbed::process::{Process, Signal};

use crate::site::{PATIENCE, Site, alone, assert_ends, program, progress, until};
use crate::tree::{Tree, noise};

/// HTTP, from everywhere, and gRPC, from the sender's host only.
const HTTP_PORT: u16 = 9100;
const ADMIN_PORT: u16 = 7800;
/// What strangers may cost in memory: 64 QUIC connections with their windows, 256 of HTTP, 128 of gRPC.
const MEMORY_MAX: u64 = 96 << 20;
/// Descriptors that they may cost: connections of HTTP and gRPC, and files that are read.
const DESCRIPTORS_MAX: usize = 256 + 2 * 64 + 64;

/// Files that are read, and connections of those who belong here.
const DESCRIPTORS_LEFT: usize = 8;

/// The C library's allocator keeps places for each thread, which hide what is looked for.
const ONE_ARENA: [(&str, &str); 1] = [("MALLOC_ARENA_MAX", "1")];
/// An allocator's places fill in the first half of the rounds; a leak adds to every one.
const ROUNDS: usize = 6;
/// What the rounds of the second half may leave behind in all, after tens of thousands of strangers.
const LEAK_MAX: u64 = 16 << 20;

/// Bytes that look like nothing, always the same.
struct Dice {
    bytes: blake3::OutputReader,
}

impl Dice {
    fn new(seed: u64) -> Self {
        Self { bytes: blake3::Hasher::new().update(&seed.to_be_bytes()).finalize_xof() }
    }

    /// A number below this one.
    fn below(&mut self, end: usize) -> usize {
        let mut bytes = [0; 8];
        self.bytes.fill(&mut bytes);
        usize::try_from(u64::from_be_bytes(bytes) % end as u64).unwrap()
    }

    fn noise(&mut self, longest: usize) -> Vec<u8> {
        let mut noise = vec![0; self.below(longest + 1)];
        self.bytes.fill(&mut noise);
        noise
    }

    /// With some bytes changed, put in, or left out.
    fn mutate(&mut self, original: &[u8]) -> Vec<u8> {
        let mut bytes = original.to_vec();
        for _ in 0..=self.below(4) {
            let at = self.below(bytes.len() + 1);
            match self.below(4) {
                0 => bytes.truncate(at),
                1 => bytes.insert(at, at.to_le_bytes()[0]),
                _ => {
                    if let Some(byte) = bytes.get_mut(at) {
                        *byte ^= 1 << self.below(8);
                    }
                }
            }
        }
        bytes
    }
}

/// What the kernel says of a process's memory: the most so far (`VmHWM`), or now without what is a file's (`RssAnon`), in bytes.
fn memory(process: &Process, field: &str) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{}/status", process.id())).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix(field)).unwrap();
    line.trim_matches(':').trim().strip_suffix(" kB").unwrap().parse::<u64>().unwrap() * 1024
}

fn descriptors(process: &Process) -> usize {
    std::fs::read_dir(format!("/proc/{}/fd", process.id())).unwrap().count()
}

fn status_works(site: &Site, node: &str) -> bool {
    let output = Command::new(program()).args(["status", "--node"]).arg(site.state(node)).output().unwrap();
    output.status.success()
}

/// A channel of eight files.
fn site(receivers: usize) -> (Site, Tree) {
    let site = Site::new(receivers, 0.0);
    for file in 0..8 {
        std::fs::write(site.source().join(format!("file-{file}")), noise(file, 750_000)).unwrap();
    }
    let tree = Tree::read(&site.source());
    (site, tree)
}

/// Strangers say anything to `victim`, in each round while a receiver gets everything that `round` starts; in the end no
/// round leaves more behind.
fn attack(site: &Site, node: &str, victim: &mut Process, round: impl Fn(usize) -> Process) {
    // What an honest client costs is no stranger's doing.
    assert!(status_works(site, node));
    assert!(site.on_observer(|| quic::is_served(site, node)));
    let recorded = tcp::recorded_requests(site, node);
    let (before, open) = (memory(victim, "VmHWM"), descriptors(victim));
    let mut held = Vec::new();
    for number in 0..ROUNDS {
        let ends = AtomicBool::new(false);
        let mut receiver = round(number);
        let (said, most) = std::thread::scope(|scope| {
            let quic = scope.spawn(|| site.on_observer(|| quic::strangers(site, node, &ends)));
            let http = scope.spawn(|| site.on_observer(|| tcp::http(site, node, &ends)));
            let host = site.network.host(node);
            let grpc = scope.spawn(|| host.run(|| tcp::grpc(site, node, &recorded, &ends)).unwrap());
            let mut most = 0;
            until("the receiver has everything", || {
                most = most.max(descriptors(victim));
                receiver.try_wait().unwrap().is_some()
            });
            ends.store(true, Ordering::Relaxed);
            ([quic.join().unwrap(), http.join().unwrap(), grpc.join().unwrap()], most)
        });
        assert_ends(&mut receiver, 0);
        // Everybody who belongs here is served as before.
        until("admins are served", || status_works(site, node));
        until("members are served", || site.on_observer(|| quic::is_served(site, node)));
        let grown = memory(victim, "VmHWM").saturating_sub(before);
        // Those that stayed are gone, as far as the kernel knows.
        until("connections are closed", || descriptors(victim) <= open + DESCRIPTORS_LEFT);
        held.push(memory(victim, "RssAnon"));
        eprintln!(
            "{node}: QUIC, HTTP, gRPC: {said:?}; memory grew by {grown} of {before} bytes at most, {held:?} after that; \
             descriptors {open}, then {most}"
        );
        assert!(said.iter().all(|said| *said > 100), "{said:?}");
        assert!(grown < MEMORY_MAX, "{grown} bytes more than {before}");
        assert!(most < open + DESCRIPTORS_MAX, "{most} descriptors, {open} before");
    }
    let leaked = held[ROUNDS - 1].saturating_sub(held[ROUNDS / 2 - 1]);
    assert!(leaked < LEAK_MAX, "held after each round: {held:?}");
    victim.signal(Signal::SIGTERM).unwrap();
    assert_eq!(victim.wait(PATIENCE).unwrap().code(), Some(0), "{}", victim.tail());
    assert!(!victim.stderr().contains("panicked"), "{}", victim.tail());
}

fn ports() -> [String; 2] {
    [format!("0.0.0.0:{HTTP_PORT}"), format!("127.0.0.1:{ADMIN_PORT}")]
}

#[test]
fn whatever_strangers_say_to_a_sender_the_transfer_goes_on() {
    let _alone = alone();
    with_namespaces(|| {
        let (site, tree) = site(ROUNDS);
        let [http, admin] = ports();
        let mut sender = site.send_with(&["--rate", "20mbit", "--http", &http, "--admin", &admin], &ONE_ARENA);
        until("the manifest is served", || progress(&sender)["generation"].as_u64().unwrap_or(0) > 0);
        attack(&site, "sender", &mut sender, |round| site.receive(round + 1, &[]));
        (1..=2).for_each(|receiver| tree.assert_at(&site.target(receiver)));
    });
}

/// No sender is left: others get everything from one receiver, which strangers found.
#[test]
fn whatever_strangers_say_to_a_receiver_it_serves_its_peers() {
    let _alone = alone();
    with_namespaces(|| {
        let (site, tree) = site(ROUNDS + 1);
        let ([http, admin], from) = (ports(), site.peer(1));
        let more = ["--serve-peers", "--unicast-rate", "40mbit", "--http", &http, "--admin", &admin];
        let mut first = site.receive_with(1, &more, &ONE_ARENA);
        let mut sender = site.send(&[]);
        until("the first receiver is complete", || progress(&first)["state"] == "complete");
        sender.kill9().unwrap();
        attack(&site, "receiver-1", &mut first, |round| site.receive(round + 2, &["--source", &from]));
        (1..=3).for_each(|receiver| tree.assert_at(&site.target(receiver)));
    });
}
