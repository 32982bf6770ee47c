use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};

use rustix::fs::{CWD, RenameFlags};
use rustix::thread::{CapabilitySet, capabilities, set_capabilities};

use super::*;
use crate::disk::testing::{Dataset, MTIME, Place, path};

const LOOSE: Policy = Policy { mode_mask: 0o777, obstacles: Obstacles::Remove };

fn at(place: &Place, name: impl AsRef<[u8]>) -> std::path::PathBuf {
    place.path().join(OsStr::from_bytes(name.as_ref()))
}

/// Root may write anywhere; this thread then may not.
fn as_an_ordinary_user() {
    let mut sets = capabilities(None).unwrap();
    let all = CapabilitySet::DAC_OVERRIDE | CapabilitySet::DAC_READ_SEARCH;
    sets.effective.remove(all);
    set_capabilities(None, sets).unwrap();
}

fn set_mode(path: &Path, mode: u32) {
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).unwrap();
}

#[test]
fn every_kind_and_every_name_is_installed_exactly() {
    let place = Place::new();
    let long = [b'n'; 255];
    let big: Vec<u8> = (0..5000_u32).map(|i| i.to_le_bytes()[0]).collect();
    let built = Dataset::default()
        .file(b"big", &big, 0o644)
        .file(b"copy of big", &big, 0o4755)
        .slice(b"\xff\xfe not UTF-8", b"small", 0o600)
        .slice(b"new\nline", b"other", 0o400)
        .file(long, b"", 0o000)
        .file(b"deep/a/b/c/d", b"x", 0o640)
        .directory(b"empty", 0o750)
        .symlink(b"link", b"../no/such/\xff place")
        .build();
    place.install(&built, Policy::default());
    for entry in built.manifest.entries() {
        let whole = at(&place, entry.path.as_bytes());
        let m = std::fs::symlink_metadata(&whole).unwrap();
        assert_eq!((m.mtime(), m.mtime_nsec()), (MTIME.seconds, MTIME.nanos.into()), "{:?}", entry.path);
        match &entry.kind {
            EntryKind::Symlink { target } => {
                assert_eq!(std::fs::read_link(&whole).unwrap().as_os_str().as_bytes(), &**target);
            }
            EntryKind::Directory => assert_eq!(m.mode() & 0o7777, entry.mode),
            EntryKind::File { digest, .. } => {
                assert_eq!(m.mode() & 0o7777, entry.mode & 0o777);
                assert_eq!(Digest::of(&std::fs::read(&whole).unwrap()), *digest);
            }
        }
    }
    assert_eq!(std::fs::metadata(at(&place, b"deep/a")).unwrap().mode() & 0o7777, 0o755);
    assert!(!place.path().join(PART_DIRECTORY).exists());
}

#[test]
fn all_mode_bits_are_set_when_asked_for() {
    let place = Place::new();
    let built = Dataset::default().file(b"a", b"x", 0o6755).directory(b"d", 0o1777).build();
    place.install(&built, Policy { mode_mask: 0o7777, ..Policy::default() });
    assert_eq!(std::fs::metadata(at(&place, b"a")).unwrap().mode() & 0o7777, 0o6755);
    assert_eq!(std::fs::metadata(at(&place, b"d")).unwrap().mode() & 0o7777, 0o1777);
}

#[test]
fn a_stamp_is_that_of_the_installed_file() {
    let place = Place::new();
    let built = Dataset::default().file(b"a", b"x", 0o644).build();
    let mut installer = place.installer(Policy::default());
    built.stage_all(&place.store, &mut installer);
    let outcome = installer.commit().unwrap().pop().unwrap();
    let stamp = outcome.result.unwrap().unwrap();
    let facts = place.target.facts(&path(b"a")).unwrap().unwrap();
    assert!(stamp.holds(&facts, &Digest::of(b"x")));
    assert!(!stamp.holds(&facts, &Digest::of(b"y")));
}

