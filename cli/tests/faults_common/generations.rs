//! What happens when the sender's directory changes, between generations and while it is sent.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::time::Duration;

use nackcast_testbed::netns::with_namespaces;
use nackcast_testbed::process::{Process, Signal};

use crate::stage::{PATIENCE, Stage, end, fill, noise, pause, summary, wait_for_generation, wait_until, write};
use crate::tree::{self, Kind};

/// Advertisements, digests and the manifest of a small tree, for as long as a step of the test takes.
const CHATTER: u64 = 200_000;
const CHANGING: &str = "changing.bin";
const CHANGING_LENGTH: usize = 16 << 20;

/// A sender and two receivers of which one prunes; what each step of the test costs.
struct Followers {
    stage: Stage,
    sender: Process,
    receivers: [Process; 2],
    generation: u64,
    sent: u64,
}

impl Followers {
    fn start() -> Self {
        let stage = Stage::new(&["keeps", "prunes"], 0.01);
        fill(&stage.source(), 200);
        let receivers = [stage.receive("keeps", &[]), stage.receive("prunes", &["--prune"])];
        let sender = stage.send(&["--no-watch"]);
        let mut followers = Self { stage, sender, receivers, generation: 0, sent: 0 };
        followers.follow();
        followers
    }

    /// Lets all follow to the next generation; how many bytes that took.
    fn follow(&mut self) -> u64 {
        let newest = self.receivers.each_mut().map(|receiver| wait_for_generation(receiver, self.generation));
        assert_eq!(newest[0], newest[1], "both follow to the same");
        self.generation = newest[0];
        self.stage.assert_same("prunes");
        let kept = tree::of(&self.stage.target("keeps"));
        tree::assert_subset(&self.stage.source_tree(), &kept, "keeps");
        let sent = self.stage.sent();
        sent - std::mem::replace(&mut self.sent, sent)
    }

    fn change(&mut self, change: impl FnOnce(&Path)) -> u64 {
        self.sent = self.stage.sent();
        change(&self.stage.source());
        self.sender.signal(Signal::SIGHUP).unwrap();
        self.follow()
    }

    fn has(&self, receiver: &str, path: &str) -> bool {
        self.stage.target(receiver).join(path).exists()
    }
}

#[test]
fn receivers_follow_the_senders_directory_and_only_changes_are_sent() {
    with_namespaces(|| {
        let mut followers = Followers::start();
        let before = tree::of(&followers.stage.target("keeps"));

        let added = followers.change(|source| write(&source.join("new/added.bin"), 77, 2 << 20));
        assert!(added > 2 << 20 && added < (2 << 20) * 6 / 5 + CHATTER, "2 MiB were added, and {added} bytes sent");
        let changed = followers.change(|source| write(&source.join("new/added.bin"), 78, 1 << 20));
        assert!(changed > 1 << 20 && changed < (1 << 20) * 6 / 5 + CHATTER, "1 MiB changed, and {changed} bytes sent");
        let renamed = followers.change(|source| {
            std::fs::rename(source.join("large.bin"), source.join("new/moved.bin")).unwrap();
        });
        assert!(renamed < CHATTER, "a file was renamed, and {renamed} bytes sent");
        assert!(!followers.has("prunes", "large.bin") && followers.has("keeps", "large.bin"));
        let renamed = followers.change(|source| std::fs::rename(source.join("small"), source.join("little")).unwrap());
        // What is at hand is no reason to send a pack again.
        assert!(renamed < CHATTER, "a directory was renamed, and {renamed} bytes sent");
        let deleted = followers.change(|source| {
            std::fs::remove_file(source.join("new/added.bin")).unwrap();
            std::fs::remove_dir_all(source.join("little/3")).unwrap();
        });
        assert!(deleted < 900_000 + CHATTER, "files were deleted, and {deleted} bytes sent");
        assert!(!followers.has("prunes", "little/3") && !followers.has("prunes", "new/added.bin"));
        assert!(followers.has("keeps", "little/3/24") && followers.has("keeps", "new/added.bin"));
        let after = tree::of(&followers.stage.target("keeps"));
        for (path, was) in before.iter().filter(|(_, was)| was.kind != Kind::Directory) {
            assert_eq!(after.get(path).map(|now| &now.kind), Some(&was.kind), "{} was kept", path.display());
        }
        let said = end(&mut followers.sender);
        assert_eq!(said["channels"][0]["generation"], followers.generation);
        for receiver in &mut followers.receivers {
            let said = end(receiver);
            assert_eq!((&said["channels"][0]["complete"], &said["success"]), (&true.into(), &true.into()), "{said}");
        }
    });
}

