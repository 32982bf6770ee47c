//! A sender and a receiver on hosts of their own, and somebody who asks them.

use std::ffi::OsString;
use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpStream, UdpSocket};
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::time::Duration;

use nackcast_common::clock::{Clock, Time};
use nackcast_testbed::fabric::Fabric;
use nackcast_testbed::network::Network;
use nackcast_testbed::process::Process;
use nix::sys::signal::Signal;
use serde_json::Value;
use tempfile::TempDir;

#[path = "../common/turn.rs"]
mod turn;
pub(crate) use turn::with_others;

/// Long enough for a busy machine: nothing here is judged by the clock.
const PATIENCE: Duration = Duration::from_secs(240);
/// How often something is looked at that tells nobody when it changes.
const LOOK: Duration = Duration::from_millis(50);

/// Waits until `look` gives something; `what` is for the failure.
pub(crate) fn until<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let clock = Clock::start();
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(clock.now().since(Time::ZERO) < PATIENCE, "waited in vain until {what}");
        std::thread::park_timeout(LOOK);
    }
}

/// The hosts, and where everything lies.
pub(crate) struct Stage {
    network: Network,
    place: TempDir,
}

impl Stage {
    pub(crate) fn new() -> Self {
        let network = Network::build(&["sender", "receiver", "admin"], 3).unwrap();
        let place = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
        let stage = Self { network, place };
        std::fs::create_dir(stage.source()).unwrap();
        std::fs::write(stage.source().join("first"), noise(1, 700_000)).unwrap();
        std::fs::write(stage.source().join("second"), noise(2, 300_000)).unwrap();
        let mut new = Command::new(program());
        new.args(["channel", "new", "news", "--advertise", "239.192.7.8:7600"]);
        let made = new.arg("--out").arg(stage.path("news.key")).output().unwrap();
        assert!(made.status.success(), "{made:?}");
        stage
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.place.path().join(name)
    }

    pub(crate) fn source(&self) -> PathBuf {
        self.path("source")
    }

    pub(crate) fn target(&self) -> PathBuf {
        self.path("target")
    }

    pub(crate) fn address(&self, host: &str) -> Ipv4Addr {
        self.network.host(host).addr_v4()
    }

    fn start(&self, host: &str, mut arguments: Vec<OsString>, more: &[&str], also: &[(&str, &str)]) -> Process {
        arguments.extend(["--state".into(), self.path(host).into_os_string()]);
        arguments.extend(["--interface", "eth0", "--json"].map(Into::into));
        arguments.extend(more.iter().map(Into::into));
        let host_of = self.network.host(host);
        let environment = [&[("RUST_LOG", "nackcast=info")], also].concat();
        Process::spawn(host_of, host, program(), arguments, &environment, self.place.path()).unwrap()
    }

    pub(crate) fn send(&self, more: &[&str]) -> Process {
        self.send_with(more, &[])
    }

    /// With these variables in its environment.
    pub(crate) fn send_with(&self, more: &[&str], environment: &[(&str, &str)]) -> Process {
        let mut all = vec!["--rate", "200mbit"];
        all.extend(more);
        self.start("sender", self.sender_arguments(), &all, environment)
    }

    /// With the rate of a configuration file.
    pub(crate) fn send_with_file(&self, config: &Path) -> Process {
        let mut arguments = self.sender_arguments();
        arguments.extend(["--config".into(), config.into()]);
        self.start("sender", arguments, &[], &[])
    }

    fn sender_arguments(&self) -> Vec<OsString> {
        let mut channel = self.path("news.key").into_os_string();
        channel.push("=");
        channel.push(self.source());
        vec!["send".into(), "--channel".into(), channel, "--no-watch".into()]
    }

    pub(crate) fn receive(&self, more: &[&str]) -> Process {
        let ticket = format!("@{}", self.path("news.ticket").display());
        let arguments = ["receive".into(), "--ticket".into(), ticket.into(), "--into".into(), self.target().into()];
        self.start("receiver", arguments.to_vec(), more, &[])
    }

    /// Runs a command that asks the node with the state of this name.
    pub(crate) fn ask(&self, node: &str, arguments: &[&str]) -> Output {
        let (verb, rest) = arguments.split_first().unwrap();
        let mut command = Command::new(program());
        command.arg(verb).arg("--node").arg(self.path(node)).args(rest).output().unwrap()
    }

