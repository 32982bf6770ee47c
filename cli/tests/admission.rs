//! A channel with a list of receivers, real processes in a network of namespaces: who is on it is let in, who is taken
//! off reads nothing newer, and a backup goes over to the next epoch without a word from the primary.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

#[allow(dead_code, reason = "made for several tests, of which each takes what it needs")]
#[path = "common/site.rs"]
mod site;
#[allow(dead_code, reason = "made for several tests, of which each takes what it needs")]
#[path = "common/tree.rs"]
mod tree;

use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::process::Command;

use nackcast_testbed::netns::with_namespaces;
use nackcast_testbed::process::{Process, Signal};

use crate::site::{NACK_PORT, PATIENCE, Site, program, progress, receiver_name, until, with_others};
use crate::tree::{Tree, noise};

/// Runs the program to its end; gives what it printed.
fn run(arguments: &[&str], files: &[&Path]) -> String {
    let mut command = Command::new(program());
    let output = command.args(arguments).args(files).output().unwrap();
    assert!(output.status.success(), "{arguments:?} {files:?}: {output:?}");
    String::from_utf8(output.stdout).unwrap().trim().to_owned()
}

/// A site whose channel has a list, and a key file for a backup.
struct Listed {
    site: Site,
    keys: Vec<String>,
}

impl Listed {
    /// With so many receivers, of which the first ones are on the list.
    fn new(receivers: usize, listed: usize) -> Self {
        let site = Site::with_hosts(&["sender", "backup", "observer"], receivers, 0.0);
        let (key, ticket) = (site.path("site.key"), site.path("site.ticket"));
        std::fs::remove_file(&key).unwrap();
        std::fs::remove_file(ticket).unwrap();
        let senders = ["sender", "backup"].map(|host| format!("{}:{NACK_PORT}", site.network.host(host).addr_v4()));
        let ways = ["--sender", &senders[0], "--sender", &senders[1], "--advertise", "239.192.7.7:7600"];
        run(&[&["channel", "new", "site", "--admission", "allow-list"], &ways[..], &["--out"]].concat(), &[&key]);
        let keys: Vec<_> =
            (1..=receivers).map(|n| run(&["identity", "--state"], &[&site.state(&receiver_name(n))])).collect();
        for listed in &keys[..listed] {
            run(&["channel", "allow", key.to_str().unwrap(), listed, "--name", "cache"], &[]);
        }
        run(&["channel", "delegate", key.to_str().unwrap(), "--out"], &[&site.path("backup.key")]);
        std::fs::create_dir(site.path("copy")).unwrap();
        Self { site, keys }
    }

    fn write(&self, name: &str, seed: u64) -> Tree {
        std::fs::write(self.site.source().join(name), noise(seed, 600_000)).unwrap();
        Tree::read(&self.site.source())
    }

    fn primary(&self) -> Process {
        let backup = format!("{}:{NACK_PORT}", self.site.network.host("backup").addr_v4());
        self.site.send(&["--peer", &backup, "--epoch-overlap", "3s"])
    }

    fn backup(&self) -> Process {
        let mut source = self.site.path("backup.key").into_os_string();
        source.push("=");
        source.push(self.site.path("copy"));
        let peer = format!("{}:{NACK_PORT}", self.site.sender_addr());
        let mut arguments = vec!["standby".into(), "--channel".into(), source, "--state".into()];
        arguments.extend([self.site.state("backup").into_os_string(), "--peer".into(), peer.into()]);
        arguments.extend(["--interface", "eth0", "--json", "--progress-json", "--rate", "200mbit"].map(Into::into));
        self.site.start("backup", arguments, &[])
    }

    /// Changes both key files, and lets both senders read them again.
    fn change(&self, verb: &str, receiver: usize, senders: &mut [&mut Process]) {
        for file in ["site.key", "backup.key"] {
            run(&["channel", verb, self.site.path(file).to_str().unwrap(), &self.keys[receiver - 1]], &[]);
            assert_eq!(std::fs::metadata(self.site.path(file)).unwrap().mode() & 0o777, 0o600);
        }
        for sender in senders {
            sender.signal(Signal::SIGHUP).unwrap();
        }
    }

    /// Starts both senders, so that the backup is one at once.
    fn both(&self) -> (Process, Process) {
        let mut backup = self.backup();
        backup.wait_for_stderr("receiving on interface", PATIENCE).unwrap();
        (self.primary(), backup)
    }

    fn until_alerted(&self, node: &str, kind: &str) {
        let state = self.site.state(node);
        let mut ask = Command::new(program());
        ask.args(["alerts", "--json", "--node"]).arg(state);
        let mut said = move || String::from_utf8_lossy(&ask.output().unwrap().stdout).contains(&format!("\"{kind}\""));
        until(&format!("{kind} is an alert at {node}"), &mut said);
    }

    /// Whether a receiver has a file.
    fn has(&self, receiver: usize, name: &str) -> bool {
        self.site.target(receiver).join(name).exists()
    }
}

fn until_complete(receiver: &Process) {
    until(&format!("{} is complete", receiver.name()), || progress(receiver)["state"] == "complete");
}

