//! What a tree may hold: every name, kind and size.

use std::ffi::OsStr;
use std::fs::{self, File};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt, symlink};
use std::time::{Duration, UNIX_EPOCH};

use nackcast_testbed::netns::with_namespaces;

use crate::site::{Site, alone, assert_ends, summary};
use crate::tree::{Tree, noise};

const BLOCK: usize = 256 << 10;
const SYMBOL: usize = 1400;

#[test]
fn every_name_kind_and_size_arrives() {
    let _alone = alone();
    with_namespaces(|| {
        let site = Site::new(2, 0.03);
        odd_names(&site);
        odd_kinds(&site);
        odd_sizes(&site);
        let tree = Tree::read(&site.source());
        let mut receivers = [site.receive(1, &[]), site.receive(2, &[])];
        let mut sender = site.send(&["--once", "--expect", "2"]);
        for receiver in &mut receivers {
            assert_ends(receiver, 0);
        }
        assert_ends(&mut sender, 0);
        assert_eq!(summary(&sender)["problems"], serde_json::json!([]));
        for receiver in 1..=2 {
            tree.assert_at(&site.target(receiver));
            let parts = site.target(receiver).join(".nackcast.part");
            assert!(!parts.exists(), "{} is left", parts.display());
        }
    });
}

fn odd_names(site: &Site) {
    let longest = [b'n'; 255];
    let names: [&[u8]; 9] = [
        b"not utf-8: \xff\xfe\x80",
        b"new\nline",
        b"tab\tquote\"back\\slash",
        b"-dash",
        b" space ",
        b"...",
        "umlaut \u{fc} and nfd u\u{308}".as_bytes(),
        b"\x01\x1b[31m",
        &longest,
    ];
    for (seed, name) in (0..).zip(names) {
        let name = OsStr::from_bytes(name);
        fs::write(site.source().join(name), noise(seed, 3000)).unwrap();
        let directory = site.source().join("directories").join(name);
        fs::create_dir_all(&directory).unwrap();
        fs::write(directory.join(name), noise(seed + 100, 300)).unwrap();
    }
    let mut deep = site.source();
    for level in 0..120 {
        deep.push(format!("level-{level}"));
    }
    fs::create_dir_all(&deep).unwrap();
    fs::write(deep.join("bottom"), "here").unwrap();
}

fn odd_kinds(site: &Site) {
    let source = site.source();
    fs::create_dir(source.join("empty directory")).unwrap();
    fs::set_permissions(source.join("empty directory"), PermissionsExt::from_mode(0o750)).unwrap();
    symlink("new\nline", source.join("link")).unwrap();
    symlink("/no/such/place", source.join("dangling link")).unwrap();
    symlink(OsStr::from_bytes(b"../\xff"), source.join("link out of the tree")).unwrap();
    for (name, mode) in [("script", 0o755), ("secret", 0o600), ("read only", 0o444), ("set uid", 0o4755)] {
        let path = source.join(name);
        fs::write(&path, name).unwrap();
        fs::set_permissions(&path, PermissionsExt::from_mode(mode)).unwrap();
    }
    for (name, at) in [("old", Duration::new(1, 1)), ("new", Duration::new(4_000_000_000, 999_999_999))] {
        File::create(source.join(name)).unwrap().set_modified(UNIX_EPOCH + at).unwrap();
    }
    File::create(source.join("ancient")).unwrap().set_modified(UNIX_EPOCH - Duration::from_millis(1500)).unwrap();
}

fn odd_sizes(site: &Site) {
    let directory = site.source().join("sizes");
    fs::create_dir(&directory).unwrap();
    let around = |size: usize| [size - 1, size, size + 1];
    let sizes = [0, 1].into_iter().chain([SYMBOL, BLOCK, 2 * BLOCK, 8 * BLOCK].into_iter().flat_map(around));
    for size in sizes {
        fs::write(directory.join(format!("{size}")), noise(size as u64, size)).unwrap();
    }
    for empty in 0..50 {
        File::create(directory.join(format!("empty-{empty}"))).unwrap();
    }
    // Block hashes of more than 8 blocks are an object of their own, and of more than 16 MiB one of several blocks.
    fs::write(directory.join("large"), noise(9, (17 << 20) + 12_345)).unwrap();
    let sparse = File::create(directory.join("sparse")).unwrap();
    sparse.set_len(20 << 20).unwrap();
    sparse.write_all_at(b"an island", 9_999_999).unwrap();
    assert!(sparse.metadata().unwrap().blocks() * 512 < 1 << 20, "this file system has no sparse files");
}

#[test]
fn exit_codes_say_whether_all_receivers_completed() {
    let _alone = alone();
    with_namespaces(|| {
        let site = Site::new(2, 0.0);
        fs::write(site.source().join("file"), noise(1, 20_000_000)).unwrap();
        // The first pass begins when both are there; then one dies.
        let mut sender = site.send(&["--once", "--expect", "2", "--linger", "3s"]);
        let mut first = site.receive(1, &[]);
        let mut second = site.receive(2, &[]);
        site.until_sent(3_000_000);
        second.kill9().unwrap();
        assert_ends(&mut first, 0);
        assert_ends(&mut sender, 1);
        let said = summary(&sender);
        assert_eq!((&said["receivers"], &said["receivers_complete"]), (&2.into(), &1.into()), "{said}");
        // Without --expect it is enough to have sent everything.
        let mut sender = site.send(&["--once", "--linger", "3s"]);
        assert_ends(&mut sender, 0);
        // The one that died needs a sender that is there: it waits, though all was sent before.
        let mut sender = site.send(&["--once", "--expect", "1", "--linger", "1s"]);
        assert!(sender.wait(Duration::from_secs(12)).is_err(), "{}", sender.tail());
        let mut second = site.receive(2, &[]);
        assert_ends(&mut second, 0);
        assert_ends(&mut sender, 0);
        assert_eq!(summary(&sender)["receivers_complete"], 1);
        Tree::read(&site.source()).assert_at(&site.target(2));
    });
}

#[test]
fn a_file_that_vanishes_before_it_is_sent_fails_the_sender_by_name() {
    let _alone = alone();
    with_namespaces(|| {
        let site = Site::new(1, 0.0);
        fs::write(site.source().join("a"), noise(1, 20_000_000)).unwrap();
        fs::write(site.source().join("b"), noise(2, 20_000_000)).unwrap();
        // One job at a time: what is open already could still be sent.
        let mut sender = site.send(&["--once", "--expect", "1", "--linger", "3s", "--max-jobs", "1"]);
        let mut receiver = site.receive(1, &[]);
        site.until_sent(3_000_000);
        fs::remove_file(site.source().join("b")).unwrap();
        assert_ends(&mut sender, 1);
        let problems = summary(&sender)["problems"].to_string();
        assert!(problems.contains('b'), "{problems}");
        // It follows the generation that knows of this.
        assert_ends(&mut receiver, 0);
        assert_eq!(fs::read(site.target(1).join("a")).unwrap(), noise(1, 20_000_000));
        assert!(!site.target(1).join("b").exists(), "never a partial file under its name");
    });
}
