//! Strangers who speak QUIC, gRPC and HTTP and say anything: nothing breaks, nothing grows, and the transfer goes on.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

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

/// The most memory that a process had so far, in bytes.
fn peak(process: &Process) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{}/status", process.id())).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
    line.trim().strip_suffix(" kB").unwrap().parse::<u64>().unwrap() * 1024
}

fn descriptors(process: &Process) -> usize {
    std::fs::read_dir(format!("/proc/{}/fd", process.id())).unwrap().count()
}

fn status_works(site: &Site) -> bool {
    let output = Command::new(program()).args(["status", "--node"]).arg(site.state("sender")).output().unwrap();
    output.status.success()
}

#[test]
fn whatever_strangers_say_on_quic_grpc_and_http_the_transfer_goes_on() {
    let _alone = alone();
    with_namespaces(|| {
        let site = Site::new(1, 0.0);
        for file in 0..8 {
            std::fs::write(site.source().join(format!("file-{file}")), noise(file, 3_000_000)).unwrap();
        }
        let tree = Tree::read(&site.source());
        let (http, admin) = (format!("0.0.0.0:{HTTP_PORT}"), format!("127.0.0.1:{ADMIN_PORT}"));
        let mut sender = site.send(&["--rate", "20mbit", "--http", &http, "--admin", &admin]);
        until("the manifest is served", || progress(&sender)["generation"].as_u64().unwrap_or(0) > 0);
        // What an honest client costs is no stranger's doing.
        assert!(status_works(&site));
        assert!(site.on_observer(|| quic::is_served(&site)));
        let recorded = tcp::recorded_requests(&site);
        let (memory, open) = (peak(&sender), descriptors(&sender));

        let ends = AtomicBool::new(false);
        let mut receiver = site.receive(1, &[]);
        let (said, most) = std::thread::scope(|scope| {
            let quic = scope.spawn(|| site.on_observer(|| quic::strangers(&site, &ends)));
            let http = scope.spawn(|| site.on_observer(|| tcp::http(&site, &ends)));
            let grpc = scope.spawn(|| site.network.host("sender").run(|| tcp::grpc(&site, &recorded, &ends)).unwrap());
            let mut most = 0;
            until("the receiver has everything", || {
                most = most.max(descriptors(&sender));
                receiver.try_wait().unwrap().is_some()
            });
            ends.store(true, Ordering::Relaxed);
            ([quic.join().unwrap(), http.join().unwrap(), grpc.join().unwrap()], most)
        });
        assert_ends(&mut receiver, 0);
        tree.assert_at(&site.target(1));
        let grown = peak(&sender).saturating_sub(memory);
        eprintln!(
            "QUIC, HTTP, gRPC: {said:?}; memory grew by {grown} of {memory} bytes; descriptors {open}, then {most}"
        );
        assert!(said.iter().all(|said| *said > 100), "{said:?}");
        assert!(grown < MEMORY_MAX, "{grown} bytes more than {memory}");
        assert!(most < open + DESCRIPTORS_MAX, "{most} descriptors, {open} before");
        // And everybody who belongs here is served as before.
        until("admins are served", || status_works(&site));
        until("members are served", || site.on_observer(|| quic::is_served(&site)));
        sender.signal(Signal::SIGTERM).unwrap();
        assert_eq!(sender.wait(PATIENCE).unwrap().code(), Some(0), "{}", sender.tail());
        assert!(!sender.stderr().contains("panicked"), "{}", sender.tail());
    });
}
