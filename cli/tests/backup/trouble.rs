//! Primaries that are there and do not serve, that come and go, or that are two.

use nackcast_testbed::netns::with_namespaces;
use nackcast_testbed::process::Process;

use super::{MIB, Pair, RATE, alone, states};
use crate::site::{PATIENCE, receiver_name, until};

impl Pair {
    fn block_multicast_of_primary(&self, blocked: bool) {
        for receiver in 1..=2 {
            self.site.network.fabric().block_multicast("sender", &receiver_name(receiver), blocked).unwrap();
        }
    }

    /// A second primary with the same key file, where the backup would be.
    fn second_primary(&self) -> Process {
        let mut source = self.site.path("site.key").into_os_string();
        source.push("=");
        source.push(self.site.path("copy"));
        let mut arguments = vec!["send".into(), "--channel".into(), source];
        arguments.extend(["--state".into(), self.site.state("second").into_os_string()]);
        arguments.extend(["--interface", "eth0", "--no-watch", "--json", "--drain-limit", "3s"].map(Into::into));
        arguments.extend(RATE.map(Into::into));
        self.site.start("backup", arguments)
    }
}

#[test]
fn a_primary_whose_disk_is_gone_is_replaced() {
    let _alone = alone();
    with_namespaces(|| {
        let pair = Pair::new(2);
        let (mut primary, mut backup, mut receivers) = pair.started(2);
        pair.site.until_sent(pair.tree.bytes() / 4);
        std::fs::remove_dir_all(pair.site.source()).unwrap();
        primary.wait_for_stderr("to=Blind", PATIENCE).unwrap();
        backup.wait_for_stderr("to=Active", PATIENCE).unwrap();
        pair.assert_received(&mut receivers);
    });
}

/// Unicast is fine: the primary serves, and cannot know. Somebody else must mend the network.
#[test]
fn multicast_that_does_not_reach_receivers_is_an_alert_and_no_take_over() {
    let _alone = alone();
    with_namespaces(|| {
        let pair = Pair::new(2);
        let mut backup = pair.backup();
        backup.wait_for_stderr("receiving on interface", PATIENCE).unwrap();
        let mut primary = pair.primary();
        primary.wait_for_stderr("first pass over", PATIENCE).unwrap();
        pair.block_multicast_of_primary(true);
        let mut receivers: Vec<_> = (1..=2).map(|receiver| pair.site.receive(receiver, &["--pull", "never"])).collect();
        backup.wait_for_stderr("network alert: receivers reach only this sender", PATIENCE).unwrap();
        assert!(!backup.stderr().contains("to=Active"), "the primary serves\n{}", backup.tail());
        pair.block_multicast_of_primary(false);
        pair.assert_received(&mut receivers);
    });
}

#[test]
fn a_primary_in_a_crash_loop_leaves_the_channel_to_the_backup() {
    let _alone = alone();
    with_namespaces(|| {
        let pair = Pair::new(2);
        let (mut primary, mut backup, mut receivers) = pair.started(2);
        pair.site.until_sent(pair.tree.bytes() / 8);
        primary.kill9().unwrap();
        backup.wait_for_stderr("to=Active", PATIENCE).unwrap();
        until("the backup sends", || pair.backup_bytes() > MIB as u64);
        for _ in 0..2 {
            let mut primary = pair.primary();
            primary.wait_for_stderr("to=Asking", PATIENCE).unwrap();
            primary.kill9().unwrap();
        }
        let mut primary = pair.primary();
        primary.wait_for_stderr("to=Penalty", PATIENCE).unwrap();
        pair.assert_received(&mut receivers);
        assert!(!states(&primary).contains(&"Active".to_owned()), "{:?}", states(&primary));
    });
}

#[test]
fn of_two_primaries_one_serves() {
    let _alone = alone();
    with_namespaces(|| {
        let pair = Pair::new(2);
        let mut receivers: Vec<_> = (1..=2).map(|receiver| pair.site.receive(receiver, &[])).collect();
        let mut primary = pair.primary();
        primary.wait_for_stderr("to=Active", PATIENCE).unwrap();
        pair.site.until_sent(pair.tree.bytes() / 4);
        let mut second = pair.second_primary();
        // It knows no peer: it may begin before it hears the other one.
        second.wait_for_stderr("to=Standby", PATIENCE).unwrap();
        pair.assert_received(&mut receivers);
        let [last, of_second] = [&primary, &second].map(|process| states(process).pop());
        assert_eq!([last.as_deref(), of_second.as_deref()], [Some("Active"), Some("Standby")]);
    });
}
