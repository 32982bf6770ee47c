//! One sender, some receivers, each a real process on a host of its own, and a directory that holds all they use.

use std::fs::OpenOptions;
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::process::Output;
use std::time::Duration;

use nackcast_common::clock::{Clock, Time};
use nackcast_testbed::fabric::{Direction, Link};
use nackcast_testbed::network::{Host, Network};
use nackcast_testbed::process::{Process, Signal};
use tempfile::TempDir;

use crate::tree::{self, Tree};

/// Generous: other tests share two cores.
pub(crate) const PATIENCE: Duration = Duration::from_secs(90);
/// What the channel's ticket says; content goes to the next port.
pub(crate) const GROUP: &str = "239.192.7.7:7600";
pub(crate) const SENDER: &str = "sender";
/// Where the sender hears NACKs: it is the first host.
pub(crate) const NACK_PORT: &str = "10.77.0.1:7701";
const PROGRAM: &str = env!("CARGO_BIN_EXE_nackcast");

/// A network, and the files of its hosts.
pub(crate) struct Stage {
    pub(crate) network: Network,
    directory: TempDir,
}

impl Stage {
    /// A sender and these other hosts, each of which loses `loss` of what it is sent; a channel called `news`.
    pub(crate) fn new(others: &[&str], loss: f64) -> Self {
        let names: Vec<&str> = std::iter::once(SENDER).chain(others.iter().copied()).collect();
        let network = Network::build(&names, 5).unwrap();
        for host in others {
            network.fabric().set_link(host, Direction::ToHost, Link::lossy(loss)).unwrap();
        }
        let stage = Self { network, directory: tempfile::tempdir().unwrap() };
        std::fs::create_dir(stage.source()).unwrap();
        std::fs::create_dir(stage.path("logs")).unwrap();
        stage.channel("news");
        stage
    }

    /// Makes `NAME.key` and `NAME.ticket`; every channel has the same group.
    pub(crate) fn channel(&self, name: &str) {
        let made = self.run(&["channel", "new", name, "--advertise", GROUP, "--sender", NACK_PORT]);
        assert!(made.status.success(), "{made:?}");
    }

