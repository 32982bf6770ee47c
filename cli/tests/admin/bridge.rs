//! Hosts on a bridge of the kernel that snoops, as most switches do: with a querier it hands a group only to those who
//! reported that they want it.

use std::path::Path;
use std::process::{Child, Command, Output, Stdio};

use nackcast_testbed::netns::NetworkNamespace;
use serde_json::Value;
use tempfile::TempDir;

use crate::stage::{program, until};

const SENDER: &str = "10.78.0.1";

/// A sender on one host, and a receiver's host.
pub(crate) struct Bridge {
    hub: NetworkNamespace,
    hosts: [(NetworkNamespace, Child); 2],
    place: TempDir,
    sender: Option<Child>,
}

impl Bridge {
    pub(crate) fn new() -> Self {
        let hub = NetworkNamespace::new().unwrap();
        // Times are in hundredths of a second: a querier that is heard soon, and means it soon.
        let bridge = "ip link add br0 type bridge mcast_snooping 1 mcast_query_interval 50 \
             mcast_startup_query_interval 50 mcast_query_response_interval 10 mcast_last_member_interval 10";
        must(sh(&hub, &format!("{bridge} && ip link set br0 up")));
        let place = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
        let hosts = [1, 2].map(|number| {
            let host = NetworkNamespace::new().unwrap();
            // Its process is how `ip` finds a namespace that has no name.
            let mut stays = Command::new("sleep");
            let stays = host.command(stays.arg("3600")).spawn().unwrap();
            let pid = stays.id();
            must(sh(&hub, &format!("ip link add hub{number} type veth peer name eth0 netns {pid}")));
            must(sh(&hub, &format!("ip link set hub{number} master br0 up")));
            let address = format!("ip address add 10.78.0.{number}/24 dev eth0 && ip link set eth0 up");
            must(sh(&host, &format!("{address} && ip route add default dev eth0")));
            (host, stays)
        });
        let mut bridge = Self { hub, hosts, place, sender: None };
        let key = bridge.path("news.key");
        must(run(
            &bridge.hosts[0].0,
            &["channel", "new", "news", "--sender", &format!("{SENDER}:7701"), "--out", &key],
        ));
        bridge.send(&key);
        bridge
    }

    fn path(&self, name: &str) -> String {
        self.place.path().join(name).to_str().unwrap().to_owned()
    }

    fn send(&mut self, key: &str) {
        std::fs::create_dir(self.path("source")).unwrap();
        std::fs::write(Path::new(&self.path("source")).join("file"), "content").unwrap();
        let (channel, state) = (format!("{key}={}", self.path("source")), self.path("sender"));
        let mut sender = Command::new(program());
        sender.args(["send", "--channel", &channel, "--state", &state]).stdout(Stdio::null()).stderr(Stdio::null());
        self.sender = Some(self.hosts[0].0.command(&mut sender).spawn().unwrap());
        until("the sender serves", || {
            let status = run(&self.hosts[0].0, &["status", "--json", "--node", &state]);
            let status: Value = serde_json::from_slice(&status.stdout).ok()?;
            (status["channels"][0]["state"] == "idle").then_some(())
        });
    }

    /// Lets the bridge ask who wants which group.
    pub(crate) fn ask(&self) {
        must(sh(&self.hub, "ip link set br0 type bridge mcast_querier 1"));
    }

    /// Lets nobody ask any more.
    pub(crate) fn ask_no_more(&self) {
        must(sh(&self.hub, "ip link set br0 type bridge mcast_querier 0"));
    }

    /// Lets the bridge hand groups to those only of whom it knows that they want them, as many switches do.
    pub(crate) fn flood_nobody(&self) {
        must(sh(&self.hub, "bridge link set dev hub2 mcast_flood off"));
    }

    /// Runs something in the receiver's shell.
    pub(crate) fn receiver(&self, command: &str) {
        must(sh(&self.hosts[1].0, command));
    }

    /// What the doctor finds at the receiver: verdicts and what they are about, and all of it for a failure.
    pub(crate) fn doctor(&self) -> (Vec<(String, String)>, String) {
        let ticket = format!("@{}", self.path("news.ticket"));
        let output = run(&self.hosts[1].0, &["doctor", "--json", "--wait", "3s", "--ticket", &ticket]);
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        let printed: Value = serde_json::from_str(&text).unwrap_or_else(|_| panic!("{output:?}"));
        let word = |finding: &Value, field: &str| finding[field].as_str().unwrap().to_owned();
        let findings = printed["findings"].as_array().unwrap().iter();
        (findings.map(|finding| (word(finding, "verdict"), word(finding, "what"))).collect(), text)
    }
}

impl Drop for Bridge {
    fn drop(&mut self) {
        for child in self.sender.iter_mut().chain(self.hosts.iter_mut().map(|(_, stays)| stays)) {
            drop(child.kill().and_then(|()| child.wait()));
        }
    }
}

fn sh(host: &NetworkNamespace, command: &str) -> Output {
    host.command(Command::new("sh").args(["-c", command])).output().unwrap()
}

fn run(host: &NetworkNamespace, arguments: &[&str]) -> Output {
    host.command(Command::new(program()).args(arguments)).output().unwrap()
}

fn must(output: Output) {
    assert!(output.status.success(), "{output:?}");
}
