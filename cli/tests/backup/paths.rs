//! Ways that firewalls close: what still says that a sender is there counts.

use std::time::Duration;

use nackcast_testbed::fabric::{Direction, Link};
use nackcast_testbed::netns::with_namespaces;

use super::{Pair, states, with_others};
use crate::site::{GROUP_PORT, NACK_PORT, PATIENCE, assert_ends, receiver_name, until};

impl Pair {
    /// A host drops what arrives and matches one of these rules.
    fn forbid(&self, host: &str, rules: &[String]) {
        let chain = "add table inet test; add chain inet test input { type filter hook input priority 0; }";
        let rules: Vec<_> = rules.iter().map(|rule| format!("add rule inet test input {rule} drop")).collect();
        self.nft(host, &format!("{chain}; {}", rules.join("; ")));
    }

    fn allow(&self, host: &str) {
        self.nft(host, "delete table inet test");
    }

    fn nft(&self, host: &str, script: &str) {
        let output = self.site.network.host(host).command("nft").arg(script).output().unwrap();
        assert!(output.status.success(), "{script} on {host}: {output:?}");
    }

    /// The primary sent everything, and both receivers are cut off from it.
    fn cut_off(&self, blocked: bool) {
        for receiver in 1..=2 {
            self.cut(&receiver_name(receiver), "sender", blocked);
        }
    }
}

/// Both ways between primary and backup.
const WAYS: [(&str, &str); 2] = [("backup", "sender"), ("sender", "backup")];

impl Pair {
    /// Between primary and backup neither multicast nor the NACK ports pass.
    fn leave_quic_only(&self) {
        for (host, from) in WAYS {
            let from = format!("ip saddr {} udp", self.site.network.host(from).addr_v4());
            let multicast = format!("{from} dport {{ {GROUP_PORT}, {} }}", GROUP_PORT + 1);
            self.forbid(host, &[multicast, format!("{from} dport {NACK_PORT}"), format!("{from} sport {NACK_PORT}")]);
        }
    }
}

#[test]
fn a_primary_that_only_quic_reaches_is_alive_and_hands_over_by_it() {
    let _turn = with_others();
    with_namespaces(|| {
        let pair = Pair::new(2);
        let (mut primary, mut backup) = pair.serving();
        backup.wait_for_stderr("to=standby", PATIENCE).unwrap();
        pair.leave_quic_only();
        pair.cut_off(true);
        let mut receivers: Vec<_> = (1..=2).map(|receiver| pair.site.receive(receiver, &["--pull", "never"])).collect();
        backup.wait_for_stderr("network alert: receivers reach only this sender", PATIENCE).unwrap();
        pair.until_alerted("backup-asked");
        assert!(!backup.stderr().contains("to=active"), "the primary serves\n{}", backup.tail());

        primary.kill9().unwrap();
        backup.wait_for_stderr("to=active", PATIENCE).unwrap();
        // It returns, sees that the backup is active, and makes it finish.
        let mut primary = pair.primary();
        primary.wait_for_stderr("to=holding-off", PATIENCE).unwrap();
        backup.wait_for_stderr("to=draining", PATIENCE).unwrap();
        primary.wait_for_stderr("to=active", PATIENCE).unwrap();
        for (host, _) in WAYS {
            pair.allow(host);
        }
        pair.cut_off(false);
        pair.assert_received(&mut receivers);
    });
}

/// Further away than three questions last: the first answer comes late, and ends the backup's turn; the next is waited for.
#[test]
fn a_primary_that_is_far_away_on_quic_is_alive() {
    let _turn = with_others();
    with_namespaces(|| {
        let pair = Pair::new(3);
        let (_primary, mut backup) = pair.serving();
        backup.wait_for_stderr("to=standby", PATIENCE).unwrap();
        pair.leave_quic_only();
        for direction in [Direction::ToHost, Direction::FromHost] {
            let far = Link { delay: Duration::from_millis(250), ..Link::default() };
            pair.site.network.fabric().set_link("sender", direction, far).unwrap();
        }
        (1..=3).for_each(|receiver| pair.cut(&receiver_name(receiver), "sender", true));
        let _first = pair.site.receive_on(1, &["--pull", "never"]);
        backup.wait_for_stderr("to=active", PATIENCE).unwrap();
        until("the backup yields", || states(&backup).ends_with(&["active", "draining", "standby"].map(str::to_owned)));
        let _others: Vec<_> = (2..=3).map(|receiver| pair.site.receive_on(receiver, &["--pull", "never"])).collect();
        backup.wait_for_stderr("network alert: receivers reach only this sender", PATIENCE).unwrap();
        let turns = states(&backup).iter().filter(|state| *state == "active").count();
        assert_eq!(turns, 1, "the primary serves\n{}", backup.tail());
    });
}

/// Nobody reaches the primary by unicast. Its multicast says that it is there, so the backup does not take over; what
/// multicast alone cannot bring, receivers wait for, and people hear of it.
#[test]
fn a_primary_that_only_multicast_leaves_is_alive() {
    let _turn = with_others();
    with_namespaces(|| {
        let pair = Pair::new(2);
        let mut backup = pair.backup();
        backup.wait_for_stderr("receiving on interface", PATIENCE).unwrap();
        let _first = pair.site.receive_on(1, &["--pull", "never"]);
        let mut primary = pair.primary();
        primary.wait_for_stderr("first pass over", PATIENCE).unwrap();
        backup.wait_for_stderr("to=standby", PATIENCE).unwrap();
        pair.forbid(
            "sender",
            &[format!("udp dport {{ {NACK_PORT}, {} }}", NACK_PORT + 1), format!("udp sport {NACK_PORT}")],
        );
        let mut late = pair.site.receive(2, &["--pull", "never"]);
        backup.wait_for_stderr("network alert: receivers reach only this sender", PATIENCE).unwrap();
        pair.until_alerted("backup-asked");
        assert!(!states(&backup).contains(&"active".to_owned()), "the primary serves\n{}", backup.tail());
        pair.allow("sender");
        assert_ends(&mut late, 0);
        pair.tree.assert_at(&pair.site.target(2));
        assert!(!states(&backup).contains(&"active".to_owned()), "the primary serves\n{}", backup.tail());
    });
}
