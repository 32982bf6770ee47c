//! A network of hosts with one channel: one sender, receivers, and an observer that only listens.
//!
//! - Nodes are processes of the real program; what they say is kept and quoted when a test fails.
//! - What crossed a cable is asked of the fabric, never of the nodes.

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, SocketAddrV4, UdpSocket};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use nackcast_common::clock::{Clock, Time};
use nackcast_common::store::Store;
use nackcast_testbed::fabric::{Counters, Direction, Link};
use nackcast_testbed::network::Network;
use nackcast_testbed::process::Process;
use serde_json::Value;
use tempfile::TempDir;

#[path = "turn.rs"]
mod turn;
#[allow(unused_imports, reason = "tests that measure, or keep the machine busy, run alone")]
pub(crate) use turn::with_others;

/// Long enough for a busy machine: nothing here is judged by the clock.
pub(crate) const PATIENCE: Duration = Duration::from_secs(240);
/// How often something is looked at that tells nobody when it changes.
const LOOK: Duration = Duration::from_millis(5);
const SEED: u64 = 2;
const GROUP: Ipv4Addr = Ipv4Addr::new(239, 192, 7, 7);
pub(crate) const GROUP_PORT: u16 = 7600;
pub(crate) const NACK_PORT: u16 = 7701;
/// What tests send with, in bits per second.
const RATE: u64 = 200_000_000;
/// Bytes of one second at that rate, headers included.
pub(crate) const ONE_SECOND: u64 = RATE / 8;
/// Bytes on the sender's cable for each byte of content: a symbol of 1,400 bytes is a frame of 1,492.
pub(crate) const FRAMING: f64 = 1492.0 / 1400.0;

/// Processes of several tests at once would only wait for each other.
#[allow(dead_code, reason = "tests that mostly wait run beside others")]
pub(crate) fn alone() -> MutexGuard<'static, ()> {
    static ALONE: Mutex<()> = Mutex::new(());
    ALONE.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Waits until `done`; `what` is for the failure.
pub(crate) fn until(what: &str, mut done: impl FnMut() -> bool) {
    let clock = Clock::start();
    while !done() {
        assert!(clock.now().since(Time::ZERO) < PATIENCE, "waited in vain until {what}");
        // Counters and logs wake nobody.
        std::thread::park_timeout(LOOK);
    }
}

/// The network, the channel and where everything lies.
pub(crate) struct Site {
    pub(crate) network: Network,
    place: TempDir,
}

impl Site {
    /// A site with so many receivers, `receiver-1` and so on, that lose this share of what is sent to them.
    pub(crate) fn new(receivers: usize, loss: f64) -> Self {
        Self::with_hosts(&["sender", "observer"], receivers, loss)
    }

    /// The same with these hosts beside the receivers.
    pub(crate) fn with_hosts(hosts: &[&str], receivers: usize, loss: f64) -> Self {
        let names: Vec<String> = (1..=receivers).map(receiver_name).collect();
        let hosts: Vec<&str> = hosts.iter().copied().chain(names.iter().map(String::as_str)).collect();
        let network = Network::build(&hosts, SEED).unwrap();
        for name in &names {
            network.fabric().set_link(name, Direction::ToHost, Link { loss, ..Link::default() }).unwrap();
        }
        let mut place = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
        // For whoever wants to read all logs of a test.
        place.disable_cleanup(std::env::var_os("NACKCAST_TEST_KEEP").is_some());
        std::fs::create_dir(place.path().join("source")).unwrap();
        let site = Self { network, place };
        let mut new = Command::new(program());
        new.args(["channel", "new", "site", "--sender", &format!("{}:{NACK_PORT}", site.sender_addr())]);
        new.args(["--advertise", &format!("{GROUP}:{GROUP_PORT}")]).arg("--out").arg(site.path("site.key"));
        let made = new.output().unwrap();
        assert!(made.status.success(), "{made:?}");
        site
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.place.path().join(name)
    }

    /// What is sent.
    pub(crate) fn source(&self) -> PathBuf {
        self.path("source")
    }

    /// Where a receiver installs.
    pub(crate) fn target(&self, receiver: usize) -> PathBuf {
        self.path(&receiver_name(receiver))
    }

    pub(crate) fn state(&self, node: &str) -> PathBuf {
        self.path("state").join(node)
    }