#[test]
fn files_and_links_are_replaced_and_nothing_is_followed() {
    let place = Place::new();
    let outside = tempfile::tempdir().unwrap();
    let victim = outside.path().join("victim");
    std::fs::write(&victim, b"untouched").unwrap();
    std::fs::write(at(&place, b"a"), b"old").unwrap();
    symlink(&victim, at(&place, b"b")).unwrap();
    symlink(&victim, at(&place, b"c")).unwrap();
    std::fs::create_dir(at(&place, b"d")).unwrap();
    let built = Dataset::default()
        .file(b"a", b"new", 0o644)
        .file(b"b", b"new", 0o644)
        .symlink(b"c", b"a")
        .file(b"d", b"an empty directory was here", 0o644)
        .build();
    place.install(&built, Policy::default());
    assert_eq!(std::fs::read(&victim).unwrap(), b"untouched");
    assert_eq!(std::fs::read(at(&place, b"b")).unwrap(), b"new");
    assert!(std::fs::symlink_metadata(at(&place, b"b")).unwrap().is_file());
    assert_eq!(std::fs::read(at(&place, b"c")).unwrap(), b"new");
}

#[test]
fn a_planted_directory_link_never_leads_out() {
    let outside = tempfile::tempdir().unwrap();
    for policy in [Policy::default(), LOOSE] {
        let place = Place::new();
        symlink(outside.path(), at(&place, b"d")).unwrap();
        let built = Dataset::default().file(b"d/x", b"new", 0o644).build();
        let mut installer = place.installer(policy);
        built.stage_all(&place.store, &mut installer);
        let result = installer.commit().unwrap().pop().unwrap().result;
        match policy.obstacles {
            Obstacles::Keep => {
                let InstallError::Conflict(conflict) = result.unwrap_err() else { panic!() };
                assert_eq!((conflict.found, conflict.wanted), (Kind::Symlink, Kind::Directory));
            }
            Obstacles::Remove => assert!(at(&place, b"d/x").exists() && result.is_ok()),
        }
        assert_eq!(std::fs::read_dir(outside.path()).unwrap().count(), 0);
    }
}

/// Says that it is over when it is dropped.
struct Ends<'a>(&'a AtomicBool);

impl Drop for Ends<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

#[test]
fn a_link_swapped_in_while_installing_never_leads_out() {
    let place = Place::new();
    let outside = tempfile::tempdir().unwrap();
    std::fs::write(outside.path().join("victim"), b"").unwrap();
    std::fs::create_dir(at(&place, b"d")).unwrap();
    // Else pruning may find it empty and remove it, and there is nothing to swap.
    std::fs::write(at(&place, b"d/stays"), b"").unwrap();
    symlink(outside.path(), at(&place, b"swap")).unwrap();
    let done = AtomicBool::new(false);
    let (mut installed, mut refused) = (0, 0);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !done.load(Ordering::Relaxed) {
                let (directory, link) = (at(&place, b"d"), at(&place, b"swap"));
                rustix::fs::renameat_with(CWD, &directory, CWD, &link, RenameFlags::EXCHANGE).unwrap();
            }
        });
        // Also after a panic: else the swapping would go on for ever.
        let _ends = Ends(&done);
        let mut installer = place.installer(Policy::default());
        let none = Dataset::default().build().manifest;
        // Bounded, so that a fault shows as a failure and not as a test without end.
        for i in 0..5000 {
            let built = Dataset::default().file(format!("d/{i}"), b"", 0o644).build();
            installer.stage(&built.manifest.entries()[0], Source::Nothing).unwrap();
            match installer.commit().map(|mut outcomes| outcomes.remove(0).result) {
                Ok(Ok(_)) => installed += 1,
                Ok(Err(_)) | Err(_) => refused += 1,
            }
            installer.prune(&[path(b"d/victim")], &none).unwrap();
            if i >= 300 && installed > 0 && refused > 0 {
                break;
            }
        }
    });
    let left: Vec<_> = std::fs::read_dir(outside.path()).unwrap().map(|e| e.unwrap().file_name()).collect();
    assert_eq!(left, ["victim"]);
    assert!(installed > 0 && refused > 0, "{installed} installed, {refused} refused");
}

#[test]
fn obstacles_are_conflicts_unless_overwriting_is_allowed() {
    let place = Place::new();
    std::fs::create_dir_all(at(&place, b"a/in/it")).unwrap();
    std::fs::write(at(&place, b"b"), b"a file").unwrap();
    let built = Dataset::default().file(b"a", b"x", 0o644).file(b"b/c/d", b"y", 0o644).build();
    let mut installer = place.installer(Policy::default());
    built.stage_all(&place.store, &mut installer);
    let outcomes = installer.commit().unwrap();
    let found: Vec<_> = outcomes
        .into_iter()
        .map(|o| match o.result {
            Err(InstallError::Conflict(c)) => (c.found, c.wanted),
            other => panic!("{other:?}"),
        })
        .collect();
    assert_eq!(found, [(Kind::Directory, Kind::File), (Kind::File, Kind::Directory)]);
    assert!(at(&place, b"a/in/it").exists());
    place.install(&built, LOOSE);
    assert_eq!(std::fs::read(at(&place, b"a")).unwrap(), b"x");
    assert_eq!(std::fs::read(at(&place, b"b/c/d")).unwrap(), b"y");
}