/// One file of 16 MiB and some of a few bytes; returns in the middle of the first's first pass.
fn begin_to_send(stage: &Stage, more: &[&str]) -> Process {
    for number in 0..20 {
        write(&stage.source().join(format!("small/{number}")), number, 1000);
    }
    write(&stage.source().join(CHANGING), 31, CHANGING_LENGTH);
    // Slow enough to be in the middle of it.
    let mut sender = stage.send(&[&["--rate", "40mbit"], more].concat());
    wait_until(&mut sender, |said| said.contains("serving"));
    while stage.sent() < 3 << 20 {
        assert!(sender.try_wait().unwrap().is_none(), "{}", sender.stderr());
        pause(Duration::from_millis(5));
    }
    sender
}

/// All blocks that were not read yet are others now; the size stays.
fn change(stage: &Stage) {
    let file = File::options().write(true).open(stage.source().join(CHANGING)).unwrap();
    file.write_all_at(&noise(32, CHANGING_LENGTH), 0).unwrap();
}

#[test]
fn a_file_that_changes_while_it_is_sent_gets_a_message_and_the_next_generation() {
    with_namespaces(|| {
        let stage = Stage::new(&["a", "b"], 0.01);
        let mut receivers = ["a", "b"].map(|name| stage.receive(name, &[]));
        let mut sender = begin_to_send(&stage, &[]);
        change(&stage);
        sender.wait_for_stderr(&format!("{CHANGING} changed since it was hashed"), PATIENCE).unwrap();
        let newest = receivers.each_mut().map(|receiver| wait_for_generation(receiver, 0));
        ["a", "b"].iter().for_each(|name| stage.assert_same(name));
        assert!(receivers.iter().all(|receiver| receiver.stderr().matches("is complete and verified").count() == 1));
        let last = end(&mut sender)["channels"][0]["generation"].as_u64();
        assert_eq!(newest.map(Some), [last; 2], "only the next generation was ever whole");
    });
}

/// Everything that a receiver has under the file's name is of one version or of the other, and never a mix.
fn assert_no_mix(stage: &Stage, receiver: &str) {
    let versions = [31, 32].map(|seed| Kind::File(blake3::hash(&noise(seed, CHANGING_LENGTH))));
    if let Some(found) = tree::of(&stage.target(receiver)).get(Path::new(CHANGING)) {
        assert!(versions.contains(&found.kind), "a mix of two versions");
    }
}

#[test]
fn a_sender_that_runs_once_exits_1_and_names_the_file_that_changed_under_it() {
    with_namespaces(|| {
        let stage = Stage::new(&["a"], 0.0);
        let mut receiver = stage.receive("a", &[]);
        let mut sender = begin_to_send(&stage, &["--once", "--linger", "1s", "--no-watch"]);
        change(&stage);
        assert_eq!(sender.wait(PATIENCE).unwrap().code(), Some(1), "{}", sender.stderr());
        let said = summary(&sender);
        let problems = said["channels"][0]["problems"].to_string();
        assert!(problems.contains(CHANGING) && said["success"] == false, "{said}");
        end(&mut receiver);
        assert_no_mix(&stage, "a");
    });
}

#[test]
fn a_sender_that_runs_once_exits_1_and_names_the_file_that_vanished_under_it() {
    with_namespaces(|| {
        let stage = Stage::new(&["a"], 0.0);
        let mut receiver = stage.receive("a", &[]);
        let mut sender = begin_to_send(&stage, &["--once", "--linger", "1s", "--no-watch"]);
        std::fs::rename(stage.source().join(CHANGING), stage.path("away")).unwrap();
        assert_eq!(sender.wait(PATIENCE).unwrap().code(), Some(1), "{}", sender.stderr());
        let said = summary(&sender);
        assert!(said["channels"][0]["problems"].to_string().contains(CHANGING), "{said}");
        end(&mut receiver);
        assert_no_mix(&stage, "a");
    });
}
