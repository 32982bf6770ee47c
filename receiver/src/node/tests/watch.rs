//! What is found wrong, and that it is over when it is.

use super::*;
use crate::node::watch::CLOCK_GONE;

fn kinds(rig: &Rig) -> Vec<Kind> {
    rig.node.progress(rig.now).findings.into_iter().map(|finding| finding.kind).collect()
}

#[test]
fn a_refused_manifest_is_found_wrong() {
    let home = tempfile::tempdir().unwrap();
    let (mut rig, mut sender) = (Rig::new(home.path(), 3), Sender::new());
    rig.node.refuse_manifest(rig.now, Digest::of(b"other"), "not the publisher's");
    rig.step(&mut sender);
    assert_eq!(kinds(&rig), [Kind::ManifestRefused]);
}

#[test]
fn a_clock_that_is_far_off_is_found_until_it_is_right() {
    let home = tempfile::tempdir().unwrap();
    let (mut rig, mut sender) = (Rig::new(home.path(), 3), Sender::new());
    rig.node.set_wall_clock(1_700_000_000_000);
    rig.step(&mut sender);
    assert_eq!(kinds(&rig), [], "the sender does not say what time it is");
    let key = |n| VerifyingKey([n; 32]);
    let off = |by: i64| u64::try_from(1_700_000_000_000_i64 + by).unwrap();
    for (by, is_off) in [(-59_000, false), (-70_000, true), (0, false), (90_000, true)] {
        rig.node.watch.on_clock(Time::ZERO, key(1), sender_address(), off(by));
        assert_eq!(kinds(&rig), if is_off { vec![Kind::ClockOff] } else { vec![] }, "{by}");
    }
    let text = &rig.node.progress(rig.now).findings[0].text;
    assert!(text.contains("90 s ahead of"), "{text}");
    // Another sender's clock is right, which says nothing of this one's.
    rig.node.watch.on_clock(Time::ZERO, key(2), sender_address(), off(0));
    assert_eq!(kinds(&rig), [Kind::ClockOff]);
    rig.node.watch.on_clock(Time::ZERO, key(2), sender_address(), off(-90_000));
    assert_eq!(kinds(&rig), [Kind::ClockOff; 2]);
    // This node's clock is set, and it was that which was wrong.
    rig.node.set_wall_clock(off(90_000));
    rig.node.watch.on_clock(Time::ZERO, key(1), sender_address(), off(90_000));
    assert_eq!(rig.node.progress(rig.now).findings.len(), 1);
    // A sender that is gone has no clock.
    rig.node.watch.on_heard(rig.now + CLOCK_GONE);
    assert_eq!(rig.node.progress(rig.now + CLOCK_GONE).findings, []);
}

#[test]
fn senders_that_are_heard_and_do_not_answer_are_found_until_one_does() {
    let home = tempfile::tempdir().unwrap();
    let (mut rig, mut sender) = (Rig::new(home.path(), 3), Sender::new());
    let from = SocketAddr::new(sender_address().ip(), 40_000);
    let mut deaf = |rig: &mut Rig, seconds: u64| {
        let end = rig.now + Duration::from_secs(seconds);
        while rig.now < end {
            rig.now += STEP;
            rig.node.handle_advertisement_datagram(rig.now, from, &mut sender.advertisement(rig.now));
            if rig.node.poll_deadline().is_some_and(|deadline| deadline.at <= rig.now) {
                rig.node.handle_timeout(rig.now);
            }
            rig.settle();
        }
    };
    deaf(&mut rig, 5);
    assert_eq!(kinds(&rig), [], "another one may take over");
    deaf(&mut rig, 15);
    assert_eq!(kinds(&rig), [Kind::NoSenderAnswers]);
    let mut sender = Sender { sequence: 1_000_000, ..Sender::new() };
    rig.steps_until(&mut sender, "answered", |node| !node.engine.snapshot().unanswered);
    assert_eq!(kinds(&rig), []);
}

#[test]
fn a_wrong_ticket_is_found_while_no_sender_is_heard() {
    let home = tempfile::tempdir().unwrap();
    let (mut rig, mut sender) = (Rig::new(home.path(), 3), Sender::new());
    for _ in 0..20 {
        rig.now += Duration::from_millis(500);
        let mut damaged = sender.advertisement(rig.now);
        *damaged.last_mut().unwrap() ^= 1;
        rig.node.handle_advertisement_datagram(rig.now, sender_address(), &mut damaged);
    }
    assert_eq!(kinds(&rig), [Kind::KeyRejected]);
    rig.step(&mut sender);
    assert_eq!(kinds(&rig), []);
}

#[test]
fn damage_and_a_failing_disk_are_counted() {
    let home = tempfile::tempdir().unwrap();
    let mut rig = received(home.path());
    assert_eq!(kinds(&rig), []);
    fs::write(home.path().join("into/file"), b"overwritten").unwrap();
    for _ in 0..2 {
        rig.node.scan(ScanRequest { deep: false, answer: None });
        rig.settle();
    }
    let found = rig.node.progress(rig.now).findings;
    assert_eq!(found.len(), 1);
    assert_eq!((found[0].kind, found[0].times), (Kind::ContentDamaged, 1), "told once until it is sound again");
    assert!(found[0].text.contains("file"), "{found:?}");
    let error =
        crate::disk::DiskError::Full { path: "x".into(), needed: 7, cause: nackcast_common::files::Errno::NOSPC };
    rig.node.handle_block_report(rig.now, blocks::Report::Trouble(error));
    assert!(kinds(&rig).contains(&Kind::DiskFailing));
}