    pub(crate) fn sender_addr(&self) -> Ipv4Addr {
        self.network.host("sender").addr_v4()
    }

    /// Starts a node with more in its environment.
    pub(crate) fn start(&self, name: &str, arguments: Vec<std::ffi::OsString>, more: &[(&str, &str)]) -> Process {
        let (host, environment) = (self.network.host(name), [&[("RUST_LOG", "nackcast=info")], more].concat());
        Process::spawn(host, name, program(), arguments, &environment, self.place.path()).unwrap()
    }

    /// Starts the sender on its state.
    pub(crate) fn send(&self, more: &[&str]) -> Process {
        self.send_with(more, &[])
    }

    /// The same with more in its environment.
    pub(crate) fn send_with(&self, more: &[&str], environment: &[(&str, &str)]) -> Process {
        let mut source = self.path("site.key").into_os_string();
        source.push("=");
        source.push(self.source());
        let mut arguments = vec!["send".into(), "--channel".into(), source];
        arguments.extend(["--state".into(), self.state("sender").into_os_string()]);
        arguments.extend(["--interface", "eth0", "--no-watch", "--json", "--progress-json"].map(Into::into));
        if !more.contains(&"--rate") {
            arguments.extend(["--rate".into(), format!("{}mbit", RATE / 1_000_000).into()]);
        }
        arguments.extend(more.iter().map(Into::into));
        self.start("sender", arguments, environment)
    }

    /// Starts a receiver on its state, which ends when it has everything.
    pub(crate) fn receive(&self, receiver: usize, more: &[&str]) -> Process {
        self.receive_on(receiver, &[&["--once"], more].concat())
    }

    /// Starts a receiver on its state, which goes on.
    pub(crate) fn receive_on(&self, receiver: usize, more: &[&str]) -> Process {
        self.receive_with(receiver, more, &[])
    }

    /// The same with more in its environment.
    pub(crate) fn receive_with(&self, receiver: usize, more: &[&str], environment: &[(&str, &str)]) -> Process {
        let name = receiver_name(receiver);
        let ticket = format!("@{}", self.path("site.ticket").display());
        let mut arguments = vec!["receive".into(), "--ticket".into(), ticket.into(), "--into".into()];
        arguments.extend([self.target(receiver).into_os_string(), "--state".into(), self.state(&name).into()]);
        arguments.extend(["--interface", "eth0", "--json", "--progress-json"].map(Into::into));
        arguments.extend(more.iter().map(Into::into));
        self.start(&name, arguments, environment)
    }

    /// Where a receiver can be found that serves others.
    #[allow(dead_code, reason = "for the tests of the pull")]
    pub(crate) fn peer(&self, receiver: usize) -> String {
        format!("{}:{NACK_PORT}", self.network.host(&receiver_name(receiver)).addr_v4())
    }

    /// Changes what a receiver's cable does to what is sent to it.
    #[allow(dead_code, reason = "for the tests of the pull")]
    pub(crate) fn set_link(&self, receiver: usize, link: Link) {
        self.network.fabric().set_link(&receiver_name(receiver), Direction::ToHost, link).unwrap();
    }

    /// Does something on the observer's host.
    #[allow(dead_code, reason = "for the tests of the pull")]
    pub(crate) fn on_observer<T: Send>(&self, work: impl FnOnce() -> T + Send) -> T {
        self.network.host("observer").run(work).unwrap()
    }

    /// Where the sender serves QUIC.
    #[allow(dead_code, reason = "for the tests of the pull")]
    pub(crate) fn quic(&self) -> SocketAddrV4 {
        SocketAddrV4::new(self.sender_addr(), NACK_PORT + 1)
    }

    /// What the sender's cable took so far.
    pub(crate) fn sent(&self) -> Counters {
        self.counters("sender", Direction::FromHost)
    }

    /// What a receiver's cable delivered so far.
    pub(crate) fn given(&self, receiver: usize) -> Counters {
        self.counters(&receiver_name(receiver), Direction::ToHost)
    }

    /// Datagrams that a receiver's program was too slow to take from its sockets: loss that nobody asked for.
    pub(crate) fn overflowed(&self, receiver: usize) -> u64 {
        self.network.host(&receiver_name(receiver)).overflows().unwrap()
    }