#[test]
fn read_only_directories_can_be_worked_in_and_stay_read_only() {
    std::thread::spawn(|| {
        as_an_ordinary_user();
        let place = Place::new();
        let first = Dataset::default()
            .directory(b"listed", 0o555)
            .directory(b"listed/inner", 0o111)
            .file(b"listed/inner/a", b"1", 0o444)
            .file(b"other/a", b"1", 0o444)
            .build();
        place.install(&first, Policy::default());
        set_mode(&at(&place, b"other"), 0o500);
        assert!(std::fs::write(at(&place, b"listed/new"), b"").is_err(), "the test runs without rights of root");
        let second = Dataset::default()
            .directory(b"listed", 0o555)
            .directory(b"listed/inner", 0o111)
            .file(b"listed/inner/a", b"2", 0o444)
            .file(b"listed/inner/deeper/b", b"3", 0o000)
            .file(b"other/a", b"2", 0o444)
            .build();
        place.install(&second, Policy::default());
        let mode = |name: &[u8]| std::fs::metadata(at(&place, name)).unwrap().mode() & 0o7777;
        assert_eq!((mode(b"listed"), mode(b"listed/inner"), mode(b"other")), (0o555, 0o111, 0o500));
        assert_eq!(std::fs::read(at(&place, b"listed/inner/a")).unwrap(), b"2");
        let mut installer = place.installer(Policy::default());
        let none = Dataset::default().build().manifest;
        let pruned = installer.prune(&[path(b"listed/inner/a"), path(b"listed/inner/deeper/b")], &none).unwrap();
        assert!(pruned.kept.is_empty(), "{pruned:?}");
        installer.finish_directories(&none).unwrap();
        assert!(!at(&place, b"listed").exists(), "empty directories went too");
    })
    .join()
    .unwrap();
}

#[test]
fn wrong_bytes_are_never_installed() {
    let place = Place::new();
    std::fs::write(at(&place, b"a"), b"old").unwrap();
    std::fs::write(at(&place, b"source"), b"nex").unwrap();
    let built = Dataset::default().file(b"a", b"new", 0o644).slice(b"b", b"packed", 0o644).build();
    let mut installer = place.installer(Policy::default());
    let from = path(b"source");
    let error = installer.stage(built.entry(b"a"), Source::Local { from: &from, leaving: None }).unwrap_err();
    assert!(matches!(error, InstallError::WrongBytes { .. }));
    let pack = place.store.finish(built.receive(&place.store, nackcast_common::ids::ObjectIndex(1))).unwrap();
    // Other bytes of the pack, and none at all.
    for offset in [1, 100] {
        let error = installer.stage(built.entry(b"b"), Source::Slice { pack: &pack, offset }).unwrap_err();
        assert!(matches!(error, InstallError::WrongBytes { .. }));
    }
    assert!(installer.commit().unwrap().is_empty());
    assert_eq!(std::fs::read(at(&place, b"a")).unwrap(), b"old");
    drop((installer, pack));
    place.store.retain(|_| false).unwrap();
    assert!(place.target.remove_part_directory().unwrap(), "no temporary stays");
}