/// Finds the one of this kind.
fn text(rig: &Rig, kind: Kind) -> Option<String> {
    rig.node.progress(rig.now).findings.into_iter().find(|finding| finding.kind == kind).map(|finding| finding.text)
}

#[test]
fn damage_is_told_to_be_healed_when_all_is_whole_again() {
    let home = tempfile::tempdir().unwrap();
    let mut rig = received(home.path());
    let mut sender = Sender::new();
    fs::write(home.path().join("into/file"), b"overwritten").unwrap();
    rig.node.scan(ScanRequest { deep: false, answer: None });
    rig.settle();
    assert!(text(&rig, Kind::ContentDamaged).unwrap().starts_with("1 file damaged or gone that had been sound: file;"));
    assert!(text(&rig, Kind::ContentDamaged).unwrap().ends_with("fetched again"));
    rig.step(&mut sender);
    let symbols = sender.file_symbols(|_| true);
    rig.hear(symbols);
    rig.steps_until(&mut sender, "whole again", |node| node.engine.is_complete());
    assert!(text(&rig, Kind::ContentDamaged).unwrap().ends_with("healed: whole again"));
}

#[test]
fn a_sender_that_is_not_heard_is_found_after_a_while_until_one_is() {
    let home = tempfile::tempdir().unwrap();
    let (mut rig, mut sender) = (Rig::new(home.path(), 3), Sender::new());
    let wait = |rig: &mut Rig, seconds| {
        rig.now += Duration::from_secs(seconds);
        rig.node.handle_timeout(rig.now);
        rig.settle();
    };
    wait(&mut rig, 29);
    assert_eq!(kinds(&rig), []);
    wait(&mut rig, 1);
    assert_eq!(kinds(&rig), [Kind::NoSenderHeard]);
    assert!(text(&rig, Kind::NoSenderHeard).unwrap().contains("239.1.1.1:7600"));
    rig.step(&mut sender);
    assert_eq!(kinds(&rig), []);
    wait(&mut rig, 20);
    assert_eq!(kinds(&rig), [], "it fell silent only now");
    wait(&mut rig, 10);
    assert_eq!(kinds(&rig), [Kind::NoSenderHeard]);
}

#[test]
fn a_receiver_that_starts_again_shows_what_it_holds() {
    let home = tempfile::tempdir().unwrap();
    drop(received(home.path()));
    let mut rig = Rig::new(home.path(), 4);
    let row = rig.node.progress(rig.now);
    assert_eq!((row.state.as_str(), row.generation), ("scanning", 1), "before the directory was looked at");
    rig.settle();
    let row = rig.node.progress(rig.now);
    assert_eq!((row.state.as_str(), row.generation), ("complete", 1));
    assert_eq!((row.objects, row.objects_done, row.bytes, row.bytes_done), (1, 1, SIZE as u64, SIZE as u64));

    // And of what is damaged, how much is left.
    fs::write(home.path().join("into/file"), b"overwritten").unwrap();
    rig.node.scan(ScanRequest { deep: false, answer: None });
    rig.settle();
    let row = rig.node.progress(rig.now);
    assert_eq!((row.objects, row.objects_done, row.bytes, row.bytes_done), (1, 0, SIZE as u64, 0));
}

#[test]
fn what_cannot_be_put_where_it_belongs_is_found_until_it_is_there() {
    let home = tempfile::tempdir().unwrap();
    let mut rig = received(home.path());
    let mut sender = Sender::new();
    let place = home.path().join("into/file");
    fs::remove_file(&place).unwrap();
    fs::create_dir_all(place.join("of somebody")).unwrap();
    let mut fetch = |rig: &mut Rig| {
        rig.node.scan(ScanRequest { deep: false, answer: None });
        rig.settle();
        rig.step(&mut sender);
        let symbols = sender.file_symbols(|_| true);
        rig.hear(symbols);
        rig.settle();
    };
    fetch(&mut rig);
    let found = rig.node.progress(rig.now).findings;
    let found = found.iter().find(|finding| finding.kind == Kind::NotInstalled).expect("it is told");
    assert_eq!(found.subject, "file");
    assert!(found.text.contains("is a directory where the dataset has a file: move it away"), "{found:?}");
    fs::remove_dir_all(&place).unwrap();
    fetch(&mut rig);
    assert_eq!(fs::read(&place).unwrap(), content());
    assert_eq!(text(&rig, Kind::NotInstalled), None, "it is there");
}

#[test]
fn a_source_that_never_answers_is_found_until_it_does() {
    let home = tempfile::tempdir().unwrap();
    let mut rig = Rig::new(home.path(), 3);
    rig.node.allow_pull(rig.now, PullWhen::Last, ["edge:7703".to_owned()]);
    let silent = |rig: &mut Rig| rig.node.handle_reached(rig.now, "edge:7703", Err("nobody there".into()));
    silent(&mut rig);
    let found = text(&rig, Kind::SourceSilent).unwrap();
    assert!(found.contains("the source edge:7702 never answered: nobody there"), "as it was given: {found}");
    rig.node.handle_reached(rig.now, "edge:7703", Ok(()));
    assert_eq!(text(&rig, Kind::SourceSilent), None);
    silent(&mut rig);
    assert_eq!(text(&rig, Kind::SourceSilent), None, "it answered once: it is no mistake of whoever named it");
}
