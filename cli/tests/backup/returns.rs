//! Primaries that return, and senders that were lost and come back: at last one serves, the primary where there is one.

use std::net::IpAddr;
use std::process::Command;
use std::time::Duration;

use nackcast_sender::role::overlap_max;
use nackcast_testbed::netns::with_namespaces;
use nackcast_testbed::process::{Process, Signal};

use super::{MIB, Pair, recorded, states, with_others};
use crate::site::{NACK_PORT, PATIENCE, program, progress, receiver_name, until};

/// Symbols in a second at the rate of the senders, if all of it were content.
const SYMBOLS_PER_SECOND: f64 = 40e6 / 8.0 / 1400.0;

impl Pair {
    /// Of two senders the primary is the one that serves.
    pub(super) fn until_primary_serves(&self, primary: &Process, backup: &Process) {
        let last = |process: &Process| states(process).pop();
        until("the primary serves and the backup stands by", || {
            last(primary).as_deref() == Some("active") && last(backup).as_deref() == Some("standby")
        });
    }
}

#[test]
fn a_primary_that_returns_has_the_channel_again() {
    let _turn = with_others();
    with_namespaces(|| {
        // So much that a backup that went on would be heard for longer than it may.
        let pair = Pair::with(2, Duration::from_millis(500), 14 * MIB);
        let (mut primary, mut backup, mut receivers) = pair.started(2);
        let heard = recorded(&pair, || {
            pair.site.until_sent(pair.tree.bytes() / 4);
            primary.kill9().unwrap();
            backup.wait_for_stderr("to=active", PATIENCE).unwrap();
            until("the backup sends", || pair.backup_bytes() > MIB as u64);
            primary = pair.primary();
            primary.wait_for_stderr("to=active", PATIENCE).unwrap();
            let states = states(&backup);
            assert!(states.iter().any(|state| state.starts_with("draining")), "it was handed over: {states:?}");
            backup.wait_for_stderr("what was sent is finished", PATIENCE).unwrap();
            pair.assert_received(&mut receivers);
        });
        let both = heard.after_return_of(IpAddr::V4(pair.site.sender_addr())).expect("the primary sent again");
        let most = overlap_max(pair.drain_limit).as_secs_f64() * SYMBOLS_PER_SECOND;
        eprintln!("the backup sent {both} symbols after the first of the primary that returned; at most {most:.0}");
        assert!((both as f64) < most, "{both} symbols, {most:.0} allowed");
        // It follows, whatever its admin says.
        let mut publish = Command::new(program());
        let refused = publish.args(["publish", "--node"]).arg(pair.site.state("backup")).output().unwrap();
        let said = String::from_utf8_lossy(&refused.stderr);
        assert!(refused.status.code() == Some(1) && said.contains("publish at the primary"), "{refused:?}");
        let row = &pair.ask("backup", "status")["channels"][0];
        assert_eq!([&row["sender_role"], &row["role_state"]], ["backup", "standby"], "{row}");
        let primary = format!("{}:{NACK_PORT}", pair.site.sender_addr());
        until("it says who serves", || pair.ask("backup", "status")["channels"][0]["served_by"] == primary);
    });
}

#[test]
fn a_frozen_primary_that_goes_on_has_the_channel_again() {
    let _turn = with_others();
    with_namespaces(|| {
        let pair = Pair::new(2);
        let (mut primary, mut backup, mut receivers) = pair.started(2);
        pair.site.until_sent(pair.tree.bytes() / 4);
        primary.signal(Signal::SIGSTOP).unwrap();
        backup.wait_for_stderr("to=active", PATIENCE).unwrap();
        until("the backup sends", || pair.backup_bytes() > MIB as u64);
        primary.signal(Signal::SIGCONT).unwrap();
        until("the backup yields", || states(&backup).iter().any(|state| state == "draining"));
        pair.assert_received(&mut receivers);
        pair.until_primary_serves(&primary, &backup);
    });
}

