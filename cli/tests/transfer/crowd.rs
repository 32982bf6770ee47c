//! Many receivers, and receivers that come late.

use nackcast_testbed::netns::with_namespaces;

use crate::site::{FRAMING, ONE_SECOND, PATIENCE, Site, alone, assert_ends, progress, until, until_idle};
use crate::tree::{Tree, noise, real_tree};
use crate::{ratio, times};

#[test]
fn eight_receivers_with_loss_get_a_real_tree_byte_for_byte() {
    let _alone = alone();
    with_namespaces(|| {
        let site = Site::new(8, 0.02);
        real_tree(&site.source(), 310_000_000);
        let tree = Tree::read(&site.source());
        assert!(tree.bytes() >= 300_000_000 && tree.len() > 1000, "{} bytes, {} paths", tree.bytes(), tree.len());
        let mut receivers: Vec<_> = (1..=8).map(|receiver| site.receive(receiver, &[])).collect();
        // Eight receivers and the fabric share this machine's cores: a rate that these can take.
        let sender = site.send(&["--once", "--expect", "8", "--linger", "60s", "--rate", "120mbit"]);
        for receiver in &mut receivers {
            assert_ends(receiver, 0);
        }
        until("the sender counts 8 complete receivers", || progress(&sender)["receivers_complete"] == 8);
        for receiver in 1..=8 {
            tree.assert_at(&site.target(receiver));
            assert!(site.given(receiver).dropped_by_fault > 0, "nothing was lost on the way to receiver {receiver}");
        }
        // Equal files are one object: what is sent once is less than what is installed.
        let content = progress(&sender)["bytes"].as_u64().unwrap();
        let sent = ratio(site.sent_bytes(), content) / FRAMING;
        let overflowed: Vec<u64> = (1..=8).map(|receiver| site.overflowed(receiver)).collect();
        eprintln!(
            "{} paths, {} bytes in files, {content} in objects, to 8 receivers with 2 % loss: sent {sent:.3} times; \
             sockets overflowed for {overflowed:?} datagrams",
            tree.len(),
            tree.bytes()
        );
        // An ideal code needs 1.035 times, this one 1.06. A machine that is busy with other things answers so late that
        // more is sent: up to 1.43 times were seen. What it loses beyond the 2 % is no fault of the repair either.
        let was_lost_here = overflowed.iter().any(|count| *count > 0);
        assert!(sent < 1.6 || was_lost_here, "sent {sent:.3} times the size");
    });
}

#[test]
fn receivers_that_join_at_half_and_at_the_end_complete() {
    let _alone = alone();
    with_namespaces(|| {
        let site = Site::new(3, 0.0);
        for file in 0..12 {
            std::fs::write(site.source().join(format!("{file}")), noise(file, 5_000_000)).unwrap();
        }
        let tree = Tree::read(&site.source());
        let size = times(tree.bytes(), FRAMING);
        let mut early = site.receive(1, &[]);
        let mut sender = site.send(&[]);
        site.until_sent(size / 2);
        let mut at_half = site.receive(2, &[]);
        at_half.wait_for_stderr("sender at", PATIENCE).unwrap();
        let joined_at = site.sent_bytes();
        assert_ends(&mut early, 0);
        assert_ends(&mut at_half, 0);
        until_idle(&mut sender);
        let for_two = site.sent_bytes();
        let mut at_end = site.receive(3, &[]);
        assert_ends(&mut at_end, 0);
        for receiver in 1..=3 {
            tree.assert_at(&site.target(receiver));
        }
        let for_last = site.sent_bytes() - for_two;
        eprintln!("sent {:.3} times for two, {:.3} for the last", ratio(for_two, size), ratio(for_last, size));
        // What went by before the second one was there is sent twice, and what goes by while it gets the manifest.
        let most = times(size, 1.1) + joined_at.min(size) + ONE_SECOND;
        assert!(for_two < most, "{for_two} bytes sent for {size}, joined at {joined_at}");
        assert!(for_last > times(size, 0.99) && for_last < times(size, 1.1), "{for_last} bytes sent for {size}");
    });
}