#[test]
fn who_is_on_the_list_is_let_in_and_who_is_taken_off_reads_nothing_newer() {
    let _turn = with_others();
    with_namespaces(|| {
        let listed = Listed::new(3, 2);
        let first = listed.write("first", 1);
        let (mut primary, mut backup) = listed.both();
        let mut receivers: Vec<_> = (1..=3).map(|receiver| listed.site.receive_on(receiver, &[])).collect();
        receivers[2].wait_for_stderr(&format!("channel allow FILE {}", listed.keys[2]), PATIENCE).unwrap();
        assert!(receivers[2].stderr().contains("not on the channel's list"));
        listed.until_alerted("sender", "ticket-refused");
        listed.until_alerted("receiver-3", "key-rejected");
        for number in 1..=2 {
            until_complete(&receivers[number - 1]);
            first.assert_at(&listed.site.target(number));
        }
        let kept = std::fs::metadata(
            std::fs::read_dir(listed.site.state("receiver-1"))
                .unwrap()
                .map(|entry| entry.unwrap().path().join("epochs"))
                .find(|path| path.exists())
                .unwrap(),
        );
        assert_eq!(kept.unwrap().mode() & 0o777, 0o600);
        until("the backup has it, too", || backup.stderr().contains("to=standby"));

        listed.change("revoke", 2, &mut [&mut primary, &mut backup]);
        let second = listed.write("second", 2);
        primary.wait_for_stderr("the next epoch is announced", PATIENCE).unwrap();
        until("the one that is left has the new file", || listed.has(1, "second"));
        until_complete(&receivers[0]);
        second.assert_at(&listed.site.target(1));
        receivers[1].wait_for_stderr("what was received stays, and nothing newer can be read", PATIENCE).unwrap();
        until("it says so", || progress(&receivers[1])["state"] == "not let in");
        listed.until_alerted("receiver-2", "key-rejected");
        assert!(!listed.has(2, "second") && listed.has(2, "first"));

        // The backup followed the manifest into its epoch, and nobody told it.
        let rolled = |line: &str| line.contains("a new session") && line.contains("epoch=2");
        until("the backup is in the next epoch", || backup.stderr().lines().any(rolled));
        until("the backup has the new file", || listed.site.path("copy").join("second").exists());
        primary.kill9().unwrap();
        assert!(!listed.has(3, "first"), "it was never on the list");
        receivers.pop().unwrap().kill9().unwrap();
        listed.change("allow", 3, &mut [&mut backup]);
        let from_backup = format!("{}:{NACK_PORT}", listed.site.network.host("backup").addr_v4());
        until("the backup reads its list", || backup.stderr().contains("receivers are let in"));
        receivers.push(listed.site.receive_on(3, &["--source", &from_backup]));
        until_complete(&receivers[2]);
        second.assert_at(&listed.site.target(3));
        assert!(!listed.has(2, "second"), "it was taken off for good");
    });
}

/// Whoever no multicast reaches hears no announcement: it is turned away when it asks, and joins anew.
#[test]
fn a_receiver_that_only_pulls_follows_the_channel_into_its_next_epoch() {
    let _turn = with_others();
    with_namespaces(|| {
        let listed = Listed::new(2, 2);
        listed.site.network.fabric().block_multicast("sender", &receiver_name(1), true).unwrap();
        let first = listed.write("first", 1);
        let mut primary = listed.primary();
        let source = format!("{}:{NACK_PORT}", listed.site.sender_addr());
        let receiver = listed.site.receive_on(1, &["--source", &source]);
        until_complete(&receiver);
        first.assert_at(&listed.site.target(1));
        listed.change("revoke", 2, &mut [&mut primary]);
        let second = listed.write("second", 2);
        until("it has the file of the next epoch", || listed.has(1, "second"));
        until("nothing is left to do", || !listed.has(1, ".nackcast.part"));
        second.assert_at(&listed.site.target(1));
    });
}

/// The backup has its own list, and knows which epoch is in force although the channel never left its first one.
#[test]
fn who_comes_when_only_the_backup_is_left_is_let_in_by_it() {
    let _turn = with_others();
    with_namespaces(|| {
        let listed = Listed::new(3, 2);
        let first = listed.write("first", 1);
        let (mut primary, mut backup) = listed.both();
        until("the backup has it", || listed.site.path("copy").join("first").exists());
        until("the backup serves it", || backup.stderr().contains("to=standby"));
        primary.kill9().unwrap();
        let receiver = listed.site.receive_on(1, &[]);
        until_complete(&receiver);
        first.assert_at(&listed.site.target(1));
        let mut stranger = listed.site.receive_on(3, &[]);
        stranger.wait_for_stderr("not on the channel's list", PATIENCE).unwrap();
        // It starts anew, and the primary is gone still.
        backup.kill9().unwrap();
        let backup = listed.backup();
        until("the backup serves it again", || backup.stderr().contains("to=standby"));
        let receiver = listed.site.receive_on(2, &[]);
        until_complete(&receiver);
        first.assert_at(&listed.site.target(2));
        assert!(!listed.has(3, "first"));
    });
}
