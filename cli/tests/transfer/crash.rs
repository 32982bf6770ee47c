//! Nodes that are killed in mid-transfer and started again.

use nackcast_testbed::netns::with_namespaces;

use crate::site::{FRAMING, ONE_SECOND, PATIENCE, Site, alone, assert_ends, progress, until, until_idle};
use crate::times;
use crate::tree::{Tree, noise};

const MIB: usize = 1 << 20;

/// Small files in packs, files of some blocks, and large ones: the shapes that are kept in different ways.
fn mixed_tree(site: &Site) -> Tree {
    let write = |name: String, seed: u64, length: usize| {
        std::fs::write(site.source().join(name), noise(seed, length)).unwrap();
    };
    for file in 0..200 {
        write(format!("a-small-{file}"), file, 20_000);
    }
    for file in 0..10 {
        write(format!("b-middle-{file}"), 1000 + file, 2 * MIB);
    }
    for file in 0..2 {
        write(format!("c-large-{file}"), 2000 + file, 40 * MIB);
    }
    Tree::read(&site.source())
}

#[test]
fn a_killed_receiver_asks_only_for_what_it_lacks() {
    let _alone = alone();
    with_namespaces(|| {
        let undisturbed = {
            let site = Site::new(1, 0.0);
            let tree = mixed_tree(&site);
            let mut receiver = site.receive(1, &[]);
            let mut sender = site.send(&["--once", "--expect", "1"]);
            assert_ends(&mut receiver, 0);
            assert_ends(&mut sender, 0);
            tree.assert_at(&site.target(1));
            site.sent_bytes()
        };
        let site = Site::new(1, 0.0);
        let tree = mixed_tree(&site);
        let mut receiver = site.receive(1, &[]);
        let mut sender = site.send(&[]);
        site.until_sent(undisturbed / 2);
        receiver.kill9().unwrap();
        let killed_at = site.sent_bytes();
        let mut receiver = site.receive(1, &[]);
        receiver.wait_for_stderr("sender at", PATIENCE).unwrap();
        let back_at = site.sent_bytes();
        assert_ends(&mut receiver, 0);
        tree.assert_at(&site.target(1));
        until_idle(&mut sender);
        let extra = site.sent_bytes().saturating_sub(undisturbed);
        let missed = back_at - killed_at;
        let again = extra.saturating_sub(missed);
        eprintln!(
            "{undisturbed} bytes undisturbed; {killed_at} before the kill, {missed} sent while nobody listened; \
             {extra} more in all, so {again} were sent again"
        );
        assert!(killed_at < times(undisturbed, 0.9), "the kill came too late to show anything");
        assert!(again <= killed_at / 20 + ONE_SECOND, "{again} bytes of {killed_at} were sent again");
    });
}

#[test]
fn a_killed_sender_sends_only_what_is_asked_for_and_keeps_its_counts() {
    let _alone = alone();
    with_namespaces(|| {
        let site = Site::new(1, 0.0);
        let tree = mixed_tree(&site);
        let size = times(tree.bytes(), FRAMING);
        let mut receiver = site.receive(1, &[]);
        let mut sender = site.send(&[]);
        site.until_sent(size / 4);
        site.assert_sends_data();
        sender.kill9().unwrap();
        let first_counts = site.pass_counts();
        assert!(!first_counts.is_empty());

        // The receiver lives on, and asks the sender that came back.
        let mut sender = site.send(&[]);
        site.until_sent(size / 2);
        receiver.kill9().unwrap();
        sender.kill9().unwrap();
        let second_counts = site.pass_counts();
        let sent_before = site.sent_bytes();

        // With nobody there, nothing is sent.
        let mut sender = site.send(&[]);
        until("the manifest is served", || progress(&sender)["generation"].as_u64().unwrap_or(0) > 0);
        site.assert_sends_no_data_during(12);
        assert!(site.sent_bytes() - sent_before < 30_000, "advertisements only");

        let mut receiver = site.receive(1, &[]);
        assert_ends(&mut receiver, 0);
        tree.assert_at(&site.target(1));
        until_idle(&mut sender);
        let sent_after = site.sent_bytes() - sent_before;
        sender.kill9().unwrap();
        let last_counts = site.pass_counts();
        let missing = size.saturating_sub(sent_before);
        eprintln!("{sent_before} bytes before the second kill, {sent_after} after it, for {size}");
        assert!(sent_after >= times(missing, 0.95), "{sent_after} bytes for {missing} missing");
        assert!(
            sent_after <= times(missing, 1.02) + sent_before / 20 + ONE_SECOND,
            "{sent_after} bytes sent where about {missing} were missing"
        );

        for (earlier, later) in [(&first_counts, &second_counts), (&second_counts, &last_counts)] {
            let went_on = |(object, count): (&Vec<u8>, &u32)| later.get(object).is_some_and(|now| now >= count);
            assert!(earlier.iter().all(went_on), "{earlier:?} then {later:?}");
            // What was being sent at the kill was asked for again, and counts go on from there.
            assert!(earlier.iter().any(|(object, count)| later[object] > *count), "{earlier:?} then {later:?}");
        }
        assert!(last_counts.values().all(|count| *count <= 16), "{last_counts:?}");
    });
}

#[test]
fn a_killed_sender_gives_no_object_more_passes_than_allowed() {
    let _alone = alone();
    with_namespaces(|| {
        let site = Site::new(1, 0.0);
        std::fs::write(site.source().join("large"), noise(1, 40 * MIB)).unwrap();
        let mut receiver = site.receive(1, &["--pull", "never"]);
        let mut sender = site.send(&["--max-passes", "1"]);
        site.until_sent(20_000_000);
        sender.kill9().unwrap();
        assert!(site.pass_counts().values().all(|count| *count == 1));
        let mut sender = site.send(&["--max-passes", "1"]);
        receiver.wait_for_stderr("had all their passes", PATIENCE).unwrap();
        let before = site.sent_bytes();
        site.assert_sends_no_data_during(8);
        assert!(site.sent_bytes() - before < 30_000, "advertisements only");
        assert_eq!(sender.try_wait().unwrap(), None);
        sender.kill9().unwrap();
        let counts = site.pass_counts();
        assert!(counts.values().all(|count| *count == 1), "{counts:?}");
    });
}