    /// The same, which must do; gives its JSON.
    pub(crate) fn json(&self, node: &str, arguments: &[&str]) -> Value {
        let mut all = arguments.to_vec();
        all.push("--json");
        let output = self.ask(node, &all);
        assert!(output.status.success(), "{arguments:?}: {output:?}");
        serde_json::from_slice(&output.stdout).unwrap_or_else(|_| panic!("{arguments:?}: {output:?}"))
    }

    /// The only channel's status, once the node answers and `is_so`.
    pub(crate) fn until_channel(&self, node: &str, what: &str, is_so: impl Fn(&Value) -> bool) -> Value {
        until(what, || {
            let output = self.ask(node, &["status", "--json"]);
            let status: Value = serde_json::from_slice(&output.stdout).ok()?;
            let channel = status["channels"][0].clone();
            is_so(&channel).then_some(channel)
        })
    }

    /// Waits until the receiver has everything.
    pub(crate) fn until_complete(&self) -> u64 {
        let whole = |channel: &Value| channel["state"] == "complete";
        self.until_channel("receiver", "the receiver is complete", whole)["generation"].as_u64().unwrap()
    }

    /// A connection from the admin's host.
    pub(crate) fn connect(&self, host: &str, port: u16) -> TcpStream {
        let address = SocketAddr::new(self.address(host).into(), port);
        let stream = self.network.host("admin").run(|| TcpStream::connect(address).unwrap()).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream
    }

    /// What a plain HTTP client gets, from the admin's host: status line with headers, and body.
    pub(crate) fn get(&self, host: &str, port: u16, path: &str, headers: &str) -> (String, Vec<u8>) {
        let mut stream = self.connect(host, port);
        write!(stream, "GET {path} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n{headers}\r\n").unwrap();
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).unwrap();
        let end = answer.windows(4).position(|four| four == b"\r\n\r\n").unwrap();
        (String::from_utf8_lossy(&answer[..end]).to_lowercase(), answer[end + 4..].to_vec())
    }

    /// Another program's socket on a host.
    pub(crate) fn socket(&self, host: &str, address: &str) -> UdpSocket {
        self.network.host(host).run(|| UdpSocket::bind(address).unwrap()).unwrap()
    }

    /// Runs a program on a host.
    pub(crate) fn on(&self, host: &str, program: &str, arguments: &[&str]) -> Output {
        self.network.host(host).command(program).args(arguments).output().unwrap()
    }

    /// The same; it must do what it is to.
    pub(crate) fn must(&self, host: &str, program: &str, arguments: &[&str]) {
        let output = self.on(host, program, arguments);
        assert!(output.status.success(), "{program} {arguments:?} on {host}: {output:?}");
    }

    pub(crate) fn fabric(&self) -> &Fabric {
        self.network.fabric()
    }

    /// The ticket is from now on that of another channel, on this group.
    pub(crate) fn another_ticket(&self, group: &str) {
        let mut other = Command::new(program());
        other.args(["channel", "new", "news", "--advertise", &format!("{group}:7600"), "--out"]);
        let key = self.path("other.key");
        assert!(other.arg(&key).output().unwrap().status.success());
        std::fs::remove_file(key).unwrap();
        std::fs::rename(self.path("other.ticket"), self.path("news.ticket")).unwrap();
    }

    /// Runs our client on the admin's host.
    pub(crate) fn ask_over_network(&self, arguments: &[&str]) -> Output {
        self.network.host("admin").command(program()).args(arguments).output().unwrap()
    }
}

/// Ends a node by SIGTERM.
pub(crate) fn end(process: &mut Process) {
    process.signal(Signal::SIGTERM).unwrap();
    let status = process.wait(PATIENCE).unwrap();
    assert_eq!(status.code(), Some(0), "{}\n{}", process.name(), process.tail());
}

/// Waits for a node's end by itself.
pub(crate) fn code_of(process: &mut Process) -> Option<i32> {
    process.wait(PATIENCE).unwrap().code()
}

pub(crate) fn program() -> &'static Path {
    Path::new(env!("CARGO_BIN_EXE_nackcast"))
}

/// Bytes that do not repeat.
pub(crate) fn noise(seed: u64, len: usize) -> Vec<u8> {
    let mut bytes = vec![0; len];
    blake3::Hasher::new().update(&seed.to_be_bytes()).finalize_xof().fill(&mut bytes);
    bytes
}
