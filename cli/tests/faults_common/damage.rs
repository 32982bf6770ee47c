//! What happens to an installed dataset, and its healing.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;

use nackcast_testbed::netns::with_namespaces;
use nackcast_testbed::process::Signal;

use crate::stage::{PATIENCE, Stage, fill, wait_until_complete, write};
use crate::tree;

const BLOCK: u64 = 256 << 10;
/// Advertisements and digests of the time that a test takes.
const CHATTER: u64 = 150_000;

/// Flips a byte at each place and leaves size and modification time as they were, as a failing disk does.
fn flip(path: &Path, places: &[u64]) {
    let file = File::options().read(true).write(true).open(path).unwrap();
    let modified = file.metadata().unwrap().modified().unwrap();
    for &place in places {
        let mut byte = [0];
        file.read_exact_at(&mut byte, place).unwrap();
        file.write_all_at(&[byte[0] ^ 0x40], place).unwrap();
    }
    file.set_modified(modified).unwrap();
}

fn problems(scan: &serde_json::Value) -> Vec<String> {
    scan["problems"].as_array().unwrap().iter().map(|line| line.as_str().unwrap().to_owned()).collect()
}

#[test]
fn damage_is_found_and_healed_and_nothing_else_is_touched() {
    with_namespaces(|| {
        let stage = Stage::new(&["a", "b"], 0.02);
        fill(&stage.source(), 200);
        write(&stage.source().join("cut.bin"), 7, 3 << 20);
        write(&stage.source().join("gone.bin"), 8, 1 << 20);
        let mut receivers = ["a", "b"].map(|name| stage.receive(name, &[]));
        let mut sender = stage.send(&[]);
        receivers.iter_mut().for_each(|receiver| wait_until_complete(receiver, 1));
        ["a", "b"].iter().for_each(|name| stage.assert_same(name));
        let other = tree::of(&stage.target("b"));

        // Bytes flipped where only a deep scan sees it, in two blocks of a large file and in a file of a pack.
        let target = stage.target("a");
        let before = tree::of(&target);
        let sent = stage.sent();
        flip(&target.join("large.bin"), &[5 * BLOCK + 17, 40 * BLOCK, 40 * BLOCK + 99_000]);
        flip(&target.join("small/3/24"), &[50]);
        let scan = stage.scan("a", &["--deep"]);
        assert_eq!((&scan["missing"], &scan["damaged"]), (&0.into(), &2.into()), "{scan}");
        assert_eq!(problems(&scan), ["damaged: large.bin: content", "damaged: small/3/24: content"]);
        wait_until_complete(&mut receivers[0], 2);
        stage.assert_same("a");
        let healed = tree::of(&target);
        tree::assert_untouched(&before, &healed, &["large.bin", "small/3/24"]);
        let cost = stage.sent() - sent;
        assert!(cost > 3 * BLOCK, "three blocks were damaged, and {cost} bytes sent");
        assert!(cost < 3 * BLOCK * 5 / 4 + CHATTER, "three blocks were damaged, and {cost} bytes sent");

        // A file cut, and one gone: a quick scan sees these.
        let sent = stage.sent();
        File::options().write(true).open(target.join("cut.bin")).unwrap().set_len(4 * BLOCK + 100).unwrap();
        std::fs::remove_file(target.join("gone.bin")).unwrap();
        receivers[0].signal(Signal::SIGHUP).unwrap();
        wait_until_complete(&mut receivers[0], 3);
        stage.assert_same("a");
        tree::assert_untouched(&healed, &tree::of(&target), &["cut.bin", "gone.bin"]);
        let (cost, lost) = (stage.sent() - sent, (8 + 4) * BLOCK);
        assert!(cost > lost && cost < lost * 6 / 5 + CHATTER, "{lost} bytes were lost, and {cost} sent");
        assert_eq!(stage.scan("a", &["--deep"])["changed"], false);
        assert_eq!(tree::of(&stage.target("b")), other, "another receiver is not touched");
        assert!(sender.try_wait().unwrap().is_none());
    });
}

#[test]
fn a_symlink_that_leads_out_of_the_target_is_not_followed() {
    with_namespaces(|| {
        let stage = Stage::new(&["a"], 0.0);
        fill(&stage.source(), 50);
        write(&stage.source().join("small/3/large"), 9, 1 << 20);
        let mut receiver = stage.receive("a", &[]);
        let mut sender = stage.send(&[]);
        wait_until_complete(&mut receiver, 1);

        let outside = stage.path("outside");
        std::fs::create_dir(&outside).unwrap();
        std::fs::write(outside.join("3"), "mine").unwrap();
        std::fs::write(outside.join("24"), "mine").unwrap();
        std::fs::write(outside.join("precious"), "mine").unwrap();
        let before = tree::of(&outside);
        // A directory of the dataset becomes a way out, and so does a file of it.
        let target = stage.target("a");
        std::fs::remove_dir_all(target.join("small/3")).unwrap();
        std::os::unix::fs::symlink(&outside, target.join("small/3")).unwrap();
        std::fs::remove_file(target.join("large.bin")).unwrap();
        std::os::unix::fs::symlink(outside.join("precious"), target.join("large.bin")).unwrap();
        let scan = stage.scan("a", &[]);
        assert_eq!(scan["changed"], true, "{scan}");
        // A directory that became a symlink may be somebody's wish: it is complained about, and never followed.
        receiver.wait_for_stderr("small/3 is a symbolic link where the dataset has a directory", PATIENCE).unwrap();
        assert_eq!(tree::of(&outside), before, "nothing outside was touched");
        std::fs::remove_file(target.join("small/3")).unwrap();
        receiver.signal(Signal::SIGHUP).unwrap();
        wait_until_complete(&mut receiver, 2);
        stage.assert_same("a");
        assert_eq!(tree::of(&outside), before, "nothing outside was touched");
        assert!(sender.try_wait().unwrap().is_none() && receiver.try_wait().unwrap().is_none());
    });
}
