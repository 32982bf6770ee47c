//! Target directories that are not empty and not ours.

use std::fs;

use nackcast_testbed::netns::with_namespaces;

use crate::site::{Site, alone, assert_ends, until_idle};
use crate::tree::{Tree, copy_tree, noise};

#[test]
fn equal_files_are_adopted_and_differing_ones_need_leave() {
    let _alone = alone();
    with_namespaces(|| {
        let site = Site::new(3, 0.0);
        fs::create_dir(site.source().join("d")).unwrap();
        for (seed, name) in (0..).zip(["a", "b", "d/c"]) {
            fs::write(site.source().join(name), noise(seed, 4_000_000)).unwrap();
        }
        let tree = Tree::read(&site.source());
        let mut sender = site.send(&[]);
        until_idle(&mut sender);

        // All is here: adopted.
        copy_tree(&site.source(), &site.target(1));
        let before = site.sent_bytes();
        let mut equal = site.receive(1, &[]);
        assert_ends(&mut equal, 0);
        let for_equal = site.sent_bytes() - before;
        assert!(for_equal < 60_000, "{for_equal} bytes sent: more than the manifest");
        tree.assert_at(&site.target(1));

        // Something else stands under a name of the dataset: refused, and nothing is touched.
        copy_tree(&site.source(), &site.target(2));
        fs::write(site.target(2).join("b"), "mine").unwrap();
        fs::write(site.target(2).join("other"), "not in the dataset").unwrap();
        fs::remove_file(site.target(2).join("a")).unwrap();
        let untouched = Tree::read(&site.target(2));
        let mut differing = site.receive(2, &[]);
        assert_ends(&mut differing, 2);
        let said = differing.stderr();
        assert!(said.contains("--overwrite"), "{said}");
        assert!(said.contains("b: has 4 bytes"), "no list of what differs: {said}");
        untouched.assert_at(&site.target(2));

        // With leave: what differs and what is missing is fetched, what is not of the dataset stays.
        let before = site.sent_bytes();
        let mut overwriting = site.receive(2, &["--overwrite"]);
        assert_ends(&mut overwriting, 0);
        until_idle(&mut sender);
        let for_two = site.sent_bytes() - before;
        assert!((8_000_000..9_500_000).contains(&for_two), "{for_two} bytes sent for two files of three");
        assert_eq!(fs::read(site.target(2).join("other")).unwrap(), b"not in the dataset");
        fs::remove_file(site.target(2).join("other")).unwrap();
        tree.assert_at(&site.target(2));

        // Into nothing: everything is fetched.
        let mut empty = site.receive(3, &[]);
        assert_ends(&mut empty, 0);
        tree.assert_at(&site.target(3));
    });
}