    pub(crate) fn counters(&self, host: &str, direction: Direction) -> Counters {
        let counters = self.network.fabric().counters(host, direction).unwrap();
        assert_eq!(counters.dropped_by_machine, 0, "this machine is too slow to count bytes on {host}");
        counters
    }

    /// Multicast bytes that the sender sent so far, from the Ethernet header on.
    pub(crate) fn sent_bytes(&self) -> u64 {
        self.sent().multicast_udp.bytes
    }

    /// Waits until the sender has sent so much.
    pub(crate) fn until_sent(&self, bytes: u64) {
        until(&format!("{bytes} bytes are sent"), || self.sent_bytes() >= bytes);
    }

    /// A socket on the observer's host that hears one of the channel's groups.
    pub(crate) fn listen(&self, port: u16) -> UdpSocket {
        let observer = self.network.host("observer");
        let bind = || {
            let socket = UdpSocket::bind(SocketAddrV4::new(GROUP, port)).unwrap();
            socket.join_multicast_v4(&GROUP, &observer.addr_v4()).unwrap();
            socket
        };
        observer.run(bind).unwrap()
    }

    /// Hears data: shows that the observer would notice.
    pub(crate) fn assert_sends_data(&self) {
        let data = self.listen(GROUP_PORT + 1);
        data.set_read_timeout(Some(PATIENCE)).unwrap();
        assert!(data.recv(&mut [0; 2048]).unwrap() > 1400);
    }

    /// Hears `advertisements` more of them and fails if the sender sent anything else meanwhile.
    pub(crate) fn assert_sends_no_data_during(&self, advertisements: usize) {
        let (control, data) = (self.listen(GROUP_PORT), self.listen(GROUP_PORT + 1));
        control.set_read_timeout(Some(PATIENCE)).unwrap();
        data.set_nonblocking(true).unwrap();
        for _ in 0..advertisements {
            control.recv(&mut [0; 2048]).unwrap();
            let heard = data.recv(&mut [0; 2048]);
            assert!(heard.is_err(), "the sender sent data that nobody asked for");
        }
    }

    /// Pass counts as the sender keeps them, by object; the sender must not run.
    pub(crate) fn pass_counts(&self) -> BTreeMap<Vec<u8>, u32> {
        let (store, warning) = Store::open(&self.state("sender").join("store")).unwrap();
        assert_eq!(warning, None);
        let pair = |(key, value): (Vec<u8>, Vec<u8>)| (key, u32::from_be_bytes(value[..4].try_into().unwrap()));
        store.tree("passes").unwrap().iter().map(|kept| pair(kept.unwrap())).collect()
    }
}

pub(crate) fn receiver_name(number: impl std::fmt::Display) -> String {
    format!("receiver-{number}")
}

pub(crate) fn program() -> &'static Path {
    Path::new(env!("CARGO_BIN_EXE_nackcast"))
}

/// The last line of this kind that a node printed: its first (and only) channel.
fn channel_of(process: &Process, is_progress: bool) -> Option<Value> {
    let lines: Vec<Value> = process.stdout().lines().filter_map(|line| serde_json::from_str(line).ok()).collect();
    let found = lines.into_iter().rfind(|line| (line["event"] == "progress") == is_progress)?;
    Some(found["channels"][0].clone())
}

/// What a node last said of its channel while it ran.
pub(crate) fn progress(process: &Process) -> Value {
    channel_of(process, true).unwrap_or_default()
}

/// What a node said of its channel when it ended.
pub(crate) fn summary(process: &Process) -> Value {
    channel_of(process, false).unwrap_or_else(|| panic!("{} printed no summary\n{}", process.name(), process.tail()))
}

/// Waits until a sender has nothing to do.
pub(crate) fn until_idle(sender: &mut Process) {
    until("the sender is idle", || {
        assert_eq!(sender.try_wait().unwrap(), None, "the sender ended\n{}", sender.tail());
        progress(sender)["state"] == "idle"
    });
}

/// Waits for a node's end and its exit code.
pub(crate) fn assert_ends(process: &mut Process, code: i32) {
    let status = process.wait(PATIENCE).unwrap();
    assert_eq!(status.code(), Some(code), "{} ended with {status}\n{}", process.name(), process.tail());
}
