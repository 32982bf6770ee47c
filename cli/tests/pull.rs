//! Unicast pull with real processes in a network of namespaces: the last resort works, and comes last.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

#[path = "common/site.rs"]
#[expect(dead_code, reason = "other tests need the rest")]
mod site;
#[path = "common/tree.rs"]
#[expect(dead_code, reason = "other tests need the rest")]
mod tree;

use nackcast_testbed::fabric::Link;
use nackcast_testbed::netns::with_namespaces;
use nackcast_testbed::process::Process;

use crate::site::{PATIENCE, Site, alone, assert_ends, progress, summary, until, until_idle};
use crate::tree::{Tree, noise};

fn write(site: &Site, name: &str, seed: u64, length: usize) {
    std::fs::write(site.source().join(name), noise(seed, length)).unwrap();
}

fn number(process: &Process, field: &str) -> u64 {
    summary(process)[field].as_u64().unwrap()
}

#[test]
fn the_one_that_had_all_its_passes_pulls_and_the_others_see_nothing_of_it() {
    let _alone = alone();
    with_namespaces(|| {
        let site = Site::new(3, 0.0);
        write(&site, "a", 1, 700_000);
        write(&site, "b", 2, 3000);
        let tree = Tree::read(&site.source());
        // Nothing of the content reaches the third at first, as if its loss were total.
        let mut receivers: Vec<_> = (1..=2).map(|receiver| site.receive(receiver, &[])).collect();
        let mut sender = site.send(&["--max-passes", "1"]);
        for receiver in &mut receivers {
            assert_ends(receiver, 0);
        }
        until_idle(&mut sender);
        let multicast = site.sent_bytes();
        site.set_link(3, Link::lossy(0.6));
        let mut late = site.receive(3, &[]);
        late.wait_for_stderr("had all their passes", PATIENCE).unwrap();
        assert_ends(&mut late, 0);
        for receiver in 1..=3 {
            tree.assert_at(&site.target(receiver));
        }
        let more = site.sent_bytes() - multicast;
        eprintln!("pulled {} bytes behind 60 % loss; {more} multicast bytes meanwhile", number(&late, "pulled_bytes"));
        // The manifest came by multicast, if it had passes; the content did not.
        assert!(number(&late, "pulled_bytes") >= 703_000, "{}", summary(&late));
        assert!(receivers.iter().all(|receiver| number(receiver, "pulled_bytes") == 0));
        assert!(more < 200_000, "{more} bytes were multicast for one receiver that pulls");
        assert!(progress(&sender)["unicast_bytes"].as_u64().unwrap() >= 703_000);
    });
}

#[test]
fn receivers_finish_from_each_other_when_no_sender_is_left() {
    let _alone = alone();
    with_namespaces(|| {
        let site = Site::new(3, 0.0);
        for file in 0..40 {
            write(&site, &format!("small-{file}"), file, 30_000);
        }
        // Three blocks, and so many that their hashes are an object of their own.
        write(&site, "middle", 100, 700_000);
        write(&site, "large", 101, 6_000_000);
        let tree = Tree::read(&site.source());
        let size = tree.bytes();
        let from_first = site.peer(1);
        let first = site.receive_on(1, &["--serve-peers", "--unicast-rate", "200mbit"]);
        let mut second = site.receive(2, &["--source", &from_first]);
        let mut sender = site.send(&["--rate", "20mbit"]);
        // The second loses the way to everybody in the middle of the transfer.
        until("the second receiver has a part", || progress(&second)["bytes_done"].as_u64().unwrap_or(0) > size / 5);
        site.set_link(2, Link::lossy(1.0));
        until("the first receiver is complete", || progress(&first)["state"] == "complete");
        sender.kill9().unwrap();
        site.set_link(2, Link::default());
        assert_ends(&mut second, 0);
        tree.assert_at(&site.target(2));
        // And one that comes when all is over: not even the manifest is sent any more.
        let mut third = site.receive(3, &["--source", &from_first]);
        assert_ends(&mut third, 0);
        tree.assert_at(&site.target(3));
        let (second, third) = (number(&second, "pulled_bytes"), number(&third, "pulled_bytes"));
        eprintln!("of {size} bytes the second receiver pulled {second}, the third {third}");
        assert!(second > 0 && second < size, "what was multicast before is not pulled: {second} of {size}");
        assert!(third >= size, "{third} of {size}");
    });
}

#[test]
fn no_byte_is_pulled_while_multicast_passes_remain() {
    let _alone = alone();
    with_namespaces(|| {
        let site = Site::new(3, 0.2);
        for file in 0..10 {
            write(&site, &format!("{file}"), file, 500_000);
        }
        let tree = Tree::read(&site.source());
        let mut receivers: Vec<_> = (1..=2).map(|receiver| site.receive(receiver, &[])).collect();
        let mut sender = site.send(&["--rate", "50mbit"]);
        for receiver in &mut receivers {
            assert_ends(receiver, 0);
        }
        until_idle(&mut sender);
        // One that comes late asks for everything: the object's passes are not used up.
        receivers.push(site.receive(3, &[]));
        assert_ends(&mut receivers[2], 0);
        for receiver in 1..=3 {
            tree.assert_at(&site.target(receiver));
            assert!(site.given(receiver).dropped_by_fault > 0, "nothing was lost on the way to receiver {receiver}");
        }
        for receiver in &receivers {
            assert_eq!((number(receiver, "pulled_bytes"), number(receiver, "unicast_wanted")), (0, 0));
        }
        assert_eq!(progress(&sender)["unicast_bytes"], 0);
    });
}