    /// Writes a key file.
    pub(crate) fn forge(&self, name: &str, text: &str) {
        let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(self.path(name)).unwrap();
        file.write_all(text.as_bytes()).unwrap();
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    pub(crate) fn source(&self) -> PathBuf {
        self.path("source")
    }

    pub(crate) fn target(&self, receiver: &str) -> PathBuf {
        self.path(receiver)
    }

    pub(crate) fn state(&self, node: &str) -> PathBuf {
        self.path(&format!("state-{node}"))
    }

    pub(crate) fn host(&self, name: &str) -> &Host {
        self.network.host(name)
    }

    /// Runs the program on the sender's host until it ends.
    pub(crate) fn run(&self, arguments: &[&str]) -> Output {
        self.run_on(SENDER, arguments)
    }

    /// Runs the program on a host until it ends.
    pub(crate) fn run_on(&self, host: &str, arguments: &[&str]) -> Output {
        let mut command = self.host(host).command(PROGRAM);
        command.args(arguments).current_dir(self.directory.path()).env_remove("RUST_LOG").env_remove("NACKCAST_TICKET");
        command.stdin(std::process::Stdio::null()).output().unwrap()
    }

    fn spawn(&self, host: &str, name: &str, arguments: &[String]) -> Process {
        let log = [("RUST_LOG", "warn,nackcast_receiver=debug,nackcast_sender=debug")];
        Process::spawn(self.host(host), name, PROGRAM, arguments, &log, &self.path("logs")).unwrap()
    }

    /// Starts the sender of `news`.
    pub(crate) fn send(&self, more: &[&str]) -> Process {
        self.send_from(SENDER, "news.key", "source", more)
    }

    /// Starts a sender on a host, of a key file and a directory.
    pub(crate) fn send_from(&self, host: &str, key: &str, source: &str, more: &[&str]) -> Process {
        let source = format!("{}={}", self.path(key).display(), self.path(source).display());
        let mut arguments = vec!["send".to_owned(), "--channel".to_owned(), source];
        arguments.extend(["--state".to_owned(), text(&self.state(host))]);
        let rate: &[&str] = if more.contains(&"--rate") { &[] } else { &["--rate", "200mbit"] };
        // A short period keeps the tests short.
        let usual = ["--interface", "eth0", "--period", "200ms", "--json"];
        arguments.extend(usual.iter().chain(rate).chain(more).map(|&word| word.to_owned()));
        self.spawn(host, host, &arguments)
    }

    /// The arguments of a receiver of `news`.
    pub(crate) fn receive_arguments(&self, receiver: &str, ticket: &str, more: &[&str]) -> Vec<String> {
        let mut arguments = vec!["receive".to_owned(), "--ticket".to_owned(), format!("@{}", text(&self.path(ticket)))];
        arguments.extend(["--into".to_owned(), text(&self.target(receiver))]);
        arguments.extend(["--state".to_owned(), text(&self.state(receiver))]);
        arguments.extend(["--interface", "eth0", "--json"].iter().chain(more).map(|&word| word.to_owned()));
        arguments
    }

    /// Starts a receiver of `news`.
    pub(crate) fn receive(&self, receiver: &str, more: &[&str]) -> Process {
        self.receive_with(receiver, "news.ticket", more)
    }

    /// Starts a receiver with a ticket.
    pub(crate) fn receive_with(&self, receiver: &str, ticket: &str, more: &[&str]) -> Process {
        self.spawn(receiver, receiver, &self.receive_arguments(receiver, ticket, more))
    }

    /// What a running node says to `nackcast scan`.
    pub(crate) fn scan(&self, node: &str, more: &[&str]) -> serde_json::Value {
        let state = text(&self.state(node));
        let ran = self.run(&[&["scan", "--node", &state, "--json"], more].concat());
        assert!(ran.status.success(), "{ran:?}");
        let mut answer: serde_json::Value = serde_json::from_slice(&ran.stdout).unwrap();
        answer["results"][0].take()
    }

    /// Bytes that a host has multicast so far, frames' headers included.
    pub(crate) fn multicast_of(&self, host: &str) -> u64 {
        self.network.fabric().counters(host, Direction::FromHost).unwrap().multicast_udp.bytes
    }

    /// Bytes that the sender has multicast so far.
    pub(crate) fn sent(&self) -> u64 {
        self.multicast_of(SENDER)
    }

    pub(crate) fn source_tree(&self) -> Tree {
        tree::of(&self.source())
    }

    /// A receiver has what the sender has: names, kinds, bytes, modes, times, and nothing else.
    pub(crate) fn assert_same(&self, receiver: &str) {
        tree::assert_same(&self.source_tree(), &tree::of(&self.target(receiver)), receiver);
    }
}

pub(crate) fn text(path: &Path) -> String {
    path.to_str().unwrap().to_owned()
}

/// Waits until a receiver has said `times` times that all is there.
pub(crate) fn wait_until_complete(receiver: &mut Process, times: usize) {
    wait_until(receiver, |said| said.matches("is complete and verified").count() >= times);
}

/// Waits until a receiver has a generation later than this one; which.
pub(crate) fn wait_for_generation(receiver: &mut Process, after: u64) -> u64 {
    let newest = |said: &str| {
        let ends = said.match_indices(" is complete and verified").map(|(at, _)| &said[..at]);
        ends.filter_map(|line| line.rsplit_once("generation ")?.1.parse().ok()).max().unwrap_or(0)
    };
    wait_until(receiver, |said| newest(said) > after);
    newest(&receiver.stderr())
}

/// Waits until a process's stderr is as wanted.
pub(crate) fn wait_until(process: &mut Process, wanted: impl Fn(&str) -> bool) {
    let clock = Clock::start();
    while !wanted(&process.stderr()) {
        let ended = process.try_wait().unwrap();
        let waited = clock.now().since(Time::ZERO);
        assert!(ended.is_none() && waited < PATIENCE, "{}: {ended:?}\n{}", process.name(), process.stderr());
        pause(Duration::from_millis(20));
    }
}

/// Ends a process as an administrator would; what it printed as JSON.
pub(crate) fn end(process: &mut Process) -> serde_json::Value {
    process.signal(Signal::SIGTERM).unwrap();
    process.wait(PATIENCE).unwrap();
    summary(process)
}

/// The summary on stdout.
pub(crate) fn summary(process: &Process) -> serde_json::Value {
    serde_json::from_str(&process.stdout())
        .unwrap_or_else(|error| panic!("{}: {error}: {}\n{}", process.name(), process.stdout(), process.stderr()))
}

/// A count that a node logged last, as in `unopened: 7`; 0 when it never did.
pub(crate) fn counted(log: &str, name: &str) -> u64 {
    let number = log.rsplit_once(&format!("{name}: ")).map(|(_, rest)| rest.split(|c: char| !c.is_ascii_digit()));
    number.and_then(|mut parts| parts.next()?.parse().ok()).unwrap_or(0)
}

/// For polling only.
pub(crate) fn pause(time: Duration) {
    std::thread::park_timeout(time);
}

/// Random bytes, always the same for a seed.
pub(crate) fn noise(seed: u64, length: usize) -> Vec<u8> {
    let mut bytes = vec![0; length];
    blake3::Hasher::new().update(&seed.to_le_bytes()).finalize_xof().fill(&mut bytes);
    bytes
}

/// Writes a file of random bytes and what leads to it.
pub(crate) fn write(path: &Path, seed: u64, length: usize) {
    std::fs::create_dir_all(path.parent().unwrap()).unwrap();
    let mut file = std::fs::File::create(path).unwrap();
    file.write_all(&noise(seed, length)).unwrap();
}

/// A mixed tree: `small` files of some kilobytes, and one of 16 MiB.
pub(crate) fn fill(root: &Path, small: u64) {
    for number in 0..small {
        let length = 100 + usize::try_from(number * 37 % 6000).unwrap();
        write(&root.join(format!("small/{}/{number}", number % 7)), number, length);
    }
    write(&root.join("large.bin"), 1000, 16 << 20);
    std::fs::create_dir_all(root.join("empty/directory")).unwrap();
    std::os::unix::fs::symlink("large.bin", root.join("link")).unwrap();
}
