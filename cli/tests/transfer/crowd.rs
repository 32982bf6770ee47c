//! Many receivers, and receivers that come late.

use nackcast_testbed::netns::with_namespaces;

use crate::site::{FRAMING, Site, alone, assert_ends, summary, until_idle};
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
        let mut sender = site.send(&["--once", "--expect", "8", "--linger", "2s"]);
        for receiver in &mut receivers {
            assert_ends(receiver, 0);
        }
        assert_ends(&mut sender, 0);
        let said = summary(&sender);
        assert_eq!((&said["receivers"], &said["receivers_complete"]), (&8.into(), &8.into()), "{said}");
        for receiver in 1..=8 {
            tree.assert_at(&site.target(receiver));
            assert!(site.given(receiver).dropped_by_fault > 0, "nothing was lost on the way to receiver {receiver}");
        }
        let sent = ratio(site.sent_bytes(), tree.bytes()) / FRAMING;
        eprintln!("{} paths, {} bytes to 8 receivers with 2 % loss: sent {sent:.3} times", tree.len(), tree.bytes());
        assert!(sent < 1.5, "repair is no retransmission: sent {sent:.3} times the size");
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
        // Half is sent twice, and what went by while the second one started.
        assert!(for_two < times(size, 1.9), "{for_two} bytes sent for {size}");
        assert!(for_last > times(size, 0.99) && for_last < times(size, 1.1), "{for_last} bytes sent for {size}");
    });
}