/// Alive is not serving: the backup takes over as soon as it is asked, and no NACK is disregarded.
#[test]
fn a_primary_that_is_paused_or_drained_leaves_the_channel_to_the_backup() {
    let _turn = with_others();
    with_namespaces(|| {
        let pair = Pair::new(2);
        let (mut primary, mut backup, mut receivers) = pair.started(2);
        pair.site.until_sent(pair.tree.bytes() / 4);
        pair.tell("sender", "pause");
        backup.wait_for_stderr("to=active", PATIENCE).unwrap();
        until("the backup sends", || pair.backup_bytes() > MIB as u64);
        pair.tell("sender", "resume");
        pair.until_primary_serves(&primary, &backup);
        pair.tell("sender", "drain");
        primary.wait_for_stderr("to=drained", PATIENCE).unwrap();
        until("the backup serves again", || states(&backup).last().map(String::as_str) == Some("active"));
        pair.assert_received(&mut receivers);
        assert!(!backup.stderr().contains("network alert"), "{}", backup.tail());
    });
}

#[test]
fn of_the_senders_on_both_sides_of_a_partition_one_remains_when_it_heals() {
    let _turn = with_others();
    with_namespaces(|| {
        let pair = Pair::new(2);
        let (primary, mut backup, mut receivers) = pair.started(2);
        pair.site.until_sent(pair.tree.bytes() / 4);
        let [near, far] = [1, 2].map(receiver_name);
        let cut = |blocked| {
            for (host, other) in [("sender", "backup"), ("sender", &far), (&near, "backup"), (&near, &far)] {
                pair.cut(host, other, blocked);
            }
        };
        cut(true);
        backup.wait_for_stderr("to=active", PATIENCE).unwrap();
        until("the backup sends", || pair.backup_bytes() > MIB as u64);
        assert_eq!(states(&primary).last().map(String::as_str), Some("active"), "each side has a sender");
        cut(false);
        pair.until_primary_serves(&primary, &backup);
        pair.assert_received(&mut receivers);
    });
}

#[test]
fn without_any_sender_receivers_wait_and_say_so_until_one_comes_back() {
    let _turn = with_others();
    with_namespaces(|| {
        let pair = Pair::new(2);
        let (mut primary, mut backup, receivers) = pair.started(0);
        assert!(receivers.is_empty());
        let mut receivers: Vec<_> = (1..=2).map(|receiver| pair.site.receive(receiver, &["--pull", "never"])).collect();
        pair.site.until_sent(pair.tree.bytes() / 4);
        primary.kill9().unwrap();
        backup.kill9().unwrap();
        for receiver in &mut receivers {
            receiver.wait_for_stderr("the sender fell silent; waiting for it", PATIENCE).unwrap();
            assert_eq!(receiver.try_wait().unwrap(), None);
            assert!(progress(receiver)["bytes_done"].as_u64() < Some(pair.tree.bytes()), "{}", receiver.tail());
        }
        let mut backup = pair.backup();
        backup.wait_for_stderr("to=active", PATIENCE).unwrap();
        pair.assert_received(&mut receivers);
    });
}

/// Its copy is whole, but what it knew of it is gone: the block hashes, too, which nobody multicasts again.
#[test]
fn a_backup_that_lost_its_state_and_kept_its_directory_serves() {
    let _turn = with_others();
    with_namespaces(|| {
        let pair = Pair::new(2);
        let (mut primary, mut backup) = pair.serving();
        backup.wait_for_stderr("to=standby", PATIENCE).unwrap();
        backup.kill9().unwrap();
        std::fs::remove_dir_all(pair.site.state("backup")).unwrap();
        let before = pair.site.sent_bytes();
        let mut backup = pair.backup();
        backup.wait_for_stderr("to=standby", PATIENCE).unwrap();
        backup.wait_for_stderr("is complete and verified", PATIENCE).unwrap();
        let content = pair.site.sent_bytes() - before;
        assert!(content < MIB as u64, "{content} bytes were sent to whoever had them");
        primary.kill9().unwrap();
        let mut receivers: Vec<_> = (1..=2).map(|receiver| pair.site.receive(receiver, &["--pull", "never"])).collect();
        backup.wait_for_stderr("to=active", PATIENCE).unwrap();
        pair.assert_received(&mut receivers);
    });
}