#[test]
fn renamed_and_swapped_files_come_from_the_dataset() {
    let place = Place::new();
    let big = vec![3; 8000];
    let old = Dataset::default().file(b"a", b"1", 0o644).file(b"b", b"2", 0o644).file(b"old/name", &big, 0o644).build();
    place.install(&old, Policy::default());
    let facts = place.target.facts(&path(b"old/name")).unwrap().unwrap();
    let stamp = FileStamp::of(&facts, &Digest::of(&big));
    let new = Dataset::default().file(b"a", b"2", 0o600).file(b"b", b"1", 0o644).file(b"new", &big, 0o640).build();
    let mut installer = place.installer(Policy::default());
    installer.stage(new.entry(b"a"), Source::Local { from: &path(b"b"), leaving: None }).unwrap();
    installer.stage(new.entry(b"b"), Source::Local { from: &path(b"a"), leaving: None }).unwrap();
    installer.stage(new.entry(b"new"), Source::Local { from: &path(b"old/name"), leaving: Some(stamp) }).unwrap();
    for outcome in installer.commit().unwrap() {
        outcome.result.unwrap();
    }
    let read = |name: &[u8]| std::fs::read(at(&place, name)).unwrap();
    assert_eq!((read(b"a"), read(b"b"), read(b"new")), (b"2".to_vec(), b"1".to_vec(), big));
    assert_eq!(std::fs::metadata(at(&place, b"new")).unwrap().ino(), facts.inode, "renamed, not copied");
    let pruned = installer.prune(&[path(b"old/name")], &new.manifest).unwrap();
    assert_eq!(pruned.removed, [b"old".to_vec()]);
}

#[test]
fn a_stamp_that_no_longer_holds_makes_a_checked_copy() {
    let place = Place::new();
    let old = Dataset::default().file(b"old", b"right", 0o644).build();
    place.install(&old, Policy::default());
    let stamp = FileStamp::of(&place.target.facts(&path(b"old")).unwrap().unwrap(), &Digest::of(b"right"));
    std::fs::write(at(&place, b"old"), b"wrong").unwrap();
    let new = Dataset::default().file(b"new", b"right", 0o644).build();
    let mut installer = place.installer(Policy::default());
    let error =
        installer.stage(new.entry(b"new"), Source::Local { from: &path(b"old"), leaving: Some(stamp) }).unwrap_err();
    assert!(matches!(error, InstallError::WrongBytes { .. }));
}

#[test]
fn pruning_removes_what_left_and_nothing_else() {
    let place = Place::new();
    let built = Dataset::default()
        .file(b"gone/a", b"1", 0o644)
        .file(b"gone/b/c", b"2", 0o644)
        .symlink(b"gone/l", b"a")
        .file(b"kept/a", b"3", 0o644)
        .file(b"stays", b"4", 0o644)
        .directory(b"mixed", 0o755)
        .build();
    place.install(&built, Policy::default());
    std::fs::write(at(&place, b"mixed/user's own"), b"").unwrap();
    let now = Dataset::default().file(b"stays", b"4", 0o644).build().manifest;
    let paths: Vec<_> = built.manifest.entries().iter().map(|e| e.path.clone()).chain([path(b"never/was")]).collect();
    let pruned = place.installer(Policy::default()).prune(&paths, &now).unwrap();
    assert_eq!(pruned.kept, [(path(b"stays"), Kept::Wanted), (path(b"mixed"), Kept::NotEmpty)]);
    let mut left: Vec<_> = std::fs::read_dir(place.path()).unwrap().map(|e| e.unwrap().file_name()).collect();
    left.sort();
    assert_eq!(left, ["mixed", "stays"]);
}

#[test]
fn metadata_are_fixed_in_place_but_not_those_of_another_name() {
    let place = Place::new();
    let outside = tempfile::tempdir_in(place.path().parent().unwrap()).unwrap();
    let victim = outside.path().join("victim");
    let built = Dataset::default().file(b"a", b"x", 0o644).file(b"b", b"x", 0o644).symlink(b"l", b"a").build();
    place.install(&built, Policy::default());
    std::fs::hard_link(at(&place, b"b"), &victim).unwrap();
    for name in [b"a", b"b"] {
        set_mode(&at(&place, name), 0o000);
    }
    let mut installer = place.installer(Policy::default());
    for name in [b"a", b"b"] {
        let stamp = FileStamp::of(&place.target.facts(&path(name)).unwrap().unwrap(), &Digest::of(b"x"));
        let new = installer.fix_metadata(built.entry(name), Some(&stamp)).unwrap().unwrap();
        assert!(new.holds(&place.target.facts(&path(name)).unwrap().unwrap(), &Digest::of(b"x")));
        assert!(matches!(
            installer.fix_metadata(built.entry(name), Some(&stamp)),
            Err(InstallError::Interfered { .. })
        ));
    }
    installer.fix_metadata(built.entry(b"l"), None).unwrap();
    let mode = |path: &Path| std::fs::metadata(path).unwrap().mode() & 0o7777;
    assert_eq!((mode(&at(&place, b"a")), mode(&at(&place, b"b")), mode(&victim)), (0o644, 0o644, 0));
}
